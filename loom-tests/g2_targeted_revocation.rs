//! G2: the same as G1 for one key, and no other key's value is lost by it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::explore::{exhaustively, keeping, key, one_bucket};

#[test]
fn g2_no_lookup_returns_a_revoked_id_after_its_key_was_invalidated() {
    exhaustively("g2_no_lookup_returns_a_revoked_id_after_its_key_was_invalidated", || {
        let (cache, _) = one_bucket(1);
        let row_is_valid = Arc::new(AtomicBool::new(true));
        let (shared, row) = (cache.clone(), row_is_valid.clone());
        let authenticating = thread::spawn(move || {
            let lease = shared.lease(&key(1));
            if row.load(Ordering::Relaxed) {
                lease.remember(1);
            }
        });
        row_is_valid.store(false, Ordering::Relaxed);
        // The bucket may be vacant still: that, too, must refuse the lease in flight.
        cache.invalidate_key(&key(1));
        assert_eq!(cache.lookup(&key(1)), None, "served while the request was still running");
        authenticating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None, "served after the request");
    });
}

#[test]
fn g2_a_lease_taken_before_its_key_was_invalidated_in_a_vacant_bucket_is_refused() {
    exhaustively(
        "g2_a_lease_taken_before_its_key_was_invalidated_in_a_vacant_bucket_is_refused",
        || {
            let (cache, _) = one_bucket(2);
            let lease = cache.lease(&key(1));
            let shared = cache.clone();
            let invalidating = thread::spawn(move || {
                let own = shared.lease(&key(1));
                shared.invalidate_key(&key(1));
                assert!(!own.remember(1));
                assert_eq!(shared.lookup(&key(1)), None);
            });
            lease.remember(1);
            invalidating.join().unwrap();
            assert_eq!(cache.lookup(&key(1)), None);
        },
    );
}

#[test]
fn g2_a_neighbour_in_the_bucket_keeps_its_value() {
    exhaustively("g2_a_neighbour_in_the_bucket_keeps_its_value", || {
        let (cache, _) = one_bucket(2);
        assert!(cache.lease(&key(1)).remember(1));
        assert!(cache.lease(&key(2)).remember(2));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
        assert_eq!(cache.lookup(&key(2)), Some(2));
        invalidating.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (None, Some(2)));
    });
}

#[test]
fn g2_a_neighbour_that_is_being_remembered_is_stored_or_refused_but_never_lost() {
    exhaustively(
        "g2_a_neighbour_that_is_being_remembered_is_stored_or_refused_but_never_lost",
        || {
            let (cache, _) = keeping(2);
            assert!(cache.lease(&key(1)).remember(1));
            let shared = cache.clone();
            let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
            let stored = cache.lease(&key(2)).remember(2);
            invalidating.join().unwrap();
            assert_eq!(cache.lookup(&key(1)), None);
            assert_eq!(cache.lookup(&key(2)), stored.then_some(2));
        },
    );
}

#[test]
fn g2_a_neighbour_stored_after_an_invalidate_is_not_lost_to_invalidate_key() {
    exhaustively("g2_a_neighbour_stored_after_an_invalidate_is_not_lost_to_invalidate_key", || {
        let (cache, _) = one_bucket(2);
        let shared = cache.clone();
        let remembering = thread::spawn(move || {
            shared.invalidate();
            shared.lease(&key(2)).remember(2)
        });
        // It may find the bucket of the new generation; taken for a dead one, the neighbour would
        // go with it.
        cache.invalidate_key(&key(1));
        let stored = remembering.join().unwrap();
        assert_eq!(cache.lookup(&key(2)), stored.then_some(2));
    });
}

#[test]
fn g2_a_lease_on_a_dead_bucket_is_superseded_by_invalidate_key() {
    exhaustively("g2_a_lease_on_a_dead_bucket_is_superseded_by_invalidate_key", || {
        let (cache, _) = keeping(2);
        cache.invalidate_key(&key(1));
        cache.invalidate();
        // The bucket is dead, and its lease epoch goes on all the same.
        let lease = cache.lease(&key(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
        lease.remember(1);
        invalidating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None);
    });
}
