//! `trust-auth`: manages trusts and their API keys from a shell, and answers proxies over HTTP.
//!
//! Reads arguments, runs one command, delivers its answer. No key in an argument, a log or an
//! error; no panic on any input.

#![forbid(unsafe_code)]

mod answer;
mod args;
mod change;
mod changes;
mod completions;
mod database;
mod failure;
mod interrupt;
mod issue_key;
mod list;
mod migrate;
mod plain;
mod presented_key;
mod serve;
mod store;
mod trust_text;
mod verify;
mod warnings;

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::answer::{Answer, Format};
use crate::args::{Command, CommandLine};
use crate::change::{Change, change};
use crate::failure::Failure;

fn main() -> ExitCode {
    let line = match CommandLine::read() {
        Ok(line) => line,
        Err(exit) => return exit,
    };
    let format = if line.options.json { Format::Json } else { Format::Human };
    // The service has a log.
    if !matches!(line.command, Command::Serve(_)) {
        warnings::show();
    }
    let serves = matches!(line.command, Command::Serve(_));
    let outcome = runtime(&line.command).and_then(|runtime| {
        let outcome = runtime.block_on(run(line, format));
        // Not waited for: a resolver or a file system that hangs keeps a thread of the runtime as
        // long as it likes.
        runtime.shutdown_background();
        outcome
    });
    let exit = outcome.as_ref().map_or_else(Failure::exit_code, Answer::exit_code);
    let deliver = move || match outcome {
        Ok(answer) => answer.deliver(),
        Err(failure) => failure.deliver(format),
    };
    if serves { deliver_within(LAST_WORDS, exit, deliver) } else { deliver() }
}

/// How long the end of the service waits for standard output and standard error to take its last
/// words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Delivers, and goes on with this exit code if nothing takes it for so long: a pipe may be full,
/// and its reader may have stopped.
fn deliver_within(
    limit: Duration,
    otherwise: ExitCode,
    deliver: impl FnOnce() -> ExitCode + Send + 'static,
) -> ExitCode {
    let (delivered, delivery) = mpsc::channel();
    let thread = thread::Builder::new().spawn(move || delivered.send(deliver()));
    thread.ok().and_then(|_| delivery.recv_timeout(limit).ok()).unwrap_or(otherwise)
}

/// The service gets a runtime of several threads; a single change needs none.
fn runtime(command: &Command) -> Result<Runtime, Failure> {
    let mut builder = match command {
        Command::Serve(_) => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new("runtime", format!("cannot start the runtime: {error}")))
}

async fn run(line: CommandLine, format: Format) -> Result<Answer, Failure> {
    let database = &line.options.database;
    match line.command {
        Command::Register(asked) => issue_key::register(database, format, asked).await,
        Command::Rotate(which) => issue_key::rotate(database, format, &which.trust).await,
        Command::List => list::list(database, format).await,
        Command::Disable(which) => change(database, format, Change::Disable, &which.trust).await,
        Command::Enable(which) => change(database, format, Change::Enable, &which.trust).await,
        Command::Delete(which) => change(database, format, Change::Delete, &which.trust).await,
        Command::Verify => verify::verify(database, format).await,
        Command::Serve(settings) => serve::serve(database, format, &settings).await,
        Command::Migrate(asked) => migrate::migrate(database, format, asked).await,
        Command::Completions { shell } => Ok(completions::completions(format, shell)),
    }
}
