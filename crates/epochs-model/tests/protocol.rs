//! The protocol that ships keeps guarantee G7 in every reachable state of small configurations.
//!
//! `docs/verification.md` has the larger configurations, which `cargo run --release` explores.

use epochs_model::{Config, NO_FAULT, Protocol, Start};
use stateright::{Checker, HasDiscoveries, Model};

/// Visits every reachable state, and returns the number of states.
fn exhaust(config: Config) -> usize {
    let protocol = Protocol::new(config.clone()).expect("a valid configuration");
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.symmetry().spawn_dfs().join();
    if let Some(path) = checker.discovery(NO_FAULT) {
        let steps: Vec<String> = path.into_actions().iter().map(ToString::to_string).collect();
        panic!("{config:?}: a fault is reachable:\n{}", steps.join("\n"));
    }
    checker.unique_state_count()
}

#[test]
fn g7_one_reader_and_one_writer() {
    exhaust(Config::new(1, 1, 3, 4));
}

#[test]
fn g7_two_readers_and_one_writer() {
    exhaust(Config::new(2, 1, 2, 2));
}

#[test]
fn g7_one_reader_and_two_writers() {
    exhaust(Config::new(1, 2, 2, 2));
}

#[test]
fn g7_two_readers_and_two_writers() {
    exhaust(Config::new(2, 2, 1, 1));
}

#[test]
fn g7_three_readers_and_one_writer() {
    exhaust(Config::new(3, 1, 1, 1));
}

#[test]
fn g7_a_thread_ends_and_another_takes_its_record() {
    let one_record = Config { registered: 1, records: 1, endings: true, ..Config::new(2, 1, 2, 2) };
    exhaust(one_record);
}

#[test]
fn g7_threads_add_records_to_the_list() {
    exhaust(Config { registered: 0, ..Config::new(2, 1, 1, 2) });
    exhaust(Config { registered: 1, endings: true, ..Config::new(2, 1, 1, 2) });
}

#[test]
fn g7_the_kernel_refuses_barriers() {
    exhaust(Config { refusals: true, ..Config::new(1, 1, 2, 3) });
    exhaust(Config { refusals: true, ..Config::new(1, 2, 1, 2) });
}

/// The reduction hides batches that are freed twice, so these runs do not reduce.
#[test]
fn g7_nothing_is_freed_twice() {
    let unreduced = |config| exhaust(Config { reduce: false, ..config });
    unreduced(Config::new(1, 1, 2, 2));
    unreduced(Config::new(1, 2, 1, 2));
    unreduced(Config { refusals: true, ..Config::new(1, 2, 1, 1) });
}

/// A model that never detaches or frees would also have no fault.
#[test]
fn the_model_reaches_detaching_freeing_and_hand_over() {
    let config = Config {
        registered: 1,
        endings: true,
        start: Start::Attached,
        reduce: false,
        track: true,
        ..Config::new(2, 2, 2, 1)
    };
    let protocol = Protocol::new(config).expect("a valid configuration");
    let examples: Vec<_> = protocol.properties().iter().skip(1).map(|event| event.name).collect();
    let wanted = HasDiscoveries::AllOf(examples.iter().copied().collect());
    let checker = protocol.checker().finish_when(wanted).spawn_bfs().join();
    for name in examples {
        assert!(checker.discovery(name).is_some(), "never reached: {name}");
    }
}
