//! The cache of an application under a read lease, with a schema of its own, on PostgreSQL. Two
//! caches stand for two processes: they share nothing but the database.

mod stores;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool};
use stores::postgres_server::PostgresServer;
use stores::postgres_server::network::{Cut, Network};
use stores::{eventually, postgres_options};
use trust_auth::{CacheLease, ChangeFeed, KeyHash, PgChanges, PgFeed, Settled};
use trust_key_cache::KeyCache;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(300);

const APPLICATION: &str = "\
    CREATE TABLE organizations (id int PRIMARY KEY, is_suspended bool NOT NULL DEFAULT false); \
    CREATE TABLE users (id int PRIMARY KEY, is_disabled bool NOT NULL DEFAULT false); \
    CREATE TABLE memberships (user_id int, organization_id int, PRIMARY KEY (user_id)); \
    CREATE TABLE api_keys (key_hash text PRIMARY KEY, user_id int NOT NULL, \
        is_revoked bool NOT NULL DEFAULT false, last_used_at timestamptz); \
    INSERT INTO organizations VALUES (1); \
    INSERT INTO users SELECT generate_series(1, 3); \
    INSERT INTO memberships SELECT generate_series(1, 3), 1;";

const PRINCIPAL: &str = "\
    UPDATE api_keys SET last_used_at = now() FROM users, memberships, organizations \
    WHERE key_hash = $1 AND NOT is_revoked AND users.id = api_keys.user_id AND NOT is_disabled \
    AND memberships.user_id = users.id AND organizations.id = organization_id \
    AND NOT is_suspended RETURNING users.id";

/// A user's id, as a request sees it.
type Principal = i32;

struct Process {
    pool: PgPool,
    cache: Arc<KeyCache<Principal>>,
    lease: CacheLease<PgFeed, Principal>,
}

impl Process {
    async fn start(url: &str, length: Duration, name: &str) -> Self {
        let cache = Arc::new(KeyCache::<Principal>::builder().ttl(LONG).build().unwrap());
        let feed = changes(url).connect().await.unwrap();
        let lease = CacheLease::builder(feed, Arc::clone(&cache))
            .length(length)
            .name(name)
            .values(|_, value, user| user.to_string() == value)
            .start()
            .await
            .unwrap();
        let pool = PgPool::connect(url).await.unwrap();
        Self { pool, cache, lease }
    }

    async fn authenticate(&self, key: &str) -> Option<Principal> {
        let hash = KeyHash::of(key);
        if let Some(user) = self.lease.lookup(&hash) {
            return Some(user);
        }
        let lease = self.cache.lease(&hash);
        let user = sqlx::query_scalar(PRINCIPAL)
            .bind(hash.to_hex())
            .fetch_optional(&self.pool)
            .await
            .unwrap()?;
        lease.remember(user);
        Some(user)
    }

    fn held(&self, key: &str) -> Option<Principal> {
        self.lease.lookup(&KeyHash::of(key))
    }
}

fn changes(url: &str) -> PgChanges {
    PgChanges::new(postgres_options(url))
        .table("api_keys", |table| table.key("key_hash").ignore(["last_used_at"]))
        .table("users", |table| table.value("id"))
        .table("memberships", |table| table.value("user_id"))
        .table("organizations", |table| table.everything())
}

/// A database with a key for each user: `1`, `2` and `3`. Its run is settled.
async fn application(server: &PostgresServer) -> String {
    let url = server.new_database();
    server.psql(&url, APPLICATION);
    for user in 1..=3 {
        let hash = KeyHash::of(user.to_string()).to_hex();
        server.psql(&url, &format!("INSERT INTO api_keys VALUES ('{hash}', {user})"));
    }
    changes(&url).run_migration().await.unwrap();
    server.settle_the_run(&url);
    url
}

/// Makes a change with a barrier, and returns that.
async fn change(connection: &mut PgConnection, sql: &'static str) -> String {
    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap();
    let barrier = sqlx::query_scalar("SELECT trust_auth_barrier()");
    let barrier = barrier.fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    barrier
}

async fn revoke(feed: &PgFeed, connection: &mut PgConnection, sql: &'static str) -> Settled {
    let barrier = change(connection, sql).await;
    feed.settle(&barrier, Default::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_each_way_to_revoke_is_final_in_every_process_when_it_returns() {
    let Some(server) = PostgresServer::shared() else { return };
    for (sql, refused) in [
        ("UPDATE users SET is_disabled = true WHERE id = 1", &["1"][..]),
        ("DELETE FROM memberships WHERE user_id = 2", &["2"]),
        ("UPDATE api_keys SET is_revoked = true WHERE user_id = 3", &["3"]),
        ("DELETE FROM api_keys WHERE user_id = 3", &["3"]),
        ("UPDATE organizations SET is_suspended = true", &["1", "2", "3"]),
        ("TRUNCATE users", &["1", "2", "3"]),
    ] {
        let url = application(server).await;
        let processes =
            [Process::start(&url, LONG, "a").await, Process::start(&url, LONG, "b").await];
        for process in &processes {
            for key in ["1", "2", "3"] {
                assert!(process.authenticate(key).await.is_some());
                assert_eq!(process.held(key).unwrap().to_string(), key);
            }
        }
        let mut changer = server.connect(&url).await;
        let feed = changes(&url).connect().await.unwrap();
        let settled = revoke(&feed, &mut changer, sql).await;
        assert!(
            matches!(
                &settled,
                Settled::Everywhere { holders: Some(2), silent, .. } if silent.is_empty()
            ),
            "{settled:?}"
        );
        for process in &processes {
            for key in refused {
                assert_eq!(process.held(key), None, "{sql}");
                assert_eq!(process.authenticate(key).await, None, "{sql}");
                assert_eq!(process.held(key), None, "{sql}");
            }
            for key in ["1", "2", "3"].iter().filter(|key| !refused.contains(key)) {
                assert!(process.authenticate(key).await.is_some(), "{sql}");
            }
        }
    }
}

/// A request reads the row, the key is revoked, and only then does the request store what it read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_a_value_that_was_read_before_its_revocation_is_never_held_after_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let process = Process::start(&url, LONG, "a").await;
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    for sql in [
        "UPDATE users SET is_disabled = true WHERE id = 1",
        "DELETE FROM api_keys WHERE user_id = 1",
    ] {
        let hash = KeyHash::of("1");
        let lease = process.cache.lease(&hash);
        assert_ne!(revoke(&feed, &mut changer, sql).await, Settled::Repeat);
        assert!(!lease.remember(1), "{sql}");
        assert_eq!(process.held("1"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_decides_nothing_and_other_users_changes_leave_the_value_held() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let process = Process::start(&url, LONG, "a").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    for sql in [
        "UPDATE api_keys SET last_used_at = now()",
        "UPDATE users SET is_disabled = true WHERE id = 2",
        "INSERT INTO users VALUES (4)",
    ] {
        assert_ne!(revoke(&feed, &mut changer, sql).await, Settled::Repeat);
        assert_eq!(process.held("1"), Some(1), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_hand_is_followed_by_its_hint() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let process = Process::start(&url, LONG, "a").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    server.psql(&url, "UPDATE users SET is_disabled = true WHERE id = 1");
    // The next regular renewal is far away.
    eventually("the change was followed", || process.held("1").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_is_not_waited_for_and_one_that_is_dropped_is() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();

    let process = Process::start(&url, LONG, "stops").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    process.lease.stop().await.unwrap();
    let settled = revoke(&feed, &mut changer, "UPDATE users SET is_disabled = true").await;
    assert_eq!(settled, Settled::NOTHING_HELD);

    let process = Process::start(&url, SHORT, "dropped").await;
    drop(process);
    let begun = Instant::now();
    let settled = revoke(&feed, &mut changer, "UPDATE users SET is_disabled = true").await;
    assert!(begun.elapsed() >= SHORT);
    assert!(
        matches!(&settled, Settled::Everywhere { silent, .. } if *silent == ["dropped"]),
        "{settled:?}"
    );
}

/// The session is cut, and the server is away. What is held is granted until the deadline, and the
/// lease begins again when the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_survives_its_session_and_ends_with_its_length() {
    let Some(server) = PostgresServer::start() else { return };
    let url = application(&server).await;
    let long = Process::start(&url, LONG, "long").await;
    let short = Process::start(&url, SHORT, "short").await;
    for process in [&long, &short] {
        assert_eq!(process.authenticate("1").await, Some(1));
    }
    server.stop();
    eventually("the short lease has ended", || !short.lease.read_lease().is_valid()).await;
    assert_eq!(short.held("1"), None);
    assert_eq!(long.held("1"), Some(1), "an outage is bridged");

    server.start_again();
    eventually("the short lease begins again", || short.lease.read_lease().is_valid()).await;
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    // The run is new, and the longest lease is long: lower the bound instead of waiting it out.
    long.lease.stop().await.unwrap();
    server.psql(&url, "UPDATE trust_auth_lease SET max_lease_ms = 300");
    let sql = "UPDATE users SET is_disabled = true WHERE id = 1";
    let settled = revoke(&feed, &mut changer, sql).await;
    assert!(matches!(settled, Settled::Everywhere { holders: Some(1), .. }), "{settled:?}");
    assert_eq!((short.held("1"), short.authenticate("1").await), (None, None));
}

/// Revocations one after another, with readers in two processes. No request that begins after one
/// has returned is granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_holds_for_many_revocations_under_load() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let processes = [
        Arc::new(Process::start(&url, LONG, "a").await),
        Arc::new(Process::start(&url, LONG, "b").await),
    ];
    let readers: Vec<_> = processes
        .iter()
        .map(|process| {
            let process = Arc::clone(process);
            tokio::spawn(async move {
                loop {
                    process.authenticate("1").await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    let mut took = Vec::new();
    for _ in 0..50 {
        change(&mut changer, "UPDATE users SET is_disabled = false WHERE id = 1").await;
        eventually("it is granted again", || processes.iter().all(|at| at.held("1").is_some()))
            .await;
        let begun = Instant::now();
        let sql = "UPDATE users SET is_disabled = true WHERE id = 1";
        let settled = revoke(&feed, &mut changer, sql).await;
        took.push(begun.elapsed());
        assert!(matches!(settled, Settled::Everywhere { holders: Some(2), .. }), "{settled:?}");
        for process in &processes {
            assert_eq!(process.held("1"), None);
            assert_eq!(process.authenticate("1").await, None);
        }
    }
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    took.sort();
    println!("a revocation took {:?}, at most {:?}", took[25], took[49]);
}

/// The holder is cut off, and no connection is closed. The changer waits for its lease to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_a_holder_behind_a_silent_network_grants_nothing_when_the_revocation_returns() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let network = Network::before(server).await;
    let length = 4 * SHORT;
    let process = Process::start(&network.url(&url, server), length, "cut off").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    network.freeze();
    let begun = Instant::now();
    let sql = "UPDATE users SET is_disabled = true WHERE id = 1";
    let settled = revoke(&feed, &mut changer, sql).await;
    assert_eq!(process.held("1"), None);
    assert!(begun.elapsed() >= length);
    assert!(
        matches!(&settled, Settled::Everywhere { silent, .. } if *silent == ["cut off"]),
        "{settled:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_whose_hint_is_lost_returns_with_the_next_regular_renewal() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let network = Network::before(server).await;
    let process = Process::start(&network.url(&url, server), 4 * SHORT, "deaf").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    network.deafen(true);
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    let sql = "UPDATE users SET is_disabled = true WHERE id = 1";
    let settled = revoke(&feed, &mut changer, sql).await;
    assert!(matches!(settled, Settled::Everywhere { holders: Some(1), .. }), "{settled:?}");
    assert_eq!((process.held("1"), process.authenticate("1").await), (None, None));
}

/// Its session is cut, and so is the first statement of the next one, after the server has run it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rl28_a_holder_that_loses_its_sessions_keeps_its_registration() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = application(server).await;
    let network = Network::before(server).await;
    let mut changer = server.connect(&url).await;
    let feed = changes(&url).connect().await.unwrap();
    let process = Process::start(&network.url(&url, server), LONG, "a").await;
    assert_eq!(process.authenticate("1").await, Some(1));
    let registration = "SELECT id FROM trust_auth_holder";
    let before = server.psql(&url, registration);

    for sql in [
        "UPDATE users SET is_disabled = true WHERE id = 1",
        "UPDATE users SET is_disabled = false WHERE id = 1",
    ] {
        // The text of a statement is sent once for each connection.
        network.cut("set_config('trust_auth.session'", Cut::After);
        server.kill_where(&url, "application_name LIKE '% lease' AND query LIKE '%trust_auth%'");
        let settled = revoke(&feed, &mut changer, sql).await;
        assert!(
            matches!(
                &settled,
                Settled::Everywhere { holders: Some(1), silent, .. } if silent.is_empty()
            ),
            "{settled:?}"
        );
        eventually("a connection was cut", || network.has_cut()).await;
        assert_eq!(process.held("1"), None);
    }
    assert_eq!(server.psql(&url, registration), before);
}
