//! What an operator relies on: the settings, the output, the log, and the end of the service.

use std::process::Output;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::client::{Client, ask};
use crate::server::{ADMIN_KEY, Server, command};

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    command(folder.path())
        .arg("serve")
        .args(arguments)
        // Any free port: another program may have the usual ones.
        .env("TRUST_AUTH_LISTEN", "127.0.0.1:0")
        .env("TRUST_AUTH_ADMIN_LISTEN", "127.0.0.1:0")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test]
async fn a_flag_overrides_the_environment_and_the_start_reports_both_without_secrets() {
    let server =
        Server::on_sqlite(&["--ttl", "7s", "--waiting-limit", "33", "--reject-floor", "250ms"])
            .await;
    let settings = &server.told["serving"]["settings"];
    assert_eq!((&settings["ttl"], &settings["waiting_limit"]), (&"7s".into(), &33.into()));
    assert_eq!(
        (&settings["reject_floor"], &settings["admin_key_configured"]),
        (&"250ms".into(), &true.into())
    );
    let log = server.stop().await;
    let digest = trust_auth::KeyHash::of(ADMIN_KEY).to_hex();
    assert!(log.contains(r#""waiting_limit":33"#) && log.contains(r#""ttl":"7s""#), "{log}");
    assert!(!log.contains(&digest[..16]) && !log.contains(ADMIN_KEY), "{log}");
}

#[test]
fn settings_that_cannot_work_are_refused_with_advice() {
    for (arguments, environment, told) in [
        (
            &["--reject-floor", "10s", "--request-timeout", "10s"] as &[_],
            &[] as &[_],
            "--reject-floor and --query-timeout must be at most",
        ),
        (&["--query-timeout", "0s"], &[], "--query-timeout must be longer"),
        (
            &["--database-connection-max-age", "0s"],
            &[],
            "--database-connection-max-age must be at least",
        ),
        (&["--query-timeout", "11s"], &[], "--query-timeout must be at most --request-timeout"),
        (&["--metrics-on-admin-only", "--admin-listen", "off"], &[], "leaves no listener"),
        (
            &["--admin-listen", "off"],
            &[("TRUST_AUTH_METRICS_ON_ADMIN_ONLY", "1")],
            "leaves no listener",
        ),
        (&["--database", "postgres//u:hunter2@db/x"], &[], "looks like a server's address"),
        (&["--scheme", "two words"], &[], "--scheme must be one word"),
        (
            &["--scheme", "hunter2hunter2hunter2hunter2hunter2hunter2k"],
            &[],
            "looks like an API key",
        ),
        (
            &["--header", "hunter2hunter2hunter2hunter2hunter2hunter2k"],
            &[],
            "looks like an API key",
        ),
        (&["--capacity", "0"], &[], "--ttl or --capacity"),
        (&["--admin-key-sha256", "hunter2"], &[], "not the key"),
        (&[], &[("TRUST_AUTH_ADMIN_KEY_SHA256", "hunter2")], "not the key"),
        (&[], &[("TRUST_AUTH_WAITING_LIMIT", "0")], "--waiting-limit must be at least 1"),
        (&["--listen", "192.0.2.1:1"], &[], "cannot listen at 192.0.2.1:1"),
        (&["--database", "mysql://u:hunter2@db/x"], &[], "cannot be opened"),
        (
            &["--database", "postgres://u:hunter2@127.0.0.1:1/x", "--exit-if-unreachable"],
            &[],
            "127.0.0.1:1",
        ),
        (
            &["--database", "postgres://u:hunter2@127.0.0.1:1/x"],
            &[("TRUST_AUTH_EXIT_IF_UNREACHABLE", "1")],
            "127.0.0.1:1",
        ),
    ] {
        let output = run(arguments, environment);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(told) && !error.contains("hunter2"), "{arguments:?}: {error}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments:?}");
    }
    for (arguments, environment) in [
        (&["--listen", "nowhere"] as &[_], &[] as &[_]),
        (&["--header", "not a header"], &[]),
        (&["--database-connections", "1"], &[]),
        (&[], &[("TRUST_AUTH_TTL", "soon")]),
        (&[], &[("TRUST_AUTH_METRICS_ON_ADMIN_ONLY", "perhaps")]),
    ] {
        assert_eq!(
            run(arguments, environment).status.code(),
            Some(2),
            "{arguments:?} {environment:?}"
        );
    }
}

#[tokio::test]
async fn no_key_and_no_digest_is_ever_logged_g10() {
    let server = Server::on_sqlite(&["--log-level", "debug"]).await;
    let trust = server.register("St. Mary").await;
    let unknown = "an-unknown-key-that-no-trust-has";
    server.verify(&trust.key).await;
    server.verify(unknown).await;
    ask(
        server.main,
        "GET",
        "/verify",
        &[("X-Api-Key", "first-of-two"), ("X-Api-Key", "second-of-two")],
        "",
    )
    .await;
    ask(server.admin, "GET", "/admin/trusts", &[("Authorization", "Bearer a-wrong-admin-key")], "")
        .await;
    server.delete(&trust).await;
    server.verify(&trust.key).await;
    let log = server.stop().await;
    for key in
        [&*trust.key, unknown, "first-of-two", "second-of-two", "a-wrong-admin-key", ADMIN_KEY]
    {
        let digest = trust_auth::KeyHash::of(key).to_hex();
        assert!(!log.contains(key) && !log.contains(&digest[..16]), "{key}: {log}");
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_end_and_a_second_signal_ends_it_at_once() {
    let server = Server::on_sqlite(&[]).await;
    let mut idle = Client::new(server.main);
    idle.verify("unknown").await.unwrap();
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    let mut server = Server::on_sqlite(&["--drain-delay", "1h"]).await;
    server.signal("TERM");
    while ask(server.main, "GET", "/readyz", &[], "").await.status == 200 {}
    server.signal("INT");
    assert_eq!(server.ended().await.code(), Some(130));
}

/// Some clients never send the rest of a request, and HTTP waits for the rest.
#[tokio::test]
async fn half_a_request_does_not_delay_the_end_and_a_whole_one_is_answered() {
    let server = Server::on_sqlite(&[
        "--drain-timeout",
        "1h",
        "--header-timeout",
        "1h",
        "--reject-floor",
        "3s",
    ])
    .await;
    let mut half = tokio::net::TcpStream::connect(server.main).await.unwrap();
    half.write_all(b"GET /verify HTTP/1.1\r\nX-Api-").await.unwrap();
    let mut whole = Client::new(server.main);
    let whole = tokio::spawn(async move { whole.verify("unknown").await.unwrap().status });
    server.until_metric("trust_auth_connections{listener=\"main\"}", |open| open >= 3.0).await;
    server.stop().await;
    assert_eq!(whole.await.unwrap(), 401);
}

#[tokio::test]
async fn settings_that_work_but_do_not_fit_together_cause_a_warning() {
    let log = Server::on_sqlite(&["--max-connections", "100", "--drain-timeout", "9s"])
        .await
        .stop()
        .await;
    assert!(
        log.contains("--waiting-limit below half") && log.contains("raise --drain-timeout"),
        "{log}"
    );
    let warning = "raise --request-timeout above --read-lease";
    for (arguments, warns) in [
        (&["--read-lease", "3s", "--request-timeout", "3s"] as &[_], true),
        (&["--read-lease", "3s", "--request-timeout", "3s", "--admin-listen", "off"], false),
        (&["--read-lease", "3s", "--request-timeout", "3100ms"], false),
    ] {
        let log = Server::on_sqlite(arguments).await.stop().await;
        let lines: Vec<_> = log.lines().filter(|line| line.contains(warning)).collect();
        assert_eq!(lines.len(), usize::from(warns), "{arguments:?}: {log}");
        for line in lines {
            assert!(line.contains(r#""level":"WARN""#), "{line}");
            assert!(line.contains(r#""read_lease":"3s","request_timeout":"3s""#), "{line}");
        }
    }
    let log = Server::on_sqlite(&[]).await.stop().await;
    // The log also warns that the new file has no trust.
    let others = log.lines().filter(|line| !line.contains("no enabled trust with a key"));
    assert!(others.clone().all(|line| !line.contains(r#""level":"WARN""#)), "{log}");
    assert!(others.count() + 1 == log.lines().count(), "{log}");
}

#[tokio::test]
async fn the_connections_of_one_listener_are_limited_and_the_other_answers_meanwhile() {
    let server = Server::on_sqlite(&["--max-connections", "3", "--header-timeout", "1h"]).await;
    server.until_metric("trust_auth_connections{listener=\"main\"}", |open| open <= 1.0).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(server.main);
        client.verify("unknown").await.unwrap();
        held.push(client);
    }
    // The kernel accepts the connection, and the service does not answer.
    let mut fourth = Client::new(server.main);
    let waiting = tokio::spawn(async move { fourth.verify("unknown").await.unwrap().status });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    assert_eq!(ask(server.admin, "GET", "/healthz", &[], "").await.status, 200);
    held.pop();
    assert_eq!(waiting.await.unwrap(), 401);
}
