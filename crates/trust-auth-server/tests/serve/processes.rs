//! Several services on one database. A key that one service or another program revokes is refused
//! by all services at once, and soon leaves their caches.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::postgres_server::PostgresServer;
use crate::server::{Registered, Server, command, is_about_reads};

/// How long a revoked key may stay in another process's cache.
const SOON: Duration = Duration::from_secs(1);

/// Registers a trust, and waits until each service is notified. The notification evicts the key,
/// and must not be confused with that of the revocation.
async fn registered(services: [&Server; 2], name: &str) -> Registered {
    const EVICTED: &str = "trust_auth_evictions_total{cause=\"notification\"}";
    let before = [services[0].metric(EVICTED).await, services[1].metric(EVICTED).await];
    let trust = services[0].register(name).await;
    for (service, before) in services.into_iter().zip(before) {
        service.until_metric(EVICTED, |now| now > before).await;
    }
    trust
}

/// Revokes three trusts, one after the other. Asserts that the other service refuses each key at
/// once, and evicts it soon.
///
/// Eviction must be fast in one case of three, because other programs may use the machine.
async fn assert_forgotten(
    one: &Server,
    other: &Server,
    how: &str,
    revoke: impl AsyncFn(&Registered),
) {
    let kept = registered([one, other], &format!("Kept {how}")).await;
    let mut times = Vec::new();
    for round in 0..3 {
        let trust = registered([one, other], &format!("{how} {round}")).await;
        for service in [one, other] {
            assert_eq!(service.verify(&kept.key).await.status, 200);
            assert_eq!(service.verify(&trust.key).await.status, 200);
            assert_eq!(service.verify(&trust.key).await.status, 200);
        }
        let entries = other.metric("trust_auth_cache_entries").await;
        let stale = other.metric("trust_auth_stale_hits_total").await;
        assert!(entries >= 2.0, "{entries}");

        revoke(&trust).await;
        let revoked = Instant::now();
        assert_eq!(other.verify(&trust.key).await.status, 401, "{how}");
        other.until_metric("trust_auth_cache_entries", |now| now == entries - 1.0).await;
        times.push(revoked.elapsed());
        assert_eq!(one.verify(&trust.key).await.status, 401, "{how}");
        // The entry was evicted, so another request finds no stale entry. No other entry was
        // evicted.
        assert_eq!(other.verify(&trust.key).await.status, 401, "{how}");
        let hits = other.metric("trust_auth_hits_total").await;
        assert_eq!(other.verify(&kept.key).await.status, 200);
        assert_eq!(other.metric("trust_auth_hits_total").await, hits + 1.0);
        assert!(other.metric("trust_auth_stale_hits_total").await <= stale + 1.0);
    }
    assert!(times.iter().any(|time| *time < SOON), "{how}: {times:?}");
    let evicted = other.metric("trust_auth_evictions_total{cause=\"notification\"}").await;
    assert!(evicted >= 3.0, "{how}: {evicted}");
}

async fn delete_on_the_command_line(database: &Path, trust: &Registered) {
    let output = command(Path::new("/"))
        .arg("--database")
        .arg(database)
        .args(["delete", &trust.id])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_that_is_deleted_by_any_program_is_refused_at_once_and_evicted_soon() {
    if is_about_reads("the entries of the cache") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let (one, other) = (Server::on(&url, &[]).await, Server::on(&url, &[]).await);
    assert!(
        !one.told.to_string().contains("hunter2") && !one.log().contains("hunter2"),
        "{}",
        one.told
    );

    assert_forgotten(&one, &other, "admin", async |trust| one.delete(trust).await).await;
    assert_forgotten(&one, &other, "psql", async |trust| {
        database.psql(&url, &format!("DELETE FROM trust WHERE id = '{}'", trust.id));
    })
    .await;
    assert_forgotten(&one, &other, "command", async |trust| {
        delete_on_the_command_line(Path::new(&url), trust).await
    })
    .await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_for_services_on_one_sqlite_file() {
    if is_about_reads("the entries of the cache") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let (one, other) = (Server::on(&file, &[]).await, Server::on(&file, &[]).await);
    assert_forgotten(&one, &other, "admin", async |trust| one.delete(trust).await).await;
    assert_forgotten(&one, &other, "command", async |trust| {
        delete_on_the_command_line(&file, trust).await
    })
    .await;
}
