//! The routes of the main listener, and the probes that both listeners have.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use axum::{Json, Router};

use super::meters::Meters;
use super::probes::Probes;
use super::verdict::{Verdict, verify};

const NO_STORE: [(HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// `/verify`. Anything below is the same: Envoy appends the path that it was asked for.
pub(crate) fn routes(verdict: Verdict) -> Router {
    Router::new()
        .route("/verify", any(verify))
        .route("/verify/", any(verify))
        .route("/verify/{*path}", any(verify))
        .with_state(Arc::new(verdict))
}

/// `/healthz`, `/readyz`, and `/metrics` where it is wanted.
pub(crate) fn for_probes(probes: &Arc<Probes>, meters: Option<&Arc<Meters>>) -> Router {
    let router = Router::new()
        .route("/healthz", get(async || (NO_STORE, "ok\n")))
        .route("/readyz", get(readyz).with_state(Arc::clone(probes)));
    match meters {
        Some(meters) => router.route("/metrics", get(metrics).with_state(Arc::clone(meters))),
        None => router,
    }
}

/// With `?strict`, what is degraded is not ready either.
async fn readyz(State(probes): State<Arc<Probes>>, uri: Uri) -> Response<Body> {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let strict = parameters.any(|parameter| parameter.split('=').next() == Some("strict"));
    let readiness = probes.readiness().await;
    let good = readiness.ready && (!strict || readiness.degraded.is_empty());
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, NO_STORE, Json(readiness)).into_response()
}

async fn metrics(State(meters): State<Arc<Meters>>) -> Response<Body> {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], meters.text()).into_response()
}
