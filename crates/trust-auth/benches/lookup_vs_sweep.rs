//! The cost of a request with and without the cache, at 20, 1,000 and 100,000 trusts.
//!
//! | name | what it measures |
//! |---|---|
//! | `hot` | `Authenticator::authenticate` for a key in the cache |
//! | `fetch` | the read by primary key that `hot` contains |
//! | `sweep` | the same request after the cache was emptied |
//! | `find` | the same by an index: a lookup, and the read of the row |
//! | `find_unknown` | a key that no trust has, by an index |
//! | `candidates` | the read of all rows that `sweep` begins with |
//! | `candidates_and_fetch` | that read, and the read of the row that matched |
//! | `sweep_three_keys`, `candidates_three_keys` | the same, with two more keys for each trust |
//! | `held` | `authenticate` for a held key, with a read lease: nothing is read |
//! | `look` | the same with an unknown key: a look, and a sweep of the held rows |
//!
//! The difference of `hot` and `fetch` is the hash, the lookup and the compare. All run on SQLite,
//! in a file. `hot` also runs on the store in memory.
//!
//! The runtime has one thread, next to the driver's. A server's requests are tasks on the threads
//! that run the scans. With more threads, `block_on` would also measure the time to wake a thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use sqlx::{ConnectOptions, Connection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::{Builder, Runtime};
use trust_auth::{
    Authenticator, FindBy, HeldTrusts, KeyHash, MemoryStore, SqliteStore, Trust, TrustKeyCache,
    TrustStore,
};
use uuid::Uuid;

const SIZES: [usize; 3] = [20, 1_000, 100_000];

/// Returns the key of a trust. The benchmarks use the trust in the middle.
fn key(at: usize) -> String {
    format!("the key of trust {at}")
}

fn rows(trusts: usize) -> impl Iterator<Item = Trust> {
    (0..trusts).map(|at| {
        let mut trust = Trust::new(Uuid::from_u128(at as u128), format!("trust {at}"));
        trust.region = Some("north".into());
        trust.api_key_hash = Some(KeyHash::of(key(at)));
        trust.created_at = Some(OffsetDateTime::UNIX_EPOCH);
        trust
    })
}

/// Makes an SQLite file with this many trusts, in one transaction.
async fn sqlite(folder: &std::path::Path, trusts: usize) -> SqliteStore {
    let file = folder.join(format!("{trusts}.db"));
    let options = SqliteStore::options(&file).create_if_missing(true).durable(false);
    let store = options.query_timeout(Duration::from_secs(600)).connect().await.unwrap();
    let mut connection =
        sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    for row in rows(trusts) {
        sqlx::query(
            "INSERT INTO trust (id, name, region, api_key_hash, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(row.id.to_string())
        .bind(row.name)
        .bind(row.region)
        .bind(row.api_key_hash.unwrap().to_hex())
        .bind(row.created_at.unwrap().format(&Rfc3339).unwrap())
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    transaction.commit().await.unwrap();
    connection.close().await.unwrap();
    // Otherwise the system would write the file during the first measurements.
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    store
}

fn hot<S: TrustStore>(
    c: &mut Criterion,
    runtime: &Runtime,
    group: &str,
    trusts: usize,
    authenticator: &Authenticator<S>,
) {
    let key = key(trusts / 2);
    // The first request of a minute sweeps, because the entry has expired. One request does not
    // change the median.
    c.benchmark_group(group).bench_function(BenchmarkId::new("hot", trusts), |b| {
        b.to_async(runtime).iter(async || authenticator.authenticate(Some(&key)).await.unwrap());
    });
}

fn on_sqlite(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for trusts in SIZES {
        let store = Arc::new(runtime.block_on(sqlite(folder.path(), trusts)));
        let cache = Arc::new(TrustKeyCache::new());
        let authenticator = Authenticator::new(Arc::clone(&store), Arc::clone(&cache));
        let key = key(trusts / 2);
        let id = Uuid::from_u128((trusts / 2) as u128);

        hot(c, &runtime, "sqlite", trusts, &authenticator);
        let mut group = c.benchmark_group("sqlite");
        group.bench_function(BenchmarkId::new("fetch", trusts), |b| {
            b.to_async(&runtime).iter(async || black_box(store.fetch(id).await.unwrap().unwrap()));
        });
        // A sample of the largest table takes a large part of a second.
        if trusts >= 100_000 {
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new("sweep", trusts), |b| {
            b.to_async(&runtime).iter_batched(
                || cache.invalidate(),
                async |()| authenticator.authenticate(Some(&key)).await.unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("candidates", trusts), |b| {
            b.to_async(&runtime).iter(async || black_box(store.candidates().await.unwrap()));
        });
        group.bench_function(BenchmarkId::new("candidates_and_fetch", trusts), |b| {
            b.to_async(&runtime).iter(async || {
                black_box(store.candidates().await.unwrap());
                black_box(store.fetch(id).await.unwrap().unwrap())
            });
        });
        group.finish();
        with_a_lease(c, &runtime, trusts, &store);
        by_an_index(c, &runtime, trusts, &store, folder.path());
        runtime.block_on(store.close());
    }
    with_three_keys(c, &runtime, folder.path());
}

/// The largest table once more. The first key of each trust is in its own row.
fn with_three_keys(c: &mut Criterion, runtime: &Runtime, folder: &std::path::Path) {
    let trusts = SIZES[SIZES.len() - 1];
    let file = folder.join(format!("{trusts}.db"));
    let store = runtime.block_on(async {
        let mut connection =
            sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
        for number in 1..3 {
            sqlx::query(
                "INSERT INTO trust_key (id, trust, digest, created_at) \
                 SELECT printf('%08x-0000-4000-8000-%012x', ?1, rowid), id, \
                 lower(hex(randomblob(32))), created_at FROM trust",
            )
            .bind(number)
            .execute(&mut connection)
            .await
            .unwrap();
        }
        connection.close().await.unwrap();
        std::fs::File::open(&file).unwrap().sync_all().unwrap();
        SqliteStore::options(&file).query_timeout(Duration::from_secs(600)).connect().await.unwrap()
    });
    let store = Arc::new(store);
    let authenticator = Authenticator::new(Arc::clone(&store), Arc::default());
    let mut group = c.benchmark_group("sqlite");
    group.sample_size(10);
    group.bench_function(BenchmarkId::new("sweep_three_keys", trusts), |b| {
        b.to_async(runtime).iter(async || {
            authenticator.authenticate(Some("no trust has this")).await.unwrap_err()
        });
    });
    group.bench_function(BenchmarkId::new("candidates_three_keys", trusts), |b| {
        b.to_async(runtime).iter(async || black_box(store.candidates().await.unwrap()));
    });
    group.finish();
    runtime.block_on(store.close());
}

fn with_a_lease(c: &mut Criterion, runtime: &Runtime, trusts: usize, store: &Arc<SqliteStore>) {
    // The task of the holder runs only while the runtime does, so the lease is long.
    let length = Duration::from_secs(300);
    let held = runtime.block_on(HeldTrusts::start(store.feed(), "benchmark", length)).unwrap();
    let authenticator = Authenticator::builder(Arc::clone(store), Arc::default())
        .read_lease(Arc::new(held))
        .build();
    let key = key(trusts / 2);
    let authenticate = async || authenticator.authenticate(Some(&key)).await.unwrap();
    let mut group = c.benchmark_group("sqlite");
    group.bench_function(BenchmarkId::new("held", trusts), |b| {
        b.to_async(runtime).iter(authenticate);
    });
    group.sample_size(10);
    // A miss after a pause, which finds threads and caches cold, by a look and by a scan.
    let by_scan = Authenticator::new(Arc::clone(store), Arc::default());
    for (name, authenticator) in [("look", &authenticator), ("scan_after_a_pause", &by_scan)] {
        group.bench_function(BenchmarkId::new(name, trusts), |b| {
            b.to_async(runtime).iter_batched(
                // Longer than the least time between two looks.
                || std::thread::sleep(Duration::from_millis(11)),
                async |()| authenticator.authenticate(Some("no trust has this")).await.unwrap_err(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn by_an_index(
    c: &mut Criterion,
    runtime: &Runtime,
    trusts: usize,
    store: &Arc<SqliteStore>,
    folder: &std::path::Path,
) {
    let options = SqliteStore::options(folder.join(format!("{trusts}.db")));
    runtime.block_on(options.make_index()).unwrap();
    runtime.block_on(store.check_index()).unwrap();
    let cache = Arc::new(TrustKeyCache::new());
    let authenticator = Authenticator::builder(Arc::clone(store), Arc::clone(&cache))
        .find_by(FindBy::Index)
        .build();
    let key = key(trusts / 2);
    let mut group = c.benchmark_group("sqlite");
    group.bench_function(BenchmarkId::new("find", trusts), |b| {
        b.to_async(runtime).iter_batched(
            || cache.invalidate(),
            async |()| authenticator.authenticate(Some(&key)).await.unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function(BenchmarkId::new("find_unknown", trusts), |b| {
        b.to_async(runtime).iter(async || {
            authenticator.authenticate(Some("no trust has this")).await.unwrap_err()
        });
    });
    group.finish();
}

fn in_memory(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for trusts in SIZES {
        let store = Arc::new(MemoryStore::with_rows(rows(trusts)).unwrap());
        let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
        hot(c, &runtime, "memory", trusts, &authenticator);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = on_sqlite, in_memory
}
criterion_main!(benches);
