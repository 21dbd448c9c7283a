//! The limits of all caches, maps without synchronisation, and the parts that each figure contains:
//! the clock and the loop.
//!
//! Each limit is hashbrown's map with foldhash. It reads the cache's clock, compares the expiry and
//! copies the id. Threads only read the map while they share it. The limits differ in how a key is
//! hashed and compared:
//!
//! | | hashed | compared |
//! |---|---|---|
//! | [`Limit`] | one word | by `==` of four words, which may stop early |
//! | [`LimitConstantTime`] | one word | by `==` of [`KeyHash`]: in constant time |
//! | [`LimitAsWritten`] | the whole digest | by `==` of [`KeyHash`]: in constant time |
//!
//! `LimitConstantTime` does the work of a lookup without its synchronisation: a keyed mix of one
//! word finds the place, and a compare in constant time decides. A program that replaced the cache
//! by a map of its own would need both: a map that compares digests word by word reveals by its
//! time how many words match. `LimitAsWritten` is what such a program gets without a hasher of its
//! own. `Limit` is the map inside of most peers.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::{Digest, Entry, Map, Peer, Shared, id, map, now};

/// The map of most peers, without a lock.
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

/// Wraps a digest, and hashes one word of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashedByWord(KeyHash);

impl From<KeyHash> for HashedByWord {
    fn from(hash: KeyHash) -> Self {
        Self(hash)
    }
}

impl Hash for HashedByWord {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes = self.0.to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        state.write_u64(u64::from_le_bytes(words[0]));
    }
}

/// The limit that does the work of a lookup.
pub(crate) type LimitConstantTime = LimitOf<HashedByWord>;

/// A map with the digest as its key, and nothing else.
pub(crate) type LimitAsWritten = LimitOf<KeyHash>;

/// A map whose keys compare in constant time.
pub(crate) struct LimitOf<K>(HashMap<K, Entry, RandomState>);

/// A key of [`LimitOf`], and what the figures call its map.
pub(crate) trait LimitKey: Copy + Eq + Hash + From<KeyHash> {
    const NAME: &'static str;
}

impl LimitKey for HashedByWord {
    const NAME: &'static str = "limit: constant-time compare";
}

impl LimitKey for KeyHash {
    const NAME: &'static str = "limit: HashMap<KeyHash>";
}

impl<K: LimitKey + Send + Sync + 'static> Peer for LimitOf<K> {
    const NAME: &'static str = K::NAME;
    type Key = K;

    fn filled(keys: &[K], ttl: Duration) -> Self {
        let mut map = HashMap::with_capacity_and_hasher(keys.len(), RandomState::default());
        let entries = keys.iter().enumerate();
        map.extend(entries.map(|(number, key)| (*key, Entry::new(id(number), ttl))));
        Self(map)
    }

    #[inline(always)]
    fn get_inlined(&self, key: &K) -> Option<Uuid> {
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
