//! The process-wide [`TrustKeyCache`], shaped like the reference system's module.
//!
//! It is a [`TrustKeyCache::new`] that is made when it is first needed. Prefer a cache of your own,
//! passed to where it is used: two libraries in one process that both use this one share it, and
//! invalidate each other's values.
//!
//! ```
//! use trust_key_cache::{KeyHash, global};
//! use uuid::Uuid;
//!
//! let (hash, id) = (KeyHash::of("key"), Uuid::from_u128(7));
//! let lease = global::lease(&hash); // before the database is read
//! assert!(lease.remember(id));
//! assert_eq!(global::lookup(&hash), Some(id));
//! global::invalidate(); // after a change of the trusts was committed
//! assert_eq!(global::lookup(&hash), None);
//! ```

use std::sync::OnceLock;

use uuid::Uuid;

use crate::{KeyHash, Lease, TrustKeyCache};

static CACHE: OnceLock<TrustKeyCache> = OnceLock::new();

/// What invalidates must make the cache too: a lease that another thread is just taking could
/// otherwise miss the invalidation.
fn cache() -> &'static TrustKeyCache {
    CACHE.get_or_init(TrustKeyCache::new)
}

/// [`KeyCache::lookup`](crate::KeyCache::lookup) on the process-wide cache. Wait-free, also while
/// another thread makes the cache: there is nothing to find in it then.
#[must_use]
pub fn lookup(hash: &KeyHash) -> Option<Uuid> {
    CACHE.get()?.lookup(hash)
}

/// [`KeyCache::lease`](crate::KeyCache::lease) on the process-wide cache. The first call makes the
/// cache; calls at the same time wait for it.
pub fn lease(hash: &KeyHash) -> Lease<'static, Uuid> {
    cache().lease(hash)
}

/// [`KeyCache::invalidate`](crate::KeyCache::invalidate) on the process-wide cache.
pub fn invalidate() {
    cache().invalidate();
}

/// [`KeyCache::invalidate_key`](crate::KeyCache::invalidate_key) on the process-wide cache.
pub fn invalidate_key(hash: &KeyHash) {
    cache().invalidate_key(hash);
}
