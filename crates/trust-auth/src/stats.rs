//! [`Stats`]: what an authenticator has done, in numbers. Counting must cost a request nothing that it could notice.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::{Attempt, AuthError};

/// What an [`Authenticator`](crate::Authenticator) and its clones have done so far.
///
/// Each counter is exact by itself; while requests are under way, they are of no single moment.
/// When none is, and none was cancelled, `requests = granted + missing + invalid + unavailable +
/// overloaded`.
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
    /// Cached ids whose live row did not accept the key any more; a walk was asked for after each.
    pub stale_hits: u64,
    /// Walks over all candidates, whatever they found. Requests share them, so there may be fewer
    /// than there were misses.
    pub sweeps: u64,
    /// Rows that those walks went through: each once a walk, with however many keys it was
    /// compared.
    pub rows_swept: u64,
    /// Requests that wait at this moment: for a walk to begin, or for the answer of the one under
    /// way.
    pub waiting: u64,
    /// Requests granted.
    pub granted: u64,
    /// Requests refused because they carried no key.
    pub missing: u64,
    /// Requests refused because no enabled trust had their key.
    pub invalid: u64,
    /// Requests refused because the store failed.
    pub unavailable: u64,
    /// Requests refused because too many others waited for a walk.
    pub overloaded: u64,
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
    waiting: AtomicU64,
    granted: AtomicU64,
    missing: AtomicU64,
    invalid: AtomicU64,
    unavailable: AtomicU64,
    overloaded: AtomicU64,
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

    /// A request waits until what this returns is dropped.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        add(&self.waiting, 1);
        Waiting { waiting: &self.waiting }
    }

    pub(crate) fn answer(&self, attempt: &Attempt) {
        let counter = match &attempt.result {
            Ok(_) => &self.granted,
            Err(AuthError::Missing) => &self.missing,
            Err(AuthError::Invalid) => &self.invalid,
            Err(AuthError::Unavailable(_)) => &self.unavailable,
            Err(AuthError::Overloaded) => &self.overloaded,
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
            waiting: read(&self.waiting),
            granted: read(&self.granted),
            missing: read(&self.missing),
            invalid: read(&self.invalid),
            unavailable: read(&self.unavailable),
            overloaded: read(&self.overloaded),
        }
    }
}

/// One request that waits.
pub(crate) struct Waiting<'a> {
    waiting: &'a AtomicU64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Relaxed: see `Counters`.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    // Relaxed: see `Counters`.
    counter.fetch_add(amount, Ordering::Relaxed);
}
