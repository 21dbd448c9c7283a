//! The service as a process of its own: the real binary, on ports that the system chooses.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use trust_auth::KeyHash;

use crate::client::{Answer, ask};

/// How long anything may take that takes a moment on a machine that has nothing else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The internal service key of every server here.
pub(crate) const ADMIN_KEY: &str = "an-internal-service-key-of-the-tests";

/// A running service. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    pub(crate) main: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The first line of its output.
    pub(crate) told: Value,
    log: Arc<Mutex<String>>,
    _folder: TempDir,
}

/// A trust that was registered.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub(crate) id: String,
    pub(crate) key: String,
}

impl Server {
    /// On an SQLite file of its own.
    pub(crate) async fn on_sqlite(arguments: &[&str]) -> Self {
        Self::on("trust-auth.db", arguments).await
    }

    /// On this database; a relative path is one in a folder of its own.
    pub(crate) async fn on(database: impl AsRef<Path>, arguments: &[&str]) -> Self {
        Self::start(command, database.as_ref(), arguments, Some(ADMIN_KEY)).await
    }

    /// On an SQLite file of its own, with nobody let in to the admin API.
    pub(crate) async fn without_admin_key() -> Self {
        Self::start(command, Path::new("trust-auth.db"), &[], None).await
    }

    /// As [`on`](Self::on), as a process whose writes fail, rather than end it, beyond a limit for
    /// the size of files.
    pub(crate) async fn whose_writes_may_fail(
        database: impl AsRef<Path>,
        arguments: &[&str],
    ) -> Self {
        Self::start(command_ignoring_xfsz, database.as_ref(), arguments, Some(ADMIN_KEY)).await
    }

    async fn start(
        command: fn(&Path) -> Command,
        database: &Path,
        arguments: &[&str],
        admin_key: Option<&str>,
    ) -> Self {
        let server = Self::begin(command, database, arguments, admin_key);
        // Its cache is emptied once when the watcher connects, and all trusts are read once: not in
        // the middle of a test.
        server.until_metric("trust_auth_listener_connected", |value| value == 1.0).await;
        server.until_metric("trust_auth_scans_total", |value| value >= 1.0).await;
        server
    }

    /// On this database, which need not be there yet.
    pub(crate) fn before(database: impl AsRef<Path>, arguments: &[&str]) -> Self {
        Self::before_by(command, database, arguments)
    }

    /// As [`before`](Self::before), started by this command.
    pub(crate) fn before_by(
        command: fn(&Path) -> Command,
        database: impl AsRef<Path>,
        arguments: &[&str],
    ) -> Self {
        Self::begin(command, database.as_ref(), arguments, Some(ADMIN_KEY))
    }

    fn begin(
        command: fn(&Path) -> Command,
        database: &Path,
        arguments: &[&str],
        admin_key: Option<&str>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        // By the environment, so that a flag of the test goes before it.
        command
            .env("TRUST_AUTH_DATABASE", database)
            .env("TRUST_AUTH_LISTEN", "127.0.0.1:0")
            .env("TRUST_AUTH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("TRUST_AUTH_LOG_FORMAT", "json")
            .env("TRUST_AUTH_DRAIN_DELAY", "100ms");
        if let Some(key) = admin_key {
            command.env("TRUST_AUTH_ADMIN_KEY_SHA256", KeyHash::of(key).to_hex());
        }
        command.args(["--json", "serve"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let address = |name: &str| match told["serving"][name].as_str() {
            Some(address) => address.parse().unwrap(),
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let (main, admin) = (address("listen"), address("admin_listen"));
        assert_ne!(main.port(), 0, "{told}");
        Self { child, main, admin, told, log, _folder: folder }
    }

    /// What `/verify` answers to this key.
    pub(crate) async fn verify(&self, key: &str) -> Answer {
        ask(self.main, "GET", "/verify", &[("X-Api-Key", key)], "").await
    }

    /// What the admin API answers to whoever has the internal service key.
    pub(crate) async fn administer(&self, method: &str, path: &str, body: &Value) -> Answer {
        let authorization = format!("Bearer {ADMIN_KEY}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/json")];
        ask(self.admin, method, path, &headers, &body).await
    }

    /// Registers a trust.
    pub(crate) async fn register(&self, name: &str) -> Registered {
        let answer = self.administer("POST", "/admin/trusts", &json!({ "name": name })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Registered { id: text(&answer.json()["trust"]["id"]), key: text(&answer.json()["api_key"]) }
    }

    /// Deletes a trust.
    pub(crate) async fn delete(&self, trust: &Registered) {
        let answer =
            self.administer("DELETE", &format!("/admin/trusts/{}", trust.id), &Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// All metrics, each by its name and labels as `/metrics` has them.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = ask(self.main, "GET", "/metrics", &[], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let samples = answer.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    /// One of them.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        *metrics.get(name).unwrap_or_else(|| panic!("no {name} among {metrics:#?}"))
    }

    /// Waits until it is as wanted, and tells how long that took.
    pub(crate) async fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let value = self.metric(name).await;
            if wanted(value) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{name} stays {value}; log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the log has this text: a thread of the service's own writes it.
    pub(crate) async fn until_logged(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in the log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell's own: not every system has the program.
        let script = format!("kill -s {name} {}", self.process_id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end; log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end, and makes sure that it ends in order.
    pub(crate) async fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The tool, in this working directory, without settings of whoever runs the tests.
pub(crate) fn command(folder: &Path) -> Command {
    in_folder(Command::new(env!("CARGO_BIN_EXE_trust-auth")), folder)
}

fn command_ignoring_xfsz(folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_trust-auth")]);
    in_folder(command, folder)
}

pub(crate) fn in_folder(mut command: Command, folder: &Path) -> Command {
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRUST_AUTH_") {
            command.env_remove(name);
        }
    }
    command
}
