//! G5: a lookup allocates nothing. The test is alone in its binary, because the counters belong to
//! the process.

use std::alloc::System;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trust_key_cache::{BootClock, KeyHash, ReadLease, TrustKeyCache};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn g5_a_lookup_allocates_nothing_but_the_threads_first() {
    let cache = TrustKeyCache::new();
    let hashes: Vec<_> = (0..1_000_u32).map(|number| KeyHash::of(number.to_le_bytes())).collect();
    for hash in &hashes[..500] {
        assert!(cache.lease(hash).remember(Uuid::nil()));
    }
    let lease = ReadLease::new(std::time::Duration::from_secs(300));
    lease.begin().complete();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Registers the thread.
            let _ = cache.lookup(&hashes[0]);
            let region = Region::new(ALLOCATOR);
            let mut hits = 0;
            for _ in 0..10 {
                hits += hashes.iter().filter(|hash| cache.lookup(hash).is_some()).count();
                hits +=
                    hashes.iter().filter_map(|hash| cache.lookup_with(hash, Uuid::is_nil)).count();
            }
            // Neither a lookup under a read lease nor a renewal allocates.
            let valid = hashes.iter().filter(|hash| cache.lookup_held(&lease, hash).is_some());
            assert_eq!(valid.count(), if BootClock::IS_SUPPORTED { 500 } else { 0 });
            lease.begin().complete();
            // A hit of a call that would load is a lookup.
            for hash in &hashes[..500] {
                let unreachable = || -> Result<_, ()> { unreachable!("a hit") };
                hits += usize::from(cache.get_or_try_load(hash, unreachable).is_ok());
                let call = pin!(cache.get_or_try_load_async(hash, || async { unreachable() }));
                let polled = call.poll(&mut Context::from_waker(Waker::noop()));
                hits += usize::from(polled.is_ready());
            }
            let change = region.change();
            assert_eq!(hits, 11_000);
            assert_eq!((change.allocations, change.reallocations), (0, 0));
        });
    });
    // The counters detect an allocation.
    let region = Region::new(ALLOCATOR);
    assert!(cache.lease(&hashes[0]).remember(Uuid::nil()));
    assert!(region.change().allocations > 0, "a remember allocates its bucket");
}
