//! [`Transaction`]: a write transaction on an SQLite file, and its statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Row;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{SqlStr, Sqlite, SqliteConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::read_lease::LeaseRow;
use super::row::{self, read_columns, select_keys};
use super::store::SqliteStore;
use crate::columns::time_text;
use crate::error::StoreError;
use crate::sql_ledger::{KeyRow, WriteTransaction};
use crate::store::Candidates;
use crate::table_names::{TableNames, TrustColumn};
use crate::text_flaw::nfc;
use crate::trust::{Trust, now};
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

/// A transaction that holds the database's write lock. Dropped without a commit, it closes its
/// connection, which rolls back.
///
/// The connection is never used again then. After a failure, SQLite may or may not have rolled back
/// by itself. After a cancellation, the driver's thread may still be running the statement. The
/// driver's own transactions count their depth, and would count wrongly in both cases.
pub(super) struct Transaction<'a> {
    /// `None` once the transaction is committed.
    connection: Option<PoolConnection<Sqlite>>,
    store: &'a SqliteStore,
    /// Set before `COMMIT` is sent.
    commit_sent: Arc<AtomicBool>,
}

impl<'a> Transaction<'a> {
    pub(super) async fn begin(
        store: &'a SqliteStore,
        commit_sent: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let connection = store.writer.acquire().await.map_err(|error| store.failed(error))?;
        // Made before the first statement: if `BEGIN` fails or is cancelled, this is dropped.
        let mut transaction = Self { connection: Some(connection), store, commit_sent };
        // IMMEDIATE: a transaction that reads first, and requests the lock later, is refused at
        // once, without a wait for the busy timeout.
        let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(transaction.connection()?).await;
        begun.map_err(|error| store.failed(error))?;
        Ok(transaction)
    }

    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_deref_mut().ok_or(StoreError::Unreachable)
    }

    /// Fills a template with the names.
    fn filled(&self, template: &str) -> SqlStr {
        self.store.statements.names.for_sqlite(template)
    }

    fn query<'q>(&self, template: &str) -> Query<'q, Sqlite, SqliteArguments> {
        sqlx::query(self.filled(template))
    }

    async fn execute(
        &mut self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<u64, StoreError> {
        match query.execute(self.connection()?).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(self.store.failed(error)),
        }
    }
}

impl WriteTransaction for Transaction<'_> {
    const INTERCEPTORS: &'static str = "a trigger";

    async fn now(&mut self) -> Result<OffsetDateTime, StoreError> {
        let text: String = sqlx::query_scalar("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")
            .fetch_one(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        OffsetDateTime::parse(&text, &Rfc3339).map_err(|error| StoreError::Other(error.into()))
    }

    async fn find(&mut self, which: &TrustRef) -> Result<Trust, StoreError> {
        let query = match which {
            TrustRef::Id(id) => {
                sqlx::query(self.store.statements.fetch.clone()).bind(row::id_text(*id))
            }
            TrustRef::Name(name) => self
                .query(concat!(
                    "SELECT ",
                    read_columns!(),
                    " FROM {trust} WHERE name IN (?1, ?2) \
                     ORDER BY name <> ?1 COLLATE BINARY LIMIT 1"
                ))
                .bind(name.clone())
                .bind(nfc(name).into_owned()),
        };
        let row = query
            .fetch_optional(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        let Some(row) = row else { return Err(StoreError::NoSuchTrust { which: which.clone() }) };
        let columns = row::columns(&row, &self.store.warnings).map_err(row::without_id)?;
        Ok(columns.for_change(&self.store.warnings))
    }

    async fn digests(&mut self) -> Result<Candidates, StoreError> {
        // The transaction has the write lock, so no other one is between this step and its commit.
        let query = self.query(
            "SELECT id, api_key_hash FROM {trust} WHERE api_key_hash IS NOT NULL \
             UNION ALL SELECT trust, digest FROM {trust_key}",
        );
        let rows =
            query.fetch_all(self.connection()?).await.map_err(|error| self.store.failed(error))?;
        let mut digests = Candidates::with_capacity(rows.len());
        for (id, hash) in rows.iter().filter_map(|row| row::candidate(row, &self.store.warnings)) {
            digests.push(id, hash);
        }
        Ok(digests)
    }

    async fn keys(&mut self, trust: Uuid) -> Result<Vec<TrustKey>, StoreError> {
        let row = self
            .query(select_keys!("trust_key.trust = ?1"))
            .bind(row::id_text(trust))
            .fetch_one(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        Ok(row::keys(&row, 0, trust, &self.store.warnings))
    }

    async fn key_row(&mut self, key: Uuid) -> Result<Option<KeyRow>, StoreError> {
        let sql =
            "SELECT trust, digest, revoked_at IS NOT NULL FROM {trust_key} WHERE id IN (?1, ?2)";
        let row = self
            .query(sql)
            .bind(row::id_text(key))
            .bind(row::id_text(key).to_uppercase())
            .fetch_optional(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        Ok(row.and_then(|row| {
            let hash = row.try_get::<&str, _>(1).ok().and_then(|digits| digits.parse().ok());
            Some(KeyRow { trust: row::id(&row)?, hash, is_revoked: row.try_get(2).ok()? })
        }))
    }

    async fn revoke_key(
        &mut self,
        key: Uuid,
        row: &KeyRow,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let query = self
            .query(
                "UPDATE {trust_key_table} SET revoked_at = ?1 \
             WHERE trust = ?2 AND revoked_at IS NULL AND (id IN (?3, ?4) OR digest = ?5)",
            )
            .bind(time_text(now)?)
            .bind(row::id_text(row.trust))
            .bind(row::id_text(key))
            .bind(row::id_text(key).to_uppercase())
            .bind(row.hash.map(KeyHash::to_hex));
        self.execute(query).await
    }

    async fn revoke_keys(
        &mut self,
        trust: Uuid,
        kept: &KeyHash,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let query = self
            .query(
                "UPDATE {trust_key_table} SET revoked_at = ?3 \
             WHERE trust = ?1 AND revoked_at IS NULL AND digest <> ?2",
            )
            .bind(row::id_text(trust))
            .bind(kept.to_hex())
            .bind(time_text(now)?);
        self.execute(query).await
    }

    async fn unrevoked_keys(&mut self, trust: Uuid, kept: &KeyHash) -> Result<i64, StoreError> {
        let sql = self.filled(
            "SELECT count(*) FROM {trust_key} \
             WHERE trust = ?1 AND revoked_at IS NULL AND digest <> ?2",
        );
        sqlx::query_scalar(sql)
            .bind(row::id_text(trust))
            .bind(kept.to_hex())
            .fetch_one(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))
    }

    async fn end_keys(&mut self, keys: &[Uuid], end: OffsetDateTime) -> Result<u64, StoreError> {
        let keys: Vec<String> = keys.iter().map(|key| row::id_text(*key)).collect();
        let query = self
            .query(
                "UPDATE {trust_key_table} SET expires_at = ?1 \
             WHERE id IN (SELECT value FROM json_each(?2)) AND revoked_at IS NULL",
            )
            .bind(time_text(end)?)
            .bind(serde_json::Value::from(keys).to_string());
        self.execute(query).await
    }

    async fn insert(&mut self, trust: &Trust) -> Result<u64, StoreError> {
        let insertion = self.names().insertion(&[
            (TrustColumn::Id, "?1"),
            (TrustColumn::Name, "?2"),
            (TrustColumn::Code, "?3"),
            (TrustColumn::Region, "?4"),
            (TrustColumn::ApiKeyHash, "?5"),
            (TrustColumn::CreatedAt, "?6"),
            (TrustColumn::Attributes, "?7"),
        ]);
        let query = self
            .query(&format!("{insertion} ON CONFLICT ({{name}}) DO NOTHING"))
            .bind(row::id_text(trust.id))
            .bind(trust.name.clone())
            .bind(trust.code.clone())
            .bind(trust.region.clone())
            .bind(trust.api_key_hash.map(|hash| hash.to_hex()))
            .bind(trust.created_at.map(time_text).transpose()?)
            .bind(trust.attributes.as_ref().map(ToString::to_string));
        self.execute(query).await
    }

    async fn insert_key(&mut self, key: &TrustKey) -> Result<u64, StoreError> {
        let query = self
            .query(
                "INSERT INTO {trust_key_table} \
             (id, trust, label, digest, last_four, created_at, expires_at, revoked_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .bind(row::id_text(key.id))
            .bind(row::id_text(key.trust))
            .bind(key.label.clone())
            .bind(key.hash.to_hex())
            .bind(key.last_four.clone())
            .bind(time_text(key.created_at.unwrap_or_else(now))?)
            .bind(key.expires_at.map(time_text).transpose()?)
            .bind(key.revoked_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn set_hash(&mut self, id: Uuid, hash: Option<KeyHash>) -> Result<u64, StoreError> {
        let query = self
            .query("UPDATE {trust_table} SET {api_key_hash} = ?2 WHERE {id} = ?1")
            .bind(row::id_text(id))
            .bind(hash.map(KeyHash::to_hex));
        self.execute(query).await
    }

    async fn set_disabled_at(
        &mut self,
        id: Uuid,
        disabled_at: Option<OffsetDateTime>,
    ) -> Result<u64, StoreError> {
        let query = self
            .query("UPDATE {trust_table} SET {disabled_at} = ?2 WHERE {id} = ?1")
            .bind(row::id_text(id))
            .bind(disabled_at.map(time_text).transpose()?);
        self.execute(query).await
    }

    async fn set_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> Result<u64, StoreError> {
        let query = self
            .query("UPDATE {trust_table} SET {attributes} = ?2 WHERE {id} = ?1")
            .bind(row::id_text(id))
            .bind(attributes);
        self.execute(query).await
    }

    /// The column's affinity also applies to the text, and its collation does not.
    async fn has_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> Result<bool, StoreError> {
        let sql = self
            .filled("SELECT {attributes} IS ?2 COLLATE BINARY FROM {trust_table} WHERE {id} = ?1");
        let found: Option<bool> = sqlx::query_scalar(sql)
            .bind(row::id_text(id))
            .bind(attributes)
            .fetch_optional(self.connection()?)
            .await
            .map_err(|error| self.store.failed(error))?;
        Ok(found == Some(true))
    }

    /// The foreign key removes the rows of the keys.
    async fn delete(&mut self, id: Uuid) -> Result<u64, StoreError> {
        let query = self.query("DELETE FROM {trust_table} WHERE {id} = ?1").bind(row::id_text(id));
        self.execute(query).await
    }

    /// The lease's row, which this transaction reads under the write lock, replaces the barrier: a
    /// holder that writes the row later also loads later, and its load shows this transaction.
    async fn barrier(&mut self) -> Result<Option<String>, StoreError> {
        let store = self.store;
        let row = LeaseRow::read(self.connection()?).await.map_err(|error| store.failed(error))?;
        Ok(row.map(|row| row.max_lease_ms.to_string()))
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        // Relaxed: the task that reads it has polled this future.
        self.commit_sent.store(true, Ordering::Relaxed);
        let done = sqlx::raw_sql("COMMIT").execute(self.connection()?).await;
        done.map_err(|error| self.store.failed(error))?;
        if let Some(connection) = self.connection.take()
            && self.store.checkpoints
        {
            // The next write waits for the checkpoint, and so does `close`.
            tokio::spawn(checkpoint(connection));
        }
        Ok(())
    }

    fn names(&self) -> &TableNames {
        &self.store.statements.names
    }

    fn schema_error(&self, reason: &str) -> StoreError {
        StoreError::Schema { path: self.store.path().into(), reason: reason.into() }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

/// Moves committed pages into the database's own file, except pages that a reader still needs
/// elsewhere. A revocation is then kept even if `-wal` is removed by hand.
async fn checkpoint(mut connection: PoolConnection<Sqlite>) {
    let done = sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *connection).await;
    if let Err(error) = done {
        // SQLite makes another checkpoint later.
        connection.close_on_drop();
        tracing::debug!(%error, "a checkpoint failed");
    }
}
