//! [`Canary`]: the proof that notifications arrive. A new connection, made as any change is made,
//! notifies a channel of this process's own, and the listener must receive that.
//!
//! The listener's own connection would prove nothing: it may lead to another server than the
//! address does by now, or through a pooler that delivers no notifications. Other processes do not
//! listen to the channel, older versions included.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::failure::failed;
use super::pool::Connector;
use crate::error::StoreError;
use crate::watcher::ChangeSink;

/// How often one is sent.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How soon one that could not be sent is followed by another.
const RETRY: Duration = Duration::from_secs(2);

/// How long one may take, the connection included. Delivery takes milliseconds; a machine that is
/// short of time takes longer.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// How long a listener counts as connected although no canary can be sent, as where the server has
/// no connection left.
const UNPROVEN: Duration = Duration::from_secs(30);

/// The canaries of one connection that listens.
pub(super) struct Canary {
    channel: String,
    due: Instant,
    /// When the last one arrived, or `None` before the first has.
    proven: Option<Instant>,
    flight: Option<Flight>,
    /// Ends with this.
    sending: JoinSet<(Uuid, Result<(), StoreError>)>,
}

/// One that was sent and has not arrived.
struct Flight {
    token: Uuid,
    begun: Instant,
    /// Whether the server has committed it.
    sent: bool,
}

impl Canary {
    pub(super) fn new(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            due: Instant::now(),
            proven: None,
            flight: None,
            sending: JoinSet::new(),
        }
    }

    /// A name for the channel of a process.
    pub(super) fn new_channel() -> String {
        format!("trust_auth_canary_{}", Uuid::new_v4().simple())
    }

    /// Whether one has arrived.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.is_some()
    }

    /// Whether one is on its way.
    pub(super) fn is_under_way(&self) -> bool {
        self.flight.is_some()
    }

    /// Takes what came on the channel. Anything but the token that is awaited is ignored.
    pub(super) fn take(&mut self, payload: &str, changes: &ChangeSink) {
        let awaited = self.flight.as_ref().map(|flight| flight.token);
        if awaited.is_some() && awaited == Uuid::try_parse(payload).ok() {
            self.flight = None;
            self.proven = Some(Instant::now());
            self.due = Instant::now() + INTERVAL;
            changes.canary_heard();
        }
    }

    /// Sends the next one when it is due. Fails if one was sent and has not arrived, or if none
    /// could be sent for too long.
    pub(super) fn tend(
        &mut self,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<(), StoreError> {
        while let Some(ended) = self.sending.try_join_next() {
            // One that was aborted is awaited no more.
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

    /// One could not be sent, which says nothing about those that were.
    fn missed(&mut self, error: StoreError, changes: &ChangeSink) -> Result<(), StoreError> {
        self.flight = None;
        self.due = Instant::now() + RETRY;
        changes.canary_missed();
        match self.proven {
            Some(proven) if proven.elapsed() <= UNPROVEN => {
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
    // Both are of our making: letters, digits and `_`.
    let sql = format!("NOTIFY {channel}, '{}'", token.simple());
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .map_err(|error| failed(&error, &connector.location, LIMIT))?;
    let _ = connection.close().await;
    Ok(())
}
