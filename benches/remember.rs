//! Measures the replacement of a present key's value, with keys in random order. A request makes
//! such a write after a sweep, once in a time-to-live.
//!
//! This cache takes a lease first, and so reads the clock twice. The benchmark `footprint` finds
//! the largest allocation of a remember.

mod peers;
mod workload;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use peers::{Limit, Peer, Shared, for_each_shared, id};
use workload::{filled, settings, sizes};

const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];

fn remember(criterion: &mut Criterion) {
    for_each_shared!(replace(criterion));
    replace_unsynchronised(criterion);
}

fn replace<P: Shared>(criterion: &mut Criterion) {
    for count in sizes(&SIZES) {
        let mut subject = filled::<P>(count);
        let mut group = criterion.benchmark_group("remember");
        if P::COPIES_ALL && count > 1_000 {
            // Each write takes tens of milliseconds.
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new(P::NAME, count), |bencher| {
            let (peer, probes) = &mut *subject;
            bencher.iter(|| peer.insert(black_box(probes.next()), black_box(id(7))));
        });
    }
}

/// Writes to the limit through a mutable reference, as a single thread would.
fn replace_unsynchronised(criterion: &mut Criterion) {
    for count in sizes(&SIZES) {
        let mut subject = filled::<Limit>(count);
        let mut group = criterion.benchmark_group("remember");
        group.bench_function(BenchmarkId::new(Limit::NAME, count), |bencher| {
            let (limit, probes) = &mut *subject;
            bencher.iter(|| {
                limit.insert(black_box(probes.next()), black_box(id(7)), Duration::from_secs(60))
            });
        });
    }
}

criterion_group! { name = benches; config = settings(); targets = remember }
criterion_main!(benches);
