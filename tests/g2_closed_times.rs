//! G2: no lease that is taken within the duration of `invalidate_key_for` or `invalidate_for`
//! stores anything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use trust_key_cache::{Clock, KeyCache, KeyHash, ManualClock};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

type Cache = KeyCache<u32, ManualClock>;

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

/// A cache of one bucket.
fn one_bucket() -> (Cache, ManualClock) {
    let clock = ManualClock::new();
    (KeyCache::builder().capacity(4).clock(clock.clone()).build().unwrap(), clock)
}

/// The two calls for the key 1. Both must have the same effect on this key.
const CLOSINGS: [fn(&Cache, Duration); 2] = [
    |cache, within| cache.invalidate_key_for(&hash(1), within),
    |cache, within| cache.invalidate_for(within),
];

#[test]
fn g2_leases_taken_before_and_within_the_time_store_nothing_and_later_ones_do() {
    for close in CLOSINGS {
        let (cache, clock) = one_bucket();
        assert!(cache.lease(&hash(1)).remember(1));
        let before = cache.lease(&hash(1));
        close(&cache, SECOND);
        assert_eq!(cache.lookup(&hash(1)), None);
        let at_once = cache.lease(&hash(1));
        clock.advance(SECOND - NANO);
        let last = cache.lease(&hash(1));
        clock.advance(NANO);
        // Also a late `remember`, and one for a short time, stores nothing.
        assert!(!before.remember(2));
        assert!(!at_once.remember(3));
        assert!(!last.remember_for(4, Duration::ZERO));
        assert_eq!(cache.lookup(&hash(1)), None);
        assert!(cache.lease(&hash(1)).remember(5));
        assert_eq!(cache.lookup(&hash(1)), Some(5));
    }
}

#[test]
fn g2_a_lease_within_the_time_is_refused_also_when_it_remembers_after_a_fresh_one() {
    for close in CLOSINGS {
        let (cache, clock) = one_bucket();
        close(&cache, SECOND);
        let within = cache.lease(&hash(1));
        clock.advance(SECOND);
        assert!(cache.lease(&hash(1)).remember(2));
        assert!(!within.remember(1));
        assert_eq!(cache.lookup(&hash(1)), Some(2));
    }
}

#[test]
fn g2_a_dropped_caller_leaves_nothing_behind_that_it_would_have_invalidated() {
    let (cache, clock) = one_bucket();
    cache.invalidate_key_for(&hash(1), SECOND);
    // A request reads the row as it was, the database commits, and `invalidate_key` never runs.
    let request = cache.lease(&hash(1));
    let row_before_the_commit = 1;
    clock.advance(SECOND);
    assert!(!request.remember(row_before_the_commit));
    assert!(cache.is_empty());
}

#[test]
fn g2_the_later_of_two_times_counts_and_no_invalidation_shortens_it() {
    for (first, second) in [(2, 1), (1, 2)] {
        for close in CLOSINGS {
            for later in CLOSINGS {
                let (cache, clock) = one_bucket();
                close(&cache, first * SECOND);
                later(&cache, second * SECOND);
                cache.invalidate_key(&hash(1));
                cache.invalidate();
                cache.invalidate_where(|_, _| true);
                cache.invalidate_key_for(&hash(2), Duration::ZERO);
                cache.invalidate_for(Duration::ZERO);
                clock.advance(2 * SECOND - NANO);
                assert!(!cache.lease(&hash(1)).remember(1), "{first}, {second}");
                clock.advance(NANO);
                assert!(cache.lease(&hash(1)).remember(1), "{first}, {second}");
            }
        }
    }
}

#[test]
fn g2_each_copy_of_a_bucket_carries_the_time() {
    // All copies of a bucket: after a `remember`, an invalidation or a naming of the key's
    // neighbour, and of a bucket of an old generation.
    let copies: [fn(&Cache, &ManualClock); 5] = [
        |cache, _| cache.invalidate_key(&hash(2)),
        |cache, _| assert_eq!(cache.invalidate_where(|_, _| false), 0),
        |cache, _| {
            cache.invalidate();
            cache.invalidate_key(&hash(2));
        },
        |cache, _| {
            cache.invalidate();
            cache.invalidate_where(|_, _| true);
        },
        |cache, clock| {
            // The bucket closes again, for a shorter time than the time that is left.
            clock.advance(SECOND / 2);
            cache.invalidate_key_for(&hash(3), SECOND / 4);
        },
    ];
    for copy in copies {
        for dead in [false, true] {
            let (cache, clock) = one_bucket();
            let start = clock.now();
            cache.invalidate_key_for(&hash(1), SECOND);
            if dead {
                cache.invalidate();
            }
            copy(&cache, &clock);
            clock.advance(start + SECOND - NANO - clock.now());
            let last = cache.lease(&hash(1));
            clock.advance(NANO);
            assert!(!last.remember(1));
            assert!(cache.lease(&hash(1)).remember(1));
        }
    }
}

/// A clock that lags behind the true time by `lag`. In one test, a growing lag turns the clock
/// back. Threads that read a clock at different moments also reach the cache in any order.
#[derive(Clone, Default)]
struct Lagging {
    truth: ManualClock,
    lag: Arc<Mutex<Duration>>,
    resolution: Duration,
}

impl Lagging {
    fn set(&self, lag: Duration) {
        *self.lag.lock().unwrap() = lag;
    }
}

impl Clock for Lagging {
    fn now(&self) -> Duration {
        self.truth.now().saturating_sub(*self.lag.lock().unwrap())
    }

    fn resolution(&self) -> Duration {
        self.resolution
    }
}

#[test]
fn g2_a_remember_carries_the_time_to_its_copy() {
    for dead in [false, true] {
        let clock = Lagging::default();
        let cache = KeyCache::<u32, _>::builder().capacity(4).clock(clock.clone());
        let cache = cache.build().unwrap();
        cache.invalidate_key_for(&hash(1), SECOND);
        if dead {
            cache.invalidate();
        }
        // The time has passed for the lease that remembers, and not for the next one.
        clock.truth.advance(SECOND);
        assert!(cache.lease(&hash(2)).remember(2));
        clock.set(NANO);
        assert!(!cache.lease(&hash(1)).remember(1), "the copy forgot the time");
        clock.set(Duration::ZERO);
        assert!(cache.lease(&hash(1)).remember(1));
    }
}

#[test]
fn g2_no_other_key_loses_its_value_and_neighbours_are_refused_for_as_long() {
    let clock = ManualClock::new();
    let cache = KeyCache::<u64, _>::builder().capacity(4_000).clock(clock.clone()).build().unwrap();
    for number in 0..1_000 {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    cache.invalidate_key_for(&hash(7), SECOND);
    assert_eq!(cache.len(), 999);
    let stored = |cache: &KeyCache<u64, _>| {
        (0..1_000).filter(|&number| cache.lease(&hash(number)).remember(number)).count()
    };
    // There are a thousand buckets, so all leases except a few neighbours' are valid.
    let within = stored(&cache);
    assert!((980..1_000).contains(&within), "{within}");
    assert_eq!(cache.lookup(&hash(7)), None);
    clock.advance(SECOND);
    assert_eq!(stored(&cache), 1_000);
}

#[test]
fn g2_the_time_of_the_whole_cache_holds_for_keys_and_buckets_that_never_were() {
    let clock = ManualClock::new();
    let cache = KeyCache::<u64, _>::builder().capacity(4_000).clock(clock.clone()).build().unwrap();
    cache.invalidate_for(SECOND);
    clock.advance(SECOND - NANO);
    assert!((0..1_000).all(|number| !cache.lease(&hash(number)).remember(number)));
    clock.advance(NANO);
    assert!((0..1_000).all(|number| cache.lease(&hash(number)).remember(number)));
}

#[test]
fn g2_a_clocks_lag_counts_against_the_lease() {
    const RESOLUTION: Duration = Duration::from_millis(4);
    for whole in [false, true] {
        let clock = Lagging { resolution: RESOLUTION, ..Lagging::default() };
        let cache = KeyCache::<u32, _>::builder().capacity(4).clock(clock.clone());
        let cache = cache.build().unwrap();
        // The call reads a time that lags by the whole resolution, and the lease reads an exact
        // time. This is the worst case for a cache that trusts its clock.
        clock.truth.advance(SECOND);
        clock.set(RESOLUTION);
        if whole {
            cache.invalidate_for(SECOND);
        } else {
            cache.invalidate_key_for(&hash(1), SECOND);
        }
        clock.set(Duration::ZERO);
        clock.truth.advance(SECOND - NANO);
        assert!(!cache.lease(&hash(1)).remember(1), "taken within the time");
        clock.truth.advance(NANO);
        assert!(cache.lease(&hash(1)).remember(1), "refused for longer than the clock may lag");
    }
}

#[test]
fn g2_the_longest_duration_never_ends() {
    for close in CLOSINGS {
        let (cache, clock) = one_bucket();
        clock.advance(SECOND);
        close(&cache, Duration::MAX);
        for step in [NANO, SECOND, Duration::from_nanos(u64::MAX - 2_000_000_010)] {
            clock.advance(step);
            assert!(!cache.lease(&hash(1)).remember(1));
        }
        // At the end of the clock's range nothing is returned in any case (G3).
        clock.advance(Duration::MAX);
        cache.lease(&hash(1)).remember(1);
        assert_eq!(cache.lookup(&hash(1)), None);
    }
}

#[test]
fn g2_no_time_at_all_is_a_plain_invalidation_on_an_exact_clock() {
    for close in CLOSINGS {
        let (cache, _) = one_bucket();
        assert!(cache.lease(&hash(1)).remember(1));
        let before = cache.lease(&hash(1));
        close(&cache, Duration::ZERO);
        assert_eq!(cache.lookup(&hash(1)), None);
        assert!(!before.remember(1));
        assert!(cache.lease(&hash(1)).remember(2));
    }
}
