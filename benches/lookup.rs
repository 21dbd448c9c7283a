//! Measures one lookup at a time on one thread, keys in random order, as a request does.
//!
//! * `hit` and `miss` run for all rows.
//! * `expired` runs for this cache and for three rows that hold the entry and compare its expiry.
//!   These rows are the limit, the reference's design and scc's index. The other maps make the same
//!   compare in addition to their own hit. moka drops expired entries, so its lookup is a miss.
//! * `invalidated` runs for the caches that can drop all entries at once: this cache, moka, and the
//!   reference's design, which clears its map. For any other map it would be a miss in an empty
//!   map.

mod peers;
mod workload;

use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use peers::{
    ClockAlone, Invalidate, Limit, LoopAlone, Moka, MutexStd, Ours, Peer, SccIndex, for_each_shared,
};
use workload::{Probes, filled, is_test, keys, settings, sizes, unknown_keys};

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
        (peer, Probes::new(&unknown_keys::<P::Key>(count)))
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
            // No entry may expire while the others are inserted: a write would drop it. The
            // time-to-live must also be longer than the lag of the coarse clock.
            let ttl = Duration::from_millis(200) + Duration::from_micros(3) * count as u32;
            let start = Instant::now();
            let peer = P::filled(&keys, ttl);
            assert!(
                start.elapsed() + Duration::from_millis(100) < ttl || is_test(),
                "the machine is busy"
            );
            // A coarse clock may lag behind a precise one.
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
