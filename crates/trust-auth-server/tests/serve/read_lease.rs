//! The service with a read lease: grants without a read, and changes that wait until no service
//! grants the key.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::task::JoinHandle;

use crate::client::{Answer, ask};
use crate::load::{Keys, Load, assert_answered};
use crate::postgres_server::PostgresServer;
use crate::server::{ADMIN_KEY, PATIENCE, Registered, Server, command};

const LEASE: [&str; 3] = ["--migrate", "--read-lease", "2s"];

const HELD: &str = "trust_auth_held_total";

fn program(database: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = command(Path::new("/"));
    command.arg("--database").arg(database.as_ref()).args(arguments);
    command
}

fn run(database: impl AsRef<Path>, arguments: &[&str]) -> Output {
    program(database, arguments).output().unwrap()
}

fn succeed(database: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = run(database, arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {stdout} {stderr}");
    stdout
}

fn json_of(database: impl AsRef<Path>, arguments: &[&str]) -> Value {
    let arguments = [&["--json"], arguments].concat();
    serde_json::from_str(&succeed(database, &arguments)).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends what Ctrl-C sends.
fn interrupt(program: &Child) {
    let script = format!("kill -s INT {}", program.id());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

/// Registers a trust, and waits until both services hold it.
async fn registered(services: [&Server; 2], name: &str) -> Registered {
    let held = services[1].metric("trust_auth_held_trusts").await;
    let trust = services[0].register(name).await;
    for service in services {
        service.until_metric("trust_auth_held_trusts", |now| now > held).await;
    }
    trust
}

async fn assert_held(server: &Server, key: &str) {
    let before = server.metrics().await;
    assert_eq!(server.verify(key).await.status, 200);
    let now = server.metrics().await;
    assert_eq!(now[HELD], before[HELD] + 1.0, "{}", server.log());
    for metric in ["trust_auth_hits_total", "trust_auth_scans_total", "trust_auth_looks_total"] {
        assert_eq!(now[metric], before[metric], "{metric}");
    }
}

/// Sends a request of the admin API with a further header.
async fn administer_with(server: &Server, path: &str, header: (&str, &str)) -> Answer {
    let authorization = format!("Bearer {ADMIN_KEY}");
    ask(server.admin, "POST", path, &[("Authorization", &authorization), header], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_grant_without_a_read_and_refuse_what_has_returned_as_revoked() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let (one, other) = (Server::on(&url, &LEASE).await, Server::on(&url, &LEASE).await);
    for (round, change) in ["disable", "rotate", "delete"].into_iter().cycle().take(12).enumerate()
    {
        let trust = registered([&one, &other], &format!("trust {round}")).await;
        assert_held(&one, &trust.key).await;
        assert_held(&other, &trust.key).await;
        let end = if round % 2 == 0 {
            json_of(&url, &[change, &trust.id])["revocation"].clone()
        } else {
            let (method, path) = match change {
                "delete" => ("DELETE", format!("/admin/trusts/{}", trust.id)),
                _ => ("POST", format!("/admin/trusts/{}/{change}", trust.id)),
            };
            let answer = one.administer(method, &path, &Value::Null).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["revocation"].clone()
        };
        for server in [&one, &other] {
            assert_eq!(server.verify(&trust.key).await.status, 401, "{change}");
        }
        assert_eq!((&end["everywhere"], &end["silent"]), (&json!(true), &json!([])), "{end}");
        assert_eq!(end["holders"], json!(2), "{end}");
        assert!(end["waited_ms"].as_u64().unwrap() < 2_000 || round == 0, "{end}");
    }
    assert_eq!(one.metric("trust_auth_read_lease_valid").await, 1.0);
    assert!(one.metric("trust_auth_revocation_seconds_count{outcome=\"answered\"}").await >= 5.0);
    // Without acknowledgements, a change waits for the longest lease.
    let trust = registered([&one, &other], "by the clock").await;
    let end = json_of(&url, &["disable", "--no-acknowledgements", &trust.id])["revocation"].clone();
    assert!(end["waited_ms"].as_u64().unwrap() >= 2_000, "{end}");
    assert_eq!((&end["everywhere"], &end["silent"]), (&json!(true), &json!([])), "{end}");
    // A service that has ended is waited for no longer.
    let trust = registered([&one, &other], "after").await;
    assert!(!other.stop().await.contains("panicked"));
    let end = json_of(&url, &["disable", &trust.id])["revocation"].clone();
    assert_eq!((&end["holders"], &end["silent"]), (&json!(1), &json!([])), "{end}");
    one.stop().await;
}

/// Changes attributes by commands and by the admin API. What has returned is shown everywhere, by
/// services that hold the trust.
async fn attributes_are_changed_everywhere(database: &Path, lease: &[&str]) {
    let arguments = [lease, &["--send-attributes"]].concat();
    let one = Server::on(database, &arguments).await;
    let other = Server::on(database, &arguments).await;
    let trust = registered([&one, &other], "St. Mary").await;
    let path = format!("/admin/trusts/{}", trust.id);
    let changes = ["read", "write", "", "admin", "", "read"].into_iter().chain(["write"; 2]);
    for (round, scope) in changes.enumerate() {
        let attributes = if scope.is_empty() { Value::Null } else { json!({ "scopes": [scope] }) };
        let text = if scope.is_empty() { String::new() } else { attributes.to_string() };
        let answer = if round % 2 == 0 {
            let value = if scope.is_empty() { "--clear" } else { &*text };
            json_of(database, &["set-attributes", &trust.id, value])
        } else {
            let answer = one.administer("PATCH", &path, &json!({ "attributes": attributes })).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        };
        for server in [&one, &other] {
            assert_held(server, &trust.key).await;
            let granted = server.verify(&trust.key).await;
            assert_eq!(granted.header("x-trust-attributes"), Some(&*text), "{round}");
        }
        assert_eq!(answer["trust"]["attributes"], attributes, "{answer}");
        let end = &answer["revocation"];
        assert_eq!((&end["everywhere"], &end["silent"]), (&json!(true), &json!([])), "{end}");
    }

    let told = succeed(database, &["set-attributes", "St. Mary", "{}"]);
    assert!(told.starts_with("Changed the attributes of St. Mary ("), "{told}");
    assert!(told.contains(". Its former attributes are shown nowhere after "), "{told}");
    let told = succeed(database, &["set-attributes", "St. Mary", "--clear", "--no-wait"]);
    assert!(told.starts_with("Removed the attributes of St. Mary ("), "{told}");
    assert!(told.contains("may be shown by a process with a read lease"), "{told}");
    let authorization = format!("Bearer {ADMIN_KEY}");
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
    ];
    let answer = ask(one.admin, "PATCH", &path, &headers, "{\"attributes\":{\"a\":1}}").await;
    assert_eq!((answer.status, &answer.json()["revocation"]["everywhere"]), (202, &json!(false)));
    // The four requests before it were logged, too.
    let begun = Instant::now();
    while one.log().matches("no process shows the former attributes any more").count() < 5 {
        assert!(begun.elapsed() < PATIENCE, "{}", one.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(other.verify(&trust.key).await.header("x-trust-attributes"), Some("{\"a\":1}"));
    let log = one.stop().await;
    assert!(log.contains("\"operation\":\"set_attributes\"") && !log.contains("scopes"), "{log}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_were_taken_away_are_shown_by_no_service_on_postgres() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    attributes_are_changed_everywhere(Path::new(&url), &LEASE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_were_taken_away_are_shown_by_no_service_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    attributes_are_changed_everywhere(&file, &["--read-lease", "400ms"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_on_sqlite_holds_too_and_each_change_waits_for_the_lease() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let lease = ["--read-lease", "400ms"];
    let (one, other) = (Server::on(&file, &lease).await, Server::on(&file, &lease).await);
    let trust = registered([&one, &other], "St. Mary").await;
    assert_held(&other, &trust.key).await;

    let told = succeed(&file, &["disable", "St. Mary"]);
    assert!(told.contains("Its key is refused everywhere after 4"), "{told}");
    assert_eq!(other.verify(&trust.key).await.status, 401);
    succeed(&file, &["enable", "St. Mary"]);
    let refused = run(&file, &["lower-read-lease", "off"]);
    assert!(text(&refused.stderr).contains("a process with a longer read lease runs"));
    one.stop().await;
    other.stop().await;

    assert_eq!(succeed(&file, &["lower-read-lease", "off"]), "No process has a read lease.\n");
    assert_eq!(json_of(&file, &["disable", "St. Mary"]).get("revocation"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_wait_says_so_and_one_that_is_interrupted_too() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--migrate", "--read-lease", "5s"]).await;
    let end = json_of(&url, &["disable", "--no-wait", &server.register("a").await.id]);
    assert_eq!(end["revocation"], json!({ "everywhere": false, "silent": [] }));
    let told = succeed(&url, &["disable", "--no-wait", "a"]);
    assert!(told.contains("may be granted by a process with a read lease"), "{told}");

    let id = server.register("b").await.id;
    let path = format!("/admin/trusts/{id}/rotate");
    let answer = administer_with(&server, &path, ("Prefer", "wait=1, Respond-Async")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json()["revocation"]["everywhere"], json!(false));
    assert!(answer.json()["api_key"].is_string());
    server.until_logged("no process grants the key any more").await;

    // While it waits for a stopped service, the program is interrupted: the new key is not lost.
    server.signal("STOP");
    let mut waiting = program(&url, &["rotate", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let row = format!("SELECT api_key_hash FROM trust WHERE id = '{id}'");
    let former = database.psql(&url, &row);
    let begun = Instant::now();
    while database.psql(&url, &row) == former {
        assert!(begun.elapsed() < PATIENCE && waiting.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    // It reports that it waits after half a second.
    std::thread::sleep(Duration::from_millis(700));
    interrupt(&waiting);
    let output = waiting.wait_with_output().unwrap();
    server.signal("CONT");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("Waiting until no process grants the key"), "{stderr}");
    let named = format!("process {}", server.process_id());
    assert!(stderr.contains("The old key may be granted by "), "{stderr}");
    assert!(stderr.contains(&named) && stderr.contains("did not answer yet"), "{stderr}");
    assert_eq!(server.verify(stdout.trim_end()).await.status, 200, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_time_is_over_names_the_services_that_did_not_answer() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let stopped = Server::on(&url, &["--migrate", "--read-lease", "2m"]).await;
    let server = Server::on(&url, &["--request-timeout", "2500ms"]).await;
    let id = server.register("a").await.id;
    stopped.signal("STOP");
    for step in ["disable", "rotate"] {
        let path = format!("/admin/trusts/{id}/{step}");
        let answer = server.administer("POST", &path, &Value::Null).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let end = answer.json()["revocation"].clone();
        assert_eq!(end["everywhere"], json!(false), "{end}");
        let silent = end["silent"].as_array().unwrap();
        let named = format!("process {}", stopped.process_id());
        assert!(silent.len() == 1 && silent[0].as_str().unwrap().contains(&named), "{end}");
    }
    stopped.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_lease_of_another_version_is_an_error_that_says_what_to_run() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    succeed(&url, &["register", "--name", "a"]);
    succeed(&url, &["migrate", "--read-lease"]);
    database.psql(
        &url,
        "CREATE OR REPLACE FUNCTION trust_auth_barrier(hint bool DEFAULT true) RETURNS text \
         LANGUAGE sql AS 'SELECT ''7 1.5/2/3'''",
    );
    let output = run(&url, &["--json", "disable", "a"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["error"]["kind"], "lease_version", "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the change is committed"), "{message}");
    assert!(message.contains("update all processes, then let the owner"), "{message}");
    succeed(&url, &["migrate", "--read-lease"]);
    succeed(&url, &["disable", "a"]);
}

/// The signal arrives while another transaction has the row, so the commit is made after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_interrupted_before_its_commit_shows_its_new_key() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--migrate", "--read-lease", "5s"]).await;
    let id = server.register("a").await.id;
    for arguments in [&["rotate", &*id] as &[_], &["rotate", "--no-wait", &id]] {
        let mut other = database.connect(&url).await;
        other.execute("BEGIN; SELECT FROM trust FOR UPDATE").await.unwrap();
        let rotating =
            program(&url, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        let waiters = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while database.psql(&url, waiters) == "0" {
            assert!(begun.elapsed() < PATIENCE);
        }
        interrupt(&rotating);
        other.execute("COMMIT").await.unwrap();
        other.close().await.unwrap();
        let output = rotating.wait_with_output().unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {stdout} {stderr}");
        assert!(stderr.contains("The old key may be granted"), "{stderr}");
        assert_eq!(server.verify(stdout.trim_end()).await.status, 200, "{stderr}");
    }
}

/// A service that is stopped, so that each change waits for it, on a server of the test's own.
/// Another service makes changes as a role that can lose its rights.
struct Waited {
    database: PostgresServer,
    url: String,
    role: String,
    role_url: String,
    server: Server,
    _stopped: Server,
}

impl Waited {
    async fn start() -> Option<Self> {
        let database = PostgresServer::start()?;
        let url = database.new_database();
        let stopped = Server::on(&url, &["--migrate", "--read-lease", "2m"]).await;
        let (role, role_url) = database.new_role(&url);
        let grant = format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE \
             ON trust, trust_key, trust_auth_lease, trust_auth_change, trust_auth_holder TO {role}"
        );
        database.psql(&url, &grant);
        let patient = ["--request-timeout", "60s", "--drain-timeout", "70s"];
        let server = Server::on(&role_url, &patient).await;
        stopped.signal("STOP");
        Some(Self { database, url, role, role_url, server, _stopped: stopped })
    }

    fn row(&self, id: &str) -> String {
        let columns = "SELECT api_key_hash, disabled_at FROM trust";
        self.database.psql(&self.url, &format!("{columns} WHERE id = '{id}'"))
    }

    /// Makes a change, and returns when it is committed.
    fn commit<T>(&self, id: &str, change: impl FnOnce() -> T) -> T {
        let former = self.row(id);
        let (waiting, begun) = (change(), Instant::now());
        while self.row(id) == former {
            assert!(begun.elapsed() < PATIENCE, "{}", self.server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        waiting
    }

    /// Starts the program, which waits after its commit.
    fn command(&self, arguments: &[&str], id: &str) -> Child {
        let mut program = program(&self.role_url, &[arguments, &[id]].concat());
        self.commit(id, || program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Sends a request to the admin API, which waits after its commit.
    fn request(&self, step: &str, id: &str) -> JoinHandle<Answer> {
        let (admin, path) = (self.server.admin, format!("/admin/trusts/{id}/{step}"));
        self.commit(id, || {
            tokio::spawn(async move {
                let authorization = format!("Bearer {ADMIN_KEY}");
                ask(admin, "POST", &path, &[("Authorization", &authorization)], "").await
            })
        })
    }

    fn restart(&self) {
        self.database.stop();
        self.database.start_again();
    }
}

/// Returns the exit code and both outputs.
fn ended(program: Child) -> (Option<i32>, String, String) {
    let output = program.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// After a restart of the database, the wait needs a right that the role has lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_whose_wait_fails_shows_its_new_key_and_what_may_be_granted() {
    let Some(waited) = Waited::start().await else { return };
    let server = &waited.server;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        ids.push(server.register(name).await.id);
    }
    let rotate = waited.command(&["rotate"], &ids[0]);
    let rotate_json = waited.command(&["--json", "rotate"], &ids[1]);
    let disable = waited.command(&["disable"], &ids[2]);
    let rotate_request = waited.request("rotate", &ids[3]);
    let disable_request = waited.request("disable", &ids[4]);
    let revoke = format!("REVOKE INSERT ON trust_auth_change FROM {}", waited.role);
    waited.database.psql(&waited.url, &revoke);
    waited.restart();

    let (code, stdout, stderr) = ended(rotate);
    let new_key = stdout.trim_end();
    assert!(new_key.starts_with("tak_") && new_key.len() == 53, "{stdout} {stderr}");
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    assert!(stderr.contains("Keep the key now"), "{stderr}");
    assert!(stderr.contains("error: the rotation may be committed"), "{stderr}");
    assert!(stderr.contains("may grant the old key") && stderr.contains("INSERT"), "{stderr}");
    assert!(!stderr.contains(new_key), "{stderr}");

    let (code, stdout, stderr) = ended(rotate_json);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    assert_eq!(told["revocation"], json!({ "everywhere": false, "silent": [] }));
    assert_eq!(told["error"]["kind"], json!("missing_right"), "{told}");
    assert!(stderr.contains("error: the rotation may be committed"), "{stderr}");

    let (code, stdout, stderr) = ended(disable);
    assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("make the same change again"), "{stderr}");

    let answer = rotate_request.await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json()["revocation"], json!({ "everywhere": false, "silent": [] }));
    assert_eq!(answer.kind(), "missing_right");
    let refused = disable_request.await.unwrap();
    assert_eq!((refused.status, &*refused.kind()), (503, "missing_right"), "{refused:?}");
    assert!(refused.body.contains("make the same change again"), "{refused:?}");
    let rotated = "trust_auth_admin_requests_total{operation=\"rotate\",outcome=\"missing_right\"}";
    assert_eq!(server.metric(rotated).await, 1.0);
    assert!(server.log().contains("the rotation may be committed"), "{}", server.log());

    let keys = [new_key, told["api_key"].as_str().unwrap()].map(str::to_owned);
    let of_the_request = answer.json()["api_key"].as_str().unwrap().to_owned();
    for key in keys.iter().chain([&of_the_request]) {
        let begun = Instant::now();
        // The service connects to the database again.
        while server.verify(key).await.status != 200 {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        }
        assert!(!server.log().contains(key), "{}", server.log());
    }
}

/// The later rotation does not wait, so it replaces the key of the one that waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_a_later_one_has_replaced_at_a_restart_shows_no_key() {
    let Some(waited) = Waited::start().await else { return };
    let server = &waited.server;
    let (a, b) = (server.register("a").await.id, server.register("b").await.id);
    let rotate = waited.command(&["--json", "rotate"], &a);
    let request = waited.request("rotate", &b);
    let later = [&a, &b].map(|id| succeed(&waited.role_url, &["rotate", "--no-wait", id]));
    waited.restart();

    let (code, stdout, stderr) = ended(rotate);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["error"]["kind"]), (Some(1), &json!("superseded")), "{told} {stderr}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("the new key of this one is dead"), "{message}");
    assert_eq!(told.get("api_key"), None, "{told}");
    let answer = request.await.unwrap();
    assert_eq!((answer.status, &*answer.kind()), (409, "superseded"), "{answer:?}");
    assert_eq!(answer.json().get("api_key"), None, "{answer:?}");
    for key in later {
        let begun = Instant::now();
        while server.verify(key.trim_end()).await.status != 200 {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_service_names_each_wait_that_it_cuts_short_and_no_other() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &LEASE).await;
    let mut ids = Vec::new();
    for name in ["waited", "a", "b"] {
        ids.push(server.register(name).await.id);
    }
    let path = format!("/admin/trusts/{}/disable", ids[0]);
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 200);

    let stopped = Server::on(&url, &["--read-lease", "2m"]).await;
    stopped.signal("STOP");
    let mut rotated = Value::Null;
    for (step, id) in [("disable", &ids[1]), ("rotate", &ids[2])] {
        let path = format!("/admin/trusts/{id}/{step}");
        let answer = administer_with(&server, &path, ("Prefer", "respond-async")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        rotated = answer.json();
    }
    let log = server.stop().await;
    let cut = log.lines().filter(|line| line.contains("before the wait of a committed revocation"));
    let cut: Vec<Value> = cut.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cut.len(), 2, "{log}");
    for (line, (step, id, advice)) in cut.iter().zip([
        ("disable", &ids[1], "make the same change again"),
        ("rotate", &ids[2], "Do not rotate again"),
    ]) {
        assert_eq!((&line["level"], &line["operation"]), (&json!("WARN"), &json!(step)), "{line}");
        assert_eq!(line["trust"], json!(id), "{line}");
        assert!(line["waited"].is_string(), "{line}");
        let message = line["message"].as_str().unwrap();
        assert!(message.contains("the length of a lease at most"), "{message}");
        assert!(message.contains(advice), "{message}");
    }
    assert!(!log.contains(rotated["api_key"].as_str().unwrap()), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_is_waited_for_no_longer_than_its_lease_and_grants_nothing_then() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let (one, other) = (Server::on(&url, &LEASE).await, Server::on(&url, &LEASE).await);
    let trust = registered([&one, &other], "St. Mary").await;
    // The first revocation after a start of the database waits for the longest lease.
    succeed(&url, &["disable", &one.register("first").await.id]);
    assert_held(&other, &trust.key).await;
    other.signal("STOP");
    // The log names it after an answer of 202, which came before anything was known of it.
    let path = format!("/admin/trusts/{}/disable", trust.id);
    let answer = administer_with(&one, &path, ("Prefer", "respond-async")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let begun = Instant::now();
    let told = succeed(&url, &["disable", &trust.id]);
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "{told}");
    // The other service may have struck it off a moment before: then no holder is silent.
    assert!(told.contains("is refused everywhere after 2.") || told.contains("after 1."), "{told}");
    if told.contains("did not answer, and its read lease has run out") {
        assert!(told.contains(&format!("process {}", other.process_id())), "{told}");
    }
    one.until_logged("no process grants the key any more").await;
    let log = one.log();
    let line = log.lines().find(|line| line.contains("no process grants the key")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let silent = line["silent"].as_str().unwrap_or_default();
    let names_it = silent.contains(&format!("process {}", other.process_id()));
    assert_eq!(names_it, line["outcome"] == "lease_over", "{line}");
    other.signal("CONT");
    assert_eq!(other.verify(&trust.key).await.status, 401);
    other.until_metric("trust_auth_read_lease_valid", |valid| valid == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_less_than_half_a_lease_is_unnoticed_by_known_keys() {
    let Some(database) = PostgresServer::start() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--migrate", "--read-lease", "8s"]).await;
    let trust = server.register("St. Mary").await;
    server.until_metric("trust_auth_held_trusts", |held| held == 1.0).await;
    let load = Load::start(server.main, 4, &Keys::The(trust.key.clone()));
    for _ in 0..2 {
        let begun = Instant::now();
        database.stop();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        database.start_again();
        let away = begun.elapsed();
        assert!(away < Duration::from_secs(4), "the machine is too slow for this test: {away:?}");
        // A renewal comes every two seconds, and sooner after a failure.
        server.until_metric("trust_auth_read_lease_age_seconds", |age| age < 1.0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let asked = load.finish().await;
    assert!(asked.len() > 100, "{}", asked.len());
    assert_answered(&asked, &[200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_known_keys_are_granted_until_the_lease_runs_out() {
    let Some(database) = PostgresServer::start() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &["--migrate", "--read-lease", "6s"]).await;
    let trust = server.register("St. Mary").await;
    server.until_metric("trust_auth_held_trusts", |held| held == 1.0).await;

    database.stop();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(server.verify(&trust.key).await.status, 200);
    }
    assert_eq!(server.verify("unknown").await.status, 503);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    // A machine that was stopped for seconds may be late for the first probe.
    assert!(ready.status == 200 || begun.elapsed() > Duration::from_secs(3), "{ready:?}");
    assert_ne!(ready.json()["store"], json!("ok"), "{ready:?}");
    server.until_metric("trust_auth_read_lease_lost", |lost| lost == 1.0).await;
    assert_eq!(server.verify(&trust.key).await.status, 503);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["read_lease"]), (503, &json!("lost")));
    server.until_logged("the read lease has run out").await;

    database.start_again();
    server.until_metric("trust_auth_read_lease_valid", |valid| valid == 1.0).await;
    assert_held(&server, &trust.key).await;
    server.until_logged("the read lease is in force again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_that_the_migration_names_are_enough_to_serve_and_to_change() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    assert_eq!(json_of(&url, &["migrate"])["migration"].get("grants"), None);
    let dry = run(&url, &["migrate", "--read-lease", "--dry-run"]);
    assert!(!text(&dry.stdout).contains("GRANT"), "{dry:?}");
    let migration = json_of(&url, &["migrate", "--read-lease"])["migration"].clone();
    let role_with = |what: &str| {
        let (role, role_url) = database.new_role(&url);
        for grant in migration["grants"][what].as_array().unwrap() {
            let grant = grant.as_str().unwrap();
            assert!(text(&dry.stderr).contains(grant), "{dry:?}");
            database.psql(&url, &grant.replace("ROLE", &role));
        }
        role_url
    };
    let (serves, changes) = (role_with("serve"), role_with("change"));

    let holder = Server::on(&serves, &["--read-lease", "2s"]).await;
    let service = Server::on(&changes, &["--read-lease", "2s"]).await;
    for server in [&holder, &service] {
        server.until_metric("trust_auth_read_lease_valid", |valid| valid == 1.0).await;
    }
    let trust = registered([&service, &holder], "a").await;
    assert_held(&holder, &trust.key).await;
    for change in ["disable", "enable", "rotate", "delete"] {
        let end = json_of(&changes, &[change, &trust.id]);
        if change != "enable" {
            assert_eq!(end["revocation"]["everywhere"], json!(true), "{change}: {end}");
            assert_eq!(end["revocation"]["holders"], json!(2), "{change}: {end}");
        }
    }
    let refused = holder.administer("POST", "/admin/trusts", &json!({ "name": "b" })).await;
    assert_eq!((refused.status, &*refused.kind()), (503, "missing_right"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_cannot_be_is_refused_at_the_start_with_what_to_do() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let serve = |arguments: &[&str]| {
        let listen = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
        let output = run(&url, &[&listen, arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stderr)
    };
    assert!(serve(&["--read-lease", "500ms"]).contains("at least 1s on PostgreSQL"));
    assert!(serve(&["--read-lease", "299ms"]).contains("at least 300ms"));
    assert!(serve(&["--read-lease", "6m"]).contains("at most 5m"));
    let told = serve(&["--read-lease", "2s"]);
    assert!(told.contains("trust-auth migrate --read-lease"), "{told}");

    let sql = succeed(&url, &["migrate", "--read-lease", "--dry-run"]);
    assert!(sql.contains("trust_auth_holder"), "{sql}");
    let told = succeed(&url, &["migrate", "--read-lease"]);
    assert!(told.starts_with("Added "), "{told}");
    let nothing = succeed(&url, &["migrate", "--read-lease"]);
    assert!(nothing.starts_with("Nothing to do"), "{nothing}");
    let refused = run(&url, &["lower-read-lease", "off"]);
    assert!(text(&refused.stderr).contains("give a duration"), "{refused:?}");
    Server::on(&url, &["--read-lease", "2s"]).await.stop().await;
    // The database does not know yet whether a lease of its former run is in force: this waits.
    let lowered = succeed(&url, &["lower-read-lease", "1s"]);
    assert_eq!(lowered, "No process has a read lease of more than 1s.\n");
}
