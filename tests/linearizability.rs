//! G1, G2, G4 on the build that ships: compares short histories of real threads with the sequential
//! specification.
//!
//! The checker is Wing and Gong's with Lowe's memoisation (`todc-utils`). Each seed fixes the
//! operations of the threads, but not their interleaving. Therefore
//! `LINEARIZABILITY_SEED=... cargo test --test linearizability` runs a seed that failed many times.
//!
//! A failing history is printed whole, and then minimised. A key's value depends only on the
//! operations on that key and on the invalidations. So the minimised history omits the operations
//! on other keys. It also omits lookups that the contradiction does not need.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::Action::{self, Call, Response};
use todc_utils::linearizability::history::History;
use todc_utils::specifications::Specification;
use trust_key_cache::{KeyCache, KeyHash, ManualClock};

const KEYS: u8 = 3;
const THREADS: usize = 3;
const OPERATIONS: usize = 7;
const HISTORIES: u64 = 4_000;

/// An operation with its answer. In a call, the answer has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// Leases are numbered, and so are the values that they remember.
    Lease {
        key: u8,
        lease: u32,
    },
    Remember {
        key: u8,
        lease: u32,
        stored: bool,
        /// The lease was taken while `invalidate_for` ran, which may refuse leases before it
        /// invalidates (G4.6).
        excused: bool,
    },
    Lookup {
        key: u8,
        found: Option<u32>,
    },
    Invalidate,
    InvalidateKey {
        key: u8,
    },
    InvalidateFor,
    InvalidateKeyFor {
        key: u8,
    },
    /// With a predicate that names the value of one key.
    InvalidateWhere {
        key: u8,
        removed: bool,
        /// Overlaps an `invalidate`, which may drop a value after it was counted (G2.13).
        excused: bool,
    },
}
use Operation::{
    Invalidate, InvalidateFor, InvalidateKey, InvalidateKeyFor, InvalidateWhere, Lease, Lookup,
    Remember,
};

/// The sequential specification of a cache of one bucket. No value expires, and the cache has room
/// for all keys.
struct Cache;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    values: BTreeMap<u8, u32>,
    /// The number of invalidations so far, of all keys or of one. With one bucket, each supersedes
    /// all leases.
    invalidations: u32,
    /// Since the clock does not advance, a closed time never ends. With one bucket, each closes all
    /// keys.
    closed: bool,
    /// For each lease, the number of invalidations when the lease was taken. Leases within a closed
    /// time are left out.
    leases: BTreeMap<u32, u32>,
}

impl Specification for Cache {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State::default()
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let mut next = state.clone();
        let allowed = match *operation {
            Lease { lease, .. } => {
                if !state.closed {
                    next.leases.insert(lease, state.invalidations);
                }
                true
            }
            Remember { key, lease, stored, excused } => {
                let taken = next.leases.remove(&lease);
                if stored {
                    next.values.insert(key, lease);
                }
                stored == (taken == Some(state.invalidations)) || excused && !stored
            }
            Lookup { key, found } => state.values.get(&key).copied() == found,
            Invalidate | InvalidateFor => {
                next.values.clear();
                next.invalidations += 1;
                next.closed |= *operation == InvalidateFor;
                true
            }
            InvalidateKey { key } | InvalidateKeyFor { key } => {
                next.values.remove(&key);
                next.invalidations += 1;
                next.closed |= matches!(operation, InvalidateKeyFor { .. });
                true
            }
            InvalidateWhere { key, removed, excused } => {
                next.invalidations += 1;
                removed == next.values.remove(&key).is_some() || excused && removed
            }
        };
        (allowed, if allowed { next } else { state.clone() })
    }
}

type Actions = Vec<(usize, Action<Operation>)>;

/// The operations of one thread, with the moments of each call and response.
type Recorded = Vec<(usize, Operation, usize)>;

fn run(seed: u64) -> Actions {
    // The cache has room for all keys, so nothing is evicted.
    let builder = KeyCache::<u32>::builder().capacity(8).clock(ManualClock::new());
    let cache = builder.build().expect("a capacity of eight");
    let (moment, ready) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let recorded: Vec<Recorded> = thread::scope(|scope| {
        let perform = |thread: usize| {
            let (cache, moment, ready) = (&cache, &moment, &ready);
            scope.spawn(move || {
                let mut random = Rng::with_seed(seed.wrapping_mul(31).wrapping_add(thread as u64));
                // All threads start at almost the same time. With fewer cores than threads, a
                // thread must let the others run.
                ready.fetch_add(1, Ordering::SeqCst);
                for turn in 0.. {
                    if ready.load(Ordering::SeqCst) == THREADS {
                        break;
                    }
                    if turn % 2_000 == 1_999 { thread::yield_now() } else { std::hint::spin_loop() }
                }
                perform(cache, moment, thread, &mut random)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(perform).collect();
        threads.into_iter().map(|thread| thread.join().expect("no operation panics")).collect()
    });
    let recorded = excused(recorded);
    let mut moments: Vec<_> = recorded
        .iter()
        .enumerate()
        .flat_map(|(thread, operations)| {
            operations.iter().map(move |operation| (thread, operation))
        })
        .flat_map(|(thread, &(called, operation, answered))| {
            [(called, thread, Call(operation)), (answered, thread, Response(operation))]
        })
        .collect();
    moments.sort_by_key(|&(moment, ..)| moment);
    moments.into_iter().map(|(_, thread, action)| (thread, action)).collect()
}

/// Marks each `remember` whose lease overlaps an `invalidate_for`, and each `invalidate_where` that
/// overlaps an invalidation of all keys.
fn excused(mut recorded: Vec<Recorded>) -> Vec<Recorded> {
    let all: Vec<_> = recorded.iter().flatten().copied().collect();
    let overlaps = |called: usize, answered: usize, is: fn(&Operation) -> bool| {
        let mut others = all.iter().filter(|(_, operation, _)| is(operation));
        others.any(|&(from, _, to)| called < to && from < answered)
    };
    let closes = |operation: &Operation| *operation == InvalidateFor;
    let drops_all = |operation: &Operation| matches!(operation, Invalidate | InvalidateFor);
    let taken_while_closing = |wanted: u32| {
        all.iter().any(|&(called, ref operation, answered)| {
            matches!(*operation, Lease { lease, .. } if lease == wanted)
                && overlaps(called, answered, closes)
        })
    };
    for (called, operation, answered) in recorded.iter_mut().flatten() {
        match operation {
            Remember { lease, excused, .. } => *excused = taken_while_closing(*lease),
            InvalidateWhere { excused, .. } => *excused = overlaps(*called, *answered, drops_all),
            _ => {}
        }
    }
    recorded
}

fn perform(
    cache: &KeyCache<u32, ManualClock>,
    moment: &AtomicUsize,
    thread: usize,
    random: &mut Rng,
) -> Recorded {
    let hash = |key: u8| KeyHash::of([key]);
    let mut held = Vec::new();
    let mut recorded = Vec::new();
    for number in 0..OPERATIONS {
        let key = random.u8(0..KEYS);
        // SeqCst: all moments have one order, and no operation moves across its own moments.
        let called = moment.fetch_add(1, Ordering::SeqCst);
        let operation = match random.u8(0..60) {
            0..15 if !held.is_empty() => {
                let (key, lease, granted) = held.swap_remove(random.usize(0..held.len()));
                let stored = trust_key_cache::Lease::remember(granted, lease);
                Remember { key, lease, stored, excused: false }
            }
            0..33 => {
                let lease = (thread * OPERATIONS + number) as u32;
                held.push((key, lease, cache.lease(&hash(key))));
                Lease { key, lease }
            }
            33..50 => Lookup { key, found: cache.lookup(&hash(key)) },
            50..52 => {
                cache.invalidate();
                Invalidate
            }
            52..54 => {
                let removed = cache.invalidate_where(|named, _| *named == hash(key));
                InvalidateWhere { key, removed: removed == 1, excused: false }
            }
            54 => {
                cache.invalidate_for(Duration::from_secs(1));
                InvalidateFor
            }
            55 => {
                cache.invalidate_key_for(&hash(key), Duration::from_secs(1));
                InvalidateKeyFor { key }
            }
            _ => {
                cache.invalidate_key(&hash(key));
                InvalidateKey { key }
            }
        };
        recorded.push((called, operation, moment.fetch_add(1, Ordering::SeqCst)));
        if random.u8(0..8) == 0 {
            thread::yield_now();
        }
    }
    recorded
}

fn is_linearizable(actions: &Actions) -> bool {
    actions.is_empty()
        || WGLChecker::<Cache>::is_linearizable(History::from_actions(actions.clone()))
}

/// Returns the part of a history that concerns `key`. If the whole is linearizable, so is this
/// part.
fn projected(actions: &Actions, key: u8) -> Actions {
    let concerns = |operation: &Operation| match *operation {
        Lease { key: other, .. } | Remember { key: other, .. } | Lookup { key: other, .. } => {
            other == key
        }
        Invalidate | InvalidateKey { .. } | InvalidateFor | InvalidateKeyFor { .. } => true,
        InvalidateWhere { .. } => true,
    };
    // The part does not have the other key's value, so whether that was removed is left open.
    let open = |operation: Operation| match operation {
        InvalidateWhere { key: other, .. } if other != key => InvalidateKey { key: other },
        operation => operation,
    };
    actions
        .iter()
        .filter(|(_, Call(operation) | Response(operation))| concerns(operation))
        .map(|&(thread, ref action)| match *action {
            Call(operation) => (thread, Call(open(operation))),
            Response(operation) => (thread, Response(open(operation))),
        })
        .collect()
}

/// Returns a smallest part that contradicts the specification: the part of one key if possible,
/// without operations that can be omitted.
///
/// Omits only operations without effect, and an operation that began after all others had ended.
/// Without these, a linearizable history stays linearizable. So the rest still shows a fault of the
/// cache.
fn minimised(actions: &Actions) -> Actions {
    let mut smallest = (0..KEYS)
        .map(|key| projected(actions, key))
        .filter(|part| !is_linearizable(part))
        .min_by_key(Vec::len)
        .unwrap_or_else(|| actions.clone());
    while let Some(smaller) = (0..smallest.len())
        .filter(|&at| can_be_left_out(&smallest, at))
        .map(|at| without_operation(&smallest, at))
        .find(|part| !is_linearizable(part))
    {
        smallest = smaller;
    }
    smallest
}

fn can_be_left_out(actions: &Actions, at: usize) -> bool {
    let (thread, Call(operation)) = actions[at] else { return false };
    let remembers = |wanted: u32| {
        let is =
            |operation: &Operation| matches!(operation, Remember { lease, .. } if *lease == wanted);
        actions.iter().any(|(_, Call(operation) | Response(operation))| is(operation))
    };
    let last =
        actions[at + 1..].iter().all(|(other, _)| *other == thread) && actions.len() == at + 2;
    last || match operation {
        Lookup { .. } | Remember { stored: false, .. } => true,
        Lease { lease, .. } => !remembers(lease),
        _ => false,
    }
}

fn without_operation(actions: &Actions, call: usize) -> Actions {
    let (thread, _) = actions[call];
    let response = (call + 1..actions.len())
        .find(|&at| actions[at].0 == thread)
        .expect("each call has its response");
    let keep = |&(at, _): &(usize, &(usize, Action<Operation>))| at != call && at != response;
    actions.iter().enumerate().filter(keep).map(|(_, action)| action.clone()).collect()
}

/// Prints a history with one line for each action, and one column for each thread.
struct Drawn<'a>(&'a Actions);

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (thread, action) in self.0 {
            let indent = thread * 34;
            match action {
                Call(Remember { key, lease, .. }) => {
                    writeln!(f, "{:indent$}⌜ remember(key {key}, lease {lease})", "")?
                }
                Call(Lookup { key, .. }) => writeln!(f, "{:indent$}⌜ lookup(key {key})", "")?,
                Call(operation) => writeln!(f, "{:indent$}⌜ {operation:?}", "")?,
                Response(Remember { stored, .. }) => writeln!(f, "{:indent$}⌞ {stored}", "")?,
                Response(InvalidateWhere { removed, .. }) => {
                    writeln!(f, "{:indent$}⌞ {removed}", "")?
                }
                Response(Lookup { found, .. }) => writeln!(f, "{:indent$}⌞ {found:?}", "")?,
                Response(_) => writeln!(f, "{:indent$}⌞", "")?,
            }
        }
        Ok(())
    }
}

fn check(seed: u64) -> Actions {
    let actions = run(seed);
    assert!(
        is_linearizable(&actions),
        "seed {seed}: the history is not linearizable\n\n{}\n\
         and this part of it is not, either:\n\n{}",
        Drawn(&actions),
        Drawn(&minimised(&actions))
    );
    actions
}

#[test]
fn g1_g2_g4_histories_of_real_threads_are_linearizable() {
    if let Ok(seed) = std::env::var("LINEARIZABILITY_SEED") {
        let seed = seed.parse().expect("LINEARIZABILITY_SEED is a number");
        (0..HISTORIES).for_each(|_| drop(check(seed)));
        return;
    }
    let first = Rng::new().u64(..) >> 16;
    println!("seeds {first} to {}", first + HISTORIES - 1);
    let overlapping = (first..first + HISTORIES)
        .filter(|&seed| {
            // Two calls without a response between them are operations at the same time.
            check(seed).windows(2).any(|pair| matches!(pair, [(_, Call(_)), (_, Call(_))]))
        })
        .count();
    println!("{overlapping} of {HISTORIES} histories have operations at the same time");
    assert!(overlapping > 0, "no operations overlapped, so nothing was tested");
}

#[test]
fn the_checker_refuses_a_resurrection_and_names_its_key() {
    // The fault of the reference: an answer from before a revocation is stored after the
    // revocation.
    let stale = vec![
        (0, Call(Lease { key: 1, lease: 1 })),
        (0, Response(Lease { key: 1, lease: 1 })),
        (1, Call(Lookup { key: 2, found: None })),
        (1, Call(Invalidate)),
        (1, Response(Lookup { key: 2, found: None })),
        (1, Response(Invalidate)),
        (0, Call(Remember { key: 1, lease: 1, stored: true, excused: false })),
        (0, Response(Remember { key: 1, lease: 1, stored: true, excused: false })),
        (1, Call(Lookup { key: 1, found: Some(1) })),
        (1, Response(Lookup { key: 1, found: Some(1) })),
    ];
    let stale: Actions = stale
        .into_iter()
        .enumerate()
        .map(|(at, (thread, action))| {
            // A third thread makes the overlapping lookup.
            (if at == 2 || at == 4 { 2 } else { thread }, action)
        })
        .collect();
    assert!(!is_linearizable(&stale));
    // The lease, the invalidation and the remember are left: the contradiction needs no lookup.
    assert_eq!(minimised(&stale).len(), 6);
    let refused: Actions = stale
        .into_iter()
        .filter(|(_, Call(operation) | Response(operation))| {
            !matches!(operation, Lookup { key: 1, .. })
        })
        .map(|(thread, action)| match action {
            Call(Remember { key, lease, .. }) => {
                (thread, Call(Remember { key, lease, stored: false, excused: false }))
            }
            Response(Remember { key, lease, .. }) => {
                (thread, Response(Remember { key, lease, stored: false, excused: false }))
            }
            other => (thread, other),
        })
        .collect();
    assert!(is_linearizable(&refused));
}
