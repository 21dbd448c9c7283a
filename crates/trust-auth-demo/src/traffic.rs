//! The reference's traffic: each trust polls for tasks and sends a heartbeat, round after round,
//! from several tasks at once.
//!
//! Every answer goes to the oracle. Keys that were revoked, keys that nobody issued, and no key at
//! all come in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trust_auth::{Authenticator, Route, SqliteStore, TrustStore};
use uuid::Uuid;

use super::keyring::{Keyring, WatchedKey};
use super::latency::Latencies;
use super::oracle::{Outcome, Standing, State, Verdict};
use crate::failure::Failure;

/// As many tasks at once, each with its share of the trusts.
pub(super) const TASKS: usize = 4;

/// One visit of so many is measured against a bare fetch. All would do too, but the demo is about
/// requests.
const VISITS_PER_FETCH: usize = 4;

/// After so many visits come the keys that must be refused. Each costs a sweep, which is why they
/// are rare: more of them would leave the other requests waiting for a processor.
const VISITS_PER_BAD_KEY: usize = 64;

/// What a task has seen.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) verdict: Verdict,
    pub(super) latencies: Latencies,
    /// Requests that a sweep answered, or that were refused after asking for one. Requests share
    /// sweeps.
    pub(super) swept: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { verdict: Verdict::default(), latencies: Latencies::new()?, swept: 0 })
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.verdict.add(&other.verdict);
        self.latencies.add(&other.latencies);
        self.swept += other.swept;
    }
}

/// One who presents keys, and keeps count.
pub(super) struct Client {
    authenticator: Authenticator<SqliteStore>,
    tally: Tally,
}

impl Client {
    pub(super) fn new(authenticator: Authenticator<SqliteStore>) -> Result<Self, Failure> {
        Ok(Self { authenticator, tally: Tally::new()? })
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Presents a key. Returns whether it was granted on the hot path.
    pub(super) async fn present(&mut self, watched: &WatchedKey) -> bool {
        self.request(Some(watched.key.expose()), watched.trust, &watched.standing).await
    }

    /// A request without a key, which the oracle takes for a revoked one.
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
        if matches!(attempt.route, Route::Scan | Route::StaleHit) {
            self.tally.swept += 1;
        }
        match attempt.route {
            Route::Hit if attempt.result.is_ok() => self.tally.latencies.hot.record(took),
            Route::Scan if attempt.result.is_ok() => self.tally.latencies.sweep.record(took),
            _ => {}
        }
        attempt.route == Route::Hit && attempt.result.is_ok()
    }
}

/// One of the tasks: visits its trusts again and again, until it is told to stop.
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) store: Arc<SqliteStore>,
    pub(super) keyring: Arc<Keyring>,
    /// Which of the tasks this is: it has the slots `number`, `number + TASKS`, and so on.
    pub(super) number: usize,
    pub(super) stop: Arc<AtomicBool>,
}

impl Worker {
    pub(super) async fn run(mut self) -> Result<Tally, Failure> {
        let stranger = WatchedKey::never_issued()
            .map_err(|error| Failure::new("random", error.to_string()))?;
        let slots = (self.number..self.keyring.len()).step_by(TASKS).cycle();
        for (visit, slot) in slots.enumerate() {
            // Relaxed: nothing is handed over by it.
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(key) = self.keyring.current(slot) {
                self.visit(visit, &key).await?;
            }
            if visit.is_multiple_of(VISITS_PER_BAD_KEY) {
                self.bad_keys(visit / VISITS_PER_BAD_KEY, &stranger).await;
                // Where all trusts were deleted, nothing else here need ever wait.
                tokio::task::yield_now().await;
            }
        }
        Ok(self.client.into_tally())
    }

    /// Two requests, back to back: task poll and heartbeat. Sometimes with a bare fetch next to the
    /// second, before it and after it in turn, so that neither finds the row's page warmer than
    /// the other, and both meet the same load.
    async fn visit(&mut self, visit: usize, key: &WatchedKey) -> Result<(), Failure> {
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

    async fn bare_fetch(&self, key: &WatchedKey) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.store.fetch(key.trust).await?;
        Ok(started.elapsed())
    }

    async fn bad_keys(&mut self, turn: usize, stranger: &WatchedKey) {
        match self.keyring.retired_key(turn / 4) {
            Some(revoked) if !turn.is_multiple_of(4) => {
                self.client.present(&revoked).await;
            }
            _ => {
                self.client.present(stranger).await;
                self.client.present_nothing().await;
            }
        }
    }
}
