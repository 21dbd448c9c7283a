//! G2: the same for `invalidate_where` and each value that it names. `docs/guarantees.md` has the
//! lemmas that these models check.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use trust_key_cache::ManualClock;
use trust_key_cache::model::KeyCache;

use crate::explore::{deeply, keeping, key, one_bucket};

const NAMED: u32 = 1;
const OTHER: u32 = 2;

/// A request reads the row of the key 1 while the walk runs. Its `remember` may have checked its
/// lease before the walk passes the bucket, and publish afterwards. The row is a relaxed atomic:
/// only the cache orders the read.
fn a_request_meets_the_walk(cache: Arc<KeyCache<u32, ManualClock>>) {
    let row_is_valid = Arc::new(AtomicBool::new(true));
    let (shared, row) = (cache.clone(), row_is_valid.clone());
    let authenticating = thread::spawn(move || {
        let lease = shared.lease(&key(1));
        if row.load(Ordering::Relaxed) {
            lease.remember(NAMED);
        }
    });
    row_is_valid.store(false, Ordering::Relaxed);
    cache.invalidate_where(|_, value| *value == NAMED);
    assert_eq!(cache.lookup(&key(1)), None, "served while the request was still running");
    authenticating.join().unwrap();
    assert_eq!(cache.lookup(&key(1)), None, "stored after the walk had passed");
}

/// Checks G2.9, G2.11 and G2.12 where the slot is null.
#[test]
fn g2_a_remember_meets_the_walk_in_a_vacant_bucket() {
    deeply("g2_a_remember_meets_the_walk_in_a_vacant_bucket", || {
        a_request_meets_the_walk(one_bucket(2).0);
    });
}

/// Checks G2.9, G2.11 and G2.12 where the predicate names nothing yet.
#[test]
fn g2_a_remember_meets_the_walk_in_a_bucket_without_a_named_value() {
    deeply("g2_a_remember_meets_the_walk_in_a_bucket_without_a_named_value", || {
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(2)).remember(OTHER));
        a_request_meets_the_walk(cache.clone());
        assert_eq!(cache.lookup(&key(2)), Some(OTHER));
    });
}

/// Checks G2.9 and G2.11 where the bucket is dead.
#[test]
fn g2_a_remember_meets_the_walk_in_a_dead_bucket() {
    deeply("g2_a_remember_meets_the_walk_in_a_dead_bucket", || {
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(2)).remember(OTHER));
        cache.invalidate();
        a_request_meets_the_walk(cache);
    });
}

/// Checks G2.10 and G2.13.
#[test]
fn g2_two_walks_count_a_value_once() {
    deeply("g2_two_walks_count_a_value_once", || {
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(1)).remember(NAMED));
        let shared = cache.clone();
        let walking = thread::spawn(move || shared.invalidate_where(|_, value| *value == NAMED));
        let removed = cache.invalidate_where(|_, value| *value == NAMED);
        assert_eq!(removed + walking.join().unwrap(), 1);
        assert!(cache.is_empty());
    });
}

/// Checks G2.8 and G2.13: the walk repeats where the remember comes first.
#[test]
fn g2_a_value_that_the_walk_does_not_name_is_stored_or_refused_but_never_lost() {
    deeply("g2_a_value_that_the_walk_does_not_name_is_stored_or_refused_but_never_lost", || {
        let (cache, _) = keeping(2);
        assert!(cache.lease(&key(1)).remember(NAMED));
        let shared = cache.clone();
        let walking = thread::spawn(move || shared.invalidate_where(|_, value| *value == NAMED));
        let stored = cache.lease(&key(2)).remember(OTHER);
        assert_eq!(walking.join().unwrap(), 1, "its exchange may have failed first");
        assert_eq!(cache.lookup(&key(1)), None);
        assert_eq!(cache.lookup(&key(2)), stored.then_some(OTHER));
    });
}
