//! G1 to G4 and G6 by comparison: random sequences of operations on the cache and on a plain model
//! of the reference system's promises. Leases are held across any number of steps, and the clock
//! may lag.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use trust_key_cache::{Clock, KeyCache, KeyHash, Lease, ManualClock};

const TTL: u64 = 1_000;

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
    next_value: u64,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stored,
    Refused,
    /// Another key was invalidated since. It may share the bucket.
    Either,
}

#[derive(Clone, Debug)]
enum Operation {
    Lookup(u8),
    Lease(u8),
    /// The lease with this number, modulo the number of held leases.
    Remember(usize),
    Abandon(usize),
    Invalidate,
    InvalidateKey(u8),
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

    fn lifetime(&self) -> u64 {
        TTL - if self.resolution == 1 { 0 } else { self.resolution }
    }

    fn verdict(&self, lease: &ModelLease) -> Verdict {
        let own = self.key_invalidations.get(&lease.key).copied().unwrap_or_default();
        if lease.invalidations != self.invalidations || lease.key_invalidations != own {
            Verdict::Refused
        } else if lease.all_key_invalidations == self.all_key_invalidations {
            Verdict::Stored
        } else if Self::ONE_BUCKET {
            Verdict::Refused
        } else {
            Verdict::Either
        }
    }

    fn remember(&mut self, lease: &ModelLease) {
        let verdict = self.verdict(lease);
        let value = self.next_value;
        self.next_value += 1;
        let (now, expires_at) = (self.now(), lease.taken_at + self.lifetime());
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
                next_value: 0,
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Operation> {
        let key = 0..Self::KEYS;
        // The steps end just before, at and just after each expiry of an entry or of a held lease's
        // value. Expiries are taken both by the cache's clock and in true time. Two other steps
        // have fixed lengths.
        let mut moments: Vec<u64> = state.entries.iter().map(|entry| entry.expires_at).collect();
        moments.extend(state.leases.iter().map(|lease| lease.taken_at + state.lifetime()));
        let steps: Vec<u64> = moments
            .iter()
            .flat_map(|moment| {
                [*moment, moment.next_multiple_of(state.resolution), moment + state.resolution]
            })
            .flat_map(|moment| [moment.saturating_sub(1), moment, moment + 1])
            .filter_map(|moment| moment.checked_sub(state.time))
            .chain([1, TTL / 3])
            .collect();
        let mut operations = vec![
            (6, key.clone().prop_map(Operation::Lookup).boxed()),
            (9, key.clone().prop_map(Operation::Lease).boxed()),
            (1, Just(Operation::Invalidate).boxed()),
            (2, key.prop_map(Operation::InvalidateKey).boxed()),
            (3, proptest::sample::select(steps).prop_map(Operation::Advance).boxed()),
        ];
        if !state.leases.is_empty() {
            operations.push((9, any::<usize>().prop_map(Operation::Remember).boxed()));
            operations.push((1, any::<usize>().prop_map(Operation::Abandon).boxed()));
        }
        Union::new_weighted(operations).boxed()
    }

    fn preconditions(state: &Self, operation: &Operation) -> bool {
        !matches!(operation, Operation::Remember(_) | Operation::Abandon(_))
            || !state.leases.is_empty()
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        match *operation {
            Operation::Lookup(_) => {}
            Operation::Lease(key) => state.leases.push(ModelLease {
                key,
                taken_at: state.now(),
                invalidations: state.invalidations,
                key_invalidations: state.key_invalidations.get(&key).copied().unwrap_or_default(),
                all_key_invalidations: state.all_key_invalidations,
            }),
            Operation::Remember(number) => {
                let lease = state.leases.remove(number % state.leases.len());
                state.remember(&lease);
            }
            Operation::Abandon(number) => {
                state.leases.remove(number % state.leases.len());
            }
            Operation::Invalidate => {
                state.invalidations += 1;
                state.entries.clear();
            }
            Operation::InvalidateKey(key) => {
                *state.key_invalidations.entry(key).or_default() += 1;
                state.all_key_invalidations += 1;
                state.entries.retain(|entry| entry.key != key);
            }
            Operation::Advance(step) => state.time += step,
        }
        state
    }
}

/// The cache, and the data to drive it and to check it without the model.
struct Driven<const CAPACITY: usize> {
    /// Leaked, because held leases borrow the cache. A case leaks a few hundred bytes.
    cache: &'static KeyCache<u64, CoarseManualClock>,
    clock: ManualClock,
    /// Held leases, each with the true time when it was taken.
    leases: Vec<(Lease<'static, u64, CoarseManualClock>, u64)>,
    /// The true time when the lease of each value was taken.
    leased_at: HashMap<u64, u64>,
    next_value: u64,
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
        let cache = KeyCache::builder()
            .ttl(Duration::from_nanos(TTL))
            .capacity(CAPACITY)
            .clock(clock)
            .build();
        let cache = Box::leak(Box::new(cache.unwrap()));
        Self { cache, clock: precise, leases: Vec::new(), leased_at: HashMap::new(), next_value: 0 }
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
                if let Some(value) = found {
                    // G3 by the true time, not by the cache's clock.
                    assert!(
                        driven.time() - driven.leased_at[&value] < TTL,
                        "returned after its time-to-live"
                    );
                }
            }
            Operation::Lease(key) => {
                driven.leases.push((driven.cache.lease(&hash(key)), driven.time()))
            }
            Operation::Remember(number) => {
                let (lease, leased_at) = driven.leases.remove(number % driven.leases.len());
                let value = driven.next_value;
                driven.next_value += 1;
                driven.leased_at.insert(value, leased_at);
                let stored = lease.remember(value);
                // The model has already applied the operation: its last entry shows the verdict.
                let last = model.entries.last().filter(|entry| entry.value == value);
                match last {
                    Some(entry) if !entry.certain => {}
                    Some(_) => assert!(stored, "refused without a reason"),
                    // The lease was refused, or its value has expired already. Neither leaves an
                    // entry.
                    None => {
                        let expired = last_tick(leased_at, model.resolution) + model.lifetime()
                            <= model.now();
                        assert!(!stored || expired, "stored under a superseded lease");
                    }
                }
            }
            Operation::Abandon(number) => drop(driven.leases.remove(number % driven.leases.len())),
            Operation::Invalidate => driven.cache.invalidate(),
            Operation::InvalidateKey(key) => driven.cache.invalidate_key(&hash(key)),
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
