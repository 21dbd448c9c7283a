//! G3: no value outlives its time-to-live, which runs from the lease, and a clock's lag counts
//! against it.

use std::time::{Duration, Instant};

use trust_key_cache::{Clock, CoarseClock, KeyCache, KeyHash, ManualClock};

const TTL: Duration = Duration::from_secs(60);
const NANO: Duration = Duration::from_nanos(1);

fn cache() -> (KeyCache<u32, ManualClock>, ManualClock, KeyHash) {
    let clock = ManualClock::new();
    (KeyCache::builder().clock(clock.clone()).build().unwrap(), clock, KeyHash::of("key"))
}

#[test]
fn g3_at_exactly_the_time_to_live_a_value_is_expired() {
    let (cache, clock, hash) = cache();
    assert!(cache.lease(&hash).remember(1));
    clock.advance(TTL - NANO);
    assert_eq!(cache.lookup(&hash), Some(1));
    clock.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn g3_the_time_to_live_runs_from_the_lease() {
    let (cache, clock, hash) = cache();
    let lease = cache.lease(&hash);
    clock.advance(TTL - NANO);
    assert!(lease.remember(1));
    assert_eq!(cache.lookup(&hash), Some(1));
    clock.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn g3_a_lease_older_than_the_time_to_live_replaces_by_nothing_and_evicts_no_other_key() {
    let clock = ManualClock::new();
    let cache = KeyCache::<u32, _>::builder().capacity(1).clock(clock.clone()).build().unwrap();
    let (hash, other) = (KeyHash::of("key"), KeyHash::of("other"));
    let (old, older) = (cache.lease(&hash), cache.lease(&other));
    clock.advance(TTL);
    assert!(cache.lease(&hash).remember(1));
    assert!(older.remember(2), "it is expired, but not superseded");
    assert_eq!((cache.lookup(&hash), cache.lookup(&other)), (Some(1), None));
    assert!(old.remember(3));
    assert_eq!(cache.lookup(&hash), None, "G4: an earlier value is replaced all the same");
}

/// A clock that shows a time up to `lag` ago.
struct Lagging {
    truth: ManualClock,
    lag: ManualClock,
    resolution: Duration,
}

impl Clock for Lagging {
    fn now(&self) -> Duration {
        self.truth.now().saturating_sub(self.lag.now())
    }

    fn resolution(&self) -> Duration {
        self.resolution
    }
}

#[test]
fn g3_a_clock_that_lags_by_all_its_resolution_makes_no_value_outlive_its_time_to_live() {
    let resolution = Duration::from_millis(4);
    let (truth, lag) = (ManualClock::new(), ManualClock::new());
    truth.advance(TTL);
    let clock = Lagging { truth: truth.clone(), lag: lag.clone(), resolution };
    let cache = KeyCache::<u32, _>::builder().ttl(TTL).clock(clock).build().unwrap();
    let hash = KeyHash::of("key");
    // The lease reads the exact time, and the lookup reads a time that lags: the worst case for a
    // cache that trusts its clock.
    assert!(cache.lease(&hash).remember(1));
    lag.advance(resolution);
    truth.advance(TTL - NANO);
    assert_eq!(cache.lookup(&hash), Some(1));
    truth.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn g3_the_end_of_the_clocks_range_expires_everything() {
    let (cache, clock, hash) = cache();
    clock.advance(Duration::from_nanos(u64::MAX - 5));
    assert!(cache.lease(&hash).remember(1));
    assert_eq!(cache.lookup(&hash), Some(1));
    clock.advance(Duration::MAX);
    assert_eq!(clock.now(), Duration::from_nanos(u64::MAX));
    assert_eq!(cache.lookup(&hash), None);
    assert!(cache.lease(&hash).remember(2));
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn the_coarse_clock_is_monotonic_and_says_how_coarse_it_is() {
    let clock = CoarseClock;
    let mut last = clock.now();
    for _ in 0..10_000 {
        let now = clock.now();
        assert!(now >= last);
        last = now;
    }
    // Enough for ticks that come late, and nothing that matters to a minute.
    assert!(cfg!(not(target_os = "linux")) || clock.resolution() >= Duration::from_millis(100));
    assert!(clock.resolution() <= Duration::from_millis(200), "{:?}", clock.resolution());
}

#[test]
fn the_coarse_clock_goes_on() {
    let (coarse, precise) = (CoarseClock, Instant::now());
    let start = coarse.now();
    while coarse.now() == start {
        assert!(precise.elapsed() < Duration::from_secs(60), "it stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn clones_of_a_manual_clock_share_the_time() {
    let clock = ManualClock::new();
    let clone = clock.clone();
    clock.advance(TTL);
    assert_eq!(clone.now(), TTL);
    assert_eq!(clone.resolution(), Duration::ZERO);
}
