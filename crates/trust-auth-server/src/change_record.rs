//! [`ChangeRecord`]: whether the last change of a trust reached the database.
//!
//! Requests need reads alone. If each change fails, the service appears healthy to its clients, and
//! still grants a key that should be revoked.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use trust_auth::StoreError;

use crate::causes::with_causes;

/// Counts of the changes that failed, and of those that a later success made up for.
#[derive(Debug, Default)]
pub(crate) struct ChangeRecord {
    /// Changes that have failed because of the database.
    failed: AtomicU64,
    /// Failed changes whose cause no check can reproduce. Only a change can show that the cause was
    /// removed.
    uncheckable: AtomicU64,
    /// The value of `failed` at the start of the last change or check that made up for failures.
    made_up_for: AtomicU64,
    /// The value of `uncheckable` at the start of the last successful change.
    uncheckable_made_up_for: AtomicU64,
    /// Wakes the task that runs the checks.
    failure: Notify,
}

impl ChangeRecord {
    /// Returns whether the last change failed and none was made since. A check makes up for a
    /// failure that it can reproduce.
    pub(crate) fn are_failing(&self) -> bool {
        // Relaxed, here and below: counts for a probe, which order nothing.
        self.made_up_for.load(Ordering::Relaxed) < self.failed.load(Ordering::Relaxed)
            || self.needs_a_change()
    }

    /// Returns whether only a change can show that changes work again.
    pub(crate) fn needs_a_change(&self) -> bool {
        self.uncheckable_made_up_for.load(Ordering::Relaxed)
            < self.uncheckable.load(Ordering::Relaxed)
    }

    /// Runs a change, and records how it ended.
    pub(crate) async fn record<T>(
        &self,
        change: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        // Relaxed, here and below: each counter is independent, and orders nothing.
        let uncheckable_before = self.uncheckable.load(Ordering::Relaxed);
        let before = self.failed.load(Ordering::Relaxed);
        let outcome = change.await;
        match &outcome {
            Ok(_) => {
                self.uncheckable_made_up_for.fetch_max(uncheckable_before, Ordering::Relaxed);
                self.made_up_for(before);
            }
            // The database took the lock, read, and released it. It wrote no row.
            Err(
                StoreError::NameTaken { .. }
                | StoreError::KeyTaken { .. }
                | StoreError::NoSuchTrust { .. }
                | StoreError::NoSuchKey { .. },
            ) => {
                if !self.needs_a_change() {
                    self.made_up_for(before);
                }
            }
            // A fault of this row, which shows nothing about other rows.
            Err(StoreError::BadRow { .. }) => {}
            Err(error) => self.fail(error),
        }
        outcome
    }

    /// Runs a check of whether a change could be made.
    ///
    /// A successful check makes up for nothing while a failure is recorded that no check can
    /// reproduce, such as a refusal by a trigger.
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

    /// Resolves once changes fail.
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
        // Relaxed, both: counts, as in `record`. `notify_waiters` wakes the waiting task.
        if !is_checkable(error) {
            self.uncheckable.fetch_add(1, Ordering::Relaxed);
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failure.notify_waiters();
        if first {
            tracing::error!(
                kind = error.kind(),
                error = %with_causes(error),
                "a change of a trust failed in the database: revocations may fail"
            );
        }
    }

    fn made_up_for(&self, failures: u64) {
        // Relaxed: a count, as in `record`.
        if self.made_up_for.fetch_max(failures, Ordering::Relaxed) < failures {
            tracing::info!("changes of trusts succeed in the database again");
        }
    }
}

/// Returns whether `check_writes` of either store can fail for the same cause. A cause that is not
/// listed may concern the rows alone, which the checks do not write.
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
    async fn a_failure_lasts_until_a_change_or_check_that_began_after_it_succeeds() {
        let changes = ChangeRecord::default();
        let succeed = async || changes.record(async { Ok(()) }).await.unwrap();
        succeed().await;
        assert!(!changes.are_failing());
        let fail =
            async || changes.record::<()>(async { Err(StoreError::Busy) }).await.unwrap_err();
        fail().await;
        assert!(changes.are_failing());
        changes.until_failing().await;
        let check = changes.check(async { Err(StoreError::Busy) });
        assert!(check.await.is_err() && changes.are_failing());

        // A check that began before the next failure shows nothing about the time after it.
        let check = changes.check(async {
            fail().await;
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
            let changes = ChangeRecord::default();
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
    async fn a_refusal_that_the_caller_caused_is_not_a_failure_of_the_database() {
        let changes = ChangeRecord::default();
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
