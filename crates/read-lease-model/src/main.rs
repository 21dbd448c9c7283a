//! Explores one configuration of the model, and reports the reached states and violations.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use read_lease_model::{Clocks, Config, Failure, G11, Mutant, Protocol, SCHEDULES, Step};
use search_report::{Progress, peak_memory};
use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

/// Visits every reachable state of the protocol of the read lease, within the given bounds. Exits
/// with 1 if a property is violated, and with 2 if --at-most ended the search.
#[derive(Parser)]
struct Arguments {
    /// Processes that grant from held rows.
    #[arg(long, default_value_t = 1)]
    holders: usize,
    /// Changers that revoke the key.
    #[arg(long, default_value_t = 1)]
    changers: usize,
    /// Changers that change another row.
    #[arg(long, default_value_t = 0)]
    others: usize,
    /// Most attempts of each changer of the key.
    #[arg(long, default_value_t = 1)]
    attempts: usize,
    /// Without registrations and acknowledgements: changers wait T.
    #[arg(long)]
    base: bool,
    /// Let holders poll a version, as on SQLite (with --base).
    #[arg(long)]
    polls: bool,
    /// The notion of time.
    #[arg(long, value_enum, default_value_t = Clocks::Order)]
    clocks: Clocks,
    /// Let the snapshot of a renewal and its write be two steps.
    #[arg(long)]
    split: bool,
    /// Hold rows in a cache, which misses fill.
    #[arg(long)]
    cache: bool,
    /// Let misses send looks.
    #[arg(long)]
    looks: bool,
    /// What may fail, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    failures: Vec<Failure>,
    /// Let every process act in time (with --clocks ticks).
    #[arg(long)]
    prompt: bool,
    /// Leave this rule out, and print the shortest schedule to a violation.
    #[arg(long, value_enum)]
    mutant: Option<Mutant>,
    /// Merge no states, and continue after states without danger to the key.
    #[arg(long)]
    unreduced: bool,
    /// End the search after this number of steps (in millions).
    #[arg(long, value_name = "MILLIONS")]
    at_most: Option<usize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// Print the shortest schedule of each mutant as a page. The other bounds do not matter.
    #[arg(long)]
    schedules: bool,
    /// Write that page to docs/generated/read-lease-schedules.md.
    #[arg(long)]
    write: bool,
}

impl Arguments {
    fn config(&self) -> Config {
        Config {
            holders: self.holders,
            changers: self.changers,
            others: self.others,
            attempts: self.attempts,
            acknowledgements: !self.base,
            polls: self.polls,
            clocks: self.clocks,
            split: self.split,
            cache: self.cache,
            looks: self.looks,
            failures: self.failures.clone(),
            prompt: self.prompt,
            mutant: self.mutant,
            reduce: !self.unreduced,
            track: false,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let protocol = match Protocol::new(arguments.config()) {
        Ok(protocol) => protocol,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(64);
        }
    };
    if arguments.schedules || arguments.write {
        return print_schedules(arguments.write);
    }
    let started = Instant::now();
    if arguments.mutant.is_some() {
        let found = protocol.shortest_violation(G11);
        let status = u8::from(found.is_some());
        report_violation(&arguments, &protocol, G11, found, started.elapsed());
        return ExitCode::from(status);
    }
    let limit = arguments.at_most.map_or(usize::MAX, |millions| millions * 1_000_000);
    let checker = protocol.clone().checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(limit).symmetry().threads(1).spawn_dfs();
    let checker = checker.join_and_report(&mut Progress::default());
    let elapsed = started.elapsed();
    let violations = checker.discoveries();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let exhausted = violations.is_empty() && steps < limit;
    if arguments.json {
        let line = json!({
            "holders": arguments.holders, "changers": arguments.changers,
            "others": arguments.others, "attempts": arguments.attempts,
            "acknowledgements": !arguments.base, "clocks": format!("{:?}", arguments.clocks),
            "split": arguments.split, "cache": arguments.cache, "looks": arguments.looks,
            "polls": arguments.polls,
            "prompt": arguments.prompt,
            "failures": arguments.failures.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>(),
            "reduced": !arguments.unreduced, "states": states, "steps": steps,
            "depth": checker.max_depth(), "seconds": elapsed.as_secs_f64(),
            "peak_mib": peak_memory(), "exhausted": exhausted,
            "violated": violations.keys().collect::<Vec<_>>(),
        });
        println!("{line}");
    } else {
        let memory = peak_memory().map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
        let (depth, seconds) = (checker.max_depth(), elapsed.as_secs_f64());
        println!("{states} states, {steps} steps, depth {depth}, {seconds:.1} s, {memory}");
        println!("{}", if exhausted { "exhausted: no violation" } else { "not exhausted" });
    }
    let violated = !violations.is_empty();
    for (property, path) in violations {
        report_violation(&arguments, &protocol, property, Some(path.into_actions()), elapsed);
    }
    ExitCode::from(if violated {
        1
    } else if exhausted {
        0
    } else {
        2
    })
}

fn print_schedules(write: bool) -> ExitCode {
    let page = read_lease_model::schedules();
    if !write {
        print!("{page}");
        return ExitCode::SUCCESS;
    }
    match std::fs::write(SCHEDULES, page) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{SCHEDULES}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report_violation(
    arguments: &Arguments,
    protocol: &Protocol,
    property: &str,
    found: Option<Vec<Step>>,
    elapsed: Duration,
) {
    let seconds = elapsed.as_secs_f64();
    let steps = found.as_ref().map(Vec::len);
    if arguments.json {
        let mutant = arguments.mutant.map(Mutant::name);
        let path: Option<Vec<String>> =
            found.map(|path| path.iter().map(|step| protocol.format_action(step)).collect());
        let line = json!({
            "mutant": mutant, "property": property, "steps": steps, "seconds": seconds,
            "path": path,
        });
        println!("{line}");
        return;
    }
    let Some(path) = found else {
        println!("no violation within these bounds, {seconds:.1} s");
        return;
    };
    println!("violated after {} steps, {seconds:.1} s: {property}", path.len());
    for (number, step) in path.iter().enumerate() {
        println!("{:3}. {}", number + 1, protocol.format_action(step));
    }
}
