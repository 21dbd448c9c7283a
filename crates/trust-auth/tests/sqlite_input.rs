//! Bad databases. Opening each returns a typed error whose message names the fault and the remedy.
//! Nothing is written (G10).

mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use stores::{second_connection, sqlite_options};
use tempfile::TempDir;
use trust_auth::{KeyHash, NewTrust, SqliteOptions, SqliteStore, StoreError, TrustLedger};

/// Returns every path below a folder, with the content of the files.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, None);
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, Some(content));
        }
    }
    found
}

/// Opens the database with and without permission to make it. Both must fail with this kind and
/// these words, and leave the folder unchanged.
async fn assert_refused(folder: &TempDir, options: SqliteOptions, kind: &str, says: &[&str]) {
    for create in [false, true] {
        let before = contents(folder.path());
        let error = options.clone().create_if_missing(create).connect().await.unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{message}");
        for part in says {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
        let after = contents(folder.path());
        assert_eq!(
            after.keys().collect::<Vec<_>>(),
            before.keys().collect::<Vec<_>>(),
            "{message}"
        );
        assert!(after == before, "{message}: something was written");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_missing_file_is_not_made_unless_asked_for() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    let error = SqliteStore::options(&file).connect().await.unwrap_err();
    assert!(matches!(&error, StoreError::NotFound { path } if *path == file));
    assert!(
        error.to_string().contains("trusts.db; check the path, or register a trust"),
        "{error}"
    );
    assert!(contents(folder.path()).is_empty());

    SqliteStore::options(&file).create_if_missing(true).connect().await.unwrap().close().await;
    SqliteStore::options(&file).connect().await.unwrap().close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    for content in ["x".repeat(10_000), "hello".into(), "SQLite format 4\0".repeat(300)] {
        let folder = folder();
        let file = folder.path().join("notes.txt");
        fs::write(&file, content).unwrap();
        assert_refused(
            &folder,
            SqliteStore::options(file),
            "not_a_database",
            &["notes.txt", "check the path"],
        )
        .await;
    }
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    sqlite_options(&file).connect().await.unwrap().close().await;
    let mut bytes = fs::read(&file).unwrap();
    bytes[100..4_000].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    assert_refused(&folder, SqliteStore::options(file), "not_a_database", &["damaged", "backup"])
        .await;
}

#[tokio::test]
async fn a_folder_in_place_of_the_file_is_refused() {
    let folder = folder();
    let options = SqliteStore::options(folder.path());
    assert_refused(&folder, options, "cannot_open", &["it is a folder", "give the path of a file"])
        .await;
}

#[tokio::test]
async fn a_missing_folder_is_refused_and_not_made() {
    let folder = folder();
    let options = SqliteStore::options(folder.path().join("missing/trusts.db"));
    assert_refused(
        &folder,
        options,
        "cannot_open",
        &["its folder does not exist", "make the folder"],
    )
    .await;
}

#[tokio::test]
async fn a_parent_that_is_a_file_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("file"), "content").unwrap();
    let options = SqliteStore::options(folder.path().join("file/trusts.db"));
    assert_refused(
        &folder,
        options,
        "cannot_open",
        &["a file, not a folder", "choose another path"],
    )
    .await;
}

#[tokio::test]
#[cfg(unix)]
async fn a_name_that_the_file_system_does_not_take_is_refused() {
    let folder = folder();
    let options = SqliteStore::options(folder.path().join("x".repeat(300)));
    assert_refused(&folder, options, "cannot_open", &["too long", "choose another path"]).await;
}

/// SQLite removes the log of an empty database, and no program can remove a folder as if it were a
/// file.
#[tokio::test]
#[cfg(unix)]
async fn a_failing_disk_is_not_reported_as_a_file_that_is_no_database() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    fs::write(&file, "").unwrap();
    fs::create_dir(folder.path().join("trusts.db-wal")).unwrap();
    assert_refused(&folder, SqliteStore::options(file), "cannot_open", &["check the file system"])
        .await;
}

/// Not even root can make a file there.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_folder_that_cannot_be_written_is_refused() {
    let error = SqliteStore::options("/proc/trusts.db")
        .create_if_missing(true)
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), "cannot_open");
    assert!(
        error.to_string().contains("check that its folder exists, and the permissions"),
        "{error}"
    );
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_path_that_is_not_a_regular_file_is_refused() {
    let error =
        SqliteStore::options("/dev/null").create_if_missing(true).connect().await.unwrap_err();
    assert_eq!(error.kind(), "cannot_open");
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

/// Root may write the file in spite of its mode, and then nothing is refused.
#[tokio::test]
#[cfg(unix)]
async fn a_file_that_cannot_be_written_is_refused_or_written_by_root() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let file = folder.path().join("trusts.db");
    sqlite_options(&file).connect().await.unwrap().close().await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    let is_root = fs::OpenOptions::new().append(true).open(&file).is_ok();
    let outcome = async {
        let store = SqliteStore::options(&file).connect().await?;
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await
    };
    match outcome.await {
        Ok(_) => assert!(is_root),
        Err(error) => {
            assert_eq!(error.kind(), "cannot_open");
            assert!(error.to_string().contains("permissions"), "{error}");
        }
    }
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    for schema in [
        "CREATE TABLE patient (id TEXT)",
        "CREATE TABLE trust (id TEXT)",
        "CREATE VIEW patient AS SELECT 1 AS id",
        "CREATE VIEW trust AS SELECT 1 AS id",
    ] {
        let folder = folder();
        let file = folder.path().join("other.db");
        let mut other = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .connect()
            .await
            .unwrap();
        sqlx::query(schema).execute(&mut other).await.unwrap();
        other.close().await.unwrap();
        assert_refused(
            &folder,
            SqliteStore::options(file),
            "schema",
            &["other.db", "another program's", "choose"],
        )
        .await;
    }
}

#[tokio::test]
async fn an_empty_file_is_used_only_where_a_database_may_be_made() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    fs::write(&file, "").unwrap();
    let error = SqliteStore::options(&file).connect().await.unwrap_err();
    assert_eq!(error.kind(), "schema");
    assert!(error.to_string().contains("it is empty; register a trust"), "{error}");
    assert_eq!(contents(folder.path()), [(file.clone(), Some(Vec::new()))].into());

    SqliteStore::options(&file).create_if_missing(true).connect().await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    let store = sqlite_options(&file).connect().await.unwrap();
    let mut other = second_connection(&store).await;
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '', TRUE, x'00', 0)")
        .execute(&mut other)
        .await
        .unwrap();
    other.close().await.unwrap();
    store.close().await;
    assert_refused(
        &folder,
        SqliteStore::options(file),
        "schema",
        &["newer version", "use that version"],
    )
    .await;
}

#[tokio::test]
async fn a_database_of_a_changed_version_is_refused() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    let store = sqlite_options(&file).connect().await.unwrap();
    let mut other = second_connection(&store).await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00'").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    store.close().await;
    assert_refused(&folder, SqliteStore::options(file), "schema", &["changed version"]).await;
}

/// The start of a server needs no lock, and an error at the start does not wait for one.
#[tokio::test]
async fn a_database_is_opened_or_refused_while_another_process_writes() {
    let folder = folder();
    let options = sqlite_options(&folder.path().join("trusts.db")).busy_timeout(Duration::ZERO);
    let store = options.clone().connect().await.unwrap();
    let mut other = second_connection(&store).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let second = options.clone().connect().await.unwrap();
    assert_eq!(second.list().await.unwrap(), []);

    lock.rollback().await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '', TRUE, x'00', 0)")
        .execute(&mut other)
        .await
        .unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(options.connect().await.unwrap_err().kind(), "schema");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_url_that_is_not_understood_is_refused_and_its_password_not_repeated() {
    let folder = folder();
    for url in
        ["postgres://admin:hunter2@db.example/trusts", "sqlite:x.db?key=hunter2", "file:hunter2.db"]
    {
        let error = SqliteStore::options(url).create_if_missing(true).connect().await.unwrap_err();
        assert_eq!(error.kind(), "unsupported_url");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    drop(folder);
}

#[tokio::test]
async fn a_url_and_a_path_with_odd_characters_open_the_same_file() {
    let folder = folder();
    let file = folder.path().join("trusts of 100% é?.db");
    let store = SqliteStore::options(&file).create_if_missing(true).connect().await.unwrap();
    assert_eq!(store.path(), file);
    store.close().await;
    let url =
        format!("sqlite:{}", folder.path().join("trusts%20of%20100%25%20%C3%A9%3F.db").display());
    SqliteStore::options(url).connect().await.unwrap().close().await;

    let url = format!("sqlite://{}?mode=rwc", folder.path().join("new.db").display());
    SqliteStore::options(url).connect().await.unwrap().close().await;
    assert!(folder.path().join("new.db").is_file());
}

#[tokio::test]
async fn absurd_settings_are_brought_into_range() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    for connections in [0, u32::MAX] {
        let store = sqlite_options(&file)
            .busy_timeout(Duration::MAX)
            .query_timeout(Duration::MAX)
            .max_connections(connections)
            .connect()
            .await
            .unwrap();
        assert_eq!(store.list().await.unwrap(), []);
        store.close().await;
    }
}

/// Connections are opened when they are needed. No connection makes an empty database in the place
/// of the removed file.
#[tokio::test]
async fn a_database_that_was_removed_is_not_made_again() {
    let folder = folder();
    let file = folder.path().join("trusts.db");
    let store = sqlite_options(&file).connect().await.unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(store.list().await.unwrap_err().kind(), "cannot_open");
    let insertion = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("key")).await;
    assert_eq!(insertion.unwrap_err().kind(), "cannot_open");
    assert!(contents(folder.path()).is_empty());
}
