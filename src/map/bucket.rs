//! A bucket: header and entries in one allocation, behind a thin pointer that fits one atomic word.
//!
//! The only owner of a bucket builds it ([`OwnedBucket`]), then publishes it. A published bucket
//! never changes ([`Bucket`]).
//!
//! Entries start at a cache line. An entry of at most [`LINE`] bytes has a line of its own, so a
//! lookup that knows the entry's place reads one line of the bucket.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};

use super::super::sync::{AccessCheck, Cell, alloc, dealloc};
use super::hint::Hint;
use super::tags::{Half, Tags};
use crate::KeyHash;

/// The bytes of a cache line on most processors.
const LINE: usize = 64;

/// The alignment that allocators give without a detour.
const CHEAP_ALIGN: usize = 2 * align_of::<usize>();

/// One key and its value. The order of the fields leaves a value of 16 bytes in the same line.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Entry<V> {
    pub(super) digest: KeyHash,
    /// The first nanosecond of the clock at which lookups no longer return the value.
    pub(super) expires_at: u64,
    /// The generation of the bucket, here for lookups that do not read the header.
    pub(super) generation: u64,
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
    len: u8,
    capacity: u8,
    /// The number of unused bytes before the header in the allocation.
    lead: u32,
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

/// The distances within a bucket's allocation, for entries of one type.
struct Distances<V>(PhantomData<Entry<V>>);

impl<V> Distances<V> {
    /// The alignment of the header and of the first entry.
    const ALIGN: usize = if align_of::<Entry<V>>() > LINE { align_of::<Entry<V>>() } else { LINE };
    /// From the header to the first entry.
    const FIRST: usize = size_of::<Header>().next_multiple_of(Self::ALIGN);
    /// From an entry to the next one.
    const STRIDE: usize = if size_of::<Entry<V>>() <= LINE { LINE } else { size_of::<Entry<V>>() };
    /// The alignment that is requested from the allocator.
    ///
    /// Allocators are slow for an alignment above their own: a `remember` took four times as long.
    /// So the allocation is larger than the bucket, and the bucket is aligned within it.
    const REQUESTED: usize =
        if align_of::<Entry<V>>() > CHEAP_ALIGN { Self::ALIGN } else { CHEAP_ALIGN };
    const SLACK: usize = Self::ALIGN - Self::REQUESTED;

    /// Returns the layout of the allocation for `capacity` entries.
    fn layout(capacity: usize) -> Layout {
        let bytes = Self::STRIDE
            .checked_mul(capacity)
            .and_then(|entries| entries.checked_add(Self::FIRST + Self::SLACK))
            .and_then(|bytes| Layout::from_size_align(bytes, Self::REQUESTED).ok());
        match bytes {
            Some(layout) => layout,
            // Sixteen values of half the address space each cannot have been made.
            None => unreachable!("a bucket of {capacity} entries exceeds the address space"),
        }
    }

    /// Returns the pointer to the entry at `place`, or to the end of the last one.
    ///
    /// # Safety
    ///
    /// `header` must be the header of a bucket with room for `place` entries at least, with the
    /// provenance of the allocation.
    #[inline]
    unsafe fn entry(header: NonNull<Header>, place: usize) -> NonNull<Entry<V>> {
        // SAFETY: the caller promises that the entry, or the end, is in the allocation.
        unsafe { header.byte_add(Self::FIRST + place * Self::STRIDE).cast() }
    }
}

/// A published bucket, borrowed for `'b`: its header and the number of its entries. During `'b` no
/// thread changes or frees the bucket. This is the invariant behind every `unsafe` of the type.
pub(super) struct Bucket<'b, V> {
    header: NonNull<Header>,
    len: usize,
    borrowed: PhantomData<&'b Entry<V>>,
}

impl<V> Clone for Bucket<'_, V> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Bucket<'_, V> {}

impl<'b, V> Bucket<'b, V> {
    /// Returns the bucket of this header.
    ///
    /// # Safety
    ///
    /// The two must be a result of [`OwnedBucket::into_raw`] of the same `V`. No thread may change
    /// or free that bucket during `'b`.
    #[inline]
    pub(super) unsafe fn from_raw(header: NonNull<Header>, len: usize) -> Self {
        Self { header, len, borrowed: PhantomData }
    }

    fn header(self) -> &'b Header {
        // SAFETY: the type's invariant.
        unsafe { self.header.as_ref() }
    }

    pub(super) fn generation(self) -> u64 {
        self.header().generation
    }

    pub(super) fn gate(self) -> Gate {
        self.header().gate
    }

    pub(super) fn len(self) -> usize {
        self.len
    }

    /// Returns the entry at `place`, or `None` if the bucket has fewer entries. Does not read the
    /// header.
    #[inline]
    pub(super) fn entry(self, place: usize) -> Option<&'b Entry<V>> {
        // SAFETY: a bucket has room for its `len` entries, and they are initialised and unchanged
        // during `'b`.
        (place < self.len).then(|| unsafe { Distances::<V>::entry(self.header, place).as_ref() })
    }

    pub(super) fn entries(self) -> impl Iterator<Item = &'b Entry<V>> {
        (0..self.len).map_while(move |place| self.entry(place))
    }

    pub(super) fn tag(self, place: usize) -> u8 {
        self.header().tags.get(place)
    }

    /// Returns the entry with this digest, and its place. Compares eight tags at once, and where a
    /// tag matches, the digest in constant time.
    #[inline]
    pub(super) fn find(self, digest: &KeyHash, tag: u8) -> Option<(usize, &'b Entry<V>)> {
        // Places beyond the last entry have tag zero, and may match.
        let entry = |place: usize| self.entry(place).filter(|entry| entry.digest == *digest);
        let find_in = |half| {
            self.header().tags.matches(half, tag).find_map(|place| Some((place, entry(place)?)))
        };
        // Most buckets have at most eight entries, so their second half is not compared.
        find_in(Half::First).or_else(|| if self.len > 8 { find_in(Half::Second) } else { None })
    }

    /// Begins a reading of the bucket that loom checks. It ends when the result is dropped.
    #[inline]
    pub(super) fn access(self) -> impl Sized + use<V> {
        self.header().access.reading()
    }
}

/// A bucket that no other thread has seen, or that no other thread can see any more. Dropping it
/// drops its entries.
pub(super) struct OwnedBucket<V> {
    /// Live, and owned by this value alone: the invariant behind every `unsafe` below.
    header: NonNull<Header>,
    entries: PhantomData<Entry<V>>,
}

impl<V> OwnedBucket<V> {
    /// Returns an empty bucket with room for `capacity` entries, 16 at most.
    pub(super) fn with_capacity(capacity: usize, generation: u64, gate: Gate) -> Self {
        assert!(capacity <= Tags::CAPACITY);
        let layout = Distances::<V>::layout(capacity);
        // SAFETY: the layout has at least the header's size, which is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        let lead = start.addr().wrapping_neg() % Distances::<V>::ALIGN;
        // SAFETY: `lead` is at most `SLACK`, since the start has the requested alignment. The
        // allocation has that much more room than the bucket.
        let header = unsafe { NonNull::new_unchecked(start.byte_add(lead)) }.cast::<Header>();
        let empty = Header {
            access: AccessCheck::new(),
            generation,
            gate,
            tags: Tags::default(),
            len: 0,
            capacity: capacity as u8,
            lead: lead as u32,
            next: Cell::new(ptr::null_mut()),
        };
        // SAFETY: the allocation is fresh, and large enough for a header at `lead`, which is
        // aligned.
        unsafe { header.write(empty) };
        Self { header, entries: PhantomData }
    }

    /// Appends an entry. The entry gets the bucket's generation.
    ///
    /// # Panics
    ///
    /// If the bucket is full. [`SnapshotMap`](super::SnapshotMap) reserves room for each push.
    pub(super) fn push(&mut self, digest: KeyHash, expires_at: u64, value: V, tag: u8) {
        // SAFETY: the type's invariant.
        let header = unsafe { self.header.as_mut() };
        let place = usize::from(header.len);
        assert!(header.len < header.capacity);
        header.tags.set(place, tag);
        header.len += 1;
        let entry = Entry { digest, expires_at, generation: header.generation, value };
        // SAFETY: `place` is below the capacity.
        unsafe { Distances::<V>::entry(self.header, place).write(entry) };
    }

    /// Removes the last entry and returns its value.
    pub(super) fn pop(&mut self) -> Option<V> {
        // SAFETY: the type's invariant.
        let header = unsafe { self.header.as_mut() };
        header.len = header.len.checked_sub(1)?;
        let place = usize::from(header.len);
        // SAFETY: the entry at `place` was initialised. With the new `len`, only the caller has
        // it.
        Some(unsafe { Distances::<V>::entry(self.header, place).read() }.value)
    }

    /// Returns the hint of this bucket as it is.
    pub(super) fn hint(&self) -> Hint {
        // SAFETY: the type's invariant.
        let header = unsafe { self.header.as_ref() };
        Hint::of(header.tags, usize::from(header.len))
    }

    /// Gives up ownership, for publishing. [`from_raw`](Self::from_raw) takes it again. Returns the
    /// number of entries, too. The header's address is a multiple of [`LINE`].
    pub(super) fn into_raw(self) -> (NonNull<Header>, usize) {
        let header = mem::ManuallyDrop::new(self).header;
        // SAFETY: the type's invariant; no other thread has the bucket yet.
        (header, usize::from(unsafe { header.as_ref() }.len))
    }

    /// Takes ownership of a bucket that was given up.
    ///
    /// # Safety
    ///
    /// `header` must be a result of [`into_raw`](Self::into_raw) of the same `V`. No other thread
    /// may take it, and no thread may read it from now on.
    pub(super) unsafe fn from_raw(header: NonNull<Header>) -> Self {
        Self { header, entries: PhantomData }
    }
}

impl<V> fmt::Debug for OwnedBucket<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedBucket").field("header", &self.header).finish_non_exhaustive()
    }
}

impl<V> Drop for OwnedBucket<V> {
    fn drop(&mut self) {
        /// Frees the allocation even when a value's `Drop` panics.
        struct Free(NonNull<Header>, usize, Layout);
        impl Drop for Free {
            fn drop(&mut self) {
                // SAFETY: no thread uses the header after this; `with_capacity` initialised it.
                unsafe { self.0.drop_in_place() };
                // SAFETY: `with_capacity` has put the header at `lead` in its allocation.
                let start = unsafe { self.0.byte_sub(self.1) };
                // SAFETY: allocated with this layout in `with_capacity`, freed only here.
                unsafe { dealloc(start.as_ptr().cast(), self.2) };
            }
        }
        // SAFETY: the type's invariant.
        let header = unsafe { self.header.as_ref() };
        let layout = Distances::<V>::layout(usize::from(header.capacity));
        let free = Free(self.header, header.lead as usize, layout);
        header.access.writing(|| {
            for place in 0..usize::from(header.len) {
                // SAFETY: the first `len` entries are initialised, and no thread uses them after
                // this.
                unsafe { Distances::<V>::entry(self.header, place).drop_in_place() };
            }
        });
        drop(free);
    }
}

// Not with loom: its cells exist only within a model.
#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_no_entry_beyond_its_last() {
        let mut owned = OwnedBucket::with_capacity(2, 0, Gate::default());
        owned.push(KeyHash::of("key"), 1, 7_u32, 0);
        let (header, len) = owned.into_raw();
        // SAFETY: both are the results of `into_raw`, and the bucket outlives this borrow.
        let bucket = unsafe { Bucket::<u32>::from_raw(header, len) };
        assert_eq!(bucket.entry(0).map(|entry| entry.value), Some(7));
        assert!(bucket.entry(1).is_none() && bucket.entry(8).is_none());
        // SAFETY: `into_raw` released it, and no thread reads it from now on.
        drop(unsafe { OwnedBucket::<u32>::from_raw(header) });
    }

    #[test]
    fn an_entry_of_sixteen_bytes_has_a_cache_line_of_its_own() {
        assert_eq!(size_of::<Entry<[u64; 2]>>(), LINE);
        for capacity in 1..=Tags::CAPACITY {
            let mut owned = OwnedBucket::with_capacity(capacity, 0, Gate::default());
            (0..capacity).for_each(|_| owned.push(KeyHash::of("key"), 1, [0_u64; 2], 0));
            let (header, len) = owned.into_raw();
            // SAFETY: both are the results of `into_raw`, and the bucket outlives this borrow.
            let bucket = unsafe { Bucket::<[u64; 2]>::from_raw(header, len) };
            assert!(bucket.entries().all(|entry| ptr::from_ref(entry).addr() % LINE == 0));
            // SAFETY: `into_raw` released it, and no thread reads it from now on.
            drop(unsafe { OwnedBucket::<[u64; 2]>::from_raw(header) });
        }
    }
}
