//! A revoked key is refused at once, for every content of the cache (G9). A revocation removes its
//! own keys from the cache, and no others (G1, G2).

mod stores;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stores::{Backend, Moment, Tampered, World, by_name};
use tokio::sync::Notify;
use trust_auth::{
    ApiKey, AuthError, Authenticator, Candidates, KeyHash, NewTrust, RegistryError, Route,
    StoreError, Trust, TrustKeyCache, TrustLedger, TrustRegistry, TrustStore,
};
use uuid::Uuid;

on_every_store!(
    a_rotated_key_is_refused_at_once_g9,
    a_disabled_trust_is_refused_at_once_and_enabled_again_at_once_g9,
    a_deleted_trust_is_refused_at_once_g9,
    a_stale_hit_on_a_deleted_row_is_refused_g9,
    a_stale_hit_on_a_disabled_row_is_refused_g9,
    a_stale_hit_on_a_rotated_row_is_refused_and_the_new_key_is_granted_g9,
    a_stale_hit_on_a_row_without_hash_is_refused_g9,
    a_trust_registered_again_under_its_name_has_only_its_new_key_g9,
    a_key_that_moved_to_another_row_is_granted_as_that_row_g4,
    a_stale_hit_leaves_the_cache_as_it_is,
    a_change_invalidates_its_own_key_and_leaves_the_others_hot_g2,
    a_refused_change_invalidates_nothing,
    a_change_is_committed_before_its_key_is_invalidated_g1,
    a_revocation_during_the_scan_is_refused_and_not_remembered_g1,
    a_row_that_another_process_revokes_during_the_scan_is_refused_and_not_remembered_g9,
    a_key_that_another_row_has_throughout_is_granted_when_the_matched_row_goes,
    a_revocation_after_the_live_row_was_read_is_not_remembered_g1,
    a_change_of_unknown_outcome_invalidates_every_key,
    a_change_cancelled_before_its_commit_invalidates_every_key,
    a_change_cancelled_after_its_commit_invalidates_every_key,
    a_panic_in_the_store_invalidates_every_key,
    a_revoked_key_presented_again_costs_the_others_nothing,
);

async fn assert_refused<S: TrustLedger>(world: &World<S>, key: &ApiKey, route: Route) {
    let attempt = world.attempt(key).await;
    assert!(matches!(attempt.result, Err(AuthError::Invalid)), "{:?}", attempt.result);
    assert_eq!(attempt.route, route);
}

async fn a_rotated_key_is_refused_at_once_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let (rotated, new) = world.registry.rotate(&trust.id.into()).await.unwrap();
    assert_eq!(rotated.id, trust.id);

    assert_refused(&world, &old, Route::Scan).await;
    assert_eq!(world.attempt(&new).await.result.unwrap().id, trust.id);
    assert_refused(&world, &old, Route::Scan).await;
}

async fn a_disabled_trust_is_refused_at_once_and_enabled_again_at_once_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    assert!(!world.registry.disable(&by_name("a")).await.unwrap().is_enabled());
    assert_refused(&world, &key, Route::Scan).await;
    // A key that is rotated while its trust is disabled stays refused.
    let (rotated, new) = world.registry.rotate(&trust.id.into()).await.unwrap();
    assert!(!rotated.is_enabled());
    assert_refused(&world, &new, Route::Scan).await;

    assert!(world.registry.enable(&by_name("a")).await.unwrap().is_enabled());
    assert_eq!(world.attempt(&new).await.result.unwrap().id, trust.id);
    assert_refused(&world, &key, Route::Scan).await;
}

async fn a_deleted_trust_is_refused_at_once_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    assert_eq!(world.registry.delete(&by_name("a")).await.unwrap(), trust);
    assert_refused(&world, &key, Route::Scan).await;
}

// Stale hits: the change is made by a program that cannot reach this cache.

async fn a_stale_hit_on_a_deleted_row_is_refused_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    world.store.delete(&trust.id.into()).await.unwrap();
    assert_refused(&world, &key, Route::StaleHit).await;
}

async fn a_stale_hit_on_a_disabled_row_is_refused_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    world.store.set_enabled(&trust.id.into(), false).await.unwrap();
    assert_refused(&world, &key, Route::StaleHit).await;

    world.store.set_enabled(&trust.id.into(), true).await.unwrap();
    let attempt = world.attempt(&key).await;
    assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, Route::Hit));
}

async fn a_stale_hit_on_a_rotated_row_is_refused_and_the_new_key_is_granted_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, old) = world.register_hot("a").await;
    let new = ApiKey::generate().unwrap();
    let change = world.store.replace_hash(&trust.id.into(), new.hash()).await.unwrap();
    assert_eq!(change.former, [old.hash()]);

    assert_refused(&world, &old, Route::StaleHit).await;
    let attempt = world.attempt(&new).await;
    assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, Route::Scan));
}

async fn a_stale_hit_on_a_row_without_hash_is_refused_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    world.store.forget_hash(trust.id).await;
    assert_refused(&world, &key, Route::StaleHit).await;
}

async fn a_trust_registered_again_under_its_name_has_only_its_new_key_g9<S: Backend>() {
    let world = World::<S>::new().await;
    let (former, old) = world.register_hot("a").await;
    // By a program that cannot reach this cache.
    let elsewhere = TrustRegistry::new(Arc::clone(&world.store), Arc::default());
    elsewhere.delete(&by_name("a")).await.unwrap();
    let (again, new) = elsewhere.register(NewTrust::new("a").unwrap()).await.unwrap();
    assert_ne!(again.id, former.id);

    assert_refused(&world, &old, Route::StaleHit).await;
    assert_eq!(world.attempt(&new).await.result.unwrap().id, again.id);
}

async fn a_key_that_moved_to_another_row_is_granted_as_that_row_g4<S: Backend>() {
    let world = World::<S>::new().await;
    let (former, key) = world.register_hot("a").await;
    world.store.delete(&former.id.into()).await.unwrap();
    let heir = world.store.insert(NewTrust::new("b").unwrap(), key.hash()).await.unwrap();

    let attempt = world.attempt(&key).await;
    assert_eq!((attempt.result.unwrap().id, attempt.route), (heir.id, Route::StaleHit));
    let attempt = world.attempt(&key).await;
    assert_eq!((attempt.result.unwrap().id, attempt.route), (heir.id, Route::Hit));
}

/// Otherwise a client with a revoked key could supersede the leases of the bucket's other keys at
/// any time.
async fn a_stale_hit_leaves_the_cache_as_it_is<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;
    world.store.delete(&trust.id.into()).await.unwrap();
    let lease = world.cache.lease(&key.hash());
    for _ in 0..2 {
        assert_refused(&world, &key, Route::StaleHit).await;
    }
    assert_eq!(world.cached(&key), Some(trust.id));
    assert!(lease.remember(trust.id));
}

async fn a_change_invalidates_its_own_key_and_leaves_the_others_hot_g2<S: Backend>() {
    let world = World::<S>::new().await;
    let mut others = Vec::new();
    for at in 0..20 {
        others.push(world.register_hot(&format!("other {at}")).await);
    }
    let (trust, key) = world.register_hot("a").await;
    let which = trust.id.into();

    let others_are_hot = async || {
        for (other, key) in &others {
            let attempt = world.attempt(key).await;
            assert_eq!((attempt.result.unwrap().id, attempt.route), (other.id, Route::Hit));
        }
    };
    world.registry.disable(&which).await.unwrap();
    assert_eq!(world.cached(&key), None);
    others_are_hot().await;

    world.registry.enable(&which).await.unwrap();
    assert!(world.attempt(&key).await.result.is_ok());
    world.registry.enable(&which).await.unwrap();
    assert_eq!(world.cached(&key), None);
    others_are_hot().await;

    assert!(world.attempt(&key).await.result.is_ok());
    let (_, new) = world.registry.rotate(&which).await.unwrap();
    assert_eq!((world.cached(&key), world.cached(&new)), (None, None));
    others_are_hot().await;

    assert!(world.attempt(&new).await.result.is_ok());
    world.registry.delete(&which).await.unwrap();
    assert_eq!(world.cached(&new), None);
    others_are_hot().await;

    world.register("a").await;
    others_are_hot().await;
}

async fn a_refused_change_invalidates_nothing<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = world.register_hot("a").await;

    let taken = world.registry.register(NewTrust::new("a").unwrap()).await.unwrap_err();
    assert!(
        matches!(taken, RegistryError::Store(StoreError::NameTaken { ref name }) if name == "a")
    );
    let missing = by_name("missing");
    let errors = [
        world.registry.rotate(&missing).await.unwrap_err(),
        world.registry.disable(&missing).await.unwrap_err(),
        world.registry.enable(&missing).await.unwrap_err(),
        world.registry.delete(&missing).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), "no_such_trust");
        assert!(error.to_string().contains("\"missing\""), "{error}");
    }
    assert_eq!(world.cached(&key), Some(trust.id));
    assert_eq!(world.registry.list().await.unwrap(), [trust]);
}

/// A request between an early invalidation and the commit would remember the key again, and nothing
/// would remove it.
async fn a_change_is_committed_before_its_key_is_invalidated_g1<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register_hot("a").await;
    let which = trust.id.into();
    let request = || {
        let (authenticator, key) = (world.authenticator.clone(), key.expose().to_owned());
        async move {
            assert!(authenticator.authenticate(Some(&key)).await.is_ok());
            Ok(())
        }
    };
    world.store.at(Moment::BeforeCommit, request());
    world.registry.disable(&which).await.unwrap();
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);

    world.registry.enable(&which).await.unwrap();
    world.store.at(Moment::BeforeCommit, request());
    world.registry.rotate(&which).await.unwrap();
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);

    world.store.inner.replace_hash(&which, key.hash()).await.unwrap();
    world.store.at(Moment::BeforeCommit, request());
    world.registry.delete(&which).await.unwrap();
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);
}

async fn a_revocation_during_the_scan_is_refused_and_not_remembered_g1<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    let (registry, which) = (world.registry.clone(), trust.id.into());
    world.store.at(Moment::CandidatesRead, async move {
        registry.disable(&which).await.unwrap();
        Ok(())
    });
    assert_refused(&world, &key, Route::Scan).await;
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);
}

/// No invalidation reaches this cache, so only the check of the live row keeps the scan's match out
/// of the cache.
async fn a_row_that_another_process_revokes_during_the_scan_is_refused_and_not_remembered_g9<
    S: Backend,
>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    let (table, which) = (Arc::clone(&world.store.inner), trust.id.into());
    world.store.at(Moment::CandidatesRead, async move {
        table.set_enabled(&which, false).await?;
        Ok(())
    });
    assert_refused(&world, &key, Route::Scan).await;
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);
}

/// Two rows have the key: another program may write such rows. The later row is disabled during the
/// scan.
async fn a_key_that_another_row_has_throughout_is_granted_when_the_matched_row_goes<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    let twin = world.store.inner.insert(NewTrust::new("b").unwrap(), key.hash()).await.unwrap();
    let (table, which) = (Arc::clone(&world.store.inner), twin.id.into());
    world.store.at(Moment::CandidatesRead, async move {
        table.set_enabled(&which, false).await?;
        Ok(())
    });
    let attempt = world.attempt(&key).await;
    assert_eq!(attempt.result.unwrap().id, trust.id);
    // The first scan compares both rows, and the second compares the remaining row.
    assert_eq!(attempt.rows_swept, 3);
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), Some(trust.id));
}

#[tokio::test]
async fn rows_that_change_during_every_scan_make_the_request_unavailable_and_are_not_remembered() {
    /// Each scan finds another row.
    #[derive(Default)]
    struct Restless(AtomicU64);
    impl TrustStore for Restless {
        async fn fetch(&self, _: Uuid) -> Result<Option<Trust>, StoreError> {
            Ok(None)
        }
        async fn candidates(&self) -> Result<Candidates, StoreError> {
            let mut candidates = Candidates::default();
            let row = Uuid::from_u64_pair(0, self.0.fetch_add(1, Ordering::SeqCst));
            candidates.push(row, KeyHash::of("key"));
            Ok(candidates)
        }
    }
    let cache = Arc::new(TrustKeyCache::new());
    let attempt = Authenticator::new(Arc::new(Restless::default()), Arc::clone(&cache))
        .attempt(Some("key"))
        .await;
    assert!(matches!(attempt.result, Err(AuthError::Unavailable(StoreError::Unsettled))));
    assert_eq!(attempt.rows_swept, 2);
    assert!(cache.is_empty());
}

/// The request may be granted, because its live row was read before the revocation returned. Its
/// answer must not be remembered.
async fn a_revocation_after_the_live_row_was_read_is_not_remembered_g1<S: Backend>() {
    let world = World::<Tampered<S>>::tampered().await;
    let (trust, key) = world.register("a").await;
    let (registry, which) = (world.registry.clone(), trust.id.into());
    world.store.at(Moment::RowRead, async move {
        registry.rotate(&which).await.unwrap();
        Ok(())
    });
    assert_eq!(world.attempt(&key).await.result.unwrap().id, trust.id);
    assert!(world.store.is_spent());
    assert_eq!(world.cached(&key), None);
    assert_refused(&world, &key, Route::Scan).await;
}

/// Makes `change` to the first of two hot trusts, and checks that neither stays in the cache.
async fn assert_change_invalidates_every_key<S: Backend, F: Future<Output = ()>>(
    change: impl FnOnce(Arc<World<Tampered<S>>>) -> F,
) {
    let world = Arc::new(World::<Tampered<S>>::tampered().await);
    let (_, key) = world.register_hot("a").await;
    let (other, other_key) = world.register_hot("b").await;
    let lease = world.cache.lease(&other_key.hash());
    change(Arc::clone(&world)).await;
    assert!(world.store.is_spent());
    assert_eq!((world.cached(&key), world.cached(&other_key)), (None, None));
    assert!(!lease.remember(other.id));
    assert_eq!(world.attempt(&other_key).await.result.unwrap().id, other.id);
}

async fn a_change_of_unknown_outcome_invalidates_every_key<S: Backend>() {
    for moment in [Moment::BeforeCommit, Moment::Committed] {
        assert_change_invalidates_every_key::<S, _>(async |world| {
            world.store.at(moment, async { Err(StoreError::Unreachable) });
            let error = world.registry.rotate(&by_name("a")).await.unwrap_err();
            assert_eq!(error.kind(), "unreachable");
        })
        .await;
    }
}

async fn cancel_a_change_at<S: Backend>(moment: Moment) {
    assert_change_invalidates_every_key::<S, _>(async |world| {
        let reached = Arc::new(Notify::new());
        let reach = Arc::clone(&reached);
        world.store.at(moment, async move {
            reach.notify_one();
            pending().await
        });
        let which = by_name("a");
        tokio::select! {
            _ = world.registry.delete(&which) => unreachable!("the store never returns"),
            () = reached.notified() => {}
        }
    })
    .await;
}

async fn a_change_cancelled_before_its_commit_invalidates_every_key<S: Backend>() {
    cancel_a_change_at::<S>(Moment::BeforeCommit).await;
}

async fn a_change_cancelled_after_its_commit_invalidates_every_key<S: Backend>() {
    cancel_a_change_at::<S>(Moment::Committed).await;
}

async fn a_panic_in_the_store_invalidates_every_key<S: Backend>() {
    assert_change_invalidates_every_key::<S, _>(async |world| {
        world.store.at(Moment::Committed, async { panic!("as planned") });
        let registry = world.registry.clone();
        let task = tokio::spawn(async move { registry.disable(&by_name("a")).await });
        assert!(task.await.unwrap_err().is_panic());
    })
    .await;
}

async fn a_revoked_key_presented_again_costs_the_others_nothing<S: Backend>() {
    let world = World::<S>::new().await;
    let (_, key) = world.register_hot("a").await;
    let (_, revoked) = world.register_hot("b").await;
    world.registry.delete(&by_name("b")).await.unwrap();
    for _ in 0..10 {
        assert_refused(&world, &revoked, Route::Scan).await;
        assert_eq!(world.attempt(&key).await.route, Route::Hit);
    }
    assert_eq!(world.cache.lookup(&KeyHash::of("b")), None);
}
