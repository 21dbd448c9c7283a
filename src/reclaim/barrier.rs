//! The asymmetric barrier: its two sides together order like two `SeqCst` fences.
//!
//! The light side runs often and costs nothing. The heavy side runs rarely and makes a system call.
//!
//! `membarrier(2)` with `PRIVATE_EXPEDITED` returns once every running thread of the process has
//! passed a full memory barrier since the call. A thread that is not running passes a barrier when
//! it is switched in. Take an execution of [`light`] in any thread, and one of [`heavy`] that
//! returned `true`. One of two cases holds:
//!
//! * *Light first*: what precedes `light` in its thread is visible to what follows `heavy`.
//! * *Heavy first*: what precedes `heavy` is visible to what follows `light`.
//!
//! `light` only has to keep the compiler from moving accesses across it.
//!
//! The technique is liburcu's membarrier flavour (Desnoyers et al., "User-Level Implementations of
//! Read-Copy Update", IEEE TPDS 2012). ISO's P1202 describes it as asymmetric fences.

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

/// Returns whether the kernel supports [`heavy`]. The first call makes three system calls. Later
/// calls return the same answer.
#[inline]
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(system::register)
}

/// Makes the side that runs often.
#[inline]
pub(super) fn light() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(miri)]
    system::light();
}

/// Makes the side that runs rarely, and returns whether the kernel made the barrier.
///
/// Called only where [`available`] returns `true`. The kernel may still refuse the barrier: the
/// process may have installed a filter since.
pub(super) fn heavy() -> bool {
    #[cfg(test)]
    if tests::refuse() {
        return false;
    }
    // The registration belongs to the process. After a `fork`, the child may need its own
    // registration.
    system::barrier() || system::register()
}

#[cfg(miri)]
#[path = "barrier_miri.rs"]
mod system;

#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    target_pointer_width = "64",
    not(miri)
))]
mod system {
    use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

    /// Registers this process for the barrier, and makes one barrier as a test.
    pub(super) fn register() -> bool {
        membarrier_query().contains_command(MembarrierCommand::PrivateExpedited)
            && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
            && barrier()
    }

    pub(super) fn barrier() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(any(
    all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"),
    miri
)))]
mod system {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn barrier() -> bool {
        false
    }
}

/// Tests of how often writers request the barrier. Only the crate can count requests, so these are
/// unit tests.
#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::thread;

    use crate::map::CHECKED_BATCHES;
    use crate::{KeyCache, KeyHash, Reclamation, reclamation};

    std::thread_local! {
        /// The number of barriers that this thread has requested.
        static REQUESTS: Cell<u32> = const { Cell::new(0) };
        static REFUSED: Cell<bool> = const { Cell::new(false) };
    }

    /// Counts a request, and returns whether it is refused.
    pub(super) fn refuse() -> bool {
        REQUESTS.set(REQUESTS.get() + 1);
        REFUSED.get()
    }

    /// Runs one test at a time: a barrier of one test would end the grace periods of another.
    /// Returns `None` if there is no barrier.
    fn alone() -> Option<MutexGuard<'static, ()>> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        (reclamation() == Reclamation::Membarrier).then_some(alone)
    }

    /// The number of snapshots in a batch of a cache with one bucket.
    const BATCH: usize = 8;

    fn cache() -> (KeyCache<Arc<()>>, KeyHash) {
        (KeyCache::builder().capacity(1).build().unwrap(), KeyHash::of("key"))
    }

    #[test]
    fn g6_writers_request_hardly_a_barrier_while_all_threads_keep_reading() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        for _ in 0..100 * BATCH {
            assert!(cache.lease(&key).remember(Arc::new(())));
        }
        assert!(REQUESTS.get() <= 2, "{} barriers for 100 batches", REQUESTS.get());
    }

    #[test]
    fn g6_no_barrier_is_requested_while_a_reader_is_parked() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::new(())));
            }
        };
        write(3);
        let requests = cache.lookup_with(&key, |_| {
            // Snapshots that were replaced before the reader pinned may need a barrier.
            write(3);
            let before = REQUESTS.get();
            write(100);
            REQUESTS.get() - before
        });
        assert_eq!(requests, Some(0), "no barrier ends a grace period while the reader is parked");
    }

    #[test]
    fn g6_after_a_refused_barrier_writers_do_not_check_all_batches_again_for_a_parked_reader() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::new(())));
            }
        };
        write(3);
        REFUSED.set(true);
        let (is_idle, may_end) = (channel(), channel::<()>());
        thread::scope(|scope| {
            let cache = &cache;
            scope.spawn(move || {
                let _ = cache.lookup(&key);
                is_idle.0.send(()).unwrap();
                may_end.1.recv().ok();
            });
            is_idle.1.recv().unwrap();
            let requests = REQUESTS.get();
            write(8);
            assert!(REQUESTS.get() > requests, "nothing was refused");
            drop(may_end.0);
        });
        // The idle thread has ended, so no grace period needs a barrier. Therefore the writers do
        // not notice that the kernel makes barriers again.
        write(2_000);
        let checked = cache.lookup_with(&key, |_| {
            write(3);
            let before = CHECKED_BATCHES.get();
            write(500);
            CHECKED_BATCHES.get() - before
        });
        REFUSED.set(false);
        // Each batch is checked once or twice. A check of all waiting batches at each pass would
        // make 125,000 checks.
        assert!(checked.is_some_and(|checked| checked <= 2 * 500), "{checked:?} checks");
    }

    #[test]
    fn g6_a_refused_barrier_is_requested_less_and_less_often_until_it_is_granted() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let value = Arc::new(());
        let alive = || Arc::strong_count(&value) - 1;
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::clone(&value)));
            }
        };
        // A lookup of an absent key would not pin.
        write(1);
        let ((reads, may_read), (has_read, read)) = (channel(), channel());
        thread::scope(|scope| {
            let cache = &cache;
            scope.spawn(move || {
                while may_read.recv().is_ok() {
                    let _ = cache.lookup(&key);
                    has_read.send(()).unwrap();
                }
            });
            // Moved here: a failing assertion drops the sender, and the thread ends.
            let reads = reads;
            let read = || {
                reads.send(()).unwrap();
                read.recv().unwrap();
            };
            read();
            REFUSED.set(true);
            write(600);
            // After 1, 2, 4, ..., 256 batches, and once before the first refusal.
            assert!(
                (8..=11).contains(&REQUESTS.get()),
                "{} barriers were requested",
                REQUESTS.get()
            );
            assert!(alive() > 500 * BATCH, "{} values, though the barrier was refused", alive());
            let before = REQUESTS.replace(0);
            for _ in 0..4 {
                write(1);
                read();
            }
            assert!(
                alive() <= 1 + 3 * BATCH,
                "{} values after all threads have read ({before} requests)",
                alive()
            );
            assert_eq!(REQUESTS.get(), 0);
            write(100);
            REFUSED.set(false);
            write(512 + 2);
            assert!(
                alive() <= 1 + 2 * BATCH,
                "{} values, though the kernel makes the barrier again",
                alive()
            );
        });
    }
}
