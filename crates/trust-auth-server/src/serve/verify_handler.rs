//! [`VerifyHandler`]: answers `/verify`.
//!
//! This is the hot path of the service. It copies nothing of a request but the digest of the key,
//! logs no request, and does not read the body.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Response};
use axum::routing::{MethodRouter, any};
use trust_auth::{AuthError, Authenticator, KeyHeader, LogLimit, Trust};

use super::identity;
use super::metered_store::MeteredStore;
use super::meters::Meters;
use crate::causes::with_causes;

/// The pause between two lines of the log about a database that fails.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The authenticator of requests, and the meters of its answers.
pub(crate) struct VerifyHandler {
    authenticator: Authenticator<MeteredStore>,
    key_header: KeyHeader,
    sends_attributes: bool,
    meters: Arc<Meters>,
    failures: LogLimit,
}

impl VerifyHandler {
    /// Returns a handler for the key in this header. The deadline of the authenticator is the
    /// deadline of a request. A grant may have the attributes of its trust.
    pub(crate) fn new(
        authenticator: Authenticator<MeteredStore>,
        key_header: KeyHeader,
        sends_attributes: bool,
        meters: Arc<Meters>,
    ) -> Self {
        let failures = LogLimit::new(LOG_PAUSE);
        Self { authenticator, key_header, sends_attributes, meters, failures }
    }
}

/// Returns the routes of `/verify`.
pub(crate) fn routes(handler: VerifyHandler) -> Router {
    at_verify(any(verify)).with_state(Arc::new(handler))
}

/// Returns the routes of `/verify` and the paths below it: Envoy appends the path of its request.
pub(crate) fn at_verify<S: Clone + Send + Sync + 'static>(handler: MethodRouter<S>) -> Router<S> {
    Router::new()
        .route("/verify", handler.clone())
        .route("/verify/", handler.clone())
        .route("/verify/{*path}", handler)
}

/// Answers 200 with the identity, or a refusal, for every method.
async fn verify(State(handler): State<Arc<VerifyHandler>>, request: Request) -> Response<Body> {
    let begun = Instant::now();
    let attempt =
        handler.authenticator.attempt_headers(request.headers(), &handler.key_header).await;
    handler.meters.record_latency(attempt.route, begun);
    match attempt.result {
        Ok(trust) => grant(&trust, handler.sends_attributes),
        Err(error) => {
            if let AuthError::Unavailable(cause) = &error
                && let Some(others) = handler.failures.try_log()
            {
                tracing::warn!(
                    kind = cause.kind(),
                    error = %with_causes(cause),
                    others,
                    "the database fails: requests are refused"
                );
            }
            handler.key_header.refusal(&error)
        }
    }
}

fn grant(trust: &Trust, sends_attributes: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    // A proxy that caches a grant would let a revoked key through.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    identity::add_headers(trust, sends_attributes, headers);
    response
}
