//! The service's log: lines on standard error, as text or JSON.
//!
//! What is logged is what this crate says, which never carries a key or a digest; other crates are
//! heard from warnings on, and never with a request's headers, which nobody gives them.

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
use crate::failure::Failure;

/// How long the end of the process waits for the last lines.
pub(crate) const LAST_LINES: Duration = Duration::from_millis(500);

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One object a line
    Json,
}

/// The least that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    /// Start, end, changes of trusts, and whatever needs looking after; never a line a request
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

/// From now on, until the process ends. The queue has the lines on their way.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> Result<LogQueue, Failure> {
    let queue = LogQueue::start(io::stderr())
        .map_err(|error| Failure::new("log", format!("cannot start the log's thread: {error}")))?;
    let writer = queue.clone();
    // A standard error that is closed must not make a line fatal: hence no word about a write that
    // failed.
    let lines = fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Not the database driver: it may quote statements and what is bound to them.
    let targets =
        Targets::new().with_target("trust_auth", level).with_target("hyper", LevelFilter::WARN);
    // It fails where another subscriber logs already, which is as good.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    // The usual hook writes to standard error itself, and a worker that panics would wait for it.
    panic::set_hook(Box::new(|panic| tracing::error!("a task panicked, which is a bug: {panic}")));
    Ok(queue)
}
