//! The hot kind: `RTM_NEWROUTE` and `RTM_DELROUTE` (`struct rtmsg`, `linux/rtnetlink.h`), IPv4 and IPv6 alike.
//!
//! What it does not know it flags (`RouteFlags::UNKNOWN`), so that the route is punted rather than half understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::{Addr, Family, Prefix};
use smallvec::SmallVec;

use super::attr::{Attr, Attrs, Malformed, u32_at};
use super::{Of, Unknown, Unknowns};
use crate::mirror::{Hop, RouteFlags};

/// `RTM_F_CLONED`: an entry of the cache.
const RTM_F_CLONED: u32 = 0x200;
/// Flags in `rtm_flags` that do not bear on what the route does, or that are read elsewhere: `RTNH_F_*`, `RTM_F_NOTIFY`,
/// `_CLONED`, `_EQUALIZE`, `_PREFIX`, `_LOOKUP_TABLE`, `_FIB_MATCH`, `_OFFLOAD`, `_TRAP`, `_OFFLOAD_FAILED`.
const KNOWN: u32 = 0x7f | 0xff00 | 0x2000_0000;
/// `RTN_BLACKHOLE`.
const RTN_BLACKHOLE: u8 = 6;
/// `RTNH_F_DEAD`, `RTNH_F_ONLINK`, `RTNH_F_LINKDOWN`.
const DEAD: u32 = 1;
const ONLINK: u32 = 4;
const LINKDOWN: u32 = 16;

/// What a route message says beyond what is forwarded by it, and by which the kernel tells routes apart.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rest {
    /// `RTA_PREFSRC` (IPv4 only: for IPv6 it is neither identity nor of any effect on what is forwarded).
    pub prefsrc: Option<Ipv4Addr>,
    /// `RTA_SRC` with `rtm_src_len` (IPv6 source routing).
    pub src: Option<(IpAddr, u8)>,
    /// `RTA_METRICS` (IPv4 only: those of IPv6 change with the device's MTU, unannounced).
    pub metrics: SmallVec<[u8; 8]>,
}

/// A next hop as a message has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopMsg {
    /// The next hop; `dead` is the flag as shown, which also stands for "link down and such routes ignored".
    pub hop: Hop,
    /// `RTNH_F_LINKDOWN`
    pub linkdown: bool,
}

/// A decoded route message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteMsg<F: Family> {
    /// `RTA_TABLE`, else `rtm_table`.
    pub table: u32,
    /// The destination.
    pub prefix: Prefix<F>,
    /// `RTA_PRIORITY`, 0 if absent.
    pub metric: u32,
    /// `rtm_type`, `RTN_*`
    pub kind: u8,
    /// `rtm_tos`
    pub tos: u8,
    /// `rtm_protocol`
    pub proto: u8,
    /// `rtm_scope`
    pub scope: u8,
    /// What else matters.
    pub flags: RouteFlags,
    /// `RTAX_MTU` in bytes, where it holds for every packet of the route; 0 for none.
    pub mtu: u16,
    /// `RTA_NH_ID`, 0 for none.
    pub object: u32,
    /// Inline next hops; of no meaning where `object` is given.
    pub hops: SmallVec<[HopMsg; 1]>,
    /// Whether they came in `RTA_MULTIPATH`.
    pub multipath: bool,
    /// The rest of its identity; boxed since it is rare.
    pub rest: Option<Box<Rest>>,
}

fn address<F: Family>(a: &Attr<'_>) -> Result<F::Addr, Malformed> {
    F::Addr::from_wire(a.data).ok_or(Malformed("address of the wrong length"))
}

/// `struct rtvia`: a family and an address.
fn via(a: &Attr<'_>) -> Result<IpAddr, Malformed> {
    let (family, addr) = a.data.split_at_checked(2).ok_or(Malformed("RTA_VIA"))?;
    match (u16::from_ne_bytes([family[0], family[1]]), addr.len()) {
        (2, 4) => Ok(Ipv4Addr::from_wire(addr).ok_or(Malformed("RTA_VIA"))?.into()),
        (10, 16) => Ok(Ipv6Addr::from_wire(addr).ok_or(Malformed("RTA_VIA"))?.into()),
        _ => Err(Malformed("family of RTA_VIA")),
    }
}

fn hop(ifindex: u32, flags: u32, weight: u16) -> HopMsg {
    HopMsg {
        hop: Hop { ifindex, via: None, weight, onlink: flags & ONLINK != 0, encap: false, dead: flags & DEAD != 0 },
        linkdown: flags & LINKDOWN != 0,
    }
}

/// `struct rtnexthop` one after the other; each with attributes of its own.
fn multipath<F: Family>(mut b: &[u8], out: &mut SmallVec<[HopMsg; 1]>, m: &mut Seen<'_>) -> Result<(), Malformed> {
    while !b.is_empty() {
        let (head, _) = b.split_at_checked(8).ok_or(Malformed("RTA_MULTIPATH"))?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let body = b.get(8..len).ok_or(Malformed("length in RTA_MULTIPATH"))?;
        // rtnh_hops is the weight less one (kernel-facts 23).
        let mut h = hop(u32_at(head, 4).unwrap_or(0), u32::from(head[2]), u16::from(head[3]) + 1);
        for a in Attrs(body) {
            let a = a?;
            match a.kind {
                5 => h.hop.via = Some(address::<F>(&a)?.ip()),
                18 => h.hop.via = Some(via(&a)?),
                11 => m.flags |= RouteFlags::SELECTOR,
                21 | 22 => h.hop.encap = true,
                24 => {}
                k => m.unknown(Unknown::new(Of::Route, k)),
            }
        }
        out.push(h);
        b = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(())
}

struct Seen<'a> {
    flags: RouteFlags,
    unknown: &'a mut Unknowns,
}

impl Seen<'_> {
    fn unknown(&mut self, u: Unknown) {
        self.flags |= RouteFlags::UNKNOWN;
        self.unknown.add(u);
    }
}

/// What of `RTA_METRICS` (`RTAX_*`, `linux/rtnetlink.h`) changes what is forwarded: the MTU. The others are for connections of this
/// machine; what is newer than we are is taken to matter.
#[derive(Default)]
struct Metrics {
    /// `RTAX_MTU`, 0 for none.
    mtu: u32,
    /// `RTAX_LOCK` has the MTU's bit.
    locked: bool,
    /// Something that is not known to be harmless.
    odd: bool,
}

fn metrics(a: &Attr<'_>, seen: &mut Seen<'_>) -> Result<Metrics, Malformed> {
    /// `RTAX_FEATURE_*`: ECN, SACK, TIMESTAMP, TCP_USEC_TS. Not ALLFRAG (8), by which older kernels fragment what they forward.
    const HARMLESS: u32 = 1 | 2 | 4 | 16;
    let mut m = Metrics::default();
    for a in a.nested() {
        let a = a?;
        match a.kind {
            1 => m.locked = a.u32()? & 1 << 2 != 0,
            2 => m.mtu = a.u32()?,
            12 => m.odd |= a.u32()? & !HARMLESS != 0,
            // RTAX_WINDOW to RTAX_REORDERING, RTAX_HOPLIMIT, RTAX_INITCWND, RTAX_RTO_MIN to RTAX_FASTOPEN_NO_COOKIE.
            3..=11 | 13..=17 => {}
            k => {
                m.odd = true;
                seen.unknown.add(Unknown::new(Of::Metric, k));
            }
        }
    }
    Ok(m)
}

/// Table and destination of a route message, at a glance: a guess, for which only messages in the kernel's own order of
/// attributes are looked at. [`decode`] is what counts.
#[inline]
pub fn peek<F: Family>(body: &[u8]) -> Option<(u32, Prefix<F>)> {
    let (len, mut table) = (*body.get(1)?, u32::from(*body.get(4)?));
    let mut dst = None;
    for a in Attrs(body.get(12..)?).take(2).flatten() {
        match a.kind {
            1 => dst = F::Addr::from_wire(a.data),
            15 => table = a.u32().ok()?,
            _ => {}
        }
    }
    Some((table, Prefix::new(dst?, len)))
}

/// Decode the body of a route message. `Ok(None)` for what is no route of the FIB (cache entries, other families).
///
/// # Errors
/// The message is not what it says.
pub fn decode<F: Family>(body: &[u8], unknown: &mut Unknowns) -> Result<Option<RouteMsg<F>>, Malformed> {
    let (head, attrs) = Attrs::after(body, 12)?;
    let &[family, dst_len, src_len, tos, table, proto, scope, kind, ..] = head else {
        return Err(Malformed("shorter than its fixed header"));
    };
    let rtm_flags = u32_at(head, 8).unwrap_or(0);
    if family != F::AF || rtm_flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    if dst_len > F::BITS || src_len > F::BITS {
        return Err(Malformed("prefix length"));
    }
    let mut r = RouteMsg {
        table: u32::from(table),
        prefix: Prefix::all(),
        metric: 0,
        kind,
        tos,
        proto,
        scope,
        flags: RouteFlags::default(),
        mtu: 0,
        object: 0,
        hops: SmallVec::new(),
        multipath: false,
        rest: None,
    };
    let mut seen = Seen { flags: RouteFlags::default(), unknown };
    if rtm_flags & !KNOWN != 0 {
        seen.unknown(Unknown { of: Of::RouteFlags, number: rtm_flags & !KNOWN });
    }
    let mut dst = None;
    let mut src = None;
    let mut single = hop(0, rtm_flags, 1);
    let mut limits = Metrics::default();
    for a in attrs {
        let a = a?;
        match a.kind {
            1 => dst = Some(address::<F>(&a)?),
            2 => src = Some(address::<F>(&a)?),
            4 => single.hop.ifindex = a.u32()?,
            5 => single.hop.via = Some(address::<F>(&a)?.ip()),
            6 => r.metric = a.u32()?,
            7 => {
                let s = address::<F>(&a)?;
                if let IpAddr::V4(s) = s.ip() {
                    r.rest.get_or_insert_default().prefsrc = Some(s);
                }
            }
            8 => {
                limits = metrics(&a, &mut seen)?;
                if F::BITS == 32 {
                    r.rest.get_or_insert_default().metrics = SmallVec::from_slice(a.data);
                }
            }
            9 => {
                multipath::<F>(a.data, &mut r.hops, &mut seen)?;
                r.multipath = true;
            }
            // RTA_FLOW, RTA_MARK, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT: selectors, or looking like one.
            11 | 16 | 27..=29 => seen.flags |= RouteFlags::SELECTOR,
            12 => {
                // struct rta_cacheinfo: rta_expires is the third number.
                if u32_at(a.data, 8).ok_or(Malformed("RTA_CACHEINFO"))? != 0 {
                    seen.flags |= RouteFlags::EXPIRES;
                }
            }
            15 => r.table = a.u32()?,
            18 => single.hop.via = Some(via(&a)?),
            20 => {
                // ICMPV6_ROUTER_PREF_MEDIUM is 0 (RFC 4191).
                if a.u8()? != 0 {
                    seen.flags |= RouteFlags::PREF;
                }
            }
            21 => single.hop.encap |= a.data != [0, 0],
            22 => single.hop.encap = true,
            23 => seen.flags |= RouteFlags::EXPIRES,
            // RTA_PAD, and RTA_UID, which only answers to a query have.
            24 | 25 => {}
            30 => r.object = a.u32()?,
            k => seen.unknown(Unknown::new(Of::Route, k)),
        }
    }
    match dst {
        Some(d) => r.prefix = Prefix::exact(d, dst_len).ok_or(Malformed("destination"))?,
        None if dst_len == 0 => {}
        None => return Err(Malformed("prefix length without RTA_DST")),
    }
    if let Some(s) = src.or((src_len != 0).then(|| F::Addr::from_number(0))) {
        seen.flags |= RouteFlags::SOURCE;
        r.rest.get_or_insert_default().src = Some((s.ip(), src_len));
    }
    if !r.multipath && (single.hop.ifindex != 0 || single.hop.via.is_some() || single.hop.encap) {
        r.hops.push(single);
    }
    if let [only] = &mut r.hops[..] {
        // A lone next hop has no share; the kernel shows its old one again when a sibling comes back.
        only.hop.weight = 1;
    }
    r.mtu = u16::try_from(limits.mtu).unwrap_or(0);
    // A locked MTU has IPv4 heed path MTUs, which routes of one object share whether they lock theirs or not; one without a
    // value is a rule of its own (`ip_dst_mtu_maybe_forward`). To what IPv6 forwards the lock makes no difference.
    let lock = F::BITS == 32 && limits.locked && (r.object != 0 || r.mtu == 0);
    // Metrics are each IPv6 sibling's own, and only those of one are shown.
    let several = F::BITS == 128 && r.hops.len() > 1 && r.mtu != 0;
    if limits.odd || lock || several || u32::from(r.mtu) != limits.mtu {
        seen.flags |= RouteFlags::METRICS;
        r.mtu = 0;
    }
    if r.object != 0 && kind == RTN_BLACKHOLE {
        seen.flags |= RouteFlags::VEILED;
    }
    r.flags = seen.flags;
    Ok(Some(r))
}

#[cfg(test)]
mod tests {
    use hal::{V4, V6};

    use super::*;
    use crate::netlink::build::{Builder, push_attr};

    /// Flags and MTU of a route with these metrics.
    fn decoded<F: Family>(object: bool, metrics: &[(u16, u32)]) -> (RouteFlags, u16) {
        let mut m = Vec::new();
        metrics.iter().for_each(|(k, v)| push_attr(&mut m, *k, &v.to_ne_bytes()));
        let b = Builder::new(24, 0, &[F::AF, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]).attr(8, &m);
        let b = if object { b.u32(30, 7) } else { b.u32(4, 3) };
        let r = decode::<F>(&b.done()[16..], &mut Unknowns::default()).unwrap().unwrap();
        (r.flags, r.mtu)
    }

    #[test]
    fn metrics_that_matter() {
        let (fine, odd) = (RouteFlags::default(), RouteFlags::METRICS);
        assert_eq!(decoded::<V4>(false, &[(2, 1400), (8, 500), (17, 1)]), (fine, 1400));
        assert_eq!(decoded::<V4>(true, &[(2, 1400)]), (fine, 1400));
        for harmless in (3..=11).chain(13..=17) {
            assert_eq!(decoded::<V6>(false, &[(harmless, u32::MAX)]), (fine, 0), "{harmless}");
        }
        // Features: ECN and the like, and the one by which older kernels fragment everything.
        assert_eq!(decoded::<V6>(false, &[(12, 1 | 2 | 4 | 16)]), (fine, 0));
        assert_eq!(decoded::<V6>(false, &[(12, 8), (2, 1400)]), (odd, 0));
        for unknown in [0, 18, 99] {
            assert_eq!(decoded::<V4>(false, &[(unknown, 0)]), (odd, 0), "{unknown}");
        }
        assert_eq!(decoded::<V4>(false, &[(2, 70_000)]), (odd, 0));
        // A lock: of the MTU, and of others.
        assert_eq!(decoded::<V4>(false, &[(1, 4), (2, 1400)]), (fine, 1400));
        assert_eq!(decoded::<V4>(true, &[(1, 4), (2, 1400)]), (odd, 0));
        assert_eq!(decoded::<V4>(false, &[(1, 4)]), (odd, 0));
        assert_eq!(decoded::<V4>(false, &[(1, !4)]), (fine, 0));
        assert_eq!(decoded::<V6>(true, &[(1, 4), (2, 1400)]), (fine, 1400));
        assert_eq!(decoded::<V6>(false, &[(1, 4)]), (fine, 0));
    }
}
