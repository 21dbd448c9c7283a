//! [`Authenticator`]: from the header of a request to the trust whose key it carries.
//!
//! It must never grant anything that the live row does not accept, and never remember anything when
//! the store failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use trust_key_cache::{KeyHash, TrustKeyCache};
use uuid::Uuid;

use crate::attempt::{Attempt, Route};
use crate::authenticator_builder::AuthenticatorBuilder;
use crate::error::{AuthError, StoreError};
use crate::reject_floor::RejectFloor;
use crate::scans::Scans;
use crate::stats::Counters;
use crate::stats::Stats;
use crate::store::TrustStore;
use crate::trust::Trust;

/// Authenticates API keys against a store of trusts, through a cache of key hashes. A clone shares
/// store, cache and counters.
///
/// # How a key is checked
///
/// The key is hashed: the bytes of its UTF-8, with nothing trimmed. Then:
///
/// 1. If the cache knows the hash, the row of the remembered id is fetched. If that row
///    [accepts](Trust::accepts) the hash, the request is granted: one read by primary key, and one
///    compare in constant time. This is the hot path.
/// 2. Otherwise, and after a *stale hit*, a [lease](trust_key_cache::KeyCache::lease) is taken, and
///    the request joins the next *scan*: all candidates are read, and each is compared with the
///    keys of all who joined, in constant time. A match is fetched, verified against the live row
///    once more, remembered under the lease, and granted. A match whose row has changed since is
///    looked for by one more scan; after that the request is [`AuthError::Unavailable`].
/// 3. Whatever the store cannot answer is refused as [`AuthError::Unavailable`]: nothing is granted
///    and nothing remembered.
///
/// The cache only ever saves the scan; each grant rests on a row that was read during the request
/// (G9). A revocation by [`TrustRegistry`](crate::TrustRegistry) therefore holds from the moment it
/// returns, and one by another process from its commit.
///
/// # Scans
///
/// One scan runs at a time, however many requests miss, and it answers all who joined before its
/// read began. Whoever joins later waits for the next one: a scan that is reading already could
/// miss a trust that was registered before the request. So strangers with unknown keys cost the
/// database one read after the other, and no more. At most
/// [`waiting_limit`](AuthenticatorBuilder::waiting_limit) requests wait; one more is
/// [`AuthError::Overloaded`], for which nothing is read. Hits wait for no scan.
///
/// The scans run in a task of their own, on the runtime of a request that missed. A runtime that is
/// driven for that request alone, by `block_on` on a single thread, may stand still while its task
/// has the right to scan: if the request is cancelled in the middle of a scan, or has its answer
/// while requests of other runtimes wait. Every miss then waits until that runtime is driven again
/// or dropped. With several runtimes, keep each one running that requests come from.
///
/// # Where the lease is taken
///
/// A lease must be older than every read that its value rests on. What is remembered rests on the
/// candidates and on the fetch after them, so the lease is taken just before joining a scan, which
/// reads later. To take it before the first lookup would be as safe, and worse: the hot path would
/// pay for it, and it would be superseded more often.
///
/// # Stale hits
///
/// A stale hit leaves the cache as it is. Were it to invalidate its key, whoever holds a revoked
/// key could keep superseding the leases of the keys that share its bucket.
/// [`TrustRegistry`](crate::TrustRegistry) has removed the entry anyway, unless another process
/// made the change; the entry then expires.
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
    scans: Arc<Scans<S>>,
    reject_floor: RejectFloor,
    deadline: Option<Duration>,
}

impl<S: TrustStore> Authenticator<S> {
    /// An authenticator over this store and this cache. The [`TrustRegistry`](crate::TrustRegistry)
    /// of the same trusts must have the same cache.
    #[must_use]
    pub fn new(store: Arc<S>, cache: Arc<TrustKeyCache>) -> Self {
        Self::builder(store, cache).build()
    }

    /// As [`new`](Self::new), with other limits than the usual ones.
    pub fn builder(store: Arc<S>, cache: Arc<TrustKeyCache>) -> AuthenticatorBuilder<S> {
        AuthenticatorBuilder::new(store, cache)
    }

    pub(crate) fn with_limits(
        store: Arc<S>,
        cache: Arc<TrustKeyCache>,
        waiting_limit: usize,
        reject_floor: RejectFloor,
        deadline: Option<Duration>,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        let scans = Arc::new(Scans::new(
            Arc::clone(&store),
            Arc::clone(&counters),
            waiting_limit,
            reject_floor,
        ));
        Self { store, cache, counters, scans, reject_floor, deadline }
    }

    /// The trust whose key this is; `None` is a request without a key.
    ///
    /// Cancel safe: a future that is dropped has granted nothing, and has at most remembered what
    /// it verified.
    ///
    /// # Errors
    ///
    /// [`AuthError::Missing`] for no key or an empty one, [`AuthError::Invalid`] if no enabled
    /// trust has it, [`AuthError::Unavailable`] if the store failed or timed out, or the
    /// [`deadline`](AuthenticatorBuilder::deadline) passed, and [`AuthError::Overloaded`] if too
    /// many requests wait for a scan. None of them comes before the
    /// [`reject_floor`](AuthenticatorBuilder::reject_floor), if one is set.
    ///
    /// A miss outside a Tokio runtime is [`AuthError::Unavailable`]: the scan has nowhere to run.
    /// So is any refusal there if a floor is set, and it comes at once: there is nothing to
    /// wait by.
    ///
    /// # Panics
    ///
    /// If a floor or a deadline is set, and the Tokio runtime has no time enabled.
    pub async fn authenticate(&self, api_key: Option<&str>) -> Result<Trust, AuthError> {
        self.attempt(api_key).await.result
    }

    /// As [`authenticate`](Self::authenticate), and tells how the answer was found: for metrics.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, MemoryStore, Route, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let attempt = authenticator.attempt(Some("key")).await;
    /// assert!(attempt.result.is_err());
    /// assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 0));
    /// # }
    /// ```
    pub async fn attempt(&self, api_key: Option<&str>) -> Attempt {
        self.attempt_presented(Ok(api_key)).await
    }

    /// As [`attempt`](Self::attempt), for a key whose reading may have been refused already.
    pub(crate) async fn attempt_presented(
        &self,
        api_key: Result<Option<&str>, AuthError>,
    ) -> Attempt {
        let start = self.reject_floor.start();
        self.counters.record_request();
        let mut attempt = match api_key {
            Err(refused) => Attempt::unread(refused),
            Ok(None | Some("")) => Attempt::unread(AuthError::Missing),
            Ok(Some(key)) => self.check_in_time(&KeyHash::of(key)).await,
        };
        if attempt.result.is_err()
            && let Err(nowhere) = RejectFloor::can_hold(start)
        {
            // It goes out at once, and so must not tell why the key was refused.
            attempt.result = Err(AuthError::Unavailable(StoreError::Other(nowhere.into())));
            self.counters.record_outcome(&attempt);
            return attempt;
        }
        self.counters.record_outcome(&attempt);
        if attempt.result.is_err() {
            // Nothing is held while this waits: no place on the queue, no connection of the store.
            self.reject_floor.hold(start).await;
        }
        attempt
    }

    /// Runs one scan over all candidates, shared with the requests that wait, and returns how many
    /// rows it read.
    ///
    /// For a service that wants to know, before the first unknown key asks for it, whether its
    /// database can give all rows in time. It grants nothing and remembers nothing. Neither the
    /// deadline nor the reject floor applies.
    ///
    /// # Errors
    ///
    /// [`AuthError::Unavailable`] if the store failed or timed out, [`AuthError::Overloaded`] if
    /// too many requests wait for a scan.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// assert_eq!(authenticator.scan().await.unwrap(), 0);
    /// # }
    /// ```
    pub async fn scan(&self) -> Result<usize, AuthError> {
        // A digest that no key can have been given: were a row to have it, its id is not used.
        let no_key = KeyHash::of([]);
        Ok(self.scans.find(&no_key).await?.rows)
    }

    /// What this authenticator and its clones have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Checks the key, to the deadline if there is one.
    async fn check_in_time(&self, hash: &KeyHash) -> Attempt {
        // Outlives the check, so that an attempt that is cut off still tells which way it took.
        let mut progress = Progress { route: Route::Hit, rows_swept: 0 };
        let result = match self.deadline {
            Some(after) if Handle::try_current().is_ok() => {
                match tokio::time::timeout(after, self.check(hash, &mut progress)).await {
                    Ok(result) => result,
                    Err(_) => Err(AuthError::Unavailable(StoreError::Timeout { after })),
                }
            }
            _ => self.check(hash, &mut progress).await,
        };
        Attempt { result, route: progress.route, rows_swept: progress.rows_swept }
    }

    async fn check(&self, hash: &KeyHash, progress: &mut Progress) -> Result<Trust, AuthError> {
        match self.cache.lookup(hash) {
            None => progress.route = Route::Scan,
            Some(id) => match self.live_row(id, hash).await {
                Ok(Some(trust)) => {
                    self.counters.record_hit();
                    return Ok(trust);
                }
                Ok(None) | Err(StoreError::BadRow { .. }) => {
                    self.counters.record_stale_hit();
                    progress.route = Route::StaleHit;
                }
                Err(error) => return Err(AuthError::Unavailable(error)),
            },
        }
        self.search(hash, progress).await
    }

    /// The answer by a scan over all candidates.
    async fn search(&self, hash: &KeyHash, progress: &mut Progress) -> Result<Trust, AuthError> {
        for _ in 0..2 {
            // Before joining, and so before the first read that the remembered value rests on: a
            // revocation that those reads may miss supersedes it.
            let lease = self.cache.lease(hash);
            let found = self.scans.find(hash).await?;
            progress.rows_swept += found.rows;
            let id = found.id.ok_or(AuthError::Invalid)?;
            // The scan is a hint like the cache is: the row may have changed since the candidates
            // were read.
            match self.live_row(id, hash).await {
                Ok(Some(trust)) => {
                    // If an invalidation has superseded the lease, the next request sweeps again;
                    // this one has its live row.
                    lease.remember(id);
                    return Ok(trust);
                }
                // Revoked since, as a rule. But another row may have the key, by now or all the
                // time: sweep once more, so that a key which is valid throughout is
                // not refused as invalid.
                Ok(None) => {}
                // The fault of this row alone, which another try does not mend. The store has
                // logged it.
                Err(StoreError::BadRow { .. }) => return Err(AuthError::Invalid),
                Err(error) => return Err(AuthError::Unavailable(error)),
            }
        }
        Err(AuthError::Unavailable(StoreError::Unsettled))
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
            scans: Arc::clone(&self.scans),
            reject_floor: self.reject_floor,
            deadline: self.deadline,
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

/// How far a request has come: its attempt but for the answer.
struct Progress {
    route: Route,
    rows_swept: usize,
}
