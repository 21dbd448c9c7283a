//! A store of another crate: its rows, its changes and its own feed of changes work with every
//! part, without any feature.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::broadcast;
use trust_auth::{
    AuthError, Candidates, Change, KeyHash, NewTrust, Route, Settled, StoreError, Trust, TrustAuth,
    TrustKeyCache, TrustLedger, TrustRef, TrustStore, Waiting, WatchStore, Watcher,
};
use uuid::Uuid;

/// Rows in a list, and a feed of the digests that other processes change.
struct List {
    rows: Mutex<Vec<Trust>>,
    feed: broadcast::Sender<KeyHash>,
    /// What happens during the next wait, which then has to be repeated.
    at_wait: Mutex<Option<fn(&List)>>,
}

impl List {
    fn new() -> Self {
        Self { rows: Mutex::default(), feed: broadcast::Sender::new(16), at_wait: Mutex::default() }
    }

    fn change(
        &self,
        which: &TrustRef,
        change: impl FnOnce(&mut Vec<Trust>, usize) -> Trust,
    ) -> Result<Change, StoreError> {
        let mut rows = self.rows.lock().unwrap();
        let missing = || StoreError::NoSuchTrust { which: which.clone() };
        let found = which.find_in(&rows).ok_or_else(missing)?;
        let (id, former_hash) = (found.id, found.api_key_hash);
        let at = rows.iter().position(|row| row.id == id).ok_or_else(missing)?;
        let mut change = Change::new(change(&mut rows, at), former_hash);
        change.barrier = self.at_wait.lock().unwrap().is_some().then(String::new);
        Ok(change)
    }
}

impl TrustStore for List {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        Ok(self.rows.lock().unwrap().iter().find(|row| row.id == id).cloned())
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let mut candidates = Candidates::default();
        for row in self.rows.lock().unwrap().iter().filter(|row| row.is_enabled()) {
            if let Some(hash) = row.api_key_hash {
                candidates.push(row.id, hash);
            }
        }
        Ok(candidates)
    }
}

impl TrustLedger for List {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        // As a store with columns of its own would, and not by `into_trust`.
        let mut trust = Trust::new(Uuid::new_v4(), new.name());
        trust.code = new.code().map(str::to_owned);
        trust.region = new.region().map(str::to_owned);
        trust.api_key_hash = Some(hash);
        self.rows.lock().unwrap().push(trust.clone());
        Ok(trust)
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        self.change(which, |rows, at| {
            rows[at].api_key_hash = Some(hash);
            rows[at].clone()
        })
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        self.change(which, |rows, at| {
            rows[at].disabled_at = (!enabled).then(time::OffsetDateTime::now_utc);
            rows[at].clone()
        })
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.change(which, Vec::remove)
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        Ok(self.rows.lock().unwrap().clone())
    }

    async fn settle(&self, _: &str, _: Waiting) -> Result<Settled, StoreError> {
        let step = self.at_wait.lock().unwrap().take();
        Ok(match step {
            Some(step) => {
                step(self);
                Settled::Repeat
            }
            None => Settled::NOTHING_HELD,
        })
    }
}

impl WatchStore for List {
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let mut feed = self.feed.subscribe();
        Watcher::start(cache, |changes| async move {
            changes.connected();
            loop {
                match feed.recv().await {
                    Ok(hash) => changes.key_changed(&hash),
                    Err(broadcast::error::RecvError::Lagged(_)) => changes.all_changed(),
                    Err(broadcast::error::RecvError::Closed) => {
                        return changes.disconnected(&StoreError::Unreachable);
                    }
                }
                changes.notified();
            }
        })
    }
}

async fn until(auth: &TrustAuth<List>, is_so: impl Fn(&trust_auth::WatchStatus) -> bool) {
    let seen = async {
        while !is_so(&auth.watcher().unwrap().status()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the watcher reports it");
}

#[tokio::test]
async fn a_ledger_outside_of_the_crate_keeps_the_code_and_the_region() {
    let auth = TrustAuth::new(List::new());
    let new = NewTrust::new("St. Mary").unwrap().with_code("SM1").with_region("north");
    let (trust, key) = auth.registry().register(new).await.unwrap();
    assert_eq!((trust.code.as_deref(), trust.region.as_deref()), (Some("SM1"), Some("north")));
    let granted = auth.authenticate(Some(key.expose())).await.unwrap();
    assert_eq!(granted, trust);

    let row = NewTrust::new("b").unwrap().with_code("B").into_trust(KeyHash::of("key"));
    assert_eq!((row.name.as_str(), row.code.as_deref()), ("b", Some("B")));
    assert!(row.accepts(&KeyHash::of("key")));
}

#[tokio::test]
async fn all_parts_of_one_value_share_one_cache() {
    let auth = TrustAuth::new(List::new());
    until(&auth, |status| status.connected).await;
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    let clone = auth.clone();
    for route in [Route::Scan, Route::Hit] {
        let attempt = clone.authenticator().attempt(Some(key.expose())).await;
        assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, route));
    }
    assert_eq!(auth.cache().lookup(&key.hash()), Some(trust.id));
    auth.registry().delete(&trust.id.into()).await.unwrap();
    assert_eq!(clone.cache().lookup(&key.hash()), None);
    let refused = clone.authenticate(Some(key.expose())).await;
    assert!(matches!(refused, Err(AuthError::Invalid)));
    assert_eq!(auth.authenticator().stats(), clone.authenticator().stats());
}

#[tokio::test]
async fn a_watcher_of_a_store_outside_of_the_crate_removes_what_the_feed_names() {
    let auth = TrustAuth::new(List::new());
    until(&auth, |status| status.connected).await;
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    auth.authenticate(Some(key.expose())).await.unwrap();
    assert_eq!(auth.cache().lookup(&key.hash()), Some(trust.id));

    auth.store().feed.send(key.hash()).unwrap();
    until(&auth, |status| status.notifications == 1).await;
    assert_eq!(auth.cache().lookup(&key.hash()), None);
    let status = auth.watcher().unwrap().status();
    assert_eq!((status.connects, status.evicted_keys, status.invalidations), (1, 1, 1));
}

#[tokio::test]
async fn a_store_that_is_not_watched_has_the_cache_and_the_limits_of_its_builder() {
    let cache = Arc::new(TrustKeyCache::builder().capacity(10).build().unwrap());
    let auth = TrustAuth::builder(List::new())
        .authenticator(|limits| limits.reject_floor(Duration::from_millis(20)))
        .cache(Arc::clone(&cache))
        .build();
    assert!(auth.watcher().is_none());
    let begun = std::time::Instant::now();
    assert!(auth.authenticate(Some("no trust has this")).await.is_err());
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert!(Arc::ptr_eq(auth.cache(), &cache));
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    auth.authenticate(Some(key.expose())).await.unwrap();
    assert_eq!(cache.lookup(&key.hash()), Some(trust.id));
}

/// The database may have lost the change, so the revocation is made again. Meanwhile another trust
/// has got the name.
#[tokio::test]
async fn a_revocation_that_is_repeated_concerns_the_trust_that_it_was_for() {
    let auth = TrustAuth::builder(List::new()).build();
    let registry = auth.registry();
    let (first, _) = registry.register(NewTrust::new("a").unwrap()).await.unwrap();
    *auth.store().at_wait.lock().unwrap() = Some(|list| {
        list.rows.lock().unwrap().push(Trust::new(Uuid::from_u128(2), "a"));
    });
    let deleted = registry.delete(&TrustRef::Name("a".into())).await.unwrap();
    assert_eq!(deleted.id, first.id);
    let left: Vec<_> = registry.list().await.unwrap().iter().map(|trust| trust.id).collect();
    assert_eq!(left, [Uuid::from_u128(2)]);
}
