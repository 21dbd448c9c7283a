//! Counts the memory of a cache at capacity, and the largest allocation of one remember. The
//! allocator counts, so criterion has no part in these figures.
//!
//! Writes `footprint.json` next to criterion's figures. All memory counts that is allocated when
//! the last key is in: the table, the entries, and garbage that is not freed yet.

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
        // Enough writes for rare work to happen, such as a collection of garbage.
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
        // Garbage of an earlier peer may be freed at this time.
        let bytes = ALLOCATOR.live.load(Ordering::Relaxed).saturating_sub(before);
        note::<P>(figures, "bytes_per_entry", count, bytes as f64 / count as f64);
        drop(peer);
    }
}

fn note<P: Peer>(figures: &mut Map<String, Value>, what: &str, count: usize, value: f64) {
    println!("{:<42} {what:<20} {count:>9} keys {value:>12.1}", P::NAME);
    figures.entry(P::NAME).or_insert_with(|| json!({}))[what][count.to_string()] = json!(value);
}

/// The system's allocator, with the number of allocated bytes, and the largest request since
/// `largest` was last set to zero.
struct Counting {
    live: AtomicUsize,
    largest: AtomicUsize,
}

impl Counting {
    /// Counts an allocation. Relaxed, here and at each read: the counters guard no data.
    fn grown(&self, bytes: usize) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
        self.largest.fetch_max(bytes, Ordering::Relaxed);
    }
}

// SAFETY: each request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grown(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.grown(size);
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
