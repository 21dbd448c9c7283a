//! The asymmetric barrier: two sides that together order as two `SeqCst` fences do, where one side,
//! which runs often, costs nothing, and the other, which runs rarely, makes a system call.
//!
//! `membarrier(2)` with `PRIVATE_EXPEDITED` returns once every running thread of the process has
//! passed a full memory barrier since the call (those that do not run pass one when they are
//! switched in). So for each execution of [`light`] in any thread and each of [`heavy`]: either all that comes before `light` in its thread is visible to what
//! comes after `heavy`, or all that comes before `heavy` is visible to what comes after `light`.
//! What is left to do in `light` is to keep the compiler from moving accesses across.
//!
//! The technique is that of liburcu's membarrier flavour (Desnoyers et al., "User-Level
//! Implementations of Read-Copy Update", IEEE TPDS 2012); ISO's P1202 describes it as asymmetric
//! fences.

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
    #[cfg(miri)]
    system::light();
}

/// The side that runs rarely; tells whether it could. Never where [`available`] says no.
///
/// It can fail even so: a filter may have been put in place since.
pub(super) fn heavy() -> bool {
    #[cfg(test)]
    if tests::refuse() {
        return false;
    }
    // The registration is the process's; after a `fork` it may have to be made again.
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

/// How often writers ask for the barrier. These are unit tests since only the crate can count that.
#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::thread;

    use crate::map::JUDGED;
    use crate::{KeyCache, KeyHash, Reclamation, reclamation};

    std::thread_local! {
        /// How often this thread has asked.
        static ASKED: Cell<u32> = const { Cell::new(0) };
        static REFUSED: Cell<bool> = const { Cell::new(false) };
    }

    /// Counts, and tells whether this thread is to be refused.
    pub(super) fn refuse() -> bool {
        ASKED.set(ASKED.get() + 1);
        REFUSED.get()
    }

    /// One test's barrier would do for what another waits for. `None` where there is no barrier.
    fn alone() -> Option<MutexGuard<'static, ()>> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        (reclamation() == Reclamation::Membarrier).then_some(alone)
    }

    /// How many snapshots a cache of one bucket takes for a batch.
    const BATCH: usize = 8;

    fn cache() -> (KeyCache<Arc<()>>, KeyHash) {
        (KeyCache::builder().capacity(1).build().unwrap(), KeyHash::of("key"))
    }

    #[test]
    fn g6_threads_that_go_on_need_hardly_a_barrier() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        for _ in 0..100 * BATCH {
            assert!(cache.lease(&key).remember(Arc::new(())));
        }
        assert!(ASKED.get() <= 2, "{} barriers for 100 batches", ASKED.get());
    }

    #[test]
    fn g6_no_barrier_is_asked_for_while_a_reader_is_parked() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::new(())));
            }
        };
        write(3);
        let asked = cache.lookup_with(&key, |_| {
            // What was replaced before the reader came may need one.
            write(3);
            let before = ASKED.get();
            write(100);
            ASKED.get() - before
        });
        assert_eq!(asked, Some(0), "the reader is still there after each of them");
    }

    #[test]
    fn g6_after_a_refused_barrier_a_parked_reader_does_not_make_writers_judge_what_waits_again() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::new(())));
            }
        };
        write(3);
        REFUSED.set(true);
        let (rests, may_end) = (channel(), channel::<()>());
        thread::scope(|scope| {
            let cache = &cache;
            scope.spawn(move || {
                let _ = cache.lookup(&key);
                rests.0.send(()).unwrap();
                may_end.1.recv().ok();
            });
            rests.1.recv().unwrap();
            let asked = ASKED.get();
            write(8);
            assert!(ASKED.get() > asked, "nothing was refused");
            drop(may_end.0);
        });
        // The thread that rested is gone, so no barrier is wanted that could show that it works
        // again.
        write(2_000);
        let judged = cache.lookup_with(&key, |_| {
            write(3);
            let before = JUDGED.get();
            write(500);
            JUDGED.get() - before
        });
        REFUSED.set(false);
        // Each batch is judged once or twice; all that wait, at each look, would be 125,000.
        assert!(judged.is_some_and(|judged| judged <= 2 * 500), "{judged:?} batches were judged");
    }

    #[test]
    fn g6_a_barrier_that_was_refused_is_asked_for_ever_more_seldom_until_it_is_made() {
        let Some(_alone) = alone() else { return };
        let (cache, key) = cache();
        let value = Arc::new(());
        let alive = || Arc::strong_count(&value) - 1;
        let write = |batches| {
            for _ in 0..batches * BATCH {
                assert!(cache.lease(&key).remember(Arc::clone(&value)));
            }
        };
        let ((reads, may_read), (has_read, read)) = (channel(), channel());
        thread::scope(|scope| {
            let cache = &cache;
            scope.spawn(move || {
                while may_read.recv().is_ok() {
                    let _ = cache.lookup(&key);
                    has_read.send(()).unwrap();
                }
            });
            // Dropped if this fails, so that the thread ends.
            let reads = reads;
            let read = || {
                reads.send(()).unwrap();
                read.recv().unwrap();
            };
            read();
            REFUSED.set(true);
            write(600);
            // After 1, 2, 4, ..., 256 batches, and once to find out.
            assert!((8..=11).contains(&ASKED.get()), "{} barriers were asked for", ASKED.get());
            assert!(alive() > 500 * BATCH, "{} values, though the barrier was refused", alive());
            let before = ASKED.replace(0);
            for _ in 0..4 {
                write(1);
                read();
            }
            assert!(
                alive() <= 1 + 3 * BATCH,
                "{} values after all have read (asked {before})",
                alive()
            );
            assert_eq!(ASKED.get(), 0);
            write(100);
            REFUSED.set(false);
            write(512 + 2);
            assert!(
                alive() <= 1 + 2 * BATCH,
                "{} values, though the barrier is made again",
                alive()
            );
        });
    }
}
