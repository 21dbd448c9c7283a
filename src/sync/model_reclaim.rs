//! The reclamation in a model: the twin of `reclaim/`. It is so small that loom explores all of it
//! together with the map.
//!
//! The twin keeps the contract of `reclaim/mod.rs` by the simplest means that loom models fully.
//! Each thread has a flag, which is set while the thread is pinned. A grace period is over once
//! each flag was read as clear after the start. This condition is enough:
//!
//! * *Visibility.* [`pin`] sets the flag, then fences. [`Grace::start`] follows the exchange that
//!   unlinked, and fences. The flags are read after this fence. Both fences are `SeqCst`, so one of
//!   them is first. If the fence of `pin` is first, the read returns the set flag, or a later
//!   value. If the other fence is first, the reader's loads see the exchange.
//! * *Grace.* A Release store clears the flag, and an Acquire load reads it: every operation of the
//!   reader happens-before the freeing.
//! * *No other order*, with one exception. In loom, each `SeqCst` fence acquires what earlier
//!   fences released. So a pin after a start is ordered after the start, as with real fences. In
//!   executions with the pin first, nothing is ordered, and loom reports an ordering that the map
//!   lacks.
//!
//! The implementation that ships has its own models, in `loom-tests/g7_epochs.rs`.
//!
//! Loom runs all threads of a model on one thread of the operating system, one at a time, and
//! switches only in loom's own operations. So a `std` mutex can protect the books without being
//! part of the model, if no operation of loom runs under the mutex.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// The number of threads that loom allows in a model.
const MOST_THREADS: usize = 5;

loom::lazy_static! {
    /// One registry for each execution.
    static ref REGISTRY: Registry = Registry {
        pinned: std::array::from_fn(|_| AtomicBool::new(false)),
        books: Mutex::default(),
    };
}

struct Registry {
    pinned: [AtomicBool; MOST_THREADS],
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// The threads in the order of their first pins. A thread's index is also that of its flag.
    threads: Vec<loom::thread::ThreadId>,
    nesting: [usize; MOST_THREADS],
    looks: u64,
}

impl Registry {
    fn books<R>(&self, edit: impl FnOnce(&mut Books) -> R) -> R {
        edit(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Books {
    fn my_place(&mut self) -> usize {
        let me = loom::thread::current().id();
        self.threads.iter().position(|&thread| thread == me).unwrap_or_else(|| {
            self.threads.push(me);
            self.threads.len() - 1
        })
    }
}

pub(super) struct Guard {
    place: usize,
    not_send: PhantomData<*const ()>,
}

pub(super) fn pin() -> Guard {
    let (place, depth) = REGISTRY.books(|books| {
        let place = books.my_place();
        books.nesting[place] += 1;
        (place, books.nesting[place])
    });
    if depth == 1 {
        // Relaxed: the next fence makes the store visible.
        REGISTRY.pinned[place].store(true, Ordering::Relaxed);
        if !FENCES_LEFT_OUT.load(Ordering::Relaxed) {
            // SeqCst: pairs with the fence in `Grace::start`.
            fence(Ordering::SeqCst);
        }
    }
    Guard { place, not_send: PhantomData }
}

loom::lazy_static! {
    static ref FENCES_LEFT_OUT: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}

/// For the rest of this execution, pins make no fence, as the pins of the epochs that ship. A fence
/// acquires, and so hides a load that should. For models that free no bucket before their end.
pub fn leave_out_fences() {
    FENCES_LEFT_OUT.store(true, Ordering::Relaxed);
}

impl Drop for Guard {
    fn drop(&mut self) {
        let depth = REGISTRY.books(|books| {
            books.nesting[self.place] -= 1;
            books.nesting[self.place]
        });
        if depth == 0 {
            // Release: pairs with the Acquire in `horizon`.
            REGISTRY.pinned[self.place].store(false, Ordering::Release);
        }
    }
}

pub(super) struct Grace {
    /// For each thread, whether a pin from before the start may still last. A thread that first
    /// pins after the start pins after its fence.
    awaited: [Cell<bool>; MOST_THREADS],
}

impl Grace {
    /// # Safety
    ///
    /// The contract of `reclaim/mod.rs`: the unlinking happens-before this call, and the object is
    /// not linked again.
    pub(super) unsafe fn start() -> Self {
        // SeqCst: pairs with the fence in `pin`.
        fence(Ordering::SeqCst);
        let threads = REGISTRY.books(|books| books.threads.len());
        Self { awaited: std::array::from_fn(|thread| Cell::new(thread < threads)) }
    }

    /// # Safety
    ///
    /// The contract of `reclaim/mod.rs`: the start happens-before the reading of `horizon`.
    pub(super) unsafe fn is_over(&self, horizon: &Horizon) -> bool {
        for (thread, awaited) in self.awaited.iter().enumerate() {
            awaited.set(awaited.get() && horizon.0 & 1 << thread != 0);
        }
        !self.awaited.iter().any(Cell::get)
    }

    /// Returns `None`: the start has made the fence.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// The fence of this reclamation: there is none, so the type has no value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// One bit for each thread, set if the thread's flag is set. The bits above are a number that
/// differs with each call, so that no pass is skipped.
pub(super) struct Horizon(u64);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        self.0
    }
}

pub(super) fn horizon() -> Horizon {
    let (looks, threads) = REGISTRY.books(|books| {
        books.looks += 1;
        (books.looks, books.threads.len())
    });
    let pinned = REGISTRY.pinned[..threads].iter().enumerate();
    // Acquire: pairs with the Release in `Guard::drop`.
    let up = pinned.map(|(thread, pinned)| u64::from(pinned.load(Ordering::Acquire)) << thread);
    Horizon(looks << MOST_THREADS | up.sum::<u64>())
}
