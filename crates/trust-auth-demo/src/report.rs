//! The result of the demo, as tables and a conclusion, or as one line of JSON.

use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use trust_auth::Stats;

use crate::latency::Latency;
use crate::revoker::Changes;
use crate::traffic::{TASKS, Tally};

/// The width of the tables, in columns.
const WIDTH: u16 = 60;

/// All numbers of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    trusts: u64,
    seconds: f64,
    requests: u64,
    hits: u64,
    /// Hits without a read, under the read lease.
    without_a_read: u64,
    stale_hits: u64,
    /// Requests that needed a scan. Unless the store failed,
    /// `hits + scanned + refused_missing == requests`.
    scanned: u64,
    /// Scans, which requests share.
    scans: u64,
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
    scan_p50_us: f64,
    scan_p99_us: f64,
    fetch_p50_us: f64,
    fetch_p99_us: f64,
    revocation_p50_us: f64,
    revocation_p99_us: f64,
    /// The same under the read lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_lease: Option<Box<Report>>,
    #[serde(skip)]
    held: bool,
    #[serde(skip)]
    counts: [u64; 3],
}

impl Report {
    pub(crate) fn new(
        trusts: u64,
        ran: Duration,
        stats: Stats,
        changes: Changes,
        tally: &Tally,
    ) -> Self {
        let Tally { verdict, latencies, scanned } = tally;
        let micros = |latency: &Latency, quantile| rounded(latency.quantile_us(quantile), 10.0);
        Self {
            trusts,
            seconds: rounded(ran.as_secs_f64(), 1_000.0),
            requests: stats.requests,
            hits: stats.hits + stats.held,
            without_a_read: stats.held,
            stale_hits: stats.stale_hits,
            scanned: *scanned,
            scans: stats.scans,
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
            scan_p50_us: micros(&latencies.scan, 0.5),
            scan_p99_us: micros(&latencies.scan, 0.99),
            fetch_p50_us: micros(&latencies.fetch, 0.5),
            fetch_p99_us: micros(&latencies.fetch, 0.99),
            revocation_p50_us: micros(&latencies.revocation, 0.5),
            revocation_p99_us: micros(&latencies.revocation, 0.99),
            read_lease: None,
            held: verdict.held(),
            counts: [latencies.hot.count(), latencies.scan.count(), latencies.fetch.count()],
        }
    }

    /// Adds the report of the same traffic under the read lease.
    pub(crate) fn next_to(self, read_lease: Self) -> Self {
        Self { read_lease: Some(Box::new(read_lease)), ..self }
    }

    /// Returns whether no revoked key was granted, and no valid key refused, in either mode.
    pub(crate) fn held(&self) -> bool {
        self.held && self.read_lease.as_ref().is_none_or(|report| report.held())
    }

    /// Returns the report as one line of JSON.
    pub(crate) fn json(&self) -> String {
        // The report is numbers alone, and their serialization does not fail.
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("{error}"))
    }

    /// Returns the report as tables, and a last line with the conclusion.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            self.traffic(),
            self.latencies(),
            self.ratios(),
            self.judged(),
            self.read_lease.as_ref().map_or_else(String::new, |leased| self.modes(leased)),
            self.conclusion()
        )
    }

    fn per_second(&self) -> u64 {
        if self.seconds > 0.0 { (self.requests as f64 / self.seconds) as u64 } else { 0 }
    }

    /// Returns both modes side by side, and what the read costs.
    fn modes(&self, leased: &Self) -> String {
        let mut table = table(["BOTH MODES", "by reading", "read lease"]);
        let mut row = |name: &str, cell: &dyn Fn(&Self) -> String| {
            table.add_row([name.to_owned(), cell(self), cell(leased)]);
        };
        let micros = |micros: f64| format!("{micros:.1}");
        row("hit, p50 µs", &|report| micros(report.hot_p50_us));
        row("hit, p99 µs", &|report| micros(report.hot_p99_us));
        row("requests per second", &|report| grouped(report.per_second()));
        row("hits without a read", &|report| grouped(report.without_a_read));
        row("revocations", &|report| grouped(report.rotated + report.disabled + report.deleted));
        row("revocation, p50 µs", &|report| micros(report.revocation_p50_us));
        row("revoked key presented", &|report| grouped(report.revoked_presented));
        row("of these granted", &|report| grouped(report.revoked_grants));
        row("valid key refused", &|report| grouped(report.valid_refused));
        align_right(&mut table, &[1, 2]);
        format!(
            "{table}\nAt the median, a hit by reading takes\n\
             {} as long as one under the read lease. A\n\
             revocation under it waits until no process grants.\n\
             Both have the same bare fetches and bad keys, which\n\
             ask the database.\n",
            times(self.hot_p50_us, leased.hot_p50_us, 0)
        )
    }

    fn traffic(&self) -> Table {
        let per_second = grouped(self.per_second());
        let rows = [
            ("requests", self.requests, format!("{per_second} per second")),
            ("hits", self.hits, "cached id, live row accepts".to_owned()),
            ("stale hits", self.stale_hits, "cached id, live row refuses".to_owned()),
            ("scanned", self.scanned, "not cached, or a stale hit".to_owned()),
            ("scans", self.scans, format!("shared; {} rows", grouped(self.rows_swept))),
            ("missing", self.refused_missing, "refused: no key".to_owned()),
            ("invalid", self.refused_invalid, "refused: key not valid".to_owned()),
            ("unavailable", self.refused_unavailable, "refused: database failed".to_owned()),
            ("rotated", self.rotated, "old key presented again".to_owned()),
            ("disabled", self.disabled, format!("{} enabled again", grouped(self.enabled))),
            ("deleted", self.deleted, "key presented again".to_owned()),
            ("elsewhere", self.changed_elsewhere, "of these: no invalidation".to_owned()),
        ];
        counts_table("TRAFFIC", rows)
    }

    fn latencies(&self) -> Table {
        let mut table = table(["LATENCY", "p50 µs", "p99 µs", "measured"]);
        let [hot, scan, fetch] = self.counts;
        for (name, p50, p99, count) in [
            ("hot path (hit)", self.hot_p50_us, self.hot_p99_us, hot),
            ("scan path", self.scan_p50_us, self.scan_p99_us, scan),
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
            "At the median, a hit takes {} as long as a\n\
             bare fetch, and a scan {} as long as a hit.\n",
            times(self.hot_p50_us, self.fetch_p50_us, 2),
            times(self.scan_p50_us, self.hot_p50_us, 1)
        )
    }

    fn judged(&self) -> Table {
        let rows = [
            (
                "revoked key",
                self.revoked_presented,
                format!("granted: {}", grouped(self.revoked_grants)),
            ),
            (
                "valid key",
                self.valid_presented,
                format!("refused: {}", grouped(self.valid_refused)),
            ),
            ("wrong trust", self.wrong_trust, "granted to another trust".to_owned()),
            ("not judged", self.undecided, "key changed meanwhile".to_owned()),
        ];
        counts_table("ANSWERS JUDGED", rows)
    }

    fn conclusion(&self) -> &'static str {
        let shows_nothing =
            |report: &Self| report.revoked_presented == 0 || report.valid_presented == 0;
        if self.held() {
            "Held: no revoked key was granted, and no valid key refused."
        } else if shows_nothing(self) || self.read_lease.as_deref().is_some_and(shows_nothing) {
            "NOTHING SHOWN: no answer was judged. Raise --seconds."
        } else {
            "NOT HELD: an answer was wrong."
        }
    }
}

/// Returns what the demo is about to show, and what would be a failure.
pub(crate) fn introduction(trusts: u32, seconds: u32) -> String {
    format!(
        "About to revoke keys under load: granting one is a failure.\n\
         So is refusing a valid key. {} trusts (tenants that\n\
         have API keys) in SQLite, {TASKS} tasks, {seconds} s of requests:\n\
         first each grant reads, then none does (the read lease).\n",
        grouped(trusts.into())
    )
}

/// Returns a table of names, numbers and remarks.
fn counts_table<const N: usize>(title: &str, rows: [(&str, u64, String); N]) -> Table {
    let mut table = table([title, "", ""]);
    for (name, number, remark) in rows {
        table.add_row([name.to_owned(), grouped(number), remark]);
    }
    align_right(&mut table, &[1]);
    table
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header);
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

/// Writes `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
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
    use crate::oracle::Verdict;

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
            (GOOD, "Held: "),
            (Verdict { revoked_grants: 1, ..GOOD }, "NOT HELD"),
            (Verdict { valid_refused: 1, ..GOOD }, "NOT HELD"),
            (Verdict { wrong_trust: 1, ..GOOD }, "NOT HELD"),
            (Verdict::default(), "NOTHING SHOWN"),
        ] {
            let report = report(verdict);
            let text = report.text();
            assert!(text.lines().last().unwrap().starts_with(last_line), "{text}");
            assert_eq!(report.held(), verdict == GOOD);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH.into()), "{text}");
        }
    }

    #[test]
    fn the_introduction_and_large_numbers_fit_60_columns() {
        let million = 123_456_789;
        let mut large = report(GOOD);
        for number in [
            &mut large.requests,
            &mut large.hits,
            &mut large.scans,
            &mut large.rows_swept,
            &mut large.revoked_presented,
            &mut large.counts[0],
        ] {
            *number = million;
        }
        large.hot_p99_us = 1e9;
        let mut leased = report(GOOD);
        (leased.without_a_read, leased.requests) = (million, million);
        leased.revocation_p50_us = 1e9;
        let text = introduction(100_000, 3_600) + &large.next_to(leased).text();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH.into(), "{line}");
        }
        assert!(text.lines().next().unwrap().ends_with("is a failure."), "{text}");
    }

    #[test]
    fn a_report_without_measurements_divides_by_nothing() {
        let report = report(GOOD);
        assert!(report.text().contains("(not measured)"));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json.as_object().unwrap().values().all(serde_json::Value::is_number), "{json}");
        let both = report.next_to(self::report(Verdict { revoked_grants: 1, ..GOOD }));
        assert!(!both.held() && both.text().lines().last().unwrap().starts_with("NOT HELD"));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
