//! G6, G7 of an ending thread: the destructor of a thread-local makes lookups after the thread's
//! registration has ended. The test is alone in its binary, because the counters belong to the
//! process.

mod counted;

use std::alloc::System;
use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use counted::Counted;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Makes the last lookups of a thread. Each of them needs its own registration.
struct Last {
    cache: &'static KeyCache<Counted>,
    allocations: Sender<usize>,
}

thread_local!(static LAST: OnceCell<Last> = const { OnceCell::new() });

impl Drop for Last {
    fn drop(&mut self) {
        let key = KeyHash::of("key");
        let look_up = || assert_eq!(self.cache.lookup_with(&key, |value| value.parts[0]), Some(0));
        look_up();
        let region = Region::new(ALLOCATOR);
        (0..1_000).for_each(|_| look_up());
        self.allocations.send(region.change().allocations).ok();
    }
}

#[test]
fn g6_g7_lookups_of_an_ending_thread_leave_nothing_behind_and_hold_nothing_back() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache: &'static _ =
        Box::leak(Box::new(KeyCache::<Counted>::builder().capacity(1).build().unwrap()));
    let key = KeyHash::of("key");
    assert!(cache.lease(&key).remember(Counted::new(0, &alive)));
    let (sender, receiver) = channel();
    // The order of the destructors of thread-locals depends on their first uses. In one of the two
    // cases, `Last` is dropped after the cache's own thread-local.
    for lookup_first in [false, true] {
        let last = Last { cache, allocations: sender.clone() };
        thread::spawn(move || {
            if lookup_first {
                assert!(cache.lookup_with(&key, |_| ()).is_some());
            }
            LAST.with(|slot| slot.set(last).ok());
            assert!(cache.lookup_with(&key, |_| ()).is_some());
        })
        .join()
        .unwrap();
        // With crossbeam-epoch, each lookup makes a participant, which is collected like other
        // garbage.
        let allocations = receiver.recv().unwrap();
        assert!(
            allocations == 0 || reclamation() != Reclamation::Membarrier,
            "{allocations} allocations"
        );
        // Checked before another thread takes the record, because the new owner would reset the
        // record.
        for _ in 0..1_000 {
            assert!(cache.lease(&key).remember(Counted::new(0, &alive)));
        }
        let alive = alive.load(Ordering::Relaxed);
        assert!(alive <= 1 + 64, "{alive} values for one key");
    }
}
