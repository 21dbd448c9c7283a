//! G8: for any blocks, `Sweep` in steps returns the same as one `sweep` over all rows.

use proptest::collection::vec;
use proptest::prelude::*;
use trust_key_cache::{KeyHash, Sweep, sweep};

/// Makes few different digests, so that rows and candidates are often equal to each other.
fn digests(count: usize) -> impl Strategy<Value = Vec<KeyHash>> {
    vec((0..12_u8).prop_map(|number| KeyHash::of([number])), 0..count)
}

proptest! {
    #[test]
    fn g8_a_sweep_in_steps_answers_as_one_sweep_over_all_rows(
        candidates in digests(14),
        blocks in vec(digests(9), 0..7),
    ) {
        let rows = blocks.concat();
        let mut steps = Sweep::new(&candidates);
        for block in &blocks {
            steps.extend(block);
        }
        let alone: Vec<_> = candidates.iter().map(|candidate| sweep(candidate, &rows)).collect();
        prop_assert_eq!(steps.finish(), alone);
    }

    #[test]
    fn g8_the_last_row_that_equals_the_candidate_wins(
        candidate in 0..12_u8,
        rows in digests(40),
    ) {
        let candidate = KeyHash::of([candidate]);
        prop_assert_eq!(sweep(&candidate, &rows), rows.iter().rposition(|row| *row == candidate));
    }
}

#[test]
fn g8_every_number_of_candidates_and_every_split_into_two_blocks_answers_alike() {
    let rows: Vec<_> = (0..10_u8).map(|number| KeyHash::of([number % 7])).collect();
    for count in 0..=9_u8 {
        let candidates: Vec<_> = (0..count).map(|number| KeyHash::of([number])).collect();
        let expected: Vec<_> = candidates.iter().map(|candidate| sweep(candidate, &rows)).collect();
        for split in 0..=rows.len() {
            let (head, tail) = rows.split_at(split);
            let mut steps = Sweep::new(&candidates);
            steps.extend(head);
            steps.extend(tail);
            assert_eq!(steps.finish(), expected, "{count} candidates, split at {split}");
        }
    }
}

#[test]
fn g8_a_sweep_without_candidates_or_without_rows_finds_nothing() {
    let hash = KeyHash::of("a");
    assert!(Sweep::new(&[]).finish().is_empty());
    let mut without_candidates = Sweep::new(&[]);
    without_candidates.extend(&[hash]);
    assert!(without_candidates.finish().is_empty());
    assert_eq!(Sweep::new(&[hash, hash]).finish(), [None, None]);
    let mut with_empty_blocks = Sweep::new(&[hash]);
    with_empty_blocks.extend(&[]);
    with_empty_blocks.extend(&[hash]);
    with_empty_blocks.extend(&[]);
    assert_eq!(with_empty_blocks.finish(), [Some(0)]);
}

#[test]
fn g10_debug_output_of_a_sweep_carries_no_digest() {
    let hash = KeyHash::of("a");
    let mut sweep = Sweep::new(&[hash]);
    sweep.extend(&[hash, hash]);
    assert_eq!(format!("{sweep:?}"), "Sweep { candidates: 1, rows: 2, .. }");
}
