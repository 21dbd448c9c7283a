//! Defines the keys, their order, and the duration of a measurement. All rows share them.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::cell::LazyCell;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use fastrand::Rng;
use trust_key_cache::KeyHash;

use crate::peers::Peer;

/// A time-to-live longer than any benchmark, so that hits stay hits.
pub(crate) const LASTING: Duration = Duration::from_secs(24 * 60 * 60);

/// The smallest number of lookups before the order repeats, so that no branch predictor learns the
/// order.
const PROBES: usize = 1 << 16;

/// Returns whether `--test` was given. Then each benchmark runs once, and nothing is measured.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Returns the numbers of keys to measure at. Where nothing is measured, these are only the small
/// ones of `all`.
pub(crate) fn sizes(all: &[usize]) -> impl Iterator<Item = usize> {
    let largest = if is_test() { 1_000 } else { usize::MAX };
    all.iter().copied().filter(move |&size| size <= largest)
}

/// Returns settings for medians that repeat. Criterion's own options override these settings.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
}

/// Returns the keys of trusts 0 to `count`.
pub(crate) fn keys<K: From<KeyHash>>(count: usize) -> Vec<K> {
    (0..count as u64).map(|number| K::from(KeyHash::of(number.to_le_bytes()))).collect()
}

/// Returns `count` keys that no trust has.
pub(crate) fn unknown_keys<K: From<KeyHash>>(count: usize) -> Vec<K> {
    (0..count as u64).map(|number| K::from(KeyHash::of((!number).to_le_bytes()))).collect()
}

/// Returns all keys in a random order, then all keys in another order, until there are enough. The
/// order depends only on the number of keys, so it is the same for all rows.
pub(crate) fn order<K: Copy>(keys: &[K]) -> Vec<K> {
    let mut random = Rng::with_seed(0x5eed);
    let mut deck = keys.to_vec();
    let mut order = Vec::with_capacity(PROBES + keys.len());
    while order.len() < PROBES {
        random.shuffle(&mut deck);
        order.extend_from_slice(&deck);
    }
    order
}

/// Returns keys in random order without end. Memory holds the keys in the order of the lookups: a
/// request brings its key, so fetching the key is no part of a lookup.
pub(crate) struct Probes<K> {
    order: Vec<K>,
    at: usize,
}

impl<K: Copy> Probes<K> {
    pub(crate) fn new(keys: &[K]) -> Self {
        Self { order: order(keys), at: 0 }
    }

    /// Returns the same order from this share of it on, for another thread.
    pub(crate) fn starting_at(&self, share: f64) -> Self {
        let at = (self.order.len() as f64 * share) as usize % self.order.len();
        Self { order: self.order.clone(), at }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> &K {
        let key = &self.order[self.at];
        self.at += 1;
        if self.at == self.order.len() {
            self.at = 0;
        }
        key
    }
}

/// A peer that holds all keys, and the order of the lookups. The first benchmark that needs the
/// peer fills it, so a filter leaves out the filling too.
pub(crate) type Filled<'a, P> = LazyCell<
    (P, Probes<<P as Peer>::Key>),
    Box<dyn FnOnce() -> (P, Probes<<P as Peer>::Key>) + 'a>,
>;

pub(crate) fn filled<'a, P: Peer + 'a>(count: usize) -> Filled<'a, P> {
    LazyCell::new(Box::new(move || {
        let keys = keys::<P::Key>(count);
        let peer = P::filled(&keys, LASTING);
        let found = keys.iter().filter(|key| peer.get(key).is_some()).count();
        // A cache may lose one key in a thousand to full buckets. A miss is another measurement.
        assert!(found * 1_000 >= count * 999, "{} holds {found} of {count} keys", P::NAME);
        (peer, Probes::new(&keys))
    }))
}

/// Writes figures that criterion does not measure to `<name>.json` next to criterion's figures.
/// Writes nothing where nothing is measured.
pub(crate) fn save(name: &str, figures: &serde_json::Value) {
    if is_test() {
        return;
    }
    let folder = folder();
    std::fs::create_dir_all(&folder).expect("criterion's folder can be made");
    let file = folder.join(name).with_extension("json");
    std::fs::write(&file, format!("{figures:#}\n"))
        .unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
}

/// Returns the folder where criterion writes, by the rules of criterion.
fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("CRITERION_HOME")
        .or_else(|| variable("CARGO_TARGET_DIR").map(|target| target.join("criterion")))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/criterion"))
}
