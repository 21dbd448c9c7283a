//! [`AuthenticatorBuilder`]: an authenticator with other limits than the usual ones.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::TrustKeyCache;

use crate::authenticator::Authenticator;
use crate::reject_floor::RejectFloor;
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
/// let authenticator = Authenticator::builder(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()))
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
    waiting_limit: usize,
    reject_floor: Duration,
    deadline: Option<Duration>,
}

impl<S: TrustStore> AuthenticatorBuilder<S> {
    /// How many requests may wait for a scan to begin, unless another number is given.
    pub const DEFAULT_WAITING_LIMIT: usize = 256;

    pub(crate) fn new(store: Arc<S>, cache: Arc<TrustKeyCache>) -> Self {
        Self {
            store,
            cache,
            waiting_limit: Self::DEFAULT_WAITING_LIMIT,
            reject_floor: Duration::ZERO,
            deadline: None,
        }
    }

    /// How many requests may wait for a scan to begin; one more is refused as
    /// [`Overloaded`](crate::AuthError::Overloaded). Default: 256. At least 1, to which zero is
    /// brought.
    ///
    /// As many may be in the scan under way. A larger number lets a flood make scans longer, by
    /// some 2 ns for each request and row, and refuses fewer of the requests that come with it;
    /// it also takes a longer [`reject_floor`](Self::reject_floor) to hide these scans.
    pub fn waiting_limit(mut self, requests: usize) -> Self {
        self.waiting_limit = requests.max(1);
        self
    }

    /// How long each refusal takes at least, from the beginning of the request, and in what steps
    /// it takes longer: one that is not ready after `floor` takes twice that, or three times.
    /// Default: zero, which is no floor. At most a day.
    ///
    /// Without one, the duration of a refusal tells how long a scan takes, and so how many trusts
    /// there are.
    ///
    /// # How long
    ///
    /// Strangers choose how long a scan is: each key that waits is compared with each row, for some
    /// 2 ns, and as many keys may wait as the [`waiting_limit`](Self::waiting_limit) allows. A
    /// miss waits for the rest of one scan and the whole of the next, and for both again if the
    /// row that was found has changed since. So refusals look alike, whoever floods the
    /// service, if
    ///
    /// ```text
    /// floor > 4 × (duration of candidates() + waiting_limit × rows × 2 ns)
    /// ```
    ///
    /// With 10,000 trusts that take 5 ms to read, and 256 requests that may wait: 4 × (5 ms + 5.1
    /// ms) = 41 ms, so 50 ms. With 100,000 that take 50 ms: 405 ms; and 226 ms if no more than
    /// 32 may wait, which is why the waiting limit is the lever. A scan by which the floor
    /// turns out to be too short is logged by [`tracing`] as a warning, once a minute.
    ///
    /// # What has it
    ///
    /// Every refusal has it, also those that read nothing, so that nobody needs to know which are
    /// which. A grant goes out at once.
    ///
    /// A refusal that waits for its time holds nothing but its own memory: bound the connections in
    /// front of it. The runtime wakes it at a tick of a millisecond, so that it comes up to
    /// some milliseconds late, whatever was done before. Needs a Tokio runtime with time
    /// enabled; outside any runtime, each refusal is
    /// [`Unavailable`](crate::AuthError::Unavailable) at once.
    pub fn reject_floor(mut self, floor: Duration) -> Self {
        self.reject_floor = floor;
        self
    }

    /// Bounds what the store may take over one request, all steps together: the fetch of a cached
    /// row, the wait for a scan and the scan, and the fetch after it. Default: no bound but the
    /// store's own. At most a day.
    ///
    /// A request that has no answer by then is [`Unavailable`](crate::AuthError::Unavailable), with
    /// [`StoreError::Timeout`](crate::StoreError::Timeout) as its cause. Without a deadline, each
    /// step has the store's own time limit, and a request may take several times that. A
    /// deadline that is not longer than twice the time to read all rows refuses requests that
    /// came while a scan was reading. The scan goes on for others, to the store's own limit.
    ///
    /// A refusal still takes the [`reject_floor`](Self::reject_floor), so the last one goes out at
    /// the first whole multiple of the floor after the deadline.
    ///
    /// Needs a Tokio runtime with time enabled; outside any runtime there is no deadline.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use trust_auth::{Authenticator, MemoryStore, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let authenticator = Authenticator::builder(Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()))
    ///     .deadline(Duration::from_secs(2))
    ///     .build();
    /// assert!(authenticator.authenticate(Some("no trust has this")).await.is_err());
    /// # }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline.min(MAX_DEADLINE));
        self
    }

    /// The authenticator. Its clones share all limits.
    #[must_use]
    pub fn build(self) -> Authenticator<S> {
        Authenticator::with_limits(
            self.store,
            self.cache,
            self.waiting_limit,
            RejectFloor::new(self.reject_floor),
            self.deadline,
        )
    }
}

impl<S> fmt::Debug for AuthenticatorBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatorBuilder")
            .field("waiting_limit", &self.waiting_limit)
            .field("reject_floor", &self.reject_floor)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
