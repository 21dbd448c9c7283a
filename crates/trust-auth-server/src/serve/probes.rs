//! [`Probes`]: `/healthz`, whether the process answers, and `/readyz`, whether it should be sent
//! requests.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use trust_auth::{StoreError, TrustStore, Watcher};
use uuid::Uuid;

use super::drain::Drain;
use super::health::Health;
use super::scan_record::ScanRecord;
use crate::store::Store;

/// A probe wants a quick no.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the probes look at.
pub(crate) struct Probes {
    drain: Drain,
    opened: OnceLock<Opened>,
    /// Why the database is not open, as far as is known.
    cause: Mutex<StoreError>,
}

/// What there is to look at once the database is open.
pub(crate) struct Opened {
    pub(crate) store: Arc<Store>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) scans: Arc<ScanRecord>,
    pub(crate) health: Arc<Health>,
}

/// What `/readyz` says: ready, or which part is not.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// `ok`, or the kind of the store's failure.
    store: &'static str,
    /// Whether changes by other processes are heard of as they happen.
    listener_connected: bool,
    /// `ok`, `pending`, or the kind of the failure of the last scan.
    scan: &'static str,
    draining: bool,
    /// What is wrong although requests are answered as they should be: a word for each, see
    /// [`Health`].
    pub(crate) degraded: Vec<&'static str>,
}

impl Probes {
    pub(crate) fn new(drain: Drain) -> Self {
        Self { drain, opened: OnceLock::new(), cause: Mutex::new(StoreError::Unreachable) }
    }

    /// The database cannot be opened yet.
    pub(crate) fn wait_because(&self, error: &StoreError) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = error.clone();
    }

    /// Why it is not open.
    pub(crate) fn waits_because(&self) -> StoreError {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The database is open from now on.
    pub(crate) fn open(&self, opened: Opened) {
        // Once: nothing closes it but the end.
        let _ = self.opened.set(opened);
    }

    /// Looks now: one read by primary key.
    pub(crate) async fn readiness(&self) -> Readiness {
        let draining = self.drain.is_draining();
        let Some(Opened { store, watcher, scans, health }) = self.opened.get() else {
            return Readiness {
                ready: false,
                store: self.waits_because().kind(),
                listener_connected: false,
                scan: "pending",
                draining,
                degraded: Vec::new(),
            };
        };
        let store = match tokio::time::timeout(PATIENCE, store.fetch(Uuid::nil())).await {
            Ok(Ok(_)) => "ok",
            Ok(Err(error)) => error.kind(),
            Err(_) => "timeout",
        };
        let listener_connected = watcher.status().connected;
        Readiness {
            ready: store == "ok" && listener_connected && !scans.cannot_end() && !draining,
            store,
            listener_connected,
            scan: scans.word(),
            draining,
            degraded: health.degraded(),
        }
    }
}
