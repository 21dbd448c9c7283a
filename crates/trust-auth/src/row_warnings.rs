//! [`RowWarnings`]: what a store logs of rows that it cannot make sense of. It must never say more of a row than its id.
//!
//! Each walk finds such a row again, and strangers choose how many walks there are: so it is named
//! once a minute.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use crate::log_limit::PAUSE;

/// How many rows are named in a minute. It bounds the memory, and what a table that is malformed
/// throughout may log.
const MOST: usize = 1_000;

/// Which rows were named in this minute.
#[derive(Debug)]
pub(crate) struct RowWarnings {
    /// Held for some instructions at a time, and only by whoever has read a malformed row.
    minute: Mutex<Minute>,
}

#[derive(Debug)]
struct Minute {
    begun: Instant,
    said: HashSet<(What, Option<Uuid>)>,
}

/// What is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Hash,
    Heartbeat,
    Column(&'static str),
    #[cfg(feature = "sqlite")]
    Id,
}

impl RowWarnings {
    /// The digest is none, so that the trust has no key.
    pub(crate) fn hash(&self, id: Uuid) {
        if self.may_say(What::Hash, Some(id), Instant::now()) {
            tracing::warn!(%id, "a trust's api_key_hash is not 64 hexadecimal digits; rotate its key to make it usable again");
        }
    }

    /// The last heartbeat is no time, by which nothing is decided.
    pub(crate) fn last_heartbeat(&self, id: Uuid) {
        if self.may_say(What::Heartbeat, Some(id), Instant::now()) {
            tracing::warn!(%id, "a trust's last_heartbeat is no time that can be told; it is left out");
        }
    }

    /// A column holds what it should not, so that the trust is refused.
    pub(crate) fn column(&self, id: Uuid, column: &'static str) {
        if self.may_say(What::Column(column), Some(id), Instant::now()) {
            tracing::warn!(
                %id,
                column,
                "a trust is refused because a column of its row is malformed; repair the row, or delete the trust"
            );
        }
    }

    /// The id is none, so that there is nothing to name the row by.
    #[cfg(feature = "sqlite")]
    pub(crate) fn id(&self) {
        if self.may_say(What::Id, None, Instant::now()) {
            tracing::warn!(
                "a trust's id is no UUID in lower case with hyphens; nobody can authenticate as this trust until the row \
                 is repaired"
            );
        }
    }

    fn may_say(&self, what: What, id: Option<Uuid>, now: Instant) -> bool {
        // A set of which an insertion was interrupted is a set still.
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(minute.begun) >= PAUSE {
            minute.begun = now;
            minute.said.clear();
        }
        minute.said.len() < MOST && minute.said.insert((what, id))
    }
}

impl Default for RowWarnings {
    fn default() -> Self {
        Self { minute: Mutex::new(Minute { begun: Instant::now(), said: HashSet::new() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_named_once_a_minute_and_no_more_than_a_thousand_are() {
        let warnings = RowWarnings::default();
        let begun = Instant::now();
        let named = |rows: std::ops::Range<u128>, after: std::time::Duration| {
            let may_say = |row: &u128| {
                warnings.may_say(What::Hash, Some(Uuid::from_u128(*row)), begun + after)
            };
            rows.filter(may_say).count()
        };
        let moment = PAUSE / 4;
        assert_eq!([named(0..2, moment), named(0..3, moment), named(0..3, moment)], [2, 1, 0]);
        assert!(
            warnings.may_say(What::Heartbeat, Some(Uuid::from_u128(0)), begun),
            "that is something else"
        );
        assert_eq!(named(0..100_000, moment), MOST - 4);
        assert_eq!(named(0..2, moment + PAUSE), 2);
    }
}
