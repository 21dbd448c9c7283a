//! The FastAPI application of `applications/`, run by uvicorn, and a real service.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Answer, ask, converse};
use crate::programs::{Program, find, free_port};
use crate::server::{PATIENCE, Server};

/// The application, which asks the service at an address.
struct Application {
    address: SocketAddr,
    program: Program,
    _folder: tempfile::TempDir,
}

impl Application {
    /// Starts the application. Returns `None`, and reports it, if uvicorn is missing.
    fn start(service: SocketAddr) -> Option<Self> {
        let mut command = Command::new(find("uvicorn")?);
        let (folder, address) = (tempfile::tempdir().unwrap(), free_port());
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("applications");
        command
            .args(["fastapi_app:app", "--host", "127.0.0.1", "--port", &address.port().to_string()])
            .arg("--app-dir")
            .arg(sources)
            .current_dir(folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TRUST_AUTH_URL", format!("http://{service}"));
        let program = Program::start(command, folder.path(), address);
        Some(Self { address, program, _folder: folder })
    }

    async fn ask(&self, keys: &[&str]) -> Answer {
        let headers: Vec<_> = keys.iter().map(|key| ("X-Api-Key", *key)).collect();
        ask(self.address, "GET", "/orders/7", &headers, "").await
    }

    /// Asserts that the request is refused because there is no answer of the service.
    async fn assert_unavailable(&self, key: &str) {
        let refused = self.ask(&[key]).await;
        assert_eq!(refused.status, 503, "{refused:?}; {}", self.program.errors());
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("www-authenticate"), None);
        assert_eq!(refused.json(), unavailable());
    }
}

fn unavailable() -> Value {
    json!({ "detail": "Authentication is unavailable; try again." })
}

/// Passes connections on to an address, and counts them.
async fn counted(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            // Relaxed: the answer on the connection orders this before the load.
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let Ok(mut to) = TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (address, accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_grants_what_the_service_grants_and_passes_its_refusals_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let server = Server::on(&file, &[]).await;
    let (address, connections) = counted(server.main).await;
    let Some(application) = Application::start(address) else { return };
    let (trust, revoked) = (server.register("St. Märy").await, server.register("Revoked").await);

    let granted = json!({ "order": "7", "id": trust.id, "name": "St. Märy" });
    for _ in 0..20 {
        let answer = application.ask(&[&trust.key]).await;
        assert_eq!(answer.status, 200, "{answer:?}; {}", application.program.errors());
        assert_eq!(answer.json(), granted);
    }
    for (keys, detail) in [
        (&[][..], "Not authenticated: API key is missing."),
        (&[""], "Not authenticated: API key is missing."),
        (&["unknown"], "Invalid API Key."),
        (&[&trust.key, &trust.key], "Invalid API Key."),
    ] {
        let refused = application.ask(keys).await;
        assert_eq!(refused.status, 401, "{keys:?}: {refused:?}; {}", application.program.errors());
        assert_eq!(refused.header("www-authenticate"), Some("ApiKey"));
        assert_eq!(refused.json(), json!({ "detail": detail }));
    }
    // Bytes that are no ASCII reach the service as they are.
    let request =
        "GET /orders/7 HTTP/1.1\r\nHost: a\r\nX-Api-Key: \u{fc}\r\nConnection: close\r\n\r\n";
    let refused = converse(application.address, request.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");

    assert_eq!(application.ask(&[&revoked.key]).await.status, 200);
    server.delete(&revoked).await;
    assert_eq!(application.ask(&[&revoked.key]).await.status, 401);
    // Relaxed: the answers order the additions before this load.
    assert_eq!(connections.load(Ordering::Relaxed), 1, "each request used one connection");

    // The service answers that the database failed.
    std::fs::remove_file(&file).unwrap();
    let begun = Instant::now();
    let refused = loop {
        let answer = application.ask(&[&trust.key]).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(refused.json(), unavailable());
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_refuses_while_the_service_is_stopped_and_once_it_is_killed() {
    let server = Server::on_sqlite(&[]).await;
    let Some(application) = Application::start(server.main) else { return };
    let trust = server.register("St. Mary").await;
    assert_eq!(application.ask(&[&trust.key]).await.status, 200);

    server.signal("STOP");
    application.assert_unavailable(&trust.key).await;
    server.signal("CONT");
    let begun = Instant::now();
    while application.ask(&[&trust.key]).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", application.program.errors());
    }

    server.signal("KILL");
    application.assert_unavailable(&trust.key).await;
    drop(server);
    application.assert_unavailable(&trust.key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_grants_no_answer_that_names_no_trust() {
    // Another service at the address: the key is the status that it answers with.
    let other = async |headers: HeaderMap| {
        let status = headers["x-api-key"].to_str().unwrap().parse().unwrap();
        (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")], "[]")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        async move { axum::serve(listener, Router::new().fallback(other)).await.unwrap() },
    );
    let Some(application) = Application::start(address) else { return };
    for status in ["200", "204", "302", "401", "403", "404", "500", "503"] {
        application.assert_unavailable(status).await;
    }
}
