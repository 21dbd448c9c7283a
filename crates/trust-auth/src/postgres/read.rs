//! The read side of [`PostgresStore`]. Each read also checks that the server is not a replica.

use sqlx::Row;
use sqlx::postgres::PgRow;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::is_lost;
use super::pool::Lent;
use super::rights;
use super::row::{self, is_active, read_columns};
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::store::{Candidates, Listing, TrustStore};
use crate::trust::Trust;

/// What a statement finds its rows by.
pub(super) enum Key {
    /// It reads all rows.
    None,
    Id(Uuid),
    /// The spellings of a digest.
    Digits(Vec<String>),
}

impl TrustStore for PostgresStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        // Returns a row in any case: without the trust, the server's answer is still needed.
        let sql = concat!(
            "SELECT server.is_replica, ",
            read_columns!(),
            " FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
             LEFT JOIN trust ON id = $1"
        );
        let found = self
            .within(
                rights::READ,
                self.rows(sql, Key::Id(id), |row| row::columns(row, &self.warnings)),
            )
            .await?;
        let Some(columns) = found.into_iter().next().transpose()?.flatten() else {
            return Ok(None);
        };
        columns.trust(&self.warnings).map(Some)
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let sql = concat!(
            "SELECT server.is_replica, candidate.trust, candidate.digest, candidate.is_key \
             FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN ( \
             SELECT FALSE AS is_key, created_at::timestamptz AS made, id AS place, id AS trust, \
             api_key_hash::text AS digest \
             FROM trust WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL \
             UNION ALL \
             SELECT TRUE, key.created_at, key.id, key.trust, key.digest::text \
             FROM trust_key AS key JOIN trust ON trust.id = key.trust \
             WHERE disabled_at IS NULL AND ",
            is_active!(),
            ") AS candidate ON TRUE ORDER BY is_key, made, place"
        );
        let read = |row: &PgRow| match row.try_get(3) {
            Ok(Some(true)) => row::key(row, &self.warnings),
            _ => row::candidate(row, &self.warnings),
        };
        let rows = self.within(rights::READ, self.rows(sql, Key::None, read)).await?;
        let mut candidates = Candidates::with_capacity(rows.len());
        for (id, hash) in rows.into_iter().flatten() {
            candidates.push(id, hash);
        }
        Ok(candidates)
    }

    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        self.find_by_index(hash).await
    }
}

impl PostgresStore {
    /// Reads all rows, in the order of the names' bytes.
    pub(super) async fn read_all(&self) -> Result<Listing, StoreError> {
        let sql = concat!(
            "SELECT server.is_replica, ",
            read_columns!(),
            " FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
             LEFT JOIN trust ON true ORDER BY name COLLATE \"C\""
        );
        let rows = self
            .within(
                rights::READ,
                self.rows(sql, Key::None, |row| row::columns(row, &self.warnings)),
            )
            .await?;
        let mut listing = Listing::default();
        for columns in rows {
            if let Some(columns) = columns? {
                columns.list(&mut listing);
            }
        }
        Ok(listing)
    }

    /// Reads rows, each by `read`. The first column is whether the server is a replica.
    ///
    /// A pooled connection may be dead, for example after a restart of the server. The read is then
    /// repeated once, on a new connection.
    pub(super) async fn rows<T: Send + Unpin>(
        &self,
        sql: &'static str,
        key: Key,
        read: impl Fn(&PgRow) -> T + Send + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let mut may_repeat = true;
        loop {
            let mut lent = Lent::from(&self.readers).await?;
            let query = match &key {
                Key::None => sqlx::query(sql),
                Key::Id(id) => sqlx::query(sql).bind(*id),
                Key::Digits(digits) => sqlx::query(sql).bind(digits.clone()),
            };
            let rows = query
                .try_map(|row| Ok((!row::is_replica(&row)).then(|| read(&row))))
                .fetch_all(lent.connection()?)
                .await;
            match rows {
                Ok(rows) => {
                    let rows: Option<Vec<T>> = rows.into_iter().collect();
                    let Some(rows) = rows else {
                        return Err(StoreError::ReadOnly { server: self.server() });
                    };
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) if may_repeat && is_lost(&error) && !lent.is_fresh() => {
                    may_repeat = false;
                    // As a rule, all pooled connections are dead then.
                    self.readers.drop_idle();
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }
}
