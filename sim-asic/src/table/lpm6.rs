//! IPv6 longest-prefix match: a flat root of 16 or 24 bits, then compressed nodes of 8 bits (in the manner of poptrie, Asai and Ohara 2015).
//!
//! A node is a bitmap of where runs of equal cells begin, counts for it, and one cell a run; most take one cache line. A cell
//! changes in place; what changes a node's runs builds a new node and swaps it in with one store in the node above. Between
//! cells of different prefixes there is always a border, so that a route that is there can be overwritten without room. Very
//! short prefixes stand apart (`short`).

use std::collections::VecDeque;

use smallvec::{SmallVec, smallvec};

use super::short::{self, Short};
use super::{Leaf, NODE};
use crate::sync::{Epochs, Words32, Words64};

/// Bits of every root but a large table's of VRF 0.
const ROOT: u8 = 16;
/// From this many routes on, VRF 0 has a root of 24 bits (64 MiB, touched where there are prefixes).
const LARGE: u32 = 32_768;
/// Cells of a node before compression.
const CELLS: usize = 256;
/// Words before the cells: four of bitmap, one with the runs before each of them.
const HEAD: usize = 5;
/// Words that are reserved for each of the first [`FEW`] routes: 14 nodes of 8 words hold the longest prefix alone.
const PER_ROUTE: usize = 14 * 8;
/// In a larger table prefixes share nodes, and not all are host routes; should they be, the table is full before its time.
const FEW: usize = 1 << 17;
const PER_FURTHER: usize = 32;
/// Sizes of a node in words: whole cache lines.
const SIZES: [usize; 10] = [8, 16, 24, 32, 40, 56, 72, 88, 112, 136];
const LARGEST: usize = SIZES[SIZES.len() - 1];

/// What readers see.
#[derive(Debug)]
pub(crate) struct Lpm6 {
    /// Roots of all VRFs.
    roots: Words32,
    /// VRF 0's root bits.
    bits: u8,
    slab: Words64,
    vrfs: u32,
    short: Short,
}

#[inline(always)]
fn cell_at(slab: &Words64, node: usize, run: usize) -> u32 {
    (slab.get(node + HEAD + run / 2) >> (32 * (run & 1))) as u32
}

/// The bits that short prefixes are found by.
#[inline(always)]
fn first(addr: u128) -> u8 {
    (addr >> 120) as u8
}

#[inline(always)]
fn bits_upto(b: usize) -> u64 {
    u64::MAX >> (63 - (b & 63))
}

impl Lpm6 {
    pub(crate) fn new(routes: u32, vrfs: u32) -> Self {
        let bits = if routes >= LARGE { 24 } else { ROOT };
        let routes = routes as usize;
        let words = routes.min(FEW) * PER_ROUTE + routes.saturating_sub(FEW) * PER_FURTHER;
        Lpm6 {
            roots: Words32::new((1 << bits) + ((vrfs.max(1) as usize - 1) << ROOT)),
            bits,
            slab: Words64::new((words + 5 * LARGEST).min(NODE as usize)),
            vrfs,
            short: Short::new(vrfs),
        }
    }
    /// First cell of a VRF's root, and how many bits it takes.
    #[inline(always)]
    fn root(&self, vrf: u32) -> (usize, u8) {
        if vrf == 0 { (0, self.bits) } else { ((1 << self.bits) + ((vrf as usize - 1) << ROOT), ROOT) }
    }
    #[inline(always)]
    fn run(&self, node: usize, b: usize) -> usize {
        let bitmap = self.slab.get(node + b / 64);
        let before = self.slab.get(node + 4) >> (16 * (b / 64)) & 0xffff;
        (before as usize + (bitmap & bits_upto(b)).count_ones() as usize).wrapping_sub(1)
    }
    /// Where a lookup starts: the root's cell, which is fetched while other things go on.
    #[inline(always)]
    pub(crate) fn start(&self, vrf: u32, addr: u128) -> u32 {
        if vrf >= self.vrfs {
            return u32::MAX;
        }
        let (base, bits) = self.root(vrf);
        let at = base + (addr >> (128 - bits)) as usize;
        self.roots.prefetch(at);
        at as u32
    }
    /// First step: the root's cell, and the rest of the address, at the top.
    #[inline(always)]
    pub(crate) fn root_cell(&self, vrf: u32, addr: u128, start: u32) -> (u32, u128) {
        (self.fetched(self.roots.get(start as usize)), addr << self.root(vrf).1)
    }
    /// A cell, whose node's first cache line, if it leads to one, is fetched while other things go on.
    #[inline(always)]
    fn fetched(&self, cell: u32) -> u32 {
        self.slab.prefetch((cell & !NODE) as usize);
        cell
    }
    /// One step down, by the first 8 bits of the rest: the next cell, and what is left then.
    #[inline(always)]
    pub(crate) fn step(&self, cell: u32, rest: u128) -> (u32, u128) {
        let node = (cell & !NODE) as usize;
        (self.fetched(cell_at(&self.slab, node, self.run(node, (rest >> 120) as usize))), rest << 8)
    }
    /// What the last cell of a lookup means.
    #[inline(always)]
    pub(crate) fn end(&self, vrf: u32, addr: impl FnOnce() -> u128, cell: u32) -> Leaf {
        // A node here would be one below the address's last bit: there is none.
        if cell == 0 || cell & NODE != 0 { self.short.get(vrf, first(addr())) } else { Leaf(cell) }
    }
    pub(crate) fn lookup(&self, vrf: u32, addr: u128) -> Leaf {
        let (mut cell, mut rest) = self.root_cell(vrf, addr, self.start(vrf, addr));
        for _ in 0..STEPS {
            if cell & NODE == 0 {
                break;
            }
            (cell, rest) = self.step(cell, rest);
        }
        self.end(vrf, || addr, cell)
    }
}

/// Most nodes on the way to a leaf.
pub(crate) const STEPS: usize = (128 - ROOT as usize) / 8;

/// No room in the slab.
#[derive(Debug)]
pub(crate) struct Full;

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Writer6 {
    /// Where the slab was never used; `None`: nowhere yet.
    next: Option<usize>,
    retired: [VecDeque<(u64, u32)>; SIZES.len()],
    /// Of the change at hand: nodes that nothing leads to yet, and nodes that nothing will lead to.
    fresh: Vec<u32>,
    stale: Vec<u32>,
}

/// A node's runs, to be changed: where each begins, and its cell.
struct Open {
    runs: SmallVec<[(u8, u32); 64]>,
    /// Where runs begin in the slab.
    starts: [u64; 4],
}

impl Open {
    fn of(t: &Lpm6, cell: u32) -> Open {
        if cell & NODE == 0 {
            return Open { runs: smallvec![(0, cell)], starts: [1, 0, 0, 0] };
        }
        let node = (cell & !NODE) as usize;
        let mut o = Open { runs: SmallVec::new(), starts: [0; 4] };
        for (i, s) in o.starts.iter_mut().enumerate() {
            *s = t.slab.get(node + i);
            for b in ones(*s) {
                o.runs.push(((i * 64 + b) as u8, cell_at(&t.slab, node, o.runs.len())));
            }
        }
        o
    }
    /// The run that begins at `b`, made if there is none; behind the last cell: the end of all runs.
    fn split(&mut self, b: usize) -> usize {
        if b >= CELLS {
            return self.runs.len();
        }
        let i = self.runs.partition_point(|r| usize::from(r.0) < b);
        if self.runs.get(i).is_none_or(|r| usize::from(r.0) != b) {
            // A run begins at 0, so there is one before.
            let cell = i.checked_sub(1).and_then(|i| self.runs.get(i)).map_or(0, |r| r.1);
            self.runs.insert(i, (b as u8, cell));
        }
        i
    }
    /// Join runs that need no border in a node that starts at bit `base`.
    fn join(&mut self, base: u8) {
        self.runs.dedup_by(|(b, v), (_, before)| {
            let len = Leaf(*v).len();
            v == before && (*v & NODE != 0 || len <= base || u32::from(*b) % (1 << (base + 8 - len)) != 0)
        });
    }
    /// Where runs are to begin.
    fn borders(&self) -> [u64; 4] {
        let mut s = [0; 4];
        for (b, _) in &self.runs {
            s[usize::from(b / 64)] |= 1 << (b % 64);
        }
        s
    }
}

/// The places of the ones in a word.
fn ones(mut w: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let b = w.trailing_zeros() as usize;
        (w != 0).then(|| {
            w &= w - 1;
            b
        })
    })
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

/// The runs of a node in the slab.
fn runs_of(t: &Lpm6, node: usize) -> usize {
    (0..4).map(|i| t.slab.get(node + i).count_ones() as usize).sum()
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
        Writer6 { next: None, retired: Default::default(), fresh: Vec::new(), stale: Vec::new() }
    }

    fn alloc(&mut self, t: &Lpm6, class: usize, epochs: &Epochs) -> Option<u32> {
        let size = SIZES[class];
        let next = self.next.unwrap_or_else(|| t.slab.first_line());
        let last = next + size > t.slab.size();
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
        let node = next as u32;
        self.next = Some(next + size);
        self.fresh.push(node);
        Some(node)
    }

    /// Write a node whole, where nothing leads to it yet.
    fn build(&mut self, t: &Lpm6, o: &Open, starts: [u64; 4], epochs: &Epochs) -> Result<u32, Full> {
        let node = self.alloc(t, class(words(o.runs.len())), epochs).ok_or(Full)?;
        let at = node as usize;
        let (mut before, mut counts) = (0u64, 0u64);
        for (i, s) in starts.iter().enumerate() {
            t.slab.set(at + i, *s);
            counts |= before << (16 * i);
            before += u64::from(s.count_ones());
        }
        t.slab.set(at + 4, counts);
        for (i, pair) in o.runs.chunks(2).enumerate() {
            let cell = |k: usize| pair.get(k).map_or(0, |r| u64::from(r.1));
            t.slab.set(at + HEAD + i, cell(0) | cell(1) << 32);
        }
        Ok(NODE | node)
    }

    /// Change cells in place; `o`'s runs begin nowhere but where the node's do.
    fn patch(t: &Lpm6, cell: u32, o: &Open) {
        let node = (cell & !NODE) as usize;
        let (mut run, mut at) = (0, 0);
        for (i, s) in o.starts.iter().enumerate() {
            for b in ones(*s) {
                while o.runs.get(at + 1).is_some_and(|r| usize::from(r.0) <= i * 64 + b) {
                    at += 1;
                }
                if let Some((_, v)) = o.runs.get(at)
                    && cell_at(&t.slab, node, run) != *v
                {
                    Self::patch_run(t, cell, run, *v);
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
        let node = (cell & !NODE) as usize;
        for run in 0..runs_of(t, node) {
            let v = cell_at(&t.slab, node, run);
            if v & NODE != 0 {
                Self::fill(t, v, takes, leaf);
            } else if takes(Leaf(v)) {
                Self::patch_run(t, cell, run, leaf.0);
            }
        }
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
        let mut deeper = SmallVec::<[u32; 16]>::new();
        if len <= base + 8 {
            let cells = range(base, addr, len);
            let (first, end) = (o.split(cells.start), o.split(cells.end));
            for (_, v) in o.runs.iter_mut().take(end).skip(first) {
                if *v & NODE != 0 {
                    deeper.push(*v);
                } else if takes(Leaf(*v)) {
                    *v = leaf.0;
                }
            }
        } else {
            let s = slot(base, addr);
            let (first, _) = (o.split(s), o.split(s + 1));
            let was = o.runs.get(first).map_or(0, |r| r.1);
            let child = self.put(t, was, base + 8, addr, leaf, e)?;
            if child == was {
                return Ok(cell);
            }
            o.runs.iter_mut().skip(first).take(1).for_each(|r| r.1 = child);
        }
        o.join(base);
        let starts = o.borders();
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
            let cells = range(base, addr, len);
            let (first, end) = (o.split(cells.start), o.split(cells.end));
            for (_, v) in o.runs.iter_mut().take(end).skip(first) {
                if *v & NODE != 0 {
                    Self::fill(t, *v, &takes, cover);
                } else if takes(Leaf(*v)) {
                    *v = cover.0;
                }
            }
        } else {
            let s = slot(base, addr);
            let (first, _) = (o.split(s), o.split(s + 1));
            for (_, v) in o.runs.iter_mut().skip(first).take(1) {
                *v = self.cut(t, *v, base + 8, addr, (len, cover), e);
            }
        }
        self.tidy(t, cell, o, base, e)
    }

    /// Write a node's changed cells: no node if they are all one, a smaller one if they fit, else in place. Never fails.
    fn tidy(&mut self, t: &Lpm6, cell: u32, mut o: Open, base: u8, e: &Epochs) -> u32 {
        o.join(base);
        if let [(_, only)] = o.runs[..]
            && only & NODE == 0
        {
            self.stale.push(cell & !NODE);
            return only;
        }
        let starts = o.borders();
        if class(words(o.runs.len())) < class(words(runs(&o.starts)))
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
                    self.retired[class(words(runs_of(t, node as usize)))].push_back((stamp, node));
                }
            }
        } else {
            self.stale.clear();
            while let Some(node) = self.fresh.pop() {
                // Nobody ever saw it.
                self.retired[class(words(runs_of(t, node as usize)))].push_front((0, node));
            }
        }
    }

    /// Set a prefix, there already or new. `false`: no room for its nodes, and nothing changed.
    pub(crate) fn set(&mut self, t: &Lpm6, vrf: u32, addr: u128, leaf: Leaf, epochs: &Epochs) -> bool {
        let len = leaf.len();
        if len <= short::BITS {
            t.short.set(vrf, first(addr), leaf);
            return true;
        }
        let (base, root) = t.root(vrf);
        let at = base + (addr >> (128 - root)) as usize;
        if len > root {
            let put = self.put(t, t.roots.get(at), root, addr, leaf, epochs);
            if let Ok(cell) = put {
                t.roots.set(at, cell);
            }
            self.settle(t, put.is_ok(), epochs);
            return put.is_ok();
        }
        let takes = |l: Leaf| l.len() <= len;
        for i in at..at + (1 << (root - len)) {
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
        if len <= short::BITS {
            return t.short.remove(vrf, first(addr), len, cover);
        }
        // What stands apart has no cells here.
        let cover = if cover.len() <= short::BITS { Leaf::NONE } else { cover };
        let (base, root) = t.root(vrf);
        let at = base + (addr >> (128 - root)) as usize;
        if len > root {
            let cell = self.cut(t, t.roots.get(at), root, addr, (len, cover), epochs);
            t.roots.set(at, cell);
            return self.settle(t, true, epochs);
        }
        let takes = |l: Leaf| l.len() == len && l != Leaf::NONE;
        for i in at..at + (1 << (root - len)) {
            let v = t.roots.get(i);
            if v & NODE != 0 {
                Self::fill(t, v, &takes, cover);
            } else if takes(Leaf(v)) {
                t.roots.set(i, cover.0);
            }
        }
    }
}
