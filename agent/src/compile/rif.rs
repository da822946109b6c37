//! The `rif` table: every front-panel port in the switch's namespace has an interface, and so has every VLAN device and macvlan
//! that stands on one, and a bridge and its VLAN devices, open as far as the kernel and policy let it. Routes never depend on what is
//! closed here.

use hal::{Mac, RifEntry, RifKind, Urpf, V4, V6, VrfId};

use super::group::IFF_UP;
use super::vrf::{self, Place};
use super::{Facts, Stand, Why, bridge};
use crate::mirror::{Link, Stacked, VrfOrder};
use crate::policy::Scope;

/// An interface and what keeps it closed.
#[derive(Clone, PartialEq, Debug)]
pub struct RifSpec {
    /// What the chip should hold.
    pub entry: RifEntry,
    /// Why IPv4 that comes in by it is trapped.
    pub ingress4: Option<Why>,
    /// Why IPv6 that comes in by it is trapped.
    pub ingress6: Option<Why>,
    /// Why what would leave by it is trapped.
    pub egress: Option<Why>,
}

/// The VRF that a device is in: its device and its number.
#[derive(Clone, Copy)]
struct Inside {
    dev: u32,
    id: VrfId,
}

/// The VRF that a device is in, if any.
///
/// # Errors
/// Why nothing of it can be forwarded.
fn inside(f: &Facts<'_>, link: &Link) -> Result<Option<Inside>, Why> {
    let Some(dev) = vrf::master(f.mirror, link)? else { return Ok(None) };
    let table = dev.table.unwrap_or(0);
    let id = vrf::router(table).ok_or(Why::VrfTable(table))?;
    match f.vrfs.get(id).ok_or(Why::VrfFilling)?.place {
        Place::NoRoom => Err(Why::VrfNoRoom(f.profile.vrfs)),
        Place::Filling => Err(Why::VrfFilling),
        Place::Open => Ok(Some(Inside { dev: dev.ifindex, id })),
    }
}

/// `MACVLAN_MODE_*` (`linux/if_link.h`)
const PRIVATE: u32 = 1;
const VEPA: u32 = 2;
const BRIDGE: u32 = 4;

/// Whether a macvlan of that mode has the frames to its own MAC, and those alone.
pub(super) fn macvlan(mode: u32) -> bool {
    matches!(mode, PRIVATE | VEPA | BRIDGE)
}

/// What closes a device both ways, for itself and for what stands on it.
fn passes<'a>(f: &Facts<'a>, ifindex: u32) -> Result<&'a Link, Why> {
    let link = f.mirror.link(ifindex).ok_or(Why::NoLink)?;
    if link.flags & IFF_UP == 0 {
        return Err(Why::AdminDown);
    }
    if link.xdp {
        return Err(Why::Xdp);
    }
    if let Stacked::Vlan { plain: false, .. } = link.stacked {
        return Err(Why::VlanFlags);
    }
    if let Some(found) = f.gate.closed(&[Scope::All, Scope::Link(ifindex)]) {
        return Err(Why::Policy(found.why.clone()));
    }
    Ok(link)
}

/// What closes an interface both ways; else its MAC and the VRF that it is in.
fn both(f: &Facts<'_>, ifindex: u32, stand: &Stand) -> Result<(Mac, Option<Inside>), Why> {
    let link = passes(f, ifindex)?;
    let inside = inside(f, link)?;
    // The frames of its members are a VRF device's too (`vrf_ip_rcv`, `vrf_ip6_rcv`): so are its hooks.
    if let Some(found) = inside.and_then(|v| f.gate.closed(&[Scope::Link(v.dev)])) {
        return Err(Why::Policy(found.why.clone()));
    }
    for i in &stand.below {
        let name = || f.mirror.link(*i).map_or_else(|| format!("device {i}"), |l| l.name.clone());
        let below = |why| Why::Below(name(), Box::new(why));
        let lower = passes(f, *i).map_err(below)?;
        // A VRF has what is left for IP; any other master takes frames, or sends them, as it sees fit.
        vrf::master(f.mirror, lower).map_err(below)?;
    }
    if let RifKind::Fid(fid) = stand.on {
        bridge::bridge(f, bridge::split(fid).0)?;
        if let Some(found) = f.gate.closed(&[Scope::Svi]) {
            return Err(Why::Policy(found.why.clone()));
        }
    }
    let mac = link.mac.filter(|m| m.is_unicast()).ok_or(Why::NoMac)?;
    Ok((mac, inside))
}

/// What closes an interface, or one below it, for what would leave by it.
fn out(f: &Facts<'_>, ifindex: u32, stand: &Stand) -> Option<Why> {
    core::iter::once(&ifindex).chain(&stand.below).find_map(|i| match f.mirror.link(*i)?.stacked {
        Stacked::Vlan { mapped: true, .. } => Some(Why::QosMap),
        // The others may be in other namespaces.
        Stacked::Macvlan(BRIDGE) => Some(Why::MacvlanBridge),
        _ => None,
    })
}

/// What the chip should hold for the device of that index; `None` if it has no router interface.
pub fn rif(f: &Facts<'_>, ifindex: u32) -> Option<RifSpec> {
    let stand = f.ports.stand(ifindex)?;
    let link = f.mirror.link(ifindex);
    let both = both(f, ifindex, stand);
    let closed = both.as_ref().err().cloned();
    let egress = closed.clone().or_else(|| out(f, ifindex, stand));
    // An interface that is closed has a MAC, too, so that its frames do not look like nobody's.
    let own = || f.ports.get(ifindex).map(|(_, e)| e.mac).or(link?.mac);
    let inside = both.as_ref().ok().and_then(|(_, v)| *v);
    let dev = inside.map_or(ifindex, |v| v.dev);
    let ruled = |order, before: bool| match order {
        _ if inside.is_none() => None,
        VrfOrder::Never => Some(Why::VrfRule),
        _ => before.then_some(Why::RuleBeforeVrf),
    };
    let policy = |scopes: &[Scope]| f.gate.closed(scopes).map(|p| Why::Policy(p.why.clone()));
    // The port's own, in a VRF as well: the kernel looks the route up with the device that it was before (`ip_rcv_finish`).
    let conf4 = f.mirror.netconf4(ifindex);
    let forwarding4 = conf4.is_some_and(|c| c.forwarding);
    // The value in force is the maximum of `all` and the device; above 1 the kernel compares with 1 only, so it is loose.
    let rp = conf4.map_or(1, |c| c.rp_filter).max(f.mirror.netconf4_all().map_or(1, |c| c.rp_filter));
    let urpf = match rp {
        0 => Urpf::Off,
        // Without an address of its own the device is checked strictly even where it says loose (__fib_validate_source, `no_addr`).
        2.. if f.mirror.addressed4(ifindex) => Urpf::Loose,
        _ => Urpf::Strict,
    };
    let ingress4 = closed
        .clone()
        .or_else(|| policy(&[Scope::V4, Scope::Ingress4(ifindex), Scope::Ingress4(dev)]))
        .or_else(|| (!forwarding4).then_some(Why::NotForwarding))
        .or_else(|| ruled(f.vrfs.order::<V4>(), f.vrfs.rules_before::<V4>()))
        .or_else(|| (urpf != Urpf::Off && !f.vrfs.rules4.list.is_empty()).then_some(Why::RuleSources));
    // The kernel looks at `all` alone (kernel-facts 33).
    let forwarding6 = f.mirror.netconf6_all().is_some_and(|c| c.forwarding);
    // Both sources say what held when they were read; the smaller is safe, since what is longer is trapped.
    let polled6 = f.polled.and_then(|p| p.mtu6(link.map_or("", |l| l.name.as_str())));
    let mtu6 = link.and_then(|l| l.mtu6).zip(polled6).map(|(a, b)| a.min(b));
    let ingress6 = closed
        .clone()
        .or_else(|| policy(&[Scope::V6, Scope::Ingress6(ifindex), Scope::Ingress6(dev)]))
        .or_else(|| mtu6.is_none().then_some(Why::NoIpv6))
        .or_else(|| (!forwarding6).then_some(Why::NotForwarding))
        .or_else(|| ruled(f.vrfs.order::<V6>(), f.vrfs.rules_before::<V6>()));
    Some(RifSpec {
        entry: RifEntry {
            kind: stand.on,
            vrf: inside.map_or(vrf::DEFAULT, |v| v.id),
            mac: both.ok().map(|(mac, _)| mac).or_else(own).unwrap_or_default(),
            mtu4: link.map_or(0, |l| l.mtu),
            mtu6: mtu6.unwrap_or(0),
            ingress4: ingress4.is_none(),
            ingress6: ingress6.is_none(),
            egress: egress.is_none(),
            same4: link.zip(f.polled).is_some_and(|(l, p)| !p.redirects(&l.name)),
            urpf,
        },
        ingress4,
        ingress6,
        egress,
    })
}
