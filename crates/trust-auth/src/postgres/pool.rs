//! The pools of connections: what is checked before each use, and which connections are used again.
//!
//! A connection is never used again after a failure or a cancellation on it. The server may still
//! be running the statement, or may have sent an answer that no caller reads.

use std::time::Duration;

use deadpool::managed::{
    self, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType,
};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::connect::LiveConnection;
use super::connector::Connector;
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

impl Connector {
    /// Returns an empty pool of at most this many connections.
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
}
