//! The indexes on the digests: found rows, the check that there are any, and their making. Nothing
//! but `find` compares a column of digests with a value, so no other statement can use the indexes
//! to look a digest up.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, SqlStr};
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::connector::Connector;
use super::failure::{failed, schema};
use super::pool::Lent;
use super::read::Key;
use super::rights;
use super::row::is_active;
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::table_names::{TableNames, TrustColumn};

/// Selects the row that was made last of those with the digest, in lower and in upper case: of the
/// keys, and otherwise of the trusts. Returns a row in any case: without the trust, the server's
/// answer is still needed.
pub(super) const FIND: &str = concat!(
    "SELECT pg_is_in_recovery(), coalesce( \
     (SELECT key.trust FROM {trust_key_table} AS key JOIN {trust} ON trust.id = key.trust \
      WHERE key.digest = ANY ($1) AND disabled_at IS NULL AND ",
    is_active!(),
    " ORDER BY key.created_at DESC, key.id DESC LIMIT 1), \
     (SELECT id FROM {trust} WHERE api_key_hash = ANY ($1) AND disabled_at IS NULL \
      ORDER BY created_at DESC, id DESC LIMIT 1))"
);

/// Lets one process at a time make indexes. The number was chosen at random, so that no other
/// program uses it. A statement that waited for the lock would hold a snapshot, and the process
/// that has the lock would wait for the end of that snapshot.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(3120466928517743906)";

/// The pause between two looks whether another process has made its index.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads the schema of a table, the type of its column, whether an index can be used for a lookup,
/// whether there is an index that is not valid, and whether a session makes one of the table's
/// indexes. The server does not show the tables of other roles' sessions.
const READ: &str = "SELECT quote_ident(nspname), format_type(atttypid, NULL), \
    EXISTS (SELECT FROM pg_index \
        JOIN pg_class AS made ON made.oid = indexrelid JOIN pg_am ON pg_am.oid = made.relam \
        WHERE indrelid = pg_class.oid AND indkey[0] = attnum AND indpred IS NULL \
        AND indisvalid AND indisready AND indislive AND indcollation[0] = attcollation \
        AND amname IN ('btree', 'hash')), \
    EXISTS (SELECT FROM pg_index JOIN pg_class AS made ON made.oid = indexrelid \
        WHERE indrelid = pg_class.oid AND made.relname = $3 \
        AND NOT indisvalid), \
    EXISTS (SELECT FROM pg_stat_progress_create_index AS made \
        WHERE datname = current_database() AND (made.relid IS NULL OR made.relid = pg_class.oid)) \
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
    JOIN pg_attribute ON attrelid = pg_class.oid AND attname = $2 \
    WHERE pg_class.oid = to_regclass(quote_ident($1))";

impl PostgresStore {
    /// Checks that [`find`](crate::TrustStore::find) can use an index. Call it once, before
    /// [`FindBy::Index`](crate::FindBy::Index). Without an index, a find reads all rows.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoIndex`], with the SQL that makes one, or any other [`StoreError`].
    pub async fn check_index(&self) -> Result<(), StoreError> {
        let plan = self
            .within(rights::READ, async {
                let mut lent = Lent::from(&self.readers).await?;
                let found = read(&self.connector, lent.connection()?).await?;
                lent.give_back();
                Ok(plan_for(&found))
            })
            .await?;
        if plan.is_empty() {
            return Ok(());
        }
        let sql = plan.to_string().trim_end().to_owned();
        Err(StoreError::NoIndex { path: self.server().into(), sql })
    }

    pub(super) async fn find_by_index(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        let lower = hash.to_hex();
        let digits = vec![lower.to_uppercase(), lower];
        let id = |row: &sqlx::postgres::PgRow| sqlx::Row::try_get::<Option<Uuid>, _>(row, 1);
        let found = self
            .within(rights::READ, self.rows(&self.statements.find, Key::Digits(digits), id))
            .await?;
        match found.into_iter().next().transpose() {
            Ok(id) => Ok(id.flatten()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

/// Returns what making the index would do.
pub(super) async fn plan(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    let mut connection = connector.connect().await?;
    let found = read(connector, &mut connection).await;
    let _ = connection.close().await;
    Ok(plan_for(&found?))
}

/// Makes the index unless there is one, without a lock that keeps writes out, and so outside of a
/// transaction. Returns what was done.
pub(super) async fn make(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    let mut connection = connector.connect().await?;
    let made = make_on(connector, &mut connection).await;
    let _ = connection.close().await;
    made
}

async fn make_on(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<MigrationPlan, StoreError> {
    if plan_for(&read(connector, connection).await?).is_empty() {
        return Ok(MigrationPlan::default());
    }
    // The end of the connection releases the lock.
    while !try_lock(connector, connection).await? {
        tokio::time::sleep(PAUSE).await;
    }
    // Two sessions that make indexes of one table wait for each other.
    let mut found = read(connector, connection).await?;
    while found.iter().any(|column| column.is_being_indexed) {
        tokio::time::sleep(PAUSE).await;
        found = read(connector, connection).await?;
    }
    let plan = plan_for(&found);
    for step in plan.steps() {
        // Safe: the text is of this file, the names were checked, and the server has quoted the
        // schema's name.
        sqlx::raw_sql(AssertSqlSafe(step.clone()))
            .execute(&mut *connection)
            .await
            .map_err(|error| failed(&error, connector, connector.query_timeout))?;
    }
    let left = plan_for(&read(connector, connection).await?);
    if !left.is_empty() {
        return Err(schema(
            &connector.location,
            &format!(
                "{} cannot be used to find a digest; drop it, and try again",
                left.missing().join(" and ")
            ),
        ));
    }
    Ok(plan)
}

async fn try_lock(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar(TRY_LOCK).fetch_one(connection).await;
    locked.map_err(|error| failed(&error, connector, connector.query_timeout))
}

/// A column of digests.
struct Digests<'a> {
    table: &'a str,
    column: &'a str,
    /// The index that a migration makes.
    index: String,
    /// The same three, as SQL.
    sql: [SqlStr; 3],
}

impl Digests<'_> {
    fn of(names: &TableNames) -> [Digests<'_>; 2] {
        let sql = |texts: [&str; 3]| texts.map(|text| names.for_postgres(text));
        [
            Digests {
                table: names.trust(),
                column: names.name_of(TrustColumn::ApiKeyHash).unwrap_or_default(),
                index: names.own_name("trust_api_key_hash"),
                sql: sql(["{trust_table}", "{api_key_hash}", "{own:trust_api_key_hash}"]),
            },
            Digests {
                table: names.trust_key(),
                column: "digest",
                index: names.own_name("trust_key_digest"),
                sql: sql(["{trust_key_table}", "digest", "{own:trust_key_digest}"]),
            },
        ]
    }
}

/// A column of digests without an index that can be used.
struct Lacking {
    /// The index that a migration makes, as it is spelt.
    name: String,
    /// The column and the index, as SQL.
    column: SqlStr,
    index: SqlStr,
    /// The table, with its schema if it is there, as SQL.
    table: String,
    /// The quoted name of an index that is not valid.
    invalid: Option<String>,
    is_being_indexed: bool,
}

async fn read(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<Vec<Lacking>, StoreError> {
    let mut found = Vec::new();
    for Digests { table, column, index, sql } in Digests::of(&connector.names) {
        let row: Option<(String, String, bool, bool, bool)> = sqlx::query_as(READ)
            .bind(table)
            .bind(column)
            .bind(&index)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| failed(&error, connector, connector.query_timeout))?;
        let [sql_table, sql_column, sql_index] = sql;
        let lacking = Lacking {
            name: index,
            column: sql_column,
            index: sql_index,
            table: sql_table.as_str().to_owned(),
            invalid: None,
            is_being_indexed: false,
        };
        found.push(match row {
            // For a dry run: the table is still to be made.
            None => lacking,
            // Its comparison with a text converts the column, which no index has.
            Some((_, kind, ..)) if kind == "character" => {
                return Err(schema(
                    &connector.location,
                    &format!(
                        "the column `{column}` of its table `{table}` has the type `character`, \
                         which no index finds by a text; change it to `varchar(64)`, or find by a \
                         scan"
                    ),
                ));
            }
            Some((_, _, true, ..)) => continue,
            Some((namespace, _, false, has_invalid, is_being_indexed)) => Lacking {
                table: format!("{namespace}.{}", lacking.table),
                invalid: has_invalid.then(|| format!("{namespace}.{}", lacking.index.as_str())),
                is_being_indexed,
                ..lacking
            },
        });
    }
    Ok(found)
}

fn plan_for(found: &[Lacking]) -> MigrationPlan {
    let (mut missing, mut steps) = (Vec::new(), Vec::new());
    for Lacking { name, column, index, table, invalid, is_being_indexed } in found {
        missing.push(format!("the index `{name}`"));
        if *is_being_indexed {
            steps.push(format!("-- An index of {table} is being made. Wait, and plan again."));
            continue;
        }
        if let Some(invalid) = invalid {
            steps.push(format!("DROP INDEX CONCURRENTLY {invalid};"));
        }
        // Not unique: two rows may have one digest, of which the later one counts. A unique index
        // could not be made on such a table, and would make writes of other programs fail.
        let (index, column) = (index.as_str(), column.as_str());
        steps.push(format!("CREATE INDEX CONCURRENTLY {index} ON {table} ({column});"));
    }
    MigrationPlan::new(missing, steps)
}
