//! [`RetryPauses`]: the pauses between attempts, so that a failed attempt is not repeated at once.

use std::time::Duration;

/// Pauses that double up to a longest one.
///
/// Each is shortened at random by up to a half, so processes that began together do not retry
/// together.
pub(crate) struct RetryPauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryPauses {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Returns the pause before the next attempt.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        // Without random bytes it is the whole pause.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts with the first pause again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_restart_after_a_success() {
        let second = Duration::from_secs(1);
        let mut pauses = RetryPauses::new(second, 5 * second);
        for full in [1, 2, 4, 5, 5] {
            let pause = pauses.next_pause();
            assert!(second * full / 2 <= pause && pause <= second * full, "{pause:?} of {full} s");
        }
        pauses.reset();
        assert!(pauses.next_pause() <= second);
    }
}
