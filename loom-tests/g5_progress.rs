//! G5: a lookup ends after a bounded number of its own steps, whatever writers do.
//! `docs/guarantees.md` has the lemmas that these models check.
//!
//! `src/sync/loom.rs` counts the atomic operations on the map. In every execution, a lookup makes
//! one to three: it loads the hint, unless a complete hint answers it the pointer, and where the
//! bucket has the key the generation. The search between the last two reads at most 16 entries of
//! immutable memory. Pinning has a model of its own: over the epochs that ship, it takes four to
//! six operations.

use loom::thread;
use trust_key_cache::model::steps;

use crate::explore::{bounded, exhaustively, key, one_bucket};

/// Checks G5.1 for the steps on the map.
#[test]
fn g5_a_lookup_takes_one_to_three_steps_while_writers_run() {
    bounded("g5_a_lookup_takes_one_to_three_steps_while_writers_run", 2, || {
        let (cache, _) = one_bucket(1);
        assert!(cache.lease(&key(1)).remember(1));
        let (left, right) = (cache.clone(), cache.clone());
        let remembering = thread::spawn(move || left.lease(&key(1)).remember(2));
        let invalidating = thread::spawn(move || right.invalidate_key(&key(1)));
        let before = steps();
        let _ = cache.lookup(&key(1));
        assert!((1..=3).contains(&(steps() - before)));
        remembering.join().unwrap();
        invalidating.join().unwrap();
    });
}

/// Checks G5.1 for the steps of a pin and its end.
///
/// A pin takes two loads and a store, and its end a store. A pin in a new epoch makes an exchange
/// more. A pin of a thread that was detached also makes an add.
#[cfg(not(crossbeam_loom))]
#[test]
fn g5_a_pin_takes_four_to_six_steps_while_grace_periods_start() {
    use trust_key_cache::model::epochs::{Grace, pin};

    exhaustively("g5_a_pin_takes_four_to_six_steps_while_grace_periods_start", || {
        drop(pin());
        let starting = thread::spawn(|| Grace::start().is_over_past_a_barrier());
        let before = steps();
        drop(pin());
        assert!((4..=6).contains(&(steps() - before)));
        starting.join().unwrap();
    });
}

/// Checks G5.5.
#[test]
fn g5_invalidate_is_one_step() {
    exhaustively("g5_invalidate_is_one_step", || {
        let (cache, _) = one_bucket(1);
        let shared = cache.clone();
        let remembering = thread::spawn(move || shared.lease(&key(1)).remember(1));
        let before = steps();
        cache.invalidate();
        assert_eq!(steps() - before, 1);
        remembering.join().unwrap();
    });
}

/// Checks G5.4.
///
/// The one other writer writes once, so at most one attempt is repeated.
#[test]
fn g5_a_remember_repeats_only_what_another_writer_undid() {
    exhaustively("g5_a_remember_repeats_only_what_another_writer_undid", || {
        let (cache, _) = one_bucket(2);
        let shared = cache.clone();
        let invalidating = thread::spawn(move || shared.invalidate_key(&key(2)));
        let lease = cache.lease(&key(1));
        let before = steps();
        lease.remember(1);
        // A failed attempt has four operations: the loads of the pointer and of the generation, the
        // claim, and the exchange. The second attempt is refused after its two loads. Then a copy
        // of the bucket is published, by a pin and four operations. Retiring takes four more, and
        // five with crossbeam-epoch, which checks the grace period.
        assert!(steps() - before <= 17);
        invalidating.join().unwrap();
    });
}
