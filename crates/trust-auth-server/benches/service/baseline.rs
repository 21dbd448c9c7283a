//! The baselines of the throughput, in a process of its own like the service: an axum route that
//! only runs `fetch(id)`, and one that answers the headers of a grant and looks nothing up.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::any;
use trust_auth::{SqliteStore, TrustStore};
use uuid::Uuid;

/// The argument that makes this program the baseline.
pub(crate) const WORD: &str = "serve-the-baseline";

/// Prints the address, and serves until the process is killed.
pub(crate) fn serve(file: &std::path::Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // With the options of `serve`.
        let store = SqliteStore::options(file).max_connections(8).connect().await.unwrap();
        let fetch = async |State(store): State<Arc<SqliteStore>>, Path(id): Path<Uuid>| match store
            .fetch(id)
            .await
        {
            Ok(Some(_)) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let answer = async || {
            // The headers of a grant.
            [
                ("cache-control", "no-store"),
                ("x-trust-id", "00000000-0000-4000-8000-000000000000"),
                ("x-trust-name", "Trust%2099"),
            ]
        };
        let routes = Router::new()
            .route("/fetch/{id}", any(fetch))
            .route("/answer", any(answer))
            .with_state(Arc::new(store));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        axum::serve(listener, routes).await.unwrap();
    });
    ExitCode::SUCCESS
}

/// The running baseline. Dropping the value kills the process.
pub(crate) struct Baseline {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Baseline {
    pub(crate) fn on(file: &std::path::Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.arg(WORD).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
