//! Several keys a trust: each is granted and named, ends at its own time, and is revoked alone.

mod stores;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Executor;
use stores::{Backend, Log, World, by_name, eventually, second_connection, sqlite_options};
use time::OffsetDateTime;
use trust_auth::{
    ApiKey, AuthError, Authenticator, HeldTrusts, KeyHash, KeyTerms, NewKey, NewTrust,
    RegistryError, Rotation, Route, SqliteStore, StoreError, Trust, TrustKey, TrustLedger,
    TrustRegistry, TrustStore, Waiting, Watcher,
};
use uuid::Uuid;

on_every_store!(
    each_key_of_a_trust_is_granted_and_named,
    a_revoked_key_is_refused_and_the_others_are_granted_as_before,
    a_second_revocation_keeps_the_time_of_the_first,
    a_revoked_key_is_refused_wherever_its_digest_is,
    a_key_that_is_not_there_cannot_be_revoked,
    the_store_judges_the_end_of_a_key_when_it_reads,
    a_cached_key_ends_by_itself,
    a_rotation_with_an_overlap_gives_the_old_keys_an_end,
    a_later_overlap_makes_no_end_later,
    a_rotation_revokes_every_other_key,
    a_rotation_revokes_a_key_that_is_at_its_end_too,
    a_rotation_to_a_key_with_an_end_empties_the_column,
    a_trust_can_be_registered_with_a_key_that_ends,
    a_digest_of_a_key_cannot_be_imported_again,
    a_disabled_trust_refuses_all_its_keys,
    a_deleted_trust_takes_its_keys_along,
    a_program_that_writes_only_the_column_goes_on_working,
    r16_a_repeated_rotation_knows_the_keys_that_it_found,
    attributes_are_stored_as_they_are,
);

const HOUR: Duration = Duration::from_secs(3_600);

async fn add<S: TrustLedger>(
    world: &World<S>,
    trust: &Trust,
    terms: KeyTerms,
) -> (TrustKey, ApiKey) {
    world.registry.add_key(&trust.id.into(), &terms).await.unwrap()
}

/// Asserts that the key is granted, and that its id is in the attempt.
async fn assert_granted<S: TrustLedger>(world: &World<S>, key: &ApiKey, id: Option<Uuid>) -> Route {
    let attempt = world.attempt(key).await;
    assert!(attempt.result.is_ok(), "{attempt:?}");
    assert_eq!(attempt.key_id, id);
    attempt.route
}

async fn assert_refused<S: TrustLedger>(world: &World<S>, key: &ApiKey) {
    let attempt = world.attempt(key).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{attempt:?}");
    assert_eq!(attempt.key_id, None);
}

async fn rotate<S: TrustLedger>(
    world: &World<S>,
    trust: &Trust,
    terms: KeyTerms,
    overlap: Option<Duration>,
) -> (Trust, ApiKey) {
    let (revocation, key) =
        world.registry.begin_rotate_with(&trust.id.into(), &terms, overlap).await.unwrap();
    (revocation.settle(Waiting::default()).await.unwrap().0, key)
}

async fn keys<S: TrustLedger>(world: &World<S>, trust: &Trust) -> Vec<TrustKey> {
    world.registry.keys(&trust.id.into()).await.unwrap()
}

/// Returns in how many seconds the key ends.
fn seconds_left(key: &TrustKey) -> i64 {
    (key.expires_at.unwrap() - OffsetDateTime::now_utc()).whole_seconds()
}

async fn each_key_of_a_trust_is_granted_and_named<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register("a").await;
    let (other, other_own) = world.register("b").await;
    let terms = KeyTerms::new().with_label("laboratory").lasting(HOUR);
    let (one, one_key) = add(&world, &trust, terms).await;
    let (two, two_key) = add(&world, &trust, KeyTerms::new()).await;
    let (three, three_key) = add(&world, &other, KeyTerms::new()).await;
    assert_eq!((one.label.as_deref(), one.trust), (Some("laboratory"), trust.id));
    assert!((3_500..=3_600).contains(&seconds_left(&one)), "{one:?}");
    assert_eq!(two.expires_at, None);
    assert!(one_key.expose().ends_with(one.last_four.as_deref().unwrap()));

    for route in [Route::Scan, Route::Hit] {
        assert_eq!(assert_granted(&world, &own, None).await, route);
        assert_eq!(assert_granted(&world, &one_key, Some(one.id)).await, route);
        assert_eq!(assert_granted(&world, &two_key, Some(two.id)).await, route);
        assert_eq!(assert_granted(&world, &other_own, None).await, route);
        assert_eq!(assert_granted(&world, &three_key, Some(three.id)).await, route);
    }
    assert_eq!(world.attempt(&three_key).await.result.unwrap().id, other.id);
    let found = world.store.fetch(trust.id).await.unwrap().unwrap();
    assert_eq!(found.keys, [one.clone(), two.clone()]);
    assert_eq!(world.store.list().await.unwrap()[0], found);
    assert_eq!(keys(&world, &trust).await, [one, two]);

    let candidates = world.store.candidates().await.unwrap();
    let expected = [&own, &other_own, &one_key, &two_key, &three_key].map(ApiKey::hash);
    assert_eq!(candidates.hashes(), expected);
    let of = [trust.id, other.id, trust.id, trust.id, other.id].map(Some);
    assert_eq!([0, 1, 2, 3, 4].map(|at| candidates.id(at)), of);
}

async fn a_revoked_key_is_refused_and_the_others_are_granted_as_before<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register_hot("a").await;
    let (one, one_key) = add(&world, &trust, KeyTerms::new()).await;
    let (two, two_key) = add(&world, &trust, KeyTerms::new()).await;
    assert_granted(&world, &one_key, Some(one.id)).await;
    assert_granted(&world, &two_key, Some(two.id)).await;

    let after = world.registry.revoke_key(one.id).await.unwrap();
    assert_eq!(after.keys, std::slice::from_ref(&two));
    assert_eq!(world.cached(&one_key), None);
    assert_refused(&world, &one_key).await;
    assert_eq!(assert_granted(&world, &own, None).await, Route::Hit);
    assert_eq!(assert_granted(&world, &two_key, Some(two.id)).await, Route::Hit);
    assert_eq!(world.store.candidates().await.unwrap().len(), 2);
    let all = keys(&world, &trust).await;
    assert!(all[0].revoked_at.is_some() && all[1].revoked_at.is_none(), "{all:?}");
}

async fn a_second_revocation_keeps_the_time_of_the_first<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, _) = world.register("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    let change = world.store.revoke_key(row.id).await.unwrap();
    assert_eq!(change.former, [key.hash()]);
    let first = keys(&world, &trust).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(world.store.revoke_key(row.id).await.unwrap().former, [key.hash()]);
    assert_eq!(keys(&world, &trust).await, first);
    assert!(first[0].revoked_at >= first[0].created_at);
}

/// The caller of a revocation relies on its `Ok`.
async fn a_revoked_key_is_refused_wherever_its_digest_is<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register_hot("a").await;
    let (kept, other) = add(&world, &trust, KeyTerms::new()).await;
    let again = world.store.add_key(&trust.id.into(), own.hash().into()).await.unwrap();
    let twice = world.store.add_key(&trust.id.into(), own.hash().into()).await.unwrap();
    let after = world.registry.revoke_key(again.id).await.unwrap();
    assert_eq!((after.api_key_hash, after.keys), (None, vec![kept.clone()]));
    assert_refused(&world, &own).await;
    assert_granted(&world, &other, Some(kept.id)).await;
    let rows = keys(&world, &trust).await;
    let revoked = rows.iter().filter(|row| row.revoked_at.is_some()).map(|row| row.id);
    assert_eq!(revoked.collect::<Vec<_>>(), [again.id, twice.id]);
}

async fn a_key_that_is_not_there_cannot_be_revoked<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register("a").await;
    for id in [trust.id, Uuid::nil()] {
        let error = world.registry.revoke_key(id).await.unwrap_err();
        assert_eq!(error.kind(), "no_such_key", "{error}");
    }
    let absent = by_name("b");
    assert_eq!(world.registry.keys(&absent).await.unwrap_err().kind(), "no_such_trust");
    let added = world.registry.add_key(&absent, &KeyTerms::new()).await;
    assert_eq!(added.unwrap_err().kind(), "no_such_trust");
    assert_granted(&world, &key, None).await;
}

async fn the_store_judges_the_end_of_a_key_when_it_reads<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new().lasting(HOUR)).await;
    assert_granted(&world, &key, Some(row.id)).await;
    world.store.end_key(&row).await;
    assert_refused(&world, &key).await;
    assert_granted(&world, &own, None).await;
    assert_eq!(world.store.candidates().await.unwrap().len(), 1);
    assert_eq!(world.store.fetch(trust.id).await.unwrap().unwrap().keys, []);
    assert_eq!(world.store.list().await.unwrap()[0].keys, []);
    assert_eq!(keys(&world, &trust).await.len(), 1);
}

/// A slow machine may miss the time in which the key is granted. It never grants later.
async fn a_cached_key_ends_by_itself<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, _) = world.register("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new().lasting(Duration::from_secs(2))).await;
    let end = row.expires_at.unwrap();
    let mut was_cached = false;
    let begun = Instant::now();
    loop {
        let before = OffsetDateTime::now_utc();
        let attempt = world.attempt(&key).await;
        if attempt.result.is_err() {
            break;
        }
        assert!(before < end, "granted after its end");
        was_cached |= world.cached(&key).is_some();
        assert!(begun.elapsed() < Duration::from_secs(60), "it never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(was_cached, "the machine was stopped for two seconds");
    assert!(OffsetDateTime::now_utc() >= end - Duration::from_millis(5), "refused too early");
    // Nothing was invalidated: the entry has ended with the key.
    eventually("the entry is gone", || world.cached(&key).is_none()).await;
}

async fn a_rotation_with_an_overlap_gives_the_old_keys_an_end<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let (early, early_key) = add(&world, &trust, KeyTerms::new().lasting(HOUR / 60)).await;
    let (endless, endless_key) = add(&world, &trust, KeyTerms::new().with_label("b")).await;
    assert_granted(&world, &endless_key, Some(endless.id)).await;

    let (after, new) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
    assert_eq!(after.api_key_hash, Some(new.hash()));
    assert_eq!(world.cached(&old), None, "an entry may last longer than the overlap");
    assert_eq!(after.keys.len(), 3);
    let moved = after.keys.iter().find(|key| key.hash == old.hash()).unwrap();
    assert_granted(&world, &new, None).await;
    assert_granted(&world, &old, Some(moved.id)).await;
    assert_granted(&world, &early_key, Some(early.id)).await;
    assert_granted(&world, &endless_key, Some(endless.id)).await;
    assert_eq!(after.keys[0], early, "it keeps its earlier end");
    for key in [moved, &after.keys[1]] {
        assert!((3_500..=3_600).contains(&seconds_left(key)), "{key:?}");
    }
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(after.clone()));

    world.store.end_key(moved).await;
    assert_refused(&world, &old).await;
    assert_granted(&world, &new, None).await;
    assert_granted(&world, &endless_key, Some(endless.id)).await;
}

async fn a_later_overlap_makes_no_end_later<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, first) = world.register("a").await;
    let (_, second) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
    let (after, third) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR * 2)).await;
    let ends: Vec<i64> = after.keys.iter().map(seconds_left).collect();
    assert!(matches!(ends[..], [3_000..=3_600, 6_600..=7_200]), "{ends:?}");
    for key in [&first, &second, &third] {
        assert!(world.attempt(key).await.result.is_ok());
    }
    let (after, _) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR / 2)).await;
    let ends: Vec<i64> = after.keys.iter().map(seconds_left).collect();
    assert!(ends.len() == 3 && ends.iter().all(|left| (1_200..=1_800).contains(left)), "{ends:?}");
}

async fn a_rotation_revokes_every_other_key<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    let (_, ending) = add(&world, &trust, KeyTerms::new().lasting(HOUR)).await;
    assert_granted(&world, &key, Some(row.id)).await;
    let (after, new) = world.registry.rotate(&trust.id.into()).await.unwrap();
    assert_eq!((after.api_key_hash, after.keys), (Some(new.hash()), vec![]));
    for key in [&old, &key, &ending] {
        assert_eq!(world.cached(key), None);
        assert_refused(&world, key).await;
    }
    assert_granted(&world, &new, None).await;
    assert!(keys(&world, &trust).await.iter().all(|key| key.revoked_at.is_some()));
    assert_eq!(world.store.candidates().await.unwrap().hashes(), [new.hash()]);
}

/// A clock that goes back would revive it.
async fn a_rotation_revokes_a_key_that_is_at_its_end_too<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, _) = world.register_hot("a").await;
    let terms = KeyTerms::new().lasting(Duration::from_millis(1));
    let (ended, _) = add(&world, &trust, terms).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // With an overlap, it keeps its end.
    rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
    let row = async || keys(&world, &trust).await.into_iter().find(|key| key.id == ended.id);
    assert_eq!(row().await, Some(ended.clone()));
    world.registry.rotate(&trust.id.into()).await.unwrap();
    assert!(row().await.unwrap().revoked_at.is_some());
}

async fn a_rotation_to_a_key_with_an_end_empties_the_column<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let (after, new) = rotate(&world, &trust, KeyTerms::new().lasting(HOUR), None).await;
    let [row] = &after.keys[..] else { panic!("{after:?}") };
    assert_eq!((after.api_key_hash, row.hash), (None, new.hash()));
    assert_refused(&world, &old).await;
    assert_granted(&world, &new, Some(row.id)).await;
    // The next one is in the column again.
    let (after, newest) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
    assert_eq!(after.api_key_hash, Some(newest.hash()));
    assert_granted(&world, &new, Some(row.id)).await;
    assert_granted(&world, &newest, None).await;
}

async fn a_trust_can_be_registered_with_a_key_that_ends<S: Backend>() {
    let world = World::<S>::new().await;
    let terms = KeyTerms::new().with_label("first").lasting(HOUR);
    let (trust, key) =
        world.registry.register_with(NewTrust::new("a").unwrap(), &terms).await.unwrap();
    assert_eq!((trust.api_key_hash, trust.keys.len()), (None, 1));
    assert_granted(&world, &key, Some(trust.keys[0].id)).await;
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(trust.clone()));
    world.store.end_key(&trust.keys[0]).await;
    assert_refused(&world, &key).await;
    let taken = world.registry.register_with(NewTrust::new("a").unwrap(), &terms).await;
    assert_eq!(taken.unwrap_err().kind(), "name_taken");
}

async fn a_digest_of_a_key_cannot_be_imported_again<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register("a").await;
    let (other, _) = world.register("b").await;
    let (_, active) = add(&world, &trust, KeyTerms::new()).await;
    let (revoked_row, revoked) = add(&world, &trust, KeyTerms::new()).await;
    let (ended_row, ended) = add(&world, &trust, KeyTerms::new().lasting(HOUR)).await;
    world.registry.revoke_key(revoked_row.id).await.unwrap();
    world.store.end_key(&ended_row).await;
    let is_taken = |error: RegistryError| {
        let RegistryError::Store(StoreError::KeyTaken { id }) = error else { panic!("{error:?}") };
        assert_eq!(id, trust.id);
    };
    for key in [&own, &active, &revoked, &ended] {
        // By a former pepper.
        let mut row = NewKey::new(KeyHash::of("by the present pepper"));
        row.former_hashes = vec![key.hash()];
        is_taken(world.registry.import_one_more(&other.id.into(), row).await.unwrap_err());
        let new = NewTrust::new("c").unwrap();
        is_taken(world.registry.import_key(new, key.expose()).await.unwrap_err());
        let row = NewKey::new(key.hash());
        is_taken(world.registry.import_one_more(&other.id.into(), row).await.unwrap_err());
    }
    assert_eq!(world.store.list().await.unwrap().len(), 2);
    let row = NewKey::new(KeyHash::of("another"));
    world.registry.import_one_more(&other.id.into(), row).await.unwrap();
}

async fn a_disabled_trust_refuses_all_its_keys<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register_hot("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    assert_granted(&world, &key, Some(row.id)).await;
    world.registry.disable(&trust.id.into()).await.unwrap();
    for key in [&own, &key] {
        assert_eq!(world.cached(key), None);
        assert_refused(&world, key).await;
    }
    assert!(world.store.candidates().await.unwrap().is_empty());
    world.registry.enable(&trust.id.into()).await.unwrap();
    assert_granted(&world, &own, None).await;
    assert_granted(&world, &key, Some(row.id)).await;
}

async fn a_deleted_trust_takes_its_keys_along<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register_hot("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    assert_granted(&world, &key, Some(row.id)).await;
    world.registry.delete(&trust.id.into()).await.unwrap();
    for key in [&own, &key] {
        assert_eq!(world.cached(key), None);
        assert_refused(&world, key).await;
    }
    let error = world.registry.revoke_key(row.id).await.unwrap_err();
    assert_eq!(error.kind(), "no_such_key");
    // The digest is free, too.
    let new = NewTrust::new("a").unwrap();
    world.registry.import_key(new, key.expose()).await.unwrap();
    assert_granted(&world, &key, None).await;
}

async fn a_program_that_writes_only_the_column_goes_on_working<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    let new = ApiKey::generate().unwrap();
    world.store.write_hash(trust.id, new.hash()).await;
    assert_refused(&world, &old).await;
    assert_granted(&world, &new, None).await;
    assert_granted(&world, &key, Some(row.id)).await;
    world.store.forget_hash(trust.id).await;
    assert_refused(&world, &new).await;
    assert_granted(&world, &key, Some(row.id)).await;
}

/// A repetition finds the keys of before, or what it has made, or a later rotation.
async fn r16_a_repeated_rotation_knows_the_keys_that_it_found<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, own) = world.register("a").await;
    let which = trust.id.into();
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    let mut rotation = Rotation::new(KeyHash::of("new").into());
    rotation.overlap = Some(HOUR);
    rotation.former = Some(vec![own.hash(), key.hash()]);
    for _ in 0..2 {
        let change = world.store.rotate(&which, rotation.clone()).await.unwrap();
        assert_eq!(change.trust.api_key_hash, Some(KeyHash::of("new")));
        assert_eq!(change.trust.keys.len(), 2);
    }
    assert_granted(&world, &key, Some(row.id)).await;
    let (after, _) = rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
    let error = world.store.rotate(&which, rotation.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(after));
}

/// A repetition of the rotation would bring a key back that was revoked.
async fn r16_a_rotation_whose_key_was_revoked_is_superseded<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register("a").await;
    let which = trust.id.into();
    let mut new = NewKey::new(KeyHash::of("new"));
    new.terms = KeyTerms::new().lasting(HOUR);
    let mut rotation = Rotation::new(new);
    let change = world.store.rotate(&which, rotation.clone()).await.unwrap();
    world.store.revoke_key(change.trust.keys[0].id).await.unwrap();
    rotation.former = Some(vec![old.hash()]);
    let error = world.store.rotate(&which, rotation).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    assert!(world.store.candidates().await.unwrap().is_empty());
}

async fn attributes_are_stored_as_they_are<S: Backend>() {
    let world = World::<S>::new().await;
    let attributes = serde_json::json!({"scopes": ["read", "Zoë"], "limit": 1.5, "x": null});
    let new = NewTrust::new("a").unwrap().with_attributes(attributes.clone());
    let (trust, key) = world.registry.register(new).await.unwrap();
    assert_eq!(trust.attributes, Some(attributes));
    let granted = world.attempt(&key).await.result.unwrap();
    assert_eq!(granted, trust);
    assert_eq!(world.store.list().await.unwrap(), [trust]);
}

#[tokio::test]
async fn r16_a_rotation_whose_key_was_revoked_is_superseded_on_sqlite() {
    r16_a_rotation_whose_key_was_revoked_is_superseded::<SqliteStore>().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn r16_a_rotation_whose_key_was_revoked_is_superseded_on_postgres() {
    if stores::postgres_server::PostgresServer::shared().is_some() {
        r16_a_rotation_whose_key_was_revoked_is_superseded::<trust_auth::PostgresStore>().await;
    }
}

/// Runs statements of another program, without the checks of the table.
async fn spoil(store: &SqliteStore, sql: &'static str) {
    let mut other = second_connection(store).await;
    other.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").await.unwrap();
    other.execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_key_whose_trust_is_gone_is_no_candidate_and_refused() {
    let world = World::<SqliteStore>::new().await;
    let (trust, _) = world.register("a").await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    assert_granted(&world, &key, Some(row.id)).await;
    spoil(&world.store, "DELETE FROM trust").await;
    assert_refused(&world, &key).await;
    assert!(world.store.candidates().await.unwrap().is_empty());
    let error = world.registry.revoke_key(row.id).await.unwrap_err();
    assert_eq!(error.kind(), "no_such_key");
}

#[tokio::test]
async fn a_malformed_row_of_a_key_is_left_out_and_refuses_no_other() {
    for sql in [
        "UPDATE trust_key SET digest = upper(digest) || 'x' WHERE label = 'b'",
        "UPDATE trust_key SET digest = substr(digest, 2) || 'x' WHERE label = 'b'",
        "UPDATE trust_key SET id = upper(id) WHERE label = 'b'",
        "UPDATE trust_key SET expires_at = '2999-01-01T25:00:00Z' WHERE label = 'b'",
        "UPDATE trust_key SET expires_at = '2999-01-01' WHERE label = 'b'",
    ] {
        let world = World::<SqliteStore>::new().await;
        let (trust, own) = world.register("a").await;
        let label = |label| KeyTerms::new().with_label(label);
        let (one, one_key) = add(&world, &trust, label("one")).await;
        let (bad, bad_key) = add(&world, &trust, label("b")).await;
        let (two, two_key) = add(&world, &trust, label("two")).await;
        assert_granted(&world, &bad_key, Some(keys(&world, &trust).await[1].id)).await;
        spoil(&world.store, sql).await;
        let (log, guard) = Log::start();
        assert_granted(&world, &own, None).await;
        assert_granted(&world, &one_key, Some(one.id)).await;
        assert_granted(&world, &two_key, Some(two.id)).await;
        assert_refused(&world, &bad_key).await;
        assert_eq!(world.store.fetch(trust.id).await.unwrap().unwrap().keys, [one, two], "{sql}");
        drop(guard);
        let hex = bad_key.hash().to_hex();
        assert!(!log.text().contains(&hex[1..]), "{sql}: {}", log.text());
        if !sql.contains("T25") {
            assert!(log.text().contains("trust_key has a malformed column"), "{sql}");
        }
        // A row that is repaired later must not bring the key back.
        rotate(&world, &trust, KeyTerms::new(), Some(HOUR)).await;
        assert_refused(&world, &bad_key).await;
        match sql.contains("id = ") {
            true => drop(world.registry.revoke_key(bad.id).await.unwrap()),
            false => drop(world.registry.rotate(&trust.id.into()).await.unwrap()),
        }
        let left = "SELECT count(*) FROM trust_key WHERE label = 'b' AND revoked_at IS NULL";
        let mut other = second_connection(&world.store).await;
        let left: i64 = sqlx::query_scalar(left).fetch_one(&mut other).await.unwrap();
        assert_eq!(left, 0, "{sql}");
    }
}

/// The caller of a revocation relies on its `Ok`.
#[tokio::test]
async fn a_trigger_that_undoes_a_revocation_fails_it() {
    for trigger in [
        "CREATE TRIGGER undo AFTER UPDATE ON trust_key \
         BEGIN UPDATE trust_key SET revoked_at = NULL WHERE id = new.id; END",
        "CREATE TRIGGER undo BEFORE UPDATE ON trust_key BEGIN SELECT raise(IGNORE); END",
    ] {
        let world = World::<SqliteStore>::new().await;
        let (trust, own) = world.register("a").await;
        let (row, key) = add(&world, &trust, KeyTerms::new()).await;
        spoil(&world.store, trigger).await;
        let error = world.registry.revoke_key(row.id).await.unwrap_err();
        assert!(error.to_string().contains("trigger"), "{error}");
        let error = world.registry.rotate(&trust.id.into()).await.unwrap_err();
        assert!(error.to_string().contains("trigger"), "{error}");
        // Nothing is changed.
        assert_granted(&world, &own, None).await;
        assert_granted(&world, &key, Some(row.id)).await;
    }
}

#[tokio::test]
async fn a_label_that_is_no_text_leaves_every_key_as_it_was() {
    let world = World::<SqliteStore>::new().await;
    let (trust, _) = world.register("a").await;
    let (one, one_key) = add(&world, &trust, KeyTerms::new()).await;
    let (two, two_key) = add(&world, &trust, KeyTerms::new().with_label("b")).await;
    spoil(&world.store, "UPDATE trust_key SET label = CAST(x'ff' AS TEXT) WHERE label = 'b'").await;
    assert_granted(&world, &one_key, Some(one.id)).await;
    assert_granted(&world, &two_key, Some(two.id)).await;
    assert_eq!(keys(&world, &trust).await[1].label.as_deref(), Some("\u{fffd}"));
}

#[tokio::test]
async fn the_table_refuses_what_cannot_be_a_key() {
    let world = World::<SqliteStore>::new().await;
    let (trust, _) = world.register("a").await;
    add(&world, &trust, KeyTerms::new()).await;
    let mut other = second_connection(&world.store).await;
    for sql in [
        "UPDATE trust_key SET digest = upper(digest)",
        "UPDATE trust_key SET digest = substr(digest, 2)",
        "UPDATE trust_key SET digest = NULL",
        "UPDATE trust_key SET expires_at = 'soon'",
        "UPDATE trust_key SET expires_at = '2460000.5'",
        "UPDATE trust_key SET expires_at = '2999-01-01'",
        "UPDATE trust_key SET expires_at = '2999-02-30T00:00:00'",
        "UPDATE trust_key SET trust = 'b'",
        "UPDATE trust_key SET id = NULL",
    ] {
        assert!(other.execute(sql).await.is_err(), "{sql}");
    }
    for sql in [
        "UPDATE trust_key SET expires_at = '2999-01-01T00:00:00.123456789Z'",
        "UPDATE trust_key SET expires_at = '2999-01-01 00:00:00'",
        "UPDATE trust_key SET expires_at = datetime('now', '+1 day')",
        "UPDATE trust_key SET expires_at = NULL",
    ] {
        other.execute(sql).await.unwrap();
        assert_eq!(world.store.fetch(trust.id).await.unwrap().unwrap().keys.len(), 1, "{sql}");
    }
    let indexed: Vec<String> = sqlx::query_scalar(
        "SELECT column.name FROM pragma_index_list('trust_key') AS list, \
         pragma_index_info(list.name) AS column ORDER BY column.name",
    )
    .fetch_all(&mut other)
    .await
    .unwrap();
    assert_eq!(indexed, ["id", "trust", "trust"]);
}

#[tokio::test]
async fn a_database_of_one_key_a_trust_is_migrated_and_not_changed_before() {
    let world = World::<SqliteStore>::new().await;
    let (trust, own) = world.register("a").await;
    let file = world.store.path().to_owned();
    spoil(
        &world.store,
        "DROP TABLE trust_key; ALTER TABLE trust DROP COLUMN attributes; \
         DELETE FROM _sqlx_migrations WHERE version = 3",
    )
    .await;
    let error = sqlite_options(&file).connect().await.unwrap_err();
    let StoreError::NotMigrated { missing, .. } = error else { panic!("{error:?}") };
    let expected = ["the migration `trust_key`", "the column `attributes` of the table `trust`"];
    assert_eq!(missing, expected);

    let options = SqliteStore::options(&file).durable(false);
    assert_eq!(options.clone().run_migration().await.unwrap().missing(), expected);
    assert!(options.plan_migration().await.unwrap().is_empty());
    assert_granted(&world, &own, None).await;
    let (row, key) = add(&world, &trust, KeyTerms::new()).await;
    assert_granted(&world, &key, Some(row.id)).await;
}

#[tokio::test]
async fn malformed_attributes_refuse_their_trust_alone() {
    let world = World::<SqliteStore>::new().await;
    let (_, key) = world.register("a").await;
    let (_, other) = world.register("b").await;
    spoil(&world.store, "UPDATE trust SET attributes = '{' WHERE name = 'a'").await;
    assert_refused(&world, &key).await;
    assert_granted(&world, &other, None).await;
    let listing = world.store.listing().await.unwrap();
    assert_eq!((listing.trusts.len(), listing.malformed[0].column), (1, "attributes"));
    spoil(&world.store, "UPDATE trust SET attributes = '{}' WHERE name = 'a'").await;
    assert_granted(&world, &key, None).await;
}

#[tokio::test]
async fn a_database_in_utf_16_has_several_keys_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    for sql in ["PRAGMA encoding = 'UTF-16le'", "CREATE TABLE t (x)", "DROP TABLE t"] {
        connection.execute(sql).await.unwrap();
    }
    drop(connection);
    let store = sqlite_options(&file).connect().await.unwrap();
    let world = World::over(Arc::new(store), Some(folder));
    let (trust, own) = world.register("Zoë").await;
    let (row, key) = add(&world, &trust, KeyTerms::new().with_label("北").lasting(HOUR)).await;
    assert_granted(&world, &own, None).await;
    assert_granted(&world, &key, Some(row.id)).await;
    assert_eq!(keys(&world, &trust).await, [row]);
    assert_eq!(world.store.candidates().await.unwrap().len(), 2);
}

/// Returns a registry of another process on the same file.
async fn elsewhere(world: &World<SqliteStore>) -> TrustRegistry<SqliteStore> {
    let store = sqlite_options(world.store.path()).connect().await.unwrap();
    TrustRegistry::new(Arc::new(store), Arc::default())
}

/// Returns a trust with a key in the column, a key without an end, and a key with one.
async fn with_three_keys<S: TrustLedger>(
    world: &World<S>,
    name: &str,
) -> (Trust, [ApiKey; 3], [TrustKey; 2]) {
    let (trust, own) = world.register(name).await;
    let (one, one_key) = add(world, &trust, KeyTerms::new()).await;
    let (ending, ending_key) = add(world, &trust, KeyTerms::new().lasting(HOUR)).await;
    (trust, [own, one_key, ending_key], [one, ending])
}

/// Waits until the watcher has seen the last commit, and then caches the keys.
async fn cache(world: &World<SqliteStore>, watcher: &Watcher, keys: &[&ApiKey]) {
    let seen = watcher.status().notifications;
    world.store.check_writes().await.unwrap();
    eventually("the last commit is seen", || watcher.status().notifications > seen).await;
    for key in keys {
        assert!(world.attempt(key).await.result.is_ok());
        assert!(world.cached(key).is_some());
    }
}

#[tokio::test]
async fn a_watcher_evicts_exactly_the_keys_that_another_process_has_changed() {
    let world = &World::<SqliteStore>::new().await;
    let elsewhere = elsewhere(world).await;
    let (trust, [own, one, ending], [row, ending_row]) = with_three_keys(world, "a").await;
    let (_, [other, other_one, _], _) = with_three_keys(world, "b").await;
    let watcher = world.store.watch(Arc::clone(&world.cache));
    eventually("it watches", || watcher.status().connected).await;
    let gone = async |key: &ApiKey| {
        eventually("the entry is gone", || world.cached(key).is_none()).await;
    };
    let kept = |keys: &[&ApiKey]| keys.iter().all(|key| world.cached(key).is_some());
    let all = [&own, &one, &ending, &other, &other_one];

    cache(world, &watcher, &all).await;
    elsewhere.revoke_key(row.id).await.unwrap();
    gone(&one).await;
    assert!(kept(&[&own, &ending, &other, &other_one]));
    assert_refused(world, &one).await;

    // The end alone is changed.
    world.store.end_key(&ending_row).await;
    gone(&ending).await;
    assert!(kept(&[&own, &other, &other_one]));

    let (revocation, new) =
        elsewhere.begin_rotate_with(&trust.id.into(), &KeyTerms::new(), Some(HOUR)).await.unwrap();
    revocation.without_waiting().unwrap();
    gone(&own).await;
    assert!(kept(&[&other, &other_one]));

    cache(world, &watcher, &[&own, &new, &other, &other_one]).await;
    elsewhere.disable(&by_name("b")).await.unwrap();
    gone(&other).await;
    gone(&other_one).await;
    assert!(kept(&[&own, &new]));
    elsewhere.delete(&by_name("a")).await.unwrap();
    gone(&own).await;
    gone(&new).await;
    let status = watcher.status();
    assert_eq!((status.invalidations, status.connects, status.failures), (1, 1, 0), "{status:?}");
}

/// A process that holds all trusts under a read lease.
async fn holder(
    world: &World<SqliteStore>,
    length: Duration,
) -> (Arc<HeldTrusts>, Authenticator<SqliteStore>) {
    let store = Arc::new(sqlite_options(world.store.path()).connect().await.unwrap());
    let held = Arc::new(HeldTrusts::start(store.feed(), "holder", length).await.unwrap());
    let authenticator =
        Authenticator::builder(store, Arc::default()).read_lease(Arc::clone(&held)).build();
    (held, authenticator)
}

#[tokio::test]
async fn g11_a_revoked_key_is_held_no_longer_when_its_revocation_has_returned() {
    let world = World::<SqliteStore>::new().await;
    let elsewhere = elsewhere(&world).await;
    let (trust, [own, one, ending], [row, ending_row]) = with_three_keys(&world, "a").await;
    let (held, authenticator) = holder(&world, Duration::from_millis(300)).await;
    let attempt = async |key: &ApiKey| authenticator.attempt(Some(key.expose())).await;
    for (key, id) in [(&own, None), (&one, Some(row.id)), (&ending, Some(ending_row.id))] {
        let attempt = attempt(key).await;
        assert_eq!((attempt.result.unwrap().id, attempt.key_id), (trust.id, id));
    }
    elsewhere.revoke_key(row.id).await.unwrap();
    assert!(matches!(attempt(&one).await.result, Err(AuthError::Invalid)));
    assert!(attempt(&own).await.result.is_ok());
    assert!(attempt(&ending).await.result.is_ok());

    // A key that is added is found by a look.
    let (added, added_key) = elsewhere.add_key(&trust.id.into(), &KeyTerms::new()).await.unwrap();
    assert_eq!(attempt(&added_key).await.key_id, Some(added.id));
    elsewhere.rotate(&trust.id.into()).await.unwrap();
    for key in [&own, &ending, &added_key] {
        assert!(matches!(attempt(key).await.result, Err(AuthError::Invalid)));
    }
    held.close().await;
}

#[tokio::test]
async fn a_trust_whose_only_key_is_in_a_row_of_its_own_is_held() {
    let world = World::<SqliteStore>::new().await;
    let elsewhere = elsewhere(&world).await;
    let terms = KeyTerms::new().lasting(HOUR);
    let new = NewTrust::new("a").unwrap();
    let (trust, key) = elsewhere.register_with(new, &terms).await.unwrap();
    let (held, authenticator) = holder(&world, Duration::from_secs(300)).await;
    let attempt = authenticator.attempt(Some(key.expose())).await;
    assert_eq!((attempt.route, attempt.key_id), (Route::Held, Some(trust.keys[0].id)));
    assert_eq!(held.status().held, 1);
    held.close().await;
}

/// The holder sees no commit at the end: it knows the end since the rotation has returned.
#[tokio::test]
async fn g11_a_holder_refuses_the_old_key_from_the_end_of_its_overlap_on() {
    let world = World::<SqliteStore>::new().await;
    let elsewhere = elsewhere(&world).await;
    let (trust, old) = world.register("a").await;
    let (held, authenticator) = holder(&world, Duration::from_millis(300)).await;
    let (revocation, new) = elsewhere
        .begin_rotate_with(&trust.id.into(), &KeyTerms::new(), Some(Duration::from_secs(2)))
        .await
        .unwrap();
    let (trust, _) = revocation.settle(Waiting::default()).await.unwrap();
    let end = trust.keys[0].expires_at.unwrap();
    let begun = Instant::now();
    let mut was_held = false;
    loop {
        let before = OffsetDateTime::now_utc();
        let attempt = authenticator.attempt(Some(old.expose())).await;
        let fresh = authenticator.attempt(Some(new.expose())).await;
        assert!(fresh.result.is_ok(), "{fresh:?}");
        if attempt.result.is_err() {
            break;
        }
        assert!(before < end, "granted after its end");
        assert_eq!(attempt.key_id, Some(trust.keys[0].id));
        was_held |= attempt.route == Route::Held;
        assert!(begun.elapsed() < Duration::from_secs(60), "it never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(was_held, "the machine was stopped for two seconds");
    assert!(OffsetDateTime::now_utc() >= end - Duration::from_millis(5), "refused too early");
    held.close().await;
}
