//! The read lease: grants without a read, and a revocation that is final everywhere when it
//! returns. `docs/read-lease.md` has the rules (R1 to R16) and their proof (RL1 to RL31).

mod bounds;
mod cache_lease;
mod feed;
mod held_table;
mod held_trusts;
mod holder;
mod registration;
#[cfg(test)]
mod script;

pub use self::cache_lease::{CacheLease, CacheLeaseBuilder};
pub use self::feed::{
    Answer, ChangeFeed, Difference, Ended, FeedSession, Reload, Settled, Waiting,
};
pub(crate) use self::held_trusts::NoLook;
pub use self::held_trusts::{HeldTrusts, HolderStatus};
