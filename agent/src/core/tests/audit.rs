//! Whatever is changed behind the core's back, in the chip or in the kernel, `check` says so and the audit mends it.

use super::*;

/// What the kernel has changed without a word.
type Change = fn(&mut Lab);

/// A check finds the difference and leaves it; an audit mends it and counts that.
fn found_and_mended(lab: &mut Lab, what: &str) {
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], false, "{what}: {v}");
    assert!(v["differing"].as_u64() > Some(0) && v["differences"][0].as_str().is_some(), "{what}: {v}");
    let repairs = lab.core.totals.repairs;
    lab.core.cfg.audit = SECOND;
    lab.now += SECOND;
    lab.input(Input::Tick);
    lab.run();
    lab.core.cfg.audit = 0;
    lab.settle();
    assert!(lab.core.totals.repairs > repairs, "{what}: not counted");
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], true, "{what}: not mended: {v}");
    lab.compare(true);
}

fn built() -> Lab {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    lab.set_neigh((12, Ipv4Addr::new(10, 200, 12, 3)), Some(mac(98)));
    lab.settle();
    assert_eq!(lab.ask(Request::Check)["equal"], true);
    lab
}

/// The first entry of the table, changed so that no law refuses it.
fn otherwise(r: &Record) -> Record {
    match r.clone() {
        Record::Switch(k, mut e) => {
            e.hash4 = if e.hash4 == hal::HashPolicy::L3 { hal::HashPolicy::L4 } else { hal::HashPolicy::L3 };
            Record::Switch(k, e)
        }
        Record::Rif(k, mut e) => {
            e.mtu4 -= 100;
            Record::Rif(k, e)
        }
        Record::Neigh4(k, _) => Record::Neigh4(k, hal::NeighEntry { mac: mac(77) }),
        Record::Neigh6(k, _) => Record::Neigh6(k, hal::NeighEntry { mac: mac(77) }),
        Record::NextHop(k, _) => Record::NextHop(k, NextHopEntry::Drop(hal::DropReason::Blackhole)),
        Record::Group(k, mut e) => {
            e.members.iter_mut().for_each(|m| m.weight += 1);
            Record::Group(k, e)
        }
        Record::Route4(k, _) => Record::Route4(k, Fwd::Drop(hal::DropReason::Blackhole)),
        Record::Route6(k, _) => Record::Route6(k, Fwd::Drop(hal::DropReason::Blackhole)),
        r @ (Record::Port(..)
        | Record::Bucket(..)
        | Record::Fid(..)
        | Record::BridgePort(..)
        | Record::FidMember(..)
        | Record::FdbStatic(..)
        | Record::Fdb(..)) => r,
    }
}

/// An entry that nobody asked for.
fn foreign(t: TableId) -> Option<Record> {
    let rif = RifId(PORT);
    let v6 = std::net::Ipv6Addr::LOCALHOST;
    Some(match t {
        TableId::Port | TableId::Bucket | TableId::Switch | TableId::Rif => return None,
        TableId::FidMember | TableId::FdbStatic | TableId::Fdb => return None,
        TableId::Fid => Record::Fid(hal::FidId(999), hal::FidEntry::default()),
        TableId::BridgePort => Record::BridgePort(
            hal::BridgePortId(999),
            hal::BridgePortEntry {
                port: PortId(0),
                tpid: None,
                untagged: None,
                state: hal::StpState::Blocking,
                learning: false,
                control_learning: true,
                unknown: false,
                multicast: false,
                broadcast: false,
                isolated: false,
                hairpin: false,
                longest: 1514,
                ingress: false,
                egress: false,
            },
        ),
        TableId::Neigh4 => {
            Record::Neigh4(NeighKey { rif, addr: Ipv4Addr::new(9, 9, 9, 9) }, hal::NeighEntry { mac: mac(9) })
        }
        TableId::Neigh6 => Record::Neigh6(NeighKey { rif, addr: v6 }, hal::NeighEntry { mac: mac(9) }),
        TableId::NextHop => Record::NextHop(hal::NextHopId(999), NextHopEntry::Connected(rif)),
        TableId::Group => Record::Group(hal::GroupId(999), GroupEntry::default()),
        TableId::Route4 => Record::Route4(
            hal::RouteKey { vrf: hal::VrfId(0), prefix: Prefix::new(Ipv4Addr::new(9, 0, 0, 0), 8) },
            Fwd::Drop(hal::DropReason::Blackhole),
        ),
        TableId::Route6 => Record::Route6(
            hal::RouteKey { vrf: hal::VrfId(0), prefix: Prefix::host(v6) },
            Fwd::Drop(hal::DropReason::Blackhole),
        ),
    })
}

#[test]
fn every_table_of_the_chip_is_watched() {
    let mut changed = BTreeSet::new();
    // Of bridges, what stands alone; there is none here.
    let other = [TableId::Port, TableId::Bucket, TableId::FidMember, TableId::FdbStatic, TableId::Fdb];
    for t in TableId::ALL.iter().copied().filter(|t| !other.contains(t)) {
        let entries = built().table(t);
        for op in entries
            .first()
            .into_iter()
            .flat_map(|r| [Op::Set(otherwise(r)), Op::Remove(r.key())])
            .chain(foreign(t).map(Op::Set))
        {
            let mut lab = built();
            lab.chip.inner().apply(&op).unwrap_or_else(|e| panic!("{op}: {e}"));
            found_and_mended(&mut lab, &op.to_string());
            changed.insert(t);
        }
    }
    assert_eq!(changed.len(), TableId::ALL.len() - other.len(), "a table was left out");
}

#[test]
fn what_the_chip_wrongly_holds_is_mended_by_one_write() {
    let mut lab = built();
    let entries = lab.table(TableId::Route4);
    lab.chip.inner().apply(&Op::Set(otherwise(&entries[0]))).unwrap();
    lab.ops = 0;
    found_and_mended(&mut lab, "one route");
    assert_eq!((lab.ops, lab.core.totals.repairs), (1, 1));
}

#[test]
fn a_lost_event_of_a_port_is_noticed() {
    let mut lab = built();
    let mut changed = port(1, NETNS);
    changed.mtu = 1400;
    lab.chip.inner().set_port(PortId(1), changed.clone());
    lab.chip.poll(lab.now, &mut Vec::new());
    found_and_mended(&mut lab, "port");
    assert_eq!(lab.core.table_ports.get(&PortId(1)), Some(&changed));
}

#[test]
fn what_the_kernel_changed_without_a_word_is_noticed() {
    let all: [(&str, Change); 6] = [
        ("a neighbour is gone", |lab| {
            lab.kernel.neighs.insert((11, Ipv4Addr::new(10, 200, 11, 2)), None);
        }),
        ("a neighbour is new", |lab| {
            lab.kernel.neighs.insert((13, Ipv4Addr::new(10, 200, 13, 9)), Some(mac(50)));
        }),
        ("a route is gone", |lab| {
            lab.kernel.routes.remove(&(Prefix::new(0xc000_0000.into(), 24), 0));
        }),
        ("a route is new", |lab| {
            lab.kernel.routes.insert((Prefix::new(0xc0a8_0000.into(), 16), 0), To::Blackhole);
        }),
        ("a set is another", |lab| {
            let to = To::Gateways(vec![(13, Ipv4Addr::new(10, 200, 13, 2), 1)]);
            lab.kernel.routes.insert((Prefix::new(0xc000_0000.into(), 24), 0), to);
        }),
        ("a better metric", |lab| {
            // The one that is known stays, and is not the winner any more.
            let p = Prefix::new(0xc000_0000.into(), 24);
            let to = lab.kernel.routes.remove(&(p, 0)).unwrap();
            lab.kernel.routes.insert((p, 5), to);
            lab.kernel.routes.insert((p, 1), To::Blackhole);
        }),
    ];
    for (what, change) in all {
        let mut lab = built();
        change(&mut lab);
        found_and_mended(&mut lab, what);
    }
}

#[test]
fn a_rule_that_was_never_announced_is_noticed() {
    let mut lab = built();
    lab.odd_rules = rule(2, 100, 77);
    // FR_ACT_BLACKHOLE, whatever the table holds.
    lab.odd_rules[23] = 6;
    let v = lab.ask(Request::Check);
    assert_eq!(v["equal"], false, "{v}");
    lab.core.cfg.audit = SECOND;
    lab.now += SECOND;
    lab.input(Input::Tick);
    lab.run();
    lab.core.cfg.audit = 0;
    lab.settle();
    let Some(Record::Switch(_, e)) = lab.table(TableId::Switch).pop() else { panic!("no switch") };
    assert_eq!(e.rules4, [hal::Rule::all(hal::RuleAction::Trap(hal::TrapClass::Unreachable))]);
    assert_eq!(lab.ask(Request::Check)["equal"], true);
}

/// How many interfaces are open for IPv4.
fn open(lab: &Lab) -> usize {
    lab.table(TableId::Rif).iter().filter(|r| matches!(r, Record::Rif(_, e) if e.ingress4)).count()
}

#[test]
fn a_chip_that_takes_no_rules_closes_what_they_are_about() {
    let mut lab = Lab::new(Profile { rules: 0, ..profile() });
    lab.hello();
    lab.settle();
    lab.odd_rules = rule(2, 100, 77);
    // FR_ACT_BLACKHOLE
    lab.odd_rules[23] = 6;
    assert!(open(&lab) > 0);
    lab.news(lab.odd_rules.clone());
    lab.settle();
    assert_eq!(open(&lab), 0);
}

#[test]
fn what_the_core_itself_got_wrong_is_noticed() {
    // As if the chip had acknowledged, and been given, something that no compile says.
    let mut lab = built();
    let wrong = otherwise(&lab.table(TableId::Rif)[0]);
    lab.chip.inner().apply(&Op::Set(wrong.clone())).unwrap();
    let Record::Rif(k, e) = wrong else { panic!("a rif") };
    lab.core.program.rif.load(k, e);
    found_and_mended(&mut lab, "rif");

    let mut lab = built();
    let wrong = otherwise(&lab.table(TableId::Group)[0]);
    lab.chip.inner().apply(&Op::Set(wrong.clone())).unwrap();
    let Record::Group(k, e) = wrong else { panic!("a group") };
    lab.core.program.group.load(k, e);
    found_and_mended(&mut lab, "group");

    let mut lab = built();
    let wrong = foreign(TableId::Neigh4).unwrap();
    lab.chip.inner().apply(&Op::Set(wrong.clone())).unwrap();
    lab.core.program.load(wrong);
    found_and_mended(&mut lab, "neighbour");
}

#[test]
fn long_lists_come_in_parts_and_whole() {
    let mut lab = built();
    let before = lab.ask(Request::List(Listed::Neighs)).as_array().unwrap().len();
    for n in 0..2000u32 {
        lab.set_neigh((13, Ipv4Addr::from_bits(0x0ac8_0d00 + 300 + n)), None);
    }
    lab.settle();
    let id = 77;
    lab.input(Input::Request { id, request: Request::List(Listed::Neighs) });
    let mut ticks = 0;
    while !lab.todo.iter().any(|o| matches!(o, Output::Reply { id: 77, .. })) {
        assert_eq!(lab.core.deadline(), Some(0), "the rest is work, not waiting");
        lab.input(Input::Tick);
        ticks += 1;
    }
    assert!(ticks >= 3, "one input put all of it into words");
    lab.run();
    let Some(Reply::Json(text)) = lab.replies.remove(&id) else { panic!("no list") };
    let v: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(v.as_array().unwrap().len(), before + 2000);
    let seen: BTreeSet<_> = v.as_array().unwrap().iter().map(|n| n["dst"].to_string()).collect();
    assert_eq!(seen.len(), before + 2000, "each once");
}
