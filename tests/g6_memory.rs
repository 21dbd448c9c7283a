//! G6: memory is bounded. The test is alone in its binary, because the counters belong to the
//! process.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trust_key_cache::{KeyHash, Reclamation, TrustKeyCache, reclamation};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn hash(number: u64) -> KeyHash {
    KeyHash::from_bytes(std::array::from_fn(|byte| {
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (byte % 8 * 8)) as u8 ^ byte as u8
    }))
}

fn live(region: &Region<System>) -> isize {
    let change = region.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

#[test]
fn g6_memory_is_flat_over_millions_of_remembers_and_small_at_capacity() {
    const CAPACITY: u64 = 1_000;
    let region = Region::new(ALLOCATOR);
    let cache = TrustKeyCache::builder().capacity(CAPACITY as usize).build().unwrap();
    for number in 0..CAPACITY {
        assert!(cache.lease(&hash(number)).remember(Uuid::from_u128(number.into())));
    }
    // The count includes garbage that waits for its grace period.
    let at_capacity = live(&region);
    assert!(at_capacity <= 256 * CAPACITY as isize, "{at_capacity} bytes for {CAPACITY} keys");

    // Writes of ten thousand keys fill the buckets. Later writes do not increase the memory.
    let round = |offset: u64| {
        for number in 0..200_000 {
            cache.lease(&hash(offset + number % 10_000)).remember(Uuid::nil());
            if number % 5_000 == 0 {
                cache.invalidate();
            }
            if number % 16 == 0 {
                cache.invalidate_key(&hash(offset + number % 77));
            }
        }
        live(&region)
    };
    let first = round(0);
    // The bound allows full buckets and the waiting batches. With crossbeam-epoch, a grace period
    // ends only after some batches.
    let batches = if reclamation() == Reclamation::Membarrier { 2 } else { 16 };
    let bound = (250 + batches * 125) * 1_024;
    assert!(first < bound, "{first} bytes");
    for offset in 1..10 {
        let later = round(offset * 10_000);
        assert!(later < bound, "{later} bytes after {offset} rounds, {first} after the first");
    }
    drop(cache);
    // Only the thread's registration is left.
    let left = live(&region);
    assert!(left < 16 * 1024, "{left} bytes are left of a dropped cache");
}
