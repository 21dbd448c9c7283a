//! `serve`: the authenticator as a service that a proxy asks before it lets a request through
//! (forward-auth).
//!
//! Starts the parts in order (metrics, two listeners, database, cache, watcher) and stops them in
//! order. It grants nothing before all parts run. It ends once it has answered each request that it
//! has received, or once the limit of the drain has passed.

pub(crate) mod admin;
mod announcement;
mod before_open;
mod change_check;
mod client_stream;
mod drain;
mod health;
mod identity;
mod listener;
mod listener_routes;
mod log_queue;
mod logs;
mod metered_store;
mod meters;
mod open_files;
mod probe_routes;
mod probes;
mod read_lease;
mod retry_pauses;
mod scan_record;
pub(crate) mod settings;
pub(crate) mod settings_check;
mod verify_handler;

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::task::{JoinHandle, JoinSet};
use trust_auth::{Authenticator, HeldTrusts, KeyHasher, TrustRegistry, Watcher};
use trust_key_cache::TrustKeyCache;

use self::admin::guard::KeyGuard;
use self::admin::pending_waits::PendingWaits;
use self::admin::requests::Admin;
use self::announcement::Announcement;
use self::before_open::Opened;
use self::drain::{Connections, Drain};
use self::health::Health;
use self::listener::Listener;
use self::listener_routes::ListenerRoutes;
use self::log_queue::LogQueue;
use self::metered_store::MeteredStore;
use self::meters::{Meters, Sources};
use self::probes::{OpenedParts, ReadinessProbes};
use self::scan_record::ScanRecord;
use self::settings::Settings;
use self::verify_handler::VerifyHandler;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs};
use crate::find_by::FindByArg;
use crate::interrupt::Interrupt;
use crate::table_args::TableArgs;

/// How long the service waits at its end for the database to close its connections. A file system
/// that hangs may hold a connection without end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Serves until a signal ends the service. Returns once each request that it has received is
/// answered.
pub(crate) async fn serve(
    database: &DatabaseArgs,
    format: Format,
    settings: &Settings,
) -> Result<CommandAnswer, CommandError> {
    settings.check()?;
    let log = logs::start(settings.log_format, settings.log_level)?;
    let outcome = run(database, format, settings, &log).await;
    // Blocks, at a time when no other task needs the thread.
    log.flush(logs::FLUSH_LIMIT);
    outcome.map(|()| CommandAnswer::nothing())
}

async fn run(
    args: &DatabaseArgs,
    format: Format,
    settings: &Settings,
    log: &LogQueue,
) -> Result<(), CommandError> {
    open_files::raise_limit();
    // Before anything is open, so that a signal always ends the service in order.
    let mut interrupt = Interrupt::listen().map_err(|error| {
        CommandError::new("signals", format!("cannot listen for signals: {error}"))
    })?;
    let cache = Arc::new(settings.cache()?);
    let hasher = settings.pepper.hasher()?;
    let drain = Drain::new();
    let meters = Arc::new(Meters::new(log.clone()));
    let probes = Arc::new(ReadinessProbes::new(drain.clone()));
    let waits = PendingWaits::default();
    // The tasks that run until the end. Dropping the set ends them.
    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&meters).run_upkeep());

    // From here on the service is alive. It is ready once the database is open.
    let connections = Connections::new(drain.clone());
    let listeners = Listeners::start(settings, &probes, &meters, &connections)?;
    let mut is_announced = false;
    let mut announce = |database: String| {
        if !mem::replace(&mut is_announced, true) {
            listeners.announce(format, settings, &args.tables, database);
        }
    };
    let holder = read_lease::holder_name(listeners.main.address);
    let opening = before_open::open(args, settings, &holder, |error| {
        probes.set_open_error(error);
        announce(args.expected(error));
    });
    let opened = tokio::select! {
        opened = opening => Some(opened?),
        () = interrupt.received() => None,
    };
    if let Some(Opened { database, held }) = &opened {
        let held = held.clone();
        let parts = Parts {
            settings,
            cache,
            hasher,
            held,
            probes: &probes,
            meters: &meters,
            waits: &waits,
        };
        parts.serve(database, &listeners, &mut background);
        announce(database.store().described());
        interrupt.received().await;
    }

    let end = drain.end(
        interrupt,
        listeners.tasks,
        &connections,
        settings.drain_delay,
        settings.drain_timeout,
    );
    let outcome = end.await;
    waits.log_unfinished();
    drop(background);
    if let Some(opened) = opened
        && tokio::time::timeout(CLOSE_LIMIT, close(opened)).await.is_err()
    {
        tracing::warn!(
            "the connections to the database did not close within {CLOSE_LIMIT:?}; their last \
             writes may or may not be committed"
        );
    }
    outcome
}

/// Gives the read lease up, so that no revocation waits for this process, and closes the database.
async fn close(Opened { database, held }: Opened) {
    if let Some(held) = held {
        held.close().await;
    }
    database.close().await;
}

/// The parts that need an open database.
struct Parts<'a> {
    settings: &'a Settings,
    cache: Arc<TrustKeyCache>,
    hasher: KeyHasher,
    /// The trusts that are held under a read lease, if there is one.
    held: Option<Arc<HeldTrusts>>,
    probes: &'a ReadinessProbes,
    meters: &'a Arc<Meters>,
    waits: &'a PendingWaits,
}

impl Parts<'_> {
    /// Starts to answer requests from this database.
    fn serve(self, database: &Database, listeners: &Listeners, background: &mut JoinSet<()>) {
        let Self { settings, cache, hasher, held, probes, meters, waits } = self;
        // Before the first request, so that no later change is missed.
        let watcher = Arc::new(database.store().watch(Arc::clone(&cache), held.is_some()));
        let scans = Arc::new(ScanRecord::new(settings.query_timeout));
        let store = Arc::new(MeteredStore::new(
            database.store(),
            Arc::clone(&scans),
            meters.scan_seconds(),
        ));
        let mut builder = Authenticator::builder(Arc::clone(&store), Arc::clone(&cache));
        if let Some(held) = &held {
            builder = builder.read_lease(Arc::clone(held));
            background.spawn(read_lease::log(Arc::clone(held)));
        }
        let authenticator = settings.limit(builder).key_hasher(hasher.clone()).build();
        let health = Arc::new(impairments(database, &watcher, held.as_ref()));

        meters.set_sources(Sources {
            authenticator: authenticator.clone(),
            store,
            cache: Arc::clone(&cache),
            held: held.clone(),
            watcher: Arc::clone(&watcher),
            health: Arc::clone(&health),
        });
        background.spawn(change_check::run(database.store()));
        let (record, scanner) = (Arc::clone(&scans), authenticator.clone());
        match settings.find_by {
            FindByArg::Scan => {
                background.spawn(async move { record.retry_failed_scans(scanner).await });
            }
            FindByArg::Index => record.set_unneeded(),
        }

        if let Some(admin) = &listeners.admin {
            let registry = TrustRegistry::new(database.store(), cache)
                .with_key_prefix(settings.key_prefix())
                .with_key_hasher(hasher.clone());
            let accepts_sha256 = hasher.accepts_unpeppered();
            let api =
                Admin::new(registry, settings, accepts_sha256, Arc::clone(meters), waits.clone());
            let routes = admin::routes(api, &listeners.guard, admin.probes.clone());
            admin.routes.set_opened(routes);
        }
        let handler = VerifyHandler::new(
            authenticator,
            settings.key_header(),
            settings.send_attributes,
            Arc::clone(meters),
        );
        let routes = verify_handler::routes(handler).merge(listeners.main.probes.clone());
        listeners.main.routes.set_opened(routes);
        let store = database.store();
        probes.set_opened(OpenedParts { store, watcher, scans, held, health });
    }
}

/// Returns the impairments: each has a word, a gauge, and the meaning of the gauge.
fn impairments(
    database: &Database,
    watcher: &Arc<Watcher>,
    held: Option<&Arc<HeldTrusts>>,
) -> Health {
    let (store, listener) = (database.store(), Arc::clone(watcher));
    let health = Health::default()
        .degraded_if(
            "changes",
            "trust_auth_changes_failing",
            "Whether the last change of a trust failed in the database and no later one was made: \
             1 or 0",
            move || store.changes().are_failing(),
        )
        .degraded_if(
            "triggers_missing",
            "trust_auth_triggers_missing",
            "Whether triggers that notify of changes are missing or turned off: 1 or 0",
            move || listener.status().triggers_missing,
        );
    match held.cloned() {
        Some(held) => health.degraded_if(
            "read_lease",
            "trust_auth_read_lease_lost",
            "Whether the read lease has run out, so that each request reads the database: 1 or 0",
            move || !held.is_valid(),
        ),
        None => health,
    }
}

/// The listeners, from their start on.
struct Listeners {
    main: RunningListener,
    admin: Option<RunningListener>,
    /// Guards the admin listener.
    guard: Arc<KeyGuard>,
    tasks: Vec<JoinHandle<()>>,
}

/// One listener: its address, its routes, and the routes of its probes, which are the same before
/// and after the database is open.
struct RunningListener {
    address: SocketAddr,
    routes: ListenerRoutes,
    probes: Router,
}

impl Listeners {
    fn start(
        settings: &Settings,
        probes: &Arc<ReadinessProbes>,
        meters: &Arc<Meters>,
        connections: &Connections,
    ) -> Result<Self, CommandError> {
        // Both addresses are bound before the first request is answered.
        let main = Listener::bind("main", settings.listen, &settings.main_limits())?;
        let admin = match settings.admin_listen.address() {
            Some(address) => Some(Listener::bind("admin", address, &settings.admin_limits())?),
            None => None,
        };
        let mut tasks = Vec::new();
        let mut start = |listener: Listener, before_open: Router, probes: Router| {
            let (name, address) = (listener.name(), listener.address());
            let routes = ListenerRoutes::new(before_open);
            let serving =
                listener.serve(routes.clone(), connections.clone(), meters.connections(name));
            tasks.push(tokio::spawn(serving));
            RunningListener { address, routes, probes }
        };
        let on_main = (!settings.metrics_on_admin_only).then_some(meters);
        let probe_routes = probe_routes::routes(probes, on_main);
        let verify = before_open::verify_routes(probes, meters, settings.key_header());
        let main = start(main, verify.merge(probe_routes.clone()), probe_routes);
        let guard = Arc::new(KeyGuard::new(settings.admin_key(), Arc::clone(meters)));
        let admin = admin.map(|listener| {
            let probe_routes = probe_routes::routes(probes, Some(meters));
            let unguarded = before_open::admin_routes().merge(probe_routes.clone());
            start(listener, admin::guarded(&guard, unguarded), probe_routes)
        });
        Ok(Self { main, admin, guard, tasks })
    }

    /// Announces the addresses and the settings.
    fn announce(&self, format: Format, settings: &Settings, tables: &TableArgs, database: String) {
        let announcement = Announcement {
            listen: self.main.address,
            admin_listen: self.admin.as_ref().map(|admin| admin.address),
            database,
            tables,
            settings,
        };
        announcement.publish(format);
    }
}
