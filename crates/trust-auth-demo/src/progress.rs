//! How far the demo is, on standard error, and only where a person is looking at it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use trust_auth::{Authenticator, SqliteStore};

use super::report::grouped;

const FRAME: Duration = Duration::from_millis(100);

/// The bar of the registrations.
pub(super) fn registering(trusts: u64) -> ProgressBar {
    bar(trusts, "{msg:<12} [{bar:30}] {human_pos}/{human_len} trusts", "Registering")
}

/// Draws the time that has gone by until the end, and goes on for ever: to be dropped.
pub(super) async fn running(duration: Duration, authenticator: &Authenticator<SqliteStore>) {
    let bar = bar(duration.as_millis() as u64, "{msg:<12} [{bar:30}] {prefix}", "Running");
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
    // A bar leaves the screen when it is dropped.
    let bar = ProgressBar::with_draw_target(Some(length), target)
        .with_finish(indicatif::ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(message)
}
