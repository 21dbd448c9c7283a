//! [`Authenticated`] and [`KeyId`]: the trust of a request and which of its keys it had, as
//! arguments of an axum handler.

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;

use super::KeyId;
use super::refusals::Refusals;
use crate::error::AuthError;
use crate::trust::Trust;

/// The trust of a granted request, which the [`AuthLayer`](crate::AuthLayer) in front has found.
///
/// It reads nothing and decides nothing. On a route without a layer in front, the request is
/// refused with [`NotAuthenticated`]: a forgotten layer grants nothing. `Option<Authenticated>` is
/// for routes behind a layer that is [optional](crate::AuthLayer::optional), or that
/// [allows a missing key](crate::AuthLayer::allow_missing).
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use trust_auth::{AuthLayer, Authenticated};
/// # use std::sync::Arc;
/// # use axum::body::Body;
/// # use http::Request;
/// # use tower::ServiceExt;
/// # use trust_auth::{Authenticator, KeyHash, MemoryStore, NewTrust, TrustKeyCache, TrustLedger};
///
/// async fn greet(Authenticated(trust): Authenticated) -> String {
///     format!("Hello, {}.", trust.name)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Arc::new(MemoryStore::new());
/// # store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// # let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
/// let app: Router = Router::new().route("/", get(greet)).layer(AuthLayer::new(authenticator));
/// # let request = Request::builder().uri("/").header("X-Api-Key", "key").body(Body::empty())?;
/// # assert_eq!(app.clone().oneshot(request).await?.status(), 200);
/// # let request = Request::builder().uri("/").body(Body::empty())?;
/// # assert_eq!(app.oneshot(request).await?.status(), 401);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated(pub Trust);

impl<T: Sync> FromRequestParts<T> for Authenticated {
    type Rejection = NotAuthenticated;

    async fn from_request_parts(parts: &mut Parts, _: &T) -> Result<Self, NotAuthenticated> {
        required(parts).map(Self)
    }
}

/// `None` behind an [optional](crate::AuthLayer::optional) layer, for a request without a key or
/// with an invalid one.
impl<T: Sync> OptionalFromRequestParts<T> for Authenticated {
    type Rejection = NotAuthenticated;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &T,
    ) -> Result<Option<Self>, NotAuthenticated> {
        optional(parts).map(|trust| trust.map(Self))
    }
}

/// As [`Authenticated`]: it refuses a request that has no trust.
impl<T: Sync> FromRequestParts<T> for KeyId {
    type Rejection = NotAuthenticated;

    async fn from_request_parts(parts: &mut Parts, _: &T) -> Result<Self, NotAuthenticated> {
        required(parts)
    }
}

/// As `Option<Authenticated>`: `None` for a request that has no trust.
impl<T: Sync> OptionalFromRequestParts<T> for KeyId {
    type Rejection = NotAuthenticated;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &T,
    ) -> Result<Option<Self>, NotAuthenticated> {
        optional(parts)
    }
}

/// Returns what the layer in front has found.
fn required<F: Clone + Send + Sync + 'static>(parts: &Parts) -> Result<F, NotAuthenticated> {
    optional(parts)?.ok_or_else(|| match parts.extensions.get::<AuthError>() {
        Some(refused) => {
            let refusals = parts.extensions.get::<Refusals>().cloned().unwrap_or_default();
            let response = Box::new(refusals.response(refused, parts));
            NotAuthenticated::Refused { error: refused.clone(), response }
        }
        None => NotAuthenticated::NoLayer,
    })
}

/// Returns what the layer in front has found, or `None` if it has passed on a refused request.
fn optional<F: Clone + Send + Sync + 'static>(
    parts: &Parts,
) -> Result<Option<F>, NotAuthenticated> {
    let found = parts.extensions.get().cloned();
    if found.is_none() && parts.extensions.get::<AuthError>().is_none() {
        return Err(NotAuthenticated::NoLayer);
    }
    Ok(found)
}

/// Why a handler that needs a trust gets none.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAuthenticated {
    /// No [`AuthLayer`](crate::AuthLayer) is in front of the handler. This is a fault of the
    /// application, and not of the request. 500.
    #[error("no AuthLayer is in front of this route; add one to the router")]
    NoLayer,
    /// The layer in front is [optional](crate::AuthLayer::optional), and the handler is not.
    #[error("{error}")]
    Refused {
        /// The refusal.
        error: AuthError,
        /// The response of that layer, with its [header](crate::AuthLayer::header) and its
        /// [`refuse_with`](crate::AuthLayer::refuse_with).
        response: Box<http::Response<Bytes>>,
    },
}

impl IntoResponse for NotAuthenticated {
    fn into_response(self) -> Response {
        match self {
            Self::NoLayer => {
                tracing::error!("{self}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Self::Refused { response, .. } => response.map(Body::from),
        }
    }
}

impl IntoResponse for AuthError {
    /// Returns [`to_response`](AuthError::to_response).
    fn into_response(self) -> Response {
        self.to_response()
    }
}
