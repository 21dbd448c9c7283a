//! Faults: after any failure, no revoked key is granted, and every request gets an answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, Client, ask};
use crate::load::{Keys, Load, assert_answered, assert_never_granted_after};
use crate::postgres_server::PostgresServer;
use crate::server::{ADMIN_KEY, PATIENCE, Server, is_about_reads, wait_after_a_change_by_hand};

/// Waits until the answer has this status.
async fn until_status(server: &Server, key: &str, wanted: u16) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = server.verify(key).await;
        if answer.status == wanted {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{wanted} does not arrive: {answer:?}; log: {}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json(), json!({ "detail": "Authentication is unavailable; try again." }));
    assert_eq!((answer.header("retry-after"), answer.header("x-trust-id")), (Some("1"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_terminate_under_load_leaves_no_request_without_an_answer() {
    // Because of the floor, refusals are under way when the signal arrives.
    let mut server = Server::on_sqlite(&["--drain-delay", "2s", "--reject-floor", "300ms"]).await;
    let (trust, revoked) = (server.register("St. Mary").await, server.register("Revoked").await);
    assert_eq!(server.verify(&revoked.key).await.status, 200);
    let valid = Load::start(server.main, 8, &Keys::The(trust.key.clone()));
    let unknown = Load::start(server.main, 8, &Keys::Unknown("unknown"));
    let late = Load::start(server.main, 2, &Keys::The(revoked.key.clone()));
    server
        .until_metric("trust_auth_requests_total{outcome=\"granted\"}", |granted| granted > 200.0)
        .await;
    server
        .until_metric("trust_auth_requests_total{outcome=\"invalid\"}", |invalid| invalid > 8.0)
        .await;
    server.signal("TERM");
    // While the service drains.
    server.delete(&revoked).await;
    let deleted = Instant::now();
    assert_answered(&valid.ended().await, &[200]);
    assert_answered(&unknown.ended().await, &[401]);
    let late = late.ended().await;
    assert_answered(&late, &[200, 401]);
    assert!(late.iter().all(|one| one.begun <= deleted || one.status == Some(401)), "{late:?}");
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_at_the_end_are_answered_even_if_no_client_connects() {
    let mut server = Server::on_sqlite(&["--drain-delay", "0s", "--reject-floor", "2s"]).await;
    let main = server.main;
    let asked = tokio::spawn(async move { Client::new(main).verify("unknown").await.unwrap() });
    server.until_metric("trust_auth_connections{listener=\"main\"}", |open| open >= 2.0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal("TERM");
    assert_eq!(asked.await.unwrap().status, 401);
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

/// More connections than a task accepts in one turn, and more than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_queue_of_the_kernel_is_answered_at_the_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const QUEUED: usize = 200;
    let mut server = Server::on_sqlite(&[
        "--drain-delay",
        "0s",
        "--max-connections",
        "2",
        "--header-timeout",
        "60s",
    ])
    .await;
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /verify HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap()
    };
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.main).await.unwrap();
        ask(&mut stream).await;
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        idle.push(stream);
    }
    let mut queued = Vec::new();
    for _ in 0..QUEUED {
        let mut stream = TcpStream::connect(server.main).await.unwrap();
        ask(&mut stream).await;
        queued.push(stream);
    }
    server.signal("TERM");
    for mut stream in queued {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stops_causes_503_and_works_within_five_seconds_of_its_return() {
    if is_about_reads("known keys are granted for a while") {
        return;
    }
    let Some(database) = PostgresServer::start() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--query-timeout", "1s"]).await;
    let (kept, revoked) = (server.register("Kept").await, server.register("Revoked").await);
    for trust in [&kept, &revoked] {
        assert_eq!(server.verify(&trust.key).await.status, 200);
    }
    let valid = Load::start(server.main, 6, &Keys::The(kept.key.clone()));
    let unknown = Load::start(server.main, 2, &Keys::Unknown("unknown"));
    let late = Load::start(server.main, 2, &Keys::The(revoked.key.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;

    database.stop();
    let stopped = Instant::now();
    assert_unavailable(&server.verify(&kept.key).await);
    assert_unavailable(&server.verify("unknown").await);
    server.until_metric("trust_auth_listener_connected", |connected| connected == 0.0).await;
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    let failed = server.administer("POST", "/admin/trusts", &json!({ "name": "New" })).await;
    assert_eq!((failed.status, failed.header("retry-after")), (503, Some("1")), "{failed:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let invalidations = server.metric("trust_auth_evictions_total{cause=\"connected\"}").await;

    let about_to_return = Instant::now();
    database.start_again();
    let returned = Instant::now();
    // Every entry is invalidated, because the service may have missed notifications.
    database.psql(&url, "DELETE FROM trust WHERE name = 'Revoked'");
    let deleted = Instant::now();
    assert_ne!(server.verify(&revoked.key).await.status, 200);
    until_status(&server, &kept.key, 200).await;
    server.until_metric("trust_auth_listener_connected", |connected| connected == 1.0).await;
    let recovered = returned.elapsed();
    assert!(recovered < Duration::from_secs(5), "{recovered:?}; log: {}", server.log());
    until_status(&server, &revoked.key, 401).await;
    server
        .until_metric("trust_auth_evictions_total{cause=\"connected\"}", |now| now > invalidations)
        .await;

    let asked = valid.finish().await;
    assert_answered(&asked, &[200, 503]);
    for one in asked
        .iter()
        .filter(|one| one.begun > stopped && one.begun + Duration::from_secs(2) < about_to_return)
    {
        assert_eq!(one.status, Some(503), "{one:?}");
    }
    assert!(asked.iter().any(|one| one.begun > returned && one.status == Some(200)));
    assert_answered(&unknown.finish().await, &[401, 503]);
    let late = late.finish().await;
    assert_answered(&late, &[200, 401, 503]);
    assert_never_granted_after(deleted, &late);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_during_a_revocation_lose_no_answer_and_grant_no_revoked_key() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &[]).await;
    let kept = server.register("Kept").await;
    let load = Load::start(server.main, 4, &Keys::The(kept.key.clone()));
    for round in 0..3 {
        let revoked = server.register(&format!("Revoked {round}")).await;
        until_status(&server, &revoked.key, 200).await;
        let late = Load::start(server.main, 2, &Keys::The(revoked.key.clone()));
        assert!(database.kill_connections(&url) > 0);
        database.psql(&url, &format!("DELETE FROM trust WHERE id = '{}'", revoked.id));
        wait_after_a_change_by_hand(&url, &revoked);
        let deleted = Instant::now();
        assert_ne!(server.verify(&revoked.key).await.status, 200);
        until_status(&server, &revoked.key, 401).await;
        until_status(&server, &kept.key, 200).await;
        server.until_metric("trust_auth_listener_connected", |connected| connected == 1.0).await;
        // At most one of the two cached entries is left, after a notification or after a new
        // connection.
        server.until_metric("trust_auth_cache_entries", |entries| entries <= 1.0).await;
        let late = late.finish().await;
        assert_answered(&late, &[200, 401, 503]);
        assert_never_granted_after(deleted, &late);
    }
    assert_answered(&load.finish().await, &[200, 503]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_revocation_the_listener_misses_is_refused_at_once_and_evicted_later() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &[]).await;
    for round in 0..3 {
        let revoked = server.register(&format!("Revoked {round}")).await;
        let connects = server.metric("trust_auth_evictions_total{cause=\"connected\"}").await;
        until_status(&server, &revoked.key, 200).await;
        let late = Load::start(server.main, 2, &Keys::The(revoked.key.clone()));
        // In one transaction: when it commits, no process listens.
        let cut = database.psql(
            &url,
            &format!(
                "DELETE FROM trust WHERE id = '{}'; \
                 SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = 'trust-auth watch'",
                revoked.id
            ),
        );
        assert_eq!(cut, "t");
        wait_after_a_change_by_hand(&url, &revoked);
        let deleted = Instant::now();
        assert_eq!(server.verify(&revoked.key).await.status, 401);
        server
            .until_metric("trust_auth_evictions_total{cause=\"connected\"}", |now| now > connects)
            .await;
        assert_eq!(server.metric("trust_auth_cache_entries").await, 0.0);
        assert_eq!(server.metric("trust_auth_listener_connected").await, 1.0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let late = late.finish().await;
        assert_answered(&late, &[200, 401]);
        assert_never_granted_after(deleted, &late);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_hangs_causes_503_at_its_limit_and_leaves_no_cache_entry_g9() {
    if is_about_reads("known keys are granted meanwhile") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--query-timeout", "700ms"]).await;
    let trust = server.register("St. Mary").await;
    assert_eq!(server.verify(&trust.key).await.status, 200);
    let mut other = database.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("LOCK TABLE trust IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let begun = Instant::now();
    assert_unavailable(&server.verify(&trust.key).await);
    assert_unavailable(&server.verify("unknown").await);
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    let metrics = server.metrics().await;
    assert!(
        metrics
            .iter()
            .any(|(name, value)| name.starts_with("trust_auth_store_failures_total")
                && *value >= 1.0)
    );
    locked.rollback().await.unwrap();
    until_status(&server, &trust.key, 200).await;
    until_status(&server, "unknown", 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_another_process_has_locked_is_read_and_a_change_gets_503() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let server = Server::on(&file, &["--query-timeout", "700ms"]).await;
    let trust = server.register("St. Mary").await;
    assert_eq!(server.verify(&trust.key).await.status, 200);

    // This test's process is the other one.
    let mut other = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    assert_eq!(server.verify(&trust.key).await.status, 200);
    assert_eq!(server.verify("unknown").await.status, 401);
    let path = format!("/admin/trusts/{}/disable", trust.id);
    let failed = server.administer("POST", &path, &Value::Null).await;
    assert!(failed.status == 503 && ["busy", "timeout"].contains(&&*failed.kind()), "{failed:?}");
    other.execute("ROLLBACK").await.unwrap();

    // A write that timed out may be committed later or not. This write is committed.
    let begun = Instant::now();
    while server.administer("POST", &path, &Value::Null).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
    }
    assert_eq!(server.verify(&trust.key).await.status, 401);
}

/// A restore replaces the file. The old file, which is still open, would grant keys that are
/// revoked in the new file.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_was_replaced_grants_nothing_g9() {
    let folder = tempfile::tempdir().unwrap();
    let (file, restored) = (folder.path().join("trusts.db"), folder.path().join("restored.db"));
    let server = Server::on(&file, &[]).await;
    let trust = server.register("St. Mary").await;
    assert_eq!(server.verify(&trust.key).await.status, 200);
    // A copy without trusts.
    Server::on(&restored, &[]).await.stop().await;

    std::fs::rename(&restored, &file).unwrap();
    let begun = Instant::now();
    while server.verify(&trust.key).await.status == 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
    }
    for key in [&*trust.key, "unknown"] {
        assert_unavailable(&server.verify(key).await);
    }
    assert_eq!(ask(server.main, "GET", "/readyz", &[], "").await.status, 503);
    let registered = server
        .administer("POST", "/admin/trusts", &serde_json::json!({ "name": "It would be lost" }))
        .await;
    assert_eq!((registered.status, &*registered.kind()), (503, "cannot_open"));
    server.until_logged("removed or replaced while it was open").await;
}

/// The client may have disconnected. The change is logged and counted in any case.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_client_has_gone_is_made_logged_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let server = Server::on(&file, &[]).await;
    let trust = server.register("St. Mary").await;
    let mut other = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let mut client = TcpStream::connect(server.admin).await.unwrap();
    let head = format!(
        "POST /admin/trusts/{}/disable HTTP/1.1\r\nHost: auth.example\r\n\
         Authorization: Bearer {ADMIN_KEY}\r\n\r\n",
        trust.id
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // Until the change waits for the lock.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(client);
    assert_eq!(server.verify(&trust.key).await.status, 200);
    other.execute("ROLLBACK").await.unwrap();
    until_status(&server, &trust.key, 401).await;
    let made = "trust_auth_admin_requests_total{operation=\"disable\",outcome=\"ok\"}";
    let begun = Instant::now();
    while server.metrics().await.get(made) != Some(&1.0) {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
    }
    while server.log().matches("a trust was changed").count() < 2 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// SQLite writes the content of a side file into the file that has the name at the next start. That
/// file may be a restored one with a revoked key.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_orderly_end_there_are_no_side_files_that_could_change_a_restored_file_g9() {
    let folder = tempfile::tempdir().unwrap();
    let (file, restored) = (folder.path().join("trusts.db"), folder.path().join("restored.db"));
    Server::on(&restored, &[]).await.stop().await;
    for _ in 0..5 {
        let server = Server::on(&file, &[]).await;
        let trust = server.register("St. Mary").await;
        assert_eq!(server.verify(&trust.key).await.status, 200);
        server.stop().await;
        for side in ["trusts.db-wal", "trusts.db-shm"] {
            assert!(!folder.path().join(side).exists(), "{side}");
        }
        std::fs::copy(&restored, &file).unwrap();
        let server = Server::on(&file, &[]).await;
        assert_eq!(server.verify(&trust.key).await.status, 401);
        server.stop().await;
    }
}

/// The answer is larger than the kernel's buffers. The client reads nothing for longer than the
/// service waits for a silent client.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_read_slowly_is_sent_completely_while_the_service_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    // With other tests on the machine, this number of rows takes seconds.
    let limits = ["--query-timeout", "50s", "--request-timeout", "59s", "--drain-timeout", "60s"];
    let server = Server::on(&file, &limits).await;
    let mut other = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    other
        .execute(
            "INSERT INTO trust (id, name, api_key_hash, created_at) \
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 59999) \
             SELECT printf('00000000-0000-4000-8000-%012x', i), 'trust ' || i, printf('%064x', i), \
                 '2026-01-01T00:00:00Z' FROM n",
        )
        .await
        .unwrap();
    other.close().await.unwrap();
    let mut client = TcpStream::connect(server.admin).await.unwrap();
    let head = format!(
        "GET /admin/trusts HTTP/1.1\r\nHost: auth.example\r\n\
         Authorization: Bearer {ADMIN_KEY}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1_024];
    let begun = client.read(&mut answer).await.unwrap();
    answer.truncate(begun);
    let ending = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.read_to_end(&mut answer).await.unwrap();
    ending.await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    assert!(
        head.to_ascii_lowercase().contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    assert!(body.len() > 8_000_000, "{} bytes may fit into the kernel's buffers", body.len());
}
