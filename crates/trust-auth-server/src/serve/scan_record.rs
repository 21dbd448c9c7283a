//! [`ScanRecord`]: how the last scan of all trusts ended, and what an operator should know of it.
//!
//! A scan is how a key that is not cached is verified. One that can never end within its limit
//! leaves the probes green, since these read one row, and every such key refused.

use std::time::Duration;

use tokio::sync::watch;
use trust_auth::{Authenticator, Candidates, StoreError};

use super::log_limit::LogLimit;
use super::pauses::Pauses;
use super::walks::Walks;

/// Between two lines about the same thing.
const QUIET: Duration = Duration::from_mins(1);

/// Before the service scans by itself because the last scan failed. The longest keeps the
/// database's load low where every scan runs into its limit: with one of 2 s, an eighth of the
/// time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How scans end.
pub(crate) struct ScanRecord {
    /// What the store allows a scan.
    limit: Duration,
    last: watch::Sender<Last>,
    slow: LogLimit,
    empty: LogLimit,
}

/// How the last one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    None,
    Rows(usize),
    Failed(&'static str),
}

impl ScanRecord {
    /// For a store whose scans have this limit.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: watch::Sender::new(Last::None),
            slow: LogLimit::new(QUIET),
            empty: LogLimit::new(QUIET),
        }
    }

    /// The word for the probe: `ok`, `pending` if none has ended yet, or the kind of the last one's
    /// failure.
    pub(crate) fn word(&self) -> &'static str {
        match *self.last.borrow() {
            Last::None => "pending",
            Last::Rows(_) => "ok",
            Last::Failed(kind) => kind,
        }
    }

    /// Whether the last scan failed in a way that the next one will meet again. A database that is
    /// unreachable for a moment is another matter, which the probe sees for itself.
    pub(crate) fn cannot_end(&self) -> bool {
        match *self.last.borrow() {
            Last::None | Last::Rows(_) => false,
            Last::Failed(kind) => {
                !["unreachable", "cannot_connect", "exhausted", "busy", "read_only", "not_found"]
                    .contains(&kind)
            }
        }
    }

    /// A scan has ended, after so long.
    pub(crate) fn ended(&self, took: Duration, outcome: &Result<Candidates, StoreError>) {
        let now = match outcome {
            Ok(candidates) => Last::Rows(candidates.len()),
            Err(error) => Last::Failed(error.kind()),
        };
        let before = self.last.send_replace(now);
        match now {
            Last::Rows(0) => {
                if let Some(others) = self.empty.try_log() {
                    tracing::warn!(
                        others,
                        "the database has no enabled trust with a key: every key is refused; register a trust, or check --database if there should be some"
                    );
                }
            }
            Last::Rows(rows) => {
                if before == Last::Rows(0) {
                    tracing::info!(rows, "the database has trusts now");
                }
                if took > self.limit / 2
                    && let Some(others) = self.slow.try_log()
                {
                    tracing::warn!(
                        ?took,
                        query_timeout = ?self.limit,
                        rows,
                        others,
                        "a scan of all trusts takes more than half of --query-timeout: a request that comes during one may be answered with 503; \
                         raise --query-timeout, or lower the number of trusts"
                    );
                }
            }
            Last::Failed(kind) if before != now => {
                tracing::warn!(
                    kind,
                    ?took,
                    query_timeout = ?self.limit,
                    "a scan of all trusts failed: no key that is not cached can be verified until one ends"
                );
            }
            Last::Failed(_) | Last::None => {}
        }
    }

    /// Runs a scan now, and one after a pause whenever the last one has failed, so that the service
    /// knows how it is without a request that tells it.
    pub(crate) async fn keep_trying(&self, authenticator: Authenticator<Walks>) {
        let mut last = self.last.subscribe();
        let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
        // Its outcome is recorded where all are, and "too many wait for a scan" means that one is
        // under way.
        let _ = authenticator.scan().await;
        while last.wait_for(|last| matches!(last, Last::Failed(_))).await.is_ok() {
            tokio::time::sleep(pauses.next()).await;
            let failed = |last: &Last| matches!(last, Last::Failed(_));
            if failed(&self.last.borrow()) {
                let _ = authenticator.scan().await;
            }
            if !failed(&self.last.borrow()) {
                pauses.reset();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use trust_auth::KeyHash;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_scan_that_ran_into_its_limit_is_named_until_one_ends() {
        let record = ScanRecord::new(Duration::from_secs(2));
        assert_eq!((record.word(), record.cannot_end()), ("pending", false));
        let timeout = StoreError::Timeout { after: Duration::from_secs(2) };
        record.ended(Duration::from_secs(2), &Err(timeout));
        assert_eq!((record.word(), record.cannot_end()), ("timeout", true));
        record.ended(Duration::ZERO, &Err(StoreError::Unreachable));
        assert_eq!((record.word(), record.cannot_end()), ("unreachable", false));
        let mut candidates = Candidates::default();
        candidates.push(Uuid::nil(), KeyHash::of("key"));
        record.ended(Duration::ZERO, &Ok(candidates));
        assert_eq!((record.word(), record.cannot_end()), ("ok", false));
    }
}
