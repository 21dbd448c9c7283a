//! [`WithKeys`]: which trusts have keys in rows of their own, as far as this process has seen.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// How many words there are: 8 KiB.
const WORDS: usize = 1024;

/// A bit for each trust, by the end of its id. Several trusts may share a bit. A wrong bit costs a
/// read, and decides nothing.
pub(super) struct WithKeys([AtomicU64; WORDS]);

impl WithKeys {
    pub(super) fn has(&self, id: Uuid) -> bool {
        let (word, bit) = self.place(id);
        // Relaxed: no decision depends on a bit, and it orders nothing.
        word.load(Ordering::Relaxed) & bit != 0
    }

    pub(super) fn note(&self, id: Uuid, has_keys: bool) {
        if self.has(id) == has_keys {
            return;
        }
        let (word, bit) = self.place(id);
        match has_keys {
            // Relaxed: as in `has`. A bit that another thread changes at the same time stays.
            true => word.fetch_or(bit, Ordering::Relaxed),
            // Relaxed: as above.
            false => word.fetch_and(!bit, Ordering::Relaxed),
        };
    }

    fn place(&self, id: Uuid) -> (&AtomicU64, u64) {
        // The end of an id is random, or counts up.
        let end = id.as_u128() % (WORDS as u128 * 64);
        let end = usize::try_from(end).unwrap_or_default();
        (&self.0[end / 64], 1 << (end % 64))
    }
}

impl Default for WithKeys {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_set_for_its_trust_alone_and_taken_back() {
        let (one, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let with_keys = WithKeys::default();
        with_keys.note(one, true);
        assert!(with_keys.has(one) && !with_keys.has(other));
        with_keys.note(other, false);
        assert!(with_keys.has(one));
        with_keys.note(one, false);
        assert!(!with_keys.has(one));
        with_keys.note(Uuid::max(), true);
        assert!(with_keys.has(Uuid::max()) && !with_keys.has(one));
    }
}
