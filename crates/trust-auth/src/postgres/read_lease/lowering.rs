//! Lowers the longest lease that a process may hold (R7, RL30).

use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::inquiry::{Inquiry, Registered};
use super::run_watch::RunWatch;
use super::session::lease_ms;
use super::source::LeaseSource;
use crate::error::StoreError;
use crate::time_limit::within;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// How much longer than the longest lease a watch may take.
const SLACK: Duration = Duration::from_secs(2);

impl LeaseSource {
    /// Lowers the bound. Watches the run and the registrations until it is settled, and until the
    /// longer ones are struck off or renew.
    pub(super) async fn lower(
        &self,
        connection: &mut PgConnection,
        longest: Duration,
    ) -> Result<(), StoreError> {
        let longest_ms = lease_ms(longest);
        let mut watch = RunWatch::default();
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let inquiry = within(self.limit(), self.inquire(connection, None)).await?;
            let conclusions = watch.note(&inquiry, asked, Instant::now());
            if conclusions.settles {
                within(self.limit(), self.record_settled(connection, &inquiry.run)).await?;
            }
            for (id, renewals) in conclusions.silent {
                let struck = self.strike_off(connection, id, renewals, &inquiry.run);
                within(self.limit(), struck).await?;
            }
            let refusal = match self.refusal(&inquiry, longest_ms) {
                Some(refusal) => refusal,
                None => {
                    let lowered = self.lower_if_allowed(connection, longest_ms);
                    match within(self.limit(), lowered).await? {
                        Some(refusal) => refusal,
                        None => return Ok(()),
                    }
                }
            };
            let renews = longer(&inquiry, longest_ms).any(|holder| watch.has_renewed(holder.id));
            if renews || begun.elapsed() > inquiry.max_lease + SLACK {
                return Err(refusal);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lowers the bound, or returns why it stays.
    ///
    /// On a settled run, each lease in force is registered (RL25). The lock keeps other processes
    /// from registering until the commit, and their statement then reads the new bound.
    async fn lower_if_allowed(
        &self,
        connection: &mut PgConnection,
        longest_ms: i32,
    ) -> Result<Option<StoreError>, StoreError> {
        let failed = |error| self.failed(&error);
        // READ COMMITTED, whatever the default is: the inquiry must see what the lock waited for.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        let mut transaction = connection.begin_with(begin).await.map_err(failed)?;
        self.lock_lease(&mut transaction).await?;
        let inquiry = self.inquire(&mut transaction, None).await?;
        if let Some(refusal) = self.refusal(&inquiry, longest_ms) {
            transaction.rollback().await.map_err(failed)?;
            return Ok(Some(refusal));
        }
        sqlx::query("UPDATE trust_auth_lease SET max_lease_ms = $1 WHERE max_lease_ms > $1")
            .bind(longest_ms)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(None)
    }

    fn refusal(&self, inquiry: &Inquiry, longest_ms: i32) -> Option<StoreError> {
        if !inquiry.is_settled {
            return Some(StoreError::Unsettled);
        }
        let names: Vec<&str> = longer(inquiry, longest_ms).map(|holder| &*holder.name).collect();
        (!names.is_empty()).then(|| {
            self.unusable(&format!(
                "the holders {} have a longer lease; start each with a shorter one first",
                names.join(" and ")
            ))
        })
    }
}

/// Returns the registrations with a longer lease.
fn longer(inquiry: &Inquiry, longest_ms: i32) -> impl Iterator<Item = &Registered> {
    let longest = Duration::from_millis(longest_ms.unsigned_abs().into());
    inquiry.holders.iter().filter(move |holder| holder.lease > longest)
}
