//! Which reclamation is in use. What it must keep is checked by the other tests, whichever it is.

use trust_key_cache::{KeyHash, Reclamation, TrustKeyCache, reclamation};
use uuid::Uuid;

#[test]
fn lookups_do_not_fence_where_membarrier_works() {
    let cache = TrustKeyCache::new();
    assert_eq!(cache.lookup(&KeyHash::of("key")), None);
    let expected = if membarrier_works() { Reclamation::Membarrier } else { Reclamation::CrossbeamEpoch };
    assert_eq!(reclamation(), expected);
}

#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
fn membarrier_works() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};

    membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
fn membarrier_works() -> bool {
    false
}

/// A destructor of a thread-local may look something up after the thread has given its registration back.
#[test]
fn a_lookup_in_the_destructor_of_a_thread_local_works() {
    struct Last(&'static TrustKeyCache, std::sync::mpsc::Sender<Option<Uuid>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let hash = KeyHash::of("key");
            assert!(self.0.lease(&hash).remember(Uuid::max()));
            self.1
                .send(
                    self.0
                        .lookup_with(&hash, |outer| self.0.lookup(&hash).filter(|id| id == outer))
                        .flatten(),
                )
                .ok();
        }
    }
    thread_local!(static LAST: std::cell::OnceCell<Last> = const { std::cell::OnceCell::new() });

    let cache: &'static TrustKeyCache = Box::leak(Box::new(TrustKeyCache::new()));
    let (sender, receiver) = std::sync::mpsc::channel();
    // Some destructors run before the cache's own, some after: whichever was first used runs last, or first.
    for lookup_first in [false, true] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            if lookup_first {
                let _ = cache.lookup(&KeyHash::of("key"));
            }
            LAST.with(|last| last.set(Last(cache, sender)).ok());
            let _ = cache.lookup(&KeyHash::of("key"));
        })
        .join()
        .unwrap();
    }
    drop(sender);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [Some(Uuid::max()); 2]);
}
