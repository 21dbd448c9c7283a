//! Watching an SQLite file for other processes' changes: `PRAGMA data_version`, polled on a connection of its own.
//!
//! SQLite tells *that* another connection has committed, not what. The trusts are therefore read again then, and compared
//! with what they were: only keys that came, went or changed are invalidated. An application that writes `last_heartbeat`
//! all the time costs reads, and no entry.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};
use trust_key_cache::{KeyHash, TrustKeyCache};
use uuid::Uuid;

use super::failure::failed;
use super::file::File;
use super::{SqliteStore, row};
use crate::watcher::Eviction;
use crate::{StoreError, Watcher};

/// How often the version is asked for. It is read from shared memory: no page of the file is touched while nothing changes.
const POLL: Duration = Duration::from_millis(100);

/// Id and digest of each trust that can authenticate.
type Keys = HashMap<Uuid, KeyHash>;

impl SqliteStore {
    /// Watches the file for changes by other connections, in this process and others, and invalidates in `cache` the keys that
    /// they concern, within some 100 ms. The cache is that of an [`Authenticator`](crate::Authenticator) over this store.
    ///
    /// SQLite notifies nobody. So `PRAGMA data_version` is polled every 100 ms on a connection of its own, and when it has
    /// changed, id and digest of all trusts are read and compared with the former ones. A key that came and went
    /// between two polls is not noticed: if it was used in between, its entry stays until it expires, and is refused by
    /// the live row.
    ///
    /// It also looks, as often, whether the file is still the one at its path. If it was removed or replaced by another, every
    /// operation of this store and its clones gives [`StoreError::CannotOpen`] from then on: a revocation in the new file would
    /// not be seen otherwise. This is noticed on Unix alone, and not if the file itself is written over.
    ///
    /// A store can have 16 watchers at a time. They end when it is [closed](Self::close).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let (pool, file, time_limit) = (self.watchers.clone(), Arc::clone(&self.file), self.query_timeout);
        Watcher::start(cache, move |eviction| async move {
            let mut closed = pool.close_event();
            // Until the store is closed.
            while let Ok(Err(error)) = closed.do_until(follow(&pool, &file, time_limit, &eviction)).await {
                eviction.failed(&error);
                let _ = closed.do_until(tokio::time::sleep(POLL)).await;
            }
        })
    }
}

/// Follows the changes until something fails.
async fn follow(
    pool: &SqlitePool,
    file: &Arc<File>,
    time_limit: Duration,
    eviction: &Eviction,
) -> Result<Infallible, StoreError> {
    let limit = Limit { path: file.path(), time: time_limit };
    limit.look(file).await?;
    let mut connection = limit.on(pool.acquire()).await?;
    // A new one each time: what has failed on this one may fail again.
    connection.close_on_drop();
    // The version first: what is committed after it makes the next poll read again.
    let mut version = limit.on(data_version(&mut connection)).await?;
    let mut keys = limit.on(keys_of(&mut connection)).await?;
    eviction.connected();
    loop {
        tokio::time::sleep(POLL).await;
        limit.look(file).await?;
        let seen = limit.on(data_version(&mut connection)).await?;
        if seen == version {
            continue;
        }
        let now = limit.on(keys_of(&mut connection)).await?;
        for hash in changed(&keys, &now) {
            eviction.key(hash);
        }
        eviction.notified();
        (version, keys) = (seen, now);
    }
}

/// How long a step may take, and whose failure it is.
struct Limit<'a> {
    path: &'a Path,
    time: Duration,
}

impl Limit<'_> {
    async fn on<T>(&self, step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.time, step).await {
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(StoreError::Timeout { after: self.time }),
            Ok(outcome) => outcome.map_err(|error| failed(error, self.path)),
        }
    }

    /// Whether the file is the one that the store has open. A file system may take its time over it.
    async fn look(&self, file: &Arc<File>) -> Result<(), StoreError> {
        let file = Arc::clone(file);
        match tokio::time::timeout(self.time, tokio::task::spawn_blocking(move || file.look())).await {
            Ok(looked) => looked.map_err(|error| StoreError::Other(error.into()))?,
            Err(_) => Err(StoreError::Timeout { after: self.time }),
        }
    }
}

/// A number that is another one when another connection has committed since (<https://www.sqlite.org/pragma.html#pragma_data_version>).
async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}

/// Malformed rows are left out: no key can authenticate with them, and the store warns of them when it reads them.
async fn keys_of(connection: &mut SqliteConnection) -> Result<Keys, sqlx::Error> {
    let sql = "SELECT id, api_key_hash FROM trust WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    let key = |row: &SqliteRow| Some((row::id(row)?, row.try_get::<&str, usize>(1).ok()?.parse().ok()?));
    Ok(rows.iter().filter_map(key).collect())
}

/// The digests of every trust that came, went, or has another key.
fn changed<'a>(before: &'a Keys, now: &'a Keys) -> impl Iterator<Item = &'a KeyHash> {
    let gone = before.iter().filter(|(id, hash)| now.get(*id) != Some(*hash));
    let new = now.iter().filter(|(id, hash)| before.get(*id) != Some(*hash));
    gone.chain(new).map(|(_, hash)| hash)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn keys(of: &[(u8, u8)]) -> Keys {
        of.iter().map(|&(id, key)| (Uuid::from_u128(id.into()), KeyHash::of([key]))).collect()
    }

    #[test]
    fn a_rotation_concerns_the_old_key_and_the_new_and_nobody_elses() {
        let (before, now) = (keys(&[(1, 10), (2, 20)]), keys(&[(1, 11), (2, 20)]));
        let hashes: HashSet<_> = changed(&before, &now).copied().collect();
        assert_eq!(hashes, HashSet::from([KeyHash::of([10]), KeyHash::of([11])]));
        assert_eq!(changed(&now, &now).count(), 0);
    }

    proptest! {
        /// What a cache may hold, id by key, is true of the later state, or was invalidated.
        #[test]
        fn what_is_not_invalidated_is_as_it_was(before: Vec<(u8, u8)>, now: Vec<(u8, u8)>) {
            let (before, now) = (keys(&before), keys(&now));
            let evicted: HashSet<_> = changed(&before, &now).collect();
            for (id, hash) in before.iter().filter(|(_, hash)| !evicted.contains(hash)) {
                prop_assert_eq!(now.get(id), Some(hash));
            }
            for (id, hash) in now.iter().filter(|(_, hash)| !evicted.contains(hash)) {
                prop_assert_eq!(before.get(id), Some(hash));
            }
        }
    }
}
