//! Kernel-facts, one test each, on messages made by hand. The same against a real kernel: `agent/tests/mirror`.

use hal::{Prefix, V4, V6};
use proptest::prelude::*;

use super::ctx::IFF_UP;
use super::*;
use crate::netlink::build::{Builder, push_attr};
use crate::netlink::rtm;

const ADD: u16 = 0x600;
const REPLACE: u16 = 0x100;
const APPEND: u16 = 0xc00;
const PREPEND: u16 = 0x400;

fn link(flags: u32) -> Vec<u8> {
    link_of(rtm::NEWLINK, 0, 3, flags)
}

fn link_of(kind: u16, family: u8, ifindex: u32, flags: u32) -> Vec<u8> {
    let mut f = [0; 16];
    f[0] = family;
    f[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    f[8..12].copy_from_slice(&flags.to_ne_bytes());
    Builder::new(kind, 0, &f).attr(3, b"swp1\0").done()
}

const UP: u32 = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;

fn addr(kind: u16, host: u8) -> Vec<u8> {
    let a = IpAddr::V4(Ipv4Addr::new(10, 0, 0, host));
    Builder::new(kind, 0, &[2, 24, 0, 0, 3, 0, 0, 0]).addr(1, a).addr(2, a).done()
}

struct R {
    kind: u16,
    flags: u16,
    metric: u32,
    tos: u8,
    hops: &'static [(u32, u8)],
    scope: u8,
    src: Option<u8>,
    object: u32,
    v6: bool,
}

const R0: R = R {
    kind: rtm::NEWROUTE,
    flags: ADD,
    metric: 0,
    tos: 0,
    hops: &[(3, 2)],
    scope: 0,
    src: None,
    object: 0,
    v6: false,
};

fn gateway(v6: bool, host: u8) -> Vec<u8> {
    if v6 {
        let mut a = [0; 16];
        a[0] = 0xfe;
        a[1] = 0x80;
        a[15] = host;
        a.to_vec()
    } else {
        vec![10, 0, 0, host]
    }
}

fn route(r: &R) -> Vec<u8> {
    let mut f = [if r.v6 { 10 } else { 2 }, 24, 0, r.tos, 254, 4, r.scope, 1, 0, 0, 0, 0];
    let mut dst = vec![192, 0, 2, 0];
    if r.v6 {
        f[1] = 32;
        dst = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    let mut b = Builder::new(r.kind, r.flags, &f).attr(1, &dst).u32(6, r.metric);
    if let Some(s) = r.src {
        b = b.attr(7, &[10, 0, 0, s]);
    }
    if r.object != 0 {
        return b.u32(30, r.object).done();
    }
    if let [(dev, gw)] = r.hops {
        b = b.u32(4, *dev).attr(5, &gateway(r.v6, *gw));
    } else {
        let mut m = Vec::new();
        for (dev, gw) in r.hops {
            let mut own = Vec::new();
            push_attr(&mut own, 5, &gateway(r.v6, *gw));
            m.extend((8 + own.len() as u16).to_ne_bytes());
            m.extend([0, 0]);
            m.extend(dev.to_ne_bytes());
            m.extend(own);
        }
        b = b.attr(9, &m);
    }
    b.done()
}

fn in_table_100() -> Vec<u8> {
    let mut m = route(&R0);
    m[20] = 100;
    m
}

struct World {
    m: Mirror,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let mut w = World { m: Mirror::new(), seq: 0 };
        w.say(&link(UP));
        w.say(&link_of(rtm::NEWLINK, 0, 4, UP));
        w
    }
    fn say(&mut self, b: &[u8]) {
        self.seq += 10;
        self.m.monitor(self.seq, b);
    }
    /// (metric, TOS, hops as (device, last byte of the gateway, dead)) of each route, in order.
    #[allow(clippy::type_complexity)]
    fn routes(&mut self, v6: bool) -> Vec<(u32, u8, Vec<(u32, u8, bool)>)> {
        while self.m.work(1) {}
        let list = if v6 {
            self.m.aliases::<V6>(254, "2001:db8::/32".parse().unwrap())
        } else {
            self.m.aliases::<V4>(254, p())
        };
        let last = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(a) => a.octets()[15],
        };
        let hops = |nh| match self.m.nhset(nh) {
            NhSet::Inline(h) => h.iter().map(|h| (h.ifindex, h.via.map_or(0, last), h.dead)).collect(),
            NhSet::Object(id) => vec![(*id, 0, false)],
        };
        list.iter().map(|a| (a.metric, a.tos, hops(a.nh))).collect()
    }
    fn gateways(&mut self) -> Vec<u8> {
        self.routes(false).iter().map(|r| r.2[0].1).collect()
    }
}

fn p() -> Prefix<V4> {
    "192.0.2.0/24".parse().unwrap()
}

#[test]
fn fact_1_admin_down_removes_routes_and_keeps_local_ones() {
    let mut w = World::new();
    w.say(&route(&R0));
    w.say(&route(&R { metric: 5, scope: 254, flags: ADD, ..R0 }));
    w.say(&link(0));
    assert_eq!(w.routes(false).len(), 1, "only that of host scope");
    assert_eq!(w.m.take_dirt().confirm, BTreeSet::from([DumpKind::Route4]));
    let mut d = Vec::new();
    w.m.drain_prefixes::<V4>(10, &mut d);
    assert_eq!(d, [(TABLE_MAIN, p())]);
}

#[test]
fn fact_3_carrier_loss_keeps_inline_routes() {
    let mut w = World::new();
    w.say(&route(&R0));
    w.say(&link(IFF_UP));
    assert_eq!(w.routes(false), [(0, 0, vec![(3, 2, false)])]);
}

#[test]
fn fact_4_last_address_flushes_and_kills_members() {
    let mut w = World::new();
    w.say(&addr(rtm::NEWADDR, 1));
    w.say(&addr(rtm::NEWADDR, 9));
    w.say(&route(&R0));
    w.say(&route(&R { metric: 7, hops: &[(3, 2), (4, 3)], ..R0 }));
    w.say(&addr(rtm::DELADDR, 1));
    assert_eq!(w.routes(false).len(), 2, "an address is left");
    w.say(&addr(rtm::DELADDR, 9));
    assert_eq!(w.routes(false), [(7, 0, vec![(3, 2, true), (4, 3, false)])]);
    w.say(&addr(rtm::NEWADDR, 1));
    assert_eq!(w.routes(false), [(7, 0, vec![(3, 2, false), (4, 3, false)])]);
}

/// The kernel flags a member that died with the device's last address as without a link as well, although the link is
/// there: where such routes are ignored, a dump alone has to tell it from one that has only lost its link.
#[test]
fn fact_4_a_dump_shows_a_member_dead_that_lost_its_address_and_not_its_link() {
    let mut m = Vec::new();
    // RTNH_F_DEAD | RTNH_F_LINKDOWN, and nothing
    for (dev, gw, flags) in [(3u32, 2, 1 | 16), (4, 3, 0)] {
        let mut own = Vec::new();
        push_attr(&mut own, 5, &gateway(false, gw));
        m.extend((8 + own.len() as u16).to_ne_bytes());
        m.extend([flags, 0]);
        m.extend(dev.to_ne_bytes());
        m.extend(own);
    }
    let shown = Builder::new(rtm::NEWROUTE, 0, &[2, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]).attr(1, &[192, 0, 2, 0]);
    let shown = shown.attr(9, &m).done();
    for (addressed, dead) in [(false, true), (true, false)] {
        let mut w = World::new();
        // NETCONFA_IFINDEX, NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN
        w.say(&Builder::new(rtm::NEWNETCONF, 0, &[2, 0, 0, 0]).u32(1, 3).u32(6, 1).done());
        if addressed {
            w.say(&addr(rtm::NEWADDR, 1));
        }
        w.m.dump_begin(DumpKind::Route4);
        w.m.dump(DumpKind::Route4, w.seq, &shown);
        w.m.dump_end(DumpKind::Route4, true);
        assert_eq!(w.routes(false)[0].2, [(3, 2, dead), (4, 3, false)], "addressed {addressed}");
    }
}

#[test]
fn fact_4_routes_go_with_their_preferred_source() {
    let mut w = World::new();
    w.say(&addr(rtm::NEWADDR, 1));
    w.say(&addr(rtm::NEWADDR, 9));
    w.say(&route(&R { src: Some(9), ..R0 }));
    w.say(&route(&R { src: Some(1), metric: 1, ..R0 }));
    w.say(&addr(rtm::DELADDR, 9));
    assert_eq!(w.routes(false).iter().map(|r| r.0).collect::<Vec<_>>(), [1]);
    // Messages of the other queue that are older than that are void, whatever the route leads to.
    let seq = w.seq - 1;
    w.m.monitor(seq, &route(&R { src: Some(9), metric: 2, ..R0 }));
    w.m.monitor(seq, &route(&R { src: Some(9), metric: 3, object: 1, ..R0 }));
    assert_eq!(w.routes(false).len(), 1);
}

#[test]
fn fact_5_routes_go_with_their_object_and_groups_with_their_members() {
    let object = |kind, id: u32| Builder::new(kind, 0, &[2, 0, 0, 0, 0, 0, 0, 0]).u32(1, id).u32(5, 3).done();
    let mut w = World::new();
    w.say(&object(rtm::NEWNEXTHOP, 1));
    w.say(&Builder::new(rtm::NEWNEXTHOP, 0, &[0; 8]).u32(1, 10).attr(2, &[1, 0, 0, 0, 0, 0, 0, 0]).done());
    w.say(&route(&R { object: 1, ..R0 }));
    w.say(&route(&R { object: 10, metric: 1, ..R0 }));
    assert_eq!(w.routes(false).len(), 2);
    w.say(&object(rtm::DELNEXTHOP, 1));
    assert_eq!(w.routes(false).len(), 0);
    // A route message older than that is void (it was in the other queue).
    let seq = w.seq - 1;
    w.m.monitor(seq, &route(&R { object: 1, ..R0 }));
    assert_eq!(w.routes(false).len(), 0);
}

#[test]
fn a_blackhole_that_is_an_object_hides_the_types_of_its_routes() {
    let head = [2, 0, 0, 0, 0, 0, 0, 0];
    let hop = Builder::new(rtm::NEWNEXTHOP, 0, &head).u32(1, 1).u32(5, 3).done();
    let blackhole = Builder::new(rtm::NEWNEXTHOP, 0, &head).u32(1, 1).u32(5, 1).attr(4, &[]).done();
    let veiled = {
        let mut r = route(&R { object: 1, ..R0 });
        r[16 + 7] = 6;
        r
    };
    let both = [DumpKind::Route4, DumpKind::Route6].into();
    let mut w = World::new();
    w.say(&blackhole);
    w.say(&veiled);
    let flags = |w: &World| w.m.aliases::<V4>(TABLE_MAIN, p()).iter().map(|a| (a.kind, a.flags)).collect::<Vec<_>>();
    assert_eq!(flags(&w), [(1, RouteFlags::VEILED)]);
    w.m.take_dirt();
    // What the object becomes does not lift it: a dump has to.
    w.say(&hop);
    assert_eq!(w.m.take_dirt().confirm, both);
    assert_eq!(flags(&w), [(1, RouteFlags::VEILED)]);
    w.say(&blackhole);
    assert_eq!(w.m.take_dirt().confirm, both);
    // News of the object overtook that of the route.
    w.say(&hop);
    w.m.take_dirt();
    w.say(&veiled);
    assert_eq!(w.m.take_dirt().confirm, [DumpKind::Route4].into());
}

#[test]
fn fact_7_ipv6_members_die_and_come_back_in_silence() {
    let mut w = World::new();
    w.say(&route(&R { v6: true, hops: &[(3, 2), (4, 3)], ..R0 }));
    w.say(&link(0));
    assert_eq!(w.routes(true), [(0, 0, vec![(3, 2, true), (4, 3, false)])]);
    w.say(&link(IFF_UP));
    assert_eq!(w.routes(true)[0].2[0], (3, 2, true), "not ready yet");
    w.say(&link(UP));
    assert_eq!(w.routes(true)[0].2[0], (3, 2, false));
}

#[test]
fn fact_11_dellink_of_the_bridge_family_is_no_deletion() {
    let mut w = World::new();
    w.say(&link_of(rtm::DELLINK, 7, 3, UP));
    assert!(w.m.link(3).is_some());
    w.say(&link_of(rtm::DELLINK, 0, 3, UP));
    assert!(w.m.link(3).is_none());
}

#[test]
fn facts_12_and_13_position_replace_and_promotion() {
    let mut w = World::new();
    w.say(&route(&R0));
    w.say(&route(&R { flags: APPEND, hops: &[(3, 3)], ..R0 }));
    w.say(&route(&R { flags: PREPEND, hops: &[(3, 4)], ..R0 }));
    w.say(&route(&R { metric: 9, hops: &[(3, 5)], ..R0 }));
    w.say(&route(&R { tos: 16, hops: &[(3, 6)], ..R0 }));
    assert_eq!(w.gateways(), [6, 4, 2, 3, 5]);
    w.say(&route(&R { flags: REPLACE, hops: &[(3, 7)], ..R0 }));
    assert_eq!(w.gateways(), [6, 7, 2, 3, 5]);
    for gw in [&[(3, 7)], &[(3, 2)], &[(3, 3)]] {
        w.say(&route(&R { kind: rtm::DELROUTE, flags: 0, hops: gw, ..R0 }));
    }
    assert_eq!(w.gateways(), [6, 5]);
    assert_eq!(w.m.stats().undecided, 0);
}

#[test]
fn what_cannot_be_true_is_undecided_until_dumped() {
    let mut w = World::new();
    w.say(&route(&R { flags: APPEND, ..R0 }));
    assert!(w.m.undecided(&[TABLE_MAIN], p()) && !w.m.undecided(&[TABLE_LOCAL, 10], p()));
    assert_eq!(w.m.take_dirt().wanted, BTreeSet::from([DumpKind::Route4]));
    w.m.dump_begin(DumpKind::Route4);
    w.m.dump(DumpKind::Route4, w.seq, &route(&R { hops: &[(3, 8)], ..R0 }));
    w.m.dump(DumpKind::Route4, w.seq, &route(&R { flags: 0, ..R0 }));
    w.m.dump_end(DumpKind::Route4, true);
    assert!(!w.m.undecided(&[TABLE_MAIN], p()));
    assert_eq!(w.gateways(), [8, 2]);
    assert!(w.m.take_dirt().wanted.is_empty());
}

#[test]
fn fact_14_ipv6_append_carries_all_and_delete_names_one() {
    let mut w = World::new();
    w.say(&route(&R { v6: true, ..R0 }));
    w.say(&route(&R { v6: true, flags: PREPEND, hops: &[(4, 3), (3, 2)], ..R0 }));
    assert_eq!(w.routes(true), [(0, 0, vec![(3, 2, false), (4, 3, false)])]);
    w.say(&route(&R { v6: true, kind: rtm::DELROUTE, flags: 0, ..R0 }));
    assert_eq!(w.routes(true), [(0, 0, vec![(4, 3, false)])]);
    assert_eq!(w.m.stats().undecided, 0);
}

/// The kernel flushes a multipath route when its last member dies, but not when its last live one is deleted: the dead ones
/// stay, unused and unannounced, until their device is back.
#[test]
fn fact_14_dead_siblings_outlive_the_last_live_one() {
    const LONE: &[(u32, u8)] = &[(3, 2), (4, 3)];
    const TWO: &[(u32, u8)] = &[(3, 2), (3, 5), (4, 3)];
    for (hops, left) in [(LONE, vec![(3, 2, false)]), (TWO, vec![(3, 2, true), (3, 5, true)])] {
        let mut w = World::new();
        w.say(&route(&R { v6: true, hops, ..R0 }));
        w.say(&link(0));
        w.say(&route(&R { v6: true, kind: rtm::DELROUTE, flags: 0, hops: &[(4, 3)], ..R0 }));
        let p = "2001:db8::/32".parse::<Prefix<V6>>().unwrap();
        assert!(w.m.undecided(&[TABLE_MAIN], p), "until a dump has said so");
        assert_eq!(w.m.take_dirt().wanted, BTreeSet::from([DumpKind::Route6]));
        assert_eq!(w.routes(true), [(0, 0, left)]);
        w.say(&link(UP));
        assert!(w.routes(true)[0].2.iter().all(|h| !h.2), "they live again");
    }
}

/// A dump that shows a route grown to a multipath one replaces it: a route that can be a sibling does not hide behind others.
#[test]
fn fact_14_a_lone_route_does_not_outlive_the_multipath_route_that_it_has_become() {
    let mut w = World::new();
    w.say(&route(&R { v6: true, ..R0 }));
    w.m.dump_begin(DumpKind::Route6);
    w.m.dump(DumpKind::Route6, w.seq, &route(&R { v6: true, flags: 0, hops: &[(3, 2), (4, 3)], ..R0 }));
    w.m.dump_end(DumpKind::Route6, true);
    assert_eq!(w.routes(true), [(0, 0, vec![(3, 2, false), (4, 3, false)])]);
}

#[test]
fn fact_15_a_dump_sweeps_what_it_does_not_name_and_spares_the_new() {
    let mut w = World::new();
    w.say(&route(&R0));
    w.m.dump_begin(DumpKind::Route4);
    w.m.dump_end(DumpKind::Route4, true);
    assert_eq!(w.gateways(), [0u8; 0]);
    w.m.dump_begin(DumpKind::Route4);
    w.say(&route(&R0));
    w.m.dump_end(DumpKind::Route4, true);
    assert_eq!(w.gateways(), [2]);
}

#[test]
fn fact_16_entries_that_the_kernel_makes_up_are_not_held() {
    let neigh = |dst: [u8; 4], state: u8, mac: &[u8]| {
        Builder::new(rtm::NEWNEIGH, 0, &[2, 0, 0, 0, 3, 0, 0, 0, state, 0, 0, 0]).attr(1, &dst).attr(2, mac).done()
    };
    let mut w = World::new();
    w.say(&neigh([224, 0, 0, 1], 0x40, &[1, 0, 0x5e, 0, 0, 1]));
    w.say(&neigh([10, 0, 0, 2], 0x40, &[2, 0, 0, 0, 0, 1]));
    w.say(&neigh([10, 0, 0, 3], 0x02, &[2, 0, 0, 0, 0, 2]));
    assert_eq!(w.m.neighs::<V4>().len(), 2);
}

#[test]
fn fact_22_covers_in_table_local_dirty_what_is_below() {
    let mut w = World::new();
    w.say(&route(&R0));
    let mut d = Vec::new();
    while w.m.work(9) {}
    w.m.drain_prefixes::<V4>(10, &mut d);
    d.clear();
    assert!(!w.m.under_local(p()));
    let local =
        Builder::new(rtm::NEWROUTE, ADD, &[2, 16, 0, 0, 255, 2, 254, 2, 0, 0, 0, 0]).attr(1, &[192, 0, 0, 0]).u32(4, 1);
    w.say(&local.done());
    while w.m.work(9) {}
    w.m.drain_prefixes::<V4>(10, &mut d);
    assert!(d.contains(&(TABLE_MAIN, p())));
    assert!(w.m.under_local(p()));
}

#[test]
fn fact_24_types_without_a_device_are_routes() {
    let mut w = World::new();
    w.say(&Builder::new(rtm::NEWROUTE, ADD, &[2, 24, 0, 0, 254, 4, 0, 6, 0, 0, 0, 0]).attr(1, &[192, 0, 2, 0]).done());
    let a = w.m.aliases::<V4>(254, p());
    assert_eq!((a.len(), a[0].kind), (1, 6));
    assert_eq!(w.m.nhset(a[0].nh), &NhSet::Inline(Default::default()));
}

#[test]
fn fact_25_rules_beyond_the_kernels_own_and_missing_ones() {
    let rule = |kind, priority: u32, table: u8| {
        Builder::new(kind, 0, &[2, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]).u32(6, priority).u32(14, u32::MAX).done()
    };
    let mut w = World::new();
    assert!(!w.m.rules::<V4>().odd.is_empty());
    for (p, t) in [(0, 255), (32766, 254), (32767, 253)] {
        w.say(&rule(rtm::NEWRULE, p, t));
    }
    let own = Rules { odd: vec![], vrf: VrfOrder::Never };
    assert_eq!(w.m.rules::<V4>(), own);
    w.say(&rule(rtm::NEWRULE, 1000, 100));
    assert_eq!(w.m.rules::<V4>(), own, "its table holds nothing");
    assert_eq!(w.m.rule_tables(), BTreeSet::from([100, 253]));
    w.say(&in_table_100());
    let reach = |w: &World| w.m.rules::<V4>().odd.iter().map(|o| o.reach).collect::<Vec<_>>();
    assert_eq!(reach(&w), [Reach::All]);
    w.say(&rule(rtm::DELRULE, 1000, 100));
    w.say(&rule(rtm::NEWRULE, 1000, 254));
    assert_eq!(w.m.rules::<V4>(), own, "looked up twice");
    w.say(&rule(rtm::NEWRULE, 1000, 255));
    assert!(!w.m.rules::<V4>().odd.is_empty(), "two of one priority");
    w.say(&rule(rtm::DELRULE, 1000, 254));
    w.say(&rule(rtm::DELRULE, 1000, 255));
    w.say(&rule(rtm::NEWRULE, 32768, 255));
    w.say(&rule(rtm::DELRULE, 0, 255));
    assert!(!w.m.rules::<V4>().odd.is_empty(), "local behind main");
    w.say(&rule(rtm::NEWRULE, 0, 255));
    w.say(&rule(rtm::DELRULE, 32767, 253));
    assert!(!w.m.rules::<V4>().odd.is_empty());
}

#[test]
fn a_rule_reaches_what_it_selects() {
    let mut w = World::new();
    w.say(&in_table_100());
    for (p, t) in [(0u32, 255), (32766, 254), (32767, 253)] {
        let base = Builder::new(rtm::NEWRULE, 0, &[2, 0, 0, 0, t, 0, 0, 1, 0, 0, 0, 0]).u32(6, p);
        w.say(&base.u32(14, u32::MAX).done());
    }
    let name = b"swp1\0";
    let ten = Ipv4Addr::new(10, 0, 0, 0);
    type Selects<'a> = &'a dyn Fn(Builder) -> Builder;
    let all: &[(u8, u8, Selects<'_>, Option<Reach>)] = &[
        (1, 0, &|b| b, Some(Reach::All)),
        (1, 0, &|b| b.attr(3, name), Some(Reach::Link(3))),
        (1, 0, &|b| b.attr(3, name).u32(10, 7), None),
        (1, 0, &|b| b.u32(10, 7).u32(16, 8), Some(Reach::All)),
        (1, 2, &|b| b.u32(10, 7), Some(Reach::All)),
        (1, 2, &|b| b.attr(3, name), Some(Reach::All)),
        (1, 0, &|b| b.attr(3, b"lo\0"), None),
        // Detached, and by another name of some device.
        (1, 8, &|b| b.attr(3, b"nosuch\0"), None),
        (1, 0, &|b| b.attr(3, b"nosuch\0"), Some(Reach::All)),
        (1, 0, &|b| b.attr(17, name), None),
        (3, 0, &|b| b, None),
        (2, 0, &|b| b.attr(3, name), Some(Reach::Link(3))),
        (8, 0, &|b| b.attr(3, name), Some(Reach::Link(3))),
        (6, 0, &|b| b, Some(Reach::All)),
    ];
    for (n, (action, flags, selects, reach)) in all.iter().enumerate() {
        let head = [2, 0, 0, 0, 100, 0, 0, *action, *flags, 0, 0, 0];
        let rule = |kind| selects(Builder::new(kind, 0, &head).u32(6, 500)).done();
        w.say(&rule(rtm::NEWRULE));
        let odd = w.m.rules::<V4>().odd;
        assert_eq!(odd.first().map(|o| o.reach), *reach, "case {n}: {odd:?}");
        w.say(&rule(rtm::DELRULE));
        assert_eq!(w.m.rules::<V4>().odd, []);
    }
    let head = [2, 8, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0];
    w.say(&Builder::new(rtm::NEWRULE, 0, &head).u32(6, 500).attr(3, name).addr(1, ten.into()).done());
    assert_eq!(w.m.rules::<V4>().odd[0].reach, Reach::To(ten.into(), 8));
}

#[test]
fn a_rule_that_may_be_there_twice_goes_by_a_dump() {
    let rule = |kind| Builder::new(kind, 0, &[2, 0, 0, 0, 100, 0, 0, 6, 0, 0, 0, 0]).u32(6, 500).done();
    let mut w = World::new();
    w.say(&rule(rtm::NEWRULE));
    w.say(&rule(rtm::NEWRULE));
    w.m.take_dirt();
    w.say(&rule(rtm::DELRULE));
    assert!(w.m.take_dirt().wanted.contains(&DumpKind::Rule));
    let there = |w: &World| w.m.rules::<V4>().odd.iter().any(|o| o.rule.is_some() || o.why.contains("500"));
    assert!(there(&w));
    for twice in [true, false] {
        w.m.dump_begin(DumpKind::Rule);
        for _ in 0..1 + usize::from(twice) {
            w.m.dump(DumpKind::Rule, 1000, &rule(rtm::NEWRULE));
        }
        w.m.dump_end(DumpKind::Rule, true);
        w.say(&rule(rtm::DELRULE));
        assert_eq!(there(&w), twice, "one copy more than was deleted");
    }
}

#[test]
fn the_rule_for_vrfs_comes_somewhere() {
    let rule = |kind, priority: u32, table: u8| {
        Builder::new(kind, 0, &[2, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]).u32(6, priority).u32(14, u32::MAX).done()
    };
    let l3mdev = |kind, priority: u32| {
        Builder::new(kind, 0, &[2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).u32(6, priority).attr(19, &[1]).done()
    };
    let mut w = World::new();
    for (p, t) in [(0, 255), (32766, 254), (32767, 253)] {
        w.say(&rule(rtm::NEWRULE, p, t));
    }
    let order = |w: &World| {
        let r = w.m.rules::<V4>();
        assert_eq!(r.odd, []);
        r.vrf
    };
    w.say(&l3mdev(rtm::NEWRULE, 40000));
    assert_eq!(order(&w), VrfOrder::Never);
    w.say(&l3mdev(rtm::NEWRULE, 1000));
    assert_eq!(order(&w), VrfOrder::LocalFirst);
    w.say(&rule(rtm::NEWRULE, 32765, 255));
    assert_eq!(order(&w), VrfOrder::LocalFirst);
    w.say(&rule(rtm::DELRULE, 0, 255));
    assert_eq!(order(&w), VrfOrder::VrfFirst);
}

#[test]
fn fact_4_a_preferred_source_goes_with_its_own_vrf() {
    let vrf = |w: &mut World| {
        let info = [&[8u8, 0, 1, 0][..], b"vrf\0", &[12, 0, 2, 0, 8, 0, 1, 0, 10, 0, 0, 0]].concat();
        let head = [0, 0, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        w.say(&Builder::new(rtm::NEWLINK, 0, &head).attr(3, b"red\0").attr(18, &info).done());
    };
    let mut w = World::new();
    vrf(&mut w);
    assert_eq!(w.m.link(9).and_then(|l| l.table), Some(10));
    let addr = |kind, dev: u8| {
        Builder::new(kind, 0, &[2, 32, 0, 0, dev, 0, 0, 0]).attr(1, &[10, 7, 0, 1]).attr(2, &[10, 7, 0, 1]).done()
    };
    let to = |table: u8| {
        let head = [2, 24, 0, 0, table, 4, 0, 1, 0, 0, 0, 0];
        Builder::new(rtm::NEWROUTE, ADD, &head).attr(1, &[192, 0, 2, 0]).attr(7, &[10, 7, 0, 1]).u32(4, 3).done()
    };
    w.say(&addr(rtm::NEWADDR, 3));
    w.say(&addr(rtm::NEWADDR, 9));
    w.say(&to(254));
    w.say(&to(10));
    let there = |w: &mut World| {
        while w.m.work(9) {}
        [254, 10].map(|t| w.m.aliases::<V4>(t, p()).len())
    };
    assert_eq!(there(&mut w), [1, 1]);
    w.say(&addr(rtm::DELADDR, 9));
    assert_eq!(there(&mut w), [1, 0]);
    w.say(&to(10));
    assert_eq!(there(&mut w), [1, 1], "one that came later");
}

#[test]
fn messages_of_the_low_queue_that_a_purge_overtook_are_void() {
    let mut w = World::new();
    w.say(&link(0));
    let before = w.seq - 1;
    w.m.monitor(before, &route(&R0));
    assert_eq!(w.gateways(), [0u8; 0]);
    w.say(&link(UP));
    w.say(&route(&R { hops: &[(3, 5)], ..R0 }));
    assert_eq!(w.gateways(), [5]);
}

proptest! {
    /// Whatever the bytes, no panic; what is refused is counted.
    #[test]
    fn mangled_messages_do_not_panic(
        pick in 0usize..9, cut in 0usize..200, hits in proptest::collection::vec((0usize..200, any::<u8>()), 0..6), v6: bool
    ) {
        let all = [
            link(UP),
            addr(rtm::NEWADDR, 1),
            route(&R { v6, ..R0 }),
            route(&R { v6, hops: &[(3, 2), (4, 3)], ..R0 }),
            route(&R { v6, object: 7, ..R0 }),
            route(&R { kind: rtm::DELROUTE, v6, hops: &[(3, 2), (4, 3)], ..R0 }),
            Builder::new(rtm::NEWNEXTHOP, 0, &[0; 8]).u32(1, 10).attr(2, &[1, 0, 0, 0, 0, 0, 0, 0]).done(),
            Builder::new(rtm::NEWRULE, 0, &[2, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0]).u32(6, 5).done(),
            Builder::new(rtm::NEWNETCONF, 0, &[2, 0, 0, 0]).u32(1, 3).u32(2, 1).done(),
        ];
        let mut b = all[pick].clone();
        for (at, x) in hits {
            if let Some(o) = b.get_mut(at) { *o = x; }
        }
        b.truncate(cut.max(1));
        let mut w = World::new();
        w.say(&route(&R { v6, ..R0 }));
        w.say(&b);
        for k in DumpKind::ALL {
            w.m.dump_begin(k);
            w.m.dump(k, w.seq, &b);
            w.m.dump_end(k, true);
        }
        while w.m.work(7) {}
        w.m.take_dirt();
    }

    /// Noise alone.
    #[test]
    fn noise_does_not_panic(b in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut m = Mirror::new();
        m.monitor(1, &b);
    }
}
