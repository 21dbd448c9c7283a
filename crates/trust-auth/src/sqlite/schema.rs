//! The tables: checked whenever the file is opened, made in an empty file, and changed by a
//! migration alone. They are never made in a file with another program's tables.

use std::path::Path;
use std::time::Duration;

use data_encoding::HEXUPPER;
use sqlx::migrate::{Migration, MigrationType};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};

use super::failure::failed;
use super::own_tables;
use crate::error::StoreError;
use crate::migration::{MigrationPlan, Permission, missing_column};
use crate::table_names::{TableNames, TrustColumn};

/// Every migration, oldest first: templates of SQL. A released migration, with the default names,
/// must not change: databases contain its checksum.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (TRUST, "trust", include_str!("../../migrations/sqlite/0001_trust.sql")),
    (LEASE, "lease", include_str!("../../migrations/sqlite/0002_lease.sql")),
    (TRUST_KEY, "trust_key", include_str!("../../migrations/sqlite/0003_trust_key.sql")),
];

/// The migration that makes the table of trusts, unless the table is the application's.
const TRUST: i64 = 1;

/// The migration that makes the table of keys.
const TRUST_KEY: i64 = 3;

/// The migration that only holders of a read lease need. A file without its table has no holder.
const LEASE: i64 = 2;

/// The table of the migrations that were run, in a file of this program. The name and the columns
/// are those of sqlx, so that the tool of sqlx can read the table.
const RECORD: &str = "_sqlx_migrations";

/// The same in a file of an application, which may have migrations of sqlx of its own.
const SHARED_RECORD: &str = "_trust_auth_migrations";

/// How a plan calls the mode of the file that it begins.
const WAL: &str = "write-ahead logging";

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

/// The columns that no migration file makes. A new table gets them as an older one does.
const ADDED: [TrustColumn; 1] = [TrustColumn::Attributes];

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

/// The file, whose it is, and what it calls the tables.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) path: &'a Path,
    pub(super) owner: Owner,
    pub(super) names: &'a TableNames,
}

impl Tables<'_> {
    pub(super) fn failed(self, error: sqlx::Error) -> StoreError {
        failed(error, self.path, self.names)
    }

    pub(super) fn schema(self, reason: impl Into<String>) -> StoreError {
        StoreError::Schema { path: self.path.into(), reason: reason.into() }
    }
}

/// Opens the database: checks it, and changes what is permitted. Also puts the file into
/// WAL mode, if it may make or migrate the tables. Makes the file if `options` permits it.
///
/// # Errors
///
/// Any [`StoreError`] if the tables cannot be used.
pub(super) async fn open(
    options: &SqliteConnectOptions,
    tables: Tables<'_>,
    may: Permission,
) -> Result<(), StoreError> {
    on_connection(options, tables, async |connection| open_on(connection, tables, may).await).await
}

/// Returns what a migration would do.
pub(super) async fn plan(
    options: &SqliteConnectOptions,
    tables: Tables<'_>,
) -> Result<MigrationPlan, StoreError> {
    on_connection(options, tables, async |connection| {
        Ok(plan_for(&read(connection, tables).await?, tables))
    })
    .await
}

/// Adds what is missing, in one transaction. Returns what was done.
pub(super) async fn migrate(
    options: &SqliteConnectOptions,
    tables: Tables<'_>,
) -> Result<MigrationPlan, StoreError> {
    on_connection(options, tables, async |connection| {
        migrate_on(connection, tables, Scope::Everything).await
    })
    .await
}

async fn on_connection<T>(
    options: &SqliteConnectOptions,
    tables: Tables<'_>,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut connection = options.connect().await.map_err(|error| tables.failed(error))?;
    let outcome = work(&mut connection).await;
    let closed = connection.close().await;
    let outcome = outcome?;
    closed.map_err(|error| tables.failed(error))?;
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
    lacks: Vec<TrustColumn>,
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
    tables: Tables<'_>,
    may: Permission,
) -> Result<(), StoreError> {
    let mut found = read(connection, tables).await?;
    if found.is_new && !may.create && !may.migrate {
        return Err(tables.schema(
            "it is empty; register a trust or set `create_if_missing(true)`, which make the \
             tables, or choose another file",
        ));
    }
    if found.is_new || may.migrate {
        let scope = if may.migrate { Scope::Everything } else { Scope::NewTables };
        migrate_on(connection, tables, scope).await?;
        found = read(connection, tables).await?;
    }
    found.pending.retain(|&index| MIGRATIONS[index].0 != LEASE);
    let missing = missing_from(&found, tables);
    if !missing.is_empty() {
        return Err(StoreError::NotMigrated { path: tables.path.into(), missing });
    }
    if may.create && !found.is_wal {
        use_wal(connection, tables).await?;
    }
    Ok(())
}

/// Reads what the file contains.
///
/// # Errors
///
/// Any [`StoreError`] if no addition can make the tables usable.
async fn read(connection: &mut SqliteConnection, tables: Tables<'_>) -> Result<Found, StoreError> {
    let wrong = |error| tables.failed(error);
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
    let has = |name: &str| names.iter().any(|found| found == name);
    let is_shared = has(SHARED_RECORD);
    let of_application = tables.owner == Owner::Application && !has("trust") && !is_shared;
    let record = if is_shared || of_application { SHARED_RECORD } else { RECORD };
    if tables.names.are_own() {
        return read_own(connection, tables, is_wal, &has).await;
    }
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
        return Err(tables.schema("it holds another program's tables; choose another file"));
    }
    let pending = pending(&applied(connection, tables, record).await?, tables)?;
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info('trust')")
        .fetch_all(connection)
        .await
        .map_err(wrong)?;
    let lacks = lacking(&columns, tables)?;
    Ok(Found { is_new: false, record, is_wal, pending, lacks })
}

/// Reads what a file contains whose table of trusts is an application's.
async fn read_own(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
    is_wal: bool,
    has: &(impl Fn(&str) -> bool + Sync),
) -> Result<Found, StoreError> {
    let columns = own_tables::columns(connection, tables).await?;
    let lacks = lacking(&columns, tables)?;
    own_tables::check_unique(connection, tables).await?;
    // A file that this program has made, whose columns have other names since then.
    let is_programs = !has(SHARED_RECORD)
        && has(RECORD)
        && applied(connection, tables, RECORD)
            .await?
            .contains(&(TRUST, checksum_of(&MIGRATIONS[0])));
    let record = if is_programs { RECORD } else { SHARED_RECORD };
    let applied = if has(record) { applied(connection, tables, record).await? } else { Vec::new() };
    let has_keys = applied.iter().any(|(version, _)| *version == TRUST_KEY);
    own_tables::check_keys(connection, tables, (record, has_keys)).await?;
    let mut pending = pending(&applied, tables)?;
    pending.retain(|&index| MIGRATIONS[index].0 != TRUST);
    Ok(Found { is_new: false, record, is_wal, pending, lacks })
}

/// Reads the versions and the checksums of the migrations that were run.
async fn applied(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
    record: &'static str,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    // Safe: the name is one of the two.
    let sql = AssertSqlSafe(format!("SELECT version, checksum FROM {record}"));
    sqlx::query_as(sql).fetch_all(connection).await.map_err(|error| tables.failed(error))
}

/// Returns the columns that are missing and can be added.
///
/// # Errors
///
/// [`StoreError::Schema`] if another column is missing.
fn lacking(columns: &[String], tables: Tables<'_>) -> Result<Vec<TrustColumn>, StoreError> {
    let (table, are_own) = (tables.names.trust(), tables.names.are_own());
    let mut lacks = Vec::new();
    for column in TrustColumn::ALL {
        // A column that is left out is not needed.
        let Some(wanted) = tables.names.name_of(column) else { continue };
        if columns.iter().any(|name| name.eq_ignore_ascii_case(wanted)) {
            continue;
        }
        let can_be_added = match column {
            TrustColumn::Id | TrustColumn::Name | TrustColumn::CreatedAt => false,
            // Without it, a table of this program would be another one.
            TrustColumn::ApiKeyHash => are_own,
            _ => true,
        };
        if !can_be_added {
            let advice = if are_own {
                "and no migration adds it; make it, or give its right name"
            } else {
                "so it is another program's; choose another file"
            };
            let reason = format!("its table `{table}` has no column `{wanted}`, {advice}");
            return Err(tables.schema(reason));
        }
        lacks.push(column);
    }
    Ok(lacks)
}

/// Returns the indexes of the migrations that were not run.
///
/// # Errors
///
/// [`StoreError::Schema`] if a migration was run that this version does not have.
fn pending(applied: &[(i64, Vec<u8>)], tables: Tables<'_>) -> Result<Vec<usize>, StoreError> {
    for (version, checksum) in applied {
        let Some(known) = MIGRATIONS.iter().find(|(known, ..)| known == version) else {
            return Err(tables.schema(
                "a newer version of this program has changed its tables; use that version",
            ));
        };
        if *checksum != checksum_of(known) {
            return Err(tables.schema(
                "its tables were made by a changed version of this program; use that version, or \
                 another file",
            ));
        }
    }
    let is_pending =
        |index: &usize| !applied.iter().any(|(version, _)| *version == MIGRATIONS[*index].0);
    Ok((0..MIGRATIONS.len()).filter(is_pending).collect())
}

fn missing_from(found: &Found, tables: Tables<'_>) -> Vec<String> {
    let names = tables.names;
    if found.is_new {
        return vec![format!("the table `{}`", names.trust())];
    }
    let migrations = found.pending.iter().map(|&index| match MIGRATIONS[index] {
        (TRUST_KEY, ..) if names.are_own() => format!("the table `{}`", names.trust_key()),
        (_, description, _) => format!("the migration `{description}`"),
    });
    let columns = found.lacks.iter().filter_map(|column| names.name_of(*column));
    migrations.chain(columns.map(|column| missing_column(column, names.trust()))).collect()
}

/// Returns the error of a holder on a file without the lease's table.
pub(super) fn lacks_lease(path: &Path) -> StoreError {
    let missing = vec!["the migration `lease`".to_owned()];
    StoreError::NotMigrated { path: path.into(), missing }
}

/// Returns the error of a holder on a file in rollback mode.
pub(super) fn lacks_wal(path: &Path) -> StoreError {
    StoreError::NotMigrated { path: path.into(), missing: vec![WAL.to_owned()] }
}

/// Returns the SQL that adds what is missing.
fn plan_for(found: &Found, tables: Tables<'_>) -> MigrationPlan {
    let mut missing = missing_from(found, tables);
    let mut steps = Vec::new();
    if !found.is_wal {
        missing.push(WAL.to_owned());
        // Before the transaction: within it, the statement would have no effect.
        steps.push("PRAGMA journal_mode = WAL;".to_owned());
    }
    let inside = steps_inside(found, tables.names);
    if !inside.is_empty() {
        steps.push("BEGIN IMMEDIATE;".to_owned());
        steps.extend(inside);
        steps.push("COMMIT;".to_owned());
    }
    MigrationPlan::new(missing, steps)
}

/// Returns the SQL that runs in the transaction.
fn steps_inside(found: &Found, names: &TableNames) -> Vec<String> {
    let filled = |template: &str| names.for_sqlite(template).as_str().to_owned();
    let mut steps = Vec::new();
    if !found.pending.is_empty() {
        steps.push(format!("CREATE TABLE IF NOT EXISTS {} {RECORD_COLUMNS}", found.record));
    }
    for &index in &found.pending {
        let migration = &MIGRATIONS[index];
        let (version, description, sql) = migration;
        steps.push(filled(sql));
        steps.push(format!(
            "INSERT INTO {} \
             (version, description, success, checksum, execution_time) \
             VALUES ({version}, '{description}', TRUE, X'{}', 0);",
            found.record,
            HEXUPPER.encode(&checksum_of(migration))
        ));
    }
    // A new column is null in each row, and no row is rewritten.
    steps.extend(found.lacks.iter().map(|column| {
        let check = match column {
            TrustColumn::ApiKeyHash => " CHECK (length({api_key_hash}) = 64)",
            _ => "",
        };
        let column = column.as_str();
        filled(&format!("ALTER TABLE {{trust_table}} ADD COLUMN {{{column}}} TEXT{check};"))
    }));
    steps
}

async fn migrate_on(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
    scope: Scope,
) -> Result<MigrationPlan, StoreError> {
    let found = read(connection, tables).await?;
    let plan = plan_for(&found, tables);
    if plan.is_empty() {
        return Ok(plan);
    }
    let was_wal = found.is_wal;
    if !was_wal {
        use_wal(connection, tables).await?;
    }
    // IMMEDIATE takes the lock at the start, so that one of two processes waits for the other.
    let wrong = |error| tables.failed(error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(wrong)?;
    let mut found = read(&mut transaction, tables).await?;
    if scope == Scope::NewTables && !found.is_new {
        (found.pending, found.lacks) = (Vec::new(), Vec::new());
    }
    for step in steps_inside(&found, tables.names) {
        // Safe: the texts come from this file and from the migrations, and the names were checked.
        sqlx::raw_sql(AssertSqlSafe(step)).execute(&mut *transaction).await.map_err(wrong)?;
    }
    transaction.commit().await.map_err(wrong)?;
    found.is_wal = was_wal;
    Ok(plan_for(&found, tables))
}

/// Returns the checksum of a migration with the default names, as sqlx computes it.
fn checksum_of((version, description, sql): &(i64, &'static str, &'static str)) -> Vec<u8> {
    let sql = TableNames::default().for_sqlite(sql);
    Migration::new(*version, (*description).into(), MigrationType::Simple, sql, false)
        .checksum
        .into_owned()
}

/// Puts the file into WAL mode. The mode is stored in the file, so this writes once in a database's
/// life.
async fn use_wal(connection: &mut SqliteConnection, tables: Tables<'_>) -> Result<(), StoreError> {
    loop {
        let mode: Result<String, _> =
            sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match mode.map_err(|error| tables.failed(error)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(StoreError::CannotOpen {
                    path: tables.path.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_run_and_they_are_in_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), MIGRATIONS.len());
        assert!(MIGRATIONS.is_sorted_by_key(|&(version, ..)| version));
    }

    /// Migrated databases contain these SHA-384 of the files, with the default names.
    #[test]
    fn a_migration_that_was_released_has_not_changed() {
        let checksums = [
            "CE630613EB302B3862F7D4653A861EF2B6C1BA553D3F9A198E363953A43A1889\
             74A857D765ABC467C01DC1A705409703",
            "65F0A2D6559C056417637C44CF855D242C49C8F9AD5D5DED36D2B3FE31F418D8\
             D3B633A03FA7CE7DA25B111F05D832AD",
            "3E55196AAC653EAE33DCAD4567200032C4C6434A15CED8509BEF01E4AE9F19A4\
             346C4B0F73D214D343C65F2E975AD0C8",
        ];
        assert_eq!(
            MIGRATIONS.map(|migration| HEXUPPER.encode(&checksum_of(&migration))),
            checksums
        );
    }

    /// A database in memory cannot be in WAL mode. It represents a special file system.
    #[tokio::test]
    async fn a_place_without_write_ahead_logging_is_refused() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let path = Path::new("trusts.db");
        let tables = Tables { path, owner: Owner::Program, names: &TableNames::default() };
        let error = use_wal(&mut connection, tables).await.unwrap_err();
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("choose a local folder"), "{error}");
    }
}
