//! A lock-free in-process cache from API-key hash to a value. A revocation is final.
//!
//! The value is what a service needs of a key: a principal, or the id of a row. A
//! [`KeyCache<V>`](KeyCache) stores any `V` that is `Clone + Send + Sync`. [`TrustKeyCache`] stores
//! the id of a *trust*: a tenant that has API keys.
//!
//! The cache exists for one interleaving. A lookup of a key misses, and the request reads the
//! database. Meanwhile the key is revoked and the cache is invalidated. Then the request inserts
//! the value that it has read. A `HashMap` or a common cache now accepts the revoked key for a
//! whole time-to-live. In this crate, the request takes a [`Lease`] before it reads, and the lease
//! refuses the insertion.
//!
//! ```
//! use trust_key_cache::{KeyCache, KeyHash};
//!
//! # struct Database;
//! # #[derive(Debug)]
//! # struct DatabaseError;
//! # impl Database {
//! #     async fn user_of(&self, _: &KeyHash) -> Result<Option<u64>, DatabaseError> { Ok(Some(7)) }
//! # }
//! async fn user_of(
//!     cache: &KeyCache<u64>,
//!     database: &Database,
//!     api_key: &str,
//! ) -> Result<Option<u64>, DatabaseError> {
//!     let hash = KeyHash::of(api_key);
//!     if let Some(user) = cache.lookup(&hash) {
//!         return Ok(Some(user));
//!     }
//!     let lease = cache.lease(&hash); // before the database is read
//!     let Some(user) = database.user_of(&hash).await? else {
//!         return Ok(None); // an unknown key is stored nowhere
//!     };
//!     lease.remember(user); // stores nothing if the key was invalidated meanwhile
//!     Ok(Some(user))
//! }
//!
//! # let cache = KeyCache::new();
//! # let future = std::pin::pin!(user_of(&cache, &Database, "key"));
//! # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! # let std::task::Poll::Ready(found) = std::future::Future::poll(future, &mut context) else {
//! #     panic!("nothing to wait for")
//! # };
//! # assert_eq!(found.unwrap(), Some(7));
//! let hash = KeyHash::of("key");
//! assert_eq!(cache.lookup(&hash), Some(7));
//! cache.invalidate_key(&hash); // after the transaction that revoked the key was committed
//! assert_eq!(cache.lookup(&hash), None);
//! ```
//!
//! [`KeyCache::get_or_try_load_async`] does the same in one call, and
//! [`KeyCache::get_or_try_load`] in blocking code. Callers that miss one key share one load. A call
//! that begins after an invalidation shares no load that began before it.
//!
//! # Setup and revocation
//!
//! One cache serves the process, in an [`Arc`](std::sync::Arc). The `Arc` can be the state of an
//! axum router. The statement that revokes a key returns the key's digest. [`KeyHash`] converts a
//! column of text or of bytes.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use trust_key_cache::{KeyCache, KeyHash};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let users = KeyCache::<u64>::builder().ttl(Duration::from_secs(30)).capacity(10_000).build()?;
//! let users = Arc::new(users);
//! # let [text_key, bytes_key] = ["text", "bytes"].map(KeyHash::of);
//! # let (text, bytes) = (text_key.to_hex(), bytes_key.to_bytes().to_vec());
//! # for hash in [text_key, bytes_key] {
//! #     assert!(users.lease(&hash).remember(7));
//! # }
//!
//! // UPDATE api_keys SET revoked_at = now() WHERE id = $1 RETURNING key_hash
//! users.invalidate_key(&text.parse()?); // 64 hexadecimal digits; after the commit
//! users.invalidate_key(&KeyHash::try_from(bytes.as_slice())?); // 32 bytes
//! # assert!(users.is_empty());
//! # Ok(()) }
//! ```
//!
//! # Trade-offs
//!
//! * A revocation is final in its own process, once [`invalidate`](KeyCache::invalidate) or
//!   [`invalidate_key`](KeyCache::invalidate_key) has returned. Caches of other processes keep the
//!   value until its time-to-live ends. This cache also keeps it if the database was changed
//!   without an invalidation. [`KeyCache::lookup`] documents when a hit may be the answer, and when
//!   the row must be read.
//! * A value is cloned whenever its bucket is copied. Values should be small: ids, or `Arc`s.
//! * Keys are digests, which must be uniform.
//! * The capacity is fixed when the cache is built. A full bucket evicts the value that expires
//!   first, not the value that was used least.
//! * Lookups are wait-free: no lock, no allocation, no retry. In exchange, a `remember` copies a
//!   bucket of up to 16 entries.
//! * Memory is bounded: about 96 bytes for each key at capacity, for a value of 16 bytes.
//!
#![cfg_attr(doc, doc = "[`guarantees`] numbers these promises and proves them.")]
#![cfg_attr(doc, doc = "[`limits`] lists what the promises do not cover.")]
//!
//! # How it works
//!
//! An array of buckets, each an immutable snapshot of up to 16 entries behind one atomic pointer:
//!
//! ```text
//!  KeyCache ── generation, closed_until: AtomicU64
//!           └─ slots: [(pointer, hint); n] ──▶ Bucket (immutable)
//!                                                generation, lease_epoch, closed_until, tags
//!                                                entries, each in a cache line:
//!                                                  digest, expires_at, generation, value
//! ```
//!
//! *Lookup.* The hint has seven bits of each of the bucket's first digests. A reader that finds its
//! key's bits there pins an epoch, and reads the entry at that place: two cache lines, the slot and
//! the entry. A reader that does not find them misses, from the slot alone. A hint that a writer is
//! changing sends the reader to the bucket's own tags.
//!
//! *Remember.* A writer copies a bucket, publishes the copy by compare-exchange, and retires the
//! old bucket. A retired bucket is freed once no reader can hold it ([`reclamation`]).
//!
//! *Invalidate.* A bucket of another generation than the cache's counts as empty. The invalidation
//! of every key is `generation += 1`.
//!
//! *Lease.* A lease records the cache's generation and the bucket's lease epoch. The invalidation
//! of one key increments the lease epoch of its bucket. `remember` refuses a lease whose generation
//! or lease epoch is out of date.
//!
//! *Longer invalidations.* [`invalidate_where`](KeyCache::invalidate_where) increments the lease
//! epoch of every bucket, since a lease in flight may bring a value that the predicate names.
//! [`invalidate_key_for`](KeyCache::invalidate_key_for), called before a change, leaves a time in
//! the bucket. A lease that is taken before that time is refused, even if the caller is dropped and
//! never invalidates again.
//!
//! # The read lease
//!
//! A hit is not the answer if a key that *another* process revokes must be refused at once. Such a
//! service reads the row for each hit. A [`ReadLease`] replaces that read. The process reads what
//! was committed a few times in the lease's length, and invalidates what has changed. Each such
//! renewal moves the lease's deadline. A process that revokes a key waits for the lease's length
//! after its commit. [`lookup_held`](KeyCache::lookup_held) returns a value only before the
//! deadline. So no process grants the key once the revocation has returned.
//!
//! # The constant-time sweep
//!
//! An index on the hash compares digests byte by byte along a path. The duration depends on the
//! length of the matching prefix. A service that must not leak this length compares a presented key
//! with *every* row in constant time: [`sweep`], or [`Sweep`] for many keys in steps.
//!
//! # Examples
//!
//! * [`quickstart`](https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/quickstart.rs):
//!   a value is remembered, and the key is revoked while a request reads it.
//! * [`clocks`](https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/clocks.rs):
//!   how to choose a clock, and what its resolution means.
//! * [`principals`](https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/principals/src/service.rs):
//!   an axum service that caches the user, organization and role of each key. The example deletes
//!   keys while requests read them, in this cache, in moka, and in a map with a mutex. It also
//!   drops the handlers that delete keys.
//! * [`held-principals`](https://github.com/trust-key-cache/trust-key-cache/blob/main/examples/held-principals/src/held.rs):
//!   a service with tables of its own under the read lease, in two processes. One process revokes,
//!   and the other refuses the next request.
//!
//! # Features
//!
//! * `serde`: `Serialize` and `Deserialize` for [`KeyHash`].
//! * `loom`: the map and the reclamation over loom's primitives, for this crate's own models. The
//!   feature changes nothing for other crates.

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// `unsafe` is allowed in two modules: the map and the reclamation.
#![deny(unsafe_code)]
#![cfg_attr(
    feature = "loom",
    allow(clippy::duplicate_mod, reason = "`model` is made of the same files")
)]

mod build_error;
mod builder;
mod cache;
mod clock;
mod key_hash;
mod lease;
mod loads;
#[allow(unsafe_code, reason = "buckets behind atomic pointers")]
mod map;
mod read_lease;
#[allow(unsafe_code, reason = "decides when a bucket may be freed")]
mod reclaim;
mod sweep;
mod sync;

/// The cache over loom's primitives. Not compiled without the feature.
#[cfg(feature = "loom")]
#[doc(hidden)]
#[allow(unsafe_code, reason = "contains the map and the reclamation again")]
#[path = "sync/model.rs"]
pub mod model;

#[cfg(doc)]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}
#[cfg(doc)]
#[doc = include_str!("../docs/limits.md")]
pub mod limits {}
#[cfg(doc)]
#[doc = include_str!("../docs/read-lease.md")]
pub mod read_lease_protocol {}
/// The README's example, as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use build_error::BuildError;
pub use builder::Builder;
pub use cache::{KeyCache, TrustKeyCache};
pub use clock::{BootClock, Clock, CoarseClock, ManualClock};
pub use key_hash::{KeyHash, ParseKeyHashError};
pub use lease::{Lease, OwnedLease};
pub use read_lease::{ReadLease, Renewal};
pub use reclaim::{Reclamation, reclamation};
pub use sweep::{Sweep, sweep};
