//! [`SqliteStore`]: the trusts in an SQLite file.
//!
//! Every operation has a time limit, every write is one transaction, and no statement finds a row
//! by its digest, except that of `find`.

mod anchor;
mod creation;
mod ended;
mod failure;
mod file;
mod file_checker;
mod index;
mod ledger;
mod location;
mod options;
mod own_pool;
mod own_tables;
mod packed;
mod poll;
mod read_lease;
mod row;
mod schema;
mod statements;
mod store;
mod transaction;
mod watch;
mod write_check;

pub use self::options::SqliteOptions;
pub use self::read_lease::{SqliteFeed, SqliteSession};
pub use self::store::SqliteStore;
