//! [`ChangeFeed`] and [`FeedSession`]: how a holder learns what was committed. [`Settled`]: how the
//! wait of a revocation ends.

use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::trust::Trust;

/// A database whose changes a holder follows, and at which a changer waits.
pub trait ChangeFeed: Send + Sync + 'static {
    /// A connection of one holder.
    type Session: FeedSession;

    /// Connects, for leases of this length.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the database does not answer, or does not offer the lease.
    fn open(
        &self,
        length: Duration,
    ) -> impl Future<Output = Result<Self::Session, StoreError>> + Send;

    /// Waits until no process grants what a transaction has revoked (R3, R12). `barrier` is what
    /// the transaction wrote (R11). Call it after the commit has returned: the wait counts from the
    /// call. It needs no connection while it waits, and may be dropped: the revocation has then not
    /// returned.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the database does not answer for longer than the longest lease. The
    /// caller then makes the whole revocation again.
    fn settle(
        &self,
        barrier: &str,
        waiting: Waiting,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Removes a registration whose session is lost. The holder has set its deadline to the past
    /// **before** (R9). A feed without a list of the holders does nothing.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The registration then ends by itself, after the length of its lease.
    fn leave(&self, registration: Uuid) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = registration;
        async { Ok(()) }
    }
}

/// A holder's connection. Its differences count from its own [`load`](Self::load), so a holder that
/// connects again loads again (R2).
///
/// A session must be dropped after any error. One task calls it, in this order: `load`, `register`
/// unless a registration is in force, then `renew`, `look` and the others at will.
pub trait FeedSession: Send + 'static {
    /// Takes the base, and reads all trusts that accept a key, in the order of their creation, if
    /// the feed has trusts. A holder with a cache calls `invalidate()` **afterwards**. Gives no
    /// lease.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. [`StoreError::Schema`] if changes would not be recorded.
    fn load(&mut self) -> impl Future<Output = Result<Vec<Trust>, StoreError>> + Send;

    /// Returns what identifies the list of holders that the last [`load`](Self::load) has found, or
    /// `None` if the feed has no list of them. The changers of that load's rows read this list. A
    /// holder that is registered in another one gives its lease up, and registers again, **before**
    /// it holds what was loaded (R9).
    fn place(&self) -> Option<&str> {
        None
    }

    /// Registers the holder under a fresh id, which lasts until [`leave`](Self::leave) or until the
    /// holder is struck off: it survives the session (R9).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn register(&mut self, name: &str) -> impl Future<Output = Result<Uuid, StoreError>> + Send;

    /// Reads what was committed since the base, and acknowledges what was read before. The caller
    /// has noted its clock before the call (RL12), and has applied all that this session returned
    /// (R10). On a [`Difference`] it applies that, then moves its deadline (R1).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The deadline stays.
    fn renew(
        &mut self,
        registration: Uuid,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Reads what was committed since the base, for a miss. The caller applies it, and does not
    /// move the deadline (R5).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn look(&mut self) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Waits until something was committed, as far as is known: a hint may be lost. May be dropped
    /// at any time.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the session is lost.
    fn hint(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Watches the other holders, and removes what is no longer needed. Call it after each renewal;
    /// it does something once in the length of the shortest lease that is registered.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn upkeep(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns how many holders are registered, as [`upkeep`](Self::upkeep) has last seen, or
    /// `None` if the feed has no list of them.
    fn holders(&self) -> Option<usize> {
        None
    }

    /// Returns whether a difference names each change that was committed, also one that a later
    /// change has undone, and each table that a cache depends on. A
    /// [`CacheLease`](crate::CacheLease) needs that (RL11): what it holds was read at some time
    /// between two states. For held trusts, a comparison of two states is enough.
    fn names_each_change(&self) -> bool {
        true
    }

    /// Removes the registration. The caller has set its deadline to the past **before** (R9).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The registration then ends by itself, after the length of its lease.
    fn leave(&mut self, registration: Uuid) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The answer of a renewal or a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was committed since the base. What is held is then as of the answer's snapshot.
    Difference(Difference),
    /// The difference does not count. The deadline stays; the holder loads again (R2).
    Reload(Reload),
}

/// What was committed since the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What is no longer true.
    pub ended: Vec<Ended>,
    /// Whether anything was recorded, barriers included. Another renewal, at once, acknowledges it
    /// (R10).
    pub has_records: bool,
}

/// What a change ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "a difference of many entries is one of trusts")]
pub enum Ended {
    /// The value of a key: `invalidate_key`.
    Key(KeyHash),
    /// The values that belong to a value of a column: `invalidate_where`.
    Value {
        /// The column, as `table.column`.
        column: Arc<str>,
        /// The value, as text.
        value: String,
    },
    /// The held row of a trust.
    Trust {
        /// The trust's id.
        id: Uuid,
        /// The row as of the answer's snapshot. `None`: it accepts no key.
        row: Option<Trust>,
    },
    /// Everything: `invalidate`, or a new load of the table.
    Everything,
}

/// Why a difference does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reload {
    /// The session is another one: a pooler exchanged or reset it.
    OtherSession,
    /// The holder was struck off, or a failover lost its registration. It gives its lease up,
    /// loads, and registers under a fresh id (R9).
    Unregistered,
    /// The base is older than the records that are kept.
    Pruned,
    /// A watched table, a trigger or a function was changed.
    OtherTriggers,
}

/// How a changer waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// Until each holder has acknowledged the change, or its lease has run out.
    #[default]
    ForAcknowledgements,
    /// For the length of the longest lease, whatever is acknowledged.
    OutTheLease,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// No process grants what was revoked.
    Everywhere {
        /// How many holders were registered. `Some(0)`: none was, or no lease is in use. `None`: a
        /// lease is in use on SQLite, which has no list of the holders.
        holders: Option<usize>,
        /// The names of the holders that did not acknowledge, and whose lease has run out.
        silent: Vec<String>,
        /// Whether the longest lease was waited out because registrations may have been missing:
        /// the server had started, or failed over.
        was_unsettled: bool,
    },
    /// The server restarted or failed over meanwhile, and may have lost the change. Make the whole
    /// revocation again (R16).
    Repeat,
}

impl Settled {
    /// No process holds anything.
    pub const NOTHING_HELD: Self =
        Self::Everywhere { holders: Some(0), silent: Vec::new(), was_unsettled: false };

    /// Returns how two waits of one revocation ended.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Everywhere { holders, mut silent, was_unsettled },
                Self::Everywhere { holders: more, silent: others, was_unsettled: other },
            ) => {
                silent.extend(others);
                silent.sort_unstable();
                silent.dedup();
                let holders = holders.zip(more).map(|(holders, more)| holders.max(more));
                Self::Everywhere { holders, silent, was_unsettled: was_unsettled || other }
            }
            _ => Self::Repeat,
        }
    }
}
