//! A store that fails, or does not answer: every request fails closed, nothing is granted, and
//! nothing is remembered (G9, G10).

mod stores;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, Connection};
use stores::postgres_server::PostgresServer;
use stores::{
    Backend, Moment, Tampered, World, by_name, eventually, postgres_options, second_connection,
    sqlite_options,
};
use trust_auth::{
    AuthError, KeyHash, MalformedRow, NewTrust, Route, SqliteStore, StoreError, TrustLedger,
    TrustStore,
};
use uuid::Uuid;

on_every_store!(
    a_failed_read_of_the_candidates_is_unavailable_and_remembers_nothing_g9,
    a_failed_read_of_the_match_is_unavailable_and_remembers_nothing_g9,
    a_failed_read_of_a_hit_is_unavailable_and_is_not_swept_around_g9,
    a_failed_sweep_after_a_stale_hit_is_unavailable_g9,
    the_client_is_told_nothing_about_the_store_g10,
    a_key_that_no_trust_has_is_unavailable_too_while_the_store_is_down_g9,
);

fn assert_unavailable(refused: &Result<impl Sized, AuthError>, kind: &str) {
    match refused {
        Err(AuthError::Unavailable(error)) => assert_eq!(error.kind(), kind),
        Err(other) => panic!("refused as {other:?}"),
        Ok(_) => panic!("granted"),
    }
}

fn down<S>(world: &World<Tampered<S>>, moment: Moment) {
    world.store.at(moment, async { Err(StoreError::Unreachable) });
}

async fn a_failed_read_of_the_candidates_is_unavailable_and_remembers_nothing_g9<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    down(&world, Moment::CandidatesRead);
    let attempt = world.attempt(&key).await;
    assert_unavailable(&attempt.result, "unreachable");
    assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 0));
    assert!(world.cache.is_empty());
    let stats = world.authenticator.stats();
    assert_eq!((stats.unavailable, stats.scans, stats.granted), (1, 0, 0));

    assert_eq!(world.attempt(&key).await.result.unwrap(), trust);
}

async fn a_failed_read_of_the_match_is_unavailable_and_remembers_nothing_g9<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    down(&world, Moment::RowRead);
    let attempt = world.attempt(&key).await;
    assert_unavailable(&attempt.result, "unreachable");
    assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 1));
    assert!(world.cache.is_empty());

    assert_eq!(world.attempt(&key).await.result.unwrap(), trust);
}

async fn a_failed_read_of_a_hit_is_unavailable_and_is_not_swept_around_g9<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register_hot("a").await;
    let before = world.authenticator.stats();
    down(&world, Moment::RowRead);
    let attempt = world.attempt(&key).await;
    assert_unavailable(&attempt.result, "unreachable");
    assert_eq!((attempt.route, attempt.rows_swept), (Route::Hit, 0));

    let after = world.authenticator.stats();
    assert_eq!(
        (after.hits, after.stale_hits, after.scans),
        (before.hits, before.stale_hits, before.scans)
    );
    let attempt = world.attempt(&key).await;
    assert_eq!((attempt.result.unwrap(), attempt.route), (trust, Route::Hit));
}

async fn a_failed_sweep_after_a_stale_hit_is_unavailable_g9<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register_hot("a").await;
    world.store.inner.delete(&trust.id.into()).await.unwrap();
    down(&world, Moment::CandidatesRead);
    let attempt = world.attempt(&key).await;
    assert_unavailable(&attempt.result, "unreachable");
    assert_eq!(attempt.route, Route::StaleHit);
}

async fn the_client_is_told_nothing_about_the_store_g10<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (_, key) = world.register("a").await;
    let cause = "the replica db-7.internal has no route";
    world.store.at(Moment::CandidatesRead, async move { Err(StoreError::Other(cause.into())) });
    let refused = world.attempt(&key).await.result.unwrap_err();

    assert_eq!(refused.status(), 503);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(refused.www_authenticate(), None);
    for told in [refused.detail(), &refused.to_string()] {
        assert!(!told.contains("db-7"), "{told}");
    }
    // The operator's log shows the source.
    assert!(refused.source().unwrap().to_string().contains(cause));
}

async fn a_key_that_no_trust_has_is_unavailable_too_while_the_store_is_down_g9<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    down(&world, Moment::CandidatesRead);
    assert_unavailable(
        &world.authenticator.authenticate(Some("no trust has this")).await,
        "unreachable",
    );
    // A request without a key needs no store.
    assert!(matches!(world.authenticator.authenticate(None).await, Err(AuthError::Missing)));
}

#[tokio::test]
async fn a_closed_sqlite_store_is_unavailable_g9() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register_hot("a").await;
    world.store.close().await;
    assert_unavailable(&world.attempt(&key).await.result, "unreachable");
    assert_unavailable(&world.authenticator.authenticate(Some("another")).await, "unreachable");
    assert_eq!(world.registry.rotate(&by_name("a")).await.unwrap_err().kind(), "unreachable");
    assert!(world.cache.is_empty(), "the outcome of the rotation was unknown");
}

#[tokio::test]
async fn a_table_that_is_gone_is_unavailable_g9() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register_hot("a").await;
    let mut other = second_connection(&world.store).await;
    sqlx::query("DROP TABLE trust").execute(&mut other).await.unwrap();
    let attempt = world.attempt(&key).await;
    assert_unavailable(&attempt.result, "schema");
    assert_unavailable(&world.authenticator.authenticate(Some("another")).await, "schema");
}

/// Another process holds the write lock. The clock is paused, and jumps to the time-out as soon as
/// all tasks wait.
#[tokio::test]
async fn a_write_that_waits_for_the_lock_times_out_and_is_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        sqlite_options(&folder.path().join("trusts.db")).query_timeout(Duration::from_secs(60));
    let world = World::over(options.connect().await.unwrap().into(), Some(folder));
    let (trust, key) = world.register_hot("a").await;

    let mut other = second_connection(&world.store).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    tokio::time::pause();
    let error = world.registry.disable(&by_name("a")).await.unwrap_err();
    assert_eq!(error.kind(), "timeout");
    assert!(error.to_string().contains("60s"), "{error}");
    assert!(world.cache.is_empty(), "the outcome of the write was unknown");

    tokio::time::resume();
    // The write still waits in the driver. Reads are not affected.
    assert_eq!(world.attempt(&key).await.result.unwrap(), trust);
    lock.rollback().await.unwrap();
    // The next write runs after the first one.
    assert_eq!(world.registry.enable(&by_name("a")).await.unwrap(), trust);
}

/// The table becomes a view that first counts to many millions. The clock is paused, and jumps to
/// the time-out as soon as all tasks wait for the database, long before the count ends.
#[tokio::test]
async fn a_read_that_takes_too_long_is_unavailable_and_the_store_recovers_g9() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        sqlite_options(&folder.path().join("trusts.db")).query_timeout(Duration::from_secs(60));
    let world = World::over(options.connect().await.unwrap().into(), Some(folder));
    let (trust, hot) = world.register_hot("a").await;
    let (_, cold) = world.register("b").await;

    let mut other = second_connection(&world.store).await;
    sqlx::raw_sql(
        "ALTER TABLE trust RENAME TO fast;
         CREATE VIEW trust AS SELECT *, rowid FROM fast WHERE (
             WITH RECURSIVE n (i) AS (
                 SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000
             ) SELECT count(*) FROM n
         ) > 0;",
    )
    .execute(&mut other)
    .await
    .unwrap();
    tokio::time::pause();
    let (by_hit, by_sweep) = tokio::join!(world.attempt(&hot), world.attempt(&cold));
    assert_unavailable(&by_hit.result, "timeout");
    assert_eq!(by_hit.route, Route::Hit);
    assert_unavailable(&by_sweep.result, "timeout");
    assert_eq!((by_sweep.route, by_sweep.rows_swept), (Route::Scan, 0));
    assert_eq!((world.cached(&hot), world.cached(&cold)), (Some(trust.id), None));

    tokio::time::resume();
    sqlx::raw_sql("DROP VIEW trust; ALTER TABLE fast RENAME TO trust")
        .execute(&mut other)
        .await
        .unwrap();
    assert_eq!(world.attempt(&hot).await.result.unwrap(), trust);
    assert!(world.attempt(&cold).await.result.is_ok());
}

#[tokio::test]
async fn a_lock_that_is_not_released_is_reported_as_busy_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let options = sqlite_options(&folder.path().join("trusts.db")).busy_timeout(Duration::ZERO);
    let world = World::over(options.connect().await.unwrap().into(), Some(folder));
    let (trust, key) = world.register_hot("a").await;

    let mut other = second_connection(&world.store).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = world.registry.register(NewTrust::new("b").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), "busy");
    assert!(error.to_string().contains("try again"), "{error}");
    // In WAL mode, a read waits for no writer.
    assert_eq!(world.attempt(&key).await.result.unwrap(), trust);
    lock.rollback().await.unwrap();
    assert_eq!(world.registry.list().await.unwrap(), [trust]);
}

/// The change is dropped at each step of the driver. No change is made in part, and the next change
/// works.
#[tokio::test]
async fn a_change_that_is_cancelled_at_any_moment_leaves_the_next_one_a_sound_connection() {
    use std::future::poll_fn;
    use std::task::Poll;

    let world = World::<SqliteStore>::new().await;
    let (trust, _) = world.register("a").await;
    let which = trust.id.into();
    for polls in 1..30 {
        let digest = KeyHash::of([polls]);
        let mut change = Box::pin(world.store.replace_hash(&which, digest));
        for _ in 0..polls {
            if poll_fn(|context| Poll::Ready(change.as_mut().poll(context))).await.is_ready() {
                break;
            }
            // The driver's thread may or may not have finished the step by then.
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_micros(u64::from(polls % 4) * 200)).await;
        }
        drop(change);
        let row = world.store.fetch(trust.id).await.unwrap().unwrap();
        assert!(row.api_key_hash.is_some());
        let disabled = world.registry.disable(&which).await.unwrap();
        assert!(
            !disabled.is_enabled() && world.registry.enable(&which).await.unwrap().is_enabled()
        );
    }
}

#[tokio::test]
async fn writes_that_wait_occupy_no_connection_for_reads() {
    let folder = tempfile::tempdir().unwrap();
    let options = sqlite_options(&folder.path().join("trusts.db")).max_connections(1);
    let world = World::over(options.connect().await.unwrap().into(), Some(folder));
    let (trust, key) = world.register_hot("a").await;

    let mut other = second_connection(&world.store).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let which = trust.id.into();
    let writes = async {
        tokio::join!(
            world.registry.enable(&which),
            world.registry.enable(&which),
            world.registry.enable(&which)
        )
    };
    let reads = async {
        for _ in 0..50 {
            assert!(world.attempt(&key).await.result.is_ok());
        }
        lock.rollback().await.unwrap();
    };
    let ((a, b, c), ()) = tokio::join!(writes, reads);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}

#[tokio::test]
async fn however_few_connections_there_are_a_scan_on_postgres_leaves_one_to_the_hits() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.new_database();
    let options = postgres_options(&url).max_connections(1).query_timeout(Duration::from_secs(60));
    let world = World::over(Arc::new(options.connect().await.unwrap()), None);
    let (trust, _) = world.register("a").await;
    // Both have a connection and wait for the table.
    let mut locked = server.connect(&url).await;
    sqlx::raw_sql("BEGIN; LOCK TABLE trust IN ACCESS EXCLUSIVE MODE")
        .execute(&mut locked)
        .await
        .unwrap();
    let (walker, reader) = (Arc::clone(&world.store), Arc::clone(&world.store));
    let scan = tokio::spawn(async move { walker.candidates().await });
    let hit = tokio::spawn(async move { reader.fetch(trust.id).await });
    let sql = "SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid \
               WHERE datname = current_database() AND relation = 'trust'::regclass AND NOT granted";
    eventually("both read", || server.psql(&url, sql) == "2").await;
    locked.close().await.unwrap();
    assert_eq!(hit.await.unwrap().unwrap(), Some(trust));
    assert_eq!(scan.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_row_whose_hash_is_malformed_is_refused_and_the_others_are_granted() {
    let world = World::<SqliteStore>::new().await;
    let (spoilt, spoilt_key) = world.register_hot("spoilt").await;
    let (sound, sound_key) = world.register("sound").await;
    sqlx::query("UPDATE trust SET api_key_hash = ?2 WHERE id = ?1")
        .bind(spoilt.id.to_string())
        .bind("z".repeat(64))
        .execute(&mut second_connection(&world.store).await)
        .await
        .unwrap();

    let attempt = world.attempt(&spoilt_key).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)));
    assert_eq!((attempt.route, attempt.rows_swept), (Route::StaleHit, 1));
    assert_eq!(world.attempt(&sound_key).await.result.unwrap(), sound);

    // The remedy that the warning names.
    let (_, key) = world.registry.rotate(&by_name("spoilt")).await.unwrap();
    assert_eq!(world.attempt(&key).await.result.unwrap().id, spoilt.id);
}

#[tokio::test]
async fn a_row_with_a_malformed_column_refuses_its_own_trust_alone_and_can_still_be_revoked_g9() {
    for (column, spoil) in [
        ("created_at", "UPDATE trust SET created_at = 'soon' WHERE name = 'a'"),
        ("disabled_at", "UPDATE trust SET disabled_at = 'soon' WHERE name = 'a'"),
        ("code", "UPDATE trust SET code = CAST(x'ff736f6f6e' AS TEXT) WHERE name = 'a'"),
        ("region", "UPDATE trust SET region = CAST(x'ff736f6f6e' AS TEXT) WHERE name = 'a'"),
        ("name", "UPDATE trust SET name = CAST(x'ff736f6f6e' AS TEXT) WHERE name = 'a'"),
    ] {
        let world = World::<SqliteStore>::new().await;
        let (trust, key) = world.register_hot("a").await;
        let (sound, sound_key) = world.register("b").await;
        let which = trust.id.into();
        let mut other = second_connection(&world.store).await;
        sqlx::query(spoil).execute(&mut other).await.unwrap();
        let (log, guard) = stores::Log::start();
        for _ in 0..2 {
            let refused = world.attempt(&key).await.result;
            assert!(matches!(refused, Err(AuthError::Invalid)), "{column}: {refused:?}");
        }
        drop(guard);
        // A trust that may be disabled is not a candidate.
        let log = log.text();
        let is_named =
            log.contains(&trust.id.to_string()) && log.contains(column) && !log.contains("soon");
        assert!(is_named, "{log}");
        assert_eq!(world.attempt(&sound_key).await.result.unwrap(), sound);

        assert_eq!(world.registry.list().await.unwrap(), std::slice::from_ref(&sound));
        let listing = world.registry.listing().await.unwrap();
        let name = (column != "name").then(|| "a".to_owned());
        assert_eq!(listing.trusts, std::slice::from_ref(&sound));
        assert_eq!(listing.malformed, [MalformedRow { id: Some(trust.id), name, column }]);

        let (rotated, new_key) = world.registry.rotate(&which).await.unwrap();
        assert_eq!((rotated.id, rotated.created_at.is_some()), (trust.id, column != "created_at"));
        assert!(matches!(world.attempt(&new_key).await.result, Err(AuthError::Invalid)));
        assert!(!world.registry.disable(&which).await.unwrap().is_enabled());
        let disabled: String = sqlx::query_scalar("SELECT disabled_at FROM trust WHERE id = ?1")
            .bind(trust.id.to_string())
            .fetch_one(&mut other)
            .await
            .unwrap();
        assert_ne!(disabled, "soon");
        assert!(world.registry.enable(&which).await.unwrap().is_enabled());
        let granted = world.attempt(&new_key).await.result.is_ok();
        assert_eq!(granted, column == "disabled_at", "that is repaired by it");
        world.registry.delete(&which).await.unwrap();
        assert_eq!(world.registry.listing().await.unwrap().malformed, []);
        assert!(matches!(world.attempt(&new_key).await.result, Err(AuthError::Invalid)));
    }
}

#[tokio::test]
async fn a_malformed_last_heartbeat_stops_neither_authentication_nor_revocation() {
    for (sql, is_read) in [
        ("UPDATE trust SET last_heartbeat = datetime('now'), created_at = datetime('now')", true),
        ("UPDATE trust SET last_heartbeat = 'soon'", false),
    ] {
        let world = World::<SqliteStore>::new().await;
        let (_, key) = world.register_hot("a").await;
        sqlx::query(sql).execute(&mut second_connection(&world.store).await).await.unwrap();
        assert_eq!(world.attempt(&key).await.result.unwrap().last_heartbeat.is_some(), is_read);
        assert_eq!(world.registry.list().await.unwrap().len(), 1);
        world.registry.disable(&by_name("a")).await.unwrap();
        assert!(matches!(world.attempt(&key).await.result, Err(AuthError::Invalid)));
    }
}

/// G9: a change that is reported was made, or an error is returned.
#[tokio::test]
async fn g9_a_row_whose_id_is_spelt_in_another_way_is_never_reported_as_changed() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register("a").await;
    let mut other = second_connection(&world.store).await;
    sqlx::query("UPDATE trust SET id = replace(id, '-', '')").execute(&mut other).await.unwrap();
    for outcome in [
        world.registry.disable(&by_name("a")).await.map(drop),
        world.registry.rotate(&by_name("a")).await.map(drop),
        world.registry.delete(&by_name("a")).await.map(drop),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), "bad_row");
    }
    assert!(matches!(world.attempt(&key).await.result, Err(AuthError::Invalid)));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM trust WHERE disabled_at IS NULL")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn g9_a_change_that_a_trigger_swallows_is_never_reported_as_made() {
    let attributes = Some(serde_json::json!({ "scopes": ["x"] }));
    for sql in [
        "CREATE TRIGGER keep BEFORE UPDATE ON trust BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER keep BEFORE DELETE ON trust BEGIN SELECT RAISE(IGNORE); END",
        // The statement changes its row, and this trigger changes the row back.
        "CREATE TRIGGER keep AFTER UPDATE ON trust BEGIN \
         UPDATE trust SET disabled_at = old.disabled_at, api_key_hash = old.api_key_hash, \
         attributes = old.attributes WHERE id = old.id; END",
    ] {
        let world = World::<SqliteStore>::new().await;
        let (_, key) = world.register("a").await;
        sqlx::query(sql).execute(&mut second_connection(&world.store).await).await.unwrap();
        let outcomes = if sql.contains("UPDATE") {
            vec![
                world.registry.disable(&by_name("a")).await.map(drop),
                world.registry.rotate(&by_name("a")).await.map(drop),
                world.registry.set_attributes(&by_name("a"), attributes.clone()).await.map(drop),
            ]
        } else {
            vec![world.registry.delete(&by_name("a")).await.map(drop)]
        };
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), "schema");
        }
        assert!(world.attempt(&key).await.result.is_ok());
    }
}

#[tokio::test]
async fn a_registration_that_a_trigger_swallows_is_not_reported_as_a_taken_name() {
    let world = World::<SqliteStore>::new().await;
    let sql = "CREATE TRIGGER keep BEFORE INSERT ON trust BEGIN SELECT RAISE(IGNORE); END";
    sqlx::query(sql).execute(&mut second_connection(&world.store).await).await.unwrap();
    let error =
        world.store.insert(NewTrust::new("a").unwrap(), KeyHash::of("a")).await.unwrap_err();
    assert_eq!(error.kind(), "schema");
}

/// Makes the table as another program may have made it, with columns of any type.
async fn loose_table(store: &SqliteStore) -> sqlx::SqliteConnection {
    let mut other = second_connection(store).await;
    for sql in [
        "DROP TABLE trust",
        "CREATE TABLE trust (id, name TEXT NOT NULL UNIQUE, code, region, api_key_hash, \
         created_at TEXT NOT NULL, last_heartbeat, disabled_at, attributes)",
    ] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    other
}

/// Makes the same table, with the present rows.
async fn loose_copy(mut other: sqlx::SqliteConnection) -> sqlx::SqliteConnection {
    for sql in [
        "CREATE TABLE loose AS SELECT * FROM trust ORDER BY rowid",
        "DROP TABLE trust",
        "ALTER TABLE loose RENAME TO trust",
    ] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    other
}

/// All rows are read as one value. The content of a row must not shift the next row, and must not
/// pass for another row.
#[tokio::test]
async fn no_malformed_row_changes_how_the_others_are_read_g8_g9() {
    let victim = Uuid::from_u128(7).to_string();
    let forger = KeyHash::of("the forger's key").to_hex();
    // (id, hash) as SQL expressions, `$v` for the victim's id and `$h` for the forger's digest.
    let malformed = [
        ("''", "''"),
        ("'x'", "'$h'"),
        ("'$v' || ','", "'$h'"),
        ("'x,$v'", "'$h'"),
        ("'x' || char(0) || '$v'", "'$h'"),
        ("'$v' || char(0)", "'$h'"),
        // Two columns of the wrong lengths, whose sum is right.
        ("substr('$v', 1, 35)", "'0$h'"),
        ("'$v' || '0'", "substr('$h', 2)"),
        // A whole record of the victim, and one and a half records.
        ("'x'", "'$v$h'"),
        ("'x'", "'$h$v$h'"),
        ("'$v$h$v'", "'$h'"),
        ("'$v$h' || substr('$v', 1, 36)", "''"),
        // The right number of characters and too many bytes, and the reverse.
        ("replace('$v', '0', 'é')", "'$h'"),
        ("substr('$v', 1, 34) || 'é'", "'$h'"),
        ("'00000000-0000-0000-0000-000000000001'", "substr('$h', 1, 62) || 'é'"),
        ("'00000000-0000-0000-0000-000000000002'", "substr('$h', 1, 63) || 'é'"),
        ("'00000000-0000-0000-0000-000000000003'", "substr('$h', 1, 63) || char(0)"),
        ("'00000000-0000-0000-0000-000000000004'", "substr('$h', 1, 63) || ','"),
        ("'00000000-0000-0000-0000-000000000005'", "'$h' || char(0)"),
        ("'00000000-0000-0000-0000-000000000006'", "CAST(zeroblob(64) AS TEXT)"),
        (
            "'00000000-0000-0000-0000-000000000008'",
            "CAST(unhex(replace(hex(zeroblob(64)), '00', 'ff')) AS TEXT)",
        ),
        // The wrong type, with the right bytes and with other bytes.
        ("CAST('$v' AS BLOB)", "'$h'"),
        ("'00000000-0000-0000-0000-000000000009'", "CAST('$h' AS BLOB)"),
        ("'00000000-0000-0000-0000-00000000000a'", "zeroblob(64)"),
        ("zeroblob(36)", "zeroblob(64)"),
        ("42", "42"),
        ("NULL", "'$h'"),
        ("4.5", "'$h'"),
        ("upper(replace('$v', '7', 'a'))", "'$h'"),
    ];
    let world = World::<SqliteStore>::new().await;
    let mut other = loose_table(&world.store).await;
    let insert = |id: &str, name: String, hash: &str| {
        let sql = format!(
            "INSERT INTO trust (id, name, api_key_hash, created_at) \
             VALUES ({id}, '{name}', {hash}, '2020-01-01T00:00:00Z')"
        );
        sql.replace("$v", &victim).replace("$h", &forger)
    };
    let sound: Vec<(Uuid, KeyHash)> = (0..malformed.len() as u128)
        .map(|at| (Uuid::from_u128(1_000 + at), KeyHash::of(at.to_be_bytes())))
        .collect();
    let mut rows = vec![insert(
        "'$v'",
        "victim".into(),
        &format!("'{}'", KeyHash::of("the victim's key").to_hex()),
    )];
    for (at, ((id, hash), (sound_id, sound_hash))) in malformed.iter().zip(&sound).enumerate() {
        rows.push(insert(id, format!("malformed {at}"), hash));
        rows.push(insert(
            &format!("'{sound_id}'"),
            format!("sound {at}"),
            &format!("'{}'", sound_hash.to_hex()),
        ));
    }
    let mut expected = vec![(Uuid::from_u128(7), KeyHash::of("the victim's key"))];
    expected.extend(sound);
    for sql in rows {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut other).await.unwrap();
    }

    let candidates = world.store.candidates().await.unwrap();
    let ids = (0..candidates.len()).map(|at| candidates.id(at).unwrap());
    assert_eq!(ids.zip(candidates.hashes().iter().copied()).collect::<Vec<_>>(), expected);
    let refused = world.authenticator.authenticate(Some("the forger's key")).await;
    assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
    let granted = world.authenticator.authenticate(Some("the victim's key")).await.unwrap();
    assert_eq!(granted.id, Uuid::from_u128(7));
}

/// Texts have two bytes a character in the file, and may have another length after their
/// conversion.
#[tokio::test]
async fn a_database_whose_texts_are_utf_16_is_read_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut other = options.connect().await.unwrap();
    for sql in ["PRAGMA encoding = 'UTF-16le'", "CREATE TABLE t (x)", "DROP TABLE t"] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    let store = Arc::new(sqlite_options(&file).connect().await.unwrap());
    let encoding: String =
        sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut other).await.unwrap();
    assert_eq!(encoding, "UTF-16le");

    let world = World::over(store, None);
    let mut trusts = Vec::new();
    for name in ["a", "b", "c"] {
        trusts.push(world.register(name).await);
    }
    // Each has half of a record, counted in bytes in the file.
    let mut other = loose_copy(other).await;
    let forged = format!("{}{}", trusts[0].0.id, KeyHash::of("the forger's key").to_hex());
    for (at, half) in [&forged[..50], &forged[50..]].into_iter().enumerate() {
        let sql = "INSERT INTO trust (id, name, api_key_hash, created_at) \
                   VALUES (?1, ?2, ?3, '2020-01-01T00:00:00Z')";
        sqlx::query(sql)
            .bind(&half[..18])
            .bind(format!("half {at}"))
            .bind(&half[18..])
            .execute(&mut other)
            .await
            .unwrap();
    }
    assert_eq!(world.store.candidates().await.unwrap().len(), 3);
    for (trust, key) in &trusts {
        assert_eq!(world.attempt(key).await.result.unwrap(), *trust);
    }
}

#[tokio::test]
async fn a_row_whose_id_is_malformed_is_skipped_by_the_sweep() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register("a").await;
    let (sound, sound_key) = world.register("b").await;
    let mut other = second_connection(&world.store).await;
    sqlx::query("UPDATE trust SET id = 'x' WHERE name = 'a'").execute(&mut other).await.unwrap();
    assert!(matches!(world.attempt(&key).await.result, Err(AuthError::Invalid)));
    assert_eq!(world.attempt(&sound_key).await.result.unwrap(), sound);
    let listing = world.store.listing().await.unwrap();
    assert_eq!(listing.trusts, [sound]);
    assert_eq!(
        listing.malformed,
        [MalformedRow { id: None, name: Some("a".into()), column: "id" }]
    );
    let attempt = world.authenticator.attempt(Some("no trust has this")).await;
    assert_eq!(attempt.rows_swept, 1);
    assert_eq!(world.cache.lookup(&KeyHash::of(key.expose())), None);
}
