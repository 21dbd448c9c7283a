//! The snapshot map: an array of slots. Each slot is one atomic pointer to a bucket, an immutable
//! snapshot of a few entries, and a hint where the bucket's entries are.
//!
//! Readers pin, load the two words of a slot and read plain memory. Writers copy a bucket, change
//! the copy, publish the copy by compare-exchange and retire the old bucket. To the map, times and
//! stamps are numbers: `cache.rs` and `lease.rs` define their meaning.
//!
//! # Orderings
//!
//! Four kinds of location are shared: the map's `generation`, its `closed_until`, and the pointer
//! and the hint of each slot.
//! `docs/guarantees.md` proves the guarantees in numbered lemmas, which the comments below cite.
//! The lemmas use these facts:
//!
//! * *F1.* A reader sees each bucket as its builder completed it.
//! * *F2.* Each bucket was made from its predecessor in the slot's modification order. A guard
//!   keeps the predecessor's allocation from being reused.
//! * *F3.* `generation` only grows.
//! * *F4.* A thread that loads a slot and then `generation` reads the bucket's generation or a
//!   later one.
//! * *F5.* Along a chain of buckets, `lease_epoch` never falls.
//! * *F6.* A thread that loads a bucket synchronises with all exchanges of the slot up to the one
//!   that published the bucket.
//! * *F7.* A stamp synchronises with all invalidations up to the one whose value it read.
//! * *F8.* Along a chain of buckets, the generation never falls.
//! * *F9.* Neither the closed time of the map, nor that of the buckets along a chain, ever falls.
//! * *H5.* A lookup that reads a complete hint without its key's tag has read the slot at a moment
//!   when the bucket had no entry of the key.

mod bucket;
mod hint;
mod limbo;
mod placement;
mod selection;
mod slot;
mod tags;

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::sync::Arc;

use super::reclaim;
use super::sync::{AtomicU64, Ordering, StoredU64};
use crate::KeyHash;

#[cfg(test)]
#[allow(unused_imports, reason = "the map over loom is the same file")]
pub(crate) use self::limbo::CHECKED_BATCHES;
use bucket::{Bucket, Entry, Gate, OwnedBucket};
use limbo::Limbo;
use placement::{Place, Placement};
use selection::Selection;
use slot::{Loaded, Slot};

pub(super) use placement::Shape;

/// The state that an insert is checked against. An insert is refused if either number has changed,
/// or if the stamp was taken within a closed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    generation: u64,
    lease_epoch: u64,
    /// Decided when the stamp is taken: a closed time that begins later raises a number (G2.17).
    closed: bool,
}

impl Stamp {
    /// Returns whether the stamp was taken within a closed time: nothing is inserted under it.
    pub(super) fn is_closed(self) -> bool {
        self.closed
    }
}

pub(super) struct SnapshotMap<V> {
    /// Counts the invalidations of the whole map. A bucket of another generation counts as empty.
    generation: AtomicU64,
    /// A stamp of an earlier time is refused. Lookups do not read it.
    closed_until: StoredU64,
    placement: Placement,
    slots: Box<[Slot<V>]>,
    bucket_capacity: usize,
    limbo: Limbo<V>,
    /// Many threads read a value at once, and any thread may drop it. So the map has the bounds of
    /// `Arc`.
    values: PhantomData<Arc<V>>,
    /// Values are inserted through a shared reference, as into a `Mutex`. A covariant map could be
    /// used as a map of a supertype, and receive values that it must not hold.
    invariant: PhantomData<fn(V) -> V>,
}

impl<V> SnapshotMap<V> {
    /// Returns an empty map. Allocates the slots; the first insert into a slot allocates its
    /// bucket.
    pub(super) fn new(shape: Shape, seed: [u64; 2]) -> Result<Self, TryReserveError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(shape.buckets)?;
        slots.resize_with(shape.buckets, Slot::vacant);
        Ok(Self {
            generation: AtomicU64::new(0),
            closed_until: StoredU64::new(0),
            placement: Placement::new(shape.buckets, seed),
            slots: slots.into_boxed_slice(),
            bucket_capacity: shape.bucket_capacity,
            limbo: Limbo::for_slots(shape.buckets),
            values: PhantomData,
            invariant: PhantomData,
        })
    }

    /// Calls `read` with the value of `key` if that value expires after `now()`. Wait-free, except
    /// for [`reclaim::pin`] and `now`.
    ///
    /// A miss of a complete hint reads the slot alone, and no clock. A hit that the hint leads to
    /// reads the slot and one entry.
    ///
    /// Always inlined into [`KeyCache::lookup`](super::cache::KeyCache::lookup): a program that
    /// calls `lookup` makes one call, not two.
    #[inline(always)]
    pub(super) fn get<R>(
        &self,
        key: &KeyHash,
        now: impl FnOnce() -> u64,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let place = self.placement.of(key);
        let slot = self.slot(place);
        let hint = slot.hint();
        // Where there is none, the slot had no entry of the key at the time of the load (H5).
        let first = hint.first(place.tag)?;
        // After the hint, so that a miss reads no clock, and before the bucket: an entry that
        // expires in between may have a successor, which this lookup would miss (G3.6).
        let now = now();
        let guard = reclaim::pin();
        let current = slot.load(&guard);
        let _access = current.access();
        let value = match current.entry(first) {
            Some(entry) if entry.digest == *key => self.alive(entry, now),
            // The hint is a claim, is partial, was overtaken, or has the tag of another key.
            _ => self.find_by_header(&current, key, now),
        };
        value.map(read)
    }

    /// Continues a lookup whose hint did not lead to the entry of `key`, by all tags of the bucket.
    #[cold]
    #[inline(never)]
    fn find_by_header<'l>(
        &self,
        current: &'l Loaded<'_, V>,
        key: &KeyHash,
        now: u64,
    ) -> Option<&'l V> {
        let (_, entry) = current.bucket()?.find(key, self.placement.of(key).tag)?;
        self.alive(entry, now)
    }

    /// Returns the value of an entry that a lookup has found, unless the entry has expired or was
    /// invalidated.
    #[inline]
    fn alive<'e>(&self, entry: &'e Entry<V>, now: u64) -> Option<&'e V> {
        // Relaxed: a lookup that happens-after an `invalidate` reads its value or a later one, by
        // coherence alone (G1.4). After the slot: as in `insert` (F4).
        let generation = self.generation.load(Ordering::Relaxed);
        let alive = entry.generation == generation && now < entry.expires_at;
        alive.then_some(&entry.value)
    }

    #[inline]
    fn slot(&self, place: Place) -> &Slot<V> {
        debug_assert!(place.slot < self.slots.len());
        // SAFETY: `placement` was made for the number of slots, and returns places below that
        // number.
        unsafe { self.slots.get_unchecked(place.slot) }
    }

    /// Returns the stamp that an insert of `key` is checked against. Take the stamp before the
    /// source of the value is read. `now` is a time of the clock that was read before the call.
    pub(super) fn stamp(&self, key: &KeyHash, now: u64) -> Stamp {
        let place = self.placement.of(key);
        let guard = reclaim::pin();
        // Acquire: pairs with the Release in `invalidate`. If this load reads the value of an
        // `invalidate`, the caller's next reads see the change that preceded it (G1.6). With an
        // older value, the insert is refused, or publishes a bucket of an old generation.
        let generation = self.generation.load(Ordering::Acquire);
        // Relaxed, and after `generation`: a stamp of the generation of an `invalidate_for` reads
        // its time or a later one, by coherence (G2.16).
        let closed_until = self.closed_until.load(Ordering::Relaxed);
        // The Acquire in `Slot::load` does the same for `invalidate_key`, which increments
        // `lease_epoch` (G2.7).
        let gate = self.slot(place).load(&guard).read(gate);
        let closed = now < closed_until.max(gate.closed_until);
        Stamp { generation, lease_epoch: gate.lease_epoch, closed }
    }

    /// Inserts or replaces the value of `key`. Returns `false`, and inserts nothing, if an
    /// invalidation has superseded `stamp`.
    ///
    /// The copy omits entries that have expired at `now`. A full bucket evicts the entry that would
    /// expire first. A value that has expired at `now` only removes its predecessor. Lock-free: an
    /// exchange fails only if another writer's exchange has succeeded.
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
        if stamp.closed {
            return false;
        }
        let place = self.placement.of(key);
        let slot = self.slot(place);
        let mut value = (now < expires_at).then_some(value);
        let room = usize::from(value.is_some());
        let mut claimed = false;
        let guard = reclaim::pin();
        loop {
            let current = slot.load(&guard);
            // Relaxed: an `invalidate` that this load misses leaves the new bucket in the old
            // generation. No lookup that happens-after returns its entries. The load must follow
            // the load of the slot (F4): then no bucket of an older generation replaces a newer
            // one (F8).
            let generation = self.generation.load(Ordering::Relaxed);
            let next = current.read(|bucket| {
                let gate = gate(bucket);
                if generation != stamp.generation || gate.lease_epoch != stamp.lease_epoch {
                    return None;
                }
                let alive = bucket.filter(|bucket| bucket.generation() == generation);
                let mut kept = Selection::of(alive, |entry| now < entry.expires_at);
                kept.remove(place_in(alive, key, place.tag));
                if kept.len() + room > self.bucket_capacity {
                    kept.remove(kept.soonest_to_expire(alive));
                }
                let mut next =
                    OwnedBucket::with_capacity(kept.len() + room, stamp.generation, gate);
                kept.copy(alive, &mut next);
                Some(next)
            });
            let Some(mut next) = next else {
                drop(guard);
                if claimed {
                    self.republish(slot);
                }
                return false;
            };
            if let Some(value) = value.take() {
                next.push(*key, expires_at, value, place.tag);
            }
            match slot.publish(current, next) {
                Ok(replaced) => {
                    drop(guard);
                    // SAFETY: the bucket has left a slot of this map, which owns the limbo.
                    unsafe { self.limbo.retire(replaced) };
                    return true;
                }
                Err(mut unpublished) => {
                    claimed = true;
                    if room == 1 {
                        value = unpublished.pop();
                    }
                }
            }
        }
    }

    /// Publishes a copy of the slot's bucket. This replaces a claim that an insert has left in the
    /// hint (H6). Lock-free.
    #[cold]
    fn republish(&self, slot: &Slot<V>)
    where
        V: Clone,
    {
        loop {
            let guard = reclaim::pin();
            let current = slot.load(&guard);
            let copy = current.read(|bucket| {
                let bucket = bucket?;
                let mut copy =
                    OwnedBucket::with_capacity(bucket.len(), bucket.generation(), bucket.gate());
                Selection::of(Some(bucket), |_| true).copy(Some(bucket), &mut copy);
                Some(copy)
            });
            let Some(copy) = copy else { return };
            if let Ok(replaced) = slot.publish(current, copy) {
                drop(guard);
                // SAFETY: the bucket has left a slot of this map, which owns the limbo.
                unsafe { self.limbo.retire(replaced) };
                return;
            }
        }
    }

    /// Makes every entry unreachable, and supersedes every stamp taken so far. One
    /// read-modify-write at any size.
    pub(super) fn invalidate(&self) {
        // Release: pairs with the Acquire in `stamp`, for what the caller did before (G1.6).
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Invalidates as [`invalidate`](Self::invalidate) does, and makes stamps of a time before
    /// `closed_until` worthless, also later ones. Lock-free; two read-modify-writes at any size.
    pub(super) fn invalidate_for(&self, closed_until: u64) {
        // Relaxed: the Release in `invalidate` publishes this time before the new generation, so
        // each stamp of that generation reads the time (G2.16).
        self.closed_until.fetch_max(closed_until, Ordering::Relaxed);
        self.invalidate();
    }

    /// Makes the entry of `key` unreachable, and supersedes every stamp taken so far for a key of
    /// the same bucket, and every later one of a time before `closed_until`. Lock-free.
    pub(super) fn invalidate_key(&self, key: &KeyHash, closed_until: u64)
    where
        V: Clone,
    {
        let place = self.placement.of(key);
        self.supersede(self.slot(place), closed_until, |alive| {
            let mut kept = Selection::of(alive, |_| true);
            kept.remove(place_in(alive, key, place.tag));
            (kept, ())
        });
    }

    /// Makes every entry unreachable for which `named` returns `true`, and supersedes every stamp
    /// taken so far. Returns the number of removed entries that expire after `now`. Lock-free for
    /// each bucket.
    ///
    /// `named` runs under a guard, and runs again for a bucket whose exchange failed. It is called
    /// for reachable entries that have not expired. Expired ones are removed, and not counted.
    pub(super) fn invalidate_where(&self, now: u64, named: impl Fn(&KeyHash, &V) -> bool) -> usize
    where
        V: Clone,
    {
        let remove_from = |slot| {
            self.supersede(slot, 0, |alive| {
                let live = Selection::of(alive, |entry| now < entry.expires_at);
                let kept = live.filter(alive, |entry| !named(&entry.digest, &entry.value));
                (kept, live.len() - kept.len())
            })
        };
        // Each slot, whatever it holds: a stamp taken before must find another `lease_epoch` where
        // its value, which this call cannot know yet, would be inserted (G2.12).
        self.slots.iter().map(remove_from).sum()
    }

    /// Publishes a copy of the slot's bucket with the entries that `keep` selects, and a raised
    /// gate. Returns what `keep` has returned for the bucket that was replaced.
    fn supersede<R>(
        &self,
        slot: &Slot<V>,
        closed_until: u64,
        keep: impl Fn(Option<Bucket<'_, V>>) -> (Selection, R),
    ) -> R
    where
        V: Clone,
    {
        let guard = reclaim::pin();
        loop {
            let current = slot.load(&guard);
            // Relaxed, and after the slot: as in `insert`.
            let generation = self.generation.load(Ordering::Relaxed);
            let (next, result) = current.read(|bucket| {
                let alive = bucket.filter(|bucket| bucket.generation() == generation);
                // First, since it may run the caller's code. A panic finds nothing to undo, but a
                // claim of an earlier attempt stays (H6).
                let (kept, result) = keep(alive);
                // Published even if nothing is removed: an earlier stamp must not match the new
                // `lease_epoch`.
                let gate = gate(bucket).raised(closed_until);
                let mut next = OwnedBucket::with_capacity(kept.len(), generation, gate);
                kept.copy(alive, &mut next);
                (next, result)
            });
            if let Ok(replaced) = slot.publish(current, next) {
                drop(guard);
                // SAFETY: the bucket has left a slot of this map, which owns the limbo.
                unsafe { self.limbo.retire(replaced) };
                return result;
            }
        }
    }

    /// Returns the number of reachable entries that expire after `now`. Visits every slot, each at
    /// another moment.
    pub(super) fn len(&self, now: u64) -> usize {
        self.slots.iter().map(|slot| self.alive_in(slot, now)).sum()
    }

    /// Returns whether [`len`](Self::len) would be zero. Stops at the first reachable entry.
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

/// Returns the bucket's gate. A vacant slot counts as a bucket of lease epoch zero that was never
/// closed.
fn gate<V>(bucket: Option<Bucket<'_, V>>) -> Gate {
    bucket.map_or(Gate::default(), Bucket::gate)
}

fn place_in<V>(bucket: Option<Bucket<'_, V>>, key: &KeyHash, tag: u8) -> Option<usize> {
    bucket?.find(key, tag).map(|(place, _)| place)
}
