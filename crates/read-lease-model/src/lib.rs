//! An explicit-state model of the read lease: the protocol between a database, the holders that
//! grant from held rows, and the changers that revoke.
//!
//! `stateright` visits every reachable state. The model checks guarantee G11: a request that begins
//! after a revocation has returned is not granted, by any holder. The numbers of the rules are
//! those of `docs/read-lease.md`. `docs/verification.md` lists the exhausted configurations, and
//! `docs/generated/read-lease-schedules.md` the schedules of the mutants.
//!
//! # One key, one request
//!
//! A violation is about one key and one request. So the model has one key, which is revoked and
//! never registered again. Changers of other rows exist as far as they use transaction ids, write
//! barriers, and read registrations. The one request begins after the first return of a revocation.
//!
//! # What the messages may do
//!
//! Each statement is sent, executed and answered in separate steps, and each process may pause
//! between any two of its steps. So messages are late without bound. A lost answer is a step, and a
//! lost session is another one. A notification is only a hint to renew, and a holder may renew at
//! any time. So all losses, delays and repetitions of notifications are covered.
//!
//! # Time
//!
//! `clock.rs` has two notions of time. One has ticks and drift. The other one has no lengths, and
//! only the one rule that leases and waits keep. It allows each execution that the ticks allow, for
//! any T and any drift within the allowance. Large configurations use it.
//!
//! # Reduction
//!
//! With [`Config::reduce`], states without danger to the key have no successors. Before the return,
//! these are states in which no changer of the key is left. After the return, these are states in
//! which no holder holds the key or will receive it. `normal_form.rs` describes which states are
//! merged, and the modules argue for their merged steps.

mod changer;
mod clock;
mod config;
mod database;
mod holder;
mod mutant;
mod normal_form;
mod properties;
mod protocol;
mod request;
mod schedule;
mod state;
mod watcher;

pub use changer::ChangerStep;
pub use clock::Clocks;
pub use config::{Config, Failure, MOST_CHANGERS, MOST_HOLDERS, MOST_TRANSACTIONS};
pub use database::DatabaseStep;
pub use holder::HolderStep;
pub use mutant::Mutant;
pub use protocol::{G11, KEEPS, Protocol, RETURNS, Step, WAIT_OUTLASTS};
pub use request::RequestStep;
pub use schedule::{SCHEDULES, schedules};
pub use state::{State, event};
pub use watcher::WatcherStep;
