//! The cache over loom's primitives, only for the models in `loom-tests/`.
//!
//! The module compiles the sources that ship. Only `sync/mod.rs` and `reclaim/` have twins here, so
//! that loom explores the code that runs. The feature `loom` changes nothing outside this module,
//! so the feature breaks no other user of the crate. The types of this module work inside
//! `loom::model` only.

#[path = "../builder.rs"]
mod builder;
#[path = "../cache.rs"]
mod cache;
#[path = "../lease.rs"]
mod lease;
#[path = "../loads/mod.rs"]
mod loads;
#[path = "../map/mod.rs"]
mod map;
#[path = "../read_lease.rs"]
mod read_lease;
#[cfg_attr(
    crossbeam_loom,
    allow(dead_code, unused_imports, reason = "crossbeam-epoch has its own primitives")
)]
#[path = "loom.rs"]
mod sync;

#[cfg(not(crossbeam_loom))]
#[path = "model_reclaim.rs"]
mod reclaim;
/// With `--cfg crossbeam_loom`, one of the two implementations that ship.
#[cfg(crossbeam_loom)]
#[path = "../reclaim/crossbeam.rs"]
mod reclaim;

#[cfg(not(crossbeam_loom))]
#[path = "model_epochs.rs"]
pub mod epochs;

pub use builder::Builder;
pub use cache::{KeyCache, TrustKeyCache};
pub use lease::{Lease, OwnedLease};
pub use read_lease::{ReadLease, Renewal};
#[cfg(not(crossbeam_loom))]
pub use reclaim::leave_out_fences;
pub use sync::{retire_in_batches_of, steps, times_blocked};
