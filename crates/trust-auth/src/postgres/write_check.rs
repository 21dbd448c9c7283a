//! [`PostgresStore::check_writes`]: whether a change can be made, without making one.

use std::sync::atomic::AtomicBool;

use sqlx::Executor;
use uuid::Uuid;

use super::{PostgresStore, rights};
use crate::StoreError;

impl PostgresStore {
    /// Commits a transaction that changes no row.
    ///
    /// `Ok` proves most of what a change needs: a connection, a primary, the right to update, the
    /// locks, and a log of the server that takes the commit. It does not prove that the table has
    /// room for a row. For a service whose last change failed, and that wants to know whether the
    /// next one would.
    ///
    /// # Errors
    ///
    /// As a change of [`TrustLedger`](crate::TrustLedger).
    pub async fn check_writes(&self) -> Result<(), StoreError> {
        let commit_sent = AtomicBool::new(false);
        self.change(&commit_sent, rights::UPDATE, async {
            let mut write = self.begin(&commit_sent).await?;
            // Asks for the locks and the rights of a real change. No row has this id.
            let change = sqlx::query("UPDATE trust SET disabled_at = disabled_at WHERE id = $1")
                .bind(Uuid::nil());
            let connection = write.lent.connection()?;
            connection.execute(change).await.map_err(|error| self.failed(&error))?;
            // A transaction without an id commits without a word in the server's log.
            connection
                .execute("SELECT txid_current()")
                .await
                .map_err(|error| self.failed(&error))?;
            write.commit().await
        })
        .await
    }
}
