//! A map of what stands behind devices, which also says what stands behind one. Not here: what the keys and values mean.

use core::ops::{Bound, RangeBounds};
use std::collections::{BTreeMap, BTreeSet};

/// What stands behind a device.
pub trait Behind {
    /// Its index.
    fn device(&self) -> u32;
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Placed<K, V> {
    of: BTreeMap<K, V>,
    behind: BTreeSet<(u32, K)>,
}

impl<K, V> Default for Placed<K, V> {
    fn default() -> Self {
        Placed { of: BTreeMap::new(), behind: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, V: Behind> Placed<K, V> {
    /// What is known of a key.
    pub fn get(&self, k: &K) -> Option<&V> {
        self.of.get(k)
    }
    /// Returns what was known before.
    pub fn insert(&mut self, k: K, v: V) -> Option<V> {
        let now = v.device();
        let was = self.of.insert(k, v);
        if let Some(was) = was.as_ref().map(Behind::device).filter(|was| *was != now) {
            self.behind.remove(&(was, k));
        }
        self.behind.insert((now, k));
        was
    }
    /// Returns what was known.
    pub fn remove(&mut self, k: &K) -> Option<V> {
        let was = self.of.remove(k)?;
        self.behind.remove(&(was.device(), *k));
        Some(was)
    }
    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.of.len()
    }
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.of.iter()
    }
    /// Those of a range, in order.
    pub fn range(&self, r: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.of.range(r)
    }
    /// Those behind a device, in order, from the first key to the last.
    pub fn behind(&self, device: u32, first: K, last: K) -> impl Iterator<Item = (&K, &V)> {
        let range = (Bound::Included((device, first)), Bound::Included((device, last)));
        self.behind.range(range).filter_map(|(_, k)| Some((k, self.of.get(k)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Behind for u32 {
        fn device(&self) -> u32 {
            self % 4
        }
    }

    proptest! {
        #[test]
        fn what_is_behind_a_device_is_found(ops in prop::collection::vec((0..20u8, prop::option::of(0..12u32)), 0..60)) {
            let (mut placed, mut plain) = (Placed::default(), BTreeMap::new());
            for (k, v) in ops {
                match v {
                    Some(v) => prop_assert_eq!(placed.insert(k, v), plain.insert(k, v)),
                    None => prop_assert_eq!(placed.remove(&k), plain.remove(&k)),
                }
                for d in 0..4 {
                    let found: Vec<_> = placed.behind(d, 3, 15).map(|(k, v)| (*k, *v)).collect();
                    let should: Vec<_> = plain.range(3..=15).filter(|(_, v)| **v % 4 == d).map(|(k, v)| (*k, *v)).collect();
                    prop_assert_eq!(found, should);
                }
            }
        }
    }
}
