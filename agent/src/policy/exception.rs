//! Exceptions of single destinations in the kernel's routes: gateways from redirects, path MTUs from ICMP errors.
//!
//! Judges an `RTM_GETROUTE` dump of cloned routes; no I/O. Traffic makes them, a route's change or some minutes end
//! them, and nothing announces either. An IPv4 path MTU that is not locked is of no consequence to what is forwarded, since
//! `ip_forward_use_pmtu` is off or closes the gate; one is locked when the ICMP error names less than `min_pmtu` (552). IPv6
//! holds what it forwards to any that it has learned (`ip6_dst_mtu_maybe_forward`).
//! IPv4 shows an exception only once the kernel itself has sent by it (`fnhe_dump_bucket`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nl::{Message, attrs, find, u32_at};
use super::{Finding, Scope};
use crate::compile::vrf;

const NEWROUTE: u16 = 24;
/// `RTCF_REDIRECTED` (`linux/in_route.h`)
const REDIRECTED: u32 = 0x0004_0000;
const RTAX_MTU: u16 = 2;
/// `AF_INET6`
const V6: u8 = libc::AF_INET6 as u8;

/// The question: cloned routes (`RTM_F_CLONED`) of all tables, behind a `struct rtmsg`.
pub fn question(family: u8) -> [u8; 12] {
    let mut b = [0; 12];
    b[0] = family;
    b[8..12].copy_from_slice(&0x200u32.to_ne_bytes());
    b
}

/// What the exceptions close.
pub fn judge(routes: &[Message]) -> Vec<Finding> {
    let unreadable = |m: &Message| {
        let scope = if m.body.first() == Some(&V6) { Scope::V6 } else { Scope::V4 };
        Some(Finding::new(scope, "a route exception that the agent cannot read"))
    };
    let one = |m: &Message| exception(&m.body).unwrap_or_else(|| unreadable(m));
    routes.iter().filter(|m| m.kind == NEWROUTE).filter_map(one).collect()
}

/// `None`: not understood.
fn exception(b: &[u8]) -> Option<Option<Finding>> {
    let flags = u32_at(b, 8)?;
    let a = attrs(b.get(12..)?)?;
    let dst = find(&a, 1)?;
    // Also of a table that no virtual router has: nothing asks there.
    let table = find(&a, 15).map_or(b.get(4).copied().map(u32::from), |t| u32_at(t, 0))?;
    let vrf = vrf::router(table).unwrap_or(vrf::DEFAULT).0;
    if b.first() == Some(&V6) {
        let dst = Ipv6Addr::from(<[u8; 16]>::try_from(dst).ok()?);
        let why = format!(
            "{dst}: ICMPv6 has taught the kernel a path MTU or another gateway; until it expires, or: ip -6 route flush cache"
        );
        return Some(Some(Finding::new(Scope::Host(vrf, IpAddr::V6(dst)), why)));
    }
    let dst = Ipv4Addr::from(<[u8; 4]>::try_from(dst).ok()?);
    let metrics = find(&a, 8).map_or(Some(Vec::new()), attrs)?;
    let locked = find(&metrics, 1).and_then(|l| u32_at(l, 0)).unwrap_or(0);
    let what = if flags & REDIRECTED != 0 {
        "an ICMP redirect has changed its gateway"
    } else if locked & 1 << RTAX_MTU != 0 {
        "an ICMP error has lowered its path MTU, and the kernel fragments"
    } else {
        return Some(None);
    };
    let why = format!("{dst}: {what}; until it expires, or: ip route flush cache");
    Some(Some(Finding::new(Scope::Host(vrf, IpAddr::V4(dst)), why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(flags: u32, attrs: &[(u16, &[u8])]) -> Message {
        let mut body = vec![2, 32, 0, 0, 254, 0, 0, 1];
        body.extend(flags.to_ne_bytes());
        for (kind, value) in attrs {
            body.extend(((value.len() + 4) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
        }
        Message { kind: NEWROUTE, body }
    }

    #[test]
    fn redirects_and_locked_mtus_close_their_destination() {
        let dst: (u16, &[u8]) = (1, &[10, 0, 2, 2]);
        let host = [Scope::Host(0, Ipv4Addr::new(10, 0, 2, 2).into())];
        let scopes = |m| judge(&[m]).into_iter().map(|f| f.scope).collect::<Vec<_>>();
        assert_eq!(scopes(route(0x200, &[dst])), []);
        assert_eq!(scopes(route(0x200 | REDIRECTED, &[dst])), host);
        let metrics = |lock: u32| {
            let mut m = Vec::new();
            for (kind, value) in [(1u16, lock), (RTAX_MTU, 552)] {
                m.extend(8u16.to_ne_bytes());
                m.extend(kind.to_ne_bytes());
                m.extend(value.to_ne_bytes());
            }
            m
        };
        assert_eq!(scopes(route(0x200, &[dst, (8, &metrics(0))])), []);
        assert_eq!(scopes(route(0x200, &[dst, (8, &metrics(4))])), host);
        assert_eq!(scopes(route(0x200, &[])), [Scope::V4]);
        let six: Ipv6Addr = "2001:db8::2".parse().unwrap();
        let as6 = |m: Message| Message { body: [&[V6, 128], &m.body[2..]].concat(), ..m };
        assert_eq!(scopes(as6(route(0x200, &[(1, &six.octets())]))), [Scope::Host(0, six.into())]);
        let red: (u16, &[u8]) = (15, &77u32.to_ne_bytes());
        assert_eq!(scopes(route(REDIRECTED, &[dst, red])), [Scope::Host(77, Ipv4Addr::new(10, 0, 2, 2).into())]);
        assert_eq!(scopes(as6(route(0x200, &[dst]))), [Scope::V6], "an address of the wrong length");
    }
}
