//! A PostgreSQL server for the time of a test, with a folder and a port of its own. Everything is
//! removed at every end of the test.
//!
//! Where PostgreSQL is not installed, [`PostgresServer::start`] prints that on standard error and
//! returns `None`, and the test ends. With `TRUST_AUTH_REQUIRE_POSTGRES` set, as in `.ci/run`, the
//! test fails.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod network;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;

use sqlx::{ConnectOptions, PgConnection};
use uuid::Uuid;

/// The superuser and its password. No message may contain the password.
const USER: &str = "postgres";
pub(crate) const PASSWORD: &str = "hunter2";

/// A port outside of the range for outgoing connections, so that the port is still free when the
/// server returns.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
const ATTEMPTS: usize = 20;

/// A server, running or stopped by the test.
pub(crate) struct PostgresServer {
    folder: PathBuf,
    binaries: PathBuf,
    /// The start of a command that runs as the server's user.
    prefix: Vec<OsString>,
    port: u16,
    /// The user and group of the server, where this process is root.
    owner: Option<(u32, u32)>,
    /// More settings, as arguments.
    settings: String,
    /// Removes everything as soon as its pipe breaks, even if this process was killed.
    cleaner: Option<(Child, ChildStdin)>,
}

impl PostgresServer {
    /// Returns the server that the tests of this process share, each with a database of its own.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresServer>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Starts a server of the test's own, which the test may stop.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(|_| String::new())
    }

    /// Starts a server of the test's own. `configure` returns its settings, as arguments such as
    /// `-c name=value`. [`give`](Self::give) makes the files that they name.
    pub(crate) fn start_with(configure: impl FnOnce(&Self) -> String) -> Option<Self> {
        let Some(binaries) = binaries() else {
            let told = "PostgreSQL is not installed: on Debian, `apt-get install postgresql`";
            assert!(env::var_os("TRUST_AUTH_REQUIRE_POSTGRES").is_none(), "{told}");
            // Not by `eprintln!`, whose output the test harness captures.
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(io::stderr(), "LEFT OUT: {test}: {told}");
            return None;
        };
        let mut server = Self::with_folder(binaries);
        server.make_cluster();
        server.settings = configure(&server);
        server.start_at_a_free_port();
        Some(server)
    }

    /// Starts a replica of this server, which follows until it is [promoted](Self::promote).
    pub(crate) fn replica(&self) -> Self {
        let mut replica = Self::with_folder(self.binaries.clone());
        let backup = replica
            .command(replica.binaries.join("pg_basebackup"))
            .args([
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .arg("--pgdata")
            .arg(replica.folder.join("data"))
            .args(["--dbname", &self.url("postgres")])
            .output()
            .unwrap();
        assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
        replica.start_at_a_free_port();
        replica
    }

    fn with_folder(binaries: PathBuf) -> Self {
        let (prefix, owner) = other_user();
        // The server's user may enter this folder.
        let parent = if owner.is_some() { PathBuf::from("/tmp") } else { env::temp_dir() };
        let folder = parent.join(format!("trust-auth-{}", Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((user, group)) = owner {
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        let mut server = Self {
            folder,
            binaries,
            prefix,
            port: 0,
            owner,
            settings: String::new(),
            cleaner: None,
        };
        server.cleaner = Some(server.start_cleaner());
        server
    }

    fn start_at_a_free_port(&mut self) {
        for _ in 0..ATTEMPTS {
            let random = u16::from_le_bytes(Uuid::new_v4().as_bytes()[..2].try_into().unwrap());
            self.port = PORTS.start + random % (PORTS.end - PORTS.start);
            if self.try_start() {
                return;
            }
        }
        panic!("the server does not start: {}", self.log());
    }

    /// Makes a file that belongs to the server's user, in the server's folder.
    pub(crate) fn give(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if let Some((user, group)) = self.owner {
            chown(&path, Some(user), Some(group)).unwrap();
        }
        path
    }

    /// Returns the program `psql` of this server's version.
    pub(crate) fn psql_program(&self) -> PathBuf {
        self.binaries.join("psql")
    }

    /// Makes a database without a table, and returns its URL.
    pub(crate) fn new_database(&self) -> String {
        self.new_database_with("")
    }

    /// As [`new_database`](Self::new_database), with more options of `CREATE DATABASE`.
    pub(crate) fn new_database_with(&self, options: &str) -> String {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {options}");
        self.psql("postgres", &sql);
        self.url(&name)
    }

    /// Returns the URL of a database, with user and password.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the output of `psql`, without headings. `database` is a name or a URL of this
    /// server.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let url = if database.contains(':') { database.to_owned() } else { self.url(database) };
        let output = Command::new(self.binaries.join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
            ])
            .args(["--dbname", &url, "--command", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The run of the read lease: the server's start, the database, the table of the registrations,
    /// and the names of database and schema, as of their last change.
    pub(crate) const LEASE_RUN: &str = "concat(extract(epoch FROM pg_postmaster_start_time()), \
        '/', (SELECT concat(oid, '.', xmin) FROM pg_database WHERE datname = current_database()), \
        '/', to_regclass('trust_auth_holder')::oid, '/', current_database(), '/', \
        (SELECT concat(n.oid::regnamespace, '.', n.xmin) FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass('trust_auth_holder')))";

    /// Marks the run of the read lease as watched for long enough: revocations need not wait out
    /// the longest lease first.
    pub(crate) fn settle_the_run(&self, url: &str) {
        self.psql(url, &format!("UPDATE trust_auth_lease SET server_run = {}", Self::LEASE_RUN));
    }

    /// Makes a role that can log in and has no other right. Returns its name and its URL.
    pub(crate) fn new_role(&self, url: &str) -> (String, String) {
        let name = format!("role_{}", Uuid::new_v4().simple());
        self.psql(url, &format!("CREATE ROLE {name} LOGIN PASSWORD 'swordfish'"));
        let (_, address) = url.rsplit_once('@').unwrap();
        (name.clone(), format!("postgres://{name}:swordfish@{address}"))
    }

    /// Returns the whole database as `pg_dump` writes it: schema, rows, owners and grants.
    pub(crate) fn dump(&self, url: &str) -> String {
        self.dump_with(url, &[])
    }

    /// As [`dump`](Self::dump), with options of `pg_dump`; [`psql`](Self::psql) restores it.
    pub(crate) fn dump_with(&self, url: &str, options: &[&str]) -> String {
        let mut pg_dump = Command::new(self.binaries.join("pg_dump"));
        let output = pg_dump.args(["--inserts", "--dbname", url]).args(options).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dump = String::from_utf8(output.stdout).unwrap();
        // Newer versions write a random word into each dump, for `psql` alone.
        dump.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
    }

    /// Connects as another program does.
    pub(crate) async fn connect(&self, url: &str) -> PgConnection {
        url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().connect().await.unwrap()
    }

    /// Cuts every connection to a database, as an administrator would. Returns their number.
    pub(crate) fn kill_connections(&self, url: &str) -> usize {
        self.kill_where(url, "TRUE")
    }

    /// Cuts the connections to a database that match a condition on `pg_stat_activity`.
    pub(crate) fn kill_where(&self, url: &str, condition: &str) -> usize {
        let database = url.rsplit('/').next().unwrap();
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = '{database}' AND pid <> pg_backend_pid() AND ({condition})"
        );
        self.psql("postgres", &sql).lines().count()
    }

    /// Stops the server as a crash does: connections break without a message.
    pub(crate) fn stop(&self) {
        self.pg_ctl(&["stop", "--mode=immediate"]);
    }

    /// Accepts no new session, and stops after the last open one.
    pub(crate) fn stop_when_idle(&self) {
        self.pg_ctl(&["stop", "--mode=smart", "--no-wait"]);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.pg_ctl_output(&[OsStr::new("status")]).status.success()
    }

    pub(crate) fn start_again(&self) {
        assert!(self.try_start(), "the server does not start again: {}", self.log());
    }

    /// Stops the server and starts it as a replica, as after a failover.
    pub(crate) fn become_replica(&self) {
        self.pg_ctl(&["stop", "--mode=fast"]);
        let signal = self.folder.join("data/standby.signal");
        assert!(self.command("touch").arg(signal).status().unwrap().success());
        self.start_again();
    }

    /// Makes a replica a primary.
    pub(crate) fn promote(&self) {
        self.pg_ctl(&["promote"]);
    }

    /// Returns a folder that the server may write to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the server's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn make_cluster(&self) {
        let password = self.folder.join("password");
        fs::write(&password, PASSWORD).unwrap();
        let initdb = self
            .command(self.binaries.join("initdb"))
            .arg("--pgdata")
            .arg(self.folder.join("data"))
            .args(["--username", USER, "--pwfile"])
            .arg(&password)
            .args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    }

    fn try_start(&self) -> bool {
        let settings = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= \
             -c max_connections=100 -c fsync=off -c full_page_writes=off \
             -c shared_buffers=16MB -c autovacuum=off {}",
            self.port, self.settings
        );
        let log = self.folder.join("log");
        let output = self.pg_ctl_output(&[
            OsStr::new("start"),
            OsStr::new("--wait"),
            OsStr::new("--timeout=120"),
            OsStr::new("--log"),
            log.as_os_str(),
            OsStr::new("--options"),
            OsStr::new(&settings),
        ]);
        output.status.success()
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let output = self.pg_ctl_output(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn pg_ctl_output(&self, arguments: &[&OsStr]) -> Output {
        self.command(self.binaries.join("pg_ctl"))
            .arg("--pgdata")
            .arg(self.folder.join("data"))
            .args(arguments)
            // The server would keep an inherited pipe open.
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Returns a command that runs as the server's user.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        // The environment may name another server, and the server's user may not be allowed to
        // enter the working directory.
        command.current_dir("/");
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"))
        {
            command.env_remove(name);
        }
        command
    }

    /// Starts a shell that waits until this process closes its pipe or dies. The shell then stops
    /// the server and removes the folder.
    fn start_cleaner(&self) -> (Child, ChildStdin) {
        let script = r#"cat >/dev/null; folder=$1; shift
            "$@" -D "$folder/data" stop -m immediate -s; rm -rf "$folder""#;
        let mut cleaner = Command::new("sh");
        cleaner.args(["-c", script, "sh"]).arg(&self.folder).args(&self.prefix);
        cleaner.arg(self.binaries.join("pg_ctl")).current_dir("/");
        // In a group of its own: the terminal's Ctrl-C must end the tests alone.
        cleaner.process_group(0);
        cleaner.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = cleaner.spawn().unwrap();
        let pipe = child.stdin.take().unwrap();
        (child, pipe)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some((mut cleaner, pipe)) = self.cleaner.take() {
            drop(pipe);
            let _ = cleaner.wait();
        }
    }
}

/// Returns the folder of PostgreSQL's programs: on the path, or Debian's folder of the newest
/// version.
fn binaries() -> Option<PathBuf> {
    let has_all = |folder: &PathBuf| {
        ["initdb", "pg_basebackup", "pg_ctl", "pg_dump", "postgres", "psql"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).find(has_all);
    on_path.or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
        folders.filter(has_all).max_by_key(|folder| version(folder))
    })
}

fn version(binaries: &Path) -> Option<u32> {
    binaries.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Returns the start of a command that runs as another user, and that user's ids. Both are empty
/// unless this process is root: PostgreSQL refuses to run as root.
pub(crate) fn other_user() -> (Vec<OsString>, Option<(u32, u32)>) {
    if fs::metadata("/proc/self").map_or(1, |process| process.uid()) != 0 {
        return (Vec::new(), None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let found = ["postgres", "daemon"].iter().find_map(|wanted| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let ids: Vec<u32> =
            line.split(':').skip(2).take(2).filter_map(|id| id.parse().ok()).collect();
        Some((*ids.first()?, *ids.get(1)?))
    });
    let (user, group) = found.expect("a user `postgres` or `daemon`");
    let prefix = [
        "setpriv".into(),
        format!("--reuid={user}"),
        format!("--regid={group}"),
        "--clear-groups".into(),
    ];
    (prefix.into_iter().map(OsString::from).collect(), Some((user, group)))
}
