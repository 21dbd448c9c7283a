//! [`SqliteStore::check_writes`]: whether a change can be made, without making one.

use sqlx::AssertSqlSafe;

use super::store::SqliteStore;
use crate::error::StoreError;
use crate::sql_ledger::WriteTransaction;

impl SqliteStore {
    /// Commits one page of the file, unchanged.
    ///
    /// `Ok` proves what a change needs: the write lock, a connection that can begin and commit, and
    /// room for a page. A larger change may still find no room. A service calls this after a change
    /// has failed, to find out whether the next one would. Watchers of the file see a commit, and
    /// read the file again.
    ///
    /// # Errors
    ///
    /// As a change of [`TrustLedger`](crate::TrustLedger).
    pub async fn check_writes(&self) -> Result<(), StoreError> {
        self.change(|mut write| async move {
            let version: i32 = sqlx::query_scalar("PRAGMA user_version")
                .fetch_one(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            // SQLite writes the page even where the number is the same.
            sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA user_version = {version}")))
                .execute(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            write.commit().await
        })
        .await
    }
}
