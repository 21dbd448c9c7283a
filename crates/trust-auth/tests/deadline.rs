//! The deadline: how long the store may take for one request, all steps together. The clock
//! advances only while every task waits, so times are exact up to the millisecond of the runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use trust_auth::{
    Attempt, AuthError, Authenticator, AuthenticatorBuilder, Candidates, KeyHash, MemoryStore,
    NewTrust, Route, StoreError, Trust, TrustKeyCache, TrustLedger, TrustRegistry, TrustStore,
};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_millis(100);

/// One trust, in a store whose two reads take as long as the test sets.
struct Slow {
    rows: Arc<MemoryStore>,
    fetch: AtomicU64,
    scan: AtomicU64,
}

impl TrustStore for Slow {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        sleep(Duration::from_millis(self.fetch.load(Ordering::Relaxed))).await;
        self.rows.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        sleep(Duration::from_millis(self.scan.load(Ordering::Relaxed))).await;
        self.rows.candidates().await
    }
}

struct World {
    store: Arc<Slow>,
    authenticator: Authenticator<Slow>,
    trust: Trust,
    key: String,
}

impl World {
    async fn with(
        set: impl FnOnce(AuthenticatorBuilder<Slow>) -> AuthenticatorBuilder<Slow>,
    ) -> Self {
        let rows = Arc::new(MemoryStore::new());
        let registry = TrustRegistry::new(Arc::clone(&rows), Arc::new(TrustKeyCache::new()));
        let (trust, key) = registry.register(NewTrust::new("a").unwrap()).await.unwrap();
        let store = Arc::new(Slow { rows, fetch: AtomicU64::new(0), scan: AtomicU64::new(0) });
        let cache = Arc::new(TrustKeyCache::new());
        let builder = Authenticator::builder(Arc::clone(&store), cache).deadline(DEADLINE);
        Self { store, authenticator: set(builder).build(), trust, key: key.expose().to_owned() }
    }

    fn slow(&self, fetch: u64, scan: u64) {
        self.store.fetch.store(fetch, Ordering::Relaxed);
        self.store.scan.store(scan, Ordering::Relaxed);
    }

    async fn hot(&self) {
        self.slow(0, 0);
        self.authenticator.authenticate(Some(&self.key)).await.unwrap();
    }

    /// Returns the duration in milliseconds, and the attempt.
    async fn timed(&self, key: &str) -> (u128, Attempt) {
        let begun = Instant::now();
        let attempt = self.authenticator.attempt(Some(key)).await;
        (begun.elapsed().as_millis(), attempt)
    }
}

#[track_caller]
fn assert_cut((took, attempt): &(u128, Attempt), expected: u128, route: Route, rows_swept: usize) {
    assert!((expected..=expected + 1).contains(took), "{took} ms instead of {expected}");
    match &attempt.result {
        Err(AuthError::Unavailable(StoreError::Timeout { after })) => assert_eq!(*after, DEADLINE),
        other => panic!("{other:?}"),
    }
    assert_eq!((attempt.route, attempt.rows_swept), (route, rows_swept));
}

/// The rest of one scan, the whole of the next, and the fetch after it take 240 ms without a
/// deadline.
#[tokio::test(start_paused = true)]
async fn all_steps_of_a_request_share_one_deadline_and_the_scan_continues_for_others() {
    let world = World::with(|builder| builder).await;
    world.slow(80, 90);
    let (authenticator, trust) = (world.authenticator.clone(), world.trust.clone());
    let scanning = tokio::spawn(async move { authenticator.attempt(Some("another key")).await });
    sleep(Duration::from_millis(10)).await;
    assert_cut(&world.timed(&world.key).await, 100, Route::Scan, 0);
    let scanned = scanning.await.unwrap();
    assert!(matches!(scanned.result, Err(AuthError::Invalid)) && scanned.rows_swept == 1);

    // The second scan began for the request that was cut off, and ends by itself.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.authenticator.stats().scans, 2);
    world.slow(0, 90);
    let (_, attempt) = world.timed(&world.key).await;
    assert_eq!(attempt.result.unwrap(), trust);
    let stats = world.authenticator.stats();
    assert_eq!((stats.scans, stats.waiting, stats.unavailable, stats.granted), (3, 0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn each_fetch_that_hangs_is_cut_off_and_the_attempt_has_its_route_so_far() {
    let world = World::with(|builder| builder).await;
    world.slow(1_000, 30);
    assert_cut(&world.timed(&world.key).await, 100, Route::Scan, 1);
    world.hot().await;
    world.slow(1_000, 0);
    assert_cut(&world.timed(&world.key).await, 100, Route::Hit, 0);
    world.store.rows.set_enabled(&world.trust.id.into(), false).await.unwrap();
    world.slow(30, 1_000);
    assert_cut(&world.timed(&world.key).await, 100, Route::StaleHit, 0);
    world.slow(0, 0);
    // The requests that were cut off remembered nothing: the row is read.
    sleep(Duration::from_secs(2)).await;
    assert!(matches!(world.timed(&world.key).await.1.result, Err(AuthError::Invalid)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_cut_off_takes_the_reject_floor_too() {
    let world = World::with(|builder| builder.reject_floor(Duration::from_millis(70))).await;
    world.slow(0, 1_000);
    assert_cut(&world.timed("another key").await, 140, Route::Scan, 0);
}

#[tokio::test(start_paused = true)]
async fn a_scan_without_a_request_returns_the_number_of_rows_without_deadline_or_grant() {
    let world = World::with(|builder| builder).await;
    world.slow(0, 1_000);
    assert_eq!(world.authenticator.scan().await.unwrap(), 1);
    let stats = world.authenticator.stats();
    assert_eq!((stats.requests, stats.scans, stats.rows_swept), (0, 1, 1));
    world.store.rows.insert(NewTrust::new("empty").unwrap(), KeyHash::of([])).await.unwrap();
    assert_eq!(world.authenticator.scan().await.unwrap(), 2);
    assert!(matches!(world.timed("").await.1.result, Err(AuthError::Missing)));
}
