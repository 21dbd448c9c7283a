//! What a store of trusts must do: [`TrustStore`] for reading, [`TrustLedger`] for writing.
//!
//! No method looks a row up by its digest: the duration of such a lookup tells how much of a digest
//! was right.

use std::future::Future;

use serde::Serialize;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::new_trust::NewTrust;
use crate::trust::Trust;
use crate::trust_ref::TrustRef;

/// The read side of a store: what an [`Authenticator`](crate::Authenticator) needs.
///
/// # What an implementation promises
///
/// * **Reads are live.** A read that begins after a write was committed sees it. A replica that
///   lags, or a transaction that stays open across reads, breaks this, and a revoked key is then
///   granted for as long as the lag.
/// * **Time is bounded.** A `fetch` that hangs hangs its request. A `candidates` that hangs hangs
///   **every** request that misses, for as long, since one scan runs at a time, and nobody else
///   ends it: also not the end of the request that began it. Give both a time limit of their own,
///   and return [`StoreError::Timeout`].
/// * **Failures are errors.** `Ok(None)` says that there is no such row, never that it could not be
///   read. For a row that was read and makes no sense, return [`StoreError::BadRow`]: its key is
///   refused as invalid, and other keys are answered as ever.
///
/// # Examples
///
/// ```
/// use trust_auth::{Candidates, KeyHash, StoreError, Trust, TrustStore};
/// use uuid::Uuid;
///
/// /// One trust, for ever.
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
pub trait TrustStore: Send + Sync + 'static {
    /// The row with this id, whether enabled or not; `None` if there is none. By primary key: this
    /// is the hot path.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the request is refused then.
    fn fetch(&self, id: Uuid) -> impl Future<Output = Result<Option<Trust>, StoreError>> + Send;

    /// Id and digest of every row that is enabled and has a digest, in the order in which the rows
    /// were made.
    ///
    /// The order matters only where two rows have the same digest: the later one is meant.
    ///
    /// It must end in bounded time, whatever becomes of the database: until then no other scan
    /// begins.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the request is refused then.
    fn candidates(&self) -> impl Future<Output = Result<Candidates, StoreError>> + Send;
}

/// The write side of a store: what a [`TrustRegistry`](crate::TrustRegistry) needs.
///
/// Every method is one transaction, which is committed when the method returns `Ok`, and known not
/// to be when it returns [`StoreError::NameTaken`] or [`StoreError::NoSuchTrust`]. Any other error
/// leaves it open. Use these methods directly only where no cache needs to hear of the change.
pub trait TrustLedger: TrustStore {
    /// Makes a row with a random id, made now, enabled, with this digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if a row has the name, or any other [`StoreError`].
    fn insert(
        &self,
        new: NewTrust,
        hash: KeyHash,
    ) -> impl Future<Output = Result<Trust, StoreError>> + Send;

    /// Gives the row another digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn replace_hash(
        &self,
        which: &TrustRef,
        hash: KeyHash,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Enables or disables the row. What is so already stays as it is: a second disabling keeps the
    /// time of the first.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn set_enabled(
        &self,
        which: &TrustRef,
        enabled: bool,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Removes the row.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn delete(&self, which: &TrustRef) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Every row that can be read, enabled or not, in the order of the names' bytes.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn list(&self) -> impl Future<Output = Result<Vec<Trust>, StoreError>> + Send;

    /// As [`list`](Self::list), with the rows that cannot be read. A store without such rows need
    /// not implement it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`], but none for a malformed row.
    fn listing(&self) -> impl Future<Output = Result<Listing, StoreError>> + Send {
        async { Ok(Listing { trusts: self.list().await?, malformed: Vec::new() }) }
    }
}

/// All rows of a store, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Those that can be read.
    pub trusts: Vec<Trust>,
    /// Those that cannot. Serialised only if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<MalformedRow>,
}

/// A row with a malformed column: another program has written it.
///
/// Its trust is refused until the row is repaired. The trust can be disabled, rotated and deleted,
/// unless the column is its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedRow {
    /// The row's id, if that can be read.
    pub id: Option<Uuid>,
    /// The row's name, if that can be read.
    pub name: Option<String>,
    /// The first column that is malformed.
    pub column: &'static str,
}

/// What a sweep runs over: two packed columns, so that it reads nothing but digests.
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
    /// No candidates, with room for `capacity` of them.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { ids: Vec::with_capacity(capacity), hashes: Vec::with_capacity(capacity) }
    }

    /// Adds a row at the end.
    pub fn push(&mut self, id: Uuid, hash: KeyHash) {
        self.ids.push(id);
        self.hashes.push(hash);
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The id of the row at `index`, counted from zero; `None` if there are not so many rows.
    #[must_use]
    pub fn id(&self, index: usize) -> Option<Uuid> {
        self.ids.get(index).copied()
    }

    /// The digests, in the order of the rows.
    #[must_use]
    pub fn hashes(&self) -> &[KeyHash] {
        &self.hashes
    }
}

/// What a committed write has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The row after the write, or the deleted row. Malformed columns are left out.
    pub trust: Trust,
    /// The digest that the row had before, if any. The write makes the cached entry of this key
    /// stale.
    pub former_hash: Option<KeyHash>,
}

impl Change {
    /// Returns the change that left the row so, and that replaced this digest.
    #[must_use]
    pub fn new(trust: Trust, former_hash: Option<KeyHash>) -> Self {
        Self { trust, former_hash }
    }
}
