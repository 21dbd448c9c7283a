//! Shared loads: [`KeyCache::get_or_try_load`] and [`KeyCache::get_or_try_load_async`].
//!
//! Callers that miss one key share one load, if no invalidation came between them. The lemmas S1 to
//! S15 of `docs/guarantees.md` prove that a caller which begins after an invalidation receives no
//! value that was read before it.

mod load;
mod table;

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;

use super::cache::KeyCache;
use super::lease::{Lease, Terms};
use super::reclaim;
use crate::clock::Clock;
use crate::key_hash::KeyHash;
use load::{Answer, End, Form, Load, Waiter};
use table::Found;

pub(super) use table::Table;

impl<V: Clone + Send + Sync + 'static, C: Clock> KeyCache<V, C> {
    /// Returns the value remembered for `hash`, or else the answer of `load`, which callers that
    /// miss the same key share.
    ///
    /// A hit is a [`lookup`](Self::lookup). On a miss, the first caller takes a lease, calls `load`
    /// and remembers `Ok(Some(value))`, as [`Lease::remember`] does. Callers that miss the key
    /// meanwhile wait, and receive a clone of the answer. `Ok(None)`, for a key that does not
    /// exist, and `Err` are remembered nowhere. `load` runs at most once, after the lease was
    /// taken.
    ///
    /// # Which load is shared
    ///
    /// * A call that begins after [`invalidate`](Self::invalidate) or
    ///   [`invalidate_key`](Self::invalidate_key) has returned receives nothing that was read
    ///   before (G1, G2). A load is shared only if no invalidation came between its lease and the
    ///   call.
    /// * While the time of [`invalidate_for`](Self::invalidate_for) or
    ///   [`invalidate_key_for`](Self::invalidate_key_for) lasts, no load of the key is shared: each
    ///   caller loads by itself.
    /// * A call may otherwise receive what was read before the call began. Invalidate a key after
    ///   it was *added*, too, if it must be accepted at once.
    /// * A load that is older than the time-to-live is not shared, nor is an answer that comes
    ///   later (G3): the callers that wait begin again, once, and share the next load. An error is
    ///   shared at any age.
    /// * The time of [`entry_ttl`](crate::Builder::entry_ttl) counts from the lease, also for a
    ///   caller that waits. If the function returns the time *left*, a caller that asks it later
    ///   may take the answer for too old, and then loads once more.
    /// * A caller with another type `E` loads by itself.
    ///
    /// # What waits
    ///
    /// This form waits for loads of its own form on other threads. It never waits for a load of
    /// [`get_or_try_load_async`](Self::get_or_try_load_async), which may need this very thread: it
    /// loads by itself. So does a call from inside the `load` of the same key.
    ///
    /// `load` must not need a thread that may call for the same key: such calls wait for each other
    /// forever. An executor of one thread is an example, if `load` waits for its tasks or for its
    /// I/O, and another of its tasks calls this function. So are two keys whose `load`s call for
    /// each other. The rule includes what runs while the answer is stored: the function of
    /// [`entry_ttl`](crate::Builder::entry_ttl), `V::clone`, and the destructors of values.
    ///
    /// # Errors
    ///
    /// The error of `load`, or a clone of it. Wrap an error that is not `Clone`:
    /// `.map_err(Arc::new)`.
    ///
    /// # Panics
    ///
    /// If `load` panics. The panic unwinds through the call that runs this `load`. All callers that
    /// wait are woken, and one of them runs its own `load`. A panic of `V::clone`, `E::clone` or
    /// the function of `entry_ttl` does the same; in a caller that waits, it unwinds through that
    /// call alone.
    ///
    /// If another task's waker panics, all tasks are woken nevertheless, and the value is stored.
    /// Then the first such panic unwinds through the call that wakes the tasks. If the thread
    /// already unwinds from another panic, the wakers' panics are discarded: a second panic would
    /// abort the process.
    ///
    /// # Progress
    ///
    /// A hit is wait-free, and allocates nothing. A miss takes a lock, of which a cache has one,
    /// for a few instructions: under the lock runs no code of the caller. While `load` runs, the
    /// lock is free. Nothing else of the cache takes the lock, so no load delays an invalidation or
    /// a lookup. The loads under way take some 200 bytes each.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use trust_key_cache::{KeyCache, KeyHash};
    ///
    /// # struct Database;
    /// # impl Database {
    /// #     fn user_of(&self, _: &KeyHash) -> Result<Option<u64>, std::io::Error> { Ok(Some(7)) }
    /// # }
    /// fn user_of(
    ///     cache: &KeyCache<u64>,
    ///     database: &Database,
    ///     api_key: &str,
    /// ) -> Result<Option<u64>, Arc<std::io::Error>> {
    ///     let hash = KeyHash::of(api_key);
    ///     cache.get_or_try_load(&hash, || database.user_of(&hash).map_err(Arc::new))
    /// }
    ///
    /// let cache = KeyCache::new();
    /// assert_eq!(user_of(&cache, &Database, "key").unwrap(), Some(7));
    /// assert_eq!(cache.lookup(&KeyHash::of("key")), Some(7));
    /// ```
    #[inline]
    pub fn get_or_try_load<E>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> Result<Option<V>, E>,
    ) -> Result<Option<V>, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let mut found = None;
        self.lookup_with(hash, |value| found = Some(value.clone()));
        match found {
            Some(value) => Ok(Some(value)),
            None => self.load_on_this_thread(hash, load),
        }
    }

    /// Returns the value remembered for `hash`, or else the answer of the future that `load`
    /// returns, which callers that miss the same key share.
    ///
    /// The contract is that of [`get_or_try_load`](Self::get_or_try_load), and the two share loads.
    /// The call begins when the future is first polled. `load` is called after the lease was taken:
    /// start the read in the future that `load` returns, not before the call.
    ///
    /// No runtime is named: the future works in any executor. It is `Send` if `V`, `E`, `load` and
    /// its future are.
    ///
    /// # What waits
    ///
    /// This form waits for loads of both forms: another thread runs a blocking `load`. A call from
    /// inside the `load` of the same key loads by itself, as long as the same task makes it. A
    /// `load` that waits for *another* task which calls for the same key waits forever.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time, and leaves nothing behind. If its `load` was running,
    /// all callers that wait are woken: the first that is polled runs its own `load`, and the
    /// others wait for that one.
    ///
    /// A `load` that is not polled makes the others wait, and so does a future that is leaked
    /// (`mem::forget`): they wait even after the time-to-live. A task on a single-threaded runtime
    /// is not polled outside of `block_on`. Do not hold the future without polling it; bound the
    /// read by a time-out inside of `load`.
    ///
    /// # Panics
    ///
    /// If `load` or its future panics, as [`get_or_try_load`](Self::get_or_try_load) describes.
    ///
    /// # Progress
    ///
    /// A hit is wait-free, allocates nothing, and is ready at the first poll. A miss allocates its
    /// future, and takes the lock of [`get_or_try_load`](Self::get_or_try_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_key_cache::{KeyCache, KeyHash};
    ///
    /// # #[derive(Clone, Debug)]
    /// # struct DatabaseError;
    /// # struct Database;
    /// # impl Database {
    /// #     async fn user_of(&self, _: &KeyHash) -> Result<Option<u64>, DatabaseError> {
    /// #         Ok(Some(7))
    /// #     }
    /// # }
    /// async fn user_of(
    ///     cache: &KeyCache<u64>,
    ///     database: &Database,
    ///     api_key: &str,
    /// ) -> Result<Option<u64>, DatabaseError> {
    ///     let hash = KeyHash::of(api_key);
    ///     cache.get_or_try_load_async(&hash, || database.user_of(&hash)).await
    /// }
    ///
    /// # let cache = KeyCache::new();
    /// # let future = std::pin::pin!(user_of(&cache, &Database, "key"));
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let std::task::Poll::Ready(found) = std::future::Future::poll(future, &mut context) else {
    /// #     panic!("nothing to wait for")
    /// # };
    /// # assert_eq!(found.unwrap(), Some(7));
    /// assert_eq!(cache.lookup(&KeyHash::of("key")), Some(7));
    /// ```
    #[inline]
    pub async fn get_or_try_load_async<E, Fut>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> Fut,
    ) -> Result<Option<V>, E>
    where
        E: Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<V>, E>>,
    {
        let mut found = None;
        self.lookup_with(hash, |value| found = Some(value.clone()));
        match found {
            Some(value) => Ok(Some(value)),
            None => self.box_load_in_this_task(hash, load).await,
        }
    }

    #[cold]
    #[inline(never)]
    fn load_on_this_thread<E>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> Answer<V, E>,
    ) -> Answer<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        // Whether an answer came too late. After a second one, the caller loads by itself.
        let mut late = false;
        loop {
            match self.lead_or_join::<E>(hash, Form::Blocking) {
                Role::Leader(leader, lease) => {
                    // Stored by an earlier leader since this caller has missed.
                    if let Some(value) = self.lookup(hash) {
                        return Ok(Some(value));
                    }
                    let answer = {
                        let _inside = leader.load.enter();
                        load()
                    };
                    return leader.finish(lease, answer);
                }
                // A task's load may need this very thread. A load of this thread waits for this
                // call.
                Role::Waiter(other) if other.form() == Form::Blocking && !other.is_inside() => {
                    match other.wait() {
                        End::Answered(answer) if self.may_share(&other, &answer) => {
                            return Answer::clone(&answer);
                        }
                        End::Answered(_) if late => break,
                        End::Answered(_) => late = true,
                        End::Abandoned => {}
                    }
                }
                Role::Waiter(_) | Role::Alone => break,
            }
            if let Some(value) = self.lookup(hash) {
                return Ok(Some(value));
            }
        }
        let lease = self.lease(hash);
        let answer = load();
        remember(lease, &answer);
        answer
    }

    /// Boxes the future of a miss: then that of a hit is small.
    #[cold]
    #[inline(never)]
    fn box_load_in_this_task<'a, E, Fut, L>(
        &'a self,
        hash: &'a KeyHash,
        load: L,
    ) -> Pin<Box<impl Future<Output = Answer<V, E>> + use<'a, V, C, E, Fut, L>>>
    where
        E: Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<V, E>>,
        L: FnOnce() -> Fut,
    {
        Box::pin(self.load_in_this_task(hash, load))
    }

    async fn load_in_this_task<E, Fut>(
        &self,
        hash: &KeyHash,
        load: impl FnOnce() -> Fut,
    ) -> Answer<V, E>
    where
        E: Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<V, E>>,
    {
        // Whether an answer came too late. After a second one, the caller loads by itself.
        let mut late = false;
        loop {
            match self.lead_or_join::<E>(hash, Form::Async) {
                Role::Leader(leader, lease) => {
                    // Stored by an earlier leader since this caller has missed.
                    if let Some(value) = self.lookup(hash) {
                        return Ok(Some(value));
                    }
                    // The loader's future is dropped before the load ends, or is abandoned.
                    let answer = {
                        let future = {
                            let _inside = leader.load.enter();
                            load()
                        };
                        let future = pin!(Some(future));
                        Loading { load: &leader.load, future }.await
                    };
                    return leader.finish(lease, answer);
                }
                Role::Waiter(other) => {
                    let mut waiter = Waiter::new(Arc::clone(&other));
                    match poll_fn(|context| waiter.poll(context)).await {
                        Some(End::Answered(answer)) if self.may_share(&other, &answer) => {
                            return Answer::clone(&answer);
                        }
                        Some(End::Answered(_)) if !late => late = true,
                        Some(End::Abandoned) => {}
                        // Answered too late twice, or called by the very loader.
                        Some(End::Answered(_)) | None => break,
                    }
                }
                Role::Alone => break,
            }
            if let Some(value) = self.lookup(hash) {
                return Ok(Some(value));
            }
        }
        let lease = self.lease(hash);
        let answer = load().await;
        remember(lease, &answer);
        answer
    }

    /// Decides under the table's lock what a caller that has missed `hash` does.
    fn lead_or_join<E>(&self, hash: &KeyHash, form: Form) -> Role<'_, V, C, E>
    where
        E: Send + Sync + 'static,
    {
        // The clock is read before the lock is taken, since it may be the user's. The wait for the
        // lock counts against the value.
        let taken_at = self.now();
        let expires_at = self.expires_at(taken_at, Duration::MAX, Duration::MAX);
        let found = {
            // A pin of crossbeam-epoch may run what other crates have deferred, and a nested pin
            // does not: so nothing foreign runs under the lock.
            let _pinned = reclaim::pin();
            self.loads.find_or_enter(
                hash,
                taken_at,
                expires_at,
                || self.stamp(hash, taken_at),
                || Load::<V, E>::new(taken_at, form),
            )
        };
        match found {
            Found::Closed => Role::Alone,
            Found::Load(load) => match load.downcast() {
                Ok(load) => Role::Waiter(load),
                Err(_) => Role::Alone,
            },
            Found::Entered { load, stamp, replaced } => {
                let leader = Leader { table: &self.loads, hash: *hash, load, ended: false };
                // After the leader was made: should a destructor panic, the load is abandoned.
                drop(replaced);
                let lease = Lease { cache: self, terms: Terms { hash: *hash, taken_at, stamp } };
                Role::Leader(leader, lease)
            }
        }
    }

    /// Returns whether a waiter may take this answer: an error at any time, and what was read only
    /// for as long as a lookup would return it (S7).
    fn may_share<E>(&self, load: &Load<V, E>, answer: &Answer<V, E>) -> bool {
        let own = match answer {
            Ok(Some(value)) => self.own_ttl(value),
            Ok(None) => Duration::MAX,
            Err(_) => return true,
        };
        self.now() < self.expires_at(load.taken_at(), Duration::MAX, own)
    }
}

/// The future of a loader. Runs and drops it with the mark of [`Load::enter`]: its destructor, too,
/// may call for the key.
struct Loading<'a, V, E, Fut> {
    load: &'a Load<V, E>,
    /// `None` only once it was dropped.
    future: Pin<&'a mut Option<Fut>>,
}

impl<V, E, Fut: Future> Future for Loading<'_, V, E, Fut> {
    type Output = Fut::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fut::Output> {
        let _inside = self.load.enter();
        match self.future.as_mut().as_pin_mut() {
            Some(future) => future.poll(context),
            None => Poll::Pending,
        }
    }
}

impl<V, E, Fut> Drop for Loading<'_, V, E, Fut> {
    fn drop(&mut self) {
        let _inside = self.load.enter();
        self.future.set(None);
    }
}

/// What a caller is to the load of its key.
enum Role<'a, V, C, E> {
    Leader(Leader<'a, V, E>, Lease<'a, V, C>),
    Waiter(Arc<Load<V, E>>),
    /// The load under way has another type of error, or the key is closed.
    Alone,
}

/// The caller whose loader runs. Dropped before it has [finished](Self::finish), it abandons the
/// load.
struct Leader<'a, V, E> {
    table: &'a Table,
    hash: KeyHash,
    load: Arc<Load<V, E>>,
    ended: bool,
}

impl<V: Clone + Send + Sync + 'static, E: Clone> Leader<'_, V, E> {
    /// Stores the answer under the lease, and shares it with the callers that wait.
    fn finish<C: Clock>(mut self, lease: Lease<'_, V, C>, answer: Answer<V, E>) -> Answer<V, E> {
        {
            // `entry_ttl`, `V::clone` and the destructors of replaced values may call for the key,
            // and find this load until it is removed.
            let _inside = self.load.enter();
            remember(lease, &answer);
            // Removed after the value was stored: a caller that misses the load finds the value.
            self.table.remove(&self.hash, &self.load);
        }
        // No caller can join any more. So no caller waits if this reference is the only one, and
        // the answer need not be cloned.
        let shared = (Arc::strong_count(&self.load) > 1).then(|| Arc::new(answer.clone()));
        self.ended = true;
        if let Some(shared) = shared {
            self.load.end(End::Answered(shared));
        }
        answer
    }
}

impl<V, E> Drop for Leader<'_, V, E> {
    fn drop(&mut self) {
        if !self.ended {
            // Removed before the waiters are woken: they would join the load again.
            self.table.remove(&self.hash, &self.load);
            self.load.end(End::Abandoned);
        }
    }
}

fn remember<V, C, E>(lease: Lease<'_, V, C>, answer: &Answer<V, E>)
where
    V: Clone + Send + Sync + 'static,
    C: Clock,
{
    if let Ok(Some(value)) = answer {
        lease.remember(value.clone());
    }
}
