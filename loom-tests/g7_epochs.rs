//! G7: the epochs that ship, without the map. An object that a reader can reach under a guard is
//! not freed before the guard ends.
//!
//! The map's models run over a smaller reclamation. These models check that
//! `src/reclaim/asymmetric.rs` keeps the same contract. A1 to A6 and L1 to L10 are the assumptions
//! and lemmas of that file. A `SeqCst` fence replaces each side of the asymmetric barrier (A3).
//! Loom checks the object's memory: a model fails unless each read happens-before the freeing.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use trust_key_cache::model::epochs::{
    Grace, leave_out_barriers, pin, pin_while_ending, pinned, records, register,
};

use crate::explore::{bounded, exhaustively};

const NONE: usize = usize::MAX;

/// A slot that holds the number of one of its objects, and the objects.
struct Slot {
    current: AtomicUsize,
    objects: [UnsafeCell<bool>; 2],
}

impl Slot {
    fn new() -> Arc<Self> {
        // The first use of loom's statics orders all later uses after it. The program's statics do
        // not, so each model uses them before its threads start.
        let _ = Grace::start().is_over_past_a_barrier();
        Arc::new(Self {
            current: AtomicUsize::new(0),
            objects: [(); 2].map(|()| UnsafeCell::new(true)),
        })
    }

    fn read(&self) {
        let _guard = pin();
        let current = self.current.load(Ordering::Acquire);
        if current != NONE {
            // SAFETY: loom checks this access, which is what the model is for.
            assert!(self.objects[current].with(|alive| unsafe { *alive }), "freed under a guard");
        }
    }

    /// Unlinks an object, and frees it if a barrier ends the grace period. Returns whether the
    /// object was freed.
    fn replace(&self, old: usize, new: usize) -> bool {
        let grace = self.unlink(old, new);
        self.free_if(grace.is_over_past_a_barrier(), old)
    }

    /// Unlinks an object, and frees it if the grace period is over without a barrier.
    fn replace_without_a_barrier(&self, old: usize, new: usize) -> bool {
        let grace = self.unlink(old, new);
        // This thread must have pinned in a later epoch, too.
        drop(pin());
        self.free_if(grace.is_over(), old)
    }

    /// Returns a slot whose creator has pinned before, so that no registration is explored.
    fn of_a_reader() -> Arc<Self> {
        let slot = Self::new();
        drop(pin());
        slot
    }

    fn unlink(&self, old: usize, new: usize) -> Grace {
        assert_eq!(self.current.swap(new, Ordering::Release), old);
        Grace::start()
    }

    fn free_if(&self, over: bool, old: usize) -> bool {
        if over {
            // SAFETY: loom checks this access against all reads.
            self.objects[old].with_mut(|alive| unsafe { *alive = false });
        }
        over
    }
}

/// Checks L4.
#[test]
fn g7_an_object_is_not_freed_under_a_guard() {
    exhaustively("g7_an_object_is_not_freed_under_a_guard", || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || shared.replace(0, NONE));
        slot.read();
        writing.join().unwrap();
    });
}

/// Checks L3: all threads have seen a later epoch, and no barrier is made.
#[test]
fn g7_an_object_is_not_freed_under_a_guard_when_all_have_come_by() {
    exhaustively("g7_an_object_is_not_freed_under_a_guard_when_all_have_come_by", || {
        let slot = Slot::of_a_reader();
        leave_out_barriers();
        let shared = slot.clone();
        let writing = thread::spawn(move || {
            let grace = shared.unlink(0, 1);
            shared.free_if(grace.is_over(), 0);
        });
        slot.read();
        slot.read();
        writing.join().unwrap();
    });
}

/// Checks that the case of L3 occurs, and that L7 and L8 hold nothing back.
#[test]
fn g7_a_grace_period_ends_without_a_barrier_when_all_have_come_by() {
    exhaustively("g7_a_grace_period_ends_without_a_barrier_when_all_have_come_by", || {
        let slot = Slot::of_a_reader();
        leave_out_barriers();
        let shared = slot.clone();
        let grace = thread::spawn(move || shared.unlink(0, 1)).join().unwrap();
        assert!(!grace.is_over() && grace.wants_a_barrier(), "no thread has pinned since");
        slot.read();
        assert!(slot.free_if(grace.is_over(), 0));
        let shared = slot.clone();
        // A thread that registers now, or that has ended, holds nothing back.
        let reading = thread::spawn(move || shared.read());
        assert!(slot.free_if(grace.is_over(), 0));
        reading.join().unwrap();
    });
}

/// Checks L5 and L6.
///
/// A barrier detaches an idle thread, so that later grace periods end without a barrier. What the
/// thread reads after its return is not freed under its guard.
#[test]
fn g7_a_thread_that_was_detached_is_waited_for_when_it_is_back() {
    bounded("g7_a_thread_that_was_detached_is_waited_for_when_it_is_back", 5, || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || {
            shared.replace(0, 1);
            let grace = shared.unlink(1, NONE);
            shared.free_if(grace.is_over(), 1);
        });
        slot.read();
        writing.join().unwrap();
    });
}

/// Checks L6 for two writers.
///
/// A writer that finds a thread detached sees all that the thread did before, whichever writer
/// detached the thread.
#[test]
fn g7_a_thread_that_one_writer_has_detached_is_past_for_another() {
    bounded("g7_a_thread_that_one_writer_has_detached_is_past_for_another", 2, || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let detaching = thread::spawn(|| Grace::start().is_over_past_a_barrier());
        let writing = thread::spawn(move || {
            let grace = shared.unlink(0, NONE);
            shared.free_if(grace.is_over(), 0);
        });
        slot.read();
        writing.join().unwrap();
        detaching.join().unwrap();
    });
}

/// Checks A5 and L6: a writer does not take another writer's mark for its own.
#[test]
fn g7_two_writers_that_make_the_barrier_detach_no_reader() {
    bounded("g7_two_writers_that_make_the_barrier_detach_no_reader", 2, || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let other = thread::spawn(|| Grace::start().is_over_past_a_barrier());
        let writing = thread::spawn(move || {
            let _ = Grace::start().is_over_past_a_barrier();
            let grace = shared.unlink(0, NONE);
            shared.free_if(grace.is_over(), 0);
        });
        slot.read();
        writing.join().unwrap();
        other.join().unwrap();
    });
}

/// Checks L5 and L6, and that one barrier detaches an idle thread.
#[test]
fn g7_a_thread_that_rests_is_detached_by_the_first_barrier() {
    exhaustively("g7_a_thread_that_rests_is_detached_by_the_first_barrier", || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || {
            let grace = shared.unlink(0, 1);
            assert!(!grace.is_over() && grace.wants_a_barrier(), "a thread is idle");
            assert!(shared.free_if(grace.is_over_past_a_barrier(), 0));
            assert!(!grace.wants_a_barrier());
            assert!(shared.replace_without_a_barrier(1, NONE), "it holds a later one back");
        });
        writing.join().unwrap();
        // The detached thread pins again, concurrently with another thread.
        let shared = slot.clone();
        let reading = thread::spawn(move || shared.read());
        slot.read();
        reading.join().unwrap();
    });
}

/// Checks L4 and L8.
#[test]
fn g7_a_thread_that_registers_is_waited_for() {
    bounded("g7_a_thread_that_registers_is_waited_for", 3, || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || shared.read());
        slot.replace(0, NONE);
        reading.join().unwrap();
    });
}

/// Checks L3 and L8.
#[test]
fn g7_a_thread_that_registers_is_waited_for_without_a_barrier() {
    bounded("g7_a_thread_that_registers_is_waited_for_without_a_barrier", 4, || {
        let slot = Slot::new();
        leave_out_barriers();
        let shared = slot.clone();
        let reading = thread::spawn(move || shared.read());
        let grace = slot.unlink(0, NONE);
        slot.free_if(grace.is_over(), 0);
        reading.join().unwrap();
    });
}

/// Checks L1 and L4 for two sections of one thread, and that no grace period waits without end.
#[test]
fn g7_a_reader_that_pins_again_holds_back_what_it_can_reach_and_no_more() {
    bounded("g7_a_reader_that_pins_again_holds_back_what_it_can_reach_and_no_more", 4, || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || shared.replace(0, 1));
        slot.read();
        slot.read();
        writing.join().unwrap();
        // No thread is pinned now.
        assert!(slot.replace(1, NONE));
    });
}

/// Checks L4 for a second barrier of one grace period.
#[test]
fn g7_a_grace_period_that_was_held_up_ends_after_its_reader() {
    bounded("g7_a_grace_period_that_was_held_up_ends_after_its_reader", 4, || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || {
            let grace = shared.unlink(0, NONE);
            if !shared.free_if(grace.is_over_past_a_barrier(), 0) {
                shared.free_if(grace.is_over_past_a_barrier(), 0);
            }
            grace
        });
        slot.read();
        assert!(writing.join().unwrap().is_over_past_a_barrier());
    });
}

/// Checks L1, without a barrier.
#[test]
fn g7_a_reader_of_a_later_epoch_sees_what_was_unlinked() {
    exhaustively("g7_a_reader_of_a_later_epoch_sees_what_was_unlinked", || {
        let slot = Slot::new();
        leave_out_barriers();
        let before = {
            let _guard = pin();
            pinned()
        };
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let _guard = pin();
            // No other thread is pinned, so this is the epoch of the guard.
            if pinned() > before {
                assert_eq!(shared.current.load(Ordering::Relaxed), NONE, "still in reach");
            }
        });
        slot.current.store(NONE, Ordering::Relaxed);
        let _ = Grace::start();
        reading.join().unwrap();
    });
}

/// Checks L4 for guards within guards: the last guard ends the section.
#[test]
fn g7_an_inner_guard_ends_nothing() {
    exhaustively("g7_an_inner_guard_ends_nothing", || {
        let slot = Slot::of_a_reader();
        let shared = slot.clone();
        let writing = thread::spawn(move || shared.replace(0, NONE));
        let outer = pin();
        let current = slot.current.load(Ordering::Acquire);
        drop(pin());
        if current != NONE {
            // SAFETY: loom checks this access, which is what the model is for.
            let alive = slot.objects[current].with(|alive| unsafe { *alive });
            assert!(alive, "freed under the outer guard");
        }
        drop(outer);
        writing.join().unwrap();
    });
}

/// Checks L2 and L7.
#[test]
fn g7_a_thread_leaves_its_record_to_the_next() {
    bounded("g7_a_thread_leaves_its_record_to_the_next", 3, || {
        let slot = Slot::new();
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let reader = shared.clone();
            thread::spawn(move || reader.read()).join().unwrap();
            // This thread may take the record of the first one.
            shared.read();
        });
        let grace = slot.unlink(0, NONE);
        slot.free_if(grace.is_over(), 0);
        reading.join().unwrap();
    });
}

/// Checks A4.
///
/// A destructor of a thread-local may read after that of the registration has run.
#[test]
fn g7_a_thread_that_reads_after_its_registration_has_ended_shares_no_record() {
    bounded("g7_a_thread_that_reads_after_its_registration_has_ended_shares_no_record", 3, || {
        let slot = Slot::new();
        let shared = slot.clone();
        let ending = thread::spawn(move || {
            let registration = register();
            shared.read();
            drop(registration);
            shared.read();
        });
        // This thread may take the record that was given back.
        slot.read();
        ending.join().unwrap();
    });
}

/// Checks A4, L2 and L4 for a record that a guard gives back.
#[test]
fn g7_a_borrowed_record_is_unpinned_before_another_thread_has_it() {
    bounded("g7_a_borrowed_record_is_unpinned_before_another_thread_has_it", 2, || {
        drop(Slot::new());
        let ending = thread::spawn(|| drop(pin_while_ending()));
        // This thread may take the record that was borrowed.
        let guard = pin();
        assert!(
            !Grace::start().is_over_past_a_barrier(),
            "over under a guard that existed at its start"
        );
        drop(guard);
        ending.join().unwrap();
    });
}

/// Checks A4 for a guard that ends after its thread's registration.
///
/// A reader may be suspended in a coroutine when its thread ends.
#[test]
fn g7_a_record_that_outlives_its_threads_registration_goes_to_the_next_thread() {
    bounded(
        "g7_a_record_that_outlives_its_threads_registration_goes_to_the_next_thread",
        3,
        || {
            drop(Slot::new());
            let ending = thread::spawn(|| {
                let registration = register();
                let suspended = pin();
                drop(registration);
                drop(suspended);
            });
            let _ = Grace::start().is_over_past_a_barrier();
            ending.join().unwrap();
            drop(pin());
            assert_eq!(records(), 1, "the record was left behind");
        },
    );
}

/// Checks A2: another thread than the starter reads the horizon, after the start.
#[test]
fn g7_a_grace_period_may_be_ended_by_another_thread() {
    bounded("g7_a_grace_period_may_be_ended_by_another_thread", 3, || {
        let slot = Slot::new();
        let started = Arc::new(Mutex::new(None));
        let (left, right, waiting) = (slot.clone(), slot.clone(), started.clone());
        let reading = thread::spawn(move || left.read());
        let starting = thread::spawn(move || {
            *waiting.lock().unwrap() = Some(right.unlink(0, NONE));
        });
        if let Some(grace) = started.lock().unwrap().take() {
            slot.free_if(grace.is_over_past_a_barrier(), 0);
        }
        reading.join().unwrap();
        starting.join().unwrap();
    });
}

/// Checks L4 and L8 for two records.
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

/// Checks A6, L1 and L4 for two grace periods.
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
