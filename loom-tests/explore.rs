//! Runs a model and tells how much of it there was.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trust_key_cache::model::{KeyCache, retire_in_batches_of};
use trust_key_cache::{KeyHash, ManualClock};

/// Preemptions that the models over crossbeam-epoch are bounded to. Exploring it without a bound
/// does not end.
const EPOCH_BOUND: usize = 3;

/// Explores every execution of a model of two threads.
pub(crate) fn exhaustively(name: &str, model: impl Fn() + Send + Sync + 'static) {
    explore(name, cfg!(crossbeam_loom).then_some(EPOCH_BOUND), model);
}

/// Explores the executions of a model of three threads that preempt a thread at most `preemptions`
/// times. Over crossbeam-epoch these are left out: they would take hours, and what they add is
/// about the map.
pub(crate) fn bounded(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    if cfg!(not(crossbeam_loom)) {
        explore(name, Some(preemptions), model);
    }
}

fn explore(name: &str, bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 100_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    let how = bound.map_or("exhaustive".to_owned(), |bound| format!("at most {bound} preemptions"));
    // Past the test harness, which hides what a passing test prints.
    writeln!(std::io::stderr(), "model {name}: {executions} executions, {how}").ok();
    // A model in which the threads never meet shows nothing.
    assert!(executions > 1, "{name}: nothing was explored");
}

/// A cache of one bucket with room for `capacity` entries.
pub(crate) fn one_bucket<V: Clone + Send + Sync + 'static>(
    capacity: usize,
) -> (loom::sync::Arc<KeyCache<V, ManualClock>>, ManualClock) {
    let clock = ManualClock::new();
    let cache = KeyCache::builder().capacity(capacity).clock(clock.clone()).build();
    let cache: KeyCache<V, ManualClock> = cache.expect("a capacity of a few");
    if cfg!(crossbeam_loom) {
        // Registers this thread with the collector before there is another. Two registrations that
        // race take some 400,000 executions a model, of crossbeam-epoch's own list; one
        // next to a registered thread is left in.
        assert!(cache.is_empty());
    }
    (loom::sync::Arc::new(cache), clock)
}

/// The same, of a cache that frees what it has retired only when it is dropped: for claims about
/// two writers that both retire. That what is freed before is freed in time, other models show.
pub(crate) fn keeping<V: Clone + Send + Sync + 'static>(
    capacity: usize,
) -> (loom::sync::Arc<KeyCache<V, ManualClock>>, ManualClock) {
    retire_in_batches_of(8);
    one_bucket(capacity)
}

/// Distinct keys.
pub(crate) fn key(number: u8) -> KeyHash {
    KeyHash::of([number])
}
