//! [`SqliteStore`]: the connections to a file, and the reads of the hot path.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::anchor::Anchor;
use super::failure::failed;
use super::file::File;
use super::own_pool::Readers;
use super::packed;
use super::row;
use super::statements::Statements;
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::store::{Candidates, TrustStore};
use crate::table_names::TableNames;
use crate::time_limit::{self, blocking_within};
use crate::trust::Trust;

/// The trusts in an SQLite file, through a pool of connections. A clone shares the pool.
///
/// The file is in WAL mode, so reads never wait for a write. Writes use a connection of their own,
/// one at a time, so a waiting write occupies no connection for reads. Each operation runs under
/// the query timeout. A write that times out may still be committed.
///
/// On Unix, each write also checks, after its commit, that the open file is still the one at the
/// path. If the file was removed or replaced, the write may be lost with it. The write and each
/// later operation then return [`StoreError::CannotOpen`].
///
/// The connections close in the background when the last clone is dropped. [`close`](Self::close)
/// waits until they are closed.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, NewTrust, SqliteStore, TrustLedger, TrustStore};
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
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
    pub(super) readers: Readers,
    /// Has one connection. A write that was cancelled while it waited for the lock may occupy this
    /// connection for some seconds, and occupies no reader.
    pub(super) writer: SqlitePool,
    /// Has one connection for each watcher. The pool belongs to the store, so that
    /// [`close`](Self::close) can wait for these connections, too. SQLite removes the side files
    /// when the last connection closes. The content of leftover side files would go into the next
    /// file of the name.
    pub(super) watchers: SqlitePool,
    pub(super) anchor: Arc<Anchor>,
    pub(super) file: Arc<File>,
    pub(super) query_timeout: Duration,
    /// Whether each commit is moved into the database's own file.
    pub(super) checkpoints: bool,
    pub(super) warnings: Arc<RowWarnings>,
    pub(super) statements: Arc<Statements>,
}

impl SqliteStore {
    /// Returns the absolute path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Closes all connections, including those of the watchers, and waits until they are closed.
    /// The watchers have then ended. Later operations of any clone return
    /// [`StoreError::Unreachable`].
    pub async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.watchers.close().await;
        // Last: while the anchor is open, no other connection removes the side files.
        self.anchor.release().await;
    }

    pub(super) fn new(
        readers: Readers,
        writer: SqlitePool,
        watchers: SqlitePool,
        file: File,
        query_timeout: Duration,
        checkpoints: bool,
        names: TableNames,
    ) -> Self {
        let file = Arc::new(file);
        let anchor = Arc::new(Anchor::of(Arc::clone(&file)));
        let warnings = Arc::default();
        let statements = Arc::new(Statements::of(names));
        Self {
            readers,
            writer,
            watchers,
            anchor,
            file,
            query_timeout,
            checkpoints,
            warnings,
            statements,
        }
    }

    /// Runs an operation under the query timeout, unless the file was found replaced.
    pub(super) async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.file.check()?;
        time_limit::within(self.query_timeout, async {
            let outcome = operation.await;
            // Again: a replacement may have been found meanwhile.
            self.file.check().and(outcome)
        })
        .await
    }

    /// Checks that the files are still those at their paths, on a thread that may block.
    pub(super) async fn verify_files(&self) -> Result<(), StoreError> {
        let file = Arc::clone(&self.file);
        blocking_within(self.query_timeout, move || file.verify()).await?
    }

    /// Returns the diagnosis of an error of the driver.
    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        match error {
            sqlx::Error::PoolTimedOut => StoreError::Timeout { after: self.query_timeout },
            error => failed(error, self.path(), &self.statements.names),
        }
    }
}

impl TrustStore for SqliteStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.within(async {
            let row = sqlx::query(self.statements.fetch.clone())
                .bind(row::id_text(id))
                .fetch_optional(&self.readers.pool)
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
            packed::candidates(&self.readers.pool, &self.statements, &self.warnings)
                .await
                .map_err(|error| self.failed(error))
        })
        .await
    }

    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        self.find_by_index(hash).await
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
