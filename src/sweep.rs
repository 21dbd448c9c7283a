//! The constant-time sweep: what a presented key costs when the cache does not know it.

use core::borrow::Borrow;

use crate::KeyHash;

/// Compares `candidate` with every row and returns the index of the row that it equals: the last
/// one, if several do.
///
/// All rows are visited, and the same instructions run for each: the duration depends on how many
/// rows there are, not on which one matched, nor on whether one did. What the iterator itself does
/// is the caller's to keep constant, and so is what happens after the answer.
///
/// O(n) compares of four words; no allocation. The technique is the reference system's
/// (`hmac.compare_digest` over every row, without a `break`). `benches/constant_time.rs` measures
/// that it keeps this promise. For many candidates at once there is [`sweep_all`].
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
    let mut found = Found::NOTHING;
    for (index, row) in rows.into_iter().enumerate() {
        found.look(candidate, row.borrow(), index);
    }
    found.index()
}

/// [`sweep`] for many candidates: for each candidate, in their order, the index of the row
/// that it equals, the last one if several do.
///
/// For many requests that wait at once: four candidates go over the rows together, and those that
/// are left go one by one. Every candidate is compared with every row by the same instructions, so
/// the work depends on how many candidates and how many rows there are, and on nothing else. Where
/// several candidates match, its duration was seen to tell, barely and in some processes alone,
/// where they do: docs/assurance.md. Candidates may be equal to each other.
///
/// O(candidates · rows) compares of four words; allocates the answer. A slice of [`KeyHash`] is a
/// packed column of 32 bytes a row: a store that keeps one need not convert it.
///
/// # Examples
///
/// ```
/// use trust_key_cache::{KeyHash, sweep_all};
///
/// let rows = ["alpha", "beta", "gamma"].map(KeyHash::of);
/// let waiting = ["gamma", "delta", "alpha"].map(KeyHash::of);
/// assert_eq!(sweep_all(&waiting, &rows), [Some(2), None, Some(0)]);
/// ```
#[must_use]
pub fn sweep_all(candidates: &[KeyHash], rows: &[KeyHash]) -> Vec<Option<usize>> {
    let mut answers = Vec::with_capacity(candidates.len());
    let (fours, rest) = candidates.as_chunks();
    for four in fours {
        answers.extend(sweep_four(four, rows));
    }
    answers.extend(rest.iter().map(|candidate| sweep(candidate, rows)));
    answers
}

/// What is found stays in registers until all rows have been visited. Kept in memory from block to
/// block of rows, and converted at the end, it told a first row from a last one: by less than a
/// nanosecond, in one process of four, with the same instructions for both (docs/assurance.md).
fn sweep_four(candidates: &[KeyHash; 4], rows: &[KeyHash]) -> [Option<usize>; 4] {
    let mut found = [Found::NOTHING; 4];
    for (index, row) in rows.iter().enumerate() {
        for (candidate, found) in candidates.iter().zip(&mut found) {
            found.look(candidate, row, index);
        }
    }
    found.map(Found::index)
}

/// The index of the last row that matched, or all ones. Rows are held in memory, so none has that
/// index.
#[derive(Clone, Copy)]
struct Found(usize);

impl Found {
    const NOTHING: Self = Self(usize::MAX);

    #[inline]
    fn look(&mut self, candidate: &KeyHash, row: &KeyHash, index: usize) {
        // All ones where the row is the one, all zeros elsewhere: so that there is nothing to
        // branch on.
        let equal = usize::from(candidate.differs_from(row)).wrapping_sub(1);
        self.0 = self.0 & !equal | index & equal;
    }

    fn index(self) -> Option<usize> {
        Some(self.0).filter(|&index| index != Self::NOTHING.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_hash::tests::COMPARED;

    /// Whichever row matches, and whether a candidate is one of four or of what is left of them.
    #[test]
    fn g8_a_sweep_for_many_candidates_compares_each_with_every_row() {
        let hashes: Vec<_> = (0..20_u8).map(|number| KeyHash::of([number])).collect();
        let rows = &hashes[..10];
        for first in [0, 4, 9, 10] {
            for count in 0..=7 {
                let candidates = &hashes[first..first + count];
                let before = COMPARED.get();
                let found = sweep_all(candidates, rows);
                assert_eq!(
                    COMPARED.get() - before,
                    count * rows.len(),
                    "{count} candidates from {first} on"
                );
                let expected =
                    (first..first + count).map(|index| Some(index).filter(|&index| index < 10));
                assert!(found.into_iter().eq(expected));
            }
        }
    }
}
