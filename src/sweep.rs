//! The constant-time sweep: what a presented key costs when the cache does not know it.

#![deny(unsafe_code)]

use core::borrow::Borrow;

use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::KeyHash;

/// Compares `candidate` with every row and returns the index of the row that it equals: the last one, if
/// several do.
///
/// All rows are visited, and the same instructions run for each: the duration depends on how many rows there
/// are, not on which one matched, nor on whether one did. What the iterator itself does is the caller's to
/// keep constant, and so is what happens after the answer.
///
/// O(n) compares of four words; no allocation. The technique is the reference system's (`hmac.compare_digest`
/// over every row, without a `break`); the compare is [`subtle`]'s.
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
pub fn sweep(candidate: &KeyHash, rows: impl IntoIterator<Item = impl Borrow<KeyHash>>) -> Option<usize> {
    let mut found = u64::MAX;
    for (index, row) in (0_u64..).zip(rows) {
        found.conditional_assign(&index, candidate.ct_eq(row.borrow()));
    }
    // Rows are held in memory, so an index fits `usize`, and none is `u64::MAX`.
    usize::try_from(found).ok().filter(|_| found != u64::MAX)
}
