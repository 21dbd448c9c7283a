//! [`LogLimit`]: limits how often a line is logged that requests or retries cause again and again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The usual pause between two lines.
pub(crate) const PAUSE: Duration = Duration::from_mins(1);

/// Limits a line of the log to one in a period, and counts the lines that it leaves out.
///
/// `default` allows one line a minute. The first line is always logged. Checking is wait-free in
/// practice: one compare-exchange, and no lock.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::LogLimit;
///
/// let limit = LogLimit::new(Duration::from_secs(60));
/// assert_eq!(limit.try_log(), Some(0));
/// assert_eq!(limit.try_log(), None);
/// ```
// All accesses are Relaxed: the compare-exchange elects the caller that logs, and orders nothing.
#[derive(Debug)]
pub struct LogLimit {
    pause: Duration,
    since: Instant,
    /// In milliseconds from `since`: before this time no line is logged.
    quiet_until: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    /// Returns a limit with this pause between two lines.
    #[must_use]
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            since: Instant::now(),
            quiet_until: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns `Some` if the caller may log the line now, with the number of lines that were left
    /// out since the last one. Otherwise counts this line as left out.
    #[must_use]
    pub fn try_log(&self) -> Option<u64> {
        self.try_log_at(self.since.elapsed())
    }

    fn try_log_at(&self, now: Duration) -> Option<u64> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, next) = (milliseconds(now), milliseconds(now.saturating_add(self.pause)));
        // Relaxed, both: elects the caller that logs.
        let elected = self
            .quiet_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now >= until).then_some(next)
            })
            .is_ok();
        if elected {
            // Relaxed: a count.
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            // Relaxed: a count.
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_logged_with_the_number_of_lines_left_out() {
        let limit = LogLimit::default();
        let at = |seconds| limit.try_log_at(Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(59), at(60), at(61), at(200), at(259)],
            [Some(0), None, None, Some(2), None, Some(1), None]
        );
    }

    #[test]
    fn each_limit_has_a_pause_of_its_own() {
        let limit = LogLimit::new(Duration::from_secs(1));
        let at = |milliseconds| limit.try_log_at(Duration::from_millis(milliseconds));
        assert_eq!([at(0), at(999), at(1_000), at(1_999)], [Some(0), None, Some(1), None]);
    }
}
