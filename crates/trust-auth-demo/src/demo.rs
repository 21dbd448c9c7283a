//! The demo: the reference's traffic against a real database, while trusts are revoked. An oracle
//! checks every answer. It runs twice: with a read of the live row in each grant, and under a read
//! lease.
//!
//! The temporary folder is removed however the demo ends: on success, on failure and on Ctrl-C.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use trust_auth::{Authenticator, HeldTrusts, NewTrust, SqliteStore, TrustRegistry};
use trust_key_cache::TrustKeyCache;

use crate::args::{Options, TRUSTS};
use crate::demo_error::DemoError;
use crate::interrupt::Interrupt;
use crate::keyring::{Keyring, WatchedKey};
use crate::progress;
use crate::report::Report;
use crate::revoker::{Changes, Revoker};
use crate::traffic::{Client, TASKS, Tally, Worker};

/// How long the database may take for an answer. A machine that stops for a moment must not cause a
/// refusal, so this time is long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The capacity of the cache: one key for each trust of the largest demo.
const CAPACITY: usize = *TRUSTS.end() as usize;

/// The length of the read lease: the least on SQLite, because each revocation waits for it.
const LEASE: Duration = Duration::from_millis(300);

/// How long to wait until the connections are closed. They are idle by then.
const CLOSING: Duration = Duration::from_secs(5);

/// Runs the demo and returns what it found.
///
/// # Errors
///
/// [`DemoError`] if the demo could not finish. A wrong answer is no error: the report has it.
pub(crate) async fn demo(options: &Options) -> Result<Report, DemoError> {
    let mut stop = Interrupt::listen().map_err(DemoError::Signals)?;
    let folder = tempfile::Builder::new()
        .prefix("trust-auth-demo-")
        .tempdir()
        .map_err(DemoError::TemporaryFolder)?;

    let mut outcome = Ok(Vec::new());
    for mode in [Mode::Reading, Mode::ReadLease] {
        let Ok(reports) = &mut outcome else { break };
        match run_in(folder.path(), mode, options, &mut stop).await {
            Ok(report) => reports.push(report),
            Err(error) => outcome = Err(error),
        }
    }
    let path = folder.path().to_owned();
    let removed = folder.close();
    let reports = outcome?;
    removed.map_err(|source| DemoError::TemporaryFolderLeft { path, source })?;
    let mut reports = reports.into_iter();
    // One for each mode.
    match (reports.next(), reports.next()) {
        (Some(reading), Some(read_lease)) => Ok(reading.next_to(read_lease)),
        _ => Err(DemoError::TaskEnded),
    }
}

/// How the authenticator grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// By a read of the live row.
    Reading,
    /// From rows that are held under a read lease.
    ReadLease,
}

impl Mode {
    fn file(self) -> &'static str {
        match self {
            Self::Reading => "trusts.db",
            Self::ReadLease => "trusts-under-a-lease.db",
        }
    }

    /// How many revokers there are. Under the lease, each waits most of the time.
    fn revokers(self) -> usize {
        match self {
            Self::Reading => 1,
            Self::ReadLease => 16,
        }
    }
}

/// Runs one mode in a database of its own.
async fn run_in(
    folder: &Path,
    mode: Mode,
    options: &Options,
    stop: &mut Interrupt,
) -> Result<Report, DemoError> {
    let service = Service::open(&folder.join(mode.file())).await?;
    let (mut tasks, mut revokers) = (JoinSet::new(), JoinSet::new());
    let outcome = tokio::select! {
        outcome = run(&service, &mut tasks, &mut revokers, mode, options) => outcome,
        () = stop.received() => Err(DemoError::Interrupted),
    };
    // First the tasks end, then the connections. Then the folder is removed. A task that still
    // writes would create files again.
    revokers.shutdown().await;
    tasks.shutdown().await;
    service.close().await;
    outcome
}

/// The parts of a service: a store, an authenticator with its cache, and a registry that changes
/// trusts. A second store represents another process.
struct Service {
    store: Arc<SqliteStore>,
    cache: Arc<TrustKeyCache>,
    authenticator: Authenticator<SqliteStore>,
    registry: TrustRegistry<SqliteStore>,
    other_process: Arc<SqliteStore>,
}

impl Service {
    async fn open(file: &Path) -> Result<Self, DemoError> {
        let options = SqliteStore::options(file)
            .create_if_missing(true)
            .busy_timeout(PATIENCE)
            .query_timeout(PATIENCE)
            // The database is deleted at the end, so it need not survive a power failure.
            .durable(false);
        let store = Arc::new(options.clone().connect().await?);
        let other_process = Arc::new(options.max_connections(1).connect().await?);
        let cache = Arc::new(TrustKeyCache::builder().capacity(CAPACITY).build()?);
        Ok(Self {
            authenticator: Authenticator::new(Arc::clone(&store), Arc::clone(&cache)),
            registry: TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache)),
            store,
            cache,
            other_process,
        })
    }

    async fn close(self) {
        let closing = async { tokio::join!(self.store.close(), self.other_process.close()) };
        // If closing takes longer, the end of the process closes the connections.
        let _ = tokio::time::timeout(CLOSING, closing).await;
    }
}

async fn run(
    service: &Service,
    tasks: &mut JoinSet<Result<Tally, DemoError>>,
    revokers: &mut JoinSet<Result<(Changes, Tally), DemoError>>,
    mode: Mode,
    options: &Options,
) -> Result<Report, DemoError> {
    let keyring = Arc::new(register(&service.registry, options.trusts).await?);
    let held = match mode {
        Mode::Reading => None,
        Mode::ReadLease => {
            Some(Arc::new(HeldTrusts::start(service.store.feed(), "the demo", LEASE).await?))
        }
    };
    let authenticator = match &held {
        None => service.authenticator.clone(),
        Some(held) => {
            let (store, cache) = (Arc::clone(&service.store), Arc::clone(&service.cache));
            Authenticator::builder(store, cache).read_lease(Arc::clone(held)).build()
        }
    };
    // Half of the time for each mode.
    let duration = Duration::from_secs(options.seconds.into()) / 2;
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();

    for number in 0..TASKS.min(keyring.len()) {
        let worker = Worker {
            client: Client::new(authenticator.clone())?,
            store: Arc::clone(&service.store),
            keyring: Arc::clone(&keyring),
            number,
            stop: Arc::clone(&stop),
        };
        tasks.spawn(worker.run());
    }
    let other_process =
        TrustRegistry::new(Arc::clone(&service.other_process), Arc::new(TrustKeyCache::new()));
    for number in 0..mode.revokers() {
        let revoker = Revoker {
            client: Client::new(authenticator.clone())?,
            keyring: Arc::clone(&keyring),
            same_process: service.registry.clone(),
            other_process: other_process.clone(),
            share: (number, mode.revokers()),
        };
        revokers.spawn(revoker.run(duration));
    }
    let revoking = async {
        let (mut changes, mut tally) = (Changes::default(), Tally::new()?);
        while let Some(ended) = revokers.join_next().await {
            let (changed, answers) = ended??;
            changes.add(changed);
            tally.add(&answers);
        }
        tokio::time::sleep_until(start + duration).await;
        Ok::<_, DemoError>((changes, tally))
    };
    let (changes, mut tally) = tokio::select! {
        revoked = revoking => revoked?,
        // A worker ends when `stop` is set. A worker that has ended before has failed.
        Some(ended) = tasks.join_next() => {
            joined(ended)?;
            return Err(DemoError::TaskEnded);
        }
        never = progress::running(duration, &authenticator) => match never {},
    };

    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        tally.add(&joined(ended)?);
    }
    let stats = authenticator.stats();
    if let Some(held) = held {
        held.close().await;
    }
    Ok(Report::new(options.trusts.into(), start.elapsed(), stats, changes, &tally))
}

async fn register(
    registry: &TrustRegistry<SqliteStore>,
    trusts: u32,
) -> Result<Keyring, DemoError> {
    let bar = progress::registering(trusts.into());
    let mut keys = Vec::with_capacity(trusts as usize);
    for number in 1..=trusts {
        let (trust, key) = registry.register(NewTrust::new(format!("Trust {number}"))?).await?;
        keys.push(WatchedKey::issued(trust.id, key));
        bar.inc(1);
    }
    Ok(Keyring::new(keys))
}

fn joined(ended: Result<Result<Tally, DemoError>, JoinError>) -> Result<Tally, DemoError> {
    ended?
}
