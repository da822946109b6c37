//! IPv6 longest-prefix match: a flat root of 16 bits, then compressed nodes of 8 bits (in the manner of poptrie, Asai and Ohara 2015).
//!
//! A node is a bitmap of where runs of equal cells begin, counts for it, and one cell a run. A cell changes in place; what
//! changes a node's runs builds a new node and swaps it in with one store in the node above. Between cells of different
//! prefixes there is always a border, so that a route that is there can be overwritten without room.

use std::collections::VecDeque;

use super::{Leaf, NODE};
use crate::sync::{Epochs, Words32, Words64};

/// Bits of the root.
const ROOT: u8 = 16;
/// Cells of a node before compression.
const CELLS: usize = 256;
/// Words before the cells: four of bitmap, one with the runs before each of them.
const HEAD: usize = 5;
/// Words that are reserved for each of the first [`FEW`] routes: 14 nodes of 8 words hold the longest prefix alone.
const PER_ROUTE: usize = 14 * 8;
/// In a larger table prefixes share nodes, and not all are host routes; should they be, the table is full before its time.
const FEW: usize = 1 << 17;
const PER_FURTHER: usize = 32;
/// Sizes of a node in words.
const SIZES: [usize; 18] = [6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 104, 133];

/// What readers see.
#[derive(Debug)]
pub(crate) struct Lpm6 {
    roots: Words32,
    slab: Words64,
    defaults: Words32,
}

#[inline(always)]
fn cell_at(slab: &Words64, node: usize, run: usize) -> u32 {
    (slab.get(node + HEAD + run / 2) >> (32 * (run & 1))) as u32
}

#[inline(always)]
fn bits_upto(b: usize) -> u64 {
    u64::MAX >> (63 - (b & 63))
}

impl Lpm6 {
    pub(crate) fn new(routes: u32, vrfs: u32) -> Self {
        let routes = routes as usize;
        let words = routes.min(FEW) * PER_ROUTE + routes.saturating_sub(FEW) * PER_FURTHER;
        Lpm6 {
            roots: Words32::new((vrfs as usize) << ROOT),
            slab: Words64::new((words + 4 * SIZES[17]).min(NODE as usize)),
            defaults: Words32::new(vrfs as usize),
        }
    }
    #[inline(always)]
    fn run(&self, node: usize, b: usize) -> usize {
        let bitmap = self.slab.get(node + b / 64);
        let before = self.slab.get(node + 4) >> (16 * (b / 64)) & 0xffff;
        (before as usize + (bitmap & bits_upto(b)).count_ones() as usize).wrapping_sub(1)
    }
    /// First step of a lookup: the root's cell.
    #[inline(always)]
    pub(crate) fn start(&self, vrf: u32, addr: u128) -> u32 {
        self.roots.get((vrf as usize) << ROOT | (addr >> 112) as usize)
    }
    /// One step down.
    #[inline(always)]
    pub(crate) fn step(&self, cell: u32, addr: u128, depth: u32) -> u32 {
        let node = (cell & !NODE) as usize;
        cell_at(&self.slab, node, self.run(node, (addr >> (120 - depth)) as usize & 255))
    }
    /// The rest of a lookup.
    #[inline(always)]
    pub(crate) fn finish(&self, vrf: u32, addr: u128, mut cell: u32) -> Leaf {
        let mut depth = u32::from(ROOT);
        while cell & NODE != 0 && depth <= 120 {
            cell = self.step(cell, addr, depth);
            depth += 8;
        }
        self.end(vrf, cell)
    }
    /// What the last cell of a lookup means.
    #[inline(always)]
    pub(crate) fn end(&self, vrf: u32, cell: u32) -> Leaf {
        Leaf(if cell == 0 { self.defaults.get(vrf as usize) } else { cell })
    }
    pub(crate) fn lookup(&self, vrf: u32, addr: u128) -> Leaf {
        self.finish(vrf, addr, self.start(vrf, addr))
    }
}

/// No room in the slab.
#[derive(Debug)]
pub(crate) struct Full;

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Writer6 {
    next: usize,
    retired: [VecDeque<(u64, u32)>; SIZES.len()],
    /// Of the change at hand: nodes that nothing leads to yet, and nodes that nothing will lead to.
    fresh: Vec<u32>,
    stale: Vec<u32>,
}

/// A node's cells, and where its runs begin.
struct Open {
    cells: [u32; CELLS],
    starts: [u64; 4],
}

impl Open {
    fn of(t: &Lpm6, cell: u32) -> Open {
        let mut o = Open { cells: [cell; CELLS], starts: [1, 0, 0, 0] };
        if cell & NODE != 0 {
            let node = (cell & !NODE) as usize;
            for (i, s) in o.starts.iter_mut().enumerate() {
                *s = t.slab.get(node + i);
            }
            let mut run = 0;
            let mut value = 0;
            for b in 0..CELLS {
                if o.starts[b / 64] >> (b % 64) & 1 == 1 {
                    value = cell_at(&t.slab, node, run);
                    run += 1;
                }
                o.cells[b] = value;
            }
        }
        o
    }
    /// Where runs have to begin in a node that starts at bit `base`.
    fn borders(&self, base: u8) -> [u64; 4] {
        let mut s = [1, 0, 0, 0];
        for b in 1..CELLS {
            let v = self.cells[b];
            let len = Leaf(v).len();
            let other = v != self.cells[b - 1]
                || (v & NODE == 0 && len > base && b >> (base + 8 - len) != (b - 1) >> (base + 8 - len));
            if other {
                s[b / 64] |= 1 << (b % 64);
            }
        }
        s
    }
}

fn runs(s: &[u64; 4]) -> usize {
    s.iter().map(|w| w.count_ones() as usize).sum()
}

fn words(runs: usize) -> usize {
    HEAD + runs.div_ceil(2)
}

fn class(words: usize) -> usize {
    SIZES.iter().position(|s| *s >= words).unwrap_or(SIZES.len() - 1)
}

fn class_of(t: &Lpm6, node: u32) -> usize {
    class(words((0..4).map(|i| t.slab.get(node as usize + i).count_ones() as usize).sum()))
}

/// The cells of a prefix in a node that starts at bit `base`, `base < len <= base + 8`.
fn range(base: u8, addr: u128, len: u8) -> core::ops::Range<usize> {
    let first = slot(base, addr);
    first..first + (1 << (base + 8 - len))
}

fn slot(base: u8, addr: u128) -> usize {
    (addr >> (120 - base)) as usize & 255
}

impl Writer6 {
    pub(crate) fn new() -> Self {
        Writer6 { next: 0, retired: Default::default(), fresh: Vec::new(), stale: Vec::new() }
    }

    fn alloc(&mut self, t: &Lpm6, class: usize, epochs: &Epochs) -> Option<u32> {
        let size = SIZES[class];
        let last = self.next + size > t.slab.size();
        let list = &mut self.retired[class];
        if let Some(&(stamp, node)) = list.front() {
            if last {
                epochs.wait(stamp);
            }
            if last || epochs.passed(stamp) {
                list.pop_front();
                self.fresh.push(node);
                return Some(node);
            }
        }
        if last {
            return None;
        }
        let node = self.next as u32;
        self.next += size;
        self.fresh.push(node);
        Some(node)
    }

    /// Write a node whole, where nothing leads to it yet.
    fn build(&mut self, t: &Lpm6, o: &Open, starts: [u64; 4], epochs: &Epochs) -> Result<u32, Full> {
        let node = self.alloc(t, class(words(runs(&starts))), epochs).ok_or(Full)?;
        let at = node as usize;
        let (mut before, mut counts) = (0u64, 0u64);
        for (i, s) in starts.iter().enumerate() {
            t.slab.set(at + i, *s);
            counts |= before << (16 * i);
            before += u64::from(s.count_ones());
        }
        t.slab.set(at + 4, counts);
        let mut pair = 0u64;
        let mut run = 0;
        for b in 0..CELLS {
            if starts[b / 64] >> (b % 64) & 1 == 1 {
                if run & 1 == 0 {
                    pair = u64::from(o.cells[b]);
                } else {
                    pair |= u64::from(o.cells[b]) << 32;
                }
                t.slab.set(at + HEAD + run / 2, pair);
                run += 1;
            }
        }
        Ok(NODE | node)
    }

    /// Change cells in place; `o`'s runs begin nowhere but where the node's do.
    fn patch(t: &Lpm6, cell: u32, o: &Open) {
        let node = (cell & !NODE) as usize;
        let mut run = 0;
        for b in 0..CELLS {
            if o.starts[b / 64] >> (b % 64) & 1 == 1 {
                if cell_at(&t.slab, node, run) != o.cells[b] {
                    Self::patch_run(t, cell, run, o.cells[b]);
                }
                run += 1;
            }
        }
    }

    /// A slot's cell; with its run if no other slot shares it, so that it can be changed in place.
    fn single(t: &Lpm6, cell: u32, s: usize) -> (u32, Option<usize>) {
        let node = (cell & !NODE) as usize;
        let starts = |s: usize| s == CELLS || t.slab.get(node + s / 64) >> (s % 64) & 1 == 1;
        let run = t.run(node, s);
        (cell_at(&t.slab, node, run), (starts(s) && starts(s + 1)).then_some(run))
    }

    fn patch_run(t: &Lpm6, cell: u32, run: usize, v: u32) {
        let (at, shift) = ((cell & !NODE) as usize + HEAD + run / 2, 32 * (run & 1));
        t.slab.set(at, t.slab.get(at) & !(0xffff_ffff << shift) | u64::from(v) << shift);
    }

    /// Replace leaves in the node `cell` and all below it. They are the same prefix's throughout, so no run changes.
    fn fill(t: &Lpm6, cell: u32, takes: &dyn Fn(Leaf) -> bool, leaf: Leaf) {
        let mut o = Open::of(t, cell);
        for b in 0..CELLS {
            let v = o.cells[b];
            if v & NODE != 0 {
                if b == 0 || o.cells[b - 1] != v {
                    Self::fill(t, v, takes, leaf);
                }
            } else if takes(Leaf(v)) {
                o.cells[b] = leaf.0;
            }
        }
        Self::patch(t, cell, &o);
    }

    /// The cell that is to stand where `cell` stands, with the prefix set. Only what is returned leads to fresh nodes, or a
    /// cell that was changed in place.
    fn put(&mut self, t: &Lpm6, cell: u32, base: u8, addr: u128, leaf: Leaf, e: &Epochs) -> Result<u32, Full> {
        let len = leaf.len();
        if len > base + 8
            && cell & NODE != 0
            && let (child, Some(run)) = Self::single(t, cell, slot(base, addr))
        {
            // Nothing but that cell can change here.
            let new = self.put(t, child, base + 8, addr, leaf, e)?;
            if new != child {
                Self::patch_run(t, cell, run, new);
            }
            return Ok(cell);
        }
        let mut o = Open::of(t, cell);
        let takes = |l: Leaf| l.len() <= len;
        let mut deeper = Vec::new();
        if len <= base + 8 {
            for b in range(base, addr, len) {
                let v = o.cells[b];
                if v & NODE != 0 {
                    deeper.push(v);
                } else if takes(Leaf(v)) {
                    o.cells[b] = leaf.0;
                }
            }
        } else {
            let s = slot(base, addr);
            let child = self.put(t, o.cells[s], base + 8, addr, leaf, e)?;
            if child == o.cells[s] {
                return Ok(cell);
            }
            o.cells[s] = child;
        }
        let starts = o.borders(base);
        let fits = cell & NODE != 0 && starts.iter().zip(&o.starts).all(|(new, old)| new & !old == 0);
        let new = if fits {
            Self::patch(t, cell, &o);
            cell
        } else {
            let new = self.build(t, &o, starts, e)?;
            if cell & NODE != 0 {
                self.stale.push(cell & !NODE);
            }
            new
        };
        for child in deeper {
            Self::fill(t, child, &takes, leaf);
        }
        Ok(new)
    }

    /// As `put`, with the prefix taken out. Never fails.
    fn cut(&mut self, t: &Lpm6, cell: u32, base: u8, addr: u128, (len, cover): (u8, Leaf), e: &Epochs) -> u32 {
        if cell & NODE == 0 {
            return cell;
        }
        if len > base + 8
            && let (child, Some(run)) = Self::single(t, cell, slot(base, addr))
            && child & NODE != 0
        {
            let new = self.cut(t, child, base + 8, addr, (len, cover), e);
            if new != child {
                Self::patch_run(t, cell, run, new);
            }
            if new & NODE != 0 {
                return cell;
            }
            // A child is gone; perhaps this node is of no more use, either. There is nothing left to cut below.
            return self.tidy(t, cell, Open::of(t, cell), base, e);
        }
        let mut o = Open::of(t, cell);
        let takes = |l: Leaf| l.len() == len && l != Leaf::NONE;
        if len <= base + 8 {
            for b in range(base, addr, len) {
                let v = o.cells[b];
                if v & NODE != 0 {
                    Self::fill(t, v, &takes, cover);
                } else if takes(Leaf(v)) {
                    o.cells[b] = cover.0;
                }
            }
        } else {
            let s = slot(base, addr);
            o.cells[s] = self.cut(t, o.cells[s], base + 8, addr, (len, cover), e);
        }
        self.tidy(t, cell, o, base, e)
    }

    /// Write a node's changed cells: no node if they are all one, a smaller one if they fit, else in place. Never fails.
    fn tidy(&mut self, t: &Lpm6, cell: u32, o: Open, base: u8, e: &Epochs) -> u32 {
        let starts = o.borders(base);
        if starts == [1, 0, 0, 0] && o.cells[0] & NODE == 0 {
            self.stale.push(cell & !NODE);
            return o.cells[0];
        }
        if class(words(runs(&starts))) < class(words(runs(&o.starts)))
            && let Ok(smaller) = self.build(t, &o, starts, e)
        {
            self.stale.push(cell & !NODE);
            return smaller;
        }
        Self::patch(t, cell, &o);
        cell
    }

    fn settle(&mut self, t: &Lpm6, done: bool, epochs: &Epochs) {
        if done {
            self.fresh.clear();
            if !self.stale.is_empty() {
                let stamp = epochs.retire();
                while let Some(node) = self.stale.pop() {
                    self.retired[class_of(t, node)].push_back((stamp, node));
                }
            }
        } else {
            self.stale.clear();
            while let Some(node) = self.fresh.pop() {
                // Nobody ever saw it.
                self.retired[class_of(t, node)].push_front((0, node));
            }
        }
    }

    /// Set a prefix, there already or new. `false`: no room for its nodes, and nothing changed.
    pub(crate) fn set(&mut self, t: &Lpm6, vrf: u32, addr: u128, leaf: Leaf, epochs: &Epochs) -> bool {
        let len = leaf.len();
        if len == 0 {
            t.defaults.set(vrf as usize, leaf.0);
            return true;
        }
        let at = (vrf as usize) << ROOT | (addr >> 112) as usize;
        if len > ROOT {
            let put = self.put(t, t.roots.get(at), ROOT, addr, leaf, epochs);
            if let Ok(cell) = put {
                t.roots.set(at, cell);
            }
            self.settle(t, put.is_ok(), epochs);
            return put.is_ok();
        }
        let takes = |l: Leaf| l.len() <= len;
        for i in at..at + (1 << (ROOT - len)) {
            let v = t.roots.get(i);
            if v & NODE != 0 {
                Self::fill(t, v, &takes, leaf);
            } else if takes(Leaf(v)) {
                t.roots.set(i, leaf.0);
            }
        }
        true
    }

    /// Take out a prefix that is there; `cover` is the next shorter one's leaf.
    pub(crate) fn remove(&mut self, t: &Lpm6, vrf: u32, addr: u128, len: u8, cover: Leaf, epochs: &Epochs) {
        if len == 0 {
            return t.defaults.set(vrf as usize, 0);
        }
        let cover = if cover.len() == 0 { Leaf::NONE } else { cover };
        let at = (vrf as usize) << ROOT | (addr >> 112) as usize;
        if len > ROOT {
            let cell = self.cut(t, t.roots.get(at), ROOT, addr, (len, cover), epochs);
            t.roots.set(at, cell);
            return self.settle(t, true, epochs);
        }
        let takes = |l: Leaf| l.len() == len && l != Leaf::NONE;
        for i in at..at + (1 << (ROOT - len)) {
            let v = t.roots.get(i);
            if v & NODE != 0 {
                Self::fill(t, v, &takes, cover);
            } else if takes(Leaf(v)) {
                t.roots.set(i, cover.0);
            }
        }
    }
}
