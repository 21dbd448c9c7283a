//! The table: checked whenever the database is opened, and changed by a migration alone. Rows and
//! columns that another program made stay as they are.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::catalog::{Catalog, Found, Table};
use super::connector::Connector;
use super::triggers::{FUNCTIONS, NOTIFY, NOTIFY_KEYS, Triggers};
use crate::error::StoreError;
use crate::migration::{MigrationPlan, Permission, missing_column};
use crate::table_names::{TableNames, TrustColumn};

const CREATE: &str = include_str!("../../migrations/postgres/0001_trust.sql");
const COLUMNS: &str = include_str!("../../migrations/postgres/0002_columns.sql");
const KEYS: &str = include_str!("../../migrations/postgres/0005_trust_key.sql");

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;";

/// Makes one of two processes that migrate at the same time wait for the other. The number was
/// chosen at random, so that no other program uses it.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7238140519365264751);";

/// How much a migration may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Everything,
    /// Makes a table where there is none.
    NewTable,
}

/// Opens the table: checks it, and changes what it is permitted to change. Returns the triggers
/// that are there then.
///
/// Missing triggers are no error: a grant depends on the live row, which needs no trigger.
///
/// # Errors
///
/// Any [`StoreError`] if the table cannot be used.
pub(super) async fn open(connector: &Connector, may: Permission) -> Result<Triggers, StoreError> {
    on_connection(connector, async |catalog, connection| open_on(catalog, connection, may).await)
        .await
}

/// Returns what a migration would do.
pub(super) async fn plan(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    on_connection(connector, async |catalog, connection| {
        plan_for(catalog, &catalog.read(connection).await?)
    })
    .await
}

/// Adds what the table lacks, or makes the table, in one transaction. Returns what was done.
pub(super) async fn migrate(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    on_connection(connector, async |catalog, connection| {
        migrate_on(catalog, connection, Scope::Everything).await
    })
    .await
}

/// Runs a piece of work on a connection of its own.
async fn on_connection<T>(
    connector: &Connector,
    work: impl AsyncFnOnce(&Catalog<'_>, &mut PgConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let catalog = Catalog { connector };
    let mut connection = connector.connect().await?;
    let outcome = work(&catalog, &mut connection).await;
    // A closing message spares the server a line in its log. The server rolls back a transaction
    // that has failed.
    let _ = connection.close().await;
    outcome
}

async fn open_on(
    catalog: &Catalog<'_>,
    connection: &mut PgConnection,
    may: Permission,
) -> Result<Triggers, StoreError> {
    let names = catalog.names();
    let mut found = catalog.read(connection).await?;
    if matches!(found, Found::Nothing { .. }) && (may.create || may.migrate) {
        migrate_on(catalog, connection, Scope::NewTable).await?;
        found = catalog.read(connection).await?;
    }
    if may.migrate && !plan_for(catalog, &found)?.is_empty() {
        match migrate_on(catalog, connection, Scope::Everything).await {
            Ok(_) => found = catalog.read(connection).await?,
            // Continues without the triggers: missing triggers alone refuse no request.
            Err(StoreError::MissingRight { right, .. }) if found.has_what_is_read() => {
                tracing::warn!(right, "the triggers that notify of changes cannot be made");
            }
            Err(error) => return Err(error),
        }
    }
    let Found::Table(table) = found else {
        return Err(no_table(catalog));
    };
    let missing = missing_tables(names, &table);
    if !missing.is_empty() {
        return Err(StoreError::NotMigrated {
            path: catalog.connector.location.to_string().into(),
            missing,
        });
    }
    for (name, may_be_read) in
        [(names.trust(), table.may_be_read), (names.trust_key(), table.keys_may_be_read)]
    {
        if !may_be_read {
            return Err(catalog.missing_right(format!(
                "the right SELECT on the table `{name}`; let the table's owner grant it"
            )));
        }
    }
    Ok(table.triggers)
}

/// Returns the error for a table that is not there, and was not made. An application's own table is
/// never made.
fn no_table(catalog: &Catalog<'_>) -> StoreError {
    let names = catalog.names();
    let remedy = if names.are_own() {
        "make it, or correct its name, or check the database's name and the search_path"
    } else {
        "register a trust or set `create_if_missing(true)`, which make it, or check the database's \
         name and the search_path"
    };
    catalog.unusable(&format!("it has no table `{}`; {remedy}", names.trust()))
}

/// Returns what the tables lack that every read needs.
fn missing_tables(names: &TableNames, table: &Table) -> Vec<String> {
    let columns = table.lacks.iter().filter_map(|column| names.name_of(*column));
    let columns = columns.map(|column| missing_column(column, names.trust()));
    let keys = table.lacks_keys.then(|| format!("the table `{}`", names.trust_key()));
    columns.chain(keys).collect()
}

/// Returns the SQL that adds what is missing.
fn plan_for(catalog: &Catalog<'_>, found: &Found) -> Result<MigrationPlan, StoreError> {
    let names = catalog.names();
    let fill = |file: &str| names.for_postgres(file).as_str().to_owned();
    let (namespace, missing, files) = match found {
        Found::Nothing { .. } if names.are_own() => return Err(no_table(catalog)),
        Found::Nothing { namespace: None } => {
            return Err(catalog.unusable("the search_path names no schema that is there; make one"));
        }
        Found::Nothing { namespace: Some(namespace) } => (
            namespace,
            vec!["the table `trust`".to_owned()],
            [CREATE, KEYS, NOTIFY, NOTIFY_KEYS].map(fill).to_vec(),
        ),
        Found::Table(table) => {
            let triggers =
                table.triggers.missing.iter().map(|name| format!("the trigger `{name}`"));
            let mut files = Vec::new();
            if !table.lacks.is_empty() {
                files.push(fill(&additions(&table.lacks)));
            }
            if table.lacks_keys {
                files.push(fill(KEYS));
            }
            if !table.triggers.missing.is_empty() {
                files.extend([NOTIFY, NOTIFY_KEYS].map(fill));
            }
            let missing = missing_tables(names, table).into_iter().chain(triggers).collect();
            (&table.namespace, missing, files)
        }
    };
    if files.is_empty() {
        return Ok(MigrationPlan::default());
    }
    let path = format!("SET LOCAL search_path TO {namespace};");
    let begin = [BEGIN, LOCK, &path].map(str::to_owned);
    let steps = begin.into_iter().chain(files).chain(["COMMIT;".to_owned()]);
    Ok(MigrationPlan::new(missing, steps.collect()))
}

/// Returns the lines of the template that add these columns.
fn additions(lacks: &[TrustColumn]) -> String {
    let adds = |line: &&str| lacks.iter().any(|column| line.contains(&marker(*column)));
    COLUMNS.lines().filter(adds).map(|line| format!("{line}\n")).collect()
}

fn marker(column: TrustColumn) -> String {
    format!("{{{}}}", column.as_str())
}

async fn migrate_on(
    catalog: &Catalog<'_>,
    connection: &mut PgConnection,
    scope: Scope,
) -> Result<MigrationPlan, StoreError> {
    // Without the lock: as a rule there is nothing to do.
    let plan = plan_for(catalog, &catalog.read(connection).await?)?;
    if plan.is_empty() {
        return Ok(plan);
    }
    run(catalog, connection, BEGIN).await?;
    run(catalog, connection, LOCK).await?;
    // Another process may have migrated meanwhile.
    let found = catalog.read(connection).await?;
    let plan = plan_for(catalog, &found)?;
    let is_new = matches!(found, Found::Nothing { .. });
    if plan.is_empty() || (scope == Scope::NewTable && !is_new) {
        run(catalog, connection, "COMMIT;").await?;
        return Ok(MigrationPlan::default());
    }
    check_rights(catalog, connection, &found).await?;
    // Without BEGIN, LOCK and COMMIT: the transaction has begun, and has the lock.
    for step in plan.steps().iter().skip(2).take(plan.steps().len() - 3) {
        run(catalog, connection, step).await?;
    }
    if !plan_for(catalog, &catalog.read(connection).await?)?.is_empty() {
        return Err(catalog.unusable(&format!(
            "something keeps its table `{}` from being extended; look for event triggers",
            catalog.names().trust()
        )));
    }
    run(catalog, connection, "COMMIT;").await?;
    Ok(plan)
}

/// Checks that the role may make what is missing. The error names the right, and the server's own
/// error would not.
async fn check_rights(
    catalog: &Catalog<'_>,
    connection: &mut PgConnection,
    found: &Found,
) -> Result<(), StoreError> {
    let names = catalog.names();
    let (oid, namespace, makes_triggers) = match found {
        Found::Nothing { namespace } => (0, namespace.as_deref().unwrap_or_default(), true),
        Found::Table(table) => (table.oid, &*table.namespace, !table.triggers.missing.is_empty()),
    };
    let (may_create, owns_table, owns_function): (bool, bool, bool) = sqlx::query_as(
        "SELECT has_schema_privilege(pg_namespace.oid, 'CREATE'), \
         coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class \
             WHERE oid = $1::int8::oid), TRUE), \
         coalesce((SELECT pg_has_role(proowner, 'USAGE') FROM pg_proc \
             WHERE pronamespace = pg_namespace.oid \
             AND proname = ANY ($3) AND pronargs = 0 \
             ORDER BY 1 LIMIT 1), TRUE) \
         FROM pg_namespace WHERE quote_ident(nspname) = $2",
    )
    .bind(oid)
    .bind(namespace)
    .bind(FUNCTIONS.map(|function| names.own_name(function)).to_vec())
    .fetch_one(connection)
    .await
    .map_err(|error| catalog.failed(&error))?;
    let (trust, function) = (names.trust(), names.own_name(FUNCTIONS[0]));
    let advice = "let the owner run `trust-auth migrate`";
    if !owns_table {
        return Err(catalog.missing_right(format!("ownership of the table `{trust}`; {advice}")));
    }
    if makes_triggers && !may_create {
        return Err(
            catalog.missing_right(format!("the right CREATE on the schema {namespace}; {advice}"))
        );
    }
    if makes_triggers && !owns_function {
        return Err(catalog.missing_right(format!(
            "ownership of the function `{function}` in the schema {namespace}; let its \
             owner or a superuser drop it, and try again"
        )));
    }
    Ok(())
}

async fn run(
    catalog: &Catalog<'_>,
    connection: &mut PgConnection,
    sql: &str,
) -> Result<(), StoreError> {
    // Safe: each text is from the files of this version. The names in it were checked, and the
    // server has quoted that of the schema.
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => Ok(()),
        Err(error) => Err(catalog.failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::read_lease::READ_LEASE;

    #[test]
    fn every_migration_file_is_run() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        assert_eq!(
            std::fs::read_dir(folder).unwrap().count(),
            [CREATE, COLUMNS, NOTIFY, READ_LEASE, KEYS, NOTIFY_KEYS].len()
        );
    }
}
