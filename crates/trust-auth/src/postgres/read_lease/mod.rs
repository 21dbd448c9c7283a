//! The read lease on PostgreSQL: `docs/read-lease.md` has its rules (R1 to R16) and their proof.

mod changes;
mod failure;
mod feed;
mod inquiry;
mod lowering;
mod run_watch;
mod schema;
mod session;
mod settlement;
mod source;
mod statements;
mod watched_table;

pub use self::changes::PgChanges;
pub use self::feed::PgFeed;
#[cfg(test)]
pub(super) use self::schema::READ_LEASE;
pub use self::session::PgSession;
pub use self::watched_table::WatchedTable;
