//! [`FloorCheck`]: warns if the reject floor is too short to hide how long scans take.
//!
//! The check uses the longest scan that unauthenticated clients can cause, because they choose how
//! many keys it compares. It never slows a scan down.

use std::time::Duration;

use crate::log_limit::LogLimit;
use crate::reject_floor::RejectFloor;

/// What comparing one key with one row costs, in nanoseconds.
const COMPARE: u64 = 2;

/// The number of scans that a refusal may wait for. They are the rest of one and the whole of the
/// next, and both again if the row that was found has changed.
const SCANS: u32 = 4;

/// Compares each scan with the floor.
pub(super) struct FloorCheck {
    floor: RejectFloor,
    waiting_limit: u64,
    /// How many digests each request has compared.
    digests: u64,
    log_limit: LogLimit,
}

impl FloorCheck {
    pub(super) fn new(floor: RejectFloor, waiting_limit: usize, digests: usize) -> Self {
        let (waiting_limit, digests) = (waiting_limit as u64, digests as u64);
        Self { floor, waiting_limit, digests, log_limit: LogLimit::default() }
    }

    /// Records a scan that took this long to read this many rows.
    pub(super) fn record_scan(&self, reading: Duration, rows: usize) {
        let compares = self.waiting_limit.saturating_mul(self.digests).saturating_mul(rows as u64);
        let comparing = COMPARE.saturating_mul(compares);
        let needed = reading.saturating_add(Duration::from_nanos(comparing)).saturating_mul(SCANS);
        if self.floor.hides(needed) {
            return;
        }
        if let Some(others) = self.log_limit.try_log() {
            tracing::warn!(
                ?reading,
                rows,
                waiting_limit = self.waiting_limit,
                ?needed,
                others,
                "the reject floor is too short: a flood of unknown keys makes refusals last \
                 longer, in steps that reveal how many trusts there are; make the floor longer \
                 than `needed`, or lower the waiting limit"
            );
        }
    }
}
