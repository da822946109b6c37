//! Tables `fid`, `bridge-port`, `fid-member` and `fdb-static`: the kernel's bridges whose ports are front-panel ports.
//!
//! A FID is a VLAN of a bridge, or a bridge that does not look at tags. What the bridge itself takes part in, its own device being
//! always there to hear, is trapped where it is for many: the kernel floods it then. Stations that the chip learns are `core/stations.rs`.

use hal::{
    BridgePortEntry, BridgePortId, FdbKey, FdbVerdict, FidEntry, FidId, MemberEntry, MemberKey, RifId, StpState, Tag,
    TrapClass,
};

use super::group::IFF_UP;
use super::{Facts, Why};
use crate::mirror::{Bridge, BridgePort, Link, Mirror, PERMANENT, STACKED, Station, StationKey, Vlan};
use crate::policy::Scope;
use crate::policy::link::addressed_by_ip;

/// `NUD_NOARP` (`linux/neighbour.h`): stations that are where they were put.
pub const NOARP: u16 = 0x40;
/// `NTF_STICKY`, `NTF_EXT_LEARNED`
pub const NTF_STICKY: u8 = 0x40;
/// See [`NTF_STICKY`].
pub const NTF_EXT_LEARNED: u8 = 0x10;

/// The name of a bridge's VLAN in the chip; none for devices of very high index.
pub fn fid_id(bridge: u32, vid: u16) -> Option<FidId> {
    (bridge < 1 << 20).then(|| FidId(bridge << 12 | u32::from(vid & 0xfff)))
}

/// The bridge and the VLAN that a name stands for.
pub fn split(fid: FidId) -> (u32, u16) {
    (fid.0 >> 12, fid.0 as u16 & 0xfff)
}

/// A FID without flooding.
pub fn quiet(e: &FidEntry) -> FidEntry {
    FidEntry { unknown: false, broadcast: false, multicast: false, ..e.clone() }
}

/// A bridge port that traps: the form that no chip refuses.
pub fn closed(e: &BridgePortEntry) -> BridgePortEntry {
    BridgePortEntry { ingress: false, egress: false, untagged: None, ..e.clone() }
}

/// What stands on a device and has an address of its own, which makes a bridge at the bottom hear all, and nothing says so
/// (`__dev_set_rx_mode`; VLAN devices hand the addresses down, `vlan_dev_set_rx_mode`).
fn own_mac<'a>(m: &'a Mirror, lower: &Link, depth: usize) -> Option<&'a Link> {
    let mut uppers = m.uppers(lower.ifindex).filter(|l| l.flags & IFF_UP != 0 && !addressed_by_ip(&l.kind));
    uppers.find_map(|l| if l.mac == lower.mac && depth > 0 { own_mac(m, l, depth - 1) } else { Some(l) })
}

/// A bridge that hardware can forward for, and its settings.
///
/// # Errors
/// Why it does not.
pub fn bridge<'a>(f: &Facts<'a>, ifindex: u32) -> Result<(&'a Link, &'a Bridge), Why> {
    let link = f.mirror.link(ifindex).ok_or(Why::NoLink)?;
    let all = || {
        let b = link.bridge.as_ref().ok_or_else(|| Why::Master(link.name.clone()))?;
        if link.flags & IFF_UP == 0 {
            return Err(Why::AdminDown);
        }
        if let Some(upper) = own_mac(f.mirror, link, STACKED) {
            return Err(Why::OwnMac(upper.name.clone()));
        }
        if b.promiscuous {
            return Err(Why::BridgeSetting("promiscuous mode"));
        }
        if let Some(odd) = b.odd {
            return Err(Why::BridgeSetting(odd));
        }
        if b.tpid.is_none() {
            return Err(Why::BridgeSetting("vlan_protocol"));
        }
        if fid_id(ifindex, 0).is_none() {
            return Err(Why::BridgeSetting("an index of a million or more"));
        }
        if let Some(found) = f.gate.closed(&[Scope::All, Scope::Bridge]) {
            return Err(Why::Policy(found.why.clone()));
        }
        for p in f.mirror.bridge_ports(ifindex) {
            let Some(port) = f.mirror.link(p).and_then(|l| l.port.as_ref()) else {
                return Err(Why::NoLink);
            };
            if let Some(odd) = port.odd_all {
                return Err(Why::BridgeSetting(odd));
            }
        }
        Ok((link, b))
    };
    all().map_err(|why| Why::Bridge(link.name.clone(), Box::new(why)))
}

/// A bridge port and what keeps it closed.
#[derive(Clone, PartialEq, Debug)]
pub struct BridgePortSpec {
    /// What the chip should hold.
    pub entry: BridgePortEntry,
    /// Why what comes in by it is trapped.
    pub ingress: Option<Why>,
    /// Why what would leave by it is trapped.
    pub egress: Option<Why>,
}

/// The bridge that a device is a port of.
pub fn master(f: &Facts<'_>, ifindex: u32) -> Option<u32> {
    let link = f.mirror.link(ifindex)?;
    link.master.filter(|m| f.mirror.link(*m).is_some_and(|l| l.kind == "bridge"))
}

/// The FID whose packets a bridge's own device routes, or a VLAN device on it with that tag: frames come up to it from that FID alone,
/// and what it sends goes into that one (`br_pass_frame_up`, `br_dev_xmit`).
pub fn svi(m: &Mirror, own: u32, b: &Bridge, tag: Option<Tag>) -> Option<FidId> {
    let plays = |v: &Vlan| state(v.state) == StpState::Forwarding && !v.odd;
    let bare = |v: &Vlan| v.flags & Vlan::UNTAGGED != 0;
    match (b.filtering, tag) {
        (false, None) => fid_id(own, 0),
        (true, None) => {
            let (vid, _) = m.vlans(own).find(|(_, v)| v.flags & Vlan::PVID != 0 && bare(v) && plays(v))?;
            fid_id(own, vid)
        }
        (true, Some(t)) => {
            m.vlan(own, t.vid).filter(|v| Some(t.tpid) == b.tpid && !bare(v) && plays(v))?;
            fid_id(own, t.vid)
        }
        // The tag is payload to the bridge.
        (false, Some(_)) => None,
    }
}

fn state(state: u8) -> StpState {
    // BR_STATE_LEARNING, BR_STATE_FORWARDING
    match state {
        2 => StpState::Learning,
        3 => StpState::Forwarding,
        _ => StpState::Blocking,
    }
}

/// What closes a bridge port both ways.
fn both(f: &Facts<'_>, ifindex: u32, link: &Link) -> Option<Why> {
    if link.flags & IFF_UP == 0 {
        return Some(Why::AdminDown);
    }
    if link.xdp {
        return Some(Why::Xdp);
    }
    f.gate.closed(&[Scope::Link(ifindex)]).map(|p| Why::Policy(p.why.clone()))
}

/// What the chip should hold for the front-panel port whose netdev has that index; `None` if it is no port of a bridge.
pub fn bridge_port(f: &Facts<'_>, id: BridgePortId) -> Option<BridgePortSpec> {
    let (port, _) = f.ports.get(id.0)?;
    let own = master(f, id.0)?;
    let link = f.mirror.link(id.0)?;
    let none = BridgePort::default();
    let p = link.port.as_ref();
    let open = bridge(f, own);
    let shut =
        open.as_ref().err().cloned().or_else(|| p.is_none().then_some(Why::NoLink)).or_else(|| both(f, id.0, link));
    let odd = |o: Option<&'static str>| o.map(Why::BridgeSetting);
    let vlans = || f.mirror.vlans(id.0).any(|(_, v)| v.odd).then_some(Why::BridgeSetting("an option of a VLAN"));
    let upper = || f.mirror.uppers(id.0).next().map(|l| Why::Upper(l.name.clone()));
    let ingress = shut.clone().or_else(|| odd(p.and_then(|p| p.odd_in))).or_else(vlans).or_else(upper);
    let egress = shut.clone().or_else(|| odd(p.and_then(|p| p.odd_out)));
    let b = open.ok().map(|(_, b)| b);
    let p = p.unwrap_or(&none);
    let aware = b.is_some_and(|b| b.filtering);
    let untagged = match aware {
        false => Some(0),
        true => f.mirror.vlans(id.0).find(|(_, v)| v.flags & Vlan::PVID != 0).map(|(vid, _)| vid),
    };
    Some(BridgePortSpec {
        entry: BridgePortEntry {
            port: *port,
            tpid: b.filter(|_| aware).and_then(|b| b.tpid),
            untagged: untagged.filter(|_| shut.is_none()).and_then(|vid| fid_id(own, vid)),
            state: state(p.state),
            // At once forgotten is never learned (`br_fdb_update`).
            learning: p.learning && b.is_none_or(|b| b.ageing != 0),
            control_learning: b.is_none_or(|b| !b.no_ll_learn),
            unknown: p.unknown,
            multicast: p.multicast,
            broadcast: p.broadcast,
            isolated: p.isolated,
            hairpin: p.hairpin,
            // A frame may be as long as its MTU and an Ethernet header; the kernel lets through four bytes more, for a tag.
            longest: link.mtu.saturating_add(14),
            ingress: ingress.is_none(),
            egress: egress.is_none(),
        },
        ingress,
        egress,
    })
}

/// How a device takes part in a VLAN of its bridge: whether tagged, and with which state.
fn takes_part(f: &Facts<'_>, b: &Bridge, dev: u32, vid: u16) -> Option<MemberEntry> {
    match (b.filtering, vid) {
        (false, 0) => Some(MemberEntry { tagged: false, state: StpState::Forwarding }),
        (true, 1..) => {
            let v = f.mirror.vlan(dev, vid)?;
            Some(MemberEntry { tagged: v.flags & Vlan::UNTAGGED == 0, state: state(v.state) })
        }
        _ => None,
    }
}

/// What the chip should hold for a VLAN of a bridge; `None` if neither a front-panel port nor a router interface is in it.
pub fn fid(f: &Facts<'_>, id: FidId) -> Option<FidEntry> {
    let (own, vid) = split(id);
    let b = match bridge(f, own) {
        Ok((_, b)) => b,
        // The router interface is closed, and stands on something.
        Err(_) => f.ports.svi(id).and_then(|_| f.mirror.link(own)?.bridge.as_ref())?,
    };
    let members = || f.mirror.bridge_ports(own).filter(|p| takes_part(f, b, *p, vid).is_some());
    if f.ports.svi(id).is_none() && !members().any(|p| f.ports.get(p).is_some()) {
        return None;
    }
    // What a device that is no front-panel port has to get, the kernel sends.
    let all_ours = members().all(|p| f.ports.get(p).is_some());
    let hears = !b.filtering || f.mirror.vlan(own, vid).is_some();
    Some(FidEntry {
        tag: (vid != 0).then_some(Tag { tpid: b.tpid?, vid }),
        ageing: b.ageing,
        unknown: all_ours,
        broadcast: all_ours && !hears,
        multicast: all_ours && !hears && !b.snooping,
    })
}

/// What the chip should hold for a port in a VLAN.
pub fn member(f: &Facts<'_>, k: MemberKey) -> Option<MemberEntry> {
    let (own, vid) = split(k.fid);
    f.ports.get(k.port.0)?;
    if master(f, k.port.0)? != own {
        return None;
    }
    let (_, b) = bridge(f, own).ok()?;
    takes_part(f, b, k.port.0, vid)
}

/// The kernel's name of a station that the chip knows by that key.
pub fn station_key(k: FdbKey) -> StationKey {
    let (bridge, vid) = split(k.fid);
    StationKey { bridge, vid, mac: k.mac }
}

/// The chip's name of a station.
pub fn fdb_key(k: &StationKey) -> Option<FdbKey> {
    Some(FdbKey { fid: fid_id(k.bridge, k.vid)?, mac: k.mac })
}

/// Whether a station does not come and go by itself.
pub fn fixed(s: &Station) -> bool {
    s.state & (PERMANENT | NOARP) != 0 || s.flags & NTF_STICKY != 0
}

/// Whether the kernel has a station from the chip and leaves it to us to forget. What was learned and then put there by hand keeps the
/// flag, and goes with the rest if it is not static.
pub fn ours(s: &Station) -> bool {
    s.flags & NTF_EXT_LEARNED != 0 && s.state & (PERMANENT | NOARP) == 0
}

/// The bridge port behind which the chip may learn a station that the kernel knows there: it is one that comes and goes.
pub fn learnable(f: &Facts<'_>, k: &StationKey, s: &Station) -> Option<BridgePortId> {
    let id = BridgePortId(s.dev);
    if fixed(s) {
        return None;
    }
    member(f, MemberKey { fid: fid_id(k.bridge, k.vid)?, port: id })?;
    bridge_port(f, id).filter(|p| p.ingress.is_none()).map(|_| id)
}

/// What the chip should hold for a station that it does not learn.
pub fn station(f: &Facts<'_>, k: FdbKey) -> Option<FdbVerdict> {
    let key = station_key(k);
    let s = f.mirror.station(&key)?;
    fid(f, k.fid)?;
    if !k.mac.is_unicast() || learnable(f, &key, s).is_some() {
        return None;
    }
    if s.state & PERMANENT != 0 {
        // Of the switch's own addresses there the bridge's is the one whose packets are for the router, whatever port they come in by
        // (`br_handle_frame` makes them PACKET_HOST; kernel-facts 35).
        let routed = f.mirror.link(key.bridge).and_then(|l| l.mac) == Some(k.mac);
        let svi = f.ports.svi(k.fid).filter(|_| routed);
        return Some(svi.map_or(FdbVerdict::Trap(TrapClass::ToUs), |i| FdbVerdict::Route(RifId(i))));
    }
    let id = BridgePortId(s.dev);
    // What is said of it besides (NTF_EXT_LOCKED and others) has a say in what becomes of its frames.
    let ours = s.flags_ext == 0 && member(f, MemberKey { fid: k.fid, port: id }).is_some();
    Some(if ours { FdbVerdict::Port(id) } else { FdbVerdict::Trap(TrapClass::Punt) })
}
