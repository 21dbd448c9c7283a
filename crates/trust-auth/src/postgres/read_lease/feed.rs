//! [`PgFeed`]: the changes of the watched tables as a [`ChangeFeed`].

use std::time::Duration;

use sqlx::Connection;

use super::changes::trust_table;
use super::session::{PgSession, lease_ms};
use super::settlement::Barrier;
use super::source::LeaseSource;
use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::read_lease::{ChangeFeed, Settled, Waiting};
use crate::time_limit::within;

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

    /// Lowers the longest lease that a process may hold, which is what a revocation waits at worst.
    /// [`open`](ChangeFeed::open) raises it. First start each holder with the shorter lease.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsettled`] if a lease of a former run of the server may be in force: try
    /// again after the longest lease. [`StoreError::Schema`] if a registered holder has a longer
    /// lease; the message names it. Nothing was changed then. Or any other [`StoreError`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn lower_longest_lease(&self, longest: Duration) -> Result<(), StoreError> {
        within(self.source.limit(), Box::pin(lower(&self.source, longest))).await
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

/// On a settled run, each lease in force is registered (RL25). The lock keeps other processes from
/// registering until the commit, and their statement then reads the new bound.
async fn lower(source: &LeaseSource, longest: Duration) -> Result<(), StoreError> {
    let failed = |error| source.failed(&error);
    let mut connection = source.connector.named("lease").connect().await?;
    // READ COMMITTED, whatever the default is: the inquiry must see what the lock waited for.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
    let mut transaction = connection.begin_with(begin).await.map_err(failed)?;
    sqlx::query("SELECT FROM trust_auth_lease FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let inquiry = source.inquire(&mut transaction, None).await?;
    if !inquiry.is_settled {
        return Err(StoreError::Unsettled);
    }
    let longest_ms = lease_ms(longest);
    let longest = Duration::from_millis(longest_ms.unsigned_abs().into());
    let longer = inquiry.holders.iter().filter(|holder| holder.lease > longest);
    let longer: Vec<&str> = longer.map(|holder| &*holder.name).collect();
    if !longer.is_empty() {
        return Err(source.unusable(&format!(
            "the holders {} have a longer lease; start each with a shorter one first",
            longer.join(" and ")
        )));
    }
    sqlx::query("UPDATE trust_auth_lease SET max_lease_ms = $1 WHERE max_lease_ms > $1")
        .bind(longest_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let _ = connection.close().await;
    Ok(())
}
