//! The reclamation for platforms without `membarrier(2)`: grace periods of the default collector of
//! `crossbeam-epoch`. No other module names that crate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_epoch as epoch;

/// The number of ended grace periods. Not of `sync`: in a model, the last grace period ends after
/// loom has dropped its statics.
static ENDED: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Guard(#[expect(dead_code, reason = "lives until it is dropped")] epoch::Guard);

/// Pins the thread. Wait-free with two exceptions: a thread's first pin registers it, and each
/// 128th pin helps with collecting.
pub(super) fn pin() -> Guard {
    Guard(epoch::pin())
}

/// A grace period. It is over when the function that its start deferred has run.
///
/// `OnceLock` guarantees that the write of the value happens-before each read that returns the
/// value. An atomic flag of this module would need a model that detects a missing ordering, and no
/// such model was found. One call sets the value once, so no call waits.
pub(crate) struct Grace(Arc<OnceLock<()>>);

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// Take each object that is freed because this grace period is over. The unlinking of the
    /// object must happen-before this call, and the object must not be linked again.
    pub(super) unsafe fn start() -> Self {
        let over = Arc::new(OnceLock::new());
        let announced = over.clone();
        let guard = epoch::pin();
        guard.defer(move || {
            // By the contract of crossbeam-epoch, the guards that this function waited for
            // happen-before its call. The `OnceLock` orders this call before `is_over`.
            let _ = announced.set(());
            // Relaxed: a hint.
            ENDED.fetch_add(1, Ordering::Relaxed);
        });
        // Without this flush, the function would wait for about sixty more deferred functions of
        // this thread.
        guard.flush();
        Self(over)
    }

    /// Returns whether the grace period is over. If it is over, the objects that it protected may
    /// be freed.
    ///
    /// # Safety
    ///
    /// None: the horizon is not used. `is_over` of the other reclamation has a contract.
    pub(super) unsafe fn is_over(&self, _horizon: &Horizon) -> bool {
        self.0.get().is_some()
    }

    /// Returns `None`: each reader makes its own fence.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// The fence of this reclamation: there is none, so the type has no value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// The number of ended grace periods.
pub(crate) struct Horizon(u64);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        self.0
    }
}

pub(super) fn horizon() -> Horizon {
    // Collects. A pin or a flush advances the epoch by at most one. A function that was deferred in
    // one epoch may run two epochs later.
    epoch::pin().flush();
    // Relaxed: a hint, as in `Grace::start`.
    Horizon(ENDED.load(Ordering::Relaxed))
}
