//! What a cache at capacity weighs, and the largest allocation that one remember makes; counted at
//! the allocator, so not by criterion.
//!
//! Writes `footprint.json` beside criterion's figures. Everything counts that is alive once the
//! last key is in: the table, entries, and what waits to be freed.

mod peers;
mod workload;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use peers::{Limit, Peer, Shared, for_each_shared, id};
use workload::{LASTING, Probes, keys, save, sizes};

#[global_allocator]
static ALLOCATOR: Counting = Counting { live: AtomicUsize::new(0), largest: AtomicUsize::new(0) };

fn main() {
    let mut figures = Map::new();
    for_each_shared!(shared(&mut figures));
    bytes_per_entry::<Limit>(&mut figures);
    save("footprint", &Value::Object(figures));
}

fn shared<P: Shared>(figures: &mut Map<String, Value>) {
    bytes_per_entry::<P>(figures);
    for count in sizes(&[1_000, 1_000_000]) {
        let keys = keys::<P::Key>(count);
        let peer = P::filled(&keys, LASTING);
        let mut probes = Probes::new(&keys);
        // Enough that what happens now and then happens, such as handing garbage over.
        let writes = if P::COPIES_ALL { 4 } else { 10_000 };
        ALLOCATOR.largest.store(0, Ordering::Relaxed);
        for _ in 0..writes {
            peer.insert(probes.next(), id(7));
        }
        note::<P>(
            figures,
            "largest_allocation",
            count,
            ALLOCATOR.largest.load(Ordering::Relaxed) as f64,
        );
    }
}

fn bytes_per_entry<P: Peer>(figures: &mut Map<String, Value>) {
    for count in sizes(&[1_000, 1_000_000]) {
        let keys = keys::<P::Key>(count);
        let before = ALLOCATOR.live.load(Ordering::Relaxed);
        let peer = black_box(P::filled(&keys, LASTING));
        // What a peer before this one left to be freed may be freed meanwhile.
        let bytes = ALLOCATOR.live.load(Ordering::Relaxed).saturating_sub(before);
        note::<P>(figures, "bytes_per_entry", count, bytes as f64 / count as f64);
        drop(peer);
    }
}

fn note<P: Peer>(figures: &mut Map<String, Value>, what: &str, count: usize, value: f64) {
    println!("{:<42} {what:<20} {count:>9} keys {value:>12.1}", P::NAME);
    figures.entry(P::NAME).or_insert_with(|| json!({}))[what][count.to_string()] = json!(value);
}

/// The system's allocator, with how much is alive, and the largest request since that was last set
/// to zero.
struct Counting {
    live: AtomicUsize,
    largest: AtomicUsize,
}

impl Counting {
    /// Relaxed, here and wherever the counters are read: they are figures, and guard nothing.
    fn grown(&self, bytes: usize) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
        self.largest.fetch_max(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every request is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.grown(size);
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
