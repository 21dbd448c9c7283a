//! The service's figures, each a ratio of two measurements of one run, or a test of one against the
//! other: the real binary, optimised, asked by real clients over real sockets.
//!
//! * `throughput`: hits of `/verify` on SQLite, beside an axum route that only runs the same
//!   `fetch(id)`, both under `wrk`: at least 60 %.
//! * `flood`: the 99th percentile of hits while 64 connections send unknown keys, 10,000 and more,
//!   beside the one without: at most three times.
//! * `floor`: with `--reject-floor`, how long a refusal takes does not tell 10 trusts from 10,000;
//!   without it, the same test does.
//!
//! `cargo bench -p trust-auth --bench service` measures and exits with 1 if a figure is missed
//! three times in a row: a machine that does something else meanwhile can spoil one measurement;
//! what the code does, it does again. With `--test` it only shows that it runs; with a name, it
//! measures that.

mod asker;
mod baseline;
mod flood;
mod floor;
mod populate;
mod throughput;
mod welch;
mod wrk;

#[path = "../../tests/serve/client.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod client;
#[path = "../../tests/serve/programs.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod programs;
#[path = "../../tests/serve/server.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod server;

use std::process::ExitCode;

/// How often a figure may be missed before that stands.
const ATTEMPTS: usize = 3;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Enough for a verdict.
    Full,
    /// Enough to see that it runs.
    Token,
}

/// One figure of one run.
struct Verdict {
    told: String,
    met: bool,
}

/// Measures once; `None` if something is missing that it takes, which was said.
type Measure = fn(Effort) -> Option<Verdict>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, file] = &*arguments
        && word == baseline::WORD
    {
        return baseline::serve(file.as_ref());
    }
    // `cargo bench` says so; `cargo test --benches` does not.
    let given = |wanted: &str| arguments.iter().any(|word| word == wanted);
    let effort = if given("--bench") && !given("--test") { Effort::Full } else { Effort::Token };
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let figures: [(&str, Measure); 3] =
        [("throughput", throughput::measure), ("flood", flood::measure), ("floor", floor::measure)];
    let mut sound = true;
    for (name, measure) in figures {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            sound &= judge(name, effort, measure);
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the figure is met in one attempt, or could not be measured here, which was said.
fn judge(name: &str, effort: Effort, measure: Measure) -> bool {
    (0..ATTEMPTS).any(|_| {
        let Some(Verdict { told, met }) = measure(effort) else { return true };
        let word = match effort {
            Effort::Token => "ran",
            Effort::Full if met => "met",
            Effort::Full => "MISSED",
        };
        println!("{name}: {told}: {word}");
        met || effort == Effort::Token
    })
}
