//! An axum application whose handlers receive the trust of each request. It sends itself a few
//! requests, and ends:
//!
//! ```text
//! cargo run -p trust-auth --example axum_extractor
//! ```
//!
//! With `-- serve` at the end, it continues to serve. It prints a `curl` command first.

use std::error::Error;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trust_auth::{AuthLayer, Authenticated, NewTrust, TrustAuth};

async fn greet(Authenticated(trust): Authenticated) -> String {
    format!("Hello, {}.\n", trust.name)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A database, and a trust in it.
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}?mode=rwc", folder.path().join("trusts.db").display());
    let auth = TrustAuth::connect(&url).await?;
    let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;

    // An application adds only these two lines.
    let layer = AuthLayer::new(auth.authenticator().clone());
    let app = Router::new().route("/", get(greet)).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    println!("curl -i -H 'X-Api-Key: {}' http://{address}/", key.expose());
    if std::env::args().nth(1).is_some_and(|word| word == "serve") {
        return Ok(server.await??);
    }

    let good = ask(address, Some(key.expose())).await?;
    let none = ask(address, None).await?;
    auth.registry().delete(&trust.id.into()).await?;
    let revoked = ask(address, Some(key.expose())).await?;
    for (what, answer) in [("its key", &good), ("no key", &none), ("its key, revoked", &revoked)] {
        println!("\nWith {what}:\n{}", answer.trim_end());
    }
    server.abort();
    if good.ends_with("Hello, St. Mary.\n") && none.contains(" 401 ") && revoked.contains(" 401 ") {
        return Ok(());
    }
    Err("the answers differ from the expected ones".into())
}

/// Sends one request, as another program would.
async fn ask(address: std::net::SocketAddr, key: Option<&str>) -> Result<String, Box<dyn Error>> {
    let mut connection = TcpStream::connect(address).await?;
    let header = key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
