//! `membarrier(2)` is refused after the process has found that it works. The test is alone in its
//! binary, because the refusal holds for the whole process.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod counted;
mod refusal;

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

#[test]
fn g6_g7_after_membarrier_was_refused_what_waits_for_a_resting_thread_goes_when_it_reads_again() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = Arc::new(KeyCache::<Counted>::builder().capacity(1).build().unwrap());
    let hash = KeyHash::of("key");
    let works = reclamation() == Reclamation::Membarrier;
    refusal::refuse_membarrier();
    assert_eq!(reclamation() == Reclamation::Membarrier, works, "the choice is made once");
    let churn = || {
        for round in 0..1_000 {
            assert!(cache.lease(&hash).remember(Counted::new(round, &alive)));
            assert_eq!(cache.lookup_with(&hash, |value| value.parts[0]), Some(round));
        }
        alive.load(Ordering::Relaxed)
    };
    // All reading threads continue to read or have ended, so no barrier is needed. This thread
    // reads before the other, because it would otherwise take the other's record.
    churn();
    let others = cache.clone();
    thread::spawn(move || others.lookup_with(&hash, |_| ())).join().unwrap();
    let held = churn();
    assert!(!works || held <= 1 + 16, "{held} values for one key");

    // A writer cannot detect whether an idle thread is reading.
    let (resting, reads) = (channel::<()>(), channel());
    let others = cache.clone();
    let rests = thread::spawn(move || {
        while resting.1.recv().is_ok() {
            others.lookup_with(&hash, |_| ());
            reads.0.send(()).unwrap();
        }
    });
    let read = || {
        resting.0.send(()).unwrap();
        reads.1.recv().unwrap();
    };
    read();
    let held = churn();
    assert!(!works || held >= 1_000 - 32, "freed without a barrier");
    // Once all threads continue to read, no grace period needs the barrier.
    for round in 0..100 {
        read();
        assert!(cache.lease(&hash).remember(Counted::new(round, &alive)));
    }
    let held = alive.load(Ordering::Relaxed);
    assert!(!works || held <= 1 + 16 + 8, "{held} values, though all threads continue to read");
    drop(resting.0);
    rests.join().unwrap();
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}
