//! [`LogLimit`]: lets a line through now and then, for what requests or retries set off again and
//! again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a line was written last, and how many were left out since.
///
/// All accesses are Relaxed: the exchange elects who logs, and orders nothing else.
pub(crate) struct LogLimit {
    pause: Duration,
    since: Instant,
    /// In milliseconds from `since`; before it no line is written.
    quiet_until: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    /// With this long between two lines.
    pub(crate) fn new(pause: Duration) -> Self {
        Self {
            pause,
            since: Instant::now(),
            quiet_until: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns whether to write the line now: if so, how many were left out since the last one.
    pub(crate) fn try_log(&self) -> Option<u64> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.since.elapsed());
        let next = now.saturating_add(milliseconds(self.pause));
        // Relaxed, all: see above.
        let elected = self
            .quiet_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now >= until).then_some(next)
            })
            .is_ok();
        if elected {
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}
