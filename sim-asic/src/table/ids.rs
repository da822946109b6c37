//! Writer's side of objects that others refer to: contract key → index, entry, number of references.
//!
//! A removed object that something still refers to keeps its index, so that setting it again revives the references. An
//! index that nothing needs is used again once no reader can see it.

use core::hash::Hash;
use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::sync::Epochs;

/// Hands out indices, oldest retired first.
#[derive(Debug)]
pub(crate) struct Recycler {
    next: u32,
    limit: u32,
    retired: VecDeque<(u64, u32)>,
}

impl Recycler {
    pub(crate) fn new(limit: u32) -> Self {
        Recycler { next: 0, limit, retired: VecDeque::new() }
    }
    /// How many can be taken.
    pub(crate) fn room(&self) -> u32 {
        self.limit - self.next + self.retired.len() as u32
    }
    pub(crate) fn take(&mut self, epochs: &Epochs) -> Option<u32> {
        if let Some(&(stamp, index)) = self.retired.front() {
            let last = self.next == self.limit;
            if last {
                epochs.wait(stamp);
            }
            if last || epochs.passed(stamp) {
                self.retired.pop_front();
                return Some(index);
            }
        }
        let index = self.next;
        (index < self.limit).then(|| {
            self.next += 1;
            index
        })
    }
    /// Give back an index that the tables no longer lead to.
    pub(crate) fn retire(&mut self, index: u32, epochs: &Epochs) {
        self.retired.push_back((epochs.retire(), index));
    }
}

#[derive(Debug)]
struct Slot<K, E> {
    key: K,
    entry: Option<E>,
    refs: u32,
}

#[derive(Debug)]
pub(crate) struct Ids<K, E> {
    index: HashMap<K, u32>,
    slots: Vec<Option<Slot<K, E>>>,
    recycler: Recycler,
    used: u32,
    capacity: u32,
}

impl<K: Copy + Eq + Hash, E> Ids<K, E> {
    /// At most `capacity` entries under at most `indices` indices.
    pub(crate) fn new(capacity: u32, indices: u32) -> Self {
        Ids { index: HashMap::new(), slots: Vec::new(), recycler: Recycler::new(indices), used: 0, capacity }
    }
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
    /// The index of an entry that is there.
    pub(crate) fn present(&self, key: &K) -> Option<u32> {
        let i = *self.index.get(key)?;
        self.entry(i).is_some().then_some(i)
    }
    /// The index of a key that is there or referred to.
    pub(crate) fn known(&self, key: &K) -> Option<u32> {
        self.index.get(key).copied()
    }
    fn slot(&self, i: u32) -> Option<&Slot<K, E>> {
        self.slots.get(i as usize)?.as_ref()
    }
    fn slot_mut(&mut self, i: u32) -> Option<&mut Slot<K, E>> {
        self.slots.get_mut(i as usize)?.as_mut()
    }
    pub(crate) fn entry(&self, i: u32) -> Option<&E> {
        self.slot(i)?.entry.as_ref()
    }
    /// The key behind an index, present or not.
    pub(crate) fn key(&self, i: u32) -> Option<K> {
        Some(self.slot(i)?.key)
    }
    /// Whether an entry under this key finds room.
    pub(crate) fn has_room(&self, key: &K) -> bool {
        self.present(key).is_some()
            || self.used < self.capacity && (self.index.contains_key(key) || self.recycler.room() > 0)
    }
    /// The key's index, made if there is none; `true` if it was made.
    pub(crate) fn index(&mut self, key: K, epochs: &Epochs) -> Option<(u32, bool)> {
        if let Some(&i) = self.index.get(&key) {
            return Some((i, false));
        }
        let i = self.recycler.take(epochs)?;
        self.index.insert(key, i);
        if self.slots.len() <= i as usize {
            self.slots.resize_with(i as usize + 1, || None);
        }
        if let Some(s) = self.slots.get_mut(i as usize) {
            *s = Some(Slot { key, entry: None, refs: 0 });
        }
        Some((i, true))
    }
    /// Set or clear the entry of an index, and get the old one.
    pub(crate) fn put(&mut self, i: u32, entry: Option<E>) -> Option<E> {
        let is = entry.is_some();
        let slot = self.slot_mut(i)?;
        let was = core::mem::replace(&mut slot.entry, entry);
        self.used = self.used + u32::from(is) - u32::from(was.is_some());
        was
    }
    pub(crate) fn hold(&mut self, i: u32) {
        if let Some(s) = self.slot_mut(i) {
            s.refs += 1;
        }
    }
    pub(crate) fn release(&mut self, i: u32) {
        if let Some(s) = self.slot_mut(i) {
            s.refs -= 1;
        }
    }
    /// Whether neither an entry nor a reference needs the index.
    pub(crate) fn idle(&self, i: u32) -> bool {
        self.slot(i).is_some_and(|s| s.entry.is_none() && s.refs == 0)
    }
    /// Give the index back; the tables must no longer lead to it.
    pub(crate) fn free(&mut self, i: u32, epochs: &Epochs) {
        if let Some(slot) = self.slots.get_mut(i as usize).and_then(Option::take) {
            self.index.remove(&slot.key);
            self.recycler.retire(i, epochs);
        }
    }
    /// Entries from index `cursor` on.
    pub(crate) fn page(&self, cursor: u64, max: usize, mut f: impl FnMut(K, u32, &E)) -> Option<u64> {
        let mut n = 0;
        for (i, s) in self.slots.iter().enumerate().skip(usize::try_from(cursor).ok()?) {
            if let Some(Slot { key, entry: Some(e), .. }) = s {
                if n == max {
                    return Some(i as u64);
                }
                f(*key, i as u32, e);
                n += 1;
            }
        }
        None
    }
    /// Go over the entries of at most `max` slots from `cursor` on, until `f` says that it has enough.
    pub(crate) fn scan(&self, cursor: u64, max: usize, mut f: impl FnMut(K, u32) -> bool) -> Option<u64> {
        let first = usize::try_from(cursor).ok()?;
        for (i, s) in self.slots.iter().enumerate().skip(first).take(max) {
            if let Some(Slot { key, entry: Some(_), .. }) = s
                && !f(*key, i as u32)
            {
                return Some(i as u64 + 1);
            }
        }
        let next = first.saturating_add(max);
        (next < self.slots.len()).then_some(next as u64)
    }
}
