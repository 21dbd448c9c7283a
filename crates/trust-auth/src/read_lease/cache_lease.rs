//! [`CacheLease`]: a holder whose cache is filled by misses. One task keeps the read lease of an
//! application's cache.
//!
//! The order of the steps carries the proof and must never change: note the clock, renew, apply,
//! move the deadline (R1); take a base, then invalidate (R2); give up, then leave (R9).

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use trust_key_cache::{Clock, CoarseClock, KeyCache, KeyHash, ReadLease};

use super::bounds::{PACE, check_length};
use super::feed::{Answer, ChangeFeed, Difference, Ended, FeedSession, Reload, Settled, Waiting};
use super::registration::Registration;
use crate::error::StoreError;
use crate::log_limit::LogLimit;
use crate::watcher::Backoff;

/// The renewals in one length of a lease. Four fifths of it are valid, so an outage of half the
/// length always passes unnoticed.
const RENEWALS: u32 = 4;

/// A cache whose values may be granted without a read, until the lease's deadline. It lasts until
/// it is dropped or [stopped](Self::stop).
///
/// A task follows the changes of a [`ChangeFeed`], and invalidates in the cache what they end.
/// While the lease is valid, [`lookup`](Self::lookup) returns values that are as of every change
/// whose [`settle`](Self::settle) has returned, in any process (G11). While it is not, `lookup`
/// returns nothing, and each request reads the database.
///
/// Where [`lookup`](Self::lookup) returns nothing, the value is loaded under
/// [`KeyCache::lease`], from the **primary**, by statements whose snapshots are taken after that
/// lease was (R8): in READ COMMITTED, or in a transaction that begins after it. Do not call
/// [`KeyCache::lookup`] or [`KeyCache::get_or_try_load_async`] instead: they return cached values
/// also when the lease has ended.
///
/// The example [`held-principals`] is a service with a schema of its own: its cache takes 40 lines,
/// and two processes revoke and refuse keys on a real server.
///
/// [`held-principals`]: https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/held-principals/src/held.rs
///
/// # Examples
///
#[cfg_attr(feature = "postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "postgres"), doc = "```ignore")]
/// use std::sync::Arc;
/// use std::time::Duration;
/// use trust_auth::{CacheLease, KeyHash, PgChanges, PostgresStore, Settled};
/// use trust_key_cache::KeyCache;
///
/// struct Principal {
///     user_id: i64,
/// }
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
/// let changes = PgChanges::new(PostgresStore::options("postgres://app@db.example/app"))
///     .table("api_keys", |table| table.key("key_hash").ignore(["last_used_at"]))
///     .table("memberships", |table| table.value("user_id"));
/// let cache = Arc::new(KeyCache::<Arc<Principal>>::new());
/// let lease = CacheLease::builder(changes.connect().await?, Arc::clone(&cache))
///     .length(Duration::from_secs(10))
///     .values(|_column, value, principal| principal.user_id.to_string() == value)
///     .start()
///     .await?;
///
/// let held = lease.lookup(&KeyHash::of("key")); // no read
///
/// // `revoke` runs UPDATE .., SELECT trust_auth_barrier(), COMMIT, and returns the barrier. It
/// // runs again if a failover may have lost it.
/// # let revoke = async || Ok::<_, trust_auth::StoreError>(String::new());
/// while lease.settle(&revoke().await?).await? == Settled::Repeat {}
/// // No process grants what the transaction has revoked.
/// # Ok(()) }
/// ```
pub struct CacheLease<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock = CoarseClock> {
    holder: Arc<Holder<F, V, C>>,
    task: JoinHandle<()>,
}

/// Makes a [`CacheLease`]: [`CacheLease::builder`].
pub struct CacheLeaseBuilder<F, V: Clone + Send + Sync + 'static, C: Clock = CoarseClock> {
    feed: F,
    cache: Arc<KeyCache<V, C>>,
    length: Duration,
    name: String,
    belongs: Option<Box<Belongs<V>>>,
}

/// Returns whether a held value belongs to a value of a column.
type Belongs<V> = dyn Fn(&str, &str, &V) -> bool + Send + Sync;

struct Holder<F, V: Clone + Send + Sync + 'static, C: Clock> {
    feed: F,
    cache: Arc<KeyCache<V, C>>,
    lease: ReadLease,
    length: Duration,
    name: String,
    belongs: Option<Box<Belongs<V>>>,
    /// Survives the sessions (R9).
    registration: Mutex<Option<Registration>>,
    log_limit: LogLimit,
}

impl<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock + Send + Sync + 'static>
    CacheLease<F, V, C>
{
    /// Returns a builder, with a length of 10 s.
    #[must_use]
    pub fn builder(feed: F, cache: Arc<KeyCache<V, C>>) -> CacheLeaseBuilder<F, V, C> {
        let name = format!("process {}", std::process::id());
        CacheLeaseBuilder { feed, cache, length: Duration::from_secs(10), name, belongs: None }
    }

    /// Returns the cached value, if it may be granted without a read: the cache's
    /// [`lookup_held`](KeyCache::lookup_held). Wait-free.
    pub fn lookup(&self, hash: &KeyHash) -> Option<V> {
        self.holder.cache.lookup_held(&self.holder.lease, hash)
    }

    /// Returns the lease, for [`lookup_held_with`](KeyCache::lookup_held_with) and for metrics. Do
    /// not renew it or set its length: the changers wait for the length that is registered.
    #[must_use]
    pub fn read_lease(&self) -> &ReadLease {
        &self.holder.lease
    }

    /// Returns the feed.
    #[must_use]
    pub fn feed(&self) -> &F {
        &self.holder.feed
    }

    /// Waits until no process grants what a transaction has revoked: the feed's
    /// [`settle`](ChangeFeed::settle). Call it after the commit has returned.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. Make the whole revocation again, as after [`Settled::Repeat`].
    pub async fn settle(&self, barrier: &str) -> Result<Settled, StoreError> {
        self.holder.feed.settle(barrier, Waiting::default()).await
    }

    /// Gives the lease up at once, and removes the registration, so that no revocation waits for
    /// this process. A lease that is dropped instead is waited for until its length has passed.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the registration may still be there. The lease is given up all the
    /// same.
    pub async fn stop(mut self) -> Result<(), StoreError> {
        self.holder.lease.relinquish();
        self.task.abort();
        // Ends with the task's cancellation, or with its panic, which it has reported itself.
        let _ = (&mut self.task).await;
        let registration = self.holder.registration().take();
        match registration {
            Some(own) => self.holder.feed.leave(own.id).await,
            None => Ok(()),
        }
    }
}

impl<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock> Drop for CacheLease<F, V, C> {
    fn drop(&mut self) {
        // Before the task ends: without its renewals nothing would be invalidated.
        self.holder.lease.relinquish();
        self.task.abort();
    }
}

impl<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock + Send + Sync + 'static>
    CacheLeaseBuilder<F, V, C>
{
    /// Sets the length of the lease: how long a revocation waits at worst, and for how much of an
    /// outage cached values are granted. From 300 ms to 300 s.
    #[must_use]
    pub fn length(mut self, length: Duration) -> Self {
        self.length = length;
        self
    }

    /// Sets the name that a revocation reports if this process does not answer. Default: the
    /// process's id.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets which cached values belong to a value of a column: it receives the column as
    /// `table.column`, the value as PostgreSQL writes it, and the cached value. It must not panic.
    /// Without it, such a change ends everything. So does the change of a row without a value.
    #[must_use]
    pub fn values(
        mut self,
        belongs: impl Fn(&str, &str, &V) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.belongs = Some(Box::new(belongs));
        self
    }

    /// Connects, takes the first base, registers, and renews. The lease is valid then. Invalidates
    /// the cache.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. [`StoreError::Schema`] if the migration has not run, and
    /// [`StoreError::Other`] if the length is not from 300 ms to 300 s, or if the feed does not
    /// [name each change](FeedSession::names_each_change), as that of SQLite.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn start(self) -> Result<CacheLease<F, V, C>, StoreError> {
        let Self { feed, cache, length, name, belongs } = self;
        check_length(length)?;
        let holder = Arc::new(Holder {
            feed,
            cache,
            lease: ReadLease::new(length),
            length,
            name,
            belongs,
            registration: Mutex::default(),
            log_limit: LogLimit::default(),
        });
        let mut session = holder.begin().await?;
        while holder.renew(&mut session).await?.is_err() {
            tokio::time::sleep(Backoff::FIRST).await;
            session = holder.begin().await?;
        }
        let task = tokio::spawn(Arc::clone(&holder).hold(session));
        Ok(CacheLease { holder, task })
    }
}

/// Why a session ends.
enum End {
    Failed(StoreError),
    /// The differences do not count any more.
    Reload(Reload),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock + Send + Sync + 'static>
    Holder<F, V, C>
{
    /// Keeps the lease, session after session.
    async fn hold(self: Arc<Self>, mut session: F::Session) {
        let mut backoff = Backoff::new();
        loop {
            let begun = Instant::now();
            let Err(end) = self.follow(&mut session).await;
            self.ended(&end);
            drop(session);
            let mut lasted = begun.elapsed();
            session = loop {
                tokio::time::sleep(backoff.pause_after(lasted)).await;
                let begun = Instant::now();
                match self.begin().await {
                    Ok(session) => break session,
                    Err(error) => self.ended(&End::Failed(error)),
                }
                lasted = begun.elapsed();
            };
        }
    }

    /// Takes a base in a new session, and registers if no registration is in force. The last
    /// deadline stays in force meanwhile: it vouches for what it did.
    async fn begin(&self) -> Result<F::Session, StoreError> {
        let mut session = self.feed.open(self.length).await?;
        if !session.names_each_change() {
            return Err(StoreError::Other(
                "the feed compares two states, as that of SQLite does, and does not name each \
                 change: a cache could keep what was revoked in between; use the feed of \
                 PostgreSQL, or `HeldTrusts`"
                    .into(),
            ));
        }
        session.load().await?;
        if self.registration().take_if(|own| !own.is_in_force(&session)).is_some() {
            // The changers of what is read from now on do not wait for this process (R9).
            self.lease.relinquish();
        }
        // After the base: what a load that began before it has read is refused (RL11).
        self.cache.invalidate();
        let is_registered = self.registration().is_some();
        if !is_registered {
            let id = session.register(&self.name).await?;
            *self.registration() = Some(Registration::of(id, &session));
        }
        Ok(session)
    }

    async fn follow(&self, session: &mut F::Session) -> Result<Infallible, End> {
        let interval = self.length / RENEWALS;
        loop {
            let begun = Instant::now();
            let pause = if self.acknowledge(session).await? { interval } else { PACE };
            // In each turn: a hint takes what the server has sent, which would pile up otherwise.
            if let Ok(hint) = tokio::time::timeout(pause, session.hint()).await {
                hint?;
            }
            tokio::time::sleep(PACE.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Renews, and renews again at once if there are records to acknowledge (R10). Returns whether
    /// all are acknowledged. If not, writes do not cease, and the next renewal is paced.
    async fn acknowledge(&self, session: &mut F::Session) -> Result<bool, End> {
        for _ in 0..2 {
            let has_records = self.renew(session).await?.map_err(End::Reload)?;
            session.upkeep().await?;
            if !has_records {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Renews once. Returns whether there were records, which the next renewal acknowledges.
    async fn renew(&self, session: &mut F::Session) -> Result<Result<bool, Reload>, StoreError> {
        let registration = self.registration().as_ref().map(|own| own.id);
        let Some(registration) = registration else { return Ok(Err(Reload::Unregistered)) };
        // Before the statement is sent (RL12).
        let renewal = self.lease.begin();
        match session.renew(registration).await? {
            Answer::Difference(Difference { ended, has_records }) => {
                self.apply(&ended);
                // After all of it was applied (RL13).
                renewal.complete();
                Ok(Ok(has_records))
            }
            Answer::Reload(reason) => {
                if reason == Reload::Unregistered {
                    // The lease first: no changer waits for this process any more (R9).
                    self.lease.relinquish();
                    *self.registration() = None;
                }
                Ok(Err(reason))
            }
        }
    }

    fn apply(&self, ended: &[Ended]) {
        let mut values = Vec::new();
        for ended in ended {
            match ended {
                Ended::Key(hash) => self.cache.invalidate_key(hash),
                Ended::Value { column, value } => values.push((&**column, &**value)),
                Ended::Trust { .. } | Ended::Everything => return self.cache.invalidate(),
            }
        }
        match &self.belongs {
            _ if values.is_empty() => {}
            Some(belongs) => {
                self.cache.invalidate_where(|_, held| {
                    values.iter().any(|(column, value)| belongs(column, value, held))
                });
            }
            None => self.cache.invalidate(),
        }
    }

    fn ended(&self, end: &End) {
        let remaining = self.lease.remaining();
        let Some(left_out) = self.log_limit.try_log() else { return };
        match end {
            End::Failed(error) => tracing::warn!(
                %error, ?remaining, left_out,
                "the read lease cannot be renewed; trying again"
            ),
            End::Reload(reason) => tracing::info!(
                ?reason,
                ?remaining,
                left_out,
                "the read lease begins again with an empty cache"
            ),
        }
    }

    fn registration(&self) -> MutexGuard<'_, Option<Registration>> {
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: ChangeFeed, V: Clone + Send + Sync + 'static, C: Clock> fmt::Debug for CacheLease<F, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLease")
            .field("name", &self.holder.name)
            .field("length", &self.holder.length)
            .finish_non_exhaustive()
    }
}

impl<F, V: Clone + Send + Sync + 'static, C: Clock> fmt::Debug for CacheLeaseBuilder<F, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLeaseBuilder")
            .field("name", &self.name)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
