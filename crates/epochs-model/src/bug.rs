//! Planted bugs: the protocol with one step omitted, moved, or weakened.

use clap::ValueEnum;

/// A planted bug. The documentation of each variant describes the bug in the terms of
/// `src/reclaim/asymmetric.rs` and `src/map/limbo.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// `pin` has no light barrier: the compiler moves both loads above the store of the epoch.
    NoLightBarrier,
    /// `Fence::make` has no heavy barrier, or takes a refused barrier for a success.
    NoHeavyBarrier,
    /// The heavy barrier reaches only the first thread.
    BarrierReachesOneThread,
    /// A reader ignores marks and `DETACHED` in `seen`.
    IgnoresMarks,
    /// A reader loads `seen` before its store of the epoch.
    LooksForMarksTooEarly,
    /// A reader attaches by a store rather than by a swap.
    AttachesByStore,
    /// A writer writes `DETACHED` instead of its mark, before the barrier.
    DetachesBeforeBarrier,
    /// All writers use the same mark.
    SharesMarks,
    /// A writer detaches by a load and a store rather than by an exchange.
    DetachesByStore,
    /// A writer detaches every thread that is not pinned, marked or not.
    DetachesUnmarked,
    /// A writer detaches threads that are pinned, and keeps them in the horizon.
    DetachesPinned,
    /// A writer does not load `pinned` after the barrier.
    IgnoresPinned,
    /// Every grace period is over at once.
    OverAtOnce,
    /// `is_over` at the horizon of `seen` also accepts its own epoch.
    OverInItsOwnEpoch,
    /// `is_over` at the horizon after a fence also accepts its own epoch.
    OverInItsOwnEpochAfterFence,
    /// The horizon after a fence is that of the newest reader.
    HorizonOfNewestReader,
    /// The horizon of `seen` is a maximum.
    HorizonOfNewestSeen,
    /// The epoch is advanced by adding zero.
    EpochStandsStill,
    /// The epoch is advanced by a load and a store.
    EpochByStore,
    /// The grace period starts before the batch is taken, so the object may be unlinked after the
    /// start.
    StartsBeforeUnlinking,
    /// The newest batch is compared with a horizon that was read before its start.
    NewestByEarlierHorizon,
    /// The waiting batches are compared with a horizon that was read before they were taken.
    WaitingByEarlierHorizon,
    /// The waiting list is taken by a load and a store.
    TakesWaitingByLoad,
    /// The end of an inner guard unpins.
    UnpinsInsideSection,
    /// A thread that ends under a guard gives its record back at once.
    GivesBackUnderGuard,
    /// A borrowed record is given back before it is unpinned.
    UnpinsAfterGivingBack,
    /// `give_back` clears `taken` before it sets `seen`.
    ClearsTakenFirst,
    /// A thread takes a record that another thread has.
    SharesRecords,
}

impl Bug {
    /// Returns all planted bugs.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Returns the name of the bug on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_name().to_owned()
    }
}
