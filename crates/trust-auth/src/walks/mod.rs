//! [`Walks`]: requests that the cache cannot answer share walks over all candidates. It must never let a
//! request join a walk that is already reading, never run two walks at once, and never leave a
//! request waiting for a walk that nobody runs.
//!
//! # What is shared
//!
//! A request that misses *joins* the next walk and waits. One *walker*, a task of its own, runs one
//! walk after the other for as long as anybody waits:
//!
//! ```text
//! request:  lease = cache.lease(hash); join ─────────── wait ────────────▶ row = fetch(id); lease.remember(id)
//! walker:                                 begin ─▶ candidates() ─▶ compare ─▶ answer ─▶ begin …
//! ```
//!
//! `begin` takes everybody who waits off the queue, and then calls [`TrustStore::candidates`].
//! Joining and beginning are under one lock, so each request is in exactly one walk, and knows of
//! it nothing but the answer.
//!
//! # Why that is as good as a walk of one's own
//!
//! * **No registration is missed.** A request is in a walk only if it joined before that walk
//!   began, and the walk's read is called after that. Whatever was committed before the request
//!   began was committed before the read, which is live and sees it. A walk that has begun is
//!   closed: its read may be older than the commit. That is why a request waits for the rest of one
//!   walk and the whole of the next, and never less.
//! * **No revocation is missed (G1, G2).** The lease is taken by the request before it joins, so
//!   before `begin`, so before the walk's read: it is older than every read that its value rests
//!   on. A revocation whose commit the walk, or the fetch after it, did not see is announced after
//!   those reads, hence after the lease, and supersedes it. The lease stays with the request: it is
//!   dropped with it, and each key has its own. The price of taking it before the wait is that an
//!   entry expires earlier by the length of the wait (G3 counts from the lease), and that an
//!   invalidation during the wait supersedes it too, which costs that key one walk more.
//! * **The walk never grants (G9).** Its answer is an id, a hint as good as the cache's. The
//!   request fetches that row, after its own beginning, and is granted only if the row accepts the
//!   key. Only then does it remember. The requests fetch side by side, and the next walk does not
//!   wait for them.
//! * **Failures are everybody's (G9).** If the read fails, each member of that walk gets the error,
//!   and nobody an id, so that nothing is granted or remembered. The next walk starts afresh.
//!
//! # Constant time (G8)
//!
//! The work of a walk depends on how many requests joined and how many rows there are: every
//! member's digest is compared with every row. Two members with one digest are compared twice. To
//! find such pairs would need a compare among strangers' digests whose duration told one client
//! what another presents, and it would save next to nothing: the bound on the queue is the bound on
//! the repetition.
//!
//! # Bounds
//!
//! No more than one walk is in flight. No more than `limit` requests wait for the next one, and as
//! many may be in the one under way; a request over the limit is refused at once, and leaves
//! nothing behind. A request that goes away gives its place back at once, and is not even compared
//! if its walk has not begun. In a time t at most `t / (duration of a walk) + 1` walks begin,
//! whatever anybody sends.
//!
//! Hits take no part in any of this: not in the lock, which only joining, leaving and beginning
//! hold, for some instructions each, and not in a connection of the store, of which a walk takes
//! one.
//!
//! # Ends out of turn
//!
//! The walker belongs to no request, so none that is dropped ends it. If it is dropped itself,
//! because the store panicked or its runtime is shut down, whoever was in its walk or on the queue
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
use crate::reject_floor::RejectFloor;
use crate::stats::Counters;
use crate::{AuthError, StoreError, TrustStore};

/// How many members of a walk are answered before others have a turn. Each becomes runnable at
/// once, and a request that hits should not have to wait for all of them.
const ANSWERS_AT_A_TIME: usize = 32;

/// What a walk says of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The row that had the key when the walk read it.
    pub(crate) id: Option<Uuid>,
    /// How many rows the key was compared with.
    pub(crate) rows: usize,
}

type Answer = Result<Found, StoreError>;

/// The walks over one store, and the queue for them.
pub(crate) struct Walks<S> {
    store: Arc<S>,
    counters: Arc<Counters>,
    queue: Queue<Answer>,
    floor_check: FloorCheck,
}

impl<S: TrustStore> Walks<S> {
    /// `floor` is what should be longer than anybody waits for these walks.
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

    /// Joins the next walk, and waits for what it says of this key. A lease that is to remember it
    /// must have been taken before.
    pub(crate) async fn ask(self: &Arc<Self>, hash: &KeyHash) -> Result<Found, AuthError> {
        let runtime = Handle::try_current()
            .map_err(|error| AuthError::Unavailable(StoreError::Other(error.into())))?;
        let (answer, answered) = oneshot::channel();
        let joined =
            self.queue.join(Waiter { hash: *hash, answer }).ok_or(AuthError::Overloaded)?;
        let _waiting = self.counters.waiting();
        if joined.first {
            runtime.spawn(Walker { walks: Arc::clone(self), retired: false }.run());
        }
        match answered.await {
            Ok(answer) => answer.map_err(AuthError::Unavailable),
            Err(_) => Err(AuthError::Unavailable(StoreError::Other(
                "the walk over the trusts was given up: the store panicked, or the runtime is shutting down"
                    .into(),
            ))),
        }
    }
}

/// The right to walk, of which there is one while anybody waits.
struct Walker<S> {
    walks: Arc<Walks<S>>,
    retired: bool,
}

impl<S: TrustStore> Walker<S> {
    async fn run(mut self) {
        self.walk_for_all_who_wait().await;
    }

    /// Returns once no request waits. The walker has given up the right to walk by then.
    async fn walk_for_all_who_wait(&mut self) {
        while let Some(members) = self.walks.queue.begin() {
            self.walk(members).await;
            // A store in memory never waits, and the executor has others to serve. But the right to
            // walk is not kept in a task that nobody may come to poll: a request's
            // runtime may stand still once the request has its answer.
            if self.walks.queue.is_waited_for() {
                yield_now().await;
            }
        }
        // The queue was empty, and `begin` took the right to walk back: somebody else may have it
        // by now.
        self.retired = true;
    }

    async fn walk(&self, members: Vec<Waiter<Answer>>) {
        let (hashes, answers): (Vec<KeyHash>, Vec<_>) =
            members.into_iter().map(|member| (member.hash, member.answer)).unzip();
        let seen = self.look_for(&hashes).await;
        let mut answers = answers.into_iter().enumerate();
        while let Some((at, answer)) = answers.next() {
            let said = match &seen {
                Ok(seen) => Ok(Found { id: seen.ids[at], rows: seen.rows }),
                Err(error) => Err(error.clone()),
            };
            // Whoever has gone away needs no answer.
            let _ = answer.send(said);
            if at % ANSWERS_AT_A_TIME == ANSWERS_AT_A_TIME - 1 && answers.len() > 0 {
                yield_now().await;
            }
        }
    }

    /// The walk itself. Its members are fixed: only therefore may the read begin.
    async fn look_for(&self, hashes: &[KeyHash]) -> Result<Seen, StoreError> {
        let begun = Instant::now();
        let candidates = self.walks.store.candidates().await?;
        self.walks.floor_check.saw(begun.elapsed(), candidates.len());
        let found = compare(hashes, candidates.hashes()).await;
        self.walks.counters.sweep(candidates.len());
        let ids = found.into_iter().map(|index| candidates.id(index?)).collect();
        Ok(Seen { ids, rows: candidates.len() })
    }
}

impl<S> Drop for Walker<S> {
    fn drop(&mut self) {
        if !self.retired {
            self.walks.queue.give_up();
        }
    }
}

/// What a walk has found, in the order of its members.
struct Seen {
    ids: Vec<Option<Uuid>>,
    rows: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::MemoryStore;

    /// Another walker may have begun between this one's last look at the queue and its end.
    #[tokio::test]
    async fn a_walker_that_has_retired_leaves_the_next_ones_queue_alone() {
        let walks = Arc::new(Walks::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            1,
            RejectFloor::new(Duration::ZERO),
        ));
        let mut walker = Walker { walks: Arc::clone(&walks), retired: false };
        walker.walk_for_all_who_wait().await;
        let (answer, mut answered) = oneshot::channel();
        let joined = walks.queue.join(Waiter { hash: KeyHash::of("key"), answer }).unwrap();
        assert!(joined.first, "the right to walk was given up");
        drop(walker);
        assert!(walks.queue.is_waited_for(), "the request was sent away");
        assert!(matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }

    #[tokio::test]
    async fn others_have_a_turn_after_some_answers_and_not_after_the_last() {
        let walks = Walks::new(
            Arc::new(MemoryStore::new()),
            Arc::new(Counters::default()),
            usize::MAX,
            RejectFloor::new(Duration::ZERO),
        );
        let walker = Walker { walks: Arc::new(walks), retired: true };
        for (members, expected) in
            [(1, 0), (ANSWERS_AT_A_TIME, 0), (ANSWERS_AT_A_TIME + 1, 1), (3 * ANSWERS_AT_A_TIME, 2)]
        {
            let waiter = || Waiter { hash: KeyHash::of("key"), answer: oneshot::channel().0 };
            let mut turns = 0;
            tokio::select! {
                biased;
                () = walker.walk(std::iter::repeat_with(waiter).take(members).collect()) => {}
                () = async { loop { turns += 1; yield_now().await } } => {}
            }
            assert_eq!(turns, expected, "{members} members");
        }
    }
}
