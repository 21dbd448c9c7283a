//! One lookup at a time on one thread, keys in random order: what an authenticated request pays.
//!
//! `hit` and `miss` for everything that is compared. `expired` for ours and three peers which hold
//! the entry and compare its expiry: the limit, the reference's design and scc's index; the others
//! do the same on top of their own hit, and moka, which drops what has expired, only misses.
//! `invalidated` for those that can drop everything at once: ours, moka, and the reference's
//! design, whose map is cleared; for any other map it would be a miss in an empty map.

mod peers;
mod workload;

use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use peers::{
    ClockAlone, Invalidate, Limit, LoopAlone, Moka, MutexStd, Ours, Peer, SccIndex, for_each_shared,
};
use workload::{Probes, filled, is_test, keys, settings, sizes, strangers};

const SIZES: [usize; 4] = [20, 1_000, 100_000, 1_000_000];

fn lookup(criterion: &mut Criterion) {
    for_each_shared!(hit_and_miss(criterion));
    hit_and_miss::<Limit>(criterion);
    hit::<ClockAlone>(criterion, 1_000);
    hit::<LoopAlone>(criterion, 1_000);

    expired::<Ours>(criterion);
    expired::<Limit>(criterion);
    expired::<MutexStd>(criterion);
    expired::<SccIndex>(criterion);

    invalidated::<Ours>(criterion);
    invalidated::<Moka>(criterion);
    invalidated::<MutexStd>(criterion);
}

fn hit_and_miss<P: Peer>(criterion: &mut Criterion) {
    for count in sizes(&SIZES) {
        hit::<P>(criterion, count);
        miss::<P>(criterion, count);
    }
}

fn hit<P: Peer>(criterion: &mut Criterion, count: usize) {
    let mut subject = filled::<P>(count);
    criterion.benchmark_group("lookup/hit").bench_function(
        BenchmarkId::new(P::NAME, count),
        |bencher| {
            let (peer, probes) = &mut *subject;
            bencher.iter(|| peer.get(black_box(probes.next())));
        },
    );
}

fn miss<P: Peer>(criterion: &mut Criterion, count: usize) {
    let mut subject = std::cell::LazyCell::new(|| {
        let peer = P::filled(&keys(count), workload::LASTING);
        (peer, Probes::new(&strangers::<P::Key>(count)))
    });
    criterion.benchmark_group("lookup/miss").bench_function(
        BenchmarkId::new(P::NAME, count),
        |bencher| {
            let (peer, probes) = &mut *subject;
            bencher.iter(|| peer.get(black_box(probes.next())));
        },
    );
}

fn expired<P: Peer>(criterion: &mut Criterion) {
    for count in sizes(&SIZES) {
        let mut subject = std::cell::LazyCell::new(|| {
            let keys = keys::<P::Key>(count);
            // Nothing may expire while the rest is put in, or a write would drop it; the coarse
            // clock wants more than its lag, too.
            let ttl = Duration::from_millis(200) + Duration::from_micros(3) * count as u32;
            let start = Instant::now();
            let peer = P::filled(&keys, ttl);
            assert!(
                start.elapsed() + Duration::from_millis(100) < ttl || is_test(),
                "the machine is busy"
            );
            // A coarse clock may come after a precise one.
            sleep(ttl + Duration::from_millis(100));
            assert!(peer.get(&keys[0]).is_none());
            (peer, Probes::new(&keys))
        });
        let mut group = criterion.benchmark_group("lookup/expired");
        group.bench_function(BenchmarkId::new(P::NAME, count), |bencher| {
            let (peer, probes) = &mut *subject;
            bencher.iter(|| peer.get(black_box(probes.next())));
        });
    }
}

fn invalidated<P: Invalidate>(criterion: &mut Criterion) {
    for count in sizes(&SIZES) {
        let mut subject = filled::<P>(count);
        let mut group = criterion.benchmark_group("lookup/invalidated");
        group.bench_function(BenchmarkId::new(P::NAME, count), |bencher| {
            let (peer, probes) = &mut *subject;
            peer.invalidate();
            bencher.iter(|| peer.get(black_box(probes.next())));
        });
    }
}

criterion_group! { name = benches; config = settings(); targets = lookup }
criterion_main!(benches);
