//! The system's allocator, with counters, for the benchmarks that measure memory.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Counts the allocated bytes, and the largest request since [`forget_largest`].
///
/// A counter wraps, so a difference is right also where memory is freed that was not counted.
///
/// [`forget_largest`]: Self::forget_largest
pub(crate) struct Counting {
    on: AtomicBool,
    live: AtomicUsize,
    largest: AtomicUsize,
}

// Relaxed, everywhere in this file: the counters guard no data.
impl Counting {
    /// Returns an allocator that counts from the start.
    pub(crate) const fn on() -> Self {
        Self::new(true)
    }

    /// Returns an allocator that counts only within [`counted`](Self::counted). At other times it
    /// costs a load and a branch.
    pub(crate) const fn off() -> Self {
        Self::new(false)
    }

    const fn new(on: bool) -> Self {
        Self { on: AtomicBool::new(on), live: AtomicUsize::new(0), largest: AtomicUsize::new(0) }
    }

    /// Runs `work`, and returns its result and the bytes that it allocated and did not free.
    pub(crate) fn counted<R>(&self, work: impl FnOnce() -> R) -> (R, usize) {
        let was_on = self.on.swap(true, Ordering::Relaxed);
        let before = self.live.load(Ordering::Relaxed);
        let result = work();
        let grown = self.live.load(Ordering::Relaxed).wrapping_sub(before);
        self.on.store(was_on, Ordering::Relaxed);
        // Memory of earlier work may be freed during this work.
        (result, grown.cast_signed().max(0).cast_unsigned())
    }

    pub(crate) fn forget_largest(&self) {
        self.largest.store(0, Ordering::Relaxed);
    }

    pub(crate) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    fn grown(&self, bytes: usize) {
        if self.on.load(Ordering::Relaxed) {
            self.live.fetch_add(bytes, Ordering::Relaxed);
            self.largest.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    fn shrunk(&self, bytes: usize) {
        if self.on.load(Ordering::Relaxed) {
            self.live.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

// SAFETY: each request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.shrunk(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.grown(size);
        self.shrunk(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
