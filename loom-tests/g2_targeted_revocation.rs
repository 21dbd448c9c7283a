//! G2: the same as G1 for one key, without the loss of another key's value. `docs/guarantees.md`
//! has the lemmas that these models check.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::explore::{deeply, exhaustively, keeping, key, one_bucket};

/// Checks G2.3, G2.6 and G2.7, by the protocol of the authenticator over a row that is a relaxed
/// atomic.
#[test]
fn g2_no_lookup_returns_a_revoked_id_after_its_key_was_invalidated() {
    deeply("g2_no_lookup_returns_a_revoked_id_after_its_key_was_invalidated", || {
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
        // The slot may still be vacant. The lease in flight must be refused in this case, too.
        cache.invalidate_key(&key(1));
        assert_eq!(cache.lookup(&key(1)), None, "served while the request was still running");
        authenticating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None, "served after the request");
    });
}

/// Checks G2.1 where the slot is null.
#[test]
fn g2_a_lease_taken_before_its_key_was_invalidated_in_a_vacant_bucket_is_refused() {
    deeply("g2_a_lease_taken_before_its_key_was_invalidated_in_a_vacant_bucket_is_refused", || {
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
    });
}

/// Checks G2.4 and G2.8.
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

/// Checks G2.8 and G4.4.
#[test]
fn g2_a_neighbour_that_is_being_remembered_is_stored_or_refused_but_never_lost() {
    deeply("g2_a_neighbour_that_is_being_remembered_is_stored_or_refused_but_never_lost", || {
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(1)).remember(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
        let stored = cache.lease(&key(2)).remember(2);
        invalidating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None);
        assert_eq!(cache.lookup(&key(2)), stored.then_some(2));
    });
}

/// Checks F4 and G2.8 where an `invalidate` comes first.
#[test]
fn g2_a_neighbour_stored_after_an_invalidate_is_not_lost_to_invalidate_key() {
    deeply("g2_a_neighbour_stored_after_an_invalidate_is_not_lost_to_invalidate_key", || {
        let (cache, _) = one_bucket(2);
        let shared = cache.clone();
        let remembering = thread::spawn(move || {
            shared.invalidate();
            shared.lease(&key(2)).remember(2)
        });
        // This call may find the bucket of the new generation. If it took that bucket for dead, the
        // neighbour's value would be lost.
        cache.invalidate_key(&key(1));
        let stored = remembering.join().unwrap();
        assert_eq!(cache.lookup(&key(2)), stored.then_some(2));
    });
}

/// Checks F5, G2.1 and G2.2 for a dead bucket.
#[test]
fn g2_a_lease_on_a_dead_bucket_is_superseded_by_invalidate_key() {
    deeply("g2_a_lease_on_a_dead_bucket_is_superseded_by_invalidate_key", || {
        let (cache, _) = keeping(2);
        cache.invalidate_key(&key(1));
        cache.invalidate();
        // The bucket is dead, and its lease epoch still counts.
        let lease = cache.lease(&key(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
        lease.remember(1);
        invalidating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), None);
    });
}
