//! [`WatchStatus`]: counts what a watcher has received and done.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

/// Counts what a [`Watcher`](crate::Watcher) has received and done so far, for metrics and probes.
///
/// A count increases after the cache was invalidated: a reader of the count no longer finds the
/// entries. `invalidations = connects + malformed + truncations + trigger_changes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WatchStatus {
    /// Whether the watcher receives changes now. The next connection makes up for what is missed
    /// meanwhile: it invalidates every key.
    pub connected: bool,
    /// Connections made, the first included. Each has invalidated every key.
    pub connects: u64,
    /// Connections lost, and attempts to connect that failed.
    pub failures: u64,
    /// Notifications of PostgreSQL, polls at which SQLite's database had changed, or what a store
    /// of one's own reports with [`ChangeSink::notified`](crate::ChangeSink::notified).
    pub notifications: u64,
    /// Keys invalidated one by one, because a change named them.
    pub evicted_keys: u64,
    /// Notifications that could not be read. Each has invalidated every key.
    pub malformed: u64,
    /// Changes that concern every key, such as a truncation of the table. Each has invalidated
    /// every key.
    pub truncations: u64,
    /// Canary notifications that arrived, which proves that others would. 0 except on PostgreSQL.
    pub canaries_heard: u64,
    /// Canary notifications that did not arrive in time, or could not be sent. 0 except on
    /// PostgreSQL.
    pub canaries_missed: u64,
    /// Whether the last check found triggers of PostgreSQL missing or turned off, so that changes
    /// are not received. The check of the live row refuses revoked keys all the same.
    pub triggers_missing: bool,
    /// Checks that found these triggers changed. Each has invalidated every key.
    pub trigger_changes: u64,
    /// How often every key was invalidated, for any of these reasons.
    pub invalidations: u64,
}

/// The counters behind [`WatchStatus`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    connected: AtomicBool,
    connects: AtomicU64,
    failures: AtomicU64,
    notifications: AtomicU64,
    evicted_keys: AtomicU64,
    malformed: AtomicU64,
    truncations: AtomicU64,
    canaries_heard: AtomicU64,
    canaries_missed: AtomicU64,
    triggers_missing: AtomicBool,
    trigger_changes: AtomicU64,
}

impl Counters {
    pub(super) fn connected(&self) {
        count(&self.connects);
        self.set_connected(true);
    }

    /// Returns the status before this.
    pub(super) fn disconnected(&self) -> WatchStatus {
        let before = self.read();
        self.set_connected(false);
        count(&self.failures);
        before
    }

    pub(super) fn set_connected(&self, connected: bool) {
        // Release: pairs with the Acquire in `read`. Its caller sees the invalidation.
        self.connected.store(connected, Ordering::Release);
    }

    pub(super) fn notified(&self) {
        count(&self.notifications);
    }

    pub(super) fn key_changed(&self) {
        count(&self.evicted_keys);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn malformed(&self) {
        count(&self.malformed);
    }

    pub(super) fn all_changed(&self) {
        count(&self.truncations);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn canary_heard(&self) {
        count(&self.canaries_heard);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn canary_missed(&self) {
        count(&self.canaries_missed);
    }

    /// Returns whether triggers were missing before.
    #[cfg(feature = "postgres")]
    pub(super) fn triggers(&self, missing: bool, changed: bool) -> bool {
        if changed {
            count(&self.trigger_changes);
        }
        // Release: pairs with the Acquire in `read`.
        self.triggers_missing.swap(missing, Ordering::Release)
    }

    pub(super) fn read(&self) -> WatchStatus {
        // Acquire: pairs with the Release in `count`, which follows the invalidation.
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (connects, malformed) = (read(&self.connects), read(&self.malformed));
        let (truncations, trigger_changes) = (read(&self.truncations), read(&self.trigger_changes));
        WatchStatus {
            connected: self.connected.load(Ordering::Acquire),
            connects,
            failures: read(&self.failures),
            notifications: read(&self.notifications),
            evicted_keys: read(&self.evicted_keys),
            malformed,
            truncations,
            canaries_heard: read(&self.canaries_heard),
            canaries_missed: read(&self.canaries_missed),
            // Acquire: pairs with the Release in `triggers`.
            triggers_missing: self.triggers_missing.load(Ordering::Acquire),
            trigger_changes,
            invalidations: connects + malformed + truncations + trigger_changes,
        }
    }
}

fn count(counter: &AtomicU64) {
    #[cfg(test)]
    at_count::run();
    // Release: pairs with the Acquire in `Counters::read`.
    counter.fetch_add(1, Ordering::Release);
}

/// Runs a test's check of the cache at the moment of a count, on the test's thread.
#[cfg(test)]
pub(super) mod at_count {
    use std::cell::RefCell;

    type Check = Box<dyn Fn()>;

    std::thread_local!(static CHECK: RefCell<Option<Check>> = const { RefCell::new(None) });

    pub(in super::super) fn check(check: impl Fn() + 'static) {
        CHECK.with(|now| now.replace(Some(Box::new(check))));
    }

    pub(super) fn run() {
        CHECK.with(|now| now.borrow().iter().for_each(|check| check()));
    }
}
