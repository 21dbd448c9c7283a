//! [`Stats`]: counts what an authenticator does, at a cost that no request notices.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::attempt::Attempt;
use crate::error::{AuthError, StoreError};

/// Counts what an [`Authenticator`](crate::Authenticator) and its clones have done so far.
///
/// These are the only counters of outcomes: a service exports them as they are. Each counter is
/// exact by itself, but two counters may be from different moments. When no request is under way
/// and none was cancelled, `requests = granted + missing + invalid + unavailable + overloaded`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let authenticator = Authenticator::new(store, cache);
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
    /// Cached ids whose live row no longer accepted the key. A scan was requested after each.
    pub stale_hits: u64,
    /// Requests granted from rows that are held under a read lease, without a read.
    pub held: u64,
    /// Requests answered by a look: what was committed was read, and the key was compared with all
    /// held rows.
    pub looks: u64,
    /// Scans that read all candidates, with or without a match. Requests share scans, so there may
    /// be fewer than misses.
    pub scans: u64,
    /// Rows that those scans swept: each row counts once a scan, with however many keys it was
    /// compared.
    pub rows_swept: u64,
    /// Requests that wait now: for a scan to begin, for the answer of the one under way, or for an
    /// index.
    pub waiting: u64,
    /// Requests granted.
    pub granted: u64,
    /// Requests refused because they carried no key.
    pub missing: u64,
    /// Requests refused because no enabled trust had their key, or because the key was damaged.
    pub invalid: u64,
    /// Requests refused because the store failed.
    pub unavailable: u64,
    /// Requests refused because too many others waited for a scan.
    pub overloaded: u64,
    /// The requests in `unavailable`, by the kind of the store's failure.
    pub failures: Failures,
}

/// Counts the requests that the store's failures refused, by [`StoreError::kind`].
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
///
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let authenticator = Authenticator::new(store, cache);
/// let failures = authenticator.stats().failures;
/// assert_eq!(failures.of("timeout"), 0);
/// assert!(failures.iter().all(|(_, requests)| requests == 0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    // In the order of `StoreError::KINDS`.
    requests: [u64; StoreError::KINDS.len()],
}

impl Failures {
    /// Returns each kind with its number of requests, zero included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        StoreError::KINDS.iter().copied().zip(self.requests)
    }

    /// Returns the number of requests that failures of this kind refused.
    #[must_use]
    pub fn of(&self, kind: &str) -> u64 {
        self.iter().find(|(word, _)| *word == kind).map_or(0, |(_, requests)| requests)
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self { requests: [0; StoreError::KINDS.len()] }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, requests)| *requests > 0)).finish()
    }
}

/// As a map of the kinds that occurred.
impl Serialize for Failures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (kind, requests) in self.iter().filter(|(_, requests)| *requests > 0) {
            map.serialize_entry(kind, &requests)?;
        }
        map.end()
    }
}

/// The counters behind [`Stats`].
// All accesses are Relaxed: each counter is read by itself, and orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    hits: AtomicU64,
    stale_hits: AtomicU64,
    held: AtomicU64,
    looks: AtomicU64,
    scans: AtomicU64,
    rows_swept: AtomicU64,
    waiting: AtomicU64,
    granted: AtomicU64,
    missing: AtomicU64,
    invalid: AtomicU64,
    unavailable: AtomicU64,
    overloaded: AtomicU64,
    // In the order of `StoreError::KINDS`.
    failures: [AtomicU64; StoreError::KINDS.len()],
}

impl Counters {
    pub(crate) fn record_request(&self) {
        add(&self.requests, 1);
    }

    pub(crate) fn record_hit(&self) {
        add(&self.hits, 1);
    }

    pub(crate) fn record_stale_hit(&self) {
        add(&self.stale_hits, 1);
    }

    pub(crate) fn record_held(&self) {
        add(&self.held, 1);
    }

    pub(crate) fn record_look(&self) {
        add(&self.looks, 1);
    }

    pub(crate) fn record_scan(&self, rows: usize) {
        add(&self.scans, 1);
        add(&self.rows_swept, rows as u64);
    }

    /// Counts a request as waiting until the returned guard is dropped.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        add(&self.waiting, 1);
        Waiting { waiting: &self.waiting }
    }

    pub(crate) fn record_outcome(&self, attempt: &Attempt) {
        let counter = match &attempt.result {
            Ok(_) => &self.granted,
            Err(AuthError::Missing) => &self.missing,
            Err(AuthError::Invalid) => &self.invalid,
            Err(AuthError::Unavailable(error)) => {
                let kind = error.kind();
                if let Some(at) = StoreError::KINDS.iter().position(|word| *word == kind) {
                    add(&self.failures[at], 1);
                }
                &self.unavailable
            }
            Err(AuthError::Overloaded) => &self.overloaded,
        };
        add(counter, 1);
    }

    pub(crate) fn read(&self) -> Stats {
        // Relaxed: see `Counters`.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            requests: read(&self.requests),
            hits: read(&self.hits),
            stale_hits: read(&self.stale_hits),
            held: read(&self.held),
            looks: read(&self.looks),
            scans: read(&self.scans),
            rows_swept: read(&self.rows_swept),
            waiting: read(&self.waiting),
            granted: read(&self.granted),
            missing: read(&self.missing),
            invalid: read(&self.invalid),
            unavailable: read(&self.unavailable),
            overloaded: read(&self.overloaded),
            failures: Failures { requests: std::array::from_fn(|at| read(&self.failures[at])) },
        }
    }
}

/// Counts one request as waiting until it is dropped.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_failure_is_counted_once_under_its_kind() {
        let counters = Counters::default();
        let after = Duration::from_secs(1);
        for error in [StoreError::Busy, StoreError::Timeout { after }, StoreError::Busy] {
            counters.record_outcome(&Attempt::unread(AuthError::Unavailable(error)));
        }
        let stats = counters.read();
        assert_eq!(stats.unavailable, 3);
        assert_eq!((stats.failures.of("busy"), stats.failures.of("timeout")), (2, 1));
        assert_eq!(stats.failures.iter().map(|(_, requests)| requests).sum::<u64>(), 3);
        let json = serde_json::to_value(stats.failures).unwrap();
        assert_eq!(json, serde_json::json!({ "busy": 2, "timeout": 1 }));
    }
}
