//! The reclamation in a model: the twin of `reclaim/`, small enough for loom to explore all of it
//! together with the map.
//!
//! It keeps the contract of `reclaim/mod.rs` by the simplest means that loom models fully. Each
//! thread has a flag that says whether it is pinned. A grace period is over once each flag has been
//! seen down since its start. Why that is enough:
//!
//! * *Visibility.* [`pin`] raises the flag, then fences; [`Grace::start`] comes after the exchange
//!   that unlinked, and fences; the flags are read after that. Both fences are `SeqCst`, so one of
//!   them is first. If `pin`'s is, the flag is seen up, or what came after it. If the other is, the
//!   reader's loads see the exchange.
//! * *Grace.* A flag goes down by a Release store, which is read with Acquire: all that the reader
//!   did is before the freeing.
//! * *No order beyond that*, or nearly. Loom lets each `SeqCst` fence acquire what earlier ones
//!   released, so a pin that comes after a start is ordered after it, as it is with real fences. In
//!   the executions in which the pin comes first nothing is ordered, and whatever the map forgets
//!   to order is reported there.
//!
//! What ships has models of its own, in `loom-tests/g7_epochs.rs`.
//!
//! Loom runs all threads of a model on one thread of the operating system, one at a time, and
//! switches only in loom's own operations. So a `std` mutex can keep the books without being part
//! of the model, as long as none of loom's operations happens under it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// As many threads as loom allows in a model.
const MOST_THREADS: usize = 5;

loom::lazy_static! {
    /// One registry an execution.
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
    /// Whose flag is whose: a thread's place is the order of its first pin.
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
        // Relaxed: the fence after it makes it seen.
        REGISTRY.pinned[place].store(true, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `Grace::start`.
        fence(Ordering::SeqCst);
    }
    Guard { place, not_send: PhantomData }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let depth = REGISTRY.books(|books| {
            books.nesting[self.place] -= 1;
            books.nesting[self.place]
        });
        if depth == 0 {
            // Release: pairs with the Acquire load in `Grace::is_over`.
            REGISTRY.pinned[self.place].store(false, Ordering::Release);
        }
    }
}

pub(super) struct Grace {
    /// Whether that thread may still be pinned since before the start. Those that pin for the
    /// first time after the start are behind its fence.
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

    /// Its start has made the fence.
    pub(super) fn wants_fence(&self, _horizon: &Horizon) -> Option<Fence> {
        None
    }
}

/// There is none.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fence {}

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self {}
    }
}

/// Whose flag is up, a bit a thread; above that, a number that differs with each call, so that
/// every look at what waits is taken.
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
    // Acquire: pairs with the Release store at the guard's end.
    let up = pinned.map(|(thread, pinned)| u64::from(pinned.load(Ordering::Acquire)) << thread);
    Horizon(looks << MOST_THREADS | up.sum::<u64>())
}
