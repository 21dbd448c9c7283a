//! The constant-time sweep: finds the row of a presented key that the cache does not hold.
//!
//! One kernel compares every candidate with every row: [`compare_rows`]. [`sweep`] runs the kernel
//! over all rows at once, for one candidate. [`Sweep`] runs the kernel over one block of rows after
//! another, for many candidates. No result may end a loop early, select an address or reach a
//! branch before all rows have been compared.

use core::array;
use core::borrow::Borrow;
use core::fmt;

use crate::key_hash::KeyHash;

/// Compares `candidate` with every row and returns the index of the row that equals it.
///
/// If several rows equal the candidate, returns the index of the last one. Returns `None` if no row
/// equals the candidate.
///
/// All rows are visited, and the same instructions run for each row. The duration depends on the
/// number of rows, not on which row matched, nor on whether a row matched. The caller must keep the
/// duration of the iterator constant, and that of the work after the answer.
///
/// O(n) compares of four words; no allocation. For many candidates, or for rows that arrive in
/// blocks, use [`Sweep`]. The technique is from the reference system: `hmac.compare_digest` over
/// every row, without a `break`. `benches/constant_time.rs` measures whether durations differ.
///
/// # Examples
///
/// ```
/// use trust_key_cache::{KeyHash, sweep};
///
/// let rows = ["alpha", "beta", "gamma"].map(KeyHash::of);
/// assert_eq!(sweep(&KeyHash::of("beta"), &rows), Some(1));
/// assert_eq!(sweep(&KeyHash::of("delta"), &rows), None);
/// ```
#[must_use]
pub fn sweep(
    candidate: &KeyHash,
    rows: impl IntoIterator<Item = impl Borrow<KeyHash>>,
) -> Option<usize> {
    let mut last_match = NO_MATCH;
    compare_rows(
        array::from_ref(candidate),
        array::from_mut(&mut last_match),
        rows.into_iter().enumerate(),
    );
    index_of(last_match)
}

/// A [`sweep`] of one or many candidates in steps: one block of rows after another.
///
/// Use a `Sweep` if many requests wait at once, if the rows arrive in blocks, or if other work must
/// run between two blocks. [`finish`](Self::finish) returns for each candidate what one [`sweep`]
/// over all blocks, one after the other, would return.
///
/// Every candidate is compared with every row by the same instructions. Each
/// [`extend`](Self::extend) loads and stores the same words, independent of matches in this block
/// or in an earlier one. The duration depends only on the number of candidates and on the size of
/// each block. Candidates may be equal to each other.
///
/// A slice of [`KeyHash`] is a packed column of 32 bytes a row. A store that keeps such a column
/// converts nothing.
///
/// # Examples
///
/// ```
/// use trust_key_cache::{KeyHash, Sweep};
///
/// let waiting = ["gamma", "delta", "alpha"].map(KeyHash::of);
/// let mut sweep = Sweep::new(&waiting);
/// sweep.extend(&["alpha", "beta"].map(KeyHash::of)); // rows 0 and 1
/// sweep.extend(&["gamma"].map(KeyHash::of)); // row 2
/// assert_eq!(sweep.finish(), [Some(2), None, Some(0)]);
/// ```
#[derive(Clone)]
#[must_use = "a sweep compares nothing until `extend`, and answers by `finish`"]
pub struct Sweep {
    candidates: Box<[KeyHash]>,
    /// For each candidate the index of the last row that equals it, or [`NO_MATCH`].
    last_matches: Box<[usize]>,
    /// The number of rows so far: the index of the next row.
    rows: usize,
}

impl Sweep {
    /// Starts a sweep for `candidates`. [`finish`](Self::finish) keeps their order.
    ///
    /// Copies the candidates: allocates 40 bytes for each.
    pub fn new(candidates: &[KeyHash]) -> Self {
        Self {
            candidates: candidates.into(),
            last_matches: vec![NO_MATCH; candidates.len()].into(),
            rows: 0,
        }
    }

    /// Compares every candidate with the next rows. Indices continue from the earlier rows.
    ///
    /// O(candidates · rows) compares of four words; no allocation. Four candidates are compared
    /// with the rows together, and the last one to three candidates one by one.
    ///
    /// # Panics
    ///
    /// If the rows of all calls are more than `usize` can count. Only a 32-bit process can reach
    /// that number.
    pub fn extend(&mut self, rows: &[KeyHash]) {
        let first = self.rows;
        self.rows = first.checked_add(rows.len()).expect("fewer rows than `usize` can count");
        let indexed = || (first..self.rows).zip(rows);
        let (fours, rest) = self.candidates.as_chunks();
        let (fours_matches, rest_matches) = self.last_matches.as_chunks_mut();
        for (four, last_matches) in fours.iter().zip(fours_matches) {
            compare_rows::<4, _>(four, last_matches, indexed());
        }
        for (candidate, last_match) in rest.iter().zip(rest_matches) {
            compare_rows(array::from_ref(candidate), array::from_mut(last_match), indexed());
        }
    }

    /// Returns for each candidate, in their order, the index of the last row that equals the
    /// candidate.
    ///
    /// The index is `None` for a candidate that equals no row. Allocates the answer.
    #[must_use]
    pub fn finish(self) -> Vec<Option<usize>> {
        self.last_matches.iter().map(|&last_match| index_of(last_match)).collect()
    }
}

impl fmt::Debug for Sweep {
    /// Writes the number of candidates and of rows so far, without digests or matches.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep")
            .field("candidates", &self.candidates.len())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// The index of no row: [`Sweep::extend`] counts at most `usize::MAX` rows, and
/// [`Iterator::enumerate`] counts the rows of [`sweep`].
const NO_MATCH: usize = usize::MAX;

/// Compares `N` candidates with each row, and sets each candidate's last match to the last row that
/// equals the candidate.
///
/// The matches are loaded once before the first row, and stored once after the last row. From row
/// to row they are in registers. No match changes these accesses. An earlier kernel kept its
/// matches in memory. Its duration differed between a match in the first row and one in the last
/// row (docs/assurance.md). `benches/constant_time.rs` therefore measures several blocks of rows.
#[inline]
fn compare_rows<const N: usize, R: Borrow<KeyHash>>(
    candidates: &[KeyHash; N],
    last_matches: &mut [usize; N],
    rows: impl Iterator<Item = (usize, R)>,
) {
    let mut found = *last_matches;
    for (index, row) in rows {
        // All values are new, independent of matches. Where rustc optimises for size, an assignment
        // to each element in a loop became a branch that skips the load of an old match.
        found = array::from_fn(|at| {
            // All ones if the row equals the candidate, else all zeros. A mask needs no branch.
            let equal = usize::from(candidates[at].differs_from(row.borrow())).wrapping_sub(1);
            found[at] & !equal | index & equal
        });
    }
    *last_matches = found;
}

/// Converts the kernel's match to an index, after all rows have been compared.
fn index_of(last_match: usize) -> Option<usize> {
    Some(last_match).filter(|&index| index != NO_MATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_hash::tests::COMPARED;

    /// Checks matches in several rows, rows split into several blocks, and candidates both in and
    /// beyond the groups of four.
    #[test]
    fn g8_a_sweep_compares_each_candidate_with_every_row() {
        let hashes: Vec<_> = (0..20_u8).map(|number| KeyHash::of([number])).collect();
        let rows = &hashes[..10];
        for block in [1, 3, 10] {
            for first in [0, 4, 9, 10] {
                for count in 0..=7 {
                    let candidates = &hashes[first..first + count];
                    let before = COMPARED.get();
                    let mut sweep = Sweep::new(candidates);
                    rows.chunks(block).for_each(|rows| sweep.extend(rows));
                    let found = sweep.finish();
                    assert_eq!(
                        COMPARED.get() - before,
                        count * rows.len(),
                        "{count} candidates from {first} on, blocks of {block} rows"
                    );
                    let expected =
                        (first..first + count).map(|index| Some(index).filter(|&index| index < 10));
                    assert!(found.into_iter().eq(expected));
                }
            }
        }
    }

    #[test]
    fn g8_a_sweep_for_one_candidate_compares_it_with_every_row() {
        let rows: Vec<_> = (0..10_u8).map(|number| KeyHash::of([number])).collect();
        for wanted in [0, 4, 9, 10] {
            let before = COMPARED.get();
            let found = sweep(&KeyHash::of([wanted]), &rows);
            assert_eq!(COMPARED.get() - before, rows.len(), "row {wanted}");
            assert_eq!(found, Some(usize::from(wanted)).filter(|&index| index < 10));
        }
    }
}
