//! The complete protocol keeps G11 in every reachable state of small configurations.
//!
//! `docs/verification.md` has the larger configurations, which `cargo run --release` explores.

use read_lease_model::{Clocks, Config, Failure, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

const HOLDERS: &[Failure] =
    &[Failure::Answers, Failure::Sessions, Failure::Holders, Failure::Leaves];
const PROCESSES: &[Failure] = &[
    Failure::Answers,
    Failure::Doubles,
    Failure::Sessions,
    Failure::Holders,
    Failure::Leaves,
    Failure::StrikeOffs,
    Failure::Changers,
];

/// Visits every reachable state, and returns the number of states.
fn exhaust(config: Config) -> usize {
    let protocol = Protocol::new(config.clone()).expect("a valid configuration");
    let checker = protocol.clone().checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.symmetry().spawn_dfs().join();
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        let steps = path.into_actions();
        let steps: Vec<String> = steps.iter().map(|step| protocol.format_action(step)).collect();
        panic!("{config:?}: violated: {property}:\n{}", steps.join("\n"));
    }
    checker.unique_state_count()
}

fn and(failures: &[Failure], more: &[Failure]) -> Vec<Failure> {
    [failures, more].concat()
}

#[test]
fn g11_by_waiting_alone() {
    let failures = and(HOLDERS, &[Failure::Changers]);
    exhaust(Config { attempts: 2, ..Config::base(2, 2) }.with(&failures));
    exhaust(Config { others: 1, ..Config::base(1, 1) }.with(&failures));
}

#[test]
fn g11_by_waiting_while_clocks_drift() {
    let ticks = Config { clocks: Clocks::Ticks, ..Config::base(1, 2) };
    exhaust(ticks.with(&[Failure::Answers, Failure::Sessions]));
}

#[test]
fn g11_by_waiting_while_t_is_lowered() {
    let failures = and(HOLDERS, &[Failure::Changers, Failure::Lowering]);
    exhaust(Config { attempts: 2, ..Config::base(1, 1) }.with(&failures));
    let ticks = Config { clocks: Clocks::Ticks, ..Config::base(1, 1) };
    exhaust(ticks.with(&[Failure::Answers, Failure::Lowering]));
}

#[test]
fn g11_by_polling() {
    let polls = Config { polls: true, attempts: 2, ..Config::base(2, 1) };
    exhaust(polls.with(&and(HOLDERS, &[Failure::Changers])));
}

#[test]
fn g11_by_acknowledgements_while_clocks_drift() {
    let ticks = Config { clocks: Clocks::Ticks, ..Config::new(1, 1) };
    exhaust(ticks.with(PROCESSES));
}

#[test]
fn g11_by_acknowledgements_of_one_holder() {
    exhaust(Config { attempts: 2, ..Config::new(1, 2) }.with(PROCESSES));
    exhaust(Config { attempts: 2, split: true, ..Config::new(1, 1) }.with(PROCESSES));
}

#[test]
fn g11_by_acknowledgements_of_two_holders() {
    exhaust(Config::new(2, 1).with(PROCESSES));
}

#[test]
fn g11_while_other_rows_change() {
    let failures = and(PROCESSES, &[Failure::Triggers]);
    exhaust(Config { others: 1, ..Config::new(1, 1) }.with(&failures));
    exhaust(Config { others: 1, ..Config::new(1, 1) }.with(&and(HOLDERS, &[Failure::Pruning])));
}

#[test]
fn g11_with_a_cache_that_misses_fill() {
    let cache = Config { cache: true, looks: true, ..Config::new(1, 1) };
    exhaust(Config { attempts: 2, ..cache }.with(PROCESSES));
}

#[test]
fn g11_across_a_failover() {
    exhaust(Config::new(1, 1).with(&and(PROCESSES, &[Failure::Failover])));
    let other = Config { others: 1, split: true, ..Config::new(1, 1) };
    exhaust(other.with(&[Failure::Failover]));
    exhaust(Config { others: 1, ..Config::base(1, 1) }.with(&and(HOLDERS, &[Failure::Failover])));
}

#[test]
fn g11_across_a_recovery() {
    let config = Config { others: 1, ..Config::new(1, 1) };
    exhaust(config.with(&and(HOLDERS, &[Failure::StrikeOffs, Failure::Recovery])));
}

/// Clocks drift and messages take up to a tick. No holder is ever without its lease or its key.
#[test]
fn while_nothing_fails_a_registered_holder_grants() {
    let prompt = Config { clocks: Clocks::Ticks, prompt: true, ..Config::new(2, 1) };
    exhaust(prompt.clone());
    exhaust(Config { acknowledgements: false, ..prompt });
}
