//! What the routes of both families share: next-hop sets, devices and their fates, next-hop objects, counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hal::Family;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::objects::Objects;
use super::sets::{Fate, ODD, Sets, apply};
use super::types::{Hop, Link, Netconf, NhRef, NhSet, Object, ObjectTo, RouteFlags};
use crate::arena::Fixed;
use crate::input::DumpKind;
use crate::netlink::route::{Rest, RouteMsg};
use crate::netlink::{AF_INET, AF_INET6, Unknown};

/// `RT_SCOPE_HOST` (`linux/rtnetlink.h`).
pub(super) const HOST: u8 = 254;
/// `IFF_UP` (`linux/if.h`).
pub(super) const IFF_UP: u32 = 1;

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

/// What the mirror has counted; all ascend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Messages taken in, notifications and dumps.
    pub messages: u64,
    /// Messages refused whole.
    pub malformed: u64,
    /// Messages of kinds or families that are not mirrored (the bridge's, multicast routing's).
    pub ignored: u64,
    /// What was not known, and how often it came.
    pub unknown: BTreeMap<Unknown, u64>,
    /// Of those refused: type (0 where the header is wrong) and reason, and how often.
    pub unreadable: BTreeMap<(u16, &'static str), u64>,
    /// Times that a prefix became undecided.
    pub undecided: u64,
    /// Routes removed by a purge that the kernel does not announce.
    pub purged: u64,
    /// Routes that a later purge had removed before their message was handled.
    pub stillborn: u64,
    /// Deletions of what was not held any more.
    pub absent: u64,
    /// Notifications that a dump had overtaken.
    pub superseded: u64,
}

#[derive(Clone, Copy, Default)]
struct Fates {
    /// Stamp and kind of the last time that members on the device died.
    death: Option<(u64, Fate)>,
    /// Stamp of the last time that they came back.
    live: u64,
}

/// One of [`Rests`].
struct Interned {
    rest: Rest,
    /// Whose routes have it, if it has a preferred source: these go with the source, table by table.
    table: u32,
    dead: bool,
}

impl Interned {
    fn key(&self) -> Vec<u8> {
        format!("{} {:?}", self.table, self.rest).into_bytes()
    }
}

/// Interned rests of routes' identities. Number 0 is none. Never freed: there are as many as there are preferred sources in each
/// table and sets of metrics in the kernel's configuration.
#[derive(Default)]
pub(super) struct Rests {
    list: Vec<Interned>,
    index: BTreeMap<Vec<u8>, u32>,
}

impl Rests {
    /// The number of what a route of `table` has.
    pub(super) fn intern(&mut self, r: Option<&Rest>, table: u32) -> u32 {
        let Some(r) = r else { return 0 };
        let new = Interned { rest: r.clone(), table: r.prefsrc.map_or(0, |_| table), dead: false };
        let key = new.key();
        if let Some(&i) = self.index.get(&key) {
            return i;
        }
        self.list.push(new);
        let i = self.list.len() as u32;
        self.index.insert(key, i);
        i
    }
    pub(super) fn get(&self, i: u32) -> Option<&Rest> {
        Some(&self.list.get((i as usize).checked_sub(1)?)?.rest)
    }
    #[inline]
    pub(super) fn dead(&self, i: u32) -> bool {
        i != 0 && self.list.get(i as usize - 1).is_none_or(|r| r.dead)
    }
    /// A preferred source is no address of ours any more, as far as `table` goes. Returns whether any route may have had it.
    fn source_gone(&mut self, table: u32, a: Ipv4Addr) -> bool {
        let mut any = false;
        for r in &mut self.list {
            if r.rest.prefsrc == Some(a) && r.table == table && !r.dead {
                r.dead = true;
                self.index.remove(&r.key());
                any = true;
            }
        }
        any
    }
}

/// A message's next hops, interned.
pub(super) struct Born {
    pub nh: NhRef,
    /// A purge newer than the message has removed the route already.
    pub stillborn: bool,
}

/// See the module.
#[derive(Default)]
pub struct Ctx {
    /// IPv4 tables other than local that have, or have had, a route of a kind that no source may have (`fib_validate_source`).
    pub(super) own_tables: BTreeSet<u32>,
    /// One of them is new.
    pub(super) own_tables_new: bool,
    /// Table default has, or has had, an IPv4 route.
    pub(super) default4: bool,
    /// That is new.
    pub(super) default4_new: bool,
    pub(super) sets: Sets,
    pub(super) rests: Rests,
    pub(super) links: BTreeMap<u32, Link>,
    /// By family and index; -1 is `all`, -2 `default`.
    pub(super) netconf: BTreeMap<(u8, i32), Netconf>,
    fates: HashMap<(u32, u8), Fates, Fixed>,
    /// Stamp of the newest of these.
    last_fate: u64,
    /// Devices that have addresses of a family, and how many.
    pub(super) addressed: BTreeMap<(u32, u8), u32>,
    pub(super) objects: Objects,
    /// Preferred sources that went, by table.
    sources_gone: BTreeMap<(u32, Ipv4Addr), u64>,
    /// Stamp of the last purge of any kind.
    pub(super) last_purge: u64,
    /// Kinds of which a dump would show whether an inferred purge was right.
    pub(super) confirm: BTreeSet<DumpKind>,
    pub(super) stats: Stats,
    /// IPv4 prefixes of routes of host scope, in any table, as bits and length.
    narrow: BTreeSet<(u32, u32, u8)>,
    /// Gateways that were under one of these when it went, and that a route had then.
    pub(super) faded: BTreeSet<Ipv4Addr>,
    /// Either changed.
    pub(super) narrow_changed: bool,
}

impl Ctx {
    /// A prefix's routes changed: whether one of host scope is among them now.
    pub(super) fn narrow_new(&mut self, table: u32, bits: u32, len: u8, now: bool) {
        let changed =
            if now { self.narrow.insert((table, bits, len)) } else { self.narrow.remove(&(table, bits, len)) };
        if !changed {
            return;
        }
        let of = |h: &Hop| match h.via {
            Some(IpAddr::V4(a)) if !h.onlink => Some(a),
            _ => None,
        };
        fn inline(s: &NhSet) -> &[Hop] {
            if let NhSet::Inline(h) = s { h } else { &[] }
        }
        let below = |a: &Ipv4Addr| a.to_bits() & mask(len) == bits;
        let objects = self.objects.iter().filter_map(|o| if let ObjectTo::Hop(h) = &o.to { of(h) } else { None });
        let used: BTreeSet<Ipv4Addr> =
            self.sets.iter().flat_map(|(_, s, _)| inline(s)).filter_map(of).chain(objects).collect();
        self.narrow_changed |= used.iter().any(below);
        if !now {
            self.faded.retain(|a| used.contains(a));
            self.faded.extend(used.into_iter().filter(below));
        }
    }

    /// Whether the gateway is, or may have been when its route was made, reached by a route of host scope, as the machine's own
    /// addresses are. The kernel decides that once, when a route is made, and sends packets of such a route to their
    /// destination itself instead of the gateway (`fib_check_nh`, `rt_set_nexthop`); it does not show which they are.
    pub(super) fn narrow(&self, a: Ipv4Addr) -> bool {
        self.faded.contains(&a) || self.narrow.iter().any(|(_, bits, len)| a.to_bits() & mask(*len) == *bits)
    }

    /// Apply a device's fate to the next hops of one family. Returns whether routes are to be swept.
    pub(super) fn fate(&mut self, family: u8, ifindex: u32, fate: Fate, seq: u64) -> bool {
        self.last_fate = self.last_fate.max(seq);
        let f = self.fates.entry((ifindex, family)).or_default();
        if fate == Fate::Live {
            f.live = f.live.max(seq);
        } else {
            f.death = Some((seq, fate));
            self.last_purge = self.last_purge.max(seq);
        }
        let (changed, died) = self.sets.fate(family, ifindex, fate);
        if changed {
            self.confirm.insert(if family == AF_INET { DumpKind::Route4 } else { DumpKind::Route6 });
        }
        died
    }

    /// An IPv4 address is on no device any more whose packets `table` routes (main's, or a VRF's): routes in it that prefer
    /// that address as source go (kernel-facts 4, `fib_sync_down_addr`). Returns whether routes are to be swept.
    pub(super) fn source_gone(&mut self, table: u32, a: Ipv4Addr, seq: u64) -> bool {
        let any = self.rests.source_gone(table, a);
        if any {
            self.sources_gone.insert((table, a), seq);
            self.last_purge = self.last_purge.max(seq);
            self.confirm.insert(DumpKind::Route4);
        }
        any
    }

    /// A next-hop object is new or another: what leads to it, by itself or by a group, does so elsewhere now.
    pub(super) fn object_new(&mut self, o: Object) {
        let id = o.id;
        let veils = self.veils(id);
        let before = self.bound(id);
        if self.objects.put(o) {
            before.into_iter().for_each(|r| self.sets.touch_object(r));
            self.sets.mtus_changed(id);
            self.sets.touch_object(id);
            self.objects.groups(id).for_each(|g| self.sets.touch_object(g));
            if self.veils(id) != veils {
                self.confirm.extend([DumpKind::Route4, DumpKind::Route6]);
            }
        }
    }

    /// The next-hop objects whose routes may be forwarded by the same entry of the kernel's as those of `id`: its members, and the
    /// groups that these are in.
    fn relatives(&self, id: u32) -> BTreeSet<u32> {
        let members = self.objects.get(id).into_iter().flat_map(|o| o.members()).map(|(m, _)| *m);
        members.chain([id]).flat_map(|m| self.objects.groups(m).chain([m])).collect()
    }

    /// The [`relatives`](Self::relatives), where there are MTUs: an object that changes may leave them.
    fn bound(&self, id: u32) -> BTreeSet<u32> {
        if self.sets.any_mtus() { self.relatives(id) } else { BTreeSet::new() }
    }

    /// Sets whose routes may have another MTU by now are marked as changed.
    pub(super) fn mtus_settle(&mut self) {
        for id in self.sets.take_mtus_changed() {
            self.relatives(id).into_iter().for_each(|r| self.sets.touch_object(r));
        }
    }

    /// The MTU in bytes that packets by that set are held to, 0 for none. `None`: which, depends on what was sent before. The kernel
    /// keeps a forwarding entry with each next hop (`nhc_rth_input`, `rt6i_pcpu`) that has the metrics of whichever route of
    /// an object needed it first, and serves all others by it.
    pub(super) fn shared_mtu(&self, nh: NhRef) -> Option<u16> {
        let own = self.sets.mtu(nh);
        let NhSet::Object(id) = self.sets.get(nh) else { return Some(own) };
        let others = || self.relatives(*id).into_iter().flat_map(|id| self.sets.mtus_of(self.sets.family(nh), id));
        (own != ODD && (!self.sets.any_mtus() || others().all(|m| m == own))).then_some(own)
    }

    /// Those of the object and its groups that hide the types of routes.
    fn veils(&self, id: u32) -> Vec<u32> {
        let all = std::iter::once(id).chain(self.objects.groups(id));
        all.filter(|id| self.sets.object_used(*id) && self.objects.blackhole(*id)).collect()
    }

    /// A notification of a route says whether its object was a blackhole. If that is news, what it says of the route is not the last
    /// word either.
    pub(super) fn unveil<F: Family>(&mut self, m: &RouteMsg<F>) {
        if m.object != 0 && m.flags.any(RouteFlags::VEILED) != self.objects.blackhole(m.object) {
            self.confirm.insert(if F::AF == AF_INET { DumpKind::Route4 } else { DumpKind::Route6 });
        }
    }

    /// A next-hop object is gone, and with it what goes without a word (kernel-facts 5). Returns whether routes are to be swept.
    pub(super) fn object_gone(&mut self, id: u32, seq: u64) -> bool {
        self.last_purge = self.last_purge.max(seq);
        let bound = self.bound(id);
        let (gone, left) = self.objects.remove(id, seq);
        left.into_iter().chain(bound).for_each(|g| self.sets.touch_object(g));
        gone.iter().for_each(|id| self.sets.forget_mtus(*id));
        gone.into_iter().fold(false, |died, id| self.sets.object_gone(id) | died)
    }

    /// A neighbour became one that the kernel sends to, or ceased to be: it may choose other members of what is chosen from by
    /// that (kernel-facts 30).
    pub(super) fn neigh_turned(&mut self, ifindex: u32, a: IpAddr) {
        self.objects.choosing((ifindex, a)).into_iter().for_each(|g| self.sets.touch_object(g));
        self.sets.touch_gateway(ifindex, a);
    }

    /// The table that routes what comes in by a device: its VRF's, or main.
    pub(super) fn home(&self, ifindex: u32) -> u32 {
        let link = |i: u32| self.links.get(&i);
        let own = |l: &Link| l.table.filter(|_| l.kind == "vrf");
        link(ifindex).and_then(|l| own(l).or_else(|| own(link(l.master?)?))).unwrap_or(super::TABLE_MAIN)
    }

    pub(super) fn up(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_none_or(|l| l.flags & IFF_UP != 0)
    }

    /// Whether `new`, from a dump, says the same as `ours`, which knows of deaths that a dump can't show: those of members
    /// that are unused for their link already.
    pub(super) fn knows_more(&self, family: u8, ours: NhRef, new: NhRef) -> bool {
        match (self.sets.get(ours), self.sets.get(new)) {
            (NhSet::Inline(o), NhSet::Inline(n)) if o.len() > 1 && self.same_hops(ours, new) => {
                o.iter().zip(n).all(|(o, n)| o.dead == n.dead || o.dead && self.idle(family, o.ifindex))
            }
            _ => false,
        }
    }

    /// Whether members on the device are unused for its link alone: then no message tells whether they are dead besides.
    pub(super) fn idle(&self, family: u8, ifindex: u32) -> bool {
        self.ignores_linkdown(family, ifindex)
            && self.links.get(&ifindex).is_some_and(|l| l.flags & (super::IFF_RUNNING | super::IFF_LOWER_UP) == 0)
    }

    /// Whether the device ignores routes while it has no link.
    pub(super) fn ignores_linkdown(&self, family: u8, ifindex: u32) -> bool {
        // IPv6 takes the maximum with `all`; IPv4 the maximum too.
        let of = |i: i32| self.netconf.get(&(family, i)).is_some_and(|n| n.ignore_linkdown);
        of(ifindex as i32) || of(-1)
    }

    /// Intern what a message leads to, with the purges carried out that are newer than the message.
    pub(super) fn resolve<F: Family>(&mut self, m: &RouteMsg<F>, seq: u64) -> Born {
        let v4 = F::AF == AF_INET;
        let prefsrc = m.rest.as_ref().and_then(|r| r.prefsrc).filter(|_| v4);
        let sourceless = prefsrc.is_some_and(|s| self.sources_gone.get(&(m.table, s)).is_some_and(|at| seq < *at));
        if m.object != 0 {
            // What is not understood of one route may hold for the others as well.
            let mtu = if m.flags.any(RouteFlags::METRICS) { ODD } else { m.mtu };
            let stillborn = sourceless || self.objects.gone_since(m.object, seq);
            return Born { nh: self.sets.intern(F::AF, false, mtu, NhSet::Object(m.object)), stillborn };
        }
        let host = v4 && m.scope == HOST;
        let mut hops: SmallVec<[Hop; 1]> = SmallVec::new();
        for h in &m.hops {
            let mut hop = h.hop;
            // Shown dead it may be for its link alone, where such routes are ignored. Which, no message says: it is not used
            // in either case, and when the link comes back a dump is asked for. A lone one is never dead.
            // The kernel counts what dies with the last address as without a link, too, whatever the link is.
            if hop.dead {
                let link_alone = || self.idle(F::AF, hop.ifindex) || self.addressed.contains_key(&(hop.ifindex, F::AF));
                let doubt =
                    h.linkdown && self.ignores_linkdown(F::AF, hop.ifindex) && self.up(hop.ifindex) && link_alone();
                hop.dead = m.hops.len() > 1 && !doubt;
            }
            hops.push(hop);
        }
        let stillborn = self.overtaken(F::AF, host, &mut hops, seq) || sourceless;
        if let [only] = &mut hops[..] {
            only.weight = 1;
        }
        if !v4 {
            hops.sort_unstable();
        }
        Born { nh: self.sets.intern(F::AF, host, m.mtu, NhSet::Inline(hops)), stillborn }
    }

    /// Carry out, in their order, the fates of the devices that are newer than `seq`. Returns whether the set died.
    fn overtaken(&self, family: u8, host: bool, hops: &mut SmallVec<[Hop; 1]>, seq: u64) -> bool {
        if seq >= self.last_fate {
            return false;
        }
        let mut events: SmallVec<[(u64, u32, Fate); 2]> = SmallVec::new();
        for (i, h) in hops.iter().enumerate() {
            if hops[..i].iter().any(|o| o.ifindex == h.ifindex) {
                continue;
            }
            let Some(f) = self.fates.get(&(h.ifindex, family)) else { continue };
            if let Some((at, fate)) = f.death.filter(|(at, _)| seq < *at) {
                events.push((at, h.ifindex, fate));
            }
            if seq < f.live {
                events.push((f.live, h.ifindex, Fate::Live));
            }
        }
        events.sort_unstable_by_key(|e| e.0);
        events.into_iter().any(|(_, ifindex, fate)| apply(family, host, hops, ifindex, fate))
    }

    /// Whether two sets hold the same hops, dead or alive.
    pub(super) fn same_hops(&self, a: NhRef, b: NhRef) -> bool {
        a == b
            || match (self.sets.get(a), self.sets.get(b)) {
                (NhSet::Object(a), NhSet::Object(b)) => a == b,
                (NhSet::Inline(x), NhSet::Inline(y)) => {
                    let alive = |h: &Hop| Hop { dead: false, ..*h };
                    x.len() == y.len() && x.iter().map(alive).eq(y.iter().map(alive))
                }
                _ => false,
            }
    }

    pub(super) fn same_rest(&self, a: u32, b: u32) -> bool {
        a == b || self.rests.get(a) == self.rests.get(b)
    }

    pub(super) fn same_set(&self, a: NhRef, b: NhRef) -> bool {
        a == b || self.sets.get(a) == self.sets.get(b) && self.sets.mtu(a) == self.sets.mtu(b)
    }

    /// The families of the mirror.
    pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
}
