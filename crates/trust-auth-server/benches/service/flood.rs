//! The cost of a flood of unknown keys for clients that have a key.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::asker::Asker;
use crate::populate::{key, populate, runtime};
use crate::programs::find;
use crate::server::Server;
use crate::{Effort, Figure, wrk};

const TRUSTS: usize = 1_000;
const ATTACKERS: usize = 64;
const UNKNOWN_KEYS: usize = 10_000;
/// The connections of clients that have a key.
const CONNECTIONS: u32 = 8;
const AT_MOST: f64 = 3.0;
/// How much memory may grow, in bytes. Allocators keep some memory.
const FLAT: u64 = 16 << 20;

/// Measures hits under `wrk`, first alone and then during the flood.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let wrk = find("wrk")?;
    let (seconds, unknown_keys) = if effort == Effort::Full { (5, UNKNOWN_KEYS) } else { (1, 100) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    populate(&file, TRUSTS);
    let server = runtime().block_on(Server::on(&file, &[]));
    let metrics = || runtime().block_on(server.metrics());
    let headers = [format!("X-Api-Key: {}", key(TRUSTS / 2))];
    let url = format!("http://{}/verify", server.main);
    let hits = || wrk::run(&wrk, CONNECTIONS, seconds, &headers, &url);

    let calm = hits();
    let (before, memory) = (metrics(), server.resident_bytes());
    let (over, sent, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let attack = |attacker: usize| {
        let mut asker = Asker::new(server.main);
        // Until the measurement is over, and at least this many keys.
        while !over.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < unknown_keys {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            match asker.verify(&format!("unknown-{attacker}-{number}")) {
                401 => refused.fetch_add(1, Ordering::Relaxed),
                status => panic!("{status} for an unknown key"),
            };
        }
    };
    let begun = Instant::now();
    let under_attack = thread::scope(|scope| {
        for attacker in 0..ATTACKERS {
            scope.spawn(move || attack(attacker));
        }
        let report = hits();
        over.store(true, Ordering::Relaxed);
        report
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let (after, grown_by) = (metrics(), server.resident_bytes().saturating_sub(memory));

    let grown = |name: &str| after[name] - before[name];
    let (scans, refused) = (grown("trust_auth_scans_total"), refused.into_inner());
    let scan = grown("trust_auth_scan_seconds_sum") / scans;
    let bound = elapsed / scan + 1.0;
    let ratio = under_attack.p99.as_secs_f64() / calm.p99.as_secs_f64();
    let text = format!(
        "99 % of hits within {:.2?} without and {:.2?} during {refused} unknown keys from \
         {ATTACKERS} connections, {ratio:.2} times (at most {AT_MOST}); {scans} scans, {} at a \
         time, of at most {bound:.0} in that time; memory grew by {} KiB",
        calm.p99,
        under_attack.p99,
        after["trust_auth_scans_under_way_max"],
        grown_by >> 10,
    );
    let met = ratio <= AT_MOST
        && refused >= unknown_keys
        && after["trust_auth_scans_under_way_max"] == 1.0
        && scans <= bound
        && grown_by <= FLAT;
    Some(Figure { text, met })
}
