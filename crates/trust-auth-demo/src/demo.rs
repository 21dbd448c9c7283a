//! `demo`: the reference's traffic against a real database, with revocations under fire, and an
//! oracle that judges every answer.
//!
//! It must leave nothing behind, however it ends: the temporary folder goes on success, on failure
//! and on Ctrl-C.

mod keyring;
mod latency;
mod oracle;
mod progress;
mod report;
mod revoker;
mod traffic;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use trust_auth::{Authenticator, NewTrust, SqliteStore, TrustRegistry};
use trust_key_cache::TrustKeyCache;

use self::keyring::{Keyring, WatchedKey};
use self::report::Report;
use self::revoker::Revoker;
use self::traffic::{Client, TASKS, Tally, Worker};
use crate::answer::{Answer, Format};
use crate::args::Demo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// What the database is given for an answer. Long, so that a machine which stops for a moment is
/// not taken for a refusal.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for every trust that can be asked for.
const CAPACITY: usize = 100_000;

/// How long to wait for connections to close. They are idle by then.
const CLOSING: Duration = Duration::from_secs(5);

pub(crate) async fn demo(format: Format, asked: Demo) -> Result<Answer, Failure> {
    let mut interrupt = Interrupt::listen()
        .map_err(|error| Failure::new("signals", format!("cannot listen for Ctrl-C: {error}")))?;
    let folder =
        tempfile::Builder::new().prefix("trust-auth-demo-").tempdir().map_err(|error| {
            Failure::new(
                "temporary_folder",
                format!(
                    "cannot make a temporary folder: {error}; set TMPDIR to one that is writable"
                ),
            )
        })?;

    let outcome = match Server::open(&folder.path().join("trusts.db")).await {
        Ok(server) => {
            let mut tasks = JoinSet::new();
            let outcome = tokio::select! {
                outcome = run(&server, &mut tasks, &asked) => outcome,
                () = interrupt.received() => Err(Failure::interrupted()),
            };
            // First the tasks, then the connections, then the folder: whoever still writes would
            // bring files back.
            tasks.shutdown().await;
            server.close().await;
            outcome
        }
        Err(failure) => Err(failure),
    };
    let path = folder.path().to_owned();
    let removed = folder.close();
    let report = outcome?;
    removed.map_err(|error| {
        Failure::new("temporary_folder", format!("cannot remove {}: {error}", path.display()))
    })?;

    let answer = Answer::new(format, &report, || report.text());
    Ok(if report.held() { answer } else { answer.refused() })
}

/// What a server has: a store, a cache, an authenticator over both, and the means to change trusts.
/// And what another process has.
struct Server {
    store: Arc<SqliteStore>,
    authenticator: Authenticator<SqliteStore>,
    registry: TrustRegistry<SqliteStore>,
    elsewhere: Arc<SqliteStore>,
}

impl Server {
    async fn open(file: &Path) -> Result<Self, Failure> {
        let options = SqliteStore::options(file)
            .create_if_missing(true)
            .busy_timeout(PATIENCE)
            .query_timeout(PATIENCE)
            // The database is thrown away: nobody needs it after a power failure.
            .durable(false);
        let store = Arc::new(options.clone().connect().await?);
        let elsewhere = Arc::new(options.max_connections(1).connect().await?);
        let cache = Arc::new(
            TrustKeyCache::builder()
                .capacity(CAPACITY)
                .build()
                .map_err(|error| Failure::new("cache", error.to_string()))?,
        );
        Ok(Self {
            authenticator: Authenticator::new(Arc::clone(&store), Arc::clone(&cache)),
            registry: TrustRegistry::new(Arc::clone(&store), cache),
            store,
            elsewhere,
        })
    }

    async fn close(self) {
        let closing = async { tokio::join!(self.store.close(), self.elsewhere.close()) };
        // If it takes longer, the end of the process closes them.
        let _ = tokio::time::timeout(CLOSING, closing).await;
    }
}

async fn run(
    server: &Server,
    tasks: &mut JoinSet<Result<Tally, Failure>>,
    asked: &Demo,
) -> Result<Report, Failure> {
    let keyring = Arc::new(register(&server.registry, asked.trusts).await?);
    let duration = Duration::from_secs(asked.seconds.into());
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();

    for number in 0..TASKS.min(keyring.len()) {
        let worker = Worker {
            client: Client::new(server.authenticator.clone())?,
            store: Arc::clone(&server.store),
            keyring: Arc::clone(&keyring),
            number,
            stop: Arc::clone(&stop),
        };
        tasks.spawn(worker.run());
    }
    let revoker = Revoker {
        client: Client::new(server.authenticator.clone())?,
        keyring,
        here: server.registry.clone(),
        elsewhere: TrustRegistry::new(
            Arc::clone(&server.elsewhere),
            Arc::new(TrustKeyCache::new()),
        ),
    };
    let revoking = async {
        let revoked = revoker.run(duration).await;
        tokio::time::sleep_until(start + duration).await;
        revoked
    };
    let (changes, mut tally) = tokio::select! {
        revoked = revoking => revoked?,
        // Workers go on until they are told to stop: one that has ended by itself has failed.
        Some(ended) = tasks.join_next() => {
            joined(ended)?;
            return Err(Failure::new("demo", "a task ended before its time"));
        }
        () = progress::running(duration, &server.authenticator) => return Err(Failure::interrupted()),
    };

    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        tally.add(&joined(ended)?);
    }
    let stats = server.authenticator.stats();
    Ok(Report::new(asked.trusts.into(), start.elapsed(), stats, changes, &tally))
}

async fn register(registry: &TrustRegistry<SqliteStore>, trusts: u32) -> Result<Keyring, Failure> {
    let bar = progress::registering(trusts.into());
    let mut keys = Vec::with_capacity(trusts as usize);
    for number in 1..=trusts {
        let (trust, key) = registry.register(NewTrust::new(format!("Trust {number}"))?).await?;
        keys.push(WatchedKey::issued(trust.id, key));
        bar.inc(1);
    }
    Ok(Keyring::new(keys))
}

fn joined(ended: Result<Result<Tally, Failure>, JoinError>) -> Result<Tally, Failure> {
    ended.unwrap_or_else(|error| {
        Err(Failure::new("demo", format!("a task of the demo failed: {error}")))
    })
}
