//! [`Guard`]: lets nothing through to the admin listener's routes without the internal service key, of which this process
//! knows only the SHA-256. It must answer each unauthenticated request alike.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use axum::middleware::Next;
use axum::response::IntoResponse;
use trust_key_cache::KeyHash;

use super::failure::Failure;
use crate::serve::meters::Meters;

/// What needs no key, to be read.
const PUBLIC: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The key, and where refusals are counted.
pub(crate) struct Guard {
    /// Without it, each request is refused.
    key: Option<KeyHash>,
    meters: Arc<Meters>,
}

impl Guard {
    pub(crate) fn new(key: Option<KeyHash>, meters: Arc<Meters>) -> Self {
        Self { key, meters }
    }
}

/// Lets a request through that carries the key, or that needs none; refuses any other.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
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
            guard.meters.administered("none", refusal.kind());
            refusal.into_response()
        }
    };
    // An answer may hold a new key.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn admit(expected: Option<&KeyHash>, headers: &HeaderMap) -> Result<(), Failure> {
    let expected = expected.ok_or_else(Failure::unconfigured)?;
    let presented = bearer(headers).ok_or_else(Failure::unauthorized)?;
    // In constant time: that is what `==` of digests is.
    if KeyHash::of(presented) == *expected { Ok(()) } else { Err(Failure::unauthorized()) }
}

/// The key of the one `Authorization: Bearer KEY`; with two such headers it would be a matter of
/// taste which one counts.
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
    fn only_the_configured_key_is_let_in_and_without_one_nobody_is() {
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
        // Not even the key of no characters.
        assert_eq!(outcome(Some(""), &["Bearer "]), Err("unauthorized"));
    }
}
