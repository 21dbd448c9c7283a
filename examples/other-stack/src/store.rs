//! How trust-auth reads this service's table, through this service's pool.
//!
//! This is the file to copy.

use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::types::time::OffsetDateTime;
use trust_auth::{Candidates, KeyHash, StoreError, Trust, TrustStore};
use uuid::Uuid;

/// The longest time that a read takes, with its wait for a connection. The pool and SQLite would
/// wait longer.
const TIME_OUT: Duration = Duration::from_secs(1);

/// The table `accounts`.
pub(crate) struct Accounts(pub(crate) SqlitePool);

/// Returns the account's id as trust-auth has it: the same number.
fn uuid_of(account: i64) -> Uuid {
    Uuid::from_u128(account.cast_unsigned().into())
}

/// Returns the account's id, which is `None` if no account can have this `Uuid`.
pub(crate) fn account_of(id: Uuid) -> Option<i64> {
    u64::try_from(id.as_u128()).ok().map(u64::cast_signed)
}

impl TrustStore for Accounts {
    /// Reads one account by its primary key, for each request. The caller compares the digest.
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        type Row = (String, Vec<u8>, Option<OffsetDateTime>);
        let Some(account) = account_of(id) else { return Ok(None) };
        let sql = "SELECT label, key_sha256, revoked_at FROM accounts WHERE id = ?";
        let read = sqlx::query_as(sql).bind(account).fetch_optional(&self.0);
        let Some((label, digest, revoked_at)): Option<Row> = in_time(read).await? else {
            return Ok(None);
        };
        let malformed = |_| StoreError::BadRow { id: Some(id), column: "key_sha256" };
        let mut trust = Trust::new(id, label);
        trust.api_key_hash = Some(KeyHash::try_from(&*digest).map_err(malformed)?);
        trust.disabled_at = revoked_at;
        Ok(Some(trust))
    }

    /// Reads the digests of all good keys, for keys that the cache does not have. A search by the
    /// digest would be faster, and its duration would reveal how nearly right a guess was.
    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let sql = "SELECT id, key_sha256 FROM accounts WHERE revoked_at IS NULL ORDER BY id";
        let rows: Vec<(i64, Vec<u8>)> = in_time(sqlx::query_as(sql).fetch_all(&self.0)).await?;
        let mut candidates = Candidates::with_capacity(rows.len());
        for (account, digest) in rows {
            // No key has a malformed digest.
            if let Ok(hash) = KeyHash::try_from(&*digest) {
                candidates.push(uuid_of(account), hash);
            }
        }
        Ok(candidates)
    }
}

/// Bounds the time of a read. Every failure is an error, which refuses the request: `Ok(None)` says
/// that there is no such account.
async fn in_time<T>(read: impl Future<Output = sqlx::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(TIME_OUT, read).await {
        Ok(read) => read.map_err(|error| StoreError::Other(error.into())),
        Err(_) => Err(StoreError::Timeout { after: TIME_OUT }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_has_a_uuid_of_its_own_which_leads_back_to_it() {
        for account in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(account_of(uuid_of(account)), Some(account));
        }
        assert_eq!(account_of(Uuid::from_u128(1 << 64)), None);
    }
}
