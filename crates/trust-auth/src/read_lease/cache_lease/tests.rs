//! The order of a holder's steps, on a feed whose answers are the test's.

use super::super::held_trusts::HeldTrusts;
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

fn registered(holder: &Scripted) -> Option<u128> {
    holder.registration().as_ref().map(|own| own.id.as_u128())
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
    assert_eq!(registered(&holder), Some(1));

    script.renewal(|| Answer::Reload(Reload::Unregistered));
    assert_eq!(holder.renew(&mut session).await.unwrap(), Err(Reload::Unregistered));
    assert!(!holder.lease.is_valid());
    holder.begin().await.unwrap();
    assert_eq!(registered(&holder), Some(2));
}

/// The changers there do not wait for this process.
#[tokio::test]
async fn r9_a_load_from_another_place_ends_the_lease_and_registers_again() {
    let script = Script::default();
    let holder = holder(&script, None);
    script.renewal(|| difference(vec![]));
    let mut session = holder.begin().await.unwrap();
    holder.renew(&mut session).await.unwrap().unwrap();
    holder.begin().await.unwrap();
    assert!(holder.lease.is_valid() && registered(&holder) == Some(1));

    script.steps().place = Some("two");
    holder.begin().await.unwrap();
    assert!(!holder.lease.is_valid());
    assert_eq!(registered(&holder), Some(2));
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

/// Each renewal brings records. A turn has two: the second acknowledges at once what the first has
/// brought. Each turn takes the notifications.
#[tokio::test(start_paused = true)]
async fn renewals_under_writes_that_do_not_cease_are_paced_and_take_the_notifications() {
    for hints_come in [true, false] {
        let script = Script::default();
        let begun = Instant::now();
        let (renewed, hinted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        for _ in 0..1 + 8 {
            let renewed = Arc::clone(&renewed);
            script.renewal(move || {
                renewed.lock().unwrap().push(begun.elapsed().as_millis());
                difference(vec![Ended::Key(KeyHash::of("k"))])
            });
        }
        script.steps().at_hint = Some(Box::new({
            let hinted = Arc::clone(&hinted);
            move || {
                *hinted.lock().unwrap() += 1;
                hints_come
            }
        }));
        let cache = Arc::new(KeyCache::<u32>::new());
        let _lease = CacheLease::builder(script.clone(), cache).start().await.unwrap();
        eventually(|| script.steps().at_renewals.is_empty()).await;
        // The first one is that of `start`. A timer of Tokio may be late by a millisecond.
        let renewed: Vec<_> = renewed.lock().unwrap().iter().map(|at| at / 10).collect();
        assert_eq!(renewed, [0, 0, 0, 1, 1, 2, 2, 3, 3], "hints come: {hints_come}");
        assert_eq!(*hinted.lock().unwrap(), 4, "one in each turn");
    }
}

/// A length of zero would renew without a pause.
#[tokio::test]
async fn a_length_that_no_lease_may_have_is_refused_as_for_held_trusts() {
    let (shortest, longest) = (Duration::from_millis(300), Duration::from_secs(300));
    let nanosecond = Duration::from_nanos(1);
    let start = async |script: Script, length| {
        let cache = Arc::new(KeyCache::<u32>::new());
        CacheLease::builder(script, cache).length(length).start().await
    };
    for length in [Duration::ZERO, shortest - nanosecond, longest + nanosecond, Duration::MAX] {
        let script = Script::default();
        script.renewal(|| difference(vec![]));
        let error = start(script.clone(), length).await.unwrap_err();
        assert!(matches!(error, StoreError::Other(_)), "{error:?}");
        assert_eq!(script.steps().registered, 0);
        let of_trusts = HeldTrusts::start(script, "a", length).await.unwrap_err();
        assert_eq!(error.to_string(), of_trusts.to_string());
    }
    for length in [shortest, longest] {
        let script = Script::default();
        script.renewal(|| difference(vec![]));
        assert!(start(script, length).await.unwrap().read_lease().is_valid());
    }
}
