//! The reclamation of platforms without `membarrier(2)`: grace periods of `crossbeam-epoch`'s
//! default collector. No other module names that crate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_epoch as epoch;

/// How many grace periods have ended. Not of `sync`: in a model the last grace period ends after
/// loom's statics are gone.
static ENDED: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Guard(#[expect(dead_code, reason = "lives until it is dropped")] epoch::Guard);

/// Pins the thread. Wait-free with two exceptions: a thread's first pin registers it, and each
/// 128th pin helps with collecting.
pub(super) fn pin() -> Guard {
    Guard(epoch::pin())
}

/// A grace period: over when a function that was deferred at its start has run.
///
/// `OnceLock` guarantees that a thread which sees the value comes after the thread that set it. An
/// atomic flag of this module would need a model that detects a missing ordering, and none was
/// found. One call sets the value once, so no call waits.
pub(crate) struct Grace(Arc<OnceLock<()>>);

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// For each object that will be freed because this grace period is over: the unlinking of the
    /// object must happen-before this call, and the object must not be linked again.
    pub(super) unsafe fn start() -> Self {
        let over = Arc::new(OnceLock::new());
        let announced = over.clone();
        let guard = epoch::pin();
        guard.defer(move || {
            // By crossbeam-epoch's contract, the guards that this function waited for happen-before
            // its call. The `OnceLock` orders this call before `is_over`.
            let _ = announced.set(());
            // Relaxed: a hint, which orders nothing.
            ENDED.fetch_add(1, Ordering::Relaxed);
        });
        // Without this flush the function would wait for some sixty more of this thread.
        guard.flush();
        Self(over)
    }

    /// Returns whether the grace period is over. If so, what it protected may be freed.
    ///
    /// # Safety
    ///
    /// None here: the horizon is not used. The other reclamation's `is_over` has a contract.
    pub(super) unsafe fn is_over(&self, _horizon: &Horizon) -> bool {
        self.0.get().is_some()
    }

    /// Returns `None`: each reader makes its own fence.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// Has no value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// How many grace periods have ended.
pub(crate) struct Horizon(u64);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        self.0
    }
}

pub(super) fn horizon() -> Horizon {
    // Collects. A pin or a flush advances the epoch by one at most, and a function that was
    // deferred in one epoch may run two epochs later.
    epoch::pin().flush();
    // Relaxed: a hint; see `Grace::start`.
    Horizon(ENDED.load(Ordering::Relaxed))
}
