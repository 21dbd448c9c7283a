//! Watching PostgreSQL for changes: follows the trigger's notifications until the watcher is
//! dropped.
//!
//! Each new connection, once it listens, invalidates every key: earlier changes may have been
//! missed. A connection counts as connected only while canaries arrive on it
//! ([`Canary`](super::canary::Canary)).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trust_key_cache::TrustKeyCache;

use super::canary::{self, Canary};
use super::store::PostgresStore;
use super::subscription::{Subscription, TICK};
use super::trigger_watch::TriggerWatch;
use crate::error::StoreError;
use crate::watcher::{Backoff, ChangeSink, Watcher};

/// The time without a notification after which the connection is tested. A lost network gives no
/// error, so without a test the loss would go unnoticed.
const SILENCE: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Listens for changes of the trusts by any process, and invalidates in `cache` the keys that
    /// they concern. The cache is the one of an [`Authenticator`](crate::Authenticator) over this
    /// store.
    ///
    /// A trigger on the table notifies when a change is committed, by any process or by hand. The
    /// listener has a connection of its own. If the connection is lost, or silent for 5 s in spite
    /// of a test, the watcher connects again. It waits for 50 ms to 2 s before.
    ///
    /// Each connection checks, at the start and every 5 s, whether the triggers are there and
    /// turned on. Without the triggers no change is notified, and entries stay until they
    /// expire. [`WatchStatus::triggers_missing`](crate::WatchStatus::triggers_missing) and a
    /// warning once a minute report this. When the triggers are restored or were changed, every
    /// key is invalidated. A watcher makes no trigger.
    ///
    /// Every 5 s a new connection sends a canary notification to a channel of this watcher alone.
    /// If the canary does not arrive within 10 s, or the new connection leads to another server,
    /// the listener reconnects. In the second case the store's pooled connections to the former
    /// server are closed, too. The listener's connection is replaced at
    /// [`max_connection_age`](super::PostgresOptions::max_connection_age), without a gap and
    /// without an invalidation.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        self.watch_every(canary::INTERVAL, cache)
    }

    /// Does the same as [`watch`](Self::watch), and sends canaries and checks the triggers at this
    /// interval instead of every 5 s, or at 5 s if the interval is shorter.
    ///
    /// Use it with a read lease, under which the cache is a fallback: with two minutes, the watcher
    /// sends some hundred queries an hour instead of some thousand. A lost network, missing
    /// triggers and a failover that leaves the old primary up are then noticed as much later by the
    /// watcher. They let no revoked key in. The connection is replaced at ten intervals, or at
    /// `max_connection_age` if that is longer.
    ///
    /// # Panics
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_every(&self, interval: Duration, cache: Arc<TrustKeyCache>) -> Watcher {
        let store = self.clone();
        let interval = interval.max(canary::INTERVAL);
        Watcher::start(cache, move |changes| async move {
            let channel = Canary::new_channel();
            let mut backoff = Backoff::new();
            loop {
                let begun = Instant::now();
                let Err(error) = follow(&store, &channel, interval, &changes).await;
                changes.disconnected(&error);
                tokio::time::sleep(backoff.pause_after(begun.elapsed())).await;
            }
        })
    }

    /// Checks that notifications arrive: listens on one connection, notifies on another, and waits.
    ///
    /// # Errors
    ///
    /// [`StoreError::Deaf`] if the notification does not arrive within 10 s, as behind a pooler
    /// that shares server connections. After any other error, nothing is known about
    /// notifications.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn check_notifications(&self) -> Result<(), StoreError> {
        let nothing = ChangeSink::new(Arc::default());
        let channel = Canary::new_channel();
        Subscription::open(&self.connector, &channel, canary::INTERVAL, &nothing).await.map(|_| ())
    }
}

/// Follows the changes until the connection fails.
async fn follow(
    store: &PostgresStore,
    channel: &str,
    interval: Duration,
    changes: &ChangeSink,
) -> Result<Infallible, StoreError> {
    let connector = &store.connector;
    // A canary tests the connection, too. Longer intervals need no other test.
    let silence = if interval == canary::INTERVAL { SILENCE } else { interval + canary::LIMIT };
    let mut current = Subscription::open(connector, channel, interval, changes).await?;
    let mut triggers = TriggerWatch::begin(current.listener(), connector, changes).await?;
    changes.connected();
    let mut last_received = Instant::now();
    loop {
        match current.receive(connector, TICK).await? {
            Some(notification) => {
                last_received = Instant::now();
                current.apply(&notification, changes);
            }
            None if last_received.elapsed() >= silence => {
                current.ping(connector).await?;
                last_received = Instant::now();
            }
            None => {}
        }
        triggers.check_if_due(interval, current.listener(), connector, changes).await?;
        if let Err(error) = current.check(connector, changes) {
            store.close_unfit();
            return Err(error);
        }
        if current.is_due_for_replacement() {
            store.close_unfit();
            match Subscription::open(connector, channel, interval, changes).await {
                Ok(next) => {
                    let former = std::mem::replace(&mut current, next);
                    if !former.hand_over(connector, &current, changes).await {
                        changes.connected();
                    }
                }
                Err(error) => {
                    tracing::debug!(
                        %error,
                        "the listener's connection could not be replaced; trying again"
                    );
                    current.postpone_replacement(canary::INTERVAL);
                }
            }
        }
    }
}
