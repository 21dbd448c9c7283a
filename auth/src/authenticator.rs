//! [`Authenticator`]: from the header of a request to the trust whose key it carries.
//!
//! It must never grant anything that the live row does not accept, and never remember anything when the store
//! failed.

use std::fmt;
use std::sync::Arc;

use trust_key_cache::{KeyHash, TrustKeyCache, sweep};
use uuid::Uuid;

use crate::stats::Counters;
use crate::{AuthError, Stats, StoreError, Trust, TrustStore};

/// Authenticates API keys against a store of trusts, through a cache of key hashes. A clone shares store,
/// cache and counters.
///
/// # How a key is checked
///
/// The key is hashed: the bytes of its UTF-8, with nothing trimmed. Then:
///
/// 1. If the cache knows the hash, the row of the remembered id is fetched. If that row
///    [accepts](Trust::accepts) the hash, the request is granted: one read by primary key, and one compare in
///    constant time. This is the hot path.
/// 2. Otherwise, and after a *stale hit*, a [lease](trust_key_cache::KeyCache::lease) is taken, all
///    candidates are read, and a [sweep](trust_key_cache::sweep) compares every one of them in constant time.
///    A match is fetched, verified against the live row once more, remembered under the lease, and granted. A
///    match whose row has changed since is swept for once more; after that the request is
///    [`AuthError::Unavailable`].
/// 3. Whatever the store cannot answer is refused as [`AuthError::Unavailable`]: nothing is granted and
///    nothing remembered.
///
/// The cache only ever saves the sweep; each grant rests on a row that was read during the request (G9). A
/// revocation by [`TrustRegistry`](crate::TrustRegistry) therefore holds from the moment it returns, and one
/// by another process from its commit.
///
/// # Where the lease is taken
///
/// A lease must be older than every read that its value rests on. What is remembered rests on the candidates
/// and on the fetch after them, so the lease is taken just before the candidates are read. To take it before
/// the first lookup would be as safe, and worse: the hot path would pay for it, and it would be superseded
/// more often.
///
/// # Stale hits
///
/// A stale hit leaves the cache as it is. Were it to invalidate its key, whoever holds a revoked key could
/// keep superseding the leases of the keys that share its bucket. [`TrustRegistry`](crate::TrustRegistry) has
/// removed the entry anyway, unless another process made the change; the entry then expires.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{AuthError, Authenticator, KeyHash, MemoryStore, NewTrust, TrustKeyCache, TrustLedger};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(MemoryStore::new());
/// store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
///
/// assert_eq!(authenticator.authenticate(Some("key")).await?.name, "St. Mary"); // by a sweep
/// assert_eq!(authenticator.authenticate(Some("key")).await?.name, "St. Mary"); // by the cache
/// assert_eq!(authenticator.stats().hits, 1);
///
/// let refused = authenticator.authenticate(Some("another key")).await.unwrap_err();
/// assert_eq!((refused.status(), refused.detail()), (401, "Invalid API Key."));
/// # Ok(()) }
/// ```
pub struct Authenticator<S> {
    store: Arc<S>,
    cache: Arc<TrustKeyCache>,
    counters: Arc<Counters>,
}

impl<S: TrustStore> Authenticator<S> {
    /// An authenticator over this store and this cache. The [`TrustRegistry`](crate::TrustRegistry) of the
    /// same trusts must have the same cache.
    #[must_use]
    pub fn new(store: Arc<S>, cache: Arc<TrustKeyCache>) -> Self {
        Self { store, cache, counters: Arc::default() }
    }

    /// The trust whose key this is; `None` is a request without a key.
    ///
    /// Cancel safe: a future that is dropped has granted nothing, and has at most remembered what it
    /// verified.
    ///
    /// # Errors
    ///
    /// [`AuthError::Missing`] for no key or an empty one, [`AuthError::Invalid`] if no enabled trust has it,
    /// and [`AuthError::Unavailable`] if the store failed or timed out.
    pub async fn authenticate(&self, api_key: Option<&str>) -> Result<Trust, AuthError> {
        self.attempt(api_key).await.result
    }

    /// As [`authenticate`](Self::authenticate), and tells how the answer was found: for metrics.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, MemoryStore, Path, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let attempt = authenticator.attempt(Some("key")).await;
    /// assert!(attempt.result.is_err());
    /// assert_eq!((attempt.path, attempt.rows_swept), (Path::Sweep, 0));
    /// # }
    /// ```
    pub async fn attempt(&self, api_key: Option<&str>) -> Attempt {
        self.counters.request();
        let attempt = match api_key {
            None | Some("") => Attempt { result: Err(AuthError::Missing), path: Path::Unread, rows_swept: 0 },
            Some(key) => self.check(&KeyHash::of(key)).await,
        };
        self.counters.answer(&attempt);
        attempt
    }

    /// What this authenticator and its clones have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    async fn check(&self, hash: &KeyHash) -> Attempt {
        let path = match self.cache.lookup(hash) {
            None => Path::Sweep,
            Some(id) => match self.live_row(id, hash).await {
                Ok(Some(trust)) => {
                    self.counters.hit();
                    return Attempt { result: Ok(trust), path: Path::Hit, rows_swept: 0 };
                }
                Ok(None) => {
                    self.counters.stale_hit();
                    Path::StaleHit
                }
                Err(error) => {
                    return Attempt {
                        result: Err(AuthError::Unavailable(error)),
                        path: Path::Hit,
                        rows_swept: 0,
                    };
                }
            },
        };
        let (result, rows_swept) = self.sweep(hash).await;
        Attempt { result, path, rows_swept }
    }

    /// The answer by a sweep over all candidates, and how many rows were compared.
    async fn sweep(&self, hash: &KeyHash) -> (Result<Trust, AuthError>, usize) {
        let mut rows_swept = 0;
        for _ in 0..2 {
            // Before the first read that the remembered value rests on: a revocation that those reads may miss
            // supersedes it.
            let lease = self.cache.lease(hash);
            let candidates = match self.store.candidates().await {
                Ok(candidates) => candidates,
                Err(error) => return (Err(AuthError::Unavailable(error)), rows_swept),
            };
            rows_swept += candidates.len();
            let found = sweep(hash, candidates.hashes());
            self.counters.sweep(candidates.len());

            let Some(id) = found.and_then(|index| candidates.id(index)) else {
                return (Err(AuthError::Invalid), rows_swept);
            };
            // The sweep is a hint like the cache is: the row may have changed since the candidates were read.
            match self.live_row(id, hash).await {
                Ok(Some(trust)) => {
                    // If an invalidation has superseded the lease, the next request sweeps again; this one has
                    // its live row.
                    lease.remember(id);
                    return (Ok(trust), rows_swept);
                }
                // Revoked since, as a rule. But another row may have the key, by now or all the time: sweep once
                // more, so that a key which is valid throughout is not refused as invalid.
                Ok(None) => {}
                Err(error) => return (Err(AuthError::Unavailable(error)), rows_swept),
            }
        }
        (Err(AuthError::Unavailable(StoreError::Unsettled)), rows_swept)
    }

    /// The row with this id as it is now, if it accepts the key. There is no other way to a grant.
    async fn live_row(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        Ok(self.store.fetch(id).await?.filter(|trust| trust.accepts(hash)))
    }
}

impl<S> Clone for Authenticator<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            cache: Arc::clone(&self.cache),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl<S> fmt::Debug for Authenticator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("cache", &self.cache)
            .field("stats", &self.counters.read())
            .finish_non_exhaustive()
    }
}

/// An answer, and how it was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The answer.
    pub result: Result<Trust, AuthError>,
    /// Which way the request took, up to the answer or to the store's failure.
    pub path: Path,
    /// How many rows a sweep compared; zero if none was run.
    pub rows_swept: usize,
}

/// Which way a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// There was no key: nothing was read.
    Unread,
    /// The cache knew the key: its row was fetched, and accepted the key, or the store failed.
    Hit,
    /// The cache knew the key, but its row did not accept it any more; then all rows were swept.
    StaleHit,
    /// The cache did not know the key; all rows were swept.
    Sweep,
}
