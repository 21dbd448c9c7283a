//! The cost of a renewal on SQLite, at 20, 1,000 and 100,000 trusts.
//!
//! | name | what it measures |
//! |---|---|
//! | `unchanged` | a renewal that finds nothing committed: a poll and the check of the file |
//! | `changed` | a commit of one row, and the renewal after it, which reads all rows |

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::runtime::Builder;
use trust_auth::{ChangeFeed, FeedSession, SqliteSession, SqliteStore};

const SIZES: [u32; 3] = [20, 1_000, 100_000];

async fn filled(file: &std::path::Path, trusts: u32) -> (SqliteStore, SqliteConnection) {
    let options = SqliteStore::options(file).create_if_missing(true).durable(false);
    let store = options.query_timeout(Duration::from_secs(600)).connect().await.unwrap();
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT ?1) \
         INSERT INTO trust (id, name, api_key_hash, created_at) \
         SELECT printf('00000000-0000-0000-0000-%012x', n), 'trust ' || n, printf('%064x', n), \
         '2026-01-01T00:00:00Z' FROM numbers",
    )
    .bind(trusts)
    .execute(&mut connection)
    .await
    .unwrap();
    (store, connection)
}

async fn renew(session: &mut SqliteSession) {
    session.look().await.unwrap();
}

fn renewals(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("sqlite_renewal");
    for trusts in SIZES {
        let file = folder.path().join(format!("{trusts}.db"));
        let (store, mut writer) = runtime.block_on(filled(&file, trusts));
        let mut session = runtime.block_on(store.feed().open(Duration::from_millis(300))).unwrap();
        runtime.block_on(session.load()).unwrap();
        group.bench_function(BenchmarkId::new("unchanged", trusts), |bencher| {
            bencher.iter(|| runtime.block_on(renew(&mut session)));
        });
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("changed", trusts), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let sql = "UPDATE trust SET region = hex(randomblob(4)) WHERE name = 'trust 7'";
                    sqlx::query(sql).execute(&mut writer).await.unwrap();
                    renew(&mut session).await;
                });
            });
        });
        runtime.block_on(async {
            drop(session);
            store.close().await;
        });
    }
    group.finish();
}

criterion_group!(benches, renewals);
criterion_main!(benches);
