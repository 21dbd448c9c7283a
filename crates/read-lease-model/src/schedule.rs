//! Schedules that a person reads: steps as sentences, and the page of all mutants.

use clap::ValueEnum;

use crate::changer::ChangerStep;
use crate::clock::Clocks;
use crate::config::{Config, Failure};
use crate::database::DatabaseStep;
use crate::holder::HolderStep;
use crate::mutant::Mutant;
use crate::protocol::{G11, Protocol, Step};
use crate::request::RequestStep;
use crate::watcher::WatcherStep;

/// The page of schedules in the repository.
pub const SCHEDULES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/generated/read-lease-schedules.md");

const HEAD: &str = "\
# Schedules that break the read lease without a rule

`cargo run --release -p read-lease-model -- --write` writes this page; do not edit it by hand. Each
section is the protocol without one rule, and the shortest schedule after which a request that began
after the return of a revocation is granted. The numbers of rules are those of
[read-lease.md](../read-lease.md). The model is described in
[verification.md](../verification.md#the-read-lease-explicit-states).
";

/// Returns a page with the shortest schedule of each mutant.
pub fn schedules() -> String {
    let mut page = HEAD.to_owned();
    for &mutant in Mutant::all() {
        let config = mutant.bounds();
        let bounds = bounds(&config);
        let protocol = Protocol::new(config).expect("the bounds of a mutant are valid");
        page += &format!("\n## {}: `{}`\n\n", mutant.rule(), mutant.name());
        page += &format!("{}. Bounds: {bounds}.\n\n", mutant.fault());
        match protocol.shortest_violation(G11) {
            None => page += "Not found.\n",
            Some(path) => {
                for (number, step) in path.iter().enumerate() {
                    page += &format!("{}. {}\n", number + 1, sentence(step, &protocol));
                }
            }
        }
    }
    page
}

/// Returns the bounds of a configuration in words.
fn bounds(config: &Config) -> String {
    let count = |number: usize, noun: &str| match number {
        1 => format!("one {noun}"),
        number => format!("{number} {noun}s"),
    };
    let mut words = vec![count(config.holders, "holder"), count(config.changers, "changer")];
    if config.others > 0 {
        words.push(count(config.others, "changer") + " of another row");
    }
    if config.attempts > 1 {
        words.push(count(config.attempts, "attempt"));
    }
    let protocol = if config.acknowledgements { "acknowledgements" } else { "waiting only" };
    words.push(protocol.to_owned());
    let flags = [
        (config.clocks == Clocks::Ticks, "ticks"),
        (config.polls, "polls"),
        (config.cache, "a cache"),
        (config.looks, "looks"),
        (config.split, "split statements"),
    ];
    words.extend(flags.iter().filter(|flag| flag.0).map(|flag| flag.1.to_owned()));
    let failures = config.failures.iter().filter_map(Failure::to_possible_value);
    words.extend(failures.map(|failure| format!("`{}`", failure.get_name())));
    words.join(", ")
}

/// Returns the step as a sentence.
pub(crate) fn sentence(step: &Step, protocol: &Protocol) -> String {
    match *step {
        Step::Database(step) => database(step),
        Step::Holder(number, step) => format!("Holder {}", name(number)) + holder(step),
        Step::Changer(number, step) => {
            let revokers = protocol.config.changers;
            let name = match usize::from(number) {
                number if number >= revokers => "The changer of another row".to_owned(),
                _ if revokers == 1 => "The changer".to_owned(),
                number => format!("Changer {}", number + 1),
            };
            name + &changer(step)
        }
        Step::Watcher(step) => watcher(step),
        Step::Request(step) => request(step),
        Step::Tick(0) => "All clocks tick.".to_owned(),
        Step::Tick(miss) => {
            let missing = (0..8).filter(|holder| miss & 1 << holder != 0).map(name);
            let missing: Vec<String> = missing.collect();
            format!("All clocks tick, except for the slow clock of holder {}.", missing.join(", "))
        }
    }
}

/// Holders are letters, and changers are numbers.
fn name(holder: u8) -> String {
    char::from(b'A' + holder).to_string()
}

fn database(step: DatabaseStep) -> String {
    match step {
        DatabaseStep::Commit(id) => format!("The database commits transaction {id}."),
        DatabaseStep::RollBack(id) => format!("The database rolls transaction {id} back."),
        DatabaseStep::ChangeUnrecorded => {
            "An administrator disables the triggers, revokes the key, and enables the triggers, in \
             one transaction."
        }
        .to_owned(),
        DatabaseStep::Prune => "A process prunes the recorded changes.".to_owned(),
        DatabaseStep::Detach => {
            "From here on, commits do not reach the standby, or the disk.".to_owned()
        }
        DatabaseStep::CommitOnStandby(id) => {
            format!("The commit of transaction {id} reaches the standby.")
        }
        DatabaseStep::FailOver => {
            "The standby is promoted, without the commits that did not reach it.".to_owned()
        }
        DatabaseStep::Recover => {
            "The server crashes and recovers, without the commits that did not reach the disk."
                .to_owned()
        }
    }
}

fn holder(step: HolderStep) -> &'static str {
    match step {
        HolderStep::Load => " loads all rows.",
        HolderStep::ReadVersion => " reads the first of version and rows.",
        HolderStep::ReadRows => " reads the second of version and rows.",
        HolderStep::Register => " registers, and the commit returns.",
        HolderStep::SendRenewal => " notes its clock, and sends a renewal.",
        HolderStep::ReadRenewal => "'s renewal takes its snapshot, and reads.",
        HolderStep::ExecuteRenewal => "'s renewal is executed, and its answer is on the way.",
        HolderStep::ExecuteTwice => "'s renewal is executed, and its copy is on the way.",
        HolderStep::ApplyFormerAnswer => {
            " receives the answer of its last renewal again, and takes it for that of this one."
        }
        HolderStep::ApplyRenewal => " receives the answer, and acts on it.",
        HolderStep::MoveDeadline => " moves its deadline, and has not applied the answer yet.",
        HolderStep::ExecuteLoad => "'s load on a new session is executed.",
        HolderStep::ApplyLoad => " replaces its rows by the loaded rows.",
        HolderStep::LoseAnswer => " loses the answer.",
        HolderStep::LoseSession => " loses its session.",
        HolderStep::Crash => " crashes, and a new process starts.",
        HolderStep::Leave => " stops: it leaves.",
        HolderStep::DeleteLate => "'s late deletion of its registration is executed.",
        HolderStep::ExecuteLook => "'s look is executed, and its answer is on the way.",
        HolderStep::ApplyLook => " receives the answer of the look, and acts on it.",
        HolderStep::Miss => " misses the key, and takes a lease of the cache.",
        HolderStep::ReadMissed => " reads the key.",
        HolderStep::Remember => " remembers the key.",
        HolderStep::BeginLoadAndRegister => {
            " notes its clock, and loads all rows, in a transaction that will also register."
        }
        HolderStep::CommitLoadAndRegister => "'s transaction commits, and its lease begins.",
    }
}

fn changer(step: ChangerStep) -> String {
    let said = match step {
        ChangerStep::Begin(id) => return format!(" begins transaction {id}."),
        ChangerStep::CommitReturns => "'s commit returns.",
        ChangerStep::ReturnAcknowledged => " returns without waiting.",
        ChangerStep::ReturnAfterWait => " finds that T has passed, and returns.",
        ChangerStep::StartOver => " crashes, or loses its session.",
        ChangerStep::LoseSession => " loses its session, and begins to wait T.",
        ChangerStep::ReadAfterWait => {
            " finds that T has passed, reads that the key is revoked, and returns."
        }
    };
    said.to_owned()
}

fn watcher(step: WatcherStep) -> String {
    match step {
        WatcherStep::Watch(holder) => {
            format!("The striker reads the count of holder {}, and begins to wait T.", name(holder))
        }
        WatcherStep::StrikeOff => "The striker deletes the registration.".to_owned(),
        WatcherStep::WatchRun => {
            "The settler reads the run of the server, and begins to wait T.".to_owned()
        }
        WatcherStep::ShortenLeases => {
            "An operator lets holders use a shorter T, and begins to wait the old T.".to_owned()
        }
        WatcherStep::ShortenWaits => "The operator lets changers wait the shorter T.".to_owned(),
        WatcherStep::Settle => "The settler takes the run for settled.".to_owned(),
    }
}

fn request(step: RequestStep) -> String {
    match step {
        RequestStep::ReadDeadline(holder) => {
            format!("A request to holder {} begins, and reads the deadline.", name(holder))
        }
        RequestStep::ReadEntryAndClock(holder) => {
            format!("The request reads the entry, then the clock: holder {} grants.", name(holder))
        }
        RequestStep::JoinLook(holder) => {
            format!("A request to holder {} begins, joins the look, and is granted.", name(holder))
        }
        RequestStep::ReadEntry(holder) => {
            format!("A request to holder {} begins, and reads the entry.", name(holder))
        }
        RequestStep::ReadDeadlineAndClock(holder) => {
            format!("The request reads the deadline and the clock: holder {} grants.", name(holder))
        }
    }
}
