//! Explores one configuration of the model, and reports the reached states and faults.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use epochs_model::{Action, Bug, Config, NO_FAULT, Protocol, Start};
use search_report::{Progress, peak_memory};
use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

/// Visits every reachable state of the protocol of the epochs over x86-TSO store buffers, within
/// the given bounds. Exits with 1 if a fault is reachable, and with 2 if --at-most ended the
/// search.
#[derive(Parser)]
struct Arguments {
    /// Readers, each with a store buffer.
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Writers that collect. Each writer has its own batches, and all share one list of waiting
    /// batches.
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Most sections (outermost pins) of each reader.
    #[arg(long, default_value_t = 2)]
    sections: usize,
    /// Most operations (a replacement and a collection) of each writer.
    #[arg(long, default_value_t = 2)]
    operations: usize,
    /// Readers that have a record at the start. The others take or add one. [default: all]
    #[arg(long)]
    registered: Option<usize>,
    /// Most records. [default: the number of readers]
    #[arg(long)]
    records: Option<usize>,
    /// Let threads end, give their records back, and start again.
    #[arg(long)]
    endings: bool,
    /// Let the kernel refuse any barrier.
    #[arg(long)]
    refusals: bool,
    /// Records at the start: `attached`, `detached`, or each combination.
    #[arg(long, value_enum, default_value_t = Start::Any)]
    start: Start,
    /// Plant this bug, and print the shortest path to a fault.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Merge no states, and continue after states without danger to the object.
    #[arg(long)]
    unreduced: bool,
    /// End the search after this number of steps (in millions).
    #[arg(long, value_name = "MILLIONS")]
    at_most: Option<usize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn config(&self) -> Config {
        Config {
            registered: self.registered.unwrap_or(self.readers),
            records: self.records.unwrap_or(self.readers),
            endings: self.endings,
            refusals: self.refusals,
            start: self.start,
            bug: self.bug,
            reduce: !self.unreduced,
            ..Config::new(self.readers, self.writers, self.sections, self.operations)
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config();
    let protocol = match Protocol::new(config.clone()) {
        Ok(protocol) => protocol,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(64);
        }
    };
    let started = Instant::now();
    if arguments.bug.is_some() {
        let found = protocol.shortest_fault();
        let seconds = started.elapsed().as_secs_f64();
        let found = found.map(|(fault, path)| (format!("{fault:?}"), path));
        let status = u8::from(found.is_some());
        report_fault(&arguments, found, seconds);
        return ExitCode::from(status);
    }
    let limit = arguments.at_most.map_or(usize::MAX, |millions| millions * 1_000_000);
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(limit).symmetry().threads(1).spawn_dfs();
    let checker = checker.join_and_report(&mut Progress::default());
    let seconds = started.elapsed().as_secs_f64();
    let fault = checker.discovery(NO_FAULT);
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let exhausted = fault.is_none() && steps < limit;
    if arguments.json {
        let line = json!({
            "readers": config.readers, "writers": config.writers, "sections": config.sections,
            "operations": config.operations, "registered": config.registered,
            "records": config.records, "endings": config.endings, "refusals": config.refusals,
            "start": format!("{:?}", config.start).to_lowercase(), "reduced": config.reduce,
            "states": states, "steps": steps, "depth": checker.max_depth(),
            "seconds": seconds, "peak_mib": peak_memory(),
            "exhausted": exhausted, "fault": fault.is_some(),
        });
        println!("{line}");
    } else {
        let memory = peak_memory().map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
        let depth = checker.max_depth();
        println!("{states} states, {steps} steps, depth {depth}, {seconds:.1} s, {memory}");
        println!("{}", if exhausted { "exhausted: no fault" } else { "not exhausted" });
    }
    if let Some(path) = fault {
        let found = (format!("{:?}", path.last_state().fault()), path.into_actions());
        report_fault(&arguments, Some(found), seconds);
        return ExitCode::from(1);
    }
    ExitCode::from(if exhausted { 0 } else { 2 })
}

fn report_fault(arguments: &Arguments, found: Option<(String, Vec<Action>)>, seconds: f64) {
    let steps = found.as_ref().map(|(_, path)| path.len());
    if arguments.json {
        let bug = arguments.bug.map(Bug::name);
        let path: Option<Vec<String>> =
            found.map(|(_, path)| path.iter().map(Action::to_string).collect());
        println!("{}", json!({ "bug": bug, "steps": steps, "seconds": seconds, "path": path }));
        return;
    }
    match found {
        None => println!("no fault within these bounds, {seconds:.1} s"),
        Some((fault, path)) => {
            println!("{fault} after {} steps, {seconds:.1} s:", path.len());
            path.iter().for_each(|action| println!("  {action}"));
        }
    }
}
