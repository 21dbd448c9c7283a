//! The cache over `crossbeam-epoch`.

#[path = "../../../src/builder.rs"]
mod builder;
#[path = "../../../src/cache.rs"]
mod cache;
#[path = "../../../src/lease.rs"]
mod lease;
#[path = "../../../src/loads/mod.rs"]
mod loads;
#[path = "../../../src/map/mod.rs"]
mod map;
#[path = "../../../src/read_lease.rs"]
mod read_lease;
#[path = "../../../src/reclaim/crossbeam.rs"]
mod reclaim;
#[path = "../../../src/sync/mod.rs"]
mod sync;

pub use builder::Builder;
pub use cache::TrustKeyCache;
