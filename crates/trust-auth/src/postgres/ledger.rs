//! The write side of [`PostgresStore`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trust_key_cache::KeyHash;

use super::rights;
use super::store::PostgresStore;
use super::transaction::Transaction;
use crate::error::StoreError;
use crate::new_trust::NewTrust;
use crate::read_lease::{ChangeFeed, Settled, Waiting};
use crate::sql_ledger;
use crate::store::{Change, Listing, TrustLedger};
use crate::trust::Trust;
use crate::trust_ref::TrustRef;

impl PostgresStore {
    /// Runs a change, which needs these rights, in a transaction of its own, under the query
    /// timeout.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutcomeUnknown`] if the connection is lost, or the time is over, after
    /// `COMMIT` was sent.
    pub(super) async fn change<'a, T, F>(
        &'a self,
        rights: &[&str],
        steps: impl FnOnce(Transaction<'a>) -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let commit_sent = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&commit_sent);
        let change = async { steps(Transaction::begin(self, sent).await?).await };
        match self.within(rights, change).await {
            // Relaxed: this task has stored the flag.
            Err(StoreError::Timeout { .. } | StoreError::Unreachable)
                if commit_sent.load(Ordering::Relaxed) =>
            {
                Err(StoreError::OutcomeUnknown)
            }
            outcome => outcome,
        }
    }
}

impl TrustLedger for PostgresStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let trust = new.into_trust(hash);
        self.change(rights::INSERT, |write| sql_ledger::insert(write, trust)).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let trust = new.into_trust(hash);
        self.change(rights::INSERT, |write| sql_ledger::import(write, trust, hash)).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.change(rights::UPDATE, |write| sql_ledger::replace_hash(write, which, hash)).await
    }

    async fn replace_former_hash(
        &self,
        which: &TrustRef,
        former: Option<KeyHash>,
        hash: KeyHash,
    ) -> Result<Change, StoreError> {
        let steps = |write| sql_ledger::replace_former_hash(write, which, former, hash);
        self.change(rights::UPDATE, steps).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(rights::UPDATE, |write| sql_ledger::set_enabled(write, which, enabled)).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.change(rights::DELETE, |write| sql_ledger::delete(write, which)).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        Ok(self.read_all().await?.trusts)
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        self.read_all().await
    }

    async fn barrier(&self) -> Result<Option<String>, StoreError> {
        self.change(rights::READ, sql_ledger::barrier).await
    }

    async fn settle(&self, barrier: &str, waiting: Waiting) -> Result<Settled, StoreError> {
        self.feed().settle(barrier, waiting).await
    }
}
