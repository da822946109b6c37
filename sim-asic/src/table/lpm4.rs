//! IPv4 longest-prefix match: a flat root of 16 or 24 bits, then nodes of 256 cells (after DIR-24-8, Gupta et al. 1998).
//!
//! A cell holds a leaf (its prefix length in it, so that an insert knows what it may overwrite) or a node. Very short
//! prefixes stand apart (`short`): they would else touch very many cells. Readers see each cell change at once; a node is whole before a cell leads to it.

use super::ids::Recycler;
use super::short::{self, Short};
use super::{Leaf, NODE};
use crate::sync::{Epochs, Words32};

/// Cells of a node, by 8 bits of the address.
const CELLS: usize = 256;
/// From this many routes on, VRF 0 has a root of 24 bits (64 MiB); every other root has 16.
const LARGE: u32 = 32_768;

/// What readers see.
#[derive(Debug)]
pub(crate) struct Lpm4 {
    /// Roots of all VRFs, then nodes.
    cells: Words32,
    /// VRF 0's root bits.
    bits: u32,
    vrfs: u32,
    /// Where nodes begin.
    nodes: usize,
    short: Short,
}

/// The bits that short prefixes are found by.
#[inline(always)]
fn first(addr: u32) -> u8 {
    (addr >> 24) as u8
}

fn node_limit(routes: u32) -> u32 {
    // A prefix needs at most one node for each 8 bits behind its root. A full table has far fewer.
    routes.saturating_mul(2).min(1 << 20)
}

impl Lpm4 {
    pub(crate) fn new(routes: u32, vrfs: u32) -> Self {
        let bits = if routes >= LARGE { 24 } else { 16 };
        let nodes = (1usize << bits) + ((vrfs.max(1) as usize - 1) << 16);
        // Fewer than 2^30, so that 32 bits name one.
        let cells = nodes + node_limit(routes) as usize * CELLS;
        Lpm4 { cells: Words32::new(cells), bits, vrfs, nodes, short: Short::new(vrfs) }
    }
    /// First cell of a VRF's root, and how many bits it takes.
    #[inline(always)]
    fn root(&self, vrf: u32) -> (usize, u32) {
        if vrf == 0 { (0, self.bits) } else { ((1usize << self.bits) + ((vrf as usize - 1) << 16), 16) }
    }
    #[inline(always)]
    fn node(&self, cell: u32) -> usize {
        self.nodes + (cell & !NODE) as usize * CELLS
    }
    /// Where a lookup starts: the root's cell, which is fetched while other things go on.
    #[inline(always)]
    pub(crate) fn start(&self, vrf: u32, addr: u32) -> u32 {
        let at = if vrf == 0 { (addr >> (32 - self.bits)) as usize } else { self.other_start(vrf, addr) };
        self.cells.prefetch(at);
        at as u32
    }
    /// Of another virtual router than the default one, apart so that it costs nothing where there is none.
    #[inline(never)]
    fn other_start(&self, vrf: u32, addr: u32) -> usize {
        if vrf >= self.vrfs {
            return u32::MAX as usize;
        }
        let (base, bits) = self.root(vrf);
        base + (addr >> (32 - bits)) as usize
    }
    /// The rest of a lookup.
    #[inline(always)]
    pub(crate) fn finish(&self, vrf: u32, addr: u32, start: u32) -> Leaf {
        let mut cell = self.cells.get(start as usize);
        if cell & NODE != 0 {
            let mut shift = 32 - self.root(vrf).1;
            while cell & NODE != 0 && shift >= 8 {
                shift -= 8;
                cell = self.cells.get(self.node(cell) + (addr >> shift & 255) as usize);
            }
        }
        if cell == 0 { self.short.get(vrf, first(addr)) } else { Leaf(cell) }
    }
    pub(crate) fn lookup(&self, vrf: u32, addr: u32) -> Leaf {
        self.finish(vrf, addr, self.start(vrf, addr))
    }
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Writer4 {
    nodes: Recycler,
    /// For each node: prefixes that end below the cell that leads to it.
    below: Vec<u32>,
}

/// Which leaves a change may replace.
#[derive(Clone, Copy)]
enum Over {
    /// Of this length or shorter.
    UpTo(u8),
    /// Of this length.
    Exactly(u8),
}

impl Over {
    fn takes(self, leaf: Leaf) -> bool {
        match self {
            Over::UpTo(len) => leaf.len() <= len,
            Over::Exactly(len) => leaf.len() == len && leaf != Leaf::NONE,
        }
    }
}

impl Writer4 {
    pub(crate) fn new(routes: u32) -> Self {
        Writer4 { nodes: Recycler::new(node_limit(routes)), below: Vec::new() }
    }

    fn fill(t: &Lpm4, first: usize, count: usize, over: Over, leaf: Leaf) {
        for i in first..first + count {
            let cell = t.cells.get(i);
            if cell & NODE != 0 {
                Self::fill(t, t.node(cell), CELLS, over, leaf);
            } else if over.takes(Leaf(cell)) {
                t.cells.set(i, leaf.0);
            }
        }
    }

    /// Cells of a prefix in the root or node at `base` that ends `depth` bits deep.
    fn range(base: usize, top: u32, depth: u32, addr: u32, len: u8) -> (usize, usize) {
        let index = (addr >> (32 - depth)) as usize & ((1 << (depth - top)) - 1);
        (base + index, 1 << (depth - u32::from(len)))
    }

    /// Set a prefix that is there already, or add one. `false`: no room for its nodes.
    pub(crate) fn set(&mut self, t: &Lpm4, vrf: u32, addr: u32, leaf: Leaf, new: bool, epochs: &Epochs) -> bool {
        let len = leaf.len();
        if len <= short::BITS {
            t.short.set(vrf, first(addr), leaf);
            return true;
        }
        let (mut base, mut depth) = t.root(vrf);
        let mut top = 0;
        let missing = (u32::from(len).saturating_sub(depth)).div_ceil(8);
        if new && missing > self.nodes.room() {
            return false;
        }
        while u32::from(len) > depth {
            let at = Self::range(base, top, depth, addr, depth as u8).0;
            let cell = t.cells.get(at);
            let node = if cell & NODE != 0 {
                cell & !NODE
            } else {
                let Some(node) = self.nodes.take(epochs) else { return false };
                if self.below.len() <= node as usize {
                    self.below.resize(node as usize + 1, 0);
                }
                let first = t.node(node);
                for i in first..first + CELLS {
                    t.cells.set(i, cell);
                }
                t.cells.set(at, NODE | node);
                node
            };
            if new && let Some(n) = self.below.get_mut(node as usize) {
                *n += 1;
            }
            base = t.node(node);
            top = depth;
            depth += 8;
        }
        let (first, count) = Self::range(base, top, depth, addr, len);
        Self::fill(t, first, count, Over::UpTo(len), leaf);
        true
    }

    /// Take out a prefix that is there; `cover` is the next shorter one's leaf.
    pub(crate) fn remove(&mut self, t: &Lpm4, vrf: u32, addr: u32, len: u8, cover: Leaf, epochs: &Epochs) {
        if len <= short::BITS {
            return t.short.remove(vrf, first(addr), len, cover);
        }
        // What stands apart has no cells here.
        let cover = if cover.len() <= short::BITS { Leaf::NONE } else { cover };
        let (mut base, mut depth) = t.root(vrf);
        let mut top = 0;
        // The outermost cell whose node holds nothing else, and the nodes behind it.
        let (mut cut, mut gone) = (None, [None; 3]);
        while u32::from(len) > depth {
            let at = Self::range(base, top, depth, addr, depth as u8).0;
            let cell = t.cells.get(at);
            if cell & NODE == 0 {
                return;
            }
            let Some(n) = self.below.get_mut((cell & !NODE) as usize) else { return };
            *n -= 1;
            if *n == 0 {
                cut = cut.or(Some(at));
                if let Some(g) = gone.iter_mut().find(|g| g.is_none()) {
                    *g = Some(cell & !NODE);
                }
            }
            base = t.node(cell);
            top = depth;
            depth += 8;
        }
        if let Some(at) = cut {
            t.cells.set(at, cover.0);
            for node in gone.into_iter().flatten() {
                self.nodes.retire(node, epochs);
            }
            return;
        }
        let (first, count) = Self::range(base, top, depth, addr, len);
        Self::fill(t, first, count, Over::Exactly(len), cover);
    }
}
