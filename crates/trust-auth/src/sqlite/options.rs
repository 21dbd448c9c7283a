//! [`SqliteOptions`]: the settings of a store, and the opening of its file. Opening writes nothing
//! unless the options permit it to create or to migrate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};

use super::file::File;
use super::index;
use super::location::Location;
use super::own_pool::{Readers, options_of};
use super::schema::{Owner, Tables};
use super::store::SqliteStore;
use super::{creation, own_pool, schema};
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::migration::Permission;
use crate::table_names::TableNames;
use crate::time_limit::{self, blocking_within, within};

const DEFAULT_CONNECTIONS: u32 = 8;
const MAX_CONNECTIONS: u32 = 1_024;
const MAX_WATCHERS: u32 = 16;

/// The settings of a store. [`SqliteStore::options`] makes them.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{SqliteStore, StoreError};
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
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
    own: Option<SqlitePool>,
    names: TableNames,
}

impl SqliteStore {
    /// Returns the options to open a database: a path, or `sqlite:` and a path with bytes encoded
    /// by `%`.
    ///
    /// Reads nothing and checks nothing before [`SqliteOptions::connect`].
    pub fn options(database: impl AsRef<Path>) -> SqliteOptions {
        SqliteOptions::new(database.as_ref())
    }
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
            own: None,
            names: TableNames::default(),
        }
    }

    pub(super) fn over(self, pool: SqlitePool) -> Self {
        Self { own: Some(pool), ..self }
    }

    /// Sets the names of the tables and columns, where an application's own table takes the place
    /// of `trust`. Default: those of [`TableNames::default`].
    ///
    /// Such a table is never made, nor is its file. [`run_migration`](Self::run_migration) makes
    /// the table of further keys, which refers to it, and adds the columns that it lacks, except
    /// those of the id, the name and the time of creation. The migrations that were run are then in
    /// the table `_trust_auth_migrations`.
    ///
    /// The table has rowids, and a unique index on the id and on the name alone. An id is a
    /// hyphenated UUID in lower case, and a time is RFC 3339 or what `datetime()` writes. A row
    /// without a time of creation is malformed, and grants nothing. Every other column that may not
    /// be null needs a default. The application's connections have foreign keys on, so that a
    /// deletion removes the keys too. Where the name's column has a collation such as `NOCASE`,
    /// commands find it by that, the exact text first.
    ///
    /// [`connect`](Self::connect) checks the names, and returns [`StoreError::UnsupportedUrl`] for
    /// one that cannot be used, and [`StoreError::Schema`] for a table that cannot.
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_auth::{NewTrust, SqliteStore, TableNames, TrustColumn, TrustLedger};
    ///
    /// # type Done = Result<(), Box<dyn std::error::Error>>;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
    /// # let folder = tempfile::tempdir()?;
    /// # let options = sqlx::sqlite::SqliteConnectOptions::new();
    /// # let options = options.filename(folder.path().join("shop.db")).create_if_missing(true);
    /// # let pool = sqlx::SqlitePool::connect_with(options).await?;
    /// sqlx::raw_sql(
    ///     "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, \
    ///      created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    /// )
    /// .execute(&pool)
    /// .await?;
    /// let names = TableNames::default()
    ///     .table("users")
    ///     .key_table("user_keys")
    ///     .column(TrustColumn::Name, "email");
    /// let store = SqliteStore::over(pool).names(names).migrate(true).connect().await?;
    /// assert!(store.list().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn names(mut self, names: TableNames) -> Self {
        self.names = names;
        self
    }

    /// Sets whether to make the file, or the tables in an empty file. Default: no. The folder is
    /// never made.
    ///
    /// A URL's `mode=rwc` or `mode=rw` takes precedence.
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.may.create = create;
        self
    }

    /// Sets whether [`connect`](Self::connect) adds to the tables what they lack, as
    /// [`run_migration`](Self::run_migration) does. Default: no.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.may.migrate = migrate;
        self
    }

    /// Sets how long a statement waits for the lock of another process. After that time the
    /// operation fails with [`StoreError::Busy`]. Default: 5 s. At most a day.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// Sets how long an operation may take, including the wait for a connection. After that time
    /// the operation fails with [`StoreError::Timeout`]. Default: 5 s. At most a day. A longer
    /// busy timeout has no effect.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// Sets how many connections for reads are open at most. Each has a thread. Default: 8. A
    /// number outside of 2 to 1,024 is replaced by the nearer bound. A scan of all trusts
    /// occupies one connection, and must leave one for requests that hit the cache.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.clamp(2, MAX_CONNECTIONS);
        self
    }

    /// Sets whether a committed write survives a power failure, at the cost of one `fsync` a write.
    /// Default: yes. Otherwise a power failure could undo a revocation.
    ///
    /// If not durable, a write still survives the end of the process, and the database is
    /// consistent after any failure. The last writes before a power failure may be lost. This
    /// suits tests and throw-away databases.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Opens the database, checks its tables, and closes it. Connections are opened when they are
    /// needed.
    ///
    /// Changes nothing unless [`create_if_missing`](Self::create_if_missing) or
    /// [`migrate`](Self::migrate) permits it. Either also puts the file into WAL mode. A file that
    /// was restored from text is not in WAL mode, and its reads wait for writes.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`], [`NotFound`](StoreError::NotFound),
    /// [`CannotOpen`](StoreError::CannotOpen), [`NotADatabase`](StoreError::NotADatabase),
    /// [`Schema`](StoreError::Schema) and [`NotMigrated`](StoreError::NotMigrated) report what is
    /// wrong with the file, and nothing was written. [`Timeout`](StoreError::Timeout) and
    /// [`Busy`](StoreError::Busy) mean that another process holds the lock. A new file may then
    /// exist and be empty, and the next attempt uses it.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn connect(self) -> Result<SqliteStore, StoreError> {
        if let Some(own) = &self.own {
            own_pool::check(own)?;
        }
        let (path, may) = self.locate(None).await?;
        let options = self.connection(&path);
        within(
            self.query_timeout,
            schema::open(&options.clone().create_if_missing(may.create), self.tables(&path), may),
        )
        .await?;

        // In WAL mode, NORMAL syncs at checkpoints, and FULL also after each commit.
        let synchronous =
            if self.durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        // The pools make no file: a file that was removed meanwhile is an error, not an empty
        // database.
        let options = options.synchronous(synchronous);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(self.query_timeout)
                // A connection to a file does not become stale, so it needs no test before use and
                // no maximum age.
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone())
        };
        let readers = match &self.own {
            Some(own) => Readers { pool: own.clone(), is_shared: true },
            None => Readers { pool: pool(self.max_connections), is_shared: false },
        };
        let (writer, watchers) = (pool(1), pool(MAX_WATCHERS));
        let opened = move || {
            creation::warn_if_public(&path);
            File::at(path)
        };
        let file = blocking_within(self.query_timeout, opened).await??;
        let (limit, durable) = (self.query_timeout, self.durable);
        Ok(SqliteStore::new(readers, writer, watchers, file, limit, durable, self.names))
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
    /// Outside of a Tokio runtime with time enabled.
    pub async fn plan_migration(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        within(self.query_timeout, schema::plan(&self.connection(&path), self.tables(&path))).await
    }

    /// Adds what the tables lack, or makes the tables in an empty file, and returns what was done.
    /// The plan is empty if there was nothing to do.
    ///
    /// The migration is one transaction, which waits for another process's migration and rewrites
    /// no row. Before the transaction, the file is put into WAL mode.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn run_migration(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        within(self.query_timeout, schema::migrate(&self.connection(&path), self.tables(&path)))
            .await
    }

    /// Returns the SQL that [`make_index`](Self::make_index) would run. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn plan_index(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        within(self.query_timeout, index::plan(&self.connection(&path), &path, &self.names)).await
    }

    /// Makes the index that [`FindBy::Index`](crate::FindBy::Index) needs, unless there is one.
    /// Returns what was done. Other writes wait meanwhile, and so does a second call. No timeout
    /// applies.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn make_index(&self) -> Result<MigrationPlan, StoreError> {
        let (path, _) = self.locate(Some(false)).await?;
        let options = self.connection(&path).busy_timeout(time_limit::LONGEST);
        index::make(&options, &path, &self.names).await
    }

    /// Returns the file, and what may be changed in it. `create` takes precedence over the URL and
    /// the options.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the file is missing and may not be made.
    async fn locate(&self, create: Option<bool>) -> Result<(PathBuf, Permission), StoreError> {
        self.names.checked()?;
        let location = Location::parse(&self.database)?;
        // An application makes its table, and so its file.
        let create = create.or(location.create).unwrap_or(self.may.create) && !self.names.are_own();
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

    fn tables<'a>(&'a self, path: &'a Path) -> Tables<'a> {
        let is_application = self.own.is_some() || self.names.are_own();
        let owner = if is_application { Owner::Application } else { Owner::Program };
        Tables { path, owner, names: &self.names }
    }

    /// Returns the driver's options for an existing file.
    ///
    /// No setting here reads the file. If such a setting failed, the driver would close the
    /// connection some time later, and no caller could wait for that.
    fn connection(&self, path: &Path) -> SqliteConnectOptions {
        let options = self.own.as_ref().map_or_else(SqliteConnectOptions::new, options_of);
        options.filename(path).busy_timeout(self.busy_timeout).disable_statement_logging()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trust_key_cache::KeyHash;

    use crate::{NewTrust, SqliteStore, TrustLedger, TrustStore};

    /// With one connection, hits would time out while a scan occupies the connection.
    #[tokio::test]
    async fn however_few_connections_there_are_a_scan_leaves_one_to_the_hits() {
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
        let scan = store.readers.pool.acquire().await.unwrap();
        assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
        drop(scan);
    }
}
