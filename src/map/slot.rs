//! A slot: the atomic pointer to the current bucket. Readers load the pointer, writers replace it.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::super::reclaim::Guard;
use super::super::sync::{AtomicPtr, Ordering};
use super::bucket::{Bucket, Header, OwnedBucket};
use super::limbo::Replaced;

/// Holds null until the first write, and a bucket from then on.
///
/// Invariant: each pointer in a slot is a result of [`OwnedBucket::into_raw`] of the same `V`. A
/// pointer leaves the slot when [`Slot::publish`] returns it to be retired, or when the slot is
/// dropped.
pub(super) struct Slot<V> {
    pointer: AtomicPtr<Header>,
    values: PhantomData<V>,
}

/// The loaded pointer of a slot. Borrows the guard and the slot, which keep the bucket from being
/// freed.
pub(super) struct Loaded<'g, V> {
    header: *mut Header,
    borrowed: PhantomData<(&'g Guard, &'g Slot<V>)>,
}

impl<V> Slot<V> {
    pub(super) fn vacant() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), values: PhantomData }
    }

    #[inline]
    pub(super) fn load<'g>(&'g self, _guard: &'g Guard) -> Loaded<'g, V> {
        // Acquire: pairs with the Release in `publish`, for the bucket's contents. The load also
        // acquires what the publishers of its predecessors acquired.
        Loaded { header: self.pointer.load(Ordering::Acquire), borrowed: PhantomData }
    }

    /// Replaces `current` by `next`, and returns `current` to be retired. Returns `next` if the
    /// slot no longer holds `current`.
    pub(super) fn publish(
        &self,
        current: Loaded<'_, V>,
        next: OwnedBucket<V>,
    ) -> Result<Replaced<V>, OwnedBucket<V>> {
        let next = next.into_raw();
        // Release: pairs with the Acquire in `load`. No Acquire on success: the load of `current`
        // has acquired its contents. Relaxed on failure: the caller loads again.
        match self.pointer.compare_exchange(
            current.header,
            next,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            // SAFETY: `old` was in this slot, so `old` is null or a result of `into_raw`. The
            // exchange removed `old`, so only this call has it. `old` is not published again.
            Ok(old) => Ok(unsafe { Replaced::new(old) }),
            Err(_) => {
                // SAFETY: `next` is a result of `into_raw`, so it is not null. The exchange failed,
                // so only this call has `next`.
                Err(unsafe { OwnedBucket::from_raw(NonNull::new_unchecked(next)) })
            }
        }
    }
}

impl<V> Loaded<'_, V> {
    /// Calls `read` with the bucket, or with `None` if the slot is vacant.
    #[inline]
    pub(super) fn read<R>(&self, read: impl FnOnce(Option<&Bucket<V>>) -> R) -> R {
        match NonNull::new(self.header) {
            None => read(None),
            Some(header) => {
                // SAFETY: a slot holds only pointers from `into_raw`, and a published bucket does
                // not change. `self` borrows the guard and the slot, which keep the bucket from
                // being freed.
                let bucket = unsafe { Bucket::<V>::from_header(header) };
                bucket.reading(|bucket| read(Some(bucket)))
            }
        }
    }
}

impl<V> Drop for Slot<V> {
    fn drop(&mut self) {
        // Relaxed: with `&mut self` every other access happened-before.
        if let Some(header) = NonNull::new(self.pointer.load(Ordering::Relaxed)) {
            // SAFETY: a slot holds only pointers from `into_raw`. Every `Loaded` borrows the slot,
            // so no `Loaded` is left. No thread can load the pointer again.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}
