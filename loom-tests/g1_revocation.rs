//! G1: a lookup that happens-after `invalidate` returns no value whose lease was taken before.
//! `docs/guarantees.md` has the lemmas that these models check.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::explore::{bounded, deeply, exhaustively, key, one_bucket};

const STALE: u32 = 1;
const FRESH: u32 = 2;

/// Checks G1.2, G1.4 and G1.5.
#[test]
fn g1_a_remember_that_races_an_invalidate_is_not_found_after_it() {
    exhaustively("g1_a_remember_that_races_an_invalidate_is_not_found_after_it", || {
        let (cache, _) = one_bucket(2);
        let lease = cache.lease(&key(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || {
            shared.invalidate();
            // The lease was taken before this thread started.
            assert_eq!(shared.lookup(&key(1)), None, "found after the invalidation");
        });
        lease.remember(STALE);
        invalidating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None, "came back after the invalidation");
    });
}

/// Checks F1, G1.2 and G1.5 for a lease that another thread takes.
#[test]
fn g1_a_lease_taken_before_an_invalidate_stores_nothing_that_is_found_after_it() {
    exhaustively(
        "g1_a_lease_taken_before_an_invalidate_stores_nothing_that_is_found_after_it",
        || {
            let (cache, _) = one_bucket(2);
            let shared = cache.clone();
            let taken = Arc::new(AtomicBool::new(false));
            let announce = taken.clone();
            let remembering = thread::spawn(move || {
                let lease = shared.lease(&key(1));
                announce.store(true, Ordering::Release);
                lease.remember(STALE);
            });
            if taken.load(Ordering::Acquire) {
                cache.invalidate();
                assert_eq!(cache.lookup(&key(1)), None, "found after the invalidation");
                remembering.join().unwrap();
                assert_eq!(cache.lookup(&key(1)), None, "came back after the invalidation");
            } else {
                remembering.join().unwrap();
            }
        },
    );
}

/// Checks F4, F8, G1.3 and G4.3.
#[test]
fn g1_a_stale_lease_never_displaces_what_a_fresh_one_stored() {
    deeply("g1_a_stale_lease_never_displaces_what_a_fresh_one_stored", || {
        let (cache, _) = one_bucket(2);
        let (stale, stale_neighbour) = (cache.lease(&key(1)), cache.lease(&key(2)));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || {
            shared.invalidate();
            assert!(shared.lease(&key(1)).remember(FRESH), "nothing supersedes the fresh lease");
            assert_eq!(shared.lookup(&key(1)), Some(FRESH));
        });
        // The neighbour is in the same bucket. If its bucket were published, it would replace the
        // bucket that has the fresh value.
        stale_neighbour.remember(STALE);
        invalidating.join().unwrap();
        assert!(!stale.remember(STALE));
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (Some(FRESH), None));
    });
}

/// Checks F3 and G1.1.
#[test]
fn g1_each_of_two_invalidations_supersedes() {
    bounded("g1_each_of_two_invalidations_supersedes", 3, || {
        let (cache, _) = one_bucket(1);
        let invalidating = [(); 2].map(|()| {
            let shared = cache.clone();
            thread::spawn(move || {
                let lease = shared.lease(&key(1));
                shared.invalidate();
                assert!(!lease.remember(STALE), "a thread's own invalidation supersedes its lease");
            })
        });
        let lease = cache.lease(&key(1));
        let stored = lease.remember(FRESH);
        for thread in invalidating {
            thread.join().unwrap();
        }
        // A lease taken after both invalidations is valid, and its value is stored.
        assert!(cache.lookup(&key(1)).is_none_or(|found| found == FRESH && stored));
    });
}

/// Checks F7 and G1.6, by the protocol of the authenticator.
///
/// The row is a relaxed atomic, which is the weakest possible database: the cache alone orders what
/// a request reads from it.
#[test]
fn g1_no_lookup_returns_a_revoked_id_after_the_revocation() {
    exhaustively("g1_no_lookup_returns_a_revoked_id_after_the_revocation", || {
        let (cache, _) = one_bucket(1);
        let row_is_valid = Arc::new(AtomicBool::new(true));
        let (shared, row) = (cache.clone(), row_is_valid.clone());
        let authenticating = thread::spawn(move || {
            let lease = shared.lease(&key(1));
            if row.load(Ordering::Relaxed) {
                lease.remember(STALE);
            }
        });
        row_is_valid.store(false, Ordering::Relaxed);
        cache.invalidate();
        assert_eq!(cache.lookup(&key(1)), None, "served while the request was still running");
        authenticating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None, "served after the request");
    });
}
