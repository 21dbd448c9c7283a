//! Changes by other processes evict entries of this process's cache. A notification evicts exactly
//! the changed keys. A possibly missed change evicts every key.

mod stores;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};
use stores::postgres_server::PostgresServer;
use stores::postgres_server::network::Network;
use stores::{World, by_name, eventually, postgres_options, second_connection, sqlite_options};
use trust_auth::{
    ApiKey, AuthError, KeyHash, PostgresStore, Route, SqliteStore, Trust, TrustKeyCache,
    TrustLedger, TrustRegistry, WatchStatus, Watcher,
};

/// A service that watches its database, and the registry of another process.
struct Watched<S> {
    world: World<S>,
    watcher: Watcher,
    elsewhere: TrustRegistry<S>,
}

impl<S: TrustLedger> Watched<S> {
    async fn over(
        world: World<S>,
        elsewhere: S,
        watch: impl FnOnce(&S, Arc<TrustKeyCache>) -> Watcher,
    ) -> Self {
        let watcher = watch(&world.store, Arc::clone(&world.cache));
        let watched = Self {
            world,
            watcher,
            elsewhere: TrustRegistry::new(Arc::new(elsewhere), Arc::default()),
        };
        watched.connected(1).await;
        watched
    }

    fn status(&self) -> WatchStatus {
        self.watcher.status()
    }

    async fn connected(&self, times: u64) {
        eventually("it is connected", || {
            self.status().connected && self.status().connects >= times
        })
        .await;
    }

    async fn gone(&self, key: &ApiKey) {
        eventually("the entry is gone", || self.world.cached(key).is_none()).await;
    }

    /// Asserts that only single keys were invalidated since the watcher connected.
    fn assert_targeted(&self) {
        let status = self.status();
        assert_eq!(
            (status.invalidations, status.connects, status.failures),
            (1, 1, 0),
            "{status:?}"
        );
    }
}

impl Watched<PostgresStore> {
    async fn on_postgres(server: &PostgresServer) -> (Self, String) {
        let url = server.new_database();
        (Self::at(&url, &url).await, url)
    }

    /// `here` and `elsewhere` are URLs of the same database.
    async fn at(here: &str, elsewhere: &str) -> Self {
        let elsewhere = postgres_options(elsewhere).connect().await.unwrap();
        let store = postgres_options(here).connect().await.unwrap();
        Self::over(World::over(Arc::new(store), None), elsewhere, PostgresStore::watch).await
    }
}

impl Watched<SqliteStore> {
    async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            sqlite_options(&folder.path().join("trusts.db")).query_timeout(Duration::from_secs(60));
        let store = options.clone().connect().await.unwrap();
        let elsewhere = options.connect().await.unwrap();
        Self::over(World::over(Arc::new(store), Some(folder)), elsewhere, SqliteStore::watch).await
    }
}

/// Makes each kind of change in another process.
async fn changes_elsewhere_evict_their_keys_and_no_others<S: TrustLedger>(watched: Watched<S>) {
    let Watched { world, elsewhere, .. } = &watched;
    let (other, other_key) = world.register("other").await;
    let (_, disabled) = world.register("disabled").await;
    let (_, rotated) = world.register("rotated").await;
    let (_, deleted) = world.register("deleted").await;
    // This process's own changes are notified later, too. Each names one key.
    eventually("the registrations were received", || watched.status().evicted_keys == 4).await;
    for key in [&other_key, &disabled, &rotated, &deleted] {
        assert!(world.attempt(key).await.result.is_ok());
        assert!(world.cached(key).is_some());
    }

    elsewhere.disable(&by_name("disabled")).await.unwrap();
    watched.gone(&disabled).await;
    elsewhere.rotate(&by_name("rotated")).await.unwrap();
    watched.gone(&rotated).await;
    elsewhere.delete(&by_name("deleted")).await.unwrap();
    watched.gone(&deleted).await;

    for key in [&disabled, &rotated, &deleted] {
        let attempt = world.attempt(key).await;
        assert!(matches!(attempt.result, Err(AuthError::Invalid)));
        assert_eq!(attempt.route, Route::Scan, "the entry is gone, so this is no stale hit");
    }
    assert_eq!(world.cached(&other_key), Some(other.id), "no other key lost its entry");
    // A rotation names two keys.
    assert_eq!(watched.status().evicted_keys, 4 + 1 + 2 + 1);
    watched.assert_targeted();
}

#[tokio::test]
async fn changes_by_another_process_evict_their_keys_and_no_others_on_postgres() {
    let Some(server) = PostgresServer::shared() else { return };
    changes_elsewhere_evict_their_keys_and_no_others(Watched::on_postgres(server).await.0).await;
}

/// In Turkish the small letter of `I` is `ı`, and the store would not understand an operation
/// `ınsert`.
#[tokio::test]
async fn changes_by_another_process_evict_their_keys_and_no_others_in_a_turkish_database() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database_with("LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C'");
    assert_eq!(
        server.psql(&url, "SELECT lower('INSERT')"),
        "ınsert",
        "the test: this server has another rule"
    );
    changes_elsewhere_evict_their_keys_and_no_others(Watched::at(&url, &url).await).await;
}

#[tokio::test]
async fn changes_by_another_process_evict_their_keys_and_no_others_on_sqlite() {
    changes_elsewhere_evict_their_keys_and_no_others(Watched::on_sqlite().await).await;
}

/// Registers trusts of these names, and waits until their notifications have arrived. The next
/// notification is then of another change.
async fn hot<const N: usize>(
    watched: &Watched<PostgresStore>,
    names: [&str; N],
) -> [(Trust, ApiKey); N] {
    let mut made = Vec::new();
    for name in names {
        made.push(watched.world.register(name).await);
    }
    eventually("the registrations were received", || watched.status().notifications >= N as u64)
        .await;
    for (trust, key) in &made {
        assert!(watched.world.attempt(key).await.result.is_ok());
        assert_eq!(watched.world.cached(key), Some(trust.id));
    }
    made.try_into().unwrap()
}

#[tokio::test]
async fn a_change_by_psql_evicts_exactly_its_key() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let world = &watched.world;
    let made = hot(&watched, ["a", "b", "c", "d", "other"]).await;
    let [(a, a_key), (b, b_key), (c, c_key), (d, d_key), (other, other_key)] = &made;

    server.psql(&url, &format!("UPDATE trust SET disabled_at = now() WHERE id = '{}'", a.id));
    watched.gone(a_key).await;
    let digest = KeyHash::of("another");
    // In upper case, as an operator may write it.
    let digits = digest.to_hex().to_uppercase();
    server.psql(&url, &format!("UPDATE trust SET api_key_hash = '{digits}' WHERE id = '{}'", b.id));
    watched.gone(b_key).await;
    assert_eq!(world.authenticator.authenticate(Some("another")).await.unwrap().id, b.id);
    server.psql(&url, &format!("DELETE FROM trust WHERE id = '{}'", c.id));
    watched.gone(c_key).await;
    // Another row has the same key: the key is then that row's.
    let values = format!("gen_random_uuid(), 'twin', '{}'", d_key.hash().to_hex());
    server.psql(&url, &format!("INSERT INTO trust (id, name, api_key_hash) VALUES ({values})"));
    watched.gone(d_key).await;
    assert_ne!(world.attempt(d_key).await.result.unwrap().id, d.id);

    assert_eq!(world.cached(other_key), Some(other.id));
    watched.assert_targeted();
    // Five registrations and four changes. Each names one key, except the new hash, which names
    // two.
    let status = watched.status();
    assert_eq!((status.notifications, status.evicted_keys), (9, 10), "{status:?}");
}

#[tokio::test]
async fn a_change_that_concerns_no_key_or_is_rolled_back_is_not_notified() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let [(a, a_key), (_, b_key)] = &hot(&watched, ["a", "b"]).await;

    server.psql(
        &url,
        "UPDATE trust SET last_heartbeat = now(), region = 'north', api_key_hash = api_key_hash",
    );
    server.psql(&url, "BEGIN; DELETE FROM trust; ROLLBACK");
    server.psql(&url, "NOTIFY another_channel, '1 truncate - - -'");
    // Notifications arrive in the order of the commits. After this one, all earlier ones have
    // arrived.
    server.psql(&url, "DELETE FROM trust WHERE name = 'b'");
    watched.gone(b_key).await;
    assert_eq!(watched.status().notifications, 3);
    assert_eq!(watched.world.cached(a_key), Some(a.id));
}

#[tokio::test]
async fn a_notification_that_is_not_understood_invalidates_every_key() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let long = "x".repeat(7_000);
    for (number, payload) in ["", "reload", "2 update x y z", &long].iter().enumerate() {
        let (_, key) = watched.world.register(&format!("trust {number}")).await;
        eventually("the registration was received", || {
            watched.status().evicted_keys > number as u64
        })
        .await;
        assert!(watched.world.attempt(&key).await.result.is_ok());
        assert!(watched.world.cached(&key).is_some());
        server.psql(&url, &format!("SELECT pg_notify('trust_auth', '{payload}')"));
        eventually("the notification was received", || {
            watched.status().malformed == number as u64 + 1
        })
        .await;
        assert_eq!(watched.world.cached(&key), None);
    }
    let status = watched.status();
    assert_eq!((status.malformed, status.invalidations, status.connects), (4, 5, 1), "{status:?}");
}

#[tokio::test]
async fn a_truncated_table_invalidates_every_key() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let [(_, a), (_, b)] = &hot(&watched, ["a", "b"]).await;
    server.psql(&url, "TRUNCATE trust CASCADE");
    eventually("the notification was received", || watched.status().truncations == 1).await;
    assert_eq!((watched.world.cached(a), watched.world.cached(b)), (None, None));
    assert!(matches!(watched.world.attempt(a).await.result, Err(AuthError::Invalid)));
}

/// Logical replication and some restores write with triggers off.
#[tokio::test]
async fn a_change_with_triggers_off_is_notified_too() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let [(_, key)] = &hot(&watched, ["a"]).await;
    server.psql(&url, "SET session_replication_role = replica; DELETE FROM trust");
    watched.gone(key).await;
    watched.assert_targeted();
}

/// The revocation is made while no connection is possible, so its notification cannot arrive.
#[tokio::test]
async fn a_revocation_while_the_listener_is_cut_off_is_refused_at_once_and_evicted_when_it_is_back()
{
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let world = &watched.world;
    let [(trust, key), (other, other_key)] = &hot(&watched, ["a", "other"]).await;
    let name = url.rsplit('/').next().unwrap();
    let mut administrator = server.connect(&url).await;

    server.psql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    assert_eq!(server.kill_where(&url, "application_name = 'trust-auth watch'"), 1);
    eventually("the loss is noticed", || !watched.status().connected).await;
    administrator.execute("DELETE FROM trust WHERE name = 'a'").await.unwrap();

    // No notification has arrived, and the entry is there. The live row refuses each request.
    for _ in 0..10 {
        let attempt = world.attempt(key).await;
        assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{:?}", attempt.result);
        assert_eq!(attempt.route, Route::StaleHit);
    }
    assert_eq!(world.cached(key), Some(trust.id));
    assert!(world.attempt(other_key).await.result.is_ok());
    eventually("attempts to connect fail", || watched.status().failures >= 2).await;

    server.psql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    watched.connected(2).await;
    assert_eq!(
        (world.cached(key), world.cached(other_key)),
        (None, None),
        "everything is invalidated"
    );
    assert!(matches!(world.attempt(key).await.result, Err(AuthError::Invalid)));
    assert_eq!(world.attempt(other_key).await.result.as_ref().unwrap().id, other.id);

    // Notifications arrive again.
    administrator.execute("DELETE FROM trust").await.unwrap();
    watched.gone(other_key).await;
    administrator.close().await.unwrap();
}

#[tokio::test]
async fn a_listener_reconnects_within_five_seconds_of_the_servers_return() {
    let Some(server) = PostgresServer::start() else { return };
    let (watched, _) = Watched::on_postgres(&server).await;
    let [(_, key)] = &hot(&watched, ["a"]).await;
    server.stop();
    eventually("the loss is noticed", || !watched.status().connected).await;
    // After so many failures, the pauses have their full length.
    eventually("attempts to connect fail", || watched.status().failures >= 8).await;
    server.start_again();
    let returned = Instant::now();
    watched.connected(2).await;
    assert!(returned.elapsed() < Duration::from_secs(5), "{:?}", returned.elapsed());
    assert_eq!(watched.world.cached(key), None);
}

/// The invalidation of every key must come after `LISTEN`. Otherwise a key that is remembered and
/// revoked before `LISTEN` would be missed.
#[tokio::test]
async fn what_is_revoked_before_it_listens_is_invalidated_once_it_does() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let network = Network::before(server).await;
    // The network alone decides when the store listens.
    let store = postgres_options(&network.url(&url, server)).connect().await.unwrap();
    let world = World::over(Arc::new(store), None);
    network.hold_listen();
    let watcher = world.store.watch(Arc::clone(&world.cache));
    tokio::time::timeout(Duration::from_secs(60), network.holds_listen())
        .await
        .expect("the store sends LISTEN");
    let (trust, key) = world.register_hot("a").await;
    server.psql(&url, "DELETE FROM trust");
    assert_eq!(world.cached(&key), Some(trust.id), "the change was notified");
    assert_eq!((watcher.status().connected, watcher.status().connects), (false, 0));

    network.let_listen();
    eventually("it is connected", || watcher.status().connected).await;
    assert_eq!(world.cached(&key), None);
    assert_eq!(
        (watcher.status().notifications, watcher.status().failures),
        (0, 0),
        "{:?}",
        watcher.status()
    );
}

#[tokio::test]
async fn a_connection_that_dies_silently_is_noticed() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let network = Network::before(server).await;
    let watched = Watched::at(&network.url(&url, server), &url).await;
    let [(_, key)] = &hot(&watched, ["a"]).await;
    // A time without changes does not end the connection.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((watched.status().connects, watched.status().failures), (1, 0));

    network.freeze();
    server.psql(&url, "DELETE FROM trust");
    eventually("the silence is noticed", || watched.status().failures >= 1).await;
    network.thaw();
    watched.connected(2).await;
    assert_eq!(watched.world.cached(key), None);
}

/// The connection answers, and delivers no notification.
#[tokio::test]
async fn a_connection_that_delivers_nothing_is_noticed_and_reported_as_deaf() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let network = Network::before(server).await;
    let watched = Watched::at(&network.url(&url, server), &url).await;
    let [(_, key)] = &hot(&watched, ["a"]).await;
    assert!(watched.status().canaries_heard >= 1 && watched.status().canaries_missed == 0);
    watched.world.store.check_notifications().await.unwrap();

    network.deafen(true);
    server.psql(&url, "DELETE FROM trust");
    eventually("the loss is noticed", || !watched.status().connected).await;
    let status = watched.status();
    assert!(status.failures >= 1 && status.canaries_missed >= 1, "{status:?}");
    let error = watched.world.store.check_notifications().await.unwrap_err();
    assert_eq!(error.kind(), "deaf", "{error}");
    assert!(error.to_string().contains("PgBouncer") && !watched.status().connected, "{error}");

    network.deafen(false);
    watched.connected(2).await;
    assert_eq!(watched.world.cached(key), None);
}

/// The former connection is used until the next one receives every change.
#[tokio::test]
async fn a_listener_that_is_replaced_for_its_age_misses_no_change_and_evicts_no_other_key() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let elsewhere = postgres_options(&url).connect().await.unwrap();
    let options = postgres_options(&url).max_connection_age(Duration::from_secs(1));
    let world = World::over(Arc::new(options.connect().await.unwrap()), None);
    let watched = Watched::over(world, elsewhere, PostgresStore::watch).await;
    let [(kept, kept_key)] = &hot(&watched, ["kept"]).await;
    let name = url.rsplit('/').next().unwrap();
    let sql = format!(
        "SELECT min(pid), count(*) = 1 FROM pg_stat_activity \
         WHERE datname = '{name}' AND application_name = 'trust-auth watch'"
    );
    let listening = || server.psql("postgres", &sql);
    for round in 0..3 {
        let before = listening();
        let begun = Instant::now();
        let mut number = 0;
        // Changes go on during the replacement.
        while listening() == before || !listening().ends_with('t') {
            let (_, key) = watched.world.register(&format!("{round} {number}")).await;
            server.psql(&url, &format!("DELETE FROM trust WHERE name = '{round} {number}'"));
            watched.gone(&key).await;
            number += 1;
            assert!(begun.elapsed() < Duration::from_secs(60), "{before} is not replaced");
        }
        assert_eq!(watched.world.cached(kept_key), Some(kept.id));
    }
    watched.assert_targeted();
}

/// A restore of the table may remove the triggers. The connection that listens notices this.
#[tokio::test]
async fn triggers_that_are_removed_while_it_listens_are_reported_and_their_return_evicts_all() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let [(_, key), (_, other)] = &hot(&watched, ["a", "b"]).await;
    assert!(!watched.status().triggers_missing);
    server.psql(&url, "DROP FUNCTION trust_auth_notify CASCADE");
    eventually("they are missed", || watched.status().triggers_missing).await;
    assert_eq!(watched.status().trigger_changes, 1, "{:?}", watched.status());

    // This change is not notified. The live row decides.
    assert!(watched.world.attempt(key).await.result.is_ok());
    assert!(watched.world.attempt(other).await.result.is_ok());
    server.psql(&url, "UPDATE trust SET disabled_at = now() WHERE name = 'a'");
    assert!(matches!(watched.world.attempt(key).await.result, Err(AuthError::Invalid)));

    let plan = postgres_options(&url).run_migration().await.unwrap();
    assert_eq!(plan.missing().len(), 3, "{plan}");
    eventually("they are back", || !watched.status().triggers_missing).await;
    watched.gone(other).await;
    assert!(watched.world.attempt(other).await.result.is_ok());
    server.psql(&url, "DELETE FROM trust");
    watched.gone(other).await;
    let status = watched.status();
    assert_eq!((status.connects, status.failures, status.trigger_changes), (1, 0, 2), "{status:?}");
}

/// `pg_restore --disable-triggers` may take less time than the time between two checks.
#[tokio::test]
async fn triggers_that_were_off_for_a_moment_invalidate_everything() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let [(_, key)] = &hot(&watched, ["a"]).await;
    server.psql(
        &url,
        "BEGIN; ALTER TABLE trust DISABLE TRIGGER ALL; DELETE FROM trust; \
         ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_row; \
         ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_update; \
         ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_keys; \
         ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_truncate; COMMIT",
    );
    watched.gone(key).await;
    assert!(!watched.status().triggers_missing);
    assert_eq!(watched.status().trigger_changes, 1, "{:?}", watched.status());
}

/// A watcher that starts without triggers still listens.
#[tokio::test]
async fn a_connection_is_made_and_nothing_is_changed_where_the_triggers_are_missing() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    server.psql(&url, "ALTER TABLE trust DISABLE TRIGGER trust_auth_row");
    assert_eq!(server.kill_where(&url, "application_name = 'trust-auth watch'"), 1);
    watched.connected(2).await;
    assert!(watched.status().triggers_missing);
    let enabled = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'trust_auth_row'";
    assert_eq!(server.psql(&url, enabled), "D");
}

#[tokio::test]
async fn a_watcher_that_is_dropped_stops_and_its_connection_is_closed() {
    let Some(server) = PostgresServer::shared() else { return };
    let (watched, url) = Watched::on_postgres(server).await;
    let listening = || {
        let name = url.rsplit('/').next().unwrap();
        server.psql(
            "postgres",
            &format!(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = '{name}' AND application_name = 'trust-auth watch'"
            ),
        )
    };
    assert_eq!(listening(), "1");
    let Watched { world, watcher, .. } = watched;
    drop(watcher);
    eventually("the connection is closed", || listening() == "0").await;
    assert!(world.register_hot("a").await.0.is_enabled());
}

#[tokio::test]
async fn an_application_that_writes_heartbeats_costs_no_entry_on_sqlite() {
    let watched = Watched::on_sqlite().await;
    let (trust, key) = watched.world.register("a").await;
    let (_, last) = watched.world.register("last").await;
    eventually("the registrations were received", || watched.status().evicted_keys == 2).await;
    for key in [&key, &last] {
        assert!(watched.world.attempt(key).await.result.is_ok());
    }
    let mut application = second_connection(&watched.world.store).await;
    // Each time differs: an equal value would change nothing.
    for minute in 10..13 {
        let heard = watched.status().notifications;
        let update = format!("UPDATE trust SET last_heartbeat = '2026-01-01T00:{minute}:00Z'");
        application.execute(sqlx::AssertSqlSafe(update)).await.unwrap();
        eventually("the commit was seen", || watched.status().notifications > heard).await;
    }
    assert_eq!(watched.world.cached(&key), Some(trust.id));
    application.execute("DELETE FROM trust WHERE name = 'last'").await.unwrap();
    watched.gone(&last).await;
    assert_eq!(watched.world.cached(&key), Some(trust.id));
    watched.assert_targeted();
}

#[tokio::test]
async fn a_watch_on_sqlite_that_failed_invalidates_every_key_when_it_reconnects() {
    let watched = Watched::on_sqlite().await;
    let (_, key) = watched.world.register_hot("a").await;
    let mut other = second_connection(&watched.world.store).await;
    other.execute("ALTER TABLE trust RENAME TO elsewhere").await.unwrap();
    eventually("the loss is noticed", || !watched.status().connected).await;
    other.execute("ALTER TABLE elsewhere RENAME TO trust").await.unwrap();
    watched.connected(2).await;
    assert_eq!(watched.world.cached(&key), None);
    assert!(watched.world.attempt(&key).await.result.is_ok());
}

/// The watcher checks the file, even without any operation on the store.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_replaced_is_lost_to_its_watcher() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("trusts.db"), folder.path().join("other.db"));
    let store = sqlite_options(&path).connect().await.unwrap();
    let watcher = store.watch(Arc::default());
    eventually("it watches", || watcher.status().connected).await;
    std::fs::write(&other, "").unwrap();
    std::fs::rename(&other, &path).unwrap();
    eventually("the loss was noticed", || !watcher.status().connected).await;
    assert!(watcher.status().failures > 0);
}

/// SQLite removes its side files when the last connection closes. The content of leftover side
/// files would go into the next file of the name.
#[tokio::test]
async fn a_store_that_is_closed_has_closed_its_watchers_too_and_left_nothing_in_sqlites_side_files()
{
    // The store of the other process is not used, and has no open connection.
    let Watched { world, watcher, .. } = Watched::on_sqlite().await;
    world.register_hot("St. Mary").await;
    let path = world.store.path().to_path_buf();
    let side = path.with_extension("db-wal");
    assert!(side.exists());
    world.store.close().await;
    assert!(!side.exists(), "something is open, or was closed too late");
    eventually("the watcher has ended", || !watcher.status().connected).await;
}
