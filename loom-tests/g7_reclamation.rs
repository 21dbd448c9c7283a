//! G7: a reader sees a complete snapshot and never a freed one. Every value is dropped exactly
//! once, and nothing leaks. `docs/guarantees.md` has the lemmas that these models check.
//!
//! Loom checks the snapshots' memory in every model: reads against the writes that built the
//! snapshot, and freeing against reads (`AccessCheck` in `src/sync/loom.rs`). It also reports
//! allocations that were never freed. The models here also check the values.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use loom::thread;

use crate::counted::Counted;
use crate::explore::{bounded, deeply, exhaustively, key, one_bucket};

/// Checks F1, G7.1, G7.4 and G7.8.
#[test]
fn g7_a_reader_next_to_a_writer_sees_a_whole_and_living_value() {
    exhaustively("g7_a_reader_next_to_a_writer_sees_a_whole_and_living_value", || {
        let alive = Arc::new(AtomicIsize::new(0));
        {
            let (cache, _) = one_bucket(1);
            assert!(cache.lease(&key(1)).remember(Counted::new(1, &alive)));
            let shared = cache.clone();
            let replacement = Counted::new(2, &alive);
            let writing =
                thread::spawn(move || assert!(shared.lease(&key(1)).remember(replacement)));
            // Checked twice, so that a snapshot which is freed in between is noticed.
            let seen = cache.lookup_with(&key(1), |value| {
                value.check();
                thread::yield_now();
                value.check();
                value.parts[0]
            });
            assert!(matches!(seen, Some(1 | 2)));
            writing.join().unwrap();
        }
        if cfg!(not(crossbeam_loom)) {
            // crossbeam-epoch frees the rest with its collector, after the execution.
            assert_eq!(alive.load(Ordering::Relaxed), 0, "values dropped too often or not at all");
        }
    });
}

/// Checks G4.4, G7.6 and G7.7.
#[test]
fn g7_writers_that_collide_drop_each_value_once() {
    deeply("g7_writers_that_collide_drop_each_value_once", || {
        let alive = Arc::new(AtomicIsize::new(0));
        {
            let (cache, _) = one_bucket(2);
            let shared = cache.clone();
            let value = Counted::new(1, &alive);
            let writing = thread::spawn(move || assert!(shared.lease(&key(1)).remember(value)));
            assert!(cache.lease(&key(2)).remember(Counted::new(2, &alive)));
            writing.join().unwrap();
            assert_eq!(cache.lookup_with(&key(1), |value| value.parts), Some([1; 8]));
            assert_eq!(cache.lookup_with(&key(2), |value| value.parts), Some([2; 8]));
        }
        if cfg!(not(crossbeam_loom)) {
            assert_eq!(alive.load(Ordering::Relaxed), 0, "values dropped too often or not at all");
        }
    });
}

/// Checks F1, G7.1 and G7.4 for two writers.
#[test]
fn g7_a_reader_between_two_writers_sees_a_whole_and_living_value() {
    bounded("g7_a_reader_between_two_writers_sees_a_whole_and_living_value", 2, || {
        let (cache, _) = one_bucket(1);
        let alive = Arc::new(AtomicIsize::new(0));
        assert!(cache.lease(&key(1)).remember(Counted::new(1, &alive)));
        let (left, right) = (cache.clone(), cache.clone());
        let replacement = Counted::new(2, &alive);
        let remembering = thread::spawn(move || left.lease(&key(1)).remember(replacement));
        let invalidating = thread::spawn(move || right.invalidate_key(&key(1)));
        cache.lookup_with(&key(1), Counted::check);
        remembering.join().unwrap();
        invalidating.join().unwrap();
    });
}

/// Checks F2: a writer's guard keeps the address of the bucket that it copies from being reused.
///
/// The models' allocator hands out freed memory again at once. The second bucket of the other
/// thread is as large as the one that is copied.
#[test]
fn g7_a_remember_takes_no_bucket_for_another_that_has_its_address() {
    bounded("g7_a_remember_takes_no_bucket_for_another_that_has_its_address", 2, || {
        let (cache, _) = one_bucket(2);
        assert!(cache.lease(&key(1)).remember(1));
        let shared = cache.clone();
        let writing = thread::spawn(move || {
            for value in [2, 3] {
                assert!(shared.lease(&key(1)).remember(value));
            }
        });
        assert!(cache.lease(&key(2)).remember(9));
        writing.join().unwrap();
        assert_eq!((cache.lookup(&key(1)), cache.lookup(&key(2))), (Some(3), Some(9)));
    });
}

/// Checks F2 for `invalidate_key`.
#[test]
fn g7_an_invalidate_key_takes_no_bucket_for_another_that_has_its_address() {
    bounded("g7_an_invalidate_key_takes_no_bucket_for_another_that_has_its_address", 2, || {
        let (cache, _) = one_bucket(2);
        assert!(cache.lease(&key(1)).remember(1));
        let shared = cache.clone();
        let writing = thread::spawn(move || {
            let stored = [2, 3].map(|value| shared.lease(&key(1)).remember(value).then_some(value));
            stored[1].or(stored[0])
        });
        cache.invalidate_key(&key(2));
        let stored = writing.join().unwrap();
        assert_eq!(cache.lookup(&key(1)), stored.or(Some(1)));
    });
}

/// Checks G7.1: the other writer takes the batch before it starts the grace period.
///
/// The reader retires the snapshot that it reads. This model has two threads and a bound, because
/// other models explore two writers without one.
#[test]
fn g7_a_reader_that_writes_keeps_what_it_reads() {
    bounded("g7_a_reader_that_writes_keeps_what_it_reads", 2, || {
        let alive = Arc::new(AtomicIsize::new(0));
        {
            let (cache, _) = one_bucket(2);
            assert!(cache.lease(&key(1)).remember(Counted::new(1, &alive)));
            let shared = cache.clone();
            let reading = thread::spawn(move || {
                shared.lookup_with(&key(1), |value| {
                    shared.invalidate_key(&key(1));
                    value.check();
                })
            });
            cache.invalidate_key(&key(2));
            assert_eq!(reading.join().unwrap(), Some(()));
        }
        assert_eq!(alive.load(Ordering::Relaxed), 0, "values dropped too often or not at all");
    });
}
