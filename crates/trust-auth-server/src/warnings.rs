//! The warnings of the library, such as a row whose digest is malformed, on standard error.
//!
//! Other crates are left out: a database driver may quote statements.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Shows warnings until the process ends.
pub(crate) fn show() {
    // A closed standard error must not make a warning fatal, so a failed write is not reported.
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .log_internal_errors(false);
    let only_ours = Targets::new().with_target("trust_auth", LevelFilter::WARN);
    // Fails if another subscriber is installed, which then shows the warnings.
    let _ = tracing_subscriber::registry().with(lines).with(only_ours).try_init();
}
