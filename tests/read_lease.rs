//! G11: a held lookup returns a value only while the read lease is valid, and only a value that was
//! read after each change that the last renewal covers. `docs/guarantees.md` has the lemmas.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use trust_key_cache::{BootClock, Clock, KeyCache, KeyHash, ManualClock, ReadLease};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const LENGTH: Duration = Duration::from_secs(10);
/// Four fifths of the length.
const VALID: Duration = Duration::from_secs(8);

fn lease() -> (ReadLease<ManualClock>, ManualClock) {
    let clock = ManualClock::new();
    (ReadLease::with_clock(LENGTH, clock.clone()), clock)
}

fn renewed() -> (ReadLease<ManualClock>, ManualClock) {
    let (lease, clock) = lease();
    lease.begin().complete();
    (lease, clock)
}

/// Returns a cache with one value, and the key of that value. The cache's own clock stands still.
fn holding(value: u32) -> (KeyCache<u32, ManualClock>, KeyHash) {
    let cache = KeyCache::builder().clock(ManualClock::new()).build().unwrap();
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(value));
    (cache, hash)
}

#[test]
fn g11_a_lease_is_not_valid_before_its_first_renewal() {
    let ((cache, hash), (lease, clock)) = (holding(7), lease());
    for _ in 0..2 {
        assert_eq!(cache.lookup_held(&lease, &hash), None);
        assert_eq!(cache.lookup_held_with(&lease, &hash, |value| *value), None);
        assert!(!lease.is_valid());
        assert_eq!(lease.remaining(), Duration::ZERO);
        clock.advance(SECOND);
    }
    assert_eq!(cache.lookup(&hash), Some(7), "a lookup needs no read lease");
}

#[test]
fn g11_a_hit_is_held_until_four_fifths_of_the_length_and_not_at_their_end() {
    let ((cache, hash), (lease, clock)) = (holding(7), renewed());
    clock.advance(VALID - NANO);
    assert_eq!(cache.lookup_held(&lease, &hash), Some(7));
    assert_eq!(cache.lookup_held_with(&lease, &hash, |value| *value), Some(7));
    assert!(lease.is_valid());
    assert_eq!(lease.remaining(), NANO);
    assert_eq!(cache.lookup_held(&lease, &KeyHash::of("unknown")), None);

    clock.advance(NANO);
    assert_eq!(cache.lookup_held(&lease, &hash), None);
    assert_eq!(cache.lookup_held_with(&lease, &hash, |value| *value), None);
    assert!(!lease.is_valid());
    assert_eq!(lease.remaining(), Duration::ZERO);
}

#[test]
fn g11_a_deadline_counts_from_begin_and_not_from_complete() {
    let (lease, clock) = lease();
    let renewal = lease.begin();
    clock.advance(5 * SECOND);
    renewal.complete();
    assert_eq!(lease.remaining(), 3 * SECOND);

    let late = lease.begin();
    clock.advance(VALID);
    late.complete();
    assert!(!lease.is_valid(), "the answer came after the end of the lease that it brought");
}

#[test]
fn g11_a_renewal_that_is_begun_or_dropped_moves_nothing() {
    let (lease, clock) = renewed();
    clock.advance(SECOND);
    let begun = lease.begin();
    assert_eq!(lease.remaining(), VALID - SECOND);
    drop(begun);
    assert_eq!(lease.remaining(), VALID - SECOND);
}

#[test]
fn g11_of_two_renewals_the_one_that_began_last_counts_in_either_order() {
    for last_first in [false, true] {
        let (lease, clock) = lease();
        let first = lease.begin();
        clock.advance(SECOND);
        let last = lease.begin();
        let (one, other) = if last_first { (last, first) } else { (first, last) };
        one.complete();
        other.complete();
        assert_eq!(lease.remaining(), VALID, "the last one first: {last_first}");
    }
}

#[test]
fn g11_no_renewal_that_began_before_revives_a_relinquished_lease() {
    let ((cache, hash), (lease, clock)) = (holding(7), renewed());
    let before = [lease.begin(), lease.begin()];
    lease.relinquish();
    assert!(!lease.is_valid());
    assert_eq!(cache.lookup_held(&lease, &hash), None);
    let [before, later] = before;
    before.complete();
    assert!(!lease.is_valid());

    clock.advance(SECOND);
    let after = lease.begin();
    assert!(!lease.is_valid());
    after.complete();
    assert_eq!(cache.lookup_held(&lease, &hash), Some(7));
    assert_eq!(lease.remaining(), VALID);

    lease.relinquish();
    later.complete();
    assert_eq!(cache.lookup_held(&lease, &hash), None);
    lease.begin().complete();
    assert_eq!(
        cache.lookup_held(&lease, &hash),
        Some(7),
        "renewed at the time of the last renewal"
    );
    lease.relinquish();
    // Also where no deadline was in force: a renewal that has begun would be the first.
    let begun = lease.begin();
    lease.relinquish();
    begun.complete();
    assert!(!lease.is_valid());
}

#[test]
fn g11_a_renewal_counts_with_the_shorter_of_the_lengths_at_its_begin_and_its_end() {
    let (lease, _) = lease();
    assert_eq!(lease.length(), LENGTH);
    let begun = lease.begin();
    lease.set_length(5 * SECOND);
    assert_eq!(lease.length(), 5 * SECOND);
    begun.complete();
    assert_eq!(lease.remaining(), 4 * SECOND, "the length was lowered meanwhile");

    let begun = lease.begin();
    lease.set_length(2 * LENGTH);
    begun.complete();
    assert_eq!(lease.remaining(), 4 * SECOND, "the length was raised meanwhile");
    lease.begin().complete();
    assert_eq!(lease.remaining(), 2 * VALID);

    // A deadline that stands is not shortened.
    lease.set_length(SECOND);
    lease.begin().complete();
    assert_eq!(lease.remaining(), 2 * VALID);
}

#[test]
fn g11_the_fifth_is_rounded_up_and_the_clocks_lag_is_subtracted() {
    struct Lagging(u64);
    impl Clock for Lagging {
        fn now(&self) -> Duration {
            SECOND
        }
        fn resolution(&self) -> Duration {
            Duration::from_nanos(self.0)
        }
    }
    let remaining = |length, lag| {
        let lease = ReadLease::with_clock(Duration::from_nanos(length), Lagging(lag));
        lease.begin().complete();
        assert_eq!(lease.is_valid(), lease.remaining() > Duration::ZERO);
        lease.remaining().as_nanos()
    };
    let lengths = [0, 1, 2, 4, 5, 6, 9, 10, 11];
    assert_eq!(lengths.map(|length| remaining(length, 0)), [0, 0, 1, 3, 4, 4, 7, 8, 8]);
    assert_eq!([0, 7, 8, 9].map(|lag| remaining(10, lag)), [8, 1, 0, 0]);
    assert_eq!(remaining(0, u64::MAX), 0);
    assert_eq!(remaining(u64::MAX, u64::MAX), 0);
}

#[test]
fn g11_at_the_end_of_the_clocks_range_no_lease_is_valid() {
    let clock = ManualClock::new();
    let lease = ReadLease::with_clock(Duration::MAX, clock.clone());
    lease.begin().complete();
    assert!(lease.is_valid());
    clock.advance(Duration::MAX);
    assert!(!lease.is_valid());
    lease.begin().complete();
    assert!(!lease.is_valid());
}

#[test]
fn g11_what_a_renewal_invalidates_is_not_held() {
    let (cache, hash) = holding(7);
    let invalidations: [&dyn Fn(); 5] = [
        &|| cache.invalidate(),
        &|| cache.invalidate_key(&hash),
        &|| assert_eq!(cache.invalidate_where(|_, value| *value == 7), 1),
        &|| cache.invalidate_for(Duration::ZERO),
        &|| cache.invalidate_key_for(&hash, Duration::ZERO),
    ];
    for (number, invalidate) in invalidations.iter().enumerate() {
        let (lease, _) = renewed();
        let _ = cache.lease(&hash).remember(7);
        assert_eq!(cache.lookup_held(&lease, &hash), Some(7), "{number}");
        let renewal = lease.begin();
        let in_flight = cache.lease(&hash);
        invalidate();
        renewal.complete();
        assert!(!in_flight.remember(7), "{number}: read before the change, perhaps");
        assert_eq!(cache.lookup_held(&lease, &hash), None, "{number}");
        assert!(lease.is_valid());
    }
}

#[test]
fn g3_a_value_that_has_expired_is_not_held() {
    let clock = ManualClock::new();
    let ttl = Duration::from_secs(5);
    let cache = KeyCache::builder().ttl(ttl).clock(clock.clone()).build().unwrap();
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(7));
    let (lease, _) = renewed();
    clock.advance(ttl - NANO);
    assert_eq!(cache.lookup_held(&lease, &hash), Some(7));
    clock.advance(NANO);
    assert_eq!(cache.lookup_held(&lease, &hash), None);
    assert!(lease.is_valid());
}

/// A clock that does something at each read, as other threads do between two steps of a lookup.
struct Interrupting<'a> {
    time: &'a Cell<Duration>,
    interrupt: &'a dyn Fn(),
}

impl Clock for Interrupting<'_> {
    fn now(&self) -> Duration {
        (self.interrupt)();
        self.time.get()
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn g11_the_clock_is_read_after_the_entry_was_found_and_only_then() {
    let (cache, hash) = holding(7);
    let (reads, time) = (Cell::new(0), Cell::new(SECOND));
    let interrupt = || {
        reads.set(reads.get() + 1);
        // A value that was found is still returned if it is dropped now.
        cache.invalidate_key(&hash);
    };
    let lease = ReadLease::with_clock(LENGTH, Interrupting { time: &time, interrupt: &interrupt });
    lease.begin().complete();
    let _ = cache.lease(&hash).remember(8);
    reads.set(0);
    assert_eq!(cache.lookup_held(&lease, &hash), Some(8));
    assert_eq!(reads.get(), 1);
    assert_eq!(cache.lookup_held(&lease, &hash), None, "dropped by the interruption");
    assert_eq!(reads.get(), 1, "no clock is read if there is no entry");
}

#[test]
fn g11_a_deadline_that_moves_after_the_entry_was_found_does_not_count() {
    let (cache, hash) = holding(7);
    let time = Cell::new(SECOND);
    let renewing: Cell<Option<&ReadLease<Interrupting>>> = Cell::new(None);
    let interrupt = || {
        // Within the lookup, the old deadline passes, and a renewal brings the value's end.
        if let Some(lease) = renewing.take() {
            time.set(time.get() + VALID);
            let renewal = lease.begin();
            cache.invalidate_key(&hash);
            renewal.complete();
            assert!(lease.is_valid());
        }
    };
    let lease = ReadLease::with_clock(LENGTH, Interrupting { time: &time, interrupt: &interrupt });
    lease.begin().complete();
    assert_eq!(cache.lookup_held(&lease, &hash), Some(7));
    renewing.set(Some(&lease));
    assert_eq!(
        cache.lookup_held(&lease, &hash),
        None,
        "granted by a deadline that it had not read"
    );
}

/// A thread revokes and waits out the lease, as a changer does. Another one renews. Requests never
/// receive what was revoked before they began.
#[test]
fn g11_no_request_that_begins_after_the_wait_is_granted_what_was_revoked() {
    let rounds = if cfg!(miri) { 3 } else { 1_000 };
    let (cache, clock) = (KeyCache::<u64>::new(), ManualClock::new());
    let lease = ReadLease::with_clock(Duration::from_nanos(10), clock.clone());
    let hash = KeyHash::of("key");
    // The source of truth: the number of the key's value. Each change raises it.
    let row = AtomicU64::new(0);
    // All values below have been revoked, and their changers have returned.
    let returned = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let request = || {
        let revoked = returned.load(Ordering::SeqCst);
        let held = cache.lookup_held(&lease, &hash);
        if let Some(value) = held {
            assert!(value >= revoked, "held {value}, although {revoked} is the oldest");
        } else {
            let cache_lease = cache.lease(&hash);
            cache_lease.remember(row.load(Ordering::SeqCst));
        }
        held
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut applied = 0;
            while !done.load(Ordering::Relaxed) {
                let renewal = lease.begin();
                let read = row.load(Ordering::SeqCst);
                if read != applied {
                    cache.invalidate_key(&hash);
                    applied = read;
                }
                renewal.complete();
                thread::yield_now();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    request();
                    thread::yield_now();
                }
            });
        }
        for value in 1..=rounds {
            // Held by all threads, before it is revoked.
            while request().is_none() {
                thread::yield_now();
            }
            row.store(value, Ordering::SeqCst);
            for _ in 0..10 {
                clock.advance(NANO);
                if value % 2 == 0 {
                    thread::yield_now();
                }
            }
            returned.store(value, Ordering::SeqCst);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn g11_a_boot_clock_advances_and_keeps_a_lease_valid() {
    assert_eq!(BootClock.resolution(), Duration::ZERO);
    let lease = ReadLease::new(Duration::from_secs(300));
    lease.begin().complete();
    assert_eq!(lease.is_valid(), BootClock::IS_SUPPORTED);
    if BootClock::IS_SUPPORTED {
        let before = BootClock.now();
        while BootClock.now() == before {
            thread::yield_now();
        }
        assert!(BootClock.now() > before);
        assert!(lease.remaining() < Duration::from_secs(240));
    }
}

#[test]
fn g3_a_cache_may_count_its_time_to_live_on_the_clock_of_the_lease() {
    let ttl = Duration::from_secs(60);
    let cache = KeyCache::builder().ttl(ttl).clock(BootClock).build().unwrap();
    let hash = KeyHash::of("key");
    cache.lease(&hash).remember(7);
    // Without the clock, every value has expired.
    assert_eq!(cache.lookup(&hash), BootClock::IS_SUPPORTED.then_some(7));
}

#[test]
fn g11_a_lease_and_a_renewal_show_their_times() {
    let (lease, clock) = renewed();
    clock.advance(SECOND);
    assert_eq!(format!("{lease:?}"), "ReadLease { length: 10s, remaining: 7s, .. }");
    assert_eq!(format!("{:?}", lease.begin()), "Renewal { noted: 1s, length: 10s, .. }");
}
