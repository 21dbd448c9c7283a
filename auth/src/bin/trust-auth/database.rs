//! Opening the database that the options name.
//!
//! Only `register` may bring a database into being: a mistyped path must not look like one without trusts.

use std::path::Path;
use std::sync::Arc;

use trust_auth::{SqliteStore, TrustRegistry};
use trust_key_cache::TrustKeyCache;

use crate::failure::Failure;

/// What to do where there is no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Fail,
}

/// The database for the time of one command. [`close`](Self::close) it, so that SQLite's side files go.
pub(crate) struct Database {
    store: Arc<SqliteStore>,
}

impl Database {
    pub(crate) async fn open(url: &Path, if_missing: IfMissing) -> Result<Self, Failure> {
        let options = SqliteStore::options(url).create_if_missing(if_missing == IfMissing::Create);
        Ok(Self { store: Arc::new(options.connect().await?) })
    }

    pub(crate) fn store(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.store)
    }

    /// The write side. Its cache is this process's own and empty: servers see a change in the live row.
    pub(crate) fn registry(&self) -> TrustRegistry<SqliteStore> {
        TrustRegistry::new(self.store(), Arc::new(TrustKeyCache::new()))
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
