//! Shows on standard error how long a wait takes for processes with a read lease.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish};

use crate::command_answer::Format;

/// A wait that is shorter shows no progress.
const UNNOTICED: Duration = Duration::from_millis(500);

/// How long one frame of the progress is shown.
const FRAME: Duration = Duration::from_millis(100);

/// Shows the progress. `waits` says what for. Never resolves: the caller drops the future.
pub(crate) async fn show(format: Format, waits: &str) -> Infallible {
    tokio::time::sleep(UNNOTICED).await;
    if format == Format::Human && !io::stderr().is_terminal() {
        // Without an effect if standard error is closed.
        let _ = writeln!(io::stderr(), "{waits}.");
    }
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    // Dropping it removes it from the screen.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_finish(ProgressFinish::AndClear)
        .with_elapsed(UNNOTICED);
    loop {
        bar.set_message(format!("{waits}: {} s", bar.elapsed().as_secs()));
        bar.tick();
        tokio::time::sleep(FRAME).await;
    }
}
