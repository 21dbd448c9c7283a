//! [`Changes`]: whether the last change of a trust reached the database.
//!
//! Requests are answered by reads. A service whose every change fails looks healthy by them, while
//! a key that should be revoked is granted.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use trust_auth::StoreError;

use crate::failure::with_causes;

/// How changes have ended so far.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// How many have failed because of the database.
    failed: AtomicU64,
    /// `failed` as it was when the last change or check began that did not fail.
    made_up_for: AtomicU64,
    /// Wakes the task that checks.
    failure: Notify,
}

impl Changes {
    /// Whether the last one failed, and none was made and no check has ended well since.
    pub(crate) fn are_failing(&self) -> bool {
        // Relaxed, here and below: counts for a probe, which order nothing else.
        self.made_up_for.load(Ordering::Relaxed) < self.failed.load(Ordering::Relaxed)
    }

    /// Runs a change, and keeps in mind how it ended.
    pub(crate) async fn record<T>(
        &self,
        change: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let before = self.failed.load(Ordering::Relaxed);
        let outcome = change.await;
        match &outcome {
            // The database did what a change needs: it began, it read, and it gave the lock back.
            Ok(_) | Err(StoreError::NameTaken { .. } | StoreError::NoSuchTrust { .. }) => {
                self.made_up_for(before);
            }
            // The row's fault, which says nothing of others.
            Err(StoreError::BadRow { .. }) => {}
            Err(error) => self.fail(error),
        }
        outcome
    }

    /// Runs a check of whether a change could be made.
    pub(crate) async fn check(
        &self,
        check: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let before = self.failed.load(Ordering::Relaxed);
        check.await?;
        self.made_up_for(before);
        Ok(())
    }

    /// Resolves when changes fail.
    pub(crate) async fn until_failing(&self) {
        loop {
            let failure = self.failure.notified();
            if self.are_failing() {
                return;
            }
            failure.await;
        }
    }

    fn fail(&self, error: &StoreError) {
        let first = !self.are_failing();
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failure.notify_waiters();
        if first {
            tracing::error!(kind = error.kind(), error = %with_causes(error), "a change of the trusts failed in the database: revocations may fail");
        }
    }

    fn made_up_for(&self, failures: u64) {
        if self.made_up_for.fetch_max(failures, Ordering::Relaxed) < failures {
            tracing::info!("changes of the trusts reach the database again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_lasts_until_something_that_began_after_it_ends_well() {
        let changes = Changes::default();
        let made = async || changes.record(async { Ok(()) }).await.unwrap();
        made().await;
        assert!(!changes.are_failing());
        let failed = async || changes.record::<()>(async { Err(StoreError::Busy) }).await.unwrap_err();
        failed().await;
        assert!(changes.are_failing());
        changes.until_failing().await;
        let check = changes.check(async { Err(StoreError::Busy) });
        assert!(check.await.is_err() && changes.are_failing());

        // A check that began before the next failure proves nothing of what came after.
        let check = changes.check(async {
            failed().await;
            Ok(())
        });
        check.await.unwrap();
        assert!(changes.are_failing());
        changes.check(async { Ok(()) }).await.unwrap();
        assert!(!changes.are_failing());
    }

    #[tokio::test]
    async fn a_refusal_that_the_caller_caused_is_no_failure_of_the_database() {
        let changes = Changes::default();
        for error in [
            StoreError::NameTaken { name: "St. Mary".into() },
            StoreError::NoSuchTrust { which: "St. Mary".into() },
            StoreError::BadRow { id: None, column: "created_at" },
        ] {
            changes.record::<()>(async { Err(error) }).await.unwrap_err();
            assert!(!changes.are_failing());
        }
    }
}
