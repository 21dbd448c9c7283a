//! The program over an application's own table: `users`, with the e-mail address as the name.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use trust_auth::KeyHash;

use crate::client::Answer;
use crate::postgres_server::PostgresServer;
use crate::server::{Server, command};

const POSTGRES: &str = "CREATE TABLE users (
    user_id uuid PRIMARY KEY, email varchar NOT NULL UNIQUE, code int NOT NULL DEFAULT 7,
    password text, key_sha256 varchar(64), made_at timestamptz NOT NULL DEFAULT now());";

const SQLITE: &str = "CREATE TABLE users (
    user_id TEXT PRIMARY KEY NOT NULL, email TEXT NOT NULL UNIQUE, code INTEGER NOT NULL DEFAULT 7,
    password TEXT, key_sha256 TEXT, made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);";

const MARY: &str = "00000000-0000-4000-8000-000000000001";

/// `disabled_at` and `attributes` have their own names, and a migration adds them.
const COLUMNS: &str = "id=user_id,name=email,api_key_hash=key_sha256,code=,region=";

const FLAGS: [&str; 10] = [
    "--table",
    "users",
    "--key-table",
    "user_keys",
    "--column",
    COLUMNS,
    "--column",
    "created_at=made_at",
    "--column=last_heartbeat=",
    "--send-attributes",
];

/// Returns the statement that inserts two users: `mary`, whose key is `mary`, and one without a
/// key.
fn users() -> String {
    format!(
        "INSERT INTO users (user_id, email, password, key_sha256) VALUES ('{MARY}', 'mary@x', 'p', \
         '{}'), ('00000000-0000-4000-8000-000000000002', 'john@x', NULL, NULL);",
        KeyHash::of("mary").to_hex()
    )
}

/// Runs a command that has the names in its environment.
fn run(database: &Path, arguments: &[&str]) -> Output {
    let columns = format!("{COLUMNS},created_at=made_at,last_heartbeat=");
    let mut command = command(Path::new("/"));
    command.env("TRUST_AUTH_TABLE", "users").env("TRUST_AUTH_KEY_TABLE", "user_keys");
    command.env("TRUST_AUTH_COLUMN", columns).env("TRUST_AUTH_DATABASE", database);
    command.arg("--json").args(arguments).output().unwrap()
}

fn json_of(database: &Path, arguments: &[&str]) -> Value {
    let output = run(database, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn name_of(granted: &Answer) -> (u16, Option<&str>) {
    (granted.status, granted.header("x-trust-name"))
}

/// Migrates the table, serves from it, and changes its users by commands and by the admin API.
async fn the_users_are_the_trusts(database: &Path, lease: &[&str]) {
    let planned = json_of(database, &["migrate", "--dry-run"])["migration"].clone();
    let missing = planned["missing"].to_string();
    for part in ["`disabled_at`", "`attributes`", "the table `user_keys`"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    assert!(!missing.contains("code") && !missing.contains("region"), "{missing}");
    assert!(planned["sql"].as_str().unwrap().contains("\"users\""), "{planned}");
    assert_eq!((&planned["needed"], &planned["done"]), (&json!(true), &json!(false)));
    let migrated = json_of(database, &["migrate"])["migration"].clone();
    assert_eq!((&migrated["missing"], &migrated["done"]), (&planned["missing"], &json!(true)));
    assert_eq!(json_of(database, &["migrate", "--dry-run"])["migration"]["needed"], json!(false));

    let server = Server::on(database, &[&FLAGS[..], lease].concat()).await;
    let serving = &server.told["serving"];
    assert_eq!((&serving["table"], &serving["key_table"]), (&json!("users"), &json!("user_keys")));
    assert!(serving["columns"].to_string().contains("\"name=email\""), "{serving}");
    server.until_logged(r#""table":"users","key_table":"user_keys","columns":"id=user_id,"#).await;
    assert_eq!(name_of(&server.verify("mary").await), (200, Some("mary@x")));
    assert_eq!(server.verify("john").await.status, 401);

    // By a command: another key in the place of the first, and attributes.
    let rotated = json_of(database, &["rotate", "mary@x"]);
    let key = rotated["api_key"].as_str().unwrap();
    assert_eq!(rotated["trust"]["id"], json!(MARY));
    assert_eq!(server.verify("mary").await.status, 401);
    json_of(database, &["set-attributes", "mary@x", "{\"scopes\":[]}"]);
    let granted = server.verify(key).await;
    assert_eq!(name_of(&granted), (200, Some("mary@x")));
    assert_eq!(granted.header("x-trust-attributes"), Some("{\"scopes\":[]}"));

    // By the admin API: a key in a row of its own, and a new user.
    let path = "/admin/trusts/john%40x";
    let added = server.administer("POST", &format!("{path}/keys"), &json!({ "label": "a" })).await;
    assert_eq!(added.status, 201, "{added:?}");
    let (added, johns) = (added.json(), added.json()["api_key"].as_str().unwrap().to_owned());
    assert_eq!(name_of(&server.verify(&johns).await), (200, Some("john@x")));
    let revoke = format!("/admin/keys/{}/revoke", added["key"]["id"].as_str().unwrap());
    assert_eq!(server.administer("POST", &revoke, &Value::Null).await.status, 200);
    assert_eq!(server.verify(&johns).await.status, 401);
    assert_eq!(server.administer("DELETE", path, &Value::Null).await.status, 200);
    let new = server.register("ann@x").await;
    assert_eq!(server.verify(&new.key).await.status, 200);
    let with_code = json!({ "name": "bob@x", "code": "RX1" });
    let refused = server.administer("POST", "/admin/trusts", &with_code).await;
    assert_eq!((refused.status, &*refused.kind()), (503, "schema"), "{refused:?}");
    assert!(refused.body.contains("no column for `code`"), "{refused:?}");

    json_of(database, &["disable", "mary@x"]);
    assert_eq!(server.verify(key).await.status, 401);
    let listed = json_of(database, &["list"]);
    let names: Vec<&Value> =
        listed["trusts"].as_array().unwrap().iter().map(|trust| &trust["name"]).collect();
    assert_eq!(names, ["ann@x", "mary@x"]);

    // Without the names there is no table of trusts.
    let mut nameless = command(Path::new("/"));
    nameless.env("TRUST_AUTH_DATABASE", database).args(["disable", "ann@x"]);
    let output = nameless.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(server.verify(&new.key).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_an_application_are_the_trusts_on_postgres() {
    let Some(server) = PostgresServer::shared() else { return };
    for lease in [&[][..], &["--migrate", "--read-lease", "2s"]] {
        let url = server.new_database();
        server.psql(&url, &format!("{POSTGRES} {}", users()));
        the_users_are_the_trusts(Path::new(&url), lease).await;
        let kept = server.psql(&url, "SELECT email, code, password FROM users ORDER BY email");
        assert_eq!(kept, "ann@x|7|\nmary@x|7|p");
        assert_eq!(server.psql(&url, "SELECT to_regclass('trust') IS NULL"), "t");

        // The rights are those on the application's tables.
        let planned = json_of(Path::new(&url), &["migrate", "--dry-run", "--read-lease"]);
        let grants = &planned["migration"]["grants"];
        assert_eq!(grants["serve"][0], json!("GRANT SELECT ON \"users\", \"user_keys\" TO ROLE;"));
        let change = grants["change"][0].as_str().unwrap();
        assert!(change.contains(" ON \"users\", \"user_keys\", trust_auth_lease, "), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_an_application_are_the_trusts_on_sqlite() {
    for lease in [&[][..], &["--read-lease", "400ms"]] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("application.db");
        let url = format!("sqlite:{}?mode=rwc", file.display());
        let mut application = SqliteConnection::connect(&url).await.unwrap();
        let made = AssertSqlSafe(format!("{SQLITE} {}", users()));
        sqlx::raw_sql(made).execute(&mut application).await.unwrap();
        the_users_are_the_trusts(&file, lease).await;
        let kept: Vec<String> =
            sqlx::query_scalar("SELECT email || code || password FROM users WHERE password > ''")
                .fetch_all(&mut application)
                .await
                .unwrap();
        assert_eq!(kept, ["mary@x7p"]);
        application.close().await.unwrap();
    }
}
