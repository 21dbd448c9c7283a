//! Maps behind one lock. The mutex around std's map is the reference system's design.

use std::collections::HashMap;
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::{Digest, Entry, Invalidate, Map, Peer, Shared, id, map, now};

/// std's map with foldhash. SipHash would cost more than the lock.
pub(crate) struct MutexStd {
    map: Mutex<HashMap<Digest, Entry, RandomState>>,
    ttl: Duration,
}

impl Peer for MutexStd {
    const NAME: &'static str = "Mutex<HashMap>";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        let mut map = HashMap::with_capacity_and_hasher(keys.len(), RandomState::default());
        map.extend(
            keys.iter().enumerate().map(|(number, key)| (*key, Entry::new(id(number), ttl))),
        );
        Self { map: Mutex::new(map), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.lock().ok()?.get(key)?.id_at(now)
    }
}

impl Shared for MutexStd {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        let entry = Entry::new(id, self.ttl);
        self.map.lock().expect("no holder panics").insert(*key, entry);
    }
}

impl Invalidate for MutexStd {
    fn invalidate(&self) {
        self.map.lock().expect("no holder panics").clear();
    }

    #[inline]
    fn invalidate_key(&self, key: &Digest) {
        self.map.lock().expect("no holder panics").remove(key);
    }
}

pub(crate) struct RwLockStd {
    map: RwLock<Map>,
    ttl: Duration,
}

impl Peer for RwLockStd {
    const NAME: &'static str = "std RwLock<hashbrown>";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self { map: RwLock::new(map(keys, ttl)), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.read().ok()?.get(key)?.id_at(now)
    }
}

impl Shared for RwLockStd {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        let entry = Entry::new(id, self.ttl);
        self.map.write().expect("no holder panics").insert(*key, entry);
    }
}

pub(crate) struct ParkingLot {
    map: parking_lot::RwLock<Map>,
    ttl: Duration,
}

impl Peer for ParkingLot {
    const NAME: &'static str = "parking_lot RwLock<hashbrown>";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self { map: parking_lot::RwLock::new(map(keys, ttl)), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.read().get(key)?.id_at(now)
    }
}

impl Shared for ParkingLot {
    #[inline]
    fn insert(&self, key: &Digest, id: Uuid) {
        let entry = Entry::new(id, self.ttl);
        self.map.write().insert(*key, entry);
    }
}
