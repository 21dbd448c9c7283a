//! The protocol as `stateright` explores it: steps, next states, and properties.

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::changer::{Changer, ChangerStep};
use crate::clock::{Clocks, LEASE, Time};
use crate::config::{Config, Failure, MOST_CHANGERS, MOST_HOLDERS};
use crate::database::{Database, DatabaseStep, Ids, up_to_last};
use crate::holder::{Holder, HolderStep, Statement};
use crate::mutant::Mutant;
use crate::request::{Request, RequestStep};
use crate::schedule;
use crate::state::State;
use crate::watcher::WatcherStep;

/// Guarantee G11, the name of the property that every state must have.
pub const G11: &str = "no request that began after the revocation returned is granted";
/// The one rule that relates leases and waits.
pub const WAIT_OUTLASTS: &str = "a wait outlasts each lease that was noted before the wait began";
/// A changer that waits is never stuck.
pub const RETURNS: &str = "once T has passed, a revocation can return, or start over on a new run";
/// A prompt holder keeps its lease and its rows.
pub const KEEPS: &str = "while nothing fails, a registered holder grants the key";

/// The protocol within the bounds of a [`Config`].
#[derive(Clone, Debug)]
pub struct Protocol {
    pub(crate) config: Config,
}

/// A step of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A step of the database.
    Database(DatabaseStep),
    /// A step of the holder with this number.
    Holder(u8, HolderStep),
    /// A step of the changer with this number.
    Changer(u8, ChangerStep),
    /// A step of a process that watches.
    Watcher(WatcherStep),
    /// A step of the request.
    Request(RequestStep),
    /// All clocks tick, except for those of the holders in the set.
    Tick(u8),
}

impl Protocol {
    /// Returns the protocol within the bounds of `config`.
    ///
    /// # Errors
    ///
    /// Those of [`Config::validate`].
    pub fn new(config: Config) -> Result<Self, String> {
        config.validate()?;
        Ok(Self { config })
    }

    /// Returns the bounds.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the steps of the shortest path to a violation of the property, by a breadth-first
    /// search.
    pub fn shortest_violation(&self, property: &'static str) -> Option<Vec<Step>> {
        let (mut found, mut depth) = (None, usize::MAX);
        loop {
            let wanted = HasDiscoveries::AllOf([property].into());
            let checker = self.clone().checker().finish_when(wanted);
            let bounded = checker.target_max_depth(depth).spawn_bfs().join();
            let Some(path) = bounded.discovery(property) else { return found };
            // stateright keeps the last discovery of a block, so a shorter path may exist.
            depth = path.clone().into_states().len();
            found = Some(path.into_actions());
        }
    }

    pub(crate) fn omits(&self, mutant: Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    pub(crate) fn has(&self, failure: Failure) -> bool {
        self.config.has(failure)
    }

    pub(crate) fn record(&self, state: &mut State, event: u16) {
        if self.config.track {
            state.events |= event;
        }
    }

    /// Returns the ids that count as seen by a snapshot.
    pub(crate) fn seen(&self, snapshot: Ids) -> Ids {
        if self.omits(Mutant::GreaterThanLast) { up_to_last(snapshot) } else { snapshot }
    }

    /// Returns whether a violation may still follow.
    fn is_in_danger(&self, state: &State) -> bool {
        if state.granted {
            return false;
        }
        if !state.returned {
            return state.changers.iter().any(Changer::may_return);
        }
        let holds = state.holders.iter().any(Holder::may_hold_key);
        let joined = self.omits(Mutant::JoinsEarlierLook);
        joined || holds || state.request != Request::None || !state.database.revoked()
    }

    /// Returns whether the clocks may tick.
    fn may_tick(&self, state: &State) -> bool {
        if !self.config.prompt {
            // Without a wait, ticks would only end leases.
            return state.time.waits();
        }
        (0..self.config.holders).all(|holder| {
            let Holder { statement, .. } = state.holders[holder];
            let late =
                statement != Statement::None && state.time.ticks_left_of_noted(holder) < LEASE;
            let due = statement == Statement::None
                && state.time.in_force(holder)
                && state.time.ticks_left(holder) <= LEASE / 2;
            !late && !due
        })
    }

    fn tick_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if self.config.clocks == Clocks::Order || !self.may_tick(state) {
            return;
        }
        let suspended = self.omits(Mutant::ClockStopsWhileSuspended);
        let may_miss = if suspended { u8::MAX } else { state.time.may_miss() };
        let sets = (0..1_u8 << self.config.holders).filter(|set| set & !may_miss == 0);
        steps.extend(sets.map(Step::Tick));
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let Config { holders, changers, others, attempts, .. } = self.config;
        let mut state = State {
            database: Database::new(),
            standby: None,
            detached: false,
            recovered: false,
            holders: [Holder::default(); MOST_HOLDERS],
            changers: [Changer::default(); MOST_CHANGERS],
            striker: None,
            settler: false,
            time: Time::new(),
            request: Request::None,
            returned: false,
            granted: false,
            events: 0,
        };
        state.holders[..holders].fill(Holder::starting());
        state.changers[..changers].fill(Changer::of_key(attempts as u8));
        state.changers[changers..changers + others].fill(Changer::of_other_row());
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.granted || self.config.reduce && !self.is_in_danger(state) {
            return;
        }
        for number in 0..self.config.holders {
            let mut steps = Vec::new();
            self.holder_steps(state, number, &mut steps);
            actions.extend(steps.into_iter().map(|step| Step::Holder(number as u8, step)));
        }
        let mut steps = Vec::new();
        self.request_steps(state, &mut steps);
        actions.extend(steps.into_iter().map(Step::Request));
        self.tick_steps(state, actions);
        let mut steps = Vec::new();
        self.database_steps(state, &mut steps);
        actions.extend(steps.into_iter().map(Step::Database));
        if state.returned && self.config.reduce {
            // Changers and watchers can add nothing to a violation now.
            return;
        }
        for number in 0..self.config.changers + self.config.others {
            let mut steps = Vec::new();
            self.changer_steps(state, number, &mut steps);
            actions.extend(steps.into_iter().map(|step| Step::Changer(number as u8, step)));
        }
        let mut steps = Vec::new();
        self.watcher_steps(state, &mut steps);
        actions.extend(steps.into_iter().map(Step::Watcher));
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        let mut next = *state;
        match action {
            Step::Database(step) => self.database_step(&mut next, step),
            Step::Holder(number, step) => self.holder_step(&mut next, number.into(), step),
            Step::Changer(number, step) => self.changer_step(&mut next, number.into(), step),
            Step::Watcher(step) => self.watcher_step(&mut next, step),
            Step::Request(step) => self.request_step(&mut next, step),
            Step::Tick(miss) => next.time.tick(miss, next.request.holder()),
        }
        self.normalize(&mut next);
        Some(next)
    }

    fn format_action(&self, action: &Step) -> String {
        schedule::sentence(action, self)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::properties(&self.config)
    }
}
