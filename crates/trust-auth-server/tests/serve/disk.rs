//! Faults of the disk under a SQLite file. Changes fail with advice that helps, and grants
//! continue. Changes work at once when the cause is removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use tempfile::TempDir;

use crate::client::{Answer, ask};
use crate::programs;
use crate::server::{PATIENCE, Server, command, is_about_reads};

/// More changes than fit into a megabyte.
const MANY: usize = 5_000;

/// A file system of a megabyte, in memory.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts the file system. Returns `None`, and reports it, if this process may not mount one.
    fn mount() -> Option<Self> {
        let program = programs::find("mount")?;
        let folder = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=1m", "trust-auth-test"];
        let mounted = Command::new(program).args(options).arg(folder.path()).output().unwrap();
        if !mounted.status.success() {
            let told = format!("mount: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            programs::left_out("mount", &told);
            return None;
        }
        Some(Self { folder })
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("trusts.db")
    }

    /// Fills all free space.
    fn fill(&self) -> PathBuf {
        let path = self.folder.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let mut remount = Command::new("mount");
        assert!(remount.args(["-o", &options]).arg(self.folder.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a service may still run.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

async fn other_program(database: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database).connect().await.unwrap()
}

/// Rotates the key of the trust with this name. Returns the new key, or the failed answer.
async fn rotate(server: &Server, name: &str) -> Result<String, Answer> {
    let answer =
        server.administer("POST", &format!("/admin/trusts/{name}/rotate"), &Value::Null).await;
    match answer.status {
        200 => Ok(answer.json()["api_key"].as_str().unwrap().to_owned()),
        _ => Err(answer),
    }
}

/// Asserts the answer to a change while the disk is faulty.
fn assert_failed(answer: &Answer, advice: &str) {
    assert_eq!((answer.status, &*answer.kind()), (503, "cannot_open"), "{answer:?}");
    assert!(answer.body.contains(advice) && !answer.body.contains("try again"), "{answer:?}");
}

/// Asserts that grants continue, and that `/readyz` names the failing changes.
async fn assert_changes_alone_fail(server: &Server, key: &str) {
    assert_eq!(server.verify(key).await.status, 200, "{}", server.log());
    assert_eq!(server.verify("unknown").await.status, 401, "{}", server.log());
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["changes"])), "{ready:?}");
}

/// Asserts that the first change after the fault succeeds, and that the failed changes left nothing
/// half made.
async fn assert_changes_work_at_once(server: Server, database: &Path, name: &str, key: &str) {
    let disabled =
        server.administer("POST", &format!("/admin/trusts/{name}/disable"), &Value::Null).await;
    assert_eq!(disabled.status, 200, "{disabled:?}; log: {}", server.log());
    assert_eq!(server.verify(key).await.status, 401);
    let enabled =
        server.administer("POST", &format!("/admin/trusts/{name}/enable"), &Value::Null).await;
    assert_eq!(enabled.status, 200, "{enabled:?}");
    assert_eq!(server.verify(key).await.status, 200);
    assert_eq!(
        server.administer("DELETE", &format!("/admin/trusts/{name}"), &Value::Null).await.status,
        200
    );
    server.stop().await;
    let server = Server::on(database, &[]).await;
    assert_eq!(server.verify(key).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_changes_alone_fail_and_only_while_it_is_full() {
    let Some(disk) = SmallDisk::mount() else { return };
    let database = disk.database();
    let server = Server::on(&database, &[]).await;
    let mut key = server.register("Kept").await.key;
    // While another program reads, `-wal` grows with each change.
    let mut reader = other_program(&database).await;
    reader.execute("BEGIN").await.unwrap();
    reader.execute("SELECT count(*) FROM trust").await.unwrap();
    let filler = disk.fill();
    let mut refused = None;
    for _ in 0..MANY {
        match rotate(&server, "Kept").await {
            Ok(new) => key = new,
            Err(answer) => {
                refused = Some(answer);
                break;
            }
        }
    }
    assert_failed(&refused.expect("the disk is never full"), "make room");
    for _ in 0..3 {
        assert_failed(&rotate(&server, "Kept").await.unwrap_err(), "make room");
        assert_changes_alone_fail(&server, &key).await;
    }
    fs::remove_file(filler).unwrap();
    reader.close().await.unwrap();
    assert_changes_work_at_once(server, &database, "Kept", &key).await;
}

/// The database's own file cannot grow, so no checkpoint ends. `-wal` has room.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_checkpoint_fails_no_change_that_was_committed() {
    let Some(disk) = SmallDisk::mount() else { return };
    let database = disk.database();
    let server = Server::on(&database, &[]).await;
    let mut reader = other_program(&database).await;
    // `-wal` keeps the space that it has.
    reader.execute("BEGIN").await.unwrap();
    reader.execute("SELECT count(*) FROM trust").await.unwrap();
    server.register("Kept").await;
    for _ in 0..40 {
        rotate(&server, "Kept").await.unwrap();
    }
    reader.close().await.unwrap();
    // Its whole content is moved to the database now, so the next change begins at its start.
    let key = rotate(&server, "Kept").await.unwrap();
    let filler = disk.fill();
    let mut registered = Vec::new();
    let refused = loop {
        let region = "north ".repeat(200);
        let body = json!({ "name": format!("New {}", registered.len()), "region": region.trim() });
        let answer = server.administer("POST", "/admin/trusts", &body).await;
        if answer.status != 201 {
            break answer;
        }
        registered.push(answer.json()["api_key"].as_str().unwrap().to_owned());
        assert!(registered.len() < MANY, "the disk is never full");
    };
    assert_failed(&refused, "make room");
    assert!(!registered.is_empty());
    assert_changes_alone_fail(&server, &key).await;
    for key in &registered {
        assert_eq!(server.verify(key).await.status, 200, "{}", server.log());
    }
    fs::remove_file(filler).unwrap();
    assert_changes_work_at_once(server, &database, "Kept", &key).await;
}

/// A limit on the size of files makes each write fail with an input/output error, like a failing
/// disk.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn on_a_disk_that_cannot_write_changes_alone_fail_and_only_while_it_cannot() {
    if is_about_reads("the entries of the cache") {
        return;
    }
    let Some(program) = programs::find("prlimit") else { return };
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let server = Server::whose_writes_may_fail(&database, &[]).await;
    let key = server.register("Kept").await.key;
    let limit = |size: &str| {
        let process = server.process_id().to_string();
        let limit = format!("--fsize={size}:");
        assert!(
            Command::new(&program).args(["--pid", &process, &limit]).status().unwrap().success()
        );
    };
    // The watcher may be notified of the registration only now.
    let begun = Instant::now();
    while server.metric("trust_auth_cache_entries").await != 1.0 {
        assert_eq!(server.verify(&key).await.status, 200);
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
    }
    limit("0");
    for _ in 0..3 {
        assert_failed(&rotate(&server, "Kept").await.unwrap_err(), "check the file system");
        let entries = server.metric("trust_auth_cache_entries").await;
        assert_eq!(entries, 0.0, "a failed COMMIT may have been made, so its entry must go");
        let registered =
            server.administer("POST", "/admin/trusts", &json!({ "name": "New" })).await;
        assert_failed(&registered, "check the file system");
        assert_changes_alone_fail(&server, &key).await;
    }
    limit("unlimited");
    let listed = server.administer("GET", "/admin/trusts", &Value::Null).await;
    assert_eq!(listed.json()["trusts"].as_array().unwrap().len(), 1, "{listed:?}");
    assert_changes_work_at_once(server, &database, "Kept", &key).await;
}

/// A mount with a file open for writing cannot become read-only, so this test is about the start.
#[tokio::test]
async fn a_file_system_that_is_read_only_is_named_as_the_cause() {
    let Some(disk) = SmallDisk::mount() else { return };
    let run = |arguments: &[&str]| {
        let mut command = command(disk.folder.path());
        command
            .env("TRUST_AUTH_DATABASE", disk.database())
            .arg("--json")
            .args(arguments)
            .output()
            .unwrap()
    };
    assert!(run(&["register", "--name", "Kept"]).status.success());
    disk.remount("ro");
    for arguments in [&["disable", "Kept"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let ran = run(arguments);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        let told = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(told.contains("cannot_open") && told.contains("read-only"), "{told}");
    }
    disk.remount("rw");
    assert!(run(&["disable", "Kept"]).status.success());
}

/// The command line revokes in side files of its own, which the service does not read. If the
/// service removed its side files at its end, it would undo the revocation.
#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn side_files_that_are_removed_grant_nothing_any_more_and_undo_no_revocation_g9() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    for are_created_again in [true, false] {
        let server = Server::on(&database, &[]).await;
        let revoked_there = server.register("Revoked there").await;
        let revoked_here = server.register("Revoked here").await;
        let kept = server.register("Kept").await;
        for trust in [&revoked_there, &revoked_here, &kept] {
            assert_eq!(server.verify(&trust.key).await.status, 200);
        }
        let path = format!("/admin/trusts/{}/disable", revoked_here.id);
        assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 200);
        // A change is moved into the database's own file soon, and the change does not wait for it.
        until_moved_on(&database, &revoked_here.id, folder.path()).await;
        for side in ["trusts.db-wal", "trusts.db-shm"] {
            fs::remove_file(folder.path().join(side)).unwrap();
        }
        if are_created_again {
            let mut disable = command(folder.path());
            disable.env("TRUST_AUTH_DATABASE", &database).args(["disable", &revoked_there.id]);
            let disabled = disable.output().unwrap();
            assert!(disabled.status.success(), "{disabled:?}");
        }
        let begun = Instant::now();
        while server.verify(&kept.key).await.status == 200 {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for trust in [&revoked_there, &revoked_here, &kept] {
            assert_eq!(server.verify(&trust.key).await.status, 503);
        }
        let ready = ask(server.main, "GET", "/readyz", &[], "").await;
        assert_eq!(
            (ready.status, &ready.json()["store"]),
            (503, &json!("cannot_open")),
            "{ready:?}"
        );
        let refused = server
            .administer("POST", "/admin/trusts", &json!({ "name": "It would be lost" }))
            .await;
        assert_failed(&refused, "leave the files as they are");
        server.until_logged("`-wal` and `-shm` were removed or replaced").await;
        server.stop().await;

        let server = Server::on(&database, &[]).await;
        assert_eq!(
            server.verify(&revoked_there.key).await.status,
            if are_created_again { 401 } else { 200 }
        );
        assert_eq!(server.verify(&revoked_here.key).await.status, 401);
        assert_eq!(server.verify(&kept.key).await.status, 200);
        for trust in [&revoked_there, &revoked_here, &kept] {
            server.delete(trust).await;
        }
        server.stop().await;
    }
}

/// Waits until the database's own file, without `-wal`, has the trust as disabled.
async fn until_moved_on(database: &Path, id: &str, folder: &Path) {
    let copy = folder.join("copy.db");
    let begun = Instant::now();
    loop {
        fs::copy(database, &copy).unwrap();
        let mut other = other_program(&copy).await;
        let disabled: Option<String> =
            sqlx::query_scalar("SELECT disabled_at FROM trust WHERE id = ?1")
                .bind(id)
                .fetch_optional(&mut other)
                .await
                .unwrap_or_default()
                .flatten();
        other.close().await.unwrap();
        if disabled.is_some() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the change stays in `-wal`");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Other programs start and end, truncate `-wal` and rewrite the database. The files stay the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_programs_may_do_to_side_files_is_not_taken_for_their_removal() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let server = Server::on(&database, &[]).await;
    let trust = server.register("Kept").await;
    for sql in
        ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint(RESTART)", "VACUUM", "ANALYZE"]
    {
        let mut other = other_program(&database).await;
        other.execute(sql).await.unwrap();
        other.close().await.unwrap();
        let mut list = command(folder.path());
        let listed = list.env("TRUST_AUTH_DATABASE", &database).arg("list").output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
    }
    let seen = server.metric("trust_auth_notifications_total").await;
    let mut other = other_program(&database).await;
    other.execute("UPDATE trust SET region = 'north'").await.unwrap();
    other.close().await.unwrap();
    // One whole poll after these changes.
    server.until_metric("trust_auth_notifications_total", |now| now > seen).await;
    assert_eq!(server.metric("trust_auth_listener_failures_total").await, 0.0);
    assert_eq!(server.verify(&trust.key).await.status, 200);
    server.register("Another").await;
    server.stop().await;
}

/// With a rollback journal there are no side files, so none can be missing. Another program may
/// turn on WAL mode at any time. From then on, their removal counts.
#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn side_files_count_only_once_a_file_is_in_wal_mode_g9() {
    if is_about_reads("a lease begins WAL mode") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let server = Server::on(&database, &[]).await;
    let trust = server.register("St. Mary").await;
    server.stop().await;
    set_journal_mode(&mut other_program(&database).await, "delete").await;

    let url = format!("sqlite:{}?mode=rw", database.display());
    let server = Server::on(&url, &[]).await;
    let mut other = other_program(&database).await;
    for region in ["north", "south"] {
        let seen = server.metric("trust_auth_notifications_total").await;
        other
            .execute(sqlx::AssertSqlSafe(format!("UPDATE trust SET region = '{region}'")))
            .await
            .unwrap();
        server.until_metric("trust_auth_notifications_total", |now| now > seen).await;
    }
    assert_eq!(server.metric("trust_auth_listener_failures_total").await, 0.0, "{}", server.log());
    assert_eq!(server.verify(&trust.key).await.status, 200);
    assert!(!folder.path().join("trusts.db-wal").exists(), "the test");

    let seen = server.metric("trust_auth_notifications_total").await;
    set_journal_mode(&mut other, "wal").await;
    server.until_metric("trust_auth_notifications_total", |now| now > seen).await;
    other.close().await.unwrap();
    assert_eq!(server.verify(&trust.key).await.status, 200);
    for side in ["trusts.db-wal", "trusts.db-shm"] {
        fs::remove_file(folder.path().join(side)).unwrap();
    }
    let begun = Instant::now();
    while server.verify(&trust.key).await.status == 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.until_logged("`-wal` and `-shm` were removed or replaced").await;
}

/// Tries until no reader prevents the change. SQLite does not wait for readers here.
#[cfg(unix)]
async fn set_journal_mode(connection: &mut SqliteConnection, mode: &str) {
    let begun = Instant::now();
    let sql = format!("PRAGMA journal_mode = {mode}");
    loop {
        let found = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql.clone()));
        if found.fetch_one(&mut *connection).await.is_ok_and(|found| found == mode) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the journal mode stays as it was");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A check writes no row of the table, so it cannot show that a trigger allows changes again.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_trigger_refuses_stay_degraded_until_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let server = Server::on(&database, &[]).await;
    let trust = server.register("St. Mary").await;
    let mut other = other_program(&database).await;
    let refuses =
        "CREATE TRIGGER refuses BEFORE UPDATE ON trust BEGIN SELECT RAISE(ABORT, 'no'); END";
    other.execute(refuses).await.unwrap();
    let path = format!("/admin/trusts/{}/disable", trust.id);
    let failed = server.administer("POST", &path, &Value::Null).await;
    assert_eq!((failed.status, &*failed.kind()), (503, "schema"), "{failed:?}");
    // Longer than the pause between two checks.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_changes_alone_fail(&server, &trust.key).await;
    other.execute("DROP TRIGGER refuses").await.unwrap();
    other.close().await.unwrap();
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 200);
    assert_eq!(server.metric("trust_auth_changes_failing").await, 0.0);
    assert_eq!(server.verify(&trust.key).await.status, 401);
}

/// Checks the command line, with a umask that removes no right, and the service.
#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn the_files_are_their_owners_alone_and_one_that_is_not_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let run = |arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_trust-auth")]);
        shell.arg("--database").arg(&database).args(arguments).output().unwrap()
    };
    let registered = run(&["register", "--name", "a"]);
    assert!(registered.status.success(), "{registered:?}");
    assert_eq!(mode(&database), 0o600);
    let told = String::from_utf8(run(&["list"]).stderr).unwrap();
    assert!(told.is_empty(), "{told}");

    // Through a link to a file that does not exist, as SQLite would create it.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(folder.path().join("linked.db"), &link).unwrap();
    let server = Server::on(&link, &[]).await;
    server.register("a").await;
    for end in ["", "-wal", "-shm"] {
        assert_eq!(mode(&folder.path().join(format!("linked.db{end}"))), 0o600, "{end}");
    }
    server.stop().await;

    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let told = String::from_utf8(run(&["list"]).stderr).unwrap();
    assert!(told.contains("every user of this machine") && told.contains("trusts.db"), "{told}");
    assert_eq!(mode(&database), 0o644, "a mode that the owner chose stays");
}

/// The other rows are listed, and the command line and the admin API name the malformed row.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_row_is_named_next_to_the_list_and_can_be_disabled() {
    if is_about_reads("a change by hand is followed later") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("trusts.db");
    let server = Server::on(&database, &[]).await;
    let (bad, sound) = (server.register("bad").await, server.register("sound").await);
    assert_eq!(server.verify(&bad.key).await.status, 200);
    let mut other = other_program(&database).await;
    other.execute("UPDATE trust SET created_at = 'soon' WHERE name = 'bad'").await.unwrap();
    other.close().await.unwrap();
    for _ in 0..2 {
        assert_eq!(server.verify(&bad.key).await.status, 401);
        assert_eq!(server.verify(&sound.key).await.status, 200);
    }
    let named = json!([{ "id": bad.id, "name": "bad", "column": "created_at" }]);
    let listed = server.administer("GET", "/admin/trusts", &Value::Null).await;
    assert_eq!((listed.status, listed.json()["trusts"].as_array().unwrap().len()), (200, 1));
    assert_eq!(listed.json()["malformed"], named);
    let shown = server.administer("GET", &format!("/admin/trusts/{}", bad.id), &Value::Null).await;
    assert_eq!((shown.status, &*shown.kind(), shown.header("retry-after")), (500, "bad_row", None));
    let run = |arguments: &[&str]| {
        let mut command = command(folder.path());
        let ran = command.arg("--database").arg(&database).args(arguments).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let (stdout, stderr) = run(&["list"]);
    assert!(stdout.contains(&sound.id) && !stdout.contains(&bad.id), "{stdout}");
    assert!(
        stderr.contains(&bad.id) && stderr.contains("created_at") && !stderr.contains("soon"),
        "{stderr}"
    );
    let (stdout, _) = run(&["list", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["malformed"], named);
    run(&["rotate", &bad.id]);
    let (stdout, _) = run(&["disable", "bad", "--json"]);
    let disabled = serde_json::from_str::<Value>(&stdout).unwrap();
    assert!(
        disabled["trust"]["created_at"].is_null() && disabled["trust"]["disabled_at"].is_string()
    );
    server.delete(&bad).await;
    server.stop().await;
}
