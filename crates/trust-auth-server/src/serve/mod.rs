//! `serve`: the authenticator as a service that any proxy asks before it lets a request through
//! (forward-auth).
//!
//! Puts the parts together and takes them apart again in order: metrics, two listeners, database,
//! cache, watcher, drain. It must never grant before all of them stand, and never end while an
//! answer is owed and the drain's bound is not over.

mod admin;
mod alarm;
mod change_check;
mod connections;
mod drain;
mod health;
mod identity;
mod limits;
mod lingering;
mod listener;
mod log_limit;
mod log_queue;
mod logs;
mod meters;
mod open_files;
mod output;
mod pauses;
mod probes;
mod public;
mod scan_record;
mod settings;
mod stage;
mod verdict;
mod waiting;
mod walks;

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use serde::Serialize;
use tokio::task::{JoinHandle, JoinSet};
use trust_auth::{Authenticator, TrustRegistry, Watcher};
use trust_key_cache::TrustKeyCache;

pub(crate) use self::settings::Settings;

use self::admin::{Admin, Guard};
use self::connections::Connections;
use self::drain::Drain;
use self::health::Health;
use self::limits::Limits;
use self::listener::Listener;
use self::log_queue::LogQueue;
use self::meters::{Meters, Sources};
use self::probes::{Opened, Probes};
use self::scan_record::ScanRecord;
use self::stage::Stage;
use self::verdict::Verdict;
use self::walks::Walks;
use crate::answer::{Answer, Format};
use crate::database::{Database, Target};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// How long the end waits for the database's connections. A file system that hangs would hold one
/// without end.
const CLOSING: Duration = Duration::from_secs(10);

/// Serves until a signal ends it. Returns when every answer that was owed is given.
pub(crate) async fn serve(
    target: &Target,
    format: Format,
    settings: &Settings,
) -> Result<Answer, Failure> {
    settings.check()?;
    let log = logs::start(settings.log_format, settings.log_level)?;
    let outcome = run(target, format, settings, &log).await;
    // Nothing else is left that this could keep waiting.
    log.flush(logs::LAST_LINES);
    outcome.map(|()| Answer::nothing())
}

async fn run(
    target: &Target,
    format: Format,
    settings: &Settings,
    log: &LogQueue,
) -> Result<(), Failure> {
    open_files::raise_limit();
    // Before anything is open: from here on, a signal ends the service in order.
    let mut interrupt = Interrupt::listen()
        .map_err(|error| Failure::new("signals", format!("cannot listen for signals: {error}")))?;
    let cache = Arc::new(settings.cache()?);
    let drain = Drain::new();
    let meters = Arc::new(Meters::new(log.clone()));
    let probes = Arc::new(Probes::new(drain.clone()));
    // What goes on until the end; it ends when this is dropped.
    let mut upkeep = JoinSet::new();
    upkeep.spawn(Arc::clone(&meters).keep_up());

    // Alive from here on, and ready when the database is open.
    let connections = Connections::new(drain.clone());
    let front = Front::listen(settings, &probes, &meters, &connections)?;
    let mut announced = false;
    let mut announce = |database: String| {
        if !mem::replace(&mut announced, true) {
            front.announce(format, settings, database);
        }
    };
    let opening = waiting::open(target, settings, |error| {
        probes.wait_because(error);
        announce(target.expected(error));
    });
    let opened = tokio::select! {
        opened = opening => Some(opened?),
        () = interrupt.received() => None,
    };
    if let Some(database) = &opened {
        let parts = Parts { settings, cache, probes: &probes, meters: &meters };
        parts.serve(database, &front, &mut upkeep);
        announce(database.store().described());
        interrupt.received().await;
    }

    let end = drain.end(
        interrupt,
        front.tasks,
        &connections,
        settings.drain_delay,
        settings.drain_timeout,
    );
    let outcome = end.await;
    drop(upkeep);
    if let Some(database) = opened
        && tokio::time::timeout(CLOSING, database.close()).await.is_err()
    {
        tracing::warn!(
            "the database's connections did not close within {CLOSING:?}; what they were writing may or may not be committed"
        );
    }
    outcome
}

/// What is put together once the database is open.
struct Parts<'a> {
    settings: &'a Settings,
    cache: Arc<TrustKeyCache>,
    probes: &'a Probes,
    meters: &'a Arc<Meters>,
}

impl Parts<'_> {
    /// Answers requests from this database.
    fn serve(self, database: &Database, front: &Front, upkeep: &mut JoinSet<()>) {
        let Self { settings, cache, probes, meters } = self;
        // Before the first request: what changes from now on is heard of.
        let watcher = Arc::new(database.store().watch(Arc::clone(&cache)));
        let scans = Arc::new(ScanRecord::new(settings.query_timeout));
        let walks =
            Arc::new(Walks::over(database.store(), Arc::clone(&scans), meters.walk_seconds()));
        let builder = Authenticator::builder(Arc::clone(&walks), Arc::clone(&cache));
        let authenticator = settings.limit(builder).build();
        let health = Arc::new(impairments(database, &watcher));

        meters.read_from(Sources {
            authenticator: authenticator.clone(),
            walks,
            cache: Arc::clone(&cache),
            watcher: Arc::clone(&watcher),
            health: Arc::clone(&health),
        });
        upkeep.spawn(change_check::run(database.store()));
        let (record, scanner) = (Arc::clone(&scans), authenticator.clone());
        upkeep.spawn(async move { record.keep_trying(scanner).await });

        if let Some(admin) = &front.admin {
            let registry = TrustRegistry::new(database.store(), cache);
            let api = Admin::new(registry, settings.request_timeout, Arc::clone(meters));
            admin.stage.serve(admin::routes(api, &front.guard, admin.probes.clone()));
        }
        let verdict = Verdict::new(authenticator, settings.key_header(), Arc::clone(meters));
        front.main.stage.serve(public::routes(verdict).merge(front.main.probes.clone()));
        probes.open(Opened { store: database.store(), watcher, scans, health });
    }
}

/// Whatever may be wrong although requests are answered: each its word, its gauge and what the
/// gauge means.
fn impairments(database: &Database, watcher: &Arc<Watcher>) -> Health {
    let (store, listener) = (database.store(), Arc::clone(watcher));
    Health::default()
        .degraded_if(
            "changes",
            "trust_auth_changes_failing",
            "Whether the last change of a trust failed in the database, and none could be made since: 1 or 0",
            move || store.changes().are_failing(),
        )
        .degraded_if(
            "triggers_missing",
            "trust_auth_triggers_missing",
            "Whether triggers that tell of changes are missing or turned off: 1 or 0",
            move || listener.status().triggers_missing,
        )
}

/// The listeners, from the first moment on.
struct Front {
    main: Face,
    admin: Option<Face>,
    /// Of the admin listener.
    guard: Arc<Guard>,
    tasks: Vec<JoinHandle<()>>,
}

/// One listener: where it is, what it answers, and those of its routes that are the same before and
/// after the database is open.
struct Face {
    address: SocketAddr,
    stage: Stage,
    probes: Router,
}

impl Front {
    fn listen(
        settings: &Settings,
        probes: &Arc<Probes>,
        meters: &Arc<Meters>,
        connections: &Connections,
    ) -> Result<Self, Failure> {
        // Both addresses before the first answer.
        let main = Listener::bind("main", settings.listen, &settings.limits())?;
        let admin = match settings.admin_listen.address() {
            Some(address) => Some(Listener::bind("admin", address, &Limits::of_admin(settings))?),
            None => None,
        };
        let mut tasks = Vec::new();
        let mut face = |listener: Listener, waiting: Router, probes: Router| {
            let (name, address) = (listener.name(), listener.address());
            let stage = Stage::new(waiting);
            let serving =
                listener.serve(stage.clone(), connections.clone(), meters.connections(name));
            tasks.push(tokio::spawn(serving));
            Face { address, stage, probes }
        };
        let on_main = (!settings.metrics_on_admin_only).then_some(meters);
        let open = public::for_probes(probes, on_main);
        let verify = waiting::verify_routes(probes, meters, settings.key_header());
        let main = face(main, verify.merge(open.clone()), open);
        let guard = Arc::new(Guard::new(settings.admin_key(), Arc::clone(meters)));
        let admin = admin.map(|listener| {
            let open = public::for_probes(probes, Some(meters));
            let waiting = admin::guarded(&guard, waiting::admin_routes().merge(open.clone()));
            face(listener, waiting, open)
        });
        Ok(Self { main, admin, guard, tasks })
    }

    /// Tells where the service is, and what was decided.
    fn announce(&self, format: Format, settings: &Settings, database: String) {
        let serving = Serving {
            listen: self.main.address,
            admin_listen: self.admin.as_ref().map(|admin| admin.address),
            database,
            settings,
        };
        serving.announce(format);
    }
}

/// What is served, where and how, for whoever started it: without the database's password, and
/// without the admin key's digest.
#[derive(Serialize)]
struct Serving<'a> {
    listen: SocketAddr,
    admin_listen: Option<SocketAddr>,
    database: String,
    settings: &'a Settings,
}

impl Serving<'_> {
    /// One line on standard output, which is where a supervisor finds the port, and one in the log.
    fn announce(&self, format: Format) {
        #[derive(Serialize)]
        struct Envelope<'a> {
            serving: &'a Serving<'a>,
        }
        let line = Answer::new(format, &Envelope { serving: self }, || {
            let admin = self
                .admin_listen
                .map_or("off".to_owned(), |address| format!("http://{address}/admin/trusts"));
            format!(
                "Serving http://{}/verify from {}; admin API: {admin}.",
                self.listen, self.database
            )
        });
        // By a thread that is not waited for: a pipe that is full would hold up the service.
        let written =
            thread::Builder::new().name("announcement".into()).spawn(move || line.deliver());
        if let Err(error) = written {
            tracing::warn!(%error, "cannot announce the service on standard output");
        }
        let admin_listen = self
            .admin_listen
            .map(|address| address.to_string())
            .unwrap_or_else(|| "off".to_owned());
        self.settings.log(self.listen, &admin_listen, &self.database);
        self.settings.warn();
        if self.settings.admin_key_sha256.is_none() && self.admin_listen.is_some() {
            tracing::info!("the admin API refuses everything: no --admin-key-sha256 is configured");
        }
        if let Some(address) = self.admin_listen.filter(|address| !address.ip().is_loopback()) {
            tracing::warn!(%address, "the admin API is not on a loopback address: its key and new API keys travel in clear text");
        }
    }
}
