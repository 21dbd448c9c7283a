//! The service's log: lines on standard error, as text or JSON.
//!
//! What is logged is what this crate says, which never carries a key or a digest; other crates are heard from warnings on, and never with a
//! request's headers, which nobody gives them.

use std::io;

use clap::ValueEnum;
use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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

/// From now on, until the process ends.
pub(crate) fn start(format: LogFormat, level: LogLevel) {
    // A standard error that is closed must not make a line fatal: hence no word about a write that failed.
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Not the database driver: it may quote statements and what is bound to them.
    let targets = Targets::new().with_target("trust_auth", level).with_target("hyper", LevelFilter::WARN);
    // It fails where somebody else logs already, which is as good.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}
