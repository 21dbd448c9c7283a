//! Watching an SQLite file for other processes' changes: polls `PRAGMA data_version` on a
//! connection of its own.
//!
//! SQLite reports *that* another connection has committed, and not which rows changed. So the
//! keys are read again and compared with the former ones. Only keys that were added, removed or
//! changed are invalidated. An application that often writes `last_heartbeat` causes reads, and
//! evicts no entry.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use trust_key_cache::{KeyHash, TrustKeyCache};
use uuid::Uuid;

use super::poll::{Poll, data_version};
use super::row;
use super::statements::Statements;
use super::store::SqliteStore;
use crate::error::StoreError;
use crate::watcher::{ChangeSink, Watcher};

/// The time between two polls. The version is in shared memory, so a poll reads no page of the file
/// while nothing changes.
const PAUSE: Duration = Duration::from_millis(100);

/// Each key that can authenticate, unless it is at its end: a key that ends by itself is no change,
/// because no entry outlives its key.
type Keys = HashMap<Place, (KeyHash, End)>;

/// The row of a key: a trust, and the row in `trust_key` if the key is there.
type Place = (Uuid, Option<Uuid>);

/// When the key ends, as the row has it.
type End = Option<String>;

/// A version of the file, and the keys that were read after it.
struct Snapshot {
    version: i64,
    keys: Keys,
}

impl SqliteStore {
    /// Watches the file for changes by other connections, in this process and others. Invalidates
    /// in `cache` the keys that they concern, within some 100 ms. The cache is the one of an
    /// [`Authenticator`](crate::Authenticator) over this store.
    ///
    /// SQLite sends no notifications. So the watcher polls `PRAGMA data_version` every 100 ms on a
    /// connection of its own. After a change, it reads the digests and the ends of all keys, and
    /// compares them with the former ones. A key that was added and removed between two polls is
    /// not noticed. If that key was used in between, its entry stays until it expires, and the
    /// check of the live row refuses the key.
    ///
    /// With each poll, the watcher also checks that the file and its side files (`-wal`, `-shm`)
    /// are still the files at their paths. If one was removed or replaced, every later
    /// operation of this store and its clones returns [`StoreError::CannotOpen`]. Otherwise the
    /// store would not notice a revocation in the new file. The check works on Unix alone, and
    /// does not notice a file whose content is overwritten.
    ///
    /// A store can have 16 watchers at a time. They end when the store is [closed](Self::close).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let mut poll = Poll::of(self);
        Watcher::start(cache, move |changes| async move {
            let mut closed = poll.pool().close_event();
            // Ends when the store is closed.
            while let Ok(Err(error)) = closed.do_until(follow(&mut poll, &changes)).await {
                changes.disconnected(&error);
                let _ = closed.do_until(tokio::time::sleep(PAUSE)).await;
            }
        })
    }
}

/// Follows the changes until something fails.
async fn follow(poll: &mut Poll, changes: &ChangeSink) -> Result<Infallible, StoreError> {
    poll.check_files().await?;
    let mut sides_are_held = poll.hold_sides().await?;
    let mut connection = poll.connect().await?;
    let statements = poll.statements();
    let mut seen = poll.within(Snapshot::read(&mut connection, &statements, async {})).await?;
    changes.connected();
    loop {
        tokio::time::sleep(PAUSE).await;
        poll.check_files().await?;
        if poll.within(data_version(&mut connection)).await? == seen.version {
            continue;
        }
        if !sides_are_held {
            // The change may have begun WAL mode.
            sides_are_held = poll.hold_sides().await?;
        }
        let now = poll.within(Snapshot::read(&mut connection, &statements, async {})).await?;
        for hash in changed(&seen.keys, &now.keys) {
            changes.key_changed(hash);
        }
        changes.notified();
        seen = now;
    }
}

impl Snapshot {
    /// Reads the version, then the keys. `between` runs between the two, for tests.
    async fn read(
        connection: &mut SqliteConnection,
        statements: &Statements,
        between: impl Future<Output = ()>,
    ) -> Result<Self, sqlx::Error> {
        // The version first: a later commit makes the next poll read again.
        let version = data_version(connection).await?;
        between.await;
        let keys = keys_of(connection, statements).await?;
        Ok(Self { version, keys })
    }
}

/// Selects the keys of the trusts' own rows.
pub(super) const OWN: &str =
    "SELECT id, api_key_hash FROM {trust} WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL";

/// Selects the other keys.
pub(super) const OTHERS: &str = "SELECT trust_key.id, trust, digest, expires_at \
     FROM {trust_key} CROSS JOIN {trust} ON trust.id = trust_key.trust \
     WHERE trust.disabled_at IS NULL AND trust_key.revoked_at IS NULL";

/// Reads the keys. Malformed rows are left out: no key can authenticate with them, and scans warn
/// of them. A commit between the two statements makes the next poll read again.
async fn keys_of(
    connection: &mut SqliteConnection,
    statements: &Statements,
) -> Result<Keys, sqlx::Error> {
    let own = sqlx::query(statements.watched_trusts.clone()).fetch_all(&mut *connection).await?;
    let others = sqlx::query(statements.watched_keys.clone()).fetch_all(connection).await?;
    let digest = |row: &SqliteRow, index| row.try_get::<&str, usize>(index).ok()?.parse().ok();
    let own = own.iter().filter_map(|row| Some(((row::id(row)?, None), (digest(row, 1)?, None))));
    let others = others.iter().filter_map(|row| {
        let place = (row::id_at(row, 1)?, Some(row::id(row)?));
        Some((place, (digest(row, 2)?, row.try_get(3).ok()?)))
    });
    Ok(own.chain(others).collect())
}

/// Returns the digests of the keys that were added, were removed, or have another digest or end.
fn changed<'a>(before: &'a Keys, now: &'a Keys) -> HashSet<&'a KeyHash> {
    let gone = before.iter().filter(|(place, key)| now.get(*place) != Some(*key));
    let new = now.iter().filter(|(place, key)| before.get(*place) != Some(*key));
    gone.chain(new).map(|(_, (hash, _))| hash).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Odd numbers are rows of `trust_key`.
    fn keys(of: &[(u8, u8, u8)]) -> Keys {
        let place = |id: u8| {
            let row = Uuid::from_u128(id.into());
            (Uuid::from_u128((id / 2).into()), (id % 2 == 1).then_some(row))
        };
        let end = |end: u8| (end > 0).then(|| end.to_string());
        of.iter().map(|&(id, key, ends)| (place(id), (KeyHash::of([key]), end(ends)))).collect()
    }

    #[test]
    fn a_rotation_concerns_the_old_key_and_the_new_one_alone() {
        let (before, now) = (keys(&[(2, 10, 0), (4, 20, 0)]), keys(&[(2, 11, 0), (4, 20, 0)]));
        assert_eq!(changed(&before, &now), HashSet::from([&KeyHash::of([10]), &KeyHash::of([11])]));
        assert_eq!(changed(&now, &now), HashSet::new());
    }

    #[test]
    fn a_revocation_and_an_earlier_end_concern_their_key_alone() {
        let before = keys(&[(2, 10, 0), (3, 20, 0), (5, 30, 9), (7, 40, 0)]);
        let now = keys(&[(2, 10, 0), (5, 30, 8), (7, 40, 0)]);
        assert_eq!(changed(&before, &now), HashSet::from([&KeyHash::of([20]), &KeyHash::of([30])]));
    }

    /// A commit between the two reads is in the keys, or the next poll finds another version.
    /// Otherwise the change would never be noticed.
    #[tokio::test]
    async fn a_change_between_the_version_and_the_keys_is_not_missed() {
        use crate::{NewTrust, TrustLedger};

        let folder = tempfile::tempdir().unwrap();
        let options = SqliteStore::options(folder.path().join("trusts.db")).durable(false);
        let store = options.create_if_missing(true).connect().await.unwrap();
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("old")).await.unwrap();
        let mut connection = store.watchers.acquire().await.unwrap();
        let rotate = async {
            store.replace_hash(&trust.id.into(), KeyHash::of("new")).await.unwrap();
        };
        let seen = Snapshot::read(&mut connection, &store.statements, rotate).await.unwrap();
        let polled = data_version(&mut connection).await.unwrap();
        let now = keys_of(&mut connection, &store.statements).await.unwrap();
        assert_eq!(now, HashMap::from([((trust.id, None), (KeyHash::of("new"), None))]));
        assert!(polled != seen.version || seen.keys == now, "the next poll would see no change");
        drop(connection);
        store.close().await;
    }

    proptest! {
        /// Every entry that a cache may contain matches the later state, or was invalidated.
        #[test]
        fn a_key_that_is_not_invalidated_is_unchanged(
            before: Vec<(u8, u8, u8)>,
            now: Vec<(u8, u8, u8)>,
        ) {
            let (before, now) = (keys(&before), keys(&now));
            let evicted = changed(&before, &now);
            for (place, key) in before.iter().filter(|(_, (hash, _))| !evicted.contains(hash)) {
                prop_assert_eq!(now.get(place), Some(key));
            }
            for (place, key) in now.iter().filter(|(_, (hash, _))| !evicted.contains(hash)) {
                prop_assert_eq!(before.get(place), Some(key));
            }
        }
    }
}
