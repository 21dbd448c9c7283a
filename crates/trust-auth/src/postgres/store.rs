//! [`PostgresStore`]: the connections to a database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::connector::Connector;
use super::failure::failed;
use super::parameters;
use super::pool::Pool;
use super::rights::Rights;
use super::statements::Statements;
use super::with_keys::WithKeys;
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::time_limit;

/// How long a connection may take to close cleanly. After that time the connection is cut.
const CLOSING: Duration = Duration::from_secs(1);

/// The trusts in the table `trust` of a PostgreSQL database (made for version 15), through pools of
/// connections. A clone shares the pools.
///
/// Another program may have made the table and may use it: its rows and columns stay as they are.
/// Table and columns may have [names](super::PostgresOptions::names) of the application.
/// The role's `search_path`, or `options[search_path]` in the URL, selects the table's schema.
///
/// # Guarantees
///
/// * **Live reads.** A connection to a replica, or to a server that takes no writes, is refused as
///   [`StoreError::ReadOnly`]. Each read also checks that the server is not a replica, so a pooler
///   cannot change servers unnoticed.
/// * **Bounded time.** Connecting, waiting for a connection, waiting for a lock, and each operation
///   as a whole have limits ([`PostgresOptions`](super::PostgresOptions)). This process enforces
///   them. For statements the server does, too.
/// * **One server.** The newest connection shows which server the address leads to. A connection to
///   another server, such as an old primary after a failover, is closed before its next use. A
///   change uses a connection that is at most 5 s old.
/// * **Recovery.** Connections are made when they are needed. A read that finds its pooled
///   connection dead makes a new one, so the first request after the server's return is answered.
/// * **Durability.** A commit is on disk when it is reported, even where `synchronous_commit` is
///   off for the database. Otherwise a power failure could undo a revocation.
///
/// Statements are prepared once for each connection. Prepared statements do not work through
/// PgBouncer's transaction pooling before its version 1.21, and `LISTEN` does not work through any
/// transaction pooling: [`StoreError::Deaf`] reports both. Connect to PostgreSQL itself, or through
/// a pooler in session mode.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use trust_auth::{Authenticator, PostgresStore, TrustKeyCache};
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
/// let options = PostgresStore::options("postgres://trust_auth@db.example/trusts");
/// let store = Arc::new(options.connect().await?);
/// let cache = Arc::new(TrustKeyCache::new());
/// // Evicts what other processes change. Keep the watcher as long as the cache.
/// let watcher = store.watch(Arc::clone(&cache));
/// let authenticator = Authenticator::new(store, cache);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pub(super) readers: Pool,
    pub(super) writers: Pool,
    pub(super) connector: Connector,
    pub(super) statements: Arc<Statements>,
    pub(super) missing_triggers: Arc<[String]>,
    pub(super) warnings: Arc<RowWarnings>,
    pub(super) with_keys: Arc<WithKeys>,
    /// Held by the revocation that watches the holders of a read lease.
    pub(super) watching: Arc<Mutex<()>>,
}

impl PostgresStore {
    /// Returns whether a text is meant for PostgreSQL. Such a text is a URL of its schemes, or
    /// `name=value` pairs that begin with a parameter of libpq, as in
    /// `host=db.example dbname=trusts`.
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

    /// Returns the server and the database, as a URL without user and password.
    #[must_use]
    pub fn server(&self) -> String {
        self.connector.location.to_string()
    }

    /// Closes the idle connections and waits until they are closed. The other connections are
    /// closed at the end of their operations. Later operations of any clone return
    /// [`StoreError::Unreachable`].
    pub async fn close(&self) {
        for pool in [&self.writers, &self.readers] {
            pool.close(CLOSING).await;
        }
    }

    /// Closes the idle connections that are too old, or lead to another server than the address
    /// does now.
    pub(super) fn close_unfit(&self) {
        self.readers.close_unfit();
        self.writers.close_unfit();
    }

    /// Returns the names of the triggers that were missing or turned off when the store was opened.
    ///
    /// Without triggers, other processes' caches keep a changed key until its entry expires. The
    /// entry grants nothing, because the live row is read. `trust-auth migrate` makes the triggers,
    /// as does [`run_migration`](super::PostgresOptions::run_migration).
    /// [`WatchStatus::triggers_missing`](crate::WatchStatus::triggers_missing) reports their later
    /// state.
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
            statements: Arc::new(Statements::new(&connector.names)),
            connector,
            missing_triggers: missing_triggers.into(),
            warnings: Arc::default(),
            with_keys: Arc::default(),
            watching: Arc::default(),
        }
    }

    /// Runs an operation, which needs these rights, under the query timeout.
    pub(super) async fn within<T>(
        &self,
        rights: Rights,
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

    /// Returns the diagnosis of an error of the driver.
    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        failed(error, &self.connector, self.connector.query_timeout)
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
