//! No log line, output or message contains a key or a digest (G10).

mod stores;

use std::error::Error;
use std::fmt::Debug;

use sqlx::Executor;
use stores::postgres_server::{PASSWORD, PostgresServer};
use stores::{Log, World, by_name, postgres_options, second_connection};
use trust_auth::{
    ApiKey, AuthError, KeyHash, MemoryStore, NewTrust, PostgresStore, SqliteStore, StoreError,
    Trust, TrustLedger, TrustRef, TrustStore,
};

/// Checks that the text contains neither the key nor its digest in hexadecimal, nor most of either.
fn assert_clean(text: &str, key: &ApiKey) {
    let digest = key.hash().to_hex();
    assert!(!text.contains(&key.expose()[..12]), "a key: {text}");
    assert!(!text.contains(&key.expose()[31..]), "a key: {text}");
    assert!(!text.to_lowercase().contains(&digest[..12]), "a digest: {text}");
    assert!(!text.to_lowercase().contains(&digest[52..]), "a digest: {text}");
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?} {value:#?}")
}

/// Returns all texts of an error and of its sources.
fn everything(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[test]
fn a_keys_debug_is_redacted() {
    let key = ApiKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
    assert_clean(&debug(&Some(&key)), &key);
}

#[tokio::test]
async fn a_trust_shows_its_digest_neither_in_debug_nor_in_json() {
    let world = World::<MemoryStore>::new().await;
    let (trust, key) = world.register("a").await;
    let json = serde_json::to_string(&trust).unwrap();
    assert_clean(&debug(&trust), &key);
    assert_clean(&json, &key);
    assert!(!json.contains("hash"), "{json}");
}

#[tokio::test]
async fn nothing_that_holds_keys_or_digests_shows_them() {
    let world = World::<SqliteStore>::new().await;
    let (trust, key) = world.register_hot("a").await;
    assert_clean(&debug(&world.authenticator), &key);
    assert_clean(&debug(&world.registry), &key);
    assert_clean(&debug(&world.store), &key);
    assert!(debug(&world.store).contains("trust"), "the store is not named");
    assert_clean(&debug(&world.cache), &key);
    assert_clean(&debug(&world.attempt(&key).await), &key);
    assert_clean(&debug(&world.store.candidates().await.unwrap()), &key);
    assert_clean(&debug(&world.store.set_enabled(&trust.id.into(), true).await.unwrap()), &key);
    let memory = MemoryStore::with_rows([trust]).unwrap();
    assert_clean(&debug(&memory), &key);
}

/// Errors of every operation that has a key or a digest among its arguments or its rows.
#[tokio::test]
async fn no_error_carries_a_key_or_a_digest() {
    let world = World::<SqliteStore>::new().await;
    let (trust, key) = world.register_hot("a").await;
    let hash = key.hash();
    let mut errors: Vec<Box<dyn Error>> = Vec::new();

    errors.push(Box::new(world.store.insert(NewTrust::new("a").unwrap(), hash).await.unwrap_err()));
    errors.push(Box::new(world.store.replace_hash(&by_name("b"), hash).await.unwrap_err()));

    let mut other = second_connection(&world.store).await;
    // A trigger that fails the write and quotes nothing, then a dropped table.
    sqlx::query(
        "CREATE TRIGGER refuse BEFORE UPDATE ON trust BEGIN SELECT raise(ABORT, 'refused'); END",
    )
    .execute(&mut other)
    .await
    .unwrap();
    errors.push(Box::new(world.store.replace_hash(&trust.id.into(), hash).await.unwrap_err()));
    sqlx::query("DROP TRIGGER refuse").execute(&mut other).await.unwrap();
    sqlx::query("UPDATE trust SET created_at = api_key_hash").execute(&mut other).await.unwrap();
    errors.push(Box::new(world.store.fetch(trust.id).await.unwrap_err()));
    errors.push(Box::new(world.attempt(&key).await.result.unwrap_err()));
    sqlx::query("UPDATE trust SET id = api_key_hash").execute(&mut other).await.unwrap();
    errors.push(Box::new(world.registry.rotate(&by_name("a")).await.unwrap_err()));
    sqlx::query("DROP TABLE trust").execute(&mut other).await.unwrap();
    errors.push(Box::new(world.store.insert(NewTrust::new("b").unwrap(), hash).await.unwrap_err()));
    errors.push(Box::new(world.attempt(&key).await.result.unwrap_err()));
    world.store.close().await;
    errors.push(Box::new(world.attempt(&key).await.result.unwrap_err()));
    errors.push(Box::new(AuthError::Invalid));

    for error in errors {
        assert_clean(&everything(&*error), &key);
    }
}

/// A user pastes the key in place of the trust's name.
#[tokio::test]
async fn a_key_in_place_of_a_name_is_not_repeated() {
    let world = World::<MemoryStore>::new().await;
    let (_, key) = world.register("a").await;
    for text in [key.expose().to_owned(), format!(" {}\n", key.expose())] {
        let which = TrustRef::from(text.as_str());
        assert_clean(&format!("{which} {which:?}"), &key);
        let error: StoreError = world.store.delete(&which).await.unwrap_err();
        assert_clean(&everything(&error), &key);
        assert!(error.to_string().contains("looks like an API key"), "{error}");
        let refused = NewTrust::new(text).unwrap_err();
        assert_clean(&everything(&refused), &key);
    }
}

#[tokio::test]
async fn the_log_has_the_id_of_a_malformed_row_and_neither_keys_nor_digests() {
    let (log, _guard) = Log::start();
    let world = World::<SqliteStore>::new().await;
    let (spoilt, spoilt_key) = world.register_hot("spoilt").await;
    let (_, key) = world.register_hot("sound").await;
    // Recognisable, and not hexadecimal.
    let content = format!("{}zz", &spoilt_key.hash().to_hex()[..62]);
    sqlx::query("UPDATE trust SET api_key_hash = ?2 WHERE id = ?1")
        .bind(spoilt.id.to_string())
        .bind(content)
        .execute(&mut second_connection(&world.store).await)
        .await
        .unwrap();
    world.attempt(&spoilt_key).await.result.unwrap_err();
    world.registry.rotate(&by_name("sound")).await.unwrap();
    world.attempt(&key).await.result.unwrap_err();
    world.authenticator.authenticate(Some("no trust has this")).await.unwrap_err();

    let log = log.text();
    assert!(log.contains(&spoilt.id.to_string()), "{log}");
    assert!(log.contains("WARN"), "{log}");
    assert_clean(&log, &key);
    assert_clean(&log, &spoilt_key);
    assert!(!log.contains("no trust has this"), "{log}");
}

#[tokio::test]
async fn other_malformed_columns_are_logged_without_their_content() {
    let (log, _guard) = Log::start();
    let world = World::<SqliteStore>::new().await;
    let (trust, _) = world.register("a").await;
    let mut other = second_connection(&world.store).await;
    other.execute("UPDATE trust SET last_heartbeat = 'yesterdays secret'").await.unwrap();
    assert_eq!(world.store.fetch(trust.id).await.unwrap().unwrap().last_heartbeat, None);
    let text = log.text();
    assert!(text.contains(&trust.id.to_string()) && text.contains("last_heartbeat"), "{text}");
    other.execute("UPDATE trust SET id = 'another secret'").await.unwrap();
    assert!(world.store.candidates().await.unwrap().is_empty());
    let text = log.text();
    assert!(text.contains("id is not a UUID") && !text.contains("secret"), "{text}");
}

/// Each scan finds the row again, and an unauthenticated client can cause any number of scans.
async fn a_malformed_row_is_logged_once_for_many_unknown_keys<S: TrustLedger>(
    world: World<S>,
    spoil: impl AsyncFn(&S, &str),
) {
    let (log, _guard) = Log::start();
    let (a, _) = world.register("a").await;
    let (b, key) = world.register("b").await;
    spoil(&world.store, &format!("UPDATE trust SET api_key_hash = '{}'", "z".repeat(64))).await;
    for _ in 0..20 {
        world.authenticator.authenticate(Some("no trust has this")).await.unwrap_err();
        world.store.fetch(b.id).await.unwrap();
    }
    assert_eq!(world.authenticator.stats().scans, 20);
    let text = log.text();
    for trust in [&a, &b] {
        assert_eq!(text.matches(&trust.id.to_string()).count(), 1, "{text}");
    }
    assert_clean(&text, &key);
}

#[tokio::test]
async fn a_postgres_store_shows_its_server_and_no_password() {
    let Some(server) = PostgresServer::shared() else { return };
    let store = postgres_options(&server.new_database()).connect().await.unwrap();
    let shown = debug(&store);
    assert!(shown.contains(&store.server()), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[tokio::test]
async fn a_malformed_row_of_sqlite_is_logged_once_for_many_unknown_keys() {
    let spoil = async |store: &SqliteStore, sql: &str| {
        second_connection(store).await.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
    };
    a_malformed_row_is_logged_once_for_many_unknown_keys(World::new().await, spoil).await;
}

#[tokio::test]
async fn a_malformed_row_of_postgres_is_logged_once_for_many_unknown_keys() {
    let Some(server) = PostgresServer::shared() else { return };
    let spoil = async |store: &PostgresStore, sql: &str| {
        let database = store.server().rsplit('/').next().unwrap().to_owned();
        server.psql(&database, sql);
    };
    a_malformed_row_is_logged_once_for_many_unknown_keys(World::new().await, spoil).await;
}

#[test]
fn a_trust_is_serialised_with_its_times_in_rfc_3339() {
    let mut trust = Trust::new(uuid::Uuid::from_u128(7), "a");
    trust.region = Some("north".into());
    trust.api_key_hash = Some(KeyHash::of("key"));
    trust.created_at = Some(time::OffsetDateTime::UNIX_EPOCH);
    trust.disabled_at = Some(time::OffsetDateTime::UNIX_EPOCH);
    let expected = serde_json::json!({
        "id": "00000000-0000-0000-0000-000000000007",
        "name": "a",
        "code": null,
        "region": "north",
        "created_at": "1970-01-01T00:00:00Z",
        "last_heartbeat": null,
        "disabled_at": "1970-01-01T00:00:00Z",
    });
    assert_eq!(serde_json::to_value(&trust).unwrap(), expected);
}
