//! The constant-time sweep over digests in memory, against the same sweep byte by byte, and against
//! the lookup that makes it unnecessary.
//!
//! `bytewise` works like the reference: it compares byte slices row by row in constant time.
//! `crates/trust-auth/benches` measures the same with a database.

mod peers;
mod workload;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use subtle::ConstantTimeEq;
use trust_key_cache::{KeyHash, sweep};

use peers::{Ours, Peer};
use workload::{filled, keys, settings, sizes};

fn sweeps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for count in sizes(&[20, 1_000, 100_000]) {
        let hashes: Vec<KeyHash> = keys(count);
        let rows: Vec<_> = hashes.iter().map(|hash| hash.to_bytes()).collect();
        // The place of the match makes no difference, so one key is enough.
        let wanted = &hashes[count / 2];
        group.bench_function(BenchmarkId::new("trust-key-cache", count), |bencher| {
            bencher.iter(|| sweep(black_box(wanted), black_box(&hashes[..])));
        });
        group.bench_function(BenchmarkId::new("bytewise", count), |bencher| {
            bencher.iter(|| bytewise(black_box(wanted), black_box(&rows)));
        });
        let mut subject = filled::<Ours>(count);
        group.bench_function(BenchmarkId::new("lookup", count), |bencher| {
            let (cache, probes) = &mut *subject;
            bencher.iter(|| cache.get(black_box(probes.next())));
        });
    }
}

/// Returns the last match of all rows, each compared as 32 bytes.
fn bytewise(candidate: &KeyHash, rows: &[[u8; 32]]) -> Option<usize> {
    let candidate = candidate.to_bytes();
    let mut found = None;
    for (index, row) in rows.iter().enumerate() {
        if candidate[..].ct_eq(&row[..]).into() {
            found = Some(index);
        }
    }
    found
}

criterion_group! { name = benches; config = settings(); targets = sweeps }
criterion_main!(benches);
