//! The keys of the demo: which one each trust presents, and which ones were revoked and are
//! presented all the same.
//!
//! A key leaves nothing but its trust's slot: once issued, it stays presentable until the demo
//! ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use trust_auth::{ApiKey, RandomError};
use uuid::Uuid;

use super::oracle::{Standing, State};

/// A key, whose it is, and what the oracle knows of it.
#[derive(Debug)]
pub(super) struct WatchedKey {
    pub(super) key: ApiKey,
    pub(super) trust: Uuid,
    pub(super) standing: Standing,
}

impl WatchedKey {
    /// A key that was just issued.
    pub(super) fn issued(trust: Uuid, key: ApiKey) -> Arc<Self> {
        Arc::new(Self { key, trust, standing: Standing::new(State::Valid) })
    }

    /// A key that nobody issued: revoked from the start.
    pub(super) fn never_issued() -> Result<Arc<Self>, RandomError> {
        Ok(Arc::new(Self {
            key: ApiKey::generate()?,
            trust: Uuid::nil(),
            standing: Standing::new(State::Revoked),
        }))
    }
}

/// All keys. Shared by the tasks that present them and the one that revokes them.
#[derive(Debug)]
pub(super) struct Keyring {
    /// The key that each trust presents; none once the trust was deleted.
    slots: Vec<ArcSwapOption<WatchedKey>>,
    /// Keys that have left their slot, oldest first.
    retired: Mutex<Vec<Arc<WatchedKey>>>,
}

impl Keyring {
    pub(super) fn new(keys: Vec<Arc<WatchedKey>>) -> Self {
        let slots = keys.into_iter().map(|key| ArcSwapOption::new(Some(key))).collect();
        Self { slots, retired: Mutex::default() }
    }

    /// How many trusts there were at the start.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What trust number `slot` presents.
    pub(super) fn current(&self, slot: usize) -> Option<Arc<WatchedKey>> {
        self.slots.get(slot)?.load_full()
    }

    /// Replaces what trust number `slot` presents. The old key joins the retired ones first, so
    /// that it is never out of sight.
    pub(super) fn retire(&self, slot: usize, old: Arc<WatchedKey>, new: Option<Arc<WatchedKey>>) {
        self.retired().push(old);
        if let Some(slot) = self.slots.get(slot) {
            slot.store(new);
        }
    }

    /// Retired key number `turn`, counted from the newest and round again: a fresh revocation is
    /// the one most likely to be undone.
    pub(super) fn retired_key(&self, turn: usize) -> Option<Arc<WatchedKey>> {
        let retired = self.retired();
        let newest = retired.len().checked_sub(1)?;
        retired.get(newest - turn % retired.len()).cloned()
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<WatchedKey>>> {
        // A push that panicked has left a list that is still one.
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
    fn a_retired_key_is_presented_again_newest_first_and_round() {
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
