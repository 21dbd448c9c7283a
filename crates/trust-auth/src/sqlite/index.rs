//! The indexes on the digests: found rows, the check that SQLite uses them, and their making.
//! Nothing but `find` compares a column of digests with a value, so no other statement can use the
//! indexes to look a digest up.

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
use crate::table_names::TableNames;

/// Not unique: two rows may have one digest, of which the later one counts. A unique index could
/// not be made on such a table, and would make writes of other programs fail.
const INDEXES: [Index; 2] = [
    Index {
        name: "{own:trust_api_key_hash}",
        sql: "CREATE INDEX {own:trust_api_key_hash} ON {trust_table} ({api_key_hash});",
        search: ("SEARCH trust USING ", "({api_key_hash}=?"),
    },
    Index {
        name: "{own:trust_key_digest}",
        sql: "CREATE INDEX {own:trust_key_digest} ON {trust_key_table} (digest);",
        search: ("SEARCH trust_key USING ", "(digest=?"),
    },
];

/// An index, and how the plan of a statement that uses it begins and goes on. All are templates.
struct Index {
    name: &'static str,
    sql: &'static str,
    search: (&'static str, &'static str),
}

/// Selects the row that was made last of those with the digest: of the keys, whose digests are in
/// lower case, and otherwise of the trusts, in lower and in upper case. The `+` keeps SQLite from
/// reading all rows in the order of their ids instead.
pub(super) const FIND: &str = concat!(
    "SELECT coalesce((SELECT trust FROM {trust_key} WHERE digest = ?1 AND ",
    row::is_active!(),
    " AND EXISTS (SELECT 1 FROM {trust} WHERE trust.id = trust_key.trust \
     AND disabled_at IS NULL) ORDER BY +rowid DESC LIMIT 1), \
     (SELECT id FROM {trust} WHERE api_key_hash IN (?1, ?2) AND disabled_at IS NULL \
     ORDER BY +rowid DESC LIMIT 1))"
);

impl SqliteStore {
    /// Checks that [`find`](crate::TrustStore::find) uses an index. Call it once, before
    /// [`FindBy::Index`](crate::FindBy::Index). Without an index, a find reads all rows.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoIndex`], with the SQL that makes one, or any other [`StoreError`].
    pub async fn check_index(&self) -> Result<(), StoreError> {
        let plan = self.within(async {
            let mut reader =
                self.readers.pool.acquire().await.map_err(|error| self.failed(error))?;
            plan_on(&mut reader, &self.statements.names).await.map_err(|error| self.failed(error))
        });
        let plan = plan.await?;
        if plan.is_empty() {
            return Ok(());
        }
        let sql = plan.to_string().trim_end().to_owned();
        Err(StoreError::NoIndex { path: self.path().into(), sql })
    }

    pub(super) async fn find_by_index(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        let lower = hash.to_hex();
        let upper = lower.to_uppercase();
        self.within(async {
            let found = sqlx::query(self.statements.find.clone())
                .bind(lower)
                .bind(upper)
                .fetch_optional(&self.readers.pool)
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
    names: &TableNames,
) -> Result<MigrationPlan, StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path, names))?;
    let planned = plan_on(&mut connection, names).await;
    let closed = connection.close().await;
    let planned = planned.map_err(|error| failed(error, path, names))?;
    closed.map_err(|error| failed(error, path, names))?;
    Ok(planned)
}

/// Makes the index unless there is one. Returns what was done. Of two processes, one waits for the
/// other, and plans again.
pub(super) async fn make(
    options: &SqliteConnectOptions,
    path: &Path,
    names: &TableNames,
) -> Result<MigrationPlan, StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path, names))?;
    let made = async {
        if plan_on(&mut connection, names).await?.is_empty() {
            return Ok(MigrationPlan::default());
        }
        // IMMEDIATE: another process cannot make an index between the plan and its steps.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let plan = plan_on(&mut transaction, names).await?;
        for step in plan.steps() {
            // Safe: the texts are those of `INDEXES`.
            sqlx::raw_sql(AssertSqlSafe(step.clone())).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(plan)
    };
    let made = made.await;
    let closed = connection.close().await;
    let made = made.map_err(|error| failed(error, path, names))?;
    closed.map_err(|error| failed(error, path, names))?;
    Ok(made)
}

async fn plan_on(
    connection: &mut SqliteConnection,
    names: &TableNames,
) -> Result<MigrationPlan, sqlx::Error> {
    let plan = plan_of_find(connection, names).await?;
    let filled = |template| names.for_sqlite(template).as_str().to_owned();
    // A plan quotes no name, and spells a column as its declaration does.
    let unquoted = |template| filled(template).replace('"', "");
    let uses = |index: &&Index| {
        let (start, column) = index.search;
        let column = unquoted(column).to_ascii_lowercase();
        let names_it = |step: &str| step.to_ascii_lowercase().contains(&column);
        plan.iter().any(|step| step.starts_with(start) && names_it(step))
    };
    let lacking = || INDEXES.iter().filter(|index| !uses(index));
    let missing = lacking().map(|index| format!("the index `{}`", unquoted(index.name))).collect();
    Ok(MigrationPlan::new(missing, lacking().map(|index| filled(index.sql)).collect()))
}

/// Returns the steps by which SQLite finds a digest. They are empty if there are no tables.
async fn plan_of_find(
    connection: &mut SqliteConnection,
    names: &TableNames,
) -> Result<Vec<String>, sqlx::Error> {
    // Making a plan reads no file, so a connection would not notice an index that another one has
    // made. This read does.
    let has_tables: bool = sqlx::query_scalar(
        "SELECT count(*) = 2 FROM sqlite_schema \
         WHERE type = 'table' AND name COLLATE NOCASE IN (?1, ?2)",
    )
    .bind(names.trust().to_owned())
    .bind(names.trust_key().to_owned())
    .fetch_one(&mut *connection)
    .await?;
    if !has_tables {
        return Ok(Vec::new());
    }
    let explain = names.for_sqlite(&format!("EXPLAIN QUERY PLAN {FIND}"));
    let plan = sqlx::query(explain).persistent(false).fetch_all(connection).await?;
    Ok(plan.iter().filter_map(|step| step.try_get("detail").ok()).collect())
}
