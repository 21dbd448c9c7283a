//! A gRPC service with tonic, which answers only callers with a good key. The layer is the one for
//! HTTP. A refusal becomes a status of gRPC, which the client finds where it expects one.
//!
//! ```text
//! cargo run -p grpc
//! ```

use std::error::Error;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tokio::net::TcpListener;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use trust_auth::{AuthError, AuthLayer, NewTrust, SqliteStore, TrustAuth};

/// Makes the response to a refused call. A client that is not authenticated must not try again, and
/// one that met an unavailable store may.
fn as_grpc(refused: &AuthError, _: &Parts, _: Response<Bytes>) -> Response<Bytes> {
    let status = match refused.status() {
        401 => Status::unauthenticated(refused.detail()),
        _ => Status::unavailable(refused.detail()),
    };
    status.into_http::<()>().map(|()| Bytes::new())
}

/// Calls the service with this key. Any service of gRPC would do: this one asks for the health.
async fn call(client: &mut HealthClient<Channel>, key: Option<&str>) -> Result<Code, String> {
    let mut request = Request::new(HealthCheckRequest::default());
    if let Some(key) = key {
        let value: AsciiMetadataValue = key.parse().map_err(|_| "the key is no text of ASCII")?;
        request.metadata_mut().insert("x-api-key", value);
    }
    Ok(client.check(request).await.map_or_else(|status| status.code(), |_| Code::Ok))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trusts.db");
    let store = SqliteStore::options(&file).create_if_missing(true).connect().await?;
    let auth = TrustAuth::builder(store).watch().build();
    let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;

    let (_health, service) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let server = Server::builder()
        .layer(AuthLayer::new(auth.authenticator().clone()).refuse_with(as_grpc))
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(server);

    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);
    let granted = call(&mut client, Some(key.expose())).await?;
    let missing = call(&mut client, None).await?;
    let unknown = call(&mut client, Some("no trust has this")).await?;
    auth.registry().delete(&trust.id.into()).await?;
    let revoked = call(&mut client, Some(key.expose())).await?;
    auth.store().close().await;
    let down = call(&mut client, Some("no trust has this")).await?;
    server.abort();

    let answers = [granted, missing, unknown, revoked, down];
    for (what, code) in
        ["its key", "no key", "an unknown key", "its key, revoked", "the store closed"]
            .iter()
            .zip(answers)
    {
        println!("With {what}: {code:?}");
    }
    let refused = Code::Unauthenticated;
    if answers == [Code::Ok, refused, refused, refused, Code::Unavailable] {
        return Ok(());
    }
    Err("the answers differ from the expected ones".into())
}
