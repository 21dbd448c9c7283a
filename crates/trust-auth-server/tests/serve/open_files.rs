//! Clients that take every file that the process may have open. If the limit can be raised, they
//! must not keep out other clients. If it cannot, the log must warn of it once.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::ask;
use crate::server::{PATIENCE, Server, in_folder};

/// The limit that the service starts with.
const FILES: usize = 64;

fn with_a_low_soft_limit(folder: &Path) -> Command {
    limited(folder, "-Sn")
}

fn with_a_low_hard_limit(folder: &Path) -> Command {
    limited(folder, "-n")
}

fn limited(folder: &Path, which: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit {which} {FILES}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_trust-auth")]);
    in_folder(command, folder)
}

async fn ready(command: fn(&Path) -> Command) -> Server {
    let server = Server::before_by(command, "trust-auth.db", &[]);
    server.until_metric("trust_auth_listener_connected", |value| value == 1.0).await;
    server
}

/// Connects more clients to the main listener than there are files. They send nothing.
fn silent_clients(server: &Server) -> Vec<TcpStream> {
    (0..2 * FILES).map(|_| TcpStream::connect(server.main).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn more_clients_than_the_soft_limit_of_open_files_do_not_keep_a_revocation_out() {
    let server = ready(with_a_low_soft_limit).await;
    let trust = server.register("Revoked").await;
    let clients = silent_clients(&server);
    let all = 2.0 * FILES as f64;
    server.until_metric("trust_auth_connections{listener=\"main\"}", |open| open >= all).await;
    let disable = format!("/admin/trusts/{}/disable", trust.id);
    let disabled = server.administer("POST", &disable, &Value::Null).await;
    assert_eq!(disabled.status, 200, "{disabled:?}; log: {}", server.log());
    assert_eq!(server.verify(&trust.key).await.status, 401);
    drop(clients);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_hard_limit_of_open_files_that_is_too_low_is_logged_once() {
    let server = ready(with_a_low_hard_limit).await;
    server.until_logged("lower --max-connections").await;
    let key = server.register("Kept").await.key;
    let clients = silent_clients(&server);
    let main_cannot_accept = || {
        let told =
            |line: &&str| line.contains("cannot accept a connection") && line.contains("\"main\"");
        server.log().lines().filter(told).count()
    };
    let begun = Instant::now();
    while main_cannot_accept() == 0 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // After ten more attempts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(main_cannot_accept(), 1, "{}", server.log());
    drop(clients);
    assert_eq!(server.verify(&key).await.status, 200, "{}", server.log());
    assert_eq!(ask(server.main, "GET", "/readyz", &[], "").await.status, 200);
    server.stop().await;
}
