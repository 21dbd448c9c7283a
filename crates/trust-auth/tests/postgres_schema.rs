//! Opening a PostgreSQL database changes nothing, unless it is permitted to make the table or to
//! migrate. Its errors name the remedy.

mod stores;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor};
use stores::postgres_server::PostgresServer;
use stores::{World, by_name, eventually, postgres_options};
use trust_auth::{KeyHash, KeyTerms, NewTrust, PostgresStore, StoreError, TrustLedger, TrustStore};
use uuid::Uuid;

/// The reference system's table, as its own tool makes it, with rows and a further column.
const REFERENCE: &str = "
    CREATE TABLE trust (
        id UUID NOT NULL, name VARCHAR NOT NULL, code VARCHAR, region VARCHAR,
        api_key_hash VARCHAR(64),
        created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL DEFAULT now(), contact JSONB,
        PRIMARY KEY (id), UNIQUE (name)
    );
    CREATE INDEX ix_trust_region ON trust (region);
    INSERT INTO trust (id, name, code, api_key_hash, created_at, contact) VALUES
        ('00000000-0000-4000-8000-000000000001', 'St. Mary', 'SM',
            encode(sha256('mary'), 'hex'), '2024-02-29 12:00', '{\"a\": 1}'),
        ('00000000-0000-4000-8000-000000000002', 'St. John', NULL,
            upper(encode(sha256('john'), 'hex')), '2024-03-01 12:00', NULL),
        ('00000000-0000-4000-8000-000000000003', 'No key', NULL, NULL, '2024-03-02 12:00', NULL)";

/// Selects what the catalog has about the table and its triggers, with the transactions that wrote
/// it.
const CATALOG: &str = "
    SELECT 'column', xmin, attname::text FROM pg_attribute WHERE attrelid = 'trust'::regclass
    UNION ALL SELECT 'trigger', xmin, tgname::text FROM pg_trigger WHERE tgrelid = 'trust'::regclass
    UNION ALL SELECT 'function', xmin, proname::text FROM pg_proc
        WHERE proname = 'trust_auth_notify'
    UNION ALL SELECT 'constraint', xmin, conname::text FROM pg_constraint
        WHERE conrelid = 'trust'::regclass
    ORDER BY 1, 3";

/// Returns why the database cannot be used.
async fn refusal(url: &str) -> String {
    let error = postgres_options(url).connect().await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error}");
    let told = format!("{error} {error:?}");
    assert!(!told.contains("hunter2") && !told.contains("swordfish"), "{told}");
    error.to_string()
}

#[tokio::test]
async fn the_references_table_is_extended_and_its_rows_stay_as_they_are() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, REFERENCE);
    let rows = "SELECT ctid, xmin, id, name, code, region, api_key_hash, created_at, contact \
                FROM trust ORDER BY id";
    let before = server.psql(&url, rows);

    let store = postgres_options(&url).migrate(true).connect().await.unwrap();
    assert_eq!(server.psql(&url, rows), before, "the rows were rewritten");
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'ix_trust_region'";
    assert_eq!(server.psql(&url, index), "1");

    let world = World::over(Arc::new(store), None);
    let listed = world.store.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|trust| (&*trust.name, trust.is_enabled())).collect();
    assert_eq!(names, [("No key", true), ("St. John", true), ("St. Mary", true)]);
    let mary = world.authenticator.authenticate(Some("mary")).await.unwrap();
    assert_eq!(
        (mary.id, mary.code.as_deref()),
        (Uuid::from_u128(0x4000_8000_0000_0000_0001), Some("SM"))
    );
    assert_eq!(
        mary.created_at.unwrap().unix_timestamp(),
        1_709_208_000,
        "a time without a zone is UTC"
    );
    assert_eq!(world.authenticator.authenticate(Some("john")).await.unwrap().name, "St. John");

    // All other operations work on these rows, too.
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    assert!(world.authenticator.authenticate(Some("mary")).await.is_ok());
    world.registry.disable(&by_name("St. Mary")).await.unwrap();
    assert!(world.authenticator.authenticate(Some("mary")).await.is_err());
    let (_, key) = world.registry.rotate(&by_name("No key")).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
    server.psql(&url, "DELETE FROM trust WHERE name = 'No key'");
    eventually("the change was received", || world.cached(&key).is_none()).await;
    assert_eq!(server.psql(&url, "SELECT contact FROM trust WHERE code = 'SM'"), "{\"a\": 1}");
}

#[tokio::test]
async fn a_table_that_lacks_nothing_is_only_read() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    postgres_options(&url).connect().await.unwrap();
    let before = server.psql(&url, CATALOG);
    assert!(before.contains("trigger|") && before.contains("function|"), "{before}");
    // A lock for which any change would wait.
    let mut other = server.connect(&url).await;
    other.execute("BEGIN; LOCK TABLE trust IN ROW EXCLUSIVE MODE").await.unwrap();
    postgres_options(&url).create_if_missing(false).connect().await.unwrap();
    assert_eq!(server.psql(&url, CATALOG), before);
}

#[tokio::test]
async fn of_several_processes_that_start_together_one_makes_the_table_and_all_use_it() {
    let Some(server) = PostgresServer::shared() else { return };
    for table in ["", REFERENCE] {
        let url = server.new_database();
        server.psql(&url, table);
        let starts: Vec<_> = (0..8)
            .map(|_| tokio::spawn(postgres_options(&url).migrate(!table.is_empty()).connect()))
            .collect();
        for (number, start) in starts.into_iter().enumerate() {
            let store = start.await.unwrap().unwrap();
            let new = NewTrust::new(format!("trust {number}")).unwrap();
            store.insert(new, KeyHash::of(number.to_string())).await.unwrap();
        }
        assert_eq!(server.psql(&url, "SELECT count(*) FROM trust WHERE name LIKE 'trust %'"), "8");
        let triggers =
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'trust_auth_%' AND tgenabled = 'A'";
        assert_eq!(server.psql(&url, triggers), "7");
    }
}

/// Another program's table lacks columns. Opening it names them and changes nothing, even with
/// permission to make a table.
#[tokio::test]
async fn a_table_that_lacks_columns_is_unchanged_and_they_are_named() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, REFERENCE);
    let before = server.dump(&url);
    for create in [false, true] {
        let error = postgres_options(&url).create_if_missing(create).connect().await.unwrap_err();
        let StoreError::NotMigrated { missing, .. } = &error else { panic!("{error}") };
        assert_eq!(missing.len(), 4, "{missing:?}");
        let told = error.to_string();
        for part in [
            "`last_heartbeat`",
            "`disabled_at`",
            "`attributes`",
            "`trust_key`",
            "run `trust-auth migrate`",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
    let plan = postgres_options(&url).plan_migration().await.unwrap();
    assert_eq!(plan.missing().len(), 4 + 7, "{plan}");
    assert_eq!(server.dump(&url), before);

    // The plan is the SQL that would run, and psql can run it, too.
    server.psql(&url, &plan.to_string());
    assert!(postgres_options(&url).plan_migration().await.unwrap().is_empty());
    assert_eq!(postgres_options(&url).connect().await.unwrap().list().await.unwrap().len(), 3);
}

#[tokio::test]
async fn of_several_migrations_together_one_is_made_and_the_others_find_nothing_to_do() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, REFERENCE);
    let options = postgres_options(&url);
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { options.run_migration().await })
        })
        .collect();
    let mut done = 0;
    for run in runs {
        done += usize::from(!run.await.unwrap().unwrap().is_empty());
    }
    assert_eq!(done, 1);
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust"), "3");
}

/// The store works without triggers that it may not make, because no grant needs them.
#[tokio::test]
async fn a_role_that_may_not_make_the_triggers_opens_the_table_and_says_which_are_missing() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    postgres_options(&url).connect().await.unwrap();
    server.psql(&url, "DROP FUNCTION trust_auth_notify CASCADE");
    let (name, url_of_role) = server.new_role(&url);
    server
        .psql(&url, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO {name}"));
    for migrate in [false, true] {
        let store = postgres_options(&url_of_role).migrate(migrate).connect().await.unwrap();
        let mut missing = store.missing_triggers().to_vec();
        missing.sort();
        assert_eq!(missing, ["trust_auth_row", "trust_auth_truncate", "trust_auth_update"]);
    }
    let error = postgres_options(&url_of_role).run_migration().await.unwrap_err();
    assert_eq!(error.kind(), "missing_right");
}

#[tokio::test]
async fn no_table_is_made_where_none_was_asked_for() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let error = postgres_options(&url).create_if_missing(false).connect().await.unwrap_err();
    assert!(error.to_string().contains("it has no table `trust`; register a trust"), "{error}");
    assert_eq!(server.psql(&url, "SELECT to_regclass('trust') IS NULL"), "t");
}

/// The service's role owns nothing, once the table lacks nothing.
#[tokio::test]
async fn a_role_that_may_only_read_and_write_rows_does_all_but_make_the_table() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (name, url_of_role) = server.new_role(&url);
    let options = postgres_options(&url_of_role).migrate(true);
    let error = options.clone().connect().await.unwrap_err();
    assert!(
        error.to_string().contains("it lacks the right CREATE on the schema public"),
        "{error}"
    );
    server.psql(&url, REFERENCE);
    let before = server.psql(&url, CATALOG);
    for error in
        [options.clone().connect().await.unwrap_err(), options.run_migration().await.unwrap_err()]
    {
        assert!(matches!(error, StoreError::MissingRight { .. }), "{error}");
        assert!(
            error.to_string().contains("ownership of the table `trust`; let the owner run"),
            "{error}"
        );
    }
    assert_eq!(server.psql(&url, CATALOG), before);

    postgres_options(&url).run_migration().await.unwrap();
    server
        .psql(&url, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trust, trust_key TO {name}"));
    let store = postgres_options(&url_of_role).connect().await.unwrap();
    let world = World::over(Arc::new(store), None);
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (trust, _) = world.register("a").await;
    let (_, key) = world.registry.rotate(&trust.id.into()).await.unwrap();
    world.registry.disable(&trust.id.into()).await.unwrap();
    world.registry.enable(&trust.id.into()).await.unwrap();
    // Its own changes are notified, too.
    eventually("the changes were received", || watcher.status().notifications == 4).await;
    assert!(world.attempt(&key).await.result.is_ok());
    assert_eq!(world.cached(&key), Some(trust.id));
    server.psql(&url, "DELETE FROM trust WHERE name = 'a'");
    eventually("the change was received", || world.cached(&key).is_none()).await;
    assert_eq!(world.registry.delete(&by_name("St. John")).await.unwrap().name, "St. John");
}

#[tokio::test]
async fn a_role_that_may_only_read_authenticates_and_learns_which_rights_a_change_needs() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, REFERENCE);
    postgres_options(&url).run_migration().await.unwrap();
    let (name, url_of_role) = server.new_role(&url);
    server.psql(&url, &format!("GRANT SELECT ON trust, trust_key TO {name}"));
    let world =
        World::over(Arc::new(postgres_options(&url_of_role).connect().await.unwrap()), None);
    assert!(world.authenticator.authenticate(Some("mary")).await.is_ok());
    let new = NewTrust::new("b").unwrap();
    for (error, lacks) in [
        (
            world.store.delete(&by_name("St. Mary")).await.unwrap_err(),
            "the rights UPDATE and DELETE on",
        ),
        (
            world.store.set_enabled(&by_name("St. Mary"), false).await.unwrap_err(),
            "the right UPDATE on",
        ),
        (world.store.insert(new, KeyHash::of("b")).await.unwrap_err(), "the right INSERT on"),
    ] {
        assert_eq!(error.kind(), "missing_right");
        assert!(error.to_string().contains(lacks), "{error}");
    }

    // A role that registers trusts, also with keys in rows of their own.
    server.psql(&url, &format!("GRANT INSERT ON trust, trust_key TO {name}"));
    let terms = KeyTerms::new().with_label("first");
    let new = NewTrust::new("c").unwrap();
    let (trust, key) = world.registry.register_with(new, &terms).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
    let error = world.store.add_key(&trust.id.into(), KeyHash::of("c").into()).await.unwrap_err();
    assert!(error.to_string().contains("the right UPDATE on the table `trust`;"), "{error}");
}

/// A superuser runs the migration, and the service's role owns the trusts.
#[tokio::test]
async fn the_owner_of_the_trusts_owns_the_keys_after_a_migration_by_a_superuser() {
    let Some(server) = PostgresServer::shared() else { return };
    for may_create in [true, false] {
        let url = server.new_database();
        let (name, url_of_role) = server.new_role(&url);
        server.psql(&url, &format!("GRANT ALL ON SCHEMA public TO {name}"));
        server.psql(&url_of_role, REFERENCE);
        if !may_create {
            server.psql(&url, &format!("REVOKE CREATE ON SCHEMA public FROM {name}, public"));
        }
        postgres_options(&url).run_migration().await.unwrap();
        let owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'trust_key'";
        // A superuser may give a table to a role that may not make one.
        assert_eq!(server.psql(&url, owner), name);
        let store = Arc::new(postgres_options(&url_of_role).connect().await.unwrap());
        let world = World::over(store, None);
        let which = by_name("St. Mary");
        let (row, _) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
        world.registry.revoke_key(row.id).await.unwrap();
        server.psql(&url_of_role, "UPDATE trust SET disabled_at = now()");
        assert!(world.authenticator.authenticate(Some("mary")).await.is_err());
    }
}

/// The migrating role belongs to the owner, who may make no table in the schema.
#[tokio::test]
async fn an_owner_of_the_trusts_who_may_make_no_table_has_the_rights_on_the_keys() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let ((owner, url_of_owner), (member, url_of_member)) =
        (server.new_role(&url), server.new_role(&url));
    server.psql(&url, REFERENCE);
    server.psql(
        &url,
        &format!(
            "REVOKE CREATE ON SCHEMA public FROM public; ALTER TABLE trust OWNER TO {owner}; \
             GRANT {owner} TO {member}; GRANT ALL ON SCHEMA public TO {member}"
        ),
    );
    postgres_options(&url_of_member).run_migration().await.unwrap();
    let store = Arc::new(postgres_options(&url_of_owner).connect().await.unwrap());
    let world = World::over(store, None);
    let which = by_name("St. Mary");
    let (row, _) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    world.registry.revoke_key(row.id).await.unwrap();
    world.registry.rotate(&which).await.unwrap();
    world.registry.delete(&which).await.unwrap();
}

/// A role with `INSERT` on `trust` alone made trusts, and changed none.
#[tokio::test]
async fn a_migration_gives_no_role_a_stronger_right_on_the_keys_than_it_has_on_the_trusts() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, REFERENCE);
    let mut wanted = Vec::new();
    for (grant, rights) in [
        ("SELECT ON trust", "SELECT"),
        ("INSERT ON trust", ""),
        ("SELECT, INSERT ON trust", "SELECT"),
        ("UPDATE ON trust", "INSERT,UPDATE"),
        ("DELETE ON trust", "DELETE"),
        ("SELECT, UPDATE ON trust", "INSERT,SELECT,UPDATE"),
        ("ALL ON trust", "DELETE,INSERT,SELECT,UPDATE"),
        ("SELECT (id, name), UPDATE (code, api_key_hash), INSERT ON trust", ""),
    ] {
        let (role, url_of_role) = server.new_role(&url);
        server.psql(&url, &format!("GRANT {grant} TO {role}"));
        wanted.push((role, url_of_role, grant, rights));
    }
    // The owner has taken a right back, which each new table gives.
    let (role, url_of_role) = server.new_role(&url);
    server.psql(&url, &format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}, PUBLIC"));
    wanted.push((role, url_of_role, "by default", ""));
    postgres_options(&url).run_migration().await.unwrap();
    let rights = |role: &str| {
        let sql = "SELECT string_agg(privilege_type, ',' ORDER BY privilege_type) \
                   FROM pg_class, aclexplode(relacl) \
                   WHERE pg_class.oid = 'trust_key'::regclass AND grantee = ";
        server.psql(&url, &format!("{sql}'{role}'::regrole"))
    };
    let add = "INSERT INTO trust_key (id, trust, digest) \
               SELECT gen_random_uuid(), '00000000-0000-4000-8000-000000000001', \
                   encode(sha256(current_user::text::bytea), 'hex')";
    let world = World::over(Arc::new(postgres_options(&url).connect().await.unwrap()), None);
    for (role, url_of_role, grant, wanted) in &wanted {
        assert_eq!(rights(role), *wanted, "{grant}");
        let added = server.connect(url_of_role).await.execute(add).await;
        assert_eq!(added.is_ok(), wanted.contains("INSERT"), "{grant}");
        let granted = world.authenticator.authenticate(Some(role)).await;
        assert_eq!(granted.is_ok(), wanted.contains("INSERT"), "{grant}");
    }
    let of_all = "SELECT count(*) FROM pg_class, aclexplode(relacl) \
                  WHERE pg_class.oid = 'trust_key'::regclass AND grantee = 0";
    assert_eq!(server.psql(&url, of_all), "0");

    // The owner's choice is kept, where a later migration adds what else is missing.
    let (role, ..) = &wanted[6];
    let damage = format!("REVOKE ALL ON trust_key FROM {role}; ALTER TABLE trust DROP attributes");
    server.psql(&url, &damage);
    assert!(!postgres_options(&url).run_migration().await.unwrap().is_empty());
    assert_eq!(rights(role), "");
}

/// Each tenant sees and changes its own trusts. One may see others, and may not change them.
#[tokio::test]
async fn the_keys_have_the_row_level_security_of_the_trusts() {
    let Some(server) = PostgresServer::shared() else { return };
    for is_forced in [false, true] {
        let url = server.new_database();
        server.psql(&url, REFERENCE);
        let ((tenant, url_of_tenant), (service, url_of_service), (owner, url_of_owner)) =
            (server.new_role(&url), server.new_role(&url), server.new_role(&url));
        let (bypass, url_of_bypass) = server.new_role(&url);
        server.psql(
            &url,
            &format!(
                "ALTER TABLE trust OWNER TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON trust TO {tenant}, {service}, {bypass}; \
                 ALTER ROLE {bypass} BYPASSRLS; ALTER TABLE trust ENABLE ROW LEVEL SECURITY; \
                 CREATE POLICY see ON trust FOR SELECT TO {tenant} \
                     USING (name IN ('St. Mary', 'St. John')); \
                 CREATE POLICY change ON trust FOR UPDATE TO {tenant} USING (name = 'St. Mary'); \
                 CREATE POLICY remove ON trust FOR DELETE TO {tenant} USING (true); \
                 CREATE POLICY all_rows ON trust TO {service} USING (true)"
            ),
        );
        if is_forced {
            server.psql(&url, "ALTER TABLE trust FORCE ROW LEVEL SECURITY");
        }
        postgres_options(&url_of_owner).run_migration().await.unwrap();

        // The service works, by a policy or without one.
        for (name, url) in [("policy", &url_of_service), ("bypass", &url_of_bypass)] {
            let world = World::over(Arc::new(postgres_options(url).connect().await.unwrap()), None);
            let terms = KeyTerms::new().with_label(name);
            for trust in ["St. Mary", "St. John", "No key"] {
                world.registry.add_key(&by_name(trust), &terms).await.unwrap();
            }
            let new = NewTrust::new(name).unwrap();
            let (trust, key) = world.registry.register_with(new, &terms).await.unwrap();
            assert!(world.attempt(&key).await.result.is_ok());
            let which = trust.id.into();
            let (row, second) = world.registry.add_key(&which, &terms).await.unwrap();
            world.registry.revoke_key(row.id).await.unwrap();
            assert!(world.attempt(&second).await.result.is_err());
            world.registry.rotate(&which).await.unwrap();
            assert!(world.attempt(&key).await.result.is_err());
            world.registry.delete(&which).await.unwrap();
        }
        // The owner, unless its own table is forced on it.
        let count = "SELECT count(*) FROM trust_key";
        assert_eq!(server.psql(&url_of_owner, count), if is_forced { "0" } else { "6" });

        let seen = "SELECT string_agg(DISTINCT name, ', ') FROM trust_key \
                    JOIN trust ON trust.id = trust";
        assert_eq!(server.psql(&url_of_tenant, seen), "St. John, St. Mary");
        assert_eq!(server.psql(&url_of_tenant, count), "4");
        let id = |number| format!("00000000-0000-4000-8000-00000000000{number}");
        let add = |number, key: &str| {
            format!(
                "INSERT INTO trust_key (id, trust, digest) SELECT gen_random_uuid(), '{}', \
                 encode(sha256('{key}'), 'hex')",
                id(number)
            )
        };
        let mut connection = server.connect(&url_of_tenant).await;
        for sql in [
            add(2, "stolen"),
            add(3, "stolen"),
            format!("UPDATE trust_key SET trust = '{}'", id(2)),
            format!("UPDATE trust_key SET trust = '{}'", id(3)),
        ] {
            let refused =
                connection.execute(AssertSqlSafe(sql.clone())).await.unwrap_err().to_string();
            assert!(refused.contains("row-level security policy"), "{sql}: {refused}");
        }
        connection.execute(AssertSqlSafe(add(1, "mine"))).await.unwrap();
        let of_john = format!("WHERE trust = '{}'", id(2));
        for sql in ["UPDATE trust_key SET revoked_at = NULL ", "DELETE FROM trust_key "] {
            let done = connection.execute(AssertSqlSafe(sql.to_owned() + &of_john)).await.unwrap();
            assert_eq!(done.rows_affected(), 0, "{sql}");
            let done = connection
                .execute(AssertSqlSafe(sql.to_owned() + "WHERE digest <> ''"))
                .await
                .unwrap();
            assert_eq!(done.rows_affected(), 3, "{sql}");
        }
        assert_eq!(server.psql(&url, count), "4");
        // The deletion of a trust that the tenant may delete takes its keys along.
        let delete = format!("DELETE FROM trust WHERE id = '{}'", id(2));
        assert_eq!(connection.execute(AssertSqlSafe(delete)).await.unwrap().rows_affected(), 1);
        assert_eq!(server.psql(&url, count), "2");
    }
}

/// A tool that knows the trusts alone goes on disabling them.
#[tokio::test]
async fn a_role_that_may_not_read_the_keys_disables_trusts_and_each_key_is_evicted() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let world = World::over(store, None);
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (trust, own) = world.register("a").await;
    let (_, other) = world.registry.add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    eventually("the insertions are known", || watcher.status().notifications == 2).await;
    let (name, url_of_role) = server.new_role(&url);
    for rights in [
        format!("GRANT SELECT (id, disabled_at), UPDATE (disabled_at) ON trust TO {name}"),
        // It may read the table, and sees no row of it.
        format!(
            "GRANT SELECT ON trust_key TO {name}; ALTER TABLE trust_key ENABLE ROW LEVEL SECURITY"
        ),
        // It reaches the trusts by a view, and not the schema of the tables.
        format!(
            "ALTER TABLE trust_key DISABLE ROW LEVEL SECURITY; CREATE SCHEMA views; \
             CREATE VIEW views.trust AS SELECT id, disabled_at FROM public.trust; \
             GRANT USAGE ON SCHEMA views TO {name}; GRANT UPDATE ON views.trust TO {name}; \
             ALTER ROLE {name} SET search_path = views; REVOKE USAGE ON SCHEMA public FROM public"
        ),
    ] {
        server.psql(&url, &rights);
        for key in [&own, &other] {
            assert!(world.attempt(key).await.result.is_ok());
        }
        server.psql(&url_of_role, "UPDATE trust SET disabled_at = now()");
        eventually("both keys are evicted", || {
            world.cached(&own).is_none() && world.cached(&other).is_none()
        })
        .await;
        let heard = watcher.status().notifications;
        server.psql(&url, "UPDATE trust SET disabled_at = NULL");
        eventually("that is known", || watcher.status().notifications >= heard + 2).await;
    }
}

/// So does a program of the version before, to which an operator has gone back.
#[tokio::test]
async fn a_trust_is_disabled_where_the_table_of_the_keys_is_renamed_or_dropped() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = Arc::new(postgres_options(&url).connect().await.unwrap());
    let world = World::over(store, None);
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (trust, _) = world.register("a").await;
    let other = KeyHash::of("other");
    for sql in ["ALTER TABLE trust_key RENAME TO former_key", "DROP TABLE former_key"] {
        server.psql(&url, sql);
        world.cache.lease(&other).remember(trust.id);
        assert_eq!(world.cache.lookup(&other), Some(trust.id));
        server.psql(&url, "UPDATE trust SET disabled_at = now()");
        eventually("each key is evicted", || world.cache.lookup(&other).is_none()).await;
        let heard = watcher.status().notifications;
        server.psql(&url, "UPDATE trust SET disabled_at = NULL");
        eventually("that is known", || watcher.status().notifications >= heard + 2).await;
    }
}

/// Another program's table has the name.
#[tokio::test]
async fn a_table_of_keys_that_cannot_be_used_is_refused_with_what_to_do_and_unchanged() {
    let Some(server) = PostgresServer::shared() else { return };
    let ordinary = "is no ordinary table in the schema of the table `trust`";
    for (sql, told) in [
        ("CREATE VIEW trust_key AS SELECT 1 AS id", ordinary),
        ("CREATE TABLE trust_key (id uuid, trust uuid) PARTITION BY HASH (id)", ordinary),
        (
            "CREATE SCHEMA other; CREATE TABLE other.trust_key (id int); \
             ALTER ROLE CURRENT_USER IN DATABASE here SET search_path = public, other",
            ordinary,
        ),
        ("CREATE TABLE trust_key (id uuid, trust uuid)", "`trust_key` has no column `label`"),
        (
            "CREATE TABLE trust_key (id uuid, trust uuid, label text, digest bytea)",
            "the column `digest` of its table `trust_key` has the type `bytea`",
        ),
        (
            "CREATE TABLE trust_key (id uuid, trust text)",
            "the column `trust` of its table `trust_key` has the type `text`",
        ),
        ("ALTER TABLE trust SET UNLOGGED", "make it logged (`ALTER TABLE trust SET LOGGED`)"),
    ] {
        let url = server.new_database();
        server.psql(&url, REFERENCE);
        server.psql(&url, &sql.replace("here", url.rsplit('/').next().unwrap()));
        let before = server.dump(&url);
        let error = refusal(&url).await;
        assert!(error.contains(told), "{sql}: {error}");
        let error = postgres_options(&url).run_migration().await.unwrap_err();
        assert!(error.to_string().contains(told), "{sql}: {error}");
        assert_eq!(server.dump(&url), before, "{sql}");
    }
}

#[tokio::test]
async fn a_role_learns_which_rights_on_the_keys_it_lacks() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let world = World::over(Arc::new(postgres_options(&url).connect().await.unwrap()), None);
    let (trust, _) = world.register("a").await;
    let (row, _) = world.registry.add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    let (name, url_of_role) = server.new_role(&url);
    server.psql(&url, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trust TO {name}"));
    let error = postgres_options(&url_of_role).connect().await.unwrap_err();
    assert!(error.to_string().contains("the right SELECT on the table `trust_key`"), "{error}");
    server.psql(&url, &format!("GRANT SELECT ON trust_key TO {name}"));
    let store = postgres_options(&url_of_role).connect().await.unwrap();
    let which = trust.id.into();
    let both = "the rights INSERT and UPDATE on the table `trust_key`";
    for (error, lacking) in [
        (
            store.add_key(&which, KeyHash::of("b").into()).await.unwrap_err(),
            "the right INSERT on the table `trust_key`",
        ),
        (store.revoke_key(row.id).await.unwrap_err(), both),
        (store.replace_hash(&which, KeyHash::of("b")).await.unwrap_err(), both),
    ] {
        assert_eq!(error.kind(), "missing_right");
        let told = format!("it lacks {lacking}; let the table's owner grant it");
        assert!(error.to_string().contains(&told), "{error}");
    }
    assert_eq!(store.keys(&which).await.unwrap(), [row]);
    store.set_enabled(&which, false).await.unwrap();
    server.psql(&url, &format!("REVOKE SELECT ON trust_key FROM {name}"));
    let error = store.fetch(trust.id).await.unwrap_err();
    assert!(error.to_string().contains("the right SELECT on the table `trust_key`"), "{error}");
    // The server removes the keys itself.
    server.psql(&url, &format!("GRANT SELECT ON trust_key TO {name}"));
    store.delete(&which).await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM trust_key"), "0");
}

/// A restore may leave out the grants. Opening reports that, and not the first request.
#[tokio::test]
async fn a_role_that_may_not_read_the_table_learns_which_right_it_lacks() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    let (name, url_of_role) = server.new_role(&url);
    let error = postgres_options(&url_of_role).connect().await.unwrap_err();
    assert!(error.to_string().contains("the right SELECT on the table `trust`"), "{error}");

    server.psql(&url, &format!("GRANT SELECT ON trust, trust_key TO {name}"));
    let open = postgres_options(&url_of_role).connect().await.unwrap();
    server.psql(&url, &format!("REVOKE SELECT ON trust FROM {name}"));
    let error = open.list().await.unwrap_err();
    assert!(error.to_string().contains("the right SELECT on the table `trust`"), "{error}");

    // The server reports such a table as missing.
    server.psql(
        &url,
        &format!(
            "GRANT SELECT ON trust, trust_key TO {name}; REVOKE USAGE ON SCHEMA public FROM public"
        ),
    );
    let error = postgres_options(&url_of_role).connect().await.unwrap_err();
    assert!(error.to_string().contains("the right USAGE on the schema public"), "{error}");
    drop(store);
}

#[tokio::test]
async fn the_search_path_selects_the_schema_of_the_table() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, "CREATE SCHEMA \"Odd \"\"one\"");
    let odd = format!("{url}?options[search_path]=%22Odd%20%22%22one%22");
    let store = postgres_options(&odd).connect().await.unwrap();
    store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM \"Odd \"\"one\".trust"), "1");
    assert_eq!(server.psql(&url, "SELECT to_regclass('public.trust') IS NULL"), "t");

    // The triggers are in the same schema, although another schema is the first on the path.
    server.psql(&url, "DROP FUNCTION \"Odd \"\"one\".trust_auth_notify CASCADE");
    let second = format!("{url}?options[search_path]=public,%22Odd%20%22%22one%22");
    let plan = postgres_options(&second).run_migration().await.unwrap();
    assert!(plan.to_string().contains("search_path TO \"Odd \"\"one\";"), "{plan}");
    let store = postgres_options(&second).create_if_missing(false).connect().await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
    let functions =
        "SELECT pronamespace::regnamespace FROM pg_proc WHERE proname = 'trust_auth_notify'";
    assert_eq!(server.psql(&url, functions), "\"Odd \"\"one\"");
}

#[tokio::test]
async fn triggers_that_are_removed_disabled_or_changed_are_named_and_made_by_a_migration() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    postgres_options(&url).connect().await.unwrap();
    for damage in [
        "DROP TRIGGER trust_auth_row ON trust",
        "ALTER TABLE trust DISABLE TRIGGER trust_auth_update",
        "ALTER TABLE trust ENABLE TRIGGER trust_auth_truncate",
        "CREATE OR REPLACE FUNCTION trust_auth_notify() RETURNS trigger LANGUAGE plpgsql \
         AS 'BEGIN RETURN NULL; END'",
        "CREATE OR REPLACE TRIGGER trust_auth_row AFTER INSERT ON trust FOR EACH ROW \
         EXECUTE FUNCTION trust_auth_notify()",
        "ALTER TABLE trust DROP COLUMN disabled_at CASCADE",
        "DROP TRIGGER trust_auth_key_row ON trust_key",
        "ALTER TABLE trust_key DISABLE TRIGGER trust_auth_key_update",
        "ALTER TABLE trust_key ENABLE TRIGGER trust_auth_key_truncate",
        "DROP FUNCTION trust_auth_notify_key CASCADE",
        "DROP TRIGGER trust_auth_keys ON trust",
        "CREATE OR REPLACE FUNCTION trust_auth_notify_keys() RETURNS trigger LANGUAGE plpgsql \
         AS 'BEGIN RETURN NULL; END'",
        "DROP TABLE trust_key",
        "ALTER TABLE trust DROP COLUMN attributes",
    ] {
        server.psql(&url, damage);
        let before = server.psql(&url, CATALOG);
        match postgres_options(&url).connect().await {
            Ok(store) => assert!(!store.missing_triggers().is_empty(), "{damage}"),
            Err(error) => {
                let is_needed = damage.contains("DROP COLUMN") || damage.contains("DROP TABLE");
                assert!(is_needed && error.kind() == "not_migrated", "{error}");
            }
        }
        let plan = postgres_options(&url).plan_migration().await.unwrap();
        assert_eq!(server.psql(&url, CATALOG), before, "{damage}");
        assert_eq!(postgres_options(&url).run_migration().await.unwrap(), plan, "{damage}");
        let store = postgres_options(&url)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert_eq!(store.missing_triggers(), [""; 0], "{damage}");
        assert!(postgres_options(&url).run_migration().await.unwrap().is_empty(), "{damage}");
        let sound = "SELECT count(*) FROM pg_trigger JOIN pg_proc ON tgfoid = pg_proc.oid \
                     WHERE tgrelid IN ('trust'::regclass, 'trust_key'::regclass) \
                     AND tgenabled = 'A' \
                     AND prosrc LIKE '%pg_notify%' AND tgtype IN (13, 17, 32)";
        assert_eq!(server.psql(&url, sound), "7", "{damage}");
    }
}

#[tokio::test]
async fn a_table_that_cannot_be_used_is_refused_with_what_to_do_and_unchanged() {
    let Some(server) = PostgresServer::shared() else { return };
    let with = |from: &str, to: &str| {
        assert!(REFERENCE.contains(from));
        let (table, _) = REFERENCE.split_once("INSERT").unwrap();
        table.replace(from, to)
    };
    for (sql, told) in [
        ("CREATE VIEW trust AS SELECT 1 AS id".into(), "no ordinary table; rename that"),
        (
            with("name VARCHAR NOT NULL", "title VARCHAR, other VARCHAR")
                .replace(", UNIQUE (name)", ""),
            "no column `name`",
        ),
        (
            with("id UUID", "id BIGINT"),
            "`id` of its table `trust` has the type `bigint`, and must have `uuid`",
        ),
        (with("api_key_hash VARCHAR(64)", "api_key_hash VARCHAR(63)"), "too short for 64 digits"),
        (with("api_key_hash VARCHAR(64)", "api_key_hash BYTEA"), "`bytea`"),
        (with(", UNIQUE (name)", ""), "`name` of its table `trust` is not unique"),
        (
            with("UNIQUE (name)", "UNIQUE (name) DEFERRABLE"),
            "`name` of its table `trust` is not unique",
        ),
        (
            with("PRIMARY KEY (id)", "PRIMARY KEY (id, name)"),
            "`id` of its table `trust` is not unique",
        ),
    ] {
        let url = server.new_database();
        server.psql(&url, &sql);
        let error = refusal(&url).await;
        assert!(error.contains(told), "{sql}: {error}");
        let made = "SELECT count(*) FROM pg_proc WHERE proname = 'trust_auth_notify'";
        assert_eq!(server.psql(&url, made), "0");
    }
    let name = format!("test_{}", Uuid::new_v4().simple());
    server.psql(
        "postgres",
        &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"),
    );
    assert!(refusal(&server.url(&name)).await.contains("use a database whose encoding is UTF8"));
}

/// Before PostgreSQL 15, every role may make functions in `public`. An operator for `varchar` would
/// take precedence over PostgreSQL's own.
#[tokio::test]
async fn nothing_that_another_role_has_put_into_the_schema_is_called() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    for right in ["varchar", "text"] {
        server.psql(
            &url,
            &format!(
                "CREATE FUNCTION planted(varchar, {right}) RETURNS boolean LANGUAGE plpgsql
                     AS $$ BEGIN RAISE 'planted'; END $$;
                 CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = {right}, FUNCTION = planted);"
            ),
        );
    }
    server.psql(
        &url,
        "CREATE FUNCTION length(varchar) RETURNS integer LANGUAGE plpgsql
             AS $$ BEGIN RAISE 'planted'; END $$;
         CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE plpgsql
             AS $$ BEGIN RAISE 'planted'; END $$;
         CREATE TABLE probe (name varchar); INSERT INTO probe VALUES ('a')",
    );
    let mut other = server.connect(&url).await;
    let trap = other.execute("SELECT FROM probe WHERE name = name").await.unwrap_err();
    assert!(trap.to_string().contains("planted"), "the trap does not work: {trap}");

    let world = World::over(Arc::new(postgres_options(&url).connect().await.unwrap()), None);
    let (trust, key) = world.register_hot("a").await;
    world.registry.rotate(&by_name("a")).await.unwrap();
    world.registry.disable(&by_name("a")).await.unwrap();
    world.registry.enable(&by_name("a")).await.unwrap();
    assert!(world.attempt(&key).await.result.is_err());
    assert_eq!(world.store.list().await.unwrap().len(), 1);
    postgres_options(&url).connect().await.unwrap();
    world.registry.delete(&trust.id.into()).await.unwrap();
}

/// A row with values that this program never writes is refused, and no other row is affected.
#[tokio::test]
async fn malformed_rows_are_refused_and_the_others_are_read() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, &REFERENCE.replace("VARCHAR(64)", "TEXT"));
    let store: PostgresStore = postgres_options(&url).migrate(true).connect().await.unwrap();
    let ids = [1_u128, 2, 3].map(|number| Uuid::from_u128(0x4000_8000_0000_0000_0000 + number));

    for digits in ["", "x", "\u{ff11}", " "] {
        let hash = format!("{}{digits}", KeyHash::of("john").to_hex());
        let hash = if digits.is_empty() { String::new() } else { hash };
        server.psql(
            &url,
            &format!("UPDATE trust SET api_key_hash = '{hash}' WHERE id = '{}'", ids[1]),
        );
        assert_eq!(store.fetch(ids[1]).await.unwrap().unwrap().api_key_hash, None);
        assert_eq!(store.candidates().await.unwrap().len(), 1);
    }
    // PostgreSQL stores a value of megabytes apart from its row. The trigger and the store treat
    // the value as malformed.
    server.psql(
        &url,
        &format!("UPDATE trust SET api_key_hash = repeat('0', 3000000) WHERE id = '{}'", ids[1]),
    );
    server
        .psql(&url, &format!("UPDATE trust SET name = repeat('n', 2000) WHERE id = '{}'", ids[1]));
    assert_eq!(store.candidates().await.unwrap().len(), 1);

    server.psql(
        &url,
        &format!("UPDATE trust SET last_heartbeat = 'infinity' WHERE id = '{}'", ids[0]),
    );
    assert_eq!(store.fetch(ids[0]).await.unwrap().unwrap().last_heartbeat, None);
    server
        .psql(&url, &format!("UPDATE trust SET disabled_at = '-infinity' WHERE id = '{}'", ids[0]));
    let error = store.fetch(ids[0]).await.unwrap_err();
    assert!(
        matches!(error, StoreError::BadRow { id: Some(id), column: "disabled_at" } if id == ids[0]),
        "{error}"
    );
    assert_eq!(
        store.candidates().await.unwrap().len(),
        0,
        "a trust that may be disabled is granted"
    );
    server.psql(
        &url,
        &format!(
            "UPDATE trust SET disabled_at = NULL, created_at = 'infinity' WHERE id = '{}'",
            ids[0]
        ),
    );
    let error = store.fetch(ids[0]).await.unwrap_err();
    assert!(matches!(error, StoreError::BadRow { column: "created_at", .. }), "{error}");
    assert!(store.fetch(ids[2]).await.unwrap().is_some());

    let listing = store.listing().await.unwrap();
    assert_eq!(listing.trusts.len(), 2);
    let malformed: Vec<_> = listing.malformed.iter().map(|row| (row.id, row.column)).collect();
    assert_eq!(malformed, [(Some(ids[0]), "created_at")]);
    let rotated = store.replace_hash(&ids[0].into(), KeyHash::of("new")).await.unwrap();
    assert_eq!(rotated.trust.created_at, None);
    let disable = "UPDATE trust SET disabled_at = 'infinity' WHERE id = ";
    server.psql(&url, &format!("{disable}'{}'", ids[0]));
    assert!(!store.set_enabled(&ids[0].into(), false).await.unwrap().trust.is_enabled());
    server.psql(&url, &format!("UPDATE trust SET created_at = now() WHERE id = '{}'", ids[0]));
    assert!(
        !store.fetch(ids[0]).await.unwrap().unwrap().is_enabled(),
        "since now, which can be read"
    );
    server
        .psql(&url, &format!("UPDATE trust SET created_at = '-infinity' WHERE id = '{}'", ids[0]));
    store.delete(&ids[0].into()).await.unwrap();
    assert_eq!(store.listing().await.unwrap().malformed, []);
}
