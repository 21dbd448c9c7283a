//! [`AuthenticatorBuilder`]: makes an authenticator with other limits than the usual ones.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::TrustKeyCache;

use crate::authenticator::Authenticator;
use crate::find_by::FindBy;
use crate::key_hasher::KeyHasher;
use crate::key_prefix::KeyPrefix;
use crate::read_lease::HeldTrusts;
use crate::store::TrustStore;

/// The longest deadline; far from the limits of the clock.
const MAX_DEADLINE: Duration = Duration::from_hours(24);

/// Makes an [`Authenticator`]; see [`Authenticator::builder`].
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
/// let authenticator = Authenticator::builder(store, cache)
///     .waiting_limit(256)
///     .reject_floor(Duration::from_millis(20))
///     .build();
/// let begin = Instant::now();
/// assert!(authenticator.authenticate(Some("no trust has this")).await.is_err());
/// assert!(begin.elapsed() >= Duration::from_millis(20));
/// # }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct AuthenticatorBuilder<S> {
    pub(crate) store: Arc<S>,
    pub(crate) cache: Arc<TrustKeyCache>,
    pub(crate) waiting_limit: usize,
    pub(crate) reject_floor: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) held: Option<Arc<HeldTrusts>>,
    pub(crate) key_prefix: KeyPrefix,
    pub(crate) key_hasher: KeyHasher,
    pub(crate) find_by: FindBy,
}

impl<S: TrustStore> AuthenticatorBuilder<S> {
    /// How many requests may wait for a scan by default.
    pub const DEFAULT_WAITING_LIMIT: usize = 256;

    pub(crate) fn new(store: Arc<S>, cache: Arc<TrustKeyCache>) -> Self {
        Self {
            store,
            cache,
            waiting_limit: Self::DEFAULT_WAITING_LIMIT,
            reject_floor: Duration::ZERO,
            deadline: None,
            held: None,
            key_prefix: KeyPrefix::default(),
            key_hasher: KeyHasher::default(),
            find_by: FindBy::default(),
        }
    }

    /// Limits how many requests may wait for a scan to begin. Default: 256. Zero means 1.
    ///
    /// One more request is refused as [`Overloaded`](crate::AuthError::Overloaded). As many
    /// requests may be in the scan under way.
    ///
    /// With a larger limit, a flood makes scans longer, by some 2 ns for each request and row.
    /// Fewer of the requests that arrive during the flood are refused. A larger limit also needs a
    /// longer [`reject_floor`](Self::reject_floor) to hide these scans.
    pub fn waiting_limit(mut self, requests: usize) -> Self {
        self.waiting_limit = requests.max(1);
        self
    }

    /// Sets the shortest duration of a refusal, from the beginning of the request. A longer refusal
    /// takes a whole multiple of it. Default: zero, which is no floor. At most a day.
    ///
    /// Without a floor, the duration of a refusal reveals how long a scan takes, and so how many
    /// trusts there are.
    ///
    /// # How long
    ///
    /// Unauthenticated clients choose the length of a scan. Each waiting key is compared with each
    /// row, for some 2 ns, and as many keys may wait as the [`waiting_limit`](Self::waiting_limit)
    /// allows. A miss waits for the rest of one scan and the whole of the next. It waits for both
    /// again if the row that was found has changed since. Refusals take the same time under any
    /// flood if
    ///
    /// ```text
    /// floor > 4 × (duration of candidates() + waiting_limit × rows × 2 ns)
    /// ```
    ///
    /// With 10,000 trusts that take 5 ms to read, and 256 requests that may wait: 4 × (5 ms + 5.1
    /// ms) = 41 ms, so 50 ms. With 100,000 trusts that take 50 ms: 405 ms. With these and 32
    /// waiting requests: 226 ms, so a lower waiting limit is what shortens the floor.
    /// [`tracing`] logs a scan that shows the floor to be too short as a warning, once a
    /// minute.
    ///
    /// Under a [read lease](Self::read_lease) a refusal waits for the rest of one look and its
    /// sweep, and for the whole of the next. With 256 requests in each, the floor must then be
    /// longer than `2 × (duration of a look + 256 × rows × 2 ns)`. The log warns of no look that is
    /// too long.
    ///
    /// # Which answers have it
    ///
    /// Every refusal has the floor, also one that reads nothing, so that no caller needs to
    /// distinguish them. A grant is returned at once.
    ///
    /// A refusal that waits holds only its own memory: bound the connections in front of it. The
    /// runtime wakes it at a tick of a millisecond, so it is up to some milliseconds late, whatever
    /// was done before. The floor needs a Tokio runtime with time enabled. Outside of any runtime,
    /// each refusal is [`Unavailable`](crate::AuthError::Unavailable) at once.
    pub fn reject_floor(mut self, floor: Duration) -> Self {
        self.reject_floor = floor;
        self
    }

    /// Limits the store's time for all steps of one request: the fetch of a cached row, the wait
    /// for a scan, the scan, and the fetch after it. Default: only the store's own time-outs. At
    /// most a day.
    ///
    /// A request without an answer by then is [`Unavailable`](crate::AuthError::Unavailable), with
    /// [`StoreError::Timeout`](crate::StoreError::Timeout) as its cause. Without a deadline, each
    /// step has the store's own time-out, and a request may take several times that. A deadline
    /// shorter than twice the time to read all rows refuses requests that arrive while a scan
    /// reads. The scan continues for other requests, until the store's own time-out.
    ///
    /// A refusal still takes the [`reject_floor`](Self::reject_floor). So the last refusal is
    /// returned at the first whole multiple of the floor after the deadline.
    ///
    /// The deadline needs a Tokio runtime with time enabled. Outside of any runtime there is none.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let authenticator =
    ///     Authenticator::builder(store, cache).deadline(Duration::from_secs(2)).build();
    /// assert!(authenticator.authenticate(Some("no trust has this")).await.is_err());
    /// # }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline.min(MAX_DEADLINE));
        self
    }

    /// Grants from rows that are held under a read lease, while the lease is in force. Default: no
    /// lease, and each grant reads the row.
    ///
    /// `held` must be of the trusts of this authenticator's store. Each change of these trusts must
    /// wait, as [`TrustRegistry`](crate::TrustRegistry) does: then a request that begins after the
    /// change has returned is not granted by a row that it revoked (G11). `docs/read-lease.md` has
    /// the proof.
    ///
    /// A hit reads nothing. A miss joins the next *look*, which reads what was committed. All keys
    /// of a look are then compared with all held rows in one constant-time sweep, and the next look
    /// begins after it. At most 256 requests wait for a look, and one more is
    /// [`Overloaded`](crate::AuthError::Overloaded): so unknown keys cost the database at most 100
    /// looks a second. While the lease is not in force, or if a look fails,
    /// the request reads as it does without a lease.
    pub fn read_lease(mut self, held: Arc<HeldTrusts>) -> Self {
        self.held = Some(held);
        self
    }

    /// Sets the prefix of the keys whose checksum is checked before anything is read. Default:
    /// `tak_`. Choose that of the [`TrustRegistry`](crate::TrustRegistry), which makes the keys.
    ///
    /// Keys with other prefixes go on being granted. A key of another program that has this prefix
    /// and the length of a new key is refused, because it has no checksum.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, KeyPrefix, MemoryStore, Route, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let authenticator =
    ///     Authenticator::builder(store, cache).key_prefix("acme_".parse()?).build();
    /// let damaged = format!("acme_{}", "0".repeat(49));
    /// assert_eq!(authenticator.attempt(Some(&damaged)).await.route, Route::Unread);
    /// # Ok(()) }
    /// ```
    pub fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.key_prefix = prefix;
        self
    }

    /// Sets how keys are turned into digests. Default: SHA-256. Choose that of the
    /// [`TrustRegistry`](crate::TrustRegistry), which makes the keys.
    ///
    /// A hit costs one digest and one lookup. A known key of a former pepper costs one digest and
    /// one lookup more. A miss has all its digests compared by one scan, so the
    /// [`waiting_limit`](Self::waiting_limit) counts once for each digest in the rule of the
    /// [`reject_floor`](Self::reject_floor).
    pub fn key_hasher(mut self, hasher: KeyHasher) -> Self {
        self.key_hasher = hasher;
        self
    }

    /// Sets how the row of a key that is not cached is found. Default: by a scan.
    ///
    /// [`FindBy`] has what an index gives up. The store must have one: `check_index` of the stores
    /// of this crate checks that. At most [`waiting_limit`](Self::waiting_limit) requests find at
    /// once, and one more is [`Overloaded`](crate::AuthError::Overloaded). A flood of unknown keys
    /// costs the store one lookup for each, and occupies connections that hits need, too: where
    /// scans bound the store's work, the number of its connections does so here.
    ///
    /// Under a [read lease](Self::read_lease) a miss is a look all the same, and the index is asked
    /// only while the lease is not in force.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_auth::{Authenticator, FindBy, MemoryStore, Route, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// let authenticator = Authenticator::builder(store, cache).find_by(FindBy::Index).build();
    /// let attempt = authenticator.attempt(Some("no trust has this")).await;
    /// assert_eq!((attempt.route, authenticator.stats().scans), (Route::Find, 0));
    /// # }
    /// ```
    pub fn find_by(mut self, find_by: FindBy) -> Self {
        self.find_by = find_by;
        self
    }

    /// Returns the authenticator. Its clones share all limits.
    #[must_use]
    pub fn build(self) -> Authenticator<S> {
        Authenticator::of(self)
    }
}

impl<S> fmt::Debug for AuthenticatorBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatorBuilder")
            .field("waiting_limit", &self.waiting_limit)
            .field("reject_floor", &self.reject_floor)
            .field("deadline", &self.deadline)
            .field("held", &self.held)
            .field("key_prefix", &self.key_prefix)
            .field("key_hasher", &self.key_hasher)
            .field("find_by", &self.find_by)
            .finish_non_exhaustive()
    }
}
