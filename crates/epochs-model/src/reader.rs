//! The reader's side: `Record::pin`, `attach`, `unpin`, `give_back`, and `Registry::take`.
//!
//! # Steps that are merged
//!
//! * *A store enters the buffer together with the thread's next step, or together with its own
//!   arrival in memory.* The entry into the buffer changes nothing that another thread can load. So
//!   the entry commutes with every step until the thread's next step, or until the store leaves the
//!   buffer.
//! * *The slot is loaded together with the step before it.* The object leaves the slot once. So a
//!   load that returns the object would also return it at any earlier time. A load has no effect on
//!   other threads. So for each execution with a violation after a later load, the model contains
//!   an execution with the earlier load.
//! * *The addition of zero in `attach` is omitted.* The swap before it has drained the buffer, the
//!   value does not change, and the result is unused. The addition has no effect under TSO.
//! * *A read-modify-write is possible only with an empty buffer.* The operation drains the buffer,
//!   and the stores may leave one by one at any time before.

use crate::state::{
    DETACHED, FIRST, MOST_RECORDS, Reader, ReaderAt, State, UNPINNED, WriterAt, event, store,
};
use crate::{Action, Bug, Protocol};

/// A step of a reader, or of its store buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderStep {
    /// The oldest store leaves the buffer.
    Drain,
    /// Unpins, if the reader is in a section, and loads the epoch.
    LoadEpoch,
    /// Stores the epoch directly in memory.
    StoreEpoch,
    /// Stores the epoch, if the reader has not yet, and loads `seen`. If `seen` is the epoch, also
    /// loads the slot.
    LoadSeen,
    /// Swaps the epoch into `seen`, and loads the slot.
    Attach,
    /// Unpins directly in memory.
    Unpin,
    /// Unpins, if the reader is in a section, and gives its record back: its thread ends.
    GiveBack,
    /// Takes this record, which another thread has given back.
    Take(u8),
    /// Adds a record to the list.
    Add,
    /// Planted bugs only: loads too early.
    LookEarly,
    /// Planted bugs only: unpins or gives back, and stays in the section.
    Trail,
    /// Planted bugs only: leaves the section after [`Trail`](Self::Trail).
    Leave,
}

impl Protocol {
    pub(crate) fn reader_steps(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let reader = &state.readers[number];
        let mut offer = |step| actions.push(Action::Reader(number as u8, step));
        if !reader.drained() {
            offer(ReaderStep::Drain);
        }
        let drained = reader.drained();
        match reader.at {
            ReaderAt::Outside if !drained || reader.sections == 0 => {}
            ReaderAt::Outside => {
                let listed = 0..state.listed;
                let free =
                    |record: &u8| self.has(Bug::SharesRecords) || state.taken & 1 << record == 0;
                listed.clone().filter(free).for_each(|record| offer(ReaderStep::Take(record)));
                if listed.clone().count() < self.config.records {
                    offer(ReaderStep::Add);
                }
            }
            ReaderAt::Registered => offer(ReaderStep::LoadEpoch),
            ReaderAt::Idle => {
                if reader.sections > 0 {
                    offer(ReaderStep::LoadEpoch);
                }
                if self.config.endings {
                    offer(ReaderStep::GiveBack);
                }
            }
            ReaderAt::Loaded => {
                if drained {
                    offer(ReaderStep::StoreEpoch);
                }
                offer(ReaderStep::LoadSeen);
                let early = self.has(Bug::NoLightBarrier) || self.has(Bug::LooksForMarksTooEarly);
                if early && self.attached(state, number) {
                    offer(ReaderStep::LookEarly);
                }
            }
            ReaderAt::Stored | ReaderAt::LookedEarly => offer(ReaderStep::LoadSeen),
            ReaderAt::Attaching if drained || self.has(Bug::AttachesByStore) => {
                offer(ReaderStep::Attach)
            }
            ReaderAt::Attaching => {}
            ReaderAt::Inside if self.has(Bug::UnpinsInsideSection) => offer(ReaderStep::Trail),
            ReaderAt::Inside => {
                if drained {
                    offer(ReaderStep::Unpin);
                }
                if reader.sections > 0 {
                    offer(ReaderStep::LoadEpoch);
                }
                if self.config.endings {
                    let under_guard = self.has(Bug::GivesBackUnderGuard);
                    offer(if under_guard { ReaderStep::Trail } else { ReaderStep::GiveBack });
                }
            }
            ReaderAt::Trailing => offer(ReaderStep::Leave),
        }
    }

    pub(crate) fn reader_step(&self, state: &mut State, number: usize, step: ReaderStep) {
        let reader = &mut state.readers[number];
        let record = reader.record as usize;
        let inside = reader.at == ReaderAt::Inside;
        match step {
            ReaderStep::Drain => {
                match reader.pop() {
                    store::UNPIN => state.pinned[record] = UNPINNED,
                    store::DETACH => state.seen[record] = DETACHED,
                    store::LEAVE => state.taken &= !(1 << record),
                    epoch if epoch >= FIRST + store::ATTACH => {
                        state.seen[record] = epoch - store::ATTACH;
                    }
                    epoch => state.pinned[record] = epoch,
                }
                if reader.drained() {
                    if reader.at == ReaderAt::Outside {
                        reader.record = 0;
                    }
                    self.reach(state, number);
                }
            }
            ReaderStep::LoadEpoch => {
                if inside {
                    reader.push(store::UNPIN);
                }
                reader.holds = false;
                reader.sections -= 1;
                reader.epoch = state.epoch;
                reader.at = ReaderAt::Loaded;
            }
            ReaderStep::StoreEpoch => {
                state.pinned[record] = reader.epoch;
                reader.at = ReaderAt::Stored;
            }
            ReaderStep::LoadSeen => {
                let looked = reader.at == ReaderAt::LookedEarly;
                if reader.at != ReaderAt::Stored {
                    reader.push(reader.epoch);
                }
                reader.at = ReaderAt::Attaching;
                if looked && self.has(Bug::NoLightBarrier) {
                    reader.at = ReaderAt::Inside;
                    reader.epoch = 0;
                } else if looked || self.attached(state, number) {
                    enter(state, number);
                }
            }
            ReaderStep::Attach if self.has(Bug::AttachesByStore) => {
                reader.push(reader.epoch + store::ATTACH);
                enter(state, number);
            }
            ReaderStep::Attach => {
                let before = std::mem::replace(&mut state.seen[record], reader.epoch);
                if before == DETACHED {
                    self.record(state, event::ATTACHED_AGAIN);
                }
                enter(state, number);
            }
            ReaderStep::Unpin => {
                state.pinned[record] = UNPINNED;
                reader.holds = false;
                reader.at = ReaderAt::Idle;
            }
            ReaderStep::GiveBack => {
                reader.holds = false;
                reader.at = ReaderAt::Outside;
                let [first, second] = self.giving_back();
                if inside && !self.has(Bug::UnpinsAfterGivingBack) {
                    reader.push(store::UNPIN);
                }
                reader.push(first);
                reader.push(second);
                if inside && self.has(Bug::UnpinsAfterGivingBack) {
                    reader.push(store::UNPIN);
                }
            }
            ReaderStep::Take(taken) => {
                reader.record = taken;
                reader.at = ReaderAt::Registered;
                state.taken |= 1 << taken;
                self.record(state, event::TAKEN_OVER);
            }
            ReaderStep::Add => {
                reader.record = state.listed;
                reader.at = ReaderAt::Registered;
                state.pinned[state.listed as usize] = UNPINNED;
                state.seen[state.listed as usize] = DETACHED;
                state.taken |= 1 << state.listed;
                state.listed += 1;
            }
            ReaderStep::LookEarly => {
                reader.holds = self.has(Bug::NoLightBarrier) && state.linked;
                reader.at = ReaderAt::LookedEarly;
            }
            ReaderStep::Trail => {
                if self.has(Bug::GivesBackUnderGuard) {
                    self.giving_back().into_iter().for_each(|store| reader.push(store));
                } else {
                    reader.push(store::UNPIN);
                }
                reader.at = ReaderAt::Trailing;
            }
            ReaderStep::Leave => {
                reader.holds = false;
                reader.at = ReaderAt::Idle;
                if self.has(Bug::GivesBackUnderGuard) {
                    reader.push(store::UNPIN);
                    reader.at = ReaderAt::Outside;
                }
            }
        }
    }

    /// Returns whether the reader finds its epoch in `seen`. Without a planted bug, its buffer has
    /// no store to `seen`: only ending threads store `DETACHED`, and taking a record drains the
    /// buffer.
    fn attached(&self, state: &State, number: usize) -> bool {
        let Reader { epoch, record, buffer, .. } = state.readers[number];
        let forwarded = buffer.into_iter().rfind(|&store| store >= FIRST + store::ATTACH);
        let memory = state.seen[record as usize];
        let seen = forwarded.map_or(memory, |store| store - store::ATTACH);
        let marked = seen < FIRST || seen == DETACHED;
        seen == epoch || self.has(Bug::IgnoresMarks) && marked
    }

    fn giving_back(&self) -> [u8; 2] {
        if self.has(Bug::ClearsTakenFirst) {
            [store::LEAVE, store::DETACH]
        } else {
            [store::DETACH, store::LEAVE]
        }
    }

    /// Marks the reader as reached by all barriers in progress. Its buffer is empty: a barrier
    /// waits for nothing else.
    fn reach(&self, state: &mut State, number: usize) {
        for writer in state.writers.iter_mut().filter(|writer| writer.at == WriterAt::Barrier) {
            writer.reached |= 1 << number;
        }
    }
}

/// Enters the section and loads the slot.
fn enter(state: &mut State, number: usize) {
    let reader = &mut state.readers[number];
    reader.at = ReaderAt::Inside;
    reader.epoch = 0;
    reader.holds = state.linked;
}

/// Returns a reader with a record that it has used, or without a record.
pub(crate) fn starting(record: Option<u8>, sections: u8) -> Reader {
    debug_assert!(record.is_none_or(|record| (record as usize) < MOST_RECORDS));
    let at = if record.is_some() { ReaderAt::Idle } else { ReaderAt::Outside };
    let record = record.unwrap_or(0);
    Reader { at, epoch: 0, record, sections, holds: false, buffer: [0; 8] }
}
