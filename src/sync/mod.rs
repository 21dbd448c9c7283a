//! The concurrent primitives of the build that ships. `loom.rs` is the twin over loom's primitives.
//! `cache.rs`, `lease.rs`, `read_lease.rs`, `builder.rs`, `loads/` and `map/` use these primitives
//! and the functions of `reclaim/`. The only exceptions are the hints of `map/limbo.rs`.

pub(super) use std::alloc::{alloc, dealloc};
pub(super) use std::cell::Cell;
pub(super) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicU64 as ClaimedU64, AtomicU64 as StoredU64, Ordering,
};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
pub(super) use std::thread_local;

use std::hash::{BuildHasher, RandomState};

/// Declares a thread-local that is initialised at compile time and has no destructor: the fastest
/// kind to read.
macro_rules! thread_cell {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        std::thread_local! {
            $(#[$attribute])*
            static $name: $type = const { $value };
        }
    };
}
pub(super) use thread_cell;

/// Declares an ordinary static. Loom makes its statics again for each execution.
macro_rules! lazy_static {
    ($(#[$attribute:meta])* static ref $name:ident: $type:ty = $value:expr;) => {
        $(#[$attribute])*
        static $name: $type = $value;
    };
}
pub(super) use lazy_static;

/// Returns a number that no other living thread has, and that is not zero: an address of the
/// thread's own.
pub(super) fn this_thread() -> u64 {
    thread_cell! {
        static HERE: Cell<u8> = Cell::new(0);
    }
    HERE.with(|here| core::ptr::from_ref(here).addr() as u64)
}

/// Returns the number of buckets that a map retires before it starts a grace period for them. Each
/// second grace period may cost a system call that interrupts the running threads. Next to a writer
/// that is never idle, fewer than one of 10,000 lookups may be interrupted.
#[inline]
pub(super) fn batch() -> u64 {
    128
}

/// Marks the accesses to a snapshot, for loom's checks. Without loom, the marks cost nothing.
#[derive(Debug)]
pub(super) struct AccessCheck;

impl AccessCheck {
    pub(super) fn new() -> Self {
        Self
    }

    /// Begins a read of the snapshot, which ends when the result is dropped.
    #[inline]
    pub(super) fn reading(&self) -> impl Sized + use<> {}

    /// Runs `write`, which changes or frees the snapshot.
    #[inline]
    pub(super) fn writing<R>(&self, write: impl FnOnce() -> R) -> R {
        write()
    }
}

/// Returns a value that only the calling thread stores.
#[inline]
pub(super) fn load_own(value: &StoredU64) -> u64 {
    // Relaxed: a thread reads its own stores in order.
    value.load(Ordering::Relaxed)
}

/// Returns 128 bits that no other process can predict.
///
/// The bits are made from the standard library's hasher keys, which are random for each process and
/// differ with each call. These keys are enough for placement, whose outputs do not leave the
/// process, and need no dependency.
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
