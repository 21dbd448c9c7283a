//! [`SqliteStore::check_writes`]: whether a change can be made, without making one.

use sqlx::AssertSqlSafe;

use super::SqliteStore;
use crate::StoreError;

impl SqliteStore {
    /// Commits one page of the file as it was.
    ///
    /// `Ok` proves what a change needs: the write lock, a connection that can begin and commit, and
    /// room for a page. A larger change may still find no room. For a service whose last change
    /// failed, and that wants to know whether the next one would. Watchers of the file see a
    /// commit, and read it again.
    ///
    /// # Errors
    ///
    /// As a change of [`TrustLedger`](crate::TrustLedger).
    pub async fn check_writes(&self) -> Result<(), StoreError> {
        self.within(async {
            let mut write = self.begin().await?;
            let version: i32 = sqlx::query_scalar("PRAGMA user_version")
                .fetch_one(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            // SQLite writes the page also where the number is the same.
            sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA user_version = {version}")))
                .execute(write.connection()?)
                .await
                .map_err(|error| self.failed(error))?;
            write.commit().await
        })
        .await
    }
}
