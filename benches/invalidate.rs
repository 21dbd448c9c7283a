//! Measures a revocation: of all keys at once, and of one key.
//!
//! `all` runs in a cache with room for a million keys, empty and full. This cache and moka only
//! raise a mark, so each round can raise it again. The reference's design drops every entry, so
//! each round gets a refilled map. The refill is not timed. `one` removes a key that the cache
//! holds. The key is put back between rounds, which is not timed either.

mod peers;
mod workload;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

use peers::{Invalidate, Moka, MutexStd, Ours, Peer, id};
use workload::{LASTING, Probes, filled, is_test, keys, settings, sizes};

fn invalidate(criterion: &mut Criterion) {
    all_by_mark::<Ours>(criterion);
    all_by_mark::<Moka>(criterion);
    all_by_clearing(criterion);
    one::<Ours>(criterion);
    one::<Moka>(criterion);
    one::<MutexStd>(criterion);
}

/// Returns a million, and fewer with `--test`.
fn many() -> usize {
    if is_test() { 1_000 } else { 1_000_000 }
}

fn all_by_mark<P: Invalidate>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("invalidate/all");
    for held in [0, many()] {
        let mut subject = std::cell::LazyCell::new(|| {
            let keys = keys::<P::Key>(many());
            let peer = P::filled(&keys, LASTING);
            if held == 0 {
                // The cache has room for all keys, and holds none.
                keys.iter().for_each(|key| peer.invalidate_key(key));
            }
            peer
        });
        group.bench_function(BenchmarkId::new(P::NAME, held), |bencher| {
            let peer = &mut *subject;
            bencher.iter(|| peer.invalidate());
        });
    }
}

fn all_by_clearing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("invalidate/all");
    group.sample_size(10);
    for held in [0, many()] {
        let keys = keys(held);
        group.bench_function(BenchmarkId::new(MutexStd::NAME, held), |bencher| {
            bencher.iter_batched_ref(
                || MutexStd::filled(&keys, LASTING),
                |peer| peer.invalidate(),
                BatchSize::PerIteration,
            );
        });
    }
}

fn one<P: Invalidate>(criterion: &mut Criterion) {
    /// No key occurs twice in a batch: the second removal would find no key.
    const BATCH: u64 = 1_000;
    let mut group = criterion.benchmark_group("invalidate/one");
    for count in sizes(&[1_000, 1_000_000]) {
        let mut subject = filled::<P>(count);
        group.bench_function(BenchmarkId::new(P::NAME, count), |bencher| {
            let (peer, probes): &mut (P, Probes<P::Key>) = &mut subject;
            bencher.iter_batched(
                || {
                    let key = *probes.next();
                    peer.insert(&key, id(7));
                    key
                },
                |key| peer.invalidate_key(black_box(&key)),
                BatchSize::NumIterations(BATCH),
            );
        });
    }
}

criterion_group! { name = benches; config = settings(); targets = invalidate }
criterion_main!(benches);
