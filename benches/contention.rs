//! Measures what readers cost each other, and what a writer costs them, at 1,000 keys.
//!
//! One iteration is one lookup by each reader, so lookups per second are readers over time. The
//! writer replaces one key every 10 µs, or as fast as it can where a write takes longer. `latency`
//! times each lookup next to the writer on its own. Each of its figures contains two reads of the
//! clock, as `the loop alone` shows.

mod peers;
mod threads;
mod workload;

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use peers::{Limit, LoopAlone, Peer, Shared, for_each_shared};
use threads::{Gate, with_writer};
use workload::{Probes, filled, is_test, save, settings};

const KEYS: usize = 1_000;
/// The smallest number of lookups in a sample. Criterion begins with one lookup, which ends before
/// the threads have met.
const LEAST: u64 = 300_000;

fn contention(criterion: &mut Criterion) {
    for_each_shared!(readers(criterion));
    readers::<Limit>(criterion);
    for_each_shared!(next_to_writer(criterion));

    let mut latencies = Map::new();
    for_each_shared!(latency(criterion, &mut latencies));
    latency::<LoopAlone>(criterion, &mut latencies);
    if !latencies.is_empty() {
        save("latency", &Value::Object(latencies));
    }
}

fn readers<P: Peer>(criterion: &mut Criterion) {
    let mut subject = filled::<P>(KEYS);
    for (group, readers) in [("contention/one_reader", 1), ("contention/two_readers", 2)] {
        let mut group = criterion.benchmark_group(group);
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(readers as u64));
        group.bench_function(P::NAME, |bencher| {
            let (peer, probes) = &mut *subject;
            bencher.iter_custom(sampled(|lookups| {
                let ready = Gate::new(readers);
                let each = thread::scope(|scope| {
                    let threads: Vec<_> = (0..readers)
                        .map(|reader| probes.starting_at(reader as f64 / readers as f64))
                        .map(|probes| scope.spawn(|| read(peer, probes, lookups, &ready)))
                        .collect();
                    threads
                        .into_iter()
                        .map(|thread| thread.join().expect("no reader panics"))
                        .collect::<Vec<_>>()
                });
                each.iter().sum::<Duration>() / readers as u32
            }));
        });
    }
}

fn next_to_writer<P: Shared>(criterion: &mut Criterion) {
    let mut subject = filled::<P>(KEYS);
    let mut group = criterion.benchmark_group("contention/next_to_writer");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    group.bench_function(P::NAME, |bencher| {
        let (peer, probes) = &mut *subject;
        bencher.iter_custom(sampled(|lookups| {
            with_writer(peer, probes.starting_at(0.5), |ready| {
                read(peer, probes.starting_at(0.0), lookups, ready)
            })
        }));
    });
}

fn latency<P: Shared>(criterion: &mut Criterion, latencies: &mut Map<String, Value>) {
    let mut subject = filled::<P>(KEYS);
    // Holds up to a second, with three digits.
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).expect("bounds in order");
    let mut group = criterion.benchmark_group("contention/latency");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(P::NAME, |bencher| {
        let (peer, probes) = &mut *subject;
        bencher.iter_custom(sampled(|lookups| {
            with_writer(peer, probes.starting_at(0.5), |ready| {
                let mut probes = probes.starting_at(0.0);
                ready.pass();
                let mut all = Duration::ZERO;
                for _ in 0..lookups {
                    let key = black_box(probes.next());
                    let start = Instant::now();
                    black_box(peer.get(key));
                    let duration = start.elapsed();
                    all += duration;
                    histogram.saturating_record(duration.as_nanos() as u64);
                }
                all
            })
        }));
    });
    if histogram.is_empty() {
        return;
    }
    let quantiles =
        [0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99995, 0.99999, 0.999999];
    latencies.insert(
        P::NAME.into(),
        json!({
            "lookups": histogram.len(),
            "quantiles_ns": quantiles
                .map(|share| json!([share, histogram.value_at_quantile(share)])),
            "max_ns": histogram.max(),
        }),
    );
}

/// Makes at least [`LEAST`] lookups, and returns the time of the requested number.
fn sampled(mut race: impl FnMut(u64) -> Duration) -> impl FnMut(u64) -> Duration {
    move |lookups| {
        let taken = if is_test() { lookups } else { lookups.max(LEAST) };
        race(taken).mul_f64(lookups as f64 / taken as f64)
    }
}

/// Returns the time that one thread needs for the lookups, after all threads have arrived.
fn read<P: Peer>(peer: &P, mut probes: Probes<P::Key>, lookups: u64, ready: &Gate) -> Duration {
    ready.pass();
    let start = Instant::now();
    for _ in 0..lookups {
        black_box(peer.get(black_box(probes.next())));
    }
    start.elapsed()
}

criterion_group! { name = benches; config = settings(); targets = contention }
criterion_main!(benches);
