//! [`Store`]: the trusts in whichever database the options name, behind one type, with a record of how changes of them end.

use std::sync::Arc;

use trust_auth::{
    Candidates, Change, KeyHash, Listing, NewTrust, PostgresStore, SqliteStore, StoreError, Trust,
    TrustKeyCache, TrustLedger, TrustRef, TrustStore, Watcher,
};
use uuid::Uuid;

use crate::changes::Changes;

/// A database, and how the last change in it ended.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    changes: Changes,
}

/// An SQLite file, or a database of PostgreSQL.
// There is one, behind an `Arc`: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Database {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl From<SqliteStore> for Store {
    fn from(store: SqliteStore) -> Self {
        Self { database: Database::Sqlite(store), changes: Changes::default() }
    }
}

impl From<PostgresStore> for Store {
    fn from(store: PostgresStore) -> Self {
        Self { database: Database::Postgres(store), changes: Changes::default() }
    }
}

impl Store {
    /// Invalidates in this cache what is changed in the database, whoever changes it, until the
    /// watcher is dropped.
    pub(crate) fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        match &self.database {
            Database::Sqlite(store) => store.watch(cache),
            Database::Postgres(store) => store.watch(cache),
        }
    }

    /// Checks that changes by other processes are notified of. SQLite's watcher polls, and needs no
    /// check.
    pub(crate) async fn check_notifications(&self) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(_) => Ok(()),
            Database::Postgres(store) => store.check_notifications().await,
        }
    }

    /// Where it is, without user and password.
    pub(crate) fn described(&self) -> String {
        match &self.database {
            Database::Sqlite(store) => store.path().display().to_string(),
            Database::Postgres(store) => store.server(),
        }
    }

    /// The triggers that were missing when it was opened. SQLite needs none.
    pub(crate) fn missing_triggers(&self) -> &[String] {
        match &self.database {
            Database::Sqlite(_) => &[],
            Database::Postgres(store) => store.missing_triggers(),
        }
    }

    /// How changes end.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Tries whether a change can be made, without making one; `check_writes` of either store tells
    /// what that proves.
    pub(crate) async fn try_change(&self) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(store) => store.check_writes().await,
            Database::Postgres(store) => store.check_writes().await,
        }
    }

    /// Closes all connections, and waits until they are closed.
    pub(crate) async fn close(&self) {
        match &self.database {
            Database::Sqlite(store) => store.close().await,
            Database::Postgres(store) => store.close().await,
        }
    }
}

impl TrustStore for Store {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        match &self.database {
            Database::Sqlite(store) => store.fetch(id).await,
            Database::Postgres(store) => store.fetch(id).await,
        }
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        match &self.database {
            Database::Sqlite(store) => store.candidates().await,
            Database::Postgres(store) => store.candidates().await,
        }
    }
}

impl TrustLedger for Store {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let change = async {
            match &self.database {
                Database::Sqlite(store) => store.insert(new, hash).await,
                Database::Postgres(store) => store.insert(new, hash).await,
            }
        };
        self.changes.record(change).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        let change = async {
            match &self.database {
                Database::Sqlite(store) => store.replace_hash(which, hash).await,
                Database::Postgres(store) => store.replace_hash(which, hash).await,
            }
        };
        self.changes.record(change).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        let change = async {
            match &self.database {
                Database::Sqlite(store) => store.set_enabled(which, enabled).await,
                Database::Postgres(store) => store.set_enabled(which, enabled).await,
            }
        };
        self.changes.record(change).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        let change = async {
            match &self.database {
                Database::Sqlite(store) => store.delete(which).await,
                Database::Postgres(store) => store.delete(which).await,
            }
        };
        self.changes.record(change).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        match &self.database {
            Database::Sqlite(store) => store.list().await,
            Database::Postgres(store) => store.list().await,
        }
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        match &self.database {
            Database::Sqlite(store) => store.listing().await,
            Database::Postgres(store) => store.listing().await,
        }
    }
}
