//! Adjacencies: a chained hash table for connected destinations, whose slots next hops also refer to directly.
//!
//! A slot is eight words: link and interface, address (two), MAC, hit mark. Address and interface stand from before a slot is
//! linked until no reader can see it; the MAC is one word. A slot without MAC is a place held by a next hop.

use crate::sync::{Words32, Words64};

const STRIDE: usize = 8;
const LINK: usize = 0;
const HIGH: usize = 1;
const LOW: usize = 2;
const MAC: usize = 3;
/// Besides the MAC: there is one.
const VALID: u64 = 1 << 63;

#[derive(Debug)]
pub(crate) struct Neighs {
    /// Slot plus one; 0 ends the chain.
    heads: Words32,
    slots: Words64,
    hits: Words32,
    seed: u64,
    shift: u32,
}

impl Neighs {
    pub(crate) fn new(slots: u32, seed: u64) -> Self {
        let buckets = (slots as usize).max(2).next_power_of_two();
        Neighs {
            heads: Words32::new(buckets),
            slots: Words64::new(slots as usize * STRIDE),
            hits: Words32::new(slots as usize),
            seed,
            shift: 64 - buckets.trailing_zeros(),
        }
    }
    #[inline(always)]
    fn bucket(&self, rif: u32, addr: u128) -> usize {
        let mix = |a: u64, b: u64| {
            let m = u128::from(a) * u128::from(b);
            m as u64 ^ (m >> 64) as u64
        };
        let h = mix(addr as u64 ^ self.seed, (addr >> 64) as u64 ^ u64::from(rif) ^ 0x9e37_79b9_7f4a_7c15);
        (mix(h, 0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }
    #[inline(always)]
    fn link(&self, slot: u32) -> (u32, u32) {
        let w = self.slots.get(slot as usize * STRIDE + LINK);
        (w as u32, (w >> 32) as u32)
    }
    /// The slot of that neighbour.
    #[inline(always)]
    pub(crate) fn find(&self, rif: u32, addr: u128) -> Option<u32> {
        let mut at = self.heads.get(self.bucket(rif, addr));
        loop {
            let slot = at.checked_sub(1)?;
            let (next, r) = self.link(slot);
            let word = |w| self.slots.get(slot as usize * STRIDE + w);
            if word(LOW) == addr as u64 && word(HIGH) == (addr >> 64) as u64 && r == rif {
                return Some(slot);
            }
            at = next;
        }
    }
    /// Index of the interface that the slot's neighbour is on.
    #[inline(always)]
    pub(crate) fn rif(&self, slot: u32) -> u32 {
        self.link(slot).1
    }
    /// The adjacency's MAC in the low 48 bits, if it is programmed.
    #[inline(always)]
    pub(crate) fn mac(&self, slot: u32) -> Option<u64> {
        let w = self.slots.get(slot as usize * STRIDE + MAC);
        (w & VALID != 0).then_some(w)
    }
    /// A packet used it.
    #[inline(always)]
    pub(crate) fn hit(&self, slot: u32) {
        // Looked at first, so that the line is not fought over.
        if self.hits.get(slot as usize) == 0 {
            self.hits.set(slot as usize, 1);
        }
    }
    /// Whether a packet used it since the last call.
    pub(crate) fn take_hit(&self, slot: u32) -> bool {
        self.hits.get(slot as usize) != 0 && self.hits.swap(slot as usize, 0) != 0
    }
    pub(crate) fn set_mac(&self, slot: u32, mac: Option<hal::Mac>) {
        self.slots.set(slot as usize * STRIDE + MAC, mac.map_or(0, |m| super::mac_word(m) | VALID));
    }
    /// Make a fresh slot visible, without MAC.
    pub(crate) fn insert(&self, slot: u32, rif: u32, addr: u128) {
        let (b, base) = (self.bucket(rif, addr), slot as usize * STRIDE);
        self.hits.set(slot as usize, 0);
        self.slots.set(base + HIGH, (addr >> 64) as u64);
        self.slots.set(base + LOW, addr as u64);
        self.slots.set(base + MAC, 0);
        self.slots.set(base + LINK, u64::from(rif) << 32 | u64::from(self.heads.get(b)));
        self.heads.set(b, slot + 1);
    }
    /// Take a slot out of its chain; its own link stays for readers that stand on it.
    pub(crate) fn remove(&self, slot: u32) {
        let word = |w| self.slots.get(slot as usize * STRIDE + w);
        let addr = u128::from(word(HIGH)) << 64 | u128::from(word(LOW));
        let (next, rif) = self.link(slot);
        let b = self.bucket(rif, addr);
        let mut at = self.heads.get(b);
        if at == slot + 1 {
            return self.heads.set(b, next);
        }
        while let Some(before) = at.checked_sub(1) {
            let (n, r) = self.link(before);
            if n == slot + 1 {
                return self.slots.set(before as usize * STRIDE + LINK, u64::from(r) << 32 | u64::from(next));
            }
            at = n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::Mac;

    #[test]
    fn chains_survive_removal_in_any_order() {
        for first in 0..4 {
            let t = Neighs { shift: 63, ..Neighs::new(4, 1) };
            for s in 0..4 {
                t.insert(s, 1, u128::from(s) << 64 | 9);
                t.set_mac(s, Some(Mac([s as u8; 6])));
            }
            t.remove(first);
            for s in 0..4 {
                let found = t.find(1, u128::from(s) << 64 | 9);
                assert_eq!(found, (s != first).then_some(s));
                assert_eq!(t.find(2, u128::from(s) << 64 | 9), None);
            }
            let next = (first + 1) % 4;
            assert_eq!(t.mac(next).map(super::super::word_mac), Some([next as u8; 6]));
        }
    }
}
