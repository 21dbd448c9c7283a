//! [`PostgresStore`]: the trusts in a table of PostgreSQL.
//!
//! Every operation has a time limit, here and on the server. Every write is one transaction. No
//! statement finds a row by its digest, except that of `find`, and nothing is read from a replica.

mod canary;
mod catalog;
mod connect;
mod connection_string;
mod connector;
mod dial;
mod ended;
mod environment;
mod failure;
mod index;
mod ledger;
mod location;
mod notice;
mod options;
mod own_pool;
mod parameters;
mod password;
mod pool;
mod read;
mod read_lease;
mod rights;
mod row;
mod schema;
mod server;
mod service_file;
mod statements;
mod store;
mod subscription;
mod tls;
mod tls_settings;
mod tls_verifier;
mod transaction;
mod trigger_watch;
mod triggers;
mod tunnel;
mod values;
mod watch;
mod with_keys;
mod write_check;

pub use self::options::PostgresOptions;
pub use self::read_lease::{PgChanges, PgFeed, PgSession, WatchedTable};
pub use self::store::PostgresStore;
