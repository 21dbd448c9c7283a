//! The read lease on SQLite: a poll shows whether anything was committed, and a change waits out
//! the longest lease (`docs/read-lease.md`, RL8, RL9, RL22 and RL31). There are no registrations
//! and no acknowledgements.

mod feed;
mod lease_row;
mod session;

pub use self::feed::SqliteFeed;
pub(super) use self::lease_row::LeaseRow;
pub(super) use self::session::LOAD;
pub use self::session::SqliteSession;
