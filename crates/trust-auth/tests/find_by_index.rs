//! Finding the row of a key by an index: what is granted, what is bounded, and which indexes count.

mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::Executor;
use stores::postgres_server::PostgresServer;
use stores::{Backend, World, eventually, postgres_options, second_connection, sqlite_options};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use trust_auth::{
    ApiKey, AuthError, Authenticator, Candidates, FindBy, HeldTrusts, KeyHash, KeyHasher, KeyTerms,
    MemoryStore, NewTrust, Pepper, PostgresStore, Route, SqliteStore, StoreError, Trust,
    TrustKeyCache, TrustLedger, TrustStore,
};
use uuid::Uuid;

on_every_store!(
    a_key_is_found_by_the_index_and_granted_by_its_live_row_g9,
    of_several_rows_the_enabled_one_that_was_made_last_counts,
    keys_of_a_former_pepper_are_found,
    a_key_in_a_row_of_its_own_is_found_while_it_is_active,
);

fn by_index<S: TrustStore>(store: &Arc<S>, cache: &Arc<TrustKeyCache>) -> Authenticator<S> {
    let builder = Authenticator::builder(Arc::clone(store), Arc::clone(cache));
    builder.find_by(FindBy::Index).build()
}

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

async fn a_key_is_found_by_the_index_and_granted_by_its_live_row_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let authenticator = by_index(&world.store, &world.cache);
    for number in 0..20 {
        world.register(&format!("other {number}")).await;
    }
    let (trust, key) = world.register("a").await;
    let attempt = async || authenticator.attempt(Some(key.expose())).await;
    for route in [Route::Find, Route::Hit] {
        let attempt = attempt().await;
        assert_eq!(attempt.result.unwrap(), trust);
        assert_eq!((attempt.route, attempt.rows_swept), (route, 0));
    }
    let unknown = authenticator.attempt(Some("no trust has this")).await;
    assert!(matches!(unknown.result, Err(AuthError::Invalid)), "{unknown:?}");
    assert_eq!((unknown.route, unknown.rows_swept), (Route::Find, 0));
    // A digest is no key.
    let digest = authenticator.authenticate(Some(&key.hash().to_hex())).await;
    assert!(matches!(digest, Err(AuthError::Invalid)), "{digest:?}");

    // Another process disables the trust: the cache does not know.
    world.store.set_enabled(&trust.id.into(), false).await.unwrap();
    let refused = attempt().await;
    assert!(matches!(refused.result, Err(AuthError::Invalid)), "{refused:?}");
    assert_eq!(refused.route, Route::StaleHit);
    world.store.set_enabled(&trust.id.into(), true).await.unwrap();
    assert!(attempt().await.result.is_ok());
    let (_, rotated) = world.registry.rotate(&trust.id.into()).await.unwrap();
    assert!(attempt().await.result.is_err());
    assert!(authenticator.authenticate(Some(rotated.expose())).await.is_ok());
    assert_eq!((authenticator.stats().scans, authenticator.stats().waiting), (0, 0));
}

async fn of_several_rows_the_enabled_one_that_was_made_last_counts<S: Backend>() {
    let world = World::<S>::new().await;
    let authenticator = by_index(&world.store, &Arc::default());
    let hash = KeyHash::of("key");
    let mut made = Vec::new();
    for name in ["z", "a", "m"] {
        made.push(world.store.insert(new(name), hash).await.unwrap().id);
        // Rows of one microsecond are in the order of their ids.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for last in (0..made.len()).rev() {
        assert_eq!(world.store.find(&hash).await.unwrap(), Some(made[last]));
        assert_eq!(authenticator.authenticate(Some("key")).await.unwrap().id, made[last]);
        world.store.set_enabled(&made[last].into(), false).await.unwrap();
    }
    assert_eq!(world.store.find(&hash).await.unwrap(), None);
    assert!(authenticator.authenticate(Some("key")).await.is_err());
}

async fn a_key_in_a_row_of_its_own_is_found_while_it_is_active<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register("a").await;
    let terms = KeyTerms::new().lasting(Duration::from_secs(3_600));
    let (row, key) = world.registry.add_key(&trust.id.into(), &terms).await.unwrap();
    let find = async |key: &ApiKey| world.store.find(&key.hash()).await.unwrap();
    assert_eq!((find(&own).await, find(&key).await), (Some(trust.id), Some(trust.id)));
    world.registry.disable(&trust.id.into()).await.unwrap();
    assert_eq!((find(&own).await, find(&key).await), (None, None));
    world.registry.enable(&trust.id.into()).await.unwrap();
    world.registry.revoke_key(row.id).await.unwrap();
    assert_eq!((find(&own).await, find(&key).await), (Some(trust.id), None));
    let terms = KeyTerms::new().lasting(Duration::from_millis(1));
    let (_, ended) = world.registry.add_key(&trust.id.into(), &terms).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(find(&ended).await, None);
}

async fn keys_of_a_former_pepper_are_found<S: Backend>() {
    let world = World::<S>::new().await;
    let pepper = |byte| Pepper::new([byte; 32]).unwrap();
    let hasher = KeyHasher::peppered(pepper(2)).accepting(pepper(1)).unwrap();
    let of = |hasher| world.registry.clone().with_key_hasher(hasher);
    let (_, former) = of(KeyHasher::peppered(pepper(1))).register(new("a")).await.unwrap();
    let (_, current) = of(hasher.clone()).register(new("b")).await.unwrap();
    let authenticator = Authenticator::builder(Arc::clone(&world.store), Arc::clone(&world.cache))
        .find_by(FindBy::Index)
        .key_hasher(hasher)
        .build();
    for route in [Route::Find, Route::Hit] {
        for key in [&former, &current] {
            let attempt = authenticator.attempt(Some(key.expose())).await;
            assert_eq!((attempt.result.is_ok(), attempt.route), (true, route));
        }
    }
}

/// A store that counts its lookups by digest and its scans, and answers lookups by a function.
struct Counting<F> {
    rows: MemoryStore,
    found: F,
    finds: AtomicUsize,
    scans: AtomicUsize,
    /// A lookup ends once there is a permit.
    gate: Semaphore,
}

impl<F: Fn() -> Option<Uuid>> Counting<F> {
    fn new(rows: impl IntoIterator<Item = Trust>, found: F) -> Arc<Self> {
        let (finds, scans) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (rows, gate) = (MemoryStore::with_rows(rows).unwrap(), Semaphore::new(100));
        Arc::new(Self { rows, found, finds, scans, gate })
    }

    fn counts(&self) -> (usize, usize) {
        (self.finds.load(Ordering::SeqCst), self.scans.load(Ordering::SeqCst))
    }
}

impl<F: Fn() -> Option<Uuid> + Send + Sync + 'static> TrustStore for Counting<F> {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.rows.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        self.scans.fetch_add(1, Ordering::SeqCst);
        self.rows.candidates().await
    }

    async fn find(&self, _: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        Ok((self.found)())
    }
}

fn trust(id: u128, key: &str) -> Trust {
    let mut trust = Trust::new(Uuid::from_u128(id), format!("trust {id}"));
    trust.api_key_hash = Some(KeyHash::of(key));
    trust
}

#[tokio::test]
async fn only_an_authenticator_that_finds_by_an_index_looks_a_digest_up() {
    let store = Counting::new([trust(1, "key")], || Some(Uuid::from_u128(1)));
    let by_scan = Authenticator::new(Arc::clone(&store), Arc::default());
    for key in ["key", "key", "unknown"] {
        by_scan.authenticate(Some(key)).await.ok();
    }
    assert_eq!(store.counts(), (0, 2));
    let by_index = by_index(&store, &Arc::default());
    assert!(by_index.authenticate(Some("key")).await.is_ok());
    assert_eq!(store.counts(), (1, 2));
}

/// The index names a row of another key: that row decides.
#[tokio::test]
async fn the_answer_of_an_index_is_a_hint_and_grants_nothing_g9() {
    let store = Counting::new([trust(1, "another key")], || Some(Uuid::from_u128(1)));
    let cache = Arc::new(TrustKeyCache::new());
    let authenticator = by_index(&store, &cache);
    let refused = authenticator.authenticate(Some("key")).await;
    assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
    assert_eq!((store.counts(), cache.len()), ((2, 0), 0));
    // The key may be moving from row to row.
    let number = AtomicUsize::new(1);
    let next = move || Some(Uuid::from_u128(number.fetch_add(1, Ordering::SeqCst) as u128));
    let store = Counting::new([trust(1, "another key"), trust(2, "a third key")], next);
    let refused = by_index(&store, &cache).authenticate(Some("key")).await;
    let unsettled = matches!(refused, Err(AuthError::Unavailable(StoreError::Unsettled)));
    assert!(unsettled, "{refused:?}");
    assert_eq!((store.counts(), cache.len()), ((2, 0), 0));
    // A row that is gone.
    let store = Counting::new([], || Some(Uuid::from_u128(1)));
    assert!(by_index(&store, &cache).authenticate(Some("key")).await.is_err());
}

#[tokio::test]
async fn so_many_requests_find_at_once_as_may_wait_and_one_more_is_refused() {
    let store = Counting::new([], || None);
    store.gate.forget_permits(100);
    let authenticator = Authenticator::builder(Arc::clone(&store), Arc::default())
        .find_by(FindBy::Index)
        .waiting_limit(2)
        .build();
    let ask = |number: usize| {
        let authenticator = authenticator.clone();
        tokio::spawn(async move { authenticator.authenticate(Some(&format!("{number}"))).await })
    };
    let (first, second) = (ask(1), ask(2));
    eventually("two requests find", || store.counts().0 == 2).await;
    assert_eq!(authenticator.stats().waiting, 2);
    let refused = timeout(Duration::from_secs(20), ask(3)).await.expect("it is refused").unwrap();
    assert!(matches!(refused, Err(AuthError::Overloaded)), "{refused:?}");
    assert_eq!(store.counts().0, 2);
    // A request that is gone frees its place.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let third = ask(4);
    eventually("another request finds", || store.counts().0 == 3).await;
    store.gate.add_permits(100);
    for answered in [second, third] {
        assert!(matches!(answered.await.unwrap(), Err(AuthError::Invalid)));
    }
    assert_eq!(authenticator.stats().waiting, 0);
}

/// A store without the method refuses, and grants nothing.
#[tokio::test]
async fn a_store_that_cannot_find_refuses_each_miss() {
    struct Without(MemoryStore);
    impl TrustStore for Without {
        async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
            self.0.fetch(id).await
        }
        async fn candidates(&self) -> Result<Candidates, StoreError> {
            self.0.candidates().await
        }
    }
    let store = Arc::new(Without(MemoryStore::with_rows([trust(1, "key")]).unwrap()));
    let refused = by_index(&store, &Arc::default()).authenticate(Some("key")).await.unwrap_err();
    let AuthError::Unavailable(error) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("cannot find by an index"), "{error}");
}

/// With a read lease in force, a miss is a look, and nothing is looked up by its digest.
#[tokio::test]
async fn under_a_read_lease_a_miss_is_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite_options(&folder.path().join("trusts.db")).connect().await.unwrap();
    let length = Duration::from_secs(300);
    let held = Arc::new(HeldTrusts::start(sqlite.feed(), "test", length).await.unwrap());
    let store = Counting::new([], || None);
    let authenticator = Authenticator::builder(Arc::clone(&store), Arc::default())
        .find_by(FindBy::Index)
        .read_lease(Arc::clone(&held))
        .build();
    assert_eq!(authenticator.attempt(Some("unknown")).await.route, Route::Look);
    assert_eq!(store.counts(), (0, 0));
    held.close().await;
    assert_eq!(authenticator.attempt(Some("unknown")).await.route, Route::Find);
    assert_eq!(store.counts(), (1, 0));
    sqlite.close().await;
}

#[tokio::test]
async fn sqlite_has_an_index_that_counts_or_the_error_has_the_sql_that_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let store = sqlite_options(&file).connect().await.unwrap();
    let mut other = second_connection(&store).await;
    let sql = async || match store.check_index().await {
        Err(StoreError::NoIndex { sql, .. }) => Some(sql),
        outcome => {
            outcome.unwrap();
            None
        }
    };
    let wanted = "CREATE INDEX trust_api_key_hash ON trust (api_key_hash);";
    let of_keys = "CREATE INDEX trust_key_digest ON trust_key (digest);";
    assert_eq!(sql().await, Some(format!("{wanted}\n{of_keys}")));
    other.execute(of_keys).await.unwrap();
    assert_eq!(sql().await.as_deref(), Some(wanted));
    // None of these can be used for a lookup.
    for unusable in [
        "CREATE INDEX other ON trust (name, api_key_hash)",
        "CREATE INDEX other ON trust (api_key_hash COLLATE NOCASE)",
        "CREATE INDEX other ON trust (upper(api_key_hash))",
        "CREATE INDEX other ON trust (api_key_hash) WHERE region IS NOT NULL",
    ] {
        other.execute(unusable).await.unwrap();
        assert_eq!(sql().await.as_deref(), Some(wanted), "{unusable}");
        other.execute("DROP INDEX other").await.unwrap();
    }
    for usable in [wanted, "CREATE UNIQUE INDEX other ON trust (api_key_hash, name)"] {
        other.execute(usable).await.unwrap();
        assert_eq!(sql().await, None, "{usable}");
        let name = if usable == wanted { "trust_api_key_hash" } else { "other" };
        if name == "other" {
            other.execute("DROP INDEX other").await.unwrap();
        } else {
            other.execute("DROP INDEX trust_api_key_hash").await.unwrap();
        }
    }
    let plan = sqlite_options(&file).plan_index().await.unwrap();
    assert_eq!(plan.steps(), [wanted]);
    assert_eq!(sqlite_options(&file).make_index().await.unwrap(), plan);
    assert_eq!(sql().await, None);
    assert!(sqlite_options(&file).make_index().await.unwrap().is_empty());
    // The check looks at the plan of the very statement that finds.
    let trust = store.insert(new("a"), KeyHash::of("key")).await.unwrap();
    assert_eq!(store.find(&KeyHash::of("key")).await.unwrap(), Some(trust.id));
    store.close().await;
}

#[tokio::test]
async fn digits_of_either_case_are_found_on_sqlite() {
    let world = World::<SqliteStore>::new().await;
    let (trust, key) = world.register("a").await;
    second_connection(&world.store)
        .await
        .execute("UPDATE trust SET api_key_hash = upper(api_key_hash)")
        .await
        .unwrap();
    assert_eq!(world.store.find(&key.hash()).await.unwrap(), Some(trust.id));
    let authenticator = by_index(&world.store, &world.cache);
    assert!(authenticator.authenticate(Some(key.expose())).await.is_ok());
}

#[tokio::test]
async fn digits_of_either_case_are_found_on_postgres() {
    let Some(server) = PostgresServer::shared() else { return };
    let world = World::<PostgresStore>::new().await;
    let (trust, key) = world.register("a").await;
    let database = world.store.server().rsplit('/').next().unwrap().to_owned();
    server.psql(&database, "UPDATE trust SET api_key_hash = upper(api_key_hash)");
    assert_eq!(world.store.find(&key.hash()).await.unwrap(), Some(trust.id));
    let authenticator = by_index(&world.store, &world.cache);
    assert!(authenticator.authenticate(Some(key.expose())).await.is_ok());
}

#[tokio::test]
async fn postgres_has_an_index_that_counts_or_the_error_has_the_sql_that_makes_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    let database = store.server().rsplit('/').next().unwrap().to_owned();
    let psql = |sql: &str| server.psql(&database, sql);
    let sql = async || match store.check_index().await {
        Err(StoreError::NoIndex { sql, .. }) => Some(sql),
        outcome => {
            outcome.unwrap();
            None
        }
    };
    let wanted = "CREATE INDEX CONCURRENTLY trust_api_key_hash ON public.trust (api_key_hash);";
    let of_keys = "CREATE INDEX CONCURRENTLY trust_key_digest ON public.trust_key (digest);";
    assert_eq!(sql().await, Some(format!("{wanted}\n{of_keys}")));
    psql(of_keys);
    assert_eq!(sql().await.as_deref(), Some(wanted));
    for unusable in [
        "(name, api_key_hash)",
        "(api_key_hash COLLATE \"POSIX\")",
        "(upper(api_key_hash))",
        "(api_key_hash) WHERE region IS NOT NULL",
    ] {
        psql(&format!("CREATE INDEX other ON trust {unusable}"));
        assert_eq!(sql().await.as_deref(), Some(wanted), "{unusable}");
        psql("DROP INDEX other");
    }
    for usable in ["USING hash (api_key_hash)", "(api_key_hash, name)"] {
        psql(&format!("CREATE INDEX other ON trust {usable}"));
        assert_eq!(sql().await, None, "{usable}");
        psql("DROP INDEX other");
    }

    // An attempt that failed left an index that is not valid.
    psql(wanted);
    psql(
        "UPDATE pg_index SET indisvalid = false \
         WHERE indexrelid = 'trust_api_key_hash'::regclass",
    );
    let plan = postgres_options(&url).plan_index().await.unwrap();
    let drop = "DROP INDEX CONCURRENTLY public.trust_api_key_hash;";
    assert_eq!(plan.steps(), [drop, wanted]);
    assert_eq!(postgres_options(&url).make_index().await.unwrap(), plan);
    assert_eq!(sql().await, None);
    assert!(postgres_options(&url).make_index().await.unwrap().is_empty());

    // With rows, the server uses the index for the statement that finds.
    psql(
        "INSERT INTO trust (id, name, api_key_hash) SELECT gen_random_uuid(), n::text, \
         encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 5000) AS n",
    );
    psql("ANALYZE trust");
    let scans_of_index = || {
        psql(
            "SELECT idx_scan FROM pg_stat_user_indexes \
              WHERE indexrelname = 'trust_api_key_hash'",
        )
    };
    let scans_of_table =
        || psql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'trust'");
    let before = scans_of_index();
    assert!(store.find(&KeyHash::of("4711")).await.unwrap().is_some());
    assert_eq!(store.find(&KeyHash::of("no key")).await.unwrap(), None);
    // A session that ends reports what it has used.
    store.close().await;
    eventually("the index was used", || scans_of_index() != before).await;

    // No request and no change uses it by default.
    let (index, table) = (scans_of_index(), scans_of_table());
    let world = World::over(Arc::new(postgres_options(&url).connect().await.unwrap()), None);
    let (trust, key) = world.register_hot("a").await;
    assert!(world.attempt(&key).await.result.is_ok());
    assert!(world.authenticator.authenticate(Some("unknown")).await.is_err());
    world.registry.import_key(new("b"), "key of another program").await.unwrap();
    world.registry.rotate(&trust.id.into()).await.unwrap();
    world.registry.disable(&trust.id.into()).await.unwrap();
    world.registry.delete(&trust.id.into()).await.unwrap();
    world.registry.list().await.unwrap();
    world.store.close().await;
    eventually("the table was scanned", || scans_of_table() != table).await;
    assert_eq!(scans_of_index(), index);

    let store = postgres_options(&url).connect().await.unwrap();
    psql("DROP TRIGGER trust_auth_update ON trust");
    psql("ALTER TABLE trust ALTER COLUMN api_key_hash TYPE character(64)");
    let error = store.check_index().await.unwrap_err();
    assert!(error.to_string().contains("change it to `varchar(64)`"), "{error}");
    store.close().await;
}

/// Several services may start with `--migrate --find-by index` at the same time.
#[tokio::test]
async fn of_several_processes_one_makes_the_indexes_and_the_others_find_nothing_to_do() {
    let world = World::<SqliteStore>::new().await;
    let mut other = second_connection(&world.store).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let make = || tokio::spawn(sqlite_index(world.store.path().to_owned()));
    let runs = [make(), make(), make()];
    // Each has planned by then, if the machine is fast enough.
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.execute("COMMIT").await.unwrap();
    assert_eq!(numbers_of_steps(runs).await, [0, 0, 2]);
    world.store.check_index().await.unwrap();

    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let store = postgres_options(&url).connect().await.unwrap();
    // The first waits for this transaction to end, in the middle of its work.
    let mut other = server.connect(&url).await;
    other.execute("BEGIN; LOCK TABLE trust IN ROW EXCLUSIVE MODE").await.unwrap();
    let make = || tokio::spawn(postgres_index(url.clone()));
    let first = make();
    let made = "SELECT count(*) FROM pg_index \
                WHERE indexrelid = to_regclass('trust_api_key_hash') AND NOT indisvalid";
    eventually("the first makes an index", || server.psql(&url, made) == "1").await;
    let runs = [first, make(), make()];
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND query ~ '^[^~]*(trust_api_key_hash|pg_try_advisory_lock)'";
    eventually("all have planned", || server.psql(&url, sessions) == "3").await;
    other.execute("COMMIT").await.unwrap();
    assert_eq!(numbers_of_steps(runs).await, [0, 0, 2]);
    store.check_index().await.unwrap();

    // Another process has made both between the plan and the lock.
    server.psql(&url, "DROP INDEX trust_api_key_hash, trust_key_digest");
    other.execute("SELECT pg_advisory_lock(3120466928517743906)").await.unwrap();
    let late = make();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND query LIKE 'SELECT pg_try_advisory_lock%'";
    eventually("it has planned", || server.psql(&url, waiting) == "1").await;
    server.psql(&url, "CREATE INDEX trust_api_key_hash ON trust (api_key_hash)");
    server.psql(&url, "CREATE INDEX trust_key_digest ON trust_key (digest)");
    other.execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(late.await.unwrap(), 0);
    store.close().await;
}

/// An administrator may run the SQL by hand. The owner of the table does not see what other roles'
/// sessions make.
#[tokio::test]
async fn an_index_that_another_program_makes_is_waited_for_and_not_dropped() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let (owner, url_of_owner) = server.new_role(&url);
    server.psql(&url, &format!("GRANT ALL ON SCHEMA public TO {owner}"));
    let store = postgres_options(&url_of_owner).connect().await.unwrap();
    let mut other = server.connect(&url).await;
    other.execute("BEGIN; LOCK TABLE trust IN ROW EXCLUSIVE MODE").await.unwrap();
    let mut administrator = server.connect(&url).await;
    let by_hand = tokio::spawn(async move {
        let sql = "CREATE INDEX CONCURRENTLY trust_api_key_hash ON public.trust (api_key_hash)";
        administrator.execute(sql).await.unwrap();
    });
    let made = "SELECT indexrelid FROM pg_index \
                WHERE indexrelid = to_regclass('trust_api_key_hash')";
    eventually("it is being made", || !server.psql(&url, made).is_empty()).await;
    let index = server.psql(&url, made);
    for url in [&url, &url_of_owner] {
        let plan = postgres_options(url).plan_index().await.unwrap();
        assert!(!plan.to_string().contains("DROP"), "{plan}");
        assert!(plan.to_string().contains("is being made"), "{plan}");
    }
    let Err(StoreError::NoIndex { sql, .. }) = store.check_index().await else { panic!() };
    assert!(!sql.contains("DROP"), "{sql}");
    let make = tokio::spawn(postgres_index(url_of_owner));
    let locked = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database \
                  WHERE datname = current_database() AND locktype = 'advisory'";
    eventually("it waits", || server.psql(&url, locked) == "1").await;
    other.execute("COMMIT").await.unwrap();
    by_hand.await.unwrap();
    assert_eq!(make.await.unwrap(), 1, "the index of the other table");
    assert_eq!(server.psql(&url, made), index);
    store.check_index().await.unwrap();
    store.close().await;
}

async fn sqlite_index(file: std::path::PathBuf) -> usize {
    sqlite_options(&file).make_index().await.unwrap().steps().len()
}

async fn postgres_index(url: String) -> usize {
    postgres_options(&url).make_index().await.unwrap().steps().len()
}

/// Returns how many steps each run has made, the smallest number first.
async fn numbers_of_steps(runs: [tokio::task::JoinHandle<usize>; 3]) -> Vec<usize> {
    let mut steps = Vec::new();
    for run in runs {
        steps.push(run.await.unwrap());
    }
    steps.sort_unstable();
    steps
}
