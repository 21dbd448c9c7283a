//! [`Verdict`]: what `/verify` answers.
//!
//! The hot path of the service. Nothing of the request is copied but its digest, and nothing is
//! logged; the request's body is not read.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Response};
use trust_auth::{AuthError, Authenticator, KeyHeader, Trust};

use super::alarm::Alarm;
use super::identity;
use super::meters::Meters;
use super::walks::Walks;

/// How requests are judged.
pub(crate) struct Verdict {
    authenticator: Authenticator<Walks>,
    key_header: KeyHeader,
    meters: Arc<Meters>,
    alarm: Alarm,
}

impl Verdict {
    /// By this authenticator, whose deadline is the request's, on the key in this header.
    pub(crate) fn new(
        authenticator: Authenticator<Walks>,
        key_header: KeyHeader,
        meters: Arc<Meters>,
    ) -> Self {
        Self { authenticator, key_header, meters, alarm: Alarm::new() }
    }
}

/// `/verify`, of any method: 200 with the identity, or a refusal.
pub(crate) async fn verify(
    State(verdict): State<Arc<Verdict>>,
    request: Request,
) -> Response<Body> {
    let begun = Instant::now();
    let attempt =
        verdict.authenticator.attempt_headers(request.headers(), &verdict.key_header).await;
    verdict.meters.answered(&attempt.result, attempt.route, begun);
    match attempt.result {
        Ok(trust) => grant(&trust),
        Err(error) => {
            if let AuthError::Unavailable(cause) = &error {
                verdict.alarm.raise(cause);
            }
            verdict.key_header.refusal(&error)
        }
    }
}

fn grant(trust: &Trust) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    // A proxy that kept a grant would let in what was revoked since.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    identity::announce(trust, headers);
    response
}
