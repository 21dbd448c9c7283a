//! How long a revocation takes while three services hold leases on one PostgreSQL, and what the
//! lease costs a writer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::populate::{populate_postgres, runtime};
use crate::postgres_server::PostgresServer;
use crate::server::Server;
use crate::{Effort, Figure};

const TRUSTS: usize = 100;
const P50_AT_MOST: Duration = Duration::from_millis(20);
const P99_AT_MOST: Duration = Duration::from_millis(100);
/// With one service stopped, a revocation takes its lease and this, at most.
const OVER_THE_LEASE: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(2);
/// A writer's transaction with leases over one without.
const WRITER_AT_MOST: f64 = 1.3;

/// Revokes by the admin API of one of three services. Each revocation is of a trust of its own.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let postgres = PostgresServer::shared()?;
    let rounds = if effort == Effort::Full { 300 } else { 3 };
    let url = postgres.new_database();
    runtime().block_on(populate_postgres(&url, TRUSTS));
    let lease = format!("{}s", LEASE.as_secs());
    let arguments = ["--migrate", "--read-lease", &*lease];
    let runtime = runtime();
    let start = || runtime.block_on(Server::on(&url, &arguments));
    let (one, _other, stopped) = (start(), start(), start());
    let revoke = async |name: &str| {
        let trust = one.register(name).await;
        let path = format!("/admin/trusts/{}/disable", trust.id);
        let begun = Instant::now();
        let answer = one.administer("POST", &path, &Value::Null).await;
        let took = begun.elapsed();
        assert_eq!(answer.status, 200, "{answer:?}");
        let end = answer.json()["revocation"].clone();
        assert_eq!(end["everywhere"], json!(true), "{end}");
        (took, end)
    };
    runtime.block_on(async {
        // The first one waits for the longest lease: the server has just started.
        revoke("first").await;
        let mut took = Vec::new();
        for round in 0..rounds {
            let (time, end) = revoke(&format!("revoked {round}")).await;
            assert_eq!((&end["holders"], &end["silent"]), (&json!(3), &json!([])), "{end}");
            took.push(time);
        }
        took.sort_unstable();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        stopped.signal("STOP");
        // The answer has one silent holder, or two holders: another one may have struck it off.
        let (silent, _) = revoke("while one is stopped").await;
        stopped.signal("CONT");
        let text = format!(
            "{rounds} revocations with three holders on PostgreSQL: 50 % within {p50:.1?} (at most \
             {P50_AT_MOST:?}), 99 % within {p99:.1?} (at most {P99_AT_MOST:?}); with one of them \
             stopped {silent:.2?} (at most {:?})",
            LEASE + OVER_THE_LEASE
        );
        let met = p50 <= P50_AT_MOST && p99 <= P99_AT_MOST && silent <= LEASE + OVER_THE_LEASE;
        Some(Figure { text, met })
    })
}

/// Runs a writer's transaction on a database with leases and on one without, in turns. No service
/// runs, so that only the transaction is measured.
pub(crate) fn measure_writer(effort: Effort) -> Option<Figure> {
    // As a server whose commits last. Without the flush, the triggers are most of the transaction.
    let durable = |_: &PostgresServer| "-c fsync=on -c full_page_writes=on".to_owned();
    let postgres = PostgresServer::start_with(durable)?;
    let (rounds, writes) = if effort == Effort::Full { (10, 100) } else { (1, 3) };
    runtime().block_on(async {
        let mut connections = Vec::new();
        for has_lease in [true, false] {
            let url = postgres.new_database();
            populate_postgres(&url, TRUSTS).await;
            if has_lease {
                let options = trust_auth::PostgresStore::options(&url);
                trust_auth::PgChanges::trusts(options).run_migration().await.unwrap();
            }
            connections.push(PgConnection::connect(&url).await.unwrap());
        }
        let mut medians = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (connection, medians) in connections.iter_mut().zip(&mut medians) {
                let mut took = Vec::new();
                for write in 0..writes {
                    let begun = Instant::now();
                    sqlx::query("UPDATE trust SET region = $1 WHERE name = $2")
                        .bind(format!("region {round} {write}"))
                        .bind(format!("Trust {}", write % TRUSTS))
                        .execute(&mut *connection)
                        .await
                        .unwrap();
                    took.push(begun.elapsed());
                }
                took.sort_unstable();
                medians.push(took[took.len() / 2]);
            }
        }
        let mut ratios: Vec<f64> = medians[0]
            .iter()
            .zip(&medians[1])
            .map(|(with, without)| with.as_secs_f64() / without.as_secs_f64())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let ratio = ratios[ratios.len() / 2];
        let text = format!(
            "a transaction that updates a trust takes {:.0?} with the lease's triggers and {:.0?} \
             without: {ratio:.2} times (at most {WRITER_AT_MOST})",
            medians[0][0], medians[1][0]
        );
        Some(Figure { text, met: ratio <= WRITER_AT_MOST })
    })
}
