//! A PostgreSQL that hangs, refuses, stops, or is another one than yesterday: errors that say what to do, within the limits that were
//! set, and an answer from the first operation after its return.

mod stores;

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};
use stores::postgres_server::network::Network;
use stores::postgres_server::{PASSWORD, PostgresServer};
use stores::{by_name, postgres_options};
use tokio::net::TcpListener;
use trust_auth::{KeyHash, NewTrust, PostgresStore, StoreError, Trust, TrustLedger, TrustStore};

/// Well short of "for ever", on whatever machine.
const SOON: Duration = Duration::from_secs(30);

/// A limit that is to be met, and what shows that it was this one.
const LIMIT: Duration = Duration::from_secs(2);

async fn store_with_a_trust(url: &str) -> (PostgresStore, Trust) {
    let store = postgres_options(url).connect().await.unwrap();
    let trust = insert(&store, "a").await.unwrap();
    (store, trust)
}

async fn insert(store: &PostgresStore, name: &str) -> Result<Trust, StoreError> {
    store.insert(NewTrust::new(name).unwrap(), KeyHash::of(name)).await
}

/// What an operation failed with, and that it did after about `limit`.
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
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let begun = Instant::now();
    while server.psql(&url, waiting) != "0" {
        assert!(begun.elapsed() < SOON, "the server works on for nobody");
    }

    locked.rollback().await.unwrap();
    let store = postgres_options(&url).connect().await.unwrap();
    assert_eq!(store.list().await.unwrap(), [trust], "nothing was written late");
}

#[tokio::test]
async fn a_network_that_fell_silent_costs_the_time_limit_and_no_more_and_new_connections_get_through() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let network = Network::before(server).await;
    let options = postgres_options(&network.url(&url, server));
    let store = options.query_timeout(LIMIT).connect_timeout(LIMIT / 2).connect().await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().is_some());

    network.freeze();
    // On the connection that was there; then on new ones, on which nobody answers.
    assert_eq!(refused_after(LIMIT, store.fetch(trust.id)).await.kind(), "timeout");
    let error = refused_after(LIMIT / 2, store.fetch(trust.id)).await;
    assert_eq!(error.kind(), "cannot_connect", "{error}");
    assert!(error.to_string().contains("check the address, and that it runs"), "{error}");
    network.thaw();
    assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
}

#[tokio::test]
async fn who_waits_for_a_connection_in_vain_is_told_when_that_time_is_over() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (_, trust) = store_with_a_trust(&url).await;
    let store = postgres_options(&url).max_connections(2).acquire_timeout(LIMIT).connect().await.unwrap();
    let mut other = server.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("LOCK TABLE trust IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let hangs = || {
        let (store, id) = (store.clone(), trust.id);
        tokio::spawn(async move { store.fetch(id).await })
    };
    let hanging = [hangs(), hangs()];
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let begun = Instant::now();
    while server.psql(&url, waiting) != "2" {
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
async fn a_row_that_another_session_has_locked_is_busy_and_keeps_no_read_waiting() {
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
        // Several in the pool, all of which die.
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
async fn a_server_that_stopped_cannot_be_reached_and_the_first_operation_after_its_return_is_answered() {
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
        assert_eq!(refused_after(Duration::ZERO, insert(&store, "b")).await.kind(), "cannot_connect");
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
    let no_user = url.replace("//postgres:", "//nobody_of_that_name:");
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
async fn who_listens_there_and_says_nothing_or_something_else_is_no_server() {
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

/// As behind a proxy that passes the next query on to another server: the connection was made to a primary, and each answer says where it is from.
#[tokio::test]
async fn nothing_is_read_on_a_connection_that_leads_to_a_replica_by_now() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(
        &url,
        "CREATE TABLE public.server AS SELECT false AS is_replica;
         CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN RETURN (SELECT is_replica FROM public.server); END$$;
         DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END$$",
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

/// Whatever PostgreSQL reports, by SQLSTATE, becomes what somebody can do, and none of its own words are passed on.
#[tokio::test]
async fn what_a_write_is_refused_for_is_told_with_what_to_do() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "CREATE TABLE fault (code text);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'a secret' USING ERRCODE = (SELECT code FROM fault), COLUMN = 'colour'; END $$;
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
        ("42501", "missing_right", "what its triggers use"),
        ("23502", "schema", "has a column `colour` that must be filled"),
        ("22001", "schema", "too short"),
        ("22021", "schema", "such as NUL"),
        ("53100", "cannot_connect", "make room"),
        ("57P01", "unreachable", "again"),
        ("08006", "unreachable", "again"),
        ("22012", "other", "error 22012 about `colour`; its log tells more"),
    ] {
        server.psql(&url, &format!("DELETE FROM fault; INSERT INTO fault VALUES ('{code}')"));
        let error = insert(&store, "b").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert!(error.to_string().contains(told), "{code}: {error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{code}: {error:?}");
    }
    assert_eq!(store.list().await.unwrap(), [trust]);
}

/// Only a lost connection is worth a second attempt: any other error is the answer, on a connection that was used before as on a new one.
#[tokio::test]
async fn a_read_that_fails_is_not_done_again_unless_the_connection_was_lost() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    // Fails once, and never after: a sequence forgets nothing with a transaction.
    server.psql(
        &url,
        "ALTER TABLE trust RENAME TO trust_rows; CREATE SEQUENCE reads;
         CREATE VIEW trust AS SELECT *, CASE WHEN nextval('reads') = 1 THEN 1 / (SELECT 0) END AS failed FROM trust_rows",
    );
    for _ in 0..2 {
        server.psql(&url, "ALTER SEQUENCE reads RESTART");
        let error = store.fetch(trust.id).await.unwrap_err();
        assert!(error.to_string().contains("error 22012"), "{error}");
        assert_eq!(store.fetch(trust.id).await.unwrap().map(|trust| trust.id), Some(trust.id));
    }
}

/// One that was used before may have died in the pool, which says nothing about the server. One that is new has not.
#[tokio::test]
async fn a_read_whose_connection_is_lost_is_done_again_once_and_not_at_all_on_a_new_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (store, trust) = store_with_a_trust(&url).await;
    server.psql(
        &url,
        "ALTER TABLE trust RENAME TO trust_rows; CREATE SEQUENCE reads; CREATE TABLE cut (cut bool);
         CREATE VIEW trust AS SELECT *, (SELECT pg_sleep(5)::text FROM cut
             WHERE cut AND nextval('reads') > 0 AND pg_terminate_backend(pg_backend_pid())) AS failed FROM trust_rows",
    );
    for (used_before, attempts) in [(false, "1"), (true, "2")] {
        if used_before {
            assert!(store.fetch(trust.id).await.unwrap().is_some());
        }
        server.psql(&url, "ALTER SEQUENCE reads RESTART; INSERT INTO cut VALUES (true)");
        assert!(matches!(store.fetch(trust.id).await, Err(StoreError::Unreachable)));
        assert_eq!(server.psql(&url, "SELECT last_value FROM reads WHERE is_called").trim(), attempts);
        server.psql(&url, "DELETE FROM cut");
    }
}
