//! [`AuthLayer`]: authenticates a request before a service receives it, and passes on only granted
//! requests.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::KeyHeader;
use crate::authenticator::Authenticator;
use crate::error::AuthError;
use crate::log_limit::LogLimit;
use crate::store::TrustStore;

/// A [`tower`](https://docs.rs/tower) layer around a service whose requests need a key.
///
/// A granted request reaches the service with its [`Trust`](crate::Trust) among its extensions,
/// where the extractor `Authenticated` finds it. Any other request receives the
/// [response](KeyHeader::refusal) of its refusal, and does not reach the service. The layer marks
/// the key's header as sensitive, so that `Debug` does not show its value.
///
/// [`tracing`] logs a failure of the store as a warning, with its cause and without key or digest.
/// It logs one failure a minute, with the number of `others` since the last one.
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
/// assert_eq!(service.clone().oneshot(request).await?.body(), "Hello, St. Mary.");
///
/// assert_eq!(service.oneshot(Request::default()).await?.status(), 401);
/// # Ok(()) }
/// ```
pub struct AuthLayer<S> {
    authenticator: Authenticator<S>,
    header: Arc<KeyHeader>,
    /// Shared by all clones, as the authenticator is.
    failures: Arc<LogLimit>,
}

impl<S: TrustStore> AuthLayer<S> {
    /// Returns a layer around this authenticator, which reads the key from `X-Api-Key`.
    #[must_use]
    pub fn new(authenticator: Authenticator<S>) -> Self {
        Self { authenticator, header: Arc::default(), failures: Arc::default() }
    }

    /// Reads the key from another header.
    #[must_use]
    pub fn header(mut self, header: KeyHeader) -> Self {
        self.header = Arc::new(header);
        self
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
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, I::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Calls the service that `poll_ready` made ready, and leaves the clone.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let AuthLayer { authenticator, header, failures } = self.layer.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match authenticator.attempt_headers(&parts.headers, &header).await.result {
                Ok(trust) => {
                    if let Some(key) = parts.headers.get_mut(header.name()) {
                        key.set_sensitive(true);
                    }
                    parts.extensions.insert(trust);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(refused) => {
                    if let AuthError::Unavailable(cause) = &refused
                        && let Some(others) = failures.try_log()
                    {
                        tracing::warn!(
                            kind = cause.kind(),
                            %cause,
                            others,
                            "the store failed: a request is refused"
                        );
                    }
                    Ok(header.refusal(&refused))
                }
            }
        })
    }
}

impl<S> Clone for AuthLayer<S> {
    fn clone(&self) -> Self {
        Self {
            authenticator: self.authenticator.clone(),
            header: Arc::clone(&self.header),
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
            .field("header", &self.header)
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
