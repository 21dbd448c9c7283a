//! The asymmetric barrier: two sides that together order as two `SeqCst` fences do, where one side, which runs often,
//! costs nothing, and the other, which runs rarely, makes a system call.
//!
//! `membarrier(2)` with `PRIVATE_EXPEDITED` returns once every running thread of the process has passed a full memory
//! barrier since the call (those that do not run pass one when they are switched in). So for each execution of
//! [`light`] in any thread and each of [`heavy`]: either all that comes before `light` in its thread is visible to what
//! comes after `heavy`, or all that comes before `heavy` is visible to what comes after `light`. What is left to do
//! in `light` is to keep the compiler from moving accesses across.
//!
//! The technique is that of liburcu's membarrier flavour (Desnoyers et al., "User-Level Implementations of Read-Copy
//! Update", IEEE TPDS 2012); ISO's P1202 describes it as asymmetric fences.

#![deny(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

/// Whether [`heavy`] works here. Finds out at the first call, and says the same ever after.
#[inline]
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(system::register)
}

/// The side that runs often.
#[inline]
pub(super) fn light() {
    compiler_fence(Ordering::SeqCst);
}

/// The side that runs rarely; tells whether it could. Never where [`available`] says no.
///
/// It can fail even so: a filter may have been put in place since.
pub(super) fn heavy() -> bool {
    // The registration is the process's; after a `fork` it may have to be made again.
    system::barrier() || system::register()
}

#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod system {
    use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

    /// Announces that this process will use the barrier, and uses it once to see that it may.
    pub(super) fn register() -> bool {
        membarrier_query().contains_command(MembarrierCommand::PrivateExpedited)
            && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
            && barrier()
    }

    pub(super) fn barrier() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
mod system {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn barrier() -> bool {
        false
    }
}
