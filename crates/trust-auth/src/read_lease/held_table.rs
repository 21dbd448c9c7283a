//! [`HeldTable`]: the rows that a holder grants from, and until when. A table never changes: a
//! renewal publishes another one.
//!
//! Rows are shared between tables. A table of other rows copies pointers, ids and digests, and no
//! row; a table of the same rows copies nothing.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::{BootClock, Clock, KeyHash, sweep};
use uuid::Uuid;

use crate::trust::Trust;

/// A trust's id, and its row as it is now, if it accepts a key.
pub(crate) type ChangedRow = (Uuid, Option<Trust>);

/// More changes than these are sorted in together.
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

/// The trusts that accept a key, in the order of their creation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    by_id: HashMap<Uuid, Arc<Trust>>,
    /// Of several rows with one digest, the one that was made last.
    by_hash: HashMap<KeyHash, Arc<Trust>>,
    in_order: Vec<Arc<Trust>>,
    /// The digests of `in_order`, packed for the sweep.
    hashes: Vec<KeyHash>,
}

impl Rows {
    pub(crate) fn of(trusts: impl IntoIterator<Item = Trust>) -> Self {
        let by_id = trusts.into_iter().filter(holds).map(|trust| (trust.id, Arc::new(trust)));
        Self::sorted(by_id.collect())
    }

    fn sorted(by_id: HashMap<Uuid, Arc<Trust>>) -> Self {
        let mut in_order: Vec<_> = by_id.values().cloned().collect();
        in_order.sort_unstable_by(|one, other| by_creation(one, other));
        let hashes: Vec<_> = in_order.iter().filter_map(|trust| trust.api_key_hash).collect();
        let by_hash = hashes.iter().copied().zip(in_order.iter().cloned()).collect();
        Self { by_id, by_hash, in_order, hashes }
    }

    /// Returns the rows after these changes, each the row as it is now, or `None`.
    pub(crate) fn after(&self, changes: Vec<ChangedRow>) -> Self {
        let mut next = self.clone();
        let few = changes.len() <= FEW;
        let mut touched = Vec::new();
        for (id, row) in changes {
            let former = next.by_id.remove(&id);
            if let (true, Some(former)) = (few, former)
                && let Ok(place) = next.place(&former)
            {
                next.in_order.remove(place);
                touched.push(next.hashes.remove(place));
            }
            let Some(row) = row.filter(holds) else { continue };
            let (row, hash) = (Arc::new(row.clone()), row.api_key_hash);
            if let (true, Some(hash), Err(place)) = (few, hash, next.place(&row)) {
                next.in_order.insert(place, Arc::clone(&row));
                next.hashes.insert(place, hash);
                touched.push(hash);
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

    fn place(&self, trust: &Trust) -> Result<usize, usize> {
        self.in_order.binary_search_by(|other| by_creation(other, trust))
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
        self.in_order.get(sweep(hash, &self.hashes)?)
    }

    /// Returns all digests, in the order of the rows, for a sweep.
    pub(crate) fn hashes(&self) -> &[KeyHash] {
        &self.hashes
    }

    /// Returns the row whose digest is at this index of [`hashes`](Self::hashes).
    pub(crate) fn row(&self, index: usize) -> Option<&Arc<Trust>> {
        self.in_order.get(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.in_order.len()
    }
}

/// Returns whether the trust accepts a key. No other row is held.
fn holds(trust: &Trust) -> bool {
    trust.is_enabled() && trust.api_key_hash.is_some()
}

fn by_creation(one: &Trust, other: &Trust) -> Ordering {
    (one.created_at, one.id).cmp(&(other.created_at, other.id))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn trust(id: u128, made: i64, key: &str) -> Trust {
        Trust {
            api_key_hash: Some(KeyHash::of(key)),
            created_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(made as u64)),
            ..Trust::new(Uuid::from_u128(id), format!("trust {id}"))
        }
    }

    fn assert_consistent(rows: &Rows) {
        assert_eq!(rows.by_id.len(), rows.in_order.len());
        assert_eq!(rows.hashes.len(), rows.in_order.len());
        assert!(rows.in_order.is_sorted_by(|one, other| by_creation(one, other).is_lt()));
        let distinct: std::collections::HashSet<_> = rows.hashes.iter().collect();
        assert_eq!(rows.by_hash.len(), distinct.len());
        for (trust, hash) in rows.in_order.iter().zip(&rows.hashes) {
            assert_eq!(trust.api_key_hash.as_ref(), Some(hash));
            assert!(Arc::ptr_eq(rows.held(hash).unwrap(), rows.find(hash).unwrap()));
            assert!(Arc::ptr_eq(&rows.by_id[&trust.id], trust));
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
                    (Uuid::from_u128(id), (random.u8(0..4) > 0).then_some(row))
                });
                let changes: Vec<_> = changes.collect();
                for (id, row) in &changes {
                    match row.as_ref().filter(|row| row.is_enabled()) {
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
    fn a_table_after_one_change_shares_all_other_rows() {
        let rows = Rows::of((0..10).map(|id| trust(id, 0, &id.to_string())));
        let next = rows.after(vec![(Uuid::from_u128(3), None)]);
        assert_eq!(next.len(), 9);
        assert!(next.in_order.iter().all(|row| Arc::ptr_eq(row, &rows.by_id[&row.id])));
    }

    #[test]
    fn of_two_rows_with_one_key_the_later_one_is_found() {
        let rows = Rows::of([trust(1, 9, "key"), trust(2, 5, "key"), trust(3, 7, "other")]);
        assert_eq!(rows.find(&KeyHash::of("key")).map(|row| row.id), Some(Uuid::from_u128(1)));
        assert!(rows.find(&KeyHash::of("unknown")).is_none());
    }

    #[test]
    fn at_its_deadline_a_table_is_valid_no_longer() {
        let table = |deadline| HeldTable { rows: Arc::default(), deadline };
        assert!(!table(Duration::ZERO).is_valid());
        assert!(!table(BootClock.now()).is_valid());
        assert_eq!(table(Duration::MAX).is_valid(), BootClock::IS_SUPPORTED);
    }
}
