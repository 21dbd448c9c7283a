//! The service before its database is open: it listens, is alive and not ready, and tries again.
//!
//! A service that ended instead would be started again and again by its supervisor, which gives up
//! at some point, and the two would then have to be brought back in the right order by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use axum::{Json, Router};
use tokio::time::sleep;
use trust_auth::{AuthError, KeyHeader, StoreError};

use super::log_limit::LogLimit;
use super::meters::Meters;
use super::pauses::Pauses;
use super::probes::Probes;
use super::settings::Settings;
use crate::database::{Database, Target};
use crate::failure::{Failure, with_causes};

/// Between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Between two lines of the log.
const QUIET: Duration = Duration::from_mins(1);

/// Opens the database. One that cannot be reached now may be reached later, and is waited for,
/// unless the settings say otherwise; `waits` is told why, each time.
///
/// # Errors
///
/// What no waiting mends: a wrong URL, a table that does not fit, a file that cannot be used, a
/// pooler that delivers no notifications.
pub(crate) async fn open(
    target: &Target,
    settings: &Settings,
    mut waits: impl FnMut(&StoreError),
) -> Result<Database, Failure> {
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let limit = LogLimit::new(QUIET);
    let mut waited = false;
    loop {
        let error = match Database::open_with(target, settings.if_missing(), Some(settings.pool()))
            .await
        {
            Ok(database) => {
                // A listener to which nothing is delivered would look healthy. The second check
                // rules out a failover during the first one. The watcher retries after any other
                // failure.
                if let Err(StoreError::Deaf { .. }) = database.store().check_notifications().await
                    && let Err(error @ StoreError::Deaf { .. }) =
                        database.store().check_notifications().await
                {
                    return Err(error.into());
                }
                if waited {
                    tracing::info!("the database is reached: the service is ready to answer");
                }
                return Ok(database);
            }
            Err(error) if settings.exit_if_unreachable || !passes_by_itself(&error) => {
                return Err(error.into());
            }
            Err(error) => error,
        };
        waited = true;
        waits(&error);
        if let Some(others) = limit.try_log() {
            tracing::warn!(kind = error.kind(), error = %with_causes(&error), others, "the database cannot be reached: waiting for it");
        }
        sleep(pauses.next()).await;
    }
}

/// Whether the next try may do better with the same settings.
fn passes_by_itself(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::CannotConnect { .. }
            | StoreError::Exhausted { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::Timeout { .. }
            | StoreError::Busy
            | StoreError::Unreachable
    )
}

/// What requests find meanwhile.
struct Waiting {
    probes: Arc<Probes>,
    meters: Arc<Meters>,
    key_header: KeyHeader,
}

/// `/verify`, on the main listener.
pub(crate) fn verify_routes(
    probes: &Arc<Probes>,
    meters: &Arc<Meters>,
    key_header: KeyHeader,
) -> Router {
    let waiting = Waiting { probes: Arc::clone(probes), meters: Arc::clone(meters), key_header };
    Router::new()
        .route("/verify", any(verify))
        .route("/verify/", any(verify))
        .route("/verify/{*path}", any(verify))
        .with_state(Arc::new(waiting))
}

async fn verify(State(waiting): State<Arc<Waiting>>) -> Response<Body> {
    let begun = Instant::now();
    let refused = Err(AuthError::Unavailable(waiting.probes.waits_because()));
    waiting.meters.answered(&refused, trust_auth::Route::Unread, begun);
    waiting.key_header.refusal(&AuthError::Unavailable(StoreError::Unreachable))
}

/// Everything on the admin listener but the probes and metrics. The guard is around it, as it is
/// later.
pub(crate) fn admin_routes() -> Router {
    let unavailable = async || {
        let error = serde_json::json!({
            "error": { "kind": "unreachable", "message": "the database is not reached yet; try again" }
        });
        let retry = [(RETRY_AFTER, HeaderValue::from_static("1"))];
        (StatusCode::SERVICE_UNAVAILABLE, retry, Json(error)).into_response()
    };
    Router::new().fallback(any(unavailable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restart_of_the_database_mends_is_waited_for_and_nothing_else() {
        let server = || "postgres://db.example/trusts".to_owned();
        for error in [
            StoreError::CannotConnect { server: server(), reason: "it refused".into() },
            StoreError::Exhausted { server: server() },
            StoreError::ReadOnly { server: server() },
            StoreError::Timeout { after: Duration::from_secs(1) },
            StoreError::Busy,
            StoreError::Unreachable,
        ] {
            assert!(passes_by_itself(&error), "{error}");
        }
        for error in [
            StoreError::UnsupportedUrl { reason: "no scheme".into() },
            StoreError::Schema { path: "trusts.db".into(), reason: "no column".into() },
            StoreError::Deaf { server: server() },
            StoreError::NotADatabase { path: "trusts.db".into() },
            StoreError::CannotOpen { path: "trusts.db".into(), reason: "no folder".into() },
            StoreError::Other("a bug".into()),
        ] {
            assert!(!passes_by_itself(&error), "{error}");
        }
    }
}
