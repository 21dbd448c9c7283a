//! The table: looked at first, and changed only where it lacks something. Rows and columns that another program made stay as they are.
//!
//! There is no table of migrations: the database may be another program's, with a tool of its own. What is there tells what is missing.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::failure::{failed, schema};
use super::location::Location;
use super::pool::Connector;
use crate::StoreError;

const CREATE: &str = include_str!("../../migrations/postgres/0001_trust.sql");
const COLUMNS: &str = include_str!("../../migrations/postgres/0002_columns.sql");
const NOTIFY: &str = include_str!("../../migrations/postgres/0003_notify.sql");

/// Of two processes that start at once, one waits for the other. The number is that of no other program, with luck.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7238140519365264751)";

const TEXT: [&str; 2] = ["text", "character varying"];
const TIME: [&str; 2] = ["timestamp with time zone", "timestamp without time zone"];

/// A column, the types that it may have, and whether it may be missing so far.
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

/// Makes sure that the table is as it is needed.
pub(super) async fn prepare(connector: &Connector, may_create: bool) -> Result<(), StoreError> {
    let mut connection = connector.connect().await?;
    let work = Work { connector, may_create };
    let outcome = work.prepare(&mut connection).await;
    // It says goodbye, for the sake of the server's log; a transaction that failed goes with it.
    let _ = connection.close().await;
    outcome
}

/// What the table lacks.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    Table,
    /// With the schema that it is in.
    Parts(String),
}

struct Work<'a> {
    connector: &'a Connector,
    may_create: bool,
}

impl Work<'_> {
    async fn prepare(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        // Without a lock: as a rule there is nothing to do.
        if self.look(connection).await? == Missing::Nothing {
            return Ok(());
        }
        self.run(connection, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        self.run(connection, LOCK).await?;
        match self.look(connection).await? {
            Missing::Nothing => {}
            Missing::Table => {
                self.run(connection, CREATE).await?;
                self.run(connection, NOTIFY).await?;
            }
            Missing::Parts(namespace) => {
                let path = sqlx::query("SELECT set_config('search_path', quote_ident($1), true)")
                    .bind(namespace)
                    .execute(&mut *connection)
                    .await;
                path.map_err(|error| self.failed(&error))?;
                self.run(connection, COLUMNS).await?;
                self.run(connection, NOTIFY).await?;
            }
        }
        if self.look(connection).await? != Missing::Nothing {
            return Err(self
                .unusable("something keeps its table `trust` from being extended; look for event triggers"));
        }
        self.run(connection, "COMMIT").await
    }

    /// What is missing; an error if the table cannot be used, or must be made and may not.
    async fn look(&self, connection: &mut PgConnection) -> Result<Missing, StoreError> {
        let facts = sqlx::query(
            "SELECT current_setting('server_encoding') <> 'SQL_ASCII', current_schema() IS NOT NULL, \
             found.oid::oid::int8, relkind::text, nspname::text \
             FROM (SELECT to_regclass('trust') AS oid) AS found \
             LEFT JOIN pg_class ON pg_class.oid = found.oid \
             LEFT JOIN pg_namespace ON pg_namespace.oid = relnamespace",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let (has_encoding, has_schema): (bool, bool) = (self.get(&facts, 0)?, self.get(&facts, 1)?);
        let (table, kind): (Option<i64>, Option<String>) = (self.get(&facts, 2)?, self.get(&facts, 3)?);
        if !has_encoding {
            return Err(self.unusable("its encoding is SQL_ASCII; use a database whose encoding is UTF8"));
        }
        let Some(table) = table else {
            if !self.may_create {
                return Err(self.unusable(
                    "it has no table `trust`; register a trust, which makes it, or check the database's name and the \
                     search_path",
                ));
            }
            if !has_schema {
                return Err(self.unusable("the search_path names no schema that is there; make one"));
            }
            return Ok(Missing::Table);
        };
        if kind.as_deref() != Some("r") {
            return Err(
                self.unusable("its `trust` is no ordinary table; rename that, or choose another schema")
            );
        }
        let lacks_columns = self.look_at_columns(connection, table).await?;
        self.look_at_keys(connection, table).await?;
        if lacks_columns || !self.notifies(connection, table).await? {
            return Ok(Missing::Parts(self.get(&facts, 4)?));
        }
        Ok(Missing::Nothing)
    }

    /// Whether columns are missing that can be added.
    async fn look_at_columns(&self, connection: &mut PgConnection, table: i64) -> Result<bool, StoreError> {
        let columns: Vec<(String, String, i32)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL), atttypmod FROM pg_attribute \
             WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped",
        )
        .bind(table)
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let mut lacks = false;
        for (wanted, types, may_be_missing) in WANTED {
            match columns.iter().find(|(name, ..)| name == wanted) {
                None if may_be_missing => lacks = true,
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
                Some((_, _, modifier)) if wanted == "api_key_hash" && (0..64 + 4).contains(modifier) => {
                    return Err(self.unusable(
                        "the column `api_key_hash` of its table `trust` is too short for 64 digits; make it longer",
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(lacks)
    }

    async fn look_at_keys(&self, connection: &mut PgConnection, table: i64) -> Result<(), StoreError> {
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

    /// Whether the triggers are there as this version makes them, and turned on.
    async fn notifies(&self, connection: &mut PgConnection, table: i64) -> Result<bool, StoreError> {
        let triggers: i64 = sqlx::query_scalar(
            // tgtype: 1 for each row, 4 insert, 8 delete, 16 update, 32 truncate.
            "SELECT count(*) FROM (VALUES \
                 ('trust_auth_row', 1 + 4 + 8, FALSE), ('trust_auth_update', 1 + 16, TRUE), ('trust_auth_truncate', 32, FALSE) \
             ) AS wanted (name, type, is_conditional) \
             JOIN pg_trigger ON tgname = wanted.name AND tgtype = wanted.type \
                 AND (tgqual IS NOT NULL) = wanted.is_conditional \
             JOIN pg_proc ON pg_proc.oid = tgfoid \
             WHERE tgrelid = $1::int8::oid AND tgenabled = 'A' AND prosrc = $2",
        )
        .bind(table)
        .bind(function_body())
        .fetch_one(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        Ok(triggers == 3)
    }

    async fn run(&self, connection: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
        match sqlx::raw_sql(sql).execute(connection).await {
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
            return self.unusable(
                "its table `trust` must be made or extended, which this role may not do; connect once as the owner of the \
                 table (or of the schema)",
            );
        }
        failed(error, self.location(), self.connector.query_timeout)
    }

    fn unusable(&self, reason: &str) -> StoreError {
        schema(self.location(), reason)
    }

    fn location(&self) -> &Location {
        &self.connector.location
    }
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
