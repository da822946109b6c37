//! The simulated chip's side of the contract: the one writer of its tables.
//!
//! It maps the agent's keys to indices, counts references, and keeps what a dump answers. Readers are [`Pipeline`]s. No I/O
//! here: ports and their state are told by [`SimChip::set_port`]. Bridges are `chip/bridge.rs`.

mod bridge;

use core::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use hal::{
    Addr, AnyKey, Backend, BucketEntry, BucketKey, Counters, Event, Family, Fwd, Global, GroupEntry, GroupId, Member,
    Nanos, NeighEntry, NeighKey, NextHopEntry, NextHopId, Op, PortEntry, PortId, Prefix, Profile, Reason, Record,
    RifEntry, RifId, RifKind, RouteKey, Rule, RuleAction, SwitchEntry, TableId, Usage, V4, V6, VrfId,
};

use crate::counters::{AllCounters, WorkerCounters};
use crate::stage::Pipeline;
use crate::stage::sample::Samples;
use crate::sync::Epochs;
use crate::table::buckets::Buckets;
use crate::table::group::Next;
use crate::table::ids::Ids;
use crate::table::neigh::Neighs;
use crate::table::route::{Lpm, Routes};
use crate::table::rules::{Act, Lists, Match};
use crate::table::takers::{Claim, Claims, TagWord};
use crate::table::vrfs::{NOWHERE, Vrfs};
use crate::table::{Hop, INDEX_MAX, Leaf, Rif, Tables, indices};

/// Most entries of objects that others refer to, so that their indices fit into a leaf.
const OBJECTS: u32 = INDEX_MAX / 2 - 16;

/// The writer of a simulated chip's tables.
#[derive(Debug)]
pub struct SimChip {
    profile: Profile,
    tables: Arc<Tables>,
    epochs: Epochs,
    turns: Epochs,
    counters: AllCounters,
    ports: Vec<Option<PortEntry>>,
    events: Vec<Event>,
    switch: Option<SwitchEntry>,
    bridging: bridge::Bridging,
    rifs: Ids<RifId, RifEntry>,
    claims: Claims,
    neigh4: Ids<NeighKey<V4>, NeighEntry>,
    neigh6: Ids<NeighKey<V6>, NeighEntry>,
    nexthops: Ids<NextHopId, NextHopEntry>,
    groups: Ids<GroupId, GroupEntry>,
    buckets: Buckets,
    routes4: Routes<V4>,
    routes6: Routes<V6>,
    vrfs: Vrfs,
    samples: Samples,
}

/// What this chip can hold at most, whatever is asked of it.
fn clamp(mut p: Profile) -> Profile {
    let objects = |n: &mut u32| *n = (*n).min(OBJECTS);
    [&mut p.rifs, &mut p.neigh4, &mut p.neigh6, &mut p.nexthops, &mut p.groups].into_iter().for_each(objects);
    p.group_members = p.group_members.clamp(1, 4096).min((1 << 26) / p.groups.max(1));
    p.buckets = p.buckets.min(1 << 24);
    p.routes4 = p.routes4.min(16 << 20);
    p.routes6 = p.routes6.min(4 << 20);
    p.vrfs = p.vrfs.clamp(1, Rif::VRFS - 1);
    p.rules = p.rules.min(4096);
    p.fids = p.fids.min(bridge::FIDS);
    p.bridge_ports = p.bridge_ports.min(bridge::PORTS);
    p.fdb = p.fdb.min(4 << 20);
    p
}

impl SimChip {
    /// A chip with that many ports and empty tables: everything is trapped. Memory for all tables is reserved here. Where the
    /// profile asks for more than the chip can hold, [`Backend::profile`] tells what it holds.
    pub fn new(profile: Profile, ports: usize) -> Self {
        // Another seed at each start, as in the kernel.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Self::with_seed(profile, ports, seed)
    }

    /// As [`SimChip::new`], with a given seed of the multipath hash.
    pub fn with_seed(profile: Profile, ports: usize, seed: u64) -> Self {
        let p = clamp(profile);
        let epochs = Epochs::default();
        let tables = Tables::new(&p, ports, seed, &epochs);
        let held = indices(p.nexthops).saturating_add(1);
        SimChip {
            tables: Arc::new(tables),
            epochs,
            turns: Epochs::default(),
            counters: AllCounters::default(),
            ports: vec![None; ports],
            events: Vec::new(),
            switch: None,
            bridging: bridge::Bridging::new(&p),
            rifs: Ids::new(p.rifs, indices(p.rifs)),
            claims: Claims::default(),
            neigh4: Ids::new(p.neigh4, p.neigh4.saturating_add(held)),
            neigh6: Ids::new(p.neigh6, p.neigh6.saturating_add(held)),
            nexthops: Ids::new(p.nexthops, indices(p.nexthops)),
            groups: Ids::new(p.groups, indices(p.groups)),
            buckets: Buckets::new(p.buckets),
            routes4: Routes::new(p.routes4),
            routes6: Routes::new(p.routes6),
            vrfs: Vrfs::new(p.vrfs),
            samples: Samples::default(),
            profile: p,
        }
    }

    /// A reader of the tables, for one worker thread.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.tables.clone(), self.epochs.reader(), self.worker_counters(), self.samples.worker())
    }
    /// The turns of those who carry verdicts out: a turn begins before a lookup and ends when the frame has left.
    pub fn turns(&self) -> &Epochs {
        &self.turns
    }
    /// Wait until no frame is under way that may have been looked up before now: then what was applied is in force, on
    /// the wires as well (law g).
    pub fn grace(&self) {
        self.turns.wait(self.turns.retire());
    }
    /// Counters for a thread that has no pipeline of its own.
    pub fn worker_counters(&self) -> Arc<WorkerCounters> {
        self.counters.worker(self.ports.len())
    }
    /// Say what a port is now. A change is reported as [`Event::Port`]; a port without link gets no frames.
    pub fn set_port(&mut self, id: PortId, entry: PortEntry) {
        let Some(slot) = self.ports.get_mut(id.0 as usize) else { return };
        if slot.as_ref() != Some(&entry) {
            self.tables.set_link(id, entry.link);
            *slot = Some(entry.clone());
            self.events.push(Event::Port(Record::Port(id, Box::new(entry))));
        }
    }
    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }
    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }
    pub(crate) fn rif_id(&self, index: u32) -> Option<RifId> {
        self.rifs.key(index)
    }
    pub(crate) fn nexthop_id(&self, index: u32) -> Option<NextHopId> {
        self.nexthops.key(index)
    }

    fn full(&self, table: TableId) -> Reason {
        Reason::TableFull { table, capacity: self.profile.capacity(table) }
    }

    fn rif_index(&self, id: RifId) -> Result<u32, Reason> {
        self.rifs.present(&id).ok_or(Reason::MissingRef(id.into()))
    }

    // ------------------------------------------------------------ settings of the whole

    fn set_switch(&mut self, entry: Option<SwitchEntry>) -> Result<(), Reason> {
        let e = entry.clone().unwrap_or_default();
        let max = self.profile.rules as usize;
        let most = e.rules4.len().max(e.rules6.len());
        if most > max {
            return Err(Reason::Unsupported(format!("{most} rules of policy routing, more than {max}")));
        }
        let mut held = Vec::new();
        for v in routers(&e) {
            match self.enter(v) {
                Ok(_) => held.push(v),
                Err(why) => {
                    held.into_iter().for_each(|v| self.vrfs.release(v, &self.epochs));
                    return Err(why);
                }
            }
        }
        self.tables.set_policies(e.hash4, e.hash6);
        let was = core::mem::replace(&mut self.switch, entry);
        self.write_rules();
        // No reader goes by the old list any more when a root that only it named is given to another.
        for v in was.iter().flat_map(routers) {
            self.vrfs.release(v, &self.epochs);
        }
        Ok(())
    }

    /// The rules with this chip's own indices: again whenever an interface comes or goes.
    fn write_rules(&self) {
        let Some(e) = &self.switch else { return self.tables.rules.set(Lists::default()) };
        let lists = Lists {
            v4: e.rules4.iter().filter_map(|r| self.rule(r)).collect(),
            v6: e.rules6.iter().filter_map(|r| self.rule(r)).collect(),
        };
        self.tables.rules.set(lists);
    }

    fn rule<F: Family>(&self, r: &Rule<F>) -> Option<Match> {
        let bits = |p: Prefix<F>| (p.addr().number(), !(p.last().number() ^ p.addr().number()) & width::<F>());
        Some(Match {
            iif: match r.iif {
                Some(id) => Some(self.rifs.present(&id)?),
                None => None,
            },
            src: bits(r.src),
            dst: bits(r.dst),
            tos: r.tos,
            proto: r.proto,
            sport: r.sport,
            dport: r.dport,
            act: match r.then {
                RuleAction::Vrf(v) => Act::Root { root: self.vrfs.find(v)?, shortest: r.shortest },
                RuleAction::Trap(c) => Act::Trap(c),
            },
        })
    }

    // ------------------------------------------------------------ router interfaces

    fn set_rif(&mut self, id: RifId, e: &RifEntry) -> Result<(), Reason> {
        let closed = is_closed(e);
        let (port, tags) = match e.kind {
            RifKind::Port { port, tags } => {
                if !closed && port.0 as usize >= self.ports.len() {
                    return Err(Reason::MissingRef(port.into()));
                }
                if !closed && let Some(t) = tags.iter().find(|t| !(1..=4094).contains(&t.vid)) {
                    return Err(Reason::Unsupported(format!("VLAN tag {t}")));
                }
                (port, tags.into())
            }
            RifKind::Fid(fid) => (Rif::FID, TagWord(self.fid_index(fid)?)),
        };
        if !self.rifs.has_room(&id) {
            return Err(self.full(TableId::Rif));
        }
        // One that is closed needs no root.
        let vrf = if closed { NOWHERE } else { self.enter(e.vrf)? };
        let Some((i, _)) = self.rifs.index(id, &self.epochs) else {
            self.leave(closed, e.vrf);
            return Err(self.full(TableId::Rif));
        };
        self.hold_fid_of(e);
        let was = self.rifs.put(i, Some(e.clone()));
        let (before, now) = (was.as_ref().and_then(|e| self.claim(e)), self.claim(e));
        if before != now {
            self.release_claim(before, i);
        }
        self.tables.set_rif(
            i,
            Some(&Rif {
                mac: e.mac.0,
                ingress4: e.ingress4,
                ingress6: e.ingress6,
                egress: e.egress,
                same4: e.same4,
                urpf: e.urpf,
                mtu4: e.mtu4,
                mtu6: e.mtu6,
                port,
                vrf,
                tags,
            }),
        );
        if let Some(c) = now.filter(|_| before != now) {
            let first = self.claims.claim(&self.tables.takers, c, i);
            self.tables.set_rif_of(c.port, first);
        }
        if was.is_none() {
            self.write_rules();
        }
        if let Some(was) = was {
            self.leave(is_closed(&was), was.vrf);
            self.release_fid_of(&was);
        }
        Ok(())
    }

    fn remove_rif(&mut self, id: RifId) {
        let Some(i) = self.rifs.present(&id) else { return };
        let was = self.rifs.put(i, None);
        self.release_claim(was.as_ref().and_then(|e| self.claim(e)), i);
        self.tables.set_rif(i, None);
        if let Some(was) = was {
            self.leave(is_closed(&was), was.vrf);
            self.release_fid_of(&was);
        }
        self.write_rules();
        self.sweep_rif(i);
    }

    /// Something more is in the virtual router: the number of its root.
    fn enter(&mut self, vrf: VrfId) -> Result<u32, Reason> {
        let full = || Reason::Unsupported(format!("vrf {vrf}: more virtual routers than {}", self.profile.vrfs));
        self.vrfs.hold(vrf, &self.epochs).ok_or_else(full)
    }

    /// An interface is in the virtual router no more.
    fn leave(&mut self, closed: bool, vrf: VrfId) {
        if !closed {
            self.vrfs.release(vrf, &self.epochs);
        }
    }

    /// The frames that an interface takes; `None` where there are no such frames.
    fn claim(&self, e: &RifEntry) -> Option<Claim> {
        let RifKind::Port { port, tags } = e.kind else { return None };
        let real = (port.0 as usize) < self.ports.len() && tags.iter().all(|t| (1..=4094).contains(&t.vid));
        real.then(|| Claim { port, tags: tags.into(), mac: e.mac })
    }

    fn release_claim(&mut self, claim: Option<Claim>, i: u32) {
        if let Some(c) = claim {
            let first = self.claims.release(&self.tables.takers, c, i);
            self.tables.set_rif_of(c.port, first);
        }
    }

    fn sweep_rif(&mut self, i: u32) {
        if self.rifs.idle(i) {
            self.rifs.free(i, &self.epochs);
        }
    }

    fn release_rif(&mut self, i: u32) {
        self.rifs.release(i);
        self.sweep_rif(i);
    }

    // ------------------------------------------------------------ neighbours

    fn neigh<F: NeighFamily>(&mut self, key: NeighKey<F>) -> Result<u32, Reason> {
        let rif = self.rif_index(key.rif)?;
        let (ids, slots) = F::of(&mut self.neigh4, &mut self.neigh6, &self.tables);
        let Some((i, made)) = ids.index(key, &self.epochs) else { return Err(self.full(F::TABLE)) };
        if made {
            slots.insert(i, rif, key.addr.number());
            self.rifs.hold(rif);
        }
        Ok(i)
    }

    fn sweep_neigh<F: NeighFamily>(&mut self, i: u32) {
        let (ids, slots) = F::of(&mut self.neigh4, &mut self.neigh6, &self.tables);
        if ids.idle(i) {
            let rif = slots.rif(i);
            slots.remove(i);
            ids.free(i, &self.epochs);
            self.release_rif(rif);
        }
    }

    fn set_neigh<F: NeighFamily>(&mut self, key: NeighKey<F>, e: &NeighEntry) -> Result<(), Reason> {
        let (ids, _) = F::of(&mut self.neigh4, &mut self.neigh6, &self.tables);
        if !ids.has_room(&key) {
            return Err(self.full(F::TABLE));
        }
        let i = self.neigh(key)?;
        let (ids, slots) = F::of(&mut self.neigh4, &mut self.neigh6, &self.tables);
        ids.put(i, Some(e.clone()));
        slots.set_mac(i, Some(e.mac));
        Ok(())
    }

    fn remove_neigh<F: NeighFamily>(&mut self, key: NeighKey<F>) {
        let (ids, slots) = F::of(&mut self.neigh4, &mut self.neigh6, &self.tables);
        let Some(i) = ids.present(&key) else { return };
        ids.put(i, None);
        slots.set_mac(i, None);
        slots.take_hit(i);
        self.sweep_neigh::<F>(i);
    }

    // ------------------------------------------------------------ next hops and groups

    fn set_nexthop(&mut self, id: NextHopId, e: &NextHopEntry) -> Result<(), Reason> {
        if !self.nexthops.has_room(&id) {
            return Err(self.full(TableId::NextHop));
        }
        let next = match *e {
            NextHopEntry::Ip(rif, IpAddr::V4(addr)) => Next::Neigh4(self.neigh::<V4>(NeighKey { rif, addr })?),
            NextHopEntry::Ip(rif, IpAddr::V6(addr)) => Next::Neigh6(self.neigh::<V6>(NeighKey { rif, addr })?),
            NextHopEntry::Connected(rif) => Next::Connected(self.rif_index(rif)?),
            NextHopEntry::Trap(c) => Next::Trap(c),
            NextHopEntry::Drop(d) => Next::Drop(d),
        };
        self.hold_next(next);
        let Some((i, _)) = self.nexthops.index(id, &self.epochs) else {
            self.release_next(next);
            return Err(self.full(TableId::NextHop));
        };
        self.nexthops.put(i, Some(e.clone()));
        let was = Next::from_word(self.tables.nexthops.get(i as usize));
        self.tables.nexthops.set(i as usize, next.word());
        self.release_next(was);
        Ok(())
    }

    fn hold_next(&mut self, n: Next) {
        match n {
            Next::Neigh4(i) => self.neigh4.hold(i),
            Next::Neigh6(i) => self.neigh6.hold(i),
            Next::Connected(i) => self.rifs.hold(i),
            Next::Absent | Next::Trap(_) | Next::Drop(_) => {}
        }
    }

    fn release_next(&mut self, n: Next) {
        match n {
            Next::Neigh4(i) => {
                self.neigh4.release(i);
                self.sweep_neigh::<V4>(i);
            }
            Next::Neigh6(i) => {
                self.neigh6.release(i);
                self.sweep_neigh::<V6>(i);
            }
            Next::Connected(i) => self.release_rif(i),
            Next::Absent | Next::Trap(_) | Next::Drop(_) => {}
        }
    }

    fn remove_nexthop(&mut self, id: NextHopId) {
        let Some(i) = self.nexthops.present(&id) else { return };
        self.nexthops.put(i, None);
        let was = Next::from_word(self.tables.nexthops.get(i as usize));
        self.tables.nexthops.set(i as usize, Next::Absent.word());
        self.release_next(was);
        self.sweep_nexthop(i);
    }

    fn sweep_nexthop(&mut self, i: u32) {
        if self.nexthops.idle(i) {
            self.nexthops.free(i, &self.epochs);
        }
    }

    fn set_group(&mut self, id: GroupId, e: &GroupEntry) -> Result<(), Reason> {
        let max = self.profile.group_members;
        let mut members = Vec::with_capacity(e.members.len());
        for m in &e.members {
            let i = self.nexthops.present(&m.nexthop).ok_or(Reason::MissingRef(m.nexthop.into()))?;
            if m.weight == 0 {
                return Err(Reason::Unsupported(format!("weight 0 of next hop {}", m.nexthop)));
            }
            members.push((i, m.weight));
        }
        if members.len() > max as usize {
            return Err(Reason::Unsupported(format!("a group of {} members, more than {max}", members.len())));
        }
        if !self.groups.has_room(&id) {
            return Err(self.full(TableId::Group));
        }
        let buckets = e.resilient.filter(|_| !members.is_empty());
        if let Some(r) = buckets {
            if self.profile.buckets == 0 || r.buckets == 0 {
                return Err(Reason::Unsupported(format!("a resilient group of {} buckets", r.buckets)));
            }
            if !self.buckets.has_room(self.groups.known(&id), r.buckets) {
                return Err(self.full(TableId::Bucket));
            }
        }
        let Some((i, _)) = self.groups.index(id, &self.epochs) else { return Err(self.full(TableId::Group)) };
        let groups = &self.tables.groups;
        if let Some(r) = buckets {
            if self.buckets.set(i, r, &members, e.mtu, groups, &self.epochs).is_none() {
                self.sweep_group(i);
                return Err(self.full(TableId::Bucket));
            }
        } else {
            groups.set(i, &members, e.mtu, &self.epochs);
            self.buckets.remove(i, &self.epochs);
        }
        members.iter().for_each(|(n, _)| self.nexthops.hold(*n));
        let was = self.groups.put(i, Some(e.clone()));
        self.release_members(was);
        Ok(())
    }

    fn release_members(&mut self, was: Option<GroupEntry>) {
        for Member { nexthop, .. } in was.into_iter().flat_map(|g| g.members) {
            if let Some(i) = self.nexthops.known(&nexthop) {
                self.nexthops.release(i);
                self.sweep_nexthop(i);
            }
        }
    }

    fn remove_group(&mut self, id: GroupId) {
        let Some(i) = self.groups.present(&id) else { return };
        self.tables.groups.clear(i);
        self.buckets.remove(i, &self.epochs);
        let was = self.groups.put(i, None);
        self.release_members(was);
        self.sweep_group(i);
    }

    fn sweep_group(&mut self, i: u32) {
        if self.groups.idle(i) {
            self.groups.free(i, &self.epochs);
        }
    }

    // ------------------------------------------------------------ routes

    fn hop(&self, f: Fwd) -> Result<Hop, Reason> {
        Ok(match f {
            Fwd::Group(g) => Hop::Group(self.groups.present(&g).ok_or(Reason::MissingRef(g.into()))?),
            Fwd::Connected(r) => Hop::Connected(self.rif_index(r)?),
            Fwd::Trap(c) => Hop::Trap(c),
            Fwd::Drop(d) => Hop::Drop(d),
        })
    }

    pub(crate) fn fwd(&self, h: Hop) -> Option<Fwd> {
        Some(match h {
            Hop::Group(g) => Fwd::Group(self.groups.key(g)?),
            Hop::Connected(r) => Fwd::Connected(self.rifs.key(r)?),
            Hop::Trap(c) => Fwd::Trap(c),
            Hop::Drop(d) => Fwd::Drop(d),
        })
    }

    fn release_leaf(&mut self, was: Option<Leaf>) {
        match was.map(Leaf::hop) {
            Some(Hop::Group(g)) => {
                self.groups.release(g);
                self.sweep_group(g);
            }
            Some(Hop::Connected(r)) => self.release_rif(r),
            Some(Hop::Trap(_) | Hop::Drop(_)) | None => {}
        }
    }

    fn set_route<F: RouteFamily>(&mut self, key: RouteKey<F>, fwd: Fwd) -> Result<(), Reason> {
        let hop = self.hop(fwd)?;
        let leaf = Leaf::new(hop, key.prefix.len());
        let root = VrfId(self.enter(key.vrf)?);
        let routes = F::of(&mut self.routes4, &mut self.routes6);
        let set = routes.set(&self.tables, RouteKey { vrf: root, ..key }, leaf, &self.epochs);
        if !matches!(set, Ok(None)) {
            // Nothing more is in it than before.
            self.vrfs.release(key.vrf, &self.epochs);
        }
        let was = set.map_err(|()| self.full(F::TABLE))?;
        match hop {
            Hop::Group(g) => self.groups.hold(g),
            Hop::Connected(r) => self.rifs.hold(r),
            Hop::Trap(_) | Hop::Drop(_) => {}
        }
        self.release_leaf(was);
        Ok(())
    }

    /// A key of a route table, in which the virtual router is the number of its root, as the contract has it.
    fn outer<F: Family>(&self, key: RouteKey<F>) -> RouteKey<F> {
        RouteKey { vrf: self.vrfs.name(key.vrf.0), ..key }
    }

    fn remove_route<F: RouteFamily>(&mut self, key: RouteKey<F>) {
        let Some(root) = self.vrfs.find(key.vrf) else { return };
        let inner = RouteKey { vrf: VrfId(root), ..key };
        let was = F::of(&mut self.routes4, &mut self.routes6).remove(&self.tables, inner, &self.epochs);
        if was.is_some() {
            self.vrfs.release(key.vrf, &self.epochs);
        }
        self.release_leaf(was);
    }
}

/// Whether nothing that comes in by the interface is forwarded, nor leaves by it.
fn is_closed(e: &RifEntry) -> bool {
    !(e.ingress4 || e.ingress6 || e.egress)
}

/// The virtual routers that rules name.
fn routers(e: &SwitchEntry) -> impl Iterator<Item = VrfId> + '_ {
    let of = |then: &RuleAction| if let RuleAction::Vrf(v) = then { Some(*v) } else { None };
    e.rules4.iter().filter_map(move |r| of(&r.then)).chain(e.rules6.iter().filter_map(move |r| of(&r.then)))
}

/// All bits of an address.
fn width<F: Family>() -> u128 {
    u128::MAX >> (128 - u32::from(F::BITS))
}

/// What differs between the families' adjacencies.
trait NeighFamily: Family {
    const TABLE: TableId;
    fn of<'a>(
        four: &'a mut Ids<NeighKey<V4>, NeighEntry>,
        six: &'a mut Ids<NeighKey<V6>, NeighEntry>,
        t: &'a Tables,
    ) -> (&'a mut Ids<NeighKey<Self>, NeighEntry>, &'a Neighs);
}

impl NeighFamily for V4 {
    const TABLE: TableId = TableId::Neigh4;
    fn of<'a>(
        four: &'a mut Ids<NeighKey<V4>, NeighEntry>,
        _: &'a mut Ids<NeighKey<V6>, NeighEntry>,
        t: &'a Tables,
    ) -> (&'a mut Ids<NeighKey<V4>, NeighEntry>, &'a Neighs) {
        (four, &t.neigh4)
    }
}

impl NeighFamily for V6 {
    const TABLE: TableId = TableId::Neigh6;
    fn of<'a>(
        _: &'a mut Ids<NeighKey<V4>, NeighEntry>,
        six: &'a mut Ids<NeighKey<V6>, NeighEntry>,
        t: &'a Tables,
    ) -> (&'a mut Ids<NeighKey<V6>, NeighEntry>, &'a Neighs) {
        (six, &t.neigh6)
    }
}

/// What differs between the families' routes.
trait RouteFamily: Lpm {
    const TABLE: TableId;
    fn of<'a>(four: &'a mut Routes<V4>, six: &'a mut Routes<V6>) -> &'a mut Routes<Self>;
}

impl RouteFamily for V4 {
    const TABLE: TableId = TableId::Route4;
    fn of<'a>(four: &'a mut Routes<V4>, _: &'a mut Routes<V6>) -> &'a mut Routes<V4> {
        four
    }
}

impl RouteFamily for V6 {
    const TABLE: TableId = TableId::Route6;
    fn of<'a>(_: &'a mut Routes<V4>, six: &'a mut Routes<V6>) -> &'a mut Routes<V6> {
        six
    }
}

impl Backend for SimChip {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn apply(&mut self, op: &Op) -> Result<(), Reason> {
        match op {
            Op::Set(r) => match r {
                Record::Port(..) | Record::Bucket(..) => Err(Reason::ReadOnly(r.table())),
                Record::Switch(Global, e) => self.set_switch(Some(e.clone())),
                Record::Fid(k, e) => self.set_fid(*k, e),
                Record::BridgePort(k, e) => self.set_bridge_port(*k, e),
                Record::FidMember(k, e) => self.set_member(*k, e),
                Record::FdbStatic(k, e) => self.set_station(*k, *e),
                Record::Fdb(k, e) => self.teach(*k, *e),
                Record::Rif(k, e) => self.set_rif(*k, e),
                Record::Neigh4(k, e) => self.set_neigh(*k, e),
                Record::Neigh6(k, e) => self.set_neigh(*k, e),
                Record::NextHop(k, e) => self.set_nexthop(*k, e),
                Record::Group(k, e) => self.set_group(*k, e),
                Record::Route4(k, e) => self.set_route(*k, *e),
                Record::Route6(k, e) => self.set_route(*k, *e),
            },
            Op::Remove(k) => {
                match *k {
                    AnyKey::Port(_) | AnyKey::Bucket(_) => return Err(Reason::ReadOnly(k.table())),
                    AnyKey::Switch(Global) => self.set_switch(None)?,
                    AnyKey::Fid(k) => self.remove_fid(k),
                    AnyKey::BridgePort(k) => self.remove_bridge_port(k),
                    AnyKey::FidMember(k) => self.remove_member(k),
                    AnyKey::FdbStatic(k) => self.remove_station(k),
                    AnyKey::Fdb(k) => self.forget(k),
                    AnyKey::Rif(k) => self.remove_rif(k),
                    AnyKey::Neigh4(k) => self.remove_neigh(k),
                    AnyKey::Neigh6(k) => self.remove_neigh(k),
                    AnyKey::NextHop(k) => self.remove_nexthop(k),
                    AnyKey::Group(k) => self.remove_group(k),
                    AnyKey::Route4(k) => self.remove_route(k),
                    AnyKey::Route6(k) => self.remove_route(k),
                }
                Ok(())
            }
        }
    }

    fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
        // A page without room would never end.
        let max = max.max(1);
        match table {
            TableId::Port => {
                let rest = self.ports.iter().enumerate().skip(usize::try_from(cursor).ok()?);
                out.extend(
                    rest.take(max).filter_map(|(i, p)| Some(Record::Port(PortId(i as u32), Box::new(p.clone()?)))),
                );
                let next = cursor.saturating_add(max as u64);
                (next < self.ports.len() as u64).then_some(next)
            }
            TableId::Switch => {
                out.extend(self.switch.clone().filter(|_| cursor == 0).map(|e| Record::Switch(Global, e)));
                None
            }
            TableId::Fid | TableId::BridgePort | TableId::FidMember | TableId::FdbStatic | TableId::Fdb => {
                self.dump_bridges(table, cursor, max, out)
            }
            TableId::Rif => self.rifs.page(cursor, max, |k, _, e| out.push(Record::Rif(k, e.clone()))),
            TableId::Neigh4 => self.neigh4.page(cursor, max, |k, _, e| out.push(Record::Neigh4(k, e.clone()))),
            TableId::Neigh6 => self.neigh6.page(cursor, max, |k, _, e| out.push(Record::Neigh6(k, e.clone()))),
            TableId::NextHop => self.nexthops.page(cursor, max, |k, _, e| out.push(Record::NextHop(k, e.clone()))),
            TableId::Group => self.groups.page(cursor, max, |k, _, e| out.push(Record::Group(k, e.clone()))),
            TableId::Bucket => {
                self.buckets.page(cursor, max, |g, index, next, idle| {
                    let (group, nexthop) = (self.groups.key(g), self.nexthops.key(next));
                    out.extend(group.zip(nexthop).map(|(group, nexthop)| {
                        Record::Bucket(BucketKey { group, index }, BucketEntry { nexthop, idle })
                    }));
                })
            }
            TableId::Route4 => self.routes4.page(cursor, max, |k, l| {
                out.extend(self.fwd(l.hop()).map(|f| Record::Route4(self.outer(k), f)));
            }),
            TableId::Route6 => self.routes6.page(cursor, max, |k, l| {
                out.extend(self.fwd(l.hop()).map(|f| Record::Route6(self.outer(k), f)));
            }),
        }
    }

    fn active(&mut self, table: TableId, cursor: u64, max: usize, out: &mut Vec<AnyKey>) -> Option<u64> {
        let max = max.max(1);
        let enough = out.len().saturating_add(max);
        match table {
            // A page looks at many times more slots than it may return keys: most are idle.
            TableId::Neigh4 => self.neigh4.scan(cursor, 64 * max, |k, i| {
                out.extend(self.tables.neigh4.take_hit(i).then_some(AnyKey::Neigh4(k)));
                out.len() < enough
            }),
            TableId::Neigh6 => self.neigh6.scan(cursor, 64 * max, |k, i| {
                out.extend(self.tables.neigh6.take_hit(i).then_some(AnyKey::Neigh6(k)));
                out.len() < enough
            }),
            TableId::Route4 | TableId::Route6 => {
                let (t, four, six) = (&self.tables, &self.routes4, &self.routes6);
                self.samples.take(table, max, |vrf, addr| {
                    out.extend(match table {
                        TableId::Route4 => four.matched(t, VrfId(vrf), addr).map(|k| AnyKey::from(self.outer(k))),
                        _ => six.matched(t, VrfId(vrf), addr).map(|k| AnyKey::from(self.outer(k))),
                    });
                });
                None
            }
            _ => None,
        }
    }

    fn poll(&mut self, now: Nanos, events: &mut Vec<Event>) {
        self.buckets.poll(now, &self.tables.groups);
        self.age(now);
        events.append(&mut self.events);
    }

    fn counters(&self) -> Counters {
        self.counters.sum(self.ports.len())
    }

    fn usage(&self) -> Vec<Usage> {
        let used = |t| match t {
            TableId::Port => self.ports.iter().flatten().count() as u32,
            TableId::Switch => u32::from(self.switch.is_some()),
            TableId::Fid | TableId::BridgePort | TableId::FidMember | TableId::FdbStatic | TableId::Fdb => {
                self.bridges_used(t)
            }
            TableId::Rif => self.rifs.used(),
            TableId::Neigh4 => self.neigh4.used(),
            TableId::Neigh6 => self.neigh6.used(),
            TableId::NextHop => self.nexthops.used(),
            TableId::Group => self.groups.used(),
            TableId::Route4 => self.routes4.used(),
            TableId::Route6 => self.routes6.used(),
            TableId::Bucket => self.buckets.used(),
        };
        TableId::ALL
            .iter()
            .map(|&table| Usage { table, used: used(table), capacity: self.profile.capacity(table) })
            .collect()
    }
}
