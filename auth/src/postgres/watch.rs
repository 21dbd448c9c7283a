//! Listening for what the trigger tells, on a connection of its own, for ever.
//!
//! Each connection invalidates everything once it listens: what was changed before that may have been missed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPoolOptions};
use trust_key_cache::TrustKeyCache;

use super::failure::{connect_failed, failed};
use super::notice::{CHANNEL, Notice};
use super::pool::Connector;
use super::{PostgresStore, schema};
use crate::watcher::{Backoff, Eviction};
use crate::{StoreError, Watcher};

/// A connection that is silent for so long is asked for a sign of life, and has so long to give one. A lost network gives no
/// error: without the question, nobody would ever notice.
const SILENCE: Duration = Duration::from_secs(2);
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// How long the driver may try by itself.
const ONE_ATTEMPT: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Listens for changes of the trusts, whoever makes them, and invalidates in `cache` the keys that they concern. The cache is that of
    /// an [`Authenticator`](crate::Authenticator) over this store.
    ///
    /// A trigger on the table notifies when a change is committed: another process's, this one's, or one made by hand
    /// with `psql`. The connection is not one of the pool's. When it is lost, or silent without a sign of life
    /// for 5 s, another one is made, after pauses of 50 ms to 2 s. Each connecting makes sure of the trigger, and makes it anew where it is
    /// gone and the role may.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time and IO enabled.
    pub fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let connector = self.connector.clone();
        Watcher::start(cache, move |eviction| async move {
            let mut backoff = Backoff::new();
            loop {
                let begun = Instant::now();
                let Err(error) = follow(&connector, &eviction).await;
                eviction.failed(&error);
                tokio::time::sleep(backoff.pause_after(begun.elapsed())).await;
            }
        })
    }
}

/// Follows the changes until the connection fails.
async fn follow(connector: &Connector, eviction: &Eviction) -> Result<Infallible, StoreError> {
    let limit = connector.connect_timeout;
    let mut listener = match tokio::time::timeout(limit, listen(connector)).await {
        Ok(listener) => listener?,
        Err(_) => return Err(StoreError::Timeout { after: limit }),
    };
    eviction.connected();
    loop {
        let lost = |error: sqlx::Error| failed(&error, &connector.location, SIGN_OF_LIFE);
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => hear(notification.payload(), eviction),
            Ok(Ok(None)) => return Err(StoreError::Unreachable),
            Ok(Err(error)) => return Err(lost(error)),
            Err(_) => match tokio::time::timeout(SIGN_OF_LIFE, listener.execute("SELECT 1")).await {
                Ok(outcome) => _ = outcome.map_err(lost)?,
                Err(_) => return Err(StoreError::Timeout { after: SIGN_OF_LIFE }),
            },
        }
    }
}

/// A connection that hears of every change that is committed from now on.
async fn listen(connector: &Connector) -> Result<PgListener, StoreError> {
    // The driver's pool would keep trying, and not tell why. This tells, and finds out whether it is the primary, and whether there is a
    // trigger that notifies: who restored the table meanwhile may have left it out, and nothing would ever be heard.
    schema::prepare(connector, false).await?;
    // The driver's listener takes its connection from a pool. One of its own, and a new one each time: the old connection may
    // be held back by a farewell that nobody will hear.
    let options = connector.location.options.clone();
    // So that an administrator can tell it from the others in `pg_stat_activity`.
    let name = format!("{} watch", options.get_application_name().unwrap_or("trust-auth"));
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(connector.connect_timeout.min(ONE_ATTEMPT))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.application_name(&name));
    let refused = |error| connect_failed(&error, &connector.location);
    let mut listener = PgListener::connect_with(&pool).await.map_err(refused)?;
    // What is missed between two connections is made up for by whoever sees that there were two.
    listener.eager_reconnect(false);
    // A replica refuses this.
    listener
        .listen(CHANNEL)
        .await
        .map_err(|error| failed(&error, &connector.location, connector.connect_timeout))?;
    Ok(listener)
}

/// Does what a notification asks for. The payload goes nowhere else: it has digests.
fn hear(payload: &str, eviction: &Eviction) {
    match Notice::parse(payload) {
        Ok(Notice::Keys(hashes)) => hashes.iter().flatten().for_each(|hash| eviction.key(hash)),
        Ok(Notice::Everything) => eviction.everything(),
        Err(_) => eviction.malformed(payload.len()),
    }
    eviction.notified();
}
