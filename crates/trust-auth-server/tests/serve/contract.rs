//! The contract of forward auth: what `/verify` and the probes answer to any bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trust_auth::{KeyForm, KeyHash, KeyPrefix};

use crate::client::{ask, converse};
use crate::server::{Server, has_read_lease};

#[tokio::test]
async fn a_valid_key_gets_200_and_the_identity_by_any_method_and_below_any_path_g9() {
    let server = Server::on_sqlite(&[]).await;
    let trust = server.register("St. Märy 100%").await;
    // The watcher is notified of the registration, too, and then removes the key's entry. Wait
    // for that.
    server.until_metric("trust_auth_notifications_total", |heard| heard >= 1.0).await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        for path in
            ["/verify", "/verify/", "/verify?a=b", "/verify/orders/7?a=b", "/verify//x/../y"]
        {
            let headers = [("X-Api-Key", &*trust.key), ("X-Trust-Id", "forged")];
            let answer = ask(server.main, method, path, &headers, "").await;
            assert_eq!((answer.status, &*answer.body), (200, ""), "{method} {path}");
            assert_eq!(answer.header("x-trust-id"), Some(&*trust.id));
            assert_eq!(answer.header("x-trust-name"), Some("St.%20M%C3%A4ry%20100%25"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            // It replaces a client's own in the proxy. `--send-attributes` is off.
            assert_eq!(answer.header("x-trust-attributes"), Some(""));
        }
    }
    let metrics = server.metrics().await;
    let counted =
        ["scans", "hits", "held"].map(|name| metrics[&format!("trust_auth_{name}_total")]);
    if has_read_lease() {
        // The first request may be a look. None is a scan or a read.
        assert!(counted[0] == 1.0 && counted[1] == 0.0 && counted[2] >= 39.0, "{counted:?}");
    } else {
        // One scan at the start and one for the key. The cache answers from then on.
        assert_eq!(counted, [2.0, 39.0, 0.0]);
    }
    assert_eq!(metrics["trust_auth_requests_total{outcome=\"granted\"}"], 40.0);
}

#[tokio::test]
async fn a_refusal_has_the_reference_s_status_headers_and_body_and_no_identity() {
    let server = Server::on_sqlite(&[]).await;
    server.register("St. Mary").await;
    let missing = json!({ "detail": "Not authenticated: API key is missing." });
    let invalid = json!({ "detail": "Invalid API Key." });
    let (longest, too_long) = ("k".repeat(4096), "k".repeat(4097));
    let cases: [(&[(&str, &str)], _); 7] = [
        (&[], &missing),
        (&[("X-Api-Key", "")], &missing),
        (&[("X-Api-Key", "unknown")], &invalid),
        (&[("X-Api-Key", "one"), ("X-Api-Key", "two")], &invalid),
        (&[("X-Api-Key", "ключ")], &invalid),
        (&[("X-Api-Key", &longest)], &invalid),
        (&[("X-Api-Key", &too_long)], &invalid),
    ];
    for (headers, body) in cases {
        let answer = ask(server.main, "GET", "/verify", headers, "").await;
        assert_eq!((answer.status, &answer.json()), (401, body), "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), Some("ApiKey"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!((answer.header("x-trust-id"), answer.header("x-trust-name")), (None, None));
    }
    let not_utf8 =
        b"GET /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: \xff\xfe\r\nConnection: close\r\n\r\n";
    let answer = converse(server.main, not_utf8).await;
    assert!(
        answer.starts_with("HTTP/1.1 401 ")
            && answer.ends_with("{\"detail\":\"Invalid API Key.\"}"),
        "{answer}"
    );
    let metrics = server.metrics().await;
    let of = |outcome| metrics[&format!("trust_auth_requests_total{{outcome=\"{outcome}\"}}")];
    assert_eq!((of("missing"), of("invalid"), of("granted")), (2.0, 6.0, 0.0));
}

#[tokio::test]
async fn a_damaged_key_gets_401_without_a_scan_and_only_the_configured_prefix_decides() {
    let server = Server::on_sqlite(&["--key-prefix", "acme_", "--reject-floor", "100ms"]).await;
    assert_eq!(server.told["serving"]["settings"]["key_prefix"], "acme_");
    let prefix: KeyPrefix = "acme_".parse().unwrap();
    let made = server.register("St. Mary").await.key;
    let id = server.register("St. Peter").await.id;
    let rotate = format!("/admin/trusts/{id}/rotate");
    let rotated = server.administer("POST", &rotate, &Value::Null).await.json();
    for key in [&*made, rotated["api_key"].as_str().unwrap()] {
        assert_eq!(prefix.form_of(key), KeyForm::Intact);
    }
    // The last character is a part of the checksum. The other key has the default prefix.
    let (start, last) = made.split_at(made.len() - 1);
    let damaged = format!("{start}{}", if last == "0" { "1" } else { "0" });
    let foreign = format!("tak_{}", "0".repeat(49));
    // Rows that have these keys, so that only the form can refuse one.
    for key in [&damaged, &foreign] {
        let body = json!({ "name": key[..10], "key_sha256": KeyHash::of(key).to_hex() });
        assert_eq!(server.administer("POST", "/admin/trusts", &body).await.status, 201);
    }
    assert_eq!(server.verify(&foreign).await.status, 200);

    let before = server.metrics().await;
    let begun = Instant::now();
    let answer = server.verify(&damaged).await;
    assert!(begun.elapsed() >= Duration::from_millis(100), "the floor");
    let invalid = json!({ "detail": "Invalid API Key." });
    assert_eq!((answer.status, answer.json()), (401, invalid));
    assert_eq!(answer.header("www-authenticate"), Some("ApiKey"));
    let after = server.metrics().await;
    for (name, growth) in [
        ("trust_auth_requests_total{outcome=\"invalid\"}", 1.0),
        ("trust_auth_request_seconds_count{route=\"unread\"}", 1.0),
        ("trust_auth_scans_total", 0.0),
        ("trust_auth_looks_total", 0.0),
        ("trust_auth_hits_total", 0.0),
    ] {
        let value = |of: &BTreeMap<String, f64>| of.get(name).copied().unwrap_or_default();
        assert_eq!(value(&after) - value(&before), growth, "{name}");
    }
    let log = server.stop().await;
    assert!(log.contains(r#""key_prefix":"acme_""#) && !log.contains(&damaged[5..20]), "{log}");
}

#[tokio::test]
async fn the_key_is_taken_from_the_header_and_after_the_scheme_that_were_configured() {
    let server = Server::on_sqlite(&["--header", "Authorization", "--scheme", "ApiKey"]).await;
    let trust = server.register("St. Mary").await;
    let status = async |name: &str, value: String| {
        ask(server.main, "GET", "/verify", &[(name, &*value)], "").await.status
    };
    assert_eq!(status("Authorization", format!("ApiKey {}", trust.key)).await, 200);
    assert_eq!(status("authorization", format!("apikey  {}", trust.key)).await, 200);
    assert_eq!(status("Authorization", trust.key.clone()).await, 401);
    assert_eq!(status("Authorization", format!("Bearer {}", trust.key)).await, 401);
    assert_eq!(status("X-Api-Key", trust.key.clone()).await, 401);
}

#[tokio::test]
async fn bytes_that_are_no_request_get_4xx_or_the_connection_is_closed() {
    let server =
        Server::on_sqlite(&["--header-timeout", "300ms", "--max-header-bytes", "8192"]).await;
    let trust = server.register("St. Mary").await;
    let large =
        format!("GET /verify HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(16 * 1024));
    let many = format!("GET /verify HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Many: 1\r\n".repeat(200));
    for (sent, status) in [
        (large.as_bytes(), "431"),
        (many.as_bytes(), "431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"GET /verify HTTP/9.9\r\n\r\n", "400"),
        (b"GET /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: a\0b\r\n\r\n", "400"),
        // No further bytes arrive. The time for the headers ends, and no answer is possible.
        (b"GET /verify HTTP/1.1\r\nHost: a\r\nX-Slow: ", ""),
        (b"", ""),
    ] {
        let answer = converse(server.main, sent).await;
        let expected =
            if status.is_empty() { String::new() } else { format!("HTTP/1.1 {status} ") };
        assert!(
            answer.starts_with(&expected) && (!status.is_empty() || answer.is_empty()),
            "{status}: {answer}"
        );
    }
    // Unusual forms that are valid HTTP.
    for sent in [
        "OPTIONS * HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "GET http://a/verify HTTP/1.1",
        "GET /verify/%FF%00?% HTTP/1.1",
    ] {
        let answer = converse(
            server.main,
            format!("{sent}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{sent}: {answer}");
    }
    // Several requests at once get as many answers, in order. Then the idle connection is closed.
    let pipelined = format!(
        "GET /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\n\r\n\
         GET /verify HTTP/1.1\r\nHost: a\r\n\r\n",
        trust.key
    );
    let answer = converse(server.main, pipelined.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 401 "), "{answer}");
    // The service does not wait for the body of a request.
    let unsent = format!(
        "POST /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\nContent-Length: 1000000\r\n\r\n",
        trust.key
    );
    let answer = converse(server.main, unsent.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(server.verify(&trust.key).await.status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// The kernel resets a connection that is closed while it has unread input. A proxy that cannot
/// write its whole request reports this error in place of the answer.
#[tokio::test]
async fn a_client_that_is_still_sending_when_the_answer_comes_gets_the_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::on_sqlite(&[]).await;
    let trust = server.register("St. Mary").await;
    let head = format!("POST /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\n", trust.key);
    let many = format!("{head}{}\r\n", "X-Many: 1\r\n".repeat(200_000));
    let large = format!("{head}X-Large: {}\r\n\r\n", "x".repeat(2_000_000));
    let body = format!("{head}Content-Length: 2000000\r\n\r\n{}", "x".repeat(2_000_000));
    for _ in 0..3 {
        for (sent, status) in [(&many, "431"), (&large, "431"), (&body, "200")] {
            let mut stream = tokio::net::TcpStream::connect(server.main).await.unwrap();
            let (first, rest) = sent.as_bytes().split_at(100_000);
            stream.write_all(first).await.unwrap();
            // The answer has arrived, and the service has finished the request.
            stream.readable().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            stream.write_all(rest).await.expect("the client may send everything");
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("the connection ends in order");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_connection_of_a_client_that_sends_its_headers_byte_by_byte_is_closed() {
    use tokio::io::AsyncWriteExt;
    let server = Server::on_sqlite(&["--header-timeout", "300ms"]).await;
    let mut slow = tokio::net::TcpStream::connect(server.main).await.unwrap();
    slow.write_all(b"GET /verify HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let begun = std::time::Instant::now();
    while slow.write_all(b"x").await.is_ok() {
        assert!(begun.elapsed() < crate::server::PATIENCE, "the connection stays open");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_probes_report_whether_the_service_runs_and_is_ready() {
    let server = Server::on_sqlite(&[]).await;
    for listener in [server.main, server.admin] {
        assert_eq!(ask(listener, "GET", "/healthz", &[], "").await.status, 200);
        let ready = ask(listener, "GET", "/readyz", &[], "").await;
        let expected = json!({
            "ready": true, "store": "ok", "listener_connected": true, "scan": "ok",
            "read_lease": if has_read_lease() { "valid" } else { "off" },
            "draining": false, "degraded": []
        });
        assert_eq!((ready.status, ready.json()), (200, expected));
        assert_eq!(ask(listener, "GET", "/metrics", &[], "").await.status, 200);
    }
    assert_eq!(ask(server.main, "GET", "/admin/trusts", &[], "").await.status, 404);
    // The admin listener does not show an unauthenticated client which paths exist.
    for path in ["/elsewhere", "/verify"] {
        assert_eq!(ask(server.admin, "GET", path, &[], "").await.status, 401);
    }
    assert_eq!(ask(server.main, "GET", "/elsewhere", &[], "").await.status, 404);

    let server = Server::on_sqlite(&["--drain-delay", "5s"]).await;
    server.signal("TERM");
    let ready = loop {
        let answer = ask(server.main, "GET", "/readyz", &[], "").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((ready.status, &ready.json()["draining"]), (503, &json!(true)));
    assert_eq!(ready.header("connection"), Some("close"));
}

#[tokio::test]
async fn every_metric_is_explained_and_none_names_a_trust() {
    let server = Server::on_sqlite(&[]).await;
    let trust = server.register("A very particular name").await;
    for key in [&*trust.key, &trust.key, "unknown"] {
        server.verify(key).await;
    }
    let text = ask(server.main, "GET", "/metrics", &[], "").await.body;
    let manual = include_str!("../../docs/operating.md");
    let mut seen = 0;
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no HELP");
        assert!(manual.contains(&format!("`{name}`")), "{name} is not in docs/operating.md");
        seen += 1;
    }
    assert!(seen >= 20, "{text}");
    for secret in
        [&*trust.id, &trust.key, "particular", &trust_auth::KeyHash::of(&trust.key).to_hex()]
    {
        assert!(!text.contains(secret), "{secret}");
    }
}
