//! The read lease of the service: its start, its metrics, and the log of when it is lost.
//!
//! While the lease is in force, hits read nothing, and the database may be away. While it is not,
//! each request reads, as without a lease.

use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusRecorder;
use trust_auth::{HeldTrusts, LogLimit};

use crate::causes::with_causes;

/// How often the log looks at the lease.
const INTERVAL: Duration = Duration::from_millis(100);

/// Returns the name of this process for operators who wait for it: host, process and address.
pub(crate) fn holder_name(listen: SocketAddr) -> String {
    format!("{} (process {}, {listen})", host(), process::id())
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown host".to_owned())
}

/// Logs when the lease is lost, and when it is in force again. Runs until the service ends.
pub(crate) async fn log(held: Arc<HeldTrusts>) {
    let limit = LogLimit::default();
    let mut interval = tokio::time::interval(INTERVAL);
    let mut was_valid = true;
    let mut lost = Instant::now();
    loop {
        interval.tick().await;
        let is_valid = held.is_valid();
        if is_valid == was_valid {
            continue;
        }
        was_valid = is_valid;
        let status = held.status();
        if is_valid {
            tracing::info!(
                held = status.held,
                after = ?lost.elapsed(),
                "the read lease is in force again: hits read nothing"
            );
            continue;
        }
        lost = Instant::now();
        if let Some(others) = limit.try_log() {
            let error = status.error.as_deref().map(|error| with_causes(error).to_string());
            tracing::warn!(
                error,
                last_reload = ?status.last_reload,
                others,
                "the read lease has run out: each request reads the database"
            );
        }
    }
}

/// The metrics of the lease, which are copied from the holder for each rendering.
pub(crate) struct LeaseMeters {
    valid: Gauge,
    age: Gauge,
    held: Gauge,
    holders: Gauge,
    renewed: Counter,
    failed: Counter,
    reloads: Counter,
    looks: Counter,
}

impl LeaseMeters {
    pub(crate) fn new(recorder: &PrometheusRecorder) -> Self {
        metrics::with_local_recorder(recorder, || {
            describe();
            let renewals = |outcome: &'static str| {
                let name = "trust_auth_read_lease_renewals_total";
                counter!(name, "outcome" => outcome)
            };
            Self {
                valid: gauge!("trust_auth_read_lease_valid"),
                age: gauge!("trust_auth_read_lease_age_seconds"),
                held: gauge!("trust_auth_held_trusts"),
                holders: gauge!("trust_auth_read_lease_holders"),
                renewed: renewals("renewed"),
                failed: renewals("failed"),
                reloads: counter!("trust_auth_read_lease_reloads_total"),
                looks: counter!("trust_auth_looks_total"),
            }
        })
    }

    pub(crate) fn update(&self, held: &HeldTrusts) {
        let status = held.status();
        self.valid.set(f64::from(u8::from(held.is_valid())));
        if let Some(renewed) = status.renewed_at {
            self.age.set(renewed.elapsed().as_secs_f64());
        }
        self.held.set(status.held as f64);
        if let Some(holders) = status.holders {
            self.holders.set(holders as f64);
        }
        self.renewed.absolute(status.renewals);
        self.failed.absolute(status.failures);
        self.reloads.absolute(status.reloads);
        self.looks.absolute(status.looks);
    }
}

fn describe() {
    describe_gauge!(
        "trust_auth_read_lease_valid",
        "Whether hits are granted without a read: 1 or 0"
    );
    describe_gauge!(
        "trust_auth_read_lease_age_seconds",
        "How long ago the last renewal of the read lease was answered"
    );
    describe_gauge!("trust_auth_held_trusts", "Trusts that are held for the read lease");
    describe_gauge!(
        "trust_auth_read_lease_holders",
        "Processes that are registered as holders of a read lease. PostgreSQL only"
    );
    describe_counter!(
        "trust_auth_read_lease_renewals_total",
        "Renewals of the read lease by outcome: renewed; failed, with looks and connections"
    );
    describe_counter!(
        "trust_auth_read_lease_reloads_total",
        "How often all trusts were loaded again for the read lease"
    );
    describe_counter!(
        "trust_auth_looks_total",
        "Looks at the database for keys that are not held; requests share them"
    );
}
