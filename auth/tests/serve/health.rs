//! Health: what the probes and the gauges say while a part of the service fails.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use crate::client::{Answer, ask};
use crate::server::{PATIENCE, Server};

/// Waits until `/readyz` answers so.
pub(crate) async fn until_ready(server: &Server, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
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
    assert!(server.log().contains("revocations may fail"), "{}", server.log());

    // Nobody tries a change again, and it is noticed all the same.
    other.execute("ROLLBACK").await.unwrap();
    until_ready(&server, "/readyz?strict", |answer| answer.status == 200).await;
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);

    // A change that the caller got wrong says nothing of the database.
    assert_eq!(server.administer("POST", "/admin/trusts/nobody/disable", &Value::Null).await.status, 404);
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);
    server.stop().await;
}
