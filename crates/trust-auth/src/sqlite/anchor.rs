//! [`Anchor`]: a connection that stays open while files are watched, and is never used. As long as
//! it is open, no process removes `-wal` and `-shm` in good order, so that these two must stay the
//! same files.
//!
//! That is so in WAL mode alone: with a rollback journal there are no such files. No other program
//! can end WAL mode while this connection is open; one can begin it at any time.
//!
//! It must never close where another program's `-wal` has taken the place of ours: SQLite would
//! remove that by its name, and with it what is revoked there.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::Mutex;

use super::file::File;

pub(super) struct Anchor {
    file: Arc<File>,
    connection: Mutex<Option<SqliteConnection>>,
}

impl Anchor {
    pub(super) fn of(file: Arc<File>) -> Self {
        Self { file, connection: Mutex::new(None) }
    }

    /// Opens the connection, unless it is open. Returns whether it holds the side files, as it does
    /// in WAL mode.
    pub(super) async fn hold(&self, options: &SqliteConnectOptions) -> Result<bool, sqlx::Error> {
        let mut guard = self.connection.lock().await;
        let held = &mut *guard;
        // Never taken out, not even for a moment: a caller that gives up would close it.
        let connection = match held {
            Some(connection) => connection,
            None => held.insert(options.connect().await?),
        };
        // The read opens the side files, also if WAL mode was begun since the last one.
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(connection).await?;
        Ok(mode == "wal")
    }

    /// Closes the connection, the last of the store: SQLite then moves what is in `-wal` into the
    /// database and removes both. Where they are another's by now the connection is left open,
    /// until the process ends.
    pub(super) async fn release(&self) {
        let Some(connection) = self.connection.lock().await.take() else { return };
        let file = Arc::clone(&self.file);
        // If it cannot be told, both are left as they are.
        let are_ours =
            tokio::task::spawn_blocking(move || !file.has_others_sides()).await.unwrap_or(false);
        if are_ours {
            // It is closed all the same: what is in `-wal` then stays there for the next that opens
            // the database.
            let _ = connection.close().await;
        } else {
            std::mem::forget(connection);
        }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        if self.file.check().is_err() {
            std::mem::forget(self.connection.get_mut().take());
        }
    }
}
