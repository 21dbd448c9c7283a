//! The read lease on real servers of PostgreSQL: each schedule that breaks a simpler rule, as far
//! as it can be staged. The rules R1 to R16 and the lemmas RL1 to RL31 are in `docs/read-lease.md`.

mod stores;

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use stores::postgres_server::PostgresServer;
use stores::{by_name, eventually, postgres_options};
use trust_auth::{
    Answer, ChangeFeed, Difference, Ended, FeedSession, KeyHash, NewTrust, PgChanges, PgFeed,
    PgSession, PostgresStore, Reload, Settled, StoreError, TableNames, TrustColumn, TrustLedger,
    Waiting,
};
use uuid::Uuid;

/// The shortest lease. Tests wait it out, and none depends on its length.
const SHORT: Duration = Duration::from_millis(300);

/// Longer than any test.
const LONG: Duration = Duration::from_secs(300);

const APPLICATION: &str = "\
    CREATE TABLE users (id int PRIMARY KEY, name text, note text); \
    CREATE TABLE api_keys (key_hash text PRIMARY KEY, user_id int, last_used_at timestamptz);";

/// A database of an application, and its declaration.
fn application(server: &PostgresServer) -> (String, PgChanges) {
    let url = server.new_database();
    server.psql(&url, APPLICATION);
    let changes = PgChanges::new(postgres_options(&url))
        .table("api_keys", |table| table.key("key_hash").value("user_id").ignore(["last_used_at"]))
        .table("users", |table| table.ignore(["note"]));
    (url, changes)
}

/// The same, migrated.
async fn migrated(server: &PostgresServer) -> (String, PgFeed) {
    let (url, changes) = application(server);
    changes.run_migration().await.unwrap();
    (url, changes.connect().await.unwrap())
}

/// The same, with a holder that has loaded and registered.
async fn holder(server: &PostgresServer) -> (String, PgFeed, PgSession, Uuid) {
    let (url, feed) = migrated(server).await;
    let (session, id) = registered(&feed, LONG, "a").await;
    (url, feed, session, id)
}

async fn registered(feed: &PgFeed, length: Duration, name: &str) -> (PgSession, Uuid) {
    let mut session = feed.open(length).await.unwrap();
    session.load().await.unwrap();
    let id = session.register(name).await.unwrap();
    (session, id)
}

fn ended(answer: Answer) -> Vec<Ended> {
    match answer {
        Answer::Difference(difference) => difference.ended,
        Answer::Reload(reason) => panic!("{reason:?}"),
    }
}

async fn renewed(session: &mut PgSession, id: Uuid) -> Vec<Ended> {
    ended(session.renew(id).await.unwrap())
}

fn nothing() -> Answer {
    Answer::Difference(Difference::default())
}

fn user(number: i32) -> Ended {
    Ended::Value { column: "api_keys.user_id".into(), value: number.to_string() }
}

fn insert_key(name: &str, user: i32) -> String {
    format!(
        "INSERT INTO api_keys (key_hash, user_id) VALUES ('{}', {user})",
        KeyHash::of(name).to_hex()
    )
}

async fn run(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

async fn barrier(connection: &mut PgConnection) -> String {
    sqlx::query_scalar("SELECT trust_auth_barrier()").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn rl4_a_transaction_with_a_smaller_id_that_commits_later_is_found() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    let mut early = server.connect(&url).await;
    let mut late = early.begin().await.unwrap();
    run(&mut late, insert_key("early id", 1)).await;
    server.psql(&url, &insert_key("late id", 2));

    let found = renewed(&mut session, id).await;
    assert!(found.contains(&user(2)) && !found.contains(&user(1)), "{found:?}");
    assert_eq!(session.renew(id).await.unwrap(), nothing());
    late.commit().await.unwrap();
    let found = renewed(&mut session, id).await;
    assert!(found.contains(&user(1)) && found.contains(&Ended::Key(KeyHash::of("early id"))));
    assert_eq!(session.renew(id).await.unwrap(), nothing());
}

#[tokio::test]
async fn rl1_each_way_to_change_a_row_is_recorded() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;

    // A subtransaction that is released, and one that is rolled back.
    let subtransactions = format!(
        "BEGIN; SAVEPOINT a; {}; RELEASE a; SAVEPOINT b; {}; ROLLBACK TO b; COMMIT",
        insert_key("kept", 1),
        insert_key("undone", 2)
    );
    server.psql(&url, &subtransactions);
    let found = renewed(&mut session, id).await;
    assert!(found.contains(&user(1)) && !found.contains(&user(2)), "{found:?}");

    server.psql(&url, &format!("BEGIN; {}; ROLLBACK", insert_key("rolled back", 3)));
    assert_eq!(session.renew(id).await.unwrap(), nothing());

    let as_replica = format!("SET session_replication_role = replica; {}", insert_key("r", 4));
    server.psql(&url, &as_replica);
    assert!(renewed(&mut session, id).await.contains(&user(4)));

    // Both the former and the present value.
    server.psql(&url, "UPDATE api_keys SET user_id = 5 WHERE user_id = 4");
    let found = renewed(&mut session, id).await;
    assert!(found.contains(&user(4)) && found.contains(&user(5)), "{found:?}");
    assert!(found.contains(&Ended::Key(KeyHash::of("r"))), "{found:?}");

    server.psql(&url, "DELETE FROM api_keys WHERE user_id = 5");
    assert!(renewed(&mut session, id).await.contains(&Ended::Key(KeyHash::of("r"))));

    // The table has a new file, too, which ends the base.
    server.psql(&url, "TRUNCATE api_keys");
    let records = "SELECT count(*) FROM trust_auth_change WHERE source = '*'";
    assert_eq!(server.psql(&url, records), "1");
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
    session.load().await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), nothing());

    server.psql(&url, "INSERT INTO users VALUES (1, 'a', '')");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
}

/// The declaration promises digests. Another value does not say which key has changed.
#[tokio::test]
async fn a_key_that_is_no_digest_ends_everything() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _, mut session, id) = holder(server).await;
    server.psql(&url, "INSERT INTO api_keys (key_hash, user_id) VALUES ('sha256:abc', 1)");
    let found = renewed(&mut session, id).await;
    assert!(found.contains(&Ended::Everything), "{found:?}");
}

/// A row without a user may be a grant to each user.
#[tokio::test]
async fn a_key_or_a_value_that_is_null_ends_everything() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, "CREATE TABLE grants (key_hash text, user_id int, scope text)");
    for named in ["key_hash", "user_id"] {
        let changes = PgChanges::new(postgres_options(&url)).table("grants", |table| match named {
            "user_id" => table.value(named),
            _ => table.key(named),
        });
        changes.run_migration().await.unwrap();
        let (mut session, id) = registered(&changes.connect().await.unwrap(), LONG, "a").await;
        let hash = KeyHash::of("key").to_hex();
        for sql in [
            "INSERT INTO grants (scope) VALUES ('admin')",
            "UPDATE grants SET scope = 'other'",
            &format!("UPDATE grants SET user_id = 7, key_hash = '{hash}'"),
            "UPDATE grants SET user_id = NULL, key_hash = NULL",
            "DELETE FROM grants",
        ] {
            server.psql(&url, sql);
            let found = renewed(&mut session, id).await;
            assert!(found.contains(&Ended::Everything), "{named}: {sql}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_column_that_is_ignored_ends_nothing() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    server.psql(&url, &format!("{}; INSERT INTO users VALUES (1)", insert_key("k", 1)));
    session.renew(id).await.unwrap();
    server.psql(&url, "UPDATE api_keys SET last_used_at = now(); UPDATE users SET note = 'x'");
    assert_eq!(session.renew(id).await.unwrap(), nothing());
    server.psql(&url, "UPDATE users SET note = 'y', name = 'b'");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
}

#[tokio::test]
async fn a_prepared_transaction_is_found_after_its_commit_and_refused_with_a_hint() {
    let settings = |_: &PostgresServer| "-c max_prepared_transactions=4".to_owned();
    let Some(server) = PostgresServer::start_with(settings) else { return };
    let (url, changes) = application(&server);
    let changes = changes.table("loud", |table| table).table("quiet", |table| table.quietly());
    server.psql(&url, "CREATE TABLE loud (id int); CREATE TABLE quiet (id int)");
    changes.run_migration().await.unwrap();
    let feed = changes.connect().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;

    let mut other = server.connect(&url).await;
    other.execute("BEGIN; INSERT INTO loud VALUES (1)").await.unwrap();
    let error = other.execute("PREPARE TRANSACTION 'loud'").await.unwrap_err();
    assert!(error.to_string().contains("NOTIFY"), "{error}");

    other.execute("BEGIN; INSERT INTO quiet VALUES (1)").await.unwrap();
    other.execute("PREPARE TRANSACTION 'quiet'").await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), nothing());
    other.execute("COMMIT PREPARED 'quiet'").await.unwrap();
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
}

#[tokio::test]
async fn rl2_triggers_that_were_off_during_a_change_make_the_holder_load_again() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    let trigger = |state| format!("ALTER TABLE users {state} TRIGGER trust_auth_rec_row");
    server.psql(
        &url,
        &format!(
            "BEGIN; {}; INSERT INTO users VALUES (1, 'a', ''); {}; COMMIT",
            trigger("DISABLE"),
            trigger("ENABLE ALWAYS")
        ),
    );
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_change"), "0");
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
    assert_eq!(session.look().await.unwrap(), Answer::Reload(Reload::OtherTriggers));
    session.load().await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), nothing());
}

/// The two have one schema with the lease's tables. The migration of one must not change what an
/// open transaction on the other records.
#[tokio::test]
async fn rl2_two_tables_of_one_name_do_not_share_a_function() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    for sql in [
        "CREATE SCHEMA shared; CREATE TABLE shared.nothing (id int)",
        "CREATE SCHEMA a; CREATE TABLE a.users (id int, org int)",
        "INSERT INTO a.users VALUES (1, 5)",
        "CREATE SCHEMA b; CREATE TABLE b.users (id int, org int)",
    ] {
        server.psql(&url, sql);
    }
    let at = |path: &str| format!("{url}?options=-c%20search_path%3D{path}");
    let changes = |path: &str| PgChanges::new(postgres_options(&at(path)));
    changes("shared").table("nothing", |table| table).run_migration().await.unwrap();
    let of_a = changes("a,shared").table("users", |table| table.value("org"));
    of_a.run_migration().await.unwrap();
    let of_b = |column| changes("b,shared").table("users", |table| table.value(column));
    of_b("id").run_migration().await.unwrap();
    let mut changer = server.connect(&at("a,shared")).await;
    let mut open = changer.begin().await.unwrap();
    run(&mut open, "DELETE FROM users WHERE id = 1".into()).await;
    of_b("org").run_migration().await.unwrap();

    let (mut session, id) = registered(&of_a.connect().await.unwrap(), LONG, "a").await;
    assert_eq!(renewed(&mut session, id).await, []);
    open.commit().await.unwrap();
    let user = Ended::Value { column: "users.org".into(), value: "5".into() };
    assert_eq!(renewed(&mut session, id).await, [user]);
}

/// A source that the holder does not know: of its own table, and of another program's table.
#[tokio::test]
async fn a_record_of_another_declaration_of_a_watched_table_ends_everything() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    let record = |source: &str| {
        let sql = "INSERT INTO trust_auth_change (source, value) VALUES";
        server.psql(&url, &format!("{sql} ('{source}', '1')"));
    };
    record("api_keys.former");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
    session.renew(id).await.unwrap();
    record("api_keys_of_others.user_id");
    assert_eq!(renewed(&mut session, id).await, []);
}

/// What changes rows, or what they mean, without a trigger.
#[tokio::test]
async fn rl2_a_table_that_was_changed_as_a_whole_makes_the_holder_load_again() {
    let Some(server) = PostgresServer::shared() else { return };
    for change in [
        "ALTER TABLE users ALTER COLUMN note TYPE varchar USING upper(note)",
        "CREATE OR REPLACE FUNCTION trust_auth_rec_users() RETURNS trigger LANGUAGE plpgsql \
         SECURITY DEFINER AS 'BEGIN RETURN NULL; END'",
        "ALTER TABLE users ADD COLUMN is_admin bool",
        "CREATE TABLE more_users () INHERITS (users)",
        "ALTER TABLE users RENAME TO old_users; CREATE TABLE users (LIKE old_users)",
        "ALTER SCHEMA public RENAME TO former; ALTER SCHEMA former RENAME TO public",
    ] {
        let (url, _feed, mut session, id) = holder(server).await;
        server.psql(&url, change);
        let answer = session.renew(id).await.unwrap();
        assert_eq!(answer, Answer::Reload(Reload::OtherTriggers), "{change}");
        let loaded = session.load().await;
        // These leave the triggers as they are wanted.
        let leaves = change.contains("upper") || change.contains("SCHEMA");
        assert_eq!(loaded.is_ok(), leaves, "{change}: {loaded:?}");
    }
}

/// PostgreSQL keeps a trigger's condition by the numbers of its columns.
#[tokio::test]
async fn rl2_a_column_that_takes_anothers_name_refuses_the_lease_until_the_migration() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = application(server);
    server.psql(&url, "ALTER TABLE users ADD new_name text");
    // As the table `trust` is declared.
    let changes = PgChanges::new(postgres_options(&url)).table("users", |t| t.only(["name"]));
    changes.run_migration().await.unwrap();
    let feed = changes.connect().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    server.psql(
        &url,
        "BEGIN; ALTER TABLE users RENAME name TO old_name; \
         ALTER TABLE users RENAME new_name TO name; COMMIT",
    );
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
    let error = session.load().await.unwrap_err();
    assert!(error.to_string().contains("triggers on the table `users`"), "{error}");
    changes.run_migration().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    server.psql(&url, "INSERT INTO users VALUES (1)");
    renewed(&mut session, id).await;
    server.psql(&url, "UPDATE users SET name = 'other'");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
}

#[tokio::test]
async fn a_trigger_that_is_missing_or_turned_off_refuses_the_lease_and_migrates() {
    let Some(server) = PostgresServer::shared() else { return };
    for change in [
        "DROP TRIGGER trust_auth_rec_update ON users",
        "ALTER TABLE users ENABLE TRIGGER trust_auth_rec_truncate",
        "ALTER TABLE users DISABLE TRIGGER ALL",
        "ALTER TABLE users ADD COLUMN is_admin bool",
    ] {
        let (url, changes) = application(server);
        changes.run_migration().await.unwrap();
        server.psql(&url, change);
        let feed = changes.connect().await.unwrap();
        let error = feed.open(LONG).await.unwrap().load().await.unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, StoreError::Schema { .. }), "{told}");
        for part in ["triggers on the table `users`", "run the read lease's migration"] {
            assert!(told.contains(part), "{told}");
        }
        let plan = changes.run_migration().await.unwrap();
        assert_eq!(plan.missing(), ["the read lease's triggers on the table `users`"]);
        feed.open(LONG).await.unwrap().load().await.unwrap();
    }
}

#[tokio::test]
async fn a_plan_changes_nothing_and_psql_can_run_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, changes) = application(server);
    let before = server.dump(&url);
    let plan = changes.plan_migration().await.unwrap();
    assert_eq!(plan.missing().len(), 3, "{plan}");
    assert_eq!(server.dump(&url), before);

    server.psql(&url, &plan.to_string());
    assert!(changes.plan_migration().await.unwrap().is_empty());
    assert!(changes.run_migration().await.unwrap().is_empty());
}

#[tokio::test]
async fn several_processes_that_migrate_together_make_the_triggers_once() {
    let Some(server) = PostgresServer::shared() else { return };
    let (_, changes) = application(server);
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let changes = changes.clone();
            tokio::spawn(async move { changes.run_migration().await })
        })
        .collect();
    let mut done = 0;
    for run in runs {
        done += usize::from(!run.await.unwrap().unwrap().is_empty());
    }
    assert_eq!(done, 1);
}

#[tokio::test]
async fn a_table_whose_rows_change_without_its_triggers_is_refused_with_the_remedy() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(
        &url,
        "CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent); \
         CREATE TABLE whole (id int) PARTITION BY LIST (id); \
         CREATE TABLE part PARTITION OF whole FOR VALUES IN (1); \
         CREATE VIEW seen AS SELECT * FROM parent; \
         CREATE MATERIALIZED VIEW kept AS SELECT * FROM parent; \
         CREATE UNLOGGED TABLE fast (id int); CREATE SEQUENCE numbers; \
         CREATE TABLE typed (id int, at timestamptz, digest uuid)",
    );
    type Declare = fn(trust_auth::WatchedTable) -> trust_auth::WatchedTable;
    let plain: Declare = |table| table;
    let cases: [(&str, Declare, &[&str]); 13] = [
        ("parent", plain, &["inherit from it", "NO INHERIT"]),
        ("whole", plain, &["is partitioned", "watch an ordinary table"]),
        ("part", plain, &["is a partition", "watch an ordinary table"]),
        ("seen", plain, &["is a view", "watch the tables behind it"]),
        ("kept", plain, &["is a view", "watch the tables behind it"]),
        ("fast", plain, &["is unlogged", "SET LOGGED"]),
        ("numbers", plain, &["is no table", "watch an ordinary table"]),
        ("absent", plain, &["has no table `absent`", "check the name"]),
        ("a.b.c.d", plain, &["`a.b.c.d`"]),
        ("typed", |table| table.key("at"), &["`at`", "`timestamp with time zone`", "bytea"]),
        ("typed", |table| table.value("at"), &["must be uuid, an integer or text"]),
        ("typed", |table| table.ignore(["absent"]), &["no column `absent`"]),
        ("typed", |table| table.value("id").ignore(["id"]), &["is ignored"]),
    ];
    for (name, declare, parts) in cases {
        let changes = PgChanges::new(postgres_options(&url)).table(name, declare);
        for error in [changes.plan_migration().await, changes.run_migration().await] {
            let error = error.unwrap_err();
            let told = error.to_string();
            assert!(matches!(error, StoreError::Schema { .. }), "{name}: {told}");
            assert!(parts.iter().all(|part| told.contains(part)), "{name}: {told}");
        }
    }
    assert_eq!(server.psql(&url, "SELECT to_regclass('trust_auth_lease') IS NULL"), "t");
}

#[tokio::test]
async fn names_that_need_quotes_are_watched() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(
        &url,
        r#"CREATE SCHEMA "O'Neil"; CREATE TABLE "O'Neil"."My ""Keys""" ("The Hash" bytea, x json)"#,
    );
    let changes = PgChanges::new(postgres_options(&url))
        .table(r#""O'Neil"."My ""Keys""""#, |table| table.key("The Hash"));
    changes.run_migration().await.unwrap();
    let (mut session, id) = registered(&changes.connect().await.unwrap(), LONG, "a").await;
    let hash = KeyHash::of("k");
    server.psql(
        &url,
        &format!(r#"INSERT INTO "O'Neil"."My ""Keys""" VALUES ('\x{}', '{{}}')"#, hash.to_hex()),
    );
    assert_eq!(renewed(&mut session, id).await, [Ended::Key(hash)]);
    server.psql(&url, r#"UPDATE "O'Neil"."My ""Keys""" SET x = '{"a": 1}'"#);
    assert_eq!(renewed(&mut session, id).await, [Ended::Key(hash)]);
}

#[tokio::test]
async fn rl5_a_base_that_is_older_than_what_is_kept_makes_the_holder_load_again() {
    // A server of its own: transactions of other databases would keep the records, too.
    let Some(server) = PostgresServer::start() else { return };
    let (url, feed, mut session, id) = holder(&server).await;
    let mut slow = feed.open(LONG).await.unwrap();
    slow.load().await.unwrap();
    server.psql(&url, &insert_key("pruned", 1));
    session.renew(id).await.unwrap();
    session.renew(id).await.unwrap();
    session.upkeep().await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_change"), "0");

    let slow_id = slow.register("slow").await.unwrap();
    assert_eq!(slow.renew(slow_id).await.unwrap(), Answer::Reload(Reload::Pruned));
    assert_eq!(slow.look().await.unwrap(), Answer::Reload(Reload::Pruned));
    slow.load().await.unwrap();
    assert_eq!(slow.renew(slow_id).await.unwrap(), nothing());
}

/// The process that settles the run has its snapshot, and waits; meanwhile records are pruned.
#[tokio::test]
async fn rl5_settling_a_run_moves_no_bound_below_what_was_pruned() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    let bound = "SELECT kept_from::text FROM trust_auth_lease";
    // A dump of another cluster has a bound that this one has not reached.
    for kept_from in ["0", "1000000000"] {
        server.psql(&url, &format!("UPDATE trust_auth_lease SET kept_from = '{kept_from}'"));
        server.psql(&url, "UPDATE trust_auth_lease SET server_run = ''");
        let mut blocker = server.connect(&url).await;
        let mut locking = blocker.begin().await.unwrap();
        run(&mut locking, "SELECT FROM trust_auth_lease FOR UPDATE".to_owned()).await;
        let lowering = tokio::spawn({
            let feed = feed.clone();
            async move { feed.lower_longest_lease(SHORT).await }
        });
        eventually("the process that settles waits", || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                           AND datname = current_database()";
            server.psql(&url, waiting) == "1"
        })
        .await;
        server.psql(&url, "SELECT pg_current_xact_id(); SELECT pg_current_xact_id()");
        let reached = server.psql(&url, "SELECT pg_current_xact_id()");
        // What another holder's pruning does.
        if kept_from == "0" {
            let pruned = format!("UPDATE trust_auth_lease SET kept_from = '{reached}'");
            run(&mut locking, pruned).await;
        }
        locking.commit().await.unwrap();
        lowering.await.unwrap().unwrap();
        let number = |text: &str| text.parse::<u64>().unwrap();
        let left = number(&server.psql(&url, bound));
        assert!(left >= number(&reached), "{left} is below what was pruned, {reached}");
        assert!(left < 1_000_000_000, "{left} is never reached");
    }
}

/// An application goes on writing while no process holds a lease.
#[tokio::test]
async fn rl5_a_revocation_prunes_where_no_holder_is_registered() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    server.settle_the_run(&url);
    server.psql(&url, "INSERT INTO users SELECT generate_series(1, 100)");
    let mut changer = server.connect(&url).await;
    let records = "SELECT count(*) FROM trust_auth_change WHERE source = '*'";
    assert_eq!(server.psql(&url, records), "100");
    let begun = Instant::now();
    // Transactions of other tests keep the newest records for a while.
    while server.psql(&url, records) != "0" {
        assert!(begun.elapsed() < Duration::from_secs(60), "no revocation prunes");
        let barrier = barrier(&mut changer).await;
        let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
        assert_ne!(settled, Settled::Repeat);
    }
}

#[tokio::test]
async fn rl5_records_that_a_holder_has_yet_to_apply_are_kept() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed, mut session, id) = holder(server).await;
    let (mut other, other_id) = registered(&feed, LONG, "b").await;
    server.psql(&url, &insert_key("k", 1));
    session.renew(id).await.unwrap();
    session.renew(id).await.unwrap();
    session.upkeep().await.unwrap();
    assert!(renewed(&mut other, other_id).await.contains(&user(1)));
}

/// A session that is used after its connection was lost leads to another session of the server, as
/// behind a pooler that exchanges or resets sessions.
#[tokio::test]
async fn rl6_another_session_acknowledges_nothing_and_makes_the_holder_load_again() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    session.renew(id).await.unwrap();
    server.kill_where(&url, "application_name LIKE '% lease'");
    assert!(session.hint().await.is_err());
    let row = "SELECT renewals, applied FROM trust_auth_holder";
    let before = server.psql(&url, row);
    server.psql(&url, &insert_key("k", 1));
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherSession));
    assert_eq!(session.look().await.unwrap(), Answer::Reload(Reload::OtherSession));
    assert_eq!(server.psql(&url, row), before, "the renewal wrote nothing");
}

/// Another client of a pooler in transaction mode may have changed the session.
#[tokio::test]
async fn r15_a_session_that_would_commit_less_durably_gives_no_lease() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    // It runs in the holder's session, during a renewal.
    server.psql(
        &url,
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM set_config('synchronous_commit', 'off', false); RETURN NEW; END $$; \
         CREATE TRIGGER other BEFORE UPDATE ON trust_auth_holder \
             FOR EACH ROW EXECUTE FUNCTION other()",
    );
    session.renew(id).await.unwrap();
    server.psql(&url, "DROP FUNCTION other CASCADE");
    let count = "SELECT renewals FROM trust_auth_holder";
    let before = server.psql(&url, count);
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherSession));
    assert_eq!(server.psql(&url, count), before);
}

#[tokio::test]
async fn r9_a_holder_without_a_session_removes_its_registration() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed, session, id) = holder(server).await;
    drop(session);
    feed.leave(id).await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_holder"), "0");
}

#[tokio::test]
async fn rl28_a_registration_survives_its_session() {
    let Some(server) = PostgresServer::shared() else { return };
    let (_, feed, session, id) = holder(server).await;
    drop(session);
    let mut session = feed.open(LONG).await.unwrap();
    session.load().await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), nothing());
    session.leave(id).await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::Unregistered));
}

/// The holder must give its lease up, whatever else makes it load again.
#[tokio::test]
async fn r9_a_missing_registration_is_reported_before_changed_triggers_and_pruned_records() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    server.psql(&url, "ALTER TABLE users ADD more int");
    server.psql(&url, "UPDATE trust_auth_lease SET kept_from = '9000000000'");
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::Pruned));
    session.leave(id).await.unwrap();
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::Unregistered));
}

#[tokio::test]
async fn rl24_a_silent_holder_is_struck_off_and_its_next_renewal_gives_no_lease() {
    let Some(server) = PostgresServer::shared() else { return };
    let (_, feed) = migrated(server).await;
    let (mut silent, silent_id) = registered(&feed, SHORT, "silent").await;
    let (mut other, other_id) = registered(&feed, SHORT, "other").await;
    silent.renew(silent_id).await.unwrap();
    other.upkeep().await.unwrap();
    assert_eq!(silent.renew(silent_id).await.unwrap(), nothing());
    // The count has moved since: the watch begins again.
    tokio::time::sleep(SHORT).await;
    other.renew(other_id).await.unwrap();
    other.upkeep().await.unwrap();
    assert_eq!(silent.renew(silent_id).await.unwrap(), nothing());
    for _ in 0..2 {
        tokio::time::sleep(SHORT).await;
        other.renew(other_id).await.unwrap();
        other.upkeep().await.unwrap();
    }
    assert_eq!(silent.renew(silent_id).await.unwrap(), Answer::Reload(Reload::Unregistered));
    assert_eq!(other.renew(other_id).await.unwrap(), nothing());
}

/// Each revocation would wait for it.
#[tokio::test]
async fn r13_a_holder_of_a_long_lease_strikes_one_of_a_short_lease_off_as_soon_as_it_is_silent() {
    let Some(server) = PostgresServer::shared() else { return };
    let (_, feed) = migrated(server).await;
    let (mut other, other_id) = registered(&feed, LONG, "other").await;
    other.renew(other_id).await.unwrap();
    other.upkeep().await.unwrap();
    let (mut silent, silent_id) = registered(&feed, SHORT, "silent").await;
    for _ in 0..2 {
        tokio::time::sleep(SHORT).await;
        other.renew(other_id).await.unwrap();
        other.upkeep().await.unwrap();
    }
    assert_eq!(silent.renew(silent_id).await.unwrap(), Answer::Reload(Reload::Unregistered));
}

#[tokio::test]
async fn rl24_striking_off_waits_for_an_open_renewal_and_then_strikes_no_holder_off() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    let (mut slow, slow_id) = registered(&feed, SHORT, "slow").await;
    let mut striker = feed.open(SHORT).await.unwrap();
    striker.upkeep().await.unwrap();
    tokio::time::sleep(SHORT).await;

    // The renewal's update, not committed yet.
    let mut other = server.connect(&url).await;
    let mut renewal = other.begin().await.unwrap();
    renewal.execute("UPDATE trust_auth_holder SET renewals = renewals + 1").await.unwrap();
    let striking = tokio::spawn(async move { striker.upkeep().await });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the striker waits", || server.psql(&url, waiting) == "1").await;
    renewal.commit().await.unwrap();
    striking.await.unwrap().unwrap();
    assert_eq!(slow.renew(slow_id).await.unwrap(), nothing());
}

#[tokio::test]
async fn rl24_a_renewal_that_waited_for_a_strike_off_gives_no_lease() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, mut session, id) = holder(server).await;
    let mut other = server.connect(&url).await;
    let mut strike = other.begin().await.unwrap();
    strike.execute("DELETE FROM trust_auth_holder WHERE renewals = 0").await.unwrap();
    let renewal = tokio::spawn(async move { session.renew(id).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the renewal waits", || server.psql(&url, waiting) == "1").await;
    strike.commit().await.unwrap();
    assert_eq!(renewal.await.unwrap().unwrap(), Answer::Reload(Reload::Unregistered));
}

#[tokio::test]
async fn rl29_a_revocation_returns_when_each_holder_has_acknowledged() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed, mut session, id) = holder(server).await;
    server.settle_the_run(&url);
    let mut changer = server.connect(&url).await;
    let mut change = changer.begin().await.unwrap();
    run(&mut change, insert_key("k", 1)).await;
    let barrier = barrier(&mut change).await;
    change.commit().await.unwrap();

    let settled = tokio::spawn({
        let feed = feed.clone();
        async move { feed.settle(&barrier, Waiting::ForAcknowledgements).await }
    });
    session.hint().await.unwrap();
    assert!(renewed(&mut session, id).await.contains(&user(1)));
    let acknowledged = "SELECT count(*) FROM trust_auth_holder, trust_auth_change \
                        WHERE pg_visible_in_snapshot(xid, applied)";
    assert_eq!(server.psql(&url, acknowledged), "0", "it acknowledges what was applied before");
    assert!(!settled.is_finished());
    session.renew(id).await.unwrap();
    assert_eq!(
        settled.await.unwrap().unwrap(),
        Settled::Everywhere { holders: Some(1), silent: vec![], was_unsettled: false }
    );
}

/// The first attempt was committed and its changer crashed. The second finds nothing to change.
#[tokio::test]
async fn rl27_a_transaction_without_a_change_records_its_barrier_and_waits() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    server.settle_the_run(&url);
    let (_stopped, _) = registered(&feed, SHORT, "stopped").await;
    let mut changer = server.connect(&url).await;
    let barrier = barrier(&mut changer).await;
    let begun = Instant::now();
    let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    let silent = vec!["stopped".to_owned()];
    assert_eq!(settled, Settled::Everywhere { holders: Some(1), silent, was_unsettled: false });
    assert!(begun.elapsed() >= SHORT);
}

/// No holder lives that would strike the registration off. Later revocations do not wait for it.
#[tokio::test]
async fn a_barrier_of_another_version_is_refused_with_what_to_run() {
    let Some(server) = PostgresServer::shared() else { return };
    let (_, feed) = migrated(server).await;
    for text in ["7 1.5/2/3", "7", ""] {
        let error = feed.settle(text, Waiting::default()).await.unwrap_err();
        assert_eq!(error.kind(), "lease_version", "{text}");
        let told = error.to_string();
        assert!(told.contains("update all processes, then let the owner"), "{told}");
        assert!(told.contains("`trust-auth migrate --read-lease`"), "{told}");
    }
}

#[tokio::test]
async fn r13_a_revocation_strikes_off_what_is_left_behind() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    server.settle_the_run(&url);
    drop(registered(&feed, SHORT, "left behind").await);
    let mut changer = server.connect(&url).await;
    let first = barrier(&mut changer).await;
    let begun = Instant::now();
    let settled = feed.settle(&first, Waiting::ForAcknowledgements).await.unwrap();
    let silent = vec!["left behind".to_owned()];
    assert_eq!(settled, Settled::Everywhere { holders: Some(1), silent, was_unsettled: false });
    assert!(begun.elapsed() >= SHORT);
    // On a busy machine the first one may give its watch up before it has concluded.
    while server.psql(&url, "SELECT count(*) FROM trust_auth_holder") != "0" {
        assert!(begun.elapsed() < Duration::from_secs(60), "no revocation strikes off");
        let next = barrier(&mut changer).await;
        let settled = feed.settle(&next, Waiting::ForAcknowledgements).await.unwrap();
        assert_ne!(settled, Settled::Repeat);
    }
    let second = barrier(&mut changer).await;
    let settled = feed.settle(&second, Waiting::ForAcknowledgements).await.unwrap();
    assert_eq!(
        settled,
        Settled::Everywhere { holders: Some(0), silent: vec![], was_unsettled: false }
    );
}

/// The copy has the rows of the lease, and no holder is registered there.
#[tokio::test]
async fn r14_a_copy_of_the_database_is_not_settled() {
    let Some(server) = PostgresServer::start() else { return };
    let (url, changes) = application(&server);
    changes.run_migration().await.unwrap();
    server.settle_the_run(&url);
    let (_, name) = url.rsplit_once('/').unwrap();
    server.psql("postgres", &format!("CREATE DATABASE copied TEMPLATE {name}"));
    let copy = server.url("copied");
    let settled =
        format!("SELECT server_run = {} FROM trust_auth_lease", PostgresServer::LEASE_RUN);
    assert_eq!(server.psql(&copy, &settled), "f");
    let changes = PgChanges::new(postgres_options(&copy)).table("users", |table| table);
    let feed = changes.connect().await.unwrap();
    let mut changer = server.connect(&copy).await;
    let barrier = barrier(&mut changer).await;
    let begun = Instant::now();
    let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    assert_ne!(settled, Settled::Repeat);
    assert!(begun.elapsed() >= SHORT);
}

/// Both were watched. The holders of the one whose name the copy takes are registered there.
#[tokio::test]
async fn r14_a_settled_copy_that_takes_the_name_of_the_database_is_not_settled() {
    let Some(server) = PostgresServer::start() else { return };
    let (live, changes) = application(&server);
    changes.run_migration().await.unwrap();
    let (_, name) = live.rsplit_once('/').unwrap();
    server.psql("postgres", &format!("CREATE DATABASE \"a/b c\" TEMPLATE {name}"));
    let staged = server.url("a%2Fb%20c");
    server.settle_the_run(&staged);
    assert_eq!(changer_settles(&server, &staged).await, nothing_held(false));

    server.psql("postgres", &format!("ALTER DATABASE {name} RENAME TO former"));
    server.psql("postgres", &format!("ALTER DATABASE \"a/b c\" RENAME TO {name}"));
    assert_eq!(changer_settles(&server, &live).await, nothing_held(true));
    assert_eq!(changer_settles(&server, &live).await, nothing_held(false));
}

/// As the databases above.
#[tokio::test]
async fn r14_a_settled_schema_that_takes_the_name_of_the_other_is_not_settled() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, "CREATE SCHEMA staged");
    let of = |schema: &str| format!("{url}?options=-c%20search_path%3D{schema}");
    server.psql(&of("staged"), APPLICATION);
    let changes = |schema| {
        PgChanges::new(postgres_options(&of(schema))).table("users", |t| t.ignore(["note"]))
    };
    changes("staged").run_migration().await.unwrap();
    server.settle_the_run(&of("staged"));
    assert_eq!(changer_settles(server, &of("staged")).await, nothing_held(false));

    server.psql(&url, "ALTER SCHEMA staged RENAME TO live");
    changes("live").run_migration().await.unwrap();
    assert_eq!(changer_settles(server, &of("live")).await, nothing_held(true));
    assert_eq!(changer_settles(server, &of("live")).await, nothing_held(false));

    // Holders may have registered in another schema of this name meanwhile.
    server.psql(&url, "ALTER SCHEMA live RENAME TO away; ALTER SCHEMA away RENAME TO live");
    assert_eq!(changer_settles(server, &of("live")).await, nothing_held(true));
}

async fn changer_settles(server: &PostgresServer, url: &str) -> Settled {
    let changes = PgChanges::new(postgres_options(url)).table("users", |t| t.ignore(["note"]));
    let feed = changes.connect().await.unwrap();
    let mut changer = server.connect(url).await;
    let barrier = barrier(&mut changer).await;
    feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap()
}

fn nothing_held(was_unsettled: bool) -> Settled {
    Settled::Everywhere { holders: Some(0), silent: vec![], was_unsettled }
}

/// Nothing shows which holders were registered when the dump was restored.
#[tokio::test]
async fn r14_a_dump_that_was_restored_in_place_is_not_settled() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, changes) = application(server);
    changes.run_migration().await.unwrap();
    server.settle_the_run(&url);
    let dump = server.dump_with(&url, &["--clean", "--if-exists"]);
    server.psql(&url, &dump);
    let settled =
        format!("SELECT server_run = {} FROM trust_auth_lease", PostgresServer::LEASE_RUN);
    assert_eq!(server.psql(&url, &settled), "f");
    let feed = changes.connect().await.unwrap();
    let mut changer = server.connect(&url).await;
    let barrier = barrier(&mut changer).await;
    let begun = Instant::now();
    let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    assert_ne!(settled, Settled::Repeat);
    assert!(begun.elapsed() >= SHORT);
}

/// The names of the lease's tables lead to others, or a crash or row security hides rows.
#[tokio::test]
async fn a6_tables_of_the_lease_that_hide_a_holder_give_no_lease_and_no_end_of_a_wait() {
    let Some(server) = PostgresServer::shared() else { return };
    for hide in [
        "CREATE SCHEMA app; CREATE TABLE app.trust_auth_holder (LIKE public.trust_auth_holder)",
        "CREATE SCHEMA app; CREATE TABLE app.trust_auth_change (LIKE public.trust_auth_change)",
        "ALTER TABLE trust_auth_holder SET UNLOGGED",
        "ALTER TABLE trust_auth_holder ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    ] {
        let (url, changes) = application(server);
        changes.run_migration().await.unwrap();
        server.settle_the_run(&url);
        // The user of the tests is a superuser, whom row security does not bind.
        let (role, role_url) = server.new_role(&url);
        server.psql(
            &url,
            &format!(
                "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
                 ALTER ROLE {role} SET search_path = app, public"
            ),
        );
        let changes = PgChanges::new(postgres_options(&role_url))
            .table("api_keys", |table| {
                table.key("key_hash").value("user_id").ignore(["last_used_at"])
            })
            .table("users", |table| table.ignore(["note"]));
        let feed = changes.connect().await.unwrap();
        let (mut session, id) = registered(&feed, LONG, "a").await;
        renewed(&mut session, id).await;

        server.psql(&url, hide);
        server.psql(
            &url,
            &format!(
                "DO $$ BEGIN IF to_regnamespace('app') IS NOT NULL THEN \
            GRANT USAGE ON SCHEMA app TO {role}; \
            GRANT ALL ON ALL TABLES IN SCHEMA app TO {role}; END IF; END $$"
            ),
        );
        let mut changer = server.connect(&role_url).await;
        let barrier = barrier(&mut changer).await;
        let begun = Instant::now();
        let error = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap_err();
        assert!(error.to_string().contains("not of one schema"), "{hide}: {error}");
        assert!(begun.elapsed() < LONG, "{hide}: it waits for an error that does not pass");
        assert!(session.upkeep().await.is_err(), "{hide}");
        let mut again = feed.open(LONG).await.unwrap();
        let error = again.load().await.unwrap_err();
        assert!(error.to_string().contains("the tables of the read lease"), "{hide}: {error}");
    }
}

/// The changer's role is the owner, whom row security does not bind.
#[tokio::test]
async fn a6_row_security_that_hides_records_from_a_holder_makes_it_load_again() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, changes) = application(server);
    changes.run_migration().await.unwrap();
    let (role, role_url) = server.new_role(&url);
    server.psql(&url, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"));
    let changes =
        PgChanges::new(postgres_options(&role_url)).table("users", |t| t.ignore(["note"]));
    let feed = changes.connect().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    renewed(&mut session, id).await;
    server.psql(&url, "ALTER TABLE trust_auth_change ENABLE ROW LEVEL SECURITY");
    server.psql(&url, "INSERT INTO users VALUES (1)");
    assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
}

/// The lease's tables are in the first schema of the path, and the watched table in another.
#[tokio::test]
async fn a_table_in_another_schema_of_the_path_is_migrated() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = application(server);
    server.psql(&url, "CREATE SCHEMA app");
    let path = format!("{url}?options=-c%20search_path%3Dapp,public");
    let changes = PgChanges::new(postgres_options(&path)).table("users", |t| t.ignore(["note"]));
    changes.run_migration().await.unwrap();
    let feed = changes.connect().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    server.psql(&url, "INSERT INTO users VALUES (1)");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
    assert_eq!(server.psql(&url, "SELECT count(*) FROM app.trust_auth_holder"), "1");
}

/// The function of the barrier has the name of its schema: it would write to another one.
#[tokio::test]
async fn a6_a_schema_that_was_renamed_needs_the_migration() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, "CREATE SCHEMA app");
    let path = format!("{url}?options=-c%20search_path%3Dapp2,app");
    server.psql(&path, APPLICATION);
    let changes = PgChanges::new(postgres_options(&path)).table("users", |t| t.ignore(["note"]));
    changes.run_migration().await.unwrap();
    let feed = changes.connect().await.unwrap();
    drop(registered(&feed, LONG, "a").await);
    server.psql(&url, "ALTER SCHEMA app RENAME TO app2");
    let error = feed.open(LONG).await.unwrap().load().await.unwrap_err();
    assert!(error.to_string().contains("the tables of the read lease"), "{error}");
    changes.run_migration().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    server.psql(&path, "INSERT INTO users VALUES (1)");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
    assert_ne!(server.psql(&path, "SELECT trust_auth_barrier()"), "");
}

/// A dump of an older cluster: its bound is above each id of this one, so no renewal would count.
#[tokio::test]
async fn rl5_a_holder_lowers_a_bound_of_another_cluster() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, changes) = application(server);
    changes.run_migration().await.unwrap();
    server.psql(&url, "UPDATE trust_auth_lease SET kept_from = '1000000000'");
    let feed = changes.connect().await.unwrap();
    let (mut session, id) = registered(&feed, LONG, "a").await;
    server.psql(&url, "INSERT INTO users VALUES (1)");
    assert_eq!(renewed(&mut session, id).await, [Ended::Everything]);
}

/// Many revocations that wait at once use the connections of the pool, and one more.
#[tokio::test]
async fn r14_one_of_the_revocations_that_wait_watches_the_run() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    drop(feed.open(Duration::from_secs(1)).await.unwrap());
    let mut changer = server.connect(&url).await;
    let barrier = barrier(&mut changer).await;
    let waits: Vec<_> = (0..20)
        .map(|_| {
            let (feed, barrier) = (feed.clone(), barrier.clone());
            tokio::spawn(async move { feed.settle(&barrier, Waiting::ForAcknowledgements).await })
        })
        .collect();
    let mut most = 0;
    while !waits.iter().all(tokio::task::JoinHandle::is_finished) {
        let open = server.psql(
            &url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid()",
        );
        most = most.max(open.parse::<usize>().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for wait in waits {
        assert!(matches!(wait.await.unwrap().unwrap(), Settled::Everywhere { .. }));
    }
    assert!(most <= 10, "{most} connections");
}

/// An application has left a transaction open on a connection of its pool.
#[tokio::test]
async fn rl29_an_inquiry_that_does_not_show_the_barrier_ends_no_wait() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store, _) = trusts::trusts(server).await;
    server.settle_the_run(&url);
    let options = sqlx::postgres::PgConnectOptions::from_str(&url).unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options);
    let pool = pool.await.unwrap();
    let over = PostgresStore::over(pool.clone()).connect().await.unwrap();
    let mut left = pool.acquire().await.unwrap();
    left.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    left.execute("SELECT FROM trust").await.unwrap();
    drop(left);

    let (_session, _) = registered(&store.feed(), SHORT, "later").await;
    let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
    let change = store.set_enabled(&trust.id.into(), false).await.unwrap();
    let settled = over.settle(&change.barrier.unwrap(), Waiting::ForAcknowledgements).await;
    let silent = vec!["later".to_owned()];
    let end = Settled::Everywhere { holders: Some(1), silent, was_unsettled: false };
    assert_eq!(settled.unwrap(), end);
}

#[tokio::test]
async fn rl15_without_acknowledgements_a_revocation_waits_out_the_longest_lease() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    server.settle_the_run(&url);
    let mut changer = server.connect(&url).await;
    let barrier = barrier(&mut changer).await;
    let begun = Instant::now();
    let settled = feed.settle(&barrier, Waiting::OutTheLease).await.unwrap();
    assert_eq!(
        settled,
        Settled::Everywhere { holders: Some(0), silent: vec![], was_unsettled: false }
    );
    assert!(begun.elapsed() >= SHORT);
    let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    assert_eq!(
        settled,
        Settled::Everywhere { holders: Some(0), silent: vec![], was_unsettled: false }
    );
}

#[tokio::test]
async fn rl25_the_first_revocation_of_a_run_waits_out_the_longest_lease_and_settles_the_run() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    let mut changer = server.connect(&url).await;
    for was_unsettled in [true, false] {
        let barrier = barrier(&mut changer).await;
        let begun = Instant::now();
        let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
        assert!(begun.elapsed() >= SHORT || !was_unsettled, "{settled:?}");
        match settled {
            // The inquiry after the wait finds the run settled.
            Settled::Everywhere { holders: Some(0), silent, .. } => assert!(silent.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    let run = PostgresServer::LEASE_RUN;
    let settled = format!("SELECT server_run = {run} FROM trust_auth_lease");
    assert_eq!(server.psql(&url, &settled), "t");
}

#[tokio::test]
async fn rl16_a_longer_lease_raises_the_bound_before_it_is_used() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    let bound = "SELECT max_lease_ms FROM trust_auth_lease";
    assert_eq!(server.psql(&url, bound), "300");
    let _session = feed.open(Duration::from_secs(20)).await.unwrap();
    assert_eq!(server.psql(&url, bound), "20000");
    let _session = feed.open(Duration::from_secs(10)).await.unwrap();
    assert_eq!(server.psql(&url, bound), "20000");
    let error = feed.open(Duration::from_secs(301)).await.err().unwrap();
    assert!(error.to_string().contains("at most 300 s"), "{error}");
}

#[tokio::test]
async fn rl16_the_bound_is_lowered_only_where_no_lease_in_force_is_longer() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed, mut session, id) = holder(server).await;
    let bound = "SELECT max_lease_ms FROM trust_auth_lease";
    let second = Duration::from_secs(1);
    server.settle_the_run(&url);
    let begun = Instant::now();
    let lowering = tokio::spawn({
        let feed = feed.clone();
        async move { feed.lower_longest_lease(second).await }
    });
    while !lowering.is_finished() {
        session.renew(id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = lowering.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the holders a have a longer lease"), "{error}");
    assert!(begun.elapsed() < LONG, "it waits for a lease that is renewed");
    assert_eq!(server.psql(&url, bound), "300000");

    session.leave(id).await.unwrap();
    feed.lower_longest_lease(second).await.unwrap();
    assert_eq!(server.psql(&url, bound), "1000");
    // The session has raised the bound before it was lowered.
    let error = session.register("late").await.unwrap_err();
    assert!(error.to_string().contains("lowered meanwhile"), "{error}");
    registered(&feed, LONG, "again").await;
    assert_eq!(server.psql(&url, bound), "300000");
}

/// No holder runs: the lowering itself settles the run, and strikes off what is left behind.
#[tokio::test]
async fn rl16_the_bound_is_lowered_after_the_last_lease_of_an_unsettled_run() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, feed) = migrated(server).await;
    let second = Duration::from_secs(1);
    drop(registered(&feed, second, "left behind").await);
    let begun = Instant::now();
    feed.lower_longest_lease(SHORT).await.unwrap();
    assert!(begun.elapsed() >= second);
    assert_eq!(server.psql(&url, "SELECT max_lease_ms FROM trust_auth_lease"), "300");
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_auth_holder"), "0");
}

/// A crash of one session's process makes the server recover within one run. Other programs'
/// asynchronous commits are lost.
#[tokio::test]
async fn rl23_a_crash_within_a_run_loses_no_registration_and_no_renewal() {
    let settings = |_: &PostgresServer| {
        "-c synchronous_commit=off -c wal_writer_delay=10000 -c restart_after_crash=on".to_owned()
    };
    let Some(server) = PostgresServer::start_with(settings) else { return };
    let (url, _feed, mut session, id) = holder(&server).await;
    let state = "SELECT extract(epoch FROM pg_postmaster_start_time()), renewals, applied \
                 FROM trust_auth_holder";
    server.psql(&url, "INSERT INTO users VALUES (1)");
    session.renew(id).await.unwrap();
    session.renew(id).await.unwrap();
    let before = server.psql(&url, state);
    let pid = server.psql(&url, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'WITH me%'");
    assert!(server.command("kill").args(["-9", &pid]).status().unwrap().success());
    while session.hint().await.is_ok() {}
    let mut connected = Err(StoreError::Unreachable);
    while connected.is_err() {
        connected = postgres_options(&url).connect().await.map(drop);
    }
    assert_eq!(server.psql(&url, state), before);
}

/// The barrier is not of the schema in which the holders of the changed table are registered. They
/// would not be waited for.
#[tokio::test]
async fn r11_the_barrier_of_another_schema_is_refused_and_its_transaction_with_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = migrated(server).await;
    server.psql(&url, "CREATE SCHEMA \"O'Neil, X\"; CREATE TABLE \"O'Neil, X\".things (id int)");
    let at = |path: &str| format!("{url}?options=-c%20search_path%3D{path}");
    let own = "\"O'Neil,\\ X\"";
    let changes = PgChanges::new(postgres_options(&at(own))).table("things", |table| table);
    changes.run_migration().await.unwrap();
    let mut changer = server.connect(&at(&format!("{own},public"))).await;

    let mut transaction = changer.begin().await.unwrap();
    run(&mut transaction, insert_key("k", 1)).await;
    let query = sqlx::query("SELECT trust_auth_barrier()").execute(&mut *transaction).await;
    let error = query.unwrap_err();
    let error = error.as_database_error().unwrap();
    assert_eq!(error.code().unwrap(), "TA001");
    assert!(error.message().contains("in the schema \"O'Neil, X\""), "{error}");
    assert!(error.message().ends_with("whose read lease is in public"), "{error}");
    transaction.rollback().await.unwrap();

    // Nothing of it is left in the session, whichever way a change or its savepoint ended.
    barrier(&mut changer).await;
    run(&mut changer, insert_key("k", 1)).await;
    barrier(&mut changer).await;
    let mut transaction = changer.begin().await.unwrap();
    run(&mut transaction, "SAVEPOINT a; DELETE FROM api_keys; ROLLBACK TO a".into()).await;
    run(&mut transaction, "INSERT INTO things VALUES (1), (2)".into()).await;
    barrier(&mut transaction).await;
    transaction.commit().await.unwrap();

    // The barrier of the schema, and those of both.
    let mut transaction = changer.begin().await.unwrap();
    run(&mut transaction, "DELETE FROM api_keys; SELECT public.trust_auth_barrier()".into()).await;
    run(&mut transaction, "INSERT INTO things VALUES (3)".into()).await;
    let query = "SELECT public.trust_auth_barrier()";
    let error = sqlx::query(query).execute(&mut *transaction).await.unwrap_err();
    assert!(error.to_string().contains("is in public, \"O'Neil, X\""), "{error}");
    transaction.rollback().await.unwrap();
    let mut transaction = changer.begin().await.unwrap();
    run(&mut transaction, "TRUNCATE things; TRUNCATE users".into()).await;
    for schema in ["public", "\"O'Neil, X\""] {
        let sql = "SET LOCAL trust_auth.recorded TO ''; SELECT";
        run(&mut transaction, format!("{sql} {schema}.trust_auth_barrier()")).await;
    }
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_transaction_with_a_barrier_is_on_disk_when_its_commit_returns() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _feed, _session, _id) = holder(server).await;
    let setting = "SHOW synchronous_commit";
    let sql = format!(
        "SET synchronous_commit = off; BEGIN; SELECT trust_auth_barrier() <> ''; {setting}; \
         COMMIT; {setting}"
    );
    assert_eq!(server.psql(&url, &sql), "t\nlocal\noff");
    let sql = format!("BEGIN; SELECT trust_auth_barrier(false) <> ''; {setting}; COMMIT");
    assert_eq!(server.psql(&url, &sql), "t\non");
}

#[tokio::test]
async fn a_restart_of_the_server_repeats_the_revocation() {
    let Some(server) = PostgresServer::start() else { return };
    let (url, feed, session, _) = holder(&server).await;
    server.settle_the_run(&url);
    let mut changer = server.connect(&url).await;
    let barrier = barrier(&mut changer).await;
    drop((changer, session));
    server.stop();
    server.start_again();
    let settled = feed.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    assert_eq!(settled, Settled::Repeat);
}

#[tokio::test]
async fn a_hot_standby_gives_no_lease() {
    let Some(server) = PostgresServer::start() else { return };
    let (url, changes) = application(&server);
    changes.run_migration().await.unwrap();
    let replica = server.replica();
    let database = url.rsplit('/').next().unwrap();
    let changes = PgChanges::new(postgres_options(&replica.url(database)))
        .table("users", |table| table.ignore(["note"]));
    let error = changes.connect().await.unwrap().open(LONG).await.err().unwrap();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
}

/// The promoted standby lacks the last transactions, and gives their ids out again. A snapshot of
/// the old primary shows such an id as committed.
#[tokio::test]
async fn rl6_a_promoted_standby_that_reuses_ids_gives_no_difference_and_is_not_settled() {
    let Some(server) = PostgresServer::start() else { return };
    let (url, changes) = application(&server);
    changes.run_migration().await.unwrap();
    server.settle_the_run(&url);
    let replica = server.replica();
    let database = url.rsplit('/').next().unwrap().to_owned();
    let new_url = replica.url(&database);
    eventually("the replica has the tables", || {
        replica.psql(&new_url, "SELECT count(*) FROM trust_auth_lease WHERE server_run <> ''")
            == "1"
    })
    .await;
    replica.stop();

    // The replica receives none of these.
    for number in 0..20 {
        server.psql(&url, &format!("INSERT INTO users VALUES ({number})"));
    }
    let old = changes.connect().await.unwrap();
    let (mut session, id) = registered(&old, LONG, "a").await;
    session.renew(id).await.unwrap();
    session.renew(id).await.unwrap();
    let applied = server.psql(&url, "SELECT applied FROM trust_auth_holder");
    server.stop();
    replica.start_again();
    replica.promote();
    eventually("it is promoted", || replica.psql(&new_url, "SELECT pg_is_in_recovery()") == "f")
        .await;

    let mut changer = replica.connect(&new_url).await;
    let mut change = changer.begin().await.unwrap();
    run(&mut change, insert_key("revoked", 1)).await;
    let barrier = barrier(&mut change).await;
    change.commit().await.unwrap();
    let (xid, _) = barrier.split_once(' ').unwrap();
    let seen = format!("SELECT pg_visible_in_snapshot('{xid}', '{applied}')");
    assert_eq!(replica.psql(&new_url, &seen), "t", "the id was not given out again");
    let holders = replica.psql(&new_url, "SELECT count(*) FROM trust_auth_holder");
    assert_eq!(holders, "0", "the standby lacks the registration");

    // No holder is registered, and yet the changer waits.
    let new = PgChanges::new(postgres_options(&new_url))
        .table("api_keys", |table| table.key("key_hash").value("user_id").ignore(["last_used_at"]))
        .table("users", |table| table.ignore(["note"]));
    let new = new.connect().await.unwrap();
    let begun = Instant::now();
    let settled = new.settle(&barrier, Waiting::ForAcknowledgements).await.unwrap();
    assert!(begun.elapsed() >= SHORT, "{settled:?}");
    assert!(session.hint().await.is_err());
}

mod trusts {
    //! The table `trust`, whose rows a difference contains.

    use super::*;

    /// The triggers are on the first one, and a difference would read the second.
    #[tokio::test]
    async fn rl10_a_second_table_earlier_in_the_path_makes_the_holder_load_again() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, ..) = trusts(server).await;
        server.psql(&url, "CREATE SCHEMA app");
        let path = format!("{url}?options=-c%20search_path%3Dapp,public");
        let feed = PgChanges::trusts(postgres_options(&path)).connect().await.unwrap();
        let (mut session, id) = registered(&feed, LONG, "a").await;
        assert_eq!(renewed(&mut session, id).await, []);
        server.psql(&url, "CREATE TABLE app.trust (LIKE public.trust)");
        assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
        let error = session.load().await.unwrap_err();
        assert!(error.to_string().contains("triggers on the table `trust`"), "{error}");
    }

    pub(crate) async fn trusts(server: &PostgresServer) -> (String, PostgresStore, PgFeed) {
        let url = server.new_database();
        let store = postgres_options(&url).connect().await.unwrap();
        let changes = PgChanges::trusts(postgres_options(&url));
        changes.run_migration().await.unwrap();
        (url, store, changes.connect().await.unwrap())
    }

    /// The holder would have the rows of the second table, and watch the first one.
    #[tokio::test]
    async fn rl2_tables_that_are_exchanged_while_a_holder_loads_are_loaded_from_neither_or_one() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, feed) = trusts(server).await;
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(
            &url,
            "CREATE TABLE other (LIKE trust INCLUDING ALL); INSERT INTO other SELECT * FROM trust; \
             UPDATE other SET name = 'b'",
        );
        let mut session = feed.open(LONG).await.unwrap();

        let mut other = server.connect(&url).await;
        let mut exchange = other.begin().await.unwrap();
        exchange.execute("LOCK TABLE trust").await.unwrap();
        let load = tokio::spawn(async move { (session.load().await, session) });
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("the load waits", || server.psql(&url, waiting) == "1").await;
        let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to};");
        let there = [rename("trust", "away"), rename("other", "trust")].concat();
        exchange.execute(sqlx::AssertSqlSafe(there)).await.unwrap();
        exchange.commit().await.unwrap();
        let (loaded, mut session) = load.await.unwrap();
        // After an error the session is dropped, as a holder does.
        let Ok(rows) = loaded else { return };
        server.psql(&url, &[rename("trust", "other"), rename("away", "trust")].concat());
        if let Answer::Difference(_) = session.look().await.unwrap() {
            assert_eq!(rows, [trust]);
        }
    }

    /// The holder would have the rows of the first table, and each change would be in the second.
    #[tokio::test]
    async fn rl2_a_table_that_takes_the_name_while_a_holder_loads_makes_it_load_again() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(&url, "CREATE SCHEMA app; CREATE TABLE app.other (LIKE trust)");
        let path = format!("{url}?options=-c%20search_path%3Dapp,public");
        let feed = PgChanges::trusts(postgres_options(&path)).connect().await.unwrap();
        let mut session = feed.open(LONG).await.unwrap();
        assert_eq!(session.load().await.unwrap(), std::slice::from_ref(&trust));

        // The load waits after it has found `trust`: it looks for its triggers.
        let mut other = server.connect(&url).await;
        let mut exchange = other.begin().await.unwrap();
        exchange.execute("LOCK TABLE pg_trigger").await.unwrap();
        let load = tokio::spawn(async move { (session.load().await, session) });
        let waiting = "SELECT count(*) FROM pg_locks \
                       WHERE relation = 'pg_trigger'::regclass AND NOT granted";
        eventually("the load waits", || server.psql(&url, waiting) == "1").await;
        exchange.execute("ALTER TABLE app.other RENAME TO trust").await.unwrap();
        exchange.commit().await.unwrap();
        let (loaded, mut session) = load.await.unwrap();
        if let Ok(rows) = loaded {
            let id = session.register("a").await.unwrap();
            let answer = session.renew(id).await.unwrap();
            assert_eq!(answer, Answer::Reload(Reload::OtherTriggers), "{rows:?}");
        }
    }

    /// An application's own table `trust`, with other ids, next to trusts of another name.
    #[tokio::test]
    async fn a_record_that_names_no_trust_ends_everything() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, _, feed) = trusts(server).await;
        let (mut session, id) = registered(&feed, LONG, "a").await;
        for value in ["42", "", "not-a-uuid"] {
            let sql =
                format!("INSERT INTO trust_auth_change VALUES (DEFAULT, 'trust.id', '{value}')");
            server.psql(&url, &sql);
            assert_eq!(renewed(&mut session, id).await, [Ended::Everything], "{value:?}");
        }
    }

    /// The first table comes back earlier in the path, when the load has read the second one.
    #[tokio::test]
    async fn rl2_a_load_that_has_read_another_table_than_it_checked_is_refused() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(&url, "CREATE SCHEMA app; CREATE TABLE other (LIKE trust)");
        let path = format!("{url}?options=-c%20search_path%3Dapp,public");
        let feed = PgChanges::trusts(postgres_options(&path)).connect().await.unwrap();
        let mut session = feed.open(LONG).await.unwrap();
        let mut first = server.connect(&url).await;
        let mut second = server.connect(&url).await;

        first.execute("BEGIN; LOCK TABLE trust").await.unwrap();
        let load = tokio::spawn(async move { session.load().await });
        blocked(&mut second, "trust").await;
        // The load looks at this table after it has read the rows, and not before.
        second.execute("BEGIN; LOCK TABLE pg_database").await.unwrap();
        let exchange =
            "ALTER TABLE trust RENAME TO away; ALTER TABLE other RENAME TO trust; COMMIT";
        first.execute(exchange).await.unwrap();
        blocked(&mut first, "pg_database").await;
        let back = "ALTER TABLE away SET SCHEMA app; ALTER TABLE app.away RENAME TO trust";
        first.execute(back).await.unwrap();
        second.execute("COMMIT").await.unwrap();
        let refused = load.await.unwrap();
        assert!(matches!(refused, Err(StoreError::Unsettled)), "{refused:?}");
    }

    /// Waits until a statement waits for a table. Opens no connection.
    async fn blocked(connection: &mut PgConnection, table: &str) {
        let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass \
                   AND NOT granted AND database IN (0, (SELECT database FROM pg_locks \
                       WHERE pid = pg_backend_pid() AND database > 0 LIMIT 1)))";
        for _ in 0..6_000 {
            if sqlx::query_scalar(sql).bind(table).fetch_one(&mut *connection).await.unwrap() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no statement waits for {table}");
    }

    /// The rows of a child are read with those of the table, and their changes fire no trigger.
    #[tokio::test]
    async fn rl2_a_child_that_is_gone_again_makes_a_holder_load_again() {
        let Some(server) = PostgresServer::shared() else { return };
        for table in ["trust", "trust_key"] {
            let (url, _, feed) = trusts(server).await;
            let (mut session, id) = registered(&feed, LONG, "a").await;
            let make = format!("CREATE TABLE child () INHERITS ({table})");
            let analyze = format!("ANALYZE {table}");
            for sql in [&make, "DROP TABLE child", &analyze] {
                server.psql(&url, sql);
            }
            let answer = session.renew(id).await.unwrap();
            assert_eq!(answer, Answer::Reload(Reload::OtherTriggers), "{table}");
            session.load().await.unwrap();
            assert_eq!(session.renew(id).await.unwrap(), nothing());

            // The next child would leave no trace.
            for sql in [&make, "DROP TABLE child"] {
                server.psql(&url, sql);
            }
            let error = session.load().await.unwrap_err().to_string();
            assert!(error.contains("had tables that inherit from it"), "{error}");
        }
    }

    /// An application's own table, with a quoted name and without the optional columns.
    #[tokio::test]
    async fn rl10_a_difference_has_the_rows_of_tables_of_other_names() {
        let Some(server) = PostgresServer::shared() else { return };
        let url = server.new_database();
        server.psql(
            &url,
            "CREATE TABLE \"order\" (uid uuid PRIMARY KEY, email text NOT NULL UNIQUE, \
             key_sha256 text, made_at timestamptz NOT NULL DEFAULT now(), gone_at timestamptz, \
             visits int NOT NULL DEFAULT 0)",
        );
        let names = TableNames::default()
            .table("order")
            .key_table("Order keys")
            .column(TrustColumn::Id, "uid")
            .column(TrustColumn::Name, "email")
            .column(TrustColumn::ApiKeyHash, "key_sha256")
            .column(TrustColumn::CreatedAt, "made_at")
            .column(TrustColumn::DisabledAt, "gone_at")
            .without(TrustColumn::Code)
            .without(TrustColumn::Region)
            .without(TrustColumn::LastHeartbeat)
            .without(TrustColumn::Attributes);
        let options = postgres_options(&url).names(names);
        options.run_migration().await.unwrap();
        let changes = PgChanges::trusts(options.clone());
        changes.run_migration().await.unwrap();
        assert!(changes.plan_migration().await.unwrap().is_empty());
        let store = options.connect().await.unwrap();
        server.settle_the_run(&url);

        let mut session = store.feed().open(LONG).await.unwrap();
        let a = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        assert_eq!(session.load().await.unwrap(), std::slice::from_ref(&a));
        let id = session.register("holder").await.unwrap();
        assert_eq!(session.renew(id).await.unwrap(), nothing());

        let key = store.add_key(&by_name("a"), KeyHash::of("b").into()).await.unwrap();
        let found = renewed(&mut session, id).await;
        let [Ended::Trust { id: changed, row: Some(row) }] = &*found else { panic!("{found:?}") };
        assert_eq!((changed, &row.keys[..]), (&a.id, std::slice::from_ref(&key)));
        let change = store.revoke_key(key.id).await.unwrap();
        let barrier = change.barrier.unwrap();
        let settle = store.settle(&barrier, Waiting::ForAcknowledgements);
        let (settled, found) = tokio::join!(settle, async {
            let found = renewed(&mut session, id).await;
            // Acknowledges what the former one has applied.
            assert_eq!(session.renew(id).await.unwrap(), nothing());
            found
        });
        assert_eq!(found, [Ended::Trust { id: a.id, row: Some(a.clone()) }]);
        let acknowledged =
            Settled::Everywhere { holders: Some(1), silent: Vec::new(), was_unsettled: false };
        assert_eq!(settled.unwrap(), acknowledged);

        server.psql(&url, "UPDATE \"order\" SET visits = visits + 1");
        assert_eq!(session.renew(id).await.unwrap(), nothing());
        server.psql(&url, "UPDATE \"order\" SET gone_at = now()");
        let gone = [Ended::Trust { id: a.id, row: None }];
        assert_eq!(ended(session.look().await.unwrap()), gone);
        assert_eq!(session.renew(id).await.unwrap(), nothing());
        server.psql(&url, "ALTER TABLE \"order\" DISABLE TRIGGER USER");
        assert_eq!(session.renew(id).await.unwrap(), Answer::Reload(Reload::OtherTriggers));
    }

    #[tokio::test]
    async fn rl10_a_difference_has_the_present_rows_of_the_trusts_that_changed() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, feed) = trusts(server).await;
        let new = |name: &str| (NewTrust::new(name).unwrap(), KeyHash::of(name));
        let (trust, hash) = new("a");
        let a = store.insert(trust, hash).await.unwrap();

        let mut session = feed.open(LONG).await.unwrap();
        assert_eq!(session.load().await.unwrap(), std::slice::from_ref(&a));
        let id = session.register("holder").await.unwrap();
        assert_eq!(session.renew(id).await.unwrap(), nothing());

        let (trust, hash) = new("b");
        let b = store.insert(trust, hash).await.unwrap();
        let row = Some(b.clone());
        assert_eq!(renewed(&mut session, id).await, [Ended::Trust { id: b.id, row }]);

        store.set_enabled(&by_name("b"), false).await.unwrap();
        let gone = Ended::Trust { id: b.id, row: None };
        assert_eq!(ended(session.look().await.unwrap()), std::slice::from_ref(&gone));
        store.set_enabled(&by_name("b"), true).await.unwrap();
        let row = Some(b.clone());
        assert_eq!(renewed(&mut session, id).await, [Ended::Trust { id: b.id, row }]);
        store.delete(&by_name("b")).await.unwrap();
        assert_eq!(renewed(&mut session, id).await, [gone]);

        server.psql(&url, "UPDATE trust SET last_heartbeat = now()");
        let answer = session.renew(id).await.unwrap();
        let Answer::Difference(difference) = answer else { panic!("{answer:?}") };
        assert_eq!(difference.ended, []);
        server.psql(&url, "UPDATE trust SET name = 'c'");
        let found = renewed(&mut session, id).await;
        let [Ended::Trust { row: Some(row), .. }] = &*found else { panic!("{found:?}") };
        assert_eq!((&*row.name, row.id), ("c", a.id));
    }

    /// Also the second disabling, which finds nothing to change: the first changer may have crashed
    /// between its commit and its wait.
    #[tokio::test]
    async fn rl27_each_revocation_has_a_barrier_and_a_later_one_stands_for_it() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, feed) = trusts(server).await;
        server.settle_the_run(&url);
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        let mut session = feed.open(LONG).await.unwrap();
        session.load().await.unwrap();
        let id = session.register("holder").await.unwrap();

        let which = by_name("a");
        let mut barriers = vec![
            store.replace_hash(&which, KeyHash::of("b")).await.unwrap().barrier.unwrap(),
            store.set_enabled(&which, false).await.unwrap().barrier.unwrap(),
            store.set_enabled(&which, false).await.unwrap().barrier.unwrap(),
            store.delete(&which).await.unwrap().barrier.unwrap(),
        ];
        let again = store.delete(&which).await.unwrap_err();
        assert!(matches!(again, StoreError::NoSuchTrust { .. }), "{again}");
        barriers.push(store.barrier().await.unwrap().unwrap());
        barriers.sort();
        barriers.dedup();
        assert_eq!(barriers.len(), 5, "each transaction has its own");

        let settling: Vec<_> = barriers
            .into_iter()
            .map(|barrier| {
                let store = store.clone();
                tokio::spawn(async move {
                    TrustLedger::settle(&store, &barrier, Waiting::default()).await
                })
            })
            .collect();
        let found = renewed(&mut session, id).await;
        assert_eq!(found, [Ended::Trust { id: trust.id, row: None }]);
        assert!(settling.iter().all(|settling| !settling.is_finished()));
        session.renew(id).await.unwrap();
        for settled in settling {
            assert_eq!(
                settled.await.unwrap().unwrap(),
                Settled::Everywhere { holders: Some(1), silent: vec![], was_unsettled: false }
            );
        }
    }

    /// The lease is installed between the beginning of the change and its write.
    #[tokio::test]
    async fn a_change_that_began_before_the_lease_was_installed_has_a_barrier() {
        let Some(server) = PostgresServer::shared() else { return };
        let url = server.new_database();
        let store = Arc::new(postgres_options(&url).connect().await.unwrap());
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        let mut other = PgConnection::connect(&url).await.unwrap();
        run(&mut other, "BEGIN; SELECT FROM trust FOR UPDATE".into()).await;
        let changing = Arc::clone(&store);
        let changing =
            tokio::spawn(async move { changing.set_enabled(&by_name("a"), false).await });
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("the change waits", || server.psql(&url, waits).trim() == "1").await;
        PgChanges::trusts(postgres_options(&url)).run_migration().await.unwrap();
        run(&mut other, "ROLLBACK".into()).await;
        assert!(changing.await.unwrap().unwrap().barrier.is_some());
    }

    /// Without the error, the change would wait for no holder.
    #[tokio::test]
    async fn a_role_that_does_not_find_the_barrier_changes_nothing() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(&url, "CREATE SCHEMA app; ALTER FUNCTION trust_auth_barrier SET SCHEMA app");
        for refused in [
            store.set_enabled(&by_name("a"), false).await.map(drop),
            store.delete(&by_name("a")).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, StoreError::Schema { .. }), "{error}");
        }
        assert_eq!(store.list().await.unwrap(), [trust]);
        let missing = store.barrier().await.unwrap_err();
        assert!(missing.to_string().contains("search_path"), "{missing}");
    }

    /// Its barrier would be that of other holders, and the change would return at once.
    #[tokio::test]
    async fn a_role_that_finds_the_barrier_of_another_schema_changes_nothing() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(
            &url,
            "CREATE SCHEMA app; CREATE FUNCTION app.trust_auth_barrier(hint bool DEFAULT true) \
             RETURNS text LANGUAGE sql AS $$ SELECT '1 1' $$",
        );
        let elsewhere = format!("{url}?options[search_path]=app,public");
        let elsewhere = postgres_options(&elsewhere).connect().await.unwrap();
        let error = elsewhere.set_enabled(&by_name("a"), false).await.unwrap_err();
        assert!(matches!(error, StoreError::Schema { .. }), "{error}");
        assert_eq!(store.list().await.unwrap(), [trust]);
        assert!(store.set_enabled(&by_name("a"), false).await.unwrap().barrier.is_some());
    }

    /// The holders of the other lease follow by themselves. The key must be revoked all the same.
    #[tokio::test]
    async fn a_trigger_on_the_trusts_that_changes_a_table_of_another_lease_stops_no_revocation() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        server.psql(&url, "CREATE SCHEMA app; CREATE TABLE app.things (id uuid)");
        let app = format!("{url}?options=-c%20search_path%3Dapp");
        let changes = PgChanges::new(postgres_options(&app)).table("things", |table| table);
        changes.run_migration().await.unwrap();
        server.psql(
            &url,
            "CREATE FUNCTION app.copy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
                 INSERT INTO app.things VALUES (NEW.id); RETURN NULL; END'; \
             CREATE TRIGGER copy AFTER UPDATE ON trust FOR EACH ROW EXECUTE FUNCTION app.copy()",
        );
        let change = store.set_enabled(&by_name("a"), false).await.unwrap();
        assert!(change.barrier.is_some());
        assert_eq!(server.psql(&url, "SELECT count(*) FROM app.trust_auth_change"), "1");
    }

    #[tokio::test]
    async fn without_the_tables_of_the_lease_a_change_has_no_barrier() {
        let Some(server) = PostgresServer::shared() else { return };
        let store = postgres_options(&server.new_database()).connect().await.unwrap();
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        let change = store.set_enabled(&by_name("a"), false).await.unwrap();
        assert_eq!(change.barrier, None);
        assert_eq!(store.barrier().await.unwrap(), None);
    }

    /// A changer whose search_path leads to the table finds the lease's tables, too.
    #[tokio::test]
    async fn the_tables_of_the_lease_are_in_the_schema_of_the_table() {
        let Some(server) = PostgresServer::shared() else { return };
        let url = server.new_database();
        let store = postgres_options(&url).connect().await.unwrap();
        server.psql(&url, "CREATE SCHEMA other; CREATE SCHEMA first");
        let elsewhere = format!("{url}?options[search_path]=first,public");
        PgChanges::trusts(postgres_options(&elsewhere)).run_migration().await.unwrap();
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        assert!(store.set_enabled(&by_name("a"), false).await.unwrap().barrier.is_some());
    }

    #[tokio::test]
    async fn a_role_that_may_not_write_the_barrier_is_told_which_rights_it_lacks() {
        let Some(server) = PostgresServer::shared() else { return };
        let (url, store, _) = trusts(server).await;
        store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
        let (role, role_url) = server.new_role(&url);
        server.psql(
            &url,
            &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO {role}"),
        );
        let limited = postgres_options(&role_url).connect().await.unwrap();
        let error = limited.set_enabled(&by_name("a"), false).await.unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, StoreError::MissingRight { .. }), "{told}");
        assert!(told.contains("`trust_auth_change`"), "{told}");
        assert!(store.list().await.unwrap()[0].is_enabled());
        server.psql(
            &url,
            &format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON \
                 trust_auth_lease, trust_auth_change, trust_auth_holder TO {role}"
            ),
        );
        assert!(limited.set_enabled(&by_name("a"), false).await.unwrap().barrier.is_some());
        let feed = limited.feed();
        let mut session = feed.open(SHORT).await.unwrap();
        session.load().await.unwrap();
        let id = session.register("limited").await.unwrap();
        session.renew(id).await.unwrap();
        session.upkeep().await.unwrap();
        session.leave(id).await.unwrap();
    }
}
