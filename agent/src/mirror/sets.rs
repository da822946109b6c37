//! Interned next-hop sets with their users, by device, and what happens to them when a device goes.
//!
//! A device's fall is one write per set and not per route: sets are changed in place; routes of a set that died are
//! swept afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::LazyLock;

use smallvec::SmallVec;

use super::types::{Hop, NhRef, NhSet};
use crate::arena::{Chunks, Fixed};
use crate::index::Index;
use crate::netlink::{AF_INET, AF_INET6};

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

/// In place of an MTU: the routes of that object have metrics that are not understood.
pub(super) const ODD: u16 = u16::MAX;

struct Entry {
    set: NhSet,
    family: u8,
    /// MTU in bytes of the routes that have it, 0 for none: routes with another have another set.
    mtu: u16,
    /// Of routes of host scope: these survive admin-down.
    host: bool,
    dead: bool,
    used: bool,
    users: u32,
}

impl Entry {
    fn hash(&self) -> u64 {
        hash(self.family, self.host, self.mtu, &self.set)
    }
}

fn hash(family: u8, host: bool, mtu: u16, set: &NhSet) -> u64 {
    let mut h = Fixed.build_hasher();
    (u32::from(mtu) << 16 | u32::from(family) << 8 | u32::from(host)).hash(&mut h);
    match set {
        NhSet::Inline(hops) => {
            for hop in hops {
                let flags = u64::from(hop.onlink) | u64::from(hop.encap) << 1 | u64::from(hop.dead) << 2;
                (u64::from(hop.ifindex) << 32 | u64::from(hop.weight) << 8 | flags).hash(&mut h);
                match hop.via {
                    Some(IpAddr::V4(a)) => a.to_bits().hash(&mut h),
                    Some(IpAddr::V6(a)) => a.to_bits().hash(&mut h),
                    None => {}
                }
            }
        }
        NhSet::Object(id) => id.hash(&mut h),
    }
    h.finish()
}

/// See the module.
#[derive(Default)]
pub(super) struct Sets {
    entries: Chunks<Entry>,
    index: Index,
    by_dev: BTreeMap<u32, BTreeSet<u32>>,
    by_object: BTreeMap<u32, BTreeSet<u32>>,
    /// IPv4's of several members, by the gateways of these: `fib_multipath_use_neigh` chooses by them. A gateway never leaves
    /// such a set.
    by_gateway: BTreeMap<(u32, IpAddr), BTreeSet<u32>>,
    /// IPv6's with an MTU.
    limited6: BTreeSet<u32>,
    /// Whether routes of any object ever had an MTU: most of what follows is idle until then.
    any_mtus: bool,
    /// The MTUs that IPv6 routes of an object ever had: what the kernel made of them outlives them.
    mtus6: BTreeMap<u32, BTreeSet<u16>>,
    /// Objects whose routes' MTUs have changed since last taken.
    mtus_changed: BTreeSet<u32>,
    /// Changed, or without users, since last drained.
    pub dirty: BTreeSet<NhRef>,
}

static NONE: LazyLock<NhSet> = LazyLock::new(|| NhSet::Inline(SmallVec::new()));

impl Sets {
    /// The set with that content, made if missing. It has no user by that.
    pub fn intern(&mut self, family: u8, host: bool, mtu: u16, set: NhSet) -> NhRef {
        let h = hash(family, host, mtu, &set);
        let entries = &self.entries;
        let is = |i| {
            let e = entries.at(i);
            e.family == family && e.host == host && e.mtu == mtu && e.set == set
        };
        if let Some(i) = self.index.find(h, is) {
            return NhRef(i);
        }
        let i = self.entries.put(Entry { set, family, mtu, host, dead: false, used: true, users: 0 });
        if family == AF_INET6 && mtu != 0 {
            self.limited6.insert(i);
        }
        self.insert_index(h, i);
        let entries = &self.entries;
        match &entries.at(i).set {
            NhSet::Inline(hops) => {
                for hop in hops {
                    self.by_dev.entry(hop.ifindex).or_default().insert(i);
                }
                for gw in choice(family, hops) {
                    self.by_gateway.entry(gw).or_default().insert(i);
                }
            }
            NhSet::Object(id) => {
                self.by_object.entry(*id).or_default().insert(i);
                self.any_mtus |= mtu != 0;
                if family == AF_INET6 && self.mtus6.entry(*id).or_default().insert(mtu) {
                    self.mtus_changed.insert(*id);
                }
            }
        }
        self.dirty.insert(NhRef(i));
        NhRef(i)
    }

    fn insert_index(&mut self, h: u64, i: u32) {
        let entries = &self.entries;
        // Two sets may have become the same; each keeps its name.
        self.index.insert(h, i, |j| entries.at(j).hash());
    }

    fn remove_index(&mut self, i: u32) {
        self.index.remove(self.entries.at(i).hash(), i);
    }

    pub fn get(&self, nh: NhRef) -> &NhSet {
        self.entries.get(nh.0).map_or(&*NONE, |e| &e.set)
    }
    /// MTU in bytes of the routes that have it, 0 for none.
    pub fn mtu(&self, nh: NhRef) -> u16 {
        self.entries.get(nh.0).map_or(0, |e| e.mtu)
    }
    /// The MTUs that matter to what the kernel makes of an object's routes; more than once if it pleases.
    pub fn mtus_of(&self, family: u8, id: u32) -> impl Iterator<Item = u16> + '_ {
        // A change of any IPv4 route ends what the kernel keeps.
        let now = self.by_object.get(&id).into_iter().flatten().map(|i| self.entries.at(*i));
        let now = now.filter(move |e| family == AF_INET && e.family == family && e.users > 0 && !e.dead).map(|e| e.mtu);
        now.chain(self.mtus6.get(&id).filter(|_| family == AF_INET6).into_iter().flatten().copied())
    }
    /// Whether routes of any object ever had an MTU.
    pub fn any_mtus(&self) -> bool {
        self.any_mtus
    }
    /// The object is another, or a group of others.
    pub fn mtus_changed(&mut self, id: u32) {
        self.mtus_changed.insert(id);
    }
    /// Objects whose routes' MTUs may have changed since last asked.
    pub fn take_mtus_changed(&mut self) -> BTreeSet<u32> {
        let all = std::mem::take(&mut self.mtus_changed);
        if self.any_mtus { all } else { BTreeSet::new() }
    }
    /// The object is gone, and with it what the kernel kept.
    pub fn forget_mtus(&mut self, id: u32) {
        self.mtus6.remove(&id);
    }
    /// What is known of MTUs that no dump shows.
    pub fn memory(&self) -> Sets {
        Sets { any_mtus: self.any_mtus, mtus6: self.mtus6.clone(), ..Sets::default() }
    }
    /// Whether there are IPv6 routes with an MTU of their own.
    pub fn any_limited6(&self) -> bool {
        !self.limited6.is_empty()
    }
    pub fn users(&self, nh: NhRef) -> u32 {
        self.entries.get(nh.0).map_or(0, |e| e.users)
    }
    /// Whether its routes are gone in the kernel.
    pub fn dead(&self, nh: NhRef) -> bool {
        self.entries.get(nh.0).is_none_or(|e| e.dead)
    }
    pub fn hold(&mut self, nh: NhRef) {
        if let Some(e) = self.entries.get_mut(nh.0) {
            e.users += 1;
            if e.users == 1
                && let NhSet::Object(id) = e.set
            {
                self.mtus_changed.insert(id);
            }
        }
    }
    pub fn release(&mut self, nh: NhRef) {
        if let Some(e) = self.entries.get_mut(nh.0) {
            e.users = e.users.saturating_sub(1);
            if e.users == 0 {
                self.dirty.insert(nh);
                if let NhSet::Object(id) = e.set {
                    self.mtus_changed.insert(id);
                }
            }
        }
    }
    /// The family of the routes that have it; 0 for one that is not held.
    pub fn family(&self, nh: NhRef) -> u8 {
        self.entries.get(nh.0).map_or(0, |e| e.family)
    }
    pub fn iter(&self) -> impl Iterator<Item = (NhRef, &NhSet, u32)> {
        (0..self.entries.end())
            .map(|i| (i, self.entries.at(i)))
            .filter(|(_, e)| e.used && !e.dead && e.users > 0)
            .map(|(i, e)| (NhRef(i), &e.set, e.users))
    }

    /// What changed since last asked; those without users are forgotten by this, and their numbers may come again.
    pub fn drain(&mut self) -> (Vec<NhRef>, Vec<NhRef>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for nh in std::mem::take(&mut self.dirty) {
            let i = nh.0;
            let Some(e) = self.entries.get(i).filter(|e| e.used) else { continue };
            if e.users > 0 {
                changed.push(nh);
                continue;
            }
            gone.push(nh);
            if !e.dead {
                self.remove_index(i);
            }
            self.limited6.remove(&i);
            let e = self.entries.at_mut(i);
            e.used = false;
            e.dead = true;
            match std::mem::replace(&mut e.set, NhSet::clone(&NONE)) {
                NhSet::Inline(hops) => {
                    for gw in choice(e.family, &hops) {
                        unlink(&mut self.by_gateway, gw, i);
                    }
                    for hop in hops {
                        unlink(&mut self.by_dev, hop.ifindex, i);
                    }
                }
                NhSet::Object(id) => unlink(&mut self.by_object, id, i),
            }
            self.entries.free(i);
        }
        (changed, gone)
    }

    /// Whether any set of `family` with more than one member has one on `ifindex`.
    pub fn multipath_on(&self, family: u8, ifindex: u32) -> bool {
        self.by_dev.get(&ifindex).is_some_and(|s| {
            s.iter().any(|i| {
                let e = self.entries.at(*i);
                e.family == family && e.users > 0 && matches!(&e.set, NhSet::Inline(h) if h.len() > 1)
            })
        })
    }

    /// Apply a device's fate to all sets of `family` with a member on it. Returns whether any changed, and whether
    /// one with users died.
    pub fn fate(&mut self, family: u8, ifindex: u32, fate: Fate) -> (bool, bool) {
        let (mut changed, mut died) = (false, false);
        for i in self.by_dev.get(&ifindex).cloned().unwrap_or_default() {
            let e = self.entries.at(i);
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
            let e = self.entries.at_mut(i);
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
                let h = e.hash();
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
            if self.entries.at(i).dead {
                continue;
            }
            self.remove_index(i);
            let e = self.entries.at_mut(i);
            e.dead = true;
            died |= e.users > 0;
            self.dirty.insert(NhRef(i));
        }
        died
    }

    /// What the object leads to has changed.
    pub fn touch_object(&mut self, id: u32) {
        self.dirty.extend(self.by_object.get(&id).into_iter().flatten().map(|i| NhRef(*i)));
    }

    /// A neighbour that members lead to has changed.
    pub fn touch_gateway(&mut self, ifindex: u32, a: IpAddr) {
        self.dirty.extend(self.by_gateway.get(&(ifindex, a)).into_iter().flatten().map(|i| NhRef(*i)));
    }

    /// The sets that are that object: one for each family and MTU.
    pub fn of_object(&self, id: u32) -> impl Iterator<Item = NhRef> + '_ {
        self.by_object.get(&id).into_iter().flatten().map(|i| NhRef(*i))
    }

    /// Whether routes of that object are held.
    pub fn object_used(&self, id: u32) -> bool {
        self.by_object.get(&id).is_some_and(|s| s.iter().any(|i| self.entries.at(*i).users > 0))
    }

    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.index.bytes()
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

/// The neighbours that IPv4 may choose a member by.
fn choice(family: u8, hops: &[Hop]) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
    let several = family == AF_INET && hops.len() > 1;
    hops.iter().filter(move |_| several).filter_map(|h| Some((h.ifindex, h.via?)))
}

fn unlink<K: Ord>(map: &mut BTreeMap<K, BTreeSet<u32>>, key: K, i: u32) {
    if let Some(s) = map.get_mut(&key) {
        s.remove(&i);
        if s.is_empty() {
            map.remove(&key);
        }
    }
}
