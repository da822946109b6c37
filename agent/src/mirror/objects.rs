//! Next-hop objects by id, by device, by gateway, and the groups that each is in. What becomes of the routes that use them is
//! `ctx`'s and `sets`'.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::types::{Object, ObjectTo};

/// See the module.
#[derive(Default)]
pub(super) struct Objects {
    all: BTreeMap<u32, Object>,
    by_dev: BTreeMap<u32, BTreeSet<u32>>,
    by_gateway: BTreeMap<(u32, IpAddr), BTreeSet<u32>>,
    /// The groups that an object, there or not, is named in.
    groups: BTreeMap<u32, BTreeSet<u32>>,
    /// Reader's stamp of the last time that an object of that id went.
    gone: BTreeMap<u32, u64>,
}

fn unlink<K: Ord>(map: &mut BTreeMap<K, BTreeSet<u32>>, key: K, id: u32) {
    if let Some(s) = map.get_mut(&key) {
        s.remove(&id);
        if s.is_empty() {
            map.remove(&key);
        }
    }
}

impl Objects {
    pub fn get(&self, id: u32) -> Option<&Object> {
        self.all.get(&id)
    }
    /// Whether the kernel counts it as a blackhole: it is one, or a group of nothing but one (`nexthop_is_blackhole`).
    pub fn blackhole(&self, id: u32) -> bool {
        match self.get(id).map(|o| &o.to) {
            Some(ObjectTo::Blackhole) => true,
            Some(_) => {
                let members = self.get(id).map_or(&[][..], Object::members);
                matches!(members, [(only, _)] if self.get(*only).is_some_and(|o| o.to == ObjectTo::Blackhole))
            }
            None => false,
        }
    }
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.all.values()
    }
    /// Objects behind that id, in order.
    pub fn after(&self, id: u32) -> impl Iterator<Item = &Object> {
        self.all.range(id.saturating_add(1)..).map(|(_, o)| o)
    }
    /// Those that go when the device is not used any more (kernel-facts 2).
    pub fn on(&self, dev: u32) -> Vec<u32> {
        self.by_dev.get(&dev).into_iter().flatten().copied().collect()
    }
    /// Groups that the object is in.
    pub fn groups(&self, id: u32) -> impl Iterator<Item = u32> + '_ {
        self.groups.get(&id).into_iter().flatten().copied()
    }
    /// Groups with a member that leads to that neighbour.
    pub fn choosing(&self, gateway: (u32, IpAddr)) -> BTreeSet<u32> {
        self.by_gateway.get(&gateway).into_iter().flatten().flat_map(|id| self.groups(*id)).collect()
    }
    /// Whether one of that id went after the stamp.
    pub fn gone_since(&self, id: u32, seq: u64) -> bool {
        self.gone.get(&id).is_some_and(|at| seq < *at)
    }

    /// Keep it. Whether that is news.
    pub fn put(&mut self, o: Object) -> bool {
        if self.all.get(&o.id) == Some(&o) {
            return false;
        }
        self.take(o.id);
        if o.dev != 0 {
            self.by_dev.entry(o.dev).or_default().insert(o.id);
        }
        if let Some(gw) = o.gateway() {
            self.by_gateway.entry(gw).or_default().insert(o.id);
        }
        for (m, _) in o.members() {
            self.groups.entry(*m).or_default().insert(o.id);
        }
        self.all.insert(o.id, o);
        true
    }

    fn take(&mut self, id: u32) {
        let Some(o) = self.all.remove(&id) else { return };
        unlink(&mut self.by_dev, o.dev, id);
        if let Some(gw) = o.gateway() {
            unlink(&mut self.by_gateway, gw, id);
        }
        for (m, _) in o.members() {
            unlink(&mut self.groups, *m, id);
        }
    }

    /// One is gone; groups lose it, and a group without members is gone as well (kernel-facts 5). Returns those that are
    /// gone, and the groups that are left with fewer members.
    pub fn remove(&mut self, id: u32, seq: u64) -> (Vec<u32>, BTreeSet<u32>) {
        let (mut gone, mut left) = (vec![id], BTreeSet::new());
        let mut at = 0;
        while let Some(id) = gone.get(at).copied() {
            at += 1;
            self.gone.insert(id, seq);
            self.take(id);
            for g in self.groups(id).collect::<Vec<_>>() {
                let Some(mut o) = self.all.get(&g).cloned() else { continue };
                if let ObjectTo::Group(m) | ObjectTo::Resilient(m, _) | ObjectTo::Other(m) = &mut o.to {
                    m.retain(|(member, _)| *member != id);
                    if m.is_empty() {
                        gone.push(g);
                        left.remove(&g);
                    } else {
                        left.insert(g);
                    }
                }
                self.put(o);
            }
        }
        (gone, left)
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Hop;
    use super::*;

    fn single(id: u32, dev: u32, last: u8) -> Object {
        let via = Some([10, 0, 0, last].into());
        let hop = Hop { ifindex: dev, via, weight: 1, onlink: false, encap: false, dead: false };
        Object { id, family: 2, scope: 253, proto: 4, dev, to: ObjectTo::Hop(hop) }
    }
    fn group(id: u32, members: &[u32]) -> Object {
        let members = members.iter().map(|m| (*m, 1)).collect();
        Object { id, family: 0, scope: 0, proto: 4, dev: 0, to: ObjectTo::Group(members) }
    }

    #[test]
    fn a_member_that_goes_leaves_its_groups_and_takes_the_last_of_them_along() {
        let mut o = Objects::default();
        for x in [single(1, 7, 1), single(2, 8, 2), group(3, &[1, 2]), group(4, &[1])] {
            assert!(o.put(x.clone()));
            assert!(!o.put(x), "no news");
        }
        assert_eq!(o.choosing((7, [10, 0, 0, 1].into())), [3, 4].into());
        let (gone, left) = o.remove(1, 5);
        assert_eq!((gone, left), (vec![1, 4], [3].into()));
        assert_eq!(o.get(3).unwrap().members(), [(2, 1)]);
        assert!(o.gone_since(4, 4) && !o.gone_since(4, 5) && !o.gone_since(3, 0));
        assert!(o.choosing((7, [10, 0, 0, 1].into())).is_empty() && o.on(7).is_empty());
        let (gone, left) = o.remove(2, 6);
        assert_eq!((gone, left.len()), (vec![2, 3], 0));
        assert!(o.iter().next().is_none() && o.groups.is_empty() && o.by_dev.is_empty() && o.by_gateway.is_empty());
    }

    #[test]
    fn a_replaced_object_is_found_by_what_it_is_now() {
        let mut o = Objects::default();
        [single(1, 7, 1), single(2, 8, 2), group(3, &[1])].into_iter().for_each(|x| assert!(o.put(x)));
        o.put(single(1, 8, 9));
        o.put(group(3, &[2]));
        assert!(o.on(7).is_empty() && o.on(8) == [1, 2]);
        assert!(o.choosing((8, [10, 0, 0, 9].into())).is_empty());
        assert_eq!(o.choosing((8, [10, 0, 0, 2].into())), [3].into());
    }
}
