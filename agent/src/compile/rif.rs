//! The `rif` table: every front-panel port in the switch's namespace has an interface, open as far as the kernel and policy
//! let it. Routes never depend on what is closed here.

use hal::{Mac, PortEntry, PortId, RifEntry, RifKind, Urpf, VrfId};

use super::group::IFF_UP;
use super::{Facts, Why};
use crate::mirror::Link;
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

/// What closes an interface both ways.
fn both(f: &Facts<'_>, ifindex: u32, link: Option<&Link>) -> Result<Mac, Why> {
    let link = link.ok_or(Why::NoLink)?;
    if link.flags & IFF_UP == 0 {
        return Err(Why::AdminDown);
    }
    if let Some(m) = link.master {
        return Err(Why::Master(f.mirror.link(m).map_or_else(|| format!("device {m}"), |l| l.name.clone())));
    }
    if link.xdp {
        return Err(Why::Xdp);
    }
    if let Some(found) = f.gate.closed(&[Scope::All, Scope::Link(ifindex)]) {
        return Err(Why::Policy(found.why.clone()));
    }
    link.mac.filter(|m| m.is_unicast()).ok_or(Why::NoMac)
}

/// What the chip should hold for the port with that netdev.
pub fn rif(f: &Facts<'_>, ifindex: u32, port: PortId, entry: &PortEntry) -> RifSpec {
    let link = f.mirror.link(ifindex);
    let both = both(f, ifindex, link);
    let closed = both.as_ref().err().cloned();
    let policy = |scopes: &[Scope]| f.gate.closed(scopes).map(|p| Why::Policy(p.why.clone()));
    let conf4 = f.mirror.netconf4(ifindex);
    let forwarding4 = conf4.is_some_and(|c| c.forwarding);
    let ingress4 = closed
        .clone()
        .or_else(|| policy(&[Scope::V4, Scope::Ingress4(ifindex)]))
        .or_else(|| (!forwarding4).then_some(Why::NotForwarding));
    // The kernel looks at `all` alone (kernel-facts 33).
    let forwarding6 = f.mirror.netconf6_all().is_some_and(|c| c.forwarding);
    // Both sources say what held when they were read; the smaller is safe, since what is longer is trapped.
    let polled6 = f.polled.and_then(|p| p.mtu6(link.map_or("", |l| l.name.as_str())));
    let mtu6 = link.and_then(|l| l.mtu6).zip(polled6).map(|(a, b)| a.min(b));
    let ingress6 = closed
        .clone()
        .or_else(|| policy(&[Scope::V6, Scope::Ingress6(ifindex)]))
        .or_else(|| mtu6.is_none().then_some(Why::NoIpv6))
        .or_else(|| (!forwarding6).then_some(Why::NotForwarding));
    // The value in force is the maximum of `all` and the device; above 1 the kernel compares with 1 only, so it is loose.
    let rp = conf4.map_or(1, |c| c.rp_filter).max(f.mirror.netconf4_all().map_or(1, |c| c.rp_filter));
    RifSpec {
        entry: RifEntry {
            kind: RifKind::Port(port),
            vrf: VrfId(0),
            mac: both.unwrap_or(entry.mac),
            mtu4: link.map_or(0, |l| l.mtu),
            mtu6: mtu6.unwrap_or(0),
            ingress4: ingress4.is_none(),
            ingress6: ingress6.is_none(),
            egress: closed.is_none(),
            same4: link.zip(f.polled).is_some_and(|(l, p)| !p.redirects(&l.name)),
            urpf: match rp {
                0 => Urpf::Off,
                // Without an address of its own the device is checked strictly even where it says loose (__fib_validate_source, `no_addr`).
                2.. if f.mirror.addressed4(ifindex) => Urpf::Loose,
                _ => Urpf::Strict,
            },
        },
        ingress4,
        ingress6,
        egress: closed,
    }
}
