//! [`Table`]: the loads under way, by key.
//!
//! A short lock guards the table, and lookups never touch it. Under the lock run the hasher, the
//! allocator and the reading of a stamp; no code of the crate's user does.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use super::super::map::Stamp;
use super::super::sync::{Mutex, MutexGuard};
use crate::KeyHash;

/// A load of some type of error: callers of one key may have different ones.
pub(super) type AnyLoad = Arc<dyn Any + Send + Sync>;

pub(in super::super) struct Table {
    under_way: Mutex<HashMap<KeyHash, UnderWay>>,
}

struct UnderWay {
    /// Its leader's, taken before the loader runs.
    stamp: Stamp,
    /// From then on the load is older than the time-to-live.
    expires_at: u64,
    load: AnyLoad,
}

/// What a caller finds in the table.
pub(super) enum Found<L> {
    /// Nothing may be shared now: the key was invalidated for a time that has not ended.
    Closed,
    /// A load that the caller may share.
    Load(AnyLoad),
    /// None: the caller's own load was entered, under the caller's stamp.
    Entered { load: Arc<L>, stamp: Stamp, replaced: Option<AnyLoad> },
}

impl Table {
    pub(in super::super) fn new() -> Self {
        Self { under_way: Mutex::new(HashMap::new()) }
    }

    /// Returns the load of `key` that a caller may share, or enters `new_load`.
    ///
    /// `stamp` is called under the lock. So stamps along one key's loads never fall, and a load is
    /// replaced only by one that began later. A load is shared if its stamp is the caller's, and if
    /// it expires after `now`. Within a closed time, no load is shared or entered.
    pub(super) fn find_or_enter<L: Any + Send + Sync>(
        &self,
        key: &KeyHash,
        now: u64,
        expires_at: u64,
        stamp: impl FnOnce() -> Stamp,
        new_load: impl FnOnce() -> L,
    ) -> Found<L> {
        let mut under_way = self.lock();
        let stamp = stamp();
        if stamp.is_closed() {
            return Found::Closed;
        }
        let entry = under_way.entry(*key);
        if let Entry::Occupied(entry) = &entry
            && entry.get().stamp == stamp
            && now < entry.get().expires_at
        {
            return Found::Load(Arc::clone(&entry.get().load));
        }
        let load = Arc::new(new_load());
        let own = UnderWay { stamp, expires_at, load: Arc::clone(&load) as AnyLoad };
        let replaced = match entry {
            Entry::Occupied(mut entry) => Some(entry.insert(own).load),
            Entry::Vacant(entry) => {
                entry.insert(own);
                None
            }
        };
        Found::Entered { load, stamp, replaced }
    }

    /// Removes `load`, and no other load of the same key.
    pub(super) fn remove<L>(&self, key: &KeyHash, load: &Arc<L>) {
        let removed = {
            let mut under_way = self.lock();
            match under_way.entry(*key) {
                // The caller has `load`, so no other load has its address.
                Entry::Occupied(entry)
                    if Arc::as_ptr(&entry.get().load).cast::<()>()
                        == Arc::as_ptr(load).cast::<()>() =>
                {
                    Some(entry.remove())
                }
                _ => None,
            }
        };
        // The lock is free here.
        drop(removed);
    }

    /// Returns the number of loads under way, or `None` while the table is locked.
    pub(in super::super) fn len(&self) -> Option<usize> {
        self.under_way.try_lock().ok().map(|under_way| under_way.len())
    }

    /// Locks the table. No panic can occur under the lock, so no half of a change is ever seen.
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
