//! [`Health`]: what is wrong with the service although it answers requests as it should.
//!
//! Each such impairment has a word in `/readyz`'s list `degraded`, a gauge in `/metrics` and an
//! alert rule in `docs/operating.md`. The three come from one entry, so that none of them is
//! forgotten. An impairment never takes the service out of a balancer: where every process has it,
//! no client could authenticate.

use metrics::{Gauge, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusRecorder;

/// All impairments that are looked for.
#[derive(Default)]
pub(crate) struct Health {
    impairments: Vec<Impairment>,
}

/// One of them.
struct Impairment {
    word: &'static str,
    gauge: &'static str,
    meaning: &'static str,
    is_there: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Health {
    /// Adds an impairment. `is_there` is called for each probe and each look at the metrics, and
    /// must not block.
    ///
    /// `word` names it in `/readyz`, `gauge` is 1 in `/metrics` while it is there, and `meaning`
    /// explains the gauge.
    pub(crate) fn degraded_if(
        mut self,
        word: &'static str,
        gauge: &'static str,
        meaning: &'static str,
        is_there: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        self.impairments.push(Impairment { word, gauge, meaning, is_there: Box::new(is_there) });
        self
    }

    /// The words of those that are there now.
    pub(crate) fn degraded(&self) -> Vec<&'static str> {
        self.impairments.iter().filter(|one| (one.is_there)()).map(|one| one.word).collect()
    }

    /// A gauge for each, in the order of the impairments.
    pub(crate) fn gauges(&self, recorder: &PrometheusRecorder) -> Vec<Gauge> {
        metrics::with_local_recorder(recorder, || {
            let register = |one: &Impairment| {
                describe_gauge!(one.gauge, one.meaning);
                gauge!(one.gauge)
            };
            self.impairments.iter().map(register).collect()
        })
    }

    /// Sets the gauges that [`gauges`](Self::gauges) made.
    pub(crate) fn update(&self, gauges: &[Gauge]) {
        for (one, gauge) in self.impairments.iter().zip(gauges) {
            gauge.set(f64::from(u8::from((one.is_there)())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn an_impairment_has_its_word_and_its_gauge_while_it_is_there() {
        let ill = Arc::new(AtomicBool::new(false));
        let is_ill = Arc::clone(&ill);
        let health = Health::default().degraded_if(
            "limb",
            "limb_missing",
            "Whether a limb is missing",
            move || is_ill.load(Ordering::Relaxed),
        );
        let recorder = super::super::meters::recorder();
        let gauges = health.gauges(&recorder);
        for expected in [false, true] {
            // Relaxed, as in the closure: one thread does both.
            ill.store(expected, Ordering::Relaxed);
            health.update(&gauges);
            let value = u8::from(expected);
            assert!(recorder.handle().render().contains(&format!("\nlimb_missing {value}\n")));
            assert_eq!(health.degraded().contains(&"limb"), expected);
        }
    }
}
