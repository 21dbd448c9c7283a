//! The service as a process of its own, on a port, over a file of SQLite that the tests change.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use trust_auth::KeyHash;

type Failure = Box<dyn Error>;

struct Service {
    folder: TempDir,
    process: Child,
    url: String,
}

impl Service {
    fn start() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_other-stack"));
        command.arg(folder.path().join("accounts.db")).arg("127.0.0.1:0");
        command.stdout(Stdio::piped()).stderr(fs::File::create(folder.path().join("log"))?);
        let mut service = Self { process: command.spawn()?, folder, url: String::new() };
        let mut line = String::new();
        BufReader::new(service.process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").ok_or("it does not listen")?;
        service.url = format!("http://{address}/");
        Ok(service)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("accounts.db")
    }

    fn log(&self) -> Result<String, Failure> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Opens the database as another process of the service would.
    async fn database(&self) -> Result<SqliteConnection, Failure> {
        Ok(SqliteConnectOptions::new().filename(self.file()).connect().await?)
    }

    /// Sends a request. Returns the status and the body.
    fn ask(&self, key: Option<&str>) -> Result<(u16, String), Failure> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)));
        let mut request = config.build().new_agent().get(&self.url);
        if let Some(key) = key {
            request = request.header("X-Api-Key", key);
        }
        let mut response = request.call()?;
        let text = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), text))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn add(database: &mut SqliteConnection, id: i64, key: &str) -> Result<(), Failure> {
    sqlx::query("INSERT INTO accounts (id, label, key_sha256) VALUES (?, 'St. Mary', ?)")
        .bind(id)
        .bind(&KeyHash::of(key).to_bytes()[..])
        .execute(database)
        .await?;
    Ok(())
}

fn refused(status: u16, detail: &str) -> (u16, String) {
    (status, format!(r#"{{"detail":"{detail}"}}"#))
}

const UNAVAILABLE: &str = "Authentication is unavailable; try again.";

#[tokio::test]
async fn a_good_key_is_granted_and_the_log_has_no_key() -> Result<(), Failure> {
    let service = Service::start()?;
    add(&mut service.database().await?, -7, "key-of-seven").await?;
    for _ in 0..2 {
        let greeting = "Hello, St. Mary (account -7).".to_owned();
        assert_eq!(service.ask(Some("key-of-seven"))?, (200, greeting));
    }
    assert_eq!(service.ask(Some("unknown-key"))?, refused(401, "Invalid API Key."));
    assert_eq!(service.ask(None)?, refused(401, "Not authenticated: API key is missing."));

    let log = service.log()?;
    // The outer trace has each of the four requests, and the inner trace those that are granted.
    assert_eq!(log.matches("started processing request").count(), 4 + 2, "{log}");
    assert!(log.contains("Sensitive"), "{log}");
    assert!(!log.contains("key-of-seven") && !log.contains("unknown-key"), "{log}");
    Ok(())
}

#[tokio::test]
async fn g9_a_key_that_another_process_revokes_is_refused_at_once() -> Result<(), Failure> {
    let service = Service::start()?;
    let mut database = service.database().await?;
    add(&mut database, 1, "revoked").await?;
    add(&mut database, 2, "deleted").await?;
    add(&mut database, 3, "stays").await?;
    for key in ["revoked", "deleted", "stays"] {
        assert_eq!(service.ask(Some(key))?.0, 200);
    }
    database.execute("UPDATE accounts SET revoked_at = unixepoch() WHERE id = 1").await?;
    assert_eq!(service.ask(Some("revoked"))?, refused(401, "Invalid API Key."));
    database.execute("DELETE FROM accounts WHERE id = 2").await?;
    assert_eq!(service.ask(Some("deleted"))?, refused(401, "Invalid API Key."));
    assert_eq!(service.ask(Some("stays"))?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_locked_database_refuses_every_key_until_it_answers() -> Result<(), Failure> {
    let service = Service::start()?;
    let mut database = service.database().await?;
    add(&mut database, 1, "cached").await?;
    assert_eq!(service.ask(Some("cached"))?.0, 200);

    database.execute("BEGIN EXCLUSIVE").await?;
    for key in ["cached", "unknown"] {
        assert_eq!(service.ask(Some(key))?, refused(503, UNAVAILABLE));
    }
    // By the time-out of the store: SQLite waits five times as long.
    let log = service.log()?;
    assert!(log.contains("the database did not answer within 1s"), "{log}");
    database.execute("COMMIT").await?;
    assert_eq!(service.ask(Some("cached"))?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_gone_refuses_every_key() -> Result<(), Failure> {
    let service = Service::start()?;
    let mut database = service.database().await?;
    add(&mut database, 1, "cached").await?;
    database.close().await?;
    assert_eq!(service.ask(Some("cached"))?.0, 200);

    // To unlink the file would not do: the service has it open.
    fs::write(service.file(), "")?;
    for key in ["cached", "unknown"] {
        assert_eq!(service.ask(Some(key))?, refused(503, UNAVAILABLE));
    }
    Ok(())
}

/// The digests can be read, and the accounts cannot. That is not a refusal of the key.
#[tokio::test]
async fn an_account_that_cannot_be_read_is_not_taken_for_a_missing_one() -> Result<(), Failure> {
    let service = Service::start()?;
    let mut database = service.database().await?;
    add(&mut database, 1, "key").await?;
    database.execute("ALTER TABLE accounts RENAME COLUMN label TO name").await?;
    assert_eq!(service.ask(Some("key"))?, refused(503, UNAVAILABLE));
    let log = service.log()?;
    assert!(log.contains("the store failed") && log.contains("no such column"), "{log}");
    assert_eq!(service.ask(Some("unknown"))?, refused(401, "Invalid API Key."));
    Ok(())
}
