//! The table of hostile requests: what a client sends through a proxy, and the right outcome.
//!
//! `{key}` is a valid key, `{k*N}` is N letters, and `{h*N}` is N headers. Each request has its own
//! connection. For each outcome, `proxies_hostile.rs` also checks that the application gets exactly
//! one identity, the key's, and no key.

use crate::proxies::Proxy::{self, Caddy, Envoy, Nginx, Traefik};

/// The right outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 200: the application got the request, with its whole body.
    Granted,
    /// 401, as JSON with `WWW-Authenticate`, because there is no key. The application got nothing.
    Missing,
    /// 401, as JSON with `WWW-Authenticate`, for an unknown key or two keys. The application got
    /// nothing.
    Invalid,
    /// Another answer, of the proxy or of the service. The application got nothing.
    Refused(u16),
    /// The first, or the second where the service's answer comes while the proxy is still writing.
    RefusedOr(u16, u16),
    /// The connection ends without an answer in HTTP/1. The application got nothing.
    Closed,
}

use Outcome::{Closed, Granted, Invalid, Missing, Refused, RefusedOr};

/// One request.
pub(crate) struct Hostile {
    pub(crate) what: &'static str,
    pub(crate) request: &'static str,
    right: Outcome,
    /// The proxies for which another outcome is right.
    but: &'static [(Proxy, Outcome)],
}

impl Hostile {
    /// Returns the right outcome for this proxy.
    pub(crate) fn right(&self, proxy: Proxy) -> Outcome {
        self.but.iter().find(|(of, _)| *of == proxy).map_or(self.right, |(_, outcome)| *outcome)
    }
}

const fn row(what: &'static str, request: &'static str, right: Outcome) -> Hostile {
    Hostile { what, request, right, but: &[] }
}

impl Hostile {
    const fn but(self, but: &'static [(Proxy, Outcome)]) -> Self {
        Self { but, ..self }
    }
}

/// A request for `/orders` with these lines after `Host`.
macro_rules! get {
    ($($line:literal),* $(,)?) => { lines!("GET /orders HTTP/1.1", "Host: a.example" $(, $line)*) };
}

/// A request for this target, without a key.
macro_rules! bare {
    ($target:literal) => {
        lines!(concat!("GET ", $target, " HTTP/1.1"), "Host: a.example")
    };
}

/// A request of these lines.
macro_rules! lines {
    ($($line:expr),* $(; $body:literal)?) => { concat!($($line, "\r\n",)* "\r\n" $(, $body)?) };
}

// Narrower than rustfmt formats it.
#[rustfmt::skip]
pub(crate) const TABLE: &[Hostile] = &[
    row("a key", get!("X-Api-Key: {key}"), Granted),
    row("no key", get!(), Missing),
    row("an empty key", get!("X-Api-Key:"), Missing),
    row("an unknown key", get!("X-Api-Key: unknown"), Invalid),
    // Headers that a proxy removes because `Connection` lists them.
    row(
        "Connection lists the identity",
        get!("X-Api-Key: {key}", "Connection: close, X-Trust-Id, X-Trust-Name"),
        Granted,
    ),
    row(
        "Connection lists the identity in a second header, in other case",
        get!("X-Api-Key: {key}", "Connection: keep-alive", "Connection: x-trust-id,X-TRUST-NAME"),
        Granted,
    ),
    row(
        "Connection lists the identity, which the client forges",
        get!(
            "X-Api-Key: {key}",
            "Connection: X-Trust-Id, X-Trust-Name",
            "X-Trust-Id: forged",
            "X-Trust-Name: forged"
        ),
        Granted,
    ),
    row(
        "Connection lists the key",
        get!("X-Api-Key: {key}", "Connection: close, X-Api-Key"),
        Granted,
    )
    .but(&[(Envoy, Missing), (Traefik, Missing)]),
    row("Connection lists the key's absence", get!("Connection: close, X-Api-Key"), Missing),
    row(
        "Keep-Alive and Proxy-Connection list the identity",
        get!("X-Api-Key: {key}", "Proxy-Connection: X-Trust-Id", "Keep-Alive: X-Trust-Id"),
        Granted,
    ),
    row(
        "TE and Trailer list the identity",
        get!("X-Api-Key: {key}", "Connection: TE", "TE: trailers", "Trailer: X-Trust-Id"),
        Granted,
    ),
    // An identity of the client's own.
    row(
        "a forged identity",
        get!("X-Api-Key: {key}", "X-Trust-Id: forged", "X-Trust-Name: forged"),
        Granted,
    ),
    row(
        "forged attributes",
        get!("X-Api-Key: {key}", "X-Trust-Attributes: true", "x-trust-attributes: forged"),
        Granted,
    ),
    row(
        "Connection lists the attributes, which the client forges",
        get!(
            "X-Api-Key: {key}",
            "Connection: X-Trust-Attributes",
            "X-Trust-Attributes: forged",
            "X-Trust_Attributes: forged"
        ),
        Granted,
    ),
    row(
        "a forged identity without a key",
        get!("X-Trust-Id: forged", "X-Trust-Name: forged"),
        Missing,
    ),
    row(
        "two forged identities",
        get!("X-Trust-Id: one", "X-Trust-Id: two", "X-Api-Key: {key}", "X-Trust-Id: three"),
        Granted,
    ),
    row("an empty identity", get!("X-Trust-Id:", "X-Trust-Name:", "X-Api-Key: {key}"), Granted),
    row(
        "a forged identity in lower and upper case",
        get!("x-trust-id: forged", "X-TRUST-NAME: forged", "X-Api-Key: {key}"),
        Granted,
    ),
    row(
        "a forged identity with underscores, which gateways fold to hyphens",
        get!(
            "X_Trust_Id: forged",
            "X-Trust_Id: forged",
            "X_Trust-Id: forged",
            "x_trust_name: forged",
            "X-Trust_Name: forged",
            "X-Api-Key: {key}"
        ),
        Granted,
    ),
    row(
        "a forged identity with each other character that a name may have",
        get!(
            "X.Trust.Id: forged",
            "X!Trust!Name: forged",
            "X#Trust#Name: forged",
            "X$Trust$Name: forged",
            "X%Trust%Name: forged",
            "X&Trust&Name: forged",
            "X'Trust'Name: forged",
            "X*Trust*Name: forged",
            "X+Trust+Name: forged",
            "X^Trust^Name: forged",
            "X`Trust`Name: forged",
            "X|Trust|Name: forged",
            "X~Trust~Name: forged",
            "X~Api~Key: {key}",
            "X-Api-Key: {key}"
        ),
        Granted,
    ),
    row(
        "white space before the colon",
        get!("X-Trust-Id : forged", "X-Api-Key: {key}"),
        Refused(400),
    ),
    row("a tab before the colon", get!("X-Trust-Id\t: forged", "X-Api-Key: {key}"), Refused(400)),
    row(
        "white space before the name",
        lines!(
            "GET /orders HTTP/1.1",
            " X-Trust-Id: forged",
            "Host: a.example",
            "X-Api-Key: {key}"
        ),
        Refused(400),
    ),
    row(
        "a folded line",
        get!("X-Api-Key: {key}", "X-Other: a", " X-Trust-Id: forged"),
        Refused(400),
    )
    .but(&[(Envoy, Granted), (Traefik, Granted), (Caddy, Granted)]),
    row(
        "a folded key",
        get!("X-Api-Key: {key}", " more"),
        Refused(400),
    )
    .but(&[(Envoy, Invalid), (Traefik, Invalid), (Caddy, Invalid)]),
    row(
        "a bare carriage return",
        get!("X-Api-Key: {key}", "X-Other: a\rX-Trust-Id: forged"),
        Refused(400),
    )
    .but(&[(Envoy, Granted)]),
    row("a NUL in a value", get!("X-Api-Key: {key}", "X-Trust-Id: a\0b"), Refused(400)),
    row(
        "a name of no token",
        get!("X-Api-Key: {key}", "X-Trust-Id\u{e9}: forged"),
        Refused(400),
    )
    .but(&[(Nginx, Granted)]),
    row(
        "lines that end without carriage returns",
        "GET /orders HTTP/1.1\nHost: a.example\nX-Trust-Id: forged\nX-Api-Key: {key}\n\n",
        Granted,
    ),
    // Keys.
    row("a key twice", get!("X-Api-Key: {key}", "X-Api-Key: {key}"), Invalid),
    row("a key and another", get!("X-Api-Key: {key}", "X-Api-Key: unknown"), Invalid),
    row("another and a key", get!("X-Api-Key: unknown", "x-api-key: {key}"), Invalid),
    row("a list of keys", get!("X-Api-Key: {key}, {key}"), Invalid),
    row("a key with an underscore", get!("X_Api_Key: {key}"), Missing),
    row(
        "a key and another with an underscore",
        get!("X-Api-Key: {key}", "X_Api_Key: {key}"),
        Granted,
    ),
    row("a key in white space", get!("X-Api-Key: \t {key} \t "), Granted),
    row("a key of 5,000 letters", get!("X-Api-Key: {k*5000}"), Invalid),
    // Too many, and too large.
    row("90 headers", get!("X-Api-Key: {key}", "{h*85}"), Granted),
    row(
        "120 headers",
        get!("X-Api-Key: {key}", "{h*118}"),
        Refused(431),
    )
    .but(&[(Traefik, Granted)]),
    row(
        "2,000 headers",
        get!("X-Api-Key: {key}", "{h*2000}"),
        Refused(431),
    )
    .but(&[(Nginx, Refused(400)), (Traefik, Granted)]),
    row(
        "a header of 16 KiB",
        get!("X-Api-Key: {key}", "X-Large: {k*16384}"),
        Granted,
    )
    .but(&[(Nginx, Refused(400))]),
    row(
        "a header of 2 MiB",
        get!("X-Api-Key: {key}", "X-Large: {k*2097152}"),
        Refused(431),
    )
    .but(&[(Nginx, Refused(400))]),
    row(
        "a URL of 6 KB",
        lines!("GET /{k*6000} HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    ),
    row(
        "a URL of 50 KB",
        lines!("GET /{k*50000} HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Refused(431),
    )
    .but(&[(Nginx, Refused(414)), (Caddy, RefusedOr(431, 502))]),
    // Preflights carry no key.
    row(
        "a preflight",
        lines!(
            "OPTIONS /orders HTTP/1.1",
            "Host: a.example",
            "Origin: https://b.example",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: x-api-key"
        ),
        Missing,
    ),
    row(
        "OPTIONS with a key",
        lines!("OPTIONS /orders HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    ),
    row(
        "OPTIONS of everything",
        lines!("OPTIONS * HTTP/1.1", "Host: a.example"),
        Missing,
    )
    .but(&[
        (Nginx, Refused(400)),
        (Envoy, Refused(404)),
        (Traefik, Refused(200)),
        (Caddy, Refused(200)),
    ]),
    row(
        "TRACE",
        lines!("TRACE /orders HTTP/1.1", "Host: a.example"),
        Missing,
    )
    .but(&[(Nginx, Refused(405))]),
    row(
        "CONNECT",
        lines!("CONNECT b.example:443 HTTP/1.1", "Host: b.example:443", "X-Api-Key: {key}"),
        Refused(405),
    )
    .but(&[(Nginx, Refused(400)), (Envoy, Refused(404)), (Traefik, Refused(501))]),
    row(
        "a method of no standard",
        lines!("FROB /orders HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    )
    .but(&[(Envoy, Refused(400))]),
    // Versions and targets.
    row(
        "HTTP/1.0 without Host",
        lines!("GET /orders HTTP/1.0", "X-Api-Key: {key}"),
        Granted,
    )
    .but(&[(Envoy, Refused(426))]),
    row(
        "HTTP/1.0 without Host and key",
        lines!("GET /orders HTTP/1.0"),
        Missing,
    )
    .but(&[(Envoy, Refused(426))]),
    row("HTTP/1.1 without Host", lines!("GET /orders HTTP/1.1", "X-Api-Key: {key}"), Refused(400)),
    row(
        "two Hosts",
        get!("Host: b.example", "X-Api-Key: {key}"),
        Refused(400),
    )
    .but(&[(Envoy, Granted)]),
    row(
        "HTTP/0.9",
        lines!("GET /orders"),
        Refused(400),
    )
    .but(&[(Nginx, Closed), (Envoy, Refused(426))]),
    row(
        "an absolute target",
        lines!("GET http://b.example/orders HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    ),
    row("an absolute target without a key", bare!("http://127.0.0.1:9000/orders"), Missing),
    // The boundary between one request and the next.
    row(
        "Transfer-Encoding and Content-Length",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Content-Length: 4",
            "Transfer-Encoding: chunked";
            "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\nX-Trust-Id: forged\r\n\r\n"
        ),
        Refused(400),
    )
    .but(&[(Traefik, Granted), (Caddy, Granted)]),
    row(
        "two Content-Lengths",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Content-Length: 0",
            "Content-Length: 40";
            "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
        ),
        Refused(400),
    ),
    row(
        "a Transfer-Encoding of no standard",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Transfer-Encoding: xchunked";
            "0\r\n\r\n"
        ),
        Refused(501),
    ),
    row(
        "two Transfer-Encodings",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity";
            "0\r\n\r\n"
        ),
        Refused(400),
    )
    .but(&[(Envoy, Refused(501)), (Traefik, Refused(501)), (Caddy, Refused(501))]),
    row(
        "a signed Content-Length",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Content-Length: +4";
            "body"
        ),
        Refused(400),
    ),
    row(
        "a second request without a key in one packet",
        lines!(
            "GET /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}";
            "GET /smuggled HTTP/1.1\r\nHost: a.example\r\nX-Trust-Id: forged\r\n\r\n"
        ),
        Granted,
    ),
    row(
        "a trailer with an identity",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "TE: trailers",
            "Trailer: X-Trust-Id",
            "Transfer-Encoding: chunked";
            "4\r\nbody\r\n0\r\nX-Trust-Id: forged\r\nX-Api-Key: {key}\r\n\r\n"
        ),
        Granted,
    ),
    // Bodies.
    row(
        "a body of 3 MB",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Content-Length: 3000000";
            "{k*3000000}"
        ),
        Granted,
    ),
    row(
        "a body of 3 MB without a key",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "Content-Length: 3000000";
            "{k*3000000}"
        ),
        Missing,
    ),
    row(
        "a body after 100 Continue",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "X-Api-Key: {key}",
            "Expect: 100-continue",
            "Content-Length: 4";
            "body"
        ),
        Granted,
    ),
    row(
        "a body after 100 Continue without a key",
        lines!(
            "POST /orders HTTP/1.1",
            "Host: a.example",
            "Expect: 100-continue",
            "Content-Length: 4";
            "body"
        ),
        Missing,
    ),
    // Paths that mean something to the service or to the proxy.
    row("/verify without a key", bare!("/verify"), Missing),
    row(
        "/verify, encoded, without a key",
        bare!("/%76erify"),
        Missing,
    )
    .but(&[(Caddy, Refused(404))]),
    row("/healthz without a key", bare!("/healthz"), Missing),
    row("/../healthz without a key", bare!("/../healthz"), Missing).but(&[(Nginx, Refused(400))]),
    row(
        "/..%2fhealthz without a key",
        bare!("/..%2fhealthz"),
        Missing,
    )
    .but(&[(Nginx, Refused(400))]),
    row(
        "/%2e%2e/metrics without a key",
        bare!("/%2e%2e/metrics"),
        Missing,
    )
    .but(&[(Nginx, Refused(400))]),
    row(
        "/x/../../healthz without a key",
        bare!("/x/../../healthz"),
        Missing,
    )
    .but(&[(Nginx, Refused(400))]),
    row("//healthz without a key", bare!("//healthz"), Missing),
    row("/;/../healthz without a key", bare!("/;/../healthz"), Missing),
    row("a query that looks like a path, without a key", bare!("/?/../healthz"), Missing),
    row(
        "a fragment without a key",
        bare!("/a#/../healthz"),
        Missing,
    )
    .but(&[(Envoy, Refused(400)), (Traefik, Refused(400))]),
    row("a backslash without a key", bare!("/a\\..\\healthz"), Missing),
    row(
        "//orders",
        lines!("GET //orders HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    ),
    row(
        "an encoded slash",
        lines!("GET /a%2fb HTTP/1.1", "Host: a.example", "X-Api-Key: {key}"),
        Granted,
    ),
    row(
        "the place in nginx.conf that asks the service",
        bare!("/trust-auth"),
        Missing,
    )
    .but(&[(Nginx, Refused(404))]),
    // Headers that carry a client's statements from other proxies.
    row(
        "another method and URL, without a key",
        get!(
            "X-Original-URL: /healthz",
            "X-Rewrite-URL: /healthz",
            "X-Original-Method: OPTIONS",
            "X-HTTP-Method-Override: OPTIONS"
        ),
        Missing,
    ),
    row(
        "a forwarded method, URI and host, without a key",
        get!(
            "X-Forwarded-Method: OPTIONS",
            "X-Forwarded-Uri: /healthz",
            "X-Forwarded-Host: b.example",
            "X-Forwarded-Proto: https",
            "X-Forwarded-For: 127.0.0.1",
            "Forwarded: for=127.0.0.1"
        ),
        Missing,
    ),
    row(
        "a forwarded method and URI, with a key",
        get!(
            "X-Api-Key: {key}",
            "X-Forwarded-Method: OPTIONS",
            "X-Forwarded-Uri: /healthz",
            "X-Forwarded-For: 127.0.0.1"
        ),
        Granted,
    ),
    row(
        "Envoy's own headers, without a key",
        get!(
            "x-envoy-original-path: /healthz",
            "x-envoy-internal: true",
            "x-envoy-decorator-operation: x"
        ),
        Missing,
    ),
    row(
        "a CGI's variable, without a key",
        get!("Proxy: http://b.example", "Remote-User: forged"),
        Missing,
    ),
    // Upgrades.
    row(
        "a WebSocket without a key",
        get!(
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        ),
        Missing,
    )
    .but(&[(Envoy, Refused(403))]),
    row(
        "a WebSocket whose Connection lists the identity",
        get!(
            "X-Api-Key: {key}",
            "Connection: Upgrade, X-Trust-Id",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        ),
        Granted,
    )
    .but(&[(Envoy, Refused(403))]),
    row(
        "two upgrades",
        get!(
            "X-Api-Key: {key}",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: H2C",
            "Upgrade: websocket",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
        ),
        Granted,
    )
    .but(&[(Envoy, Refused(403))]),
    row(
        "an upgrade to HTTP/2, whose later requests no proxy would check",
        get!(
            "X-Api-Key: {key}",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
        ),
        Granted,
    ),
];
