//! [`Watcher`]: keeps a cache in step with changes that other processes make to the trusts.
//!
//! No gap is ignored: a possibly missed change invalidates every key.

mod backoff;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use trust_key_cache::{KeyHash, TrustKeyCache};

use crate::error::StoreError;
#[cfg(feature = "postgres")]
use crate::log_limit::LogLimit;
use crate::store::TrustStore;

pub use self::status::WatchStatus;

pub(crate) use self::backoff::Backoff;
use self::status::Counters;

/// A store that can follow the changes that other processes make to its trusts.
///
/// `PostgresStore` and `SqliteStore` implement it. A store of one's own implements it with
/// [`Watcher::start`].
pub trait WatchStore: TrustStore {
    /// Starts a task that invalidates in `cache` the keys that changes concern, until the returned
    /// watcher is dropped.
    ///
    /// # Panics
    ///
    /// An implementation may panic outside of a Tokio runtime.
    fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher;

    /// Does as [`watch`](Self::watch), and tests the connection for changes at this interval, where
    /// a store tests one: for a process with a read lease, whose cache is a fallback. As provided,
    /// it is [`watch`](Self::watch).
    ///
    /// # Panics
    ///
    /// As [`watch`](Self::watch).
    fn watch_every(&self, interval: Duration, cache: Arc<TrustKeyCache>) -> Watcher {
        let _ = interval;
        self.watch(cache)
    }
}

/// A task that follows the changes of the trusts in a database, made by any process. It invalidates
/// the keys of these changes in one cache. The task stops when the watcher is dropped.
///
/// `PostgresStore::watch` and `SqliteStore::watch` start one; [`start`](Self::start) starts one for
/// a store of one's own.
///
/// The cache grants nothing without a watcher either: a revoked key is refused at once, because its
/// live row is read (G9). A watcher **removes** the entry, within a second as a rule. Without one,
/// the entry costs one read a request until it expires.
///
/// # What is invalidated
///
/// * A change that names its keys invalidates exactly these keys, each by
///   [`invalidate_key`](trust_key_cache::KeyCache::invalidate_key).
/// * Anything that leaves open what has changed invalidates every key. Each new connection does so,
///   the first included, because earlier changes were not received. So do a message that cannot be
///   read, a truncation of the table, and triggers of PostgreSQL that are restored or changed.
///
/// # When it is not connected
///
/// It keeps trying: on PostgreSQL after pauses that double up to two seconds and vary at random, on
/// SQLite at the next poll. [`status`](Self::status) reports whether it is connected.
///
/// # Examples
///
/// A feed of one's own, here a channel:
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{KeyHash, TrustKeyCache, Watcher};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let cache = Arc::new(TrustKeyCache::new());
/// let (sender, mut feed) = tokio::sync::mpsc::channel::<KeyHash>(16);
/// let watcher = Watcher::start(Arc::clone(&cache), |changes| async move {
///     changes.connected(); // from here on, the channel receives every change
///     while let Some(hash) = feed.recv().await {
///         changes.key_changed(&hash);
///         changes.notified();
///     }
/// });
///
/// let hash = KeyHash::of("key");
/// # while watcher.status().connects == 0 { tokio::task::yield_now().await }
/// cache.lease(&hash).remember(uuid::Uuid::nil());
/// sender.send(hash).await.unwrap();
/// # while watcher.status().evicted_keys == 0 { tokio::task::yield_now().await }
/// assert_eq!(cache.lookup(&hash), None);
/// # }
/// ```
#[must_use = "a watcher that is dropped stops"]
pub struct Watcher {
    changes: Arc<ChangeSink>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts the task that `follow` returns, for a store of one's own.
    ///
    /// The task reports to the [`ChangeSink`] when it is connected and what has changed. It should
    /// reconnect by itself: a task that returns is not started again.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn start<F>(cache: Arc<TrustKeyCache>, follow: impl FnOnce(Arc<ChangeSink>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let changes = Arc::new(ChangeSink::new(cache));
        let task = tokio::spawn(follow(Arc::clone(&changes)));
        Self { changes, task }
    }

    /// Returns what the watcher has received and done so far, and whether it is connected now.
    #[must_use]
    pub fn status(&self) -> WatchStatus {
        let status = self.changes.counters.read();
        // A task that has ended, by a panic or with its runtime, receives nothing.
        WatchStatus { connected: status.connected && !self.task.is_finished(), ..status }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
        self.changes.counters.set_connected(false);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Receives what a watching task finds, and invalidates the cache accordingly.
///
/// Each method counts after it has invalidated: a reader of the count no longer finds the entry.
/// [`Watcher::start`] makes it.
pub struct ChangeSink {
    cache: Arc<TrustKeyCache>,
    counters: Counters,
    #[cfg(feature = "postgres")]
    malformed: LogLimit,
    #[cfg(feature = "postgres")]
    missing: LogLimit,
}

impl ChangeSink {
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

    /// Reports a connection that receives every change from now on.
    ///
    /// Earlier changes may have been missed, so this invalidates every key.
    pub fn connected(&self) {
        self.cache.invalidate();
        self.counters.connected();
    }

    /// Reports that the connection was lost, or that an attempt to connect failed.
    ///
    /// Logs a warning for the first failure and for each loss of a connection. The attempts after
    /// it are many, and are logged as debug messages.
    pub fn disconnected(&self, error: &StoreError) {
        let before = self.counters.disconnected();
        if before.connected || before.failures == 0 {
            tracing::warn!(%error, "changes by other processes are not received; trying again");
        } else {
            tracing::debug!(
                %error,
                "changes by other processes are still not received; trying again"
            );
        }
    }

    /// Counts one notification. What it invalidates is reported separately.
    pub fn notified(&self) {
        self.counters.notified();
    }

    /// Reports a change that concerns this key, and invalidates the key.
    pub fn key_changed(&self, hash: &KeyHash) {
        self.cache.invalidate_key(hash);
        self.counters.key_changed();
    }

    /// Reports a change that may concern every key, such as a truncation, and invalidates all keys.
    pub fn all_changed(&self) {
        self.cache.invalidate();
        self.counters.all_changed();
    }

    /// Reports a message of this many bytes whose content could not be read.
    ///
    /// Any client of the database can send such messages, so the log is limited.
    #[cfg(feature = "postgres")]
    pub(crate) fn malformed(&self, bytes: usize) {
        self.cache.invalidate();
        self.counters.malformed();
        if let Some(others) = self.malformed.try_log() {
            tracing::warn!(
                bytes,
                others,
                "a notification on the channel `trust_auth` could not be read; every key is \
                 invalidated"
            );
        }
    }

    /// Reports a canary notification that arrived.
    #[cfg(feature = "postgres")]
    pub(crate) fn canary_heard(&self) {
        self.counters.canary_heard();
    }

    /// Reports a canary notification that did not arrive in time, or could not be sent.
    #[cfg(feature = "postgres")]
    pub(crate) fn canary_missed(&self) {
        self.counters.canary_missed();
    }

    /// Reports a check of the triggers that notify of changes. The triggers with these names are
    /// missing. `changed` means that they differ from the last check, so that changes in between
    /// may have been missed.
    #[cfg(feature = "postgres")]
    pub(crate) fn triggers(&self, missing: &[String], changed: bool) {
        if changed {
            self.cache.invalidate();
        }
        let were_missing = self.counters.triggers(!missing.is_empty(), changed);
        if missing.is_empty() {
            if were_missing {
                tracing::info!(
                    "the triggers that notify of changes are restored; every key is invalidated"
                );
            }
        } else if self.missing.try_log().is_some() {
            tracing::warn!(
                missing = missing.join(", "),
                "triggers on the table `trust` are missing or turned off: changes by other \
                 processes are not received, and their entries stay until they expire, although \
                 they grant nothing; let the table's owner run `trust-auth migrate`"
            );
        }
    }
}

impl fmt::Debug for ChangeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeSink").field("status", &self.counters.read()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_task_that_has_ended_is_not_connected_whatever_its_last_report() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let watcher = Watcher::start(Arc::new(TrustKeyCache::new()), |changes| async move {
            changes.connected();
            ended.await.unwrap();
            panic!("as a driver may");
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
    async fn a_reader_of_a_count_finds_the_entry_gone() {
        use std::cell::Cell;
        use std::rc::Rc;

        let cache = Arc::new(TrustKeyCache::new());
        let watcher = Watcher::start(Arc::clone(&cache), |_| std::future::pending());
        let (hash, counts) = (KeyHash::of("key"), Rc::new(Cell::new(0)));
        let (shared, counted) = (Arc::clone(&cache), Rc::clone(&counts));
        status::at_count::check(move || {
            assert!(shared.is_empty(), "counted before the entry was removed");
            counted.set(counted.get() + 1);
        });
        let evictions: &[&dyn Fn(&ChangeSink)] = &[
            &|changes| changes.connected(),
            &|changes| changes.key_changed(&hash),
            #[cfg(feature = "postgres")]
            &|changes| changes.malformed(7),
            &|changes| changes.all_changed(),
        ];
        for evict in evictions {
            assert!(cache.lease(&hash).remember(uuid::Uuid::nil()));
            evict(&watcher.changes);
        }
        assert_eq!(counts.get(), evictions.len());
    }

    #[tokio::test]
    async fn the_first_failure_and_each_loss_of_a_connection_are_logged_as_warnings() {
        let (mut log, writer) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(Arc::new(writer))
            .finish();
        let watcher = Watcher::start(Arc::new(TrustKeyCache::new()), |_| std::future::pending());
        let error = StoreError::Timeout { after: std::time::Duration::from_secs(1) };
        tracing::subscriber::with_default(subscriber, || {
            let changes = &watcher.changes;
            changes.disconnected(&error);
            changes.disconnected(&error);
            changes.connected();
            changes.disconnected(&error);
            changes.disconnected(&error);
        });
        let mut log_text = String::new();
        log.read_to_string(&mut log_text).unwrap();
        let levels: Vec<&str> =
            log_text.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(levels, ["WARN", "DEBUG", "WARN", "DEBUG"], "{log_text}");
        assert!(format!("{watcher:?}").contains("failures: 4"), "{watcher:?}");
    }
}
