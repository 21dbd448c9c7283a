//! [`KeyGuard`]: refuses each request to the admin listener that does not carry the internal
//! service key. The process has only the SHA-256 of the key.
//!
//! It answers all unauthenticated requests alike.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use axum::middleware::Next;
use axum::response::IntoResponse;
use trust_key_cache::KeyHash;

use super::error::AdminError;
use crate::serve::meters::Meters;

/// The paths that need no key for a read.
const PUBLIC: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The digest of the key, and the meters that count refusals.
pub(crate) struct KeyGuard {
    /// If it is `None`, each request is refused.
    key: Option<KeyHash>,
    meters: Arc<Meters>,
}

impl KeyGuard {
    pub(crate) fn new(key: Option<KeyHash>, meters: Arc<Meters>) -> Self {
        Self { key, meters }
    }
}

/// Lets a request through that carries the key, or that needs none; refuses any other.
pub(crate) async fn guard(
    State(guard): State<Arc<KeyGuard>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read && PUBLIC.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut response = match admit(guard.key.as_ref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            guard.meters.count_admin_request("none", refusal.kind());
            refusal.into_response()
        }
    };
    // An answer may carry a new key.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn admit(expected: Option<&KeyHash>, headers: &HeaderMap) -> Result<(), AdminError> {
    let expected = expected.ok_or_else(AdminError::unconfigured)?;
    let presented = bearer(headers).ok_or_else(AdminError::unauthorized)?;
    // `==` compares digests in constant time.
    if KeyHash::of(presented) == *expected { Ok(()) } else { Err(AdminError::unauthorized()) }
}

/// Returns the key of `Authorization: Bearer KEY`. Returns `None` if there are two such headers,
/// because it is not clear which one counts.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(expected: Option<&str>, values: &[&'static str]) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        admit(expected.map(KeyHash::of).as_ref(), &headers).map_err(|failure| failure.kind())
    }

    #[test]
    fn only_the_configured_key_is_accepted_and_without_one_no_key_is() {
        assert_eq!(outcome(Some("key"), &["Bearer key"]), Ok(()));
        assert_eq!(outcome(Some("key"), &["bearer key"]), Ok(()));
        for refused in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer other"],
            &["Bearer  key"],
            &["Bearer key "],
            &["Basic key"],
            &["key"],
            &["Bearer key", "Bearer key"],
            &["Bearer key", "Bearer other"],
        ] {
            assert_eq!(outcome(Some("key"), refused), Err("unauthorized"), "{refused:?}");
        }
        for any in [&[][..], &["Bearer key"], &["Bearer "]] {
            assert_eq!(outcome(None, any), Err("admin_unconfigured"), "{any:?}");
        }
        // The empty key is refused as well.
        assert_eq!(outcome(Some(""), &["Bearer "]), Err("unauthorized"));
    }
}
