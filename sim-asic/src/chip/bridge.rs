//! The writer's side of bridges: contract keys to indices, references, what a dump answers, and what is reported of stations.
//!
//! Not here: how readers find a station (`table::fdb`) and what becomes of frames (`stage::bridge`).

use std::os::fd::OwnedFd;

use hal::{
    BridgePortEntry, BridgePortId, Event, FdbKey, FdbVerdict, FidEntry, FidId, Mac, MemberEntry, MemberKey, Nanos,
    PortId, Profile, Reason, Record, RifEntry, RifKind, StaticKey, TableId,
};

use super::SimChip;
use crate::table::bridge::{BridgePort, Bridged, Fid, Membership};
use crate::table::fdb::{Fdb, Known, News, TICK};
use crate::table::ids::Ids;
use crate::table::indices;
use crate::table::takers::TagWord;

/// Most FIDs and bridge ports, so that their indices fit into a station's cell.
pub(super) const FIDS: u32 = Fdb::FIDS / 2 - 16;
pub(super) const PORTS: u32 = 1 << 12;
/// Cells that are looked at for aged stations in one poll.
const AGED: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Bridging {
    fids: Ids<FidId, FidEntry>,
    ports: Ids<BridgePortId, BridgePortEntry>,
    members: Ids<MemberKey, MemberEntry>,
    stations: Ids<StaticKey, FdbVerdict>,
    /// Where ageing goes on, and when it began its last round.
    aged: Option<usize>,
    round: Nanos,
}

impl Bridging {
    pub(super) fn new(p: &Profile) -> Self {
        Bridging {
            fids: Ids::new(p.fids, indices(p.fids)),
            ports: Ids::new(p.bridge_ports, indices(p.bridge_ports)),
            members: Ids::new(u32::MAX, u32::MAX),
            stations: Ids::new(p.fdb, indices(p.fdb)),
            aged: None,
            round: 0,
        }
    }
}

fn tag(e: &FidEntry) -> u32 {
    e.tag.map_or(0, |t| TagWord::tag(t.tpid == hal::Tpid::Dot1ad, t.vid))
}

impl SimChip {
    pub(crate) fn fid_id(&self, index: u32) -> Option<FidId> {
        self.bridging.fids.key(index)
    }
    pub(crate) fn bridge_port_id(&self, index: u32) -> Option<BridgePortId> {
        self.bridging.ports.key(index)
    }

    // ------------------------------------------------------------ FIDs

    pub(super) fn fid_index(&self, id: FidId) -> Result<u32, Reason> {
        self.bridging.fids.present(&id).ok_or(Reason::MissingRef(id.into()))
    }

    pub(super) fn set_fid(&mut self, id: FidId, e: &FidEntry) -> Result<(), Reason> {
        if let Some(t) = e.tag.filter(|t| !(1..=4094).contains(&t.vid)) {
            return Err(Reason::Unsupported(format!("VLAN tag {t}")));
        }
        if !self.bridging.fids.has_room(&id) {
            return Err(self.full(TableId::Fid));
        }
        let Some((i, _)) = self.bridging.fids.index(id, &self.epochs) else { return Err(self.full(TableId::Fid)) };
        let was = self.bridging.fids.put(i, Some(e.clone()));
        let moved = was.as_ref().is_some_and(|w| w.tag != e.tag);
        if moved {
            self.write_vlans(id, was.as_ref(), None);
        }
        self.tables.bridges.set_fid(i, Some(Fid::new(e, tag(e))));
        if moved || was.is_none() {
            self.write_vlans(id, None, Some(e));
        }
        if e.ageing == 0 {
            // None is kept for a moment.
            self.tables.bridges.fdb.flush(true, |fid, _, _| fid == i);
            self.report();
        }
        Ok(())
    }

    pub(super) fn remove_fid(&mut self, id: FidId) {
        let Some(i) = self.bridging.fids.present(&id) else { return };
        self.bridging.fids.put(i, None);
        self.tables.bridges.set_fid(i, None);
        // No news: the agent took all of them away, and the bridge may still know them.
        self.tables.bridges.fdb.flush(false, |fid, _, _| fid == i);
        self.report();
        self.sweep_fid(i);
    }

    fn sweep_fid(&mut self, i: u32) {
        if self.bridging.fids.idle(i) {
            self.bridging.fids.free(i, &self.epochs);
        }
    }

    fn release_fid(&mut self, i: u32) {
        self.bridging.fids.release(i);
        self.sweep_fid(i);
    }

    pub(super) fn hold_fid_of(&mut self, e: &RifEntry) {
        if let RifKind::Fid(f) = e.kind
            && let Some(i) = self.bridging.fids.known(&f)
        {
            self.bridging.fids.hold(i);
        }
    }

    pub(super) fn release_fid_of(&mut self, e: &RifEntry) {
        if let RifKind::Fid(f) = e.kind
            && let Some(i) = self.bridging.fids.known(&f)
        {
            self.release_fid(i);
        }
    }

    /// Which of its members' tagged frames are the FID's: no longer by the old tag, and by the new one.
    fn write_vlans(&self, id: FidId, was: Option<&FidEntry>, now: Option<&FidEntry>) {
        let b = &self.bridging;
        b.members.scan(0, usize::MAX, |k, m| {
            if k.fid == id
                && let (Some(port), Some(fid)) = (b.ports.known(&k.port), b.fids.known(&id))
            {
                if let Some(t) = was.and_then(|e| e.tag) {
                    self.tables.bridges.set_vlan(port, t.vid, None);
                }
                if let Some((t, e)) = now.and_then(|e| e.tag).zip(b.members.entry(m)) {
                    self.tables.bridges.set_vlan(port, t.vid, Some((fid, e.state)));
                }
            }
            true
        });
    }

    // ------------------------------------------------------------ bridge ports

    pub(super) fn set_bridge_port(&mut self, id: BridgePortId, e: &BridgePortEntry) -> Result<(), Reason> {
        let untagged = e.untagged.map(|f| self.fid_index(f)).transpose()?;
        if (e.ingress || e.egress) && e.port.0 as usize >= self.ports.len() {
            return Err(Reason::MissingRef(e.port.into()));
        }
        if !self.bridging.ports.has_room(&id) {
            return Err(self.full(TableId::BridgePort));
        }
        let Some((i, _)) = self.bridging.ports.index(id, &self.epochs) else {
            return Err(self.full(TableId::BridgePort));
        };
        untagged.into_iter().for_each(|f| self.bridging.fids.hold(f));
        self.tables.bridges.set_port(i, Some(BridgePort::new(e, untagged)));
        let was = self.bridging.ports.put(i, Some(e.clone()));
        if was.as_ref().map(|w| w.port) != Some(e.port) {
            was.iter().for_each(|w| self.write_of(w.port));
            self.write_of(e.port);
        }
        self.release_untagged(was);
        Ok(())
    }

    pub(super) fn remove_bridge_port(&mut self, id: BridgePortId) {
        let Some(i) = self.bridging.ports.present(&id) else { return };
        let was = self.bridging.ports.put(i, None);
        was.iter().for_each(|w| self.write_of(w.port));
        self.tables.bridges.set_port(i, None);
        self.flush(|_, _, port| port == i);
        self.release_untagged(was);
        self.sweep_port(i);
    }

    fn release_untagged(&mut self, was: Option<BridgePortEntry>) {
        if let Some(i) = was.and_then(|e| e.untagged).and_then(|f| self.bridging.fids.known(&f)) {
            self.release_fid(i);
        }
    }

    fn sweep_port(&mut self, i: u32) {
        if self.bridging.ports.idle(i) {
            self.bridging.ports.free(i, &self.epochs);
        }
    }

    fn release_port(&mut self, i: u32) {
        self.bridging.ports.release(i);
        self.sweep_port(i);
    }

    /// Which bridge port a front-panel port is.
    fn write_of(&self, port: PortId) {
        let mut of = Bridged::No;
        self.bridging.ports.scan(0, usize::MAX, |_, i| {
            if self.bridging.ports.entry(i).is_some_and(|e| e.port == port) {
                of = if of == Bridged::No { Bridged::As(i) } else { Bridged::Disputed };
            }
            true
        });
        self.tables.bridges.set_of(port, of);
    }

    // ------------------------------------------------------------ members

    pub(super) fn set_member(&mut self, k: MemberKey, e: &MemberEntry) -> Result<(), Reason> {
        let fid = self.fid_index(k.fid)?;
        let port = self.bridging.ports.present(&k.port).ok_or(Reason::MissingRef(k.port.into()))?;
        let Some((i, made)) = self.bridging.members.index(k, &self.epochs) else {
            return Err(self.full(TableId::FidMember));
        };
        if made {
            self.bridging.fids.hold(fid);
            self.bridging.ports.hold(port);
        }
        self.bridging.members.put(i, Some(e.clone()));
        let b = &self.tables.bridges;
        if let Some(t) = self.bridging.fids.entry(fid).and_then(|f| f.tag) {
            b.set_vlan(port, t.vid, Some((fid, e.state)));
        }
        b.set_member(fid, port, Some(Membership { tagged: e.tagged, state: e.state }));
        Ok(())
    }

    pub(super) fn remove_member(&mut self, k: MemberKey) {
        let Some(i) = self.bridging.members.present(&k) else { return };
        self.bridging.members.put(i, None);
        if let (Some(fid), Some(port)) = (self.bridging.fids.known(&k.fid), self.bridging.ports.known(&k.port)) {
            let b = &self.tables.bridges;
            b.set_member(fid, port, None);
            if let Some(t) = self.bridging.fids.entry(fid).and_then(|f| f.tag)
                && b.vlan(port, t.vid).is_some_and(|(f, _)| f == fid)
            {
                b.set_vlan(port, t.vid, None);
            }
            // Whoever is not in a VLAN any more has no stations there. No news: the agent took it out.
            self.tables.bridges.fdb.flush(false, |f, _, p| f == fid && p == port);
            self.bridging.members.free(i, &self.epochs);
            self.release_port(port);
            self.release_fid(fid);
        }
    }

    // ------------------------------------------------------------ stations

    pub(super) fn set_station(&mut self, key: StaticKey, v: FdbVerdict) -> Result<(), Reason> {
        let StaticKey(k) = key;
        let fid = self.fid_index(k.fid)?;
        if !k.mac.is_unicast() || k.mac == Mac([0; 6]) {
            return Err(Reason::Unsupported(format!("{} is not the address of one station", k.mac)));
        }
        let known = match v {
            FdbVerdict::Port(p) => Known::Port(self.bridging.ports.present(&p).ok_or(Reason::MissingRef(p.into()))?),
            FdbVerdict::Route(r) => Known::Route(self.rif_index(r)?),
            FdbVerdict::Trap(c) => Known::Trap(c),
        };
        if !self.bridging.stations.has_room(&key) || !self.tables.bridges.fdb.fix(fid, k.mac, known) {
            return Err(self.full(TableId::FdbStatic));
        }
        let Some((i, made)) = self.bridging.stations.index(key, &self.epochs) else {
            return Err(self.full(TableId::FdbStatic));
        };
        if made {
            self.bridging.fids.hold(fid);
        }
        match known {
            Known::Port(p) => self.bridging.ports.hold(p),
            Known::Route(r) => self.rifs.hold(r),
            Known::Trap(_) | Known::Learned(_) => {}
        }
        let was = self.bridging.stations.put(i, Some(v));
        self.release_verdict(was);
        Ok(())
    }

    fn release_verdict(&mut self, was: Option<FdbVerdict>) {
        match was {
            Some(FdbVerdict::Port(p)) => {
                if let Some(i) = self.bridging.ports.known(&p) {
                    self.release_port(i);
                }
            }
            Some(FdbVerdict::Route(r)) => {
                if let Some(i) = self.rifs.known(&r) {
                    self.release_rif(i);
                }
            }
            Some(FdbVerdict::Trap(_)) | None => {}
        }
    }

    pub(super) fn remove_station(&mut self, key: StaticKey) {
        let StaticKey(k) = key;
        let Some(i) = self.bridging.stations.present(&key) else { return };
        let was = self.bridging.stations.put(i, None);
        if let Some(fid) = self.bridging.fids.known(&k.fid) {
            self.tables.bridges.fdb.forget(fid, k.mac, false);
            self.bridging.stations.free(i, &self.epochs);
            self.release_fid(fid);
        }
        self.release_verdict(was);
    }

    pub(super) fn teach(&mut self, k: FdbKey, port: BridgePortId) -> Result<(), Reason> {
        let fid = self.fid_index(k.fid)?;
        let port = self.bridging.ports.present(&port).ok_or(Reason::MissingRef(port.into()))?;
        if !k.mac.is_unicast() || k.mac == Mac([0; 6]) {
            return Err(Reason::Unsupported(format!("{} is not the address of one station", k.mac)));
        }
        let taught = self.tables.bridges.fdb.teach(fid, k.mac, port);
        if taught { Ok(()) } else { Err(self.full(TableId::Fdb)) }
    }

    pub(super) fn forget(&mut self, k: FdbKey) {
        if let Some(fid) = self.bridging.fids.known(&k.fid) {
            self.tables.bridges.fdb.forget(fid, k.mac, true);
        }
    }

    /// Forget learned stations before what they refer to may become something else.
    fn flush(&mut self, f: impl FnMut(u32, Mac, u32) -> bool) {
        self.tables.bridges.fdb.flush(true, f);
        self.report();
    }

    /// What is to be rung, an eventfd, when stations were learned or forgotten: [`hal::Backend::poll`] has news then.
    pub fn set_bell(&self, bell: OwnedFd) {
        self.tables.bridges.fdb.set_bell(bell);
    }

    /// What happened to stations becomes events, while their indices are still theirs.
    fn report(&mut self) {
        let (news, lost) = self.tables.bridges.fdb.news();
        let b = &self.bridging;
        let key = |fid, mac| Some(FdbKey { fid: b.fids.key(fid)?, mac });
        self.events.extend(news.into_iter().filter_map(|n| match n {
            News::At(fid, mac, port) => Some(Event::Learned(key(fid, mac)?, b.ports.key(port)?)),
            News::Gone(fid, mac) => Some(Event::Aged(key(fid, mac)?)),
        }));
        if lost {
            self.events.push(Event::FdbLost);
        }
    }

    /// The time is `now`: stations that were idle for too long are forgotten, a bounded number of cells at a time.
    pub(super) fn age(&mut self, now: Nanos) {
        let fdb = &self.tables.bridges.fdb;
        fdb.tick((now / (TICK * 1_000_000)) as u32);
        if self.bridging.aged.is_some() || now.saturating_sub(self.bridging.round) >= TICK * 1_000_000 {
            if self.bridging.aged.is_none() {
                self.bridging.round = now;
            }
            let fids = &self.bridging.fids;
            let ageing = |fid| fids.entry(fid).map(|e| e.ageing.div_ceil(TICK as u32));
            self.bridging.aged = fdb.age(self.bridging.aged.unwrap_or(0), AGED, ageing);
        }
        self.report();
    }

    // ------------------------------------------------------------ dumps

    pub(super) fn dump_bridges(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
        let b = &self.bridging;
        match table {
            TableId::Fid => b.fids.page(cursor, max, |k, _, e| out.push(Record::Fid(k, e.clone()))),
            TableId::BridgePort => b.ports.page(cursor, max, |k, _, e| out.push(Record::BridgePort(k, e.clone()))),
            TableId::FidMember => b.members.page(cursor, max, |k, _, e| out.push(Record::FidMember(k, e.clone()))),
            TableId::FdbStatic => b.stations.page(cursor, max, |k, _, e| out.push(Record::FdbStatic(k, *e))),
            _ => self.tables.bridges.fdb.page(cursor, max, |fid, mac, port| {
                let record = b.fids.key(fid).zip(b.ports.key(port)).map(|(fid, p)| Record::Fdb(FdbKey { fid, mac }, p));
                out.extend(record);
            }),
        }
    }

    pub(super) fn bridges_used(&self, table: TableId) -> u32 {
        match table {
            TableId::Fid => self.bridging.fids.used(),
            TableId::BridgePort => self.bridging.ports.used(),
            TableId::FidMember => self.bridging.members.used(),
            TableId::FdbStatic => self.bridging.stations.used(),
            _ => self.tables.bridges.fdb.used().0,
        }
    }
}
