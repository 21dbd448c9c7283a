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
    /// How many of them no check can reproduce, so that only a change can show their end.
    uncheckable: AtomicU64,
    /// `failed` as it was when the last change or check began that made up for the failures.
    made_up_for: AtomicU64,
    /// `uncheckable` as it was when the last change began that did not fail.
    uncheckable_made_up_for: AtomicU64,
    /// Wakes the task that checks.
    failure: Notify,
}

impl Changes {
    /// Whether the last one failed, and no change was made since. A check makes up for a failure
    /// that it can reproduce.
    pub(crate) fn are_failing(&self) -> bool {
        // Relaxed, here and below: counts for a probe, which order nothing else.
        self.made_up_for.load(Ordering::Relaxed) < self.failed.load(Ordering::Relaxed)
            || self.needs_a_change()
    }

    /// Whether only a change can show that changes work again.
    pub(crate) fn needs_a_change(&self) -> bool {
        self.uncheckable_made_up_for.load(Ordering::Relaxed)
            < self.uncheckable.load(Ordering::Relaxed)
    }

    /// Runs a change, and keeps in mind how it ended.
    pub(crate) async fn record<T>(
        &self,
        change: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        // Relaxed, here and below: each counter is read for itself, and orders nothing.
        let uncheckable_before = self.uncheckable.load(Ordering::Relaxed);
        let before = self.failed.load(Ordering::Relaxed);
        let outcome = change.await;
        match &outcome {
            Ok(_) => {
                self.uncheckable_made_up_for.fetch_max(uncheckable_before, Ordering::Relaxed);
                self.made_up_for(before);
            }
            // The database began, read, and gave the lock back. It wrote no row.
            Err(StoreError::NameTaken { .. } | StoreError::NoSuchTrust { .. }) => {
                if !self.needs_a_change() {
                    self.made_up_for(before);
                }
            }
            // The row's fault, which says nothing of others.
            Err(StoreError::BadRow { .. }) => {}
            Err(error) => self.fail(error),
        }
        outcome
    }

    /// Runs a check of whether a change could be made. A check that ends well makes up for nothing
    /// while there is a failure that the check cannot reproduce, such as a trigger's refusal.
    pub(crate) async fn check(
        &self,
        check: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let before = self.failed.load(Ordering::Relaxed);
        check.await?;
        if !self.needs_a_change() {
            self.made_up_for(before);
        }
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
        // Relaxed, both: counts, as in `record`. `notify_waiters` wakes who waits.
        if !is_checkable(error) {
            self.uncheckable.fetch_add(1, Ordering::Relaxed);
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failure.notify_waiters();
        if first {
            tracing::error!(kind = error.kind(), error = %with_causes(error), "a change of the trusts failed in the database: revocations may fail");
        }
    }

    fn made_up_for(&self, failures: u64) {
        // Relaxed: a count, as in `record`.
        if self.made_up_for.fetch_max(failures, Ordering::Relaxed) < failures {
            tracing::info!("changes of the trusts reach the database again");
        }
    }
}

/// Whether `check_writes` of either store can fail for the same cause. A cause that is not listed
/// may concern the rows alone, which the checks do not write.
fn is_checkable(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Timeout { .. }
            | StoreError::Busy
            | StoreError::CannotConnect { .. }
            | StoreError::Unreachable
            | StoreError::ReadOnly { .. }
            | StoreError::OutcomeUnknown
            | StoreError::CannotOpen { .. }
            | StoreError::NotFound { .. }
    )
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
        let failed =
            async || changes.record::<()>(async { Err(StoreError::Busy) }).await.unwrap_err();
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
    async fn a_failure_that_no_check_can_reproduce_lasts_until_a_change_is_made() {
        let server = || "postgres://db.example/trusts".to_owned();
        for error in [
            StoreError::Schema { path: "trusts.db".into(), reason: "a trigger".into() },
            StoreError::MissingRight { server: server(), right: "a right".into() },
            StoreError::Exhausted { server: server() },
            StoreError::Other("unknown".into()),
        ] {
            let changes = Changes::default();
            changes.record::<()>(async { Err(error) }).await.unwrap_err();
            changes.record::<()>(async { Err(StoreError::Busy) }).await.unwrap_err();
            changes.check(async { Ok(()) }).await.unwrap();
            let no_trust = StoreError::NoSuchTrust { which: "St. Mary".into() };
            changes.record::<()>(async { Err(no_trust) }).await.unwrap_err();
            assert!(changes.are_failing());
            changes.record(async { Ok(()) }).await.unwrap();
            assert!(!changes.are_failing());
        }
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
