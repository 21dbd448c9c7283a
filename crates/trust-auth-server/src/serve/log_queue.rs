//! [`LogQueue`]: lines of the log on their way to standard error, which a thread of its own writes.
//!
//! Standard error may be a pipe whose reader has stopped. It takes nothing more, and a thread that
//! writes to it waits without end. No worker of the runtime may wait, so a line for which the queue
//! has no room is dropped and counted.
//!
//! `tracing-appender`'s non-blocking writer is not used: when its queue is full at the end, its
//! guard writes to standard output, which may be as full, and which `--json` promises to a single
//! line.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines wait at most. Some megabytes, as lines go.
const LINES: usize = 4_096;

/// How often the end looks whether the queue has room.
const LOOK: Duration = Duration::from_millis(5);

/// The way to the thread. A clone means the same queue.
#[derive(Clone)]
pub(crate) struct LogQueue {
    steps: SyncSender<Step>,
    dropped: Arc<AtomicU64>,
}

/// What the thread does next.
enum Step {
    Write(Vec<u8>),
    /// Say that everything before is written.
    Report(SyncSender<()>),
}

impl LogQueue {
    /// Starts the thread, which writes to `output` until the process ends.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (steps, due) = sync_channel(LINES);
        let dropped = Arc::<AtomicU64>::default();
        let lost = Arc::clone(&dropped);
        thread::Builder::new().name("log".into()).spawn(move || write_all(output, &due, &lost))?;
        Ok(Self { steps, dropped })
    }

    /// How many lines were dropped: for want of room, or because the output failed.
    pub(crate) fn dropped(&self) -> u64 {
        // Relaxed, here and below: a count, which orders nothing.
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged before is written, and no longer than this. Blocks.
    pub(crate) fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        let (report, reported) = sync_channel(1);
        let mut step = Step::Report(report);
        while let Err(TrySendError::Full(unsent)) = self.steps.try_send(step) {
            if Instant::now() >= end {
                return;
            }
            step = unsent;
            thread::sleep(LOOK);
        }
        let _ = reported.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

impl Write for LogQueue {
    /// Takes the whole line, or drops it. Never fails, and never waits.
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
            // An output that is closed stays closed: the line is lost, and the service goes on.
            Step::Write(line) => {
                if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The caller of `flush` may have given up.
            Step::Report(report) => drop(report.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::sync::{Mutex, PoisonError, mpsc::channel};

    use super::*;

    /// Takes a line each time that the test lets it.
    struct Slow {
        may_take: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
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
        let queue = LogQueue::start(Slow { may_take, taken: Arc::clone(&taken) }).unwrap();
        (queue, let_take, taken)
    }

    #[test]
    fn an_output_that_takes_nothing_holds_nobody_and_what_finds_no_room_is_counted() {
        let (mut queue, let_take, taken) = slow();
        // One more may be with the thread.
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
    fn lines_keep_their_order_and_an_output_that_fails_loses_only_its_own() {
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
