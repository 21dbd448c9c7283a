//! [`HeldTable`]: the rows that a holder grants from, and until when. A table never changes: a
//! renewal publishes another one.
//!
//! Rows are shared between tables. A table of other rows copies pointers, ids and digests, and no
//! row; a table of the same rows copies nothing. A row is a trust with its keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::{BootClock, Clock, KeyHash, sweep};
use uuid::Uuid;

use crate::trust::Trust;

/// A trust's id, and its row as it is now, if it accepts a key.
pub(crate) type ChangedRow = (Uuid, Option<Trust>);

/// More changed keys than these are sorted in together.
const FEW: usize = 64;

/// Rows as of one snapshot, with the deadline that vouches for them (R4).
#[derive(Clone, Debug)]
pub(crate) struct HeldTable {
    pub(crate) rows: Arc<Rows>,
    /// By [`BootClock`]: at this time and later, nothing is granted from the rows.
    pub(crate) deadline: Duration,
}

impl HeldTable {
    /// Returns whether the lease is in force. A request calls it **after** it has found its row
    /// (R4).
    pub(crate) fn is_valid(&self) -> bool {
        BootClock.now() < self.deadline
    }
}

/// The trusts that accept a key, and their keys in the order of [`Candidates`].
///
/// [`Candidates`]: crate::Candidates
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    by_id: HashMap<Uuid, Arc<Trust>>,
    /// Of several keys with one digest, the last one.
    by_hash: HashMap<KeyHash, Arc<Trust>>,
    in_order: Vec<HeldKey>,
    /// The digests of `in_order`, packed for the sweep.
    hashes: Vec<KeyHash>,
}

/// One key of a held trust.
#[derive(Clone, Debug)]
struct HeldKey {
    trust: Arc<Trust>,
    /// The index among the trust's other keys. `None`: the key of the trust's own row.
    index: Option<u32>,
}

impl HeldKey {
    fn hash(&self) -> Option<KeyHash> {
        match self.index {
            None => self.trust.api_key_hash,
            Some(index) => self.trust.keys.get(index as usize).map(|key| key.hash),
        }
    }

    /// Returns what the keys are sorted by. The keys of the trusts' own rows come first, by the
    /// creation of the trusts.
    fn order(&self) -> impl Ord + use<> {
        let row = self.index.and_then(|index| self.trust.keys.get(index as usize));
        let (made, id) =
            row.map_or((self.trust.created_at, self.trust.id), |row| (row.created_at, row.id));
        (row.is_some(), made, id)
    }
}

/// Returns the keys of the trust.
fn keys_of(trust: &Arc<Trust>) -> impl Iterator<Item = (HeldKey, KeyHash)> + '_ {
    let others = (0..).map(Some).take(trust.keys.len());
    std::iter::once(None).chain(others).filter_map(|index| {
        let key = HeldKey { trust: Arc::clone(trust), index };
        let hash = key.hash()?;
        Some((key, hash))
    })
}

impl Rows {
    pub(crate) fn of(trusts: impl IntoIterator<Item = Trust>) -> Self {
        let by_id = trusts.into_iter().filter(holds).map(|trust| (trust.id, Arc::new(trust)));
        Self::sorted(by_id.collect())
    }

    fn sorted(by_id: HashMap<Uuid, Arc<Trust>>) -> Self {
        let mut keys: Vec<_> = by_id.values().flat_map(keys_of).collect();
        keys.sort_unstable_by_key(|(key, _)| key.order());
        let (in_order, hashes): (Vec<HeldKey>, Vec<KeyHash>) = keys.into_iter().unzip();
        let trusts = in_order.iter().map(|key| Arc::clone(&key.trust));
        let by_hash = hashes.iter().copied().zip(trusts).collect();
        Self { by_id, by_hash, in_order, hashes }
    }

    /// Returns the rows after these changes, each the row as it is now, or `None`.
    pub(crate) fn after(&self, changes: Vec<ChangedRow>) -> Self {
        let mut next = self.clone();
        // Of several changes of one trust, the last one counts.
        let changes: HashMap<Uuid, Option<Trust>> = changes.into_iter().collect();
        let keys = changes.iter().map(|(id, row)| {
            let former = self.by_id.get(id).map_or(0, |row| row.keys.len());
            1 + former + row.as_ref().map_or(0, |row| row.keys.len())
        });
        let few = keys.sum::<usize>() <= FEW;
        let mut touched = Vec::new();
        // All former keys first: a key may have moved from one of these trusts to another.
        for id in changes.keys() {
            let former = next.by_id.remove(id);
            if let (true, Some(former)) = (few, former) {
                for (key, hash) in keys_of(&former) {
                    if let Ok(place) = next.place(&key) {
                        next.in_order.remove(place);
                        next.hashes.remove(place);
                        touched.push(hash);
                    }
                }
            }
        }
        for (id, row) in changes {
            let Some(row) = row.filter(holds).map(Arc::new) else { continue };
            if few {
                for (key, hash) in keys_of(&row) {
                    if let Err(place) = next.place(&key) {
                        next.in_order.insert(place, key);
                        next.hashes.insert(place, hash);
                        touched.push(hash);
                    }
                }
            }
            next.by_id.insert(id, row);
        }
        if !few {
            return Self::sorted(next.by_id);
        }
        for hash in touched {
            // Another row may have the same digest.
            match next.find(&hash).cloned() {
                Some(row) => drop(next.by_hash.insert(hash, row)),
                None => drop(next.by_hash.remove(&hash)),
            }
        }
        next
    }

    fn place(&self, key: &HeldKey) -> Result<usize, usize> {
        self.in_order.binary_search_by(|other| other.order().cmp(&key.order()))
    }

    /// Returns the row with this digest, for a hit: without a sweep.
    ///
    /// The place of a digest in the map is secret, and digests are compared in constant time (G8).
    /// So the duration reveals no more than that of a lookup in the cache.
    pub(crate) fn held(&self, hash: &KeyHash) -> Option<&Arc<Trust>> {
        self.by_hash.get(hash)
    }

    /// Returns the row with this digest, by a sweep of all digests in constant time. Of several,
    /// the one that was made last.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<&Arc<Trust>> {
        self.row(sweep(hash, &self.hashes)?)
    }

    /// Returns all digests, in the order of the keys, for a sweep.
    pub(crate) fn hashes(&self) -> &[KeyHash] {
        &self.hashes
    }

    /// Returns the row whose digest is at this index of [`hashes`](Self::hashes).
    pub(crate) fn row(&self, index: usize) -> Option<&Arc<Trust>> {
        self.in_order.get(index).map(|key| &key.trust)
    }

    /// Returns how many trusts are held.
    pub(crate) fn trusts(&self) -> usize {
        self.by_id.len()
    }
}

/// Returns whether the trust accepts a key. No other row is held.
fn holds(trust: &Trust) -> bool {
    trust.is_enabled() && trust.hashes().next().is_some()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::trust_key::TrustKey;

    fn at(seconds: i64) -> Option<OffsetDateTime> {
        Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds as u64))
    }

    fn trust(id: u128, made: i64, key: &str) -> Trust {
        Trust {
            api_key_hash: Some(KeyHash::of(key)),
            created_at: at(made),
            ..Trust::new(Uuid::from_u128(id), format!("trust {id}"))
        }
    }

    /// Gives the trust a key in a row of its own. The ids of such rows are unique.
    fn with_key(mut trust: Trust, id: u128, made: i64, key: &str) -> Trust {
        let id = Uuid::from_u128(trust.id.as_u128() * 10 + id);
        let row =
            TrustKey { created_at: at(made), ..TrustKey::new(id, trust.id, KeyHash::of(key)) };
        trust.keys.push(row);
        trust
    }

    fn assert_consistent(rows: &Rows) {
        let keys: usize = rows.by_id.values().map(|trust| trust.hashes().count()).sum();
        assert_eq!(keys, rows.in_order.len());
        assert_eq!(rows.hashes.len(), rows.in_order.len());
        assert!(rows.in_order.is_sorted_by(|one, other| one.order() < other.order()));
        let distinct: std::collections::HashSet<_> = rows.hashes.iter().collect();
        assert_eq!(rows.by_hash.len(), distinct.len());
        for (key, hash) in rows.in_order.iter().zip(&rows.hashes) {
            assert_eq!(key.hash().as_ref(), Some(hash));
            assert!(Arc::ptr_eq(rows.held(hash).unwrap(), rows.find(hash).unwrap()));
            assert!(Arc::ptr_eq(&rows.by_id[&key.trust.id], &key.trust));
        }
    }

    #[test]
    fn rows_follow_each_kind_of_change_one_by_one_and_together() {
        let mut random = fastrand::Rng::with_seed(7);
        for number in [1, 10, FEW, FEW + 1, 300] {
            let mut rows = Rows::of((0..100).map(|id| trust(id, (id % 7) as i64, &id.to_string())));
            let mut expected: HashMap<Uuid, Trust> =
                rows.by_id.iter().map(|(id, trust)| (*id, (**trust).clone())).collect();
            for _ in 0..20 {
                let changes = (0..number).map(|_| {
                    let id = random.u128(0..120);
                    let mut row = trust(id, random.i64(0..9), &random.u8(..).to_string());
                    if random.u8(0..4) == 0 {
                        row.disabled_at = row.created_at;
                    }
                    for key in 0..random.u128(0..4) {
                        row = with_key(row, key, random.i64(0..9), &random.u8(..).to_string());
                    }
                    if random.u8(0..4) == 0 {
                        row.api_key_hash = None;
                    }
                    (Uuid::from_u128(id), (random.u8(0..4) > 0).then_some(row))
                });
                let changes: Vec<_> = changes.collect();
                for (id, row) in &changes {
                    match row.as_ref().filter(|row| holds(row)) {
                        Some(row) => drop(expected.insert(*id, row.clone())),
                        None => drop(expected.remove(id)),
                    }
                }
                rows = rows.after(changes);
                assert_consistent(&rows);
                let found = rows.by_id.iter().map(|(id, trust)| (*id, (**trust).clone()));
                assert_eq!(found.collect::<HashMap<_, _>>(), expected);
            }
        }
    }

    #[test]
    fn a_key_that_moves_to_another_trust_is_found_with_that_one() {
        let moved = |trust: Trust, key: &TrustKey| Trust { keys: vec![key.clone()], ..trust };
        let one = with_key(trust(1, 1, "one"), 0, 5, "key");
        let key = one.keys[0].clone();
        let rows = Rows::of([one, trust(2, 2, "two")]);
        for changes in [[1, 2], [2, 1]] {
            let now = |id: u128| match id {
                1 => trust(1, 1, "one"),
                _ => moved(trust(2, 2, "two"), &key),
            };
            let changes = changes.map(|id| (Uuid::from_u128(id), Some(now(id))));
            let next = rows.after(changes.to_vec());
            assert_consistent(&next);
            let found = next.find(&KeyHash::of("key")).map(|row| row.id);
            assert_eq!(found, Some(Uuid::from_u128(2)));
        }
    }

    #[test]
    fn a_table_after_one_change_shares_all_other_rows() {
        let rows = Rows::of((0..10).map(|id| trust(id, 0, &id.to_string())));
        let next = rows.after(vec![(Uuid::from_u128(3), None)]);
        assert_eq!(next.trusts(), 9);
        assert!(next.by_id.iter().all(|(id, row)| Arc::ptr_eq(row, &rows.by_id[id])));
    }

    #[test]
    fn of_two_rows_with_one_key_the_later_one_is_found() {
        let rows = Rows::of([trust(1, 9, "key"), trust(2, 5, "key"), trust(3, 7, "other")]);
        assert_eq!(rows.find(&KeyHash::of("key")).map(|row| row.id), Some(Uuid::from_u128(1)));
        assert!(rows.find(&KeyHash::of("unknown")).is_none());
    }

    #[test]
    fn a_key_in_a_row_of_its_own_is_found_before_that_of_a_trusts_own_row() {
        let rows = Rows::of([with_key(trust(1, 1, "one"), 0, 1, "key"), trust(2, 9, "key")]);
        let found = |text| rows.find(&KeyHash::of(text)).map(|row| row.id.as_u128());
        assert_eq!((found("one"), found("key")), (Some(1), Some(1)));
        assert_consistent(&rows);
    }

    #[test]
    fn at_its_deadline_a_table_is_valid_no_longer() {
        let table = |deadline| HeldTable { rows: Arc::default(), deadline };
        assert!(!table(Duration::ZERO).is_valid());
        assert!(!table(BootClock.now()).is_valid());
        assert_eq!(table(Duration::MAX).is_valid(), BootClock::IS_SUPPORTED);
    }
}
