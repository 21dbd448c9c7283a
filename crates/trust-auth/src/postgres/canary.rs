//! [`Canary`]: the proof that notifications arrive. A new connection, made in the same way as a
//! connection for a change, notifies a channel of this process alone. The listener must receive the
//! notification.
//!
//! The listener's own connection would prove nothing. It may lead to another server than the
//! address does now, or through a pooler that delivers no notifications. No other process listens
//! to the channel.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::connector::Connector;
use super::failure::failed;
use crate::error::StoreError;
use crate::watcher::ChangeSink;

/// The usual time between two canaries.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// The time after which the next canary follows one that could not be sent.
const RETRY: Duration = Duration::from_secs(2);

/// The time limit of a canary, the connection included. Delivery takes milliseconds, and longer on
/// a busy machine.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// In intervals: how long a listener counts as connected while no canary can be sent, for example
/// because the server has no connection left.
const UNPROVEN: u32 = 6;

/// The canaries of one connection that listens.
pub(super) struct Canary {
    channel: String,
    interval: Duration,
    due: Instant,
    /// When the last canary arrived; `None` before the first.
    proven: Option<Instant>,
    flight: Option<Flight>,
    /// The tasks that send. A drop aborts them.
    sending: JoinSet<(Uuid, Result<(), StoreError>)>,
}

/// A canary that has not arrived yet.
struct Flight {
    token: Uuid,
    begun: Instant,
    /// Whether the server has committed it.
    sent: bool,
}

impl Canary {
    pub(super) fn new(channel: &str, interval: Duration) -> Self {
        Self {
            channel: channel.to_owned(),
            interval,
            due: Instant::now(),
            proven: None,
            flight: None,
            sending: JoinSet::new(),
        }
    }

    /// Returns a new name for the channel of a watcher.
    pub(super) fn new_channel() -> String {
        format!("trust_auth_canary_{}", Uuid::new_v4().simple())
    }

    /// Returns whether a canary has arrived.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.is_some()
    }

    /// Returns whether a canary was sent and has not arrived.
    pub(super) fn is_under_way(&self) -> bool {
        self.flight.is_some()
    }

    /// Receives a payload of the channel, and ignores any payload but the expected token.
    pub(super) fn receive(&mut self, payload: &str, changes: &ChangeSink) {
        let expected = self.flight.as_ref().map(|flight| flight.token);
        if expected.is_some() && expected == Uuid::try_parse(payload).ok() {
            self.flight = None;
            self.proven = Some(Instant::now());
            self.due = Instant::now() + self.interval;
            changes.canary_heard();
        }
    }

    /// Sends the next canary when it is due.
    ///
    /// # Errors
    ///
    /// [`StoreError::Deaf`] if a canary was sent and has not arrived in time. Any other error if no
    /// canary could be sent for too long.
    pub(super) fn check(
        &mut self,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<(), StoreError> {
        while let Some(ended) = self.sending.try_join_next() {
            // An aborted task has no outcome.
            let Ok((token, outcome)) = ended else { continue };
            let Some(flight) = self.flight.as_mut().filter(|flight| flight.token == token) else {
                continue;
            };
            match outcome {
                Ok(()) => flight.sent = true,
                Err(error) => self.missed(error, changes)?,
            }
        }
        match &self.flight {
            Some(flight) if flight.begun.elapsed() > LIMIT => {
                if flight.sent {
                    changes.canary_missed();
                    return Err(StoreError::Deaf { server: connector.location.to_string() });
                }
                self.sending.abort_all();
                self.missed(StoreError::Timeout { after: LIMIT }, changes)
            }
            Some(_) => Ok(()),
            None => {
                if self.due <= Instant::now() {
                    self.send(connector);
                }
                Ok(())
            }
        }
    }

    /// Records a canary that could not be sent. This is no sign that sent canaries are lost.
    fn missed(&mut self, error: StoreError, changes: &ChangeSink) -> Result<(), StoreError> {
        self.flight = None;
        self.due = Instant::now() + RETRY;
        changes.canary_missed();
        match self.proven {
            Some(proven) if proven.elapsed() <= self.interval * UNPROVEN => {
                tracing::debug!(%error, "a canary notification could not be sent; trying again");
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn send(&mut self, connector: &Connector) {
        let token = Uuid::new_v4();
        self.flight = Some(Flight { token, begun: Instant::now(), sent: false });
        let (connector, channel) = (connector.named("canary"), self.channel.clone());
        self.sending.spawn(async move { (token, notify(&connector, &channel, token).await) });
    }
}

async fn notify(connector: &Connector, channel: &str, token: Uuid) -> Result<(), StoreError> {
    let mut connection = connector.connect().await?;
    // Safe: this module makes both names, of letters, digits and `_`.
    let sql = format!("NOTIFY {channel}, '{}'", token.simple());
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .map_err(|error| failed(&error, connector, LIMIT))?;
    let _ = connection.close().await;
    Ok(())
}
