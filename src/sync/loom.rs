//! The concurrent primitives of a model, over loom's: the twin of `sync/mod.rs`, with the same
//! names.

pub(super) use loom::cell::Cell;
pub(super) use loom::sync::atomic::Ordering;
pub(super) use loom::sync::{Mutex, MutexGuard};
pub(super) use loom::{lazy_static, thread_local, thread_local as thread_cell};

pub(super) use memory::{alloc, dealloc};

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::sync::{LockResult, atomic};

/// Returns a number that no other thread has. An address would not do: loom makes a thread's locals
/// when the thread first uses them, so two living threads can have had the same address.
pub(super) fn this_thread() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    thread_local! {
        // Relaxed: only the numbers must differ.
        static HERE: u64 = LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
    }
    HERE.with(|here| *here)
}

/// Reuses freed memory at once, for the next allocation of the same layout. Reuse is the worst case
/// for code that takes an address for the object that had this address before.
///
/// The bookkeeping is not part of the model. Loom runs all threads of a model on one thread of the
/// operating system, and switches threads only in loom's own operations.
mod memory {
    use std::alloc::{self, Layout};
    use std::cell::RefCell;
    use std::collections::HashMap;

    std::thread_local!(static BLOCKS: RefCell<Blocks> = RefCell::default());

    #[derive(Default)]
    struct Blocks {
        used: HashMap<*mut u8, Layout>,
        /// The block that was freed last is used first.
        free: HashMap<Layout, Vec<*mut u8>>,
    }

    /// # Safety
    ///
    /// As for [`std::alloc::alloc`].
    pub(in super::super) unsafe fn alloc(layout: Layout) -> *mut u8 {
        BLOCKS.with_borrow_mut(|blocks| {
            let left = blocks.free.get_mut(&layout).and_then(Vec::pop);
            // SAFETY: the caller keeps the same contract.
            let block = left.unwrap_or_else(|| unsafe { alloc::alloc(layout) });
            blocks.used.insert(block, layout);
            block
        })
    }

    /// # Safety
    ///
    /// As for [`std::alloc::dealloc`].
    ///
    /// # Panics
    ///
    /// If the block was allocated with another layout.
    pub(in super::super) unsafe fn dealloc(block: *mut u8, layout: Layout) {
        BLOCKS.with_borrow_mut(|blocks| {
            assert_eq!(blocks.used.remove(&block), Some(layout), "freed with another layout");
            blocks.free.entry(layout).or_default().push(block);
        });
    }

    impl Drop for Blocks {
        fn drop(&mut self) {
            for (layout, blocks) in self.free.drain() {
                for block in blocks {
                    // SAFETY: `alloc` allocated the block with this layout, and no thread uses the
                    // block.
                    unsafe { alloc::dealloc(block, layout) };
                }
            }
        }
    }
}

loom::lazy_static! {
    static ref BATCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
}

/// Returns one, unless a model has set another number. With batches of one, a retired bucket is
/// freed as early as possible.
pub(super) fn batch() -> u64 {
    BATCH.load(std::sync::atomic::Ordering::Relaxed)
}

/// Sets the batch size of the caches that this execution builds later. Such a cache starts a grace
/// period after `buckets` retired buckets.
pub fn retire_in_batches_of(buckets: u64) {
    BATCH.store(buckets, std::sync::atomic::Ordering::Relaxed);
}

/// The asymmetric barrier. In a model, each side is a `SeqCst` fence.
pub(super) mod barrier {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    loom::lazy_static! {
        static ref FENCES: AtomicUsize = AtomicUsize::new(0);
        static ref LEFT_OUT: AtomicBool = AtomicBool::new(false);
    }

    /// Removes all barriers until the end of this execution. A `SeqCst` fence also acquires and
    /// releases, which the light barrier does not. Models without barriers check what must hold
    /// without these extra orderings.
    pub(crate) fn leave_out() {
        LEFT_OUT.store(true, Relaxed);
    }

    /// Loom switches threads at accesses, not at fences, and explores other orders only for
    /// accesses that meet. So an access to one location precedes each fence. Loom then explores all
    /// operations of other threads between an access and the next fence.
    fn fence_apart() {
        if LEFT_OUT.load(Relaxed) {
            return;
        }
        FENCES.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn light() {
        fence_apart();
    }

    pub(crate) fn heavy() -> bool {
        fence_apart();
        true
    }
}

loom::thread_local! {
    static STEPS: Cell<usize> = Cell::new(0);
}

/// Returns the number of atomic operations of the current thread in this execution, including those
/// of pinning. Models bound the steps of a lookup by this number.
#[must_use]
pub fn steps() -> usize {
    STEPS.with(Cell::get)
}

fn step() {
    // An ending thread has no counter any more.
    STEPS.try_with(|steps| steps.set(steps.get() + 1)).ok();
}

/// Makes all accesses to one location meet.
///
/// For each location, loom remembers only the last access that another access may be put before. So
/// the load of a thread, just before its exchange, hides earlier loads of other threads. Loom then
/// does not explore the orders where the exchange precedes these loads. A store before each access,
/// to a location that represents the first one, corrects this: each store meets the last store of
/// any thread. If no thread exchanges what it has loaded, nothing is hidden, and the store is
/// omitted.
struct Meeting(atomic::AtomicUsize);

impl Meeting {
    fn new() -> Self {
        Self(atomic::AtomicUsize::new(0))
    }

    fn step(&self) {
        step();
        // Relaxed: only loom observes this store, and no thread reads it.
        self.0.store(0, Ordering::Relaxed);
    }
}

pub(super) struct AtomicU64(atomic::AtomicU64, Meeting);

impl AtomicU64 {
    pub(super) fn new(value: u64) -> Self {
        Self(atomic::AtomicU64::new(value), Meeting::new())
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.1.step();
        self.0.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        step();
        self.0.store(value, order);
    }

    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.1.step();
        self.0.fetch_add(value, order)
    }

    #[cfg(not(crossbeam_loom))]
    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.1.step();
        self.0.swap(value, order)
    }

    #[cfg(not(crossbeam_loom))]
    pub(super) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.1.step();
        self.0.compare_exchange(current, new, success, failure)
    }
}

/// An atomic that no thread exchanges for what it has loaded, so no access is hidden.
pub(super) struct StoredU64(atomic::AtomicU64);

impl StoredU64 {
    pub(super) fn new(value: u64) -> Self {
        Self(atomic::AtomicU64::new(value))
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        step();
        self.0.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        step();
        self.0.store(value, order);
    }

    pub(super) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        step();
        self.0.fetch_max(value, order)
    }
}

/// Returns a value that only the calling thread stores. Loom checks that, and switches no threads
/// here.
#[cfg(not(crossbeam_loom))]
pub(super) fn load_own(value: &StoredU64) -> u64 {
    // SAFETY: loom ends the execution if another thread's store is concurrent with this load.
    unsafe { value.0.unsync_load() }
}

/// A word that a thread claims by a store, and then exchanges if its claim is still there.
///
/// The store is a swap here. Loom does not know that no store comes between a read-modify-write and
/// the store that it read. So after a store, loom would let the same thread read the result of a
/// read-modify-write that comes before the store. A swap orders more than the store does: it
/// continues the release sequences of earlier exchanges. A reader of a claim uses no such order.
///
/// No thread exchanges what it has loaded, so no access is hidden.
pub(super) struct ClaimedU64(atomic::AtomicU64);

impl ClaimedU64 {
    pub(super) fn new(value: u64) -> Self {
        Self(atomic::AtomicU64::new(value))
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        step();
        self.0.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        step();
        self.0.swap(value, order);
    }

    pub(super) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        step();
        self.0.compare_exchange(current, new, success, failure)
    }
}

pub(super) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub(super) fn new(value: bool) -> Self {
        Self(atomic::AtomicBool::new(value))
    }

    pub(super) fn load(&self, order: Ordering) -> bool {
        step();
        self.0.load(order)
    }

    pub(super) fn store(&self, value: bool, order: Ordering) {
        step();
        self.0.store(value, order);
    }

    #[cfg(not(crossbeam_loom))]
    pub(super) fn compare_exchange(
        &self,
        current: bool,
        new: bool,
        success: Ordering,
        failure: Ordering,
    ) -> Result<bool, bool> {
        step();
        self.0.compare_exchange(current, new, success, failure)
    }
}

pub(super) struct AtomicPtr<T>(atomic::AtomicPtr<T>, Meeting);

impl<T> AtomicPtr<T> {
    pub(super) fn new(pointer: *mut T) -> Self {
        Self(atomic::AtomicPtr::new(pointer), Meeting::new())
    }

    pub(super) fn load(&self, order: Ordering) -> *mut T {
        self.1.step();
        self.0.load(order)
    }

    pub(super) fn swap(&self, pointer: *mut T, order: Ordering) -> *mut T {
        self.1.step();
        self.0.swap(pointer, order)
    }

    pub(super) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.1.step();
        self.0.compare_exchange(current, new, success, failure)
    }
}

loom::lazy_static! {
    static ref BLOCKED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
}

/// Returns how many times a thread of this execution has begun to wait for a shared load.
#[must_use]
pub fn times_blocked() -> usize {
    BLOCKED.load(std::sync::atomic::Ordering::Relaxed)
}

pub(super) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(super) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(super) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        // Relaxed: a count, of one thread of the operating system.
        BLOCKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.wait(guard)
    }
}

impl std::ops::Deref for Condvar {
    type Target = loom::sync::Condvar;

    fn deref(&self) -> &loom::sync::Condvar {
        &self.0
    }
}

/// Represents the whole memory of a snapshot. Loom reports a read that is not ordered after the
/// writes that built the snapshot. Loom also reports a freeing that is not ordered after the reads,
/// and a snapshot that was not freed.
#[derive(Debug)]
pub(super) struct AccessCheck(Track<UnsafeCell<()>>);

impl AccessCheck {
    pub(super) fn new() -> Self {
        Self(Track::new(UnsafeCell::new(())))
    }

    pub(super) fn reading(&self) -> impl Sized + use<> {
        self.0.get_ref().get()
    }

    pub(super) fn writing<R>(&self, write: impl FnOnce() -> R) -> R {
        self.0.get_ref().with_mut(|_| write())
    }
}

/// Returns the same seed in every execution, because loom replays executions.
pub(super) fn random_seed() -> [u64; 2] {
    [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]
}
