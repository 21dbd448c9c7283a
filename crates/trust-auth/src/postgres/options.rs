//! [`PostgresOptions`]: the settings of a store, and the opening of its database. Opening changes
//! nothing unless the options permit a change.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;

use super::connection_string::unsupported;
use super::connector::Connector;
use super::index;
use super::location::Location;
use super::password::PasswordSource;
use super::pool::{MAX_WRITER_AGE, Pool};
use super::schema;
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::migration::Permission;
use crate::table_names::TableNames;
use crate::time_limit::{self, blocking_within, within};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_CONNECTIONS: u32 = 8;
const DEFAULT_MAX_AGE: Duration = Duration::from_mins(2);
const LEAST_MAX_AGE: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: u32 = 1_024;

/// The number of connections for writes. They are separate, because a write that waits for a lock
/// must not occupy a connection for reads. There are two, so that one waiting write does not delay
/// the next revocation.
pub(super) const WRITERS: u32 = 2;

/// The settings of a store. [`PostgresStore::options`] makes them.
///
/// # Connection strings
///
/// A connection string has the same meaning as for `psql`. It is a URL, or `name=value` pairs. For
/// other settings, the store reads the connection service file, the variables that begin with `PG`,
/// and the operating system's user. A host that begins with `/` is the folder of a socket. Several
/// hosts are tried in turn until one of them is the primary. A parameter that `psql` supports and
/// this store does not is refused by name.
///
/// With a file of certificate authorities (`sslrootcert`, or `~/.postgresql/root.crt`), one of
/// these authorities must have issued the server's certificate, in every `sslmode` that uses TLS.
/// `sslrootcert=system` uses the system's authorities.
///
/// # Passwords
///
/// Each new connection reads the password again. The sources are the connection string, the
/// service, `PGPASSWORD` and the password file of libpq. [`password_file`](Self::password_file) or
/// [`password_command`](Self::password_command) names another source.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{PostgresStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// // No server listens there.
/// let refused = PostgresStore::options("postgres://trust_auth@127.0.0.1:1/trusts")
///     .connect_timeout(Duration::from_secs(1))
///     .query_timeout(Duration::from_secs(2))
///     .connect()
///     .await
///     .unwrap_err();
/// assert_eq!(refused.kind(), "cannot_connect");
/// # }
/// ```
#[derive(Clone)]
#[must_use = "options open nothing until `connect`"]
pub struct PostgresOptions {
    /// May contain a password.
    url: String,
    password: PasswordSource,
    may: Permission,
    connect_timeout: Option<Duration>,
    acquire_timeout: Duration,
    lock_timeout: Duration,
    query_timeout: Duration,
    max_connections: u32,
    max_connection_age: Duration,
    own: Option<PgPool>,
    names: TableNames,
}

impl PostgresStore {
    /// Returns the options to open a database. The text is a URL such as
    /// `postgres://user@host:5432/database?sslmode=verify-full`, or `name=value` pairs.
    /// [`PostgresOptions`] describes both.
    ///
    /// Reads nothing and checks nothing before [`PostgresOptions::connect`].
    pub fn options(url: &str) -> PostgresOptions {
        PostgresOptions::new(url)
    }
}

impl PostgresOptions {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            password: PasswordSource::Location,
            may: Permission::default(),
            connect_timeout: None,
            acquire_timeout: time_limit::DEFAULT,
            lock_timeout: time_limit::DEFAULT,
            query_timeout: time_limit::DEFAULT,
            max_connections: DEFAULT_CONNECTIONS,
            max_connection_age: DEFAULT_MAX_AGE,
            own: None,
            names: TableNames::default(),
        }
    }

    pub(super) fn over(self, pool: PgPool) -> Self {
        Self { own: Some(pool), ..self }
    }

    /// Sets the names of the tables and columns, where an application's own table takes the place
    /// of `trust`. Default: those of [`TableNames::default`].
    ///
    /// [`connect`](Self::connect) checks them, and returns [`StoreError::UnsupportedUrl`] for a
    /// name that cannot be used.
    pub fn names(mut self, names: TableNames) -> Self {
        self.names = names;
        self
    }

    /// Sets whether to make the table `trust` where there is none. Default: no. The database is
    /// never made.
    ///
    /// An existing table is only checked; see [`migrate`](Self::migrate). A table of other
    /// [names](Self::names) is the application's, and is never made.
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.may.create = create;
        self
    }

    /// Sets whether [`connect`](Self::connect) makes the table or adds what it lacks, as
    /// [`run_migration`](Self::run_migration) does. Default: no.
    ///
    /// If the role may not make the triggers, they are left out with a warning, because no grant
    /// needs them; see [`PostgresStore::missing_triggers`].
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.may.migrate = migrate;
        self
    }

    /// Sets how long it may take to connect, log in and find the primary. After that time the
    /// operation fails with [`StoreError::CannotConnect`]. At most a day.
    ///
    /// Several servers share the time. Default: the connection string's `connect_timeout` for each
    /// server, or else 2 s for all servers together.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout.min(time_limit::LONGEST));
        self
    }

    /// Reads the password from this file, which contains the password and at most one newline. Each
    /// new connection reads the file again, so the password may change while the process runs.
    ///
    /// The file takes precedence over `PGPASSWORD` and the file of `PGPASSFILE`. A connection
    /// string that also has a password is refused.
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password = PasswordSource::File(path.into());
        self
    }

    /// Reads the password from the standard output of this program, without one newline at the end.
    /// This suits tokens that are valid for minutes. New connections run the program again, and
    /// connections within five seconds share one run.
    ///
    /// No shell is started. The program is killed if it does not end within the time to connect. It
    /// has no standard input, and its standard error is discarded. The precedence is that of
    /// [`password_file`](Self::password_file).
    pub fn password_command<A: Into<OsString>>(
        mut self,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.password = PasswordSource::Command {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            last: Arc::default(),
        };
        self
    }

    /// Sets how long an operation waits for one of the connections. After that time the operation
    /// fails with [`StoreError::Timeout`]. Default: 5 s. At most a day. A limit longer than the
    /// query timeout has no effect.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// Sets how long a statement waits for the lock of another session. After that time the
    /// operation fails with [`StoreError::Busy`]. The server enforces this limit (`lock_timeout`).
    /// Default: 5 s. At most a day. A limit longer than nine tenths of the query timeout has no
    /// effect.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// Sets how long an operation may take, including the wait for a connection and the connecting.
    /// After that time the operation fails with [`StoreError::Timeout`]. Default: 5 s. At most a
    /// day.
    ///
    /// The server enforces nine tenths of the limit for each statement (`statement_timeout`), so
    /// that no statement runs on after its caller has given up.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// Sets how many connections are open at most for reads. Default: 8. A number outside of 2 to
    /// 1,024 is replaced by the nearer bound. A scan of all trusts occupies one connection, and
    /// must leave one for requests that hit the cache.
    ///
    /// Changes open two more connections, and each [`watch`](PostgresStore::watch) opens one.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.clamp(2, MAX_CONNECTIONS);
        self
    }

    /// Sets the age at which a connection is replaced. Default: 2 min. At least 1 s, at most a day.
    /// The age of each connection varies at random, and is up to a quarter shorter. Connections for
    /// writes are replaced after at most 5 s.
    ///
    /// This bounds how long an old primary is read after a failover that moves the address and does
    /// not cut the connections. A [`watch`](PostgresStore::watch) finds the new server within
    /// seconds, if that server accepts connections.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = age.clamp(LEAST_MAX_AGE, time_limit::LONGEST);
        self
    }

    /// Connects, checks the table, and closes the connection. Other connections are opened when
    /// they are needed.
    ///
    /// Changes nothing unless [`create_if_missing`](Self::create_if_missing) or
    /// [`migrate`](Self::migrate) permits it. Any role that can read the table may connect. To make
    /// or extend the table, the role must own it.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`], [`CannotConnect`](StoreError::CannotConnect),
    /// [`ReadOnly`](StoreError::ReadOnly), [`Schema`](StoreError::Schema),
    /// [`NotMigrated`](StoreError::NotMigrated) and [`MissingRight`](StoreError::MissingRight)
    /// report what is wrong, and nothing was changed. [`Timeout`](StoreError::Timeout) and
    /// [`Busy`](StoreError::Busy) mean that another session holds a lock. Missing triggers are no
    /// error: [`PostgresStore::missing_triggers`] names them.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn connect(self) -> Result<PostgresStore, StoreError> {
        let connector = self.connector().await?;
        let triggers = within(self.query_timeout, schema::open(&connector, self.may)).await?;
        let readers = match self.own {
            Some(pool) => {
                let readers = Pool::shared(pool, self.acquire_timeout);
                within(self.query_timeout, connector.check_shared(&readers)).await?;
                readers
            }
            None => connector.clone().pool(self.max_connections, self.acquire_timeout)?,
        };
        let for_writes =
            Connector { max_age: connector.max_age.min(MAX_WRITER_AGE), ..connector.clone() };
        let writers = for_writes.pool(WRITERS, self.acquire_timeout)?;
        Ok(PostgresStore::new(readers, writers, connector, triggers.missing))
    }

    /// Reads what the table lacks, triggers included, and returns the SQL that
    /// [`run_migration`](Self::run_migration) would run. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn plan_migration(&self) -> Result<MigrationPlan, StoreError> {
        within(self.query_timeout, schema::plan(&self.connector().await?)).await
    }

    /// Makes the table or adds what it lacks, and returns what was done. The plan is empty if there
    /// was nothing to do.
    ///
    /// The migration is one transaction, which waits for another process's migration. It adds
    /// columns that may be null, the table of the keys, the triggers and their function, and
    /// rewrites no row. The role must own the table, and have the right to create in its schema.
    /// A table of other [names](Self::names) must be there, with the columns for the id, the name,
    /// the digest and the time of creation; two such tables of one schema share nothing.
    ///
    /// On the table of the keys, each role has the rights that its rights on the whole table of the
    /// trusts include: `INSERT` and `UPDATE` for `UPDATE`, and otherwise the same. Row-level
    /// security of the trusts also limits the keys.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). Nothing was changed, except that after
    /// [`Timeout`](StoreError::Timeout) or [`Unreachable`](StoreError::Unreachable) the transaction
    /// may have been committed: run the migration again.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn run_migration(&self) -> Result<MigrationPlan, StoreError> {
        within(self.query_timeout, schema::migrate(&self.connector().await?)).await
    }

    /// Returns the SQL that [`make_index`](Self::make_index) would run. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn plan_index(&self) -> Result<MigrationPlan, StoreError> {
        within(self.query_timeout, index::plan(&self.connector().await?)).await
    }

    /// Makes the index that [`FindBy::Index`](crate::FindBy::Index) needs, unless there is one that
    /// can be used. Returns what was done.
    ///
    /// `CREATE INDEX CONCURRENTLY` runs outside of a transaction, and keeps no write out. It waits
    /// for every transaction that is open, so no timeout but that of connecting applies. If it is
    /// interrupted, it leaves an index that is not valid, which the next attempt drops. A second
    /// call at the same time waits for the first, and a call also waits while another program
    /// makes an index of the table. The role must own the table.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn make_index(&self) -> Result<MigrationPlan, StoreError> {
        let patient = self.clone().query_timeout(time_limit::LONGEST);
        let patient = patient.lock_timeout(time_limit::LONGEST);
        index::make(&patient.connector().await?).await
    }

    pub(super) async fn connector(&self) -> Result<Connector, StoreError> {
        self.names.checked()?;
        let names = Arc::new(self.names.clone());
        if let Some(pool) = &self.own {
            let timeout = self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
            return Ok(Connector {
                location: Location::of_pool(pool),
                own: Some(pool.connect_options()),
                password: PasswordSource::Location,
                host_timeout: timeout,
                connect_timeout: timeout,
                query_timeout: self.query_timeout,
                lock_timeout: self.lock_timeout,
                max_age: self.max_connection_age,
                current: Arc::default(),
                names,
            });
        }
        let url = self.url.clone();
        // Reads the service file, and a file system may hang.
        let location = blocking_within(self.query_timeout, move || Location::parse(&url)).await??;
        if location.has_own_password && !matches!(self.password, PasswordSource::Location) {
            return Err(unsupported(
                "it has a password, and a password file or command is given, too; leave one of \
                 them out",
            ));
        }
        let (host_timeout, connect_timeout) = self.connect_timeouts(&location);
        Ok(Connector {
            location,
            own: None,
            password: self.password.clone(),
            host_timeout,
            connect_timeout,
            query_timeout: self.query_timeout,
            lock_timeout: self.lock_timeout,
            max_age: self.max_connection_age,
            current: Arc::default(),
            names,
        })
    }

    pub(super) fn table_names(&self) -> &TableNames {
        &self.names
    }

    pub(super) fn acquire_limit(&self) -> Duration {
        self.acquire_timeout
    }

    /// Returns the limit for one server, and the limit for all servers together.
    fn connect_timeouts(&self, location: &Location) -> (Duration, Duration) {
        let hosts = u32::try_from(location.hosts.len()).unwrap_or(u32::MAX);
        match (self.connect_timeout, location.connect_timeout) {
            (None, Some(Duration::ZERO)) => (time_limit::LONGEST, time_limit::LONGEST),
            (None, Some(each)) => {
                (each.min(time_limit::LONGEST), each.saturating_mul(hosts).min(time_limit::LONGEST))
            }
            (all, _) => {
                let all = all.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
                (all / hosts, all)
            }
        }
    }
}

/// Leaves out the URL, which may contain a password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("create_if_missing", &self.may.create)
            .field("migrate", &self.may.migrate)
            .field("connect_timeout", &self.connect_timeout)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("max_connections", &self.max_connections)
            .field("max_connection_age", &self.max_connection_age)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::PostgresStore;

    #[test]
    fn the_debug_output_has_the_limits_and_not_the_url() {
        let options =
            PostgresStore::options("postgres://admin:hunter2@db.example/trusts").max_connections(7);
        let shown = format!("{options:?}");
        assert!(shown.contains("max_connections: 7") && !shown.contains("hunter2"), "{shown}");
    }
}
