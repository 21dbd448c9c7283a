//! The admin API: what it does, and which requests it refuses.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trust_auth::{KeyForm, KeyHash, KeyPrefix};

use crate::client::ask;
use crate::server::{ADMIN_KEY, Server};

#[tokio::test]
async fn each_change_of_a_trust_takes_effect_on_its_key_at_once_g1() {
    let server = Server::on_sqlite(&[]).await;
    let asked = json!({ "name": "St. Mary", "code": "SM1", "region": "north" });
    let made = server.administer("POST", "/admin/trusts", &asked).await;
    let (trust, key) =
        (made.json()["trust"].clone(), made.json()["api_key"].as_str().unwrap().to_owned());
    let path = format!("/admin/trusts/{}", trust["id"].as_str().unwrap());
    assert_eq!(
        (made.status, made.header("location"), made.header("cache-control")),
        (201, Some(&*path), Some("no-store"))
    );
    assert_eq!(
        (&trust["name"], &trust["code"], &trust["region"]),
        (&json!("St. Mary"), &json!("SM1"), &json!("north"))
    );
    assert_eq!(KeyPrefix::default().form_of(&key), KeyForm::Intact);
    assert_eq!(trust.get("api_key_hash"), None);

    let status = async |key: &str| server.verify(key).await.status;
    let change = async |method: &str, what: &str| {
        let answer = server.administer(method, &format!("{path}{what}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{method} {what}: {answer:?}");
        answer.json()
    };
    assert_eq!(status(&key).await, 200);
    assert_eq!(change("GET", "").await, json!({ "trust": trust }));
    assert_eq!(
        server.administer("GET", "/admin/trusts", &Value::Null).await.json(),
        json!({ "trusts": [trust] })
    );
    // By name as well.
    let named = server.administer("GET", "/admin/trusts/St.%20Mary", &Value::Null).await;
    assert_eq!(named.json(), json!({ "trust": trust }));

    assert!(change("POST", "/disable").await["trust"]["disabled_at"].is_string());
    assert_eq!(status(&key).await, 401);
    assert!(change("POST", "/enable").await["trust"]["disabled_at"].is_null());
    assert_eq!(status(&key).await, 200);
    let new_key = change("POST", "/rotate").await["api_key"].as_str().unwrap().to_owned();
    assert_eq!((status(&key).await, status(&new_key).await), (401, 200));
    change("DELETE", "").await;
    assert_eq!(status(&new_key).await, 401);
    let gone = server.administer("DELETE", &path, &Value::Null).await;
    assert_eq!((gone.status, &*gone.kind()), (404, "no_such_trust"));

    let log = server.stop().await;
    assert_eq!(log.matches("a trust was changed").count(), 5, "{log}");
}

#[tokio::test]
async fn bad_requests_get_a_typed_error_and_change_nothing_g10() {
    let server = Server::on_sqlite(&[]).await;
    server.register("St. Mary").await;
    let unknown = format!("/admin/trusts/{}", uuid::Uuid::nil());
    for (method, path, body, status, kind) in [
        ("POST", "/admin/trusts", json!({ "name": "St. Mary" }), 409, "name_taken"),
        ("POST", "/admin/trusts", json!({ "name": "" }), 422, "invalid_name"),
        ("POST", "/admin/trusts", json!({ "name": "k".repeat(43) }), 422, "invalid_name"),
        ("POST", "/admin/trusts", json!({ "name": 7 }), 422, "malformed"),
        ("POST", "/admin/trusts", json!({ "name": "New", "colour": "red" }), 422, "malformed"),
        ("POST", "/admin/trusts", json!({ "name": "New", "code": "" }), 422, "malformed"),
        (
            "POST",
            "/admin/trusts",
            json!({ "name": "New", "code": "k".repeat(43) }),
            422,
            "malformed",
        ),
        (
            "POST",
            "/admin/trusts",
            json!({ "name": "New", "region": "k".repeat(64) }),
            422,
            "malformed",
        ),
        (
            "POST",
            "/admin/trusts",
            json!({ "name": "New", "key_sha256": "k".repeat(64) }),
            422,
            "malformed",
        ),
        ("POST", "/admin/trusts", json!({ "name": "New", "key_sha256": "" }), 422, "malformed"),
        ("POST", "/admin/trusts", json!({ "name": "New", "key_sha256": 7 }), 422, "malformed"),
        ("POST", "/admin/trusts", json!({ "name": "x".repeat(20_000) }), 413, "too_large"),
        ("GET", &*unknown, Value::Null, 404, "no_such_trust"),
        ("DELETE", &*unknown, Value::Null, 404, "no_such_trust"),
        ("POST", "/admin/trusts/unknown/rotate", Value::Null, 404, "no_such_trust"),
        ("POST", "/admin/trusts/unknown/promote", Value::Null, 404, "no_such_path"),
        ("GET", "/admin/trusts/%FF", Value::Null, 400, "malformed"),
        ("POST", "/admin/trusts/%FF/rotate", Value::Null, 400, "malformed"),
        ("GET", "/admin/", Value::Null, 404, "no_such_path"),
        ("PUT", "/admin/trusts", Value::Null, 405, "no_such_method"),
    ] {
        let answer = server.administer(method, path, &body).await;
        assert_eq!((answer.status, &*answer.kind()), (status, kind), "{method} {path}");
        assert!(!answer.json()["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.body.contains("kkkkkkkk"), "{answer:?}");
    }
    let bearer = format!("Bearer {ADMIN_KEY}");
    let json = ("Content-Type", "application/json");
    for (headers, body, status, kind) in [
        (&[("Authorization", &*bearer)] as &[_], r#"{"name":"New"}"#, 415, "content_type"),
        (&[("Authorization", &*bearer), json], r#"{"name":"New""#, 400, "malformed"),
        (&[("Authorization", &*bearer), json], "\u{1}", 400, "malformed"),
    ] {
        let answer = ask(server.admin, "POST", "/admin/trusts", headers, body).await;
        assert_eq!((answer.status, &*answer.kind()), (status, kind), "{body}");
    }
    // The error does not repeat a key that was pasted where a name belongs.
    let pasted = server
        .administer("DELETE", &format!("/admin/trusts/{}", "k".repeat(43)), &Value::Null)
        .await;
    assert!(pasted.status == 404 && !pasted.body.contains("kkkkkkkk"), "{pasted:?}");

    let listed = server.administer("GET", "/admin/trusts", &Value::Null).await.json();
    assert_eq!(listed["trusts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_request_is_refused_without_the_admin_key_or_if_none_is_configured() {
    let server = Server::on_sqlite(&[]).await;
    let unconfigured = Server::without_admin_key().await;
    let wrong = format!("Bearer {ADMIN_KEY}x");
    for path in [
        "/admin",
        "/admin/",
        "/admin/trusts",
        "/admin/trusts/x",
        "/admin/trusts/%FF",
        "/admin/nothing/here",
    ] {
        for headers in [&[] as &[_], &[("Authorization", &*wrong)], &[("X-Api-Key", ADMIN_KEY)]] {
            for method in ["GET", "POST", "PATCH"] {
                let answer = ask(server.admin, method, path, headers, "").await;
                assert_eq!(
                    (answer.status, &*answer.kind()),
                    (401, "unauthorized"),
                    "{method} {path}"
                );
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert_eq!(
                    answer.header("allow"),
                    None,
                    "it shows an unauthenticated client which paths exist: {method} {path}"
                );
            }
        }
        let answer = unconfigured.administer("GET", path, &Value::Null).await;
        assert_eq!((answer.status, &*answer.kind()), (403, "admin_unconfigured"), "{path}");
    }
}

#[tokio::test]
async fn a_trust_is_registered_with_the_digest_of_the_key_that_it_has() {
    let server = Server::on_sqlite(&[]).await;
    let body = |name: &str, key: &str| {
        let digest = KeyHash::of(key).to_hex();
        json!({ "name": name, "code": "C", "key_sha256": digest })
    };
    let made = server.administer("POST", "/admin/trusts", &body("a", "its key")).await;
    let trust = made.json()["trust"].clone();
    assert_eq!((made.status, made.json().get("api_key")), (201, None));
    assert_eq!((&trust["name"], &trust["code"]), (&json!("a"), &json!("C")));
    let location = format!("/admin/trusts/{}", trust["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(&*location));
    let granted = server.verify("its key").await;
    assert_eq!((granted.status, granted.header("x-trust-id")), (200, trust["id"].as_str()));

    // Only one of several at the same time, in the database and not by a list that was read before.
    for round in 0..5 {
        let answers: Vec<_> = (0..4)
            .map(|number| {
                let (admin, body) =
                    (server.admin, body(&format!("{round}.{number}"), &round.to_string()));
                tokio::spawn(async move {
                    let authorization = format!("Bearer {ADMIN_KEY}");
                    let headers =
                        [("Authorization", &*authorization), ("Content-Type", "application/json")];
                    ask(admin, "POST", "/admin/trusts", &headers, &body.to_string()).await
                })
            })
            .collect();
        let mut statuses = Vec::new();
        for answer in answers {
            let answer = answer.await.unwrap();
            if answer.status == 409 {
                assert_eq!(answer.kind(), "key_taken");
            }
            statuses.push(answer.status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409]);
    }
    // A refusal is no failure of the database.
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);
    assert!(!server.stop().await.contains("failed in the database"));
}

/// Each answer is counted once, for every outcome.
#[tokio::test]
async fn every_request_is_counted_by_operation_and_outcome_even_if_it_takes_too_long() {
    let server =
        Server::on_sqlite(&["--request-timeout", "500ms", "--query-timeout", "500ms"]).await;
    server.register("St. Mary").await;
    server.administer("GET", "/admin/nothing", &Value::Null).await;
    server.administer("PUT", "/admin/trusts", &Value::Null).await;
    server.administer("GET", "/admin/trusts/unknown", &Value::Null).await;
    ask(server.admin, "GET", "/admin/trusts", &[], "").await;
    // No byte of the announced body arrives.
    let unsent = async |length: usize| {
        let head = format!(
            "POST /admin/trusts HTTP/1.1\r\nHost: auth.example\r\n\
             Authorization: Bearer {ADMIN_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.admin).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; "HTTP/1.1 503".len()];
        stream.read_exact(&mut status).await.unwrap();
        String::from_utf8(status.to_vec()).unwrap()
    };
    assert_eq!(unsent(10).await, "HTTP/1.1 503");
    assert_eq!(unsent(20_000).await, "HTTP/1.1 413", "the announced length is enough to refuse it");

    let metrics = server.metrics().await;
    for (operation, outcome) in [
        ("register", "ok"),
        ("none", "no_such_path"),
        ("none", "no_such_method"),
        ("show", "no_such_trust"),
        ("none", "unauthorized"),
        ("register", "timeout"),
        ("register", "too_large"),
    ] {
        let name = format!(
            "trust_auth_admin_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"
        );
        assert_eq!(metrics.get(&name), Some(&1.0), "{name} among {metrics:#?}");
    }
}
