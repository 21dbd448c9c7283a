//! [`PostgresStore`]: the trusts in a table of PostgreSQL.
//!
//! Every operation has a time limit, here and on the server, every write is one transaction, no
//! statement looks a row up by its digest, and nothing is read from a replica.

mod canary;
mod connection_string;
mod dial;
mod failure;
mod location;
mod notice;
mod options;
mod parameters;
mod password;
mod pool;
mod rights;
mod row;
mod schema;
mod server;
mod service_file;
mod tls;
mod trigger_watch;
mod tunnel;
mod watch;
mod write_check;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_key_cache::KeyHash;
use uuid::Uuid;

pub use options::PostgresOptions;

use self::failure::{failed, is_lost};
use self::pool::{Connector, Lent, Pool};
use crate::row_warnings::RowWarnings;
use crate::text_flaw::nfc;
use crate::trust::now;
use crate::{
    Candidates, Change, Listing, NewTrust, StoreError, Trust, TrustLedger, TrustRef, TrustStore,
};

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
    readers: Pool,
    writers: Pool,
    connector: Connector,
    missing_triggers: Arc<[String]>,
    warnings: Arc<RowWarnings>,
}

/// A transaction. Dropped without [`commit`](Self::commit), its connection is closed, and the
/// server rolls back.
struct Write<'a> {
    lent: Lent,
    store: &'a PostgresStore,
    commit_sent: &'a AtomicBool,
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
                let _ =
                    tokio::time::timeout(CLOSING, sqlx::Connection::close(connection.connection))
                        .await;
            }
        }
    }

    /// Closes the idle connections that are too old, or lead to another server than the address
    /// does.
    fn close_unfit(&self) {
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

    fn new(
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
    async fn within<T>(
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
        match tokio::time::timeout(limit, operation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::Timeout { after: limit }),
        }
    }

    /// Runs a change under the query timeout. Once the server is told to commit, a lost connection
    /// leaves the outcome unknown.
    async fn change<T>(
        &self,
        commit_sent: &AtomicBool,
        rights: &[&str],
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.within(rights, operation).await {
            // Relaxed: this task has stored it.
            Err(StoreError::Timeout { .. } | StoreError::Unreachable)
                if commit_sent.load(Ordering::Relaxed) =>
            {
                Err(StoreError::OutcomeUnknown)
            }
            outcome => outcome,
        }
    }

    /// What to make of an error of the driver.
    fn failed(&self, error: &sqlx::Error) -> StoreError {
        failed(error, &self.connector.location, self.connector.query_timeout)
    }

    /// Reads rows, each through `read`, whose first column tells whether the server is a replica.
    ///
    /// A connection that was used before may have died meanwhile, as after a restart of the server:
    /// the read is then done once more, on a new one.
    async fn rows<T: Send + Unpin>(
        &self,
        sql: &'static str,
        id: Option<Uuid>,
        read: impl Fn(&PgRow) -> T + Send + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let mut may_repeat = true;
        loop {
            let mut lent = Lent::from(&self.readers).await?;
            let query = match id {
                Some(id) => sqlx::query(sql).bind(id),
                None => sqlx::query(sql),
            };
            let rows = query
                .try_map(|row| Ok((!row::is_replica(&row)).then(|| read(&row))))
                .fetch_all(lent.connection()?)
                .await;
            match rows {
                Ok(rows) => {
                    let rows: Option<Vec<T>> = rows.into_iter().collect();
                    let Some(rows) = rows else {
                        return Err(StoreError::ReadOnly { server: self.server() });
                    };
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) if may_repeat && is_lost(&error) && !lent.is_fresh() => {
                    may_repeat = false;
                    // What has befallen one of them has befallen all, as a rule.
                    drop(self.readers.retain(|_, _| false));
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    async fn begin<'a>(&'a self, commit_sent: &'a AtomicBool) -> Result<Write<'a>, StoreError> {
        let mut may_repeat = true;
        loop {
            let mut lent = Lent::from(&self.writers).await?;
            // Each statement sees what was committed before it, whatever the database's default.
            // READ WRITE is refused by a server that has become a replica.
            let begun = sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
                .execute(lent.connection()?)
                .await;
            match begun {
                Ok(_) => return Ok(Write { lent, store: self, commit_sent }),
                Err(error) if may_repeat && is_lost(&error) && !lent.is_fresh() => {
                    may_repeat = false;
                    drop(self.writers.retain(|_, _| false));
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }
}

impl TrustStore for PostgresStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        // Always one row, so that the server's answer to the question is there too where the trust
        // is not.
        let sql = "SELECT server.is_replica, id, name::text, code::text, region::text, api_key_hash::text, \
                   created_at::timestamptz, last_heartbeat::timestamptz, disabled_at::timestamptz \
                   FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN trust ON id = $1";
        let found = self
            .within(rights::READ, self.rows(sql, Some(id), |row| row::columns(row, &self.warnings)))
            .await?;
        let Some(columns) = found.into_iter().next().transpose()?.flatten() else {
            return Ok(None);
        };
        columns.trust(&self.warnings).map(Some)
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let sql = "SELECT server.is_replica, id, api_key_hash::text \
                   FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
                   LEFT JOIN trust ON api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY created_at, id";
        let rows = self
            .within(rights::READ, self.rows(sql, None, |row| row::candidate(row, &self.warnings)))
            .await?;
        let mut candidates = Candidates::with_capacity(rows.len());
        for (id, hash) in rows.into_iter().flatten() {
            candidates.push(id, hash);
        }
        Ok(candidates)
    }
}

impl TrustLedger for PostgresStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let commit_sent = AtomicBool::new(false);
        self.change(&commit_sent, rights::INSERT, async {
            let trust = new.into_trust(hash);
            let mut write = self.begin(&commit_sent).await?;
            let query = sqlx::query(
                "INSERT INTO trust (id, name, code, region, api_key_hash, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6::text::timestamptz) ON CONFLICT (name) DO NOTHING",
            )
            .bind(trust.id)
            .bind(&trust.name)
            .bind(&trust.code)
            .bind(&trust.region)
            .bind(hash.to_string())
            .bind(trust.created_at.map(time_text).transpose()?);
            let done = query
                .execute(write.lent.connection()?)
                .await
                .map_err(|error| self.failed(&error))?;
            if done.rows_affected() == 0 {
                return Err(write.not_inserted(trust.name).await);
            }
            write.commit().await?;
            Ok(trust)
        })
        .await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        let commit_sent = AtomicBool::new(false);
        self.change(&commit_sent, rights::UPDATE, async {
            let mut write = self.begin(&commit_sent).await?;
            let mut trust = write.find(which).await?;
            let query = sqlx::query("UPDATE trust SET api_key_hash = $2 WHERE id = $1")
                .bind(trust.id)
                .bind(hash.to_string());
            let done = query
                .execute(write.lent.connection()?)
                .await
                .map_err(|error| self.failed(&error))?;
            write.changed(done.rows_affected())?;
            write.holds(trust.id, |found| found.api_key_hash == Some(hash)).await?;
            write.commit().await?;
            let former_hash = trust.api_key_hash.replace(hash);
            Ok(Change { trust, former_hash })
        })
        .await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        let commit_sent = AtomicBool::new(false);
        self.change(&commit_sent, rights::UPDATE, async {
            let mut write = self.begin(&commit_sent).await?;
            let mut trust = write.find(which).await?;
            trust.disabled_at =
                if enabled { None } else { trust.disabled_at.or_else(|| Some(now())) };
            let query =
                sqlx::query("UPDATE trust SET disabled_at = $2::text::timestamptz WHERE id = $1")
                    .bind(trust.id)
                    .bind(trust.disabled_at.map(time_text).transpose()?);
            let done = query
                .execute(write.lent.connection()?)
                .await
                .map_err(|error| self.failed(&error))?;
            write.changed(done.rows_affected())?;
            write.holds(trust.id, |found| found.is_enabled() == enabled).await?;
            write.commit().await?;
            let former_hash = trust.api_key_hash;
            Ok(Change { trust, former_hash })
        })
        .await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        let commit_sent = AtomicBool::new(false);
        self.change(&commit_sent, rights::DELETE, async {
            let mut write = self.begin(&commit_sent).await?;
            let trust = write.find(which).await?;
            let query = sqlx::query("DELETE FROM trust WHERE id = $1").bind(trust.id);
            let done = query
                .execute(write.lent.connection()?)
                .await
                .map_err(|error| self.failed(&error))?;
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
        let sql = "SELECT server.is_replica, id, name::text, code::text, region::text, api_key_hash::text, \
                   created_at::timestamptz, last_heartbeat::timestamptz, disabled_at::timestamptz \
                   FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN trust ON true \
                   ORDER BY name COLLATE \"C\"";
        let rows = self
            .within(rights::READ, self.rows(sql, None, |row| row::columns(row, &self.warnings)))
            .await?;
        let mut listing = Listing::default();
        for columns in rows {
            if let Some(columns) = columns? {
                columns.list(&mut listing);
            }
        }
        Ok(listing)
    }
}

impl Write<'_> {
    /// The row that an operator means, locked until the end of the transaction.
    async fn find(&mut self, which: &TrustRef) -> Result<Trust, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query(
                "SELECT FALSE, id, name::text, code::text, region::text, api_key_hash::text, \
                 created_at::timestamptz, last_heartbeat::timestamptz, disabled_at::timestamptz \
                 FROM trust WHERE id = $1 FOR UPDATE",
            )
            .bind(*id),
            // No text of PostgreSQL contains it, and none may be asked for.
            TrustRef::Name(name) if name.contains('\0') => {
                return Err(StoreError::NoSuchTrust { which: which.clone() });
            }
            // To the letter, whatever the column's collation, and by the operator of PostgreSQL
            // itself: for `varchar` somebody else may have made one.
            TrustRef::Name(name) => sqlx::query(
                "SELECT FALSE, id, name::text, code::text, region::text, api_key_hash::text, \
                 created_at::timestamptz, last_heartbeat::timestamptz, disabled_at::timestamptz \
                 FROM trust WHERE name::text COLLATE \"C\" IN ($1, $2) \
                 ORDER BY name::text COLLATE \"C\" <> $1 LIMIT 1 FOR UPDATE",
            )
            .bind(name)
            .bind(nfc(name)),
        };
        let row = query.fetch_optional(self.lent.connection()?).await;
        let row = row.map_err(|error| self.store.failed(&error))?;
        match row.as_ref().map(|row| row::columns(row, &self.store.warnings)).transpose()?.flatten() {
            Some(columns) => Ok(columns.for_change(&self.store.warnings)),
            None if self.is_hidden(which).await? => Err(StoreError::MissingRight {
                server: self.store.server(),
                right: "a policy by which row-level security lets it change this row of the table `trust`; \
                        let the table's owner make one"
                    .into(),
            }),
            None => Err(StoreError::NoSuchTrust { which: which.clone() }),
        }
    }

    /// Whether row-level security lets the role read the row, and not change it:
    /// [`find`](Self::find) then finds nothing.
    async fn is_hidden(&mut self, which: &TrustRef) -> Result<bool, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query_scalar(
                "SELECT row_security_active('trust') AND EXISTS (SELECT FROM trust WHERE id = $1)",
            )
            .bind(*id),
            TrustRef::Name(name) => sqlx::query_scalar(
                "SELECT row_security_active('trust') AND EXISTS \
                 (SELECT FROM trust WHERE name::text COLLATE \"C\" IN ($1, $2))",
            )
            .bind(name)
            .bind(nfc(name)),
        };
        query.fetch_one(self.lent.connection()?).await.map_err(|error| self.store.failed(&error))
    }

    /// Makes sure that the row is as it was told to be after all triggers, those that run at the
    /// commit excepted.
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
            Err(StoreError::NoSuchTrust { .. }) => failure::schema(
                &self.store.connector.location,
                "it did not take the row that it was given; look for a trigger or a rule on its table `trust`",
            ),
            Err(error) => error,
        }
    }

    /// Makes sure that a statement has changed the row that was found, and nothing else. Whoever is
    /// told of a revocation relies on it.
    fn changed(&self, rows: u64) -> Result<(), StoreError> {
        if rows == 1 {
            return Ok(());
        }
        let reason = "it did not change the row that it was told to; look for a trigger on its table `trust`";
        Err(failure::schema(&self.store.connector.location, reason))
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        // Relaxed: read by the same task.
        self.commit_sent.store(true, Ordering::Relaxed);
        let done = sqlx::raw_sql("COMMIT").execute(self.lent.connection()?).await;
        done.map_err(|error| self.store.failed(&error))?;
        self.lent.give_back();
        Ok(())
    }
}

fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("server", &self.connector.location)
            .field("query_timeout", &self.connector.query_timeout)
            .finish_non_exhaustive()
    }
}
