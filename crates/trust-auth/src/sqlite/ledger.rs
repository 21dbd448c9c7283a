//! The write side of [`SqliteStore`]: changes of one row, and the list of all rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::row;
use super::store::SqliteStore;
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

impl SqliteStore {
    /// Runs a change in a transaction of its own, under the query timeout. Then checks the files.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutcomeUnknown`] if the time is over, or the store is closed, after `COMMIT`
    /// was sent. [`StoreError::CannotOpen`] if a file was replaced: the change is not in the file
    /// at the path, unless its connection was opened after the replacement.
    pub(super) async fn change<'a, T, F>(
        &'a self,
        steps: impl FnOnce(Transaction<'a>) -> F + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let commit_sent = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&commit_sent);
        let committed = self.within(async {
            let outcome = steps(Transaction::begin(self, sent).await?).await?;
            // After the commit: a holder of a new file at the path does not see it (RL9).
            self.verify_files().await?;
            Ok(outcome)
        });
        match committed.await {
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

impl TrustLedger for SqliteStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.insert_with_key(new, hash.into()).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.insert_with_key(new, NewKey::new(hash).imported()).await
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        self.change(|write| sql_ledger::insert(write, new, key)).await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.rotate(which, Rotation::new(hash.into())).await
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        self.change(|write| sql_ledger::rotate(write, which, rotation)).await
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        self.change(|write| sql_ledger::add_key(write, which, key)).await
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        self.change(|write| sql_ledger::revoke_key(write, key)).await
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        self.change(|write| sql_ledger::keys(write, which)).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(|write| sql_ledger::set_enabled(write, which, enabled)).await
    }

    async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Change, StoreError> {
        self.change(|write| sql_ledger::set_attributes(write, which, attributes)).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.change(|write| sql_ledger::delete(write, which)).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        Ok(self.listing().await?.trusts)
    }

    async fn listing(&self) -> Result<Listing, StoreError> {
        self.within(async {
            let rows = sqlx::query(self.statements.list.clone())
                .fetch_all(&self.readers.pool)
                .await
                .map_err(|error| self.failed(error))?;
            let mut listing = Listing::default();
            for row in &rows {
                match row::columns(row, &self.warnings) {
                    Ok(columns) => columns.list(&mut listing),
                    Err(malformed) => listing.malformed.push(malformed),
                }
            }
            Ok(listing)
        })
        .await
    }

    async fn barrier(&self) -> Result<Option<String>, StoreError> {
        self.change(sql_ledger::barrier).await
    }

    async fn settle(&self, barrier: &str, waiting: Waiting) -> Result<Settled, StoreError> {
        self.feed().settle(barrier, waiting).await
    }
}
