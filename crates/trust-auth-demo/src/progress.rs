//! The progress bar, on standard error. It is drawn on terminals alone.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use trust_auth::{Authenticator, SqliteStore};

use crate::report::grouped;

/// How long one frame of the bar is shown.
const FRAME: Duration = Duration::from_millis(100);

/// Returns a bar for the registrations.
pub(crate) fn registering(trusts: u64) -> ProgressBar {
    bar(trusts, "{msg:<12} [{bar:16}] {human_pos}/{human_len} trusts", "Registering")
}

/// Draws the time that has passed. Never resolves: the caller drops the future.
pub(crate) async fn running(
    duration: Duration,
    authenticator: &Authenticator<SqliteStore>,
) -> Infallible {
    let bar = bar(duration.as_millis() as u64, "{msg:<12} [{bar:16}] {prefix}", "Running");
    let start = Instant::now();
    loop {
        let gone = start.elapsed().min(duration);
        bar.set_prefix(format!(
            "{:.0}/{} s, {} requests",
            gone.as_secs_f64(),
            duration.as_secs(),
            grouped(authenticator.stats().requests)
        ));
        bar.set_position(gone.as_millis() as u64);
        tokio::time::sleep(FRAME).await;
    }
}

fn bar(length: u64, template: &str, message: &'static str) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    // Dropping the bar removes it from the screen.
    let bar = ProgressBar::with_draw_target(Some(length), target)
        .with_finish(indicatif::ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(message)
}
