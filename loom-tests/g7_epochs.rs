//! G7: the epochs that ship, on their own: what a reader can reach under a guard is not freed before the guard is gone.
//!
//! The map's models run over a smaller reclamation. These show that `src/reclaim/asymmetric.rs` keeps the same
//! contract, with a `SeqCst` fence on either side in place of the asymmetric barrier. Loom checks the object's memory:
//! a freeing that no happens-before orders after a read fails.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use trust_key_cache::model::epochs::{Grace, horizon, leave_out_barriers, pin};

use crate::explore::{bounded, exhaustively};

const NONE: usize = usize::MAX;

/// A slot that holds the number of one of its objects, and the objects.
struct Slot {
    current: AtomicUsize,
    objects: [UnsafeCell<bool>; 2],
}

impl Slot {
    fn new() -> Arc<Self> {
        // The first use of loom's statics orders later uses after it, which the program's do not.
        drop(pin());
        Arc::new(Self { current: AtomicUsize::new(0), objects: [(); 2].map(|()| UnsafeCell::new(true)) })
    }

    fn read(&self) {
        let _guard = pin();
        let current = self.current.load(Ordering::Acquire);
        if current != NONE {
            // SAFETY: the guard is what is being checked.
            let alive = || self.objects[current].with(|alive| unsafe { *alive });
            assert!(alive());
            thread::yield_now();
            assert!(alive(), "freed under a guard");
        }
    }

    /// Unlinks an object, and frees it if that is allowed; tells whether it was.
    fn replace(&self, old: usize, new: usize) -> bool {
        assert_eq!(self.current.swap(new, Ordering::Release), old);
        let grace = Grace::start();
        self.free_if_over(&grace, old)
    }

    fn free_if_over(&self, grace: &Grace, old: usize) -> bool {
        let over = grace.is_over();
        if over {
            // SAFETY: that nobody reads it any more is what is being checked.
            self.objects[old].with_mut(|alive| unsafe { *alive = false });
        }
        over
    }
}

#[test]
fn g7_an_object_is_not_freed_under_a_guard() {
    exhaustively("g7_an_object_is_not_freed_under_a_guard", || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || shared.read());
        slot.replace(0, NONE);
        reading.join().unwrap();
    });
}

#[test]
fn g7_a_reader_that_pins_again_holds_back_what_it_can_reach_and_no_more() {
    exhaustively("g7_a_reader_that_pins_again_holds_back_what_it_can_reach_and_no_more", || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            shared.read();
            shared.read();
        });
        slot.replace(0, 1);
        reading.join().unwrap();
        // Nobody is pinned any more.
        assert!(slot.replace(1, NONE));
    });
}

#[test]
fn g7_a_grace_period_that_was_held_up_ends_after_its_reader() {
    exhaustively("g7_a_grace_period_that_was_held_up_ends_after_its_reader", || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || shared.read());
        assert_eq!(slot.current.swap(NONE, Ordering::Release), 0);
        let grace = Grace::start();
        if !slot.free_if_over(&grace, 0) {
            // A second look needs no second barrier.
            slot.free_if_over(&grace, 0);
        }
        reading.join().unwrap();
        assert!(grace.is_over());
    });
}

/// Case 1 of the argument in `src/reclaim/asymmetric.rs`, which rests on no barrier.
#[test]
fn g7_a_reader_of_a_later_epoch_sees_what_was_unlinked() {
    exhaustively("g7_a_reader_of_a_later_epoch_sees_what_was_unlinked", || {
        let slot = Slot::new();
        leave_out_barriers();
        let before = horizon();
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let _guard = pin();
            // Nobody else is pinned, so this is the epoch of the guard.
            if horizon() > before {
                assert_eq!(shared.current.load(Ordering::Relaxed), NONE, "still within reach");
            }
        });
        slot.current.store(NONE, Ordering::Relaxed);
        let _ = Grace::start();
        reading.join().unwrap();
    });
}

#[test]
fn g7_an_inner_guard_ends_nothing() {
    exhaustively("g7_an_inner_guard_ends_nothing", || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let _outer = pin();
            let current = shared.current.load(Ordering::Acquire);
            drop(pin());
            if current != NONE {
                // SAFETY: the outer guard is what is being checked.
                let alive = shared.objects[current].with(|alive| unsafe { *alive });
                assert!(alive, "freed under the outer guard");
            }
        });
        slot.replace(0, NONE);
        reading.join().unwrap();
    });
}

#[test]
fn g7_a_thread_leaves_its_record_to_the_next() {
    bounded("g7_a_thread_leaves_its_record_to_the_next", 3, || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let reader = shared.clone();
            thread::spawn(move || reader.read()).join().unwrap();
            // With the first one's record.
            shared.read();
        });
        slot.replace(0, NONE);
        reading.join().unwrap();
    });
}

/// The end of another thread's grace period needs no barrier of one's own, but a horizon that was read after its start.
#[test]
fn g7_a_grace_period_may_be_ended_by_another_thread() {
    bounded("g7_a_grace_period_may_be_ended_by_another_thread", 3, || {
        let slot = Slot::new();
        let started = Arc::new(Mutex::new(None));
        let (left, right, waiting) = (slot.clone(), slot.clone(), started.clone());
        let reading = thread::spawn(move || left.read());
        let starting = thread::spawn(move || {
            assert_eq!(right.current.swap(NONE, Ordering::Release), 0);
            *waiting.lock().unwrap() = Some(Grace::start());
        });
        if let Some(grace) = started.lock().unwrap().take() {
            slot.free_if_over(&grace, 0);
        }
        reading.join().unwrap();
        starting.join().unwrap();
    });
}

#[test]
fn g7_two_readers_register_and_each_is_waited_for() {
    bounded("g7_two_readers_register_and_each_is_waited_for", 2, || {
        let slot = Slot::new();
        let readers = [(); 2].map(|()| {
            let shared = slot.clone();
            thread::spawn(move || shared.read())
        });
        slot.replace(0, NONE);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn g7_what_two_writers_retire_waits_for_a_reader_of_either() {
    bounded("g7_what_two_writers_retire_waits_for_a_reader_of_either", 2, || {
        let slots = [Slot::new(), Slot::new()];
        let [left, right] = slots.clone();
        let reading = thread::spawn(move || {
            let _guard = pin();
            left.read();
            right.read();
        });
        let [left, right] = slots;
        let writing = thread::spawn(move || left.replace(0, NONE));
        right.replace(0, NONE);
        reading.join().unwrap();
        writing.join().unwrap();
    });
}
