//! The limit of all caches, a map without synchronisation, and the parts that each figure contains:
//! the clock and the loop.

use std::time::Duration;

use uuid::Uuid;

use super::{Digest, Entry, Map, Peer, Shared, map, now};

/// hashbrown with foldhash. Threads only read the map while they share it.
pub(crate) struct Limit(Map);

impl Limit {
    /// Adds or replaces a key through a mutable reference.
    #[inline]
    pub(crate) fn insert(&mut self, key: &Digest, id: Uuid, ttl: Duration) {
        self.0.insert(*key, Entry::new(id, ttl));
    }
}

impl Peer for Limit {
    const NAME: &'static str = "limit: hashbrown, unsynchronised";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self(map(keys, ttl))
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.0.get(key)?.id_at(now)
    }
}

/// Reads the clock, without a lookup.
pub(crate) struct ClockAlone;

impl Peer for ClockAlone {
    const NAME: &'static str = "the clock alone";
    type Key = Digest;

    fn filled(_: &[Digest], _: Duration) -> Self {
        Self
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        Some(Uuid::from_u64_pair(now(), key.0[0]))
    }
}

/// Reads the key and returns: the cost of the benchmark itself.
pub(crate) struct LoopAlone;

impl Peer for LoopAlone {
    const NAME: &'static str = "the loop alone";
    type Key = Digest;

    fn filled(_: &[Digest], _: Duration) -> Self {
        Self
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        Some(Uuid::from_u64_pair(key.0[1], key.0[0]))
    }
}

impl Shared for LoopAlone {
    #[inline]
    fn insert(&self, _: &Digest, _: Uuid) {}
}
