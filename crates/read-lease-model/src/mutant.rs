//! The mutants: the protocol without one of its rules, or with a simpler one in its place.

use clap::ValueEnum;

use crate::clock::Clocks;
use crate::config::{Config, Failure};

/// A rule that is left out. The documentation of each variant is the protocol's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Mutant {
    /// The deadline counts from the answer, not from the time noted before sending.
    DeadlineFromAnswer,
    /// The deadline is moved before the changes are applied.
    MovesBeforeApplying,
    /// A renewal whose answer is lost moves the deadline.
    LostAnswerMovesDeadline,
    /// A holder takes a doubled answer for the answer of its next renewal.
    TakesDoubledAnswer,
    /// A difference counts in every session.
    IgnoresSession,
    /// A base that is older than what is kept counts.
    IgnoresPruning,
    /// The triggers' fingerprint is not compared.
    IgnoresFingerprint,
    /// A holder empties its cache first, and takes the base snapshot second.
    InvalidatesBeforeBase,
    /// A change returns right after its commit.
    NeverWaits,
    /// A change that finds nothing to change returns at once.
    ReturnsIfNothingChanged,
    /// A request looks the entry up first, and reads the deadline second.
    EntryBeforeDeadline,
    /// A miss joins a look that has begun before the request.
    JoinsEarlierLook,
    /// The holder's clock stops while its machine is suspended.
    ClockStopsWhileSuspended,
    /// The deadline is a time of the database's wall clock, compared with the holder's wall clock.
    ComparesWallClocks,
    /// A lease lasts T, not 0.8 T.
    NoAllowance,
    /// T is lowered for holders and changers at once.
    LowersAtOnce,
    /// A miss stores what it has read without a lease of the cache.
    RemembersWithoutLease,
    /// A renewal asks for ids greater than the last one, not for the difference of snapshots.
    GreaterThanLast,
    /// On SQLite, a holder reads the rows first, and the version second.
    ReadsRowsBeforeVersion,
    /// On SQLite, a holder polls in an open transaction, in which the version stays the same.
    PollsInTransaction,
    /// Load, registration and the first lease are one transaction.
    LoadsAndRegistersAtOnce,
    /// A registration ends with its session.
    RegistrationEndsWithSession,
    /// A holder that stops deletes its registration first, and gives its lease up second.
    LeavesBeforeGivingUp,
    /// A registration is made under the id of the process, so a late deletion removes the next one.
    SharesRegistrationId,
    /// A registration writes the base as applied also where the base does not count.
    RegistersInAnySession,
    /// A holder whose registration is missing continues.
    StruckOffContinues,
    /// A renewal writes nothing.
    RenewalsWriteNothing,
    /// A renewal acknowledges the changes that it reads, before they are applied.
    AcknowledgesAtOnce,
    /// A renewal writes its acknowledgement also where its base does not count.
    AcknowledgesInAnySession,
    /// A change without effect records no barrier, and returns at once.
    NoBarrier,
    /// The holders are listed before the commit.
    ListsHoldersBeforeCommit,
    /// A changer takes any run of the server for settled.
    IgnoresServerRun,
    /// A changer reads acknowledgements of its id in a later run, too.
    ReadsAcknowledgementsInAnyRun,
    /// A change that returns after T strikes off the holders that have not acknowledged.
    ReturningStrikesOff,
    /// A holder is struck off without having been watched for T.
    StrikesOffUnwatched,
    /// A strike-off does not compare the count.
    StrikesOffRegardless,
    /// A watch for a strike-off goes on after its session has ended. Renewals are asynchronous.
    WatchesAcrossSessions,
    /// A run is settled without having been watched for T.
    SettlesAtOnce,
    /// The commit of a registration returns before it is durable.
    RegistersAsynchronously,
    /// A changer that loses its session waits T first, and reads the key second.
    WaitsThenReads,
}

impl Mutant {
    /// Returns all mutants.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Returns the name on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_name().to_owned()
    }

    /// Returns the first sentence of the documentation: what the mutant does.
    pub fn fault(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_help().map(ToString::to_string).unwrap_or_default()
    }

    /// Returns the number of the rule in `docs/read-lease.md`, or of the assumption.
    pub fn rule(self) -> &'static str {
        match self {
            Self::DeadlineFromAnswer
            | Self::MovesBeforeApplying
            | Self::LostAnswerMovesDeadline
            | Self::TakesDoubledAnswer => "R1",
            Self::IgnoresSession
            | Self::IgnoresPruning
            | Self::IgnoresFingerprint
            | Self::InvalidatesBeforeBase => "R2",
            Self::NeverWaits | Self::ReturnsIfNothingChanged => "R3",
            Self::EntryBeforeDeadline => "R4",
            Self::JoinsEarlierLook => "R5",
            Self::ClockStopsWhileSuspended | Self::ComparesWallClocks => "R6",
            Self::NoAllowance => "A3",
            Self::LowersAtOnce => "R7",
            Self::RemembersWithoutLease => "R8",
            Self::ReadsRowsBeforeVersion | Self::PollsInTransaction => "RL8",
            Self::GreaterThanLast => "RL4",
            Self::LoadsAndRegistersAtOnce
            | Self::RegistrationEndsWithSession
            | Self::LeavesBeforeGivingUp
            | Self::SharesRegistrationId
            | Self::RegistersInAnySession
            | Self::StruckOffContinues => "R9",
            Self::RenewalsWriteNothing
            | Self::AcknowledgesAtOnce
            | Self::AcknowledgesInAnySession => "R10",
            Self::NoBarrier => "R11",
            Self::ListsHoldersBeforeCommit
            | Self::IgnoresServerRun
            | Self::ReadsAcknowledgementsInAnyRun => "R12",
            Self::ReturningStrikesOff
            | Self::StrikesOffUnwatched
            | Self::StrikesOffRegardless
            | Self::WatchesAcrossSessions => "R13",
            Self::SettlesAtOnce => "R14",
            Self::RegistersAsynchronously => "R15",
            Self::WaitsThenReads => "R16",
        }
    }

    /// Returns small bounds within which the mutant violates G11.
    pub fn bounds(self) -> Config {
        let base = Config::base(1, 1);
        let whole = Config::new(1, 1);
        let config = match self {
            Self::DeadlineFromAnswer
            | Self::MovesBeforeApplying
            | Self::TakesDoubledAnswer
            | Self::NeverWaits
            | Self::EntryBeforeDeadline => base,
            Self::LostAnswerMovesDeadline => base.with(&[Failure::Answers]),
            Self::GreaterThanLast => Config { others: 1, ..base },
            Self::IgnoresSession => Config { others: 1, ..base }.with(&[Failure::Failover]),
            Self::IgnoresPruning => base.with(&[Failure::Pruning]),
            Self::IgnoresFingerprint => base.with(&[Failure::Triggers]),
            Self::InvalidatesBeforeBase | Self::RemembersWithoutLease => {
                Config { cache: true, ..base }
            }
            Self::ReturnsIfNothingChanged => {
                Config { attempts: 2, ..base }.with(&[Failure::Changers])
            }
            Self::LowersAtOnce => base.with(&[Failure::Lowering]),
            Self::ReadsRowsBeforeVersion | Self::PollsInTransaction => {
                Config { polls: true, ..base }
            }
            Self::JoinsEarlierLook => Config { looks: true, ..base },
            Self::NoAllowance | Self::ComparesWallClocks | Self::ClockStopsWhileSuspended => {
                Config { clocks: Clocks::Ticks, ..base }
            }
            Self::LoadsAndRegistersAtOnce
            | Self::AcknowledgesAtOnce
            | Self::ListsHoldersBeforeCommit => whole,
            Self::RegistrationEndsWithSession => whole.with(&[Failure::Sessions]),
            Self::LeavesBeforeGivingUp | Self::SharesRegistrationId => {
                whole.with(&[Failure::Leaves])
            }
            Self::RenewalsWriteNothing
            | Self::StruckOffContinues
            | Self::StrikesOffUnwatched
            | Self::StrikesOffRegardless => whole.with(&[Failure::StrikeOffs]),
            Self::AcknowledgesInAnySession => {
                Config { others: 1, ..whole }.with(&[Failure::Recovery])
            }
            Self::NoBarrier => Config { attempts: 2, ..whole }.with(&[Failure::Changers]),
            Self::ReturningStrikesOff => Config { others: 1, ..whole },
            Self::WatchesAcrossSessions => whole.with(&[Failure::Recovery, Failure::StrikeOffs]),
            Self::IgnoresServerRun | Self::SettlesAtOnce => whole.with(&[Failure::Failover]),
            Self::WaitsThenReads => whole.with(&[Failure::Changers]),
            Self::RegistersAsynchronously => whole.with(&[Failure::Recovery]),
            Self::RegistersInAnySession => {
                Config { others: 1, split: true, ..whole }.with(&[Failure::Recovery])
            }
            Self::ReadsAcknowledgementsInAnyRun => whole.with(&[Failure::Failover]),
        };
        Config { mutant: Some(self), ..config }
    }
}
