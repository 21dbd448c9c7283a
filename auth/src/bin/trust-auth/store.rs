//! [`Store`]: the trusts in whichever database the options name, behind one type.

use std::path::Path;
use std::sync::Arc;

use trust_auth::{
    Candidates, Change, KeyHash, NewTrust, PostgresStore, SqliteStore, StoreError, Trust, TrustKeyCache,
    TrustLedger, TrustRef, TrustStore, Watcher,
};
use uuid::Uuid;

/// An SQLite file, or a database of PostgreSQL.
// There is one, behind an `Arc`: its size is nobody's.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum Store {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Store {
    /// Whether the URL is one of PostgreSQL. Anything else is for SQLite to understand, or to refuse.
    pub(crate) fn is_postgres(url: &Path) -> Option<&str> {
        let url = url.to_str()?;
        (url.starts_with("postgres:") || url.starts_with("postgresql:")).then_some(url)
    }

    /// Invalidates in this cache what is changed in the database, whoever changes it, until the watcher is dropped.
    pub(crate) fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        match self {
            Self::Sqlite(store) => store.watch(cache),
            Self::Postgres(store) => store.watch(cache),
        }
    }

    /// Where it is, without user and password.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::Sqlite(store) => store.path().display().to_string(),
            Self::Postgres(store) => store.server(),
        }
    }

    /// Closes all connections, and waits until they are closed.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

impl TrustStore for Store {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        match self {
            Self::Sqlite(store) => store.fetch(id).await,
            Self::Postgres(store) => store.fetch(id).await,
        }
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        match self {
            Self::Sqlite(store) => store.candidates().await,
            Self::Postgres(store) => store.candidates().await,
        }
    }
}

impl TrustLedger for Store {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        match self {
            Self::Sqlite(store) => store.insert(new, hash).await,
            Self::Postgres(store) => store.insert(new, hash).await,
        }
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        match self {
            Self::Sqlite(store) => store.replace_hash(which, hash).await,
            Self::Postgres(store) => store.replace_hash(which, hash).await,
        }
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        match self {
            Self::Sqlite(store) => store.set_enabled(which, enabled).await,
            Self::Postgres(store) => store.set_enabled(which, enabled).await,
        }
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        match self {
            Self::Sqlite(store) => store.delete(which).await,
            Self::Postgres(store) => store.delete(which).await,
        }
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        match self {
            Self::Sqlite(store) => store.list().await,
            Self::Postgres(store) => store.list().await,
        }
    }
}
