//! The hint of a slot: seven-bit tags of the bucket's first entries, in a word next to the pointer.
//!
//! A lookup that finds its tag in the hint goes straight to the entry, without the bucket's header.
//! A lookup that does not find its tag in a *complete* hint misses, without the bucket.
//!
//! A hint is in one of three states, which the top bits of two of its bytes tell apart:
//!
//! | state | top bit of byte 7 | top bit of byte 0 | meaning |
//! |---|---|---|---|
//! | complete | 0 | any | the tags of all entries, seven at most |
//! | partial | 1 | 1 | the tags of the first eight entries |
//! | claim | 1 | 0 | a writer's claim: the address of the bucket that the writer is publishing |
//!
//! [`Slot`](super::slot::Slot) describes which writer writes which state, and why a complete hint
//! describes the bucket that the slot has at that moment.

use std::ptr::NonNull;

use super::bucket::Header;
use super::tags::{EACH_BYTE, TOP_BITS, Tags, zero_bytes};

/// One byte for each of the first eight entries: the top bit, and below it the entry's tag. A byte
/// without an entry is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint(pub(super) u64);

/// The top bit of the last byte.
const INCOMPLETE: u64 = 1 << 63;

impl Hint {
    /// The hint of a slot without a bucket, or with an empty one.
    pub(super) const EMPTY: u64 = 0;

    /// Returns the hint of a bucket that has `len` entries with these tags.
    pub(super) fn of(tags: Tags, len: usize) -> Self {
        let eight = tags.first_eight() | TOP_BITS;
        Self(if len < 8 { eight & ((1 << (8 * len)) - 1) } else { eight })
    }

    /// Returns the claim of the writer that is publishing the bucket of this header. Two buckets
    /// that exist at the same time have different claims.
    pub(super) fn claim(header: NonNull<Header>) -> Self {
        // A header's address is a multiple of 64. The seven bits above those go to byte 0, without
        // its top bit. The others go to the bytes above, without the last one's top bit.
        let address = header.addr().get() as u64;
        Self(INCOMPLETE | address >> 13 << 8 | address >> 6 & 0x7f)
    }

    /// Returns the place of the first entry that may have this tag of seven bits. Returns 8 if
    /// there is none in the hint, and `None` if there is none in the bucket: then the hint is
    /// complete.
    #[inline]
    pub(super) fn first(self, tag: u8) -> Option<usize> {
        let matches = zero_bytes(self.0 ^ (u64::from(tag) * EACH_BYTE + TOP_BITS));
        if matches == 0 && self.0 & INCOMPLETE == 0 {
            return None;
        }
        Some(matches.trailing_zeros() as usize / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tags::TAGS;
    use super::*;
    use proptest::prelude::*;

    fn tags(bytes: &[u8]) -> Tags {
        let mut tags = Tags::default();
        bytes.iter().enumerate().for_each(|(place, &tag)| tags.set(place, tag));
        tags
    }

    proptest! {
        /// A complete hint misses no entry, and an entry's place is found unless an earlier entry
        /// has the same seven bits.
        #[test]
        fn a_hint_finds_the_first_entry_with_the_tag_and_no_tag_that_no_entry_has(
            bytes in proptest::collection::vec(0..TAGS, 0..=16),
            tag in 0..TAGS,
        ) {
            let hint = Hint::of(tags(&bytes), bytes.len());
            let first = bytes.iter().take(8).position(|&byte| byte == tag);
            prop_assert_eq!(hint.first(tag), first.or((bytes.len() >= 8).then_some(8)));
        }

        #[test]
        fn a_claim_is_no_hint_of_any_bucket_and_differs_from_the_claim_of_another_address(
            bytes in proptest::collection::vec(0..TAGS, 0..=16),
            addresses in [1..=u64::MAX >> 6, 1..=u64::MAX >> 6],
        ) {
            let claim = |number: u64| {
                let header = std::ptr::without_provenance_mut::<Header>((number << 6) as usize);
                Hint::claim(NonNull::new(header).expect("an address above zero"))
            };
            let claims = addresses.map(claim);
            // The two bits that tell a claim from the other states.
            prop_assert!(claims.iter().all(|claim| claim.0 & (INCOMPLETE | 0x80) == INCOMPLETE));
            let answers = |claim: &Hint| (0..TAGS).any(|tag| claim.first(tag).is_none());
            prop_assert!(!claims.iter().any(answers));
            prop_assert!(claims.iter().all(|claim| *claim != Hint::of(tags(&bytes), bytes.len())));
            prop_assert_eq!(claims[0] == claims[1], addresses[0] == addresses[1]);
        }
    }
}
