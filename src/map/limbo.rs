//! Limbo: the buckets that were replaced, until no reader can hold them.
//!
//! Writers push what they have replaced to a list. Each 128th push takes the whole list and starts
//! a grace period for it; it waits in a second list, where the next look finds the grace period
//! over if all threads that read have gone on reading. Where one rests, that look makes the barrier
//! on its behalf, for all that waits. All of it belongs to the map, so what a map has retired is
//! freed with it at the latest, and is dropped by nobody but its own writers.
//!
//! Both lists are Treiber stacks (*Systems Programming: Coping with Parallelism*, 1986) of which
//! nothing is popped but all at once, by a swap: so no node is looked at by anybody but its owner,
//! and addresses that are used again do no harm.
//!
//! Freeing runs values' destructors, which may write to caches. A thread collects one limbo within
//! another's collection, [`DEEPEST`] limbos deep, and never a limbo within its own. A collection
//! that is refused for one of these reasons is remembered as *due*, and made by the next push to
//! that limbo which is not refused.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
// Not of `sync`: what is counted decides when to collect, and nothing else, so a model need not
// explore it.
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::super::reclaim::{self, Grace, Horizon};
use super::super::sync::{AtomicPtr, Ordering, batch, thread_cell};
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
    /// A collection was refused, and has not been made since.
    due: AtomicBool,
    /// Batches whose grace period was not over when they were last looked at.
    waiting: AtomicPtr<Batch<V>>,
    /// The horizon at which the last look was in vain, or [`NOT_IN_VAIN`]. A hint: batches that
    /// one writer puts back while another looks in vain may be overlooked until the horizon
    /// moves.
    in_vain: AtomicU64,
    /// After the kernel has refused a fence: how many collections go by before another is asked
    /// for. Zero if it did not refuse the last one.
    pause: AtomicU64,
    /// How many of them have gone by.
    paused: AtomicU64,
}

/// The longest [`Limbo::pause`], in collections.
const LONGEST_PAUSE: u64 = 1_024;

/// How many limbos a thread collects at a time, each within a destructor that the one before it has
/// run.
///
/// Each takes stack, so the number is small. Caches whose values write to another cache when they
/// are dropped are rare, and chains of such caches rarer.
const DEEPEST: usize = 8;

/// No horizon.
const NOT_IN_VAIN: u64 = u64::MAX;

thread_cell! {
    /// The addresses of the limbos that this thread is collecting; zero in places that are free.
    static COLLECTING: Cell<[usize; DEEPEST]> = Cell::new([0; DEEPEST]);
}

#[cfg(test)]
std::thread_local! {
    /// How many batches this thread has judged. Only the crate can count that: see the tests in `barrier.rs`.
    pub(crate) static JUDGED: Cell<u64> = const { Cell::new(0) };
}

/// Marks a limbo as collected by this thread, until it is dropped. The marks of a thread may end in
/// any order: a destructor may be suspended in a coroutine.
struct Collecting(usize);

impl Collecting {
    /// `None` if this thread is collecting the limbo, or [`DEEPEST`] others, or is about to end.
    fn begin<V>(limbo: &Limbo<V>) -> Option<Self> {
        // Borrowed while the collection runs, so no other limbo has the address. A coroutine that
        // never ends, or ends on another thread, leaves its mark: then this thread does not
        // collect what is there later.
        let address = ptr::from_ref(limbo).addr();
        let begin = |collecting: &Cell<[usize; DEEPEST]>| {
            let mut limbos = collecting.get();
            if limbos.contains(&address) {
                return None;
            }
            *limbos.iter_mut().find(|place| **place == 0)? = address;
            collecting.set(limbos);
            Some(Self(address))
        };
        COLLECTING.try_with(begin).ok().flatten()
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        let end = |collecting: &Cell<[usize; DEEPEST]>| {
            collecting.set(collecting.get().map(|limbo| if limbo == self.0 { 0 } else { limbo }));
        };
        COLLECTING.try_with(end).ok();
    }
}

/// What has left its slot, and must be retired.
#[must_use = "what is not retired leaks"]
pub(super) struct Replaced<V>(Option<NonNull<Header>>, PhantomData<V>);

/// Retired buckets that nobody else has in hand. Not freed but by [`free`](Self::free): whoever
/// unwinds leaves them be.
struct Buckets<V> {
    first: *mut Header,
    values: PhantomData<V>,
}

struct Batch<V> {
    grace: Grace,
    next: *mut Batch<V>,
    buckets: Buckets<V>,
}

/// Batches that nobody else has in hand, from the first on: a chain's, or all of a list's.
struct Batches<V>(*mut Batch<V>);

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
    /// `header` must be null or come from [`OwnedBucket::into_raw`] of the same `V`; it must have
    /// been made unreachable for guards made from now on, and nobody else may retire it.
    pub(super) unsafe fn new(header: *mut Header) -> Self {
        Self(NonNull::new(header), PhantomData)
    }
}

impl<V> Limbo<V> {
    /// For a map of so many slots. A small one frees more often, so that what waits stays in
    /// proportion.
    pub(super) fn for_slots(slots: usize) -> Self {
        Self {
            retired: AtomicPtr::new(ptr::null_mut()),
            count: AtomicU64::new(0),
            every: batch().min((slots as u64).max(8)),
            waiting: AtomicPtr::new(ptr::null_mut()),
            due: AtomicBool::new(false),
            in_vain: AtomicU64::new(NOT_IN_VAIN),
            pause: AtomicU64::new(0),
            paused: AtomicU64::new(0),
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
            // SAFETY: `Replaced::new`'s caller has left the header to us; it is not in the list
            // yet.
            unsafe { Header::set_next(header, first) };
            // Release: pairs with the Acquire in `collect`, so that the link and the unlinking are
            // visible there.
            match self.retired.compare_exchange(
                first,
                header.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(other) => first = other,
            }
        }
        // Relaxed: it decides when to collect, and orders nothing.
        let full = (self.count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every);
        // Relaxed: a hint. One that is missed is found by a later push.
        if full || self.due.load(Ordering::Relaxed) {
            self.collect_or_remember();
        }
    }

    #[cold]
    fn collect_or_remember(&self) {
        let collecting = Collecting::begin(self);
        // Relaxed: as in `retire`.
        self.due.store(collecting.is_none(), Ordering::Relaxed);
        if collecting.is_some() {
            self.collect();
        }
    }

    /// Starts a grace period for what was retired, and frees everything whose grace period is over.
    fn collect(&self) {
        // Acquire: pairs with the Release in `retire`. Every push is a read-modify-write, so all of
        // them are acquired with the last, and all their unlinkings happen-before the start
        // of the grace period.
        let first = self.retired.swap(ptr::null_mut(), Ordering::Acquire);
        let Some(header) = NonNull::new(first) else { return };
        debug_assert_ne!(
            // SAFETY: `retire` pushed the header, and by the swap this call alone owns it.
            unsafe { Header::next(header) },
            first,
            "the swap alone makes the links visible"
        );
        let buckets = Buckets { first, values: PhantomData };
        let newest = Box::new(Batch { grace: Grace::start(), next: ptr::null_mut(), buckets });
        let mut kept = Chain::default();
        // Relaxed, here and below: a look that is left out, or made in vain, does no harm.
        let (pause, in_vain) =
            (self.pause.load(Ordering::Relaxed), self.in_vain.load(Ordering::Relaxed));
        let may_fence = pause == 0 || self.paused.fetch_add(1, Ordering::Relaxed) + 1 >= pause;
        // No batch that waits started before the hint, whether the look that left it made the fence
        // or not. So a horizon that is still there would free none of them.
        if in_vain != NOT_IN_VAIN && in_vain == reclaim::horizon().furthest(may_fence) {
            kept.push(newest);
            kept.append_to(&self.waiting);
            return;
        }
        // Acquire: pairs with the Release in `append_to`, so that each batch is visible, and the
        // start of its grace period happens-before the horizon that it is compared with.
        let older = Batches(self.waiting.swap(ptr::null_mut(), Ordering::Acquire));
        let mut horizon = reclaim::horizon();
        let (mut in_vain, mut fence) = (!older.0.is_null(), None);
        for batch in older {
            fence = fence.max(batch.grace.wants_fence(&horizon));
            in_vain &= !kept.free_or_push(batch, &horizon);
        }
        let mut fenced = may_fence;
        if may_fence && let Some(fence) = fence {
            if let Some(past_fence) = fence.make() {
                // Relaxed: as above.
                self.pause.store(0, Ordering::Relaxed);
                horizon = past_fence;
                for batch in Batches(std::mem::take(&mut kept).first) {
                    in_vain &= !kept.free_or_push(batch, &horizon);
                }
            } else {
                fenced = false;
                // Relaxed, both: as above.
                self.pause.store((2 * pause).clamp(1, LONGEST_PAUSE), Ordering::Relaxed);
                self.paused.store(0, Ordering::Relaxed);
            }
        }
        // The newest may wait for threads that have yet to come by. They have until the next look,
        // which makes the fence.
        in_vain &= newest.grace.wants_fence(&horizon).is_none();
        kept.free_or_push(newest, &horizon);
        kept.append_to(&self.waiting);
        // Without the fence, all that this horizon allows has been freed.
        let hint = if in_vain || !fenced { horizon.furthest(fenced) } else { NOT_IN_VAIN };
        self.in_vain.store(hint, Ordering::Relaxed);
    }
}

impl<V> Iterator for Batches<V> {
    type Item = Box<Batch<V>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: the batch came from `Box::into_raw` in `Chain::push`, and is ours alone.
        let batch = unsafe { Box::from_raw(self.0) };
        self.0 = batch.next;
        Some(batch)
    }
}

impl<V> Chain<V> {
    fn push(&mut self, mut batch: Box<Batch<V>>) {
        batch.next = self.first;
        self.first = Box::into_raw(batch);
        if self.last.is_null() {
            self.last = self.first;
        }
    }

    /// Frees the batch if its grace period is over, and takes it in if not; tells whether it was
    /// freed.
    ///
    /// `horizon` must have been read after the start of the batch's grace period.
    fn free_or_push(&mut self, batch: Box<Batch<V>>, horizon: &Horizon) -> bool {
        #[cfg(test)]
        JUDGED.set(JUDGED.get() + 1);
        let over = batch.grace.is_over(horizon);
        if over {
            // SAFETY: the grace period started after these buckets had left their slots, and is
            // over.
            unsafe { batch.buckets.free() };
        } else {
            self.push(batch);
        }
        over
    }

    /// Puts all batches to those of `list`.
    fn append_to(self, list: &AtomicPtr<Batch<V>>) {
        if self.last.is_null() {
            return;
        }
        // Relaxed: as in `retire`.
        let mut first = list.load(Ordering::Relaxed);
        loop {
            // SAFETY: the chain's batches are live and ours alone.
            unsafe { (*self.last).next = first };
            // Release: pairs with the Acquire in `collect`.
            match list.compare_exchange(first, self.first, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }
}

impl<V> Buckets<V> {
    /// # Safety
    ///
    /// No reader may have one of them any more, nor get one.
    unsafe fn free(self) {
        let mut first = self.first;
        while let Some(header) = NonNull::new(first) {
            // SAFETY: the header was pushed by `retire` and is ours alone; it is live until the
            // next line but one.
            first = unsafe { Header::next(header) };
            // SAFETY: `Replaced::new`'s caller says where it came from; that no reader has it is
            // this caller's promise.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}

impl<V> Drop for Limbo<V> {
    /// Frees everything: with the map, nobody is left who could read it.
    fn drop(&mut self) {
        // Relaxed, here and below: `&mut self` says that every other access happened-before.
        let retired =
            Buckets::<V> { first: self.retired.load(Ordering::Relaxed), values: PhantomData };
        // SAFETY: readers borrow the map.
        unsafe { retired.free() };
        for batch in Batches(self.waiting.load(Ordering::Relaxed)) {
            // SAFETY: readers borrow the map.
            unsafe { batch.buckets.free() };
        }
    }
}
