//! Opens the database that the options name.
//!
//! Only `register` and `serve` create a database: a mistyped path must not be taken for a database
//! without trusts. Only `migrate` and `serve --migrate` change an existing table.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use trust_auth::{
    PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, StoreError, TrustRegistry,
};
use trust_key_cache::TrustKeyCache;

use crate::command_error::CommandError;
use crate::store::Store;
use crate::table_args::TableArgs;

/// The options that name the database and the source of its password.
#[derive(Args)]
pub(crate) struct DatabaseArgs {
    /// The database: a SQLite file, as a path or a `sqlite:` URL, or PostgreSQL, as `postgres://`
    /// or `host=... dbname=...`. Only `register` and `serve` create a missing file or table. Only
    /// `migrate` and `serve --migrate` change an existing table
    // `--help` hides the value of the variable: a URL may carry a password.
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

    /// A file with the password of PostgreSQL. Each new connection reads the file again
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        display_order = 101,
        env = "TRUST_AUTH_DATABASE_PASSWORD_FILE",
        hide_env_values = true
    )]
    database_password_file: Option<PathBuf>,

    /// A program, with its arguments, that prints the password of PostgreSQL, such as a token of
    /// a cloud. New connections run it again, without a shell
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        display_order = 102,
        env = "TRUST_AUTH_DATABASE_PASSWORD_COMMAND",
        hide_env_values = true
    )]
    database_password_command: Option<String>,

    #[command(flatten)]
    pub(crate) tables: TableArgs,
}

/// The URL and the command may hold secrets.
impl fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseArgs")
    }
}

impl DatabaseArgs {
    /// Returns where the database should be, as far as the error of an attempt to open it shows.
    /// Never returns the URL of a server, which may hold a password.
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

    /// Returns the options for a SQLite database.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`]: a name of a table or a column is wrong.
    pub(crate) fn sqlite(&self) -> Result<SqliteOptions, StoreError> {
        Ok(SqliteStore::options(&self.database).names(self.tables.names()?))
    }

    /// Returns the options for a PostgreSQL database, or `None` for a SQLite database.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`]: the URL is of another kind of database, the options of the
    /// password do not fit, or a name of a table or a column is wrong.
    pub(crate) fn postgres(&self) -> Result<Option<PostgresOptions>, StoreError> {
        let wrong = |reason: &str| Err(StoreError::UnsupportedUrl { reason: reason.into() });
        let url = self.database.to_str().filter(|url| PostgresStore::recognizes(url));
        let names = self.tables.names()?;
        let options = url.map(|url| PostgresStore::options(url).names(names));
        if let (None, Some(scheme)) = (&options, self.other_scheme()) {
            return wrong(&format!(
                "its URL has the scheme `{scheme}:`; give a SQLite file as a path or a `sqlite:` \
                 URL, or PostgreSQL as a `postgres://` URL or `host=... dbname=...`"
            ));
        }
        match (options, &self.database_password_file, &self.database_password_command) {
            (options, None, None) => Ok(options),
            (_, Some(_), Some(_)) => wrong(
                "--database-password-file and --database-password-command are both given; leave \
                 one of them out",
            ),
            (None, _, _) => wrong(
                "--database-password-file and --database-password-command are for PostgreSQL; \
                 leave them out for SQLite",
            ),
            (Some(options), Some(file), None) => Ok(Some(options.password_file(file))),
            (Some(options), None, Some(command)) => {
                match shlex::split(command).map(|words| words.into_iter()) {
                    Some(mut words) if words.len() > 0 => {
                        let program = words.next().unwrap_or_default();
                        Ok(Some(options.password_command(program, words)))
                    }
                    _ => wrong(
                        "--database-password-command must be a program and its arguments, with \
                         each quote closed",
                    ),
                }
            }
        }
    }

    /// Returns the scheme of the URL, unless it is SQLite's.
    fn other_scheme(&self) -> Option<&str> {
        let (scheme, _) = self.database.to_str()?.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        (is_scheme && scheme != "sqlite").then_some(scheme)
    }
}

/// What to do if the database, or its table, is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    /// Also adds what an existing table lacks.
    CreateOrMigrate,
    Fail,
}

/// The limits of a service's use of its database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) connections: u32,
    /// For PostgreSQL alone.
    pub(crate) max_connection_age: Duration,
    pub(crate) query_timeout: Duration,
}

/// The database of one command. [`close`](Self::close) removes the side files of SQLite.
pub(crate) struct Database {
    store: Arc<Store>,
    /// The table of trusts.
    table: String,
}

impl Database {
    /// Opens the database for a single command.
    pub(crate) async fn open(
        args: &DatabaseArgs,
        if_missing: IfMissing,
    ) -> Result<Self, CommandError> {
        Ok(Self::open_with(args, if_missing, None).await?)
    }

    /// Opens the database, for a service with the limits of its pool.
    pub(crate) async fn open_with(
        args: &DatabaseArgs,
        if_missing: IfMissing,
        pool: Option<PoolLimits>,
    ) -> Result<Self, StoreError> {
        let (create, migrate) =
            (if_missing != IfMissing::Fail, if_missing == IfMissing::CreateOrMigrate);
        let store = match args.postgres()? {
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
                let mut options = args.sqlite()?.create_if_missing(create).migrate(migrate);
                if let Some(pool) = pool {
                    options =
                        options.max_connections(pool.connections).query_timeout(pool.query_timeout);
                }
                Store::from(options.connect().await?)
            }
        };
        Ok(Self { store: Arc::new(store), table: args.tables.table.clone() })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Returns the registry, which makes changes. Its cache belongs to this process and is empty:
    /// servers see a change in the live row.
    pub(crate) fn registry(&self) -> TrustRegistry<Store> {
        TrustRegistry::new(self.store(), Arc::new(TrustKeyCache::new()))
    }

    /// Warns, after a change, if the database does not notify servers of the change.
    pub(crate) fn warn_if_servers_are_not_notified(&self) {
        let missing = self.store.missing_triggers();
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(", "),
                "triggers on the table `{}` are missing or turned off. Servers are not notified \
                 of this change, and keep the cached entry until its time-to-live ends. Servers \
                 refuse the key at once, because they check the live row. Run `trust-auth migrate` \
                 as the owner of the table",
                self.table
            );
        }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
