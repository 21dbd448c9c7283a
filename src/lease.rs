//! [`Lease`]: the right to remember one answer, which ends with the first invalidation after it was taken.

use core::fmt;

use super::cache::KeyCache;
use super::map::Stamp;
use crate::{Clock, CoarseClock, KeyHash};

/// The right to [`remember`](Self::remember) one value for one key, taken by [`KeyCache::lease`]
/// before the source of truth is read.
///
/// It holds no lock and no reclamation guard, so it may be held for any time, sent to another
/// thread, and live across `.await`. Dropping it unused changes nothing.
///
/// # Examples
///
/// ```
/// use trust_key_cache::{KeyCache, KeyHash};
///
/// async fn id_of(key: &str, cache: &KeyCache<u32>) -> u32 {
///     let hash = KeyHash::of(key);
///     let lease = cache.lease(&hash);
///     let id = read_database(&hash).await;
///     lease.remember(id);
///     id
/// }
/// # async fn read_database(_: &KeyHash) -> u32 { 7 }
/// # let cache = KeyCache::new();
/// # let future = std::pin::pin!(id_of("key", &cache));
/// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// # assert!(std::future::Future::poll(future, &mut context).is_ready());
/// # assert_eq!(cache.lookup(&KeyHash::of("key")), Some(7));
/// ```
#[must_use = "a lease does nothing until it remembers a value"]
pub struct Lease<'a, V, C = CoarseClock> {
    pub(super) cache: &'a KeyCache<V, C>,
    pub(super) hash: KeyHash,
    /// Nanoseconds of the cache's clock.
    pub(super) taken_at: u64,
    pub(super) stamp: Stamp,
}

impl<V: Clone + Send + Sync + 'static, C: Clock> Lease<'_, V, C> {
    /// Stores `value` for the lease's key, in place of an earlier value, and returns `true`; or
    /// stores nothing and returns `false`, if an invalidation has superseded the lease (G1, G2,
    /// G4).
    ///
    /// The value is returned by lookups until the time-to-live has passed since the *lease* was
    /// taken; a lease that is older than that still replaces an earlier value, but by nothing.
    /// A `true` says that no invalidation had superseded the lease when it was checked; one
    /// that comes at the same time may have dropped the value already. In a full bucket the
    /// value that would expire first makes room.
    ///
    /// Lock-free; O(1): one bucket of at most 16 entries is copied. Allocates one bucket.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember(1));
    /// assert!(cache.lease(&hash).remember(2));
    /// assert_eq!(cache.lookup(&hash), Some(2));
    /// ```
    pub fn remember(self, value: V) -> bool {
        self.cache.remember(&self, value)
    }
}

impl<V, C> fmt::Debug for Lease<'_, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("hash", &self.hash)
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}
