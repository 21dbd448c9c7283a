//! The cost of `/verify` in addition to the read that it needs.

use std::time::Duration;

use crate::baseline::Baseline;
use crate::populate::{key, populate, runtime};
use crate::programs::find;
use crate::server::Server;
use crate::{Effort, Figure, wrk};

const TRUSTS: usize = 100;
const CONNECTIONS: u32 = 32;
const AT_LEAST: f64 = 0.6;

/// Measures both under `wrk`, in turns, so that other load on the machine affects both.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let wrk = find("wrk")?;
    let (rounds, seconds) = if effort == Effort::Full { (4, 3) } else { (1, 1) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let id = populate(&file, TRUSTS);
    let server = runtime().block_on(Server::on(&file, &[]));
    let baseline = Baseline::on(&file);

    let key = [format!("X-Api-Key: {}", key(TRUSTS - 1))];
    let verify = format!("http://{}/verify", server.main);
    let fetch = format!("http://{}/fetch/{id}", baseline.address);
    let mut rates = [0.0; 2];
    for _ in 0..rounds {
        // The baseline gets the same header to parse.
        for (rate, url) in rates.iter_mut().zip([&verify, &fetch]) {
            *rate += wrk::run(&wrk, CONNECTIONS, seconds, &key, url).requests_per_second
                / f64::from(rounds);
        }
    }
    let scans = runtime().block_on(server.metric("trust_auth_scans_total"));
    // The key expires once a minute. The requests of 32 connections then share one scan, or a few.
    assert!(scans <= 1.0 + f64::from(CONNECTIONS), "{scans} scans: these were no hits");
    let [verified, fetched] = rates;
    let ratio = verified / fetched;
    let text = format!(
        "{verified:.0} hits a second, {fetched:.0} of `fetch(id)` alone, {:.0} % \
         ({:?} each, {CONNECTIONS} connections; at least {:.0} %)",
        ratio * 100.0,
        Duration::from_secs(u64::from(rounds * seconds)),
        AT_LEAST * 100.0
    );
    Some(Figure { text, met: ratio >= AT_LEAST })
}
