//! [`AuthLayer`]: authenticates a request before a service receives it, and passes on only granted
//! requests, unless authentication is optional.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::Entry;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::refusals::Refusals;
use super::{AuthBody, KeyHeader, KeyId};
use crate::attempt::Attempt;
use crate::authenticator::Authenticator;
use crate::error::AuthError;
use crate::log_limit::LogLimit;
use crate::store::TrustStore;
use crate::trust::Trust;

/// A [`tower`](https://docs.rs/tower) layer around a service whose requests need a key.
///
/// A granted request reaches the service with its [`Trust`](crate::Trust) and its [`KeyId`] among
/// its extensions, where the extractors `Authenticated` and `KeyId` find them. Any other request
/// receives the [response](KeyHeader::refusal) of its refusal, and does not reach the service. The
/// layer marks the key's header as sensitive, so that `Debug` does not show its value.
///
/// The response's extensions have the `Trust` and the `KeyId`, or the [`AuthError`] of the refusal:
/// a layer outside of this one can log them.
///
/// # Other layers
///
/// Any order compiles. A layer outside sees each request, and a layer inside only those that are
/// passed on. A browser sends no key with a preflight request, so the layer for CORS must be
/// outside: inside, each preflight is refused.
///
/// In axum, mount one layer for each group of routes, by `route_layer`: behind `layer`, a path
/// without a route is a 401 and not a 404.
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::Router;
/// use axum::routing::get;
/// use tower_http::cors::CorsLayer;
/// use tower_http::trace::TraceLayer;
/// use trust_auth::{AuthLayer, Authenticated};
/// # use axum::body::Body;
/// # use http::Request;
/// # use tower::ServiceExt;
/// # use trust_auth::{MemoryStore, TrustAuth};
///
/// async fn health() {}
///
/// async fn catalogue(caller: Option<Authenticated>) -> String {
///     let name = caller.map_or("visitor".into(), |Authenticated(trust)| trust.name);
///     format!("Hello, {name}.")
/// }
///
/// async fn orders(Authenticated(trust): Authenticated) -> String {
///     format!("The orders of {}.", trust.name)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let auth = TrustAuth::builder(MemoryStore::new()).build();
/// let layer = AuthLayer::new(auth.authenticator().clone());
/// let required = Router::new().route("/orders", get(orders)).route_layer(layer.clone());
/// let optional = Router::new().route("/catalogue", get(catalogue)).route_layer(layer.optional());
/// let app: Router = Router::new()
///     .route("/health", get(health))
///     .merge(optional)
///     .merge(required)
///     .layer(CorsLayer::permissive())
///     .layer(TraceLayer::new_for_http());
/// # for (path, status) in
/// #     [("/health", 200), ("/catalogue", 200), ("/orders", 401), ("/none", 404)]
/// # {
/// #     let response = app.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
/// #     assert_eq!(response.status(), status, "{path}");
/// # }
/// # let preflight = Request::options("/orders")
/// #     .header("origin", "https://app.example")
/// #     .header("access-control-request-method", "GET");
/// # assert_eq!(app.oneshot(preflight.body(Body::empty())?).await?.status(), 200);
/// # Ok(()) }
/// ```
///
/// # Logs
///
/// [`tracing`] logs a failure of the store as a warning, with its cause and without key or digest.
/// It logs one failure a minute, with the number of `others` since the last one. Each decision is
/// an event of the level `DEBUG` with the target `trust_auth::decision`: the id of the trust, the
/// `key_id` of a key that has one, the outcome, the [route](crate::Route) of the answer, and the
/// time in microseconds.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use std::sync::Arc;
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use trust_auth::{AuthLayer, Trust};
/// # use trust_auth::{Authenticator, KeyHash, MemoryStore, NewTrust, TrustKeyCache, TrustLedger};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Arc::new(MemoryStore::new());
/// # store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// # let authenticator = Authenticator::new(store, Arc::new(TrustKeyCache::new()));
/// let greet = service_fn(async |request: Request<String>| {
///     let trust: &Trust = request.extensions().get().expect("the layer is in front");
///     Ok::<_, Infallible>(Response::new(format!("Hello, {}.", trust.name)))
/// });
/// let service = AuthLayer::new(authenticator).layer(greet);
///
/// let request = Request::builder().header("X-Api-Key", "key").body(String::new())?;
/// let response = service.clone().oneshot(request).await?;
/// assert_eq!(response.into_body().into_inner().unwrap(), "Hello, St. Mary.");
///
/// assert_eq!(service.oneshot(Request::default()).await?.status(), 401);
/// # Ok(()) }
/// ```
pub struct AuthLayer<S> {
    authenticator: Authenticator<S>,
    refusals: Refusals,
    passes_on: PassedOn,
    /// Shared by all clones, as the authenticator is.
    failures: Arc<LogLimit>,
}

/// Which refused requests reach the service all the same.
#[derive(Clone, Copy, Debug)]
enum PassedOn {
    None,
    Missing,
    MissingOrInvalid,
}

impl PassedOn {
    /// What the store did not decide is never included.
    fn includes(self, refused: &AuthError) -> bool {
        match refused {
            AuthError::Missing => matches!(self, Self::Missing | Self::MissingOrInvalid),
            AuthError::Invalid => matches!(self, Self::MissingOrInvalid),
            AuthError::Unavailable(_) | AuthError::Overloaded => false,
        }
    }
}

/// The target of the event for each decision.
const DECISION: &str = "trust_auth::decision";

impl<S: TrustStore> AuthLayer<S> {
    /// Returns a layer around this authenticator, which reads the key from `X-Api-Key`.
    #[must_use]
    pub fn new(authenticator: Authenticator<S>) -> Self {
        let (refusals, failures) = (Refusals::default(), Arc::default());
        Self { authenticator, refusals, passes_on: PassedOn::None, failures }
    }

    /// Reads the key from another header.
    #[must_use]
    pub fn header(mut self, header: KeyHeader) -> Self {
        self.refusals.set_header(header);
        self
    }

    /// Passes on also a request without a key, or with an invalid one. Its extensions then have no
    /// [`Trust`](crate::Trust), and the [`AuthError`] in its place. The extractor
    /// `Option<Authenticated>` is `None` for it, and `Authenticated` refuses it.
    /// [`allow_missing`](Self::allow_missing) refuses an invalid key.
    ///
    /// While the store does not answer, a request with a key that is not known is refused: it may
    /// be a trust's. A request without a key is passed on after the
    /// [time of a refusal](crate::AuthenticatorBuilder::reject_floor), if that is set.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::sync::Arc;
    /// # use http::{Request, Response};
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// # use trust_auth::{AuthLayer, Authenticator, MemoryStore, Trust};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::default());
    /// let greet = service_fn(async |request: Request<String>| {
    ///     let name = request.extensions().get::<Trust>().map_or("visitor", |trust| &trust.name);
    ///     Ok::<_, Infallible>(Response::new(format!("Hello, {name}.")))
    /// });
    /// let service = AuthLayer::new(authenticator).optional().layer(greet);
    /// let response = service.oneshot(Request::default()).await?;
    /// assert_eq!(response.into_body().into_inner().unwrap(), "Hello, visitor.");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.passes_on = PassedOn::MissingOrInvalid;
        self
    }

    /// Passes on also a request without a key, and refuses one with an invalid key: a client whose
    /// key was revoked learns of it, and is no visitor. Otherwise as [`optional`](Self::optional);
    /// of the two, the last call counts.
    ///
    /// Without a key is a request for which [`KeyHeader::read`] returns `None`, such as one with
    /// another scheme in its header.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::sync::Arc;
    /// # use http::{Request, Response};
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// # use trust_auth::{AuthLayer, Authenticator, MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::default());
    /// # let greet = service_fn(async |_: Request<String>| {
    /// #     Ok::<_, Infallible>(Response::new("Hello.".to_owned()))
    /// # });
    /// let service = AuthLayer::new(authenticator).allow_missing().layer(greet);
    /// let without = Request::default();
    /// assert_eq!(service.clone().oneshot(without).await?.status(), 200);
    /// let invalid = Request::builder().header("X-Api-Key", "no trust has this");
    /// assert_eq!(service.oneshot(invalid.body(String::new())?).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn allow_missing(mut self) -> Self {
        self.passes_on = PassedOn::Missing;
        self
    }

    /// Answers a refused request with a response of the application's own. The third argument is
    /// the layer's own response, with the status and all headers that the refusal needs:
    /// `WWW-Authenticate` with the scheme of the [header](Self::header), `Retry-After`,
    /// `Cache-Control`, and `Content-Type: application/json`. What the closure returns is sent as
    /// it is.
    ///
    /// A handler that refuses what an [optional](Self::optional) layer has passed on, because it
    /// takes `Authenticated`, sends the same response.
    ///
    /// ```
    /// use trust_auth::AuthLayer;
    /// # use std::sync::Arc;
    /// # use http::{Request, Response};
    /// # use http::header::AUTHORIZATION;
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// # use trust_auth::{Authenticator, KeyHeader, MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::default());
    /// let layer = AuthLayer::new(authenticator).refuse_with(|refused, request, response| {
    ///     let body = serde_json::json!({ "error": refused.kind(), "path": request.uri.path() });
    ///     response.map(|_| body.to_string().into())
    /// });
    /// # let layer = layer.header(KeyHeader::new(AUTHORIZATION).scheme("Bearer"));
    /// # let unreached = async |_| Ok::<_, std::convert::Infallible>(Response::new(String::new()));
    /// # let request = Request::builder().uri("/orders").body(String::new())?;
    /// # let response = layer.layer(service_fn(unreached)).oneshot(request).await?;
    /// # assert_eq!((response.status().as_u16(), response.headers().len()), (401, 3));
    /// # assert_eq!(response.headers()["content-type"], "application/json");
    /// # assert_eq!(response.headers()["www-authenticate"], "Bearer");
    /// # let body = response.into_body().into_inner().unwrap_err();
    /// # assert_eq!(body, r#"{"error":"missing","path":"/orders"}"#);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn refuse_with<F>(mut self, refusal: F) -> Self
    where
        F: Fn(&AuthError, &Parts, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.refusals.set_own(Arc::new(refusal));
        self
    }

    /// Returns the response to a refused request.
    fn refuse<B>(&self, refused: AuthError, request: &Parts) -> Response<AuthBody<B>> {
        if let AuthError::Unavailable(cause) = &refused
            && let Some(others) = self.failures.try_log()
        {
            tracing::warn!(
                kind = cause.kind(),
                %cause,
                others,
                "the store failed: a request is refused"
            );
        }
        let response = self.refusals.response(&refused, request);
        let mut response = response.map(AuthBody::of_refusal);
        response.extensions_mut().insert(refused);
        response
    }
}

impl<S, I> Layer<I> for AuthLayer<S> {
    type Service = AuthService<S, I>;

    fn layer(&self, inner: I) -> Self::Service {
        AuthService { layer: self.clone(), inner }
    }
}

/// A service behind an [`AuthLayer`].
pub struct AuthService<S, I> {
    layer: AuthLayer<S>,
    inner: I,
}

impl<S, I, B, R> Service<Request<B>> for AuthService<S, I>
where
    S: TrustStore,
    I: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    B: Send + 'static,
{
    type Response = Response<AuthBody<R>>;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, I::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Calls the service that `poll_ready` made ready, and leaves the clone.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        Box::pin(async move {
            let begun =
                tracing::enabled!(target: DECISION, tracing::Level::DEBUG).then(Instant::now);
            let (mut parts, body) = request.into_parts();
            let header = layer.refusals.header();
            let attempt = layer.authenticator.attempt_headers(&parts.headers, header).await;
            if let Some(begun) = begun {
                log_decision(&attempt, begun);
            }
            mark_as_sensitive(&mut parts, header.name());
            // What another layer has found with another header is not this one's answer.
            parts.extensions.remove::<Trust>();
            parts.extensions.remove::<KeyId>();
            parts.extensions.remove::<AuthError>();
            match attempt.result {
                Ok(trust) => {
                    let key = KeyId(attempt.key_id);
                    parts.extensions.insert(trust.clone());
                    parts.extensions.insert(key);
                    let response = inner.call(Request::from_parts(parts, body)).await?;
                    let mut response = marked(response, trust);
                    response.extensions_mut().insert(key);
                    Ok(response)
                }
                Err(refused) if layer.passes_on.includes(&refused) => {
                    parts.extensions.insert(refused.clone());
                    parts.extensions.insert(layer.refusals.clone());
                    let response = inner.call(Request::from_parts(parts, body)).await?;
                    Ok(marked(response, refused))
                }
                Err(refused) => Ok(layer.refuse(refused, &parts)),
            }
        })
    }
}

/// Returns the service's response with the decision among its extensions.
fn marked<R>(
    response: Response<R>,
    decision: impl Clone + Send + Sync + 'static,
) -> Response<AuthBody<R>> {
    let mut response = response.map(AuthBody::of_service);
    response.extensions_mut().insert(decision);
    response
}

fn mark_as_sensitive(request: &mut Parts, name: &HeaderName) {
    if let Entry::Occupied(mut values) = request.headers.entry(name) {
        values.iter_mut().for_each(|value| value.set_sensitive(true));
    }
}

fn log_decision(attempt: &Attempt, begun: Instant) {
    let (trust, outcome) = match &attempt.result {
        Ok(trust) => (Some(trust.id), "granted"),
        Err(refused) => (None, refused.kind()),
    };
    tracing::debug!(
        target: DECISION,
        trust = trust.map(tracing::field::display),
        key_id = attempt.key_id.map(tracing::field::display),
        outcome,
        route = attempt.route.as_str(),
        micros = begun.elapsed().as_micros() as u64,
        "decided"
    );
}

impl<S> Clone for AuthLayer<S> {
    fn clone(&self) -> Self {
        Self {
            authenticator: self.authenticator.clone(),
            refusals: self.refusals.clone(),
            passes_on: self.passes_on,
            failures: Arc::clone(&self.failures),
        }
    }
}

impl<S, I: Clone> Clone for AuthService<S, I> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), inner: self.inner.clone() }
    }
}

impl<S> fmt::Debug for AuthLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("authenticator", &self.authenticator)
            .field("header", self.refusals.header())
            .field("passes_on", &self.passes_on)
            .finish_non_exhaustive()
    }
}

impl<S, I: fmt::Debug> fmt::Debug for AuthService<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("layer", &self.layer)
            .field("inner", &self.inner)
            .finish()
    }
}
