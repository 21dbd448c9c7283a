//! [`Queue`]: who waits for the next scan, and whether there is a scanner who will come for them. It must never
//! hold more than its limit, and never keep a place for somebody who has gone.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::oneshot;
use trust_key_cache::KeyHash;

/// A request that waits for a scan.
pub(super) struct Waiter<A> {
    pub(super) hash: KeyHash,
    pub(super) answer: oneshot::Sender<A>,
}

/// The requests that wait for the next scan, at most `limit` of them.
pub(super) struct Queue<A> {
    limit: usize,
    /// Held for some instructions at a time, and never by a request that hits.
    state: Mutex<State<A>>,
}

struct State<A> {
    /// How many scans have begun: the name of the one that is waited for.
    begun: u64,
    waiting: Slab<Waiter<A>>,
    /// Somebody has the right to scan, and will look here before giving it back.
    scanner: bool,
}

/// A place on the queue, which is free again when this is dropped before the scan begins.
pub(super) struct Joined<'a, A> {
    queue: &'a Queue<A>,
    scan: u64,
    place: usize,
    /// Whoever joined got the right to scan with it, and must see to a scanner.
    pub(super) first: bool,
}

impl<A> Queue<A> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::new(State { begun: 0, waiting: Slab::new(), scanner: false }) }
    }

    /// Takes a place for the next scan; `None` if all are taken.
    pub(super) fn join(&self, waiter: Waiter<A>) -> Option<Joined<'_, A>> {
        let mut state = self.state();
        if state.waiting.len() >= self.limit {
            return None;
        }
        let place = state.waiting.insert(waiter);
        let first = !mem::replace(&mut state.scanner, true);
        Some(Joined { queue: self, scan: state.begun, place, first })
    }

    /// Begins a scan for all who wait. If nobody does, there is none, and the scanner has given up
    /// the right to scan.
    pub(super) fn begin(&self) -> Option<Vec<Waiter<A>>> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.scanner = false;
            return None;
        }
        state.begun += 1;
        // Leaves the slab its memory, which the next ones will need.
        Some(state.waiting.drain().collect())
    }

    /// Whether anybody waits for the next scan.
    pub(super) fn has_waiters(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Sends everybody away, for a scanner that can go on no more.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.begun += 1;
        state.scanner = false;
        let given_up = mem::take(&mut state.waiting);
        // Each of them wakes somebody, who must not find the lock taken.
        drop(state);
        drop(given_up);
    }

    /// Nothing in here panics half-way, so a poisoned lock says nothing.
    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Drop for Joined<'_, A> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        // Otherwise the scan has taken everybody with it, and the place may be another's.
        let gone =
            if state.begun == self.scan { state.waiting.try_remove(self.place) } else { None };
        drop(state);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when the scanner's runtime is shut down before its first turn.
    #[test]
    fn who_was_sent_away_takes_nobodys_place() {
        let queue = Queue::<()>::new(1);
        let waiter = || Waiter { hash: KeyHash::of("key"), answer: oneshot::channel().0 };
        let sent_away = queue.join(waiter()).unwrap();
        assert!(sent_away.first && queue.has_waiters());
        queue.give_up();
        assert!(!queue.has_waiters());
        let waits = queue.join(waiter()).unwrap();
        assert!(waits.first, "the right to scan was given up");
        drop(sent_away);
        assert!(queue.has_waiters());
        drop(waits);
        assert!(!queue.has_waiters());
    }
}
