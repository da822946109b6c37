//! Brings the chip to where `compile` says: what each table is known to hold, what is under way, in which order things go.
//!
//! Never a second copy of what should be: a key that was touched is compiled again and compared with what the chip
//! acknowledged. Sets go in ascending rank, removes in descending, and a member goes only when the chip has acknowledged that
//! nothing refers to it any more: make before break. Refusals end as traps, with their reason kept for display.

mod audit;
pub mod bridges;
mod guards;
pub mod ids;
pub mod routes;
pub mod slot;
pub mod small;
pub mod vrfs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hal::bus::{BATCH, WINDOW};
use hal::{
    AnyKey, BucketEntry, BucketKey, FidId, Fwd, Global, GroupEntry, GroupId, Member, Nanos, NeighKey, NextHopEntry,
    NextHopId, Op, Prefix, Reason, Record, Rejected, RifEntry, RifId, RouteKey, TableId, ToChip, TrapClass, V4, V6,
    VrfId, table,
};

use crate::compile::group::{GroupSpec, MemberSpec};
use crate::compile::route::Verdict;
use crate::compile::vrf::DEFAULT;
use crate::compile::{self, Facts};
use crate::mirror::{MirrorFamily, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use ids::Ids;
use routes::{RouteFamily, Routes, Sent};
use small::Small;
use vrfs::Vrfs;

/// Prefixes compiled in one pass at most: a batch, so that no pass takes long.
pub const CHUNK: usize = BATCH;

/// Tables besides the routes', by rank.
const SMALL: usize = 10;

/// What is to be sent. Routes are small here until they are.
#[derive(Debug)]
enum Step {
    Op(Op),
    Route4(VrfId, Sent<V4>),
    Route6(VrfId, Sent<V6>),
}

/// What is under way, in the form in which the answer needs it.
#[derive(Clone, Copy, Debug)]
enum Flight {
    Key(AnyKey),
    Route4(VrfId, Sent<V4>),
    Route6(VrfId, Sent<V6>),
}

/// Totals for `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Operations sent.
    pub sent: u64,
    /// Operations acknowledged.
    pub acked: u64,
    /// Operations refused.
    pub refused: u64,
    /// Of these and the acknowledged: those on tables other than the routes'.
    pub few: u64,
}

/// The chip as it is known.
#[derive(Debug, Default)]
pub struct Program {
    /// Table `switch`.
    pub switch: Small<table::Switch>,
    /// Table `fid`.
    pub fid: Small<table::Fid>,
    /// Table `bridge-port`.
    pub bridge_port: Small<table::BridgePort>,
    /// Table `fid-member`.
    pub member: Small<table::FidMember>,
    /// Table `rif`.
    pub rif: Small<table::Rif>,
    /// Table `fdb-static`.
    pub station: Small<table::FdbStatic>,
    /// Table `neigh4`.
    pub neigh4: Small<table::Neigh4>,
    /// Table `neigh6`.
    pub neigh6: Small<table::Neigh6>,
    /// Table `nexthop`.
    pub nexthop: Small<table::NextHop>,
    /// Table `group`.
    pub group: Small<table::Group>,
    /// Table `route4`, as far as it is the default virtual router's.
    pub route4: Routes<V4>,
    /// Table `route6`.
    pub route6: Routes<V6>,
    /// The other virtual routers.
    pub vrfs: Vrfs,
    /// Names.
    pub ids: Ids,
    /// Totals.
    pub totals: Totals,
    queue: VecDeque<Step>,
    window: VecDeque<(u64, Vec<Flight>)>,
    next_batch: u64,
    /// Groups that are traps because a next hop found no room.
    starved_groups: BTreeSet<GroupId>,
    /// Groups whose set was put off, with what they were to hold.
    put_off: BTreeMap<GroupId, GroupEntry>,
    /// FIDs that flood nothing until their members and stations stand, or are gone.
    quiet: BTreeSet<FidId>,
    /// FIDs and bridge ports that found no room.
    unplaced: BTreeSet<AnyKey>,
    /// For stations and what belongs to bridges.
    pub bridges: bridges::News,
    /// Something that routes refer to has come, gone or failed: every route is to be compiled again.
    pub recompile_routes: bool,
}

/// The family's route table in a program.
pub trait Tables: RouteFamily + MirrorFamily {
    /// That of a virtual router, if it has a place in the chip.
    fn routes(p: &Program, vrf: VrfId) -> Option<&Routes<Self>>;
    /// It, to change.
    fn routes_mut(p: &mut Program, vrf: VrfId) -> Option<(&mut Routes<Self>, &mut Ids)>;
    /// The key of an adjacency of the family.
    fn neigh_key(k: NeighKey<Self>) -> AnyKey;
}

impl Tables for V4 {
    fn routes(p: &Program, vrf: VrfId) -> Option<&Routes<V4>> {
        if vrf == DEFAULT { Some(&p.route4) } else { p.vrfs.get(vrf).map(|v| &v.route4) }
    }
    fn routes_mut(p: &mut Program, vrf: VrfId) -> Option<(&mut Routes<V4>, &mut Ids)> {
        let ids = &mut p.ids;
        let own = if vrf == DEFAULT { Some(&mut p.route4) } else { p.vrfs.get_mut(vrf).map(|v| &mut v.route4) };
        own.map(|r| (r, ids))
    }
    fn neigh_key(k: NeighKey<V4>) -> AnyKey {
        k.into()
    }
}

impl Tables for V6 {
    fn routes(p: &Program, vrf: VrfId) -> Option<&Routes<V6>> {
        if vrf == DEFAULT { Some(&p.route6) } else { p.vrfs.get(vrf).map(|v| &v.route6) }
    }
    fn routes_mut(p: &mut Program, vrf: VrfId) -> Option<(&mut Routes<V6>, &mut Ids)> {
        let ids = &mut p.ids;
        let own = if vrf == DEFAULT { Some(&mut p.route6) } else { p.vrfs.get_mut(vrf).map(|v| &mut v.route6) };
        own.map(|r| (r, ids))
    }
    fn neigh_key(k: NeighKey<V6>) -> AnyKey {
        k.into()
    }
}

/// An interface that is closed both ways: the form that no chip refuses.
fn closed(e: &RifEntry) -> Option<RifEntry> {
    Some(RifEntry { ingress4: false, ingress6: false, egress: false, ..e.clone() })
}

/// The group with its next hops named.
fn named(spec: &GroupSpec, ids: &mut Ids, rif: &Small<table::Rif>) -> GroupEntry {
    let mut member =
        |m: &MemberSpec| Member { nexthop: ids.nexthop(m.object, &placed(m.to.clone(), rif)), weight: m.weight };
    GroupEntry { members: spec.members.iter().map(&mut member).collect(), mtu: spec.mtu, resilient: spec.resilient }
}

/// A next hop, or a trap if it is on an interface that found no room.
fn placed(e: NextHopEntry, rif: &Small<table::Rif>) -> NextHopEntry {
    match e {
        NextHopEntry::Ip(r, _) | NextHopEntry::Connected(r) if rif.unplaced(r) => NextHopEntry::Trap(TrapClass::NoRoom),
        e => e,
    }
}

/// The verdict of a prefix in the chip's terms, as it should be if there is room for it.
fn verdict<F: MirrorFamily>(
    f: &Facts<'_>,
    vrf: VrfId,
    p: Prefix<F>,
    ids: &mut Ids,
    rif: &Small<table::Rif>,
    group: &Small<table::Group>,
) -> Option<Fwd> {
    Some(match compile::route::route(f, vrf, p)?.verdict {
        Verdict::Trap(c) => Fwd::Trap(c),
        Verdict::Drop(r) => Fwd::Drop(r),
        // An interface that found no room is not there; its port traps everything, and so must what leads there.
        Verdict::Connected(r) if rif.unplaced(r) => Fwd::Trap(TrapClass::NoRoom),
        Verdict::Connected(r) => Fwd::Connected(r),
        Verdict::Set(nh) => {
            let g = ids.group(nh, |ids| named(&compile::group::group(f, nh), ids, rif));
            if group.unplaced(g) { Fwd::Trap(TrapClass::NoRoom) } else { Fwd::Group(g) }
        }
    })
}

impl Program {
    /// Forget the chip: its tables are about to be read anew.
    pub fn reset(&mut self) {
        let (totals, next_batch) = (self.totals, self.next_batch);
        let ids = self.ids.successor();
        *self = Program { totals, next_batch, ids, ..Program::default() };
    }

    /// Take over a record that the chip holds. Tables must come in ascending rank; routes may come before the groups that
    /// they name.
    pub fn load(&mut self, r: Record) {
        match r {
            Record::Port(..) | Record::Bucket(..) => {}
            Record::Switch(k, e) => self.switch.load(k, e),
            Record::Fid(k, e) => self.fid.load(k, e),
            Record::BridgePort(k, e) => self.bridge_port.load(k, e),
            Record::FidMember(k, e) => self.member.load(k, e),
            Record::FdbStatic(k, e) => self.station.load(k, e),
            Record::Fdb(..) => {}
            Record::Rif(k, e) => {
                // An open one in a virtual router without routes: what it does is known, too.
                if e.vrf != DEFAULT && closed(&e).as_ref() != Some(&e) {
                    self.vrfs.found(e.vrf);
                }
                self.rif.load(k, e);
            }
            Record::Neigh4(k, e) => self.neigh4.load(k, e),
            Record::Neigh6(k, e) => self.neigh6.load(k, e),
            Record::NextHop(k, e) => {
                self.ids.load_nexthop(k, &e);
                self.nexthop.load(k, e);
            }
            Record::Group(k, e) => {
                self.ids.load_group(k, &e);
                self.group.load(k, e);
            }
            Record::Route4(k, fwd) if k.vrf == DEFAULT => self.route4.load(k.prefix, fwd, &mut self.ids),
            Record::Route6(k, fwd) if k.vrf == DEFAULT => self.route6.load(k.prefix, fwd, &mut self.ids),
            Record::Route4(k, fwd) => self.vrfs.found(k.vrf).route4.load(k.prefix, fwd, &mut self.ids),
            Record::Route6(k, fwd) => self.vrfs.found(k.vrf).route6.load(k.prefix, fwd, &mut self.ids),
        }
    }

    /// Have the chip carry out an operation on a table of its own.
    pub fn push(&mut self, op: Op) {
        self.queue.push_back(Step::Op(op));
    }

    /// All of the chip has been read: compare everything.
    pub fn touch_all(&mut self) {
        self.switch.touch(Global);
        self.fid.touch_all();
        self.bridge_port.touch_all();
        self.member.touch_all();
        self.station.touch_all();
        self.rif.touch_all();
        self.neigh4.touch_all();
        self.neigh6.touch_all();
        self.nexthop.touch_all();
        self.group.touch_all();
        self.ids.touch_groups();
        self.route4.touch_all();
        self.route6.touch_all();
        for (_, v) in self.vrfs.iter_mut() {
            v.route4.touch_all();
            v.route6.touch_all();
        }
    }

    /// Look at a prefix of the kernel's table of that number again, in every virtual router that looks it up.
    pub fn touch<F: Tables>(&mut self, table: u32, p: Prefix<F>) {
        match table {
            TABLE_MAIN | TABLE_DEFAULT => self.touch_in(DEFAULT, p),
            TABLE_LOCAL => {
                self.touch_in(DEFAULT, p);
                for id in self.vrfs.iter().map(|(id, _)| id).collect::<smallvec::SmallVec<[_; 8]>>() {
                    self.touch_in(id, p);
                }
            }
            t => self.touch_in(VrfId(t), p),
        }
    }

    /// Look at a prefix again in that virtual router, if it has a place in the chip.
    pub fn touch_in<F: Tables>(&mut self, vrf: VrfId, p: Prefix<F>) {
        if let Some((r, _)) = F::routes_mut(self, vrf) {
            r.touch(p);
        }
    }

    /// An audit found that the chip holds this, or nothing, whatever was acknowledged.
    pub fn correct(&mut self, key: AnyKey, found: Option<Record>) {
        match (key, found) {
            (AnyKey::Switch(k), Some(Record::Switch(_, e))) => self.switch.correct(k, Some(e)),
            (AnyKey::Switch(k), _) => self.switch.correct(k, None),
            (AnyKey::Fid(k), Some(Record::Fid(_, e))) => self.fid.correct(k, Some(e)),
            (AnyKey::Fid(k), _) => self.fid.correct(k, None),
            (AnyKey::BridgePort(k), Some(Record::BridgePort(_, e))) => self.bridge_port.correct(k, Some(e)),
            (AnyKey::BridgePort(k), _) => self.bridge_port.correct(k, None),
            (AnyKey::FidMember(k), Some(Record::FidMember(_, e))) => self.member.correct(k, Some(e)),
            (AnyKey::FidMember(k), _) => self.member.correct(k, None),
            (AnyKey::FdbStatic(k), Some(Record::FdbStatic(_, e))) => self.station.correct(k, Some(e)),
            (AnyKey::FdbStatic(k), _) => self.station.correct(k, None),
            (AnyKey::Rif(k), Some(Record::Rif(_, e))) => self.rif.correct(k, Some(e)),
            (AnyKey::Rif(k), _) => self.rif.correct(k, None),
            (AnyKey::Neigh4(k), Some(Record::Neigh4(_, e))) => self.neigh4.correct(k, Some(e)),
            (AnyKey::Neigh4(k), _) => self.neigh4.correct(k, None),
            (AnyKey::Neigh6(k), Some(Record::Neigh6(_, e))) => self.neigh6.correct(k, Some(e)),
            (AnyKey::Neigh6(k), _) => self.neigh6.correct(k, None),
            (AnyKey::NextHop(k), Some(Record::NextHop(_, e))) => self.nexthop.correct(k, Some(e)),
            (AnyKey::NextHop(k), _) => self.nexthop.correct(k, None),
            (AnyKey::Group(k), found) => {
                if let Some(old) = self.group.acked(k).cloned() {
                    self.ids.release_members(&old);
                }
                let e = match found {
                    Some(Record::Group(_, e)) => Some(e),
                    _ => None,
                };
                if let Some(e) = &e {
                    self.ids.hold_members(e);
                }
                self.group.correct(k, e);
            }
            (AnyKey::Route4(k), found) => {
                let e = if let Some(Record::Route4(_, e)) = found { Some(e) } else { None };
                self.correct_route(k, e);
            }
            (AnyKey::Route6(k), found) => {
                let e = if let Some(Record::Route6(_, e)) = found { Some(e) } else { None };
                self.correct_route(k, e);
            }
            (AnyKey::Port(_) | AnyKey::Bucket(_) | AnyKey::Fdb(_), _) => {}
        }
    }

    fn correct_route<F: Tables>(&mut self, k: RouteKey<F>, found: Option<Fwd>) {
        if found.is_some() && k.vrf != DEFAULT {
            // One that has no place, where the chip holds something, gives it up like any other.
            self.vrfs.found(k.vrf);
        }
        if let Some((r, ids)) = F::routes_mut(self, k.vrf) {
            r.correct(k.prefix, found, ids);
        }
    }

    /// Whether there is something to compile or to send, and room in the window for it.
    pub fn ready(&self) -> bool {
        self.window.len() < WINDOW && (!self.queue.is_empty() || !self.clean())
    }

    fn clean(&self) -> bool {
        self.switch.clean()
            && self.fid.clean()
            && self.bridge_port.clean()
            && self.member.clean()
            && self.station.clean()
            && self.rif.clean()
            && self.neigh4.clean()
            && self.neigh6.clean()
            && self.nexthop.clean()
            && self.group.clean()
            && self.ids.touched_groups.is_empty()
            && self.ids.touched_nexthops.is_empty()
            && self.route4.clean()
            && self.route6.clean()
            && self.vrfs.iter().all(|(_, v)| v.route4.clean() && v.route6.clean())
    }

    /// Whether more prefixes can be taken on: the rest is better off where each is held once, however often it changes.
    pub fn wants_prefixes(&self) -> bool {
        let own: usize = self.vrfs.iter().map(|(_, v)| v.route4.backlog() + v.route6.backlog()).sum();
        self.queue.is_empty()
            && self.window.len() < WINDOW
            && self.route4.backlog() + self.route6.backlog() + own < CHUNK
    }

    /// Whether the chip holds what it should, as far as it can.
    pub fn settled(&self) -> bool {
        self.queue.is_empty()
            && self.window.is_empty()
            && self.clean()
            && !self.recompile_routes
            && self.switch.idle()
            && self.fid.idle()
            && self.bridge_port.idle()
            && self.member.idle()
            && self.station.idle()
            && self.rif.idle()
            && self.neigh4.idle()
            && self.neigh6.idle()
            && self.nexthop.idle()
            && self.group.idle()
            && self.route4.idle()
            && self.route6.idle()
            && self.vrfs.iter().all(|(_, v)| v.route4.idle() && v.route6.idle())
    }

    /// When a retry is due.
    pub fn deadline(&self) -> Option<Nanos> {
        [
            self.switch.deadline(),
            self.fid.deadline(),
            self.bridge_port.deadline(),
            self.member.deadline(),
            self.station.deadline(),
            self.rif.deadline(),
            self.neigh4.deadline(),
            self.neigh6.deadline(),
            self.nexthop.deadline(),
            self.group.deadline(),
            self.route4.deadline(),
            self.route6.deadline(),
        ]
        .into_iter()
        .chain(self.vrfs.iter().flat_map(|(_, v)| [v.route4.deadline(), v.route6.deadline()]))
        .flatten()
        .min()
    }

    /// Batches under way.
    pub fn in_flight(&self) -> usize {
        self.window.len()
    }

    /// Compile a chunk of what was touched, and send as much as the window takes.
    pub fn pump(&mut self, now: Nanos, f: &Facts<'_>, out: &mut VecDeque<crate::input::Output>) {
        if self.queue.is_empty() && self.window.len() < WINDOW {
            self.plan(now, f);
        }
        while self.window.len() < WINDOW && !self.queue.is_empty() {
            let n = self.queue.len().min(BATCH);
            let (mut ops, mut flights) = (Vec::with_capacity(n), Vec::with_capacity(n));
            for step in self.queue.drain(..n) {
                let (op, flight) = match step {
                    Step::Route4(v, s) => (route_op(v, &s), Flight::Route4(v, s)),
                    Step::Route6(v, s) => (route_op(v, &s), Flight::Route6(v, s)),
                    Step::Op(op) => {
                        let key = op.key();
                        (op, Flight::Key(key))
                    }
                };
                ops.push(op);
                flights.push(flight);
            }
            self.totals.sent += n as u64;
            self.next_batch += 1;
            self.window.push_back((self.next_batch, flights));
            out.push_back(crate::input::Output::Chip(ToChip::Batch { id: self.next_batch, ops }));
        }
    }

    fn plan(&mut self, now: Nanos, f: &Facts<'_>) {
        let (mut sets4, mut removes4, mut sets6, mut removes6) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (rif, group) = (&self.rif, &self.group);
        let budget = CHUNK;
        self.route4.plan(
            now,
            budget,
            &mut self.ids,
            |p, ids| verdict(f, DEFAULT, p, ids, rif, group),
            &mut sets4,
            &mut removes4,
        );
        let budget = budget.saturating_sub(sets4.len()).max(CHUNK / 4);
        self.route6.plan(
            now,
            budget,
            &mut self.ids,
            |p, ids| verdict(f, DEFAULT, p, ids, rif, group),
            &mut sets6,
            &mut removes6,
        );
        let (mut vrf_sets, mut vrf_removes) = (Vec::new(), Vec::new());
        self.plan_vrfs(now, f, &mut vrf_sets, &mut vrf_removes);
        let mut sets = [const { Vec::new() }; SMALL];
        let mut removes = [const { Vec::new() }; SMALL];
        self.plan_small(now, f, &mut sets, &mut removes);
        let queue = &mut self.queue;
        queue.extend(sets.into_iter().flatten().map(Step::Op));
        queue.extend(sets4.into_iter().map(|s| Step::Route4(DEFAULT, s)));
        queue.extend(sets6.into_iter().map(|s| Step::Route6(DEFAULT, s)));
        queue.extend(vrf_sets);
        queue.extend(removes4.into_iter().map(|s| Step::Route4(DEFAULT, s)));
        queue.extend(removes6.into_iter().map(|s| Step::Route6(DEFAULT, s)));
        queue.extend(vrf_removes);
        queue.extend(removes.into_iter().rev().flatten().map(Step::Op));
    }

    /// Compile what was touched in virtual routers other than the default one: a chunk in all, one after the other, each first
    /// in its turn.
    fn plan_vrfs(&mut self, now: Nanos, f: &Facts<'_>, sets: &mut Vec<Step>, removes: &mut Vec<Step>) {
        let (rif, group) = (&self.rif, &self.group);
        for id in self.vrfs.in_turn() {
            let Some(v) = self.vrfs.get_mut(id) else { continue };
            let Some(budget) = CHUNK.checked_sub(sets.len() + removes.len()).filter(|n| *n > 0) else { return };
            let (mut sets4, mut removes4, mut sets6, mut removes6) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let ids = &mut self.ids;
            v.route4.plan(now, budget, ids, |p, ids| verdict(f, id, p, ids, rif, group), &mut sets4, &mut removes4);
            v.route6.plan(now, budget, ids, |p, ids| verdict(f, id, p, ids, rif, group), &mut sets6, &mut removes6);
            sets.extend(sets4.into_iter().map(|s| Step::Route4(id, s)));
            sets.extend(sets6.into_iter().map(|s| Step::Route6(id, s)));
            removes.extend(removes4.into_iter().map(|s| Step::Route4(id, s)));
            removes.extend(removes6.into_iter().map(|s| Step::Route6(id, s)));
        }
    }

    fn plan_small(&mut self, now: Nanos, f: &Facts<'_>, sets: &mut [Vec<Op>; SMALL], removes: &mut [Vec<Op>; SMALL]) {
        // Groups first, though they go last: they name next hops.
        let groups = core::mem::take(&mut self.ids.touched_groups);
        for g in &groups {
            self.group.touch(*g);
        }
        let (ids, nexthop, starved) = (&mut self.ids, &self.nexthop, &mut self.starved_groups);
        let rif = &self.rif;
        self.group.plan(
            now,
            true,
            |g, acked| {
                starved.remove(&g);
                if !ids.used(g) {
                    return None;
                }
                let Some(nh) = ids.set_of(g) else { return acked.cloned() };
                let e = named(&compile::group::group(f, nh), ids, rif);
                if e.members.iter().any(|m| nexthop.unplaced(m.nexthop)) {
                    starved.insert(g);
                    return Some(GroupEntry::default());
                }
                Some(e)
            },
            |_| Some(GroupEntry::default()),
            &mut sets[9],
            &mut removes[9],
        );
        for op in &sets[9] {
            if let Op::Set(Record::Group(_, e)) = op {
                self.ids.hold_members(e);
            }
        }
        for op in &removes[9] {
            if let Op::Remove(AnyKey::Group(g)) = op {
                self.ids.retire_group(*g);
            }
        }
        self.release_put_off();
        for g in groups {
            // One that found no room keeps its name as long as the kernel has the set: under a new name it would only be
            // tried, and refused, again.
            let waits = self.group.unplaced(g) && self.ids.set_of(g).is_some();
            if !self.ids.used(g) && !self.group.known(g) && !waits {
                self.group.forget(g);
                self.ids.drop_group(g);
            }
        }
        let nexthops = core::mem::take(&mut self.ids.touched_nexthops);
        for n in &nexthops {
            self.nexthop.touch(*n);
        }
        let (ids, rif) = (&self.ids, &self.rif);
        self.nexthop.plan(
            now,
            true,
            |n, _| ids.nexthop_entry(n).cloned(),
            |_| Some(NextHopEntry::Trap(TrapClass::NoRoom)),
            &mut sets[8],
            &mut removes[8],
        );
        for n in nexthops {
            if self.ids.nexthop_entry(n).is_none() && !self.nexthop.known(n) && !self.nexthop.unplaced(n) {
                self.ids.drop_nexthop(n);
            }
        }
        let here = |r: RifId| f.ports.has(r.0) && !rif.unplaced(r);
        self.neigh4.plan(
            now,
            false,
            |k: NeighKey<V4>, _| here(k.rif).then(|| neigh::<V4>(f, k)).flatten(),
            |_| None,
            &mut sets[6],
            &mut removes[6],
        );
        self.neigh6.plan(
            now,
            false,
            |k: NeighKey<V6>, _| here(k.rif).then(|| neigh::<V6>(f, k)).flatten(),
            |_| None,
            &mut sets[7],
            &mut removes[7],
        );
        self.rif.plan(
            now,
            false,
            |r, _| compile::rif::rif(f, r.0).map(|s| s.entry),
            closed,
            &mut sets[4],
            &mut removes[4],
        );
        self.plan_bridges(now, f, sets, removes);
        self.switch.plan(now, false, |_, _| Some(compile::switch::switch(f)), |_| None, &mut sets[0], &mut removes[0]);
    }

    /// The chip answered a batch. `false`: it was none of ours, or out of order.
    pub fn done(&mut self, now: Nanos, id: u64, rejected: Vec<Rejected>) -> bool {
        if self.window.front().is_none_or(|(front, _)| *front != id) {
            return false;
        }
        let Some((_, flights)) = self.window.pop_front() else { return false };
        let mut rejected = rejected.into_iter().peekable();
        for (i, flight) in flights.into_iter().enumerate() {
            let why = rejected.next_if(|r| r.op as usize == i).map(|r| r.why);
            match &why {
                None => self.totals.acked += 1,
                Some(why) => {
                    self.totals.refused += 1;
                    if let Reason::MissingRef(key) = why {
                        self.missing(*key);
                    }
                }
            }
            match flight {
                Flight::Route4(v, s) => self.done_route(now, v, s, why),
                Flight::Route6(v, s) => self.done_route(now, v, s, why),
                Flight::Key(k) => {
                    self.totals.few += 1;
                    self.done_key(now, k, why);
                }
            }
        }
        self.bridged();
        true
    }

    fn done_route<F: Tables>(&mut self, now: Nanos, vrf: VrfId, s: Sent<F>, why: Option<Reason>) {
        let freed = why.is_none() && !s.to.is_some();
        if let Some((r, ids)) = F::routes_mut(self, vrf) {
            r.done(now, s, why, ids);
        }
        // The table is one for all.
        if freed && self.vrfs.iter().next().is_some() {
            let others: smallvec::SmallVec<[VrfId; 8]> = self.vrfs.iter().map(|(id, _)| id).chain([DEFAULT]).collect();
            for other in others.into_iter().filter(|o| *o != vrf) {
                if let Some((r, _)) = F::routes_mut(self, other) {
                    r.freed();
                }
            }
        }
    }

    /// The chip says that it has no such entry: if it acknowledged one, it lost it.
    fn missing(&mut self, key: AnyKey) {
        let thought = match key {
            AnyKey::Fid(k) => self.fid.acked(k).is_some(),
            AnyKey::BridgePort(k) => self.bridge_port.acked(k).is_some(),
            AnyKey::Rif(k) => self.rif.acked(k).is_some(),
            AnyKey::NextHop(k) => self.nexthop.acked(k).is_some(),
            AnyKey::Group(k) => self.group.acked(k).is_some(),
            _ => false,
        };
        if thought {
            tracing::warn!(%key, "the chip lost an entry that it had acknowledged; it is set again");
            self.correct(key, None);
        }
    }

    fn done_key(&mut self, now: Nanos, key: AnyKey, why: Option<Reason>) {
        let removed = why.is_none();
        match key {
            AnyKey::Port(_) | AnyKey::Bucket(_) | AnyKey::Route4(_) | AnyKey::Route6(_) => {}
            AnyKey::Switch(k) => {
                self.switch.done(now, k, why);
            }
            AnyKey::Fid(_) | AnyKey::BridgePort(_) | AnyKey::FidMember(_) | AnyKey::FdbStatic(_) | AnyKey::Fdb(_) => {
                self.done_bridges(now, key, why);
            }
            AnyKey::Rif(k) => {
                if self.rif.done(now, k, why).changed {
                    self.recompile_routes = true;
                    self.neigh4.touch_all();
                    self.neigh6.touch_all();
                }
                if removed && self.rif.acked(k).is_none() {
                    self.rif.room(now);
                }
            }
            AnyKey::Neigh4(k) => {
                self.neigh4.done(now, k, why);
                if removed && self.neigh4.acked(k).is_none() {
                    self.neigh4.room(now);
                }
            }
            AnyKey::Neigh6(k) => {
                self.neigh6.done(now, k, why);
                if removed && self.neigh6.acked(k).is_none() {
                    self.neigh6.room(now);
                }
            }
            AnyKey::NextHop(k) => self.done_nexthop(now, k, why),
            AnyKey::Group(k) => self.done_group(now, k, why),
        }
    }

    fn done_nexthop(&mut self, now: Nanos, k: NextHopId, why: Option<Reason>) {
        let out = self.nexthop.done(now, k, why);
        if self.nexthop.unplaced(k) {
            // Groups that name it are to become traps, and give it up.
            self.ids.touch_groups();
        }
        if out.replaced.is_some() && self.nexthop.acked(k).is_none() {
            self.ids.touched_nexthops.insert(k);
            self.ids.touched_nexthops.extend(self.nexthop.room(now));
            self.ids.touched_groups.append(&mut self.starved_groups);
        }
    }

    fn release_put_off(&mut self) {
        let (group, ids) = (&self.group, &mut self.ids);
        self.put_off.retain(|g, e| {
            let waits = group.failure(*g).is_some_and(|f| f.retry.is_some());
            if !waits {
                ids.release_members(e);
            }
            waits
        });
    }

    fn done_group(&mut self, now: Nanos, k: GroupId, why: Option<Reason>) {
        let stood = self.group.acked(k).is_some();
        let out = self.group.done(now, k, why);
        let freed = out.replaced.as_ref().map_or(0, buckets) > self.group.acked(k).map_or(0, buckets);
        if let Some(e) = &out.replaced {
            self.ids.release_members(e);
        }
        if let Some(e) = out.refused {
            // What was put off keeps its next hops, or they would go and come with every try.
            if self.group.failure(k).is_some_and(|f| f.retry.is_some()) {
                if let Some(old) = self.put_off.insert(k, e) {
                    self.ids.release_members(&old);
                }
            } else {
                self.ids.release_members(&e);
            }
        }
        self.release_put_off();
        if self.group.unplaced(k) {
            self.recompile_routes = true;
        }
        let gone = stood && self.group.acked(k).is_none();
        if gone {
            self.ids.touched_groups.insert(k);
        }
        if (gone || freed) && self.group.starved() {
            self.ids.touched_groups.extend(self.group.room(now));
            self.recompile_routes = true;
        }
    }
}

/// How many buckets a group has in the chip.
fn buckets(e: &GroupEntry) -> usize {
    e.resilient.filter(|_| !e.members.is_empty()).map_or(0, |r| r.buckets.into())
}

fn route_op<F: RouteFamily>(vrf: VrfId, s: &Sent<F>) -> Op {
    let key = RouteKey { vrf, prefix: s.prefix };
    match s.to.fwd() {
        Some(fwd) => Op::Set(F::record(key, fwd)),
        None => Op::Remove(F::key(key)),
    }
}

fn neigh<F: MirrorFamily>(f: &Facts<'_>, k: NeighKey<F>) -> Option<hal::NeighEntry> {
    let n = f.mirror.neigh::<F>(k.rif.0, k.addr)?;
    compile::neigh::neigh(f, k.rif.0, n).ok()
}

impl Program {
    /// How many entries of a table the chip acknowledged.
    pub fn used(&self, t: TableId) -> usize {
        match t {
            TableId::Port => 0,
            TableId::Switch => self.switch.len(),
            TableId::Fid => self.fid.len(),
            TableId::BridgePort => self.bridge_port.len(),
            TableId::FidMember => self.member.len(),
            TableId::FdbStatic => self.station.len(),
            TableId::Fdb => 0,
            TableId::Rif => self.rif.len(),
            TableId::Neigh4 => self.neigh4.len(),
            TableId::Neigh6 => self.neigh6.len(),
            TableId::NextHop => self.nexthop.len(),
            TableId::Group => self.group.len(),
            TableId::Bucket => self.group.all().map(|(_, e)| buckets(e)).sum(),
            TableId::Route4 => self.route4.len() + self.vrfs.iter().map(|(_, v)| v.route4.len()).sum::<usize>(),
            TableId::Route6 => self.route6.len() + self.vrfs.iter().map(|(_, v)| v.route6.len()).sum::<usize>(),
        }
    }

    /// The record that the chip acknowledged under a key.
    pub fn acked(&self, key: AnyKey) -> Option<Record> {
        Some(match key {
            AnyKey::Port(_) | AnyKey::Bucket(_) | AnyKey::Fdb(_) => return None,
            AnyKey::Fid(k) => Record::Fid(k, self.fid.acked(k)?.clone()),
            AnyKey::BridgePort(k) => Record::BridgePort(k, self.bridge_port.acked(k)?.clone()),
            AnyKey::FidMember(k) => Record::FidMember(k, self.member.acked(k)?.clone()),
            AnyKey::FdbStatic(k) => Record::FdbStatic(k, *self.station.acked(k)?),
            AnyKey::Switch(k) => Record::Switch(k, self.switch.acked(k)?.clone()),
            AnyKey::Rif(k) => Record::Rif(k, self.rif.acked(k)?.clone()),
            AnyKey::Neigh4(k) => Record::Neigh4(k, self.neigh4.acked(k)?.clone()),
            AnyKey::Neigh6(k) => Record::Neigh6(k, self.neigh6.acked(k)?.clone()),
            AnyKey::NextHop(k) => Record::NextHop(k, self.nexthop.acked(k)?.clone()),
            AnyKey::Group(k) => Record::Group(k, self.group.acked(k)?.clone()),
            AnyKey::Route4(k) => Record::Route4(k, V4::routes(self, k.vrf)?.acked(k.prefix)?),
            AnyKey::Route6(k) => Record::Route6(k, V6::routes(self, k.vrf)?.acked(k.prefix)?),
        })
    }

    /// Whether the chip says of a bucket what may be: it is one of a group that was acknowledged, and leads to a member of that.
    pub fn bucket_fits(&self, k: BucketKey, e: &BucketEntry) -> bool {
        self.group
            .acked(k.group)
            .is_some_and(|g| usize::from(k.index) < buckets(g) && g.members.iter().any(|m| m.nexthop == e.nexthop))
    }

    /// The verdict that the prefix should have if there is room for it.
    pub fn verdict<F: MirrorFamily>(&mut self, f: &Facts<'_>, vrf: VrfId, p: Prefix<F>) -> Option<Fwd> {
        verdict(f, vrf, p, &mut self.ids, &self.rif, &self.group)
    }
}
