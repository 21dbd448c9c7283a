//! The service before its database is open: it listens, answers 503, and retries.
//!
//! If the service ended instead, its supervisor would start it again and again, and would give up
//! at some point. An operator would then have to start the two in the right order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::response::IntoResponse;
use axum::routing::any;
use tokio::time::sleep;
use trust_auth::{AuthError, HeldTrusts, KeyHeader, LogLimit, PgChanges, StoreError};

use super::admin::error::AdminError;
use super::meters::Meters;
use super::probes::ReadinessProbes;
use super::retry_pauses::RetryPauses;
use super::settings::Settings;
use super::verify_handler;
use crate::causes::with_causes;
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs};
use crate::find_by::FindByArg;

/// The pauses between attempts to open the database.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The shortest read lease on PostgreSQL. Renewals cross a network.
const LEAST_LEASE: Duration = Duration::from_secs(1);

/// Opens the database, and holds its trusts if there is a read lease, under the name `holder`.
/// Retries while it cannot be reached, unless the settings forbid it, and calls `on_failure` after
/// each failed attempt.
///
/// # Errors
///
/// Failures that no retry can mend: a wrong URL, an unsuitable table, an unusable file, a pooler
/// that delivers no notifications, or a database without what the read lease needs.
pub(crate) async fn open(
    args: &DatabaseArgs,
    settings: &Settings,
    holder: &str,
    mut on_failure: impl FnMut(&StoreError),
) -> Result<Opened, CommandError> {
    if args.postgres()?.is_some() && settings.read_lease.is_some_and(|length| length < LEAST_LEASE)
    {
        let message = "--read-lease must be at least 1s on PostgreSQL";
        return Err(CommandError::new("settings", message));
    }
    let mut pauses = RetryPauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let limit = LogLimit::default();
    let mut has_waited = false;
    loop {
        let error = match try_open(args, settings, holder).await {
            Ok(opened) => {
                if has_waited {
                    tracing::info!("the database is open: the service is ready");
                }
                return Ok(opened);
            }
            Err(error) if settings.exit_if_unreachable || !error.is_transient() => {
                return Err(error.into());
            }
            Err(error) => error,
        };
        has_waited = true;
        on_failure(&error);
        if let Some(others) = limit.try_log() {
            tracing::warn!(
                kind = error.kind(),
                error = %with_causes(&error),
                others,
                "the database cannot be reached: waiting for it"
            );
        }
        sleep(pauses.next_pause()).await;
    }
}

/// A database that is open, and the trusts in it that are held if there is a read lease.
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) held: Option<Arc<HeldTrusts>>,
}

async fn try_open(
    args: &DatabaseArgs,
    settings: &Settings,
    holder: &str,
) -> Result<Opened, StoreError> {
    let database = Database::open_with(args, settings.if_missing(), Some(settings.pool())).await?;
    let held = match finish_opening(args, settings, holder, &database).await {
        Ok(held) => held,
        Err(error) => {
            database.close().await;
            return Err(error);
        }
    };
    Ok(Opened { database, held: held.map(Arc::new) })
}

/// Checks notifications and the index, if there must be one, and begins to hold the trusts.
async fn finish_opening(
    args: &DatabaseArgs,
    settings: &Settings,
    holder: &str,
    database: &Database,
) -> Result<Option<HeldTrusts>, StoreError> {
    let store = database.store();
    // Otherwise a listener that receives no notification appears healthy. The second check rules
    // out a failover during the first one. After any other failure the watcher retries.
    if let Err(StoreError::Deaf { .. }) = store.check_notifications().await
        && let Err(error @ StoreError::Deaf { .. }) = store.check_notifications().await
    {
        return Err(error);
    }
    if settings.find_by == FindByArg::Index {
        if settings.migrate {
            make_index(args).await?;
        }
        store.check_index().await?;
    }
    let Some(length) = settings.read_lease else { return Ok(None) };
    if let (true, Some(options)) = (settings.migrate, args.postgres()?) {
        PgChanges::trusts(options).run_migration().await?;
    }
    store.hold(holder, length).await.map(Some)
}

async fn make_index(args: &DatabaseArgs) -> Result<(), StoreError> {
    match args.postgres()? {
        Some(options) => options.make_index().await.map(drop),
        None => args.sqlite()?.make_index().await.map(drop),
    }
}

/// The handler of `/verify` until the database is open.
struct UnopenedHandler {
    probes: Arc<ReadinessProbes>,
    meters: Arc<Meters>,
    key_header: KeyHeader,
}

/// Returns the routes of `/verify` on the main listener.
pub(crate) fn verify_routes(
    probes: &Arc<ReadinessProbes>,
    meters: &Arc<Meters>,
    key_header: KeyHeader,
) -> Router {
    let (probes, meters) = (Arc::clone(probes), Arc::clone(meters));
    let handler = UnopenedHandler { probes, meters, key_header };
    verify_handler::at_verify(any(refuse)).with_state(Arc::new(handler))
}

async fn refuse(State(handler): State<Arc<UnopenedHandler>>) -> Response<Body> {
    let begun = Instant::now();
    handler.meters.record_refusal_before_open(&handler.probes.open_error(), begun);
    handler.key_header.refusal(&AuthError::Unavailable(StoreError::Unreachable))
}

/// Returns the routes of the admin listener, without the probes, the metrics and the guard.
pub(crate) fn admin_routes() -> Router {
    Router::new().fallback(any(async || AdminError::database_not_open().into_response()))
}
