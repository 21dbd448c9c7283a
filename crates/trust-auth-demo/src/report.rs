//! What the demo found: a table and a verdict in words, or one line of JSON with the same numbers.

use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use trust_auth::Stats;

use super::latency::Latency;
use super::revoker::Changes;
use super::traffic::{TASKS, Tally};

/// Everything, as numbers.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    trusts: u64,
    seconds: f64,
    requests: u64,
    hits: u64,
    stale_hits: u64,
    /// Requests that needed a sweep; `hits + swept + refused_missing == requests`, unless the
    /// store failed.
    swept: u64,
    /// Sweeps, which requests share.
    sweeps: u64,
    rows_swept: u64,
    refused_missing: u64,
    refused_invalid: u64,
    refused_unavailable: u64,
    rotated: u64,
    disabled: u64,
    enabled: u64,
    deleted: u64,
    changed_elsewhere: u64,
    revoked_presented: u64,
    revoked_grants: u64,
    valid_presented: u64,
    valid_refused: u64,
    wrong_trust: u64,
    undecided: u64,
    hot_p50_us: f64,
    hot_p99_us: f64,
    sweep_p50_us: f64,
    sweep_p99_us: f64,
    fetch_p50_us: f64,
    fetch_p99_us: f64,
    #[serde(skip)]
    held: bool,
    #[serde(skip)]
    counts: [u64; 3],
}

impl Report {
    pub(super) fn new(
        trusts: u64,
        ran: Duration,
        stats: Stats,
        changes: Changes,
        tally: &Tally,
    ) -> Self {
        let Tally { verdict, latencies, swept } = tally;
        let micros = |latency: &Latency, quantile| rounded(latency.quantile_us(quantile), 10.0);
        Self {
            trusts,
            seconds: rounded(ran.as_secs_f64(), 1_000.0),
            requests: stats.requests,
            hits: stats.hits,
            stale_hits: stats.stale_hits,
            swept: *swept,
            sweeps: stats.scans,
            rows_swept: stats.rows_swept,
            refused_missing: stats.missing,
            refused_invalid: stats.invalid,
            refused_unavailable: stats.unavailable,
            rotated: changes.rotated,
            disabled: changes.disabled,
            enabled: changes.enabled,
            deleted: changes.deleted,
            changed_elsewhere: changes.elsewhere,
            revoked_presented: verdict.revoked_presented,
            revoked_grants: verdict.revoked_grants,
            valid_presented: verdict.valid_presented,
            valid_refused: verdict.valid_refused,
            wrong_trust: verdict.wrong_trust,
            undecided: verdict.undecided,
            hot_p50_us: micros(&latencies.hot, 0.5),
            hot_p99_us: micros(&latencies.hot, 0.99),
            sweep_p50_us: micros(&latencies.sweep, 0.5),
            sweep_p99_us: micros(&latencies.sweep, 0.99),
            fetch_p50_us: micros(&latencies.fetch, 0.5),
            fetch_p99_us: micros(&latencies.fetch, 0.99),
            held: verdict.held(),
            counts: [latencies.hot.count(), latencies.sweep.count(), latencies.fetch.count()],
        }
    }

    /// Whether no revoked key was granted, and no valid one refused.
    pub(super) fn held(&self) -> bool {
        self.held
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        format!(
            "{} trusts in SQLite, {TASKS} tasks, {:.1} s\n\n{}\n{}\n{}\n\n{}",
            grouped(self.trusts),
            self.seconds,
            self.traffic(),
            self.latencies(),
            self.ratios(),
            self.in_words()
        )
    }

    fn traffic(&self) -> Table {
        let per_second = if self.seconds > 0.0 { self.requests as f64 / self.seconds } else { 0.0 };
        let mut table = table(["TRAFFIC", "", ""]);
        for (name, number, remark) in [
            ("requests", self.requests, format!("{} per second", grouped(per_second as u64))),
            ("hits", self.hits, "cached id, live row accepts".to_owned()),
            ("stale hits", self.stale_hits, "cached id, live row refuses; swept".to_owned()),
            ("swept", self.swept, "not cached, or stale; sweeps are shared".to_owned()),
            ("sweeps", self.sweeps, format!("{} rows, in constant time", grouped(self.rows_swept))),
            ("refused: missing", self.refused_missing, String::new()),
            ("refused: invalid", self.refused_invalid, String::new()),
            ("refused: unavailable", self.refused_unavailable, String::new()),
            ("rotated", self.rotated, "old keys presented all the same".to_owned()),
            ("disabled", self.disabled, format!("{} enabled again", grouped(self.enabled))),
            ("deleted", self.deleted, String::new()),
            (
                "changed elsewhere",
                self.changed_elsewhere,
                "of these, without telling the cache".to_owned(),
            ),
        ] {
            table.add_row([name.to_owned(), grouped(number), remark]);
        }
        align_right(&mut table, &[1]);
        table
    }

    fn latencies(&self) -> Table {
        let mut table = table(["LATENCY", "p50 µs", "p99 µs", "measured"]);
        let [hot, sweep, fetch] = self.counts;
        for (name, p50, p99, count) in [
            ("hot path (hit)", self.hot_p50_us, self.hot_p99_us, hot),
            ("sweep path", self.sweep_p50_us, self.sweep_p99_us, sweep),
            ("bare fetch(id)", self.fetch_p50_us, self.fetch_p99_us, fetch),
        ] {
            table.add_row([
                name.to_owned(),
                format!("{p50:.1}"),
                format!("{p99:.1}"),
                grouped(count),
            ]);
        }
        align_right(&mut table, &[1, 2, 3]);
        table
    }

    fn ratios(&self) -> String {
        format!(
            "At the median, the hot path takes {} as long as a bare fetch,\nand a sweep {} as long as the hot path.",
            times(self.hot_p50_us, self.fetch_p50_us, 2),
            times(self.sweep_p50_us, self.hot_p50_us, 1)
        )
    }

    /// Ends with the one line that matters.
    fn in_words(&self) -> String {
        let conclusion = if self.held {
            "It held: no revoked key was granted, and no valid one refused."
        } else if self.revoked_presented == 0 || self.valid_presented == 0 {
            "IT SHOWED NOTHING: no request was certain enough to be judged. Run it longer."
        } else {
            "IT DID NOT HOLD: an answer was wrong."
        };
        format!(
            "Requests with a revoked key: {}, of which granted: {}.\n\
             Requests with a valid key: {}, of which refused: {}.\n\
             Grants to another trust than the key's: {}.\n\
             {conclusion}",
            grouped(self.revoked_presented),
            grouped(self.revoked_grants),
            grouped(self.valid_presented),
            grouped(self.valid_refused),
            grouped(self.wrong_trust)
        )
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn times(numerator: f64, denominator: f64, digits: usize) -> String {
    if denominator > 0.0 {
        format!("{:.digits$} times", numerator / denominator)
    } else {
        "(not measured)".to_owned()
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::oracle::Verdict;

    fn report(verdict: Verdict) -> Report {
        let mut tally = Tally::new().unwrap();
        tally.verdict = verdict;
        Report::new(3, Duration::from_secs(1), Stats::default(), Changes::default(), &tally)
    }

    const GOOD: Verdict = Verdict {
        revoked_presented: 1_000,
        revoked_grants: 0,
        valid_presented: 1,
        valid_refused: 0,
        wrong_trust: 0,
        undecided: 0,
    };

    #[test]
    fn the_last_line_says_whether_it_held() {
        for (verdict, last_line) in [
            (GOOD, "It held: "),
            (Verdict { revoked_grants: 1, ..GOOD }, "IT DID NOT HOLD"),
            (Verdict { valid_refused: 1, ..GOOD }, "IT DID NOT HOLD"),
            (Verdict { wrong_trust: 1, ..GOOD }, "IT DID NOT HOLD"),
            (Verdict::default(), "IT SHOWED NOTHING"),
        ] {
            let report = report(verdict);
            let text = report.text();
            assert!(text.lines().last().unwrap().starts_with(last_line), "{text}");
            assert_eq!(report.held(), verdict == GOOD);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let report = report(GOOD);
        assert!(report.text().contains("(not measured)"));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json.as_object().unwrap().values().all(serde_json::Value::is_number), "{json}");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
