//! [`PgFeed`]: the changes of the watched tables as a [`ChangeFeed`].

use std::time::Duration;

use super::changes::trust_table;
use super::session::PgSession;
use super::settlement::Barrier;
use super::source::LeaseSource;
use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::read_lease::{ChangeFeed, Settled, Waiting};

/// The read lease of one PostgreSQL database: [`PgChanges::connect`](super::PgChanges::connect)
/// makes it. A clone shares the connections.
///
/// A revoking transaction writes its barrier by `SELECT trust_auth_barrier()`, which returns the
/// text for [`settle`](ChangeFeed::settle). It does so even if it finds nothing to change: an
/// earlier attempt may have crashed between its commit and its wait.
#[derive(Clone, Debug)]
pub struct PgFeed {
    source: LeaseSource,
}

impl PgFeed {
    pub(super) fn new(source: LeaseSource) -> Self {
        Self { source }
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
            tables: [trust_table()].into(),
            has_trusts: true,
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
            return Err(StoreError::Other(
                "the text is no barrier; pass what `trust_auth_barrier()` returned".into(),
            ));
        };
        self.source.settle(&barrier, waiting).await
    }
}
