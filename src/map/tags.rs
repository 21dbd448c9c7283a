//! Tags: one byte of the mixed digest for each entry of a bucket. A lookup compares eight tags at
//! once, and reads only entries whose tag matches.
//!
//! The compare is "SIMD within a register" on two 64-bit words (Knuth, *The Art of Computer
//! Programming* 4A, section 7.1.3). The compare needs no intrinsic on any platform. In its short
//! form, it may report a place after a match that does not match. The digest decides in any case.

pub(super) const TOP_BITS: u64 = 0x8080_8080_8080_8080;
pub(super) const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

/// The tags of a bucket, in the order of its entries. Places without an entry have tag zero, which
/// entries may have, too. The caller has the number of entries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tags([u64; 2]);

/// Eight places.
#[derive(Clone, Copy, Debug)]
pub(super) enum Half {
    First,
    Second,
}

/// The number of different tags. Seven bits: a [`Hint`](super::hint::Hint) has one bit of each byte
/// for itself.
pub(super) const TAGS: u8 = 128;

impl Tags {
    /// The number of tags, and so the largest number of entries in a bucket.
    pub(super) const CAPACITY: usize = 16;

    pub(super) fn set(&mut self, index: usize, tag: u8) {
        let shift = index % 8 * 8;
        let word = &mut self.0[index / 8];
        *word = *word & !(0xff << shift) | u64::from(tag) << shift;
    }

    /// Returns the tags of the first eight places, one a byte.
    pub(super) fn first_eight(self) -> u64 {
        self.0[0]
    }

    pub(super) fn get(self, index: usize) -> u8 {
        (self.0[index / 8] >> (index % 8 * 8)) as u8
    }

    /// Returns the places of that half that have `tag`, first to last. After a match, places with
    /// another tag may also be returned.
    #[inline]
    pub(super) fn matches(self, half: Half, tag: u8) -> Matches {
        let base = half as usize * 8;
        Matches { bits: zero_bytes(self.0[half as usize] ^ (u64::from(tag) * EACH_BYTE)), base }
    }
}

/// Returns the top bit of each byte that is 0. Above a byte that is 0, a byte that is 1 may also be
/// reported.
#[inline]
pub(super) const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(EACH_BYTE) & !word & TOP_BITS
}

/// The top bits of the bytes that match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matches {
    bits: u64,
    base: usize,
}

impl Iterator for Matches {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.bits == 0 {
            return None;
        }
        let at = self.bits.trailing_zeros() as usize / 8;
        self.bits &= self.bits - 1;
        Some(self.base + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]
    }

    proptest! {
        /// Compares with a check of each single byte, also for values that cause carries and
        /// borrows.
        #[test]
        fn no_place_of_the_tag_is_missed_and_none_is_made_up_where_there_is_none(
            bytes in proptest::array::uniform16(byte()),
            tag in byte(),
        ) {
            let mut tags = Tags([u64::MAX; 2]);
            for (index, &byte) in bytes.iter().enumerate() {
                tags.set(index, byte);
            }
            for (half, places) in [(Half::First, 0..8), (Half::Second, 8..16)] {
                let right: Vec<_> = places.filter(|&place| bytes[place] == tag).collect();
                let found: Vec<_> = tags.matches(half, tag).collect();
                prop_assert!(found.is_sorted(), "{found:?}");
                let all = right.iter().all(|place| found.contains(place));
                prop_assert!(all, "{found:?}, {right:?}");
                prop_assert_eq!(found.first(), right.first());
            }
            prop_assert!((0..16).all(|index| tags.get(index) == bytes[index]));
        }
    }
}
