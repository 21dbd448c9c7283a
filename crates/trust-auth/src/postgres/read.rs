//! The read side of [`PostgresStore`]. Each read also checks that the server is not a replica.

use sqlx::SqlStr;
use sqlx::postgres::PgRow;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::is_lost;
use super::pool::Lent;
use super::rights;
use super::row;
use super::store::PostgresStore;
use crate::columns::Columns;
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
        let found = self.within(rights::READ, self.read_one(&self.statements.fetch, id)).await?;
        found.map(|columns| columns.trust(&self.warnings)).transpose()
    }

    /// Reads the row alone, unless the trust is one of those whose keys were asked for. The keys
    /// would cost a hit of 48 µs another 9 µs.
    async fn fetch_for(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        let found = self
            .within(rights::READ, async {
                if !self.with_keys.has(id)
                    && let Some(columns) = self.read_one(&self.statements.fetch_row, id).await?
                    && columns.has_hash(hash)
                {
                    return Ok(Some(columns));
                }
                let found = self.read_one(&self.statements.fetch, id).await?;
                self.with_keys.note(id, found.as_ref().is_some_and(Columns::has_keys));
                Ok(found)
            })
            .await?;
        found.map(|columns| columns.trust(&self.warnings)).transpose()
    }

    /// Reads the trusts first. A rotation moves a digest from a trust to a key and never back, so a
    /// digest that is moved in between is read at least once.
    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let (trusts, keys) = self
            .within(rights::READ, async {
                let trust = |row: &PgRow| row::candidate(row, &self.warnings);
                let trusts = self.rows(&self.statements.candidates, Key::None, trust).await?;
                let key = |row: &PgRow| row::key(row, &self.warnings);
                Ok((trusts, self.rows(&self.statements.key_candidates, Key::None, key).await?))
            })
            .await?;
        let mut candidates = Candidates::with_capacity(trusts.len() + keys.len());
        for (id, hash) in trusts.into_iter().chain(keys).flatten() {
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
        let rows = self
            .within(
                rights::READ,
                self.rows(&self.statements.list, Key::None, |row| {
                    row::columns(row, &self.warnings)
                }),
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

    async fn read_one(&self, sql: &SqlStr, id: Uuid) -> Result<Option<Columns>, StoreError> {
        let read = |row: &PgRow| row::columns(row, &self.warnings);
        let found = self.rows(sql, Key::Id(id), read).await?;
        Ok(found.into_iter().next().transpose()?.flatten())
    }

    /// Reads rows, each by `read`. The first column is whether the server is a replica.
    ///
    /// A pooled connection may be dead, for example after a restart of the server. The read is then
    /// repeated once, on a new connection.
    pub(super) async fn rows<T: Send + Unpin>(
        &self,
        sql: &SqlStr,
        key: Key,
        read: impl Fn(&PgRow) -> T + Send + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let mut may_repeat = true;
        loop {
            let mut lent = Lent::from(&self.readers).await?;
            let query = match &key {
                Key::None => sqlx::query(sql.clone()),
                Key::Id(id) => sqlx::query(sql.clone()).bind(*id),
                Key::Digits(digits) => sqlx::query(sql.clone()).bind(digits.clone()),
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
