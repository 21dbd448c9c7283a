//! [`RowWarnings`]: logs the rows that a store cannot read. A line must never contain more of a row
//! than its id.
//!
//! Each scan reads such a row again, and unauthenticated clients cause scans. So each row is logged
//! at most once a minute.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use crate::log_limit::PAUSE;

/// How many lines are logged in a minute at most. The limit bounds the memory, and the log of a
/// table whose rows are all malformed.
const LIMIT: usize = 1_000;

/// Limits the warnings to one a minute for each row and fault.
#[derive(Debug)]
pub(crate) struct RowWarnings {
    /// Locked for a few instructions at a time, and only after a malformed row was read.
    minute: Mutex<Minute>,
}

#[derive(Debug)]
struct Minute {
    begun: Instant,
    logged: HashSet<(Fault, Option<Uuid>)>,
}

/// What is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    Hash,
    Key,
    Heartbeat,
    Column(&'static str),
    #[cfg(feature = "sqlite")]
    Id,
}

impl RowWarnings {
    /// Warns that the text in `api_key_hash` is not a digest, so that the trust has no key.
    pub(crate) fn hash(&self, id: Uuid) {
        if self.try_log(Fault::Hash, Some(id), Instant::now()) {
            tracing::warn!(
                %id,
                "a trust's api_key_hash is not 64 hexadecimal digits; rotate its key to make it \
                 usable again"
            );
        }
    }

    /// Warns that a row of one of the trust's keys is malformed, so that the trust lacks this key.
    pub(crate) fn key(&self, trust: Uuid) {
        if self.try_log(Fault::Key, Some(trust), Instant::now()) {
            tracing::warn!(
                %trust,
                "a row of this trust in trust_key has a malformed column; its key is refused; \
                 delete the row, and add another key"
            );
        }
    }

    /// Warns that `last_heartbeat` is malformed. No decision depends on this column.
    pub(crate) fn last_heartbeat(&self, id: Uuid) {
        if self.try_log(Fault::Heartbeat, Some(id), Instant::now()) {
            tracing::warn!(
                %id,
                "a trust's last_heartbeat is not a time that can be read; it is left out"
            );
        }
    }

    /// Warns that a column is malformed, so that the trust is refused.
    pub(crate) fn column(&self, id: Uuid, column: &'static str) {
        if self.try_log(Fault::Column(column), Some(id), Instant::now()) {
            tracing::warn!(
                %id,
                column,
                "a trust is refused because a column of its row is malformed; repair the row, or \
                 delete the trust"
            );
        }
    }

    /// Warns that a row's id is malformed, so that the warning cannot name the row.
    #[cfg(feature = "sqlite")]
    pub(crate) fn id(&self) {
        if self.try_log(Fault::Id, None, Instant::now()) {
            tracing::warn!(
                "a trust's id is not a UUID in lower case with hyphens; the trust is refused until \
                 the row is repaired"
            );
        }
    }

    fn try_log(&self, fault: Fault, id: Option<Uuid>, now: Instant) -> bool {
        // A panic in the middle of an insertion leaves a set that is still usable.
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(minute.begun) >= PAUSE {
            minute.begun = now;
            minute.logged.clear();
        }
        minute.logged.len() < LIMIT && minute.logged.insert((fault, id))
    }
}

impl Default for RowWarnings {
    fn default() -> Self {
        Self { minute: Mutex::new(Minute { begun: Instant::now(), logged: HashSet::new() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_logged_once_a_minute_and_at_most_a_thousand_rows_are() {
        let warnings = RowWarnings::default();
        let begun = Instant::now();
        let logged = |rows: std::ops::Range<u128>, after: std::time::Duration| {
            let try_log = |row: &u128| {
                warnings.try_log(Fault::Hash, Some(Uuid::from_u128(*row)), begun + after)
            };
            rows.filter(try_log).count()
        };
        let moment = PAUSE / 4;
        assert_eq!([logged(0..2, moment), logged(0..3, moment), logged(0..3, moment)], [2, 1, 0]);
        assert!(
            warnings.try_log(Fault::Heartbeat, Some(Uuid::from_u128(0)), begun),
            "another fault of the same row"
        );
        assert_eq!(logged(0..100_000, moment), LIMIT - 4);
        assert_eq!(logged(0..2, moment + PAUSE), 2);
    }
}
