//! The write side of [`PostgresStore`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::rights::{self, Rights};
use super::store::PostgresStore;
use super::transaction::Transaction;
use crate::error::StoreError;
use crate::new_key::{NewKey, Rotation};
use crate::new_trust::NewTrust;
use crate::read_lease::{ChangeFeed, Settled, Waiting};
use crate::sql_ledger;
use crate::store::{Change, Listing, TrustLedger};
use crate::trust::Trust;
use crate::trust_key::TrustKey;
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
        rights: Rights,
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
        self.insert_with_key(new, hash.into()).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.insert_with_key(new, NewKey::new(hash).imported()).await
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        self.change(rights::INSERT, |write| sql_ledger::insert(write, new, key)).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.rotate(which, Rotation::new(hash.into())).await
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        self.change(rights::ROTATE, |write| sql_ledger::rotate(write, which, rotation)).await
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        self.change(rights::ADD_KEY, |write| sql_ledger::add_key(write, which, key)).await
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        self.change(rights::ROTATE, |write| sql_ledger::revoke_key(write, key)).await
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        self.change(rights::UPDATE, |write| sql_ledger::keys(write, which)).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(rights::UPDATE, |write| sql_ledger::set_enabled(write, which, enabled)).await
    }

    async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Change, StoreError> {
        let write = |write| sql_ledger::set_attributes(write, which, attributes);
        self.change(rights::UPDATE, write).await
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

    async fn awaited(&self, barrier: &str) -> Result<Vec<String>, StoreError> {
        self.feed().awaited(barrier).await
    }
}
