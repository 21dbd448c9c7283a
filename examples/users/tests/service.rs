//! Two processes of the service on ports of their own, over one file of SQLite. Commands of the
//! program, and statements of other programs, change the users.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use tempfile::TempDir;

type Failure = Box<dyn Error>;

/// The longest wait for something that comes within moments.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with the file. Dropped after the services.
struct Database {
    folder: TempDir,
}

struct Service {
    process: Child,
    url: String,
    log: PathBuf,
    /// The key with which the test reads the service's statistics.
    operator: String,
}

impl Database {
    fn new() -> Result<Self, Failure> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("users.db")
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        command.arg(self.file()).args(words);
        command
    }

    /// Runs a command in a process of its own, and returns what it prints.
    fn run(&self, words: &[&str]) -> Result<String, Failure> {
        self.run_with("", words)
    }

    fn run_with(&self, input: &str, words: &[&str]) -> Result<String, Failure> {
        let mut command = self.program(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        process.stdin.take().ok_or("no input")?.write_all(input.as_bytes())?;
        let output = process.wait_with_output()?;
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr)?.into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn register(&self, email: &str, scopes: &[&str]) -> Result<String, Failure> {
        self.run(&[&["register", email, "pro"], scopes].concat())
    }

    /// Opens the file as another program would.
    async fn connect(&self) -> Result<SqliteConnection, Failure> {
        Ok(SqliteConnectOptions::new().filename(self.file()).connect().await?)
    }

    /// Starts two services whose watchers are connected.
    fn services(&self) -> Result<[Service; 2], Failure> {
        let operator = self.register("operator@example.org", &["stats:read"])?;
        Ok([self.service("a.log", &operator)?, self.service("b.log", &operator)?])
    }

    fn service(&self, log: &str, operator: &str) -> Result<Service, Failure> {
        let log = self.folder.path().join(log);
        let mut command = self.program(&["serve", "127.0.0.1:0"]);
        command.stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let process = command.spawn()?;
        let mut service =
            Service { process, log, url: String::new(), operator: operator.to_owned() };
        let mut line = String::new();
        BufReader::new(service.process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").ok_or("it does not listen")?;
        service.url = format!("http://{address}");
        // A watcher that connects later would invalidate what a test has cached.
        service.until(|stats| stats["watch"]["connected"] == true)?;
        Ok(service)
    }
}

impl Service {
    /// Sends a request. Returns the status and the body.
    fn get(&self, path: &str, key: &str) -> Result<(u16, Value), Failure> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE));
        let request = config.build().new_agent().get(format!("{}{path}", self.url));
        let mut response = request.header("X-Api-Key", key).call()?;
        let text = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), serde_json::from_str(&text)?))
    }

    /// Returns the status for a request with this key.
    fn status(&self, key: &str) -> Result<u16, Failure> {
        Ok(self.get("/orders", key)?.0)
    }

    fn stats(&self) -> Result<Value, Failure> {
        let (status, stats) = self.get("/stats", &self.operator)?;
        if status == 200 { Ok(stats) } else { Err(format!("{status}: {stats}").into()) }
    }

    /// Waits until the statistics are as expected, and returns them.
    fn until(&self, is_so: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let begin = Instant::now();
        loop {
            let stats = self.stats()?;
            if is_so(&stats) {
                return Ok(stats);
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("not within {PATIENCE:?}: {stats}").into());
            }
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn invalid() -> (u16, Value) {
    (401, json!({ "detail": "Invalid API Key." }))
}

fn unavailable() -> (u16, Value) {
    (503, json!({ "detail": "Authentication is unavailable; try again." }))
}

/// Returns the key with another character in place of one of its last ones.
fn damaged(key: &str) -> String {
    let (head, tail) = key.split_at(key.len() - 10);
    let other = if tail.starts_with('a') { 'b' } else { 'a' };
    format!("{head}{other}{}", &tail[1..])
}

#[test]
fn a_good_key_has_its_scopes_and_every_other_key_is_refused() -> Result<(), Failure> {
    let database = Database::new()?;
    let services = database.services()?;
    let reader = database.register("mary@example.org", &["orders:read", "a"])?;
    let other = database.register("john@example.org", &["orders:write"])?;
    assert!(reader.starts_with("acme_"), "{}", &reader[..5]);
    for service in &services {
        for _ in 0..2 {
            let attributes = json!({ "plan": "pro", "scopes": ["orders:read", "a"] });
            let orders =
                json!({ "user": "mary@example.org", "attributes": attributes, "orders": [] });
            assert_eq!(service.get("/orders", &reader)?, (200, orders));
            let forbidden = json!({ "error": "missing scope", "scope": "orders:read" });
            assert_eq!(service.get("/orders", &other)?, (403, forbidden));
            assert_eq!(service.get("/stats", &reader)?.0, 403);
        }
        assert_eq!(service.get("/orders", "unknown")?, invalid());
        let scans = service.stats()?["requests"]["scans"].clone();
        assert!(scans.is_u64(), "{scans}");
        assert_eq!(service.get("/orders", &damaged(&reader))?, invalid());
        assert_eq!(service.stats()?["requests"]["scans"], scans, "a damaged key was looked for");
        let log = fs::read_to_string(&service.log)?;
        assert!(!log.contains("acme_"), "a key is in the log");
    }
    Ok(())
}

#[test]
fn g9_a_change_is_final_in_every_process_at_the_next_request() -> Result<(), Failure> {
    let database = Database::new()?;
    let services = database.services()?;
    let key = |email| database.register(email, &["orders:read"]);
    let [rotated, disabled, deleted, stays] =
        [key("rotated@b.c")?, key("disabled@b.c")?, key("deleted@b.c")?, key("stays@b.c")?];
    let all = [&rotated, &disabled, &deleted, &stays];
    let statuses = |service: &Service| {
        all.iter().map(|key| service.status(key)).collect::<Result<Vec<u16>, Failure>>()
    };
    for service in &services {
        assert_eq!(statuses(service)?, [200; 4]);
        assert_eq!(statuses(service)?, [200; 4]);
    }
    let new = database.run(&["rotate", "rotated@b.c"])?;
    for service in &services {
        assert_eq!(statuses(service)?, [401, 200, 200, 200]);
        assert_eq!(service.get("/orders", &new)?.0, 200);
    }
    database.run(&["disable", "disabled@b.c"])?;
    for service in &services {
        assert_eq!(statuses(service)?, [401, 401, 200, 200]);
    }
    database.run(&["delete", "deleted@b.c"])?;
    for service in &services {
        assert_eq!(statuses(service)?, [401, 401, 401, 200]);
    }
    database.run(&["enable", "disabled@b.c"])?;
    for service in &services {
        assert_eq!(statuses(service)?, [401, 200, 401, 200]);
    }
    Ok(())
}

#[tokio::test]
async fn a_scope_that_is_taken_away_is_gone_at_the_next_request() -> Result<(), Failure> {
    let database = Database::new()?;
    let [service, _] = database.services()?;
    let key = database.register("mary@example.org", &["orders:read"])?;
    assert_eq!(service.status(&key)?, 200);
    let mut connection = database.connect().await?;
    connection.execute("UPDATE users SET scopes = '[]' WHERE email LIKE 'mary%'").await?;
    assert_eq!(service.status(&key)?, 403);
    Ok(())
}

/// The tests before this one would pass without the watcher: each grant reads the live row.
#[tokio::test]
async fn the_watcher_evicts_exactly_the_keys_that_another_process_changes() -> Result<(), Failure> {
    let database = Database::new()?;
    let services = database.services()?;
    let key = |email| database.register(email, &["orders:read"]);
    let keys = [key("rotated@b.c")?, key("disabled@b.c")?, key("deleted@b.c")?, key("stays@b.c")?];
    let mut before = Vec::new();
    for service in &services {
        // Registrations were noted as well: they are reported before the entries are made.
        service.until(|stats| stats["watch"]["evicted_keys"] == 4)?;
        for key in &keys {
            assert_eq!(service.status(key)?, 200);
        }
        let stats = service.stats()?;
        assert_eq!(stats["cached"], 5, "{stats}");
        before.push(stats);
    }
    database.run(&["rotate", "rotated@b.c"])?;
    database.run(&["disable", "disabled@b.c"])?;
    let mut connection = database.connect().await?;
    connection.execute("DELETE FROM users WHERE email = 'deleted@b.c'").await?;
    connection.execute("UPDATE users SET plan = 'free', scopes = '[]'").await?;
    connection.execute("UPDATE users SET scopes = '[\"stats:read\", \"orders:read\"]'").await?;
    for (service, before) in services.iter().zip(&before) {
        // The rotation concerns two keys.
        let stats = service.until(|stats| stats["watch"]["evicted_keys"] == 8)?;
        assert_eq!(stats["cached"], 2, "{stats}");
        assert_eq!(stats["watch"]["invalidations"], before["watch"]["invalidations"], "{stats}");
        let scans = stats["requests"]["scans"].clone();
        assert_eq!(service.status(&keys[3])?, 200);
        assert_eq!(service.stats()?["requests"]["scans"], scans, "a key that stays was evicted");
    }
    Ok(())
}

#[tokio::test]
async fn changes_that_the_notes_no_longer_have_invalidate_every_key() -> Result<(), Failure> {
    let database = Database::new()?;
    database.run(&["list"])?;
    let mut connection = database.connect().await?;
    let first = "SELECT count(*) FROM user_key_changes WHERE seq = 0";
    let is_there: bool = sqlx::query_scalar(first).fetch_one(&mut connection).await?;
    assert!(is_there, "the first change would invalidate every key");
    let [service, _] = database.services()?;
    assert_eq!(service.stats()?["watch"]["truncations"], 0);
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
        INSERT INTO users (email, key_digest) SELECT i || '@b.c', randomblob(32) FROM n";
    connection.execute(many).await?;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM user_key_changes")
        .fetch_one(&mut connection)
        .await?;
    assert_eq!(kept, 1000);
    service.until(|stats| stats["watch"]["truncations"] == 1)?;
    connection.execute("DELETE FROM user_key_changes").await?;
    service.until(|stats| stats["watch"]["truncations"] == 2)?;
    // The first note after that has no note before it.
    connection.execute("DELETE FROM users WHERE email = '7@b.c'").await?;
    service.until(|stats| stats["watch"]["truncations"] == 3)?;
    connection.execute("DELETE FROM users WHERE email = '8@b.c'").await?;
    let stats = service.until(|stats| stats["watch"]["evicted_keys"] == 1)?;
    assert_eq!(stats["watch"]["truncations"], 3, "{stats}");
    Ok(())
}

#[tokio::test]
async fn a_locked_database_refuses_every_key_until_it_answers() -> Result<(), Failure> {
    let database = Database::new()?;
    let [service, _] = database.services()?;
    let key = database.register("mary@example.org", &["orders:read"])?;
    assert_eq!(service.status(&key)?, 200);

    let mut connection = database.connect().await?;
    connection.execute("BEGIN EXCLUSIVE").await?;
    for key in [&*key, "unknown"] {
        assert_eq!(service.get("/orders", key)?, unavailable());
    }
    // By the time-out of the store: SQLite waits longer.
    let log = fs::read_to_string(&service.log)?;
    assert!(log.contains("the database did not answer within 2s"), "{log}");
    assert_eq!(service.get("/orders", &damaged(&key))?, invalid());
    connection.execute("COMMIT").await?;
    connection.close().await?;
    assert_eq!(service.status(&key)?, 200);
    assert_eq!(service.get("/orders", "unknown")?, invalid());
    // Its connection was lost, or it has waited for the lock. It follows the changes again.
    service.until(|stats| stats["watch"]["connected"] == true)?;
    let evicted = service.stats()?["watch"]["evicted_keys"].as_u64();
    database.run(&["disable", "mary@example.org"])?;
    service.until(|stats| stats["watch"]["evicted_keys"].as_u64() > evicted)?;
    assert_eq!(service.status(&key)?, 401);
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_gone_refuses_every_key_until_it_is_back() -> Result<(), Failure> {
    let database = Database::new()?;
    let [service, _] = database.services()?;
    let key = database.register("mary@example.org", &["orders:read"])?;
    assert_eq!(service.status(&key)?, 200);
    let mut connection = database.connect().await?;
    // With the first, the digests can be read, and the users cannot.
    for (gone, back) in [
        ("ALTER TABLE users RENAME email TO name", "ALTER TABLE users RENAME name TO email"),
        ("ALTER TABLE users RENAME TO away", "ALTER TABLE away RENAME TO users"),
    ] {
        connection.execute(gone).await?;
        assert_eq!(service.get("/orders", &key)?, unavailable());
        connection.execute(back).await?;
        assert_eq!(service.status(&key)?, 200);
    }
    let log = fs::read_to_string(&service.log)?;
    assert!(log.contains("no such column"), "{log}");
    connection.close().await?;

    // To unlink the file would not do: the service has it open.
    let bytes = fs::read(database.file())?;
    fs::write(database.file(), "")?;
    for key in [&*key, "unknown"] {
        assert_eq!(service.get("/orders", key)?, unavailable());
    }
    fs::write(database.file(), bytes)?;
    // SQLite promises nothing for a file that is overwritten while it is open, so a new process.
    assert_eq!(database.service("c.log", &service.operator)?.status(&key)?, 200);
    Ok(())
}

#[tokio::test]
async fn the_registry_keeps_its_rules_on_a_table_of_the_services_own() -> Result<(), Failure> {
    let database = Database::new()?;
    database.register("b@b.c", &["orders:read"])?;
    database.register("a@b.c", &[])?;
    let error = |words: &[&str]| database.run(words).unwrap_err().to_string();
    assert!(error(&["register", "a@b.c", "pro"]).contains("is taken"));
    for command in ["rotate", "disable", "enable", "delete"] {
        assert!(error(&[command, "c@b.c"]).contains("there is no trust"), "{command}");
        let id = "00000000-0000-0000-0001-000000000001";
        assert!(error(&[command, id]).contains("there is no trust"), "{command}");
    }
    let listed =
        || -> Result<Vec<Value>, Failure> { Ok(serde_json::from_str(&database.run(&["list"])?)?) };
    database.run(&["disable", "00000000-0000-0000-0000-000000000001"])?;
    let users = listed()?;
    let names: Vec<&Value> = users.iter().map(|user| &user["name"]).collect();
    assert_eq!(names, ["a@b.c", "b@b.c"]);
    assert_eq!(users[1]["attributes"], json!({ "plan": "pro", "scopes": ["orders:read"] }));
    assert!(users[0]["disabled_at"].is_null() && users[1]["disabled_at"].is_string());

    // A second deactivation keeps the time of the first.
    let mut connection = database.connect().await?;
    connection.execute("UPDATE users SET deactivated_at = 7 WHERE id = 1").await?;
    database.run(&["disable", "b@b.c"])?;
    assert_eq!(listed()?[1]["disabled_at"], "1970-01-01T00:00:07Z");

    // A change that another program prevents is not reported as made.
    let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON users BEGIN SELECT RAISE(IGNORE); END";
    connection.execute(refuse).await?;
    assert!(error(&["delete", "a@b.c"]).contains("a trigger"));
    connection.execute("DROP TRIGGER refuse").await?;

    // An address is found in the form in which it is stored, and before that as it was given.
    database.register("zo\u{eb}@b.c", &[])?;
    database.run(&["disable", "zoe\u{308}@b.c"])?;
    connection.execute("INSERT INTO users (email) VALUES ('zoe\u{308}@b.c')").await?;
    database.run(&["delete", "zoe\u{308}@b.c"])?;
    let users = listed()?;
    assert_eq!(users.len(), 3);
    assert!(users[2]["name"] == "zo\u{eb}@b.c" && users[2]["disabled_at"].is_string());
    Ok(())
}

#[test]
fn rotations_at_the_same_time_leave_one_good_key() -> Result<(), Failure> {
    let database = Database::new()?;
    let [service, _] = database.services()?;
    let mut keys = vec![database.register("mary@example.org", &["orders:read"])?];
    for _ in 0..5 {
        let start = |_| {
            let mut command = database.program(&["rotate", "mary@example.org"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        };
        let rotations: Vec<Child> = (0..4).map(start).collect::<Result<_, _>>()?;
        for rotation in rotations {
            let output = rotation.wait_with_output()?;
            let error = String::from_utf8(output.stderr)?;
            // A slow disk may let one wait for too long. None gives up for the lock of another.
            assert!(output.status.success() || error.contains("did not answer"), "{error}");
            keys.push(String::from_utf8(output.stdout)?.trim().to_owned());
        }
    }
    keys.push(database.run(&["rotate", "mary@example.org"])?);
    let statuses: Vec<u16> =
        keys.iter().map(|key| service.status(key)).collect::<Result<_, _>>()?;
    let (last, others) = statuses.split_last().ok_or("no key")?;
    assert_eq!((*last, others), (200, &[401; 21][..]));
    Ok(())
}

#[test]
fn a_key_that_exists_is_brought_along_unless_a_user_has_it() -> Result<(), Failure> {
    let database = Database::new()?;
    let [service, _] = database.services()?;
    let key = "7fd1a62b3c9e4d508f6ab1c2d3e4f5a6";
    database.run_with(key, &["import", "mary@example.org", "pro", "orders:read"])?;
    assert_eq!(service.status(key)?, 200);
    database.run(&["disable", "mary@example.org"])?;
    let import = ["import", "john@example.org", "pro", "orders:read"];
    let error = database.run_with(key, &import).unwrap_err().to_string();
    assert!(error.contains("has this API key already"), "{error}");
    let damaged = damaged(&database.register("a@b.c", &[])?);
    assert!(database.run_with(&damaged, &import).is_err());
    assert_eq!(service.status(key)?, 401);
    Ok(())
}

/// So no store has to expect such rows.
#[tokio::test]
async fn the_table_takes_no_malformed_row() -> Result<(), Failure> {
    let database = Database::new()?;
    database.register("a@b.c", &[])?;
    let mut connection = database.connect().await?;
    for column in ["key_digest = x'00'", "key_digest = 'text'", "scopes = '['", "email = NULL"] {
        let sql = sqlx::AssertSqlSafe(format!("UPDATE users SET {column}"));
        assert!(sqlx::raw_sql(sql).execute(&mut connection).await.is_err(), "{column}");
    }
    connection.execute("UPDATE users SET key_digest = NULL").await?;
    Ok(())
}
