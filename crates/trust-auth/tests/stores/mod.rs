//! The stores on which each claim is checked, and a store that runs code of the test at chosen
//! moments.

#![allow(dead_code, reason = "each test file uses a part of this")]

#[cfg(feature = "postgres")]
#[path = "../postgres_server/mod.rs"]
pub(crate) mod postgres_server;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "postgres")]
use postgres_server::PostgresServer;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;
use tracing::subscriber::DefaultGuard;
use trust_auth::{
    ApiKey, Attempt, Authenticator, Candidates, Change, KeyHash, MemoryStore, NewKey, NewTrust,
    Rotation, SqliteOptions, SqliteStore, StoreError, TableNames, Trust, TrustColumn, TrustKey,
    TrustKeyCache, TrustLedger, TrustRef, TrustRegistry, TrustStore,
};
#[cfg(feature = "postgres")]
use trust_auth::{PostgresOptions, PostgresStore};
use trust_key_cache::BuildError;
use uuid::Uuid;

/// A store that a test can make, and can write to without the registry.
pub(crate) trait Backend: TrustLedger + Sized {
    fn open() -> impl Future<Output = (Arc<Self>, Option<TempDir>)> + Send;

    /// Sets `api_key_hash` to null, as another program may.
    fn forget_hash(&self, id: Uuid) -> impl Future<Output = ()> + Send;

    /// Sets `api_key_hash` alone, as a program does that knows no other key.
    fn write_hash(&self, id: Uuid, hash: KeyHash) -> impl Future<Output = ()> + Send;

    /// Sets `name`, as another program may.
    fn rename(&self, id: Uuid, name: &str) -> impl Future<Output = ()> + Send;

    /// Moves the end of a key into the past, as another program may.
    fn end_key(&self, key: &TrustKey) -> impl Future<Output = ()> + Send;
}

impl Backend for MemoryStore {
    async fn open() -> (Arc<Self>, Option<TempDir>) {
        (Arc::new(Self::new()), None)
    }

    async fn forget_hash(&self, id: Uuid) {
        let mut row = self.fetch(id).await.unwrap().unwrap();
        row.api_key_hash = None;
        self.put(row).unwrap();
    }

    async fn write_hash(&self, id: Uuid, hash: KeyHash) {
        let mut row = self.fetch(id).await.unwrap().unwrap();
        row.api_key_hash = Some(hash);
        self.put(row).unwrap();
    }

    async fn rename(&self, id: Uuid, name: &str) {
        let mut row = self.fetch(id).await.unwrap().unwrap();
        row.name = name.to_owned();
        self.put(row).unwrap();
    }

    async fn end_key(&self, key: &TrustKey) {
        let mut row = self.fetch(key.trust).await.unwrap().unwrap();
        row.keys = self.keys(&key.trust.into()).await.unwrap();
        let found = row.keys.iter_mut().find(|found| found.id == key.id).unwrap();
        found.expires_at = Some(time::OffsetDateTime::UNIX_EPOCH);
        self.put(row).unwrap();
    }
}

impl Backend for SqliteStore {
    async fn open() -> (Arc<Self>, Option<TempDir>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trusts.db");
        (Arc::new(sqlite_options(&file).connect().await.unwrap()), Some(folder))
    }

    async fn forget_hash(&self, id: Uuid) {
        sqlx::query("UPDATE trust SET api_key_hash = NULL WHERE id = ?1")
            .bind(id.to_string())
            .execute(&mut second_connection(self).await)
            .await
            .unwrap();
    }

    async fn write_hash(&self, id: Uuid, hash: KeyHash) {
        sqlx::query("UPDATE trust SET api_key_hash = ?2 WHERE id = ?1")
            .bind(id.to_string())
            .bind(hash.to_hex())
            .execute(&mut second_connection(self).await)
            .await
            .unwrap();
    }

    async fn rename(&self, id: Uuid, name: &str) {
        sqlx::query("UPDATE trust SET name = ?2 WHERE id = ?1")
            .bind(id.to_string())
            .bind(name.to_owned())
            .execute(&mut second_connection(self).await)
            .await
            .unwrap();
    }

    async fn end_key(&self, key: &TrustKey) {
        sqlx::query("UPDATE trust_key SET expires_at = datetime('now') WHERE id = ?1")
            .bind(key.id.to_string())
            .execute(&mut second_connection(self).await)
            .await
            .unwrap();
    }
}

/// In a database of its own, on the server that the tests of this process share.
#[cfg(feature = "postgres")]
impl Backend for PostgresStore {
    async fn open() -> (Arc<Self>, Option<TempDir>) {
        let server = PostgresServer::shared().expect("`on_every_store` has checked for it");
        (Arc::new(postgres_options(&server.new_database()).connect().await.unwrap()), None)
    }

    async fn forget_hash(&self, id: Uuid) {
        let server = PostgresServer::shared().unwrap();
        let database = self.server().rsplit('/').next().unwrap().to_owned();
        server.psql(&database, &format!("UPDATE trust SET api_key_hash = NULL WHERE id = '{id}'"));
    }

    async fn write_hash(&self, id: Uuid, hash: KeyHash) {
        let server = PostgresServer::shared().unwrap();
        let database = self.server().rsplit('/').next().unwrap().to_owned();
        let hash = hash.to_hex();
        server.psql(
            &database,
            &format!("UPDATE trust SET api_key_hash = '{hash}' WHERE id = '{id}'"),
        );
    }

    async fn rename(&self, id: Uuid, name: &str) {
        let server = PostgresServer::shared().unwrap();
        let database = self.server().rsplit('/').next().unwrap().to_owned();
        server.psql(&database, &format!("UPDATE trust SET name = '{name}' WHERE id = '{id}'"));
    }

    async fn end_key(&self, key: &TrustKey) {
        let server = PostgresServer::shared().unwrap();
        let database = self.server().rsplit('/').next().unwrap().to_owned();
        let id = key.id;
        server
            .psql(&database, &format!("UPDATE trust_key SET expires_at = now() WHERE id = '{id}'"));
    }
}

/// Returns the names of an application's table `users`, which lacks the optional columns.
pub(crate) fn users() -> TableNames {
    TableNames::default()
        .table("users")
        .key_table("user_keys")
        .column(TrustColumn::Id, "user_id")
        .column(TrustColumn::Name, "email")
        .column(TrustColumn::ApiKeyHash, "key_sha256")
        .column(TrustColumn::CreatedAt, "made_at")
        .column(TrustColumn::DisabledAt, "deactivated_at")
        .without(TrustColumn::Code)
        .without(TrustColumn::Region)
        .without(TrustColumn::LastHeartbeat)
        .without(TrustColumn::Attributes)
}

/// Returns options for a database without a table, with time-outs longer than any machine needs: no
/// test may depend on the speed of the machine.
#[cfg(feature = "postgres")]
pub(crate) fn postgres_options(url: &str) -> PostgresOptions {
    let limit = Duration::from_secs(3_600);
    let options = PostgresStore::options(url).create_if_missing(true).max_connections(4);
    options.connect_timeout(limit).acquire_timeout(limit).lock_timeout(limit).query_timeout(limit)
}

/// Returns options for a temporary database, with time-outs longer than any machine needs: no test
/// may depend on the speed of the machine.
pub(crate) fn sqlite_options(file: &Path) -> SqliteOptions {
    let options = SqliteStore::options(file).create_if_missing(true).durable(false);
    options.query_timeout(Duration::from_secs(3_600)).busy_timeout(Duration::from_secs(3_600))
}

/// Opens a connection to the same file, as another program would.
pub(crate) async fn second_connection(store: &SqliteStore) -> SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().filename(store.path()).connect().await.unwrap()
}

/// Makes a test of each generic case on each store: `on_memory::case`, `on_sqlite::case` and
/// `on_postgres::case`.
#[macro_export]
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case::<trust_auth::MemoryStore>().await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case::<trust_auth::SqliteStore>().await;
            })+
        }
        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(#[tokio::test]
            async fn $case() {
                if $crate::stores::postgres_server::PostgresServer::shared().is_some() {
                    super::$case::<trust_auth::PostgresStore>().await;
                }
            })+
        }
    };
}

/// A service: a store and a cache, and the authenticator and the registry that share them.
pub(crate) struct World<S> {
    pub(crate) store: Arc<S>,
    pub(crate) cache: Arc<TrustKeyCache>,
    pub(crate) registry: TrustRegistry<S>,
    pub(crate) authenticator: Authenticator<S>,
    folder: Option<TempDir>,
}

impl<S: Backend> World<S> {
    pub(crate) async fn new() -> Self {
        let (store, folder) = S::open().await;
        Self::over(store, folder)
    }
}

impl<S: Backend> World<Tampered<S>> {
    pub(crate) async fn tampered() -> Self {
        let (inner, folder) = S::open().await;
        Self::over(Arc::new(Tampered { inner, hooks: Mutex::default() }), folder)
    }
}

impl<S: TrustLedger> World<S> {
    pub(crate) fn over(store: Arc<S>, folder: Option<TempDir>) -> Self {
        // Nothing expires while a test runs.
        let cache = Arc::new(TrustKeyCache::builder().ttl(BuildError::MAX_TTL).build().unwrap());
        Self {
            registry: TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache)),
            authenticator: Authenticator::new(Arc::clone(&store), Arc::clone(&cache)),
            store,
            cache,
            folder,
        }
    }

    pub(crate) async fn register(&self, name: &str) -> (Trust, ApiKey) {
        self.registry.register(NewTrust::new(name).unwrap()).await.unwrap()
    }

    /// Registers a trust, and puts its key into the cache.
    pub(crate) async fn register_hot(&self, name: &str) -> (Trust, ApiKey) {
        let (trust, key) = self.register(name).await;
        assert!(self.attempt(&key).await.result.is_ok());
        assert_eq!(self.cached(&key), Some(trust.id));
        (trust, key)
    }

    pub(crate) async fn attempt(&self, key: &ApiKey) -> Attempt {
        self.authenticator.attempt(Some(key.expose())).await
    }

    pub(crate) fn cached(&self, key: &ApiKey) -> Option<Uuid> {
        self.cache.lookup(&key.hash())
    }
}

/// Captures what this thread logs, at every level, until the guard is dropped.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> (Self, DefaultGuard) {
        Self::start_at(tracing::Level::TRACE)
    }

    pub(crate) fn start_at(level: tracing::Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the condition holds. A minute is more than any machine needs.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn by_name(name: &str) -> TrustRef {
    TrustRef::Name(name.into())
}

/// A moment inside an operation of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// The candidates are read, and not yet returned.
    CandidatesRead,
    /// The row is read, and not yet returned.
    RowRead,
    /// Nothing is written yet.
    BeforeCommit,
    /// The write is committed, and its outcome not yet returned.
    Committed,
}

type Hook = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// A store that runs a hook of the test once, at a chosen moment. The operation returns an error of
/// the hook.
pub(crate) struct Tampered<S> {
    pub(crate) inner: Arc<S>,
    hooks: Mutex<HashMap<Moment, Hook>>,
}

impl<S> Tampered<S> {
    pub(crate) fn at(
        &self,
        moment: Moment,
        hook: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) {
        assert!(self.hooks.lock().unwrap().insert(moment, Box::pin(hook)).is_none());
    }

    /// Returns whether all hooks have run.
    pub(crate) fn is_spent(&self) -> bool {
        self.hooks.lock().unwrap().is_empty()
    }

    async fn reach(&self, moment: Moment) -> Result<(), StoreError> {
        let hook = self.hooks.lock().unwrap().remove(&moment);
        match hook {
            Some(hook) => hook.await,
            None => Ok(()),
        }
    }

    async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.reach(Moment::BeforeCommit).await?;
        let written = write.await?;
        self.reach(Moment::Committed).await?;
        Ok(written)
    }
}

impl<S: TrustStore> TrustStore for Tampered<S> {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        let row = self.inner.fetch(id).await?;
        self.reach(Moment::RowRead).await?;
        Ok(row)
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let candidates = self.inner.candidates().await?;
        self.reach(Moment::CandidatesRead).await?;
        Ok(candidates)
    }
}

impl<S: TrustLedger> TrustLedger for Tampered<S> {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.write(self.inner.insert(new, hash)).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.write(self.inner.import(new, hash)).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.write(self.inner.replace_hash(which, hash)).await
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        self.write(self.inner.insert_with_key(new, key)).await
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        self.write(self.inner.rotate(which, rotation)).await
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        self.write(self.inner.add_key(which, key)).await
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        self.write(self.inner.revoke_key(key)).await
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        self.inner.keys(which).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.write(self.inner.set_enabled(which, enabled)).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.write(self.inner.delete(which)).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        self.inner.list().await
    }
}
