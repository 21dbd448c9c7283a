//! The table: looked at whenever it is opened, and changed by a migration alone. Rows and columns
//! that another program made stay as they are.
//!
//! There is no table of migrations: the database may be another program's, with a tool of its own.
//! The catalog shows what is missing.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres, Row};

use super::failure::{failed, schema};
use super::location::Location;
use super::pool::Connector;
use crate::migration::Permission;
use crate::{MigrationPlan, StoreError};

const CREATE: &str = include_str!("../../migrations/postgres/0001_trust.sql");
const COLUMNS: &str = include_str!("../../migrations/postgres/0002_columns.sql");
const NOTIFY: &str = include_str!("../../migrations/postgres/0003_notify.sql");

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;";

/// One of two processes that migrate at once waits for the other. The number is that of no other
/// program, with luck.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7238140519365264751);";

const TEXT: [&str; 2] = ["text", "character varying"];
const TIME: [&str; 2] = ["timestamp with time zone", "timestamp without time zone"];

/// A column, the types that it may have, and whether a migration can add it.
const WANTED: [(&str, &[&str], bool); 8] = [
    ("id", &["uuid"], false),
    ("name", &TEXT, false),
    ("code", &TEXT, true),
    ("region", &TEXT, true),
    ("api_key_hash", &["text", "character varying", "character"], false),
    ("created_at", &TIME, false),
    ("last_heartbeat", &TIME, true),
    ("disabled_at", &TIME, true),
];

/// The triggers that tell of changes, as the catalog has them at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Triggers {
    /// The names of those that are not there as this version makes them: gone, turned off, or with
    /// another function.
    pub(super) missing: Vec<String>,
    /// Another text whenever one of them was made, changed, or turned on or off since.
    fingerprint: String,
}

/// Opens the table: looks at it, and changes what it is permitted to. Gives the triggers as they
/// are then; an error if the table cannot be used.
///
/// Triggers that are missing are no error: grants rest on the live row, which needs none.
pub(super) async fn open(connector: &Connector, may: Permission) -> Result<Triggers, StoreError> {
    on_connection(connector, async |work, connection| work.open(connection, may).await).await
}

/// What a migration would do.
pub(super) async fn plan(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    on_connection(connector, async |work, connection| work.plan(&work.look(connection).await?))
        .await
}

/// Adds what the table lacks, or makes it, in one transaction. Gives what was done.
pub(super) async fn migrate(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    on_connection(connector, async |work, connection| {
        work.migrate(connection, Scope::Everything).await
    })
    .await
}

/// Looks at the triggers alone, for a caller that has a connection to the database. Where there is
/// no table, all of them are missing.
pub(super) async fn triggers<'c>(
    connection: impl Executor<'c, Database = Postgres>,
) -> Result<Triggers, sqlx::Error> {
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        // tgtype: 1 for each row, 4 insert, 8 delete, 16 update, 32 truncate. A row's xmin is the
        // transaction that wrote it last.
        "SELECT wanted.name, \
             found.tgrelid::text || '.' || found.oid || '.' || found.xmin || '.' || pg_proc.xmin \
         FROM (VALUES \
             ('trust_auth_row', 1 + 4 + 8, FALSE), ('trust_auth_update', 1 + 16, TRUE), \
             ('trust_auth_truncate', 32, FALSE) \
         ) AS wanted (name, type, is_conditional) \
         LEFT JOIN (pg_trigger AS found \
             JOIN pg_proc ON pg_proc.oid = found.tgfoid AND pg_proc.prosrc = $1) \
             ON found.tgrelid = to_regclass('trust')::oid \
             AND found.tgname = wanted.name AND found.tgtype = wanted.type \
             AND (found.tgqual IS NOT NULL) = wanted.is_conditional \
             AND found.tgattr::text = '' AND found.tgenabled = 'A' \
         ORDER BY wanted.name",
    )
    .bind(function_body())
    .fetch_all(connection)
    .await?;
    let missing =
        rows.iter().filter(|(_, mark)| mark.is_none()).map(|(name, _)| name.clone()).collect();
    let marks: Vec<&str> = rows.iter().map(|(_, mark)| mark.as_deref().unwrap_or("-")).collect();
    Ok(Triggers { missing, fingerprint: marks.join(" ") })
}

/// Runs a piece of work on a connection of its own.
async fn on_connection<T>(
    connector: &Connector,
    work: impl AsyncFnOnce(&Work<'_>, &mut PgConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut connection = connector.connect().await?;
    let outcome = work(&Work { connector }, &mut connection).await;
    // It says goodbye, for the sake of the server's log; a transaction that failed goes with it.
    let _ = connection.close().await;
    outcome
}

/// What a look found.
#[derive(Debug)]
enum Table {
    /// None. With the schema in which it would be made, quoted.
    Missing {
        namespace: Option<String>,
    },
    There(There),
}

/// A table that can be used, as soon as it has what it lacks.
#[derive(Debug)]
struct There {
    oid: i64,
    /// The schema that it is in, quoted.
    namespace: String,
    /// Columns.
    lacks: Vec<&'static str>,
    triggers: Triggers,
    may_be_read: bool,
}

/// How much a migration may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Everything,
    /// Only where there is no table.
    NewTable,
}

struct Work<'a> {
    connector: &'a Connector,
}

impl Work<'_> {
    async fn open(
        &self,
        connection: &mut PgConnection,
        may: Permission,
    ) -> Result<Triggers, StoreError> {
        let mut found = self.look(connection).await?;
        if matches!(found, Table::Missing { .. }) && (may.create || may.migrate) {
            self.migrate(connection, Scope::NewTable).await?;
            found = self.look(connection).await?;
        }
        if may.migrate && !self.plan(&found)?.is_empty() {
            match self.migrate(connection, Scope::Everything).await {
                Ok(_) => found = self.look(connection).await?,
                // Then it does without: missing triggers alone refuse no request.
                Err(StoreError::MissingRight { right, .. }) if found.has_every_column() => {
                    tracing::warn!(right, "the triggers that tell of changes cannot be made");
                }
                Err(error) => return Err(error),
            }
        }
        let Table::There(table) = found else {
            return Err(self.unusable(
                "it has no table `trust`; register a trust, which makes it, or check the database's name and the \
                 search_path",
            ));
        };
        if !table.lacks.is_empty() {
            return Err(StoreError::NotMigrated {
                path: self.location().to_string().into(),
                missing: table.lacks.iter().map(|column| column_of_trust(column)).collect(),
            });
        }
        if !table.may_be_read {
            return Err(self.missing_right(
                "the right SELECT on the table `trust`; let the table's owner grant it".to_owned(),
            ));
        }
        Ok(table.triggers)
    }

    /// The SQL that adds what is missing.
    fn plan(&self, found: &Table) -> Result<MigrationPlan, StoreError> {
        let (namespace, missing, files) = match found {
            Table::Missing { namespace: None } => {
                return Err(
                    self.unusable("the search_path names no schema that is there; make one")
                );
            }
            Table::Missing { namespace: Some(namespace) } => {
                (namespace, vec!["the table `trust`".to_owned()], vec![CREATE, NOTIFY])
            }
            Table::There(table) => {
                let columns = table.lacks.iter().map(|column| column_of_trust(column));
                let triggers =
                    table.triggers.missing.iter().map(|name| format!("the trigger `{name}`"));
                let mut files = Vec::new();
                if !table.lacks.is_empty() {
                    files.push(COLUMNS);
                }
                if !table.triggers.missing.is_empty() {
                    files.push(NOTIFY);
                }
                (&table.namespace, columns.chain(triggers).collect(), files)
            }
        };
        if files.is_empty() {
            return Ok(MigrationPlan::default());
        }
        let path = format!("SET LOCAL search_path TO {namespace};");
        let steps = [BEGIN, LOCK, &path].into_iter().chain(files).chain(["COMMIT;"]);
        Ok(MigrationPlan::new(missing, steps.map(str::to_owned).collect()))
    }

    async fn migrate(
        &self,
        connection: &mut PgConnection,
        scope: Scope,
    ) -> Result<MigrationPlan, StoreError> {
        // Without a lock: as a rule there is nothing to do.
        let plan = self.plan(&self.look(connection).await?)?;
        if plan.is_empty() {
            return Ok(plan);
        }
        self.run(connection, BEGIN).await?;
        self.run(connection, LOCK).await?;
        // Another process may have done it meanwhile.
        let found = self.look(connection).await?;
        let plan = self.plan(&found)?;
        let is_new = matches!(found, Table::Missing { .. });
        if plan.is_empty() || (scope == Scope::NewTable && !is_new) {
            self.run(connection, "COMMIT;").await?;
            return Ok(MigrationPlan::default());
        }
        self.check_rights(connection, &found).await?;
        // The transaction has begun, and has the lock.
        for step in plan.steps().iter().skip(2).take(plan.steps().len() - 3) {
            self.run(connection, step).await?;
        }
        if !self.plan(&self.look(connection).await?)?.is_empty() {
            return Err(self.unusable(
                "something keeps its table `trust` from being extended; look for event triggers",
            ));
        }
        self.run(connection, "COMMIT;").await?;
        Ok(plan)
    }

    /// Whether the role may make what is missing: an error that names the right is better than the
    /// server's.
    async fn check_rights(
        &self,
        connection: &mut PgConnection,
        found: &Table,
    ) -> Result<(), StoreError> {
        let (oid, namespace, makes_triggers) = match found {
            Table::Missing { namespace } => (0, namespace.as_deref().unwrap_or_default(), true),
            Table::There(table) => {
                (table.oid, &*table.namespace, !table.triggers.missing.is_empty())
            }
        };
        let (may_create, owns_table, owns_function): (bool, bool, bool) = sqlx::query_as(
            "SELECT has_schema_privilege(pg_namespace.oid, 'CREATE'), \
             coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = $1::int8::oid), TRUE), \
             coalesce((SELECT pg_has_role(proowner, 'USAGE') FROM pg_proc \
                 WHERE pronamespace = pg_namespace.oid AND proname = 'trust_auth_notify' AND pronargs = 0), TRUE) \
             FROM pg_namespace WHERE quote_ident(nspname) = $2",
        )
        .bind(oid)
        .bind(namespace)
        .fetch_one(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let advice = "let the owner run `trust-auth migrate`";
        if !owns_table {
            return Err(self.missing_right(format!("ownership of the table `trust`; {advice}")));
        }
        if makes_triggers && !may_create {
            return Err(
                self.missing_right(format!("the right CREATE on the schema {namespace}; {advice}"))
            );
        }
        if makes_triggers && !owns_function {
            return Err(self.missing_right(format!(
                "ownership of the function `trust_auth_notify` in the schema {namespace}; let its owner or a \
                 superuser drop it, and try again"
            )));
        }
        Ok(())
    }

    /// What is there; an error if it cannot be used whatever is added.
    async fn look(&self, connection: &mut PgConnection) -> Result<Table, StoreError> {
        let facts = sqlx::query(
            "SELECT current_setting('server_encoding') <> 'SQL_ASCII', quote_ident(current_schema()), \
             found.oid::oid::int8, relkind::text, quote_ident(nspname), \
             has_any_column_privilege(found.oid::oid, 'SELECT') \
             FROM (SELECT to_regclass('trust') AS oid) AS found \
             LEFT JOIN pg_class ON pg_class.oid = found.oid \
             LEFT JOIN pg_namespace ON pg_namespace.oid = relnamespace",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let has_encoding: bool = self.get(&facts, 0)?;
        let (oid, kind): (Option<i64>, Option<String>) =
            (self.get(&facts, 2)?, self.get(&facts, 3)?);
        if !has_encoding {
            return Err(
                self.unusable("its encoding is SQL_ASCII; use a database whose encoding is UTF8")
            );
        }
        let Some(oid) = oid else {
            self.look_behind_schemas(connection).await?;
            return Ok(Table::Missing { namespace: self.get(&facts, 1)? });
        };
        if kind.as_deref() != Some("r") {
            return Err(self.unusable(
                "its `trust` is no ordinary table; rename that, or choose another schema",
            ));
        }
        let lacks = self.look_at_columns(connection, oid).await?;
        self.look_at_keys(connection, oid).await?;
        let triggers = triggers(&mut *connection).await.map_err(|error| self.failed(&error))?;
        let (namespace, may_be_read): (String, Option<bool>) =
            (self.get(&facts, 4)?, self.get(&facts, 5)?);
        Ok(Table::There(There {
            oid,
            namespace,
            lacks,
            triggers,
            may_be_read: may_be_read.unwrap_or(false),
        }))
    }

    /// An error if there is a table in a schema of the search path that the role may not use: the
    /// server then says that there is none.
    async fn look_behind_schemas(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let hidden: Option<String> = sqlx::query_scalar(
            "SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE relname = 'trust' AND relkind = 'r' AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE') \
             AND EXISTS (SELECT FROM regexp_split_to_table(current_setting('search_path'), '\\s*,\\s*') AS entry \
                 WHERE entry IN (quote_ident(nspname), '\"' || replace(nspname, '\"', '\"\"') || '\"') \
                 OR (entry IN ('\"$user\"', '$user') AND nspname = current_user)) LIMIT 1",
        )
        .fetch_optional(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        match hidden {
            Some(namespace) => Err(self.missing_right(format!(
                "the right USAGE on the schema {namespace}, which has the table `trust`; let the schema's owner grant it"
            ))),
            None => Ok(()),
        }
    }

    /// The columns that are missing and can be added.
    async fn look_at_columns(
        &self,
        connection: &mut PgConnection,
        table: i64,
    ) -> Result<Vec<&'static str>, StoreError> {
        let columns: Vec<(String, String, i32)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL), atttypmod FROM pg_attribute \
             WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped",
        )
        .bind(table)
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let mut lacks = Vec::new();
        for (wanted, types, can_be_added) in WANTED {
            match columns.iter().find(|(name, ..)| name == wanted) {
                None if can_be_added => lacks.push(wanted),
                None => {
                    return Err(self.unusable(&format!(
                        "its table `trust` has no column `{wanted}`, so it is another program's; choose another schema"
                    )));
                }
                Some((_, kind, _)) if !types.contains(&kind.as_str()) => {
                    return Err(self.unusable(&format!(
                        "the column `{wanted}` of its table `trust` has the type `{kind}`, and must have `{}`; change \
                         it, or choose another schema",
                        types.join("` or `")
                    )));
                }
                // The modifier of a length counts four bytes of header.
                Some((_, _, modifier))
                    if wanted == "api_key_hash" && (0..64 + 4).contains(modifier) =>
                {
                    return Err(self.unusable(
                        "the column `api_key_hash` of its table `trust` is too short for 64 digits; make it longer",
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(lacks)
    }

    async fn look_at_keys(
        &self,
        connection: &mut PgConnection,
        table: i64,
    ) -> Result<(), StoreError> {
        let unique: Vec<String> = sqlx::query_scalar(
            "SELECT attname::text FROM pg_index \
             JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
             WHERE indrelid = $1::int8::oid AND indnkeyatts = 1 \
             AND indisunique AND indimmediate AND indisvalid AND indpred IS NULL",
        )
        .bind(table)
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        for column in ["id", "name"] {
            if !unique.iter().any(|unique| unique == column) {
                return Err(self.unusable(&format!(
                    "the column `{column}` of its table `trust` is not unique; add a unique constraint that is not deferrable"
                )));
            }
        }
        Ok(())
    }

    async fn run(&self, connection: &mut PgConnection, sql: &str) -> Result<(), StoreError> {
        // Every text comes from the files of this version, but for a schema's name, which the
        // server has quoted.
        match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn get<'r, T>(&self, row: &'r PgRow, index: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        row.try_get(index).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &sqlx::Error) -> StoreError {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some("42501") {
            return self.missing_right(
                "a right to make or extend the table `trust`; let the owner of the table, or of the schema, run \
                 `trust-auth migrate`"
                    .to_owned(),
            );
        }
        failed(error, self.location(), self.connector.query_timeout)
    }

    fn missing_right(&self, right: String) -> StoreError {
        StoreError::MissingRight { server: self.location().to_string(), right }
    }

    fn unusable(&self, reason: &str) -> StoreError {
        schema(self.location(), reason)
    }

    fn location(&self) -> &Location {
        &self.connector.location
    }
}

impl Table {
    fn has_every_column(&self) -> bool {
        matches!(self, Self::There(table) if table.lacks.is_empty())
    }
}

fn column_of_trust(name: &str) -> String {
    format!("the column `{name}` of the table `trust`")
}

/// The text of the trigger's function, as the database keeps it.
fn function_body() -> &'static str {
    NOTIFY.split("$trust_auth$").nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_run_and_the_functions_text_is_found_in_it() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), [CREATE, COLUMNS, NOTIFY].len());
        let body = function_body();
        assert!(body.starts_with("\nDECLARE") && body.ends_with("END\n"), "{body}");
        assert!(body.contains(&format!("'{}'", super::super::notice::CHANNEL)));
    }
}
