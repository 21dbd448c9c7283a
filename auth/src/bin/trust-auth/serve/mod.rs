//! `serve`: the authenticator as a service that any proxy asks before it lets a request through (forward-auth).
//!
//! Puts the parts together and takes them apart again in order: database, cache, watcher, two listeners, metrics, drain. It must never begin
//! to answer before all of them stand, and never end while an answer is owed and the drain's bound is not over.

mod admin;
mod alarm;
mod change_check;
mod connections;
mod drain;
mod health;
mod identity;
mod limits;
mod listener;
mod log_queue;
mod logs;
mod meters;
mod output;
mod probes;
mod public;
mod settings;
mod verdict;
mod walks;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use trust_auth::{Authenticator, TrustRegistry};

pub(crate) use self::settings::Settings;

use self::admin::Admin;
use self::connections::Connections;
use self::drain::Drain;
use self::health::Health;
use self::listener::Listener;
use self::log_queue::LogQueue;
use self::meters::Meters;
use self::probes::Probes;
use self::verdict::Verdict;
use self::walks::Walks;
use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// How long the end waits for the database's connections. A file system that hangs would hold one without end.
const CLOSING: Duration = Duration::from_secs(10);

/// Serves until a signal ends it. Returns when every answer that was owed is given.
pub(crate) async fn serve(url: &Path, format: Format, settings: &Settings) -> Result<Answer, Failure> {
    settings.check()?;
    let log = logs::start(settings.log_format, settings.log_level)?;
    let outcome = run(url, format, settings, &log).await;
    // Nothing else is left that this could keep waiting.
    log.flush(logs::LAST_LINES);
    outcome.map(|()| Answer::nothing())
}

async fn run(url: &Path, format: Format, settings: &Settings, log: &LogQueue) -> Result<(), Failure> {
    // Before anything is open: from here on, a signal ends the service in order.
    let interrupt = Interrupt::listen()
        .map_err(|error| Failure::new("signals", format!("cannot listen for signals: {error}")))?;

    let database = Database::open_with(url, IfMissing::Create, Some(settings.pool())).await?;
    let cache = Arc::new(settings.cache()?);
    // Before the first request: what changes from now on is heard of.
    let watcher = Arc::new(database.store().watch(Arc::clone(&cache)));
    let recorder = meters::recorder();
    let walks = Arc::new(Walks::over(database.store(), meters::walk_seconds(&recorder)));
    let builder = Authenticator::builder(Arc::clone(&walks), Arc::clone(&cache));
    let authenticator = settings.limit(builder).build();

    // Whatever is wrong although requests are answered: each its word, its gauge and what the gauge means.
    let (store, listener) = (database.store(), Arc::clone(&watcher));
    let health = Health::default()
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
        );
    let health = Arc::new(health);
    let drain = Drain::new();
    let meters = Arc::new(Meters::new(
        recorder,
        authenticator.clone(),
        walks,
        Arc::clone(&cache),
        Arc::clone(&watcher),
        Arc::clone(&health),
        log.clone(),
    ));
    let probes = Arc::new(Probes::new(database.store(), watcher, drain.clone(), health));
    let verdict = Verdict::new(authenticator, settings.key_header(), Arc::clone(&meters));

    let main = Listener::bind("main", settings.listen, &settings.limits())?;
    let admin = match settings.admin_listen.address() {
        Some(address) => Some(Listener::bind("admin", address, &limits::Limits::of_admin(settings))?),
        None => None,
    };
    let serving = Serving {
        listen: main.address(),
        admin_listen: admin.as_ref().map(Listener::address),
        database: database.store().described(),
        settings,
    };
    serving.announce(format);

    let connections = Connections::new(drain.clone());
    let upkeep = tokio::spawn(Arc::clone(&meters).keep_up());
    let change_check = tokio::spawn(change_check::run(database.store()));
    let on_main = (!settings.metrics_on_admin_only).then_some(&meters);
    let routes = public::routes(verdict, &probes, on_main);
    let mut listeners =
        vec![tokio::spawn(main.serve(routes, connections.clone(), meters.connections("main")))];
    if let Some(admin) = admin {
        let registry = TrustRegistry::new(database.store(), cache);
        let api = Admin::new(registry, settings.admin_key(), settings.request_timeout, Arc::clone(&meters));
        let routes = admin::routes(api).merge(public::for_probes(&probes, Some(&meters)));
        listeners.push(tokio::spawn(admin.serve(routes, connections.clone(), meters.connections("admin"))));
    }

    let end = drain.run(interrupt, listeners, &connections, settings.drain_delay, settings.drain_timeout);
    let outcome = end.await;
    upkeep.abort();
    change_check.abort();
    if tokio::time::timeout(CLOSING, database.close()).await.is_err() {
        tracing::warn!(
            "the database's connections did not close within {CLOSING:?}; what they were writing may or may not be committed"
        );
    }
    outcome
}

/// What is served, where and how, for whoever started it: without the database's password, and without the admin key's digest.
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
            format!("Serving http://{}/verify from {}; admin API: {admin}.", self.listen, self.database)
        });
        // By a thread that is not waited for: a pipe that is full would hold up the service.
        let written = thread::Builder::new().name("announcement".into()).spawn(move || line.deliver());
        if let Err(error) = written {
            tracing::warn!(%error, "cannot announce the service on standard output");
        }
        let admin_listen =
            self.admin_listen.map(|address| address.to_string()).unwrap_or_else(|| "off".to_owned());
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
