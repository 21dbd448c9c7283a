//! [`compare`]: compares many keys with many rows in constant time, and lets other tasks run in
//! between.

use tokio::task::yield_now;
use trust_key_cache::{KeyHash, Sweep};

/// How many digests one block compares: some 30 µs of work. A block is the longest time for which a
/// sweep keeps a thread of the executor from requests that hit. It is long compared with the
/// microsecond that a yield takes.
///
/// The sweep runs on the executor, and not on a thread for blocking work. Such a thread would
/// compete for the same processors, and the operating system switches threads in milliseconds. A
/// single miss, whose sweep is short, would pay for waking two threads.
const COMPARES_AT_A_TIME: usize = 1 << 14;

/// Returns for each candidate the index of the last row that equals it.
///
/// Compares all candidates with one block of rows after the other. The work and the yields depend
/// only on the number of candidates and of rows (G8).
pub(crate) async fn compare(candidates: &[KeyHash], rows: &[KeyHash]) -> Vec<Option<usize>> {
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
    async fn every_candidate_finds_its_last_row_in_any_block_g8() {
        let row = |at: usize| KeyHash::of(at.to_be_bytes());
        // The first and the last row of several blocks. The first 100 rows occur again at the end,
        // and the later occurrence counts.
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
    async fn other_tasks_run_after_each_block_except_the_last() {
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

    /// More candidates than one block compares, with few rows.
    #[tokio::test]
    async fn a_block_is_never_empty() {
        let candidates: Vec<KeyHash> =
            (0..=COMPARES_AT_A_TIME).map(|at| KeyHash::of(at.to_be_bytes())).collect();
        let found = compare(&candidates, &candidates[..2]).await;
        assert_eq!(found[..3], [Some(0), Some(1), None]);
        assert!(found[3..].iter().all(Option::is_none));
    }
}
