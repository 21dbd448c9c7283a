//! [`Transaction`]: a write transaction on PostgreSQL, and its statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::{is_lost, schema};
use super::pool::Lent;
use super::row::{self, read_columns};
use super::store::PostgresStore;
use crate::columns::time_text;
use crate::error::StoreError;
use crate::sql_ledger::WriteTransaction;
use crate::store::Candidates;
use crate::text_flaw::nfc;
use crate::trust::Trust;
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

    async fn execute(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        match query.execute(self.lent.connection()?).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(self.store.failed(&error)),
        }
    }

    /// Returns whether row-level security lets the role read the row, and not change it:
    /// [`find`](WriteTransaction::find) then finds no row.
    async fn is_hidden(&mut self, which: &TrustRef) -> Result<bool, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query_scalar(
                "SELECT row_security_active('trust') AND EXISTS (SELECT FROM trust WHERE id = $1)",
            )
            .bind(*id),
            TrustRef::Name(name) => sqlx::query_scalar(
                "SELECT row_security_active('trust') AND EXISTS \
                 (SELECT FROM trust WHERE name::text COLLATE \"C\" IN ($1, $2))",
            )
            .bind(name)
            .bind(nfc(name)),
        };
        query.fetch_one(self.lent.connection()?).await.map_err(|error| self.store.failed(&error))
    }
}

impl WriteTransaction for Transaction<'_> {
    const INTERCEPTORS: &'static str = "a trigger or a rule";

    async fn find(&mut self, which: &TrustRef) -> Result<Trust, StoreError> {
        let query = match which {
            TrustRef::Id(id) => sqlx::query(concat!(
                "SELECT FALSE, ",
                read_columns!(),
                " FROM trust WHERE id = $1 FOR UPDATE"
            ))
            .bind(*id),
            // No text of PostgreSQL has a NUL character, and a query with one is refused.
            TrustRef::Name(name) if name.contains('\0') => {
                return Err(StoreError::NoSuchTrust { which: which.clone() });
            }
            // Compares exactly, independent of the column's collation. The cast chooses
            // PostgreSQL's own operator: another program may have made one for `varchar`.
            TrustRef::Name(name) => sqlx::query(concat!(
                "SELECT FALSE, ",
                read_columns!(),
                " FROM trust WHERE name::text COLLATE \"C\" IN ($1, $2) \
                 ORDER BY name::text COLLATE \"C\" <> $1 LIMIT 1 FOR UPDATE"
            ))
            .bind(name)
            .bind(nfc(name)),
        };
        let row = query.fetch_optional(self.lent.connection()?).await;
        let row = row.map_err(|error| self.store.failed(&error))?;
        let warnings = &self.store.warnings;
        let columns = row.as_ref().map(|row| row::columns(row, warnings)).transpose()?.flatten();
        match columns {
            Some(columns) => Ok(columns.for_change(warnings)),
            None if self.is_hidden(which).await? => Err(StoreError::MissingRight {
                server: self.store.server(),
                right: "a policy by which row-level security lets it change this row of the table \
                        `trust`; let the table's owner make one"
                    .into(),
            }),
            None => Err(StoreError::NoSuchTrust { which: which.clone() }),
        }
    }

    async fn keys(&mut self) -> Result<Candidates, StoreError> {
        // A lock of imports alone: writes of other rows, such as heartbeats, do not wait for it.
        sqlx::query("SELECT pg_advisory_xact_lock($1, 'trust'::regclass::oid::int4)")
            .bind(IMPORT_LOCK)
            .execute(self.lent.connection()?)
            .await
            .map_err(|error| self.store.failed(&error))?;
        // A statement of its own: its snapshot is taken when the lock is held.
        let rows = sqlx::query(
            "SELECT FALSE, id, api_key_hash::text FROM trust WHERE api_key_hash IS NOT NULL",
        )
        .fetch_all(self.lent.connection()?)
        .await
        .map_err(|error| self.store.failed(&error))?;
        let mut keys = Candidates::with_capacity(rows.len());
        for (id, hash) in rows.iter().filter_map(|row| row::candidate(row, &self.store.warnings)) {
            keys.push(id, hash);
        }
        Ok(keys)
    }

    async fn insert(&mut self, trust: &Trust) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "INSERT INTO trust (id, name, code, region, api_key_hash, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6::text::timestamptz) ON CONFLICT (name) DO NOTHING",
        )
        .bind(trust.id)
        .bind(&trust.name)
        .bind(&trust.code)
        .bind(&trust.region)
        .bind(trust.api_key_hash.map(|hash| hash.to_hex()))
        .bind(trust.created_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn set_hash(&mut self, id: Uuid, hash: KeyHash) -> Result<u64, StoreError> {
        let query = sqlx::query("UPDATE trust SET api_key_hash = $2 WHERE id = $1")
            .bind(id)
            .bind(hash.to_hex());
        self.execute(query).await
    }

    async fn set_disabled_at(
        &mut self,
        id: Uuid,
        disabled_at: Option<OffsetDateTime>,
    ) -> Result<u64, StoreError> {
        let query =
            sqlx::query("UPDATE trust SET disabled_at = $2::text::timestamptz WHERE id = $1")
                .bind(id)
                .bind(disabled_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn delete(&mut self, id: Uuid) -> Result<u64, StoreError> {
        self.execute(sqlx::query("DELETE FROM trust WHERE id = $1").bind(id)).await
    }

    /// Decides whether there are leases **after** the write: its lock keeps a migration from making
    /// the triggers until the commit, and a holder that loads after that sees the change. The
    /// triggers are found by the table, and the function by the role's `search_path`: with triggers
    /// and no function, or that of another schema, the change would be final for no holder.
    async fn barrier(&mut self) -> Result<Option<String>, StoreError> {
        let leases = sqlx::query(
            "SELECT to_regprocedure('trust_auth_barrier(bool)') IS NOT NULL, EXISTS \
             (SELECT FROM pg_trigger JOIN pg_proc recorder ON recorder.oid = tgfoid \
              WHERE tgrelid = to_regclass('trust') AND tgname LIKE 'trust\\_auth\\_rec\\_%' \
              AND recorder.pronamespace IS DISTINCT FROM (SELECT pronamespace FROM pg_proc \
                  WHERE oid = to_regprocedure('trust_auth_barrier(bool)')))",
        )
        .fetch_one(self.lent.connection()?)
        .await
        .and_then(|row| Ok((row.try_get::<bool, _>(0)?, row.try_get::<bool, _>(1)?)));
        match leases.map_err(|error| self.store.failed(&error))? {
            (_, true) => {
                return Err(self.schema_error(
                    "the table `trust` has the triggers of the read lease, and this role's \
                     `search_path` does not lead to the function `trust_auth_barrier` of their \
                     schema; put that schema first",
                ));
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

    fn schema_error(&self, reason: &str) -> StoreError {
        schema(&self.store.connector.location, reason)
    }
}
