//! [`SqliteSession`]: one holder's connection. It polls the version of the file, and reads the
//! trusts again if that has changed.
//!
//! SQLite reports *that* another connection has committed, and not which rows changed. So the
//! session keeps a digest of each row, and returns the rows whose digest differs. Its connection
//! makes no change, and has no transaction open between two steps (RL8).

use std::collections::HashMap;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection};
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::lease_row::LeaseRow;
use crate::error::StoreError;
use crate::read_lease::{Answer, Difference, Ended, FeedSession};
use crate::sqlite::SqliteStore;
use crate::sqlite::poll::{Poll, data_version};
use crate::sqlite::{row, schema};
use crate::trust::Trust;
use crate::trust_key::TrustKey;

/// The pause between two polls for a hint. A poll reads no page of the file.
const PAUSE: Duration = Duration::from_millis(20);

/// How often the row of the lease is written before a load gives up.
const ATTEMPTS: u32 = 5;

/// Selects the rows that accept a key, and the lease's row, in one statement: on one snapshot. With
/// no such trust, it returns one row whose id is null.
pub(in crate::sqlite) const LOAD: &str = concat!(
    "SELECT ",
    row::read_columns!(),
    ", (SELECT max_lease_ms FROM trust_auth_lease), \
     (SELECT lowering_to_ms FROM trust_auth_lease) \
     FROM (SELECT 1) LEFT JOIN {trust} ON disabled_at IS NULL AND (api_key_hash IS NOT NULL \
     OR EXISTS (SELECT 1 FROM {trust_key} WHERE trust_key.trust = trust.id AND ",
    row::is_active!(),
    "))"
);

/// The connection of one holder to an SQLite file: [`ChangeFeed::open`](crate::ChangeFeed::open) of
/// a [`SqliteFeed`](crate::SqliteFeed).
///
/// [`SqliteStore::close`] waits until the session is dropped, and each of its steps then fails.
pub struct SqliteSession {
    store: SqliteStore,
    poll: Poll,
    connection: PoolConnection<Sqlite>,
    lease_ms: u32,
    sides_are_held: bool,
    base: Option<Base>,
}

/// What the session has returned last.
struct Base {
    /// The version that was read before the rows.
    version: i64,
    /// The digest of each row that accepts a key.
    rows: HashMap<Uuid, KeyHash>,
}

/// The rows of one snapshot.
struct Snapshot {
    version: i64,
    lease: Option<LeaseRow>,
    trusts: Vec<Trust>,
}

impl SqliteSession {
    /// Commits the row of the lease (RL22), and connects.
    pub(super) async fn open(store: &SqliteStore, lease_ms: u32) -> Result<Self, StoreError> {
        store.allow_leases(lease_ms).await?;
        let mut poll = Poll::of(store);
        poll.check_files().await?;
        let sides_are_held = poll.hold_sides().await?;
        let connection = poll.connect().await?;
        let store = store.clone();
        Ok(Self { store, poll, connection, lease_ms, sides_are_held, base: None })
    }

    /// Returns the version of the file now, if the file is the one at the path (RL9).
    async fn version(&mut self) -> Result<i64, StoreError> {
        self.check_open()?;
        self.poll.checked_version(&mut self.connection).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.poll.pool().is_closed() { Err(StoreError::Unreachable) } else { Ok(()) }
    }

    /// Checks that the file is in WAL mode. Otherwise the connection may be one to a file that is
    /// no more at the path, and no check would find that (RL9). No program ends WAL mode while this
    /// connection is open.
    async fn check_wal(&mut self) -> Result<(), StoreError> {
        let mode = async {
            // A connection learns of another mode when it reads a page.
            sqlx::query("SELECT count(*) FROM sqlite_schema")
                .execute(&mut *self.connection)
                .await?;
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *self.connection).await
        };
        let mode: String = self.poll.within(mode).await?;
        if mode == "wal" { Ok(()) } else { Err(schema::lacks_wal(self.store.path())) }
    }

    /// Reads a snapshot whose lease's row allows this session's length (RL31).
    async fn snapshot(&mut self) -> Result<Snapshot, StoreError> {
        for _ in 0..ATTEMPTS {
            self.check_open()?;
            self.check_wal().await?;
            if !self.sides_are_held {
                // A change has begun WAL mode.
                self.sides_are_held = self.poll.hold_sides().await?;
            }
            self.poll.check_files().await?;
            let read = Snapshot::read(&mut self.connection, &self.store, async {});
            let snapshot = self.poll.within(read).await?;
            if snapshot.lease.is_some_and(|row| row.allows(self.lease_ms)) {
                return Ok(snapshot);
            }
            self.store.allow_leases(self.lease_ms).await?;
        }
        Err(StoreError::Busy)
    }

    /// Returns what was committed since the base.
    async fn difference(&mut self) -> Result<Answer, StoreError> {
        let Some(version) = self.base.as_ref().map(|base| base.version) else {
            return Err(StoreError::Other("the session was not loaded; call `load` first".into()));
        };
        if self.version().await? == version {
            return Ok(Answer::Difference(Difference::default()));
        }
        // A failure from here on leaves no base: the caller drops the session.
        let mut former = self.base.take().map(|base| base.rows).unwrap_or_default();
        let snapshot = self.snapshot().await?;
        let mut base = Base::at(&snapshot);
        base.rows.reserve(snapshot.trusts.len());
        let mut ended = Vec::new();
        for trust in snapshot.trusts {
            let (id, digest) = (trust.id, digest(&trust));
            if former.remove(&id) != Some(digest) {
                ended.push(Ended::Trust { id, row: Some(trust) });
            }
            base.rows.insert(id, digest);
        }
        ended.extend(former.into_keys().map(|id| Ended::Trust { id, row: None }));
        self.base = Some(base);
        Ok(Answer::Difference(Difference { ended, has_records: false }))
    }
}

impl FeedSession for SqliteSession {
    async fn load(&mut self) -> Result<Vec<Trust>, StoreError> {
        self.base = None;
        let snapshot = self.snapshot().await?;
        let mut base = Base::at(&snapshot);
        for trust in &snapshot.trusts {
            base.rows.insert(trust.id, digest(trust));
        }
        self.base = Some(base);
        Ok(snapshot.trusts)
    }

    /// Writes nothing: one row of the lease covers all holders.
    async fn register(&mut self, _: &str) -> Result<Uuid, StoreError> {
        Ok(Uuid::new_v4())
    }

    async fn renew(&mut self, _: Uuid) -> Result<Answer, StoreError> {
        self.difference().await
    }

    async fn look(&mut self) -> Result<Answer, StoreError> {
        self.difference().await
    }

    /// Polls every 20 ms.
    async fn hint(&mut self) -> Result<(), StoreError> {
        loop {
            tokio::time::sleep(PAUSE).await;
            self.check_open()?;
            let version = self.poll.within(data_version(&mut self.connection)).await?;
            if self.base.as_ref().is_none_or(|base| base.version != version) {
                return Ok(());
            }
        }
    }

    async fn upkeep(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A difference compares the trusts of two states.
    fn names_each_change(&self) -> bool {
        false
    }

    /// Leaves the row of the lease, because other holders may need it.
    async fn leave(&mut self, _: Uuid) -> Result<(), StoreError> {
        Ok(())
    }
}

impl std::fmt::Debug for SqliteSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteSession").field("path", &self.store.path()).finish_non_exhaustive()
    }
}

impl Base {
    fn at(snapshot: &Snapshot) -> Self {
        Self { version: snapshot.version, rows: HashMap::with_capacity(snapshot.trusts.len()) }
    }
}

impl Snapshot {
    /// Reads the version, then the rows. `between` runs between the two, for tests.
    async fn read(
        connection: &mut SqliteConnection,
        store: &SqliteStore,
        between: impl Future<Output = ()>,
    ) -> Result<Self, sqlx::Error> {
        // The version first: a later commit makes the next poll read again.
        let version = data_version(connection).await?;
        between.await;
        let rows = sqlx::query(store.statements.load.clone()).fetch_all(connection).await?;
        let lease = rows.first().map(lease_of).transpose()?.flatten();
        // A malformed row accepts no key. A request with its key reads the row, which reports what
        // is wrong.
        let trust = |row| row::columns(row, &store.warnings).ok()?.trust(&store.warnings).ok();
        let trusts = rows.iter().filter_map(trust).collect();
        Ok(Self { version, lease, trusts })
    }
}

fn lease_of(row: &SqliteRow) -> Result<Option<LeaseRow>, sqlx::Error> {
    let Some(max_lease_ms) = row.try_get(10)? else { return Ok(None) };
    Ok(Some(LeaseRow { max_lease_ms, lowering_to_ms: row.try_get(11)? }))
}

/// Returns a digest of all that a row contains. It is made from the digest of the key, and is never
/// shown.
fn digest(trust: &Trust) -> KeyHash {
    let Trust {
        id,
        name,
        code,
        region,
        api_key_hash,
        keys,
        attributes,
        created_at,
        last_heartbeat,
        disabled_at,
    } = trust;
    let mut content = Content(id.as_bytes().to_vec());
    content.add(Some(name.as_bytes()));
    content.add(code.as_deref().map(str::as_bytes));
    content.add(region.as_deref().map(str::as_bytes));
    content.add(api_key_hash.map(KeyHash::to_bytes).as_ref().map(<[u8; 32]>::as_slice));
    content.add(attributes.as_ref().map(ToString::to_string).as_deref().map(str::as_bytes));
    content.add_times([created_at, last_heartbeat, disabled_at]);
    for key in keys {
        let TrustKey {
            id,
            trust: _,
            label,
            hash,
            last_four,
            created_at,
            expires_at,
            revoked_at,
            term: _,
        } = key;
        content.add(Some(id.as_bytes()));
        content.add(label.as_deref().map(str::as_bytes));
        content.add(Some(&hash.to_bytes()));
        content.add(last_four.as_deref().map(str::as_bytes));
        content.add_times([created_at, expires_at, revoked_at]);
    }
    KeyHash::of(content.0)
}

/// The parts of a row, one after the other.
struct Content(Vec<u8>);

impl Content {
    /// Adds a part with its length before it: no text passes for a part of another.
    fn add(&mut self, part: Option<&[u8]>) {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        self.0.extend(length.to_le_bytes());
        self.0.extend(part.unwrap_or_default());
    }

    fn add_times(&mut self, times: [&Option<OffsetDateTime>; 3]) {
        for time in times {
            let nanoseconds = time.map(|time| time.unix_timestamp_nanos().to_le_bytes());
            self.add(nanoseconds.as_ref().map(<[u8; 16]>::as_slice));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ChangeFeed, NewTrust, TrustLedger};

    /// A commit between the two reads is in the rows, or the next poll finds another version.
    #[tokio::test]
    async fn rl8_a_commit_between_the_version_and_the_rows_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteStore::options(folder.path().join("trusts.db")).durable(false);
        let store = options.create_if_missing(true).connect().await.unwrap();
        let mut session = store.feed().open(Duration::from_millis(300)).await.unwrap();
        let insert = async {
            store.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await.unwrap();
        };
        let seen = Snapshot::read(&mut session.connection, &store, insert).await.unwrap();
        let polled = data_version(&mut session.connection).await.unwrap();
        let now = store.list().await.unwrap();
        assert!(polled != seen.version || seen.trusts == now, "the next poll would see no change");
        drop(session);
        store.close().await;
    }

    #[test]
    fn each_column_of_a_row_changes_its_digest() {
        let plain = Trust::new(Uuid::from_u128(7), "ab");
        let key = TrustKey::new(Uuid::from_u128(9), plain.id, KeyHash::of("key"));
        let with_keys = |keys| Trust { keys, ..plain.clone() };
        let time = Some(OffsetDateTime::UNIX_EPOCH);
        let text = || Some("c".to_owned());
        let others = [
            Trust { id: Uuid::from_u128(8), ..plain.clone() },
            Trust { name: "abc".into(), ..plain.clone() },
            Trust { code: text(), ..plain.clone() },
            Trust { code: Some(String::new()), ..plain.clone() },
            Trust { region: text(), ..plain.clone() },
            Trust { api_key_hash: Some(KeyHash::of("key")), ..plain.clone() },
            Trust { created_at: time, ..plain.clone() },
            Trust { last_heartbeat: time, ..plain.clone() },
            Trust { disabled_at: time, ..plain.clone() },
            Trust { attributes: Some(serde_json::json!({"scope": "read"})), ..plain.clone() },
            Trust { attributes: Some(serde_json::Value::Null), ..plain.clone() },
            with_keys(vec![key.clone()]),
            with_keys(vec![key.clone(), key.clone()]),
            with_keys(vec![TrustKey { id: plain.id, ..key.clone() }]),
            with_keys(vec![TrustKey { hash: KeyHash::of("other"), ..key.clone() }]),
            with_keys(vec![TrustKey { label: text(), ..key.clone() }]),
            with_keys(vec![TrustKey { last_four: text(), ..key.clone() }]),
            with_keys(vec![TrustKey { created_at: time, ..key.clone() }]),
            with_keys(vec![TrustKey { expires_at: time, ..key.clone() }]),
            with_keys(vec![TrustKey { revoked_at: time, ..key }]),
            plain,
        ];
        let digests = others.iter().map(digest).collect::<std::collections::HashSet<_>>();
        assert_eq!(digests.len(), others.len());
    }
}
