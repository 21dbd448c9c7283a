//! The index on the digests: found rows, the check that SQLite uses the index, and its making.
//! Nothing but `find` compares the column of digests with a value, so no other statement can use
//! the index to look a digest up.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::failed;
use super::row;
use super::store::SqliteStore;
use crate::error::StoreError;
use crate::migration::MigrationPlan;

/// Not unique: two rows may have one digest, of which the later one counts. A unique index could
/// not be made on such a table, and would make writes of other programs fail.
const CREATE: &str = "CREATE INDEX trust_api_key_hash ON trust (api_key_hash);";

/// Selects the row that was made last of those with the digest, in lower and in upper case. The `+`
/// keeps SQLite from reading all rows in the order of their ids instead.
macro_rules! find {
    () => {
        "SELECT id FROM trust WHERE api_key_hash IN (?1, ?2) AND disabled_at IS NULL \
         ORDER BY +rowid DESC LIMIT 1"
    };
}

impl SqliteStore {
    /// Checks that [`find`](crate::TrustStore::find) uses an index. Call it once, before
    /// [`FindBy::Index`](crate::FindBy::Index). Without an index, a find reads all rows.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoIndex`], with the SQL that makes one, or any other [`StoreError`].
    pub async fn check_index(&self) -> Result<(), StoreError> {
        let uses_index = self.within(async {
            let mut reader = self.readers.acquire().await.map_err(|error| self.failed(error))?;
            uses_index(&mut reader).await.map_err(|error| self.failed(error))
        });
        if uses_index.await? {
            return Ok(());
        }
        Err(StoreError::NoIndex { path: self.path().into(), sql: CREATE.into() })
    }

    pub(super) async fn find_by_index(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        let lower = hash.to_hex();
        let upper = lower.to_uppercase();
        self.within(async {
            let found = sqlx::query(find!())
                .bind(lower)
                .bind(upper)
                .fetch_optional(&self.readers)
                .await
                .map_err(|error| self.failed(error))?;
            // Every statement finds a row by its id, so a malformed id is that of no row. The list
            // names it.
            Ok(found.as_ref().and_then(row::id))
        })
        .await
    }
}

/// Returns what making the index would do.
pub(super) async fn plan(
    options: &SqliteConnectOptions,
    path: &Path,
) -> Result<MigrationPlan, StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path))?;
    let planned = plan_on(&mut connection).await;
    let closed = connection.close().await;
    let planned = planned.map_err(|error| failed(error, path))?;
    closed.map_err(|error| failed(error, path))?;
    Ok(planned)
}

/// Makes the index unless there is one. Returns what was done.
pub(super) async fn make(
    options: &SqliteConnectOptions,
    path: &Path,
) -> Result<MigrationPlan, StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path))?;
    let made = async {
        let plan = plan_on(&mut connection).await?;
        for step in plan.steps() {
            // Safe: the text is `CREATE`.
            sqlx::raw_sql(AssertSqlSafe(step.clone())).execute(&mut connection).await?;
        }
        Ok(plan)
    };
    let made = made.await;
    let closed = connection.close().await;
    let made = made.map_err(|error| failed(error, path))?;
    closed.map_err(|error| failed(error, path))?;
    Ok(made)
}

async fn plan_on(connection: &mut SqliteConnection) -> Result<MigrationPlan, sqlx::Error> {
    if uses_index(connection).await? {
        return Ok(MigrationPlan::default());
    }
    let missing = vec!["the index `trust_api_key_hash`".to_owned()];
    Ok(MigrationPlan::new(missing, vec![CREATE.to_owned()]))
}

/// Returns whether SQLite finds a digest by an index: its plan has the column as the key of a
/// search.
async fn uses_index(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Making a plan reads no file, so a connection would not notice an index that another one has
    // made. This read does.
    let has_table: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'trust')")
            .fetch_one(&mut *connection)
            .await?;
    if !has_table {
        return Ok(false);
    }
    let explain = sqlx::query(concat!("EXPLAIN QUERY PLAN ", find!())).persistent(false);
    let plan = explain.fetch_all(connection).await?;
    Ok(plan.iter().any(|step| {
        step.try_get::<String, _>("detail").is_ok_and(|detail| {
            detail.starts_with("SEARCH trust USING ") && detail.contains("(api_key_hash=?")
        })
    }))
}
