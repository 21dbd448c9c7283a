//! What the concurrent code is built from, in the build that ships. `model/sync.rs` is its twin over loom's
//! primitives: `cache.rs`, `lease.rs`, `builder.rs` and `snapshot_map/` name nothing concurrent but what
//! stands here and in `reclaim.rs`.

pub(super) use std::alloc::{alloc, dealloc};
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use std::hash::{BuildHasher, RandomState};

/// Marks the accesses to a snapshot, for loom to check; costs nothing here.
#[derive(Debug)]
pub(super) struct AccessCheck;

impl AccessCheck {
    pub(super) fn new() -> Self {
        Self
    }

    /// Runs `read`, in which the snapshot is read.
    #[inline]
    pub(super) fn reading<R>(&self, read: impl FnOnce() -> R) -> R {
        read()
    }

    /// Runs `write`, in which the snapshot is changed or freed.
    #[inline]
    pub(super) fn writing<R>(&self, write: impl FnOnce() -> R) -> R {
        write()
    }
}

/// 128 bits that nobody outside the process can foretell.
///
/// They come from the standard library's hasher keys, which are random for each process and differ with each
/// call. That is enough for placement, whose outputs nobody sees, and costs no dependency.
pub(super) fn random_seed() -> [u64; 2] {
    let keys = RandomState::new();
    [keys.hash_one(0), keys.hash_one(1)]
}
