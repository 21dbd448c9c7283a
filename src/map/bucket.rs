//! A bucket: header and entries in one allocation, behind a thin pointer so that one atomic word
//! can hold it.
//!
//! A bucket is built by its only owner ([`OwnedBucket`]), then published, and never changed again
//! ([`Bucket`]).

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
    /// The first nanosecond of the clock at which the value is no longer shown.
    pub(super) expires_at: u64,
    pub(super) value: V,
}

/// What comes before the entries; a pointer to it stands for the whole bucket.
#[derive(Debug)]
pub(super) struct Header {
    access: AccessCheck,
    generation: u64,
    lease_epoch: u64,
    tags: Tags,
    /// How many entries are initialised. A published bucket has as many as there is room for.
    len: u32,
    capacity: u32,
    /// The link of a retired bucket, for [`Limbo`](super::limbo::Limbo). A cell, since readers may
    /// still hold the bucket.
    next: Cell<*mut Header>,
}

impl Header {
    /// # Safety
    ///
    /// `header` must be live, and its link no one else's during the call.
    pub(super) unsafe fn set_next(header: NonNull<Self>, next: *mut Self) {
        // SAFETY: the caller's promise; readers do not look at the link.
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

/// A whole bucket, as readers see it.
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

    pub(super) fn lease_epoch(&self) -> u64 {
        self.header.lease_epoch
    }

    pub(super) fn entries(&self) -> &[Entry<V>] {
        &self.entries
    }

    pub(super) fn tag(&self, place: usize) -> u8 {
        self.header.tags.get(place)
    }

    /// The entry with this digest, and its place. The tags are compared eight at once, then the
    /// digest in constant time where one matched.
    #[inline]
    pub(super) fn find(&self, digest: &KeyHash, tag: u8) -> Option<(usize, &Entry<V>)> {
        // Places beyond the last entry have tag zero, and may match.
        let entry = |place: usize| self.entries.get(place).filter(|entry| entry.digest == *digest);
        let find_in = |half| {
            self.header.tags.matches(half, tag).find_map(|place| Some((place, entry(place)?)))
        };
        // Most buckets have no more than eight entries, and a second half that need not be looked
        // at.
        find_in(Half::First)
            .or_else(|| if self.entries.len() > 8 { find_in(Half::Second) } else { None })
    }

    /// The bucket whose header this is, all of it.
    ///
    /// # Safety
    ///
    /// `header` must come from [`OwnedBucket::into_raw`], and nothing may change or free that
    /// bucket during `'a`.
    pub(super) unsafe fn from_header<'a>(header: NonNull<Header>) -> &'a Self {
        // SAFETY: the caller says that it is one of ours and unchanged; `whole` explains the
        // pointer.
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
    // SAFETY: the caller's promise.
    let len = unsafe { (*header.as_ptr()).len } as usize;
    // A slice pointer carries the length that the unsized `Bucket` needs; the cast keeps it.
    ptr::slice_from_raw_parts_mut(header.as_ptr().cast::<Entry<V>>(), len) as *mut Bucket<V>
}

/// Where entries begin, and the layout of a bucket with `capacity` of them. `repr(C)` on [`Bucket`]
/// makes the two agree.
fn layout<V>(capacity: usize) -> (Layout, usize) {
    let sized = Layout::array::<Entry<V>>(capacity)
        .and_then(|entries| Layout::new::<Header>().extend(entries));
    match sized {
        Ok((layout, offset)) => (layout.pad_to_align(), offset),
        // Sixteen values of half the address space each cannot have been made.
        Err(_) => unreachable!("a bucket of {capacity} entries exceeds the address space"),
    }
}

/// A bucket that no other thread has seen, or that no other thread can see any more. Dropping it
/// drops its entries.
#[derive(Debug)]
pub(super) struct OwnedBucket<V> {
    /// Live, and exclusively ours: the invariant behind every `unsafe` below.
    header: NonNull<Header>,
    entries: PhantomData<Entry<V>>,
}

impl<V> OwnedBucket<V> {
    /// An empty bucket with room for `capacity` entries, 16 at most.
    pub(super) fn with_capacity(capacity: usize, generation: u64, lease_epoch: u64) -> Self {
        assert!(capacity <= Tags::CAPACITY);
        let (layout, _) = layout::<V>(capacity);
        // SAFETY: the layout has at least the header's size, which is not zero.
        let header = unsafe { alloc(layout) }.cast::<Header>();
        let Some(header) = NonNull::new(header) else { handle_alloc_error(layout) };
        let empty = Header {
            access: AccessCheck::new(),
            generation,
            lease_epoch,
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
    /// When there is no room; [`SnapshotMap`](super::SnapshotMap) makes room for what it pushes.
    pub(super) fn push(&mut self, entry: Entry<V>, tag: u8) {
        // SAFETY: the bucket is live and ours.
        let header = unsafe { self.header.as_mut() };
        let place = header.len as usize;
        assert!(header.len < header.capacity);
        header.tags.set(place, tag);
        // SAFETY: `place` is below the capacity, so it lies in the allocation, whose provenance
        // `self.header` has.
        unsafe { self.entry_ptr(place).write(entry) };
        // SAFETY: as above; taken again, since `entry_ptr` looked at the header.
        unsafe { self.header.as_mut() }.len += 1;
    }

    /// Takes the last entry out again.
    pub(super) fn pop(&mut self) -> Option<Entry<V>> {
        // SAFETY: the bucket is live and ours.
        let header = unsafe { self.header.as_mut() };
        let place = header.len.checked_sub(1)?;
        header.len = place;
        // SAFETY: the entry at `place` was initialised, and with the new `len` only the
        // caller has it.
        Some(unsafe { self.entry_ptr(place as usize).read() })
    }

    fn entry_ptr(&self, place: usize) -> *mut Entry<V> {
        let (_, offset) = layout::<V>(0);
        // SAFETY: `place` is at most the capacity, so the result is in the allocation or one past
        // its end.
        unsafe { self.header.as_ptr().byte_add(offset).cast::<Entry<V>>().add(place) }
    }

    /// Gives up ownership, for publishing. [`from_raw`](Self::from_raw) takes it back.
    pub(super) fn into_raw(self) -> *mut Header {
        mem::ManuallyDrop::new(self).header.as_ptr()
    }

    /// Takes ownership of a bucket that was given up.
    ///
    /// # Safety
    ///
    /// `header` must come from [`into_raw`](Self::into_raw) of the same `V`, no one else may take
    /// it, and no one may read it from now on.
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
                // SAFETY: no thread uses the header after this; `with_capacity` initialised it.
                unsafe { self.0.drop_in_place() };
                // SAFETY: allocated with this layout in `with_capacity`, freed only here.
                unsafe { dealloc(self.0.as_ptr().cast(), self.1) };
            }
        }
        // SAFETY: the bucket is live and ours.
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
