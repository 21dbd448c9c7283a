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
use crate::new_trust::NewTrust;
use crate::store::{Candidates, Change, TrustLedger, TrustStore};
use crate::trust::Trust;
use crate::trust::now;
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
    /// In the order of insertion.
    rows: Vec<Arc<Trust>>,
    by_id: HashMap<Uuid, Arc<Trust>>,
    candidates: Candidates,
    /// The last row of each digest, of the enabled ones.
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
        change: impl FnOnce(&mut Trust),
    ) -> Result<Change, StoreError> {
        self.write(|rows| {
            let at = position(rows, which)?;
            let row = &mut rows[at];
            let former_hash = row.api_key_hash;
            let mut trust = Trust::clone(row);
            change(&mut trust);
            *row = Arc::new(trust.clone());
            Ok(Change::new(trust, former_hash))
        })
    }

    /// Locks out other writers. A poisoned lock is usable: a writer that panicked stored nothing.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrustStore for MemoryStore {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        Ok(self.table.load().by_id.get(&id).map(|row| Trust::clone(row)))
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        Ok(self.table.load().candidates.clone())
    }

    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        Ok(self.table.load().by_hash.get(hash).copied())
    }
}

impl TrustLedger for MemoryStore {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let trust = new.into_trust(hash);
        self.put(trust.clone())?;
        Ok(trust)
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let trust = new.into_trust(hash);
        self.write(|rows| {
            Candidates::of(rows).check_absent(&hash)?;
            put(rows, trust.clone())
        })?;
        Ok(trust)
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.change(which, |trust| trust.api_key_hash = Some(hash))
    }

    async fn replace_former_hash(
        &self,
        which: &TrustRef,
        former: Option<KeyHash>,
        hash: KeyHash,
    ) -> Result<Change, StoreError> {
        self.write(|rows| {
            let at = position(rows, which)?;
            let row = &mut rows[at];
            let found = row.api_key_hash;
            if found != former && found != Some(hash) {
                return Err(StoreError::Superseded);
            }
            let trust = Trust { api_key_hash: Some(hash), ..Trust::clone(row) };
            *row = Arc::new(trust.clone());
            Ok(Change::new(trust, found))
        })
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(which, |trust| {
            trust.disabled_at =
                if enabled { None } else { trust.disabled_at.or_else(|| Some(now())) };
        })
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.write(|rows| {
            let row = rows.remove(position(rows, which)?);
            Ok(Change::new(Trust::clone(&row), row.api_key_hash))
        })
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        let table = self.table.load_full();
        let mut trusts: Vec<Trust> = table.rows.iter().map(|row| Trust::clone(row)).collect();
        trusts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(trusts)
    }
}

impl Table {
    fn of(rows: Vec<Arc<Trust>>) -> Self {
        let by_id = rows.iter().map(|row| (row.id, Arc::clone(row))).collect();
        let mut candidates = Candidates::with_capacity(rows.len());
        for row in rows.iter().filter(|row| row.is_enabled()) {
            if let Some(hash) = row.api_key_hash {
                candidates.push(row.id, hash);
            }
        }
        let ids = (0..candidates.len()).filter_map(|at| candidates.id(at));
        let by_hash = candidates.hashes().iter().copied().zip(ids).collect();
        Self { rows, by_id, candidates, by_hash }
    }
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
