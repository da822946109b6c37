//! Next hops and groups as readers see them, and how weights become shares of the hash.
//!
//! A group's word is its only door: a single next hop stands in it, several in one of two ranges of the pool, so that a change
//! fills the other range and then stores the word. A member serves the hashes up to its bound, as in the kernel
//! (`fib_nh_upper_bound`), so that weights hold exactly.

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
}

#[derive(Debug)]
pub(crate) struct Groups {
    words: Words64,
    /// Ranges: the bounds of all members, then their next hops.
    members: Words32,
    /// Members of one range.
    stride: usize,
}

const KIND: u64 = 62;
const HALF: u64 = 61;
/// 16 bits: how much less than 65,535 bytes a packet may have, which no interface's MTU exceeds.
const MTU: u64 = 32;

impl Groups {
    pub(crate) fn new(indices: u32, members: u32) -> Self {
        let stride = members as usize;
        Groups { words: Words64::new(indices as usize), members: Words32::new(indices as usize * 4 * stride), stride }
    }
    /// What it holds, and the bytes of the longest packet that may go by it.
    #[inline(always)]
    pub(crate) fn get(&self, group: u32) -> (Choice, u32) {
        let w = self.words.get(group as usize);
        let choice = match w >> KIND {
            0 => Choice::Absent,
            1 => Choice::Empty,
            2 => Choice::One(w as u32),
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
        let less = u64::from(if mtu == 0 { 0 } else { !mtu }) << MTU;
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
            let (e, g) = (Epochs::default(), Groups::new(1, 8));
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
        let g = Groups::new(4, 8);
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
        g.clear(2);
        assert_eq!((g.get(2).0, g.get(99).0), (Choice::Absent, Choice::Absent));
    }
}
