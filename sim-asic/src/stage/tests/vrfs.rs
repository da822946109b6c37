//! Virtual routers.

use super::*;

/// Ports 0 and 1 in a virtual router of its own, with their connected routes there.
fn routed_apart(vrf: VrfId) -> Bench {
    let mut b = Bench::new();
    for n in 0..2 {
        b.set(Record::Rif(RifId(100 + n), RifEntry { vrf, ..rif(n) }));
        let prefix = format!("10.0.{n}.0/24").parse().unwrap();
        b.set(Record::Route4(RouteKey { vrf, prefix }, Fwd::Connected(RifId(100 + n))));
    }
    b
}

#[test]
fn virtual_routers_keep_to_themselves() {
    let vrf = VrfId(u32::MAX);
    let mut b = routed_apart(vrf);
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 1);
    // What only the default one has.
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.2.2")), TrapClass::NoRoute);
    assert_eq!(b.class(&udp4("10.0.0.2", "172.16.0.1")), TrapClass::NoRoute);
    assert_eq!(b.class(&udp6("2001:db8::2", "2001:db8:1::2")), TrapClass::NoRoute);
    let key = |p: &str| RouteKey::<V4> { vrf, prefix: p.parse().unwrap() };
    b.set(Record::Route4(key("10.0.1.2/32"), Fwd::Trap(TrapClass::ToUs)));
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.1.2")), TrapClass::ToUs);
    b.remove(key("10.0.1.2/32"));
    // Out of it and into the default one.
    b.set(Record::Route4(key("10.0.2.0/24"), Fwd::Connected(RifId(102))));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.2.2")), 2);
    let mut keys = Vec::new();
    b.chip.active(TableId::Route4, 0, 99, &mut keys);
    assert!(keys.contains(&AnyKey::Route4(key("10.0.2.0/24"))), "{keys:?}");
    // There is room for two, the default one included.
    let other = Record::Rif(RifId(103), RifEntry { vrf: VrfId(7), ..rif(3) });
    assert!(matches!(b.chip.apply(&Op::Set(other.clone())), Err(Reason::Unsupported(_))));
    let more = RouteKey::<V6> { vrf: VrfId(7), prefix: "::/0".parse().unwrap() };
    assert!(matches!(
        b.chip.apply(&Op::Set(Record::Route6(more, Fwd::Trap(TrapClass::Punt)))),
        Err(Reason::Unsupported(_))
    ));
    for n in 0..2 {
        b.set(Record::Rif(RifId(100 + n), rif(n)));
        b.remove(key(&format!("10.0.{n}.0/24")));
    }
    b.remove(key("10.0.2.0/24"));
    b.set(other);
    b.set(Record::Route6(more, Fwd::Trap(TrapClass::Punt)));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.2.2")), 2, "by the default one again");
}

#[test]
fn sources_in_a_virtual_router() {
    let vrf = VrfId(9);
    let mut b = routed_apart(vrf);
    let set = |b: &mut Bench, p: &str, f| {
        b.set(Record::Route4(RouteKey { vrf, prefix: p.parse().unwrap() }, f));
    };
    b.group(2, &[(2, 1), (0, 1)]);
    b.group(3, &[(2, 1)]);
    set(&mut b, "10.0.2.0/24", Fwd::Connected(RifId(102)));
    set(&mut b, "192.168.2.0/24", Fwd::Group(GroupId(2)));
    set(&mut b, "192.168.3.0/24", Fwd::Group(GroupId(3)));
    set(&mut b, "192.168.5.0/24", Fwd::Drop(DropReason::Blackhole));
    // Source, and whether it passes with the check off, loose, strict.
    let cases = [
        ("10.0.0.2", [true, true, true]),
        ("10.0.1.9", [true, true, false]),
        ("10.0.2.9", [true, true, false]),
        ("192.168.2.1", [true, true, true]),
        ("192.168.3.1", [true, true, false]),
        ("192.168.5.1", [true, false, false]),
        ("192.168.6.1", [false, false, false]),
        ("8.8.8.8", [false, false, false]),
    ];
    for (i, urpf) in [Urpf::Off, Urpf::Loose, Urpf::Strict].into_iter().enumerate() {
        b.set(Record::Rif(RifId(100), RifEntry { urpf, vrf, ..rif(0) }));
        for (src, passes) in cases {
            let got = b.run(&udp4(src, "10.0.1.2")).0;
            let want = Verdict::Forward { port: PortId(1), grown: 0, len: 42 };
            assert_eq!(got == want, passes[i], "{src} {urpf:?} {got:?}");
        }
    }
}
