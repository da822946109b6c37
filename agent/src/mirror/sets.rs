//! Interned next-hop sets with their users, by device, and what happens to them when a device goes.
//!
//! A device's fall is one write per set and not per route: sets are changed in place; routes of a set that died are
//! swept afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::types::{Hop, NhRef, NhSet};
use crate::netlink::AF_INET;

/// What became of a device, as far as next hops on it are concerned, in one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Back in use: members on it live again.
    Live,
    /// Admin-down: members die, but for routes of host scope (IPv4's to-us routes).
    Down,
    /// Lost its last IPv4 address, or changed its VRF; IPv6 down: members die.
    Forced,
    /// Removed: an IPv4 route with a member on it dies whole, an IPv6 one loses the member.
    Gone,
}

struct Entry {
    set: NhSet,
    family: u8,
    /// Of routes of host scope: these survive admin-down.
    host: bool,
    dead: bool,
    used: bool,
    users: u32,
}

/// FNV-like mixing with a fixed seed: iteration and replay are the same on every run.
#[derive(Default)]
pub(super) struct Mix(u64);
impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let h = self.0 ^ (self.0 >> 32);
        let h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^ (h >> 29)
    }
    fn write(&mut self, b: &[u8]) {
        for c in b.chunks(8) {
            let mut w = [0; 8];
            w[..c.len()].copy_from_slice(c);
            self.write_u64(u64::from_le_bytes(w));
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
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

fn hash(family: u8, host: bool, set: &NhSet) -> u64 {
    let mut h = Mix::default();
    (family, host, set).hash(&mut h);
    h.finish()
}

/// See the module.
#[derive(Default)]
pub(super) struct Sets {
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<u32>,
    by_dev: BTreeMap<u32, BTreeSet<u32>>,
    by_object: BTreeMap<u32, BTreeSet<u32>>,
    /// Changed, or without users, since last drained.
    pub dirty: BTreeSet<NhRef>,
}

static NONE: LazyLock<NhSet> = LazyLock::new(|| NhSet::Inline(SmallVec::new()));

impl Sets {
    /// The set with that content, made if missing. It has no user by that.
    pub fn intern(&mut self, family: u8, host: bool, set: NhSet) -> NhRef {
        let h = hash(family, host, &set);
        let entries = &self.entries;
        let found = self.index.find(h, |&i| {
            let e = &entries[i as usize];
            e.family == family && e.host == host && e.set == set
        });
        if let Some(&i) = found {
            return NhRef(i);
        }
        let e = Entry { set, family, host, dead: false, used: true, users: 0 };
        let i = match self.free.pop() {
            Some(i) => i,
            None => self.entries.len() as u32,
        };
        match &e.set {
            NhSet::Inline(hops) => {
                for hop in hops {
                    self.by_dev.entry(hop.ifindex).or_default().insert(i);
                }
            }
            NhSet::Object(id) => {
                self.by_object.entry(*id).or_default().insert(i);
            }
        }
        match self.entries.get_mut(i as usize) {
            Some(slot) => *slot = e,
            None => self.entries.push(e),
        }
        self.insert_index(h, i);
        self.dirty.insert(NhRef(i));
        NhRef(i)
    }

    fn insert_index(&mut self, h: u64, i: u32) {
        let entries = &self.entries;
        self.index.insert_unique(h, i, |&j| {
            let e = &entries[j as usize];
            hash(e.family, e.host, &e.set)
        });
    }

    fn remove_index(&mut self, i: u32) {
        let e = &self.entries[i as usize];
        if let Ok(o) = self.index.find_entry(hash(e.family, e.host, &e.set), |&j| j == i) {
            o.remove();
        }
    }

    pub fn get(&self, nh: NhRef) -> &NhSet {
        self.entries.get(nh.0 as usize).map_or(&*NONE, |e| &e.set)
    }
    pub fn users(&self, nh: NhRef) -> u32 {
        self.entries.get(nh.0 as usize).map_or(0, |e| e.users)
    }
    /// Whether its routes are gone in the kernel.
    pub fn dead(&self, nh: NhRef) -> bool {
        self.entries.get(nh.0 as usize).is_none_or(|e| e.dead)
    }
    pub fn hold(&mut self, nh: NhRef) {
        if let Some(e) = self.entries.get_mut(nh.0 as usize) {
            e.users += 1;
        }
    }
    pub fn release(&mut self, nh: NhRef) {
        if let Some(e) = self.entries.get_mut(nh.0 as usize) {
            e.users = e.users.saturating_sub(1);
            if e.users == 0 {
                self.dirty.insert(nh);
            }
        }
    }
    /// The family of the routes that have it; 0 for one that is not held.
    pub fn family(&self, nh: NhRef) -> u8 {
        self.entries.get(nh.0 as usize).map_or(0, |e| e.family)
    }
    pub fn iter(&self) -> impl Iterator<Item = (NhRef, &NhSet, u32)> {
        let live = |(i, e): (usize, &'_ Entry)| (e.used && !e.dead && e.users > 0).then_some(i);
        (0..self.entries.len())
            .filter_map(move |i| live((i, &self.entries[i])))
            .map(|i| (NhRef(i as u32), &self.entries[i].set, self.entries[i].users))
    }

    /// What changed since last asked; those without users are forgotten by this, and their numbers may come again.
    pub fn drain(&mut self) -> (Vec<NhRef>, Vec<NhRef>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for nh in std::mem::take(&mut self.dirty) {
            let i = nh.0;
            let Some(e) = self.entries.get(i as usize).filter(|e| e.used) else { continue };
            if e.users > 0 {
                changed.push(nh);
                continue;
            }
            gone.push(nh);
            if !e.dead {
                self.remove_index(i);
            }
            let e = &mut self.entries[i as usize];
            e.used = false;
            e.dead = true;
            match std::mem::replace(&mut e.set, NhSet::clone(&NONE)) {
                NhSet::Inline(hops) => {
                    for hop in hops {
                        unlink(&mut self.by_dev, hop.ifindex, i);
                    }
                }
                NhSet::Object(id) => unlink(&mut self.by_object, id, i),
            }
            self.free.push(i);
        }
        (changed, gone)
    }

    /// Whether any set of `family` with more than one member has one on `ifindex`.
    pub fn multipath_on(&self, family: u8, ifindex: u32) -> bool {
        self.by_dev.get(&ifindex).is_some_and(|s| {
            s.iter().any(|i| {
                let e = &self.entries[*i as usize];
                e.family == family && e.users > 0 && matches!(&e.set, NhSet::Inline(h) if h.len() > 1)
            })
        })
    }

    /// Apply a device's fate to all sets of `family` with a member on it. Returns whether any changed, and whether
    /// one with users died.
    pub fn fate(&mut self, family: u8, ifindex: u32, fate: Fate) -> (bool, bool) {
        let (mut changed, mut died) = (false, false);
        for i in self.by_dev.get(&ifindex).cloned().unwrap_or_default() {
            let e = &self.entries[i as usize];
            if e.family != family || e.dead {
                continue;
            }
            let NhSet::Inline(mut hops) = e.set.clone() else { continue };
            let whole = apply(family, e.host, &mut hops, ifindex, fate);
            if !whole && matches!(&e.set, NhSet::Inline(h) if *h == hops) {
                continue;
            }
            changed |= e.users > 0;
            self.remove_index(i);
            let e = &mut self.entries[i as usize];
            if whole || hops.iter().all(|h| h.dead) {
                e.dead = true;
                died |= e.users > 0;
            } else {
                // A lone member has no share of its own.
                if let [only] = &mut hops[..] {
                    only.weight = 1;
                }
                let left = !hops.iter().any(|h| h.ifindex == ifindex);
                e.set = NhSet::Inline(hops);
                let h = hash(e.family, e.host, &e.set);
                if left {
                    unlink(&mut self.by_dev, ifindex, i);
                }
                self.insert_index(h, i);
            }
            self.dirty.insert(NhRef(i));
        }
        (changed, died)
    }

    /// A next-hop object is gone, and with it all routes of it (kernel-facts 5). Returns whether there were any.
    pub fn object_gone(&mut self, id: u32) -> bool {
        let mut died = false;
        for i in self.by_object.get(&id).cloned().unwrap_or_default() {
            if self.entries[i as usize].dead {
                continue;
            }
            self.remove_index(i);
            let e = &mut self.entries[i as usize];
            e.dead = true;
            died |= e.users > 0;
            self.dirty.insert(NhRef(i));
        }
        died
    }

    /// Whether routes of that object are held.
    pub fn object_used(&self, id: u32) -> bool {
        self.by_object.get(&id).is_some_and(|s| s.iter().any(|i| self.entries[*i as usize].users > 0))
    }

    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.index.capacity() * 5
    }
}

/// Change `hops` by the fate of `ifindex`; returns whether the whole set is dead by it.
pub(super) fn apply(family: u8, host: bool, hops: &mut SmallVec<[Hop; 1]>, ifindex: u32, fate: Fate) -> bool {
    if !hops.iter().any(|h| h.ifindex == ifindex) {
        return false;
    }
    let dead = match fate {
        Fate::Live => false,
        Fate::Down => !host,
        Fate::Forced => true,
        // The kernel counts every member as dead when a device is unregistered.
        Fate::Gone if family == AF_INET => return true,
        Fate::Gone => {
            hops.retain(|h| h.ifindex != ifindex);
            return hops.is_empty();
        }
    };
    for h in hops.iter_mut().filter(|h| h.ifindex == ifindex) {
        h.dead = dead;
    }
    hops.iter().all(|h| h.dead)
}

fn unlink(map: &mut BTreeMap<u32, BTreeSet<u32>>, key: u32, i: u32) {
    if let Some(s) = map.get_mut(&key) {
        s.remove(&i);
        if s.is_empty() {
            map.remove(&key);
        }
    }
}
