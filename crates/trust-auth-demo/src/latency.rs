//! Durations, as histograms: recording one costs no allocation, and a percentile is at most 0.1 %
//! off.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::failure::Failure;

/// A minute: longer than the demo's database is given for an answer.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// One kind of operation, in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Latency(Histogram<u64>);

impl Latency {
    pub(super) fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, LONGEST_NANOS, 3)
            .map(Self)
            .map_err(|error| Failure::new("histogram", format!("cannot make a histogram: {error}")))
    }

    /// Durations beyond a minute count as a minute.
    pub(super) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(LONGEST_NANOS));
    }

    pub(super) fn add(&mut self, other: &Self) {
        // All have the same bounds, so that there is nothing that does not fit.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share of the operations did not exceed, in microseconds; zero if
    /// there were none.
    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        // Nanoseconds below 2^53 are exact in a double.
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// The three ways whose prices the demo compares.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    /// Granted requests that hit the cache.
    pub(super) hot: Latency,
    /// Granted requests that swept.
    pub(super) sweep: Latency,
    /// `fetch(id)` and nothing else, next to hot requests for the same trust.
    pub(super) fetch: Latency,
}

impl Latencies {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { hot: Latency::new()?, sweep: Latency::new()?, fetch: Latency::new()? })
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.hot.add(&other.hot);
        self.sweep.add(&other.sweep);
        self.fetch.add(&other.fetch);
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
