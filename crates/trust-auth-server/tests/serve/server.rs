//! The service as a process: the real binary, on ports that the system chooses.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use trust_auth::KeyHash;

use crate::client::{Answer, ask};

/// The limit for operations that take a moment on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The admin key of every service in these tests.
pub(crate) const ADMIN_KEY: &str = "an-internal-service-key-of-the-tests";

/// A running service. Dropping the value kills the process.
pub(crate) struct Server {
    child: Child,
    pub(crate) main: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The first line of the service's output.
    pub(crate) told: Value,
    log: Arc<Mutex<String>>,
    /// Reads the log to its end.
    reader: Option<JoinHandle<()>>,
    _folder: TempDir,
}

/// A trust that was registered.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub(crate) id: String,
    pub(crate) key: String,
}

impl Server {
    /// Starts a service on a new SQLite file.
    pub(crate) async fn on_sqlite(arguments: &[&str]) -> Self {
        Self::on("trust-auth.db", arguments).await
    }

    /// Starts a service on this database. A relative path is below a new folder.
    pub(crate) async fn on(database: impl AsRef<Path>, arguments: &[&str]) -> Self {
        Self::start(command, database.as_ref(), arguments, Some(ADMIN_KEY)).await
    }

    /// Starts a service on a new SQLite file, without an admin key.
    pub(crate) async fn without_admin_key() -> Self {
        Self::start(command, Path::new("trust-auth.db"), &[], None).await
    }

    /// Starts a service as [`on`](Self::on) does. A write beyond the limit on the size of files
    /// fails and does not end the process.
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
        // When the watcher connects, the cache is emptied, and all trusts are read once. Wait for
        // both, so that they do not disturb a test.
        server.until_metric("trust_auth_listener_connected", |value| value == 1.0).await;
        server.until_metric("trust_auth_scans_total", |value| value >= 1.0).await;
        server
    }

    /// Starts a service on this database, which need not exist yet.
    pub(crate) fn before(database: impl AsRef<Path>, arguments: &[&str]) -> Self {
        Self::before_by(command, database, arguments)
    }

    /// Does the same as [`before`](Self::before), by this command.
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
        // In the environment, so that a flag of the test overrides it.
        command
            .env("TRUST_AUTH_DATABASE", database)
            .env("TRUST_AUTH_LISTEN", "127.0.0.1:0")
            .env("TRUST_AUTH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("TRUST_AUTH_LOG_FORMAT", "json")
            .env("TRUST_AUTH_DRAIN_DELAY", "100ms");
        // `.ci/run tests_with_read_lease` runs the suite so.
        if let Some(length) = std::env::var_os("TRUST_AUTH_TEST_READ_LEASE") {
            command.env("TRUST_AUTH_READ_LEASE", length).env("TRUST_AUTH_MIGRATE", "true");
        }
        if let Some(key) = admin_key {
            command.env("TRUST_AUTH_ADMIN_KEY_SHA256", KeyHash::of(key).to_hex());
        }
        command.args(["--json", "serve"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
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
        Self { child, main, admin, told, log, reader: Some(reader), _folder: folder }
    }

    /// Returns the answer of `/verify` to this key.
    pub(crate) async fn verify(&self, key: &str) -> Answer {
        ask(self.main, "GET", "/verify", &[("X-Api-Key", key)], "").await
    }

    /// Returns the answer of the admin API to a request with the admin key.
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

    /// Returns all metrics, by name and labels as `/metrics` has them.
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

    /// Returns one metric.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        *metrics.get(name).unwrap_or_else(|| panic!("no {name} among {metrics:#?}"))
    }

    /// Waits until the metric is as wanted, and returns how long that took.
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

    /// Waits until the log has this text. A separate thread of the service writes the log.
    pub(crate) async fn until_logged(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in the log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the log up to now.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory of the process, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell's builtin: not every system has the program.
        let script = format!("kill -s {name} {}", self.process_id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the service does not end; log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Requests the end of the service, and asserts that the service ends in order. Returns the
    /// whole log.
    pub(crate) async fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.reader.take().unwrap().join().unwrap();
        self.log()
    }
}

/// Returns whether each service of these tests has a read lease.
pub(crate) fn has_read_lease() -> bool {
    std::env::var_os("TRUST_AUTH_TEST_READ_LEASE").is_some()
}

/// Returns whether to leave a test out, because it is about what a service with a read lease does
/// differently by design. `read_lease.rs` has the tests of that.
pub(crate) fn is_about_reads(what: &str) -> bool {
    if has_read_lease() {
        eprintln!("LEFT OUT with a read lease: {what}");
    }
    has_read_lease()
}

/// With a read lease, waits until no service grants the key of a trust that was changed by hand:
/// `disable` waits for each earlier change, also for the deletion of the trust.
pub(crate) fn wait_after_a_change_by_hand(database: &str, trust: &Registered) {
    if has_read_lease() {
        let mut disable = command(Path::new("/"));
        disable.args(["--database", database, "disable", &trust.id]).output().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a command for the program, in this working directory, without the caller's settings.
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
