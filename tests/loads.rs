//! Shared loads: callers that miss one key share one load, and no caller that starts after an
//! invalidation receives what was read before it (G1, G2, G3).

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, LazyLock, OnceLock, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use trust_key_cache::{KeyCache, KeyHash, ManualClock};

const TTL: Duration = Duration::from_secs(60);
const INSTANT: Duration = Duration::from_nanos(1);

type Answer = Result<Option<u32>, &'static str>;
type Cache = KeyCache<u32, ManualClock>;
type Call<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

fn cache() -> (Cache, ManualClock) {
    let clock = ManualClock::new();
    let cache = KeyCache::builder().ttl(TTL).capacity(1_000).clock(clock.clone()).build();
    (cache.unwrap(), clock)
}

/// The key of most calls.
fn key() -> &'static KeyHash {
    static KEY: LazyLock<KeyHash> = LazyLock::new(|| KeyHash::of("key"));
    &KEY
}

/// No call has left a load in the table.
fn assert_no_load_is_under_way<V, C>(cache: &KeyCache<V, C>) {
    let shown = format!("{cache:?}");
    assert!(shown.contains("loads_under_way: 0,"), "{shown}");
}

/// A call whose answer the test sends. The loader is reported by `loads`.
struct Driven<'a> {
    call: Call<'a>,
    answer: Option<oneshot::Sender<Answer>>,
    loads: Arc<AtomicUsize>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<'a> Driven<'a> {
    /// A call for the key, which has not begun.
    fn new(cache: &'a Cache) -> Self {
        let (answer, answered) = oneshot::channel::<Answer>();
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = loads.clone();
        let call = Box::pin(async move {
            let load = || {
                counted.fetch_add(1, Ordering::Relaxed);
                async { answered.await.expect("the test answers each load that it ends") }
            };
            cache.get_or_try_load_async(key(), load).await
        });
        Self { call, answer: Some(answer), loads, woken: Arc::default() }
    }

    /// A call that has begun, and waits.
    fn begun(cache: &'a Cache) -> Self {
        let mut driven = Self::new(cache);
        assert_eq!(driven.poll(), None, "answered at once");
        driven
    }

    fn poll(&mut self) -> Option<Answer> {
        let waker = Waker::from(self.woken.clone());
        match self.call.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn leads(&self) -> bool {
        self.loads.load(Ordering::Relaxed) == 1
    }

    fn times_woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }

    /// Answers the load, and returns what its own caller receives.
    fn answer(&mut self, answer: Answer) -> Option<Answer> {
        self.answer.take().expect("one answer").send(answer).expect("the loader waits");
        self.poll()
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn ready_now<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing to wait for"),
    }
}

#[test]
fn a_value_is_loaded_once_and_then_found() {
    let (cache, _) = cache();
    assert_eq!(cache.get_or_try_load(key(), || Ok::<_, ()>(Some(1))), Ok(Some(1)));
    assert_eq!(cache.lookup(key()), Some(1));
    let unreachable = || -> Result<_, ()> { unreachable!("a hit") };
    assert_eq!(cache.get_or_try_load(key(), unreachable), Ok(Some(1)));
    let found = cache.get_or_try_load_async(key(), || async { unreachable() });
    assert_eq!(ready_now(found), Ok(Some(1)));

    cache.invalidate_key(key());
    let loaded = cache.get_or_try_load_async(key(), || ready(Ok::<_, ()>(Some(2))));
    assert_eq!(ready_now(loaded), Ok(Some(2)));
    assert_eq!(cache.lookup(key()), Some(2));
    assert_no_load_is_under_way(&cache);
}

#[test]
fn an_unknown_key_and_an_error_are_remembered_nowhere() {
    let (cache, _) = cache();
    for answer in [Ok(None), Err("failed")] {
        assert_eq!(cache.get_or_try_load(key(), || answer), answer);
        assert_eq!(ready_now(cache.get_or_try_load_async(key(), || ready(answer))), answer);
        assert_eq!(cache.lookup(key()), None);
    }
    assert_eq!(cache.len(), 0);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn callers_that_miss_one_key_share_the_answer_whatever_it_is() {
    for answer in [Ok(Some(1)), Ok(None), Err("failed")] {
        let (cache, _) = cache();
        let mut leader = Driven::begun(&cache);
        let mut waiters = [(); 63].map(|()| Driven::begun(&cache));
        let other_key = cache.get_or_try_load(&KeyHash::of("another key"), || Ok::<_, ()>(None));
        assert_eq!(other_key, Ok(None));

        assert_eq!(leader.answer(answer), Some(answer));
        for waiter in &mut waiters {
            assert_eq!(waiter.times_woken(), 1);
            assert_eq!(waiter.poll(), Some(answer));
            assert!(!waiter.leads());
        }
        assert_no_load_is_under_way(&cache);
    }
}

#[test]
fn sixty_four_threads_that_miss_one_key_load_it_once() {
    let (cache, _) = cache();
    let (loads, started) = (AtomicUsize::new(0), Barrier::new(64));
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                started.wait();
                let answer = cache.get_or_try_load(key(), || {
                    loads.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                    Ok::<_, Infallible>(Some(1))
                });
                assert_eq!(answer, Ok(Some(1)));
            });
        }
    });
    assert_eq!(loads.into_inner(), 1);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn sixty_four_tasks_that_miss_one_key_load_it_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let cache = Arc::new(KeyCache::<u32>::new());
    let loads = Arc::new(AtomicUsize::new(0));
    let tasks = [(); 64].map(|()| {
        let (cache, loads) = (cache.clone(), loads.clone());
        runtime.spawn(async move {
            let load = || async {
                loads.fetch_add(1, Ordering::Relaxed);
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                Ok::<_, Infallible>(Some(1))
            };
            cache.get_or_try_load_async(key(), load).await
        })
    });
    for task in tasks {
        assert_eq!(runtime.block_on(task).unwrap(), Ok(Some(1)));
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn g1_a_call_after_an_invalidation_shares_no_load_that_began_before_it() {
    let invalidations: [fn(&Cache); 2] =
        [KeyCache::invalidate, |cache| cache.invalidate_key(key())];
    for invalidate in invalidations {
        let (cache, _) = cache();
        let (mut before, mut waiter) = (Driven::begun(&cache), Driven::begun(&cache));
        invalidate(&cache);
        let mut after = Driven::begun(&cache);
        assert!(after.leads(), "joined a load that may have read the old row");
        let mut with_after = Driven::begun(&cache);

        assert_eq!(before.answer(Ok(Some(1))), Some(Ok(Some(1))));
        assert_eq!(cache.lookup(key()), None, "a superseded answer was stored");
        // It began before the invalidation.
        assert_eq!(waiter.poll(), Some(Ok(Some(1))));
        assert_eq!(with_after.poll(), None);

        assert_eq!(after.answer(Ok(Some(2))), Some(Ok(Some(2))));
        assert_eq!(with_after.poll(), Some(Ok(Some(2))));
        assert_eq!(cache.lookup(key()), Some(2));
        assert!(!with_after.leads());
        assert_no_load_is_under_way(&cache);
    }
}

#[test]
fn g2_no_load_is_shared_while_a_key_is_closed() {
    let closings: [fn(&Cache); 2] =
        [|cache| cache.invalidate_for(TTL / 6), |cache| cache.invalidate_key_for(key(), TTL / 6)];
    for close in closings {
        let (cache, clock) = cache();
        let mut before = Driven::begun(&cache);
        close(&cache);
        // The caller of the change is dropped, so no invalidation follows the commit. A call that
        // begins after the commit must read after it.
        let mut closed = [(); 2].map(|()| Driven::begun(&cache));
        assert!(closed.iter().all(Driven::leads), "shared a load within the closed time");
        let blocking = cache.get_or_try_load(key(), || Answer::Ok(Some(2)));
        assert_eq!((blocking, cache.lookup(key())), (Ok(Some(2)), None));

        clock.advance(TTL / 6);
        let mut open = Driven::begun(&cache);
        assert!(open.leads(), "shared a load that began within the closed time");
        let mut waiter = Driven::begun(&cache);
        assert!(!waiter.leads());
        for call in closed.iter_mut().chain([&mut before]) {
            assert_eq!(call.answer(Ok(Some(1))), Some(Ok(Some(1))));
        }
        assert_eq!((waiter.poll(), cache.lookup(key())), (None, None));
        assert_eq!(open.answer(Ok(Some(3))), Some(Ok(Some(3))));
        assert_eq!((waiter.poll(), cache.lookup(key())), (Some(Ok(Some(3))), Some(3)));
        assert_no_load_is_under_way(&cache);
    }
}

#[test]
fn g1_the_lease_is_taken_before_the_loader_runs() {
    let (cache, _) = cache();
    let old = cache.get_or_try_load(key(), || {
        cache.invalidate();
        Ok::<_, ()>(Some(1))
    });
    assert_eq!((old, cache.lookup(key())), (Ok(Some(1)), None));

    // Both in the closure and in its future.
    let old = ready_now(cache.get_or_try_load_async(key(), || {
        cache.invalidate();
        ready(Ok::<_, ()>(Some(1)))
    }));
    assert_eq!((old, cache.lookup(key())), (Ok(Some(1)), None));
    let old = ready_now(cache.get_or_try_load_async(key(), || async {
        cache.invalidate_key(key());
        Ok::<_, ()>(Some(1))
    }));
    assert_eq!((old, cache.lookup(key())), (Ok(Some(1)), None));
}

#[test]
fn a_load_that_ends_leaves_its_successor_in_the_table() {
    // Answered or cancelled.
    for cancelled in [false, true] {
        let (cache, _) = cache();
        let mut first = Driven::begun(&cache);
        cache.invalidate();
        let mut second = Driven::begun(&cache);
        if !cancelled {
            assert_eq!(first.answer(Ok(None)), Some(Ok(None)));
        }
        drop(first);
        let mut third = Driven::begun(&cache);
        assert!(!third.leads(), "the second load was removed with the first");
        assert_eq!(second.answer(Ok(None)), Some(Ok(None)));
        assert_eq!(third.poll(), Some(Ok(None)));
        assert_no_load_is_under_way(&cache);
    }
}

#[test]
fn a_cancelled_leader_wakes_all_waiters_and_the_first_that_is_polled_leads() {
    let (cache, _) = cache();
    let leader = Driven::begun(&cache);
    let [mut first, mut second, mut third] = [(); 3].map(|()| Driven::begun(&cache));
    drop(leader);
    assert_no_load_is_under_way(&cache);
    assert_eq!([&first, &second, &third].map(Driven::times_woken), [1, 1, 1]);

    // Any of them may never be polled again.
    drop(first.call);
    assert_eq!(second.poll(), None);
    assert_eq!(third.poll(), None);
    assert_eq!((second.leads(), third.leads()), (true, false));
    assert_eq!(second.answer(Ok(Some(1))), Some(Ok(Some(1))));
    assert_eq!(third.poll(), Some(Ok(Some(1))));
    assert_eq!(first.loads.load(Ordering::Relaxed), 0);
    first.answer = None;
    assert_no_load_is_under_way(&cache);
}

#[test]
fn a_waiter_that_is_polled_after_the_next_load_finds_its_value() {
    let (cache, _) = cache();
    let leader = Driven::begun(&cache);
    let [mut first, mut second] = [(); 2].map(|()| Driven::begun(&cache));
    drop(leader);
    assert_eq!(first.poll(), None);
    assert_eq!(first.answer(Ok(Some(1))), Some(Ok(Some(1))));
    assert_eq!(second.poll(), Some(Ok(Some(1))));
    assert!(!second.leads());
}

#[test]
fn a_call_that_is_dropped_at_any_point_leaves_nothing() {
    let (cache, clock) = cache();
    // Before its first poll.
    drop(Driven::new(&cache));
    assert_no_load_is_under_way(&cache);
    // In its loader.
    drop(Driven::begun(&cache));
    assert_no_load_is_under_way(&cache);
    // As it waits: its waker is dropped, too.
    let mut leader = Driven::begun(&cache);
    let waiter = Driven::begun(&cache);
    let woken = waiter.woken.clone();
    drop(waiter);
    assert_eq!(Arc::strong_count(&woken), 1, "the waker was kept");
    // As it loads by itself, since it was answered too late.
    let mut late = Driven::begun(&cache);
    clock.advance(TTL);
    assert_eq!(leader.answer(Ok(None)), Some(Ok(None)));
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    assert_eq!(late.poll(), None);
    assert!(late.leads());
    drop(late);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn a_thousand_keys_leave_an_empty_table() {
    let (cache, _) = cache();
    let keys: Vec<_> = (0..1_000_u32).map(|number| KeyHash::of(number.to_le_bytes())).collect();
    let mut calls: Vec<_> = keys
        .iter()
        .map(|key| Box::pin(cache.get_or_try_load_async(key, pending::<Answer>)))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    assert!(format!("{cache:?}").contains("loads_under_way: 1000,"));
    drop(calls);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn a_waiter_that_is_polled_by_another_task_is_woken_there() {
    let (cache, _) = cache();
    let mut leader = Driven::begun(&cache);
    let mut waiter = Driven::begun(&cache);
    let first = std::mem::take(&mut waiter.woken);
    assert_eq!(waiter.poll(), None);
    assert_eq!(Arc::strong_count(&first), 1, "the old waker was kept");
    assert_eq!(leader.answer(Ok(None)), Some(Ok(None)));
    assert_eq!((first.0.load(Ordering::Relaxed), waiter.times_woken()), (0, 1));
    assert_eq!(waiter.poll(), Some(Ok(None)));
}

#[test]
fn a_panic_of_a_blocking_loader_lets_the_waiters_load() {
    let (cache, _) = cache();
    let (entered, waiting) = (Barrier::new(9), AtomicUsize::new(0));
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            catch_unwind(AssertUnwindSafe(|| {
                cache.get_or_try_load(key(), || -> Answer {
                    entered.wait();
                    while waiting.load(Ordering::Relaxed) < 8 {
                        thread::yield_now();
                    }
                    // Most of the others wait by now. Those that do not load as well.
                    thread::sleep(Duration::from_millis(10));
                    resume_unwind(Box::new("as it should"))
                })
            }))
        });
        for _ in 0..8 {
            scope.spawn(|| {
                entered.wait();
                waiting.fetch_add(1, Ordering::Relaxed);
                let answer = cache.get_or_try_load(key(), || {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Answer::Ok(Some(1))
                });
                assert_eq!(answer, Ok(Some(1)));
            });
        }
        assert!(panicking.join().unwrap().is_err());
    });
    assert_eq!(loads.into_inner(), 1);
    assert_no_load_is_under_way(&cache);
}

#[test]
fn a_panic_of_an_async_loader_lets_the_waiters_load() {
    let (cache, _) = cache();
    // In the closure, or in its future after a first poll.
    for polls in [0, 1] {
        let polled = Cell::new(0);
        let load = || {
            if polls == 0 {
                resume_unwind(Box::new("in the closure"));
            }
            std::future::poll_fn(|_| -> Poll<Answer> {
                if polled.replace(polled.get() + 1) == polls {
                    resume_unwind(Box::new("in the future"));
                }
                Poll::Pending
            })
        };
        let mut panicking = Box::pin(cache.get_or_try_load_async(key(), load));
        let mut waiter = None;
        if polls == 1 {
            assert!(poll_once(panicking.as_mut()).is_pending());
            waiter = Some(Driven::begun(&cache));
        }
        catch_unwind(AssertUnwindSafe(|| poll_once(panicking.as_mut()))).unwrap_err();
        assert_no_load_is_under_way(&cache);
        if let Some(waiter) = &mut waiter {
            assert_eq!(waiter.times_woken(), 1);
            assert_eq!(waiter.poll(), None);
            assert_eq!(waiter.answer(Ok(None)), Some(Ok(None)));
        }
    }
}

/// A waker that panics. So does the destructor of what the waker panics with.
struct Panicking(usize);

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new(Payload(self.0)));
    }
}

struct Payload(usize);

impl Drop for Payload {
    fn drop(&mut self) {
        resume_unwind(Box::new("in a payload"));
    }
}

#[test]
fn wakers_that_panic_leave_no_task_asleep_and_do_not_abort_the_process() {
    type Ends = fn(Driven);
    // How the load ends, and the waker whose panic reaches the caller. In the last case the panic
    // is the loader's.
    let ends: [(Ends, Option<usize>); 3] = [
        (|mut leader| assert_eq!(leader.answer(Ok(None)), None), Some(0)),
        (|leader| drop(leader), Some(0)),
        (
            |mut leader| {
                leader.answer = None;
                assert_eq!(leader.poll(), None, "the loader panics, since its answer was dropped");
            },
            None,
        ),
    ];
    for (end, panics) in ends {
        let (cache, _) = cache();
        let leader = Driven::begun(&cache);
        let waiters = [0, 1, 2].map(|number| {
            let mut panicking = Driven::new(&cache);
            let waker = Waker::from(Arc::new(Panicking(number)));
            assert!(panicking.call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            (panicking, Driven::begun(&cache))
        });
        let panic = catch_unwind(AssertUnwindSafe(|| end(leader))).unwrap_err();
        let waker = panic.downcast::<Payload>().ok().map(std::mem::ManuallyDrop::new);
        assert_eq!(waker.map(|payload| payload.0), panics);
        assert_eq!(waiters.each_ref().map(|(_, other)| other.times_woken()), [1; 3]);
        assert_no_load_is_under_way(&cache);
    }
}

#[test]
fn a_call_from_inside_its_own_loader_loads_by_itself() {
    type Answer = Result<Option<u32>, ()>;
    let (cache, _) = cache();
    let inner = || cache.get_or_try_load(key(), || Answer::Ok(Some(1)));
    let inner_async = || cache.get_or_try_load_async(key(), || ready(Answer::Ok(Some(1))));
    // What the inner call has stored is invalidated, so that each outer call misses.
    let blocking_in_blocking = cache.get_or_try_load(key(), inner);
    cache.invalidate();
    let async_in_blocking = cache.get_or_try_load(key(), || ready_now(inner_async()));
    cache.invalidate();
    let blocking_in_async = ready_now(cache.get_or_try_load_async(key(), || async { inner() }));
    cache.invalidate();
    let async_in_async = ready_now(cache.get_or_try_load_async(key(), inner_async));
    cache.invalidate();
    // In the closure itself.
    let in_the_closure = ready_now(cache.get_or_try_load_async(key(), || ready(inner())));
    let answers = [
        blocking_in_blocking,
        async_in_blocking,
        blocking_in_async,
        async_in_async,
        in_the_closure,
    ];
    assert_eq!(answers, [Ok(Some(1)); 5]);
    assert_no_load_is_under_way(&cache);
}

/// Runs `call` on a thread of its own, and fails if the call waits forever.
fn assert_ends(call: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        call();
        ended.send(()).ok();
    });
    if end.recv_timeout(Duration::from_secs(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the call waits forever");
    }
    thread.join().unwrap();
}

/// Drives the future on this thread until it is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_call_from_entry_ttl_while_its_load_is_stored_loads_by_itself() {
    for inner_is_async in [false, true] {
        assert_ends(move || {
            let calls = Arc::new(AtomicUsize::new(0));
            let cache = Arc::new_cyclic(|cache: &Weak<KeyCache<u32>>| {
                let (cache, calls) = (cache.clone(), calls.clone());
                let entry_ttl = move |_: &u32| {
                    // The inner call asks for the time of its own value, too.
                    if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                        let cache = cache.upgrade().unwrap();
                        let load = || Answer::Ok(Some(2));
                        let answer = if inner_is_async {
                            block_on(cache.get_or_try_load_async(key(), || ready(load())))
                        } else {
                            cache.get_or_try_load(key(), load)
                        };
                        assert_eq!(answer, Ok(Some(2)));
                    }
                    TTL
                };
                KeyCache::builder().ttl(TTL).entry_ttl(entry_ttl).build().unwrap()
            });
            let answer = cache.get_or_try_load(key(), || Answer::Ok(Some(1)));
            assert_eq!(answer, Ok(Some(1)));
            assert_eq!(calls.load(Ordering::Relaxed), 2);
            assert_no_load_is_under_way(&cache);
        });
    }
}

#[test]
fn a_call_from_the_destructor_of_a_loaders_future_loads_by_itself() {
    struct CallsAsItIsDropped<'a>(&'a Cache, Option<Answer>);
    impl Future for CallsAsItIsDropped<'_> {
        type Output = Answer;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Answer> {
            self.1.map_or(Poll::Pending, Poll::Ready)
        }
    }
    impl Drop for CallsAsItIsDropped<'_> {
        fn drop(&mut self) {
            let call = self.0.get_or_try_load_async(key(), || ready(Answer::Ok(Some(2))));
            assert_eq!(block_on(call), Ok(Some(2)));
        }
    }
    for answer in [None, Some(Ok(Some(1)))] {
        assert_ends(move || {
            let (cache, _) = cache();
            let call = cache.get_or_try_load_async(key(), || CallsAsItIsDropped(&cache, answer));
            let mut call = Box::pin(call);
            assert_eq!(poll_once(call.as_mut()).is_pending(), answer.is_none());
            drop(call);
            assert_no_load_is_under_way(&cache);
        });
    }
}

#[test]
fn a_loader_may_call_for_other_keys() {
    let (cache, _) = cache();
    let other = KeyHash::of("another key");
    let answer =
        cache.get_or_try_load(key(), || cache.get_or_try_load(&other, || Ok::<_, ()>(Some(2))));
    assert_eq!((answer, cache.lookup(&other)), (Ok(Some(2)), Some(2)));
}

#[test]
fn g3_a_load_is_shared_until_just_before_the_time_to_live() {
    let (cache, clock) = cache();
    let mut leader = Driven::begun(&cache);
    clock.advance(TTL - INSTANT);
    let mut in_time = Driven::begun(&cache);
    assert!(!in_time.leads());
    clock.advance(INSTANT);
    let mut late = Driven::begun(&cache);
    assert!(late.leads(), "joined a load of the age of the time-to-live");

    // Its own caller has read the value. The waiter is answered too late, and shares the next load.
    assert_eq!(leader.answer(Ok(Some(1))), Some(Ok(Some(1))));
    assert_eq!(in_time.poll(), None);
    assert!(!in_time.leads());
    assert_eq!(late.answer(Ok(Some(2))), Some(Ok(Some(2))));
    assert_eq!(in_time.poll(), Some(Ok(Some(2))));
    assert_no_load_is_under_way(&cache);
}

#[test]
fn waiters_that_are_answered_too_late_share_one_more_load_and_then_load_by_themselves() {
    let (cache, clock) = cache();
    let mut leader = Driven::begun(&cache);
    let mut waiters: Vec<_> = (0..8).map(|_| Driven::begun(&cache)).collect();
    clock.advance(TTL);
    assert_eq!(leader.answer(Ok(Some(1))), Some(Ok(Some(1))));
    for waiter in &mut waiters {
        assert_eq!(waiter.poll(), None);
    }
    let leads: Vec<_> = waiters.iter().map(Driven::leads).collect();
    assert_eq!(leads.iter().filter(|leads| **leads).count(), 1, "{leads:?}");
    // The second answer comes too late as well.
    clock.advance(TTL);
    assert_eq!(waiters[0].answer(Ok(Some(2))), Some(Ok(Some(2))));
    for waiter in &mut waiters[1..] {
        assert_eq!(waiter.poll(), None);
        assert!(waiter.leads());
        assert_eq!(waiter.answer(Ok(Some(3))), Some(Ok(Some(3))));
    }
    assert_no_load_is_under_way(&cache);
}

#[test]
fn g3_an_answer_is_shared_for_as_long_as_a_lookup_returns_it() {
    // (age, answer, shared): an error is not the state of a row.
    let cases = [
        (TTL - INSTANT, Ok(None), true),
        (TTL, Ok(None), false),
        (TTL - INSTANT, Ok(Some(1)), true),
        (TTL, Ok(Some(1)), false),
        (TTL, Err("failed"), true),
        // The value itself ends after ten seconds.
        (10 * Duration::from_secs(1) - INSTANT, Ok(Some(10)), true),
        (10 * Duration::from_secs(1), Ok(Some(10)), false),
    ];
    for (age, answer, shared) in cases {
        let clock = ManualClock::new();
        let own_time = |value: &u32| if *value == 10 { Duration::from_secs(10) } else { TTL };
        let builder = KeyCache::builder().ttl(TTL).entry_ttl(own_time);
        let cache = builder.clock(clock.clone()).build().unwrap();
        let (mut leader, mut waiter) = (Driven::begun(&cache), Driven::begun(&cache));
        clock.advance(age);
        assert_eq!(leader.answer(answer), Some(answer));
        // The time of `entry_ttl` applies to what a load stores, from its lease on.
        let stored = answer.ok().flatten().filter(|_| shared);
        assert_eq!(cache.lookup(key()), stored, "{answer:?} at {age:?}");
        assert_eq!(waiter.poll(), shared.then_some(answer), "{answer:?} at {age:?}");
        assert_eq!(waiter.leads(), !shared);
    }
}

/// Lets the other threads of a round begin to wait, which nothing shows. They may be too late.
fn give_the_others_time() {
    thread::sleep(Duration::from_millis(30));
}

/// Runs `round` until the threads of a round were in time, so that the round returns true.
fn assert_some_round(claim: &str, round: impl FnMut() -> bool) {
    assert!(std::iter::repeat_with(round).take(5).any(|held| held), "in no round: {claim}");
}

#[test]
fn g3_blocking_waiters_that_are_answered_too_late_share_one_more_load() {
    // A waiter that is not woken would end no round.
    assert_ends(|| {
        assert_some_round("three waiters share one more load", || {
            let (cache, clock) = cache();
            let (entered, loading) = mpsc::channel();
            let loads = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let answer = cache.get_or_try_load(key(), || {
                        entered.send(()).unwrap();
                        give_the_others_time();
                        clock.advance(TTL);
                        Answer::Ok(Some(1))
                    });
                    assert_eq!(answer, Ok(Some(1)));
                });
                loading.recv().unwrap();
                for _ in 0..3 {
                    scope.spawn(|| {
                        let answer = cache.get_or_try_load(key(), || {
                            loads.fetch_add(1, Ordering::Relaxed);
                            give_the_others_time();
                            Answer::Ok(Some(2))
                        });
                        assert_eq!(answer, Ok(Some(2)), "the answer that came too late");
                    });
                }
            });
            assert_no_load_is_under_way(&cache);
            loads.into_inner() == 1
        });
    });
}

#[test]
fn blocking_waiters_that_are_answered_too_late_twice_load_by_themselves() {
    assert_ends(|| {
        // One waiter leads the second load. The others are answered too late a second time.
        assert_some_round("three waiters load", || {
            let (cache, clock) = cache();
            let (entered, loading) = mpsc::channel();
            let loads = AtomicUsize::new(0);
            let late = |answer: u32| {
                give_the_others_time();
                clock.advance(TTL);
                Answer::Ok(Some(answer))
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    let load = || {
                        entered.send(()).unwrap();
                        late(1)
                    };
                    assert_eq!(cache.get_or_try_load(key(), load), Ok(Some(1)));
                });
                loading.recv().unwrap();
                for _ in 0..3 {
                    scope.spawn(|| {
                        let load = || match loads.fetch_add(1, Ordering::Relaxed) {
                            0 => late(2),
                            _ => {
                                give_the_others_time();
                                Answer::Ok(None)
                            }
                        };
                        assert_ne!(cache.get_or_try_load(key(), load), Ok(Some(1)));
                    });
                }
            });
            assert_no_load_is_under_way(&cache);
            loads.into_inner() == 3
        });
    });
}

#[test]
fn g1_blocking_waiters_that_began_before_an_invalidation_share_what_is_stored_nowhere() {
    assert_ends(|| {
        assert_some_round("two waiters receive the answer that was read before", || {
            let (cache, _) = cache();
            let (entered, loading) = mpsc::channel();
            let (invalidated, ending) = mpsc::channel();
            let waiters = thread::scope(|scope| {
                let cache = &cache;
                let leader = scope.spawn(move || {
                    cache.get_or_try_load(key(), || {
                        entered.send(()).unwrap();
                        ending.recv().unwrap();
                        Answer::Ok(Some(1))
                    })
                });
                loading.recv().unwrap();
                let waiters = [(); 2]
                    .map(|()| scope.spawn(|| cache.get_or_try_load(key(), || Answer::Ok(Some(3)))));
                give_the_others_time();
                cache.invalidate();
                let after = cache.get_or_try_load(key(), || Answer::Ok(Some(2)));
                invalidated.send(()).unwrap();
                assert_eq!(leader.join().unwrap(), Ok(Some(1)));
                assert_ne!(after, Ok(Some(1)), "shared a load that began before the invalidation");
                waiters.map(|waiter| waiter.join().unwrap())
            });
            assert_ne!(cache.lookup(key()), Some(1), "a superseded answer was stored");
            assert_no_load_is_under_way(&cache);
            waiters == [Ok(Some(1)); 2]
        });
    });
}

#[test]
fn a_caller_with_another_type_of_error_loads_by_itself() {
    let (cache, _) = cache();
    let mut leader = Driven::begun(&cache);
    let other = cache.get_or_try_load_async(key(), || ready(Err::<_, u8>(7)));
    assert_eq!(ready_now(other), Err(7));
    assert_eq!(cache.get_or_try_load(key(), || Err::<_, u8>(8)), Err(8));
    let mut waiter = Driven::begun(&cache);
    assert!(!waiter.leads(), "the load of the other type took the place of the first");
    assert_eq!(leader.answer(Ok(None)), Some(Ok(None)));
    assert_eq!(waiter.poll(), Some(Ok(None)));
}

#[test]
fn a_blocking_caller_does_not_wait_for_an_async_load() {
    let (cache, _) = cache();
    let mut leader = Driven::begun(&cache);
    assert_eq!(cache.get_or_try_load(key(), || Answer::Err("by itself")), Err("by itself"));
    let mut waiter = Driven::begun(&cache);
    assert!(!waiter.leads());
    assert_eq!(leader.answer(Ok(None)), Some(Ok(None)));
    assert_eq!(waiter.poll(), Some(Ok(None)));
}

#[test]
fn an_async_caller_waits_for_a_blocking_load_of_another_thread() {
    let (cache, _) = cache();
    let (entered, loading) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    thread::scope(|scope| {
        let blocking = scope.spawn(|| {
            cache.get_or_try_load(key(), move || -> Answer {
                entered.send(()).unwrap();
                answered.recv().unwrap()
            })
        });
        loading.recv().unwrap();
        let mut waiter = Driven::begun(&cache);
        assert!(!waiter.leads());
        answer.send(Ok(None)).unwrap();
        assert_eq!(blocking.join().unwrap(), Ok(None));
        assert_eq!(waiter.times_woken(), 1);
        assert_eq!(waiter.poll(), Some(Ok(None)));
    });
}

#[test]
fn a_task_that_a_blocking_loader_polls_does_not_wait_for_that_loader() {
    let (cache, _) = cache();
    let (entered, loading) = mpsc::channel();
    let (task, tasks) = mpsc::channel::<Driven>();
    thread::scope(|scope| {
        let blocking = scope.spawn(|| {
            cache.get_or_try_load(key(), move || -> Answer {
                entered.send(()).unwrap();
                let mut waiter = tasks.recv().unwrap();
                // As a runtime of one thread does, in the loader's `block_on`.
                assert_eq!(waiter.poll(), None);
                assert!(waiter.leads(), "waits for the loader that waits for it");
                waiter.answer(Ok(Some(1))).unwrap()
            })
        });
        loading.recv().unwrap();
        task.send(Driven::begun(&cache)).unwrap();
        assert_eq!(blocking.join().unwrap(), Ok(Some(1)));
    });
}

/// An error whose clones and drops load another key, as does a waker.
#[derive(Debug)]
struct Reentrant;

static REENTERED: OnceLock<KeyCache<u32>> = OnceLock::new();

fn reenter() {
    let cache = REENTERED.get().expect("the test has made it");
    let other = KeyHash::of("another key");
    assert_eq!(cache.get_or_try_load(&other, || Ok::<_, ()>(None)), Ok(None));
    assert_no_load_is_known_of(cache, &other);
}

/// The table of `key` answers: its lock is free.
fn assert_no_load_is_known_of(cache: &KeyCache<u32>, key: &KeyHash) {
    let answer = ready_now(cache.get_or_try_load_async(key, || ready(Ok::<_, u8>(None))));
    assert_eq!(answer, Ok(None));
}

impl Clone for Reentrant {
    fn clone(&self) -> Self {
        reenter();
        Self
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        reenter();
    }
}

impl Wake for Reentrant {
    fn wake(self: Arc<Self>) {
        reenter();
    }
}

#[test]
fn clones_drops_and_wakers_run_under_no_lock() {
    let cache = REENTERED.get_or_init(KeyCache::new);
    let waker = Waker::from(Arc::new(Reentrant));
    let mut context = Context::from_waker(&waker);
    // The load that is replaced has an answer when its last waiter goes.
    for invalidated in [false, true] {
        let (answer, answered) = oneshot::channel::<Result<Option<u32>, Reentrant>>();
        let load = || async { answered.await.unwrap() };
        let mut leader = Box::pin(cache.get_or_try_load_async(key(), load));
        assert!(leader.as_mut().poll(&mut context).is_pending());
        let mut waiters = [(); 3].map(|()| {
            Box::pin(cache.get_or_try_load_async(key(), pending::<Result<_, Reentrant>>))
        });
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut context).is_pending());
            // Replaces its waker.
            assert!(waiter.as_mut().poll(&mut context).is_pending());
        }
        if invalidated {
            cache.invalidate();
            let replaces = cache.get_or_try_load(key(), || Ok::<_, Reentrant>(None));
            assert_eq!(replaces.unwrap(), None);
        }
        answer.send(Err(Reentrant)).unwrap();
        assert!(leader.as_mut().poll(&mut context).is_ready());
        let [mut first, second, _third] = waiters;
        assert!(first.as_mut().poll(&mut context).is_ready());
        drop(second);
    }
    assert_no_load_is_under_way(cache);
}

#[test]
fn a_value_that_panics_as_it_is_cloned_abandons_its_load() {
    struct Fragile(u32);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            if self.0 == 0 {
                resume_unwind(Box::new("in a clone"));
            }
            Self(self.0)
        }
    }
    let cache = KeyCache::<Fragile>::new();
    let call = || cache.get_or_try_load(key(), || Ok::<_, ()>(Some(Fragile(0))));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_no_load_is_under_way(&cache);
    let loaded = cache.get_or_try_load(key(), || Ok::<_, ()>(Some(Fragile(1))));
    assert_eq!(loaded.unwrap().unwrap().0, 1);
}

/// Compiles: a handler of a service that is generic over its loader.
async fn generic<L, F>(cache: Arc<KeyCache<u32>>, hash: KeyHash, load: L) -> Answer
where
    L: FnOnce(KeyHash) -> F + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    tokio::spawn(async move { cache.get_or_try_load_async(&hash, || load(hash)).await })
        .await
        .expect("no panic")
}

#[test]
fn a_call_in_a_spawned_task_may_be_generic_over_the_loader() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let cache = Arc::new(KeyCache::new());
    let call = generic(cache.clone(), *key(), |_| async {
        tokio::task::yield_now().await;
        Ok(Some(1))
    });
    assert_eq!(runtime.block_on(call), Ok(Some(1)));
    // An `async` closure is accepted as well.
    let call = async { cache.get_or_try_load_async(key(), async || Answer::Ok(None)).await };
    assert_eq!(runtime.block_on(call), Ok(Some(1)));
}

#[test]
fn g1_a_revocation_is_final_while_threads_and_tasks_share_loads() {
    const REVOCATIONS: u32 = 200;
    let cache = KeyCache::<u32>::new();
    let (row, readers) = (AtomicU32::new(0), 4);
    let call = |runtime: &tokio::runtime::Runtime, blocking: bool| {
        // The read takes some time, so that calls meet.
        let load = || {
            let read = row.load(Ordering::Relaxed);
            thread::yield_now();
            Ok::<_, Infallible>(Some(read))
        };
        let answer = if blocking {
            cache.get_or_try_load(key(), load)
        } else {
            let load = || async {
                let read = load();
                tokio::task::yield_now().await;
                read
            };
            runtime.block_on(cache.get_or_try_load_async(key(), load))
        };
        answer.unwrap().unwrap()
    };
    let call = &call;
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (row, cache) = (&row, &cache);
    thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || {
                let (runtime, mut last) = (runtime(), 0);
                while last < REVOCATIONS {
                    let first = row.load(Ordering::Acquire);
                    let read = call(&runtime, reader % 2 == 0);
                    // One revocation may be between its write and its invalidation.
                    assert!(read + 1 >= first, "read {read} after revocation {first}");
                    last = read;
                }
            });
        }
        let runtime = runtime();
        for revocation in 1..=REVOCATIONS {
            row.store(revocation, Ordering::Release);
            if revocation % 2 == 0 {
                cache.invalidate();
            } else {
                cache.invalidate_key(key());
            }
            let read = call(&runtime, revocation % 4 < 2);
            if read != revocation {
                // The readers end with the last revocation.
                row.store(REVOCATIONS, Ordering::Release);
                cache.invalidate();
                panic!("received {read}, which was read before revocation {revocation}");
            }
        }
    });
    assert_no_load_is_under_way(cache);
}
