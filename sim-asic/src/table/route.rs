//! Writer's side of a route table: which prefixes there are, exactly, and the LPM that readers use.
//!
//! The exact table answers dumps, and finds the next shorter prefix when one is removed. Slots stay where they are while
//! the table works, so that a dump can go on after a pause; the index is split, so that no insert pays for all of it.

use core::hash::{BuildHasher, Hash};

use hal::{Addr, Family, Prefix, RouteKey, V4, V6, VrfId};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::lpm4::{Lpm4, Writer4};
use super::lpm6::{Lpm6, Writer6};
use super::{Leaf, Tables};
use crate::sync::Epochs;

/// What the two LPMs do, for the table that is written once.
pub(crate) trait Lpm: Family {
    /// A key in few bytes.
    type Packed: Copy + Eq + Hash + core::fmt::Debug + Send;
    /// The LPM's writer.
    type Writer: core::fmt::Debug + Send;
    fn pack(k: RouteKey<Self>) -> Self::Packed;
    fn unpack(p: Self::Packed) -> RouteKey<Self>;
    fn writer(routes: u32) -> Self::Writer;
    fn set(w: &mut Self::Writer, t: &Tables, k: RouteKey<Self>, leaf: Leaf, new: bool, e: &Epochs) -> bool;
    fn remove(w: &mut Self::Writer, t: &Tables, k: RouteKey<Self>, cover: Leaf, e: &Epochs);
    fn lookup(t: &Tables, vrf: u32, addr: u128) -> Leaf;
}

impl Lpm for V4 {
    type Packed = u64;
    type Writer = Writer4;
    fn pack(k: RouteKey<V4>) -> u64 {
        u64::from(k.vrf.0) << 38 | u64::from(k.prefix.len()) << 32 | u64::from(k.prefix.addr().to_bits())
    }
    fn unpack(p: u64) -> RouteKey<V4> {
        let prefix = Prefix::new((p as u32).into(), (p >> 32 & 63) as u8);
        RouteKey { vrf: VrfId((p >> 38) as u32), prefix }
    }
    fn writer(routes: u32) -> Writer4 {
        Writer4::new(routes)
    }
    fn set(w: &mut Writer4, t: &Tables, k: RouteKey<V4>, leaf: Leaf, new: bool, e: &Epochs) -> bool {
        w.set(&t.routes4, k.vrf.0, k.prefix.addr().to_bits(), leaf, new, e)
    }
    fn remove(w: &mut Writer4, t: &Tables, k: RouteKey<V4>, cover: Leaf, e: &Epochs) {
        w.remove(&t.routes4, k.vrf.0, k.prefix.addr().to_bits(), k.prefix.len(), cover, e);
    }
    fn lookup(t: &Tables, vrf: u32, addr: u128) -> Leaf {
        Lpm4::lookup(&t.routes4, vrf, addr as u32)
    }
}

impl Lpm for V6 {
    type Packed = [u32; 5];
    type Writer = Writer6;
    fn pack(k: RouteKey<V6>) -> [u32; 5] {
        let a = k.prefix.addr().to_bits();
        [a as u32, (a >> 32) as u32, (a >> 64) as u32, (a >> 96) as u32, k.vrf.0 << 8 | u32::from(k.prefix.len())]
    }
    fn unpack([a, b, c, d, k]: [u32; 5]) -> RouteKey<V6> {
        let addr = u128::from(a) | u128::from(b) << 32 | u128::from(c) << 64 | u128::from(d) << 96;
        RouteKey { vrf: VrfId(k >> 8), prefix: Prefix::new(addr.into(), k as u8) }
    }
    fn writer(_: u32) -> Writer6 {
        Writer6::new()
    }
    fn set(w: &mut Writer6, t: &Tables, k: RouteKey<V6>, leaf: Leaf, _: bool, e: &Epochs) -> bool {
        w.set(&t.routes6, k.vrf.0, k.prefix.addr().to_bits(), leaf, e)
    }
    fn remove(w: &mut Writer6, t: &Tables, k: RouteKey<V6>, cover: Leaf, e: &Epochs) {
        w.remove(&t.routes6, k.vrf.0, k.prefix.addr().to_bits(), k.prefix.len(), cover, e);
    }
    fn lookup(t: &Tables, vrf: u32, addr: u128) -> Leaf {
        Lpm6::lookup(&t.routes6, vrf, addr)
    }
}

/// Most parts of the index.
const PARTS: usize = 256;

#[derive(Debug)]
pub(crate) struct Routes<F: Lpm> {
    /// An empty slot has no leaf.
    slots: Vec<(F::Packed, Leaf)>,
    free: Vec<u32>,
    index: Vec<HashTable<u32>>,
    hasher: DefaultHashBuilder,
    /// Prefixes of each length.
    lens: [u32; 129],
    lpm: F::Writer,
    capacity: u32,
}

impl<F: Lpm> Routes<F> {
    pub(crate) fn new(capacity: u32) -> Self {
        let parts = if capacity < 65_536 { 1 } else { PARTS };
        // A quarter more than an even share, as a part may have.
        let share = capacity as usize / parts * 5 / 4;
        Routes {
            slots: Vec::with_capacity(capacity as usize),
            free: Vec::new(),
            index: (0..parts).map(|_| HashTable::with_capacity(share)).collect(),
            hasher: DefaultHashBuilder::default(),
            lens: [0; 129],
            lpm: F::writer(capacity),
            capacity,
        }
    }
    pub(crate) fn used(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }
    fn hash(&self, k: F::Packed) -> (usize, u64) {
        let h = self.hasher.hash_one(k);
        ((h as usize >> 32) % self.index.len(), h)
    }
    fn find(&self, k: F::Packed) -> Option<u32> {
        let (part, h) = self.hash(k);
        self.index.get(part)?.find(h, |&s| self.slots.get(s as usize).is_some_and(|(key, _)| *key == k)).copied()
    }
    /// The leaf of exactly that prefix.
    pub(crate) fn get(&self, key: RouteKey<F>) -> Option<Leaf> {
        Some(self.slots.get(self.find(F::pack(key))? as usize)?.1)
    }
    fn cover(&self, key: RouteKey<F>) -> Leaf {
        (0..key.prefix.len())
            .rev()
            .filter(|l| self.lens[usize::from(*l)] > 0)
            .find_map(|l| self.get(RouteKey { prefix: key.prefix.shortened(l), ..key }))
            .unwrap_or(Leaf::NONE)
    }
    /// Set a prefix. `Err`: no room. `Ok`: the leaf that it had.
    pub(crate) fn set(&mut self, t: &Tables, key: RouteKey<F>, leaf: Leaf, e: &Epochs) -> Result<Option<Leaf>, ()> {
        let k = F::pack(key);
        if let Some(slot) = self.find(k).and_then(|s| self.slots.get_mut(s as usize)) {
            // Its nodes are there.
            F::set(&mut self.lpm, t, key, leaf, false, e);
            return Ok(Some(core::mem::replace(&mut slot.1, leaf)));
        }
        if self.used() >= self.capacity || !F::set(&mut self.lpm, t, key, leaf, true, e) {
            return Err(());
        }
        let s = match self.free.pop() {
            Some(s) => {
                self.slots[s as usize] = (k, leaf);
                s
            }
            None => {
                self.slots.push((k, leaf));
                self.slots.len() as u32 - 1
            }
        };
        let (part, h) = self.hash(k);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index[part].insert_unique(h, s, |&s| hasher.hash_one(slots[s as usize].0));
        self.lens[usize::from(key.prefix.len())] += 1;
        Ok(None)
    }
    /// Take a prefix out, and get the leaf that it had.
    pub(crate) fn remove(&mut self, t: &Tables, key: RouteKey<F>, e: &Epochs) -> Option<Leaf> {
        let k = F::pack(key);
        let (part, h) = self.hash(k);
        let slots = &self.slots;
        let (s, _) = self.index[part].find_entry(h, |&s| slots[s as usize].0 == k).ok()?.remove();
        let was = core::mem::replace(&mut self.slots[s as usize].1, Leaf::NONE);
        self.free.push(s);
        self.lens[usize::from(key.prefix.len())] -= 1;
        let cover = self.cover(key);
        F::remove(&mut self.lpm, t, key, cover, e);
        Some(was)
    }
    /// Prefixes from slot `cursor` on.
    pub(crate) fn page(&self, cursor: u64, max: usize, mut f: impl FnMut(RouteKey<F>, Leaf)) -> Option<u64> {
        let mut n = 0;
        for (i, (k, leaf)) in self.slots.iter().enumerate().skip(usize::try_from(cursor).ok()?) {
            if *leaf != Leaf::NONE {
                if n == max {
                    return Some(i as u64);
                }
                f(F::unpack(*k), *leaf);
                n += 1;
            }
        }
        None
    }
    /// The prefix that a packet to `addr` matches now.
    pub(crate) fn matched(&self, t: &Tables, vrf: VrfId, addr: u128) -> Option<RouteKey<F>> {
        let leaf = F::lookup(t, vrf.0, addr);
        let key = RouteKey { vrf, prefix: Prefix::new(F::Addr::from_number(addr), leaf.len()) };
        self.get(key).map(|_| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Hop;
    use hal::{Profile, TrapClass};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) fn profile(routes: u32) -> Profile {
        Profile {
            name: "test".into(),
            fids: 16,
            bridge_ports: 16,
            fdb: 64,
            rifs: 8,
            neigh4: 8,
            neigh6: 8,
            nexthops: 8,
            groups: 8,
            group_members: 8,
            buckets: 0,
            routes4: routes,
            routes6: routes,
            vrfs: 2,
            rules: 8,
            frame: 9216,
        }
    }

    #[derive(Clone, Debug)]
    struct Step {
        remove: bool,
        vrf: u32,
        seed: u128,
        len: u8,
        value: u32,
    }

    /// Addresses that often share long prefixes, and lengths on either side of every node's border.
    fn steps(bits: u8) -> impl Strategy<Value = Vec<Step>> {
        let seed = prop_oneof![
            any::<u128>(),
            (0..4u128, 0..4u128, any::<u8>())
                .prop_map(|(a, b, c)| a << 126 | b << 96 | u128::from(c) << 88 | u128::from(c))
        ];
        let len = prop_oneof![0..=bits, Just(bits), (0..=bits / 8).prop_map(|l| l * 8), 0..12u8, 15..26u8];
        let step = (prop::bool::weighted(0.35), 0..2u32, seed, len, 0..5u32)
            .prop_map(|(remove, vrf, seed, len, value)| Step { remove, vrf, seed, len, value });
        prop::collection::vec(step, 1..120)
    }

    fn naive<F: Lpm>(m: &BTreeMap<RouteKey<F>, u32>, vrf: VrfId, addr: F::Addr) -> Option<(u8, u32)> {
        m.iter()
            .filter(|(k, _)| k.vrf == vrf && k.prefix.contains(addr))
            .max_by_key(|(k, _)| k.prefix.len())
            .map(|(k, v)| (k.prefix.len(), *v))
    }

    fn agrees<F: Lpm>(routes: u32, steps: &[Step]) {
        let e = Epochs::default();
        let t = Tables::new(&profile(routes), 1, 1, &e);
        let mut r = Routes::<F>::new(routes);
        let mut model = BTreeMap::new();
        let mut probes = vec![(VrfId(0), 0u128)];
        for s in steps {
            let number = s.seed >> (128 - F::BITS);
            let key = RouteKey { vrf: VrfId(s.vrf), prefix: Prefix::new(F::Addr::from_number(number), s.len) };
            if s.remove {
                // Often one that is there.
                let key = model.keys().nth(s.value as usize * 7 % (model.len().max(1))).copied().unwrap_or(key);
                assert_eq!(r.remove(&t, key, &e).map(|l| l.hop()), model.remove(&key).map(Hop::Group));
            } else {
                let was = r.set(&t, key, Leaf::new(Hop::Group(s.value), key.prefix.len()), &e);
                if let Ok(was) = was {
                    assert_eq!(was.map(|l| l.hop()), model.insert(key, s.value).map(Hop::Group));
                } else {
                    assert!(model.len() >= routes as usize && !model.contains_key(&key));
                }
            }
            let (first, last) = (key.prefix.addr().number(), key.prefix.last().number());
            for vrf in [VrfId(0), VrfId(1)] {
                probes.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1), number].map(|a| (vrf, a)));
            }
        }
        let check = |r: &Routes<F>, model: &BTreeMap<RouteKey<F>, u32>| {
            for &(vrf, a) in &probes {
                let addr = F::Addr::from_number(a);
                let leaf = F::lookup(&t, vrf.0, addr.number());
                let want = naive(model, vrf, addr);
                let got = (leaf.hop() != Hop::Trap(TrapClass::NoRoute)).then(|| (leaf.len(), leaf.hop()));
                assert_eq!(got, want.map(|(l, v)| (l, Hop::Group(v))), "{addr} vrf {vrf}");
            }
            let mut all = BTreeMap::new();
            let mut cursor = Some(0);
            while let Some(c) = cursor {
                cursor = r.page(c, 7, |k, l| assert!(all.insert(k, l.hop()).is_none()));
            }
            assert!(all.iter().map(|(k, h)| (*k, *h)).eq(model.iter().map(|(k, v)| (*k, Hop::Group(*v)))));
            assert_eq!(r.used() as usize, model.len());
        };
        check(&r, &model);
        // Down to nothing again: no leaf may be left behind.
        while let Some((key, _)) = model.pop_first() {
            r.remove(&t, key, &e);
            if model.len() % 16 == 0 {
                check(&r, &model);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn ipv4_matches_a_naive_model(s in steps(32)) {
            agrees::<V4>(1000, &s);
        }
        #[test]
        fn ipv6_matches_a_naive_model(s in steps(128)) {
            agrees::<V6>(1000, &s);
        }
        #[test]
        fn a_small_table_is_full_at_its_capacity(s in steps(32), n in 1..20u32) {
            agrees::<V4>(n, &s);
            agrees::<V6>(n, &s);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]
        #[test]
        fn a_large_root_matches_a_naive_model(s in steps(32), t in steps(128)) {
            agrees::<V4>(40_000, &s);
            agrees::<V6>(40_000, &t);
        }
    }

    #[test]
    fn churn_leaves_nothing_behind() {
        let e = Epochs::default();
        let t = Tables::new(&profile(64), 1, 1, &e);
        let (mut r4, mut r6) = (Routes::<V4>::new(64), Routes::<V6>::new(64));
        for round in 0..300u32 {
            for i in 0..64u32 {
                let n = i.wrapping_mul(0x9e37_79b9) ^ round;
                let k4 = RouteKey { vrf: VrfId(0), prefix: Prefix::host(n.into()) };
                let wide = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                let k6 = RouteKey { vrf: VrfId(1), prefix: Prefix::host(wide.into()) };
                assert_eq!(r4.set(&t, k4, Leaf::new(Hop::Group(1), 32), &e), Ok(None));
                assert_eq!(r6.set(&t, k6, Leaf::new(Hop::Group(1), 128), &e), Ok(None));
            }
            let mut keys = (Vec::new(), Vec::new());
            r4.page(0, 100, |k, _| keys.0.push(k));
            r6.page(0, 100, |k, _| keys.1.push(k));
            keys.0.iter().for_each(|k| assert!(r4.remove(&t, *k, &e).is_some()));
            keys.1.iter().for_each(|k| assert!(r6.remove(&t, *k, &e).is_some()));
        }
    }
}
