//! G5: no thread waits for another. Each test stops a thread at a place where a lock, if there were
//! one, would be held. The other threads continue.

use std::sync::{Arc, Barrier};
use std::thread;

use trust_key_cache::{KeyCache, KeyHash};

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

#[derive(Debug)]
struct Stops {
    number: u32,
    /// Where a clone of this value stops. The first wait reports the stop, and the second one ends
    /// it.
    at: Option<Arc<Barrier>>,
}

impl Clone for Stops {
    fn clone(&self) -> Self {
        if let Some(barrier) = &self.at {
            barrier.wait();
            barrier.wait();
        }
        Self { number: self.number, at: None }
    }
}

#[test]
fn g5_all_other_threads_go_on_while_a_writer_is_stopped_in_the_middle_of_its_copy() {
    let cache = KeyCache::<Stops>::builder().capacity(8).build().unwrap();
    let barrier = Arc::new(Barrier::new(2));
    assert!(cache.lease(&hash(1)).remember(Stops { number: 1, at: Some(barrier.clone()) }));
    thread::scope(|scope| {
        // Copies key 1, and stops in the clone.
        let stopped = scope.spawn(|| cache.lease(&hash(2)).remember(Stops { number: 2, at: None }));
        barrier.wait();
        assert_eq!(cache.lookup_with(&hash(1), |value| value.number), Some(1));
        assert_eq!(cache.lookup_with(&hash(2), |value| value.number), None);
        // These writes copy the same bucket, without a value that stops.
        cache.invalidate();
        assert!(cache.lease(&hash(3)).remember(Stops { number: 3, at: None }));
        cache.invalidate_key(&hash(4));
        assert_eq!(cache.lookup_with(&hash(3), |value| value.number), Some(3));
        barrier.wait();
        assert!(!stopped.join().unwrap(), "superseded while it was stopped");
    });
    assert_eq!(cache.lookup_with(&hash(3), |value| value.number), Some(3));
}

#[test]
fn g5_writers_go_on_while_a_reader_is_stopped_in_its_closure() {
    let cache = KeyCache::<String>::builder().capacity(8).build().unwrap();
    assert!(cache.lease(&hash(1)).remember("first".into()));
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let stopped = scope.spawn(|| {
            cache.lookup_with(&hash(1), |value| {
                barrier.wait();
                barrier.wait();
                // The value was replaced thousands of times since. The reader's snapshot is still
                // whole.
                value.clone()
            })
        });
        barrier.wait();
        for round in 0..if cfg!(miri) { 50 } else { 5_000 } {
            assert!(cache.lease(&hash(1)).remember(round.to_string()));
        }
        cache.invalidate();
        barrier.wait();
        assert_eq!(stopped.join().unwrap().as_deref(), Some("first"));
    });
}

#[test]
fn a_closure_may_use_the_cache_that_it_reads_from() {
    let cache = KeyCache::<u32>::new();
    assert!(cache.lease(&hash(1)).remember(1));
    let seen = cache.lookup_with(&hash(1), |value| {
        assert!(cache.lease(&hash(1)).remember(2));
        cache.invalidate_key(&hash(1));
        (*value, cache.lookup(&hash(1)))
    });
    assert_eq!(seen, Some((1, None)));
}

#[test]
fn a_panic_in_a_closure_leaves_the_cache_as_it_was() {
    let cache = KeyCache::<u32>::new();
    assert!(cache.lease(&hash(1)).remember(1));
    let panicked = thread::scope(|scope| {
        scope
            .spawn(|| cache.lookup_with(&hash(1), |_| panic!("a panic of the closure")))
            .join()
            .is_err()
    });
    assert!(panicked);
    assert_eq!(cache.lookup(&hash(1)), Some(1));
}

#[test]
fn a_panic_in_a_clone_leaves_the_cache_as_it_was() {
    #[derive(Debug)]
    struct Fragile(bool);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(!self.0, "too fragile to copy");
            Self(false)
        }
    }
    let cache = KeyCache::<Fragile>::builder().capacity(4).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(Fragile(false)));
    assert!(cache.lease(&hash(2)).remember(Fragile(true)));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cache.lease(&hash(3)).remember(Fragile(false))
    }));
    assert!(outcome.is_err());
    assert_eq!(cache.len(), 2);
    cache.invalidate();
    assert!(cache.lease(&hash(3)).remember(Fragile(false)));
    assert_eq!(cache.len(), 1);
}
