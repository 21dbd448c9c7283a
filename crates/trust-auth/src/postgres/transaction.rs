//! [`Transaction`]: a write transaction on PostgreSQL, and its statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row, SqlStr};
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::{is_lost, schema};
use super::pool::Lent;
use super::row::{self, read_columns, select_keys};
use super::store::PostgresStore;
use crate::columns::time_text;
use crate::error::StoreError;
use crate::sql_ledger::{KeyRow, WriteTransaction};
use crate::store::Candidates;
use crate::table_names::{TableNames, TrustColumn};
use crate::text_flaw::nfc;
use crate::trust::Trust;
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

/// The first half of the key of the lock of imports. The second half is the table.
const IMPORT_LOCK: i32 = 1_952_543_339;

/// A transaction. Dropped without a commit, it closes its connection, and the server rolls back.
pub(super) struct Transaction<'a> {
    lent: Lent,
    store: &'a PostgresStore,
    /// Set before `COMMIT` is sent.
    commit_sent: Arc<AtomicBool>,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction. If a pooled connection turns out to be dead, it begins once more, on
    /// another connection.
    pub(super) async fn begin(
        store: &'a PostgresStore,
        commit_sent: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let mut may_repeat = true;
        loop {
            let mut lent = Lent::from(&store.writers).await?;
            // READ COMMITTED: each statement sees what was committed before it, whatever the
            // database's default is. READ WRITE: a server that has become a replica refuses it.
            let begun = sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
                .execute(lent.connection()?)
                .await;
            match begun {
                Ok(_) => return Ok(Self { lent, store, commit_sent }),
                Err(error) if may_repeat && is_lost(&error) && !lent.is_fresh() => {
                    may_repeat = false;
                    store.writers.drop_idle();
                }
                Err(error) => return Err(store.failed(&error)),
            }
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.lent.connection()
    }

    /// Fills a template.
    pub(super) fn sql(&self, template: &str) -> SqlStr {
        self.store.connector.names.for_postgres(template)
    }

    async fn execute(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        match query.execute(self.lent.connection()?).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(self.store.failed(&error)),
        }
    }

    async fn all<T: Send + Unpin>(
        &mut self,
        template: &str,
        read: impl Fn(&PgRow) -> Option<T> + Send,
    ) -> Result<Vec<T>, StoreError> {
        let sql = self.sql(template);
        let rows = sqlx::query(sql).fetch_all(self.lent.connection()?).await;
        let rows = rows.map_err(|error| self.store.failed(&error))?;
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Returns whether row-level security lets the role read the row, and not change it:
    /// [`find`](WriteTransaction::find) then finds no row.
    async fn is_hidden(&mut self, which: &TrustRef) -> Result<bool, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query_scalar(self.sql(
                "SELECT row_security_active('{trust_table}') \
                 AND EXISTS (SELECT FROM {trust_table} WHERE {id} = $1)",
            ))
            .bind(*id),
            TrustRef::Name(name) => sqlx::query_scalar(self.sql(
                "SELECT row_security_active('{trust_table}') AND EXISTS \
                 (SELECT FROM {trust_table} WHERE {name}::text COLLATE \"C\" IN ($1, $2))",
            ))
            .bind(name)
            .bind(nfc(name)),
        };
        query.fetch_one(self.lent.connection()?).await.map_err(|error| self.store.failed(&error))
    }
}

impl WriteTransaction for Transaction<'_> {
    const INTERCEPTORS: &'static str = "a trigger or a rule";

    async fn now(&mut self) -> Result<OffsetDateTime, StoreError> {
        let row = sqlx::query("SELECT clock_timestamp()").fetch_one(self.lent.connection()?).await;
        let now = row::time(&row.map_err(|error| self.store.failed(&error))?, 0);
        now.ok().flatten().ok_or(StoreError::Other("the server told no time".into()))
    }

    /// Locks the row by a first statement, and reads it by a second one: a snapshot that is older
    /// than the lock may lack what another transaction has changed of the keys.
    async fn find(&mut self, which: &TrustRef) -> Result<Trust, StoreError> {
        let query = match which {
            TrustRef::Id(id) => {
                let sql = self.sql("SELECT {id} FROM {trust_table} WHERE {id} = $1 FOR UPDATE");
                sqlx::query_scalar(sql).bind(*id)
            }
            // No text of PostgreSQL has a NUL character, and a query with one is refused.
            TrustRef::Name(name) if name.contains('\0') => {
                return Err(StoreError::NoSuchTrust { which: which.clone() });
            }
            // Compares exactly, independent of the column's collation. The cast chooses
            // PostgreSQL's own operator: another program may have made one for `varchar`.
            TrustRef::Name(name) => sqlx::query_scalar(self.sql(
                "SELECT {id} FROM {trust_table} WHERE {name}::text COLLATE \"C\" IN ($1, $2) \
                 ORDER BY {name}::text COLLATE \"C\" <> $1 LIMIT 1 FOR UPDATE",
            ))
            .bind(name)
            .bind(nfc(name)),
        };
        let id: Option<Uuid> = query
            .fetch_optional(self.lent.connection()?)
            .await
            .map_err(|error| self.store.failed(&error))?;
        let Some(id) = id else {
            if self.is_hidden(which).await? {
                return Err(StoreError::MissingRight {
                    server: self.store.server(),
                    right: format!(
                        "a policy by which row-level security lets it change this row of the \
                         table `{}`; let the table's owner make one",
                        self.store.connector.names.trust()
                    ),
                });
            }
            return Err(StoreError::NoSuchTrust { which: which.clone() });
        };
        let sql = concat!("SELECT FALSE, ", read_columns!(), " FROM {trust} WHERE id = $1");
        let row = sqlx::query(self.sql(sql)).bind(id).fetch_optional(self.lent.connection()?).await;
        let row = row.map_err(|error| self.store.failed(&error))?;
        let warnings = &self.store.warnings;
        let columns = row.as_ref().map(|row| row::columns(row, warnings)).transpose()?.flatten();
        let columns = columns.ok_or_else(|| StoreError::NoSuchTrust { which: which.clone() })?;
        Ok(columns.for_change(warnings))
    }

    async fn digests(&mut self) -> Result<Candidates, StoreError> {
        // A lock of imports alone: writes of other rows, such as heartbeats, do not wait for it.
        sqlx::query(
            self.sql("SELECT pg_advisory_xact_lock($1, '{trust_table}'::regclass::oid::int4)"),
        )
        .bind(IMPORT_LOCK)
        .execute(self.lent.connection()?)
        .await
        .map_err(|error| self.store.failed(&error))?;
        // Statements of their own: their snapshots are taken when the lock is held.
        let own =
            "SELECT FALSE, id, api_key_hash::text FROM {trust} WHERE api_key_hash IS NOT NULL";
        let keys = "SELECT FALSE, trust, digest::text FROM {trust_key_table}";
        let store = self.store;
        let own = self.all(own, |row| row::candidate(row, &store.warnings)).await?;
        let keys = self.all(keys, |row| row::key(row, &store.warnings)).await?;
        let mut digests = Candidates::with_capacity(own.len() + keys.len());
        for (id, hash) in own.into_iter().chain(keys) {
            digests.push(id, hash);
        }
        Ok(digests)
    }

    async fn keys(&mut self, trust: Uuid) -> Result<Vec<TrustKey>, StoreError> {
        let sql = self.sql(concat!("SELECT ", select_keys!("key.trust = $1")));
        let row = sqlx::query(sql).bind(trust).fetch_one(self.lent.connection()?).await;
        let row = row.map_err(|error| self.store.failed(&error))?;
        Ok(row::keys(&row, 0, trust, &self.store.warnings))
    }

    async fn key_row(&mut self, key: Uuid) -> Result<Option<KeyRow>, StoreError> {
        let sql = self.sql(
            "SELECT trust, digest::text, revoked_at IS NOT NULL FROM {trust_key_table} \
             WHERE id = $1",
        );
        let row = sqlx::query(sql).bind(key).fetch_optional(self.lent.connection()?).await;
        let row = row.map_err(|error| self.store.failed(&error))?;
        Ok(row.and_then(|row| {
            let hash = row.try_get::<&str, _>(1).ok().and_then(|digits| digits.parse().ok());
            Some(KeyRow { trust: row.try_get(0).ok()?, hash, is_revoked: row.try_get(2).ok()? })
        }))
    }

    async fn revoke_key(
        &mut self,
        key: Uuid,
        row: &KeyRow,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let query = sqlx::query(self.sql(
            "UPDATE {trust_key_table} SET revoked_at = $1::text::timestamptz \
             WHERE trust = $2 AND revoked_at IS NULL AND (id = $3 OR digest = $4)",
        ))
        .bind(time_text(now)?)
        .bind(row.trust)
        .bind(key)
        .bind(row.hash.map(KeyHash::to_hex));
        self.execute(query).await
    }

    async fn revoke_keys(
        &mut self,
        trust: Uuid,
        kept: &KeyHash,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let query = sqlx::query(self.sql(
            "UPDATE {trust_key_table} SET revoked_at = $3::text::timestamptz \
             WHERE trust = $1 AND revoked_at IS NULL AND digest <> $2",
        ))
        .bind(trust)
        .bind(kept.to_hex())
        .bind(time_text(now)?);
        self.execute(query).await
    }

    async fn unrevoked_keys(&mut self, trust: Uuid, kept: &KeyHash) -> Result<i64, StoreError> {
        sqlx::query_scalar(self.sql(
            "SELECT count(*) FROM {trust_key_table} \
             WHERE trust = $1 AND revoked_at IS NULL AND digest <> $2",
        ))
        .bind(trust)
        .bind(kept.to_hex())
        .fetch_one(self.lent.connection()?)
        .await
        .map_err(|error| self.store.failed(&error))
    }

    async fn end_keys(&mut self, keys: &[Uuid], end: OffsetDateTime) -> Result<u64, StoreError> {
        let query = sqlx::query(self.sql(
            "UPDATE {trust_key_table} SET expires_at = $1::text::timestamptz \
             WHERE id = ANY ($2) AND revoked_at IS NULL",
        ))
        .bind(time_text(end)?)
        .bind(keys.to_vec());
        self.execute(query).await
    }

    async fn insert(&mut self, trust: &Trust) -> Result<u64, StoreError> {
        // A parameter of a column that is left out stands in no expression.
        let insertion = self.store.connector.names.insertion(&[
            (TrustColumn::Id, "$1"),
            (TrustColumn::Name, "$2"),
            (TrustColumn::Code, "$3"),
            (TrustColumn::Region, "$4"),
            (TrustColumn::ApiKeyHash, "$5"),
            (TrustColumn::CreatedAt, "$6::text::timestamptz"),
            (TrustColumn::Attributes, "$7::text::jsonb"),
        ]);
        let sql = self.sql(&(insertion + " ON CONFLICT ({name}) DO NOTHING"));
        let query = sqlx::query(sql)
            .bind(trust.id)
            .bind(&trust.name)
            .bind(&trust.code)
            .bind(&trust.region)
            .bind(trust.api_key_hash.map(|hash| hash.to_hex()))
            .bind(trust.created_at.map(time_text).transpose()?)
            .bind(trust.attributes.as_ref().map(ToString::to_string));
        self.execute(query).await
    }

    async fn insert_key(&mut self, key: &TrustKey) -> Result<u64, StoreError> {
        let query = sqlx::query(self.sql(
            "INSERT INTO {trust_key_table} \
             (id, trust, label, digest, last_four, created_at, expires_at, revoked_at) \
             VALUES ($1, $2, $3, $4, $5, $6::text::timestamptz, $7::text::timestamptz, \
             $8::text::timestamptz)",
        ))
        .bind(key.id)
        .bind(key.trust)
        .bind(&key.label)
        .bind(key.hash.to_hex())
        .bind(&key.last_four)
        .bind(key.created_at.map(time_text).transpose()?)
        .bind(key.expires_at.map(time_text).transpose()?)
        .bind(key.revoked_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn set_hash(&mut self, id: Uuid, hash: Option<KeyHash>) -> Result<u64, StoreError> {
        let sql = self.sql("UPDATE {trust_table} SET {api_key_hash} = $2 WHERE {id} = $1");
        let query = sqlx::query(sql).bind(id).bind(hash.map(|hash| hash.to_hex()));
        self.execute(query).await
    }

    async fn set_disabled_at(
        &mut self,
        id: Uuid,
        disabled_at: Option<OffsetDateTime>,
    ) -> Result<u64, StoreError> {
        let query =
            sqlx::query(self.sql(
                "UPDATE {trust_table} SET {disabled_at} = $2::text::timestamptz WHERE {id} = $1",
            ))
            .bind(id)
            .bind(disabled_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn set_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> Result<u64, StoreError> {
        let sql =
            self.sql("UPDATE {trust_table} SET {attributes} = $2::text::jsonb WHERE {id} = $1");
        let query = sqlx::query(sql).bind(id).bind(attributes);
        self.execute(query).await
    }

    async fn has_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> Result<bool, StoreError> {
        let found: Option<bool> = sqlx::query_scalar(self.sql(
            "SELECT {attributes}::text::jsonb IS NOT DISTINCT FROM $2::text::jsonb \
             FROM {trust_table} WHERE {id} = $1",
        ))
        .bind(id)
        .bind(attributes)
        .fetch_optional(self.lent.connection()?)
        .await
        .map_err(|error| self.store.failed(&error))?;
        Ok(found == Some(true))
    }

    async fn delete(&mut self, id: Uuid) -> Result<u64, StoreError> {
        let sql = self.sql("DELETE FROM {trust_table} WHERE {id} = $1");
        self.execute(sqlx::query(sql).bind(id)).await
    }

    /// Decides whether there are leases **after** the write: its lock keeps a migration from making
    /// the triggers until the commit, and a holder that loads after that sees the change. The
    /// triggers are found by the table, and the function by the role's `search_path`: with triggers
    /// and no function, or that of another schema, the change would be final for no holder.
    ///
    /// The check is about the tables of trusts and keys. What their other triggers have changed
    /// elsewhere must not keep a key from being revoked: the function is not shown the records of
    /// other schemas.
    async fn barrier(&mut self) -> Result<Option<String>, StoreError> {
        let leases = sqlx::query(self.sql(
            "SELECT to_regprocedure('trust_auth_barrier(bool)') IS NOT NULL, EXISTS \
             (SELECT FROM pg_trigger JOIN pg_proc recorder ON recorder.oid = tgfoid \
              WHERE tgrelid IN (to_regclass('{trust_table}'), to_regclass('{trust_key_table}')) \
              AND tgname LIKE 'trust\\_auth\\_rec\\_%' \
              AND recorder.pronamespace IS DISTINCT FROM (SELECT pronamespace FROM pg_proc \
                  WHERE oid = to_regprocedure('trust_auth_barrier(bool)'))), \
             set_config('trust_auth.recorded', '', true)",
        ))
        .fetch_one(self.lent.connection()?)
        .await
        .and_then(|row| Ok((row.try_get::<bool, _>(0)?, row.try_get::<bool, _>(1)?)));
        match leases.map_err(|error| self.store.failed(&error))? {
            (_, true) => {
                let names = &self.store.connector.names;
                return Err(self.schema_error(&format!(
                    "the table `{}` or `{}` has the triggers of a read lease, and this role's \
                     `search_path` does not lead to the function `trust_auth_barrier` of their \
                     schema; put that schema first",
                    names.trust(),
                    names.trust_key()
                )));
            }
            (false, false) => return Ok(None),
            (true, false) => {}
        }
        let query = sqlx::query_scalar("SELECT trust_auth_barrier()");
        match query.fetch_one(self.lent.connection()?).await {
            Ok(barrier) => Ok(Some(barrier)),
            Err(error) => Err(self.store.feed().failed(&error)),
        }
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        // Relaxed: the same task reads the flag.
        self.commit_sent.store(true, Ordering::Relaxed);
        let done = sqlx::raw_sql("COMMIT").execute(self.lent.connection()?).await;
        done.map_err(|error| self.store.failed(&error))?;
        self.lent.give_back();
        Ok(())
    }

    fn names(&self) -> &TableNames {
        &self.store.connector.names
    }

    fn schema_error(&self, reason: &str) -> StoreError {
        schema(&self.store.connector.location, reason)
    }
}
