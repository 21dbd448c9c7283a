//! The form of keys: which texts are refused for their form alone, which keys go on being granted,
//! and which keys are imported.

mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stores::{Backend, Moment, Tampered, World, by_name};
use trust_auth::{
    ApiKey, AuthError, Authenticator, KeyFlaw, KeyForm, KeyHash, KeyPrefix, MemoryStore, NewTrust,
    RegistryError, Route, StoreError, TrustAuth, TrustLedger,
};

on_every_store!(
    keys_of_every_other_form_go_on_being_granted,
    an_import_grants_the_key_that_exists,
    a_key_or_a_digest_that_another_trust_has_is_refused,
);

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

/// Returns a key that differs in one character of its checksum.
fn damaged(key: &ApiKey) -> String {
    let (start, last) = key.expose().split_at(key.expose().len() - 1);
    format!("{start}{}", if last == "0" { "1" } else { "0" })
}

/// Counts the reads of a store: each of its hooks runs once, at the first read of its kind.
fn count_reads(store: &Tampered<MemoryStore>) -> Arc<AtomicUsize> {
    let reads = Arc::<AtomicUsize>::default();
    for moment in [Moment::CandidatesRead, Moment::RowRead] {
        let reads = Arc::clone(&reads);
        store.at(moment, async move {
            reads.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
    }
    reads
}

#[tokio::test]
async fn a_damaged_key_is_refused_without_a_look_at_the_store_or_the_cache() {
    let world = World::<Tampered<MemoryStore>>::tampered().await;
    let (_, key) = world.register("a").await;
    let damaged = damaged(&key);
    assert_eq!(KeyPrefix::default().form_of(&damaged), KeyForm::Damaged);
    // A row and a cached entry that the damaged key would match, if it were compared.
    let hash = KeyHash::of(&damaged);
    let trust = world.store.insert(new("b"), hash).await.unwrap();
    world.cache.lease(&hash).remember(trust.id);
    let reads = count_reads(&world.store);

    let attempt = world.authenticator.attempt(Some(&damaged)).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{attempt:?}");
    assert_eq!((attempt.route, attempt.rows_swept), (Route::Unread, 0));
    let refused = world.authenticator.authenticate(Some(&damaged)).await.unwrap_err();
    assert_eq!((refused.status(), refused.detail()), (401, "Invalid API Key."));
    assert_eq!(reads.load(Ordering::SeqCst), 0, "the store was read");
    let stats = world.authenticator.stats();
    assert_eq!((stats.requests, stats.invalid), (2, 2));
    assert_eq!((stats.hits, stats.stale_hits, stats.scans, stats.looks), (0, 0, 0, 0));
    assert_eq!(world.cache.len(), 1);

    // The count is a real one.
    assert!(world.attempt(&key).await.result.is_ok());
    assert_eq!(reads.load(Ordering::SeqCst), 2);
}

/// They may be keys of other programs, with the same prefix.
async fn keys_of_every_other_form_go_on_being_granted<S: Backend>() {
    let world = World::<S>::new().await;
    let own = ApiKey::generate().unwrap();
    let other = ApiKey::generate_with(&"acme_".parse().unwrap()).unwrap();
    let keys = [
        // Of older versions: base64url, one of them with the prefix by chance.
        "zJ2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4".to_owned(),
        "-_2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4".to_owned(),
        "tak_PPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4".to_owned(),
        // With characters missing, or more of them.
        own.expose()[..52].to_owned(),
        own.expose()[..4].to_owned(),
        format!("{}0", own.expose()),
        own.expose()[4..].to_owned(),
        // With another prefix, intact and damaged.
        other.expose().to_owned(),
        damaged(&other),
        damaged(&own).replacen("tak_", "Tak_", 1),
        "a key of 49 characters with no prefix whatever ..".to_owned(),
        "k".to_owned(),
        own.expose().to_owned(),
    ];
    for (number, key) in keys.iter().enumerate() {
        let trust = new(&number.to_string());
        let trust = world.store.insert(trust, KeyHash::of(key)).await.unwrap();
        for route in [Route::Scan, Route::Hit] {
            let attempt = world.authenticator.attempt(Some(key)).await;
            assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, route), "{number}");
        }
    }
}

#[tokio::test]
async fn only_the_configured_prefix_decides() {
    let prefix: KeyPrefix = "acme_".parse().unwrap();
    let auth = TrustAuth::builder(MemoryStore::new()).key_prefix(prefix.clone()).build();
    let attempt = async |key: &str| {
        let attempt = auth.authenticator().attempt(Some(key)).await;
        (attempt.result.is_ok(), attempt.route)
    };
    let (trust, first) = auth.registry().register(new("a")).await.unwrap();
    let (_, second) = auth.registry().rotate(&trust.id.into()).await.unwrap();
    for key in [&first, &second] {
        assert_eq!(prefix.form_of(key.expose()), KeyForm::Intact);
        assert_eq!(attempt(&damaged(key)).await, (false, Route::Unread));
    }
    assert_eq!(attempt(second.expose()).await, (true, Route::Scan));
    // The clones of both parts have the prefix, too.
    let clone = auth.clone();
    let (_, third) = clone.registry().clone().register(new("b")).await.unwrap();
    let refused = clone.authenticator().clone().attempt(Some(&damaged(&third))).await;
    assert_eq!(refused.route, Route::Unread);

    let with_default = damaged(&ApiKey::generate().unwrap());
    auth.store().insert(new("c"), KeyHash::of(&with_default)).await.unwrap();
    assert_eq!(attempt(&with_default).await, (true, Route::Scan));
    // A change of the prefix revokes no key.
    let changed = Authenticator::builder(Arc::clone(auth.store()), Arc::clone(auth.cache()))
        .key_prefix("other_".parse().unwrap())
        .build();
    assert!(changed.authenticate(Some(second.expose())).await.is_ok());
}

async fn an_import_grants_the_key_that_exists<S: Backend>() {
    let world = World::<S>::new().await;
    let foreign = "-_2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4";
    let own = ApiKey::generate().unwrap();
    let by_key = world.registry.import_key(new("a").with_code("A"), foreign).await.unwrap();
    let by_hash = world.registry.import_hash(new("b"), own.hash()).await.unwrap();
    assert_eq!(by_key.code.as_deref(), Some("A"));
    for (key, trust) in [(foreign, &by_key), (own.expose(), &by_hash)] {
        assert_eq!(&world.authenticator.authenticate(Some(key)).await.unwrap(), trust);
    }
    world.registry.rotate(&by_key.id.into()).await.unwrap();
    assert!(world.authenticator.authenticate(Some(foreign)).await.is_err());
    // It is free again.
    let again = world.registry.import_key(new("c"), foreign).await.unwrap();
    assert_eq!(world.authenticator.authenticate(Some(foreign)).await.unwrap(), again);
}

async fn a_key_or_a_digest_that_another_trust_has_is_refused<S: Backend>() {
    let world = World::<S>::new().await;
    let (other, _) = world.register_hot("other").await;
    let (trust, key) = world.register_hot("a").await;
    let refusals = async |world: &World<S>| {
        let by_key = world.registry.import_key(new("b"), key.expose()).await.unwrap_err();
        let by_hash = world.registry.import_hash(new("b"), key.hash()).await.unwrap_err();
        [by_key, by_hash]
    };
    for is_enabled in [true, false] {
        world.store.set_enabled(&by_name("a"), is_enabled).await.unwrap();
        for error in refusals(&world).await {
            let RegistryError::Store(StoreError::KeyTaken { id }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(id, trust.id);
            assert!(!error.to_string().contains(&key.hash().to_hex()[..8]), "{error}");
        }
    }
    assert_eq!(world.store.list().await.unwrap().len(), 2);
    // Nothing was written, so nothing was invalidated.
    assert_eq!(world.cached(&key), Some(trust.id));

    // A name that is taken is refused as well, and a row without a digest takes none.
    world.store.forget_hash(other.id).await;
    let error = world.registry.import_hash(new("a"), KeyHash::of("new")).await.unwrap_err();
    assert_eq!(error.kind(), "name_taken");
    world.registry.import_hash(new("b"), KeyHash::of("new")).await.unwrap();
}

#[tokio::test]
async fn a_key_that_no_request_could_use_is_not_imported() {
    let world = World::<MemoryStore>::new().await;
    let prefix = KeyPrefix::default();
    let damaged = damaged(&ApiKey::generate().unwrap());
    for (key, expected) in [
        (damaged.as_str(), KeyFlaw::Damaged { prefix }),
        ("", KeyFlaw::Empty),
        ("key\n", KeyFlaw::Unsendable),
    ] {
        let error = world.registry.import_key(new("a"), key).await.unwrap_err();
        assert_eq!(error.kind(), "invalid_key");
        assert!(key.is_empty() || !error.to_string().contains(key), "{error}");
        assert!(matches!(error, RegistryError::Key(flaw) if flaw == expected), "{key:?}");
    }
    assert_eq!(world.store.list().await.unwrap(), []);
    // By another prefix, it is a key of another program.
    let registry = world.registry.clone().with_key_prefix("acme_".parse().unwrap());
    registry.import_key(new("a"), &damaged).await.unwrap();
}
