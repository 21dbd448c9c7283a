//! What the cache is for: a cached lookup against the sweep over every trust's digest, in memory.
//!
//! `lookup` is a hit, keys in random order, the time-to-live checked. `sweep` is this crate's.
//! `bytewise_sweep` does what the reference does, which compares byte slices row by row in constant time.
//! `auth/benches` does the same with a database.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use subtle::ConstantTimeEq;
use trust_key_cache::{KeyHash, TrustKeyCache, sweep};
use uuid::Uuid;

/// The digests of as many keys, and an order in which to ask for them that no prefetcher foresees.
fn trusts(count: u64) -> (Vec<KeyHash>, Vec<usize>) {
    let hashes: Vec<_> = (0..count).map(|number| KeyHash::of(number.to_le_bytes())).collect();
    let mut order: Vec<_> = (0..hashes.len()).collect();
    order.sort_by_key(|&index| hashes[index].to_bytes());
    (hashes, order)
}

/// The last match of all rows, each compared as 32 bytes.
fn bytewise_sweep(candidate: &KeyHash, rows: &[[u8; 32]]) -> Option<usize> {
    let candidate = candidate.to_bytes();
    let mut found = None;
    for (index, row) in rows.iter().enumerate() {
        if candidate[..].ct_eq(&row[..]).into() {
            found = Some(index);
        }
    }
    found
}

fn lookup_vs_sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup_vs_sweep");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(30);
    for count in [20, 1_000, 100_000] {
        let (hashes, order) = trusts(count);
        let cache =
            TrustKeyCache::builder().capacity(hashes.len()).build().expect("a capacity within limits");
        for (hash, number) in hashes.iter().zip(1..) {
            cache.lease(hash).remember(Uuid::from_u128(number));
        }
        let mut keys = order.iter().cycle().map(|&index| &hashes[index]);
        group.bench_function(BenchmarkId::new("lookup", count), |bencher| {
            bencher.iter(|| cache.lookup(black_box(keys.next().expect("a cycle has no end"))));
        });
        // Where the match is makes no difference, so one key will do.
        let wanted = &hashes[order[0]];
        group.bench_function(BenchmarkId::new("sweep", count), |bencher| {
            bencher.iter(|| sweep(black_box(wanted), black_box(&hashes)));
        });
        let rows: Vec<_> = hashes.iter().map(|hash| hash.to_bytes()).collect();
        group.bench_function(BenchmarkId::new("bytewise_sweep", count), |bencher| {
            bencher.iter(|| bytewise_sweep(black_box(wanted), black_box(&rows)));
        });
    }
    group.finish();
}

criterion_group!(benches, lookup_vs_sweep);
criterion_main!(benches);
