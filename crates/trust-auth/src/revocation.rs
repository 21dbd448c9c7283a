//! [`Revocation`]: a committed change that revokes a key, its wait for the processes with a read
//! lease, and its repetition after a failover (R16 of `docs/read-lease.md`).

use std::time::{Duration, Instant};

use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::{RegistryError, StoreError};
use crate::new_key::Rotation;
use crate::read_lease::{Settled, Waiting};
use crate::registry::{TrustRegistry, concerned};
use crate::store::{Change, TrustLedger};
use crate::trust::Trust;
use crate::trust_ref::TrustRef;
use crate::watcher::Backoff;

/// How long a database may be away during a repetition. No lease is longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// So many failures in a row that do not look as if they pass end a repetition.
const LASTING: usize = 3;

/// What a revocation does to its trust.
#[derive(Clone)]
pub(crate) enum Step {
    /// With [`Rotation::former`], unless a later rotation came first.
    Rotate(Rotation),
    RevokeKey(Uuid),
    Disable,
    Delete,
    SetAttributes(Option<serde_json::Value>),
}

/// A change that was made, or that found no trust or no key.
struct Made {
    outcome: Result<Trust, StoreError>,
    /// The digests that the change concerned, as they were before.
    former: Vec<KeyHash>,
    /// At most two, the later one first. Empty if no process can hold a lease.
    barriers: Vec<String>,
}

impl Made {
    fn nothing(error: StoreError, barriers: Vec<String>) -> Self {
        Self { outcome: Err(error), former: Vec::new(), barriers }
    }
}

impl From<Change> for Made {
    fn from(change: Change) -> Self {
        let Change { trust, former, barrier } = change;
        Self { outcome: Ok(trust), former, barriers: barrier.into_iter().collect() }
    }
}

/// What has become of a change whose server has restarted or failed over since.
enum Fate {
    Made,
    /// The trust is gone, so the key is revoked.
    Deleted,
    Lost,
    /// The trust has a key that a repetition would revoke, or may have one.
    Replaced(StoreError),
}

/// What a [`Revocation`] waits for: [`TrustRegistry::awaited`] returns the names.
#[derive(Clone, Debug, Default)]
pub struct Awaited {
    /// None if no process can hold a lease.
    barrier: Option<String>,
}

impl<L: TrustLedger> TrustRegistry<L> {
    /// Returns the names of the processes that have not answered a revocation. Each of them may
    /// grant the key while the revocation has not [settled](Revocation::settle). Empty on a store
    /// without a list of them, such as SQLite, and after the database has restarted.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the store.
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_auth::{MemoryStore, NewTrust, TrustAuth};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// let (trust, _key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
    /// let revocation = auth.registry().begin_disable(&trust.id.into()).await?;
    /// assert!(auth.registry().awaited(&revocation.awaited()).await?.is_empty());
    /// revocation.settle(Default::default()).await?;
    /// # Ok(()) }
    /// ```
    pub async fn awaited(&self, of: &Awaited) -> Result<Vec<String>, RegistryError> {
        Ok(match &of.barrier {
            Some(barrier) => Box::pin(self.ledger.awaited(barrier)).await?,
            None => Vec::new(),
        })
    }

    /// Makes the change, and returns it before the wait.
    pub(crate) async fn begin(
        &self,
        step: Step,
        which: &TrustRef,
    ) -> Result<Revocation<'_, L>, StoreError> {
        let Made { outcome, former, barriers } = self.make(&step, which).await?;
        let which = outcome.as_ref().map_or_else(|_| which.clone(), |trust| trust.id.into());
        let registry = self;
        Ok(Revocation { registry, step, which, outcome, former, is_gone: false, barriers })
    }

    /// Makes the change, and returns its barriers. The futures of stores are large, and two of them
    /// in one would need much stack: they are boxed.
    ///
    /// Without a trust or a key, a revocation waits, too: an earlier deletion may not have waited.
    /// A barrier after the look shows what it has found, and one before it proves that the server
    /// has been the same since: a deletion that a failover loses is then found at the repetition
    /// (R16).
    async fn make(&self, step: &Step, which: &TrustRef) -> Result<Made, StoreError> {
        let error = match Box::pin(self.change(step, which)).await {
            Err(error) if finds_nothing(&error) => error,
            outcome => return outcome.map(Made::from),
        };
        let Some(before) = self.ledger.barrier().await? else {
            return Ok(Made::nothing(error, Vec::new()));
        };
        let error = match Box::pin(self.change(step, which)).await {
            Err(error) if finds_nothing(&error) => error,
            outcome => return outcome.map(Made::from),
        };
        let after = self.ledger.barrier().await?;
        Ok(Made::nothing(error, after.into_iter().chain([before]).collect()))
    }

    async fn change(&self, step: &Step, which: &TrustRef) -> Result<Change, StoreError> {
        match step {
            Step::Rotate(rotation) => {
                let new = rotation.key.hash;
                let rotated = |change: &Change| [&*change.former, &[new]].concat();
                let write = Box::pin(self.ledger.rotate(which, rotation.clone()));
                self.commit(write, rotated).await
            }
            Step::RevokeKey(key) => {
                self.commit(Box::pin(self.ledger.revoke_key(*key)), concerned).await
            }
            Step::Disable => {
                self.commit(Box::pin(self.ledger.set_enabled(which, false)), concerned).await
            }
            Step::Delete => self.commit(Box::pin(self.ledger.delete(which)), concerned).await,
            Step::SetAttributes(attributes) => {
                let write = Box::pin(self.ledger.set_attributes(which, attributes.clone()));
                // The cache has no attributes.
                self.commit(write, |_| Vec::new()).await
            }
        }
    }
}

/// Returns whether the change wrote nothing, as there is no such trust or no such key.
fn finds_nothing(error: &StoreError) -> bool {
    matches!(error, StoreError::NoSuchTrust { .. } | StoreError::NoSuchKey { .. })
}

/// A revocation that is committed. Another process with a read lease may grant the key until
/// [`settle`](Self::settle) has returned.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trust_auth::{MemoryStore, NewTrust, Settled, TrustKeyCache, TrustRegistry, Waiting};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let registry = TrustRegistry::new(store, cache);
/// let (trust, _key) = registry.register(NewTrust::new("St. Mary")?).await?;
///
/// let revocation = registry.begin_disable(&trust.id.into()).await?;
/// let (disabled, settled) = revocation.settle(Waiting::default()).await?;
/// assert!(!disabled.is_enabled());
/// assert_eq!(settled, Settled::NOTHING_HELD);
/// # Ok(()) }
/// ```
#[must_use = "another process may grant the key until `settle` has returned"]
pub struct Revocation<'a, L> {
    registry: &'a TrustRegistry<L>,
    step: Step,
    /// By the id, once it is known: another trust may get the name.
    which: TrustRef,
    outcome: Result<Trust, StoreError>,
    former: Vec<KeyHash>,
    /// Whether the last look has found no row.
    is_gone: bool,
    /// At most two, the later one first. Empty if no process can hold a lease.
    barriers: Vec<String>,
}

impl<L: TrustLedger> Revocation<'_, L> {
    /// Returns whether a process may hold a lease, so that [`settle`](Self::settle) has to wait.
    #[must_use]
    pub fn has_to_wait(&self) -> bool {
        !self.barriers.is_empty()
    }

    /// Returns the trust as the commit has left it, or `None` if there is no such trust or key.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.outcome.as_ref().ok()
    }

    /// Returns what [`settle`](Self::settle) waits for, to name it while it waits.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        Awaited { barrier: self.barriers.first().cloned() }
    }

    /// Waits until no process grants the key, and returns the trust and how the wait ended. Call
    /// this at once: the wait counts from the call. If the database has restarted or failed over
    /// meanwhile, this looks whether the change is still there, and otherwise makes it again (R16).
    /// A trust that was enabled meanwhile is then disabled again. If there was no trust, this makes
    /// the revocation of one that is there by then.
    ///
    /// The wait occupies no connection and has no time limit. Dropped, it leaves the commit as it
    /// is; the revocation has then not returned.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] or [`StoreError::NoSuchKey`] after the same wait, if there is no
    /// such trust or key. The latter also if a failover has lost the row of the key, and the trust
    /// still has the key's digest: rotate. If the database has restarted or failed over, and the
    /// trust has another key since then, a rotation is not made over it, and its own new key is
    /// dead: [`StoreError::Superseded`] if the keys that it replaced are revoked or have an end, as
    /// after a later rotation; and [`StoreError::RotationLost`] if one of them is still valid
    /// without an end: rotate again. With any other error, the database did not answer for five
    /// minutes, or refuses: [`list`](TrustRegistry::list) shows then whether the change is there.
    pub async fn settle(mut self, waiting: Waiting) -> Result<(Trust, Settled), RegistryError> {
        let mut backoff = Backoff::new();
        loop {
            match self.settle_all(waiting).await? {
                Settled::Repeat => {
                    Box::pin(self.repeat_until_answered()).await?;
                    tokio::time::sleep(backoff.pause_after(Duration::ZERO)).await;
                }
                settled => return Ok((self.ended()?, settled)),
            }
        }
    }

    /// Waits for both barriers at once: each shows whether the run has changed since its commit.
    /// Returns how both waits ended, or that the change has to be repeated.
    async fn settle_all(&self, waiting: Waiting) -> Result<Settled, StoreError> {
        let ledger = &self.registry.ledger;
        let settle = async |barrier: Option<&String>| match barrier {
            Some(barrier) => Box::pin(ledger.settle(barrier, waiting)).await,
            None => Ok(Settled::NOTHING_HELD),
        };
        let (later, earlier) =
            tokio::try_join!(settle(self.barriers.first()), settle(self.barriers.get(1)))?;
        Ok(later.and(earlier))
    }

    /// Repeats the change. The database may still be starting, so a failure that may pass is no
    /// end: a new key would be lost with it. Each attempt looks first what the last one has done.
    async fn repeat_until_answered(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new();
        let mut lasting = 0;
        loop {
            let outcome = self.repeat().await;
            match &outcome {
                Ok(()) | Err(StoreError::Superseded | StoreError::RotationLost) => return outcome,
                Err(error) if may_pass(error) => lasting = 0,
                Err(_) => lasting += 1,
            }
            if lasting == LASTING || begun.elapsed() > PATIENCE {
                return outcome;
            }
            tokio::time::sleep(backoff.pause_after(Duration::ZERO)).await;
        }
    }

    /// Makes the change again if it was lost, and has new barriers either way (R16).
    ///
    /// A change that is still there needs a barrier of its own after the look: what the look has
    /// found may be another process's change, which the barrier before it does not show. The
    /// barrier before the look proves that the server has been the same since.
    async fn repeat(&mut self) -> Result<(), StoreError> {
        if let Step::RevokeKey(id) = self.step {
            // Made again, it keeps the time of the first, and its barrier is of one transaction
            // with its look.
            self.make_again().await?;
            if self.is_gone && self.has_former_key().await? {
                self.outcome = Err(StoreError::NoSuchKey { id });
            }
            return Ok(());
        }
        let before = self.registry.ledger.barrier().await?;
        let fate = self.fate().await?;
        self.is_gone = matches!(fate, Fate::Deleted);
        match fate {
            Fate::Made | Fate::Deleted => {
                let after = self.registry.ledger.barrier().await?;
                self.barriers = after.into_iter().chain(before).collect();
                Ok(())
            }
            Fate::Lost => match self.make_again().await {
                // Another key came after the look.
                Err(StoreError::Superseded) => match self.fate().await? {
                    Fate::Replaced(error) => Err(error),
                    _ => Err(StoreError::Superseded),
                },
                outcome => outcome,
            },
            Fate::Replaced(error) => Err(error),
        }
    }

    /// Looks what has become of the change. A rotation is never made over a later one, which may
    /// have revoked this one's key, and may have returned. Nor is it made over a key that was added
    /// since: the trust's client may have that key alone.
    async fn fate(&mut self) -> Result<Fate, StoreError> {
        let listing = self.registry.ledger.listing().await?;
        let trust = match &self.outcome {
            Ok(trust) => trust,
            // A failover may have lost the deletion that left no trust. What is replaced now is
            // noted first: a repetition of this step must not replace anything later.
            Err(_) => match self.which.find_in(&listing.trusts) {
                Some(found) => {
                    self.which = found.id.into();
                    self.former = found.hashes().collect();
                    self.outcome = Ok(found.clone());
                    return Ok(Fate::Lost);
                }
                None => return Ok(Fate::Deleted),
            },
        };
        let row = listing.trusts.iter().find(|row| row.id == trust.id);
        let is_malformed = || listing.malformed.iter().any(|row| row.id == Some(trust.id));
        Ok(match (&self.step, row) {
            (_, None) if !is_malformed() => Fate::Deleted,
            (Step::Rotate(rotation), Some(row)) => {
                let present: Vec<KeyHash> = row.hashes().collect();
                if present.contains(&rotation.key.hash) {
                    Fate::Made
                } else if self.again(rotation).is_superseded(&present) {
                    Fate::Replaced(self.why_replaced(row))
                } else {
                    Fate::Lost
                }
            }
            // The row cannot be read, so nothing shows that it has no other key.
            (Step::Rotate(_), None) => Fate::Replaced(StoreError::RotationLost),
            (Step::Disable, Some(row)) if !row.is_enabled() => Fate::Made,
            (Step::SetAttributes(new), Some(row)) if row.attributes == *new => Fate::Made,
            (Step::Disable | Step::Delete | Step::RevokeKey(_) | Step::SetAttributes(_), _) => {
                Fate::Lost
            }
        })
    }

    /// Returns the error of a rotation over which the trust got another key. Any later rotation
    /// revokes the keys that this one replaced, or gives each of them an end.
    fn why_replaced(&self, row: &Trust) -> StoreError {
        let is_former = |hash: &KeyHash| self.former.contains(hash);
        let mut keys = row.keys.iter().filter(|key| key.expires_at.is_none());
        if row.api_key_hash.as_ref().is_some_and(is_former) || keys.any(|key| is_former(&key.hash))
        {
            StoreError::RotationLost
        } else {
            StoreError::Superseded
        }
    }

    /// Returns the rotation as it is repeated.
    fn again(&self, rotation: &Rotation) -> Rotation {
        Rotation { former: Some(self.former.clone()), ..rotation.clone() }
    }

    async fn make_again(&mut self) -> Result<(), StoreError> {
        let step = match (&self.step, &self.outcome) {
            (Step::Rotate(rotation), Ok(_)) => Step::Rotate(self.again(rotation)),
            (step, _) => step.clone(),
        };
        let again = self.registry.make(&step, &self.which).await?;
        self.barriers = again.barriers;
        self.is_gone = again.outcome.is_err();
        if let Ok(trust) = again.outcome {
            self.outcome = Ok(trust);
        }
        Ok(())
    }

    /// Returns whether the trust has one of the former digests, as it has if a failover has lost
    /// also the rotation that made the row of the key.
    async fn has_former_key(&self) -> Result<bool, StoreError> {
        let Ok(trust) = &self.outcome else { return Ok(false) };
        let row = self.registry.ledger.fetch(trust.id).await?;
        Ok(row.is_some_and(|row| row.hashes().any(|hash| self.former.contains(&hash))))
    }

    /// Returns the trust after the wait. Where another process has deleted it, the new key of a
    /// rotation is dead. To disable or to delete it had its effect.
    fn ended(self) -> Result<Trust, StoreError> {
        match (self.step, self.outcome) {
            (Step::Rotate(_), Ok(_)) if self.is_gone => {
                Err(StoreError::NoSuchTrust { which: self.which })
            }
            (_, outcome) => outcome,
        }
    }

    /// Returns the trust without a wait. Processes with a read lease grant the key for the length
    /// of a lease at most.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchTrust`] or [`StoreError::NoSuchKey`] if there is no such trust or key.
    pub fn without_waiting(self) -> Result<Trust, RegistryError> {
        Ok(self.outcome?)
    }
}

/// Returns whether a repetition may succeed later.
fn may_pass(error: &StoreError) -> bool {
    // The next look shows the outcome.
    error.is_transient() || matches!(error, StoreError::OutcomeUnknown)
}
