//! Three ways to cache the users of keys: this cache, moka, and a `HashMap` in a mutex with a
//! counter of changes.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use trust_key_cache::KeyHash;

use crate::database::{DatabaseError, User};
use crate::service::Users;

const TTL: Duration = Duration::from_secs(60);

pub(crate) type Answer = Result<Option<Arc<User>>, DatabaseError>;

/// A cache, and the code around it.
pub(crate) trait Way: Send + Sync {
    const NAME: &str;

    fn lookup(&self, hash: &KeyHash) -> Option<Arc<User>>;

    /// Returns the user from the cache, or else from `load`.
    fn authenticate<F: Future<Output = Answer>>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> F,
    ) -> impl Future<Output = Answer>;

    /// Called after the commit that has deleted the key.
    fn key_was_deleted(&self, hash: &KeyHash);
}

impl Way for Users {
    const NAME: &str = "this cache";

    fn lookup(&self, hash: &KeyHash) -> Option<Arc<User>> {
        self.lookup(hash)
    }

    async fn authenticate<F: Future<Output = Answer>>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> F,
    ) -> Answer {
        self.get_or_try_load_async(hash, load).await
    }

    fn key_was_deleted(&self, hash: &KeyHash) {
        self.invalidate_key(hash);
    }
}

/// The usual way: look up, read, insert; and invalidate everything after a deletion.
pub(crate) struct Moka(moka::sync::Cache<KeyHash, Arc<User>>);

impl Moka {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(16_384).time_to_live(TTL).build())
    }
}

impl Way for Moka {
    const NAME: &str = "moka";

    fn lookup(&self, hash: &KeyHash) -> Option<Arc<User>> {
        self.0.get(hash)
    }

    async fn authenticate<F: Future<Output = Answer>>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> F,
    ) -> Answer {
        if let Some(user) = self.lookup(hash) {
            return Ok(Some(user));
        }
        let user = load().await?;
        if let Some(user) = &user {
            // The key may have been deleted since it was read.
            self.0.insert(*hash, user.clone());
        }
        Ok(user)
    }

    fn key_was_deleted(&self, _: &KeyHash) {
        self.0.invalidate_all();
    }
}

/// Correct, too: the insert compares the number of changes under the lock. One change of any key
/// refuses the inserts of all requests that are reading. Each lookup waits for the lock, and
/// `costs.rs` measures what that costs. This map has no capacity, and requests that miss one key
/// share no load.
#[derive(Default)]
pub(crate) struct MutexAndCounter(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    changes: u64,
    /// With the end of each user's time-to-live.
    users: HashMap<KeyHash, (Instant, Arc<User>)>,
}

impl MutexAndCounter {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn lookup(&self, hash: &KeyHash, now: Instant) -> Option<Arc<User>> {
        self.users.get(hash).filter(|(end, _)| now < *end).map(|(_, user)| user.clone())
    }
}

impl Way for MutexAndCounter {
    const NAME: &str = "mutex and counter";

    fn lookup(&self, hash: &KeyHash) -> Option<Arc<User>> {
        let now = Instant::now();
        self.lock().lookup(hash, now)
    }

    async fn authenticate<F: Future<Output = Answer>>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> F,
    ) -> Answer {
        let now = Instant::now();
        let changes = {
            let counted = self.lock();
            if let Some(user) = counted.lookup(hash, now) {
                return Ok(Some(user));
            }
            counted.changes
        };
        let user = load().await?;
        if let Some(user) = &user {
            let mut counted = self.lock();
            if counted.changes == changes {
                counted.users.insert(*hash, (now + TTL, user.clone()));
            }
        }
        Ok(user)
    }

    fn key_was_deleted(&self, hash: &KeyHash) {
        let mut counted = self.lock();
        counted.changes += 1;
        counted.users.remove(hash);
    }
}
