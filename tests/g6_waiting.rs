//! G6 of replaced values: bounds the number that waits to be freed. The tests are in their own
//! binary, and run one at a time. Grace periods belong to the process, so the readers of one test
//! would delay the freeing that another test counts.

mod counted;

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn g6_what_waits_to_be_freed_is_bounded_and_goes_after_a_parked_reader() {
    let _alone = alone();
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::builder().capacity(1).build().unwrap();
    let key = KeyHash::of("key");
    let bound = waiting_at_most();
    let churn = |rounds| churn(&cache, &key, rounds, &alive);
    let busy = churn(1_000);
    assert!(busy <= 1 + bound, "{busy} values for one key");
    // A parked reader delays the freeing of every value that is replaced meanwhile. After the
    // reader, the values are freed.
    let held = cache.lookup_with(&key, |_| churn(1_000)).unwrap();
    assert!(held >= 1_000, "{held} values were held back");
    let after = churn(1_000);
    assert!(after <= 1 + bound, "{after} values after the end of the reader");
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

/// Replaces the key's value `rounds` times, and returns the number of live values.
fn churn(cache: &KeyCache<Counted>, key: &KeyHash, rounds: u64, alive: &Arc<AtomicIsize>) -> isize {
    for round in 0..rounds {
        assert!(cache.lease(key).remember(Counted::new(round, alive)));
    }
    alive.load(Ordering::Relaxed)
}

/// Returns the number of replaced values that a cache of one bucket may hold. The cache frees in
/// batches of eight, and one batch waits. With crossbeam-epoch, a grace period ends only after some
/// batches.
fn waiting_at_most() -> isize {
    if reclamation() == Reclamation::Membarrier { 16 } else { 64 }
}

#[test]
fn g6_threads_that_rest_hold_nothing_back() {
    let _alone = alone();
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::<Counted>::builder().capacity(1).build().unwrap();
    let key = KeyHash::of("key");
    let barrier = Barrier::new(3);
    let mut most = 0;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    cache.lookup_with(&key, Counted::check);
                    barrier.wait();
                    // The thread is idle for the cache.
                    barrier.wait();
                }
            });
        }
        for _ in 0..3 {
            barrier.wait();
            for round in 0..1_000 {
                assert!(cache.lease(&key).remember(Counted::new(round, &alive)));
                most = most.max(alive.load(Ordering::Relaxed));
            }
            barrier.wait();
        }
    });
    // The waiting threads did not delay the freeing.
    assert!(most <= 1 + waiting_at_most(), "{most} values for one key");
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

/// A value that writes a value to the next cache of a chain when it is dropped.
#[derive(Clone)]
struct Linked {
    counted: Counted,
    place: usize,
    chain: &'static Chain,
}

struct Chain {
    caches: Vec<KeyCache<Linked>>,
    alive: Vec<Arc<AtomicIsize>>,
}

impl Chain {
    fn of(caches: usize) -> &'static Self {
        let cache = || KeyCache::builder().capacity(1).build().unwrap();
        let caches: Vec<_> = std::iter::repeat_with(cache).take(caches).collect();
        let alive = caches.iter().map(|_| Arc::default()).collect();
        // The values borrow the chain.
        Box::leak(Box::new(Self { caches, alive }))
    }

    fn write(&'static self, place: usize) {
        let value = Linked { counted: Counted::new(7, &self.alive[place]), place, chain: self };
        assert!(self.caches[place].lease(&KeyHash::of("key")).remember(value));
    }

    fn alive(&self) -> Vec<isize> {
        self.alive.iter().map(|alive| alive.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.counted.check();
        if self.place + 1 < self.chain.caches.len() {
            self.chain.write(self.place + 1);
        }
    }
}

/// Except for the first cache, only destructors write to these caches.
#[test]
fn g6_what_destructors_write_to_other_caches_is_bounded_in_each_of_eight() {
    let _alone = alone();
    let chain = Chain::of(8);
    for _ in 0..10_000 {
        chain.write(0);
    }
    let alive = chain.alive();
    assert!(alive.iter().all(|&alive| alive <= 1 + waiting_at_most()), "{alive:?}");
}

/// The first write that is not so deep takes all replaced values as one batch, independent of the
/// time of the last batch. So the next batch frees them, after at most seven more writes.
#[test]
fn g6_what_destructors_write_deeper_than_that_goes_with_the_next_write_that_is_not_so_deep() {
    let _alone = alone();
    let mut fewest = usize::MAX;
    for shift in 0..8 {
        let chain = Chain::of(9);
        (0..shift).for_each(|_| chain.write(8));
        (0..1_000).for_each(|_| chain.write(0));
        let deep = chain.alive()[8];
        assert!(deep > 500 || reclamation() != Reclamation::Membarrier, "{deep} values");
        let writes = (1..=200).find(|_| {
            chain.write(8);
            chain.alive()[8] <= 1 + waiting_at_most()
        });
        fewest = fewest.min(writes.expect("the values are freed"));
    }
    // If each push counted from the last batch on, no case would free its values with fewer than
    // nine writes.
    assert!(fewest < 8 || reclamation() != Reclamation::Membarrier, "{fewest} writes");
}

/// The reader is idle afterwards, so only the barrier detects the end of its section. The pass
/// after the barrier frees all batches that are over, regardless of their number.
#[test]
fn g6_what_a_reader_held_back_goes_at_the_first_look_after_it() {
    let _alone = alone();
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::<Counted>::builder().capacity(1).build().unwrap();
    let key = KeyHash::of("key");
    let churn = |rounds| churn(&cache, &key, rounds, &alive);
    churn(1);
    let (reads, reads_now) = channel();
    let (ends, may_end) = channel::<()>();
    let (rests, rests_now) = channel();
    let (goes, may_go) = channel::<()>();
    let (held, after) = thread::scope(|scope| {
        let (cache, key) = (&cache, &key);
        scope.spawn(move || {
            let found = cache.lookup_with(key, |_| {
                reads.send(()).unwrap();
                may_end.recv().ok();
            });
            assert_eq!(found, Some(()));
            rests.send(()).unwrap();
            may_go.recv().ok();
        });
        // Moved here: a failing assertion drops the senders, so that no thread waits for them.
        let (ends, goes) = (ends, goes);
        reads_now.recv().unwrap();
        let held = churn(1_000);
        drop(ends);
        rests_now.recv().unwrap();
        // One pass, or as many as the grace periods of crossbeam-epoch need.
        let after = churn(if reclamation() == Reclamation::Membarrier { 8 } else { 1_000 });
        drop(goes);
        (held, after)
    });
    assert!(held >= 1_000, "{held} values were held back");
    assert!(after <= 1 + waiting_at_most(), "{after} values after the end of the reader");
}
