//! What the explicit-state models report of a search: [`Progress`], and the memory that it took.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use stateright::Model;
use stateright::report::{ReportData, ReportDiscovery, Reporter};

/// Prints a line of progress to standard error each ten seconds.
#[derive(Debug)]
pub struct Progress {
    /// The second of the next line.
    next: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { next: 10 }
    }
}

impl<M: Model> Reporter<M> for Progress {
    fn report_checking(&mut self, data: ReportData) {
        let seconds = data.duration.as_secs();
        if seconds < self.next {
            return;
        }
        self.next = seconds + 10;
        let (steps, unique, depth) = (data.total_states, data.unique_states, data.max_depth);
        eprintln!("{seconds} s: {unique} states, {steps} steps, depth {depth}");
    }

    fn report_discoveries(&mut self, _: &M, _: BTreeMap<&'static str, ReportDiscovery<M>>)
    where
        M::Action: Debug + PartialEq,
        M::State: Debug + Hash + PartialEq,
    {
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(100)
    }
}

/// Returns the peak memory of this process, in MiB, if the kernel reports it.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
