//! [`Anchor`]: a connection that stays open while files are watched, and is never used. While it is
//! open, no SQLite process removes `-wal` and `-shm`. If these files change, another program has
//! replaced them.
//!
//! This applies to WAL mode alone: a rollback journal has no such files. No other program can end
//! WAL mode while this connection is open. Another program can begin WAL mode at any time.
//!
//! The anchor must never close after another program has replaced `-wal`. SQLite would remove the
//! new file by its name, together with the revocations in it.

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

    /// Opens the connection, unless it is open. Returns whether the connection holds the side files
    /// open, as in WAL mode.
    pub(super) async fn hold(&self, options: &SqliteConnectOptions) -> Result<bool, sqlx::Error> {
        let mut guard = self.connection.lock().await;
        let held = &mut *guard;
        // The connection stays in its place: a cancelled caller would otherwise close it.
        let connection = match held {
            Some(connection) => connection,
            None => held.insert(options.connect().await?),
        };
        // The read opens the side files, even if WAL mode began after the last read.
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(connection).await?;
        Ok(mode == "wal")
    }

    /// Closes the last connection of the store. SQLite then moves the content of `-wal` into the
    /// database, and removes both side files. If another program has replaced a side file, the
    /// connection stays open until the process ends.
    pub(super) async fn release(&self) {
        let Some(connection) = self.connection.lock().await.take() else { return };
        let file = Arc::clone(&self.file);
        // If the check fails, both files are left unchanged.
        let are_ours =
            tokio::task::spawn_blocking(move || !file.has_others_sides()).await.unwrap_or(false);
        if are_ours {
            // A failure is harmless: the content of `-wal` stays for the next process that opens
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
