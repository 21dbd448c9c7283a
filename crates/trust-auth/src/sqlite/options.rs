//! [`SqliteOptions`]: how to open a database, and the opening itself, which writes nothing unless
//! it was told to create or to migrate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};

use super::file::File;
use super::location::Location;
use super::store::SqliteStore;
use super::{creation, schema};
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::migration::Permission;
use crate::time_limit::{self, blocking_within, within};

const DEFAULT_CONNECTIONS: u32 = 8;
const MAX_CONNECTIONS: u32 = 1_024;
const MAX_WATCHERS: u32 = 16;

/// How to open a database; made by [`SqliteStore::options`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{SqliteStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("trusts.db");
/// let missing = SqliteStore::options(&file).connect().await.unwrap_err();
/// assert!(matches!(missing, StoreError::NotFound { .. }));
///
/// let store = SqliteStore::options(&file)
///     .create_if_missing(true)
///     .query_timeout(Duration::from_secs(1))
///     .connect()
///     .await?;
/// # store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options open nothing until `connect`"]
pub struct SqliteOptions {
    database: PathBuf,
    may: Permission,
    busy_timeout: Duration,
    query_timeout: Duration,
    max_connections: u32,
    durable: bool,
}

impl SqliteOptions {
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            may: Permission::default(),
            busy_timeout: time_limit::DEFAULT,
            query_timeout: time_limit::DEFAULT,
            max_connections: DEFAULT_CONNECTIONS,
            durable: true,
        }
    }

    /// Whether to make the file, or the tables in an empty file. Default: no. The folder is never
    /// made.
    ///
    /// A URL's `mode=rwc` or `mode=rw` goes before this.
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.may.create = create;
        self
    }

    /// Whether [`connect`](Self::connect) adds to the tables what they lack, as
    /// [`run_migration`](Self::run_migration) does. Default: no.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.may.migrate = migrate;
        self
    }

    /// How long a statement waits for the lock of another process before it gives
    /// [`StoreError::Busy`]. Default: 5 s. At most a day.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// How long an operation may take, waiting for a connection included, before it gives
    /// [`StoreError::Timeout`]. Default: 5 s. At most a day. The busy timeout is effective only
    /// where it is shorter.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// How many connections for reading are open at most; each has a thread. Default: 8. A number
    /// outside 2 to 1,024 is brought to the nearer end: a walk over all trusts takes one, and
    /// must leave one to the requests that hit.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.clamp(2, MAX_CONNECTIONS);
        self
    }

    /// Whether a committed write survives a power failure, at the cost of one `fsync` a write.
    /// Default: yes, because a revocation that came undone would let its key in again.
    ///
    /// Without it a write still survives the end of the process, and the database is consistent
    /// after any failure; the last writes before a power failure may be lost. For tests and
    /// throw-away databases.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Opens the database, looks at its tables, and closes it again: connections are opened when
    /// they are needed.
    ///
    /// Nothing is changed unless [`create_if_missing`](Self::create_if_missing) or
    /// [`migrate`](Self::migrate) say so. Either also puts the file into WAL mode. A file that was
    /// restored from text is not in that mode: its reads then wait for a write.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`], [`NotFound`](StoreError::NotFound),
    /// [`CannotOpen`](StoreError::CannotOpen), [`NotADatabase`](StoreError::NotADatabase),
    /// [`Schema`](StoreError::Schema) and [`NotMigrated`](StoreError::NotMigrated) tell what is
    /// wrong with the file, in which case nothing was written. [`Timeout`](StoreError::Timeout) and
    /// [`Busy`](StoreError::Busy): another process holds the lock; a file that was to be made may
    /// then be there, empty, and is taken up by the next attempt.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub async fn connect(self) -> Result<SqliteStore, StoreError> {
        let (path, may) = self.locate(None).await?;
        let options = self.connection(&path);
        within(
            self.query_timeout,
            schema::open(&options.clone().create_if_missing(may.create), &path, may),
        )
        .await?;

        // In WAL mode NORMAL syncs at checkpoints only, and FULL after each commit as well.
        let synchronous =
            if self.durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        // Never made by the pools: a file that was removed meanwhile is an error, not an empty
        // database.
        let options = options.synchronous(synchronous);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(self.query_timeout)
                // A connection to a file does not go stale, so none is checked before use or closed
                // for its age.
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone())
        };
        let (readers, writer, watchers) = (pool(self.max_connections), pool(1), pool(MAX_WATCHERS));
        let opened = move || {
            creation::warn_if_public(&path);
            File::at(path)
        };
        let file = blocking_within(self.query_timeout, opened).await?;
        Ok(SqliteStore::new(readers, writer, watchers, file, self.query_timeout, self.durable))
    }

    /// Reads what the tables lack, and returns the SQL that [`run_migration`](Self::run_migration)
    /// would run. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub async fn plan_migration(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        within(self.query_timeout, schema::plan(&self.connection(&path), &path)).await
    }

    /// Adds what the tables lack, or makes them in an empty file, and returns what was done: an
    /// empty plan if there was nothing to do.
    ///
    /// One transaction, which waits for another process that does the same, and rewrites no row.
    /// Before it, the file is put into WAL mode if it is not.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub async fn run_migration(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        within(self.query_timeout, schema::migrate(&self.connection(&path), &path)).await
    }

    /// The file, and what may be done with it; an error if it is missing and may not be made, which
    /// `create` decides before all else.
    async fn locate(&self, create: Option<bool>) -> Result<(PathBuf, Permission), StoreError> {
        let location = Location::parse(&self.database)?;
        let create = create.or(location.create).unwrap_or(self.may.create);
        let may = Permission { create, ..self.may };
        // A file system may hang.
        let (location, found) = blocking_within(self.query_timeout, move || {
            let found = creation::find_or_make(&location, create);
            (location, found)
        })
        .await?;
        if !found? {
            return Err(StoreError::NotFound { path: location.path });
        }
        Ok((location.path, may))
    }

    /// How a connection to the file is opened, which it does not make.
    ///
    /// No settings that read the file: a connection that fails on them closes some time later, one
    /// that is open is waited for.
    fn connection(&self, path: &Path) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(self.busy_timeout)
            .disable_statement_logging()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trust_key_cache::KeyHash;

    use crate::{NewTrust, SqliteStore, TrustLedger, TrustStore};

    /// With one connection they would time out while a walk has it.
    #[tokio::test]
    async fn however_few_connections_there_are_a_walk_leaves_one_to_the_hits() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteStore::options(folder.path().join("trusts.db"))
            .create_if_missing(true)
            .durable(false);
        let store = options
            .max_connections(1)
            .query_timeout(Duration::from_secs(10))
            .connect()
            .await
            .unwrap();
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await.unwrap();
        let walk = store.readers.acquire().await.unwrap();
        assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
        drop(walk);
    }
}
