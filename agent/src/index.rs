//! Numbers by hash: the index of an arena, small, and quick where millions are held in no order.
//!
//! A bucket is a cache line of words. A word is a number and, in the bits that the number leaves, part of its hash, so that a
//! lookup waits for memory twice: for the bucket and for what the number stands for. What does not fit into its bucket goes
//! into the next that has room. The shards grow alone and by a half, so that no insert is slow and little is left empty. Knows
//! nothing of what the numbers stand for: whoever asks compares, and gives the hash of what is held.

/// A cache line. Empty words are the last ones.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([u32; WORDS]);

const WORDS: usize = 16;
/// How many of the words of a shard's buckets may be taken, out of [`WORDS`].
const FULL: usize = 13;
/// Nothing, and nothing since.
const EMPTY: u32 = 0;
/// Nothing any more, in a bucket that was full: what did not fit may stand in the next.
const GONE: u32 = 1;
/// A number is held as this much more.
const FIRST: u32 = 2;

#[derive(Clone, Debug)]
struct Shard {
    buckets: Vec<Bucket>,
    /// Numbers held.
    len: usize,
    /// Words that are [`GONE`].
    gone: usize,
    /// Bits of a word that are the number.
    bits: u32,
}

const SHARDS: usize = 256;

/// See the module.
#[derive(Clone, Debug)]
pub struct Index(Vec<Shard>);

impl Default for Index {
    fn default() -> Self {
        Index(vec![Shard { buckets: Vec::new(), len: 0, gone: 0, bits: 24 }; SHARDS])
    }
}

/// Bits of the hash that neither choose the bucket, which the lower half does, nor are kept, which the highest are.
#[inline]
fn shard(h: u64) -> usize {
    (h >> 36) as usize % SHARDS
}

impl Shard {
    /// The bucket where a hash is looked for first.
    #[inline]
    fn home(&self, h: u64) -> usize {
        ((u64::from(h as u32) * self.buckets.len() as u64) >> 32) as usize
    }
    #[inline]
    fn mask(&self) -> u32 {
        u32::MAX >> (32 - self.bits)
    }
    /// The part of the hash that is kept with the number, in its place.
    #[inline]
    fn tag(&self, h: u64) -> u32 {
        (h >> 32) as u32 & !self.mask()
    }

    #[inline]
    fn find(&self, h: u64, mut is: impl FnMut(u32) -> bool) -> Option<(usize, usize, u32)> {
        let (mask, tag) = (self.mask(), self.tag(h));
        let mut b = self.home(h);
        for _ in 0..self.buckets.len() {
            let words = &self.buckets[b].0;
            let mut hits = 0u32;
            for (k, w) in words.iter().enumerate() {
                hits |= u32::from(w & !mask == tag) << k;
            }
            while hits != 0 {
                let k = hits.trailing_zeros() as usize;
                hits &= hits - 1;
                let n = words[k] & mask;
                if n >= FIRST && is(n - FIRST) {
                    return Some((b, k, n - FIRST));
                }
            }
            if words[WORDS - 1] == EMPTY {
                return None;
            }
            b = if b + 1 == self.buckets.len() { 0 } else { b + 1 };
        }
        None
    }

    /// Hold a number that is not held. There is room.
    fn put(&mut self, h: u64, i: u32) {
        let word = self.tag(h) | (i + FIRST);
        let mut b = self.home(h);
        loop {
            let words = &mut self.buckets[b].0;
            if let Some(w) = words.iter_mut().find(|w| **w <= GONE) {
                self.gone -= (*w) as usize;
                self.len += 1;
                *w = word;
                return;
            }
            b = if b + 1 == self.buckets.len() { 0 } else { b + 1 };
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let mask = self.mask();
        self.buckets.iter().flat_map(|b| b.0).filter(|w| *w > GONE).map(move |w| (w & mask) - FIRST)
    }

    /// Make room for one more.
    fn grow(&mut self, hash: impl Fn(u32) -> u64) {
        // Asked for at once, where none waits for another.
        let all: Vec<(u64, u32)> = self.numbers().map(|i| (hash(i), i)).collect();
        let n = self.buckets.len();
        let n = if self.gone > self.len / 4 { n } else { n + n / 2 + 1 };
        self.buckets = vec![Bucket([EMPTY; WORDS]); n];
        self.gone = 0;
        let mut taken = vec![0u8; n];
        for (h, i) in all {
            let mut b = self.home(h);
            while usize::from(taken[b]) == WORDS {
                b = if b + 1 == n { 0 } else { b + 1 };
            }
            self.buckets[b].0[usize::from(taken[b])] = self.tag(h) | (i + FIRST);
            taken[b] += 1;
        }
    }
}

impl Index {
    /// The number with that hash that is the one meant.
    #[inline]
    pub fn find(&self, h: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.0[shard(h)].find(h, is).map(|(.., i)| i)
    }
    /// A glance at where that hash would be found, and nothing else: of several, the processor takes them all at once.
    #[inline]
    pub fn glance(&self, h: u64) -> u32 {
        let s = &self.0[shard(h)];
        s.buckets.get(s.home(h)).map_or(0, |b| b.0[0])
    }
    /// Hold a number that is not held. `hash` gives that of any that is.
    #[inline]
    pub fn insert(&mut self, h: u64, i: u32, hash: impl Fn(u32) -> u64) {
        let s = &mut self.0[shard(h)];
        if s.len + s.gone >= s.buckets.len() * FULL {
            s.grow(hash);
        }
        while s.bits < 32 && (i + FIRST) >> s.bits != 0 {
            // Of each hash a bit less is kept.
            let bit = 1 << s.bits;
            s.buckets.iter_mut().flat_map(|b| &mut b.0).for_each(|w| *w &= !bit);
            s.bits += 1;
        }
        s.put(h, i);
    }
    /// Forget a number with that hash. Whether it was held.
    pub fn remove(&mut self, h: u64, i: u32) -> bool {
        let s = &mut self.0[shard(h)];
        let Some((b, k, _)) = s.find(h, |j| i == j) else { return false };
        let words = &mut s.buckets[b].0;
        s.len -= 1;
        match words.iter().rposition(|w| *w != EMPTY) {
            Some(last) if last + 1 < WORDS => {
                words[k] = words[last];
                words[last] = EMPTY;
            }
            _ => {
                words[k] = GONE;
                s.gone += 1;
            }
        }
        true
    }
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|s| size_of::<Shard>() + s.buckets.capacity() * size_of::<Bucket>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Hashes that often meet, in bucket, shard and tag.
    fn hash(i: u32) -> u64 {
        let x = u64::from(i % 700).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x & 0xff00_0010_ffff_ffff
    }

    fn check(index: &Index, model: &BTreeSet<u32>, of: impl Iterator<Item = u32>) {
        for i in of {
            assert_eq!(index.find(hash(i), |j| i == j), model.contains(&i).then_some(i), "{i}");
        }
        for s in &index.0 {
            assert_eq!(s.numbers().count(), s.len);
            assert_eq!(s.buckets.iter().flat_map(|b| b.0).filter(|w| *w == GONE).count(), s.gone);
            assert!(s.buckets.iter().all(|b| b.0.is_sorted_by_key(|w| *w == EMPTY)));
        }
    }

    proptest! {
        #[test]
        fn holds_what_a_set_holds(steps in proptest::collection::vec((0u32..3000, 0u8..5, any::<bool>()), 1..3000)) {
            let (mut index, mut model) = (Index::default(), BTreeSet::new());
            for (n, what, far) in steps {
                // Numbers far up need bits that were kept for hashes.
                let i = if far { n + (1 << 25) } else { n };
                if what < 2 {
                    assert_eq!(index.remove(hash(i), i), model.remove(&i));
                } else if model.insert(i) {
                    index.insert(hash(i), i, hash);
                }
            }
            check(&index, &model, (0..3000).chain((1 << 25)..(1 << 25) + 3000));
        }
    }

    #[test]
    fn coming_and_going_takes_no_room() {
        let (mut index, mut model) = (Index::default(), BTreeSet::new());
        for i in 0..200_000u32 {
            index.insert(hash(i), i, hash);
            model.insert(i);
            if let Some(old) = i.checked_sub(500) {
                assert!(index.remove(hash(old), old));
                model.remove(&old);
            }
        }
        check(&index, &model, 199_000..200_000);
        assert!(index.bytes() < 128 << 10, "{}", index.bytes());
    }

    #[test]
    fn the_largest_number() {
        let mut index = Index::default();
        for i in [0, u32::MAX - FIRST, 1] {
            index.insert(hash(i), i, hash);
        }
        for i in [0, u32::MAX - FIRST, 1] {
            assert_eq!(index.find(hash(i), |j| i == j), Some(i));
        }
    }
}
