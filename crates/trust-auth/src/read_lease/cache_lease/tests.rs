//! The order of a holder's steps, on a feed whose answers are the test's.

use super::super::script::{Script, difference};
use super::*;

type Scripted = Holder<Script, u32, CoarseClock>;

fn holder(script: &Script, belongs: Option<Box<Belongs<u32>>>) -> Arc<Scripted> {
    Arc::new(Holder {
        feed: script.clone(),
        cache: Arc::new(KeyCache::new()),
        lease: ReadLease::new(Duration::from_secs(300)),
        length: Duration::from_secs(300),
        name: "a".into(),
        belongs,
        registration: Mutex::default(),
        log_limit: LogLimit::default(),
    })
}

async fn eventually(claim: impl Fn() -> bool) {
    while !claim() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn rl11_what_is_stored_while_the_base_is_taken_is_not_held() {
    let script = Script::default();
    let holder = holder(&script, None);
    let (cache, hash) = (Arc::clone(&holder.cache), KeyHash::of("k"));
    let of_before = Arc::new(Mutex::new(Some(cache.lease_owned(&hash))));
    script.steps().at_load = Some(Box::new({
        let cache = Arc::clone(&cache);
        move || assert!(cache.lease(&hash).remember(7))
    }));
    holder.begin().await.unwrap();
    assert!(cache.is_empty());
    assert!(!of_before.lock().unwrap().take().unwrap().remember(7));
}

#[tokio::test]
async fn rl13_the_deadline_moves_after_the_changes_were_applied() {
    let script = Script::default();
    let watched: Arc<Mutex<Option<Arc<Scripted>>>> = Arc::default();
    let (at_predicate, seen) = (Arc::clone(&watched), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&seen);
    let holder = holder(
        &script,
        Some(Box::new(move |column, value, held| {
            let holder = at_predicate.lock().unwrap().clone().unwrap();
            assert!(!holder.lease.is_valid(), "moved before the change was applied");
            *counted.lock().unwrap() += 1;
            column == "users.id" && value == held.to_string()
        })),
    );
    *watched.lock().unwrap() = Some(Arc::clone(&holder));
    let mut session = holder.begin().await.unwrap();
    for (key, value) in [("a", 1), ("b", 2)] {
        assert!(holder.cache.lease(&KeyHash::of(key)).remember(value));
    }
    let ended = Ended::Value { column: "users.id".into(), value: "1".into() };
    script.renewal(|| difference(vec![ended]));
    assert_eq!(holder.renew(&mut session).await.unwrap(), Ok(true));
    assert_eq!(*seen.lock().unwrap(), 2);
    let held = |key| holder.cache.lookup_held(&holder.lease, &KeyHash::of(key));
    assert_eq!((held("a"), held("b")), (None, Some(2)));
    watched.lock().unwrap().take();
}

#[tokio::test]
async fn rl28_a_lost_registration_ends_the_lease_before_another_is_made() {
    let script = Script::default();
    let holder = holder(&script, None);
    script.renewal(|| difference(vec![]));
    let mut session = holder.begin().await.unwrap();
    assert_eq!(holder.renew(&mut session).await.unwrap(), Ok(false));
    assert!(holder.lease.is_valid());
    script.renewal(|| Answer::Reload(Reload::Pruned));
    assert_eq!(holder.renew(&mut session).await.unwrap(), Err(Reload::Pruned));
    assert!(holder.lease.is_valid(), "the last deadline stays in force");
    assert_eq!(*holder.registration(), Some(Uuid::from_u128(1)));

    script.renewal(|| Answer::Reload(Reload::Unregistered));
    assert_eq!(holder.renew(&mut session).await.unwrap(), Err(Reload::Unregistered));
    assert!(!holder.lease.is_valid());
    holder.begin().await.unwrap();
    assert_eq!(*holder.registration(), Some(Uuid::from_u128(2)));
}

#[tokio::test]
async fn rl28_a_holder_that_stops_gives_its_lease_up_before_it_leaves() {
    let script = Script::default();
    let cache = Arc::new(KeyCache::<u32>::new());
    script.renewal(|| difference(vec![]));
    let lease = CacheLease::builder(script.clone(), cache).start().await.unwrap();
    assert!(lease.read_lease().is_valid());
    let (holder, left) = (Arc::clone(&lease.holder), Arc::new(Mutex::new(false)));
    script.steps().at_leave = Some(Box::new({
        let left = Arc::clone(&left);
        move || {
            assert!(!holder.lease.is_valid(), "it left first");
            *left.lock().unwrap() = true;
        }
    }));
    lease.stop().await.unwrap();
    assert!(*left.lock().unwrap());
}

#[tokio::test]
async fn a_lease_that_is_dropped_ends_at_once() {
    let script = Script::default();
    script.renewal(|| difference(vec![]));
    let cache = Arc::new(KeyCache::<u32>::new());
    let lease = CacheLease::builder(script, cache).start().await.unwrap();
    let holder = Arc::clone(&lease.holder);
    assert!(holder.lease.is_valid());
    drop(lease);
    assert!(!holder.lease.is_valid());
}

#[tokio::test]
async fn a_renewal_with_records_is_followed_by_another_at_once() {
    let script = Script::default();
    script.renewal(|| difference(vec![Ended::Key(KeyHash::of("k"))]));
    script.renewal(|| Answer::Reload(Reload::OtherTriggers));
    script.renewal(|| difference(vec![]));
    let cache = Arc::new(KeyCache::<u32>::new());
    let _lease = CacheLease::builder(script.clone(), cache).start().await.unwrap();
    eventually(|| script.steps().at_renewals.is_empty()).await;
}
