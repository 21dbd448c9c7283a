//! The changes of the SQL stores, step by step. Each database supplies its statements, and its own
//! way to begin, through [`WriteTransaction`].
//!
//! A change reads its row, writes it, checks the effect, and commits. The check must never be
//! skipped: the caller of a revocation relies on its `Ok`.

use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::store::{Candidates, Change};
use crate::trust::{Trust, now};
use crate::trust_ref::TrustRef;

/// An open transaction of one change.
///
/// Dropped without [`commit`](Self::commit), it rolls back, and its connection is never used again.
/// Each statement returns how many rows it wrote.
pub(crate) trait WriteTransaction: Send {
    /// What another program can put on a table so that an insertion adds no row.
    const INTERCEPTORS: &'static str;

    /// Reads the row, and keeps other transactions from changing it until this one ends. By name,
    /// it prefers the exact text to the text's normalization form C.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn find(&mut self, which: &TrustRef) -> impl Future<Output = Result<Trust, StoreError>> + Send;

    /// Returns id and digest of every row that has one, enabled or not. Keeps other imports from
    /// this step until the transaction ends, so that they see what it has committed.
    fn keys(&mut self) -> impl Future<Output = Result<Candidates, StoreError>> + Send;

    /// Adds a row, unless another row has its name.
    fn insert(&mut self, trust: &Trust) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes the digest of a row.
    fn set_hash(
        &mut self,
        id: Uuid,
        hash: KeyHash,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes since when a row is disabled.
    fn set_disabled_at(
        &mut self,
        id: Uuid,
        disabled_at: Option<OffsetDateTime>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Removes a row.
    fn delete(&mut self, id: Uuid) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes the barrier of a read lease's changer, and returns its text. `None`: no process can
    /// hold a lease. It comes last, before the commit.
    fn barrier(&mut self) -> impl Future<Output = Result<Option<String>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Commits, and gives the connection back.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns a [`StoreError::Schema`] that names this database.
    fn schema_error(&self, reason: &str) -> StoreError;
}

/// Inserts the row.
pub(crate) async fn insert<W: WriteTransaction>(
    mut write: W,
    trust: Trust,
) -> Result<Trust, StoreError> {
    if write.insert(&trust).await? == 0 {
        return Err(why_not_inserted(&mut write, trust.name).await);
    }
    write.commit().await?;
    Ok(trust)
}

/// Inserts the row of a key that exists already, unless another row has its digest.
pub(crate) async fn import<W: WriteTransaction>(
    mut write: W,
    trust: Trust,
    hash: KeyHash,
) -> Result<Trust, StoreError> {
    write.keys().await?.check_absent(&hash)?;
    insert(write, trust).await
}

/// Gives the row another digest.
pub(crate) async fn replace_hash<W: WriteTransaction>(
    write: W,
    which: &TrustRef,
    hash: KeyHash,
) -> Result<Change, StoreError> {
    replace_hash_if(write, which, hash, |_| true).await
}

/// Gives the row another digest, unless it has neither this one nor the former one.
pub(crate) async fn replace_former_hash<W: WriteTransaction>(
    write: W,
    which: &TrustRef,
    former: Option<KeyHash>,
    hash: KeyHash,
) -> Result<Change, StoreError> {
    replace_hash_if(write, which, hash, |found| found == former || found == Some(hash)).await
}

async fn replace_hash_if<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
    hash: KeyHash,
    is_expected: impl FnOnce(Option<KeyHash>) -> bool,
) -> Result<Change, StoreError> {
    // The row is locked until the commit.
    let mut trust = write.find(which).await?;
    if !is_expected(trust.api_key_hash) {
        return Err(StoreError::Superseded);
    }
    let rows = write.set_hash(trust.id, hash).await?;
    check_count(&write, rows)?;
    check_row(&mut write, trust.id, |found| found.api_key_hash == Some(hash)).await?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    let former_hash = trust.api_key_hash.replace(hash);
    Ok(Change { trust, former_hash, barrier })
}

/// Enables or disables the row. A second disabling keeps the time of the first.
pub(crate) async fn set_enabled<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
    enabled: bool,
) -> Result<Change, StoreError> {
    let mut trust = write.find(which).await?;
    trust.disabled_at = if enabled { None } else { trust.disabled_at.or_else(|| Some(now())) };
    let rows = write.set_disabled_at(trust.id, trust.disabled_at).await?;
    check_count(&write, rows)?;
    check_row(&mut write, trust.id, |found| found.is_enabled() == enabled).await?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    let former_hash = trust.api_key_hash;
    Ok(Change { trust, former_hash, barrier })
}

/// Removes the row.
pub(crate) async fn delete<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
) -> Result<Change, StoreError> {
    let trust = write.find(which).await?;
    let rows = write.delete(trust.id).await?;
    check_count(&write, rows)?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    let former_hash = trust.api_key_hash;
    Ok(Change { trust, former_hash, barrier })
}

/// Writes a barrier alone.
pub(crate) async fn barrier<W: WriteTransaction>(
    mut write: W,
) -> Result<Option<String>, StoreError> {
    let barrier = write.barrier().await?;
    write.commit().await?;
    Ok(barrier)
}

/// Returns why no row was inserted: another row has the name, or something on the table swallowed
/// the row.
async fn why_not_inserted<W: WriteTransaction>(write: &mut W, name: String) -> StoreError {
    match write.find(&TrustRef::Name(name.clone())).await {
        Ok(_) | Err(StoreError::BadRow { .. }) => StoreError::NameTaken { name },
        Err(StoreError::NoSuchTrust { .. }) => write.schema_error(&format!(
            "it did not insert the given row; look for {} on its table `trust`",
            W::INTERCEPTORS
        )),
        Err(error) => error,
    }
}

/// Checks that a statement has written one row.
fn check_count<W: WriteTransaction>(write: &W, rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        return Ok(());
    }
    Err(write.schema_error(
        "it did not change the requested row; look for a trigger on its table `trust`",
    ))
}

/// Checks that the row is as it should be after all triggers, except those that run at the commit.
async fn check_row<W: WriteTransaction>(
    write: &mut W,
    id: Uuid,
    is_expected: impl FnOnce(&Trust) -> bool + Send,
) -> Result<(), StoreError> {
    match write.find(&id.into()).await {
        Ok(found) => check_count(write, u64::from(is_expected(&found))),
        Err(StoreError::NoSuchTrust { .. }) => check_count(write, 0),
        Err(error) => Err(error),
    }
}
