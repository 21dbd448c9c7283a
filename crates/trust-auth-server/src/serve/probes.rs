//! [`ReadinessProbes`]: whether the service is ready for requests (`/readyz`).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use trust_auth::{HeldTrusts, StoreError, TrustStore, Watcher};
use utoipa::ToSchema;
use uuid::Uuid;

use super::drain::Drain;
use super::health::Health;
use super::scan_record::ScanRecord;
use crate::store::Store;

/// How long a probe waits for the database.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The parts that the probes check.
pub(crate) struct ReadinessProbes {
    drain: Drain,
    opened: OnceLock<OpenedParts>,
    /// The last failure to open the database.
    open_error: Mutex<StoreError>,
}

/// The parts that exist once the database is open.
pub(crate) struct OpenedParts {
    pub(crate) store: Arc<Store>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) scans: Arc<ScanRecord>,
    pub(crate) held: Option<Arc<HeldTrusts>>,
    pub(crate) health: Arc<Health>,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(description = "Whether the service is ready, and why not.")]
pub(crate) struct Readiness {
    /// Whether to send requests to the service.
    pub(crate) ready: bool,
    /// `ok`, or the kind of the failure of the store.
    store: &'static str,
    /// Whether changes by other processes are received as they happen.
    listener_connected: bool,
    /// `ok`, `pending`, or the kind of the failure of the last scan.
    scan: &'static str,
    /// `off`; `valid`, while hits read nothing; `lost`, while each request reads.
    read_lease: &'static str,
    /// Whether the service is ending.
    draining: bool,
    /// One word for each fault under which requests are still answered correctly.
    pub(crate) degraded: Vec<&'static str>,
}

impl ReadinessProbes {
    pub(crate) fn new(drain: Drain) -> Self {
        Self { drain, opened: OnceLock::new(), open_error: Mutex::new(StoreError::Unreachable) }
    }

    /// Records why the database could not be opened.
    pub(crate) fn set_open_error(&self, error: &StoreError) {
        *self.open_error.lock().unwrap_or_else(PoisonError::into_inner) = error.clone();
    }

    /// Returns why the database is not open.
    pub(crate) fn open_error(&self) -> StoreError {
        self.open_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks these parts from now on, because the database is open.
    pub(crate) fn set_opened(&self, opened: OpenedParts) {
        // Called once: the database stays open until the service ends.
        let _ = self.opened.set(opened);
    }

    /// Checks all parts. Reads one row by its primary key.
    pub(crate) async fn readiness(&self) -> Readiness {
        let draining = self.drain.is_draining();
        let Some(OpenedParts { store, watcher, scans, held, health }) = self.opened.get() else {
            return Readiness {
                ready: false,
                store: self.open_error().kind(),
                listener_connected: false,
                scan: "pending",
                read_lease: "off",
                draining,
                degraded: Vec::new(),
            };
        };
        let store = match tokio::time::timeout(READ_LIMIT, store.fetch(Uuid::nil())).await {
            Ok(Ok(_)) => "ok",
            Ok(Err(error)) => error.kind(),
            Err(_) => "timeout",
        };
        let listener_connected = watcher.status().connected;
        let read_lease = match held {
            None => "off",
            Some(held) if held.is_valid() => "valid",
            Some(_) => "lost",
        };
        // Held keys are granted while the database is away. If each server were taken out of the
        // proxy's list then, no client could authenticate.
        let reads = store == "ok" && listener_connected && !scans.is_failing();
        Readiness {
            ready: (reads || read_lease == "valid") && !draining,
            store,
            listener_connected,
            scan: scans.state(),
            read_lease,
            draining,
            degraded: health.degraded(),
        }
    }
}
