//! The read side of [`PostgresStore`]. Each read also checks that the server is not a replica.

use sqlx::postgres::PgRow;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::failure::is_lost;
use super::pool::Lent;
use super::rights;
use super::row::{self, all_keys, is_active, own_columns, read_columns};
use super::store::PostgresStore;
use crate::columns::Columns;
use crate::error::StoreError;
use crate::store::{Candidates, Listing, TrustStore};
use crate::trust::Trust;

/// Reads a trust without its keys. Without a trust there is no row, and the answer does not tell
/// whether the server is a replica.
const FETCH_ROW: &str =
    concat!("SELECT pg_is_in_recovery(), ", own_columns!(), " FROM trust WHERE id = $1");

/// Reads a trust and its keys. Returns a row in any case: without the trust, the server's answer is
/// still needed.
const FETCH: &str = concat!(
    "SELECT server.is_replica, ",
    read_columns!(),
    " FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN trust ON id = $1"
);

/// Selects the digests of the trusts' own rows.
const CANDIDATES: &str = "SELECT pg_is_in_recovery(), id, api_key_hash::text FROM trust \
     WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY created_at, id";

/// Selects the digests of the other keys. Returns a row in any case: without keys, the server's
/// answer is still needed.
const KEY_CANDIDATES: &str = concat!(
    "SELECT server.is_replica, candidate.trust, candidate.digest \
     FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN ( \
     SELECT key.trust, key.digest::text, key.created_at, key.id \
     FROM trust_key AS key JOIN trust ON trust.id = key.trust \
     WHERE disabled_at IS NULL AND ",
    is_active!(),
    ") AS candidate ON TRUE ORDER BY candidate.created_at, candidate.id"
);

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
        let found = self.within(rights::READ, self.read_one(FETCH, id)).await?;
        found.map(|columns| columns.trust(&self.warnings)).transpose()
    }

    /// Reads the row alone, unless the trust is one of those whose keys were asked for. The keys
    /// would cost a hit of 48 µs another 9 µs.
    async fn fetch_for(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        let found = self
            .within(rights::READ, async {
                if !self.with_keys.has(id)
                    && let Some(columns) = self.read_one(FETCH_ROW, id).await?
                    && columns.has_hash(hash)
                {
                    return Ok(Some(columns));
                }
                let found = self.read_one(FETCH, id).await?;
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
                let trusts = self.rows(CANDIDATES, Key::None, trust).await?;
                let key = |row: &PgRow| row::key(row, &self.warnings);
                Ok((trusts, self.rows(KEY_CANDIDATES, Key::None, key).await?))
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
        let sql = concat!(
            "SELECT server.is_replica, ",
            own_columns!(),
            ", keys.rows FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
             LEFT JOIN trust ON true LEFT JOIN ",
            all_keys!(),
            " ON keys.of_trust = trust.id ORDER BY name COLLATE \"C\""
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

    async fn read_one(&self, sql: &'static str, id: Uuid) -> Result<Option<Columns>, StoreError> {
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
