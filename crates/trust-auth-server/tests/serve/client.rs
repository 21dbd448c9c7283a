//! A plain HTTP client. It keeps its connection while the server allows that, sends no request
//! twice, and returns every error.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longer than any answer takes on a busy machine. A request without an answer by then is lost.
const TOO_LONG: Duration = Duration::from_secs(60);

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the kind of the admin API's error.
    pub(crate) fn kind(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// No process listens at the address, so the request was not sent.
    Refused,
    /// The request was sent, and got no answer.
    Lost(String),
}

/// A connection that is kept open, like a proxy's or a load generator's.
pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends one request. Uses the open connection, unless the last answer on it announced its end.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, NoAnswer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut request =
            Request::builder().method(method).uri(path).header("Host", "auth.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let exchange = async {
            // The connection's task may not have read the end of the last answer yet.
            connection.ready().await?;
            let response = connection.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>((head, body))
        };
        let (head, body) = match tokio::time::timeout(TOO_LONG, exchange).await {
            Ok(Ok(exchanged)) => exchanged,
            Ok(Err(error)) => return Err(NoAnswer::Lost(format!("{error:?}"))),
            Err(_) => return Err(NoAnswer::Lost("no answer in time".into())),
        };
        if head.headers.get("connection").is_none_or(|value| value != "close") {
            self.connection = Some(connection);
        }
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Sends `GET /verify` with this key.
    pub(crate) async fn verify(&mut self, key: &str) -> Result<Answer, NoAnswer> {
        self.ask("GET", "/verify", &[("X-Api-Key", key)], "").await
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let stream =
            TcpStream::connect(self.address).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => NoAnswer::Refused,
                _ => NoAnswer::Lost(format!("{error:?}")),
            })?;
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| NoAnswer::Lost(format!("{error:?}")))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Sends one request, on a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    match Client::new(address).ask(method, path, headers, body).await {
        Ok(answer) => answer,
        Err(error) => panic!("{method} {path}: {error:?}"),
    }
}

/// Sends these bytes unchanged, and returns all bytes until the other side closes.
pub(crate) async fn converse(address: SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answered = Vec::new();
    let reading = stream.read_to_end(&mut answered);
    let _ = tokio::time::timeout(TOO_LONG, reading).await.expect("the connection stays open");
    String::from_utf8_lossy(&answered).into_owned()
}
