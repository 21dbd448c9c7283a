//! Connections: how one is made, what it must be before it is used, and which may be used again.
//!
//! A connection on which anything failed, or whose user went away half-way, is never used again: it
//! may still be at work on the server, or hold an answer that no caller waits for.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{
    self, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType,
};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::dial::Refused;
use super::failure::{elsewhere, failed, superseded};
use super::location::Location;
use super::password::PasswordSource;
use super::server::{CurrentServer, ServerIdentity, Sighting};
use crate::error::StoreError;

/// A connection for writes is replaced when it is older than this: a revocation goes to the server
/// that the address leads to, and a new connection is how to find out. Many changes in a row share
/// it.
pub(super) const MAX_WRITER_AGE: Duration = Duration::from_secs(5);

/// One that was idle for longer is asked whether it is alive: firewalls forget idle connections
/// without a word.
const MAX_IDLE: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(1);

pub(super) type Pool = managed::Pool<Connector>;

/// How connections are made.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) location: Location,
    pub(super) password: PasswordSource,
    /// For all servers together.
    pub(super) connect_timeout: Duration,
    /// For each server.
    pub(super) host_timeout: Duration,
    pub(super) query_timeout: Duration,
    pub(super) lock_timeout: Duration,
    /// How old a connection may become.
    pub(super) max_age: Duration,
    /// Where the address leads, as all of the store's connections have found.
    pub(super) current: Arc<CurrentServer>,
}

/// A connection, and what decides how long it may be used.
pub(super) struct LiveConnection {
    pub(super) connection: PgConnection,
    server: ServerIdentity,
    lasts: Duration,
}

/// At least three quarters of `age`, and at most `age`: what was made at one time is not replaced
/// at one time.
pub(super) fn jittered(age: Duration) -> Duration {
    // Without random bytes, all last equally long.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    age.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u32::MAX))
}

impl Connector {
    pub(super) fn pool(
        self,
        connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Pool, StoreError> {
        Pool::builder(self)
            .max_size(connections as usize)
            .wait_timeout(Some(acquire_timeout))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Other(error.into()))
    }

    /// The same, under a name by which an administrator can tell its connections from others in
    /// `pg_stat_activity`.
    pub(super) fn named(&self, purpose: &str) -> Self {
        let mut named = self.clone();
        named.location.application_name = format!("{} {purpose}", self.location.application_name);
        named
    }

    /// A connection to the primary, with the limits set on the server too.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.reach().await.map(|live| live.connection)
    }

    async fn reach(&self) -> Result<LiveConnection, StoreError> {
        // On the heap: the driver's connecting is a large future, and everything that may need a
        // connection would hold it.
        let dialing = Box::pin(self.establish());
        match tokio::time::timeout(self.connect_timeout, dialing).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.cannot_connect(format!(
                "it accepted no connection within {:?}; check the address, and that it runs",
                self.connect_timeout
            ))),
        }
    }

    async fn establish(&self) -> Result<LiveConnection, StoreError> {
        self.dial(|options: PgConnectOptions| async move {
            let attempt = self.current.begin();
            let connection = options.connect().await.map_err(Refused::Connecting)?;
            let mut connection = self.prepare(connection).await.map_err(Refused::Connected)?;
            let server = self.identify(attempt, &mut connection).await?;
            Ok(LiveConnection { connection, server, lasts: jittered(self.max_age) })
        })
        .await
    }

    /// Finds out which server a new connection leads to. Refuses a server that accepts no writes,
    /// and an old primary. `attempt` was begun before the connection was opened.
    pub(super) async fn identify(
        &self,
        attempt: u64,
        connection: &mut PgConnection,
    ) -> Result<ServerIdentity, Refused> {
        let fails =
            |error| Refused::Connected(failed(&error, &self.location, self.connect_timeout));
        let Some(server) = ServerIdentity::of(connection).await.map_err(fails)? else {
            let server = self.location.to_string();
            return Err(Refused::Connected(StoreError::ReadOnly { server }));
        };
        match self.current.record(attempt, &server) {
            Sighting::Current => Ok(server),
            Sighting::Outdated => Err(Refused::Connected(elsewhere(&self.location))),
            Sighting::Superseded => Err(Refused::OldPrimary(superseded(&self.location))),
        }
    }

    /// Sets the limits of a new connection, and makes sure that it leads to the primary.
    async fn prepare(&self, mut connection: PgConnection) -> Result<PgConnection, StoreError> {
        // The statement's limit is a little shorter than the caller's own: a server that still
        // answers stops its work by itself, and says so on a connection that is then closed
        // cleanly. Zero would mean no limit.
        let milliseconds = |limit: Duration| limit.as_millis().max(1).to_string();
        let row = sqlx::query(
            "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, \
             set_config('statement_timeout', $1, false), \
             set_config('lock_timeout', $2, false), \
             set_config('idle_in_transaction_session_timeout', $1, false), \
             set_config('synchronous_commit', \
                 CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local' \
                 ELSE current_setting('synchronous_commit') END, false)",
        )
        .bind(milliseconds(self.query_timeout.mul_f64(0.9)))
        .bind(milliseconds(self.lock_timeout))
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(&error, &self.location, self.query_timeout))?;
        if row.try_get(0).unwrap_or(true) {
            let _ = connection.close().await;
            return Err(StoreError::ReadOnly { server: self.location.to_string() });
        }
        Ok(connection)
    }
}

/// What is to be thought of a connection before it is used again.
#[derive(Debug, PartialEq, Eq)]
enum Fitness {
    Fit,
    Doubtful,
    Old,
}

fn fitness(age: Duration, lasts: Duration, idle: Duration) -> Fitness {
    if age > lasts {
        Fitness::Old
    } else if idle > MAX_IDLE {
        Fitness::Doubtful
    } else {
        Fitness::Fit
    }
}

impl managed::Manager for Connector {
    type Type = LiveConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<LiveConnection, StoreError> {
        self.reach().await
    }

    async fn recycle(
        &self,
        live: &mut LiveConnection,
        metrics: &Metrics,
    ) -> RecycleResult<StoreError> {
        if !self.current.is(&live.server) {
            return Err(RecycleError::message("the address leads to another server"));
        }
        match fitness(metrics.age(), live.lasts, metrics.last_used()) {
            Fitness::Fit => Ok(()),
            Fitness::Old => Err(RecycleError::message("old")),
            Fitness::Doubtful => {
                match tokio::time::timeout(PING_LIMIT, live.connection.ping()).await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(RecycleError::message("dead")),
                }
            }
        }
    }
}

/// Closes the connections that wait for their next use and will not get one.
pub(super) fn close_unfit(pool: &Pool) {
    let current = &pool.manager().current;
    drop(pool.retain(|live, metrics| metrics.age() <= live.lasts && current.is(&live.server)));
}

/// A connection on loan. It goes back by [`give_back`](Self::give_back), and is closed if it is
/// dropped.
pub(super) struct Lent(Option<Object<Connector>>);

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self, StoreError> {
        match pool.get().await {
            Ok(object) => Ok(Self(Some(object))),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Closed) => Err(StoreError::Unreachable),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                Err(StoreError::Timeout { after: pool.timeouts().wait.unwrap_or_default() })
            }
            Err(error) => Err(StoreError::Other(error.into())),
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.0.as_deref_mut().map(|live| &mut live.connection).ok_or(StoreError::Unreachable)
    }

    /// Whether this is its first loan. One that was used before may have died in the pool.
    pub(super) fn is_fresh(&self) -> bool {
        self.0.as_ref().is_some_and(|object| Object::metrics(object).recycle_count == 0)
    }

    /// Back to the pool: everything that was asked on it is answered.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_doubtful_after_thirty_idle_seconds_and_old_at_its_age() {
        let age = Duration::from_mins(2);
        let (recent, long) = (MAX_IDLE, MAX_IDLE + Duration::from_nanos(1));
        assert_eq!(fitness(age, age, recent), Fitness::Fit);
        assert_eq!(fitness(age, age, long), Fitness::Doubtful);
        assert_eq!(fitness(age + Duration::from_nanos(1), age, recent), Fitness::Old);
        assert_eq!(fitness(2 * age, age, 2 * long), Fitness::Old);
    }

    #[test]
    fn ages_vary_by_a_quarter_and_never_exceed_the_limit() {
        let age = Duration::from_mins(2);
        let ages: Vec<Duration> = (0..64).map(|_| jittered(age)).collect();
        assert!(
            ages.iter().all(|jittered| age.mul_f64(0.75) <= *jittered && *jittered <= age),
            "{ages:?}"
        );
        assert!(ages.iter().any(|jittered| *jittered != ages[0]));
    }
}
