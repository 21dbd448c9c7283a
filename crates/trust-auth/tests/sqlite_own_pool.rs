//! An SQLite store over an application's own pool and file.

use std::path::Path;
use std::sync::Arc;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use trust_auth::{CacheLease, NewTrust, SqliteStore, StoreError, TrustAuth, TrustLedger};
use trust_key_cache::KeyCache;

/// Returns the pool of an application with a table and migrations of its own.
async fn application(file: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE users (id INTEGER PRIMARY KEY); INSERT INTO users VALUES (7); \
         CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, checksum BLOB NOT NULL); \
         INSERT INTO _sqlx_migrations VALUES (1, X'00')",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool
}

#[tokio::test]
async fn the_tables_are_made_in_the_file_of_the_application_and_its_pool_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let pool = application(&file).await;
    let over = || SqliteStore::over(pool.clone());
    // Without permission, nothing is made.
    assert!(matches!(over().connect().await.unwrap_err(), StoreError::Schema { .. }));
    let store = over().create_if_missing(true).connect().await.unwrap();
    let auth = TrustAuth::builder(store.clone()).build();
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    assert_eq!(auth.authenticate(Some(key.expose())).await.unwrap().id, trust.id);
    auth.registry().disable(&trust.id.into()).await.unwrap();
    assert!(auth.authenticate(Some(key.expose())).await.is_err());
    store.close().await;

    let of_application: (i64, i64) =
        sqlx::query_as("SELECT (SELECT id FROM users), (SELECT count(*) FROM _sqlx_migrations)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(of_application, (7, 1));
    // Again, over the pool and without it: the program finds the tables in the application's file.
    assert!(over().run_migration().await.unwrap().is_empty());
    assert_eq!(over().connect().await.unwrap().list().await.unwrap().len(), 1);
    let by_path = SqliteStore::options(&file).connect().await.unwrap();
    assert_eq!(by_path.list().await.unwrap().len(), 1);
    // A file that this program has made is used over a pool, too.
    let made = folder.path().join("made.db");
    SqliteStore::options(&made).create_if_missing(true).connect().await.unwrap().close().await;
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&made)).await.unwrap();
    SqliteStore::over(pool).connect().await.unwrap();
}

#[tokio::test]
async fn in_a_file_of_an_application_no_table_is_made_without_its_pool() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let pool = application(&file).await;
    let error = SqliteStore::options(&file).create_if_missing(true).connect().await.unwrap_err();
    assert!(error.to_string().contains("another program's tables"), "{error}");
    // A table `trust` of the application is left alone.
    sqlx::raw_sql("CREATE TABLE trust (id)").execute(&pool).await.unwrap();
    let error = SqliteStore::over(pool).create_if_missing(true).connect().await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error}");
}

#[tokio::test]
async fn a_pool_in_memory_is_refused() {
    let pool = SqlitePool::connect("sqlite::memory:").await.unwrap();
    let error = SqliteStore::over(pool).connect().await.unwrap_err();
    assert_eq!(error.kind(), "unsupported_url");
}

/// Each of these would let a read see the past.
#[tokio::test]
async fn a_pool_whose_reads_may_be_of_the_past_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a:b ?#trusts.db");
    SqliteStore::options(&file).create_if_missing(true).connect().await.unwrap();
    let options = || SqliteConnectOptions::new().filename(&file);
    for unusable in [options().shared_cache(true), options().immutable(true)] {
        let pool = SqlitePool::connect_lazy_with(unusable);
        let error = SqliteStore::over(pool).connect().await.unwrap_err();
        assert!(error.to_string().contains("may be of the past"), "{error}");
    }
    SqliteStore::over(SqlitePool::connect_lazy_with(options())).connect().await.unwrap();
}

/// A key that was added, cached and revoked between two polls is in no difference of SQLite.
#[tokio::test]
async fn a_cache_gets_no_lease_over_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteStore::options(folder.path().join("trusts.db")).create_if_missing(true);
    let store = options.connect().await.unwrap();
    let cache = Arc::new(KeyCache::<u64>::builder().build().unwrap());
    let refused = CacheLease::builder(store.feed(), cache).start().await.err().unwrap();
    assert!(refused.to_string().contains("does not name each change"), "{refused}");
}
