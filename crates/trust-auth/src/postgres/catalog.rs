//! [`Catalog`]: reads what the server's catalog has of the table `trust`, and checks whether the
//! table can be used.
//!
//! There is no table of migrations: the database may be another program's, with a migration tool of
//! its own. The catalog shows what is missing.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::failure::{failed, schema};
use super::location::Location;
use super::triggers::Triggers;
use crate::error::StoreError;

const TEXT: [&str; 2] = ["text", "character varying"];
const TIME: [&str; 2] = ["timestamp with time zone", "timestamp without time zone"];

/// The columns: each with the types that it may have, and whether a migration can add it.
type Wanted = (&'static str, &'static [&'static str], bool);

const WANTED: [Wanted; 9] = [
    ("id", &["uuid"], false),
    ("name", &TEXT, false),
    ("code", &TEXT, true),
    ("region", &TEXT, true),
    ("api_key_hash", &["text", "character varying", "character"], false),
    ("created_at", &TIME, false),
    ("last_heartbeat", &TIME, true),
    ("disabled_at", &TIME, true),
    ("attributes", &["jsonb", "json", "text", "character varying"], true),
];

/// The columns of `trust_key`, which only a migration makes.
const WANTED_OF_KEYS: [Wanted; 8] = [
    ("id", &["uuid"], false),
    ("trust", &["uuid"], false),
    ("label", &TEXT, false),
    ("digest", &TEXT, false),
    ("last_four", &TEXT, false),
    ("created_at", &[TIME[0]], false),
    ("expires_at", &[TIME[0]], false),
    ("revoked_at", &[TIME[0]], false),
];

/// What the catalog has.
#[derive(Debug)]
pub(super) enum Found {
    /// No table. A new one would be made in this schema, whose name is quoted.
    Nothing {
        namespace: Option<String>,
    },
    Table(Table),
}

/// A table that can be used once it has what it lacks.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) oid: i64,
    /// The table's schema, quoted.
    pub(super) namespace: String,
    /// The columns that are missing and can be added.
    pub(super) lacks: Vec<&'static str>,
    /// Whether the table `trust_key` is missing.
    pub(super) lacks_keys: bool,
    pub(super) triggers: Triggers,
    pub(super) may_be_read: bool,
    /// Whether the table `trust_key` may be read, if it is there.
    pub(super) keys_may_be_read: bool,
}

/// Reads the catalog of the database at a location.
pub(super) struct Catalog<'a> {
    pub(super) location: &'a Location,
    /// The time limit of a statement.
    pub(super) limit: Duration,
}

impl Catalog<'_> {
    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if no addition can make the table usable.
    pub(super) async fn read(&self, connection: &mut PgConnection) -> Result<Found, StoreError> {
        let facts = sqlx::query(
            "SELECT current_setting('server_encoding') <> 'SQL_ASCII', \
             quote_ident(current_schema()), \
             found.oid::oid::int8, relkind::text, quote_ident(nspname), \
             has_any_column_privilege(found.oid::oid, 'SELECT'), relpersistence::text \
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
            self.check_hidden_schemas(connection).await?;
            return Ok(Found::Nothing { namespace: self.get(&facts, 1)? });
        };
        if kind.as_deref() != Some("r") {
            return Err(self.unusable(
                "its `trust` is no ordinary table; rename that, or choose another schema",
            ));
        }
        let lacks = self.missing_columns(connection, oid, "trust", &WANTED).await?;
        self.check_unique(connection, oid).await?;
        let keys = self.read_keys(connection, oid).await?;
        let persistence: Option<String> = self.get(&facts, 6)?;
        if keys.is_none() && persistence.as_deref() != Some("p") {
            return Err(self.unusable(
                "its table `trust` is unlogged, and the table `trust_key` cannot refer to such a \
                 table; make it logged (`ALTER TABLE trust SET LOGGED`)",
            ));
        }
        let triggers =
            Triggers::read(&mut *connection).await.map_err(|error| self.failed(&error))?;
        let (namespace, may_be_read): (String, Option<bool>) =
            (self.get(&facts, 4)?, self.get(&facts, 5)?);
        Ok(Found::Table(Table {
            oid,
            namespace,
            lacks,
            lacks_keys: keys.is_none(),
            triggers,
            may_be_read: may_be_read.unwrap_or(false),
            keys_may_be_read: keys.unwrap_or(true),
        }))
    }

    /// Returns whether the table `trust_key` may be read, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the name leads to something else.
    async fn read_keys(
        &self,
        connection: &mut PgConnection,
        trust: i64,
    ) -> Result<Option<bool>, StoreError> {
        let found: Option<(i64, String, bool, bool)> = sqlx::query_as(
            "SELECT keys.oid::int8, keys.relkind::text, keys.relnamespace = trust.relnamespace, \
             has_any_column_privilege(keys.oid, 'SELECT') \
             FROM pg_class AS keys, pg_class AS trust \
             WHERE keys.oid = to_regclass('trust_key') AND trust.oid = $1::int8::oid",
        )
        .bind(trust)
        .fetch_optional(&mut *connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let Some((oid, kind, has_same_schema, may_be_read)) = found else { return Ok(None) };
        if kind != "r" || !has_same_schema {
            return Err(self.unusable(
                "its `trust_key` is no ordinary table in the schema of the table `trust`; rename \
                 that, or choose another schema",
            ));
        }
        self.missing_columns(connection, oid, "trust_key", &WANTED_OF_KEYS).await?;
        Ok(Some(may_be_read))
    }

    /// Checks that no schema of the search path that the role may not use has the table. The server
    /// would otherwise report that there is no table.
    async fn check_hidden_schemas(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let hidden: Option<String> = sqlx::query_scalar(
            "SELECT quote_ident(nspname) FROM pg_class \
             JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE relname = 'trust' AND relkind = 'r' \
             AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE') \
             AND EXISTS (SELECT FROM \
                 regexp_split_to_table(current_setting('search_path'), '\\s*,\\s*') AS entry \
                 WHERE entry IN \
                     (quote_ident(nspname), '\"' || replace(nspname, '\"', '\"\"') || '\"') \
                 OR (entry IN ('\"$user\"', '$user') AND nspname = current_user)) LIMIT 1",
        )
        .fetch_optional(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        match hidden {
            Some(namespace) => Err(self.missing_right(format!(
                "the right USAGE on the schema {namespace}, which has the table `trust`; let the \
                 schema's owner grant it"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the columns that are missing and can be added.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] for any other difference from the columns that are needed.
    async fn missing_columns(
        &self,
        connection: &mut PgConnection,
        table: i64,
        name: &str,
        wanted: &[Wanted],
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
        for &(wanted, types, can_be_added) in wanted {
            match columns.iter().find(|(column, ..)| column == wanted) {
                None if can_be_added => lacks.push(wanted),
                None => {
                    return Err(self.unusable(&format!(
                        "its table `{name}` has no column `{wanted}`, so it is another program's; \
                         choose another schema"
                    )));
                }
                Some((_, kind, _)) if !types.contains(&kind.as_str()) => {
                    return Err(self.unusable(&format!(
                        "the column `{wanted}` of its table `{name}` has the type `{kind}`, and \
                         must have `{}`; change it, or choose another schema",
                        types.join("` or `")
                    )));
                }
                // The modifier of a length counts four bytes of header.
                Some((_, _, modifier))
                    if wanted == "api_key_hash" && (0..64 + 4).contains(modifier) =>
                {
                    return Err(self.unusable(
                        "the column `api_key_hash` of its table `trust` is too short for 64 \
                         digits; make it longer",
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(lacks)
    }

    /// Checks that the database keeps ids and names unique.
    async fn check_unique(
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
                    "the column `{column}` of its table `trust` is not unique; add a unique \
                     constraint that is not deferrable"
                )));
            }
        }
        Ok(())
    }

    fn get<'r, T>(&self, row: &'r PgRow, index: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        row.try_get(index).map_err(|error| self.failed(&error))
    }

    /// Returns the diagnosis of an error of the driver.
    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some("42501") {
            return self.missing_right(
                "a right to make or extend the table `trust`; let the owner of the table, or of \
                 the schema, run `trust-auth migrate`"
                    .to_owned(),
            );
        }
        failed(error, self.location, self.limit)
    }

    pub(super) fn missing_right(&self, right: String) -> StoreError {
        StoreError::MissingRight { server: self.location.to_string(), right }
    }

    pub(super) fn unusable(&self, reason: &str) -> StoreError {
        schema(self.location, reason)
    }
}

impl Found {
    pub(super) fn has_what_is_read(&self) -> bool {
        matches!(self, Self::Table(table) if table.lacks.is_empty() && !table.lacks_keys)
    }
}
