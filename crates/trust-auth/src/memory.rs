//! [`MemoryStore`]: the trusts in this process's memory, in an immutable table. Writers replace the
//! whole table.
//!
//! A reader never waits for a writer, and never sees half of a write.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::new_key::{NewKey, Rotation};
use crate::new_trust::NewTrust;
use crate::store::{Candidates, Change, TrustLedger, TrustStore};
use crate::trust::Trust;
use crate::trust::now;
use crate::trust_key::TrustKey;
use crate::trust_ref::TrustRef;

/// The trusts in memory, for tests, examples, and services whose trusts come from a configuration.
///
/// A read loads one pointer ([`arc_swap`]) and never waits. The loaded table does not change while
/// it is held, also across `.await`. A write copies the table, O(n), and writes take turns.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger, TrustStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let trust = store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
/// assert_eq!(store.fetch(trust.id).await?, Some(trust));
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    table: ArcSwap<Table>,
    writer: Mutex<()>,
}

/// One state of the table.
#[derive(Debug, Default)]
struct Table {
    /// In the order of insertion. A row has all keys of its trust, also those that have ended.
    rows: Vec<Arc<Trust>>,
    by_id: HashMap<Uuid, Arc<Trust>>,
    /// Those of all rows, as long as no key of theirs has an end.
    candidates: Option<Candidates>,
    /// The last of the candidates with each digest, as long as no key has an end.
    by_hash: HashMap<KeyHash, Uuid>,
}

impl MemoryStore {
    /// Returns a store without trusts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a store of these rows, in this order, as they are.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if two rows have the same name, [`StoreError::BadRow`] if two have
    /// the same id.
    ///
    /// ```
    /// # use trust_auth::{KeyHash, MemoryStore, StoreError, Trust};
    /// # fn main() -> Result<(), StoreError> {
    /// let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
    /// let mut trust = Trust::new(id, "St. Mary");
    /// trust.api_key_hash = Some(KeyHash::of("key"));
    /// let store = MemoryStore::with_rows([trust])?;
    /// # Ok(()) }
    /// ```
    pub fn with_rows(rows: impl IntoIterator<Item = Trust>) -> Result<Self, StoreError> {
        let rows: Vec<Arc<Trust>> = rows.into_iter().map(Arc::new).collect();
        let (mut names, mut ids) = (HashSet::new(), HashSet::new());
        for row in &rows {
            if !names.insert(row.name.as_str()) {
                return Err(StoreError::NameTaken { name: row.name.clone() });
            }
            if !ids.insert(row.id) {
                return Err(StoreError::BadRow { id: Some(row.id), column: "id" });
            }
        }
        Ok(Self { table: ArcSwap::from_pointee(Table::of(rows)), writer: Mutex::default() })
    }

    /// Replaces the row with the same id by this row, as it is, or adds the row at the end. Returns
    /// the replaced row.
    ///
    /// It acts as another program that writes to the table: no cache is invalidated.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`] if another row has the name. Nothing changes then.
    pub fn put(&self, trust: Trust) -> Result<Option<Trust>, StoreError> {
        self.write(|rows| put(rows, trust))
    }

    /// Replaces the table by the changed rows, unless the change fails.
    fn write<T>(
        &self,
        change: impl FnOnce(&mut Vec<Arc<Trust>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _turn = self.turn();
        let mut rows = self.table.load().rows.clone();
        let changed = change(&mut rows)?;
        self.table.store(Arc::new(Table::of(rows)));
        Ok(changed)
    }

    /// Does as [`write`](Self::write), for one row that must exist.
    fn change(
        &self,
        which: &TrustRef,
        change: impl FnOnce(&mut Trust) -> Result<(), StoreError>,
    ) -> Result<Change, StoreError> {
        self.write(|rows| {
            let at = position(rows, which)?;
            let mut trust = Trust::clone(&rows[at]);
            let former = active(&trust).hashes().collect::<Vec<_>>();
            change(&mut trust)?;
            rows[at] = Arc::new(trust);
            Ok(Change::new(active(&rows[at]), former))
        })
    }

    /// Locks out other writers. A poisoned lock is usable: a writer that panicked stored nothing.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrustStore for MemoryStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        Ok(self.table.load().by_id.get(&id).map(|row| active(row)))
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let table = self.table.load();
        Ok(table.candidates.clone().unwrap_or_else(|| candidates(&table.rows)))
    }

    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        let table = self.table.load();
        match table.candidates {
            Some(_) => Ok(table.by_hash.get(hash).copied()),
            None => Ok(by_hash(&candidates(&table.rows)).get(hash).copied()),
        }
    }
}

impl TrustLedger for MemoryStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.insert_with_key(new, hash.into()).await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        self.insert_with_key(new, NewKey::new(hash).imported()).await
    }

    async fn insert_with_key(&self, new: NewTrust, key: NewKey) -> Result<Trust, StoreError> {
        let trust = new.into_trust_with(key.clone(), now());
        self.write(|rows| {
            check_absent(rows, &key)?;
            put(rows, trust.clone())
        })?;
        Ok(trust)
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.rotate(which, Rotation::new(hash.into())).await
    }

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        self.change(which, |trust| {
            let now = now();
            let present: Vec<KeyHash> = active(trust).hashes().collect();
            if rotation.is_superseded(&present) {
                return Err(StoreError::Superseded);
            }
            let (new, end) = (rotation.key.hash, rotation.end_of_others(now));
            let (hash, rows) = rotation.rows_of(trust, now);
            let others = trust.keys.iter_mut().filter(|key| key.hash != new);
            for key in others.filter(|key| key.revoked_at.is_none()) {
                match end {
                    None => key.revoked_at = Some(now),
                    Some(end) if key.expires_at.is_none_or(|own| own > end) => {
                        key.expires_at = Some(end);
                    }
                    Some(_) => {}
                }
            }
            trust.keys.extend(rows);
            trust.api_key_hash = hash;
            Ok(())
        })
    }

    async fn add_key(&self, which: &TrustRef, key: NewKey) -> Result<TrustKey, StoreError> {
        self.write(|rows| {
            check_absent(rows, &key)?;
            let at = position(rows, which)?;
            let row = key.into_row(rows[at].id, now());
            Arc::make_mut(&mut rows[at]).keys.push(row.clone());
            Ok(row)
        })
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        self.write(|rows| {
            let has = |row: &Arc<Trust>| row.keys.iter().position(|row| row.id == key);
            let Some((at, index)) =
                rows.iter().enumerate().find_map(|(at, row)| Some((at, has(row)?)))
            else {
                return Err(StoreError::NoSuchKey { id: key });
            };
            let trust = Arc::make_mut(&mut rows[at]);
            let hash = trust.keys[index].hash;
            for row in trust.keys.iter_mut().filter(|row| row.id == key || row.hash == hash) {
                row.revoked_at = row.revoked_at.or_else(|| Some(now()));
            }
            trust.api_key_hash = trust.api_key_hash.filter(|own| *own != hash);
            Ok(Change::new(active(trust), [hash]))
        })
    }

    async fn keys(&self, which: &TrustRef) -> Result<Vec<TrustKey>, StoreError> {
        let table = self.table.load();
        Ok(table.rows[position(&table.rows, which)?].keys.clone())
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(which, |trust| {
            trust.disabled_at =
                if enabled { None } else { trust.disabled_at.or_else(|| Some(now())) };
            Ok(())
        })
    }

    async fn set_attributes(
        &self,
        which: &TrustRef,
        attributes: Option<serde_json::Value>,
    ) -> Result<Change, StoreError> {
        self.change(which, |trust| {
            trust.attributes = attributes;
            Ok(())
        })
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.write(|rows| {
            let row = active(&rows.remove(position(rows, which)?));
            let former = row.hashes().collect::<Vec<_>>();
            Ok(Change::new(row, former))
        })
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        let table = self.table.load_full();
        let mut trusts: Vec<Trust> = table.rows.iter().map(|row| active(row)).collect();
        trusts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(trusts)
    }
}

impl Table {
    fn of(rows: Vec<Arc<Trust>>) -> Self {
        let by_id = rows.iter().map(|row| (row.id, Arc::clone(row))).collect();
        let has_ends = rows.iter().any(|row| row.keys.iter().any(|key| key.expires_at.is_some()));
        let candidates = (!has_ends).then(|| candidates(&rows));
        let by_hash = candidates.as_ref().map(by_hash).unwrap_or_default();
        Self { rows, by_id, candidates, by_hash }
    }
}

/// Returns the row with the keys that are active now.
fn active(row: &Trust) -> Trust {
    let mut row = row.clone();
    if !row.keys.is_empty() {
        let now = now();
        row.keys.retain(|key| key.is_active(now));
    }
    row
}

fn candidates(rows: &[Arc<Trust>]) -> Candidates {
    let rows: Vec<Trust> =
        rows.iter().filter(|row| row.is_enabled()).map(|row| active(row)).collect();
    Candidates::of(&rows)
}

fn by_hash(candidates: &Candidates) -> HashMap<KeyHash, Uuid> {
    let ids = (0..candidates.len()).filter_map(|at| candidates.id(at));
    candidates.hashes().iter().copied().zip(ids).collect()
}

/// Checks for an imported key that no row has its digest, also of a key that has ended.
fn check_absent(rows: &[Arc<Trust>], key: &NewKey) -> Result<(), StoreError> {
    if !key.is_imported {
        return Ok(());
    }
    let digests = Candidates::of(rows);
    key.hashes().try_for_each(|hash| digests.check_absent(hash))
}

/// Replaces the row with the same id, or adds the row. Returns the replaced row.
fn put(rows: &mut Vec<Arc<Trust>>, trust: Trust) -> Result<Option<Trust>, StoreError> {
    if rows.iter().any(|row| row.name == trust.name && row.id != trust.id) {
        return Err(StoreError::NameTaken { name: trust.name });
    }
    let trust = Arc::new(trust);
    Ok(match rows.iter_mut().find(|row| row.id == trust.id) {
        Some(row) => Some(Arc::unwrap_or_clone(std::mem::replace(row, trust))),
        None => {
            rows.push(trust);
            None
        }
    })
}

fn position(rows: &[Arc<Trust>], which: &TrustRef) -> Result<usize, StoreError> {
    which.position_in(rows).ok_or_else(|| StoreError::NoSuchTrust { which: which.clone() })
}
