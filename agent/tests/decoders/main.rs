//! The decoders of netlink against what two real kernels said (`agent/tests/corpus`), as it was and mutated: they never panic, an
//! attribute that is not known changes nothing but that it is counted, and a message that can't be read costs no other of its datagram.
//!
//! `VIRGA_SEED` repeats a run, `VIRGA_FUZZ=N` makes it N times as long.

mod core;
mod mutate;
mod policy;

use hal::{Family, Prefix, V4, V6};
use mutate::{Real, corpus, fuzz, made, mutated, whole};
use virga::mirror::{Mirror, MirrorFamily, ObjectTo, RouteFlags, TABLE_MAIN};
use virga::netlink::build::{Builder, push_attr};
use virga::netlink::{AF_INET, AF_INET6, Unknowns, messages, nexthop, object, route, rtm};

/// An attribute that no kernel has yet.
const TOMORROW: u16 = 0x1abc;

/// Whatever the decoder of its type makes of a message.
fn decode(kind: u16, body: &[u8]) {
    let mut unknown = Unknowns::default();
    let u = &mut unknown;
    match kind {
        rtm::NEWLINK | rtm::DELLINK => drop(object::link(body, u)),
        rtm::NEWADDR | rtm::DELADDR => drop(object::addr(body, u)),
        rtm::NEWROUTE | rtm::DELROUTE => {
            let _ = route::peek::<V4>(body);
            let _ = route::peek::<V6>(body);
            drop((route::decode::<V4>(body, u), route::decode::<V6>(body, u)));
        }
        rtm::NEWNEIGH | rtm::DELNEIGH => drop(object::neigh(body, u)),
        rtm::NEWRULE | rtm::DELRULE => drop(object::rule(body, u)),
        rtm::NEWNETCONF | rtm::DELNETCONF => drop(object::netconf(body, u)),
        rtm::NEWNEXTHOP | rtm::DELNEXTHOP => drop(nexthop::nexthop(body, u)),
        _ => {}
    }
}

/// The types that the mirror takes in.
fn mirrored(all: Vec<Real>) -> Vec<Real> {
    const KINDS: [u16; 14] = [16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 80, 81, 104, 105];
    all.into_iter().filter(|r| KINDS.contains(&r.kind)).collect()
}

#[test]
fn every_decoder_takes_whatever_bytes() {
    let all = mirrored(corpus("route"));
    fuzz(400_000, mutated(), |c| {
        let (real, body) = made(&all, c);
        decode(real.kind, &body);
        Ok(())
    });
}

#[test]
fn all_that_two_kernels_say_is_known_and_read() {
    let mut m = Mirror::new();
    for r in mirrored(corpus("route")) {
        m.monitor(1, &r.whole());
        assert!(m.stats().malformed == 0, "{}: {:?}", r.file, m.stats().unreadable);
    }
    let unknown: Vec<String> = m.stats().unknown.keys().map(ToString::to_string).collect();
    // What is punted for it.
    let expected = ["attribute NHA_FDB of a next-hop object", "attribute RTA_NEWDST of a route"];
    let odd: Vec<_> = unknown.iter().filter(|u| !expected.contains(&u.as_str())).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

/// With an attribute behind that nobody knows.
fn longer(body: &[u8]) -> Vec<u8> {
    let mut b = body.to_vec();
    b.resize(b.len().next_multiple_of(4), 0);
    push_attr(&mut b, TOMORROW, b"new");
    b
}

fn same<T: PartialEq + std::fmt::Debug>(r: &Real, f: impl Fn(&[u8], &mut Unknowns) -> T, but: impl Fn(&mut T)) {
    let (mut none, mut one) = (Unknowns::default(), Unknowns::default());
    let (mut before, after) = (f(&r.body, &mut none), f(&longer(&r.body), &mut one));
    let new: Vec<_> = one.iter().filter(|u| !none.iter().any(|o| o == *u)).collect();
    but(&mut before);
    assert_eq!(before, after, "{}", r.file);
    assert!(new.len() == 1 && new[0].number == u32::from(TOMORROW), "{}: {new:?}", r.file);
}

fn same_route<F: Family>(r: &Real) {
    same(
        r,
        |b, u| route::decode::<F>(b, u),
        |m| {
            if let Ok(Some(m)) = m {
                m.flags |= RouteFlags::UNKNOWN;
            }
        },
    );
}

/// Objects with an attribute more are the same objects; where it may matter they say that there is something.
#[test]
fn an_unknown_attribute_changes_nothing_and_is_named() {
    let mut looked = 0;
    for r in mirrored(corpus("route")) {
        let family = r.body.first().copied().unwrap_or(0);
        // Families that are not mirrored are not decoded; entries of the cache are not, either.
        let ip = family == AF_INET || family == AF_INET6;
        looked += 1;
        match r.kind {
            rtm::NEWLINK | rtm::DELLINK if family == 0 => same(&r, object::link, |_| {}),
            rtm::NEWADDR | rtm::DELADDR if ip => same(&r, object::addr, |_| {}),
            rtm::NEWNEIGH | rtm::DELNEIGH if ip => same(&r, object::neigh, |_| {}),
            rtm::NEWNETCONF | rtm::DELNETCONF if ip => same(&r, object::netconf, |_| {}),
            rtm::NEWROUTE | rtm::DELROUTE if r.body[9] & 2 != 0 => looked -= 1,
            rtm::NEWROUTE | rtm::DELROUTE if family == AF_INET => same_route::<V4>(&r),
            rtm::NEWROUTE | rtm::DELROUTE if family == AF_INET6 => same_route::<V6>(&r),
            rtm::NEWNEXTHOP | rtm::DELNEXTHOP => same(&r, nexthop::nexthop, |o| {
                if let Ok(o) = o {
                    o.to = ObjectTo::Unknown;
                }
            }),
            rtm::NEWRULE | rtm::DELRULE if ip => {
                // All that is said of a rule is its identity.
                let (mut a, mut b) = (Unknowns::default(), Unknowns::default());
                let (before, after) = (object::rule(&r.body, &mut a), object::rule(&longer(&r.body), &mut b));
                let (Ok(Some((_, before))), Ok(Some((_, after)))) = (before, after) else { panic!("{}", r.file) };
                assert_eq!((before.priority, before.table, before.action), (after.priority, after.table, after.action));
                assert!(!after.plain && before != after && b.iter().count() == 1, "{}", r.file);
            }
            _ => looked -= 1,
        }
    }
    assert!(looked > 200, "{looked} messages");
}

const DEVICE: u32 = 0x7abc_0001;

fn device() -> Vec<u8> {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&DEVICE.to_ne_bytes());
    Builder::new(rtm::NEWLINK, 0, &fixed).attr(3, b"before\0").done()
}

fn neighbour_route(v6: bool) -> Vec<u8> {
    let head = [if v6 { AF_INET6 } else { AF_INET }, 24, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0];
    let b = Builder::new(rtm::NEWROUTE, 0x600, &head);
    let dst: &[u8] = if v6 { &[0x2a, 0xbc, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] } else { &[203, 0, 113, 0] };
    b.u32(15, TABLE_MAIN).attr(1, dst).u32(6, 7).u32(4, DEVICE).done()
}

fn has<F: MirrorFamily>(m: &Mirror, addr: F::Addr) -> bool {
    m.aliases::<F>(TABLE_MAIN, Prefix::new(addr, 24)).iter().any(|a| a.metric == 7)
}

/// Whatever is between two good messages of a datagram, both hold; by notification and in dumps.
#[test]
fn a_broken_message_costs_no_neighbour_of_its_datagram() {
    let all = mirrored(corpus("route"));
    let ends = |m: &Mirror| {
        m.link(DEVICE).is_some()
            && has::<V4>(m, [203, 0, 113, 0].into())
            && has::<V6>(m, [0x2abc, 0x7700, 0, 0, 0, 0, 0, 0].into())
    };
    fuzz(50_000, mutated(), |c| {
        let (real, body) = made(&all, c);
        let datagram = [device(), real.whole(), whole(real.kind, &body), neighbour_route(false), neighbour_route(true)];
        let datagram = datagram.concat();
        assert_eq!(messages(&datagram).filter(Result::is_ok).count(), 5);
        let mut m = Mirror::new();
        m.monitor(10, &datagram);
        while m.work(64) {}
        if !ends(&m) {
            return Err("a neighbour is lost".into());
        }
        let stats = m.stats().clone();
        if stats.messages != 5 || stats.malformed > 1 {
            return Err(format!("{stats:?}"));
        }
        // What could not be read has its kind in doubt; what could be has not.
        if (stats.malformed == 0) != m.doubts().next().is_none() {
            return Err("in doubt, or not".into());
        }
        for kind in virga::input::DumpKind::ALL {
            m.dump_begin(kind);
            m.dump(kind, 20, &datagram);
            m.dump_end(kind, true);
            while m.work(64) {}
        }
        m.take_dirt();
        m.drain_prefixes::<V4>(usize::MAX, &mut Vec::new());
        m.drain_prefixes::<V6>(usize::MAX, &mut Vec::new());
        if m.link(DEVICE).is_none() { Err("a neighbour is lost in a dump".into()) } else { Ok(()) }
    });
}

/// The list of IPv6 routes is text.
#[test]
fn the_list_of_ipv6_routes_may_say_anything() {
    let list = include_bytes!("../corpus/ipv6_route");
    let all = [Real { kind: 0, body: list.to_vec(), file: "ipv6_route" }];
    let routes: Vec<u8> = corpus("route").iter().filter(|r| r.kind == rtm::NEWROUTE).flat_map(Real::whole).collect();
    fuzz(10_000, mutated(), |c| {
        let (_, text) = made(&all, c);
        let mut m = Mirror::new();
        m.monitor(1, &routes);
        m.dump_begin(virga::input::DumpKind::List6);
        m.dump(virga::input::DumpKind::List6, 1, &text);
        m.dump_end(virga::input::DumpKind::List6, true);
        Ok(())
    });
}

/// Requests' answers, and the kernel's words in them.
#[test]
fn answers_may_say_anything() {
    use virga::edge::nl;
    let all: Vec<Real> = corpus("route")
        .into_iter()
        .take(20)
        .map(|r| {
            // An error that quotes the request, with a text behind it.
            let mut body = (-22i32).to_ne_bytes().to_vec();
            body.extend(&r.whole()[..32]);
            push_attr(&mut body, 1, b"no way\0");
            Real { kind: 2, body, file: r.file }
        })
        .collect();
    fuzz(100_000, mutated(), |c| {
        let (r, body) = made(&all, c);
        let mut m = whole(r.kind, &body);
        m[6..8].copy_from_slice(&0x200u16.to_ne_bytes());
        for m in nl::messages(&m) {
            let _ = (m.errno(), m.ext_ack());
        }
        Ok(())
    });
}
