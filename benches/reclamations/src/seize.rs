//! The interface of `src/reclaim/mod.rs` over `seize`.
//!
//! A grace period is an object, which is retired at the start. The collector reclaims the object
//! once every guard that existed at the start has ended.
//!
//! seize requires `SeqCst` loads under a guard, and the map loads with Acquire. Acquire is enough
//! if the collector's barrier is `membarrier(2)`: the barrier orders a reader's store to its
//! reservation before the reader's loads. Otherwise [`pin`] adds a fence.

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

/// The number of ended grace periods.
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

/// A grace period. It is over when the collector has reclaimed the object that its start retired.
pub(super) struct Grace(Arc<OnceLock<()>>);

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// Take each object that is freed because this grace period is over. The unlinking of the
    /// object must happen-before this call, and the object must not be linked again.
    pub(super) unsafe fn start() -> Self {
        let over = Arc::new(OnceLock::new());
        let announced = Box::into_raw(Box::new(Arc::clone(&over)));
        // SAFETY: the object was never reachable for another thread. `end` may be called once with
        // the object, from any thread.
        unsafe { COLLECTOR.retire(announced, end) };
        Self(over)
    }

    /// Returns whether the grace period is over. If it is over, the objects that it protected may
    /// be freed.
    ///
    /// # Safety
    ///
    /// None: the horizon is not used. The contract is that of `src/reclaim/mod.rs`.
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
/// `announced` must be a pointer of [`Grace::start`], and must not be used afterwards.
unsafe fn end(announced: *mut Arc<OnceLock<()>>, _: &Collector) {
    // SAFETY: `Grace::start` made the box, and the collector reclaims each object once.
    let announced = unsafe { Box::from_raw(announced) };
    let _ = announced.set(());
    // Relaxed: a hint.
    ENDED.fetch_add(1, Ordering::Relaxed);
}

/// The fence of this reclamation: there is none, so the type has no value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// The number of ended grace periods.
pub(super) struct Horizon(u64);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        self.0
    }
}

/// Returns the number of ended grace periods.
pub(super) fn horizon() -> Horizon {
    // Relaxed: a hint, as in `end`.
    Horizon(ENDED.load(Ordering::Relaxed))
}
