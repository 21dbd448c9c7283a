//! The bounds of an exploration, and which failures it contains.

use clap::ValueEnum;

use crate::clock::Clocks;
use crate::mutant::Mutant;

/// The largest number of holders.
pub const MOST_HOLDERS: usize = 3;
/// The largest number of changers, those of other rows included.
pub const MOST_CHANGERS: usize = 3;
/// The largest number of transaction ids.
pub const MOST_TRANSACTIONS: usize = 6;

/// What may fail. The order of messages, and pauses of any length, need no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Failure {
    /// The answer of a statement is lost. The statement may have been executed.
    Answers,
    /// A renewal is executed twice. Its first answer is lost.
    Doubles,
    /// A holder loses its session, and notices.
    Sessions,
    /// A holder crashes, and a new process starts in its place.
    Holders,
    /// A holder stops in an orderly way.
    Leaves,
    /// A changer crashes, or loses its session. The outcome of its commit is then unknown. If
    /// attempts are left, the change is made again.
    Changers,
    /// The server fails over, once, to a standby that lacks the last transactions.
    Failover,
    /// The server recovers from a crash, once, without the last asynchronous commits. The start of
    /// the server's run stays the same.
    Recovery,
    /// Any process prunes the recorded changes.
    Pruning,
    /// An administrator changes the row with the triggers disabled, once.
    Triggers,
    /// An operator lowers T, once. Only where changers wait.
    Lowering,
    /// Any process watches registrations, and strikes a holder off.
    StrikeOffs,
}

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The number of holders.
    pub holders: usize,
    /// The number of changers that revoke the key.
    pub changers: usize,
    /// The number of changers that change another row.
    pub others: usize,
    /// The largest number of attempts of each changer of the key.
    pub attempts: usize,
    /// Whether holders register and acknowledge (8.2). If not set, changers wait T (8.1).
    pub acknowledgements: bool,
    /// Whether a holder polls a version and loads all rows again, as on SQLite. Only where changers
    /// wait.
    pub polls: bool,
    /// The notion of time.
    pub clocks: Clocks,
    /// Whether the snapshot of a renewal and its write are two steps.
    pub split: bool,
    /// Whether the rows are held in a cache, which misses fill.
    pub cache: bool,
    /// Whether misses send looks.
    pub looks: bool,
    /// What may fail.
    pub failures: Vec<Failure>,
    /// Whether every process acts in time. Ticks only: a due renewal is sent, and each statement is
    /// answered, before two ticks have passed.
    pub prompt: bool,
    /// The rule that is left out, if any.
    pub mutant: Option<Mutant>,
    /// Whether states with the same futures are merged, and states without danger cut off.
    pub reduce: bool,
    /// Whether states record the [`event`](crate::event)s on their path.
    pub track: bool,
}

impl Config {
    /// Returns a configuration of the complete protocol (8.1 and 8.2) without failures, with one
    /// attempt for each changer.
    pub fn new(holders: usize, changers: usize) -> Self {
        Self {
            holders,
            changers,
            others: 0,
            attempts: 1,
            acknowledgements: true,
            polls: false,
            clocks: Clocks::Order,
            split: false,
            cache: false,
            looks: false,
            failures: Vec::new(),
            prompt: false,
            mutant: None,
            reduce: true,
            track: false,
        }
    }

    /// Returns the base protocol (8.1), in which changers wait T.
    pub fn base(holders: usize, changers: usize) -> Self {
        Self { acknowledgements: false, ..Self::new(holders, changers) }
    }

    /// Returns this configuration with these failures.
    pub fn with(self, failures: &[Failure]) -> Self {
        Self { failures: failures.to_vec(), ..self }
    }

    /// Checks that the model has room for the configuration.
    ///
    /// # Errors
    ///
    /// Returns a message that names a bound outside its limits, or a contradiction of two bounds.
    pub fn validate(&self) -> Result<(), String> {
        let changers = self.changers + self.others;
        let transactions = self.changers * self.attempts + self.others;
        let limits = [
            ("holders", self.holders, MOST_HOLDERS),
            ("changers, with others", changers, MOST_CHANGERS),
            ("changers times attempts, plus others,", transactions, MOST_TRANSACTIONS),
        ];
        for (name, value, most) in limits {
            if value == 0 || value > most {
                return Err(format!("{name} must be from 1 to {most}, and is {value}"));
            }
        }
        if self.prompt && self.clocks != Clocks::Ticks {
            return Err("only ticks can be prompt".to_owned());
        }
        if self.acknowledgements && (self.polls || self.has(Failure::Lowering)) {
            return Err("polls and lowering need the base protocol".to_owned());
        }
        let once = [Failure::Failover, Failure::Recovery];
        if once.iter().all(|&failure| self.has(failure)) {
            return Err("choose either a failover or a recovery".to_owned());
        }
        Ok(())
    }

    /// Returns whether this may fail.
    pub fn has(&self, failure: Failure) -> bool {
        self.failures.contains(&failure)
    }
}
