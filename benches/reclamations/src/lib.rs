//! Compiles the cache's own sources over another reclamation, so that the benchmarks can compare
//! the epochs that ship with two well-known crates.
//!
//! The cache, its leases and its bucket map are the files in `src/`, included by path. Only the
//! module `reclaim` differs:
//!
//! * [`over_crossbeam`] includes `src/reclaim/crossbeam.rs`. The cache that ships uses the same
//!   file where `membarrier(2)` is missing, behind a branch that this crate does not have.
//! * [`over_seize`] has a `reclaim` of its own over `seize`.

#![allow(clippy::duplicate_mod, reason = "each cache includes the same files")]
#![allow(dead_code, unused_imports, unused_macros, reason = "the benchmarks use a part of them")]
#![allow(unreachable_pub, unexpected_cfgs, reason = "sources of another crate")]

#[path = "../../../src/build_error.rs"]
mod build_error;
#[path = "../../../src/clock.rs"]
mod clock;
#[path = "../../../src/key_hash.rs"]
mod key_hash;

pub mod over_crossbeam;
pub mod over_seize;

pub use build_error::BuildError;
pub use clock::{BootClock, Clock, CoarseClock};
pub use key_hash::KeyHash;

/// Has the path that the comments of the sources link to.
pub use over_crossbeam::Builder;
