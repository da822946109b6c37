//! Stations that the chip learns: told to the kernel, which has them as `extern_learn`; and what the kernel says of its own that the
//! chip has to follow: a flush, or a move made in software (kernel-facts 34).
//!
//! The chip's entries are the truth. A key that either side spoke of is looked at again; what is to be done follows from what the two
//! have now. Where stations are that are not learned is `compile/bridge.rs`.

use std::collections::{BTreeMap, BTreeSet};

use hal::{AnyKey, BridgePortId, Event, FdbKey, FidId, MemberKey, Op, Record, RifId, RifKind, StaticKey};

use super::Core;
use crate::compile::bridge::{NOARP, NTF_EXT_LEARNED};
use crate::compile::{Stand, bridge};
use crate::input::Output;
use crate::mirror::{PERMANENT, StationKey};
use crate::netlink::build::Builder;
use crate::netlink::{AF_BRIDGE, nlm, rtm};
use crate::placed::{Behind, Placed};
use crate::program::bridges::News;

/// Requests to the kernel that are under way at most.
const WINDOW: usize = 256;
/// `NTF_MASTER` (`linux/neighbour.h`)
const NTF_MASTER: u8 = 4;
/// `NUD_REACHABLE`
const NUD_REACHABLE: u16 = 2;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_NDM_STATE_MASK: u16 = 16;
const NDA_NDM_FLAGS_MASK: u16 = 17;

/// State of all this.
#[derive(Debug, Default)]
pub(super) struct Stations {
    /// What the chip has learned, as far as it told.
    chip: Placed<FdbKey, BridgePortId>,
    /// To be looked at, and whether the kernel forgot it meanwhile.
    todo: BTreeMap<FdbKey, bool>,
    /// To be looked at when ports have come into FIDs.
    later: BTreeSet<FdbKey>,
    /// What the kernel was asked for and has not answered.
    waiting: BTreeMap<u64, FdbKey>,
    /// What the chip has forgotten by itself, or did not have at the start: the kernel's copy goes.
    aged: BTreeSet<FdbKey>,
    /// What it was last asked to have, until it says something of it.
    asked: BTreeMap<FdbKey, Option<BridgePortId>>,
    /// Kernel and chip have been compared since the chip was read.
    read: bool,
    /// Told to the kernel, and followed from it.
    pub told: u64,
    pub followed: u64,
}

impl Behind for BridgePortId {
    fn device(&self) -> u32 {
        self.0
    }
}

impl Stations {
    /// The chip is about to be read anew.
    pub fn reset(&mut self) {
        self.chip.clear();
        self.todo.clear();
        self.later.clear();
        self.asked.clear();
        self.aged.clear();
        self.read = false;
    }
    /// The chip holds it.
    pub fn load(&mut self, k: FdbKey, port: BridgePortId) {
        self.chip.insert(k, port);
        self.todo.entry(k).or_default();
    }
    /// The kernel spoke of it.
    pub fn changed(&mut self, k: FdbKey, forgotten: bool) {
        self.asked.remove(&k);
        *self.todo.entry(k).or_default() |= forgotten;
    }
    /// It may be another's now.
    pub fn look(&mut self, k: FdbKey) {
        self.todo.entry(k).or_default();
    }
    /// Whether there is something to be done without waiting for anyone.
    pub fn busy(&self) -> bool {
        !self.todo.is_empty() && self.waiting.len() < WINDOW
    }
    /// Whether kernel and chip have been told all.
    pub fn settled(&self) -> bool {
        self.todo.is_empty() && self.waiting.is_empty()
    }
    /// Where the chip has learned it.
    pub fn learned_at(&self, k: FdbKey) -> Option<BridgePortId> {
        self.chip.get(&k).copied()
    }
    /// What the chip has learned, in order, from that key on.
    pub fn learned_from(&self, from: core::ops::Bound<FdbKey>) -> impl Iterator<Item = (&FdbKey, &BridgePortId)> {
        self.chip.range((from, core::ops::Bound::Unbounded))
    }
    /// Whether something is to be done about it, or under way.
    pub fn pending(&self, k: FdbKey) -> bool {
        let under_way = || self.waiting.values().any(|w| *w == k);
        self.todo.contains_key(&k) || self.later.contains(&k) || self.asked.contains_key(&k) || under_way()
    }
    /// How many the chip has learned.
    pub fn learned(&self) -> usize {
        self.chip.len()
    }
}

/// What is to be done about a station.
enum Do {
    Nothing,
    /// The kernel is to have it there.
    Tell(BridgePortId),
    /// The kernel is to forget its copy.
    Untell(u32),
    /// The chip is to have it there, and the kernel as ours.
    Teach(BridgePortId),
    /// As soon as its port is in the FID.
    Wait,
    /// The chip is to forget it.
    Forget,
}

impl Core {
    pub(super) fn stations_said(&mut self, e: Event) {
        let s = &mut self.stations;
        match e {
            Event::Learned(k, p) => {
                s.aged.remove(&k);
                s.chip.insert(k, p);
                s.look(k);
            }
            Event::Aged(k) => {
                s.aged.insert(k);
                s.chip.remove(&k);
                s.look(k);
            }
            Event::FdbLost => {
                tracing::warn!("the chip lost news of stations: its tables are read anew");
                self.reread_chip();
            }
            Event::Port(_) => {}
        }
    }

    /// All bridges, their ports and stations are compiled and compared again.
    pub(super) fn touch_bridges(&mut self) {
        let mut all: BTreeSet<u32> = self.mirror.links().filter(|l| l.kind == "bridge").map(|l| l.ifindex).collect();
        all.extend(self.program.fid.all().map(|(k, _)| bridge::split(k).0));
        all.into_iter().for_each(|b| self.touch_bridge(b));
        self.program.bridge_port.touch_all();
    }

    /// A bridge changed, or what is in it.
    pub(super) fn touch_bridge(&mut self, b: u32) {
        let ports: Vec<u32> = self.mirror.bridge_ports(b).collect();
        let mut vids: BTreeSet<u16> = self.mirror.vlans(b).map(|(vid, _)| vid).chain([0]).collect();
        ports.iter().for_each(|p| vids.extend(self.mirror.vlans(*p).map(|(vid, _)| vid)));
        for p in &ports {
            self.program.bridge_port.touch(BridgePortId(*p));
        }
        for fid in vids.into_iter().filter_map(|vid| bridge::fid_id(b, vid)) {
            self.program.fid.touch(fid);
            for p in &ports {
                self.program.member.touch(MemberKey { fid, port: BridgePortId(*p) });
            }
        }
        // What the chip has of it, whatever is left in the kernel.
        let of = |fid| bridge::split(fid).0 == b;
        let p = &mut self.program;
        p.fid.touch_if(|k| of(*k));
        p.member.touch_if(|k| of(k.fid));
        p.station.touch_if(|k| of(k.0.fid));
        p.bridge_port.touch_all();
        let stations: Vec<StationKey> = self.mirror.stations_of(b, None).collect();
        stations.iter().for_each(|k| self.touch_station(k, false));
        // What closes it closes its router interfaces.
        let on = |s: &Stand| matches!(s.on, RifKind::Fid(fid) if of(fid));
        self.ports.stands().filter(|(_, s)| on(s)).for_each(|(i, _)| self.program.rif.touch(RifId(i)));
    }

    /// A VLAN of a bridge, or of a port of one, came, went or changed.
    pub(super) fn touch_vlan(&mut self, dev: u32, vid: u16) {
        let b = bridge::master(&self.facts(), dev).unwrap_or(dev);
        let Some(fid) = bridge::fid_id(b, vid) else { return };
        let had = self.program.fid.known(fid);
        self.program.fid.touch(fid);
        if dev != b {
            self.program.member.touch(MemberKey { fid, port: BridgePortId(dev) });
            self.program.bridge_port.touch(BridgePortId(dev));
        }
        if !had || dev == b || bridge::fid(&self.facts(), fid).is_none() {
            let stations: Vec<StationKey> = self.mirror.stations_of(b, Some(vid)).collect();
            stations.iter().for_each(|k| self.touch_station(k, false));
        }
    }

    /// A bridge port's settings changed, or its device.
    pub(super) fn touch_bridge_port(&mut self, i: u32) {
        let id = BridgePortId(i);
        self.program.bridge_port.touch(id);
        let spec = bridge::bridge_port(&self.facts(), id);
        let opens = spec.as_ref().map(|s| (s.entry.ingress, s.entry.egress));
        let odd = self.mirror.link(i).and_then(|l| l.port.as_ref()).is_some_and(|p| p.odd_all.is_some());
        if odd || opens != self.program.bridge_port.acked(id).map(|e| (e.ingress, e.egress)) {
            let master = self.mirror.link(i).and_then(|l| l.master);
            master.into_iter().for_each(|b| self.touch_bridge(b));
        }
    }

    /// What was learned behind a device, or behind it in one VLAN of a bridge, is forgotten in the chip and in the kernel, which by itself
    /// forgets what it has learned there, and leaves what is ours to us.
    pub(super) fn stations_leave(&mut self, dev: u32, vlan: Option<(u32, u16)>) {
        let (first, last) = match vlan {
            Some((b, vid)) => StationKey::all(b, Some(vid)),
            None => (StationKey::all(0, None).0, StationKey::all(u32::MAX, None).1),
        };
        let copies = self.mirror.stations_behind(dev, first, last);
        let copies = copies.filter(|(_, s)| bridge::ours(s)).filter_map(|(k, _)| bridge::fdb_key(k));
        let key = |k: &StationKey, any| FdbKey { fid: bridge::fid_id(k.bridge, k.vid).unwrap_or(any), mac: k.mac };
        let there = self.stations.chip.behind(dev, key(&first, FidId(0)), key(&last, FidId(u32::MAX)));
        let all: BTreeSet<FdbKey> = there.map(|(k, _)| *k).chain(copies).collect();
        for k in all {
            self.stations.aged.insert(k);
            if self.stations.chip.remove(&k).is_some() {
                self.program.push(Op::Remove(k.into()));
            }
            self.stations.look(k);
        }
    }

    pub(super) fn touch_station(&mut self, k: &StationKey, forgotten: bool) {
        if let Some(k) = bridge::fdb_key(k) {
            self.program.station.touch(StaticKey(k));
            if forgotten { self.stations.changed(k, true) } else { self.stations.look(k) }
        }
    }

    /// The chip has been read: what the kernel holds as learned by it, and it does not but could, is outdated; so is what stands behind a
    /// port that left the VLAN meanwhile.
    pub(super) fn stations_read(&mut self) {
        let ours = || self.mirror.stations().filter(|(_, s)| bridge::ours(s));
        let facts = self.facts();
        let keys = ours()
            .filter(|(k, s)| bridge::learnable(&facts, k, s).is_some())
            .filter_map(|(k, _)| bridge::fdb_key(k))
            .filter(|k| self.stations.chip.get(k).is_none());
        let left = ours().filter(|(k, s)| k.vid != 0 && self.mirror.vlan(s.dev, k.vid).is_none());
        let left: BTreeSet<(u32, (u32, u16))> = left.map(|(k, s)| (s.dev, (k.bridge, k.vid))).collect();
        self.stations.aged = keys.collect();
        left.into_iter().for_each(|(dev, vlan)| self.stations_leave(dev, Some(vlan)));
    }

    pub(super) fn stations_work(&mut self) {
        if !self.programming() {
            return;
        }
        if !core::mem::replace(&mut self.stations.read, true) {
            self.stations_read();
        }
        while self.stations.waiting.len() < WINDOW
            && let Some((k, forgotten)) = self.stations.todo.pop_first()
        {
            let todo = self.station_todo(k, forgotten);
            self.station_do(k, todo);
        }
    }

    /// The chip answered.
    pub(super) fn bridges_answered(&mut self) {
        let News { joined, placed, untaught } = core::mem::take(&mut self.program.bridges);
        for key in placed {
            match key {
                AnyKey::Fid(k) => self.touch_bridge(bridge::split(k).0),
                AnyKey::BridgePort(p) => {
                    bridge::master(&self.facts(), p.0).into_iter().for_each(|b| self.touch_bridge(b));
                }
                _ => {}
            }
        }
        // One that found no room: the kernel does not hold it either, or nobody would ever say that it is gone.
        for k in untaught {
            self.stations.chip.remove(&k);
            self.stations.aged.insert(k);
            self.stations.look(k);
        }
        if joined {
            core::mem::take(&mut self.stations.later).into_iter().for_each(|k| self.stations.look(k));
        }
    }

    fn station_todo(&self, k: FdbKey, forgotten: bool) -> Do {
        let chip = self.stations.chip.get(&k).copied();
        let Some(s) = self.mirror.station(&bridge::station_key(k)) else {
            return match chip {
                None => Do::Nothing,
                Some(_) if forgotten => Do::Forget,
                // It left while no agent was there.
                Some(port) if bridge::member(&self.facts(), MemberKey { fid: k.fid, port }).is_none() => Do::Forget,
                Some(p) => Do::Tell(p),
            };
        };
        let ours = bridge::ours(s);
        if chip.is_none() && self.stations.aged.contains(&k) {
            if ours {
                return Do::Untell(s.dev);
            }
            // It will say that it is.
            if self.stations.asked.contains_key(&k) {
                return Do::Nothing;
            }
        }
        match (bridge::learnable(&self.facts(), &bridge::station_key(k), s), chip) {
            // Another table has it.
            (None, Some(_)) => Do::Forget,
            (None, None) => Do::Nothing,
            (Some(there), Some(p)) if there == p => {
                if ours {
                    Do::Nothing
                } else {
                    Do::Tell(p)
                }
            }
            (Some(_), Some(p)) if ours => Do::Tell(p),
            (Some(port), _) if self.program.member.acked(MemberKey { fid: k.fid, port }).is_none() => Do::Wait,
            (Some(there), _) => Do::Teach(there),
        }
    }

    fn station_do(&mut self, k: FdbKey, todo: Do) {
        if self.mirror.station(&bridge::station_key(k)).is_none() && !self.stations.asked.contains_key(&k) {
            self.stations.aged.remove(&k);
        }
        match todo {
            Do::Nothing => {}
            Do::Wait => {
                self.stations.later.insert(k);
            }
            Do::Tell(p) => self.tell(k, Some(p), p.0),
            Do::Untell(dev) => self.tell(k, None, dev),
            Do::Teach(p) => {
                self.stations.followed += 1;
                self.stations.chip.insert(k, p);
                self.program.push(Op::Set(Record::Fdb(k, p)));
                self.tell(k, Some(p), p.0);
            }
            Do::Forget => {
                self.stations.followed += 1;
                self.stations.chip.remove(&k);
                self.program.push(Op::Remove(AnyKey::Fdb(k)));
            }
        }
    }

    /// Have the kernel hold a station as learned by others, behind that port; or no longer.
    fn tell(&mut self, k: FdbKey, at: Option<BridgePortId>, dev: u32) {
        if self.stations.asked.get(&k) == Some(&at) {
            return;
        }
        // Without a VLAN the kernel does the same in each VLAN of the port, whether the bridge looks at them or not (`br_fdb_add`,
        // `br_fdb_delete`): what was there is put back.
        let (own, vid) = bridge::split(k.fid);
        let vids: Vec<u16> = self.mirror.vlans(dev).map(|(vid, _)| vid).filter(|_| vid == 0).collect();
        let mut after = Vec::new();
        for vid in vids {
            let key = StationKey { bridge: own, vid, mac: k.mac };
            let Some(k) = bridge::fdb_key(&key) else { continue };
            match self.mirror.station(&key) {
                // It could not be put back: the kernel goes without.
                Some(s) if bridge::fixed(s) => return,
                Some(s) if at.is_some() == (s.dev != dev) => after.push((k, true, s.dev)),
                None if at.is_some() => after.push((k, false, dev)),
                _ => {}
            }
        }
        self.stations.told += 1;
        self.stations.asked.insert(k, at);
        self.ask_kernel(k, at.is_some(), dev);
        after.into_iter().for_each(|(k, there, dev)| self.ask_kernel(k, there, dev));
    }

    fn ask_kernel(&mut self, k: FdbKey, there: bool, dev: u32) {
        let mut fixed = [0; 12];
        fixed[0] = AF_BRIDGE;
        fixed[4..8].copy_from_slice(&dev.to_ne_bytes());
        fixed[8..10].copy_from_slice(&NUD_REACHABLE.to_ne_bytes());
        fixed[10] = NTF_MASTER | if there { NTF_EXT_LEARNED } else { 0 };
        let (_, vid) = bridge::split(k.fid);
        let mut m = if !there && vid != 0 && self.mirror.vlan(dev, vid).is_none() {
            // One station is not deleted in a VLAN that its port has left (`br_fdb_delete`): all that are ours there are.
            fixed[8..10].fill(0);
            fixed[10] |= NTF_EXT_LEARNED;
            Builder::new(rtm::DELNEIGH, nlm::F_BULK, &fixed)
                .attr(NDA_NDM_STATE_MASK, &(PERMANENT | NOARP).to_ne_bytes())
                .attr(NDA_NDM_FLAGS_MASK, &[NTF_EXT_LEARNED])
        } else {
            let (kind, flags) =
                if there { (rtm::NEWNEIGH, nlm::F_CREATE | nlm::F_REPLACE) } else { (rtm::DELNEIGH, 0) };
            Builder::new(kind, flags, &fixed).attr(NDA_LLADDR, &k.mac.0)
        };
        if vid != 0 {
            m = m.attr(NDA_VLAN, &vid.to_ne_bytes());
        }
        let id = self.id();
        self.stations.waiting.insert(id, k);
        self.out.push_back(Output::Request { id, message: m.done() });
    }

    /// The kernel answered; `false`: it was not about a station.
    pub(super) fn station_ack(&mut self, id: u64, errno: i32, message: &str) -> bool {
        let Some(k) = self.stations.waiting.remove(&id) else { return false };
        // Where that changed nothing, the kernel says nothing more.
        let s = self.mirror.station(&bridge::station_key(k)).filter(|s| bridge::ours(s));
        if errno == 0 && self.stations.asked.get(&k) == Some(&s.map(|s| BridgePortId(s.dev))) {
            self.stations.asked.remove(&k);
        }
        if errno != 0 {
            // The device, the VLAN or the entry went meanwhile: news of that is on its way, or was here already.
            if self.stations.asked.remove(&k) == Some(None) {
                self.stations.aged.remove(&k);
            }
            if !matches!(errno, libc::ENOENT | libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP) {
                self.totals.refused_requests += 1;
                self.totals.last_refusal =
                    format!("the kernel refused to have {} as learned: error {errno} {message}", AnyKey::Fdb(k));
                tracing::warn!("{}", self.totals.last_refusal);
            }
        }
        true
    }
}
