//! A store over the application's own pool of the driver: reads use the pool's connections, and all
//! other connections are made with its options.

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use super::options::SqliteOptions;
use super::store::SqliteStore;
use crate::error::StoreError;

impl SqliteStore {
    /// Returns the options to open the file of an application's own pool. Reads, which are what
    /// requests wait for, take their connections from the pool. Give it two connections at least:
    /// a scan of all trusts occupies one.
    ///
    /// Changes, [`watch`](Self::watch) and the read lease open connections of their own with the
    /// pool's [options](SqlitePool::connect_options). What the pool's `after_connect` does is not
    /// done on them. The pool is the application's: [`close`](Self::close) leaves it open, and
    /// [`max_connections`](SqliteOptions::max_connections) has no effect.
    ///
    /// [`create_if_missing`](SqliteOptions::create_if_missing) makes the tables next to those of
    /// the application. Which migrations were run is then in the table `_trust_auth_migrations`, so
    /// that `_sqlx_migrations` stays the application's.
    ///
    /// A connection that the application gives back within a transaction reads the past, and so may
    /// grant what was revoked: begin transactions with the driver's `begin` alone, which rolls
    /// back. Make the store before the application first uses the pool, or at least before the file
    /// may be replaced. A pool with a shared cache is refused.
    ///
    /// The driver tests a connection before each use and after it, unless
    /// `test_before_acquire(false)` is set. A connection to a file needs no test.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trust_auth::{SqliteStore, TrustAuth};
    ///
    /// # async fn own(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    /// let store = SqliteStore::over(pool.clone()).connect().await?;
    /// let auth = TrustAuth::builder(store).watch().build();
    /// # Ok(()) }
    /// ```
    pub fn over(pool: SqlitePool) -> SqliteOptions {
        let options = pool.connect_options();
        SqliteOptions::new(options.get_filename()).over(pool)
    }
}

/// Where reads take their connections from.
#[derive(Clone)]
pub(super) struct Readers {
    pub(super) pool: SqlitePool,
    pub(super) is_shared: bool,
}

impl Readers {
    /// Closes the connections, unless the application shares them.
    pub(super) async fn close(&self) {
        if !self.is_shared {
            self.pool.close().await;
        }
    }
}

/// Checks that each connection of the pool reads the file itself. With a shared cache, a connection
/// reads the snapshot of any other one that reads, and a file that counts as immutable is not read
/// again.
///
/// # Errors
///
/// [`StoreError::UnsupportedUrl`] if it does not.
pub(super) fn check(pool: &SqlitePool) -> Result<(), StoreError> {
    // The driver shows these settings in this form alone: its URL cannot have every path.
    let options = format!("{:?}", pool.connect_options());
    if options.contains("shared_cache: true") || options.contains("immutable: true") {
        return Err(StoreError::UnsupportedUrl {
            reason: "the options of the pool have a shared cache, or call the file immutable, and \
                     its reads may be of the past; leave that out"
                .into(),
        });
    }
    Ok(())
}

/// Returns the options for connections that the pool does not make.
pub(super) fn options_of(pool: &SqlitePool) -> SqliteConnectOptions {
    // A removed file must be an error. A pool for reads alone has a store that writes.
    let options = SqliteConnectOptions::clone(&pool.connect_options());
    options.create_if_missing(false).read_only(false).foreign_keys(true)
}
