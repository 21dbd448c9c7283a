//! The traffic: each trust polls for work and sends a heartbeat, again and again. Several tasks
//! send these requests at once. Between these requests come revoked keys, a key that was never
//! issued, and no key.
//!
//! The oracle checks every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trust_auth::{Authenticator, Route, SqliteStore, TrustStore};
use uuid::Uuid;

use crate::demo_error::DemoError;
use crate::keyring::{Keyring, WatchedKey};
use crate::latency::Latencies;
use crate::oracle::{Outcome, Standing, State, Verdict};

/// How many tasks run at once, each with its share of the trusts.
pub(crate) const TASKS: usize = 4;

/// One visit in this many includes a bare fetch. The demo is about requests, so most visits have
/// none.
const VISITS_PER_FETCH: usize = 4;

/// After this many visits come keys that must be refused. Each of these costs a scan. More of them
/// would keep the processors from the other requests.
const VISITS_PER_BAD_KEY: usize = 64;

/// What a task has counted and measured.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) verdict: Verdict,
    pub(crate) latencies: Latencies,
    /// Requests that a scan or a look answered, or that were refused after asking for one. Requests
    /// share both.
    pub(crate) scanned: u64,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, DemoError> {
        Ok(Self { verdict: Verdict::default(), latencies: Latencies::new()?, scanned: 0 })
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.verdict.add(&other.verdict);
        self.latencies.add(&other.latencies);
        self.scanned += other.scanned;
    }
}

/// Presents keys, and counts and checks the answers.
pub(crate) struct Client {
    authenticator: Authenticator<SqliteStore>,
    tally: Tally,
}

impl Client {
    pub(crate) fn new(authenticator: Authenticator<SqliteStore>) -> Result<Self, DemoError> {
        Ok(Self { authenticator, tally: Tally::new()? })
    }

    /// Records how long a revocation took.
    pub(crate) fn record_revocation(&mut self, took: Duration) {
        self.tally.latencies.revocation.record(took);
    }

    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Presents a key. Returns whether the key was granted on the hot path.
    pub(crate) async fn present(&mut self, watched: &WatchedKey) -> bool {
        self.request(Some(watched.key.expose()), watched.trust, &watched.standing).await
    }

    /// Sends a request without a key. The oracle treats the request like one with a revoked key.
    async fn present_nothing(&mut self) {
        self.request(None, Uuid::nil(), &Standing::new(State::Revoked)).await;
    }

    async fn request(&mut self, key: Option<&str>, trust: Uuid, standing: &Standing) -> bool {
        let before = standing.observe();
        let started = Instant::now();
        let attempt = self.authenticator.attempt(key).await;
        let took = started.elapsed();
        let after = standing.observe();

        let outcome = match &attempt.result {
            Ok(granted) if granted.id == trust => Outcome::Granted,
            Ok(_) => Outcome::GrantedToAnother,
            Err(_) => Outcome::Refused,
        };
        self.tally.verdict.judge(before, after, outcome);
        let was_hot = matches!(attempt.route, Route::Hit | Route::Held) && attempt.result.is_ok();
        if matches!(attempt.route, Route::Scan | Route::StaleHit | Route::Look) {
            self.tally.scanned += 1;
        }
        match attempt.route {
            _ if was_hot => self.tally.latencies.hot.record(took),
            Route::Scan | Route::Look if attempt.result.is_ok() => {
                self.tally.latencies.scan.record(took)
            }
            _ => {}
        }
        was_hot
    }
}

/// One of the tasks. It visits its trusts again and again, until `stop` is set.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) keyring: Arc<Keyring>,
    /// The number of this task. Its trusts are in the slots `number`, `number + TASKS`, and so on.
    pub(crate) number: usize,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Worker {
    pub(crate) async fn run(mut self) -> Result<Tally, DemoError> {
        let never_issued = WatchedKey::never_issued()?;
        let slots = (self.number..self.keyring.len()).step_by(TASKS).cycle();
        for (visit, slot) in slots.enumerate() {
            // Relaxed: the flag publishes no other data.
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(key) = self.keyring.current(slot) {
                self.visit(visit, &key).await?;
            }
            if visit.is_multiple_of(VISITS_PER_BAD_KEY) {
                self.bad_keys(visit / VISITS_PER_BAD_KEY, &never_issued).await;
                // Nothing else in this loop may yield to the runtime: all trusts may be deleted,
                // or all keys held.
                tokio::task::yield_now().await;
            }
        }
        Ok(self.client.into_tally())
    }

    /// Sends two requests, back to back: the poll and the heartbeat. Some visits make a bare fetch
    /// as well, in turn before and after the second request. On average, the fetch and the request
    /// then find the row's page equally warm, and meet the same load.
    async fn visit(&mut self, visit: usize, key: &WatchedKey) -> Result<(), DemoError> {
        self.client.present(key).await;
        if !visit.is_multiple_of(VISITS_PER_FETCH) {
            self.client.present(key).await;
            return Ok(());
        }
        let (hot, took) = if visit.is_multiple_of(2 * VISITS_PER_FETCH) {
            let took = self.bare_fetch(key).await?;
            (self.client.present(key).await, took)
        } else {
            let hot = self.client.present(key).await;
            (hot, self.bare_fetch(key).await?)
        };
        if hot {
            self.client.tally.latencies.fetch.record(took);
        }
        Ok(())
    }

    async fn bare_fetch(&self, key: &WatchedKey) -> Result<Duration, DemoError> {
        let started = Instant::now();
        self.store.fetch(key.trust).await?;
        Ok(started.elapsed())
    }

    async fn bad_keys(&mut self, turn: usize, never_issued: &WatchedKey) {
        match self.keyring.retired_key(turn / 4) {
            Some(revoked) if !turn.is_multiple_of(4) => {
                self.client.present(&revoked).await;
            }
            _ => {
                self.client.present(never_issued).await;
                self.client.present_nothing().await;
            }
        }
    }
}
