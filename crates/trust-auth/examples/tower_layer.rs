//! A tower service, of any framework, that receives only requests whose key is good:
//!
//! ```text
//! cargo run -p trust-auth --example tower_layer
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use trust_auth::{AuthLayer, KeyHeader, NewTrust, SqliteStore, Trust, TrustAuth};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A database, and a trust in it. Refusals take 20 ms each.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trusts.db");
    let store = SqliteStore::options(&file).create_if_missing(true).connect().await?;
    let auth = TrustAuth::builder(store)
        .authenticator(|limits| limits.reject_floor(Duration::from_millis(20)))
        .watch()
        .build();
    let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;

    let greet = service_fn(async |request: Request<String>| {
        let trust = request.extensions().get::<Trust>().expect("the layer is in front");
        Ok::<_, Infallible>(Response::new(format!("Hello, {}.", trust.name)))
    });

    // An application adds only this, here with a header of its own.
    let service = AuthLayer::new(auth.authenticator().clone())
        .header(KeyHeader::new(AUTHORIZATION).scheme("ApiKey"))
        .layer(greet);

    let ask = |value: String| {
        let request = Request::builder().header(AUTHORIZATION, value).body(String::new());
        let service = service.clone();
        async move {
            let response = service.oneshot(request?).await?;
            let (parts, body) = response.into_parts();
            // The service's answer, or that of a refusal.
            let text = body.into_inner().or_else(|refused| String::from_utf8(refused.into()))?;
            Ok::<_, Box<dyn Error>>((parts.status, text))
        }
    };
    let good = ask(format!("ApiKey {}", key.expose())).await?;
    let unknown = ask("ApiKey no trust has this".into()).await?;
    auth.registry().delete(&trust.id.into()).await?;
    let revoked = ask(format!("ApiKey {}", key.expose())).await?;
    for (what, answer) in
        [("its key", &good), ("an unknown key", &unknown), ("its key, revoked", &revoked)]
    {
        println!("With {what}: {} {}", answer.0, answer.1);
    }
    if [good.0, unknown.0, revoked.0].map(|status| status.as_u16()) == [200, 401, 401] {
        return Ok(());
    }
    Err("the answers differ from the expected ones".into())
}
