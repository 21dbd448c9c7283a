//! [`SqliteStore`]: the trusts in an SQLite file.
//!
//! Every operation has a time limit, every write is one transaction, and no statement looks a row
//! up by its digest.

mod anchor;
mod creation;
mod failure;
mod file;
mod location;
mod lookout;
mod options;
mod packed;
mod row;
mod schema;
mod watch;
mod write_check;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};
use trust_key_cache::KeyHash;
use uuid::Uuid;

pub use options::SqliteOptions;

use self::anchor::Anchor;
use self::failure::failed;
use self::file::File;
use crate::row_warnings::RowWarnings;
use crate::text_flaw::nfc;
use crate::trust::now;
use crate::{
    Candidates, Change, Listing, NewTrust, StoreError, Trust, TrustLedger, TrustRef, TrustStore,
};

/// The trusts in an SQLite file, through a pool of connections. A clone shares the pool.
///
/// The file is in WAL mode: reads never wait for a write. Writes of this process take turns before
/// they ask for the database's lock, so that those which wait hold no connection that a read could
/// use. Each operation runs under the query timeout, and a write that times out may yet be
/// committed.
///
/// The connections close in the background when the last clone is dropped; [`close`](Self::close)
/// waits for that.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, NewTrust, SqliteStore, TrustLedger, TrustStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("trusts.db");
/// let store = SqliteStore::options(&file).create_if_missing(true).connect().await?;
/// let trust = store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// assert_eq!(store.fetch(trust.id).await?, Some(trust));
/// store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    /// Of one connection: a write that was cancelled while it waited for the lock keeps it busy
    /// for some seconds, and no reader.
    writer: SqlitePool,
    /// One for each watcher. Of the store, so that it can close them too and wait for it: SQLite
    /// tidies up its side files when the last connection closes, and what stays in them would be
    /// put into whatever file has the name then.
    watchers: SqlitePool,
    anchor: Arc<Anchor>,
    file: Arc<File>,
    query_timeout: Duration,
    /// Whether each commit is moved on into the database's own file.
    checkpoints: bool,
    warnings: Arc<RowWarnings>,
}

/// A transaction that holds the database's write lock. Dropped without [`commit`](Self::commit),
/// its connection is closed, which rolls back.
///
/// It is never used again then: after a failure SQLite may have rolled back by itself or not, and
/// after a cancellation the driver's thread may still be at it. The driver's own transactions count
/// how deep they are, and would count wrongly.
struct Write<'a> {
    /// `None` once it is committed.
    connection: Option<PoolConnection<Sqlite>>,
    store: &'a SqliteStore,
}

impl SqliteStore {
    /// How to open a database: a path, or `sqlite:` and a path in which `%` encodes bytes.
    ///
    /// Nothing is looked at before [`SqliteOptions::connect`].
    pub fn options(database: impl AsRef<Path>) -> SqliteOptions {
        SqliteOptions::new(database.as_ref())
    }

    /// The file, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Closes all connections, those of its watchers included, and waits until they are closed.
    /// Operations of any clone give [`StoreError::Unreachable`] from then on, and its watchers have
    /// ended.
    pub async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.watchers.close().await;
        // Last: while it is open, none of the others takes the side files away.
        self.anchor.release().await;
    }

    fn new(
        readers: SqlitePool,
        writer: SqlitePool,
        watchers: SqlitePool,
        file: File,
        query_timeout: Duration,
        checkpoints: bool,
    ) -> Self {
        let file = Arc::new(file);
        let anchor = Arc::new(Anchor::of(Arc::clone(&file)));
        let warnings = Arc::default();
        Self { readers, writer, watchers, anchor, file, query_timeout, checkpoints, warnings }
    }

    /// Runs an operation under the query timeout, unless a watcher has found the file replaced.
    async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.file.check()?;
        match tokio::time::timeout(self.query_timeout, operation).await {
            // Again: it may have been found out meanwhile.
            Ok(outcome) => self.file.check().and(outcome),
            Err(_) => Err(StoreError::Timeout { after: self.query_timeout }),
        }
    }

    /// What to make of an error of the driver.
    fn failed(&self, error: sqlx::Error) -> StoreError {
        match error {
            sqlx::Error::PoolTimedOut => StoreError::Timeout { after: self.query_timeout },
            error => failed(error, self.path()),
        }
    }

    async fn begin(&self) -> Result<Write<'_>, StoreError> {
        let connection = self.writer.acquire().await.map_err(|error| self.failed(error))?;
        // Before the first statement: if that fails or is cancelled, this is dropped.
        let mut write = Write { connection: Some(connection), store: self };
        // IMMEDIATE: a transaction that read first and asks for the lock later is refused at once,
        // however long the busy timeout.
        let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(write.connection()?).await;
        begun.map_err(|error| self.failed(error))?;
        Ok(write)
    }
}

impl TrustStore for SqliteStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.within(async {
            let row = sqlx::query(
                "SELECT id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at \
                 FROM trust WHERE id = ?1",
            )
            .bind(row::id_text(id))
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.failed(error))?;
            let Some(row) = row else { return Ok(None) };
            let columns = row::columns(&row, &self.warnings).map_err(row::without_id)?;
            columns.trust(&self.warnings).map(Some)
        })
        .await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        self.within(async {
            packed::candidates(&self.readers, &self.warnings)
                .await
                .map_err(|error| self.failed(error))
        })
        .await
    }
}

impl TrustLedger for SqliteStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.within(async {
            let trust = new.into_trust(hash);
            let mut write = self.begin().await?;
            let done = sqlx::query(
                "INSERT INTO trust (id, name, code, region, api_key_hash, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
            )
            .bind(row::id_text(trust.id))
            .bind(trust.name.clone())
            .bind(trust.code.clone())
            .bind(trust.region.clone())
            .bind(hash.to_string())
            .bind(trust.created_at.map(row::time_text).transpose()?)
            .execute(write.connection()?)
            .await
            .map_err(|error| self.failed(error))?;
            if done.rows_affected() == 0 {
                return Err(write.not_inserted(trust.name).await);
            }
            write.commit().await?;
            Ok(trust)
        })
        .await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.within(async {
            let mut write = self.begin().await?;
            let mut trust = write.find(which).await?;
            let done = sqlx::query("UPDATE trust SET api_key_hash = ?2 WHERE id = ?1")
                .bind(row::id_text(trust.id))
                .bind(hash.to_string())
                .execute(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            write.changed(done.rows_affected())?;
            write.holds(trust.id, |found| found.api_key_hash == Some(hash)).await?;
            write.commit().await?;
            let former_hash = trust.api_key_hash.replace(hash);
            Ok(Change { trust, former_hash })
        })
        .await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.within(async {
            let mut write = self.begin().await?;
            let mut trust = write.find(which).await?;
            trust.disabled_at =
                if enabled { None } else { trust.disabled_at.or_else(|| Some(now())) };
            let done = sqlx::query("UPDATE trust SET disabled_at = ?2 WHERE id = ?1")
                .bind(row::id_text(trust.id))
                .bind(trust.disabled_at.map(row::time_text).transpose()?)
                .execute(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            write.changed(done.rows_affected())?;
            write.holds(trust.id, |found| found.is_enabled() == enabled).await?;
            write.commit().await?;
            let former_hash = trust.api_key_hash;
            Ok(Change { trust, former_hash })
        })
        .await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.within(async {
            let mut write = self.begin().await?;
            let trust = write.find(which).await?;
            let done = sqlx::query("DELETE FROM trust WHERE id = ?1")
                .bind(row::id_text(trust.id))
                .execute(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            write.changed(done.rows_affected())?;
            write.commit().await?;
            let former_hash = trust.api_key_hash;
            Ok(Change { trust, former_hash })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        Ok(self.listing().await?.trusts)
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        self.within(async {
            let rows = sqlx::query(
                "SELECT id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at \
                 FROM trust ORDER BY name",
            )
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.failed(error))?;
            let mut listing = Listing::default();
            for row in &rows {
                match row::columns(row, &self.warnings) {
                    Ok(columns) => columns.list(&mut listing),
                    Err(malformed) => listing.malformed.push(malformed),
                }
            }
            Ok(listing)
        })
        .await
    }
}

impl Write<'_> {
    /// The row that an operator means.
    async fn find(&mut self, which: &TrustRef) -> Result<Trust, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query(
                "SELECT id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at \
                 FROM trust WHERE id = ?1",
            )
            .bind(row::id_text(*id)),
            TrustRef::Name(name) => sqlx::query(
                "SELECT id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at \
                 FROM trust WHERE name IN (?1, ?2) ORDER BY name <> ?1 LIMIT 1",
            )
            .bind(name.clone())
            .bind(nfc(name).into_owned()),
        };
        let row = query
            .fetch_optional(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        let Some(row) = row else { return Err(StoreError::NoSuchTrust { which: which.clone() }) };
        let columns = row::columns(&row, &self.store.warnings).map_err(row::without_id)?;
        Ok(columns.for_change(&self.store.warnings))
    }

    /// Makes sure that the row is as it was told to be after all triggers.
    async fn holds(
        &mut self,
        id: Uuid,
        expected: impl FnOnce(&Trust) -> bool,
    ) -> Result<(), StoreError> {
        match self.find(&id.into()).await {
            Ok(found) => self.changed(u64::from(expected(&found))),
            Err(StoreError::NoSuchTrust { .. }) => self.changed(0),
            Err(error) => Err(error),
        }
    }

    /// Returns why a row was not inserted: another has its name, or something on the table
    /// swallowed it.
    async fn not_inserted(&mut self, name: String) -> StoreError {
        match self.find(&TrustRef::Name(name.clone())).await {
            Ok(_) | Err(StoreError::BadRow { .. }) => StoreError::NameTaken { name },
            Err(StoreError::NoSuchTrust { .. }) => StoreError::Schema {
                path: self.store.path().to_path_buf(),
                reason: "it did not take the row that it was given; look for a trigger on its table `trust`"
                    .into(),
            },
            Err(error) => error,
        }
    }

    /// Makes sure that a statement has changed the row that was found, and nothing else. The
    /// caller of a revocation relies on it.
    fn changed(&self, rows: u64) -> Result<(), StoreError> {
        if rows == 1 {
            return Ok(());
        }
        let reason = "it did not change the row that it was told to; look for a trigger on its table `trust`";
        Err(StoreError::Schema { path: self.store.path().to_path_buf(), reason: reason.into() })
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        let done = sqlx::raw_sql("COMMIT").execute(self.connection()?).await;
        done.map_err(|error| self.store.failed(error))?;
        if let Some(connection) = self.connection.take()
            && self.store.checkpoints
        {
            // The next write waits for it, and `close`.
            tokio::spawn(checkpoint(connection));
        }
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_deref_mut().ok_or(StoreError::Unreachable)
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

/// Moves what is committed into the database's own file, as far as no read is in the way. What is
/// revoked then stays so even if `-wal` is removed by hand.
async fn checkpoint(mut connection: PoolConnection<Sqlite>) {
    // SQLite does it again later.
    if let Err(error) =
        sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *connection).await
    {
        connection.close_on_drop();
        tracing::debug!(%error, "a checkpoint failed");
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path())
            .field("query_timeout", &self.query_timeout)
            .finish_non_exhaustive()
    }
}
