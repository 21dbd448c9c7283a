//! [`Health`]: the impairments of a service that still answers requests correctly.
//!
//! Each impairment has a word in the list `degraded` of `/readyz`, a gauge in `/metrics` and an
//! alert rule in `monitoring/alerts.yml`. Word and gauge come from one entry, so neither is
//! forgotten. An impairment never takes the service out of a load balancer: if each process had it,
//! no client could authenticate.

use metrics::{Gauge, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusRecorder;

/// All impairments that are checked.
#[derive(Default)]
pub(crate) struct Health {
    impairments: Vec<Impairment>,
}

/// One impairment.
struct Impairment {
    word: &'static str,
    gauge: &'static str,
    meaning: &'static str,
    is_present: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Health {
    /// Adds an impairment, which has a `word` in `/readyz` and a `gauge` in `/metrics`. `meaning`
    /// explains the gauge, which is 1 while the impairment is present.
    ///
    /// Each probe and each rendering of the metrics calls `is_present`, which must not block.
    pub(crate) fn degraded_if(
        mut self,
        word: &'static str,
        gauge: &'static str,
        meaning: &'static str,
        is_present: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        self.impairments.push(Impairment {
            word,
            gauge,
            meaning,
            is_present: Box::new(is_present),
        });
        self
    }

    /// Returns the words of the impairments that are present.
    pub(crate) fn degraded(&self) -> Vec<&'static str> {
        self.impairments.iter().filter(|one| (one.is_present)()).map(|one| one.word).collect()
    }

    /// Returns a gauge for each impairment, in their order.
    pub(crate) fn gauges(&self, recorder: &PrometheusRecorder) -> Vec<Gauge> {
        metrics::with_local_recorder(recorder, || {
            let register = |one: &Impairment| {
                describe_gauge!(one.gauge, one.meaning);
                gauge!(one.gauge)
            };
            self.impairments.iter().map(register).collect()
        })
    }

    /// Updates the gauges that [`gauges`](Self::gauges) returned.
    pub(crate) fn update(&self, gauges: &[Gauge]) {
        for (one, gauge) in self.impairments.iter().zip(gauges) {
            gauge.set(f64::from(u8::from((one.is_present)())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn an_impairment_has_a_word_and_a_gauge_while_it_is_present() {
        let missing = Arc::new(AtomicBool::new(false));
        let is_missing = Arc::clone(&missing);
        let health = Health::default().degraded_if(
            "part",
            "part_missing",
            "Whether a part is missing",
            // Relaxed: this thread also stores it, below.
            move || is_missing.load(Ordering::Relaxed),
        );
        let recorder = PrometheusBuilder::new().build_recorder();
        let gauges = health.gauges(&recorder);
        for expected in [false, true] {
            // Relaxed: this thread also loads it, in the closure.
            missing.store(expected, Ordering::Relaxed);
            health.update(&gauges);
            let value = u8::from(expected);
            assert!(recorder.handle().render().contains(&format!("\npart_missing {value}\n")));
            assert_eq!(health.degraded().contains(&"part"), expected);
        }
    }
}
