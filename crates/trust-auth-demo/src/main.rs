//! Shows under load that a revoked API key is refused, with the library `trust-auth` over SQLite.
//!
//! The program reads its options, runs the demo and reports the result. No output contains a key.

#![forbid(unsafe_code)]

mod args;
mod demo;
mod demo_error;
// One file serves this program and `trust-auth`.
#[path = "../../trust-auth-server/src/interrupt.rs"]
#[allow(dead_code, reason = "the other program uses all of it")]
mod interrupt;
mod keyring;
mod latency;
mod oracle;
mod progress;
mod report;
mod revoker;
mod traffic;

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::runtime::Builder;

use crate::args::{HELP, Options, Request};
use crate::demo_error::DemoError;
use crate::report::Report;

/// The exit code of a demo that failed or that found a wrong answer.
const FAILED: u8 = 1;
/// The exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match args::parse(lexopt::Parser::from_env()) {
        Ok(Request::Run(options)) => options,
        Ok(Request::Help) => return print(HELP, 0),
        Err(error) => return complain(&error.to_string(), WRONG_USAGE),
    };
    if !options.json {
        // Printed before the first trust is registered, so that the reader has the plan first.
        print(&report::introduction(options.trusts, options.seconds), 0);
    }
    match run(&options) {
        Ok(report) => {
            let text = if options.json { report.json() } else { report.text() };
            print(&text, if report.held() { 0 } else { FAILED })
        }
        Err(error) if options.json => print(&error.json(), error.exit_code()),
        Err(error) => complain(&error.message(), error.exit_code()),
    }
}

fn run(options: &Options) -> Result<Report, DemoError> {
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(DemoError::Runtime)?;
    runtime.block_on(demo::demo(options))
}

/// Prints `text` and a newline, and returns the exit code. A reader that has closed the pipe is no
/// error.
fn print(text: &str, exit: u8) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"), FAILED)
        }
        _ => ExitCode::from(exit),
    }
}

/// Prints an error on standard error, and returns the exit code.
fn complain(message: &str, exit: u8) -> ExitCode {
    // If standard error is closed, only the exit code is left to report the error.
    let _ = writeln!(io::stderr(), "error: {message}");
    ExitCode::from(exit)
}
