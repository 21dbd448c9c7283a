//! [`TrustRegistry`]: makes every change of the trusts, and then invalidates the cache.
//!
//! It never invalidates before the commit. After a possible commit it never returns, fails or is
//! cancelled without invalidating.

use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::{KeyHash, TrustKeyCache};
use uuid::Uuid;

use crate::api_key::ApiKey;
use crate::error::{RegistryError, StoreError};
use crate::key_flaw::KeyFlaw;
use crate::key_hasher::KeyHasher;
use crate::key_prefix::KeyPrefix;
use crate::new_key::{KeyTerms, NewKey, Rotation};
use crate::new_trust::NewTrust;
use crate::read_lease::Waiting;
use crate::revocation::{Revocation, Step};
use crate::store::{Candidates, Change, Listing, TrustLedger};
use crate::trust::Trust;
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

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
    pub(crate) ledger: Arc<L>,
    cache: Arc<TrustKeyCache>,
    key_prefix: KeyPrefix,
    key_hasher: KeyHasher,
}

impl<L> Clone for TrustRegistry<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            cache: Arc::clone(&self.cache),
            key_prefix: self.key_prefix.clone(),
            key_hasher: self.key_hasher.clone(),
        }
    }
}

impl<L> TrustRegistry<L> {
    /// Returns a registry over this store, which invalidates this cache. It must be the cache of
    /// the [`Authenticator`](crate::Authenticator); [`TrustAuth`](crate::TrustAuth) ensures that.
    #[must_use]
    pub fn new(ledger: Arc<L>, cache: Arc<TrustKeyCache>) -> Self {
        let (key_prefix, key_hasher) = (KeyPrefix::default(), KeyHasher::default());
        Self { ledger, cache, key_prefix, key_hasher }
    }

    /// Sets the prefix of new keys. Default: `tak_`. Choose that of the
    /// [`Authenticator`](crate::AuthenticatorBuilder::key_prefix);
    /// [`TrustAuthBuilder`](crate::TrustAuthBuilder::key_prefix) sets both.
    #[must_use]
    pub fn with_key_prefix(self, prefix: KeyPrefix) -> Self {
        Self { key_prefix: prefix, ..self }
    }

    /// Sets how new and imported keys are turned into digests. Default: SHA-256. Choose that of the
    /// [`Authenticator`](crate::AuthenticatorBuilder::key_hasher);
    /// [`TrustAuthBuilder`](crate::TrustAuthBuilder::key_hasher) sets both.
    #[must_use]
    pub fn with_key_hasher(self, hasher: KeyHasher) -> Self {
        Self { key_hasher: hasher, ..self }
    }
}

impl<L: TrustLedger> TrustRegistry<L> {
    /// Makes a trust, and returns it with its key. Only this call returns the key: the store keeps
    /// its digest.
    ///
    /// The key is in the trust's own row. So [`keys`](Self::keys) does not list it, its last four
    /// characters are not stored, and [`revoke_key`](Self::revoke_key) cannot name it. A label or
    /// an end gives a key a row of its own: [`register_with`](Self::register_with).
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if the name is taken, and [`RegistryError::Random`] if no key
    /// could be made. Nothing was written then. Any other error leaves open whether the trust
    /// was made.
    pub async fn register(&self, new: NewTrust) -> Result<(Trust, ApiKey), RegistryError> {
        self.register_with(new, &KeyTerms::new()).await
    }

    /// Does as [`register`](Self::register), with a key that may have a label and an end. With one
    /// of them, the key is in a row of its own, which [`keys`](Self::keys) lists. Without both, it
    /// is in the trust's own row.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] if the store has no place for the terms, and otherwise as
    /// [`register`](Self::register).
    pub async fn register_with(
        &self,
        new: NewTrust,
        terms: &KeyTerms,
    ) -> Result<(Trust, ApiKey), RegistryError> {
        let (key, row) = self.generate(terms)?;
        let hash = row.hash;
        let write = Box::pin(self.ledger.insert_with_key(new, row));
        let trust = self.commit(write, |_| vec![hash]).await?;
        Ok((trust, key))
    }

    /// Makes a key, and what a ledger stores of it.
    fn generate(&self, terms: &KeyTerms) -> Result<(ApiKey, NewKey), RegistryError> {
        let key = ApiKey::generate_with(&self.key_prefix)?;
        let row = NewKey::generated(&key, self.key_hasher.hash(key.expose()), terms);
        Ok((key, row))
    }

    /// Makes a trust with a key that exists, such as one that another program has made.
    ///
    /// Where a [`KeyHasher`] accepts keys of a former pepper, their digests are compared first. Of
    /// two imports of one key at the same time, one by the former pepper, both may succeed.
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
        let key = self.existing(api_key, &KeyTerms::new()).await?;
        self.import(new, key).await
    }

    /// Makes a trust with the key that has this digest, and that exists already. The digest shows
    /// nothing about the key: [`import_key`](Self::import_key) checks the key itself.
    ///
    /// The digest is stored as it is. With a [`KeyHasher`] that has a pepper it must be the key's
    /// HMAC-SHA-256 with that pepper, or no request with the key is granted.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTaken`] if another trust has the digest, and [`StoreError::NameTaken`] if
    /// the name is taken. Nothing was written then. Any other error leaves open whether the trust
    /// was made.
    pub async fn import_hash(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, RegistryError> {
        self.import(new, NewKey::new(hash)).await
    }

    /// Makes a trust with a key that exists, and that may have a label and an end.
    /// [`existing`](Self::existing) checks a key's text.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] if the store has no place for the terms, and otherwise as
    /// [`import_hash`](Self::import_hash).
    pub async fn import(&self, new: NewTrust, key: NewKey) -> Result<Trust, RegistryError> {
        let hash = key.hash;
        let write = Box::pin(self.ledger.insert_with_key(new, key.imported()));
        Ok(self.commit(write, |_| vec![hash]).await?)
    }

    /// Returns what a ledger stores of a key that exists, for [`import`](Self::import) and
    /// [`import_one_more`](Self::import_one_more).
    ///
    /// Where a [`KeyHasher`] accepts keys of a former pepper, this compares their digests.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Key`] if no request with the key would be granted, such as a damaged key.
    /// [`StoreError::KeyTaken`] if a trust has the key by a former pepper.
    pub async fn existing(&self, api_key: &str, terms: &KeyTerms) -> Result<NewKey, RegistryError> {
        KeyFlaw::check(api_key, &self.key_prefix)?;
        let mut key = NewKey::of_text(api_key, self.key_hasher.hash(api_key), terms);
        key.former_hashes = self.key_hasher.former_hashes(api_key.as_bytes()).collect();
        if !key.former_hashes.is_empty() {
            // A store of one's own may compare the present digest alone.
            let rows = Candidates::of(&self.ledger.list().await?);
            key.former_hashes.iter().try_for_each(|hash| rows.check_absent(hash))?;
        }
        Ok(key)
    }

    /// Gives the trust one more key, and returns the key's row with the key. Each of the trust's
    /// keys is accepted. The row is one of its own, also without a label and an end:
    /// [`keys`](Self::keys) lists it.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust, [`StoreError::OneKey`] if the store
    /// keeps one key a trust, and [`RegistryError::Random`] if no key could be made. Nothing was
    /// written then. Any other error leaves open whether the trust has the key.
    pub async fn add_key(
        &self,
        which: &TrustRef,
        terms: &KeyTerms,
    ) -> Result<(TrustKey, ApiKey), RegistryError> {
        let (key, row) = self.generate(terms)?;
        Ok((self.add(which, row).await?, key))
    }

    /// Gives the trust one more key, which exists already. [`existing`](Self::existing) checks a
    /// key's text.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTaken`] if a trust has the digest, and otherwise as
    /// [`add_key`](Self::add_key).
    pub async fn import_one_more(
        &self,
        which: &TrustRef,
        key: NewKey,
    ) -> Result<TrustKey, RegistryError> {
        self.add(which, key.imported()).await
    }

    async fn add(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, RegistryError> {
        let write = Box::pin(self.ledger.add_key(which, key));
        Ok(self.commit(write, |row| vec![row.hash]).await?)
    }

    /// Returns all keys of the trust that are in rows of their own, also those that are revoked or
    /// at their end, in the order of their creation.
    ///
    /// The key that [`register`](Self::register) or [`rotate`](Self::rotate) made without a label
    /// and an end is in the trust's own row, and is not listed: [`Trust::api_key_hash`] shows
    /// whether there is one. An overlap moves it to a row of its own, whose last four characters
    /// are not known.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_auth::{KeyTerms, MemoryStore, NewTrust, TrustAuth, Waiting};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// # let registry = auth.registry();
    /// let (trust, _) = registry.register(NewTrust::new("St. Mary")?).await?;
    /// assert!(trust.api_key_hash.is_some());
    /// assert!(registry.keys(&trust.id.into()).await?.is_empty());
    ///
    /// let terms = KeyTerms::new().with_label("first");
    /// let (other, _) = registry.register_with(NewTrust::new("St. John")?, &terms).await?;
    /// assert!(other.api_key_hash.is_none());
    /// assert_eq!(registry.keys(&other.id.into()).await?.len(), 1);
    /// # let (trust, day) = (trust.id.into(), Some(Duration::from_secs(86_400)));
    /// # let (rotation, _) = registry.begin_rotate_with(&trust, &KeyTerms::new(), day).await?;
    /// # rotation.settle(Waiting::default()).await?;
    /// # let [old] = &registry.keys(&trust).await?[..] else { panic!("the old key alone") };
    /// # assert_eq!(old.last_four, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust, [`StoreError::OneKey`] if the store
    /// keeps one key a trust, or any other error of the store.
    pub async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, RegistryError> {
        Ok(self.ledger.keys(which).await?)
    }

    /// Revokes one key that is in a row of its own, and returns its trust when no process grants
    /// the key. The other keys of the trust stay. A key that was revoked before stays as it is. The
    /// key of the trust's own row has no id: [`rotate`](Self::rotate) revokes it, with all others.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchKey`] if there is no such key. Any other error leaves open whether the
    /// key is revoked.
    pub async fn revoke_key(&self, key: Uuid) -> Result<Trust, RegistryError> {
        Ok(self.begin_revoke_key(key).await?.settle(Waiting::default()).await?.0)
    }

    /// Commits what [`revoke_key`](Self::revoke_key) does, and returns before the wait.
    ///
    /// # Errors
    ///
    /// As [`revoke_key`](Self::revoke_key), except that [`Revocation`] has
    /// [`StoreError::NoSuchKey`].
    pub async fn begin_revoke_key(&self, key: Uuid) -> Result<Revocation<'_, L>, RegistryError> {
        // The trust is known once the key is found.
        Ok(self.begin(Step::RevokeKey(key), &key.into()).await?)
    }

    /// Gives the trust a new key, and revokes all its other keys. A disabled trust stays disabled.
    /// Returns when no process grants another key. The new key is in the trust's own row, as that
    /// of [`register`](Self::register).
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
        self.begin_rotate_with(which, &KeyTerms::new(), None).await
    }

    /// Does as [`begin_rotate`](Self::begin_rotate), with a new key that may have a label and an
    /// end. With an overlap, the trust's other keys are accepted for so long, counted from the
    /// commit by the store's clock; a key with an earlier end keeps it. When
    /// [`Revocation::settle`] returns, every process knows the new ends.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] if the store has no place for terms or an overlap, and otherwise as
    /// [`begin_rotate`](Self::begin_rotate).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use trust_auth::{KeyTerms, MemoryStore, NewTrust, TrustAuth, Waiting};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// let registry = auth.registry();
    /// let (trust, old) = registry.register(NewTrust::new("St. Mary")?).await?;
    ///
    /// let day = Some(Duration::from_secs(86_400));
    /// let (rotation, new) =
    ///     registry.begin_rotate_with(&trust.id.into(), &KeyTerms::new(), day).await?;
    /// let (trust, _) = rotation.settle(Waiting::default()).await?;
    /// assert!(trust.keys[0].expires_at.is_some());
    /// for key in [old, new] {
    ///     assert!(auth.authenticate(Some(key.expose())).await.is_ok());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn begin_rotate_with(
        &self,
        which: &TrustRef,
        terms: &KeyTerms,
        overlap: Option<Duration>,
    ) -> Result<(Revocation<'_, L>, ApiKey), RegistryError> {
        let (key, row) = self.generate(terms)?;
        let overlap = overlap.filter(|overlap| !overlap.is_zero());
        let rotation = Rotation { overlap, ..Rotation::new(row) };
        let revocation = self.begin(Step::Rotate(rotation), which).await?;
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

    /// Replaces the [attributes](Trust::attributes) of the trust, or removes them. Returns when no
    /// process shows the former ones: a scope that was taken away is gone everywhere.
    ///
    /// If a failover loses the change meanwhile, it is made again, also over another change of the
    /// attributes since. [`begin_set_attributes`](Self::begin_set_attributes) separates the commit
    /// from the wait.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust. [`StoreError::Other`] if the store
    /// cannot change attributes. Any other error leaves open which attributes the trust has.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use trust_auth::{MemoryStore, NewTrust, TrustAuth};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// let both = json!({ "scopes": ["read", "write"] });
    /// let new = NewTrust::new("St. Mary")?.with_attributes(both);
    /// let (trust, key) = auth.registry().register(new).await?;
    ///
    /// let fewer = json!({ "scopes": ["read"] });
    /// auth.registry().set_attributes(&trust.id.into(), Some(fewer.clone())).await?;
    /// assert_eq!(auth.authenticate(Some(key.expose())).await?.attributes, Some(fewer));
    /// # Ok(()) }
    /// ```
    pub async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Trust, RegistryError> {
        let change = self.begin_set_attributes(which, attributes).await?;
        Ok(change.settle(Waiting::default()).await?.0)
    }

    /// Commits what [`set_attributes`](Self::set_attributes) does, and returns before the wait.
    ///
    /// # Errors
    ///
    /// As [`set_attributes`](Self::set_attributes), except that [`Revocation`] has
    /// [`StoreError::NoSuchTrust`].
    pub async fn begin_set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Revocation<'_, L>, RegistryError> {
        Ok(self.begin(Step::SetAttributes(attributes), which).await?)
    }

    /// Enables the trust: the key that it had is accepted again. An enabled trust stays as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such trust. Any other error leaves open whether
    /// the trust is enabled.
    pub async fn enable(&self, which: &TrustRef) -> Result<Trust, RegistryError> {
        let write = Box::pin(self.ledger.set_enabled(which, true));
        Ok(self.commit(write, concerned).await?.trust)
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

    /// Runs a write, and invalidates the keys that it concerns: after the commit, and before the
    /// caller learns of the commit. The futures of stores are large: callers box them.
    pub(crate) async fn commit<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
        concerned: impl FnOnce(&T) -> Vec<KeyHash>,
    ) -> Result<T, StoreError> {
        let undecided = Undecided { cache: &self.cache };
        let outcome = write.await;
        match &outcome {
            Ok(written) => {
                for hash in &concerned(written) {
                    self.cache.invalidate_key(hash);
                }
                undecided.settle();
            }
            // The store wrote nothing.
            Err(
                StoreError::NameTaken { .. }
                | StoreError::KeyTaken { .. }
                | StoreError::NoSuchTrust { .. }
                | StoreError::NoSuchKey { .. }
                | StoreError::OneKey
                | StoreError::Superseded
                | StoreError::RotationLost,
            ) => undecided.settle(),
            Err(_) => drop(undecided),
        }
        outcome
    }
}

/// Returns the keys that a change has concerned.
pub(crate) fn concerned(change: &Change) -> Vec<KeyHash> {
    change.former.clone()
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
