//! A PostgreSQL server that hangs, refuses, stops, or was replaced by another server. Operations
//! fail within the configured limits, with errors that name the remedy. The first operation after
//! the server's return is answered.

mod stores;

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};
use stores::postgres_server::network::{Cut, Network};
use stores::postgres_server::{PASSWORD, PostgresServer};
use stores::{by_name, eventually, postgres_options};
use tokio::net::TcpListener;
use trust_auth::{KeyHash, NewTrust, PostgresStore, StoreError, Trust, TrustLedger, TrustStore};

/// Longer than any machine needs, and shorter than a hang.
const SOON: Duration = Duration::from_secs(30);

/// A limit that an operation must meet. No other limit of these tests has this length.
const LIMIT: Duration = Duration::from_secs(2);

/// Counts the sessions that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn store_with_a_trust(url: &str) -> (PostgresStore, Trust) {
    let store = postgres_options(url).connect().await.unwrap();
    let trust = insert(&store, "a").await.unwrap();
    (store, trust)
}

async fn insert(store: &PostgresStore, name: &str) -> Result<Trust, StoreError> {
    store.insert(NewTrust::new(name).unwrap(), KeyHash::of(name)).await
}

/// Returns the error of an operation, and asserts that it failed after about `limit`.
async fn refused_after<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> StoreError {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(SOON, operation).await.expect("it hangs");
    let Err(error) = outcome else { panic!("it was done") };
    assert!(begun.elapsed() >= limit.mul_f64(0.8), "{error} after {:?}", begun.elapsed());
    let told = format!("{error} {error:?}");
    assert!(!told.contains(PASSWORD), "{told}");
    error
}

#[tokio::test]
async fn a_query_that_hangs_ends_when_its_time_is_over_here_and_on_the_server() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let store = postgres_options(&url).query_timeout(LIMIT).connect().await.unwrap();
    let mut other = server.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("LOCK TABLE trust IN ACCESS EXCLUSIVE MODE").await.unwrap();

    let timed_out = |error: StoreError| {
        assert!(matches!(error, StoreError::Timeout { after } if after == LIMIT), "{error}")
    };
    timed_out(refused_after(LIMIT, store.fetch(trust.id)).await);
    timed_out(refused_after(LIMIT, store.candidates()).await);
    timed_out(refused_after(LIMIT, store.list()).await);
    timed_out(refused_after(LIMIT, store.delete(&by_name("a"))).await);
    timed_out(refused_after(LIMIT, insert(&store, "b")).await);
    let begun = Instant::now();
    while server.psql(&url, WAITING) != "0" {
        assert!(begun.elapsed() < SOON, "the server still runs a statement without a caller");
    }

    locked.rollback().await.unwrap();
    let store = postgres_options(&url).connect().await.unwrap();
    assert_eq!(store.list().await.unwrap(), [trust], "nothing was written late");
}

#[tokio::test]
async fn a_network_that_fell_silent_costs_the_time_limit_and_new_connections_work() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let network = Network::before(server).await;
    let options = postgres_options(&network.url(&url, server));
    let store = options.query_timeout(LIMIT).connect_timeout(LIMIT / 2).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().is_some());

    network.freeze();
    // First on the pooled connection, then on new connections, which no server answers.
    assert_eq!(refused_after(LIMIT, store.fetch(trust.id)).await.kind(), "timeout");
    let error = refused_after(LIMIT / 2, store.fetch(trust.id)).await;
    assert_eq!(error.kind(), "cannot_connect", "{error}");
    assert!(error.to_string().contains("check the address, and that it runs"), "{error}");
    network.thaw();
    assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
}

#[tokio::test]
async fn a_wait_for_a_connection_ends_with_a_timeout() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let store =
        postgres_options(&url).max_connections(2).acquire_timeout(LIMIT).connect().await.unwrap();
    let mut other = server.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("LOCK TABLE trust IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let hangs = || {
        let (store, id) = (store.clone(), trust.id);
        tokio::spawn(async move { store.fetch(id).await })
    };
    let hanging = [hangs(), hangs()];
    let begun = Instant::now();
    while server.psql(&url, WAITING) != "2" {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let error = refused_after(LIMIT, store.fetch(trust.id)).await;
    assert!(matches!(error, StoreError::Timeout { after } if after == LIMIT), "{error}");
    locked.rollback().await.unwrap();
    for fetch in hanging {
        assert_eq!(fetch.await.unwrap().unwrap().as_ref(), Some(&trust));
    }
    assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
}

#[tokio::test]
async fn a_row_that_another_session_has_locked_is_busy_and_delays_no_read() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let store = postgres_options(&url).lock_timeout(LIMIT).connect().await.unwrap();
    let mut other = server.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("SELECT FROM trust FOR UPDATE").await.unwrap();

    let error = refused_after(LIMIT, store.set_enabled(&trust.id.into(), false)).await;
    assert!(matches!(error, StoreError::Busy), "{error}");
    assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
    assert_eq!(store.candidates().await.unwrap().len(), 1);
    locked.rollback().await.unwrap();
    assert!(!store.set_enabled(&trust.id.into(), false).await.unwrap().trust.is_enabled());
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced_within_the_next_operation() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    for round in 0..3 {
        // The pool has several connections, and all of them die.
        let (one, two, three) =
            tokio::join!(store.fetch(trust.id), store.fetch(trust.id), store.candidates());
        assert!(one.unwrap().is_some() && two.unwrap().is_some() && three.unwrap().len() > round);
        assert!(server.kill_connections(&url) >= 2);
        assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
        assert!(server.kill_connections(&url) >= 1);
        insert(&store, &format!("made after the cut {round}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_stopped_server_cannot_be_reached_and_the_first_operation_after_its_return_works() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    for _ in 0..2 {
        server.stop();
        for _ in 0..3 {
            let error = refused_after(Duration::ZERO, store.fetch(trust.id)).await;
            assert_eq!(error.kind(), "cannot_connect", "{error}");
            assert!(error.to_string().contains("check the address, and that it runs"), "{error}");
        }
        assert_eq!(
            refused_after(Duration::ZERO, insert(&store, "b")).await.kind(),
            "cannot_connect"
        );
        let error = refused_after(Duration::ZERO, postgres_options(&url).connect()).await;
        assert_eq!(error.kind(), "cannot_connect", "{error}");

        server.start_again();
        assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
        assert_eq!(store.set_enabled(&trust.id.into(), true).await.unwrap().trust, trust);
        assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&trust));
    }
}

#[tokio::test]
async fn nothing_is_read_from_a_primary_that_has_become_a_replica() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.become_replica();
    for error in [
        store.fetch(trust.id).await.unwrap_err(),
        store.candidates().await.unwrap_err(),
        store.list().await.unwrap_err(),
        store.delete(&by_name("a")).await.unwrap_err(),
        postgres_options(&url).connect().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        assert!(error.to_string().contains("connect to the primary"), "{error}");
    }
    server.promote();
    assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
    assert_eq!(store.delete(&by_name("a")).await.unwrap().trust, trust);
}

#[tokio::test]
async fn a_login_that_is_refused_says_why_and_does_not_repeat_the_password() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let database = url.rsplit('/').next().unwrap();
    let wrong_password = url.replace(PASSWORD, "hunter3");
    let no_user = url.replace("//postgres:", "//no_user_of_that_name:");
    let no_database = url.replace(database, "none_of_that_name");
    for (url, told) in [
        (wrong_password, "check user and password"),
        (no_user, "check user and password"),
        (no_database, "it has no such database"),
    ] {
        let error = refused_after(Duration::ZERO, postgres_options(&url).connect()).await;
        assert_eq!(error.kind(), "cannot_connect", "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(told) && !shown.contains("hunter"), "{shown}");
    }
}

#[tokio::test]
async fn a_peer_that_is_silent_or_has_another_protocol_is_not_a_server() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres:{PASSWORD}@{}/trusts", silent.local_addr().unwrap());
    let error = refused_after(LIMIT, postgres_options(&url).connect_timeout(LIMIT).connect()).await;
    assert_eq!(error.kind(), "cannot_connect", "{error}");
    assert!(error.to_string().contains("accepted no connection within 2s"), "{error}");

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres:{PASSWORD}@{}/trusts", other.local_addr().unwrap());
    let speaks = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    let error = refused_after(Duration::ZERO, postgres_options(&url).connect()).await;
    assert_eq!(error.kind(), "cannot_connect", "{error}");
    assert!(error.to_string().contains("check the address"), "{error}");
    drop(speaks.await);
}

#[tokio::test]
async fn a_store_that_was_closed_is_unreachable_and_leaves_no_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    let clone = store.clone();
    store.close().await;
    assert!(matches!(clone.fetch(trust.id).await, Err(StoreError::Unreachable)));
    assert!(matches!(insert(&clone, "b").await, Err(StoreError::Unreachable)));
    let begun = Instant::now();
    while server.kill_connections(&url) != 0 {
        assert!(begun.elapsed() < SOON, "a connection is left");
    }
}

/// A proxy may send the next query to another server. The connection was made to a primary, and
/// each answer has the state of its own server.
#[tokio::test]
async fn nothing_is_read_on_a_connection_that_has_moved_to_a_replica() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(
        &url,
        "CREATE TABLE public.server AS SELECT false AS is_replica;
         CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN RETURN (SELECT is_replica FROM public.server); END$$;
         DO $$BEGIN EXECUTE format(
             'ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END$$",
    );
    let (store, trust) = store_with_a_trust(&url).await;
    assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
    server.psql(&url, "UPDATE public.server SET is_replica = true");
    for error in [
        store.fetch(trust.id).await.unwrap_err(),
        store.candidates().await.unwrap_err(),
        store.list().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_change_that_a_trigger_leaves_out_is_an_error() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER skip BEFORE UPDATE OR DELETE ON trust FOR EACH ROW EXECUTE FUNCTION skip()",
    );
    for error in [
        store.set_enabled(&by_name("a"), false).await.unwrap_err(),
        store.replace_hash(&by_name("a"), KeyHash::of("b")).await.unwrap_err(),
        store.delete(&by_name("a")).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("look for a trigger on its table"), "{error}");
    }
    assert_eq!(store.list().await.unwrap(), [trust]);
}

/// The statement changes its row. A trigger changes the row back, before or after the write.
#[tokio::test]
async fn a_change_that_a_trigger_takes_back_is_an_error() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
             NEW.disabled_at := OLD.disabled_at; NEW.api_key_hash := OLD.api_key_hash; \
             NEW.attributes := OLD.attributes; RETURN NEW; END$$;
         CREATE FUNCTION after() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
             IF pg_trigger_depth() = 1 THEN \
             UPDATE trust SET disabled_at = OLD.disabled_at, api_key_hash = OLD.api_key_hash, \
             attributes = OLD.attributes WHERE id = OLD.id; END IF; RETURN NULL; END$$",
    );
    let attributes = Some(serde_json::json!({ "scopes": ["x"] }));
    for time in ["before", "after"] {
        let trigger = format!("{time} UPDATE ON trust FOR EACH ROW EXECUTE FUNCTION {time}()");
        server.psql(&url, &format!("CREATE TRIGGER keep {trigger}"));
        for error in [
            store.set_enabled(&by_name("a"), false).await.unwrap_err(),
            store.replace_hash(&by_name("a"), KeyHash::of("b")).await.unwrap_err(),
            store.set_attributes(&by_name("a"), attributes.clone()).await.unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("look for a trigger on its table"),
                "{time}: {error}"
            );
        }
        server.psql(&url, "DROP TRIGGER keep ON trust");
    }
    assert_eq!(store.list().await.unwrap(), [trust]);
    server.psql(
        &url,
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER swallow BEFORE INSERT ON trust FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    for (name, kind) in [("a", "name_taken"), ("b", "schema")] {
        let new = NewTrust::new(name).unwrap();
        let error = store.insert(new, KeyHash::of(name)).await.unwrap_err();
        // The trigger runs before the check for a conflict. The store reads the name after both.
        assert_eq!(error.kind(), kind);
    }
    store.set_enabled(&by_name("a"), false).await.unwrap();
}

/// A revocation must not report a missing trust while the trust's key is granted.
#[tokio::test]
async fn a_trust_that_row_level_security_hides_from_changes_alone_is_not_reported_as_missing() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let (role, role_url) = server.new_role(&url);
    server.psql(
        &url,
        &format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO {role}; \
             ALTER TABLE trust ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY read ON trust FOR SELECT USING (true)"
        ),
    );
    let store = postgres_options(&role_url).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    for which in [by_name("a"), trust.id.into()] {
        let error = store.set_enabled(&which, false).await.unwrap_err();
        assert_eq!(error.kind(), "missing_right", "{error}");
        assert!(error.to_string().contains("row-level security"), "{error}");
    }
    let error = store.set_enabled(&by_name("b"), false).await.unwrap_err();
    assert_eq!(error.kind(), "no_such_trust", "{error}");
    server.psql(&url, "CREATE POLICY write ON trust FOR UPDATE USING (true)");
    store.set_enabled(&by_name("a"), false).await.unwrap();
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
}

/// A setting of the database applies to new connections alone. Connections for changes are newer
/// than connections for reads.
#[tokio::test]
async fn a_revocation_after_the_search_path_has_changed_is_seen_by_the_next_read() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    server.psql(
        &url,
        "CREATE SCHEMA other; CREATE TABLE other.trust (LIKE public.trust INCLUDING ALL); \
         CREATE TABLE other.trust_key (LIKE public.trust_key INCLUDING ALL); \
         INSERT INTO other.trust SELECT * FROM public.trust; \
         DO $$BEGIN EXECUTE format(
             'ALTER DATABASE %I SET search_path = other', current_database()); END$$",
    );
    // The connection for changes is then too old for another change.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    store.set_enabled(&by_name("a"), false).await.unwrap();
    assert!(
        !store.fetch(trust.id).await.unwrap().unwrap().is_enabled(),
        "the read uses the former table"
    );
    assert_eq!(server.psql(&url, "SELECT disabled_at IS NULL FROM other.trust"), "f", "the test");
}

/// The error for each SQLSTATE names the remedy, and repeats no word of PostgreSQL's own message.
#[tokio::test]
async fn the_error_of_a_refused_write_says_what_to_do() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "CREATE TABLE fault (code text);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'a secret'
                 USING ERRCODE = (SELECT code FROM fault), COLUMN = 'colour'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON trust FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    );
    let changed = "gone or was changed while it was open";
    for (code, kind, told) in [
        ("57014", "timeout", "allow it more time"),
        ("55P03", "busy", "again"),
        ("40P01", "busy", "again"),
        ("40001", "busy", "again"),
        ("25006", "read_only", "connect to the primary"),
        ("42P01", "schema", changed),
        ("42703", "schema", changed),
        ("42804", "schema", changed),
        ("42846", "schema", changed),
        ("42883", "schema", changed),
        ("0A000", "schema", changed),
        ("42501", "missing_right", "what their triggers use"),
        ("23502", "schema", "has a column `colour` that must be filled"),
        ("22001", "schema", "too short"),
        ("22021", "schema", "such as NUL"),
        ("53100", "exhausted", "make room"),
        ("57P01", "unreachable", "again"),
        ("08006", "unreachable", "again"),
        ("22012", "other", "error 22012 about `colour`; its log has the details"),
    ] {
        server.psql(&url, &format!("DELETE FROM fault; INSERT INTO fault VALUES ('{code}')"));
        let error = insert(&store, "b").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert!(error.to_string().contains(told), "{code}: {error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{code}: {error:?}");
    }
    assert_eq!(store.list().await.unwrap(), [trust]);
}

/// Only a lost connection justifies a second attempt. Any other error is the answer, on a pooled
/// connection as well as on a new one.
#[tokio::test]
async fn a_read_that_fails_is_not_repeated_unless_the_connection_was_lost() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    // The first read fails, and no later read: a rollback does not reset a sequence.
    server.psql(
        &url,
        "ALTER TABLE trust RENAME TO trust_rows; CREATE SEQUENCE reads;
         CREATE VIEW trust AS SELECT *,
             CASE WHEN nextval('reads') = 1 THEN 1 / (SELECT 0) END AS failed FROM trust_rows",
    );
    for _ in 0..2 {
        server.psql(&url, "ALTER SEQUENCE reads RESTART");
        let error = store.fetch(trust.id).await.unwrap_err();
        assert!(error.to_string().contains("error 22012"), "{error}");
        assert_eq!(store.fetch(trust.id).await.unwrap().map(|trust| trust.id), Some(trust.id));
    }
}

/// A pooled connection may have died before the read, which is no sign of a failing server. A new
/// connection has not.
#[tokio::test]
async fn a_read_whose_connection_is_lost_is_repeated_once_and_never_on_a_new_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "ALTER TABLE trust RENAME TO trust_rows; CREATE SEQUENCE reads; CREATE TABLE cut (cut bool);
         CREATE VIEW trust AS SELECT *, (SELECT pg_sleep(5)::text FROM cut
             WHERE cut AND nextval('reads') > 0 AND pg_terminate_backend(pg_backend_pid()))
             AS failed FROM trust_rows",
    );
    for (used_before, attempts) in [(false, "1"), (true, "2")] {
        if used_before {
            assert!(store.fetch(trust.id).await.unwrap().is_some());
        }
        server.psql(&url, "ALTER SEQUENCE reads RESTART; INSERT INTO cut VALUES (true)");
        assert!(matches!(store.fetch(trust.id).await, Err(StoreError::Unreachable)));
        assert_eq!(
            server.psql(&url, "SELECT last_value FROM reads WHERE is_called").trim(),
            attempts
        );
        server.psql(&url, "DELETE FROM cut");
    }
}

/// Asserts that a change works, and a read.
async fn assert_changes_work(store: &PostgresStore, trust: &Trust) {
    for enabled in [true, false, true] {
        let change = store.set_enabled(&trust.id.into(), enabled).await.unwrap();
        assert_eq!(change.trust.is_enabled(), enabled);
        assert_eq!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled(), enabled);
    }
}

/// A change whose connection is cut is made, not made, or has an unknown outcome. The connection is
/// not used again.
#[tokio::test]
async fn a_change_whose_connection_is_cut_reports_what_is_known_and_the_next_one_works() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let network = Network::before(server).await;
    let (store, trust) = store_with_a_trust(&network.url(&url, server)).await;
    for (statement, when, kind, is_made) in [
        ("BEGIN", Cut::Before, "unreachable", false),
        ("BEGIN", Cut::After, "unreachable", false),
        ("FOR UPDATE", Cut::Before, "unreachable", false),
        ("FOR UPDATE", Cut::After, "unreachable", false),
        ("UPDATE trust", Cut::Before, "unreachable", false),
        ("UPDATE trust", Cut::After, "unreachable", false),
        // With a NUL, unlike the `COMMIT` in `READ COMMITTED`.
        ("COMMIT\0", Cut::Before, "outcome_unknown", false),
        ("COMMIT\0", Cut::After, "outcome_unknown", true),
    ] {
        assert_changes_work(&store, &trust).await;
        // The change needs a new connection. On a pooled one, `BEGIN` would be repeated, and the
        // statements are already prepared.
        server.kill_connections(&url);
        assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
        // This change removes the killed connections from the pool.
        let _ = store.delete(&by_name("none")).await;
        network.cut(statement, when);
        let error = store.set_enabled(&trust.id.into(), false).await.unwrap_err();
        assert!(network.has_cut(), "{statement}");
        assert_eq!(error.kind(), kind, "{statement} {when:?}: {error}");
        assert_eq!(
            error.to_string().contains("look whether it was made"),
            kind == "outcome_unknown"
        );
        eventually("the server has ended what was cut", || {
            let open = "SELECT count(*) FROM pg_stat_activity \
                        WHERE datname = current_database() AND xact_start IS NOT NULL \
                        AND pid <> pg_backend_pid()";
            server.psql(&url, open) == "0"
        })
        .await;
        assert_eq!(
            store.fetch(trust.id).await.unwrap().unwrap().is_enabled(),
            !is_made,
            "{statement}"
        );
    }
    assert_changes_work(&store, &trust).await;
}

/// The server itself ends the session, in the middle of the change or of its commit.
#[tokio::test]
async fn a_change_whose_session_the_server_ends_reports_what_is_known_and_the_next_one_works() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60);
                 RETURN NULL; END$$",
    );
    for (trigger, kind) in [
        (
            "CREATE TRIGGER stop AFTER UPDATE ON trust FOR EACH ROW EXECUTE FUNCTION stop()",
            "unreachable",
        ),
        (
            "CREATE CONSTRAINT TRIGGER stop AFTER UPDATE ON trust DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION stop()",
            "outcome_unknown",
        ),
    ] {
        server.psql(&url, trigger);
        let error = store.set_enabled(&trust.id.into(), false).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
        server.psql(&url, "DROP TRIGGER stop ON trust");
        assert_changes_work(&store, &trust).await;
    }
}

/// A file system that a test can fill. It is removed at the end of the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Returns `None` if this process may not mount a file system, after printing that.
    fn before(server: &PostgresServer) -> Option<Self> {
        let folder = server.folder().join("small");
        std::fs::create_dir(&folder).unwrap();
        let data = std::fs::metadata(server.folder()).unwrap();
        let (user, group) = {
            use std::os::unix::fs::MetadataExt;
            (data.uid(), data.gid())
        };
        let mount = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size=2m,mode=0700,uid={user},gid={group}"),
                "tmpfs",
            ])
            .arg(&folder)
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(folder));
        }
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "LEFT OUT: a full disk on PostgreSQL: this process may not mount a tmpfs"
        );
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_fails_changes_alone_and_they_work_at_once_when_there_is_room() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let Some(disk) = SmallDisk::before(&server) else { return };
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(&url, &format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    server.psql(&url, "ALTER TABLE trust SET TABLESPACE small");
    let filler = disk.0.join("filler");
    for round in 0..2 {
        let full = "dd if=/dev/zero of=\"$0\" bs=4096 2>/dev/null; true";
        assert!(
            std::process::Command::new("sh")
                .args(["-c", full])
                .arg(&filler)
                .status()
                .unwrap()
                .success()
        );
        let mut failures = Vec::new();
        for number in 0..2_000 {
            if let Err(error) = insert(&store, &format!("{round} {number}")).await {
                failures.push(error);
                if failures.len() == 5 {
                    break;
                }
            }
        }
        assert_eq!(failures.len(), 5, "the disk is not full");
        for error in failures {
            assert_eq!(error.kind(), "exhausted", "{error}");
            assert!(
                error.to_string().contains("make room") && !error.to_string().contains("again"),
                "{error}"
            );
        }
        assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
        assert!(!store.candidates().await.unwrap().is_empty());
        std::fs::remove_file(&filler).unwrap();
        insert(&store, &format!("after {round}")).await.unwrap();
        assert_changes_work(&store, &trust).await;
    }
    drop(store);
    drop(server);
}

/// Each case has a fault, how it is undone, and the outcome of a change and a read meanwhile, in a
/// store with open connections.
#[tokio::test]
async fn changes_that_a_setting_or_a_limit_forbids_work_at_once_when_it_is_lifted() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let name = url.rsplit('/').next().unwrap().to_owned();
    server.psql(&url, "CREATE ROLE service LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 3");
    let (_, trust) = store_with_a_trust(&url).await;
    server.psql(&url, "GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO service");
    let store =
        postgres_options(&url.replace("//postgres:", "//service:")).connect().await.unwrap();
    let others = "pid <> pg_backend_pid() AND datname = current_database()";
    let idle =
        format!("SELECT count(*) FROM pg_stat_activity WHERE {others} AND usename = 'service'");
    for (fault, remedy, kind, told) in [
        (
            "REVOKE UPDATE ON trust FROM service".to_owned(),
            "GRANT UPDATE ON trust, trust_key TO service".to_owned(),
            "missing_right",
            "it lacks the right UPDATE",
        ),
        (
            "ALTER ROLE service CONNECTION LIMIT 1".into(),
            "ALTER ROLE service CONNECTION LIMIT 3".into(),
            "cannot_connect",
            "no connection left",
        ),
        (
            format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
            format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
            "read_only",
            "takes no writes",
        ),
        (
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
            "cannot_connect",
            "it reported error 55000",
        ),
    ] {
        assert_changes_work(&store, &trust).await;
        // The connection for changes is closed, the one for reads stays.
        server.kill_where(&url, "usename = 'service'");
        assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
        eventually("one connection is left", || server.psql(&url, &idle) == "1").await;
        // The table is in one database. To forbid connections to that database, a session must be
        // in another one.
        let there = |sql: &str| if sql.contains(" ON trust") { &*url } else { "postgres" };
        server.psql(there(&fault), &fault);
        for _ in 0..3 {
            let error = store.set_enabled(&trust.id.into(), false).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{fault}: {error}");
            assert!(error.to_string().contains(told), "{fault}: {error}");
            assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled(), "{fault}");
        }
        server.psql(there(&remedy), &remedy);
        assert_changes_work(&store, &trust).await;
    }
}

#[tokio::test]
async fn a_server_that_is_stopping_or_starting_refuses_new_connections_and_asks_for_another_try() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.kill_connections(&url);
    assert!(store.fetch(trust.id).await.unwrap().is_some());
    server.stop_when_idle();
    let begun = Instant::now();
    loop {
        // The connection for reads is open. A change needs a new connection.
        assert_eq!(store.fetch(trust.id).await.unwrap().as_ref(), Some(&trust));
        match store.set_enabled(&trust.id.into(), true).await {
            Err(error) => {
                assert_eq!(error.kind(), "cannot_connect", "{error}");
                assert!(error.to_string().contains("starting or stopping; try again"), "{error}");
                break;
            }
            Ok(_) => {
                assert!(begun.elapsed() < SOON, "it does not stop");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    store.close().await;
    eventually("it has stopped", || !server.is_running()).await;
    server.start_again();
    let store = postgres_options(&url).connect().await.unwrap();
    assert_changes_work(&store, &trust).await;
}

/// Two servers, and an address that leads first to one and later to the other. Connections to the
/// first server stay up.
struct Failover {
    old: PostgresServer,
    new: PostgresServer,
    network: Network,
    url: String,
}

impl Failover {
    async fn of(old: PostgresServer, url: String, network: Network) -> Self {
        let new = old.replica();
        new.promote();
        Self { old, new, network, url }
    }

    fn on_the_new_server(&self, sql: &str) -> String {
        self.new.psql(self.url.rsplit('/').next().unwrap(), sql)
    }
}

#[tokio::test]
async fn no_connection_to_an_old_primary_is_read_beyond_its_age() {
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let network = Network::before(&old).await;
    let age = Duration::from_secs(1);
    let options = postgres_options(&network.url(&url, &old)).max_connection_age(age);
    let store = options.connect().await.unwrap();
    let trust = insert(&store, "a").await.unwrap();
    let failover = Failover::of(old, url, network).await;
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    failover.network.move_to(&failover.new);
    failover.on_the_new_server("UPDATE trust SET disabled_at = now()");
    tokio::time::sleep(age + Duration::from_millis(100)).await;
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    assert_eq!(
        failover.old.psql(&failover.url, "SELECT disabled_at IS NULL FROM trust"),
        "t",
        "the test"
    );
}

/// Only the change itself notices the failover.
#[tokio::test]
async fn a_revocation_after_a_failover_is_made_on_the_new_server_and_seen_by_the_next_read() {
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let network = Network::before(&old).await;
    let (store, trust) = store_with_a_trust(&network.url(&url, &old)).await;
    let failover = Failover::of(old, url, network).await;
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    failover.network.move_to(&failover.new);
    // The connection for changes is then too old for another change.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(
        store.fetch(trust.id).await.unwrap().unwrap().is_enabled(),
        "the connection is the old one"
    );
    store.set_enabled(&trust.id.into(), false).await.unwrap();
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    assert_eq!(failover.on_the_new_server("SELECT disabled_at IS NULL FROM trust"), "f");

    // The address leads back to the server without the revocation. That server has a known
    // successor, and is not used.
    failover.network.move_to(&failover.old);
    failover.new.stop();
    for _ in 0..2 {
        let error = store.fetch(trust.id).await.unwrap_err();
        assert_eq!(error.kind(), "cannot_connect", "{error}");
        assert!(error.to_string().contains("an old primary"), "{error}");
    }
    failover.new.start_again();
    failover.network.move_to(&failover.new);
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
}

/// The connection string has both servers. The old primary is the first host, and returns.
#[tokio::test]
async fn an_old_primary_is_skipped_for_the_next_host_once_its_successor_is_known() {
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let new = old.replica();
    new.promote();
    let port = old.port().to_string();
    let both = url.replace(&format!(":{port}"), &format!(":{port},127.0.0.1:{}", new.port()));
    let store = postgres_options(&both).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());

    old.stop();
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    let database = url.rsplit('/').next().unwrap();
    new.psql(database, "UPDATE trust SET disabled_at = now()");
    old.start_again();
    new.kill_connections(&url);
    for _ in 0..2 {
        assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    }
    store.set_enabled(&trust.id.into(), true).await.unwrap();
    assert_eq!(new.psql(database, "SELECT disabled_at IS NULL FROM trust"), "t");
}

/// Returns the connection string with a replica as the first host, and the primary's host after it.
fn replica_first(url: &str, replica: &PostgresServer, primary: &PostgresServer) -> String {
    let port = primary.port().to_string();
    url.replace(&format!(":{port}"), &format!(":{},127.0.0.1:{port}", replica.port()))
}

/// The listener reaches the replica first, then the old primary. Neither hides the successor.
#[tokio::test]
async fn g9_an_old_primary_is_refused_although_the_listener_reached_a_replica_after_its_successor()
{
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let replica = old.replica();
    let new = old.replica();
    new.promote();
    old.stop();
    let hosts = replica_first(&url, &replica, &old);
    let old_port = format!(":{}", old.port());
    let all = hosts.replace(&old_port, &format!("{old_port},127.0.0.1:{}", new.port()));
    let store = postgres_options(&all).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
    store.set_enabled(&trust.id.into(), false).await.unwrap();
    old.start_again();
    new.kill_connections(&url);
    let watcher = store.watch(std::sync::Arc::default());
    // The last read must come after the listener has connected.
    let mut is_last = false;
    let begun = Instant::now();
    while !is_last {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not listen");
        is_last = watcher.status().connected;
        let fetched = store.fetch(trust.id).await;
        assert!(
            !fetched.is_ok_and(|trust| trust.unwrap().is_enabled()),
            "the old primary was read"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().is_enabled());
}

#[tokio::test]
async fn a_failover_during_the_check_of_notifications_is_not_reported_as_a_pooler() {
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let network = Network::before(&old).await;
    let (store, _) = store_with_a_trust(&network.url(&url, &old)).await;
    let failover = Failover::of(old, url, network).await;
    failover.network.hold_listen();
    let check = tokio::spawn({
        let store = store.clone();
        async move { store.check_notifications().await }
    });
    failover.network.holds_listen().await;
    failover.network.move_to(&failover.new);
    failover.network.let_listen();
    let error = check.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), "cannot_connect", "{error}");
    assert!(error.to_string().contains("leads to another server"), "{error}");
    store.check_notifications().await.unwrap();
}

/// Reads go on while a `LISTEN` to the replica is delayed. A store that treats the replica as the
/// current server would replace its connection to the primary.
#[tokio::test]
async fn a_listener_that_reaches_a_replica_makes_the_store_close_no_good_connection() {
    let Some(primary) = PostgresServer::start() else { return };
    let url = primary.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let replica = primary.replica();
    let network = Network::before(&replica).await;
    let hosts = replica_first(&url, &replica, &primary);
    let store = postgres_options(&network.url(&hosts, &replica)).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().is_some());
    let readers = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity \
                   WHERE query LIKE '%is_replica%' AND pid <> pg_backend_pid()";
    let before = primary.psql(&url, readers);
    network.hold_listen();
    let watcher = store.watch(std::sync::Arc::default());
    let begun = Instant::now();
    while !watcher.status().connected {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not listen");
        assert!(store.fetch(trust.id).await.unwrap().is_some());
        assert_eq!(primary.psql(&url, readers), before);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
