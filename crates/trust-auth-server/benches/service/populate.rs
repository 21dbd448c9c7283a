//! A database with trusts in it.

use std::path::Path;

use tokio::runtime::{Builder, Runtime};
use trust_auth::{KeyHash, NewTrust, PostgresStore, SqliteStore, TrustLedger};
use uuid::Uuid;

/// Returns the key of trust number `number`.
pub(crate) fn key(number: usize) -> String {
    format!("the-key-of-trust-{number}")
}

/// Writes this number of trusts, and returns the id of the last one.
pub(crate) fn populate(file: &Path, trusts: usize) -> Uuid {
    runtime().block_on(async {
        let options = SqliteStore::options(file).create_if_missing(true).durable(false);
        let store = options.connect().await.unwrap();
        let id = insert(&store, trusts).await;
        store.close().await;
        id
    })
}

/// Does the same in a database of PostgreSQL.
pub(crate) async fn populate_postgres(url: &str, trusts: usize) {
    let options = PostgresStore::options(url).create_if_missing(true);
    let store = options.connect().await.unwrap();
    insert(&store, trusts).await;
    store.close().await;
}

async fn insert(store: &impl TrustLedger, trusts: usize) -> Uuid {
    let mut id = Uuid::nil();
    for number in 0..trusts {
        let new = NewTrust::new(format!("Trust {number}")).unwrap();
        id = store.insert(new, KeyHash::of(key(number))).await.unwrap().id;
    }
    id
}

/// Returns a runtime for asynchronous steps that are not measured.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
