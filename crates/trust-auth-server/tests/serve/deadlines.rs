//! Deadlines: the longest total time of a request, also if the database hangs.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::load::{Keys, Load, assert_answered};
use crate::postgres_server::PostgresServer;
use crate::server::Server;

/// Less than two limits of 4 s, and longer than one limit on a loaded machine. If each step had a
/// limit of its own, a request would take two.
const LATEST: Duration = Duration::from_millis(6_500);

/// A request that arrives during a scan waits for the rest of that scan, and for the whole next
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_during_a_scan_that_hangs_and_a_revocation_are_answered_within_one_limit() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--query-timeout", "4s"]).await;
    let trust = server.register("St. Mary").await;
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE trust IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let ask = |key: &'static str| {
        let mut client = Client::new(server.main);
        async move {
            let begun = Instant::now();
            let answer = client.verify(key).await.unwrap();
            (answer.status, begun.elapsed())
        }
    };
    let first = tokio::spawn(ask("unknown"));
    server.until_metric("trust_auth_scans_under_way", |scans| scans == 1.0).await;
    let second = tokio::spawn(ask("another"));
    let begun = Instant::now();
    let path = format!("/admin/trusts/{}/disable", trust.id);
    let revoked = server.administer("POST", &path, &Value::Null).await;
    assert!(
        revoked.status == 503 && begun.elapsed() < LATEST,
        "{:?}: {revoked:?}",
        begun.elapsed()
    );
    for asked in [first, second] {
        let (status, took) = asked.await.unwrap();
        assert!(status == 503 && took < LATEST, "{status} after {took:?}; log: {}", server.log());
    }
    other.close().await.unwrap();
    let revoked = server.administer("POST", &path, &Value::Null).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!(server.verify(&trust.key).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_during_a_flood_and_during_the_end_is_made_within_the_limit() {
    let mut server = Server::on_sqlite(&["--query-timeout", "4s", "--drain-delay", "3s"]).await;
    let (first, second) = (server.register("First").await, server.register("Second").await);
    let flood = Load::start(server.main, 16, &Keys::Unknown("unknown"));
    server
        .until_metric("trust_auth_requests_total{outcome=\"invalid\"}", |invalid| invalid > 50.0)
        .await;
    let begun = Instant::now();
    server.delete(&first).await;
    assert!(begun.elapsed() < LATEST, "{:?}", begun.elapsed());
    server.signal("TERM");
    let begun = Instant::now();
    server.delete(&second).await;
    assert!(begun.elapsed() < LATEST, "{:?}", begun.elapsed());
    for trust in [&first, &second] {
        assert_eq!(server.verify(&trust.key).await.status, 401);
    }
    assert_answered(&flood.ended().await, &[401, 503]);
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

/// `nc -N` and some clients of HTTP/1.0 do so.
#[tokio::test]
async fn a_client_that_shuts_down_its_sending_side_after_a_whole_request_gets_its_answer() {
    let server = Server::on_sqlite(&["--reject-floor", "1s"]).await;
    for head in [
        "GET /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: unknown",
        "GET /verify HTTP/1.0\r\nX-Api-Key: unknown",
    ] {
        let mut stream = TcpStream::connect(server.main).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.") && answer[8..].starts_with(" 401 "),
            "{head}: {answer:?}"
        );
    }
    // Half a request gets no answer.
    let mut stream = TcpStream::connect(server.main).await.unwrap();
    stream.write_all(b"GET /verify HTTP/1.1\r\nX-Api-").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.contains(" 401 ") && !answer.contains(" 200 "), "{answer:?}");
    server.stop().await;
}
