//! The asymmetric epochs that ship, over loom's primitives and without the map, for models of their own.

#[path = "../reclaim/asymmetric.rs"]
mod asymmetric;

use super::sync;

/// Pins the thread until it is dropped.
#[must_use]
pub struct Guard(#[expect(dead_code, reason = "lives until it is dropped")] asymmetric::Guard);

/// A grace period.
#[must_use]
pub struct Grace(asymmetric::Grace);

/// As a lookup does.
pub fn pin() -> Guard {
    Guard(asymmetric::pin())
}

impl Grace {
    /// As a writer does with a batch in hand.
    pub fn start() -> Self {
        Self(asymmetric::Grace::start())
    }

    /// Whether it is over by now.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.can_end() && self.0.is_over(asymmetric::horizon())
    }
}

/// The oldest epoch in which a thread is pinned, or the newest epoch.
#[must_use]
pub fn horizon() -> u64 {
    asymmetric::horizon()
}

/// For the rest of this execution there are no barriers.
pub fn leave_out_barriers() {
    sync::barrier::leave_out();
}
