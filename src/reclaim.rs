//! Epoch reclamation: when a replaced snapshot may be freed. The only module that names `crossbeam-epoch`.
//!
//! # Contract
//!
//! What the rest of the crate relies on, and `model/reclaim.rs` must keep as well:
//!
//! * **Grace.** What was handed to [`Guard::defer`] under one guard runs only after every guard that existed
//!   at that moment was dropped, and everything done under those guards happens-before it.
//! * **Visibility.** A guard made later than that, in the order of the `SeqCst` fences in [`pin`] and
//!   `defer`, sees the store that unlinked the object, if that store came before `defer`. So it cannot reach
//!   the object.
//! * **No order beyond that.** Pinning and unpinning order nothing else between threads. The map brings its
//!   own Acquire and Release.
//! * **Nesting.** A thread may pin while it is pinned.
//!
//! What may be held back: up to 64 retired objects in each thread that retired them, until it retires more,
//! calls [`flush`] or exits; and all that is retired after a guard was made, for as long as it lives.

use crossbeam_epoch as epoch;

/// Keeps everything that is reachable now from being freed. Not `Send`: it belongs to the thread that pinned.
#[derive(Debug)]
pub(super) struct Guard(epoch::Guard);

/// Pins the thread to the current epoch.
///
/// Wait-free but for two things: the first pin of a thread registers it, and each 128th pin helps with
/// collecting.
#[inline]
pub(super) fn pin() -> Guard {
    Guard(epoch::pin())
}

impl Guard {
    /// Runs `free` once no guard that exists now is left.
    ///
    /// # Safety
    ///
    /// `free` must be safe to run on any thread, at any later time, and what it frees must already be out of
    /// the reach of guards that are made from now on.
    pub(super) unsafe fn defer(&self, free: impl FnOnce()) {
        // SAFETY: the caller keeps `defer_unchecked`'s contract, which is this method's own.
        unsafe { self.0.defer_unchecked(free) }
    }
}

/// Hands what this thread has retired to all threads, and frees what no guard holds back.
pub(super) fn flush() {
    // What was retired in an epoch may go two epochs later, and each round advances by one, unless somebody
    // is pinned in an older.
    for _ in 0..3 {
        epoch::pin().flush();
    }
}
