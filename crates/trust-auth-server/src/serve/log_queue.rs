//! [`LogQueue`]: the lines of the log that a thread of its own writes to standard error.
//!
//! Standard error may be a pipe whose reader has stopped. A thread that writes to it then waits
//! without end. No worker of the runtime may wait, so a line for which the queue has no room is
//! dropped and counted.
//!
//! The non-blocking writer of `tracing-appender` does not fit. If its queue is full at the end, its
//! guard writes to standard output. Standard output may also be full, and `--json` reserves it for
//! one line.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines wait at most. Lines of usual length take some megabytes.
const LINES: usize = 4_096;

/// The interval at which `flush` checks whether the queue has room.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The queue. A clone means the same queue.
#[derive(Clone)]
pub(crate) struct LogQueue {
    steps: SyncSender<Step>,
    dropped: Arc<AtomicU64>,
}

/// The next step of the thread.
enum Step {
    Write(Vec<u8>),
    /// Report that all lines before are written.
    Report(SyncSender<()>),
}

impl LogQueue {
    /// Starts the thread, which writes to `output` until the process ends.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (steps, due) = sync_channel(LINES);
        let dropped = Arc::<AtomicU64>::default();
        let lost = Arc::clone(&dropped);
        thread::Builder::new().name("log".into()).spawn(move || write_all(output, &due, &lost))?;
        Ok(Self { steps, dropped })
    }

    /// Returns how many lines were dropped, because there was no room or the output failed.
    pub(crate) fn dropped(&self) -> u64 {
        // Relaxed, here and below: a count, which orders nothing.
        self.dropped.load(Ordering::Relaxed)
    }

    /// Blocks until the lines that were logged before are written, or until the time has passed.
    pub(crate) fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        let (report, reported) = sync_channel(1);
        let mut step = Step::Report(report);
        while let Err(TrySendError::Full(unsent)) = self.steps.try_send(step) {
            if Instant::now() >= end {
                return;
            }
            step = unsent;
            thread::sleep(POLL_INTERVAL);
        }
        let _ = reported.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

impl Write for LogQueue {
    /// Takes the whole line, or drops it. Never fails and never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.steps.try_send(Step::Write(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut output: impl Write, due: &Receiver<Step>, dropped: &AtomicU64) {
    for step in due {
        match step {
            // A closed output stays closed. The line is lost, and the service continues.
            Step::Write(line) => {
                if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The caller of `flush` may have returned.
            Step::Report(report) => drop(report.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::sync::{Mutex, PoisonError, mpsc::channel};

    use super::*;

    /// An output that takes a line each time the test allows it.
    struct SlowOutput {
        may_take: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for SlowOutput {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.may_take.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (LogQueue, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (let_take, may_take) = channel();
        let taken = Arc::default();
        let queue = LogQueue::start(SlowOutput { may_take, taken: Arc::clone(&taken) }).unwrap();
        (queue, let_take, taken)
    }

    #[test]
    fn a_full_output_blocks_no_caller_and_lines_without_room_are_counted() {
        let (mut queue, let_take, taken) = slow();
        // The thread may hold one more line.
        for _ in 0..LINES + 11 {
            queue.write_all(b"x").unwrap();
        }
        assert!((10..=11).contains(&queue.dropped()), "{}", queue.dropped());
        let begun = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));

        for _ in 0..LINES + 1 {
            let_take.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(30));
        assert!(taken.lock().unwrap().len() >= LINES);
        assert!(queue.dropped() <= 11);
    }

    #[test]
    fn lines_keep_their_order_and_a_failed_output_loses_only_later_lines() {
        let (mut queue, let_take, taken) = slow();
        for line in ["a", "b"] {
            queue.write_all(line.as_bytes()).unwrap();
            let_take.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(30));
        assert_eq!(*taken.lock().unwrap(), b"ab");
        drop(let_take);
        queue.write_all(b"c").unwrap();
        queue.flush(Duration::from_secs(30));
        assert_eq!((queue.dropped(), taken.lock().unwrap().len()), (1, 2));
    }
}
