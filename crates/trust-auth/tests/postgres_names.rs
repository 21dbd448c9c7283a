//! A PostgreSQL store over an application's own table: what a migration adds and leaves as it is,
//! that every operation works under the names, and that errors have them.

mod stores;

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, Row};
use stores::postgres_server::PostgresServer;
use stores::{World, by_name, eventually, postgres_options, users};
use trust_auth::{
    Authenticator, FindBy, KeyHash, KeyTerms, NewTrust, PostgresOptions, PostgresStore, Route,
    StoreError, TableNames, TrustColumn, TrustLedger, TrustStore, Waiting,
};

/// An application's table, with rows and columns of its own.
const USERS: &str = "
    CREATE TABLE users (
        user_id uuid PRIMARY KEY, email varchar NOT NULL UNIQUE,
        code int NOT NULL DEFAULT 7, password text, key_sha256 varchar(64),
        made_at timestamptz NOT NULL DEFAULT now(), deactivated_at timestamptz
    );
    CREATE INDEX ix_users_password ON users (password);
    INSERT INTO users (user_id, email, password, key_sha256, made_at, deactivated_at) VALUES
        ('00000000-0000-4000-8000-000000000001', 'mary', 'a', encode(sha256('mary'), 'hex'),
            '2024-02-29 12:00Z', NULL),
        ('00000000-0000-4000-8000-000000000002', 'john', 'b',
            upper(encode(sha256('john'), 'hex')), '2024-03-01 12:00Z', NULL),
        ('00000000-0000-4000-8000-000000000003', 'left', NULL, encode(sha256('left'), 'hex'),
            '2024-03-02 12:00Z', '2024-03-03 12:00Z')";

/// What the application has written, with the transactions that wrote it.
const ROWS: &str = "SELECT ctid, xmin, user_id, email, code, password, key_sha256, made_at \
                    FROM users ORDER BY user_id";

fn options(url: &str) -> PostgresOptions {
    postgres_options(url).names(users())
}

/// Makes a database with the users, and opens it after a migration.
async fn migrated(server: &PostgresServer) -> (String, Arc<PostgresStore>) {
    let url = server.new_database();
    server.psql(&url, USERS);
    let store = options(&url).migrate(true).connect().await.unwrap();
    (url, Arc::new(store))
}

#[tokio::test]
async fn a_migration_adds_what_the_users_lack_and_leaves_the_rest_as_it_is() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    server.psql(&url, "ALTER TABLE users DROP COLUMN deactivated_at");
    let names = users().column(TrustColumn::Attributes, "Über uns");
    let options = || postgres_options(&url).names(names.clone());
    let (dump, rows) = (server.dump(&url), server.psql(&url, ROWS));
    let error = options().connect().await.unwrap_err();
    let StoreError::NotMigrated { missing, .. } = &error else { panic!("{error}") };
    let lacking = [
        "the column `deactivated_at` of the table `users`",
        "the column `Über uns` of the table `users`",
        "the table `user_keys`",
    ];
    assert_eq!(missing, &lacking);
    let plan = options().plan_migration().await.unwrap();
    assert_eq!(plan.missing()[..3], lacking);
    assert_eq!(plan.missing().len(), 3 + 7, "{plan}");
    assert_eq!(server.dump(&url), dump, "a plan changes nothing");

    assert_eq!(options().run_migration().await.unwrap(), plan);
    assert!(options().plan_migration().await.unwrap().is_empty());
    assert_eq!(server.psql(&url, ROWS), rows, "the rows were rewritten");
    let after = server.dump(&url);
    let kept =
        |line: &&str| !line.starts_with("INSERT") && !after.contains(line.trim_end_matches(','));
    assert_eq!(dump.lines().filter(kept).collect::<Vec<_>>(), [""; 0]);
    let added = "SELECT attname, format_type(atttypid, NULL), attnotnull FROM pg_attribute \
                 WHERE attrelid = 'users'::regclass AND attnum > 7 ORDER BY attnum";
    assert_eq!(
        server.psql(&url, added),
        "deactivated_at|timestamp with time zone|f\nÜber uns|jsonb|f"
    );
    let made = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class \
                WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    assert_eq!(server.psql(&url, made), "user_keys users");
    let refers = "SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                  WHERE conrelid = 'user_keys'::regclass AND contype = 'f'";
    assert_eq!(
        server.psql(&url, refers),
        "FOREIGN KEY (trust) REFERENCES users(user_id) ON DELETE CASCADE"
    );
    let store = options().connect().await.unwrap();
    assert!(store.missing_triggers().is_empty());
    assert_eq!(store.list().await.unwrap().len(), 3);
    let which = by_name("mary");
    let scopes = serde_json::json!({"scopes": ["read"]});
    store.set_attributes(&which, Some(scopes.clone())).await.unwrap();
    assert_eq!(store.list().await.unwrap()[2].attributes, Some(scopes));

    // The plan is the SQL that runs, and psql runs it, too.
    let other = server.new_database();
    server.psql(&other, USERS);
    server.psql(&other, "ALTER TABLE users DROP COLUMN deactivated_at");
    server.psql(&other, &plan.to_string());
    assert!(postgres_options(&other).names(names).plan_migration().await.unwrap().is_empty());
}

#[tokio::test]
async fn every_operation_works_on_the_users_and_their_own_columns_stay() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store) = migrated(server).await;
    let world = World::over(Arc::clone(&store), None);
    let attempt = async |key: &str| {
        let attempt = world.authenticator.attempt(Some(key)).await;
        (attempt.result.map(|trust| trust.name).ok(), attempt.route)
    };
    for (key, name) in [("mary", "mary"), ("john", "john")] {
        assert_eq!(attempt(key).await, (Some(name.to_owned()), Route::Scan));
        assert_eq!(attempt(key).await, (Some(name.to_owned()), Route::Hit));
    }
    assert_eq!(attempt("left").await.0, None);
    let listed = store.list().await.unwrap();
    let shown: Vec<_> = listed.iter().map(|user| (&*user.name, user.is_enabled())).collect();
    assert_eq!(shown, [("john", true), ("left", false), ("mary", true)]);
    let mary = &listed[2];
    assert_eq!(mary.created_at.unwrap().unix_timestamp(), 1_709_208_000);
    assert_eq!((&mary.code, &mary.region, &mary.attributes), (&None, &None, &None));
    assert_eq!(mary.last_heartbeat, None);

    let (user, key) = world.register("ann").await;
    assert!(world.attempt(&key).await.result.is_ok());
    let row = "SELECT email, code, key_sha256, made_at <= now() FROM users WHERE user_id = ";
    let digits = key.hash().to_hex();
    let found = server.psql(&url, &format!("{row}'{}'", user.id));
    assert_eq!(found, format!("ann|7|{digits}|t"));
    let taken = world.registry.register(NewTrust::new("mary").unwrap()).await.unwrap_err();
    assert!(taken.to_string().contains("mary"), "{taken}");

    // Keys of its own rows, and a rotation that leaves the old ones for a while.
    let which = by_name("ann");
    let (row, second) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    assert!(world.attempt(&second).await.result.is_ok());
    let hour = Some(Duration::from_secs(3_600));
    let (revocation, third) =
        world.registry.begin_rotate_with(&which, &KeyTerms::new(), hour).await.unwrap();
    revocation.settle(Waiting::default()).await.unwrap();
    for key in [&key, &second, &third] {
        assert!(world.attempt(key).await.result.is_ok());
    }
    world.registry.revoke_key(row.id).await.unwrap();
    assert!(world.attempt(&second).await.result.is_err());
    server.psql(&url, "UPDATE user_keys SET expires_at = now() WHERE revoked_at IS NULL");
    assert!(world.attempt(&key).await.result.is_err());
    let ended = store.ended_keys(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(ended.iter().map(|key| key.hash).collect::<Vec<_>>(), [key.hash()]);
    assert_eq!(store.keys(&which).await.unwrap().len(), 2);

    world.registry.disable(&which).await.unwrap();
    assert!(world.attempt(&third).await.result.is_err());
    world.registry.enable(&which).await.unwrap();
    assert!(world.attempt(&third).await.result.is_ok());
    let (_, fourth) = world.registry.rotate(&user.id.into()).await.unwrap();
    assert!(world.attempt(&third).await.result.is_err());
    assert!(world.attempt(&fourth).await.result.is_ok());
    world.registry.import_key(NewTrust::new("bob").unwrap(), "bob's key").await.unwrap();
    assert_eq!(attempt("bob's key").await.0.as_deref(), Some("bob"));
    let taken = world.registry.import_key(NewTrust::new("eve").unwrap(), "mary").await;
    assert!(taken.is_err());
    store.check_writes().await.unwrap();
    store.check_notifications().await.unwrap();
    world.registry.delete(&which).await.unwrap();
    assert!(world.attempt(&fourth).await.result.is_err());
    assert_eq!(server.psql(&url, "SELECT count(*) FROM user_keys"), "0");
    let kept = "SELECT email, code, password FROM users WHERE made_at < '2025-01-01' ORDER BY 1";
    assert_eq!(server.psql(&url, kept), "john|7|b\nleft|7|\nmary|7|a");

    // By the application's own pool, too.
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let over = PostgresStore::over(pool).names(users()).connect().await.unwrap();
    assert_eq!(over.fetch(mary.id).await.unwrap().unwrap().name, "mary");
}

#[tokio::test]
async fn a_value_for_a_column_that_is_left_out_is_refused_and_writes_nothing() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store) = migrated(server).await;
    let rows = server.psql(&url, ROWS);
    let new = || NewTrust::new("ann").unwrap();
    let hash = KeyHash::of("ann");
    for (column, new) in [
        ("code", new().with_code("A")),
        ("region", new().with_region("north")),
        ("attributes", new().with_attributes(serde_json::json!({}))),
    ] {
        let error = store.insert(new, hash).await.unwrap_err().to_string();
        assert!(error.contains(&format!("`users` has no column for `{column}`")), "{error}");
    }
    let error = store.set_attributes(&by_name("mary"), None).await.unwrap_err().to_string();
    assert!(error.contains("`users` has no column for `attributes`"), "{error}");
    assert_eq!(server.psql(&url, ROWS), rows);
}

#[tokio::test]
async fn a_watcher_drops_exactly_the_keys_that_the_application_changes() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store) = migrated(server).await;
    let world = World::over(Arc::clone(&store), None);
    let watcher = store.watch(Arc::clone(&world.cache));
    eventually("it is connected", || watcher.status().connected).await;
    let (user, own) = world.register("ann").await;
    let which = user.id.into();
    let (row, other) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    let (_, third) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    eventually("the insertions are known", || watcher.status().notifications >= 3).await;
    let mary = KeyHash::of("mary");
    let warm = async || {
        for key in [&own, &other, &third] {
            let _ = world.attempt(key).await;
        }
        assert!(world.authenticator.authenticate(Some("mary")).await.is_ok());
        assert!(world.cache.lookup(&mary).is_some());
    };
    warm().await;
    server.psql(&url, &format!("UPDATE user_keys SET revoked_at = now() WHERE id = '{}'", row.id));
    eventually("the revoked key is dropped", || world.cached(&other).is_none()).await;
    assert!(world.cached(&own).is_some() && world.cached(&third).is_some());
    server.psql(&url, "UPDATE users SET deactivated_at = now() WHERE email = 'ann'");
    eventually("all keys are dropped", || {
        world.cached(&own).is_none() && world.cached(&third).is_none()
    })
    .await;
    assert!(world.cache.lookup(&mary).is_some(), "another user's key is still there");
    let heard = watcher.status().notifications;
    server.psql(&url, "UPDATE users SET deactivated_at = NULL WHERE email = 'ann'");
    eventually("that is known", || watcher.status().notifications >= heard + 2).await;
    warm().await;
    // A login writes a column of the application alone, and notifies of nothing.
    let heard = watcher.status().notifications;
    server.psql(&url, "UPDATE users SET code = code + 1, password = 'new'");
    let digits = KeyHash::of("another").to_hex();
    server.psql(
        &url,
        &format!("UPDATE users SET key_sha256 = '{digits}' WHERE user_id = '{}'", user.id),
    );
    eventually("the replaced key is dropped", || world.cached(&own).is_none()).await;
    assert_eq!(watcher.status().notifications, heard + 1);
    assert!(world.cached(&third).is_some());
    server.psql(&url, "DELETE FROM users WHERE email = 'ann'");
    eventually("the last key is dropped", || world.cached(&third).is_none()).await;
    assert!(world.cache.lookup(&mary).is_some(), "another user's key is still there");
    server.psql(&url, "TRUNCATE users CASCADE");
    eventually("each key is dropped", || world.cache.lookup(&mary).is_none()).await;

    // The watcher looks for the triggers of these tables.
    for damage in [
        "DROP TRIGGER trust_auth_key_row ON user_keys",
        "ALTER TABLE users DISABLE TRIGGER trust_auth_keys",
    ] {
        server.psql(&url, damage);
        eventually("it is missed", || watcher.status().triggers_missing).await;
        options(&url).run_migration().await.unwrap();
        eventually("it is back", || !watcher.status().triggers_missing).await;
    }
}

/// Returns the nodes of the plan of each statement that the store sends, without the names in them.
async fn plans(server: &PostgresServer, url: &str, store: &PostgresStore) -> Vec<(String, String)> {
    let id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let mut sent = Vec::new();
    let mut record = |name: &str| {
        let sql = "SELECT query FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'trust-auth' AND query ~ 'recovery' \
                   ORDER BY query_start DESC LIMIT 1";
        sent.push((name.to_owned(), server.psql(url, sql)));
    };
    store.fetch(id).await.unwrap().unwrap();
    record("fetch");
    store.fetch_for(id, &KeyHash::of("1")).await.unwrap();
    record("fetch_for");
    store.candidates().await.unwrap();
    record("key candidates");
    store.list().await.unwrap();
    record("list");
    store.find(&KeyHash::of("1")).await.unwrap();
    record("find");
    store.ended_keys(Duration::from_secs(60)).await.unwrap();
    record("ended");
    sent.push((
        "candidates".to_owned(),
        "SELECT pg_is_in_recovery(), id, api_key_hash::text FROM TRUSTS \
         WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY created_at, id"
            .to_owned(),
    ));
    for (at, (name, sql)) in sent.iter().enumerate() {
        assert!(sent[..at].iter().all(|(_, earlier)| earlier != sql), "{name}: {sql}");
    }
    let row = sent[1].1.clone();
    let trusts = &row[row.find(" FROM ").unwrap() + 6..row.rfind(" WHERE ").unwrap()];
    sent.last_mut().unwrap().1 = sent.last().unwrap().1.replace("TRUSTS", trusts);
    let mut connection = server.connect(url).await;
    let mut plans = Vec::new();
    for (name, sql) in sent {
        assert!(sql.contains(trusts), "{name}: {sql}");
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let argument = match &*name {
                "fetch" | "fetch_for" => "('00000000-0000-4000-8000-000000000001')",
                "find" => "(ARRAY['a', 'b'])",
                "ended" => "(60)",
                _ => "",
            };
            for sql in [format!("SET plan_cache_mode = {mode}"), format!("PREPARE s AS {sql}")] {
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
            }
            let explain = format!("EXPLAIN (COSTS off) EXECUTE s {argument}");
            let lines = connection.fetch_all(AssertSqlSafe(explain)).await.unwrap();
            let lines = lines.iter().map(|line| line.get::<String, _>(0));
            let node = |line: String| {
                let is_node = line.contains("->") || !line.starts_with(' ');
                let end = line.find(" using ").or(line.find(" on ")).unwrap_or(line.len());
                is_node.then(|| line[..end].to_owned())
            };
            let nodes: Vec<String> = lines.filter_map(node).collect();
            plans.push((format!("{name} {mode}"), nodes.join("\n")));
            connection.execute("DEALLOCATE s").await.unwrap();
        }
    }
    plans
}

/// A hit, a miss and a find must not cost more under other names.
#[tokio::test]
async fn each_statement_is_planned_as_under_the_default_names() {
    let Some(server) = PostgresServer::start_with(|_| "-c track_activity_query_size=16384".into())
    else {
        return;
    };
    let mut found = Vec::new();
    for names in [TableNames::default(), users()] {
        let is_own = names != TableNames::default();
        let url = server.new_database();
        server.psql(&url, if is_own { USERS } else { "" });
        let options = postgres_options(&url).names(names).migrate(true);
        let store = options.clone().connect().await.unwrap();
        options.make_index().await.unwrap();
        let fill = "DELETE FROM trust; \
             INSERT INTO trust (id, name, api_key_hash) SELECT \
             ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, n::text, \
             encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 5000) AS n; \
             INSERT INTO trust_key (id, trust, digest) SELECT gen_random_uuid(), id, \
             encode(sha256(name::bytea), 'hex') FROM trust WHERE name LIKE '%7'; \
             ANALYZE trust; ANALYZE trust_key";
        let fill = match is_own {
            true => fill
                .replace("trust_key", "user_keys")
                .replace(" trust ", " users ")
                .replace(" trust;", " users;")
                .replace("(id, name, api_key_hash)", "(user_id, email, key_sha256)")
                .replace("gen_random_uuid(), id", "gen_random_uuid(), user_id")
                .replace("name", "email"),
            false => fill.to_owned(),
        };
        server.psql(&url, &fill);
        found.push(plans(&server, &url, &store).await);
    }
    let own = found.pop().unwrap();
    for ((name, own), (_, default)) in own.iter().zip(&found[0]) {
        assert_eq!(own, default, "{name}");
        assert!(!own.contains("Subquery Scan") || default.contains("Subquery Scan"), "{name}");
    }
    let of = |name: &str| &own.iter().find(|(found, _)| found.starts_with(name)).unwrap().1;
    assert!(of("fetch_for").contains("Index Scan") && !of("fetch_for").contains("Seq Scan"));
    assert!(!of("fetch ").contains("Seq Scan") && !of("find").contains("Seq Scan"));
}

#[tokio::test]
async fn the_indexes_are_made_on_the_users_and_find_their_keys() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store) = migrated(server).await;
    let Err(StoreError::NoIndex { sql, .. }) = store.check_index().await else { panic!() };
    let wanted = "CREATE INDEX CONCURRENTLY \"trust_api_key_hash_users.user_keys\" ON \
                  public.\"users\" (\"key_sha256\");\n\
                  CREATE INDEX CONCURRENTLY \"trust_key_digest_users.user_keys\" ON \
                  public.\"user_keys\" (digest);";
    assert_eq!(sql, wanted);
    let plan = options(&url).make_index().await.unwrap();
    assert_eq!(plan.to_string().trim_end(), wanted);
    assert_eq!(plan.missing()[0], "the index `trust_api_key_hash_users.user_keys`");
    assert!(options(&url).plan_index().await.unwrap().is_empty());
    store.check_index().await.unwrap();
    // An attempt that failed left an index that is not valid.
    server.psql(
        &url,
        "UPDATE pg_index SET indisvalid = false \
         WHERE indexrelid = '\"trust_api_key_hash_users.user_keys\"'::regclass",
    );
    let plan = options(&url).make_index().await.unwrap();
    assert!(plan.to_string().starts_with("DROP INDEX CONCURRENTLY public.\"trust_api"), "{plan}");
    store.check_index().await.unwrap();

    let world = World::over(Arc::clone(&store), None);
    let (_, other) = world.registry.add_key(&by_name("mary"), &KeyTerms::new()).await.unwrap();
    let authenticator = Authenticator::builder(Arc::clone(&store), Arc::clone(&world.cache))
        .find_by(FindBy::Index)
        .build();
    for (key, name) in [("mary", "mary"), ("john", "john"), (other.expose(), "mary")] {
        let attempt = authenticator.attempt(Some(key)).await;
        assert_eq!((attempt.result.unwrap().name, attempt.route), (name.to_owned(), Route::Find));
    }
    for key in ["left", "unknown"] {
        assert!(authenticator.authenticate(Some(key)).await.is_err());
    }
}

#[tokio::test]
async fn a_role_learns_which_rights_on_the_users_and_their_keys_it_lacks() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    let (name, url_of_role) = server.new_role(&url);
    let grant = |rights: &str| server.psql(&url, &format!("GRANT {rights} TO {name}"));
    let error = options(&url_of_role).run_migration().await.unwrap_err();
    assert!(error.to_string().contains("ownership of the table `users`;"), "{error}");
    options(&url).run_migration().await.unwrap();
    let refusal = async || options(&url_of_role).connect().await.unwrap_err().to_string();
    let error = refusal().await;
    assert!(error.contains("the right SELECT on the table `users`;"), "{error}");
    grant("SELECT ON users");
    let error = refusal().await;
    assert!(error.contains("the right SELECT on the table `user_keys`;"), "{error}");
    grant("SELECT ON user_keys");
    let store = options(&url_of_role).connect().await.unwrap();
    let mary = by_name("mary");
    let hash = KeyHash::of("new");
    for (error, lacks) in [
        (
            store.delete(&mary).await.unwrap_err(),
            "the rights UPDATE and DELETE on the table `users`;",
        ),
        (
            store.set_enabled(&mary, false).await.unwrap_err(),
            "the right UPDATE on the table `users`;",
        ),
        (
            store.insert(NewTrust::new("b").unwrap(), hash).await.unwrap_err(),
            "the right INSERT on the table `users`, and the right INSERT on the table `user_keys`;",
        ),
        (store.check_writes().await.unwrap_err(), "the right UPDATE on the table `users`;"),
    ] {
        assert_eq!(error.kind(), "missing_right");
        assert!(error.to_string().contains(lacks), "{error}");
    }
    grant("UPDATE ON users");
    let error = store.replace_hash(&mary, hash).await.unwrap_err().to_string();
    assert!(error.contains("the rights INSERT and UPDATE on the table `user_keys`;"), "{error}");
    store.set_enabled(&mary, false).await.unwrap();

    // The schema of the table may be closed to the role.
    server.psql(&url, "REVOKE USAGE ON SCHEMA public FROM public");
    let error = refusal().await;
    assert!(error.contains("the schema public, which has the table `users`;"), "{error}");
}

/// An application shows the service neither the passwords nor its other columns.
#[tokio::test]
async fn a_role_with_rights_on_the_named_columns_alone_does_all_but_make_and_remove_users() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    options(&url).run_migration().await.unwrap();
    options(&url).make_index().await.unwrap();
    let (name, url_of_role) = server.new_role(&url);
    server.psql(
        &url,
        &format!(
            "GRANT SELECT (user_id, email, key_sha256, made_at, deactivated_at), \
             UPDATE (key_sha256, deactivated_at) ON users TO {name}; \
             GRANT SELECT, INSERT, UPDATE ON user_keys TO {name}"
        ),
    );
    let store = Arc::new(options(&url_of_role).connect().await.unwrap());
    store.check_index().await.unwrap();
    store.check_writes().await.unwrap();
    let world = World::over(Arc::clone(&store), None);
    assert!(world.authenticator.authenticate(Some("mary")).await.is_ok());
    let which = by_name("mary");
    let (row, key) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
    assert_eq!(store.find(&key.hash()).await.unwrap(), Some(row.trust));
    world.registry.revoke_key(row.id).await.unwrap();
    world.registry.rotate(&which).await.unwrap();
    world.registry.disable(&which).await.unwrap();
    assert_eq!(world.registry.list().await.unwrap().len(), 3);
    let error = store.delete(&which).await.unwrap_err().to_string();
    assert!(error.contains("the right DELETE on the table `users`;"), "{error}");
}

/// A migration gives a role the rights on the keys that it has on the users, and their policies.
#[tokio::test]
async fn the_keys_have_the_rights_and_the_row_level_security_of_the_users() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    let ((owner, url_of_owner), (tenant, url_of_tenant)) =
        (server.new_role(&url), server.new_role(&url));
    server.psql(
        &url,
        &format!(
            "ALTER TABLE users OWNER TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}; \
             GRANT SELECT, UPDATE, DELETE ON users TO {tenant}; \
             ALTER TABLE users ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY see ON users FOR SELECT TO {tenant} USING (email <> 'left'); \
             CREATE POLICY change ON users FOR UPDATE TO {tenant} USING (email = 'mary')"
        ),
    );
    options(&url).run_migration().await.unwrap();
    let owner_of_keys = "SELECT relowner::regrole FROM pg_class WHERE relname = 'user_keys'";
    assert_eq!(server.psql(&url, owner_of_keys), owner);
    let of_owner = options(&url_of_owner).connect().await.unwrap();
    for (name, key) in [("mary", "m"), ("john", "j"), ("left", "l")] {
        of_owner.add_key(&by_name(name), KeyHash::of(key).into()).await.unwrap();
    }
    assert_eq!(server.psql(&url_of_tenant, "SELECT count(*) FROM user_keys"), "2");
    let store = options(&url_of_tenant).connect().await.unwrap();
    store.add_key(&by_name("mary"), KeyHash::of("m2").into()).await.unwrap();
    let error = store.add_key(&by_name("john"), KeyHash::of("j2").into()).await.unwrap_err();
    assert!(error.to_string().contains("change this row of the table `users`;"), "{error}");
    let mut connection = server.connect(&url_of_tenant).await;
    let done = connection.execute("UPDATE user_keys SET revoked_at = now()").await.unwrap();
    assert_eq!(done.rows_affected(), 2, "those of mary");
    let done = connection.execute("DELETE FROM user_keys").await.unwrap();
    assert_eq!(done.rows_affected(), 2, "those of mary");
}

#[tokio::test]
async fn any_name_that_the_server_allows_can_be_used() {
    let Some(server) = PostgresServer::shared() else { return };
    let long = |end: &str| format!("{}{end}", "é".repeat(31));
    for (table, key_table, columns) in [
        ("order", "user", ["select", "from", "where", "table", "end"].map(str::to_owned)),
        (
            "My Users",
            "Keys of Users",
            ["ID", "E Mail", "Key %s", "Made;--", "a.b"].map(str::to_owned),
        ),
        (
            "ключи",
            "%s 100%",
            ["id", "old_hash", "new_hash", "hexadecimal", "keys"].map(str::to_owned),
        ),
        (&*long("a"), &*long("b"), ["1", "2", "3", "4", "5"].map(long)),
        ("trust_key", "trust", ["name", "id", "code", "region", "trust"].map(str::to_owned)),
        ("trust", "trust_key", ["user", "name", "hash", "made", "off"].map(str::to_owned)),
    ] {
        let url = server.new_database();
        let [id, name, hash, made, disabled] = &columns;
        server.psql(
            &url,
            &format!(
                "CREATE TABLE \"{table}\" (\"{id}\" uuid PRIMARY KEY, \"{name}\" text UNIQUE, \
                 \"{hash}\" text, \"{made}\" timestamptz, \"{disabled}\" timestamptz); \
                 ALTER TABLE \"{table}\" ENABLE ROW LEVEL SECURITY"
            ),
        );
        let names = users()
            .table(table)
            .key_table(key_table)
            .column(TrustColumn::Id, id)
            .column(TrustColumn::Name, name)
            .column(TrustColumn::ApiKeyHash, hash)
            .column(TrustColumn::CreatedAt, made)
            .column(TrustColumn::DisabledAt, disabled);
        let options = postgres_options(&url).names(names);
        let plan = options.run_migration().await.unwrap();
        assert_eq!(plan.missing().len(), 1 + 7, "{plan}");
        assert!(options.plan_migration().await.unwrap().is_empty(), "{table}");
        options.make_index().await.unwrap();
        let store = Arc::new(options.connect().await.unwrap());
        store.check_index().await.unwrap();
        let world = World::over(Arc::clone(&store), None);
        let watcher = store.watch(Arc::clone(&world.cache));
        eventually("it is connected", || watcher.status().connected).await;
        let (user, own) = world.register("ann").await;
        let which = user.id.into();
        let (row, other) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
        eventually("the insertions are known", || watcher.status().notifications >= 2).await;
        for key in [&own, &other] {
            assert_eq!(store.find(&key.hash()).await.unwrap(), Some(user.id));
            assert!(world.attempt(key).await.result.is_ok());
        }
        server.psql(&url, &format!("UPDATE \"{table}\" SET \"{disabled}\" = now()"));
        eventually("both keys are evicted", || {
            world.cached(&own).is_none() && world.cached(&other).is_none()
        })
        .await;
        world.registry.enable(&which).await.unwrap();
        world.registry.revoke_key(row.id).await.unwrap();
        assert!(world.attempt(&other).await.result.is_err());
        let (_, third) = world.registry.rotate(&by_name("ann")).await.unwrap();
        assert!(world.attempt(&third).await.result.is_ok());
        assert_eq!(store.list().await.unwrap().len(), 1);
        assert!(store.ended_keys(Duration::from_secs(1)).await.unwrap().is_empty());
        world.registry.delete(&by_name("ann")).await.unwrap();
    }
}

/// Selects what the catalog has of two tables and their triggers, with the transactions that wrote
/// it.
fn catalog(server: &PostgresServer, url: &str, tables: [&str; 2]) -> String {
    let tables = tables.map(|table| format!("'{table}'::regclass")).join(", ");
    let sql = format!(
        "SELECT 'column', xmin, attname::text FROM pg_attribute WHERE attrelid IN ({tables}) \
         UNION ALL SELECT 'trigger', g.xmin, concat(tgname, ' ', f.oid, ' ', f.xmin) \
             FROM pg_trigger AS g JOIN pg_proc AS f ON f.oid = tgfoid WHERE tgrelid IN ({tables}) \
         UNION ALL SELECT 'index', xmin, indexrelid::text FROM pg_index \
             WHERE indrelid IN ({tables}) ORDER BY 1, 3"
    );
    server.psql(url, &sql)
}

#[tokio::test]
async fn two_tables_of_one_schema_have_their_own_keys_triggers_and_indexes() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    server.psql(&url, &USERS.replace("users", "staff").replace("user_id", "staff_id"));
    let staff = users().table("staff").key_table("staff_keys").column(TrustColumn::Id, "staff_id");
    let sets = [
        (TableNames::default(), ["trust", "trust_key"]),
        (users(), ["users", "user_keys"]),
        (staff, ["staff", "staff_keys"]),
    ];
    let mut before: Vec<([&str; 2], String)> = Vec::new();
    let mut stores = Vec::new();
    for (names, tables) in &sets {
        let options = postgres_options(&url).names(names.clone()).migrate(true);
        stores.push(Arc::new(options.clone().connect().await.unwrap()));
        options.make_index().await.unwrap();
        for (tables, before) in &before {
            assert_eq!(catalog(server, &url, *tables), *before, "{tables:?}");
        }
        before.push((*tables, catalog(server, &url, *tables)));
    }
    for (names, _) in &sets {
        let options = postgres_options(&url).names(names.clone());
        assert!(options.plan_migration().await.unwrap().is_empty());
        assert!(options.plan_index().await.unwrap().is_empty());
    }
    let mut worlds = Vec::new();
    for store in stores {
        assert!(store.missing_triggers().is_empty());
        let world = World::over(Arc::clone(&store), None);
        let watcher = store.watch(Arc::clone(&world.cache));
        eventually("it is connected", || watcher.status().connected).await;
        worlds.push((world, watcher));
    }
    let mut keys = Vec::new();
    for (world, _) in &worlds {
        let (trust, own) = world.register("ann").await;
        let which = trust.id.into();
        let (_, other) = world.registry.add_key(&which, &KeyTerms::new()).await.unwrap();
        keys.push((own, other));
    }
    // Each watcher receives what concerns the others, and has no such key.
    for (_, watcher) in &worlds {
        eventually("all is known", || watcher.status().notifications >= 6).await;
    }
    for ((world, _), (own, other)) in worlds.iter().zip(&keys) {
        assert!(world.attempt(own).await.result.is_ok());
        assert!(world.attempt(other).await.result.is_ok());
    }
    for (other, (own, _)) in worlds.iter().map(|(world, _)| world).zip(keys.iter().skip(1)) {
        assert!(other.attempt(own).await.result.is_err(), "the key of another table");
    }
    server.psql(&url, "UPDATE staff SET deactivated_at = now() WHERE email = 'ann'");
    let (last, (own, other)) = (&worlds[2].0, &keys[2]);
    eventually("both keys are evicted", || {
        last.cached(own).is_none() && last.cached(other).is_none()
    })
    .await;
    for ((world, _), (own, other)) in worlds.iter().zip(&keys).take(2) {
        assert!(world.cached(own).is_some() && world.cached(other).is_some());
        assert!(world.attempt(own).await.result.is_ok());
    }
    // A second table cannot share the keys of a first one.
    server.psql(&url, &USERS.replace("users", "guests"));
    let shared = users().table("guests");
    let error = postgres_options(&url).names(shared).run_migration().await.unwrap_err();
    let told = "`user_keys` refers to `users.user_id` and not to `guests.user_id`; correct the";
    assert!(error.to_string().contains(told), "{error}");
}

#[tokio::test]
async fn an_error_has_the_name_that_is_wrong_and_nothing_is_changed() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    server.psql(
        &url,
        "CREATE VIEW seen AS SELECT * FROM users; CREATE TABLE other_keys (id uuid, trust uuid); \
         CREATE UNLOGGED TABLE fast (LIKE users INCLUDING ALL); \
         ALTER TABLE users ADD short varchar(10), ADD twice text",
    );
    let before = server.dump(&url);
    let with = |column, name: &str| users().column(column, name);
    for (names, told) in [
        (users().table("persons"), "it has no table `persons`; make it, or correct its name"),
        (users().table("Users"), "it has no table `Users`; make it"),
        (users().table("seen"), "its `seen` is no ordinary table; name an ordinary table"),
        (
            users().key_table("seen"),
            "its `seen` is no ordinary table in the schema of the table \
                                     `users`; rename that, or choose another name for the",
        ),
        (users().key_table("other_keys"), "its table `other_keys` has no column `label`"),
        (
            users().table("fast"),
            "its table `fast` is unlogged, and the table `user_keys` cannot refer to such a table; \
             make it logged (`ALTER TABLE \"fast\" SET LOGGED`)",
        ),
        (
            with(TrustColumn::Id, "id"),
            "its table `users` has no column `id`; add it, or correct the names",
        ),
        (with(TrustColumn::ApiKeyHash, "digest"), "`users` has no column `digest`; add it"),
        (
            with(TrustColumn::Name, "code"),
            "the column `code` of its table `users` has the type `integer`, and must have `text` \
             or `character varying`; change it, or choose another table",
        ),
        (with(TrustColumn::DisabledAt, "password"), "the column `password` of its table `users`"),
        (with(TrustColumn::Name, "twice"), "the column `twice` of its table `users` is not unique"),
        (with(TrustColumn::ApiKeyHash, "short"), "the column `short` of its table `users` is too"),
        (users().table("a\"b"), "the name \"a\\\"b\" has a control character or one of"),
        (users().without(TrustColumn::Name), "the column `name` cannot be left out"),
    ] {
        let options = postgres_options(&url).names(names).migrate(true);
        for error in [
            options.clone().connect().await.unwrap_err(),
            options.plan_migration().await.unwrap_err(),
            options.run_migration().await.unwrap_err(),
        ] {
            assert!(error.to_string().contains(told), "{told}: {error}");
        }
    }
    assert_eq!(server.dump(&url), before);

    // What is only found later.
    let (url, store) = migrated(server).await;
    server.psql(&url, "ALTER TABLE users ADD birthday date NOT NULL DEFAULT now()");
    server.psql(&url, "ALTER TABLE users ALTER birthday DROP DEFAULT");
    let (new, hash) = (|| NewTrust::new("ann").unwrap(), KeyHash::of("ann"));
    let error = store.insert(new(), hash).await.unwrap_err().to_string();
    assert!(error.contains("`users` has a column `birthday` that must be filled"), "{error}");
    server.psql(
        &url,
        "ALTER TABLE users DROP birthday; CREATE RULE no AS ON INSERT TO users \
                       DO INSTEAD NOTHING",
    );
    let error = store.insert(new(), hash).await.unwrap_err().to_string();
    assert!(error.contains("look for a trigger or a rule on its table `users`"), "{error}");
    server.psql(&url, "DROP TABLE users CASCADE");
    let error = store.list().await.unwrap_err().to_string();
    assert!(error.contains("its table `users` or `user_keys` is gone"), "{error}");
}

/// A rotation under the second name would leave the keys of the first one valid.
#[tokio::test]
async fn a_second_table_of_keys_of_the_same_users_is_refused() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = migrated(server).await;
    let dump = server.dump(&url);
    let second = postgres_options(&url).names(users().key_table("user_keys2"));
    for error in [
        second.run_migration().await.unwrap_err(),
        second.clone().migrate(true).connect().await.unwrap_err(),
    ] {
        let told = "`user_keys` has the keys of the table `users`, and `user_keys2` is named";
        assert!(error.to_string().contains(told), "{error}");
    }
    server.psql(&url, "CREATE TABLE user_keys2 (LIKE user_keys)");
    let error = second.connect().await.unwrap_err();
    assert!(error.to_string().contains("`user_keys` has the keys"), "{error}");
    server.psql(&url, "DROP TABLE user_keys2");
    assert_eq!(server.dump(&url), dump);
}

/// A name may then belong to two rows, of which a change reaches one.
#[tokio::test]
async fn a_table_with_children_and_a_partition_are_refused() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = migrated(server).await;
    server.psql(&url, "CREATE TABLE admins () INHERITS (users)");
    let error = options(&url).connect().await.unwrap_err();
    assert!(error.to_string().contains("tables that inherit from it"), "{error}");
    server.psql(&url, "DROP TABLE admins");
    options(&url).connect().await.unwrap();
    let part = users().table("part").key_table("part_keys");
    server.psql(
        &url,
        "CREATE TABLE whole (LIKE users INCLUDING DEFAULTS) PARTITION BY LIST (email); \
         CREATE TABLE part (LIKE users INCLUDING ALL); \
         ALTER TABLE whole ATTACH PARTITION part DEFAULT",
    );
    let error = postgres_options(&url).names(part).run_migration().await.unwrap_err();
    assert!(error.to_string().contains("`part` is a partition"), "{error}");
}

/// The condition of a trigger knows its columns by number.
#[tokio::test]
async fn triggers_for_another_column_of_disabling_are_missing() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, store) = migrated(server).await;
    assert!(store.missing_triggers().is_empty());
    server.psql(&url, "ALTER TABLE users ADD gone_at timestamptz");
    let other = postgres_options(&url).names(users().column(TrustColumn::DisabledAt, "gone_at"));
    let plan = other.plan_migration().await.unwrap();
    let missing = ["the trigger `trust_auth_keys`", "the trigger `trust_auth_update`"];
    assert_eq!(plan.missing(), missing);
    other.run_migration().await.unwrap();
    assert!(other.plan_migration().await.unwrap().is_empty());
    let condition = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'users'::regclass \
                     AND pg_get_triggerdef(oid) LIKE '%old.gone_at%'";
    assert_eq!(server.psql(&url, condition), "2");
    // A renamed column keeps its number.
    server.psql(&url, "ALTER TABLE users RENAME gone_at TO left_at");
    let renamed = postgres_options(&url).names(users().column(TrustColumn::DisabledAt, "left_at"));
    assert!(renamed.plan_migration().await.unwrap().is_empty());
}

/// Under another column of ids, the keys would be those of other users.
#[tokio::test]
async fn keys_that_were_made_for_another_column_of_ids_are_refused() {
    let Some(server) = PostgresServer::shared() else { return };
    let (url, _) = migrated(server).await;
    server.psql(&url, "ALTER TABLE users ADD alt uuid UNIQUE");
    let names = users().column(TrustColumn::Id, "alt");
    let error = postgres_options(&url).names(names).connect().await.unwrap_err();
    let told = "`user_keys` refers to `users.user_id` and not to `users.alt`";
    assert!(error.to_string().contains(told), "{error}");
}

#[tokio::test]
async fn a_column_that_no_change_can_write_is_refused() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    server.psql(&url, USERS);
    server.psql(
        &url,
        "ALTER TABLE users DROP deactivated_at, ADD is_active bool NOT NULL DEFAULT true; \
         ALTER TABLE users ADD deactivated_at timestamptz \
             GENERATED ALWAYS AS (CASE WHEN NOT is_active THEN 'epoch'::timestamptz END) STORED",
    );
    let error = options(&url).run_migration().await.unwrap_err();
    let told = "the column `deactivated_at` of its table `users` is generated";
    assert!(error.to_string().contains(told), "{error}");
}
