//! The state of the model.

use stateright::Representative;

use crate::changer::Changer;
use crate::clock::Time;
use crate::config::{MOST_CHANGERS, MOST_HOLDERS};
use crate::database::Database;
use crate::holder::Holder;
use crate::request::Request;

/// What happened on the way to a state, as bits of [`State::has_seen`].
pub mod event {
    /// A revocation returned because every registered holder had acknowledged it.
    pub const ACKNOWLEDGED: u16 = 1;
    /// A revocation returned after T.
    pub const WAITED: u16 = 2;
    /// A transaction committed after one with a larger id.
    pub const SMALLER_ID_LATER: u16 = 4;
    /// A holder was struck off.
    pub const STRUCK_OFF: u16 = 8;
    /// The server failed over.
    pub const FAILED_OVER: u16 = 16;
    /// A failover or a recovery gave ids out again.
    pub const IDS_AGAIN: u16 = 32;
    /// A new run of the server was settled.
    pub const SETTLED: u16 = 64;
    /// A second attempt found nothing to change.
    pub const NOTHING_TO_CHANGE: u16 = 128;
    /// A holder whose registration was missing forgot everything.
    pub const FORGOT: u16 = 256;
    /// A holder loaded everything again.
    pub const LOADED_AGAIN: u16 = 512;
}

/// A state of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub(crate) database: Database,
    /// The database without what a failover or a recovery would lose.
    pub(crate) standby: Option<Database>,
    /// Whether the one standby was detached.
    pub(crate) detached: bool,
    /// Whether the one recovery has happened.
    pub(crate) recovered: bool,
    pub(crate) holders: [Holder; MOST_HOLDERS],
    pub(crate) changers: [Changer; MOST_CHANGERS],
    /// The holder that is watched for a strike-off.
    pub(crate) striker: Option<u8>,
    /// Whether a process watches this run of the server.
    pub(crate) settler: bool,
    pub(crate) time: Time,
    pub(crate) request: Request,
    /// Whether a revocation of the key has returned.
    pub(crate) returned: bool,
    /// Whether a request that began afterwards was granted.
    pub(crate) granted: bool,
    pub(crate) events: u16,
}

impl State {
    /// Returns whether a request that began after the revocation had returned was granted.
    pub fn violates_g11(&self) -> bool {
        self.granted
    }

    /// Returns whether the [`event`] has happened. Only tracked runs record events.
    pub fn has_seen(&self, event: u16) -> bool {
        self.events & event != 0
    }

    fn swap_holders(&mut self, one: usize, other: usize) {
        self.holders.swap(one, other);
        self.database.registrations.swap(one, other);
        if let Some(standby) = &mut self.standby {
            standby.registrations.swap(one, other);
        }
        self.time.swap_holders(one, other);
        let renamed = |holder: u8| match usize::from(holder) {
            holder if holder == one => other as u8,
            holder if holder == other => one as u8,
            _ => holder,
        };
        self.striker = self.striker.map(renamed);
        self.request = self.request.rename(renamed);
        for changer in &mut self.changers {
            changer.swap_holders(one, other);
        }
    }

    fn swap_changers(&mut self, one: usize, other: usize) {
        self.changers.swap(one, other);
        self.time.swap_changers(one, other);
    }
}

/// Holders run the same program, and so do the changers of the key, which come first.
impl Representative for State {
    fn representative(&self) -> Self {
        let holders = self.holders.iter().filter(|holder| holder.exists).count();
        let changers = self.changers.iter().filter(|changer| changer.revokes()).count();
        let mut least = *self;
        for &holder_swaps in orders(holders) {
            for &changer_swaps in orders(changers) {
                let mut state = *self;
                holder_swaps.iter().for_each(|&(one, other)| state.swap_holders(one, other));
                changer_swaps.iter().for_each(|&(one, other)| state.swap_changers(one, other));
                least = least.min(state);
            }
        }
        least
    }
}

/// Returns, for each order of so many things, the exchanges that lead to the order.
fn orders(number: usize) -> &'static [&'static [(usize, usize)]] {
    match number {
        0 | 1 => &[&[]],
        2 => &[&[], &[(0, 1)]],
        _ => &[&[], &[(0, 1)], &[(0, 2)], &[(1, 2)], &[(0, 1), (1, 2)], &[(0, 1), (0, 2)]],
    }
}
