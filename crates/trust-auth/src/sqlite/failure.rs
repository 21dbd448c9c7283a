//! The diagnosis of an error of SQLite: what is wrong, and what to do.

use std::path::Path;

use crate::error::StoreError;
use crate::table_names::TableNames;

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const ERROR: i32 = 1;
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const NOLFS: i32 = 22;
    pub(super) const AUTH: i32 = 23;
    pub(super) const NOTADB: i32 = 26;
}

/// Returns the diagnosis of an error on the database at `path`. Only the diagnosis of a temporary
/// failure advises another try.
pub(super) fn failed(error: sqlx::Error, path: &Path, names: &TableNames) -> StoreError {
    let cannot_open =
        |reason: &str| StoreError::CannotOpen { path: path.into(), reason: reason.into() };
    let schema = |reason| StoreError::Schema { path: path.into(), reason };
    let table = names.trust();
    match &error {
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => StoreError::Unreachable,
        _ => match primary_code(&error) {
            // PROTOCOL: another process recovers the log, or many processes lock it at once.
            Some(code::BUSY | code::LOCKED | code::PROTOCOL) => StoreError::Busy,
            Some(code::CORRUPT | code::NOTADB) => StoreError::NotADatabase { path: path.into() },
            Some(code::CANTOPEN | code::PERM | code::AUTH) => cannot_open(
                "it cannot be read or made; check that its folder exists, and the permissions of \
                 both, and that the file system is not mounted read-only",
            ),
            Some(code::READONLY) => cannot_open(
                "it cannot be written; check the permissions of the file and of its folder, and \
                 that its file system is not mounted read-only",
            ),
            Some(code::FULL) => cannot_open("the disk is full; make room"),
            Some(code::IOERR) => cannot_open(
                "the disk failed to read or write it; check the file system, and its room",
            ),
            Some(code::NOMEM) => cannot_open("SQLite got no memory; give the process more"),
            Some(code::NOLFS) => {
                cannot_open("it is too large for its file system; move it to another")
            }
            Some(code::TOOBIG) => cannot_open(
                "its trusts are more than SQLite can hand over at once, which is ten million; \
                 delete some, or split it",
            ),
            Some(code::CONSTRAINT) => schema(format!(
                "a constraint or a trigger of its table `{table}` refuses the change; look at both"
            )),
            Some(code::ERROR) if is_about_the_table(&error) => schema(format!(
                "its table `{table}` is gone or was changed while it was open; restore it, or run \
                 `trust-auth migrate`"
            )),
            _ => StoreError::Other(error.into()),
        },
    }
}

/// Returns whether the table is missing or was changed. SQLite has no code for this error, and its
/// messages are not translated.
fn is_about_the_table(error: &sqlx::Error) -> bool {
    let message = error.as_database_error().map_or("", |error| error.message());
    ["no such table", "no such column", "has no column named"]
        .iter()
        .any(|part| message.contains(part))
}

/// Returns the low byte of SQLite's extended code, which is the kind of error.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;

    fn of(error: sqlx::Error) -> StoreError {
        failed(error, Path::new("trusts.db"), &TableNames::default())
    }

    /// Returns the error of a write on a database with this setting.
    async fn refusal(setting: &'static str) -> String {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        sqlx::query("CREATE TABLE filler (content BLOB)").execute(&mut connection).await.unwrap();
        sqlx::query(setting).execute(&mut connection).await.unwrap();
        let insertion = sqlx::query("INSERT INTO filler VALUES (zeroblob(1000000))");
        let error = of(insertion.execute(&mut connection).await.unwrap_err());
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_write_without_room_or_permission_says_which_is_missing() {
        let message = refusal("PRAGMA max_page_count = 2").await;
        assert!(message.contains("trusts.db") && message.contains("make room"), "{message}");
        let message = refusal("PRAGMA query_only = TRUE").await;
        assert!(
            message.contains("trusts.db") && message.contains("check the permissions"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn another_try_is_advised_only_where_it_can_help() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let made = "CREATE TABLE trust (name TEXT NOT NULL CHECK (name <> 'x'))";
        sqlx::query(made).execute(&mut connection).await.unwrap();
        for (sql, kind, advice) in [
            ("SELECT colour FROM trust", "schema", "restore it"),
            ("SELECT 1 FROM gone", "schema", "restore it"),
            ("INSERT INTO trust (colour) VALUES (1)", "schema", "restore it"),
            ("INSERT INTO trust VALUES ('x')", "schema", "a constraint or a trigger"),
            ("INSERT INTO trust VALUES (NULL)", "schema", "a constraint or a trigger"),
            ("SELECT abs(-9223372036854775808)", "other", "check the database and its log"),
        ] {
            let error = sqlx::query(sql).fetch_all(&mut connection).await.unwrap_err();
            let error = of(error);
            assert_eq!(error.kind(), kind, "{error}");
            let message = error.to_string();
            assert!(message.contains(advice) && !message.contains("try again"), "{message}");
        }
    }

    /// A scan of some ten million rows fails like this: a value has at most a billion bytes.
    #[tokio::test]
    async fn more_rows_than_fit_in_a_value_are_an_error_that_says_so() {
        let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let packed = sqlx::query("SELECT zeroblob(1000000001)");
        let error = of(packed.fetch_one(&mut connection).await.unwrap_err());
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("ten million"), "{error}");
    }
}
