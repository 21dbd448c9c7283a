//! [`HeldTrusts`]: the trusts that this process holds under a read lease, and the task that renews
//! the lease.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use trust_key_cache::KeyHash;

use super::feed::{ChangeFeed, Reload};
use super::held_table::{HeldTable, Rows};
use super::holder::Holder;
use crate::error::StoreError;
use crate::trust::Trust;

/// How many requests may wait for a look to begin. As many may be in the sweep after the last look.
const WAITING: usize = 256;

/// Why a request got no rows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoLook {
    /// The look failed, or the holder is not connected: the request reads by itself.
    Failed,
    /// Too many requests wait. This one must not read either: looks bound what a flood costs.
    Overloaded,
}

/// All trusts of a store, held under a read lease: an
/// [`Authenticator`](crate::AuthenticatorBuilder::read_lease) grants from them without a read.
///
/// A task of its own renews the lease, some four times in its length. While the database does not
/// answer, the lease runs out, and the authenticator reads as it does without one.
///
/// Once a revocation has returned, no process grants the key (G11), if each change waits: see
/// [`TrustLedger::settle`](crate::TrustLedger::settle), which
/// [`TrustRegistry`](crate::TrustRegistry) calls.
///
/// When the last clone of the `Arc` is dropped, the lease is given up. [`close`](Self::close) also
/// waits until the database knows.
#[derive(Debug)]
pub struct HeldTrusts {
    shared: Arc<Shared>,
    looks: mpsc::Sender<Look>,
    status: watch::Receiver<HolderStatus>,
    task: Mutex<Option<Task>>,
}

/// The task that renews. It ends when `stop` is dropped.
#[derive(Debug)]
struct Task {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// A request that waits for the next look. It is dropped if the look failed.
pub(super) struct Look {
    /// The digests of its key, at least one.
    pub(super) hashes: Vec<KeyHash>,
    pub(super) answer: oneshot::Sender<Found>,
}

/// What a look has found for one request.
#[derive(Debug)]
pub(crate) struct Found {
    /// The first of the key's digests that a row has, by its place, and that row. Of several rows
    /// with one digest, the one that was made last.
    pub(crate) row: Option<(usize, Arc<Trust>)>,
    /// How many rows the key was compared with.
    pub(crate) rows: usize,
}

/// What the task publishes, and requests read.
#[derive(Default)]
pub(super) struct Shared {
    table: ArcSwapOption<HeldTable>,
}

impl Shared {
    pub(super) fn publish(&self, rows: Arc<Rows>, deadline: Duration) {
        self.table.store(Some(Arc::new(HeldTable { rows, deadline })));
    }

    #[cfg(test)]
    pub(super) fn present(&self) -> Option<Arc<HeldTable>> {
        self.table.load_full()
    }

    /// Sets the deadline to the past (R9).
    pub(super) fn give_up(&self) {
        self.table.store(None);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.table.load().as_ref().map(|table| table.rows.trusts());
        f.debug_struct("Shared").field("held", &held).finish()
    }
}

/// What a holder has done so far. Read it with [`HeldTrusts::status`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HolderStatus {
    /// How many trusts are held, with the lease in force or not.
    pub held: usize,
    /// When the last renewal that moved the deadline was answered.
    pub renewed_at: Option<Instant>,
    /// Renewals that moved the deadline.
    pub renewals: u64,
    /// Renewals, looks and connections that failed.
    pub failures: u64,
    /// How often all trusts were loaded again.
    pub reloads: u64,
    /// Looks that were answered.
    pub looks: u64,
    /// Why the last load became necessary.
    pub last_reload: Option<Reload>,
    /// How many processes are registered as holders of leases, this one included, as was last
    /// seen: it is looked up at least once in a lease's length. `None`: not yet, or on SQLite,
    /// which has no list of them.
    pub holders: Option<usize>,
    /// The last failure, until a renewal succeeds. It names no key.
    pub error: Option<Arc<StoreError>>,
}

impl HeldTrusts {
    /// Loads all trusts, registers this process as a holder of leases of this `length`, and renews
    /// for the first time. `name` names the process to operators who wait for it. If that renewal
    /// does not count, because a pooler exchanged the session, the lease begins with a later one.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of the feed: for example, its tables are missing.
    /// [`StoreError::Other`] if `length` is not from 300 ms to 300 s, or if the platform has no
    /// clock that counts suspended time.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn start<F: ChangeFeed>(
        feed: F,
        name: &str,
        length: Duration,
    ) -> Result<Self, StoreError> {
        let shared = Arc::<Shared>::default();
        let (looks, waiting) = mpsc::channel(WAITING);
        let (report, status) = watch::channel(HolderStatus::default());
        let (stop, stopped) = oneshot::channel();
        let mut holder = Holder::new(feed, name, length, Arc::clone(&shared), waiting, report)?;
        let renewed = holder.connect_and_renew().await?;
        let task = Task { stop, ended: tokio::spawn(holder.run(renewed, stopped)) };
        Ok(Self { shared, looks, status, task: Mutex::new(Some(task)) })
    }

    /// Returns what the holder has done so far.
    #[must_use]
    pub fn status(&self) -> HolderStatus {
        self.status.borrow().clone()
    }

    /// Returns whether the lease is in force now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.table().as_ref().is_some_and(|table| table.is_valid())
    }

    /// Gives the lease up, then removes the registration, so that no revocation waits for this
    /// process. If the database does not answer, the registration ends after the lease's length.
    /// Authenticators read from now on, as without a lease.
    pub async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Task { stop, ended }) = task {
            drop(stop);
            // The task does not panic. If its runtime ends, the lease has been given up.
            ended.await.ok();
        }
    }

    /// Returns the present table. A request takes it once (R4).
    pub(crate) fn table(&self) -> Guard<Option<Arc<HeldTable>>> {
        self.shared.table.load()
    }

    /// Finds the key with these digests in the rows of a look that begins after this call (R5).
    pub(crate) async fn look(&self, hashes: &[KeyHash]) -> Result<Found, NoLook> {
        let (answer, answered) = oneshot::channel();
        let look = Look { hashes: hashes.into(), answer };
        self.looks.try_send(look).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoLook::Overloaded,
            mpsc::error::TrySendError::Closed(_) => NoLook::Failed,
        })?;
        answered.await.map_err(|_| NoLook::Failed)
    }
}

impl Drop for HeldTrusts {
    fn drop(&mut self) {
        // The task ends by `stop`, and removes the registration after this.
        self.shared.give_up();
    }
}
