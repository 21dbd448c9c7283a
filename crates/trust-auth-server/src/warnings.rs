//! The library's warnings, such as a row whose hash is malformed, on standard error.
//!
//! Only the library's: a database driver's may quote statements, and nobody asked for them.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// From now on, until the process ends.
pub(crate) fn show() {
    // A standard error that is closed must not make a warning fatal: hence no word about a write
    // that failed.
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .log_internal_errors(false);
    let only_ours = Targets::new().with_target("trust_auth", LevelFilter::WARN);
    // It fails where somebody else shows warnings already, which is as good.
    let _ = tracing_subscriber::registry().with(lines).with(only_ours).try_init();
}
