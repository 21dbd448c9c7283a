//! The concurrent primitives of the build that ships. `loom.rs` is the twin over loom's primitives.
//! `cache.rs`, `lease.rs`, `builder.rs` and `map/` use no other concurrent primitive, and the
//! functions of `reclaim/`.

pub(super) use std::alloc::{alloc, dealloc};
pub(super) use std::cell::Cell;
pub(super) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicU64 as StoredU64, Ordering,
};
pub(super) use std::thread_local;

use std::hash::{BuildHasher, RandomState};

/// A thread-local that is made at compile time and has no destructor: the fastest to read.
macro_rules! thread_cell {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        std::thread_local! {
            $(#[$attribute])*
            static $name: $type = const { $value };
        }
    };
}
pub(super) use thread_cell;

/// A static as in any program; loom makes its statics again for each execution.
macro_rules! lazy_static {
    ($(#[$attribute:meta])* static ref $name:ident: $type:ty = $value:expr;) => {
        $(#[$attribute])*
        static $name: $type = $value;
    };
}
pub(super) use lazy_static;

/// How many buckets a map retires before it starts a grace period for them. Each second end of one
/// may cost a system call that interrupts the threads that run: next to a writer that is
/// never idle, a reader must meet that in less than one of 10,000 lookups.
#[inline]
pub(super) fn batch() -> u64 {
    128
}

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

/// Returns 128 bits that no other process can predict.
///
/// They come from the standard library's hasher keys, which are random for each process and differ
/// with each call. That is enough for placement, whose outputs stay in the process, and costs no
/// dependency.
pub(super) fn random_seed() -> [u64; 2] {
    let keys = RandomState::new();
    [keys.hash_one(0), keys.hash_one(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_from_cache_to_cache() {
        let (here, there) = (random_seed(), random_seed());
        assert_ne!(here, there);
        assert!(here[0] != here[1]);
    }
}
