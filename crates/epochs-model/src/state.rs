//! One state of the model: the memory, the store buffers, and the place of each thread in its
//! program.
//!
//! All fields are bytes. A field that its thread no longer needs is zero. So two states that differ
//! only in an unused field are one state.

use std::hash::{Hash, Hasher};

use stateright::Representative;

/// The most readers that a configuration can have.
pub const MOST_READERS: usize = 3;
/// The most writers that a configuration can have.
pub const MOST_WRITERS: usize = 3;
/// The most records that a configuration can have.
pub const MOST_RECORDS: usize = 3;
/// The most batches, and so the most operations of all writers together.
pub const MOST_BATCHES: usize = 8;

/// `Record::pinned` of a thread that is not pinned.
pub(crate) const UNPINNED: u8 = 0;
/// The first epoch. Lower values of `seen` are marks.
pub(crate) const FIRST: u8 = 64;
/// `seen` of a detached thread, and the horizon if no thread is behind.
pub(crate) const NEVER: u8 = 255;
/// See [`NEVER`].
pub(crate) const DETACHED: u8 = NEVER;

/// `State::user` as long as the object is in its slot.
pub(crate) const UNDECIDED: u8 = 7;

/// The encoding of a store in a store buffer. An epoch encodes `pinned := epoch`.
pub(crate) mod store {
    /// `pinned := UNPINNED`.
    pub(crate) const UNPIN: u8 = 1;
    /// `seen := DETACHED`.
    pub(crate) const DETACH: u8 = 2;
    /// `taken := false`.
    pub(crate) const LEAVE: u8 = 3;
    /// Added to an epoch, for `seen := epoch`. Planted bug only.
    pub(crate) const ATTACH: u8 = 64;
}

/// The violation of G7. Every reachable state of the protocol that ships has [`Fault::None`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No violation.
    None,
    /// The object was freed while the reader used it.
    FreedUnderAGuard,
    /// A batch was freed twice.
    FreedTwice,
}

/// Events, which a run with [`Config::track`](crate::Config::track) records.
pub mod event {
    /// A writer has detached a thread.
    pub const DETACHED: u8 = 1;
    /// A thread that was detached has attached again.
    pub const ATTACHED_AGAIN: u8 = 2;
    /// The object was freed at a horizon that needed no fence.
    pub const FREED_WITHOUT_FENCE: u8 = 4;
    /// The object was freed at the horizon after a fence.
    pub const FREED_AFTER_FENCE: u8 = 8;
    /// A thread has taken the record of another that has ended.
    pub const TAKEN_OVER: u8 = 16;
    /// A batch was freed by a later collection than the one that started its grace period.
    pub const FREED_LATER: u8 = 32;
    /// A barrier has reached one thread while another had stores in its buffer.
    pub const REACHED_ONE_FIRST: u8 = 64;
}

/// The place of a reader in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReaderAt {
    /// The reader has no record: its thread has not started or has ended.
    Outside,
    /// The reader has just taken its record, and pins next.
    Registered,
    /// Between two sections. The end of the last section is visible to all threads.
    Idle,
    /// The reader has loaded the epoch, and stores it next.
    Loaded,
    /// The store of the epoch is in memory, and the reader loads `seen` next.
    Stored,
    /// The reader has not found its epoch in `seen`, and swaps the epoch in next.
    Attaching,
    /// In a section, after the load of the slot.
    Inside,
    /// Planted bugs only: after a load that belongs after the store of the epoch.
    LookedEarly,
    /// Planted bugs only: unpinned or given back, but still in its section.
    Trailing,
}

/// A reader: a core, and the threads that run on this core one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) at: ReaderAt,
    /// The loaded epoch, until the reader is inside.
    pub(crate) epoch: u8,
    pub(crate) record: u8,
    /// The number of sections that the reader may still begin.
    pub(crate) sections: u8,
    /// Whether the reader uses the object. For an unlinked object, only its user has `true`.
    pub(crate) holds: bool,
    /// The store buffer, the oldest store first. All stores are to the reader's record, because
    /// taking a record drains the buffer.
    pub(crate) buffer: [u8; 8],
}

impl Reader {
    pub(crate) fn drained(&self) -> bool {
        self.buffer[0] == 0
    }

    pub(crate) fn push(&mut self, store: u8) {
        let free = self.buffer.iter().position(|&slot| slot == 0);
        self.buffer[free.expect("a reader of at most three sections fits its buffer")] = store;
    }

    pub(crate) fn pop(&mut self) -> u8 {
        let oldest = self.buffer[0];
        self.buffer.rotate_left(1);
        self.buffer[7] = 0;
        oldest
    }
}

impl Hash for Reader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { at, epoch, record, sections, holds, buffer } = *self;
        state.write_u64(u64::from_le_bytes(buffer));
        let rest = [at as u8, epoch, record, sections, holds as u8, 0, 0, 0];
        state.write_u64(u64::from_le_bytes(rest));
    }
}

/// The place of a writer in `Limbo::collect`. The number is that of the records that the writer has
/// yet to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WriterAt {
    /// Before the collection's stage of that number; see `Protocol::stages`.
    Stage(u8),
    /// The writer reads `seen` for the horizon.
    Horizon(u8),
    /// The writer has freed the batches that were over, and some batches are left. It continues
    /// with or without a fence.
    Decide,
    /// The writer loads the list's head before it marks.
    ListForMarks,
    /// The writer puts its mark.
    Mark(u8),
    /// In `membarrier`.
    Barrier,
    /// The writer loads `pinned` after the barrier.
    Check(u8),
    /// The writer has found this record unpinned, and exchanges its mark for `DETACHED`.
    Confirm(u8),
    /// Planted bug only: the writer has loaded its mark, and stores `DETACHED`.
    Overwrite(u8),
    /// The writer puts the remaining batches to the waiting batches.
    Append,
    /// Planted bug only: the writer has loaded the waiting list, and empties the list.
    EmptyWaiting,
}

impl WriterAt {
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Stage(number) => [0, number],
            Self::Horizon(left) => [2, left],
            Self::Decide => [3, 0],
            Self::ListForMarks => [4, 0],
            Self::Mark(left) => [5, left],
            Self::Barrier => [6, 0],
            Self::Check(left) => [7, left],
            Self::Confirm(left) => [8, left],
            Self::Overwrite(left) => [9, left],
            Self::Append => [10, 0],
            Self::EmptyWaiting => [11, 0],
        }
    }
}

/// A writer. It collects after each of its replacements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Writer {
    pub(crate) at: WriterAt,
    /// The number of finished operations.
    pub(crate) finished: u8,
    /// The batches in hand, as a set, and the batch of this operation.
    pub(crate) hand: u8,
    pub(crate) newest: u8,
    /// The horizon, as far as the writer has read it.
    pub(crate) horizon: u8,
    /// The epoch of the fence's grace period, or zero.
    pub(crate) fence: u8,
    /// The readers that the barrier has reached, as a set.
    pub(crate) reached: u8,
    /// Planted bug only: an epoch in the store buffer, or zero.
    pub(crate) buffer: u8,
}

impl Hash for Writer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { at, finished, hand, newest, horizon, fence, reached, buffer } = *self;
        let [at, left] = at.bytes();
        let bytes = [at | left << 4, finished, hand, horizon, fence, reached, buffer, newest];
        state.write_u64(u64::from_le_bytes(bytes));
    }
}

/// A state of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) epoch: u8,
    /// Whether the slot still holds the object.
    pub(crate) linked: bool,
    /// `Record::pinned` and `Record::seen` in memory.
    pub(crate) pinned: [u8; MOST_RECORDS],
    pub(crate) seen: [u8; MOST_RECORDS],
    /// The taken records, as a set, and the number of records in the list.
    pub(crate) taken: u8,
    pub(crate) listed: u8,
    pub(crate) readers: [Reader; MOST_READERS],
    pub(crate) writers: [Writer; MOST_WRITERS],
    /// The number of started grace periods, which is also the number of the next batch.
    pub(crate) started: u8,
    /// The epoch that each batch's grace period has ended, or zero before its start.
    pub(crate) grace: [u8; MOST_BATCHES],
    /// The waiting batches and the freed batches, as sets.
    pub(crate) waiting: u8,
    pub(crate) freed: u8,
    /// The reader that uses the object, and the batch that holds the object, once the object is
    /// unlinked.
    pub(crate) user: u8,
    pub(crate) batch: u8,
    pub(crate) events: u8,
    pub(crate) fault: Fault,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ([p0, p1, p2], [s0, s1, s2]) = (self.pinned, self.seen);
        let records = [p0, p1, p2, s0, s1, s2, self.taken, self.listed];
        state.write_u64(u64::from_le_bytes(records));
        let who = self.user | self.batch << 4 | u8::from(self.linked) << 3;
        let fault = self.fault as u8;
        let rest = [self.epoch, who, self.waiting, self.freed, self.events, fault, self.started, 0];
        state.write_u64(u64::from_le_bytes(rest));
        state.write_u64(u64::from_le_bytes(self.grace));
        for reader in &self.readers {
            reader.hash(state);
        }
        for writer in &self.writers {
            writer.hash(state);
        }
    }
}

impl State {
    /// Returns the violation so far.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Returns whether the [`event`] has happened.
    pub fn has_seen(&self, event: u8) -> bool {
        self.events & event != 0
    }
}

/// Writers are interchangeable: they run the same program, and batches are numbered in the order of
/// their grace periods, not of their writers. Readers are not interchangeable, because the list of
/// records has an order.
impl Representative for State {
    fn representative(&self) -> Self {
        let mut state = *self;
        state.writers.sort_unstable();
        state
    }
}
