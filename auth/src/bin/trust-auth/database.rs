//! Opening the database that the options name.
//!
//! Only `register` and `serve` may bring a database into being: a mistyped path must not look like one without trusts. A table that is there
//! is changed by `migrate` and `serve --migrate` alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use trust_auth::{PostgresStore, SqliteStore, StoreError, TrustRegistry};
use trust_key_cache::TrustKeyCache;

use crate::failure::Failure;
use crate::store::Store;

/// What to do where there is no database, or no table in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    /// Also adds to a table what it lacks.
    CreateOrMigrate,
    Fail,
}

/// How much of a database a service uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) connections: u32,
    /// On PostgreSQL.
    pub(crate) max_connection_age: Duration,
    pub(crate) query_timeout: Duration,
}

/// The database for the time of one command. [`close`](Self::close) it, so that SQLite's side files go.
pub(crate) struct Database {
    store: Arc<Store>,
}

impl Database {
    /// For a single command.
    pub(crate) async fn open(url: &Path, if_missing: IfMissing) -> Result<Self, Failure> {
        Ok(Self::open_with(url, if_missing, None).await?)
    }

    /// For a service.
    pub(crate) async fn open_with(
        url: &Path,
        if_missing: IfMissing,
        pool: Option<Pool>,
    ) -> Result<Self, StoreError> {
        let (create, migrate) = (if_missing != IfMissing::Fail, if_missing == IfMissing::CreateOrMigrate);
        let store = match Store::is_postgres(url) {
            Some(url) => {
                let mut options = PostgresStore::options(url).create_if_missing(create).migrate(migrate);
                if let Some(pool) = pool {
                    options = options
                        .max_connections(pool.connections)
                        .max_connection_age(pool.max_connection_age)
                        .query_timeout(pool.query_timeout);
                }
                Store::from(options.connect().await?)
            }
            None => {
                let mut options = SqliteStore::options(url).create_if_missing(create).migrate(migrate);
                if let Some(pool) = pool {
                    options = options.max_connections(pool.connections).query_timeout(pool.query_timeout);
                }
                Store::from(options.connect().await?)
            }
        };
        Ok(Self { store: Arc::new(store) })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// The write side. Its cache is this process's own and empty: servers see a change in the live row.
    pub(crate) fn registry(&self) -> TrustRegistry<Store> {
        TrustRegistry::new(self.store(), Arc::new(TrustKeyCache::new()))
    }

    /// Warns, after a change, where other processes do not hear of it.
    pub(crate) fn warn_if_unheard(&self) {
        let missing = self.store.missing_triggers();
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(", "),
                "triggers on the table `trust` are missing or turned off: servers do not hear of this change, and keep the entry in their \
                 cache until its time-to-live ends. They refuse the key at once all the same, because they check the live row. Let the \
                 table's owner run `trust-auth migrate`"
            );
        }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
