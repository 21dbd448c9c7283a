//! [`Statements`]: the statements of the reads, with the names that the file uses. They are made
//! once, because a request waits for some of them.

use sqlx::SqlStr;

use super::row::read_columns;
use super::{ended, index, packed, read_lease, watch};
use crate::table_names::TableNames;

/// A clone of a statement copies no text.
pub(super) struct Statements {
    pub(super) names: TableNames,
    pub(super) fetch: SqlStr,
    pub(super) list: SqlStr,
    pub(super) find: SqlStr,
    pub(super) packed: SqlStr,
    pub(super) other_trusts: SqlStr,
    pub(super) other_keys: SqlStr,
    pub(super) watched_trusts: SqlStr,
    pub(super) watched_keys: SqlStr,
    pub(super) ended: SqlStr,
    pub(super) load: SqlStr,
}

/// Selects the row with an id.
const FETCH: &str = concat!("SELECT ", read_columns!(), " FROM {trust} WHERE id = ?1");

/// Selects all rows.
const LIST: &str = concat!("SELECT ", read_columns!(), " FROM {trust} ORDER BY name");

impl Statements {
    /// Fills the statements with names that were checked.
    pub(super) fn of(names: TableNames) -> Self {
        let filled = |template| names.for_sqlite(template);
        Self {
            fetch: filled(FETCH),
            list: filled(LIST),
            find: filled(index::FIND),
            packed: filled(packed::PACKED),
            other_trusts: filled(packed::OTHER_TRUSTS),
            other_keys: filled(packed::OTHER_KEYS),
            watched_trusts: filled(watch::OWN),
            watched_keys: filled(watch::OTHERS),
            ended: filled(ended::ENDED),
            load: filled(read_lease::LOAD),
            names,
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Row, SqliteConnection};

    use super::*;
    use crate::sqlite::SqliteStore;
    use crate::table_names::TrustColumn;

    fn names() -> TableNames {
        TableNames::default()
            .table("users")
            .key_table("user_keys")
            .column(TrustColumn::Id, "user_id")
            .column(TrustColumn::Name, "email")
            .column(TrustColumn::ApiKeyHash, "key_sha256")
            .column(TrustColumn::DisabledAt, "gone_at")
            .without(TrustColumn::Code)
            .without(TrustColumn::LastHeartbeat)
            .without(TrustColumn::Attributes)
    }

    /// Returns each statement, and how it reads new tables of these names.
    async fn plans(names: TableNames) -> Vec<(String, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut hand = options.create_if_missing(true).connect().await.unwrap();
        if names.are_own() {
            let table = "CREATE TABLE users (user_id TEXT NOT NULL PRIMARY KEY, \
                         email TEXT NOT NULL UNIQUE, region TEXT, key_sha256 TEXT, \
                         created_at TEXT NOT NULL, gone_at TEXT) STRICT";
            sqlx::raw_sql(table).execute(&mut hand).await.unwrap();
        }
        let options = SqliteStore::options(&path).names(names.clone());
        options.run_migration().await.unwrap();
        options.make_index().await.unwrap();
        let statements = Statements::of(names);
        let mut plans = Vec::new();
        for statement in [
            &statements.fetch,
            &statements.list,
            &statements.find,
            &statements.packed,
            &statements.other_trusts,
            &statements.other_keys,
            &statements.watched_trusts,
            &statements.watched_keys,
            &statements.ended,
            &statements.load,
        ] {
            plans.push((statement.as_str().to_owned(), plan(&mut hand, statement).await));
        }
        plans
    }

    async fn plan(connection: &mut SqliteConnection, statement: &SqlStr) -> Vec<String> {
        let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", statement.as_str()));
        let steps = sqlx::query(sql).fetch_all(connection).await.unwrap();
        let steps = steps.iter().map(|step| step.try_get::<String, _>("detail").unwrap());
        // The numbers of subqueries differ. Whether an `EXISTS` is a join or a subquery, it reads
        // the same rows.
        steps
            .filter(|step| !step.contains(" SUBQUERY "))
            .map(|step| match step.split_once("(subquery-") {
                Some((step, _)) => step.to_owned(),
                None => step.replace("trust EXISTS USING", "trust USING"),
            })
            .collect()
    }

    /// SQLite merges the subquery of `{trust}` into each statement.
    #[tokio::test]
    async fn a_table_of_another_name_is_read_by_the_plans_of_the_default_one() {
        let (default, own) = (plans(TableNames::default()).await, plans(names()).await);
        assert!(default[0].1[0].starts_with("SEARCH trust USING INDEX"), "{default:?}");
        for ((_, default), (sql, own)) in default.into_iter().zip(own) {
            let renamed = own.iter().map(|step| {
                [
                    ("_users.user_keys", ""),
                    ("sqlite_autoindex_users_", "sqlite_autoindex_trust_"),
                    ("user_id", "id"),
                    ("email", "name"),
                    ("key_sha256", "api_key_hash"),
                ]
                .iter()
                .fold(step.clone(), |step, (own, default)| step.replace(own, default))
            });
            assert_eq!(renamed.collect::<Vec<_>>(), default, "{sql}");
        }
    }
}
