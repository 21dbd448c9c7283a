//! G3: no value outlives its time-to-live, which is counted from the lease. The lag of a clock
//! counts against the value.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
    assert!(older.remember(2), "the lease is expired, but not superseded");
    assert_eq!((cache.lookup(&hash), cache.lookup(&other)), (Some(1), None));
    assert!(old.remember(3));
    assert_eq!(cache.lookup(&hash), None, "G4: an earlier value is replaced in any case");
}

/// A clock that lags behind the true time by `lag`.
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
    // The lease reads the exact time, and the lookup reads a time that lags. This is the worst case
    // for a cache that trusts its clock.
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
fn g3_remember_for_shortens_the_life_of_a_value_from_the_lease_on() {
    let (cache, clock, hash) = cache();
    let lease = cache.lease(&hash);
    clock.advance(Duration::from_secs(10));
    assert!(lease.remember_for(1, Duration::from_secs(30)));
    clock.advance(Duration::from_secs(20) - NANO);
    assert_eq!(cache.lookup(&hash), Some(1));
    clock.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn g3_remember_for_never_exceeds_the_time_to_live() {
    let (cache, clock, hash) = cache();
    for at_most in [TTL + NANO, 10 * TTL, Duration::MAX] {
        assert!(cache.lease(&hash).remember_for(1, at_most));
        clock.advance(TTL - NANO);
        assert_eq!(cache.lookup(&hash), Some(1), "{at_most:?}");
        clock.advance(NANO);
        assert_eq!(cache.lookup(&hash), None, "{at_most:?}");
    }
}

#[test]
fn g3_remember_for_no_time_removes_an_earlier_value_and_no_other_key() {
    let clock = ManualClock::new();
    let cache = KeyCache::<u32, _>::builder().capacity(2).clock(clock.clone()).build().unwrap();
    let [hash, second, third] = ["key", "second", "third"].map(KeyHash::of);
    assert!(cache.lease(&hash).remember(1));
    assert!(cache.lease(&second).remember(2));
    assert!(cache.lease(&third).remember_for(3, Duration::ZERO), "the lease is not superseded");
    assert_eq!(cache.len(), 2, "a value that is not stored evicts nothing");
    assert!(cache.lease(&hash).remember_for(4, Duration::ZERO));
    assert_eq!((cache.lookup(&hash), cache.lookup(&second)), (None, Some(2)));
    // A lease that is older than the given time is also too late.
    let late = cache.lease(&second);
    clock.advance(NANO);
    assert!(late.remember_for(5, NANO));
    assert!(cache.is_empty());
}

#[test]
fn g3_a_clocks_lag_counts_against_remember_for() {
    let resolution = Duration::from_millis(4);
    let at_most = Duration::from_millis(10);
    let (truth, lag) = (ManualClock::new(), ManualClock::new());
    truth.advance(TTL);
    let clock = Lagging { truth: truth.clone(), lag: lag.clone(), resolution };
    let cache = KeyCache::<u32, _>::builder().ttl(TTL).clock(clock).build().unwrap();
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember_for(1, at_most));
    // The lookup reads a time that lags by the whole resolution.
    lag.advance(resolution);
    truth.advance(at_most - NANO);
    assert_eq!(cache.lookup(&hash), Some(1));
    truth.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
    assert!(cache.lease(&hash).remember(2));
    assert!(cache.lease(&hash).remember_for(3, resolution), "no time is left");
    assert_eq!(cache.lookup(&hash), None);
    assert!(cache.lease(&hash).remember_for(4, resolution + NANO));
    assert_eq!(cache.lookup(&hash), Some(4));
}

/// Returns a cache whose values are their own time-to-live in seconds.
fn cache_of_seconds() -> (Arc<KeyCache<u64, ManualClock>>, ManualClock, KeyHash) {
    let clock = ManualClock::new();
    let builder = KeyCache::builder().entry_ttl(|seconds| Duration::from_secs(*seconds));
    let cache = builder.clock(clock.clone()).build().unwrap();
    (Arc::new(cache), clock, KeyHash::of("key"))
}

#[test]
fn g3_of_the_time_to_live_the_values_own_and_the_callers_the_shortest_counts() {
    let seconds = Duration::from_secs;
    for (own, at_most, expected) in
        [(5, seconds(9), 5), (9, seconds(5), 5), (70, Duration::MAX, 60), (70, seconds(80), 60)]
    {
        for owned in [false, true] {
            let (cache, clock, hash) = cache_of_seconds();
            assert!(if owned {
                cache.lease_owned(&hash).remember_for(own, at_most)
            } else {
                cache.lease(&hash).remember_for(own, at_most)
            });
            clock.advance(seconds(expected) - NANO);
            assert_eq!(cache.lookup(&hash), Some(own), "{own}, {at_most:?}, {owned}");
            clock.advance(NANO);
            assert_eq!(cache.lookup(&hash), None, "{own}, {at_most:?}, {owned}");
        }
    }
}

#[test]
fn g3_a_value_that_has_ended_is_stored_by_no_kind_of_lease_and_removes_an_earlier_one() {
    let (cache, _, hash) = cache_of_seconds();
    assert!(cache.lease(&hash).remember(1));
    assert!(cache.lease(&hash).remember(0));
    assert!(cache.is_empty());
    assert!(cache.lease(&hash).remember(1));
    assert!(cache.lease_owned(&hash).remember(0));
    assert!(cache.is_empty());
}

#[test]
fn g3_a_clocks_lag_counts_against_a_values_own_end() {
    let (truth, lag) = (ManualClock::new(), ManualClock::new());
    truth.advance(TTL);
    let resolution = Duration::from_millis(4);
    let clock = Lagging { truth: truth.clone(), lag: lag.clone(), resolution };
    let builder = KeyCache::<u64>::builder().entry_ttl(|millis| Duration::from_millis(*millis));
    let cache = builder.clock(clock).build().unwrap();
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(10));
    lag.advance(resolution);
    truth.advance(Duration::from_millis(10) - NANO);
    assert_eq!(cache.lookup(&hash), Some(10));
    truth.advance(NANO);
    assert_eq!(cache.lookup(&hash), None);
}

#[test]
fn g3_the_values_own_end_is_asked_for_once_a_remember_and_never_by_lookups() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let builder = KeyCache::<u32>::builder().entry_ttl(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        TTL
    });
    let cache = builder.build().unwrap();
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(1));
    assert_eq!(cache.lookup(&hash), Some(1));
    assert_eq!(cache.lookup_with(&hash, |value| *value), Some(1));
    assert_eq!(cache.len(), 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn g3_a_panic_in_the_values_own_end_leaves_the_cache_as_it_was() {
    const FORBIDDEN: u32 = 13;
    let builder = KeyCache::<u32>::builder().capacity(1).entry_ttl(|value| {
        assert_ne!(*value, FORBIDDEN);
        TTL
    });
    let cache = Arc::new(builder.build().unwrap());
    let (hash, other) = (KeyHash::of("key"), KeyHash::of("other"));
    assert!(cache.lease(&hash).remember(1));
    let (lease, owned) = (cache.lease(&other), cache.lease_owned(&hash));
    assert!(catch_unwind(AssertUnwindSafe(|| lease.remember(FORBIDDEN))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| owned.remember(FORBIDDEN))).is_err());
    assert_eq!((cache.lookup(&hash), cache.lookup(&other)), (Some(1), None));
    assert!(cache.lease(&hash).remember(2));
    assert_eq!(cache.lookup(&hash), Some(2));
}

#[test]
fn g3_the_values_own_end_may_be_computed_with_the_help_of_caches() {
    let (ends, clock) = (Arc::new(KeyCache::<Duration>::new()), ManualClock::new());
    let (known, hash) = (ends.clone(), KeyHash::of("key"));
    let builder = KeyCache::<u32>::builder().entry_ttl(move |_| {
        known.lookup(&hash).unwrap_or_else(|| {
            assert!(known.lease(&hash).remember(Duration::from_secs(1)));
            Duration::from_secs(1)
        })
    });
    let cache = builder.clock(clock.clone()).build().unwrap();
    assert!(cache.lease(&hash).remember(1));
    assert_eq!((cache.len(), ends.len()), (1, 1));
    clock.advance(Duration::from_secs(1));
    assert!(cache.is_empty());
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
    // Enough for late ticks, and a small part of a minute.
    assert!(cfg!(not(target_os = "linux")) || clock.resolution() >= Duration::from_millis(100));
    assert!(clock.resolution() <= Duration::from_millis(200), "{:?}", clock.resolution());
}

#[test]
fn the_coarse_clock_goes_on() {
    let (coarse, precise) = (CoarseClock, Instant::now());
    let start = coarse.now();
    while coarse.now() == start {
        assert!(precise.elapsed() < Duration::from_secs(60), "the clock does not advance");
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

/// A clock that runs a step when it is read, which stands for what another thread does between two
/// steps of a lookup.
#[derive(Clone)]
struct Interrupted {
    time: ManualClock,
    interruption: Arc<Mutex<Option<Interruption>>>,
}

type Interruption = Box<dyn FnOnce() + Send>;

impl Clock for Interrupted {
    fn now(&self) -> Duration {
        // Taken first, since the interruption reads the clock, too.
        let interruption = self.interruption.lock().unwrap().take();
        interruption.into_iter().for_each(|run| run());
        self.time.now()
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

/// G3.6: the entry expires while the lookup runs, and was replaced in time.
#[test]
fn g3_a_lookup_does_not_miss_a_value_that_replaced_an_expiring_one() {
    let clock = Interrupted { time: ManualClock::new(), interruption: Arc::default() };
    let cache = Arc::new(KeyCache::builder().clock(clock.clone()).build().unwrap());
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(1));
    clock.time.advance(TTL - NANO);
    let (time, shared) = (clock.time.clone(), Arc::clone(&cache));
    *clock.interruption.lock().unwrap() = Some(Box::new(move || {
        assert!(shared.lease(&hash).remember(2));
        time.advance(NANO);
    }));
    assert_eq!(cache.lookup(&hash), Some(2));
}
