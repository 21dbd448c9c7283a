//! [`TriggerWatch`]: checks now and then, on the connection that listens, whether the triggers
//! exist.
//!
//! A restore of the table may leave the triggers out, or turn them off. Notifications then stop,
//! and nothing else shows why.

use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;

use super::connector::Connector;
use super::failure::failed;
use super::subscription::ANSWER_LIMIT;
use super::triggers::Triggers;
use crate::error::StoreError;
use crate::time_limit::within;
use crate::watcher::ChangeSink;

/// The triggers as the last check found them.
pub(super) struct TriggerWatch {
    found: Triggers,
    checked: Instant,
}

impl TriggerWatch {
    /// Makes the first check. The caller then counts the connection as connected, which invalidates
    /// every key: no earlier change is missed.
    pub(super) async fn begin(
        listener: &mut PgListener,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<Self, StoreError> {
        let found = read(listener, connector).await?;
        changes.triggers(&found.missing, false);
        Ok(Self { found, checked: Instant::now() })
    }

    /// Checks again if the interval is over.
    pub(super) async fn check_if_due(
        &mut self,
        interval: Duration,
        listener: &mut PgListener,
        connector: &Connector,
        changes: &ChangeSink,
    ) -> Result<(), StoreError> {
        if self.checked.elapsed() >= interval {
            let now = read(listener, connector).await?;
            changes.triggers(&now.missing, now != self.found);
            *self = Self { found: now, checked: Instant::now() };
        }
        Ok(())
    }
}

async fn read(listener: &mut PgListener, connector: &Connector) -> Result<Triggers, StoreError> {
    within(ANSWER_LIMIT, async {
        let found = Triggers::read(listener, &connector.names).await;
        found.map_err(|error| failed(&error, connector, ANSWER_LIMIT))
    })
    .await
}
