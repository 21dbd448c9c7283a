//! G7 where crossbeam-epoch stands in: what a reader did under its guard happens before the end of the grace period is seen, by
//! whichever thread, and not only by the one that ended it.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use trust_key_cache::model::epochs::{Grace, horizon, pin};

use crate::explore::exhaustively;

struct Slot {
    unlinked: AtomicBool,
    object: UnsafeCell<bool>,
}

#[test]
fn g7_the_end_of_a_grace_period_is_seen_with_what_it_waited_for() {
    exhaustively("g7_the_end_of_a_grace_period_is_seen_with_what_it_waited_for", || {
        drop(pin());
        let slot = Arc::new(Slot { unlinked: AtomicBool::new(false), object: UnsafeCell::new(true) });
        let shared = slot.clone();
        let reading = thread::spawn(move || {
            let guard = pin();
            if !shared.unlinked.load(Ordering::Acquire) {
                // SAFETY: the guard is what is being checked.
                assert!(shared.object.with(|alive| unsafe { *alive }));
            }
            drop(guard);
            // Enough to run what was deferred.
            for _ in 0..3 {
                let _ = horizon();
            }
        });
        slot.unlinked.store(true, Ordering::Release);
        let grace = Grace::start();
        // Without a look of its own at the readers, which would order more.
        if grace.is_over_at(0) {
            // SAFETY: as above.
            slot.object.with_mut(|alive| unsafe { *alive = false });
        }
        reading.join().unwrap();
    });
}
