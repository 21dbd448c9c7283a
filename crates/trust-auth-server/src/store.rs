//! [`Store`]: the trusts in SQLite or PostgreSQL, behind one type that records how changes end.

use std::sync::Arc;
use std::time::Duration;

use trust_auth::{
    Candidates, Change, HeldTrusts, KeyHash, Listing, NewKey, NewTrust, PostgresStore, Rotation,
    Settled, SqliteStore, StoreError, Trust, TrustKey, TrustKeyCache, TrustLedger, TrustRef,
    TrustStore, Waiting, Watcher,
};
use uuid::Uuid;

use crate::change_record::ChangeRecord;
use crate::lower_read_lease::LongestLease;

/// A database, and a record of the changes in it.
#[derive(Debug)]
pub(crate) struct Store {
    backend: DatabaseStore,
    changes: ChangeRecord,
}

/// The interval of the watcher's tests with a read lease.
const UNDER_A_LEASE: Duration = Duration::from_mins(2);

/// A SQLite file, or a PostgreSQL database.
// There is one, behind an `Arc`, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum DatabaseStore {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl From<SqliteStore> for Store {
    fn from(store: SqliteStore) -> Self {
        Self { backend: DatabaseStore::Sqlite(store), changes: ChangeRecord::default() }
    }
}

impl From<PostgresStore> for Store {
    fn from(store: PostgresStore) -> Self {
        Self { backend: DatabaseStore::Postgres(store), changes: ChangeRecord::default() }
    }
}

impl Store {
    /// Invalidates the cache entries of trusts that any process changes, until the watcher is
    /// dropped. With a read lease, the cache is a fallback, and the watcher sends fewer queries.
    pub(crate) fn watch(&self, cache: Arc<TrustKeyCache>, has_read_lease: bool) -> Watcher {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.watch(cache),
            DatabaseStore::Postgres(store) if has_read_lease => {
                store.watch_every(UNDER_A_LEASE, cache)
            }
            DatabaseStore::Postgres(store) => store.watch(cache),
        }
    }

    /// Returns the keys of enabled trusts that have ended within this time, and were not revoked.
    pub(crate) async fn ended_keys(&self, within: Duration) -> Result<Vec<TrustKey>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.ended_keys(within).await,
            DatabaseStore::Postgres(store) => store.ended_keys(within).await,
        }
    }

    /// Holds all trusts under a read lease of this length, under a name for operators.
    pub(crate) async fn hold(
        &self,
        name: &str,
        length: Duration,
    ) -> Result<HeldTrusts, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => HeldTrusts::start(store.feed(), name, length).await,
            DatabaseStore::Postgres(store) => HeldTrusts::start(store.feed(), name, length).await,
        }
    }

    /// Lowers the longest lease that a process may hold.
    pub(crate) async fn lower_longest_lease(
        &self,
        longest: LongestLease,
    ) -> Result<(), StoreError> {
        match (&self.backend, longest) {
            (DatabaseStore::Sqlite(store), LongestLease::Off) => store.feed().end_leases().await,
            (DatabaseStore::Sqlite(store), LongestLease::Of(longest)) => {
                store.feed().lower_longest_lease(longest).await
            }
            (DatabaseStore::Postgres(store), LongestLease::Of(longest)) => {
                store.feed().lower_longest_lease(longest).await
            }
            (DatabaseStore::Postgres(_), LongestLease::Off) => Err(StoreError::Other(
                "on PostgreSQL a change waits for the registered servers alone, so there is \
                 nothing to turn off; give a duration, such as 1s"
                    .into(),
            )),
        }
    }

    /// Checks that notifications of changes arrive. SQLite needs no check: its watcher polls.
    pub(crate) async fn check_notifications(&self) -> Result<(), StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(_) => Ok(()),
            DatabaseStore::Postgres(store) => store.check_notifications().await,
        }
    }

    /// Returns the location of the database, without user and password.
    pub(crate) fn described(&self) -> String {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.path().display().to_string(),
            DatabaseStore::Postgres(store) => store.server(),
        }
    }

    /// Returns the triggers that were missing when the database was opened. SQLite needs none.
    pub(crate) fn missing_triggers(&self) -> &[String] {
        match &self.backend {
            DatabaseStore::Sqlite(_) => &[],
            DatabaseStore::Postgres(store) => store.missing_triggers(),
        }
    }

    /// Returns the record of changes.
    pub(crate) fn changes(&self) -> &ChangeRecord {
        &self.changes
    }

    /// Checks whether a change can be made, without making one. `check_writes` of either store
    /// documents what the check proves.
    pub(crate) async fn check_writes(&self) -> Result<(), StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.check_writes().await,
            DatabaseStore::Postgres(store) => store.check_writes().await,
        }
    }

    /// Checks that a digest can be found by an index.
    pub(crate) async fn check_index(&self) -> Result<(), StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.check_index().await,
            DatabaseStore::Postgres(store) => store.check_index().await,
        }
    }

    /// Closes all connections, and waits until they are closed.
    pub(crate) async fn close(&self) {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.close().await,
            DatabaseStore::Postgres(store) => store.close().await,
        }
    }
}

impl TrustStore for Store {
    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.find(hash).await,
            DatabaseStore::Postgres(store) => store.find(hash).await,
        }
    }

    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.fetch(id).await,
            DatabaseStore::Postgres(store) => store.fetch(id).await,
        }
    }

    async fn fetch_for(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.fetch_for(id, hash).await,
            DatabaseStore::Postgres(store) => store.fetch_for(id, hash).await,
        }
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.candidates().await,
            DatabaseStore::Postgres(store) => store.candidates().await,
        }
    }
}

impl TrustLedger for Store {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.insert(new, hash).await,
                DatabaseStore::Postgres(store) => store.insert(new, hash).await,
            }
        };
        self.changes.record(change).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.import(new, hash).await,
                DatabaseStore::Postgres(store) => store.import(new, hash).await,
            }
        };
        self.changes.record(change).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.replace_hash(which, hash).await,
                DatabaseStore::Postgres(store) => store.replace_hash(which, hash).await,
            }
        };
        self.changes.record(change).await
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.rotate(which, rotation).await,
                DatabaseStore::Postgres(store) => store.rotate(which, rotation).await,
            }
        };
        self.changes.record(change).await
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.insert_with_key(new, key).await,
                DatabaseStore::Postgres(store) => store.insert_with_key(new, key).await,
            }
        };
        self.changes.record(change).await
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.add_key(which, key).await,
                DatabaseStore::Postgres(store) => store.add_key(which, key).await,
            }
        };
        self.changes.record(change).await
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.revoke_key(key).await,
                DatabaseStore::Postgres(store) => store.revoke_key(key).await,
            }
        };
        self.changes.record(change).await
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.keys(which).await,
            DatabaseStore::Postgres(store) => store.keys(which).await,
        }
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.set_enabled(which, enabled).await,
                DatabaseStore::Postgres(store) => store.set_enabled(which, enabled).await,
            }
        };
        self.changes.record(change).await
    }

    async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.set_attributes(which, attributes).await,
                DatabaseStore::Postgres(store) => store.set_attributes(which, attributes).await,
            }
        };
        self.changes.record(change).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        let change = async {
            match &self.backend {
                DatabaseStore::Sqlite(store) => store.delete(which).await,
                DatabaseStore::Postgres(store) => store.delete(which).await,
            }
        };
        self.changes.record(change).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.list().await,
            DatabaseStore::Postgres(store) => store.list().await,
        }
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.listing().await,
            DatabaseStore::Postgres(store) => store.listing().await,
        }
    }

    async fn barrier(&self) -> Result<Option<String>, StoreError> {
        // It writes no trust, so it shows nothing about changes of trusts.
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.barrier().await,
            DatabaseStore::Postgres(store) => store.barrier().await,
        }
    }

    async fn settle(&self, barrier: &str, waiting: Waiting) -> Result<Settled, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.settle(barrier, waiting).await,
            DatabaseStore::Postgres(store) => store.settle(barrier, waiting).await,
        }
    }

    async fn awaited(&self, barrier: &str) -> Result<Vec<String>, StoreError> {
        match &self.backend {
            DatabaseStore::Sqlite(store) => store.awaited(barrier).await,
            DatabaseStore::Postgres(store) => store.awaited(barrier).await,
        }
    }
}
