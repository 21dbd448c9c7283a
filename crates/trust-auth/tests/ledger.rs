//! The contract of `TrustStore` and `TrustLedger`, which every store must meet.

mod stores;

use std::sync::Arc;

use sqlx::Connection;
use stores::{Backend, World, by_name, second_connection, sqlite_options};
use trust_auth::{
    Change, KeyHash, MemoryStore, NewTrust, Rotation, SqliteStore, StoreError, Trust, TrustLedger,
    TrustRef, TrustStore,
};
use uuid::Uuid;

on_every_store!(
    a_new_row_is_enabled_and_reads_back_as_it_was_returned,
    a_row_is_found_by_id_and_by_name,
    a_name_that_is_taken_is_refused_and_nothing_is_written,
    of_imports_of_one_digest_at_the_same_time_one_is_made,
    a_trust_that_is_not_there_is_refused_by_every_change,
    a_second_disabling_keeps_the_time_of_the_first,
    a_change_tells_the_former_hash,
    r16_a_repeated_rotation_replaces_no_later_digest,
    attributes_are_replaced_and_removed_and_nothing_else_changes,
    a_deleted_row_leaves_its_name_free,
    candidates_are_the_enabled_rows_with_a_hash_in_the_order_of_insertion,
    the_list_is_by_name_and_has_the_disabled_too,
    names_are_compared_to_the_letter,
    a_name_is_one_name_in_each_of_its_normal_forms,
    a_row_whose_name_is_in_another_form_is_found_by_it_and_by_its_id,
);

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

async fn store<S: Backend>() -> World<S> {
    World::<S>::new().await
}

async fn a_new_row_is_enabled_and_reads_back_as_it_was_returned<S: Backend>() {
    let world = store::<S>().await;
    let hash = KeyHash::of("key");
    let trust = world
        .store
        .insert(new("Sté. Marie — 北").with_code("SM'1\"").with_region(""), hash)
        .await
        .unwrap();
    assert!(trust.is_enabled() && trust.accepts(&hash));
    assert_eq!((trust.code.as_deref(), trust.region.as_deref()), (Some("SM'1\""), Some("")));
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(trust));
    assert_eq!(world.store.fetch(Uuid::nil()).await.unwrap(), None);
}

async fn a_row_is_found_by_id_and_by_name<S: Backend>() {
    let world = store::<S>().await;
    let trust = world.store.insert(new("a"), KeyHash::of("a")).await.unwrap();
    let other = world.store.insert(new("b"), KeyHash::of("b")).await.unwrap();
    for which in
        [TrustRef::Id(trust.id), by_name("a"), trust.id.simple().to_string().as_str().into()]
    {
        let change = world.store.set_enabled(&which, true).await.unwrap();
        assert_eq!(change.trust, trust);
    }
    world.store.delete(&by_name("a")).await.unwrap();
    assert_eq!(world.store.list().await.unwrap(), [other]);
}

async fn a_name_that_is_taken_is_refused_and_nothing_is_written<S: Backend>() {
    let world = store::<S>().await;
    let first = world.store.insert(new("a"), KeyHash::of("first")).await.unwrap();
    let error = world.store.insert(new("a"), KeyHash::of("second")).await.unwrap_err();
    assert!(matches!(&error, StoreError::NameTaken { name } if name == "a"));
    assert!(error.to_string().contains("choose another"), "{error}");
    assert_eq!(world.store.list().await.unwrap(), [first]);
}

async fn of_imports_of_one_digest_at_the_same_time_one_is_made<S: Backend>() {
    let world = store::<S>().await;
    for round in 0..5 {
        let hash = KeyHash::of(format!("key {round}"));
        let imports: Vec<_> = (0..8)
            .map(|number| {
                let store = Arc::clone(&world.store);
                let trust = new(&format!("{round}.{number}"));
                tokio::spawn(async move { store.import(trust, hash).await })
            })
            .collect();
        let mut made = Vec::new();
        let mut refused = Vec::new();
        for import in imports {
            match import.await.unwrap() {
                Ok(trust) => made.push(trust),
                Err(error) => refused.push(error),
            }
        }
        assert_eq!((made.len(), refused.len()), (1, 7), "{refused:?}");
        for error in refused {
            assert!(matches!(error, StoreError::KeyTaken { id } if id == made[0].id), "{error:?}");
        }
    }
    assert_eq!(world.store.list().await.unwrap().len(), 5);
}

async fn a_trust_that_is_not_there_is_refused_by_every_change<S: Backend>() {
    let world = store::<S>().await;
    let trust = world.store.insert(new("a"), KeyHash::of("a")).await.unwrap();
    for which in [by_name("b"), TrustRef::Id(Uuid::nil()), by_name("")] {
        let refused = [
            world.store.replace_hash(&which, KeyHash::of("b")).await,
            world.store.set_enabled(&which, false).await,
            world.store.delete(&which).await,
        ];
        for error in refused {
            assert!(matches!(error, Err(StoreError::NoSuchTrust { which: told }) if told == which));
        }
    }
    assert_eq!(world.store.list().await.unwrap(), [trust]);
}

async fn a_second_disabling_keeps_the_time_of_the_first<S: Backend>() {
    let world = store::<S>().await;
    let trust = world.store.insert(new("a"), KeyHash::of("a")).await.unwrap();
    let which = TrustRef::Id(trust.id);
    let first = world.store.set_enabled(&which, false).await.unwrap().trust;
    assert!(!first.is_enabled());
    assert_eq!(world.store.set_enabled(&which, false).await.unwrap().trust, first);
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(first));

    assert_eq!(world.store.set_enabled(&which, true).await.unwrap().trust, trust);
    assert_eq!(world.store.set_enabled(&which, true).await.unwrap().trust, trust);
    assert_eq!(world.store.fetch(trust.id).await.unwrap(), Some(trust));
}

async fn a_change_tells_the_former_hash<S: Backend>() {
    let world = store::<S>().await;
    let (old, new_hash) = (KeyHash::of("old"), KeyHash::of("new"));
    let trust = world.store.insert(new("a"), old).await.unwrap();
    let which = TrustRef::Id(trust.id);
    let mut rotated = trust;
    rotated.api_key_hash = Some(new_hash);

    let change = world.store.replace_hash(&which, new_hash).await.unwrap();
    assert_eq!(change, Change::new(rotated.clone(), Some(old)));
    let change = world.store.set_enabled(&which, true).await.unwrap();
    assert_eq!(change.former, [new_hash]);
    let change = world.store.delete(&which).await.unwrap();
    assert_eq!(change, Change::new(rotated, Some(new_hash)));
    assert_eq!(world.store.fetch(change.trust.id).await.unwrap(), None);
}

/// A repetition of a rotation finds the former digest, or its own, or that of a later rotation.
async fn r16_a_repeated_rotation_replaces_no_later_digest<S: Backend>() {
    let world = store::<S>().await;
    let (trust, _) = world.register("a").await;
    let which = trust.id.into();
    let [own, later] = ["own", "later"].map(KeyHash::of);
    let mut rotation = Rotation::new(own.into());
    rotation.former = Some(trust.hashes().collect());
    for _ in 0..2 {
        world.store.rotate(&which, rotation.clone()).await.unwrap();
        assert_eq!(world.store.list().await.unwrap()[0].api_key_hash, Some(own));
    }
    world.store.replace_hash(&which, later).await.unwrap();
    let error = world.store.rotate(&which, rotation).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    assert_eq!(world.store.list().await.unwrap()[0].api_key_hash, Some(later));
}

async fn attributes_are_replaced_and_removed_and_nothing_else_changes<S: Backend>() {
    let world = store::<S>().await;
    let first = new("a").with_code("A").with_attributes(serde_json::json!({ "scopes": ["x"] }));
    let mut row = world.store.insert(first, KeyHash::of("a")).await.unwrap();
    let other = world.store.insert(new("b"), KeyHash::of("b")).await.unwrap();
    world.store.set_enabled(&by_name("a"), false).await.unwrap();
    row.disabled_at = world.store.fetch(row.id).await.unwrap().unwrap().disabled_at;
    // A database may write a number in another way.
    let numbers = serde_json::json!({ "n": [1.0, 1e22, -0.0, 1e-7] });
    let texts = serde_json::json!({ "scopes": ["é'\""], "n": [1, null] });
    for attributes in [Some(numbers), Some(texts), None] {
        let set = world.store.set_attributes(&by_name("a"), attributes.clone()).await.unwrap();
        row.attributes = attributes;
        assert_eq!(set.trust, row);
        assert_eq!(world.store.fetch(row.id).await.unwrap(), Some(row.clone()));
        assert_eq!(world.store.fetch(other.id).await.unwrap(), Some(other.clone()));
    }
    let error = world.store.set_attributes(&by_name("c"), None).await.unwrap_err();
    assert_eq!(error.kind(), "no_such_trust");
}

async fn a_deleted_row_leaves_its_name_free<S: Backend>() {
    let world = store::<S>().await;
    let first = world.store.insert(new("a"), KeyHash::of("a")).await.unwrap();
    world.store.delete(&by_name("a")).await.unwrap();
    let second = world.store.insert(new("a"), KeyHash::of("a")).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(world.store.list().await.unwrap(), [second]);
}

async fn candidates_are_the_enabled_rows_with_a_hash_in_the_order_of_insertion<S: Backend>() {
    let world = store::<S>().await;
    assert!(world.store.candidates().await.unwrap().is_empty());
    let mut rows = Vec::new();
    for name in ["d", "c", "b", "a", "e"] {
        rows.push(world.store.insert(new(name), KeyHash::of(name)).await.unwrap());
    }
    world.store.set_enabled(&by_name("c"), false).await.unwrap();
    world.store.forget_hash(rows[3].id).await;
    world.store.delete(&by_name("d")).await.unwrap();
    world.store.replace_hash(&by_name("b"), KeyHash::of("new")).await.unwrap();

    let candidates = world.store.candidates().await.unwrap();
    assert_eq!(candidates.hashes(), [KeyHash::of("new"), KeyHash::of("e")]);
    assert!(candidates.len() == 2 && !candidates.is_empty());
    assert_eq!([0, 1, 2].map(|at| candidates.id(at)), [Some(rows[2].id), Some(rows[4].id), None]);
}

async fn the_list_is_by_name_and_has_the_disabled_too<S: Backend>() {
    let world = store::<S>().await;
    assert_eq!(world.store.list().await.unwrap(), []);
    for name in ["b", "Z", "é", "a", "a b"] {
        world.store.insert(new(name), KeyHash::of(name)).await.unwrap();
    }
    world.store.set_enabled(&by_name("a"), false).await.unwrap();
    let names: Vec<String> =
        world.store.list().await.unwrap().into_iter().map(|trust| trust.name).collect();
    assert_eq!(names, ["Z", "a", "a b", "b", "é"]);
}

async fn names_are_compared_to_the_letter<S: Backend>() {
    let world = store::<S>().await;
    for name in ["a", "A", "é"] {
        world.store.insert(new(name), KeyHash::of(name)).await.unwrap();
    }
    assert_eq!(world.store.delete(&by_name("A")).await.unwrap().trust.name, "A");
    assert_eq!(world.store.list().await.unwrap().len(), 2);
    // No pattern, no SQL.
    for name in ["%", "_", "a' OR 'a'='a", "a\0"] {
        assert_eq!(world.store.delete(&by_name(name)).await.unwrap_err().kind(), "no_such_trust");
    }
}

async fn a_name_is_one_name_in_each_of_its_normal_forms<S: Backend>() {
    let world = store::<S>().await;
    let trust = world.store.insert(new("Zoe\u{308}"), KeyHash::of("key")).await.unwrap();
    assert_eq!(trust.name, "Zo\u{eb}");
    for name in ["Zo\u{eb}", "Zoe\u{308}"] {
        let error = world.store.insert(new(name), KeyHash::of("other")).await.unwrap_err();
        assert_eq!(error.kind(), "name_taken", "{name:?}");
        assert_eq!(
            world.store.set_enabled(&by_name(name), true).await.unwrap().trust,
            trust,
            "{name:?}"
        );
    }
    assert_eq!(world.store.delete(&by_name("Zoe\u{308}")).await.unwrap().trust, trust);
}

/// Another program may have written such names, and others that no trust could be registered under.
async fn a_row_whose_name_is_in_another_form_is_found_by_it_and_by_its_id<S: Backend>() {
    let world = store::<S>().await;
    let composed = world.store.insert(new("Zo\u{eb}"), KeyHash::of("composed")).await.unwrap();
    let row = world.store.insert(new("b"), KeyHash::of("b")).await.unwrap();
    for name in ["Zoe\u{308}", "a\u{202e}b", "..", "a\u{a0} b"] {
        world.store.rename(row.id, name).await;
        let mut renamed = row.clone();
        renamed.name = name.to_owned();
        for which in [by_name(name), TrustRef::Id(row.id)] {
            assert_eq!(
                world.store.set_enabled(&which, true).await.unwrap().trust,
                renamed,
                "{name:?}"
            );
        }
        assert_eq!(world.store.fetch(row.id).await.unwrap(), Some(renamed.clone()));
        assert!(world.store.list().await.unwrap().contains(&renamed), "{name:?}");
        let other = world.store.set_enabled(&by_name("Zo\u{eb}"), true).await.unwrap().trust;
        assert_eq!(other, composed);
    }
}

#[tokio::test]
async fn a_closed_database_has_everything_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let store = sqlite_options(&file).connect().await.unwrap();
    let trust = store.insert(new("a").with_code("A"), KeyHash::of("key")).await.unwrap();
    let disabled = store.set_enabled(&by_name("a"), false).await.unwrap().trust;
    assert_ne!(trust, disabled);
    store.close().await;

    let store = SqliteStore::options(&file).connect().await.unwrap();
    assert_eq!(store.list().await.unwrap(), [disabled]);
    store.close().await;
}

#[tokio::test]
async fn processes_that_make_one_database_at_the_same_time_all_succeed() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trusts.db");
        let openers: Vec<_> =
            (0..8).map(|_| tokio::spawn(sqlite_options(&file).connect())).collect();
        let mut stores = Vec::new();
        for opener in openers {
            stores.push(opener.await.unwrap().unwrap());
        }
        let trust = stores[0].insert(new("a"), KeyHash::of("key")).await.unwrap();
        for store in &stores {
            assert_eq!(store.fetch(trust.id).await.unwrap(), Some(trust.clone()));
        }
        assert_eq!(stores[7].delete(&by_name("a")).await.unwrap().trust, trust);
        assert_eq!(stores[0].list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn the_database_is_in_wal_mode_and_has_no_index_on_the_hash() {
    let world = World::<SqliteStore>::new().await;
    let mut other = second_connection(&world.store).await;
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut other).await.unwrap();
    assert_eq!(mode, "wal");
    let indexed: Vec<String> = sqlx::query_scalar(
        "SELECT column.name \
         FROM pragma_index_list('trust') AS list, pragma_index_info(list.name) AS column",
    )
    .fetch_all(&mut other)
    .await
    .unwrap();
    assert_eq!(indexed.len(), 2);
    assert!(!indexed.contains(&"api_key_hash".to_owned()), "{indexed:?}");
    other.close().await.unwrap();
}

#[test]
fn a_memory_store_of_rows_refuses_two_with_one_name_or_one_id() {
    let row = |id, name: &str| Trust::new(Uuid::from_u128(id), name);
    let kind = |rows: [Trust; 2]| MemoryStore::with_rows(rows).unwrap_err().kind();
    assert_eq!(kind([row(1, "a"), row(2, "a")]), "name_taken");
    assert_eq!(kind([row(1, "a"), row(1, "b")]), "bad_row");

    let store = MemoryStore::with_rows([row(1, "a"), row(2, "b")]).unwrap();
    assert_eq!(store.put(row(2, "a")).unwrap_err().kind(), "name_taken");
    assert_eq!(store.put(row(2, "c")).unwrap(), Some(row(2, "b")));
    assert_eq!(store.put(row(3, "b")).unwrap(), None);
}
