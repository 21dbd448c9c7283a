//! A request that begins after the revocation has returned.
//!
//! A violation concerns one request, and requests do not affect other processes. So the model has
//! one request. It begins when it reads the first of deadline and entry. It reads the second one
//! and the clock in one step, since a later clock would grant less.

use crate::Protocol;
use crate::mutant::Mutant;
use crate::state::State;

/// The steps of the request. Each variant names the holder that serves the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestStep {
    /// The request begins, and reads the deadline.
    ReadDeadline(u8),
    /// The request reads the entry, then the clock, and is granted.
    ReadEntryAndClock(u8),
    /// Mutant only: the request begins, and joins a look that has read the key before.
    JoinLook(u8),
    /// Mutant only: the request begins, and reads the entry.
    ReadEntry(u8),
    /// Mutant only: the request reads the deadline, then the clock, and is granted.
    ReadDeadlineAndClock(u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Request {
    #[default]
    None,
    /// The request has read this holder's deadline.
    HasDeadline(u8),
    /// Mutant only: the request has read this holder's entry.
    HasEntry(u8),
}

impl Request {
    pub(crate) fn rename(self, renamed: impl Fn(u8) -> u8) -> Self {
        match self {
            Self::None => Self::None,
            Self::HasDeadline(holder) => Self::HasDeadline(renamed(holder)),
            Self::HasEntry(holder) => Self::HasEntry(renamed(holder)),
        }
    }

    pub(crate) fn holder(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::HasDeadline(holder) | Self::HasEntry(holder) => Some(holder.into()),
        }
    }
}

impl Protocol {
    pub(crate) fn request_steps(&self, state: &State, steps: &mut Vec<RequestStep>) {
        if !state.returned {
            return;
        }
        let entry_first = self.omits(Mutant::EntryBeforeDeadline);
        match state.request {
            Request::None => {
                for number in 0..self.config.holders {
                    let holder = number as u8;
                    let earlier = state.holders[number].look_has_seen_key();
                    if earlier && self.omits(Mutant::JoinsEarlierLook) {
                        steps.push(RequestStep::JoinLook(holder));
                    }
                    if entry_first && state.holders[number].holds_key() {
                        steps.push(RequestStep::ReadEntry(holder));
                    } else if !entry_first && state.time.in_force(number) {
                        steps.push(RequestStep::ReadDeadline(holder));
                    }
                }
            }
            Request::HasDeadline(holder) => {
                let holds = state.holders[usize::from(holder)].holds_key();
                if holds && state.time.before_deadline_read() {
                    steps.push(RequestStep::ReadEntryAndClock(holder));
                }
            }
            Request::HasEntry(holder) => {
                if state.time.in_force(holder.into()) {
                    steps.push(RequestStep::ReadDeadlineAndClock(holder));
                }
            }
        }
    }

    pub(crate) fn request_step(&self, state: &mut State, step: RequestStep) {
        match step {
            RequestStep::ReadDeadline(holder) => {
                state.time.read_deadline(holder.into());
                state.request = Request::HasDeadline(holder);
            }
            RequestStep::ReadEntry(holder) => state.request = Request::HasEntry(holder),
            RequestStep::JoinLook(_)
            | RequestStep::ReadEntryAndClock(_)
            | RequestStep::ReadDeadlineAndClock(_) => {
                state.time.forget_request();
                state.request = Request::None;
                state.granted = true;
            }
        }
    }
}
