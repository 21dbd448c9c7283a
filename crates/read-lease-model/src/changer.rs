//! A changer: it commits a change with a barrier, and returns when no lease can contradict it.
//!
//! A changer reads the registrations and returns in one step. To return later would only let fewer
//! requests begin afterwards. With [`Clocks::Order`](crate::Clocks::Order), the end of its wait is
//! part of this step, too.
//!
//! A changer of another row has finished when its commit returns: from then on it would only read.

use crate::Protocol;
use crate::clock::swap_bits;
use crate::config::{Failure, MOST_TRANSACTIONS};
use crate::database::Kind;
use crate::mutant::Mutant;
use crate::state::{State, event};

/// The steps of a changer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangerStep {
    /// The changer begins the transaction with this id. It changes the row, or finds nothing to
    /// change.
    Begin(u8),
    /// The commit returns, and the changer begins to wait T on its clock.
    CommitReturns,
    /// Every registered holder has acknowledged the barrier: the revocation returns.
    ReturnAcknowledged,
    /// T has passed: the revocation returns.
    ReturnAfterWait,
    /// The changer crashes, loses its session, or finds another run of the server. If attempts are
    /// left, it will make the whole revocation again.
    StartOver,
    /// Mutant only: the changer loses its session, and begins to wait T.
    LoseSession,
    /// Mutant only: T has passed, and the key is revoked.
    ReadAfterWait,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    #[default]
    Idle,
    /// The transaction is open, and its commit may be on the way.
    Open(u8),
    /// The transaction has committed, and the answer is on its way.
    Committed(u8),
    /// The changer waits for acknowledgements of its barrier, or for T.
    Waiting(u8),
    /// Mutant only: the session is lost, and the changer waits T.
    Uncertain,
    Finished,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Target {
    #[default]
    None,
    Key,
    OtherRow,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Changer {
    target: Target,
    at: At,
    /// The attempts that are left.
    left: u8,
    /// The run of the server in which the changer's session began.
    run: u8,
    /// Mutant only: the holders that were registered before the commit, as a set.
    listed: u8,
}

impl Changer {
    pub(crate) fn of_key(attempts: u8) -> Self {
        Self { target: Target::Key, left: attempts, ..Self::default() }
    }

    pub(crate) fn of_other_row() -> Self {
        Self { target: Target::OtherRow, left: 1, ..Self::default() }
    }

    pub(crate) fn revokes(&self) -> bool {
        self.target == Target::Key
    }

    /// Returns whether the changer may still return from a revocation of the key.
    pub(crate) fn may_return(&self) -> bool {
        self.revokes() && self.at != At::Finished && (self.at != At::Idle || self.left > 0)
    }

    pub(crate) fn has_open(&self, id: u8) -> bool {
        self.at == At::Open(id)
    }

    /// Returns the id whose acknowledgements the changer reads, or will read.
    pub(crate) fn reads_acknowledgements_of(&self) -> Option<u8> {
        match self.at {
            At::Open(id) | At::Committed(id) | At::Waiting(id) => Some(id),
            _ => None,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.at, At::Waiting(_))
    }

    /// The database has committed the transaction, and sends the answer.
    pub(crate) fn is_committed(&mut self, id: u8) {
        if self.has_open(id) {
            self.at = At::Committed(id);
        }
    }

    /// The server's end of the session is gone. An answer that is on its way still arrives.
    pub(crate) fn session_ends(&mut self) {
        if matches!(self.at, At::Open(_)) {
            self.at = At::Idle;
        }
    }

    /// Clears what no later step reads.
    pub(crate) fn normalize(&mut self) {
        if self.at == At::Idle && self.left == 0 {
            self.at = At::Finished;
        }
        if matches!(self.at, At::Idle | At::Uncertain | At::Finished) {
            self.run = 0;
            self.listed = 0;
        }
    }

    /// No later step matters.
    pub(crate) fn forget(&mut self) {
        *self = Self { target: self.target, at: At::Finished, ..Self::default() };
    }

    pub(crate) fn swap_holders(&mut self, one: usize, other: usize) {
        self.listed = swap_bits(self.listed, one, other);
    }
}

impl Protocol {
    pub(crate) fn changer_steps(&self, state: &State, number: usize, steps: &mut Vec<ChangerStep>) {
        let changer = &state.changers[number];
        match changer.at {
            At::Idle => {
                let locked = changer.revokes() && state.database.locked();
                let room = usize::from(state.database.next_id) < MOST_TRANSACTIONS;
                if changer.left > 0 && !locked && room {
                    steps.push(ChangerStep::Begin(state.database.next_id));
                }
                return;
            }
            At::Finished => return,
            At::Open(_) => {}
            At::Committed(_) => steps.push(ChangerStep::CommitReturns),
            At::Waiting(_) => self.return_steps(state, number, steps),
            At::Uncertain => {
                if state.time.may_have_passed(number) && state.database.revoked() {
                    steps.push(ChangerStep::ReadAfterWait);
                }
                return;
            }
        }
        let other_run = changer.run != state.database.run && changer.is_waiting();
        if changer.revokes() && (self.has(Failure::Changers) || other_run) {
            let waits = self.omits(Mutant::WaitsThenReads);
            steps.push(if waits { ChangerStep::LoseSession } else { ChangerStep::StartOver });
        }
    }

    fn return_steps(&self, state: &State, number: usize, steps: &mut Vec<ChangerStep>) {
        let changer = &state.changers[number];
        let any_run = self.omits(Mutant::ReadsAcknowledgementsInAnyRun);
        if changer.run != state.database.run && !any_run {
            return;
        }
        if state.time.may_have_passed(number) {
            steps.push(ChangerStep::ReturnAfterWait);
        }
        if self.is_acknowledged(state, changer) {
            steps.push(ChangerStep::ReturnAcknowledged);
        }
    }

    /// Returns whether the changer need not wait T.
    fn is_acknowledged(&self, state: &State, changer: &Changer) -> bool {
        if self.omits(Mutant::NeverWaits) {
            return true;
        }
        let At::Waiting(id) = changer.at else { return false };
        let without_effect = state.database.transactions[id as usize].kind == Kind::Barrier;
        let unwaited = [Mutant::ReturnsIfNothingChanged, Mutant::NoBarrier];
        if without_effect && unwaited.iter().any(|&mutant| self.omits(mutant)) {
            return true;
        }
        if !self.config.acknowledgements {
            return false;
        }
        let settled = state.database.settled || self.omits(Mutant::IgnoresServerRun);
        let registrations = state.database.registrations.iter().enumerate();
        settled
            && registrations.filter(|(_, registration)| registration.exists).all(
                |(holder, registration)| {
                    let early = self.omits(Mutant::ListsHoldersBeforeCommit);
                    let unlisted = early && changer.listed & 1 << holder == 0;
                    unlisted || self.seen(registration.applied) & 1 << id != 0
                },
            )
    }

    pub(crate) fn changer_step(&self, state: &mut State, number: usize, step: ChangerStep) {
        let clocks = self.config.clocks;
        match step {
            ChangerStep::Begin(_) => self.begin(state, number),
            ChangerStep::CommitReturns => {
                let changer = &mut state.changers[number];
                let At::Committed(id) = changer.at else { return };
                let strikes_off = self.omits(Mutant::ReturningStrikesOff);
                if changer.revokes() || strikes_off {
                    changer.at = At::Waiting(id);
                    state.time.begin_wait(number, clocks);
                } else {
                    changer.at = At::Finished;
                }
            }
            ChangerStep::ReturnAcknowledged => {
                state.time.end_wait_early(number);
                self.record(state, event::ACKNOWLEDGED);
                finish(state, number);
            }
            ChangerStep::ReturnAfterWait | ChangerStep::ReadAfterWait => {
                state.time.end_wait(number, clocks);
                self.record(state, event::WAITED);
                if self.omits(Mutant::ReturningStrikesOff) {
                    self.strike_off_silent(state, number);
                }
                finish(state, number);
            }
            ChangerStep::StartOver => {
                state.changers[number].at = At::Idle;
                state.time.end_wait_early(number);
            }
            ChangerStep::LoseSession => {
                state.changers[number].at = At::Uncertain;
                state.time.begin_wait(number, clocks);
            }
        }
    }

    fn begin(&self, state: &mut State, number: usize) {
        let revoked = state.database.revoked();
        let kind = match state.changers[number].target {
            Target::Key if revoked => Kind::Barrier,
            Target::Key => Kind::Revoke,
            _ => Kind::Other,
        };
        if kind == Kind::Barrier {
            self.record(state, event::NOTHING_TO_CHANGE);
        }
        let id = state.database.begin(kind);
        let changer = &mut state.changers[number];
        changer.at = At::Open(id);
        changer.left -= 1;
        changer.run = state.database.run;
        if self.omits(Mutant::ListsHoldersBeforeCommit) {
            let registrations = state.database.registrations.iter().enumerate();
            changer.listed = registrations
                .filter(|(_, registration)| registration.exists)
                .fold(0, |set, (holder, _)| set | 1 << holder);
        }
    }

    /// Mutant only: deletes the registrations that have not acknowledged the changer's barrier.
    fn strike_off_silent(&self, state: &mut State, number: usize) {
        let At::Waiting(id) = state.changers[number].at else { return };
        for registration in &mut state.database.registrations {
            if registration.applied & 1 << id == 0 {
                *registration = Default::default();
            }
        }
    }
}

fn finish(state: &mut State, number: usize) {
    state.changers[number].at = At::Finished;
    state.returned |= state.changers[number].revokes();
}
