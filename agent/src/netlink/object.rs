//! The rare kinds: links, addresses, neighbours, rules, netconf.

use std::net::IpAddr;

use hal::{Addr, Family, Mac, Tag, Tpid, V4, V6};

use super::attr::{Attr, Attrs, Malformed, u16_at, u32_at};
use super::{AF_INET, AF_INET6, Of, Unknowns, bridge};
use crate::mirror::{AddrEntry, AddrKey, Link, Neigh, Rule, Stacked};

pub(super) fn mac(b: &[u8]) -> Option<Mac> {
    Some(Mac(b.try_into().ok()?))
}

pub(super) fn ip(family: u8, b: &[u8]) -> Result<IpAddr, Malformed> {
    let a = match family {
        AF_INET => <V4 as Family>::Addr::from_wire(b).map(Addr::ip),
        _ => <V6 as Family>::Addr::from_wire(b).map(Addr::ip),
    };
    a.ok_or(Malformed("address of the wrong length"))
}

/// `RTM_*LINK` (`struct ifinfomsg`, `linux/if_link.h`). `Ok(None)` for other families than `AF_UNSPEC`: a message of
/// `AF_BRIDGE` is about a port's place in a bridge, not about the device (kernel-facts 11).
///
/// # Errors
/// The message is not what it says.
pub fn link(body: &[u8], unknown: &mut Unknowns) -> Result<Option<Link>, Malformed> {
    let (head, attrs) = Attrs::after(body, 16)?;
    if head[0] != 0 {
        return Ok(None);
    }
    let ifindex = u32_at(head, 4).filter(|i| *i != 0).ok_or(Malformed("link without an index"))?;
    let ether = u16_at(head, 2) == Some(libc::ARPHRD_ETHER);
    let mut l = Link {
        ifindex,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        flags: u32_at(head, 8).unwrap_or(0),
        master: None,
        table: None,
        lower: None,
        stacked: Stacked::Other,
        carrier: true,
        operstate: 0,
        carrier_down: 0,
        xdp: false,
        mtu6: None,
        bridge: None,
        port: None,
    };
    let (mut elsewhere, mut promiscuous) = (false, false);
    for a in attrs {
        let a = a?;
        match a.kind {
            1 if ether => l.mac = mac(a.data),
            3 => l.name = a.text(),
            4 => l.mtu = a.u32()?,
            5 => l.lower = Some(a.u32()?).filter(|i| *i != 0),
            // IFLA_LINK_NETNSID: the device below is in another namespace, and its index says nothing here.
            37 => elsewhere = true,
            10 => l.master = Some(a.u32()?).filter(|m| *m != 0),
            // IFLA_LINKINFO: IFLA_INFO_KIND, IFLA_INFO_DATA, of a VRF with IFLA_VRF_TABLE
            18 => {
                let (mut data, mut slave, mut slave_data) = (None, String::new(), None);
                for i in a.nested() {
                    let i = i?;
                    match i.kind {
                        1 => l.kind = i.text(),
                        2 => data = Some(i),
                        // IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA
                        4 => slave = i.text(),
                        5 => slave_data = Some(i),
                        _ => {}
                    }
                }
                if slave == "bridge" {
                    l.port = slave_data.as_ref().map(bridge::port).transpose()?;
                }
                if l.kind == "bridge" {
                    l.bridge = data.as_ref().map(bridge::bridge).transpose()?;
                }
                for d in data.iter().filter(|_| l.kind == "vrf").flat_map(|d| d.nested()) {
                    let d = d?;
                    if d.kind == 1 {
                        l.table = Some(d.u32()?);
                    }
                }
                l.stacked = match (&l.kind[..], data) {
                    ("vlan", Some(d)) => vlan(&d)?,
                    ("macvlan", Some(d)) => macvlan(&d)?,
                    _ => Stacked::Other,
                };
            }
            // IFLA_AF_SPEC, AF_INET6, IFLA_INET6_CONF: an array of which the third number is DEVCONF_MTU6 (linux/ipv6.h).
            26 => {
                for f in a.nested() {
                    let f = f?;
                    if f.kind == u16::from(AF_INET6) {
                        for c in f.nested() {
                            let c = c?;
                            if c.kind == 2 {
                                l.mtu6 = u32_at(c.data, 8);
                            }
                        }
                    }
                }
            }
            30 => promiscuous = a.u32()? != 0,
            16 => l.operstate = a.u8()?,
            33 => l.carrier = a.u8()? != 0,
            // IFLA_XDP, IFLA_XDP_ATTACHED: 0 is XDP_ATTACHED_NONE.
            43 => {
                for x in a.nested() {
                    let x = x?;
                    if x.kind == 2 {
                        l.xdp = x.u8()? != 0;
                    }
                }
            }
            48 => l.carrier_down = a.u32()?,
            // Up to IFLA_TAILROOM.
            k => unknown.beyond(69, Of::Link, k),
        }
    }
    if let Some(b) = &mut l.bridge {
        b.promiscuous = promiscuous;
    }
    // Of others it may be another end, such as a veth's, which is told at times and at times not.
    l.lower = l.lower.filter(|_| !elsewhere && l.stacked != Stacked::Other);
    Ok(Some(l))
}

/// `IFLA_INFO_DATA` of a `vlan` (`IFLA_VLAN_*`).
fn vlan(data: &Attr<'_>) -> Result<Stacked, Malformed> {
    /// `VLAN_FLAG_REORDER_HDR`, and with it those of no say in forwarding: GVRP, loose binding, MVRP, bridge binding
    /// (`linux/if_vlan.h`).
    const REORDER: u32 = 1;
    const KNOWN: u32 = 0x1f;
    let (mut vid, mut tpid, mut flags, mut mapped, mut known) = (None, Some(Tpid::Dot1q), 0, false, true);
    for a in data.nested() {
        let a = a?;
        match a.kind {
            1 => vid = Some(a.u16()?),
            // struct ifla_vlan_flags: flags, mask
            2 => flags = u32_at(a.data, 0).ok_or(Malformed("VLAN flags"))?,
            3 => mapped = a.nested().next().is_some(),
            5 => {
                tpid = match a.data {
                    [0x81, 0x00] => Some(Tpid::Dot1q),
                    [0x88, 0xa8] => Some(Tpid::Dot1ad),
                    _ => None,
                }
            }
            // Up to IFLA_VLAN_PROTOCOL, ingress priorities among them, which matter only to egress ones.
            k => known &= k <= 5,
        }
    }
    let Some((vid, tpid)) = vid.zip(tpid) else { return Ok(Stacked::Other) };
    let plain = known && flags & REORDER != 0 && flags & !KNOWN == 0;
    Ok(Stacked::Vlan { tag: Tag { tpid, vid }, plain, mapped })
}

/// `IFLA_INFO_DATA` of a `macvlan` (`IFLA_MACVLAN_MODE`).
fn macvlan(data: &Attr<'_>) -> Result<Stacked, Malformed> {
    for a in data.nested() {
        let a = a?;
        if a.kind == 1 {
            return Ok(Stacked::Macvlan(a.u32()?));
        }
    }
    Ok(Stacked::Other)
}

/// `RTM_*ADDR` (`struct ifaddrmsg`, `linux/if_addr.h`). `Ok(None)` for other families than IP.
///
/// # Errors
/// The message is not what it says.
pub fn addr(body: &[u8], unknown: &mut Unknowns) -> Result<Option<(AddrKey, AddrEntry)>, Malformed> {
    let (head, attrs) = Attrs::after(body, 8)?;
    let &[family, len, flags, scope, ..] = head else { return Err(Malformed("shorter than its fixed header")) };
    if family != AF_INET && family != AF_INET6 {
        return Ok(None);
    }
    if len > if family == AF_INET { 32 } else { 128 } {
        return Err(Malformed("prefix length"));
    }
    let mut e = AddrEntry { flags: u32::from(flags), scope };
    let (mut local, mut peer) = (None, None);
    for a in attrs {
        let a = a?;
        match a.kind {
            1 => peer = Some(ip(family, a.data)?),
            2 => local = Some(ip(family, a.data)?),
            8 => e.flags = a.u32()?,
            // Up to IFA_PROTO.
            k => unknown.beyond(11, Of::Addr, k),
        }
    }
    // IPv4 always has IFA_LOCAL; IPv6 only with a peer.
    let local = local.or(peer).ok_or(Malformed("address message without an address"))?;
    let ifindex = u32_at(head, 4).unwrap_or(0);
    Ok(Some((AddrKey { ifindex, local, peer: peer.unwrap_or(local), len }, e)))
}

/// A neighbour message: device, address and entry.
pub type NeighMsg = (u32, IpAddr, Neigh);

/// `RTM_*NEIGH` (`struct ndmsg`, `linux/neighbour.h`). `Ok(None)` for other families than IP: `AF_BRIDGE` is the FDB's.
///
/// # Errors
/// The message is not what it says.
pub fn neigh(body: &[u8], unknown: &mut Unknowns) -> Result<Option<NeighMsg>, Malformed> {
    let (head, attrs) = Attrs::after(body, 12)?;
    let family = head[0];
    if family != AF_INET && family != AF_INET6 {
        return Ok(None);
    }
    let mut n = Neigh { mac: None, state: u16_at(head, 8).unwrap_or(0), flags: head[10], flags_ext: 0, protocol: 0 };
    let mut dst = None;
    for a in attrs {
        let a = a?;
        match a.kind {
            1 => dst = Some(ip(family, a.data)?),
            2 => n.mac = mac(a.data),
            12 => n.protocol = a.u8()?,
            15 => n.flags_ext = a.u32()?,
            // Up to NDA_NDM_FLAGS_MASK.
            k => unknown.beyond(17, Of::Neigh, k),
        }
    }
    let dst = dst.ok_or(Malformed("neighbour without an address"))?;
    Ok(Some((u32_at(head, 4).unwrap_or(0), dst, n)))
}

/// What a netconf message says: it may name one setting only, the others stay as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetconfMsg {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// A device, or -1 for `all`, -2 for `default`.
    pub ifindex: i32,
    /// `NETCONFA_FORWARDING`
    pub forwarding: Option<bool>,
    /// `NETCONFA_RP_FILTER`
    pub rp_filter: Option<u8>,
    /// `NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN`
    pub ignore_linkdown: Option<bool>,
}

/// `RTM_*NETCONF` (`linux/netconf.h`). `Ok(None)` for other families than IP.
///
/// # Errors
/// The message is not what it says.
pub fn netconf(body: &[u8], unknown: &mut Unknowns) -> Result<Option<NetconfMsg>, Malformed> {
    let (head, attrs) = Attrs::after(body, 1)?;
    let mut n = NetconfMsg { family: head[0], ..NetconfMsg::default() };
    if n.family != AF_INET && n.family != AF_INET6 {
        return Ok(None);
    }
    let mut index = None;
    for a in attrs {
        let a = a?;
        match a.kind {
            1 => index = Some(a.u32()? as i32),
            2 => n.forwarding = Some(a.u32()? != 0),
            3 => n.rp_filter = Some(u8::try_from(a.u32()?).unwrap_or(u8::MAX)),
            6 => n.ignore_linkdown = Some(a.u32()? != 0),
            // Up to NETCONFA_FORCE_FORWARDING, which opens what counts as closed.
            k => unknown.beyond(9, Of::Netconf, k),
        }
    }
    n.ifindex = index.ok_or(Malformed("netconf without an index"))?;
    Ok(Some(n))
}

/// Flags of a rule that the kernel sets and clears without a word: `FIB_RULE_UNRESOLVED`, `_IIF_DETACHED`, `_OIF_DETACHED`
/// (`linux/fib_rules.h`).
const SILENT: u32 = 4 | 8 | 16;

/// `struct fib_rule_port_range`: first and last, in the machine's order.
fn port_range(n: u32) -> (u16, u16) {
    let [a, b, c, d] = n.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

/// `RTM_*RULE` (`struct fib_rule_hdr`, `linux/fib_rules.h`), with its family. `Ok(None)` for other families than IP.
///
/// # Errors
/// The message is not what it says.
pub fn rule(body: &[u8], unknown: &mut Unknowns) -> Result<Option<(u8, Rule)>, Malformed> {
    let (head, attrs) = Attrs::after(body, 12)?;
    let family = head[0];
    if family != AF_INET && family != AF_INET6 {
        return Ok(None);
    }
    let said = u32_at(head, 8).unwrap_or(0);
    let flags = said & !SILENT;
    let mut r = Rule {
        priority: 0,
        table: u32::from(head[4]),
        action: head[7],
        plain: head[1] == 0 && head[2] == 0 && head[3] == 0 && flags == 0,
        l3mdev: false,
        // FIB_RULE_INVERT
        invert: flags & 2 != 0,
        to: None,
        iif: None,
        oif: None,
        marked: false,
        from: None,
        tos: None,
        proto: None,
        sport: None,
        dport: None,
        shortest: 0,
        other: flags & !2 != 0,
        lost: (said & 8 != 0, said & 16 != 0),
        content: Vec::new(),
    };
    r.content.extend_from_slice(&head[..8]);
    r.content.extend_from_slice(&flags.to_ne_bytes());
    let mut parts: Vec<(u16, &[u8])> = Vec::new();
    let (mut mark, mut mask) = (0, u32::MAX);
    let (mut dscp, mut dscp_mask) = (None, u8::MAX);
    for a in attrs {
        let a = a?;
        match a.kind {
            1 => r.to = Some((ip(family, a.data)?, head[1])),
            2 => r.from = Some((ip(family, a.data)?, head[2])),
            3 => r.iif = Some(a.text()),
            10 => mark = a.u32()?,
            16 => mask = a.u32()?,
            17 => r.oif = Some(a.text()),
            22 => r.proto = Some(a.u8()?),
            23 => r.sport = Some(port_range(a.u32()?)),
            24 => r.dport = Some(port_range(a.u32()?)),
            // FRA_PRIORITY, FRA_TABLE, FRA_PAD, FRA_L3MDEV, FRA_PROTOCOL.
            6 | 15 | 18 | 19 | 21 => {}
            // FRA_SUPPRESS_PREFIXLEN: up to so many bits; -1 for none.
            14 => r.shortest = a.u32()?.wrapping_add(1).min(u8::MAX.into()) as u8,
            // FRA_DSCP, FRA_DSCP_MASK
            25 => dscp = Some(a.u8()?),
            30 => dscp_mask = a.u8()?,
            // FRA_SPORT_MASK, FRA_DPORT_MASK: of one port.
            28 | 29 if a.data == u16::MAX.to_ne_bytes() => {}
            _ => r.other = true,
        }
        match a.kind {
            6 => r.priority = a.u32()?,
            15 => r.table = a.u32()?,
            // FRA_SUPPRESS_PREFIXLEN, -1 for none; FRA_PROTOCOL, who made it; FRA_PAD.
            14 if a.u32()? == u32::MAX => {}
            18 | 21 => {}
            // FRA_L3MDEV
            19 => r.l3mdev = a.u8()? != 0,
            k => {
                // Up to FRA_DSCP_MASK.
                unknown.beyond(30, Of::Rule, k);
                r.plain = false;
            }
        }
        parts.push((a.kind, a.data));
    }
    r.tos = match (dscp, head[3]) {
        (Some(dscp), _) => Some(((dscp & dscp_mask) << 2, dscp_mask << 2)),
        (None, 0) => None,
        // Of IPv4's TOS the kernel looks at three bits (`fib_dscp_masked_match`), of IPv6's traffic class at the DSCP.
        (None, tos) => Some((tos, if family == AF_INET { 0x1c } else { 0xfc })),
    };
    r.marked = mark & mask != 0;
    if r.invert && r.marked {
        // No packet that is forwarded has a mark: all are what such a rule does not select.
        (r.invert, r.marked) = (false, false);
        (r.to, r.from, r.iif, r.oif) = (None, None, None, None);
        (r.tos, r.proto, r.sport, r.dport) = (None, None, None, None);
    }
    parts.sort_unstable();
    for (kind, data) in parts {
        r.content.extend_from_slice(&kind.to_ne_bytes());
        r.content.extend_from_slice(&(data.len() as u16).to_ne_bytes());
        r.content.extend_from_slice(data);
    }
    Ok(Some((family, r)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, data: &[u8]) -> Vec<u8> {
        let len = (4 + data.len()) as u16;
        let mut a = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
        a.resize(a.len().next_multiple_of(4), 0);
        a
    }

    /// A device 9 on 3 of that kind.
    fn stacked(kind: &str, data: &[Vec<u8>], more: &[Vec<u8>]) -> Result<Link, Malformed> {
        let mut body = vec![0; 16];
        body[2] = libc::ARPHRD_ETHER as u8;
        body[4] = 9;
        let info = [attr(1, kind.as_bytes()), attr(2, &data.concat())].concat();
        body.extend([attr(5, &3u32.to_ne_bytes()), attr(18, &info), more.concat()].concat());
        link(&body, &mut Unknowns::default()).map(|l| l.expect("a link"))
    }

    #[test]
    fn how_devices_stand_on_others() {
        let id = |id: u16| attr(1, &id.to_ne_bytes());
        let flags = |f: u32| attr(2, &[f.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
        let proto = |p: [u8; 2]| attr(5, &p);
        let map = |m: &[Vec<u8>]| attr(3, &m.concat());
        let vlan = |tpid, vid, plain, mapped| Stacked::Vlan { tag: Tag { tpid, vid }, plain, mapped };
        let is = |data: &[Vec<u8>]| stacked("vlan", data, &[]).map(|l| (l.lower, l.stacked)).unwrap();
        assert_eq!(is(&[proto([0x81, 0]), id(5), flags(1)]), (Some(3), vlan(Tpid::Dot1q, 5, true, false)));
        assert_eq!(is(&[proto([0x88, 0xa8]), id(5), flags(1)]).1, vlan(Tpid::Dot1ad, 5, true, false));
        assert_eq!(is(&[id(5), flags(7)]).1, vlan(Tpid::Dot1q, 5, true, false));
        assert_eq!(is(&[id(5), flags(6)]).1, vlan(Tpid::Dot1q, 5, false, false));
        assert_eq!(is(&[id(5), flags(0x101)]).1, vlan(Tpid::Dot1q, 5, false, false));
        assert_eq!(is(&[id(5), flags(1), attr(9, &[1])]).1, vlan(Tpid::Dot1q, 5, false, false));
        assert_eq!(is(&[id(5)]).1, vlan(Tpid::Dot1q, 5, false, false));
        assert_eq!(is(&[id(5), flags(1), map(&[])]).1, vlan(Tpid::Dot1q, 5, true, false));
        assert_eq!(is(&[id(5), flags(1), map(&[attr(1, &[0; 8])])]).1, vlan(Tpid::Dot1q, 5, true, true));
        assert_eq!(is(&[proto([0x91, 0]), id(5), flags(1)]).1, Stacked::Other);
        assert_eq!(is(&[flags(1)]), (None, Stacked::Other));
        assert!(stacked("vlan", &[attr(1, &[5])], &[]).is_err());
        let elsewhere = stacked("vlan", &[id(5), flags(1)], &[attr(37, &1u32.to_ne_bytes())]).unwrap();
        assert_eq!(elsewhere.lower, None);
        let mode = attr(1, &4u32.to_ne_bytes());
        assert_eq!(stacked("macvlan", std::slice::from_ref(&mode), &[]).unwrap().stacked, Stacked::Macvlan(4));
        assert_eq!(stacked("macvtap", &[mode], &[]).unwrap().stacked, Stacked::Other);
    }
}
