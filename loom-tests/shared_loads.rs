//! Shared loads: a caller receives nothing that was read before an invalidation which has returned,
//! and no caller is left waiting. Loom reports a caller that waits forever as a deadlock.
//! `docs/guarantees.md` has the lemmas that these models check (S).

use std::cell::Cell;
use std::future::{Future, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread::{self, Thread};
use trust_key_cache::ManualClock;
use trust_key_cache::model::{KeyCache, times_blocked};

use crate::explore::{bounded, exhaustively, keeping, key};

type Cache = KeyCache<u32, ManualClock>;
type Answer = Result<Option<u32>, ()>;

const STALE: u32 = 1;
const FRESH: u32 = 2;

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Two callers, and an invalidation between them: a request reads the row, the key is revoked, and
/// another request arrives (`tests/revoked_while_read.rs`). The row is a relaxed atomic: only the
/// cache orders what a loader reads from it.
fn revoke_between_two_callers(invalidate: fn(&Cache)) {
    let (cache, _) = keeping(1);
    let row_is_valid = Arc::new(AtomicBool::new(true));
    let (shared, row) = (cache.clone(), row_is_valid.clone());
    let before = thread::spawn(move || {
        let load = || Answer::Ok(row.load(Ordering::Relaxed).then_some(STALE));
        shared.get_or_try_load(&key(1), load)
    });
    row_is_valid.store(false, Ordering::Relaxed);
    invalidate(&cache);
    let load = || Answer::Ok(row_is_valid.load(Ordering::Relaxed).then_some(STALE));
    assert_eq!(cache.get_or_try_load(&key(1), load), Ok(None), "received after the revocation");
    assert!(before.join().unwrap().is_ok());
    assert_eq!(cache.lookup(&key(1)), None, "stored after the revocation");
}

/// Checks S2 and S4.
#[test]
fn g1_a_caller_after_an_invalidation_shares_nothing_that_was_read_before_it() {
    bounded("g1_a_caller_after_an_invalidation_shares_nothing_that_was_read_before_it", 4, || {
        revoke_between_two_callers(Cache::invalidate);
    });
}

/// Checks S3 and S4.
#[test]
fn g2_a_caller_after_its_key_was_invalidated_shares_nothing_that_was_read_before_it() {
    bounded(
        "g2_a_caller_after_its_key_was_invalidated_shares_nothing_that_was_read_before_it",
        4,
        || revoke_between_two_callers(|cache| cache.invalidate_key(&key(1))),
    );
}

/// Checks S9 and S10.
#[test]
fn two_callers_load_a_key_once_and_neither_is_left_waiting() {
    bounded("two_callers_load_a_key_once_and_neither_is_left_waiting", 4, || {
        let (cache, _) = keeping(1);
        let loads = Arc::new(AtomicUsize::new(0));
        let call = |cache: &Cache, loads: &AtomicUsize| {
            let load = || {
                loads.fetch_add(1, Ordering::Relaxed);
                Answer::Ok(Some(FRESH))
            };
            assert_eq!(cache.get_or_try_load(&key(1), load), Ok(Some(FRESH)));
        };
        let (shared, counted) = (cache.clone(), loads.clone());
        let other = thread::spawn(move || call(&shared, &counted));
        call(&cache, &loads);
        other.join().unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    });
}

/// Checks S10 for a task: between two polls of the leader, and as it ends.
#[test]
fn a_task_that_joins_is_answered_and_woken() {
    exhaustively("a_task_that_joins_is_answered_and_woken", || {
        let (cache, _) = keeping(1);
        let key = key(1);
        let polls = Cell::new(0);
        let load = || {
            poll_fn(|_| match polls.replace(1) {
                0 => Poll::Pending,
                _ => Poll::Ready(Answer::Ok(None)),
            })
        };
        let mut leader = pin!(cache.get_or_try_load_async(&key, load));
        assert!(poll_once(leader.as_mut()).is_pending());
        let shared = cache.clone();
        let joining = thread::spawn(move || {
            block_on(shared.get_or_try_load_async(&key, || ready(Answer::Ok(None))))
        });
        assert_eq!(poll_once(leader), Poll::Ready(Ok(None)));
        assert_eq!(joining.join().unwrap(), Ok(None));
    });
}

/// Checks S11 for a task.
#[test]
fn a_waiter_of_a_cancelled_leader_loads() {
    exhaustively("a_waiter_of_a_cancelled_leader_loads", || {
        let (cache, _) = keeping(1);
        let hash = key(1);
        let mut leader = Box::pin(cache.get_or_try_load_async(&hash, pending::<Answer>));
        assert!(poll_once(leader.as_mut()).is_pending());
        let shared = cache.clone();
        let waiting = thread::spawn(move || {
            block_on(shared.get_or_try_load_async(&key(1), || ready(Answer::Ok(Some(FRESH)))))
        });
        drop(leader);
        assert_eq!(waiting.join().unwrap(), Ok(Some(FRESH)));
        assert_eq!(cache.lookup(&hash), Some(FRESH));
    });
}

/// Checks S8 and S11: of two waiters one leads, whichever is polled first.
#[test]
fn of_two_waiters_of_a_cancelled_leader_one_loads() {
    bounded("of_two_waiters_of_a_cancelled_leader_one_loads", 2, || {
        let (cache, _) = keeping(1);
        let hash = key(1);
        let loads = Arc::new(AtomicUsize::new(0));
        let mut leader = Box::pin(cache.get_or_try_load_async(&hash, pending::<Answer>));
        assert!(poll_once(leader.as_mut()).is_pending());
        let waiting = [(); 2].map(|()| {
            let (shared, loads) = (cache.clone(), loads.clone());
            thread::spawn(move || {
                let load = || {
                    loads.fetch_add(1, Ordering::Relaxed);
                    ready(Answer::Ok(Some(FRESH)))
                };
                block_on(shared.get_or_try_load_async(&key(1), load))
            })
        });
        drop(leader);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), Ok(Some(FRESH)));
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    });
}

/// Checks S11 for threads: the leader panics once both others wait.
#[test]
fn both_waiters_of_a_leader_that_panics_are_answered() {
    bounded("both_waiters_of_a_leader_that_panics_are_answered", 2, || {
        let (cache, _) = keeping(1);
        let loads = Arc::new(AtomicUsize::new(0));
        let mut waiting = Vec::new();
        let panicking = catch_unwind(AssertUnwindSafe(|| {
            cache.get_or_try_load(&key(1), || -> Answer {
                waiting.extend([(); 2].map(|()| {
                    let (shared, loads) = (cache.clone(), loads.clone());
                    thread::spawn(move || {
                        let load = || {
                            loads.fetch_add(1, Ordering::Relaxed);
                            Answer::Ok(Some(FRESH))
                        };
                        shared.get_or_try_load(&key(1), load)
                    })
                }));
                while times_blocked() < 2 {
                    thread::yield_now();
                }
                resume_unwind(Box::new("as it should"))
            })
        }));
        assert!(panicking.is_err());
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), Ok(Some(FRESH)));
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    });
}

/// Checks S5: what begins before an invalidation takes no place of what begins after it.
#[test]
fn a_load_is_never_replaced_by_one_of_an_older_stamp() {
    bounded("a_load_is_never_replaced_by_one_of_an_older_stamp", 4, || {
        let (cache, _) = keeping(1);
        let hash = key(1);
        let shared = cache.clone();
        let older = thread::spawn(move || {
            shared.get_or_try_load(&key(1), || Answer::Ok(None)).unwrap();
        });
        cache.invalidate();
        let led = Cell::new(0);
        let load = || {
            led.set(led.get() + 1);
            pending::<Answer>()
        };
        let mut first = pin!(cache.get_or_try_load_async(&hash, load));
        let mut second = pin!(cache.get_or_try_load_async(&hash, load));
        // It joins the older thread's load, if that took its stamp after the invalidation.
        let _ = poll_once(first.as_mut());
        older.join().unwrap();
        let _ = poll_once(second.as_mut());
        assert!(led.get() <= 1, "the second does not share the first's load");
    });
}
