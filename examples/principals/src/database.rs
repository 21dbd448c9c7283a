//! The tables of the service, in SQLite. With PostgreSQL, `statement_timeout` takes the place of
//! SQLite's `busy_timeout`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use trust_key_cache::KeyHash;

/// After so long, SQLite no longer waits for the lock of another writer, and the statement fails.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// After so long, the service no longer waits for the answer to a change. The change may still be
/// committed.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

const SCHEMA: &str = "
    CREATE TABLE users (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, disabled INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE organizations (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE memberships (
        user_id INTEGER NOT NULL REFERENCES users,
        organization_id INTEGER NOT NULL REFERENCES organizations,
        role TEXT NOT NULL,
        PRIMARY KEY (user_id, organization_id)
    );
    CREATE TABLE api_keys (
        id INTEGER PRIMARY KEY,
        key_hash BLOB NOT NULL UNIQUE,
        user_id INTEGER NOT NULL,
        organization_id INTEGER NOT NULL
    );
    INSERT INTO users (id, name) VALUES (1, 'Ada'), (2, 'Grace');
    INSERT INTO organizations VALUES (1, 'St. Mary');
    INSERT INTO memberships VALUES (1, 1, 'nurse'), (2, 1, 'physician');
";

/// A principal: what a handler needs to know of the user of a key.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) organization: String,
    pub(crate) role: String,
}

/// The service receives no answer, or an error. Callers that share a load share its error, so the
/// error is `Clone`.
#[derive(Clone, Debug)]
pub(crate) enum DatabaseError {
    Failed(Arc<sqlx::Error>),
    /// Whether a change was committed is unknown.
    NoAnswer,
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::NoAnswer => f.write_str("no answer; the change may be committed or not"),
        }
    }
}

impl std::error::Error for DatabaseError {}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(Arc::new(error))
    }
}

#[derive(Clone)]
pub(crate) struct Database {
    pool: SqlitePool,
}

impl Database {
    /// Makes the tables in a new file.
    pub(crate) async fn create(file: &Path) -> Result<Self, DatabaseError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The file is thrown away. Keep the default, `Full`, for your own.
            .synchronous(SqliteSynchronous::Off)
            .busy_timeout(STATEMENT_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool })
    }

    /// Reads the user of a key from four tables.
    ///
    /// One transaction: the four reads see one state of the database. The cache's lease was taken
    /// before the first read, so it covers all of them.
    pub(crate) async fn user_of(&self, hash: &KeyHash) -> Result<Option<Arc<User>>, DatabaseError> {
        let mut reads = self.pool.begin().await?;
        let key = "SELECT user_id, organization_id FROM api_keys WHERE key_hash = ?";
        let key = sqlx::query_as(key).bind(hash.to_bytes().to_vec()).fetch_optional(&mut *reads);
        let Some((id, organization_id)): Option<(i64, i64)> = key.await? else {
            return Ok(None);
        };
        let user = "SELECT name FROM users WHERE id = ? AND NOT disabled";
        let user = sqlx::query_scalar(user).bind(id).fetch_optional(&mut *reads).await?;
        let organization = "SELECT name FROM organizations WHERE id = ?";
        let organization = sqlx::query_scalar(organization).bind(organization_id);
        let organization = organization.fetch_optional(&mut *reads).await?;
        let role = "SELECT role FROM memberships WHERE user_id = ? AND organization_id = ?";
        let role = sqlx::query_scalar(role).bind(id).bind(organization_id);
        let role = role.fetch_optional(&mut *reads).await?;
        Ok(match (user, organization, role) {
            (Some(name), Some(organization), Some(role)) => {
                Some(Arc::new(User { id, name, organization, role }))
            }
            _ => None,
        })
    }

    /// Returns the hash of a key, if a key has this id.
    pub(crate) async fn hash_of(&self, key_id: i64) -> Result<Option<KeyHash>, DatabaseError> {
        let hash = sqlx::query_scalar("SELECT key_hash FROM api_keys WHERE id = ?");
        let hash: Option<Vec<u8>> = hash.bind(key_id).fetch_optional(&self.pool).await?;
        hash.map(to_hash).transpose()
    }

    /// Deletes a key, and returns its hash. The statement is a transaction of its own, and is
    /// committed when this function returns `Ok`.
    pub(crate) async fn delete_key(&self, key_id: i64) -> Result<Option<KeyHash>, DatabaseError> {
        let delete = sqlx::query_scalar("DELETE FROM api_keys WHERE id = ? RETURNING key_hash");
        let delete = delete.bind(key_id).fetch_all(&self.pool);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, delete).await;
        let hashes: Vec<Vec<u8>> = answer.map_err(|_| DatabaseError::NoAnswer)??;
        hashes.into_iter().next().map(to_hash).transpose()
    }

    /// Returns whether there is such a user.
    pub(crate) async fn disable_user(&self, id: i64) -> Result<bool, DatabaseError> {
        let disable = sqlx::query("UPDATE users SET disabled = 1 WHERE id = ?").bind(id);
        Ok(disable.execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Adds a key to a user of the organization, and returns the key's id.
    pub(crate) async fn add_key(&self, key: &str, user_id: i64) -> Result<i64, DatabaseError> {
        let add = "INSERT INTO api_keys (key_hash, user_id, organization_id) VALUES (?, ?, 1)";
        let add = sqlx::query(add).bind(KeyHash::of(key).to_bytes().to_vec()).bind(user_id);
        Ok(add.execute(&self.pool).await?.last_insert_rowid())
    }

    /// Keeps all writers waiting until the result is dropped.
    pub(crate) async fn lock(&self) -> Result<impl Send, DatabaseError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

fn to_hash(column: Vec<u8>) -> Result<KeyHash, DatabaseError> {
    let hash = KeyHash::try_from(&column[..]);
    hash.map_err(|error| sqlx::Error::Decode(error.into()).into())
}
