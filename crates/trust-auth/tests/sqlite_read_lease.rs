//! The read lease on SQLite, with holders and changers that share only the file. Each has
//! connections of its own, as two processes have.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use trust_auth::{
    Answer, ApiKey, ChangeFeed, Difference, Ended, FeedSession, KeyTerms, NewTrust, RegistryError,
    Settled, SqliteSession, SqliteStore, StoreError, Trust, TrustKeyCache, TrustLedger,
    TrustRegistry, Waiting,
};
use trust_key_cache::{BootClock, Clock};
use uuid::Uuid;

const T: Duration = Duration::from_millis(300);

struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    async fn new() -> Self {
        let database = Self { folder: tempfile::tempdir().unwrap() };
        database.open().await.close().await;
        database
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("trusts.db")
    }

    async fn open(&self) -> SqliteStore {
        open(&self.path()).await
    }

    async fn registry(&self) -> TrustRegistry<SqliteStore> {
        TrustRegistry::new(Arc::new(self.open().await), Arc::new(TrustKeyCache::new()))
    }

    async fn holder(&self, length: Duration) -> Holder {
        Holder::of(self.open().await, length).await
    }

    /// Copies the file, as a backup does.
    async fn back_up(&self) {
        let mut hand = self.by_hand().await;
        let copy = self.backup().to_str().unwrap().to_owned();
        sqlx::query("VACUUM INTO ?1").bind(copy).execute(&mut hand).await.unwrap();
        hand.close().await.unwrap();
    }

    /// Puts the copy in place, and removes the side files of the former file.
    fn restore(&self) {
        std::fs::remove_file(self.folder.path().join("trusts.db-wal")).unwrap();
        std::fs::remove_file(self.folder.path().join("trusts.db-shm")).unwrap();
        std::fs::rename(self.backup(), self.path()).unwrap();
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup.db")
    }

    /// A connection of another program.
    async fn by_hand(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path()).connect().await.unwrap()
    }
}

async fn open(path: &Path) -> SqliteStore {
    let options = SqliteStore::options(path).create_if_missing(true).durable(false);
    options.connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// A holder as `docs/read-lease.md` describes it, whose task runs when the test calls it.
struct Holder {
    store: SqliteStore,
    session: SqliteSession,
    registration: Uuid,
    length: Duration,
    held: HashMap<Uuid, Trust>,
    deadline: Duration,
}

impl Holder {
    async fn of(store: SqliteStore, length: Duration) -> Self {
        let mut session = store.feed().open(length).await.unwrap();
        let held = session.load().await.unwrap().into_iter().map(|trust| (trust.id, trust));
        let held = held.collect();
        let registration = session.register("holder").await.unwrap();
        let deadline = Duration::ZERO;
        let mut holder = Self { store, session, registration, length, held, deadline };
        holder.renew().await.unwrap();
        holder
    }

    async fn renew(&mut self) -> Result<Difference, StoreError> {
        let noted = BootClock.now();
        let answer = self.session.renew(self.registration).await?;
        let difference = self.apply(answer);
        self.deadline = noted + self.length * 8 / 10;
        Ok(difference)
    }

    async fn look(&mut self) -> Result<Difference, StoreError> {
        let answer = self.session.look().await?;
        Ok(self.apply(answer))
    }

    fn apply(&mut self, answer: Answer) -> Difference {
        let Answer::Difference(difference) = answer else { panic!("{answer:?}") };
        for ended in &difference.ended {
            match ended {
                Ended::Trust { id, row: Some(trust) } => {
                    self.held.insert(*id, trust.clone());
                }
                Ended::Trust { id, row: None } => {
                    self.held.remove(id);
                }
                other => panic!("{other:?}"),
            }
        }
        difference
    }

    /// Whether a request that begins now is granted without a read.
    fn grants(&self, key: &ApiKey) -> bool {
        let is_held = self.held.values().any(|trust| trust.accepts(&key.hash()));
        is_held && BootClock.now() < self.deadline
    }

    async fn stop(self) {
        drop(self.session);
        self.store.close().await;
    }
}

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

#[tokio::test]
async fn g11_a_revocation_is_final_when_it_returns_even_for_a_holder_that_is_stopped() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (trust, key) = registry.register(new("a")).await.unwrap();
    let (other, other_key) = registry.register(new("b")).await.unwrap();
    let mut running = database.holder(T).await;
    let mut stopped = database.holder(T).await;
    running.renew().await.unwrap();
    stopped.renew().await.unwrap();

    let revocation = registry.begin_disable(&trust.id.into()).await.unwrap();
    assert!(revocation.has_to_wait());
    let change = running.renew().await.unwrap();
    assert_eq!(change.ended, [Ended::Trust { id: trust.id, row: None }]);
    assert!(!running.grants(&key));
    let (_, settled) = revocation.settle(Waiting::default()).await.unwrap();
    assert!(!stopped.grants(&key), "it holds the key, and its lease has ended");
    assert!(!running.grants(&key));
    assert!(matches!(settled, Settled::Everywhere { holders: None, .. }), "{settled:?}");

    for step in 0..2 {
        running.renew().await.unwrap();
        stopped.renew().await.unwrap();
        assert!(!stopped.grants(&key) && !running.grants(&key));
        if step == 0 {
            let (_, new_key) = registry.rotate(&other.id.into()).await.unwrap();
            assert!(!running.grants(&other_key) && !stopped.grants(&other_key));
            running.renew().await.unwrap();
            assert!(running.held[&other.id].accepts(&new_key.hash()));
            stopped.renew().await.unwrap();
        } else {
            let before = running.held[&other.id].clone();
            assert!(stopped.held[&other.id] == before);
            registry.delete(&other.id.into()).await.unwrap();
            assert!(BootClock.now() >= stopped.deadline && BootClock.now() >= running.deadline);
        }
    }
}

#[tokio::test]
async fn r3_a_repeated_revocation_waits_although_it_finds_nothing_to_change() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (disabled, _) = registry.register(new("a")).await.unwrap();
    let (deleted, key) = registry.register(new("b")).await.unwrap();
    let stopped = database.holder(T).await;

    // The first process ends between its commit and its wait.
    let first = registry.begin_disable(&disabled.id.into()).await.unwrap();
    first.without_waiting().unwrap();
    drop(registry.begin_delete(&deleted.id.into()).await.unwrap());
    assert!(stopped.held[&deleted.id].accepts(&key.hash()));

    let again = database.registry().await;
    let repeated = again.begin_disable(&disabled.id.into()).await.unwrap();
    assert!(repeated.has_to_wait());
    drop(repeated);
    let repeated = again.begin_delete(&deleted.id.into()).await.unwrap();
    assert!(repeated.has_to_wait());
    let error = repeated.settle(Waiting::default()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Store(StoreError::NoSuchTrust { .. })), "{error:?}");
    assert!(BootClock.now() >= stopped.deadline);
}

#[tokio::test]
async fn rl8_a_renewal_returns_exactly_the_rows_that_another_connection_has_changed() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (a, _) = registry.register(new("a")).await.unwrap();
    let (b, _) = registry.register(new("b")).await.unwrap();
    let mut holder = database.holder(T).await;
    let mut hand = database.by_hand().await;
    assert_eq!(holder.renew().await.unwrap(), Difference::default());

    let mut ids = async |sql| {
        run(&mut hand, sql).await;
        let ended = holder.renew().await.unwrap().ended;
        assert!(holder.renew().await.unwrap().ended.is_empty(), "the base has moved");
        let ids = ended.into_iter().map(|ended| match ended {
            Ended::Trust { id, row } => (id, row.is_some()),
            other => panic!("{other:?}"),
        });
        ids.collect::<Vec<_>>()
    };
    let now = "UPDATE trust SET last_heartbeat = datetime('now') WHERE name = 'a'";
    assert_eq!(ids(now).await, [(a.id, true)]);
    let disable = "UPDATE trust SET disabled_at = datetime('now') WHERE name = 'b'";
    assert_eq!(ids(disable).await, [(b.id, false)]);
    assert_eq!(ids("VACUUM").await, []);
    assert_eq!(ids("UPDATE trust SET code = 'x', disabled_at = NULL").await.len(), 2);
    assert_eq!(ids("CREATE TABLE other (id INTEGER)").await, []);
    assert_eq!(ids("PRAGMA wal_checkpoint(TRUNCATE)").await, []);
    assert_eq!(ids("UPDATE trust SET api_key_hash = NULL WHERE name = 'a'").await, [(a.id, false)]);
    assert_eq!(ids("DELETE FROM trust").await, [(b.id, false)]);
    assert_eq!(ids("BEGIN; UPDATE trust SET code = 'y'; ROLLBACK").await, []);
}

#[tokio::test]
async fn rl8_a_change_of_a_key_by_any_connection_is_a_difference_of_its_trust() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (a, _) = registry.register(new("a")).await.unwrap();
    let (b, _) = registry.register(new("b")).await.unwrap();
    let which = |trust: &Trust| trust.id.into();
    let (row, key) = registry.add_key(&which(&a), &KeyTerms::new()).await.unwrap();
    let (_, other_key) = registry.add_key(&which(&b), &KeyTerms::new()).await.unwrap();
    let mut holder = database.holder(T).await;
    let mut hand = database.by_hand().await;
    assert!(holder.grants(&key) && holder.grants(&other_key));

    let mut active = async |sql| {
        run(&mut hand, sql).await;
        let [Ended::Trust { id, row: Some(trust) }] = &holder.look().await.unwrap().ended[..]
        else {
            panic!("{sql} is no difference of one trust");
        };
        assert_eq!(*id, a.id);
        assert!(holder.grants(&other_key));
        trust.keys.iter().map(|key| (key.id, key.expires_at.is_some())).collect::<Vec<_>>()
    };
    let label = "UPDATE trust_key SET label = 'x' WHERE rowid = 1";
    assert_eq!(active(label).await, [(row.id, false)]);
    let later = "UPDATE trust_key SET expires_at = '2999-01-01 00:00:00' WHERE rowid = 1";
    assert_eq!(active(later).await, [(row.id, true)]);
    let ended = "UPDATE trust_key SET expires_at = datetime('now') WHERE rowid = 1";
    assert_eq!(active(ended).await, []);
    let endless = "UPDATE trust_key SET expires_at = NULL WHERE rowid = 1";
    assert_eq!(active(endless).await, [(row.id, false)]);
    let revoke = "UPDATE trust_key SET revoked_at = datetime('now') WHERE rowid = 1";
    assert_eq!(active(revoke).await, []);
    assert!(!holder.grants(&key) && holder.grants(&other_key));
    run(&mut hand, "DELETE FROM trust_key WHERE rowid = 1").await;
    assert_eq!(holder.renew().await.unwrap(), Difference::default(), "it was no key");
}

#[tokio::test]
async fn a_look_returns_the_changes_and_a_hint_ends_after_one() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let mut holder = database.holder(T).await;
    let (trust, key) = registry.register(new("a")).await.unwrap();
    holder.session.hint().await.unwrap();
    let deadline = holder.deadline;
    let row = Some(trust.clone());
    assert_eq!(holder.look().await.unwrap().ended, [Ended::Trust { id: trust.id, row }]);
    assert!(holder.held[&trust.id].accepts(&key.hash()) && holder.deadline == deadline);
}

#[tokio::test]
async fn rl9_a_file_that_was_replaced_removed_or_moved_renews_no_lease() {
    for step in ["replaced", "removed", "moved"] {
        let database = Database::new().await;
        database.registry().await.register(new("a")).await.unwrap();
        let mut holder = database.holder(T).await;
        let (path, aside) = (database.path(), database.folder.path().join("aside.db"));
        match step {
            "replaced" => {
                open(&aside).await.close().await;
                std::fs::rename(&aside, &path).unwrap();
            }
            "removed" => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::rename(&path, &aside).unwrap(),
        }
        let deadline = holder.deadline;
        for _ in 0..2 {
            let error = holder.renew().await.unwrap_err();
            assert!(matches!(error, StoreError::CannotOpen { .. }), "{step}: {error:?}");
            assert!(holder.look().await.is_err());
        }
        assert!(holder.session.load().await.is_err());
        assert_eq!(holder.deadline, deadline);
        assert!(holder.store.feed().open(T).await.is_err(), "{step}");
    }
}

/// The holder follows the new file, and the change is committed into the former one.
#[cfg(unix)]
#[tokio::test]
async fn rl9_a_change_of_a_file_that_was_replaced_is_an_error() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (trust, key) = registry.register(new("a")).await.unwrap();
    database.back_up().await;
    database.restore();
    let mut holder = database.holder(T).await;
    let error = registry.begin_disable(&trust.id.into()).await.err().unwrap();
    assert!(matches!(error, RegistryError::Store(StoreError::CannotOpen { .. })), "{error:?}");
    assert!(error.to_string().contains("removed or replaced while it was open"), "{error}");
    assert_eq!(holder.renew().await.unwrap(), Difference::default());
    assert!(holder.held[&trust.id].accepts(&key.hash()));
    assert!(registry.list().await.is_err(), "the store is given up");
}

#[cfg(unix)]
#[tokio::test]
async fn rl9_a_change_is_not_settled_if_its_file_is_replaced_during_the_wait() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let (trust, key) = registry.register(new("a")).await.unwrap();
    database.holder(T).await.stop().await;
    database.back_up().await;
    let revocation = registry.begin_disable(&trust.id.into()).await.unwrap();
    assert!(revocation.has_to_wait());
    database.restore();
    let (settled, mut holder) =
        tokio::join!(revocation.settle(Waiting::default()), database.holder(T));
    let error = settled.unwrap_err();
    assert!(matches!(error, RegistryError::Store(StoreError::CannotOpen { .. })), "{error:?}");
    assert_eq!(holder.renew().await.unwrap(), Difference::default());
    assert!(holder.held[&trust.id].accepts(&key.hash()));
}

/// In rollback mode, a connection may be one to a file that was exchanged, and no check finds that.
#[tokio::test]
async fn rl9_a_file_without_write_ahead_logging_gives_no_lease() {
    let database = Database::new().await;
    let mut hand = database.by_hand().await;
    run(&mut hand, "PRAGMA journal_mode = DELETE").await;
    // Without `create_if_missing`, opening leaves the mode as it is.
    let store = SqliteStore::options(database.path()).connect().await.unwrap();
    let mut session = store.feed().open(T).await.unwrap();
    let error = session.load().await.unwrap_err().to_string();
    assert!(error.contains("lacks write-ahead logging"), "{error}");
    run(&mut hand, "PRAGMA journal_mode = WAL").await;
    session.load().await.unwrap();
    hand.close().await.unwrap();
}

#[tokio::test]
async fn rl22_without_the_row_no_change_waits_and_a_holder_writes_the_row_before_it_loads() {
    let database = Database::new().await;
    let registry = database.registry().await;
    let store = database.open().await;
    let (trust, _) = registry.register(new("a")).await.unwrap();
    let which = trust.id.into();
    assert!(!registry.begin_disable(&which).await.unwrap().has_to_wait());
    assert_eq!(store.barrier().await.unwrap(), None);
    let settled = registry.begin_disable(&which).await.unwrap().settle(Waiting::default()).await;
    assert_eq!(settled.unwrap().1, Settled::NOTHING_HELD);

    let session = store.feed().open(Duration::from_micros(400_001)).await.unwrap();
    assert_eq!(store.barrier().await.unwrap().as_deref(), Some("401"), "before any load");
    // The holder crashes: the row stays.
    drop(session);
    let mut hand = database.by_hand().await;
    assert!(registry.begin_disable(&which).await.unwrap().has_to_wait());

    // A file of an earlier version has no table for the row, and so no holder.
    run(&mut hand, "DROP TABLE trust_auth_lease; DELETE FROM _sqlx_migrations WHERE version = 2")
        .await;
    assert!(!registry.begin_disable(&which).await.unwrap().has_to_wait());
    let old = SqliteStore::options(database.path()).connect().await.unwrap();
    let error = old.feed().open(T).await.unwrap_err();
    let StoreError::NotMigrated { missing, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*missing, ["the migration `lease`"]);
    let plan = SqliteStore::options(database.path()).run_migration().await.unwrap();
    assert_eq!(plan.missing(), ["the migration `lease`"]);
    old.feed().open(T).await.unwrap();
}

async fn barrier(store: &SqliteStore) -> Option<String> {
    store.barrier().await.unwrap()
}

#[tokio::test]
async fn rl31_the_row_is_lowered_and_removed_only_while_no_holder_needs_it() {
    let database = Database::new().await;
    let store = database.open().await;
    let feed = store.feed();
    let mut holder = database.holder(T * 2).await;
    let mut middle = database.holder(T * 3 / 2).await;
    let short = database.holder(T).await;
    assert_eq!(barrier(&store).await.as_deref(), Some("600"), "not lowered by a shorter holder");
    for attempt in 0..2 {
        // A holder that objects keeps the length of the longer one, which is stopped meanwhile.
        let objecting = if attempt == 0 { &mut middle } else { &mut holder };
        let lower = async {
            match attempt {
                0 => feed.lower_longest_lease(T).await,
                _ => feed.end_leases().await,
            }
        };
        let mut lowering = pin!(lower);
        let outcome = loop {
            let pause = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                outcome = &mut lowering => break outcome,
                () = pause => { objecting.renew().await.unwrap(); }
            }
        };
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
        assert!(error.to_string().contains("a longer read lease"), "{error}");
        assert_eq!(barrier(&store).await.as_deref(), Some("600"));
    }

    // The longer holder crashes: its lease has ended when the row is lowered.
    let deadline = holder.deadline;
    holder.stop().await;
    middle.stop().await;
    feed.lower_longest_lease(T).await.unwrap();
    assert!(BootClock.now() >= deadline);
    assert_eq!(barrier(&store).await.as_deref(), Some("300"));
    feed.lower_longest_lease(T).await.unwrap();

    // A row that was removed by hand is written again by the next renewal.
    let mut short = short;
    run(&mut database.by_hand().await, "DELETE FROM trust_auth_lease").await;
    assert_eq!(barrier(&store).await, None);
    short.renew().await.unwrap();
    assert_eq!(barrier(&store).await.as_deref(), Some("300"));
    short.stop().await;
    feed.end_leases().await.unwrap();
    assert_eq!(barrier(&store).await, None);
    feed.end_leases().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_ends_its_sessions() {
    let database = Database::new().await;
    let mut holder = database.holder(T).await;
    let store = holder.store.clone();
    let closing = tokio::spawn(async move { store.close().await });
    while holder.session.hint().await.is_ok() {}
    assert!(matches!(holder.renew().await, Err(StoreError::Unreachable)));
    drop(holder);
    closing.await.unwrap();
}

#[tokio::test]
async fn what_is_no_barrier_or_too_long_a_lease_is_an_error() {
    let database = Database::new().await;
    let store = database.open().await;
    for text in ["", "x", "-1", "7 1.5"] {
        assert!(store.settle(text, Waiting::default()).await.is_err(), "{text}");
    }
    assert!(store.feed().open(Duration::from_secs(301)).await.is_err());
    let mut session = store.feed().open(T).await.unwrap();
    assert!(session.look().await.is_err(), "not loaded");
}
