//! Hostile clients: the table of `hostile_requests.rs` through each proxy, over TCP, in front of an
//! application that records its requests.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::hostile_requests::{Hostile, Outcome, TABLE};
use crate::proxies::Proxy;
use crate::server::{PATIENCE, Registered};

/// The name, as it is sent over HTTP.
const NAME: &str = "St.%20M%C3%A4ry";

/// A request as the application got it.
#[derive(Debug)]
struct Seen {
    target: String,
    headers: HeaderMap,
    trailers: HeaderMap,
    body_bytes: usize,
}

/// An application that accepts everything that a proxy sends.
struct Application {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = Arc::clone(&all);
                let keep = service_fn(move |request: Request<Incoming>| {
                    let all = Arc::clone(&all);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?;
                        let trailers = body.trailers().cloned().unwrap_or_default();
                        let (target, headers) = (head.uri.to_string(), head.headers);
                        let body_bytes = body.to_bytes().len();
                        all.lock().unwrap().push(Seen { target, headers, trailers, body_bytes });
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(
                            "from the application",
                        ))))
                    }
                });
                // No limits here: the test is about those of the proxies and the service.
                let mut http = http1::Builder::new();
                http.max_headers(10_000).max_buf_size(8 * 1024 * 1024);
                tokio::spawn(http.serve_connection(TokioIo::new(stream), keep));
            }
        });
        Self { address, seen }
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// The first answer that a client gets, `100 Continue` excepted.
#[derive(Debug, Default)]
struct First {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl First {
    fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| &**value).collect()
    }

    /// Returns the answer in these bytes when it is complete. `ended`: no further bytes follow.
    fn in_bytes(bytes: &[u8], ended: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if status < 200 {
            return Self::in_bytes(rest.as_bytes(), ended);
        }
        let split = |line: &str| {
            line.split_once(':').map(|(name, value)| (name.into(), value.trim().into()))
        };
        let mut first =
            Self { status, headers: lines.filter_map(split).collect(), body: String::new() };
        let length = first.header("content-length").first().and_then(|length| length.parse().ok());
        if let Some(length) = length {
            first.body = rest.get(..length)?.to_owned();
        } else if first.header("transfer-encoding").contains(&"chunked") {
            let mut rest = rest;
            loop {
                let (size, chunk) = rest.split_once("\r\n")?;
                let size = usize::from_str_radix(size, 16).ok()?;
                if size == 0 {
                    break;
                }
                first.body.push_str(chunk.get(..size)?);
                rest = chunk.get(size + 2..)?;
            }
        } else if ended {
            first.body = rest.to_owned();
        } else {
            return None;
        }
        Some(first)
    }
}

/// Sends the bytes and reads the first answer at the same time. The status is 0 if the connection
/// ended without an answer, and 1 if neither arrived.
async fn converse(address: SocketAddr, bytes: Vec<u8>) -> First {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        // The proxy may close before it has read everything.
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut got = Vec::new();
    let reading = async {
        loop {
            let mut part = [0; 4096];
            let count = reader.read(&mut part).await.unwrap_or(0);
            got.extend_from_slice(&part[..count]);
            match First::in_bytes(&got, count == 0) {
                Some(first) => return first,
                None if count == 0 => return First::default(),
                None => {}
            }
        }
    };
    let first = tokio::time::timeout(PATIENCE, reading).await;
    sending.abort();
    first.unwrap_or_else(|_| First { status: 1, ..First::default() })
}

/// Returns the bytes of a request of the table.
fn bytes(request: &str, key: &str) -> Vec<u8> {
    let mut text = String::new();
    let mut rest = request;
    while let Some((before, after)) = rest.split_once('{') {
        let (placeholder, after) = after.split_once('}').unwrap();
        text.push_str(before);
        match placeholder.split_once('*') {
            Some(("k", count)) => text.push_str(&"k".repeat(count.parse().unwrap())),
            Some(("h", count)) => {
                let count: usize = count.parse().unwrap();
                let headers: Vec<String> =
                    (0..count).map(|number| format!("X-Many-{number}: 1")).collect();
                text.push_str(&headers.join("\r\n"));
            }
            _ => {
                assert_eq!(placeholder, "key");
                text.push_str(key);
            }
        }
        rest = after;
    }
    text.push_str(rest);
    text.into_bytes()
}

/// Returns what is wrong with the client's answer and the application's requests.
fn wrong(
    hostile: &Hostile,
    right: Outcome,
    first: &First,
    seen: &[Seen],
    sent: &[u8],
) -> Option<&'static str> {
    let body: Value = serde_json::from_str(&first.body).unwrap_or_default();
    let refused =
        |status: u16| (first.status != status || !seen.is_empty()).then_some("not so refused");
    let unauthorized = |detail: &str| {
        if refused(401).is_some() {
            Some("not refused with 401")
        } else if body != json!({ "detail": detail })
            || first.header("content-type") != ["application/json"]
        {
            Some("not the JSON that is promised")
        } else {
            (first.header("www-authenticate") != ["ApiKey"]).then_some("not one WWW-Authenticate")
        }
    };
    match right {
        Outcome::Granted => {
            let [one] = seen else { return Some("not one request of the application's") };
            let head = sent
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .map_or(sent.len(), |at| at + 4);
            let has = |name: &str| hostile.request.contains(&format!("\r\n{name}:"));
            let is_announced = has("Content-Length") && !has("Transfer-Encoding");
            if first.status != 200 || first.body != "from the application" {
                Some("no answer of the application's")
            } else {
                (is_announced && one.body_bytes != sent.len() - head)
                    .then_some("the body is not whole")
            }
        }
        Outcome::Missing => unauthorized("Not authenticated: API key is missing."),
        Outcome::Invalid => unauthorized("Invalid API Key."),
        Outcome::Refused(status) => refused(status),
        Outcome::RefusedOr(status, other) => refused(status).and(refused(other)),
        Outcome::Closed => refused(0),
    }
}

/// Returns the fault of a request that the application received, independent of what the client
/// sent.
fn intruder(seen: &Seen, trust: &Registered) -> Option<String> {
    // As names of CGI variables: many applications cannot distinguish names that are equal then.
    let folded = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let alike = |headers: &HeaderMap, folded_name: &str| -> Vec<(String, String)> {
        let named = headers.iter().filter(|(name, _)| folded(name.as_str()) == folded_name);
        named
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect()
    };
    let identity = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let upgrades = seen.headers.get("upgrade").is_some_and(|to| to != "websocket");
    let is_right = alike(&seen.headers, "x_trust_id") == identity("x-trust-id", &trust.id)
        && alike(&seen.headers, "x_trust_name") == identity("x-trust-name", NAME)
        && alike(&seen.headers, "x_trust_attributes").iter().all(|(_, value)| value.is_empty())
        && alike(&seen.headers, "x_api_key").is_empty()
        && ["x_trust_id", "x_trust_name", "x_trust_attributes", "x_api_key"]
            .iter()
            .all(|name| alike(&seen.trailers, name).is_empty())
        && !upgrades
        && seen.target != "/smuggled";
    (!is_right).then(|| format!("the application must not get this: {seen:?}"))
}

async fn assert_withstands(proxy: Proxy) {
    let application = Application::start().await;
    // Without the attributes: a forged one must not reach the application.
    let Some(front) = proxy.start(application.address, &[]).await else { return };
    let trust = front.server.register("St. Märy").await;
    application.take();

    // Report all faults: one change of a proxy's file may fix or break many.
    let mut faults = String::new();
    for hostile in TABLE {
        let sent = bytes(hostile.request, &trust.key);
        let first = converse(front.address, sent.clone()).await;
        let seen = application.take();
        let right = hostile.right(proxy);
        let wrongs = wrong(hostile, right, &first, &seen, &sent).map(str::to_owned).into_iter();
        for wrong in wrongs.chain(seen.iter().filter_map(|seen| intruder(seen, &trust))) {
            let short = |text: &str| text.chars().take(600).collect::<String>();
            let (status, body) = (first.status, short(&first.body));
            writeln!(
                faults,
                "{}: not {right:?}: {}; {status} {body:?}",
                hostile.what,
                short(&wrong)
            )
            .unwrap();
        }
    }
    // A request that was hidden in another's body may arrive late.
    for late in application.take() {
        writeln!(faults, "late: {:?}", intruder(&late, &trust)).unwrap();
    }
    assert!(faults.is_empty(), "{proxy:?}:\n{faults}\n{}", front.program.errors());
    // A valid key is still granted.
    let good = bytes(TABLE[0].request, &trust.key);
    assert_eq!(converse(front.address, good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_gives_each_hostile_request_its_outcome() {
    assert_withstands(Proxy::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_gives_each_hostile_request_its_outcome() {
    assert_withstands(Proxy::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gives_each_hostile_request_its_outcome() {
    assert_withstands(Proxy::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_gives_each_hostile_request_its_outcome() {
    assert_withstands(Proxy::Traefik).await;
}
