//! Epoch reclamation: decides when a replaced snapshot may be freed.
//!
//! # Contract
//!
//! The map relies on these rules, and each of the two implementations keeps them:
//!
//! * **Grace.** When [`Grace::is_over`] returns `true`, each guard is of one of two kinds. Either
//!   the guard was dropped, and every operation under the guard happens-before the return. Or the
//!   guard cannot reach an object that was unlinked before the start. A guard that was made before
//!   the start, by happens-before, is of the first kind.
//! * **No other order.** Pinning and unpinning order nothing else between threads. The map has its
//!   own Acquire and Release operations.
//! * **Nesting.** A thread may pin while it is pinned. Its guards may end in any order: a coroutine
//!   with its own stack can suspend in the closure of a reader.
//!
//! The first rule holds only if the map keeps the contracts of [`Grace::start`] and
//! [`Grace::is_over`], which are `unsafe` for this reason.
//!
//! The reclamation returns whether a grace period is over. The map keeps its retired buckets, and
//! frees them ([`Limbo`](super::map)).
//!
//! # Two implementations
//!
//! [`asymmetric`] is the fast implementation. It needs `membarrier(2)`, and so Linux. [`crossbeam`]
//! replaces it where the system call is missing or refused. The first pin of the process makes the
//! choice: see [`Reclamation`].

// Only for 64 bits: on 32 bits, a plain store of an epoch would take two instructions.
#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod asymmetric;
#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
#[path = "unavailable.rs"]
mod asymmetric;
mod barrier;
mod crossbeam;

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use super::sync;

/// Names the reclamation of this process, which decides when a replaced snapshot may be freed. See
/// [`reclamation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reclamation {
    /// Epochs with an asymmetric barrier. A lookup pays two plain stores. Where a thread that has
    /// read is idle, a writer pays one `membarrier(2)` for each two batches of snapshots that it
    /// frees.
    Membarrier,
    /// `crossbeam-epoch`. A lookup pays a memory fence, and each 128th lookup of a thread helps
    /// with collecting.
    CrossbeamEpoch,
}

/// Returns the reclamation that the caches of this process use, for a line in a service's log.
///
/// Returns [`Reclamation::Membarrier`] where the kernel has `MEMBARRIER_CMD_PRIVATE_EXPEDITED`
/// (Linux 4.14) and no seccomp filter refuses it, and [`Reclamation::CrossbeamEpoch`] elsewhere.
/// The first call of this function or of any cache operation decides, and the answer stays the
/// same. Wait-free, except that the first call makes three system calls.
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

/// Prevents the freeing of every bucket that is reachable when the guard is made. Not `Send`: a
/// guard belongs to the thread that pinned.
///
/// One word, which a lookup keeps in a register: a guard of the first implementation, or `None`
/// for a share of the thread's guard of crossbeam-epoch ([`SHARED`]). The guard inside has no
/// destructor here, because the compiler would not inline the destructor of the `Option`.
pub(super) struct Guard(Option<ManuallyDrop<asymmetric::Guard>>, NotSend);

/// Where membarrier's epochs are unavailable, no field of [`Guard`] is `!Send` by itself.
type NotSend = PhantomData<*const ()>;

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        match &mut self.0 {
            // SAFETY: the guard is dropped here, once, and not used afterwards.
            Some(guard) => unsafe { ManuallyDrop::drop(guard) },
            None => unpin_crossbeam(),
        }
    }
}

/// Pins the thread. Wait-free, except that the first pin of a thread registers the thread.
#[inline]
pub(super) fn pin() -> Guard {
    // Only a thread that has pinned before is registered, so the choice is already made.
    match asymmetric::pin_registered() {
        Some(guard) => Guard(Some(ManuallyDrop::new(guard)), PhantomData),
        None => pin_unregistered(),
    }
}

#[cold]
#[inline(never)]
fn pin_unregistered() -> Guard {
    match reclamation() {
        Reclamation::Membarrier => Guard(Some(ManuallyDrop::new(asymmetric::pin())), PhantomData),
        Reclamation::CrossbeamEpoch => pin_crossbeam(),
    }
}

sync::thread_cell! {
    /// The thread's guard of crossbeam-epoch, and the number of [`Guard`]s that share it.
    static SHARED: Cell<Option<(usize, ManuallyDrop<crossbeam::Guard>)>> = Cell::new(None);
}

fn pin_crossbeam() -> Guard {
    SHARED.with(|shared| {
        let (guards, guard) =
            shared.take().unwrap_or_else(|| (0, ManuallyDrop::new(crossbeam::pin())));
        shared.set(Some((guards + 1, guard)));
    });
    Guard(None, PhantomData)
}

/// Ends one share. Out of line, so that a lookup that pins by membarrier's epochs does not contain
/// the code.
#[cold]
#[inline(never)]
fn unpin_crossbeam() {
    SHARED.with(|shared| match shared.take() {
        Some((1, guard)) => drop(ManuallyDrop::into_inner(guard)),
        Some((guards, guard)) => shared.set(Some((guards - 1, guard))),
        None => unreachable!("a share is counted until it ends"),
    });
}

/// A grace period: the time until all guards that existed at its start have ended.
pub(super) enum Grace {
    Asymmetric(asymmetric::Grace),
    Crossbeam(crossbeam::Grace),
}

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// Take each object that is freed because this grace period is over. The unlinking of the
    /// object must happen-before this call, and the object must not be linked again.
    pub(super) unsafe fn start() -> Self {
        match reclamation() {
            Reclamation::Membarrier => {
                // SAFETY: the caller keeps the same contract.
                Self::Asymmetric(unsafe { asymmetric::Grace::start() })
            }
            Reclamation::CrossbeamEpoch => {
                // SAFETY: the caller keeps the same contract.
                Self::Crossbeam(unsafe { crossbeam::Grace::start() })
            }
        }
    }

    /// Returns whether the grace period is over at `horizon`. If it is over, the objects that it
    /// protected may be freed.
    ///
    /// # Safety
    ///
    /// The start of this grace period must happen-before the reading of `horizon`.
    pub(super) unsafe fn is_over(&self, horizon: &Horizon) -> bool {
        match (self, horizon) {
            (Self::Asymmetric(grace), Horizon::Asymmetric(horizon)) => {
                // SAFETY: the caller keeps the same contract.
                unsafe { grace.is_over(*horizon) }
            }
            (Self::Crossbeam(grace), Horizon::Crossbeam(horizon)) => {
                // SAFETY: the caller keeps the same contract.
                unsafe { grace.is_over(horizon) }
            }
            _ => unreachable!("a process has one reclamation"),
        }
    }

    /// Returns the fence that would end this grace period, if only idle threads hold it back.
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

/// A barrier that a writer makes on behalf of idle threads, so that grace periods need not wait for
/// these threads. The later of two fences is enough for both.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {
    Asymmetric(asymmetric::Fence),
    Crossbeam(crossbeam::Fence),
}

impl Fence {
    /// Makes the fence, and returns the horizon after it. Returns `None` if the kernel refused the
    /// barrier.
    pub(super) fn make(self) -> Option<Horizon> {
        match self {
            Self::Asymmetric(fence) => fence.make().map(Horizon::Asymmetric),
            Self::Crossbeam(fence) => fence.make().map(Horizon::Crossbeam),
        }
    }
}

/// A point in time, for comparison with grace periods.
pub(super) enum Horizon {
    Asymmetric(asymmetric::Horizon),
    Crossbeam(crossbeam::Horizon),
}

impl Horizon {
    /// Returns a number that changes when another grace period may be over. With `fence`, returns a
    /// number that changes when a fence may end another grace period. Returns [`u64::MAX`] if there
    /// is no such number.
    pub(super) fn furthest(&self, fence: bool) -> u64 {
        match self {
            Self::Asymmetric(horizon) => horizon.furthest(fence),
            Self::Crossbeam(horizon) => horizon.furthest(fence),
        }
    }
}

/// Returns the horizon for the grace periods whose starts happen-before this call.
pub(super) fn horizon() -> Horizon {
    match reclamation() {
        Reclamation::Membarrier => Horizon::Asymmetric(asymmetric::horizon()),
        Reclamation::CrossbeamEpoch => Horizon::Crossbeam(crossbeam::horizon()),
    }
}
