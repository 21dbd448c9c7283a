//! Epochs whose readers do not fence, and which seldom need a barrier.
//!
//! A thread that pins writes the current epoch into a record of its own, by a plain store
//! (`pinned`); a thread that unpins writes zero there. The first time that it pins in an epoch, it
//! writes the epoch to a second word as well (`seen`).
//!
//! A grace period starts by advancing the epoch from `e` to `e + 1`. It is over once every thread
//! has `seen` a later epoch than `e`: where all threads go on reading, that comes by itself. For
//! those that rest there is the barrier ([`Fence`]): it is made on behalf of all readers
//! ([`heavy`](barrier::heavy)), and shows the grace period to be over if no record is `pinned` in
//! `e` or an earlier epoch after it. What rests is detached on that occasion, so that later grace
//! periods do not wait for it: they would need a barrier each.
//!
//! # Why that is enough
//!
//! Let a grace period start with `e` after an object was unlinked. A *section* is what a thread
//! does from its outermost pin to the end of its last guard. All writes to the epoch are
//! read-modify-writes, so whoever Acquires one of them has Acquired all before it.
//!
//! *Every thread has seen a later epoch.* Let a record's `seen` be above `e`, by a store in a
//! section S of its thread. Earlier sections of that thread are over, and happen-before the end of
//! the grace period: the store Releases, the look at it Acquires. S and later sections have
//! Acquired an epoch above `e`, so they see what came before it was advanced: the object is out of
//! their reach.
//!
//! *After the barrier.* Let a reader pin in the epoch `p`.
//!
//! 1. *`p` is above `e`.* As above: the object is out of its reach.
//! 2. *`p` is `e` or less, and its store to the record comes before the heavy barrier* (its light
//!    barrier is ordered first). Then every later look at the record sees that store or a later one
//!    of the same thread. So the grace period does not end before the reader has stored something
//!    else: zero, after it is done, or the epoch of a later pin, which comes after such a zero.
//! 3. *`p` is `e` or less, and its light barrier is ordered after the heavy one.* Then what the
//!    reader loads under the guard comes after the unlinking: the object is out of its reach. That
//!    the record shows an old epoch costs time only.
//!
//! Both stores to `pinned` Release and the looks at it Acquire, so what was done under a guard
//! happens-before the end of every grace period that waited for it. That holds for a later pin's
//! store too, which is why it Releases.
//!
//! *Detached threads.* Whoever makes the barrier first puts a mark, which nobody else puts at the
//! time, where a resting thread's `seen` was; after the barrier, if the record is not pinned, it
//! exchanges that mark for [`DETACHED`]. A reader looks at `seen` after its light barrier, and
//! finds anything but its epoch there: then it exchanges that for its epoch (it *attaches*), and if
//! it was `DETACHED`, it writes to the global epoch as well, without changing it. Let the end of a
//! later grace period, which was started with `e`, rest on that `DETACHED`, and take a section of
//! that thread.
//!
//! * *Its light barrier is ordered before the heavy one.* Then the look at `pinned` after the heavy
//!   barrier has seen its pin or something later, and since it saw zero, the section was over. It
//!   happens-before the exchange, and so before the end of the grace period.
//! * *The heavy barrier is ordered before its light one.* Then the section, and so each one after
//!   it, sees the mark or what came after it. The exchange found the mark as it had been put, so
//!   the first of these sections exchanges its `seen` after that, finds `DETACHED`, and then writes
//!   to the epoch. Had that write come before the start of the grace period, which is a write to
//!   the same location and Acquires, the look at `seen` would have found that exchange, or
//!   something later. So it came after the start, and Acquired it: the object is out of reach of
//!   this section and of those after it.
//!
//! A record is detached from the beginning and whenever it is given back. Who has it next is as a
//! thread that was detached. And if the look at the list of records did not find it at all, its
//! thread's first write to the epoch, which comes after the record was put there, came after the
//! start as well.
//!
//! The idea of epochs is Fraser's (*Practical lock-freedom*, 2004, section 5.2.3); polling for the
//! end of a grace period is the Linux kernel's (`poll_state_synchronize_rcu`), as is that readers
//! who are seen to have come by need no barrier, and that those who rest are told apart and skipped
//! (its quiescent states, and its extended ones).

use std::hint::black_box;
use std::marker::PhantomData;
use std::ptr;

use super::barrier;
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, Cell, Ordering, StoredU64, lazy_static, thread_cell,
    thread_local,
};

/// What [`Record::pinned`] holds while its thread is not pinned.
const UNPINNED: u64 = 0;

/// The first epoch. Below it are the marks in [`Record::seen`], so that a mark is as an epoch that
/// is long gone.
const FIRST: u64 = 1 << 62;

/// An epoch that never comes.
const NEVER: u64 = u64::MAX;

/// What [`Record::seen`] holds of a thread that no grace period waits for, as if it had seen all
/// epochs there will be.
const DETACHED: u64 = NEVER;

/// More guards than a thread can have. Above it are the depths of records that their last guard
/// gives back.
const BORROWED: usize = 1 << (usize::BITS - 1);

lazy_static! {
    static ref REGISTRY: Registry =
        Registry { epoch: Epoch(AtomicU64::new(FIRST)), newest: AtomicPtr::new(ptr::null_mut()) };
}

struct Registry {
    epoch: Epoch,
    /// Every record there ever was, as a list. None is freed: a thread that ends leaves its record
    /// to the next.
    newest: AtomicPtr<Record>,
}

/// On a cache line of its own (or two, for processors that fetch them in pairs): each pin reads it.
#[repr(align(128))]
struct Epoch(AtomicU64);

/// A thread's record, on a cache line of its own: while the thread has it and reads now and then,
/// no other writes there.
#[repr(align(128))]
struct Record {
    /// The epoch in which the thread pinned, or [`UNPINNED`].
    pinned: StoredU64,
    /// The newest epoch in which the thread has pinned, or the mark of who is about to detach it,
    /// or [`DETACHED`].
    seen: AtomicU64,
    /// How many guards the thread has; above [`BORROWED`] if the record goes back when they end.
    /// For its thread alone, and zero while no thread has the record.
    depth: Cell<usize>,
    taken: AtomicBool,
    /// The record that was the newest before. Does not change once this one is in the list.
    older: *const Record,
}

impl Registry {
    /// All records, newest first.
    fn records(&self) -> impl Iterator<Item = &'static Record> {
        // Acquire: pairs with the Release in `add`.
        let mut next = self.newest.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY: null, or a record from `take`, which is never freed.
            let record = unsafe { next.as_ref() }?;
            next = record.older;
            Some(record)
        })
    }

    /// A record that is nobody else's until it is given back. Lock-free; looks at every record
    /// once.
    fn take(&self) -> &'static Record {
        // Acquire: pairs with the Release in `Record::give_back`, so that the stores of its two
        // owners have an order.
        let left = self.records().find(|record| {
            // Looked at first (Relaxed: it is only a hint), since a compare-exchange would take the
            // cache line from the thread that has it.
            !record.taken.load(Ordering::Relaxed)
                && record
                    .taken
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        });
        let record = left.unwrap_or_else(|| self.add());
        debug_assert_eq!(record.depth.get(), 0, "a record is given back by its last guard");
        record
    }

    fn add(&self) -> &'static Record {
        let record = Box::into_raw(Box::new(Record {
            pinned: StoredU64::new(UNPINNED),
            seen: AtomicU64::new(DETACHED),
            depth: Cell::new(0),
            taken: AtomicBool::new(true),
            older: ptr::null(),
        }));
        // Relaxed, here and on failure: what is read becomes `older` and is not looked at. Whoever
        // acquires this record acquires the older ones as well, since each exchange
        // continues the release sequences of those before it.
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: until the exchange succeeds, the record is this call's alone.
            unsafe { (*record).older = newest };
            // Release: pairs with the Acquire loads of `newest`.
            match self.newest.compare_exchange(newest, record, Ordering::Release, Ordering::Relaxed)
            {
                // SAFETY: it is never freed, nor written but through its atomics, from now on.
                Ok(_) => return unsafe { &*record },
                Err(other) => newest = other,
            }
        }
    }
}

impl Record {
    /// Must be called by the thread whose record it is.
    #[inline]
    fn pin(&'static self) -> Guard {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        if depth == 0 {
            // Acquire: pairs with the Release in `Grace::start`: what was unlinked before is out of
            // reach.
            let epoch = REGISTRY.epoch.0.load(Ordering::Acquire);
            // Release: pairs with the Acquire in `horizon`, on behalf of this thread's earlier
            // guards. The barrier after it makes it seen: cases 2 and 3.
            self.pinned.store(epoch, Ordering::Release);
            barrier::light();
            // Relaxed: what others write here is a mark, which says only that `attach` is to be
            // called; that it is seen in time is the barrier's business.
            if self.seen.load(Ordering::Relaxed) != epoch {
                self.attach(epoch);
            }
        }
        Guard { record: self, not_send: PhantomData }
    }

    /// Writes down that this thread has seen the epoch: once an epoch, and when it was marked or
    /// detached.
    #[cold]
    fn attach(&self, epoch: u64) {
        // Release: pairs with the Acquire in `horizon`, on behalf of this thread's earlier guards.
        let before = self.seen.swap(epoch, Ordering::Release);
        if before == DETACHED {
            // Acquire and Release: pair with those in `Grace::start`. Whichever comes first, the
            // other knows: that this thread is attached, or what was unlinked.
            let newest = REGISTRY.epoch.0.fetch_add(0, Ordering::AcqRel);
            // LLVM leaves out an addition of zero whose result nobody reads, on x86-64, where the
            // exchange above orders as much. With this it is a fence and a load.
            black_box(newest);
        }
    }

    /// Puts the mark on a thread that has not seen a later epoch than `epoch`.
    fn mark(&self, mark: u64, epoch: u64) {
        // Relaxed, both: that it is seen in time is the barrier's business, and nothing is read on
        // the strength of it.
        let seen = self.seen.load(Ordering::Relaxed);
        if seen <= epoch {
            self.seen.compare_exchange(seen, mark, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    /// After the barrier: the epoch in which the thread is pinned, if it is. If not, and if the
    /// mark is still there, detaches it.
    fn pinned_or_detached(&self, mark: u64) -> Option<u64> {
        // Acquire: pairs with the Release of a guard's end and, for an epoch, with that of `pin`.
        let pinned = self.pinned.load(Ordering::Acquire);
        if pinned != UNPINNED {
            return Some(pinned);
        }
        // Relaxed: a hint, so that the cache lines of all others are left alone.
        if self.seen.load(Ordering::Relaxed) == mark {
            // Release: pairs with the Acquire in `horizon`: what was done under this thread's
            // guards is over.
            self.seen.compare_exchange(mark, DETACHED, Ordering::Release, Ordering::Relaxed).ok();
        }
        None
    }

    fn unpin(&self) {
        // Release: pairs with the Acquire in `horizon`: what was done under this thread's guards is
        // over.
        self.pinned.store(UNPINNED, Ordering::Release);
    }

    /// The end of the last guard of a record that no thread will pin again before it is given back.
    #[cold]
    fn unpin_borrowed(&self) {
        self.depth.set(0);
        self.unpin();
        self.give_back();
    }

    fn give_back(&self) {
        // Release: pairs with the Acquire in `horizon`: what was done under this thread's guards is
        // over.
        self.seen.store(DETACHED, Ordering::Release);
        // Release: pairs with the Acquire in `take`.
        self.taken.store(false, Ordering::Release);
    }
}

thread_cell! {
    /// This thread's record, once it has one and until it ends.
    static RECORD: Cell<Option<&'static Record>> = Cell::new(None);
}

thread_local! {
    static OWNER: Owner = Owner::register();
}

/// Gives the record back when its thread ends.
pub(super) struct Owner(&'static Record);

impl Owner {
    /// Gives this thread a record, until the owner is dropped.
    pub(super) fn register() -> Self {
        let record = REGISTRY.take();
        RECORD.with(|mine| mine.set(Some(record)));
        Self(record)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        RECORD.try_with(|record| record.set(None)).ok();
        match self.0.depth.get() {
            0 => self.0.give_back(),
            // A reader is suspended in a coroutine, or has called for the process to exit. It is
            // still protected, by a record that nobody else may have before it is done.
            guards => self.0.depth.set(BORROWED + guards),
        }
    }
}

/// One word, so that it stays in a register.
pub(crate) struct Guard {
    record: &'static Record,
    not_send: PhantomData<*const ()>,
}

/// Pins, if this thread is registered.
#[inline]
pub(super) fn pin_registered() -> Option<Guard> {
    let record = RECORD.try_with(Cell::get).ok().flatten()?;
    Some(record.pin())
}

/// Pins, and registers this thread if it is not.
pub(crate) fn pin() -> Guard {
    pin_registered().unwrap_or_else(|| match OWNER.try_with(|owner| owner.0) {
        Ok(record) => record.pin(),
        // The thread is ending, and a destructor of another thread-local has come here.
        Err(_) => pin_borrowed(),
    })
}

/// Pins with a record of the guard's own, which goes back with it.
pub(super) fn pin_borrowed() -> Guard {
    let guard = REGISTRY.take().pin();
    guard.record.depth.set(BORROWED + guard.record.depth.get());
    guard
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        let depth = self.record.depth.get() - 1;
        self.record.depth.set(depth);
        // Guards may end in any order: the last one unpins, whichever it is.
        if depth == 0 {
            self.record.unpin();
        } else if depth == BORROWED {
            self.record.unpin_borrowed();
        }
    }
}

/// A grace period, named by the epoch that it ended; it is over when all readers are in later ones.
pub(crate) struct Grace(u64);

impl Grace {
    pub(crate) fn start() -> Self {
        // Release: pairs with the Acquire in `Record::pin`: who sees the new epoch sees what was
        // unlinked before. Acquire: pairs with the Release in `Record::attach`: a thread
        // that attached before is waited for.
        Self(REGISTRY.epoch.0.fetch_add(1, Ordering::AcqRel))
    }

    /// Whether it is over at a horizon that was read after its start.
    pub(crate) fn is_over(&self, horizon: Horizon) -> bool {
        self.0 < horizon.seen
    }

    /// The fence that would end it, if it waits for threads that rest, and for no others.
    pub(crate) fn wants_fence(&self, horizon: Horizon) -> Option<Fence> {
        (!self.is_over(horizon) && self.0 < horizon.pinned).then(|| self.fence())
    }

    /// The fence after which it waits for none but readers that were there at its start.
    pub(crate) fn fence(&self) -> Fence {
        Fence(self.0)
    }
}

/// A barrier to be made on behalf of the threads that have seen no later epoch than this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fence(u64);

impl Fence {
    /// Makes it, and tells where all grace periods that have started by now stand after it. `None`
    /// if it was refused.
    ///
    /// Must not be made for the same grace period by two threads at a time.
    pub(crate) fn make(self) -> Option<Horizon> {
        // Nobody else's, since the epoch is no other grace period's.
        let mark = self.0 - FIRST;
        REGISTRY.records().for_each(|record| record.mark(mark, self.0));
        if !barrier::heavy() {
            return None;
        }
        let pinned = REGISTRY
            .records()
            .filter_map(|record| record.pinned_or_detached(mark))
            .fold(NEVER, u64::min);
        Some(Horizon { seen: pinned, pinned })
    }
}

/// How many records there are.
#[cfg(feature = "loom")]
#[allow(dead_code, reason = "for the models")]
pub(super) fn records() -> usize {
    REGISTRY.records().count()
}

/// How far readers have come; [`NEVER`] where nobody is behind.
#[derive(Clone, Copy)]
pub(crate) struct Horizon {
    /// The oldest of the epochs that are the newest which a thread has seen.
    pub(crate) seen: u64,
    /// The oldest epoch in which a reader is pinned, as far as can be seen without a barrier.
    pub(crate) pinned: u64,
}

/// Where grace periods stand that have started by now.
pub(crate) fn horizon() -> Horizon {
    REGISTRY.records().fold(Horizon { seen: NEVER, pinned: NEVER }, |horizon, record| Horizon {
        // Acquire: pairs with the Release of `Record::attach`, `Record::pinned_or_detached` and
        // `Record::give_back`.
        seen: horizon.seen.min(record.seen.load(Ordering::Acquire)),
        // Relaxed: it is for `Grace::wants_fence` alone, which is a hint.
        pinned: match record.pinned.load(Ordering::Relaxed) {
            UNPINNED => horizon.pinned,
            epoch => horizon.pinned.min(epoch),
        },
    })
}
