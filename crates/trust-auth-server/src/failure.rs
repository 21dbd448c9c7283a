//! Why a command came to no answer: a kind for programs, a message for people, and the exit code.
//!
//! A message says what to do. It never carries a key: every text in it comes from a typed error,
//! which does not either.

use std::error::Error;
use std::process::ExitCode;

use serde::Serialize;
use trust_auth::{InvalidName, RegistryError, StoreError};

use crate::answer::{Answer, Format, complain};

/// What `{"error":{..}}` holds, or `error: ...` says.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    kind: &'static str,
    message: String,
    #[serde(skip)]
    exit: u8,
}

impl Failure {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), exit: 1 }
    }

    /// Ctrl-C, or a request to terminate: 128 + SIGINT, as shells count.
    pub(crate) fn interrupted() -> Self {
        Self { exit: 130, ..Self::new("interrupted", "interrupted") }
    }

    /// What to tell the person.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }

    /// Says it where the caller listens: one line of JSON on standard output, or text on standard
    /// error.
    pub(crate) fn deliver(self, format: Format) -> ExitCode {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a Failure,
        }
        match format {
            Format::Human => complain(&self.message),
            Format::Json => {
                Answer::new(format, &Envelope { error: &self }, String::new).deliver();
            }
        }
        ExitCode::from(self.exit)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => error.into(),
            error => Self::new(error.kind(), with_causes(&error)),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind(), with_causes(&error))
    }
}

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Self {
        Self::new("invalid_name", with_causes(&error))
    }
}

/// The message and its causes, joined by colons; a cause that the message quotes already is not
/// said twice.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_said_once_each() {
        let inner = Layer { text: "disk full", source: None };
        let middle = Layer { text: "write failed: disk full", source: Some(Box::new(inner)) };
        let outer = Layer { text: "cannot register", source: Some(Box::new(middle)) };
        assert_eq!(with_causes(&outer), "cannot register: write failed: disk full");
    }
}
