//! The normal form of a state: makes states equal if no later step distinguishes them.
//!
//! * *Ids.* A snapshot is asked two things: whether it has a changer's barrier as seen, while the
//!   changer may wait for it; and whether it has a revocation of the key as seen. The second answer
//!   can only take the key from a holder that holds it. So the other ids of a snapshot are cleared.
//!   Ids that may be given out (again) are kept.
//! * *Finished transactions.* One without a change of the key only uses its id up.
//! * *Counts.* Only the count of the watched registration is compared.
//! * *After the return* of a revocation, no acknowledgement is read, and no wait matters: the end
//!   of a wait would only end leases.

use crate::Protocol;
use crate::clock::{OF_OPERATOR, OF_SETTLER, OF_STRIKER};
use crate::config::Failure;
use crate::database::{Database, Ids, Kind, Outcome, Transaction};
use crate::mutant::Mutant;
use crate::state::State;

impl Protocol {
    /// Brings a state to its normal form.
    pub(crate) fn normalize(&self, state: &mut State) {
        for changer in &mut state.changers {
            changer.normalize();
        }
        let watched = state.striker;
        let unwatched = |holder: usize| watched != Some(holder as u8);
        let databases = [Some(&mut state.database), state.standby.as_mut()];
        for database in databases.into_iter().flatten() {
            for (holder, registration) in database.registrations.iter_mut().enumerate() {
                registration.counted &= !unwatched(holder);
                registration.behind &= self.has(Failure::StrikeOffs);
            }
        }
        if !self.config.reduce {
            return;
        }
        if state.returned {
            self.forget_changers(state);
        }
        let compared_otherwise =
            self.omits(Mutant::GreaterThanLast) || self.has(Failure::Pruning) || self.config.polls;
        if !compared_otherwise {
            self.forget_ids(state);
        }
    }

    fn forget_changers(&self, state: &mut State) {
        for number in 0..state.changers.len() {
            state.changers[number].forget();
            state.time.end_wait_early(number);
        }
        state.time.end_wait_early(OF_SETTLER);
        state.time.end_wait_early(OF_STRIKER);
        state.time.end_wait_early(OF_OPERATOR);
        state.settler = false;
        state.striker = None;
    }

    fn forget_ids(&self, state: &mut State) {
        let awaited =
            state.changers.iter().filter_map(|changer| changer.reads_acknowledgements_of());
        let awaited = awaited.fold(0, |ids: Ids, id| ids | 1 << id);
        let first_next = state
            .standby
            .map_or(state.database.next_id, |standby| standby.next_id.min(state.database.next_id));
        let acknowledged = awaited | u8::MAX.checked_shl(first_next.into()).unwrap_or(0);
        let databases = [Some(&mut state.database), state.standby.as_mut()];
        for database in databases.into_iter().flatten() {
            for registration in &mut database.registrations {
                registration.applied &= acknowledged;
            }
            forget_finished(database, acknowledged);
        }
        let revocations =
            state.database.revocations() | state.standby.map_or(0, |standby| standby.revocations());
        let compared = acknowledged | revocations;
        for holder in &mut state.holders {
            holder.forget_ids(acknowledged, compared);
        }
    }
}

/// Makes finished transactions equal that have not changed the key.
fn forget_finished(database: &mut Database, acknowledged: Ids) {
    for (id, transaction) in database.transactions.iter_mut().enumerate() {
        let finished = matches!(transaction.outcome, Outcome::Committed | Outcome::RolledBack);
        let revoked = transaction.kind == Kind::Revoke && transaction.outcome == Outcome::Committed;
        if finished && !revoked && acknowledged & 1 << id == 0 {
            *transaction = Transaction { kind: Kind::Other, outcome: Outcome::RolledBack };
        }
    }
}
