//! Each status that docs/operating.md promises for the admin listener, by path and method, with and
//! without the admin key.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use crate::client::{Answer, ask, converse};
use crate::openapi::assert_documented;
use crate::server::{ADMIN_KEY, PATIENCE, Server};

const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

/// Each kind of path, and its methods. The trust `x` exists.
const PATHS: [(&str, &[&str]); 30] = [
    ("/healthz", &["GET", "HEAD"]),
    ("/readyz", &["GET", "HEAD"]),
    ("/metrics", &["GET", "HEAD"]),
    ("/admin/trusts", &["GET", "HEAD", "POST"]),
    ("/admin/trusts?a=b", &["GET", "HEAD", "POST"]),
    ("/admin/trusts/x", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/unknown", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/%FF", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/.", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/..", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/%2e%2e", &["GET", "HEAD", "PATCH", "DELETE"]),
    ("/admin/trusts/x/disable", &["POST"]),
    ("/admin/trusts/x/enable", &["POST"]),
    ("/admin/trusts/x/rotate", &["POST"]),
    ("/admin/trusts/%FF/rotate", &["POST"]),
    // An empty name, which no trust has.
    ("/admin/trusts//rotate", &["POST"]),
    // No such path.
    ("/", &[]),
    ("/elsewhere", &[]),
    ("/verify", &[]),
    ("/admin", &[]),
    ("/admin/", &[]),
    ("/admin/trusts/", &[]),
    ("/admin/trusts/x/", &[]),
    ("/admin/trusts/x/promote", &[]),
    ("/admin/trusts/x/rotate/again", &[]),
    ("/Admin/trusts", &[]),
    ("//admin/trusts", &[]),
    ("/admin/./trusts", &[]),
    ("/%61dmin/trusts", &[]),
    ("/healthz/", &[]),
];

fn is_public(method: &str, path: &str) -> bool {
    ["GET", "HEAD"].contains(&method) && ["/healthz", "/readyz", "/metrics"].contains(&path)
}

/// Asserts the form of an error, and that the OpenAPI document has it. An answer to HEAD has no
/// body.
fn assert_error(answer: &Answer, method: &str, path: &str, kind: &str, what: &str) {
    assert_documented(method, path, answer.status, kind);
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    let bearer = (answer.status == 401).then_some("Bearer");
    assert_eq!(answer.header("www-authenticate"), bearer, "{what}");
    assert_eq!(answer.header("retry-after"), (answer.status == 503).then_some("1"), "{what}");
    if method == "HEAD" {
        assert_eq!(answer.body, "", "{what}");
        return;
    }
    let error = answer.json();
    assert_eq!(answer.kind(), kind, "{what}");
    assert!(!error["error"]["message"].as_str().unwrap().is_empty(), "{what}");
    let members = |value: &Value| value.as_object().unwrap().len();
    assert_eq!((members(&error), members(&error["error"])), (1, 2), "{what}: {error}");
}

#[tokio::test]
async fn without_the_key_each_path_and_method_except_the_probes_gets_the_same_refusal() {
    let (server, unconfigured) = (Server::on_sqlite(&[]).await, Server::without_admin_key().await);
    server.register("x").await;
    let wrong = format!("Bearer {ADMIN_KEY}x");
    let right = format!("Bearer {ADMIN_KEY}");
    let mut refusals = Vec::new();
    for (path, _) in PATHS {
        for method in METHODS {
            let cases: [(_, &[(&str, &str)], _, _); 3] = [
                (&server, &[], 401, "unauthorized"),
                (&server, &[("Authorization", &wrong)], 401, "unauthorized"),
                (&unconfigured, &[("Authorization", &right)], 403, "admin_unconfigured"),
            ];
            for (server, headers, status, kind) in cases {
                let answer = ask(server.admin, method, path, headers, "").await;
                let what = format!("{method} {path} {headers:?}: {answer:?}");
                if is_public(method, path) {
                    assert_eq!(answer.status, 200, "{what}");
                    continue;
                }
                assert_eq!(answer.status, status, "{what}");
                assert_error(&answer, method, path, kind, &what);
                assert_eq!(answer.header("allow"), None, "{what}");
                if method != "HEAD" {
                    let mut headers = answer.headers.clone();
                    headers.remove("date");
                    refusals.push((status, format!("{headers:?} {}", answer.body)));
                }
            }
        }
    }
    // No part of the answer shows which path or method exists.
    refusals.sort();
    refusals.dedup();
    assert_eq!(refusals.len(), 2, "{refusals:#?}");

    for target in
        ["OPTIONS * HTTP/1.1", "CONNECT a:443 HTTP/1.1", "GET http://a/admin/trusts HTTP/1.1"]
    {
        let request = format!("{target}\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = converse(server.admin, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{target}: {answer}");
    }
    let listed = server.administer("GET", "/admin/trusts", &Value::Null).await.json();
    assert_eq!(listed["trusts"].as_array().unwrap().len(), 1, "nothing was changed");
}

#[tokio::test]
async fn with_the_key_an_unknown_path_gets_404_and_an_unknown_method_405_with_allow() {
    let server = Server::on_sqlite(&[]).await;
    server.register("x").await;
    for (path, has) in PATHS {
        for method in METHODS {
            if has.contains(&method) {
                continue;
            }
            let answer = server.administer(method, path, &Value::Null).await;
            let what = format!("{method} {path}: {answer:?}");
            let expected =
                if has.is_empty() { (404, "no_such_path") } else { (405, "no_such_method") };
            assert_eq!(answer.status, expected.0, "{what}");
            assert_error(&answer, method, path, expected.1, &what);
            let mut allowed: Vec<&str> =
                answer.header("allow").map(|allow| allow.split(',').collect()).unwrap_or_default();
            allowed.sort_by_key(|method| METHODS.iter().position(|known| known == method));
            assert_eq!(allowed, has, "{what}");
        }
    }
    for (method, path, status, kind) in [
        ("GET", "/admin/trusts/unknown", 404, "no_such_trust"),
        ("HEAD", "/admin/trusts/unknown", 404, "no_such_trust"),
        ("DELETE", "/admin/trusts/..", 404, "no_such_trust"),
        ("GET", "/admin/trusts/%2e", 404, "no_such_trust"),
        ("POST", "/admin/trusts//rotate", 404, "no_such_trust"),
        ("POST", "/admin/trusts/unknown/disable", 404, "no_such_trust"),
        ("POST", "/admin/trusts/unknown/enable", 404, "no_such_trust"),
        ("POST", "/admin/trusts/unknown/rotate", 404, "no_such_trust"),
        ("GET", "/admin/trusts/%FF", 400, "malformed"),
        ("DELETE", "/admin/trusts/%C3%28", 400, "malformed"),
        ("POST", "/admin/trusts/%FF/disable", 400, "malformed"),
    ] {
        let answer = server.administer(method, path, &Value::Null).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_error(&answer, method, path, kind, &format!("{method} {path}"));
    }
    assert_eq!(server.administer("HEAD", "/admin/trusts", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_faulty_registration_is_refused_with_the_status_of_its_fault() {
    let server = Server::on_sqlite(&[]).await;
    server.register("Zo\u{eb}").await;
    let bearer = format!("Bearer {ADMIN_KEY}");
    let json = "application/json";
    let long = json!({ "name": "x".repeat(17_000) }).to_string();
    for (kind_of_content, body, status, kind) in [
        (json, r#"{"name":"New""#, 400, "malformed"),
        (json, "", 400, "malformed"),
        (json, "{\"name\":\"\u{1}\"}", 400, "malformed"),
        (json, r#"{"name":"\ud800"}"#, 400, "malformed"),
        (json, r#"{"name":"Zoë"}"#, 409, "name_taken"),
        (json, "{\"name\":\"Zoe\u{308}\"}", 409, "name_taken"),
        (json, &long, 413, "too_large"),
        ("text/plain", r#"{"name":"New"}"#, 415, "content_type"),
        ("", r#"{"name":"New"}"#, 415, "content_type"),
        (json, "[]", 422, "malformed"),
        (json, "{}", 422, "malformed"),
        (json, r#"{"name":null}"#, 422, "malformed"),
        (json, r#"{"name":"a","name":"b"}"#, 422, "malformed"),
        (json, r#"{"name":"a","id":"b"}"#, 422, "malformed"),
        (json, r#"{"name":"a","code":"\u202e"}"#, 422, "malformed"),
        (json, r#"{"name":"a","region":"b\u200b"}"#, 422, "malformed"),
        (json, r#"{"name":"."}"#, 422, "invalid_name"),
        (json, r#"{"name":".."}"#, 422, "invalid_name"),
        (json, r#"{"name":"a\u202eb"}"#, 422, "invalid_name"),
        (json, r#"{"name":"a\u200bb"}"#, 422, "invalid_name"),
        (json, r#"{"name":"a\u2028b"}"#, 422, "invalid_name"),
        (json, r#"{"name":"a\u00a0b"}"#, 422, "invalid_name"),
        (json, r#"{"name":"a  b"}"#, 422, "invalid_name"),
        (json, r#"{"name":" a"}"#, 422, "invalid_name"),
        (json, r#"{"name":"a\u0000b"}"#, 422, "invalid_name"),
    ] {
        let headers = [("Authorization", &*bearer), ("Content-Type", kind_of_content)];
        let headers = if kind_of_content.is_empty() { &headers[..1] } else { &headers };
        let answer = ask(server.admin, "POST", "/admin/trusts", headers, body).await;
        let what: String = format!("{body}: {answer:?}").chars().take(300).collect();
        assert_eq!(answer.status, status, "{what}");
        assert_error(&answer, "POST", "/admin/trusts", kind, &what);
    }
    let listed = server.administer("GET", "/admin/trusts", &Value::Null).await.json();
    assert_eq!(listed["trusts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_faulty_change_of_attributes_is_refused_and_changes_nothing() {
    let server = Server::on_sqlite(&[]).await;
    server.register("x").await;
    let kept = json!({ "attributes": { "scopes": ["read"] } });
    assert_eq!(server.administer("PATCH", "/admin/trusts/x", &kept).await.status, 200);
    let bearer = format!("Bearer {ADMIN_KEY}");
    let key = r#"{"attributes":{"a":"tak_PiXmTxxV9xqPWQC6liorxlJiggkv4NKwenKcMJXGvvI0SvCaV"}}"#;
    let long = json!({ "attributes": { "a": "x".repeat(17_000) } }).to_string();
    for (path, body, status, kind) in [
        ("x", "{\"attributes\":{}", 400, "malformed"),
        ("x", "", 400, "malformed"),
        ("x", &long, 413, "too_large"),
        // Not a removal: the member is missing.
        ("x", "{}", 422, "malformed"),
        ("x", "null", 422, "malformed"),
        ("x", r#"{"attributes":[]}"#, 422, "malformed"),
        ("x", r#"{"attributes":"{}"}"#, 422, "malformed"),
        ("x", r#"{"attributes":{},"name":"y"}"#, 422, "malformed"),
        ("x", key, 422, "malformed"),
        ("unknown", r#"{"attributes":{}}"#, 404, "no_such_trust"),
        ("%FF", r#"{"attributes":{}}"#, 400, "malformed"),
    ] {
        let path = format!("/admin/trusts/{path}");
        let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
        let answer = ask(server.admin, "PATCH", &path, &headers, body).await;
        let what: String = format!("{body}: {answer:?}").chars().take(300).collect();
        assert_eq!(answer.status, status, "{what}");
        assert_error(&answer, "PATCH", &path, kind, &what);
    }
    let headers = [("Authorization", &*bearer)];
    let answer = ask(server.admin, "PATCH", "/admin/trusts/x", &headers, "{}").await;
    assert_eq!((answer.status, &*answer.kind()), (415, "content_type"));
    let shown = server.administer("GET", "/admin/trusts/x", &Value::Null).await.json();
    assert_eq!(shown["trust"]["attributes"], kept["attributes"]);
}

#[tokio::test]
async fn any_name_can_be_addressed_by_its_percent_encoding_and_is_passed_on_exactly() {
    let server = Server::on_sqlite(&[]).await;
    for name in [
        "a/b", "/", "100%", "%2e%2e", "%", "...", "..a", "x?y#z", "a;b=c", "a+b", "C:\\d", "\"q\"",
        "<a>", "Zo\u{eb}", "北 🏥", "disable", "trusts", "a&b", "~", "'", "{trust}",
    ] {
        let trust = server.register(name).await;
        let path = format!("/admin/trusts/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
        let shown = server.administer("GET", &path, &Value::Null).await;
        assert_eq!((shown.status, &shown.json()["trust"]["name"]), (200, &json!(name)), "{path}");

        let granted = server.verify(&trust.key).await;
        let announced = granted.header("x-trust-name").unwrap();
        assert_eq!(percent_decode_str(announced).decode_utf8().unwrap(), name);
        assert!(announced.bytes().all(|byte| byte.is_ascii_graphic()), "{announced:?}");

        for (method, change) in
            [("POST", "/disable"), ("POST", "/enable"), ("POST", "/rotate"), ("DELETE", "")]
        {
            let changed = server.administer(method, &format!("{path}{change}"), &Value::Null).await;
            assert_eq!(
                (changed.status, &changed.json()["trust"]["id"]),
                (200, &json!(trust.id)),
                "{path}"
            );
        }
        assert_eq!(server.administer("GET", &path, &Value::Null).await.kind(), "no_such_trust");
    }
    // In either normal form.
    let trust = server.register("Zoe\u{308}").await;
    for spelling in ["Zo%C3%AB", "Zoe%CC%88"] {
        let shown =
            server.administer("GET", &format!("/admin/trusts/{spelling}"), &Value::Null).await;
        assert_eq!(shown.json()["trust"]["id"], json!(trust.id), "{spelling}");
    }
}

#[tokio::test]
async fn each_request_with_the_key_gets_503_if_the_database_fails() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let server = Server::on(&file, &[]).await;
    server.register("x").await;
    std::fs::remove_file(&file).unwrap();
    let begun = Instant::now();
    while server.administer("GET", "/admin/trusts", &Value::Null).await.status == 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (method, path) in [
        ("GET", "/admin/trusts"),
        ("HEAD", "/admin/trusts"),
        ("GET", "/admin/trusts/x"),
        ("POST", "/admin/trusts"),
        ("POST", "/admin/trusts/x/disable"),
        ("POST", "/admin/trusts/x/enable"),
        ("POST", "/admin/trusts/x/rotate"),
        ("PATCH", "/admin/trusts/x"),
        ("DELETE", "/admin/trusts/x"),
    ] {
        let body = match method {
            "PATCH" => json!({ "attributes": null }),
            _ if path.ends_with("trusts") => json!({ "name": "y" }),
            _ => Value::Null,
        };
        let answer = server.administer(method, path, &body).await;
        assert_eq!(answer.status, 503, "{method} {path}: {answer:?}");
        assert_error(&answer, method, path, "cannot_open", &format!("{method} {path}"));
        assert_eq!(ask(server.admin, method, path, &[], "").await.status, 401);
    }
}
