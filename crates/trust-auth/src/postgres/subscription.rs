//! [`Subscription`]: a connection that listens, and that a canary has proven to receive
//! notifications.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{Acquire, Executor};

use super::canary::{self, Canary};
use super::connect::jittered;
use super::connector::Connector;
use super::dial::Refused;
use super::failure::{elsewhere, failed};
use super::notice::{CHANNEL, Notice};
use super::schema;
use super::server::ServerIdentity;
use crate::error::StoreError;
use crate::migration::Permission;
use crate::time_limit::within;
use crate::watcher::ChangeSink;

/// The time limit of a statement on a connection that listens.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// How often canaries, the server and the connection's age are checked while nothing arrives.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// The time limit of the driver's own attempts to connect.
const ONE_ATTEMPT: Duration = Duration::from_secs(2);

/// A connection that receives every change that is committed from now on.
pub(super) struct Subscription {
    listener: PgListener,
    server: ServerIdentity,
    canary: Canary,
    /// The first canary that arrived.
    proof: String,
    made: Instant,
    lasts: Duration,
}

impl Subscription {
    /// Connects, listens, and waits for the first canary.
    /// Sends canaries at this interval.
    pub(super) async fn open(
        connector: &Connector,
        channel: &str,
        interval: Duration,
        changes: &ChangeSink,
    ) -> Result<Self, StoreError> {
        let listening = Box::pin(Self::listen(connector, channel, interval));
        let mut subscription = within(connector.connect_timeout, listening).await?;
        while !subscription.canary.is_proven() {
            subscription.check(connector, changes)?;
            if let Some(notification) = subscription.receive(connector, TICK).await? {
                subscription.apply(&notification, changes);
                subscription.proof = notification.payload().to_owned();
            }
        }
        Ok(subscription)
    }

    async fn listen(
        connector: &Connector,
        channel: &str,
        interval: Duration,
    ) -> Result<Self, StoreError> {
        // The driver's pool would keep trying and report no reason. This reports the reason, and
        // checks that the server is the primary and that the table has all columns.
        schema::open(connector, Permission::default()).await?;
        let named = connector.named("watch");
        let (listener, server) =
            named.dial(|options| listener(connector, options, [CHANNEL, channel])).await?;
        Ok(Self {
            listener,
            server,
            canary: Canary::new(channel, interval),
            proof: String::new(),
            made: Instant::now(),
            // A connection is replaced at the cost of some queries, so not at each canary.
            lasts: jittered(connector.max_age.max(interval * 10)),
        })
    }

    pub(super) fn listener(&mut self) -> &mut PgListener {
        &mut self.listener
    }

    /// Returns the next notification, or `None` if none arrives within this time.
    pub(super) async fn receive(
        &mut self,
        connector: &Connector,
        wait: Duration,
    ) -> Result<Option<PgNotification>, StoreError> {
        match tokio::time::timeout(wait, self.listener.try_recv()).await {
            Ok(Ok(Some(notification))) => Ok(Some(notification)),
            Ok(Ok(None)) => Err(StoreError::Unreachable),
            Ok(Err(error)) => Err(failed(&error, connector, ANSWER_LIMIT)),
            Err(_) => Ok(None),
        }
    }

    /// Checks the canaries, and sends the next one when it is due.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the connection may miss changes. If the address leads to another
    /// server now, the canaries are not checked: they cannot arrive here, and that is no sign
    /// of a pooler.
    pub(super) fn check(
        &mut self,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<(), StoreError> {
        if !connector.current.is(&self.server) {
            return Err(elsewhere(&connector.location));
        }
        self.canary.check(connector, changes)
    }

    /// Checks that the server answers.
    pub(super) async fn ping(&mut self, connector: &Connector) -> Result<(), StoreError> {
        within(ANSWER_LIMIT, async {
            match self.listener.execute("SELECT 1").await {
                Ok(_) => Ok(()),
                Err(error) => Err(failed(&error, connector, ANSWER_LIMIT)),
            }
        })
        .await
    }

    /// Applies a notification. The payload is not passed on: it contains digests.
    pub(super) fn apply(&mut self, notification: &PgNotification, changes: &ChangeSink) {
        let payload = notification.payload();
        if notification.channel() != CHANNEL {
            return self.canary.receive(payload, changes);
        }
        match Notice::parse(payload) {
            Ok(Notice::Keys(hashes)) => {
                hashes.iter().flatten().for_each(|hash| changes.key_changed(hash));
            }
            Ok(Notice::Everything) => changes.all_changed(),
            Err(_) => changes.malformed(payload.len()),
        }
        changes.notified();
    }

    /// Returns whether the connection is older than its age, and no canary is under way.
    pub(super) fn is_due_for_replacement(&self) -> bool {
        self.made.elapsed() > self.lasts && !self.canary.is_under_way()
    }

    pub(super) fn postpone_replacement(&mut self, time: Duration) {
        self.lasts += time;
    }

    /// Applies what arrived here before `next` listened. Returns whether every such notification
    /// was applied.
    ///
    /// Notifications arrive in the order of the commits. The canary that has proven `next` arrives
    /// here too, after every notification that `next` may have missed.
    pub(super) async fn hand_over(
        mut self,
        connector: &Connector,
        next: &Self,
        changes: &ChangeSink,
    ) -> bool {
        let begun = Instant::now();
        while self.server == next.server && begun.elapsed() < canary::LIMIT {
            match self.receive(connector, TICK).await {
                Ok(Some(notification))
                    if notification.channel() != CHANNEL
                        && notification.payload() == next.proof =>
                {
                    return true;
                }
                Ok(Some(notification)) => self.apply(&notification, changes),
                Ok(None) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

/// Makes a connection that listens. Returns the connection, and the server that it leads to.
pub(super) async fn listener(
    connector: &Connector,
    options: PgConnectOptions,
    channels: impl IntoIterator<Item = &str>,
) -> Result<(PgListener, ServerIdentity), Refused> {
    let attempt = connector.current.begin();
    // The driver's listener takes its connection from a pool. Each listener has a new pool: a
    // former connection may still be closing, and would occupy the pool.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(connector.connect_timeout.min(ONE_ATTEMPT))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await.map_err(Refused::Connecting)?;
    // The caller must notice a new connection: it may have missed changes.
    listener.eager_reconnect(false);
    let fails = |error| Refused::Connected(failed(&error, connector, connector.connect_timeout));
    let connection = Acquire::acquire(&mut listener).await.map_err(fails)?;
    let server = connector.identify(attempt, connection).await?;
    listener.listen_all(channels).await.map_err(fails)?;
    Ok((listener, server))
}
