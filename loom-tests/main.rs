//! Models of the cache, explored by loom: one file a guarantee, one function a claim.
//!
//! `cargo test --features loom` runs them over the small epoch of `src/sync/model_reclaim.rs`;
//! `cargo loom-epoch` runs them over crossbeam-epoch itself. Each prints how many executions it
//! explored.

#[path = "../tests/counted/mod.rs"]
mod counted;
mod explore;

mod g1_revocation;
mod g2_closed_times;
mod g2_invalidate_where;
mod g2_targeted_revocation;
mod g4_replacement;
mod g5_progress;
mod g6_bounded_memory;
#[cfg(not(crossbeam_loom))]
mod g7_epochs;
mod g7_reclamation;
