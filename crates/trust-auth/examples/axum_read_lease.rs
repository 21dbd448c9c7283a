//! An axum application that grants from memory, under a read lease. A revocation is still final in
//! every process when it returns. It sends itself a few requests, and ends:
//!
//! ```text
//! cargo run -p trust-auth --all-features --example axum_read_lease
//! DATABASE_URL=postgres://app@db.example/app cargo run -p trust-auth ... -- serve
//! ```
//!
//! Without `DATABASE_URL` it makes a SQLite file. With `-- serve` at the end, it continues to serve
//! until Ctrl-C.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trust_auth::{
    AnyStore, AuthLayer, Authenticated, NewTrust, PgChanges, PostgresStore, SqliteStore, TrustAuth,
    TrustRef,
};

/// A store of either database.
type Auth = TrustAuth<AnyStore>;

/// How often the watcher tests its connection: the cache is a fallback under the lease.
const WATCH: Duration = Duration::from_secs(120);

async fn greet(Authenticated(trust): Authenticated) -> String {
    format!("Hello, {}.\n", trust.name)
}

/// Makes the tables, and on PostgreSQL those of the lease. A service whose role may not create runs
/// this once, with the role of the tables' owner, and grants its own role the rights that
/// `PgChanges::run_migration` names.
async fn migrated(url: &str) -> Result<AnyStore, Box<dyn Error>> {
    if PostgresStore::recognizes(url) {
        let options = PostgresStore::options(url).create_if_missing(true);
        let store = options.clone().connect().await?;
        PgChanges::trusts(options).run_migration().await?;
        return Ok(store.into());
    }
    Ok(SqliteStore::options(url).create_if_missing(true).connect().await?.into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trusts.db").display().to_string();
    let store = migrated(&std::env::var("DATABASE_URL").unwrap_or(file)).await?;

    // How long a revocation waits if a process does not answer, or after a start of the server. On
    // SQLite each one waits so long.
    let length = match &store {
        AnyStore::Postgres(_) => Duration::from_secs(10),
        _ => Duration::from_millis(300),
    };
    // Operators see this name if a revocation waits for the process.
    let name = format!("axum_read_lease (process {})", std::process::id());
    let held = Arc::new(store.hold(&name, length).await?);
    let lease = Arc::clone(&held);
    let auth = TrustAuth::builder(store)
        .watch_every(WATCH)
        .authenticator(|limits| limits.read_lease(lease))
        .build();

    let layer = AuthLayer::new(auth.authenticator().clone());
    let app = Router::new().route("/", get(greet)).route_layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        stopped.await.ok();
    });
    let server = tokio::spawn(server.into_future());

    let trust = NewTrust::new(format!("St. Mary {}", uuid::Uuid::new_v4()))?;
    let (trust, key) = auth.registry().register(trust).await?;
    println!("curl -i -H 'X-Api-Key: {}' http://{address}/", key.expose());
    let outcome = if std::env::args().nth(1).is_some_and(|word| word == "serve") {
        tokio::signal::ctrl_c().await.map_err(Into::into)
    } else {
        check(&auth, address, key.expose(), &trust.id.into()).await
    };

    // In this order: the last requests are answered, then the lease is given up and the next
    // revocation does not wait for this process, then the connections are closed.
    stop.send(()).ok();
    server.await??;
    held.close().await;
    auth.store().close().await;
    outcome
}

/// Asks with a key, with none, and with the key once it is revoked.
async fn check(
    auth: &Auth,
    address: SocketAddr,
    key: &str,
    trust: &TrustRef,
) -> Result<(), Box<dyn Error>> {
    let good = ask(address, Some(key)).await?;
    let none = ask(address, None).await?;
    let before = Instant::now();
    auth.registry().delete(trust).await?;
    println!("\nNo process grants the key after {:?}.", before.elapsed());
    let revoked = ask(address, Some(key)).await?;
    for (what, answer) in [("its key", &good), ("no key", &none), ("its key, revoked", &revoked)] {
        println!("\nWith {what}:\n{}", answer.trim_end());
    }
    let stats = auth.authenticator().stats();
    println!("\nGranted without a read, or by one look: {}", stats.held + stats.looks);
    if good.contains("Hello, St. Mary") && none.contains(" 401 ") && revoked.contains(" 401 ") {
        return Ok(());
    }
    Err("the answers differ from the expected ones".into())
}

/// Sends one request, as another program would.
async fn ask(address: SocketAddr, key: Option<&str>) -> Result<String, Box<dyn Error>> {
    let mut connection = TcpStream::connect(address).await?;
    let header = key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
