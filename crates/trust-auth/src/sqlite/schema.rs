//! The tables: checked whenever the file is opened, made in an empty file, and changed by a
//! migration alone. They are never made in a file with another program's tables.

use std::path::Path;
use std::time::Duration;

use data_encoding::HEXUPPER;
use sqlx::migrate::{Migration, MigrationType};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr, SqliteConnection};

use super::failure::failed;
use crate::error::StoreError;
use crate::migration::{MigrationPlan, Permission, missing_column};

/// Every migration, oldest first. A released migration must not change: databases contain its
/// checksum.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "trust", include_str!("../../migrations/sqlite/0001_trust.sql")),
    (LEASE, "lease", include_str!("../../migrations/sqlite/0002_lease.sql")),
    (3, "trust_key", include_str!("../../migrations/sqlite/0003_trust_key.sql")),
];

/// The migration that only holders of a read lease need. A file without its table has no holder.
const LEASE: i64 = 2;

/// The table of the migrations that were run, in a file of this program. The name and the columns
/// are those of sqlx, so that the tool of sqlx can read the table.
const RECORD: &str = "_sqlx_migrations";

/// The same in a file of an application, which may have migrations of sqlx of its own.
const SHARED_RECORD: &str = "_trust_auth_migrations";

/// The columns of that table.
const RECORD_COLUMNS: &str = "\
(
    version        BIGINT PRIMARY KEY,
    description    TEXT NOT NULL,
    installed_on   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success        BOOLEAN NOT NULL,
    checksum       BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);";

/// The columns: each with whether a migration can add it.
const WANTED: [(&str, bool); 9] = [
    ("id", false),
    ("name", false),
    ("code", true),
    ("region", true),
    ("api_key_hash", false),
    ("created_at", false),
    ("last_heartbeat", true),
    ("disabled_at", true),
    ("attributes", true),
];

/// The wanted columns that no migration file makes. A new table gets them as an older one does.
const ADDED: [&str; 1] = ["attributes"];

/// The pause before the next attempt to change the journal mode. SQLite's busy timeout does not
/// apply to that statement.
const JOURNAL_RETRY: Duration = Duration::from_millis(10);

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This program's: in a file with other tables alone, no table is made.
    Program,
    /// An application's: the tables are made next to its own.
    Application,
}

/// Opens the database at `path`: checks it, and changes what is permitted. Also puts the file into
/// WAL mode, if it may make or migrate the tables. Makes the file if `options` permits it.
///
/// # Errors
///
/// Any [`StoreError`] if the tables cannot be used.
pub(super) async fn open(
    options: &SqliteConnectOptions,
    path: &Path,
    owner: Owner,
    may: Permission,
) -> Result<(), StoreError> {
    on_connection(options, path, async |connection| open_on(connection, path, owner, may).await)
        .await
}

/// Returns what a migration would do.
pub(super) async fn plan(
    options: &SqliteConnectOptions,
    path: &Path,
    owner: Owner,
) -> Result<MigrationPlan, StoreError> {
    on_connection(options, path, async |connection| {
        Ok(plan_for(&read(connection, path, owner).await?))
    })
    .await
}

/// Adds what is missing, in one transaction. Returns what was done.
pub(super) async fn migrate(
    options: &SqliteConnectOptions,
    path: &Path,
    owner: Owner,
) -> Result<MigrationPlan, StoreError> {
    on_connection(options, path, async |connection| {
        migrate_on(connection, path, owner, Scope::Everything).await
    })
    .await
}

async fn on_connection<T>(
    options: &SqliteConnectOptions,
    path: &Path,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path))?;
    let outcome = work(&mut connection).await;
    let closed = connection.close().await;
    let outcome = outcome?;
    closed.map_err(|error| failed(error, path))?;
    Ok(outcome)
}

/// What the file contains: this program's tables, or nothing.
struct Found {
    is_new: bool,
    /// The table of the migrations that were run.
    record: &'static str,
    is_wal: bool,
    /// The indexes of the migrations that were not run.
    pending: Vec<usize>,
    /// The columns that are missing and can be added.
    lacks: Vec<&'static str>,
}

/// How much a migration may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Everything,
    /// Makes the tables where there are none.
    NewTables,
}

async fn open_on(
    connection: &mut SqliteConnection,
    path: &Path,
    owner: Owner,
    may: Permission,
) -> Result<(), StoreError> {
    let mut found = read(connection, path, owner).await?;
    if found.is_new && !may.create && !may.migrate {
        return Err(schema(
            path,
            "it is empty; register a trust or set `create_if_missing(true)`, which make the \
             tables, or choose another file",
        ));
    }
    if found.is_new || may.migrate {
        let scope = if may.migrate { Scope::Everything } else { Scope::NewTables };
        migrate_on(connection, path, owner, scope).await?;
        found = read(connection, path, owner).await?;
    }
    found.pending.retain(|&index| MIGRATIONS[index].0 != LEASE);
    let missing = missing_from(&found);
    if !missing.is_empty() {
        return Err(StoreError::NotMigrated { path: path.into(), missing });
    }
    if may.create && !found.is_wal {
        use_wal(connection, path).await?;
    }
    Ok(())
}

/// Reads what the file contains.
///
/// # Errors
///
/// Any [`StoreError`] if no addition can make the tables usable.
async fn read(
    connection: &mut SqliteConnection,
    path: &Path,
    owner: Owner,
) -> Result<Found, StoreError> {
    let wrong = |error| failed(error, path);
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT CASE type WHEN 'table' THEN name ELSE '' END FROM sqlite_schema",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(wrong)?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut *connection)
        .await
        .map_err(wrong)?;
    let is_wal = mode == "wal";
    let has = |name| names.iter().any(|found| found == name);
    let is_shared = has(SHARED_RECORD);
    let of_application = owner == Owner::Application && !has("trust") && !is_shared;
    let record = if is_shared || of_application { SHARED_RECORD } else { RECORD };
    if names.is_empty() || of_application {
        return Ok(Found {
            is_new: true,
            record,
            is_wal,
            pending: (0..MIGRATIONS.len()).collect(),
            lacks: ADDED.to_vec(),
        });
    }
    if !has("trust") || !has(record) {
        return Err(schema(path, "it holds another program's tables; choose another file"));
    }
    // Safe: the name is one of the two.
    let sql = AssertSqlSafe(format!("SELECT version, checksum FROM {record}"));
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as(sql).fetch_all(&mut *connection).await.map_err(wrong)?;
    let pending = pending(&applied, path)?;
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info('trust')")
        .fetch_all(connection)
        .await
        .map_err(wrong)?;
    let mut lacks = Vec::new();
    for (wanted, can_be_added) in WANTED {
        if columns.iter().any(|name| name == wanted) {
            continue;
        }
        if !can_be_added {
            let reason = format!(
                "its table `trust` has no column `{wanted}`, so it is another program's; choose \
                 another file"
            );
            return Err(schema(path, &reason));
        }
        lacks.push(wanted);
    }
    Ok(Found { is_new: false, record, is_wal, pending, lacks })
}

/// Returns the indexes of the migrations that were not run.
///
/// # Errors
///
/// [`StoreError::Schema`] if a migration was run that this version does not have.
fn pending(applied: &[(i64, Vec<u8>)], path: &Path) -> Result<Vec<usize>, StoreError> {
    for (version, checksum) in applied {
        let Some(known) = MIGRATIONS.iter().find(|(known, ..)| known == version) else {
            return Err(schema(
                path,
                "a newer version of this program has changed its tables; use that version",
            ));
        };
        if *checksum != checksum_of(known) {
            return Err(schema(
                path,
                "its tables were made by a changed version of this program; use that version, or \
                 another file",
            ));
        }
    }
    let is_pending =
        |index: &usize| !applied.iter().any(|(version, _)| *version == MIGRATIONS[*index].0);
    Ok((0..MIGRATIONS.len()).filter(is_pending).collect())
}

fn missing_from(found: &Found) -> Vec<String> {
    if found.is_new {
        return vec!["the table `trust`".to_owned()];
    }
    let migrations =
        found.pending.iter().map(|&index| format!("the migration `{}`", MIGRATIONS[index].1));
    let columns = found.lacks.iter().map(|column| missing_column(column, "trust"));
    migrations.chain(columns).collect()
}

/// Returns the error of a holder on a file without the lease's table.
pub(super) fn lacks_lease(path: &Path) -> StoreError {
    let missing = vec!["the migration `lease`".to_owned()];
    StoreError::NotMigrated { path: path.into(), missing }
}

/// Returns the SQL that adds what is missing.
fn plan_for(found: &Found) -> MigrationPlan {
    let mut missing = missing_from(found);
    let mut steps = Vec::new();
    if !found.is_wal {
        missing.push("write-ahead logging".to_owned());
        // Before the transaction: within it, the statement would have no effect.
        steps.push("PRAGMA journal_mode = WAL;".to_owned());
    }
    let inside = steps_inside(found);
    if !inside.is_empty() {
        steps.push("BEGIN IMMEDIATE;".to_owned());
        steps.extend(inside);
        steps.push("COMMIT;".to_owned());
    }
    MigrationPlan::new(missing, steps)
}

/// Returns the SQL that runs in the transaction.
fn steps_inside(found: &Found) -> Vec<String> {
    let mut steps = Vec::new();
    if !found.pending.is_empty() {
        steps.push(format!("CREATE TABLE IF NOT EXISTS {} {RECORD_COLUMNS}", found.record));
    }
    for &index in &found.pending {
        let migration = &MIGRATIONS[index];
        let (version, description, sql) = migration;
        steps.push((*sql).to_owned());
        steps.push(format!(
            "INSERT INTO {} \
             (version, description, success, checksum, execution_time) \
             VALUES ({version}, '{description}', TRUE, X'{}', 0);",
            found.record,
            HEXUPPER.encode(&checksum_of(migration))
        ));
    }
    // A new column is null in each row, and no row is rewritten.
    steps.extend(
        found.lacks.iter().map(|column| format!("ALTER TABLE trust ADD COLUMN {column} TEXT;")),
    );
    steps
}

async fn migrate_on(
    connection: &mut SqliteConnection,
    path: &Path,
    owner: Owner,
    scope: Scope,
) -> Result<MigrationPlan, StoreError> {
    let found = read(connection, path, owner).await?;
    let plan = plan_for(&found);
    if plan.is_empty() {
        return Ok(plan);
    }
    let was_wal = found.is_wal;
    if !was_wal {
        use_wal(connection, path).await?;
    }
    // IMMEDIATE takes the lock at the start, so that one of two processes waits for the other.
    let wrong = |error| failed(error, path);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(wrong)?;
    let mut found = read(&mut transaction, path, owner).await?;
    if scope == Scope::NewTables && !found.is_new {
        (found.pending, found.lacks) = (Vec::new(), Vec::new());
    }
    for step in steps_inside(&found) {
        // Safe: the texts come from this file and from the migrations.
        sqlx::raw_sql(AssertSqlSafe(step)).execute(&mut *transaction).await.map_err(wrong)?;
    }
    transaction.commit().await.map_err(wrong)?;
    found.is_wal = was_wal;
    Ok(plan_for(&found))
}

/// Returns the checksum of a migration, as sqlx computes it.
fn checksum_of((version, description, sql): &(i64, &'static str, &'static str)) -> Vec<u8> {
    let sql = sql.into_sql_str();
    Migration::new(*version, (*description).into(), MigrationType::Simple, sql, false)
        .checksum
        .into_owned()
}

/// Puts the file into WAL mode. The mode is stored in the file, so this writes once in a database's
/// life.
async fn use_wal(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    loop {
        let mode: Result<String, _> =
            sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match mode.map_err(|error| failed(error, path)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(StoreError::CannotOpen {
                    path: path.into(),
                    reason: "its file system cannot share memory between processes, which \
                             write-ahead logging needs; choose a local folder"
                        .into(),
                });
            }
            Err(StoreError::Busy) => tokio::time::sleep(JOURNAL_RETRY).await,
            Err(error) => return Err(error),
        }
    }
}

fn schema(path: &Path, reason: &str) -> StoreError {
    StoreError::Schema { path: path.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_run_and_they_are_in_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), MIGRATIONS.len());
        assert!(MIGRATIONS.is_sorted_by_key(|&(version, ..)| version));
    }

    /// Migrated databases contain this SHA-384 of the file.
    #[test]
    fn a_migration_that_was_released_has_not_changed() {
        let checksum = HEXUPPER.encode(&checksum_of(&MIGRATIONS[0]));
        assert_eq!(
            checksum,
            "CE630613EB302B3862F7D4653A861EF2B6C1BA553D3F9A198E363953A43A1889\
             74A857D765ABC467C01DC1A705409703"
        );
    }

    /// A database in memory cannot be in WAL mode. It represents a special file system.
    #[tokio::test]
    async fn a_place_without_write_ahead_logging_is_refused() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let error = use_wal(&mut connection, Path::new("trusts.db")).await.unwrap_err();
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("choose a local folder"), "{error}");
    }
}
