//! An authenticator with a read lease, on real servers of PostgreSQL: grants without a read, and
//! revocations that are final in each process when they return (G11).

mod stores;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Connection;
use stores::postgres_server::PostgresServer;
use stores::{postgres_options, sqlite_options};
use time::OffsetDateTime;
use trust_auth::{
    ApiKey, Attempt, AuthError, Authenticator, ChangeFeed, FeedSession, HeldTrusts, KeyHash,
    KeyTerms, NewTrust, PgChanges, PostgresStore, RegistryError, Route, StoreError, Trust,
    TrustKeyCache, TrustLedger, TrustRegistry, Waiting,
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(300);

/// The parts of one process.
struct Process {
    store: Arc<PostgresStore>,
    cache: Arc<TrustKeyCache>,
    held: Arc<HeldTrusts>,
    authenticator: Authenticator<PostgresStore>,
    registry: TrustRegistry<PostgresStore>,
}

impl Process {
    async fn start(url: &str, length: Duration, name: &str) -> Self {
        let store = Arc::new(postgres_options(url).connect().await.unwrap());
        let cache = Arc::new(TrustKeyCache::new());
        let held = HeldTrusts::start(store.feed(), name, length).await.unwrap();
        let held = Arc::new(held);
        let authenticator = Authenticator::builder(Arc::clone(&store), Arc::clone(&cache))
            .read_lease(Arc::clone(&held))
            .build();
        let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
        Self { store, cache, held, authenticator, registry }
    }

    async fn register(&self, name: &str) -> (Trust, ApiKey) {
        self.registry.register(NewTrust::new(name).unwrap()).await.unwrap()
    }

    async fn attempt(&self, key: &ApiKey) -> Attempt {
        self.authenticator.attempt(Some(key.expose())).await
    }

    async fn assert_granted(&self, key: &ApiKey, route: Route) {
        let attempt = self.attempt(key).await;
        assert!(attempt.result.is_ok(), "{attempt:?}");
        assert_eq!(attempt.route, route);
    }

    /// A new key: by a look, or by the row that a renewal has brought before. Not by a read.
    async fn assert_granted_first(&self, key: &ApiKey) {
        let attempt = self.attempt(key).await;
        assert!(attempt.result.is_ok(), "{attempt:?}");
        assert!(matches!(attempt.route, Route::Look | Route::Held), "{attempt:?}");
    }

    async fn assert_invalid(&self, key: &ApiKey) {
        let attempt = self.attempt(key).await;
        assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{attempt:?}");
    }
}

/// Waits until the condition holds. A minute is more than any machine needs.
async fn soon(what: &str, is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "never so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A database with the tables of the lease, whose run is settled.
async fn database(server: &PostgresServer) -> String {
    let url = server.new_database();
    postgres_options(&url).connect().await.unwrap();
    PgChanges::trusts(postgres_options(&url)).run_migration().await.unwrap();
    server.settle_the_run(&url);
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_by_a_look_and_then_granted_without_a_read() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let (one, other) =
        (Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await);
    let (trust, key) = one.register("St. Mary").await;
    for process in [&one, &other] {
        process.assert_granted_first(&key).await;
        process.assert_granted(&key, Route::Held).await;
        assert_eq!(process.attempt(&key).await.result.unwrap(), trust);
        let stats = process.authenticator.stats();
        assert_eq!((stats.held + stats.looks, stats.granted), (3, 3));
        assert!(stats.held >= 2, "{stats:?}");
        assert_eq!((stats.hits, stats.scans), (0, 0), "rows were read");
    }
    one.assert_invalid(&ApiKey::generate().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_no_process_grants_a_key_once_its_revocation_has_returned() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let (one, other) =
        (Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await);
    for round in 0..30 {
        let (trust, key) = one.register(&format!("trust {round}")).await;
        for process in [&one, &other, &one, &other] {
            assert!(process.attempt(&key).await.result.is_ok());
        }
        let id = trust.id.into();
        match round % 3 {
            0 => drop(one.registry.disable(&id).await.unwrap()),
            1 => drop(other.registry.delete(&id).await.unwrap()),
            _ => drop(other.registry.rotate(&id).await.unwrap()),
        }
        one.assert_invalid(&key).await;
        other.assert_invalid(&key).await;
    }
    assert!(other.authenticator.stats().held >= 30, "the lease was not in force");
}

/// A scope that was taken away is gone in the other process, too.
#[tokio::test(flavor = "multi_thread")]
async fn g11_no_process_shows_former_attributes_once_their_change_has_returned() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let (one, other) =
        (Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await);
    let (trust, key) = one.register("St. Mary").await;
    assert!(other.attempt(&key).await.result.is_ok());
    for round in 0..50 {
        let attributes = Some(serde_json::json!({ "round": round }));
        one.registry.set_attributes(&trust.id.into(), attributes.clone()).await.unwrap();
        for process in [&other, &one] {
            let attempt = process.attempt(&key).await;
            assert_eq!(attempt.route, Route::Held);
            assert_eq!(attempt.result.unwrap().attributes, attributes);
        }
    }
}

/// One process changes the keys, and another one holds them.
#[tokio::test(flavor = "multi_thread")]
async fn g11_a_key_that_is_revoked_or_rotated_out_is_held_by_no_process_then() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let (one, other) =
        (Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await);
    let terms = KeyTerms::new();
    for round in 0..10 {
        let (trust, own) = one.register(&format!("trust {round}")).await;
        let which = trust.id.into();
        let (row, key) = one.registry.add_key(&which, &terms).await.unwrap();
        let (_, third) = other.registry.add_key(&which, &terms).await.unwrap();
        for process in [&one, &other] {
            for key in [&own, &key, &third] {
                process.assert_granted_first(key).await;
                process.assert_granted(key, Route::Held).await;
            }
            assert_eq!(process.attempt(&key).await.key_id, Some(row.id));
        }
        one.registry.revoke_key(row.id).await.unwrap();
        for process in [&one, &other] {
            process.assert_invalid(&key).await;
            process.assert_granted(&own, Route::Held).await;
            process.assert_granted(&third, Route::Held).await;
        }
        let (_, new) = one.registry.rotate(&which).await.unwrap();
        for process in [&one, &other] {
            process.assert_invalid(&own).await;
            process.assert_invalid(&third).await;
            process.assert_granted_first(&new).await;
        }
    }
}

/// When the rotation has returned, each holder knows the end of the old key.
#[tokio::test(flavor = "multi_thread")]
async fn g11_the_old_key_of_an_overlap_is_granted_until_its_end_and_then_by_no_process() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let (one, other) =
        (Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await);
    let (trust, old) = one.register("a").await;
    let which = trust.id.into();
    other.assert_granted_first(&old).await;
    let overlap = Some(Duration::from_secs(3));
    let (rotation, new) =
        one.registry.begin_rotate_with(&which, &KeyTerms::new(), overlap).await.unwrap();
    let (trust, _) = rotation.settle(Waiting::default()).await.unwrap();
    let end = trust.keys[0].expires_at.unwrap();
    let mut was_held = false;
    for process in [&other, &one] {
        loop {
            let before = OffsetDateTime::now_utc();
            assert!(process.attempt(&new).await.result.is_ok());
            let attempt = process.attempt(&old).await;
            if attempt.result.is_err() {
                break;
            }
            assert!(before < end, "granted after its end");
            was_held |= attempt.route == Route::Held;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(OffsetDateTime::now_utc() >= end - Duration::from_millis(5), "refused too early");
    }
    assert!(was_held, "the machine was stopped for three seconds");
}

/// The cache may still name the trust: it is a hint, which the held row decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_refused_by_the_held_row() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let [one, other] =
        [Process::start(&url, LONG, "one").await, Process::start(&url, LONG, "other").await];
    let (trust, key) = one.register("St. Mary").await;
    other.assert_granted_first(&key).await;
    other.assert_granted(&key, Route::Held).await;
    // The registry of `one` invalidates its own cache alone.
    let (_, new) = one.registry.rotate(&trust.id.into()).await.unwrap();
    other.assert_invalid(&key).await;
    other.assert_granted_first(&new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_other_means_is_followed() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let process = Process::start(&url, LONG, "one").await;
    let (trust, key) = process.register("St. Mary").await;
    process.assert_granted_first(&key).await;
    server.psql(&url, "UPDATE trust SET name = 'St. John'");
    soon("the new name", async || {
        process.attempt(&key).await.result.is_ok_and(|trust| trust.name == "St. John")
    })
    .await;
    server.psql(&url, &format!("UPDATE trust SET disabled_at = now() WHERE id = '{}'", trust.id));
    soon("the key is refused", async || process.attempt(&key).await.result.is_err()).await;
    server.psql(&url, "TRUNCATE trust CASCADE");
    soon("nothing is held", async || process.held.status().held == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_held_keys_are_granted_until_the_lease_ends() {
    let Some(server) = PostgresServer::start() else { return };
    let url = database(&server).await;
    let lasting = Process::start(&url, LONG, "lasting").await;
    let short = Process::start(&url, Duration::from_millis(300), "short").await;
    let (_, key) = lasting.register("St. Mary").await;
    lasting.assert_granted_first(&key).await;
    // On a slow machine, a renewal may take longer than this lease.
    soon("the short lease grants", async || {
        matches!(short.attempt(&key).await.route, Route::Look | Route::Held)
    })
    .await;
    server.stop();
    soon("the short lease ends", async || !short.held.is_valid()).await;
    let refused = short.attempt(&key).await.result;
    assert!(matches!(refused, Err(AuthError::Unavailable(_))), "{refused:?}");
    for _ in 0..10 {
        lasting.assert_granted(&key, Route::Held).await;
    }
    // A key that is not held needs a read.
    let unknown = lasting.attempt(&ApiKey::generate().unwrap()).await.result;
    assert!(matches!(unknown, Err(AuthError::Unavailable(_))), "{unknown:?}");

    server.start_again();
    soon("the lease is renewed", async || short.held.is_valid()).await;
    assert!(short.attempt(&key).await.result.is_ok());
    let status = short.held.status();
    assert!(status.failures > 0 && status.renewals > 1, "{status:?}");
}

/// A key that this process never saw, and one that its cache forgot: after the time-to-live, by
/// eviction, or when a watcher lost its connection. An outage must refuse neither.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_each_held_key_is_granted_whatever_the_cache_has() {
    let Some(server) = PostgresServer::start() else { return };
    let url = database(&server).await;
    let process = Process::start(&url, LONG, "a").await;
    let (_, known) = process.register("known").await;
    let (_, never_seen) = process.register("never seen").await;
    process.assert_granted_first(&known).await;
    soon("both are held", async || process.held.status().held == 2).await;
    server.stop();
    process.cache.invalidate();
    process.assert_granted(&known, Route::Held).await;
    process.assert_granted(&never_seen, Route::Held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struck_off_holder_grants_nothing_until_it_has_registered_again() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let process = Process::start(&url, Duration::from_secs(2), "one").await;
    let (_, key) = process.register("St. Mary").await;
    // On a slow machine, a renewal may take longer than this lease.
    soon("the lease grants", async || {
        matches!(process.attempt(&key).await.route, Route::Look | Route::Held)
    })
    .await;
    server.psql(&url, "DELETE FROM trust_auth_holder");
    soon("it has noticed", async || process.held.status().reloads > 0).await;
    soon("it is registered again", async || process.held.is_valid()).await;
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_holder").trim(), "1");
    assert!(process.attempt(&key).await.result.is_ok());
}

/// A changer there finds no holder, and returns at once.
#[tokio::test(flavor = "multi_thread")]
async fn r9_a_holder_that_loads_from_another_schema_grants_nothing_before_it_is_registered_there() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (role, of_role) = server.new_role(&url);
    server.psql(&url, &format!("ALTER ROLE {role} SUPERUSER"));
    for schema in ["one", "two"] {
        server.psql(&url, &format!("CREATE SCHEMA {schema}"));
        let of_schema = format!("{url}?options=-c%20search_path%3D{schema}");
        let store = postgres_options(&of_schema).connect().await.unwrap();
        PgChanges::trusts(postgres_options(&of_schema)).run_migration().await.unwrap();
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await.unwrap();
    }
    server.psql(
        &url,
        "INSERT INTO two.trust (id, name, api_key_hash) \
        SELECT gen_random_uuid(), 'b', repeat('0', 64)",
    );
    server.psql(&url, &format!("ALTER ROLE {role} SET search_path = one"));
    let process = Process::start(&of_role, LONG, "a").await;
    assert!(process.held.is_valid());

    // The holder loads, and cannot register or renew yet.
    let mut operator = server.connect(&url).await;
    let mut lock = operator.begin().await.unwrap();
    let sql = "LOCK TABLE two.trust_auth_holder IN SHARE ROW EXCLUSIVE MODE";
    sqlx::raw_sql(sql).execute(&mut *lock).await.unwrap();
    server.psql(&url, &format!("ALTER ROLE {role} SET search_path = two"));
    server.kill_where(&url, &format!("usename = '{role}'"));
    soon("the other rows are held", async || process.held.status().held == 2).await;
    assert!(!process.held.is_valid(), "the lease of `one` vouches for rows of `two`");

    lock.rollback().await.unwrap();
    soon("the lease is in force", async || process.held.is_valid()).await;
    assert_eq!(server.psql(&url, "SELECT count(*) FROM two.trust_auth_holder"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_closes_is_waited_for_no_longer() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let Process { store, held, authenticator, registry, .. } =
        Process::start(&url, LONG, "one").await;
    let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
    drop(authenticator);
    held.close().await;
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_holder").trim(), "0");
    // With the registration, this would wait for five minutes.
    registry.disable(&trust.id.into()).await.unwrap();
}

/// Looks bound what a flood of unknown keys costs the database.
#[tokio::test(flavor = "current_thread")]
async fn a_flood_of_unknown_keys_is_overloaded_and_reads_no_rows() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let process = Process::start(&url, LONG, "one").await;
    let flood = (0..600).map(|key| {
        let authenticator = process.authenticator.clone();
        tokio::spawn(async move { authenticator.authenticate(Some(&format!("key {key}"))).await })
    });
    let mut overloaded = 0;
    for answer in flood.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Err(AuthError::Invalid) => {}
            Err(AuthError::Overloaded) => overloaded += 1,
            answer => panic!("{answer:?}"),
        }
    }
    let stats = process.authenticator.stats();
    assert!(overloaded > 0, "{stats:?}");
    assert_eq!((stats.scans, stats.hits), (0, 0), "rows were read");
}

/// An earlier attempt may have been committed by a process that ended before it had waited (R3).
#[tokio::test]
async fn a_revocation_that_finds_no_trust_waits_as_well() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = database(server).await;
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let registry = TrustRegistry::new(Arc::clone(&store), Arc::new(TrustKeyCache::new()));
    let which = registry.register(NewTrust::new("a").unwrap()).await.unwrap().0.id.into();
    let length = Duration::from_millis(300);
    let mut silent = store.feed().open(length).await.unwrap();
    silent.load().await.unwrap();
    silent.register("silent").await.unwrap();
    registry.begin_delete(&which).await.unwrap().without_waiting().unwrap();
    let begun = Instant::now();
    let none = registry.delete(&which).await.unwrap_err();
    assert!(matches!(none, RegistryError::Store(StoreError::NoSuchTrust { .. })), "{none}");
    assert!(begun.elapsed() >= length, "the silent holder was not waited for");
}

#[tokio::test]
async fn without_the_tables_of_the_lease_no_lease_starts_and_no_revocation_waits() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let refused = HeldTrusts::start(store.feed(), "one", LONG).await.unwrap_err();
    assert!(matches!(refused, StoreError::Schema { .. }), "{refused}");
    for wrong in [Duration::from_millis(299), Duration::from_millis(300_001)] {
        let refused = HeldTrusts::start(store.feed(), "one", wrong).await.unwrap_err();
        assert!(refused.to_string().contains("from 300 ms to 300 s"), "{refused}");
    }
    let registry = TrustRegistry::new(store, Arc::new(TrustKeyCache::new()));
    let (trust, _) = registry.register(NewTrust::new("a").unwrap()).await.unwrap();
    registry.disable(&trust.id.into()).await.unwrap();
}

mod on_sqlite {
    use std::path::Path;

    use trust_auth::SqliteStore;

    use super::*;

    /// The parts of one process over a file.
    async fn process(file: &Path) -> (Authenticator<SqliteStore>, TrustRegistry<SqliteStore>) {
        let store = Arc::new(sqlite_options(file).connect().await.unwrap());
        let cache = Arc::new(TrustKeyCache::new());
        let length = Duration::from_millis(300);
        let held = HeldTrusts::start(store.feed(), "one", length).await.unwrap();
        let authenticator = Authenticator::builder(Arc::clone(&store), Arc::clone(&cache));
        let authenticator = authenticator.read_lease(Arc::new(held)).build();
        (authenticator, TrustRegistry::new(store, cache))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn g11_no_process_grants_a_key_once_its_revocation_has_returned() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trusts.db");
        let (one, registry) = process(&file).await;
        let (other, other_registry) = process(&file).await;
        let mut held = 0;
        for round in 0..5 {
            let new = NewTrust::new(format!("trust {round}")).unwrap();
            let (trust, key) = registry.register(new).await.unwrap();
            let key = Some(key.expose());
            for authenticator in [&one, &other, &one, &other, &one, &other] {
                assert!(authenticator.authenticate(key).await.is_ok());
            }
            held = other.stats().held;
            match round % 2 {
                0 => drop(registry.disable(&trust.id.into()).await.unwrap()),
                _ => drop(other_registry.delete(&trust.id.into()).await.unwrap()),
            }
            for authenticator in [&one, &other] {
                let refused = authenticator.authenticate(key).await;
                assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
            }
        }
        assert!(held > 0, "no key was granted from held rows");
    }
}
