//! [`PendingWaits`]: the revocations of the admin API that are committed and wait until no process
//! grants the key. The service waits for none of them at its end, and names each in its log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::revocation_step::RevocationStep;

/// The waits under way. A clone means the same ones. It never has a key.
#[derive(Clone, Default)]
pub(crate) struct PendingWaits(Arc<Mutex<Waits>>);

#[derive(Default)]
struct Waits {
    /// How many have begun: the number of the next.
    begun: u64,
    pending: BTreeMap<u64, Wait>,
}

#[derive(Clone)]
struct Wait {
    step: RevocationStep,
    /// `None` if there is no such trust.
    trust: Option<Uuid>,
    begun: Instant,
}

impl PendingWaits {
    /// Records a wait that begins now, until the returned value is dropped.
    pub(crate) fn begin(&self, step: RevocationStep, trust: Option<Uuid>) -> PendingWait {
        let begun = Instant::now();
        let mut waits = self.lock();
        let number = waits.begun;
        waits.begun += 1;
        waits.pending.insert(number, Wait { step, trust, begun });
        PendingWait { waits: self.clone(), number, begun }
    }

    /// Logs each wait that the end of the service cuts short.
    pub(crate) fn log_unfinished(&self) {
        let unfinished: Vec<Wait> = self.lock().pending.values().cloned().collect();
        for Wait { step, trust, begun } in unfinished {
            tracing::warn!(
                operation = step.as_str(),
                trust = trust.map(tracing::field::display),
                key_id = step.key().map(tracing::field::display),
                waited = ?begun.elapsed(),
                "the service ends before the wait of a committed revocation: a process with a read \
                 lease may {}, for the length of a lease at most. {}",
                step.may(),
                match step {
                    RevocationStep::Rotate(_) => {
                        "Do not rotate again, which would revoke the new key: wait for that long"
                    }
                    _ => "To wait for it, make the same change again",
                }
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait under way, which is over when this value is dropped.
pub(crate) struct PendingWait {
    waits: PendingWaits,
    number: u64,
    begun: Instant,
}

impl PendingWait {
    /// Ends the wait, and returns how long it took.
    pub(crate) fn end(self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for PendingWait {
    fn drop(&mut self) {
        self.waits.lock().pending.remove(&self.number);
    }
}
