//! A slot: the atomic pointer through which a bucket is reached, replaced and, at the end, freed.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::super::reclaim::Guard;
use super::super::sync::{AtomicPtr, Ordering};
use super::bucket::{Bucket, Header, OwnedBucket};
use super::limbo::Replaced;

/// Holds null until it is first written, and a bucket ever after.
///
/// Invariant: a pointer that a slot holds came from [`OwnedBucket::into_raw`] of the same `V`. When
/// it leaves the slot it is retired under a guard, or the slot itself is being dropped.
pub(super) struct Slot<V> {
    pointer: AtomicPtr<Header>,
    values: PhantomData<V>,
}

/// What a slot held when it was loaded; good for as long as the guard lives.
pub(super) struct Loaded<'g, V> {
    header: *mut Header,
    guard: PhantomData<(&'g Guard, &'g V)>,
}

impl<V> Slot<V> {
    pub(super) fn vacant() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), values: PhantomData }
    }

    #[inline]
    pub(super) fn load<'g>(&self, _guard: &'g Guard) -> Loaded<'g, V> {
        // Acquire: pairs with the Release in `publish`, so that the bucket's contents are visible,
        // as is all that its publisher and the publishers of its predecessors had seen.
        Loaded { header: self.pointer.load(Ordering::Acquire), guard: PhantomData }
    }

    /// Puts `next` where `current` still is, and gives `current` to be retired; gives `next` back
    /// if something else is there by now.
    pub(super) fn publish(
        &self,
        current: Loaded<'_, V>,
        next: OwnedBucket<V>,
    ) -> Result<Replaced<V>, OwnedBucket<V>> {
        let next = next.into_raw();
        // Release: pairs with the Acquire in `load`. No Acquire on success: of `current` nothing is
        // read that its own load has not already made visible. Relaxed on failure: the
        // caller loads again.
        match self.pointer.compare_exchange(
            current.header,
            next,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            // SAFETY: it came out of this slot by the exchange just now, so it is null or came from
            // `into_raw`, only this call has it, and no guard made from now on can
            // reach it.
            Ok(old) => Ok(unsafe { Replaced::new(old) }),
            Err(_) => {
                // SAFETY: `next` was not published: it is still ours alone. It is not null.
                Err(unsafe { OwnedBucket::from_raw(NonNull::new_unchecked(next)) })
            }
        }
    }
}

impl<V> Loaded<'_, V> {
    /// Shows `read` the bucket, or `None` where there is none yet.
    #[inline]
    pub(super) fn read<R>(&self, read: impl FnOnce(Option<&Bucket<V>>) -> R) -> R {
        match NonNull::new(self.header) {
            None => read(None),
            Some(header) => {
                // SAFETY: a slot holds only pointers from `into_raw`. A published bucket never
                // changes, and the guard, which outlives `self`, keeps it from
                // being freed.
                let bucket = unsafe { Bucket::<V>::from_header(header) };
                bucket.reading(|bucket| read(Some(bucket)))
            }
        }
    }
}

impl<V> Drop for Slot<V> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` says that every other access happened-before.
        if let Some(header) = NonNull::new(self.pointer.load(Ordering::Relaxed)) {
            // SAFETY: a slot holds only pointers from `into_raw`; nobody can load this one any
            // more, and whoever did had borrowed the map.
            drop(unsafe { OwnedBucket::<V>::from_raw(header) });
        }
    }
}
