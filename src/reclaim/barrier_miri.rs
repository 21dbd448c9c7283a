//! Both sides of the asymmetric barrier under Miri, which does not know the system call: a `SeqCst`
//! fence on either side orders as much.

use std::sync::atomic::{Ordering, fence};

/// Always granted.
pub(super) fn register() -> bool {
    true
}

/// The side that runs rarely.
pub(super) fn barrier() -> bool {
    // SeqCst: pairs with the fence in `light`.
    fence(Ordering::SeqCst);
    true
}

/// The side that runs often.
pub(super) fn light() {
    // SeqCst: pairs with the fence in `barrier`.
    fence(Ordering::SeqCst);
}
