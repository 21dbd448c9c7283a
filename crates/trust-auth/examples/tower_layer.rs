//! A tower service, of whatever framework, that only hears of requests whose key is good:
//!
//! ```text
//! cargo run -p trust-auth --example tower_layer
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use trust_auth::{
    AuthLayer, Authenticator, KeyHeader, NewTrust, SqliteStore, Trust, TrustKeyCache, TrustRegistry,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A database, and a trust in it. The registry shares the cache, so that a revocation counts at
    // once.
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::options(folder.path().join("trusts.db"))
        .create_if_missing(true)
        .connect()
        .await?;
    let (store, cache) = (Arc::new(store), Arc::new(TrustKeyCache::new()));
    let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
    let (trust, key) = registry.register(NewTrust::new("St. Mary")?).await?;

    let greet = service_fn(async |request: Request<String>| {
        let trust = request.extensions().get::<Trust>().expect("the layer is in front");
        Ok::<_, Infallible>(Response::new(format!("Hello, {}.", trust.name)))
    });

    // These two lines are all that an application adds; here with a header of its own, and refusals
    // that take 20 ms each.
    let authenticator =
        Authenticator::builder(store, cache).reject_floor(Duration::from_millis(20)).build();
    let service = AuthLayer::new(authenticator)
        .header(KeyHeader::new(AUTHORIZATION).scheme("ApiKey"))
        .layer(greet);

    let ask = |value: String| {
        let request = Request::builder().header(AUTHORIZATION, value).body(String::new());
        let service = service.clone();
        async move { Ok::<_, Box<dyn Error>>(service.oneshot(request?).await?) }
    };
    let good = ask(format!("ApiKey {}", key.expose())).await?;
    let unknown = ask("ApiKey no trust has this".into()).await?;
    registry.delete(&trust.id.into()).await?;
    let revoked = ask(format!("ApiKey {}", key.expose())).await?;
    for (what, answer) in
        [("its key", &good), ("an unknown key", &unknown), ("its key, revoked", &revoked)]
    {
        println!("With {what}: {} {}", answer.status(), answer.body());
    }
    if [good.status(), unknown.status(), revoked.status()].map(|status| status.as_u16())
        == [200, 401, 401]
    {
        return Ok(());
    }
    Err("the answers are not the ones that were expected".into())
}
