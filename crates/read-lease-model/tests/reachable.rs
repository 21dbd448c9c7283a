//! The model reaches what its properties are about. A model that never grants would keep G11.

use read_lease_model::{Config, Failure, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

/// Checks that each of these is reachable.
fn reaches(config: Config, wanted: &[&'static str]) {
    let config = Config { track: true, reduce: false, ..config };
    let protocol = Protocol::new(config).expect("a valid configuration");
    let all = HasDiscoveries::AllOf(wanted.iter().copied().collect());
    let checker = protocol.checker().finish_when(all).spawn_bfs().join();
    for name in wanted {
        assert!(checker.discovery(name).is_some(), "never reached: {name}");
    }
}

#[test]
fn holders_grant_and_revocations_return_after_t() {
    let config = Config { others: 1, ..Config::base(1, 1) }.with(&[Failure::Sessions]);
    let wanted = [
        "a holder grants the key from a held row",
        "a revocation returns after T",
        "a smaller id commits later",
        "a holder loads everything again",
    ];
    reaches(config, &wanted);
}

#[test]
fn revocations_return_by_acknowledgements() {
    let config = Config { attempts: 2, ..Config::new(2, 1) };
    let config = config.with(&[Failure::Changers, Failure::StrikeOffs]);
    let wanted = [
        "a revocation returns by acknowledgements",
        "a revocation returns while a lease is in force",
        "a second attempt finds nothing to change",
        "a holder is struck off",
        "a holder that was struck off forgets everything",
    ];
    reaches(config, &wanted);
}

#[test]
fn failovers_lose_changes_and_are_settled() {
    let config = Config { others: 1, ..Config::new(1, 1) }.with(&[Failure::Failover]);
    let wanted = ["the server fails over", "ids are given out again", "a new run is settled"];
    reaches(config, &wanted);
}
