//! What a command answers, and how it reaches standard output: text or one line of JSON, written in
//! one go.
//!
//! Never panics on a closed pipe, and never lets an answer that cannot be had again (a new key) get
//! lost in silence.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::plain::plain;

/// Enough for any answer that holds a key, so that the text is not moved, and left behind unwiped,
/// while it grows.
const ROOM: usize = 4 * 1024;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Human,
    Json,
}

/// The answer of a command that came to one; what went wrong instead is a
/// [`Failure`](crate::failure::Failure).
pub(crate) struct Answer {
    /// May hold a key.
    stdout: Zeroizing<String>,
    stderr: Option<String>,
    if_lost: Option<String>,
    exit: u8,
}

impl Answer {
    /// `json` or `text`, as `format` says. `text` gets its last newline here.
    pub(crate) fn new(
        format: Format,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Self {
        let mut stdout = Zeroizing::new(String::with_capacity(ROOM));
        match format {
            Format::Json => stdout.push_str(&one_line(json)),
            Format::Human => stdout.push_str(&Zeroizing::new(text())),
        }
        stdout.push('\n');
        Self { stdout, stderr: None, if_lost: None, exit: 0 }
    }

    /// No answer at the end: what there was to say was said on the way.
    pub(crate) fn nothing() -> Self {
        Self { stdout: Zeroizing::default(), stderr: None, if_lost: None, exit: 0 }
    }

    /// A remark for the person, which is no part of the answer: standard error, after the answer.
    pub(crate) fn remark(mut self, remark: String) -> Self {
        self.stderr = Some(remark);
        self
    }

    /// What to say, as an error, when standard output does not take the answer. Without it, a
    /// reader that has gone is no error.
    pub(crate) fn if_lost(mut self, advice: String) -> Self {
        self.if_lost = Some(advice);
        self
    }

    /// The exit code of an answer that is a refusal.
    pub(crate) fn refused(mut self) -> Self {
        self.exit = 1;
        self
    }

    /// The exit code, if the answer is delivered.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }

    /// Writes the answer and gives the process its exit code.
    pub(crate) fn deliver(self) -> ExitCode {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(self.stdout.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.if_lost.is_none() => {}
            Err(error) => {
                complain(&format!("cannot write to standard output: {error}"));
                if let Some(advice) = self.if_lost {
                    complain(&advice);
                }
                return ExitCode::FAILURE;
            }
        }
        if let Some(remark) = self.stderr {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(io::stderr(), "{remark}");
        }
        ExitCode::from(self.exit)
    }
}

/// `error: ...` on standard error, as one line.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "error: {}", plain(message));
}

fn one_line(json: &impl Serialize) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ROOM));
    // Answers are structs of strings and numbers: they have no way to fail.
    let written = serde_json::to_writer(&mut *bytes, json);
    debug_assert!(written.is_ok(), "{written:?}");
    Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
}
