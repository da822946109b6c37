//! Next hops and groups as readers see them, and how weights become shares of the hash.
//!
//! A group's word is its only door: a single next hop stands in it, several in one of two ranges of the pool, so that a change
//! fills the other range and then stores the word. A member serves the hashes up to its bound, as in the kernel
//! (`fib_nh_upper_bound`), so that weights hold exactly. A resilient group has buckets in a pool of their own besides, of two
//! words each: the next hop, and whether a packet came by since the mark was last taken. Which bucket leads where is `buckets`'.

use hal::{DropReason, TrapClass};

use super::{drop_reason, trap_class};
use crate::sync::{Epochs, Words32, Words64};

/// What a next hop says, with the tables' own indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Not programmed.
    Absent,
    /// An IPv4 adjacency.
    Neigh4(u32),
    /// An IPv6 adjacency.
    Neigh6(u32),
    /// To the destination itself on that interface.
    Connected(u32),
    Trap(TrapClass),
    Drop(DropReason),
}

impl Next {
    pub(crate) fn word(self) -> u32 {
        let (kind, value) = match self {
            Next::Absent => (0, 0),
            Next::Neigh4(i) => (1, i),
            Next::Neigh6(i) => (2, i),
            Next::Connected(i) => (3, i),
            Next::Trap(c) => (4, c as u32),
            Next::Drop(d) => (5, d as u32),
        };
        kind << 29 | value
    }
    #[inline(always)]
    pub(crate) fn from_word(w: u32) -> Next {
        let value = w & ((1 << 29) - 1);
        match w >> 29 {
            1 => Next::Neigh4(value),
            2 => Next::Neigh6(value),
            3 => Next::Connected(value),
            4 => Next::Trap(trap_class(value)),
            5 => Next::Drop(drop_reason(value)),
            _ => Next::Absent,
        }
    }
}

/// What a group's word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// Not programmed.
    Absent,
    /// No members.
    Empty,
    /// One next hop.
    One(u32),
    /// So many members from that word of the pool on.
    Several { at: usize, len: u32 },
    /// So many buckets from that one on.
    Buckets { at: u32, len: u32 },
}

#[derive(Debug)]
pub(crate) struct Groups {
    words: Words64,
    /// Ranges: the bounds of all members, then their next hops.
    members: Words32,
    /// Members of one range.
    stride: usize,
    buckets: Words32,
}

const KIND: u64 = 62;
const HALF: u64 = 61;
/// With [`Choice::Several`]'s kind: how many buckets in 16 bits, the first one in the 16 above these and in 12 from [`HIGH`] on.
const RESILIENT: u64 = 1 << 60;
const HIGH: u64 = 48;
/// 16 bits: how much less than 65,535 bytes a packet may have, which no interface's MTU exceeds.
const MTU: u64 = 32;

impl Groups {
    pub(crate) fn new(indices: u32, members: u32, buckets: u32) -> Self {
        let stride = members as usize;
        Groups {
            words: Words64::new(indices as usize),
            members: Words32::new(indices as usize * 4 * stride),
            stride,
            buckets: Words32::new(buckets as usize * 2),
        }
    }
    /// What it holds, and the bytes of the longest packet that may go by it.
    #[inline(always)]
    pub(crate) fn get(&self, group: u32) -> (Choice, u32) {
        let w = self.words.get(group as usize);
        let choice = match w >> KIND {
            0 => Choice::Absent,
            1 => Choice::Empty,
            2 => Choice::One(w as u32),
            _ if w & RESILIENT != 0 => {
                let high = (w >> HIGH) as u32 % (1 << 12);
                Choice::Buckets { at: high << 16 | (w as u32) >> 16, len: w as u32 & 0xffff }
            }
            _ => {
                let half = (w >> HALF & 1) as usize;
                Choice::Several { at: self.range(group, half), len: w as u32 }
            }
        };
        (choice, !(w >> MTU) as u16 as u32)
    }
    fn range(&self, group: u32, half: usize) -> usize {
        (group as usize * 2 + half) * 2 * self.stride
    }
    /// Which of the members of [`Choice::Several`] serves that hash.
    #[inline(always)]
    pub(crate) fn member(&self, at: usize, len: u32, hash: u32) -> usize {
        let bound = |i: usize| self.members.get(at + i);
        // Where all have the same weight the hash alone tells, but for a rounding.
        let even = ((u64::from(hash) * u64::from(len)) >> 32) as usize;
        if hash <= bound(even) && (even == 0 || hash > bound(even - 1)) {
            return even;
        }
        // The last one's bound is the highest hash there is, so that one is always found.
        let (mut first, mut left) = (0, len as usize);
        while left > 1 {
            let half = left / 2;
            let above = hash > bound(first + half - 1);
            first += usize::from(above) * half;
            left = if above { left - half } else { half };
        }
        first
    }
    /// The next hop of a member of [`Choice::Several`].
    #[inline(always)]
    pub(crate) fn next(&self, at: usize, member: usize) -> u32 {
        self.members.get(at + self.stride + member)
    }
    /// The bucket of [`Choice::Buckets`] that serves that hash, which is in use by this, and its next hop.
    #[inline(always)]
    pub(crate) fn bucket(&self, at: u32, len: u32, hash: u32) -> (u32, u32) {
        let bucket = ((u64::from(hash) * u64::from(len)) >> 32) as u32;
        let i = (at + bucket) as usize * 2;
        // Looked at first, so that the line is not fought over.
        if self.buckets.get(i + 1) == 0 {
            self.buckets.set(i + 1, 1);
        }
        (bucket, self.buckets.get(i))
    }
    /// Have a bucket lead to that next hop.
    pub(crate) fn set_bucket(&self, bucket: u32, next: u32) {
        self.buckets.set(bucket as usize * 2, next);
    }
    /// Whether a packet was in the bucket since the last call.
    pub(crate) fn take_hit(&self, bucket: u32) -> bool {
        let i = bucket as usize * 2 + 1;
        self.buckets.get(i) != 0 && self.buckets.swap(i, 0) != 0
    }
    /// The next hops of all members.
    pub(crate) fn nexts(&self, group: u32) -> impl Iterator<Item = u32> + '_ {
        let w = self.words.get(group as usize);
        let at = self.range(group, (w >> HALF & 1) as usize);
        let (only, len) = match self.get(group).0 {
            Choice::Absent | Choice::Empty => (None, 0),
            Choice::One(next) => (Some(next), 0),
            Choice::Several { len, .. } => (None, len as usize),
            Choice::Buckets { .. } => (None, self.members.get(at) as usize),
        };
        only.into_iter().chain((0..len).map(move |i| self.next(at, i)))
    }
    /// Not programmed.
    pub(crate) fn clear(&self, group: u32) {
        self.words.set(group as usize, self.half(group) << HALF);
    }
    fn half(&self, group: u32) -> u64 {
        self.words.get(group as usize) >> HALF & 1
    }
    /// Set it to next hops with their weights, none of them 0; at most as many as it has room for. `mtu` is 0 for none.
    pub(crate) fn set(&self, group: u32, members: &[(u32, u32)], mtu: u16, epochs: &Epochs) {
        let half = self.half(group);
        let less = less(mtu);
        let word = match members {
            [] => 1 << KIND | half << HALF,
            [(one, _)] => 2 << KIND | half << HALF | u64::from(*one),
            _ => {
                // The other range may still be read by who saw the group before its last change.
                epochs.wait(epochs.retire());
                let other = half ^ 1;
                let at = self.range(group, other as usize);
                let members = &members[..members.len().min(self.stride)];
                for (i, ((next, _), bound)) in members.iter().zip(bounds(members)).enumerate() {
                    self.members.set(at + i, bound);
                    self.members.set(at + self.stride + i, *next);
                }
                3 << KIND | other << HALF | members.len() as u64
            }
        };
        self.words.set(group as usize, word | less);
    }
    /// No packet longer than this, or than before if that was less, goes by the group any more; 0 for as long as before. For a
    /// change of members that takes more than one step.
    pub(crate) fn limit(&self, group: u32, mtu: u16, epochs: &Epochs) {
        const ALL: u64 = 0xffff << MTU;
        let was = self.words.get(group as usize);
        let now = was & !ALL | (was & ALL).max(less(mtu));
        if now != was {
            self.words.set(group as usize, now);
            epochs.wait(epochs.retire());
        }
    }
    /// Set it to so many buckets from that one on, which lead to these next hops; at most as many as it has room for.
    pub(crate) fn set_buckets(&self, group: u32, (at, len): (u32, u16), nexts: &[u32], mtu: u16, epochs: &Epochs) {
        epochs.wait(epochs.retire());
        let other = self.half(group) ^ 1;
        let range = self.range(group, other as usize);
        let nexts = &nexts[..nexts.len().min(self.stride)];
        self.members.set(range, nexts.len() as u32);
        nexts.iter().enumerate().for_each(|(i, next)| self.members.set(range + self.stride + i, *next));
        let place = u64::from(at & 0xffff) << 16 | u64::from(at >> 16) << HIGH;
        self.words.set(group as usize, 3 << KIND | other << HALF | RESILIENT | place | u64::from(len) | less(mtu));
    }
}

/// What a group's word says of an MTU; 0 for none.
fn less(mtu: u16) -> u64 {
    u64::from(if mtu == 0 { 0 } else { !mtu }) << MTU
}

/// The highest hash that each member serves.
fn bounds(members: &[(u32, u32)]) -> impl Iterator<Item = u32> + '_ {
    let sum: u64 = members.iter().map(|(_, w)| u64::from(*w)).sum();
    let mut up_to = 0;
    members.iter().map(move |(_, w)| {
        up_to += u64::from(*w);
        let end = (u128::from(up_to) << 32) / u128::from(sum.max(1));
        u32::try_from(end.saturating_sub(1)).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for n in [
            Next::Absent,
            Next::Neigh4(0),
            Next::Neigh6((1 << 29) - 1),
            Next::Connected(3),
            Next::Trap(TrapClass::Arp),
            Next::Trap(TrapClass::NoRoom),
            Next::Drop(DropReason::Blackhole),
        ] {
            assert_eq!(Next::from_word(n.word()), n);
        }
    }

    #[test]
    fn members_serve_shares_by_weight() {
        for (weights, hashes) in [
            (&[1u32, 2][..], &[(0u32, 0usize), (0x5555_5554, 0), (0x5555_5555, 1), (u32::MAX, 1)][..]),
            (&[65535, 65535], &[(0x7fff_ffff, 0), (0x8000_0000, 1)]),
            (&[1, u32::MAX], &[(0, 0), (1, 1), (u32::MAX, 1)]),
            (&[1, 1, 1, 1, 1], &[(0, 0), (0x3333_3333, 1), (0x6666_6666, 2), (0x9999_9999, 3), (u32::MAX, 4)]),
        ] {
            let (e, g) = (Epochs::default(), Groups::new(1, 8, 0));
            let members: Vec<(u32, u32)> = weights.iter().zip(10..).map(|(w, n)| (n, *w)).collect();
            g.set(0, &members, 0, &e);
            let Choice::Several { at, len } = g.get(0).0 else { panic!() };
            for (hash, member) in hashes {
                let m = g.member(at, len, *hash);
                assert_eq!((m, g.next(at, m)), (*member, 10 + *member as u32), "{weights:?} {hash:#x}");
            }
        }
    }

    #[test]
    fn a_change_is_one_word() {
        let e = Epochs::default();
        let g = Groups::new(4, 8, 0);
        assert_eq!(g.get(2).0, Choice::Absent);
        g.set(2, &[(5, 9)], 1400, &e);
        assert_eq!(g.get(2), (Choice::One(5), 1400));
        for list in [&[1, 2, 3][..], &[4, 5], &[6; 8]] {
            let members: Vec<(u32, u32)> = list.iter().map(|n| (*n, 1)).collect();
            g.set(2, &members, 0, &e);
            let Choice::Several { at, len } = g.get(2).0 else { panic!() };
            assert_eq!((0..len as usize).map(|i| g.next(at, i)).collect::<Vec<_>>(), list);
        }
        g.set(2, &[], 0, &e);
        assert_eq!(g.get(2), (Choice::Empty, 65535));
        assert_eq!(g.nexts(2).count(), 0);
        // A resilient one, from and to the other kinds.
        let g = Groups::new(4, 8, 1 << 17);
        for (at, len) in [(0, 1), (0x1_2345, 0xabcd), (0xffff, u16::MAX)] {
            g.set(1, &[(8, 1), (9, 1), (7, 3)], 1300, &e);
            g.set_buckets(1, (at, len), &[3, 5], 1400, &e);
            assert_eq!(g.get(1), (Choice::Buckets { at, len: len.into() }, 1400));
            assert_eq!(g.nexts(1).collect::<Vec<_>>(), [3, 5]);
            for (mtu, is) in [(0, 1400), (1500, 1400), (1300, 1300)] {
                g.limit(1, mtu, &e);
                assert_eq!(g.get(1), (Choice::Buckets { at, len: len.into() }, is));
            }
        }
        g.set(1, &[(8, 1), (9, 1)], 0, &e);
        assert_eq!((g.nexts(1).collect::<Vec<_>>(), g.get(1).1), (vec![8, 9], 65535));
        g.set_buckets(1, (70000, 4), &[6], 0, &e);
        g.set_bucket(70003, 6);
        assert!(!g.take_hit(70003));
        assert_eq!(g.bucket(70000, 4, u32::MAX), (3, 6));
        assert!(g.take_hit(70003) && !g.take_hit(70003) && !g.take_hit(70002));
        g.set(2, &[], 0, &e);
        g.clear(2);
        assert_eq!((g.get(2).0, g.get(99).0), (Choice::Absent, Choice::Absent));
    }
}
