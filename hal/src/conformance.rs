//! The laws of the contract as tests that any backend can be held to.
//!
//! A backend's own tests call [`all`], or each of [`LAWS`] under its name. The factory makes a fresh chip with at least one
//! port and small tables (the suite fills each of up to [`FILL`] entries). What packets see (laws e and g, and the second half
//! of b) is for the backend's own tests: there are no packets in this trait.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::chip::{Backend, Op, Reason};
use crate::ip::{Addr, Family, Mac, Prefix};
use crate::tables::*;

/// Largest table that the suite fills.
pub const FILL: u32 = 5_000;

/// Makes a fresh chip.
pub type Factory<'a> = &'a dyn Fn() -> Box<dyn Backend>;

/// One law: panics if the chip breaks it.
pub type Law = fn(Factory<'_>);

/// Every law and its name.
pub const LAWS: &[(&str, Law)] = &[
    ("a chip starts empty", starts_empty),
    ("a table holds as many entries as it says, and overwriting needs no room (a)", capacity),
    ("overwriting with trap and remove never fail (b)", trap_and_remove),
    ("a removed reference can be set again (b)", revival),
    ("a rejected set leaves the old entry (c)", rejected_leaves_old),
    ("a missing reference is named (d)", missing_reference),
    ("the chip's own table is read-only", read_only),
    ("a dump pages, and shows once what stays", paging),
    ("virtual routers have entries of their own, and are as many as the profile says", virtual_routers),
    ("buckets of a resilient group lead to its members by their shares, and move no more than they must (h)", buckets),
    ("any sequence leaves what a plain map would hold", model),
];

/// Hold a backend to every law.
///
/// # Panics
/// The chip breaks one; the message names it.
pub fn all(make: Factory<'_>) {
    for (name, law) in LAWS {
        println!("law: {name}");
        law(make);
    }
}

type Dump = BTreeMap<AnyKey, Record>;

fn dump_table(b: &dyn Backend, t: TableId, page: usize) -> Dump {
    let mut all = Dump::new();
    let mut cursor = Some(0);
    while let Some(c) = cursor {
        let mut out = Vec::new();
        cursor = b.dump(t, c, page, &mut out);
        assert!(out.len() <= page, "{t}: a page of {page} came with {} records", out.len());
        for r in out {
            assert_eq!(r.table(), t, "a dump of {t} holds {r:?}");
            assert!(all.insert(r.key(), r.clone()).is_none(), "{t}: {} comes twice in one dump", r.key());
        }
    }
    all
}

fn dump(b: &dyn Backend) -> Dump {
    let mut all = Dump::new();
    for t in settable() {
        all.append(&mut dump_table(b, t, 1000));
    }
    all
}

/// Tables that the agent writes, referred-to ones first.
fn settable() -> impl Iterator<Item = TableId> {
    TableId::ALL.iter().copied().filter(|t| t.kind() != Kind::Learned)
}

fn ports(b: &dyn Backend) -> u32 {
    let n = dump_table(b, TableId::Port, 100).len() as u32;
    assert!(n > 0, "the factory has to make a chip with ports");
    n
}

fn set(b: &mut dyn Backend, r: Record) {
    if let Err(why) = b.apply(&Op::Set(r.clone())) {
        panic!("set {r:?} was refused: {why}");
    }
}

fn remove(b: &mut dyn Backend, k: AnyKey) {
    if let Err(why) = b.apply(&Op::Remove(k)) {
        panic!("remove {k} was refused, which never happens: {why}");
    }
}

// ---------------------------------------------------------------- entries

fn rif(n: u32, v: u32, ports: u32, open: bool) -> Record {
    Record::Rif(
        RifId(n),
        RifEntry {
            kind: RifKind::Port { port: PortId(n % ports), tags: tags(v) },
            vrf: VrfId(0),
            mac: Mac([2, 0, 0, 0, 0, v as u8]),
            mtu4: 1500 + v,
            mtu6: 1500,
            ingress4: open,
            ingress6: open,
            egress: open,
            same4: false,
            urpf: Urpf::Off,
        },
    )
}

fn tags(v: u32) -> Tags {
    let tag = |tpid| Tag { tpid, vid: 1 + v as u16 };
    match v % 3 {
        0 => Tags::None,
        1 => Tags::One(tag(Tpid::Dot1q)),
        _ => Tags::Two(tag(Tpid::Dot1ad), tag(Tpid::Dot1q)),
    }
}

fn bridge_port(n: u32, v: u32, untagged: Option<FidId>, ports: u32, open: bool) -> Record {
    Record::BridgePort(
        BridgePortId(n),
        BridgePortEntry {
            port: PortId(n % ports),
            tpid: (v % 2 == 1).then_some(Tpid::Dot1q),
            untagged,
            state: StpState::Forwarding,
            learning: true,
            control_learning: true,
            unknown: v.is_multiple_of(3),
            multicast: true,
            broadcast: true,
            isolated: v % 3 == 1,
            hairpin: v % 3 == 2,
            longest: 1518 + v,
            ingress: open,
            egress: open,
        },
    )
}

fn neigh_key<F: Family>(rif: u32, n: u32) -> NeighKey<F> {
    NeighKey { rif: RifId(rif), addr: F::Addr::from_number(0x0a00_0000 + u128::from(n)) }
}

fn prefix<F: Family>(n: u32) -> RouteKey<F> {
    // Nested ones, so that covers matter.
    let len = F::BITS - (n % 3) as u8;
    RouteKey { vrf: VrfId(0), prefix: Prefix::new(F::Addr::from_number(u128::from(n / 3) << 2), len) }
}

/// Entry `n` of a table, in variant `v`, with references to key `to` of the tables that it refers to.
fn record(t: TableId, n: u32, v: u32, to: u32, ports: u32) -> Record {
    let neigh = NeighEntry { mac: Mac([2, 1, 0, 0, 0, v as u8]) };
    let fwd = match v % 4 {
        0 => Fwd::Group(GroupId(to)),
        1 => Fwd::Connected(RifId(to)),
        2 => Fwd::Drop(DropReason::Blackhole),
        _ => Fwd::Trap(TrapClass::Unreachable),
    };
    match t {
        TableId::Port | TableId::Bucket => unreachable!("no agent writes what is the chip's own"),
        TableId::Switch => {
            let hash4 = match v % 4 {
                0 => HashPolicy::L3,
                1 => HashPolicy::L4,
                2 => HashPolicy::Inner,
                _ => HashPolicy::Fields(v as u16 & 0xfff),
            };
            Record::Switch(Global, SwitchEntry { hash4, ..SwitchEntry::default() })
        }
        TableId::Fid => {
            let tag = (v % 2 == 1).then_some(Tag { tpid: Tpid::Dot1q, vid: 1 + n as u16 % 4094 });
            Record::Fid(
                FidId(n),
                FidEntry { tag, ageing: 1000 + v, unknown: v % 4 < 2, broadcast: false, multicast: true },
            )
        }
        TableId::BridgePort => bridge_port(n, v, v.is_multiple_of(4).then_some(FidId(to)), ports, true),
        TableId::FidMember => Record::FidMember(
            MemberKey { fid: FidId(to), port: BridgePortId(to) },
            MemberEntry {
                tagged: v.is_multiple_of(2),
                state: if v % 4 < 2 { StpState::Forwarding } else { StpState::Learning },
            },
        ),
        TableId::Rif => match rif(n, v, ports, true) {
            Record::Rif(k, e) if v % 4 == 2 => Record::Rif(k, RifEntry { kind: RifKind::Fid(FidId(to)), ..e }),
            r => r,
        },
        TableId::FdbStatic => Record::FdbStatic(
            StaticKey(FdbKey { fid: FidId(to), mac: Mac([2, 2, 0, 0, (n >> 8) as u8, n as u8]) }),
            match v % 4 {
                0 => FdbVerdict::Port(BridgePortId(to)),
                1 => FdbVerdict::Route(RifId(to)),
                2 => FdbVerdict::Trap(TrapClass::ToUs),
                _ => FdbVerdict::Trap(TrapClass::Punt),
            },
        ),
        TableId::Fdb => unreachable!("no agent begins with learned stations"),
        TableId::Neigh4 => Record::Neigh4(neigh_key(to, n), neigh),
        TableId::Neigh6 => Record::Neigh6(neigh_key(to, n), neigh),
        TableId::NextHop => Record::NextHop(
            NextHopId(n),
            match v % 4 {
                0 => NextHopEntry::Ip(RifId(to), IpAddr::from([10, 0, 0, n as u8])),
                1 => NextHopEntry::Ip(RifId(to), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n as u16])),
                2 => NextHopEntry::Connected(RifId(to)),
                _ => NextHopEntry::Drop(DropReason::Blackhole),
            },
        ),
        TableId::Group => {
            let members = (0..v % 3).map(|i| Member { nexthop: NextHopId(to), weight: 1 + i }).collect();
            Record::Group(GroupId(n), GroupEntry { members, mtu: v as u16 * 600, resilient: None })
        }
        TableId::Route4 => Record::Route4(prefix(n), fwd),
        TableId::Route6 => Record::Route6(prefix(n), fwd),
    }
}

/// The entry of that key that traps; `None` for tables that have no such entry.
fn trap(k: AnyKey, ports: u32) -> Option<Record> {
    Some(match k {
        AnyKey::Port(_) | AnyKey::Switch(_) | AnyKey::Neigh4(_) | AnyKey::Neigh6(_) => return None,
        AnyKey::Fid(_) | AnyKey::FidMember(_) | AnyKey::Fdb(_) | AnyKey::Bucket(_) => return None,
        AnyKey::BridgePort(k) => bridge_port(k.0, 0, None, ports, false),
        AnyKey::FdbStatic(k) => Record::FdbStatic(k, FdbVerdict::Trap(TrapClass::Punt)),
        AnyKey::Rif(k) => rif(k.0, 0, ports, false),
        AnyKey::NextHop(k) => Record::NextHop(k, NextHopEntry::Trap(TrapClass::Punt)),
        AnyKey::Group(k) => Record::Group(k, GroupEntry::default()),
        AnyKey::Route4(k) => Record::Route4(k, Fwd::Trap(TrapClass::Punt)),
        AnyKey::Route6(k) => Record::Route6(k, Fwd::Trap(TrapClass::Punt)),
    })
}

/// What a record refers to.
fn references(r: &Record) -> Vec<AnyKey> {
    let fwd = |f: &Fwd| match f {
        Fwd::Group(g) => vec![AnyKey::Group(*g)],
        Fwd::Connected(r) => vec![AnyKey::Rif(*r)],
        Fwd::Trap(_) | Fwd::Drop(_) => vec![],
    };
    match r {
        Record::Port(..) | Record::Bucket(..) | Record::Switch(..) | Record::Fid(..) => vec![],
        Record::BridgePort(_, e) => e.untagged.into_iter().map(AnyKey::from).collect(),
        Record::FidMember(k, _) => vec![k.fid.into(), k.port.into()],
        Record::Rif(_, e) => match e.kind {
            RifKind::Fid(f) => vec![f.into()],
            RifKind::Port { .. } => vec![],
        },
        Record::FdbStatic(k, v) => core::iter::once(k.0.fid.into())
            .chain(match *v {
                FdbVerdict::Port(p) => Some(p.into()),
                FdbVerdict::Route(r) => Some(r.into()),
                FdbVerdict::Trap(_) => None,
            })
            .collect(),
        Record::Fdb(k, p) => vec![k.fid.into(), (*p).into()],
        Record::Neigh4(k, _) => vec![k.rif.into()],
        Record::Neigh6(k, _) => vec![k.rif.into()],
        Record::NextHop(_, NextHopEntry::Ip(rif, _) | NextHopEntry::Connected(rif)) => vec![(*rif).into()],
        Record::NextHop(_, NextHopEntry::Trap(_) | NextHopEntry::Drop(_)) => vec![],
        Record::Group(_, g) => g.members.iter().map(|m| m.nexthop.into()).collect(),
        Record::Route4(_, f) => fwd(f),
        Record::Route6(_, f) => fwd(f),
    }
}

/// A chip with entry 1 of every table, each referring to the ones before.
fn furnished(make: Factory<'_>) -> (Box<dyn Backend>, u32) {
    let mut b = make();
    let p = ports(&*b);
    for t in settable() {
        set(&mut *b, record(t, 1, if t == TableId::Group { 2 } else { 0 }, 1, p));
    }
    (b, p)
}

// ---------------------------------------------------------------- laws

fn starts_empty(make: Factory<'_>) {
    let b = make();
    assert_eq!(dump(&*b), Dump::new(), "tables of a fresh chip");
    for u in b.usage() {
        assert_eq!(u.capacity, b.profile().capacity(u.table), "{}: usage and profile disagree", u.table);
        assert!(u.used == 0 || u.table.kind() == Kind::Learned, "{}: a fresh chip uses {}", u.table, u.used);
    }
    assert_eq!(b.usage().len(), TableId::ALL.len(), "usage of every table");
}

fn used(b: &dyn Backend, t: TableId) -> u32 {
    b.usage().iter().find(|u| u.table == t).map_or(u32::MAX, |u| u.used)
}

/// Tables of which [`record`] makes any number of entries without one more in others.
fn many(t: &TableId) -> bool {
    !matches!(t, TableId::Switch | TableId::FidMember)
}

fn capacity(make: Factory<'_>) {
    for t in settable().filter(many) {
        let (mut b, p) = furnished(make);
        let cap = b.profile().capacity(t);
        if cap > FILL {
            continue;
        }
        let have = used(&*b, t);
        for n in 0..cap - have {
            set(&mut *b, record(t, 100 + n, 3, 1, p));
        }
        assert_eq!(used(&*b, t), cap, "{t}: entries in the full table");
        let before = dump(&*b);
        let more = record(t, 100 + cap, 3, 1, p);
        assert_eq!(
            b.apply(&Op::Set(more.clone())),
            Err(Reason::TableFull { table: t, capacity: cap }),
            "{t}: one entry more than its capacity"
        );
        assert_eq!(dump(&*b), before, "{t}: after a set that found no room");
        for (v, key) in (0..4).flat_map(|v| (100..100 + cap - have).map(move |n| (v, n))) {
            set(&mut *b, record(t, key, v, 1, p));
        }
        remove(&mut *b, record(t, 100, 0, 1, p).key());
        set(&mut *b, more);
        assert_eq!(used(&*b, t), cap, "{t}: one out, one in");
    }
}

fn trap_and_remove(make: Factory<'_>) {
    let (b, p) = furnished(make);
    let all = dump(&*b);
    drop(b);
    // Every entry while everything else is there, and again in every order of rank.
    for k in all.keys() {
        let (mut b, _) = furnished(make);
        if let Some(r) = trap(*k, p) {
            set(&mut *b, r.clone());
            assert_eq!(dump(&*b).get(k), Some(&r), "{k} after it was overwritten with trap");
        }
        remove(&mut *b, *k);
        let mut want = all.clone();
        want.remove(k);
        assert_eq!(dump(&*b), want, "after {k} was removed, which others refer to");
        remove(&mut *b, *k);
    }
    for down in [false, true] {
        let (mut b, _) = furnished(make);
        let mut keys: Vec<AnyKey> = all.keys().copied().collect();
        if down {
            keys.reverse();
        }
        keys.iter().for_each(|k| remove(&mut *b, *k));
        assert_eq!(dump(&*b), Dump::new(), "after everything was removed");
        for k in keys {
            remove(&mut *b, k);
        }
    }
    // Traps still fit over what lost its reference.
    let (mut b, _) = furnished(make);
    let ups: Vec<AnyKey> = all.keys().copied().collect();
    for k in &ups {
        if !matches!(k.table(), TableId::Route4 | TableId::Route6) {
            remove(&mut *b, *k);
        }
    }
    for k in ups {
        if let (TableId::Route4 | TableId::Route6, Some(r)) = (k.table(), trap(k, p)) {
            set(&mut *b, r);
        }
    }
}

fn revival(make: Factory<'_>) {
    let (mut b, _) = furnished(make);
    let all = dump(&*b);
    for _ in 0..3 {
        for k in all.keys() {
            remove(&mut *b, *k);
            set(&mut *b, all[k].clone());
            assert_eq!(dump(&*b), all, "after {k} was removed and set again");
        }
    }
    // All that others refer to at once, back in the order of rank.
    for _ in 0..100 {
        let gone: Vec<&AnyKey> = all.keys().filter(|k| k.table().rank() < TableId::Route4.rank()).collect();
        gone.iter().for_each(|k| remove(&mut *b, **k));
        for t in settable() {
            for k in gone.iter().filter(|k| k.table() == t) {
                set(&mut *b, all[*k].clone());
            }
        }
        assert_eq!(dump(&*b), all, "after everything below the routes was removed and set again");
    }
}

fn rejected_leaves_old(make: Factory<'_>) {
    let (mut b, p) = furnished(make);
    let before = dump(&*b);
    for t in settable() {
        for v in 0..4 {
            let bad = record(t, 1, v, 77, p);
            if references(&bad).is_empty() || !before.contains_key(&bad.key()) {
                continue;
            }
            assert!(b.apply(&Op::Set(bad.clone())).is_err(), "{bad:?} refers to nothing");
            assert_eq!(dump(&*b), before, "after {bad:?} was refused");
        }
    }
}

fn missing_reference(make: Factory<'_>) {
    for t in settable() {
        let (mut b, p) = furnished(make);
        for v in 0..4 {
            let bad = record(t, 2, v, 77, p);
            let Some(missing) = references(&bad).first().copied() else { continue };
            assert_eq!(b.apply(&Op::Set(bad.clone())), Err(Reason::MissingRef(missing)), "{bad:?}");
        }
    }
    // A neighbour is no reference of a next hop.
    let mut b = make();
    let p = ports(&*b);
    set(&mut *b, rif(1, 0, p, true));
    set(&mut *b, record(TableId::NextHop, 5, 0, 1, p));
    assert_eq!(used(&*b, TableId::Neigh4), 0, "a next hop is no neighbour");
    assert_eq!(dump(&*b).len(), 2);
}

fn read_only(make: Factory<'_>) {
    let mut b = make();
    let mut out = Vec::new();
    b.dump(TableId::Port, 0, 1, &mut out);
    for r in out {
        let k = r.key();
        assert_eq!(b.apply(&Op::Set(r)), Err(Reason::ReadOnly(TableId::Port)));
        assert_eq!(b.apply(&Op::Remove(k)), Err(Reason::ReadOnly(TableId::Port)));
    }
}

fn paging(make: Factory<'_>) {
    for t in settable().filter(many) {
        let (mut b, p) = furnished(make);
        let room = b.profile().capacity(t) - used(&*b, t);
        let n = room.min(40);
        for i in 0..n {
            set(&mut *b, record(t, 100 + i, 3, 1, p));
        }
        let all = dump_table(&*b, t, 1_000);
        for page in [1, 2, 7, 41] {
            assert_eq!(dump_table(&*b, t, page), all, "{t} in pages of {page}");
        }
        // Odd entries come and go while the dump goes on; even ones stay.
        let stays = |k: &AnyKey| (0..n).any(|i| i % 2 == 0 && record(t, 100 + i, 3, 1, p).key() == *k);
        let (mut seen, mut cursor, mut step) = (BTreeMap::<AnyKey, u32>::new(), Some(0), 0);
        while let Some(c) = cursor {
            let mut out = Vec::new();
            cursor = b.dump(t, c, 3, &mut out);
            for r in out {
                *seen.entry(r.key()).or_default() += 1;
            }
            for i in (1..n).step_by(2) {
                let r = record(t, 100 + i, 3, 1, p);
                if (i / 2 + step) % 2 == 0 { remove(&mut *b, r.key()) } else { set(&mut *b, r) }
            }
            step += 1;
            assert!(step < 10_000, "{t}: a dump that does not end");
        }
        for k in all.keys().filter(|k| stays(k)) {
            assert_eq!(seen.get(k), Some(&1), "{k} was there during the whole dump");
        }
    }
}

fn virtual_routers(make: Factory<'_>) {
    let (mut b, p) = furnished(make);
    let route = |vrf: u32, n| Record::Route4(RouteKey { vrf: VrfId(vrf), ..prefix(n) }, Fwd::Trap(TrapClass::Punt));
    let open = |vrf: u32, open| match rif(1, 0, p, open) {
        Record::Rif(k, e) => Record::Rif(k, RifEntry { vrf: VrfId(vrf), ..e }),
        r => r,
    };
    let room = b.profile().vrfs.saturating_sub(1);
    // The same prefix in each is an entry of its own; numbers are the agent's to choose.
    let names: Vec<u32> = (0..room.min(FILL)).map(|i| u32::MAX - 3 * i).collect();
    let fits = (b.profile().routes4 - used(&*b, TableId::Route4)) as usize;
    for vrf in names.iter().take(fits) {
        set(&mut *b, route(*vrf, 1));
        assert!(dump(&*b).contains_key(&route(*vrf, 1).key()), "{:?}", route(*vrf, 1));
    }
    if room > FILL || fits < names.len() {
        return;
    }
    let before = dump(&*b);
    for more in [route(77, 1), open(77, true)] {
        let refused = b.apply(&Op::Set(more.clone()));
        assert!(matches!(refused, Err(Reason::Unsupported(_))), "{more:?}, one virtual router too many: {refused:?}");
    }
    assert_eq!(dump(&*b), before, "after virtual routers that found no room");
    // What is closed needs none.
    set(&mut *b, open(77, false));
    remove(&mut *b, route(77, 1).key());
    let Some(last) = names.last() else { return };
    remove(&mut *b, route(*last, 1).key());
    set(&mut *b, open(77, true));
    set(&mut *b, route(77, 1));
}

/// Where each bucket of a group leads; panics unless they are numbered without a gap.
fn layout(b: &dyn Backend, group: GroupId) -> Vec<u32> {
    let mut of: Vec<(u16, u32)> = Vec::new();
    for r in dump_table(b, TableId::Bucket, 7).into_values() {
        let Record::Bucket(k, e) = r else { panic!("{r:?}") };
        if k.group == group {
            of.push((k.index, e.nexthop.0));
        }
    }
    assert!(of.iter().zip(0..).all(|((n, _), i)| *n == i), "buckets of group {group}: {of:?}");
    of.into_iter().map(|(_, n)| n).collect()
}

fn buckets(make: Factory<'_>) {
    let (mut b, p) = furnished(make);
    let room = b.profile().buckets;
    let group = |members: &[(u32, u32)], buckets: u16| {
        let members = members.iter().map(|&(n, weight)| Member { nexthop: NextHopId(n), weight }).collect();
        let resilient = Some(Resilient { buckets, idle: 1000, unbalanced: 0, label: 7 });
        Record::Group(GroupId(1), GroupEntry { members, mtu: 0, resilient })
    };
    if room < 12 {
        assert!(
            b.apply(&Op::Set(group(&[(1, 1)], 12))).is_err(),
            "a resilient group of a chip that has no room for it"
        );
        return;
    }
    [2, 3].into_iter().for_each(|n| set(&mut *b, record(TableId::NextHop, n, 2, 1, p)));
    let has = |l: &[u32]| [1, 2, 3].map(|n| l.iter().filter(|x| **x == n).count());
    set(&mut *b, group(&[(1, 1), (2, 1), (3, 1)], 12));
    let first = layout(&*b, GroupId(1));
    assert_eq!((has(&first), used(&*b, TableId::Bucket)), ([4, 4, 4], 12), "equal shares");
    set(&mut *b, group(&[(1, 2), (2, 2), (3, 2)], 12));
    assert_eq!(layout(&*b, GroupId(1)), first, "after nothing changed");
    set(&mut *b, group(&[(1, 1), (3, 1)], 12));
    let lost = layout(&*b, GroupId(1));
    assert_eq!(has(&lost), [6, 0, 6], "after a member was lost");
    assert!(lost.iter().zip(&first).all(|(now, was)| *was == 2 || now == was), "others moved: {first:?}, {lost:?}");
    // No packet was in any, so that all are idle.
    set(&mut *b, group(&[(1, 1), (2, 2), (3, 3)], 12));
    let back = layout(&*b, GroupId(1));
    assert_eq!(has(&back), [2, 4, 6], "after a member came");
    assert!(back.iter().zip(&lost).all(|(now, was)| now == was || *now == 2), "others moved: {lost:?}, {back:?}");
    for s in 1..5 {
        b.poll(s * 10_000_000_000, &mut Vec::new());
    }
    assert_eq!(layout(&*b, GroupId(1)), back, "moved in balance, by time alone");
    // A next hop that is removed and set again has its buckets; so it has when a set was refused.
    remove(&mut *b, NextHopId(2).into());
    assert!(b.apply(&Op::Set(group(&[(1, 1), (2, 1)], 12))).is_err(), "next hop 2 is not there");
    set(&mut *b, record(TableId::NextHop, 2, 2, 1, p));
    assert_eq!(layout(&*b, GroupId(1)), back, "after a next hop was removed and set again");
    if let Ok(more) = u16::try_from(room + 1) {
        let full = Reason::TableFull { table: TableId::Bucket, capacity: room };
        assert_eq!(b.apply(&Op::Set(group(&[(1, 1)], more))), Err(full), "more buckets than there are");
        assert_eq!(layout(&*b, GroupId(1)), back, "after a set that found no room");
    }
    assert!(b.apply(&Op::Set(group(&[(1, 1)], 0))).is_err(), "a resilient group without buckets");
    for k in dump_table(&*b, TableId::Bucket, 100).into_keys() {
        assert_eq!(b.apply(&Op::Remove(k)), Err(Reason::ReadOnly(TableId::Bucket)));
    }
    set(&mut *b, group(&[(1, 1), (2, 1)], 5));
    assert_eq!(layout(&*b, GroupId(1)).len(), 5, "fewer buckets");
    for (n, trap) in [record(TableId::Group, 1, 2, 1, p), group(&[], 5)].into_iter().enumerate() {
        set(&mut *b, group(&[(1, 1), (2, 1)], 12));
        set(&mut *b, trap);
        assert_eq!(used(&*b, TableId::Bucket), 0, "of what is no resilient group, or has no member ({n})");
    }
    set(&mut *b, group(&[(1, 1), (2, 1)], 12));
    remove(&mut *b, GroupId(1).into());
    assert_eq!((used(&*b, TableId::Bucket), layout(&*b, GroupId(1)).len()), (0, 0), "after the group was removed");
}

/// SplitMix64: the suite needs variety, not quality, and the same at each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(below.max(1))) as u32
    }
}

fn model(make: Factory<'_>) {
    let tables: Vec<TableId> = settable().collect();
    for seed in 0..8 {
        let mut b = make();
        let p = ports(&*b);
        let mut dice = Dice(seed);
        let mut want = Dump::new();
        for step in 0..3_000 {
            let t = tables[dice.roll(tables.len() as u32) as usize];
            let cap = b.profile().capacity(t);
            let r = record(t, dice.roll(cap.min(40) + 3), dice.roll(4), dice.roll(6), p);
            let k = r.key();
            if dice.roll(5) == 0 {
                remove(&mut *b, k);
                want.remove(&k);
                continue;
            }
            let missing: Vec<AnyKey> = references(&r).into_iter().filter(|k| !want.contains_key(k)).collect();
            let count = want.keys().filter(|k| k.table() == t).count() as u32;
            let full = !want.contains_key(&k) && count >= cap;
            match b.apply(&Op::Set(r.clone())) {
                Ok(()) => {
                    assert!(
                        missing.is_empty() && !full,
                        "seed {seed} step {step}: {r:?} was taken; missing {missing:?}"
                    );
                    want.insert(k, r);
                }
                Err(Reason::MissingRef(k)) => assert!(missing.contains(&k), "seed {seed} step {step}: {r:?}: {k}"),
                Err(Reason::TableFull { table, capacity }) => {
                    assert_eq!((table, capacity, full), (t, cap, true), "seed {seed} step {step}: {r:?}");
                }
                Err(Reason::Busy) => {}
                Err(why) => panic!("seed {seed} step {step}: {r:?} was refused: {why}"),
            }
            if step % 100 == 0 {
                assert_eq!(dump(&*b), want, "seed {seed} step {step}");
            }
        }
        assert_eq!(dump(&*b), want, "seed {seed} at the end");
        for u in b.usage().into_iter().filter(|u| u.table.kind() != Kind::Learned) {
            let n = want.keys().filter(|k| k.table() == u.table).count() as u32;
            assert_eq!(u.used, n, "seed {seed}: usage of {}", u.table);
        }
    }
}
