//! The cache over `seize`.

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
#[path = "seize.rs"]
mod reclaim;
#[path = "../../../src/sync/mod.rs"]
mod sync;

pub use builder::Builder;
pub use cache::TrustKeyCache;
