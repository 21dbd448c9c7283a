//! Listens for what the trigger notifies, on a connection of its own, until the watcher is dropped.
//!
//! A new connection invalidates every key once it listens: changes before that may have been
//! missed. A connection counts as listening only while canaries arrive on it ([`Canary`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{Acquire, Executor};
use trust_key_cache::TrustKeyCache;

use super::canary::{self, Canary};
use super::dial::Refused;
use super::failure::{elsewhere, failed};
use super::notice::{CHANNEL, Notice};
use super::pool::{Connector, jittered};
use super::schema;
use super::server::ServerIdentity;
use super::store::PostgresStore;
use super::trigger_watch::TriggerWatch;
use crate::error::StoreError;
use crate::migration::Permission;
use crate::time_limit::within;
use crate::watcher::{Backoff, ChangeSink, Watcher};

/// A connection that is silent for so long is asked for a sign of life, and has so long to give
/// one. A lost network gives no error: without the question, the loss would go unnoticed.
const SILENCE: Duration = Duration::from_secs(2);
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// How often canaries, the server and the connection's age are looked at while nothing arrives.
const TICK: Duration = Duration::from_millis(500);

/// How long the driver may try by itself.
const ONE_ATTEMPT: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Listens for changes of the trusts by any process, and invalidates in `cache` the keys
    /// that they concern. The cache is that of an [`Authenticator`](crate::Authenticator) over this
    /// store.
    ///
    /// A trigger on the table notifies when a change is committed: another process's, this one's,
    /// or one made by hand with `psql`. The connection is not one of the pool's. When it is lost,
    /// or silent without a sign of life for 5 s, another one is made, after pauses of 50 ms to 2 s.
    ///
    /// Each connection, and then each 5 s, looks whether the triggers are there and turned on.
    /// Where they are not, changes are not heard of:
    /// [`WatchStatus::triggers_missing`](crate::WatchStatus::triggers_missing) and a warning once a
    /// minute say so, and entries stay until they expire. When they are back, or were changed
    /// meanwhile, every key is invalidated. A watcher makes no trigger.
    ///
    /// Every 5 s a new connection sends a canary notification to a channel of this watcher's own.
    /// If the canary does not arrive within 10 s, or the new connection leads to another server,
    /// the listener reconnects. The store's pooled connections to the former server are closed in
    /// the second case. The listener's connection is replaced at
    /// [`max_connection_age`](super::PostgresOptions::max_connection_age), without a gap and
    /// without an invalidation.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time and IO enabled.
    pub fn watch(&self, cache: Arc<TrustKeyCache>) -> Watcher {
        let store = self.clone();
        Watcher::start(cache, move |changes| async move {
            let channel = Canary::new_channel();
            let mut backoff = Backoff::new();
            loop {
                let begun = Instant::now();
                let Err(error) = follow(&store, &channel, &changes).await;
                changes.disconnected(&error);
                tokio::time::sleep(backoff.pause_after(begun.elapsed())).await;
            }
        })
    }

    /// Checks that notifications arrive: listens on one connection, notifies on another, and waits.
    ///
    /// # Errors
    ///
    /// [`StoreError::Deaf`] if the notification does not arrive within 10 s, as behind a pooler
    /// that shares server connections. Any other error says that the check could not be made.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time and IO enabled.
    pub async fn check_notifications(&self) -> Result<(), StoreError> {
        let nothing = ChangeSink::new(Arc::default());
        Ear::open(&self.connector, &Canary::new_channel(), &nothing).await.map(|_| ())
    }
}

/// Follows the changes until the connection fails.
async fn follow(
    store: &PostgresStore,
    channel: &str,
    changes: &ChangeSink,
) -> Result<Infallible, StoreError> {
    let connector = &store.connector;
    let mut ear = Ear::open(connector, channel, changes).await?;
    let mut triggers = TriggerWatch::begin(&mut ear.listener, connector, changes).await?;
    changes.connected();
    let mut last_word = Instant::now();
    loop {
        match ear.word(connector, TICK).await? {
            Some(word) => {
                last_word = Instant::now();
                ear.take(&word, changes);
            }
            None if last_word.elapsed() >= SILENCE => {
                ear.sign_of_life(connector).await?;
                last_word = Instant::now();
            }
            None => {}
        }
        triggers.check_if_due(&mut ear.listener, connector, changes).await?;
        if let Err(error) = ear.tend(connector, changes) {
            store.close_unfit();
            return Err(error);
        }
        if ear.made.elapsed() > ear.lasts && !ear.canary.is_under_way() {
            store.close_unfit();
            match Ear::open(connector, channel, changes).await {
                Ok(next) => {
                    let former = std::mem::replace(&mut ear, next);
                    if !former.hand_over(connector, &ear, changes).await {
                        changes.connected();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the listener's connection could not be replaced; trying again");
                    ear.lasts += canary::INTERVAL;
                }
            }
        }
    }
}

/// A connection that listens, made with these options, and the server that it leads to.
async fn listening(
    connector: &Connector,
    options: PgConnectOptions,
    channel: &str,
) -> Result<(PgListener, ServerIdentity), Refused> {
    let attempt = connector.current.begin();
    // The driver's listener takes its connection from a pool. One of its own, and a new one each
    // time: the old connection may be held back by a farewell that does not arrive.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(connector.connect_timeout.min(ONE_ATTEMPT))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await.map_err(Refused::Connecting)?;
    // What is missed between two connections is made up for by whoever sees that there were two.
    listener.eager_reconnect(false);
    let fails =
        |error| Refused::Connected(failed(&error, &connector.location, connector.connect_timeout));
    let connection = Acquire::acquire(&mut listener).await.map_err(fails)?;
    let server = connector.identify(attempt, connection).await?;
    listener.listen_all([CHANNEL, channel]).await.map_err(fails)?;
    Ok((listener, server))
}

/// A connection that hears of every change that is committed from now on, which a canary has shown.
struct Ear {
    listener: PgListener,
    server: ServerIdentity,
    canary: Canary,
    /// The canary that has shown it.
    proof: String,
    made: Instant,
    lasts: Duration,
}

impl Ear {
    async fn open(
        connector: &Connector,
        channel: &str,
        changes: &ChangeSink,
    ) -> Result<Self, StoreError> {
        let listening = Box::pin(Self::listen(connector, channel));
        let mut ear = within(connector.connect_timeout, listening).await?;
        while !ear.canary.is_proven() {
            ear.tend(connector, changes)?;
            if let Some(word) = ear.word(connector, TICK).await? {
                ear.take(&word, changes);
                ear.proof = word.payload().to_owned();
            }
        }
        Ok(ear)
    }

    async fn listen(connector: &Connector, channel: &str) -> Result<Self, StoreError> {
        // The driver's pool would keep trying, and not tell why. This tells, and finds out whether
        // it is the primary, and whether the table has all columns.
        schema::open(connector, Permission::default()).await?;
        let named = connector.named("watch");
        let (listener, server) =
            named.dial(|options| listening(connector, options, channel)).await?;
        Ok(Self {
            listener,
            server,
            canary: Canary::new(channel),
            proof: String::new(),
            made: Instant::now(),
            lasts: jittered(connector.max_age),
        })
    }

    /// What arrives next, within this time.
    async fn word(
        &mut self,
        connector: &Connector,
        wait: Duration,
    ) -> Result<Option<PgNotification>, StoreError> {
        match tokio::time::timeout(wait, self.listener.try_recv()).await {
            Ok(Ok(Some(word))) => Ok(Some(word)),
            Ok(Ok(None)) => Err(StoreError::Unreachable),
            Ok(Err(error)) => Err(failed(&error, &connector.location, SIGN_OF_LIFE)),
            Err(_) => Ok(None),
        }
    }

    /// Tends the canary, unless the address leads to another server: a canary that is notified
    /// there cannot arrive here, which is no sign of a pooler.
    fn tend(&mut self, connector: &Connector, changes: &ChangeSink) -> Result<(), StoreError> {
        if !connector.current.is(&self.server) {
            return Err(elsewhere(&connector.location));
        }
        self.canary.tend(connector, changes)
    }

    async fn sign_of_life(&mut self, connector: &Connector) -> Result<(), StoreError> {
        within(SIGN_OF_LIFE, async {
            match self.listener.execute("SELECT 1").await {
                Ok(_) => Ok(()),
                Err(error) => Err(failed(&error, &connector.location, SIGN_OF_LIFE)),
            }
        })
        .await
    }

    /// Does what a notification asks for. The payload goes nowhere else: it has digests.
    fn take(&mut self, word: &PgNotification, changes: &ChangeSink) {
        let payload = word.payload();
        if word.channel() != CHANNEL {
            return self.canary.take(payload, changes);
        }
        match Notice::parse(payload) {
            Ok(Notice::Keys(hashes)) => {
                hashes.iter().flatten().for_each(|hash| changes.key_changed(hash))
            }
            Ok(Notice::Everything) => changes.all_changed(),
            Err(_) => changes.malformed(payload.len()),
        }
        changes.notified();
    }

    /// Takes what arrived here before `next` listened, and tells whether that was everything.
    ///
    /// Notifications arrive in the order of the commits. The canary that has shown that `next`
    /// listens arrives here too, after everything that `next` cannot have heard.
    async fn hand_over(mut self, connector: &Connector, next: &Self, changes: &ChangeSink) -> bool {
        let begun = Instant::now();
        while self.server == next.server && begun.elapsed() < canary::LIMIT {
            match self.word(connector, TICK).await {
                Ok(Some(word)) if word.channel() != CHANNEL && word.payload() == next.proof => {
                    return true;
                }
                Ok(Some(word)) => self.take(&word, changes),
                Ok(None) => {}
                Err(_) => return false,
            }
        }
        false
    }
}
