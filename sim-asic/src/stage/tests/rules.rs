//! Policy routing.

use super::*;

/// The default virtual router has everything; router 1 leads all of 10.0.0.0/8 and 2001:db8::/32 to the host on port 3.
fn bench(rules4: Vec<Rule<V4>>, rules6: Vec<Rule<V6>>) -> Bench {
    let mut b = Bench::new();
    b.group(3, &[(3, 1)]);
    let (vrf, to) = (VrfId(1), Fwd::Group(GroupId(3)));
    b.set(Record::Route4(RouteKey { vrf, prefix: "10.0.0.0/8".parse().unwrap() }, to));
    b.set(Record::Route6(RouteKey { vrf, prefix: "2001:db8::/32".parse().unwrap() }, to));
    b.set(Record::Switch(Global, SwitchEntry { rules4, rules6, ..SwitchEntry::default() }));
    b
}

fn elsewhere<F: hal::Family>() -> Rule<F> {
    Rule::all(RuleAction::Vrf(VrfId(1)))
}

#[test]
fn the_first_rule_that_matches_counts() {
    let from = |p: &str| Rule { src: p.parse().unwrap(), ..elsewhere() };
    let trap = Rule { dst: "10.0.2.9/32".parse().unwrap(), ..Rule::all(RuleAction::Trap(TrapClass::Punt)) };
    let own = Rule { src: "10.0.0.7/32".parse().unwrap(), ..Rule::all(RuleAction::Vrf(VrfId(0))) };
    let mut b = bench(vec![trap, own, from("10.0.0.0/24")], vec![]);
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 3);
    assert_eq!(b.port(&udp4("10.0.0.7", "10.0.1.2")), 1);
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.2.9")), TrapClass::Punt);
    assert_eq!(b.port(&udp4("10.0.1.9", "10.0.1.2")), 1, "another source");
    assert_eq!(b.class(&udp4("10.0.0.2", "11.0.0.1")), TrapClass::NoRoute, "no way back to the default router");
    assert_eq!(b.port(&udp6("2001:db8::2", "2001:db8:1::2")), 1, "no rule of the family");
    // Sources are looked up where the packet came in by.
    b.set(Record::Rif(RifId(100), RifEntry { urpf: Urpf::Strict, ..rif(0) }));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 3);
    b.set(Record::Switch(Global, SwitchEntry::default()));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 1);
}

#[test]
fn what_is_for_the_switch_stays_so_under_a_trap() {
    let mut b = bench(vec![Rule::all(RuleAction::Trap(TrapClass::Punt))], vec![]);
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.0.1")), TrapClass::ToUs);
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.1.2")), TrapClass::Punt);
}

#[test]
fn interfaces() {
    let mut b =
        bench(vec![Rule { iif: Some(RifId(100)), ..elsewhere() }], vec![Rule { iif: Some(RifId(101)), ..elsewhere() }]);
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 3);
    assert_eq!(b.port(&udp6("2001:db8::2", "2001:db8:1::2")), 1, "came in by another");
    // An interface that is not there, and comes back.
    b.remove(RifId(100));
    assert_eq!(b.class(&udp4("10.0.0.2", "10.0.1.2")), TrapClass::NoRif);
    b.set(Record::Rif(RifId(100), rif(0)));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 3);
}

#[test]
fn protocols_and_ports() {
    let mut b = bench(vec![], vec![]);
    let (four, six) = (udp4("10.0.0.2", "10.0.1.2"), udp6("2001:db8::2", "2001:db8:1::2"));
    let ports =
        |f: &[u8], at: usize| (u16::from_be_bytes([f[at], f[at + 1]]), u16::from_be_bytes([f[at + 2], f[at + 3]]));
    let (s, d) = ports(&four, 34);
    for (rule, to) in [
        (Rule { dport: Some((d, d)), ..elsewhere() }, 3),
        (Rule { dport: Some((d + 1, d + 1)), ..elsewhere() }, 1),
        (Rule { sport: Some((s, u16::MAX)), ..elsewhere() }, 3),
        (Rule { sport: Some((1, s.max(2) - 1)), ..elsewhere() }, 1),
        (Rule { proto: Some(17), ..elsewhere() }, 3),
        (Rule { proto: Some(6), ..elsewhere() }, 1),
    ] {
        b.set(Record::Switch(Global, SwitchEntry { rules4: vec![rule.clone()], ..SwitchEntry::default() }));
        assert_eq!(b.port(&four), to, "{rule:?}");
    }
    // A first fragment: protocol, but no ports.
    let rule = |r| Record::Switch(Global, SwitchEntry { rules4: vec![r], ..SwitchEntry::default() });
    let fragment = edit4(four, 6, 0x20);
    b.set(rule(Rule { dport: Some((d, d)), ..elsewhere() }));
    assert_eq!(b.port(&fragment), 1);
    b.set(rule(Rule { proto: Some(17), ..elsewhere() }));
    assert_eq!(b.port(&fragment), 3);
    // Behind an extension header the kernel looks on: who matches can't be told.
    let six_rule = |r| Record::Switch(Global, SwitchEntry { rules6: vec![r], ..SwitchEntry::default() });
    b.set(six_rule(Rule { proto: Some(17), ..elsewhere() }));
    assert_eq!(b.port(&six), 3);
    let mut extended = six.clone();
    extended[20] = 60;
    assert_eq!(b.class(&extended), TrapClass::Punt);
    b.set(six_rule(Rule { src: "2001:db8:9::/48".parse().unwrap(), proto: Some(17), ..elsewhere() }));
    assert_eq!(b.port(&extended), 1, "no rule that asks");
}

#[test]
fn too_many_are_refused_and_change_nothing() {
    let mut b = bench(vec![elsewhere()], vec![]);
    let many = Record::Switch(Global, SwitchEntry { rules6: vec![elsewhere(); 9], ..SwitchEntry::default() });
    assert!(matches!(b.chip.apply(&Op::Set(many)), Err(Reason::Unsupported(_))));
    assert_eq!(b.port(&udp4("10.0.0.2", "10.0.1.2")), 3);
}

#[test]
fn tos_under_a_mask() {
    fn rule<F: hal::Family>(tos: (u8, u8)) -> Rule<F> {
        Rule { tos: Some(tos), ..elsewhere() }
    }
    for (tos, value, mask, to) in
        [(0x10, 0x10, 0x1c, 3), (0x33, 0x10, 0x1c, 3), (0x14, 0x10, 0x1c, 1), (0x30, 0x10, 0xfc, 1)]
    {
        let mut b = bench(vec![rule((value, mask))], vec![rule((value, mask))]);
        let four = edit4(udp4("10.0.0.2", "10.0.1.2"), 1, tos);
        let mut six = udp6("2001:db8::2", "2001:db8:1::2");
        (six[14], six[15]) = (0x60 | tos >> 4, tos << 4);
        assert_eq!((b.port(&four), b.port(&six)), (to, to), "{tos:#x} against {value:#x} under {mask:#x}");
    }
}

#[test]
fn routes_that_are_too_short_do_not_count() {
    for (shortest, class) in [(8, None), (9, Some(TrapClass::NoRoute))] {
        let mut b = bench(vec![Rule { shortest, ..elsewhere() }], vec![Rule { shortest, ..elsewhere() }]);
        let four = udp4("10.0.0.2", "10.0.1.2");
        match class {
            None => assert_eq!(b.port(&four), 3),
            Some(c) => assert_eq!(b.class(&four), c),
        }
        assert_eq!(b.port(&udp6("2001:db8::2", "2001:db8:1::2")), 3, "32 bits are enough");
    }
}
