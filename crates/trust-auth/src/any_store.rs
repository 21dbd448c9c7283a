//! [`AnyStore`]: one type for the trusts in the database that a URL names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::{KeyHash, TrustKeyCache};
use uuid::Uuid;

use crate::error::StoreError;
use crate::new_key::{NewKey, Rotation};
use crate::new_trust::NewTrust;
#[cfg(feature = "postgres")]
use crate::postgres::PostgresStore;
use crate::read_lease::{HeldTrusts, Settled, Waiting};
#[cfg(feature = "sqlite")]
use crate::sqlite::SqliteStore;
use crate::store::{Candidates, Change, Listing, TrustLedger, TrustStore};
use crate::trust::Trust;
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;
use crate::watcher::{WatchStore, Watcher};

/// The trusts in an SQLite file or in a database of PostgreSQL. A clone shares the connections.
///
/// # Examples
///
#[cfg_attr(feature = "sqlite", doc = "```")]
#[cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
/// use trust_auth::{AnyStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = AnyStore::connect("mysql://db.example/trusts").await.unwrap_err();
/// assert!(matches!(error, StoreError::UnsupportedUrl { .. }));
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum AnyStore {
    /// An SQLite file.
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteStore),
    /// A database of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresStore>),
}

/// Calls the method of the store that there is.
macro_rules! with_store {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            #[cfg(feature = "sqlite")]
            AnyStore::Sqlite($store) => $call,
            #[cfg(feature = "postgres")]
            AnyStore::Postgres($store) => $call,
        }
    };
}

impl AnyStore {
    /// Connects to the database with this URL, with the usual options.
    ///
    /// A URL of the schemes `postgres` and `postgresql`, or `name=value` pairs such as
    /// `host=db.example dbname=trusts`, mean PostgreSQL. `sqlite:` and a path, or a path alone,
    /// mean SQLite. `SqliteStore::options` and `PostgresStore::options` take further options.
    ///
    /// Nothing is created, except by an SQLite URL with `?mode=rwc`. To make the tables on
    /// PostgreSQL, connect with `PostgresStore::options(url).create_if_missing(true)`, and turn
    /// the store into an `AnyStore` by `From`. `SqliteStore::options` has the same method.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] if the URL is malformed, or names a database whose feature is
    /// off, and any other [`StoreError`] of the store.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        if names_postgres(url) {
            #[cfg(feature = "postgres")]
            return Ok(PostgresStore::options(url).connect().await?.into());
            #[cfg(not(feature = "postgres"))]
            return Err(off("postgres"));
        }
        #[cfg(feature = "sqlite")]
        return Ok(SqliteStore::options(url).connect().await?.into());
        #[cfg(not(feature = "sqlite"))]
        Err(off("sqlite"))
    }

    /// Returns where the database is, without user and password.
    #[must_use]
    pub fn location(&self) -> String {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.path().display().to_string(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.server(),
        }
    }

    /// Holds all trusts under a read lease of this length, for
    /// [`AuthenticatorBuilder::read_lease`](crate::AuthenticatorBuilder::read_lease).
    /// [`HeldTrusts::start`] has the arguments.
    ///
    /// On PostgreSQL the lease has tables and triggers of its own, which a migration makes once:
    /// `PgChanges::trusts(options).run_migration()`, or `trust-auth migrate --read-lease`. Without
    /// them this fails. On SQLite the tables of the trusts are enough.
    ///
    /// Call [`HeldTrusts::close`] when the service ends, after its last request. Otherwise the next
    /// revocation, by any process, waits for a whole lease. `examples/axum_read_lease.rs` has all
    /// steps.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of [`HeldTrusts::start`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn hold(&self, name: &str, length: Duration) -> Result<HeldTrusts, StoreError> {
        with_store!(self, store => HeldTrusts::start(store.feed(), name, length).await)
    }

    /// Checks that [`find`](TrustStore::find) can use an index.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoIndex`], with the SQL that makes one, or any other [`StoreError`].
    pub async fn check_index(&self) -> Result<(), StoreError> {
        with_store!(self, store => store.check_index().await)
    }

    /// Closes all connections, and waits until they are closed.
    pub async fn close(&self) {
        with_store!(self, store => store.close().await);
    }
}

#[cfg(feature = "postgres")]
fn names_postgres(url: &str) -> bool {
    PostgresStore::recognizes(url)
}

#[cfg(not(feature = "postgres"))]
fn names_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

#[cfg(not(all(feature = "postgres", feature = "sqlite")))]
fn off(feature: &str) -> StoreError {
    StoreError::UnsupportedUrl {
        reason: format!("the feature `{feature}` of the crate trust-auth is off; turn it on"),
    }
}

#[cfg(feature = "sqlite")]
impl From<SqliteStore> for AnyStore {
    fn from(store: SqliteStore) -> Self {
        Self::Sqlite(store)
    }
}

#[cfg(feature = "postgres")]
impl From<PostgresStore> for AnyStore {
    fn from(store: PostgresStore) -> Self {
        Self::Postgres(Box::new(store))
    }
}

impl TrustStore for AnyStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        with_store!(self, store => store.fetch(id).await)
    }

    async fn fetch_for(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        with_store!(self, store => store.fetch_for(id, hash).await)
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        with_store!(self, store => store.candidates().await)
    }

    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        with_store!(self, store => store.find(hash).await)
    }
}

impl TrustLedger for AnyStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        with_store!(self, store => store.insert(new, hash).await)
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        with_store!(self, store => store.import(new, hash).await)
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        with_store!(self, store => store.replace_hash(which, hash).await)
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        with_store!(self, store => store.rotate(which, rotation).await)
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        with_store!(self, store => store.insert_with_key(new, key).await)
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        with_store!(self, store => store.add_key(which, key).await)
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        with_store!(self, store => store.revoke_key(key).await)
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        with_store!(self, store => store.keys(which).await)
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        with_store!(self, store => store.set_enabled(which, enabled).await)
    }

    async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Change, StoreError> {
        with_store!(self, store => store.set_attributes(which, attributes).await)
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        with_store!(self, store => store.delete(which).await)
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        with_store!(self, store => store.list().await)
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        with_store!(self, store => store.listing().await)
    }

    async fn barrier(&self) -> Result<Option<String>, StoreError> {
        with_store!(self, store => store.barrier().await)
    }

    async fn settle(&self, barrier: &str, waiting: Waiting) -> Result<Settled, StoreError> {
        with_store!(self, store => store.settle(barrier, waiting).await)
    }

    async fn awaited(&self, barrier: &str) -> Result<Vec<String>, StoreError> {
        with_store!(self, store => store.awaited(barrier).await)
    }
}

impl WatchStore for AnyStore {
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        with_store!(self, store => store.watch(cache))
    }

    fn watch_every(&self, interval: Duration, cache: Arc<TrustKeyCache>) -> Watcher {
        with_store!(self, store => store.watch_every(interval, cache))
    }
}

#[cfg(feature = "sqlite")]
impl WatchStore for SqliteStore {
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        Self::watch(self, cache)
    }
}

#[cfg(feature = "postgres")]
impl WatchStore for PostgresStore {
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        Self::watch(self, cache)
    }

    fn watch_every(&self, interval: Duration, cache: Arc<TrustKeyCache>) -> Watcher {
        Self::watch_every(self, interval, cache)
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_store!(self, store => store.fmt(f))
    }
}
