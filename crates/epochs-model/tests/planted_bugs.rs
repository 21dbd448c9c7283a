//! A small configuration finds each planted bug, at the length in `docs/verification.md`.

use std::fs;

use epochs_model::{Bug, Config, Fault, Protocol};

/// A configuration with its name in the documentation.
struct Small {
    name: &'static str,
    readers: usize,
    writers: usize,
    sections: usize,
    operations: usize,
    /// Whether the readers share one record, which each gives back when its thread ends.
    one_record: bool,
}

const fn small(
    name: &'static str,
    [readers, writers, sections, operations]: [usize; 4],
    one_record: bool,
) -> Small {
    Small { name, readers, writers, sections, operations, one_record }
}

impl Small {
    fn config(&self, bug: Bug) -> Config {
        let config = Config::new(self.readers, self.writers, self.sections, self.operations);
        let config = Config { bug: Some(bug), ..config };
        if self.one_record {
            Config { registered: 1, records: 1, endings: true, ..config }
        } else {
            config
        }
    }
}

const MINIMAL: Small = small("1 reader, 1 writer, 1 section, 1 operation", [1, 1, 1, 1], false);
const TWICE: Small = small("1 reader, 1 writer, 2 sections, 2 operations", [1, 1, 2, 2], false);
const READERS: Small = small("2 readers, 1 writer, 1 section, 2 operations", [2, 1, 1, 2], false);
const WRITERS: Small = small("1 reader, 2 writers, 1 section, 2 operations", [1, 2, 1, 2], false);
const HAND_OVER: Small =
    small("2 readers, 1 record, 1 writer, 1 section, 1 operation", [2, 1, 1, 1], true);

/// Returns the configuration that finds the bug, and the length of the shortest path to the fault.
fn row(bug: Bug) -> (&'static Small, usize) {
    match bug {
        Bug::NoLightBarrier => (&MINIMAL, 8),
        Bug::NoHeavyBarrier => (&MINIMAL, 8),
        Bug::BarrierReachesOneThread => (&READERS, 10),
        Bug::IgnoresMarks => (&MINIMAL, 5),
        Bug::LooksForMarksTooEarly => (&TWICE, 12),
        Bug::AttachesByStore => (&MINIMAL, 6),
        Bug::DetachesBeforeBarrier => (&TWICE, 12),
        Bug::SharesMarks => (&WRITERS, 17),
        Bug::DetachesByStore => (&TWICE, 14),
        Bug::DetachesUnmarked => (&TWICE, 13),
        Bug::DetachesPinned => (&TWICE, 13),
        Bug::IgnoresPinned => (&MINIMAL, 9),
        Bug::OverAtOnce => (&MINIMAL, 5),
        Bug::OverInItsOwnEpoch => (&MINIMAL, 5),
        Bug::OverInItsOwnEpochAfterFence => (&MINIMAL, 8),
        Bug::HorizonOfNewestReader => (&READERS, 13),
        Bug::HorizonOfNewestSeen => (&MINIMAL, 5),
        Bug::EpochStandsStill => (&WRITERS, 17),
        Bug::EpochByStore => (&WRITERS, 16),
        Bug::StartsBeforeUnlinking => (&MINIMAL, 8),
        Bug::NewestByEarlierHorizon => (&MINIMAL, 7),
        Bug::WaitingByEarlierHorizon => (&WRITERS, 10),
        Bug::TakesWaitingByLoad => (&WRITERS, 10),
        Bug::UnpinsInsideSection => (&MINIMAL, 11),
        Bug::GivesBackUnderGuard => (&HAND_OVER, 8),
        Bug::UnpinsAfterGivingBack => (&HAND_OVER, 18),
        Bug::ClearsTakenFirst => (&HAND_OVER, 9),
        Bug::SharesRecords => (&HAND_OVER, 8),
    }
}

#[test]
fn each_planted_bug_is_found_at_the_documented_length() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/verification.md");
    let documented = fs::read_to_string(path).expect("docs/verification.md is in the repository");
    let mut wrong = Vec::new();
    for &bug in Bug::all() {
        let (small, steps) = row(bug);
        let protocol = Protocol::new(small.config(bug)).expect("a valid configuration");
        let Some((fault, path)) = protocol.shortest_fault() else {
            wrong.push(format!("{}: not found", bug.name()));
            continue;
        };
        let twice = bug == Bug::TakesWaitingByLoad;
        let expected = if twice { Fault::FreedTwice } else { Fault::FreedUnderAGuard };
        assert_eq!(fault, expected, "{}", bug.name());
        let line = format!("| `{}` | {} | {} |", bug.name(), small.name, path.len());
        if path.len() != steps || !documented.contains(&line) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "not as stated here or in the documentation:\n{}", wrong.join("\n"));
}

#[test]
fn the_reduction_hides_no_fault() {
    for &bug in Bug::all() {
        let config = row(bug).0.config(bug);
        let whole = Config { reduce: false, ..config.clone() };
        let [reduced, whole] = [config, whole].map(|config| {
            let protocol = Protocol::new(config).expect("a valid configuration");
            protocol.shortest_fault().map(|(fault, path)| (fault, path.len()))
        });
        assert_eq!(reduced, whole, "{}", bug.name());
    }
}

/// The same bounds have no fault without a planted bug, so the fault is that of the bug.
#[test]
fn the_small_configurations_have_no_fault_of_their_own() {
    for small in [&MINIMAL, &TWICE, &READERS, &WRITERS, &HAND_OVER] {
        let config = Config { bug: None, ..small.config(Bug::OverAtOnce) };
        let protocol = Protocol::new(config).expect("a valid configuration");
        assert!(protocol.shortest_fault().is_none(), "{}", small.name);
    }
}
