//! Limbo: keeps replaced buckets until no reader can hold them.
//!
//! Writers push replaced buckets to a list. Each 128th push takes the whole list as a batch, and
//! starts a grace period for the batch. The batch waits in a second list. The next pass over this
//! list frees the batch if all threads have kept reading. If a thread is idle, that pass makes the
//! barrier on the thread's behalf, once for all waiting batches. The map owns both lists. So
//! retired buckets are freed with the map at the latest, and only writers of the map drop them.
//!
//! Both lists are Treiber stacks (*Systems Programming: Coping with Parallelism*, 1986). A writer
//! takes such a list as a whole, by a swap, and never pops one node. So only the owner of a node
//! reads the node, and a reused address does no harm.
//!
//! Freeing runs the destructors of values, which may write to caches. A thread may collect a limbo
//! within the collection of another limbo, [`DEEPEST`] limbos deep. A thread never collects a limbo
//! within the collection of the same limbo. A collection that is refused for one of these reasons
//! is *due*: the next push to that limbo that is not refused makes the collection.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
// Not of `sync`: the counts only decide when to collect, so a model need not explore them.
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::super::reclaim::{self, Grace, Horizon};
use super::super::sync::{AtomicPtr, Ordering, batch, thread_cell};
use super::bucket::{Header, OwnedBucket};

/// Retired buckets of one map. Occupies cache lines of its own: writers write here, and lookups
/// read the map's neighbouring fields.
#[repr(align(128))]
pub(super) struct Limbo<V> {
    /// The buckets that were retired since the last batch was taken. Linked by [`Header::next`].
    retired: AtomicPtr<Header>,
    /// The number of buckets that were ever retired.
    count: AtomicU64,
    /// The number of buckets in a batch.
    every: u64,
    /// Whether a collection was refused and has not been made since.
    due: AtomicBool,
    /// The batches whose grace period was not over at the last pass.
    waiting: AtomicPtr<Batch<V>>,
    /// The horizon at which the last pass freed no waiting batch, or [`NOT_STALLED`]. A hint: a
    /// writer may put batches back during the pass of another writer. Passes may then skip these
    /// batches until the horizon moves.
    stalled_at: AtomicU64,
    /// After the kernel has refused a fence: the number of collections before the next request.
    /// Zero if the kernel did not refuse the last request.
    pause: AtomicU64,
    /// The number of these collections that were made.
    paused: AtomicU64,
}

/// The longest [`Limbo::pause`], in collections.
const LONGEST_PAUSE: u64 = 1_024;

/// The number of limbos that a thread collects at a time. Each collection runs in a destructor that
/// the previous collection called.
///
/// Each collection takes stack, so the number is small. Few caches have values that write to
/// another cache when they are dropped, and fewer form chains of such caches.
const DEEPEST: usize = 8;

/// No horizon.
const NOT_STALLED: u64 = u64::MAX;

thread_cell! {
    /// The addresses of the limbos that this thread is collecting. Free places are zero.
    static COLLECTING: Cell<[usize; DEEPEST]> = Cell::new([0; DEEPEST]);
}

#[cfg(test)]
std::thread_local! {
    /// The number of batches that this thread has compared with a horizon. Only the crate can count
    /// them: see the tests in `barrier.rs`.
    pub(crate) static CHECKED_BATCHES: Cell<u64> = const { Cell::new(0) };
}

/// Marks a limbo as collected by this thread, until the mark is dropped. The marks of a thread may
/// end in any order: a destructor may be suspended in a coroutine.
struct Collecting(usize);

impl Collecting {
    /// Marks the limbo. Returns `None` if this thread is collecting the limbo or [`DEEPEST`]
    /// others, or if the thread is ending.
    fn begin<V>(limbo: &Limbo<V>) -> Option<Self> {
        // The limbo is borrowed while the collection runs, so no other limbo has the address. A
        // coroutine that never ends, or that ends on another thread, leaves its mark. Then this
        // thread does not collect a later limbo at that address.
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

/// A bucket that has left its slot and must be retired.
#[must_use = "a bucket that is not retired leaks"]
pub(super) struct Replaced<V>(Option<NonNull<Header>>, PhantomData<V>);

/// Retired buckets that one writer owns, linked by [`Header::next`]. Only [`free`](Self::free)
/// frees them: a writer that unwinds leaks them.
struct Buckets<V> {
    first: *mut Header,
    values: PhantomData<V>,
}

/// Retired buckets, and the grace period after which they are freed. The grace period started after
/// all of them had left their slots.
struct Batch<V> {
    grace: Grace,
    next: *mut Batch<V>,
    buckets: Buckets<V>,
}

/// Batches that one writer owns, linked from the first on.
struct Batches<V>(*mut Batch<V>);

/// Batches that one writer owns, linked from the first to the last.
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
    /// `header` must be null, or a result of [`OwnedBucket::into_raw`] of the same `V`. Its bucket
    /// must have left its slot, and must not be published again. No other `Replaced` may own the
    /// bucket.
    pub(super) unsafe fn new(header: *mut Header) -> Self {
        Self(NonNull::new(header), PhantomData)
    }
}

impl<V> Limbo<V> {
    /// Makes a limbo for a map of `slots` slots. The limbo of a small map frees more often, so that
    /// the garbage is in proportion to the map.
    pub(super) fn for_slots(slots: usize) -> Self {
        Self {
            retired: AtomicPtr::new(ptr::null_mut()),
            count: AtomicU64::new(0),
            every: batch().min((slots as u64 / 2).max(8)),
            waiting: AtomicPtr::new(ptr::null_mut()),
            due: AtomicBool::new(false),
            stalled_at: AtomicU64::new(NOT_STALLED),
            pause: AtomicU64::new(0),
            paused: AtomicU64::new(0),
        }
    }

    /// Keeps a bucket until its grace period is over, and at intervals frees the batches whose
    /// grace period is over. Lock-free.
    ///
    /// Call `retire` without a guard: the guard of the caller would delay the freeing.
    ///
    /// # Safety
    ///
    /// `replaced` must have left a slot of the map that owns this limbo. The limbo frees its
    /// buckets when it is dropped, even if a reader holds one.
    pub(super) unsafe fn retire(&self, replaced: Replaced<V>) {
        let Some(header) = replaced.0 else { return };
        // Relaxed: this thread links to the first bucket and does not read it.
        let mut first = self.retired.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller of `Replaced::new` gave the header to `replaced` alone, and the
            // header is not in the list yet.
            unsafe { Header::set_next(header, first) };
            // Release: pairs with the Acquire in `collect`, for the link and the unlinking (G7.1).
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
        // Relaxed: the count only decides when to collect.
        let full = (self.count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every);
        // Relaxed: a hint. A later push reads a value that this push misses.
        if full || self.due.load(Ordering::Relaxed) {
            self.collect_or_remember();
        }
    }

    #[cold]
    fn collect_or_remember(&self) {
        let collecting = Collecting::begin(self);
        // Relaxed: a hint, as in `retire`.
        self.due.store(collecting.is_none(), Ordering::Relaxed);
        if collecting.is_some() {
            self.collect();
        }
    }

    /// Starts a grace period for the retired buckets, and frees the batches whose grace period is
    /// over.
    fn collect(&self) {
        // Acquire: pairs with the Release in `retire`. Every push is a read-modify-write, so the
        // swap acquires all pushes. Every unlinking therefore happens-before the start of the grace
        // period (G7.1).
        let first = self.retired.swap(ptr::null_mut(), Ordering::Acquire);
        let Some(header) = NonNull::new(first) else { return };
        debug_assert_ne!(
            // SAFETY: `retire` pushed the header, and by the swap this call alone owns it.
            unsafe { Header::next(header) },
            first,
            "the swap alone makes the links visible"
        );
        // SAFETY: `retire` linked these buckets, and by the swap this call alone owns them.
        let buckets = unsafe { Buckets::from_raw(first) };
        // SAFETY: the caller of `Replaced::new` unlinked each bucket before its push, and the swap
        // acquired the pushes. A bucket that has left its slot is not published again.
        let grace = unsafe { Grace::start() };
        let newest = Box::new(Batch { grace, next: ptr::null_mut(), buckets });
        let mut kept = Chain::default();
        // Relaxed, here and below: hints. A pass that is skipped or that frees nothing does no
        // harm.
        let (pause, stalled_at) =
            (self.pause.load(Ordering::Relaxed), self.stalled_at.load(Ordering::Relaxed));
        let may_fence = pause == 0 || self.paused.fetch_add(1, Ordering::Relaxed) + 1 >= pause;
        // Every waiting batch started before the hint, with or without a fence in the pass that
        // stored the hint. So an unchanged horizon frees no waiting batch.
        if stalled_at != NOT_STALLED && stalled_at == reclaim::horizon().furthest(may_fence) {
            kept.push(newest);
            kept.append_to(&self.waiting);
            return;
        }
        // Acquire: pairs with the Release in `append_to`, for the batches and the starts of their
        // grace periods (G7.3).
        let older = self.waiting.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: `append_to` linked these batches, and by the swap this call alone owns them.
        let older = unsafe { Batches::from_raw(older) };
        let mut horizon = reclaim::horizon();
        let (mut stalled, mut fence) = (!older.0.is_null(), None);
        for batch in older {
            fence = fence.max(batch.grace.wants_fence(&horizon));
            // SAFETY: the swap of `waiting` acquired the start, and the horizon was read after it.
            stalled &= !unsafe { kept.free_or_push(batch, &horizon) };
        }
        let mut fenced = may_fence;
        if may_fence && let Some(fence) = fence {
            if let Some(past_fence) = fence.make() {
                // Relaxed: a hint, as above.
                self.pause.store(0, Ordering::Relaxed);
                horizon = past_fence;
                for batch in std::mem::take(&mut kept).into_batches() {
                    // SAFETY: the fence's horizon is younger than the one before it.
                    stalled &= !unsafe { kept.free_or_push(batch, &horizon) };
                }
            } else {
                fenced = false;
                // Relaxed, both: hints, as above.
                self.pause.store((2 * pause).clamp(1, LONGEST_PAUSE), Ordering::Relaxed);
                self.paused.store(0, Ordering::Relaxed);
            }
        }
        // The newest batch may wait for threads that have not pinned since. They have time until
        // the next pass, which makes the fence.
        stalled &= newest.grace.wants_fence(&horizon).is_none();
        // SAFETY: this call started the grace period before it read any horizon.
        unsafe { kept.free_or_push(newest, &horizon) };
        kept.append_to(&self.waiting);
        // Without the fence, this pass has freed every batch that its horizon allows.
        let hint = if stalled || !fenced { horizon.furthest(fenced) } else { NOT_STALLED };
        self.stalled_at.store(hint, Ordering::Relaxed);
    }
}

impl<V> Batches<V> {
    /// # Safety
    ///
    /// `first` must be null, or the first of batches that [`Chain::push`] linked and that no other
    /// code uses from now on.
    unsafe fn from_raw(first: *mut Batch<V>) -> Self {
        Self(first)
    }
}

impl<V> Iterator for Batches<V> {
    type Item = Box<Batch<V>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: `Chain::push` made the pointer by `Box::into_raw`. The caller of `from_raw` gave
        // the batch to `self` alone.
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

    fn into_batches(self) -> Batches<V> {
        // SAFETY: `push` linked the batches, and the chain that owned them ends here.
        unsafe { Batches::from_raw(self.first) }
    }

    /// Frees the batch if its grace period is over, and otherwise keeps the batch. Returns whether
    /// the batch was freed.
    ///
    /// # Safety
    ///
    /// The start of the batch's grace period must happen-before the reading of `horizon`.
    unsafe fn free_or_push(&mut self, batch: Box<Batch<V>>, horizon: &Horizon) -> bool {
        #[cfg(test)]
        CHECKED_BATCHES.set(CHECKED_BATCHES.get() + 1);
        // SAFETY: the caller keeps the same contract.
        let over = unsafe { batch.grace.is_over(horizon) };
        if over {
            // SAFETY: the grace period started after these buckets had left their slots, and is
            // over. So no reader holds one of these buckets, or can load one.
            unsafe { batch.buckets.free() };
        } else {
            self.push(batch);
        }
        over
    }

    /// Adds all batches to `list`.
    fn append_to(self, list: &AtomicPtr<Batch<V>>) {
        if self.last.is_null() {
            return;
        }
        // Relaxed: as in `retire`.
        let mut first = list.load(Ordering::Relaxed);
        loop {
            // SAFETY: `push` made the batch, and the chain owns it until the exchange succeeds.
            unsafe { (*self.last).next = first };
            // Release: pairs with the Acquire in `collect` (G7.3).
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
    /// `first` must be null, or the first of buckets that [`Limbo::retire`] linked and that no
    /// other code frees or links.
    unsafe fn from_raw(first: *mut Header) -> Self {
        Self { first, values: PhantomData }
    }

    /// # Safety
    ///
    /// No reader may hold one of these buckets, or be able to load one.
    unsafe fn free(self) {
        let mut first = self.first;
        while let Some(header) = NonNull::new(first) {
            // SAFETY: the caller of `from_raw` gave the header to `self` alone. The header is live:
            // the next statement frees it.
            first = unsafe { Header::next(header) };
            // SAFETY: the caller of `Replaced::new` promises a header of `into_raw`. The caller of
            // this function promises that no reader holds its bucket.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}

impl<V> Drop for Limbo<V> {
    /// Frees all buckets: readers borrow the map, so no reader is left when the map is dropped.
    fn drop(&mut self) {
        // Relaxed, here and below: with `&mut self` every other access happened-before.
        let retired = self.retired.load(Ordering::Relaxed);
        // SAFETY: `retire` linked these buckets, and `&mut self` owns them.
        let retired = unsafe { Buckets::<V>::from_raw(retired) };
        // SAFETY: the callers of `retire` gave buckets of this map alone. The readers of this map
        // have ended.
        unsafe { retired.free() };
        let waiting = self.waiting.load(Ordering::Relaxed);
        // SAFETY: `append_to` linked these batches, and `&mut self` owns them.
        for batch in unsafe { Batches::from_raw(waiting) } {
            // SAFETY: as for the retired buckets.
            unsafe { batch.buckets.free() };
        }
    }
}
