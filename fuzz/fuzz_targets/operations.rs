//! G1 to G4, G6 and G11: an interpreter of operations over two caches and a model of both. One
//! cache has a single bucket, and the other cache has many.
//!
//! Both caches have room for all keys. In the single bucket any invalidation supersedes every
//! lease, and a time for which one key is closed closes every key. A lease that survives there must
//! survive in the cache of many buckets as well. Both caches must hold exactly what the model
//! holds.

#![no_main]

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use trust_key_cache::{KeyCache, KeyHash, Lease, ManualClock, OwnedLease, ReadLease, Renewal};

const TTL: u64 = 100;

#[derive(Arbitrary, Debug)]
enum Operation {
    Lookup(u8),
    Lease(u8),
    Remember(u8),
    Abandon(u8),
    Invalidate,
    InvalidateKey(u8),
    Advance(u8),
    RememberFor(u8, u8),
    InvalidateFor(u8),
    InvalidateKeyFor(u8, u8),
    InvalidateWhere(u8),
    Load(u8),
    LoadAsync(u8),
    BeginRenewal,
    CompleteRenewal(u8),
    Relinquish,
    SetLength(u8),
}

type Cache = KeyCache<u32, ManualClock>;

struct Held<'a> {
    key: u8,
    taken_at: u64,
    invalidations: u32,
    closed: bool,
    single: Lease<'a, u32, ManualClock>,
    many: OwnedLease<u32, ManualClock>,
}

fn hash(key: u8) -> KeyHash {
    KeyHash::of([key % 16])
}

fn cache(capacity: usize, clock: &ManualClock) -> Cache {
    let builder = KeyCache::builder().ttl(Duration::from_nanos(TTL)).capacity(capacity);
    let builder = builder.entry_ttl(|value| Duration::from_nanos(own_ttl(*value)));
    builder.clock(clock.clone()).build().expect("sound settings")
}

/// Returns for how many nanoseconds the caches may return a value.
fn own_ttl(value: u32) -> u64 {
    match value % 5 {
        0 => 0,
        1 => TTL / 3,
        _ => 2 * TTL,
    }
}

fn ready_now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing to wait for"),
    }
}

fuzz_target!(|operations: Vec<Operation>| {
    let clock = ManualClock::new();
    let (single, many) = (cache(16, &clock), Arc::new(cache(256, &clock)));
    let mut now = 0;
    // In the single bucket any invalidation supersedes every lease.
    let mut invalidations = 0;
    let mut closed_until = 0;
    let mut values: HashMap<u8, (u32, u64)> = HashMap::new();
    let mut held: Vec<Held> = Vec::new();
    let mut next = 0;
    let read_lease = ReadLease::with_clock(Duration::from_nanos(TTL), clock.clone());
    let mut length = TTL;
    // The deadline, and the renewals with the length and the time that each has noted. A renewal
    // from before a `relinquish` has no length.
    let mut deadline = 0;
    let mut renewals: Vec<(Renewal<ManualClock>, Option<u64>, u64)> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Lookup(key) => {
                let expected = values
                    .get(&(key % 16))
                    .filter(|(_, expires_at)| now < *expires_at)
                    .map(|(value, _)| *value);
                assert_eq!(single.lookup(&hash(key)), expected);
                assert_eq!(many.lookup_with(&hash(key), |value| *value), expected);
                let expected = expected.filter(|_| now < deadline);
                assert_eq!(single.lookup_held(&read_lease, &hash(key)), expected);
                let found = many.lookup_held_with(&read_lease, &hash(key), |value| *value);
                assert_eq!(found, expected);
            }
            Operation::Load(key) | Operation::LoadAsync(key) => {
                let alive = values.get(&(key % 16)).filter(|(_, expires_at)| now < *expires_at);
                let expected = alive.map(|(value, _)| *value);
                next += 1;
                let load = |cache: &Cache| {
                    let answer = || match expected {
                        None => Ok::<_, ()>(Some(next)),
                        Some(_) => unreachable!("a hit"),
                    };
                    match operation {
                        Operation::Load(_) => cache.get_or_try_load(&hash(key), answer),
                        _ => ready_now(cache.get_or_try_load_async(&hash(key), async || answer())),
                    }
                };
                assert_eq!(load(&single), Ok(expected.or(Some(next))));
                // The model does not predict whether a separate bucket is closed.
                if now >= closed_until {
                    assert_eq!(load(&many), Ok(expected.or(Some(next))));
                    let expires_at = now + TTL.min(own_ttl(next));
                    if expected.is_none() {
                        values.insert(key % 16, (next, expires_at));
                    }
                }
            }
            Operation::Lease(key) => held.push(Held {
                key: key % 16,
                taken_at: now,
                invalidations,
                closed: now < closed_until,
                single: single.lease(&hash(key)),
                many: many.lease_owned(&hash(key)),
            }),
            Operation::Remember(number) | Operation::RememberFor(number, _) if !held.is_empty() => {
                let longest = match operation {
                    Operation::RememberFor(_, longest) => longest.into(),
                    _ => u64::MAX,
                };
                let lease = held.swap_remove(usize::from(number) % held.len());
                next += 1;
                let stored = lease.single.remember_for(next, Duration::from_nanos(longest));
                assert_eq!(stored, lease.invalidations == invalidations && !lease.closed);
                if stored {
                    // A lease that is valid for the single bucket is also valid for many.
                    assert!(lease.many.remember_for(next, Duration::from_nanos(longest)));
                    let lifetime = TTL.min(longest).min(own_ttl(next));
                    values.insert(lease.key, (next, lease.taken_at + lifetime));
                } else {
                    // The model does not predict whether a separate bucket has kept this lease
                    // valid. The lease is dropped, so that both caches hold the same values.
                    drop(lease.many);
                }
            }
            Operation::Abandon(number) if !held.is_empty() => {
                drop(held.swap_remove(usize::from(number) % held.len()));
            }
            Operation::Remember(_) | Operation::RememberFor(..) | Operation::Abandon(_) => {}
            Operation::Invalidate => {
                invalidations += 1;
                values.clear();
                single.invalidate();
                many.invalidate();
            }
            Operation::InvalidateKey(key) => {
                invalidations += 1;
                values.remove(&(key % 16));
                single.invalidate_key(&hash(key));
                many.invalidate_key(&hash(key));
            }
            Operation::InvalidateFor(within) => {
                invalidations += 1;
                values.clear();
                closed_until = closed_until.max(now + u64::from(within));
                single.invalidate_for(Duration::from_nanos(within.into()));
                many.invalidate_for(Duration::from_nanos(within.into()));
            }
            Operation::InvalidateKeyFor(key, within) => {
                invalidations += 1;
                values.remove(&(key % 16));
                closed_until = closed_until.max(now + u64::from(within));
                single.invalidate_key_for(&hash(key), Duration::from_nanos(within.into()));
                many.invalidate_key_for(&hash(key), Duration::from_nanos(within.into()));
            }
            Operation::InvalidateWhere(key) => {
                let named = |value: u32| value % 4 == u32::from(key) % 4;
                invalidations += 1;
                let alive = values.values().filter(|(_, expires_at)| now < *expires_at);
                let removed = alive.filter(|(value, _)| named(*value)).count();
                values.retain(|_, (value, _)| !named(*value));
                assert_eq!(single.invalidate_where(|_, value| named(*value)), removed);
                assert_eq!(many.invalidate_where(|_, value| named(*value)), removed);
            }
            Operation::BeginRenewal => renewals.push((read_lease.begin(), Some(length), now)),
            Operation::CompleteRenewal(number) if !renewals.is_empty() => {
                let at = usize::from(number) % renewals.len();
                let (renewal, noted_length, noted) = renewals.swap_remove(at);
                renewal.complete();
                if let Some(noted_length) = noted_length {
                    deadline = deadline.max(noted + noted_length.min(length) * 4 / 5);
                }
            }
            Operation::CompleteRenewal(_) => {}
            Operation::Relinquish => {
                read_lease.relinquish();
                deadline = 0;
                for (_, noted_length, _) in &mut renewals {
                    *noted_length = None;
                }
            }
            Operation::SetLength(new) => {
                length = u64::from(new);
                read_lease.set_length(Duration::from_nanos(length));
            }
            Operation::Advance(step) => {
                now += u64::from(step);
                clock.advance(Duration::from_nanos(step.into()));
            }
        }
        let alive = values.values().filter(|(_, expires_at)| now < *expires_at).count();
        assert_eq!((single.len(), many.len()), (alive, alive));
        assert_eq!(read_lease.is_valid(), now < deadline);
    }
});
