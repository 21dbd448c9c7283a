//! [`CommandError`]: why a command failed, as a kind for programs, a message for people and an exit
//! code.
//!
//! A message states what to do. The error never contains a key: each of its texts is that of a
//! typed error, and typed errors contain no key.

use std::process::ExitCode;

use trust_auth::{InvalidName, KeyFlaw, RegistryError, StoreError};

use crate::causes::with_causes;
use crate::command_answer::{CommandAnswer, Format, print_error};
use crate::json::ErrorJson;

/// The failure of a command.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: &'static str,
    message: String,
    exit: u8,
}

impl CommandError {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), exit: 1 }
    }

    /// Returns the error of options that do not fit together. Its exit code is that of wrong usage.
    pub(crate) fn wrong_usage(kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(kind, message) }
    }

    /// Returns the error for Ctrl-C, or for a request to terminate. Its exit code is 128 + SIGINT,
    /// as in shells.
    pub(crate) fn interrupted() -> Self {
        Self { exit: 130, ..Self::new("interrupted", "interrupted") }
    }

    /// Returns the word for programs.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }

    /// Writes one line of JSON to standard output, or text to standard error.
    pub(crate) fn deliver(self, format: Format) -> ExitCode {
        match format {
            Format::Human => print_error(&self.message),
            Format::Json => {
                let json = ErrorJson::new(self.kind, &self.message);
                CommandAnswer::new(format, &json, String::new).deliver();
            }
        }
        ExitCode::from(self.exit)
    }
}

impl From<RegistryError> for CommandError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => error.into(),
            error => Self::new(error.kind(), with_causes(&error)),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind(), with_causes(&error))
    }
}

impl From<KeyFlaw> for CommandError {
    fn from(flaw: KeyFlaw) -> Self {
        RegistryError::from(flaw).into()
    }
}

impl From<InvalidName> for CommandError {
    fn from(error: InvalidName) -> Self {
        Self::new("invalid_name", with_causes(&error))
    }
}
