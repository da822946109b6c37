//! Routes of few bits, of either family and the default route among them, apart from the large tables: there one of them
//! would be written to millions of cells.
//!
//! A lookup comes here when it finds nothing longer. Who keeps the longer ones is `lpm4` and `lpm6`.

use super::Leaf;
use crate::sync::Words32;

/// Longest prefix that stands here, in bits: what is one longer takes 2^15 cells of the largest root.
pub(crate) const BITS: u8 = 8;
const CELLS: usize = 1 << BITS;

/// For each VRF and the first bits of an address: the leaf of the longest prefix here.
#[derive(Debug)]
pub(crate) struct Short(Words32);

impl Short {
    pub(crate) fn new(vrfs: u32) -> Self {
        Short(Words32::new(vrfs as usize * CELLS))
    }
    /// What an address that begins with `first` matches here.
    #[inline(always)]
    pub(crate) fn get(&self, vrf: u32, first: u8) -> Leaf {
        Leaf(self.0.get(vrf as usize * CELLS + usize::from(first)))
    }
    /// Replace what `takes` says in the cells of a prefix of `len` bits.
    fn fill(&self, vrf: u32, first: u8, len: u8, takes: impl Fn(Leaf) -> bool, leaf: Leaf) {
        let at = vrf as usize * CELLS + usize::from(first);
        for i in at..at + (CELLS >> len) {
            if takes(Leaf(self.0.get(i))) {
                self.0.set(i, leaf.0);
            }
        }
    }
    /// Set a prefix of at most [`BITS`] that begins with `first`.
    pub(crate) fn set(&self, vrf: u32, first: u8, leaf: Leaf) {
        self.fill(vrf, first, leaf.len(), |l| l.len() <= leaf.len(), leaf);
    }
    /// Take out a prefix that is there; `cover` is the next shorter one's leaf.
    pub(crate) fn remove(&self, vrf: u32, first: u8, len: u8, cover: Leaf) {
        self.fill(vrf, first, len, |l| l.len() == len && l != Leaf::NONE, cover);
    }
}
