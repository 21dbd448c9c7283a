//! [`Alarm`]: says in the log that the database fails, at most once a second however many requests it fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trust_auth::StoreError;

use crate::failure::with_causes;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// What was said, and what was not.
pub(crate) struct Alarm {
    since: Instant,
    /// In milliseconds from `since`; before it nothing more is said.
    quiet_until: AtomicU64,
    unsaid: AtomicU64,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), quiet_until: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// A request was refused because of this. The error carries no key, no digest and no password.
    pub(crate) fn raise(&self, error: &StoreError) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = now.saturating_add(u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX));
        // Relaxed: the exchange elects who speaks, and orders nothing else.
        let speaks = self
            .quiet_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| (now >= until).then_some(next))
            .is_ok();
        if speaks {
            let others = self.unsaid.swap(0, Ordering::Relaxed);
            tracing::warn!(kind = error.kind(), error = %with_causes(error), others, "the database fails: requests are refused");
        } else {
            // Relaxed: a count, which orders nothing.
            self.unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }
}
