//! The indexes on the digests: found rows, the check that there are any, and their making. Nothing
//! but `find` compares a column of digests with a value, so no other statement can use the indexes
//! to look a digest up.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
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

/// Selects the row that was made last of those with the digest, in lower and in upper case: of the
/// keys, and otherwise of the trusts. Returns a row in any case: without the trust, the server's
/// answer is still needed.
const FIND: &str = concat!(
    "SELECT pg_is_in_recovery(), coalesce( \
     (SELECT key.trust FROM trust_key AS key JOIN trust ON trust.id = key.trust \
      WHERE key.digest = ANY ($1) AND disabled_at IS NULL AND ",
    is_active!(),
    " ORDER BY key.created_at DESC, key.id DESC LIMIT 1), \
     (SELECT id FROM trust WHERE api_key_hash = ANY ($1) AND disabled_at IS NULL \
      ORDER BY created_at DESC, id DESC LIMIT 1))"
);

/// The columns of digests, each with its table and the name of the index that a migration makes.
const INDEXES: [(&str, &str, &str); 2] =
    [("trust", "api_key_hash", "trust_api_key_hash"), ("trust_key", "digest", "trust_key_digest")];

/// Reads the schema of a table, the type of its column, whether an index can be used for a lookup,
/// and whether an earlier attempt left an index that is not valid.
const READ: &str = "SELECT quote_ident(nspname), format_type(atttypid, NULL), \
    EXISTS (SELECT FROM pg_index \
        JOIN pg_class AS made ON made.oid = indexrelid JOIN pg_am ON pg_am.oid = made.relam \
        WHERE indrelid = pg_class.oid AND indkey[0] = attnum AND indpred IS NULL \
        AND indisvalid AND indisready AND indislive AND indcollation[0] = attcollation \
        AND amname IN ('btree', 'hash')), \
    EXISTS (SELECT FROM pg_index JOIN pg_class AS made ON made.oid = indexrelid \
        WHERE indrelid = pg_class.oid AND made.relname = $3 \
        AND NOT indisvalid) \
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
    JOIN pg_attribute ON attrelid = pg_class.oid AND attname = $2 \
    WHERE pg_class.oid = to_regclass($1)";

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
                let plan = plan_on(&self.connector, lent.connection()?).await?;
                lent.give_back();
                Ok(plan)
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
        let found = self.within(rights::READ, self.rows(FIND, Key::Digits(digits), id)).await?;
        match found.into_iter().next().transpose() {
            Ok(id) => Ok(id.flatten()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

/// Returns what making the index would do.
pub(super) async fn plan(connector: &Connector) -> Result<MigrationPlan, StoreError> {
    let mut connection = connector.connect().await?;
    let plan = plan_on(connector, &mut connection).await;
    let _ = connection.close().await;
    plan
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
    let plan = plan_on(connector, connection).await?;
    for step in plan.steps() {
        // Safe: the text is of this file, and the server has quoted the schema's name.
        sqlx::raw_sql(AssertSqlSafe(step.clone()))
            .execute(&mut *connection)
            .await
            .map_err(|error| failed(&error, &connector.location, connector.query_timeout))?;
    }
    let left = plan_on(connector, connection).await?;
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

async fn plan_on(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<MigrationPlan, StoreError> {
    let (mut missing, mut steps) = (Vec::new(), Vec::new());
    for (table, column, name) in INDEXES {
        let read: Option<(String, String, bool, bool)> = sqlx::query_as(READ)
            .bind(table)
            .bind(column)
            .bind(name)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| failed(&error, &connector.location, connector.query_timeout))?;
        let (qualified, has_invalid) = match read {
            // For a dry run: the table is still to be made.
            None => (table.to_owned(), None),
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
            Some((_, _, true, _)) => continue,
            Some((namespace, _, false, has_invalid)) => {
                (format!("{namespace}.{table}"), has_invalid.then_some(namespace))
            }
        };
        missing.push(format!("the index `{name}`"));
        if let Some(namespace) = has_invalid {
            steps.push(format!("DROP INDEX CONCURRENTLY {namespace}.{name};"));
        }
        // Not unique: two rows may have one digest, of which the later one counts. A unique index
        // could not be made on such a table, and would make writes of other programs fail.
        steps.push(format!("CREATE INDEX CONCURRENTLY {name} ON {qualified} ({column});"));
    }
    Ok(MigrationPlan::new(missing, steps))
}
