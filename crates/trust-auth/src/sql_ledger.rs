//! The changes of the SQL stores, step by step. Each database supplies its statements, and its own
//! way to begin, through [`WriteTransaction`].
//!
//! A change reads its row, writes it, checks the effect, and commits. The check must never be
//! skipped: the caller of a revocation relies on its `Ok`.

use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::new_key::{NewKey, Rotation};
use crate::new_trust::NewTrust;
use crate::store::{Candidates, Change};
use crate::trust::{Trust, now};
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

/// An open transaction of one change.
///
/// Dropped without [`commit`](Self::commit), it rolls back, and its connection is never used again.
/// Each statement returns how many rows it wrote.
pub(crate) trait WriteTransaction: Send {
    /// What another program can put on a table so that an insertion adds no row.
    const INTERCEPTORS: &'static str;

    /// Returns the database's time.
    fn now(&mut self) -> impl Future<Output = Result<OffsetDateTime, StoreError>> + Send;

    /// Reads the row with its active keys, and keeps other transactions from changing it until this
    /// one ends; each change of a key locks its trust's row first. By name, it prefers the exact
    /// text to the text's normalization form C.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] if there is no such row, or any other [`StoreError`].
    fn find(&mut self, which: &TrustRef) -> impl Future<Output = Result<Trust, StoreError>> + Send;

    /// Returns the trust's id and the digest of every row of both tables that has one, whether it
    /// is active or not. Keeps other imports from this step until the transaction ends, so that
    /// they see what it has committed.
    fn digests(&mut self) -> impl Future<Output = Result<Candidates, StoreError>> + Send;

    /// Returns all rows of the trust's keys, also those that are revoked or at their end, in the
    /// order of their creation.
    fn keys(
        &mut self,
        trust: Uuid,
    ) -> impl Future<Output = Result<Vec<TrustKey>, StoreError>> + Send;

    /// Returns the id of the key's trust, or `None` if there is no such key.
    fn trust_of(
        &mut self,
        key: Uuid,
    ) -> impl Future<Output = Result<Option<Uuid>, StoreError>> + Send;

    /// Adds the row of a trust, without those of its keys, unless another row has its name.
    fn insert(&mut self, trust: &Trust) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Adds the row of a key, or writes the two times of the row with this id: when it ends, and
    /// when it was revoked.
    fn put_key(&mut self, key: &TrustKey) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes the digest of a row.
    fn set_hash(
        &mut self,
        id: Uuid,
        hash: Option<KeyHash>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes since when a row is disabled.
    fn set_disabled_at(
        &mut self,
        id: Uuid,
        disabled_at: Option<OffsetDateTime>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Removes a row, and those of its keys.
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

/// Inserts the row with its key. A key that exists already is refused if another row has its
/// digest.
pub(crate) async fn insert<W: WriteTransaction>(
    mut write: W,
    new: NewTrust,
    key: NewKey,
) -> Result<Trust, StoreError> {
    check_absent(&mut write, &key).await?;
    let now = write.now().await?;
    let trust = new.into_trust_with(key, now);
    if write.insert(&trust).await? == 0 {
        return Err(why_not_inserted(&mut write, trust.name).await);
    }
    put_keys(&mut write, &trust.keys).await?;
    write.commit().await?;
    Ok(trust)
}

async fn check_absent<W: WriteTransaction>(write: &mut W, key: &NewKey) -> Result<(), StoreError> {
    if key.is_imported { write.digests().await?.check_absent(&key.hash) } else { Ok(()) }
}

async fn put_keys<W: WriteTransaction>(write: &mut W, keys: &[TrustKey]) -> Result<(), StoreError> {
    for key in keys {
        let rows = write.put_key(key).await?;
        check_key_count(write, rows)?;
    }
    Ok(())
}

/// Gives the trust one more key.
pub(crate) async fn add_key<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
    key: NewKey,
) -> Result<TrustKey, StoreError> {
    check_absent(&mut write, &key).await?;
    let trust = write.find(which).await?;
    let row = key.into_row(trust.id, write.now().await?);
    put_keys(&mut write, std::slice::from_ref(&row)).await?;
    write.commit().await?;
    Ok(row)
}

/// Revokes one key. A second revocation keeps the time of the first.
pub(crate) async fn revoke_key<W: WriteTransaction>(
    mut write: W,
    id: Uuid,
) -> Result<Change, StoreError> {
    let no_such_key = || StoreError::NoSuchKey { id };
    let trust = write.trust_of(id).await?.ok_or_else(no_such_key)?;
    // Locks the trust. The key is read after that.
    match write.find(&trust.into()).await {
        Err(StoreError::NoSuchTrust { .. }) => return Err(no_such_key()),
        found => drop(found?),
    }
    let mut keys = write.keys(trust).await?.into_iter();
    let mut key = keys.find(|key| key.id == id).ok_or_else(no_such_key)?;
    key.revoked_at = key.revoked_at.or(Some(write.now().await?));
    let rows = write.put_key(&key).await?;
    check_key_count(&write, rows)?;
    let trust = write.find(&trust.into()).await?;
    let is_active = trust.keys.iter().any(|key| key.id == id);
    check_key_count(&write, u64::from(!is_active))?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    Ok(Change { trust, former: vec![key.hash], barrier })
}

/// Returns all rows of the trust's keys.
pub(crate) async fn keys<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
) -> Result<Vec<TrustKey>, StoreError> {
    let trust = write.find(which).await?;
    let keys = write.keys(trust.id).await?;
    write.commit().await?;
    Ok(keys)
}

/// Gives the trust a new key in place of all others.
pub(crate) async fn rotate<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
    rotation: Rotation,
) -> Result<Change, StoreError> {
    // The row is locked until the commit.
    let mut trust = write.find(which).await?;
    let former: Vec<KeyHash> = trust.hashes().collect();
    // Also those at their end.
    trust.keys = write.keys(trust.id).await?;
    if rotation.is_superseded(&former) || is_dead(&trust, &former, &rotation) {
        return Err(StoreError::Superseded);
    }
    let (id, new, revokes) = (trust.id, rotation.key.hash, rotation.revokes_others());
    let may_have_ended = rotation.key.terms.lasts().is_some();
    let (hash, keys) = rotation.rows_of(&trust, write.now().await?);
    put_keys(&mut write, &keys).await?;
    let rows = write.set_hash(id, hash).await?;
    check_count(&write, rows)?;
    let trust = write.find(&id.into()).await?;
    let has_new = may_have_ended || trust.hashes().any(|hash| hash == new);
    let keys = write.keys(id).await?;
    let mut others = keys.iter().filter(|key| key.hash != new && key.revoked_at.is_none());
    let others_end = others.all(|key| !revokes && key.expires_at.is_some());
    check_count(&write, u64::from(trust.api_key_hash == hash && has_new && others_end))?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    Ok(Change { trust, former, barrier })
}

/// Returns whether the new key of a rotation that is repeated was stored, and has ended since. Made
/// again, the rotation would bring the key back.
fn is_dead(trust: &Trust, active: &[KeyHash], rotation: &Rotation) -> bool {
    let new = &rotation.key.hash;
    rotation.former.is_some() && !active.contains(new) && trust.hashes().any(|hash| hash == *new)
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
    let former = trust.hashes().collect();
    Ok(Change { trust, former, barrier })
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
    let former = trust.hashes().collect();
    Ok(Change { trust, former, barrier })
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

/// Checks that a statement has written one row of a key.
fn check_key_count<W: WriteTransaction>(write: &W, rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        return Ok(());
    }
    Err(write.schema_error(
        "it did not change the requested row; look for a trigger on its table `trust_key`",
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
