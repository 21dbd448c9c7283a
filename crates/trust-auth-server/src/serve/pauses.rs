//! [`Pauses`]: how long to wait before the next try, so that what fails is not tried without end at
//! once.

use std::time::Duration;

/// Pauses that double, each shortened at random by up to a half: processes that began together do
/// not try together.
pub(crate) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        // Without random bytes the whole pause, which is as good but for the randomness.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Begins with the shortest again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_longest_and_begin_again_after_a_success() {
        let second = Duration::from_secs(1);
        let mut pauses = Pauses::new(second, 5 * second);
        for full in [1, 2, 4, 5, 5] {
            let pause = pauses.next();
            assert!(second * full / 2 <= pause && pause <= second * full, "{pause:?} of {full} s");
        }
        pauses.reset();
        assert!(pauses.next() <= second);
    }
}
