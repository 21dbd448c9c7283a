//! Several keys a trust: the admin API, and a rotation with an overlap under load.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::client::{Answer, Client, ask};
use crate::postgres_server::PostgresServer;
use crate::server::{ADMIN_KEY, Server, command};

/// The overlaps to try: on a slow machine, the clients switch after the end of the shorter ones.
const OVERLAPS: [Duration; 3] =
    [Duration::from_secs(8), Duration::from_secs(30), Duration::from_secs(120)];

/// Within this time, each client switches to the new key.
const SWITCHING: Duration = Duration::from_secs(2);

async fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server.administer("POST", path, body).await
}

async fn status(server: &Server, key: &str) -> u16 {
    server.verify(key).await.status
}

#[tokio::test]
async fn the_keys_of_a_trust_are_added_listed_and_revoked_by_the_admin_api() {
    let server = Server::on_sqlite(&[]).await;
    let asked = json!({ "name": "St. Mary", "attributes": { "scopes": ["read"] } });
    let made = post(&server, "/admin/trusts", &asked).await;
    assert_eq!(made.json()["trust"]["attributes"], asked["attributes"]);
    let own = made.json()["api_key"].as_str().unwrap().to_owned();
    let path = format!("/admin/trusts/{}/keys", made.json()["trust"]["id"].as_str().unwrap());

    let terms = json!({ "label": "laboratory", "expires": "90d" });
    let added = post(&server, &path, &terms).await;
    assert_eq!(added.status, 201, "{added:?}");
    let (key, row) = (added.json()["api_key"].clone(), added.json()["key"].clone());
    let key = key.as_str().unwrap();
    assert_eq!(row["label"], "laboratory");
    assert_eq!(row["last_four"], json!(&key[key.len() - 4..]));
    assert!(row["expires_at"].is_string() && row["revoked_at"].is_null(), "{row}");
    assert_eq!((status(&server, &own).await, status(&server, key).await), (200, 200));

    let listed = server.administer("GET", &path, &Value::Null).await.json();
    assert_eq!(listed, json!({ "has_key_in_trust": true, "keys": [row] }));
    let revoke = format!("/admin/keys/{}/revoke", row["id"].as_str().unwrap());
    let revoked = post(&server, &revoke, &Value::Null).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!((status(&server, &own).await, status(&server, key).await), (200, 401));
    let first = server.administer("GET", &path, &Value::Null).await.json();
    assert!(first["keys"][0]["revoked_at"].is_string(), "{first}");
    assert_eq!(post(&server, &revoke, &Value::Null).await.status, 200);
    assert_eq!(server.administer("GET", &path, &Value::Null).await.json(), first);

    let log = server.stop().await;
    let id = row["id"].as_str().unwrap();
    for operation in ["add_key", "revoke_key"] {
        let named = |line: &&str| line.contains(operation) && line.contains(id);
        let line = log.lines().find(named).unwrap_or_else(|| panic!("{operation}: {log}"));
        assert!(line.contains("key_id"), "{line}");
    }
    assert!(!log.contains(key), "{log}");
}

#[tokio::test]
async fn keys_that_exist_and_rotations_have_terms_in_the_admin_api() {
    let server = Server::on_sqlite(&[]).await;
    let existing = "the key of another service";
    let digest = trust_auth::KeyHash::of(existing).to_hex();
    let body = json!({ "name": "St. Mary", "key_sha256": digest, "label": "old", "expires": "2d" });
    let made = post(&server, "/admin/trusts", &body).await.json();
    let row = &made["trust"]["keys"][0];
    assert!(row["label"] == "old" && row["expires_at"].is_string(), "{made}");
    assert!(row["last_four"].is_null() && made["api_key"].is_null(), "{made}");
    let path = format!("/admin/trusts/{}", made["trust"]["id"].as_str().unwrap());

    let another = "another key of that service";
    let digest = trust_auth::KeyHash::of(another).to_hex();
    let body = json!({ "key_sha256": digest, "label": "second", "expires": "90d" });
    let added = post(&server, &format!("{path}/keys"), &body).await;
    assert_eq!((added.status, &added.json()["key"]["label"]), (201, &json!("second")));
    assert!(added.json()["key"]["expires_at"].is_string(), "{added:?}");
    let granted = async |keys: [&str; 3]| {
        let mut statuses = [0; 3];
        for (at, key) in keys.into_iter().enumerate() {
            statuses[at] = status(&server, key).await;
        }
        statuses
    };

    let rotate = format!("{path}/rotate");
    let body = json!({ "overlap": "24h", "label": "new", "expires": "90d" });
    let rotated = post(&server, &rotate, &body).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let new = rotated.json()["api_key"].as_str().unwrap().to_owned();
    assert_eq!(granted([existing, another, &new]).await, [200, 200, 200]);
    let end = |label: &str| {
        let keys = rotated.json()["trust"]["keys"].clone();
        let row = keys.as_array().unwrap().iter().find(|row| row["label"] == label).cloned();
        let end = row.unwrap()["expires_at"].as_str().unwrap().to_owned();
        OffsetDateTime::parse(&end, &Rfc3339).unwrap() - OffsetDateTime::now_utc()
    };
    let days = |days| time::Duration::days(days);
    for label in ["old", "second"] {
        assert!(end(label) <= days(1) && end(label) > days(1) / 2, "{label}: {rotated:?}");
    }
    assert!(end("new") > days(89), "{rotated:?}");

    // Without terms: every other key is refused at once.
    assert_eq!(post(&server, &rotate, &Value::Null).await.status, 200);
    assert_eq!(granted([existing, another, &new]).await, [401, 401, 401]);
    let bearer = format!("Bearer {ADMIN_KEY}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    assert_eq!(ask(server.admin, "POST", &rotate, &headers, "null").await.status, 200);
}

#[tokio::test]
async fn bad_requests_about_keys_get_a_typed_error_and_change_nothing() {
    let server = Server::on_sqlite(&[]).await;
    let trust = server.register("St. Mary").await;
    let keys = format!("/admin/trusts/{}/keys", trust.id);
    let rotate = format!("/admin/trusts/{}/rotate", trust.id);
    let taken = trust_auth::KeyHash::of(&trust.key).to_hex();
    let key = "k".repeat(43);
    for (path, body, status, kind) in [
        (&*keys, json!({ "expires": "0s" }), 422, "malformed"),
        (&keys, json!({ "expires": 90 }), 422, "malformed"),
        (&keys, json!({ "expires": "1000years" }), 422, "malformed"),
        (&keys, json!({ "label": "" }), 422, "malformed"),
        (&keys, json!({ "label": key }), 422, "malformed"),
        (&keys, json!({ "colour": "red" }), 422, "malformed"),
        (&keys, json!({ "key_sha256": taken }), 409, "key_taken"),
        ("/admin/trusts/unknown/keys", json!({}), 404, "no_such_trust"),
        ("/admin/keys/00000000-0000-0000-0000-000000000000/revoke", json!({}), 404, "no_such_key"),
        ("/admin/keys/kkkkkkkk/revoke", json!({}), 400, "malformed"),
        (&rotate, json!({ "overlap": "soon" }), 422, "malformed"),
        (&rotate, json!({ "overlap": "0s" }), 422, "malformed"),
        ("/admin/trusts", json!({ "name": "a", "attributes": [1] }), 422, "malformed"),
        ("/admin/trusts", json!({ "name": "a", "attributes": { "a": key } }), 422, "malformed"),
    ] {
        let answer = post(&server, path, &body).await;
        assert_eq!((answer.status, &*answer.kind()), (status, kind), "{path} {body}: {answer:?}");
        assert!(!answer.body.contains("kkkkkkkk"), "{answer:?}");
        // The message is about this request.
        let named = match path {
            _ if kind != "malformed" => "",
            "/admin/trusts" => "attributes",
            "/admin/keys/kkkkkkkk/revoke" => "the id of a key",
            _ if path == rotate => "overlap",
            _ => "label",
        };
        assert!(answer.body.contains(named), "{path} {body}: {answer:?}");
    }
    assert_eq!(status(&server, &trust.key).await, 200);
    let listed = server.administer("GET", &keys, &Value::Null).await.json();
    assert_eq!(listed, json!({ "has_key_in_trust": true, "keys": [] }));
}

/// What the clients of a rotation have seen.
#[derive(Default)]
struct Ledger {
    granted_old: AtomicUsize,
    granted_new: AtomicUsize,
    over: AtomicBool,
}

/// A client that switches to the new key at some moment after the rotation. It ends when a request
/// with the old key is refused, and returns the time of the answer.
async fn client(
    server: std::net::SocketAddr,
    old: String,
    mut new: watch::Receiver<Option<String>>,
    switches_after: Duration,
    ledger: Arc<Ledger>,
) -> Option<OffsetDateTime> {
    let mut client = Client::new(server);
    let (mut key, mut is_new, mut rotated) = (old, false, None);
    // Relaxed: counts, and a flag that only ends the test.
    while !ledger.over.load(Ordering::Relaxed) {
        if !is_new && let Some(found) = new.borrow_and_update().clone() {
            let since = rotated.get_or_insert_with(std::time::Instant::now);
            if since.elapsed() >= switches_after {
                (key, is_new) = (found, true);
            }
        }
        let answer = client.verify(&key).await.unwrap();
        if !is_new && answer.status == 401 {
            return Some(OffsetDateTime::now_utc());
        }
        assert_eq!(answer.status, 200, "new: {is_new}, {answer:?}");
        let count = if is_new { &ledger.granted_new } else { &ledger.granted_old };
        count.fetch_add(1, Ordering::Relaxed);
    }
    None
}

/// A process that holds the key refuses it earlier by the time that the read of its row took.
const EARLY: Duration = Duration::from_millis(500);

/// A client that asks with the old key without a pause, so that the key is cached or held when it
/// ends. Each request that begins at the end or later is refused, and each that is answered well
/// before the end is granted. Returns how many were either.
async fn client_that_does_not_switch(
    server: std::net::SocketAddr,
    old: String,
    end: OffsetDateTime,
) -> (u32, u32) {
    let mut client = Client::new(server);
    let (mut granted, mut refused) = (0, 0);
    while refused < 50 {
        let begun = OffsetDateTime::now_utc();
        let answer = client.verify(&old).await.unwrap();
        let answered = OffsetDateTime::now_utc();
        if begun >= end {
            assert_eq!(answer.status, 401, "begun {} after the end", begun - end);
            refused += 1;
        } else if answered + EARLY < end {
            assert_eq!(answer.status, 200, "answered {} before the end", end - answered);
            granted += 1;
        }
    }
    (granted, refused)
}

/// Rotates by the command line under load, with two processes on one database. Returns whether the
/// machine was fast enough for the overlap.
async fn rotate_under_load(database: &Path, arguments: &[&str], overlap: Duration) -> bool {
    // A database that is slow for a while must not be one that fails.
    let patient = ["--query-timeout", "60s", "--request-timeout", "60s", "--drain-timeout", "61s"];
    let arguments = &[arguments, &patient].concat()[..];
    let services = [Server::on(database, arguments).await, Server::on(database, arguments).await];
    let trust = services[0].register("St. Mary").await;
    for service in &services {
        assert_eq!(status(service, &trust.key).await, 200);
    }
    let ledger = Arc::new(Ledger::default());
    let (tell, new) = watch::channel(None);
    let clients: Vec<_> = (0..6_u32)
        .map(|number| {
            let address = services[number as usize % 2].main;
            let (ledger, new) = (Arc::clone(&ledger), new.clone());
            let after = SWITCHING / 6 * number;
            tokio::spawn(client(address, trust.key.clone(), new, after, ledger))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;

    let overlap = format!("{}s", overlap.as_secs());
    let mut rotate = command(Path::new("/"));
    rotate.arg("--database").arg(database);
    rotate.args(["--json", "rotate", &trust.id, "--overlap", &overlap]);
    let output = tokio::task::spawn_blocking(move || rotate.output().unwrap()).await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{answer} {output:?}");
    tell.send(Some(answer["api_key"].as_str().unwrap().to_owned())).unwrap();
    let end = answer["trust"]["keys"][0]["expires_at"].as_str().unwrap();
    let end = OffsetDateTime::parse(end, &Rfc3339).unwrap();

    tokio::time::sleep(SWITCHING + SWITCHING / 2).await;
    ledger.over.store(true, Ordering::Relaxed);
    let mut was_in_time = true;
    for client in clients {
        if let Some(refused) = client.await.unwrap() {
            assert!(refused >= end, "{arguments:?}: refused {} before the end", end - refused);
            was_in_time = false;
        }
    }
    if !was_in_time || OffsetDateTime::now_utc() + SWITCHING >= end {
        return false;
    }
    for count in [&ledger.granted_old, &ledger.granted_new] {
        assert!(count.load(Ordering::Relaxed) > 0);
    }
    let beyond = services.each_ref().map(|service| {
        tokio::spawn(client_that_does_not_switch(service.main, trust.key.clone(), end))
    });
    for (client, service) in beyond.into_iter().zip(&services) {
        let (granted, refused) = client.await.unwrap();
        assert!(granted > 0 && refused > 0, "{arguments:?}: {granted} {refused} {}", service.log());
    }
    for service in services {
        service.stop().await;
    }
    true
}

/// Tries the overlaps, each on a new database.
async fn with_some_overlap(attempt: impl AsyncFn(Duration) -> bool) {
    for overlap in OVERLAPS {
        if attempt(overlap).await {
            return;
        }
    }
    panic!("the machine is too slow for each overlap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_with_an_overlap_refuses_no_request_of_a_client_that_switches_on_sqlite() {
    for lease in [&[][..], &["--read-lease", "1s"]] {
        with_some_overlap(async |overlap| {
            let folder = tempfile::tempdir().unwrap();
            rotate_under_load(&folder.path().join("trusts.db"), lease, overlap).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_with_an_overlap_refuses_no_request_of_a_client_that_switches_on_postgresql() {
    let Some(database) = PostgresServer::shared() else { return };
    for lease in [&["--migrate"][..], &["--migrate", "--read-lease", "2s"]] {
        with_some_overlap(async |overlap| {
            rotate_under_load(Path::new(&database.new_database()), lease, overlap).await
        })
        .await;
    }
}
