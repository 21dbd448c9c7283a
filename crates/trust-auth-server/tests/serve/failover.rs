//! A failover moves the address to the new primary, while the old primary stays up and keeps its
//! connections. The service reads the new primary within seconds, and listens to it.

use std::time::Instant;

use crate::postgres_server::PostgresServer;
use crate::postgres_server::network::Network;
use crate::server::{PATIENCE, Registered, Server, is_about_reads};

/// Verifies the key until the answer has this status.
async fn until_verified_as(server: &Server, trust: &Registered, status: u16) {
    let begun = Instant::now();
    loop {
        let answer = server.verify(&trust.key).await;
        if answer.status == status {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:?}; log: {}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_the_new_primary_reaches_a_service_with_connections_to_the_old_one() {
    if is_about_reads("two live primaries, which no lease survives (A1)") {
        return;
    }
    let Some(old) = PostgresServer::start() else { return };
    let url = old.new_database();
    let network = Network::before(&old).await;
    // No connection may be replaced because of its age.
    let age = ["--database-connection-max-age", "1h"];
    let server = Server::on(network.url(&url, &old), &age).await;
    let one = server.register("one").await;
    let two = server.register("two").await;
    let three = server.register("three").await;
    for trust in [&one, &two, &three] {
        assert_eq!(server.verify(&trust.key).await.status, 200);
    }

    let new = old.replica();
    new.promote();
    let database = url.rsplit('/').next().unwrap();
    network.move_to(&new);
    new.psql(database, "UPDATE trust SET disabled_at = now() WHERE name = 'one'");
    assert_eq!(
        old.psql(&url, "SELECT disabled_at IS NULL FROM trust WHERE name = 'one'"),
        "t",
        "the test"
    );
    until_verified_as(&server, &one, 401).await;
    for _ in 0..20 {
        assert_eq!(server.verify(&one.key).await.status, 401);
    }
    assert_eq!(server.verify(&two.key).await.status, 200);

    // The service listens to the new primary.
    server.until_metric("trust_auth_listener_connected", |connected| connected == 1.0).await;
    server
        .until_metric("trust_auth_evictions_total{cause=\"connected\"}", |connects| connects >= 2.0)
        .await;
    let evicted = "trust_auth_evictions_total{cause=\"notification\"}";
    let before = server.metric(evicted).await;
    new.psql(database, "DELETE FROM trust WHERE name = 'two'");
    server.until_metric(evicted, |now| now > before).await;
    assert_eq!(server.verify(&two.key).await.status, 401);
    // Changes go to the new primary.
    server.delete(&three).await;
    assert_eq!(new.psql(database, "SELECT count(*) FROM trust WHERE name = 'three'"), "0");
    assert_eq!(server.verify(&three.key).await.status, 401);
    let heard = server.metric("trust_auth_listener_canaries_total{outcome=\"heard\"}").await;
    assert!(heard >= 2.0, "{heard}");
}
