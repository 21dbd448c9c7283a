//! G6: no key is lost while its bucket has room, and a full bucket evicts exactly one key.
//! `docs/guarantees.md` has the lemmas that these models check.

use std::time::Duration;

use loom::thread;

use crate::explore::{deeply, key, one_bucket};

/// Checks G4.4 and G6.1.
#[test]
fn g6_two_remembers_in_one_bucket_lose_neither_key() {
    deeply("g6_two_remembers_in_one_bucket_lose_neither_key", || {
        let (cache, _) = one_bucket(2);
        let shared = cache.clone();
        let remembering = thread::spawn(move || assert!(shared.lease(&key(1)).remember(1)));
        assert!(cache.lease(&key(2)).remember(2));
        remembering.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (Some(1), Some(2)));
    });
}

/// Checks G6.4.
#[test]
fn g6_a_full_bucket_gives_up_the_soonest_to_expire_and_stays_full() {
    deeply("g6_a_full_bucket_gives_up_the_soonest_to_expire_and_stays_full", || {
        let (cache, clock) = one_bucket(2);
        assert!(cache.lease(&key(1)).remember(1));
        clock.advance(Duration::from_secs(1));
        assert!(cache.lease(&key(2)).remember(2));
        clock.advance(Duration::from_secs(1));
        let shared = cache.clone();
        let evicting = thread::spawn(move || assert!(shared.lease(&key(3)).remember(3)));
        // Key 2 expires later than key 1, so key 1 makes room in every order.
        assert_eq!(cache.lookup(&key(2)), Some(2));
        assert_eq!(cache.len(), 2);
        evicting.join().unwrap();
        assert_eq!([1, 2, 3].map(|number| cache.lookup(&key(number))), [None, Some(2), Some(3)]);
    });
}
