//! [`PostgresStore::check_writes`]: whether a change can be made, without making one.

use sqlx::Executor;
use uuid::Uuid;

use super::rights;
use super::store::PostgresStore;
use crate::error::StoreError;
use crate::sql_ledger::WriteTransaction;

impl PostgresStore {
    /// Commits a transaction that changes no row.
    ///
    /// `Ok` proves most needs of a change: a connection, a primary, the right to update, the locks,
    /// and a log of the server that takes the commit. `Ok` does not prove that the table has room
    /// for a row. A service calls this after a change has failed, to find out whether the next one
    /// would.
    ///
    /// # Errors
    ///
    /// As a change of [`TrustLedger`](crate::TrustLedger).
    pub async fn check_writes(&self) -> Result<(), StoreError> {
        self.change(rights::UPDATE, |mut write| async move {
            // Requests the locks and the rights of a real change. No row has this id.
            let change =
                write.sql("UPDATE {trust_table} SET {disabled_at} = {disabled_at} WHERE {id} = $1");
            let change = sqlx::query(change).bind(Uuid::nil());
            let connection = write.connection()?;
            connection.execute(change).await.map_err(|error| self.failed(&error))?;
            // Gives the transaction an id: without one, a commit writes nothing to the server's
            // log.
            connection
                .execute("SELECT txid_current()")
                .await
                .map_err(|error| self.failed(&error))?;
            write.commit().await
        })
        .await
    }
}
