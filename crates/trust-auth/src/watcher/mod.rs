//! [`Watcher`]: keeps a cache in step with changes that other processes make to the trusts.
//!
//! It must never let a gap go unnoticed: whatever may have been missed invalidates every key.

#[cfg(feature = "postgres")]
mod backoff;
mod status;

use std::fmt;
use std::sync::Arc;

use tokio::task::JoinHandle;
use trust_key_cache::{KeyHash, TrustKeyCache};

use crate::StoreError;
#[cfg(feature = "postgres")]
use crate::log_limit::LogLimit;

pub use status::WatchStatus;

#[cfg(feature = "postgres")]
pub(crate) use self::backoff::Backoff;
use self::status::Counters;

/// A task that watches a database for changes of its trusts, whoever makes them, and invalidates in
/// one cache the keys that they concern. Made by `PostgresStore::watch` and `SqliteStore::watch`;
/// dropped, it stops.
///
/// The cache grants nothing without it either: a revoked key is refused at once, because its live
/// row is read (G9). What it adds is that the entry **goes**, within a second as a rule, instead of
/// costing one read a request until it expires.
///
/// # What is invalidated
///
/// * A change that names its keys: exactly those keys, each by
///   [`invalidate_key`](trust_key_cache::KeyCache::invalidate_key).
/// * Anything that leaves open what has changed: every key. That is each connection, the first and
///   every one after a loss, because changes before it were not heard; a message that cannot be
///   read; a table that was truncated; and triggers of PostgreSQL that are back, or have changed.
///
/// # When it is not connected
///
/// It tries again for ever, on PostgreSQL after pauses that double up to two seconds and vary at
/// random, on SQLite at the next poll. [`status`](Self::status) tells.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{SqliteStore, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("trusts.db");
/// let store = SqliteStore::options(&file).create_if_missing(true).connect().await?;
/// let cache = Arc::new(TrustKeyCache::new());
/// let watcher = store.watch(Arc::clone(&cache));
/// assert_eq!(watcher.status().malformed, 0);
/// drop(watcher); // nobody watches any more
/// # Ok(()) }
/// ```
#[must_use = "a watcher that is dropped stops"]
pub struct Watcher {
    eviction: Arc<Eviction>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// What it has heard and done so far, and whether it is connected now.
    #[must_use]
    pub fn status(&self) -> WatchStatus {
        let status = self.eviction.counters.read();
        // A task that has ended, by a panic or with its runtime, hears of nothing.
        WatchStatus { connected: status.connected && !self.task.is_finished(), ..status }
    }

    /// Starts the task that `watch` makes.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub(crate) fn start<F>(
        cache: Arc<TrustKeyCache>,
        watch: impl FnOnce(Arc<Eviction>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let eviction = Arc::new(Eviction::new(cache));
        let task = tokio::spawn(watch(Arc::clone(&eviction)));
        Self { eviction, task }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
        self.eviction.counters.set_connected(false);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// What a watching task does to the cache. Each call counts after it has invalidated: whoever sees
/// the count finds the entry gone.
pub(crate) struct Eviction {
    cache: Arc<TrustKeyCache>,
    counters: Counters,
    #[cfg(feature = "postgres")]
    malformed: LogLimit,
    #[cfg(feature = "postgres")]
    missing: LogLimit,
}

impl Eviction {
    pub(crate) fn new(cache: Arc<TrustKeyCache>) -> Self {
        Self {
            cache,
            counters: Counters::default(),
            #[cfg(feature = "postgres")]
            malformed: LogLimit::default(),
            #[cfg(feature = "postgres")]
            missing: LogLimit::default(),
        }
    }

    /// A connection stands, and hears of every change from now on. Those from before may have been
    /// missed.
    pub(crate) fn connected(&self) {
        self.cache.invalidate();
        self.counters.connected();
    }

    /// The connection is lost, or there was none to be had. Only the loss is worth a warning: the
    /// attempts after it are many.
    pub(crate) fn failed(&self, error: &StoreError) {
        let before = self.counters.failed();
        if before.connected || before.failures == 0 {
            tracing::warn!(%error, "changes by other processes are not heard of; trying again");
        } else {
            tracing::debug!(%error, "changes by other processes are still not heard of; trying again");
        }
    }

    /// A change was heard of. What it invalidates is told separately.
    pub(crate) fn notified(&self) {
        self.counters.notified();
    }

    /// A change concerns this key.
    pub(crate) fn key(&self, hash: &KeyHash) {
        self.cache.invalidate_key(hash);
        self.counters.key();
    }

    /// A message of so many bytes was not understood: what it tells is unknown. Whoever may connect
    /// to the database may send as many as he likes, so not each is logged.
    #[cfg(feature = "postgres")]
    pub(crate) fn malformed(&self, bytes: usize) {
        self.cache.invalidate();
        self.counters.malformed();
        if let Some(others) = self.malformed.speaks() {
            tracing::warn!(
                bytes,
                others,
                "a notification on the channel `trust_auth` was not understood; every key is invalidated"
            );
        }
    }

    /// A canary notification has arrived.
    #[cfg(feature = "postgres")]
    pub(crate) fn canary_heard(&self) {
        self.counters.canary_heard();
    }

    /// A canary notification has not arrived in time, or could not be sent.
    #[cfg(feature = "postgres")]
    pub(crate) fn canary_missed(&self) {
        self.counters.canary_missed();
    }

    /// The triggers that tell of changes were looked at. Those with these names are missing;
    /// `changed` says that they are not as they were at the last look, so that changes in between
    /// may not have been heard of.
    #[cfg(feature = "postgres")]
    pub(crate) fn triggers(&self, missing: &[String], changed: bool) {
        if changed {
            self.cache.invalidate();
        }
        let were_missing = self.counters.triggers(!missing.is_empty(), changed);
        if missing.is_empty() {
            if were_missing {
                tracing::info!(
                    "the triggers that tell of changes are back; every key is invalidated"
                );
            }
        } else if self.missing.speaks().is_some() {
            tracing::warn!(
                missing = missing.join(", "),
                "triggers on the table `trust` are missing or turned off: changes by other processes are \
                 not heard of, and their entries stay until they expire, although they grant nothing; \
                 let the table's owner run `trust-auth migrate`"
            );
        }
    }

    /// A change concerns every key.
    #[cfg(feature = "postgres")]
    pub(crate) fn everything(&self) {
        self.cache.invalidate();
        self.counters.everything();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_task_that_has_ended_is_not_connected_whatever_it_said_last() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let watcher = Watcher::start(Arc::new(TrustKeyCache::new()), |eviction| async move {
            eviction.connected();
            ended.await.unwrap();
            panic!("as the driver's code may");
        });
        while watcher.status().connects == 0 {
            tokio::task::yield_now().await;
        }
        assert!(watcher.status().connected);
        end.send(()).unwrap();
        while !watcher.task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(!watcher.status().connected);
        assert_eq!(watcher.status().connects, 1);
    }

    #[tokio::test]
    async fn whoever_sees_a_count_finds_the_entry_gone() {
        use std::cell::Cell;
        use std::rc::Rc;

        let cache = Arc::new(TrustKeyCache::new());
        let watcher = Watcher::start(Arc::clone(&cache), |_| std::future::pending());
        let (hash, counts) = (KeyHash::of("key"), Rc::new(Cell::new(0)));
        let (shared, counted) = (Arc::clone(&cache), Rc::clone(&counts));
        status::at_count::check(move || {
            assert!(shared.is_empty(), "counted before it was evicted");
            counted.set(counted.get() + 1);
        });
        let evictions: &[&dyn Fn(&Eviction)] = &[
            &|eviction| eviction.connected(),
            &|eviction| eviction.key(&hash),
            #[cfg(feature = "postgres")]
            &|eviction| eviction.malformed(7),
            #[cfg(feature = "postgres")]
            &|eviction| eviction.everything(),
        ];
        for evict in evictions {
            assert!(cache.lease(&hash).remember(uuid::Uuid::nil()));
            evict(&watcher.eviction);
        }
        assert_eq!(counts.get(), evictions.len());
    }

    /// The first failure and each loss of a connection; not the attempts after it.
    #[tokio::test]
    async fn what_is_worth_a_warning_is_logged_as_one() {
        let (mut log, writer) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(Arc::new(writer))
            .finish();
        let watcher = Watcher::start(Arc::new(TrustKeyCache::new()), |_| std::future::pending());
        let error = StoreError::Timeout { after: std::time::Duration::from_secs(1) };
        tracing::subscriber::with_default(subscriber, || {
            let eviction = &watcher.eviction;
            eviction.failed(&error);
            eviction.failed(&error);
            eviction.connected();
            eviction.failed(&error);
            eviction.failed(&error);
        });
        let mut told = String::new();
        log.read_to_string(&mut told).unwrap();
        let levels: Vec<&str> =
            told.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(levels, ["WARN", "DEBUG", "WARN", "DEBUG"], "{told}");
        assert!(format!("{watcher:?}").contains("failures: 4"), "{watcher:?}");
    }
}
