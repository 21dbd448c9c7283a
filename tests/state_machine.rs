//! G1 to G4, G6 and G11 by comparison: random sequences of operations on the cache and on a plain
//! model of the reference system's promises. Leases and renewals of a read lease are held across
//! any number of steps, and the clock may lag.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use trust_key_cache::{
    Clock, KeyCache, KeyHash, Lease, ManualClock, OwnedLease, ReadLease, Renewal,
};

const TTL: u64 = 1_000;
/// The first length of the read lease.
const LENGTH: u64 = 500;

/// A clock that advances only once each `resolution` nanoseconds.
#[derive(Clone, Debug)]
struct CoarseManualClock {
    precise: ManualClock,
    resolution: u64,
}

impl Clock for CoarseManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(last_tick(self.precise.now().as_nanos() as u64, self.resolution))
    }

    fn resolution(&self) -> Duration {
        // The clock lags by one nanosecond less, but a clock promises whole ticks only.
        Duration::from_nanos(if self.resolution == 1 { 0 } else { self.resolution })
    }
}

fn last_tick(time: u64, resolution: u64) -> u64 {
    time - time % resolution
}

/// Returns for how many nanoseconds the cache may return a value: the function of `entry_ttl`.
fn own_ttl(value: u64) -> u64 {
    match value % 8 {
        0 => 0,
        1 => TTL / 10,
        2 => TTL / 2,
        3 => TTL + 1,
        _ => u64::MAX,
    }
}

/// Returns whether the predicate with this number names the value.
fn is_named(value: u64, predicate: u64) -> bool {
    value % 3 == predicate
}

/// The model: an association list, in the order of insertion.
#[derive(Clone, Debug)]
struct Model<const CAPACITY: usize> {
    /// The true time, and the tick of the cache's clock.
    time: u64,
    resolution: u64,
    entries: Vec<ModelEntry>,
    leases: Vec<ModelLease>,
    invalidations: u64,
    key_invalidations: HashMap<u8, u64>,
    /// The number of invalidations of single keys.
    all_key_invalidations: u64,
    /// The times before which a lease is refused, by the cache's clock: of all keys, and of each.
    closed_until: u64,
    keys_closed_until: HashMap<u8, u64>,
    /// The number of entries that the last `invalidate_where` has removed, at most.
    removed: usize,
    next_value: u64,
    read_lease: ModelReadLease,
    renewals: Vec<ModelRenewal>,
}

#[derive(Clone, Debug)]
struct ModelReadLease {
    length: u64,
    /// By the clock. None before the first renewal, and while it is relinquished.
    deadline: Option<u64>,
    relinquished: u64,
}

#[derive(Clone, Debug)]
struct ModelRenewal {
    noted: u64,
    length: u64,
    relinquished: u64,
}

#[derive(Clone, Debug)]
struct ModelEntry {
    key: u8,
    value: u64,
    /// By the cache's clock.
    expires_at: u64,
    /// Cleared if the lease may have been refused because of a neighbour. Then the cache holds this
    /// entry, or an earlier one.
    certain: bool,
}

#[derive(Clone, Debug)]
struct ModelLease {
    key: u8,
    taken_at: u64,
    invalidations: u64,
    key_invalidations: u64,
    all_key_invalidations: u64,
    /// The verdict of the closed times when the lease was taken.
    closed: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stored,
    Refused,
    /// Another key was invalidated since, or was closed. It may share the bucket.
    Either,
}

#[derive(Clone, Debug)]
enum Operation {
    Lookup(u8),
    /// A call that loads the next value if it misses.
    Load(u8),
    Lease {
        key: u8,
        owned: bool,
    },
    /// The lease with this number, modulo the number of held leases, and the longest time.
    Remember(usize, u64),
    Abandon(usize),
    Invalidate,
    InvalidateKey(u8),
    InvalidateFor(u64),
    InvalidateKeyFor(u8, u64),
    InvalidateWhere(u64),
    BeginRenewal,
    /// The renewal with this number, modulo the number of those that have begun.
    CompleteRenewal(usize),
    AbandonRenewal(usize),
    Relinquish,
    SetLength(u64),
    Advance(u64),
}

impl<const CAPACITY: usize> Model<CAPACITY> {
    /// Up to 16 entries share one bucket. Then the behaviour of the bucket fixes the behaviour of
    /// the cache.
    const ONE_BUCKET: bool = CAPACITY <= 16;
    /// More keys than one bucket has room for. In many buckets, so few keys that no bucket can
    /// overflow.
    const KEYS: u8 = if Self::ONE_BUCKET { CAPACITY as u8 + 3 } else { 16 };

    fn now(&self) -> u64 {
        last_tick(self.time, self.resolution)
    }

    fn lag(&self) -> u64 {
        if self.resolution == 1 { 0 } else { self.resolution }
    }

    fn lifetime(&self, value: u64, at_most: u64) -> u64 {
        TTL.min(at_most).min(own_ttl(value)).saturating_sub(self.lag())
    }

    /// Returns the verdict of the closed times on a lease that is taken now.
    fn closed(&self, key: u8) -> Verdict {
        let own = self.keys_closed_until.get(&key).copied().unwrap_or_default();
        let any = self.keys_closed_until.values().copied().max().unwrap_or_default();
        if self.now() < self.closed_until.max(own) {
            Verdict::Refused
        } else if self.now() >= any {
            Verdict::Stored
        } else if Self::ONE_BUCKET {
            Verdict::Refused
        } else {
            Verdict::Either
        }
    }

    fn invalidate_key(&mut self, key: u8) {
        *self.key_invalidations.entry(key).or_default() += 1;
        self.all_key_invalidations += 1;
        self.entries.retain(|entry| entry.key != key);
    }

    fn invalidate_where(&mut self, predicate: u64) {
        // All leases are superseded, as by an invalidation of every key.
        self.invalidations += 1;
        let now = self.now();
        let named = |entry: &ModelEntry| is_named(entry.value, predicate);
        let mut removed: Vec<u8> = Vec::new();
        let mut uncertain: Vec<u8> = Vec::new();
        for entry in self.entries.iter().filter(|entry| named(entry)) {
            if now < entry.expires_at {
                removed.push(entry.key);
            }
            // Where the cache held this entry, it holds none of the key's earlier ones.
            if !entry.certain {
                uncertain.push(entry.key);
            }
        }
        removed.sort_unstable();
        removed.dedup();
        self.removed = removed.len();
        self.entries.retain(|entry| !named(entry));
        for entry in &mut self.entries {
            entry.certain &= !uncertain.contains(&entry.key);
        }
    }

    fn lease(&self, key: u8) -> ModelLease {
        ModelLease {
            key,
            taken_at: self.now(),
            invalidations: self.invalidations,
            key_invalidations: self.key_invalidations.get(&key).copied().unwrap_or_default(),
            all_key_invalidations: self.all_key_invalidations,
            closed: self.closed(key),
        }
    }

    fn verdict(&self, lease: &ModelLease) -> Verdict {
        let own = self.key_invalidations.get(&lease.key).copied().unwrap_or_default();
        if lease.invalidations != self.invalidations || lease.key_invalidations != own {
            Verdict::Refused
        } else if lease.all_key_invalidations == self.all_key_invalidations {
            lease.closed
        } else if Self::ONE_BUCKET || lease.closed == Verdict::Refused {
            Verdict::Refused
        } else {
            Verdict::Either
        }
    }

    fn remember(&mut self, lease: &ModelLease, at_most: u64) {
        let verdict = self.verdict(lease);
        let value = self.next_value;
        self.next_value += 1;
        let (now, expires_at) = (self.now(), lease.taken_at + self.lifetime(value, at_most));
        if verdict == Verdict::Refused {
            return;
        }
        if verdict == Verdict::Stored {
            // With many buckets, an expired entry stays in the model: if it was stored, it has
            // replaced an earlier entry of its key.
            self.entries.retain(|entry| {
                entry.key != lease.key && (now < entry.expires_at || !Self::ONE_BUCKET)
            });
            if Self::ONE_BUCKET && self.entries.len() == CAPACITY && now < expires_at {
                let soonest = (0..CAPACITY).min_by_key(|&at| self.entries[at].expires_at).unwrap();
                self.entries.remove(soonest);
            }
        }
        self.entries.push(ModelEntry {
            key: lease.key,
            value,
            expires_at,
            certain: verdict == Verdict::Stored,
        });
        if verdict == Verdict::Stored && now >= expires_at {
            self.entries.pop();
        }
    }

    /// Returns all allowed answers of a lookup: one, unless a lease may have been refused because
    /// of a neighbour.
    fn answers(&self, key: u8) -> Vec<Option<u64>> {
        let mut answers = vec![None];
        for entry in self.entries.iter().filter(|entry| entry.key == key) {
            if entry.certain {
                answers.clear();
            }
            answers.push((self.now() < entry.expires_at).then_some(entry.value));
        }
        answers
    }

    fn complete(&mut self, renewal: &ModelRenewal) {
        if renewal.relinquished == self.read_lease.relinquished {
            let length = renewal.length.min(self.read_lease.length);
            let end = renewal.noted + (length * 4 / 5).saturating_sub(self.lag());
            self.read_lease.deadline = self.read_lease.deadline.max(Some(end));
        }
    }

    fn read_lease_is_valid(&self) -> bool {
        self.read_lease.deadline.is_some_and(|deadline| self.now() < deadline)
    }

    /// Returns the answer of a lookup, if only one is allowed.
    fn certain_answer(&self, key: u8) -> Option<Option<u64>> {
        let answers = self.answers(key);
        answers.iter().all(|answer| *answer == answers[0]).then_some(answers[0])
    }
}

impl<const CAPACITY: usize> ReferenceStateMachine for Model<CAPACITY> {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        (prop_oneof![Just(1_u64), Just(7), Just(100)], 0..5_000_u64)
            .prop_map(|(resolution, time)| Self {
                time,
                resolution,
                entries: Vec::new(),
                leases: Vec::new(),
                invalidations: 0,
                key_invalidations: HashMap::new(),
                all_key_invalidations: 0,
                closed_until: 0,
                keys_closed_until: HashMap::new(),
                removed: 0,
                next_value: 0,
                read_lease: ModelReadLease { length: LENGTH, deadline: None, relinquished: 0 },
                renewals: Vec::new(),
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Operation> {
        let key = 0..Self::KEYS;
        let within = proptest::sample::select(vec![0, 1, 10, 100, TTL / 2]);
        // The steps end just before, at and just after each expiry of an entry or of a held lease's
        // value, and each end of a closed time and of the read lease. These are taken both by the
        // cache's clock and in true time. Two other steps have fixed lengths.
        let mut moments: Vec<u64> = state.entries.iter().map(|entry| entry.expires_at).collect();
        let longest = TTL - state.lag();
        moments.extend(state.leases.iter().map(|lease| lease.taken_at + longest));
        moments.extend(state.keys_closed_until.values().chain([&state.closed_until]));
        moments.extend(state.read_lease.deadline);
        let steps: Vec<u64> = moments
            .iter()
            .flat_map(|moment| {
                [*moment, moment.next_multiple_of(state.resolution), moment + state.resolution]
            })
            .flat_map(|moment| [moment.saturating_sub(1), moment, moment + 1])
            .filter_map(|moment| moment.checked_sub(state.time))
            .chain([1, TTL / 3])
            .collect();
        let lease =
            (key.clone(), any::<bool>()).prop_map(|(key, owned)| Operation::Lease { key, owned });
        let key_for = (key.clone(), within.clone())
            .prop_map(|(key, within)| Operation::InvalidateKeyFor(key, within));
        let mut operations = vec![
            (6, key.clone().prop_map(Operation::Lookup).boxed()),
            (3, key.clone().prop_map(Operation::Load).boxed()),
            (9, lease.boxed()),
            (1, Just(Operation::Invalidate).boxed()),
            (2, key.clone().prop_map(Operation::InvalidateKey).boxed()),
            (1, within.clone().prop_map(Operation::InvalidateFor).boxed()),
            (2, key_for.boxed()),
            (1, (0..3_u64).prop_map(Operation::InvalidateWhere).boxed()),
            (3, proptest::sample::select(steps).prop_map(Operation::Advance).boxed()),
            (3, Just(Operation::BeginRenewal).boxed()),
            (1, (0..3 * LENGTH).prop_map(Operation::SetLength).boxed()),
        ];
        if !state.renewals.is_empty() {
            operations.push((3, any::<usize>().prop_map(Operation::CompleteRenewal).boxed()));
            operations.push((1, any::<usize>().prop_map(Operation::AbandonRenewal).boxed()));
            operations.push((1, Just(Operation::Relinquish).boxed()));
        }
        if !state.leases.is_empty() {
            let at_most = prop_oneof![3 => Just(u64::MAX), 1 => 0..TTL + 2];
            let remember = (any::<usize>(), at_most)
                .prop_map(|(number, at_most)| Operation::Remember(number, at_most));
            operations.push((9, remember.boxed()));
            operations.push((1, any::<usize>().prop_map(Operation::Abandon).boxed()));
        }
        Union::new_weighted(operations).boxed()
    }

    fn preconditions(state: &Self, operation: &Operation) -> bool {
        match operation {
            Operation::Remember(..) | Operation::Abandon(_) => !state.leases.is_empty(),
            Operation::CompleteRenewal(_) | Operation::AbandonRenewal(_) => {
                !state.renewals.is_empty()
            }
            // Where the model cannot know whether a call hits, it cannot follow it.
            Operation::Load(key) => state.certain_answer(*key).is_some(),
            _ => true,
        }
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        match *operation {
            Operation::Lookup(_) => {}
            Operation::Load(key) => {
                if state.certain_answer(key) == Some(None) {
                    state.remember(&state.lease(key), u64::MAX);
                }
            }
            Operation::Lease { key, .. } => state.leases.push(state.lease(key)),
            Operation::Remember(number, at_most) => {
                let lease = state.leases.remove(number % state.leases.len());
                state.remember(&lease, at_most);
            }
            Operation::Abandon(number) => {
                state.leases.remove(number % state.leases.len());
            }
            Operation::Invalidate => {
                state.invalidations += 1;
                state.entries.clear();
            }
            Operation::InvalidateKey(key) => state.invalidate_key(key),
            Operation::InvalidateFor(within) => {
                state.invalidations += 1;
                state.entries.clear();
                let until = state.now() + state.lag() + within;
                state.closed_until = state.closed_until.max(until);
            }
            Operation::InvalidateKeyFor(key, within) => {
                state.invalidate_key(key);
                let until = state.now() + state.lag() + within;
                let closed_until = state.keys_closed_until.entry(key).or_default();
                *closed_until = until.max(*closed_until);
            }
            Operation::InvalidateWhere(predicate) => state.invalidate_where(predicate),
            Operation::BeginRenewal => {
                let ModelReadLease { length, relinquished, .. } = state.read_lease;
                state.renewals.push(ModelRenewal { noted: state.now(), length, relinquished });
            }
            Operation::CompleteRenewal(number) => {
                let renewal = state.renewals.remove(number % state.renewals.len());
                state.complete(&renewal);
            }
            Operation::AbandonRenewal(number) => {
                state.renewals.remove(number % state.renewals.len());
            }
            Operation::Relinquish => {
                state.read_lease.relinquished += 1;
                state.read_lease.deadline = None;
            }
            Operation::SetLength(length) => state.read_lease.length = length,
            Operation::Advance(step) => state.time += step,
        }
        state
    }
}

enum Held {
    Borrowed(Lease<'static, u64, CoarseManualClock>),
    Owned(OwnedLease<u64, CoarseManualClock>),
}

/// The cache, and the data to drive it and to check it without the model.
struct Driven<const CAPACITY: usize> {
    /// Leaked, because held leases borrow the cache. A case leaks a few hundred bytes.
    cache: &'static Arc<KeyCache<u64, CoarseManualClock>>,
    clock: ManualClock,
    /// Held leases, each with the true time when it was taken.
    leases: Vec<(Held, u64)>,
    /// For each value, the true time when its lease was taken, and the longest time from then on.
    times: HashMap<u64, (u64, u64)>,
    /// The true times at which the closed times end, of one key or of all.
    closings: Vec<(Option<u8>, u64)>,
    next_value: u64,
    /// Leaked, because renewals borrow it.
    read_lease: &'static ReadLease<CoarseManualClock>,
    /// The renewals that have begun, each with the true time of its begin and the length then.
    renewals: Vec<(Renewal<'static, CoarseManualClock>, u64, u64)>,
    /// The true times at which those end for which renewals have vouched since the last
    /// `relinquish`, in fifths of a nanosecond.
    vouched: Vec<u64>,
}

impl<const CAPACITY: usize> Driven<CAPACITY> {
    fn time(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }
}

fn hash(key: u8) -> KeyHash {
    KeyHash::of([key])
}

impl<const CAPACITY: usize> StateMachineTest for Driven<CAPACITY> {
    type SystemUnderTest = Self;
    type Reference = Model<CAPACITY>;

    fn init_test(model: &Model<CAPACITY>) -> Self {
        let precise = ManualClock::new();
        precise.advance(Duration::from_nanos(model.time));
        let clock = CoarseManualClock { precise: precise.clone(), resolution: model.resolution };
        let read_lease = ReadLease::with_clock(Duration::from_nanos(LENGTH), clock.clone());
        let cache = KeyCache::builder()
            .ttl(Duration::from_nanos(TTL))
            .capacity(CAPACITY)
            .entry_ttl(|value| Duration::from_nanos(own_ttl(*value)))
            .clock(clock)
            .build();
        let cache = Box::leak(Box::new(Arc::new(cache.unwrap())));
        Self {
            cache,
            clock: precise,
            leases: Vec::new(),
            times: HashMap::new(),
            closings: Vec::new(),
            next_value: 0,
            read_lease: Box::leak(Box::new(read_lease)),
            renewals: Vec::new(),
            vouched: Vec::new(),
        }
    }

    fn apply(mut driven: Self, model: &Model<CAPACITY>, operation: Operation) -> Self {
        match operation {
            Operation::Lookup(key) => {
                let found = driven.cache.lookup(&hash(key));
                assert!(
                    model.answers(key).contains(&found),
                    "{found:?}, not one of {:?}",
                    model.answers(key)
                );
                assert_eq!(driven.cache.lookup_with(&hash(key), |value| *value), found);
                let held = driven.cache.lookup_held(driven.read_lease, &hash(key));
                assert_eq!(held, found.filter(|_| model.read_lease_is_valid()));
                if held.is_some() {
                    // G11 by the true time.
                    let now = 5 * driven.time();
                    assert!(driven.vouched.iter().any(|end| now < *end), "held after its end");
                }
                if let Some(value) = found {
                    // G3 and G2 by the true time, not by the cache's clock.
                    let (leased_at, longest) = driven.times[&value];
                    assert!(driven.time() - leased_at < longest, "returned after its end");
                    let mut closings = driven.closings.iter();
                    assert!(
                        closings.all(|&(closed, end)| closed.is_some_and(|closed| closed != key)
                            || leased_at >= end),
                        "returned, although its lease was taken within a closed time"
                    );
                }
            }
            Operation::Load(key) => {
                // The model has already applied the operation.
                let loads = model.next_value > driven.next_value;
                let value = driven.next_value;
                let answer = driven.cache.get_or_try_load(&hash(key), || {
                    assert!(loads, "loaded what the cache holds");
                    Ok::<_, ()>(Some(value))
                });
                if loads {
                    driven.next_value += 1;
                    driven.times.insert(value, (driven.time(), TTL.min(own_ttl(value))));
                    assert_eq!(answer, Ok(Some(value)));
                } else {
                    assert!(model.answers(key).contains(&answer.unwrap()));
                }
            }
            Operation::Lease { key, owned } => {
                let lease = if owned {
                    Held::Owned(driven.cache.lease_owned(&hash(key)))
                } else {
                    Held::Borrowed(driven.cache.lease(&hash(key)))
                };
                driven.leases.push((lease, driven.time()));
            }
            Operation::Remember(number, at_most) => {
                let (lease, leased_at) = driven.leases.remove(number % driven.leases.len());
                let value = driven.next_value;
                driven.next_value += 1;
                driven.times.insert(value, (leased_at, TTL.min(at_most).min(own_ttl(value))));
                let longest = Duration::from_nanos(at_most);
                let stored = match (lease, at_most) {
                    (Held::Borrowed(lease), u64::MAX) => lease.remember(value),
                    (Held::Borrowed(lease), _) => lease.remember_for(value, longest),
                    (Held::Owned(lease), u64::MAX) => lease.remember(value),
                    (Held::Owned(lease), _) => lease.remember_for(value, longest),
                };
                // The model has already applied the operation: its last entry shows the verdict.
                let last = model.entries.last().filter(|entry| entry.value == value);
                match last {
                    Some(entry) if !entry.certain => {}
                    Some(_) => assert!(stored, "refused without a reason"),
                    // The lease was refused, or its value has expired already. Neither leaves an
                    // entry.
                    None => {
                        let lifetime = model.lifetime(value, at_most);
                        let expired =
                            last_tick(leased_at, model.resolution) + lifetime <= model.now();
                        assert!(!stored || expired, "stored under a superseded lease");
                    }
                }
            }
            Operation::Abandon(number) => drop(driven.leases.remove(number % driven.leases.len())),
            Operation::Invalidate => driven.cache.invalidate(),
            Operation::InvalidateKey(key) => driven.cache.invalidate_key(&hash(key)),
            Operation::InvalidateFor(within) => {
                driven.closings.push((None, driven.time() + within));
                driven.cache.invalidate_for(Duration::from_nanos(within));
            }
            Operation::InvalidateKeyFor(key, within) => {
                driven.closings.push((Some(key), driven.time() + within));
                driven.cache.invalidate_key_for(&hash(key), Duration::from_nanos(within));
            }
            Operation::InvalidateWhere(predicate) => {
                let removed = driven.cache.invalidate_where(|_, value| is_named(*value, predicate));
                if Model::<CAPACITY>::ONE_BUCKET {
                    assert_eq!(removed, model.removed);
                } else {
                    assert!(removed <= model.removed);
                }
            }
            Operation::BeginRenewal => {
                let length = driven.read_lease.length().as_nanos() as u64;
                driven.renewals.push((driven.read_lease.begin(), driven.time(), length));
            }
            Operation::CompleteRenewal(number) => {
                let (renewal, begun_at, length) =
                    driven.renewals.remove(number % driven.renewals.len());
                renewal.complete();
                driven.vouched.push(5 * begun_at + 4 * length);
            }
            Operation::AbandonRenewal(number) => {
                drop(driven.renewals.remove(number % driven.renewals.len()));
            }
            Operation::Relinquish => {
                driven.read_lease.relinquish();
                driven.vouched.clear();
                for (_, _, length) in &mut driven.renewals {
                    *length = 0;
                }
            }
            Operation::SetLength(length) => {
                driven.read_lease.set_length(Duration::from_nanos(length));
            }
            Operation::Advance(step) => driven.clock.advance(Duration::from_nanos(step)),
        }
        driven
    }

    fn check_invariants(driven: &Self, model: &Model<CAPACITY>) {
        let alive = model.entries.iter().filter(|entry| model.now() < entry.expires_at).count();
        if Model::<CAPACITY>::ONE_BUCKET {
            assert_eq!(driven.cache.len(), alive);
            assert!(alive <= CAPACITY);
        } else {
            assert!(driven.cache.len() <= alive);
        }
        assert_eq!(driven.cache.is_empty(), !(1..).contains(&driven.cache.len()));
        assert_eq!(driven.read_lease.is_valid(), model.read_lease_is_valid());
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: Config::default().cases.max(512), ..Config::default() })]

    #[test]
    fn a_cache_of_one_entry_behaves_as_the_model(sequential 1..120 => Driven<1>);

    #[test]
    fn a_cache_of_three_entries_behaves_as_the_model(sequential 1..160 => Driven<3>);

    #[test]
    fn a_cache_of_one_full_bucket_behaves_as_the_model(sequential 1..200 => Driven<8>);

    #[test]
    fn a_cache_of_many_buckets_behaves_as_the_model(sequential 1..200 => Driven<64>);
}
