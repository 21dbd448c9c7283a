//! Scans that requests share (G1, G8, G9): which scan a request joins, and which answer it
//! receives. A scan may be slow, fail, or never end while requests wait. The store's reads return
//! when the test allows it, so the test determines every order of events.

mod stores;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use stores::{Backend, World};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, mpsc as channel, watch};
use tokio::task::{JoinHandle, yield_now};
use trust_auth::{
    ApiKey, Attempt, AuthError, Authenticator, Candidates, Change, KeyHash, MemoryStore, NewTrust,
    Route, SqliteStore, StoreError, Trust, TrustKeyCache, TrustLedger, TrustRef, TrustStore,
};
use uuid::Uuid;

/// How the read of a scan ends.
enum Outcome {
    Rows,
    Failure(StoreError),
    Panic,
}

/// Trusts in memory. The candidates are read when a scan begins, and returned when the test allows
/// it.
struct Gated {
    rows: MemoryStore,
    begun: watch::Sender<u64>,
    reading: AtomicU64,
    outcomes: channel::UnboundedSender<Outcome>,
    next: Mutex<channel::UnboundedReceiver<Outcome>>,
}

impl Gated {
    fn new() -> Arc<Self> {
        let (outcomes, next) = channel::unbounded_channel();
        Arc::new(Self {
            rows: MemoryStore::new(),
            begun: watch::Sender::new(0),
            reading: AtomicU64::new(0),
            outcomes,
            next: next.into(),
        })
    }

    fn end_scan(&self, outcome: Outcome) {
        self.outcomes.send(outcome).unwrap();
    }

    async fn scan_begins(&self, number: u64) {
        let mut begun = self.begun.subscribe();
        in_time(begun.wait_for(|begun| *begun >= number)).await.unwrap();
    }

    fn scans_begun(&self) -> u64 {
        *self.begun.borrow()
    }
}

/// One scan that reads. Panics if a second scan reads at the same time.
struct Reading<'a>(&'a AtomicU64);

impl<'a> Reading<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0, "two scans at once");
        Self(count)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TrustStore for Gated {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.rows.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let _reading = Reading::begin(&self.reading);
        let candidates = self.rows.candidates().await?;
        self.begun.send_modify(|begun| *begun += 1);
        match self.next.lock().await.recv().await.unwrap() {
            Outcome::Rows => Ok(candidates),
            Outcome::Failure(error) => Err(error),
            Outcome::Panic => panic!("as planned"),
        }
    }
}

impl TrustLedger for Gated {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.rows.insert(new, hash).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.rows.replace_hash(which, hash).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.rows.set_enabled(which, enabled).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.rows.delete(which).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        self.rows.list().await
    }
}

type Request = JoinHandle<Attempt>;

impl World<Gated> {
    fn gated() -> Self {
        Self::over(Gated::new(), None)
    }

    /// Allows this many requests to wait for a scan.
    fn with_limit(requests: usize) -> Self {
        let mut world = Self::gated();
        let (store, cache) = (Arc::clone(&world.store), Arc::clone(&world.cache));
        world.authenticator = Authenticator::builder(store, cache).waiting_limit(requests).build();
        world
    }

    fn present(&self, key: &str) -> Request {
        let (authenticator, key) = (self.authenticator.clone(), key.to_owned());
        tokio::spawn(async move { authenticator.attempt(Some(&key)).await })
    }

    async fn until_waiting(&self, requests: u64) {
        until(|| self.authenticator.stats().waiting == requests).await;
    }

    /// Starts a scan for a request of its own, which reads until the test ends it.
    async fn stuck(&self) -> Request {
        let number = self.store.scans_begun() + 1;
        let request = self.present("an unknown key");
        self.store.scan_begins(number).await;
        request
    }

    async fn hot(&self, name: &str) -> (Trust, ApiKey) {
        self.store.end_scan(Outcome::Rows);
        self.register_hot(name).await
    }
}

/// Waits for much longer than any step here takes, and then fails the test.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it takes more than a minute")
}

async fn until(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            yield_now().await;
        }
    })
    .await;
}

async fn answer(request: Request) -> Attempt {
    in_time(request).await.unwrap()
}

fn assert_granted(attempt: &Attempt, trust: &Trust) {
    assert_eq!(attempt.result.as_ref().unwrap(), trust);
}

fn assert_invalid(attempt: &Attempt) {
    assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{:?}", attempt.result);
}

fn assert_unavailable(attempt: &Attempt, kind: &str, message: &str) {
    match &attempt.result {
        Err(AuthError::Unavailable(error)) => {
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(message), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// The trust was registered before the request, and after the scan under way began to read.
#[tokio::test]
async fn a_request_never_joins_a_scan_that_is_reading() {
    let world = World::gated();
    let unknown = world.stuck().await;
    let (trust, key) = world.register("a").await;
    let request = world.present(key.expose());
    world.until_waiting(2).await;

    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(unknown).await);
    world.store.scan_begins(2).await;
    assert!(!request.is_finished());
    world.store.end_scan(Outcome::Rows);
    assert_granted(&answer(request).await, &trust);
    assert_eq!(world.cached(&key), Some(trust.id));
}

#[tokio::test]
async fn requests_that_wait_share_one_scan_and_each_gets_its_own_answer() {
    let world = World::gated();
    let mut trusts = Vec::new();
    for at in 0..5 {
        trusts.push(world.register(&format!("trust {at}")).await);
    }
    let first = world.stuck().await;
    // The key of each trust twice, and as many unknown keys.
    let requests: Vec<_> =
        trusts.iter().chain(&trusts).map(|(_, key)| world.present(key.expose())).collect();
    let unknown: Vec<_> = (0..10).map(|at| world.present(&format!("unknown {at}"))).collect();
    world.until_waiting(21).await;
    assert_eq!(world.store.scans_begun(), 1);

    world.store.end_scan(Outcome::Rows);
    world.store.end_scan(Outcome::Rows);
    for (request, (trust, _)) in requests.into_iter().zip(trusts.iter().chain(&trusts)) {
        let attempt = answer(request).await;
        assert_granted(&attempt, trust);
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 5));
    }
    for request in unknown.into_iter().chain([first]) {
        let attempt = answer(request).await;
        assert_invalid(&attempt);
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 5));
    }
    assert_eq!(world.store.scans_begun(), 2);
    let stats = world.authenticator.stats();
    assert_eq!((stats.requests, stats.granted, stats.invalid), (21, 10, 11));
    assert_eq!((stats.scans, stats.rows_swept, stats.waiting), (2, 10, 0));
    for (trust, key) in &trusts {
        assert_eq!(world.cached(key), Some(trust.id));
    }
    assert_eq!(world.cache.len(), 5);
}

/// The read of the next scan begins when the scan before has been compared, without a new request.
#[tokio::test]
async fn the_next_scan_begins_when_the_last_one_ends_if_any_request_waits_and_not_before() {
    let world = World::gated();
    let mut request = world.stuck().await;
    for scan in 2..10 {
        let next = world.present("another unknown key");
        world.until_waiting(2).await;
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(world.store.scans_begun(), scan - 1);
        world.store.end_scan(Outcome::Rows);
        assert_invalid(&answer(request).await);
        world.store.scan_begins(scan).await;
        request = next;
    }
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(request).await);
    until(|| world.authenticator.stats().waiting == 0).await;
    assert_eq!(world.store.scans_begun(), 9);
}

#[tokio::test]
async fn over_the_limit_a_request_is_overloaded_and_reads_and_remembers_nothing() {
    let world = World::with_limit(3);
    let (hot, hot_key) = world.hot("hot").await;
    let (trust, key) = world.register("a").await;
    let first = world.stuck().await;
    let waiting: Vec<_> = (0..3).map(|at| world.present(&format!("unknown {at}"))).collect();
    world.until_waiting(4).await;

    for _ in 0..10 {
        let attempt = in_time(world.attempt(&key)).await;
        let refused = attempt.result.unwrap_err();
        assert!(matches!(refused, AuthError::Overloaded));
        assert_eq!((refused.status(), refused.retry_after()), (503, Some(Duration::from_secs(1))));
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 0));
        // A hit does not need the queue.
        assert_granted(&in_time(world.attempt(&hot_key)).await, &hot);
    }
    let stats = world.authenticator.stats();
    assert_eq!((stats.overloaded, stats.waiting), (10, 4));
    assert_eq!(world.cached(&key), None);

    world.store.end_scan(Outcome::Rows);
    world.store.end_scan(Outcome::Rows);
    for request in waiting.into_iter().chain([first]) {
        assert_invalid(&answer(request).await);
    }
    // There is room again.
    world.store.end_scan(Outcome::Rows);
    assert_granted(&in_time(world.attempt(&key)).await, &trust);
    assert_eq!(world.store.scans_begun(), 4);
}

#[tokio::test]
async fn a_cancelled_request_gives_its_place_back() {
    let world = World::with_limit(1);
    let (trust, key) = world.register("a").await;
    let first = world.stuck().await;
    for _ in 0..100 {
        let cancelled = world.present("an unknown key that is cancelled");
        world.until_waiting(2).await;
        assert!(matches!(world.attempt(&key).await.result, Err(AuthError::Overloaded)));
        cancelled.abort();
        assert!(cancelled.await.unwrap_err().is_cancelled());
        assert_eq!(world.authenticator.stats().waiting, 1);
    }
    let request = world.present(key.expose());
    world.until_waiting(2).await;
    world.store.end_scan(Outcome::Rows);
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(first).await);
    assert_granted(&answer(request).await, &trust);
}

/// The first request, for which the scanner was started, is cancelled while its scan reads. Then no
/// request is left.
#[tokio::test]
async fn a_cancelled_request_ends_no_scan() {
    let world = World::gated();
    let (trust, key) = world.register("a").await;
    let (first, request) = (world.present("an unknown key"), world.present(key.expose()));
    world.store.scan_begins(1).await;
    world.until_waiting(2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    world.store.end_scan(Outcome::Rows);
    assert_granted(&answer(request).await, &trust);
    assert_eq!(world.store.scans_begun(), 1);

    let alone = world.stuck().await;
    alone.abort();
    assert!(alone.await.unwrap_err().is_cancelled());
    // One more request waits for a scan, which begins when the scan without members has ended.
    let queued = world.present("an unknown key");
    world.until_waiting(1).await;
    assert_eq!(world.store.scans_begun(), 2);
    world.store.end_scan(Outcome::Rows);
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(queued).await);
    assert_eq!(world.store.scans_begun(), 3);

    // If all requests leave the queue before the next scan, no scan begins for it.
    let last = world.stuck().await;
    let cancelled = world.present("an unknown key");
    world.until_waiting(2).await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(last).await);
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&in_time(world.authenticator.attempt(Some("an unknown key"))).await);
    assert_eq!(world.store.scans_begun(), 5);
}

#[tokio::test]
async fn hits_wait_for_no_scan() {
    let world = World::gated();
    let (trust, key) = world.hot("hot").await;
    let stuck = world.stuck().await;
    let queued = world.present("an unknown key");
    world.until_waiting(2).await;
    for _ in 0..1_000 {
        let attempt = in_time(world.attempt(&key)).await;
        assert_granted(&attempt, &trust);
        assert_eq!(attempt.route, Route::Hit);
    }
    assert!(!stuck.is_finished() && !queued.is_finished());
    assert_eq!(world.store.scans_begun(), 2);
}

#[tokio::test]
async fn all_members_share_a_failed_read_and_the_next_scan_reads_again_g9() {
    let world = World::gated();
    let (trust, key) = world.register("a").await;
    let first = world.stuck().await;
    let members: Vec<_> = (0..3).map(|_| world.present(key.expose())).collect();
    world.until_waiting(4).await;
    world.store.end_scan(Outcome::Failure(StoreError::Busy));
    assert_unavailable(&answer(first).await, "busy", "locked");

    world.store.scan_begins(2).await;
    let next = world.present(key.expose());
    world.until_waiting(4).await;
    world.store.end_scan(Outcome::Failure(StoreError::Other("the cable is cut".into())));
    for member in members {
        let attempt = answer(member).await;
        assert_unavailable(&attempt, "other", "the cable is cut");
        assert_eq!(attempt.rows_swept, 0);
    }
    assert!(world.cache.is_empty());
    assert_eq!(world.authenticator.stats().scans, 0);

    world.store.end_scan(Outcome::Rows);
    assert_granted(&answer(next).await, &trust);
}

#[tokio::test]
async fn a_panic_in_the_store_refuses_all_waiting_requests_and_the_next_request_scans_again_g9() {
    let world = World::gated();
    let (trust, key) = world.register("a").await;
    for _ in 0..3 {
        let scans = world.store.scans_begun();
        let member = world.stuck().await;
        let queued = world.present(key.expose());
        world.until_waiting(2).await;
        world.store.end_scan(Outcome::Panic);
        for request in [member, queued] {
            assert_unavailable(
                &answer(request).await,
                "other",
                "the scan of the trusts was abandoned",
            );
        }
        assert_eq!(
            (world.authenticator.stats().waiting, world.store.scans_begun()),
            (0, scans + 1)
        );
        assert!(world.cache.is_empty());
    }
    world.store.end_scan(Outcome::Rows);
    assert_granted(&in_time(world.attempt(&key)).await, &trust);
}

/// The scan read the row before the revocation, which returns while the scan is under way.
#[tokio::test]
async fn a_key_revoked_during_its_scan_is_neither_granted_nor_remembered_g1_g9() {
    for revocation in ["disable", "rotate", "delete"] {
        let world = World::gated();
        let (trust, key) = world.register("a").await;
        let (other, other_key) = world.register("b").await;
        let (request, bystander) = (world.present(key.expose()), world.present(other_key.expose()));
        world.store.scan_begins(1).await;
        world.until_waiting(2).await;
        let which = trust.id.into();
        match revocation {
            "disable" => drop(world.registry.disable(&which).await.unwrap()),
            "rotate" => drop(world.registry.rotate(&which).await.unwrap()),
            _ => drop(world.registry.delete(&which).await.unwrap()),
        }
        world.store.end_scan(Outcome::Rows);
        assert_granted(&answer(bystander).await, &other);
        // The scan's match is no longer valid. One more scan follows, and no row has the key.
        world.store.scan_begins(2).await;
        world.store.end_scan(Outcome::Rows);
        let attempt = answer(request).await;
        assert_invalid(&attempt);
        let rows_left = world.store.rows.candidates().await.unwrap().len();
        assert_eq!(attempt.rows_swept, 2 + rows_left);
        assert_eq!(
            (world.cached(&key), world.cached(&other_key)),
            (None, Some(other.id)),
            "{revocation}"
        );
    }
}

/// The revocation is undone while the request waits. The live row accepts the key, but the lease is
/// older.
#[tokio::test]
async fn an_invalidation_while_a_request_waits_supersedes_its_lease_g2() {
    let world = World::gated();
    let (trust, key) = world.register("a").await;
    let stuck = world.stuck().await;
    let request = world.present(key.expose());
    world.until_waiting(2).await;
    world.cache.invalidate_key(&key.hash());
    world.store.end_scan(Outcome::Rows);
    world.store.end_scan(Outcome::Rows);
    assert_invalid(&answer(stuck).await);
    assert_granted(&answer(request).await, &trust);
    assert_eq!(world.cached(&key), None);

    world.store.end_scan(Outcome::Rows);
    assert_granted(&in_time(world.attempt(&key)).await, &trust);
    assert_eq!(world.cached(&key), Some(trust.id));
}

/// The scanner runs on the runtime of the first request. If that runtime shuts down, no request
/// waits for it, and the next scan runs on another runtime.
#[test]
fn the_shutdown_of_the_scanners_runtime_refuses_waiting_requests_and_hangs_none() {
    let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let world = Arc::new(World::gated());
    let (trust, key) = second.block_on(world.register("a"));
    let member = first.block_on(world.stuck());
    let enter = second.enter();
    let queued = world.present(key.expose());
    drop(enter);
    second.block_on(world.until_waiting(2));

    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        drop(first);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("the runtime does not shut down");
    assert_unavailable(&second.block_on(answer(queued)), "other", "the runtime is shutting down");
    assert!(second.block_on(member).unwrap_err().is_cancelled());
    assert_eq!(world.authenticator.stats().waiting, 0);

    world.store.end_scan(Outcome::Rows);
    assert_granted(&second.block_on(in_time(world.attempt(&key))), &trust);
}

/// The right to scan must not stay with a task of a runtime that is no longer driven. This also
/// holds with exactly as many members as are answered at a time. The members have no tasks of their
/// own, because each task would let the scanner run once more.
#[test]
fn misses_are_answered_on_one_runtime_after_another() {
    let store = Arc::new(MemoryStore::new());
    let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    for members in [1, 32] {
        for runtime in [&first, &second] {
            let mut waiting: Vec<_> = (0..members)
                .map(|_| Box::pin(authenticator.authenticate(Some("unknown"))))
                .collect();
            runtime.block_on(in_time(poll_fn(|context| {
                waiting.retain_mut(|member| match member.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        assert!(matches!(answer, Err(AuthError::Invalid)));
                        false
                    }
                    Poll::Pending => true,
                });
                if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })));
        }
    }
}

#[test]
fn a_miss_outside_a_runtime_is_unavailable() {
    let world = World::gated();
    let mut request = std::pin::pin!(world.authenticator.attempt(Some("an unknown key")));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(attempt) = request.as_mut().poll(&mut context) else {
        panic!("it waits")
    };
    assert_unavailable(&attempt, "other", "runtime");
    assert_eq!(world.authenticator.stats().waiting, 0);
}

/// SQLite, with the duration of its shortest scan.
struct Watched {
    inner: Arc<SqliteStore>,
    reading: AtomicU64,
    shortest: std::sync::Mutex<Duration>,
}

impl TrustStore for Watched {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.inner.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let _reading = Reading::begin(&self.reading);
        let begin = Instant::now();
        let candidates = self.inner.candidates().await;
        let mut shortest = self.shortest.lock().unwrap();
        *shortest = begin.elapsed().min(*shortest);
        candidates
    }
}

const CONNECTIONS: usize = 64;
const UNKNOWN_KEYS: usize = 10_000;

/// 64 clients present 10,000 unknown keys, each as soon as it has its last answer. One more client
/// presents a valid key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_unknown_keys_has_one_scan_in_flight_and_bounds_their_number() {
    let (inner, _folder) = SqliteStore::open().await;
    for at in 0..100 {
        let hash = KeyHash::of(format!("key {at}"));
        inner.insert(NewTrust::new(format!("trust {at}")).unwrap(), hash).await.unwrap();
    }
    let store = Arc::new(Watched { inner, reading: 0.into(), shortest: Duration::MAX.into() });
    let cache = Arc::default();
    let authenticator = Authenticator::new(Arc::clone(&store), Arc::clone(&cache));

    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (authenticator, next) = (authenticator.clone(), Arc::clone(&next));
        clients.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= UNKNOWN_KEYS as u64 {
                    return;
                }
                let refused = authenticator.authenticate(Some(&format!("unknown {at}"))).await;
                assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
                assert!(authenticator.stats().waiting <= CONNECTIONS as u64 + 1);
            }
        });
    }
    // The valid key is found during the flood, and then hits.
    let mut hits = 0;
    while next.load(Ordering::Relaxed) < UNKNOWN_KEYS as u64 {
        let attempt = authenticator.attempt(Some("key 50")).await;
        assert_eq!(attempt.result.unwrap().name, "trust 50");
        hits += u64::from(attempt.route == Route::Hit);
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (elapsed, shortest) = (begin.elapsed(), *store.shortest.lock().unwrap());

    let stats = authenticator.stats();
    assert_eq!(
        (stats.invalid, stats.overloaded, stats.unavailable, stats.waiting),
        (UNKNOWN_KEYS as u64, 0, 0, 0)
    );
    assert_eq!(stats.hits, hits);
    assert!(hits > 0);
    assert!(stats.scans as f64 <= elapsed.div_duration_f64(shortest) + 1.0, "{stats:?}");
    // Requests shared scans: most scans had several members.
    assert!(stats.scans * 4 <= stats.invalid, "{stats:?}");
    assert_eq!(cache.len(), 1);
}
