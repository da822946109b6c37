//! Slots by prefix: an arena of chunks that never move, behind an index by hash. The mirror's routing tables and what the
//! chip acknowledged of a route table are such arenas.
//!
//! Built so that no single insert is slow: a chunk is allocated at a time, and the index grows in parts. Hashes have a fixed seed and walks go in order of the arena, so that a replay is exact. Knows nothing of what a slot
//! means.

use core::hash::{BuildHasher, Hasher};

use hal::{Addr, Family, Prefix};

use crate::index::Index;

/// A fast hasher with a fixed seed, for keys that nobody chooses to collide: iteration and replay are the same in every run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Fixed;

/// The state of [`Fixed`].
#[derive(Clone, Copy, Debug)]
pub struct FixedState(u64);

const K: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(K);
    let x = (x ^ (x >> 29)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

impl BuildHasher for Fixed {
    type Hasher = FixedState;
    #[inline]
    fn build_hasher(&self) -> FixedState {
        FixedState(K)
    }
}

impl Hasher for FixedState {
    #[inline]
    fn finish(&self) -> u64 {
        mix(self.0)
    }
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for c in bytes.chunks(8) {
            let mut b = [0; 8];
            b[..c.len()].copy_from_slice(c);
            self.write_u64(u64::from_le_bytes(b));
        }
    }
    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }
    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }
    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// Values in chunks that never move, by number.
#[derive(Clone, Debug)]
pub struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

const CHUNK: usize = 4096;

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Chunks<T> {
    /// The value of that number, if it was ever given out.
    #[inline]
    pub fn get(&self, i: u32) -> Option<&T> {
        self.chunks.get(i as usize / CHUNK)?.get(i as usize % CHUNK)
    }
    /// As [`Chunks::get`], to change.
    #[inline]
    pub fn get_mut(&mut self, i: u32) -> Option<&mut T> {
        self.chunks.get_mut(i as usize / CHUNK)?.get_mut(i as usize % CHUNK)
    }
    /// The value of that number, which was given out.
    #[inline]
    pub fn at(&self, i: u32) -> &T {
        &self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    /// The value of that number, to change.
    #[inline]
    pub fn at_mut(&mut self, i: u32) -> &mut T {
        &mut self.chunks[i as usize / CHUNK][i as usize % CHUNK]
    }
    /// One past the highest number that was ever given out.
    #[inline]
    pub fn end(&self) -> u32 {
        match self.chunks.last() {
            Some(last) => ((self.chunks.len() - 1) * CHUNK + last.len()) as u32,
            None => 0,
        }
    }
    /// Keep a value; its number.
    #[inline]
    pub fn put(&mut self, value: T) -> u32 {
        if let Some(i) = self.free.pop() {
            *self.at_mut(i) = value;
            return i;
        }
        let i = self.end();
        match self.chunks.last_mut() {
            Some(c) if c.len() < CHUNK => c.push(value),
            _ => {
                let mut c = Vec::with_capacity(CHUNK);
                c.push(value);
                self.chunks.push(c);
            }
        }
        i
    }
    /// The number may be given out again. The value stays until it is.
    #[inline]
    pub fn free(&mut self, i: u32) {
        self.free.push(i);
    }
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>() + self.free.capacity() * 4
    }
}

/// What an [`Arena`] holds.
pub trait Slot {
    /// Family of its key.
    type Family: Family;
    /// What it is found by. It does not change while the slot is in the arena.
    fn key(&self) -> Prefix<Self::Family>;
}

/// See the module.
#[derive(Debug)]
pub struct Arena<S> {
    slots: Chunks<S>,
    index: Index,
    len: usize,
}

#[inline]
fn hash<F: Family>(p: Prefix<F>) -> u64 {
    let n = p.addr().number();
    let len = u64::from(p.len()) << 56;
    if F::BITS <= 32 { mix(n as u64 ^ len) } else { mix(n as u64 ^ mix((n >> 64) as u64 ^ len)) }
}

impl<S> Default for Arena<S> {
    fn default() -> Self {
        Arena { slots: Chunks::default(), index: Index::default(), len: 0 }
    }
}

impl<S: Slot> Arena<S> {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The number of the slot of that key.
    #[inline]
    pub fn find(&self, key: Prefix<S::Family>) -> Option<u32> {
        self.index.find(hash(key), |i| self.slots.at(i).key() == key)
    }
    /// A glance at where that key would be found: before many are looked up, so that the processor waits for memory once.
    #[inline]
    pub fn glance(&self, key: Prefix<S::Family>) -> u32 {
        self.index.glance(hash(key))
    }
    /// The slot of that number, as [`Arena::find`] or [`Arena::entry`] gave it.
    #[inline]
    pub fn slot(&self, i: u32) -> &S {
        self.slots.at(i)
    }
    /// The slot of that number, to change.
    #[inline]
    pub fn slot_mut(&mut self, i: u32) -> &mut S {
        self.slots.at_mut(i)
    }
    /// The number of the slot of that key, made by `new` if there is none; and whether it was made.
    #[inline]
    pub fn entry(&mut self, key: Prefix<S::Family>, new: impl FnOnce() -> S) -> (u32, bool) {
        let h = hash(key);
        if let Some(i) = self.index.find(h, |i| self.slots.at(i).key() == key) {
            return (i, false);
        }
        let i = self.slots.put(new());
        let slots = &self.slots;
        self.index.insert(h, i, |i| hash(slots.at(i).key()));
        self.len += 1;
        (i, true)
    }
    /// Forget the slot of that number, which must be held. Its number may come again; until then the slot can still be
    /// reached by it.
    pub fn remove(&mut self, i: u32) {
        if self.index.remove(hash(self.slots.at(i).key()), i) {
            self.slots.free(i);
            self.len -= 1;
        }
    }
    /// Where a walk over the slots by number ends. Slots that were forgotten are among them.
    #[inline]
    pub fn end(&self) -> u32 {
        self.slots.end()
    }
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.index.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::V4;

    struct Number(Prefix<V4>, u32);
    impl Slot for Number {
        type Family = V4;
        fn key(&self) -> Prefix<V4> {
            self.0
        }
    }

    #[test]
    fn insert_find_remove() {
        let mut a = Arena::default();
        let p = |i: u32| Prefix::<V4>::new((i << 8).into(), 24);
        for i in 0..20_000 {
            assert_eq!(a.entry(p(i), || Number(p(i), i)), (i, true));
            assert_eq!(a.entry(p(i), || unreachable!()), (i, false));
        }
        for i in (0..20_000).step_by(2) {
            let at = a.find(p(i)).unwrap();
            a.remove(at);
        }
        assert_eq!((a.len(), a.end()), (10_000, 20_000));
        for i in 0..20_000 {
            assert_eq!(a.find(p(i)).map(|at| a.slot(at).1), (i % 2 == 1).then_some(i));
        }
        // Numbers that were given back are given out first.
        for i in 20_000..30_000 {
            assert!(a.entry(p(i), || Number(p(i), i)).0 < 20_000);
        }
        assert_eq!(a.end(), 20_000);
    }
}
