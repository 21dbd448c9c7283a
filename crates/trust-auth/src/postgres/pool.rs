//! The pools of connections: what is checked before each use, and which connections are used again.
//!
//! A connection is never used again after a failure or a cancellation on it. The server may still
//! be running the statement, or may have sent an answer that no caller reads.

use std::time::Duration;

use deadpool::managed::{
    self, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Postgres};

use super::connect::LiveConnection;
use super::connector::Connector;
use super::failure::{connect_failed, failed, schema};
use super::location::Location;
use super::password::Found;
use super::server::ServerIdentity;
use crate::error::StoreError;

/// The age at which a connection for writes is replaced. A revocation must reach the server that
/// the address leads to now, and a new connection finds that server. Changes in quick succession
/// share a connection.
pub(super) const MAX_WRITER_AGE: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is tested before its use: firewalls drop idle connections
/// and notify neither side.
const MAX_IDLE: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(1);

/// Where connections are lent from. A clone shares them.
#[derive(Clone)]
pub(super) enum Pool {
    Managed(managed::Pool<Connector>),
    /// The application's own pool, and how long a loan may wait.
    Shared(PgPool, Duration),
}

impl Pool {
    /// Returns the application's own pool.
    pub(super) fn shared(pool: PgPool, acquire_timeout: Duration) -> Self {
        Self::Shared(pool, acquire_timeout)
    }

    /// Closes the idle connections that would not be used again. Those of the application's pool
    /// are left to the pool.
    pub(super) fn close_unfit(&self) {
        let Self::Managed(pool) = self else { return };
        let current = &pool.manager().current;
        drop(pool.retain(|live, metrics| metrics.age() <= live.lasts && current.is(&live.server)));
    }

    /// Drops the idle connections, which are probably dead. Those of the application's pool are
    /// left to the pool, which tests each before its use, unless it is told not to.
    pub(super) fn drop_idle(&self) {
        if let Self::Managed(pool) = self {
            drop(pool.retain(|_, _| false));
        }
    }

    /// Closes the pool and its idle connections, waiting for each at most so long. The
    /// application's pool stays open.
    pub(super) async fn close(&self, each: Duration) {
        let Self::Managed(pool) = self else { return };
        let idle = pool.retain(|_, _| false).removed;
        pool.close();
        for live in idle {
            // A clean closing spares the server a line in its log.
            let _ = tokio::time::timeout(each, live.connection.close()).await;
        }
    }
}

impl Connector {
    /// Returns an empty pool of at most this many connections.
    pub(super) fn pool(
        self,
        connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Pool, StoreError> {
        managed::Pool::builder(self)
            .max_size(connections as usize)
            .wait_timeout(Some(acquire_timeout))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map(Pool::Managed)
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

/// A connection on loan from a pool. [`give_back`](Self::give_back) returns it; a drop closes it.
pub(super) struct Lent(Option<Loan>);

enum Loan {
    Managed(Object<Connector>),
    Shared(PoolConnection<Postgres>),
}

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self, StoreError> {
        let loan = match pool {
            Pool::Managed(pool) => managed_loan(pool).await.map(Loan::Managed),
            Pool::Shared(pool, limit) => shared_loan(pool, *limit).await.map(Loan::Shared),
        };
        loan.map(|loan| Self(Some(loan)))
    }

    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        match &mut self.0 {
            Some(Loan::Managed(live)) => Ok(&mut live.connection),
            Some(Loan::Shared(connection)) => Ok(connection),
            None => Err(StoreError::Unreachable),
        }
    }

    /// Returns whether this is the connection's first loan. A connection that was used before may
    /// have died in the pool.
    pub(super) fn is_fresh(&self) -> bool {
        match &self.0 {
            Some(Loan::Managed(object)) => Object::metrics(object).recycle_count == 0,
            // Unknown, so that a read on a dead connection is repeated.
            Some(Loan::Shared(_)) | None => false,
        }
    }

    /// Returns the connection to the pool. Every statement on it must have been answered.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Loan::Managed(object)) => drop(Object::take(object)),
            // Without a message to the server, which may not answer: the pool would wait for it.
            Some(Loan::Shared(connection)) => drop(connection.detach()),
            None => {}
        }
    }
}

async fn managed_loan(pool: &managed::Pool<Connector>) -> Result<Object<Connector>, StoreError> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) => error,
        PoolError::Closed => StoreError::Unreachable,
        PoolError::Timeout(TimeoutType::Wait) => {
            StoreError::Timeout { after: pool.timeouts().wait.unwrap_or_default() }
        }
        error => StoreError::Other(error.into()),
    })
}

async fn shared_loan(
    pool: &PgPool,
    limit: Duration,
) -> Result<PoolConnection<Postgres>, StoreError> {
    // Boxed: the driver's future is large, and every operation's future would contain it.
    match tokio::time::timeout(limit, Box::pin(pool.acquire())).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(sqlx::Error::PoolClosed)) => Err(StoreError::Unreachable),
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(StoreError::Timeout { after: limit }),
        Ok(Err(error)) => Err(connect_failed(&error, &Location::of_pool(pool), &Found::default())),
    }
}

impl Connector {
    /// Checks that the application's pool and this connector lead to the same tables of the same
    /// server, by one connection of each.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if they do not.
    pub(super) async fn check_shared(&self, pool: &Pool) -> Result<(), StoreError> {
        let mut lent = Lent::from(pool).await?;
        let failed = |error| failed(&error, self, self.query_timeout);
        let server = ServerIdentity::of(lent.connection()?).await.map_err(failed)?;
        lent.give_back();
        let own = self.reach().await?;
        match server {
            None => Err(StoreError::ReadOnly { server: self.location.to_string() }),
            Some(server) if server.is_same_server(&own.server) => Ok(()),
            Some(_) => Err(schema(
                &self.location,
                "the pool's connections have another role, database or `search_path` than new \
                 connections with the pool's options; set these in the options, and not in \
                 `after_connect`",
            )),
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
