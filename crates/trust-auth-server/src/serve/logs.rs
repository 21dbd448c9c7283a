//! The log of the service: lines on standard error, as text or JSON.
//!
//! It has the events of this project, which never carry a key or a digest, and the warnings of
//! hyper. Other crates are left out: a database driver may quote statements and their values.

use std::io;
use std::panic;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_queue::LogQueue;
use crate::command_error::CommandError;

/// How long the end of the process waits for the last lines.
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// The format of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// The least severe level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    /// The start, the end, changes of trusts, and what needs the attention of an operator. No level
    /// logs a line for each request
    #[default]
    Info,
    Debug,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// Starts the log, which runs until the process ends. Returns the queue of its lines.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> Result<LogQueue, CommandError> {
    let queue = LogQueue::start(io::stderr()).map_err(|error| {
        CommandError::new("log", format!("cannot start the thread of the log: {error}"))
    })?;
    let writer = queue.clone();
    // A closed standard error must not make a line fatal, so a failed write is not reported.
    let lines = fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let targets =
        Targets::new().with_target("trust_auth", level).with_target("hyper", LevelFilter::WARN);
    // Fails if another subscriber is installed, which then writes the log.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    // The default hook writes to standard error itself, where a worker that panics could wait.
    panic::set_hook(Box::new(|panic| tracing::error!("a task panicked, which is a bug: {panic}")));
    Ok(queue)
}
