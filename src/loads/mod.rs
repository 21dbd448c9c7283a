//! Shared loads: [`KeyCache::get_or_try_load`] and [`KeyCache::get_or_try_load_async`].
//!
//! Callers that miss one key share one load, if no invalidation came between them. The lemmas L1 to
//! L8 of `docs/guarantees.md` say why a caller that starts after an invalidation never gets a value
//! that was read before it.

mod load;
mod table;

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
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
                        End::Answered(_) => break,
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
                        let mut future = pin!(future);
                        poll_fn(|context| {
                            let _inside = leader.load.enter();
                            future.as_mut().poll(context)
                        })
                        .await
                    };
                    return leader.finish(lease, answer);
                }
                Role::Waiter(other) => {
                    let mut waiter = Waiter::new(Arc::clone(&other));
                    match poll_fn(|context| waiter.poll(context)).await {
                        Some(End::Answered(answer)) if self.may_share(&other, &answer) => {
                            return Answer::clone(&answer);
                        }
                        Some(End::Abandoned) => {}
                        // Answered too late, or called by the very loader.
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
                || self.stamp(hash),
                || Load::<V, E>::new(taken_at, form),
            )
        };
        match found {
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

    /// Returns whether a waiter may take this answer: an error at any time, and what was read for as
    /// long as a lookup would return it.
    fn may_share<E>(&self, load: &Load<V, E>, answer: &Answer<V, E>) -> bool {
        let own = match answer {
            Ok(Some(value)) => self.own_ttl(value),
            Ok(None) => Duration::MAX,
            Err(_) => return true,
        };
        self.now() < self.expires_at(load.taken_at(), Duration::MAX, own)
    }
}

/// What a caller is to the load of its key.
enum Role<'a, V, C, E> {
    Leader(Leader<'a, V, E>, Lease<'a, V, C>),
    Waiter(Arc<Load<V, E>>),
    /// The load under way has another type of error.
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
        remember(lease, &answer);
        // Removed after the value was stored: a caller that misses the load finds the value.
        self.table.remove(&self.hash, &self.load);
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
