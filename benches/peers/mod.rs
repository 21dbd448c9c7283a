//! Wraps the maps and caches that the cache is compared with. Each does the same work.
//!
//! A lookup reads the coarse monotonic clock once, searches a 32-byte digest, compares the time
//! with the entry's expiry, and copies the 16-byte id. Only [`Moka`] keeps its own time-to-live,
//! on its own clock.
//!
//! Each peer is used in the fastest way that its documentation describes. A peer has two advantages
//! over the cache. Its hash function takes one word of the digest ([`Digest`]), and its compare may
//! stop early. A peer that accepts a hasher gets foldhash, which is faster than the defaults, also
//! those of std and quick_cache. An entry holds all of its fields in one place.

#![allow(dead_code, unused_imports, unused_macros, reason = "each benchmark takes what it needs")]

mod caches;
mod copies;
mod limit;
mod loads;
mod locks;
mod maps;
mod ours;
mod reclamations;

use std::hash::{Hash, Hasher};
use std::time::Duration;

use trust_key_cache::{Clock, CoarseClock, KeyHash};
use uuid::Uuid;

pub(crate) use caches::{Moka, QuickCache};
pub(crate) use copies::{ArcSwapCached, ArcSwapped, EpochPointer};
pub(crate) use limit::{ClockAlone, Limit, LimitAsWritten, LimitConstantTime, LoopAlone};
pub(crate) use loads::{Load, LoadAsync, MokaTry};
pub(crate) use locks::{MutexStd, ParkingLot, RwLockStd};
pub(crate) use maps::{Dash, Papaya, SccIndex};
pub(crate) use ours::{Ours, OursHeld, OursInlined};
pub(crate) use reclamations::{OverCrossbeam, OverSeize};

/// A row of the report: a map or cache with a lookup.
pub(crate) trait Peer: Send + Sync + Sized {
    /// The name in the report.
    const NAME: &'static str;
    /// The digest in the fastest form for this peer.
    type Key: Copy + Send + Sync + From<KeyHash>;

    /// Makes a peer with room for these keys, and inserts each key with the [`id`] of its index.
    fn filled(keys: &[Self::Key], ttl: Duration) -> Self;

    /// Looks the key up, as far as possible within the caller's code.
    fn get_inlined(&self, key: &Self::Key) -> Option<Uuid>;

    /// Looks the key up. A program with several calls of this contains one function for all of
    /// them, unless the function is small.
    #[inline]
    fn get(&self, key: &Self::Key) -> Option<Uuid> {
        self.get_inlined(key)
    }
}

/// A peer that can be written while others read.
pub(crate) trait Shared: Peer {
    /// Whether each write copies the whole map, so that a benchmark makes only a few writes.
    const COPIES_ALL: bool = false;

    /// Adds or replaces a key. The time-to-live begins now.
    fn insert(&self, key: &Self::Key, id: Uuid);
}

/// A peer that can drop all entries, or one entry.
pub(crate) trait Invalidate: Shared {
    fn invalidate(&self);
    fn invalidate_key(&self, key: &Self::Key);
}

/// Calls a generic function for each peer that threads can share: this cache first.
macro_rules! for_each_shared {
    ($function:ident($($argument:expr),*)) => {
        $function::<$crate::peers::Ours>($($argument),*);
        $function::<$crate::peers::OverCrossbeam>($($argument),*);
        $function::<$crate::peers::OverSeize>($($argument),*);
        $function::<$crate::peers::MutexStd>($($argument),*);
        $function::<$crate::peers::RwLockStd>($($argument),*);
        $function::<$crate::peers::ParkingLot>($($argument),*);
        $function::<$crate::peers::Dash>($($argument),*);
        $function::<$crate::peers::Papaya>($($argument),*);
        $function::<$crate::peers::SccIndex>($($argument),*);
        $function::<$crate::peers::QuickCache>($($argument),*);
        $function::<$crate::peers::Moka>($($argument),*);
        $function::<$crate::peers::ArcSwapped>($($argument),*);
        $function::<$crate::peers::ArcSwapCached>($($argument),*);
        $function::<$crate::peers::EpochPointer>($($argument),*);
    };
}
pub(crate) use for_each_shared;

/// Returns the id of the trust with this number.
pub(crate) fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

/// The key for maps that hash. A digest is uniform, so the hash function needs only one word of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u64; 4]);

impl From<KeyHash> for Digest {
    fn from(hash: KeyHash) -> Self {
        let bytes = hash.to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }
}

impl Hash for Digest {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// An id and its expiry, for peers without a time-to-live.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    id: Uuid,
    expires_at: u64,
}

impl Entry {
    #[inline]
    fn new(id: Uuid, ttl: Duration) -> Self {
        Self { id, expires_at: now().saturating_add(ttl.as_nanos() as u64) }
    }

    #[inline]
    fn id_at(&self, now: u64) -> Option<Uuid> {
        (now < self.expires_at).then_some(self.id)
    }
}

/// Returns the time of the cache's clock, in nanoseconds.
#[inline]
fn now() -> u64 {
    let now = CoarseClock.now();
    now.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(now.subsec_nanos()))
}

/// hashbrown's map with foldhash. Most peers contain this map.
type Map = hashbrown::HashMap<Digest, Entry, foldhash::fast::RandomState>;

fn map(keys: &[Digest], ttl: Duration) -> Map {
    let mut map = Map::with_capacity_and_hasher(keys.len(), foldhash::fast::RandomState::default());
    map.extend(keys.iter().enumerate().map(|(number, key)| (*key, Entry::new(id(number), ttl))));
    map
}
