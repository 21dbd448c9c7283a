//! The authenticator in front of a service: which requests reach the service and with what, and the
//! response to every other request (G9, G10).

mod stores;

use std::convert::Infallible;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::IntoResponse;
use axum::routing::get;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Request, Response, StatusCode};
use stores::{Log, Moment, Tampered, World, by_name};
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use tower_http::cors::{Any, CorsLayer};
use tower_http::trace::TraceLayer;
use trust_auth::{
    AuthBody, AuthError, AuthLayer, Authenticated, Authenticator, Candidates, KeyHeader, KeyId,
    KeyTerms, MemoryStore, NotAuthenticated, SqliteStore, StoreError, Trust, TrustStore,
};
use uuid::Uuid;

/// Answers with the name of the trust in the request, and counts its calls. It must be ready before
/// it is called, and a clone of a ready one is not ready, as with some services in use.
#[derive(Default)]
struct Greeter {
    called: Arc<AtomicUsize>,
    ready: bool,
}

impl Clone for Greeter {
    fn clone(&self) -> Self {
        Self { called: Arc::clone(&self.called), ready: false }
    }
}

impl Service<Request<String>> for Greeter {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        assert!(self.ready, "called without being ready");
        self.ready = false;
        self.called.fetch_add(1, Ordering::SeqCst);
        let trust: &Trust = request.extensions().get().expect("no trust");
        let headers = format!("{:?}", request.headers());
        let greeting = format!("{} {} {headers} {}", trust.id, trust.name, request.body());
        future::ready(Ok(Response::new(greeting)))
    }
}

fn request(name: &str, values: &[&[u8]]) -> Request<String> {
    let mut request = Request::builder().header("x-other", "stays");
    for value in values {
        request = request.header(name, HeaderValue::from_bytes(value).unwrap());
    }
    request.body("the body".to_owned()).unwrap()
}

/// Checks a refusal exactly: status, headers and body.
fn assert_refused(response: Response<AuthBody<String>>, status: u16, body: &str) {
    let (parts, of_refusal) = response.into_parts();
    let text = of_refusal.into_inner().unwrap_err();
    assert_eq!((parts.status.as_u16(), text.as_ref()), (status, body.as_bytes()));
    let refused = parts.extensions.get::<AuthError>().expect("the refusal is marked");
    assert_eq!((refused.json(), parts.extensions.get::<Trust>()), (body, None));
    let headers = parts.headers;
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    let of_its_own = match status {
        401 => (WWW_AUTHENTICATE, "ApiKey"),
        _ => (RETRY_AFTER, "1"),
    };
    assert_eq!(headers[of_its_own.0], of_its_own.1);
    assert_eq!(headers.len(), 3, "{headers:?}");
}

const MISSING: &str = r#"{"detail":"Not authenticated: API key is missing."}"#;
const INVALID: &str = r#"{"detail":"Invalid API Key."}"#;
const UNAVAILABLE: &str = r#"{"detail":"Authentication is unavailable; try again."}"#;
const OVERLOADED: &str = r#"{"detail":"Authentication is overloaded; try again."}"#;

#[tokio::test]
async fn a_granted_request_reaches_the_service_unchanged_with_its_trust() {
    let world = World::<SqliteStore>::new().await;
    let (trust, key) = world.register("St. Mary").await;
    let (other, _) = world.register("St. Peter").await;
    let greeter = Greeter::default();
    let called = Arc::clone(&greeter.called);
    let mut service = AuthLayer::new(world.authenticator.clone()).layer(greeter);
    // By a scan, and then by the cache. The second request carries another trust, which the layer
    // replaces.
    for number in 1..=2 {
        let mut request = request("X-API-KEY", &[key.expose().as_bytes()]);
        if number == 2 {
            request.extensions_mut().insert(other.clone());
        }
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        let expected = format!(
            "{} St. Mary {{\"x-other\": \"stays\", \"x-api-key\": Sensitive}} the body",
            trust.id
        );
        assert_eq!(response.status(), 200);
        assert_eq!(response.extensions().get(), Some(&trust));
        assert!(response.extensions().get::<AuthError>().is_none());
        assert_eq!(response.into_body().into_inner().unwrap(), expected);
        assert_eq!(called.load(Ordering::SeqCst), number);
    }
    assert_eq!(world.authenticator.stats().hits, 1);
}

#[tokio::test]
async fn a_refused_request_never_reaches_the_service_and_has_the_usual_response_g10() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register("a").await;
    let (_, disabled) = world.register_hot("b").await;
    world.registry.disable(&by_name("b")).await.unwrap();
    let key = key.expose().as_bytes();
    let long = vec![b'k'; KeyHeader::MAX_BYTES + 1];
    let with_scheme: Vec<u8> = [b"ApiKey ", key].concat();
    let authorization = KeyHeader::new(AUTHORIZATION).scheme("ApiKey");

    let plain = ("x-api-key", KeyHeader::default());
    let schemed = ("authorization", authorization);
    let cases: &[(_, &[&[u8]], _)] = &[
        (&plain, &[], MISSING),
        (&plain, &[b""], MISSING),
        (&plain, &[key, key], INVALID),
        (&plain, &[key, b""], INVALID),
        (&plain, &[b"\xff\xfe"], INVALID),
        (&plain, &[&long], INVALID),
        (&plain, &[&long[1..]], INVALID),
        (&plain, &[b"no trust has this"], INVALID),
        (&plain, &[disabled.expose().as_bytes()], INVALID),
        (&plain, &[&with_scheme], INVALID),
        (&schemed, &[], MISSING),
        (&schemed, &[key], MISSING),
        (&schemed, &[b"ApiKey"], MISSING),
        (&schemed, &[b"Basic eDp5"], MISSING),
        (&schemed, &[&with_scheme, &with_scheme], INVALID),
        (&schemed, &[b"ApiKey \xff"], INVALID),
        (&schemed, &[b"ApiKey no trust has this"], INVALID),
    ];
    let greeter = Greeter::default();
    for ((name, header), values, body) in cases {
        let layer = AuthLayer::new(world.authenticator.clone()).header(header.clone());
        let response = layer.layer(greeter.clone()).oneshot(request(name, values)).await.unwrap();
        assert_refused(response, 401, body);
    }
    assert_eq!(greeter.called.load(Ordering::SeqCst), 0);
    let stats = world.authenticator.stats();
    let missing = cases.iter().filter(|(.., body)| *body == MISSING).count();
    assert_eq!((stats.missing, stats.invalid), (missing as u64, (cases.len() - missing) as u64));

    // The same key in its place is granted, so the table above refuses for its own reasons.
    for ((name, header), value) in [(plain, key), (schemed, &with_scheme)] {
        let layer = AuthLayer::new(world.authenticator.clone()).header(header);
        let response = layer.layer(greeter.clone()).oneshot(request(name, &[value])).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(greeter.called.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn while_the_store_is_down_nothing_reaches_the_service_g9() {
    let world = World::<Tampered<SqliteStore>>::tampered().await;
    let (_, key) = world.register("a").await;
    let greeter = Greeter::default();
    let service = AuthLayer::new(world.authenticator.clone()).layer(greeter.clone());
    for moment in [Moment::CandidatesRead, Moment::RowRead] {
        world
            .store
            .at(moment, async { Err(StoreError::Other("the disk of trusts.db is gone".into())) });
        let refused = service
            .clone()
            .oneshot(request("x-api-key", &[key.expose().as_bytes()]))
            .await
            .unwrap();
        assert_refused(refused, 503, UNAVAILABLE);
        assert_eq!((greeter.called.load(Ordering::SeqCst), world.cached(&key)), (0, None));
    }
    let granted = service.oneshot(request("x-api-key", &[key.expose().as_bytes()])).await.unwrap();
    assert_eq!(granted.status(), 200);
}

/// Its scans never end.
struct Stuck;

impl TrustStore for Stuck {
    async fn fetch(&self, _: Uuid) -> Result<Option<Trust>, StoreError> {
        future::pending().await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        future::pending().await
    }
}

#[test]
fn debug_output_names_the_header_and_no_key() {
    let authenticator =
        Authenticator::builder(Arc::new(MemoryStore::new()), Arc::default()).build();
    let layer = AuthLayer::new(authenticator)
        .header(KeyHeader::new(http::HeaderName::from_static("x-key")));
    let shown = format!("{layer:?} {:?}", layer.layer("the service within"));
    for part in ["AuthLayer {", "AuthService {", "x-key", "the service within"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[tokio::test]
async fn over_the_limit_the_response_has_a_retry_after() {
    let authenticator =
        Authenticator::builder(Arc::new(Stuck), Arc::default()).waiting_limit(1).build();
    let greeter = Greeter::default();
    let service = AuthLayer::new(authenticator.clone()).layer(greeter.clone());
    let send = || tokio::spawn(service.clone().oneshot(request("x-api-key", &[b"an unknown key"])));
    let scans = send();
    // The next request is over the limit until the scan has taken the first off the queue.
    let waits = loop {
        let request = send();
        let overloaded = authenticator.stats().overloaded;
        while authenticator.stats().waiting < 2 && authenticator.stats().overloaded == overloaded {
            yield_now().await;
        }
        if authenticator.stats().waiting == 2 {
            break request;
        }
    };
    assert_refused(send().await.unwrap().unwrap(), 503, OVERLOADED);
    assert!(!scans.is_finished() && !waits.is_finished());
    assert_eq!(greeter.called.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_failing_store_is_logged_once_for_many_requests() {
    let (log, _guard) = Log::start();
    let world = World::<SqliteStore>::new().await;
    let service = AuthLayer::new(world.authenticator.clone()).layer(Greeter::default());
    world.store.close().await;
    for _ in 0..20 {
        let response =
            service.clone().oneshot(request("x-api-key", &[b"an unknown key"])).await.unwrap();
        assert_refused(response, 503, UNAVAILABLE);
    }
    let text = log.text();
    assert_eq!(text.matches("the store failed: a request is refused").count(), 1, "{text}");
    assert!(text.contains("unreachable") && !text.contains("an unknown key"), "{text}");
}

/// Also a request that is refused for its headers, before any read.
#[tokio::test(start_paused = true)]
async fn every_refusal_of_the_layer_takes_the_floor() {
    let world = World::<MemoryStore>::new().await;
    let (_, key) = world.register("a").await;
    let floor = Duration::from_millis(50);
    let authenticator = Authenticator::builder(Arc::clone(&world.store), Arc::clone(&world.cache));
    let service =
        AuthLayer::new(authenticator.reject_floor(floor).build()).layer(Greeter::default());
    let long = [b'k'; KeyHeader::MAX_BYTES + 1];
    let cases: &[(&[&[u8]], bool)] = &[
        (&[], true),
        (&[b""], true),
        (&[b"key", b"key"], true),
        (&[b"\xff"], true),
        (&[&long], true),
        (&[b"no trust has this"], true),
        (&[key.expose().as_bytes()], false),
    ];
    for (values, refused) in cases {
        let begin = Instant::now();
        let response = service.clone().oneshot(request("x-api-key", values)).await.unwrap();
        assert_eq!(response.status().is_success(), !refused);
        assert_eq!(begin.elapsed() >= floor, *refused, "{values:?}");
    }
}

async fn greet(Authenticated(trust): Authenticated) -> String {
    format!("Hello, {}.", trust.name)
}

async fn greet_anyone(trust: Option<Authenticated>) -> String {
    trust.map_or("Hello.".into(), |Authenticated(trust)| format!("Hello, {}.", trust.name))
}

async fn answer(app: &Router, key: Option<&str>) -> (u16, String) {
    let mut request = Request::builder().uri("/");
    if let Some(key) = key {
        request = request.header("X-Api-Key", key);
    }
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_axum_handler_has_the_trust_of_its_request_until_it_is_revoked() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register("St. Mary").await;
    let (_, other) = world.register("St. Peter").await;
    let app =
        Router::new().route("/", get(greet)).layer(AuthLayer::new(world.authenticator.clone()));

    for _ in 0..2 {
        assert_eq!(answer(&app, Some(key.expose())).await, (200, "Hello, St. Mary.".into()));
        assert_eq!(answer(&app, Some(other.expose())).await, (200, "Hello, St. Peter.".into()));
    }
    assert_eq!(answer(&app, None).await, (401, MISSING.into()));
    assert_eq!(answer(&app, Some("no trust has this")).await, (401, INVALID.into()));
    world.registry.delete(&by_name("St. Mary")).await.unwrap();
    assert_eq!(answer(&app, Some(key.expose())).await, (401, INVALID.into()));
    assert_eq!(answer(&app, Some(other.expose())).await, (200, "Hello, St. Peter.".into()));
}

async fn name_key(KeyId(key): KeyId) -> String {
    key.map_or("own row".into(), |id| id.to_string())
}

async fn name_any_key(key: Option<KeyId>) -> String {
    format!("{key:?}")
}

/// By a scan and by the cache. Behind a layer that is optional for another header, the outer
/// layer's key is not the inner one's answer.
#[tokio::test]
async fn a_handler_and_an_outer_layer_learn_which_key_a_request_had() {
    let world = World::<SqliteStore>::new().await;
    let (trust, first) = world.register("St. Mary").await;
    let terms = KeyTerms::new().with_label("laboratory");
    let (row, labelled) = world.registry.add_key(&trust.id.into(), &terms).await.unwrap();
    let layer = || AuthLayer::new(world.authenticator.clone());
    let app = Router::new().route("/", get(name_key)).layer(layer());
    for _ in 0..2 {
        for (key, id) in [(&first, None), (&labelled, Some(row.id))] {
            let shown = id.map_or("own row".into(), |id: Uuid| id.to_string());
            assert_eq!(answer(&app, Some(key.expose())).await, (200, shown));
            let asked = Request::builder().uri("/").header("X-Api-Key", key.expose());
            let asked = app.clone().oneshot(asked.body(Body::empty()).unwrap());
            assert_eq!(asked.await.unwrap().extensions().get(), Some(&KeyId(id)));
        }
    }
    assert_eq!(answer(&app, None).await, (401, MISSING.into()));

    let optional = Router::new()
        .route("/", get(name_any_key))
        .layer(layer().header(KeyHeader::new(AUTHORIZATION)).optional())
        .layer(layer());
    assert_eq!(answer(&optional, Some(labelled.expose())).await, (200, "None".into()));
    for app in
        [Router::new().route("/", get(name_key)), Router::new().route("/", get(name_any_key))]
    {
        assert_eq!(answer(&app, Some(first.expose())).await, (500, String::new()));
    }
}

/// The key is valid, but no layer is in front of the route.
#[tokio::test]
async fn a_forgotten_layer_grants_nothing_g9() {
    let world = World::<MemoryStore>::new().await;
    let (_, key) = world.register("a").await;
    let app = Router::new().route("/", get(greet));
    assert_eq!(answer(&app, Some(key.expose())).await, (500, String::new()));
    assert!(NotAuthenticated::NoLayer.to_string().contains("add one to the router"));
    let app = Router::new().route("/", get(greet_anyone));
    assert_eq!(answer(&app, Some(key.expose())).await, (500, String::new()));
}

#[tokio::test]
async fn a_handler_may_return_a_refusal_of_its_own() {
    let response = AuthError::Unavailable(StoreError::Busy).into_response();
    assert_eq!(
        (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
        (503, &"1".parse().unwrap())
    );
    assert_eq!(to_bytes(response.into_body(), 10_000).await.unwrap(), UNAVAILABLE);
}

/// A request without a key, or with one that no trust has, is passed on. While the store does not
/// answer, a key may be a trust's.
#[tokio::test]
async fn an_optional_layer_passes_on_who_has_no_key_and_says_so() {
    let world = World::<Tampered<SqliteStore>>::tampered().await;
    let (_, key) = world.register("St. Mary").await;
    let layer = AuthLayer::new(world.authenticator.clone()).optional();
    let app =
        Router::new().route("/", get(greet_anyone)).route("/own", get(greet)).layer(layer.clone());
    assert_eq!(answer(&app, Some(key.expose())).await, (200, "Hello, St. Mary.".into()));
    for unknown in [None, Some("no trust has this")] {
        assert_eq!(answer(&app, unknown).await, (200, "Hello.".into()));
    }
    let own = Request::builder().uri("/own").body(Body::empty()).unwrap();
    let response = app.clone().oneshot(own).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[WWW_AUTHENTICATE], "ApiKey");
    assert!(matches!(response.extensions().get(), Some(AuthError::Missing)));

    world.store.at(Moment::CandidatesRead, async { Err(StoreError::Busy) });
    assert_eq!(answer(&app, Some("no trust has this")).await, (503, UNAVAILABLE.into()));

    // Another layer's trust is not this one's answer.
    let inner = layer.header(KeyHeader::new(http::HeaderName::from_static("x-other-key")));
    let outer = AuthLayer::new(world.authenticator.clone());
    let app = Router::new().route("/", get(greet_anyone)).layer(inner).layer(outer);
    assert_eq!(answer(&app, Some(key.expose())).await, (200, "Hello.".into()));
}

/// A revoked key is not a visitor's. A damaged one, two headers, and a store that is down are
/// refused, too.
#[tokio::test]
async fn a_layer_that_allows_a_missing_key_refuses_a_wrong_one() {
    let world = World::<Tampered<SqliteStore>>::tampered().await;
    let (_, key) = world.register("St. Mary").await;
    let layer = AuthLayer::new(world.authenticator.clone()).optional().allow_missing();
    let app = Router::new().route("/", get(greet_anyone)).layer(layer.clone());
    assert_eq!(answer(&app, Some(key.expose())).await, (200, "Hello, St. Mary.".into()));
    for without in [None, Some("")] {
        assert_eq!(answer(&app, without).await, (200, "Hello.".into()));
    }
    assert_eq!(answer(&app, Some("no trust has this")).await, (401, INVALID.into()));
    world.registry.disable(&by_name("St. Mary")).await.unwrap();
    assert_eq!(answer(&app, Some(key.expose())).await, (401, INVALID.into()));
    let two = Request::builder().uri("/").header("x-api-key", "a").header("x-api-key", "b");
    let two = app.clone().oneshot(two.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(two.status(), StatusCode::UNAUTHORIZED);
    world.store.at(Moment::CandidatesRead, async { Err(StoreError::Busy) });
    assert_eq!(answer(&app, Some("no trust has this")).await, (503, UNAVAILABLE.into()));

    let optional = Router::new().route("/", get(greet_anyone)).layer(layer.optional());
    assert_eq!(answer(&optional, Some("no trust has this")).await, (200, "Hello.".into()));
}

#[tokio::test]
async fn a_refusal_of_the_applications_own_replaces_the_whole_response() {
    let world = World::<MemoryStore>::new().await;
    let layer = AuthLayer::new(world.authenticator.clone()).refuse_with(|refused, request, _| {
        let key = &request.headers["x-api-key"];
        assert!(key.is_sensitive());
        let text = format!("{} {}", request.uri.path(), refused.kind());
        Response::builder().status(418).header("x-own", "1").body(text.into()).unwrap()
    });
    let app = Router::new().route("/", get(greet)).layer(layer);
    let request = Request::builder().uri("/").header("x-api-key", "no trust has this");
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-own"], "1");
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
    assert!(matches!(response.extensions().get(), Some(AuthError::Invalid)));
    assert_eq!(to_bytes(response.into_body(), 10_000).await.unwrap(), "/ invalid");
}

/// The status, two headers and the body of a refusal.
async fn refusal_of(app: &Router, path: &str) -> (u16, [String; 2], String) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
    let headers = [header(WWW_AUTHENTICATE), header(CONTENT_TYPE)];
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, headers, String::from_utf8(body.to_vec()).unwrap())
}

/// The scheme is set after `refuse_with`, and reaches it all the same.
#[tokio::test]
async fn a_layer_and_a_handler_behind_an_optional_one_refuse_alike() {
    let world = World::<MemoryStore>::new().await;
    let layer = AuthLayer::new(world.authenticator.clone())
        .refuse_with(|refused, request, response| {
            let text = format!("\"{} {}\"", request.uri.path(), refused.kind());
            response.map(|_| text.into())
        })
        .header(KeyHeader::new(AUTHORIZATION).scheme("Bearer"));
    let app = Router::new()
        .route("/optional", get(greet))
        .route("/key", get(name_key))
        .layer(layer.clone().optional())
        .route("/required", get(greet).layer(layer));
    for path in ["/optional", "/key", "/required"] {
        let headers = ["Bearer", "application/json"].map(str::to_owned);
        let body = format!("\"{path} missing\"");
        assert_eq!(refusal_of(&app, path).await, (401, headers, body));
    }
}

/// Layers that wrap the body, or need an empty one, fit on both sides.
#[tokio::test]
async fn any_order_of_layers_compiles_and_preflights_pass_where_cors_is_outside() {
    let world = World::<MemoryStore>::new().await;
    let (_, key) = world.register("St. Mary").await;
    let auth = || AuthLayer::new(world.authenticator.clone());
    let cors = || CorsLayer::new().allow_origin(Any).allow_headers(Any);
    let outside = Router::new()
        .route("/", get(greet))
        .layer(auth())
        .layer(cors())
        .layer(TraceLayer::new_for_http());
    let inside = Router::new()
        .route("/", get(greet))
        .layer(TraceLayer::new_for_http())
        .layer(cors())
        .layer(auth());
    for (app, preflight) in [(outside, 200), (inside, 401)] {
        assert_eq!(answer(&app, Some(key.expose())).await, (200, "Hello, St. Mary.".into()));
        assert_eq!(answer(&app, None).await, (401, MISSING.into()));
        let request = Request::options("/")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "x-api-key");
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), preflight);
    }
}

/// The decisions have a target of their own, and are off at the usual level.
#[tokio::test]
async fn each_decision_is_an_event_without_the_key() {
    let world = World::<MemoryStore>::new().await;
    let (trust, key) = world.register("St. Mary").await;
    let terms = KeyTerms::new().with_label("laboratory");
    let (row, labelled) = world.registry.add_key(&trust.id.into(), &terms).await.unwrap();
    let service = AuthLayer::new(world.authenticator.clone()).layer(Greeter::default());
    let ask = async |value: &str| {
        let answered = service.clone().oneshot(request("x-api-key", &[value.as_bytes()])).await;
        answered.unwrap().status().as_u16()
    };
    let (usual, guard) = Log::start_at(tracing::Level::INFO);
    assert_eq!(ask(key.expose()).await, 200);
    assert!(!usual.text().contains("decided"), "{}", usual.text());
    drop(guard);

    let (log, _guard) = Log::start_at(tracing::Level::DEBUG);
    assert_eq!((ask(key.expose()).await, ask("no trust has this").await), (200, 401));
    assert_eq!(ask(labelled.expose()).await, 200);
    let text = log.text();
    let events: Vec<_> = text.lines().filter(|line| line.contains("decided")).collect();
    assert_eq!(events.len(), 3, "{text}");
    for part in ["trust_auth::decision", &trust.id.to_string(), "granted", "\"hit\"", "micros="] {
        assert!(events[0].contains(part), "{part}: {events:?}");
    }
    assert!(events[1].contains("invalid") && events[1].contains("scan"), "{events:?}");
    // The key of the trust's own row has no id.
    assert!(!events[0].contains("key_id") && !events[1].contains("key_id"), "{events:?}");
    assert!(events[2].contains(&format!("key_id={}", row.id)), "{events:?}");
    for key in [key.expose(), labelled.expose(), "no trust has this"] {
        assert!(!text.contains(key), "{text}");
    }
}
