//! A bucket: header and entries in one allocation, behind a thin pointer that fits one atomic word.
//!
//! The only owner of a bucket builds it ([`OwnedBucket`]), then publishes it. A published bucket
//! never changes ([`Bucket`]).

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};

use super::super::sync::{AccessCheck, Cell, alloc, dealloc};
use super::tags::{Half, Tags};
use crate::KeyHash;

#[derive(Clone, Debug)]
pub(super) struct Entry<V> {
    pub(super) digest: KeyHash,
    /// The first nanosecond of the clock at which lookups no longer return the value.
    pub(super) expires_at: u64,
    pub(super) value: V,
}

/// What a bucket demands of leases. Each copy of a bucket inherits its gate, raised or as it is,
/// whatever the two generations are (F5, F9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate {
    /// A `remember` needs a lease of this lease epoch.
    pub(super) lease_epoch: u64,
    /// A lease taken before this time of the clock is refused.
    pub(super) closed_until: u64,
}

impl Gate {
    /// Returns the gate of the successor that supersedes all leases taken so far, and refuses those
    /// taken before `closed_until`.
    pub(super) fn raised(self, closed_until: u64) -> Self {
        Self {
            lease_epoch: self.lease_epoch + 1,
            closed_until: self.closed_until.max(closed_until),
        }
    }
}

/// The start of a bucket, before the entries. A pointer to the header represents the whole bucket.
#[derive(Debug)]
pub(super) struct Header {
    access: AccessCheck,
    generation: u64,
    gate: Gate,
    tags: Tags,
    /// The number of initialised entries. In a published bucket it equals `capacity`.
    len: u32,
    capacity: u32,
    /// The link of a retired bucket, for [`Limbo`](super::limbo::Limbo). A cell, because readers
    /// may still hold the bucket.
    next: Cell<*mut Header>,
}

impl Header {
    /// # Safety
    ///
    /// `header` must be live. No other thread may access its link during the call.
    pub(super) unsafe fn set_next(header: NonNull<Self>, next: *mut Self) {
        // SAFETY: the caller promises a live header. Only the caller accesses the link.
        unsafe { header.as_ref() }.next.set(next);
    }

    /// # Safety
    ///
    /// As for [`set_next`](Self::set_next).
    pub(super) unsafe fn next(header: NonNull<Self>) -> *mut Self {
        // SAFETY: as in `set_next`.
        unsafe { header.as_ref() }.next.get()
    }
}

/// A published bucket: header and entries.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Bucket<V> {
    header: Header,
    entries: [Entry<V>],
}

impl<V> Bucket<V> {
    pub(super) fn generation(&self) -> u64 {
        self.header.generation
    }

    pub(super) fn gate(&self) -> Gate {
        self.header.gate
    }

    pub(super) fn entries(&self) -> &[Entry<V>] {
        &self.entries
    }

    pub(super) fn tag(&self, place: usize) -> u8 {
        self.header.tags.get(place)
    }

    /// Returns the entry with this digest, and its place. Compares eight tags at once, and where a
    /// tag matches, the digest in constant time.
    #[inline]
    pub(super) fn find(&self, digest: &KeyHash, tag: u8) -> Option<(usize, &Entry<V>)> {
        // Places beyond the last entry have tag zero, and may match.
        let entry = |place: usize| self.entries.get(place).filter(|entry| entry.digest == *digest);
        let find_in = |half| {
            self.header.tags.matches(half, tag).find_map(|place| Some((place, entry(place)?)))
        };
        // Most buckets have at most eight entries, so their second half is not compared.
        find_in(Half::First)
            .or_else(|| if self.entries.len() > 8 { find_in(Half::Second) } else { None })
    }

    /// Returns the whole bucket that starts with this header.
    ///
    /// # Safety
    ///
    /// `header` must be a result of [`OwnedBucket::into_raw`]. No thread may change or free that
    /// bucket during `'a`.
    pub(super) unsafe fn from_header<'a>(header: NonNull<Header>) -> &'a Self {
        // SAFETY: the caller promises a live, unchanged bucket. The pointer of `into_raw` has the
        // provenance that `whole` requires.
        unsafe { &*whole::<V>(header) }
    }

    /// Runs `read` over this bucket as an access that loom checks.
    #[inline]
    pub(super) fn reading<R>(&self, read: impl FnOnce(&Self) -> R) -> R {
        self.header.access.reading(|| read(self))
    }
}

/// Widens a header's pointer to its bucket, with the initialised entries.
///
/// # Safety
///
/// `header` must point to a live bucket's header, with the provenance of the whole allocation.
unsafe fn whole<V>(header: NonNull<Header>) -> *mut Bucket<V> {
    // SAFETY: the caller promises a live header.
    let len = unsafe { (*header.as_ptr()).len } as usize;
    // A slice pointer carries the length that the unsized `Bucket` needs; the cast keeps it.
    ptr::slice_from_raw_parts_mut(header.as_ptr().cast::<Entry<V>>(), len) as *mut Bucket<V>
}

/// Returns the layout of a bucket with `capacity` entries, and the offset of the first entry.
/// `repr(C)` gives [`Bucket`] the same layout.
fn layout<V>(capacity: usize) -> (Layout, usize) {
    let sized = Layout::array::<Entry<V>>(capacity)
        .and_then(|entries| Layout::new::<Header>().extend(entries));
    match sized {
        Ok((layout, offset)) => (layout.pad_to_align(), offset),
        // Unreachable: the values of a bucket exist in memory before the bucket, so their layout
        // fits.
        Err(_) => unreachable!("a bucket of {capacity} entries exceeds the address space"),
    }
}

/// A bucket that no other thread can access: not published yet, or not reachable any more. Drops
/// its entries when dropped.
#[derive(Debug)]
pub(super) struct OwnedBucket<V> {
    /// Live, and owned by this value alone: the invariant behind every `unsafe` below.
    header: NonNull<Header>,
    entries: PhantomData<Entry<V>>,
}

impl<V> OwnedBucket<V> {
    /// Returns an empty bucket with room for `capacity` entries, 16 at most.
    pub(super) fn with_capacity(capacity: usize, generation: u64, gate: Gate) -> Self {
        assert!(capacity <= Tags::CAPACITY);
        let (layout, _) = layout::<V>(capacity);
        // SAFETY: the layout is at least as large as the header, so its size is not zero.
        let header = unsafe { alloc(layout) }.cast::<Header>();
        let Some(header) = NonNull::new(header) else { handle_alloc_error(layout) };
        let empty = Header {
            access: AccessCheck::new(),
            generation,
            gate,
            tags: Tags::default(),
            len: 0,
            capacity: capacity as u32,
            next: Cell::new(ptr::null_mut()),
        };
        // SAFETY: the allocation is fresh, aligned and large enough for a header.
        unsafe { header.write(empty) };
        Self { header, entries: PhantomData }
    }

    /// Appends an entry.
    ///
    /// # Panics
    ///
    /// If the bucket is full. [`SnapshotMap`](super::SnapshotMap) makes room before each push.
    pub(super) fn push(&mut self, entry: Entry<V>, tag: u8) {
        // SAFETY: the bucket is live, and this value owns it.
        let header = unsafe { self.header.as_mut() };
        let place = header.len as usize;
        assert!(header.len < header.capacity);
        header.tags.set(place, tag);
        // SAFETY: `place` is below the capacity, so the entry is inside the allocation.
        // `self.header` has the provenance of the whole allocation.
        unsafe { self.entry_ptr(place).write(entry) };
        // SAFETY: as above. The reference is made again, because `entry_ptr` read the header.
        unsafe { self.header.as_mut() }.len += 1;
    }

    /// Removes the last entry and returns it.
    pub(super) fn pop(&mut self) -> Option<Entry<V>> {
        // SAFETY: the bucket is live, and this value owns it.
        let header = unsafe { self.header.as_mut() };
        let place = header.len.checked_sub(1)?;
        header.len = place;
        // SAFETY: the entry at `place` was initialised. The new `len` excludes it, so only the
        // caller owns the entry.
        Some(unsafe { self.entry_ptr(place as usize).read() })
    }

    fn entry_ptr(&self, place: usize) -> *mut Entry<V> {
        let (_, offset) = layout::<V>(0);
        // SAFETY: `place` is at most the capacity, so the result is in the allocation or one past
        // its end.
        unsafe { self.header.as_ptr().byte_add(offset).cast::<Entry<V>>().add(place) }
    }

    /// Releases ownership, for publishing. [`from_raw`](Self::from_raw) takes the bucket back.
    pub(super) fn into_raw(self) -> *mut Header {
        mem::ManuallyDrop::new(self).header.as_ptr()
    }

    /// Takes ownership of a bucket that [`into_raw`](Self::into_raw) released.
    ///
    /// # Safety
    ///
    /// `header` must be a result of [`into_raw`](Self::into_raw) of the same `V`. No other call may
    /// take the bucket, and no thread may read it from now on.
    pub(super) unsafe fn from_raw(header: NonNull<Header>) -> Self {
        Self { header, entries: PhantomData }
    }
}

impl<V> Drop for OwnedBucket<V> {
    fn drop(&mut self) {
        /// Frees the allocation even when a value's `Drop` panics.
        struct Free(NonNull<Header>, Layout);
        impl Drop for Free {
            fn drop(&mut self) {
                // SAFETY: `with_capacity` initialised the header, and no thread uses the header
                // after this.
                unsafe { self.0.drop_in_place() };
                // SAFETY: `with_capacity` allocated it with this layout, and only this line frees
                // it.
                unsafe { dealloc(self.0.as_ptr().cast(), self.1) };
            }
        }
        // SAFETY: the bucket is live, and this value owns it.
        let header = unsafe { self.header.as_ref() };
        let free = Free(self.header, layout::<V>(header.capacity as usize).0);
        header.access.writing(|| {
            let entries = ptr::slice_from_raw_parts_mut(self.entry_ptr(0), header.len as usize);
            // SAFETY: the first `len` entries are initialised, and no thread uses them after this.
            unsafe { entries.drop_in_place() };
        });
        drop(free);
    }
}
