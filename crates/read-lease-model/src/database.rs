//! The database: transactions, snapshots, registrations, and the run of the server.
//!
//! A snapshot is the set of the transaction ids that it has as seen. The model has one watched row,
//! the key. `revoked` and all sets of transactions are about this row.

use crate::Protocol;
use crate::config::{Failure, MOST_HOLDERS, MOST_TRANSACTIONS};
use crate::mutant::Mutant;
use crate::state::{State, event};

/// A set of transaction ids. Also a snapshot: the ids that it has as seen.
pub(crate) type Ids = u8;

/// The steps of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseStep {
    /// The transaction with this id commits. Ids are given at the first write, so a smaller id may
    /// commit later.
    Commit(u8),
    /// The transaction of a changer that has crashed is rolled back.
    RollBack(u8),
    /// An administrator disables the triggers, revokes the key, and enables the triggers, in one
    /// transaction. No change is recorded.
    ChangeUnrecorded,
    /// The recorded changes that every snapshot has as seen are deleted.
    Prune,
    /// Whatever commits from now on is not yet durable, or not yet on the standby.
    Detach,
    /// The commit of the transaction with this id reaches the standby, whether or not the primary
    /// shows it: the primary may wait for the standby first.
    CommitOnStandby(u8),
    /// The standby is promoted. The server run is a new one, and ids are given out again.
    FailOver,
    /// The server recovers from a crash. The run is the same, and ids are given out again.
    Recover,
}

/// What a transaction does to the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Changes another row, and records the change.
    #[default]
    Other,
    /// Revokes the key, and records the change.
    Revoke,
    /// Finds the key revoked, and records only a barrier.
    Barrier,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Outcome {
    #[default]
    None,
    Open,
    Committed,
    RolledBack,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transaction {
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
}

/// The registration of a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Registration {
    pub(crate) exists: bool,
    /// The snapshot whose changes the holder has applied, by its registration or its last renewal.
    pub(crate) applied: Ids,
    /// Whether the count of renewals differs from the count that the striker has seen.
    pub(crate) counted: bool,
    /// On a standby: whether the count of the primary's registration differs from this one.
    pub(crate) behind: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Database {
    /// The run of the server: `pg_postmaster_start_time()`.
    pub(crate) run: u8,
    pub(crate) transactions: [Transaction; MOST_TRANSACTIONS],
    pub(crate) next_id: u8,
    /// Whether the administrator's unrecorded change revoked the key. The triggers' fingerprint is
    /// then another one.
    pub(crate) unrecorded: bool,
    /// Recorded changes of smaller ids have been pruned.
    pub(crate) kept_from: u8,
    pub(crate) registrations: [Registration; MOST_HOLDERS],
    /// Whether this run is known to have registrations of all leases in force.
    pub(crate) settled: bool,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self {
            run: 0,
            transactions: [Transaction::default(); MOST_TRANSACTIONS],
            next_id: 0,
            unrecorded: false,
            kept_from: 0,
            registrations: [Registration::default(); MOST_HOLDERS],
            settled: true,
        }
    }

    fn ids(&self, accepts: impl Fn(Transaction) -> bool) -> Ids {
        let accepted = |&id: &usize| accepts(self.transactions[id]);
        (0..MOST_TRANSACTIONS).filter(accepted).fold(0, |ids, id| ids | 1 << id)
    }

    /// Returns the current snapshot.
    pub(crate) fn snapshot(&self) -> Ids {
        self.ids(|transaction| {
            matches!(transaction.outcome, Outcome::Committed | Outcome::RolledBack)
        })
    }

    pub(crate) fn open(&self) -> Ids {
        self.ids(|transaction| transaction.outcome == Outcome::Open)
    }

    /// Returns the committed ids that have a recorded change of the key.
    pub(crate) fn recorded(&self) -> Ids {
        let revoke = Transaction { kind: Kind::Revoke, outcome: Outcome::Committed };
        let kept = u8::MAX.checked_shl(self.kept_from.into()).unwrap_or(0);
        self.ids(|transaction| transaction == revoke) & kept
    }

    /// Returns the ids that have changed the key, or may yet commit a change of it.
    pub(crate) fn revocations(&self) -> Ids {
        self.ids(|transaction| {
            transaction.kind == Kind::Revoke && transaction.outcome != Outcome::RolledBack
        })
    }

    pub(crate) fn revoked(&self) -> bool {
        let revoke = Transaction { kind: Kind::Revoke, outcome: Outcome::Committed };
        self.unrecorded || self.transactions.contains(&revoke)
    }

    /// Returns whether a transaction has locked the row of the key.
    pub(crate) fn locked(&self) -> bool {
        let revoke = Transaction { kind: Kind::Revoke, outcome: Outcome::Open };
        self.transactions.contains(&revoke)
    }

    /// Gives the next id to a transaction, which begins to write.
    pub(crate) fn begin(&mut self, kind: Kind) -> u8 {
        let id = self.next_id;
        self.transactions[id as usize] = Transaction { kind, outcome: Outcome::Open };
        self.next_id += 1;
        id
    }
}

/// Returns the smallest id that a snapshot does not have as seen: `pg_snapshot_xmin`.
pub(crate) fn xmin(snapshot: Ids) -> u8 {
    snapshot.trailing_ones() as u8
}

/// Returns the ids up to the largest one in `ids`.
pub(crate) fn up_to_last(ids: Ids) -> Ids {
    u8::MAX.checked_shr(ids.leading_zeros()).unwrap_or(0)
}

impl Protocol {
    pub(crate) fn database_steps(&self, state: &State, steps: &mut Vec<DatabaseStep>) {
        let database = &state.database;
        for id in (0..database.next_id).filter(|id| database.open() & 1 << id != 0) {
            steps.push(DatabaseStep::Commit(id));
            if !state.changers.iter().any(|changer| changer.has_open(id)) {
                steps.push(DatabaseStep::RollBack(id));
            }
        }
        if self.has(Failure::Triggers) && !database.unrecorded && !database.locked() {
            steps.push(DatabaseStep::ChangeUnrecorded);
        }
        if self.has(Failure::Pruning) && database.kept_from < self.prunable(state) {
            steps.push(DatabaseStep::Prune);
        }
        match &state.standby {
            None if state.detached => {}
            None => {
                if self.has(Failure::Failover) || self.has(Failure::Recovery) {
                    steps.push(DatabaseStep::Detach);
                }
            }
            Some(standby) => {
                if self.has(Failure::Failover) {
                    let open = (0..standby.next_id).filter(|id| standby.open() & 1 << id != 0);
                    steps.extend(open.map(DatabaseStep::CommitOnStandby));
                }
                // A database that loses a revocation after its return breaks its own promise.
                let keeps = !state.returned || standby.revoked();
                if self.has(Failure::Failover) && keeps {
                    steps.push(DatabaseStep::FailOver);
                }
                if self.has(Failure::Recovery) {
                    steps.push(DatabaseStep::Recover);
                }
            }
        }
    }

    pub(crate) fn database_step(&self, state: &mut State, step: DatabaseStep) {
        match step {
            DatabaseStep::Commit(id) => {
                let transaction = &mut state.database.transactions[id as usize];
                transaction.outcome = Outcome::Committed;
                if transaction.kind != Kind::Other {
                    self.flush(state);
                }
                if state.database.snapshot() & !((1 << id) - 1) & !(1 << id) != 0 {
                    self.record(state, event::SMALLER_ID_LATER);
                }
                for changer in &mut state.changers {
                    changer.is_committed(id);
                }
            }
            DatabaseStep::RollBack(id) => {
                state.database.transactions[id as usize].outcome = Outcome::RolledBack;
            }
            DatabaseStep::ChangeUnrecorded => {
                state.database.unrecorded = true;
                self.flush(state);
            }
            DatabaseStep::Prune => {
                state.database.kept_from = self.prunable(state);
                self.flush(state);
            }
            DatabaseStep::Detach => {
                state.standby = Some(state.database);
                state.detached = true;
            }
            DatabaseStep::CommitOnStandby(id) => {
                if let Some(standby) = &mut state.standby {
                    standby.transactions[id as usize].outcome = Outcome::Committed;
                }
            }
            DatabaseStep::FailOver => {
                self.continue_from_standby(state);
                state.database.run += 1;
                state.database.settled = false;
                state.settler = false;
                state.time.end_wait_early(crate::clock::OF_SETTLER);
                self.record(state, event::FAILED_OVER);
            }
            DatabaseStep::Recover => {
                self.continue_from_standby(state);
                state.recovered = true;
                if self.omits(Mutant::WatchesAcrossSessions) {
                    return;
                }
                // The sessions of the watches have ended.
                self.stop_watching(state);
            }
        }
    }

    /// A synchronous commit makes every earlier commit durable. From then on, a recovery loses only
    /// what commits later.
    pub(crate) fn flush(&self, state: &mut State) {
        if self.has(Failure::Recovery) && !state.recovered {
            state.standby = None;
            state.detached = false;
        }
    }

    fn continue_from_standby(&self, state: &mut State) {
        let standby = state.standby.take().expect("a step of a detached standby");
        if standby.next_id < state.database.next_id {
            self.record(state, event::IDS_AGAIN);
        }
        state.database = standby;
        for transaction in &mut state.database.transactions {
            if transaction.outcome == Outcome::Open {
                transaction.outcome = Outcome::RolledBack;
            }
        }
        for registration in &mut state.database.registrations {
            registration.behind = false;
        }
        for holder in 0..self.config.holders {
            self.replace_session(state, holder);
        }
        for changer in &mut state.changers {
            changer.session_ends();
        }
    }

    /// Returns the first id to keep: never above what a registered holder has applied.
    fn prunable(&self, state: &State) -> u8 {
        let registrations = state.database.registrations.iter();
        let applied = registrations.filter(|registration| registration.exists);
        let applied = applied.map(|registration| xmin(registration.applied));
        applied.min().unwrap_or(u8::MAX).min(xmin(state.database.snapshot()))
    }
}
