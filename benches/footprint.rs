//! Counts the memory of a cache at capacity, and the largest allocation of one remember. The
//! allocator counts, so criterion has no part in these figures.
//!
//! Writes `footprint.json` next to criterion's figures. All memory counts that is allocated when
//! the last key is in: the table, the entries, and garbage that is not freed yet.

mod allocations;
mod peers;
mod workload;

use std::hint::black_box;

use serde_json::{Map, Value, json};

use allocations::Counting;
use peers::{Limit, Peer, Shared, for_each_shared, id};
use workload::{LASTING, Probes, keys, save, sizes};

#[global_allocator]
static ALLOCATOR: Counting = Counting::on();

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
        ALLOCATOR.forget_largest();
        for _ in 0..writes {
            peer.insert(probes.next(), id(7));
        }
        note::<P>(figures, "largest_allocation", count, ALLOCATOR.largest() as f64);
    }
}

fn bytes_per_entry<P: Peer>(figures: &mut Map<String, Value>) {
    for count in sizes(&[1_000, 1_000_000]) {
        let keys = keys::<P::Key>(count);
        let (peer, bytes) = ALLOCATOR.counted(|| black_box(P::filled(&keys, LASTING)));
        note::<P>(figures, "bytes_per_entry", count, bytes as f64 / count as f64);
        drop(peer);
    }
}

fn note<P: Peer>(figures: &mut Map<String, Value>, what: &str, count: usize, value: f64) {
    println!("{:<42} {what:<20} {count:>9} keys {value:>12.1}", P::NAME);
    figures.entry(P::NAME).or_insert_with(|| json!({}))[what][count.to_string()] = json!(value);
}
