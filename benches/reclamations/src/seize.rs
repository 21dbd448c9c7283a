//! The interface of `src/reclaim/mod.rs` over `seize`.
//!
//! A grace period is an object that is retired at the start of the grace period: the collector
//! reclaims the object once every guard that existed at the start has ended.
//!
//! seize asks for `SeqCst` loads under a guard, and the map loads with Acquire. Acquire is enough
//! where the collector's barrier is `membarrier(2)`: it orders a reader's store to its reservation
//! before the reader's loads. Elsewhere [`pin`] adds a fence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use seize::{Collector, LocalGuard};

/// One collector for all caches, as with the epochs that ship.
static COLLECTOR: LazyLock<Collector> = LazyLock::new(|| {
    #[cfg(target_os = "linux")]
    assert!(
        rustix::thread::membarrier_query()
            .contains(rustix::thread::MembarrierQuery::PRIVATE_EXPEDITED),
        "this benchmark of seize needs membarrier(2)"
    );
    // A batch of one object. The map retires buckets in batches already.
    Collector::new().batch_size(1)
});

/// How many grace periods have ended.
static ENDED: AtomicU64 = AtomicU64::new(0);

pub(super) struct Guard(LocalGuard<'static>);

/// Pins the thread.
#[inline]
pub(super) fn pin() -> Guard {
    let guard = COLLECTOR.enter();
    #[cfg(not(target_os = "linux"))]
    std::sync::atomic::fence(Ordering::SeqCst);
    Guard(guard)
}

/// A grace period: over when the collector has reclaimed the object that was retired at its start.
pub(super) struct Grace(Arc<OnceLock<()>>);

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// For each object that will be freed because this grace period is over: the unlinking of the
    /// object must happen-before this call, and the object must not be linked again.
    pub(super) unsafe fn start() -> Self {
        let over = Arc::new(OnceLock::new());
        let announced = Box::into_raw(Box::new(Arc::clone(&over)));
        // SAFETY: the object was never reachable for another thread. `end` may be called with it
        // once, from any thread.
        unsafe { COLLECTOR.retire(announced, end) };
        Self(over)
    }

    /// Returns whether the grace period is over. If so, what it protected may be freed.
    ///
    /// # Safety
    ///
    /// None here: the horizon is not used. The contract is that of `src/reclaim/mod.rs`.
    pub(super) unsafe fn is_over(&self, _horizon: &Horizon) -> bool {
        self.0.get().is_some()
    }

    /// Returns `None`: the collector makes its own barrier.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// Ends the grace period of the object.
///
/// # Safety
///
/// `announced` must come from [`Grace::start`], and must not be used afterwards.
unsafe fn end(announced: *mut Arc<OnceLock<()>>, _: &Collector) {
    // SAFETY: `Grace::start` made the box, and the collector reclaims each object once.
    let announced = unsafe { Box::from_raw(announced) };
    let _ = announced.set(());
    // Relaxed: a hint, which orders nothing.
    ENDED.fetch_add(1, Ordering::Relaxed);
}

/// Has no value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// How many grace periods have ended.
pub(super) struct Horizon(u64);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        self.0
    }
}

/// Returns how many grace periods have ended.
pub(super) fn horizon() -> Horizon {
    // Relaxed: a hint, as in `end`.
    Horizon(ENDED.load(Ordering::Relaxed))
}
