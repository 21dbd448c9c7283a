//! An explicit-state model of the epochs of `trust-key-cache`, over the store buffers of x86-TSO.
//!
//! The model follows `src/reclaim/asymmetric.rs` and `src/map/limbo.rs` step by step. `stateright`
//! visits every reachable state of the model. The model checks guarantee G7: no object is freed
//! while a reader uses it, and no batch is freed twice. `docs/verification.md` maps the model to
//! the code, and lists the exhausted configurations and the planted bugs.
//!
//! # Memory
//!
//! Each reader has a FIFO store buffer. Stores leave the buffer at any time, one by one. Loads read
//! memory: no thread of the protocol loads a location that its own buffer may still store to.
//! Read-modify-writes need an empty buffer. `membarrier` returns once each reader's buffer has been
//! empty at some time since the call. This time may differ for each reader. The steps of a writer
//! are loads and read-modify-writes, so a writer has no buffer.
//!
//! # One object, one user
//!
//! A violation is about one object, one reader that uses the object, and one load that returned the
//! object to this reader. Loads have no effect on other threads. So the model has one object. At
//! the start of each grace period, the writer has two choices. It unlinks the object, and one of
//! the object's readers is chosen as its user. Or it retires another object, which no reader uses.
//! The model explores both choices, and each user. The other readers pin, attach, unpin and end.
//! Another execution has one of these readers as the user.
//!
//! The mark of a fence is unique. The code takes the mark from a counter. The model takes the mark
//! from the epoch of the fence's grace period: only one writer makes a fence for this grace period.
//!
//! A writer of the cache also pins. The model represents such a writer by a reader and a writer.
//! Together, these two can make every step of the cache's writer.
//!
//! # Reduction
//!
//! In some states, no reader can use the object after it is freed. The object has left the slot and
//! its user does not hold it. Or no writer is left to unlink or to free the object, or no reader to
//! load it. With [`Config::reduce`], such states have no successors. So the reduced model does not
//! contain a second freeing of a batch after such a state. Runs without reduction contain it.
//! `normal_form.rs` describes which states are merged.

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

/// The history of the threads that have a record at the start.
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
    /// The number of readers.
    pub readers: usize,
    /// The number of writers.
    pub writers: usize,
    /// The largest number of sections that each reader enters.
    pub sections: usize,
    /// The largest number of collections that each writer makes.
    pub operations: usize,
    /// The largest number of records.
    pub records: usize,
    /// The number of readers that have a record at the start: the first ones.
    pub registered: usize,
    /// Whether threads end and give their records back. A reader with sections left then continues
    /// as a new thread.
    pub endings: bool,
    /// Whether the kernel may refuse a barrier. The batches then return to the waiting list.
    pub refusals: bool,
    /// The state of the records at the start.
    pub start: Start,
    /// The planted bug, if any.
    pub bug: Option<Bug>,
    /// Whether states with the same futures are merged (see `normal_form.rs`). If set, states
    /// without danger to the object also have no successors.
    pub reduce: bool,
    /// Whether states record the [`event`]s on their path.
    pub track: bool,
}

impl Config {
    /// Returns a configuration without a planted bug. Every reader has a record and keeps it.
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

    /// Checks that the model has room for the configuration.
    ///
    /// # Errors
    ///
    /// Returns a message that names a bound outside its limits, or a contradiction of two bounds.
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
    /// A step of the reader with this number.
    Reader(u8, ReaderStep),
    /// A step of the writer with this number.
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

    /// Returns the first fault and the steps of the shortest path to it, by a breadth-first search.
    pub fn shortest_fault(&self) -> Option<(Fault, Vec<Action>)> {
        let (mut found, mut depth) = (None, usize::MAX);
        loop {
            let checker = self.clone().checker().finish_when(HasDiscoveries::AnyFailures);
            let bounded = checker.target_max_depth(depth).spawn_bfs().join();
            let Some(path) = bounded.discovery(NO_FAULT) else { return found };
            // stateright keeps the last fault of a block of states, so a shorter path may exist.
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

/// Returns the properties that must be reachable. A model that reaches none of them would check
/// nothing.
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
