//! An explicit-state model of the epochs of `trust-key-cache`, over the store buffers of x86-TSO.
//!
//! The model follows `src/reclaim/asymmetric.rs` and `src/map/limbo.rs` step by step, and
//! `stateright` visits every reachable state of it. What it checks is guarantee G7: no object is
//! freed while a reader uses it, and no batch is freed twice. `docs/verification.md` has the map
//! from the model to the code, the configurations that were exhausted, and the planted bugs.
//!
//! # Memory
//!
//! Each reader has a FIFO store buffer; stores leave it at any time, one by one. Loads read memory:
//! no thread of the protocol loads what its own buffer may still hold. Read-modify-writes need an
//! empty buffer. `membarrier` returns once each reader's buffer has been empty at some time since
//! the call, a different time for each. A writer's steps are loads and read-modify-writes, so it
//! has no buffer.
//!
//! # One object, one user
//!
//! A violation is about one object, one reader that uses it, and one load by which it got there.
//! Loads have no effect on other threads. So the model has one object. At the start of each grace
//! period the writer either unlinks that object, and one of the readers that use it then is chosen
//! as its user; or it retires what no reader uses. Both are tried, and so is each user. The other
//! readers pin, attach, unpin and end; whether they use the object is another execution's question.
//!
//! A fence's mark is unique. The code takes it from a counter; the model takes it from the epoch of
//! the fence's grace period, for which no other writer of the model makes a fence.
//!
//! A writer of the cache also pins. In the model, a reader and a writer stand for it: together they
//! can do all that it can do.
//!
//! # Reduction
//!
//! Once the object is out of the slot and its user does not hold it, it can no longer be used after
//! it is freed. Nor can it where no writer is left to unlink it or to free it, or no reader to
//! load it. With [`Config::reduce`] such states have no successors. A batch that would be freed
//! twice after that is then not found; runs without reduction look for it. `normal_form.rs` says
//! which states are merged.

mod bug;
mod normal_form;
mod reader;
mod state;
mod writer;

use std::fmt;

use clap::ValueEnum;
use stateright::{Checker, HasDiscoveries, Model, Property};

pub use bug::Bug;
pub use reader::ReaderStep;
pub use state::{Fault, MOST_BATCHES, MOST_READERS, MOST_RECORDS, MOST_WRITERS, State, event};
pub use writer::WriterStep;

use state::{DETACHED, FIRST, UNDECIDED, UNPINNED};

/// The name of the property that every state must have.
pub const NO_FAULT: &str = "nothing is freed under a guard, or twice";

/// What the threads that have a record at the start have done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Start {
    /// All have pinned in the first epoch.
    Attached,
    /// All are detached.
    Detached,
    /// Each combination is an initial state.
    Any,
}

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many readers.
    pub readers: usize,
    /// How many writers.
    pub writers: usize,
    /// How many sections each reader enters at most.
    pub sections: usize,
    /// How many collections each writer makes at most.
    pub operations: usize,
    /// How many records there may be.
    pub records: usize,
    /// How many readers have a record at the start, the first ones.
    pub registered: usize,
    /// Whether threads end and give their records back. A reader that has sections left is then
    /// a new thread.
    pub endings: bool,
    /// Whether the kernel may refuse a barrier. The batches then go back to those that wait.
    pub refusals: bool,
    /// The state of the records at the start.
    pub start: Start,
    /// The planted bug, if any.
    pub bug: Option<Bug>,
    /// Whether states are merged that have the same futures (see `normal_form.rs`), and states
    /// without danger to the object have no successors.
    pub reduce: bool,
    /// Whether states record the [`event`]s on their path.
    pub track: bool,
}

impl Config {
    /// Readers that all have a record and keep it, without a planted bug.
    pub fn new(readers: usize, writers: usize, sections: usize, operations: usize) -> Self {
        Self {
            readers,
            writers,
            sections,
            operations,
            records: readers,
            registered: readers,
            endings: false,
            refusals: false,
            start: Start::Any,
            bug: None,
            reduce: true,
            track: false,
        }
    }

    /// Checks that the model has room for it.
    ///
    /// # Errors
    ///
    /// Says which bound is too large or contradicts another one.
    pub fn validate(&self) -> Result<(), String> {
        let limits = [
            ("readers", self.readers, MOST_READERS),
            ("writers", self.writers, MOST_WRITERS),
            ("records", self.records, MOST_RECORDS),
            ("sections", self.sections, 3),
            ("writers times operations", self.writers * self.operations, MOST_BATCHES),
        ];
        for (name, value, most) in limits {
            if value == 0 || value > most {
                return Err(format!("{name} must be from 1 to {most}, and is {value}"));
            }
        }
        if self.registered > self.records || self.registered > self.readers {
            return Err("registered must be no more than records and readers".to_owned());
        }
        Ok(())
    }
}

/// The protocol within the bounds of a [`Config`], as `stateright` explores it.
#[derive(Clone, Debug)]
pub struct Protocol {
    config: Config,
}

/// A step of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Of the reader with this number.
    Reader(u8, ReaderStep),
    /// Of the writer with this number.
    Writer(u8, WriterStep),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader(number, step) => write!(f, "reader {number}: {step:?}"),
            Self::Writer(number, step) => write!(f, "writer {number}: {step:?}"),
        }
    }
}

impl Protocol {
    /// # Errors
    ///
    /// Those of [`Config::validate`].
    pub fn new(config: Config) -> Result<Self, String> {
        config.validate()?;
        Ok(Self { config })
    }

    /// The bounds.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The shortest path to a fault, as its steps, by a breadth-first search.
    pub fn shortest_fault(&self) -> Option<(Fault, Vec<Action>)> {
        let (mut found, mut depth) = (None, usize::MAX);
        loop {
            let checker = self.clone().checker().finish_when(HasDiscoveries::AnyFailures);
            let bounded = checker.target_max_depth(depth).spawn_bfs().join();
            let Some(path) = bounded.discovery(NO_FAULT) else { return found };
            // stateright keeps the last fault of a block of states, so a shorter one may exist.
            depth = path.clone().into_states().len();
            found = Some((path.last_state().fault, path.into_actions()));
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }

    fn record(&self, state: &mut State, event: u8) {
        if self.config.track {
            state.events |= event;
        }
    }

    fn initial(&self, detached: u8) -> State {
        let Config { registered, sections, .. } = self.config;
        let mut state = State {
            epoch: FIRST,
            linked: true,
            pinned: [UNPINNED; MOST_RECORDS],
            seen: [0; MOST_RECORDS],
            taken: (1 << registered) - 1,
            listed: registered as u8,
            readers: [reader::starting(None, 0); MOST_READERS],
            writers: [writer::starting(); MOST_WRITERS],
            grace: [0; MOST_BATCHES],
            waiting: 0,
            freed: 0,
            started: 0,
            user: UNDECIDED,
            batch: 0,
            events: 0,
            fault: Fault::None,
        };
        for number in 0..self.config.readers {
            let record = (number < registered).then_some(number as u8);
            state.readers[number] = reader::starting(record, sections as u8);
        }
        for record in 0..registered {
            state.seen[record] = if detached & 1 << record == 0 { FIRST } else { DETACHED };
        }
        state
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let all = (1_u8 << self.config.registered) - 1;
        let detached = match self.config.start {
            Start::Attached => 0..=0,
            Start::Detached => all..=all,
            Start::Any => 0..=all,
        };
        detached.map(|set| self.initial(set)).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault != Fault::None || self.config.reduce && !self.is_in_danger(state) {
            return;
        }
        for reader in 0..self.config.readers {
            self.reader_steps(state, reader, actions);
        }
        for writer in 0..self.config.writers {
            self.writer_steps(state, writer, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Reader(number, step) => self.reader_step(&mut next, number.into(), step),
            Action::Writer(number, step) => self.writer_step(&mut next, number.into(), step),
        }
        self.normalize(&mut next);
        Some(next)
    }

    fn format_action(&self, action: &Action) -> String {
        action.to_string()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties =
            vec![Property::always(NO_FAULT, |_, state: &State| state.fault == Fault::None)];
        if self.config.track {
            properties.extend(events());
        }
        properties
    }
}

/// What must be reachable, lest the model check nothing.
fn events() -> [Property<Protocol>; 7] {
    [
        Property::sometimes("a thread is detached", |_, state: &State| {
            state.has_seen(event::DETACHED)
        }),
        Property::sometimes("a detached thread attaches again", |_, state: &State| {
            state.has_seen(event::ATTACHED_AGAIN)
        }),
        Property::sometimes("the object is freed without a fence", |_, state: &State| {
            state.has_seen(event::FREED_WITHOUT_FENCE)
        }),
        Property::sometimes("the object is freed after a fence", |_, state: &State| {
            state.has_seen(event::FREED_AFTER_FENCE)
        }),
        Property::sometimes("a record is taken over", |_, state: &State| {
            state.has_seen(event::TAKEN_OVER)
        }),
        Property::sometimes("a batch waits and is freed later", |_, state: &State| {
            state.has_seen(event::FREED_LATER)
        }),
        Property::sometimes("a barrier reaches one thread before another", |_, state: &State| {
            state.has_seen(event::REACHED_ONE_FIRST)
        }),
    ]
}
