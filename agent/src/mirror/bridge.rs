//! Bridges: which devices are their ports, their VLANs and stations. What the kernel says of a port's settings is part of its link.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{BridgePort, Link, Station, StationKey, Vlan};
use super::{DumpKind, Mirror};
use crate::placed::Placed;

/// So many devices may stand on one another in the kernel (`MAX_NEST_DEV`, `linux/netdevice.h`).
pub const STACKED: usize = 8;
/// `NUD_PERMANENT` (`linux/neighbour.h`): stations that are the switch itself.
pub const PERMANENT: u16 = 0x80;

#[derive(Clone, Default, Debug)]
pub(super) struct Bridges {
    /// By master: what it holds, be it a bridge or not.
    slaves: BTreeMap<u32, BTreeSet<u32>>,
    /// By device: what stands on it.
    uppers: BTreeMap<u32, BTreeSet<u32>>,
    /// By device and VID; a bridge's own are those of its own device.
    vlans: BTreeMap<(u32, u16), Vlan>,
    stations: Placed<StationKey, Station>,
}

impl Mirror {
    /// The devices whose master that is.
    pub fn bridge_ports(&self, bridge: u32) -> impl Iterator<Item = u32> + '_ {
        self.bridges.slaves.get(&bridge).into_iter().flatten().copied()
    }
    /// The devices that stand on that one.
    pub fn uppers(&self, lower: u32) -> impl Iterator<Item = &Link> {
        self.bridges.uppers.get(&lower).into_iter().flatten().filter_map(|i| self.link(*i))
    }
    /// The VLANs of a bridge or of a port of one.
    pub fn vlans(&self, dev: u32) -> impl Iterator<Item = (u16, &Vlan)> {
        self.bridges.vlans.range((dev, 0)..=(dev, u16::MAX)).map(|((_, vid), v)| (*vid, v))
    }
    /// Those of all devices, in order, from that one on.
    pub fn vlans_from(&self, from: core::ops::Bound<(u32, u16)>) -> impl Iterator<Item = (&(u32, u16), &Vlan)> {
        self.bridges.vlans.range((from, core::ops::Bound::Unbounded))
    }
    /// One of these.
    pub fn vlan(&self, dev: u32, vid: u16) -> Option<&Vlan> {
        self.bridges.vlans.get(&(dev, vid))
    }
    /// A station that a bridge knows.
    pub fn station(&self, k: &StationKey) -> Option<&Station> {
        self.bridges.stations.get(k)
    }
    /// All stations of all bridges.
    pub fn stations(&self) -> impl Iterator<Item = (&StationKey, &Station)> {
        self.bridges.stations.iter()
    }
    /// All stations of all bridges, in order, from that key on.
    pub fn stations_from(&self, from: core::ops::Bound<StationKey>) -> impl Iterator<Item = &StationKey> {
        self.bridges.stations.range((from, core::ops::Bound::Unbounded)).map(|(k, _)| k)
    }
    /// Those behind a device, from the first to the last.
    pub fn stations_behind(
        &self,
        dev: u32,
        first: StationKey,
        last: StationKey,
    ) -> impl Iterator<Item = (&StationKey, &Station)> {
        self.bridges.stations.behind(dev, first, last)
    }
    /// Those of a bridge, or of one of its VLANs.
    pub fn stations_of(&self, bridge: u32, vid: Option<u16>) -> impl Iterator<Item = StationKey> + '_ {
        let (first, last) = StationKey::all(bridge, vid);
        self.bridges.stations.range(first..=last).map(|(k, _)| *k)
    }

    /// A device has another master.
    pub(super) fn enslaved(&mut self, i: u32, was: Option<u32>, now: Option<u32>) {
        if was == now {
            return;
        }
        if let Some(m) = was {
            if let Some(s) = self.bridges.slaves.get_mut(&m) {
                s.remove(&i);
            }
            // Its bridge may look at its other ports with other eyes.
            self.dirt.links.insert(m);
            // A bridge has VLANs of its own, whatever it is in: it is no port of another.
            if self.link(i).is_none_or(|l| l.bridge.is_none()) {
                self.vlans_left(i);
            }
            self.dirt.forgets.insert((i, None));
        }
        if let Some(m) = now {
            self.bridges.slaves.entry(m).or_default().insert(i);
            self.dirt.links.insert(m);
        }
    }

    /// A device changed that stands on others, or stood: bridges, and ports of bridges, work otherwise below some.
    pub(super) fn stacked(&mut self, i: u32, was: Option<u32>, now: Option<u32>) {
        if was != now {
            if let Some(u) = was.and_then(|w| self.bridges.uppers.get_mut(&w)) {
                u.remove(&i);
            }
            if let Some(n) = now {
                self.bridges.uppers.entry(n).or_default().insert(i);
            }
        }
        for mut below in [was, now].into_iter().flatten() {
            for _ in 0..=STACKED {
                let Some(l) = self.link(below) else { break };
                let (lower, hears) = (l.lower, l.bridge.as_ref().is_some_and(|b| b.promiscuous));
                if l.bridge.is_some() || l.master.is_some() {
                    self.dirt.links.insert(below);
                }
                // It may have been for this one alone: then it ended, and nothing says so.
                if hears {
                    self.dirt.wanted.insert(DumpKind::Link);
                }
                let Some(lower) = lower else { break };
                below = lower;
            }
        }
    }

    /// A device is gone, and with it what is its own.
    pub(super) fn bridge_gone(&mut self, i: u32) {
        self.bridges.slaves.remove(&i);
        self.vlans_left(i);
        let gone: Vec<_> = self.stations_of(i, None).collect();
        gone.iter().for_each(|k| self.station_gone(k));
        let ((first, _), (_, last)) = (StationKey::all(0, None), StationKey::all(u32::MAX, None));
        let left: Vec<_> = self.stations_behind(i, first, last).map(|(k, s)| (*k, *s)).collect();
        for (k, s) in left {
            match self.holder(&k).filter(|_| s.state & PERMANENT != 0) {
                Some(dev) => self.station_new(k, Station { dev, ..s }),
                None => self.station_gone(&k),
            }
        }
    }

    /// The device whose own address an entry of a bridge is. Where that one goes, the kernel gives the entry to another that has the same,
    /// and says nothing of it (`fdb_delete_local`).
    fn holder(&self, k: &StationKey) -> Option<u32> {
        let holds = |i: &u32| self.link(*i).is_some_and(|l| l.mac == Some(k.mac));
        let within = |i: &u32| k.vid == 0 || self.vlan(*i, k.vid).is_some();
        self.bridge_ports(k.bridge).chain([k.bridge]).find(|i| holds(i) && within(i))
    }

    /// The settings of a bridge port, by a message of its own.
    pub(super) fn bridge_port_said(&mut self, i: u32, p: BridgePort) {
        if let Some(l) = self.ctx.links.get_mut(&i)
            && l.port.as_ref() != Some(&p)
        {
            l.port = Some(p);
            self.dirt.bridge_ports.insert(i);
        }
    }

    pub(super) fn vlan_new(&mut self, i: u32, vid: u16, v: Vlan) {
        if v.flags & Vlan::PVID != 0 {
            // There is one at a time; the kernel says nothing of the one before.
            let others: Vec<u16> =
                self.vlans(i).filter(|(o, w)| *o != vid && w.flags & Vlan::PVID != 0).map(|(o, _)| o).collect();
            for o in others {
                if let Some(w) = self.bridges.vlans.get_mut(&(i, o)) {
                    w.flags &= !Vlan::PVID;
                }
                self.vlan_changed(i, o);
            }
        }
        if self.bridges.vlans.insert((i, vid), v) != Some(v) {
            self.vlan_changed(i, vid);
        }
    }

    fn vlan_changed(&mut self, i: u32, vid: u16) {
        self.dirt.vlans.insert((i, vid));
        // By its own VLANs a bridge, and what stands on it, has packets to route.
        self.dirt.stacks |= self.link(i).is_some_and(|l| l.bridge.is_some());
    }

    pub(super) fn vlan_gone(&mut self, i: u32, vid: u16) {
        self.seen.vlans.remove(&(i, vid));
        if self.bridges.vlans.remove(&(i, vid)).is_some() {
            if let Some(master) = self.link(i).and_then(|l| l.master) {
                self.dirt.forgets.insert((i, Some((master, vid))));
            }
            self.vlan_changed(i, vid);
        }
    }

    /// A device has no VLANs any more.
    fn vlans_left(&mut self, i: u32) {
        let gone: Vec<u16> = self.vlans(i).map(|(vid, _)| vid).collect();
        gone.into_iter().for_each(|vid| self.vlan_gone(i, vid));
    }

    pub(super) fn vlans_gone(&mut self, f: impl Fn(&(u32, u16)) -> bool) {
        let gone: Vec<_> = self.bridges.vlans.keys().copied().filter(f).collect();
        gone.into_iter().for_each(|(i, vid)| self.vlan_gone(i, vid));
    }

    pub(super) fn station_new(&mut self, k: StationKey, s: Station) {
        if self.bridges.stations.insert(k, s) != Some(s) {
            self.dirt.stations.entry(k).or_default();
        }
    }

    pub(super) fn station_gone(&mut self, k: &StationKey) {
        self.seen.stations.remove(k);
        if self.bridges.stations.remove(k).is_some() {
            self.dirt.stations.insert(*k, true);
        }
    }
}
