//! The database's password changes while the service runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::postgres_server::{PASSWORD, PostgresServer};
use crate::server::{PATIENCE, Server};

#[tokio::test]
async fn a_new_password_in_the_password_file_of_libpq_is_found_by_the_running_service() {
    rotated(|file, password| {
        write(file, &format!("*:*:*:rotated:{password}\n"));
        (format!("?passfile={}", file.display()), Vec::new())
    })
    .await;
}

#[tokio::test]
async fn a_new_password_in_the_file_of_the_flag_is_found_by_the_running_service() {
    rotated(|file, password| {
        write(file, &format!("{password}\n"));
        (String::new(), vec!["--database-password-file".into(), file.display().to_string()])
    })
    .await;
}

#[tokio::test]
async fn a_new_password_from_the_command_is_found_by_the_running_service() {
    rotated(|file, password| {
        write(file, &format!("{password}\n"));
        (
            String::new(),
            vec!["--database-password-command".into(), format!("cat '{}'", file.display())],
        )
    })
    .await;
}

fn write(file: &Path, content: &str) {
    fs::write(file, content).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a service as a role whose password changes. `give` writes the password to the place where
/// the service reads it, and returns the end of the URL and the flags.
async fn rotated(give: impl Fn(&Path, &str) -> (String, Vec<String>)) {
    let Some(server) = PostgresServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass word");
    let url = server.new_database();
    server.psql(&url, "CREATE ROLE rotated SUPERUSER LOGIN PASSWORD 'first-of-two'");
    let (end, flags) = give(&file, "first-of-two");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let without_password = url.replace(&format!("postgres:{PASSWORD}@"), "rotated@") + &end;
    let service = Server::on(&without_password, &flags).await;
    let trust = service.register("a").await;
    assert_eq!(service.verify(&trust.key).await.status, 200);

    server.psql(&url, "ALTER ROLE rotated PASSWORD 'second-of-two'");
    give(&file, "second-of-two");
    assert!(server.kill_connections(&url) > 0);
    // A command's output is used for some seconds, unless the server refuses it.
    let begun = Instant::now();
    let watches = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%watch'";
    while service.verify(&trust.key).await.status != 200 || server.psql(&url, watches) == "0" {
        assert!(begun.elapsed() < PATIENCE, "{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (log, told) = (service.log(), service.told.to_string());
    assert!(!log.contains("of-two") && !told.contains("of-two"), "{log} {told}");
}
