//! Measures a lookup that hits, in each of the three ways.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use trust_key_cache::KeyHash;

use crate::database::{DatabaseError, User};
use crate::print_row;
use crate::service::Users;
use crate::ways::{Moka, MutexAndCounter, Way};

const KEYS: u32 = 1_000;
/// Short rounds, and the fastest of many: other processes disturb the rest.
const LOOKUPS: u32 = 50_000;
const ROUNDS: u32 = 30;

/// Prints the times, if the program is optimised.
pub(crate) fn print() {
    if cfg!(debug_assertions) {
        println!("\n`cargo run --release -p principals` also measures what a lookup costs.");
        return;
    }
    println!("\nA lookup that hits, {KEYS} keys, and a clone of the user (fastest of {ROUNDS}):\n");
    print_row("", "one thread", "two threads");
    row(&Moka::new());
    row(&Users::new());
    row(&MutexAndCounter::default());
    println!("\nWith the mutex, a lookup waits for the other thread, also while the kernel has");
    println!("descheduled that thread. A request that takes a millisecond does not notice the");
    println!("difference. It matters if a request makes many lookups, or must not wait.");
}

fn row<W: Way>(way: &W) {
    let hashes: Vec<_> = (0..KEYS).map(|number| KeyHash::of(number.to_le_bytes())).collect();
    for hash in &hashes {
        fill(way, hash);
    }
    let [alone, two] = [1, 2].map(|threads| {
        let rounds = (0..ROUNDS).map(|_| time(way, &hashes, threads));
        format!("{:.0} ns", rounds.fold(f64::INFINITY, f64::min))
    });
    print_row(W::NAME, &alone, &two);
}

fn fill<W: Way>(way: &W, hash: &KeyHash) {
    let user = User { id: 1, name: "Ada".into(), organization: "St. Mary".into(), role: "".into() };
    let load = || std::future::ready(Ok::<_, DatabaseError>(Some(Arc::new(user))));
    // Nothing in the future waits.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let filled = std::pin::pin!(way.authenticate(hash, load)).poll(&mut context);
    assert!(filled.is_ready());
}

/// Returns the nanoseconds of a lookup, by the slowest thread. The keys come in an order that
/// differs between the threads.
fn time<W: Way>(way: &W, hashes: &[KeyHash], threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let slowest = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let step = [7, 11][thread % 2];
                    let mut next = thread;
                    barrier.wait();
                    let begun = Instant::now();
                    for _ in 0..LOOKUPS {
                        next = (next + step) % hashes.len();
                        assert!(black_box(way.lookup(&hashes[next])).is_some());
                    }
                    begun.elapsed()
                })
            })
            .collect();
        let times = threads.into_iter().map(|thread| thread.join().unwrap_or(Duration::MAX));
        times.max().unwrap_or_default()
    });
    slowest.as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}
