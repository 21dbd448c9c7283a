//! Placement: maps a capacity to a number of buckets, and a digest to a bucket and a tag.

use super::tags::{TAGS, Tags};
use crate::KeyHash;

/// The number of buckets, and the number of entries that each bucket may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) buckets: usize,
    pub(crate) bucket_capacity: usize,
}

impl Shape {
    /// The mean number of entries in a bucket when a map is at its capacity.
    const LOAD: usize = 4;

    /// Returns the shape for `capacity` live keys (G6). `capacity` must be at least one.
    ///
    /// Up to 16 keys share one bucket of exactly that capacity. For a larger capacity, a bucket of
    /// 16 places has four keys in the mean. Digests are uniform, so the number of keys in a bucket
    /// is Poisson(4) in the limit. The share of keys without room is `E[max(X - 16, 0)] / 4` <
    /// 3.7e-7. All buckets together have room for at most four times the capacity.
    ///
    /// The number of buckets need not be a power of two. With powers of two, the mean would vary
    /// from 4 to 8 with the capacity. At a mean of 8, the share without room is 8e-4: too near the
    /// limit of G6, 1e-3.
    pub(crate) const fn for_capacity(capacity: usize) -> Self {
        if capacity <= Tags::CAPACITY {
            Self { buckets: 1, bucket_capacity: capacity }
        } else {
            Self { buckets: capacity / Self::LOAD, bucket_capacity: Tags::CAPACITY }
        }
    }
}

/// The slot and the tag of a digest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: usize,
    pub(super) tag: u8,
}

/// A keyed mixing of digests. Digests are uniform already. The seed prevents a client that chooses
/// API keys from filling one bucket.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    slots: u64,
    seed: [u64; 2],
}

impl Placement {
    pub(super) fn new(slots: usize, seed: [u64; 2]) -> Self {
        Self { slots: slots as u64, seed: [seed[0], seed[1] | 1] }
    }

    /// Multiply-shift hashing with a secret odd factor over one word of the digest (Dietzfelbinger,
    /// Hagerup, Katajainen and Penttonen, "A reliable randomized algorithm for the closest-pair
    /// problem", 1997), then Lemire's reduction to a range by multiplication ("Fast random integer
    /// generation in an interval", 2019).
    ///
    /// The integral part of the last product is the slot, and the top bits of its fraction are the
    /// tag. Two digests that were chosen without the seed meet in a slot with a chance of at most
    /// two in the number of slots.
    #[inline]
    pub(super) fn of(&self, key: &KeyHash) -> Place {
        let mixed = (key.first_word() ^ self.seed[0]).wrapping_mul(self.seed[1]);
        let scaled = u128::from(mixed) * u128::from(self.slots);
        Place { slot: (scaled >> 64) as usize, tag: (scaled as u64 >> 57) as u8 }
    }
}

const _: () = assert!(TAGS as u32 == 1 << (64 - 57));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_shapes_leave_room_for_at_most_four_times_the_capacity_and_hold_four_keys_a_bucket() {
        for capacity in (1..5_000).chain([65_536, 1_000_000, usize::MAX / 8]) {
            let shape = Shape::for_capacity(capacity);
            let room = shape.buckets * shape.bucket_capacity;
            assert!((capacity..=4 * capacity).contains(&room), "{capacity}: {shape:?}");
            assert!(shape.bucket_capacity <= Tags::CAPACITY);
            assert!(
                capacity <= Tags::CAPACITY || capacity / shape.buckets <= 5,
                "{capacity}: {shape:?}"
            );
        }
        // Up to 16 keys, one bucket holds exactly the capacity.
        assert_eq!(Shape::for_capacity(16), Shape { buckets: 1, bucket_capacity: 16 });
    }

    #[test]
    fn g6_the_share_of_keys_beyond_a_bucket_of_sixteen_is_what_the_docs_say() {
        // E[max(X - 16, 0)] / 4 for X ~ Poisson(4), summed until the terms vanish.
        let mut probability = (-4.0_f64).exp();
        let mut beyond = 0.0;
        for x in 1..60_u32 {
            probability *= 4.0 / f64::from(x);
            beyond += f64::from(x.saturating_sub(16)) * probability;
        }
        assert!((3.5e-7..3.7e-7).contains(&(beyond / 4.0)), "{}", beyond / 4.0);
    }

    #[test]
    fn slots_and_tags_are_spread_evenly_and_differ_with_the_seed() {
        const KEYS: u64 = 20_000;
        let here = Placement::new(10, [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let there = Placement::new(10, [0x2545_f491_4f6c_dd1d, 0x1234_5678_9abc_def1]);
        let mut slots = [0_u32; 10];
        let mut tags = [0_u32; TAGS as usize];
        let mut same = 0;
        for key in (0..KEYS).map(|n| KeyHash::of(n.to_le_bytes())) {
            let place = here.of(&key);
            slots[place.slot] += 1;
            tags[usize::from(place.tag)] += 1;
            same += u32::from(place.slot == there.of(&key).slot);
        }
        // Keys and seeds are fixed, so the counts are, too. The bounds are six standard deviations
        // wide.
        assert!(slots.iter().all(|count| (1_750..=2_250).contains(count)), "{slots:?}");
        assert!(tags.iter().all(|count| (81..=231).contains(count)), "{tags:?}");
        assert!((1_750..=2_250).contains(&same), "{same}");
    }

    #[test]
    fn each_word_of_the_seed_moves_keys_to_other_slots() {
        let seed = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
        let here = Placement::new(1 << 20, seed);
        for word in 0..seed.len() {
            let mut other = seed;
            other[word] ^= 0x2545_f491_4f6c_dd1d;
            let there = Placement::new(1 << 20, other);
            let keys = (0..1_000_u32).map(|n| KeyHash::of(n.to_le_bytes()));
            let stay = keys.filter(|key| here.of(key).slot == there.of(key).slot).count();
            // By chance, one key in a million stays.
            assert!(stay <= 2, "{stay} of 1,000 keys stay with another word {word}");
        }
    }

    #[test]
    fn every_bit_of_the_first_word_of_a_digest_moves_it_to_another_slot() {
        let placement =
            Placement::new(u32::MAX as usize, [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let bytes = KeyHash::of("a key").to_bytes();
        let slot = placement.of(&KeyHash::from_bytes(bytes)).slot;
        for bit in 0..64 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(placement.of(&KeyHash::from_bytes(flipped)).slot, slot, "bit {bit}");
        }
    }
    /// A client that searches for API keys can choose bits of their digests. Without the seed, the
    /// client cannot choose keys that meet.
    #[test]
    fn digests_that_were_chosen_without_the_seed_do_not_meet_in_a_slot() {
        const KEYS: u64 = 1_000;
        let seeds = [0x9e37_79b9_7f4a_7c15, 0x2545_f491_4f6c_dd1d, 0xd1b5_4a32_d192_ed03];
        for (seed, shift) in seeds.into_iter().zip([0, 24, 54]) {
            let placement = Placement::new(1 << 20, [0x1234_5678_9abc_def1, seed]);
            let mut slots: Vec<_> = (0..KEYS)
                .map(|n| {
                    let mut bytes = [0; 32];
                    bytes[..8].copy_from_slice(&(n << shift).to_le_bytes());
                    placement.of(&KeyHash::from_bytes(bytes)).slot
                })
                .collect();
            slots.sort_unstable();
            slots.dedup();
            // Two keys meet with a chance of at most two in the number of slots: one pair in the
            // mean.
            assert!(slots.len() > 990, "{} slots, shift {shift}", slots.len());
        }
    }
}
