//! The service's figures. Most compare measurements of one run. The clients send requests to
//! the optimised program over real sockets.
//!
//! * `throughput`: the rate of hits of `/verify` on SQLite under `wrk`. It must be at least 60 % of
//!   the rate of an axum route that only runs the same `fetch(id)`.
//! * `flood`: the 99th percentile of hits while 64 connections send 10,000 unknown keys or more. It
//!   must be at most three times the percentile without the flood.
//! * `floor`: with `--reject-floor`, the duration of refusals must not distinguish 10 trusts from
//!   10,000. Without the floor, the same test must distinguish them.
//! * `read_lease`: the rate of hits with the read lease. It should be 85 % of the rate of a route
//!   that looks nothing up, and must be 75 %. It must also be twice the rate by reading SQLite, and
//!   three times that by reading PostgreSQL.
//! * `revocation`: how long a revocation takes while three services hold leases on PostgreSQL: at
//!   most 20 ms (median) and 100 ms (99th percentile), and a lease and a second if one is stopped.
//! * `writer`: a transaction with the read lease's triggers takes at most 1.3 times as long.
//! * `queries`: ten services with a lease of 10 s send at most 20,000 queries an hour. One sends at
//!   most 100 more a second under a flood of unknown keys.
//!
//! `cargo bench -p trust-auth-server --bench service` measures all figures. It exits with 1 if a
//! figure is missed three times in a row: other programs on the machine can spoil one measurement.
//! With `--test` it only shows that the benches run. With a name it measures that figure.

mod asker;
mod baseline;
mod flood;
mod floor;
mod populate;
mod queries;
mod read_lease;
mod revocation;
mod throughput;
mod welch;
mod wrk;

#[path = "../../tests/serve/client.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod client;
#[path = "../../../trust-auth/tests/postgres_server/mod.rs"]
mod postgres_server;
#[path = "../../tests/serve/programs.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod programs;
#[path = "../../tests/serve/server.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod server;

use std::process::ExitCode;

/// After this many misses in a row, a figure counts as missed.
const ATTEMPTS: usize = 3;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Enough for the figure.
    Full,
    /// Enough to see that the bench runs.
    Token,
}

/// One figure of one run.
struct Figure {
    text: String,
    met: bool,
}

/// Measures once. Returns `None`, and reports it, if a program that the bench needs is missing.
type Measure = fn(Effort) -> Option<Figure>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, file] = &*arguments
        && word == baseline::WORD
    {
        return baseline::serve(file.as_ref());
    }
    // `cargo bench` passes `--bench`; `cargo test --benches` does not.
    let given = |wanted: &str| arguments.iter().any(|word| word == wanted);
    let effort = if given("--bench") && !given("--test") { Effort::Full } else { Effort::Token };
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let figures: [(&str, Measure); 7] = [
        ("throughput", throughput::measure),
        ("flood", flood::measure),
        ("floor", floor::measure),
        ("read_lease", read_lease::measure),
        ("revocation", revocation::measure),
        ("writer", revocation::measure_writer),
        ("queries", queries::measure),
    ];
    let mut sound = true;
    for (name, measure) in figures {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            sound &= judge(name, effort, measure);
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns whether an attempt met the figure, or the figure could not be measured here.
fn judge(name: &str, effort: Effort, measure: Measure) -> bool {
    (0..ATTEMPTS).any(|_| {
        let Some(Figure { text, met }) = measure(effort) else { return true };
        let word = match effort {
            Effort::Token => "ran",
            Effort::Full if met => "met",
            Effort::Full => "MISSED",
        };
        println!("{name}: {text}: {word}");
        met || effort == Effort::Token
    })
}
