//! [`Authenticator`]: finds the trust whose key a request carries.
//!
//! It never grants what the live row does not accept, or a row that is held under a read lease. It
//! remembers nothing when the store failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use trust_key_cache::{KeyHash, Lease, TrustKeyCache};
use uuid::Uuid;

use crate::attempt::{Attempt, Route};
use crate::authenticator_builder::AuthenticatorBuilder;
use crate::error::{AuthError, StoreError};
use crate::find_by::FindBy;
use crate::finds::Finds;
use crate::key_form::KeyForm;
use crate::key_hasher::{KeyHasher, PresentedHashes};
use crate::key_prefix::KeyPrefix;
use crate::read_lease::{HeldTrusts, NoLook};
use crate::reject_floor::RejectFloor;
use crate::scans::Scans;
use crate::stats::Counters;
use crate::stats::Stats;
use crate::store::TrustStore;
use crate::trust::Trust;
use crate::trust_key::KeyUsed;

/// Authenticates API keys against a store of trusts, through a cache of key hashes. A clone shares
/// store, cache and counters.
///
/// # How a key is checked
///
/// A [damaged](KeyForm::Damaged) key is refused: it has the [prefix](KeyPrefix) and the length of a
/// new key, and not its checksum. Nothing is hashed, looked up, read or remembered for it. A key of
/// any other form is [hashed](KeyHasher): the bytes of its UTF-8, with nothing trimmed. While a
/// pepper is rotated, a key has several digests. Step 1 then tries one after the other, the current
/// one first, and step 2 compares all of them in one scan. Then:
///
/// 1. If the cache has the hash, the row of the remembered id is fetched. If that row
///    [accepts](Trust::accepts) the hash, the request is granted. This is the hot path: one read by
///    primary key, and one compare in constant time.
/// 2. Otherwise, and after a *stale hit*, a [lease](trust_key_cache::KeyCache::lease) is taken, and
///    the request joins the next *scan*. The scan reads all candidates, and compares each with the
///    keys of all requests that joined, in constant time. The row of a match is fetched and checked
///    once more, remembered under the lease, and granted. If that row has changed since, one more
///    scan follows; after that the request is [`AuthError::Unavailable`].
/// 3. If the store cannot answer, the request is refused as [`AuthError::Unavailable`]. Nothing is
///    granted or remembered.
///
/// With a [read lease](AuthenticatorBuilder::read_lease), and while it is in force, held rows
/// replace the reads. What follows is about grants without one.
///
/// With [`FindBy::Index`], step 2 asks an index for the digest instead of joining a scan. What
/// follows is about scans.
///
/// The cache only saves the scan. Each grant needs a row that was read during the request (G9). A
/// revocation by [`TrustRegistry`](crate::TrustRegistry) therefore holds from the moment it
/// returns, and one by another process from its commit.
///
/// # Several keys a trust
///
/// A trust may have [further keys](crate::TrustKey), which may have an end. Each is cached, swept
/// and compared as the key of the trust's own row is; the sweep compares one digest more for each.
/// [`Attempt::key_id`] is the id of the key that a request had.
///
/// Whether a key is at its end is judged by the store's clock when its row is read. With the row,
/// the store returns the time that is left. While the row is held under a read lease, this process
/// counts that time by its own clock, from before the read. So a held key ends earlier, by at most
/// the duration of the read, and later only by what the two clocks' rates differ, or by what the
/// store's clock is set back. A cached entry ends no later than its key, and grants nothing without
/// its row.
///
/// # Scans
///
/// One scan runs at a time, for any number of misses. It answers all requests that joined before
/// its read began. A later request waits for the next scan: a scan that is reading could miss a
/// trust that was registered before the request. So unknown keys cost the database one read after
/// the other, and no more. At most [`waiting_limit`](AuthenticatorBuilder::waiting_limit) requests
/// wait. One more is [`AuthError::Overloaded`], and nothing is read for it. Hits wait for no scan.
///
/// The scans run in a task of their own, on the runtime of a request that missed. `block_on` on a
/// single thread drives a runtime for one request alone. Such a runtime may stop while its task has
/// the right to scan. This happens if the request is cancelled during a scan, or is answered while
/// requests of other runtimes wait. Every miss then waits until that runtime is driven again or
/// dropped. With several runtimes, keep each one running that requests come from.
///
/// # Where the lease is taken
///
/// A lease must be older than every read that its value depends on: the read of the candidates, and
/// the fetch after it. So the lease is taken just before the request joins a scan. Taking it before
/// the first lookup would be as safe, but the hot path would pay for it, and it would be superseded
/// more often.
///
/// # Stale hits
///
/// A stale hit leaves the cache as it is. If it invalidated its key, a client with a revoked key
/// could repeatedly supersede the leases of keys in the same bucket.
/// [`TrustRegistry`](crate::TrustRegistry) has removed the entry already, unless another process
/// made the change. The entry then expires.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{
///     AuthError, Authenticator, KeyHash, MemoryStore, NewTrust, TrustKeyCache, TrustLedger,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(MemoryStore::new());
/// store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
///
/// assert_eq!(authenticator.authenticate(Some("key")).await?.name, "St. Mary"); // by a scan
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
    /// In place of the scans, if rows are found by an index.
    finds: Option<Arc<Finds<S>>>,
    reject_floor: RejectFloor,
    deadline: Option<Duration>,
    held: Option<Arc<HeldTrusts>>,
    key_prefix: KeyPrefix,
    key_hasher: KeyHasher,
}

impl<S: TrustStore> Authenticator<S> {
    /// Returns an authenticator over this store and this cache, with the usual limits.
    ///
    /// The [`TrustRegistry`](crate::TrustRegistry) of the same trusts must have the same cache.
    /// [`TrustAuth`](crate::TrustAuth) ensures that.
    #[must_use]
    pub fn new(store: Arc<S>, cache: Arc<TrustKeyCache>) -> Self {
        Self::builder(store, cache).build()
    }

    /// Returns a builder of an authenticator with other limits.
    pub fn builder(store: Arc<S>, cache: Arc<TrustKeyCache>) -> AuthenticatorBuilder<S> {
        AuthenticatorBuilder::new(store, cache)
    }

    pub(crate) fn of(builder: AuthenticatorBuilder<S>) -> Self {
        let AuthenticatorBuilder {
            store,
            cache,
            waiting_limit,
            reject_floor,
            deadline,
            held,
            key_prefix,
            key_hasher,
            find_by,
        } = builder;
        let counters = Arc::<Counters>::default();
        let reject_floor = RejectFloor::new(reject_floor);
        let scans = Arc::new(Scans::new(
            Arc::clone(&store),
            Arc::clone(&counters),
            waiting_limit,
            reject_floor,
            key_hasher.digests(),
        ));
        let finds = match find_by {
            FindBy::Scan => None,
            FindBy::Index => {
                let (store, counters) = (Arc::clone(&store), Arc::clone(&counters));
                Some(Arc::new(Finds::new(store, counters, waiting_limit)))
            }
        };
        Self {
            store,
            cache,
            counters,
            scans,
            finds,
            reject_floor,
            deadline,
            held,
            key_prefix,
            key_hasher,
        }
    }

    /// Returns the trust whose key this is. `None` is a request without a key.
    ///
    /// Cancel safe: a dropped future has granted nothing, and has at most remembered what it
    /// verified.
    ///
    /// # Errors
    ///
    /// * [`AuthError::Missing`] for no key or an empty one.
    /// * [`AuthError::Invalid`] if no enabled trust has the key, or if the key is damaged.
    /// * [`AuthError::Unavailable`] if the store failed or timed out, or the
    ///   [`deadline`](AuthenticatorBuilder::deadline) passed.
    /// * [`AuthError::Overloaded`] if too many requests wait for a scan.
    ///
    /// No error is returned before the [`reject_floor`](AuthenticatorBuilder::reject_floor), if one
    /// is set.
    ///
    /// A miss outside of a Tokio runtime is [`AuthError::Unavailable`], because no task can scan.
    /// If a floor is set, any refusal there is `Unavailable` at once, because nothing can wait.
    ///
    /// # Panics
    ///
    /// If a floor or a deadline is set, and the Tokio runtime has no time enabled.
    pub async fn authenticate(&self, api_key: Option<&str>) -> Result<Trust, AuthError> {
        self.attempt(api_key).await.result
    }

    /// Does as [`authenticate`](Self::authenticate), and also returns how the answer was found, for
    /// metrics.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, MemoryStore, Route, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// # let authenticator = Authenticator::new(store, cache);
    /// let attempt = authenticator.attempt(Some("key")).await;
    /// assert!(attempt.result.is_err());
    /// assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 0));
    /// # }
    /// ```
    pub async fn attempt(&self, api_key: Option<&str>) -> Attempt {
        self.attempt_presented(Ok(api_key)).await
    }

    /// Does as [`attempt`](Self::attempt), for a key that may have been refused when it was read.
    pub(crate) async fn attempt_presented(
        &self,
        api_key: Result<Option<&str>, AuthError>,
    ) -> Attempt {
        let start = self.reject_floor.start();
        self.counters.record_request();
        let mut attempt = match api_key {
            Err(refused) => Attempt::unread(refused),
            Ok(None | Some("")) => Attempt::unread(AuthError::Missing),
            // The form is public, so this early refusal shows only what the caller has sent.
            Ok(Some(key)) if self.key_prefix.form_of(key) == KeyForm::Damaged => {
                Attempt::unread(AuthError::Invalid)
            }
            Ok(Some(key)) => self.check_in_time(&self.key_hasher.presented(key.as_bytes())).await,
        };
        if attempt.result.is_err()
            && let Err(nowhere) = RejectFloor::can_hold(start)
        {
            // This refusal is sent at once, so it must not reveal why the key was refused.
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
    /// A service checks with it, before the first unknown key arrives, whether its database returns
    /// all rows in time. It grants and remembers nothing. Neither the deadline nor the reject floor
    /// applies.
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
    /// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let authenticator = Authenticator::new(store, cache);
    /// assert_eq!(authenticator.scan().await.unwrap(), 0);
    /// # }
    /// ```
    pub async fn scan(&self) -> Result<usize, AuthError> {
        // The digest of no key. The id of a row that has it anyway is not used.
        let no_key = KeyHash::of([]);
        Ok(self.scans.find(&[no_key]).await?.rows)
    }

    /// Returns the counters of this authenticator and its clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Checks the key, until the deadline if there is one.
    async fn check_in_time(&self, hashes: &PresentedHashes<'_>) -> Attempt {
        // Outlives the check, so that an attempt that is cut off still has its route.
        let mut progress = Progress { route: Route::Hit, rows_swept: 0, key_id: None };
        let result = match self.deadline {
            Some(after) if Handle::try_current().is_ok() => {
                match tokio::time::timeout(after, self.check(hashes, &mut progress)).await {
                    Ok(result) => result,
                    Err(_) => Err(AuthError::Unavailable(StoreError::Timeout { after })),
                }
            }
            _ => self.check(hashes, &mut progress).await,
        };
        let Progress { route, rows_swept, key_id } = progress;
        Attempt { result, route, rows_swept, key_id }
    }

    async fn check(
        &self,
        hashes: &PresentedHashes<'_>,
        progress: &mut Progress,
    ) -> Result<Trust, AuthError> {
        if let Some(held) = &self.held
            && let Some(result) = self.check_held(held, hashes, progress).await
        {
            return result;
        }
        let mut is_stale = false;
        for hash in hashes.iter() {
            let Some(id) = self.cache.lookup(&hash) else { continue };
            match self.live_row(id, &hash).await {
                Ok(Some((trust, used))) => {
                    self.counters.record_hit();
                    progress.key_id = used.id;
                    return Ok(trust);
                }
                Ok(None) | Err(StoreError::BadRow { .. }) => is_stale = true,
                Err(error) => return Err(AuthError::Unavailable(error)),
            }
        }
        progress.route = match &self.finds {
            _ if is_stale => Route::StaleHit,
            None => Route::Scan,
            Some(_) => Route::Find,
        };
        if is_stale {
            self.counters.record_stale_hit();
        }
        let hashes: Vec<KeyHash> = hashes.iter().collect();
        self.search(&hashes, progress).await
    }

    /// Finds the answer among the held rows. Returns `None` if the lease is not in force, or if the
    /// look failed.
    async fn check_held(
        &self,
        held: &HeldTrusts,
        hashes: &PresentedHashes<'_>,
        progress: &mut Progress,
    ) -> Option<Result<Trust, AuthError>> {
        {
            // One table for the row and for the deadline, and the clock last (R4).
            let table = held.table();
            let table = table.as_ref()?;
            // Not by way of the cache, which forgets keys: an outage refuses no held one.
            let row = hashes.iter().find_map(|hash| {
                let row = table.rows.held(&hash)?;
                Some((row, held_key(row, &hash)?))
            });
            if !table.is_valid() {
                return None;
            }
            if let Some((row, used)) = row {
                self.counters.record_held();
                progress.route = Route::Held;
                progress.key_id = used.id;
                return Some(Ok(Trust::clone(row)));
            }
        }
        progress.route = Route::Look;
        let hashes: Vec<KeyHash> = hashes.iter().collect();
        // Older than the look that the remembered id depends on, as in `search`.
        let leases = hashes.iter().map(|hash| self.cache.lease(hash)).collect();
        let found = match held.look(&hashes).await {
            Ok(found) => found,
            Err(NoLook::Failed) => return None,
            Err(NoLook::Overloaded) => return Some(Err(AuthError::Overloaded)),
        };
        self.counters.record_look();
        progress.rows_swept += found.rows;
        // The look began after the request, so its rows are live ones (R5).
        let row = found.row.and_then(|(at, row)| {
            let used = held_key(&row, &hashes[at])?;
            Some((at, row, used))
        });
        Some(row.map_or(Err(AuthError::Invalid), |(at, row, used)| {
            remember(leases, at, row.id, used);
            progress.key_id = used.id;
            Ok(Trust::clone(&row))
        }))
    }

    /// Finds the answer by a scan of all candidates, or by an index.
    async fn search(
        &self,
        hashes: &[KeyHash],
        progress: &mut Progress,
    ) -> Result<Trust, AuthError> {
        let mut found_before = None;
        for _ in 0..2 {
            // Taken before the join, and so before the first read that the remembered value depends
            // on. A revocation that those reads may miss supersedes the lease.
            let leases = hashes.iter().map(|hash| self.cache.lease(hash)).collect();
            let found = match &self.finds {
                None => self.scans.find(hashes).await?,
                Some(finds) => finds.find(hashes).await?,
            };
            progress.rows_swept += found.rows;
            let (at, id) = found.row.ok_or(AuthError::Invalid)?;
            // The answer is a hint, as the cache's: the row may have changed since the candidates
            // were read.
            match self.live_row(id, &hashes[at]).await {
                Ok(Some((trust, used))) => {
                    // If an invalidation has superseded the lease, the next request scans again.
                    // This request has its live row.
                    remember(leases, at, id, used);
                    progress.key_id = used.id;
                    return Ok(trust);
                }
                // As a rule the key was revoked since. But another row may have the key: one more
                // scan keeps a key that is valid throughout from being refused as invalid.
                Ok(None) if found_before != Some((at, id)) => found_before = Some((at, id)),
                // The digest is in a row that cannot be read otherwise. The store has logged it.
                Ok(None) => return Err(AuthError::Invalid),
                // Another try does not repair this row. The store has logged it.
                Err(StoreError::BadRow { .. }) => return Err(AuthError::Invalid),
                Err(error) => return Err(AuthError::Unavailable(error)),
            }
        }
        Err(AuthError::Unavailable(StoreError::Unsettled))
    }

    /// Returns the row with this id as it is now, if it accepts the key, and which of its keys that
    /// is. Every grant needs it.
    async fn live_row(
        &self,
        id: Uuid,
        hash: &KeyHash,
    ) -> Result<Option<(Trust, KeyUsed)>, StoreError> {
        let Some(trust) = self.store.fetch_for(id, hash).await? else { return Ok(None) };
        let used = trust.key_used(hash);
        Ok(used.map(|used| (trust, used)))
    }
}

impl<S> Clone for Authenticator<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            cache: Arc::clone(&self.cache),
            counters: Arc::clone(&self.counters),
            scans: Arc::clone(&self.scans),
            finds: self.finds.clone(),
            reject_floor: self.reject_floor,
            deadline: self.deadline,
            held: self.held.clone(),
            key_prefix: self.key_prefix.clone(),
            key_hasher: self.key_hasher.clone(),
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

/// Remembers the row under the lease of the digest at this place.
fn remember(leases: Vec<Lease<'_, Uuid>>, at: usize, id: Uuid, used: KeyUsed) {
    if let Some(lease) = leases.into_iter().nth(at) {
        lease.remember_for(id, used.remaining());
    }
}

/// The progress of a request: its attempt without the answer.
struct Progress {
    route: Route,
    rows_swept: usize,
    key_id: Option<Uuid>,
}

/// Returns which key of a held row the digest is of, if the row accepts it. The row may have been
/// read a while ago, so the key's end is compared with this process's clock.
fn held_key(row: &Trust, hash: &KeyHash) -> Option<KeyUsed> {
    row.key_used(hash).filter(KeyUsed::lasts)
}
