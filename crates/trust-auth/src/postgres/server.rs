//! [`ServerIdentity`]: the server at the other end of a connection. [`CurrentServer`]: the server
//! that the address leads to now.
//!
//! After a failover that moves the address, old connections still lead to the old primary. Its rows
//! are out of date: a revocation may be on the new primary alone. So the newest connection decides
//! which server is used, and a connection to any other server is closed before its next use.
//!
//! The same applies where one server has two tables of the name. A change of the role's
//! `search_path`, or of a pooler's database, affects new connections alone. A revocation would then
//! be written to one table while requests read the other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

use super::failure::code;

/// The SQL for what selects, on one server, the table of the name `trust`.
macro_rules! place {
    () => {
        "pg_catalog.concat_ws(' ', (SELECT oid FROM pg_catalog.pg_database \
         WHERE datname = pg_catalog.current_database()), current_user, \
         pg_catalog.current_setting('search_path'))"
    };
}

/// The start of a query that any role may run, even where the functions of `WHOLE` are missing or
/// not granted. All names are qualified: the role's `search_path` may have other functions first.
macro_rules! start {
    () => {
        concat!(
            "SELECT pg_catalog.pg_postmaster_start_time()::text, \
             pg_catalog.pg_is_in_recovery() \
             OR pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool, ",
            place!()
        )
    };
}

const WHOLE: &str = concat!(
    start!(),
    ", (SELECT system_identifier FROM pg_catalog.pg_control_system())::text, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
     ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END"
);

const START: &str = start!();

/// The server at the other end of a connection, and the place of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerIdentity {
    /// When the server was started, in microseconds. In practice no two servers share this time,
    /// and a restart ends all connections.
    started: String,
    /// What selects the table: the database, the role and its `search_path`.
    place: String,
    lineage: Option<Lineage>,
}

/// The position of a server among the copies of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lineage {
    /// Identifies the data: a primary and its replicas share it.
    system: String,
    /// Each promotion of a replica increments it.
    timeline: u32,
}

impl ServerIdentity {
    /// Queries the server at the other end. Returns `None` for a server that accepts no writes,
    /// such as a replica, which must not become the current server.
    pub(super) async fn of(connection: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        let row = match connection.fetch_one(WHOLE).await {
            Ok(row) => row,
            Err(error) if has_no_lineage(code(&error)) => connection.fetch_one(START).await?,
            Err(error) => return Err(error),
        };
        if row.try_get::<bool, _>(1)? {
            return Ok(None);
        }
        let lineage = match (row.try_get::<String, _>(3), row.try_get::<String, _>(4)) {
            (Ok(system), Ok(timeline)) => {
                u32::from_str_radix(&timeline, 16).ok().map(|timeline| Lineage { system, timeline })
            }
            _ => None,
        };
        Ok(Some(Self { started: row.try_get(0)?, place: row.try_get(2)?, lineage }))
    }

    /// Returns whether both are the same tables of the same run of a server. A missing lineage
    /// matches any lineage.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        let lineages = self.lineage.as_ref().zip(other.lineage.as_ref());
        let is_same_place = self.started == other.started && self.place == other.place;
        is_same_place && lineages.is_none_or(|(this, other)| this == other)
    }
}

/// Returns whether this SQLSTATE means that the server never returns its lineage to this role:
/// undefined_function, insufficient_privilege or feature_not_supported. After a temporary failure,
/// such as a statement time-out, the lineage must not count as missing.
fn has_no_lineage(code: Option<&str>) -> bool {
    matches!(code, Some("42883" | "42501" | "0A000"))
}

/// What a new connection reveals about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    /// The address leads to this server.
    Current,
    /// A connection that was begun later leads to another server.
    Outdated,
    /// This process has seen a server that was promoted after this one.
    Superseded,
}

/// The server that the address leads to, according to the newest connection.
#[derive(Debug, Default)]
pub(super) struct CurrentServer {
    begun: AtomicU64,
    sightings: Mutex<Sightings>,
}

#[derive(Debug, Default)]
struct Sightings {
    newest: Newest,
    lineages: Lineages,
}

#[derive(Debug, Default)]
struct Newest {
    attempt: u64,
    identity: Option<ServerIdentity>,
}

/// All lineages of this process's connections. Entries are never removed: an old primary may return
/// at any time. Each start of a server adds one entry.
#[derive(Debug, Default)]
struct Lineages {
    highest_timelines: HashMap<String, u32>,
    by_start: HashMap<String, Lineage>,
}

impl Lineages {
    /// Records the lineage of a server. Adds a recorded lineage to an identity that lacks one.
    fn complete(&mut self, identity: &ServerIdentity) -> ServerIdentity {
        let mut identity = identity.clone();
        match &identity.lineage {
            Some(lineage) => {
                let highest = self.highest_timelines.entry(lineage.system.clone()).or_default();
                *highest = lineage.timeline.max(*highest);
                self.by_start.insert(identity.started.clone(), lineage.clone());
            }
            None => identity.lineage = self.by_start.get(&identity.started).cloned(),
        }
        identity
    }

    /// Returns whether a server with the same original data was promoted later.
    fn supersede(&self, identity: &ServerIdentity) -> bool {
        identity.lineage.as_ref().is_some_and(|lineage| {
            self.highest_timelines
                .get(&lineage.system)
                .is_some_and(|highest| lineage.timeline < *highest)
        })
    }
}

impl CurrentServer {
    /// Returns a number for an attempt to connect. Call this before connecting.
    pub(super) fn begin(&self) -> u64 {
        // Relaxed: only the order of the numbers matters, and one atomic gives it.
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Records the server that an attempt reached. The server must accept writes.
    pub(super) fn record(&self, attempt: u64, identity: &ServerIdentity) -> Sighting {
        let mut sightings = self.sightings();
        let Sightings { newest, lineages } = &mut *sightings;
        let identity = lineages.complete(identity);
        if lineages.supersede(&identity) {
            return Sighting::Superseded;
        }
        if let Some(known) = &newest.identity
            && attempt < newest.attempt
            && !lineages.supersede(known)
        {
            let is_current = known.is_same_server(&identity);
            return if is_current { Sighting::Current } else { Sighting::Outdated };
        }
        *newest = Newest { attempt: attempt.max(newest.attempt), identity: Some(identity) };
        Sighting::Current
    }

    /// Returns whether the address leads to this server, as far as is known.
    pub(super) fn is(&self, identity: &ServerIdentity) -> bool {
        self.sightings()
            .newest
            .identity
            .as_ref()
            .is_some_and(|known| known.is_same_server(identity))
    }

    fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(started: &str, timeline: u32) -> ServerIdentity {
        let lineage = Some(Lineage { system: "7".into(), timeline });
        ServerIdentity { started: started.into(), place: String::new(), lineage }
    }

    #[test]
    fn a_connection_that_finds_other_tables_is_not_the_current_one() {
        let current = CurrentServer::default();
        let old = server("server", 1);
        let new = ServerIdentity { place: "5 app other".into(), ..old.clone() };
        assert_eq!(current.record(current.begin(), &old), Sighting::Current);
        assert_eq!(current.record(current.begin(), &new), Sighting::Current);
        assert!(current.is(&new) && !current.is(&old));
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
        // Another cluster, and a server without a known lineage: their order is not known.
        let mut other = server("other", 1);
        other.lineage.as_mut().unwrap().system = "8".into();
        assert_eq!(current.record(current.begin(), &other), Sighting::Current);
        let unknown = ServerIdentity { lineage: None, ..server("unknown", 1) };
        assert_eq!(current.record(current.begin(), &unknown), Sighting::Current);
    }

    #[test]
    fn g9_a_server_whose_successor_was_seen_is_refused_whatever_was_reached_in_between() {
        for between in [
            ServerIdentity { lineage: None, ..server("no lineage", 1) },
            ServerIdentity {
                lineage: Some(Lineage { system: "8".into(), timeline: 1 }),
                ..server("another cluster", 1)
            },
        ] {
            let current = CurrentServer::default();
            let (old, new) = (server("old", 1), server("new", 2));
            for identity in [&old, &new, &between] {
                assert_eq!(current.record(current.begin(), identity), Sighting::Current);
            }
            let without_lineage = ServerIdentity { lineage: None, ..old.clone() };
            for identity in [&old, &without_lineage] {
                let sighting = current.record(current.begin(), identity);
                assert_eq!(sighting, Sighting::Superseded, "{between:?}");
            }
            assert!(current.is(&between) && !current.is(&old));
        }
    }

    #[test]
    fn g9_a_successor_is_current_also_if_its_attempt_was_begun_before_that_to_the_old_primary() {
        let current = CurrentServer::default();
        let (early, late) = (current.begin(), current.begin());
        let (old, new) = (server("old", 1), server("new", 2));
        assert_eq!(current.record(late, &old), Sighting::Current);
        assert_eq!(current.record(early, &new), Sighting::Current);
        assert!(current.is(&new) && !current.is(&old));
        assert_eq!(current.record(current.begin(), &old), Sighting::Superseded);
    }

    #[test]
    fn a_server_without_lineage_is_the_one_that_was_started_at_the_same_time() {
        let current = CurrentServer::default();
        let whole = server("new", 2);
        let start = ServerIdentity { lineage: None, ..whole.clone() };
        for identity in [&whole, &start] {
            assert_eq!(current.record(current.begin(), identity), Sighting::Current);
            assert!(current.is(&whole) && current.is(&start));
        }
    }

    #[test]
    fn a_temporary_failure_does_not_count_as_a_missing_lineage() {
        for code in ["42883", "42501", "0A000"] {
            assert!(has_no_lineage(Some(code)), "{code}");
        }
        for code in [Some("57014"), Some("57P01"), Some("53200"), Some("XX000"), None] {
            assert!(!has_no_lineage(code), "{code:?}");
        }
    }
}
