//! The asymmetric epochs that ship, over loom's primitives and without the map, for models of their
//! own.

#[path = "../reclaim/asymmetric.rs"]
mod asymmetric;

use super::sync::{self, barrier};

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

/// A thread's registration, of which the model tells when it ends: what the destructor of a
/// thread-local does in a thread that ends.
#[must_use]
pub struct Registration(
    #[expect(dead_code, reason = "lives until it is dropped")] asymmetric::Owner,
);

/// Registers the calling thread, which must not have pinned before.
pub fn register() -> Registration {
    Registration(asymmetric::Owner::register())
}

/// As a lookup does in a thread whose registration has ended for good.
pub fn pin_while_ending() -> Guard {
    Guard(asymmetric::pin_borrowed())
}

/// How many records were ever made for threads and for guards of their own.
#[must_use]
pub fn records() -> usize {
    asymmetric::records()
}

impl Grace {
    /// Starts a grace period, as a writer does for a batch. The model must have unlinked its object
    /// before.
    ///
    /// Safe, as are the methods below: loom reports an access to memory that the model took back
    /// too early, and the model frees none.
    pub fn start() -> Self {
        // SAFETY: no memory is freed because this grace period is over: loom's cells stand for it.
        Self(unsafe { asymmetric::Grace::start() })
    }

    /// Returns whether the grace period is over, as far as is visible without a barrier.
    #[must_use]
    pub fn is_over(&self) -> bool {
        // SAFETY: the model has `self`, so the start happens-before the reading of the horizon.
        unsafe { self.0.is_over(asymmetric::horizon()) }
    }

    /// Whether it would be over after a barrier, and is not yet.
    #[must_use]
    pub fn wants_a_barrier(&self) -> bool {
        self.0.wants_fence(asymmetric::horizon()).is_some()
    }

    /// Makes the barrier, and returns whether the grace period is over after it.
    #[must_use]
    pub fn is_over_past_a_barrier(&self) -> bool {
        self.0.fence().make().is_some_and(|horizon| {
            // SAFETY: as in `is_over`.
            unsafe { self.0.is_over(horizon) }
        })
    }
}

/// The oldest epoch in which a thread is pinned.
#[must_use]
pub fn pinned() -> u64 {
    asymmetric::horizon().pinned
}

/// For the rest of this execution there are no barriers.
pub fn leave_out_barriers() {
    barrier::leave_out();
}
