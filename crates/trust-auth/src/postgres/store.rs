//! [`PostgresStore`]: the connections to a database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;

use super::failure::failed;
use super::options::PostgresOptions;
use super::parameters;
use super::pool::{self, Connector, Pool};
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::time_limit;

/// How long closing may take. Connections that take longer are cut.
const CLOSING: Duration = Duration::from_secs(1);

/// The trusts in the table `trust` of a PostgreSQL database (made for version 15), through pools of
/// connections. A clone shares them.
///
/// The table may be one that another program has made and uses; its rows and columns stay as they
/// are. Which schema it is in is told by the role's `search_path`, or by `options[search_path]` in
/// the URL.
///
/// # What is promised
///
/// * **Live reads.** A connection to a replica, or to a server that takes no writes, is refused as
///   [`StoreError::ReadOnly`], and each read carries the question along, so that a pooler that
///   changes servers does not go unnoticed.
/// * **Bounded time.** Connecting, waiting for a connection, waiting for a lock, and each operation
///   as a whole have limits ([`PostgresOptions`]), kept here and, for statements, on the server as
///   well.
/// * **One server.** The newest connection shows which server the address leads to; a connection to
///   another one, as to an old primary after a failover, is closed before its next use. A change is
///   made on a connection that is at most 5 s old.
/// * **Recovery.** Connections are made when they are needed. One that died in the pool is replaced
///   within the read that finds it dead, so that the first request after the server's return is
///   answered.
/// * **Durability.** A commit is on disk when it is reported, also where `synchronous_commit` is
///   off for the database: a revocation that came undone would let its key in again.
///
/// Statements are prepared, once for each connection. They do not survive PgBouncer's transaction
/// pooling before its version 1.21, and `LISTEN` does not survive it at all: [`StoreError::Deaf`]
/// reports both. Connect to PostgreSQL itself, or through a pooler in session mode.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use trust_auth::{Authenticator, PostgresStore, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(PostgresStore::options("postgres://trust_auth@db.example/trusts").connect().await?);
/// let cache = Arc::new(TrustKeyCache::new());
/// // Evicts what other processes change; keep it as long as the cache.
/// let watcher = store.watch(Arc::clone(&cache));
/// let authenticator = Authenticator::new(store, cache);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pub(super) readers: Pool,
    pub(super) writers: Pool,
    pub(super) connector: Connector,
    pub(super) missing_triggers: Arc<[String]>,
    pub(super) warnings: Arc<RowWarnings>,
}

impl PostgresStore {
    /// Returns whether a text is meant for PostgreSQL: a URL of its schemes, or `name=value` pairs
    /// that begin with a parameter of libpq, as in `host=db.example dbname=trusts`.
    ///
    /// ```
    /// use trust_auth::PostgresStore;
    ///
    /// assert!(PostgresStore::recognizes("postgres:///trusts?host=/run/postgresql"));
    /// assert!(PostgresStore::recognizes("host=db.example dbname=trusts"));
    /// assert!(!PostgresStore::recognizes("trusts.db"));
    /// ```
    #[must_use]
    pub fn recognizes(text: &str) -> bool {
        let name = text.split_once('=').map_or("", |(name, _)| name.trim());
        text.starts_with("postgres:")
            || text.starts_with("postgresql:")
            || parameters::find(name).is_some()
    }

    /// How to open a database, by a URL such as
    /// `postgres://user@host:5432/database?sslmode=verify-full` or by `name=value` pairs.
    /// [`PostgresOptions`] says what they may hold.
    ///
    /// Nothing is looked at before [`PostgresOptions::connect`].
    pub fn options(url: &str) -> PostgresOptions {
        PostgresOptions::new(url)
    }

    /// The server and the database, as a URL without user and password.
    #[must_use]
    pub fn server(&self) -> String {
        self.connector.location.to_string()
    }

    /// Closes all connections that nobody uses, waits until they are closed, and closes the others
    /// when they are given back. Operations of any clone give [`StoreError::Unreachable`] from
    /// then on.
    pub async fn close(&self) {
        for pool in [&self.writers, &self.readers] {
            let idle = pool.retain(|_, _| false).removed;
            pool.close();
            for connection in idle {
                // It says goodbye, for the sake of the server's log.
                let _ = tokio::time::timeout(CLOSING, connection.connection.close()).await;
            }
        }
    }

    /// Closes the idle connections that are too old, or lead to another server than the address
    /// does.
    pub(super) fn close_unfit(&self) {
        pool::close_unfit(&self.readers);
        pool::close_unfit(&self.writers);
    }

    /// The names of the triggers that were missing or turned off when the store was opened.
    ///
    /// Without them everything works, and other processes' caches keep a changed key until it
    /// expires: it grants nothing there, because the live row is read. `trust-auth migrate`, or
    /// [`PostgresOptions::run_migration`], makes them. What becomes of them later is in
    /// [`WatchStatus::triggers_missing`](crate::WatchStatus::triggers_missing).
    #[must_use]
    pub fn missing_triggers(&self) -> &[String] {
        &self.missing_triggers
    }

    pub(super) fn new(
        readers: Pool,
        writers: Pool,
        connector: Connector,
        missing_triggers: Vec<String>,
    ) -> Self {
        Self {
            readers,
            writers,
            connector,
            missing_triggers: missing_triggers.into(),
            warnings: Arc::default(),
        }
    }

    /// Runs an operation, which takes these rights, under the query timeout.
    pub(super) async fn within<T>(
        &self,
        rights: &[&str],
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let limit = self.connector.query_timeout;
        let operation = async {
            match operation.await {
                Err(refused @ StoreError::MissingRight { .. }) => {
                    Err(self.name_right(refused, rights).await)
                }
                outcome => outcome,
            }
        };
        time_limit::within(limit, operation).await
    }

    /// What to make of an error of the driver.
    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        failed(error, &self.connector.location, self.connector.query_timeout)
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("server", &self.connector.location)
            .field("query_timeout", &self.connector.query_timeout)
            .finish_non_exhaustive()
    }
}
