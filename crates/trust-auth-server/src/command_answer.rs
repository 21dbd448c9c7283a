//! The answer of a command, as text or one line of JSON, which one write brings to standard output.
//!
//! A closed pipe never makes it panic. An answer that cannot be given a second time, such as a new
//! key, is never lost without an error.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::trust_text::escaped;

/// Enough for any answer that holds a key. Text that grows beyond its capacity is moved, and what
/// it leaves behind is not wiped.
const CAPACITY: usize = 4 * 1024;

/// The form of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Human,
    Json,
}

/// The answer of a command that did not fail with a
/// [`CommandError`](crate::command_error::CommandError).
pub(crate) struct CommandAnswer {
    /// May hold a key.
    stdout: Zeroizing<String>,
    stderr: Option<String>,
    if_lost: Option<String>,
    exit: u8,
}

impl CommandAnswer {
    /// Returns an answer of `json` or `text`, depending on `format`. Adds the last newline to
    /// `text`.
    pub(crate) fn new(
        format: Format,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Self {
        let mut stdout = Zeroizing::new(String::with_capacity(CAPACITY));
        match format {
            Format::Json => stdout.push_str(&one_line(json)),
            Format::Human => stdout.push_str(&Zeroizing::new(text())),
        }
        stdout.push('\n');
        Self { stdout, stderr: None, if_lost: None, exit: 0 }
    }

    /// Returns an answer without text, for a command that has written its output already.
    pub(crate) fn nothing() -> Self {
        Self { stdout: Zeroizing::default(), stderr: None, if_lost: None, exit: 0 }
    }

    /// Adds a remark for a person, which is written to standard error after the answer.
    pub(crate) fn remark(mut self, remark: String) -> Self {
        self.stderr = Some(remark);
        self
    }

    /// Sets the error to print if standard output does not take the answer. Without one, a closed
    /// pipe is not an error.
    pub(crate) fn if_lost(mut self, advice: String) -> Self {
        self.if_lost = Some(advice);
        self
    }

    /// Sets the exit code of a failure that has an answer all the same. Adds its error, which is
    /// written to standard error after the remark.
    pub(crate) fn failed(mut self, message: &str) -> Self {
        let error = format!("error: {}", escaped(message));
        self.stderr = Some(match self.stderr {
            Some(remark) => format!("{remark}\n{error}"),
            None => error,
        });
        self.exit = 1;
        self
    }

    /// Sets the exit code of a refusal.
    pub(crate) fn refused(mut self) -> Self {
        self.exit = 1;
        self
    }

    /// Sets the exit code of Ctrl-C: 128 + SIGINT, as in shells.
    pub(crate) fn interrupted(mut self) -> Self {
        self.exit = 130;
        self
    }

    /// Returns the exit code of the answer once it is delivered.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }

    /// Writes the answer and returns the exit code.
    pub(crate) fn deliver(self) -> ExitCode {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(self.stdout.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.if_lost.is_none() => {}
            Err(error) => {
                print_error(&format!("cannot write to standard output: {error}"));
                if let Some(advice) = self.if_lost {
                    print_error(&advice);
                }
                return ExitCode::FAILURE;
            }
        }
        if let Some(remark) = self.stderr {
            // Without an effect if standard error is closed.
            let _ = writeln!(io::stderr(), "{remark}");
        }
        ExitCode::from(self.exit)
    }
}

/// Writes `error: ...` to standard error, as one line.
pub(crate) fn print_error(message: &str) {
    let _ = writeln!(io::stderr(), "error: {}", escaped(message));
}

fn one_line(json: &impl Serialize) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(CAPACITY));
    // Answers are structs of strings and numbers, whose serialization cannot fail.
    let written = serde_json::to_writer(&mut *bytes, json);
    debug_assert!(written.is_ok(), "{written:?}");
    Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
}
