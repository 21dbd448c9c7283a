//! The start before the database: the service listens, runs and is not ready, and is ready when the
//! database is.

use serde_json::{Value, json};

use crate::client::ask;
use crate::health::until_ready;
use crate::postgres_server::PostgresServer;
use crate::server::{ADMIN_KEY, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_starts_before_its_database_waits_and_is_not_ready() {
    let Some(database) = PostgresServer::start() else { return };
    let url = database.new_database();
    database.stop();
    let server = Server::before(&url, &["--scheme", "Bearer", "--header", "Authorization"]);
    assert_eq!(ask(server.main, "GET", "/healthz", &[], "").await.status, 200);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    let expected = json!({
        "ready": false, "store": "cannot_connect", "listener_connected": false, "scan": "pending",
        "read_lease": "off",
        "draining": false,
        "degraded": []
    });
    assert_eq!((ready.status, ready.json()), (503, expected));
    let verified =
        ask(server.main, "GET", "/verify/path", &[("Authorization", "Bearer key")], "").await;
    assert_eq!((verified.status, verified.header("retry-after")), (503, Some("1")), "{verified:?}");
    assert_eq!(verified.json(), json!({ "detail": "Authentication is unavailable; try again." }));
    let administered = [
        ("Bearer wrong", (401, "unauthorized")),
        (&format!("Bearer {ADMIN_KEY}"), (503, "unreachable")),
    ];
    for (authorization, expected) in administered {
        let headers = [("Authorization", authorization)];
        for path in ["/admin/trusts", "/admin/nothing", "/elsewhere"] {
            let answer = ask(server.admin, "GET", path, &headers, "").await;
            assert_eq!((answer.status, &*answer.kind()), expected, "{path}: {answer:?}");
        }
    }
    assert_eq!(
        server.metric("trust_auth_store_failures_total{kind=\"cannot_connect\"}").await,
        1.0
    );
    let told = server.told.to_string() + &server.log();
    assert!(told.contains("waiting for it") && !told.contains("hunter"), "{told}");

    database.start_again();
    until_ready(&server, "/readyz", |answer| answer.status == 200).await;
    let trust = server.register("St. Mary").await;
    let verify = async |value: &str| {
        ask(server.main, "GET", "/verify", &[("Authorization", value)], "").await
    };
    assert_eq!(verify(&format!("Bearer {}", trust.key)).await.status, 200);
    let refused = verify("Bearer unknown").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(server.administer("GET", "/admin/nothing", &Value::Null).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_terminate_ends_a_service_that_waits_for_its_database() {
    let server = Server::before("postgres://u:hunter2@127.0.0.1:1/x", &[]);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["store"]), (503, &json!("cannot_connect")));
    let told = server.told.to_string();
    assert!(told.contains("127.0.0.1:1/x") && !told.contains("hunter2"), "{told}");
    let log = server.stop().await;
    assert!(!log.contains("hunter2"), "{log}");
}
