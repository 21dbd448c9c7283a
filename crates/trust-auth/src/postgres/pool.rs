//! Connections: how one is made, what is checked before each use, and which may be used again.
//!
//! A connection is never used again after a failure or a cancellation on it. The server may still
//! be running the statement, or may have sent an answer that no caller reads.

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

/// The age at which a connection for writes is replaced. A revocation must reach the server that
/// the address leads to now, and a new connection finds that server. Changes in quick succession
/// share a connection.
pub(super) const MAX_WRITER_AGE: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is tested before its use: firewalls drop idle connections
/// and notify neither side.
const MAX_IDLE: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(1);

pub(super) type Pool = managed::Pool<Connector>;

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) location: Location,
    pub(super) password: PasswordSource,
    /// The limit for all servers together.
    pub(super) connect_timeout: Duration,
    /// The limit for each server.
    pub(super) host_timeout: Duration,
    pub(super) query_timeout: Duration,
    pub(super) lock_timeout: Duration,
    /// The age at which a connection is replaced.
    pub(super) max_age: Duration,
    /// The server that the address leads to, found by all connections of the store.
    pub(super) current: Arc<CurrentServer>,
}

/// A connection, its server, and the age at which it is replaced.
pub(super) struct LiveConnection {
    pub(super) connection: PgConnection,
    server: ServerIdentity,
    lasts: Duration,
}

/// Returns at least three quarters of `age`, and at most `age`. Connections that were made at the
/// same time are then replaced at different times.
pub(super) fn jittered(age: Duration) -> Duration {
    // Without random bytes, the age is not varied.
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

    /// Returns the same connector with a purpose in its application name. The name shows in
    /// `pg_stat_activity` what each connection is for.
    pub(super) fn named(&self, purpose: &str) -> Self {
        let mut named = self.clone();
        named.location.application_name = format!("{} {purpose}", self.location.application_name);
        named
    }

    /// Connects to the primary, and sets the limits on the server, too.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.reach().await.map(|live| live.connection)
    }

    async fn reach(&self) -> Result<LiveConnection, StoreError> {
        // Boxed: the driver's future is large, and every operation's future would contain it.
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
        // The statement's limit is a little shorter than the caller's. A server that still answers
        // then stops the statement itself, and reports that on a connection that is closed cleanly.
        // Zero would mean no limit.
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

/// Whether a connection may be used again.
#[derive(Debug, PartialEq, Eq)]
enum Fitness {
    Fit,
    /// It must be tested first.
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

/// Closes the idle connections that would not be used again.
pub(super) fn close_unfit(pool: &Pool) {
    let current = &pool.manager().current;
    drop(pool.retain(|live, metrics| metrics.age() <= live.lasts && current.is(&live.server)));
}

/// A connection on loan from a pool. [`give_back`](Self::give_back) returns it; a drop closes it.
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

    /// Returns whether this is the connection's first loan. A connection that was used before may
    /// have died in the pool.
    pub(super) fn is_fresh(&self) -> bool {
        self.0.as_ref().is_some_and(|object| Object::metrics(object).recycle_count == 0)
    }

    /// Returns the connection to the pool. Every statement on it must have been answered.
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
