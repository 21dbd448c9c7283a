//! What the cache is compared with: every map and cache that one would otherwise use, each doing
//! the same work.
//!
//! The work of a lookup: one read of the coarse monotonic clock, the search for a 32-byte digest,
//! the compare with the entry's expiry, and the 16-byte id copied out. [`Moka`] alone keeps its own
//! time-to-live, on its own clock.
//!
//! Each peer is used in the fastest way that its documentation tells, and gets two things that the
//! cache itself does without: a hash function that takes one word of the digest ([`Digest`]), and a
//! compare that may stop early. Where a peer lets one choose the hasher, it is foldhash: faster
//! than each one's default, for std's and quick_cache's too. All fields of an entry lie beside each
//! other.

#![allow(dead_code, unused_imports, unused_macros, reason = "each benchmark takes what it needs")]

mod caches;
mod copies;
mod limit;
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
pub(crate) use limit::{ClockAlone, Limit, LoopAlone};
pub(crate) use locks::{MutexStd, ParkingLot, RwLockStd};
pub(crate) use maps::{Dash, Papaya, SccIndex};
pub(crate) use ours::Ours;
pub(crate) use reclamations::{OverCrossbeam, OverSeize};

/// What can be looked up in. Its name is what the report calls it.
pub(crate) trait Peer: Send + Sync + Sized {
    const NAME: &'static str;
    /// The digest as this peer likes it best.
    type Key: Copy + Send + Sync + From<KeyHash>;

    /// Room for as many keys as there are, all of them in it, each with [`id`] of its index.
    fn filled(keys: &[Self::Key], ttl: Duration) -> Self;

    fn get(&self, key: &Self::Key) -> Option<Uuid>;
}

/// A peer that can be written while others read.
pub(crate) trait Shared: Peer {
    /// Whether each write copies the whole map, so that many of them are not to be waited for.
    const COPIES_ALL: bool = false;

    /// Adds or replaces, with a time-to-live that begins now.
    fn insert(&self, key: &Self::Key, id: Uuid);
}

/// A peer that can drop every entry, or one.
pub(crate) trait Invalidate: Shared {
    fn invalidate(&self);
    fn invalidate_key(&self, key: &Self::Key);
}

/// Calls a generic function for every peer that can be shared, ours first.
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

/// The id of the trust with this number.
pub(crate) fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

/// The key for maps that hash. A digest is uniform, so one word of it is all that the hash function
/// needs to see.
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

/// An id and when it expires, for peers that know no time-to-live.
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

/// The clock that the cache counts on, in nanoseconds.
#[inline]
fn now() -> u64 {
    let now = CoarseClock.now();
    now.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(now.subsec_nanos()))
}

/// hashbrown's map with foldhash, which most peers are made of.
type Map = hashbrown::HashMap<Digest, Entry, foldhash::fast::RandomState>;

fn map(keys: &[Digest], ttl: Duration) -> Map {
    let mut map = Map::with_capacity_and_hasher(keys.len(), foldhash::fast::RandomState::default());
    map.extend(keys.iter().enumerate().map(|(number, key)| (*key, Entry::new(id(number), ttl))));
    map
}
