//! [`TrustRegistry`]: every change of the trusts, each committed first and told to the cache second.
//!
//! It must never invalidate before the commit, and never return, fail or be cancelled after a
//! possible commit without invalidating.

use std::sync::Arc;

use trust_key_cache::{KeyHash, TrustKeyCache};

use crate::api_key::ApiKey;
use crate::error::{RegistryError, StoreError};
use crate::new_trust::NewTrust;
use crate::store::{Change, Listing, TrustLedger};
use crate::trust::Trust;
use crate::trust_ref::TrustRef;

/// Registers, rotates, disables, enables and deletes trusts, and keeps the cache honest about it. A
/// clone shares both.
///
/// Each change is committed, and **then** the keys that it concerns are invalidated, and no others:
/// every other trust stays on the hot path. Once a method has returned, no key that it revoked is
/// granted again (G1, G2, G9).
///
/// # When the outcome is unknown
///
/// If the store fails, times out, or the returned future is dropped half-way, the change may have
/// been committed or not. The whole cache is invalidated then, which is always safe and costs each
/// trust one sweep. Should the store commit later still, the check of the live row refuses what was
/// revoked all the same. [`list`](Self::list) shows what became of it; a key that was lost on the
/// way is replaced by [`rotate`](Self::rotate).
///
/// # Other processes
///
/// Another process's cache is told by a `Watcher` there, which `PostgresStore::watch` and
/// `SqliteStore::watch` start, a moment after the commit. With or without one, a revoked key is
/// refused there at once, by the check of the live row; without one, its entry costs a read until
/// it expires.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{AuthError, Authenticator, MemoryStore, NewTrust, TrustKeyCache, TrustRegistry};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
}

impl<L> Clone for TrustRegistry<L> {
    fn clone(&self) -> Self {
        Self { ledger: Arc::clone(&self.ledger), cache: Arc::clone(&self.cache) }
    }
}

impl<L> TrustRegistry<L> {
    /// Returns a registry over this store, which invalidates this cache. It must be the cache of
    /// the [`Authenticator`](crate::Authenticator); [`TrustAuth`](crate::TrustAuth) ensures that.
    #[must_use]
    pub fn new(ledger: Arc<L>, cache: Arc<TrustKeyCache>) -> Self {
        Self { ledger, cache }
    }
}

impl<L: TrustLedger> TrustRegistry<L> {
    /// Makes a trust, and its key. The key is to be had from here only: the store keeps its digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if the name is, [`RegistryError::Random`] if there was no key to
    /// be had; nothing was written. Any other error leaves open whether the trust was made.
    pub async fn register(&self, new: NewTrust) -> Result<(Trust, ApiKey), RegistryError> {
        let key = ApiKey::generate()?;
        let hash = key.hash();
        let trust = self.commit(self.ledger.insert(new, hash), |_| [None, Some(hash)]).await?;
        Ok((trust, key))
    }

    /// Gives the trust a new key, and revokes the old one. A disabled trust stays disabled.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is none, [`RegistryError::Random`] if there was no key
    /// to be had; nothing was written. Any other error leaves open which of the keys is in
    /// force; rotate again.
    pub async fn rotate(&self, which: &TrustRef) -> Result<(Trust, ApiKey), RegistryError> {
        let key = ApiKey::generate()?;
        let hash = key.hash();
        let rotated = |change: &Change| [change.former_hash, Some(hash)];
        let change = self.commit(self.ledger.replace_hash(which, hash), rotated).await?;
        Ok((change.trust, key))
    }

    /// Disables the trust: its key is refused until it is enabled again. Nothing happens to one
    /// that is disabled already.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is none. Any other error leaves open whether the trust
    /// is disabled.
    pub async fn disable(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.commit(self.ledger.set_enabled(which, false), concerned).await?.trust)
    }

    /// Enables the trust: the key that it had is accepted again. Nothing happens to one that is
    /// enabled already.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is none. Any other error leaves open whether the trust
    /// is enabled.
    pub async fn enable(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.commit(self.ledger.set_enabled(which, true), concerned).await?.trust)
    }

    /// Deletes the trust, and returns it as it was. Its name is free then.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is none. Any other error leaves open whether the trust
    /// was deleted.
    pub async fn delete(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        Ok(self.commit(self.ledger.delete(which), concerned).await?.trust)
    }

    /// Every trust whose row can be read, enabled or not, by name.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the store.
    pub async fn list(&self) -> Result<Vec<Trust>, RegistryError> {
        Ok(self.ledger.list().await?)
    }

    /// Every trust as [`list`](Self::list) returns them, and the rows that cannot be read.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the store; none for a malformed row.
    pub async fn listing(&self) -> Result<Listing, RegistryError> {
        Ok(self.ledger.listing().await?)
    }

    /// Runs a write, and invalidates the keys that it concerns: after the commit, before anybody
    /// hears of it.
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
            // The store looked, and wrote nothing.
            Err(StoreError::NameTaken { .. } | StoreError::NoSuchTrust { .. }) => {
                undecided.settle()
            }
            Err(_) => drop(undecided),
        }
        outcome
    }
}

/// The key of a trust that was enabled, disabled or deleted.
fn concerned(change: &Change) -> [Option<KeyHash>; 2] {
    [change.former_hash, None]
}

/// A write whose outcome is not known yet. Dropped like that, by an error, a cancellation or a
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
