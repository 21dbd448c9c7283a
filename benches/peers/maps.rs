//! Concurrent maps: DashMap shards a lock; papaya and scc's index read without one.

use std::time::Duration;

use foldhash::fast::RandomState;
use scc::hash_index::Entry as Slot;
use uuid::Uuid;

use super::{Digest, Entry, Peer, Shared, id, now};

pub(crate) struct Dash {
    map: dashmap::DashMap<Digest, Entry, RandomState>,
    ttl: Duration,
}

impl Peer for Dash {
    const NAME: &'static str = "DashMap";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let map = dashmap::DashMap::with_capacity_and_hasher(keys.len(), RandomState::default());
        let peer = Self { map, ttl };
        insert_all(&peer, keys);
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.get(key)?.id_at(now)
    }
}

impl Shared for Dash {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        self.map.insert(*key, Entry::new(id, self.ttl));
    }
}

/// papaya, pinned for each lookup. A request makes one lookup, and a longer pin would delay the
/// freeing of garbage.
pub(crate) struct Papaya {
    map: papaya::HashMap<Digest, Entry, RandomState>,
    ttl: Duration,
}

impl Peer for Papaya {
    const NAME: &'static str = "papaya";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let map = papaya::HashMap::with_capacity_and_hasher(keys.len(), RandomState::default());
        let peer = Self { map, ttl };
        insert_all(&peer, keys);
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.pin().get(key)?.id_at(now)
    }
}

impl Shared for Papaya {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        self.map.pin().insert(*key, Entry::new(id, self.ttl));
    }
}

/// scc's index. `peek_with` reads without locks. An update adds the new entry and marks the old
/// entry.
pub(crate) struct SccIndex {
    map: scc::HashIndex<Digest, Entry, RandomState>,
    ttl: Duration,
}

impl Peer for SccIndex {
    const NAME: &'static str = "scc::HashIndex";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let map = scc::HashIndex::with_capacity_and_hasher(keys.len(), RandomState::default());
        let peer = Self { map, ttl };
        insert_all(&peer, keys);
        peer
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.peek_with(key, |_, entry| entry.id_at(now))?
    }
}

impl Shared for SccIndex {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        let entry = Entry::new(id, self.ttl);
        match self.map.entry_sync(*key) {
            Slot::Occupied(mut slot) => slot.update(entry),
            Slot::Vacant(slot) => {
                slot.insert_entry(entry);
            }
        }
    }
}

fn insert_all<P: Shared>(peer: &P, keys: &[P::Key]) {
    for (number, key) in keys.iter().enumerate() {
        peer.insert(key, id(number));
    }
}
