//! The constant-time sweep: what a presented key costs when the cache does not know it.

#![deny(unsafe_code)]

use core::borrow::Borrow;

use crate::KeyHash;

/// Compares `candidate` with every row and returns the index of the row that it equals: the last one, if
/// several do.
///
/// All rows are visited, and the same instructions run for each: the duration depends on how many rows there
/// are, not on which one matched, nor on whether one did. What the iterator itself does is the caller's to
/// keep constant, and so is what happens after the answer.
///
/// O(n) compares of four words; no allocation. The technique is the reference system's (`hmac.compare_digest`
/// over every row, without a `break`). `benches/constant_time.rs` measures that it keeps this promise.
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
    let mut found = usize::MAX;
    for (index, row) in rows.into_iter().enumerate() {
        // All ones where the row is the one, all zeros elsewhere: so that there is nothing to branch on.
        let equal = usize::from(candidate.differs_from(row.borrow())).wrapping_sub(1);
        found = found & !equal | index & equal;
    }
    // Rows are held in memory, so none has this index.
    Some(found).filter(|&index| index != usize::MAX)
}
