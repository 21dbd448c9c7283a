//! Time: leases, and the waits of the processes that must outlast leases.
//!
//! A *lease* counts from the time that a holder noted, and lasts 0.8 T on the holder's clock. A
//! *wait* lasts T on the clock of another process. Both clocks run at rates that differ by less
//! than the allowance. The model has two notions of time.
//!
//! * [`Clocks::Ticks`]: T is five ticks of the clocks that wait. A holder's clock misses at most
//!   one of any five ticks. A lease is four ticks of the holder's clock.
//! * [`Clocks::Order`]: no lengths. When a wait ends, each lease that was noted before the wait
//!   began has ended. No other rule relates leases and waits, so pauses, waits and messages take
//!   any time. With ticks, the property [`WAIT_OUTLASTS`](crate::WAIT_OUTLASTS) checks the rule.
//!
//! T may be lowered once: to three ticks, with leases of two. In `Order`, a wait of the lowered T
//! ends only leases of the lowered T.
//!
//! In `Order`, a lease ends only when a wait forces its end. An earlier end would only take grants
//! away: no step of the protocol needs a lease that has ended.

use clap::ValueEnum;

use crate::config::{MOST_CHANGERS, MOST_HOLDERS};

/// The ticks of a wait.
pub(crate) const WAIT: u8 = 5;
/// The ticks of a lease: 0.8 T.
pub(crate) const LEASE: u8 = 4;
/// The ticks of a wait and of a lease, after T was lowered.
const SHORT_WAIT: u8 = 3;
const SHORT_LEASE: u8 = 2;
/// By how many ticks a holder's wall clock may be behind the database's. Only a mutant compares
/// wall clocks.
pub(crate) const WALL_CLOCK_BEHIND: u8 = 2;

/// The number of leases: in force, and noted by a renewal, for each holder; and the one whose
/// deadline the request has read.
const LEASES: usize = 2 * MOST_HOLDERS + 1;
/// The number of waits: each changer's, the striker's, the settler's, and the operator's.
const WAITS: usize = MOST_CHANGERS + 3;

/// The lease whose deadline the request has read.
pub(crate) const OF_REQUEST: usize = 2 * MOST_HOLDERS;
/// The wait of the process that strikes holders off.
pub(crate) const OF_STRIKER: usize = MOST_CHANGERS;
/// The wait of the process that watches a run of the server.
pub(crate) const OF_SETTLER: usize = MOST_CHANGERS + 1;
/// The wait of the operator who lowers T.
pub(crate) const OF_OPERATOR: usize = MOST_CHANGERS + 2;

/// A notion of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clocks {
    /// Only the order in which leases and waits begin and end.
    Order,
    /// Ticks of clocks that drift within the bound.
    Ticks,
}

/// A lease, in force if ticks are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Lease {
    /// The ticks that are left on the holder's clock. One or none in [`Clocks::Order`].
    left: u8,
    /// The waits that began after the time was noted, as a set.
    waits: u8,
    /// Whether the holder uses the lowered T.
    short: bool,
}

/// The leases and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time {
    leases: [Lease; LEASES],
    /// Plus one: the ticks that are left of each wait. Zero if nothing waits.
    waits: [u8; WAITS],
    /// The waits of the lowered T, as a set.
    short: u8,
    /// Whether holders use the lowered T, and whether changers do.
    pub(crate) lowered_leases: bool,
    pub(crate) lowered_waits: bool,
    /// The ticks that each holder's clock has made since it missed one.
    since: [u8; MOST_HOLDERS],
    /// Whether a wait has ended before a lease that was noted before the wait began.
    pub(crate) outlasted: bool,
}

impl Time {
    pub(crate) fn new() -> Self {
        Self {
            leases: [Lease::default(); LEASES],
            waits: [0; WAITS],
            short: 0,
            lowered_leases: false,
            lowered_waits: false,
            since: [WAIT - 1; MOST_HOLDERS],
            outlasted: false,
        }
    }

    /// The holder notes the time, for a lease of so many ticks.
    pub(crate) fn note(&mut self, holder: usize, ticks: u8) {
        let short = self.lowered_leases;
        let left = if short { SHORT_LEASE } else { ticks };
        self.leases[MOST_HOLDERS + holder] = Lease { left, waits: 0, short };
    }

    /// The holder moves its deadline to the noted time plus the length of a lease.
    pub(crate) fn move_deadline(&mut self, holder: usize) {
        self.leases[holder] = self.leases[MOST_HOLDERS + holder];
        self.forget_noted(holder);
    }

    pub(crate) fn forget_noted(&mut self, holder: usize) {
        self.leases[MOST_HOLDERS + holder] = Lease::default();
    }

    pub(crate) fn give_up(&mut self, holder: usize) {
        self.leases[holder] = Lease::default();
    }

    /// Returns whether the holder's clock is before its deadline.
    pub(crate) fn in_force(&self, holder: usize) -> bool {
        self.leases[holder].left > 0
    }

    pub(crate) fn ticks_left(&self, holder: usize) -> u8 {
        self.leases[holder].left
    }

    pub(crate) fn ticks_left_of_noted(&self, holder: usize) -> u8 {
        self.leases[MOST_HOLDERS + holder].left
    }

    /// The request reads the holder's deadline.
    pub(crate) fn read_deadline(&mut self, holder: usize) {
        self.leases[OF_REQUEST] = self.leases[holder];
    }

    /// Returns whether the clock is before the deadline that the request has read.
    pub(crate) fn before_deadline_read(&self) -> bool {
        self.leases[OF_REQUEST].left > 0
    }

    /// A process begins to wait T.
    pub(crate) fn begin_wait(&mut self, wait: usize, clocks: Clocks) {
        self.end_wait_early(wait);
        let short = self.lowered_waits;
        self.short |= u8::from(short) << wait;
        let ticks = if short { SHORT_WAIT } else { WAIT };
        self.waits[wait] = 1 + if clocks == Clocks::Ticks { ticks } else { 0 };
        for lease in &mut self.leases {
            if lease.left > 0 {
                lease.waits |= 1 << wait;
            }
        }
    }

    /// Returns whether T may have passed since the wait began.
    pub(crate) fn may_have_passed(&self, wait: usize) -> bool {
        self.waits[wait] == 1
    }

    /// The process finds that T has passed. In [`Clocks::Order`], this ends the leases that were
    /// noted before. In [`Clocks::Ticks`], they must have ended.
    pub(crate) fn end_wait(&mut self, wait: usize, clocks: Clocks) {
        if clocks == Clocks::Order {
            let short = self.short & 1 << wait != 0;
            for lease in &mut self.leases {
                if lease.waits & 1 << wait != 0 && (lease.short || !short) {
                    *lease = Lease::default();
                }
            }
        }
        self.end_wait_early(wait);
    }

    pub(crate) fn end_wait_early(&mut self, wait: usize) {
        self.waits[wait] = 0;
        self.short &= !(1 << wait);
        for lease in &mut self.leases {
            lease.waits &= !(1 << wait);
        }
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits.iter().any(|&wait| wait > 1)
    }

    /// Returns the holders whose clocks may miss the next tick, as a set.
    pub(crate) fn may_miss(&self) -> u8 {
        let in_use = |holder: usize| {
            self.leases[holder].left > 0 || self.leases[MOST_HOLDERS + holder].left > 0
        };
        let may_miss = |&holder: &usize| self.since[holder] == WAIT - 1 && in_use(holder);
        (0..MOST_HOLDERS).filter(may_miss).fold(0, |set, holder| set | 1 << holder)
    }

    /// All clocks tick, except for those of the holders that miss the tick.
    pub(crate) fn tick(&mut self, miss: u8, holder_of_request: Option<usize>) {
        let misses = |holder: usize| miss & 1 << holder != 0;
        for holder in 0..MOST_HOLDERS {
            self.since[holder] =
                if misses(holder) { 0 } else { (self.since[holder] + 1).min(WAIT - 1) };
            for lease in [holder, MOST_HOLDERS + holder] {
                self.pass(lease, misses(holder));
            }
        }
        if let Some(holder) = holder_of_request {
            self.pass(OF_REQUEST, misses(holder));
        }
        for wait in 0..WAITS {
            if self.waits[wait] > 1 {
                self.waits[wait] -= 1;
                let over = self.waits[wait] == 1;
                let longer = |lease: &Lease| lease.left > 0 && lease.waits & 1 << wait != 0;
                self.outlasted |= over && self.leases.iter().any(longer);
            }
        }
    }

    fn pass(&mut self, lease: usize, misses: bool) {
        let lease = &mut self.leases[lease];
        if !misses {
            lease.left = lease.left.saturating_sub(1);
        }
        if lease.left == 0 {
            *lease = Lease::default();
        }
    }

    pub(crate) fn forget_request(&mut self) {
        self.leases[OF_REQUEST] = Lease::default();
    }

    /// Exchanges two holders.
    pub(crate) fn swap_holders(&mut self, one: usize, other: usize) {
        self.leases.swap(one, other);
        self.leases.swap(MOST_HOLDERS + one, MOST_HOLDERS + other);
        self.since.swap(one, other);
    }

    /// Exchanges the waits of two changers.
    pub(crate) fn swap_changers(&mut self, one: usize, other: usize) {
        self.waits.swap(one, other);
        for lease in &mut self.leases {
            lease.waits = swap_bits(lease.waits, one, other);
        }
        self.short = swap_bits(self.short, one, other);
    }
}

/// Exchanges two members of a set.
pub(crate) fn swap_bits(set: u8, one: usize, other: usize) -> u8 {
    let [has_one, has_other] = [one, other].map(|member| set >> member & 1);
    set & !(1 << one | 1 << other) | has_one << other | has_other << one
}
