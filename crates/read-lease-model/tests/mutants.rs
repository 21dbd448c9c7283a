//! Each rule is needed: the protocol without the rule violates G11, in few steps.

use std::fs;

use read_lease_model::{
    Clocks, Config, G11, Mutant, Protocol, SCHEDULES, WAIT_OUTLASTS, schedules,
};

fn shortest(config: Config) -> Option<usize> {
    let protocol = Protocol::new(config).expect("a valid configuration");
    protocol.shortest_violation(G11).map(|path| path.len())
}

#[test]
fn each_mutant_violates_g11_by_the_schedule_on_the_page() {
    let page = schedules();
    assert!(!page.contains("Not found"), "a mutant keeps G11:\n{page}");
    let written = fs::read_to_string(SCHEDULES).expect("the page is in the repository");
    assert_eq!(written, page, "run `cargo run --release -p read-lease-model -- --write`");
}

/// Time by order has more executions than ticks have. No mutant needs the additional ones.
#[test]
fn each_mutant_violates_g11_while_clocks_tick() {
    for &mutant in Mutant::all() {
        let ticks = Config { clocks: Clocks::Ticks, ..mutant.bounds() };
        assert!(shortest(ticks).is_some(), "{}", mutant.name());
    }
}

#[test]
fn the_reduction_hides_no_mutant() {
    for &mutant in Mutant::all() {
        let reduced = mutant.bounds();
        let whole = Config { reduce: false, ..reduced.clone() };
        assert_eq!(shortest(reduced), shortest(whole), "{}", mutant.name());
    }
}

/// The rule that relates leases and waits is all that the larger models assume about time.
#[test]
fn a_wait_outlasts_no_lease_without_the_rules_of_time() {
    let mutants =
        [Mutant::NoAllowance, Mutant::ComparesWallClocks, Mutant::ClockStopsWhileSuspended];
    for mutant in mutants {
        let protocol = Protocol::new(mutant.bounds()).expect("a valid configuration");
        assert!(protocol.shortest_violation(WAIT_OUTLASTS).is_some(), "{}", mutant.name());
    }
}

/// The same bounds have no violation without a mutant, so the violation is that of the mutant.
#[test]
fn the_bounds_of_the_mutants_have_no_violation_of_their_own() {
    for &mutant in Mutant::all() {
        let config = Config { mutant: None, ..mutant.bounds() };
        assert_eq!(shortest(config), None, "{}", mutant.name());
    }
}
