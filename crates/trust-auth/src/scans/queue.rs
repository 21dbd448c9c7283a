//! [`Queue`]: the requests that wait for the next scan, and whether a scanner will take them.
//!
//! It never holds more than its limit, and keeps no place for a cancelled request.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::oneshot;
use trust_key_cache::KeyHash;

/// A request that waits for a scan.
pub(super) struct Waiter<A> {
    /// The digests of its key, at least one.
    pub(super) hashes: Vec<KeyHash>,
    pub(super) answer: oneshot::Sender<A>,
}

/// The requests that wait for the next scan, at most `limit` of them.
pub(super) struct Queue<A> {
    limit: usize,
    /// Held for some instructions at a time, and never by a request that hits.
    state: Mutex<State<A>>,
}

struct State<A> {
    /// How many scans have begun. The number identifies the scan that requests wait for.
    begun: u64,
    waiting: Slab<Waiter<A>>,
    /// Whether a scanner has the right to scan. It checks the queue before it gives the right up.
    has_scanner: bool,
}

/// A place on the queue. Dropped before the scan begins, it frees the place.
pub(super) struct Joined<'a, A> {
    queue: &'a Queue<A>,
    scan: u64,
    place: usize,
    /// Whether this request received the right to scan, and must start a scanner.
    pub(super) starts_scanner: bool,
}

impl<A> Queue<A> {
    pub(super) fn new(limit: usize) -> Self {
        let state = State { begun: 0, waiting: Slab::new(), has_scanner: false };
        Self { limit, state: Mutex::new(state) }
    }

    /// Takes a place for the next scan. Returns `None` if all are taken.
    pub(super) fn join(&self, waiter: Waiter<A>) -> Option<Joined<'_, A>> {
        let mut state = self.state();
        if state.waiting.len() >= self.limit {
            return None;
        }
        let place = state.waiting.insert(waiter);
        let starts_scanner = !mem::replace(&mut state.has_scanner, true);
        Some(Joined { queue: self, scan: state.begun, place, starts_scanner })
    }

    /// Begins a scan, and returns all waiting requests as its members. Returns `None` if no request
    /// waits: the scanner has given up the right to scan then.
    pub(super) fn begin(&self) -> Option<Vec<Waiter<A>>> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.has_scanner = false;
            return None;
        }
        state.begun += 1;
        // Leaves the slab its memory, which the next requests need.
        Some(state.waiting.drain().collect())
    }

    /// Returns whether any request waits for the next scan.
    pub(super) fn has_waiters(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Refuses all waiting requests, for a scanner that cannot continue.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.begun += 1;
        state.has_scanner = false;
        let abandoned = mem::take(&mut state.waiting);
        // Dropping a waiter wakes its request, which must not find the lock taken.
        drop(state);
        drop(abandoned);
    }

    /// Locks the state. A poisoned lock is usable: no code panics half-way through a change.
    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Drop for Joined<'_, A> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        // If the scan has begun, it took the request along, and the place may be another's.
        let removed =
            if state.begun == self.scan { state.waiting.try_remove(self.place) } else { None };
        drop(state);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This happens when the scanner's runtime is shut down before the scanner first runs.
    #[test]
    fn a_refused_request_frees_no_other_requests_place() {
        let queue = Queue::<()>::new(1);
        let waiter = || Waiter { hashes: vec![KeyHash::of("key")], answer: oneshot::channel().0 };
        let refused = queue.join(waiter()).unwrap();
        assert!(refused.starts_scanner && queue.has_waiters());
        queue.abandon();
        assert!(!queue.has_waiters());
        let waits = queue.join(waiter()).unwrap();
        assert!(waits.starts_scanner, "the right to scan was given up");
        drop(refused);
        assert!(queue.has_waiters());
        drop(waits);
        assert!(!queue.has_waiters());
    }
}
