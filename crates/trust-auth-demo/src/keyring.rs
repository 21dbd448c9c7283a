//! The keys of the demo: the key that each trust presents now, and the revoked keys that are still
//! presented.
//!
//! A key that was issued is kept until the demo ends, so that it can be presented after its
//! revocation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use trust_auth::{ApiKey, RandomError};
use uuid::Uuid;

use crate::oracle::{Standing, State};

/// A key, its trust, and whether it is valid.
#[derive(Debug)]
pub(crate) struct WatchedKey {
    pub(crate) key: ApiKey,
    pub(crate) trust: Uuid,
    pub(crate) standing: Standing,
}

impl WatchedKey {
    /// Returns a key that was just issued, and is valid.
    pub(crate) fn issued(trust: Uuid, key: ApiKey) -> Arc<Self> {
        Arc::new(Self { key, trust, standing: Standing::new(State::Valid) })
    }

    /// Returns a key that belongs to no trust. The oracle treats it as revoked.
    pub(crate) fn never_issued() -> Result<Arc<Self>, RandomError> {
        Ok(Arc::new(Self {
            key: ApiKey::generate()?,
            trust: Uuid::nil(),
            standing: Standing::new(State::Revoked),
        }))
    }
}

/// All keys, shared by the tasks that present keys and the task that revokes them.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// The key that each trust presents, or none after the trust was deleted.
    slots: Vec<ArcSwapOption<WatchedKey>>,
    /// Revoked keys, oldest first.
    retired: Mutex<Vec<Arc<WatchedKey>>>,
}

impl Keyring {
    pub(crate) fn new(keys: Vec<Arc<WatchedKey>>) -> Self {
        let slots = keys.into_iter().map(|key| ArcSwapOption::new(Some(key))).collect();
        Self { slots, retired: Mutex::default() }
    }

    /// Returns how many trusts there were at the start.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the key that trust number `slot` presents.
    pub(crate) fn current(&self, slot: usize) -> Option<Arc<WatchedKey>> {
        self.slots.get(slot)?.load_full()
    }

    /// Replaces the key that trust number `slot` presents. The old key is added to the retired keys
    /// before that, so that every key is in at least one of the two places.
    pub(crate) fn retire(&self, slot: usize, old: Arc<WatchedKey>, new: Option<Arc<WatchedKey>>) {
        self.retired().push(old);
        if let Some(slot) = self.slots.get(slot) {
            slot.store(new);
        }
    }

    /// Returns retired key number `turn`, counted from the newest key and starting over after the
    /// oldest. The newest revocation is the one most likely to be undone by a race.
    pub(crate) fn retired_key(&self, turn: usize) -> Option<Arc<WatchedKey>> {
        let retired = self.retired();
        let newest = retired.len().checked_sub(1)?;
        retired.get(newest - turn % retired.len()).cloned()
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<WatchedKey>>> {
        // A push that panicked leaves a valid list.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<WatchedKey> {
        WatchedKey::issued(Uuid::nil(), ApiKey::generate().unwrap())
    }

    #[test]
    fn retired_keys_are_presented_newest_first_and_then_start_over() {
        let (first, second, third) = (key(), key(), key());
        let ring = Keyring::new(vec![Arc::clone(&first)]);
        assert!(ring.retired_key(0).is_none());

        ring.retire(0, Arc::clone(&first), Some(Arc::clone(&second)));
        ring.retire(0, Arc::clone(&second), Some(Arc::clone(&third)));
        assert!(Arc::ptr_eq(&ring.current(0).unwrap(), &third));
        ring.retire(0, Arc::clone(&third), None);
        assert!(ring.current(0).is_none());

        let turns: Vec<_> = (0..4).filter_map(|turn| ring.retired_key(turn)).collect();
        for (presented, expected) in turns.iter().zip([&third, &second, &first, &third]) {
            assert!(Arc::ptr_eq(presented, expected));
        }
        assert_eq!(turns.len(), 4);
    }
}
