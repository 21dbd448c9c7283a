//! `wrk`, Debian's load generator, and what it reports.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The result of one run.
pub(crate) struct Report {
    pub(crate) requests_per_second: f64,
    /// The 99th percentile.
    pub(crate) p99: Duration,
}

/// Runs `wrk`, and asserts that every answer is a 2xx.
pub(crate) fn run(
    wrk: &Path,
    connections: u32,
    seconds: u32,
    headers: &[String],
    url: &str,
) -> Report {
    let mut command = Command::new(wrk);
    command.args(["--latency", "--threads", "1", "--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{seconds}s")]);
    for header in headers {
        command.args(["--header", header]);
    }
    let output = command.arg(url).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let of = |name: &str| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    Report { requests_per_second: of("Requests/sec:").parse().unwrap(), p99: duration(&of("99%")) }
}

fn duration(text: &str) -> Duration {
    let at = text.find(|character: char| character.is_ascii_alphabetic()).unwrap();
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => panic!("{other:?} in {text:?}"),
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap() * unit)
}
