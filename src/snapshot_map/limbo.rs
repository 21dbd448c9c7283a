//! Limbo: the buckets that were replaced, until no reader can hold them.
//!
//! Writers push what they have replaced to a list. Each [`BATCH`]th push takes the whole list and starts a grace period
//! for it; batches whose grace period is not over yet wait in a second list. All of it belongs to the map, so what
//! a map has retired is freed with it at the latest, and is dropped by nobody but its own writers.
//!
//! Both lists are Treiber stacks (*Systems Programming: Coping with Parallelism*, 1986) of which nothing is popped but all at once, by a
//! swap: so no node is looked at by anybody but its owner, and addresses that are used again do no harm.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
// Not of `sync.rs`: what is counted decides when to collect, and nothing else, so a model need not explore it.
use std::sync::atomic::AtomicU64;

use super::super::reclaim::{self, Grace};
use super::super::sync::{AtomicPtr, BATCH, Ordering};
use super::bucket::{Header, OwnedBucket};

/// On cache lines of its own: writers write here, and lookups read what stands beside it.
#[repr(align(128))]
pub(super) struct Limbo<V> {
    /// Retired since a batch was last taken. Linked by [`Header::next`].
    retired: AtomicPtr<Header>,
    /// How many were ever retired.
    count: AtomicU64,
    /// Every how many of them a batch is taken.
    every: u64,
    /// Batches whose grace period was not over when they were last looked at.
    waiting: AtomicPtr<Batch<V>>,
    /// The horizon at which the last look was in vain.
    in_vain: AtomicU64,
}

/// What has left its slot, and must be retired.
#[must_use = "what is not retired leaks"]
pub(super) struct Replaced<V>(Option<NonNull<Header>>, PhantomData<V>);

/// Retired buckets that nobody else has in hand. Dropped only once no reader has them either.
struct Buckets<V> {
    first: *mut Header,
    values: PhantomData<V>,
}

struct Batch<V> {
    grace: Grace,
    next: *mut Batch<V>,
    #[expect(dead_code, reason = "lives until it is dropped")]
    buckets: Buckets<V>,
}

/// Batches that nobody else has in hand, linked from the first to the last.
struct Chain<V> {
    first: *mut Batch<V>,
    last: *mut Batch<V>,
}

impl<V> Default for Chain<V> {
    fn default() -> Self {
        Self { first: ptr::null_mut(), last: ptr::null_mut() }
    }
}

impl<V> Replaced<V> {
    /// # Safety
    ///
    /// `header` must be null or come from [`OwnedBucket::into_raw`] of the same `V`; it must have been made unreachable
    /// for guards made from now on, and nobody else may retire it.
    pub(super) unsafe fn new(header: *mut Header) -> Self {
        Self(NonNull::new(header), PhantomData)
    }
}

impl<V> Limbo<V> {
    /// For a map of so many slots. A small one frees more often, so that what waits stays in proportion.
    pub(super) fn for_slots(slots: usize) -> Self {
        Self {
            retired: AtomicPtr::new(ptr::null_mut()),
            count: AtomicU64::new(0),
            every: BATCH.min((slots as u64).max(8)),
            waiting: AtomicPtr::new(ptr::null_mut()),
            in_vain: AtomicU64::new(u64::MAX),
        }
    }

    /// Keeps a bucket until it can be freed, and now and then frees what can be. Lock-free.
    ///
    /// Best called without a guard: the caller's own would hold the bucket back.
    pub(super) fn retire(&self, replaced: Replaced<V>) {
        let Some(header) = replaced.0 else { return };
        // Relaxed: whatever is first is not looked at, only linked to.
        let mut first = self.retired.load(Ordering::Relaxed);
        loop {
            // SAFETY: `Replaced::new`'s caller has left the header to us; it is not in the list yet.
            unsafe { Header::set_next(header, first) };
            // Release: pairs with the Acquire in `collect`, so that the link and the unlinking are visible there.
            match self.retired.compare_exchange(first, header.as_ptr(), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => first = other,
            }
        }
        // Relaxed: it decides when to collect, and orders nothing.
        if (self.count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every) {
            self.collect();
        }
    }

    /// Starts a grace period for what was retired, and frees everything whose grace period is over.
    fn collect(&self) {
        // Acquire: pairs with the Release in `retire`. Every push is a read-modify-write, so all of them are acquired
        // with the last, and all their unlinkings happen-before the start of the grace period.
        let first = self.retired.swap(ptr::null_mut(), Ordering::Acquire);
        if first.is_null() {
            return;
        }
        let buckets = Buckets { first, values: PhantomData };
        let batch = Box::new(Batch { grace: Grace::start(), next: ptr::null_mut(), buckets });
        let mut kept = Chain::default();
        let horizon = reclaim::horizon();
        kept.free_or_keep(batch, horizon);
        // Relaxed, here and below: a look that is left out, or made in vain, does no harm.
        let may_be_over = horizon != self.in_vain.load(Ordering::Relaxed);
        if may_be_over && !self.waiting.load(Ordering::Relaxed).is_null() {
            // Acquire: pairs with the Release in `wait`, so that each batch is visible, and the start of its grace
            // period happens-before the horizon that it is compared with.
            let mut next = self.waiting.swap(ptr::null_mut(), Ordering::Acquire);
            let horizon = reclaim::horizon();
            let mut freed = false;
            while !next.is_null() {
                // SAFETY: the batch came from `Box::into_raw` in `Chain`, and by the swap it is ours alone.
                let batch = unsafe { Box::from_raw(next) };
                next = batch.next;
                freed |= kept.free_or_keep(batch, horizon);
            }
            if !freed {
                self.in_vain.store(horizon, Ordering::Relaxed);
            }
        }
        self.wait(kept);
    }

    /// Puts batches to those that wait.
    fn wait(&self, chain: Chain<V>) {
        if chain.last.is_null() {
            return;
        }
        // Relaxed: as in `retire`.
        let mut first = self.waiting.load(Ordering::Relaxed);
        loop {
            // SAFETY: the chain's batches are live and ours alone.
            unsafe { (*chain.last).next = first };
            // Release: pairs with the Acquire in `collect`.
            match self.waiting.compare_exchange(first, chain.first, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }
}

impl<V> Chain<V> {
    /// Drops the batch if its grace period is over, and takes it in if not; tells whether it was dropped.
    fn free_or_keep(&mut self, mut batch: Box<Batch<V>>, horizon: u64) -> bool {
        let over = batch.grace.is_over(horizon);
        if !over {
            batch.next = self.first;
            self.first = Box::into_raw(batch);
            if self.last.is_null() {
                self.last = self.first;
            }
        }
        over
    }
}

impl<V> Drop for Limbo<V> {
    /// Frees everything: with the map, nobody is left who could read it.
    fn drop(&mut self) {
        // Relaxed, here and below: `&mut self` says that every other access happened-before.
        let first = self.retired.load(Ordering::Relaxed);
        drop(Buckets::<V> { first, values: PhantomData });
        let mut next = self.waiting.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: the batch came from `Box::into_raw`, and nobody else is left to take it.
            next = unsafe { Box::from_raw(next) }.next;
        }
    }
}

impl<V> Drop for Buckets<V> {
    fn drop(&mut self) {
        while let Some(header) = NonNull::new(self.first) {
            // SAFETY: the header was pushed by `retire` and is ours alone; it is live until the next line but one.
            self.first = unsafe { Header::next(header) };
            // SAFETY: `Replaced::new`'s caller says where it came from; that no reader is left is what a `Buckets` is
            // dropped for: either the grace period of its batch is over, or the map is gone.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}
