//! Health: what the probes and the gauges report while a part of the service fails.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};

use crate::client::{Answer, ask};
use crate::postgres_server::PostgresServer;
use crate::server::{PATIENCE, Server, is_about_reads};

/// Waits until `/readyz` answers as wanted.
pub(crate) async fn until_ready(
    server: &Server,
    path: &str,
    wanted: impl Fn(&Answer) -> bool,
) -> Value {
    let begun = Instant::now();
    loop {
        let answer = ask(server.main, "GET", path, &[], "").await;
        if wanted(&answer) {
            return answer.json();
        }
        assert!(begun.elapsed() < PATIENCE, "{path} stays {answer:?}; log: {}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_fail_are_named_while_requests_are_answered_and_until_one_could_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let server = Server::on(&file, &["--query-timeout", "1s"]).await;
    let trust = server.register("St. Mary").await;
    let ready = until_ready(&server, "/readyz?strict", |answer| answer.status == 200).await;
    assert_eq!((&ready["ready"], &ready["degraded"]), (&json!(true), &json!([])));
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);

    let mut other = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let path = format!("/admin/trusts/{}/disable", trust.id);
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 503);
    assert_eq!(server.metric("trust_auth_changes_failing").await, 1.0);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["changes"])));
    assert_eq!(ask(server.main, "GET", "/readyz?strict", &[], "").await.status, 503);
    assert_eq!(ask(server.main, "GET", "/readyz?strict=1&more", &[], "").await.status, 503);
    server.until_logged("revocations may fail").await;

    // The service notices the end of the fault although no client tries a change.
    other.execute("ROLLBACK").await.unwrap();
    until_ready(&server, "/readyz?strict", |answer| answer.status == 200).await;
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);

    // A change with a wrong request is no sign of the database's state.
    assert_eq!(
        server.administer("POST", "/admin/trusts/unknown/disable", &Value::Null).await.status,
        404
    );
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);
    server.stop().await;
}

/// With the lock, rows can be read and found for an update, and none can be changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_postgresql_that_lets_reads_through_is_named_until_it_is_gone() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--query-timeout", "1s"]).await;
    let trust = server.register("St. Mary").await;
    let mut other = database.connect(&url).await;
    let mut locked = other.begin().await.unwrap();
    locked.execute("LOCK TABLE trust IN SHARE MODE").await.unwrap();
    let path = format!("/admin/trusts/{}/disable", trust.id);
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 503);
    assert_eq!(server.verify(&trust.key).await.status, 200);
    // For longer than one check.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        let ready = ask(server.main, "GET", "/readyz", &[], "").await;
        assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["changes"])));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    locked.rollback().await.unwrap();
    until_ready(&server, "/readyz?strict", |answer| answer.status == 200).await;
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 200);
    assert_eq!(server.verify(&trust.key).await.status, 401);
    server.stop().await;
}

/// Makes the read of each row take the time that the table `pace` holds. A missing row takes no
/// time.
fn slow_down(database: &PostgresServer, url: &str) {
    database.psql(
        url,
        "CREATE TABLE pace (seconds FLOAT NOT NULL); INSERT INTO pace VALUES (0); \
         CREATE FUNCTION paced(hash TEXT) RETURNS TEXT LANGUAGE plpgsql VOLATILE AS \
         'BEGIN PERFORM pg_sleep((SELECT seconds FROM pace)); RETURN hash; END'; \
         ALTER TABLE trust RENAME TO trust_rows; \
         CREATE VIEW trust AS SELECT id, name, code, region, \
         paced(api_key_hash::text) AS api_key_hash, \
         created_at, last_heartbeat, disabled_at, attributes FROM trust_rows",
    );
}

async fn until_logged(server: &Server, text: &str) {
    let begun = Instant::now();
    while !server.log().contains(text) {
        assert!(begun.elapsed() < PATIENCE, "{text:?} is not in the log: {}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_cannot_end_is_not_ready_and_one_that_nears_its_limit_is_warned_of() {
    if is_about_reads("scans") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--query-timeout", "4s"]).await;
    server.register("St. Mary").await;
    slow_down(database, &url);

    database.psql(&url, "UPDATE pace SET seconds = 2.8");
    assert_eq!(server.verify("unknown").await.status, 401);
    until_logged(&server, "more than half of --query-timeout").await;
    assert_eq!(ask(server.main, "GET", "/readyz", &[], "").await.status, 200);

    database.psql(&url, "UPDATE pace SET seconds = 60");
    assert_eq!(server.verify("unknown").await.status, 503);
    let ready =
        until_ready(&server, "/readyz", |answer| answer.json()["scan"] == json!("timeout")).await;
    assert_eq!((&ready["ready"], &ready["store"]), (&json!(false), &json!("ok")));
    assert_eq!(ask(server.main, "GET", "/readyz", &[], "").await.status, 503);
    until_logged(&server, "no key that is not cached can be verified").await;
    assert_eq!(server.metric("trust_auth_scans_failing").await, 1.0);

    // The service notices the end of the fault although no client sends a request.
    database.psql(&url, "UPDATE pace SET seconds = 0");
    let ready = until_ready(&server, "/readyz", |answer| answer.status == 200).await;
    assert_eq!(ready["scan"], json!("ok"));
    assert_eq!(server.metric("trust_auth_scans_failing").await, 0.0);
    server.stop().await;
}

/// Without a gauge and an alert, only a reader of `/readyz` would notice a word in `degraded`.
#[test]
fn every_word_of_degraded_has_a_gauge_in_the_manual_and_an_alert() {
    let manual = include_str!("../../docs/operating.md");
    let alerts = include_str!("../../monitoring/alerts.yml");
    let program = include_str!("../../src/serve/mod.rs");
    let mut entries = 0;
    for entry in program.split(".degraded_if(").skip(1) {
        let mut texts = entry.split('"').skip(1).step_by(2);
        let (word, gauge) = (texts.next().unwrap(), texts.next().unwrap());
        assert!(manual.contains(&format!("| `{word}` | `{gauge}` |")), "{word} is not explained");
        assert!(alerts.contains(&format!("{gauge} == 1\n")), "{word} has no alert");
        entries += 1;
    }
    assert!(entries >= 2);
}

#[tokio::test]
async fn an_empty_table_is_logged_at_the_start_and_so_is_its_first_trust() {
    if is_about_reads("scans") {
        return;
    }
    let server = Server::on_sqlite(&[]).await;
    until_logged(&server, "no enabled trust with a key").await;
    assert!(!server.log().contains("has trusts now"), "{}", server.log());
    let trust = server.register("St. Mary").await;
    assert_eq!(server.verify(&trust.key).await.status, 200);
    until_logged(&server, "the database has trusts now").await;
    server.stop().await;
}
