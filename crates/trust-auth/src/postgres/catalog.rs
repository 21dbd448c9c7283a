//! [`Catalog`]: reads what the server's catalog has of the tables of trusts and keys, and checks
//! whether they can be used.
//!
//! There is no table of migrations: the database may be another program's, with a migration tool of
//! its own. The catalog shows what is missing.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::connector::Connector;
use super::failure::{failed, schema};
use super::triggers::Triggers;
use crate::error::StoreError;
use crate::table_names::{TableNames, TrustColumn};

const TEXT: [&str; 2] = ["text", "character varying"];
const TIME: [&str; 2] = ["timestamp with time zone", "timestamp without time zone"];

/// The columns of the trusts: each with the types that it may have, and whether a migration can add
/// it.
const WANTED: [(TrustColumn, &[&str], bool); 9] = [
    (TrustColumn::Id, &["uuid"], false),
    (TrustColumn::Name, &TEXT, false),
    (TrustColumn::Code, &TEXT, true),
    (TrustColumn::Region, &TEXT, true),
    (TrustColumn::ApiKeyHash, &["text", "character varying", "character"], false),
    (TrustColumn::CreatedAt, &TIME, false),
    (TrustColumn::LastHeartbeat, &TIME, true),
    (TrustColumn::DisabledAt, &TIME, true),
    (TrustColumn::Attributes, &["jsonb", "json", "text", "character varying"], true),
];

/// The columns of the keys, which only a migration makes.
const WANTED_OF_KEYS: [(&str, &[&str]); 8] = [
    ("id", &["uuid"]),
    ("trust", &["uuid"]),
    ("label", &TEXT),
    ("digest", &TEXT),
    ("last_four", &TEXT),
    ("created_at", &[TIME[0]]),
    ("expires_at", &[TIME[0]]),
    ("revoked_at", &[TIME[0]]),
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
    pub(super) lacks: Vec<TrustColumn>,
    /// Whether the table of the keys is missing.
    pub(super) lacks_keys: bool,
    pub(super) triggers: Triggers,
    pub(super) may_be_read: bool,
    /// Whether the table of the keys may be read, if it is there.
    pub(super) keys_may_be_read: bool,
}

/// Reads the catalog of the database at a location.
pub(super) struct Catalog<'a> {
    pub(super) connector: &'a Connector,
}

impl Catalog<'_> {
    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if no addition can make the table usable.
    pub(super) async fn read(&self, connection: &mut PgConnection) -> Result<Found, StoreError> {
        let names = self.names();
        let facts = sqlx::query(names.for_postgres(
            "SELECT current_setting('server_encoding') <> 'SQL_ASCII', \
             quote_ident(current_schema()), \
             found.oid::oid::int8, relkind::text, quote_ident(nspname), \
             has_any_column_privilege(found.oid::oid, 'SELECT'), relpersistence::text, \
             relispartition OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = found.oid::oid) \
             FROM (SELECT to_regclass('{trust_table}') AS oid) AS found \
             LEFT JOIN pg_class ON pg_class.oid = found.oid \
             LEFT JOIN pg_namespace ON pg_namespace.oid = relnamespace",
        ))
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
            return Err(self.unusable(&format!(
                "its `{}` is no ordinary table; {}",
                names.trust(),
                self.way_out("rename that, or choose another schema", "name an ordinary table")
            )));
        }
        if self.get(&facts, 7)? {
            return Err(self.unusable(&format!(
                "its table `{}` is a partition, or has tables that inherit from it, whose rows no \
                 unique constraint and no trigger reaches; end that (`ALTER TABLE .. NO INHERIT \
                 ..`), or {}",
                names.trust(),
                self.way_out("choose another schema", "name an ordinary table")
            )));
        }
        let lacks = self.missing_columns(connection, oid).await?;
        self.check_unique(connection, oid).await?;
        let keys = self.read_keys(connection, oid).await?;
        let persistence: Option<String> = self.get(&facts, 6)?;
        if keys.is_none() && persistence.as_deref() != Some("p") {
            return Err(self.unusable(&format!(
                "its table `{}` is unlogged, and the table `{}` cannot refer to such a table; make \
                 it logged (`{}`)",
                names.trust(),
                names.trust_key(),
                names.for_postgres("ALTER TABLE {trust_table} SET LOGGED").as_str()
            )));
        }
        let triggers =
            Triggers::read(&mut *connection, names).await.map_err(|error| self.failed(&error))?;
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

    /// Returns whether the table of the keys may be read, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the name leads to something else.
    async fn read_keys(
        &self,
        connection: &mut PgConnection,
        trust: i64,
    ) -> Result<Option<bool>, StoreError> {
        let names = self.names();
        let id = names.name_of(TrustColumn::Id).unwrap_or_default();
        let found: Option<(i64, String, bool, bool, Option<String>)> =
            sqlx::query_as(names.for_postgres(
                "SELECT keys.oid::int8, keys.relkind::text, \
                 keys.relnamespace = trust.relnamespace, \
                 has_any_column_privilege(keys.oid, 'SELECT'), \
                 (SELECT other.relname || '.' || target.attname FROM pg_constraint \
                     JOIN pg_attribute AS source ON source.attrelid = conrelid \
                         AND conkey = ARRAY[source.attnum] \
                     JOIN pg_attribute AS target ON target.attrelid = confrelid \
                         AND confkey = ARRAY[target.attnum] \
                     JOIN pg_class AS other ON other.oid = confrelid \
                     WHERE conrelid = keys.oid AND contype = 'f' AND source.attname = 'trust' \
                     AND (other.oid <> trust.oid OR target.attname <> $2) LIMIT 1) \
                 FROM pg_class AS keys, pg_class AS trust \
                 WHERE keys.oid = to_regclass('{trust_key_table}') \
                 AND trust.oid = $1::int8::oid",
            ))
            .bind(trust)
            .bind(id)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| self.failed(&error))?;
        self.check_sole_keys(connection, trust).await?;
        let Some((oid, kind, has_same_schema, may_be_read, other)) = found else {
            return Ok(None);
        };
        let (name, trust) = (names.trust_key(), names.trust());
        if kind != "r" || !has_same_schema {
            return Err(self.unusable(&format!(
                "its `{name}` is no ordinary table in the schema of the table `{trust}`; rename \
                 that, or choose another {}",
                self.way_out("schema", "name for the table of keys")
            )));
        }
        if let Some(other) = other.filter(|_| names.are_own()) {
            return Err(self.unusable(&format!(
                "its table `{name}` refers to `{other}` and not to `{trust}.{id}`; correct the \
                 names, or give the table of keys another one"
            )));
        }
        let columns = self.columns(connection, oid).await?;
        for (wanted, types) in WANTED_OF_KEYS {
            if !columns.check(self, name, wanted, types)? {
                return Err(self.unusable(&format!(
                    "its table `{name}` has no column `{wanted}`, so it is another program's; \
                     choose another {}",
                    self.way_out("schema", "name for the table of keys")
                )));
            }
        }
        Ok(Some(may_be_read))
    }

    /// Checks that no other table has keys of these trusts: a rotation would not end them.
    async fn check_sole_keys(
        &self,
        connection: &mut PgConnection,
        trust: i64,
    ) -> Result<(), StoreError> {
        let names = self.names();
        let other: Option<String> = sqlx::query_scalar(names.for_postgres(
            "SELECT other.relname::text FROM pg_constraint \
             JOIN pg_class AS other ON other.oid = conrelid \
             JOIN pg_attribute AS source ON source.attrelid = conrelid \
                 AND conkey = ARRAY[source.attnum] \
             WHERE contype = 'f' AND confrelid = $1::int8::oid AND source.attname = 'trust' \
             AND conrelid IS DISTINCT FROM to_regclass('{trust_key_table}') \
             AND (SELECT count(*) FROM pg_attribute WHERE attrelid = conrelid AND attnum > 0 \
                 AND NOT attisdropped AND attname = ANY ($2)) = cardinality($2) LIMIT 1",
        ))
        .bind(trust)
        .bind(WANTED_OF_KEYS.map(|(column, _)| column).to_vec())
        .fetch_optional(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        match other {
            Some(other) => Err(self.unusable(&format!(
                "its table `{other}` has the keys of the table `{}`, and `{}` is named for them; \
                 name that table (`--key-table`, `TableNames::key_table`)",
                names.trust(),
                names.trust_key()
            ))),
            None => Ok(()),
        }
    }

    /// Checks that no schema of the search path that the role may not use has the table. The server
    /// would otherwise report that there is no table.
    async fn check_hidden_schemas(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let hidden: Option<String> = sqlx::query_scalar(
            "SELECT quote_ident(nspname) FROM pg_class \
             JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE relname = $1 AND relkind = 'r' \
             AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE') \
             AND EXISTS (SELECT FROM \
                 regexp_split_to_table(current_setting('search_path'), '\\s*,\\s*') AS entry \
                 WHERE entry IN \
                     (quote_ident(nspname), '\"' || replace(nspname, '\"', '\"\"') || '\"') \
                 OR (entry IN ('\"$user\"', '$user') AND nspname = current_user)) LIMIT 1",
        )
        .bind(self.names().trust())
        .fetch_optional(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        match hidden {
            Some(namespace) => Err(self.missing_right(format!(
                "the right USAGE on the schema {namespace}, which has the table `{}`; let the \
                 schema's owner grant it",
                self.names().trust()
            ))),
            None => Ok(()),
        }
    }

    /// Returns the columns of the trusts that are missing and can be added.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] for any other difference from the columns that are needed.
    async fn missing_columns(
        &self,
        connection: &mut PgConnection,
        table: i64,
    ) -> Result<Vec<TrustColumn>, StoreError> {
        let names = self.names();
        let name = names.trust();
        let columns = self.columns(connection, table).await?;
        let mut lacks = Vec::new();
        for (column, types, can_be_added) in WANTED {
            let Some(wanted) = names.name_of(column) else { continue };
            if !columns.check(self, name, wanted, types)? {
                if !can_be_added {
                    return Err(self.unusable(&format!(
                        "its table `{name}` has no column `{wanted}`{}",
                        self.way_out(
                            ", so it is another program's; choose another schema",
                            "; add it, or correct the names"
                        )
                    )));
                }
                lacks.push(column);
            }
            if columns.is_generated(wanted) {
                return Err(self.unusable(&format!(
                    "the column `{wanted}` of its table `{name}` is generated, and no change can \
                     write it; {}",
                    self.way_out("choose another schema", "name an ordinary column")
                )));
            }
            // The modifier of a length counts four bytes of header.
            if column == TrustColumn::ApiKeyHash && (0..64 + 4).contains(&columns.modifier(wanted))
            {
                return Err(self.unusable(&format!(
                    "the column `{wanted}` of its table `{name}` is too short for 64 digits; make \
                     it longer"
                )));
            }
        }
        Ok(lacks)
    }

    async fn columns(
        &self,
        connection: &mut PgConnection,
        table: i64,
    ) -> Result<FoundColumns, StoreError> {
        sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL), atttypmod, attgenerated <> '' \
             FROM pg_attribute \
             WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped",
        )
        .bind(table)
        .fetch_all(connection)
        .await
        .map(FoundColumns)
        .map_err(|error| self.failed(&error))
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
        let names = self.names();
        for column in [TrustColumn::Id, TrustColumn::Name] {
            let column = names.name_of(column).unwrap_or_default();
            if !unique.iter().any(|unique| unique == column) {
                return Err(self.unusable(&format!(
                    "the column `{column}` of its table `{}` is not unique; add a unique \
                     constraint that is not deferrable",
                    names.trust()
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
            return self.missing_right(format!(
                "a right to make or extend the table `{}`; let the owner of the table, or of the \
                 schema, run `trust-auth migrate`",
                self.names().trust()
            ));
        }
        failed(error, self.connector, self.connector.query_timeout)
    }

    pub(super) fn missing_right(&self, right: String) -> StoreError {
        StoreError::MissingRight { server: self.connector.location.to_string(), right }
    }

    pub(super) fn unusable(&self, reason: &str) -> StoreError {
        schema(&self.connector.location, reason)
    }

    pub(super) fn names(&self) -> &TableNames {
        &self.connector.names
    }

    /// Returns the words for the default names, or those for an application's own.
    fn way_out<'t>(&self, default: &'t str, own: &'t str) -> &'t str {
        if self.names().are_own() { own } else { default }
    }
}

/// The columns of a table: the name, the type, the type's modifier, and whether the server computes
/// the column, of each.
struct FoundColumns(Vec<(String, String, i32, bool)>);

impl FoundColumns {
    /// Returns whether the table has the column.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the column has another type.
    fn check(
        &self,
        catalog: &Catalog<'_>,
        table: &str,
        wanted: &str,
        types: &[&str],
    ) -> Result<bool, StoreError> {
        let Some((_, kind, ..)) = self.0.iter().find(|(column, ..)| column == wanted) else {
            return Ok(false);
        };
        if types.contains(&kind.as_str()) {
            return Ok(true);
        }
        Err(catalog.unusable(&format!(
            "the column `{wanted}` of its table `{table}` has the type `{kind}`, and must have \
             `{}`; change it, or choose another {}",
            types.join("` or `"),
            catalog.way_out("schema", "table")
        )))
    }

    fn modifier(&self, wanted: &str) -> i32 {
        let found = self.0.iter().find(|(column, ..)| column == wanted);
        found.map_or(-1, |(_, _, modifier, _)| *modifier)
    }

    fn is_generated(&self, wanted: &str) -> bool {
        self.0.iter().any(|(column, .., is_generated)| *is_generated && column == wanted)
    }
}

impl Found {
    pub(super) fn has_what_is_read(&self) -> bool {
        matches!(self, Self::Table(table) if table.lacks.is_empty() && !table.lacks_keys)
    }
}
