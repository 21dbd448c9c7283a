//! A service with axum 0.7, sqlx 0.8 and a table of its own, behind the layer of trust-auth, which
//! itself uses axum 0.8 and sqlx 0.9. `store.rs` is all that trust-auth needs from the service.
//!
//! ```text
//! cargo run -- accounts.db 127.0.0.1:8080
//!
//! key=$(openssl rand -hex 32)
//! hash=$(printf %s "$key" | sha256sum | cut -c -64)
//! sqlite3 accounts.db "INSERT INTO accounts (label, key_sha256) VALUES ('St. Mary', x'$hash')"
//! curl -H "X-Api-Key: $key" http://127.0.0.1:8080
//! sqlite3 accounts.db "UPDATE accounts SET revoked_at = unixepoch()"
//! ```

mod store;

use std::env;
use std::error::Error;
use std::io;
use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::net::TcpListener;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tracing_subscriber::filter::LevelFilter;
use trust_auth::{AuthLayer, Authenticator, Trust, TrustKeyCache};

use crate::store::{Accounts, account_of};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY,
    label TEXT NOT NULL,
    key_sha256 BLOB NOT NULL,
    revoked_at INTEGER -- seconds since 1970; NULL while the key is good
)";

fn router(pool: SqlitePool) -> Router {
    // The cache needs no notice of a revocation: each grant compares the key with the live row.
    let (store, cache) = (Arc::new(Accounts(pool)), Arc::new(TrustKeyCache::new()));
    let auth = AuthLayer::new(Authenticator::new(store, cache));
    // The last layer is the outermost. The inner trace has only requests that were granted. It can
    // log their headers, because the layer has marked the key as sensitive.
    let granted = DefaultMakeSpan::new().include_headers(true);
    Router::new()
        .route("/", get(greet))
        .layer(TraceLayer::new_for_http().make_span_with(granted))
        .layer(auth)
        .layer(TraceLayer::new_for_http())
}

/// The layer is in front of every route, so each request here has its `Trust`.
async fn greet(Extension(trust): Extension<Trust>) -> String {
    format!("Hello, {} (account {}).", trust.name, account_of(trust.id).unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (Some(file), Some(address)) = (env::args().nth(1), env::args().nth(2)) else {
        return Err("usage: other-stack FILE ADDRESS".into());
    };
    tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_writer(io::stderr).init();

    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
    sqlx::query(TABLE).execute(&pool).await?;

    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router(pool)).await?;
    Ok(())
}
