//! The garbage of another user of crossbeam-epoch panics in the collector, which the cache uses if
//! `membarrier(2)` is refused. The test is alone in its binary: the refusal and the collector
//! belong to the process.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod counted;
mod refusal;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::thread;

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash};

/// The default collector of crossbeam-epoch runs the deferred functions of all its users, in any
/// thread that collects. If such a function panics in a writer of the cache, the unwinding must not
/// free the writer's batch.
#[test]
fn g7_a_panic_of_another_users_garbage_frees_nothing_under_a_reader() {
    refusal::refuse_membarrier();
    for delay in 0..20 {
        let alive = Arc::new(AtomicIsize::new(0));
        let cache = KeyCache::<Counted>::builder().capacity(1).build().unwrap();
        let hash = KeyHash::of("key");
        assert!(cache.lease(&hash).remember(Counted::new(1, &alive)));
        let (parked, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let write = |times| {
            for _ in 0..times {
                catch_unwind(AssertUnwindSafe(|| cache.invalidate_key(&hash))).ok();
            }
        };
        thread::scope(|scope| {
            // Garbage of the previous round may panic here.
            catch_unwind(|| {
                let others = crossbeam_epoch::pin();
                others.defer(|| panic!("another user's"));
                others.flush();
            })
            .ok();
            // The garbage panics two epochs later, and the reader allows only one more epoch. So in
            // some rounds, an epoch passes before.
            for _ in 0..delay % 4 {
                catch_unwind(|| crossbeam_epoch::pin().flush()).ok();
            }
            let reader = scope.spawn(|| {
                let park = |value: &Counted| {
                    parked.store(true, Ordering::Relaxed);
                    while !done.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                    assert_eq!(alive.load(Ordering::Relaxed), 1, "freed under its reader");
                    value.check();
                };
                // The reader's own pin may run the garbage.
                let read = catch_unwind(AssertUnwindSafe(|| cache.lookup_with(&hash, park)));
                let stopped = !parked.swap(true, Ordering::Relaxed);
                assert!(read.is_ok() || stopped);
            });
            while !parked.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            write(delay);
            write(200);
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }
}
