//! [`compare`]: many keys against many rows, in constant time, letting others run in between.

use tokio::task::yield_now;
use trust_key_cache::{KeyHash, Sweep};

/// How many digests are compared at a time: some 30 µs of work. It is the longest that a scan keeps
/// a thread of the executor from the requests that hit, so it should be short; and it should be
/// long beside the microsecond or so that it takes to give way and come back.
///
/// The pass stays on the executor, and does not move to a thread for blocking work. There it would
/// compete for the same processors, and the operating system takes turns in milliseconds, a hundred
/// times as long; and a lone miss, whose pass is short, would pay for two threads' waking.
const COMPARES_AT_A_TIME: usize = 1 << 14;

/// For each candidate the index of the row that it equals, of the last one if there are several.
///
/// Block after block of rows, all candidates with each. What it does, and when it gives way,
/// depends on how many candidates and rows there are, and on nothing else (G8).
pub(super) async fn compare(candidates: &[KeyHash], rows: &[KeyHash]) -> Vec<Option<usize>> {
    let mut sweep = Sweep::new(candidates);
    let block = (COMPARES_AT_A_TIME / candidates.len().max(1)).max(1);
    for (at, rows) in rows.chunks(block).enumerate() {
        if at > 0 {
            yield_now().await;
        }
        sweep.extend(rows);
    }
    sweep.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_candidate_finds_its_last_row_whatever_the_blocks_g8() {
        let row = |at: usize| KeyHash::of(at.to_be_bytes());
        // Over more than one block, the first and the last of each; and the rows once more, so that
        // the last is meant.
        let rows: Vec<KeyHash> = (0..COMPARES_AT_A_TIME).chain(0..100).map(row).collect();
        let asked = [
            0,
            99,
            100,
            COMPARES_AT_A_TIME / 4 - 1,
            COMPARES_AT_A_TIME / 4,
            COMPARES_AT_A_TIME - 1,
            usize::MAX,
        ];
        let expected = asked.map(|at| match at {
            usize::MAX => None,
            at if at < 100 => Some(at + COMPARES_AT_A_TIME),
            at => Some(at),
        });
        let candidates = asked.map(row);
        assert_eq!(compare(&candidates, &rows).await, expected);
        for (candidate, expected) in candidates.iter().zip(expected) {
            assert_eq!(compare(&[*candidate], &rows).await, [expected]);
        }
        assert_eq!(compare(&[row(0), row(0)], &rows[..1]).await, [Some(0), Some(0)]);
        assert_eq!(compare(&[row(0)], &[]).await, [None]);
        assert_eq!(compare(&[], &rows).await, []);
    }

    #[tokio::test]
    async fn others_have_a_turn_after_each_block_and_not_after_the_last() {
        let row = |at: usize| KeyHash::of(at.to_be_bytes());
        let rows: Vec<KeyHash> = (0..COMPARES_AT_A_TIME).map(row).collect();
        for (candidates, expected) in [(1, 0), (2, 1), (3, 3)] {
            let asked: Vec<KeyHash> = (0..candidates).map(row).collect();
            let mut turns = 0;
            tokio::select! {
                biased;
                _ = compare(&asked, &rows) => {}
                () = async { loop { turns += 1; yield_now().await } } => {}
            }
            assert_eq!(turns, expected, "{candidates} candidates");
        }
    }

    /// More candidates than are compared at a time, with few rows.
    #[tokio::test]
    async fn a_block_is_never_empty() {
        let candidates: Vec<KeyHash> =
            (0..=COMPARES_AT_A_TIME).map(|at| KeyHash::of(at.to_be_bytes())).collect();
        let found = compare(&candidates, &candidates[..2]).await;
        assert_eq!(found[..3], [Some(0), Some(1), None]);
        assert!(found[3..].iter().all(Option::is_none));
    }
}
