//! Opening the database that the options name.
//!
//! Only `register` and `serve` may bring a database into being: a mistyped path must not look like
//! one without trusts. A table that is there is changed by `migrate` and `serve --migrate` alone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use trust_auth::{
    PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, StoreError, TrustRegistry,
};
use trust_key_cache::TrustKeyCache;

use crate::failure::Failure;
use crate::store::Store;

/// Which database, and where its password comes from.
#[derive(Args)]
pub(crate) struct Target {
    /// The database: an SQLite file, as a path or a `sqlite:` URL, or PostgreSQL, as `postgres://`
    /// or `host=... dbname=...`. Only `register` and `serve` create a file or table; only
    /// `migrate` and `serve --migrate` change a table that is there
    // The value is not shown in `--help`: a URL may carry a password.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        display_order = 100,
        env = "TRUST_AUTH_DATABASE",
        hide_env_values = true,
        default_value = "sqlite:trust-auth.db"
    )]
    database: PathBuf,

    /// A file with PostgreSQL's password; each new connection reads the file again
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        display_order = 101,
        env = "TRUST_AUTH_DATABASE_PASSWORD_FILE",
        hide_env_values = true
    )]
    database_password_file: Option<PathBuf>,

    /// A program and its arguments that print PostgreSQL's password, such as a cloud's token; new
    /// connections run it again, without a shell
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        display_order = 102,
        env = "TRUST_AUTH_DATABASE_PASSWORD_COMMAND",
        hide_env_values = true
    )]
    database_password_command: Option<String>,
}

/// The URL and the command may hold secrets.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target")
    }
}

impl Target {
    /// Where the database should be, as far as is known before it is open. The URL of a server is
    /// not repeated: it may hold a password.
    pub(crate) fn expected(&self, error: &StoreError) -> String {
        match error {
            StoreError::CannotConnect { server, .. }
            | StoreError::Exhausted { server }
            | StoreError::ReadOnly { server } => server.clone(),
            _ if self.database.to_str().is_some_and(PostgresStore::recognizes) => {
                "postgres".to_owned()
            }
            _ => self.database.display().to_string(),
        }
    }

    /// Returns the options for a database of SQLite.
    pub(crate) fn sqlite(&self) -> SqliteOptions {
        SqliteStore::options(&self.database)
    }

    /// Returns the options for a database of PostgreSQL; `None` for one of SQLite.
    pub(crate) fn postgres(&self) -> Result<Option<PostgresOptions>, StoreError> {
        let wrong = |reason: &str| Err(StoreError::UnsupportedUrl { reason: reason.into() });
        let url = self.database.to_str().filter(|url| PostgresStore::recognizes(url));
        let options = url.map(PostgresStore::options);
        match (options, &self.database_password_file, &self.database_password_command) {
            (options, None, None) => Ok(options),
            (_, Some(_), Some(_)) => wrong(
                "--database-password-file and --database-password-command are both given; leave one of them out",
            ),
            (None, _, _) => wrong(
                "--database-password-file and --database-password-command are for PostgreSQL; leave them out for SQLite",
            ),
            (Some(options), Some(file), None) => Ok(Some(options.password_file(file))),
            (Some(options), None, Some(command)) => {
                match shlex::split(command).map(|words| words.into_iter()) {
                    Some(mut words) if words.len() > 0 => {
                        let program = words.next().unwrap_or_default();
                        Ok(Some(options.password_command(program, words)))
                    }
                    _ => wrong(
                        "--database-password-command must be a program and its arguments, with each quote closed",
                    ),
                }
            }
        }
    }
}

/// What to do where there is no database, or no table in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    /// Also adds to a table what it lacks.
    CreateOrMigrate,
    Fail,
}

/// How much of a database a service uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) connections: u32,
    /// On PostgreSQL.
    pub(crate) max_connection_age: Duration,
    pub(crate) query_timeout: Duration,
}

/// The database for the time of one command. [`close`](Self::close) it, so that SQLite's side files
/// go.
pub(crate) struct Database {
    store: Arc<Store>,
}

impl Database {
    /// For a single command.
    pub(crate) async fn open(target: &Target, if_missing: IfMissing) -> Result<Self, Failure> {
        Ok(Self::open_with(target, if_missing, None).await?)
    }

    /// For a service.
    pub(crate) async fn open_with(
        target: &Target,
        if_missing: IfMissing,
        pool: Option<Pool>,
    ) -> Result<Self, StoreError> {
        let (create, migrate) =
            (if_missing != IfMissing::Fail, if_missing == IfMissing::CreateOrMigrate);
        let store = match target.postgres()? {
            Some(options) => {
                let mut options = options.create_if_missing(create).migrate(migrate);
                if let Some(pool) = pool {
                    options = options
                        .max_connections(pool.connections)
                        .max_connection_age(pool.max_connection_age)
                        .query_timeout(pool.query_timeout);
                }
                Store::from(options.connect().await?)
            }
            None => {
                let mut options = target.sqlite().create_if_missing(create).migrate(migrate);
                if let Some(pool) = pool {
                    options =
                        options.max_connections(pool.connections).query_timeout(pool.query_timeout);
                }
                Store::from(options.connect().await?)
            }
        };
        Ok(Self { store: Arc::new(store) })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// The write side. Its cache is this process's own and empty: servers see a change in the live
    /// row.
    pub(crate) fn registry(&self) -> TrustRegistry<Store> {
        TrustRegistry::new(self.store(), Arc::new(TrustKeyCache::new()))
    }

    /// Warns, after a change, where other processes do not hear of it.
    pub(crate) fn warn_if_unheard(&self) {
        let missing = self.store.missing_triggers();
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(", "),
                "triggers on the table `trust` are missing or turned off: servers do not hear of this \
                 change, and keep the entry in their cache until its time-to-live ends. They refuse the \
                 key at once all the same, because they check the live row. Let the table's owner run \
                 `trust-auth migrate`"
            );
        }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
