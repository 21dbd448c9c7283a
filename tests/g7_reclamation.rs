//! G7: every value is dropped exactly once, after its last reader, and a dropped cache leaves
//! nothing behind.

mod counted;

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
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

/// A value whose destructor, in one of 16 runs, calls its own cache for its own key.
struct Reentrant {
    counted: Counted,
    cache: Weak<KeyCache<Reentrant>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    destructors: AtomicUsize,
    /// Whether one of them calls the cache now.
    is_calling: AtomicBool,
    /// Of the destructors that called the cache, those that found their key stored.
    stored: AtomicUsize,
    loads: AtomicUsize,
}

impl Clone for Reentrant {
    fn clone(&self) -> Self {
        self.with(self.counted.clone())
    }
}

impl Reentrant {
    fn with(&self, counted: Counted) -> Self {
        Self { counted, cache: self.cache.clone(), seen: self.seen.clone() }
    }

    fn call(&self, cache: &KeyCache<Self>, run: usize) {
        let key = hash(1);
        let number = |value: &Self| {
            value.counted.check();
            value.counted.parts[0]
        };
        if cache.lookup_with(&key, number).is_some() {
            self.seen.stored.fetch_add(1, Ordering::Relaxed);
        }
        let new = || self.with(self.counted.clone());
        let own = Some(number(self));
        match run % 3 {
            0 => {
                assert!(cache.lease(&key).remember(new()));
                assert_eq!(cache.lookup_with(&key, number), own);
            }
            1 => {
                let before = cache.lease(&key);
                cache.invalidate_key(&key);
                assert!(!before.remember(new()));
                assert_eq!(cache.lookup_with(&key, number), None);
            }
            _ => {
                cache.invalidate_key(&key);
                let loaded = cache.get_or_try_load(&key, || {
                    self.seen.loads.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(Some(new()))
                });
                assert_eq!(loaded.unwrap().as_ref().map(number), own);
                assert_eq!(cache.lookup_with(&key, number), own);
            }
        }
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let run = self.seen.destructors.fetch_add(1, Ordering::Relaxed);
        // One of them at a time: those that its own calls cause would change what it checks.
        // Relaxed, as all here: one thread runs them all.
        if run.is_multiple_of(16)
            && let Some(cache) = self.cache.upgrade()
            && !self.seen.is_calling.swap(true, Ordering::Relaxed)
        {
            self.call(&cache, run / 16);
            self.seen.is_calling.store(false, Ordering::Relaxed);
        }
    }
}

#[test]
fn g7_a_destructor_may_call_its_own_cache_for_its_own_key_while_the_key_is_stored() {
    let alive = Arc::new(AtomicIsize::new(0));
    let seen = Arc::new(Seen::default());
    let cache = Arc::new(KeyCache::builder().capacity(1).build().unwrap());
    for round in 0..if cfg!(miri) { 150 } else { 10_000 } {
        let new = || Reentrant {
            counted: Counted::new(round, &alive),
            cache: Arc::downgrade(&cache),
            seen: seen.clone(),
        };
        // Destructors may invalidate the key before these two return.
        if round % 3 == 0 {
            cache.invalidate_key(&hash(1));
            let loaded = cache.get_or_try_load(&hash(1), || Ok::<_, ()>(Some(new())));
            assert!(loaded.unwrap().is_some());
        } else {
            let lease = cache.lease(&hash(1));
            lease.remember(new());
        }
    }
    let [stored, loads] = [&seen.stored, &seen.loads].map(|count| count.load(Ordering::Relaxed));
    assert!(stored > 0 && loads > 0, "{stored} destructors found the key, {loads} loaded it");
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the drop of the cache drops all values");
}
