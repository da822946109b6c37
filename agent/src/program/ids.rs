//! Names of next hops and groups in the chip: chosen from content, shared, counted, and taken over from the chip after a
//! restart, so that the same content keeps its name. A next hop that is an object of the kernel's has its number for a name.
//!
//! An entry is given up only when nothing that the chip acknowledged, or that is under way, refers to it: make before break.

use std::collections::{BTreeMap, BTreeSet};

use hal::{GroupEntry, GroupId, NextHopEntry, NextHopId};
use hashbrown::HashMap;

use crate::arena::Fixed;
use crate::mirror::NhRef;

/// Set in the names of next hops that are objects of the kernel's.
const OBJECT: u32 = 1 << 31;

/// A group.
#[derive(Debug, Default)]
struct Group {
    /// The kernel set behind it. `None`: found in the chip and not claimed yet, or the kernel gave the set up.
    nh: Option<NhRef>,
    refs: u32,
}

#[derive(Debug)]
struct NextHop {
    entry: NextHopEntry,
    refs: u32,
}

/// All names.
#[derive(Debug, Default)]
pub struct Ids {
    groups: HashMap<u32, Group, Fixed>,
    by_ref: HashMap<NhRef, GroupId, Fixed>,
    unclaimed: BTreeMap<GroupEntry, BTreeSet<GroupId>>,
    nexthops: BTreeMap<NextHopId, NextHop>,
    by_entry: HashMap<NextHopEntry, NextHopId, Fixed>,
    next_group: u32,
    next_nexthop: u32,
    /// See [`Ids::nexthop_changes`].
    nexthop_changes: u64,
    /// Groups whose entry has to be looked at again.
    pub touched_groups: BTreeSet<GroupId>,
    /// Next hops likewise.
    pub touched_nexthops: BTreeSet<NextHopId>,
}

impl Ids {
    /// The name of the group for that set. `content` gives what the group would hold, asked for only while groups of
    /// the chip wait to be claimed.
    pub fn group(&mut self, nh: NhRef, content: impl FnOnce(&mut Ids) -> GroupEntry) -> GroupId {
        if let Some(g) = self.by_ref.get(&nh) {
            return *g;
        }
        let g = self.claim(content).unwrap_or_else(|| self.fresh_group());
        self.groups.entry(g.0).or_default().nh = Some(nh);
        self.touched_groups.insert(g);
        self.by_ref.insert(nh, g);
        g
    }

    /// The set changed.
    pub fn set_changed(&mut self, nh: NhRef) {
        self.touched_groups.extend(self.by_ref.get(&nh));
    }

    /// The mirror gave the set up and may use its number again. Its group stays as it is until no route refers to it.
    pub fn set_gone(&mut self, nh: NhRef) {
        if let Some(g) = self.by_ref.remove(&nh) {
            if let Some(s) = self.groups.get_mut(&g.0) {
                s.nh = None;
            }
            self.touched_groups.insert(g);
        }
    }

    fn claim(&mut self, content: impl FnOnce(&mut Ids) -> GroupEntry) -> Option<GroupId> {
        if self.unclaimed.is_empty() {
            return None;
        }
        let e = content(self);
        let waiting = self.unclaimed.get_mut(&e)?;
        let g = waiting.pop_first();
        if waiting.is_empty() {
            self.unclaimed.remove(&e);
        }
        g
    }

    fn fresh_group(&mut self) -> GroupId {
        loop {
            let g = self.next_group;
            self.next_group = g.wrapping_add(1);
            if !self.groups.contains_key(&g) {
                return GroupId(g);
            }
        }
    }

    /// The kernel's set behind a group; `None` if nothing wants it any more.
    pub fn set_of(&self, g: GroupId) -> Option<NhRef> {
        self.groups.get(&g.0)?.nh
    }
    /// The group of a set, if it has one.
    pub fn group_of(&self, nh: NhRef) -> Option<GroupId> {
        self.by_ref.get(&nh).copied()
    }
    /// Whether routes refer to the group.
    pub fn used(&self, g: GroupId) -> bool {
        self.groups.get(&g.0).is_some_and(|s| s.refs > 0)
    }
    /// One more route refers to the group.
    pub fn hold(&mut self, g: Option<GroupId>) {
        if let Some(g) = g {
            let s = self.groups.entry(g.0).or_default();
            s.refs += 1;
            if s.refs == 1 {
                self.touched_groups.insert(g);
            }
        }
    }
    /// One route less does.
    pub fn release(&mut self, g: Option<GroupId>) {
        if let Some(g) = g
            && let Some(s) = self.groups.get_mut(&g.0)
        {
            s.refs = s.refs.saturating_sub(1);
            if s.refs == 0 {
                self.touched_groups.insert(g);
            }
        }
    }
    /// Nothing refers to the group and the chip does not hold it: forget its name.
    pub fn drop_group(&mut self, g: GroupId) {
        if let Some(nh) = self.groups.remove(&g.0).and_then(|s| s.nh) {
            self.by_ref.remove(&nh);
        }
    }
    /// The group is about to be removed from the chip: a set that comes back gets another name.
    pub fn retire_group(&mut self, g: GroupId) {
        if let Some(nh) = self.groups.get_mut(&g.0).and_then(|s| s.nh.take()) {
            self.by_ref.remove(&nh);
        }
        self.unclaimed.retain(|_, w| {
            w.remove(&g);
            !w.is_empty()
        });
    }
    /// All groups that a set of the kernel's stands behind, by name.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, NhRef)> {
        let mut all: Vec<_> = self.groups.iter().filter_map(|(g, s)| Some((GroupId(*g), s.nh?))).collect();
        all.sort_unstable_by_key(|(g, _)| *g);
        all.into_iter()
    }
    /// Look at every group again.
    pub fn touch_groups(&mut self) {
        self.touched_groups.extend(self.groups.keys().map(|g| GroupId(*g)));
    }

    /// The kernel's next-hop object that a next hop is named by.
    pub fn object_of(n: NextHopId) -> Option<u32> {
        (n.0 & OBJECT != 0).then_some(n.0 & !OBJECT)
    }

    /// The name of the next hop of that content, which is that of the kernel's object if it is one.
    pub fn nexthop(&mut self, object: Option<u32>, e: &NextHopEntry) -> NextHopId {
        // An object beyond half of what numbers there are goes by its content.
        if let Some(id) = object.filter(|id| id & OBJECT == 0) {
            let n = NextHopId(OBJECT | id);
            let s = self.nexthops.entry(n).or_insert_with(|| NextHop { entry: e.clone(), refs: 0 });
            if s.entry != *e {
                s.entry = e.clone();
                self.nexthop_changes += 1;
                self.touched_nexthops.insert(n);
            }
            return n;
        }
        if let Some(n) = self.by_entry.get(e) {
            return *n;
        }
        let n = loop {
            let n = NextHopId(self.next_nexthop);
            self.next_nexthop = (self.next_nexthop + 1) & !OBJECT;
            if !self.nexthops.contains_key(&n) {
                break n;
            }
        };
        self.nexthops.insert(n, NextHop { entry: e.clone(), refs: 0 });
        self.by_entry.insert(e.clone(), n);
        self.touched_nexthops.insert(n);
        n
    }
    /// What that next hop should be; `None` if no group refers to it.
    pub fn nexthop_entry(&self, n: NextHopId) -> Option<&NextHopEntry> {
        self.nexthops.get(&n).filter(|s| s.refs > 0).map(|s| &s.entry)
    }
    /// No names, as the next life of the same program begins.
    pub fn successor(&self) -> Ids {
        Ids { nexthop_changes: self.nexthop_changes + 1, ..Ids::default() }
    }
    /// Ascends with every next hop that comes into use or goes out of it.
    pub fn nexthop_changes(&self) -> u64 {
        self.nexthop_changes
    }
    /// All next hops in use, by name.
    pub fn nexthops(&self) -> impl Iterator<Item = (NextHopId, &NextHopEntry)> {
        self.nexthops.iter().filter(|(_, s)| s.refs > 0).map(|(n, s)| (*n, &s.entry))
    }
    /// A group's members are referred to once more.
    pub fn hold_members(&mut self, e: &GroupEntry) {
        for m in &e.members {
            if let Some(s) = self.nexthops.get_mut(&m.nexthop) {
                s.refs += 1;
                if s.refs == 1 {
                    self.nexthop_changes += 1;
                    self.touched_nexthops.insert(m.nexthop);
                }
            }
        }
    }
    /// A group's members are referred to once less.
    pub fn release_members(&mut self, e: &GroupEntry) {
        for m in &e.members {
            if let Some(s) = self.nexthops.get_mut(&m.nexthop) {
                s.refs = s.refs.saturating_sub(1);
                if s.refs == 0 {
                    self.nexthop_changes += 1;
                    self.touched_nexthops.insert(m.nexthop);
                }
            }
        }
    }
    /// The chip does not hold the next hop and nothing refers to it: forget its name.
    pub fn drop_nexthop(&mut self, n: NextHopId) {
        if let Some(s) = self.nexthops.get(&n)
            && s.refs == 0
        {
            if self.by_entry.get(&s.entry) == Some(&n) {
                self.by_entry.remove(&s.entry);
            }
            self.nexthops.remove(&n);
        }
    }

    /// Take over a next hop that the chip holds.
    pub fn load_nexthop(&mut self, n: NextHopId, e: &NextHopEntry) {
        self.nexthops.insert(n, NextHop { entry: e.clone(), refs: 0 });
        if Self::object_of(n).is_none() {
            self.by_entry.entry(e.clone()).or_insert(n);
        }
        self.touched_nexthops.insert(n);
    }
    /// Take over a group that the chip holds, after its next hops.
    pub fn load_group(&mut self, g: GroupId, e: &GroupEntry) {
        self.groups.entry(g.0).or_default();
        self.unclaimed.entry(e.clone()).or_default().insert(g);
        self.hold_members(e);
        self.touched_groups.insert(g);
    }
}
