//! The lease's tables, and the triggers of the watched tables: what is there, what is missing, and
//! which tables are refused.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::source::{LeaseSource, are_sound, barrier_text};
use super::watched_table::{
    Compared, ComparedColumn, NamedColumn, TRIGGERS, TriggerSql, WatchedTable,
};
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::postgres::failure::schema;

/// The SQL that makes the lease's own tables.
pub(in crate::postgres) const READ_LEASE: &str =
    include_str!("../../../migrations/postgres/0004_read_lease.sql");

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;";

/// The number was chosen at random, so that no other program uses it.
const LOCK: &str = "SELECT pg_advisory_xact_lock(4810927746130582217);";

/// What the catalog has, on one snapshot.
pub(super) struct Catalog {
    /// The schema of the lease's tables, quoted.
    namespace: String,
    lacks_tables: bool,
    pub(super) tables: Vec<Resolved>,
}

/// A watched table, as the catalog has it.
pub(super) struct Resolved {
    pub(super) oid: i64,
    name: String,
    /// Qualified and quoted.
    qualified: String,
    sql: TriggerSql,
    has_triggers: bool,
}

impl Catalog {
    /// Reads the catalog.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if a table cannot be watched. The message names the table and the
    /// remedy.
    pub(super) async fn read(
        source: &LeaseSource,
        connection: &mut PgConnection,
    ) -> Result<Self, StoreError> {
        let failed = |error| source.failed(&error);
        let (namespace, has_tables): (Option<String>, bool) = sqlx::query_as(concat!(
            "SELECT coalesce((SELECT quote_ident(nspname) FROM pg_class \
                 JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                 WHERE pg_class.oid = coalesce(to_regclass('trust_auth_lease'), to_regclass($1))), \
                 quote_ident(current_schema())), ",
            are_sound!("$2")
        ))
        // The tables are where each changer of a trust finds them.
        .bind(source.tables.first().filter(|_| source.has_trusts).map(|table| &table.name))
        .bind(barrier_text())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
        let Some(namespace) = namespace else {
            return Err(source.unusable("the search_path names no schema that is there; make one"));
        };
        let lacks_tables = !has_tables;
        let mut tables = Vec::with_capacity(source.tables.len());
        for table in &*source.tables {
            tables.push(source.resolve(connection, &namespace, table).await?);
        }
        Ok(Self { namespace, lacks_tables, tables })
    }

    fn missing(&self) -> Vec<String> {
        let own = self.lacks_tables.then(|| {
            "the tables of the read lease in one schema with their function, logged, and without \
             row security for this role"
                .to_owned()
        });
        let triggers = self.tables.iter().filter(|table| !table.has_triggers);
        let named = triggers
            .map(|table| format!("the read lease's triggers on the table `{}`", table.name));
        own.into_iter().chain(named).collect()
    }

    /// Checks that nothing is missing.
    pub(super) fn check(&self, source: &LeaseSource) -> Result<(), StoreError> {
        match &*self.missing() {
            [] => Ok(()),
            missing => Err(source.unusable(&format!(
                "it lacks {}; let the owner of the watched tables run the read lease's migration: \
                 `trust-auth migrate --read-lease` for the table `trust`, or \
                 `PgChanges::run_migration`",
                missing.join(" and ")
            ))),
        }
    }

    fn plan(&self) -> MigrationPlan {
        let missing = self.missing();
        if missing.is_empty() {
            return MigrationPlan::default();
        }
        let path = format!("SET LOCAL search_path TO {};", self.namespace);
        let mut steps = vec![BEGIN.to_owned(), LOCK.to_owned(), path];
        if self.lacks_tables {
            steps.push(READ_LEASE.to_owned());
        }
        let tables = self.tables.iter().filter(|table| !table.has_triggers);
        steps.extend(tables.map(|table| table.sql.statements(&table.qualified)));
        steps.push("COMMIT;".to_owned());
        MigrationPlan::new(missing, steps)
    }
}

impl LeaseSource {
    pub(super) fn unusable(&self, reason: &str) -> StoreError {
        schema(&self.connector.location, reason)
    }

    /// Returns the SQL that adds what is missing.
    pub(super) async fn plan(&self) -> Result<MigrationPlan, StoreError> {
        let mut connection = self.connector.connect().await?;
        let catalog = Catalog::read(self, &mut connection).await;
        let _ = connection.close().await;
        Ok(catalog?.plan())
    }

    /// Adds what is missing, in one transaction. Returns what was done.
    pub(super) async fn migrate(&self) -> Result<MigrationPlan, StoreError> {
        let mut connection = self.connector.connect().await?;
        let done = self.migrate_on(&mut connection).await;
        let _ = connection.close().await;
        done
    }

    async fn migrate_on(&self, connection: &mut PgConnection) -> Result<MigrationPlan, StoreError> {
        if Catalog::read(self, connection).await?.plan().is_empty() {
            return Ok(MigrationPlan::default());
        }
        let path: String = sqlx::query_scalar("SELECT current_setting('search_path')")
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.failed(&error))?;
        self.run(connection, BEGIN).await?;
        self.run(connection, LOCK).await?;
        // Another process may have migrated meanwhile.
        let plan = Catalog::read(self, connection).await?.plan();
        for step in plan.steps().iter().skip(2).take(plan.steps().len().saturating_sub(3)) {
            self.run(connection, step).await?;
        }
        // As each later session finds the tables, and not as the steps above do.
        sqlx::query("SELECT set_config('search_path', $1, true)")
            .bind(&path)
            .execute(&mut *connection)
            .await
            .map_err(|error| self.failed(&error))?;
        let left = Catalog::read(self, connection).await?.missing();
        if !left.is_empty() {
            return Err(self.unusable(&format!(
                "something keeps the migration from making {}; look for event triggers, and for \
                 tables of the read lease that are unlogged, have row security, or lie in another \
                 schema of the search_path",
                left.join(" and ")
            )));
        }
        self.run(connection, "COMMIT;").await?;
        Ok(plan)
    }

    async fn run(&self, connection: &mut PgConnection, sql: &str) -> Result<(), StoreError> {
        // Safe: the texts are this version's. The server has quoted the names of the catalog, and
        // `resolve` refuses a name that would end the function's text.
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
        done.map(drop).map_err(|error| self.migration_failed(&error))
    }

    fn migration_failed(&self, error: &sqlx::Error) -> StoreError {
        if crate::postgres::failure::code(error) == Some("42501") {
            return StoreError::MissingRight {
                server: self.connector.location.to_string(),
                right: "ownership of each watched table, or the right CREATE on the schema; let \
                        the owner run the migration"
                    .into(),
            };
        }
        self.failed(error)
    }

    /// Finds a table in the catalog, and makes the SQL of its triggers.
    async fn resolve(
        &self,
        connection: &mut PgConnection,
        namespace: &str,
        table: &WatchedTable,
    ) -> Result<Resolved, StoreError> {
        let name = &table.name;
        let failed = |error: sqlx::Error| match crate::postgres::failure::code(&error) {
            // invalid_name, syntax_error: `to_regclass` cannot read the name.
            Some("42602" | "42601") => self.unusable(&format!(
                "`{name}` is no name of a table; write `table` or `schema.table`"
            )),
            _ => self.failed(&error),
        };
        let found: Option<(i64, String, String, String, bool, bool)> = sqlx::query_as(
            "SELECT c.oid::int8, quote_ident(nspname) || '.' || quote_ident(relname), \
                 relkind::text, relpersistence::text, relispartition, relhassubclass \
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace \
             WHERE c.oid = to_regclass($1)",
        )
        .bind(name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        let Some((oid, qualified, kind, persistence, is_partition, has_children)) = found else {
            return Err(self.unusable(&format!(
                "it has no table `{name}`; check the name and the search_path"
            )));
        };
        let refusal = refusal(&kind, &persistence, is_partition, has_children);
        if let Some(reason) = refusal {
            return Err(self.unusable(&format!("`{name}` {reason}")));
        }
        let (named, compared) = self.columns(connection, table, oid).await?;
        let sql = TriggerSql::new(namespace, &qualified, table, &named, &compared);
        if format!("{}{qualified}", sql.body).contains("$trust_auth$") {
            return Err(self.unusable(&format!("`{name}` has the text `$trust_auth$` in a name")));
        }
        let has_triggers = self.has_triggers(connection, oid, &sql).await?;
        Ok(Resolved { oid, name: name.clone(), qualified, sql, has_triggers })
    }

    /// Returns the columns that a change names, and those that are compared.
    async fn columns(
        &self,
        connection: &mut PgConnection,
        table: &WatchedTable,
        oid: i64,
    ) -> Result<(Vec<NamedColumn>, Vec<ComparedColumn>), StoreError> {
        let columns: Vec<(String, String, String, i16)> = sqlx::query_as(
            "SELECT attname::text, quote_ident(attname), format_type(atttypid, NULL), attnum \
             FROM pg_attribute WHERE attrelid = $1::int8::oid AND attnum > 0 \
             AND NOT attisdropped AND attgenerated <> 'v' ORDER BY attnum",
        )
        .bind(oid)
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        let name = &table.name;
        let find = |wanted: &str| {
            columns.iter().find(|(column, ..)| column == wanted).ok_or_else(|| {
                self.unusable(&format!(
                    "its table `{name}` has no column `{wanted}`; correct the declaration"
                ))
            })
        };
        let mut named = Vec::new();
        for column in table.named() {
            let (_, quoted, kind, _) = find(column)?;
            let is_key = table.key.as_deref() == Some(column);
            let is_bytes = kind == "bytea";
            let fits = match kind.as_str() {
                "text" | "character varying" | "character" => true,
                "bytea" => is_key,
                "uuid" | "smallint" | "integer" | "bigint" => !is_key,
                _ => false,
            };
            if !fits {
                let wanted = if is_key { "text or bytea" } else { "uuid, an integer or text" };
                return Err(self.unusable(&format!(
                    "the column `{column}` of its table `{name}` has the type `{kind}`, and must \
                     be {wanted}; name another column, or let the table end everything"
                )));
            }
            named.push(NamedColumn {
                source: table.source(column),
                quoted: quoted.clone(),
                is_bytes,
            });
        }
        let compared_column = |(_, quoted, _, number): &(String, String, String, i16)| {
            ComparedColumn { quoted: quoted.clone(), number: *number }
        };
        let compared = match &table.compared {
            Compared::Only(only) => only
                .iter()
                .map(|column| find(column).map(compared_column))
                .collect::<Result<Vec<_>, _>>()?,
            Compared::AllBut(ignored) => {
                for column in ignored {
                    find(column)?;
                    if table.named().any(|named| named == column) {
                        return Err(self.unusable(&format!(
                            "the column `{column}` of its table `{name}` is ignored, and finds \
                             what a change ends; leave one of the two out"
                        )));
                    }
                }
                let kept = columns.iter().filter(|(column, ..)| !ignored.contains(column));
                kept.map(compared_column).collect()
            }
        };
        if compared.is_empty() {
            return Err(self.unusable(&format!(
                "each column of its table `{name}` is ignored; leave one out of the list"
            )));
        }
        Ok((named, compared))
    }

    /// Returns whether all triggers are this version's, for the columns of now, and turned on.
    async fn has_triggers(
        &self,
        connection: &mut PgConnection,
        oid: i64,
        sql: &TriggerSql,
    ) -> Result<bool, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM unnest($2::text[], $3::int2[]) AS wanted (name, type) \
             JOIN pg_trigger AS g ON g.tgrelid = $1::int8::oid AND g.tgname = wanted.name \
                 AND g.tgtype = wanted.type AND g.tgenabled = 'A' AND g.tgattr::text = '' \
                 AND g.tgargs = convert_to($4, 'UTF8') || '\\x00'::bytea \
                 AND (g.tgqual IS NOT NULL) = (wanted.type & 16 <> 0) \
             JOIN pg_proc AS f ON f.oid = g.tgfoid AND f.prosrc = $5 AND f.prosecdef \
                 AND f.oid = to_regprocedure($6 || '()')",
        )
        .bind(oid)
        .bind(TRIGGERS.map(|(name, _)| name.to_owned()).to_vec())
        .bind(TRIGGERS.map(|(_, kind)| kind).to_vec())
        .bind(&sql.stamp)
        .bind(&sql.body)
        .bind(&sql.function)
        .fetch_one(connection)
        .await
        .map_err(|error| self.failed(&error))?;
        Ok(count == TRIGGERS.len() as i64)
    }
}

/// Returns why a table cannot be watched: its rows would change without its triggers (RL1).
fn refusal(
    kind: &str,
    persistence: &str,
    is_partition: bool,
    has_children: bool,
) -> Option<&'static str> {
    match (kind, persistence) {
        ("p", _) => Some(
            "is partitioned, and a change of a partition fires no trigger of the whole; watch an \
             ordinary table",
        ),
        ("v" | "m", _) => {
            Some("is a view, whose rows change without a trigger; watch the tables behind it")
        }
        ("f", _) => Some(
            "is a foreign table, whose rows change on another server without a trigger here; \
             watch the table on its own server",
        ),
        ("r", "t") => Some("is temporary, and no other session sees it; watch an ordinary table"),
        ("r", "u") => Some(
            "is unlogged, and a crash empties it without a trigger; make it logged \
             (`ALTER TABLE .. SET LOGGED`)",
        ),
        ("r", _) if is_partition => {
            Some("is a partition, and may be replaced as a whole; watch an ordinary table")
        }
        ("r", _) if has_children => Some(
            "has or had tables that inherit from it, whose rows are read with it and fire no \
             trigger of it; end the inheritance (`ALTER TABLE .. NO INHERIT ..`), then run \
             `ANALYZE` for the table",
        ),
        ("r", _) => None,
        _ => Some("is no table; watch an ordinary table"),
    }
}
