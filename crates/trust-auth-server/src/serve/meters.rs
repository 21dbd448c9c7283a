//! [`Meters`]: the metrics of `/metrics`, in the text format of Prometheus.
//!
//! No label ever names a trust or a key. Each label has a few values, which are known at the start
//! of the service. `docs/operating.md` explains each metric.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use trust_auth::{Authenticator, HeldTrusts, Route, Stats, StoreError, Watcher};
use trust_key_cache::TrustKeyCache;

use super::health::Health;
use super::log_queue::LogQueue;
use super::metered_store::MeteredStore;
use super::read_lease::LeaseMeters;
use crate::revocation_end::RevocationEnd;

/// The upper bounds of the latency buckets, in seconds: from a cached key on SQLite to the longest
/// useful time-out.
const BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The interval at which latency samples are put into their buckets. Until then each sample takes
/// up memory.
const UPKEEP: Duration = Duration::from_secs(1);

/// All metrics of the service.
pub(crate) struct Meters {
    recorder: PrometheusRecorder,
    rendered: PrometheusHandle,
    sources: OnceLock<(Sources, SourceMeters)>,
    log: LogQueue,
    latency: LatencyHistograms,
    copied: Copied,
    /// Requests that were refused before the database was open, by the kind of its failure. The
    /// authenticator counts all other requests.
    refused_before_open: Mutex<BTreeMap<&'static str, u64>>,
}

/// The metrics that only some services have, and that are known once the database is open.
struct SourceMeters {
    impairments: Vec<Gauge>,
    lease: Option<LeaseMeters>,
}

/// The parts that count by themselves, once the database is open.
pub(crate) struct Sources {
    pub(crate) authenticator: Authenticator<MeteredStore>,
    pub(crate) store: Arc<MeteredStore>,
    pub(crate) cache: Arc<TrustKeyCache>,
    pub(crate) held: Option<Arc<HeldTrusts>>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) health: Arc<Health>,
}

/// The durations of answers of `/verify`, by [`Route`].
struct LatencyHistograms {
    unread: Histogram,
    hit: Histogram,
    stale_hit: Histogram,
    scan: Histogram,
    find: Histogram,
    held: Histogram,
    look: Histogram,
}

/// The metrics whose values are copied from the [`Sources`] for each rendering.
struct Copied {
    granted: Counter,
    missing: Counter,
    invalid: Counter,
    unavailable: Counter,
    overloaded: Counter,
    hits: Counter,
    stale_hits: Counter,
    held: Counter,
    scans: Counter,
    rows_swept: Counter,
    waiting: Gauge,
    scans_under_way: Gauge,
    most_scans_under_way: Gauge,
    scans_failing: Gauge,
    evicted_notification: Counter,
    evicted_connected: Counter,
    evicted_malformed: Counter,
    evicted_truncation: Counter,
    evicted_triggers: Counter,
    notifications: Counter,
    listener_connected: Gauge,
    listener_failures: Counter,
    canaries_heard: Counter,
    canaries_missed: Counter,
    cache_entries: Gauge,
    log_lines_dropped: Counter,
}

impl Meters {
    pub(crate) fn new(log: LogQueue) -> Self {
        // The only possible error is an empty list of buckets.
        let builder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let rendered = recorder.handle();
        let (latency, copied) = metrics::with_local_recorder(&recorder, || {
            describe();
            gauge!("trust_auth_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            // Begin at 0, so that a rate includes the first failure. The other kinds do not concern
            // the health of the database.
            for kind in ["busy", "timeout", "unreachable"] {
                store_failures(kind).absolute(0);
            }
            admin_requests("none", "unauthorized").absolute(0);
            for outcome in RevocationEnd::OUTCOMES {
                // Registers the histogram.
                let _ = revocation_seconds(outcome);
            }
            (LatencyHistograms::new(), Copied::new())
        });
        let (sources, refused_before_open) = (OnceLock::new(), Mutex::default());
        Self { recorder, rendered, sources, log, latency, copied, refused_before_open }
    }

    /// Copies the values of these parts from now on.
    pub(crate) fn set_sources(&self, sources: Sources) {
        metrics::with_local_recorder(&self.recorder, || {
            gauge!("trust_auth_cache_capacity").set(sources.cache.capacity() as f64);
        });
        let meters = SourceMeters {
            impairments: sources.health.gauges(&self.recorder),
            lease: sources.held.as_ref().map(|_| LeaseMeters::new(&self.recorder)),
        };
        // Called once: the service opens one database.
        let _ = self.sources.set((sources, meters));
    }

    /// Returns the histogram of the durations of scans.
    pub(crate) fn scan_seconds(&self) -> Histogram {
        metrics::with_local_recorder(&self.recorder, || histogram!("trust_auth_scan_seconds"))
    }

    /// Records how long an answer of `/verify` took. The authenticator counts its outcome.
    pub(crate) fn record_latency(&self, route: Route, begun: Instant) {
        let latency = match route {
            Route::Unread => &self.latency.unread,
            Route::Hit => &self.latency.hit,
            Route::StaleHit => &self.latency.stale_hit,
            Route::Find => &self.latency.find,
            Route::Held => &self.latency.held,
            Route::Look => &self.latency.look,
            _ => &self.latency.scan,
        };
        latency.record(begun.elapsed().as_secs_f64());
    }

    /// Records a request to `/verify` that was refused because the database is not open.
    pub(crate) fn record_refusal_before_open(&self, error: &StoreError, begun: Instant) {
        let mut refused = self.refused_before_open.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(error.kind()).or_default() += 1;
        drop(refused);
        self.record_latency(Route::Unread, begun);
    }

    /// Counts a request to the admin API. Its outcome is `ok`, or the kind of its error.
    pub(crate) fn count_admin_request(&self, operation: &'static str, outcome: &'static str) {
        metrics::with_local_recorder(&self.recorder, || {
            admin_requests(operation, outcome).increment(1);
        });
    }

    /// Records how long a revocation waited after its commit.
    pub(crate) fn record_revocation(&self, end: &RevocationEnd, waited: Duration) {
        metrics::with_local_recorder(&self.recorder, || {
            revocation_seconds(end.outcome()).record(waited.as_secs_f64());
        });
    }

    /// Returns the gauge of the open connections of a listener, which the listener updates.
    pub(crate) fn connections(&self, listener: &'static str) -> Gauge {
        metrics::with_local_recorder(
            &self.recorder,
            || gauge!("trust_auth_connections", "listener" => listener),
        )
    }

    /// Returns all metrics as text.
    pub(crate) fn render(&self) -> String {
        let mut stats = Stats::default();
        if let Some((sources, meters)) = self.sources.get() {
            stats = sources.authenticator.stats();
            self.copied.update(&stats, sources);
            sources.health.update(&meters.impairments);
            if let (Some(lease), Some(held)) = (&meters.lease, &sources.held) {
                lease.update(held);
            }
        }
        self.update_failures(&stats);
        self.copied.log_lines_dropped.absolute(self.log.dropped());
        self.rendered.render()
    }

    /// Updates the counters of requests that the database refused, before and after it was opened.
    fn update_failures(&self, stats: &Stats) {
        let refused = self.refused_before_open.lock().unwrap_or_else(PoisonError::into_inner);
        self.copied.unavailable.absolute(stats.unavailable + refused.values().sum::<u64>());
        metrics::with_local_recorder(&self.recorder, || {
            for (kind, requests) in stats.failures.iter() {
                let requests = requests + refused.get(kind).copied().unwrap_or_default();
                if requests > 0 {
                    store_failures(kind).absolute(requests);
                }
            }
        });
    }

    /// Bounds the memory of the metrics, and logs that lines of the log were dropped. Runs until
    /// the service ends.
    pub(crate) async fn run_upkeep(self: Arc<Self>) {
        let mut interval = tokio::time::interval(UPKEEP);
        let mut dropped = 0;
        loop {
            interval.tick().await;
            self.rendered.run_upkeep();
            // If this line is dropped as well, it is counted, and the next one reports it.
            let now = self.log.dropped();
            if now > dropped {
                tracing::warn!(
                    lines = now - dropped,
                    "log lines were dropped: standard error did not accept them"
                );
                dropped = self.log.dropped();
            }
        }
    }
}

fn store_failures(kind: &'static str) -> Counter {
    counter!("trust_auth_store_failures_total", "kind" => kind)
}

fn admin_requests(operation: &'static str, outcome: &'static str) -> Counter {
    counter!("trust_auth_admin_requests_total", "operation" => operation, "outcome" => outcome)
}

fn revocation_seconds(outcome: &'static str) -> Histogram {
    histogram!("trust_auth_revocation_seconds", "outcome" => outcome)
}

impl LatencyHistograms {
    fn new() -> Self {
        let of = |route: Route| histogram!("trust_auth_request_seconds", "route" => route.as_str());
        Self {
            unread: of(Route::Unread),
            hit: of(Route::Hit),
            stale_hit: of(Route::StaleHit),
            scan: of(Route::Scan),
            find: of(Route::Find),
            held: of(Route::Held),
            look: of(Route::Look),
        }
    }
}

impl Copied {
    fn new() -> Self {
        let requests =
            |outcome: &'static str| counter!("trust_auth_requests_total", "outcome" => outcome);
        let evicted =
            |cause: &'static str| counter!("trust_auth_evictions_total", "cause" => cause);
        Self {
            granted: requests("granted"),
            missing: requests("missing"),
            invalid: requests("invalid"),
            unavailable: requests("unavailable"),
            overloaded: requests("overloaded"),
            hits: counter!("trust_auth_hits_total"),
            stale_hits: counter!("trust_auth_stale_hits_total"),
            held: counter!("trust_auth_held_total"),
            scans: counter!("trust_auth_scans_total"),
            rows_swept: counter!("trust_auth_rows_swept_total"),
            waiting: gauge!("trust_auth_waiting_requests"),
            scans_under_way: gauge!("trust_auth_scans_under_way"),
            most_scans_under_way: gauge!("trust_auth_scans_under_way_max"),
            scans_failing: gauge!("trust_auth_scans_failing"),
            evicted_notification: evicted("notification"),
            evicted_connected: evicted("connected"),
            evicted_malformed: evicted("malformed"),
            evicted_truncation: evicted("truncation"),
            evicted_triggers: evicted("triggers"),
            notifications: counter!("trust_auth_notifications_total"),
            listener_connected: gauge!("trust_auth_listener_connected"),
            listener_failures: counter!("trust_auth_listener_failures_total"),
            canaries_heard: counter!("trust_auth_listener_canaries_total", "outcome" => "heard"),
            canaries_missed: counter!("trust_auth_listener_canaries_total", "outcome" => "missed"),
            cache_entries: gauge!("trust_auth_cache_entries"),
            log_lines_dropped: counter!("trust_auth_log_lines_dropped_total"),
        }
    }

    fn update(&self, stats: &Stats, Sources { store, cache, watcher, .. }: &Sources) {
        self.granted.absolute(stats.granted);
        self.missing.absolute(stats.missing);
        self.invalid.absolute(stats.invalid);
        self.overloaded.absolute(stats.overloaded);
        self.hits.absolute(stats.hits);
        self.stale_hits.absolute(stats.stale_hits);
        self.held.absolute(stats.held);
        self.scans.absolute(stats.scans);
        self.rows_swept.absolute(stats.rows_swept);
        self.waiting.set(stats.waiting as f64);
        self.scans_under_way.set(store.scans_under_way() as f64);
        self.most_scans_under_way.set(store.most_scans_under_way() as f64);
        self.scans_failing.set(f64::from(u8::from(store.scans_are_failing())));
        let watch = watcher.status();
        self.evicted_notification.absolute(watch.evicted_keys);
        self.evicted_connected.absolute(watch.connects);
        self.evicted_malformed.absolute(watch.malformed);
        self.evicted_truncation.absolute(watch.truncations);
        self.evicted_triggers.absolute(watch.trigger_changes);
        self.notifications.absolute(watch.notifications);
        self.listener_connected.set(f64::from(u8::from(watch.connected)));
        self.listener_failures.absolute(watch.failures);
        self.canaries_heard.absolute(watch.canaries_heard);
        self.canaries_missed.absolute(watch.canaries_missed);
        self.cache_entries.set(cache.len() as f64);
    }
}

/// Registers the `# HELP` text of each metric.
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("trust_auth_build_info", "1, with the version as a label");
    describe_counter!(
        "trust_auth_requests_total",
        "Requests to /verify that were answered, by outcome"
    );
    describe_histogram!(
        "trust_auth_request_seconds",
        Unit::Seconds,
        "How long /verify took, by route: unread (no usable key), hit (cached), stale_hit (cached, \
         then a scan), scan (not cached), find (not cached, by an index), held (under the read \
         lease, without a read), look (not held)"
    );
    describe_counter!("trust_auth_hits_total", "Cached keys that their live row accepted");
    describe_counter!(
        "trust_auth_stale_hits_total",
        "Cached keys that their live row no longer accepted"
    );
    describe_counter!(
        "trust_auth_held_total",
        "Keys granted from held rows under the read lease, without a read"
    );
    describe_histogram!(
        "trust_auth_revocation_seconds",
        Unit::Seconds,
        "How long changes by the admin API waited after the commit until no process granted the \
         key, by outcome: answered (each holder), lease_over (a holder did not answer), unsettled \
         (the database had started), waited (SQLite)"
    );
    describe_counter!("trust_auth_scans_total", "Scans of all rows; requests share them");
    describe_counter!("trust_auth_rows_swept_total", "Rows that those scans swept");
    describe_gauge!(
        "trust_auth_waiting_requests",
        "Requests that wait for a scan, or for an index, now"
    );
    describe_gauge!("trust_auth_scans_under_way", "Scans that read all rows now: 0 or 1");
    describe_gauge!(
        "trust_auth_scans_under_way_max",
        "The most scans that were under way at once since the start: 0 or 1"
    );
    describe_gauge!(
        "trust_auth_scans_failing",
        "Whether the last scan failed for another reason than an unreachable database: 1 or 0"
    );
    describe_histogram!(
        "trust_auth_scan_seconds",
        Unit::Seconds,
        "How long the database took to return all rows to a scan"
    );
    describe_counter!(
        "trust_auth_store_failures_total",
        "Requests refused because the database failed, by kind"
    );
    describe_counter!(
        "trust_auth_evictions_total",
        "Invalidations that the database caused: one key (notification), or all keys \
         (connected, malformed, truncation, triggers)"
    );
    describe_counter!(
        "trust_auth_notifications_total",
        "Notifications of changes that the database sent to the service"
    );
    describe_gauge!(
        "trust_auth_listener_connected",
        "Whether changes by other processes are received: 1 or 0"
    );
    describe_counter!(
        "trust_auth_listener_failures_total",
        "Connections for those changes that were lost or could not be made"
    );
    describe_counter!(
        "trust_auth_log_lines_dropped_total",
        "Log lines that were dropped, because standard error did not accept them"
    );
    describe_counter!(
        "trust_auth_listener_canaries_total",
        "Test notifications, by outcome: heard or missed. PostgreSQL only"
    );
    describe_gauge!("trust_auth_cache_entries", "Keys in the cache");
    describe_gauge!("trust_auth_cache_capacity", "How many keys the cache is built for");
    describe_gauge!("trust_auth_connections", "Open connections, by listener");
    describe_counter!(
        "trust_auth_admin_requests_total",
        "Requests to the admin API, by operation and outcome"
    );
}
