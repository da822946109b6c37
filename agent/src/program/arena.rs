//! What the chip acknowledged of a route table: an arena of small slots behind a sharded hash index.
//!
//! Built so that no single insert is slow: slots come in chunks that never move, and each of the 256 index shards grows
//! alone. Order of iteration is that of the arena. Knows nothing of what should be there.

use core::hash::{BuildHasher, Hasher};

use hal::{Addr, DropReason, Family, Fwd, GroupId, Prefix, RifId, TrapClass};
use hashbrown::HashTable;

/// A fast hasher with a fixed seed: iteration and collisions are the same in every run, which replay needs.
#[derive(Clone, Copy, Default, Debug)]
pub struct Fixed;

/// The state of [`Fixed`].
#[derive(Clone, Copy, Debug)]
pub struct FixedState(u64);

const K: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(K);
    let x = (x ^ (x >> 29)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

impl BuildHasher for Fixed {
    type Hasher = FixedState;
    fn build_hasher(&self) -> FixedState {
        FixedState(K)
    }
}

impl Hasher for FixedState {
    fn finish(&self) -> u64 {
        mix(self.0)
    }
    fn write(&mut self, bytes: &[u8]) {
        for c in bytes.chunks(8) {
            let mut b = [0; 8];
            b[..c.len()].copy_from_slice(c);
            self.write_u64(u64::from_le_bytes(b));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ n);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// A [`Fwd`] in five bytes, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packed {
    value: u32,
    tag: u8,
}

impl Packed {
    /// Nothing programmed.
    pub const NONE: Packed = Packed { value: 0, tag: 0 };
    pub(super) const fn raw(tag: u8, value: u32) -> Packed {
        Packed { value, tag }
    }
    /// As the contract has it; `None` for nothing.
    pub fn fwd(self) -> Option<Fwd> {
        let v = self.value;
        match self.tag {
            1 => Some(Fwd::Group(GroupId(v))),
            2 => Some(Fwd::Connected(RifId(v))),
            3 => TrapClass::ALL.get(v as usize).map(|c| Fwd::Trap(*c)),
            4 => DropReason::ALL.get(v as usize).map(|r| Fwd::Drop(*r)),
            _ => None,
        }
    }
    /// Whether it says anything but nothing.
    pub fn is_some(self) -> bool {
        self.tag != 0
    }
    /// Whether it hands the packet to the kernel.
    pub fn is_trap(self) -> bool {
        self.tag == 3
    }
    /// The group that it refers to.
    pub fn group(self) -> Option<GroupId> {
        (self.tag == 1).then_some(GroupId(self.value))
    }
}

impl From<Fwd> for Packed {
    fn from(f: Fwd) -> Packed {
        let (tag, value) = match f {
            Fwd::Group(g) => (1, g.0),
            Fwd::Connected(r) => (2, r.0),
            Fwd::Trap(c) => (3, c as u32),
            Fwd::Drop(r) => (4, r as u32),
        };
        Packed { value, tag }
    }
}

impl From<Option<Fwd>> for Packed {
    fn from(f: Option<Fwd>) -> Packed {
        f.map_or(Packed::NONE, Packed::from)
    }
}

/// One route as the chip has it.
#[derive(Clone, Copy, Debug)]
pub struct Slot<F: Family> {
    /// Which.
    pub key: Prefix<F>,
    /// What the chip acknowledged last.
    pub acked: Packed,
    /// An operation on it is under way.
    pub busy: bool,
    /// That operation is a remove.
    pub leaving: bool,
    /// It is to be looked at again when that operation is answered.
    pub again: bool,
    live: bool,
}

const CHUNK: usize = 4096;
const SHARDS: usize = 256;

/// The arena.
#[derive(Debug)]
pub struct Arena<F: Family> {
    chunks: Vec<Vec<Slot<F>>>,
    free: Vec<u32>,
    index: Vec<HashTable<u32>>,
    len: usize,
}

fn hash<F: Family>(p: Prefix<F>) -> u64 {
    let n = p.addr().number();
    mix((n as u64) ^ mix((n >> 64) as u64 ^ (u64::from(p.len()) << 48)))
}

fn shard(h: u64) -> usize {
    // Neither the low bits, which choose the bucket, nor the top seven, which tag it.
    (h >> 40) as usize % SHARDS
}

impl<F: Family> Default for Arena<F> {
    fn default() -> Self {
        Arena { chunks: Vec::new(), free: Vec::new(), index: (0..SHARDS).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

impl<F: Family> Arena<F> {
    fn at(&self, i: u32) -> &Slot<F> {
        &self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    /// How many are held.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The number of the slot of that key.
    pub fn find(&self, key: Prefix<F>) -> Option<u32> {
        let h = hash(key);
        self.index[shard(h)].find(h, |i| self.at(*i).key == key).copied()
    }
    /// The slot of that key.
    pub fn get(&self, key: Prefix<F>) -> Option<&Slot<F>> {
        self.find(key).map(|i| self.at(i))
    }
    /// The slot of that number, as [`Arena::find`] gave it.
    pub fn slot(&mut self, i: u32) -> &mut Slot<F> {
        &mut self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    /// The slot of that key, made empty if it is new.
    pub fn entry(&mut self, key: Prefix<F>) -> u32 {
        if let Some(i) = self.find(key) {
            return i;
        }
        let new = Slot { key, acked: Packed::NONE, busy: false, leaving: false, again: false, live: true };
        let i = match self.free.pop() {
            Some(i) => {
                *self.slot(i) = new;
                i
            }
            None => {
                if self.chunks.last().is_none_or(|c| c.len() == CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                let c = self.chunks.len() - 1;
                self.chunks[c].push(new);
                (c * CHUNK + self.chunks[c].len() - 1) as u32
            }
        };
        let h = hash(key);
        let chunks = &self.chunks;
        self.index[shard(h)].insert_unique(h, i, |i| hash(chunks[*i as usize / CHUNK][*i as usize % CHUNK].key));
        self.len += 1;
        i
    }
    /// Forget the slot of that key.
    pub fn remove(&mut self, key: Prefix<F>) {
        let h = hash(key);
        let chunks = &self.chunks;
        let same = |i: &u32| chunks[*i as usize / CHUNK][*i as usize % CHUNK].key == key;
        if let Ok(e) = self.index[shard(h)].find_entry(h, same) {
            let (i, _) = e.remove();
            self.slot(i).live = false;
            self.free.push(i);
            self.len -= 1;
        }
    }
    /// The slots from place `from` on, at most `max` places, and where to go on; `None` at the end.
    pub fn walk(&self, from: usize, max: usize) -> (impl Iterator<Item = &Slot<F>>, Option<usize>) {
        let end = self.chunks.last().map_or(0, |c| (self.chunks.len() - 1) * CHUNK + c.len());
        let to = end.min(from.saturating_add(max));
        let it = (from..to).map(|i| self.at(i as u32)).filter(|s| s.live);
        (it, (to < end).then_some(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::V4;

    #[test]
    fn insert_find_remove_walk() {
        let mut a = Arena::<V4>::default();
        let p = |i: u32| Prefix::<V4>::new((i << 8).into(), 24);
        for i in 0..20_000 {
            let s = a.entry(p(i));
            a.slot(s).acked = Fwd::Group(GroupId(i)).into();
        }
        for i in (0..20_000).step_by(2) {
            a.remove(p(i));
        }
        assert_eq!(a.len(), 10_000);
        for i in 0..20_000 {
            let want = (i % 2 == 1).then_some(Fwd::Group(GroupId(i)));
            assert_eq!(a.get(p(i)).and_then(|s| s.acked.fwd()), want);
        }
        let (mut n, mut at) = (0, Some(0));
        while let Some(from) = at {
            let (it, next) = a.walk(from, 999);
            n += it.count();
            at = next;
        }
        assert_eq!(n, 10_000);
        assert!(core::mem::size_of::<Slot<V4>>() <= 20);
    }

    #[test]
    fn every_verdict_survives_packing() {
        let mut all = vec![Fwd::Group(GroupId(u32::MAX)), Fwd::Connected(RifId(7))];
        all.extend(TrapClass::ALL.map(Fwd::Trap));
        all.extend(DropReason::ALL.map(Fwd::Drop));
        for f in all {
            assert_eq!(Packed::from(f).fwd(), Some(f));
        }
        assert_eq!(Packed::NONE.fwd(), None);
    }
}
