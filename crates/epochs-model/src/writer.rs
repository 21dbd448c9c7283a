//! The writer's side: `Limbo::collect`, `Grace::start`, `horizon`, and `Fence::make`.
//!
//! # Steps that are merged
//!
//! * *Unlinking, pushing to `retired`, taking that list, and the start of the grace period are one
//!   step* of the writer that takes the list. A later unlinking, just before the start, leaves
//!   readers more time to load the object and changes nothing else. A writer whose bucket another
//!   writer takes equals a writer with one operation less.
//! * *A load and the compare-exchange of the loaded value are one step.* If the exchange succeeds,
//!   the load would return the same value at the time of the exchange. If the exchange fails,
//!   another thread has written in between. Then the step is as if made just before or just after
//!   that write: one of the two leaves the same memory.
//! * *A barrier reaches a thread as soon as the thread's buffer is empty*, at some time after the
//!   barrier has begun. A later time would only delay the writer.
//! * *The exchange of a missing mark is not a step.* Only one writer puts this mark, and it has put
//!   all its marks by then. So the exchange would fail at any time.
//! * *The reading of a horizon ends when no batch in hand can be over.* Further records can only
//!   lower the horizon.
//!
//! # What is left open
//!
//! The load of `pinned` in `horizon`, `wants_fence` and `stalled_at` are hints. In the model, a
//! writer may make the fence for any batch in hand that is not over, or make no fence. It may also
//! skip any pass. So the model contains the executions of every such hint.

use crate::state::{
    DETACHED, FIRST, Fault, NEVER, Reader, ReaderAt, State, UNPINNED, Writer, WriterAt, event,
};
use crate::{Action, Bug, Protocol};

/// A step of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterStep {
    /// Starts a grace period for a new batch that no reader uses.
    Start,
    /// Unlinks the object, which this reader uses, and starts a grace period for it.
    StartForObject(u8),
    /// Planted bug only: unlinks the object, which this reader uses, after the start.
    Unlink(u8),
    /// Planted bug only: unlinks nothing after the start.
    UnlinkNothing,
    /// Takes the waiting batches.
    TakeWaiting,
    /// Planted bug only: empties the list that it has loaded.
    EmptyWaiting,
    /// Skips the pass, and puts the new batch to the waiting batches.
    SkipLook,
    /// Loads the head of the list of records.
    LoadList,
    /// Loads a record's `seen`.
    LoadSeen,
    /// Puts the mark of the grace period of this batch on the first record, and makes the fence.
    BeginFence(u8),
    /// Puts the mark on the next record.
    Mark,
    /// The kernel refuses the barrier.
    Refused,
    /// Loads a record's `pinned` after the barrier.
    LoadPinned,
    /// Exchanges its mark for `DETACHED`.
    Confirm,
    /// Planted bug only: stores `DETACHED`.
    Overwrite,
    /// Puts the remaining batches to the waiting batches.
    Append,
    /// Planted bug only: the writer's store of the epoch reaches memory.
    Drain,
}

/// The parts of a collection before its first verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Unlink,
    Take,
    Horizon,
}

impl Protocol {
    fn stages(&self) -> &'static [Stage] {
        match self.config.bug {
            Some(Bug::StartsBeforeUnlinking) => {
                &[Stage::Start, Stage::Unlink, Stage::Take, Stage::Horizon]
            }
            Some(Bug::NewestByEarlierHorizon) => &[Stage::Take, Stage::Horizon, Stage::Start],
            Some(Bug::WaitingByEarlierHorizon) => &[Stage::Horizon, Stage::Start, Stage::Take],
            _ => &[Stage::Start, Stage::Take, Stage::Horizon],
        }
    }

    pub(crate) fn writer_steps(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let writer = &state.writers[number];
        let mut offer = |step| actions.push(Action::Writer(number as u8, step));
        if writer.buffer != 0 {
            // Every other step of a writer in `collect` is a read-modify-write, or follows one.
            return offer(WriterStep::Drain);
        }
        match writer.at {
            WriterAt::Stage(_) if writer.finished as usize == self.config.operations => {}
            WriterAt::Stage(stage) => match self.stages()[stage as usize] {
                Stage::Start => {
                    offer(WriterStep::Start);
                    if !self.has(Bug::StartsBeforeUnlinking) {
                        users(state).for_each(|user| offer(WriterStep::StartForObject(user)));
                    }
                }
                Stage::Unlink => {
                    offer(WriterStep::UnlinkNothing);
                    users(state).for_each(|user| offer(WriterStep::Unlink(user)));
                }
                Stage::Take => {
                    offer(WriterStep::TakeWaiting);
                    if writer.hand == 1 << writer.newest {
                        offer(WriterStep::SkipLook);
                    }
                }
                Stage::Horizon if self.list_grows(state) => offer(WriterStep::LoadList),
                Stage::Horizon => offer(WriterStep::LoadSeen),
            },
            WriterAt::ListForMarks => offer(WriterStep::LoadList),
            WriterAt::Horizon(_) => offer(WriterStep::LoadSeen),
            WriterAt::Decide => {
                offer(WriterStep::Append);
                set(writer.hand).for_each(|batch| offer(WriterStep::BeginFence(batch)));
            }
            WriterAt::Mark(_) => offer(WriterStep::Mark),
            WriterAt::Barrier => {
                if self.config.refusals {
                    offer(WriterStep::Refused);
                }
                if writer.reached == self.all_readers() {
                    let list = self.list_grows(state);
                    offer(if list { WriterStep::LoadList } else { WriterStep::LoadPinned });
                }
            }
            WriterAt::Check(_) => offer(WriterStep::LoadPinned),
            WriterAt::Confirm(_) => offer(WriterStep::Confirm),
            WriterAt::Overwrite(_) => offer(WriterStep::Overwrite),
            WriterAt::Append => offer(WriterStep::Append),
            WriterAt::EmptyWaiting => offer(WriterStep::EmptyWaiting),
        }
    }

    pub(crate) fn writer_step(&self, state: &mut State, number: usize, step: WriterStep) {
        if let WriterStep::StartForObject(user) = step {
            unlink(state, user, state.started);
        }
        let writer = &mut state.writers[number];
        match step {
            WriterStep::Start | WriterStep::StartForObject(_) => {
                let newest = state.started;
                state.started += 1;
                writer.newest = newest;
                writer.hand |= 1 << newest;
                state.grace[newest as usize] = state.epoch;
                match self.config.bug {
                    Some(Bug::EpochStandsStill) => {}
                    Some(Bug::EpochByStore) => writer.buffer = state.epoch + 1,
                    _ => state.epoch += 1,
                }
                self.finish_stage(state, number, Stage::Start);
            }
            WriterStep::Unlink(user) => {
                let batch = writer.newest;
                unlink(state, user, batch);
                self.finish_stage(state, number, Stage::Unlink);
            }
            WriterStep::UnlinkNothing => {
                self.finish_stage(state, number, Stage::Unlink);
            }
            WriterStep::TakeWaiting => {
                writer.hand |= state.waiting;
                if self.has(Bug::TakesWaitingByLoad) {
                    writer.at = WriterAt::EmptyWaiting;
                } else {
                    state.waiting = 0;
                    self.finish_stage(state, number, Stage::Take);
                }
            }
            WriterStep::EmptyWaiting => {
                state.waiting = 0;
                self.finish_stage(state, number, Stage::Take);
            }
            WriterStep::SkipLook | WriterStep::Append => {
                state.waiting |= writer.hand;
                self.finish_operation(state, number);
            }
            WriterStep::LoadList => match writer.at {
                WriterAt::ListForMarks => {
                    writer.at = WriterAt::Mark(state.listed);
                    if state.listed == 0 {
                        self.begin_barrier(state, number);
                    }
                }
                WriterAt::Barrier => {
                    writer.reached = 0;
                    self.go_on_checking(state, number, state.listed);
                }
                _ => {
                    writer.horizon = NEVER;
                    self.go_on_reading(state, number, state.listed);
                }
            },
            WriterStep::LoadSeen => {
                let left = match writer.at {
                    WriterAt::Horizon(left) => left,
                    _ => {
                        writer.horizon = NEVER;
                        state.listed
                    }
                };
                let seen = state.seen[left as usize - 1];
                writer.horizon = match self.config.bug {
                    Some(Bug::HorizonOfNewestSeen) => writer.horizon.max(seen),
                    _ => writer.horizon.min(seen),
                };
                self.go_on_reading(state, number, left - 1);
            }
            WriterStep::BeginFence(batch) => {
                writer.fence = state.grace[batch as usize];
                writer.horizon = 0;
                writer.at = WriterAt::ListForMarks;
                if !self.list_grows(state) {
                    self.mark(state, number, state.listed);
                }
            }
            WriterStep::Mark => {
                let WriterAt::Mark(left) = writer.at else { unreachable!("offered while marking") };
                self.mark(state, number, left);
            }
            WriterStep::Refused => {
                writer.reached = 0;
                writer.fence = 0;
                writer.at = WriterAt::Append;
            }
            WriterStep::LoadPinned => {
                let left = match writer.at {
                    WriterAt::Check(left) => left,
                    _ => state.listed,
                };
                writer.reached = 0;
                self.check(state, number, left);
            }
            WriterStep::Confirm => {
                let WriterAt::Confirm(left) = writer.at else {
                    unreachable!("offered while confirming")
                };
                let mark = self.mark_of(writer);
                let seen = &mut state.seen[left as usize - 1];
                if self.has(Bug::DetachesByStore) && *seen == mark {
                    writer.at = WriterAt::Overwrite(left);
                    return;
                }
                if *seen == mark || self.has(Bug::DetachesUnmarked) {
                    *seen = DETACHED;
                    self.record(state, event::DETACHED);
                }
                self.go_on_checking(state, number, left - 1);
            }
            WriterStep::Overwrite => {
                let WriterAt::Overwrite(left) = writer.at else {
                    unreachable!("offered while overwriting")
                };
                state.seen[left as usize - 1] = DETACHED;
                self.go_on_checking(state, number, left - 1);
            }
            WriterStep::Drain => state.epoch = std::mem::take(&mut writer.buffer),
        }
    }

    /// Returns whether the load of the list's head is a separate step. Once the list has all
    /// records, its head never changes.
    fn list_grows(&self, state: &State) -> bool {
        (state.listed as usize) < self.config.records
    }

    fn all_readers(&self) -> u8 {
        (1 << self.config.readers) - 1
    }

    fn mark_of(&self, writer: &Writer) -> u8 {
        if self.has(Bug::SharesMarks) { 0 } else { writer.fence - FIRST }
    }

    fn finish_stage(&self, state: &mut State, number: usize, stage: Stage) {
        let stages = self.stages();
        let done = stages.iter().position(|&other| other == stage).expect("a stage of this bug");
        if done + 1 == stages.len() {
            return self.judge(state, number, false);
        }
        state.writers[number].at = WriterAt::Stage(done as u8 + 1);
    }

    fn go_on_reading(&self, state: &mut State, number: usize, left: u8) {
        let rounded = self.round_horizon(state, number);
        let Writer { hand, horizon, .. } = state.writers[number];
        let decided = rounded && set(hand).all(|batch| state.grace[batch as usize] >= horizon);
        state.writers[number].at = WriterAt::Horizon(left);
        if left == 0 || decided {
            self.finish_stage(state, number, Stage::Horizon);
        }
    }

    /// Puts the mark on the record, if it has seen no later epoch.
    fn mark(&self, state: &mut State, number: usize, left: u8) {
        let writer = &mut state.writers[number];
        let seen = &mut state.seen[left as usize - 1];
        if *seen <= writer.fence {
            let early = self.has(Bug::DetachesBeforeBarrier);
            *seen = if early { DETACHED } else { self.mark_of(writer) };
        }
        writer.at = WriterAt::Mark(left - 1);
        if left == 1 {
            self.begin_barrier(state, number);
        }
    }

    fn begin_barrier(&self, state: &mut State, number: usize) {
        let drained = (0..self.config.readers).filter(|&reader| state.readers[reader].drained());
        let reached = drained.fold(0, |reached, reader| reached | 1 << reader);
        let skipped = match self.config.bug {
            Some(Bug::NoHeavyBarrier) => self.all_readers(),
            Some(Bug::BarrierReachesOneThread) => self.all_readers() & !1,
            _ => 0,
        };
        let writer = &mut state.writers[number];
        writer.reached = reached | skipped;
        writer.at = WriterAt::Barrier;
        if writer.reached != 0 && writer.reached != self.all_readers() {
            self.record(state, event::REACHED_ONE_FIRST);
        }
        state.writers[number].horizon = match self.config.bug {
            Some(Bug::HorizonOfNewestReader) => 0,
            _ => NEVER,
        };
    }

    /// Loads the record's `pinned` into the horizon.
    fn check(&self, state: &mut State, number: usize, left: u8) {
        let pinned = state.pinned[left as usize - 1];
        let writer = &mut state.writers[number];
        if pinned != UNPINNED && !self.has(Bug::IgnoresPinned) {
            writer.horizon = match self.config.bug {
                Some(Bug::HorizonOfNewestReader) => writer.horizon.max(pinned),
                _ => writer.horizon.min(pinned),
            };
            if !self.has(Bug::DetachesPinned) {
                return self.go_on_checking(state, number, left - 1);
            }
        }
        let mark = self.mark_of(&state.writers[number]);
        if self.marks_are_unique() && state.seen[left as usize - 1] != mark {
            return self.go_on_checking(state, number, left - 1);
        }
        self.round_horizon(state, number);
        state.writers[number].at = WriterAt::Confirm(left);
    }

    /// Returns whether each mark has one writer, and only marked threads are detached.
    fn marks_are_unique(&self) -> bool {
        let otherwise =
            [Bug::SharesMarks, Bug::EpochStandsStill, Bug::EpochByStore, Bug::DetachesUnmarked];
        !otherwise.into_iter().any(|bug| self.has(bug))
    }

    fn go_on_checking(&self, state: &mut State, number: usize, left: u8) {
        self.round_horizon(state, number);
        state.writers[number].at = WriterAt::Check(left);
        if left == 0 {
            state.writers[number].fence = 0;
            self.judge(state, number, true);
        }
    }

    /// Rounds the horizon to the oldest grace period in hand that is not over at this horizon. The
    /// horizon is compared only with grace periods in hand, so each comparison has the same result.
    /// Returns `false`, and does not change the horizon, if a planted bug makes other comparisons.
    fn round_horizon(&self, state: &mut State, number: usize) -> bool {
        let compared_otherwise = [
            Bug::OverInItsOwnEpoch,
            Bug::OverInItsOwnEpochAfterFence,
            Bug::HorizonOfNewestReader,
            Bug::HorizonOfNewestSeen,
            Bug::OverAtOnce,
            Bug::NewestByEarlierHorizon,
            Bug::WaitingByEarlierHorizon,
        ];
        if compared_otherwise.into_iter().any(|bug| self.has(bug)) {
            return false;
        }
        let Writer { hand, horizon, .. } = state.writers[number];
        let graces = set(hand).map(|batch| state.grace[batch as usize]);
        let rounded = graces.filter(|&grace| grace >= horizon).min();
        state.writers[number].horizon = rounded.unwrap_or(NEVER);
        true
    }

    /// Frees the batches in hand whose grace period is over.
    fn judge(&self, state: &mut State, number: usize, fenced: bool) {
        let Writer { hand, horizon, newest, .. } = state.writers[number];
        let is_over = |grace: u8| match self.config.bug {
            Some(Bug::OverAtOnce) => true,
            Some(Bug::OverInItsOwnEpoch) if !fenced => grace <= horizon,
            Some(Bug::OverInItsOwnEpochAfterFence) if fenced => grace <= horizon,
            _ => grace < horizon,
        };
        let early = self.has(Bug::WaitingByEarlierHorizon) && !fenced;
        for batch in set(hand).filter(|&batch| !(early && batch == newest)) {
            if is_over(state.grace[batch as usize]) {
                state.writers[number].hand &= !(1 << batch);
                self.free(state, number, batch, fenced);
            }
        }
        let writer = &mut state.writers[number];
        writer.horizon = 0;
        if writer.hand == 0 {
            return self.finish_operation(state, number);
        }
        writer.at = if fenced { WriterAt::Append } else { WriterAt::Decide };
    }

    fn free(&self, state: &mut State, number: usize, batch: u8, fenced: bool) {
        if state.freed & 1 << batch != 0 {
            state.fault = Fault::FreedTwice;
        }
        state.freed |= 1 << batch;
        state.grace[batch as usize] = 0;
        if batch == state.batch && !state.linked {
            let how = if fenced { event::FREED_AFTER_FENCE } else { event::FREED_WITHOUT_FENCE };
            self.record(state, how);
            if state.readers[state.user as usize].holds {
                state.fault = Fault::FreedUnderAGuard;
            }
        }
        if batch != state.writers[number].newest {
            self.record(state, event::FREED_LATER);
        }
    }

    fn finish_operation(&self, state: &mut State, number: usize) {
        let finished = state.writers[number].finished + 1;
        let buffer = state.writers[number].buffer;
        state.writers[number] = Writer { finished, buffer, ..starting() };
    }

    /// Returns whether a reader may still use the object when it is unlinked. For an unlinked
    /// object, returns whether its user may still use it when it is freed.
    pub(crate) fn is_in_danger(&self, state: &State) -> bool {
        let mut writers = state.writers[..self.config.writers].iter();
        if !state.linked {
            let to_free = writers.any(|writer| {
                let in_hand = writer.hand & 1 << state.batch != 0 && writer.at != WriterAt::Append;
                in_hand || self.may_reach(writer, Stage::Take)
            });
            return to_free && state.readers[state.user as usize].holds;
        }
        let mut readers = state.readers[..self.config.readers].iter();
        let to_load = |reader: &Reader| {
            reader.sections > 0 || !matches!(reader.at, ReaderAt::Outside | ReaderAt::Idle)
        };
        let late = self.has(Bug::StartsBeforeUnlinking);
        let unlinking = if late { Stage::Unlink } else { Stage::Start };
        writers.any(|writer| self.may_reach(writer, unlinking)) && readers.any(to_load)
    }

    /// Returns whether the writer has yet to make that stage, in this operation or a later one.
    fn may_reach(&self, writer: &Writer, stage: Stage) -> bool {
        let left = self.config.operations - writer.finished as usize;
        let place = |stage| self.stages().iter().position(|&other| other == stage);
        let before = match writer.at {
            WriterAt::Stage(next) => Some(next as usize) <= place(stage),
            WriterAt::Horizon(_) => place(Stage::Horizon) < place(stage),
            WriterAt::EmptyWaiting => place(Stage::Take) < place(stage),
            _ => false,
        };
        left > 1 || left == 1 && before
    }
}

/// Returns a writer before its first operation.
pub(crate) fn starting() -> Writer {
    Writer {
        at: WriterAt::Stage(0),
        finished: 0,
        hand: 0,
        newest: 0,
        horizon: 0,
        fence: 0,
        reached: 0,
        buffer: 0,
    }
}

/// Returns the readers that use the object while it is in its slot.
fn users(state: &State) -> impl Iterator<Item = u8> {
    let holds = |number: &u8| state.linked && state.readers[*number as usize].holds;
    (0..state.readers.len() as u8).filter(holds)
}

/// Unlinks the object. From now on, the model ignores the object's other users.
fn unlink(state: &mut State, user: u8, batch: u8) {
    state.linked = false;
    state.user = user;
    state.batch = batch;
    for (number, reader) in state.readers.iter_mut().enumerate() {
        reader.holds &= number == user as usize;
    }
}

/// Returns the members of a set, from the lowest.
fn set(members: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |member| members & 1 << member != 0)
}
