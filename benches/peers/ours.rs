//! This crate's cache as it ships, with the default clock and a capacity of the number of keys.

use std::time::Duration;

use trust_key_cache::{KeyCache, KeyHash, ReadLease, TrustKeyCache};
use uuid::Uuid;

use super::{Invalidate, Peer, Shared, id};

pub(crate) struct Ours(TrustKeyCache);

impl Peer for Ours {
    const NAME: &'static str = "trust-key-cache";
    type Key = KeyHash;

    fn filled(keys: &[KeyHash], ttl: Duration) -> Self {
        // The builder rejects a capacity of zero.
        let cache = TrustKeyCache::builder().capacity(keys.len().max(1)).ttl(ttl).build();
        let peer = Self(cache.expect("a capacity and a time-to-live within limits"));
        for (number, key) in keys.iter().enumerate() {
            peer.insert(key, id(number));
        }
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &KeyHash) -> Option<Uuid> {
        self.0.lookup(key)
    }
}

impl Shared for Ours {
    #[inline]
    fn insert(&self, key: &KeyHash, id: Uuid) {
        self.0.lease(key).remember(id);
    }
}

impl Invalidate for Ours {
    #[inline]
    fn invalidate(&self) {
        self.0.invalidate();
    }

    #[inline]
    fn invalidate_key(&self, key: &KeyHash) {
        self.0.invalidate_key(key);
    }
}

/// The cache with a separate value type for each `USE`. The compiler inlines a function with only
/// one call in the program, and [`get_inlined`](Peer::get_inlined) has this cache's only call of
/// `lookup`.
pub(crate) struct OursInlined<const USE: u8 = 0>(pub(super) KeyCache<Id<USE>>);

#[derive(Clone, Copy)]
pub(super) struct Id<const USE: u8>(pub(super) Uuid);

impl<const USE: u8> Peer for OursInlined<USE> {
    const NAME: &'static str = Ours::NAME;
    type Key = KeyHash;

    fn filled(keys: &[KeyHash], ttl: Duration) -> Self {
        let cache = KeyCache::builder().capacity(keys.len().max(1)).ttl(ttl).build();
        let peer = Self(cache.expect("a capacity and a time-to-live within limits"));
        for (number, key) in keys.iter().enumerate() {
            peer.insert(key, id(number));
        }
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &KeyHash) -> Option<Uuid> {
        self.0.lookup(key).map(|id| id.0)
    }
}

impl<const USE: u8> Shared for OursInlined<USE> {
    #[inline]
    fn insert(&self, key: &KeyHash, id: Uuid) {
        self.0.lease(key).remember(Id(id));
    }
}

/// The cache with lookups under a read lease, which stays valid for longer than a benchmark runs.
pub(crate) struct OursHeld {
    cache: OursInlined<3>,
    lease: ReadLease,
}

impl Peer for OursHeld {
    const NAME: &'static str = "trust-key-cache, lookup_held";
    type Key = KeyHash;

    fn filled(keys: &[KeyHash], ttl: Duration) -> Self {
        let lease = ReadLease::new(Duration::from_secs(24 * 60 * 60));
        lease.begin().complete();
        Self { cache: OursInlined::filled(keys, ttl), lease }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &KeyHash) -> Option<Uuid> {
        self.cache.0.lookup_held(&self.lease, key).map(|id| id.0)
    }
}
