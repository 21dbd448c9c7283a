//! [`PgFeed`]: the changes of the watched tables as a [`ChangeFeed`].

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use uuid::Uuid;

use super::changes::trust_tables;
use super::session::PgSession;
use super::settlement::Barrier;
use super::source::LeaseSource;
use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::postgres::pool::Lent;
use crate::read_lease::{ChangeFeed, Settled, Waiting};
use crate::time_limit::within;

/// The read lease of one PostgreSQL database: [`PgChanges::connect`](super::PgChanges::connect)
/// makes it. A clone shares the connections.
///
/// A revoking transaction writes its barrier by `SELECT trust_auth_barrier()`, which returns the
/// text for [`settle`](ChangeFeed::settle). It does so even if it finds nothing to change: an
/// earlier attempt may have crashed between its commit and its wait. The function raises the error
/// `TA001` if the changes were recorded for the read lease of another schema: call the function of
/// that schema, by its qualified name.
#[derive(Clone, Debug)]
pub struct PgFeed {
    source: LeaseSource,
}

impl PgFeed {
    pub(super) fn new(source: LeaseSource) -> Self {
        Self { source }
    }

    /// Lowers the longest lease that a process may hold, which is what a revocation waits at worst.
    /// [`open`](ChangeFeed::open) raises it. First start each holder with the shorter lease.
    ///
    /// If a lease of a former run of the server may be in force, or a holder is registered that no
    /// longer renews, this waits until that lease is over: at most for the longest lease.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if a holder that renews has a longer lease; the message names it.
    /// [`StoreError::Unsettled`] if the server restarted meanwhile. Nothing was changed then. Or
    /// any other [`StoreError`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn lower_longest_lease(&self, longest: Duration) -> Result<(), StoreError> {
        let connector = self.source.connector.named("lease");
        let mut connection = connector.connect().await?;
        let lowered = Box::pin(self.source.lower(&mut connection, longest)).await;
        let _ = within(self.source.limit(), async {
            connection.close().await.map_err(|error| self.failed(&error))
        })
        .await;
        lowered
    }

    /// Returns the names of the holders that have not acknowledged the barrier. A text that is no
    /// barrier has none: [`settle`](ChangeFeed::settle) refuses it.
    pub(in crate::postgres) async fn awaited(
        &self,
        barrier: &str,
    ) -> Result<Vec<String>, StoreError> {
        let Some(barrier) = Barrier::parse(barrier) else { return Ok(Vec::new()) };
        let inquiry = self.source.inquire_once(&barrier).await?;
        let late = inquiry.holders.into_iter().filter(|holder| !holder.has_barrier);
        Ok(late.map(|holder| holder.name).collect())
    }

    /// Returns the diagnosis of an error of the driver.
    pub(in crate::postgres) fn failed(&self, error: &sqlx::Error) -> StoreError {
        self.source.failed(error)
    }
}

impl PostgresStore {
    /// Returns the feed of the table `trust`, for a holder of all trusts. It shares the store's
    /// connections. [`PgChanges::trusts`](super::PgChanges::trusts) has the migration.
    #[must_use]
    pub fn feed(&self) -> PgFeed {
        PgFeed::new(LeaseSource {
            connector: self.connector.clone(),
            readers: self.readers.clone(),
            tables: trust_tables(&self.connector.names).into(),
            has_trusts: true,
            watching: Arc::clone(&self.watching),
        })
    }
}

impl ChangeFeed for PgFeed {
    type Session = PgSession;

    async fn open(&self, length: Duration) -> Result<PgSession, StoreError> {
        PgSession::open(&self.source, length).await
    }

    async fn settle(&self, barrier: &str, waiting: Waiting) -> Result<Settled, StoreError> {
        let Some(barrier) = Barrier::parse(barrier) else {
            let server = self.source.connector.location.to_string();
            return Err(StoreError::LeaseVersion { server });
        };
        self.source.settle(&barrier, waiting).await
    }

    async fn leave(&self, registration: Uuid) -> Result<(), StoreError> {
        within(self.source.limit(), async {
            let mut lent = Lent::from(&self.source.readers).await?;
            self.source.remove(lent.connection()?, registration).await?;
            lent.give_back();
            Ok(())
        })
        .await
    }
}
