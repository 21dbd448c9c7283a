//! Caches that evict by use. They get room for twice the number of keys: neither keeps all keys at
//! exactly its capacity.

use std::time::Duration;

use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use uuid::Uuid;

use super::{Digest, Entry, Invalidate, Peer, Shared, id, now};

pub(crate) struct QuickCache {
    pub(super) cache: Cache<Digest, Entry, UnitWeighter, RandomState>,
    pub(super) ttl: Duration,
}

impl Peer for QuickCache {
    const NAME: &'static str = "quick_cache";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let room = keys.len() * 2;
        let lifecycle = DefaultLifecycle::default();
        let cache = Cache::with(room, room as u64, UnitWeighter, RandomState::default(), lifecycle);
        let peer = Self { cache, ttl };
        for (number, key) in keys.iter().enumerate() {
            peer.insert(key, id(number));
        }
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.cache.get(key)?.id_at(now)
    }
}

impl Shared for QuickCache {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        self.cache.insert(*key, Entry::new(id, self.ttl));
    }
}

/// moka with its own time-to-live, which uses a clock of its own.
pub(crate) struct Moka(pub(super) moka::sync::Cache<Digest, Uuid, RandomState>);

impl Peer for Moka {
    const NAME: &'static str = "moka";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let cache = moka::sync::Cache::builder()
            .initial_capacity(keys.len())
            .max_capacity(keys.len() as u64 * 2)
            .time_to_live(ttl)
            .build_with_hasher(RandomState::default());
        let peer = Self(cache);
        for (number, key) in keys.iter().enumerate() {
            peer.insert(key, id(number));
        }
        // The lookups must not pay for work that the insertions postponed.
        peer.0.run_pending_tasks();
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        self.0.get(key)
    }
}

impl Shared for Moka {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        self.0.insert(*key, id);
    }
}

impl Invalidate for Moka {
    #[inline]
    fn invalidate(&self) {
        self.0.invalidate_all();
    }

    #[inline]
    fn invalidate_key(&self, key: &Digest) {
        self.0.invalidate(key);
    }
}
