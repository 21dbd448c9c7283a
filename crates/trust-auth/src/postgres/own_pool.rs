//! A store over the application's own pool of the driver: reads use the pool's connections, and all
//! other connections are made with its options.
//!
//! A change needs a new connection (at most 5 s old), and a listener or a
//! holder occupies its own. None of these comes from the pool, so they never exhaust it.

use sqlx::postgres::{PgConnectOptions, PgPool};

use super::connector::Connector;
use super::dial::Refused;
use super::failure::{code, connect_failed};
use super::location::{Host, Location};
use super::options::PostgresOptions;
use super::password::Found;
use super::store::PostgresStore;
use crate::error::StoreError;

impl PostgresStore {
    /// Returns the options to open the database of an application's own pool. Reads, which are what
    /// requests wait for, take their connections from the pool.
    ///
    /// Changes, [`watch`](Self::watch) and the read lease open connections of their own with the
    /// pool's [options](PgPool::connect_options): at most two for changes, and one for each watcher
    /// and each holder. They have the name of [`PgConnectOptions::application_name`], or
    /// `trust-auth`. What the pool's `after_connect` does is not done on them;
    /// [`connect`](PostgresOptions::connect) checks that role, database and `search_path` are the
    /// same on both.
    ///
    /// The pool is the application's: [`close`](Self::close) leaves it open, and its settings
    /// decide how many connections there are and how long they last. After a failover that moves
    /// the address and cuts no connection, an old primary is read for as long as `max_lifetime`:
    /// set it to 2 min. [`max_connections`](PostgresOptions::max_connections) and the options of
    /// passwords have no effect. Each read ends with the
    /// [`query_timeout`](PostgresOptions::query_timeout). The server stops its statement only if
    /// the pool's connections have a `statement_timeout`.
    ///
    /// A connection that the application gives back within a transaction of `REPEATABLE READ` reads
    /// the past, and so may grant what was revoked: begin transactions with the driver's `begin`
    /// alone, which rolls back.
    /// A connection that it gives back after a `SET search_path` or `SET ROLE` may read another
    /// table: set both in the pool's options alone, or by `SET LOCAL`. Neither is checked after
    /// [`connect`](PostgresOptions::connect).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trust_auth::{PostgresStore, TrustAuth};
    ///
    /// # async fn own(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let store = PostgresStore::over(pool.clone()).connect().await?;
    /// let auth = TrustAuth::builder(store).watch().build();
    /// # Ok(()) }
    /// ```
    pub fn over(pool: PgPool) -> PostgresOptions {
        PostgresOptions::new("").over(pool)
    }
}

impl Connector {
    /// Opens a connection by `open` with the options of the application's pool.
    pub(super) async fn dial_own<T, F>(
        &self,
        options: &PgConnectOptions,
        open: impl Fn(PgConnectOptions) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let options = options.clone().application_name(&self.location.application_name);
        match open(options).await {
            Ok(opened) => Ok(opened),
            Err(Refused::Connected(error) | Refused::OldPrimary(error)) => Err(error),
            Err(Refused::Connecting(error)) if code(&error) == Some("28P01") => Err(self
                .cannot_connect(
                    "it refused the password; check user and password of the pool".into(),
                )),
            Err(Refused::Connecting(error)) => {
                Err(connect_failed(&error, &self.location, &Found::default()))
            }
        }
    }
}

impl Location {
    /// Returns the location of a pool, for errors. Connections take from it only the name of the
    /// application.
    pub(super) fn of_pool(pool: &PgPool) -> Self {
        let options = pool.connect_options();
        let name = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let host = Host { name, address: None, port: options.get_port() };
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let name = options.get_application_name().unwrap_or("trust-auth");
        Self::of_parts(host, options.get_username(), database, name)
    }
}
