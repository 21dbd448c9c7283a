//! One pointer to a whole map, which each write copies and replaces. A read costs only the
//! protection of the pointer.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use crossbeam_epoch::{Atomic, Owned};
use uuid::Uuid;

use super::{Digest, Entry, Map, Peer, Shared, map, now};

/// `load`, which needs only a shared reference.
pub(crate) struct ArcSwapped {
    map: ArcSwap<Map>,
    ttl: Duration,
}

impl Peer for ArcSwapped {
    const NAME: &'static str = "ArcSwap<hashbrown>";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self { map: ArcSwap::from_pointee(map(keys, ttl)), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        self.map.load().get(key)?.id_at(now)
    }
}

impl Shared for ArcSwapped {
    const COPIES_ALL: bool = true;

    fn insert(&self, key: &Digest, id: Uuid) {
        self.map.rcu(|map| replaced(map, key, Entry::new(id, self.ttl)));
    }
}

/// arc-swap's `Cache`, which its documentation recommends where reads outnumber writes by far. Each
/// thread needs a handle. The handle keeps the last map that the thread saw alive until the
/// thread's next read. Here a thread-local variable holds the handle, so that threads can share the
/// map by reference as with all other peers.
pub(crate) struct ArcSwapCached {
    map: Arc<ArcSwap<Map>>,
    ttl: Duration,
}

type Handle = Cache<Arc<ArcSwap<Map>>, Arc<Map>>;

thread_local! {
    static HANDLE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

impl Peer for ArcSwapCached {
    const NAME: &'static str = "ArcSwap<hashbrown>, Cache per thread";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self { map: Arc::new(ArcSwap::from_pointee(map(keys, ttl))), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        HANDLE.with_borrow_mut(|handle| {
            let handle = match handle {
                Some(handle) if std::ptr::eq(handle.arc_swap(), &*self.map) => handle,
                // There is no handle yet, or the handle of an earlier benchmark's map.
                other => other.insert(Cache::new(Arc::clone(&self.map))),
            };
            handle.load().get(key)?.id_at(now)
        })
    }
}

impl Shared for ArcSwapCached {
    const COPIES_ALL: bool = true;

    fn insert(&self, key: &Digest, id: Uuid) {
        self.map.rcu(|map| replaced(map, key, Entry::new(id, self.ttl)));
    }
}

/// The same as [`ArcSwapped`], with crossbeam-epoch.
pub(crate) struct EpochPointer {
    map: Atomic<Map>,
    ttl: Duration,
}

impl Peer for EpochPointer {
    const NAME: &'static str = "crossbeam-epoch pointer to hashbrown";
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self { map: Atomic::new(map(keys, ttl)), ttl }
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        let now = now();
        let guard = crossbeam_epoch::pin();
        // Acquire: pairs with the exchange that published the map.
        let map = self.map.load(Ordering::Acquire, &guard);
        // SAFETY: the pointer is never null, and the map is freed only after this guard.
        unsafe { map.deref() }.get(key)?.id_at(now)
    }
}

impl Shared for EpochPointer {
    const COPIES_ALL: bool = true;

    fn insert(&self, key: &Digest, id: Uuid) {
        let guard = crossbeam_epoch::pin();
        loop {
            // Acquire: as in `get`.
            let old = self.map.load(Ordering::Acquire, &guard);
            // SAFETY: as in `get`.
            let new = Owned::new(replaced(unsafe { old.deref() }, key, Entry::new(id, self.ttl)));
            // AcqRel: publishes the copy to the loads above.
            if self
                .map
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire, &guard)
                .is_ok()
            {
                // SAFETY: after the exchange, no new guard can reach the old map.
                unsafe { guard.defer_destroy(old) };
                break;
            }
        }
        // Maps are large, so collect them before 64 are due.
        guard.flush();
    }
}

impl Drop for EpochPointer {
    fn drop(&mut self) {
        // SAFETY: `&mut self` excludes other accesses, and the pointer is never null.
        drop(unsafe { std::mem::take(&mut self.map).into_owned() });
    }
}

fn replaced(map: &Map, key: &Digest, entry: Entry) -> Map {
    let mut copy = map.clone();
    copy.insert(*key, entry);
    copy
}
