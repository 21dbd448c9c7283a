//! H: a complete hint has the tags of the entries that its slot has at that moment.
//! `docs/guarantees.md` has the lemmas that these models check.
//!
//! The models of the other guarantees explore the hints, too. These models explore what a hint
//! alone could break: a lookup that misses a key that is there, a lookup that finds a key after a
//! lookup that missed it, and a hint that stays a claim for good.

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use trust_key_cache::model::{KeyCache, retire_in_batches_of, steps};
use trust_key_cache::{Clock, KeyHash, ManualClock};

use crate::explore::{bounded, deeply, keeping, key, one_bucket};

/// Returns the steps of a lookup of a key that the cache does not have. One step is the load of a
/// complete hint. A lookup that needs the bucket takes more.
fn steps_of_a_miss(cache: &KeyCache<u32, ManualClock>, key: &KeyHash) -> usize {
    let before = steps();
    assert_eq!(cache.lookup(key), None);
    steps() - before
}

/// A byte of a hint without an entry counts as tag 127. No key of the models may have that tag: a
/// complete hint would not answer the key, and the models would explore less than they say.
#[test]
fn h_an_empty_slot_answers_each_key_of_the_models() {
    loom::model(|| {
        let (cache, _) = one_bucket::<u32>(4);
        for number in 1..=9 {
            assert_eq!(steps_of_a_miss(&cache, &key(number)), 1, "key {number}");
        }
    });
}

/// Checks H3 and H5: a hint that was confirmed although another writer has claimed would lack the
/// tag of one of the two keys.
#[test]
fn h_each_of_two_writers_finds_its_own_value() {
    deeply("h_each_of_two_writers_finds_its_own_value", || {
        let (cache, _) = keeping(2);
        let shared = cache.clone();
        let other = thread::spawn(move || {
            assert!(shared.lease(&key(1)).remember(1));
            assert_eq!(shared.lookup(&key(1)), Some(1));
        });
        assert!(cache.lease(&key(2)).remember(2));
        assert_eq!(cache.lookup(&key(2)), Some(2));
        other.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (Some(1), Some(2)));
        assert_eq!(steps_of_a_miss(&cache, &key(3)), 1, "the hint was not confirmed");
    });
}

/// Checks H5 with a reader and two writers of its slot: the key is there throughout.
#[test]
fn h_a_reader_finds_a_key_that_two_writers_keep() {
    bounded("h_a_reader_finds_a_key_that_two_writers_keep", 2, || {
        let (cache, _) = keeping(3);
        assert!(cache.lease(&key(1)).remember(1));
        let (left, right) = (cache.clone(), cache.clone());
        let remembering = thread::spawn(move || left.lease(&key(2)).remember(2));
        let invalidating = thread::spawn(move || right.invalidate_key(&key(3)));
        assert_eq!(cache.lookup(&key(1)), Some(1));
        remembering.join().unwrap();
        invalidating.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), Some(1));
        assert_eq!(steps_of_a_miss(&cache, &key(4)), 1, "the hint was not confirmed");
    });
}

/// Checks H4: the miss of a complete hint and a later lookup by the pointer agree on the order.
///
/// The reader has no other order with the writers. The claim of the second writer sends the later
/// lookup to the pointer.
#[cfg(not(crossbeam_loom))]
#[test]
fn h_a_key_that_was_missed_is_not_found_again() {
    bounded("h_a_key_that_was_missed_is_not_found_again", 2, || {
        trust_key_cache::model::leave_out_fences();
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(1)).remember(1));
        let (left, right) = (cache.clone(), cache.clone());
        let invalidating = thread::spawn(move || left.invalidate_key(&key(1)));
        let remembering = thread::spawn(move || right.lease(&key(2)).remember(2));
        if cache.lookup(&key(1)).is_none() {
            assert_eq!(cache.lookup(&key(1)), None, "found after a lookup that missed it");
        }
        invalidating.join().unwrap();
        remembering.join().unwrap();
    });
}

/// Checks H6: a `remember` that is refused after its exchange has failed leaves no claim. The copy
/// that it publishes has the neighbour's entry.
#[test]
fn h_a_refused_remember_leaves_no_claim() {
    deeply("h_a_refused_remember_leaves_no_claim", || {
        let (cache, _) = keeping(3);
        assert!(cache.lease(&key(3)).remember(3));
        let lease = cache.lease(&key(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(1)));
        lease.remember(1);
        invalidating.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(3))), (None, Some(3)));
        assert_eq!(steps_of_a_miss(&cache, &key(2)), 1, "the hint stays a claim");
    });
}

/// Checks H6 and G1.3: the copy has the generation of the bucket that it copies.
#[test]
fn h_a_copy_that_replaces_a_claim_revives_nothing() {
    deeply("h_a_copy_that_replaces_a_claim_revives_nothing", || {
        let (cache, _) = keeping(3);
        assert!(cache.lease(&key(3)).remember(3));
        let lease = cache.lease(&key(1));
        let shared = cache.clone();
        let invalidating = thread::spawn(move || {
            shared.invalidate_key(&key(1));
            shared.invalidate();
        });
        lease.remember(1);
        invalidating.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(3))), (None, None));
    });
}

/// A clock whose time is an atomic of the model, with the orderings that `Clock` asks for.
struct AtomicClock(Arc<AtomicU64>);

impl Clock for AtomicClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

/// Checks G3.6: a value is replaced, and then the time comes at which it would have expired.
#[test]
fn g3_a_key_that_is_replaced_as_it_expires_is_not_missed() {
    bounded("g3_a_key_that_is_replaced_as_it_expires_is_not_missed", 2, || {
        retire_in_batches_of(8);
        #[cfg(not(crossbeam_loom))]
        trust_key_cache::model::leave_out_fences();
        let time = Arc::new(AtomicU64::new(0));
        let cache = KeyCache::<u32>::builder()
            .capacity(1)
            .ttl(Duration::from_nanos(10))
            .clock(AtomicClock(time.clone()))
            .build()
            .unwrap();
        let cache = Arc::new(cache);
        assert!(cache.lease(&key(1)).remember(1));
        time.store(9, Ordering::Release);
        let shared = cache.clone();
        let replacing = thread::spawn(move || {
            assert!(shared.lease(&key(1)).remember(2));
            time.store(10, Ordering::Release);
        });
        assert!(cache.lookup(&key(1)).is_some(), "missed a key that was there throughout");
        replacing.join().unwrap();
    });
}

/// Checks H1 to H6 where a freed bucket's address is the next bucket's: two writers are refused.
#[test]
fn h_refused_writers_and_reused_addresses_leave_an_exact_hint() {
    bounded("h_refused_writers_and_reused_addresses_leave_an_exact_hint", 1, || {
        let (cache, _) = one_bucket::<u32>(4);
        assert!(cache.lease(&key(3)).remember(3));
        let (invalidating, remembering) = (cache.clone(), cache.clone());
        let invalidating = thread::spawn(move || invalidating.invalidate_key(&key(1)));
        let remembering = thread::spawn(move || remembering.lease(&key(1)).remember(1));
        let four = cache.lease(&key(4)).remember(4);
        assert_eq!(cache.lookup(&key(3)), Some(3));
        invalidating.join().unwrap();
        let one = remembering.join().unwrap();
        assert_eq!(cache.lookup(&key(3)), Some(3));
        assert_eq!(cache.lookup(&key(4)), four.then_some(4));
        if !one {
            assert_eq!(cache.lookup(&key(1)), None);
        }
        assert_eq!(steps_of_a_miss(&cache, &key(5)), 1, "the hint stays a claim");
    });
}
