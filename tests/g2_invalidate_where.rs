//! G2: `invalidate_where` drops what its predicate names, and every lease in flight.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use trust_key_cache::{KeyCache, KeyHash, ManualClock};

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

fn full(keys: u64) -> KeyCache<u64> {
    let cache = KeyCache::builder().capacity(1_000).build().unwrap();
    for number in 0..keys {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    cache
}

#[test]
fn g2_what_is_named_leaves_and_nothing_else() {
    let cache = full(1_000);
    let before = cache.len();
    let named = |number: u64| number % 7 == 3;
    let held = (0..1_000).filter(|&number| cache.lookup(&hash(number)).is_some());
    let expected = held.filter(|&number| named(number)).count();
    assert_eq!(cache.invalidate_where(|_, value| named(*value)), expected);
    assert!(expected > 130);
    assert_eq!(cache.len(), before - expected);
    for number in 0..1_000 {
        let found = cache.lookup(&hash(number));
        assert!(if named(number) { found.is_none() } else { found == Some(number) });
    }
    assert_eq!(cache.invalidate_where(|_, value| named(*value)), 0, "it has left already");
}

#[test]
fn g2_the_predicate_gets_each_value_with_its_key_once() {
    let cache = full(500);
    let seen = RefCell::new(Vec::new());
    let removed = cache.invalidate_where(|key, value| {
        assert_eq!(*key, hash(*value));
        seen.borrow_mut().push(*value);
        false
    });
    assert_eq!(removed, 0);
    let mut seen = seen.into_inner();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..500));
}

#[test]
fn g2_leases_in_flight_are_refused_in_every_bucket_whatever_they_are_for() {
    // Some buckets hold named values, some hold others, and most are vacant.
    let cache = full(100);
    let leases: Vec<_> = (0..2_000).map(|number| cache.lease(&hash(number))).collect();
    assert_eq!(cache.invalidate_where(|_, value| *value == 5), 1);
    for (lease, number) in leases.into_iter().zip(0..) {
        assert!(!lease.remember(5), "{number}");
    }
    assert_eq!(cache.len(), 99);
    assert!(cache.lease(&hash(5)).remember(5), "a lease that is taken afterwards is good");
}

#[test]
fn g2_leases_on_dead_buckets_are_refused() {
    let cache = full(100);
    cache.invalidate();
    let leases: Vec<_> = (0..100).map(|number| cache.lease(&hash(number))).collect();
    assert_eq!(cache.invalidate_where(|_, _| panic!("no value is left")), 0);
    assert!(leases.into_iter().all(|lease| !lease.remember(1)));
}

#[test]
fn g2_expired_values_are_neither_shown_nor_counted() {
    let clock = ManualClock::new();
    let cache = KeyCache::<u64>::builder().capacity(100).clock(clock.clone()).build().unwrap();
    assert!(cache.lease(&hash(1)).remember_for(1, Duration::from_secs(1)));
    assert!(cache.lease(&hash(2)).remember_for(2, Duration::from_secs(2)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        cache.invalidate_where(|_, value| {
            assert_eq!(*value, 2);
            true
        }),
        1
    );
}

#[test]
fn g2_a_value_that_is_judged_twice_because_its_bucket_changed_counts_once() {
    let cache = KeyCache::<u64>::builder().capacity(16).build().unwrap();
    for number in 0..4 {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    let calls = AtomicUsize::new(0);
    let removed = cache.invalidate_where(|_, value| {
        // Changes the bucket that the call is checking, as another thread might, and only once. A
        // function that changes the bucket in each call repeats without end.
        if calls.fetch_add(1, Ordering::Relaxed) == 2 {
            assert!(cache.lease(&hash(9)).remember(9));
        }
        *value < 2 || *value == 9
    });
    assert_eq!(removed, 3, "two earlier values, and one that was stored meanwhile");
    assert_eq!(calls.into_inner(), 4 + 5, "all were checked again, together with the new one");
    assert_eq!(cache.len(), 2);
}

#[test]
fn g2_a_predicate_may_use_caches() {
    let (cache, other) = (full(100), full(100));
    let removed = cache.invalidate_where(|key, value| {
        assert_eq!(cache.lookup(key), Some(*value));
        other.invalidate_key(key);
        // A call within a call, on another cache.
        other.invalidate_where(|_, inner| inner == value) == 0 && *value % 2 == 0
    });
    assert_eq!((removed, cache.len(), other.len()), (50, 50, 0));
}

#[test]
fn g2_a_panic_in_the_predicate_leaves_the_cache_whole() {
    let cache = full(100);
    let judged = AtomicUsize::new(0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        cache.invalidate_where(|_, _| {
            assert!(judged.fetch_add(1, Ordering::Relaxed) < 40);
            true
        })
    }));
    assert!(outcome.is_err());
    // The earlier buckets are changed, and the bucket of the last checked value is not.
    let left = cache.len();
    assert!((60..=100).contains(&left), "{left}");
    assert!((0..100).filter_map(|number| cache.lookup(&hash(number))).count() == left);
    for number in 0..100 {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    assert_eq!(cache.invalidate_where(|_, _| true), 100);
    assert!(cache.is_empty());
}

/// Users are disabled repeatedly while threads authenticate with their keys. A value is the user
/// and the revision of the user's row. Once a call has returned, no later lookup finds an earlier
/// revision.
#[test]
fn g2_no_value_that_was_named_is_returned_after_the_walk_under_fire() {
    const USERS: usize = 2;
    const KEYS: usize = 6;
    const CHANGES: u64 = 1_500;
    let cache = KeyCache::<(usize, u64)>::builder().capacity(64).build().unwrap();
    let rows = [const { AtomicU64::new(0) }; USERS];
    let changed = [const { AtomicU64::new(0) }; USERS];
    let (lookups, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let authenticate = || {
            for key in (0..KEYS).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let user = key % USERS;
                let revision = changed[user].load(Ordering::Acquire);
                if let Some((_, value)) = cache.lookup(&hash(key as u64)) {
                    assert!(value >= revision, "revision {value} returned after {revision}");
                    hits.fetch_add(1, Ordering::Relaxed);
                } else {
                    let lease = cache.lease(&hash(key as u64));
                    // Relaxed: only the cache must order this load.
                    let row = rows[user].load(Ordering::Relaxed);
                    if row % 4 == 0 {
                        thread::yield_now();
                    }
                    lease.remember((user, row));
                }
                if lookups.fetch_add(1, Ordering::Relaxed) % 8 == 0 {
                    thread::yield_now();
                }
            }
        };
        let authenticating = [authenticate; 2].map(|authenticate| scope.spawn(authenticate));
        for revision in 1..=CHANGES {
            let user = revision as usize % USERS;
            rows[user].store(revision, Ordering::Relaxed);
            cache.invalidate_where(|_, (owner, _)| *owner == user);
            changed[user].store(revision, Ordering::Release);
            let next = lookups.load(Ordering::Relaxed) + revision % 16;
            while lookups.load(Ordering::Relaxed) < next
                && !authenticating.iter().all(|thread| thread.is_finished())
            {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(hits.into_inner() > 0, "no lookup ever hit, so nothing was tested");
}
