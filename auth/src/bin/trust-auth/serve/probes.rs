//! [`Probes`]: `/healthz`, whether the process answers, and `/readyz`, whether it should be sent requests.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use trust_auth::{TrustStore, Watcher};
use uuid::Uuid;

use super::drain::Drain;
use super::health::Health;
use crate::store::Store;

/// A probe wants a quick no.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the probes look at.
pub(crate) struct Probes {
    store: Arc<Store>,
    watcher: Arc<Watcher>,
    drain: Drain,
    health: Arc<Health>,
}

/// What `/readyz` says: ready, or which part is not.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// `ok`, or the kind of the store's failure.
    store: &'static str,
    /// Whether changes by other processes are heard of as they happen.
    listener_connected: bool,
    draining: bool,
    /// What is wrong although requests are answered as they should be: a word for each, see [`Health`].
    pub(crate) degraded: Vec<&'static str>,
}

impl Probes {
    pub(crate) fn new(store: Arc<Store>, watcher: Arc<Watcher>, drain: Drain, health: Arc<Health>) -> Self {
        Self { store, watcher, drain, health }
    }

    /// Looks now: one read by primary key.
    pub(crate) async fn readiness(&self) -> Readiness {
        let store = match tokio::time::timeout(PATIENCE, self.store.fetch(Uuid::nil())).await {
            Ok(Ok(_)) => "ok",
            Ok(Err(error)) => error.kind(),
            Err(_) => "timeout",
        };
        let listener_connected = self.watcher.status().connected;
        let draining = self.drain.is_draining();
        Readiness {
            ready: store == "ok" && listener_connected && !draining,
            store,
            listener_connected,
            draining,
            degraded: self.health.degraded(),
        }
    }
}
