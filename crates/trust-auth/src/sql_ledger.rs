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
use crate::table_names::{TableNames, TrustColumn};
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

    /// Returns what a revocation needs of the row of a key, or `None` if there is no such row. Also
    /// finds a row that is malformed.
    fn key_row(
        &mut self,
        key: Uuid,
    ) -> impl Future<Output = Result<Option<KeyRow>, StoreError>> + Send;

    /// Revokes the key unless it is revoked, and every other key of its trust with its digest.
    fn revoke_key(
        &mut self,
        key: Uuid,
        row: &KeyRow,
        now: OffsetDateTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Revokes all keys of the trust but those with the digest `kept`. A key at its end is revoked,
    /// too, which a clock that goes back would revive, and so is a malformed one, which a repair of
    /// its row would revive.
    fn revoke_keys(
        &mut self,
        trust: Uuid,
        kept: &KeyHash,
        now: OffsetDateTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Counts the keys that [`revoke_keys`](Self::revoke_keys) would revoke.
    fn unrevoked_keys(
        &mut self,
        trust: Uuid,
        kept: &KeyHash,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send;

    /// Gives these keys this end.
    fn end_keys(
        &mut self,
        keys: &[Uuid],
        end: OffsetDateTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Adds the row of a trust, without those of its keys, unless another row has its name.
    fn insert(&mut self, trust: &Trust) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Adds the row of a key.
    fn insert_key(
        &mut self,
        key: &TrustKey,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

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

    /// Writes the attributes of a row, as the text of JSON.
    fn set_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Returns whether the row has these attributes, as the text of JSON that was written. The
    /// database compares them, since it may write the same JSON in another way.
    fn has_attributes(
        &mut self,
        id: Uuid,
        attributes: Option<String>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes a row, and those of its keys.
    fn delete(&mut self, id: Uuid) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes the barrier of a read lease's changer, and returns its text. `None`: no process can
    /// hold a lease. It comes last, before the commit.
    fn barrier(&mut self) -> impl Future<Output = Result<Option<String>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Commits, and gives the connection back.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns what the database calls the tables and columns.
    fn names(&self) -> &TableNames;

    /// Returns a [`StoreError::Schema`] that names this database.
    fn schema_error(&self, reason: &str) -> StoreError;
}

/// A row of the table of keys, as far as a revocation needs it.
pub(crate) struct KeyRow {
    pub(crate) trust: Uuid,
    /// `None`: the digest is malformed, and no key has it.
    pub(crate) hash: Option<KeyHash>,
    pub(crate) is_revoked: bool,
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
    check_column(&write, TrustColumn::Code, trust.code.is_some())?;
    check_column(&write, TrustColumn::Region, trust.region.is_some())?;
    check_column(&write, TrustColumn::Attributes, trust.attributes.is_some())?;
    if write.insert(&trust).await? == 0 {
        return Err(why_not_inserted(&mut write, trust.name).await);
    }
    insert_keys(&mut write, &trust.keys).await?;
    write.commit().await?;
    Ok(trust)
}

async fn check_absent<W: WriteTransaction>(write: &mut W, key: &NewKey) -> Result<(), StoreError> {
    if !key.is_imported {
        return Ok(());
    }
    let digests = write.digests().await?;
    key.hashes().try_for_each(|hash| digests.check_absent(hash))
}

/// Checks that a value which is to be written has a column.
fn check_column<W: WriteTransaction>(
    write: &W,
    column: TrustColumn,
    is_written: bool,
) -> Result<(), StoreError> {
    let names = write.names();
    if !is_written || names.name_of(column).is_some() {
        return Ok(());
    }
    let (table, column) = (names.trust(), column.as_str());
    Err(write.schema_error(&format!(
        "its table `{table}` has no column for `{column}`, which the names leave out; give the \
         trust none, or name a column for it"
    )))
}

async fn insert_keys<W: WriteTransaction>(
    write: &mut W,
    keys: &[TrustKey],
) -> Result<(), StoreError> {
    for key in keys {
        let rows = write.insert_key(key).await?;
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
    insert_keys(&mut write, std::slice::from_ref(&row)).await?;
    write.commit().await?;
    Ok(row)
}

/// Revokes one key, and what else of its trust has its digest: afterwards, the trust accepts the
/// key no more. A second revocation keeps the time of the first.
pub(crate) async fn revoke_key<W: WriteTransaction>(
    mut write: W,
    id: Uuid,
) -> Result<Change, StoreError> {
    let no_such_key = || StoreError::NoSuchKey { id };
    let unlocked = write.key_row(id).await?.ok_or_else(no_such_key)?;
    // Locks the trust. The key is read again after that.
    let trust = match write.find(&unlocked.trust.into()).await {
        Err(StoreError::NoSuchTrust { .. }) => return Err(no_such_key()),
        found => found?,
    };
    let row = write.key_row(id).await?.filter(|row| row.trust == trust.id);
    let row = row.ok_or_else(no_such_key)?;
    let now = write.now().await?;
    write.revoke_key(id, &row, now).await?;
    if row.hash.is_some() && trust.api_key_hash == row.hash {
        let rows = write.set_hash(trust.id, None).await?;
        check_count(&write, rows)?;
    }
    let is_revoked = write.key_row(id).await?.is_some_and(|row| row.is_revoked);
    let trust = write.find(&trust.id.into()).await?;
    let is_accepted = trust.hashes().any(|hash| Some(hash) == row.hash);
    check_key_count(&write, u64::from(is_revoked && !is_accepted))?;
    let barrier = write.barrier().await?;
    write.commit().await?;
    Ok(Change { trust, former: row.hash.into_iter().collect(), barrier })
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
    let active = trust.keys.clone();
    if rotation.former.is_some() {
        // A repetition may find its own key. Also keys at their end.
        trust.keys = write.keys(trust.id).await?;
    }
    if rotation.is_superseded(&former) || is_dead(&trust, &former, &rotation) {
        return Err(StoreError::Superseded);
    }
    let (id, new) = (trust.id, rotation.key.hash);
    let may_have_ended = rotation.key.terms.lasts().is_some();
    let now = write.now().await?;
    let end = rotation.end_of_others(now);
    let lasts = |key: &TrustKey| {
        key.hash != new && end.is_some_and(|end| key.expires_at.is_none_or(|own| own > end))
    };
    match end {
        None => drop(write.revoke_keys(id, &new, now).await?),
        Some(end) => {
            let lasting = active.iter().filter(|key| lasts(key)).map(|key| key.id);
            write.end_keys(&lasting.collect::<Vec<_>>(), end).await?;
        }
    }
    let (hash, keys) = rotation.rows_of(&trust, now);
    insert_keys(&mut write, &keys).await?;
    let rows = write.set_hash(id, hash).await?;
    check_count(&write, rows)?;
    let trust = write.find(&id.into()).await?;
    let has_new = may_have_ended || trust.hashes().any(|hash| hash == new);
    let others_end = match end {
        None => write.unrevoked_keys(id, &new).await? == 0,
        Some(_) => !trust.keys.iter().any(lasts),
    };
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

/// Replaces the attributes, or removes them.
pub(crate) async fn set_attributes<W: WriteTransaction>(
    mut write: W,
    which: &TrustRef,
    attributes: Option<serde_json::Value>,
) -> Result<Change, StoreError> {
    check_column(&write, TrustColumn::Attributes, true)?;
    let id = write.find(which).await?.id;
    let attributes = attributes.map(|json| json.to_string());
    let rows = write.set_attributes(id, attributes.clone()).await?;
    check_count(&write, rows)?;
    let has_them = write.has_attributes(id, attributes).await?;
    check_count(&write, u64::from(has_them))?;
    let trust = write.find(&id.into()).await?;
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
            "it did not insert the given row; look for {} on its table `{}`",
            W::INTERCEPTORS,
            write.names().trust()
        )),
        Err(error) => error,
    }
}

/// Checks that a statement has written one row.
fn check_count<W: WriteTransaction>(write: &W, rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        return Ok(());
    }
    Err(unchanged(write, write.names().trust()))
}

/// Checks that a statement has written one row of a key.
fn check_key_count<W: WriteTransaction>(write: &W, rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        return Ok(());
    }
    Err(unchanged(write, write.names().trust_key()))
}

fn unchanged<W: WriteTransaction>(write: &W, table: &str) -> StoreError {
    write.schema_error(&format!(
        "it did not change the requested row; look for a trigger on its table `{table}`"
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
