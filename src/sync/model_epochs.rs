//! The asymmetric epochs that ship, over loom's primitives, for models without the map.

#[path = "../reclaim/asymmetric.rs"]
mod asymmetric;

use super::sync::{self, barrier};

/// Keeps its thread pinned until the guard is dropped.
#[must_use]
pub struct Guard(#[expect(dead_code, reason = "lives until it is dropped")] asymmetric::Guard);

/// A grace period.
#[must_use]
pub struct Grace(asymmetric::Grace);

/// Pins the calling thread, as a lookup does.
pub fn pin() -> Guard {
    Guard(asymmetric::pin())
}

/// The registration of a thread. The model ends it by a drop, as the destructor of a thread-local
/// does in an ending thread.
#[must_use]
pub struct Registration(
    #[expect(dead_code, reason = "lives until it is dropped")] asymmetric::Owner,
);

/// Registers the calling thread, which must not have pinned before.
pub fn register() -> Registration {
    Registration(asymmetric::Owner::register())
}

/// Pins the calling thread after the end of its registration, as a lookup in an ending thread does.
pub fn pin_while_ending() -> Guard {
    Guard(asymmetric::pin_borrowed())
}

/// Returns the number of records that were ever made, for threads and for single guards.
#[must_use]
pub fn records() -> usize {
    asymmetric::records()
}

impl Grace {
    /// Starts a grace period, as a writer does for a batch. The model must have unlinked its object
    /// before.
    ///
    /// This function and the methods below are safe: the model frees no memory. Loom reports an
    /// access to an object that the model reused too early.
    pub fn start() -> Self {
        // SAFETY: no memory is freed because this grace period is over. The model uses loom's cells
        // instead.
        Self(unsafe { asymmetric::Grace::start() })
    }

    /// Returns whether the grace period is over, as far as visible without a barrier.
    #[must_use]
    pub fn is_over(&self) -> bool {
        // SAFETY: the model has `self`, so the start happens-before the reading of the horizon.
        unsafe { self.0.is_over(asymmetric::horizon()) }
    }

    /// Returns whether the grace period would be over after a barrier, and is not over yet.
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

/// Returns the oldest epoch of a thread's pin.
#[must_use]
pub fn pinned() -> u64 {
    asymmetric::horizon().pinned
}

/// Removes all barriers until the end of this execution.
pub fn leave_out_barriers() {
    barrier::leave_out();
}
