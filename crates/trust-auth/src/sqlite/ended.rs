//! The keys that have ended of late, for a monitor. The read takes no lock.

use std::time::Duration;

use super::row::{self, select_keys};
use super::store::SqliteStore;
use crate::error::StoreError;
use crate::trust_key::TrustKey;

/// The condition of a key that has ended of late and was not revoked.
macro_rules! has_ended {
    () => {
        "trust_key.revoked_at IS NULL AND julianday(trust_key.expires_at) <= julianday('now') \
         AND julianday(trust_key.expires_at) > julianday('now') - ?1"
    };
}

pub(super) const ENDED: &str = concat!(
    "SELECT id, (",
    select_keys!("trust_key.trust = trust.id AND ", has_ended!()),
    ") FROM {trust} WHERE disabled_at IS NULL \
     AND id IN (SELECT trust FROM {trust_key} WHERE ",
    has_ended!(),
    ") ORDER BY name"
);

impl SqliteStore {
    /// Returns the keys of enabled trusts that have ended within this time until now, by the
    /// machine's clock, and were not revoked. They are in the order of the trusts' names.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn ended_keys(&self, within: Duration) -> Result<Vec<TrustKey>, StoreError> {
        let days = within.as_secs_f64() / 86_400.0;
        let rows = self.within(async {
            let read = sqlx::query(self.statements.ended.clone())
                .bind(days)
                .fetch_all(&self.readers.pool)
                .await;
            read.map_err(|error| self.failed(error))
        });
        let rows = rows.await?;
        let keys =
            rows.iter().filter_map(|row| Some(row::keys(row, 1, row::id(row)?, &self.warnings)));
        Ok(keys.flatten().collect())
    }
}
