//! The pipeline as a whole: frames in, verdicts out, over tables set through the contract.

mod bridge;
mod policies;
mod rules;

use hal::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::SimChip;

mod resilient;
mod tags;
mod vrfs;

const PORTS: usize = 4;

pub(crate) fn profile() -> Profile {
    Profile {
        name: "test".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 16,
        neigh4: 32,
        neigh6: 32,
        nexthops: 32,
        groups: 32,
        group_members: 64,
        buckets: 5000,
        routes4: 1000,
        routes6: 1000,
        vrfs: 2,
        rules: 8,
        frame: 9216,
    }
}

fn port_entry(n: u32, link: bool) -> PortEntry {
    PortEntry {
        name: format!("swp{n}"),
        ifindex: 10 + n,
        netns: 1,
        mac: mac(n),
        mtu: 1500,
        admin: true,
        link,
        wire: "none".into(),
        fault: None,
    }
}

fn mac(n: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, n as u8])
}

fn host(n: u32) -> Mac {
    Mac([2, 1, 0, 0, 0, n as u8])
}

fn rif(n: u32) -> RifEntry {
    RifEntry {
        kind: RifKind::port(PortId(n)),
        vrf: VrfId(0),
        mac: mac(n),
        mtu4: 1500,
        mtu6: 1500,
        ingress4: true,
        ingress6: true,
        egress: true,
        same4: false,
        urpf: Urpf::Off,
    }
}

fn ip4(s: &str) -> Ipv4Addr {
    s.parse().unwrap()
}

fn ip6(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

fn route4(p: &str, f: Fwd) -> Record {
    Record::Route4(RouteKey { vrf: VrfId(0), prefix: p.parse().unwrap() }, f)
}

fn route6(p: &str, f: Fwd) -> Record {
    Record::Route6(RouteKey { vrf: VrfId(0), prefix: p.parse().unwrap() }, f)
}

struct Bench {
    chip: SimChip,
    pipe: Pipeline,
}

impl Bench {
    /// Four ports with 10.0.N.0/24 and 2001:db8:N::/64, a host .2 on each; 172.16/12 and 2001:db8:100::/40 behind h1 (group 1).
    fn new() -> Self {
        let mut chip = SimChip::with_seed(profile(), PORTS, 7);
        for n in 0..PORTS as u32 {
            chip.set_port(PortId(n), port_entry(n, true));
        }
        let pipe = chip.pipeline();
        let mut b = Bench { chip, pipe };
        for n in 0..PORTS as u32 {
            let r = RifId(100 + n);
            b.set(Record::Rif(r, rif(n)));
            b.set(route4(&format!("10.0.{n}.0/24"), Fwd::Connected(r)));
            b.set(route4(&format!("10.0.{n}.1/32"), Fwd::Trap(TrapClass::ToUs)));
            b.set(route4(&format!("10.0.{n}.255/32"), Fwd::Trap(TrapClass::Broadcast)));
            b.set(route6(&format!("2001:db8:{n}::/64"), Fwd::Connected(r)));
            b.set(route6(&format!("2001:db8:{n}::1/128"), Fwd::Trap(TrapClass::ToUs)));
            let addr = Ipv4Addr::new(10, 0, n as u8, 2);
            b.set(Record::Neigh4(NeighKey { rif: r, addr }, NeighEntry { mac: host(n) }));
            let addr = ip6(&format!("2001:db8:{n}::2"));
            b.set(Record::Neigh6(NeighKey { rif: r, addr }, NeighEntry { mac: host(n) }));
            b.set(Record::NextHop(NextHopId(n), NextHopEntry::Ip(r, IpAddr::V6(addr))));
        }
        b.group(1, &[(1, 1)]);
        b.set(route4("172.16.0.0/12", Fwd::Group(GroupId(1))));
        b.set(route6("2001:db8:100::/40", Fwd::Group(GroupId(1))));
        b
    }
    fn set(&mut self, r: Record) {
        self.chip.apply(&Op::Set(r)).unwrap();
    }
    fn remove(&mut self, k: impl Into<AnyKey>) {
        self.chip.apply(&Op::Remove(k.into())).unwrap();
    }
    fn group(&mut self, id: u32, members: &[(u32, u32)]) {
        let members = members.iter().map(|&(n, weight)| Member { nexthop: NextHopId(n), weight }).collect();
        self.set(Record::Group(GroupId(id), GroupEntry { members, ..GroupEntry::default() }));
    }
    /// Verdict on a frame that came in by port 0; checks that pipeline and trace agree, and that only what is forwarded changes.
    fn run(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buf = [&[0xaa; ROOM], frame].concat();
        let mut batch = [Packet::new(PortId(0), &mut buf)];
        self.pipe.run(&mut batch);
        let verdict = batch[0].verdict;
        let buf = batch[0].sent().map_or(batch[0].frame(), |s| s.1).to_vec();
        let mut again = frame.to_vec();
        let (traced, steps) = self.chip.trace(PortId(0), &mut again);
        assert_eq!((traced, &again), (verdict, &buf), "{steps:?}");
        if !matches!(verdict, Verdict::Forward { .. }) {
            assert_eq!(buf, frame, "a frame that is not forwarded stays as it was");
        }
        (verdict, buf)
    }
    fn class(&mut self, frame: &[u8]) -> TrapClass {
        match self.run(frame).0 {
            Verdict::Trap(c) => c,
            v => panic!("{v:?}"),
        }
    }
    fn port(&mut self, frame: &[u8]) -> u32 {
        match self.run(frame).0 {
            Verdict::Forward { port, .. } => port.0,
            v => panic!("{v:?}"),
        }
    }
}

fn checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let mut s: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    header[10..12].copy_from_slice(&(!s as u16).to_be_bytes());
}

fn eth(dst: Mac, ethertype: u16) -> Vec<u8> {
    let mut f = dst.0.to_vec();
    f.extend(host(0).0);
    f.extend(ethertype.to_be_bytes());
    f
}

fn frame4(src: &str, dst: &str, proto: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = eth(mac(0), 0x0800);
    f.extend([0x45, 0]);
    f.extend((20 + payload.len() as u16).to_be_bytes());
    f.extend([0x12, 0x34, 0, 0, ttl, proto, 0, 0]);
    f.extend(ip4(src).octets());
    f.extend(ip4(dst).octets());
    checksum(&mut f[14..34]);
    f.extend(payload);
    f
}

fn udp4(src: &str, dst: &str) -> Vec<u8> {
    frame4(src, dst, 17, 64, &[0x30, 0x39, 0x00, 0x35, 0, 8, 0, 0])
}

fn frame6(src: &str, dst: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = eth(mac(0), 0x86dd);
    f.extend([0x60, 0, 0, 0]);
    f.extend((payload.len() as u16).to_be_bytes());
    f.extend([next, hops]);
    f.extend(ip6(src).octets());
    f.extend(ip6(dst).octets());
    f.extend(payload);
    f
}

fn udp6(src: &str, dst: &str) -> Vec<u8> {
    frame6(src, dst, 17, 64, &[0x30, 0x39, 0x00, 0x35, 0, 8, 0, 0])
}

/// Change IPv4 header bytes and set the checksum right.
fn edit4(mut f: Vec<u8>, at: usize, v: u8) -> Vec<u8> {
    f[14 + at] = v;
    checksum(&mut f[14..34]);
    f
}

#[test]
fn empty_tables_trap() {
    let mut chip = SimChip::new(profile(), 1);
    chip.set_port(PortId(0), port_entry(0, true));
    let mut pipe = chip.pipeline();
    let mut f = udp4("10.0.0.2", "10.0.1.2");
    f.splice(..0, [0; ROOM]);
    let mut batch = [Packet::new(PortId(0), &mut f)];
    pipe.run(&mut batch);
    assert_eq!(batch[0].verdict, Verdict::Trap(TrapClass::NoRif));
}

#[test]
fn a_packet_is_forwarded_rewritten_and_trimmed() {
    let mut b = Bench::new();
    for dst in ["10.0.1.2", "172.16.5.5"] {
        let mut f = udp4("10.0.0.2", dst);
        f.resize(60, 0xee);
        let (v, out) = b.run(&f);
        assert_eq!(v, Verdict::Forward { port: PortId(1), grown: 0, len: 42 });
        let mut want = f.clone();
        want[..6].copy_from_slice(&host(1).0);
        want[6..12].copy_from_slice(&mac(1).0);
        want[22] = 63;
        checksum(&mut want[14..34]);
        assert_eq!(out, want[..42]);
    }
    for dst in ["2001:db8:1::2", "2001:db8:123::5"] {
        let f = udp6("2001:db8:0::2", dst);
        let (v, out) = b.run(&f);
        assert_eq!(v, Verdict::Forward { port: PortId(1), grown: 0, len: 62 });
        let mut want = f.clone();
        want[..6].copy_from_slice(&host(1).0);
        want[6..12].copy_from_slice(&mac(1).0);
        want[21] = 63;
        assert_eq!(out, want);
    }
    let (_, steps) = b.chip.trace(PortId(0), &mut udp4("10.0.0.2", "172.16.5.5"));
    assert!(
        steps.contains(&crate::trace::Step::Destination { route: Some((12, Fwd::Group(GroupId(1)))) }),
        "{steps:?}"
    );
    assert!(steps.contains(&crate::trace::Step::NextHop { id: Some(NextHopId(1)) }), "{steps:?}");
}

/// A route's own MTU holds beside the interface's, for gateways, groups and what is connected.
#[test]
fn the_mtu_of_a_route() {
    let mut b = Bench::new();
    b.set(Record::NextHop(NextHopId(70), NextHopEntry::Connected(RifId(101))));
    for (id, nexthops, mtu) in
        [(70u32, vec![1u32], 600), (71, vec![1, 1], 600), (72, vec![70], 600), (73, vec![1], 9000)]
    {
        let members = nexthops.iter().map(|n| Member { nexthop: NextHopId(*n), weight: 1 }).collect();
        b.set(Record::Group(GroupId(id), GroupEntry { members, mtu, resilient: None }));
    }
    for (group, longest) in [(70, 600), (71, 600), (72, 600), (73, 1500)] {
        let dst = if group == 72 { "10.0.1.2" } else { "10.77.0.1" };
        b.set(route4(&format!("{dst}/32"), Fwd::Group(GroupId(group))));
        // The later ones of a batch by the way that the first two have opened.
        let lengths = [longest - 1, longest, longest, longest + 1, longest];
        let mut frames = lengths.map(|len| with_room(&frame4("10.0.0.2", dst, 17, 64, &vec![0; len - 20])));
        let mut batch = frames.each_mut().map(|f| Packet::new(PortId(0), f));
        b.pipe.run(&mut batch);
        let fits = batch.map(|p| matches!(p.verdict, Verdict::Forward { .. }));
        assert_eq!(fits, [true, true, true, false, true], "{group}");
        assert_eq!(b.class(&frame4("10.0.0.2", dst, 17, 64, &vec![0; longest - 19])), TrapClass::Mtu, "{group}");
    }
}

#[test]
fn each_reason_has_its_class() {
    use TrapClass::*;
    let mut b = Bench::new();
    let good = udp4("10.0.0.2", "10.0.1.2");
    let good6 = udp6("2001:db8:0::2", "2001:db8:1::2");
    let with = |f: &[u8], at: usize, v: &[u8]| {
        let mut f = f.to_vec();
        f[at..at + v.len()].copy_from_slice(v);
        f
    };
    let options = {
        let mut f = good.clone();
        f.splice(34..34, [1, 1, 1, 0]);
        f[14] = 0x46;
        f[17] += 4;
        f[24..26].fill(0);
        let mut s: u32 = f[14..38].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        s = (s & 0xffff) + (s >> 16);
        f[24..26].copy_from_slice(&(!s as u16).to_be_bytes());
        f
    };
    let cases: Vec<(TrapClass, Vec<u8>)> = vec![
        (Arp, eth(Mac::BROADCAST, 0x0806)),
        (Vlan, with(&good, 12, &[0x81, 0])),
        (Vlan, with(&good, 12, &[0x88, 0xa8])),
        (Protocol, with(&good, 12, &[0x88, 0xcc])),
        (Protocol, eth(Mac([1, 0x80, 0xc2, 0, 0, 0]), 38)),
        (Broadcast, with(&good, 0, &[0xff; 6])),
        (Multicast, with(&good, 0, &[1, 0, 0x5e, 0, 0, 1])),
        (OtherMac, with(&good, 0, &mac(1).0)),
        (Malformed, with(&good, 14, &[0x55])),
        (Malformed, with(&good, 14, &[0x44])),
        (Malformed, with(&good, 17, &[19])),
        (Malformed, with(&good, 24, &[0, 0])),
        (Malformed, edit4(good.clone(), 3, 29)),
        (Options, options),
        (Malformed, with(&good6, 14, &[0x50])),
        (Malformed, with(&good6, 19, &[9])),
        (Options, with(&good6, 20, &[0])),
        (Nd, with(&frame6("fe80::1", "ff02::1", 58, 255, &[135, 0, 0, 0]), 0, &[0x33, 0x33, 0, 0, 0, 1])),
        (ToUs, udp4("10.0.0.2", "10.0.3.1")),
        (ToUs, frame4("10.0.0.2", "10.0.3.1", 17, 1, &[])),
        (ToUs, udp6("2001:db8:0::2", "2001:db8:3::1")),
        (Broadcast, udp4("10.0.0.2", "10.0.1.255")),
        (Broadcast, udp4("10.0.0.2", "255.255.255.255")),
        (Multicast, udp4("10.0.0.2", "224.0.0.1")),
        (Multicast, udp4("10.0.0.2", "239.255.255.255")),
        (Special, udp4("10.0.0.2", "127.0.0.1")),
        (Special, udp4("10.0.0.2", "0.0.0.0")),
        (Special, udp4("127.0.0.1", "10.0.1.2")),
        (Special, udp4("0.0.0.0", "10.0.1.2")),
        (Special, udp4("224.0.0.1", "10.0.1.2")),
        (Special, udp4("255.255.255.255", "10.0.1.2")),
        (Multicast, udp6("2001:db8:0::2", "ff0e::1")),
        (Special, udp6("2001:db8:0::2", "::1")),
        (Special, udp6("2001:db8:0::2", "::")),
        (Special, udp6("2001:db8:0::2", "fe80::1")),
        (Special, udp6("2001:db8:0::2", "febf:ffff::1")),
        (Special, udp6("2001:db8:0::2", "::ffff:10.0.1.2")),
        (Special, udp6("::", "2001:db8:1::2")),
        (Special, udp6("::1", "2001:db8:1::2")),
        (Special, udp6("fe80::1", "2001:db8:1::2")),
        (Special, udp6("ff02::1", "2001:db8:1::2")),
        (Special, udp6("::ffff:1.2.3.4", "2001:db8:1::2")),
        (NoRoute, udp4("10.0.0.2", "8.8.8.8")),
        (NoRoute, udp6("2001:db8:0::2", "2002::1")),
        (Source, udp4("10.0.2.1", "10.0.1.2")),
        (Source, udp4("10.0.2.255", "10.0.1.2")),
        (Ttl, frame4("10.0.0.2", "10.0.1.2", 17, 1, &[])),
        (Ttl, frame4("10.0.0.2", "10.0.1.2", 17, 0, &[])),
        (Ttl, frame6("2001:db8:0::2", "2001:db8:1::2", 17, 1, &[])),
        (Glean, udp4("10.0.0.2", "10.0.1.3")),
        (Glean, udp6("2001:db8:0::2", "2001:db8:1::3")),
        (SameInterface, udp4("10.0.1.2", "10.0.0.2")),
        (SameInterface, udp6("2001:db8:1::2", "2001:db8:0::2")),
        (Mtu, frame4("10.0.0.2", "10.0.1.2", 17, 64, &[0; 1481])),
        (Mtu, frame6("2001:db8:0::2", "2001:db8:1::2", 17, 64, &[0; 1461])),
    ];
    for (class, f) in cases {
        assert_eq!(b.class(&f), class, "{f:02x?}");
    }
    // A session over link-local addresses is to the switch like any other.
    b.set(route6("fe80::1/128", Fwd::Trap(ToUs)));
    assert_eq!(b.class(&udp6("fe80::2", "fe80::1")), ToUs);
    assert_eq!(b.class(&udp4("0.0.0.0", "10.0.0.1")), ToUs);
    // What just passes.
    assert_eq!(b.port(&frame4("10.0.0.2", "10.0.1.2", 17, 2, &[0; 1480])), 1);
    assert_eq!(b.port(&frame6("2001:db8:0::2", "2001:db8:1::2", 17, 2, &[0; 1460])), 1);
    // Sources that RFC 1812 would refuse and the kernel does not (kernel-facts 28); an own IPv6 address as source.
    assert_eq!(b.port(&udp4("240.0.0.1", "10.0.1.2")), 1);
    assert_eq!(b.port(&udp4("169.254.0.1", "10.0.1.2")), 1);
    assert_eq!(b.port(&udp6("2001:db8:2::1", "2001:db8:1::2")), 1);
    assert_eq!(b.run(&good[..13]).0, Verdict::Drop(DropReason::Runt));
    assert_eq!(b.run(&[good, vec![0; 9216]].concat()).0, Verdict::Drop(DropReason::Giant));
}

#[test]
fn interfaces_ports_and_missing_objects() {
    use TrapClass::*;
    let mut b = Bench::new();
    let (f, f6) = (udp4("10.0.0.2", "10.0.1.2"), udp6("2001:db8:0::2", "2001:db8:1::2"));
    let through = udp4("10.0.0.2", "172.16.0.1");
    b.set(Record::Rif(RifId(101), RifEntry { egress: false, ..rif(1) }));
    assert_eq!((b.class(&f), b.class(&through)), (EgressClosed, EgressClosed));
    b.remove(RifId(101));
    assert_eq!((b.class(&f), b.class(&f6), b.class(&through)), (Dangling, Dangling, Dangling));
    b.set(Record::Rif(RifId(101), rif(1)));
    assert_eq!((b.port(&f), b.port(&f6), b.port(&through)), (1, 1, 1), "set again, all is as before");
    b.chip.set_port(PortId(1), port_entry(1, false));
    assert_eq!(b.class(&f), PortDown);
    b.chip.set_port(PortId(1), port_entry(1, true));
    b.set(Record::Rif(RifId(100), RifEntry { same4: true, ..rif(0) }));
    assert_eq!(b.port(&udp4("10.0.1.2", "10.0.0.2")), 0, "IPv4 turns round where no redirect is due");
    assert_eq!(b.class(&udp6("2001:db8:1::2", "2001:db8:0::2")), SameInterface);
    b.set(Record::Rif(RifId(100), RifEntry { ingress4: false, ..rif(0) }));
    assert_eq!((b.class(&f), b.port(&f6)), (NotForwarding, 1));
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.0.1")), ToUs);
    b.set(Record::Rif(RifId(100), RifEntry { ingress6: false, ..rif(0) }));
    assert_eq!((b.port(&f), b.class(&f6)), (1, NotForwarding));
    b.set(Record::Rif(RifId(100), rif(0)));
    // Two interfaces on one port: neither has it.
    b.set(Record::Rif(RifId(200), rif(0)));
    assert_eq!(b.class(&f), NoRif);
    b.remove(RifId(200));
    assert_eq!(b.port(&f), 1);

    b.remove(NextHopId(1));
    assert_eq!(b.class(&through), Dangling);
    b.set(Record::NextHop(NextHopId(1), NextHopEntry::Ip(RifId(102), IpAddr::V4(ip4("10.0.2.9")))));
    assert_eq!(b.class(&through), Unresolved);
    b.set(Record::Neigh4(NeighKey { rif: RifId(102), addr: ip4("10.0.2.9") }, NeighEntry { mac: host(9) }));
    assert_eq!(b.port(&through), 2);
    b.remove(NeighKey::<V4> { rif: RifId(102), addr: ip4("10.0.2.9") });
    assert_eq!(b.class(&through), Unresolved);
    b.set(Record::NextHop(NextHopId(1), NextHopEntry::Connected(RifId(102))));
    assert_eq!(b.class(&through), Glean);
    b.set(Record::NextHop(NextHopId(1), NextHopEntry::Trap(Unreachable)));
    assert_eq!(b.class(&through), Unreachable);
    b.set(Record::NextHop(NextHopId(1), NextHopEntry::Drop(DropReason::Blackhole)));
    assert_eq!(b.run(&through).0, Verdict::Drop(DropReason::Blackhole));
    b.group(1, &[]);
    assert_eq!(b.class(&through), Punt);
    b.remove(GroupId(1));
    assert_eq!(b.class(&through), Dangling);
    b.group(1, &[(3, 1)]);
    assert_eq!(b.port(&through), 3);
    b.set(route4("172.16.0.0/16", Fwd::Drop(DropReason::Blackhole)));
    assert_eq!(b.run(&through).0, Verdict::Drop(DropReason::Blackhole));
    b.set(route4("172.16.0.0/16", Fwd::Trap(NoRoom)));
    assert_eq!(b.class(&through), NoRoom);
}

#[test]
fn reverse_path_check() {
    let mut b = Bench::new();
    b.group(2, &[(0, 1), (1, 1)]);
    b.group(3, &[]);
    b.set(Record::NextHop(NextHopId(9), NextHopEntry::Trap(TrapClass::Punt)));
    b.group(4, &[(9, 1)]);
    b.set(route4("192.168.2.0/24", Fwd::Group(GroupId(2))));
    b.set(route4("192.168.3.0/24", Fwd::Group(GroupId(3))));
    b.set(route4("192.168.4.0/24", Fwd::Group(GroupId(4))));
    b.set(route4("192.168.5.0/24", Fwd::Drop(DropReason::Blackhole)));
    b.set(route4("192.168.6.0/24", Fwd::Trap(TrapClass::Unreachable)));
    b.set(route4("192.168.7.0/24", Fwd::Trap(TrapClass::NoRoom)));
    // Source, and whether it passes with the check off, loose, strict.
    let cases = [
        ("10.0.0.2", [true, true, true]),
        ("10.0.2.2", [true, true, false]),
        ("172.16.0.1", [true, true, false]),
        ("192.168.2.1", [true, true, true]),
        ("192.168.3.1", [true, false, false]),
        ("192.168.4.1", [true, false, false]),
        ("192.168.5.1", [true, false, false]),
        ("192.168.7.1", [false, false, false]),
        ("192.168.6.1", [true, false, false]),
        ("8.8.8.8", [true, false, false]),
        ("10.0.2.1", [false, false, false]),
    ];
    for (i, urpf) in [Urpf::Off, Urpf::Loose, Urpf::Strict].into_iter().enumerate() {
        b.set(Record::Rif(RifId(100), RifEntry { urpf, ..rif(0) }));
        for (src, passes) in cases {
            let want = if passes[i] {
                Verdict::Forward { port: PortId(1), grown: 0, len: 42 }
            } else {
                Verdict::Trap(TrapClass::Source)
            };
            assert_eq!(b.run(&udp4(src, "10.0.1.2")).0, want, "{src} {urpf:?}");
        }
    }
}

/// A multipath group over ports 1 to 3, and the port that a frame takes.
fn multipath() -> Bench {
    let mut b = Bench::new();
    b.group(5, &[(1, 1), (2, 2), (3, 5)]);
    b.set(route4("10.1.0.0/16", Fwd::Group(GroupId(5))));
    b.set(route4("10.2.0.0/16", Fwd::Group(GroupId(5))));
    b.set(route6("2001:db8:200::/40", Fwd::Group(GroupId(5))));
    b.set(route6("2001:db8:300::/40", Fwd::Group(GroupId(5))));
    b
}

/// Carrier loss acts before anybody writes: what the dead port served is trapped, whatever number of routes stands behind the
/// group, and all other flows stay where they were.
#[test]
fn carrier_loss_acts_by_itself() {
    let mut b = multipath();
    let flows: Vec<_> = (0..200u8).flat_map(|i| [1, 2].map(|n| udp4("10.0.0.2", &format!("10.{n}.7.{i}")))).collect();
    let before: Vec<u32> = flows.iter().map(|f| b.port(f)).collect();
    b.chip.set_port(PortId(2), port_entry(2, false));
    for (f, port) in flows.iter().zip(&before) {
        match port {
            2 => assert_eq!(b.class(f), TrapClass::PortDown),
            _ => assert_eq!(b.port(f), *port),
        }
    }
    assert!(before.contains(&2) && before.contains(&3));
    b.chip.set_port(PortId(2), port_entry(2, true));
    assert_eq!(flows.iter().map(|f| b.port(f)).collect::<Vec<_>>(), before);
}

#[test]
fn hash_inputs_are_the_kernels() {
    let mut b = multipath();
    let flows: Vec<u32> = (0..64).collect();
    // Whether frames that differ as two functions make them ever take different members.
    let split = |b: &mut Bench, x: &dyn Fn(u32) -> Vec<u8>, y: &dyn Fn(u32) -> Vec<u8>| {
        flows.iter().any(|&i| b.port(&x(i)) != b.port(&y(i)))
    };
    let a4 = |i: u32| format!("10.1.0.{i}");
    let a6 = |i: u32| format!("2001:db8:200::{i:x}");
    let tcp = |i: u32| frame4("10.2.0.2", &a4(i), 6, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    let tcp2 = |i: u32| frame4("10.2.0.2", &a4(i), 6, 9, &[7, 7, 2, 2, 0, 0, 0, 0]);
    let udp = |i: u32| frame4("10.2.0.2", &a4(i), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    let tcp6 = |i: u32| frame6("2001:db8:300::2", &a6(i), 6, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    let tcp62 = |i: u32| frame6("2001:db8:300::2", &a6(i), 6, 9, &[7, 7, 2, 2, 0, 0, 0, 0]);
    let udp6 = |i: u32| frame6("2001:db8:300::2", &a6(i), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    let labelled = |i: u32| {
        let mut f = tcp6(i);
        f[17] = 9;
        f
    };
    let classed = |i: u32| {
        let mut f = tcp6(i);
        f[14] = 0x6f;
        f[15] = 0xf0;
        f
    };
    // An error about the answer to a packet, from a router elsewhere, quoting either direction.
    let quote = |f: Vec<u8>| [&[3, 1, 0, 0, 0, 0, 0, 0], &f[14..]].concat();
    let back = |i: u32| frame4(&a4(i), "10.2.0.2", 6, 9, &[2, 2, 1, 1, 0, 0, 0, 0]);
    let error = |i: u32| frame4("10.0.2.9", "10.2.0.2", 1, 9, &quote(tcp(i)));
    let error_back = |i: u32| frame4("10.0.2.9", "10.2.0.2", 1, 9, &quote(back(i)));
    let echo = |i: u32| frame4(&a4(i), "10.2.0.2", 1, 9, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let quote6 = |f: Vec<u8>| [&[1, 1, 0, 0, 0, 0, 0, 0], &f[14..]].concat();
    let error6 = |i: u32| frame6("2001:db8:2::9", "2001:db8:300::2", 58, 9, &quote6(tcp6(i)));

    assert!(!split(&mut b, &tcp, &tcp2) && !split(&mut b, &tcp, &udp), "policy 0: addresses only");
    assert!(!split(&mut b, &tcp, &back), "both directions alike");
    assert!(!split(&mut b, &tcp, &error) && !split(&mut b, &tcp, &error_back) && !split(&mut b, &tcp, &echo));
    assert!(split(&mut b, &tcp, &|i| frame4("10.2.0.3", &a4(i), 6, 9, &[0; 8])), "the source counts");
    assert!(!split(&mut b, &tcp6, &tcp62), "policy 0, IPv6: no ports");
    assert!(!split(&mut b, &tcp6, &classed), "the traffic class does not count");
    assert!(split(&mut b, &tcp6, &labelled) && split(&mut b, &tcp6, &udp6), "but label and next header");
    assert!(!split(&mut b, &tcp6, &error6));

    b.set(Record::Switch(
        Global,
        SwitchEntry { hash4: HashPolicy::L4, hash6: HashPolicy::L4, ..SwitchEntry::default() },
    ));
    assert!(split(&mut b, &tcp, &tcp2) && split(&mut b, &tcp, &udp), "policy 1: ports and protocol");
    assert!(!split(&mut b, &tcp, &back));
    assert!(split(&mut b, &tcp6, &tcp62) && split(&mut b, &tcp6, &udp6));
    assert!(!split(&mut b, &tcp6, &labelled), "policy 1: no label");
    for bits in [0x20, 0x3f, 0x00] {
        // First fragment, a later one, and don't-fragment, which is none.
        let cut = |f: Vec<u8>| edit4(edit4(f, 6, bits), 7, u8::from(bits == 0x3f));
        let ports_count = split(&mut b, &|i| cut(tcp(i)), &|i| cut(tcp2(i)));
        assert_eq!(ports_count, bits == 0, "fragments hash without ports");
    }
    let fragment = |i: u32, p: u8, off: u8| {
        let body = [&[6, 0, 0, off, 0, 0, 0, 1], &[p, p, 2, 2, 0, 0, 0, 0][..]].concat();
        frame6("2001:db8:300::2", &a6(i), 44, 9, &body)
    };
    assert!(!split(&mut b, &|i| fragment(i, 1, 1), &|i| fragment(i, 7, 1)));
    assert!(!split(&mut b, &|i| fragment(i, 1, 1), &|i| fragment(i, 1, 8)), "first and later fragments");
    let behind = |i: u32, p: u8| {
        let body = [&[6, 0, 1, 4, 0, 0, 0, 0], &[p, p, 2, 2, 0, 0, 0, 0][..]].concat();
        frame6("2001:db8:300::2", &a6(i), 60, 9, &body)
    };
    assert!(!split(&mut b, &tcp6, &|i| behind(i, 1)), "ports are found behind destination options");
    assert!(split(&mut b, &|i| behind(i, 1), &|i| behind(i, 7)));
}

#[test]
fn counters_and_hit_marks() {
    let mut b = Bench::new();
    let mut frames: Vec<Vec<u8>> = vec![udp4("10.0.0.2", "10.0.1.2"); 100];
    frames.extend(vec![udp6("2001:db8:0::2", "2001:db8:123::1"); 50]);
    frames.push(udp4("10.0.0.2", "10.0.0.1"));
    frames.push(vec![0; 10]);
    let mut frames: Vec<_> = frames.iter().map(|f| with_room(f)).collect();
    let mut batch: Vec<Packet> = frames.iter_mut().map(|f| Packet::new(PortId(0), f)).collect();
    b.pipe.run(&mut batch);
    b.pipe.counters().trap_dropped(PortId(0), TrapClass::ToUs, DropReason::Policer, 42);
    let c = b.chip.counters();
    let p = c.ports[0].1;
    let count = |frames, bytes| Count { frames, bytes };
    assert_eq!(p.rx, count(152, 100 * 42 + 50 * 62 + 42 + 10));
    assert_eq!(p.forwarded, count(150, 100 * 42 + 50 * 62));
    assert_eq!((p.trapped, p.dropped), (count(0, 0), count(2, 52)));
    assert_eq!(c.traps[TrapClass::ToUs as usize], (TrapClass::ToUs, count(0, 0)));
    assert_eq!(c.trap_drops[TrapClass::ToUs as usize].1, count(1, 42));
    assert_eq!(c.drops[DropReason::Runt as usize].1, count(1, 10));
    let mut active = Vec::new();
    for t in TableId::ALL {
        let mut cursor = Some(0);
        while let Some(c) = cursor {
            cursor = b.chip.active(*t, c, 1, &mut active);
        }
    }
    let k4 = NeighKey::<V4> { rif: RifId(101), addr: ip4("10.0.1.2") };
    let k6 = NeighKey::<V6> { rif: RifId(101), addr: ip6("2001:db8:1::2") };
    assert_eq!(active[..2], [k4.into(), k6.into()]);
    let r4 = RouteKey::<V4> { vrf: VrfId(0), prefix: "10.0.1.0/24".parse().unwrap() };
    assert!(active[2..].contains(&r4.into()), "{active:?}");
    active.clear();
    b.chip.active(TableId::Neigh4, 0, 10, &mut active);
    assert_eq!(active, [], "marks are cleared when read");
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop_oneof![
        Just(udp4("10.0.0.2", "10.0.1.2")),
        Just(udp4("10.0.0.2", "10.1.1.2")),
        Just(udp6("2001:db8:0::2", "2001:db8:200::2")),
        Just(frame6("2001:db8:0::2", "2001:db8:200::2", 60, 9, &[6, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])),
        Just(frame6("2001:db8:0::2", "2001:db8:200::2", 58, 9, &[1; 60])),
        Just(frame4("10.0.0.2", "10.1.1.2", 1, 9, &[3; 40])),
        Just(frame4("10.0.0.2", "10.1.1.2", 4, 9, &udp4("10.0.0.2", "10.1.1.2")[14..])),
        Just(frame4("10.0.0.2", "10.1.1.2", 47, 9, &[&[0, 0, 8, 0], &udp4("10.0.0.2", "10.1.1.2")[14..]].concat())),
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let edited = (plain, edits, any::<bool>(), 0..80usize).prop_map(|(mut f, edits, fix, cut)| {
        for (at, v) in edits {
            let at = at.index(f.len());
            f[at] = v;
        }
        if fix && f[12..14] == [8, 0] {
            checksum(&mut f[14..34]);
        }
        if cut < 40 {
            f.truncate(f.len() - cut.min(f.len()));
        }
        f
    });
    prop_oneof![4 => edited, 1 => prop::collection::vec(any::<u8>(), 0..128)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_get_a_verdict(f in any_frame(), policy in 0..4u8) {
        let mut b = multipath();
        let p = [HashPolicy::L3, HashPolicy::L4, HashPolicy::Inner, HashPolicy::Fields(0xfff)][usize::from(policy)];
        b.set(Record::Switch(Global, SwitchEntry { hash4: p, hash6: p, ..SwitchEntry::default() }));
        let (v, out) = b.run(&f);
        if let Verdict::Forward { port, grown, len } = v {
            prop_assert!(grown == 0 && len as usize <= f.len() && port.0 < 4);
            // Nothing but MACs, TTL and checksum changes.
            let v4 = f[12..14] == [8, 0];
            for (i, (x, y)) in f.iter().zip(&out).enumerate().skip(12) {
                let may = if v4 { matches!(i, 22 | 24 | 25) } else { i == 21 };
                prop_assert!(x == y || may, "byte {i}");
            }
            if v4 {
                let mut again = out.clone();
                checksum(&mut again[14..34]);
                prop_assert_eq!(again, out);
            }
        }
    }
}

#[test]
fn truncated_at_each_byte() {
    let mut b = multipath();
    for f in [udp4("10.0.0.2", "10.1.1.2"), udp6("2001:db8:0::2", "2001:db8:200::2")] {
        for n in 0..f.len() {
            let v = b.run(&f[..n]).0;
            let want = match n {
                ..14 => Verdict::Drop(DropReason::Runt),
                _ => Verdict::Trap(TrapClass::Malformed),
            };
            assert_eq!(v, want, "{n} bytes");
        }
    }
}

#[test]
fn tables_change_under_running_pipelines() {
    let mut b = multipath();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut pipes = [b.chip.pipeline(), b.chip.pipeline()];
    std::thread::scope(|s| {
        for pipe in &mut pipes {
            let stop = &stop;
            s.spawn(move || {
                let templates: Vec<Vec<u8>> = (0..64u8)
                    .map(|i| match i % 2 {
                        0 => udp4("10.0.0.2", &format!("10.1.{i}.2")),
                        _ => udp6("2001:db8:0::2", &format!("2001:db8:2{i:02x}::2")),
                    })
                    .collect();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut frames: Vec<_> = templates.iter().map(|f| with_room(f)).collect();
                    let mut batch: Vec<Packet> = frames.iter_mut().map(|f| Packet::new(PortId(0), f)).collect();
                    pipe.run(&mut batch);
                    for p in &batch {
                        // Every state on the way leads to one of these; and a frame's MACs belong together.
                        let Some((port, sent)) = p.sent() else { panic!("{:?}", p.verdict) };
                        assert!((1..4).contains(&port.0));
                        assert_eq!((&sent[..6], &sent[6..12]), (&host(port.0).0[..], &mac(port.0).0[..]));
                    }
                }
            });
        }
        let members: [&[(u32, u32)]; 4] = [&[(1, 1), (2, 1)], &[(3, 1)], &[(1, 3), (2, 1), (3, 60)], &[(2, 1), (3, 1)]];
        for round in 0..3000u32 {
            b.group(5, members[round as usize % 4]);
            let len = 17 + round % 16;
            let p4 = format!(
                "{}/{len}",
                Prefix::<V4>::new(Ipv4Addr::from_bits(0x0a01_0000 | round << 8 & 0x3f00 | 2), len as u8).addr()
            );
            let a6 = ip6("2001:db8:200::2").to_bits() | u128::from(round % 64) << 80;
            let p6 = Prefix::<V6>::new(a6.into(), (41 + round % 88) as u8).to_string();
            b.set(route4(&p4, Fwd::Group(GroupId(5))));
            b.set(route6(&p6, Fwd::Group(GroupId(5))));
            if round % 3 != 0 {
                b.remove(RouteKey::<V4> { vrf: VrfId(0), prefix: p4.parse().unwrap() });
                b.remove(RouteKey::<V6> { vrf: VrfId(0), prefix: p6.parse().unwrap() });
            }
            b.set(Record::Rif(RifId(101), RifEntry { mtu4: 1500 + round, ..rif(1) }));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_group_that_does_not_fit_is_refused() {
    let mut b = Bench::new();
    let members = (0..65).map(|_| Member { nexthop: NextHopId(1), weight: 1 }).collect();
    let op = Op::Set(Record::Group(GroupId(7), GroupEntry { members, ..GroupEntry::default() }));
    assert!(matches!(b.chip.apply(&op), Err(Reason::Unsupported(_))));
}
