//! G11, the half that one process keeps: a renewal applies changes and moves the deadline, while
//! requests read the deadline, the entry and the clock. `docs/guarantees.md` has the lemmas that
//! these models check.

use std::cell::Cell;
use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use trust_key_cache::model::{KeyCache, ReadLease};
use trust_key_cache::{Clock, ManualClock};

use crate::explore::{bounded, exhaustively, keeping, key};

/// The length of the lease, and its four fifths.
const LENGTH: u64 = 10;
const VALID: u64 = 8;

const STALE: u32 = 1;

/// A clock whose reads and steps loom interleaves with everything else.
///
/// A read is a read-modify-write, so it returns the latest time, as a clock does. It is Relaxed, so
/// it orders no other memory, as a clock does not.
#[derive(Clone)]
struct LoomClock(Arc<AtomicU64>);

loom::thread_local! {
    /// The time that the thread's last read returned.
    static LAST_READ: Cell<u64> = Cell::new(0);
}

impl LoomClock {
    fn advance(&self, step: u64) {
        self.0.fetch_add(step, Ordering::Relaxed);
    }
}

impl Clock for LoomClock {
    fn now(&self) -> Duration {
        let now = self.0.fetch_add(0, Ordering::Relaxed);
        LAST_READ.with(|last| last.set(now));
        Duration::from_nanos(now)
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

type Lease = Arc<ReadLease<LoomClock>>;
type Cache = Arc<KeyCache<u32, ManualClock>>;

/// Returns a lease that is valid until [`VALID`], an empty cache of one bucket, and the lease's
/// clock at zero.
///
/// The pins make no fence, as those that ship: a fence would order what the deadline must order.
fn valid_lease() -> (Lease, Cache, LoomClock) {
    #[cfg(not(crossbeam_loom))]
    trust_key_cache::model::leave_out_fences();
    let (cache, _) = keeping(2);
    let clock = LoomClock(Arc::new(AtomicU64::new(0)));
    let lease = ReadLease::with_clock(Duration::from_nanos(LENGTH), clock.clone());
    lease.begin().complete();
    (Arc::new(lease), cache, clock)
}

/// A value that a renewal invalidates is held only by the deadline before.
fn a_renewal_meets_a_held_lookup(
    invalidate: impl Fn(&KeyCache<u32, ManualClock>) + Send + 'static,
) {
    let (lease, cache, clock) = valid_lease();
    assert!(cache.lease(&key(1)).remember(STALE));
    let (held, shared) = (lease.clone(), cache.clone());
    let renewing = thread::spawn(move || {
        clock.advance(VALID);
        let renewal = held.begin();
        invalidate(&shared);
        renewal.complete();
    });
    if cache.lookup_held(&lease, &key(1)).is_some() {
        let read = LAST_READ.with(Cell::get);
        assert!(read < VALID, "held at {read}, by a deadline that does not vouch for it");
    }
    renewing.join().unwrap();
    assert_eq!(cache.lookup_held(&lease, &key(1)), None);
    assert!(lease.is_valid());
}

/// Checks G11.6 for an invalidation of every key.
#[test]
fn g11_what_a_renewal_invalidates_is_not_held_by_its_deadline() {
    exhaustively("g11_what_a_renewal_invalidates_is_not_held_by_its_deadline", || {
        a_renewal_meets_a_held_lookup(KeyCache::invalidate);
    });
}

/// Checks G11.6 for an invalidation of one key.
#[test]
fn g11_a_key_that_a_renewal_invalidates_is_not_held_by_its_deadline() {
    exhaustively("g11_a_key_that_a_renewal_invalidates_is_not_held_by_its_deadline", || {
        a_renewal_meets_a_held_lookup(|cache| cache.invalidate_key(&key(1)));
    });
}

/// Checks G11.6 for an invalidation of the values that a predicate names.
#[test]
fn g11_a_value_that_a_renewal_names_is_not_held_by_its_deadline() {
    exhaustively("g11_a_value_that_a_renewal_names_is_not_held_by_its_deadline", || {
        a_renewal_meets_a_held_lookup(|cache| {
            assert_eq!(cache.invalidate_where(|_, value| *value == STALE), 1);
        });
    });
}

/// Checks G11.6 for the two invalidations that close a time.
#[test]
fn g11_what_a_renewal_closes_is_not_held_by_its_deadline() {
    exhaustively("g11_what_a_renewal_closes_is_not_held_by_its_deadline", || {
        a_renewal_meets_a_held_lookup(|cache| cache.invalidate_for(Duration::from_secs(1)));
    });
    exhaustively("g11_what_a_renewal_closes_is_not_held_by_its_deadline (one key)", || {
        a_renewal_meets_a_held_lookup(|cache| {
            cache.invalidate_key_for(&key(1), Duration::from_secs(1));
        });
    });
}

/// Checks G11.8: the clock is the last of the three that a lookup reads.
#[test]
fn g11_no_value_is_held_that_was_stored_after_the_end_of_the_lease() {
    exhaustively("g11_no_value_is_held_that_was_stored_after_the_end_of_the_lease", || {
        let (lease, cache, clock) = valid_lease();
        let shared = cache.clone();
        let storing = thread::spawn(move || {
            clock.advance(VALID);
            assert!(shared.lease(&key(1)).remember(STALE));
        });
        assert_eq!(cache.lookup_held(&lease, &key(1)), None);
        storing.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), Some(STALE));
    });
}

/// Checks G11.4.
#[test]
fn g11_a_renewal_in_flight_does_not_revive_a_relinquished_lease() {
    exhaustively("g11_a_renewal_in_flight_does_not_revive_a_relinquished_lease", || {
        let (lease, cache, clock) = valid_lease();
        assert!(cache.lease(&key(1)).remember(STALE));
        let begun = Arc::new(AtomicBool::new(false));
        let (held, announce) = (lease.clone(), begun.clone());
        let renewing = thread::spawn(move || {
            clock.advance(1);
            let renewal = held.begin();
            announce.store(true, Ordering::Release);
            renewal.complete();
        });
        let began_before = begun.load(Ordering::Acquire);
        lease.relinquish();
        if began_before {
            assert_eq!(cache.lookup_held(&lease, &key(1)), None, "revived while it was completing");
        }
        renewing.join().unwrap();
        if began_before {
            assert_eq!(cache.lookup_held(&lease, &key(1)), None, "revived");
        }
        lease.relinquish();
        assert!(!lease.is_valid());
    });
}

/// Checks G11.3 for two renewals that complete at once.
#[test]
fn g11_of_two_renewals_at_once_the_one_that_began_last_counts() {
    exhaustively("g11_of_two_renewals_at_once_the_one_that_began_last_counts", || {
        let (lease, _, clock) = valid_lease();
        let held = lease.clone();
        let renewing = thread::spawn(move || {
            clock.advance(1);
            held.begin().complete();
            assert_eq!(held.remaining(), Duration::from_nanos(VALID));
        });
        lease.begin().complete();
        renewing.join().unwrap();
        assert_eq!(lease.remaining(), Duration::from_nanos(VALID), "the later one was overtaken");
    });
}

/// Checks G11.9 with a changer that waits out the lease, a holder and a request.
///
/// The row is read by a read-modify-write: a database shows what is committed.
#[test]
fn g11_no_request_that_begins_after_the_wait_is_granted_what_was_revoked() {
    bounded("g11_no_request_that_begins_after_the_wait_is_granted_what_was_revoked", 3, || {
        let (lease, cache, clock) = valid_lease();
        assert!(cache.lease(&key(1)).remember(STALE));
        let (row_is_valid, returned) =
            (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let (row, finish) = (row_is_valid.clone(), returned.clone());
        let changing = thread::spawn(move || {
            row.fetch_and(0, Ordering::Relaxed); // the commit
            clock.advance(LENGTH); // the wait
            finish.store(true, Ordering::Release);
        });
        let (held, shared) = (lease.clone(), cache.clone());
        let renewing = thread::spawn(move || {
            let renewal = held.begin();
            if row_is_valid.fetch_or(0, Ordering::Relaxed) == 0 {
                shared.invalidate();
            }
            renewal.complete();
        });
        if returned.load(Ordering::Acquire) {
            assert_eq!(cache.lookup_held(&lease, &key(1)), None, "granted after the revocation");
        }
        changing.join().unwrap();
        renewing.join().unwrap();
        assert_eq!(cache.lookup_held(&lease, &key(1)), None, "granted after the revocation");
    });
}

/// Checks G11.12: the holder takes its base snapshot, and then invalidates.
///
/// The row is a relaxed atomic, so that the cache alone orders what a request reads from it.
#[test]
fn g11_no_value_from_before_the_base_is_held() {
    exhaustively("g11_no_value_from_before_the_base_is_held", || {
        let (lease, cache, _) = valid_lease();
        lease.relinquish();
        let row_is_valid = Arc::new(AtomicBool::new(true));
        let (shared, row) = (cache.clone(), row_is_valid.clone());
        let missing = thread::spawn(move || {
            let cache_lease = shared.lease(&key(1));
            if row.load(Ordering::Relaxed) {
                cache_lease.remember(STALE);
            }
        });
        // A change that the base snapshot shows, and no difference from it.
        row_is_valid.store(false, Ordering::Relaxed);
        let renewal = lease.begin();
        cache.invalidate();
        renewal.complete();
        assert_eq!(cache.lookup_held(&lease, &key(1)), None, "held from before the base");
        missing.join().unwrap();
        assert_eq!(cache.lookup_held(&lease, &key(1)), None, "stored after the base");
        assert!(lease.is_valid());
    });
}

/// Checks G11.13: a held hit takes one step more than a hit, and the read of the clock.
#[test]
fn g11_a_held_lookup_takes_one_step_more_while_a_renewal_runs() {
    use trust_key_cache::model::steps;

    bounded("g11_a_held_lookup_takes_one_step_more_while_a_renewal_runs", 3, || {
        let (lease, cache, _) = valid_lease();
        assert!(cache.lease(&key(1)).remember(STALE));
        let (held, shared) = (lease.clone(), cache.clone());
        let renewing = thread::spawn(move || {
            let renewal = held.begin();
            shared.invalidate_key(&key(1));
            renewal.complete();
        });
        let before = steps();
        let _ = cache.lookup_held(&lease, &key(1));
        assert!((2..=4).contains(&(steps() - before)));
        renewing.join().unwrap();
    });
}
