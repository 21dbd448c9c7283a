//! `KeyCache::get_or_try_load_async` works in a handler of axum, which must be `Send`, and in code
//! that is generic over the source of the rows.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use http_body_util::BodyExt;
use tower::ServiceExt;
use trust_key_cache::{KeyCache, KeyHash};

/// Not `Clone`, as the errors of drivers.
#[derive(Debug)]
struct DriverError;

trait Database: Send + Sync + 'static {
    fn user_of(
        &self,
        hash: &KeyHash,
    ) -> impl Future<Output = Result<Option<u64>, DriverError>> + Send;
}

#[derive(Default)]
struct List {
    reads: AtomicUsize,
}

impl Database for List {
    async fn user_of(&self, hash: &KeyHash) -> Result<Option<u64>, DriverError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        match hash {
            hash if *hash == KeyHash::of("failing") => Err(DriverError),
            hash => Ok((*hash == KeyHash::of("key of user 7")).then_some(7)),
        }
    }
}

struct Service<D> {
    cache: KeyCache<u64>,
    database: D,
}

async fn user<D: Database>(
    State(service): State<Arc<Service<D>>>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let key = headers.get("x-api-key").ok_or(StatusCode::UNAUTHORIZED)?;
    let hash = KeyHash::of(key);
    let load = || async { service.database.user_of(&hash).await.map_err(Arc::new) };
    match service.cache.get_or_try_load_async(&hash, load).await {
        Ok(Some(user)) => Ok(format!("user {user}")),
        Ok(None) => Err(StatusCode::UNAUTHORIZED),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_of_axum_shares_loads() {
    let service = Arc::new(Service { cache: KeyCache::new(), database: List::default() });
    let router = Router::new().route("/user", get(user::<List>)).with_state(service.clone());
    let call = |key: &'static str| {
        let request = Request::get("/user").header("x-api-key", key).body(Body::empty()).unwrap();
        tokio::spawn(router.clone().oneshot(request))
    };
    for request in [(); 64].map(|()| call("key of user 7")) {
        let body = request.await.unwrap().unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "user 7");
    }
    assert_eq!(service.database.reads.load(Ordering::Relaxed), 1);
    let unknown = call("unknown").await.unwrap().unwrap();
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
    let failing = call("failing").await.unwrap().unwrap();
    assert_eq!(failing.status(), StatusCode::SERVICE_UNAVAILABLE);
}
