//! [`TrustRegistry`]: makes every change of the trusts, and then invalidates the cache.
//!
//! It never invalidates before the commit. After a possible commit it never returns, fails or is
//! cancelled without invalidating.

use std::sync::Arc;
use std::time::{Duration, Instant};

use trust_key_cache::{KeyHash, TrustKeyCache};

use crate::api_key::ApiKey;
use crate::error::{RegistryError, StoreError};
use crate::key_flaw::KeyFlaw;
use crate::key_prefix::KeyPrefix;
use crate::new_trust::NewTrust;
use crate::read_lease::{Settled, Waiting};
use crate::store::{Change, Listing, TrustLedger};
use crate::trust::Trust;
use crate::trust_ref::TrustRef;
use crate::watcher::Backoff;

/// How long a database may be away during a repetition. No lease is longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// So many failures in a row that do not look as if they pass end a repetition.
const LASTING: usize = 3;

/// Registers, imports, rotates, disables, enables and deletes trusts, and invalidates the cache
/// accordingly. A clone shares store and cache.
///
/// Each change is committed, and **then** exactly the keys that it concerns are invalidated. Every
/// other trust stays on the hot path. Once a method has returned, no key that it revoked is granted
/// again (G1, G2, G9).
///
/// # When the outcome is unknown
///
/// If the store fails or times out, or the returned future is dropped half-way, the change may have
/// been committed or not. The whole cache is invalidated then, which is always safe and costs each
/// trust one scan. If the store commits even later, the check of the live row refuses what was
/// revoked. [`list`](Self::list) shows whether the change was made, and [`rotate`](Self::rotate)
/// replaces a key that was lost.
///
/// # Other processes
///
/// A process with a read lease grants without a read. While leases are in use, `rotate`, `disable`
/// and `delete` return when no such process grants the key (G11). [`Revocation`] separates the
/// commit from the wait.
///
/// A [`Watcher`](crate::Watcher) in another process updates the cache there, a moment after the
/// commit. With or without one, the check of the live row refuses a revoked key there at once.
/// Without one, the entry costs a read until it expires.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{AuthError, Authenticator, MemoryStore, NewTrust, TrustKeyCache, TrustRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
/// let authenticator = Authenticator::new(store, cache);
///
/// let (trust, key) = registry.register(NewTrust::new("St. Mary")?).await?;
/// assert!(authenticator.authenticate(Some(key.expose())).await.is_ok());
///
/// registry.disable(&trust.id.into()).await?;
/// let refused = authenticator.authenticate(Some(key.expose())).await;
/// assert!(matches!(refused, Err(AuthError::Invalid)));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TrustRegistry<L> {
    ledger: Arc<L>,
    cache: Arc<TrustKeyCache>,
    key_prefix: KeyPrefix,
}

impl<L> Clone for TrustRegistry<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            cache: Arc::clone(&self.cache),
            key_prefix: self.key_prefix.clone(),
        }
    }
}

impl<L> TrustRegistry<L> {
    /// Returns a registry over this store, which invalidates this cache. It must be the cache of
    /// the [`Authenticator`](crate::Authenticator); [`TrustAuth`](crate::TrustAuth) ensures that.
    #[must_use]
    pub fn new(ledger: Arc<L>, cache: Arc<TrustKeyCache>) -> Self {
        Self { ledger, cache, key_prefix: KeyPrefix::default() }
    }

    /// Sets the prefix of new keys. Default: `tak_`. Choose that of the
    /// [`Authenticator`](crate::AuthenticatorBuilder::key_prefix);
    /// [`TrustAuthBuilder`](crate::TrustAuthBuilder::key_prefix) sets both.
    #[must_use]
    pub fn with_key_prefix(self, prefix: KeyPrefix) -> Self {
        Self { key_prefix: prefix, ..self }
    }
}

impl<L: TrustLedger> TrustRegistry<L> {
    /// Makes a trust, and returns it with its key. Only this call returns the key: the store keeps
    /// its digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if the name is taken, and [`RegistryError::Random`] if no key
    /// could be made. Nothing was written then. Any other error leaves open whether the trust
    /// was made.
    pub async fn register(&self, new: NewTrust) -> Result<(Trust, ApiKey), RegistryError> {
        let key = ApiKey::generate_with(&self.key_prefix)?;
        let hash = key.hash();
        let trust = self.commit(self.ledger.insert(new, hash), |_| [None, Some(hash)]).await?;
        Ok((trust, key))
    }

    /// Makes a trust with a key that exists, such as one that another program has made.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Key`] if no request with the key would be granted, such as a damaged key.
    /// Nothing was written then. Otherwise as [`import_hash`](Self::import_hash).
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_auth::{MemoryStore, NewTrust, TrustAuth};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// let key = "zJ2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4";
    /// let trust = auth.registry().import_key(NewTrust::new("St. Mary")?, key).await?;
    /// assert_eq!(auth.authenticate(Some(key)).await?.id, trust.id);
    ///
    /// let again = auth.registry().import_key(NewTrust::new("St. John")?, key).await;
    /// assert_eq!(again.unwrap_err().kind(), "key_taken");
    /// # Ok(()) }
    /// ```
    pub async fn import_key(&self, new: NewTrust, api_key: &str) -> Result<Trust, RegistryError> {
        KeyFlaw::check(api_key, &self.key_prefix)?;
        self.import_hash(new, KeyHash::of(api_key)).await
    }

    /// Makes a trust with the key that has this digest, and that exists already. The digest shows
    /// nothing about the key: [`import_key`](Self::import_key) checks the key itself.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTaken`] if another trust has the digest, and [`StoreError::NameTaken`] if
    /// the name is taken. Nothing was written then. Any other error leaves open whether the trust
    /// was made.
    pub async fn import_hash(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, RegistryError> {
        Ok(self.commit(self.ledger.import(new, hash), |_| [None, Some(hash)]).await?)
    }

    /// Gives the trust a new key, and revokes the old one. A disabled trust stays disabled. Returns
    /// when no process grants the old key.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust, and [`RegistryError::Random`] if no
    /// key could be made. Nothing was written then. Any other error leaves open which of the keys
    /// is valid; rotate again.
    pub async fn rotate(&self, which: &TrustRef) -> Result<(Trust, ApiKey), RegistryError> {
        let (revocation, key) = self.begin_rotate(which).await?;
        let (trust, _) = revocation.settle(Waiting::default()).await?;
        Ok((trust, key))
    }

    /// Disables the trust: its key is refused until the trust is enabled again. A disabled trust
    /// stays as it is. Returns when no process grants the key, also if the trust was disabled
    /// before: the process that did it may not have waited.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust. Any other error leaves open whether
    /// the trust is disabled.
    pub async fn disable(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.begin_disable(which).await?.settle(Waiting::default()).await?.0)
    }

    /// Commits what [`rotate`](Self::rotate) does, and returns before the wait.
    ///
    /// # Errors
    ///
    /// As [`rotate`](Self::rotate), except that [`Revocation`] has [`StoreError::NoSuchTrust`].
    pub async fn begin_rotate(
        &self,
        which: &TrustRef,
    ) -> Result<(Revocation<'_, L>, ApiKey), RegistryError> {
        let key = ApiKey::generate_with(&self.key_prefix)?;
        let revocation = self.begin(Step::Rotate(key.hash()), which).await?;
        Ok((revocation, key))
    }

    /// Commits what [`disable`](Self::disable) does, and returns before the wait.
    ///
    /// # Errors
    ///
    /// As [`disable`](Self::disable), except that [`Revocation`] has [`StoreError::NoSuchTrust`].
    pub async fn begin_disable(
        &self,
        which: &TrustRef,
    ) -> Result<Revocation<'_, L>, RegistryError> {
        Ok(self.begin(Step::Disable, which).await?)
    }

    /// Commits what [`delete`](Self::delete) does, and returns before the wait.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete), except that [`Revocation`] has [`StoreError::NoSuchTrust`].
    pub async fn begin_delete(&self, which: &TrustRef) -> Result<Revocation<'_, L>, RegistryError> {
        Ok(self.begin(Step::Delete, which).await?)
    }

    /// Enables the trust: the key that it had is accepted again. An enabled trust stays as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust. Any other error leaves open whether
    /// the trust is enabled.
    pub async fn enable(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.commit(self.ledger.set_enabled(which, true), concerned).await?.trust)
    }

    /// Deletes the trust, and returns it as it was, when no process grants its key. Its name is
    /// free then.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust. Any other error leaves open whether
    /// the trust was deleted.
    pub async fn delete(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.begin_delete(which).await?.settle(Waiting::default()).await?.0)
    }

    /// Returns every trust whose row can be read, enabled or not, by name.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the store.
    pub async fn list(&self) -> Result<Vec<Trust>, RegistryError> {
        Ok(self.ledger.list().await?)
    }

    /// Returns every trust as [`list`](Self::list), and the rows that cannot be read.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the store; none for a malformed row.
    pub async fn listing(&self) -> Result<Listing, RegistryError> {
        Ok(self.ledger.listing().await?)
    }

    async fn begin(&self, step: Step, which: &TrustRef) -> Result<Revocation<'_, L>, StoreError> {
        let Made { outcome, former, barriers } = self.make(step, which).await?;
        let which = outcome.as_ref().map_or_else(|_| which.clone(), |trust| trust.id.into());
        let registry = self;
        Ok(Revocation { registry, step, which, outcome, former, is_gone: false, barriers })
    }

    /// Makes the change, and returns its barriers.
    ///
    /// Without a trust, a revocation waits, too: an earlier deletion may not have waited. A barrier
    /// after the look shows what it has found, and one before it proves that the server has been
    /// the same since: a deletion that a failover loses is then found at the repetition (R16).
    async fn make(&self, step: Step, which: &TrustRef) -> Result<Made, StoreError> {
        match self.change(step, which).await {
            Err(error @ StoreError::NoSuchTrust { .. }) => {
                let Some(before) = self.ledger.barrier().await? else {
                    return Ok(Made { outcome: Err(error), former: None, barriers: Vec::new() });
                };
                match self.change(step, which).await {
                    Err(error @ StoreError::NoSuchTrust { .. }) => {
                        let after = self.ledger.barrier().await?;
                        let barriers = after.into_iter().chain([before]).collect();
                        Ok(Made { outcome: Err(error), former: None, barriers })
                    }
                    outcome => outcome.map(Made::from),
                }
            }
            outcome => outcome.map(Made::from),
        }
    }

    async fn change(&self, step: Step, which: &TrustRef) -> Result<Change, StoreError> {
        match step {
            Step::Rotate(hash) => {
                let rotated = |change: &Change| [change.former_hash, Some(hash)];
                self.commit(self.ledger.replace_hash(which, hash), rotated).await
            }
            Step::RotateAgain { hash, former } => {
                let rotated = |change: &Change| [change.former_hash, Some(hash)];
                let write = self.ledger.replace_former_hash(which, former, hash);
                self.commit(write, rotated).await
            }
            Step::Disable => self.commit(self.ledger.set_enabled(which, false), concerned).await,
            Step::Delete => self.commit(self.ledger.delete(which), concerned).await,
        }
    }

    /// Runs a write, and invalidates the keys that it concerns: after the commit, and before the
    /// caller learns of the commit.
    async fn commit<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
        concerned: impl FnOnce(&T) -> [Option<KeyHash>; 2],
    ) -> Result<T, StoreError> {
        let undecided = Undecided { cache: &self.cache };
        let outcome = write.await;
        match &outcome {
            Ok(written) => {
                for hash in concerned(written).iter().flatten() {
                    self.cache.invalidate_key(hash);
                }
                undecided.settle();
            }
            // The store wrote nothing.
            Err(
                StoreError::NameTaken { .. }
                | StoreError::KeyTaken { .. }
                | StoreError::NoSuchTrust { .. }
                | StoreError::Superseded,
            ) => undecided.settle(),
            Err(_) => drop(undecided),
        }
        outcome
    }
}

/// What a revocation does to its trust.
#[derive(Clone, Copy)]
enum Step {
    Rotate(KeyHash),
    /// Unless a later rotation came first.
    RotateAgain {
        hash: KeyHash,
        former: Option<KeyHash>,
    },
    Disable,
    Delete,
}

/// A change that was made, or that found no trust.
struct Made {
    outcome: Result<Trust, StoreError>,
    /// The digest that the row had before.
    former: Option<KeyHash>,
    /// At most two, the later one first. Empty if no process can hold a lease.
    barriers: Vec<String>,
}

impl From<Change> for Made {
    fn from(change: Change) -> Self {
        let Change { trust, former_hash, barrier } = change;
        let barriers = barrier.into_iter().collect();
        Self { outcome: Ok(trust), former: former_hash, barriers }
    }
}

/// What has become of a change whose server has restarted or failed over since.
enum Fate {
    Made,
    /// The trust is gone, so the key is revoked.
    Deleted,
    Lost,
    /// A later change of the same trust took its place.
    Replaced,
}

/// A revocation that is committed. Another process with a read lease may grant the key until
/// [`settle`](Self::settle) has returned.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{MemoryStore, NewTrust, Settled, TrustKeyCache, TrustRegistry, Waiting};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let registry = TrustRegistry::new(store, cache);
/// let (trust, _key) = registry.register(NewTrust::new("St. Mary")?).await?;
///
/// let revocation = registry.begin_disable(&trust.id.into()).await?;
/// let (disabled, settled) = revocation.settle(Waiting::default()).await?;
/// assert!(!disabled.is_enabled());
/// assert_eq!(settled, Settled::NOTHING_HELD);
/// # Ok(()) }
/// ```
#[must_use = "another process may grant the key until `settle` has returned"]
pub struct Revocation<'a, L> {
    registry: &'a TrustRegistry<L>,
    step: Step,
    /// By the id, once it is known: another trust may get the name.
    which: TrustRef,
    outcome: Result<Trust, StoreError>,
    former: Option<KeyHash>,
    /// Whether the last look has found no row.
    is_gone: bool,
    /// At most two, the later one first. Empty if no process can hold a lease.
    barriers: Vec<String>,
}

impl<L: TrustLedger> Revocation<'_, L> {
    /// Returns whether a process may hold a lease, so that [`settle`](Self::settle) has to wait.
    #[must_use]
    pub fn has_to_wait(&self) -> bool {
        !self.barriers.is_empty()
    }

    /// Returns the trust as the commit has left it, or `None` if there is no such trust.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.outcome.as_ref().ok()
    }

    /// Waits until no process grants the key, and returns the trust and how the wait ended. Call
    /// this at once: the wait counts from the call. If the database has restarted or failed over
    /// meanwhile, this looks whether the change is still there, and otherwise makes it again (R16).
    /// A trust that was enabled meanwhile is then disabled again. If there was no trust, this makes
    /// the revocation of one that is there by then.
    ///
    /// The wait occupies no connection and has no time limit. Dropped, it leaves the commit as it
    /// is; the revocation has then not returned.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] after the same wait, if there is no such trust.
    /// [`StoreError::Superseded`] if a later rotation took the place of this one before the
    /// database restarted: the new key of this one is dead. With any other error, the database did
    /// not answer for five minutes, or refuses: [`list`](TrustRegistry::list) shows then whether
    /// the change is there.
    pub async fn settle(mut self, waiting: Waiting) -> Result<(Trust, Settled), RegistryError> {
        let mut backoff = Backoff::new();
        loop {
            match self.settle_all(waiting).await? {
                Settled::Repeat => {
                    self.repeat_until_answered().await?;
                    tokio::time::sleep(backoff.pause_after(Duration::ZERO)).await;
                }
                settled => return Ok((self.ended()?, settled)),
            }
        }
    }

    /// Waits for both barriers at once: each shows whether the run has changed since its commit.
    /// Returns how both waits ended, or that the change has to be repeated.
    async fn settle_all(&self, waiting: Waiting) -> Result<Settled, StoreError> {
        let ledger = &self.registry.ledger;
        let settle = async |barrier: Option<&String>| match barrier {
            Some(barrier) => ledger.settle(barrier, waiting).await,
            None => Ok(Settled::NOTHING_HELD),
        };
        let (later, earlier) =
            tokio::try_join!(settle(self.barriers.first()), settle(self.barriers.get(1)))?;
        Ok(later.and(earlier))
    }

    /// Repeats the change. The database may still be starting, so a failure that may pass is no
    /// end: a new key would be lost with it. Each attempt looks first what the last one has done.
    async fn repeat_until_answered(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new();
        let mut lasting = 0;
        loop {
            let outcome = self.repeat().await;
            match &outcome {
                Ok(()) | Err(StoreError::Superseded) => return outcome,
                Err(error) if may_pass(error) => lasting = 0,
                Err(_) => lasting += 1,
            }
            if lasting == LASTING || begun.elapsed() > PATIENCE {
                return outcome;
            }
            tokio::time::sleep(backoff.pause_after(Duration::ZERO)).await;
        }
    }

    /// Makes the change again if it was lost, and has new barriers either way (R16).
    ///
    /// A change that is still there needs a barrier of its own after the look: what the look has
    /// found may be another process's change, which the barrier before it does not show. The
    /// barrier before the look proves that the server has been the same since.
    async fn repeat(&mut self) -> Result<(), StoreError> {
        let before = self.registry.ledger.barrier().await?;
        let fate = self.fate().await?;
        self.is_gone = matches!(fate, Fate::Deleted);
        match fate {
            Fate::Made | Fate::Deleted => {
                let after = self.registry.ledger.barrier().await?;
                self.barriers = after.into_iter().chain(before).collect();
                Ok(())
            }
            Fate::Lost => self.make_again().await,
            Fate::Replaced => Err(StoreError::Superseded),
        }
    }

    /// Looks what has become of the change. A rotation is never made over a later one: the later
    /// one may have revoked this one's key, and may have returned.
    async fn fate(&mut self) -> Result<Fate, StoreError> {
        let listing = self.registry.ledger.listing().await?;
        let trust = match &self.outcome {
            Ok(trust) => trust,
            // A failover may have lost the deletion that left no trust. What is replaced now is
            // noted first: a repetition of this step must not replace anything later.
            Err(_) => match self.which.find_in(&listing.trusts) {
                Some(found) => {
                    self.which = found.id.into();
                    self.former = found.api_key_hash;
                    self.outcome = Ok(found.clone());
                    return Ok(Fate::Lost);
                }
                None => return Ok(Fate::Deleted),
            },
        };
        let row = listing.trusts.iter().find(|row| row.id == trust.id);
        let is_malformed = || listing.malformed.iter().any(|row| row.id == Some(trust.id));
        Ok(match (self.step, row) {
            (_, None) if !is_malformed() => Fate::Deleted,
            (Step::Rotate(hash), Some(row)) if row.api_key_hash == Some(hash) => Fate::Made,
            (Step::Rotate(_), Some(row)) if row.api_key_hash == self.former => Fate::Lost,
            (Step::Rotate(_), _) => Fate::Replaced,
            (Step::Disable, Some(row)) if !row.is_enabled() => Fate::Made,
            (Step::Disable | Step::Delete | Step::RotateAgain { .. }, _) => Fate::Lost,
        })
    }

    async fn make_again(&mut self) -> Result<(), StoreError> {
        let step = match (self.step, &self.outcome) {
            (Step::Rotate(hash), Ok(_)) => Step::RotateAgain { hash, former: self.former },
            (step, _) => step,
        };
        let again = self.registry.make(step, &self.which).await?;
        self.barriers = again.barriers;
        self.is_gone = again.outcome.is_err();
        if let Ok(trust) = again.outcome {
            self.outcome = Ok(trust);
        }
        Ok(())
    }

    /// Returns the trust after the wait. Where another process has deleted it, the new key of a
    /// rotation is dead. To disable or to delete it had its effect.
    fn ended(self) -> Result<Trust, StoreError> {
        match (self.step, self.outcome) {
            (Step::Rotate(_), Ok(_)) if self.is_gone => {
                Err(StoreError::NoSuchTrust { which: self.which })
            }
            (_, outcome) => outcome,
        }
    }

    /// Returns the trust without a wait. Processes with a read lease grant the key for the length
    /// of a lease at most.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust.
    pub fn without_waiting(self) -> Result<Trust, RegistryError> {
        Ok(self.outcome?)
    }
}

/// Returns whether a repetition may succeed later.
fn may_pass(error: &StoreError) -> bool {
    // The next look shows the outcome.
    error.is_transient() || matches!(error, StoreError::OutcomeUnknown)
}

/// Returns the key of a trust that was enabled, disabled or deleted.
fn concerned(change: &Change) -> [Option<KeyHash>; 2] {
    [change.former_hash, None]
}

/// A write whose outcome is not known yet. Dropped in this state, by an error, a cancellation or a
/// panic, it invalidates every key.
struct Undecided<'a> {
    cache: &'a TrustKeyCache,
}

impl Undecided<'_> {
    fn settle(self) {
        std::mem::forget(self);
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        self.cache.invalidate();
    }
}
