//! Tags: a byte of the mixed digest for each entry of a bucket, all compared at once, so that a lookup reads
//! an entry only where it is likely to be the right one.
//!
//! The compare is "SIMD within a register" on two 64-bit words (Knuth, *The Art of Computer Programming* 4A,
//! section 7.1.3), in the form that yields no false positives: every platform has it, and none needs an
//! intrinsic.

#![deny(unsafe_code)]

const LOW_SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

/// The tags of a bucket, in the order of its entries. Places that no entry has are zero, which is a tag like
/// any other: the caller knows how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tags([u64; 2]);

impl Tags {
    /// How many tags fit, and so how many entries a bucket can have.
    pub(super) const CAPACITY: usize = 16;

    pub(super) fn set(&mut self, index: usize, tag: u8) {
        let shift = index % 8 * 8;
        let word = &mut self.0[index / 8];
        *word = *word & !(0xff << shift) | u64::from(tag) << shift;
    }

    pub(super) fn get(self, index: usize) -> u8 {
        (self.0[index / 8] >> (index % 8 * 8)) as u8
    }

    /// The places where `tag` stands among the first `len`, first to last; of a word that is begun, all of them.
    #[inline]
    pub(super) fn matches(self, tag: u8, len: usize) -> Matches {
        let wanted = u64::from(tag) * EACH_BYTE;
        let [first, second] = self.0.map(|word| word ^ wanted);
        // Most buckets have no more than eight entries, and a second word that need not be looked at.
        Matches { bits: zero_bytes(first), base: 0, next: (len > 8).then_some(second) }
    }
}

/// The top bit of each byte that is zero.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    !((word & LOW_SEVEN).wrapping_add(LOW_SEVEN) | word | LOW_SEVEN)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Matches {
    bits: u64,
    base: usize,
    next: Option<u64>,
}

impl Iterator for Matches {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.bits == 0 {
            self.bits = zero_bytes(self.next.take()?);
            self.base = 8;
            if self.bits == 0 {
                return None;
            }
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

    proptest! {
        /// Against the obvious: every byte on its own, with all values that border on each other in carries and borrows.
        #[test]
        fn matches_are_exactly_the_places_of_the_tag(
            bytes in proptest::array::uniform16(prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]),
            tag in prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()],
        ) {
            let mut tags = Tags([u64::MAX; 2]);
            for (index, &byte) in bytes.iter().enumerate() {
                tags.set(index, byte);
            }
            for len in 0..=16 {
                let looked_at = if len > 8 { 16 } else { 8 };
                let expected: Vec<_> = (0..looked_at).filter(|&index| bytes[index] == tag).collect();
                prop_assert_eq!(tags.matches(tag, len).collect::<Vec<_>>(), expected);
            }
            prop_assert!((0..16).all(|index| tags.get(index) == bytes[index]));
        }
    }
}
