//! [`Scans`]: requests that the cache cannot answer share scans over all candidates. It must never let a
//! request join a scan that is already reading, never run two scans at once, and never leave a
//! request waiting for a scan that nobody runs.
//!
//! # What is shared
//!
//! A request that misses *joins* the next scan and waits. One *scanner*, a task of its own, runs one
//! scan after the other for as long as anybody waits:
//!
//! ```text
//! request:  lease = cache.lease(hash); join ─────────── wait ────────────▶ row = fetch(id); lease.remember(id)
//! scanner:                                 begin ─▶ candidates() ─▶ compare ─▶ answer ─▶ begin …
//! ```
//!
//! `begin` takes everybody who waits off the queue, and then calls [`TrustStore::candidates`].
//! Joining and beginning are under one lock, so each request is in exactly one scan, and knows of
//! it nothing but the answer.
//!
//! # Why that is as good as a scan of one's own
//!
//! * **No registration is missed.** A request is in a scan only if it joined before that scan
//!   began, and the scan's read is called after that. Whatever was committed before the request
//!   began was committed before the read, which is live and sees it. A scan that has begun is
//!   closed: its read may be older than the commit. That is why a request waits for the rest of one
//!   scan and the whole of the next, and never less.
//! * **No revocation is missed (G1, G2).** The lease is taken by the request before it joins, so
//!   before `begin`, so before the scan's read: it is older than every read that its value rests
//!   on. A revocation whose commit the scan, or the fetch after it, did not see is announced after
//!   those reads, hence after the lease, and supersedes it. The lease stays with the request: it is
//!   dropped with it, and each key has its own. The price of taking it before the wait is that an
//!   entry expires earlier by the length of the wait (G3 counts from the lease), and that an
//!   invalidation during the wait supersedes it too, which costs that key one scan more.
//! * **The scan never grants (G9).** Its answer is an id, a hint as good as the cache's. The
//!   request fetches that row, after its own beginning, and is granted only if the row accepts the
//!   key. Only then does it remember. The requests fetch side by side, and the next scan does not
//!   wait for them.
//! * **Failures are everybody's (G9).** If the read fails, each member of that scan gets the error,
//!   and nobody an id, so that nothing is granted or remembered. The next scan starts afresh.
//!
//! # Constant time (G8)
//!
//! The work of a scan depends on how many requests joined and how many rows there are: every
//! member's digest is compared with every row. Two members with one digest are compared twice. To
//! find such pairs would need a compare among strangers' digests whose duration told one client
//! what another presents, and it would save next to nothing: the bound on the queue is the bound on
//! the repetition.
//!
//! # Bounds
//!
//! No more than one scan is in flight. No more than `limit` requests wait for the next one, and as
//! many may be in the one under way; a request over the limit is refused at once, and leaves
//! nothing behind. A request that goes away gives its place back at once, and is not even compared
//! if its scan has not begun. In a time t at most `t / (duration of a scan) + 1` scans begin,
//! whatever anybody sends.
//!
//! Hits take no part in any of this: not in the lock, which only joining, leaving and beginning
//! hold, for some instructions each, and not in a connection of the store, of which a scan takes
//! one.
//!
//! # Ends out of turn
//!
//! The scanner belongs to no request, so none that is dropped ends it. If it is dropped itself,
//! because the store panicked or its runtime is shut down, whoever was in its scan or on the queue
//! is told so and refused, and the next request to miss starts a new one, on its own runtime.

mod compare;
mod floor_check;
mod queue;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use self::compare::compare;
use self::floor_check::FloorCheck;
use self::queue::{Queue, Waiter};
use crate::error::{AuthError, StoreError};
use crate::reject_floor::RejectFloor;
use crate::stats::Counters;
use crate::store::TrustStore;

/// How many members of a scan are answered before others have a turn. Each becomes runnable at
/// once, and a request that hits should not have to wait for all of them.
const ANSWERS_AT_A_TIME: usize = 32;

/// What a scan says of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The row that had the key when the scan read it.
    pub(crate) id: Option<Uuid>,
    /// How many rows the key was compared with.
    pub(crate) rows: usize,
}

type Answer = Result<Found, StoreError>;

/// The scans over one store, and the queue for them.
pub(crate) struct Scans<S> {
    store: Arc<S>,
    counters: Arc<Counters>,
    queue: Queue<Answer>,
    floor_check: FloorCheck,
}

impl<S: TrustStore> Scans<S> {
    /// `floor` is what should be longer than anybody waits for these scans.
    pub(crate) fn new(
        store: Arc<S>,
        counters: Arc<Counters>,
        limit: usize,
        floor: RejectFloor,
    ) -> Self {
        Self {
            store,
            counters,
            queue: Queue::new(limit),
            floor_check: FloorCheck::new(floor, limit),
        }
    }

    /// Joins the next scan, and waits for what it says of this key. A lease that is to remember it
    /// must have been taken before.
    pub(crate) async fn find(self: &Arc<Self>, hash: &KeyHash) -> Result<Found, AuthError> {
        let runtime = Handle::try_current()
            .map_err(|error| AuthError::Unavailable(StoreError::Other(error.into())))?;
        let (answer, answered) = oneshot::channel();
        let joined =
            self.queue.join(Waiter { hash: *hash, answer }).ok_or(AuthError::Overloaded)?;
        let _waiting = self.counters.waiting();
        if joined.first {
            runtime.spawn(Scanner { scans: Arc::clone(self), retired: false }.run());
        }
        match answered.await {
            Ok(answer) => answer.map_err(AuthError::Unavailable),
            Err(_) => Err(AuthError::Unavailable(StoreError::Other(
                "the scan over the trusts was given up: the store panicked, or the runtime is shutting down"
                    .into(),
            ))),
        }
    }
}

/// The right to scan, of which there is one while anybody waits.
struct Scanner<S> {
    scans: Arc<Scans<S>>,
    retired: bool,
}

impl<S: TrustStore> Scanner<S> {
    async fn run(mut self) {
        self.scan_while_requests_wait().await;
    }

    /// Returns once no request waits. The scanner has given up the right to scan by then.
    async fn scan_while_requests_wait(&mut self) {
        while let Some(members) = self.scans.queue.begin() {
            self.scan(members).await;
            // A store in memory never waits, and the executor has others to serve. But the right to
            // scan is not kept in a task that nobody may come to poll: a request's
            // runtime may stand still once the request has its answer.
            if self.scans.queue.has_waiters() {
                yield_now().await;
            }
        }
        // The queue was empty, and `begin` took the right to scan back: somebody else may have it
        // by now.
        self.retired = true;
    }

    async fn scan(&self, members: Vec<Waiter<Answer>>) {
        let (hashes, answers): (Vec<KeyHash>, Vec<_>) =
            members.into_iter().map(|member| (member.hash, member.answer)).unzip();
        let seen = self.read_and_sweep(&hashes).await;
        let mut answers = answers.into_iter().enumerate();
        while let Some((at, answer)) = answers.next() {
            let answered_with = match &seen {
                Ok(seen) => Ok(Found { id: seen.ids[at], rows: seen.rows }),
                Err(error) => Err(error.clone()),
            };
            // Whoever has gone away needs no answer.
            let _ = answer.send(answered_with);
            if at % ANSWERS_AT_A_TIME == ANSWERS_AT_A_TIME - 1 && answers.len() > 0 {
                yield_now().await;
            }
        }
    }

    /// The scan itself. Its members are fixed: only therefore may the read begin.
    async fn read_and_sweep(&self, hashes: &[KeyHash]) -> Result<Seen, StoreError> {
        let begun = Instant::now();
        let candidates = self.scans.store.candidates().await?;
        self.scans.floor_check.record_scan(begun.elapsed(), candidates.len());
        let found = compare(hashes, candidates.hashes()).await;
        self.scans.counters.record_scan(candidates.len());
        let ids = found.into_iter().map(|index| candidates.id(index?)).collect();
        Ok(Seen { ids, rows: candidates.len() })
    }
}

impl<S> Drop for Scanner<S> {
    fn drop(&mut self) {
        if !self.retired {
            self.scans.queue.give_up();
        }
    }
}

/// What a scan has found, in the order of its members.
struct Seen {
    ids: Vec<Option<Uuid>>,
    rows: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::MemoryStore;

    /// Another scanner may have begun between this one's last look at the queue and its end.
    #[tokio::test]
    async fn a_retired_scanner_leaves_the_queue_of_its_successor_alone() {
        let scans = Arc::new(Scans::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            1,
            RejectFloor::new(Duration::ZERO),
        ));
        let mut scanner = Scanner { scans: Arc::clone(&scans), retired: false };
        scanner.scan_while_requests_wait().await;
        let (answer, mut answered) = oneshot::channel();
        let joined = scans.queue.join(Waiter { hash: KeyHash::of("key"), answer }).unwrap();
        assert!(joined.first, "the right to scan was given up");
        drop(scanner);
        assert!(scans.queue.has_waiters(), "the request was sent away");
        assert!(matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }

    #[tokio::test]
    async fn others_have_a_turn_after_some_answers_and_not_after_the_last() {
        let scans = Scans::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            usize::MAX,
            RejectFloor::new(Duration::ZERO),
        );
        let scanner = Scanner { scans: Arc::new(scans), retired: true };
        for (members, expected) in
            [(1, 0), (ANSWERS_AT_A_TIME, 0), (ANSWERS_AT_A_TIME + 1, 1), (3 * ANSWERS_AT_A_TIME, 2)]
        {
            let waiter = || Waiter { hash: KeyHash::of("key"), answer: oneshot::channel().0 };
            let mut turns = 0;
            tokio::select! {
                biased;
                () = scanner.scan(std::iter::repeat_with(waiter).take(members).collect()) => {}
                () = async { loop { turns += 1; yield_now().await } } => {}
            }
            assert_eq!(turns, expected, "{members} members");
        }
    }
}
