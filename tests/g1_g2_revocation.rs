//! G1, G2, G4: leases and invalidations, one after the other and at the same time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use trust_key_cache::{KeyCache, KeyHash, TrustKeyCache};
use uuid::Uuid;

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

#[test]
fn g1_invalidate_supersedes_leases_in_flight_however_late_they_remember() {
    let cache = KeyCache::<u32>::new();
    let leases: Vec<_> = (0..100).map(|number| cache.lease(&hash(number))).collect();
    cache.invalidate();
    assert!(cache.lease(&hash(0)).remember(2));
    for lease in leases {
        assert!(!lease.remember(1));
    }
    assert_eq!(cache.lookup(&hash(0)), Some(2), "a superseded lease displaced a fresh value");
    assert_eq!(cache.len(), 1);
}

#[test]
fn g2_invalidate_key_supersedes_its_leases_in_flight_and_no_other_key_is_lost() {
    let cache = KeyCache::<u64>::builder().capacity(1_000).build().unwrap();
    for number in 0..1_000 {
        assert!(cache.lease(&hash(number)).remember(number));
    }
    let before = cache.len();
    let lease = cache.lease(&hash(7));
    cache.invalidate_key(&hash(7));
    assert!(!lease.remember(7));
    assert_eq!(cache.lookup(&hash(7)), None);
    assert_eq!(cache.len(), before - 1);
    assert!(
        (0..1_000)
            .filter(|&number| number != 7)
            .all(|number| cache.lookup(&hash(number)) == Some(number))
    );
}

#[test]
fn g2_invalidate_key_supersedes_leases_of_keys_that_were_never_cached() {
    let cache = KeyCache::<u32>::new();
    let lease = cache.lease(&hash(1));
    cache.invalidate_key(&hash(1));
    assert!(!lease.remember(1));
    assert!(cache.is_empty());
    assert!(cache.lease(&hash(1)).remember(2));
}

#[test]
fn g2_leases_of_other_buckets_outlive_invalidate_key() {
    let cache = KeyCache::<u64>::builder().capacity(4_000).build().unwrap();
    let leases: Vec<_> = (0..1_000).map(|number| cache.lease(&hash(number))).collect();
    cache.invalidate_key(&hash(0));
    let stored = leases
        .into_iter()
        .zip(0..)
        .map(|(lease, number)| lease.remember(number))
        .filter(|&stored| stored)
        .count();
    // There are a thousand buckets, so all leases except a few neighbours' are valid.
    assert!(stored > 980, "{stored}");
    assert_eq!(cache.lookup(&hash(0)), None);
}

#[test]
fn g4_a_lease_lives_across_threads_and_await_points() {
    let cache = KeyCache::<u32>::new();
    let lease = cache.lease(&hash(1));
    thread::scope(|scope| {
        scope.spawn(|| assert!(lease.remember(5)));
    });
    assert_eq!(cache.lookup(&hash(1)), Some(5));
}

/// Runs the protocol of an authenticator: rows are revoked repeatedly while threads authenticate. A
/// value is the revision of its row. Once a revocation has returned, no later lookup may return an
/// earlier revision.
fn revocation_under_fire(revoke: impl Fn(&KeyCache<u64>, &KeyHash) + Sync) {
    const KEYS: usize = 3;
    const REVOCATIONS: u64 = 5_000;
    let cache = KeyCache::<u64>::builder().capacity(8).build().unwrap();
    let rows = [const { AtomicU64::new(0) }; KEYS];
    let revoked = [const { AtomicU64::new(0) }; KEYS];
    let hashes: [_; KEYS] = std::array::from_fn(|key| hash(key as u64));
    let (lookups, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let authenticate = || {
            for key in (0..KEYS).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let revision = revoked[key].load(Ordering::Acquire);
                if let Some(value) = cache.lookup(&hashes[key]) {
                    assert!(
                        value >= revision,
                        "revision {value} was returned after {revision} had replaced it"
                    );
                    hits.fetch_add(1, Ordering::Relaxed);
                } else {
                    let lease = cache.lease(&hashes[key]);
                    // Relaxed: only the cache must order this load.
                    let row = rows[key].load(Ordering::Relaxed);
                    if row % 4 == 0 {
                        thread::yield_now();
                    }
                    lease.remember(row);
                }
                if lookups.fetch_add(1, Ordering::Relaxed) % 8 == 0 {
                    thread::yield_now();
                }
            }
        };
        let authenticating = [authenticate; 2].map(|authenticate| scope.spawn(authenticate));
        for revision in 1..=REVOCATIONS {
            let key = revision as usize % KEYS;
            rows[key].store(revision, Ordering::Relaxed);
            revoke(&cache, &hashes[key]);
            revoked[key].store(revision, Ordering::Release);
            // The next revocation follows at once, or after some lookups.
            let next = lookups.load(Ordering::Relaxed) + revision % 16;
            while lookups.load(Ordering::Relaxed) < next
                && !authenticating.iter().all(|thread| thread.is_finished())
            {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(hits.into_inner() > 0, "no lookup hit, so nothing was tested");
}

#[test]
fn g1_no_id_is_returned_after_its_revocation_under_fire() {
    revocation_under_fire(|cache, _| cache.invalidate());
}

#[test]
fn g2_no_id_is_returned_after_its_targeted_revocation_under_fire() {
    revocation_under_fire(KeyCache::invalidate_key);
}

#[test]
fn the_default_cache_holds_uuids() {
    let cache = TrustKeyCache::new();
    let id = Uuid::from_u128(0xfeed);
    assert!(cache.lease(&hash(1)).remember(id));
    assert_eq!(cache.lookup_with(&hash(1), Uuid::as_u128), Some(0xfeed));
}
