//! Hits, inlined into the measuring loop.

use std::hint::black_box;

use super::Contestant;
use crate::peers::Peer;
use crate::workload::{LASTING, keys, order};

pub(crate) fn hit<P: Peer + 'static>(count: usize) -> Contestant<'static> {
    let (peer, keys) = full::<P>(count);
    check_found::<P>(look_up(&peer, &keys), count);
    Contestant::of_keys(P::NAME, order(&keys), count, move |keys| {
        look_up(&peer, keys);
    })
}

/// Returns a peer that holds these keys.
pub(crate) fn full<P: Peer>(count: usize) -> (P, Vec<P::Key>) {
    let keys = keys::<P::Key>(count);
    (P::filled(&keys, LASTING), keys)
}

/// Panics unless the lookups found the keys, up to one in a thousand: full buckets may evict.
pub(crate) fn check_found<P: Peer>(found: usize, count: usize) {
    assert!(found * 1_000 >= count * 999, "{} holds {found} of {count} keys", P::NAME);
}

/// Returns the number of hits. All rows with inlined lookups, and their checks, call this loop: it
/// has the program's only call of the contestant's lookup.
#[inline(never)]
pub(crate) fn look_up<P: Peer>(peer: &P, keys: &[P::Key]) -> usize {
    let mut hits = 0;
    for key in keys {
        let found = black_box(peer.get_inlined(black_box(key)));
        hits += usize::from(found.is_some());
    }
    hits
}
