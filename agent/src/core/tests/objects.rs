//! Next-hop objects: what hangs on one follows its change by one write, whatever the number of routes behind it.

use super::*;

fn object(kind: u16, id: u32, to: Option<(u32, Ipv4Addr)>) -> Vec<u8> {
    // nhmsg: family, scope, protocol, reserved, flags.
    let b = Builder::new(kind, 0, &[2, 253, 11, 0, 0, 0, 0, 0]).u32(1, id);
    match to {
        Some((dev, gw)) => b.u32(5, dev).addr(6, gw.into()).done(),
        None => b.attr(4, &[]).done(),
    }
}

fn group(id: u32, members: &[(u32, u16)]) -> Vec<u8> {
    group_of(id, members).done()
}

/// A resilient one; the timers in hundredths of a second.
fn resilient(id: u32, members: &[(u32, u16)], buckets: u16, idle: u32, unbalanced: u32) -> Vec<u8> {
    let attr = |kind: u16, value: u32, len: u16| {
        [&(4 + len).to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    };
    let res = [attr(1, buckets.into(), 2), attr(2, idle, 4), attr(3, unbalanced, 4)].concat();
    group_of(id, members).attr(3, &1u16.to_ne_bytes()).attr(12, &res).done()
}

fn group_of(id: u32, members: &[(u32, u16)]) -> Builder {
    let grp: Vec<u8> = members
        .iter()
        .flat_map(|(m, weight)| {
            let [low, high] = (weight - 1).to_le_bytes();
            [m.to_ne_bytes(), [low, high, 0, 0]].concat()
        })
        .collect();
    Builder::new(104, 0, &[0, 0, 11, 0, 0, 0, 0, 0]).u32(1, id).attr(2, &grp)
}

fn via(id: u32, i: u8) -> Vec<u8> {
    let head = [2, 24, 0, 0, 254, 11, 0, 1, 0, 0, 0, 0];
    Builder::new(24, 0x600, &head).u32(15, 254).addr(1, Ipv4Addr::new(192, 0, i, 0).into()).u32(30, id).done()
}

fn gw(i: u32, last: u8) -> (u32, Ipv4Addr) {
    (i, Ipv4Addr::new(10, 200, i as u8, last))
}

impl Lab {
    /// The kernel makes or replaces an object, or a route of one.
    fn set_object(&mut self, m: Vec<u8>) {
        // Objects are told apart by what their first attribute says.
        self.kernel.objects.retain(|o| o[4] != m[4] || m[4] != 104 || o[24..32] != m[24..32]);
        self.kernel.objects.push(m.clone());
        self.news(m);
    }
}

/// 200 routes: half behind object 1, half behind the group of 1 and 2.
fn built() -> Lab {
    let mut lab = Lab::new(profile());
    lab.hello();
    lab.settle();
    for (i, last) in [(11, 2), (12, 2), (13, 2), (13, 3)] {
        lab.set_neigh(gw(i, last), Some(mac(i)));
    }
    lab.set_object(object(104, 1, Some(gw(11, 2))));
    lab.set_object(object(104, 2, Some(gw(12, 2))));
    lab.set_object(group(10, &[(1, 1), (2, 3)]));
    (0..200).for_each(|i| lab.set_object(via(if i % 2 == 0 { 1 } else { 10 }, i)));
    lab.settle();
    lab
}

/// What it takes, in operations on the chip.
fn writes(lab: &mut Lab, change: impl FnOnce(&mut Lab)) -> usize {
    let before = lab.ops;
    change(lab);
    lab.settle();
    lab.ops - before
}

/// Through which ports packets to the single object's and the group's routes leave.
fn ways(lab: &Lab) -> [BTreeSet<u32>; 2] {
    let v = lab.view();
    [0, 1].map(|i| {
        let f = v.routes.get(&Prefix::new(Ipv4Addr::new(192, 0, i, 0), 24));
        let Some(Fwd::Group(g)) = f else { return BTreeSet::new() };
        let members = v.groups.get(g).into_iter().flat_map(|e| e.members.iter());
        members
            .filter_map(|m| if let NextHopEntry::Ip(r, _) = v.nexthops.get(&m.nexthop)? { Some(r.0) } else { None })
            .collect()
    })
}

#[test]
fn a_change_of_an_object_is_one_write() {
    let mut lab = built();
    assert_eq!(ways(&lab), [[11].into(), [11, 12].into()]);
    assert_eq!(writes(&mut lab, |l| l.set_object(object(104, 1, Some(gw(13, 2))))), 1);
    assert_eq!(ways(&lab), [[13].into(), [13, 12].into()]);
    // Another weight is another group, of the same next hops.
    assert_eq!(writes(&mut lab, |l| l.set_object(group(10, &[(1, 5), (2, 3)]))), 1);
    // A blackhole and back.
    assert_eq!(writes(&mut lab, |l| l.set_object(object(104, 1, None))), 1);
    assert_eq!(ways(&lab), [[].into(), [12].into()]);
    assert_eq!(writes(&mut lab, |l| l.set_object(object(104, 1, Some(gw(11, 2))))), 1);
    assert_eq!(writes(&mut lab, |l| l.set_object(object(104, 1, Some(gw(11, 2))))), 0, "no news");
}

#[test]
fn before_linux_6_6_a_failed_member_keeps_its_share_where_no_good_one_follows() {
    let mut lab = built();
    lab.release = (6, 1);
    lab.settle();
    writes(&mut lab, |l| l.set_neigh(gw(12, 2), None));
    assert_eq!(ways(&lab)[1], [11, 12].into(), "the last one: a trap slot");
    writes(&mut lab, |l| l.set_neigh(gw(12, 2), Some(Mac([2, 0, 0, 0, 0, 9]))));
    writes(&mut lab, |l| l.set_neigh(gw(11, 2), None));
    assert_eq!(ways(&lab)[1], [12].into(), "the first one: its share goes to the next");
}

#[test]
fn a_neighbour_that_fails_takes_its_member_out_of_groups() {
    let mut lab = built();
    // The adjacency goes, and the group's list of members; the next hop behind it goes too.
    let n = writes(&mut lab, |l| l.set_neigh(gw(12, 2), None));
    assert!(n <= 3, "{n} writes");
    assert_eq!(ways(&lab), [[11].into(), [11].into()]);
    // A lone next hop stays, and traps.
    writes(&mut lab, |l| l.set_neigh(gw(11, 2), None));
    assert_eq!(ways(&lab)[0], [11].into());
    let n = writes(&mut lab, |l| l.set_neigh(gw(12, 2), Some(mac(12))));
    assert!(n <= 3, "{n} writes");
    assert_eq!(ways(&lab), [[11].into(), [12].into()]);
}

#[test]
fn an_object_that_goes_takes_its_routes_and_leaves_its_groups() {
    let mut lab = built();
    let deleted = |l: &mut Lab| {
        l.kernel.objects.retain(|o| o[4] == 24 && !o.ends_with(&1u32.to_ne_bytes()));
        l.kernel.objects.extend([object(104, 2, Some(gw(12, 2))), group(10, &[(2, 3)])]);
        l.news(Builder::new(105, 0, &[0; 8]).u32(1, 1).done());
    };
    let n = writes(&mut lab, deleted);
    assert!(n >= 100, "half of the routes go without a word: {n} writes");
    assert_eq!(ways(&lab), [[].into(), [12].into()]);
    assert_eq!(
        lab.table(TableId::Route4).iter().filter(|r| matches!(r, Record::Route4(k, _) if k.prefix.len() == 24)).count(),
        100
    );
}

#[test]
fn an_object_that_comes_again_does_not_revive_the_routes_of_the_one_before() {
    // More than are swept, or sent, at once.
    const MANY: u32 = 20_000;
    let mut lab = Lab::new(Profile { routes4: 1 << 15, ..profile() });
    lab.hello();
    lab.settle();
    lab.set_neigh(gw(11, 2), Some(mac(11)));
    lab.set_neigh(gw(13, 3), Some(mac(13)));
    lab.news(object(104, 1, Some(gw(11, 2))));
    for i in 0..MANY {
        let head = [2, 32, 0, 0, 254, 11, 0, 1, 0, 0, 0, 0];
        let to = Ipv4Addr::from_bits(0x6440_0000 + i);
        lab.news(Builder::new(24, 0x600, &head).u32(15, 254).addr(1, to.into()).u32(30, 1).done());
    }
    lab.settle();
    let leave_by = |lab: &Lab, port: u32| {
        let v = lab.view();
        let by = |m: &hal::Member| matches!(v.nexthops.get(&m.nexthop), Some(NextHopEntry::Ip(r, _)) if r.0 == port);
        let groups: BTreeSet<_> = v.groups.iter().filter(|(_, e)| e.members.iter().any(by)).map(|(g, _)| *g).collect();
        v.routes.values().filter(|f| matches!(f, Fwd::Group(g) if groups.contains(g))).count()
    };
    assert_eq!(leave_by(&lab, 11), MANY as usize);
    lab.kernel.objects.push(object(104, 1, Some(gw(13, 3))));
    let gone = Builder::new(105, 0, &[0; 8]).u32(1, 1).done();
    lab.news([gone, object(104, 1, Some(gw(13, 3)))].concat());
    // Whatever is sent on the way: once a batch is in, nothing of the old routes leaves by the new object.
    loop {
        let batch = matches!(lab.todo.front(), Some(Output::Chip(ToChip::Batch { .. })));
        if !lab.step() {
            if lab.core.deadline().is_none_or(|d| d > lab.now) {
                break;
            }
            lab.input(Input::Tick);
        }
        assert!(!batch || leave_by(&lab, 13) == 0, "{} old routes leave by the new object", leave_by(&lab, 13));
    }
    lab.settle();
    assert_eq!((leave_by(&lab, 11), leave_by(&lab, 13)), (0, 0));
}

/// Prefix-independent convergence: what a neighbour's loss, its return and an object's change cost, in writes, behind that many routes.
fn costs(routes: u32, inline: bool) -> [usize; 3] {
    let mut lab = Lab::new(Profile { routes4: 1 << 17, ..profile() });
    lab.journal = None;
    if inline {
        lab.sysctls.push(("ipv4/fib_multipath_use_neigh".into(), "1".into()));
    }
    lab.hello();
    lab.settle();
    for (i, last) in [(11, 2), (12, 2), (13, 3)] {
        lab.set_neigh(gw(i, last), Some(mac(i)));
    }
    lab.news([object(104, 1, Some(gw(11, 2))), object(104, 2, Some(gw(12, 2))), group(10, &[(1, 1), (2, 3)])].concat());
    let to = To::Gateways(vec![(gw(11, 2).0, gw(11, 2).1, 1), (gw(12, 2).0, gw(12, 2).1, 3)]);
    for at in (0..routes).step_by(100) {
        let one = |i: u32| {
            let prefix = Prefix::new(Ipv4Addr::from_bits(0x6440_0000 + i), 32);
            if inline {
                return route(24, 0x600, &(prefix, 0), &to);
            }
            let head = [2, 32, 0, 0, 254, 11, 0, 1, 0, 0, 0, 0];
            Builder::new(24, 0x600, &head).u32(15, 254).addr(1, prefix.addr().into()).u32(30, 10).done()
        };
        lab.news((at..at + 100).flat_map(one).collect());
        lab.run();
    }
    lab.settle();
    assert!(lab.ops >= routes as usize);
    let lost = writes(&mut lab, |l| l.set_neigh(gw(12, 2), None));
    let back = writes(&mut lab, |l| l.set_neigh(gw(12, 2), Some(mac(12))));
    let moved = writes(&mut lab, |l| l.news(object(104, 1, Some(gw(13, 3)))));
    [lost, back, moved]
}

#[test]
fn convergence_does_not_depend_on_the_number_of_routes() {
    for inline in [false, true] {
        let (few, many) = (costs(100, inline), costs(100_000, inline));
        assert_eq!(few, many, "inline {inline}");
        assert!(few.iter().all(|n| *n <= 3), "{few:?}");
    }
}

#[test]
fn a_restart_finds_objects_under_their_names() {
    let mut lab = built();
    let chip: Vec<Record> = TableId::ALL.iter().flat_map(|t| lab.table(*t)).collect();
    let cfg = lab.core.cfg;
    lab.core = Core::new(cfg);
    lab.journal = None;
    let ops = lab.ops;
    lab.hello();
    lab.settle();
    assert_eq!(lab.ops, ops, "the chip held all of it");
    assert_eq!(TableId::ALL.iter().flat_map(|t| lab.table(*t)).collect::<Vec<_>>(), chip);
}

/// The buckets of all groups: of which group, and where they lead.
fn buckets(lab: &Lab) -> Vec<(hal::GroupId, hal::NextHopId)> {
    let of = |r: Record| if let Record::Bucket(k, e) = r { (k.group, e.nexthop) } else { panic!("{r:?}") };
    lab.table(TableId::Bucket).into_iter().map(of).collect()
}

/// 100 routes behind one resilient group, 100 behind another with the same members.
fn with_buckets(profile: Profile, first: u8) -> Lab {
    let mut lab = Lab::new(profile);
    lab.hello();
    lab.settle();
    for (i, last) in [(11, 2), (12, 2), (13, 2), (13, 3)] {
        lab.set_neigh(gw(i, last), Some(mac(i)));
    }
    for (id, i) in [(1, 11), (2, 12), (3, 13)] {
        lab.set_object(object(104, id, Some(gw(i, 2))));
    }
    for id in [10, 20] {
        lab.set_object(resilient(id, &[(1, 1), (2, 1)], 8, 12_000, 0));
    }
    // One after the other, so that they are named in another order than that in which a restart meets them.
    for odd in [first, 1 - first] {
        (0..200).filter(|i| i % 2 == odd).for_each(|i| lab.set_object(via(if odd == 0 { 20 } else { 10 }, i)));
        lab.settle();
    }
    lab
}

#[test]
fn buckets_of_a_resilient_group_are_the_chips() {
    let mut lab = with_buckets(Profile { buckets: 16, ..profile() }, 0);
    assert_eq!(ways(&lab), [[11, 12].into(), [11, 12].into()]);
    let e = lab.view().groups.into_values().find_map(|e| e.resilient).unwrap();
    assert_eq!((e.buckets, e.idle, e.unbalanced), (8, 120_000, 0));
    // Any change is one write: other timers, other members, one of them elsewhere, a failed neighbour (the adjacency).
    assert_eq!(writes(&mut lab, |l| l.set_object(resilient(10, &[(1, 1), (2, 1)], 8, 100, 0))), 1);
    let before = buckets(&lab);
    assert_eq!(writes(&mut lab, |l| l.set_object(object(104, 1, Some(gw(13, 3))))), 1);
    assert_eq!(writes(&mut lab, |l| l.set_neigh(gw(12, 2), None)), 1);
    assert_eq!(ways(&lab), [[13, 12].into(), [13, 12].into()], "a trap slot, never left out");
    assert_eq!(buckets(&lab), before);
    // The next hop of the new member is the second one.
    assert_eq!(writes(&mut lab, |l| l.set_object(resilient(10, &[(1, 1), (3, 1)], 8, 100, 0))), 2);
    let moved = buckets(&lab).iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(moved, 4, "those of the lost member");
    // What the kernel says of its own buckets is no news.
    let bucket = Builder::new(116, 0x100, &[0; 8]).u32(1, 10).done();
    assert_eq!(writes(&mut lab, |l| l.news(bucket)), 0);
    assert_eq!(lab.ask(Request::Check)["equal"], true);
    let row = |lab: &mut Lab| lab.ask(Request::List(Listed::NextHops))[3].clone();
    let shown = row(&mut lab);
    assert_eq!((&shown["id"], &shown["type"], &shown["offload"]), (&10.into(), &"resilient".into(), &true.into()));
    assert_eq!(shown["resilient_args"], serde_json::json!({"buckets": 8, "idle_timer": 1, "unbalanced_timer": 0}));
    let own = lab.ask(Request::Buckets { cursor: 0 })[3].clone();
    let to = own["bucket"]["nhid"].as_u64().unwrap();
    assert!([1, 2, 3].contains(&to), "{own}");
    let want = serde_json::json!({"id": 20, "family": "inet", "bucket": {"index": 3, "idle_time": 0.0, "nhid": to}});
    assert_eq!(own, want);
    // It goes, and its buckets go with it.
    lab.kernel.objects.retain(|o| o[4] == 104 && o[24..28] != 10u32.to_ne_bytes() || o.ends_with(&20u32.to_ne_bytes()));
    lab.news(Builder::new(105, 0, &[0; 8]).u32(1, 10).done());
    lab.settle();
    assert_eq!(buckets(&lab).len(), 8);
}

#[test]
fn a_restart_finds_each_group_with_its_own_buckets() {
    [0, 1].into_iter().for_each(restart_with_buckets);
}

fn restart_with_buckets(first: u8) {
    let mut lab = with_buckets(Profile { buckets: 16, ..profile() }, first);
    // The same content by different ways.
    lab.set_object(resilient(20, &[(1, 3), (2, 1)], 8, 12_000, 0));
    lab.settle();
    lab.set_object(resilient(20, &[(1, 1), (2, 1)], 8, 12_000, 0));
    lab.settle();
    let all = |l: &Lab| TableId::ALL.iter().flat_map(|t| l.table(*t)).collect::<Vec<_>>();
    let (chip, ops) = (all(&lab), lab.ops);
    let own = buckets(&lab);
    assert_ne!(own[..8].iter().map(|b| b.1).collect::<Vec<_>>(), own[8..].iter().map(|b| b.1).collect::<Vec<_>>());
    let cfg = lab.core.cfg;
    lab.core = Core::new(cfg);
    lab.journal = None;
    lab.hello();
    lab.settle();
    assert_eq!((lab.ops, all(&lab)), (ops, chip));
}

#[test]
fn a_chip_without_room_for_buckets_punts() {
    for (buckets, why) in [
        (0, "uses resilient group 10, and the chip has no such groups"),
        (7, "its group has more buckets than the 7 of the chip's groups together"),
    ] {
        let mut lab = with_buckets(Profile { buckets, ..profile() }, 0);
        assert_eq!(ways(&lab), [[].into(), [].into()]);
        let v = lab.ask(Request::List(Listed::NextHops));
        assert_eq!((&v[3]["id"], &v[3]["offload"], &v[3]["why"]), (&10.into(), &false.into(), &why.into()));
        assert_eq!(lab.ask(Request::Check)["equal"], true);
    }
    // Room for one of two: the other is a trap until the first goes.
    let mut lab = with_buckets(Profile { buckets: 12, ..profile() }, 0);
    let there = |l: &Lab| ways(l).iter().filter(|w| !w.is_empty()).count();
    assert_eq!(there(&lab), 1);
    assert_eq!(lab.ask(Request::Check)["equal"], true);
    let first = if ways(&lab)[0].is_empty() { 10 } else { 20 };
    lab.kernel.objects.retain(|o| {
        let of = if o[4] == 24 { o.ends_with(&u32::to_ne_bytes(first)) } else { o[20..24] == u32::to_ne_bytes(first) };
        !of
    });
    lab.news(Builder::new(105, 0, &[0; 8]).u32(1, first).done());
    lab.settle();
    assert_eq!((there(&lab), buckets(&lab).len()), (1, 8));
    assert_eq!(lab.ask(Request::Check)["equal"], true);
}

#[test]
fn answers_show_objects_as_ip_does() {
    let mut lab = built();
    lab.set_object(object(104, 3, Some((ETH0, Ipv4Addr::new(172, 16, 0, 1)))));
    lab.set_object(object(104, 4, None));
    let v = lab.ask(Request::List(Listed::NextHops));
    let row = |id: u64| v.as_array().unwrap().iter().find(|o| o["id"] == id).unwrap_or_else(|| panic!("{id} in {v}"));
    assert_eq!(
        (&row(1)["gateway"], &row(1)["dev"], &row(1)["routes"]),
        (&"10.200.11.2".into(), &"swp1".into(), &200.into())
    );
    assert_eq!((&row(1)["offload"], &row(10)["offload"]), (&true.into(), &true.into()));
    assert_eq!(row(10)["group"], serde_json::json!([{"id": 1}, {"id": 2, "weight": 3}]));
    assert_eq!(row(3)["why"], "leaves by eth0, which is not a front-panel port");
    assert_eq!(row(4)["why"], "no route uses it");
}
