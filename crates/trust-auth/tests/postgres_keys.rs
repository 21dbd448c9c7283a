//! The table `trust_key` on PostgreSQL: what a holder of a read lease and a watcher learn of
//! changes that `psql` makes, and which changes of the table itself end the lease. And a store over
//! an application's own pool.

mod stores;

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use stores::postgres_server::PostgresServer;
use stores::{World, eventually, postgres_options};
use trust_auth::{
    Answer, ApiKey, ChangeFeed, Ended, FeedSession, KeyHash, KeyTerms, NewKey, NewTrust, PgChanges,
    PgSession, PostgresStore, Reload, StoreError, Trust, TrustAuth, TrustKey, TrustLedger,
    TrustStore, Waiting,
};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(300);

/// A database with a trust that has a key in its own row and one in `trust_key`, and a holder.
struct Held {
    server: &'static PostgresServer,
    url: String,
    store: PostgresStore,
    trust: Trust,
    key: TrustKey,
    session: PgSession,
    holder: Uuid,
}

impl Held {
    async fn new() -> Option<Self> {
        Self::with_path("public").await
    }

    /// The tables are in `public`. The store has this search path, which may begin with the schema
    /// `app`.
    async fn with_path(path: &str) -> Option<Self> {
        let server = PostgresServer::shared()?;
        let url = server.new_database();
        server.psql(&url, "CREATE SCHEMA app");
        postgres_options(&url).connect().await.unwrap();
        PgChanges::trusts(postgres_options(&url)).run_migration().await.unwrap();
        let of_store = format!("{url}?options[search_path]={path}");
        let store = postgres_options(&of_store).connect().await.unwrap();
        let hash = KeyHash::of("own");
        let trust = store.insert(NewTrust::new("a").unwrap(), hash).await.unwrap();
        let key = store.add_key(&trust.id.into(), KeyHash::of("other").into()).await.unwrap();
        let mut session = store.feed().open(LONG).await.unwrap();
        let loaded = session.load().await.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].keys.first(), Some(&key));
        let holder = session.register("a").await.unwrap();
        Some(Self { server, url, store, trust, key, session, holder })
    }

    fn psql(&self, sql: &str) {
        self.server.psql(&self.url, sql);
    }

    async fn renew(&mut self) -> Answer {
        self.session.renew(self.holder).await.unwrap()
    }

    /// Returns the trusts that the difference names, each as it is now.
    async fn changed(&mut self) -> Vec<(Uuid, Option<Trust>)> {
        let Answer::Difference(difference) = self.renew().await else { panic!("a reload") };
        let ended = difference.ended.into_iter().map(|ended| match ended {
            Ended::Trust { id, row } => (id, row),
            other => panic!("{other:?}"),
        });
        ended.collect()
    }

    /// Asserts that the difference names the trust, and returns it.
    async fn after(&mut self, sql: &str) -> Option<Trust> {
        self.psql(sql);
        let mut changed = self.changed().await;
        changed.dedup();
        assert_eq!(changed.len(), 1, "{sql}: {changed:?}");
        let (id, row) = changed.remove(0);
        assert_eq!(id, self.trust.id, "{sql}");
        row
    }
}

fn accepts(trust: &Option<Trust>, key: &str) -> bool {
    trust.as_ref().is_some_and(|trust| trust.accepts(&KeyHash::of(key)))
}

#[tokio::test]
async fn a_holder_learns_of_each_change_of_a_key_with_its_trust_rl7() {
    let Some(mut held) = Held::new().await else { return };
    let id = held.key.id;
    let revoked = held.after("UPDATE trust_key SET revoked_at = now()").await;
    assert!(accepts(&revoked, "own") && !accepts(&revoked, "other"));
    let again = held.after("UPDATE trust_key SET revoked_at = NULL").await;
    assert!(accepts(&again, "own") && accepts(&again, "other"));
    let ended = held.after("UPDATE trust_key SET expires_at = now() - interval '1 s'").await;
    assert!(!accepts(&ended, "other"));
    let later = held.after("UPDATE trust_key SET expires_at = now() + interval '1 day'").await;
    assert!(accepts(&later, "other") && later.unwrap().keys[0].expires_at.is_some());
    let digest = KeyHash::of("another").to_hex();
    let changed = held.after(&format!("UPDATE trust_key SET digest = '{digest}'")).await;
    assert!(accepts(&changed, "another") && !accepts(&changed, "other"));
    let renamed = held.after("UPDATE trust_key SET label = 'laboratory'").await;
    assert_eq!(renamed.unwrap().keys[0].label.as_deref(), Some("laboratory"));
    let scopes = held.after("UPDATE trust SET attributes = '{\"scopes\": [\"read\"]}'").await;
    assert_eq!(scopes.unwrap().attributes.unwrap()["scopes"][0], "read");

    // With the only key in a row of its own, the trust is still held, and loaded.
    let without = held.after("UPDATE trust SET api_key_hash = NULL").await;
    assert!(accepts(&without, "another") && !accepts(&without, "own"));
    let mut session = held.store.feed().open(LONG).await.unwrap();
    assert_eq!(session.load().await.unwrap(), [without.unwrap()]);
    let removed = held.after(&format!("DELETE FROM trust_key WHERE id = '{id}'")).await;
    assert!(!accepts(&removed, "another"));
    assert_eq!(held.changed().await, []);
}

#[tokio::test]
async fn a_key_that_moves_changes_both_trusts_and_a_deletion_takes_its_keys_along() {
    let Some(mut held) = Held::new().await else { return };
    let hash = KeyHash::of("b");
    let other = held.store.insert(NewTrust::new("b").unwrap(), hash).await.unwrap();
    held.changed().await;
    held.psql(&format!("UPDATE trust_key SET trust = '{}'", other.id));
    let changed = held.changed().await;
    let row = |id: Uuid| changed.iter().find(|(found, _)| *found == id).unwrap().1.clone();
    assert!(!accepts(&row(held.trust.id), "other") && accepts(&row(other.id), "other"));

    held.psql(&format!("DELETE FROM trust WHERE id = '{}'", other.id));
    assert!(held.changed().await.iter().all(|(id, row)| *id == other.id && row.is_none()));
    held.psql("TRUNCATE trust_key");
    assert_eq!(held.renew().await, Answer::Reload(Reload::OtherTriggers));
}

#[tokio::test]
async fn a_changed_table_of_keys_makes_the_holder_load_again_rl2() {
    for change in [
        "BEGIN; ALTER TABLE trust_key DISABLE TRIGGER trust_auth_rec_update; \
         UPDATE trust_key SET revoked_at = now(); \
         ALTER TABLE trust_key ENABLE ALWAYS TRIGGER trust_auth_rec_update; COMMIT",
        "ALTER TABLE trust_key ADD COLUMN note text",
        "ALTER TABLE trust_key RENAME COLUMN label TO remark",
        "ALTER TABLE trust_key RENAME TO former_key; \
         CREATE TABLE trust_key (LIKE former_key INCLUDING ALL)",
        "CREATE SCHEMA other; CREATE TABLE other.trust_key (LIKE trust_key INCLUDING ALL); \
         DROP TABLE trust_key",
        "CREATE TABLE child () INHERITS (trust_key)",
        "VACUUM FULL trust_key",
    ] {
        let Some(mut held) = Held::new().await else { return };
        held.psql(change);
        match held.session.renew(held.holder).await {
            Ok(answer) => {
                assert_eq!(answer, Answer::Reload(Reload::OtherTriggers), "{change}");
            }
            // The statement cannot read the table.
            Err(error) => assert!(matches!(error, StoreError::Schema { .. }), "{change}: {error}"),
        }
    }
}

/// No trigger of the other table records a change.
#[tokio::test]
async fn a_table_of_keys_in_an_earlier_schema_makes_the_holder_load_again_rl2() {
    let Some(mut held) = Held::with_path("app,public").await else { return };
    assert_eq!(held.changed().await, []);
    held.psql("CREATE TABLE app.trust_key (LIKE public.trust_key INCLUDING ALL)");
    assert_eq!(held.renew().await, Answer::Reload(Reload::OtherTriggers));
    let refused = held.session.load().await.unwrap_err().to_string();
    assert!(refused.contains("triggers on the table `trust_key`"), "{refused}");
}

/// The other transaction has locked the trust by its foreign key.
#[tokio::test]
async fn a_rotation_ends_a_key_that_another_transaction_adds_while_it_waits() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let hash = KeyHash::of("own");
    let trust = store.insert(NewTrust::new("a").unwrap(), hash).await.unwrap();
    let mut other = server.connect(&url).await;
    let add = "BEGIN; INSERT INTO trust_key (id, trust, digest) \
               SELECT gen_random_uuid(), id, encode(sha256('late'), 'hex') FROM trust";
    other.execute(add).await.unwrap();
    let rotation = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.replace_hash(&trust.id.into(), KeyHash::of("new")).await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits", || server.psql(&url, waiting) == "1").await;
    other.execute("COMMIT").await.unwrap();
    let change = rotation.await.unwrap().unwrap();
    assert_eq!(change.former, [KeyHash::of("own"), KeyHash::of("late")]);
    let read = store.fetch(trust.id).await.unwrap();
    assert!(accepts(&read, "new") && !accepts(&read, "late") && !accepts(&read, "own"));
}

#[tokio::test]
async fn without_the_triggers_of_the_keys_there_is_no_lease_until_the_migration() {
    let Some(held) = Held::new().await else { return };
    held.psql("DROP TRIGGER trust_auth_rec_row ON trust_key");
    let mut session = held.store.feed().open(LONG).await.unwrap();
    let refused = session.load().await.unwrap_err().to_string();
    assert!(refused.contains("triggers on the table `trust_key`"), "{refused}");
    PgChanges::trusts(postgres_options(&held.url)).run_migration().await.unwrap();
    let mut session = held.store.feed().open(LONG).await.unwrap();
    assert_eq!(session.load().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_watcher_drops_exactly_the_keys_that_psql_changes() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let world = World::over(Arc::clone(&store), None);
    let watcher = store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (trust, own) = world.register("a").await;
    let terms = KeyTerms::new();
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(world.registry.add_key(&trust.id.into(), &terms).await.unwrap());
    }
    let warm = async || {
        for key in keys.iter().map(|(_, key)| key).chain([&own]) {
            let _ = world.attempt(key).await;
        }
    };
    let is_cached = |key: &ApiKey| world.cached(key).is_some();
    eventually("the insertions are known", || watcher.status().notifications >= 4).await;
    warm().await;
    server.psql(
        &url,
        &format!("UPDATE trust_key SET revoked_at = now() WHERE id = '{}'", keys[0].0.id),
    );
    eventually("the revoked key is dropped", || !is_cached(&keys[0].1)).await;
    assert!(is_cached(&own) && is_cached(&keys[1].1) && is_cached(&keys[2].1));
    server.psql(
        &url,
        &format!("UPDATE trust_key SET expires_at = now() WHERE id = '{}'", keys[1].0.id),
    );
    eventually("the ended key is dropped", || !is_cached(&keys[1].1)).await;
    assert!(is_cached(&own) && is_cached(&keys[2].1));
    server.psql(&url, "UPDATE trust SET disabled_at = now()");
    eventually("all keys are dropped", || !is_cached(&own) && !is_cached(&keys[2].1)).await;

    server.psql(&url, "UPDATE trust SET disabled_at = NULL");
    eventually("that is known", || watcher.status().notifications >= 9).await;
    warm().await;
    assert!(is_cached(&own) && is_cached(&keys[2].1));
    server.psql(&url, "DELETE FROM trust");
    eventually("all keys are dropped", || !is_cached(&own) && !is_cached(&keys[2].1)).await;
}

/// Without a trigger on the keys, no process learns of a key that `psql` revokes.
#[tokio::test]
async fn a_watcher_misses_each_trigger_of_the_keys_and_evicts_all_when_it_is_back() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let world = World::over(Arc::clone(&store), None);
    let watcher = store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (_, key) = world.register("a").await;
    eventually("the insertion is known", || watcher.status().notifications == 1).await;
    for damage in [
        "DROP TRIGGER trust_auth_key_row ON trust_key",
        "ALTER TABLE trust_key ENABLE TRIGGER trust_auth_key_update",
        "ALTER TABLE trust_key DISABLE TRIGGER trust_auth_key_truncate",
        "DROP TRIGGER trust_auth_keys ON trust",
    ] {
        server.psql(&url, damage);
        eventually("it is missed", || watcher.status().triggers_missing).await;
        assert!(world.attempt(&key).await.result.is_ok());
        assert!(world.cached(&key).is_some());
        postgres_options(&url).run_migration().await.unwrap();
        eventually("it is back", || !watcher.status().triggers_missing).await;
        eventually("all keys are evicted", || world.cached(&key).is_none()).await;
    }
    assert_eq!(watcher.status().connects, 1);
}

/// The caller of a revocation relies on its `Ok`.
#[tokio::test]
async fn a_trigger_or_a_rule_that_swallows_or_undoes_a_change_of_a_key_fails_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let function = |name: &str, body: &str| {
        format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$; "
        )
    };
    let trigger = |name: &str, when: &str| {
        format!("CREATE TRIGGER {name} {when} ON trust_key FOR EACH ROW EXECUTE FUNCTION {name}()")
    };
    for damage in [
        function("skip", "RETURN NULL;") + &trigger("skip", "BEFORE UPDATE"),
        function("keep", "NEW.revoked_at := NULL; RETURN NEW;") + &trigger("keep", "BEFORE UPDATE"),
        function(
            "undo",
            "UPDATE trust_key SET revoked_at = NULL WHERE revoked_at IS NOT NULL; \
                 RETURN NULL;",
        ) + &trigger("undo", "AFTER UPDATE")
            .replace("EXECUTE", "WHEN (NEW.revoked_at IS NOT NULL) EXECUTE"),
    ] {
        let url = server.new_database();
        let store = Arc::new(postgres_options(&url).connect().await.unwrap());
        let world = World::over(store, None);
        let (trust, own) = world.register("a").await;
        let which = trust.id.into();
        let (row, key) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
        server.psql(&url, &damage);
        for error in [
            world.registry.revoke_key(row.id).await.unwrap_err(),
            world.registry.rotate(&which).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("look for a trigger on its table"), "{error}");
        }
        // Nothing is changed.
        for key in [&own, &key] {
            assert!(world.attempt(key).await.result.is_ok(), "{damage}");
        }
        assert_eq!(world.registry.keys(&which).await.unwrap(), [row]);
    }
    for damage in [
        function("skip", "RETURN NULL;") + &trigger("skip", "BEFORE INSERT"),
        // The server refuses ON CONFLICT where there is such a rule.
        "CREATE RULE skip AS ON INSERT TO trust_key DO INSTEAD NOTHING".into(),
    ] {
        let url = server.new_database();
        let store = Arc::new(postgres_options(&url).connect().await.unwrap());
        let world = World::over(store, None);
        let (trust, own) = world.register("a").await;
        server.psql(&url, &damage);
        let which = trust.id.into();
        let terms = KeyTerms::new().lasting(LONG);
        assert!(world.registry.add_key(&which, &terms).await.is_err(), "{damage}");
        assert!(
            world.registry.begin_rotate_with(&which, &terms, Some(LONG)).await.is_err(),
            "{damage}"
        );
        let new = NewTrust::new("b").unwrap();
        assert!(world.registry.register_with(new, &terms).await.is_err(), "{damage}");
        assert!(world.attempt(&own).await.result.is_ok());
        assert_eq!(world.store.list().await.unwrap(), [trust], "{damage}");
    }
}

#[tokio::test]
async fn a_malformed_row_of_a_key_is_left_out_and_refuses_no_other() {
    let Some(server) = PostgresServer::shared() else { return };
    for sql in [
        "UPDATE trust_key SET digest = substr(digest, 2) || 'x' WHERE label = 'b'",
        "UPDATE trust_key SET digest = '\u{ff11}' || substr(digest, 2) WHERE label = 'b'",
        "UPDATE trust_key SET digest = '' WHERE label = 'b'",
        "UPDATE trust_key SET expires_at = 'infinity' WHERE label = 'b'",
        "UPDATE trust_key SET expires_at = '294276-01-01' WHERE label = 'b'",
        "ALTER TABLE trust_key ALTER digest DROP NOT NULL; \
         UPDATE trust_key SET digest = NULL WHERE label = 'b'",
    ] {
        let url = server.new_database();
        let store = Arc::new(postgres_options(&url).connect().await.unwrap());
        let world = World::over(store, None);
        let (trust, own) = world.register("a").await;
        let which = trust.id.into();
        let mut added = Vec::new();
        for label in ["one", "b", "two"] {
            let terms = KeyTerms::new().with_label(label);
            added.push(world.registry.add_key(&which, &terms).await.unwrap());
        }
        server.psql(&url, "ALTER TABLE trust_key DROP CONSTRAINT trust_key_digest_check");
        server.psql(&url, sql);
        let [(one, one_key), (_, bad_key), (two, two_key)] = &added[..] else { panic!() };
        // The first time by a scan, the second time by the row.
        for _ in 0..2 {
            for (key, id) in [(&own, None), (one_key, Some(one.id)), (two_key, Some(two.id))] {
                let attempt = world.attempt(key).await;
                assert!(attempt.result.is_ok(), "{sql}");
                assert_eq!(attempt.key_id, id, "{sql}");
            }
            assert!(world.attempt(bad_key).await.result.is_err(), "{sql}");
        }
        let read = world.store.fetch(trust.id).await.unwrap().unwrap();
        assert_eq!(read.keys, [one.clone(), two.clone()], "{sql}");
        world.registry.revoke_key(one.id).await.unwrap();
        assert!(world.attempt(one_key).await.result.is_err(), "{sql}");
        world.registry.delete(&which).await.unwrap();
    }
}

/// The scan grants the last candidate that has the digest. So the order is a part of the answer.
#[tokio::test]
async fn the_candidates_are_the_trusts_and_then_the_keys_each_by_their_creation() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    let id = |number: u128| Uuid::from_u128(0x4000_8000_0000_0000_0000 + number);
    for (number, day) in [(1, 3), (2, 1), (3, 2)] {
        server.psql(
            &url,
            &format!(
                "INSERT INTO trust (id, name, api_key_hash, created_at, disabled_at) \
                 VALUES ('{0}', '{number}', encode(sha256('{number}'), 'hex'), '2026-01-0{day}', \
                     CASE {number} WHEN 3 THEN now() END); \
                 INSERT INTO trust_key (id, trust, digest, created_at, revoked_at, expires_at) \
                 SELECT ('00000000-0000-4000-9000-00000000{number}00' || n)::uuid, '{0}', \
                     encode(sha256(('{number}' || n)::bytea), 'hex'), \
                     timestamptz '2025-01-0{day}' + n % 2 * interval '1 h', \
                     CASE n WHEN 4 THEN now() END, CASE n WHEN 5 THEN now() END \
                 FROM generate_series(1, 5) AS n",
                id(number)
            ),
        );
    }
    let wanted =
        [(2, "2"), (1, "1"), (2, "22"), (2, "21"), (2, "23"), (1, "12"), (1, "11"), (1, "13")];
    let wanted = wanted.map(|(number, key)| (id(number), KeyHash::of(key)));
    let candidates = store.candidates().await.unwrap();
    let found: Vec<_> = (0..candidates.len())
        .map(|index| (candidates.id(index).unwrap(), candidates.hashes()[index]))
        .collect();
    assert_eq!(found, wanted);
}

/// The failover loses the rotation. An operator adds a key before the repetition.
#[tokio::test]
async fn r16_a_rotation_that_a_failover_has_lost_is_not_taken_for_superseded_by_an_added_key() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    PgChanges::trusts(postgres_options(&url)).run_migration().await.unwrap();
    let world = World::over(store, None);
    let (trust, old) = world.register("a").await;
    let which = trust.id.into();
    let (rotation, new) = world.registry.begin_rotate(&which).await.unwrap();
    server.psql(&url, &format!("UPDATE trust SET api_key_hash = '{}'", old.hash().to_hex()));
    server.stop();
    server.start_again();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let other = World::over(store, None);
    let (_, added) = other.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    let error = rotation.settle(Waiting::default()).await.unwrap_err();
    assert_eq!(error.kind(), "rotation_lost", "{error}");
    assert!(error.to_string().contains("the old keys are still valid; rotate again"), "{error}");
    for (key, is_granted) in [(&old, true), (&added, true), (&new, false)] {
        assert_eq!(other.attempt(key).await.result.is_ok(), is_granted);
    }
}

/// The role may only read.
#[tokio::test]
async fn the_keys_that_have_ended_of_late_are_those_of_enabled_trusts_that_are_not_revoked() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let world = World::over(Arc::new(postgres_options(&url).connect().await.unwrap()), None);
    for name in ["b", "a", "disabled"] {
        let (trust, _) = world.register(name).await;
        for label in ["now", "an hour ago", "long ago", "revoked", "later", "endless"] {
            let terms = KeyTerms::new().with_label(format!("{label} {name}"));
            world.registry.add_key(&trust.id.into(), &terms).await.unwrap();
        }
    }
    server.psql(
        &url,
        "UPDATE trust SET disabled_at = now() WHERE name = 'disabled'; \
         UPDATE trust_key SET expires_at = now() - CASE split_part(label, ' ', 1) \
             WHEN 'now' THEN interval '0' WHEN 'long' THEN interval '3 h' \
             WHEN 'later' THEN interval '-1 h' ELSE interval '1 h' END \
         WHERE label NOT LIKE 'endless%'; \
         UPDATE trust_key SET revoked_at = now() WHERE label LIKE 'revoked%'",
    );
    let (name, url_of_role) = server.new_role(&url);
    server.psql(&url, &format!("GRANT SELECT ON trust, trust_key TO {name}"));
    let store = postgres_options(&url_of_role).connect().await.unwrap();
    let ended = async |within| {
        let keys = store.ended_keys(within).await.unwrap();
        keys.into_iter().filter_map(|key| key.label).collect::<Vec<_>>()
    };
    let wanted = ["now a", "an hour ago a", "now b", "an hour ago b"];
    assert_eq!(ended(Duration::from_secs(2 * 3_600)).await, wanted);
    assert_eq!(ended(Duration::MAX).await.len(), 6);
    assert!(ended(Duration::ZERO).await.is_empty());
}

/// The application's own pool: reads use it, and all else has connections of its own.
#[tokio::test]
async fn a_store_over_an_own_pool_reads_by_it_and_leaves_it_open() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let options = PostgresStore::over(pool.clone()).create_if_missing(true);
    let auth = TrustAuth::builder(options.connect().await.unwrap()).build();
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    let (row, other) = auth.registry().add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    for key in [&key, &other, &key, &other] {
        assert_eq!(auth.authenticate(Some(key.expose())).await.unwrap().id, trust.id);
    }
    auth.registry().revoke_key(row.id).await.unwrap();
    assert!(auth.authenticate(Some(other.expose())).await.is_err());
    auth.registry().disable(&trust.id.into()).await.unwrap();
    assert!(auth.authenticate(Some(key.expose())).await.is_err());
    drop(auth);
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM trust").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 1);

    // Each request is refused while the pool lends no connection, and not granted.
    let store = PostgresStore::over(pool.clone())
        .acquire_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    pool.close().await;
    assert!(matches!(store.list().await.unwrap_err(), StoreError::Unreachable));
}

/// The ledger's path does not lead to the lease, whose holders would not be waited for.
#[tokio::test]
async fn triggers_of_another_lease_on_the_keys_stop_a_change() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    let trust = store.insert(NewTrust::new("a").unwrap(), KeyHash::of("own")).await.unwrap();
    let key = store.add_key(&trust.id.into(), KeyHash::of("other").into()).await.unwrap();
    server.psql(&url, "CREATE SCHEMA app");
    let elsewhere = postgres_options(&format!("{url}?options[search_path]=app,public"));
    let changes = PgChanges::new(elsewhere).table("public.trust_key", |table| table.key("digest"));
    changes.run_migration().await.unwrap();
    let error = store.revoke_key(key.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error}");
    assert!(store.fetch(trust.id).await.unwrap().unwrap().accepts(&KeyHash::of("other")));
}

/// An application that gives a connection back without ending its transaction.
#[tokio::test]
async fn an_open_transaction_of_an_own_pool_keeps_no_key_alive_at_its_end() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let own = postgres_options(&url).connect().await.unwrap();
    let trust = own.insert(NewTrust::new("a").unwrap(), KeyHash::of("own")).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let store = PostgresStore::over(pool.clone()).connect().await.unwrap();
    pool.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.unwrap();
    let mut key = NewKey::new(KeyHash::of("other"));
    key.terms = KeyTerms::new().lasting(Duration::from_millis(300));
    own.add_key(&trust.id.into(), key.clone()).await.unwrap();
    assert!(store.fetch(trust.id).await.unwrap().unwrap().accepts(&key.hash));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!store.fetch(trust.id).await.unwrap().unwrap().accepts(&key.hash));
    assert_eq!(store.candidates().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_pool_whose_connections_find_other_tables_is_refused() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    postgres_options(&url).connect().await.unwrap();
    let options = sqlx::postgres::PgPoolOptions::new().after_connect(|connection, _| {
        Box::pin(async move {
            sqlx::raw_sql("SET search_path = other, public").execute(connection).await.map(drop)
        })
    });
    let pool = options.connect(&url).await.unwrap();
    let error = PostgresStore::over(pool).connect().await.unwrap_err().to_string();
    assert!(error.contains("set these in the options, and not in `after_connect`"), "{error}");
}

/// The check of a digest reads the keys only if the trust's own row has another digest.
#[tokio::test]
async fn a_check_of_a_digest_sees_each_active_key_and_no_other() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    let (own, other) = (KeyHash::of("own"), KeyHash::of("other"));
    let trust = store.insert(NewTrust::new("a").unwrap(), own).await.unwrap();
    let accepts = async |hash: &KeyHash| {
        let found = store.fetch_for(trust.id, hash).await.unwrap();
        found.expect("the trust is there").accepts(hash)
    };
    assert!(accepts(&own).await);
    assert!(!accepts(&other).await);
    let key = store.add_key(&trust.id.into(), other.into()).await.unwrap();
    // The second time, the store expects keys.
    for _ in 0..2 {
        assert!(accepts(&other).await);
        assert!(accepts(&own).await);
    }
    store.revoke_key(key.id).await.unwrap();
    for _ in 0..2 {
        assert!(!accepts(&other).await);
        assert!(accepts(&own).await);
    }
    assert_eq!(store.fetch_for(Uuid::nil(), &own).await.unwrap(), None);
}
