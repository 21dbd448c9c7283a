//! [`Finds`]: finds the rows of keys by an index, for requests that the cache cannot answer.
//!
//! Unlike scans, finds are not shared: each request has its own. So no more than a fixed number of
//! requests find at once, and one more is refused. Such a flood costs the store as many lookups in
//! an index as it answers, by as many connections as the store has.
//!
//! A find grants nothing (G9): its answer is an id, as that of a scan. It begins after the request,
//! and after the request's lease, so it misses no registration and no revocation, as a scan of the
//! request's own.

use std::sync::Arc;

use tokio::sync::Semaphore;
use trust_key_cache::KeyHash;

use crate::error::AuthError;
use crate::scans::Found;
use crate::stats::Counters;
use crate::store::TrustStore;

/// The finds of one store.
pub(crate) struct Finds<S> {
    store: Arc<S>,
    counters: Arc<Counters>,
    places: Semaphore,
}

impl<S: TrustStore> Finds<S> {
    /// Returns the finds of this store, for at most `limit` requests at once.
    pub(crate) fn new(store: Arc<S>, counters: Arc<Counters>, limit: usize) -> Self {
        Self { store, counters, places: Semaphore::new(limit.min(Semaphore::MAX_PERMITS)) }
    }

    /// Finds the key with these digests. The lease that is to remember the answer must have been
    /// taken before.
    pub(crate) async fn find(&self, hashes: &[KeyHash]) -> Result<Found, AuthError> {
        let _place = self.places.try_acquire().map_err(|_| AuthError::Overloaded)?;
        let _waiting = self.counters.waiting();
        for (at, hash) in hashes.iter().enumerate() {
            if let Some(id) = self.store.find(hash).await.map_err(AuthError::Unavailable)? {
                return Ok(Found { row: Some((at, id)), rows: 0 });
            }
        }
        Ok(Found { row: None, rows: 0 })
    }
}
