//! The routes that need no key, which both listeners have: the probes and the metrics.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};

use super::meters::Meters;
use super::probes::ReadinessProbes;

const NO_STORE: [(HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Returns the routes of `/healthz` and `/readyz`, and of `/metrics` if there are meters.
pub(crate) fn routes(probes: &Arc<ReadinessProbes>, meters: Option<&Arc<Meters>>) -> Router {
    let router = Router::new()
        .route("/healthz", get(async || (NO_STORE, "ok\n")))
        .route("/readyz", get(readyz).with_state(Arc::clone(probes)));
    match meters {
        Some(meters) => router.route("/metrics", get(metrics).with_state(Arc::clone(meters))),
        None => router,
    }
}

/// Answers 200 if the service is ready. With `?strict`, a degraded service is not ready.
async fn readyz(State(probes): State<Arc<ReadinessProbes>>, uri: Uri) -> Response<Body> {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let strict = parameters.any(|parameter| parameter.split('=').next() == Some("strict"));
    let readiness = probes.readiness().await;
    let good = readiness.ready && (!strict || readiness.degraded.is_empty());
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, NO_STORE, Json(readiness)).into_response()
}

async fn metrics(State(meters): State<Arc<Meters>>) -> Response<Body> {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], meters.render()).into_response()
}
