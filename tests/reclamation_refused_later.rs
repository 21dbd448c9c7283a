//! `membarrier(2)` refused after it was found to work. Alone in its binary: the refusal is the process's.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod counted;
mod refusal;

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

#[test]
fn g7_what_is_retired_after_membarrier_was_refused_goes_with_the_cache() {
    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::<Counted>::builder().capacity(1).build().unwrap();
    let hash = KeyHash::of("key");
    let works = reclamation() == Reclamation::Membarrier;
    refusal::refuse_membarrier();
    assert_eq!(reclamation() == Reclamation::Membarrier, works, "the choice is made once");
    for round in 0..1_000 {
        assert!(cache.lease(&hash).remember(Counted::new(round, &alive)));
        assert_eq!(cache.lookup_with(&hash, |value| value.parts[0]), Some(round));
    }
    // Nobody can tell whether a reader is left, so nothing is freed while there could be one.
    assert!(!works || alive.load(Ordering::Relaxed) >= 1_000 - 16, "freed without a barrier");
    drop(cache);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}
