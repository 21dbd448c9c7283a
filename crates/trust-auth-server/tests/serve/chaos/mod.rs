//! Chaos under the read lease: three services on one PostgreSQL, each behind a line of its own.
//! Clients ask all services all the time, trusts are revoked by every means, and faults come in
//! random order. A ledger has each grant and each return of a revocation. No request that began
//! after a return may have been granted (G11).
//!
//! The test makes each kind of fault once. `scripts/chaos.sh` runs it for longer, by
//! `TRUST_AUTH_TEST_CHAOS_SECONDS`. `TRUST_AUTH_TEST_CHAOS_SEED` repeats an order.

mod ledger;
mod line;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::Value;
use tokio::task::JoinSet;

use self::ledger::Ledger;
use self::line::{Line, Weather};
use crate::client::Client;
use crate::postgres_server::PostgresServer;
use crate::server::{PATIENCE, Server, command};

const SERVICES: usize = 3;
const LEASE: Duration = Duration::from_secs(2);
/// A revocation with a service that does not answer takes the lease, and at most this.
const OVER_THE_LEASE: Duration = Duration::from_secs(1);
/// Clients ask for the last keys, so that each revoked key is presented for a while.
const WINDOW: usize = 12;
/// The pause of a client between two requests. Without one, clients starve the services.
const PAUSE: Duration = Duration::from_millis(4);

/// What goes wrong while trusts are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Calm,
    Delays,
    Cuts,
    RequestsVanish,
    AnswersVanish,
    Deaf,
    Stopped,
    Restart,
    Crash,
    Failover,
    TriggersOff,
    ChangerKilled,
}

const FAULTS: [Fault; 12] = [
    Fault::Calm,
    Fault::Delays,
    Fault::Cuts,
    Fault::RequestsVanish,
    Fault::AnswersVanish,
    Fault::Deaf,
    Fault::Stopped,
    Fault::Restart,
    Fault::Crash,
    Fault::Failover,
    Fault::TriggersOff,
    Fault::ChangerKilled,
];

/// Three services, their lines, and the database.
struct Stage {
    database: PostgresServer,
    url: String,
    services: Vec<Server>,
    lines: Vec<Line>,
    ledger: Arc<Ledger>,
    /// Requests that began just after a revocation had returned.
    witnesses: JoinSet<()>,
    random: TestRng,
    registered: usize,
    /// How long revocations waited after their commits without a fault.
    calm: Vec<Duration>,
    /// How long they waited while a service was stopped.
    stopped: Vec<Duration>,
    /// How many did not return at the first attempt.
    repeated: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_no_request_is_granted_that_began_after_a_revocation_had_returned() {
    let Some(database) = PostgresServer::start() else { return };
    let seconds = number_from("TRUST_AUTH_TEST_CHAOS_SECONDS");
    let seed = number_from("TRUST_AUTH_TEST_CHAOS_SEED").unwrap_or_else(fresh_seed);
    tell(&format!("chaos: the seed is {seed}"));
    let mut stage = Stage::new(database, seed).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = stage.ask_all_the_time(&is_over);

    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        let mut faults = FAULTS.to_vec();
        while !faults.is_empty() {
            let fault = faults.swap_remove(stage.below(faults.len()));
            stage.revoke_during(fault).await;
            while stage.witnesses.join_next().await.is_some() {}
            let false_grants = stage.ledger.false_grants();
            assert!(false_grants.is_empty(), "seed {seed}, {fault:?}: {false_grants:#?}");
        }
        if end.is_none_or(|end| Instant::now() >= end) {
            break;
        }
    }

    // Relaxed: the flag orders nothing; the clients are joined.
    is_over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let false_grants = stage.ledger.false_grants();
    assert!(false_grants.is_empty(), "seed {seed}: {false_grants:#?}");
    stage.report(seed);
    let [revoked, granted, refused, _] = stage.ledger.counts();
    assert!(revoked >= 40 && granted > 500 && refused > 100, "{:?}", stage.ledger.counts());
    for time in &stage.stopped {
        assert!(*time <= LEASE + OVER_THE_LEASE, "with a stopped service: {time:?}");
    }
}

impl Stage {
    async fn new(database: PostgresServer, seed: u64) -> Self {
        let url = database.new_database();
        migrate(&url);
        let (mut services, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..SERVICES {
            let line = Line::to(database.port()).await;
            let through = url.replace(&database.port().to_string(), &line.port.to_string());
            let lease = format!("{}s", LEASE.as_secs());
            services.push(Server::on(through, &["--read-lease", &lease]).await);
            lines.push(line);
        }
        let bytes: [u8; 32] = std::array::from_fn(|at| seed.to_le_bytes()[at % 8]);
        Self {
            database,
            url,
            services,
            lines,
            ledger: Arc::default(),
            witnesses: JoinSet::new(),
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            registered: 0,
            calm: Vec::new(),
            stopped: Vec::new(),
            repeated: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.next_u64() as usize % bound
    }

    /// Starts clients that present the last keys, revoked or not, and unknown ones, at each
    /// service.
    fn ask_all_the_time(&self, is_over: &Arc<AtomicBool>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for (service, server) in self.services.iter().enumerate() {
            for number in 0..2 {
                let (ledger, is_over) = (Arc::clone(&self.ledger), Arc::clone(is_over));
                let address = server.main;
                clients.spawn(async move {
                    let mut client = Client::new(address);
                    let mut step = number;
                    // Relaxed: as where it is stored.
                    while !is_over.load(Ordering::Relaxed) {
                        step += 7;
                        if step % 50 == 0 {
                            client.verify(&format!("unknown {step}")).await.ok();
                        }
                        if let Some((key, text)) = ledger.some_key(step, WINDOW) {
                            let begun = Instant::now();
                            // A service that is stopped answers later, or the connection is cut.
                            match client.verify(&text).await {
                                Ok(answer) => ledger.answered(key, service, begun, answer.status),
                                Err(_) => client = Client::new(address),
                            }
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                });
            }
        }
        clients
    }

    /// Registers a trust, and waits until the services have granted its key that can.
    async fn register(&mut self, healthy: &[usize]) -> (String, usize) {
        self.registered += 1;
        let name = format!("trust {}", self.registered);
        let output = self.run(&["register", "--name", &name]);
        assert!(output.status.success(), "{output:?}");
        let key = self.ledger.add(String::from_utf8(output.stdout).unwrap().trim_end());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500)
            && !healthy.iter().all(|&service| self.ledger.was_granted(key, service))
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (name, key)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        program(&self.url, arguments).output().unwrap()
    }

    /// Revokes by a random means, until that has returned. Returns how long the last attempt waited
    /// after its commit.
    async fn revoke(
        &mut self,
        name: &str,
        key: usize,
        through: &[usize],
        fault: Fault,
    ) -> Duration {
        loop {
            let waited = match self.below(5) {
                0 => {
                    let service = through[self.below(through.len())];
                    let path = format!("/admin/trusts/{}/disable", name.replace(' ', "%20"));
                    let server = &self.services[service];
                    let answer = server.administer("POST", &path, &Value::Null).await;
                    (answer.status == 200).then(|| waited(&answer.json()))
                }
                1 => {
                    let sql = format!("UPDATE trust SET disabled_at = now() WHERE name = '{name}'");
                    if self.try_psql(&sql) { self.change(&["disable", name]).await } else { None }
                }
                2 => self.change(&["rotate", name]).await,
                3 => self.change(&["delete", name]).await,
                _ => self.change(&["disable", name]).await,
            };
            if let Some(waited) = waited {
                self.ledger.revoked(key, &format!("{fault:?}"));
                self.ask_each_service(key);
                return waited;
            }
            self.repeated += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presents a key to each service at once, also to one that is stopped and answers later.
    fn ask_each_service(&mut self, key: usize) {
        for (service, server) in self.services.iter().enumerate() {
            let (ledger, address) = (Arc::clone(&self.ledger), server.main);
            self.witnesses.spawn(async move {
                let (text, begun) = (ledger.text(key), Instant::now());
                if let Ok(answer) = Client::new(address).verify(&text).await {
                    ledger.answered(key, service, begun, answer.status);
                }
            });
        }
    }

    /// Runs a command that revokes, without blocking the clients. Returns how long it waited after
    /// its commit, or `None` if it failed. Without a trust, an earlier attempt has deleted it, and
    /// this one has waited.
    async fn change(&self, arguments: &[&str]) -> Option<Duration> {
        let mut command = program(&self.url, &[&["--json"], arguments].concat());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = run.await.unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let is_over = output.status.success() || json["error"]["kind"] == "no_such_trust";
        is_over.then(|| waited(&json))
    }

    fn try_psql(&self, sql: &str) -> bool {
        let mut psql = Command::new(self.database.psql_program());
        psql.args([
            "--no-psqlrc",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            &self.url,
            "--command",
            sql,
        ]);
        psql.output().unwrap().status.success()
    }

    /// Revokes some trusts while one thing goes wrong, and then waits until all is well.
    async fn revoke_during(&mut self, fault: Fault) {
        let all = [0, 1, 2];
        let victim = self.below(SERVICES);
        let others: Vec<usize> = all.into_iter().filter(|&service| service != victim).collect();
        tell(&format!("chaos: {fault:?}, service {victim}"));
        match fault {
            Fault::Calm => {
                for _ in 0..20 {
                    let (name, key) = self.register(&all).await;
                    let took = self.revoke(&name, key, &all, fault).await;
                    self.calm.push(took);
                }
            }
            Fault::Delays => {
                for (number, line) in self.lines.iter().enumerate() {
                    let delay = Duration::from_millis(20 * number as u64);
                    line.set(Weather { delay, ..Weather::default() });
                }
                self.revoke_some(4, &all, fault).await;
            }
            Fault::Cuts => {
                for _ in 0..4 {
                    let (name, key) = self.register(&all).await;
                    self.lines[victim].cut();
                    self.revoke(&name, key, &others, fault).await;
                }
            }
            Fault::RequestsVanish | Fault::AnswersVanish => {
                let (name, key) = self.register(&all).await;
                self.lines[victim].set(Weather {
                    holds_requests: fault == Fault::RequestsVanish,
                    holds_answers: fault == Fault::AnswersVanish,
                    ..Weather::default()
                });
                self.revoke(&name, key, &others, fault).await;
                self.revoke_some(1, &others, fault).await;
            }
            Fault::Deaf => {
                self.lines[victim].set(Weather { is_deaf: true, ..Weather::default() });
                self.revoke_some(4, &all, fault).await;
            }
            Fault::Stopped => {
                for _ in 0..2 {
                    let (name, key) = self.register(&all).await;
                    self.services[victim].signal("STOP");
                    let took = self.revoke(&name, key, &others, fault).await;
                    self.stopped.push(took);
                    self.services[victim].signal("CONT");
                    self.until_valid(victim).await;
                }
            }
            Fault::Restart | Fault::Crash => {
                let (name, key) = self.register(&all).await;
                match fault {
                    Fault::Restart => self.database.stop_when_idle(),
                    _ => self.database.stop(),
                }
                if fault == Fault::Restart {
                    // It stops once the last connection has ended.
                    self.lines.iter().for_each(Line::cut);
                    let begun = Instant::now();
                    while self.database.is_running() && begun.elapsed() < LEASE * 3 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    if self.database.is_running() {
                        self.database.stop();
                    }
                }
                assert_eq!(self.change(&["disable", &name]).await, None, "the database is away");
                self.database.start_again();
                self.revoke(&name, key, &all, fault).await;
                self.revoke_some(2, &all, fault).await;
            }
            Fault::Failover => self.fail_over(&all).await,
            Fault::TriggersOff => {
                let (name, key) = self.register(&all).await;
                let alter = |what: &str| format!("ALTER TABLE trust {what} TRIGGER ALL");
                assert!(self.try_psql(&alter("DISABLE")));
                // Its triggers off, a table records nothing; the holders notice, and load again.
                self.revoke(&name, key, &all, fault).await;
                let enable = "ALTER TABLE trust ENABLE TRIGGER ALL";
                assert!(self.try_psql(enable));
                migrate(&self.url);
                self.revoke_some(2, &all, fault).await;
            }
            Fault::ChangerKilled => {
                for _ in 0..3 {
                    let (name, key) = self.register(&all).await;
                    // It waits for this service, so it is killed between its commit and its return.
                    self.lines[victim].set(Weather { holds_requests: true, ..Weather::default() });
                    let mut changer = program(&self.url, &["disable", &name]);
                    changer.stdout(Stdio::null()).stderr(Stdio::null());
                    let mut changer = changer.spawn().unwrap();
                    self.until_disabled(&name).await;
                    assert!(changer.try_wait().unwrap().is_none(), "it has not waited");
                    changer.kill().unwrap();
                    changer.wait().unwrap();
                    self.lines[victim].set(Weather::default());
                    self.revoke(&name, key, &all, fault).await;
                }
            }
        }
        for line in &self.lines {
            line.set(Weather::default());
        }
        for service in all {
            self.until_valid(service).await;
        }
        // The clients present the revoked keys for a moment more.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn revoke_some(&mut self, number: usize, healthy: &[usize], fault: Fault) {
        for _ in 0..number {
            let (name, key) = self.register(healthy).await;
            self.revoke(&name, key, healthy, fault).await;
        }
    }

    /// Moves all lines to a replica that lacks the last transactions, and goes on there. A
    /// revocation that waits meanwhile is lost with them. It must not return before it is made
    /// again (R16).
    async fn fail_over(&mut self, all: &[usize]) {
        let (name, key) = self.register(all).await;
        let new = self.database.replica();
        // From now on it receives nothing.
        for sql in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
            new.psql("postgres", sql);
        }
        while new.psql("postgres", "SELECT count(*) FROM pg_stat_wal_receiver") != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The revocation waits for a service that does not answer.
        self.lines[2].set(Weather { holds_requests: true, ..Weather::default() });
        let path = format!("/admin/trusts/{}/disable", name.replace(' ', "%20"));
        let revoking = self.services[0].administer("POST", &path, &Value::Null);
        let failing = async {
            self.until_disabled(&name).await;
            // The old primary is fenced before the new one is promoted (A1).
            self.database.stop();
            new.promote();
            let database = self.url.rsplit('/').next().unwrap();
            let sql = format!("SELECT disabled_at IS NULL FROM trust WHERE name = '{name}'");
            assert_eq!(new.psql(database, &sql), "t", "the revocation was not lost");
            for line in &self.lines {
                line.move_to(new.port());
                line.set(Weather::default());
            }
        };
        let (answer, ()) = tokio::join!(revoking, failing);
        self.url = self.url.replace(&self.database.port().to_string(), &new.port().to_string());
        self.database = new;
        if answer.status == 200 {
            assert_eq!(self.is_disabled(&name), "t", "returned, and lost: {answer:?}");
            self.ledger.revoked(key, "Failover");
            self.ask_each_service(key);
        } else {
            self.revoke(&name, key, all, Fault::Failover).await;
        }
        self.revoke_some(2, all, Fault::Failover).await;
    }

    fn is_disabled(&self, name: &str) -> String {
        let sql = format!("SELECT disabled_at IS NOT NULL FROM trust WHERE name = '{name}'");
        self.database.psql(&self.url, &sql)
    }

    /// Waits until a change of the trust is committed.
    async fn until_disabled(&self, name: &str) {
        let begun = Instant::now();
        while self.is_disabled(name) != "t" {
            assert!(begun.elapsed() < PATIENCE, "{name} is not disabled");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_valid(&self, service: usize) {
        let server = &self.services[service];
        server.until_metric("trust_auth_read_lease_valid", |valid| valid == 1.0).await;
    }

    fn report(&mut self, seed: u64) {
        let [revoked, granted, refused, failed] = self.ledger.counts();
        self.calm.sort_unstable();
        let at = |part: usize| self.calm[(self.calm.len() * part / 100).min(self.calm.len() - 1)];
        let stopped = self.stopped.iter().max().unwrap();
        tell(&format!(
            "chaos: seed {seed}: {revoked} revocations, {} of them repeated, {granted} grants, \
             {refused} refusals, {failed} of 503 or without an answer; without a fault a \
             revocation waited {:.0?} (50 %) and {:.0?} (99 %), with a stopped service \
             {stopped:.1?} at most (lease {LEASE:?}); grants to requests that began after a \
             revocation had returned: 0",
            self.repeated,
            at(50),
            at(99),
        ));
    }
}

fn program(url: &str, arguments: &[&str]) -> Command {
    let mut command = command(Path::new("/"));
    command.args(["--database", url]).args(arguments);
    command
}

fn waited(answer: &Value) -> Duration {
    Duration::from_millis(answer["revocation"]["waited_ms"].as_u64().unwrap_or_default())
}

fn migrate(url: &str) {
    for arguments in [&["register", "--name", "first"] as &[&str], &["migrate", "--read-lease"]] {
        let output = program(url, arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || error.contains("is taken"), "{output:?}");
    }
}

/// Writes past the test harness, which captures `eprintln!`.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn fresh_seed() -> u64 {
    u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap())
}
