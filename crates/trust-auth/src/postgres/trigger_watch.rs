//! [`TriggerWatch`]: whether the triggers are there, looked at again and again on the connection
//! that listens.
//!
//! A restore of the table may leave them out, or turn them off. Nothing arrives then, and nothing
//! else would show it.

use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;

use super::failure::failed;
use super::pool::Connector;
use super::schema::{self, Triggers};
use super::watch::SIGN_OF_LIFE;
use crate::StoreError;
use crate::watcher::ChangeSink;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The triggers as the last look found them.
pub(super) struct TriggerWatch {
    seen: Triggers,
    looked: Instant,
}

impl TriggerWatch {
    /// Looks for the first time. Call it before the connection invalidates every key, which makes
    /// up for what was changed earlier.
    pub(super) async fn begin(
        listener: &mut PgListener,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<Self, StoreError> {
        let seen = look(listener, connector).await?;
        changes.triggers(&seen.missing, false);
        Ok(Self { seen, looked: Instant::now() })
    }

    /// Looks again if it is time.
    pub(super) async fn look_if_due(
        &mut self,
        listener: &mut PgListener,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<(), StoreError> {
        if self.looked.elapsed() >= INTERVAL {
            let now = look(listener, connector).await?;
            changes.triggers(&now.missing, now != self.seen);
            *self = Self { seen: now, looked: Instant::now() };
        }
        Ok(())
    }
}

async fn look(listener: &mut PgListener, connector: &Connector) -> Result<Triggers, StoreError> {
    match tokio::time::timeout(SIGN_OF_LIFE, schema::triggers(listener)).await {
        Ok(outcome) => outcome.map_err(|error| failed(&error, &connector.location, SIGN_OF_LIFE)),
        Err(_) => Err(StoreError::Timeout { after: SIGN_OF_LIFE }),
    }
}
