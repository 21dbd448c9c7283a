//! A slot: the atomic pointer to the current bucket, and next to it the bucket's hint. Readers load
//! the two, writers replace them.
//!
//! # How the hint stays exact
//!
//! A writer changes the slot in three steps:
//!
//! 1. *Claim*: stores its claim in the hint, which is the address of the bucket to be published.
//! 2. *Exchange*: replaces the pointer by compare-exchange.
//! 3. *Confirm*: replaces its claim by the bucket's hint, by compare-exchange.
//!
//! If another writer has claimed in between, the confirmation fails and changes nothing: that
//! writer confirms its own bucket. So a *complete* hint describes the slot's current bucket.
//! `docs/guarantees.md` has the proof (H1 to H6).

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::super::reclaim::Guard;
use super::super::sync::{AtomicPtr, ClaimedU64, Ordering};
use super::bucket::{Bucket, Entry, Header, OwnedBucket};
use super::hint::Hint;
use super::limbo::Replaced;

/// Holds null until the first write, and a bucket from then on.
///
/// Invariant: each pointer in a slot is null, or the two results of [`OwnedBucket::into_raw`] of
/// the same `V` in one word. A pointer leaves the slot when [`Slot::publish`] returns it to be
/// retired, or when the slot is dropped.
///
/// The alignment keeps the two words in one cache line.
#[repr(align(16))]
pub(super) struct Slot<V> {
    pointer: AtomicPtr<Header>,
    hint: ClaimedU64,
    values: PhantomData<V>,
}

/// The low bits of a header's address, which is a multiple of 64: there a slot's pointer has the
/// number of entries. So no hint leads beyond the bucket.
const LEN: usize = 63;

/// A slot's pointer at the time of a load. Borrows the guard and the slot, which keep the bucket
/// from being freed.
pub(super) struct Loaded<'g, V> {
    pointer: *mut Header,
    borrowed: PhantomData<(&'g Guard, &'g Slot<V>)>,
}

impl<V> Slot<V> {
    pub(super) fn vacant() -> Self {
        Self {
            pointer: AtomicPtr::new(ptr::null_mut()),
            hint: ClaimedU64::new(Hint::EMPTY),
            values: PhantomData,
        }
    }

    /// Returns the hint. Load it before the bucket.
    #[inline]
    pub(super) fn hint(&self) -> Hint {
        // Acquire: pairs with the Release of the confirmation in `publish` (H4).
        Hint(self.hint.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn load<'g>(&'g self, _guard: &'g Guard) -> Loaded<'g, V> {
        // Acquire: pairs with the Release in `publish` (F1, F6).
        Loaded { pointer: self.pointer.load(Ordering::Acquire), borrowed: PhantomData }
    }

    /// Replaces `current` by `next`, and returns `current` to be retired. Returns `next` if the
    /// slot no longer holds `current`: then the hint stays a claim until a later `publish` of this
    /// slot succeeds.
    pub(super) fn publish(
        &self,
        current: Loaded<'_, V>,
        next: OwnedBucket<V>,
    ) -> Result<Replaced<V>, OwnedBucket<V>> {
        let hint = next.hint();
        let (header, len) = next.into_raw();
        let claim = Hint::claim(header);
        let pointer = header.as_ptr().map_addr(|address| address | len);
        // Relaxed: the Release of the exchange orders the claim before the pointer (H2).
        self.hint.store(claim.0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `load` (F1, F6). No Acquire on success: the load of
        // `current` has acquired its contents. Relaxed on failure: the caller loads again.
        match self.pointer.compare_exchange(
            current.pointer,
            pointer,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => {
                // Release: pairs with the Acquire in `hint` (H4). Relaxed on failure: another
                // writer has claimed, and confirms.
                self.hint
                    .compare_exchange(claim.0, hint.0, Ordering::Release, Ordering::Relaxed)
                    .ok();
                // SAFETY: the exchange took `current` out of this slot, so it is null or came from
                // `into_raw`, and only this call has it. It is not published again.
                Ok(unsafe { Replaced::new(current.header()) })
            }
            Err(_) => {
                // SAFETY: `header` came from `into_raw`. The exchange failed, so only this call has
                // it.
                Err(unsafe { OwnedBucket::from_raw(header) })
            }
        }
    }
}

impl<'g, V> Loaded<'g, V> {
    /// Returns null, or the header without the number of entries.
    fn header(&self) -> *mut Header {
        self.pointer.map_addr(|address| address & !LEN)
    }

    /// Returns the bucket, or `None` if the slot held null.
    #[inline]
    pub(super) fn bucket(&self) -> Option<Bucket<'_, V>> {
        let header = NonNull::new(self.header())?;
        // SAFETY: the header and the number come from `into_raw`, and a published bucket does not
        // change. `self` borrows the guard and the slot, which keep the bucket from being freed.
        Some(unsafe { Bucket::from_raw(header, self.pointer.addr() & LEN) })
    }

    /// Returns the entry at `place`, or `None` if the bucket has fewer entries or the slot held
    /// null. Does not read the header.
    #[inline]
    pub(super) fn entry(&self, place: usize) -> Option<&Entry<V>> {
        let len = self.pointer.addr() & LEN;
        if place >= len {
            return None;
        }
        // SAFETY: a pointer with a number of entries above zero is not null.
        let header = unsafe { NonNull::new_unchecked(self.header()) };
        // SAFETY: as in `bucket`.
        unsafe { Bucket::from_raw(header, len) }.entry(place)
    }

    /// Begins a reading of the bucket that loom checks. It ends when the result is dropped.
    #[inline]
    pub(super) fn access(&self) -> impl Sized + use<V> {
        self.bucket().map(Bucket::access)
    }

    /// Calls `read` with the bucket, or with `None` if the slot held null.
    #[inline]
    pub(super) fn read<R>(&self, read: impl FnOnce(Option<Bucket<'_, V>>) -> R) -> R {
        let _access = self.access();
        read(self.bucket())
    }
}

impl<V> Drop for Slot<V> {
    fn drop(&mut self) {
        // Relaxed: with `&mut self` every other access happened-before.
        let pointer = self.pointer.load(Ordering::Relaxed);
        let loaded = Loaded::<V> { pointer, borrowed: PhantomData };
        if let Some(header) = NonNull::new(loaded.header()) {
            // SAFETY: the header came from `into_raw`. Every `Loaded` borrows the slot, so none is
            // left, and no thread can load the pointer again.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}
