//! Shared loads under random interleavings of calls, answers, cancellations, invalidations and
//! time. No call receives what was read before an invalidation that preceded the call (G1, G2), nor
//! what is older than the time-to-live (G3), and no call is left waiting.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use trust_key_cache::{Clock, KeyCache, KeyHash, ManualClock};

const TTL: u64 = 100;
const KEYS: usize = 3;

type Answer = Result<Option<usize>, ()>;

#[derive(Clone, Debug)]
enum Step {
    Begin(usize),
    Blocking(usize),
    /// The call with this number, modulo the number of calls.
    Poll(usize),
    Answer(usize, Outcome),
    Cancel(usize),
    Lookup(usize),
    Invalidate,
    InvalidateKey(usize),
    Close(Option<usize>, u64),
    Advance(u64),
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Value,
    Unknown,
    Failed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..KEYS).prop_map(Step::Begin),
        2 => (0..KEYS).prop_map(Step::Blocking),
        3 => any::<usize>().prop_map(Step::Poll),
        6 => (any::<usize>(), prop_oneof![
            4 => Just(Outcome::Value), 1 => Just(Outcome::Unknown), 1 => Just(Outcome::Failed),
        ]).prop_map(|(number, outcome)| Step::Answer(number, outcome)),
        3 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..KEYS).prop_map(Step::Lookup),
        1 => Just(Step::Invalidate),
        2 => (0..KEYS).prop_map(Step::InvalidateKey),
        1 => (proptest::option::of(0..KEYS), 0..TTL / 2)
            .prop_map(|(key, within)| Step::Close(key, within)),
        3 => prop_oneof![1..TTL / 3, Just(TTL - 1), Just(TTL)].prop_map(Step::Advance),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What preceded a call, or the run of a loader.
#[derive(Clone, Copy, Debug)]
struct Moment {
    time: u64,
    /// Of the key, or of all keys.
    invalidations: u64,
    /// The number of loaders that had run.
    reads: usize,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    key: usize,
    at: Moment,
}

#[derive(Default)]
struct World {
    clock: ManualClock,
    invalidations: Cell<[u64; KEYS]>,
    closed_until: Cell<[u64; KEYS]>,
    /// What each loader has read, as it began. Its number is the value.
    reads: RefCell<Vec<Read>>,
}

impl World {
    fn moment(&self, key: usize) -> Moment {
        let time = self.clock.now().as_nanos() as u64;
        Moment {
            time,
            invalidations: self.invalidations.get()[key],
            reads: self.reads.borrow().len(),
            closed: time < self.closed_until.get()[key],
        }
    }

    fn read(&self, key: usize) -> usize {
        let at = self.moment(key);
        self.reads.borrow_mut().push(Read { key, at });
        at.reads
    }

    fn invalidated(&self, key: usize, closed_until: u64) {
        let (mut invalidations, mut closed) = (self.invalidations.get(), self.closed_until.get());
        invalidations[key] += 1;
        closed[key] = closed[key].max(closed_until);
        self.invalidations.set(invalidations);
        self.closed_until.set(closed);
    }

    /// Checks what a call receives that began at `begun`; `own` is the read of its own loader.
    fn check(&self, key: usize, begun: Moment, value: usize, own: Option<usize>) {
        let read = self.reads.borrow()[value];
        assert_eq!(read.key, key, "the value of another key");
        assert!(read.at.invalidations >= begun.invalidations, "read before an invalidation");
        if own != Some(value) {
            let age = self.moment(key).time - read.at.time;
            assert!(age < TTL, "shared at the age of {age}");
            assert!(!begun.closed || value >= begun.reads, "shared within a closed time");
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Call<'a> {
    key: usize,
    begun: Moment,
    future: Pin<Box<dyn Future<Output = Answer> + 'a>>,
    /// Set once its own loader runs.
    own: Rc<Cell<Option<usize>>>,
    outcome: Rc<Cell<Option<Outcome>>>,
    woken: Arc<Woken>,
}

impl<'a> Call<'a> {
    fn begin(
        cache: &'a KeyCache<usize, ManualClock>,
        world: &'a World,
        hash: &'a KeyHash,
        key: usize,
    ) -> Self {
        let (own, outcome) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(None)));
        let (reads, ends) = (own.clone(), outcome.clone());
        let load = move || {
            let value = world.read(key);
            assert_eq!(reads.replace(Some(value)), None, "a loader that runs twice");
            poll_fn(move |_| match ends.get() {
                None => Poll::Pending,
                Some(Outcome::Value) => Poll::Ready(Ok(Some(value))),
                Some(Outcome::Unknown) => Poll::Ready(Ok(None)),
                Some(Outcome::Failed) => Poll::Ready(Err(())),
            })
        };
        let future = Box::pin(cache.get_or_try_load_async(hash, load));
        Self { key, begun: world.moment(key), future, own, outcome, woken: Arc::default() }
    }

    /// Returns whether the call has ended.
    fn poll(&mut self, world: &World) -> bool {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.woken.clone());
        let answer = self.future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(Ok(Some(value))) = answer {
            world.check(self.key, self.begun, value, self.own.get());
        }
        answer.is_ready()
    }
}

fn run(steps: Vec<Step>) {
    let world = World::default();
    let hashes: [KeyHash; KEYS] = std::array::from_fn(|key| KeyHash::of([key as u8]));
    let cache = KeyCache::builder().ttl(Duration::from_nanos(TTL)).capacity(16);
    let cache = cache.clock(world.clock.clone()).build().unwrap();
    let mut calls: Vec<Call> = Vec::new();
    for step in steps {
        match step {
            Step::Begin(key) => {
                let mut call = Call::begin(&cache, &world, &hashes[key], key);
                if !call.poll(&world) {
                    calls.push(call);
                }
            }
            Step::Blocking(key) => {
                let (begun, own) = (world.moment(key), Cell::new(None));
                let answer = cache.get_or_try_load(&hashes[key], || {
                    own.set(Some(world.read(key)));
                    Answer::Ok(own.get())
                });
                world.check(key, begun, answer.unwrap().unwrap(), own.get());
            }
            Step::Lookup(key) => {
                if let Some(value) = cache.lookup(&hashes[key]) {
                    world.check(key, world.moment(key), value, None);
                }
            }
            Step::Poll(number) if !calls.is_empty() => {
                let number = number % calls.len();
                if calls[number].poll(&world) {
                    calls.remove(number);
                }
            }
            Step::Answer(number, outcome) if !calls.is_empty() => {
                let number = number % calls.len();
                calls[number].outcome.set(Some(outcome));
                if calls[number].own.get().is_some() && calls[number].poll(&world) {
                    calls.remove(number);
                }
            }
            Step::Cancel(number) if !calls.is_empty() => {
                drop(calls.remove(number % calls.len()));
            }
            Step::Poll(_) | Step::Answer(..) | Step::Cancel(_) => {}
            Step::Invalidate => {
                cache.invalidate();
                (0..KEYS).for_each(|key| world.invalidated(key, 0));
            }
            Step::InvalidateKey(key) => {
                cache.invalidate_key(&hashes[key]);
                world.invalidated(key, 0);
            }
            Step::Close(key, within) => {
                let (until, within) = (world.moment(0).time + within, Duration::from_nanos(within));
                if let Some(key) = key {
                    cache.invalidate_key_for(&hashes[key], within);
                    world.invalidated(key, until);
                } else {
                    cache.invalidate_for(within);
                    (0..KEYS).for_each(|key| world.invalidated(key, until));
                }
            }
            Step::Advance(step) => world.clock.advance(Duration::from_nanos(step)),
        }
    }
    // Each loader that runs is answered, and each task that was woken is polled. Nothing else.
    while !calls.is_empty() {
        let before = calls.len();
        let mut polled = false;
        calls.retain_mut(|call| {
            call.outcome.set(Some(Outcome::Value));
            let polls = call.own.get().is_some() || call.woken.0.load(Ordering::Relaxed);
            polled |= polls;
            !(polls && call.poll(&world))
        });
        assert!(polled, "{before} calls are left waiting");
    }
    let shown = format!("{cache:?}");
    assert!(shown.contains("loads_under_way: 0,"), "{shown}");
}

proptest! {
    #![proptest_config(Config { cases: Config::default().cases.max(1_024), ..Config::default() })]

    #[test]
    fn g1_g2_g3_hold_for_shared_loads_and_no_call_is_left_waiting(steps in steps()) {
        run(steps);
    }
}
