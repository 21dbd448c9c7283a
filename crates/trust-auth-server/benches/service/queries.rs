//! How many queries services with a read lease send to PostgreSQL, as the server's log
//! has them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::asker::Asker;
use crate::populate::{key, populate_postgres, runtime};
use crate::postgres_server::PostgresServer;
use crate::server::Server;
use crate::{Effort, Figure};

const TRUSTS: usize = 1_000;
const PROCESSES: usize = 3;
const LEASE: &str = "10s";
/// An hour of ten services, without changes and without unknown keys.
const IN_AN_HOUR_AT_MOST: f64 = 20_000.0;
/// A second of one service, under a flood of unknown keys.
const IN_A_FLOOD_AT_MOST: f64 = 100.0;
const ATTACKERS: usize = 32;

/// Counts the queries in the log of the database while all services grant, and then during a flood
/// of one of them.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let postgres = PostgresServer::start_with(|_| "-c log_statement=all".into())?;
    let (calm, flood) = if effort == Effort::Full { (20, 5) } else { (2, 2) };
    let (calm, flood) = (Duration::from_secs(calm), Duration::from_secs(flood));
    let url = postgres.new_database();
    let runtime = runtime();
    runtime.block_on(populate_postgres(&url, TRUSTS));
    let arguments = ["--migrate", "--read-lease", LEASE];
    let start = || runtime.block_on(Server::on(&url, &arguments));
    let servers: Vec<Server> = (0..PROCESSES).map(|_| start()).collect();
    // Each server has connected, has found its triggers and has scanned once. To settle the run is
    // what one of them does once in a start of the database.
    postgres.settle_the_run(&url);
    thread::sleep(Duration::from_secs(2));
    // The server logs a statement by either protocol. Nothing else uses this server.
    let counted = || {
        let log = postgres.log();
        let is_query =
            |line: &&str| line.contains("LOG:  execute ") || line.contains("LOG:  statement: ");
        log.lines().filter(is_query).count() as f64
    };
    let during = |work: &dyn Fn()| {
        let (before, begun) = (counted(), Instant::now());
        work();
        (counted() - before) / begun.elapsed().as_secs_f64()
    };

    let granting = during(&|| {
        let begun = Instant::now();
        let mut askers: Vec<Asker> = servers.iter().map(|server| Asker::new(server.main)).collect();
        while begun.elapsed() < calm {
            for (number, asker) in askers.iter_mut().enumerate() {
                assert_eq!(asker.verify(&key(number)), 200);
            }
            thread::sleep(Duration::from_millis(10));
        }
    });
    let in_an_hour = granting / PROCESSES as f64 * 10.0 * 3_600.0;

    let is_over = AtomicBool::new(false);
    let flooded = during(&|| {
        thread::scope(|scope| {
            for attacker in 0..ATTACKERS {
                let (main, is_over) = (servers[0].main, &is_over);
                scope.spawn(move || {
                    let mut asker = Asker::new(main);
                    // Relaxed: the flag orders nothing; the scope joins the threads.
                    while !is_over.load(Ordering::Relaxed) {
                        let status = asker.verify(&format!("unknown {attacker}"));
                        assert!(status == 401 || status == 503, "{status}");
                    }
                });
            }
            thread::sleep(flood);
            is_over.store(true, Ordering::Relaxed);
        });
    });
    let in_a_flood = flooded - granting;
    let text = format!(
        "{in_an_hour:.0} queries an hour of ten services with a lease of {LEASE} (at most \
         {IN_AN_HOUR_AT_MOST}), from {calm:?} of {PROCESSES}; {in_a_flood:.0} more a second of one \
         service under a flood of unknown keys (at most {IN_A_FLOOD_AT_MOST})"
    );
    let met = in_an_hour <= IN_AN_HOUR_AT_MOST && in_a_flood <= IN_A_FLOOD_AT_MOST;
    Some(Figure { text, met })
}
