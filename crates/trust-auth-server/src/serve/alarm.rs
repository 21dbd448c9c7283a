//! [`Alarm`]: logs that the database fails, at most once a second however many requests it fails.

use std::time::Duration;

use trust_auth::StoreError;

use super::log_limit::LogLimit;
use crate::failure::with_causes;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Logs failures of the database.
pub(crate) struct Alarm {
    limit: LogLimit,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { limit: LogLimit::new(PAUSE) }
    }

    /// A request was refused because of this. The error carries no key, no digest and no password.
    pub(crate) fn raise(&self, error: &StoreError) {
        if let Some(others) = self.limit.try_log() {
            tracing::warn!(kind = error.kind(), error = %with_causes(error), others, "the database fails: requests are refused");
        }
    }
}
