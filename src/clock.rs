//! The clocks: [`CoarseClock`] counts a cache's time-to-live, [`BootClock`] counts a read lease,
//! and [`ManualClock`] is for tests.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::{sync::OnceLock, time::Instant};

/// Returns a monotonic time. A lookup reads the cache's clock once, or not at all.
///
/// A clock may lag behind the true time by at most its [`resolution`](Self::resolution), as coarse
/// clocks do. The cache counts the resolution against its entries, never in their favour. If a
/// clock lags by more, entries outlive their time-to-live by the excess.
///
/// # Examples
///
/// A clock over [`std::time::Instant`], for a time-to-live finer than [`CoarseClock`] can count:
///
/// ```
/// use std::time::{Duration, Instant};
/// use trust_key_cache::{Clock, KeyCache};
///
/// struct Precise(Instant);
///
/// impl Clock for Precise {
///     fn now(&self) -> Duration {
///         self.0.elapsed()
///     }
///     fn resolution(&self) -> Duration {
///         Duration::ZERO
///     }
/// }
///
/// # fn main() -> Result<(), trust_key_cache::BuildError> {
/// let cache = KeyCache::<u32>::builder()
///     .ttl(Duration::from_micros(500))
///     .clock(Precise(Instant::now()))
///     .build()?;
/// # let _ = cache; Ok(()) }
/// ```
pub trait Clock {
    /// Returns the time since a fixed origin of this clock.
    ///
    /// The time is never less than the result of a call that happened before this call. What a
    /// thread loads after this call must be no older than the time: if the time is kept in an
    /// atomic, load it with `Acquire` and store it with `Release`. With weaker orderings a lookup
    /// may miss a value that replaced an expiring one, but never returns an expired value.
    fn now(&self) -> Duration;

    /// Returns the longest lag of [`now`](Self::now) behind the true time.
    ///
    /// [`Builder::build`](crate::Builder::build) calls `resolution` once.
    fn resolution(&self) -> Duration;

    /// Returns [`now`](Self::now) in nanoseconds, as entries store their expiry. A clock that reads
    /// seconds and nanoseconds has them cheaper than through a [`Duration`].
    #[doc(hidden)]
    #[inline]
    fn now_nanos(&self) -> u64 {
        nanos(self.now())
    }
}

/// Reads the cheapest monotonic clock of the platform. The default clock.
///
/// On Linux and Android that clock is `CLOCK_MONOTONIC_COARSE`. The kernel refreshes it once a tick
/// (1 to 10 ms), and the vDSO reads it in a few nanoseconds, without a system call. Its
/// [`resolution`](Clock::resolution) is ten ticks, and at least 100 ms, because ticks may be late.
/// A time-to-live must be longer than the resolution, and a value may expire early by the
/// resolution.
///
/// On other platforms the clock is [`std::time::Instant`]. Neither clock runs while the machine is
/// suspended: see `docs/limits.md`.
///
/// ```
/// use trust_key_cache::{Clock, CoarseClock};
///
/// let earlier = CoarseClock.now();
/// assert!(CoarseClock.now() >= earlier);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CoarseClock;

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Clock for CoarseClock {
    #[inline]
    fn now(&self) -> Duration {
        from_timespec(rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse))
    }

    #[inline]
    fn now_nanos(&self) -> u64 {
        nanos_of(rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse))
    }

    fn resolution(&self) -> Duration {
        // Miri does not implement `clock_getres`.
        if cfg!(miri) {
            return promised(Duration::from_millis(4));
        }
        promised(from_timespec(rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse)))
    }
}

/// Returns the resolution of a clock that is refreshed once a `tick`.
///
/// The kernel adds whole ticks only, and a tick may be late: lags of three ticks occur on an idle
/// machine. Ten ticks, and at least 100 ms, are a small part of a time-to-live of a minute.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn promised(tick: Duration) -> Duration {
    (tick * 10).max(Duration::from_millis(100))
}

/// Converts the kernel's time. Its fields are non-negative, and its nanoseconds are below a second.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn from_timespec(time: rustix::time::Timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the kernel's time in nanoseconds: the time since the machine's start, which ends after
/// 584 years.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn nanos_of(time: rustix::time::Timespec) -> u64 {
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Clock for CoarseClock {
    #[inline]
    fn now(&self) -> Duration {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        ORIGIN.get_or_init(Instant::now).elapsed()
    }

    fn resolution(&self) -> Duration {
        // The precise clocks behind `Instant` lag by less than the duration of a read.
        Duration::ZERO
    }
}

/// Reads a clock that also counts the time while the machine is suspended. The clock of a
/// [`ReadLease`](crate::ReadLease).
///
/// On Linux and Android that clock is `CLOCK_BOOTTIME`. A read returns the time of the read, so
/// the [`resolution`](Clock::resolution) is zero. The vDSO reads it without a system call, from
/// Linux 5.3 on, in some 20 ns. After a suspend, the kernel adds the time that a clock of the
/// hardware has counted. On some machines this is the real-time clock, which counts whole seconds:
/// see `docs/limits.md`.
///
/// On other platforms the crate has no such clock ([`IS_SUPPORTED`](Self::IS_SUPPORTED)). There
/// [`now`](Clock::now) returns [`Duration::MAX`], the end of every clock's range. So a read lease
/// with this clock is never valid, and every request reads the source of truth. Give
/// [`ReadLease::with_clock`](crate::ReadLease::with_clock) a clock of your own there.
///
/// ```
/// use trust_key_cache::{BootClock, Clock};
///
/// let earlier = BootClock.now();
/// assert!(BootClock.now() >= earlier);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl BootClock {
    /// Whether this platform has the clock. If not, no read lease with this clock is ever valid.
    pub const IS_SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "android"));
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl BootClock {
    #[inline]
    fn time() -> rustix::time::Timespec {
        // Miri does not implement `CLOCK_BOOTTIME`, and suspends no machine.
        let id = if cfg!(miri) {
            rustix::time::ClockId::Monotonic
        } else {
            rustix::time::ClockId::Boottime
        };
        rustix::time::clock_gettime(id)
    }
}

impl Clock for BootClock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    fn now(&self) -> Duration {
        from_timespec(Self::time())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    fn now_nanos(&self) -> u64 {
        nanos_of(Self::time())
    }

    /// A clock that stops while the machine is suspended would keep a lease valid for too long. At
    /// the end of the range, no lease is valid.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn now(&self) -> Duration {
        Duration::MAX
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

/// Returns a time that only [`advance`](Self::advance) moves, for tests. Clones share the time.
///
/// The clock counts whole nanoseconds in 64 bits, from zero, and stops at the end of its range (584
/// years).
///
/// ```
/// use std::time::Duration;
/// use trust_key_cache::{KeyCache, KeyHash, ManualClock};
///
/// # fn main() -> Result<(), trust_key_cache::BuildError> {
/// let clock = ManualClock::new();
/// let cache = KeyCache::builder().ttl(Duration::from_secs(60)).clock(clock.clone()).build()?;
/// let hash = KeyHash::of("key");
/// assert!(cache.lease(&hash).remember(7));
///
/// clock.advance(Duration::from_nanos(59_999_999_999));
/// assert_eq!(cache.lookup(&hash), Some(7));
/// clock.advance(Duration::from_nanos(1));
/// assert_eq!(cache.lookup(&hash), None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Arc<Mutex<u64>>,
}

impl ManualClock {
    /// Returns a clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the time forward by `step`, for every clone.
    pub fn advance(&self, step: Duration) {
        let mut now = self.nanos();
        *now = now.saturating_add(nanos(step));
    }

    /// The lock orders a lookup that reads a time after all that was remembered before it (G3.6).
    fn nanos(&self) -> MutexGuard<'_, u64> {
        self.nanos.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(*self.nanos())
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

/// Converts a time to nanoseconds in 64 bits, as entries store their expiry.
///
/// All times of 584 years or more become the same number.
#[inline]
pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g3_times_beyond_584_years_are_all_the_same() {
        let last = Duration::from_nanos(u64::MAX);
        assert_eq!(nanos(last), u64::MAX);
        assert_eq!(nanos(last - Duration::from_nanos(1)), u64::MAX - 1);
        for beyond in [1, 1_000_000_000, 1 << 62].map(Duration::from_nanos) {
            assert_eq!(nanos(last + beyond), u64::MAX, "{beyond:?} beyond");
        }
        for seconds in [18_446_744_073, 18_446_744_074, 2 * 18_446_744_074, u64::MAX / 2, u64::MAX]
        {
            assert_eq!(nanos(Duration::new(seconds, 999_999_999)), u64::MAX, "{seconds} s");
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn g3_a_coarse_clock_promises_ten_ticks_and_a_tenth_of_a_second_at_least() {
        let promise = |tick| promised(Duration::from_millis(tick)).as_millis();
        assert_eq!([1, 4, 10, 11, 20].map(promise), [100, 100, 100, 110, 200]);
    }
}
