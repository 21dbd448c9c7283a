//! Both sides of the asymmetric barrier under Miri, which does not support the system call. A
//! `SeqCst` fence on each side has the same ordering.

use std::sync::atomic::{Ordering, fence};

/// Returns `true`: fences are always available.
pub(super) fn register() -> bool {
    true
}

/// Makes the side that runs rarely.
pub(super) fn barrier() -> bool {
    // SeqCst: pairs with the fence in `light`.
    fence(Ordering::SeqCst);
    true
}

/// Makes the side that runs often.
pub(super) fn light() {
    // SeqCst: pairs with the fence in `barrier`.
    fence(Ordering::SeqCst);
}
