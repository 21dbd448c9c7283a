//! PgBouncer between the service and PostgreSQL. The service refuses to work if PgBouncer delivers
//! no notifications.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::postgres_server::{PASSWORD, PostgresServer};
use crate::programs::{self, Program};
use crate::server::{PATIENCE, Server, command, has_read_lease};

/// A running PgBouncer, and the folder with its configuration.
struct Pooler {
    _program: Program,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Pooler {
    /// Starts PgBouncer. Returns `None`, and reports it, if PgBouncer is not installed.
    fn before(server: &PostgresServer, mode: &str) -> Option<Self> {
        let program = programs::find("pgbouncer")?;
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        // If this process is root, PgBouncer and PostgreSQL run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = programs::free_port();
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres password={PASSWORD}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits\nmax_client_conn = 100\n\
             default_pool_size = 20\n",
            server.port(),
            address.port(),
        );
        fs::write(&configuration, text).unwrap();
        let mut command = server.command(program);
        command.arg(&configuration);
        let program = Program::start(command, folder.path(), address);
        Some(Self { _program: program, _folder: folder, address })
    }

    fn url(&self, url: &str, server: &PostgresServer) -> String {
        url.replace(&server.port().to_string(), &self.address.port().to_string())
    }
}

#[test]
fn a_service_behind_a_pooler_that_delivers_no_notifications_does_not_start_and_names_the_pooler() {
    let Some(server) = PostgresServer::shared() else { return };
    for mode in ["transaction", "statement"] {
        let Some(pooler) = Pooler::before(server, mode) else { return };
        let url = server.new_database();
        // The table exists: a direct connection to PostgreSQL created it.
        let folder = tempfile::tempdir().unwrap();
        let made = command(folder.path())
            .args(["--database", &url, "register", "--name", "a"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        for _ in 0..2 {
            let mut service = command(folder.path());
            service.args(["--database", &pooler.url(&url, server), "serve"]);
            service.args(["--listen", "127.0.0.1:0", "--admin-listen", "off"]);
            let output = service.output().unwrap();
            let error = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(1), "{mode}: {error}");
            assert!(
                error.contains("PgBouncer") && error.contains("session mode"),
                "{mode}: {error}"
            );
            assert!(!error.contains(PASSWORD), "{mode}: {error}");
        }
    }
}

#[tokio::test]
async fn a_service_behind_a_pooler_in_session_mode_is_notified_of_changes() {
    let Some(server) = PostgresServer::shared() else { return };
    let Some(pooler) = Pooler::before(server, "session") else { return };
    let url = server.new_database();
    let service = Server::on(pooler.url(&url, server), &[]).await;
    let trust = service.register("a").await;
    let evicted = "trust_auth_evictions_total{cause=\"notification\"}";
    service.until_metric(evicted, |evicted| evicted >= 1.0).await;
    assert_eq!(service.verify(&trust.key).await.status, 200);
    server.psql(&url, "DELETE FROM trust");
    service.until_metric(evicted, |evicted| evicted >= 2.0).await;
    assert_eq!(service.verify(&trust.key).await.status, 401);
    // Canaries arrive again and again.
    let begun = Instant::now();
    let canaries = if has_read_lease() { 1.0 } else { 3.0 };
    service
        .until_metric("trust_auth_listener_canaries_total{outcome=\"heard\"}", |heard| {
            heard >= canaries
        })
        .await;
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(service.metric("trust_auth_listener_failures_total").await, 0.0);
}
