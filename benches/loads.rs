//! Measures the calls that load on a miss, in alternating slices, as the benchmark `ratios` does.
//!
//! * `get_or_try_load, hit` and `get_or_try_load_async, hit`: over `lookup`, and over the calls of
//!   moka and quick_cache. The future is polled once;
//! * `stampede`: 64 threads miss one key. The figure is the time from the end of the only load to
//!   the return of the last thread.
//!
//! This is a program of its own, so that `ratios` contains one call of each peer's lookup.

mod peers;
mod rounds;
mod workload;

use std::hint::black_box;
use std::pin::pin;
use std::slice;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::{self, sleep};
use std::time::Duration;

use uuid::Uuid;

use peers::{Load, LoadAsync, Moka, MokaTry, OursInlined, QuickCache, id};
use rounds::hits::{check_found, full, hit};
use rounds::{Contestant, Quartiles, Rounds, wall_time};
use workload::{order, unknown_keys};

const KEYS: usize = 1_000;
/// Caches with value types of their own, so that the program has one call of each function.
type Blocking = OursInlined<1>;
type Async = OursInlined<2>;

fn main() {
    let mut rounds = Rounds::from_arguments("loads");
    rounds.row("get_or_try_load, hit", KEYS, || {
        let mut lookup = hit::<OursInlined>(KEYS);
        lookup.name = "lookup";
        vec![
            load_hit::<Blocking>(),
            lookup,
            load_hit::<Moka>(),
            load_hit::<MokaTry>(),
            load_hit::<QuickCache>(),
        ]
    });
    rounds.row("get_or_try_load_async, hit", KEYS, || {
        let mut lookup = hit::<OursInlined>(KEYS);
        lookup.name = "lookup";
        vec![load_async_hit::<Async>(), lookup, load_async_hit::<QuickCache>()]
    });
    rounds.row("stampede", KEYS, || {
        vec![
            stampede::<Blocking>(),
            stampede::<Moka>(),
            stampede::<MokaTry>(),
            stampede::<QuickCache>(),
        ]
    });
    rounds.finish();
}

fn load_hit<P: Load + 'static>() -> Contestant<'static> {
    let (peer, keys) = full::<P>(KEYS);
    check_found::<P>(load_each(&peer, &keys, &|| id(7)), KEYS);
    Contestant::of_keys(P::CALL, order(&keys), KEYS, move |keys| {
        load_each(&peer, keys, &|| unreachable!("the key is present"));
    })
}

fn load_async_hit<P: LoadAsync + 'static>() -> Contestant<'static> {
    let (peer, keys) = full::<P>(KEYS);
    Contestant::of_keys(P::CALL, order(&keys), KEYS, move |keys| load_each_async(&peer, keys))
}

/// Lets 64 threads miss a key that is new in each stampede, until the slice is over.
fn stampede<P: Load + 'static>() -> Contestant<'static> {
    const THREADS: usize = 64;
    // Long enough for all threads to arrive on two processors.
    const LOAD: Duration = Duration::from_millis(2);

    let (peer, _) = full::<P>(KEYS);
    let mut unknown = unknown_keys::<P::Key>(1 << 14).into_iter();
    Contestant::new(P::CALL, move |_, length| {
        let start = wall_time();
        let mut times = Vec::new();
        loop {
            let key = unknown.next().expect("more keys than stampedes");
            let (loads, loaded_at) = (AtomicU64::new(0), AtomicU64::new(0));
            let load = || {
                // Relaxed, here and below: the threads are joined before the counters are read.
                loads.fetch_add(1, Ordering::Relaxed);
                sleep(LOAD);
                loaded_at.store(wall_time().as_nanos() as u64, Ordering::Relaxed);
                id(7)
            };
            let together = Barrier::new(THREADS);
            let last = thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            together.wait();
                            assert_eq!(load_each(&peer, slice::from_ref(&key), &load), 1);
                            wall_time().as_nanos() as u64
                        })
                    })
                    .collect();
                let ends = threads.into_iter().map(|thread| thread.join().expect("no panic"));
                ends.max().expect("there are threads")
            });
            assert_eq!(loads.into_inner(), 1, "{}: a stampede makes one load", P::CALL);
            times.push((last - loaded_at.into_inner()) as f64);
            if wall_time() - start >= length {
                return Quartiles::of(times).median();
            }
        }
    })
}

/// Returns the number of keys that have a value. It has the program's only call of `get_or_load`.
#[inline(never)]
fn load_each<P: Load>(peer: &P, keys: &[P::Key], load: &dyn Fn() -> Uuid) -> usize {
    let mut found = 0;
    for key in keys {
        found += usize::from(black_box(peer.get_or_load(black_box(key), load)).is_some());
    }
    found
}

#[inline(never)]
fn load_each_async<P: LoadAsync>(peer: &P, keys: &[P::Key]) {
    let mut context = Context::from_waker(Waker::noop());
    for key in keys {
        let call = pin!(peer.get_or_load_async(black_box(key), std::future::pending()));
        match call.poll(&mut context) {
            Poll::Ready(found) => drop(black_box(found)),
            Poll::Pending => unreachable!("the key is present"),
        }
    }
}
