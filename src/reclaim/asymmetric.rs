//! Epochs whose readers do not fence.
//!
//! A thread that pins writes the current epoch into a record of its own, by a plain store; a thread that unpins
//! writes zero. A grace period starts by advancing the epoch from `e` to `e + 1`, and then makes the barrier on behalf
//! of all readers ([`heavy`](barrier::heavy)). It is over once no record holds `e` or less.
//!
//! # Why that is enough
//!
//! Let a grace period start with `e` after an object was unlinked, and let a reader pin.
//!
//! 1. *The reader's epoch is above `e`.* It has Acquired the Release that advanced the epoch, so it sees what came
//!    before that: the object is out of its reach.
//! 2. *Its epoch is `e` or less, and its store to the record comes before the heavy barrier* (its light barrier is
//!    ordered first). Then every later look at the record sees that store or a later one of the same thread. So the
//!    grace period does not end before the reader has stored something else: zero, after it is done, or the epoch of
//!    a later pin, which comes after such a zero.
//! 3. *Its epoch is `e` or less, and its light barrier is ordered after the heavy one.* Then what the reader loads
//!    under the guard comes after the unlinking: the object is out of its reach. That the record shows an old epoch
//!    costs time only.
//!
//! Both stores to a record Release and the looks at it Acquire, so what was done under a guard happens-before the end
//! of every grace period that waited for it. That holds for a later pin's store too, which is why it Releases.
//!
//! The idea is Fraser's (*Practical lock-freedom*, 2004, section 5.2.3); polling for the end of a grace period is
//! the Linux kernel's (`poll_state_synchronize_rcu`).

use std::marker::PhantomData;
use std::ptr;

use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, Cell, Ordering, barrier, lazy_static, thread_cell, thread_local,
};

/// What a record holds while its thread is not pinned. Epochs begin above it.
const UNPINNED: u64 = 0;

/// More guards than a thread can have. Above it are the depths of records that their last guard gives back.
const BORROWED: usize = 1 << (usize::BITS - 1);

lazy_static! {
    static ref REGISTRY: Registry =
        Registry { epoch: Epoch(AtomicU64::new(UNPINNED + 1)), newest: AtomicPtr::new(ptr::null_mut()) };
}

struct Registry {
    epoch: Epoch,
    /// Every record there ever was, as a list. None is freed: a thread that ends leaves its record to the next.
    newest: AtomicPtr<Record>,
}

/// On a cache line of its own (or two, for processors that fetch them in pairs): each pin reads it.
#[repr(align(128))]
struct Epoch(AtomicU64);

/// A thread's record, on a cache line of its own: while the thread has it, no other writes there.
#[repr(align(128))]
struct Record {
    /// The epoch in which the thread pinned, or [`UNPINNED`].
    pinned: AtomicU64,
    /// How many guards the thread has; above [`BORROWED`] if the record goes back when they end. For its thread alone, and
    /// zero while no thread has the record.
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

    /// A record that is nobody else's until it is given back. Lock-free; looks at every record once.
    fn take(&self) -> &'static Record {
        // Acquire: pairs with the Release in `Record::give_back`, so that the stores of its two owners have an order.
        let left = self.records().find(|record| {
            // Looked at first (Relaxed: it is only a hint), since a compare-exchange would take the cache line from the
            // thread that has it.
            !record.taken.load(Ordering::Relaxed)
                && record.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        let record = left.unwrap_or_else(|| self.add());
        debug_assert_eq!(record.depth.get(), 0, "a record is given back by its last guard");
        record
    }

    fn add(&self) -> &'static Record {
        let record = Box::into_raw(Box::new(Record {
            pinned: AtomicU64::new(UNPINNED),
            depth: Cell::new(0),
            taken: AtomicBool::new(true),
            older: ptr::null(),
        }));
        // Relaxed, here and on failure: what is read becomes `older` and is not looked at. Whoever acquires this record
        // acquires the older ones as well, since each exchange continues the release sequences of those before it.
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: until the exchange succeeds, the record is this call's alone.
            unsafe { (*record).older = newest };
            // Release: pairs with the Acquire loads of `newest`.
            match self.newest.compare_exchange(newest, record, Ordering::Release, Ordering::Relaxed) {
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
            // Acquire: pairs with the Release in `Grace::start`: case 1.
            let epoch = REGISTRY.epoch.0.load(Ordering::Acquire);
            // Release: pairs with the Acquire in `horizon`, on behalf of this thread's earlier guards. The barrier
            // after it makes it seen: cases 2 and 3.
            self.pinned.store(epoch, Ordering::Release);
            barrier::light();
        }
        Guard { record: self, not_send: PhantomData }
    }

    fn unpin(&self) {
        // Release: pairs with the Acquire in `horizon`: what was done under this thread's guards is over.
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
        // Release: pairs with the Acquire in `take`.
        self.taken.store(false, Ordering::Release);
    }
}

thread_cell! {
    /// This thread's record, once it has one and until it ends.
    static RECORD: Cell<Option<&'static Record>> = Cell::new(None);
}

thread_local! {
    static OWNER: Owner = Owner(REGISTRY.take());
}

/// Gives the record back when its thread ends.
struct Owner(&'static Record);

impl Drop for Owner {
    fn drop(&mut self) {
        RECORD.try_with(|record| record.set(None)).ok();
        match self.0.depth.get() {
            0 => self.0.give_back(),
            // A reader is suspended in a coroutine, or has called for the process to exit. It is still protected, by a record
            // that nobody else may have before it is done.
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
        Ok(record) => {
            RECORD.with(|mine| mine.set(Some(record)));
            record.pin()
        }
        // The thread is ending, and a destructor of another thread-local has come here.
        Err(_) => {
            let guard = REGISTRY.take().pin();
            guard.record.depth.set(BORROWED + guard.record.depth.get());
            guard
        }
    })
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
    /// One that is never over: the barrier was refused.
    const NEVER: Self = Self(u64::MAX);

    pub(crate) fn start() -> Self {
        // Release: pairs with the Acquire in `Record::pin`: case 1, which does not need the barrier, as case 2 does not need the
        // epoch to have been advanced: these two could change places.
        let epoch = REGISTRY.epoch.0.fetch_add(1, Ordering::Release);
        if barrier::heavy() { Self(epoch) } else { Self::NEVER }
    }

    pub(crate) fn can_end(&self) -> bool {
        self.0 != Self::NEVER.0
    }

    pub(crate) fn is_over(&self, horizon: u64) -> bool {
        self.0 < horizon
    }
}

/// An epoch that no reader is behind, of those readers that a grace period which has started by now waits for.
pub(crate) fn horizon() -> u64 {
    // Relaxed: it is only to be above every grace period that the caller knows of, by coherence.
    let newest = REGISTRY.epoch.0.load(Ordering::Relaxed);
    REGISTRY
        .records()
        // Acquire: pairs with the Release stores of `Record::pin` and of the guard's end.
        .map(|record| record.pinned.load(Ordering::Acquire))
        .filter(|&epoch| epoch != UNPINNED)
        .fold(newest, u64::min)
}
