//! What an error of SQLite means for whoever sees it.

use std::path::Path;

use crate::StoreError;

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const AUTH: i32 = 23;
    pub(super) const NOTADB: i32 = 26;
}

/// The diagnosis of an error on the database at `path`.
pub(super) fn failed(error: sqlx::Error, path: &Path) -> StoreError {
    let cannot_open = |reason: &str| StoreError::CannotOpen { path: path.into(), reason: reason.into() };
    match &error {
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => StoreError::Unreachable,
        _ => match primary_code(&error) {
            Some(code::BUSY | code::LOCKED) => StoreError::Busy,
            Some(code::CORRUPT | code::NOTADB) => StoreError::NotADatabase { path: path.into() },
            Some(code::CANTOPEN | code::PERM | code::AUTH) => cannot_open(
                "it cannot be read or made; check that its folder exists, and the permissions of both",
            ),
            Some(code::READONLY) => {
                cannot_open("it cannot be written; check the permissions of the file and of its folder")
            }
            Some(code::FULL) => cannot_open("the disk is full; make room"),
            Some(code::IOERR) => cannot_open("the disk failed to read or write it; check the file system"),
            Some(code::TOOBIG) => cannot_open(
                "its trusts are more than SQLite can hand over at once, which is ten million; delete some, or split it",
            ),
            _ => StoreError::Other(error.into()),
        },
    }
}

/// The low byte of SQLite's extended code, which tells the kind.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;

    /// What a write fails with on a database with this setting.
    async fn refusal(setting: &'static str) -> String {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        sqlx::query("CREATE TABLE filler (content BLOB)").execute(&mut connection).await.unwrap();
        sqlx::query(setting).execute(&mut connection).await.unwrap();
        let insertion = sqlx::query("INSERT INTO filler VALUES (zeroblob(1000000))");
        let error = failed(insertion.execute(&mut connection).await.unwrap_err(), Path::new("trusts.db"));
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_write_without_room_or_permission_says_which_is_missing() {
        let message = refusal("PRAGMA max_page_count = 2").await;
        assert!(message.contains("trusts.db") && message.contains("make room"), "{message}");
        let message = refusal("PRAGMA query_only = TRUE").await;
        assert!(message.contains("trusts.db") && message.contains("check the permissions"), "{message}");
    }

    /// As a walk fails over some ten million rows: a value has a billion bytes at most.
    #[tokio::test]
    async fn more_rows_than_fit_in_a_value_are_an_error_that_says_so() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let packed = sqlx::query("SELECT zeroblob(1000000001)");
        let error = failed(packed.fetch_one(&mut connection).await.unwrap_err(), Path::new("trusts.db"));
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("ten million"), "{error}");
    }
}
