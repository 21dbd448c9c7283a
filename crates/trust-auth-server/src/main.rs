//! The program `trust-auth`: manages trusts and their API keys, and answers proxies over HTTP.
//!
//! `main` reads the arguments, runs one command and delivers its answer. No argument, log line or
//! error carries a key, and no input makes the program panic.

#![forbid(unsafe_code)]

mod args;
mod causes;
mod change_record;
mod command_answer;
mod command_error;
mod completions;
mod database;
mod enable;
mod failed_wait;
mod find_by;
mod interrupt;
mod issue_key;
mod json;
mod key_digest;
mod key_prefix;
mod key_terms;
mod keys;
mod keys_text;
mod lifetime;
mod list;
mod lower_read_lease;
mod migrate;
mod new_trust;
mod openapi;
mod pepper;
mod presented_key;
mod revocation_end;
mod revocation_step;
mod revoke;
mod serve;
mod set_attributes;
mod store;
mod table_args;
mod trust_text;
mod verify;
mod wait_progress;
mod warnings;

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use trust_auth::TrustRef;

use crate::args::{Command, CommandLine, KeyArgs, KeyCommand, RevocationArgs};
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::DatabaseArgs;
use crate::key_terms::{RotationTerms, key_terms};
use crate::lifetime::Lifetime;
use crate::revocation_step::RevocationStep;
use crate::revoke::revoke;

fn main() -> ExitCode {
    let line = match CommandLine::read() {
        Ok(line) => line,
        Err(exit) => return exit,
    };
    let format = if line.options.json { Format::Json } else { Format::Human };
    let serves = matches!(line.command, Command::Serve(_));
    // The service has a log of its own.
    if !serves {
        warnings::show();
    }
    let outcome = runtime(&line.command).and_then(|runtime| {
        let outcome = runtime.block_on(run(line, format));
        // Without a wait: a resolver or a file system that hangs may hold a thread of the runtime
        // without end.
        runtime.shutdown_background();
        outcome
    });
    let exit = outcome.as_ref().map_or_else(CommandError::exit_code, CommandAnswer::exit_code);
    let deliver = move || match outcome {
        Ok(answer) => answer.deliver(),
        Err(error) => error.deliver(format),
    };
    if serves { deliver_within(DELIVERY_LIMIT, exit, deliver) } else { deliver() }
}

/// How long the service waits at its end for standard output and standard error to take the last
/// line.
const DELIVERY_LIMIT: Duration = Duration::from_millis(500);

/// Delivers, and returns `otherwise` if nothing takes the text within the limit.
///
/// A pipe may be full because its reader has stopped.
fn deliver_within(
    limit: Duration,
    otherwise: ExitCode,
    deliver: impl FnOnce() -> ExitCode + Send + 'static,
) -> ExitCode {
    let (delivered, delivery) = mpsc::channel();
    let thread = thread::Builder::new().spawn(move || delivered.send(deliver()));
    thread.ok().and_then(|_| delivery.recv_timeout(limit).ok()).unwrap_or(otherwise)
}

/// Starts a runtime of several threads for the service, and of one thread for a single command.
fn runtime(command: &Command) -> Result<Runtime, CommandError> {
    let mut builder = match command {
        Command::Serve(_) => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| CommandError::new("runtime", format!("cannot start the runtime: {error}")))
}

async fn run(line: CommandLine, format: Format) -> Result<CommandAnswer, CommandError> {
    let database = &line.options.database;
    // Before a command reads a key.
    database.tables.names().map(drop)?;
    match line.command {
        Command::Register(args) => issue_key::register(database, format, args).await,
        Command::Rotate(args) => {
            let key = key_terms(args.terms.label, args.terms.expires);
            let overlap = args.overlap.map(|Lifetime(overlap)| overlap);
            let step = RevocationStep::Rotate(RotationTerms { key, overlap });
            revoke_trust(database, format, step, &args.revocation, Some(args.keys)).await
        }
        Command::List(args) => list::list(database, format, args).await,
        Command::Key(KeyCommand::Add(args)) => keys::add(database, format, args).await,
        Command::Key(KeyCommand::List(args)) => keys::list(database, format, &args.trust).await,
        Command::Key(KeyCommand::Revoke(args)) => keys::revoke(database, format, args).await,
        Command::Disable(args) => {
            revoke_trust(database, format, RevocationStep::Disable, &args, None).await
        }
        Command::Enable(args) => enable::enable(database, format, &args.trust).await,
        Command::SetAttributes(args) => set_attributes::set(database, format, args).await,
        Command::Delete(args) => {
            revoke_trust(database, format, RevocationStep::Delete, &args, None).await
        }
        Command::Verify(args) => verify::verify(database, format, args).await,
        Command::Serve(settings) => serve::serve(database, format, &settings).await,
        Command::Migrate(args) => migrate::migrate(database, format, args).await,
        Command::LowerReadLease { longest } => {
            lower_read_lease::lower(database, format, longest).await
        }
        Command::Openapi => Ok(openapi::openapi(format)),
        Command::Completions { shell } => Ok(completions::completions(format, shell)),
    }
}

async fn revoke_trust(
    database: &DatabaseArgs,
    format: Format,
    step: RevocationStep,
    args: &RevocationArgs,
    keys: Option<KeyArgs>,
) -> Result<CommandAnswer, CommandError> {
    let which = TrustRef::from(&*args.trust.trust);
    revoke(database, format, step, &which, &args.wait, keys).await
}
