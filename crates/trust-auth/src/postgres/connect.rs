//! Connecting: makes a connection, sets the limits on the server, and checks which server it is.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::connector::Connector;
use super::dial::Refused;
use super::failure::{elsewhere, failed, superseded};
use super::server::{ServerIdentity, Sighting};
use crate::error::StoreError;

/// A connection, its server, and the age at which it is replaced.
pub(super) struct LiveConnection {
    pub(super) connection: PgConnection,
    pub(super) server: ServerIdentity,
    pub(super) lasts: Duration,
}

impl Connector {
    /// Connects to the primary, and sets the limits on the server, too.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.reach().await.map(|live| live.connection)
    }

    pub(super) async fn reach(&self) -> Result<LiveConnection, StoreError> {
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
        let fails = |error| Refused::Connected(failed(&error, self, self.connect_timeout));
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
        // Zero would mean no limit. To compile a statement takes the server longer than to run any
        // of these; for a table without statistics it would compile them.
        let milliseconds = |limit: Duration| limit.as_millis().max(1).to_string();
        let row = sqlx::query(
            "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, \
             set_config('statement_timeout', $1, false), \
             set_config('lock_timeout', $2, false), \
             set_config('idle_in_transaction_session_timeout', $1, false), \
             set_config('jit', 'off', false), \
             set_config('synchronous_commit', \
                 CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local' \
                 ELSE current_setting('synchronous_commit') END, false)",
        )
        .bind(milliseconds(self.query_timeout.mul_f64(0.9)))
        .bind(milliseconds(self.lock_timeout))
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(&error, self, self.query_timeout))?;
        if row.try_get(0).unwrap_or(true) {
            let _ = connection.close().await;
            return Err(StoreError::ReadOnly { server: self.location.to_string() });
        }
        Ok(connection)
    }
}

/// Returns at least three quarters of `age`, and at most `age`. Connections that were made at the
/// same time are then replaced at different times.
pub(super) fn jittered(age: Duration) -> Duration {
    // Without random bytes, the age is not varied.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    age.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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
