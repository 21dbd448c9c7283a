//! [`RejectFloor`]: the shortest duration of a refusal, so that its duration does not reveal how
//! many trusts there are.

use std::time::Duration;

use tokio::runtime::{Handle, TryCurrentError};
use tokio::time::{Instant, sleep_until};

/// The longest step; far from the limits of the clock.
const MAX_STEP: Duration = Duration::from_hours(24);

/// The duration of a refusal, as a step: one step at least, and whole multiples beyond.
///
/// A client still sees the time between waking up and its answer. The runtime wakes up at its own
/// ticks of a millisecond, which begin with the runtime, whatever was done before. So a refusal is
/// up to a few milliseconds late. The delay depends on the load of the machine, and not on what the
/// request found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RejectFloor {
    step: Duration,
}

impl RejectFloor {
    /// Returns a floor of this step. Zero is no floor.
    pub(crate) fn new(step: Duration) -> Self {
        Self { step: step.min(MAX_STEP) }
    }

    /// Returns whether the floor hides this duration: it ends before the first step, or there is no
    /// floor.
    pub(crate) fn hides(self, duration: Duration) -> bool {
        self.step.is_zero() || duration < self.step
    }

    /// Returns when a request began. Without a floor, returns `None` at no cost.
    pub(crate) fn start(self) -> Option<Instant> {
        (!self.step.is_zero()).then(Instant::now)
    }

    /// Returns an error if there is no runtime for [`hold`](Self::hold).
    pub(crate) fn can_hold(start: Option<Instant>) -> Result<(), TryCurrentError> {
        start.map_or(Ok(()), |_| Handle::try_current().map(drop))
    }

    /// Waits until the refusal of a request that began at `start` may be returned.
    ///
    /// Cancel safe: it holds nothing.
    pub(crate) async fn hold(self, start: Option<Instant>) {
        if let Some(start) = start {
            sleep_until(start + whole_steps(start.elapsed(), self.step)).await;
        }
    }
}

/// Returns the least multiple of `step`, and at least `step`, that is not shorter than `elapsed`.
fn whole_steps(elapsed: Duration, step: Duration) -> Duration {
    let steps = elapsed.as_nanos().div_ceil(step.as_nanos()).max(1);
    Duration::from_nanos_u128(steps * step.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_ends_before_the_first_step_is_hidden() {
        let floor = RejectFloor::new(Duration::from_millis(20));
        assert!(
            floor.hides(Duration::from_nanos(19_999_999))
                && !floor.hides(Duration::from_millis(20))
        );
        assert!(RejectFloor::new(Duration::ZERO).hides(Duration::MAX), "there is no floor");
    }

    #[test]
    fn a_refusal_takes_at_least_one_step_and_whole_steps() {
        let step = Duration::from_millis(20);
        let cases = [
            (0, 20),
            (1, 20),
            (19_999_999, 20),
            (20_000_000, 20),
            (20_000_001, 40),
            (110_000_000, 120),
        ];
        for (elapsed, due) in cases {
            assert_eq!(
                whole_steps(Duration::from_nanos(elapsed), step),
                Duration::from_millis(due),
                "{elapsed} ns"
            );
        }
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        assert_eq!(whole_steps(day, Duration::from_nanos(1)), day);
        assert_eq!(whole_steps(second, RejectFloor::new(Duration::MAX).step), day);
    }
}
