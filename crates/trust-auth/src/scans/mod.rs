//! [`Scans`]: lets requests that the cache cannot answer share scans of all candidates.
//!
//! A request never joins a scan that is already reading. Two scans never run at once. No request
//! waits for a scan that no task runs.
//!
//! # What is shared
//!
//! A request that misses *joins* the next scan and waits. One *scanner*, a task of its own, runs
//! one scan after the other while any request waits:
//!
//! ```text
//! request:  lease = cache.lease(hash); join ─── wait ───▶ row = fetch(id); lease.remember(id)
//! scanner:                                begin ─▶ candidates() ─▶ compare ─▶ answer ─▶ begin …
//! ```
//!
//! `begin` takes all waiting requests off the queue, and then calls [`TrustStore::candidates`].
//! Joining and beginning hold one lock, so each request is in exactly one scan. The answer is all
//! that a request learns of its scan.
//!
//! # Why a shared scan is as good as a scan of one's own
//!
//! * **It misses no registration.** A request is in a scan only if it joined before the scan began,
//!   and the scan's read starts after that. A change that was committed before the request began
//!   was committed before the read, which is live and sees it. A scan that has begun takes no more
//!   requests, because its read may be older than the commit. So a request waits for the rest of
//!   one scan and the whole of the next.
//! * **It misses no revocation (G1, G2).** The request takes its lease before it joins, so before
//!   `begin`, so before the scan's read. The lease is older than every read that its value depends
//!   on. A revocation whose commit the scan or the later fetch did not see is announced after those
//!   reads, hence after the lease, and supersedes it. The lease belongs to the request and is
//!   dropped with it, and each key has a lease of its own. A lease before the wait has two costs.
//!   The entry expires earlier by the length of the wait (G3 counts from the lease). An
//!   invalidation during the wait supersedes the lease, which costs that key one more scan.
//! * **It never grants (G9).** Its answer is an id, a hint as good as the cache's. The request
//!   fetches that row after its own beginning, and is granted only if the row accepts the key. Only
//!   then does the request remember the id. Requests fetch concurrently, and the next scan does not
//!   wait for them.
//! * **All members share its failure (G9).** If the read fails, each member of the scan receives
//!   the error. No member receives an id, so nothing is granted or remembered. The next scan starts
//!   from the beginning.
//!
//! # Constant time (G8)
//!
//! The work of a scan depends on the number of members and of rows: every digest of every member is
//! compared with every row. All members have the same number of digests, one unless a pepper is
//! being rotated. Two members with one digest are compared twice. Finding such pairs
//! would need a comparison among digests of different clients, whose duration would reveal to one
//! client what another presents. It would save little: the bound on the queue bounds the
//! repetition.
//!
//! # Bounds
//!
//! At most one scan is in flight. At most `limit` requests wait for the next scan, and as many may
//! be in the one under way. A request over the limit is refused at once, and leaves nothing behind.
//! A request that is cancelled frees its place at once, and is not compared if its scan has not
//! begun. In a time t at most `t / (duration of a scan) + 1` scans begin, independent of the
//! clients.
//!
//! Hits take no part in any of this. They never take the lock, which joining, leaving and beginning
//! hold for some instructions each. A scan takes one connection of the store, and leaves the others
//! to hits.
//!
//! # Ends out of turn
//!
//! The scanner belongs to no request, so a dropped request does not end it. The scanner itself is
//! dropped if the store panics or its runtime is shut down. Then all requests in its scan and on
//! the queue are refused. The next request that misses starts a new scanner on its own runtime.

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

pub(crate) use self::compare::compare;
use self::floor_check::FloorCheck;
use self::queue::{Queue, Waiter};
use crate::error::{AuthError, StoreError};
use crate::reject_floor::RejectFloor;
use crate::stats::Counters;
use crate::store::TrustStore;

/// How many members of a scan are answered before other tasks run. Each answered request becomes
/// runnable at once, and a request that hits should not wait for all of them.
const ANSWERS_AT_A_TIME: usize = 32;

/// The answer of a scan for one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The first of the key's digests that a row had when the scan read it, by its place, and that
    /// row.
    pub(crate) row: Option<(usize, Uuid)>,
    /// How many rows the key was compared with.
    pub(crate) rows: usize,
}

type Answer = Result<Found, StoreError>;

/// The scans of one store, and the queue for them.
pub(crate) struct Scans<S> {
    store: Arc<S>,
    counters: Arc<Counters>,
    queue: Queue<Answer>,
    floor_check: FloorCheck,
}

impl<S: TrustStore> Scans<S> {
    /// Returns the scans of this store, for at most `limit` waiting requests, each with so many
    /// digests. `floor` should be longer than any request waits.
    pub(crate) fn new(
        store: Arc<S>,
        counters: Arc<Counters>,
        limit: usize,
        floor: RejectFloor,
        digests: usize,
    ) -> Self {
        Self {
            store,
            counters,
            queue: Queue::new(limit),
            floor_check: FloorCheck::new(floor, limit, digests),
        }
    }

    /// Joins the next scan, and returns its answer for the key with these digests. The lease that
    /// is to remember the answer must have been taken before.
    pub(crate) async fn find(self: &Arc<Self>, hashes: &[KeyHash]) -> Result<Found, AuthError> {
        let runtime = Handle::try_current()
            .map_err(|error| AuthError::Unavailable(StoreError::Other(error.into())))?;
        let (answer, answered) = oneshot::channel();
        let joined = self
            .queue
            .join(Waiter { hashes: hashes.into(), answer })
            .ok_or(AuthError::Overloaded)?;
        let _waiting = self.counters.waiting();
        if joined.starts_scanner {
            runtime.spawn(Scanner { scans: Arc::clone(self), retired: false }.run());
        }
        match answered.await {
            Ok(answer) => answer.map_err(AuthError::Unavailable),
            Err(_) => Err(AuthError::Unavailable(StoreError::Other(
                "the scan of the trusts was abandoned: the store panicked, or the runtime is \
                 shutting down"
                    .into(),
            ))),
        }
    }
}

/// The right to scan. There is one scanner while any request waits.
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
            // A store in memory never waits, and the executor has other tasks to run. But a task
            // that may never be polled again must not keep the right to scan: a request's runtime
            // may stop once the request has its answer.
            if self.scans.queue.has_waiters() {
                yield_now().await;
            }
        }
        // The queue was empty, and `begin` took the right to scan back. Another scanner may have
        // it by now.
        self.retired = true;
    }

    async fn scan(&self, members: Vec<Waiter<Answer>>) {
        let hashes: Vec<KeyHash> =
            members.iter().flat_map(|member| &member.hashes).copied().collect();
        let mut scanned = self.read_and_sweep(&hashes).await.map(|scanned| {
            // The digests of one member are next to each other.
            (scanned.ids.into_iter(), scanned.rows)
        });
        let mut members = members.into_iter().enumerate();
        while let Some((at, member)) = members.next() {
            let found = match &mut scanned {
                Ok((ids, rows)) => {
                    // Takes all of the member's results, whichever matched.
                    let own = ids.by_ref().take(member.hashes.len()).enumerate();
                    let row = own.fold(None, |row, (at, id)| row.or(id.map(|id| (at, id))));
                    Ok(Found { row, rows: *rows })
                }
                Err(error) => Err(error.clone()),
            };
            // A cancelled request needs no answer.
            let _ = member.answer.send(found);
            if at % ANSWERS_AT_A_TIME == ANSWERS_AT_A_TIME - 1 && members.len() > 0 {
                yield_now().await;
            }
        }
    }

    /// Reads all candidates and compares them. The members are fixed by now: the read must begin
    /// after the last of them has joined.
    async fn read_and_sweep(&self, hashes: &[KeyHash]) -> Result<Scanned, StoreError> {
        let begun = Instant::now();
        let candidates = self.scans.store.candidates().await?;
        self.scans.floor_check.record_scan(begun.elapsed(), candidates.len());
        let found = compare(hashes, candidates.hashes()).await;
        self.scans.counters.record_scan(candidates.len());
        let ids = found.into_iter().map(|index| candidates.id(index?)).collect();
        Ok(Scanned { ids, rows: candidates.len() })
    }
}

impl<S> Drop for Scanner<S> {
    fn drop(&mut self) {
        if !self.retired {
            self.scans.queue.abandon();
        }
    }
}

/// What a scan has found, in the order of its members' digests.
struct Scanned {
    ids: Vec<Option<Uuid>>,
    rows: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::MemoryStore;

    /// Another scanner may have begun between the last check of the queue and the end of this one.
    #[tokio::test]
    async fn a_retired_scanner_leaves_the_queue_of_its_successor_alone() {
        let scans = Arc::new(Scans::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            1,
            RejectFloor::new(Duration::ZERO),
            1,
        ));
        let mut scanner = Scanner { scans: Arc::clone(&scans), retired: false };
        scanner.scan_while_requests_wait().await;
        let (answer, mut answered) = oneshot::channel();
        let joined = scans.queue.join(Waiter { hashes: vec![KeyHash::of("key")], answer }).unwrap();
        assert!(joined.starts_scanner, "the right to scan was given up");
        drop(scanner);
        assert!(scans.queue.has_waiters(), "the request was refused");
        assert!(matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }

    #[tokio::test]
    async fn other_tasks_run_after_some_answers_and_not_after_the_last() {
        let scans = Scans::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            usize::MAX,
            RejectFloor::new(Duration::ZERO),
            1,
        );
        let scanner = Scanner { scans: Arc::new(scans), retired: true };
        for (members, expected) in
            [(1, 0), (ANSWERS_AT_A_TIME, 0), (ANSWERS_AT_A_TIME + 1, 1), (3 * ANSWERS_AT_A_TIME, 2)]
        {
            let waiter =
                || Waiter { hashes: vec![KeyHash::of("key")], answer: oneshot::channel().0 };
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
