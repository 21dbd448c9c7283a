//! G2: no lease that is taken within the time of `invalidate_key_for` or `invalidate_for` stores
//! anything. Where no clock moves, that is every later lease. `docs/guarantees.md` has the lemmas
//! that these models check.

use std::time::Duration;

use loom::thread;
use trust_key_cache::ManualClock;
use trust_key_cache::model::KeyCache;

use crate::explore::{deeply, exhaustively, keeping, key, one_bucket};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

/// A request runs whenever it likes, and the call that closes is its caller's last: the change is
/// made, and no invalidation follows.
fn a_lease_meets(close: impl Fn(&KeyCache<u32, ManualClock>)) {
    let (cache, _) = one_bucket(2);
    let shared = cache.clone();
    let authenticating = thread::spawn(move || {
        shared.lease(&key(1)).remember(1);
    });
    close(&cache);
    assert_eq!(cache.lookup(&key(1)), None, "a lease from before, or from within");
    authenticating.join().unwrap();
    assert_eq!(cache.lookup(&key(1)), None, "a lease from before, or from within");
}

/// Checks G2.15 and G2.17.
#[test]
fn g2_a_lease_before_or_within_the_time_of_its_key_stores_nothing() {
    deeply("g2_a_lease_before_or_within_the_time_of_its_key_stores_nothing", || {
        a_lease_meets(|cache| cache.invalidate_key_for(&key(1), SECOND));
    });
}

/// Checks G2.16 and G2.17: a lease may come between the two steps of `invalidate_for`.
#[test]
fn g2_a_lease_before_or_within_the_time_of_the_cache_stores_nothing() {
    exhaustively("g2_a_lease_before_or_within_the_time_of_the_cache_stores_nothing", || {
        a_lease_meets(|cache| cache.invalidate_for(SECOND));
    });
}

/// Two calls at once, of which the longer counts.
fn the_longer_counts(close: fn(&KeyCache<u32, ManualClock>, Duration)) {
    let (cache, clock) = keeping(2);
    let shared = cache.clone();
    let closing = thread::spawn(move || close(&shared, 2 * NANO));
    close(&cache, NANO);
    closing.join().unwrap();
    clock.advance(NANO);
    assert!(!cache.lease(&key(1)).remember(1), "the shorter time counted");
    clock.advance(NANO);
    assert!(cache.lease(&key(1)).remember(1));
}

/// Checks G2.18 and F9 along a chain.
#[test]
fn g2_of_two_times_of_one_key_the_later_counts() {
    exhaustively("g2_of_two_times_of_one_key_the_later_counts", || {
        the_longer_counts(|cache, within| cache.invalidate_key_for(&key(1), within));
    });
}

/// Checks G2.18 and F9 for the whole cache.
#[test]
fn g2_of_two_times_of_the_cache_the_later_counts() {
    exhaustively("g2_of_two_times_of_the_cache_the_later_counts", || {
        the_longer_counts(KeyCache::invalidate_for);
    });
}

/// Checks F9 for a bucket that is dead when it is copied.
#[test]
fn g2_a_bucket_of_a_new_generation_keeps_its_time() {
    exhaustively("g2_a_bucket_of_a_new_generation_keeps_its_time", || {
        let (cache, clock) = keeping(2);
        cache.invalidate_key_for(&key(1), 2 * NANO);
        let shared = cache.clone();
        let invalidating = thread::spawn(move || {
            shared.invalidate();
            shared.invalidate_key(&key(2));
        });
        assert!(!cache.lease(&key(1)).remember(1));
        invalidating.join().unwrap();
        clock.advance(NANO);
        assert!(!cache.lease(&key(1)).remember(1));
        assert_eq!(cache.lookup(&key(1)), None);
    });
}

/// Checks G2.3 and G2.6 for an owned lease.
#[test]
fn g2_an_owned_lease_is_superseded_as_any_lease_is() {
    deeply("g2_an_owned_lease_is_superseded_as_any_lease_is", || {
        let clock = ManualClock::new();
        let cache = KeyCache::<u32>::builder().capacity(1).clock(clock).build().unwrap();
        // Owned leases share the standard library's `Arc`, in a model as in a service. Its counts
        // are not explored; the threads are joined before the cache is dropped.
        let cache = std::sync::Arc::new(cache);
        let lease = cache.lease_owned(&key(1));
        let remembering = thread::spawn(move || {
            lease.remember(1);
        });
        cache.invalidate_key(&key(1));
        assert_eq!(cache.lookup(&key(1)), None, "served while the request was still running");
        remembering.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None, "served after the request");
        let fresh = cache.lease_owned(&key(1));
        cache.invalidate_for(NANO);
        assert!(!fresh.remember(2));
        assert!(!cache.lease_owned(&key(1)).remember(3));
    });
}
