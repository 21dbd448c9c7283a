//! A lock-free in-process cache from API-key hash to trust id, in which a revocation is final.
//!
//! A service that stores only the SHA-256 of its API keys, and wants to give nothing away by
//! timing, compares a presented key with *every* row, in constant time ([`sweep`]). A [`KeyCache`]
//! turns that walk into one fetch by primary key and one constant-time compare **against the live
//! row**. It never decides who gets in: a stale entry costs a round trip, never access.
//!
//! ```
//! use trust_key_cache::{KeyHash, TrustKeyCache};
//! use uuid::Uuid;
//!
//! let cache = TrustKeyCache::new();
//! let hash = KeyHash::of("the key that a request carried");
//!
//! let id = cache.lookup(&hash).unwrap_or_else(|| {
//!     let lease = cache.lease(&hash); // before the database is read
//!     let id = Uuid::from_u128(7); // the database's answer
//!     lease.remember(id); // refused if a revocation came in between
//!     id
//! });
//! assert_eq!(cache.lookup(&hash), Some(id));
//!
//! cache.invalidate_key(&hash); // after a change of this trust was committed
//! assert_eq!(cache.lookup(&hash), None);
//! ```
//!
//! # What is promised
//!
//! * A lookup waits for nobody: no lock, no allocation, no retry. Writers are lock-free, and
//!   [`KeyCache::invalidate`] is one atomic add.
//! * After an invalidation, nothing that was read from the source of truth before it is ever
//!   returned, however late it is remembered. That is what a [`Lease`] is for, and why nothing can
//!   be remembered without one.
//! * No value outlives its time-to-live, which runs from the lease. A coarse clock's lag counts
//!   against the value.
//! * Memory is bounded, and small: about 70 bytes a key at capacity.
#![cfg_attr(
    doc,
    doc = "[`guarantees`] numbers these promises and argues them, memory ordering by memory ordering."
)]
#![cfg_attr(doc, doc = "[`limits`] says what is not covered.")]
//!
//! # Trade-offs
//!
//! Values are cloned whenever their bucket is copied, so they should be small: ids, or `Arc`s. Keys
//! are digests: placement relies on their being uniform. The capacity is fixed when the cache is
//! built, and what expires first makes room, not what was used least. An invalidation reaches the
//! caches of its own process.
//!
//! # How it works
//!
//! An array of buckets, each an immutable snapshot of up to 16 entries behind one atomic pointer:
//!
//! ```text
//!  KeyCache ── generation: AtomicU64
//!           └─ slots: [AtomicPtr; n] ──▶ Bucket (immutable) { generation, lease_epoch, tags: one byte an entry, entries }
//!                                          Entry { digest: [u64; 4], expires_at, value }
//! ```
//!
//! A reader pins an epoch, loads the pointer and reads plain memory: tags first, all at once, then
//! the one entry whose tag matches. A writer copies a bucket, publishes the copy by
//! compare-exchange, and retires the old one until no reader can hold it. Readers tell by two plain
//! stores that they read, and once an epoch that they have come by; the barrier that it takes where
//! some rest is the writers' to make (`membarrier(2)`; [`reclamation`] tells where
//! `crossbeam-epoch` stands in). A bucket of another generation than the cache's is empty, whatever
//! it holds, so invalidating everything is `generation += 1`. A lease captures the generation, and
//! the bucket's lease epoch, which invalidating one key raises.
//!
//! # Features
//!
//! * `loom` adds this crate's own models' counterpart of the cache. It is of no use to others, and
//!   changes nothing for them.

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
#[allow(unsafe_code, reason = "buckets behind atomic pointers")]
mod map;
#[allow(unsafe_code, reason = "decides when a bucket may be freed")]
mod reclaim;
mod sweep;
mod sync;

/// The same two modules once more, over loom's primitives. Not compiled without the feature.
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
/// The README's example, as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use build_error::BuildError;
pub use builder::Builder;
pub use cache::{KeyCache, TrustKeyCache};
pub use clock::{Clock, CoarseClock, ManualClock};
pub use key_hash::{KeyHash, ParseKeyHashError};
pub use lease::Lease;
pub use reclaim::{Reclamation, reclamation};
pub use sweep::{Sweep, sweep};
