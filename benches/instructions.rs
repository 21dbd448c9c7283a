//! How many instructions a lookup executes, counted by callgrind: figures that repeat where times do not.
//!
//! Runs itself under `valgrind --tool=callgrind`, which counts inside [`lookups`] alone, and writes `instructions.json` beside
//! criterion's figures; a note instead where valgrind is missing. valgrind hides the vDSO, so the clock is read by a system call: the
//! same few instructions for all, and not those of a real read. What it does not know, such as a barrier of other threads' processors,
//! it refuses, and the cache then does what it does where the kernel refuses.

mod peers;
mod workload;

use std::env;
use std::hint::black_box;
use std::io::ErrorKind;
use std::process::{Command, ExitCode};

use serde_json::{Map, Value, json};

use peers::{ClockAlone, Limit, LoopAlone, Peer, for_each_shared};
use workload::{LASTING, Probes, is_test, keys, save, strangers};

const KEYS: usize = 1_000;
const LOOKUPS: usize = 100_000;
/// Set for the process that is counted: what it is to run.
const SUBJECT: &str = "TRUST_KEY_CACHE_COUNTED";

fn main() -> ExitCode {
    match env::var(SUBJECT) {
        Ok(subject) => {
            for_each_peer(|name, run| {
                for hit in [true, false] {
                    if subject == label(name, hit) {
                        run(hit);
                    }
                }
            });
            ExitCode::SUCCESS
        }
        Err(_) if is_test() => {
            for_each_peer(|_, run| run(true));
            ExitCode::SUCCESS
        }
        Err(_) => count_all(),
    }
}

fn for_each_peer(mut each: impl FnMut(&str, fn(bool))) {
    fn one<P: Peer>(each: &mut impl FnMut(&str, fn(bool))) {
        each(P::NAME, run::<P>);
    }
    let each = &mut each;
    for_each_shared!(one(each));
    one::<Limit>(each);
    one::<ClockAlone>(each);
    one::<LoopAlone>(each);
}

fn label(name: &str, hit: bool) -> String {
    format!("{name} {}", if hit { "hit" } else { "miss" })
}

fn run<P: Peer>(hit: bool) {
    let keys = keys::<P::Key>(KEYS);
    let peer = P::filled(&keys, LASTING);
    let mut probes = Probes::new(&if hit { keys } else { strangers(KEYS) });
    lookups(&peer, &mut probes);
}

/// What is counted: callgrind knows it by its name.
#[inline(never)]
fn lookups<P: Peer>(peer: &P, probes: &mut Probes<P::Key>) {
    for _ in 0..LOOKUPS {
        black_box(peer.get(black_box(probes.next())));
    }
}

fn count_all() -> ExitCode {
    let mut figures = Map::new();
    let mut failure = None;
    for_each_peer(|name, _| {
        let mut counts = Map::new();
        for what in ["hit", "miss"] {
            if failure.is_some() {
                return;
            }
            match count(&label(name, what == "hit")) {
                Ok(count) => {
                    println!("{name:<42} {what:<5} {count:>8.1} instructions");
                    counts.insert(what.into(), json!(count));
                }
                Err(error) => failure = Some(error),
            }
        }
        figures.insert(name.into(), Value::Object(counts));
    });
    match failure {
        None => {
            save("instructions", &Value::Object(figures));
            ExitCode::SUCCESS
        }
        Some(Failure::Missing) => {
            println!("instructions: left out, since valgrind is not installed");
            save("instructions", &json!({ "missing": "valgrind is not installed" }));
            ExitCode::SUCCESS
        }
        Some(Failure::Refused(output)) => {
            eprintln!("instructions: valgrind counted nothing:\n{output}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Missing,
    Refused(String),
}

/// Instructions per lookup of this process, run again as `subject` under callgrind.
fn count(subject: &str) -> Result<f64, Failure> {
    let program = env::current_exe().map_err(|error| Failure::Refused(error.to_string()))?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*instructions*lookups*",
        ])
        .arg(program)
        .env(SUBJECT, subject)
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::Missing,
            _ => Failure::Refused(error.to_string()),
        })?;
    let report = String::from_utf8_lossy(&output.stderr);
    report
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse::<f64>().ok())
        .filter(|&instructions| output.status.success() && instructions > 0.0)
        .map(|instructions| instructions / LOOKUPS as f64)
        .ok_or_else(|| Failure::Refused(report.into_owned()))
}
