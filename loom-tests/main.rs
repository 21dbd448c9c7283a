//! Models of the cache, which loom explores: one file for each guarantee, one function for each
//! claim. Each function cites the lemmas that it checks, of `docs/guarantees.md` (F, G, H, S) and
//! of `src/reclaim/asymmetric.rs` (A and L).
//!
//! `cargo test --features loom` runs the models over the small epoch of
//! `src/sync/model_reclaim.rs`. `cargo loom-epoch` runs them over crossbeam-epoch itself. Each
//! model prints how many executions it explored.

#[path = "../tests/counted/mod.rs"]
mod counted;
mod explore;

mod g11_read_lease;
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
mod hints;
mod shared_loads;
