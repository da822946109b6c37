//! Next hops and groups as readers see them, and how weights become buckets.
//!
//! A group's word is its only door: a single next hop stands in it, several in one of two bucket ranges, so that a change
//! fills the other range and then stores the word.

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
    /// So many buckets from that word of the pool on.
    Buckets { at: usize, len: u32 },
}

#[derive(Debug)]
pub(crate) struct Groups {
    words: Words64,
    buckets: Words32,
    /// Buckets of one range.
    stride: usize,
}

const KIND: u64 = 62;
const HALF: u64 = 61;

impl Groups {
    pub(crate) fn new(indices: u32, members: u32) -> Self {
        let stride = members as usize;
        Groups { words: Words64::new(indices as usize), buckets: Words32::new(indices as usize * 2 * stride), stride }
    }
    #[inline(always)]
    pub(crate) fn get(&self, group: u32) -> Choice {
        let w = self.words.get(group as usize);
        match w >> KIND {
            0 => Choice::Absent,
            1 => Choice::Empty,
            2 => Choice::One(w as u32),
            _ => {
                let half = (w >> HALF & 1) as usize;
                Choice::Buckets { at: (group as usize * 2 + half) * self.stride, len: w as u32 }
            }
        }
    }
    /// The next hop in a bucket of [`Choice::Buckets`].
    #[inline(always)]
    pub(crate) fn bucket(&self, at: usize) -> u32 {
        self.buckets.get(at)
    }
    /// Not programmed.
    pub(crate) fn clear(&self, group: u32) {
        self.words.set(group as usize, self.half(group) << HALF);
    }
    fn half(&self, group: u32) -> u64 {
        self.words.get(group as usize) >> HALF & 1
    }
    /// Set it to a bucket list of at most `members` next hops.
    pub(crate) fn set(&self, group: u32, buckets: &[u32], epochs: &Epochs) {
        let half = self.half(group);
        let word = match buckets {
            [] => 1 << KIND | half << HALF,
            [one] => 2 << KIND | half << HALF | u64::from(*one),
            _ => {
                // The other range may still be read by who saw the group before its last change.
                epochs.wait(epochs.retire());
                let other = half ^ 1;
                let at = (group as usize * 2 + other as usize) * self.stride;
                for (i, b) in buckets.iter().take(self.stride).enumerate() {
                    self.buckets.set(at + i, *b);
                }
                3 << KIND | other << HALF | buckets.len().min(self.stride) as u64
            }
        };
        self.words.set(group as usize, word);
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One bucket for each share after reduction; `Err` with their number if that is more than `max`.
pub(crate) fn expand(members: &[(u32, u16)], max: u32) -> Result<Vec<u32>, u32> {
    let g = members.iter().fold(0, |g, (_, w)| gcd(g, u32::from(*w))).max(1);
    let share = |w: u16| u32::from(w) / g;
    let sum = members.iter().fold(0u32, |s, (_, w)| s.saturating_add(share(*w)));
    if sum > max {
        return Err(sum);
    }
    Ok(members.iter().flat_map(|(n, w)| core::iter::repeat_n(*n, share(*w) as usize)).collect())
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
    fn weights_reduce_and_stay_in_proportion() {
        assert_eq!(expand(&[(7, 10), (8, 20)], 4), Ok(vec![7, 8, 8]));
        assert_eq!(expand(&[(7, 256)], 1), Ok(vec![7]));
        assert_eq!(expand(&[(7, 255), (8, 256)], 64), Err(511));
        assert_eq!(expand(&[], 64), Ok(vec![]));
    }

    #[test]
    fn a_change_is_one_word() {
        let e = Epochs::default();
        let g = Groups::new(4, 8);
        assert_eq!(g.get(2), Choice::Absent);
        g.set(2, &[5], &e);
        assert_eq!(g.get(2), Choice::One(5));
        for list in [&[1, 2, 3][..], &[4, 5], &[6; 8]] {
            g.set(2, list, &e);
            let Choice::Buckets { at, len } = g.get(2) else { panic!() };
            assert_eq!((at..at + len as usize).map(|i| g.bucket(i)).collect::<Vec<_>>(), list);
        }
        g.set(2, &[], &e);
        assert_eq!(g.get(2), Choice::Empty);
        g.clear(2);
        assert_eq!((g.get(2), g.get(99)), (Choice::Absent, Choice::Absent));
    }
}
