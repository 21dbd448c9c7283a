//! Checks which keys are granted, by which route, and what is counted. No test here revokes a key
//! during a request.

mod stores;

use std::time::Duration;

use stores::{Backend, World, by_name};
use trust_auth::{AuthError, KeyHash, NewTrust, Route, SqliteStore, StoreError, TrustRegistry};

on_every_store!(
    the_first_request_scans_and_the_next_ones_hit,
    a_key_that_no_trust_has_is_invalid_and_is_not_remembered,
    a_missing_or_empty_key_is_distinguished_and_reads_nothing,
    the_key_is_hashed_as_it_is_and_nothing_is_trimmed,
    a_key_of_a_mebibyte_is_a_key_like_any_other,
    a_sweep_compares_every_enabled_row_and_no_other,
    of_two_rows_with_one_hash_the_last_is_granted,
    a_trust_whose_hash_is_null_is_skipped,
    the_counters_add_up,
    a_clone_shares_the_cache_and_the_counters,
    the_change_of_another_process_is_seen_without_a_notification,
);

async fn the_first_request_scans_and_the_next_ones_hit<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register("a").await;
    world.register("b").await;

    let first = world.attempt(&key).await;
    assert_eq!(first.result.unwrap(), trust);
    assert_eq!((first.route, first.rows_swept), (Route::Scan, 2));

    for _ in 0..3 {
        let next = world.attempt(&key).await;
        assert_eq!(next.result.unwrap(), trust);
        assert_eq!((next.route, next.rows_swept), (Route::Hit, 0));
    }
}

async fn a_key_that_no_trust_has_is_invalid_and_is_not_remembered<S: Backend>() {
    let world = World::<S>::new().await;
    world.register("a").await;
    for _ in 0..2 {
        let attempt = world.authenticator.attempt(Some("no trust has this")).await;
        assert!(matches!(attempt.result, Err(AuthError::Invalid)));
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 1));
    }
    assert!(world.cache.is_empty());
}

async fn a_missing_or_empty_key_is_distinguished_and_reads_nothing<S: Backend>() {
    let world = World::<S>::new().await;
    // A row that the empty key would match, if it were compared.
    world.store.insert(NewTrust::new("a").unwrap(), KeyHash::of("")).await.unwrap();
    for key in [None, Some("")] {
        let attempt = world.authenticator.attempt(key).await;
        assert!(matches!(attempt.result, Err(AuthError::Missing)));
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Unread, 0));
    }
    let refused = world.authenticator.authenticate(None).await.unwrap_err();
    assert_eq!(
        (refused.status(), refused.detail()),
        (401, "Not authenticated: API key is missing.")
    );
    assert_eq!(refused.www_authenticate(), Some("ApiKey"));
}

async fn the_key_is_hashed_as_it_is_and_nothing_is_trimmed<S: Backend>() {
    let world = World::<S>::new().await;
    for key in ["ключ — 鍵 🔑", " a ", "a\n", "A", "a\0b"] {
        let name = format!("trust of {key:?}");
        world.store.insert(NewTrust::new(&name).unwrap(), KeyHash::of(key)).await.unwrap();
        for route in [Route::Scan, Route::Hit] {
            let attempt = world.authenticator.attempt(Some(key)).await;
            assert_eq!((attempt.result.unwrap().name, attempt.route), (name.clone(), route));
        }
    }
    for key in [" ", "a", "a ", "a\r\n", "ключ — 鍵"] {
        let refused = world.authenticator.authenticate(Some(key)).await;
        assert!(matches!(refused, Err(AuthError::Invalid)), "{key:?}");
    }
}

async fn a_key_of_a_mebibyte_is_a_key_like_any_other<S: Backend>() {
    let world = World::<S>::new().await;
    let key = "k".repeat(1 << 20);
    world.store.insert(NewTrust::new("a").unwrap(), KeyHash::of(&key)).await.unwrap();
    for _ in 0..2 {
        assert!(world.authenticator.authenticate(Some(&key)).await.is_ok());
    }
    assert!(matches!(
        world.authenticator.authenticate(Some(&key[1..])).await,
        Err(AuthError::Invalid)
    ));
}

async fn a_sweep_compares_every_enabled_row_and_no_other<S: Backend>() {
    let world = World::<S>::new().await;
    let mut keys = Vec::new();
    for at in 0..10 {
        keys.push(world.register(&format!("trust {at}")).await.1);
    }
    world.registry.disable(&by_name("trust 3")).await.unwrap();
    world.registry.delete(&by_name("trust 4")).await.unwrap();

    // The first row, the last row and no row cost the same number of compares (G8).
    for key in [keys[0].expose(), keys[9].expose(), "no trust has this"] {
        assert_eq!(world.authenticator.attempt(Some(key)).await.rows_swept, 8);
    }
    assert_eq!(world.authenticator.stats().rows_swept, 24);
}

async fn of_two_rows_with_one_hash_the_last_is_granted<S: Backend>() {
    let world = World::<S>::new().await;
    let hash = KeyHash::of("shared");
    for name in ["first", "last", "middle"] {
        world.store.insert(NewTrust::new(name).unwrap(), hash).await.unwrap();
    }
    let granted = async || world.authenticator.authenticate(Some("shared")).await.unwrap().name;
    assert_eq!(granted().await, "middle");
    assert_eq!(granted().await, "middle");

    world.registry.delete(&by_name("middle")).await.unwrap();
    assert_eq!(granted().await, "last");
    world.registry.disable(&by_name("last")).await.unwrap();
    assert_eq!(granted().await, "first");
}

async fn a_trust_whose_hash_is_null_is_skipped<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register("a").await;
    world.store.forget_hash(trust.id).await;
    let attempt = world.attempt(&key).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)));
    assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 0));

    let (_, key) = world.registry.rotate(&trust.id.into()).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
}

async fn the_counters_add_up<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register("a").await;
    world.register("b").await;

    world.attempt(&key).await.result.unwrap();
    world.attempt(&key).await.result.unwrap();
    world.authenticator.authenticate(None).await.unwrap_err();
    world.authenticator.authenticate(Some("no trust has this")).await.unwrap_err();
    // Not through the registry, so that the entry stays.
    world.store.delete(&trust.id.into()).await.unwrap();
    world.attempt(&key).await.result.unwrap_err();

    let stats = world.authenticator.stats();
    assert_eq!(stats.requests, 5);
    assert_eq!((stats.hits, stats.stale_hits), (1, 1));
    assert_eq!((stats.scans, stats.rows_swept), (3, 2 + 2 + 1));
    assert_eq!((stats.granted, stats.missing, stats.invalid, stats.unavailable), (2, 1, 2, 0));
}

async fn a_clone_shares_the_cache_and_the_counters<S: Backend>() {
    let world = World::<S>::new().await;
    let (_, key) = world.register("a").await;
    let clone = world.authenticator.clone();
    world.attempt(&key).await.result.unwrap();
    assert_eq!(clone.attempt(Some(key.expose())).await.route, Route::Hit);
    assert_eq!(clone.stats(), world.authenticator.stats());
    assert_eq!(clone.stats().requests, 2);
}

/// The registry of another process has a cache of its own, and shares only the table.
async fn the_change_of_another_process_is_seen_without_a_notification<S: Backend>() {
    let world = World::<S>::new().await;
    let elsewhere = TrustRegistry::new(world.store.clone(), Default::default());
    let (trust, key) = elsewhere.register(NewTrust::new("a").unwrap()).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());

    elsewhere.disable(&trust.id.into()).await.unwrap();
    let attempt = world.attempt(&key).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)));
    assert_eq!(attempt.route, Route::StaleHit);

    elsewhere.enable(&trust.id.into()).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
}

#[test]
fn each_refusal_has_its_status_its_headers_and_its_word() {
    let shown = |refused: AuthError| {
        (refused.kind(), refused.status(), refused.www_authenticate(), refused.retry_after())
    };
    let second = Some(Duration::from_secs(1));
    assert_eq!(shown(AuthError::Missing), ("missing", 401, Some("ApiKey"), None));
    assert_eq!(shown(AuthError::Invalid), ("invalid", 401, Some("ApiKey"), None));
    assert_eq!(shown(AuthError::Unavailable(StoreError::Busy)), ("unavailable", 503, None, second));
}

#[tokio::test]
async fn debug_output_shows_the_counters_and_the_file_of_the_store() {
    let world = World::<SqliteStore>::new().await;
    world.authenticator.authenticate(None).await.unwrap_err();
    let shown = format!("{:?} {:?}", world.authenticator, world.store);
    assert!(shown.contains("missing: 1"), "{shown}");
    assert!(shown.contains("trusts.db"), "{shown}");
}
