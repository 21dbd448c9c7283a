//! [`KeyId`]: which key of its trust a granted request had.

use uuid::Uuid;

/// Which key of its trust a granted request had: an [`AuthLayer`](crate::AuthLayer) puts it next to
/// the [`Trust`](crate::Trust), among the extensions of the request and of its response.
///
/// It is [`Attempt::key_id`](crate::Attempt::key_id): the id of a [`TrustKey`](crate::TrustKey), as
/// in the log. `KeyId(None)` is the key of the trust's own row, which has no id. A handler of axum
/// takes it as an argument (feature `axum`), under the conditions of `Authenticated`.
///
/// # Examples
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::Router;
/// use axum::routing::get;
/// use trust_auth::{AuthLayer, Authenticated, KeyId};
/// # use axum::body::Body;
/// # use http::Request;
/// # use tower::ServiceExt;
/// # use trust_auth::{KeyTerms, MemoryStore, NewTrust, TrustAuth};
///
/// async fn greet(Authenticated(trust): Authenticated, KeyId(key): KeyId) -> String {
///     let key = key.map_or("its first key".into(), |id| id.to_string());
///     format!("Hello, {}, with {key}.", trust.name)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let auth = TrustAuth::builder(MemoryStore::new()).build();
/// # let (trust, _) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
/// # let terms = KeyTerms::new().with_label("laboratory");
/// # let (row, key) = auth.registry().add_key(&trust.id.into(), &terms).await?;
/// let layer = AuthLayer::new(auth.authenticator().clone());
/// let app: Router = Router::new().route("/", get(greet)).route_layer(layer);
/// # let request = Request::builder().uri("/").header("X-Api-Key", key.expose());
/// # let response = app.oneshot(request.body(Body::empty())?).await?;
/// # assert_eq!(response.extensions().get(), Some(&KeyId(Some(row.id))));
/// # let body = axum::body::to_bytes(response.into_body(), 1_000).await?;
/// # assert_eq!(body, format!("Hello, St. Mary, with {}.", row.id));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(pub Option<Uuid>);
