//! A store of another crate: its rows, its changes and its own feed of changes work with every
//! part, without any feature.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::broadcast;
use trust_auth::{
    AuthError, Candidates, Change, KeyHash, MemoryStore, NewTrust, RegistryError, Rotation, Route,
    Settled, StoreError, Trust, TrustAuth, TrustKey, TrustKeyCache, TrustLedger, TrustRef,
    TrustStore, Waiting, WatchStore, Watcher,
};
use uuid::Uuid;

/// Rows in a list, and a feed of the digests that other processes change.
struct List {
    rows: Mutex<Vec<Trust>>,
    feed: broadcast::Sender<KeyHash>,
    /// What happens during the next wait, which then has to be repeated.
    at_wait: Mutex<Option<fn(&List)>>,
    /// How long each wait takes.
    wait: Mutex<Duration>,
    /// A row that a failover brings back.
    gone: Mutex<Option<Trust>>,
    /// What happens after the next look.
    deleted_after_look: AtomicBool,
    rotated_after_look: AtomicBool,
    added_after_look: AtomicBool,
    /// How many looks fail, from now on.
    failing_looks: AtomicUsize,
    /// The calls of a ledger on whose rows processes hold leases. `None`: no process does.
    calls: Mutex<Option<Vec<String>>>,
}

impl List {
    fn new() -> Self {
        Self {
            rows: Mutex::default(),
            feed: broadcast::Sender::new(16),
            at_wait: Mutex::default(),
            wait: Mutex::default(),
            gone: Mutex::default(),
            deleted_after_look: AtomicBool::new(false),
            rotated_after_look: AtomicBool::new(false),
            added_after_look: AtomicBool::new(false),
            failing_looks: AtomicUsize::new(0),
            calls: Mutex::default(),
        }
    }

    /// Records a call. Returns how many there were, if processes hold leases.
    fn record(&self, call: &str) -> Option<usize> {
        let mut calls = self.calls.lock().unwrap();
        let calls = calls.as_mut()?;
        calls.push(call.to_owned());
        Some(calls.len())
    }

    fn change(
        &self,
        which: &TrustRef,
        change: impl FnOnce(&mut Vec<Trust>, usize) -> Trust,
    ) -> Result<Change, StoreError> {
        self.record("change");
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

    async fn rotate(&self, which: &TrustRef, rotation: Rotation) -> Result<Change, StoreError> {
        let found = which.find_in(&self.rows.lock().unwrap()).map(|row| row.hashes().collect());
        let found: Vec<KeyHash> = found.unwrap_or_default();
        if rotation.is_superseded(&found) {
            return Err(StoreError::Superseded);
        }
        self.replace_hash(which, rotation.key.hash).await
    }

    async fn revoke_key(&self, key: Uuid) -> Result<Change, StoreError> {
        let rows = self.rows.lock().unwrap().clone();
        let mut keys = rows.iter().flat_map(|row| &row.keys);
        let key = keys.find(|row| row.id == key).ok_or(StoreError::NoSuchKey { id: key })?;
        let mut change = self.change(&key.trust.into(), |rows, at| {
            rows[at].keys.retain(|row| row.id != key.id);
            rows[at].clone()
        })?;
        change.former = vec![key.hash];
        Ok(change)
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
        self.record("list");
        // Relaxed: one task changes the number.
        let failing = self.failing_looks.load(Ordering::Relaxed);
        self.failing_looks.store(failing.saturating_sub(1), Ordering::Relaxed);
        if failing > 0 {
            return Err(StoreError::Unreachable);
        }
        let found = self.rows.lock().unwrap().clone();
        // Relaxed: one task uses the flags.
        if self.deleted_after_look.swap(false, Ordering::Relaxed) {
            self.rows.lock().unwrap().clear();
        }
        if self.rotated_after_look.swap(false, Ordering::Relaxed) {
            put(self, "a", "of a later rotation");
        }
        if self.added_after_look.swap(false, Ordering::Relaxed) {
            add(self, "added", None);
        }
        Ok(found)
    }

    async fn barrier(&self) -> Result<Option<String>, StoreError> {
        let held = self.record("barrier").map(|number| number.to_string());
        Ok(held.or_else(|| self.at_wait.lock().unwrap().is_some().then(String::new)))
    }

    async fn settle(&self, barrier: &str, _: Waiting) -> Result<Settled, StoreError> {
        self.record(&format!("settle {barrier}"));
        let wait = *self.wait.lock().unwrap();
        tokio::time::sleep(wait).await;
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

    fn watch_every(&self, interval: Duration, cache: Arc<TrustKeyCache>) -> Watcher {
        self.record(&format!("watch every {interval:?}"));
        self.watch(cache)
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

/// What a restart or a failover may do to the rows while a revocation waits.
fn at_wait(auth: &TrustAuth<List>, step: fn(&List)) {
    *auth.store().at_wait.lock().unwrap() = Some(step);
}

fn put(list: &List, name: &str, key: &str) {
    let mut rows = list.rows.lock().unwrap();
    let row = rows.iter_mut().find(|row| row.name == name).unwrap();
    row.api_key_hash = Some(KeyHash::of(key));
}

fn add(list: &List, key: &str, expires_at: Option<time::OffsetDateTime>) {
    let mut rows = list.rows.lock().unwrap();
    let mut key = TrustKey::new(Uuid::new_v4(), rows[0].id, KeyHash::of(key));
    key.expires_at = expires_at;
    rows[0].keys.push(key);
}

/// A failover has lost the rotation, and an operator has added a key since.
#[tokio::test]
async fn r16_a_rotation_that_is_lost_below_an_added_key_says_that_the_old_key_is_valid() {
    type Step = fn(&List);
    let steps: [(Step, &str); 5] = [
        (
            |list| {
                put(list, "a", "former");
                add(list, "added", None);
            },
            "rotation_lost",
        ),
        // After the look.
        (
            |list| {
                put(list, "a", "former");
                list.added_after_look.store(true, Ordering::Relaxed);
            },
            "rotation_lost",
        ),
        // An older program rotates its own column alone.
        (
            |list| {
                put(list, "a", "of a later rotation");
                add(list, "former", None);
            },
            "rotation_lost",
        ),
        (|list| put(list, "a", "of a later rotation"), "superseded"),
        // With an overlap.
        (
            |list| {
                put(list, "a", "of a later rotation");
                add(list, "former", Some(time::macros::datetime!(9999-01-01 0:00 UTC)));
            },
            "superseded",
        ),
    ];
    for (number, (step, kind)) in steps.into_iter().enumerate() {
        let auth = TrustAuth::builder(List::new()).build();
        let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
        put(auth.store(), "a", "former");
        at_wait(&auth, step);
        let error = auth.registry().rotate(&trust.id.into()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{number}");
        let row = auth.store().fetch(trust.id).await.unwrap().unwrap();
        assert_eq!(row.accepts(&KeyHash::of("former")), number != 3, "{number}");
        assert_eq!(row.accepts(&KeyHash::of("added")), number < 2, "{number}");
    }
}

/// The caller of a revocation relies on its `Ok`.
#[tokio::test]
async fn r16_a_revocation_of_a_key_that_is_lost_with_the_row_of_the_key_is_an_error() {
    type Step = fn(&List);
    let steps: [(Step, Option<&str>); 4] = [
        // The rotation that made the row is lost, too: the key is in the column.
        (|list| put(list, "a", "key"), Some("no_such_key")),
        // Another program has removed the row.
        (|_| {}, None),
        // The revocation alone is lost.
        (
            |list| {
                let gone = list.gone.lock().unwrap().take();
                *list.rows.lock().unwrap() = gone.into_iter().collect();
            },
            None,
        ),
        // The trust is gone.
        (|list| list.rows.lock().unwrap().clear(), None),
    ];
    for (number, (step, kind)) in steps.into_iter().enumerate() {
        let auth = TrustAuth::builder(List::new()).build();
        let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
        add(auth.store(), "key", None);
        let row = auth.store().fetch(trust.id).await.unwrap().unwrap();
        let key = row.keys[0].id;
        *auth.store().gone.lock().unwrap() = Some(row);
        at_wait(&auth, step);
        let error = auth.registry().revoke_key(key).await.err();
        assert_eq!(error.as_ref().map(RegistryError::kind), kind, "{number}");
        let row = auth.store().fetch(trust.id).await.unwrap();
        let is_accepted = row.is_some_and(|row| row.accepts(&KeyHash::of("key")));
        assert_eq!(is_accepted, kind.is_some(), "{number}");
    }
}

#[tokio::test]
async fn r16_a_deletion_is_made_again_by_the_id_if_it_was_lost() {
    for is_lost in [false, true] {
        let auth = TrustAuth::builder(List::new()).build();
        let registry = auth.registry();
        let (first, _) = registry.register(NewTrust::new("a").unwrap()).await.unwrap();
        // Meanwhile another trust has got the name.
        let other = |list: &List| {
            list.rows.lock().unwrap().push(Trust::new(Uuid::from_u128(2), "a"));
        };
        at_wait(&auth, if is_lost { |_| {} } else { other });
        let revocation = registry.begin_delete(&TrustRef::Name("a".into())).await.unwrap();
        if is_lost {
            auth.store().rows.lock().unwrap().push(first.clone());
        }
        let (deleted, _) = revocation.settle(Waiting::default()).await.unwrap();
        assert_eq!(deleted.id, first.id);
        let left: Vec<_> = registry.list().await.unwrap().iter().map(|trust| trust.id).collect();
        assert_eq!(left, if is_lost { vec![] } else { vec![Uuid::from_u128(2)] });
    }
}

/// A deletion that another process had committed, and that a failover has lost.
#[tokio::test]
async fn r16_a_deletion_that_found_no_trust_looks_again_after_a_failover() {
    for is_lost in [false, true] {
        let auth = TrustAuth::builder(List::new()).build();
        let lost = |list: &List| {
            list.rows.lock().unwrap().push(Trust::new(Uuid::from_u128(2), "a"));
        };
        at_wait(&auth, if is_lost { lost } else { |_| {} });
        match auth.registry().delete(&TrustRef::Name("a".into())).await {
            Ok(deleted) => assert_eq!((is_lost, deleted.id), (true, Uuid::from_u128(2))),
            Err(error) => assert_eq!((is_lost, error.kind()), (false, "no_such_trust")),
        }
        assert_eq!(auth.registry().list().await.unwrap(), []);
    }
}

/// The failover may fall between the look and a barrier.
#[tokio::test]
async fn r16_a_deletion_that_finds_no_trust_has_a_barrier_before_and_after_the_look() {
    let auth = TrustAuth::builder(List::new()).build();
    *auth.store().calls.lock().unwrap() = Some(Vec::new());
    auth.registry().delete(&TrustRef::Name("a".into())).await.unwrap_err();
    let calls = auth.store().calls.lock().unwrap().take().unwrap();
    assert_eq!(calls, ["change", "barrier", "change", "barrier", "settle 4", "settle 2"]);
}

#[tokio::test]
async fn r16_a_rotation_is_made_again_if_it_was_lost_and_never_over_a_later_one() {
    let steps: [fn(&List); 3] =
        [|_| {}, |list| put(list, "a", "former"), |list| put(list, "a", "of a later rotation")];
    for (number, step) in steps.into_iter().enumerate() {
        let returns = number < 2;
        let auth = TrustAuth::builder(List::new()).build();
        let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
        put(auth.store(), "a", "former");
        at_wait(&auth, step);
        match auth.registry().rotate(&trust.id.into()).await {
            Ok((_, key)) => {
                assert!(returns, "{number}");
                assert_eq!(auth.authenticate(Some(key.expose())).await.unwrap().id, trust.id);
                assert!(auth.authenticate(Some("former")).await.is_err(), "{number}");
            }
            Err(error) => {
                assert_eq!((returns, error.kind()), (false, "superseded"), "{number}");
                let later = auth.authenticate(Some("of a later rotation")).await;
                assert_eq!(later.unwrap().id, trust.id);
            }
        }
    }
}

#[tokio::test]
async fn r16_a_disabling_that_was_lost_is_made_again() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    at_wait(&auth, |list| list.rows.lock().unwrap()[0].disabled_at = None);
    assert!(!auth.registry().disable(&trust.id.into()).await.unwrap().is_enabled());
    assert!(auth.authenticate(Some(key.expose())).await.is_err());
}

/// The barrier after the look shows what the look has found. The one before it proves that the
/// server is still the same.
#[tokio::test]
async fn r16_a_change_that_is_still_there_has_a_barrier_before_and_after_the_look() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    at_wait(&auth, |_| {});
    *auth.store().calls.lock().unwrap() = Some(Vec::new());
    auth.registry().disable(&trust.id.into()).await.unwrap();
    let calls = auth.store().calls.lock().unwrap().take().unwrap();
    assert_eq!(calls, ["change", "settle ", "barrier", "list", "barrier", "settle 5", "settle 3"]);
}

/// A database that restarts does not answer at once. An error would lose the new key.
#[tokio::test]
async fn r16_a_repetition_waits_for_a_database_that_does_not_answer_yet() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    put(auth.store(), "a", "former");
    at_wait(&auth, |list| put(list, "a", "former"));
    auth.store().failing_looks.store(2, Ordering::Relaxed);
    let (_, key) = auth.registry().rotate(&trust.id.into()).await.unwrap();
    assert_eq!(auth.authenticate(Some(key.expose())).await.unwrap().id, trust.id);
    assert!(auth.authenticate(Some("former")).await.is_err());
}

#[tokio::test]
async fn the_builder_passes_the_interval_of_the_watcher_to_the_store() {
    let list = List::new();
    *list.calls.lock().unwrap() = Some(Vec::new());
    let auth = TrustAuth::builder(list).watch_every(Duration::from_secs(120)).build();
    until(&auth, |status| status.connected).await;
    assert_eq!(*auth.store().calls.lock().unwrap(), Some(vec!["watch every 120s".into()]));
}

/// A ledger around another one may forward the changes, and not the wait.
#[tokio::test]
async fn a_barrier_for_which_a_ledger_has_no_settle_is_an_error() {
    let error = MemoryStore::new().settle("1", Waiting::default()).await.unwrap_err();
    assert!(error.to_string().contains("forward that method"), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_change_attributes_says_so() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    let error = auth.registry().set_attributes(&trust.id.into(), None).await.unwrap_err();
    assert_eq!(error.kind(), "other");
    assert!(error.to_string().contains("TrustLedger::set_attributes"), "{error}");
}

/// Its new key is dead: the answer must not show it.
#[tokio::test]
async fn r16_a_rotation_whose_trust_was_deleted_meanwhile_finds_no_trust() {
    for is_lost in [false, true] {
        let auth = TrustAuth::builder(List::new()).build();
        let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
        at_wait(&auth, |list| list.rows.lock().unwrap().clear());
        if is_lost {
            // Found at the look, and deleted before the repetition.
            put(auth.store(), "a", "former");
            at_wait(&auth, |list| put(list, "a", "former"));
            auth.store().deleted_after_look.store(true, Ordering::Relaxed);
        }
        let error = auth.registry().rotate(&trust.id.into()).await.unwrap_err();
        assert_eq!(error.kind(), "no_such_trust");
    }
}

/// A later rotation may commit between the look and the repetition.
#[tokio::test]
async fn r16_a_repetition_compares_the_digest_where_it_replaces_it() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    put(auth.store(), "a", "former");
    at_wait(&auth, |list| put(list, "a", "former"));
    auth.store().rotated_after_look.store(true, Ordering::Relaxed);
    let error = auth.registry().rotate(&trust.id.into()).await.unwrap_err();
    assert_eq!(error.kind(), "superseded");
    let later = auth.authenticate(Some("of a later rotation")).await;
    assert_eq!(later.unwrap().id, trust.id);
}

#[tokio::test]
async fn a_key_is_imported_into_a_ledger_outside_of_the_crate_unless_a_trust_has_it() {
    let auth = TrustAuth::builder(List::new()).build();
    let trust = auth.registry().import_key(NewTrust::new("a").unwrap(), "key").await.unwrap();
    assert_eq!(auth.authenticate(Some("key")).await.unwrap(), trust);
    auth.registry().disable(&trust.id.into()).await.unwrap();
    let again = auth.registry().import_key(NewTrust::new("b").unwrap(), "key").await;
    assert_eq!(again.unwrap_err().kind(), "key_taken");
    assert_eq!(auth.registry().list().await.unwrap().len(), 1);
}

/// The trust is gone at the first repetition, and back at the second: a failover lost its deletion.
/// A later rotation has replaced the key meanwhile.
#[tokio::test]
async fn r16_a_rotation_whose_trust_comes_back_is_not_made_over_a_later_one() {
    let auth = TrustAuth::builder(List::new()).build();
    let (trust, _) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    at_wait(&auth, |list| {
        let row = list.rows.lock().unwrap().pop().unwrap();
        *list.gone.lock().unwrap() = Some(row);
        *list.at_wait.lock().unwrap() = Some(|list: &List| {
            list.rows.lock().unwrap().extend(list.gone.lock().unwrap().take());
            put(list, "a", "of a later rotation");
        });
    });
    let error = auth.registry().rotate(&trust.id.into()).await.unwrap_err();
    assert_eq!(error.kind(), "superseded");
    let later = auth.authenticate(Some("of a later rotation")).await;
    assert_eq!(later.unwrap().id, trust.id);
}

/// Two barriers cost one wait.
#[tokio::test(start_paused = true)]
async fn r16_both_barriers_are_waited_for_at_once() {
    let auth = TrustAuth::builder(List::new()).build();
    *auth.store().calls.lock().unwrap() = Some(Vec::new());
    let wait = Duration::from_secs(10);
    *auth.store().wait.lock().unwrap() = wait;
    let begun = tokio::time::Instant::now();
    auth.registry().delete(&TrustRef::Name("a".into())).await.unwrap_err();
    assert!((wait..wait * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}
