//! [`RejectFloor`]: how long a refusal takes at least, so that its duration does not tell how many trusts there are.

use std::time::Duration;

use tokio::runtime::{Handle, TryCurrentError};
use tokio::time::{Instant, sleep_until};

/// The longest step; far from the limits of the clock.
const MAX_STEP: Duration = Duration::from_hours(24);

/// The time that a refusal takes, as a step: one of it at least, and whole multiples beyond.
///
/// What is still to be seen is the time between waking up and the answer at the client. The runtime
/// wakes up at its own ticks of a millisecond, which begin when the runtime does, whatever was done
/// before. So a refusal is up to a few milliseconds late, by an amount that depends on the
/// machine's load and not on what the request found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RejectFloor {
    step: Duration,
}

impl RejectFloor {
    /// Zero is no floor.
    pub(crate) fn new(step: Duration) -> Self {
        Self { step: step.min(MAX_STEP) }
    }

    /// Whether what takes so long is hidden: it is over before the first step, or there is no floor
    /// that should hide it.
    pub(crate) fn hides(self, duration: Duration) -> bool {
        self.step.is_zero() || duration < self.step
    }

    /// When a request began; `None` without a floor, which then costs nothing.
    pub(crate) fn start(self) -> Option<Instant> {
        (!self.step.is_zero()).then(Instant::now)
    }

    /// Whether there is a runtime to [wait](Self::hold) by.
    pub(crate) fn can_hold(start: Option<Instant>) -> Result<(), TryCurrentError> {
        start.map_or(Ok(()), |_| Handle::try_current().map(drop))
    }

    /// Waits until a refusal that began at `start` may go out.
    ///
    /// Cancel safe: there is nothing to give back.
    pub(crate) async fn hold(self, start: Option<Instant>) {
        if let Some(start) = start {
            sleep_until(start + whole_steps(start.elapsed(), self.step)).await;
        }
    }
}

/// The least multiple of `step`, of one at least, that is not shorter than `elapsed`.
fn whole_steps(elapsed: Duration, step: Duration) -> Duration {
    let steps = elapsed.as_nanos().div_ceil(step.as_nanos()).max(1);
    Duration::from_nanos_u128(steps * step.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_before_the_first_step_is_hidden() {
        let floor = RejectFloor::new(Duration::from_millis(20));
        assert!(
            floor.hides(Duration::from_nanos(19_999_999))
                && !floor.hides(Duration::from_millis(20))
        );
        assert!(RejectFloor::new(Duration::ZERO).hides(Duration::MAX), "nothing is to be hidden");
    }

    #[test]
    fn a_refusal_takes_whole_steps_and_one_at_least() {
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
