//! The hint of a slot: seven-bit tags of the bucket's first entries, in a word next to the pointer.
//!
//! A lookup that finds its tag in the hint goes straight to the entry, without the bucket's header.
//! A lookup that does not find its tag in a *complete* hint misses, without the bucket.
//!
//! Bytes 0 to 6 of a hint have the complements of the tags of the first seven entries, and byte 7
//! has the state. A byte without an entry is zero. A hint is in one of three states, which the top
//! two bits of byte 7 tell apart:
//!
//! | state | bit 63 | bit 62 | meaning |
//! |---|---|---|---|
//! | complete | 0 | 0 | the tags of all entries, seven at most |
//! | partial | 1 | 0 | the tags of the first seven entries of eight or more |
//! | claim | 1 | 1 | a writer's claim: the address of the bucket that the writer is publishing |
//!
//! [`Slot`](super::slot::Slot) describes which writer writes which state, and why a complete hint
//! describes the bucket that the slot has at that moment.

use std::num::NonZero;
use std::ptr::NonNull;

use super::bucket::Header;
use super::tags::{EACH_BYTE, TOP_BITS, Tags};

/// The word next to a slot's pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint(pub(super) u64);

/// The hint is partial, or a claim.
const INCOMPLETE: u64 = 1 << 63;

/// The incomplete hint is a claim.
const CLAIM: u64 = 1 << 62;

/// The number of entries whose tags a hint has.
const TAGGED: usize = 7;

/// The lowest bits of a claim's number. The top bit of byte 6 is clear in each hint, so that
/// [`Hint::first`] carries nothing into byte 7.
const LOW: u64 = (1 << 55) - 1;

impl Hint {
    /// The hint of a slot without a bucket, or with an empty one.
    pub(super) const EMPTY: u64 = 0;

    /// Returns the hint of a bucket that has `len` entries with these tags.
    pub(super) fn of(tags: Tags, len: usize) -> Self {
        let complements = tags.first_eight() ^ !TOP_BITS;
        let tagged = complements & ((1 << (8 * len.min(TAGGED))) - 1);
        Self(if len <= TAGGED { tagged } else { tagged | INCOMPLETE })
    }

    /// Returns the claim of the writer that is publishing the bucket of this header. Two buckets
    /// that exist at the same time have different claims.
    pub(super) fn claim(header: NonNull<Header>) -> Self {
        // A header's address is a multiple of 64, so its number has 58 bits.
        let number = header.addr().get() as u64 >> 6;
        Self(INCOMPLETE | CLAIM | number >> 55 << 56 | number & LOW)
    }

    /// Returns the place of the first entry that may have this tag of seven bits. Returns 7 if the
    /// hint is incomplete and has no such tag: the eighth entry is the first without a tag in a
    /// partial hint. Returns `None` if the hint is complete and has no such tag: then no entry has
    /// the tag.
    ///
    /// A byte without an entry counts as tag 127. The pointer has the number of entries.
    #[inline]
    pub(super) fn first(self, tag: u8) -> Option<usize> {
        // A byte of a tag becomes 0x7f where the tag matches, and a smaller number elsewhere. The
        // addition then sets the top bit of the bytes that match. Byte 7 keeps its top bit, since
        // nothing is added to it: byte 6 is at most 0x7f, and 0x81 after the addition.
        let word = self.0 ^ (u64::from(tag) * EACH_BYTE);
        let places = NonZero::new(word.wrapping_add(EACH_BYTE >> 8) & TOP_BITS)?;
        Some(places.trailing_zeros() as usize / 8)
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

    /// The number of an address. If byte 6 of a claim were 0xc3 below a byte 7 of 0xc3, a lookup of
    /// tag 0x3c would carry into the state.
    fn number() -> impl Strategy<Value = u64> {
        let most = u64::MAX >> 6;
        prop_oneof![Just(most), Just(LOW), Just(most ^ LOW), Just(0x3c3 << 48), 1..=most]
    }

    fn claim(number: u64) -> Hint {
        let header = std::ptr::without_provenance_mut::<Header>((number << 6) as usize);
        Hint::claim(NonNull::new(header).expect("an address above zero"))
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
            let first = bytes.iter().take(TAGGED).position(|&byte| byte == tag);
            let vacant = (tag == TAGS - 1).then_some(bytes.len()).filter(|&len| len < TAGGED);
            let untagged = (bytes.len() > TAGGED).then_some(TAGGED);
            prop_assert_eq!(hint.first(tag), first.or(vacant).or(untagged));
        }

        #[test]
        fn a_claim_is_no_hint_of_any_bucket_and_differs_from_the_claim_of_another_address(
            bytes in proptest::collection::vec(0..TAGS, 0..=16),
            numbers in [number(), number()],
        ) {
            let claims = numbers.map(claim);
            // The two bits that tell a claim from the other states.
            let both = INCOMPLETE | CLAIM;
            prop_assert!(claims.iter().all(|claim| claim.0 & both == both));
            let hint = Hint::of(tags(&bytes), bytes.len());
            prop_assert!(hint.0 & CLAIM == 0);
            let answers = |claim: &Hint| (0..TAGS).any(|tag| claim.first(tag).is_none());
            prop_assert!(!claims.iter().any(answers));
            prop_assert_eq!(claims[0] == claims[1], numbers[0] == numbers[1]);
        }
    }
}
