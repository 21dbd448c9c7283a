//! A flood of unknown keys of any size costs one scan at a time, and keeps out no client that has a
//! key.

use std::time::Instant;

use trust_auth::{KeyHash, NewTrust, SqliteStore, TrustLedger};

use crate::client::Client;
use crate::load::{Keys, Load, assert_answered};
use crate::server::{Server, is_about_reads};

const TRUSTS: usize = 300;
const CONNECTIONS: usize = 64;
const REQUESTS: usize = 10_000;

/// Far more than a run needs, and far less than ten thousand kept requests would need.
const FLAT: u64 = 48 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_unknown_keys_cost_one_scan_at_a_time_and_no_memory_and_hits_continue() {
    if is_about_reads("unknown keys cost looks, not scans") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let store =
        SqliteStore::options(&file).create_if_missing(true).durable(false).connect().await.unwrap();
    for number in 0..TRUSTS {
        let new = NewTrust::new(format!("Trust {number}")).unwrap();
        store.insert(new, KeyHash::of(format!("key {number}"))).await.unwrap();
    }
    store.close().await;

    let server = Server::on(&file, &["--waiting-limit", "48"]).await;
    assert_eq!(server.verify("key 0").await.status, 200);
    let hits = Load::start(server.main, 2, &Keys::The("key 0".into()));
    let (begun, before) = (Instant::now(), server.metrics().await);
    let mut memory = Vec::new();
    let mut statuses = [0_usize; 2];
    for part in 0..4 {
        let flood = (0..CONNECTIONS).map(|connection| {
            let mut client = Client::new(server.main);
            tokio::spawn(async move {
                let mut statuses = [0; 2];
                for request in 0..REQUESTS.div_ceil(4 * CONNECTIONS) {
                    let key = format!("unknown-{part}-{connection}-{request}");
                    match client.verify(&key).await.unwrap() {
                        answer if answer.status == 401 => statuses[0] += 1,
                        // Over the limit of waiting requests.
                        answer
                            if answer.status == 503
                                && answer.header("retry-after") == Some("1") =>
                        {
                            statuses[1] += 1
                        }
                        answer => panic!("{answer:?}"),
                    }
                }
                statuses
            })
        });
        for client in flood.collect::<Vec<_>>() {
            let answered = client.await.unwrap();
            statuses = [statuses[0] + answered[0], statuses[1] + answered[1]];
        }
        memory.push(server.resident_bytes());
    }
    let (after, elapsed) = (server.metrics().await, begun.elapsed().as_secs_f64());
    assert_answered(&hits.finish().await, &[200]);

    let grown = |name: &str| after[name] - before[name];
    let scans = grown("trust_auth_scans_total");
    let [invalid, overloaded] = statuses.map(|count| count as f64);
    assert!(invalid + overloaded >= REQUESTS as f64);
    assert_eq!(grown("trust_auth_requests_total{outcome=\"invalid\"}"), invalid);
    assert_eq!(grown("trust_auth_requests_total{outcome=\"overloaded\"}"), overloaded);
    assert!(overloaded > 0.0 && invalid > 0.0, "{statuses:?}");
    // Never two scans at a time, so all scans together take no longer than the flood.
    assert_eq!(after["trust_auth_scans_under_way_max"], 1.0);
    assert!(grown("trust_auth_scan_seconds_sum") <= elapsed, "{after:#?}");
    assert!(
        scans >= 1.0 && scans * 2.0 < invalid,
        "{scans} scans for {invalid} requests were not shared"
    );
    assert_eq!(grown("trust_auth_rows_swept_total"), scans * TRUSTS as f64);
    assert_eq!(after["trust_auth_waiting_requests"], 0.0);
    assert_eq!(after["trust_auth_cache_entries"], 1.0);
    assert!(memory[3] < memory[0] + FLAT, "{memory:?}");
}
