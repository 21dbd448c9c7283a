//! [`ScanRecord`]: records the end of the last scan of all trusts, and logs what the operator
//! needs.
//!
//! A scan verifies a key that is not cached. If no scan can end within its limit, each such key is
//! refused. A probe that reads one row does not notice that.

use std::time::Duration;

use tokio::sync::watch;
use trust_auth::{Authenticator, Candidates, LogLimit, StoreError, TrustStore};

use super::retry_pauses::RetryPauses;

/// The pauses before the service itself repeats a scan that failed. The longest pause keeps the
/// load of the database low if each scan reaches its limit. With a limit of 2 s, scans take an
/// eighth of the time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The outcome of the last scan.
pub(crate) struct ScanRecord {
    /// The limit of a scan.
    limit: Duration,
    last: watch::Sender<LastScan>,
    slow: LogLimit,
    empty: LogLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastScan {
    None,
    /// The service finds by an index, and scans only where a caller asks for it.
    Unneeded,
    Rows(usize),
    Failed(&'static str),
}

impl LastScan {
    fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl ScanRecord {
    /// Returns a record for a store whose scans have this limit.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: watch::Sender::new(LastScan::None),
            slow: LogLimit::default(),
            empty: LogLimit::default(),
        }
    }

    /// Records that the service needs no scan.
    pub(crate) fn set_unneeded(&self) {
        self.last.send_replace(LastScan::Unneeded);
    }

    /// Returns the word for `/readyz`: `unneeded` if rows are found by an index, `ok`, `pending`
    /// before the first scan has ended, or the kind of the failure of the last scan.
    pub(crate) fn state(&self) -> &'static str {
        match *self.last.borrow() {
            LastScan::None => "pending",
            LastScan::Unneeded => "unneeded",
            LastScan::Rows(_) => "ok",
            LastScan::Failed(kind) => kind,
        }
    }

    /// Returns whether the last scan failed in a way that the next one will repeat. A database that
    /// is unreachable for a moment does not count: the probe notices that by itself.
    pub(crate) fn is_failing(&self) -> bool {
        match *self.last.borrow() {
            LastScan::None | LastScan::Unneeded | LastScan::Rows(_) => false,
            LastScan::Failed(kind) => {
                !["unreachable", "cannot_connect", "exhausted", "busy", "read_only", "not_found"]
                    .contains(&kind)
            }
        }
    }

    /// Records a scan that has ended, and logs what the operator needs.
    pub(crate) fn record_scan(&self, took: Duration, outcome: &Result<Candidates, StoreError>) {
        let now = match outcome {
            Ok(candidates) => LastScan::Rows(candidates.len()),
            Err(error) => LastScan::Failed(error.kind()),
        };
        let before = self.last.send_replace(now);
        match now {
            LastScan::Rows(0) => {
                if let Some(others) = self.empty.try_log() {
                    tracing::warn!(
                        others,
                        "the database has no enabled trust with a key: every key is refused; \
                         register a trust, or check --database if there should be trusts"
                    );
                }
            }
            LastScan::Rows(rows) => {
                if before == LastScan::Rows(0) {
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
                        "a scan of all trusts takes more than half of --query-timeout: a request \
                         that arrives during a scan may be answered with 503; raise \
                         --query-timeout, or lower the number of trusts"
                    );
                }
            }
            LastScan::Failed(kind) if before != now => {
                tracing::warn!(
                    kind,
                    ?took,
                    query_timeout = ?self.limit,
                    "a scan of all trusts failed: no key that is not cached can be verified until \
                     a scan succeeds"
                );
            }
            LastScan::Failed(_) | LastScan::None | LastScan::Unneeded => {}
        }
    }

    /// Runs a scan now, and another one after a pause whenever the last scan has failed. The
    /// service so notices a failure and a recovery without requests.
    pub(crate) async fn retry_failed_scans<S: TrustStore>(&self, authenticator: Authenticator<S>) {
        let mut last = self.last.subscribe();
        let mut pauses = RetryPauses::new(FIRST_PAUSE, LONGEST_PAUSE);
        // `record_scan` gets the outcome. If too many requests wait, a scan is under way.
        let _ = authenticator.scan().await;
        while last.wait_for(LastScan::is_failed).await.is_ok() {
            tokio::time::sleep(pauses.next_pause()).await;
            if self.last.borrow().is_failed() {
                let _ = authenticator.scan().await;
            }
            if !self.last.borrow().is_failed() {
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
    fn a_scan_that_reached_its_limit_is_reported_until_one_succeeds() {
        let record = ScanRecord::new(Duration::from_secs(2));
        assert_eq!((record.state(), record.is_failing()), ("pending", false));
        let timeout = StoreError::Timeout { after: Duration::from_secs(2) };
        record.record_scan(Duration::from_secs(2), &Err(timeout));
        assert_eq!((record.state(), record.is_failing()), ("timeout", true));
        record.record_scan(Duration::ZERO, &Err(StoreError::Unreachable));
        assert_eq!((record.state(), record.is_failing()), ("unreachable", false));
        let mut candidates = Candidates::default();
        candidates.push(Uuid::nil(), KeyHash::of("key"));
        record.record_scan(Duration::ZERO, &Ok(candidates));
        assert_eq!((record.state(), record.is_failing()), ("ok", false));
    }
}
