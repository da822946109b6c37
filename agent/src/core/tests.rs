//! The whole core against the simulated chip and a kernel made of bytes: whatever the chip refuses, it never forwards what
//! the kernel would treat otherwise; a restart changes nothing; a recording replays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use hal::{Backend, FromChip, Fwd, GroupEntry, Hello, Mac, NextHopEntry, Op, Record, Rejected, TableId, ToChip};
use proptest::prelude::*;
use sim_asic::SimChip;
use sim_asic::fault::{Faults, Faulty};

use super::*;
use crate::input::{DumpKind, Listed};
use crate::netlink::build::Builder;
use crate::record::{JournalError, Recorder, replay};

mod answers;
mod audit;
mod bridges;
mod objects;
mod vrfs;

const NETNS: u64 = 4026;
/// Ifindex of the first port; the others follow.
const PORT: u32 = 11;
const PORTS: u32 = 3;
/// A device that is no port.
const ETH0: u32 = 2;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum To {
    Gateways(Vec<(u32, Ipv4Addr, u32)>),
    OnLink(u32),
    Elsewhere,
    Blackhole,
    Unreachable,
}

type Route = (Prefix<V4>, u32);

/// A kernel that only knows how to answer.
#[derive(Default)]
struct Kernel {
    routes: BTreeMap<Route, To>,
    neighs: BTreeMap<(u32, Ipv4Addr), Option<Mac>>,
    up: BTreeSet<u32>,
    /// Messages of other kinds of objects.
    objects: Vec<Vec<u8>>,
}

fn link(i: u32, up: bool) -> Vec<u8> {
    let name = if i == ETH0 { "eth0".to_owned() } else { format!("swp{}", i - PORT + 1) };
    let mut head = vec![0, 0, 1, 0];
    head.extend(i.to_ne_bytes());
    head.extend((if up { 0x11043u32 } else { 0x1002 }).to_ne_bytes());
    head.extend(0u32.to_ne_bytes());
    let mut inet6 = Vec::new();
    crate::netlink::build::push_attr(&mut inet6, 2, &[0u32, 64, 1500].map(u32::to_ne_bytes).concat());
    let mut spec = Vec::new();
    crate::netlink::build::push_attr(&mut spec, 10, &inet6);
    Builder::new(16, 0, &head)
        .attr(3, format!("{name}\0").as_bytes())
        .attr(1, &mac(i).0)
        .u32(4, 1500)
        .attr(33, &[u8::from(up)])
        .attr(26, &spec)
        .done()
}

fn mac(i: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, i as u8])
}

fn own(i: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, i as u8, 1)
}

fn netconf(i: i32) -> Vec<u8> {
    Builder::new(80, 0, &[2]).u32(1, i as u32).u32(2, 1).u32(3, 0).u32(6, 0).done()
}

fn rule(family: u8, priority: u32, table: u8) -> Vec<u8> {
    let b = Builder::new(32, 0, &[family, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]).u32(15, table.into());
    // FRA_SUPPRESS_PREFIXLEN, FRA_PROTOCOL
    let b = b.u32(14, u32::MAX).attr(21, &[2]);
    if priority == 0 { b.done() } else { b.u32(6, priority).done() }
}

fn route(kind: u16, flags: u16, (p, metric): &Route, to: &To) -> Vec<u8> {
    let rtn = match to {
        To::Blackhole => 6,
        To::Unreachable => 7,
        _ => 1,
    };
    let scope = if matches!(to, To::OnLink(_)) { 253 } else { 0 };
    let head = [2, p.len(), 0, 0, 254, 4, scope, rtn, 0, 0, 0, 0];
    let mut b = Builder::new(kind, flags, &head).u32(15, 254);
    if p.len() > 0 {
        b = b.addr(1, p.addr().into());
    }
    if *metric != 0 {
        b = b.u32(6, *metric);
    }
    match to {
        To::Gateways(g) if g.len() == 1 => b.addr(5, g[0].1.into()).u32(4, g[0].0).done(),
        To::Gateways(g) => {
            let mut hops = Vec::new();
            for (dev, gw, weight) in g {
                hops.extend(16u16.to_ne_bytes());
                hops.extend([0, (*weight - 1) as u8]);
                hops.extend(dev.to_ne_bytes());
                crate::netlink::build::push_attr(&mut hops, 5, &gw.octets());
            }
            b.attr(9, &hops).done()
        }
        To::OnLink(dev) => b.u32(4, *dev).done(),
        To::Elsewhere => b.u32(4, ETH0).done(),
        To::Blackhole | To::Unreachable => b.done(),
    }
}

fn neigh(kind: u16, (i, a): (u32, Ipv4Addr), lladdr: Option<Mac>) -> Vec<u8> {
    let state: u16 = if lladdr.is_some() { 2 } else { 0x20 };
    let mut head = vec![2, 0, 0, 0];
    head.extend(i.to_ne_bytes());
    head.extend(state.to_ne_bytes());
    head.extend([0, 1]);
    let b = Builder::new(kind, 0, &head).addr(1, a.into());
    match lladdr {
        Some(m) => b.attr(2, &m.0).done(),
        None => b.done(),
    }
}

impl Kernel {
    fn dump(&self, kind: DumpKind) -> Vec<u8> {
        let devices = || std::iter::once(ETH0).chain(PORT..PORT + PORTS);
        match kind {
            DumpKind::Link => {
                let own: Vec<&Vec<u8>> = self.objects.iter().filter(|m| m[4] == 16).collect();
                let plain = devices().filter(|i| own.iter().all(|m| m[20..24] != i.to_ne_bytes()));
                let plain = plain.flat_map(|i| link(i, i == ETH0 || self.up.contains(&i)));
                plain.chain(own.iter().flat_map(|m| m.iter().copied())).collect()
            }
            DumpKind::Netconf => devices().map(|i| i as i32).chain([-1]).flat_map(netconf).collect(),
            DumpKind::Addr => (PORT..PORT + PORTS)
                .flat_map(|i| {
                    let head = [[2, 24, 0x80, 0], i.to_ne_bytes()].concat();
                    Builder::new(20, 0, &head).addr(1, own(i).into()).addr(2, own(i).into()).done()
                })
                .collect(),
            DumpKind::Neigh => self.neighs.iter().flat_map(|(k, m)| neigh(28, *k, *m)).collect(),
            DumpKind::Rule => {
                [rule(2, 0, 255), rule(2, 32766, 254), rule(2, 32767, 253), rule(10, 0, 255), rule(10, 32766, 254)]
                    .concat()
            }
            DumpKind::List6 | DumpKind::Vlan => Vec::new(),
            DumpKind::Fdb => self.objects.iter().filter(|m| m[4] == 28).flatten().copied().collect(),
            DumpKind::Route4 => {
                let own = self.objects.iter().filter(|m| m[4] == 24).flatten().copied();
                self.routes.iter().flat_map(|(k, to)| route(24, 2, k, to)).chain(own).collect()
            }
            DumpKind::NextHop => self.objects.iter().filter(|m| m[4] == 104).flatten().copied().collect(),
            DumpKind::Route6 => Vec::new(),
        }
    }

    fn winner(&self, p: Prefix<V4>) -> Option<&To> {
        self.routes.range((p, 0)..=(p, u32::MAX)).next().map(|(_, to)| to)
    }

    /// What the kernel does with a packet to `a`, in the terms of [`Fate`].
    fn fate(&self, a: Ipv4Addr) -> Fate {
        if (PORT..PORT + PORTS).any(|i| own(i) == a) {
            return Fate::Trap;
        }
        match (0..=32).rev().find_map(|l| self.winner(Prefix::new(a, l))) {
            None | Some(To::Elsewhere | To::Unreachable) => Fate::Trap,
            Some(To::Blackhole) => Fate::Drop,
            Some(To::OnLink(i)) => Fate::Out(vec![(*i, None, 1)]),
            Some(To::Gateways(g)) => {
                let gcd = |mut a: u32, mut b: u32| {
                    while b != 0 {
                        (a, b) = (b, a % b);
                    }
                    a
                };
                let d = g.iter().fold(0, |d, (_, _, w)| gcd(d, *w));
                Fate::Out(g.iter().map(|(i, gw, w)| (*i, Some(IpAddr::V4(*gw)), w / d)).collect())
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Trap,
    Drop,
    Out(Vec<(u32, Option<IpAddr>, u32)>),
}

struct Lab {
    core: Core,
    kernel: Kernel,
    chip: Faulty<SimChip>,
    faults: Arc<Mutex<Faults>>,
    boot_id: u64,
    now: Nanos,
    seq: u64,
    todo: VecDeque<Output>,
    replies: BTreeMap<u64, Reply>,
    /// Operations that the chip was asked for.
    ops: usize,
    requests: Vec<Vec<u8>>,
    findings: Vec<Finding>,
    /// Sysctls beyond the ports' MTUs.
    sysctls: Vec<(String, String)>,
    /// Rules beyond the default ones.
    odd_rules: Vec<u8>,
    /// The kernel's.
    release: (u32, u32),
    journal: Option<Recorder<Vec<u8>>>,
}

fn profile() -> Profile {
    Profile {
        name: "test".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 16,
        neigh4: 64,
        neigh6: 64,
        nexthops: 64,
        groups: 64,
        group_members: 8,
        buckets: 0,
        routes4: 1024,
        routes6: 1024,
        vrfs: 1,
        rules: 8,
        frame: 9216,
    }
}

impl Lab {
    fn new(profile: Profile) -> Lab {
        let mut sim = SimChip::with_seed(profile, PORTS as usize, 1);
        for n in 0..PORTS {
            sim.set_port(PortId(n), port(n, NETNS));
        }
        let (chip, faults) = Faulty::new(sim);
        let cfg = CoreConfig { audit: 0, ..CoreConfig::new(NETNS) };
        let journal = Recorder::new(Vec::new(), &cfg).ok();
        let mut kernel = Kernel::default();
        kernel.up.extend(PORT..PORT + PORTS);
        Lab {
            core: Core::new(cfg),
            kernel,
            chip,
            faults,
            boot_id: 7,
            now: 1,
            seq: 0,
            todo: VecDeque::new(),
            replies: BTreeMap::new(),
            ops: 0,
            requests: Vec::new(),
            findings: Vec::new(),
            sysctls: Vec::new(),
            odd_rules: Vec::new(),
            release: (6, 18),
            journal,
        }
    }

    fn input(&mut self, i: Input) {
        if let Some(j) = &mut self.journal {
            j.input(self.now, &i).unwrap();
        }
        self.core.handle(self.now, i);
        while let Some(o) = self.core.next() {
            if let Some(j) = &mut self.journal {
                j.output(&o).unwrap();
            }
            self.todo.push_back(o);
        }
    }

    fn hello(&mut self) {
        let profile = self.chip.profile().clone();
        let hello = Hello { version: hal::bus::VERSION, boot_id: self.boot_id, profile, about: String::new() };
        self.input(Input::Chip(FromChip::Hello(Box::new(hello))));
    }

    fn news(&mut self, buf: Vec<u8>) {
        self.seq += 1;
        self.input(Input::Monitor { seq: self.seq, buf });
    }

    fn set_route(&mut self, r: Route, to: To) {
        // Without NLM_F_REPLACE the kernel refuses an equal prefix and metric.
        let replaced = self.kernel.routes.insert(r, to.clone()).is_some();
        self.news(route(24, if replaced { 0x100 } else { 0x600 }, &r, &to));
    }

    fn remove_route(&mut self, r: Route) {
        if let Some(to) = self.kernel.routes.remove(&r) {
            self.news(route(25, 0, &r, &to));
        }
    }

    fn set_neigh(&mut self, k: (u32, Ipv4Addr), lladdr: Option<Mac>) {
        self.kernel.neighs.insert(k, lladdr);
        self.news(neigh(28, k, lladdr));
    }

    /// Do one thing that the core asked for.
    fn step(&mut self) -> bool {
        let Some(o) = self.todo.pop_front() else { return false };
        match o {
            Output::Dump { id, kind } => {
                let mut buf = self.kernel.dump(kind);
                if kind == DumpKind::Rule {
                    buf.extend(&self.odd_rules);
                }
                self.input(Input::Dump { id, kind, seq: self.seq, buf });
                self.input(Input::DumpEnd { id, kind, complete: true });
            }
            Output::Request { id, message } => {
                self.requests.push(message);
                self.input(Input::Ack { id, errno: 0, message: String::new() });
            }
            Output::Fence { id } => self.input(Input::Fence { id }),
            Output::Poll { ports } => {
                let mtus = ports.iter().map(|p| (format!("ipv6/conf/{}/mtu", p.name), "1500".into()));
                let sysctls = mtus.chain(self.sysctls.clone()).collect();
                let findings = self.findings.clone();
                self.input(Input::Polled(Box::new(Polled {
                    ports,
                    sysctls,
                    findings,
                    release: self.release,
                    ..Polled::default()
                })));
            }
            Output::Chip(m) => self.chip_does(m),
            Output::Reply { id, reply } => drop(self.replies.insert(id, reply)),
        }
        true
    }

    fn chip_does(&mut self, m: ToChip) {
        let answer = match m {
            ToChip::Hello { .. } => return,
            ToChip::Batch { id, ops } => {
                self.ops += ops.len();
                let refused = |(i, op): (usize, &Op)| Some(Rejected { op: i as u32, why: self.chip.apply(op).err()? });
                FromChip::Done { id, rejected: ops.iter().enumerate().filter_map(refused).collect() }
            }
            ToChip::Dump { id, table, cursor } => {
                let mut records = Vec::new();
                let next = self.chip.dump(table, cursor, 7, &mut records);
                FromChip::Records { id, records, next }
            }
            ToChip::Active { id, table, cursor } => {
                let mut keys = Vec::new();
                let next = self.chip.active(table, cursor, 100, &mut keys);
                FromChip::Active { id, keys, next }
            }
            ToChip::Stats { id } => {
                let counters = Box::new(self.chip.counters());
                FromChip::Stats { id, counters, usage: self.chip.usage() }
            }
        };
        self.input(Input::Chip(answer));
    }

    /// Everything that needs no time to pass.
    fn run(&mut self) {
        for _ in 0..100_000 {
            let due = self.core.deadline().is_some_and(|d| d <= self.now);
            if !self.step() {
                if !due {
                    return;
                }
                self.input(Input::Tick);
            }
        }
        panic!("the core never rests; it waits for {:?}", self.core.waits_for());
    }

    fn ask(&mut self, request: Request) -> serde_json::Value {
        self.seq += 1;
        let id = 1_000_000 + self.seq;
        self.input(Input::Request { id, request });
        for _ in 0..2_000 {
            self.run();
            match self.replies.remove(&id) {
                Some(Reply::Json(s)) | Some(Reply::Page { json: s, .. }) => return serde_json::from_str(&s).unwrap(),
                Some(Reply::Error(e)) => panic!("{e}"),
                None => {}
            }
            self.now = self.core.deadline().expect("something is due while it waits").max(self.now);
            self.input(Input::Tick);
        }
        panic!("no answer; the core waits for {:?}", self.core.waits_for());
    }

    fn settle(&mut self) {
        let v = self.ask(Request::Settle);
        assert_eq!(v["settled"], true);
    }

    fn table(&self, t: TableId) -> Vec<Record> {
        let (mut all, mut at) = (Vec::new(), Some(0));
        while let Some(cursor) = at {
            at = self.chip.dump(t, cursor, 1000, &mut all);
        }
        all
    }

    /// What the chip would do with a packet to an address, from its own tables.
    fn view(&self) -> View {
        let mut v = View::default();
        for r in TableId::ALL.iter().flat_map(|t| self.table(*t)) {
            match r {
                Record::Route4(k, f) => drop(v.routes.insert(k.prefix, f)),
                Record::Group(k, e) => drop(v.groups.insert(k, e)),
                Record::NextHop(k, e) => drop(v.nexthops.insert(k, e)),
                Record::Rif(k, e) if e.egress => drop(v.open.insert(k.0)),
                Record::Neigh4(k, e) => drop(v.neighs.insert((k.rif.0, k.addr), e.mac)),
                _ => {}
            }
        }
        v
    }

    /// Right or trapped, everywhere; with `exact`, right everywhere.
    fn compare(&self, exact: bool) {
        let v = self.view();
        let prefixes = self.kernel.routes.keys().map(|(p, _)| *p).chain(v.routes.keys().copied());
        let probes: BTreeSet<u32> = prefixes
            .flat_map(|p| {
                let (a, b) = (p.addr().to_bits(), p.last().to_bits());
                [a, b, a.wrapping_sub(1), b.wrapping_add(1)]
            })
            .chain((PORT..PORT + PORTS).map(|i| own(i).to_bits()))
            .collect();
        for a in probes.into_iter().map(Ipv4Addr::from_bits) {
            let (is, should) = (v.fate(a), self.kernel.fate(a));
            // A member that found no room is a trap, and the rest of its group forwards.
            let part = matches!((&is, &should), (Fate::Out(x), Fate::Out(y)) if x.iter().all(|m| y.contains(m)));
            if exact || !(is == Fate::Trap || part) {
                assert_eq!(is, should, "{a}: {:?} {:?}", v.routes, v.groups);
            }
        }
        for (k, m) in &v.neighs {
            assert_eq!(self.kernel.neighs.get(k).copied().flatten(), Some(*m), "{k:?}");
        }
        if exact {
            let usable = self.kernel.neighs.iter().filter(|(_, m)| m.is_some()).count();
            assert_eq!(v.neighs.len(), usable);
            assert_eq!(v.open.len(), PORTS as usize);
        }
    }
}

#[derive(Default)]
struct View {
    routes: BTreeMap<Prefix<V4>, Fwd>,
    groups: BTreeMap<hal::GroupId, GroupEntry>,
    nexthops: BTreeMap<hal::NextHopId, NextHopEntry>,
    neighs: BTreeMap<(u32, Ipv4Addr), Mac>,
    open: BTreeSet<u32>,
}

impl View {
    fn fate(&self, a: Ipv4Addr) -> Fate {
        match (0..=32).rev().find_map(|l| self.routes.get(&Prefix::new(a, l))) {
            None | Some(Fwd::Trap(_)) => Fate::Trap,
            Some(Fwd::Drop(_)) => Fate::Drop,
            Some(Fwd::Connected(r)) => Fate::Out(vec![(r.0, None, 1)]),
            Some(Fwd::Group(g)) => {
                let Some(e) = self.groups.get(g) else { return Fate::Trap };
                let out = e.members.iter().filter_map(|m| match self.nexthops.get(&m.nexthop)? {
                    NextHopEntry::Ip(r, gw) => Some((r.0, Some(*gw), m.weight)),
                    NextHopEntry::Connected(r) => Some((r.0, None, m.weight)),
                    NextHopEntry::Trap(_) | NextHopEntry::Drop(_) => None,
                });
                let out: Vec<_> = out.collect();
                if out.is_empty() { Fate::Trap } else { Fate::Out(out) }
            }
        }
    }
}

fn port(n: u32, netns: u64) -> PortEntry {
    PortEntry::sound(format!("swp{}", n + 1), PORT + n, netns, mac(PORT + n))
}

fn prefix() -> impl Strategy<Value = Prefix<V4>> {
    (0u32..16, 0u8..=6).prop_map(|(n, len)| Prefix::new((n << 28 | n << 26).into(), len))
}

fn gateway() -> impl Strategy<Value = (u32, Ipv4Addr, u32)> {
    (0..PORTS, 2u8..5, 1u32..4).prop_map(|(p, h, w)| (PORT + p, Ipv4Addr::new(10, 200, (PORT + p) as u8, h), w))
}

fn to() -> impl Strategy<Value = To> {
    prop_oneof![
        4 => gateway().prop_map(|(i, g, _)| To::Gateways(vec![(i, g, 1)])),
        3 => proptest::collection::vec(gateway(), 2..4).prop_map(To::Gateways),
        2 => (0..PORTS).prop_map(|p| To::OnLink(PORT + p)),
        1 => Just(To::Elsewhere),
        1 => Just(To::Blackhole),
        1 => Just(To::Unreachable),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Set(Prefix<V4>, u32, To),
    Remove(Prefix<V4>, u32),
    Neigh(u32, u8, Option<u8>),
    Work(usize),
    Settle,
    Overrun,
    ChipLost,
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (prefix(), 0u32..3, to()).prop_map(|(p, m, t)| Step::Set(p, m, t)),
        6 => (prefix(), 0u32..3).prop_map(|(p, m)| Step::Remove(p, m)),
        3 => (0..PORTS, 2u8..5, proptest::option::of(1u8..3)).prop_map(|(p, h, m)| Step::Neigh(PORT + p, h, m)),
        5 => (1usize..8).prop_map(Step::Work),
        2 => Just(Step::Settle),
        1 => Just(Step::Overrun),
        1 => Just(Step::ChipLost),
        1 => Just(Step::Restart),
    ]
}

/// Capacities of routes, groups, next hops, neighbours and interfaces, and how often the chip is busy.
fn faults() -> impl Strategy<Value = (BTreeMap<TableId, u32>, u32)> {
    let full = proptest::collection::btree_map(
        prop_oneof![
            3 => Just((TableId::Route4, 0u32..12)),
            2 => Just((TableId::Group, 0u32..5)),
            2 => Just((TableId::NextHop, 0u32..5)),
            1 => Just((TableId::Neigh4, 0u32..3)),
            1 => Just((TableId::Rif, 0u32..3)),
        ]
        .prop_flat_map(|(t, r)| (Just(t), r)),
        Just(()),
        0..3,
    );
    let full = full.prop_map(|m| m.into_keys().collect::<BTreeMap<_, _>>());
    (full, prop_oneof![2 => Just(0u32), 1 => 5u32..12])
}

fn play(lab: &mut Lab, steps: Vec<Step>, exact: bool) {
    for s in steps {
        match s {
            Step::Set(p, m, t) => lab.set_route((p, m), t),
            Step::Remove(p, m) => lab.remove_route((p, m)),
            Step::Neigh(i, h, m) => {
                let key = (i, Ipv4Addr::new(10, 200, i as u8, h));
                lab.set_neigh(key, m.map(|m| Mac([2, 1, 0, 0, 0, m])));
            }
            Step::Work(n) => {
                for _ in 0..n {
                    lab.step();
                }
            }
            Step::Settle => {
                lab.settle();
                lab.compare(exact);
            }
            Step::Overrun => lab.input(Input::Overrun),
            Step::ChipLost => {
                lab.input(Input::ChipLost("test".into()));
                // What was on its way to the chip may or may not have arrived; its answers are lost.
                let mut rest = VecDeque::new();
                for o in std::mem::take(&mut lab.todo) {
                    match o {
                        Output::Chip(ToChip::Batch { ops, .. }) => ops.iter().for_each(|op| drop(lab.chip.apply(op))),
                        Output::Chip(_) => {}
                        o => rest.push_back(o),
                    }
                }
                lab.todo = rest;
                lab.hello();
            }
            Step::Restart => {
                lab.todo.clear();
                lab.core = Core::new(CoreConfig { audit: 0, ..CoreConfig::new(NETNS) });
                lab.journal = None;
                lab.input(Input::Tick);
                lab.hello();
            }
        }
    }
    lab.settle();
    lab.compare(exact);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chip_with_room_is_exact(steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut lab = Lab::new(profile());
        lab.input(Input::Tick);
        lab.hello();
        play(&mut lab, steps, true);
        let v = lab.ask(Request::Check);
        prop_assert_eq!(&v["equal"], true, "{}", v);
        prop_assert_eq!(lab.core.totals.repairs, 0);
    }

    #[test]
    fn a_chip_without_room_is_right_or_traps(
        (full, busy) in faults(),
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let mut lab = Lab::new(profile());
        {
            let mut f = lab.faults.lock().unwrap();
            f.full_at = full;
            f.busy_every = busy;
        }
        lab.input(Input::Tick);
        lab.hello();
        play(&mut lab, steps, false);
        let v = lab.ask(Request::Check);
        prop_assert_eq!(&v["equal"], true, "{}", v);
    }
}

#[test]
fn a_default_route_from_a_dump() {
    let mut lab = Lab::new(profile());
    lab.kernel.routes.insert((Prefix::all(), 0), To::Gateways(vec![(11, Ipv4Addr::new(10, 200, 11, 2), 1)]));
    lab.input(Input::Tick);
    lab.hello();
    lab.settle();
    let v = lab.ask(Request::Routes { cursor: 0, max: 1000 });
    let s = lab.ask(Request::Status);
    assert!(lab.view().routes.contains_key(&Prefix::all()), "{v} {s}");
    lab.compare(true);
}

fn a_few_routes(lab: &mut Lab) {
    lab.input(Input::Tick);
    lab.hello();
    let gw = |i: u32, h| (i, Ipv4Addr::new(10, 200, i as u8, h), 1);
    for i in 0..40u32 {
        let to = match i % 4 {
            0 => To::Gateways(vec![gw(11, 2)]),
            1 => To::Gateways(vec![gw(11, 2), gw(12, 3)]),
            2 => To::OnLink(13),
            _ => To::Elsewhere,
        };
        lab.set_route((Prefix::new((0xc000_0000 + (i << 8)).into(), 24), 0), to);
    }
    lab.set_neigh((11, Ipv4Addr::new(10, 200, 11, 2)), Some(mac(99)));
    lab.settle();
    lab.compare(true);
}

#[test]
fn a_restarted_agent_writes_nothing_and_a_restarted_chip_gets_all() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    let before: Vec<_> = TableId::ALL.iter().flat_map(|t| lab.table(*t)).collect();
    lab.ops = 0;
    play(&mut lab, vec![Step::Restart], true);
    assert_eq!(lab.ops, 0, "the difference is empty");
    assert_eq!(TableId::ALL.iter().flat_map(|t| lab.table(*t)).collect::<Vec<_>>(), before);

    // One route went and one changed while no agent ran: two operations, and what hangs on them.
    lab.kernel.routes.remove(&(Prefix::new(0xc000_0000.into(), 24), 0));
    lab.kernel.routes.insert((Prefix::new(0xc000_0200.into(), 24), 0), To::Blackhole);
    play(&mut lab, vec![Step::Restart], true);
    assert_eq!(lab.ops, 2);

    let fresh = Lab::new(profile());
    (lab.chip, lab.faults, lab.boot_id) = (fresh.chip, fresh.faults, 8);
    lab.input(Input::ChipLost("it died".into()));
    lab.todo.retain(|o| !matches!(o, Output::Chip(_)));
    lab.hello();
    lab.settle();
    lab.compare(true);
}

#[test]
fn nothing_is_written_before_all_of_the_kernel_has_been_read() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    lab.ops = 0;
    lab.core = Core::new(CoreConfig { audit: 0, ..CoreConfig::new(NETNS) });
    lab.todo.clear();
    lab.input(Input::Tick);
    lab.hello();
    let mut dumps = 0;
    while dumps < DumpKind::ALL.len() {
        assert_eq!(lab.ops, 0);
        dumps += usize::from(matches!(lab.todo.front(), Some(Output::Dump { .. })));
        assert!(lab.step());
    }
}

#[test]
fn a_closed_gate_closes_interfaces_and_moves_no_route() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    lab.ops = 0;
    lab.findings = vec![Finding::new(Scope::Link(11), "a program is attached")];
    lab.settle();
    assert_eq!(lab.ops, 1);
    assert_eq!(lab.view().open.len(), 2);
    let v = lab.ask(Request::List(Listed::Links));
    assert!(v.to_string().contains("a program is attached"), "{v}");
    lab.findings.clear();
    lab.settle();
    lab.compare(true);
}

#[test]
fn a_port_that_moves_away_traps_and_comes_back() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    let tell = |lab: &mut Lab, netns| {
        lab.chip.inner().set_port(PortId(0), port(0, netns));
        let mut events = Vec::new();
        lab.chip.poll(lab.now, &mut events);
        for e in events {
            lab.input(Input::Chip(FromChip::Event(e)));
        }
        lab.settle();
    };
    tell(&mut lab, 1);
    let v = lab.view();
    assert_eq!(v.fate(Ipv4Addr::new(192, 0, 0, 1)), Fate::Trap);
    assert!(!v.open.contains(&11) && v.neighs.is_empty());
    assert_eq!(lab.ask(Request::Check)["equal"], true);
    tell(&mut lab, NETNS);
    lab.compare(true);
}

#[test]
fn gateways_in_use_are_managed_and_let_go() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    let asked = |lab: &Lab, a: [u8; 4]| lab.requests.iter().filter(|m| m.windows(4).any(|w| w == a)).count();
    assert_eq!(asked(&lab, [10, 200, 11, 2]), 1);
    assert_eq!(asked(&lab, [10, 200, 12, 3]), 1);
    assert_eq!(asked(&lab, [10, 200, 13, 2]), 0, "not a gateway");
}

#[test]
fn a_neighbour_that_became_static_while_it_was_asked_for_stays_static() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    let entry = |state: u16, ext: u32| {
        let mut head = vec![2, 0, 0, 0];
        head.extend(12u32.to_ne_bytes());
        head.extend(state.to_ne_bytes());
        head.extend([0, 1]);
        Builder::new(28, 0, &head).addr(1, Ipv4Addr::new(10, 200, 12, 3).into()).attr(2, &mac(7).0).u32(15, ext).done()
    };
    let before = lab.requests.len();
    lab.news(entry(0x80, 0));
    lab.news(entry(0x01, 1));
    lab.settle();
    let m = &lab.requests[before..];
    assert_eq!(m.len(), 1, "{m:?}");
    assert_eq!((&m[0][24..26], &m[0][6..8]), (&[0x80, 0][..], &[0, 1][..]), "NUD_PERMANENT, NLM_F_REPLACE");
    assert!(m[0].windows(6).any(|w| w == mac(7).0));
    // An hour later it is the operator's own doing.
    lab.now += 3600 * SECOND;
    lab.input(Input::Tick);
    lab.news(entry(0x80, 0));
    lab.settle();
    let before = lab.requests.len();
    lab.news(entry(0x01, 0));
    lab.settle();
    assert!(!lab.requests[before..].iter().any(|m| m[24..26] == [0x80, 0]));
}
