//! If `membarrier(2)` is refused, crossbeam-epoch replaces it. The test is alone in its binary,
//! because the refusal holds for the whole process.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod counted;
mod refusal;

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash, Reclamation, reclamation};

#[test]
fn g7_where_membarrier_is_refused_crossbeam_epoch_takes_over() {
    refusal::refuse_membarrier();
    assert_eq!(reclamation(), Reclamation::CrossbeamEpoch);

    let alive = Arc::new(AtomicIsize::new(0));
    let cache = KeyCache::<Counted>::builder().capacity(8).build().unwrap();
    let hash = |number: u64| KeyHash::of(number.to_le_bytes());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..100_000 {
                    cache.lookup_with(&hash(round % 12), Counted::check);
                }
            });
            scope.spawn(|| {
                for round in 0..20_000 {
                    cache.lease(&hash(round % 12)).remember(Counted::new(round, &alive));
                }
            });
        }
    });
    // No thread reads any more, so writes to the cache free the replaced values.
    for number in 0..12 {
        cache.invalidate_key(&hash(number));
    }
    for _ in 0..1_000 {
        cache.invalidate_key(&hash(0));
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    drop(cache);
}
