//! A selection: the entries of a bucket that its copy keeps.

use super::bucket::{Bucket, Entry, OwnedBucket};
use super::tags::Tags;

/// A set of places in a bucket. The set of a vacant slot is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection(u16);

const _: () = assert!(Tags::CAPACITY == u16::BITS as usize);

impl Selection {
    pub(super) fn of<V>(bucket: Option<Bucket<'_, V>>, keep: impl Fn(&Entry<V>) -> bool) -> Self {
        let entries = bucket.into_iter().flat_map(Bucket::entries);
        let kept = entries.enumerate().filter(|(_, entry)| keep(entry));
        Self(kept.fold(0, |places, (place, _)| places | 1 << place))
    }

    /// Returns the selected places whose entries `keep` keeps. `bucket` is the one that the
    /// selection was made of.
    pub(super) fn filter<V>(
        self,
        bucket: Option<Bucket<'_, V>>,
        keep: impl Fn(&Entry<V>) -> bool,
    ) -> Self {
        let Some(bucket) = bucket else { return Self(0) };
        let kept = self.places().filter(|&place| bucket.entry(place).is_some_and(&keep));
        Self(kept.fold(0, |places, place| places | 1 << place))
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn remove(&mut self, place: Option<usize>) {
        if let Some(place) = place {
            self.0 &= !(1 << place);
        }
    }

    /// Returns the place of the entry that expires first. Of several, returns the place of the
    /// oldest entry.
    pub(super) fn soonest_to_expire<V>(self, bucket: Option<Bucket<'_, V>>) -> Option<usize> {
        let bucket = bucket?;
        self.places().min_by_key(|&place| bucket.entry(place).map(|entry| entry.expires_at))
    }

    /// Appends clones of the selected entries to `target`, in their order.
    pub(super) fn copy<V: Clone>(self, bucket: Option<Bucket<'_, V>>, target: &mut OwnedBucket<V>) {
        if let Some(bucket) = bucket {
            for place in self.places() {
                if let Some(entry) = bucket.entry(place) {
                    let value = entry.value.clone();
                    target.push(entry.digest, entry.expires_at, value, bucket.tag(place));
                }
            }
        }
    }

    fn places(self) -> impl Iterator<Item = usize> {
        let first = (self.0 != 0).then_some(self.0);
        let rest = |&places: &u16| Some(places & (places - 1)).filter(|&places| places != 0);
        std::iter::successors(first, rest).map(|places| places.trailing_zeros() as usize)
    }
}
