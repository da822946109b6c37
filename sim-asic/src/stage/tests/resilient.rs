//! Resilient groups: which flows move, when, and how many; with the time told.

use std::collections::BTreeMap;

use super::*;

/// Milliseconds.
const MS: Nanos = 1_000_000;
/// Between polls, as the control thread's.
const STEP: Nanos = 100 * MS;

struct Lab {
    b: Bench,
    now: Nanos,
}

/// The `n`-th of many flows.
fn packet(n: u32) -> Vec<u8> {
    let to = Ipv4Addr::from_bits(0x0a4c_0000 + n);
    udp4(&format!("10.0.0.{}", 3 + n % 250), &to.to_string())
}

impl Lab {
    /// Group 9 of next hops 1, 2 and so on with these weights; 10.76/14 is behind it.
    fn new(weights: &[u32], r: Resilient) -> Self {
        let mut l = Lab { b: Bench::new(), now: 0 };
        // Further next hops behind the same ports, so that there may be many.
        for n in PORTS as u32..20 {
            let to = NextHopEntry::Ip(RifId(100 + 1 + n % 3), IpAddr::from([10, 0, 1 + n as u8 % 3, 2]));
            l.b.set(Record::NextHop(NextHopId(n), to));
        }
        let members: Vec<(u32, u32)> = (1..).zip(weights.iter().copied()).collect();
        l.group(&members, r);
        l.b.set(route4("10.76.0.0/14", Fwd::Group(GroupId(9))));
        l
    }
    fn group(&mut self, members: &[(u32, u32)], r: Resilient) {
        let members = members.iter().map(|&(n, weight)| Member { nexthop: NextHopId(n), weight }).collect();
        self.b.set(Record::Group(GroupId(9), GroupEntry { members, mtu: 0, resilient: Some(r) }));
    }
    /// Time goes on by so many milliseconds, with a packet of each of these flows in between.
    fn pass(&mut self, ms: u64, flows: std::ops::Range<u32>) {
        let until = self.now + ms * MS;
        while self.now < until {
            self.now = until.min(self.now + STEP);
            self.ways(flows.clone());
            self.b.chip.poll(self.now, &mut Vec::new());
        }
    }
    /// The next hop that each flow takes.
    fn ways(&mut self, flows: std::ops::Range<u32>) -> Vec<u32> {
        let mut frames: Vec<Vec<u8>> = flows.map(|n| with_room(&packet(n))).collect();
        let mut batch: Vec<Packet<'_>> = frames.iter_mut().map(|f| Packet::new(PortId(0), f)).collect();
        batch.chunks_mut(64).for_each(|c| self.b.pipe.run(c));
        batch.iter().map(|p| if let Verdict::Forward { port, .. } = p.verdict { port.0 } else { u32::MAX }).collect()
    }
    /// Where each bucket leads.
    fn layout(&self) -> Vec<u32> {
        let mut out = Vec::new();
        assert_eq!(self.b.chip.dump(TableId::Bucket, 0, usize::MAX, &mut out), None);
        out.iter().map(|r| if let Record::Bucket(_, e) = r { e.nexthop.0 } else { panic!("{r:?}") }).collect()
    }
    /// How many buckets lead to each next hop.
    fn counts(&self) -> BTreeMap<u32, usize> {
        self.layout().iter().fold(BTreeMap::new(), |mut m, n| {
            *m.entry(*n).or_default() += 1;
            m
        })
    }
}

fn resilient(buckets: u16, idle: u64, unbalanced: u64) -> Resilient {
    Resilient { buckets, idle, unbalanced, label: 0 }
}

const FLOWS: u32 = 5000;

#[test]
fn a_lost_member_moves_only_its_own_flows() {
    let r = resilient(1024, 120_000, 0);
    let mut l = Lab::new(&[1, 1, 1], r);
    let before = l.ways(0..FLOWS);
    for n in 1..4 {
        let flows = before.iter().filter(|p| **p == n).count() as i64;
        assert!((flows - 1666).abs() < 200, "{flows} of {FLOWS} flows by next hop {n} of three");
    }
    l.pass(1000, 0..FLOWS);
    l.group(&[(1, 1), (3, 1)], r);
    let after = l.ways(0..FLOWS);
    assert!(!after.contains(&2));
    let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
    assert_eq!(moved, before.iter().filter(|p| **p == 2).count(), "who was on a member that stays does so");
    assert_eq!(l.counts(), [(1, 512), (3, 512)].into());
    // The other members take what it had in equal parts.
    let gained = |n| before.iter().zip(&after).filter(|(b, a)| **b == 2 && **a == n).count() as i64;
    assert!((gained(1) - gained(3)).abs() < 250, "{} and {}", gained(1), gained(3));
}

#[test]
fn a_new_member_waits_for_idle_buckets() {
    let r = resilient(64, 10_000, 0);
    let mut l = Lab::new(&[1, 1], r);
    let flows = l.ways(0..FLOWS);
    l.group(&[(1, 1), (2, 1), (3, 1)], r);
    assert_eq!(l.ways(0..FLOWS), flows, "all are in use");
    l.pass(60_000, 0..FLOWS);
    assert_eq!(l.ways(0..FLOWS), flows, "and remain so, for however long");
    // A few flows go on, the others end.
    let few = 0..20;
    l.pass(9_000, few.clone());
    assert_eq!(l.counts()[&1], 32, "not idle for long enough");
    l.pass(3_000, few.clone());
    assert_eq!(l.counts(), [(1, 21), (2, 22), (3, 21)].into());
    assert_eq!(l.ways(few), flows[..20], "those in use stay where they are");
    // Nothing moves once there is balance.
    let layout = l.layout();
    l.pass(60_000, 0..0);
    assert_eq!(l.layout(), layout);
}

#[test]
fn balance_is_forced_when_it_took_too_long() {
    let r = resilient(64, 10_000, 30_000);
    let mut l = Lab::new(&[1, 1], r);
    l.pass(1_000, 0..FLOWS);
    l.group(&[(1, 1), (2, 1), (3, 2)], r);
    l.pass(29_000, 0..FLOWS);
    assert_eq!(l.counts(), [(1, 32), (2, 32)].into());
    let before = l.layout();
    // The timer goes on although the group changes meanwhile.
    l.group(&[(1, 1), (2, 1), (3, 3)], r);
    l.pass(3_000, 0..FLOWS);
    assert_eq!(l.counts(), [(1, 13), (2, 13), (3, 38)].into());
    let moved = l.layout().iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(moved, 38, "no more than what the new member lacked");
    // Again from the beginning once there was balance.
    l.group(&[(1, 1), (2, 1), (3, 1)], r);
    l.pass(29_000, 0..FLOWS);
    assert_eq!(l.counts()[&3], 38);
}

#[test]
fn idle_ones_go_first_when_balance_is_forced() {
    let r = resilient(64, 10_000, 0);
    let mut l = Lab::new(&[1], r);
    let few = 0..20;
    l.pass(1_000, few.clone());
    let busy = l.ways(few.clone());
    l.pass(11_000, few.clone());
    l.group(&[(1, 1), (2, 1)], resilient(64, 10_000, 1));
    l.pass(1_000, few.clone());
    assert_eq!((l.counts(), l.ways(few)), ([(1, 32), (2, 32)].into(), busy));
}

#[test]
fn timers_of_0() {
    // Always idle: balance at once.
    let mut l = Lab::new(&[1, 1], resilient(10, 0, 0));
    l.pass(1_000, 0..FLOWS);
    l.group(&[(1, 1), (2, 1), (3, 3)], resilient(10, 0, 0));
    assert_eq!(l.counts(), [(1, 2), (2, 2), (3, 6)].into());
    // Never forced.
    let mut l = Lab::new(&[1, 1], resilient(10, 1_000, 0));
    l.pass(1_000, 0..FLOWS);
    l.group(&[(1, 1), (3, 1)], resilient(10, 1_000, 0));
    assert_eq!(l.counts(), [(1, 5), (3, 5)].into());
    l.group(&[(1, 1), (3, 4)], resilient(10, 1_000, 0));
    l.pass(100_000, 0..FLOWS);
    assert_eq!(l.counts(), [(1, 5), (3, 5)].into());
    // Until the timers say otherwise.
    l.group(&[(1, 1), (3, 4)], resilient(10, 1_000, 5_000));
    l.pass(1_000, 0..FLOWS);
    assert_eq!(l.counts(), [(1, 2), (3, 8)].into());
}

#[test]
fn a_group_set_again_moves_nothing() {
    let r = resilient(100, 1_000, 1_000);
    let mut l = Lab::new(&[3, 1, 2], r);
    let layout = l.layout();
    l.group(&[(1, 3), (2, 1), (3, 2)], r);
    l.group(&[(3, 2), (1, 3), (2, 1)], resilient(100, 0, 0));
    l.group(&[(1, 6), (2, 2), (3, 4)], r);
    assert_eq!(l.layout(), layout);
    // A next hop that leads elsewhere keeps its buckets.
    l.b.set(Record::NextHop(NextHopId(2), NextHopEntry::Drop(DropReason::Blackhole)));
    assert_eq!(l.layout(), layout);
}

#[test]
fn weights_hold() {
    // Numbers of the kernel's: `ip nexthop bucket` for these groups, whichever members they are.
    for (weights, buckets, want) in [
        (&[1u32, 1][..], 8, &[4usize, 4][..]),
        (&[3, 1], 10, &[8, 2]),
        (&[1, 1, 1], 8, &[3, 2, 3]),
        (&[1, 254], 16, &[0, 16]),
        (&[1, 2, 3, 4], 7, &[1, 1, 2, 3]),
        (&[256, 1], 100, &[100, 0]),
    ] {
        let l = Lab::new(weights, resilient(buckets, 0, 0));
        let counts = l.counts();
        let is: Vec<usize> = (1..).zip(weights).map(|(n, _)| counts.get(&n).copied().unwrap_or(0)).collect();
        assert_eq!(is, want, "{weights:?} in {buckets}");
    }
    // Over many flows.
    const MANY: u32 = 100_000;
    let weights = [1u32, 3, 6];
    let mut l = Lab::new(&weights, resilient(4000, 0, 0));
    let mut flows = [0u32; 4];
    for part in (0..MANY).step_by(1000) {
        for p in l.ways(part..part + 1000) {
            flows[p as usize] += 1;
        }
    }
    for (n, w) in (1..).zip(weights) {
        let want = f64::from(MANY) * f64::from(w) / 10.0;
        let off = (f64::from(flows[n]) - want) / f64::from(MANY);
        assert!(off.abs() < 0.02, "next hop {n} of weight {w} has {} of {MANY}", flows[n]);
    }
}

#[test]
fn the_strict_source_check_asks_members_not_buckets() {
    let mut b = Bench::new();
    let r = RifEntry { urpf: Urpf::Strict, ..rif(0) };
    b.set(Record::Rif(RifId(100), r));
    let frame = udp4("10.99.0.1", "10.0.1.2");
    for (members, passes) in [(&[(0u32, 1u32), (1, 60000)][..], true), (&[(1, 1), (2, 1)], false)] {
        let members = members.iter().map(|&(n, weight)| Member { nexthop: NextHopId(n), weight }).collect();
        let resilient = Some(resilient(4, 0, 0));
        b.set(Record::Group(GroupId(9), GroupEntry { members, mtu: 0, resilient }));
        b.set(route4("10.99.0.0/16", Fwd::Group(GroupId(9))));
        assert_eq!(matches!(b.run(&frame).0, Verdict::Forward { .. }), passes);
    }
}

#[test]
fn what_a_bucket_can_not_carry_is_trapped() {
    let r = resilient(64, 1_000, 0);
    let mut l = Lab::new(&[1, 1], r);
    let ways = l.ways(0..200);
    let class = |l: &mut Lab, n| l.b.class(&packet(n));
    let on2 = ways.iter().position(|p| *p == 2).unwrap() as u32;
    let on1 = ways.iter().position(|p| *p == 1).unwrap() as u32;
    // A port without link, as in any group: the kernel decides, and the others stay.
    l.b.chip.set_port(PortId(2), port_entry(2, false));
    assert_eq!(class(&mut l, on2), TrapClass::PortDown);
    assert_eq!(l.b.port(&packet(on1)), 1);
    l.b.chip.set_port(PortId(2), port_entry(2, true));
    l.b.remove(NeighKey::<V6> { rif: RifId(102), addr: ip6("2001:db8:2::2") });
    assert_eq!(class(&mut l, on2), TrapClass::Unresolved);
    l.b.remove(NextHopId(2));
    assert_eq!(class(&mut l, on2), TrapClass::Dangling);
    assert_eq!(l.b.port(&packet(on1)), 1);
    l.b.set(Record::Group(GroupId(9), GroupEntry { resilient: Some(r), ..GroupEntry::default() }));
    assert_eq!(class(&mut l, on1), TrapClass::Punt);
    l.b.remove(GroupId(9));
    assert_eq!(class(&mut l, on1), TrapClass::Dangling);
    assert!(l.layout().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Law h over any sequence of changes, with some flows in between.
    #[test]
    fn any_sequence_keeps_the_law(
        steps in proptest::collection::vec(
            (proptest::collection::vec((1u32..12, 1u32..9), 1..6), 0u64..3, 0u64..3, 0u32..300, 0u64..5_000),
            1..12,
        ),
        buckets in 1u16..200,
    ) {
        let timer = |n: u64| [0, 700, 3_000][n as usize];
        let mut l = Lab::new(&[1], resilient(buckets, 0, 0));
        for (members, idle, unbalanced, flows, ms) in steps {
            let r = resilient(buckets, timer(idle), timer(unbalanced));
            let before = l.layout();
            l.group(&members, r);
            let after = l.layout();
            let is = |n: &u32| members.iter().any(|(m, _)| m == n);
            prop_assert!(after.iter().all(is), "buckets that lead to no member: {after:?}");
            let sum: u32 = members.iter().map(|(_, w)| w).sum();
            let (mut wants, mut w, mut up_to) = (BTreeMap::<u32, usize>::new(), 0, 0);
            for (m, weight) in &members {
                w += weight;
                let end = (u32::from(buckets) * w * 2 + sum) / (2 * sum);
                *wants.entry(*m).or_default() += (end - up_to) as usize;
                up_to = end;
            }
            let had = |n: u32, all: &[u32]| all.iter().filter(|x| **x == n).count();
            for (a, b) in before.iter().zip(&after).filter(|(a, b)| a != b) {
                prop_assert!(!is(a) || had(*a, &before) > wants[a], "it had no more than its share: {a}");
                prop_assert!(had(*b, &after) <= wants[b], "it has more than its share now: {b}");
            }
            l.pass(ms, 0..flows);
            l.pass(if idle == 0 { 0 } else { 8_000 }, 0..0);
            for (m, n) in wants {
                prop_assert_eq!(had(m, &l.layout()), n, "share of {} when all is idle", m);
            }
        }
        l.b.remove(GroupId(9));
        prop_assert!(l.layout().is_empty());
        prop_assert_eq!(l.b.chip.usage()[TableId::Bucket as usize].used, 0);
    }
}

/// Ranges of the pool come and go without loss.
#[test]
fn room_is_given_back_whole() {
    let mut b = Bench::new();
    let max = profile().buckets;
    let set = |b: &mut Bench, id: u32, buckets: u16| {
        let members = [Member { nexthop: NextHopId(1), weight: 1 }].into_iter().collect();
        let r = Some(resilient(buckets, 0, 0));
        b.chip.apply(&Op::Set(Record::Group(GroupId(id), GroupEntry { members, mtu: 0, resilient: r })))
    };
    let full = Err(Reason::TableFull { table: TableId::Bucket, capacity: max });
    for id in 2..12 {
        set(&mut b, id, 500).unwrap();
    }
    assert_eq!(set(&mut b, 12, 1), full);
    assert_eq!(set(&mut b, 5, 501), full, "it stays as it was");
    set(&mut b, 5, 500).unwrap();
    set(&mut b, 5, 100).unwrap();
    set(&mut b, 12, 400).unwrap();
    assert_eq!(set(&mut b, 5, 101), full);
    for id in [3, 7, 5, 4, 6, 12, 2, 8, 11, 9, 10] {
        b.remove(GroupId(id));
    }
    set(&mut b, 2, max as u16).unwrap();
    b.group(2, &[(1, 1), (2, 1)]);
    set(&mut b, 3, max as u16).unwrap();
    assert_eq!(set(&mut b, 4, 0).unwrap_err(), Reason::Unsupported("a resilient group of 0 buckets".into()));
}
