//! Interfaces with VLAN tags, and several on one port.

use super::*;

const Q5: Tag = Tag { tpid: Tpid::Dot1q, vid: 5 };
const AD100: Tag = Tag { tpid: Tpid::Dot1ad, vid: 100 };
const W5: [u8; 4] = [0x81, 0, 0, 5];
const W100: [u8; 4] = [0x88, 0xa8, 0, 100];

/// The frame with these bytes behind its MACs.
fn tagged(f: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&f[..12], &tags.concat(), &f[12..]].concat()
}

/// On port 0: 10.5.0.0/24 and 2001:db8:5::/64 behind tag 5, 10.6.0.0/24 behind 802.1ad 100 and 5 within.
fn bench() -> Bench {
    let mut b = Bench::new();
    for (id, tags, net) in [(105, Tags::One(Q5), 5), (106, Tags::Two(AD100, Q5), 6)] {
        let r = RifId(id);
        b.set(Record::Rif(r, RifEntry { kind: RifKind::Port { port: PortId(0), tags }, ..rif(0) }));
        b.set(route4(&format!("10.{net}.0.0/24"), Fwd::Connected(r)));
        b.set(route6(&format!("2001:db8:{net}::/64"), Fwd::Connected(r)));
        let neigh = NeighEntry { mac: host(net) };
        b.set(Record::Neigh4(NeighKey { rif: r, addr: Ipv4Addr::new(10, net as u8, 0, 2) }, neigh.clone()));
        b.set(Record::Neigh6(NeighKey { rif: r, addr: ip6(&format!("2001:db8:{net}::2")) }, neigh));
    }
    b
}

/// An untagged packet as it leaves: MACs, TTL.
fn routed(f: &[u8], src: Mac, dst: Mac) -> Vec<u8> {
    let mut f = f.to_vec();
    f[..6].copy_from_slice(&dst.0);
    f[6..12].copy_from_slice(&src.0);
    if f[12] == 8 {
        f[22] -= 1;
        checksum(&mut f[14..34]);
    } else {
        f[21] -= 1;
    }
    f
}

#[test]
fn tags_are_taken_off_put_on_and_exchanged() {
    let mut b = bench();
    for in_tags in [&[][..], &[W5], &[W100, W5], &[[0x81, 0, 0xf0, 5]]] {
        for (net, port, mac_out, out_tags) in
            [(5, 0, mac(0), &[W5][..]), (6, 0, mac(0), &[W100, W5]), (1, 1, mac(1), &[])]
        {
            let (dst4, dst6) = if net == 1 {
                ("10.0.1.2".to_owned(), "2001:db8:1::2".to_owned())
            } else {
                (format!("10.{net}.0.2"), format!("2001:db8:{net}::2"))
            };
            for f in [udp4("10.0.9.2", &dst4), udp6("2001:db8:9::2", &dst6)] {
                let mut sent = tagged(&f, in_tags);
                sent.resize(sent.len() + 7, 0xee);
                let same = in_tags.len() == out_tags.len() && port == 0 && in_tags.first() != Some(&[0x81, 0, 0xf0, 5])
                    || in_tags.len() == 1 && net == 5;
                let (v, out) = b.run(&sent);
                if same {
                    assert_eq!(v, Verdict::Trap(TrapClass::SameInterface), "{in_tags:02x?} to {net}");
                    continue;
                }
                let want = tagged(&routed(&f, mac_out, host(net)), out_tags);
                let grown = 4 * (out_tags.len() as i8 - in_tags.len() as i8);
                assert_eq!(v, Verdict::Forward { port: PortId(port), grown, len: want.len() as u32 });
                assert_eq!(out, want, "{in_tags:02x?} to {net}");
            }
        }
    }
}

#[test]
fn no_tags_but_the_very_ones_are_taken() {
    let mut b = bench();
    let f = udp4("10.5.0.2", "10.0.1.2");
    for tags in [
        &[[0x81, 0, 0, 6]][..],
        &[[0x81, 0, 0x10, 0]],
        &[[0x81, 0, 0x0f, 0xff]],
        &[[0x88, 0xa8, 0, 5]],
        &[W100],
        &[W5, W5],
        &[W5, W100],
        &[W5, [0x81, 0, 0, 0]],
        &[[0x81, 0, 0, 0], W5],
        &[W100, W5, W5],
        &[W100, [0x81, 0, 0, 6]],
    ] {
        assert_eq!(b.class(&tagged(&f, tags)), TrapClass::Vlan, "{tags:02x?}");
    }
    let t = tagged(&f, &[W5]);
    for n in 14..t.len() {
        let want = match n {
            14..18 => TrapClass::Vlan,
            _ => TrapClass::Malformed,
        };
        assert_eq!(b.class(&t[..n]), want, "{n} bytes");
    }
    let to = |mac: &[u8]| [mac, &t[6..]].concat();
    assert_eq!(b.class(&to(&[2, 9, 9, 9, 9, 9])), TrapClass::Vlan);
    assert_eq!(b.class(&to(&[0xff; 6])), TrapClass::Broadcast);
    assert_eq!(b.class(&to(&[1, 0, 0x5e, 0, 0, 5])), TrapClass::Multicast);
    assert_eq!(b.class(&tagged(&eth(mac(0), 0x88cc), &[W5])), TrapClass::Protocol);
    // ARP and ND have their class whatever bears them.
    assert_eq!(b.class(&tagged(&eth(mac(0), 0x0806), &[W5])), TrapClass::Arp);
    assert_eq!(b.class(&tagged(&eth(mac(0), 0x0806), &[W5, W5])), TrapClass::Arp);
    assert_eq!(b.class(&tagged(&frame6("fe80::2", "ff02::1", 58, 255, &[135; 24]), &[W5])), TrapClass::Nd);
    // What is said of an interface holds for it alone.
    let closed = RifEntry { ingress4: false, kind: RifKind::Port { port: PortId(0), tags: Tags::One(Q5) }, ..rif(0) };
    b.set(Record::Rif(RifId(105), closed));
    assert_eq!(b.class(&t), TrapClass::NotForwarding);
    assert_eq!(b.port(&tagged(&f, &[W100, W5])), 1);
    assert_eq!(b.port(&f), 1);
    b.remove(RifId(105));
    assert_eq!(b.class(&t), TrapClass::Vlan);
    assert_eq!(b.port(&tagged(&f, &[W100, W5])), 1);
}

#[test]
fn of_several_interfaces_the_mac_chooses() {
    let mut b = bench();
    let virt = |n: u8| Mac([0, 0, 0x5e, 0, 1, n]);
    let f = |mac: Mac| [&mac.0, &udp4("10.5.0.2", "10.0.1.2")[6..]].concat();
    let at = |tags, mac, strict| {
        let urpf = if strict { Urpf::Strict } else { Urpf::Off };
        RifEntry { kind: RifKind::Port { port: PortId(0), tags }, mac, urpf, ..rif(0) }
    };
    assert_eq!(b.class(&f(virt(1))), TrapClass::OtherMac);
    b.set(Record::Rif(RifId(1), at(Tags::None, virt(1), true)));
    b.set(Record::Rif(RifId(2), at(Tags::None, virt(2), false)));
    b.set(Record::Rif(RifId(3), at(Tags::One(Q5), virt(1), false)));
    // The strict one is found out by its check.
    assert_eq!(b.class(&f(virt(1))), TrapClass::Source);
    assert_eq!(b.port(&f(virt(2))), 1);
    assert_eq!(b.port(&f(mac(0))), 1);
    assert_eq!(b.class(&f(virt(3))), TrapClass::OtherMac);
    assert_eq!(b.port(&tagged(&f(virt(1)), &[W5])), 1);
    assert_eq!(b.port(&tagged(&f(mac(0)), &[W5])), 1);
    assert_eq!(b.class(&tagged(&f(virt(2)), &[W5])), TrapClass::Vlan);
    // Two that claim the same: neither has it, until one gives it up.
    b.set(Record::Rif(RifId(2), at(Tags::None, mac(0), false)));
    assert_eq!(b.class(&f(mac(0))), TrapClass::OtherMac);
    assert_eq!(b.class(&f(virt(2))), TrapClass::OtherMac);
    b.set(Record::Rif(RifId(4), at(Tags::None, mac(0), false)));
    b.remove(RifId(2));
    assert_eq!(b.class(&f(mac(0))), TrapClass::OtherMac);
    b.remove(RifId(4));
    assert_eq!(b.port(&f(mac(0))), 1);
    // The port's own may go, others stay.
    b.remove(RifId(100));
    assert_eq!(b.class(&f(mac(0))), TrapClass::OtherMac);
    assert_eq!(b.class(&f(virt(1))), TrapClass::Source);
    b.remove(RifId(1));
    assert_eq!(b.class(&f(virt(1))), TrapClass::NoRif);
    assert_eq!(b.port(&tagged(&f(virt(1)), &[W5])), 1);
}

#[test]
fn what_no_frame_bears_is_refused_unless_it_traps() {
    let mut b = Bench::new();
    for vid in [0, 4095, 5 + 4096] {
        let kind = RifKind::Port { port: PortId(0), tags: Tags::One(Tag { vid, ..Q5 }) };
        let open = RifEntry { kind, ..rif(0) };
        assert!(matches!(b.chip.apply(&Op::Set(Record::Rif(RifId(1), open.clone()))), Err(Reason::Unsupported(_))));
        b.set(Record::Rif(RifId(1), RifEntry { ingress4: false, ingress6: false, egress: false, ..open }));
        assert_eq!(b.class(&tagged(&udp4("10.0.0.2", "10.0.1.2"), &[W5])), TrapClass::Vlan);
    }
}
