//! The reject floor: each refusal takes the floor, or a whole multiple of it, from the beginning of
//! the request. Grants do not. The clock advances only while every task waits, so times are exact
//! up to the millisecond of the runtime.

mod stores;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use stores::{Log, World};
use tokio::time::{Instant, sleep};
use trust_auth::{
    AuthError, Authenticator, Candidates, KeyHash, MemoryStore, NewTrust, StoreError, Trust,
    TrustKeyCache, TrustLedger, TrustStore,
};
use uuid::Uuid;

const FLOOR: Duration = Duration::from_millis(20);

/// It has the prefix and the length of a key, and nothing is read for it.
const DAMAGED: &str = "tak_0000000000000000000000000000000000000000000000000";

/// One trust, whose key is "key", in a store with a delay.
struct Slow {
    rows: MemoryStore,
    delay: Duration,
    fails: bool,
}

impl Slow {
    async fn authenticator(delay: u64, fails: bool, limit: usize) -> Authenticator<Self> {
        let rows = MemoryStore::new();
        rows.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await.unwrap();
        let store = Arc::new(Self { rows, delay: Duration::from_millis(delay), fails });
        Authenticator::builder(store, Arc::new(TrustKeyCache::new()))
            .reject_floor(FLOOR)
            .waiting_limit(limit)
            .build()
    }
}

impl TrustStore for Slow {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.rows.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        sleep(self.delay).await;
        if self.fails { Err(StoreError::Busy) } else { self.rows.candidates().await }
    }
}

/// Returns how long the answer takes, in whole milliseconds, and its kind.
async fn timed<S: TrustStore>(
    authenticator: &Authenticator<S>,
    key: Option<&str>,
) -> (u128, &'static str) {
    let begin = Instant::now();
    let result = authenticator.authenticate(key).await;
    (begin.elapsed().as_millis(), result.map_or_else(|refused| refused.kind(), |_| "granted"))
}

/// The runtime's tick may be up to a millisecond late.
#[track_caller]
fn assert_took((took, word): (u128, &'static str), expected: u128, expected_word: &str) {
    assert_eq!(word, expected_word);
    assert!((expected..=expected + 1).contains(&took), "{took} ms instead of {expected}");
}

#[tokio::test(start_paused = true)]
async fn every_refusal_takes_the_floor_whatever_was_done_for_it() {
    for delay in [0, 1, 10, 18] {
        let authenticator = Slow::authenticator(delay, false, 8).await;
        assert_took(timed(&authenticator, None).await, 20, "missing");
        assert_took(timed(&authenticator, Some("")).await, 20, "missing");
        assert_took(timed(&authenticator, Some("no trust has this")).await, 20, "invalid");
        assert_took(timed(&authenticator, Some(DAMAGED)).await, 20, "invalid");
        let failing = Slow::authenticator(delay, true, 8).await;
        assert_took(timed(&failing, Some("key")).await, 20, "unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_beyond_the_floor_takes_a_whole_multiple_of_it() {
    for (delay, expected) in [(22, 40), (38, 40), (42, 60), (199, 200), (1_001, 1_020)] {
        let authenticator = Slow::authenticator(delay, false, 8).await;
        assert_took(timed(&authenticator, Some("no trust has this")).await, expected, "invalid");
        let failing = Slow::authenticator(delay, true, 8).await;
        assert_took(timed(&failing, Some("key")).await, expected, "unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_returned_at_once() {
    let authenticator = Slow::authenticator(5, false, 8).await;
    assert_took(timed(&authenticator, Some("key")).await, 5, "granted");
    assert_took(timed(&authenticator, Some("key")).await, 0, "granted");
}

/// A refusal waits for the rest of one scan and the whole of the next, and then for both again.
/// Each scan has the largest number of waiting keys.
#[tokio::test(start_paused = true)]
async fn a_floor_that_is_too_short_for_a_flood_is_logged_once() {
    const ENOUGH: usize = 1;
    // 2 ns each for one row: 3 ms.
    const TOO_MANY: usize = 1_500_000;
    // The floor is 20 ms. Four scans take 3 ms each, 6 ms each with that many keys, or 6 ms each.
    // The runtime may add a millisecond to each.
    for (delay, limit, warned) in [(3, ENOUGH, 0), (3, TOO_MANY, 1), (6, ENOUGH, 1)] {
        let (log, _guard) = Log::start();
        let authenticator = Slow::authenticator(delay, false, limit).await;
        for _ in 0..5 {
            authenticator.authenticate(Some("no trust has this")).await.unwrap_err();
        }
        let text = log.text();
        let what = format!("{delay} ms, {limit}: {text}");
        assert_eq!(text.matches("the reject floor is too short").count(), warned, "{what}");
    }
}

/// The queue has one place. A request that waits for the floor does not take it, and delays no
/// scan.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_waits_for_the_floor_holds_nothing() {
    let authenticator = Slow::authenticator(1, false, 1).await;
    let refused = |key: &'static str| {
        let authenticator = authenticator.clone();
        tokio::spawn(async move { timed(&authenticator, Some(key)).await })
    };
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(refused("no trust has this"));
        sleep(Duration::from_millis(3)).await;
    }
    let stats = authenticator.stats();
    assert_eq!((stats.scans, stats.invalid, stats.waiting), (5, 5, 0));
    assert!(answers.iter().all(|answer| !answer.is_finished()));
    for answer in answers {
        assert_took(answer.await.unwrap(), 20, "invalid");
    }

    // Over the limit: there is room for one until the scan begins.
    let requests = [(); 3].map(|()| refused("no trust has this"));
    let mut words = Vec::new();
    for request in requests {
        let (took, word) = request.await.unwrap();
        assert_took((took, word), 20, word);
        words.push(word);
    }
    assert!(words.contains(&"overloaded"), "{words:?}");

    // A request that is cancelled while it waits leaves nothing behind.
    let gone = refused("no trust has this");
    sleep(Duration::from_millis(10)).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let stats = authenticator.stats();
    assert_eq!(stats.requests, stats.granted + stats.invalid + stats.overloaded);
}

/// Nothing can wait without a timer, and the duration of a refusal must not reveal its kind. A
/// grant needs no timer.
#[test]
fn a_refusal_outside_a_runtime_is_unavailable_if_there_is_a_floor() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let authenticator = runtime.block_on(Slow::authenticator(0, false, 8));
    runtime.block_on(authenticator.authenticate(Some("key"))).unwrap();
    let at_once = |key| {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(authenticator.authenticate(key)).poll(&mut context) {
            Poll::Ready(result) => result.map_err(|refused| refused.kind()),
            Poll::Pending => panic!("it waits"),
        }
    };
    assert_eq!(at_once(None).unwrap_err(), "unavailable");
    assert_eq!(at_once(Some("no trust has this")).unwrap_err(), "unavailable");
    assert_eq!(at_once(Some(DAMAGED)).unwrap_err(), "unavailable");
    assert_eq!(at_once(Some("key")).unwrap().name, "a");
    let stats = authenticator.stats();
    assert_eq!((stats.unavailable, stats.missing, stats.granted), (3, 0, 2));
}

/// Without a floor, nothing needs a timer.
#[test]
fn there_is_no_floor_unless_one_is_set() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let world = World::<MemoryStore>::over(Arc::new(MemoryStore::new()), None);
        let refused = world.authenticator.authenticate(Some("no trust has this")).await;
        assert!(matches!(refused, Err(AuthError::Invalid)));
        let none = Authenticator::builder(Arc::clone(&world.store), Arc::clone(&world.cache));
        let refused = none.reject_floor(Duration::ZERO).build().authenticate(None).await;
        assert!(matches!(refused, Err(AuthError::Missing)));
    });
}
