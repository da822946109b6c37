//! One routing table: prefixes in an arena of chunks, found by 256 hash shards, so that no insert ever waits for a large
//! structure to grow. Knows nothing of what aliases mean.

use std::hash::{Hash, Hasher};

use hal::{Family, Prefix};
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::sets::Mix;
use super::types::{Alias, NhRef, RouteFlags};

/// Aliases of a prefix, in the order in which the kernel searches them.
pub type Aliases = SmallVec<[Alias; 2]>;

/// Bits of [`Slot::state`].
pub(super) mod state {
    /// Holds a prefix.
    pub const USED: u8 = 1;
    /// `first` is an alias.
    pub const FULL: u8 = 2;
    /// There are more aliases aside.
    pub const MORE: u8 = 4;
    /// In the dirty list.
    pub const DIRTY: u8 = 8;
    /// The mirror can't tell what the kernel has here.
    pub const UNDECIDED: u8 = 16;
    /// A notification came in this generation.
    pub const TOUCHED: u8 = 32;
    /// A dump named it in this generation.
    pub const SEEN: u8 = 64;
    /// Aliases went by a purge, or by a replacement that may have been in a dump already: positions are doubtful to older
    /// messages.
    pub const PARTIAL: u8 = 128;
}
use state::{DIRTY, FULL, MORE, UNDECIDED, USED};

#[derive(Clone)]
pub(super) struct Slot<F: Family> {
    pub key: Prefix<F>,
    pub first: Alias,
    /// Generation in which it was last dumped or touched.
    pub generation: u32,
    pub state: u8,
}

const CHUNK: usize = 4096;
const SHARDS: usize = 256;

pub(super) struct Table<F: Family> {
    chunks: Vec<Vec<Slot<F>>>,
    free: Vec<u32>,
    index: Vec<HashTable<u32>>,
    /// Prefixes of each length.
    lens: [u32; 129],
    more: HashMap<u32, Aliases, std::hash::BuildHasherDefault<Mix>>,
    pub dirty: Vec<u32>,
    pub count: usize,
}

impl<F: Family> Default for Table<F> {
    fn default() -> Self {
        let index = (0..SHARDS).map(|_| HashTable::new()).collect();
        Table {
            chunks: Vec::new(),
            free: Vec::new(),
            index,
            lens: [0; 129],
            more: HashMap::default(),
            dirty: Vec::new(),
            count: 0,
        }
    }
}

fn hash<F: Family>(p: Prefix<F>) -> u64 {
    let mut h = Mix::default();
    p.hash(&mut h);
    h.finish()
}

fn shard(h: u64) -> usize {
    // Neither the bits that pick a bucket (lowest) nor those that tag it (highest).
    (h >> 40) as usize % SHARDS
}

pub(super) const VOID: Alias =
    Alias { nh: NhRef(u32::MAX), metric: 0, kind: 0, tos: 0, proto: 0, scope: 0, flags: RouteFlags(0), rest: 0 };

impl<F: Family> Table<F> {
    #[inline]
    pub fn slot(&self, i: u32) -> &Slot<F> {
        &self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    #[inline]
    pub fn slot_mut(&mut self, i: u32) -> &mut Slot<F> {
        &mut self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    /// Slots in use or once used: where a walk ends.
    pub fn end(&self) -> u32 {
        match self.chunks.last() {
            Some(last) => ((self.chunks.len() - 1) * CHUNK + last.len()) as u32,
            None => 0,
        }
    }
    pub fn find(&self, p: Prefix<F>) -> Option<u32> {
        if self.lens[usize::from(p.len())] == 0 {
            return None;
        }
        let h = hash(p);
        self.index[shard(h)].find(h, |&i| self.slot(i).key == p).copied()
    }
    /// The slot of `p`, made if missing.
    pub fn entry(&mut self, p: Prefix<F>) -> u32 {
        let h = hash(p);
        let chunks = &self.chunks;
        let at = |i: u32| &chunks[i as usize / CHUNK][i as usize % CHUNK];
        if let Some(&i) = self.index[shard(h)].find(h, |&i| at(i).key == p) {
            return i;
        }
        let s = Slot { key: p, first: VOID, generation: 0, state: USED };
        let i = match self.free.pop() {
            Some(i) => {
                *self.slot_mut(i) = s;
                i
            }
            None => {
                let i = self.end();
                if self.chunks.last().is_none_or(|c| c.len() == CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                if let Some(c) = self.chunks.last_mut() {
                    c.push(s);
                }
                i
            }
        };
        let chunks = &self.chunks;
        self.index[shard(h)].insert_unique(h, i, |&j| hash(chunks[j as usize / CHUNK][j as usize % CHUNK].key));
        self.lens[usize::from(p.len())] += 1;
        self.count += 1;
        i
    }
    /// Forget an empty slot that nobody waits for.
    pub fn vacuum(&mut self, i: u32) {
        let s = self.slot(i);
        if s.state & USED == 0 || s.state & (FULL | DIRTY | UNDECIDED) != 0 {
            return;
        }
        let p = s.key;
        let h = hash(p);
        if let Ok(o) = self.index[shard(h)].find_entry(h, |&j| j == i) {
            o.remove();
        }
        self.slot_mut(i).state = 0;
        self.lens[usize::from(p.len())] -= 1;
        self.count -= 1;
        self.free.push(i);
    }
    pub fn aliases(&self, i: u32) -> Aliases {
        let s = self.slot(i);
        if s.state & FULL == 0 {
            return Aliases::new();
        }
        let mut out = SmallVec::from_buf_and_len([s.first, VOID], 1);
        if s.state & MORE != 0
            && let Some(more) = self.more.get(&i)
        {
            out.extend_from_slice(more);
        }
        out
    }
    pub fn store(&mut self, i: u32, list: &[Alias]) {
        let had = self.slot(i).state & MORE != 0;
        let s = self.slot_mut(i);
        s.state &= !(FULL | MORE);
        s.first = VOID;
        if let Some((first, more)) = list.split_first() {
            s.first = *first;
            s.state |= FULL;
            if !more.is_empty() {
                s.state |= MORE;
                self.more.insert(i, more.into());
                return;
            }
        }
        if had {
            self.more.remove(&i);
        }
    }
    pub fn mark(&mut self, i: u32) {
        let s = self.slot_mut(i);
        if s.state & DIRTY == 0 {
            s.state |= DIRTY;
            self.dirty.push(i);
        }
    }
    /// Lengths of prefixes present, up to `max`, short to long.
    pub fn lens(&self, max: u8) -> impl Iterator<Item = u8> + '_ {
        (0..=max).filter(|l| self.lens[usize::from(*l)] != 0)
    }
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Slot<F>>()
            + self.index.iter().map(|t| t.allocation_size()).sum::<usize>()
            + self.more.capacity() * (size_of::<Aliases>() + 5)
            + self.dirty.capacity() * 4
    }
}
