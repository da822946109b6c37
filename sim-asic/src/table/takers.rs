//! Whose a frame is: from (port, tags, destination MAC) to a router interface, and the writer's account of who claims what.
//!
//! A chained hash table over the interfaces' own records, which say what each takes. Of two that claim the same neither is
//! linked. An interface that changes its key while a reader is at it may lead that reader into another chain, where it finds
//! nothing: the frame is trapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hal::{Mac, PortId, Tag, Tags, Tpid};
use smallvec::SmallVec;

use super::{Rif, mac_word};
use crate::sync::{Records, Words32};

/// A frame's tags in a word, the outer one in the low half; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct TagWord(pub(crate) u32);

impl TagWord {
    const BITS: u32 = 16;
    /// In each half: there is a tag, and it is 802.1ad's.
    const SET: u32 = 1 << 13;
    const AD: u32 = 1 << 12;

    #[inline(always)]
    pub(crate) fn tag(ad: bool, vid: u16) -> u32 {
        Self::SET | if ad { Self::AD } else { 0 } | u32::from(vid & 0xfff)
    }
    /// How many there are.
    #[inline(always)]
    pub(crate) fn count(self) -> usize {
        usize::from(self.0 != 0) + usize::from(self.0 >> Self::BITS != 0)
    }
    /// With one more, inside of what there is.
    #[inline(always)]
    pub(crate) fn with(self, tag: u32) -> TagWord {
        TagWord(if self.0 == 0 { tag } else { self.0 | tag << Self::BITS })
    }
    /// As they stand in a frame, with priority 0, the outer one first.
    pub(crate) fn wire(self) -> [[u8; 4]; 2] {
        [self.0, self.0 >> Self::BITS].map(|t| {
            let [p, q] = if t & Self::AD != 0 { [0x88, 0xa8] } else { [0x81, 0x00] };
            [p, q, (t >> 8 & 0xf) as u8, t as u8]
        })
    }
}

impl From<Tags> for TagWord {
    fn from(tags: Tags) -> TagWord {
        let word = |t: Tag| TagWord::tag(t.tpid == Tpid::Dot1ad, t.vid);
        tags.iter().fold(TagWord::default(), |w, t| w.with(word(t)))
    }
}

/// What an interface takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Claim {
    pub(crate) port: PortId,
    pub(crate) tags: TagWord,
    pub(crate) mac: Mac,
}

/// The table, as readers see it.
#[derive(Debug)]
pub(crate) struct Takers {
    /// Interface plus one; 0 ends the chain.
    heads: Words32,
    next: Words32,
    seed: u64,
    shift: u32,
}

impl Takers {
    pub(crate) fn new(rifs: usize, seed: u64) -> Self {
        let buckets = rifs.max(2).next_power_of_two();
        Takers { heads: Words32::new(buckets), next: Words32::new(rifs), seed, shift: 64 - buckets.trailing_zeros() }
    }
    #[inline(always)]
    fn bucket(&self, c: &Claim) -> usize {
        let mix = |a: u64, b: u64| {
            let m = u128::from(a) * u128::from(b);
            m as u64 ^ (m >> 64) as u64
        };
        let place = u64::from(c.port.0) << 32 | u64::from(c.tags.0);
        let h = mix(mac_word(c.mac) ^ self.seed, place ^ 0x9e37_79b9_7f4a_7c15);
        (mix(h, 0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }
    /// The interface that takes what the claim says.
    #[inline]
    pub(crate) fn find(&self, rifs: &Records<3>, c: &Claim) -> Option<(u32, Rif)> {
        let mut at = self.heads.get(self.bucket(c));
        // No chain is longer than the table; one that is being changed may seem to be.
        for _ in 0..self.next.size() {
            let i = at.checked_sub(1)?;
            if let Some(r) = rifs.get(i as usize).and_then(Rif::from_words)
                && (r.port, r.tags, r.mac) == (c.port, c.tags, c.mac.0)
            {
                return Some((i, r));
            }
            at = self.next.get(i as usize);
        }
        None
    }
    fn link(&self, c: &Claim, i: u32) {
        let head = self.bucket(c);
        self.next.set(i as usize, self.heads.get(head));
        self.heads.set(head, i + 1);
    }
    fn unlink(&self, c: &Claim, i: u32) {
        let head = self.bucket(c);
        let after = self.next.get(i as usize);
        let mut at = self.heads.get(head);
        if at == i + 1 {
            return self.heads.set(head, after);
        }
        while let Some(before) = at.checked_sub(1) {
            at = self.next.get(before as usize);
            if at == i + 1 {
                return self.next.set(before as usize, after);
            }
        }
    }
}

/// The writer's account.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by: HashMap<Claim, SmallVec<[u32; 1]>>,
    /// Those that untagged frames of a port lead to.
    untagged: BTreeMap<PortId, BTreeSet<u32>>,
}

impl Claims {
    /// The interface claims that, and nothing else so far. Returns the port's first one for untagged frames.
    pub(crate) fn claim(&mut self, t: &Takers, c: Claim, i: u32) -> Option<u32> {
        let owners = self.by.entry(c).or_default();
        owners.push(i);
        match owners[..] {
            [one] => self.link(t, c, one),
            [one, _] => self.unlink(t, c, one),
            _ => {}
        }
        self.first(c.port)
    }
    /// It does so no longer.
    pub(crate) fn release(&mut self, t: &Takers, c: Claim, i: u32) -> Option<u32> {
        if let Some(owners) = self.by.get_mut(&c) {
            let before = owners.len();
            owners.retain(|o| *o != i);
            match (before, &owners[..]) {
                (1, []) => {
                    self.by.remove(&c);
                    self.unlink(t, c, i);
                }
                (2, &[one]) => self.link(t, c, one),
                _ => {}
            }
        }
        self.first(c.port)
    }
    fn first(&self, port: PortId) -> Option<u32> {
        self.untagged.get(&port).and_then(|s| s.first()).copied()
    }
    fn link(&mut self, t: &Takers, c: Claim, i: u32) {
        t.link(&c, i);
        if c.tags == TagWord::default() {
            self.untagged.entry(c.port).or_default().insert(i);
        }
    }
    fn unlink(&mut self, t: &Takers, c: Claim, i: u32) {
        t.unlink(&c, i);
        if let Some(s) = self.untagged.get_mut(&c.port) {
            s.remove(&i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_a_word() {
        let (s, c) = (Tag { tpid: Tpid::Dot1ad, vid: 100 }, Tag { tpid: Tpid::Dot1q, vid: 4094 });
        for (tags, count, wire) in [
            (Tags::None, 0, vec![]),
            (Tags::One(c), 1, vec![[0x81, 0, 0x0f, 0xfe]]),
            (Tags::Two(s, c), 2, vec![[0x88, 0xa8, 0, 100], [0x81, 0, 0x0f, 0xfe]]),
        ] {
            let w = TagWord::from(tags);
            assert_eq!(w.count(), count);
            assert_eq!(w.wire()[..count], wire[..]);
        }
    }
}
