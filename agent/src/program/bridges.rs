//! Tables `fid`, `bridge-port`, `fid-member` and `fdb-static`: what they should be given what found no room, in which order they come
//! and go, and what follows from an answer. What the kernel's bridges come to is `compile/bridge.rs`.

use hal::{
    AnyKey, BridgePortEntry, BridgePortId, FdbKey, FdbVerdict, FidEntry, FidId, MemberEntry, MemberKey, Nanos, Op,
    Reason, StaticKey, TrapClass, table,
};

use super::small::Small;
use super::{Program, SMALL};
use crate::compile::{Facts, bridge};

/// What a FID should be, given which of its stations found no room: they must not pass for unknown ones.
pub(super) fn fid_of(f: &Facts<'_>, k: FidId, station: &Small<table::FdbStatic>) -> Option<FidEntry> {
    let e = bridge::fid(f, k)?;
    let unknown = e.unknown && station.failures().all(|s| s.0.fid != k);
    Some(FidEntry { unknown, ..e })
}

/// What a bridge port should be, given which FIDs found no room: their frames must not pass for those of a VLAN that it is not in.
pub(super) fn bridge_port_of(f: &Facts<'_>, k: BridgePortId, fid: &Small<table::Fid>) -> Option<BridgePortEntry> {
    let e = bridge::bridge_port(f, k)?.entry;
    let full = fid.failures().any(|u| bridge::member(f, MemberKey { fid: u, port: k }).is_some());
    Some(if full { bridge::closed(&e) } else { e })
}

/// How a port should be a member of a FID, given which of the two found no room.
pub(super) fn member_of(
    f: &Facts<'_>,
    k: MemberKey,
    fid: &Small<table::Fid>,
    port: &Small<table::BridgePort>,
) -> Option<MemberEntry> {
    bridge::member(f, k).filter(|_| !fid.unplaced(k.fid) && !port.unplaced(k.port))
}

/// What a station should be, given which FIDs and bridge ports found no room.
pub(super) fn station_of(
    f: &Facts<'_>,
    k: StaticKey,
    fid: &Small<table::Fid>,
    port: &Small<table::BridgePort>,
) -> Option<FdbVerdict> {
    match bridge::station(f, k.0).filter(|_| !fid.unplaced(k.0.fid))? {
        FdbVerdict::Port(p) if port.unplaced(p) => Some(FdbVerdict::Trap(TrapClass::NoRoom)),
        v => Some(v),
    }
}

/// What came of answers that others have to look at.
#[derive(Debug, Default)]
pub struct News {
    /// Bridge ports have come into FIDs, or left.
    pub joined: bool,
    /// FIDs and bridge ports that had found no room stand now: what belongs to them was not even tried.
    pub placed: Vec<AnyKey>,
    /// Stations that the chip was to hold as learned and refused.
    pub untaught: Vec<FdbKey>,
}

impl Program {
    /// Compile what was touched.
    pub(super) fn plan_bridges(
        &mut self,
        now: Nanos,
        f: &Facts<'_>,
        sets: &mut [Vec<Op>; SMALL],
        removes: &mut [Vec<Op>; SMALL],
    ) {
        let (fid, bridge_port) = (&self.fid, &self.bridge_port);
        self.station.plan(
            now,
            false,
            |k, _| station_of(f, k, fid, bridge_port),
            |_| Some(FdbVerdict::Trap(TrapClass::NoRoom)),
            &mut sets[5],
            &mut removes[5],
        );
        self.member.plan(now, false, |k, _| member_of(f, k, fid, bridge_port), |_| None, &mut sets[3], &mut removes[3]);
        self.bridge_port.plan(
            now,
            false,
            |k, _| bridge_port_of(f, k, fid),
            |e| Some(bridge::closed(e)),
            &mut sets[2],
            &mut removes[2],
        );
        // A FID begins and ends without flooding: no frame meets some of its members, or the switch's own addresses as strangers.
        let standing = self.bridged();
        let (station, quiet) = (&self.station, &mut self.quiet);
        self.fid.plan(
            now,
            false,
            |k, acked| {
                let Some(e) = fid_of(f, k, station) else {
                    return acked.filter(|a| **a != bridge::quiet(a)).map(|a| {
                        quiet.insert(k);
                        bridge::quiet(a)
                    });
                };
                let silent = acked.is_none_or(|a| *a == bridge::quiet(a));
                if silent && !standing && e != bridge::quiet(&e) {
                    quiet.insert(k);
                    return Some(bridge::quiet(&e));
                }
                Some(e)
            },
            |e| Some(bridge::quiet(e)),
            &mut sets[1],
            &mut removes[1],
        );
    }

    /// Whether members and stations of all FIDs are as they should be: then those that were kept quiet need not be any more.
    pub(super) fn bridged(&mut self) -> bool {
        let stand = self.member.clean() && self.member.idle() && self.station.clean() && self.station.idle();
        if stand {
            core::mem::take(&mut self.quiet).into_iter().for_each(|k| self.fid.touch(k));
        }
        stand
    }

    /// Whether an entry has lost or found its place in the chip just now.
    fn found_place(&mut self, key: AnyKey, unplaced: bool, stands: bool) -> bool {
        if unplaced {
            return self.unplaced.insert(key);
        }
        let found = stands && self.unplaced.remove(&key);
        self.bridges.placed.extend(found.then_some(key));
        found
    }

    /// The chip answered.
    pub(super) fn done_bridges(&mut self, now: Nanos, key: AnyKey, why: Option<Reason>) {
        let removed = why.is_none();
        match key {
            AnyKey::Fid(k) => {
                self.fid.done(now, k, why);
                if self.found_place(key, self.fid.unplaced(k), self.fid.acked(k).is_some()) {
                    self.bridge_port.touch_all();
                    self.member.touch_if(|m| m.fid == k);
                    self.station.touch_if(|s| s.0.fid == k);
                }
                if removed && self.fid.acked(k).is_none() {
                    self.fid.room(now);
                }
            }
            AnyKey::BridgePort(k) => {
                self.bridge_port.done(now, k, why);
                if self.found_place(key, self.bridge_port.unplaced(k), self.bridge_port.acked(k).is_some()) {
                    self.member.touch_if(|m| m.port == k);
                    self.station.touch_all();
                }
                if removed && self.bridge_port.acked(k).is_none() {
                    self.bridge_port.room(now);
                }
            }
            AnyKey::FidMember(k) => {
                self.bridges.joined |= self.member.done(now, k, why).changed;
            }
            AnyKey::FdbStatic(k) => {
                if self.station.done(now, k, why).changed {
                    self.fid.touch(k.0.fid);
                }
                if removed && self.station.acked(k).is_none() {
                    self.station.room(now);
                }
            }
            AnyKey::Fdb(k) if why.is_some() => self.bridges.untaught.push(k),
            _ => {}
        }
    }
}
