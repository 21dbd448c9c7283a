//! Histograms of durations. Recording allocates nothing, and a percentile is at most 0.1 % off.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::demo_error::DemoError;

/// A minute, which is longer than the database may take for an answer.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// The durations of one kind of operation, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Result<Self, DemoError> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_NANOS, 3)?))
    }

    /// Records a duration. A duration beyond a minute counts as a minute.
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(LONGEST_NANOS));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // All histograms have the same bounds, so every value fits.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the duration that this share of the operations did not exceed, in microseconds.
    /// Returns zero if there were no operations.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        // Nanoseconds below 2^53 are exact in a double.
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// The operations that the demo compares.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// Granted requests with a key that was cached, or held under the read lease.
    pub(crate) hot: Latency,
    /// Granted requests that a scan answered, or a look under the read lease.
    pub(crate) scan: Latency,
    /// Calls of `fetch(id)` alone, made next to hot requests for the same trust.
    pub(crate) fetch: Latency,
    /// Revocations, with their wait.
    pub(crate) revocation: Latency,
}

impl Latencies {
    pub(crate) fn new() -> Result<Self, DemoError> {
        Ok(Self {
            hot: Latency::new()?,
            scan: Latency::new()?,
            fetch: Latency::new()?,
            revocation: Latency::new()?,
        })
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.hot.add(&other.hot);
        self.scan.add(&other.scan);
        self.fetch.add(&other.fetch);
        self.revocation.add(&other.revocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds_and_an_empty_histogram_gives_zero() {
        let mut latency = Latency::new().unwrap();
        assert_eq!(latency.quantile_us(0.5), 0.0);
        for micros in 1..=100 {
            latency.record(Duration::from_micros(micros));
        }
        assert!((latency.quantile_us(0.5) - 50.0).abs() <= 0.1, "{}", latency.quantile_us(0.5));
        assert!((latency.quantile_us(0.99) - 99.0).abs() <= 0.1, "{}", latency.quantile_us(0.99));
        assert_eq!(latency.count(), 100);
    }

    #[test]
    fn a_duration_beyond_the_bounds_is_counted() {
        let mut latency = Latency::new().unwrap();
        latency.record(Duration::MAX);
        latency.record(Duration::ZERO);
        assert_eq!(latency.count(), 2);
    }
}
