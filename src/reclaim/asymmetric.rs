//! Epochs whose readers do not fence, and whose writers seldom need a barrier.
//!
//! # The protocol
//!
//! Each thread has a record. A pin stores the current epoch in the record's `pinned`, by a plain
//! store. The end of the thread's last guard stores zero there. The first pin in an epoch also
//! *attaches* the thread: it exchanges the record's `seen` for the epoch.
//!
//! [`Grace::start`] advances the epoch from `e` to `e + 1`. The grace period is called `e`. It is
//! over at a [`Horizon`] in one of two cases:
//!
//! * Every record's `seen` is above `e`. This case needs no barrier, and occurs while all threads
//!   keep reading.
//! * A writer has made the heavy barrier ([`Fence::make`]), and afterwards no record's `pinned` is
//!   `e` or less, zero apart. This case serves the threads that are idle.
//!
//! `Fence::make` also *detaches* idle threads, so that later grace periods need no barrier for
//! them. It puts a mark in the `seen` of an idle thread. After the barrier, if the thread is not
//! pinned, it exchanges that mark for [`DETACHED`], which counts as above every epoch. A thread
//! that attaches and finds `DETACHED` adds zero to the global epoch.
//!
//! # The proof
//!
//! A *section* is what a thread does from its outermost pin to the end of its last guard. An object
//! is *out of reach* of a section if no load in the section can return the object. The claim: let
//! [`Grace::is_over`] return `true` for a grace period `e`. Then each section of each thread has
//! ended and happens-before the return, or the object is out of reach of the section.
//!
//! ## Assumptions
//!
//! * **A1, unlinked first.** The unlinking of the object happens-before the start of `e`, and the
//!   object is not linked again. The caller of [`Grace::start`] keeps this.
//! * **A2, younger horizon.** The start of `e` happens-before the reading of the horizon: the call
//!   of [`horizon`], or that of [`Fence::make`]. The caller of [`Grace::is_over`] keeps this.
//! * **A3, barrier.** Take a light barrier and a heavy barrier that returned `true`. One of two
//!   cases holds. *Light first*: what precedes the light barrier is visible to what follows the
//!   heavy one. *Heavy first*: what precedes the heavy barrier is visible to what follows the light
//!   one. The kernel keeps this; see [`barrier`].
//! * **A4, one owner.** One thread at a time stores to a record as its owner. [`OwnRecord`], which
//!   does not leave its thread, and [`OwnRecord::give_back`] keep this.
//! * **A5, unique marks.** No two calls of `Fence::make` use the same mark, and every mark is below
//!   every epoch. The counter [`MARKS`] keeps this.
//! * **A6, epoch writes.** Every write to the epoch is a read-modify-write that Releases. So a load
//!   that Acquires one of these writes has acquired all earlier ones. `Grace::start` and
//!   [`OwnRecord::attach`] keep this.
//!
//! ## Lemmas
//!
//! * **L1, later epoch.** *A section that pins in an epoch above `e` cannot reach the object.* Its
//!   load of the epoch Acquires the start of `e` (A6). So the unlinking happens-before what the
//!   section loads (A1).
//! * **L2, succession.** *The sections on one record are ordered by happens-before.* One thread's
//!   sections are ordered by its program. Those of two owners are ordered by the Release in
//!   `give_back` and the Acquire in [`Registry::take`] (A4). So an owner's Release store carries
//!   all earlier sections on the record.
//! * **L3, seen.** *A horizon that finds an epoch `s > e` in `seen` covers the record.* A section S
//!   stored `s` when it attached. The sections before S have ended and happen-before the load of
//!   `seen`: the exchange Releases (L2), and the load Acquires. S cannot reach the object (L1). A
//!   section after S loads the epoch after S did, and by coherence loads `s` or more. So it cannot
//!   reach the object either (L1).
//! * **L4, pinned.** *A fence's horizon above `e` covers every record that its second pass finds.*
//!   Let a section pin in an epoch `p`.
//!   1. `p > e`: the object is out of reach (L1).
//!   2. `p <= e`, light first (A3): the pass finds the store of `p`, or a later store to `pinned`.
//!      The horizon is above `e`, so the pass finds a later one. The first later store is the zero
//!      at the section's end. All these stores Release (L2), and the pass Acquires. So the section
//!      has ended, and happens-before the horizon.
//!   3. `p <= e`, heavy first (A3): the unlinking precedes the heavy barrier (A1, A2), so it is
//!      visible to the section's loads. The object is out of reach. That the pass may find `p`
//!      only delays the end.
//! * **L5, attaching.** *Let a horizon find a `DETACHED` in `seen`. Let a section exchange that
//!   `DETACHED`, or a later one in the modification order of `seen`. Then neither this section nor
//!   a later one on the record can reach the object.* After the exchange the section adds zero to
//!   the epoch. Suppose that this addition precedes the start of `e` in the epoch's modification
//!   order. Then the start Acquires the addition (A6), and the exchange happens-before the load of
//!   `seen` (A2). By coherence the load would find the exchange or a later write, a contradiction.
//!   So the start precedes the addition, which Acquires it (A6): the unlinking happens-before the
//!   loads of this section and of those after it (A1, L2).
//! * **L6, detached by a writer.** *A horizon that finds a `DETACHED` which `Fence::make` put
//!   covers the record.* Take the heavy barrier of that call, and a section on the record.
//!   1. Light first (A3): the load of `pinned` after the barrier found the section's store or a
//!      later one. It found zero, so the section has ended, and happens-before this load (L2). The
//!      exchange for `DETACHED` Releases, and the horizon's load Acquires.
//!   2. Heavy first (A3): the section's load of `seen` finds the mark or a later write. Take the
//!      first such section. The exchange for `DETACHED` found the mark, and no other call puts this
//!      mark (A5). So no thread wrote `seen` between mark and exchange. `seen` stays `DETACHED`
//!      until an owner attaches: [`Record::mark`] replaces epochs and marks alone, and `give_back`
//!      stores `DETACHED` again. So the section does not find its epoch, attaches, and exchanges
//!      that `DETACHED` or a later one: L5.
//! * **L7, handed over.** *A horizon that finds the `DETACHED` of a new record, or of `give_back`,
//!   covers the record.* Sections before `give_back` have ended and happen-before the load: the
//!   store Releases (L2), and the load Acquires. The next owner has acquired the store, by `taken`,
//!   and `seen` stays `DETACHED` until that owner attaches. So its first section exchanges that
//!   `DETACHED`: L5.
//! * **L8, added later.** *A record that a horizon does not find in the list needs no covering.*
//!   [`Registry::add`] put the record in the list before its first section, which finds `DETACHED`
//!   and adds zero to the epoch. Suppose that the addition precedes the start of `e`. Then the
//!   start Acquires it (A6), the putting happens-before the load of the list (A2), and the load
//!   would find the record. So the start precedes the addition: as in L5, the object is out of
//!   reach.
//! * **L9, marks.** *A mark ends no grace period.* It is below every epoch (A5), so `seen` with a
//!   mark holds every grace period back. A mark that another writer replaces is not exchanged for
//!   `DETACHED`. A refused barrier leaves its marks behind, and returns no horizon. All this costs
//!   time alone.
//!
//! ## Conclusion
//!
//! `is_over` returns `true` if `e` is below the horizon's `seen`. For [`horizon`], each record in
//! the list has an epoch above `e` (L3) or `DETACHED` (L6, L7) in `seen`, not a mark (L9). For
//! [`Fence::make`], each record in the list is covered by L4. A record that is not in the list is
//! covered by L8. ∎
//!
//! * **L10, earlier guards.** *If the pin of a section S happens-before the start of `e`, S has
//!   ended and happens-before the return, also where S never loads the object.* S pinned in an
//!   epoch of at most `e`, by coherence. In L3, S precedes the section that stored `s`. In L4, the
//!   light barrier of S happens-before the heavy one, so light is first. In L5 and L8, the addition
//!   of S would precede the start: the contradiction that they show. So S is none of their
//!   sections, and in L6 and L7 it is one of those that have ended.
//!
//! # Sources
//!
//! Epochs are Fraser's (*Practical lock-freedom*, 2004, section 5.2.3). Three techniques are those
//! of the Linux kernel's RCU. RCU polls for the end of a grace period
//! (`poll_state_synchronize_rcu`). It requires no barrier of readers that have reported since
//! (quiescent states). It skips idle processors (extended quiescent states).

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
// Not of `sync`: marks only have to be unique, so a model need not explore the counter.
use std::sync::atomic::AtomicU64 as Counter;

use super::barrier;
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, Cell, Ordering, StoredU64, lazy_static, load_own,
    thread_cell, thread_local,
};

/// The value of [`Record::pinned`] while its thread is not pinned.
const UNPINNED: u64 = 0;

/// The first epoch. Lower values of [`Record::seen`] are marks, which compare as lower than every
/// epoch.
const FIRST: u64 = 1 << 62;

/// An epoch that is never reached.
const NEVER: u64 = u64::MAX;

/// The value of [`Record::seen`] of a thread that no grace period waits for. `DETACHED` compares as
/// above every epoch.
const DETACHED: u64 = NEVER;

/// More guards than a thread can have. [`Record::nested`] is at least `BORROWED` in a record that
/// its last guard gives back.
const BORROWED: usize = 1 << (usize::BITS - 1);

/// The next mark. Marks are always below [`FIRST`], because each mark costs a system call.
static MARKS: Counter = Counter::new(0);

lazy_static! {
    static ref REGISTRY: Registry =
        Registry { epoch: Epoch(AtomicU64::new(FIRST)), newest: AtomicPtr::new(ptr::null_mut()) };
}

struct Registry {
    epoch: Epoch,
    /// A list of all records that were ever made. No record is freed: a thread that ends leaves its
    /// record to the next thread.
    newest: AtomicPtr<Record>,
}

/// Occupies a cache line of its own, because each pin reads the epoch. The size is two lines, for
/// processors that fetch lines in pairs.
#[repr(align(128))]
struct Epoch(AtomicU64);

/// A thread's record, on a cache line of its own. No other thread writes there while the owner
/// keeps reading.
#[repr(align(128))]
struct Record {
    /// The epoch of the owner's pin, or [`UNPINNED`].
    pinned: StoredU64,
    /// The newest epoch that the owner has pinned in, or a mark, or [`DETACHED`].
    seen: AtomicU64,
    /// The number of the owner's guards beyond the first, plus [`BORROWED`] if the last guard gives
    /// the record back. Only the owner accesses the number. It is zero while the record has no
    /// owner, and while a lookup has the only guard: so a lookup stores nothing here.
    nested: Cell<usize>,
    taken: AtomicBool,
    /// The next record in the list. Does not change once this record is in the list.
    older: *const Record,
}

/// The owner's access to a record. An `OwnRecord` does not leave its thread: `Record` is not
/// `Sync`, so a reference to a record is not `Send`. This keeps A4.
#[derive(Clone, Copy)]
struct OwnRecord(&'static Record);

impl Registry {
    /// Returns all records, newest first.
    fn records(&self) -> impl Iterator<Item = &'static Record> {
        // Acquire: pairs with the Release in `add` (L8).
        let mut next = self.newest.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY: `next` is null or a record from `add`, and no record is freed. Only
            // `OwnRecord` accesses `nested`, so this thread shares only atomics and `older`.
            let record = unsafe { next.as_ref() }?;
            next = record.older;
            Some(record)
        })
    }

    /// Returns a record that belongs to the calling thread until the record is given back.
    /// Lock-free; reads every record once.
    fn take(&self) -> OwnRecord {
        let left = self.records().find(|record| {
            // Relaxed: a hint. Without the hint, the exchange would take the cache line from the
            // record's owner.
            !record.taken.load(Ordering::Relaxed)
                && record
                    .taken
                    // Acquire: pairs with the Release in `give_back` (L2).
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        });
        // SAFETY: this call has set `taken`, or `add` returned the record already taken.
        let record = unsafe { OwnRecord::new(left.unwrap_or_else(|| self.add())) };
        debug_assert_eq!(record.nested.get(), 0, "a record is given back by its last guard");
        record
    }

    /// Adds a record to the list, taken by the calling thread.
    fn add(&self) -> &'static Record {
        let record = Box::into_raw(Box::new(Record {
            pinned: StoredU64::new(UNPINNED),
            seen: AtomicU64::new(DETACHED),
            nested: Cell::new(0),
            taken: AtomicBool::new(true),
            older: ptr::null(),
        }));
        // Relaxed, here and on failure: this thread stores the pointer and does not follow it. A
        // reader that acquires this record also acquires the older records: each exchange continues
        // the release sequences of the earlier exchanges.
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: until the exchange succeeds, only this call has the record.
            unsafe { (*record).older = newest };
            // Release: pairs with the Acquire in `records` (L8).
            match self.newest.compare_exchange(newest, record, Ordering::Release, Ordering::Relaxed)
            {
                // SAFETY: the record is never freed. From now on only its atomics change, and
                // `nested`, by its owner.
                Ok(_) => return unsafe { &*record },
                Err(other) => newest = other,
            }
        }
    }
}

/// The operations of any thread on a record.
impl Record {
    /// Puts the mark on a thread that has seen no later epoch than `epoch`.
    fn mark(&self, mark: u64, epoch: u64) {
        // Relaxed, here and in the exchange: the barrier makes the mark visible in time (L6).
        let seen = self.seen.load(Ordering::Relaxed);
        if seen <= epoch {
            self.seen.compare_exchange(seen, mark, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    /// Returns the epoch of the thread's pin, after the barrier. Detaches a thread that is not
    /// pinned and still has the mark.
    fn pinned_or_detached(&self, mark: u64) -> Option<u64> {
        // Acquire: pairs with the Release in `pin` and in `unpin` (L4, L6).
        let pinned = self.pinned.load(Ordering::Acquire);
        if pinned != UNPINNED {
            return Some(pinned);
        }
        // Relaxed: a hint. It saves the exchange on records without the mark.
        if self.seen.load(Ordering::Relaxed) == mark {
            // Release: pairs with the Acquire in `horizon` (L6).
            self.seen.compare_exchange(mark, DETACHED, Ordering::Release, Ordering::Relaxed).ok();
        }
        None
    }
}

impl Deref for OwnRecord {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.0
    }
}

/// The operations of a record's owner.
impl OwnRecord {
    /// # Safety
    ///
    /// The calling thread must have taken `record`, by setting `taken`, and must not have given the
    /// record back.
    unsafe fn new(record: &'static Record) -> Self {
        Self(record)
    }

    #[inline]
    fn pin(self) -> Guard {
        if self.is_pinned() {
            self.nested.set(self.nested.get() + 1);
            return Guard { record: self, not_send: PhantomData };
        }
        // Acquire: pairs with the Release in `Grace::start` (L1).
        let epoch = REGISTRY.epoch.0.load(Ordering::Acquire);
        // Release: pairs with the Acquire in `pinned_or_detached`, on behalf of earlier
        // sections (L4). The next barrier makes the store visible.
        self.pinned.store(epoch, Ordering::Release);
        barrier::light();
        // Relaxed: the barrier makes marks visible in time (L6).
        if self.seen.load(Ordering::Relaxed) != epoch {
            self.attach(epoch);
        }
        Guard { record: self, not_send: PhantomData }
    }

    #[inline]
    fn is_pinned(self) -> bool {
        load_own(&self.pinned) != UNPINNED
    }

    /// Stores in `seen` that this thread has pinned in `epoch`. Called once an epoch, and after
    /// the thread was marked or detached.
    #[cold]
    fn attach(self, epoch: u64) {
        // Release: pairs with the Acquire in `horizon`, on behalf of earlier sections (L3).
        let before = self.seen.swap(epoch, Ordering::Release);
        if before == DETACHED {
            // AcqRel: pairs with the AcqRel in `Grace::start`, whichever is first (L5, L8).
            let newest = REGISTRY.epoch.0.fetch_add(0, Ordering::AcqRel);
            // On x86-64 LLVM removes an addition of zero whose result is unused, because the
            // exchange above has the same ordering. With a use, the addition compiles to a fence
            // and a load.
            black_box(newest);
        }
    }

    /// # Safety
    ///
    /// The thread must have no guard with this record.
    unsafe fn unpin(self) {
        // Release: pairs with the Acquire in `pinned_or_detached` (L4, L6).
        self.pinned.store(UNPINNED, Ordering::Release);
    }

    /// Ends a guard that is not the only one, or whose record is borrowed.
    #[cold]
    #[inline(never)]
    fn end_nested(self) {
        match self.nested.get() {
            // SAFETY: no other guard is left. No thread-local has the record: `pin_borrowed` gave
            // it to its guard alone, or `Owner::drop` has cleared `RECORD`.
            BORROWED => unsafe { self.unpin_borrowed() },
            nested => self.nested.set(nested - 1),
        }
    }

    /// Ends the last guard of a borrowed record.
    ///
    /// # Safety
    ///
    /// The thread must have no guard with this record, and must not use the record again.
    unsafe fn unpin_borrowed(self) {
        self.nested.set(0);
        // SAFETY: the caller has no guard.
        unsafe { self.unpin() };
        // SAFETY: the caller has no guard, and does not use the record again.
        unsafe { self.give_back() };
    }

    /// Gives the record to the next thread that needs one.
    ///
    /// # Safety
    ///
    /// The thread must have no guard with this record, must be unpinned, and must not use the
    /// record again through any copy of `self`.
    unsafe fn give_back(self) {
        // Release: pairs with the Acquire in `horizon` (L7).
        self.seen.store(DETACHED, Ordering::Release);
        // Release: pairs with the Acquire in `take` (L2).
        self.taken.store(false, Ordering::Release);
    }
}

thread_cell! {
    /// This thread's record, from its registration to its end.
    static RECORD: Cell<Option<OwnRecord>> = Cell::new(None);
}

thread_local! {
    static OWNER: Owner = Owner::register();
}

/// Gives the record back when its thread ends.
pub(super) struct Owner(OwnRecord);

impl Owner {
    /// Gives this thread a record, until the owner is dropped.
    pub(super) fn register() -> Self {
        let record = REGISTRY.take();
        RECORD.with(|mine| mine.set(Some(record)));
        Self(record)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        RECORD.try_with(|record| record.set(None)).ok();
        if self.0.is_pinned() {
            // A reader is suspended in a coroutine, or has called `exit`. The reader keeps its
            // record, and its last guard gives the record back.
            self.0.nested.set(BORROWED + self.0.nested.get());
        } else {
            // SAFETY: the thread is unpinned, so it has no guard. `RECORD` is empty, and `OWNER`
            // cannot be used again.
            unsafe { self.0.give_back() };
        }
    }
}

/// Keeps its thread pinned until the guard is dropped. A guard is one word, which fits a register.
pub(crate) struct Guard {
    record: OwnRecord,
    not_send: PhantomData<*const ()>,
}

/// Pins, if this thread is registered.
#[inline]
pub(super) fn pin_registered() -> Option<Guard> {
    let record = RECORD.try_with(Cell::get).ok().flatten()?;
    Some(record.pin())
}

/// Pins, and registers this thread if it is not registered.
pub(crate) fn pin() -> Guard {
    pin_registered().unwrap_or_else(|| match OWNER.try_with(|owner| owner.0) {
        Ok(record) => record.pin(),
        // The thread is ending, and the destructor of another thread-local called `pin`.
        Err(_) => pin_borrowed(),
    })
}

/// Pins with a record for this guard alone. The end of the guard gives the record back.
pub(super) fn pin_borrowed() -> Guard {
    let guard = REGISTRY.take().pin();
    guard.record.nested.set(BORROWED);
    guard
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        // Guards may end in any order. The last guard to end unpins.
        if self.record.nested.get() == 0 {
            // SAFETY: no other guard is left.
            unsafe { self.record.unpin() };
        } else {
            self.record.end_nested();
        }
    }
}

/// A grace period, named by the epoch that its start ended.
pub(crate) struct Grace(u64);

impl Grace {
    /// Starts a grace period.
    ///
    /// # Safety
    ///
    /// Take each object that is freed because this grace period is over. The unlinking of the
    /// object must happen-before this call, and the object must not be linked again (A1).
    pub(crate) unsafe fn start() -> Self {
        // Release: pairs with the Acquire in `OwnRecord::pin` (L1). Acquire: pairs with the Release
        // in `OwnRecord::attach` (L5, L8).
        Self(REGISTRY.epoch.0.fetch_add(1, Ordering::AcqRel))
    }

    /// Returns whether the grace period is over at `horizon`. If it is over, the objects that it
    /// protected may be freed.
    ///
    /// # Safety
    ///
    /// The start of this grace period must happen-before the reading of `horizon` (A2).
    pub(crate) unsafe fn is_over(&self, horizon: Horizon) -> bool {
        self.0 < horizon.seen
    }

    /// Returns the fence that would end this grace period, if all threads that hold it back are
    /// idle. A hint.
    pub(crate) fn wants_fence(&self, horizon: Horizon) -> Option<Fence> {
        (self.0 >= horizon.seen && self.0 < horizon.pinned).then(|| self.fence())
    }

    /// Returns the fence after which only readers that were pinned at the start hold this grace
    /// period back.
    pub(crate) fn fence(&self) -> Fence {
        Fence(self.0)
    }
}

/// A barrier on behalf of the threads that have seen no epoch later than this one. Any number of
/// threads may make fences at a time, also for one grace period (A5).
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fence(u64);

impl Fence {
    /// Makes the barrier, and returns the horizon after it. Returns `None` if the kernel refused
    /// the barrier.
    pub(crate) fn make(self) -> Option<Horizon> {
        // Relaxed: the number is unique in any order (A5).
        let mark = MARKS.fetch_add(1, Ordering::Relaxed);
        REGISTRY.records().for_each(|record| record.mark(mark, self.0));
        if !barrier::heavy() {
            return None;
        }
        let pinned = REGISTRY
            .records()
            .filter_map(|record| record.pinned_or_detached(mark))
            .fold(NEVER, u64::min);
        Some(Horizon { seen: pinned, pinned })
    }
}

/// Returns the number of records.
#[cfg(feature = "loom")]
#[allow(dead_code, reason = "for the models")]
pub(super) fn records() -> usize {
    REGISTRY.records().count()
}

/// The progress of all readers. [`NEVER`] if no reader is behind.
#[derive(Clone, Copy)]
pub(crate) struct Horizon {
    /// Grace periods below this epoch are over.
    seen: u64,
    /// The oldest epoch of a reader's pin, as far as visible without a barrier.
    pub(super) pinned: u64,
}

impl Horizon {
    /// Returns the bound of the grace periods that are over. With `fence`, returns the bound of
    /// those that a fence would end.
    #[allow(dead_code, reason = "the models of the epochs have no limbo")]
    pub(crate) fn furthest(&self, fence: bool) -> u64 {
        if fence { self.pinned } else { self.seen }
    }
}

/// Returns the horizon for the grace periods whose starts happen-before this call.
pub(crate) fn horizon() -> Horizon {
    REGISTRY.records().fold(Horizon { seen: NEVER, pinned: NEVER }, |horizon, record| Horizon {
        // Acquire: pairs with the Release in `attach` (L3), `pinned_or_detached` (L6) and
        // `give_back` (L7).
        seen: horizon.seen.min(record.seen.load(Ordering::Acquire)),
        // Relaxed: a hint, for `Grace::wants_fence` and `Horizon::furthest` alone.
        pinned: match record.pinned.load(Ordering::Relaxed) {
            UNPINNED => horizon.pinned,
            epoch => horizon.pinned.min(epoch),
        },
    })
}
