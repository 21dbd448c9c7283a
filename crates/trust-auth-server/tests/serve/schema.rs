//! The table of PostgreSQL through the real program. Every command checks the table, and `migrate`
//! alone changes it. A table that was restored without triggers, or under another owner, still
//! works.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::ask;
use crate::postgres_server::PostgresServer;
use crate::server::{PATIENCE, Server, command, is_about_reads};

/// Another program's table, with an additional column, and without two of this project's.
const FOREIGN: &str = "
    CREATE TABLE trust (
        id UUID PRIMARY KEY, name VARCHAR NOT NULL UNIQUE, code VARCHAR, region VARCHAR,
        api_key_hash VARCHAR(64),
        created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL DEFAULT now(), contact JSONB
    );
    INSERT INTO trust (id, name, api_key_hash, contact) VALUES
        ('00000000-0000-4000-8000-000000000001', 'St. Mary', encode(sha256('mary'), 'hex'),
         '{\"a\": 1}')";

const TRIGGERS: &str =
    "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'trust_auth_%' AND tgenabled = 'A'";

/// The options of `pg_dump` for the tables alone.
const TABLES: [&str; 5] =
    ["--no-owner", "--no-privileges", "--schema=public", "--table=trust", "--table=trust_key"];

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end. `verify` reads this key.
fn run(url: &str, arguments: &[&str], key: &str) -> Ran {
    use std::io::Write;
    let mut command = command(Path::new("/"));
    command.env("TRUST_AUTH_DATABASE", url).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(key.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) };
    for secret in ["hunter2", "swordfish"] {
        assert!(
            !ran.stdout.contains(secret) && !ran.stderr.contains(secret),
            "{} {}",
            ran.stdout,
            ran.stderr
        );
    }
    ran
}

/// Waits until the service is ready, and exactly these words are in `degraded`.
async fn until_degraded(server: &Server, wanted: &[&str]) {
    let begun = Instant::now();
    loop {
        let answer = ask(server.main, "GET", "/readyz", &[], "").await;
        // After a failure, the next scan of all trusts may be 15 s away.
        if answer.status == 200 && answer.json()["degraded"] == json!(wanted) {
            let strict = ask(server.main, "GET", "/readyz?strict", &[], "").await;
            assert_eq!(strict.status == 200, wanted.is_empty(), "{strict:?}");
            let gauge = server.metric("trust_auth_triggers_missing").await;
            assert_eq!(gauge, f64::from(u8::from(!wanted.is_empty())));
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:?}; log: {}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn migrate_alone_changes_an_existing_table() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    database.psql(&url, FOREIGN);
    let before = database.dump(&url);
    for arguments in [
        &["list"][..],
        &["disable", "St. Mary"],
        &["enable", "St. Mary"],
        &["rotate", "St. Mary"],
        &["delete", "St. Mary"],
        &["register", "--name", "St. John"],
        &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"],
    ] {
        let ran = run(&url, &[arguments, &["--json"]].concat(), "");
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        let error = &ran.json()["error"];
        assert_eq!(error["kind"], "not_migrated", "{arguments:?}");
        for part in ["`last_heartbeat`", "`disabled_at`", "run `trust-auth migrate`"] {
            assert!(error["message"].as_str().unwrap().contains(part), "{arguments:?}: {error}");
        }
        assert_eq!(database.dump(&url), before, "{arguments:?}");
    }
    let ran = run(&url, &["verify", "--json"], "mary");
    assert_eq!((ran.code, &ran.json()["reason"]), (1, &json!("unavailable")));
    let plan = run(&url, &["migrate", "--dry-run"], "");
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert!(plan.stderr.contains("INSERT and UPDATE for UPDATE"), "{}", plan.stderr);
    let as_json = run(&url, &["migrate", "--dry-run", "--json"], "").json();
    assert_eq!(as_json["migration"]["rights"].as_str(), Some(plan.stderr.trim_end()));
    assert_eq!(as_json["migration"]["sql"], plan.stdout);
    assert_eq!(
        (&as_json["migration"]["needed"], &as_json["migration"]["done"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(database.dump(&url), before);

    // The migration does what `--dry-run` printed.
    let other = database.new_database();
    database.psql(&other, FOREIGN);
    database.psql(&other, &plan.stdout);
    let ran = run(&url, &["migrate", "--json"], "").json();
    assert_eq!(ran["migration"]["done"], true);
    assert_eq!(ran["migration"]["missing"].as_array().unwrap().len(), 4 + 7, "{ran}");
    let schema = |url: &str| database.dump_with(url, &["--schema-only"]);
    assert_eq!(schema(&url), schema(&other));
    let row = "SELECT name, contact, disabled_at IS NULL FROM trust";
    assert_eq!(database.psql(&url, row), "St. Mary|{\"a\": 1}|t");
    assert_eq!(run(&url, &["list"], "").code, 0);
    assert_eq!(run(&url, &["verify"], "mary").code, 0);

    // The second time, there is nothing to do.
    let before = database.dump(&url);
    for arguments in [&["migrate"][..], &["migrate", "--dry-run"]] {
        let ran = run(&url, arguments, "");
        assert!(
            ran.code == 0 && ran.stdout.contains("Nothing to do") && ran.stderr.is_empty(),
            "{} {}",
            ran.stdout,
            ran.stderr
        );
    }
    assert_eq!(run(&url, &["migrate", "--json"], "").json()["migration"]["needed"], false);
    assert_eq!(database.dump(&url), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_with_migrate_migrates_before_it_serves() {
    if is_about_reads("the number of triggers") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    database.psql(&url, FOREIGN);
    let server = Server::on(&url, &["--migrate"]).await;
    assert_eq!(server.told["serving"]["settings"]["migrate"], true);
    assert_eq!(server.verify("mary").await.status, 200);
    assert_eq!(database.psql(&url, TRIGGERS), "7");
    until_degraded(&server, &[]).await;
}

/// The table is restored from a dump as another role, without triggers and rights. Neither the next
/// start nor the command line may need these.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_restored_without_triggers_under_another_owner_is_served_and_administered()
{
    if is_about_reads("a role that owns no table cannot migrate") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let former = database.new_database();
    let (keep, gone) = {
        let server = Server::on(&former, &[]).await;
        (server.register("St. Mary").await, server.register("St. John").await)
    };
    let url = database.new_database();
    let (owner, url_of_owner) = database.new_role(&url);
    let (service, url_of_service) = database.new_role(&url);
    database.psql(&url, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    let dump = database.dump_with(&former, &TABLES);
    let without_triggers: Vec<&str> =
        dump.lines().filter(|line| !line.contains("TRIGGER")).collect();
    database.psql(&url_of_owner, &without_triggers.join("\n"));
    assert_eq!(database.psql(&url, TRIGGERS), "0");

    // The restore did not include the rights.
    let ran = run(&url_of_service, &["list", "--json"], "");
    let error = &ran.json()["error"];
    assert_eq!(error["kind"], "missing_right");
    assert!(
        error["message"].as_str().unwrap().contains("the right SELECT on the table `trust`"),
        "{error}"
    );
    database.psql(&url, &format!("GRANT SELECT ON trust, trust_key TO {service}"));
    let ran = run(&url_of_service, &["disable", "St. John", "--json"], "");
    let message = ran.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("it lacks the right UPDATE on the table `trust`"), "{message}");
    database.psql(&url, &format!("GRANT INSERT, UPDATE, DELETE ON trust, trust_key TO {service}"));

    let before = database.dump_with(&url, &["--schema-only"]);
    for options in [&[][..], &["--migrate"]] {
        let server = Server::on(&url_of_service, options).await;
        until_degraded(&server, &["triggers_missing"]).await;
        assert_eq!(server.verify(&keep.key).await.status, 200);
        let log = server.log();
        assert_eq!(log.matches("missing or turned off").count(), 1, "{log}");
        assert_eq!(log.contains("cannot be made"), !options.is_empty(), "{log}");
        server.stop().await;
    }
    assert_eq!(database.dump_with(&url, &["--schema-only"]), before);

    // A service that is not notified of a change by the command line refuses the key at once.
    let server = Server::on(&url_of_service, &[]).await;
    assert_eq!(server.verify(&gone.key).await.status, 200);
    for (arguments, warns) in [
        (&["list"][..], false),
        (&["verify"], false),
        (&["disable", "St. John"], true),
        (&["enable", "St. John"], true),
        (&["rotate", "St. John"], true),
        (&["register", "--name", "New"], false),
        (&["delete", "New"], true),
    ] {
        let ran = run(&url_of_service, arguments, &keep.key);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        assert_eq!(
            ran.stderr.contains("are not notified of this change"),
            warns,
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    assert_eq!(server.verify(&gone.key).await.status, 401);
    assert_eq!(
        server.metric("trust_auth_stale_hits_total").await,
        1.0,
        "the entry was not evicted"
    );
    assert_eq!(
        run(&url_of_service, &["migrate", "--json"], "").json()["error"]["kind"],
        "missing_right"
    );

    let ran = run(&url_of_owner, &["migrate"], "");
    assert!(
        ran.code == 0 && ran.stdout.contains("the trigger `trust_auth_row`"),
        "{} {}",
        ran.stdout,
        ran.stderr
    );
    until_degraded(&server, &[]).await;
    server.until_logged("are restored").await;
}

/// Covers each way for a trigger to exist and not work. A running service finds the fault, names
/// it, and recovers.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_notices_missing_triggers_and_recovers_when_they_are_back() {
    if is_about_reads("the triggers are tested less often") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &[]).await;
    let trust = server.register("St. Mary").await;
    until_degraded(&server, &[]).await;
    for damage in [
        "DROP TRIGGER trust_auth_row ON trust",
        "DROP TRIGGER trust_auth_key_update ON trust_key",
        "ALTER TABLE trust DISABLE TRIGGER ALL",
        "CREATE OR REPLACE FUNCTION trust_auth_notify() RETURNS trigger LANGUAGE plpgsql \
         AS 'BEGIN RETURN NULL; END'",
    ] {
        database.psql(&url, damage);
        until_degraded(&server, &["triggers_missing"]).await;
        assert_eq!(server.verify(&trust.key).await.status, 200, "{damage}");
        assert_eq!(run(&url, &["migrate"], "").code, 0, "{damage}");
        until_degraded(&server, &[]).await;
    }
    assert_eq!(server.metric("trust_auth_listener_failures_total").await, 0.0);
}

/// An administrator restores the table while the service runs. The new table belongs to another
/// role, and has no triggers.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reads_a_restored_table_without_a_restart() {
    if is_about_reads("a role that owns no table cannot migrate") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let (owner, url_of_owner) = database.new_role(&url);
    let (service, url_of_service) = database.new_role(&url);
    database.psql(&url, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    assert_eq!(run(&url, &["migrate"], "").code, 0);
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO {service}");
    database.psql(&url, &grant);
    let server = Server::on(&url_of_service, &[]).await;
    let (trust, other) = (server.register("St. Mary").await, server.register("St. John").await);
    assert_eq!(server.verify(&trust.key).await.status, 200);

    let dump = database.dump_with(&url, &TABLES);
    let dump: Vec<&str> = dump.lines().filter(|line| !line.contains("TRIGGER")).collect();
    database.psql(&url, "DROP TABLE trust, trust_key");
    assert_eq!(server.verify(&trust.key).await.status, 503);
    database.psql(&url_of_owner, &dump.join("\n"));
    let refused = server.verify(&trust.key).await;
    assert_eq!(refused.status, 503, "the restore did not include the rights: {refused:?}");
    let failures = "trust_auth_store_failures_total{kind=\"missing_right\"}";
    assert_eq!(server.metric(failures).await, 1.0);
    database.psql(&url_of_owner, &grant);

    until_degraded(&server, &["triggers_missing"]).await;
    assert_eq!(server.verify(&trust.key).await.status, 200);
    let path = format!("/admin/trusts/{}/disable", trust.id);
    assert_eq!(server.administer("POST", &path, &Value::Null).await.status, 200);
    assert_eq!(server.verify(&trust.key).await.status, 401);
    // The triggers' function still exists, and belongs to the former owner.
    let ran = run(&url_of_owner, &["migrate"], "");
    assert!(ran.stderr.contains("ownership of the function `trust_auth_notify`"), "{}", ran.stderr);
    database.psql(
        &url,
        "DROP FUNCTION trust_auth_notify, trust_auth_notify_key, trust_auth_notify_keys",
    );
    assert_eq!(run(&url_of_owner, &["migrate"], "").code, 0);
    until_degraded(&server, &[]).await;
    assert_eq!(server.verify(&other.key).await.status, 200);
}

/// A migration repairs the columns of an open table without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_dropped_under_a_running_service_causes_503_until_a_migration() {
    if is_about_reads("known keys are granted for a while") {
        return;
    }
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    let server = Server::on(&url, &[]).await;
    let trust = server.register("St. Mary").await;
    assert_eq!(server.verify(&trust.key).await.status, 200);
    database.psql(&url, "ALTER TABLE trust DROP COLUMN disabled_at CASCADE");
    assert_eq!(server.verify(&trust.key).await.status, 503);
    let ready = ask(server.main, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["store"]), (503, &json!("schema")));
    assert_eq!(run(&url, &["migrate"], "").code, 0);
    let begun = Instant::now();
    while server.verify(&trust.key).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log());
    }
    until_degraded(&server, &[]).await;
}

/// The left-out section of a dump has the constraints, too. Without them a row may not be one
/// trust, so the service must not use the table.
#[test]
fn a_table_that_was_restored_without_its_constraints_is_refused_with_advice() {
    let Some(database) = PostgresServer::shared() else { return };
    let (former, url) = (database.new_database(), database.new_database());
    assert_eq!(run(&former, &["register", "--name", "St. Mary"], "").code, 0);
    let dump = database.dump_with(&former, &["--section=pre-data", "--section=data"]);
    database.psql(&url, &dump.replace("CREATE SCHEMA public;", ""));
    let ran = run(&url, &["list"], "");
    assert!(
        ran.code == 1 && ran.stderr.contains("`id` of its table `trust` is not unique"),
        "{}",
        ran.stderr
    );
}
