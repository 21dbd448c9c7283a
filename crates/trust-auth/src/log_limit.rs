//! [`LogLimit`]: says a thing at most once a minute, for what strangers can set off. It must never keep quiet for good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines.
pub(crate) const PAUSE: Duration = Duration::from_mins(1);

/// When a line was written last, and how many were left out since.
///
/// All accesses are Relaxed: the exchange elects who speaks, and nothing is ordered by it.
#[derive(Debug)]
pub(crate) struct LogLimit {
    since: Instant,
    /// In milliseconds from `since`; before it nothing more is said.
    quiet_until: AtomicU64,
    unsaid: AtomicU64,
}

impl LogLimit {
    /// Whether it may be said now: then, how many times it was left out since it was said last.
    pub(crate) fn speaks(&self) -> Option<u64> {
        self.speaks_at(self.since.elapsed())
    }

    fn speaks_at(&self, now: Duration) -> Option<u64> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, next) = (milliseconds(now), milliseconds(now.saturating_add(PAUSE)));
        // Relaxed, both: it elects who speaks.
        let elected = self
            .quiet_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now >= until).then_some(next)
            })
            .is_ok();
        if elected {
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            // Relaxed: a count, which orders nothing.
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { since: Instant::now(), quiet_until: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_says_how_many_were_left_out() {
        let limit = LogLimit::default();
        let at = |seconds| limit.speaks_at(Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(59), at(60), at(61), at(200), at(259)],
            [Some(0), None, None, Some(2), None, Some(1), None]
        );
    }
}
