//! [`Meters`]: what `/metrics` tells, in the text format of Prometheus.
//!
//! No label ever names a trust or a key: every label has a handful of values, which are known when
//! the service starts. `docs/operating.md` explains each metric.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use trust_auth::{AuthError, Authenticator, Route, Trust, Watcher};
use trust_key_cache::TrustKeyCache;

use super::health::Health;
use super::log_queue::LogQueue;
use super::walks::Walks;

/// Upper bounds of the latency's buckets, in seconds: from a cached key on SQLite to the longest
/// request time-out that makes sense.
const BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

/// How often samples of latency are put into their buckets. Until then each takes up memory.
const UPKEEP: Duration = Duration::from_secs(1);

/// Where measurements go.
pub(crate) fn recorder() -> PrometheusRecorder {
    // The only error is an empty list.
    let builder =
        PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap_or_else(|_| PrometheusBuilder::new());
    builder.build_recorder()
}

/// Everything that is measured.
pub(crate) struct Meters {
    recorder: PrometheusRecorder,
    rendered: PrometheusHandle,
    sources: OnceLock<(Sources, Vec<Gauge>)>,
    log: LogQueue,
    outcomes: Outcomes,
    latency: Latency,
    read: Read,
}

/// What counts by itself, once the database is open.
pub(crate) struct Sources {
    pub(crate) authenticator: Authenticator<Walks>,
    pub(crate) walks: Arc<Walks>,
    pub(crate) cache: Arc<TrustKeyCache>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) health: Arc<Health>,
}

/// Answers of `/verify`, by outcome.
struct Outcomes {
    granted: Counter,
    missing: Counter,
    invalid: Counter,
    unavailable: Counter,
    overloaded: Counter,
}

/// How long answers of `/verify` took, by the way that they were found.
struct Latency {
    unread: Histogram,
    hit: Histogram,
    stale_hit: Histogram,
    sweep: Histogram,
}

/// What is read elsewhere, each time that somebody asks.
struct Read {
    hits: Counter,
    stale_hits: Counter,
    sweeps: Counter,
    rows_swept: Counter,
    waiting: Gauge,
    walks_under_way: Gauge,
    walks_most: Gauge,
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
        let recorder = recorder();
        let rendered = recorder.handle();
        let (outcomes, latency, read) = metrics::with_local_recorder(&recorder, || {
            describe();
            gauge!("trust_auth_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            // From 0, so that a rate sees the first. The other kinds are no matter of the
            // database's health.
            for kind in ["busy", "timeout", "unreachable"] {
                counter!("trust_auth_store_failures_total", "kind" => kind).absolute(0);
            }
            (Outcomes::new(), Latency::new(), Read::new())
        });
        Self { recorder, rendered, sources: OnceLock::new(), log, outcomes, latency, read }
    }

    /// Reads these too from now on.
    pub(crate) fn read_from(&self, sources: Sources) {
        metrics::with_local_recorder(&self.recorder, || {
            gauge!("trust_auth_cache_capacity").set(sources.cache.capacity() as f64);
        });
        let impairments = sources.health.gauges(&self.recorder);
        // Once: nothing opens a second database.
        let _ = self.sources.set((sources, impairments));
    }

    /// The durations of scans, for the store that runs them.
    pub(crate) fn walk_seconds(&self) -> Histogram {
        metrics::with_local_recorder(&self.recorder, || histogram!("trust_auth_walk_seconds"))
    }

    /// `/verify` has come to an answer, begun then.
    pub(crate) fn answered(&self, result: &Result<Trust, AuthError>, route: Route, begun: Instant) {
        let outcome = match result {
            Ok(_) => &self.outcomes.granted,
            Err(AuthError::Missing) => &self.outcomes.missing,
            Err(AuthError::Invalid) => &self.outcomes.invalid,
            Err(AuthError::Overloaded) => &self.outcomes.overloaded,
            Err(AuthError::Unavailable(error)) => {
                // Few and slow, so that nobody minds the search for the counter.
                metrics::with_local_recorder(&self.recorder, || {
                    counter!("trust_auth_store_failures_total", "kind" => error.kind())
                        .increment(1);
                });
                &self.outcomes.unavailable
            }
            Err(_) => &self.outcomes.unavailable,
        };
        outcome.increment(1);
        let latency = match route {
            Route::Unread => &self.latency.unread,
            Route::Hit => &self.latency.hit,
            Route::StaleHit => &self.latency.stale_hit,
            _ => &self.latency.sweep,
        };
        latency.record(begun.elapsed().as_secs_f64());
    }

    /// The admin API has come to an answer: `ok`, or the kind of the failure.
    pub(crate) fn administered(&self, operation: &'static str, outcome: &'static str) {
        metrics::with_local_recorder(&self.recorder, || {
            counter!("trust_auth_admin_requests_total", "operation" => operation, "outcome" => outcome)
                .increment(1);
        });
    }

    /// The number of open connections of a listener, for the listener to keep.
    pub(crate) fn connections(&self, listener: &'static str) -> Gauge {
        metrics::with_local_recorder(
            &self.recorder,
            || gauge!("trust_auth_connections", "listener" => listener),
        )
    }

    /// All of it, as text.
    pub(crate) fn text(&self) -> String {
        if let Some((sources, impairments)) = self.sources.get() {
            self.read.update(sources);
            sources.health.update(impairments);
        }
        self.read.log_lines_dropped.absolute(self.log.dropped());
        self.rendered.render()
    }

    /// Keeps what was measured in bounded memory, for ever.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let mut interval = tokio::time::interval(UPKEEP);
        let mut dropped = 0;
        loop {
            interval.tick().await;
            self.rendered.run_upkeep();
            // Said when there is room again; a line that finds none is counted like the others.
            let now = self.log.dropped();
            if now > dropped {
                tracing::warn!(
                    lines = now - dropped,
                    "lines of the log were dropped: standard error took none"
                );
                dropped = self.log.dropped();
            }
        }
    }
}

impl Outcomes {
    fn new() -> Self {
        let of =
            |outcome: &'static str| counter!("trust_auth_requests_total", "outcome" => outcome);
        Self {
            granted: of("granted"),
            missing: of("missing"),
            invalid: of("invalid"),
            unavailable: of("unavailable"),
            overloaded: of("overloaded"),
        }
    }
}

impl Latency {
    fn new() -> Self {
        let of = |path: &'static str| histogram!("trust_auth_request_seconds", "path" => path);
        Self {
            unread: of("unread"),
            hit: of("hit"),
            stale_hit: of("stale_hit"),
            sweep: of("sweep"),
        }
    }
}

impl Read {
    fn new() -> Self {
        let evicted =
            |cause: &'static str| counter!("trust_auth_evictions_total", "cause" => cause);
        Self {
            hits: counter!("trust_auth_hits_total"),
            stale_hits: counter!("trust_auth_stale_hits_total"),
            sweeps: counter!("trust_auth_sweeps_total"),
            rows_swept: counter!("trust_auth_rows_swept_total"),
            waiting: gauge!("trust_auth_waiting_requests"),
            walks_under_way: gauge!("trust_auth_walks_under_way"),
            walks_most: gauge!("trust_auth_walks_under_way_max"),
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

    fn update(&self, Sources { authenticator, walks, cache, watcher, .. }: &Sources) {
        let stats = authenticator.stats();
        self.hits.absolute(stats.hits);
        self.stale_hits.absolute(stats.stale_hits);
        self.sweeps.absolute(stats.scans);
        self.rows_swept.absolute(stats.rows_swept);
        self.waiting.set(stats.waiting as f64);
        self.walks_under_way.set(walks.under_way() as f64);
        self.walks_most.set(walks.most() as f64);
        self.scans_failing.set(f64::from(u8::from(walks.cannot_end())));
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

/// The `# HELP` of each.
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
        "How long /verify took, by the way to the answer: unread (no usable key), hit (cached), stale_hit (cached, then a walk), sweep (a walk)"
    );
    describe_counter!("trust_auth_hits_total", "Cached keys whose live row accepted them");
    describe_counter!(
        "trust_auth_stale_hits_total",
        "Cached keys whose live row did not accept them any more"
    );
    describe_counter!("trust_auth_sweeps_total", "Walks over all rows; requests share them");
    describe_counter!("trust_auth_rows_swept_total", "Rows that those walks went through");
    describe_gauge!("trust_auth_waiting_requests", "Requests that wait for a walk now");
    describe_gauge!("trust_auth_walks_under_way", "Walks that read all rows now: 0 or 1");
    describe_gauge!(
        "trust_auth_walks_under_way_max",
        "The most walks that have ever been under way at a time: 1, if any was"
    );
    describe_gauge!(
        "trust_auth_scans_failing",
        "Whether the last scan of all trusts failed, other than because the database was unreachable: 1 or 0"
    );
    describe_histogram!(
        "trust_auth_walk_seconds",
        Unit::Seconds,
        "How long the database took to give all rows to a walk"
    );
    describe_counter!(
        "trust_auth_store_failures_total",
        "Requests refused because the database failed, by kind"
    );
    describe_counter!(
        "trust_auth_evictions_total",
        "Invalidations on word from the database: of one key (notification), or of all (connected, malformed, truncation, triggers)"
    );
    describe_counter!("trust_auth_notifications_total", "Changes that the database told of");
    describe_gauge!(
        "trust_auth_listener_connected",
        "Whether changes by other processes are heard of: 1 or 0"
    );
    describe_counter!(
        "trust_auth_listener_failures_total",
        "Connections of that listener that were lost or not to be had"
    );
    describe_counter!(
        "trust_auth_log_lines_dropped_total",
        "Lines of the log that were dropped, because standard error took none"
    );
    describe_counter!(
        "trust_auth_listener_canaries_total",
        "Notifications sent to that listener as a test, by outcome: heard or missed. PostgreSQL only"
    );
    describe_gauge!("trust_auth_cache_entries", "Keys in the cache");
    describe_gauge!("trust_auth_cache_capacity", "How many keys the cache is made for");
    describe_gauge!("trust_auth_connections", "Open connections, by listener");
    describe_counter!(
        "trust_auth_admin_requests_total",
        "Requests to the admin API, by operation and outcome"
    );
}
