//! Welch's t-test, for two sets of durations with different variances.

/// Returns Welch's t. Returns zero if the means are equal.
pub(crate) fn welch(left: &[f64], right: &[f64]) -> f64 {
    let (left, right) = (Moments::of(left), Moments::of(right));
    let difference = left.mean - right.mean;
    if difference == 0.0 { 0.0 } else { difference / (left.error() + right.error()).sqrt() }
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Moments {
    fn of(durations: &[f64]) -> Self {
        let count = durations.len() as f64;
        let mean = durations.iter().sum::<f64>() / count;
        let squares: f64 = durations.iter().map(|duration| (duration - mean).powi(2)).sum();
        Self { count, mean, variance: squares / (count - 1.0) }
    }

    /// Returns the squared standard error of the mean.
    fn error(&self) -> f64 {
        self.variance / self.count
    }
}
