//! G6: a cache keeps as many keys as its capacity, and never more than four times as many.

use std::time::Duration;

use trust_key_cache::{KeyCache, KeyHash, ManualClock};

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

fn filled(capacity: usize, keys: u64) -> KeyCache<u64> {
    let cache = KeyCache::builder().capacity(capacity).build().unwrap();
    for number in 0..keys {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    cache
}

#[test]
fn g6_up_to_sixteen_keys_are_all_kept_and_no_more() {
    for capacity in 1..=16 {
        assert_eq!(filled(capacity, capacity as u64).len(), capacity);
        assert_eq!(filled(capacity, 100).len(), capacity);
    }
}

/// The seed decides at random which keys share a bucket. So the smaller caches are counted
/// together: 40 caches of each size must keep 99.9 % of all keys.
#[test]
fn g6_at_least_999_of_1000_live_keys_are_kept() {
    for (capacity, caches) in [(17, 40), (100, 40), (999, 40), (1_000, 1), (65_536, 1)] {
        let kept: usize = (0..caches).map(|_| filled(capacity, capacity as u64).len()).sum();
        assert!(
            kept * 1_000 >= capacity * caches * 999,
            "{kept} of {} at {capacity}",
            capacity * caches
        );
    }
}

#[test]
fn g6_never_more_than_four_times_the_capacity() {
    for capacity in [1, 3, 16, 17, 64, 1_000] {
        let cache = filled(capacity, 20 * capacity as u64);
        assert!(cache.len() <= 4 * capacity, "{} at {capacity}", cache.len());
        assert!(cache.len() >= capacity, "{} at {capacity}", cache.len());
    }
}

#[test]
fn g6_the_soonest_to_expire_makes_room() {
    let clock = ManualClock::new();
    let cache = KeyCache::builder().capacity(3).clock(clock.clone()).build().unwrap();
    let early = cache.lease(&hash(0));
    for number in 1..=3 {
        clock.advance(Duration::from_secs(1));
        assert!(cache.lease(&hash(number)).remember(number));
    }
    clock.advance(Duration::from_secs(1));
    // The value of `early` expires before all others. The eviction counts only values that are
    // already stored: key 1 is evicted.
    assert!(early.remember(0));
    assert_eq!(
        [0, 1, 2, 3].map(|number| cache.lookup(&hash(number))),
        [Some(0), None, Some(2), Some(3)]
    );
    assert!(cache.lease(&hash(4)).remember(4));
    assert_eq!(
        [0, 2, 3, 4].map(|number| cache.lookup(&hash(number))),
        [None, Some(2), Some(3), Some(4)]
    );
    // A stored key needs no additional room.
    assert!(cache.lease(&hash(4)).remember(44));
    assert_eq!([2, 3, 4].map(|number| cache.lookup(&hash(number))), [Some(2), Some(3), Some(44)]);
}

#[test]
fn g6_expired_entries_make_room_before_live_ones() {
    let clock = ManualClock::new();
    let cache = KeyCache::builder().capacity(2).clock(clock.clone()).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(1));
    clock.advance(Duration::from_secs(30));
    assert!(cache.lease(&hash(2)).remember(2));
    clock.advance(Duration::from_secs(30));
    assert_eq!(cache.len(), 1);
    assert!(cache.lease(&hash(3)).remember(3));
    assert_eq!([1, 2, 3].map(|number| cache.lookup(&hash(number))), [None, Some(2), Some(3)]);
}
