//! Runs a model, and prints how many executions it has.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trust_key_cache::model::{KeyCache, retire_in_batches_of};
use trust_key_cache::{KeyHash, ManualClock};

/// The bound of preemptions for the models over crossbeam-epoch. Without a bound, the exploration
/// of crossbeam-epoch does not end.
const EPOCH_BOUND: usize = 3;

/// Explores every execution of a model of two threads.
pub(crate) fn exhaustively(name: &str, model: impl Fn() + Send + Sync + 'static) {
    explore(name, cfg!(crossbeam_loom).then_some(EPOCH_BOUND), model);
}

/// Explores the executions of a model of two writers of one slot that preempt a thread at most four
/// times. Without a bound, the claims and confirmations of two hints take minutes a model.
pub(crate) fn deeply(name: &str, model: impl Fn() + Send + Sync + 'static) {
    explore(name, Some(if cfg!(crossbeam_loom) { EPOCH_BOUND } else { 4 }), model);
}

/// Explores the executions of a model that preempt a thread at most `preemptions` times.
///
/// Does nothing over crossbeam-epoch: these models would take hours there, and they add claims
/// about the map alone.
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
    // Written to standard error directly: the test harness hides what a passing test prints.
    writeln!(std::io::stderr(), "model {name}: {executions} executions, {how}").ok();
    // A model whose threads never meet checks nothing.
    assert!(executions > 1, "{name}: nothing was explored");
}

/// Returns a cache of one bucket with room for `capacity` entries, and its clock.
pub(crate) fn one_bucket<V: Clone + Send + Sync + 'static>(
    capacity: usize,
) -> (loom::sync::Arc<KeyCache<V, ManualClock>>, ManualClock) {
    let clock = ManualClock::new();
    let cache = KeyCache::builder().capacity(capacity).clock(clock.clone()).build();
    let cache: KeyCache<V, ManualClock> = cache.expect("a capacity of a few");
    if cfg!(crossbeam_loom) {
        // Registers this thread with the collector before another thread starts. Two registrations
        // that race add some 400,000 executions a model, of crossbeam-epoch's own list. The models
        // still have one registration, concurrent with a registered thread.
        assert!(cache.is_empty());
    }
    (loom::sync::Arc::new(cache), clock)
}

/// Returns the same for a cache that frees retired buckets only when it is dropped.
///
/// For claims about two writers that both retire a bucket. Other models check earlier freeing.
pub(crate) fn keeping<V: Clone + Send + Sync + 'static>(
    capacity: usize,
) -> (loom::sync::Arc<KeyCache<V, ManualClock>>, ManualClock) {
    retire_in_batches_of(8);
    one_bucket(capacity)
}

/// Returns the key of that number. Keys of different numbers differ.
pub(crate) fn key(number: u8) -> KeyHash {
    KeyHash::of([number, 1])
}
