//! Opening the database that the options name, of either kind.
//!
//! Only `register` may bring a database (on PostgreSQL: a table) into being: a mistyped name must not look like one without trusts.

use std::path::Path;
use std::sync::Arc;

use trust_auth::{
    Candidates, Change, KeyHash, NewTrust, PostgresStore, SqliteStore, StoreError, Trust, TrustLedger,
    TrustRef, TrustRegistry, TrustStore, Watcher,
};
use trust_key_cache::TrustKeyCache;
use uuid::Uuid;

use crate::failure::Failure;

/// What to do where there is no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Fail,
}

/// The database for the time of one command. [`close`](Self::close) it, so that SQLite's side files go.
pub(crate) struct Database {
    store: Arc<Store>,
}

impl Database {
    pub(crate) async fn open(url: &Path, if_missing: IfMissing) -> Result<Self, Failure> {
        Ok(Self { store: Arc::new(Store::open(url, if_missing).await?) })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// The write side. Its cache is this process's own and empty: servers see a change in the live row.
    pub(crate) fn registry(&self) -> TrustRegistry<Store> {
        TrustRegistry::new(self.store(), Arc::new(TrustKeyCache::new()))
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}

/// The store that a URL's scheme chooses: `postgres:` or `postgresql:`, and everything else is SQLite's.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Store {
    pub(crate) async fn open(url: &Path, if_missing: IfMissing) -> Result<Self, StoreError> {
        let create = if_missing == IfMissing::Create;
        match postgres_url(url) {
            Some(url) => {
                let options = PostgresStore::options(url).create_if_missing(create);
                Ok(Self::Postgres(options.connect().await?))
            }
            None => {
                let options = SqliteStore::options(url).create_if_missing(create);
                Ok(Self::Sqlite(options.connect().await?))
            }
        }
    }

    /// Evicts from `cache` what other processes change, for as long as the watcher is kept.
    #[allow(dead_code, reason = "for a server")]
    pub(crate) fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        match self {
            Self::Sqlite(store) => store.watch(cache),
            Self::Postgres(store) => store.watch(cache),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

fn postgres_url(url: &Path) -> Option<&str> {
    let url = url.to_str()?;
    (url.starts_with("postgres:") || url.starts_with("postgresql:")).then_some(url)
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
