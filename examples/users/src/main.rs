//! A service whose users are a table of its own, in its own pool, with scopes and with keys of its
//! own form. `app.rs` is all that it needs to authenticate them. `ledger.rs` lets a registry change
//! the table, and `watch.rs` keeps the cache in step with other processes.
//!
//! ```text
//! cargo run -p users -- users.db serve 127.0.0.1:8080 &
//!
//! key=$(cargo run -p users -- users.db register mary@example.org pro orders:read)
//! curl -H "X-Api-Key: $key" http://127.0.0.1:8080/orders
//! cargo run -p users -- users.db disable mary@example.org
//! ```

mod app;
mod ledger;
mod stats;
mod watch;

use std::env;
use std::error::Error;
use std::io;
use std::process::ExitCode;

use serde_json::json;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::net::TcpListener;
use trust_auth::{InvalidName, NewTrust};

const USAGE: &str = "usage: users FILE COMMAND, where COMMAND is one of
  serve ADDRESS
  register EMAIL PLAN SCOPE...  (prints the key)
  import EMAIL PLAN SCOPE...    (reads a key that exists)
  rotate EMAIL
  disable EMAIL
  enable EMAIL
  delete EMAIL
  list";

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

async fn run() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [file, command @ ..] = &words[..] else { return Err(USAGE.into()) };
    let auth = app::auth(open(file).await?)?;
    let registry = auth.registry();
    match *command {
        ["serve", address] => {
            let listener = TcpListener::bind(address).await?;
            println!("listening on {}", listener.local_addr()?);
            axum::serve(listener, app::router(auth)).await?;
        }
        ["register", email, plan, ref scopes @ ..] => {
            println!("{}", registry.register(user(email, plan, scopes)?).await?.1.expose());
        }
        ["import", email, plan, ref scopes @ ..] => {
            let key = io::read_to_string(io::stdin())?;
            registry.import_key(user(email, plan, scopes)?, key.trim()).await?;
        }
        ["rotate", email] => println!("{}", registry.rotate(&email.into()).await?.1.expose()),
        ["disable", email] => drop(registry.disable(&email.into()).await?),
        ["enable", email] => drop(registry.enable(&email.into()).await?),
        ["delete", email] => drop(registry.delete(&email.into()).await?),
        ["list"] => println!("{:#}", json!(registry.list().await?)),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn user(email: &str, plan: &str, scopes: &[&str]) -> Result<NewTrust, InvalidName> {
    Ok(NewTrust::new(email)?.with_attributes(json!({ "plan": plan, "scopes": scopes })))
}

/// Opens the service's own pool.
async fn open(file: &str) -> sqlx::Result<SqlitePool> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pool).await?;
    Ok(pool)
}
