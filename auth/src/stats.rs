//! [`Stats`]: what an authenticator has done, in numbers. Counting must cost a request nothing that it could notice.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::{Attempt, AuthError};

/// What an [`Authenticator`](crate::Authenticator) and its clones have done so far.
///
/// Each counter is exact by itself; while requests are under way, they are of no single moment. When none is,
/// and none was cancelled, `requests = granted + missing + invalid + unavailable`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let authenticator = Authenticator::new(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// authenticator.authenticate(None).await.unwrap_err();
/// let stats = authenticator.stats();
/// assert_eq!((stats.requests, stats.missing), (1, 1));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Requests begun.
    pub requests: u64,
    /// Cached ids whose live row accepted the key: requests granted on the hot path.
    pub hits: u64,
    /// Cached ids whose live row did not accept the key any more; a sweep was begun after each.
    pub stale_hits: u64,
    /// Sweeps run, whatever they found.
    pub sweeps: u64,
    /// Rows compared by those sweeps.
    pub rows_swept: u64,
    /// Requests granted.
    pub granted: u64,
    /// Requests refused because they carried no key.
    pub missing: u64,
    /// Requests refused because no enabled trust had their key.
    pub invalid: u64,
    /// Requests refused because the store failed.
    pub unavailable: u64,
}

/// The counters behind [`Stats`].
///
/// All accesses are Relaxed: each counter is read for itself, and orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    hits: AtomicU64,
    stale_hits: AtomicU64,
    sweeps: AtomicU64,
    rows_swept: AtomicU64,
    granted: AtomicU64,
    missing: AtomicU64,
    invalid: AtomicU64,
    unavailable: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self) {
        add(&self.requests, 1);
    }

    pub(crate) fn hit(&self) {
        add(&self.hits, 1);
    }

    pub(crate) fn stale_hit(&self) {
        add(&self.stale_hits, 1);
    }

    pub(crate) fn sweep(&self, rows: usize) {
        add(&self.sweeps, 1);
        add(&self.rows_swept, rows as u64);
    }

    pub(crate) fn answer(&self, attempt: &Attempt) {
        let counter = match &attempt.result {
            Ok(_) => &self.granted,
            Err(AuthError::Missing) => &self.missing,
            Err(AuthError::Invalid) => &self.invalid,
            Err(AuthError::Unavailable(_)) => &self.unavailable,
        };
        add(counter, 1);
    }

    pub(crate) fn read(&self) -> Stats {
        // Relaxed: see above.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            requests: read(&self.requests),
            hits: read(&self.hits),
            stale_hits: read(&self.stale_hits),
            sweeps: read(&self.sweeps),
            rows_swept: read(&self.rows_swept),
            granted: read(&self.granted),
            missing: read(&self.missing),
            invalid: read(&self.invalid),
            unavailable: read(&self.unavailable),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    // Relaxed: see `Counters`.
    counter.fetch_add(amount, Ordering::Relaxed);
}
