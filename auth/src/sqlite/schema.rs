//! The tables: made in an empty database, checked in one that is not, and never made next to somebody else's.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection};

use super::failure::failed;
use crate::StoreError;

/// Every migration, oldest first. One that was released must not change: its checksum is in the databases.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "trust", include_str!("../../migrations/sqlite/0001_trust.sql"))];

/// How long to wait before the journal mode is changed again: SQLite's busy timeout does not cover that
/// statement.
const JOURNAL_RETRY: Duration = Duration::from_millis(10);

/// Makes sure that the database at `path` is in WAL mode and has this version's tables. Makes the file, if
/// `options` say so.
pub(super) async fn prepare(
    options: &SqliteConnectOptions,
    path: &Path,
    may_create: bool,
) -> Result<(), StoreError> {
    let mut connection = options.connect().await.map_err(|error| failed(error, path))?;
    let outcome = prepare_on(&mut connection, path, may_create).await;
    let closed = connection.close().await;
    outcome?;
    closed.map_err(|error| failed(error, path))
}

async fn prepare_on(
    connection: &mut SqliteConnection,
    path: &Path,
    may_create: bool,
) -> Result<(), StoreError> {
    match tables(connection).await.map_err(|error| failed(error, path))? {
        Tables::Ours => {}
        Tables::None if may_create => {}
        Tables::None => {
            return Err(schema(
                path,
                "it is empty; register a trust, which makes the tables, or choose another file",
            ));
        }
        Tables::Foreign => {
            return Err(schema(path, "it holds another program's tables; choose another file"));
        }
    }
    use_wal(connection, path).await?;
    migrate(connection).await.map_err(|error| migration_failed(error, path))
}

enum Tables {
    Ours,
    Foreign,
    None,
}

async fn tables(connection: &mut SqliteConnection) -> Result<Tables, sqlx::Error> {
    let (all, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE type = 'table' AND name IN ('trust', '_sqlx_migrations')) \
         FROM sqlite_schema",
    )
    .fetch_one(connection)
    .await?;
    Ok(match (all, ours) {
        (0, _) => Tables::None,
        (_, 2) => Tables::Ours,
        _ => Tables::Foreign,
    })
}

/// WAL stays with the file, so this writes once in a database's life.
async fn use_wal(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    loop {
        let mode: Result<String, _> =
            sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match mode.map_err(|error| failed(error, path)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(StoreError::CannotOpen {
                    path: path.into(),
                    reason: "its file system cannot share memory between processes, which write-ahead logging needs; \
                             choose a local folder"
                        .into(),
                });
            }
            Err(StoreError::Busy) => tokio::time::sleep(JOURNAL_RETRY).await,
            Err(error) => return Err(error),
        }
    }
}

/// Runs what is pending in one transaction that holds the lock from the start, so that of two processes one
/// waits for the other.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    let migrator = migrator();
    if !is_pending(connection).await? {
        // Only compares checksums: it writes nothing, and waits for nobody.
        return migrator.run_direct(None, connection, false).await;
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    migrator.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

async fn is_pending(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !matches!(tables(connection).await?, Tables::Ours) {
        return Ok(true);
    }
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await?;
    Ok(applied < MIGRATIONS.last().map(|&(version, ..)| version))
}

fn migrator() -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect())
}

fn migration_failed(error: MigrateError, path: &Path) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error, path),
        MigrateError::VersionMissing(_) => {
            schema(path, "a newer version of this program has changed its tables; use that version")
        }
        MigrateError::VersionMismatch(_) => schema(
            path,
            "its tables were made by a changed version of this program; use that version, or another file",
        ),
        other => StoreError::Other(other.into()),
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

    /// A database in memory cannot be in WAL mode either, and needs no special file system.
    #[tokio::test]
    async fn a_place_without_write_ahead_logging_is_refused() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let error = use_wal(&mut connection, Path::new("trusts.db")).await.unwrap_err();
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("choose a local folder"), "{error}");
    }
}
