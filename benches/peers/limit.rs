//! What no cache can beat: a map without synchronisation; and what every figure contains: the
//! clock, and the loop.

use std::time::Duration;

use uuid::Uuid;

use super::{Digest, Entry, Map, Peer, Shared, map, now};

/// hashbrown with foldhash, read by whoever likes and written by nobody.
pub(crate) struct Limit(Map);

impl Limit {
    /// Adds or replaces, as nobody can who shares the map.
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

    #[inline]
    fn get(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.0.get(key)?.id_at(now)
    }
}

/// Reads the clock and looks nothing up.
pub(crate) struct ClockAlone;

impl Peer for ClockAlone {
    const NAME: &'static str = "the clock alone";
    type Key = Digest;

    fn filled(_: &[Digest], _: Duration) -> Self {
        Self
    }

    #[inline]
    fn get(&self, key: &Digest) -> Option<Uuid> {
        Some(Uuid::from_u64_pair(now(), key.0[0]))
    }
}

/// Reads the key and does nothing with it: what the benchmark itself costs.
pub(crate) struct LoopAlone;

impl Peer for LoopAlone {
    const NAME: &'static str = "the loop alone";
    type Key = Digest;

    fn filled(_: &[Digest], _: Duration) -> Self {
        Self
    }

    #[inline]
    fn get(&self, key: &Digest) -> Option<Uuid> {
        Some(Uuid::from_u64_pair(key.0[1], key.0[0]))
    }
}

impl Shared for LoopAlone {
    #[inline]
    fn insert(&self, _: &Digest, _: Uuid) {}
}
