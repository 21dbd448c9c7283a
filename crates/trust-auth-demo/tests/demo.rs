//! Small runs of the real program: its report, its verdict, and that it leaves no files behind.
//!
//! No test asserts a speed, because other programs may run on the machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The fields of the report.
const PROMISED: [&str; 31] = [
    "trusts",
    "seconds",
    "requests",
    "hits",
    "without_a_read",
    "stale_hits",
    "scanned",
    "scans",
    "rows_swept",
    "refused_missing",
    "refused_invalid",
    "refused_unavailable",
    "rotated",
    "disabled",
    "enabled",
    "deleted",
    "changed_elsewhere",
    "revoked_presented",
    "revoked_grants",
    "valid_presented",
    "valid_refused",
    "wrong_trust",
    "undecided",
    "hot_p50_us",
    "hot_p99_us",
    "scan_p50_us",
    "scan_p99_us",
    "fetch_p50_us",
    "fetch_p99_us",
    "revocation_p50_us",
    "revocation_p99_us",
];

/// Returns a command for the demo, which makes its temporary folder in `folder`.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trust-auth-demo"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("TMPDIR", folder)
        .env("TMP", folder)
        .env_remove("TRUST_AUTH_DATABASE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the demo, and asserts that it leaves no files behind.
fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), arguments).output().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the demo has left files behind");
    output
}

fn report(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(stdout.ends_with('\n') && stdout.matches('\n').count() == 1, "{stdout:?}");
    serde_json::from_str(&stdout).unwrap()
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}

#[test]
fn the_report_is_one_line_of_numbers_and_says_that_it_held() {
    let mut report = report(&["--trusts", "30", "--seconds", "1", "--json"]);
    let leased = report.as_object_mut().unwrap().remove("read_lease").unwrap();
    assert_is_whole(&report);
    assert_is_whole(&leased);
    assert_eq!(count(&report, "without_a_read"), 0, "{report}");
    assert!(count(&leased, "without_a_read") > 0, "{leased}");
}

fn assert_is_whole(report: &Value) {
    let fields = report.as_object().unwrap();
    assert!(fields.values().all(Value::is_number), "{report}");
    for field in PROMISED {
        assert!(fields.contains_key(field), "{field} in {report}");
    }
    assert_eq!(fields.len(), PROMISED.len(), "{report}");

    let count = |field| count(report, field);
    assert_eq!(count("trusts"), 30);
    for bad in ["revoked_grants", "valid_refused", "wrong_trust", "refused_unavailable"] {
        assert_eq!(count(bad), 0, "{bad} in {report}");
    }
    for kind in
        ["rotated", "disabled", "enabled", "deleted", "revoked_presented", "valid_presented"]
    {
        assert!(count(kind) > 0, "{kind} in {report}");
    }
    assert!(count("refused_missing") > 0 && count("refused_invalid") > 0, "{report}");
    for latency in ["hot_p50_us", "hot_p99_us", "scan_p50_us", "scan_p99_us", "revocation_p50_us"] {
        assert!(report[latency].as_f64().unwrap() > 0.0, "{latency} in {report}");
    }
}

#[test]
fn every_request_is_accounted_for() {
    let report = report(&["--trusts", "30", "--seconds", "1", "--json"]);
    let count = |field| count(&report, field);
    let judged = count("revoked_presented") + count("valid_presented") + count("undecided");
    assert_eq!(judged, count("requests"), "{report}");
    assert_eq!(
        count("hits") + count("scanned") + count("refused_missing"),
        count("requests"),
        "{report}"
    );
    // Requests share scans. A request whose row changes during a scan needs a second scan.
    assert!((1..=2 * count("scanned")).contains(&count("scans")), "{report}");
    assert!(count("stale_hits") <= count("scanned"), "{report}");
    assert!(count("rows_swept") <= count("scans") * 30, "{report}");
}

#[test]
fn one_trust_alone_is_rotated_disabled_enabled_and_deleted() {
    let report = report(&["--trusts", "1", "--seconds", "1", "--json"]);
    for kind in ["rotated", "disabled", "enabled", "deleted"] {
        assert_eq!(count(&report, kind), 1, "{kind} in {report}");
    }
    for report in [&report, &report["read_lease"]] {
        let wrong = count(report, "revoked_grants") + count(report, "valid_refused");
        assert_eq!(wrong, 0, "{report}");
    }
}

/// G9: the second round of changes does not invalidate the cache, so the live row alone refuses a
/// revoked key.
#[test]
fn revocations_by_another_process_are_stale_hits_and_never_granted() {
    let report = report(&["--trusts", "60", "--seconds", "1", "--json"]);
    for report in [&report, &report["read_lease"]] {
        // A machine that is too slow for the second round makes none of its changes.
        if count(report, "rotated") > 1 {
            assert_eq!(count(report, "changed_elsewhere"), 4, "{report}");
        }
        assert_eq!(count(report, "revoked_grants"), 0, "{report}");
    }
    if count(&report, "rotated") > 1 {
        assert!(count(&report, "stale_hits") > 0, "{report}");
    }
}

#[test]
fn the_tables_fit_60_columns_between_an_introduction_and_a_conclusion() {
    let output = run(&["--trusts", "30", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "a progress bar without a terminal");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "30 trusts",
        "requests",
        "per second",
        "hits",
        "stale hits",
        "shared",
        "rows",
        "missing",
        "invalid",
        "unavailable",
        "rotated",
        "disabled",
        "deleted",
        "hot path",
        "by reading",
        "read lease",
        "scan path",
        "bare fetch",
        "p50",
        "p99",
        "times",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 60, "{line}");
    }
    // What it is about to show, and what would be a failure.
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("About to revoke keys") && first.ends_with("is a failure."),
        "{first}"
    );
    assert!(text.lines().last().unwrap().starts_with("Held: "), "{text}");
}

#[test]
fn absurd_arguments_are_wrong_usage() {
    for arguments in [
        ["--trusts", "0"],
        ["--trusts", "-1"],
        ["--trusts", "100001"],
        ["--trusts", "99999999999999999999"],
        ["--trusts", "many"],
        ["--trusts", ""],
        ["--seconds", "0"],
        ["--seconds", "3601"],
        ["--seconds", "0.5"],
        ["--seconds", "-5"],
        ["--seconds", "inf"],
    ] {
        for json in [&[][..], &["--json"]] {
            let output = run(&[&arguments[..], json].concat());
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            assert!(output.stdout.is_empty());
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains(arguments[0]), "{stderr}");
        }
    }
}

#[test]
fn the_help_lists_the_options_and_an_unknown_argument_refers_to_it() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for option in ["--trusts", "--seconds", "--json", "--help"] {
        assert!(text.contains(option), "{option} in\n{text}");
    }
    for argument in ["--bogus", "demo"] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(2), "{argument}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8(output.stderr).unwrap().contains("--help"), "{argument}");
    }
}

#[test]
fn the_demo_leaves_the_named_database_alone() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("precious.db");
    fs::write(&named, "not to be touched").unwrap();
    let temporary = folder.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let output = command(&temporary, &["--trusts", "1", "--seconds", "1", "--json"])
        .env("TRUST_AUTH_DATABASE", &named)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_to_string(named).unwrap(), "not to be touched");
}

#[cfg(unix)]
#[test]
fn an_error_without_a_temporary_folder_names_tmpdir() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["--json"])
        .env("TMPDIR", folder.path().join("none"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["error"]["kind"], "temporary_folder");
    assert!(json["error"]["message"].as_str().unwrap().contains("TMPDIR"));
}

/// A signal ends the demo, both while it registers trusts and while the traffic runs.
#[cfg(unix)]
#[test]
fn an_interrupted_demo_removes_its_folder() {
    for signal in ["INT", "TERM", "HUP"] {
        for trusts in ["1", "100000"] {
            let folder = tempfile::tempdir().unwrap();
            let arguments = ["--trusts", trusts, "--seconds", "3600", "--json"];
            let mut child = command(folder.path(), &arguments).spawn().unwrap();
            // The demo listens for signals before it makes the folder.
            while fs::read_dir(folder.path()).unwrap().count() == 0 {
                assert!(child.try_wait().unwrap().is_none(), "the demo ended by itself");
                std::thread::yield_now();
            }
            let killed = Command::new("kill")
                .args(["-s", signal, &child.id().to_string()])
                .status()
                .unwrap();
            assert!(killed.success());

            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(130), "{signal}");
            let json: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(json["error"]["kind"], "interrupted");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{signal} {trusts}");
        }
    }
}
