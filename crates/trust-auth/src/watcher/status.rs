//! [`WatchStatus`]: what a watcher has heard and done, in numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

/// What a [`Watcher`](crate::Watcher) has heard and done so far: for metrics, and for whoever asks
/// whether it is connected.
///
/// A count goes up after the cache was invalidated: who sees it finds the entries gone.
/// `invalidations = connects + malformed + truncations + trigger_changes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WatchStatus {
    /// Whether it hears of changes now. What is missed while it does not is made up for by the
    /// next connection, which invalidates every key.
    pub connected: bool,
    /// Connections made, the first included. Each has invalidated every key.
    pub connects: u64,
    /// Connections lost, and attempts that came to none.
    pub failures: u64,
    /// Changes heard of: notifications of PostgreSQL, or polls at which SQLite's database had
    /// changed.
    pub notifications: u64,
    /// Keys invalidated one by one, because a change named them.
    pub evicted_keys: u64,
    /// Notifications that could not be read. Each has invalidated every key.
    pub malformed: u64,
    /// Truncations of the table. Each has invalidated every key.
    pub truncations: u64,
    /// Canary notifications that arrived: the proof that others would. Always 0 on SQLite.
    pub canaries_heard: u64,
    /// Canary notifications that did not arrive in time, or could not be sent. Always 0 on SQLite.
    pub canaries_missed: u64,
    /// Whether, at the last look, triggers of PostgreSQL were missing or turned off, so that
    /// changes are not heard of. What was revoked is refused all the same, by its live row. SQLite
    /// needs no triggers.
    pub triggers_missing: bool,
    /// Looks at which these triggers were not as before. Each has invalidated every key.
    pub trigger_changes: u64,
    /// How often every key was invalidated, for whichever of these reasons.
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

    /// What there was before.
    pub(super) fn failed(&self) -> WatchStatus {
        let before = self.read();
        self.set_connected(false);
        count(&self.failures);
        before
    }

    pub(super) fn set_connected(&self, connected: bool) {
        // Release: pairs with the Acquire in `read`, which so finds the cache as the connection
        // left it.
        self.connected.store(connected, Ordering::Release);
    }

    pub(super) fn notified(&self) {
        count(&self.notifications);
    }

    pub(super) fn key(&self) {
        count(&self.evicted_keys);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn malformed(&self) {
        count(&self.malformed);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn everything(&self) {
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

    /// Whether they were missing before.
    #[cfg(feature = "postgres")]
    pub(super) fn triggers(&self, missing: bool, changed: bool) -> bool {
        if changed {
            count(&self.trigger_changes);
        }
        // Release: pairs with the Acquire in `read`.
        self.triggers_missing.swap(missing, Ordering::Release)
    }

    pub(super) fn read(&self) -> WatchStatus {
        // Acquire: pairs with the Release of whoever counted, after it had invalidated.
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

/// Lets a test look at the cache at the moment of a count, on its own thread.
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
