//! [`ReadLease`]: until when hits may be granted without a read of the source of truth. Renewals
//! move the deadline, and lookups read it.
//!
//! Only the deadline is shared with lookups, and only an atomic load reads it. All else is under a
//! lock, which no lookup takes. `docs/guarantees.md` has the argument (G11.1 to G11.13).

use core::fmt;
use core::time::Duration;
use std::sync::PoisonError;

use super::sync::{Mutex, MutexGuard, Ordering, StoredU64};
use crate::clock::{BootClock, Clock, nanos};

/// Allows hits to be granted without a read of the source of truth, until a deadline.
///
/// A process that grants from its cache is a *holder*. A process that changes the source of truth
/// is a *changer*. The lease makes a change final in every holder, without a message to any of
/// them. A holder's deadline passes unless the holder renews the lease, and each renewal reads what
/// was committed. A changer waits for the length of the lease after its commit. Once the wait is
/// over, no holder grants what the change has revoked (G11). While the source of truth cannot be
/// read, hits are granted until the deadline, and no longer.
///
/// [`KeyCache::lookup_held`](crate::KeyCache::lookup_held) returns a value only while the lease is
/// valid. A lease is not valid before its first renewal.
///
/// # Renewals
///
/// A holder renews the lease several times in its length, from one task, in this order:
///
/// 1. [`begin`](Self::begin) notes the clock.
/// 2. One statement reads, on one snapshot, what was committed since the last renewal.
/// 3. The changes are applied to the cache, by [`invalidate_key`](crate::KeyCache::invalidate_key),
///    [`invalidate_where`](crate::KeyCache::invalidate_where) or
///    [`invalidate`](crate::KeyCache::invalidate).
/// 4. [`Renewal::complete`] moves the deadline to the noted time plus four fifths of the length.
///
/// A renewal that fails is dropped, and moves nothing. The last fifth of the length is the
/// allowance for clocks of different rates: the holder's and the changer's.
///
/// # The base
///
/// The first renewal needs a *base*: the snapshot from which its differences count. A holder whose
/// cache is filled by misses takes the base snapshot **first**, and then calls
/// [`invalidate`](crate::KeyCache::invalidate). In the other order, a request may read a row and
/// store it between the two. A change that is committed after that read and before the snapshot is
/// then in no difference (G11.12). The holder takes a new base whenever the differences may have a
/// gap: after a lost session, after a failover, and if its base is older than what the source
/// keeps. To take a base is a renewal, too: `begin`, snapshot, `invalidate`, `complete`. Meanwhile
/// the last deadline stays in force.
///
/// # Values
///
/// A miss reads the source of truth under a [cache lease](crate::KeyCache::lease), as without a
/// read lease. The source must show every change that a renewal has read. Use the primary, not a
/// replica. A value's time-to-live counts as always (G3), on the cache's own clock. If values have
/// ends of their own ([`entry_ttl`](crate::Builder::entry_ttl)), give the cache
/// [`BootClock`](crate::BootClock), too: the default clock does not count suspended time.
///
/// # Length
///
/// Any length is safe if every changer waits for as long. The lease does not check it. A length of
/// zero, or one whose four fifths are not longer than the clock's resolution, never makes the lease
/// valid.
///
/// # Sources
///
/// Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache
/// consistency" (SOSP 1989). Burrows, "The Chubby lock service for loosely-coupled distributed
/// systems" (OSDI 2006), section 2.7: a change is finished when each holder has acknowledged it or
/// its lease has ended.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_key_cache::{KeyCache, KeyHash, ReadLease};
///
/// /// The digests of keys that were changed since the last renewal.
/// fn read_changes() -> Result<Vec<KeyHash>, std::io::Error> {
///     // SELECT key_hash FROM .. on the primary
///     Ok(vec![KeyHash::of("revoked")])
/// }
///
/// /// Runs once a second.
/// fn renew(cache: &KeyCache<u64>, lease: &ReadLease) -> Result<(), std::io::Error> {
///     let renewal = lease.begin(); // before the read
///     for hash in read_changes()? {
///         cache.invalidate_key(&hash);
///     }
///     renewal.complete(); // after the changes were applied
///     Ok(())
/// }
///
/// let cache = KeyCache::<u64>::new();
/// let lease = ReadLease::new(Duration::from_secs(10));
/// let [valid, revoked] = ["valid", "revoked"].map(KeyHash::of);
/// assert!(cache.lease(&valid).remember(7));
/// assert!(cache.lease(&revoked).remember(8));
///
/// assert_eq!(cache.lookup_held(&lease, &valid), None); // not renewed yet
/// renew(&cache, &lease)?;
/// # if trust_key_cache::BootClock::IS_SUPPORTED {
/// assert_eq!(cache.lookup_held(&lease, &valid), Some(7));
/// # }
/// assert_eq!(cache.lookup_held(&lease, &revoked), None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReadLease<D = BootClock> {
    clock: D,
    /// The most that the clock can lag, in nanoseconds.
    resolution: u64,
    /// In nanoseconds of the clock. Zero before the first renewal, and once relinquished. Stored
    /// under the lock alone.
    deadline: StoredU64,
    terms: Mutex<Terms>,
}

/// What renewals are checked against.
struct Terms {
    /// The length of the lease, in nanoseconds.
    length: u64,
    /// How often the lease was relinquished. A renewal that has recorded another number moves
    /// nothing.
    relinquished: u64,
    /// The deadline. It is read here and not from the atomic, which lookups alone load.
    deadline: u64,
}

impl ReadLease {
    /// Returns a lease of that length, on [`BootClock`]. The lease is not valid before its first
    /// renewal.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::ReadLease;
    /// let lease = ReadLease::new(Duration::from_secs(10));
    /// assert!(!lease.is_valid());
    /// ```
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self::with_clock(length, BootClock)
    }
}

impl<D: Clock> ReadLease<D> {
    /// Returns a lease of that length, on that clock. The lease is not valid before its first
    /// renewal.
    ///
    /// The clock must count suspended time. [`CoarseClock`](crate::CoarseClock) does not. A read of
    /// the clock must not run ahead of earlier loads by more than a small part of the length: see
    /// G11.11 in `docs/guarantees.md`. Lookups read the clock while they hold a guard, which keeps
    /// what is replaced from being freed: the clock must not block. The clock's
    /// [resolution](Clock::resolution) is subtracted from the length, and is read once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{ManualClock, ReadLease};
    /// let clock = ManualClock::new();
    /// let lease = ReadLease::with_clock(Duration::from_secs(10), clock.clone());
    /// lease.begin().complete();
    ///
    /// clock.advance(Duration::from_nanos(7_999_999_999));
    /// assert!(lease.is_valid());
    /// clock.advance(Duration::from_nanos(1));
    /// assert!(!lease.is_valid());
    /// ```
    #[must_use]
    pub fn with_clock(length: Duration, clock: D) -> Self {
        Self {
            resolution: nanos(clock.resolution()),
            clock,
            deadline: StoredU64::new(0),
            terms: Mutex::new(Terms { length: nanos(length), relinquished: 0, deadline: 0 }),
        }
    }

    /// Begins a renewal: notes the clock, and changes nothing.
    ///
    /// Call `begin` **before** the statement is sent that reads what was committed. The deadline
    /// counts from the noted time, so the duration of the renewal counts against the lease (G11.1).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{ManualClock, ReadLease};
    /// let clock = ManualClock::new();
    /// let lease = ReadLease::with_clock(Duration::from_secs(10), clock.clone());
    ///
    /// let renewal = lease.begin();
    /// clock.advance(Duration::from_secs(3)); // the statement runs, and its changes are applied
    /// renewal.complete();
    /// assert_eq!(lease.remaining(), Duration::from_secs(5));
    /// ```
    pub fn begin(&self) -> Renewal<'_, D> {
        // The terms come first, and the lock is released: the clock is the caller's code.
        let (length, relinquished) = {
            let terms = self.terms();
            (terms.length, terms.relinquished)
        };
        Renewal { lease: self, noted: self.clock.now_nanos(), length, relinquished }
    }

    /// Returns whether the lease is valid now: whether a [`lookup_held`] of a cached key could
    /// return its value.
    ///
    /// Call it after a miss, to distinguish a key that is not held from a lease that has ended.
    /// While the lease is not valid, a request reads the source of truth. Do not combine it with
    /// [`lookup`](crate::KeyCache::lookup) to grant without a read: [`lookup_held`] checks the
    /// deadline in the order that G11 needs.
    ///
    /// Wait-free; O(1): one load, and one read of the clock.
    ///
    /// [`lookup_held`]: crate::KeyCache::lookup_held
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.is_before(self.deadline())
    }

    /// Returns for how long the lease is valid from now on, if no renewal follows. Zero if the
    /// lease is not valid.
    ///
    /// For gauges, and to decide when to renew. Wait-free; O(1).
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Duration::from_nanos(self.deadline().0.saturating_sub(self.clock.now_nanos()))
    }

    /// Gives the lease up: the lease is not valid until a renewal completes that begins after this
    /// call.
    ///
    /// Once `relinquish` has returned, no lookup that happens-after returns a value. A renewal that
    /// began before moves nothing, whenever it completes (G11.4). A lookup that is under way may
    /// still return a value, by the deadline that it has read.
    ///
    /// Call it before the holder stops, and before any step after which a changer may return
    /// without the wait. A holder that cannot reach the source of truth need not call it: the
    /// deadline passes by itself. Takes the lease's lock for a few instructions.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{ManualClock, ReadLease};
    /// let lease = ReadLease::with_clock(Duration::from_secs(10), ManualClock::new());
    /// let renewal = lease.begin();
    /// lease.relinquish();
    /// renewal.complete();
    /// assert!(!lease.is_valid());
    ///
    /// lease.begin().complete();
    /// assert!(lease.is_valid());
    /// ```
    pub fn relinquish(&self) {
        let mut terms = self.terms();
        terms.relinquished += 1;
        terms.deadline = 0;
        // Relaxed: zero is no time of a renewal, so no lookup relies on what came before. A lookup
        // that happens-after reads zero or a later renewal's deadline, by coherence (G11.4).
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// Sets the length that renewals count with from now on.
    ///
    /// A renewal that has begun counts with the shorter of the two lengths (G11.5). The deadline
    /// that stands is not changed: a changer waits for the longer length until a lease of that
    /// length, renewed last before this call, has ended. To shorten the length, change the holders
    /// first. To lengthen it, change the changers first.
    pub fn set_length(&self, length: Duration) {
        self.terms().length = nanos(length);
    }

    /// Returns the length that renewals count with.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.terms().length)
    }

    /// Returns the deadline. Load it before the entry that is checked against it.
    #[inline]
    pub(super) fn deadline(&self) -> Deadline {
        // Acquire: pairs with the Release in `complete`, so that the lookup that follows finds
        // nothing that the renewal has invalidated (G11.6).
        Deadline(self.deadline.load(Ordering::Acquire))
    }

    /// Returns whether the clock is before the deadline. Call it after the entry was found (G11.8).
    #[inline]
    pub(super) fn is_before(&self, deadline: Deadline) -> bool {
        self.clock.now_nanos() < deadline.0
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        // Nothing panics under the lock.
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long a renewal makes the lease valid, from its noted time on: four fifths of the
    /// length, less what the clock may lag. Rounds down.
    fn validity(&self, length: u64) -> u64 {
        (length - length.div_ceil(5)).saturating_sub(self.resolution)
    }
}

/// A deadline as a lookup has read it.
#[derive(Clone, Copy)]
pub(super) struct Deadline(u64);

/// A renewal of a [`ReadLease`] that has begun. Dropped, it changes nothing.
///
/// [`ReadLease::begin`] returns a renewal. A renewal holds no lock. It may be held across `.await`,
/// and be sent to another thread.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_key_cache::{KeyCache, KeyHash, ReadLease};
///
/// async fn renew(cache: &KeyCache<u64>, lease: &ReadLease) -> Result<(), std::io::Error> {
///     let renewal = lease.begin();
///     let changed: Vec<KeyHash> = read_changes().await?; // failed or cancelled: nothing moves
///     for hash in changed {
///         cache.invalidate_key(&hash);
///     }
///     renewal.complete();
///     Ok(())
/// }
/// # async fn read_changes() -> Result<Vec<KeyHash>, std::io::Error> { Ok(vec![]) }
/// # let (cache, lease) = (KeyCache::new(), ReadLease::new(Duration::from_secs(10)));
/// # let future = std::pin::pin!(renew(&cache, &lease));
/// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// # assert!(std::future::Future::poll(future, &mut context).is_ready());
/// # assert_eq!(lease.is_valid(), trust_key_cache::BootClock::IS_SUPPORTED);
/// ```
#[must_use = "a renewal moves the deadline only when it is completed"]
pub struct Renewal<'a, D = BootClock> {
    lease: &'a ReadLease<D>,
    /// The time of the lease's clock when the renewal began, in nanoseconds.
    noted: u64,
    /// The length at that time.
    length: u64,
    relinquished: u64,
}

impl<D: Clock> Renewal<'_, D> {
    /// Moves the lease's deadline to the noted time plus four fifths of the length.
    ///
    /// Call it only after every change that was committed before [`begin`](ReadLease::begin) was
    /// applied to the cache. The application must happen-before this call. A renewal that has read
    /// a difference must not complete before the renewal that it counts from was applied. The lease
    /// cannot check this, and a held lookup relies on it.
    ///
    /// The deadline never moves back: of several renewals, the one that began last counts. A
    /// renewal that began before a [`relinquish`](ReadLease::relinquish) moves nothing.
    ///
    /// Takes the lease's lock for a few instructions.
    pub fn complete(self) {
        let mut terms = self.lease.terms();
        if terms.relinquished != self.relinquished {
            return;
        }
        let length = self.length.min(terms.length);
        let deadline = self.noted.saturating_add(self.lease.validity(length));
        if deadline > terms.deadline {
            terms.deadline = deadline;
            // Release: pairs with the Acquire in `deadline`, for the invalidations before this call
            // (G11.6).
            self.lease.deadline.store(deadline, Ordering::Release);
        }
    }
}

impl<D: Clock> fmt::Debug for ReadLease<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadLease")
            .field("length", &self.length())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for Renewal<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal")
            .field("noted", &Duration::from_nanos(self.noted))
            .field("length", &Duration::from_nanos(self.length))
            .finish_non_exhaustive()
    }
}
