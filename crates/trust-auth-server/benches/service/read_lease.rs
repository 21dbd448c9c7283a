//! What the read lease saves: `/verify` with a known key, by the lease and by reading.

use std::path::Path;
use std::time::Duration;

use crate::baseline::Baseline;
use crate::populate::{key, populate, populate_postgres, runtime};
use crate::postgres_server::PostgresServer;
use crate::programs::find;
use crate::server::Server;
use crate::{Effort, Figure, wrk};

const TRUSTS: usize = 100;
const CONNECTIONS: u32 = 32;
/// The lease over an axum route that answers the same headers and looks nothing up.
const OF_THE_ROUTE: f64 = 0.85;
/// Below this the bench fails. Runs of one build differ from 0.83 to 0.89.
const OF_THE_ROUTE_AT_LEAST: f64 = 0.75;
/// The lease over reading.
const OVER_SQLITE: f64 = 2.0;
const OVER_POSTGRES: f64 = 3.0;

/// Measures all under `wrk`, in turns, so that other load on the machine affects all.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let wrk = find("wrk")?;
    let postgres = PostgresServer::shared()?;
    let (rounds, seconds) = if effort == Effort::Full { (4, 3) } else { (1, 1) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    populate(&file, TRUSTS);
    let url = postgres.new_database();
    runtime().block_on(populate_postgres(&url, TRUSTS));
    let start = |database: &Path, arguments: &[&str]| {
        let server = runtime().block_on(Server::on(database, arguments));
        let url = format!("http://{}/verify", server.main);
        (server, url)
    };
    let lease = ["--migrate", "--read-lease", "10s"];
    let (held, held_url) = start(url.as_ref(), &lease);
    let (_on_postgres, postgres_url) = start(url.as_ref(), &[]);
    let (_on_sqlite, sqlite_url) = start(&file, &[]);
    let baseline = Baseline::on(&file);
    let route = format!("http://{}/answer", baseline.address);

    let key = [format!("X-Api-Key: {}", key(TRUSTS - 1))];
    let mut rates = [0.0; 4];
    for _ in 0..rounds {
        let urls = [&held_url, &route, &sqlite_url, &postgres_url];
        for (rate, url) in rates.iter_mut().zip(urls) {
            *rate += wrk::run(&wrk, CONNECTIONS, seconds, &key, url).requests_per_second
                / f64::from(rounds);
        }
    }
    let metrics = runtime().block_on(held.metrics());
    let granted = metrics["trust_auth_requests_total{outcome=\"granted\"}"];
    let by_lease = metrics["trust_auth_held_total"] / granted;
    let [held, route, sqlite, postgres] = rates;
    let text = format!(
        "{held:.0} hits a second by the lease, {:.2} of the {route:.0} of a route that looks \
         nothing up (wanted: {OF_THE_ROUTE}); {:.2} times the {sqlite:.0} by reading SQLite (at \
         least {OVER_SQLITE}), {:.2} times the {postgres:.0} by reading PostgreSQL (at least \
         {OVER_POSTGRES}); {:.2} % without a read ({:?} each, {CONNECTIONS} connections)",
        held / route,
        held / sqlite,
        held / postgres,
        by_lease * 100.0,
        Duration::from_secs(u64::from(rounds * seconds)),
    );
    let met = held / route >= OF_THE_ROUTE_AT_LEAST
        && held / sqlite >= OVER_SQLITE
        && held / postgres >= OVER_POSTGRES
        && by_lease > 0.999;
    Some(Figure { text, met })
}
