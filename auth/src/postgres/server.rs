//! [`ServerIdentity`]: which server answers on a connection. [`CurrentServer`]: which one the
//! address leads to now.
//!
//! After a failover that moves the address, old connections stay up to the old primary. What it
//! returns is out of date: it may show a trust whose revocation is on the new primary alone. So the
//! newest connection decides which server is asked, and a connection to any other server is closed
//! before its next use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

/// Qualified, since the role's `search_path` may name other functions first.
const WHOLE: &str = "SELECT pg_catalog.pg_postmaster_start_time()::text, \
     (SELECT system_identifier FROM pg_catalog.pg_control_system())::text, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
     ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END";

/// What any role may read, also where the functions of `WHOLE` are missing or not granted.
const START: &str = "SELECT pg_catalog.pg_postmaster_start_time()::text";

/// Which server answers on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerIdentity {
    /// When it was started, in microseconds. Two servers never share it in practice, and a restart
    /// ends all connections.
    started: String,
    lineage: Option<Lineage>,
}

/// Where a server stands among the copies of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lineage {
    /// Which data: the same for a primary and its replicas.
    system: String,
    /// Each promotion of a replica increments it.
    timeline: u32,
}

impl ServerIdentity {
    /// Asks the server at the other end.
    pub(super) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = match connection.fetch_one(WHOLE).await {
            Ok(row) => row,
            Err(sqlx::Error::Database(_)) => connection.fetch_one(START).await?,
            Err(error) => return Err(error),
        };
        let lineage = match (row.try_get::<String, _>(1), row.try_get::<String, _>(2)) {
            (Ok(system), Ok(timeline)) => {
                u32::from_str_radix(&timeline, 16).ok().map(|timeline| Lineage { system, timeline })
            }
            _ => None,
        };
        Ok(Self { started: row.try_get(0)?, lineage })
    }

    /// Whether both have the same data by origin, and `other` was promoted later.
    fn is_superseded_by(&self, other: &Self) -> bool {
        match (&self.lineage, &other.lineage) {
            (Some(this), Some(other)) => this.system == other.system && this.timeline < other.timeline,
            _ => false,
        }
    }
}

/// What a new connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    /// The address leads to this server.
    Current,
    /// A connection that was begun later leads to another server.
    Outdated,
    /// This process has seen a server that was promoted after this one.
    Superseded,
}

/// Which server the address leads to, by the newest connection that was made.
#[derive(Debug, Default)]
pub(super) struct CurrentServer {
    begun: AtomicU64,
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    attempt: u64,
    identity: Option<ServerIdentity>,
}

impl CurrentServer {
    /// Numbers an attempt to connect. Take it before connecting.
    pub(super) fn begin(&self) -> u64 {
        // Relaxed: only the order of the numbers counts, which one location gives.
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Records where an attempt has led.
    pub(super) fn record(&self, attempt: u64, identity: &ServerIdentity) -> Sighting {
        let mut newest = self.newest();
        if newest.identity.as_ref().is_some_and(|known| identity.is_superseded_by(known)) {
            return Sighting::Superseded;
        }
        if attempt < newest.attempt && newest.identity.as_ref() != Some(identity) {
            return Sighting::Outdated;
        }
        if newest.identity.is_none() || attempt > newest.attempt {
            *newest = Newest { attempt, identity: Some(identity.clone()) };
        }
        Sighting::Current
    }

    /// Whether the address leads to this server, by all that is known.
    pub(super) fn is(&self, identity: &ServerIdentity) -> bool {
        self.newest().identity.as_ref() == Some(identity)
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(started: &str, timeline: u32) -> ServerIdentity {
        let lineage = Some(Lineage { system: "7".into(), timeline });
        ServerIdentity { started: started.into(), lineage }
    }

    #[test]
    fn the_attempt_that_was_begun_last_decides_which_server_is_current() {
        let current = CurrentServer::default();
        let (early, late) = (current.begin(), current.begin());
        let (old, new) = (server("old", 1), server("new", 1));
        assert_eq!(current.record(late, &new), Sighting::Current);
        assert_eq!(current.record(early, &old), Sighting::Outdated);
        assert!(current.is(&new) && !current.is(&old));
        assert_eq!(current.record(early, &new), Sighting::Current);
        assert_eq!(current.record(current.begin(), &old), Sighting::Current);
        assert!(current.is(&old) && !current.is(&new));
    }

    #[test]
    fn a_server_whose_successor_was_seen_is_refused() {
        let current = CurrentServer::default();
        let (old, new) = (server("old", 1), server("new", 2));
        for (identity, sighting) in [
            (&old, Sighting::Current),
            (&new, Sighting::Current),
            (&old, Sighting::Superseded),
            (&new, Sighting::Current),
        ] {
            assert_eq!(current.record(current.begin(), identity), sighting);
        }
        // Another cluster, and one whose lineage is not known: nothing is known of their order.
        let mut other = server("other", 1);
        other.lineage.as_mut().unwrap().system = "8".into();
        assert_eq!(current.record(current.begin(), &other), Sighting::Current);
        let unknown = ServerIdentity { started: "unknown".into(), lineage: None };
        assert_eq!(current.record(current.begin(), &unknown), Sighting::Current);
    }
}
