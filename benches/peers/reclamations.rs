//! This crate's cache over other reclamations: the same bucket map and leases, compiled by
//! [`reclamations`]. They show what the epochs that ship save, and are no peers.

use std::time::Duration;

use reclamations::{over_crossbeam, over_seize};
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::{Peer, Shared, id};

/// The digest as those caches take it: their sources are compiled a second time, so their
/// `KeyHash` is another type.
#[derive(Clone, Copy)]
pub(crate) struct Key(reclamations::KeyHash);

impl From<KeyHash> for Key {
    fn from(hash: KeyHash) -> Self {
        Self(reclamations::KeyHash::from_bytes(hash.to_bytes()))
    }
}

macro_rules! over {
    ($peer:ident, $cache:ident, $name:literal) => {
        pub(crate) struct $peer($cache::TrustKeyCache);

        impl Peer for $peer {
            const NAME: &'static str = $name;
            type Key = Key;

            fn filled(keys: &[Key], ttl: Duration) -> Self {
                let capacity = keys.len().max(1);
                let cache = $cache::TrustKeyCache::builder().capacity(capacity).ttl(ttl).build();
                let peer = Self(cache.expect("a capacity and a time-to-live within limits"));
                for (number, key) in keys.iter().enumerate() {
                    peer.insert(key, id(number));
                }
                peer
            }

            #[inline(always)]
            fn get_inlined(&self, key: &Key) -> Option<Uuid> {
                self.0.lookup(&key.0)
            }
        }

        impl Shared for $peer {
            #[inline]
            fn insert(&self, key: &Key, id: Uuid) {
                self.0.lease(&key.0).remember(id);
            }
        }
    };
}

over!(OverCrossbeam, over_crossbeam, "this cache over crossbeam-epoch");
over!(OverSeize, over_seize, "this cache over seize");
