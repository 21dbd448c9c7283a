//! Removes from the cache what other processes change in the table `users`.
//!
//! SQLite reports that another connection has committed. The triggers of `schema.sql` note which
//! keys the commit concerns. A gap in the notes invalidates every key.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, query_as, query_scalar};
use tokio::time::sleep;
use trust_auth::{ChangeSink, KeyHash, StoreError, TrustKeyCache, WatchStore, Watcher};

use crate::app::{Users, in_time};

/// The time between two polls. A poll reads no page of the file while nothing changes.
const PAUSE: Duration = Duration::from_millis(100);

/// A note of the table `user_key_changes`: its number, and the digest that a change concerns.
type Note = (i64, Option<Vec<u8>>);

impl WatchStore for Users {
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let options = self.0.connect_options();
        Watcher::start(cache, |changes| async move {
            loop {
                let Err(error) = follow(&options, &changes).await;
                changes.disconnected(&error);
                sleep(PAUSE).await;
            }
        })
    }
}

/// Follows the changes until something fails. The connection is not of the pool: it lasts, and its
/// version differs after a commit of any other connection.
async fn follow(
    options: &SqliteConnectOptions,
    changes: &ChangeSink,
) -> Result<Infallible, StoreError> {
    let mut connection = in_time(options.connect()).await?;
    // The version before the notes: a commit in between is found at the next poll.
    let mut version = in_time(data_version(&mut connection)).await?;
    let newest = query_scalar("SELECT coalesce(max(seq), 0) FROM user_key_changes");
    let mut last: i64 = in_time(newest.fetch_one(&mut connection)).await?;
    changes.connected();
    loop {
        sleep(PAUSE).await;
        let present = in_time(data_version(&mut connection)).await?;
        if present == version {
            continue;
        }
        let read =
            query_as("SELECT seq, key_digest FROM user_key_changes WHERE seq >= ? ORDER BY seq");
        let notes: Vec<Note> = in_time(read.bind(last).fetch_all(&mut connection)).await?;
        report(&notes, last, changes);
        changes.notified();
        version = present;
        last = notes.last().map_or(last, |(seq, _)| *seq);
    }
}

/// Reports the notes after the last one that was seen. Without that one, later ones may be gone as
/// well: the table was emptied, or had more than a thousand changes.
fn report(notes: &[Note], last: i64, changes: &ChangeSink) {
    let Some((_, new)) = notes.split_first().filter(|((seq, _), _)| *seq == last) else {
        return changes.all_changed();
    };
    for (_, digest) in new {
        if let Some(Ok(hash)) = digest.as_deref().map(KeyHash::try_from) {
            changes.key_changed(&hash);
        }
    }
}

/// Reads a number that differs after another connection has committed.
async fn data_version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    query_scalar("PRAGMA data_version").fetch_one(connection).await
}
