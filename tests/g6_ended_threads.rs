//! G6 of threads that have ended: each thread leaves its registration to the next one. The test is
//! alone in its binary, because the counters belong to the process.

use std::alloc::System;
use std::sync::Arc;
use std::thread;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn g6_threads_that_have_ended_leave_nothing_behind() {
    let cache = Arc::new(KeyCache::<u32>::new());
    let key = KeyHash::of("key");
    assert!(cache.lease(&key).remember(7));
    let come_and_go = |threads: usize| {
        for _ in 0..threads {
            let cache = Arc::clone(&cache);
            assert_eq!(thread::spawn(move || cache.lookup(&key)).join().unwrap(), Some(7));
        }
    };
    come_and_go(10);
    let region = Region::new(ALLOCATOR);
    come_and_go(1_000);
    let change = region.change();
    let left = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    // With crossbeam-epoch, the next writers collect the threads' participants like other garbage.
    assert!(
        left < 16 * 1_024 || reclamation() != Reclamation::Membarrier,
        "{left} bytes of 1,000 threads"
    );
}
