//! Why the demo could not finish: a kind for programs, a message for people, and the exit code.
//!
//! No message contains a key: each text is that of a typed error, and typed errors contain no key.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use tokio::task::JoinError;
use trust_auth::{InvalidName, RandomError, RegistryError, StoreError};
use trust_key_cache::BuildError;

/// The exit code after SIGINT, as shells count: 128 + 2.
const INTERRUPTED: u8 = 130;

/// Why the demo could not finish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("cannot build the cache")]
    Cache(#[from] BuildError),
    #[error("cannot make a histogram")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Random(#[from] RandomError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot listen for Ctrl-C")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task of the demo failed")]
    Task(#[from] JoinError),
    #[error("a task of the demo ended too early")]
    TaskEnded,
    #[error("cannot make a temporary folder: {0}; set TMPDIR to a folder that is writable")]
    TemporaryFolder(#[source] io::Error),
    #[error("cannot remove the temporary folder {path:?}: {source}; remove it by hand")]
    TemporaryFolderLeft { path: PathBuf, source: io::Error },
}

impl DemoError {
    /// Returns the word that identifies the error for programs.
    fn kind(&self) -> &'static str {
        match self {
            Self::Cache(_) => "cache",
            Self::Histogram(_) => "histogram",
            Self::Interrupted => "interrupted",
            Self::Name(_) => "invalid_name",
            Self::Random(_) => "random",
            Self::Registry(error) => error.kind(),
            Self::Runtime(_) => "runtime",
            Self::Signals(_) => "signals",
            Self::Store(error) => error.kind(),
            Self::Task(_) | Self::TaskEnded => "demo",
            Self::TemporaryFolder(_) | Self::TemporaryFolderLeft { .. } => "temporary_folder",
        }
    }

    /// Returns the message with its causes. A cause that the message quotes is not repeated.
    pub(crate) fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        text
    }

    /// Returns the exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Interrupted) { INTERRUPTED } else { 1 }
    }

    /// Returns `{"error":{"kind":..,"message":..}}`, the form that the program `trust-auth` has.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({ "error": { "kind": self.kind(), "message": self.message() } })
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_kind_and_a_message_that_repeats_no_cause() {
        for (error, json) in [
            (
                DemoError::TemporaryFolder(io::Error::other("disk full")),
                concat!(
                    r#"{"error":{"kind":"temporary_folder","message":"cannot make a temporary "#,
                    r#"folder: disk full; set TMPDIR to a folder that is writable"}}"#
                ),
            ),
            (
                DemoError::Runtime(io::Error::other("no threads")),
                r#"{"error":{"kind":"runtime","message":"cannot start the runtime: no threads"}}"#,
            ),
        ] {
            assert_eq!(error.json(), json);
        }
    }

    #[test]
    fn an_interrupt_has_the_exit_code_of_shells() {
        assert_eq!(DemoError::Interrupted.exit_code(), 130);
        assert_eq!(DemoError::TaskEnded.exit_code(), 1);
    }
}
