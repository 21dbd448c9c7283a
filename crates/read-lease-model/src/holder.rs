//! A holder: it loads, registers, renews, and grants from the rows that it holds.
//!
//! A holder sends one statement at a time. Steps that no other process can observe are part of the
//! next step that another process observes. So a first load and a registration are one step each:
//! until its first renewal, a holder grants nothing. A renewal is applied and moves the deadline in
//! one step: a request that reads between the two reads the old deadline and the new rows, as does
//! a request that reads the deadline before the step and the row after it.
//!
//! A new process registers under a new id. The model drops the registration of a process that has
//! ended. Such a registration only makes changers wait, and a changer may wait without it. A
//! renewal that is executed after its session was given up is not modelled either: it writes an
//! older acknowledgement, and makes changers wait.
//!
//! With [`Config::cache`](crate::Config::cache), a load takes the base and empties the cache.
//! Misses then fill the cache, under leases of the cache.

use crate::Protocol;
use crate::clock::{LEASE, WALL_CLOCK_BEHIND};
use crate::config::Failure;
use crate::database::{Ids, Registration, up_to_last, xmin};
use crate::mutant::Mutant;
use crate::state::{State, event};

/// The steps of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderStep {
    /// The holder loads all rows, and holds them.
    Load,
    /// The holder reads the version of the file.
    ReadVersion,
    /// The holder reads all rows, after the version.
    ReadRows,
    /// The holder registers, and the commit returns.
    Register,
    /// The holder notes its clock, and sends a renewal.
    SendRenewal,
    /// The database takes the renewal's snapshot, and reads.
    ReadRenewal,
    /// The database writes the registration, and commits. Without split statements, it also reads.
    ExecuteRenewal,
    /// The database executes the renewal, and will execute it again.
    ExecuteTwice,
    /// Mutant only: the holder takes the answer of its last renewal for that of this one.
    ApplyFormerAnswer,
    /// The holder applies the answer, and moves its deadline to the noted time plus 0.8 T.
    ApplyRenewal,
    /// Mutant only: the holder moves its deadline, and will apply the answer later.
    MoveDeadline,
    /// The database executes a load on the holder's new session.
    ExecuteLoad,
    /// The holder replaces what it holds by what it has loaded.
    ApplyLoad,
    /// The answer is lost, or the statement fails.
    LoseAnswer,
    /// The session ends, and the holder notices.
    LoseSession,
    /// The process crashes, and another one starts.
    Crash,
    /// The holder gives its lease up, and deletes its registration.
    Leave,
    /// Mutant only: the database executes a deletion whose answer was lost.
    DeleteLate,
    /// The database executes a look: a renewal without a registration and without a lease.
    ExecuteLook,
    /// The holder applies the answer of the look.
    ApplyLook,
    /// A miss of the key takes a lease of the cache.
    Miss,
    /// The miss reads the key.
    ReadMissed,
    /// The miss stores the key in the cache.
    Remember,
    /// Mutant only: load, registration and lease in one transaction. The snapshot is taken.
    BeginLoadAndRegister,
    /// Mutant only: that transaction commits, and the holder begins to grant.
    CommitLoadAndRegister,
}

/// The session in which the base of the holder's snapshot was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Session {
    /// It still exists.
    #[default]
    Same,
    /// The next statement finds another session, and the holder does not know yet.
    Replaced,
    /// The base counts no more, and the holder knows it.
    Lost,
}

/// What the holder does with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Apply,
    LoadAgain,
    NotRegistered,
}

/// The answer of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Answer {
    snapshot: Ids,
    /// Whether a revocation of the key is among the changes.
    revokes: bool,
    verdict: Verdict,
}

/// The rows that a holder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Table {
    /// The snapshot whose changes are applied.
    pub(crate) base: Ids,
    /// Whether the key is among the rows.
    pub(crate) key: bool,
    /// Whether the triggers had their second fingerprint.
    fingerprint: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Statement {
    #[default]
    None,
    Sent,
    Read(Answer),
    Answered(Answer),
    Loaded(Table),
    /// The version was read. Mutant only: or the rows.
    Loading(Table),
    /// The answer of a look. The second part is whether the look has seen the key.
    Looked(Answer, bool),
    /// Mutant only: the deadline was moved, and the answer is not applied yet.
    Moved(Answer),
    /// Mutant only: load, registration and lease in one transaction.
    Registering(Table),
}

/// A miss of the key, in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Missed {
    #[default]
    None,
    /// The miss has a lease of the cache. An invalidation ends the lease.
    Leased,
    /// The miss has read the key, which was not revoked.
    HasKey,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Holder {
    pub(crate) exists: bool,
    pub(crate) table: Option<Table>,
    pub(crate) session: Session,
    /// Whether the commit of the registration has returned.
    registered: bool,
    pub(crate) statement: Statement,
    missed: Missed,
    /// Whether the holder has had a lease. Only prompt runs record it.
    pub(crate) had_lease: bool,
    /// Mutant only: the answer of the last renewal.
    former: Option<Answer>,
    /// Mutant only: a deletion of the registration is on its way.
    deleting: bool,
}

impl Holder {
    pub(crate) fn starting() -> Self {
        Self { exists: true, ..Self::default() }
    }

    /// Returns whether the holder holds the key, or may yet hold it by an answer on its way.
    pub(crate) fn may_hold_key(&self) -> bool {
        let loaded = match self.statement {
            Statement::Loading(table)
            | Statement::Loaded(table)
            | Statement::Registering(table) => table.key,
            _ => false,
        };
        loaded || self.holds_key() || self.missed == Missed::HasKey
    }

    /// Returns whether a look that is on its way has seen the key.
    pub(crate) fn look_has_seen_key(&self) -> bool {
        matches!(self.statement, Statement::Looked(_, true))
    }

    /// Clears the ids that no later step compares. The ids of revocations matter only to a table
    /// with the key.
    pub(crate) fn forget_ids(&mut self, acknowledged: Ids, compared: Ids) {
        let missed = self.missed != Missed::None;
        let holds = self.holds_key();
        let forget = |table: &mut Table| {
            table.base &= if table.key || missed { compared } else { acknowledged };
        };
        if let Some(table) = &mut self.table {
            forget(table);
        }
        match &mut self.statement {
            Statement::None | Statement::Sent => {}
            Statement::Loading(table)
            | Statement::Loaded(table)
            | Statement::Registering(table) => forget(table),
            Statement::Read(answer)
            | Statement::Answered(answer)
            | Statement::Looked(answer, _)
            | Statement::Moved(answer) => {
                let holds = !answer.revokes && (holds || missed);
                answer.snapshot &= if holds { compared } else { acknowledged };
                if answer.verdict != Verdict::Apply {
                    *answer = Answer { snapshot: 0, revokes: false, ..*answer };
                }
            }
        }
    }

    pub(crate) fn holds_key(&self) -> bool {
        self.table.is_some_and(|table| table.key)
    }
}

impl Protocol {
    pub(crate) fn holder_steps(&self, state: &State, number: usize, steps: &mut Vec<HolderStep>) {
        let holder = &state.holders[number];
        match holder.statement {
            Statement::None => self.idle_steps(state, number, steps),
            Statement::Sent if self.config.split => steps.push(HolderStep::ReadRenewal),
            Statement::Sent | Statement::Read(_) => steps.push(HolderStep::ExecuteRenewal),
            Statement::Answered(answer) => {
                let early = self.omits(Mutant::MovesBeforeApplying);
                let moves = early && answer.verdict == Verdict::Apply;
                steps.push(if moves { HolderStep::MoveDeadline } else { HolderStep::ApplyRenewal });
            }
            Statement::Moved(_) => steps.push(HolderStep::ApplyRenewal),
            Statement::Loading(_) => steps.push(HolderStep::ReadRows),
            Statement::Loaded(_) => steps.push(HolderStep::ApplyLoad),
            Statement::Looked(..) => steps.push(HolderStep::ApplyLook),
            Statement::Registering(_) => steps.push(HolderStep::CommitLoadAndRegister),
        }
        if holder.statement == Statement::Sent && self.has(Failure::Doubles) {
            steps.push(HolderStep::ExecuteTwice);
        }
        if holder.statement == Statement::Sent && holder.former.is_some() {
            steps.push(HolderStep::ApplyFormerAnswer);
        }
        let waits = !matches!(holder.statement, Statement::None | Statement::Moved(_));
        if waits && self.has(Failure::Answers) {
            steps.push(HolderStep::LoseAnswer);
        }
        if self.has(Failure::Sessions) && holder.table.is_some() && holder.session != Session::Lost
        {
            steps.push(HolderStep::LoseSession);
        }
        if self.has(Failure::Holders) && *holder != Holder::starting() {
            steps.push(HolderStep::Crash);
        }
        if self.config.cache {
            self.miss_steps(holder, steps);
        }
        if holder.deleting {
            steps.push(HolderStep::DeleteLate);
        }
    }

    fn idle_steps(&self, state: &State, number: usize, steps: &mut Vec<HolderStep>) {
        let holder = &state.holders[number];
        let registered = holder.registered || !self.config.acknowledgements;
        if self.config.polls && (holder.table.is_none() || holder.session == Session::Lost) {
            steps.push(HolderStep::ReadVersion);
        } else if holder.table.is_none() {
            let at_once = self.omits(Mutant::LoadsAndRegistersAtOnce);
            let step = if at_once { HolderStep::BeginLoadAndRegister } else { HolderStep::Load };
            steps.push(step);
        } else if holder.session == Session::Lost {
            steps.push(HolderStep::ExecuteLoad);
        } else if registered {
            if !self.config.prompt || state.time.ticks_left(number) <= LEASE / 2 {
                steps.push(HolderStep::SendRenewal);
            }
        } else {
            steps.push(HolderStep::Register);
        }
        if self.config.looks && holder.table.is_some() && holder.session != Session::Lost {
            steps.push(HolderStep::ExecuteLook);
        }
        if self.has(Failure::Leaves) && holder.registered {
            steps.push(HolderStep::Leave);
        }
    }

    fn miss_steps(&self, holder: &Holder, steps: &mut Vec<HolderStep>) {
        match holder.missed {
            Missed::None => {
                // Before the load, a miss can only be superseded by the load.
                let useful = holder.table.is_some() || self.omits(Mutant::InvalidatesBeforeBase);
                if useful && !holder.holds_key() {
                    steps.push(HolderStep::Miss);
                }
            }
            Missed::Leased => steps.push(HolderStep::ReadMissed),
            Missed::HasKey => steps.push(HolderStep::Remember),
        }
    }

    pub(crate) fn holder_step(&self, state: &mut State, number: usize, step: HolderStep) {
        match step {
            HolderStep::Load => {
                state.holders[number].table = Some(self.loaded(state));
                self.invalidate_for_base(state, number);
                state.holders[number].session = Session::Same;
            }
            HolderStep::ReadVersion => {
                let loaded = self.loaded(state);
                let rows_first = self.omits(Mutant::ReadsRowsBeforeVersion);
                let table = if rows_first { loaded } else { Table { key: false, ..loaded } };
                state.holders[number].statement = Statement::Loading(table);
                state.holders[number].session = Session::Same;
            }
            HolderStep::ReadRows => {
                let Statement::Loading(first) = state.holders[number].statement else { return };
                let second = self.loaded(state);
                let rows_first = self.omits(Mutant::ReadsRowsBeforeVersion);
                let (version, rows) = if rows_first { (second, first) } else { (first, second) };
                let table = Table { base: version.base, ..rows };
                state.holders[number].statement = Statement::Loaded(table);
            }
            HolderStep::Register => self.register(state, number),
            HolderStep::SendRenewal => {
                let lease = if self.omits(Mutant::NoAllowance) { LEASE + 1 } else { LEASE };
                state.time.note(number, lease);
                state.holders[number].statement = Statement::Sent;
            }
            HolderStep::ReadRenewal => {
                let answer = self.read_renewal(state, number);
                state.holders[number].statement = Statement::Read(answer);
            }
            HolderStep::ExecuteRenewal => self.execute_renewal(state, number),
            HolderStep::ExecuteTwice => {
                let answer = self.read_renewal(state, number);
                self.write_renewal(state, number, answer);
            }
            HolderStep::ApplyFormerAnswer => {
                let Some(answer) = state.holders[number].former else { return };
                state.holders[number].statement = Statement::Answered(answer);
                self.apply_renewal(state, number);
            }
            HolderStep::ApplyRenewal => self.apply_renewal(state, number),
            HolderStep::MoveDeadline => {
                let Statement::Answered(answer) = state.holders[number].statement else { return };
                self.move_deadline(state, number);
                state.holders[number].statement = Statement::Moved(answer);
            }
            HolderStep::ExecuteLoad => {
                state.holders[number].statement = Statement::Loaded(self.loaded(state));
                state.holders[number].session = Session::Same;
            }
            HolderStep::ApplyLoad => {
                let Statement::Loaded(table) = state.holders[number].statement else { return };
                state.holders[number].table = Some(table);
                self.invalidate_for_base(state, number);
                state.holders[number].statement = Statement::None;
                self.record(state, event::LOADED_AGAIN);
            }
            HolderStep::LoseAnswer => {
                let holder = &mut state.holders[number];
                let loads =
                    matches!(holder.statement, Statement::Loading(_) | Statement::Loaded(_));
                let renews = !loads && !matches!(holder.statement, Statement::Looked(..));
                if loads {
                    holder.session = Session::Lost;
                }
                holder.statement = Statement::None;
                if renews && self.omits(Mutant::LostAnswerMovesDeadline) {
                    state.time.move_deadline(number);
                }
                state.time.forget_noted(number);
            }
            HolderStep::LoseSession => {
                let holder = &mut state.holders[number];
                holder.session = Session::Lost;
                holder.statement = Statement::None;
                state.time.forget_noted(number);
                if self.omits(Mutant::RegistrationEndsWithSession) {
                    state.database.registrations[number] = Registration::default();
                    state.holders[number].registered = false;
                }
            }
            HolderStep::Crash => forget(state, number),
            HolderStep::Leave => self.leave(state, number),
            HolderStep::ExecuteLook => {
                let answer = self.read_renewal(state, number);
                let key = self.omits(Mutant::JoinsEarlierLook) && !state.database.revoked();
                state.holders[number].statement = Statement::Looked(answer, key);
            }
            HolderStep::ApplyLook => {
                let Statement::Looked(answer, _) = state.holders[number].statement else { return };
                state.holders[number].statement = Statement::None;
                match answer.verdict {
                    Verdict::Apply => self.apply(state, number, answer),
                    _ => state.holders[number].session = Session::Lost,
                }
            }
            HolderStep::Miss => state.holders[number].missed = Missed::Leased,
            HolderStep::ReadMissed => {
                let revoked = state.database.revoked();
                state.holders[number].missed = if revoked { Missed::None } else { Missed::HasKey };
            }
            HolderStep::Remember => {
                let holder = &mut state.holders[number];
                holder.missed = Missed::None;
                if let Some(table) = &mut holder.table {
                    table.key = true;
                }
            }
            HolderStep::DeleteLate => {
                state.holders[number].deleting = false;
                state.database.registrations[number] = Registration::default();
            }
            HolderStep::BeginLoadAndRegister => {
                state.time.note(number, LEASE);
                state.holders[number].statement = Statement::Registering(self.loaded(state));
            }
            HolderStep::CommitLoadAndRegister => {
                let Statement::Registering(table) = state.holders[number].statement else { return };
                let holder = &mut state.holders[number];
                holder.table = Some(table);
                holder.session = Session::Same;
                holder.statement = Statement::None;
                self.register(state, number);
                state.time.move_deadline(number);
            }
        }
    }

    /// Returns what a load reads. A cache is empty then.
    fn loaded(&self, state: &State) -> Table {
        let database = &state.database;
        Table {
            base: database.snapshot(),
            key: !database.revoked() && !self.config.cache,
            fingerprint: database.unrecorded,
        }
    }

    /// The holder has its base, and invalidates the cache: no earlier lease stores anything.
    fn invalidate_for_base(&self, state: &mut State, number: usize) {
        let ignored = [Mutant::InvalidatesBeforeBase, Mutant::RemembersWithoutLease];
        if !ignored.iter().any(|&mutant| self.omits(mutant)) {
            state.holders[number].missed = Missed::None;
        }
    }

    /// Registers with the applied snapshot, if the session of this snapshot still exists.
    fn register(&self, state: &mut State, number: usize) {
        let Holder { table, session, .. } = state.holders[number];
        if session != Session::Same && !self.omits(Mutant::RegistersInAnySession) {
            state.holders[number].session = Session::Lost;
            return;
        }
        let applied = table.map_or(0, |table| table.base);
        state.database.registrations[number] =
            Registration { exists: true, applied, ..Registration::default() };
        if state.striker == Some(number as u8) {
            self.stop_watching(state);
        }
        state.holders[number].registered = true;
        if !self.omits(Mutant::RegistersAsynchronously) {
            self.flush(state);
        }
    }

    fn leave(&self, state: &mut State, number: usize) {
        self.flush(state);
        if self.omits(Mutant::LeavesBeforeGivingUp) {
            state.database.registrations[number] = Registration::default();
            state.holders[number].registered = false;
            return;
        }
        forget(state, number);
        state.holders[number].deleting = self.omits(Mutant::SharesRegistrationId);
    }

    /// Returns what the renewal reads: the difference between its snapshot and the holder's base.
    fn read_renewal(&self, state: &State, number: usize) -> Answer {
        let Holder { table, session, .. } = state.holders[number];
        let table = table.expect("a holder that renews holds rows");
        let database = &state.database;
        if self.config.polls {
            return self.poll(state, table);
        }
        let seen =
            if self.omits(Mutant::GreaterThanLast) { up_to_last(table.base) } else { table.base };
        let snapshot = database.snapshot();
        let revokes = database.recorded() & snapshot & !seen != 0;
        let same_session = session == Session::Same || self.omits(Mutant::IgnoresSession);
        let complete = database.kept_from <= xmin(table.base) || self.omits(Mutant::IgnoresPruning);
        let same_triggers =
            table.fingerprint == database.unrecorded || self.omits(Mutant::IgnoresFingerprint);
        let counts = same_session && complete && same_triggers;
        let verdict = if counts { Verdict::Apply } else { Verdict::LoadAgain };
        Answer { snapshot, revokes, verdict }
    }

    /// Returns what a poll finds: whether the version is that of the held rows.
    fn poll(&self, state: &State, table: Table) -> Answer {
        let in_transaction = self.omits(Mutant::PollsInTransaction);
        let snapshot = if in_transaction { table.base } else { state.database.snapshot() };
        let same = snapshot == table.base;
        let verdict = if same { Verdict::Apply } else { Verdict::LoadAgain };
        Answer { snapshot, revokes: false, verdict }
    }

    fn execute_renewal(&self, state: &mut State, number: usize) {
        let answer = match state.holders[number].statement {
            Statement::Read(answer) => answer,
            _ => self.read_renewal(state, number),
        };
        let answer = self.write_renewal(state, number, answer);
        if self.omits(Mutant::ComparesWallClocks) {
            state.time.note(number, LEASE + WALL_CLOCK_BEHIND);
        }
        state.holders[number].statement = Statement::Answered(answer);
    }

    /// Writes the registration, if the protocol has registrations, and returns the answer.
    fn write_renewal(&self, state: &mut State, number: usize, answer: Answer) -> Answer {
        let Holder { table, session, .. } = state.holders[number];
        let registration = &mut state.database.registrations[number];
        if !self.config.acknowledgements {
            return answer;
        }
        if !registration.exists {
            if self.omits(Mutant::StruckOffContinues) {
                return answer;
            }
            return Answer { verdict: Verdict::NotRegistered, ..answer };
        }
        let any_session = [Mutant::AcknowledgesInAnySession, Mutant::IgnoresSession];
        let same_session =
            session == Session::Same || any_session.map(|m| self.omits(m)).contains(&true);
        if same_session && !self.omits(Mutant::RenewalsWriteNothing) {
            let at_once = self.omits(Mutant::AcknowledgesAtOnce);
            let base = table.map_or(0, |table| table.base);
            registration.applied = if at_once { answer.snapshot } else { base };
            registration.counted = true;
            if let Some(standby) = &mut state.standby {
                standby.registrations[number].behind = true;
            }
        }
        answer
    }

    fn apply_renewal(&self, state: &mut State, number: usize) {
        let (answer, moved) = match state.holders[number].statement {
            Statement::Answered(answer) => (answer, false),
            Statement::Moved(answer) => (answer, true),
            _ => return,
        };
        state.holders[number].statement = Statement::None;
        match answer.verdict {
            Verdict::Apply => {
                self.apply(state, number, answer);
                let former = self.omits(Mutant::TakesDoubledAnswer).then_some(answer);
                state.holders[number].former = former;
                if !moved {
                    self.move_deadline(state, number);
                }
            }
            Verdict::LoadAgain => {
                state.holders[number].session = Session::Lost;
                state.time.forget_noted(number);
            }
            Verdict::NotRegistered => {
                forget(state, number);
                self.record(state, event::FORGOT);
            }
        }
    }

    /// Applies the changes of an answer to what is held.
    fn apply(&self, state: &mut State, number: usize, answer: Answer) {
        let holder = &mut state.holders[number];
        if let Some(table) = &mut holder.table {
            table.base = answer.snapshot;
            table.key &= !answer.revokes;
        }
        if answer.revokes && !self.omits(Mutant::RemembersWithoutLease) {
            holder.missed = Missed::None;
        }
    }

    fn move_deadline(&self, state: &mut State, number: usize) {
        if self.omits(Mutant::DeadlineFromAnswer) {
            state.time.note(number, LEASE);
        }
        state.time.move_deadline(number);
        state.holders[number].had_lease = self.config.prompt;
    }

    /// The server's end of the session is gone.
    pub(crate) fn replace_session(&self, state: &mut State, number: usize) {
        let holder = &mut state.holders[number];
        if matches!(holder.statement, Statement::Read(_)) {
            holder.statement = Statement::None;
            state.time.forget_noted(number);
        }
        if holder.table.is_some() && holder.session == Session::Same {
            holder.session = Session::Replaced;
        }
    }
}

/// The holder gives its lease up, and forgets everything. Its next registration has a new id.
fn forget(state: &mut State, number: usize) {
    state.database.registrations[number] = Registration::default();
    if let Some(standby) = &mut state.standby {
        standby.registrations[number] = Registration::default();
    }
    let deleting = state.holders[number].deleting;
    state.holders[number] = Holder { deleting, ..Holder::starting() };
    state.time.give_up(number);
    state.time.forget_noted(number);
}
