//! A lock-free in-process cache from API-key hash to trust id, in which a revocation is final.

#![cfg_attr(feature = "loom", allow(clippy::duplicate_mod, reason = "`model` is made of the same files"))]

mod build_error;
mod builder;
mod cache;
mod clock;
pub mod global;
mod key_hash;
mod lease;
mod reclaim;
mod snapshot_map;
mod sweep;
mod sync;

#[cfg(feature = "loom")]
#[doc(hidden)]
pub mod model;

pub use build_error::BuildError;
pub use builder::Builder;
pub use cache::{KeyCache, TrustKeyCache};
pub use clock::{Clock, CoarseClock, ManualClock};
pub use key_hash::{KeyHash, ParseKeyHashError};
pub use lease::Lease;
pub use sweep::sweep;
