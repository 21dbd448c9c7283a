//! [`LeaseRow`]: the row of `trust_auth_lease`, which says that leases are in use and how long a
//! change waits.
//!
//! A base allows T if its row has at least T, and is not being lowered below T. A holder whose base
//! does not allow its T writes the row, and loads again, before it gives a lease (RL31).

use std::time::Duration;

use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use crate::columns::time_text;
use crate::error::StoreError;
use crate::sql_ledger::WriteTransaction;
use crate::sqlite::{SqliteStore, schema};

/// The bounds of the table's column.
const SHORTEST_MS: u32 = 300;
const LONGEST_MS: u32 = 300_000;

/// The present row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sqlite) struct LeaseRow {
    pub(in crate::sqlite) max_lease_ms: u32,
    /// What another process lowers the length to.
    pub(super) lowering_to_ms: Option<u32>,
}

impl LeaseRow {
    /// Reads the row. `None`: no process may hold a lease.
    pub(in crate::sqlite) async fn read(
        connection: &mut SqliteConnection,
    ) -> Result<Option<Self>, sqlx::Error> {
        if !has_table(connection).await? {
            return Ok(None);
        }
        let sql = "SELECT max_lease_ms, lowering_to_ms FROM trust_auth_lease";
        let Some(row) = sqlx::query(sql).fetch_optional(connection).await? else {
            return Ok(None);
        };
        Ok(Some(Self { max_lease_ms: row.try_get(0)?, lowering_to_ms: row.try_get(1)? }))
    }

    /// Returns whether a holder may use leases of this length.
    pub(super) fn allows(self, lease_ms: u32) -> bool {
        self.max_lease_ms >= lease_ms && self.lowering_to_ms.is_none_or(|to| to >= lease_ms)
    }
}

/// Returns the length for the table, rounded up.
///
/// # Errors
///
/// [`StoreError::Other`] if the length is longer than the table allows.
pub(super) fn lease_ms(length: Duration) -> Result<u32, StoreError> {
    let milliseconds = length.as_nanos().div_ceil(1_000_000);
    match u32::try_from(milliseconds) {
        Ok(milliseconds) if milliseconds <= LONGEST_MS => Ok(milliseconds.max(SHORTEST_MS)),
        _ => Err(StoreError::Other("the lease is longer than 300 s; choose a shorter one".into())),
    }
}

impl SqliteStore {
    /// Commits that leases of this length may be in use, unless the row says so. Stops a lowering
    /// below this length.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] if the file has no table for the row, or any other error of a
    /// change.
    pub(super) async fn allow_leases(&self, lease_ms: u32) -> Result<(), StoreError> {
        let since = time_text(OffsetDateTime::now_utc())?;
        self.change(|mut write| async move {
            let failed = |error| self.failed(error);
            let connection = write.connection()?;
            if !has_table(connection).await.map_err(failed)? {
                return Err(schema::lacks_lease(self.path()));
            }
            let row = LeaseRow::read(connection).await.map_err(failed)?;
            // A superfluous write would make each holder load again.
            if row.is_some_and(|row| row.allows(lease_ms)) {
                return write.commit().await;
            }
            sqlx::query(
                "INSERT INTO trust_auth_lease (id, max_lease_ms, in_use_since) \
                 VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET \
                 max_lease_ms = max(max_lease_ms, excluded.max_lease_ms), \
                 lowering_to_ms = NULL, lowering_id = NULL",
            )
            .bind(lease_ms)
            .bind(since)
            .execute(connection)
            .await
            .map_err(failed)?;
            write.commit().await
        })
        .await
    }

    /// Commits that the length is being lowered to `to`, 0 for none, and returns for how long the
    /// caller waits before it calls [`end_lowering`](Self::end_lowering). `None`: there is nothing
    /// to lower.
    pub(super) async fn begin_lowering(
        &self,
        to: u32,
        attempt: &str,
    ) -> Result<Option<Duration>, StoreError> {
        let attempt = attempt.to_owned();
        self.change(|mut write| async move {
            let failed = |error| self.failed(error);
            let connection = write.connection()?;
            let row = LeaseRow::read(connection).await.map_err(failed)?;
            let Some(row) = row.filter(|row| row.max_lease_ms > to) else {
                write.commit().await?;
                return Ok(None);
            };
            sqlx::query("UPDATE trust_auth_lease SET lowering_to_ms = ?1, lowering_id = ?2")
                .bind(to)
                .bind(attempt)
                .execute(connection)
                .await
                .map_err(failed)?;
            write.commit().await?;
            Ok(Some(Duration::from_millis(row.max_lease_ms.into())))
        })
        .await
    }

    /// Lowers the length, or removes the row, if no holder of a longer lease has stopped this
    /// attempt. Returns whether it did.
    pub(super) async fn end_lowering(&self, to: u32, attempt: &str) -> Result<bool, StoreError> {
        let sql = if to == 0 {
            "DELETE FROM trust_auth_lease WHERE lowering_id = ?2 AND lowering_to_ms = ?1"
        } else {
            "UPDATE trust_auth_lease \
             SET max_lease_ms = ?1, lowering_to_ms = NULL, lowering_id = NULL \
             WHERE lowering_id = ?2 AND lowering_to_ms = ?1"
        };
        let attempt = attempt.to_owned();
        self.change(|mut write| async move {
            let query = sqlx::query(sql).bind(to).bind(attempt);
            let done = query.execute(write.connection()?).await.map_err(|e| self.failed(e))?;
            write.commit().await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }
}

/// Returns whether the file has the table of the row.
pub(super) async fn has_table(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema \
         WHERE type = 'table' AND name = 'trust_auth_lease')",
    )
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rl31_a_row_allows_what_it_has_and_what_it_is_lowered_to() {
        let row = |max_lease_ms, lowering_to_ms| LeaseRow { max_lease_ms, lowering_to_ms };
        assert!(row(300, None).allows(300) && !row(300, None).allows(301));
        assert!(row(900, Some(300)).allows(300) && !row(900, Some(300)).allows(301));
        assert!(!row(900, Some(0)).allows(300), "the row is about to be removed");
    }

    #[test]
    fn a_length_is_rounded_up_and_never_cut() {
        assert_eq!(lease_ms(Duration::from_micros(300_001)).unwrap(), 301);
        assert_eq!(lease_ms(Duration::from_millis(1)).unwrap(), SHORTEST_MS);
        assert_eq!(lease_ms(Duration::from_secs(300)).unwrap(), LONGEST_MS);
        assert!(lease_ms(Duration::from_nanos(300_000_000_001)).is_err());
        assert!(lease_ms(Duration::MAX).is_err());
    }
}
