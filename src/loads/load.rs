//! [`Load`]: one load under way, and the callers that wait for its end.
//!
//! The lock guards the end and the wakers' places, for a few instructions. Values, errors and
//! wakers are cloned, called and dropped outside of it.

use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};
use std::thread;

use super::super::sync::{Condvar, Mutex, MutexGuard, Ordering, StoredU64, this_thread};

/// What a loader returns.
pub(super) type Answer<V, E> = Result<Option<V>, E>;

/// How a load ended.
pub(super) enum End<V, E> {
    Answered(Arc<Answer<V, E>>),
    /// Its leader was dropped, or panicked. Each waiter has its own loader still.
    Abandoned,
}

// Derived, it would ask for `V: Clone`, and clones are made under the lock.
impl<V, E> Clone for End<V, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Answered(answer) => Self::Answered(Arc::clone(answer)),
            Self::Abandoned => Self::Abandoned,
        }
    }
}

pub(super) struct Load<V, E> {
    /// When its leader's lease was taken, in nanoseconds of the cache's clock.
    taken_at: u64,
    form: Form,
    /// Which thread runs the loader at this moment, by [`this_thread`]; zero if none does.
    inside: StoredU64,
    state: Mutex<State<V, E>>,
    ended: Condvar,
}

/// The form that the leader called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Blocking,
    Async,
}

struct State<V, E> {
    end: Option<End<V, E>>,
    /// Of the tasks that wait, by the order of their first wait.
    wakers: BTreeMap<u64, Waker>,
    next_place: u64,
}

impl<V, E> Load<V, E> {
    pub(super) fn new(taken_at: u64, form: Form) -> Self {
        let state = State { end: None, wakers: BTreeMap::new(), next_place: 0 };
        Self {
            taken_at,
            form,
            inside: StoredU64::new(0),
            state: Mutex::new(state),
            ended: Condvar::new(),
        }
    }

    pub(super) fn taken_at(&self) -> u64 {
        self.taken_at
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Notes that this thread runs the loader, until the result is dropped.
    pub(super) fn enter(&self) -> Inside<'_> {
        // Relaxed: only a thread's own mark counts, which it reads back by coherence.
        self.inside.store(this_thread(), Ordering::Relaxed);
        Inside(&self.inside)
    }

    /// Returns whether this thread runs the loader now, and so the caller is called by it.
    pub(super) fn is_inside(&self) -> bool {
        // Relaxed: a thread finds its own mark only between its own two stores, by coherence. A
        // thread that has the number of an ended one starts after that thread's stores.
        self.inside.load(Ordering::Relaxed) == this_thread()
    }

    /// Ends the load, and wakes all that wait for it.
    pub(super) fn end(&self, end: End<V, E>) {
        let wakers = {
            let mut state = self.state();
            state.end = Some(end);
            mem::take(&mut state.wakers)
        };
        self.ended.notify_all();
        wake_all(wakers.into_values());
    }

    /// Blocks the thread until the load has ended.
    pub(super) fn wait(&self) -> End<V, E> {
        let mut state = self.state();
        loop {
            if let Some(end) = &state.end {
                return end.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Locks the state. No panic can occur under the lock, so none of its halves is ever seen.
    fn state(&self) -> MutexGuard<'_, State<V, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark of [`Load::enter`].
pub(super) struct Inside<'a>(&'a StoredU64);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Relaxed: as in `enter`.
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Wakes every task, although wakers panic. The first panic unwinds through the caller, unless the
/// caller runs because of another panic: a second panic would abort the process.
fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut first = None;
    for waker in wakers {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            // The payload of a later panic is leaked, since its destructor may panic as well.
            match first {
                None => first = Some(panic),
                Some(_) => mem::forget(panic),
            }
        }
    }
    match first {
        Some(panic) if thread::panicking() => mem::forget(panic),
        Some(panic) => resume_unwind(panic),
        None => {}
    }
}

/// A task that waits for a load. Dropped, it takes its waker along.
pub(super) struct Waiter<V, E> {
    load: Arc<Load<V, E>>,
    /// Of its waker among the load's.
    place: Option<u64>,
}

impl<V, E> Waiter<V, E> {
    pub(super) fn new(load: Arc<Load<V, E>>) -> Self {
        Self { load, place: None }
    }

    /// Returns how the load ended; or `None` if the task is polled from inside the loader, which
    /// would wait for itself.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<End<V, E>>> {
        if self.load.is_inside() {
            return Poll::Ready(None);
        }
        // Cloned before the lock is taken, and what is left of it dropped after the lock is free.
        let mut waker = Some(context.waker().clone());
        let mut state = self.load.state();
        if let Some(end) = &state.end {
            return Poll::Ready(Some(end.clone()));
        }
        let place = *self.place.get_or_insert_with(|| {
            state.next_place += 1;
            state.next_place
        });
        waker = waker.and_then(|waker| state.wakers.insert(place, waker));
        drop(state);
        drop(waker);
        Poll::Pending
    }
}

impl<V, E> Drop for Waiter<V, E> {
    fn drop(&mut self) {
        let waker = self.place.and_then(|place| self.load.state().wakers.remove(&place));
        // The lock is free here.
        drop(waker);
    }
}
