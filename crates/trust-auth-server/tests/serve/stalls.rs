//! Nothing outside stalls the service. If a reader of its output stops reading, the service still
//! answers, and ends on a signal.
#![cfg(target_os = "linux")]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, NoAnswer, ask};
use crate::postgres_server::PostgresServer;
use crate::server::{PATIENCE, Server, command, in_folder};

const O_NONBLOCK: i32 = 0o4000;

/// A service with the standard output and error that the test passes. Dropping the value kills the
/// process.
struct Piped {
    child: Child,
    main: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Piped {
    async fn start(database: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A free port, because the test does not read the line with the address.
        let main = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = command(folder.path());
        command
            .env("TRUST_AUTH_DATABASE", database)
            .env("TRUST_AUTH_LISTEN", main.to_string())
            .env("TRUST_AUTH_ADMIN_LISTEN", "off")
            .env("TRUST_AUTH_DRAIN_DELAY", "100ms")
            .args(["--json", "serve", "--query-timeout", "500ms"])
            .stdout(stdout)
            .stderr(stderr);
        let piped = Self { child: command.spawn().unwrap(), main, _folder: folder };
        let begun = Instant::now();
        loop {
            match Client::new(main).ask("GET", "/readyz", &[], "").await {
                Ok(answer) if answer.status == 200 => return piped,
                Ok(_) | Err(NoAnswer::Refused | NoAnswer::Lost(_)) => {}
            }
            assert!(begun.elapsed() < PATIENCE, "the service is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn terminated(&mut self) -> ExitStatus {
        let script = format!("kill -s TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the service does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills the pipe. The pipe is opened a second time, so that the non-blocking mode applies to this
/// descriptor alone.
fn fill(pipe: &PipeWriter) {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let mut pipe = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path).unwrap();
    for size in [4_096, 1] {
        loop {
            match pipe.write(&vec![b'\n'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Returns the pipe's content when no process writes to the pipe any more.
fn rest(mut pipe: PipeReader) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

/// The reader is like a log collector that hangs. The service logs the database's failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_reader_of_the_log_delays_neither_answers_nor_the_end() {
    let Some(database) = PostgresServer::start() else { return };
    let url = database.new_database();
    let (unread, stderr) = pipe().unwrap();
    let ours = stderr.try_clone().unwrap();
    let mut piped = Piped::start(&url, Stdio::null(), stderr.into()).await;
    fill(&ours);
    drop(ours);
    database.stop();
    // Longer than the pause between two log lines about the database.
    let begun = Instant::now();
    let mut client = Client::new(piped.main);
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.verify("unknown").await.unwrap().status, 503);
        assert_eq!(ask(piped.main, "GET", "/healthz", &[], "").await.status, 200);
    }
    assert_eq!(ask(piped.main, "GET", "/readyz", &[], "").await.status, 503);
    let text = ask(piped.main, "GET", "/metrics", &[], "").await.body;
    assert!(text.contains("\ntrust_auth_log_lines_dropped_total "), "{text}");
    assert_eq!(piped.terminated().await.code(), Some(0));
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_standard_output_that_never_reads_delays_neither_the_service_nor_its_end() {
    let (unread, stdout) = pipe().unwrap();
    let (log, stderr) = pipe().unwrap();
    fill(&stdout);
    let mut piped = Piped::start("trust-auth.db", stdout.into(), stderr.into()).await;
    assert_eq!(Client::new(piped.main).verify("unknown").await.unwrap().status, 401);
    assert_eq!(piped.terminated().await.code(), Some(0));
    // The end waits until a log that is read is written.
    let log = rest(log);
    assert!(log.contains("every request received is answered"), "{log}");
    assert!(!rest(unread).contains("serving"));
}

/// A failure to start is written to standard output or standard error, which no process reads here.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_to_start_ends_the_service_even_if_its_output_is_not_read() {
    for arguments in [
        &["serve", "--admin-key-sha256", "short"] as &[_],
        &["--json", "serve", "--listen", "192.0.2.1:1"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (unread, output) = pipe().unwrap();
        fill(&output);
        let mut command = command(folder.path());
        command.args(arguments).stdout(output.try_clone().unwrap()).stderr(output);
        let mut child = command.spawn().unwrap();
        drop(command);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("the service does not end");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(1), "{arguments:?}");
        drop(unread);
    }
}

/// A pipe without a writer represents a file on a file system that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_read_to_their_end_delay_neither_the_probes_nor_the_end() {
    for (variable, url) in [
        ("PGSERVICEFILE", "postgres://u:p@127.0.0.1:1/x?service=hangs"),
        ("PGPASSFILE", "postgres://u@127.0.0.1:1/x"),
        ("PGSSLROOTCERT", "postgres://u:p@127.0.0.1:1/x?sslmode=verify-full"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        if !Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(&file)
            .status()
            .is_ok_and(|made| made.success())
        {
            eprintln!("LEFT OUT: files that cannot be read: it takes mkfifo");
            return;
        }
        let mut command = command(folder.path());
        command
            .env(variable, &file)
            .env("TRUST_AUTH_LISTEN", "127.0.0.1:0")
            .env("TRUST_AUTH_ADMIN_LISTEN", "off")
            .env("TRUST_AUTH_DRAIN_DELAY", "0s")
            .args(["--json", "serve", "--query-timeout", "1s", "--database", url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let main = told["serving"]["listen"].as_str().unwrap().parse().unwrap();
        let mut piped = Piped { child, main, _folder: folder };
        assert_eq!(ask(main, "GET", "/healthz", &[], "").await.status, 200, "{variable}");
        assert_eq!(ask(main, "GET", "/readyz", &[], "").await.status, 503, "{variable}");
        assert_eq!(piped.terminated().await.code(), Some(0), "{variable}");
    }
}

/// The address of the name server of [`whose_resolver_hangs`]. It answers no question.
const NAME_SERVER: &str = "127.0.0.54:53";

/// Returns a command for the program in a file system with another `resolv.conf`. There, every
/// look-up of a name takes minutes.
fn whose_resolver_hangs(folder: &Path) -> Command {
    let settings = "nameserver 127.0.0.54\noptions timeout:30 attempts:5\n";
    std::fs::write(folder.join("resolv.conf"), settings).unwrap();
    let script = "mount --bind resolv.conf /etc/resolv.conf && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_trust-auth")]);
    in_folder(command, folder)
}

/// The look-up runs on a thread of the runtime, which cannot be stopped. The end must not wait for
/// the look-up.
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_hangs_delays_neither_the_probes_nor_the_end() {
    let name_server = UdpSocket::bind(NAME_SERVER);
    let allowed = Command::new("unshare").args(["-rm", "true"]).status();
    let (Ok(_name_server), true) = (name_server, allowed.is_ok_and(|status| status.success()))
    else {
        eprintln!("LEFT OUT: a resolver that hangs: it takes port 53 and a mount namespace");
        return;
    };
    let database = "postgres://u:p@db.trust-auth.example/trusts";
    let server = Server::before_by(whose_resolver_hangs, database, &["--query-timeout", "1s"]);
    for _ in 0..10 {
        assert_eq!(ask(server.main, "GET", "/healthz", &[], "").await.status, 200);
        assert_eq!(
            ask(server.main, "GET", "/verify", &[("X-Api-Key", "key")], "").await.status,
            503
        );
    }
    assert_eq!(ask(server.main, "GET", "/readyz", &[], "").await.status, 503);
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());

    // A command other than `serve` ends at its own limit, too.
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--exit-if-unreachable"]
            as &[_],
        &["list"],
    ] {
        let begun = Instant::now();
        let mut command = whose_resolver_hangs(folder.path());
        command.args(["--database", database]).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("db.trust-auth.example") && begun.elapsed() < PATIENCE, "{error}");
    }
}
