//! An application's own table in place of `trust`, on SQLite: its rows, its columns and its
//! indexes stay as they are, and everything works over them.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod stores;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use stores::{World, by_name, eventually, users};
use trust_auth::{
    ApiKey, Authenticator, FindBy, HeldTrusts, KeyHash, KeyTerms, NewTrust, RegistryError, Route,
    SqliteOptions, SqliteStore, StoreError, TableNames, TrustColumn, TrustKeyCache, TrustLedger,
    TrustRegistry, TrustStore,
};
use uuid::Uuid;

const USERS: &str = "CREATE TABLE users (\
     user_id TEXT NOT NULL PRIMARY KEY, \
     email TEXT NOT NULL UNIQUE, \
     shoe_size INTEGER NOT NULL DEFAULT 42, \
     key_sha256 TEXT, \
     made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, \
     deactivated_at TEXT)";

/// A user of the application, from before the file had any keys.
const ANN: Uuid = Uuid::from_u128(0x1234);

/// A file of an application.
struct Application {
    folder: tempfile::TempDir,
    names: TableNames,
}

impl Application {
    async fn with(table: &'static str, names: TableNames) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let application = Self { folder, names };
        let options = SqliteConnectOptions::new().filename(application.path());
        let mut hand = options.create_if_missing(true).connect().await.unwrap();
        run(&mut hand, table).await;
        application
    }

    /// Has one user.
    async fn new() -> Self {
        let application = Self::with(USERS, users()).await;
        let insertion = format!("INSERT INTO users (user_id, email) VALUES ('{ANN}', 'ann@x')");
        run(&mut application.hand().await, insertion).await;
        application
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("application.db")
    }

    async fn hand(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path()).connect().await.unwrap()
    }

    fn options(&self) -> SqliteOptions {
        SqliteStore::options(self.path()).names(self.names.clone()).durable(false)
    }

    async fn world(&self) -> World<SqliteStore> {
        let store = self.options().migrate(true).connect().await.unwrap();
        World::over(Arc::new(store), None)
    }

    /// Returns why the file cannot be opened, which is also why no migration is run.
    async fn refusal(&self) -> String {
        let before = std::fs::read(self.path()).unwrap();
        let refused = [
            self.options().migrate(true).connect().await.unwrap_err(),
            self.options().create_if_missing(true).connect().await.unwrap_err(),
            self.options().plan_migration().await.unwrap_err(),
            self.options().run_migration().await.unwrap_err(),
        ]
        .map(|error| {
            assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
            error.to_string()
        });
        assert!(refused.iter().all(|error| *error == refused[0]), "{refused:?}");
        assert_eq!(std::fs::read(self.path()).unwrap(), before, "nothing was written");
        refused[0].clone()
    }
}

async fn run(connection: &mut SqliteConnection, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.unwrap();
}

async fn text(connection: &mut SqliteConnection, sql: &str) -> Option<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

/// Returns the reason of a refused change.
fn reason<T: std::fmt::Debug>(outcome: Result<T, RegistryError>) -> String {
    match outcome.unwrap_err() {
        RegistryError::Store(error @ StoreError::Schema { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_migration_makes_the_table_of_keys_and_leaves_the_applications_table_as_it_is() {
    let application = Application::new().await;
    let mut hand = application.hand().await;
    let refused = application.options().connect().await.unwrap_err();
    let StoreError::NotMigrated { missing, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(missing, &["the table `user_keys`"]);
    let plan = application.options().plan_migration().await.unwrap();
    assert_eq!(
        plan.missing(),
        ["the migration `lease`", "the table `user_keys`", "write-ahead logging"]
    );
    let script = plan.to_string();
    assert!(script.contains("CREATE TABLE \"user_keys\""), "{script}");
    assert!(script.contains("REFERENCES \"users\" (\"user_id\") ON DELETE CASCADE"), "{script}");
    for other in ["TABLE trust ", "trust_key (", "_sqlx", "ALTER", "{"] {
        assert!(!script.contains(other), "{other} in {script}");
    }

    assert_eq!(application.options().run_migration().await.unwrap(), plan);
    assert!(application.options().run_migration().await.unwrap().is_empty());
    application.options().connect().await.unwrap();
    let users = "SELECT sql FROM sqlite_schema WHERE name = 'users'";
    assert_eq!(text(&mut hand, users).await.unwrap(), USERS);
    let tables = "SELECT group_concat(name ORDER BY name) FROM sqlite_schema \
                  WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    assert_eq!(
        text(&mut hand, tables).await.unwrap(),
        "_trust_auth_migrations,trust_auth_lease,user_keys,users"
    );
}

#[tokio::test]
async fn the_rows_of_an_application_are_trusts_and_every_command_works_on_them() {
    let application = Application::new().await;
    let world = application.world().await;
    let mut hand = application.hand().await;
    run(&mut hand, "UPDATE users SET shoe_size = 36").await;
    let ann = || by_name("ann@x");
    let refused = async |key: &ApiKey| world.attempt(key).await.result.is_err();

    let (row, first) = world.registry.add_key(&ann(), &KeyTerms::new()).await.unwrap();
    assert_eq!(row.trust, ANN);
    for route in [Route::Scan, Route::Hit] {
        let attempt = world.attempt(&first).await;
        let trust = attempt.result.unwrap();
        assert_eq!((trust.id, trust.name.as_str(), attempt.route), (ANN, "ann@x", route));
        assert_eq!((trust.code, trust.region, trust.attributes), (None, None, None));
        assert_eq!((trust.last_heartbeat, trust.disabled_at), (None, None));
        assert!(trust.created_at.is_some());
        assert_eq!(attempt.key_id, Some(row.id));
    }
    let hour = Some(Duration::from_secs(3_600));
    let (rotation, second) =
        world.registry.begin_rotate_with(&ann(), &KeyTerms::new(), hour).await.unwrap();
    rotation.settle(trust_auth::Waiting::default()).await.unwrap();
    assert!(!refused(&first).await && !refused(&second).await);
    let stored = "SELECT key_sha256 FROM users WHERE email = 'ann@x'";
    assert_eq!(text(&mut hand, stored).await, Some(second.hash().to_hex()));
    world.registry.revoke_key(row.id).await.unwrap();
    assert!(refused(&first).await && !refused(&second).await);
    let revoked = "SELECT count(revoked_at) || ' of ' || count(*) FROM user_keys";
    assert_eq!(text(&mut hand, revoked).await.unwrap(), "1 of 1");

    world.registry.disable(&ann()).await.unwrap();
    assert!(refused(&second).await);
    let disabled = "SELECT deactivated_at FROM users WHERE email = 'ann@x'";
    assert!(text(&mut hand, disabled).await.is_some());
    world.registry.enable(&ANN.into()).await.unwrap();
    assert!(!refused(&second).await);
    let (_, third) = world.registry.rotate(&ann()).await.unwrap();
    assert!(refused(&second).await && !refused(&third).await);

    let (bob, key) = world.register("bob@x").await;
    assert!(!refused(&key).await);
    let size = "SELECT shoe_size FROM users WHERE email = 'bob@x'";
    assert_eq!(text(&mut hand, &size.replace("shoe_size", "'' || shoe_size")).await.unwrap(), "42");
    let taken = world.registry.register(new("ann@x")).await.unwrap_err();
    assert!(matches!(taken, RegistryError::Store(StoreError::NameTaken { .. })), "{taken:?}");
    let imported = world.registry.import_key(new("eve@x"), third.expose()).await;
    assert!(imported.is_err(), "the digest is that of another trust");
    let listed = world.registry.list().await.unwrap();
    assert_eq!(listed.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["ann@x", "bob@x"]);
    assert_eq!(listed[1], bob);

    world.registry.delete(&ann()).await.unwrap();
    assert!(refused(&third).await && world.registry.keys(&ann()).await.is_err());
    assert_eq!(text(&mut hand, "SELECT '' || count(*) FROM user_keys").await.unwrap(), "0");
    let terms = KeyTerms::new().lasting(Duration::from_millis(1));
    world.registry.add_key(&bob.id.into(), &terms).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let ended = world.store.ended_keys(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(ended.iter().map(|key| key.trust).collect::<Vec<_>>(), [bob.id]);
    world.store.check_writes().await.unwrap();
}

#[tokio::test]
async fn a_malformed_row_of_the_application_refuses_its_own_trust_alone() {
    let application = Application::new().await;
    let world = application.world().await;
    let (_, key) = world.register("bob@x").await;
    let mut hand = application.hand().await;
    run(
        &mut hand,
        "INSERT INTO users (user_id, email, key_sha256) VALUES ('not an id', 'a@x', 'k'); \
         UPDATE users SET key_sha256 = 'not a digest' WHERE email = 'ann@x'",
    )
    .await;
    assert!(world.attempt(&key).await.result.is_ok());
    let listing = world.registry.listing().await.unwrap();
    assert_eq!(listing.trusts.len(), 2);
    assert_eq!(listing.malformed[0].name.as_deref(), Some("a@x"));
}

#[tokio::test]
async fn a_value_for_a_column_that_is_left_out_is_refused_and_nothing_is_written() {
    let application = Application::new().await;
    let world = application.world().await;
    let with_code = new("bob@x").with_code("north");
    let with_region = new("bob@x").with_region("north");
    for (new, column) in [(with_code, "code"), (with_region, "region")] {
        let refused = reason(world.registry.register(new).await);
        assert!(refused.contains("`users` has no column for `"), "{refused}");
        assert!(refused.contains(column), "{refused}");
    }
    let attributes = Some(serde_json::json!({"scope": "read"}));
    let refused = reason(world.registry.set_attributes(&ANN.into(), attributes).await);
    assert!(refused.contains("`users` has no column for `attributes`"), "{refused}");
    assert_eq!(world.registry.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_optional_column_that_is_there_is_read_and_written() {
    let names = users()
        .column(TrustColumn::Attributes, "rights")
        .column(TrustColumn::Region, "country")
        .column(TrustColumn::Code, "shop");
    let application = Application { names, ..Application::new().await };
    let plan = application.options().plan_migration().await.unwrap();
    for column in ["shop", "country", "rights"] {
        let missing = format!("the column `{column}` of the table `users`");
        assert!(plan.missing().contains(&missing), "{plan:?}");
    }
    let world = application.world().await;
    let bob = new("bob@x").with_code("c").with_region("r");
    let (bob, _) = world.registry.register(bob).await.unwrap();
    let json = serde_json::json!({"scope": "read"});
    world.registry.set_attributes(&bob.id.into(), Some(json.clone())).await.unwrap();
    let mut hand = application.hand().await;
    let row = "SELECT shop || country || rights FROM users WHERE email = 'bob@x'";
    assert_eq!(text(&mut hand, row).await.unwrap(), format!("cr{json}"));
    let listed = world.registry.list().await.unwrap();
    assert_eq!(listed[1].attributes, Some(json));
}

#[tokio::test]
async fn a_migration_adds_the_missing_columns_alone() {
    let table = "CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT UNIQUE, made_at TEXT)";
    let application = Application::with(table, users()).await;
    let plan = application.options().plan_migration().await.unwrap();
    let added: Vec<&String> =
        plan.steps().iter().filter(|step| step.starts_with("ALTER TABLE")).collect();
    assert_eq!(
        added,
        [
            "ALTER TABLE \"users\" ADD COLUMN \"key_sha256\" TEXT \
             CHECK (length(\"key_sha256\") = 64);",
            "ALTER TABLE \"users\" ADD COLUMN \"deactivated_at\" TEXT;",
        ]
    );
    let world = application.world().await;
    let (trust, key) = world.register("bob@x").await;
    world.registry.disable(&trust.id.into()).await.unwrap();
    assert!(world.attempt(&key).await.result.is_err());
    assert!(application.options().plan_migration().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_table_that_cannot_hold_the_trusts_is_refused_with_what_to_do() {
    let id = "user_id TEXT PRIMARY KEY";
    let rest = "key_sha256 TEXT, made_at TEXT, deactivated_at TEXT";
    for (table, part) in [
        ("CREATE TABLE others (id INTEGER)".to_owned(), "`users` does not exist"),
        (
            format!("CREATE TABLE users ({id}, email TEXT UNIQUE, {rest}) WITHOUT ROWID"),
            "`users` is WITHOUT ROWID",
        ),
        (
            format!(
                "CREATE TABLE t ({id}, email TEXT UNIQUE, {rest}); \
                 CREATE VIEW users AS SELECT * FROM t"
            ),
            "`users` is a view",
        ),
        (format!("CREATE TABLE users ({id}, email TEXT, {rest})"), "on the column `email` alone"),
        (
            format!("CREATE TABLE users ({id}, email TEXT, {rest}, UNIQUE (email, made_at))"),
            "on the column `email` alone",
        ),
        (
            format!(
                "CREATE TABLE users ({id}, email TEXT, {rest}); \
                 CREATE UNIQUE INDEX one ON users (email) WHERE deactivated_at IS NULL"
            ),
            "on the column `email` alone",
        ),
        (
            format!(
                "CREATE TABLE users ({id}, email TEXT, {rest}); \
                 CREATE UNIQUE INDEX one ON users (email, lower(made_at))"
            ),
            "on the column `email` alone",
        ),
        (
            format!("CREATE TABLE users (user_id INTEGER PRIMARY KEY, email TEXT UNIQUE, {rest})"),
            "on the column `user_id` alone",
        ),
        (
            format!("CREATE TABLE users (user_id TEXT, email TEXT UNIQUE, {rest})"),
            "on the column `user_id` alone",
        ),
        (
            format!("CREATE TABLE users ({id}, mail TEXT UNIQUE, {rest})"),
            "`users` has no column `email`",
        ),
        (
            format!("CREATE TABLE users ({id}, email TEXT UNIQUE, key_sha256 TEXT)"),
            "`users` has no column `made_at`",
        ),
        (
            format!("CREATE TABLE users ({id}, m TEXT, email AS (lower(m)) STORED UNIQUE, {rest})"),
            "the column `email` of its table `users` is generated",
        ),
        (
            format!(
                "CREATE TABLE users ({id}, email TEXT UNIQUE, {rest}); CREATE TABLE user_keys (a)"
            ),
            "it has a table `user_keys`, which this program has not made",
        ),
    ] {
        let application = Application::with(table.clone().leak(), users()).await;
        let refusal = application.refusal().await;
        assert!(refusal.contains(part), "{refusal} for {table}");
    }
    // A unique index that is not the table's own is enough.
    let table = format!(
        "CREATE TABLE users (user_id TEXT, email TEXT, {rest}); \
         CREATE UNIQUE INDEX one ON users (user_id); CREATE UNIQUE INDEX two ON users (email)"
    );
    let application = Application::with(table.leak(), users()).await;
    let world = application.world().await;
    let (trust, key) = world.register("bob@x").await;
    world.registry.add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
}

/// An e-mail address may be compared without regard to case.
#[tokio::test]
async fn a_collation_of_the_application_applies_and_the_exact_name_comes_first() {
    let rest = "key_sha256 TEXT, made_at TEXT, deactivated_at TEXT";
    let table = format!(
        "CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, {rest})"
    );
    let application = Application::with(table.leak(), users()).await;
    let world = application.world().await;
    let (bob, _) = world.register("Bob@x").await;
    let taken = world.registry.register(new("bob@x")).await.unwrap_err();
    assert!(matches!(taken, RegistryError::Store(StoreError::NameTaken { .. })), "{taken:?}");
    assert_eq!(world.registry.disable(&by_name("bob@x")).await.unwrap().id, bob.id);

    let table = format!(
        "CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT COLLATE NOCASE, {rest}); \
         CREATE UNIQUE INDEX one ON users (email COLLATE BINARY)"
    );
    let application = Application::with(table.leak(), users()).await;
    let world = application.world().await;
    for name in ["Bob@x", "bob@x", "BOB@x"] {
        world.register(name).await;
    }
    for name in ["Bob@x", "bob@x", "BOB@x"] {
        assert_eq!(world.registry.disable(&by_name(name)).await.unwrap().name, name);
    }
}

#[tokio::test]
async fn names_that_do_not_fit_the_file_are_refused() {
    let mut application = Application::new().await;
    application.options().run_migration().await.unwrap();
    let elsewhere = "CREATE TABLE people (user_id TEXT PRIMARY KEY, email TEXT UNIQUE, \
                     key_sha256 TEXT, made_at TEXT, deactivated_at TEXT)";
    run(&mut application.hand().await, elsewhere).await;
    let other_id = "ALTER TABLE users ADD COLUMN alt TEXT; CREATE UNIQUE INDEX alt ON users (alt)";
    run(&mut application.hand().await, other_id).await;
    let fitting = application.names.clone();
    for (names, part) in [
        (fitting.clone().key_table("keys"), "there is no table `keys`"),
        (fitting.clone().table("people"), "does not hold the keys of the table `people`"),
        (
            fitting.clone().column(TrustColumn::Id, "alt"),
            "does not hold the keys of the table `users` by the column `alt`",
        ),
        (fitting.clone().table("people").key_table("keys"), "or use another file"),
        (fitting.clone().table("nowhere"), "`nowhere` does not exist"),
        (fitting.clone().column(TrustColumn::Name, "mail"), "no column `mail`"),
    ] {
        application.names = names;
        let error = application.options().connect().await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // The default names are of no table here.
    assert!(SqliteStore::options(application.path()).connect().await.is_err());
    for names in [fitting.clone().table("a\"b"), fitting.clone().without(TrustColumn::Id)] {
        application.names = names;
        let options = application.options();
        for error in [
            options.plan_migration().await.unwrap_err(),
            options.run_migration().await.unwrap_err(),
            options.plan_index().await.unwrap_err(),
            options.make_index().await.unwrap_err(),
            options.connect().await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::UnsupportedUrl { .. }), "{error:?}");
        }
    }
    for id in ["user_id", "User_ID"] {
        application.names = fitting.clone().column(TrustColumn::Id, id);
        application.options().connect().await.unwrap();
    }

    // An application makes its own file.
    let missing = application.folder.path().join("missing.db");
    let options = SqliteStore::options(&missing).names(users()).create_if_missing(true);
    let error = options.connect().await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }) && !missing.exists(), "{error:?}");
}

#[tokio::test]
async fn a_failure_names_the_applications_table() {
    let application = Application::new().await;
    let world = application.world().await;
    let mut hand = application.hand().await;
    run(
        &mut hand,
        "CREATE TRIGGER u BEFORE UPDATE ON users BEGIN SELECT RAISE(IGNORE); END; \
         CREATE TRIGGER k BEFORE INSERT ON user_keys BEGIN SELECT RAISE(IGNORE); END; \
         CREATE TRIGGER i BEFORE INSERT ON users BEGIN SELECT RAISE(IGNORE); END; \
         CREATE TRIGGER d BEFORE DELETE ON users BEGIN SELECT RAISE(FAIL, 'no'); END",
    )
    .await;
    let registry = &world.registry;
    for (refused, table) in [
        (reason(registry.disable(&ANN.into()).await), "on its table `users`"),
        (reason(registry.add_key(&ANN.into(), &KeyTerms::new()).await), "table `user_keys`"),
        (reason(registry.register(new("bob@x")).await), "on its table `users`"),
        (reason(registry.delete(&ANN.into()).await), "a trigger of its table `users` refuses"),
    ] {
        assert!(refused.contains(table), "{refused}");
    }
    run(&mut hand, "PRAGMA foreign_keys = OFF; DROP TABLE users").await;
    let error = world.store.fetch(ANN).await.unwrap_err().to_string();
    assert!(error.contains("its table `users` is gone"), "{error}");
}

#[tokio::test]
async fn a_key_is_found_by_the_applications_own_index_or_by_one_that_is_made() {
    let application = Application::new().await;
    let world = application.world().await;
    let (trust, key) = world.register("bob@x").await;
    let lacking = world.store.check_index().await.unwrap_err();
    let StoreError::NoIndex { sql, .. } = &lacking else { panic!("{lacking:?}") };
    let of_trusts = "CREATE INDEX \"trust_api_key_hash_users.user_keys\" ON \"users\" \
                     (\"key_sha256\");";
    assert!(sql.contains(of_trusts), "{sql}");
    // Another index of the column, and one of another column.
    let mut hand = application.hand().await;
    run(&mut hand, "CREATE INDEX size ON users (shoe_size)").await;
    assert_eq!(application.options().plan_index().await.unwrap().steps().len(), 2);
    run(&mut hand, "CREATE UNIQUE INDEX mine ON users (key_sha256)").await;
    let plan = application.options().plan_index().await.unwrap();
    assert_eq!(plan.missing(), ["the index `trust_key_digest_users.user_keys`"]);
    assert_eq!(application.options().make_index().await.unwrap(), plan);
    assert!(application.options().make_index().await.unwrap().is_empty());
    world.store.check_index().await.unwrap();

    let authenticator = Authenticator::builder(Arc::clone(&world.store), Arc::default());
    let authenticator = authenticator.find_by(FindBy::Index).build();
    let (_, further) = world.registry.add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    for key in [&key, &further] {
        for route in [Route::Find, Route::Hit] {
            let attempt = authenticator.attempt(Some(key.expose())).await;
            assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, route));
        }
    }
    assert_eq!(world.store.find(&KeyHash::of("unknown")).await.unwrap(), None);
    world.registry.disable(&trust.id.into()).await.unwrap();
    assert_eq!(world.store.find(&key.hash()).await.unwrap(), None);
    assert_eq!(world.store.find(&further.hash()).await.unwrap(), None);
}

/// A plan names a column as the table's declaration spells it.
#[tokio::test]
async fn an_index_on_a_column_that_is_declared_in_another_case_is_found() {
    let table = "CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT UNIQUE, \
                 Key_SHA256 TEXT, made_at TEXT, deactivated_at TEXT)";
    let application = Application::with(table, users()).await;
    let world = application.world().await;
    assert_eq!(application.options().make_index().await.unwrap().steps().len(), 2);
    assert!(application.options().make_index().await.unwrap().is_empty());
    world.store.check_index().await.unwrap();
}

#[tokio::test]
async fn a_watch_evicts_what_the_application_changes_in_its_table() {
    let application = Application::new().await;
    let world = application.world().await;
    let (bob, bobs) = world.register("bob@x").await;
    let (row, further) = world.registry.add_key(&bob.id.into(), &KeyTerms::new()).await.unwrap();
    let (_, others) = world.register("eve@x").await;
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    for key in [&bobs, &further, &others] {
        assert!(world.attempt(key).await.result.is_ok() && world.cached(key).is_some());
    }
    let mut hand = application.hand().await;
    let revoke = format!("UPDATE user_keys SET revoked_at = datetime() WHERE id = '{}'", row.id);
    run(&mut hand, revoke).await;
    eventually("the further key is evicted", || world.cached(&further).is_none()).await;
    assert!(world.cached(&bobs).is_some());
    run(&mut hand, "UPDATE users SET deactivated_at = datetime() WHERE email = 'bob@x'").await;
    eventually("the key is evicted", || world.cached(&bobs).is_none()).await;
    assert!(world.cached(&others).is_some(), "no change concerns it");
    drop(watcher);
    world.store.close().await;
}

#[tokio::test]
async fn g11_a_revocation_in_the_applications_table_is_final_for_a_holder() {
    let application = Application::new().await;
    let world = application.world().await;
    let (bob, key) = world.register("bob@x").await;
    let (eve, _) = world.register("eve@x").await;
    let (row, further) = world.registry.add_key(&eve.id.into(), &KeyTerms::new()).await.unwrap();
    let here = application.options().connect().await.unwrap();
    let held = HeldTrusts::start(here.feed(), "here", Duration::from_millis(300)).await.unwrap();
    let held = Arc::new(held);
    let authenticator = Authenticator::builder(Arc::new(here), Arc::default());
    let authenticator = authenticator.read_lease(Arc::clone(&held)).build();
    for key in [&key, &further] {
        let attempt = async || authenticator.attempt(Some(key.expose())).await;
        // Its task may be late, and the lease over meanwhile.
        while attempt().await.route != Route::Held {}
        assert!(attempt().await.result.is_ok());
    }
    world.registry.disable(&bob.id.into()).await.unwrap();
    assert!(authenticator.authenticate(Some(key.expose())).await.is_err());
    world.registry.revoke_key(row.id).await.unwrap();
    assert!(authenticator.authenticate(Some(further.expose())).await.is_err());
    held.close().await;
}

#[tokio::test]
async fn odd_names_are_names_like_any_others() {
    let table = "CREATE TABLE \"Order\" (\
         \"select\" TEXT PRIMARY KEY, \"E Mail\" TEXT UNIQUE, \"Schlüssel-Hash\" TEXT, \
         \"name\" TEXT, \"id\" INTEGER, \"Made.At\" TEXT, \"disabled_at\" INTEGER DEFAULT 1, \
         \"gone (at)\" TEXT, \"code\" INTEGER DEFAULT 5, \"api_key_hash\" TEXT DEFAULT 'none')";
    let names = TableNames::default()
        .table("order")
        .key_table("keys; of -- orders")
        .column(TrustColumn::Id, "SELECT")
        .column(TrustColumn::Name, "E Mail")
        .column(TrustColumn::Code, "region")
        .column(TrustColumn::Region, "trust")
        .column(TrustColumn::ApiKeyHash, "Schlüssel-Hash")
        .column(TrustColumn::CreatedAt, "made.at")
        .column(TrustColumn::DisabledAt, "gone (at)")
        .without(TrustColumn::LastHeartbeat)
        .column(TrustColumn::Attributes, "rowid of it");
    let application = Application::with(table, names).await;
    let world = application.world().await;
    application.options().make_index().await.unwrap();
    world.store.check_index().await.unwrap();
    let bob = new("bob").with_code("c").with_region("r");
    let (bob, key) = world.registry.register(bob).await.unwrap();
    let (row, further) = world.registry.add_key(&bob.id.into(), &KeyTerms::new()).await.unwrap();
    assert_eq!((bob.code.as_deref(), bob.region.as_deref()), (Some("c"), Some("r")));
    let listed = world.registry.list().await.unwrap();
    assert_eq!((listed[0].code.as_deref(), listed[0].region.as_deref()), (Some("c"), Some("r")));
    for key in [&key, &further] {
        assert_eq!(world.attempt(key).await.route, Route::Scan);
        assert_eq!(world.attempt(key).await.route, Route::Hit);
        assert_eq!(world.store.find(&key.hash()).await.unwrap(), Some(bob.id));
    }
    world.registry.revoke_key(row.id).await.unwrap();
    world.registry.disable(&by_name("bob")).await.unwrap();
    for key in [&key, &further] {
        assert!(world.attempt(key).await.result.is_err());
    }
    world.registry.delete(&by_name("bob")).await.unwrap();
    assert!(application.options().plan_migration().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_application_with_a_pool_of_its_own_has_names_too() {
    let application = Application::new().await;
    let options = SqliteConnectOptions::new().filename(application.path());
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let over = || SqliteStore::over(pool.clone()).names(users());
    assert!(matches!(over().connect().await.unwrap_err(), StoreError::NotMigrated { .. }));
    let store = over().migrate(true).connect().await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
    application.options().connect().await.unwrap();
}

/// The columns of this program's own table can be renamed.
#[tokio::test]
async fn a_file_that_this_program_has_made_keeps_its_record_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trusts.db");
    let store = stores::sqlite_options(&path).connect().await.unwrap();
    let trust = store.insert(new("a"), KeyHash::of("key")).await.unwrap();
    store.close().await;
    let mut hand = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    run(&mut hand, "ALTER TABLE trust RENAME COLUMN code TO kind").await;
    let names = TableNames::default().column(TrustColumn::Code, "kind");
    let store = SqliteStore::options(&path).names(names.clone()).connect().await.unwrap();
    assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust));
    assert!(SqliteStore::options(&path).names(names).plan_migration().await.unwrap().is_empty());
    store.close().await;
}

/// A command on one of a few names.
#[derive(Clone, Copy, Debug)]
enum Command {
    Register(u8),
    Rotate(u8, bool),
    AddKey(u8),
    RevokeKey(u8),
    Disable(u8),
    Enable(u8),
    Delete(u8),
}

fn command() -> impl Strategy<Value = Command> {
    use Command::{AddKey, Delete, Disable, Enable, Register, RevokeKey, Rotate};
    let name = || 0..4_u8;
    prop_oneof![
        3 => name().prop_map(Register),
        2 => (name(), any::<bool>()).prop_map(|(name, overlaps)| Rotate(name, overlaps)),
        3 => name().prop_map(AddKey),
        2 => name().prop_map(RevokeKey),
        1 => name().prop_map(Disable),
        1 => name().prop_map(Enable),
        1 => name().prop_map(Delete),
    ]
}

/// A store, and each key that a command has returned.
struct Side {
    registry: TrustRegistry<SqliteStore>,
    authenticator: Authenticator<SqliteStore>,
    keys: Vec<ApiKey>,
}

impl Side {
    fn over(store: SqliteStore) -> Self {
        let (store, cache) = (Arc::new(store), Arc::new(TrustKeyCache::new()));
        let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
        Self { registry, authenticator: Authenticator::new(store, cache), keys: Vec::new() }
    }

    /// Returns whether the command was done.
    async fn run(&mut self, command: Command) -> bool {
        let which = |name: u8| by_name(&format!("n{name}"));
        let (registry, terms) = (&self.registry, KeyTerms::new());
        let made = match command {
            Command::Register(name) => {
                registry.register(new(&format!("n{name}"))).await.map(|(_, key)| Some(key))
            }
            Command::Rotate(name, overlaps) => {
                let overlap = overlaps.then_some(Duration::from_secs(3_600));
                match registry.begin_rotate_with(&which(name), &terms, overlap).await {
                    Ok((rotation, key)) => {
                        rotation.settle(trust_auth::Waiting::default()).await.map(|_| Some(key))
                    }
                    Err(error) => Err(error),
                }
            }
            Command::AddKey(name) => {
                registry.add_key(&which(name), &terms).await.map(|(_, key)| Some(key))
            }
            Command::RevokeKey(name) => {
                let keys = registry.keys(&which(name)).await.unwrap_or_default();
                match keys.iter().find(|key| key.revoked_at.is_none()) {
                    Some(key) => registry.revoke_key(key.id).await.map(|_| None),
                    None => return false,
                }
            }
            Command::Disable(name) => registry.disable(&which(name)).await.map(|_| None),
            Command::Enable(name) => registry.enable(&which(name)).await.map(|_| None),
            Command::Delete(name) => registry.delete(&which(name)).await.map(|_| None),
        };
        let is_done = made.is_ok();
        self.keys.extend(made.ok().flatten());
        is_done
    }

    /// Returns the rows by name, and whose each key is, by a hit or a scan and by a new scan.
    async fn state(&self) -> (Vec<(String, bool, usize)>, Vec<Option<String>>) {
        let rows = self.registry.list().await.unwrap();
        let rows = rows
            .into_iter()
            .map(|t| (t.name.clone(), t.is_enabled(), t.hashes().count()))
            .collect();
        let mut holders = Vec::new();
        for key in &self.keys {
            let granted = self.authenticator.authenticate(Some(key.expose())).await;
            holders.push(granted.ok().map(|trust| trust.name.clone()));
        }
        (rows, holders)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn commands_have_the_same_effect_under_any_names(
        commands in proptest::collection::vec(command(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let application = Application::with(USERS, users()).await;
            let store = application.options().migrate(true).connect().await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            let default = stores::sqlite_options(&folder.path().join("trusts.db"));
            let mut sides = [Side::over(default.connect().await.unwrap()), Side::over(store)];
            for command in commands {
                let [default, own] = &mut sides;
                assert_eq!(default.run(command).await, own.run(command).await, "{command:?}");
                assert_eq!(default.state().await, own.state().await, "{command:?}");
            }
        });
    }
}
