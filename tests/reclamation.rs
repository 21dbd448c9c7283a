//! Tests of the choice of a reclamation, and of unusual callers. The other tests check both
//! reclamations for usual callers.

mod counted;

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, OnceLock};

use counted::Counted;
use trust_key_cache::{KeyCache, KeyHash, Reclamation, TrustKeyCache, reclamation};
use uuid::Uuid;

#[test]
fn lookups_do_not_fence_where_membarrier_works() {
    let cache = TrustKeyCache::new();
    assert_eq!(cache.lookup(&KeyHash::of("key")), None);
    let expected =
        if membarrier_works() { Reclamation::Membarrier } else { Reclamation::CrossbeamEpoch };
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

/// The destructor of a thread-local may make a lookup after the thread has given its registration
/// back.
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
    // The order of first use decides whether a destructor runs before or after the cache's own.
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

/// With coroutines, the guards of a thread can end in any order, in safe code. Each coroutine has
/// its own stack.
#[test]
fn g7_a_reader_in_a_coroutine_keeps_its_value_after_another_has_ended() {
    let alive = Arc::new(AtomicIsize::new(0));
    // A coroutine borrows for its whole possible lifetime.
    let cache: &'static _ =
        Box::leak(Box::new(KeyCache::<Counted>::builder().capacity(1).build().unwrap()));
    let hash = KeyHash::of("key");
    assert!(cache.lease(&hash).remember(Counted::new(1, &alive)));
    let reader = || {
        generator::Gn::<()>::new_scoped(move |mut scope: generator::Scope<'_, 'static, (), u64>| {
            let suspend = |value: &Counted| {
                scope.yield_(value.parts[0]);
                value.check();
                value.parts[0]
            };
            cache.lookup_with(&hash, suspend).unwrap()
        })
    };
    let (mut first, mut second) = (reader(), reader());
    assert_eq!((first.resume(), second.resume()), (Some(1), Some(1)));
    assert_eq!(first.resume(), Some(1));
    for _ in 0..200 {
        cache.invalidate_key(&hash);
    }
    assert_eq!(alive.load(Ordering::Relaxed), 1, "freed under the second reader");
    assert_eq!(second.resume(), Some(1));
}

/// The destructor of a thread-local may make lookups, and free values, while a reader of its thread
/// is suspended.
#[test]
fn g7_a_reader_that_outlives_its_threads_registration_keeps_its_value() {
    type Cache = KeyCache<Counted>;
    struct Last(&'static Cache, generator::Generator<'static, (), u64>, Arc<AtomicIsize>);
    impl Drop for Last {
        fn drop(&mut self) {
            let Self(cache, reader, alive) = self;
            assert_eq!(cache.lookup_with(&KeyHash::of("other"), |_| ()), None);
            for _ in 0..200 {
                cache.invalidate_key(&KeyHash::of("key"));
            }
            assert_eq!(alive.load(Ordering::Relaxed), 1, "freed under the suspended reader");
            assert_eq!(reader.resume(), Some(1));
        }
    }
    thread_local!(static LAST: std::cell::OnceCell<Last> = const { std::cell::OnceCell::new() });

    let alive = Arc::new(AtomicIsize::new(0));
    // A coroutine borrows for its whole possible lifetime.
    let cache: &'static Cache = Box::leak(Box::new(Cache::builder().capacity(1).build().unwrap()));
    let key = KeyHash::of("key");
    assert!(cache.lease(&key).remember(Counted::new(1, &alive)));
    let ours = alive.clone();
    std::thread::spawn(move || {
        // `LAST` is used before the cache, so its destructor runs after the cache's own.
        LAST.with(|last| assert!(last.get().is_none()));
        let mut reader = generator::Gn::<()>::new_scoped(
            move |mut scope: generator::Scope<'_, 'static, (), u64>| {
                let suspend = |value: &Counted| {
                    scope.yield_(value.parts[0]);
                    value.check();
                    value.parts[0]
                };
                cache.lookup_with(&key, suspend).unwrap()
            },
        );
        assert_eq!(reader.resume(), Some(1));
        LAST.with(|last| last.set(Last(cache, reader, ours)).ok());
    })
    .join()
    .unwrap();
    // The next owner of the record is protected like any other thread.
    assert!(cache.lease(&key).remember(Counted::new(2, &alive)));
    std::thread::spawn(move || {
        let still = |value: &Counted| {
            for _ in 0..200 {
                cache.invalidate_key(&key);
            }
            value.check();
        };
        assert_eq!(cache.lookup_with(&key, still), Some(()));
    })
    .join()
    .unwrap();
    // The other tests run at the same time. While their readers have no processor, the freeing may
    // be delayed.
    for round in 0..100_000 {
        assert!(cache.lease(&key).remember(Counted::new(round, &alive)));
        if round >= 1_000 && alive.load(Ordering::Relaxed) <= 64 {
            return;
        }
        if round % 100 == 0 {
            std::thread::yield_now();
        }
    }
    panic!(
        "{} values are not freed, though their readers have ended",
        alive.load(Ordering::Relaxed)
    );
}

/// Freeing runs destructors, which may write to the cache and so retire more values. Here they
/// retire some batches at a time.
#[test]
fn a_destructor_that_writes_to_the_cache_nests_no_further() {
    #[derive(Clone)]
    struct Again;
    static CACHE: OnceLock<KeyCache<Again>> = OnceLock::new();
    static LEFT: AtomicIsize = AtomicIsize::new(1_000);
    static DEPTH: AtomicIsize = AtomicIsize::new(0);
    static DEEPEST: AtomicIsize = AtomicIsize::new(0);
    impl Drop for Again {
        fn drop(&mut self) {
            let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
            DEEPEST.fetch_max(depth, Ordering::Relaxed);
            for _ in 0..32 {
                if LEFT.fetch_sub(1, Ordering::Relaxed) > 0 {
                    CACHE.get().unwrap().lease(&KeyHash::of("key")).remember(Again);
                }
            }
            DEPTH.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let cache = CACHE.get_or_init(|| KeyCache::builder().capacity(1).build().unwrap());
    for _ in 0..1_000 {
        cache.lease(&KeyHash::of("key")).remember(Again);
    }
    assert!(LEFT.load(Ordering::Relaxed) <= 0, "the destructors have written");
    assert_eq!(DEEPEST.load(Ordering::Relaxed), 1);
}
