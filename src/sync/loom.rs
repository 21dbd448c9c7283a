//! What the concurrent code is built from, in a model: the twin of `sync.rs`, with the same names.

pub(super) use loom::cell::Cell;
pub(super) use loom::sync::atomic::Ordering;
pub(super) use loom::{lazy_static, thread_local, thread_local as thread_cell};

pub(super) use memory::{alloc, dealloc};

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::sync::atomic;

/// Hands freed memory out again at once, to the next caller that asks for the same layout. This is
/// the worst case for code that takes an address for the object that was there before.
///
/// Its books are no part of the model: loom runs all threads of a model on one thread of the
/// operating system, and switches in its own operations alone.
mod memory {
    use std::alloc::{self, Layout};
    use std::cell::RefCell;
    use std::collections::HashMap;

    std::thread_local!(static BLOCKS: RefCell<Blocks> = RefCell::default());

    #[derive(Default)]
    struct Blocks {
        used: HashMap<*mut u8, Layout>,
        /// What was freed last is used first.
        free: HashMap<Layout, Vec<*mut u8>>,
    }

    /// # Safety
    ///
    /// As of [`std::alloc::alloc`].
    pub(in super::super) unsafe fn alloc(layout: Layout) -> *mut u8 {
        BLOCKS.with_borrow_mut(|blocks| {
            let left = blocks.free.get_mut(&layout).and_then(Vec::pop);
            // SAFETY: the caller's promise.
            let block = left.unwrap_or_else(|| unsafe { alloc::alloc(layout) });
            blocks.used.insert(block, layout);
            block
        })
    }

    /// # Safety
    ///
    /// As of [`std::alloc::dealloc`].
    ///
    /// # Panics
    ///
    /// When the layout is not the one that the block was allocated with.
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
                    // SAFETY: allocated in `alloc` with this layout, and no thread has it.
                    unsafe { alloc::dealloc(block, layout) };
                }
            }
        }
    }
}

loom::lazy_static! {
    static ref BATCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
}

/// One, unless a model asks otherwise: then a retired bucket may be freed as early as ever
/// possible.
pub(super) fn batch() -> u64 {
    BATCH.load(std::sync::atomic::Ordering::Relaxed)
}

/// Caches that are built from now on, in this execution, start no grace period before so many
/// buckets were retired.
pub fn retire_in_batches_of(buckets: u64) {
    BATCH.store(buckets, std::sync::atomic::Ordering::Relaxed);
}

/// The asymmetric barrier, as what it amounts to: a `SeqCst` fence on both sides.
pub(super) mod barrier {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    loom::lazy_static! {
        static ref FENCES: AtomicUsize = AtomicUsize::new(0);
        static ref LEFT_OUT: AtomicBool = AtomicBool::new(false);
    }

    /// For the rest of this execution there are no barriers. A `SeqCst` fence acquires and releases
    /// as well, which the light barrier does not; so what must hold without that is looked at
    /// without it.
    pub(crate) fn leave_out() {
        LEFT_OUT.store(true, Relaxed);
    }

    /// Loom switches threads at accesses, not at fences, and tries another order only of accesses
    /// that meet. So all fences are preceded by an access to one location: then whatever may
    /// come between an access and the fence after it is explored.
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

/// How many atomic operations the current thread has done in this execution, those of pinning
/// included. Models bound a lookup's steps by it.
#[must_use]
pub fn steps() -> usize {
    STEPS.with(Cell::get)
}

fn step() {
    // In a thread that is ending there is nothing left to count.
    STEPS.try_with(|steps| steps.set(steps.get() + 1)).ok();
}

/// Makes all accesses to one location meet.
///
/// Of the accesses to a location loom remembers only the last that another may be put before. A
/// thread's own load, just before its exchange, so hides the other threads' loads before that, and
/// orders in which the exchange comes first are not tried. A store before each access, to a
/// location that stands for the first, makes up for it: each store meets the last, of whichever
/// thread. Where no thread exchanges what it has loaded, nothing is hidden, and it is left out.
struct Meeting(atomic::AtomicUsize);

impl Meeting {
    fn new() -> Self {
        Self(atomic::AtomicUsize::new(0))
    }

    fn step(&self) {
        step();
        // Relaxed: it is to be seen by loom, and by no thread.
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

/// One that no thread exchanges: so nothing is hidden.
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

/// Stands for a snapshot's whole memory. Loom reports each read that no happens-before orders after
/// the writes that built the snapshot, each freeing that none orders after the reads, and each
/// snapshot that was not freed.
#[derive(Debug)]
pub(super) struct AccessCheck(Track<UnsafeCell<()>>);

impl AccessCheck {
    pub(super) fn new() -> Self {
        Self(Track::new(UnsafeCell::new(())))
    }

    pub(super) fn reading<R>(&self, read: impl FnOnce() -> R) -> R {
        self.0.get_ref().with(|_| read())
    }

    pub(super) fn writing<R>(&self, write: impl FnOnce() -> R) -> R {
        self.0.get_ref().with_mut(|_| write())
    }
}

/// The same in every execution, as loom needs it to replay one.
pub(super) fn random_seed() -> [u64; 2] {
    [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]
}
