//! [`Backoff`]: the pause before the next attempt to connect. After a restart, a server must not
//! receive every client at once.

use std::time::Duration;

/// Pauses that double, from [`FIRST`](Self::FIRST) to [`LONGEST`](Self::LONGEST), each shortened at
/// random by up to a half.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const FIRST: Duration = Duration::from_millis(50);
    /// With one attempt that fails slowly, a server that is back is still found within 5 s.
    pub(crate) const LONGEST: Duration = Duration::from_secs(2);
    /// A connection that lasted this long was good: the next loss starts from the first pause.
    const STEADY: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Returns the pause before the next attempt, after one that lasted this long.
    pub(crate) fn pause_after(&mut self, lasted: Duration) -> Duration {
        if lasted >= Self::STEADY {
            self.next = Self::FIRST;
        }
        let longest = self.next;
        self.next = (longest * 2).min(Self::LONGEST);
        // Without random bytes every client waits the whole pause: no jitter, and no harm.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        longest / 2 + (longest / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_by_half() {
        let mut backoff = Backoff::new();
        let mut longest = Backoff::FIRST;
        for _ in 0..20 {
            let pause = backoff.pause_after(Backoff::STEADY - Duration::from_nanos(1));
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?} of {longest:?}");
            longest = (longest * 2).min(Backoff::LONGEST);
        }
        assert_eq!(longest, Backoff::LONGEST);
        assert!(backoff.pause_after(Backoff::STEADY) <= Backoff::FIRST);
    }

    #[test]
    fn two_backoffs_do_not_pause_equally_long() {
        let pauses = || {
            let mut backoff = Backoff::new();
            std::array::from_fn::<_, 8, _>(|_| backoff.pause_after(Duration::ZERO))
        };
        assert_ne!(pauses(), pauses());
    }
}
