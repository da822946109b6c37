//! What the kernel of the bench says: four ports with an address each, and route messages by number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::Mac;
use virga::input::DumpKind;
use virga::netlink::build::{Builder, push_attr};
use virga::netlink::{AF_INET, AF_INET6, nlm, rtm};

/// Ports; their devices are numbered from 1.
pub const PORTS: u32 = 4;
/// Bytes of messages in one read of the monitor socket.
const READ: usize = 8 << 10;
/// `IFF_UP` and what comes with it: RUNNING, LOWER_UP, BROADCAST, MULTICAST (`linux/if.h`).
const UP: u32 = 0x11043;
const DOWN: u32 = 0x1002;
/// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_MULTICAST`.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;
const MULTICAST: u8 = 5;
const MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

pub fn mac(i: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, i as u8])
}

/// A port's device, up or down.
pub fn link(i: u32, up: bool) -> Vec<u8> {
    let mut head = vec![0, 0, 1, 0];
    head.extend(i.to_ne_bytes());
    head.extend(if up { UP } else { DOWN }.to_ne_bytes());
    head.extend(0u32.to_ne_bytes());
    let mut inet6 = Vec::new();
    push_attr(&mut inet6, 2, &[0u32, 64, 1500].map(u32::to_ne_bytes).concat());
    let mut spec = Vec::new();
    push_attr(&mut spec, 10, &inet6);
    let name = format!("swp{i}\0");
    Builder::new(rtm::NEWLINK, 0, &head)
        .attr(3, name.as_bytes())
        .attr(1, &mac(i).0)
        .u32(4, 1500)
        .attr(33, &[u8::from(up)])
        .attr(26, &spec)
        .done()
}

fn rule(family: u8, priority: u32, table: u8) -> Vec<u8> {
    let b = Builder::new(rtm::NEWRULE, 0, &[family, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]).u32(15, table.into());
    let b = b.u32(14, u32::MAX).attr(21, &[2]);
    if priority == 0 { b.done() } else { b.u32(6, priority).done() }
}

fn route(
    kind: u16,
    flags: u16,
    rtn: u8,
    table: u32,
    (dst, len): (IpAddr, u8),
    dev: u32,
    via: Option<IpAddr>,
) -> Vec<u8> {
    let family = if dst.is_ipv4() { AF_INET } else { AF_INET6 };
    let (proto, scope) = if via.is_some() { (186, 0) } else { (2, 253) };
    let metric = if via.is_some() { 20 } else { 0 };
    let b = Builder::new(kind, flags, &[family, len, 0, 0, table as u8, proto, scope, rtn, 0, 0, 0, 0]);
    let b = b.u32(15, table).addr(1, dst).u32(6, metric);
    if let Some(gw) = via { b.addr(5, gw).u32(4, dev).done() } else { b.u32(4, dev).done() }
}

/// What a dump of that kind says at first.
pub fn dump(kind: DumpKind) -> Vec<u8> {
    let ports = 1..=PORTS;
    let own = |kind: u8, table: u32, dst: [u8; 4], len: u8, dev: u32| {
        route(rtm::NEWROUTE, 0, kind, table, (Ipv4Addr::from(dst).into(), len), dev, None)
    };
    let own6 = |kind: u8, dst: &str, len: u8, dev: u32| {
        let dst: Ipv6Addr = dst.parse().expect("an address");
        route(rtm::NEWROUTE, 0, kind, TABLE_LOCAL, (dst.into(), len), dev, None)
    };
    match kind {
        DumpKind::Link => ports.flat_map(|i| link(i, true)).collect(),
        DumpKind::Netconf => [AF_INET, AF_INET6]
            .into_iter()
            .flat_map(|f| ports.clone().map(|i| i as i32).chain([-1]).map(move |i| (f, i)))
            .flat_map(|(f, i)| Builder::new(80, 0, &[f]).u32(1, i as u32).u32(2, 1).u32(3, 0).u32(6, 0).done())
            .collect(),
        DumpKind::Addr => ports
            .flat_map(|i| {
                let own = Ipv4Addr::new(10, 200, i as u8, 1);
                let head = [[2, 24, 0x80, 0], i.to_ne_bytes()].concat();
                Builder::new(rtm::NEWADDR, 0, &head).addr(1, own.into()).addr(2, own.into()).done()
            })
            .collect(),
        DumpKind::Rule => {
            [rule(2, 0, 255), rule(2, 32766, 254), rule(2, 32767, 253), rule(10, 0, 255), rule(10, 32766, 254)].concat()
        }
        DumpKind::Neigh | DumpKind::NextHop | DumpKind::List6 | DumpKind::Vlan | DumpKind::Fdb => Vec::new(),
        DumpKind::Route4 => ports
            .flat_map(|i| {
                let n = i as u8;
                [
                    own(LOCAL, TABLE_LOCAL, [10, 200, n, 1], 32, i),
                    own(BROADCAST, TABLE_LOCAL, [10, 200, n, 255], 32, i),
                    own(UNICAST, MAIN, [10, 200, n, 0], 24, i),
                ]
            })
            .chain([own(LOCAL, TABLE_LOCAL, [127, 0, 0, 0], 8, 100), own(LOCAL, TABLE_LOCAL, [127, 0, 0, 1], 32, 100)])
            .flatten()
            .collect(),
        DumpKind::Route6 => {
            ports.map(|i| own6(MULTICAST, "ff00::", 8, i)).chain([own6(LOCAL, "::1", 128, 100)]).flatten().collect()
        }
    }
}

/// What is said of route number `i`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It is new.
    New,
    /// It leads to another gateway on its port.
    Replaced,
    /// It is gone, having been replaced.
    Gone,
}

/// Route number `i` leads out of this port.
pub fn port_of(i: u32) -> u32 {
    1 + i % PORTS
}

/// A message about an IPv4 /24 or IPv6 /48, by one of 256 gateways; odd multipliers permute, so each comes once and in no
/// order.
pub fn message(v6: bool, i: u32, say: Say) -> Vec<u8> {
    let n = i.wrapping_mul(0x9e37_79b1);
    let (port, host) = (port_of(i), 2 + ((i / PORTS + u32::from(say != Say::New)) % 64) as u8);
    let (dst, len, via): (IpAddr, u8, IpAddr) = if v6 {
        let dst = 0x2000_u128 << 112 | u128::from(n & 0x0fff_ffff) << 80;
        let via = 0xfe80_u128 << 112 | u128::from(host);
        (Ipv6Addr::from_bits(dst).into(), 48, Ipv6Addr::from_bits(via).into())
    } else {
        (Ipv4Addr::from_bits((n & 0x00ff_ffff) << 8).into(), 24, Ipv4Addr::new(10, 200, port as u8, host).into())
    };
    let (kind, flags) = match say {
        Say::New => (rtm::NEWROUTE, nlm::F_CREATE | nlm::F_EXCL),
        Say::Replaced => (rtm::NEWROUTE, nlm::F_REPLACE),
        Say::Gone => (rtm::DELROUTE, 0),
    };
    route(kind, flags, UNICAST, MAIN, (dst, len), port, Some(via))
}

/// Next-hop objects of the bench, numbered from 1, and groups of four of them, numbered from [`GROUP`] on.
pub const OBJECTS: u32 = 256;
pub const GROUPS: u32 = 64;
pub const GROUP: u32 = 1001;

/// The gateway of an object: one of 64 on one of the ports; `other` for where it leads when it was replaced.
pub fn gateway(id: u32, other: bool) -> (u32, Ipv4Addr) {
    let port = port_of(id);
    (port, Ipv4Addr::new(10, 200, port as u8, 2 + (id / PORTS % 64) as u8 + if other { 64 } else { 0 }))
}

/// A single object.
pub fn object(id: u32, other: bool) -> Vec<u8> {
    let (port, gw) = gateway(id, other);
    let b = Builder::new(rtm::NEWNEXTHOP, 0, &[AF_INET, 0, 11, 0, 0, 0, 0, 0]);
    b.u32(1, id).u32(5, port).addr(6, gw.into()).done()
}

/// A group of four objects, by its number from 0 on.
pub fn group(n: u32) -> Vec<u8> {
    let member = |k: u32| [(1 + (n * 4 + k) % OBJECTS).to_ne_bytes(), [0; 4]].concat();
    let members: Vec<u8> = (0..4).flat_map(member).collect();
    Builder::new(rtm::NEWNEXTHOP, 0, &[0, 0, 11, 0, 0, 0, 0, 0]).u32(1, GROUP + n).attr(2, &members).done()
}

/// An object or group is gone, and with it, unannounced, its routes.
pub fn object_gone(id: u32) -> Vec<u8> {
    Builder::new(rtm::DELNEXTHOP, 0, &[0, 0, 11, 0, 0, 0, 0, 0]).u32(1, id).done()
}

/// Which object or group route number `i` leads to: half of them to objects, half to groups.
pub fn object_of(i: u32) -> u32 {
    if i.is_multiple_of(2) { 1 + i / 2 % OBJECTS } else { GROUP + i / 2 % GROUPS }
}

/// A message about an IPv4 /24 by an object.
pub fn object_route(i: u32) -> Vec<u8> {
    let dst = (i.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff) << 8;
    let head = [AF_INET, 24, 0, 0, MAIN as u8, 186, 0, UNICAST, 0, 0, 0, 0];
    let b = Builder::new(rtm::NEWROUTE, nlm::F_CREATE | nlm::F_EXCL, &head);
    b.u32(15, MAIN).addr(1, Ipv4Addr::from_bits(dst).into()).u32(6, 20).u32(30, object_of(i)).done()
}

/// The neighbour of a gateway, reachable or failed.
pub fn neigh((port, gw): (u32, Ipv4Addr), good: bool) -> Vec<u8> {
    let mut head = [0; 12];
    head[0] = AF_INET;
    head[4..8].copy_from_slice(&port.to_ne_bytes());
    head[8] = if good { 2 } else { 0x20 };
    let b = Builder::new(rtm::NEWNEIGH, 0, &head).addr(1, gw.into());
    if good { b.attr(2, &[2, 0, 0, 1, 0, gw.octets()[3]]).done() } else { b.done() }
}

/// A message about the IPv4 default route, which leads out of the first port.
pub fn default_route(say: Say) -> Vec<u8> {
    let (kind, flags) = match say {
        Say::New => (rtm::NEWROUTE, nlm::F_CREATE | nlm::F_EXCL),
        Say::Replaced => (rtm::NEWROUTE, nlm::F_REPLACE),
        Say::Gone => (rtm::DELROUTE, 0),
    };
    let via = Ipv4Addr::new(10, 200, 1, 2);
    route(kind, flags, UNICAST, MAIN, (Ipv4Addr::UNSPECIFIED.into(), 0), 1, Some(via.into()))
}

/// Messages as the monitor socket hands them over.
pub fn reads(messages: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut reads: Vec<Vec<u8>> = Vec::new();
    for m in messages {
        match reads.last_mut() {
            Some(r) if r.len() < READ => r.extend(m),
            _ => {
                let mut r = Vec::with_capacity(READ + m.len());
                r.extend(m);
                reads.push(r);
            }
        }
    }
    reads
}
