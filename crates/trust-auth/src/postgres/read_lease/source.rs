//! [`LeaseSource`]: what the sessions, the waits and the migration of one database share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::failure;
use super::schema::READ_LEASE;
use super::watched_table::WatchedTable;
use crate::error::StoreError;
use crate::postgres::connector::Connector;
use crate::postgres::pool::Pool;

/// The channel of the hints. A hint has no content.
pub(super) const CHANNEL: &str = "trust_auth_lease";

/// A record with this source ends everything.
pub(super) const EVERYTHING: &str = "*";

/// The table of the registrations, as the arguments of `concat`: its database, its number, and the
/// names of database and schema. Each name comes with the transaction that wrote its row in the
/// catalog last: a name that is given away and taken back is another place.
macro_rules! place {
    () => {
        "(SELECT concat(oid, '.', xmin) FROM pg_database WHERE datname = current_database()), '/', \
         to_regclass('trust_auth_holder')::oid, '/', current_database(), '/', \
         (SELECT concat(n.oid::regnamespace, '.', n.xmin) FROM pg_class AS c \
          JOIN pg_namespace AS n ON n.oid = c.relnamespace \
          WHERE c.oid = to_regclass('trust_auth_holder'))"
    };
}

/// The table of the registrations, in the server's run. A restart or a failover gives another one,
/// whatever the session's time zone. So does a copy of the database on the same server, a dump that
/// was restored in place, and a copy or a schema that takes the place of another by a new name.
macro_rules! run {
    () => {
        concat!(
            "concat(extract(epoch FROM pg_postmaster_start_time()), '/', ",
            $crate::postgres::read_lease::source::place!(),
            ")"
        )
    };
}

/// Whether the lease's own tables are those that its function writes, survive a crash, and hide no
/// row from this role. `$barrier` is the barrier's text, as this version makes it.
macro_rules! are_sound {
    ($barrier:literal) => {
        concat!(
            "(SELECT count(*) = 3 FROM pg_class AS c \
             JOIN pg_proc AS f ON f.pronamespace = c.relnamespace \
             JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                 AND f.proconfig && ARRAY['search_path=' || quote_ident(nspname), \
                     'search_path=\"' || replace(nspname, '\"', '\"\"') || '\"'] \
             WHERE f.oid = to_regprocedure('trust_auth_barrier(bool)') AND f.prosrc = ",
            $barrier,
            " AND c.oid IN (to_regclass('trust_auth_lease'), to_regclass('trust_auth_change'), \
                 to_regclass('trust_auth_holder')) \
             AND c.relpersistence = 'p' AND NOT row_security_active(c.oid))"
        )
    };
}

pub(super) use {are_sound, place, run};

/// The text of the function `trust_auth_barrier`, as the catalog keeps it.
pub(super) fn barrier_text() -> &'static str {
    READ_LEASE.split("$trust_auth$").nth(1).unwrap_or_default()
}

/// A database, and the tables that are watched there.
#[derive(Clone)]
pub(super) struct LeaseSource {
    pub(super) connector: Connector,
    pub(super) readers: Pool,
    pub(super) tables: Arc<[WatchedTable]>,
    /// Whether the table `trust` is watched, and each difference reads its changed rows.
    pub(super) has_trusts: bool,
    /// Held by the revocation that watches the run and the holders, on a connection of its own.
    pub(super) watching: Arc<Mutex<()>>,
}

impl LeaseSource {
    /// Returns the diagnosis of an error of the driver.
    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        failure::lease_failed(error, &self.connector, self.limit())
    }

    /// Returns whether the source of a record, which is `table.column`, names a watched table.
    pub(super) fn watches_table_of(&self, source: &str) -> bool {
        // Another declaration may quote the name, or not.
        let plain = |name: &str| name.replace('"', "");
        let source = plain(source);
        let is_of = |rest: &str| rest.starts_with('.');
        self.tables.iter().any(|table| source.strip_prefix(&plain(&table.name)).is_some_and(is_of))
    }

    /// Returns the time limit of a statement.
    pub(super) fn limit(&self) -> Duration {
        self.connector.query_timeout
    }
}

impl fmt::Debug for LeaseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseSource")
            .field("server", &self.connector.location)
            .field("tables", &self.tables.iter().map(|table| &table.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
