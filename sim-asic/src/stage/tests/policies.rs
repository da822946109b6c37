//! Multipath hash policies: shares over many flows, and what policies 2 and 3 look at, in tunnels too.

use hal::hash_field::{ALL, DST, DST_PORT, INNER, LABEL, PROTO, SRC, SRC_PORT};

use super::*;

fn policy(b: &mut Bench, p: HashPolicy) {
    b.set(Record::Switch(Global, SwitchEntry { hash4: p, hash6: p, ..SwitchEntry::default() }));
}

/// What is behind the Ethernet header.
fn packet(f: Vec<u8>) -> Vec<u8> {
    f[14..].to_vec()
}

fn gre(flags: u16, proto: u16, words: usize, inner: Vec<u8>) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &proto.to_be_bytes(), &vec![9; 4 * words], &inner].concat()
}

const OUT4: [&str; 2] = ["10.2.0.2", "10.1.0.9"];
const OUT6: [&str; 2] = ["2001:db8:300::2", "2001:db8:200::9"];

fn in4(i: u32, sport: u8) -> Vec<u8> {
    packet(frame4("192.168.0.1", &format!("192.168.1.{i}"), 17, 9, &[1, sport, 2, 2, 0, 0, 0, 0]))
}

fn in6(i: u32, label: u8) -> Vec<u8> {
    let mut p = packet(frame6("fd00::1", &format!("fd00::1:{i:x}"), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]));
    p[3] = label;
    p
}

/// Whether frames that differ as two functions make them ever take different members.
fn split(b: &mut Bench, x: &dyn Fn(u32) -> Vec<u8>, y: &dyn Fn(u32) -> Vec<u8>) -> bool {
    (0..64).any(|i| b.port(&x(i)) != b.port(&y(i)))
}

#[test]
fn shares_follow_weights_over_many_flows() {
    let mut b = multipath();
    let flows = 100_000u32;
    let all = HashPolicy::Fields(SRC | DST | PROTO | SRC_PORT | DST_PORT);
    let inner = HashPolicy::Fields(PROTO | (SRC | DST | SRC_PORT) << INNER);
    for p in [HashPolicy::L3, HashPolicy::L4, HashPolicy::Inner, all, HashPolicy::Fields(SRC_PORT), inner] {
        policy(&mut b, p);
        let mut got = [[0u32; 4]; 3];
        let by_port = !matches!(p, HashPolicy::L3 | HashPolicy::Inner) && p != inner;
        for i in 0..flows {
            let ports = [(i >> 8) as u8, i as u8, 0, 53];
            // As many flows as there are ports, or addresses.
            let i = if by_port { i >> 16 } else { i };
            if p == inner {
                let inside = packet(frame4("192.168.0.1", &format!("10.1.{}.9", i >> 16), 17, 9, &ports));
                got[2][b.port(&frame4(OUT4[0], OUT4[1], 4, 9, &inside)) as usize] += 1;
                continue;
            }
            let four = format!("10.1.{}.{}", i >> 8 & 255, i & 255);
            let src = format!("10.0.0.{}", 2 + (i >> 16));
            got[0][b.port(&frame4(&src, &four, 17, 9, &ports)) as usize] += 1;
            let six = format!("2001:db8:200::{:x}:{:x}", i >> 16, i & 0xffff);
            got[1][b.port(&frame6("2001:db8:0::2", &six, 17, 9, &ports)) as usize] += 1;
            let inside = packet(frame4(&format!("192.168.0.{}", i >> 16), &four, 17, 9, &ports));
            if p == HashPolicy::Inner {
                got[2][b.port(&frame4(OUT4[0], OUT4[1], 4, 9, &inside)) as usize] += 1;
            }
        }
        for got in got.iter().filter(|g| g.iter().sum::<u32>() > 0) {
            // Ports alone are 65,536 flows, of which some come twice.
            for (n, weight) in [(1, 1), (2, 2), (3, 5)] {
                let want = f64::from(flows * weight) / 8.0;
                assert!((f64::from(got[n]) - want).abs() < 0.02 * f64::from(flows), "{got:?}, {p:?}");
            }
        }
    }
}

#[test]
fn policy_2_goes_by_the_innermost_addresses() {
    let mut b = multipath();
    policy(&mut b, HashPolicy::Inner);
    let plain = |i: u32| frame4(OUT4[0], &format!("10.1.0.{i}"), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    let tcp = |i: u32| frame4(OUT4[0], &format!("10.1.0.{i}"), 6, 9, &[3, 3, 4, 4, 0, 0, 0, 0]);
    assert!(!split(&mut b, &plain, &tcp), "addresses only");
    let ipip = |i: u32| frame4(OUT4[0], OUT4[1], 4, 9, &in4(i, 1));
    let elsewhere = |i: u32| frame4("10.2.0.3", "10.1.0.8", 4, 9, &in4(i, 7));
    let by_gre = |i: u32| frame4(OUT4[0], OUT4[1], 47, 9, &gre(0, 0x800, 0, in4(i, 1)));
    let keyed = |i: u32| frame4(OUT4[0], OUT4[1], 47, 9, &gre(0xb000, 0x800, 3, in4(i, 1)));
    let in_six = |i: u32| frame6(OUT6[0], OUT6[1], 4, 9, &in4(i, 1));
    let twice =
        |i: u32| frame4(OUT4[0], OUT4[1], 4, 9, &packet(frame4("192.168.7.7", "192.168.8.8", 4, 9, &in4(i, 1))));
    for (n, same) in [elsewhere, by_gre, keyed, in_six, twice].map(|f: fn(u32) -> Vec<u8>| f).iter().enumerate() {
        assert!(!split(&mut b, &ipip, same), "{n}");
    }
    assert!(split(&mut b, &ipip, &|_| ipip(0)), "the inner addresses count");
    let back = |i: u32| {
        let inner = packet(frame4(&format!("192.168.1.{i}"), "192.168.0.1", 6, 9, &[0; 8]));
        frame4(OUT4[0], OUT4[1], 4, 9, &inner)
    };
    assert!(!split(&mut b, &ipip, &back), "both directions alike");

    let six = |i: u32| frame6(OUT6[0], OUT6[1], 41, 9, &in6(i, 5));
    let six_in_four = |i: u32| frame4(OUT4[0], OUT4[1], 41, 9, &in6(i, 5));
    let six_gre = |i: u32| frame4(OUT4[0], OUT4[1], 47, 9, &gre(0, 0x86dd, 0, in6(i, 5)));
    // Behind a destination header.
    let optional = |i: u32| frame6(OUT6[0], OUT6[1], 60, 9, &[&[41, 0, 1, 4, 0, 0, 0, 0], &in6(i, 5)[..]].concat());
    assert!(!split(&mut b, &six, &six_in_four) && !split(&mut b, &six, &six_gre) && !split(&mut b, &six, &optional));
    assert!(split(&mut b, &six, &|i| frame6(OUT6[0], OUT6[1], 41, 9, &in6(i, 6))), "IPv6's label counts");

    // A fragment, the first included, counts by its own addresses.
    let fragment = |at: usize, v: u8| move |i: u32| edit4(frame4(OUT4[0], OUT4[1], 4, 9, &in4(i, 1)), at, v);
    assert!(!split(&mut b, &fragment(6, 0x20), &fragment(7, 9)), "of one datagram");
    assert!(!split(&mut b, &fragment(6, 0x20), &|_| frame4(OUT4[0], OUT4[1], 17, 9, &[0; 8])));
    // An error counts by its own addresses, too.
    let error = |i: u32| frame4(OUT4[0], OUT4[1], 1, 9, &[&[3, 1, 0, 0, 0, 0, 0, 0], &in4(i, 1)[..]].concat());
    assert!(!split(&mut b, &error, &|_| frame4(OUT4[0], OUT4[1], 17, 9, &[0; 8])));
}

#[test]
fn policy_3_goes_by_the_chosen_fields() {
    let mut b = multipath();
    type Make = Box<dyn Fn(u32, u8) -> Vec<u8>>;
    // Frames of which the first differ in nothing but the field of that bit.
    let four: [(u16, Make); 5] = [
        (SRC, Box::new(|i, v| frame4(&format!("10.2.{v}.{i}"), "10.1.0.9", 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]))),
        (DST, Box::new(|i, v| frame4("10.0.0.2", &format!("10.1.{v}.{i}"), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]))),
        (
            PROTO,
            Box::new(|i, v| {
                frame4("10.0.0.2", &format!("10.1.0.{i}"), [17, 6][v as usize], 9, &[1, 1, 2, 2, 0, 0, 0, 0])
            }),
        ),
        (SRC_PORT, Box::new(|i, v| frame4("10.0.0.2", &format!("10.1.0.{i}"), 17, 9, &[1, v, 9, 2, 0, 0, 0, 0]))),
        (DST_PORT, Box::new(|i, v| frame4("10.0.0.2", &format!("10.1.0.{i}"), 17, 9, &[1, 1, 9, v, 0, 0, 0, 0]))),
    ];
    for (bit, make) in &four {
        policy(&mut b, HashPolicy::Fields(ALL & !bit));
        assert!(!split(&mut b, &|i| make(i, 0), &|i| make(i, 1)), "without bit {bit:#x}");
        policy(&mut b, HashPolicy::Fields(bit | DST));
        assert!(split(&mut b, &|i| make(i, 0), &|i| make(i, 1)), "with bit {bit:#x}");
    }
    let labelled = |v: u8| {
        move |i: u32| {
            let mut f = frame6("2001:db8:300::2", &format!("2001:db8:200::{i:x}"), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
            f[17] = v;
            f
        }
    };
    policy(&mut b, HashPolicy::Fields(ALL & !LABEL));
    assert!(!split(&mut b, &labelled(1), &labelled(2)));
    policy(&mut b, HashPolicy::Fields(LABEL));
    assert!(split(&mut b, &labelled(1), &labelled(2)) || split(&mut b, &labelled(3), &labelled(4)));

    let tunnel = |outer: &'static str, sport: u8| move |i: u32| frame4(outer, OUT4[1], 4, 9, &in4(i, sport));
    policy(&mut b, HashPolicy::Fields((SRC | DST) << INNER));
    assert!(!split(&mut b, &tunnel("10.2.0.2", 1), &tunnel("10.2.0.3", 2)), "inner addresses only");
    assert!(split(&mut b, &tunnel("10.2.0.2", 1), &|_| tunnel("10.2.0.2", 1)(0)));
    policy(&mut b, HashPolicy::Fields(SRC | (SRC_PORT | DST) << INNER));
    assert!(split(&mut b, &tunnel("10.2.0.2", 1), &tunnel("10.2.0.3", 1)), "outer ones besides");
    assert!(split(&mut b, &tunnel("10.2.0.2", 1), &tunnel("10.2.0.2", 7)), "inner ports");
    policy(&mut b, HashPolicy::Fields(SRC | DST));
    assert!(!split(&mut b, &tunnel("10.2.0.2", 1), &|_| tunnel("10.2.0.2", 1)(0)), "outer addresses only");
    // Without ports where there may be fragments, the first included.
    policy(&mut b, HashPolicy::Fields(ALL));
    let datagram = |i: u32| frame4("10.0.0.2", &format!("10.1.0.{i}"), 17, 9, &[1, 1, 2, 2, 0, 0, 0, 0]);
    assert!(!split(&mut b, &|i| edit4(datagram(i), 6, 0x20), &|i| edit4(datagram(i), 7, 9)));
}

#[test]
fn what_is_not_followed_is_trapped() {
    let mut b = multipath();
    let odd = [
        (47, gre(0x4000, 0x800, 0, in4(1, 1))),
        (47, gre(1, 0x800, 0, in4(1, 1))),
        (47, gre(0, 0x6558, 0, in4(1, 1))),
        (47, gre(0, 0x800, 0, in4(1, 1)[..19].to_vec())),
        (47, vec![0; 3]),
        (4, in4(1, 1)[..19].to_vec()),
        (4, [&[0x44], &in4(1, 1)[1..]].concat()),
        (41, in6(1, 1)[..39].to_vec()),
        (137, in4(1, 1)),
    ];
    for (proto, payload) in odd {
        let f = frame4(OUT4[0], OUT4[1], proto, 9, &payload);
        for p in [HashPolicy::Inner, HashPolicy::Fields(ALL)] {
            policy(&mut b, p);
            assert_eq!(b.class(&f), TrapClass::Hash, "{proto} {payload:?} {p:?}");
        }
        policy(&mut b, HashPolicy::L4);
        b.port(&f);
        // Where there is no choice nothing is to be known.
        policy(&mut b, HashPolicy::Inner);
        b.port(&frame4(OUT4[0], "172.16.0.1", proto, 9, &payload));
    }
    policy(&mut b, HashPolicy::Fields(SRC | DST));
    b.port(&frame4(OUT4[0], OUT4[1], 47, 9, &gre(0x4000, 0x800, 0, in4(1, 1))));
    let mut deep = in4(1, 1);
    for _ in 0..20 {
        deep = packet(frame4("192.168.7.7", "192.168.8.8", 4, 9, &deep));
    }
    policy(&mut b, HashPolicy::Inner);
    assert_eq!(b.class(&frame4(OUT4[0], OUT4[1], 4, 9, &deep)), TrapClass::Hash);
}
