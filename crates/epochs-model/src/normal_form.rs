//! The normal form of a state: epochs and marks that no comparison can tell apart are made equal.
//!
//! Call a grace period *live* while its batch waits or is in a writer's hand. Live grace periods,
//! and those that have yet to start, are all that `pinned` and `seen` are compared with, apart from
//! two comparisons for equality: a reader compares `seen` with the epoch that it has loaded, and a
//! writer compares it with the mark that it has put.
//!
//! * *`pinned`.* If no live grace period is below an epoch, no later one will be, since grace
//!   periods start with the current epoch. So a horizon with that epoch ends nothing, and neither
//!   does one with [`FIRST`] in its place. The same holds for an epoch on its way to `pinned`.
//! * *`seen`, an epoch.* The same holds, if the epoch is not the current one and its reader has not
//!   loaded it: then the reader finds a different one in any case, and swaps it.
//! * *`seen`, a mark.* Once the fence is over for which it was put, no writer looks for it.

use crate::state::{FIRST, State, UNPINNED, store};
use crate::{Bug, Protocol};

/// A mark that no writer looks for.
const OLD_MARK: u8 = FIRST - 1;

impl Protocol {
    /// Brings a state to its normal form, unless the planted bug makes other comparisons.
    pub(crate) fn normalize(&self, state: &mut State) {
        if !self.config.reduce || self.compares_otherwise() {
            return;
        }
        let hands = state.writers.iter().fold(0, |hands, writer| hands | writer.hand);
        let live = state.waiting | hands;
        let graces = state.grace.iter().enumerate();
        let graces = graces.filter(|(batch, _)| live & 1 << batch != 0).map(|(_, &grace)| grace);
        let oldest = graces.min().unwrap_or(state.epoch);
        let forget = |pinned: &mut u8| {
            if *pinned != UNPINNED && *pinned <= oldest {
                *pinned = FIRST;
            }
        };
        state.pinned.iter_mut().for_each(forget);
        for reader in &mut state.readers[..self.config.readers] {
            let buffered = reader.buffer.iter_mut();
            buffered
                .filter(|store| (FIRST..FIRST + store::ATTACH).contains(*store))
                .for_each(forget);
        }
        for record in 0..state.listed as usize {
            let seen = state.seen[record];
            let loaded = |epoch| {
                let mut readers = state.readers.iter();
                readers.any(|reader| reader.record as usize == record && reader.epoch == epoch)
            };
            let looked_for = |mark| {
                let mut writers = state.writers.iter();
                writers.any(|writer| writer.fence != 0 && writer.fence - FIRST == mark)
            };
            let old = if seen < FIRST {
                !looked_for(seen)
            } else {
                seen <= oldest && seen < state.epoch && !loaded(seen)
            };
            if old {
                state.seen[record] = OLD_MARK;
            }
        }
    }

    fn compares_otherwise(&self) -> bool {
        matches!(
            self.config.bug,
            Some(
                Bug::IgnoresMarks
                    | Bug::LooksForMarksTooEarly
                    | Bug::NoLightBarrier
                    | Bug::SharesMarks
                    | Bug::OverAtOnce
                    | Bug::OverInItsOwnEpoch
                    | Bug::OverInItsOwnEpochAfterFence
                    | Bug::HorizonOfNewestReader
                    | Bug::HorizonOfNewestSeen
                    | Bug::EpochStandsStill
                    | Bug::EpochByStore
                    | Bug::NewestByEarlierHorizon
                    | Bug::WaitingByEarlierHorizon
                    | Bug::TakesWaitingByLoad
                    | Bug::SharesRecords
            )
        )
    }
}
