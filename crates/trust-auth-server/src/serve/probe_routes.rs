//! The routes that need no key, which both listeners have: the probes and the metrics.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::{Json, Router};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::meters::Meters;
use super::probes::{Readiness, ReadinessProbes};

const NO_STORE: [(HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Returns the routes of `/healthz` and `/readyz`, and of `/metrics` if there are meters.
pub(crate) fn routes(probes: &Arc<ReadinessProbes>, meters: Option<&Arc<Meters>>) -> Router {
    let router = health_route().merge(readiness_route().with_state(Arc::clone(probes)));
    let router = match meters {
        Some(meters) => router.merge(metrics_route().with_state(Arc::clone(meters))),
        None => router,
    };
    router.into()
}

/// Returns the part of the OpenAPI document that describes these routes.
pub(crate) fn document() -> OpenApi {
    health_route()
        .into_openapi()
        .merge_from(readiness_route().into_openapi())
        .merge_from(metrics_route().into_openapi())
}

fn health_route() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(healthz))
}

fn readiness_route() -> OpenApiRouter<Arc<ReadinessProbes>> {
    OpenApiRouter::new().routes(routes!(readyz))
}

fn metrics_route() -> OpenApiRouter<Arc<Meters>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Answers 200 as long as the process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "health",
    tag = "probes",
    summary = "Check that the process runs",
    description = "Answers as long as the process runs.",
    security(()),
    responses((status = 200, description = "The process runs", content_type = "text/plain",
        body = String, example = "ok\n")),
)]
async fn healthz() -> impl IntoResponse {
    (NO_STORE, "ok\n")
}

/// Answers 200 if the service is ready. With `?strict`, a degraded service is not ready.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readiness",
    tag = "probes",
    summary = "Check that the service is ready",
    description = "Answers whether a balancer should send requests to the service.",
    params(("strict" = Option<String>, Query,
        description = "With this parameter, whatever its value, a service with a word in \
                       `degraded` is not ready.")),
    security(()),
    responses(
        (status = 200, description = "The service is ready", body = Readiness),
        (status = 503, description = "The service is not ready, or is ending", body = Readiness),
    ),
)]
async fn readyz(State(probes): State<Arc<ReadinessProbes>>, uri: Uri) -> Response<Body> {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let strict = parameters.any(|parameter| parameter.split('=').next() == Some("strict"));
    let readiness = probes.readiness().await;
    let good = readiness.ready && (!strict || readiness.degraded.is_empty());
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, NO_STORE, Json(readiness)).into_response()
}

/// Answers with the metrics.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "probes",
    summary = "Read the metrics",
    description = "Returns the metrics in the text format of Prometheus.",
    security(()),
    responses((status = 200, description = "The metrics",
        content_type = "text/plain; version=0.0.4; charset=utf-8", body = String)),
)]
async fn metrics(State(meters): State<Arc<Meters>>) -> Response<Body> {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], meters.render()).into_response()
}
