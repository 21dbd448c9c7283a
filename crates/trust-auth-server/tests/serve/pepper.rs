//! A service with a pepper: rotation over one database, the admin API, and what is written down.
//! And a service that finds keys by an index, which should have one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use trust_auth::{KeyHash, KeyHasher, Pepper};

use crate::client::ask;
use crate::postgres_server::PostgresServer;
use crate::server::{Server, has_read_lease};

const A: &str = "the pepper A, of 32 bytes or more";
const B: &str = "the pepper B, of 32 bytes or more";

/// A database, and files with the peppers A and B.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, pepper) in [("a", A), ("b", B)] {
        fs::write(folder.path().join(name), format!("{pepper}\n")).unwrap();
    }
    folder
}

async fn serve(folder: &Path, peppers: &[(&str, &str)]) -> Server {
    let mut arguments = Vec::new();
    for (flag, file) in peppers {
        arguments.push((*flag).to_owned());
        if !file.is_empty() {
            arguments.push(folder.join(file).to_str().unwrap().to_owned());
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::on(folder.join("trusts.db"), &arguments).await
}

#[tokio::test]
async fn a_pepper_is_adopted_and_rotated_by_restarts_and_shown_nowhere() {
    let folder = folder();
    let path = folder.path();
    let plain_server = serve(path, &[]).await;
    let plain = plain_server.register("plain").await;
    drop(plain_server);

    let adopting = serve(path, &[("--pepper-file", "a"), ("--accept-unpeppered", "")]).await;
    let status = async |server: &Server, key: &str| server.verify(key).await.status;
    assert_eq!(status(&adopting, &plain.key).await, 200);
    let of_a = adopting.register("a").await;
    let digest = json!({ "name": "given", "key_sha256": KeyHash::of("key").to_hex() });
    assert_eq!(adopting.administer("POST", "/admin/trusts", &digest).await.status, 201);
    assert_eq!((status(&adopting, &of_a.key).await, status(&adopting, "key").await), (200, 200));
    drop(adopting);

    let both = serve(path, &[("--pepper-file", "b"), ("--former-pepper-file", "a")]).await;
    assert_eq!((status(&both, &of_a.key).await, status(&both, &plain.key).await), (200, 401));
    let of_b = both.register("b").await;
    // By the cache, too.
    for key in [&of_a.key, &of_b.key, &of_a.key, &of_b.key] {
        assert_eq!(status(&both, key).await, 200);
    }
    let digest = json!({ "name": "refused", "key_sha256": KeyHash::of("other").to_hex() });
    let refused = both.administer("POST", "/admin/trusts", &digest).await;
    assert_eq!((refused.status, &*refused.kind()), (422, "pepper"), "{refused:?}");
    let settings = both.told["serving"]["settings"].clone();
    assert_eq!(
        [&settings["pepper"], &settings["former_pepper"], &settings["accept_unpeppered"]],
        [&json!(true), &json!(true), &json!(false)]
    );
    let told = both.told.to_string();
    let log = both.stop().await;
    for (pepper, key) in [(A, &of_a.key), (B, &of_b.key)] {
        let digest = KeyHasher::peppered(Pepper::new(pepper).unwrap()).hash(key).to_hex();
        for secret in [&pepper[..12], &digest[..12]] {
            assert!(!log.contains(secret) && !told.contains(secret), "{log} {told}");
        }
    }

    let only_b = serve(path, &[("--pepper-file", "b")]).await;
    assert_eq!((status(&only_b, &of_a.key).await, status(&only_b, &of_b.key).await), (401, 200));
}

const GIVES_UP: &str = "gives up constant time";

/// On both databases, with the index that the service itself makes.
#[tokio::test]
async fn a_service_finds_keys_by_an_index_and_reads_no_other_row() {
    let folder = folder();
    let pepper = folder.path().join("a");
    let pepper = pepper.to_str().unwrap();
    let mut databases = vec![folder.path().join("trusts.db")];
    databases.extend(PostgresServer::shared().map(|server| server.new_database().into()));
    for database in databases {
        let by_index = ["--find-by", "index", "--migrate"];
        let with_pepper = [&by_index[..], &["--pepper-file", pepper]].concat();
        let server = Server::before(&database, &with_pepper);
        let ready = Instant::now();
        while ask(server.main, "GET", "/readyz", &[], "").await.status != 200 {
            assert!(ready.elapsed() < Duration::from_secs(60), "{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let trust = server.register("a").await;
        if !has_read_lease() {
            // The watcher is notified of the registration, too, and then removes the key's entry.
            server.until_metric("trust_auth_notifications_total", |heard| heard >= 1.0).await;
        }
        for _ in 0..2 {
            assert_eq!(server.verify(&trust.key).await.status, 200);
        }
        assert_eq!(server.verify("no trust has this").await.status, 401);
        if !has_read_lease() {
            assert_eq!(server.metric("trust_auth_scans_total").await, 0.0);
            let name = "trust_auth_request_seconds_count{route=\"find\"}";
            assert_eq!(server.metric(name).await, 2.0);
        }
        let state = ask(server.main, "GET", "/readyz", &[], "").await.json();
        assert_eq!(state["scan"], "unneeded", "{state}");
        server.delete(&trust).await;
        assert_eq!(server.verify(&trust.key).await.status, 401);
        let log = server.stop().await;
        assert!(!log.contains(GIVES_UP), "{log}");

        for arguments in [&[][..], &["--pepper-file", pepper, "--accept-unpeppered"]] {
            let server = Server::before(&database, &[&by_index[..], arguments].concat());
            server.until_logged(GIVES_UP).await;
        }
    }
}
