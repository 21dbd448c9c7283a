//! [`PostgresOptions`]: how to open a database, and the opening itself, which changes nothing
//! unless it was told to.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::connection_string::unsupported;
use super::location::Location;
use super::password::PasswordSource;
use super::pool::{Connector, MAX_WRITER_AGE};
use super::schema;
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::migration::Permission;
use crate::time_limit::{self, blocking_within, within};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_CONNECTIONS: u32 = 8;
const DEFAULT_MAX_AGE: Duration = Duration::from_mins(2);
const LEAST_MAX_AGE: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: u32 = 1_024;

/// Writes are few, and those that wait for a lock must not take the connections that reads could
/// use. Two, so that one of them does not keep the next revocation waiting.
pub(super) const WRITERS: u32 = 2;

/// How to open a database; made by [`PostgresStore::options`].
///
/// # Connection strings
///
/// A connection string means what it means to `psql`: a URL or `name=value` pairs, whose gaps are
/// filled by the connection service file, by the variables that begin with `PG`, and by the
/// operating system's user. A host that begins with `/` is the folder of a socket; several hosts
/// are tried in turn until one of them is the primary. A parameter that `psql` takes and this store
/// does not is refused by its name.
///
/// With a file of certificate authorities (`sslrootcert`, or `~/.postgresql/root.crt`), the
/// server's certificate must come from one of them in every `sslmode` that uses TLS.
/// `sslrootcert=system` takes the system's.
///
/// # Passwords
///
/// Each new connection looks for the password again: in the connection string, the service,
/// `PGPASSWORD` and the password file of libpq, or in what [`password_file`](Self::password_file)
/// or [`password_command`](Self::password_command) names.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{PostgresStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// // Nobody listens there.
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
    /// May hold a password.
    url: String,
    password: PasswordSource,
    may: Permission,
    connect_timeout: Option<Duration>,
    acquire_timeout: Duration,
    lock_timeout: Duration,
    query_timeout: Duration,
    max_connections: u32,
    max_connection_age: Duration,
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
        }
    }

    /// Whether to make the table `trust` where there is none. Default: no. The database is never
    /// made.
    ///
    /// A table that is there is only looked at; see [`migrate`](Self::migrate).
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.may.create = create;
        self
    }

    /// Whether [`connect`](Self::connect) adds to the table what it lacks, as
    /// [`run_migration`](Self::run_migration) does, or makes it. Default: no.
    ///
    /// Triggers that the role may not make are left out with a warning, because no grant needs
    /// them; see [`PostgresStore::missing_triggers`].
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.may.migrate = migrate;
        self
    }

    /// How long it may take to connect, log in and find the primary, before it gives
    /// [`StoreError::CannotConnect`]. At most a day. Several servers share the time. Default: for
    /// each server what the connection string's `connect_timeout` gives, and where it gives
    /// nothing, 2 s for all servers.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout.min(time_limit::LONGEST));
        self
    }

    /// Takes the password from this file, whose content is the password and at most one newline.
    /// Each new connection reads the file again, so that the password may change while the process
    /// runs.
    ///
    /// The file goes before `PGPASSWORD` and the file of `PGPASSFILE`. A connection string with a
    /// password of its own is then refused.
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password = PasswordSource::File(path.into());
        self
    }

    /// Takes the password from the standard output of this program, less one newline at its end:
    /// for tokens that hold for minutes. New connections run the program again; those of the same
    /// five seconds share one run.
    ///
    /// No shell is started. The program ends within the time to connect, or is killed. It gets no
    /// standard input, and what it writes to standard error is dropped. The order is that of
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

    /// How long an operation waits for one of the connections, before it gives
    /// [`StoreError::Timeout`]. Default: 5 s. At most a day. Effective only where it is shorter
    /// than the query timeout.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// How long a statement waits for the lock of another session before it gives
    /// [`StoreError::Busy`]; the server keeps this time (`lock_timeout`). Default: 5 s. At most
    /// a day. Effective only where it is shorter than nine tenths of the query timeout.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// How long an operation may take, waiting for a connection and connecting included, before it
    /// gives [`StoreError::Timeout`]. Default: 5 s. At most a day.
    ///
    /// The server keeps nine tenths of it for each statement (`statement_timeout`), so that it does
    /// not work on for nobody.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = timeout.min(time_limit::LONGEST);
        self
    }

    /// How many connections are open at most for reads. Default: 8. A number outside 2 to 1,024 is
    /// brought to the nearer end: a walk over all trusts takes one, and must leave one to the
    /// requests that hit.
    ///
    /// Two more are opened when there is something to write, and one for each
    /// [`watch`](PostgresStore::watch).
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.clamp(2, MAX_CONNECTIONS);
        self
    }

    /// How old a connection may become before it is replaced. Default: 2 min. At least 1 s, at most
    /// a day. Each connection lasts for a time of its own, up to a quarter shorter. Connections
    /// for writes last for 5 s at most.
    ///
    /// This bounds how long an old primary is read after a failover that moved the address and left
    /// the connections up, where nothing else finds out: [`watch`](PostgresStore::watch) does
    /// within seconds, if the new server accepts connections.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = age.clamp(LEAST_MAX_AGE, time_limit::LONGEST);
        self
    }

    /// Connects, looks at the table, and closes the connection again: others are opened when they
    /// are needed.
    ///
    /// Nothing is changed unless [`create_if_missing`](Self::create_if_missing) or
    /// [`migrate`](Self::migrate) say so. Any role that can read the table will do; making or
    /// extending it takes its owner.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`], [`CannotConnect`](StoreError::CannotConnect),
    /// [`ReadOnly`](StoreError::ReadOnly), [`Schema`](StoreError::Schema),
    /// [`NotMigrated`](StoreError::NotMigrated) and [`MissingRight`](StoreError::MissingRight) tell
    /// what is wrong, in which case nothing was changed. Missing triggers are no error:
    /// [`PostgresStore::missing_triggers`] names them. [`Timeout`](StoreError::Timeout) and
    /// [`Busy`](StoreError::Busy): another session holds a lock.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time and IO enabled.
    pub async fn connect(self) -> Result<PostgresStore, StoreError> {
        let connector = self.connector().await?;
        let triggers = within(self.query_timeout, schema::open(&connector, self.may)).await?;
        let readers = connector.clone().pool(self.max_connections, self.acquire_timeout)?;
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
    /// Outside a Tokio runtime with time and IO enabled.
    pub async fn plan_migration(&self) -> Result<MigrationPlan, StoreError> {
        within(self.query_timeout, schema::plan(&self.connector().await?)).await
    }

    /// Adds what the table lacks, or makes it, and returns what was done: an empty plan if there
    /// was nothing to do.
    ///
    /// One transaction, which waits for another process that does the same. It adds columns that
    /// may be null, the triggers and their function, and rewrites no row. It takes the table's
    /// owner, with the right to create in its schema.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); nothing was changed then, unless it is
    /// [`Timeout`](StoreError::Timeout) or [`Unreachable`](StoreError::Unreachable), which may hide
    /// a commit: run it again.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time and IO enabled.
    pub async fn run_migration(&self) -> Result<MigrationPlan, StoreError> {
        within(self.query_timeout, schema::migrate(&self.connector().await?)).await
    }

    async fn connector(&self) -> Result<Connector, StoreError> {
        let url = self.url.clone();
        // Reads the service file, and a file system may hang.
        let location = blocking_within(self.query_timeout, move || Location::parse(&url)).await??;
        if location.has_own_password && !matches!(self.password, PasswordSource::Location) {
            return Err(unsupported(
                "it has a password, and a password file or command is given, too; leave one of them out",
            ));
        }
        let (host_timeout, connect_timeout) = self.connect_timeouts(&location);
        Ok(Connector {
            location,
            password: self.password.clone(),
            host_timeout,
            connect_timeout,
            query_timeout: self.query_timeout,
            lock_timeout: self.lock_timeout,
            max_age: self.max_connection_age,
            current: Arc::default(),
        })
    }

    /// How long one server may take, and how long all of them together.
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

/// The URL may hold a password.
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
    fn what_is_shown_for_debugging_has_the_limits_and_not_the_url() {
        let options =
            PostgresStore::options("postgres://admin:hunter2@db.example/trusts").max_connections(7);
        let shown = format!("{options:?}");
        assert!(shown.contains("max_connections: 7") && !shown.contains("hunter2"), "{shown}");
    }
}
