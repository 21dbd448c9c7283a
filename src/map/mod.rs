//! The snapshot map: slots for buckets of a few entries, each bucket an immutable snapshot behind
//! one atomic pointer.
//!
//! Readers pin, load one pointer and read plain memory. Writers copy a bucket, change the copy,
//! publish it by compare-exchange and retire the old one. The map knows times and stamps as
//! numbers; what they mean is for `cache.rs` and `lease.rs` to say.
//!
//! # Orderings
//!
//! Two kinds of location are shared: the map's `generation`, and each slot's pointer. Four facts
//! carry the guarantees; `docs/guarantees.md` has the whole argument.
//!
//! 1. A bucket's contents are written before the Release exchange that publishes it, and read after
//!    an Acquire load of the pointer.
//! 2. A slot changes only by compare-exchange from the pointer whose contents were copied, under a
//!    guard that keeps that allocation from being reused. So the buckets of a slot form a chain in
//!    which each was made from its predecessor, and along which `lease_epoch` never falls.
//! 3. `generation` only grows, by read-modify-writes that Release. A thread that Acquires it (a
//!    stamp) sees what came before the `invalidate` whose value it read.
//! 4. `generation` is read *after* the slot, and a bucket carries a generation that its publisher
//!    had read. So what a thread reads is never smaller than the generation of the bucket that it
//!    has in hand.

mod bucket;
mod limbo;
mod placement;
mod selection;
mod slot;
mod tags;

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::sync::Arc;

use super::reclaim;
use super::sync::{AtomicU64, Ordering};
use crate::KeyHash;

#[cfg(test)]
#[allow(unused_imports, reason = "the map over loom is the same file")]
pub(crate) use self::limbo::CHECKED_BATCHES;
use bucket::{Bucket, Entry, OwnedBucket};
use limbo::Limbo;
use placement::Placement;
use selection::Selection;
use slot::Slot;

pub(super) use placement::Shape;

/// What an insert is checked against: it is refused unless both still hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    generation: u64,
    lease_epoch: u64,
}

pub(super) struct SnapshotMap<V> {
    /// Counts the invalidations of the whole map. A bucket of another generation is empty,
    /// whatever it holds.
    generation: AtomicU64,
    placement: Placement,
    slots: Box<[Slot<V>]>,
    bucket_capacity: usize,
    limbo: Limbo<V>,
    /// Values are read by many threads at once and dropped by any: what `Arc` asks of them is what
    /// the map asks.
    values: PhantomData<Arc<V>>,
    /// Values are put in through a shared reference, as into a `Mutex`. Were the map not invariant
    /// in `V`, it could be taken for a map of a supertype, and be given values that it must
    /// not hold.
    invariant: PhantomData<fn(V) -> V>,
}

impl<V> SnapshotMap<V> {
    /// An empty map. Allocates the slots, and no bucket until something is inserted.
    pub(super) fn new(shape: Shape, seed: [u64; 2]) -> Result<Self, TryReserveError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(shape.buckets)?;
        slots.resize_with(shape.buckets, Slot::vacant);
        Ok(Self {
            generation: AtomicU64::new(0),
            placement: Placement::new(shape.buckets, seed),
            slots: slots.into_boxed_slice(),
            bucket_capacity: shape.bucket_capacity,
            limbo: Limbo::for_slots(shape.buckets),
            values: PhantomData,
            invariant: PhantomData,
        })
    }

    /// Shows `read` the value of `key`, if there is one that expires after `now`. Wait-free, but
    /// for [`reclaim::pin`].
    #[inline]
    pub(super) fn get<R>(&self, key: &KeyHash, now: u64, read: impl FnOnce(&V) -> R) -> Option<R> {
        let place = self.placement.of(key);
        // Before pinning: what cannot panic under the guard need not be prepared to unwind through
        // it.
        let slot = &self.slots[place.slot];
        let guard = reclaim::pin();
        let current = slot.load(&guard);
        // Relaxed: a lookup that happens-after an `invalidate` reads its value or a later one, by
        // coherence alone.
        let generation = self.generation.load(Ordering::Relaxed);
        current.read(|bucket| {
            let bucket = bucket.filter(|bucket| bucket.generation() == generation)?;
            let (_, entry) = bucket.find(key, place.tag)?;
            (now < entry.expires_at).then(|| read(&entry.value))
        })
    }

    /// What an insert of `key` is to be checked against. Take it before reading what the value is
    /// derived from.
    pub(super) fn stamp(&self, key: &KeyHash) -> Stamp {
        let place = self.placement.of(key);
        let guard = reclaim::pin();
        // Acquire: pairs with the Release in `invalidate`. If this reads the value of an
        // `invalidate`, the change which that announced is visible to what the caller reads
        // next. With an older value the insert will be refused, or dead on arrival.
        let generation = self.generation.load(Ordering::Acquire);
        // The Acquire in `Slot::load` does the same for `invalidate_key`, which announces by a
        // higher `lease_epoch`.
        let lease_epoch = self.slots[place.slot].load(&guard).read(lease_epoch);
        Stamp { generation, lease_epoch }
    }

    /// Inserts `key`'s value or replaces it, unless an invalidation has superseded `stamp`; tells
    /// whether it did.
    ///
    /// Entries that are dead at `now` are left out of the copy. A full bucket gives up the entry
    /// that would have expired first. A value that is itself dead at `now` replaces its
    /// predecessor by nothing. Lock-free: an exchange fails only where another writer's has
    /// succeeded.
    pub(super) fn insert(
        &self,
        key: &KeyHash,
        stamp: Stamp,
        now: u64,
        expires_at: u64,
        value: V,
    ) -> bool
    where
        V: Clone,
    {
        let place = self.placement.of(key);
        let slot = &self.slots[place.slot];
        let mut entry = (now < expires_at).then(|| Entry { digest: *key, expires_at, value });
        let room = usize::from(entry.is_some());
        let guard = reclaim::pin();
        loop {
            let current = slot.load(&guard);
            // Relaxed: an `invalidate` that this misses, or that comes after it, leaves behind a
            // bucket of the old generation, which no lookup that happens-after takes
            // for alive. What counts is to read it after the slot (fact 4): then a
            // bucket of a newer generation is never replaced by one of an older.
            let generation = self.generation.load(Ordering::Relaxed);
            let next = current.read(|bucket| {
                if generation != stamp.generation || lease_epoch(bucket) != stamp.lease_epoch {
                    return None;
                }
                let alive = bucket.filter(|bucket| bucket.generation() == generation);
                let mut kept = Selection::of(alive, |entry| now < entry.expires_at);
                kept.remove(place_in(alive, key, place.tag));
                if kept.len() + room > self.bucket_capacity {
                    kept.remove(kept.soonest_to_expire(alive));
                }
                let mut next = OwnedBucket::with_capacity(
                    kept.len() + room,
                    stamp.generation,
                    stamp.lease_epoch,
                );
                kept.copy(alive, &mut next);
                Some(next)
            });
            let Some(mut next) = next else { return false };
            if let Some(entry) = entry.take() {
                next.push(entry, place.tag);
            }
            match slot.publish(current, next) {
                Ok(replaced) => {
                    drop(guard);
                    // SAFETY: the bucket has left a slot of this map, which owns the limbo.
                    unsafe { self.limbo.retire(replaced) };
                    return true;
                }
                Err(mut unpublished) if room == 1 => entry = unpublished.pop(),
                Err(_) => {}
            }
        }
    }

    /// Makes every entry unreachable, and every stamp taken so far worthless. One
    /// read-modify-write, whatever the size.
    pub(super) fn invalidate(&self) {
        // Release: pairs with the Acquire in `stamp`: a stamp of the new generation sees what came
        // before this.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Makes `key`'s entry unreachable, and worthless every stamp that was taken so far for a key
    /// of its bucket. Lock-free.
    pub(super) fn invalidate_key(&self, key: &KeyHash)
    where
        V: Clone,
    {
        let place = self.placement.of(key);
        let slot = &self.slots[place.slot];
        let guard = reclaim::pin();
        loop {
            let current = slot.load(&guard);
            // Relaxed, and after the slot: as in `insert`.
            let generation = self.generation.load(Ordering::Relaxed);
            let next = current.read(|bucket| {
                let alive = bucket.filter(|bucket| bucket.generation() == generation);
                let mut kept = Selection::of(alive, |_| true);
                kept.remove(place_in(alive, key, place.tag));
                // Published even where nothing is removed: a stamp taken before must find another
                // `lease_epoch`.
                let mut next =
                    OwnedBucket::with_capacity(kept.len(), generation, lease_epoch(bucket) + 1);
                kept.copy(alive, &mut next);
                next
            });
            if let Ok(replaced) = slot.publish(current, next) {
                drop(guard);
                // SAFETY: the bucket has left a slot of this map, which owns the limbo.
                unsafe { self.limbo.retire(replaced) };
                return;
            }
        }
    }

    /// How many entries are reachable and expire after `now`. Visits every slot; each is seen at a
    /// moment of its own.
    pub(super) fn len(&self, now: u64) -> usize {
        self.slots.iter().map(|slot| self.alive_in(slot, now)).sum()
    }

    /// Whether [`len`](Self::len) would be zero; stops at the first entry that says no.
    pub(super) fn is_empty(&self, now: u64) -> bool {
        self.slots.iter().all(|slot| self.alive_in(slot, now) == 0)
    }

    fn alive_in(&self, slot: &Slot<V>, now: u64) -> usize {
        let guard = reclaim::pin();
        let current = slot.load(&guard);
        // Relaxed, and after the slot: as in `get`.
        let generation = self.generation.load(Ordering::Relaxed);
        current.read(|bucket| {
            let alive = bucket.filter(|bucket| bucket.generation() == generation);
            Selection::of(alive, |entry| now < entry.expires_at).len()
        })
    }
}

/// A slot that was never written counts as an empty bucket that no invalidation has touched.
fn lease_epoch<V>(bucket: Option<&Bucket<V>>) -> u64 {
    bucket.map_or(0, Bucket::lease_epoch)
}

fn place_in<V>(bucket: Option<&Bucket<V>>, key: &KeyHash, tag: u8) -> Option<usize> {
    bucket?.find(key, tag).map(|(place, _)| place)
}
