//! The keys that have ended of late, for a monitor. The read needs no right but `SELECT`, and takes
//! no lock.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::pool::Lent;
use super::rights;
use super::row::{self, select_keys};
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::trust_key::TrustKey;

/// The longest time into the past: a thousand years.
const LONGEST: Duration = Duration::from_secs(365_250 * 86_400);

/// The condition of a key that has ended of late and was not revoked.
macro_rules! has_ended {
    () => {
        "key.revoked_at IS NULL AND key.expires_at <= now() \
         AND key.expires_at > now() - $1 * interval '1 s'"
    };
}

pub(super) const ENDED: &str = concat!(
    "SELECT server.is_replica, trust.id, ",
    select_keys!("key.trust = trust.id AND ", has_ended!()),
    " FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN {trust} \
     ON disabled_at IS NULL AND trust.id IN (SELECT key.trust FROM {trust_key_table} AS key WHERE ",
    has_ended!(),
    ") ORDER BY name::text COLLATE \"C\""
);

impl PostgresStore {
    /// Returns the keys of enabled trusts that have ended within this time until now, by the
    /// database's clock, and were not revoked. They are in the order of the trusts' names.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn ended_keys(&self, within: Duration) -> Result<Vec<TrustKey>, StoreError> {
        let read = async {
            let mut lent = Lent::from(&self.readers).await?;
            let rows = sqlx::query(self.statements.ended.clone())
                .bind(within.min(LONGEST).as_secs_f64())
                .fetch_all(lent.connection()?)
                .await
                .map_err(|error| self.failed(&error))?;
            lent.give_back();
            Ok(rows)
        };
        let rows = self.within(rights::READ, read).await?;
        if rows.iter().any(row::is_replica) {
            return Err(StoreError::ReadOnly { server: self.server() });
        }
        let keys = rows.iter().filter_map(|row| {
            let trust: Uuid = row.try_get::<Option<Uuid>, usize>(1).ok()??;
            Some(row::keys(row, 2, trust, &self.warnings))
        });
        Ok(keys.flatten().collect())
    }
}
