//! The reclamation of platforms without `membarrier(2)`: grace periods of `crossbeam-epoch`'s
//! default collector. The only module that names it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_epoch as epoch;

/// How many grace periods have ended. Not of `sync`, since in a model the last end after the
/// statics are gone.
static ENDED: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Guard(#[expect(dead_code, reason = "lives until it is dropped")] epoch::Guard);

/// Wait-free but for two things: the first pin of a thread registers it, and each 128th pin helps
/// with collecting.
pub(super) fn pin() -> Guard {
    Guard(epoch::pin())
}

/// Over when a function that was deferred at its start has run.
///
/// A `OnceLock` and not a flag of our own: that whoever sees it set comes after whoever set it is
/// the standard library's promise, and no model was found that would miss it. It is set once, by
/// one call, and so waits for nobody.
pub(crate) struct Grace(Arc<OnceLock<()>>);

impl Grace {
    pub(super) fn start() -> Self {
        let over = Arc::new(OnceLock::new());
        let announced = over.clone();
        let guard = epoch::pin();
        guard.defer(move || {
            // What was done under the guards that this waited for happens-before this call, by
            // crossbeam-epoch's contract, and so before `is_over`.
            let _ = announced.set(());
            // Relaxed: a hint, which orders nothing.
            ENDED.fetch_add(1, Ordering::Relaxed);
        });
        // Otherwise it would wait until this thread has deferred some sixty more.
        guard.flush();
        Self(over)
    }

    pub(super) fn is_over(&self, _horizon: &Horizon) -> bool {
        self.0.get().is_some()
    }

    /// Its readers fence themselves.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// There is none.
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
    // Collects: each pin and flush advances the epoch by one at most, and what was deferred in one
    // may run two later.
    epoch::pin().flush();
    // Relaxed: see `Grace::start`.
    Horizon(ENDED.load(Ordering::Relaxed))
}
