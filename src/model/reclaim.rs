//! The reclamation in a model: the twin of `reclaim.rs`, small enough for loom to explore all of it.
//!
//! It keeps the contract of `reclaim.rs` by the simplest means that loom models fully. Each thread has a flag
//! that says whether it is pinned. What was retired is freed by the thread that retired it, as soon as that
//! thread has seen the flag of every other thread down at least once since then. Why that is enough:
//!
//! * *Visibility.* [`pin`] raises the flag, then fences; [`Guard::defer`] comes after the exchange that
//!   unlinked, fences, then reads the flags. Both fences are `SeqCst`, so one of them is first. If `pin`'s
//!   is, the scan sees the flag up, or what came after it. If the scan's is, the reader's loads see the
//!   exchange.
//! * *Grace.* A flag goes down by a Release store, which the scan reads with Acquire: all that the reader did
//!   is before the freeing.
//! * *No order beyond that*, or nearly. Loom lets each `SeqCst` fence acquire what earlier ones released, so a pin
//!   that comes after a scan is ordered after it, as it is with real fences. In the executions in which the pin comes
//!   first nothing is ordered, and whatever the map forgets to order is reported there.
//!
//! Loom runs all threads of a model on one thread of the operating system, one at a time, and switches only
//! in loom's own operations. So a `std` mutex can keep the books without being part of the model, as long as
//! none of loom's operations happens under it.

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
    limbo: [Vec<Retired>; MOST_THREADS],
}

struct Retired {
    free: Box<dyn FnOnce()>,
    /// The threads that may still read it.
    awaited: [bool; MOST_THREADS],
}

impl Registry {
    fn books<R>(&self, edit: impl FnOnce(&mut Books, usize) -> R) -> R {
        let me = loom::thread::current().id();
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let place = books.threads.iter().position(|&thread| thread == me).unwrap_or_else(|| {
            books.threads.push(me);
            books.threads.len() - 1
        });
        edit(&mut books, place)
    }

    /// Frees what `place` has retired and nobody can read any more.
    fn scan(&self, place: usize) {
        if self.books(|books, _| books.limbo[place].is_empty()) {
            return;
        }
        // SeqCst: pairs with the fence in `pin`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release store in `Guard::drop`.
        let down: [bool; MOST_THREADS] =
            std::array::from_fn(|thread| !self.pinned[thread].load(Ordering::Acquire));
        let free = self.books(|books, _| {
            for retired in &mut books.limbo[place] {
                for (awaited, down) in retired.awaited.iter_mut().zip(down) {
                    *awaited &= !down;
                }
            }
            books.limbo[place].extract_if(.., |retired| !retired.awaited.contains(&true)).collect::<Vec<_>>()
        });
        for retired in free {
            (retired.free)();
        }
    }
}

#[derive(Debug)]
pub(super) struct Guard {
    place: usize,
    not_send: PhantomData<*const ()>,
}

pub(super) fn pin() -> Guard {
    let (place, depth) = REGISTRY.books(|books, place| {
        books.nesting[place] += 1;
        (place, books.nesting[place])
    });
    if depth == 1 {
        // Relaxed: the fence after it makes it seen.
        REGISTRY.pinned[place].store(true, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `Registry::scan`.
        fence(Ordering::SeqCst);
    }
    Guard { place, not_send: PhantomData }
}

impl Guard {
    /// # Safety
    ///
    /// As in `reclaim.rs`.
    pub(super) unsafe fn defer(&self, free: impl FnOnce()) {
        let free: Box<dyn FnOnce() + '_> = Box::new(free);
        // SAFETY: the caller says that `free` may run at any later time.
        let free = unsafe { std::mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(free) };
        REGISTRY.books(|books, place| {
            books.limbo[place].push(Retired { free, awaited: [true; MOST_THREADS] });
        });
        REGISTRY.scan(self.place);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let depth = REGISTRY.books(|books, place| {
            books.nesting[place] -= 1;
            books.nesting[place]
        });
        if depth == 0 {
            // Release: pairs with the Acquire load in `Registry::scan`.
            REGISTRY.pinned[self.place].store(false, Ordering::Release);
            REGISTRY.scan(self.place);
        }
    }
}

/// Frees what all threads have retired and nobody can read any more.
pub(super) fn flush() {
    for place in 0..MOST_THREADS {
        REGISTRY.scan(place);
    }
}
