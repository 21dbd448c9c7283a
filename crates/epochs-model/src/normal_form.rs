//! The normal form of a state: makes epochs and marks equal if no comparison distinguishes them.
//!
//! Call a grace period *live* while its batch waits or is in a writer's hand. `pinned` and `seen`
//! are compared with live grace periods, and with those that have yet to start. Two comparisons are
//! for equality: a reader compares `seen` with its loaded epoch, and a writer compares `seen` with
//! its own mark. There are no other comparisons.
//!
//! * *`pinned`.* Let no live grace period be below an epoch. Then no later grace period is, because
//!   grace periods start with the current epoch. So a horizon with that epoch ends no grace period,
//!   and neither does a horizon with [`FIRST`] in its place. The same holds for an epoch in a store
//!   to `pinned`.
//! * *`seen`, an epoch.* The same holds, if the epoch is not the current one and its reader has not
//!   loaded it. Then the reader finds another epoch in any case, and swaps its own epoch in.
//! * *`seen`, a mark.* Once the mark's fence is over, no writer compares `seen` with the mark.

use crate::state::{FIRST, State, UNPINNED, store};
use crate::{Bug, Protocol};

/// A mark that no writer compares with.
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
