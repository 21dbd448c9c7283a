//! The traits of a store of trusts: [`TrustStore`] reads, [`TrustLedger`] writes.
//!
//! Only [`TrustStore::find`] finds a row by its digest, and no authenticator calls it unless it is
//! built with [`FindBy::Index`](crate::FindBy::Index): the duration of such a lookup reveals the
//! length of a matching prefix.

use std::borrow::Borrow;
use std::future::Future;

use serde::Serialize;
use trust_key_cache::{KeyHash, sweep};
use uuid::Uuid;

use crate::error::StoreError;
use crate::new_key::{NewKey, Rotation};
use crate::new_trust::NewTrust;
use crate::read_lease::{Settled, Waiting};
use crate::trust::Trust;
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

/// The read side of a store: what an [`Authenticator`](crate::Authenticator) needs.
///
/// # What an implementation promises
///
/// * **Reads are live.** A read that begins after a write was committed sees it. A replica that
///   lags, or a transaction that stays open across reads, breaks this rule. Then a revoked key is
///   granted for the duration of the lag.
/// * **Time is bounded.** A `fetch` that hangs hangs its request. A `candidates` that hangs delays
///   **every** request that misses, because one scan runs at a time. The end of the request that
///   began the scan does not end the scan. Give both a time-out of their own, and return
///   [`StoreError::Timeout`].
/// * **Ended keys are left out.** A store with several keys a trust judges by its own clock which
///   of [`Trust::keys`] are active. A key that was revoked, or is at its end, is in neither answer.
/// * **Failures are errors.** `Ok(None)` means that there is no such row, never that it could not
///   be read. For a malformed row, return [`StoreError::BadRow`]: its key is refused as invalid,
///   and other keys are answered as before.
///
/// # Examples
///
/// ```
/// use trust_auth::{Candidates, KeyHash, StoreError, Trust, TrustStore};
/// use uuid::Uuid;
///
/// /// One trust that never changes.
/// struct Single(Trust);
///
/// impl TrustStore for Single {
///     async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
///         Ok((id == self.0.id).then(|| self.0.clone()))
///     }
///
///     async fn candidates(&self) -> Result<Candidates, StoreError> {
///         let mut candidates = Candidates::default();
///         if let (true, Some(hash)) = (self.0.is_enabled(), self.0.api_key_hash) {
///             candidates.push(self.0.id, hash);
///         }
///         Ok(candidates)
///     }
/// }
/// ```
///
/// The example [`users`] is a service with a table, a pool, time-outs, a form of keys and scopes of
/// its own. It mounts the layer in 60 lines. Two further files implement [`TrustLedger`] and
/// [`WatchStore`](crate::WatchStore) for its table. The example [`other-stack`] has other versions
/// of sqlx and axum.
///
/// # Ids of another type
///
/// The store maps the ids of its table to [`Uuid`]s, one to one. An integer becomes the same number
/// as a `Uuid`, so `fetch` gets the integer back and reads by the primary key. No hash, such as
/// UUIDv5, leads back to the id. A table with longer ids, such as texts, needs a further column
/// with a random `Uuid` and a unique index, by which `fetch` reads.
///
/// The authenticator is not generic over the id. The cache, the registry and the watcher share one
/// type, and logs name each trust by one kind of id. A parameter for the id would be part of every
/// public type.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use std::sync::Arc;
/// use trust_auth::{Authenticator, Candidates, KeyHash, StoreError, Trust, TrustStore};
/// use uuid::Uuid;
///
/// fn uuid_of(account: i64) -> Uuid {
///     Uuid::from_u128(account.cast_unsigned().into())
/// }
///
/// /// Returns `None` for a `Uuid` that no account can have.
/// fn account_of(id: Uuid) -> Option<i64> {
///     u64::try_from(id.as_u128()).ok().map(u64::cast_signed)
/// }
///
/// /// A table that never changes: name and digest of each account.
/// struct Accounts(BTreeMap<i64, (&'static str, KeyHash)>);
///
/// impl TrustStore for Accounts {
///     async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
///         let found = account_of(id).and_then(|account| self.0.get(&account));
///         Ok(found.map(|(name, hash)| {
///             let mut trust = Trust::new(id, *name);
///             trust.api_key_hash = Some(*hash);
///             trust
///         }))
///     }
///
///     async fn candidates(&self) -> Result<Candidates, StoreError> {
///         let mut candidates = Candidates::with_capacity(self.0.len());
///         for (account, (_, hash)) in &self.0 {
///             candidates.push(uuid_of(*account), *hash);
///         }
///         Ok(candidates)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let accounts = Accounts([(-7, ("St. Mary", KeyHash::of("key")))].into());
/// let authenticator = Authenticator::new(Arc::new(accounts), Arc::default());
/// let trust = authenticator.authenticate(Some("key")).await?;
/// assert_eq!(account_of(trust.id), Some(-7));
/// # Ok(()) }
/// ```
///
/// [`users`]: https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/users/src/app.rs
/// [`other-stack`]: https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/other-stack/src/store.rs
pub trait TrustStore: Send + Sync + 'static {
    /// Returns the row with this id, enabled or not, or `None` if there is none. This is the hot
    /// path: read by primary key.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The request is refused then.
    fn fetch(&self, id: Uuid) -> impl Future<Output = Result<Option<Trust>, StoreError>> + Send;

    /// Does as [`fetch`](Self::fetch) for the check of one digest. Of [`Trust::keys`], it may leave
    /// out all keys but an active one with this digest. Every grant that reads the store calls
    /// this, with a digest that a caller has presented: compare it in constant time.
    ///
    /// As provided, this is `fetch`. A store overrides it if the keys cost it a read of their own.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The request is refused then.
    fn fetch_for(
        &self,
        id: Uuid,
        hash: &KeyHash,
    ) -> impl Future<Output = Result<Option<Trust>, StoreError>> + Send {
        let _ = hash;
        self.fetch(id)
    }

    /// Returns id and digest of every enabled row that has a digest, in the order of the rows'
    /// creation. Then the same for every active key in a row of its own, with the id of its trust.
    ///
    /// The order matters only where two rows have the same digest: the later row counts.
    ///
    /// The method must end in bounded time, even if the database fails: no other scan begins
    /// before.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The requests of the scan are refused then.
    fn candidates(&self) -> impl Future<Output = Result<Candidates, StoreError>> + Send;

    /// Returns the id of the enabled row that has this digest, by an index; of several, that of the
    /// row that was made last. A hint, as the digests of [`candidates`](Self::candidates): the row
    /// is fetched and compared before a grant.
    ///
    /// Only an authenticator with [`FindBy::Index`](crate::FindBy::Index) calls this. Each such
    /// miss calls it, so many calls run at once. It must end in bounded time.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The request is refused then. As provided, this store cannot find by an
    /// index.
    fn find(
        &self,
        hash: &KeyHash,
    ) -> impl Future<Output = Result<Option<Uuid>, StoreError>> + Send {
        let _ = hash;
        async {
            Err(StoreError::Other("this store cannot find by an index; find by a scan".into()))
        }
    }
}

/// The write side of a store: what a [`TrustRegistry`](crate::TrustRegistry) needs.
///
/// Every method is one transaction. `Ok` means that it is committed.
/// [`StoreError::NameTaken`], [`StoreError::KeyTaken`] and [`StoreError::NoSuchTrust`] mean that
/// nothing is. Any other error leaves it open. Use these methods directly only where no cache has
/// to be invalidated.
pub trait TrustLedger: TrustStore {
    /// Makes an enabled row with this digest, a random id, and the present time as its creation.
    /// [`NewTrust::into_trust`] returns such a row.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if a row has the name, or any other [`StoreError`].
    fn insert(
        &self,
        new: NewTrust,
        hash: KeyHash,
    ) -> impl Future<Output = Result<Trust, StoreError>> + Send;

    /// Makes a row as [`insert`](Self::insert) does, for a key that exists already, unless another
    /// row has its digest, enabled or not. Compares it with all digests, in constant time.
    ///
    /// As provided, this reads the list before the insertion: of two imports of one digest at the
    /// same time, both may succeed. A store should do both in one step.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTaken`] if a row has the digest, and otherwise as [`insert`](Self::insert).
    fn import(
        &self,
        new: NewTrust,
        hash: KeyHash,
    ) -> impl Future<Output = Result<Trust, StoreError>> + Send {
        async move {
            Candidates::of(&self.list().await?).check_absent(&hash)?;
            self.insert(new, hash).await
        }
    }

    /// Gives the row another digest. A store with several keys a trust revokes all others.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn replace_hash(
        &self,
        which: &TrustRef,
        hash: KeyHash,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Gives the trust a new key in place of all others, which are revoked, or get an end. A new
    /// key that [fits the column](NewKey::fits_the_column) is stored there. A rotation whose commit
    /// a failover may have lost is repeated with [`Rotation::former`].
    ///
    /// As provided, this is for a store of one key a trust, whose rows no process holds under a
    /// read lease: it does as [`replace_hash`](Self::replace_hash). A store whose processes hold
    /// read leases must check [`Rotation::is_superseded`] in the same transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError::Superseded`] if the rotation is superseded, and nothing was written.
    /// [`StoreError::OneKey`] for a label, an end or an overlap, where the store has no place for
    /// them. [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn rotate(
        &self,
        which: &TrustRef,
        rotation: Rotation,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send {
        async move {
            if !rotation.key.fits_the_column() || !rotation.revokes_others() {
                return Err(StoreError::OneKey);
            }
            self.replace_hash(which, rotation.key.hash).await
        }
    }

    /// Makes an enabled row as [`insert`](Self::insert) does, or for an imported key as
    /// [`import`](Self::import) does, with a key that may have a label and an end.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] for a label or an end, where the store has no place for them, and
    /// otherwise as [`import`](Self::import).
    fn insert_with_key(
        &self,
        new: NewTrust,
        key: NewKey,
    ) -> impl Future<Output = Result<Trust, StoreError>> + Send {
        async move {
            match key {
                key if !key.fits_the_column() => Err(StoreError::OneKey),
                key if key.is_imported => self.import(new, key.hash).await,
                key => self.insert(new, key.hash).await,
            }
        }
    }

    /// Gives the trust one more key, in a row of its own.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] as provided. [`StoreError::KeyTaken`] if the key is imported and a
    /// row has its digest. [`StoreError::NoSuchTrust`] if there is no such trust, or any other
    /// [`StoreError`].
    fn add_key(
        &self,
        which: &TrustRef,
        key: NewKey,
    ) -> impl Future<Output = Result<TrustKey, StoreError>> + Send {
        let _ = (which, key);
        async { Err(StoreError::OneKey) }
    }

    /// Revokes one key that is in a row of its own, and all else of its trust that has its digest:
    /// the trust accepts the key no more. A key that is revoked stays as it is: its first time is
    /// kept. The change has the key's trust, and its digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] as provided. [`StoreError::NoSuchKey`] if there is no such row, or
    /// any other [`StoreError`].
    fn revoke_key(&self, key: Uuid) -> impl Future<Output = Result<Change, StoreError>> + Send {
        let _ = key;
        async { Err(StoreError::OneKey) }
    }

    /// Returns all keys of the trust that are in rows of their own, also those that are revoked or
    /// at their end, in the order of their creation.
    ///
    /// # Errors
    ///
    /// [`StoreError::OneKey`] as provided. [`StoreError::NoSuchTrust`] if there is no such trust,
    /// or any other [`StoreError`].
    fn keys(
        &self,
        which: &TrustRef,
    ) -> impl Future<Output = Result<Vec<TrustKey>, StoreError>> + Send {
        let _ = which;
        async { Err(StoreError::OneKey) }
    }

    /// Enables or disables the row. A row that is in this state stays as it is: a second disabling
    /// keeps the time of the first.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn set_enabled(
        &self,
        which: &TrustRef,
        enabled: bool,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Replaces the attributes of the row, or removes them. The change has the row as the store
    /// then reads it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Other`] as provided. [`StoreError::NoSuchTrust`] if there is no such row, or
    /// any other [`StoreError`].
    fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send {
        let _ = (which, attributes);
        async {
            let reason = "this store cannot change attributes: `TrustLedger::set_attributes` is \
                          not implemented for it";
            Err(StoreError::Other(reason.into()))
        }
    }

    /// Removes the row.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn delete(&self, which: &TrustRef) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Returns every row that can be read, enabled or not, in the order of the names' bytes.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn list(&self) -> impl Future<Output = Result<Vec<Trust>, StoreError>> + Send;

    /// Returns the rows of [`list`](Self::list), and the rows that cannot be read. A store without
    /// such rows need not implement it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. A malformed row is not an error.
    fn listing(&self) -> impl Future<Output = Result<Listing, StoreError>> + Send {
        async { Ok(Listing { trusts: self.list().await?, malformed: Vec::new() }) }
    }

    /// Writes a barrier in a transaction of its own, and returns its text, or `None` if no process
    /// can hold a lease on this store. For a change that found no trust: an earlier attempt may
    /// have been committed, and its process may have ended before it has waited.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn barrier(&self) -> impl Future<Output = Result<Option<String>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Waits until no process grants what the barrier's transaction has revoked. The commit has
    /// returned before the call. A store whose changes return no barrier need not implement it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The caller then makes the change again. The provided version returns
    /// [`StoreError::Other`]: the holders would not be waited for.
    fn settle(
        &self,
        barrier: &str,
        waiting: Waiting,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send {
        let _ = (barrier, waiting);
        async {
            let reason =
                "the ledger has returned a barrier and has no `settle`; forward that method";
            Err(StoreError::Other(reason.into()))
        }
    }

    /// Returns the names of the holders that have not acknowledged the barrier, for an operator who
    /// waits. A store without a list of holders need not implement it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn awaited(
        &self,
        barrier: &str,
    ) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send {
        let _ = barrier;
        async { Ok(Vec::new()) }
    }
}

/// All rows of a store, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The rows that can be read.
    pub trusts: Vec<Trust>,
    /// The rows that cannot be read. Serialised only if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<MalformedRow>,
}

/// A row with a malformed column, which another program has written.
///
/// Its trust is refused until the row is repaired. The trust can be disabled, rotated and deleted,
/// unless the malformed column is its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedRow {
    /// The row's id, if that can be read.
    pub id: Option<Uuid>,
    /// The row's name, if that can be read.
    pub name: Option<String>,
    /// The first column that is malformed.
    pub column: &'static str,
}

/// The candidates of a scan, as two packed columns, so that the sweep reads only digests.
///
/// ```
/// use trust_auth::{Candidates, KeyHash};
/// use uuid::Uuid;
///
/// let mut candidates = Candidates::with_capacity(1);
/// candidates.push(Uuid::from_u128(7), KeyHash::of("key"));
/// let found = trust_key_cache::sweep(&KeyHash::of("key"), candidates.hashes());
/// assert_eq!(found.and_then(|index| candidates.id(index)), Some(Uuid::from_u128(7)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    // Of one length: only `push` adds to them.
    ids: Vec<Uuid>,
    hashes: Vec<KeyHash>,
}

impl Candidates {
    /// Returns an empty list with room for `capacity` candidates.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { ids: Vec::with_capacity(capacity), hashes: Vec::with_capacity(capacity) }
    }

    /// Returns id and digest of each of these rows that has a digest, and then those of the other
    /// keys.
    pub(crate) fn of<T: Borrow<Trust>>(rows: &[T]) -> Self {
        let rows = || rows.iter().map(T::borrow);
        let own = rows().filter_map(|row| Some((row.id, row.api_key_hash?)));
        let others = rows().flat_map(|row| row.keys.iter().map(|key| (row.id, key.hash)));
        own.chain(others).collect()
    }

    /// Checks in constant time that no row has this digest. For an [import](TrustLedger::import),
    /// where the candidates are all rows, enabled or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTaken`] with the id of a row that has it.
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_auth::{Candidates, KeyHash};
    /// use uuid::Uuid;
    ///
    /// let rows = [(Uuid::from_u128(7), KeyHash::of("key"))];
    /// let candidates: Candidates = rows.into_iter().collect();
    /// assert_eq!(candidates.check_absent(&KeyHash::of("key")).unwrap_err().kind(), "key_taken");
    /// assert!(candidates.check_absent(&KeyHash::of("another")).is_ok());
    /// ```
    pub fn check_absent(&self, hash: &KeyHash) -> Result<(), StoreError> {
        match sweep(hash, &self.hashes).and_then(|index| self.id(index)) {
            Some(id) => Err(StoreError::KeyTaken { id }),
            None => Ok(()),
        }
    }

    /// Adds a row at the end.
    pub fn push(&mut self, id: Uuid, hash: KeyHash) {
        self.ids.push(id);
        self.hashes.push(hash);
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Returns whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns the id of the row at `index`, counted from zero, or `None` beyond the last row.
    #[must_use]
    pub fn id(&self, index: usize) -> Option<Uuid> {
        self.ids.get(index).copied()
    }

    /// Returns the digests, in the order of the rows.
    #[must_use]
    pub fn hashes(&self) -> &[KeyHash] {
        &self.hashes
    }
}

/// Collects the candidates of rows, in their order.
impl FromIterator<(Uuid, KeyHash)> for Candidates {
    fn from_iter<I: IntoIterator<Item = (Uuid, KeyHash)>>(rows: I) -> Self {
        let (ids, hashes) = rows.into_iter().unzip();
        Self { ids, hashes }
    }
}

/// What a committed write has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The row after the write, or the deleted row. Malformed columns are left out.
    pub trust: Trust,
    /// The digests of the keys that the write concerns, as they were before: of all active keys of
    /// the trust, or of the key that is revoked. The write makes their cached entries stale.
    pub former: Vec<KeyHash>,
    /// The barrier that the transaction has written, for [`TrustLedger::settle`]. `None`: no
    /// process can hold a lease on this store.
    pub barrier: Option<String>,
}

impl Change {
    /// Returns the change that left the row so, and that concerned these digests, without a
    /// barrier. `former` may be an `Option`, for a store of one key a trust.
    #[must_use]
    pub fn new(trust: Trust, former: impl IntoIterator<Item = KeyHash>) -> Self {
        Self { trust, former: former.into_iter().collect(), barrier: None }
    }
}
