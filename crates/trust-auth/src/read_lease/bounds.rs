//! The bounds of a holder: the length of its lease, and the pace of its turns. The holder of all
//! trusts has the same.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::StoreError;

/// The lengths that a lease may have. The database refuses others, too.
const LENGTHS: RangeInclusive<Duration> = Duration::from_millis(300)..=Duration::from_secs(300);

/// The least time from the begin of one turn to the begin of the next: at most 100 turns a second.
pub(super) const PACE: Duration = Duration::from_millis(10);

/// Checks that a lease may have this length.
///
/// # Errors
///
/// [`StoreError::Other`] if it may not.
pub(super) fn check_length(length: Duration) -> Result<(), StoreError> {
    if LENGTHS.contains(&length) {
        return Ok(());
    }
    let text = format!("a read lease lasts from 300 ms to 300 s, not {length:?}");
    Err(StoreError::Other(text.into()))
}
