//! G4: `remember` replaces an earlier value. Under a superseded lease it stores nothing, changes
//! nothing and returns `false`. `docs/guarantees.md` has the lemmas that these models check.

use loom::thread;

use crate::explore::{deeply, exhaustively, keeping, key, one_bucket};

/// Checks G4.1, G4.2 and G4.4.
#[test]
fn g4_of_two_remembers_of_one_key_the_later_stays() {
    deeply("g4_of_two_remembers_of_one_key_the_later_stays", || {
        let (cache, _) = keeping(2);
        let shared = cache.clone();
        let remembering = thread::spawn(move || assert!(shared.lease(&key(1)).remember(1)));
        assert!(cache.lease(&key(1)).remember(2));
        // The other thread may have replaced the value. No operation removes the key.
        assert!(cache.lookup(&key(1)).is_some());
        remembering.join().unwrap();
        assert!(matches!(cache.lookup(&key(1)), Some(1 | 2)));
        assert_eq!(cache.len(), 1, "two entries for one key");
    });
}

/// Checks G4.3.
#[test]
fn g4_a_superseded_lease_changes_nothing_and_says_so() {
    exhaustively("g4_a_superseded_lease_changes_nothing_and_says_so", || {
        let (cache, _) = one_bucket(2);
        let superseded = cache.lease(&key(1));
        cache.invalidate_key(&key(1));
        assert!(cache.lease(&key(1)).remember(2));
        let shared = cache.clone();
        let neighbour = thread::spawn(move || assert!(shared.lease(&key(2)).remember(3)));
        assert!(!superseded.remember(1));
        neighbour.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (Some(2), Some(3)));
    });
}

/// Checks G4.4 and G4.5: the attempt that starts over also stores no value.
#[test]
fn g4_an_expired_lease_that_collides_with_a_neighbour_takes_nothing_of_it() {
    deeply("g4_an_expired_lease_that_collides_with_a_neighbour_takes_nothing_of_it", || {
        let (cache, clock) = keeping(3);
        let expired = cache.lease(&key(1));
        clock.advance(cache.ttl());
        assert!(cache.lease(&key(2)).remember(2));
        let shared = cache.clone();
        let neighbour = thread::spawn(move || assert!(shared.lease(&key(3)).remember(3)));
        assert!(expired.remember(1));
        neighbour.join().unwrap();
        assert_eq!([1, 2, 3].map(|number| cache.lookup(&key(number))), [None, Some(2), Some(3)]);
        assert_eq!(cache.len(), 2);
    });
}

/// Checks G4.3 and G4.6: `false` means that nothing was stored, and `true` that the value was
/// stored.
///
/// A later or concurrent invalidation may have dropped a stored value.
#[test]
fn g4_true_means_stored_and_false_means_not() {
    exhaustively("g4_true_means_stored_and_false_means_not", || {
        let (cache, _) = one_bucket(1);
        let shared = cache.clone();
        let lease = cache.lease(&key(1));
        let invalidating = thread::spawn(move || shared.invalidate());
        let stored = lease.remember(1);
        let found = cache.lookup(&key(1));
        invalidating.join().unwrap();
        assert!(stored || found.is_none());
        assert_eq!(cache.lookup(&key(1)), None);
    });
}
