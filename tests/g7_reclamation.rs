//! G7: every value is dropped exactly once, after its last reader, and a dropped cache leaves
//! nothing behind.

mod counted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::thread;

use counted::Counted;
use trust_key_cache::{Clock, KeyCache, KeyHash, ManualClock};

/// Returns `many`, or fewer rounds under Miri.
fn rounds(many: u64) -> u64 {
    if cfg!(miri) { 30.min(many) } else { many }
}

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

/// Writes to the cache until all values are dropped.
fn assert_dropped(alive: &AtomicIsize, cache: &KeyCache<Counted, impl Clock>) {
    let unknown = hash(u64::MAX);
    for round in 0..100_000 {
        if alive.load(Ordering::Relaxed) == 0 {
            return;
        }
        cache.invalidate_key(&unknown);
        if round % 100 == 0 {
            thread::yield_now();
        }
    }
    panic!("{} values are left", alive.load(Ordering::Relaxed));
}

#[test]
fn g7_every_value_is_dropped_exactly_once() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::builder().capacity(8).build().unwrap();
    for round in 0..rounds(1_000) {
        let lease = cache.lease(&hash(round % 13));
        match round % 7 {
            0 => cache.invalidate(),
            1 => cache.invalidate_key(&hash(round % 13)),
            _ => {}
        }
        assert_eq!(lease.remember(Counted::new(round, &alive)), round % 7 > 1);
        let _ = cache.lookup(&hash(round % 13));
    }
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the drop of the cache drops all values");
}

#[test]
fn g7_a_replaced_value_is_dropped_while_the_cache_lives() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::builder().capacity(1).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(Counted::new(1, &alive)));
    cache.invalidate_key(&hash(1));
    assert_dropped(&alive, &cache);
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn g6_expired_values_are_let_go_when_their_bucket_is_next_written() {
    let alive = Arc::new(AtomicIsize::new(0));
    let clock = ManualClock::new();
    let cache = KeyCache::builder().capacity(8).clock(clock.clone()).build().unwrap();
    for number in 0..7 {
        assert!(cache.lease(&hash(number)).remember(Counted::new(number, &alive)));
    }
    clock.advance(cache.ttl());
    // Counted separately, because each copy of the bucket contains a clone of this value.
    assert!(cache.lease(&hash(7)).remember(Counted::new(7, &Arc::default())));
    assert_dropped(&alive, &cache);
}

#[test]
fn g7_a_value_outlives_its_replacement_until_its_last_reader_is_done() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::builder().capacity(1).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(Counted::new(1, &alive)));
    cache.lookup_with(&hash(1), |value| {
        cache.invalidate_key(&hash(1));
        for round in 0..rounds(10_000) {
            cache.invalidate_key(&hash(round));
        }
        assert_eq!(alive.load(Ordering::Relaxed), 1, "dropped under its reader");
        value.check();
    });
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the drop of the cache drops all values");
}

#[test]
fn g7_readers_next_to_writers_see_whole_and_living_values() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::<Counted>::builder().capacity(8).build().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    if let Some(value) = cache.lookup(&hash(round % 12)) {
                        value.check();
                    }
                    cache.lookup_with(&hash(round % 12), Counted::check);
                }
            });
        }
        let writers = [(); 2].map(|()| {
            scope.spawn(|| {
                for round in 0..rounds(40_000) {
                    cache.lease(&hash(round % 12)).remember(Counted::new(round, &alive));
                    match round % 100 {
                        0 => cache.invalidate(),
                        1 => cache.invalidate_key(&hash(3)),
                        _ => {}
                    }
                }
            })
        });
        let joined = writers.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        assert!(joined.iter().all(Result::is_ok));
    });
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the drop of the cache drops all values");
}

#[test]
fn a_value_whose_drop_panics_is_still_freed_with_its_bucket() {
    struct Explosive(Arc<AtomicIsize>);
    impl Clone for Explosive {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::Relaxed);
            Self(self.0.clone())
        }
    }
    impl Drop for Explosive {
        fn drop(&mut self) {
            if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
                panic!("the last value panics");
            }
        }
    }
    let alive = Arc::new(AtomicIsize::new(1));
    let cache = KeyCache::builder().capacity(1).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(Explosive(alive.clone())));
    // The drop of the cache drops the bucket in its slot at once, so that the panic can be caught
    // here.
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cache))).is_err());
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}
