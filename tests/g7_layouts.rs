//! G7: a block is freed with the layout of its allocation. The test is alone in its binary, because
//! the allocator belongs to the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use trust_key_cache::{KeyCache, KeyHash};

/// Stores the layout of each block in front of the block, and counts the blocks that are freed with
/// another layout.
struct Checking;

static WRONG: AtomicUsize = AtomicUsize::new(0);

/// Returns the layout of a block with its note in front, and the offset of the block.
fn with_note(layout: Layout) -> (Layout, usize) {
    let (whole, offset) = Layout::new::<Layout>().extend(layout).unwrap();
    (whole.pad_to_align(), offset)
}

// SAFETY: a block is part of a block of `System`, with the requested alignment. `dealloc` frees
// that block with the layout of its allocation.
unsafe impl GlobalAlloc for Checking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (whole, offset) = with_note(layout);
        // SAFETY: the size of the note is not zero.
        let note = unsafe { System.alloc(whole) };
        if note.is_null() {
            return note;
        }
        // SAFETY: the allocation contains the note and the block, and the note ends before the
        // block.
        unsafe {
            let block = note.byte_add(offset);
            block.cast::<Layout>().sub(1).write_unaligned(layout);
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `alloc` has written the note.
        let allocated = unsafe { block.cast::<Layout>().sub(1).read_unaligned() };
        if allocated != layout {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
        let (whole, offset) = with_note(allocated);
        // SAFETY: `alloc` has allocated the block with this layout.
        unsafe { System.dealloc(block.byte_sub(offset), whole) };
    }
}

#[global_allocator]
static ALLOCATOR: Checking = Checking;

fn hash(number: u64) -> KeyHash {
    KeyHash::of(number.to_le_bytes())
}

#[derive(Debug)]
struct Fragile(bool);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!self.0, "too fragile to copy");
        Self(false)
    }
}

#[test]
fn g7_every_bucket_is_freed_with_the_layout_that_it_was_allocated_with() {
    // The allocator detects a wrong layout.
    let layout = Layout::new::<[u64; 4]>();
    // SAFETY: the block was allocated just before. The checking allocator frees it with the layout
    // of its note.
    unsafe { std::alloc::dealloc(std::alloc::alloc(layout), Layout::new::<[u64; 3]>()) };
    assert_eq!(WRONG.swap(0, Ordering::Relaxed), 1);

    // An unfinished copy: its bucket has more capacity than entries.
    let cache = KeyCache::<Fragile>::builder().capacity(4).build().unwrap();
    assert!(cache.lease(&hash(1)).remember(Fragile(false)));
    assert!(cache.lease(&hash(2)).remember(Fragile(true)));
    let panicked =
        catch_unwind(AssertUnwindSafe(|| cache.lease(&hash(3)).remember(Fragile(false))));
    assert!(panicked.is_err());
    drop(cache);

    // Copies that are discarded because another writer was first, and buckets of all sizes.
    let cache = KeyCache::<u64>::builder().capacity(16).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..if cfg!(miri) { 50 } else { 5_000 } {
                    cache.lease(&hash(round % 20)).remember(round);
                    if round % 7 == 0 {
                        cache.invalidate_key(&hash(round % 20));
                    }
                    if round % 100 == 0 {
                        cache.invalidate();
                    }
                }
            });
        }
    });
    drop(cache);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "blocks were freed with another layout");
}
