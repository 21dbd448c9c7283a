//! The order of the steps, on a feed whose answers are the test's.

use std::sync::Mutex;

use trust_key_cache::KeyHash;

use super::super::held_table::HeldTable;
use super::super::script::{Script, difference};
use super::*;
use crate::trust::Trust;

const LENGTH: Duration = Duration::from_secs(300);

struct Parts {
    holder: Holder<Script>,
    shared: Arc<Shared>,
    looks: mpsc::Sender<Look>,
}

fn parts(script: &Script) -> Parts {
    let shared = Arc::<Shared>::default();
    let (looks, waiting) = mpsc::channel(8);
    let (report, _) = watch::channel(HolderStatus::default());
    let holder =
        Holder::new(script.clone(), "a", LENGTH, Arc::clone(&shared), waiting, report).unwrap();
    Parts { holder, shared, looks }
}

/// The same, with a lease in force.
async fn connected(script: &Script) -> Parts {
    let mut parts = parts(script);
    script.renewal(|| difference(Vec::new()));
    assert_eq!(parts.holder.connect_and_renew().await.unwrap(), Renewed::Yes);
    parts
}

fn trust(id: u128, key: &str) -> Trust {
    Trust { api_key_hash: Some(KeyHash::of(key)), ..Trust::new(Uuid::from_u128(id), key) }
}

fn changed(id: u128, row: Option<Trust>) -> Answer {
    difference(vec![Ended::Trust { id: Uuid::from_u128(id), row }])
}

fn table(shared: &Shared) -> HeldTable {
    HeldTable::clone(&shared.present().expect("the lease was given up"))
}

fn has(table: &HeldTable, key: &str) -> bool {
    table.rows.find(&KeyHash::of(key)).is_some()
}

#[tokio::test]
async fn r1_the_deadline_counts_from_before_the_renewal_was_sent() {
    let script = Script::default();
    let sent = Arc::new(Mutex::new(Duration::ZERO));
    let sending = Arc::clone(&sent);
    script.renewal(move || {
        *sending.lock().unwrap() = BootClock.now();
        std::thread::sleep(Duration::from_millis(2));
        difference(Vec::new())
    });
    let Parts { mut holder, shared, .. } = parts(&script);
    assert_eq!(holder.connect_and_renew().await.unwrap(), Renewed::Yes);
    let latest = *sent.lock().unwrap() + LENGTH.mul_f64(0.8);
    let deadline = table(&shared).deadline;
    assert!(deadline <= latest, "{deadline:?}, and noted was at most {latest:?}");
    assert!(table(&shared).is_valid());
}

/// A load and a look bring rows, and no lease. What they bring is held before the next renewal
/// acknowledges it (R10).
#[tokio::test]
async fn r5_r10_a_load_and_a_look_publish_rows_and_move_no_deadline() {
    let script = Script::default();
    script.steps().trusts = vec![trust(1, "one")];
    let Parts { mut holder, shared, looks } = parts(&script);
    let at_renewal = Arc::clone(&shared);
    script.renewal(move || {
        let loaded = table(&at_renewal);
        assert!(has(&loaded, "one") && !loaded.is_valid());
        difference(Vec::new())
    });
    holder.connect_and_renew().await.unwrap();
    let before = table(&shared);

    script.look(|| changed(2, Some(trust(2, "two"))));
    let ask = |key: &str| {
        let (answer, answered) = oneshot::channel();
        (Look { hashes: vec![KeyHash::of(key)], answer }, answered)
    };
    let ((two, answered), (unknown, other_answered)) = (ask("two"), ask("unknown"));
    let (gone, _) = ask("gone");
    looks.send(unknown).await.unwrap();
    looks.send(gone).await.unwrap();
    // The records that it has brought are acknowledged by a renewal (R10).
    assert_eq!(holder.look(two).await.unwrap(), Renewed::Soon);
    let (found, other) = (answered.await.unwrap(), other_answered.await.unwrap());
    assert_eq!(found.row, Some((0, Arc::new(trust(2, "two")))));
    assert!(other.row.is_none());
    assert_eq!([found.rows, other.rows], [2, 2]);
    let after = table(&shared);
    assert!(has(&after, "one") && has(&after, "two"));
    assert_eq!(after.deadline, before.deadline);
}

/// The changers of these rows do not wait for this process.
#[tokio::test]
async fn r9_rows_from_another_place_are_held_without_a_lease_until_it_has_registered_there() {
    let script = Script::default();
    script.steps().place = Some("one");
    let Parts { mut holder, shared, .. } = connected(&script).await;
    script.steps().trusts = vec![trust(1, "one")];
    let at_renewal = Arc::clone(&shared);
    script.renewal(move || {
        assert!(has(&table(&at_renewal), "one") && table(&at_renewal).is_valid());
        difference(Vec::new())
    });
    holder.connect_and_renew().await.unwrap();
    assert_eq!(script.steps().registered, 1);

    script.steps().place = Some("two");
    script.steps().trusts = vec![trust(2, "two")];
    let at_renewal = Arc::clone(&shared);
    script.renewal(move || {
        assert!(has(&table(&at_renewal), "two") && !table(&at_renewal).is_valid());
        difference(Vec::new())
    });
    holder.connect_and_renew().await.unwrap();
    assert_eq!(script.steps().registered, 2);
    assert!(table(&shared).is_valid());
}

#[tokio::test]
async fn r1_a_renewal_publishes_its_changes_and_its_deadline_together() {
    let script = Script::default();
    script.steps().trusts = vec![trust(1, "one")];
    let Parts { mut holder, shared, .. } = connected(&script).await;
    let before = table(&shared);
    script.renewal(|| changed(1, None));
    // It is acknowledged at once, from the changed rows (R10).
    let at_second = Arc::clone(&shared);
    script.renewal(move || {
        assert!(!has(&table(&at_second), "one"));
        difference(Vec::new())
    });
    assert_eq!(holder.renew().await.unwrap(), Renewed::Yes);
    assert!(script.steps().at_renewals.is_empty(), "records were not acknowledged at once");
    assert!(has(&before, "one"), "a published table changed");
    assert!(table(&shared).deadline > before.deadline);
}

#[tokio::test]
async fn writes_that_do_not_cease_leave_time_for_looks() {
    let script = Script::default();
    let Parts { mut holder, shared, .. } = parts(&script);
    for id in 0..5 {
        script.renewal(move || changed(id, Some(trust(id, &id.to_string()))));
    }
    assert_eq!(holder.connect_and_renew().await.unwrap(), Renewed::Again);
    assert!(holder.session.is_some() && table(&shared).is_valid());
    assert_eq!(script.steps().at_renewals.len(), 3);
}

/// Each look brings records, and another request always waits. The renewals keep the lease, and a
/// revocation waits for them.
#[tokio::test(start_paused = true)]
async fn a_flood_of_looks_that_bring_records_puts_no_renewal_off() {
    let script = Script::default();
    let Parts { holder, looks, .. } = connected(&script).await;
    let renewals = Arc::new(Mutex::new(0));
    for id in 0..1_000 {
        let counted = Arc::clone(&renewals);
        script.look(move || changed(id, Some(trust(id, &id.to_string()))));
        script.renewal(move || {
            *counted.lock().unwrap() += 1;
            difference(Vec::new())
        });
    }
    let asking = tokio::spawn(async move {
        loop {
            let (answer, _) = oneshot::channel();
            looks.send(Look { hashes: vec![KeyHash::of("unknown")], answer }).await.ok();
        }
    });
    let (_stop, stopped) = oneshot::channel();
    let running = tokio::time::timeout(Duration::from_secs(1), holder.run(Renewed::Yes, stopped));
    running.await.unwrap_err();
    asking.abort();
    let renewals = *renewals.lock().unwrap();
    assert!(renewals >= 20, "{renewals} renewals in a second");
}

/// A pooler may exchange each session between two statements.
#[tokio::test(start_paused = true)]
async fn sessions_that_never_count_are_loaded_at_a_falling_rate() {
    let script = Script::default();
    let Parts { holder, .. } = parts(&script);
    let loads = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&loads);
    script.steps().at_load = Some(Box::new(move || *counted.lock().unwrap() += 1));
    for _ in 0..1_000 {
        script.renewal(|| Answer::Reload(Reload::OtherSession));
    }
    let (_stop, stopped) = oneshot::channel();
    // The first attempt follows a start that did not count.
    let running = holder.run(Renewed::MustReload, stopped);
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap_err();
    let loads = *loads.lock().unwrap();
    assert!((5..=20).contains(&loads), "{loads} loads in 10 s");
}

#[tokio::test]
async fn r2_an_answer_that_does_not_count_moves_nothing_and_ends_the_session() {
    for answer in [Answer::Reload(Reload::OtherTriggers), difference(vec![Ended::Everything])] {
        let script = Script::default();
        script.steps().trusts = vec![trust(1, "one")];
        let Parts { mut holder, shared, .. } = connected(&script).await;
        let before = table(&shared);
        script.renewal(move || answer);
        assert_eq!(holder.renew().await.unwrap(), Renewed::MustReload);
        assert!(holder.session.is_none());
        assert_eq!(table(&shared).deadline, before.deadline);

        script.steps().trusts = vec![trust(2, "two")];
        script.renewal(|| difference(Vec::new()));
        assert_eq!(holder.connect_and_renew().await.unwrap(), Renewed::Yes);
        assert!(!has(&table(&shared), "one") && has(&table(&shared), "two"));
        assert_eq!(script.steps().registered, 1, "a registration survives its session");
    }
}

#[tokio::test]
async fn r9_a_holder_that_was_struck_off_gives_up_before_it_registers_again() {
    let script = Script::default();
    let Parts { mut holder, shared, .. } = connected(&script).await;
    script.renewal(|| Answer::Reload(Reload::Unregistered));
    assert_eq!(holder.renew().await.unwrap(), Renewed::MustReload);
    assert!(shared.present().is_none());
    let at_renewal = Arc::clone(&shared);
    script.renewal(move || {
        assert!(!table(&at_renewal).is_valid(), "the old deadline was in force again");
        difference(Vec::new())
    });
    holder.connect_and_renew().await.unwrap();
    assert!(table(&shared).is_valid());
    assert_eq!(script.steps().registered, 2);
}

#[tokio::test]
async fn r9_the_lease_is_given_up_before_the_registration_is_removed() {
    for has_lost_its_session in [false, true] {
        let script = Script::default();
        let Parts { mut holder, shared, .. } = connected(&script).await;
        if has_lost_its_session {
            holder.session = None;
        }
        let left = Arc::new(Mutex::new(None));
        let (at_leave, leaving) = (Arc::clone(&shared), Arc::clone(&left));
        script.steps().at_leave =
            Some(Box::new(move || *leaving.lock().unwrap() = Some(at_leave.present().is_none())));
        let (stop, stopped) = oneshot::channel();
        drop(stop);
        holder.run(Renewed::Yes, stopped).await;
        assert_eq!(*left.lock().unwrap(), Some(true));
    }
}
