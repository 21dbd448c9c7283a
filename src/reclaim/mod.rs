//! Epoch reclamation: when a replaced snapshot may be freed.
//!
//! # Contract
//!
//! What the rest of the crate relies on, and what each of the two implementations keeps:
//!
//! * **Grace.** A [`Grace`] is over only once every guard that existed at its start was dropped,
//!   and everything done under those guards happens-before the reading of the [`Horizon`] at which
//!   [`Grace::is_over`] says so.
//! * **Visibility.** A guard made after the start of a grace period, as the barriers order the two,
//!   sees every store that happens-before that start. So it cannot reach what was unlinked before.
//! * **No order beyond that.** Pinning and unpinning order nothing else between threads. The map
//!   brings its own Acquire and Release.
//! * **Nesting.** A thread may pin while it is pinned. Its guards may end in any order: coroutines
//!   that have stacks of their own can suspend in a reader's closure.
//!
//! Nothing is handed to the reclamation but the question whether a grace period is over. The map
//! keeps what it has retired, and frees it ([`Limbo`](super::map)).
//!
//! # Two implementations
//!
//! [`asymmetric`] is the fast one. It needs `membarrier(2)`, and so Linux. [`crossbeam`] takes over
//! where that is missing or refused. The choice is made once, by the process's first pin: see
//! [`Reclamation`].

// Those of Linux and of others that are as wide: elsewhere a plain store of an epoch would take two
// instructions.
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod asymmetric;
#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
#[path = "unavailable.rs"]
mod asymmetric;
mod barrier;
mod crossbeam;

use std::mem::ManuallyDrop;

use super::sync;

/// How this process finds out when a replaced snapshot may be freed; see [`reclamation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reclamation {
    /// Epochs with an asymmetric barrier: a lookup pays two plain stores, and a writer, where a
    /// thread that has read rests, one `membarrier(2)` for each two batches of snapshots that
    /// it frees.
    Membarrier,
    /// `crossbeam-epoch`: a lookup pays a memory fence, and each 128th of a thread helps with
    /// collecting.
    CrossbeamEpoch,
}

/// Which reclamation the caches of this process use, for a line in a service's log.
///
/// [`Reclamation::Membarrier`] where the kernel has `MEMBARRIER_CMD_PRIVATE_EXPEDITED` (Linux 4.14)
/// and nothing, such as a seccomp filter, refuses it; [`Reclamation::CrossbeamEpoch`] elsewhere.
/// Decided by the first call of this or of any operation of a cache, and the same from then on.
/// Wait-free but for that first call, which makes three system calls.
///
/// ```
/// use trust_key_cache::{Reclamation, reclamation};
///
/// match reclamation() {
///     Reclamation::Membarrier => println!("lookups do not fence"),
///     other => println!("lookups fence: {other:?}"),
/// }
/// ```
#[must_use]
pub fn reclamation() -> Reclamation {
    if barrier::available() { Reclamation::Membarrier } else { Reclamation::CrossbeamEpoch }
}

/// Keeps everything that is reachable now from being freed. Not `Send`: it belongs to the thread
/// that pinned.
pub(super) struct Guard(Kind);

/// Two words, which a lookup keeps in registers, and no destructor of its own, since the one that
/// the compiler makes of two others is called rather than inlined.
enum Kind {
    Asymmetric(ManuallyDrop<asymmetric::Guard>),
    Crossbeam(ManuallyDrop<crossbeam::Guard>),
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        match &mut self.0 {
            // SAFETY: dropped here, once, and not used after.
            Kind::Asymmetric(guard) => unsafe { ManuallyDrop::drop(guard) },
            Kind::Crossbeam(guard) => drop_crossbeam(guard),
        }
    }
}

/// Out of line, so that a lookup that pins by other means does not carry it along. For
/// [`Guard::drop`].
#[cold]
fn drop_crossbeam(guard: &mut ManuallyDrop<crossbeam::Guard>) {
    // SAFETY: called by `Guard::drop` alone, which drops it once and does not use it after.
    unsafe { ManuallyDrop::drop(guard) };
}

/// Pins the thread. Wait-free; the first pin of a thread registers it.
#[inline]
pub(super) fn pin() -> Guard {
    // Only a thread that has pinned before is registered, so the choice has been made.
    match asymmetric::pin_registered() {
        Some(guard) => Guard(Kind::Asymmetric(ManuallyDrop::new(guard))),
        None => pin_unregistered(),
    }
}

#[cold]
fn pin_unregistered() -> Guard {
    match reclamation() {
        Reclamation::Membarrier => Guard(Kind::Asymmetric(ManuallyDrop::new(asymmetric::pin()))),
        Reclamation::CrossbeamEpoch => Guard(Kind::Crossbeam(ManuallyDrop::new(crossbeam::pin()))),
    }
}

/// A grace period: the time until all guards that existed at its start are gone.
pub(super) enum Grace {
    Asymmetric(asymmetric::Grace),
    Crossbeam(crossbeam::Grace),
}

impl Grace {
    /// Starts a grace period. What is to be freed after it must be out of the reach of new guards
    /// by now.
    pub(super) fn start() -> Self {
        match reclamation() {
            Reclamation::Membarrier => Self::Asymmetric(asymmetric::Grace::start()),
            Reclamation::CrossbeamEpoch => Self::Crossbeam(crossbeam::Grace::start()),
        }
    }

    /// Whether it is over at `horizon`, which must have been read after the start.
    pub(super) fn is_over(&self, horizon: &Horizon) -> bool {
        match (self, horizon) {
            (Self::Asymmetric(grace), Horizon::Asymmetric(horizon)) => grace.is_over(*horizon),
            (Self::Crossbeam(grace), Horizon::Crossbeam(horizon)) => grace.is_over(horizon),
            _ => unreachable!("a process has one reclamation"),
        }
    }

    /// The fence that would end it, if it waits for nothing else.
    pub(super) fn wants_fence(&self, horizon: &Horizon) -> Option<Fence> {
        match (self, horizon) {
            (Self::Asymmetric(grace), Horizon::Asymmetric(horizon)) => {
                grace.wants_fence(*horizon).map(Fence::Asymmetric)
            }
            (Self::Crossbeam(grace), Horizon::Crossbeam(horizon)) => {
                grace.wants_fence(horizon).map(Fence::Crossbeam)
            }
            _ => unreachable!("a process has one reclamation"),
        }
    }
}

/// What threads that rest do not do, so that grace periods need not wait for them. Of two, the
/// later is enough for both.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {
    Asymmetric(asymmetric::Fence),
    Crossbeam(crossbeam::Fence),
}

impl Fence {
    /// The horizon after it, for grace periods that had started before. `None` if the kernel has
    /// refused it.
    ///
    /// Must not be made for the same grace period by two threads at a time.
    pub(super) fn make(self) -> Option<Horizon> {
        match self {
            Self::Asymmetric(fence) => fence.make().map(Horizon::Asymmetric),
            Self::Crossbeam(fence) => fence.make().map(Horizon::Crossbeam),
        }
    }
}

/// How far grace periods have come.
pub(super) enum Horizon {
    Asymmetric(asymmetric::Horizon),
    Crossbeam(crossbeam::Horizon),
}

impl Horizon {
    /// As long as this stays the same, no grace period is over that was not over before, nor, with
    /// `fence`, would be after a fence. [`u64::MAX`] if there is no such number.
    pub(super) fn furthest(&self, fence: bool) -> u64 {
        match self {
            Self::Asymmetric(horizon) if fence => horizon.pinned,
            Self::Asymmetric(horizon) => horizon.seen,
            Self::Crossbeam(horizon) => horizon.furthest(fence),
        }
    }
}

/// How far grace periods have come by now.
pub(super) fn horizon() -> Horizon {
    match reclamation() {
        Reclamation::Membarrier => Horizon::Asymmetric(asymmetric::horizon()),
        Reclamation::CrossbeamEpoch => Horizon::Crossbeam(crossbeam::horizon()),
    }
}
