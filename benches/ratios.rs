//! Measures this cache against its limit and its peers in one process, in alternating slices.
//!
//! Each row runs for 31 rounds, and each contestant for 25 ms a round. A row reports the median of
//! the ratios within the rounds, their quartiles, and the median time of an operation:
//!
//! * `hit`: a lookup of a present key, inlined into the measuring loop, as in a program with one
//!   caller;
//! * `hit (called)`: the same behind a function that is not inlined, called from ten places, as in
//!   a program with several callers;
//! * `hit (held)`: a hit under a read lease, by `lookup_held`, over a hit by `lookup`;
//! * `hit (peers)`: as `hit`, over every peer;
//! * `miss`: a lookup of a key that was never inserted, with the map at capacity. The keys are
//!   digests, at least 65,536 of them, so no branch predictor learns them;
//! * `expired`: a lookup of a present key whose time-to-live is over;
//! * `remember`: the replacement of a present value, with a lease, over papaya's insert;
//! * `one reader`, `two readers`, `eight readers`: hits by so many threads, each in an order of its
//!   own. The figure is the time between two lookups of all threads together;
//! * `one reader next to a writer`: the same while a writer replaces one key every 10 µs;
//! * `two readers over one`: the same threads of this cache, and of the limit in another row;
//! * `p99.99 next to a writer`: the quantile of a slice, with two reads of the clock in it;
//! * `bytes an entry`: the memory of a cache at capacity, counted by the allocator.
//!
//! The rows of hits, misses and expired values have three limits: [`peers`] defines them.
//!
//! Contestants take the same keys in the same random order. Memory holds the digests in the order
//! of the operations, as in all benchmarks here: a request brings its key. A slice starts with
//! operations that are not timed, since the other contestants displaced the map from the
//! processor's caches. Arguments: `cargo bench --bench ratios -- --help`.

mod allocations;
mod peers;
mod rounds;
mod threads;
mod workload;

use std::hint::black_box;
use std::slice;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use uuid::Uuid;

use allocations::Counting;
use peers::{
    Limit, LimitAsWritten, LimitConstantTime, Ours, OursHeld, OursInlined, OverCrossbeam,
    OverSeize, Papaya, Peer, Shared, for_each_shared, id,
};
use rounds::hits::{check_found, full, hit, look_up};
use rounds::{Contestant, Rounds, time_each, wall_time};
use threads::{Gate, with_writer};
use workload::{LASTING, Probes, is_test, keys, order, unknown_keys};

#[global_allocator]
static ALLOCATOR: Counting = Counting::off();

const SIZES: [usize; 5] = [20, 1_000, 10_000, 100_000, 1_000_000];
/// The number of keys that threads share.
const SHARED: usize = 1_000;
/// The smallest number of keys that a row of misses takes in turn.
const UNKNOWN: usize = 1 << 16;

/// Makes the contestants of a row: this cache, and each limit.
macro_rules! over_limits {
    ($contestant:ident, $ours:ident, $count:ident) => {
        vec![
            $contestant::<$ours>($count),
            $contestant::<LimitConstantTime>($count),
            $contestant::<LimitAsWritten>($count),
            $contestant::<Limit>($count),
        ]
    };
}

fn main() {
    let mut rounds = Rounds::from_arguments("ratios");
    let largest = match (is_test(), rounds.is_quick()) {
        (true, _) => 1_000,
        (_, true) => 100_000,
        _ => usize::MAX,
    };
    let sizes: Vec<_> = SIZES.into_iter().filter(|&size| size <= largest).collect();

    // First, so that no garbage of other rows is freed meanwhile.
    for &count in &sizes {
        bytes_per_entry::<Ours>(&mut rounds, count);
        bytes_per_entry::<Papaya>(&mut rounds, count);
        bytes_per_entry::<Limit>(&mut rounds, count);
    }
    for &count in &sizes {
        rounds.row("hit", count, || over_limits!(hit, OursInlined, count));
        rounds.row("hit (called)", count, || over_limits!(called, Ours, count));
        rounds.row("hit (held)", count, || vec![hit::<OursHeld>(count), hit::<OursInlined>(count)]);
        rounds.row("miss", count, || over_limits!(miss, OursInlined, count));
        rounds.row("expired", count, || over_limits!(expired, OursInlined, count));
        rounds.row("hit (peers)", count, || {
            let mut contestants = vec![hit::<OursInlined>(count)];
            for_each_shared!(push_hit(&mut contestants, count));
            contestants
        });
    }
    contention(&mut rounds);
    rounds.row("remember", 1_000, || vec![remember::<Ours>(1_000), remember::<Papaya>(1_000)]);
    rounds.finish();
}

fn push_hit<P: Peer + 'static>(contestants: &mut Vec<Contestant>, count: usize) {
    if is_peer::<P>() {
        contestants.push(hit::<P>(count));
    }
}

/// Returns whether the row is another than this cache. The first contestant is this cache, inlined,
/// and its other reclamations are no peers.
fn is_peer<P: Peer>() -> bool {
    ![Ours::NAME, OverCrossbeam::NAME, OverSeize::NAME].contains(&P::NAME)
}

fn called<P: Peer + 'static>(count: usize) -> Contestant<'static> {
    let (peer, keys) = full::<P>(count);
    check_found::<P>(keys.iter().filter(|key| get(&peer, key).is_some()).count(), count);
    Contestant::of_keys(P::NAME, order(&keys), count, move |keys| call(&peer, keys))
}

fn miss<P: Peer + 'static>(count: usize) -> Contestant<'static> {
    let (peer, _) = full::<P>(count);
    let keys = unknown_keys::<P::Key>(count.max(UNKNOWN));
    assert_eq!(look_up(&peer, &keys), 0);
    Contestant::of_keys(P::NAME, order(&keys), count, move |keys| {
        look_up(&peer, keys);
    })
}

fn expired<P: Peer + 'static>(count: usize) -> Contestant<'static> {
    let keys = keys::<P::Key>(count);
    // No entry may expire while the others are inserted: a write would drop it. The time-to-live
    // must also be longer than the lag of the coarse clock.
    let mut ttl = Duration::from_millis(200) + Duration::from_micros(1) * count as u32;
    let peer = loop {
        let start = Instant::now();
        let peer = P::filled(&keys, ttl);
        if start.elapsed() + Duration::from_millis(100) < ttl {
            break peer;
        }
        // The machine is busy.
        ttl *= 2;
    };
    sleep(ttl + Duration::from_millis(100));
    assert_eq!(look_up(&peer, &keys), 0, "{} returned an old value", P::NAME);
    Contestant::of_keys(P::NAME, order(&keys), count, move |keys| {
        look_up(&peer, keys);
    })
}

fn remember<P: Shared + 'static>(count: usize) -> Contestant<'static> {
    let (peer, keys) = full::<P>(count);
    Contestant::of_keys(P::NAME, order(&keys), count, move |keys| {
        for key in keys {
            peer.insert(black_box(key), black_box(id(7)));
        }
    })
}

fn contention(rounds: &mut Rounds) {
    for (row, threads) in [("one reader", 1), ("two readers", 2), ("eight readers", 8)] {
        rounds.row(row, SHARED, || {
            let mut contestants = vec![readers::<OursInlined>(Ours::NAME, threads)];
            for_each_shared!(push_readers(&mut contestants, threads));
            contestants
        });
    }
    rounds.row("two readers over one", SHARED, scaling::<OursInlined>);
    rounds.row("two readers over one (limit)", SHARED, scaling::<Limit>);
    rounds.row("one reader next to a writer", SHARED, || {
        let mut contestants = vec![next_to_writer::<OursInlined>()];
        for_each_shared!(push_next_to_writer(&mut contestants));
        contestants
    });
    rounds.row("p99.99 next to a writer", SHARED, || {
        let mut contestants = vec![latency::<OursInlined>()];
        for_each_shared!(push_latency(&mut contestants));
        contestants
    });
}

fn push_readers<P: Peer + 'static>(contestants: &mut Vec<Contestant>, threads: usize) {
    if is_peer::<P>() {
        contestants.push(readers::<P>(P::NAME, threads));
    }
}

fn push_next_to_writer<P: Shared + 'static>(contestants: &mut Vec<Contestant>) {
    if is_peer::<P>() {
        contestants.push(next_to_writer::<P>());
    }
}

fn push_latency<P: Shared + 'static>(contestants: &mut Vec<Contestant>) {
    if is_peer::<P>() {
        contestants.push(latency::<P>());
    }
}

fn scaling<P: Peer + 'static>() -> Vec<Contestant<'static>> {
    vec![readers::<P>("two readers", 2), readers::<P>("one reader", 1)]
}

fn readers<P: Peer + 'static>(name: &'static str, threads: usize) -> Contestant<'static> {
    let (peer, keys) = full::<P>(SHARED);
    let order = order(&keys);
    Contestant::new(name, move |round, length| {
        let ready = Gate::new(threads);
        let (peer, order, ready) = (&peer, &order, &ready);
        let rate: f64 = thread::scope(|scope| {
            let readers: Vec<_> = (0..threads)
                .map(|reader| scope.spawn(move || read(peer, order, round + reader, length, ready)))
                .collect();
            let times = readers.into_iter().map(|reader| reader.join().expect("no reader panics"));
            times.map(|time| 1.0 / time).sum()
        });
        1.0 / rate
    })
}

fn next_to_writer<P: Shared + 'static>() -> Contestant<'static> {
    let (peer, keys) = full::<P>(SHARED);
    let (order, written) = (order(&keys), Probes::new(&keys));
    Contestant::new(P::NAME, move |round, length| {
        with_writer(&peer, written.starting_at(0.5), |ready| {
            read(&peer, &order, round, length, ready)
        })
    })
}

/// Returns the time of a lookup, from the time on when all threads are ready.
fn read<P: Peer>(peer: &P, order: &[P::Key], round: usize, length: Duration, ready: &Gate) -> f64 {
    // What a thread does once, such as its registration.
    look_up(peer, &order[..SHARED]);
    ready.pass();
    time_each(order, round, length, wall_time, |keys| {
        look_up(peer, keys);
    })
}

fn latency<P: Shared + 'static>() -> Contestant<'static> {
    let (peer, keys) = full::<P>(SHARED);
    let (order, written) = (order(&keys), Probes::new(&keys));
    // Holds up to a second, with three digits.
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).expect("bounds in order");
    Contestant::new(P::NAME, move |round, length| {
        histogram.reset();
        with_writer(&peer, written.starting_at(0.5), |ready| {
            look_up(&peer, &order[..SHARED]);
            ready.pass();
            // Twice as long, since one lookup in 10,000 decides.
            time_each(&order, round, 2 * length, wall_time, |keys| {
                for key in keys {
                    let start = Instant::now();
                    look_up(&peer, slice::from_ref(key));
                    histogram.saturating_record(start.elapsed().as_nanos() as u64);
                }
            })
        });
        histogram.value_at_quantile(0.9999) as f64
    })
}

fn bytes_per_entry<P: Peer>(rounds: &mut Rounds, count: usize) {
    let name = "bytes an entry";
    if rounds.wants(name) {
        let keys = keys::<P::Key>(count);
        let (peer, bytes) = ALLOCATOR.counted(|| black_box(P::filled(&keys, LASTING)));
        rounds.note(name, count, P::NAME, bytes as f64 / count as f64);
        drop(peer);
    }
}

/// Calls [`get`] from ten places.
#[inline(never)]
fn call<P: Peer>(peer: &P, keys: &[P::Key]) {
    let (tens, rest) = keys.as_chunks::<10>();
    assert!(rest.is_empty(), "a batch is a multiple of ten");
    for [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9] in tens {
        black_box(get(peer, black_box(k0)));
        black_box(get(peer, black_box(k1)));
        black_box(get(peer, black_box(k2)));
        black_box(get(peer, black_box(k3)));
        black_box(get(peer, black_box(k4)));
        black_box(get(peer, black_box(k5)));
        black_box(get(peer, black_box(k6)));
        black_box(get(peer, black_box(k7)));
        black_box(get(peer, black_box(k8)));
        black_box(get(peer, black_box(k9)));
    }
}

#[inline(never)]
fn get<P: Peer>(peer: &P, key: &P::Key) -> Option<Uuid> {
    peer.get_inlined(key)
}
