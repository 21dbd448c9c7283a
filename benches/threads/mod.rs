//! Starts readers and a writer together.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{Shared, id};
use crate::workload::Probes;

const BETWEEN_WRITES: Duration = Duration::from_micros(10);

/// Runs `reader` on this thread, and a writer on another thread until `reader` returns. The writer
/// replaces one of the `written` keys every 10 µs, or as fast as it can where a write takes longer.
/// `reader` must pass the gate when it is ready.
pub(crate) fn with_writer<P: Shared, R>(
    peer: &P,
    mut written: Probes<P::Key>,
    reader: impl FnOnce(&Gate) -> R,
) -> R {
    let (ready, done) = (Gate::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            ready.pass();
            let mut due = Instant::now();
            // Relaxed: the flag guards no data.
            while !done.load(Ordering::Relaxed) {
                if Instant::now() < due {
                    spin_loop();
                    continue;
                }
                peer.insert(written.next(), id(7));
                // A late writer counts from the present time: it does not make up for missed
                // writes.
                due = (due + BETWEEN_WRITES).max(Instant::now());
            }
        });
        let result = reader(&ready);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Holds each thread until all threads have arrived. The threads spin: a woken thread starts late.
pub(crate) struct Gate {
    missing: AtomicUsize,
}

impl Gate {
    /// Spins before a thread lets another thread run, which may be the one that is missing.
    const SPINS: u32 = 10_000;

    pub(crate) fn new(threads: usize) -> Self {
        Self { missing: AtomicUsize::new(threads) }
    }

    pub(crate) fn pass(&self) {
        // Relaxed: no data goes through the gate.
        self.missing.fetch_sub(1, Ordering::Relaxed);
        let mut spins = 0;
        while self.missing.load(Ordering::Relaxed) > 0 {
            spins += 1;
            if spins % Self::SPINS == 0 {
                thread::yield_now();
            }
            spin_loop();
        }
    }
}
