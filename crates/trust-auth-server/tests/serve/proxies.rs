//! Real proxies in front of a real application, with the configurations of `proxies/`, and real
//! clients.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use axum::Router;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::client::ask;
use crate::programs::{Program, find, free_port};
use crate::server::Server;

/// Starts an application that answers with the identity and the key that it got:
/// `[id, name, attributes, key]`.
async fn application() -> SocketAddr {
    let answer = async |headers: HeaderMap| {
        let of = |name: &str| {
            let values =
                headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
            values.collect::<Vec<_>>().join("|")
        };
        let names = ["x-trust-id", "x-trust-name", "x-trust-attributes", "x-api-key"];
        json!(names.map(of)).to_string()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() },
    );
    address
}

/// Copies a file of `proxies/`, with the addresses of this test.
fn configuration(
    file: &str,
    folder: &Path,
    proxy: SocketAddr,
    server: &Server,
    application: SocketAddr,
) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies").join(file);
    let mut text = fs::read_to_string(source).unwrap();
    for (port, address) in [(8000, proxy), (8080, server.main), (9000, application)] {
        for (sample, actual) in [
            (format!("127.0.0.1:{port}"), address.to_string()),
            (format!("port_value: {port} "), format!("port_value: {} ", address.port())),
            (format!("//:{port} "), format!("//:{} ", address.port())),
        ] {
            text = text.replace(&sample, &actual);
        }
    }
    assert!(text.contains(&server.main.port().to_string()) || file == "traefik.yml", "{text}");
    let path = folder.join(file);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Asserts what every proxy must do.
async fn assert_guards(which: Proxy) {
    let sends = &["--send-attributes"];
    let Some(front) = which.start(application().await, sends).await else { return };
    let (proxy, server, program) = (front.address, front.server, &front.program);
    let (trust, revoked) = (server.register("St. Märy").await, server.register("Revoked").await);
    let through =
        async |headers: &[(&str, &str)]| ask(proxy, "GET", "/orders/7?a=b", headers, "").await;

    let attributes =
        json!({ "scopes": ["read", "Größe \u{1f511}"], "a,b": "50% {env.HOME} $host" });
    let body = json!({ "name": "With attributes", "attributes": attributes });
    let registered = server.administer("POST", "/admin/trusts", &body).await.json();
    let key = registered["api_key"].as_str().unwrap();
    for headers in [&[("X-Api-Key", key)][..], &[("X-Api-Key", key), ("X-Trust-Attributes", "{}")]]
    {
        let granted: Value = through(headers).await.json();
        let passed_on = granted[2].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(passed_on).unwrap(), attributes, "{granted}");
    }

    // A client cannot choose its identity.
    let forged = [
        ("X-Api-Key", &*trust.key),
        ("X-Trust-Id", "forged"),
        ("X-Trust-Name", "forged"),
        ("X-Trust-Attributes", "forged"),
    ];
    for headers in [&forged[..1], &forged] {
        let granted = through(headers).await;
        assert_eq!(granted.status, 200, "{granted:?}; {}", program.errors());
        let identity: Value = granted.json();
        assert_eq!(identity, json!([trust.id, "St.%20M%C3%A4ry", "", ""]));
    }
    let posted = ask(proxy, "POST", "/orders", &[("X-Api-Key", &*trust.key)], "a body").await;
    assert_eq!(posted.status, 200, "{posted:?}");

    for headers in [&[] as &[_], &[("X-Api-Key", "unknown")], &[("X-Trust-Id", &*trust.id)]] {
        let refused = through(headers).await;
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, Some("ApiKey")),
            "{refused:?}"
        );
        assert!(!refused.body.contains(&trust.id));
    }
    let key = [("X-Api-Key", &*revoked.key)];
    assert_eq!(through(&key).await.status, 200);
    server.delete(&revoked).await;
    assert_eq!(through(&key).await.status, 401);

    // The service answers that the database failed, and each proxy passes that on.
    std::fs::remove_file(front.folder.path().join(DATABASE)).unwrap();
    let begun = std::time::Instant::now();
    let unavailable = loop {
        let answer = through(&forged[..1]).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(begun.elapsed() < crate::server::PATIENCE, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(unavailable.status, 503, "{unavailable:?}");
    // Envoy treats a 503 as a failure of the check, and passes on the status alone.
    if which != Proxy::Envoy {
        let detail = json!({ "detail": "Authentication is unavailable; try again." });
        assert_eq!((unavailable.header("retry-after"), unavailable.json()), (Some("1"), detail));
    }

    // Without the service, every request is refused.
    server.stop().await;
    let status = match which {
        Proxy::Nginx | Proxy::Envoy => 503,
        Proxy::Caddy => 502,
        Proxy::Traefik => 500,
    };
    assert_eq!(through(&forged[..1]).await.status, status);
}

/// The service's, in the folder of the proxy.
const DATABASE: &str = "trusts.db";

/// A proxy that has a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Nginx,
    Caddy,
    Envoy,
    Traefik,
}

/// A proxy that runs with its configuration of `proxies/`, between an application and a service.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    pub(crate) program: Program,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts the proxy, and a service with these arguments. Returns `None`, and reports it, if the
    /// proxy is missing.
    pub(crate) async fn start(self, application: SocketAddr, arguments: &[&str]) -> Option<Front> {
        let name = match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
        };
        let mut command = Command::new(find(name)?);
        let (folder, address) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path();
        let server = Server::on(path.join(DATABASE), arguments).await;
        let file = |name: &str| configuration(name, path, address, &server, application);
        match self {
            Self::Nginx => {
                // The compiled-in folders belong to the system's own nginx.
                let own = if is_root() { "daemon off; user root;" } else { "daemon off;" };
                command.arg("-p").arg(path).args([
                    "-c",
                    &file("nginx.conf"),
                    "-e",
                    "stderr",
                    "-g",
                    own,
                ])
            }
            Self::Caddy => command
                .args(["run", "--config", &file("Caddyfile")])
                .env("HOME", path)
                .env("XDG_DATA_HOME", path)
                .env("XDG_CONFIG_HOME", path),
            Self::Envoy => command.args([
                "-c",
                &file("envoy.yaml"),
                "--concurrency",
                "1",
                "--disable-hot-restart",
            ]),
            Self::Traefik => {
                file("traefik-dynamic.yml");
                command.args(["--configFile", &file("traefik.yml")]).current_dir(path)
            }
        };
        let program = Program::start(command, path, address);
        // Traefik listens before it reads its routes.
        while ask(address, "GET", "/", &[], "").await.status == 404 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Some(Front { address, server, program, folder })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_passes_on_what_the_service_grants_with_the_identity() {
    assert_guards(Proxy::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_passes_on_what_the_service_grants_with_the_identity() {
    assert_guards(Proxy::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_passes_on_what_the_service_grants_with_the_identity() {
    assert_guards(Proxy::Traefik).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_passes_on_what_the_service_grants_with_the_identity() {
    assert_guards(Proxy::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_wrk_get_what_they_ask_for() {
    let (Some(curl), Some(wrk)) = (find("curl"), find("wrk")) else { return };
    let server = Server::on_sqlite(&[]).await;
    let trust = server.register("St. Mary").await;
    let (url, header) =
        (format!("http://{}/verify", server.main), format!("X-Api-Key: {}", trust.key));
    let status = |extra: &[&str]| {
        let mut command = Command::new(&curl);
        command.args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %header{x-trust-name}",
        ]);
        let output = command.args(extra).arg(&url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(status(&["--header", &header]), "200 St.%20Mary");
    assert_eq!(status(&["--header", &header, "--request", "DELETE"]), "200 St.%20Mary");
    assert_eq!(status(&["--header", &header, "--http1.0"]), "200 St.%20Mary");
    assert_eq!(status(&["--header", "X-Api-Key: unknown"]).trim(), "401");
    assert_eq!(status(&[]).trim(), "401");

    let before = server.metric("trust_auth_requests_total{outcome=\"granted\"}").await;
    let output = Command::new(&wrk)
        .args([
            "--threads",
            "1",
            "--connections",
            "8",
            "--duration",
            "1s",
            "--header",
            &header,
            &url,
        ])
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && report.contains("Requests/sec:"), "{report}");
    // wrk reports an answer that is not 2xx, and a broken connection.
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    assert!(server.metric("trust_auth_requests_total{outcome=\"granted\"}").await > before + 8.0);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
