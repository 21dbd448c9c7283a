//! The processes that watch: one strikes holders off, another one settles a run of the server. And
//! the operator who lowers T.
//!
//! Any process may do either. The model has one striker and one settler at a time. A violation
//! concerns one holder, and a strike-off affects one holder. The striker never stops watching,
//! except to watch again: a watch changes nothing for other processes.

use crate::Protocol;
use crate::clock::{OF_OPERATOR, OF_SETTLER, OF_STRIKER};
use crate::config::Failure;
use crate::database::Registration;
use crate::mutant::Mutant;
use crate::state::{State, event};

/// The steps of the watching processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatcherStep {
    /// The striker reads the count of this holder's registration, and begins to wait T.
    Watch(u8),
    /// The striker has waited T, and deletes the registration, if its count is the same.
    StrikeOff,
    /// The settler reads the run of the server, and begins to wait T.
    WatchRun,
    /// The settler has waited T: this run has registrations of all leases in force.
    Settle,
    /// The operator lets holders use a shorter T, and begins to wait the old T.
    ShortenLeases,
    /// The operator has waited the old T, and lets changers wait the shorter T.
    ShortenWaits,
}

impl Protocol {
    pub(crate) fn watcher_steps(&self, state: &State, steps: &mut Vec<WatcherStep>) {
        if self.has(Failure::StrikeOffs) {
            self.striker_steps(state, steps);
        }
        if self.has(Failure::Lowering) {
            self.operator_steps(state, steps);
        }
        if !self.config.acknowledgements || state.database.settled {
            return;
        }
        if self.omits(Mutant::SettlesAtOnce) || state.time.may_have_passed(OF_SETTLER) {
            steps.push(WatcherStep::Settle);
        } else if !state.settler {
            steps.push(WatcherStep::WatchRun);
        }
    }

    fn operator_steps(&self, state: &State, steps: &mut Vec<WatcherStep>) {
        let at_once = self.omits(Mutant::LowersAtOnce);
        if !state.time.lowered_leases {
            steps.push(WatcherStep::ShortenLeases);
        } else if !state.time.lowered_waits && (at_once || state.time.may_have_passed(OF_OPERATOR))
        {
            steps.push(WatcherStep::ShortenWaits);
        }
    }

    fn striker_steps(&self, state: &State, steps: &mut Vec<WatcherStep>) {
        let registrations = &state.database.registrations;
        let registered = (0..registrations.len()).filter(|&number| registrations[number].exists);
        steps.extend(registered.map(|number| WatcherStep::Watch(number as u8)));
        let Some(holder) = state.striker else { return };
        let registration = registrations[usize::from(holder)];
        let waited =
            self.omits(Mutant::StrikesOffUnwatched) || state.time.may_have_passed(OF_STRIKER);
        let same = !registration.counted || self.omits(Mutant::StrikesOffRegardless);
        if waited && same && registration.exists {
            steps.push(WatcherStep::StrikeOff);
        }
    }

    pub(crate) fn watcher_step(&self, state: &mut State, step: WatcherStep) {
        match step {
            WatcherStep::Watch(holder) => {
                self.stop_watching(state);
                state.striker = Some(holder);
                state.time.begin_wait(OF_STRIKER, self.config.clocks);
                let number = usize::from(holder);
                state.database.registrations[number].counted = false;
                if let Some(standby) = &mut state.standby {
                    let registration = &mut standby.registrations[number];
                    registration.counted = registration.behind;
                }
            }
            WatcherStep::StrikeOff => {
                let Some(holder) = state.striker else { return };
                if !self.omits(Mutant::StrikesOffUnwatched) {
                    state.time.end_wait(OF_STRIKER, self.config.clocks);
                }
                state.database.registrations[usize::from(holder)] = Registration::default();
                self.flush(state);
                self.stop_watching(state);
                self.record(state, event::STRUCK_OFF);
            }
            WatcherStep::WatchRun => {
                state.settler = true;
                state.time.begin_wait(OF_SETTLER, self.config.clocks);
            }
            WatcherStep::Settle => {
                if !self.omits(Mutant::SettlesAtOnce) {
                    state.time.end_wait(OF_SETTLER, self.config.clocks);
                }
                state.settler = false;
                state.database.settled = true;
                self.flush(state);
                self.record(state, event::SETTLED);
            }
            WatcherStep::ShortenLeases => {
                state.time.lowered_leases = true;
                state.time.begin_wait(OF_OPERATOR, self.config.clocks);
            }
            WatcherStep::ShortenWaits => {
                if self.omits(Mutant::LowersAtOnce) {
                    state.time.end_wait_early(OF_OPERATOR);
                } else {
                    state.time.end_wait(OF_OPERATOR, self.config.clocks);
                }
                state.time.lowered_waits = true;
            }
        }
    }

    pub(crate) fn stop_watching(&self, state: &mut State) {
        state.striker = None;
        state.time.end_wait_early(OF_STRIKER);
        // No process compares the counts until the next watch.
        for registration in &mut state.database.registrations {
            registration.counted = false;
        }
        if let Some(standby) = &mut state.standby {
            for registration in &mut standby.registrations {
                registration.counted = false;
            }
        }
    }
}
