//! Right or punt in a table that is too small, busy and forgetful: a random history against a chip that keeps the laws.

use std::collections::{BTreeMap, BTreeSet};

use hal::{GroupId, TableId};
use proptest::prelude::*;

use super::*;

/// A route table that keeps the laws and nothing else.
struct Chip {
    table: BTreeMap<Prefix<V4>, Fwd>,
    capacity: usize,
    /// Refuses one in so many sets with `Busy`; 0 for never.
    busy: u32,
    ops: u32,
    /// Groups that it does not have.
    missing: BTreeSet<GroupId>,
}

impl Chip {
    fn apply(&mut self, s: Sent<V4>) -> Option<Reason> {
        let Some(fwd) = s.to.fwd() else {
            self.table.remove(&s.prefix);
            return None;
        };
        let stands = self.table.contains_key(&s.prefix);
        let trap = matches!(fwd, Fwd::Trap(_));
        self.ops += 1;
        if !(stands && trap) {
            // Scattered: a fixed rhythm could hit the same operation for ever.
            if self.busy > 0 && (self.ops.wrapping_mul(0x9e37_79b9) >> 16).is_multiple_of(self.busy) {
                return Some(Reason::Busy);
            }
            if let Fwd::Group(g) = fwd
                && self.missing.contains(&g)
            {
                return Some(Reason::MissingRef(AnyKey::Group(g)));
            }
        }
        if !stands && self.table.len() >= self.capacity {
            return Some(Reason::TableFull { table: TableId::Route4, capacity: self.capacity as u32 });
        }
        self.table.insert(s.prefix, fwd);
        None
    }
}

fn lookup(table: &BTreeMap<Prefix<V4>, Fwd>, addr: u32) -> Option<Fwd> {
    (0..=32).rev().find_map(|l| table.get(&Prefix::new(addr.into(), l)).copied())
}

/// Addresses at the edges of every prefix in play: verdicts change nowhere else.
fn probes(all: &BTreeSet<Prefix<V4>>) -> Vec<u32> {
    let edges = all.iter().flat_map(|p| {
        let (a, b) = (p.addr().to_bits(), p.last().to_bits());
        [a, b, a.wrapping_sub(1), b.wrapping_add(1)]
    });
    edges.collect()
}

#[derive(Clone, Debug)]
enum Step {
    Set(Prefix<V4>, Fwd),
    Remove(Prefix<V4>),
    /// The groups that the chip lacks from now on.
    Missing(Vec<u32>),
    /// Let the chip carry out and answer that many operations.
    Work(usize),
    Settle,
}

fn prefix() -> impl Strategy<Value = Prefix<V4>> {
    // A narrow tree, so that prefixes cover each other often.
    (0u32..16, 0u8..=6).prop_map(|(n, len)| Prefix::new((n << 28 | n << 26).into(), len))
}

fn fwd() -> impl Strategy<Value = Fwd> {
    prop_oneof![
        5 => (0u32..4).prop_map(|g| Fwd::Group(GroupId(g))),
        1 => Just(Fwd::Connected(hal::RifId(1))),
        1 => Just(Fwd::Drop(hal::DropReason::Blackhole)),
        2 => Just(Fwd::Trap(TrapClass::Unreachable)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prefix(), fwd()).prop_map(|(p, f)| Step::Set(p, f)),
        5 => prefix().prop_map(Step::Remove),
        1 => proptest::collection::vec(0u32..4, 0..2).prop_map(Step::Missing),
        4 => (1usize..6).prop_map(Step::Work),
        2 => Just(Step::Settle),
    ]
}

struct World {
    chip: Chip,
    routes: Routes<V4>,
    ids: Ids,
    desired: BTreeMap<Prefix<V4>, Fwd>,
    flight: VecDeque<Sent<V4>>,
    now: Nanos,
}

impl World {
    fn plan(&mut self) {
        let (mut sets, mut removes) = (Vec::new(), Vec::new());
        let desired = &self.desired;
        self.routes.plan(self.now, 3, &mut self.ids, |p, _| desired.get(&p).copied(), &mut sets, &mut removes);
        self.flight.extend(sets);
        self.flight.extend(removes);
    }

    fn one(&mut self) -> bool {
        let Some(s) = self.flight.pop_front() else { return false };
        let why = self.chip.apply(s);
        self.routes.done(self.now, s, why, &mut self.ids);
        true
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.plan();
            while self.one() {}
            if self.routes.clean() && self.routes.idle() {
                return;
            }
            if self.routes.clean() {
                self.now = self.routes.deadline().unwrap_or(self.now).max(self.now);
            }
        }
        panic!("it does not settle: {:?}", self.routes);
    }

    /// In the settled state each address gets the right verdict or a trap, and what has room is right.
    fn check(&self) {
        let mut all: BTreeSet<_> = self.desired.keys().copied().collect();
        all.extend(self.chip.table.keys().copied());
        for a in probes(&all) {
            let (is, should) = (lookup(&self.chip.table, a), lookup(&self.desired, a));
            let trap = matches!(is, None | Some(Fwd::Trap(_)));
            assert!(trap || is == should, "{}: is {is:?}, should be {should:?}", std::net::Ipv4Addr::from_bits(a));
        }
        let starved = self.routes.starved().0;
        // What the chip refused again and again is a trap, and tried on in the background.
        let refused = self.routes.refused().next().is_some();
        if starved == 0 && self.chip.missing.is_empty() && !refused {
            assert_eq!(self.chip.table, self.desired);
        }
        assert!(self.chip.table.keys().all(|p| self.desired.contains_key(p)), "what the kernel has not is removed");
        if starved > 0 && self.chip.missing.is_empty() && !refused {
            assert_eq!(self.chip.table.len(), self.chip.capacity, "room is used");
        }
        for (p, f) in &self.chip.table {
            assert_eq!(self.routes.acked(*p), Some(*f));
        }
        assert_eq!(self.routes.len(), self.chip.table.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn right_or_trapped(
        capacity in 1usize..24,
        busy in 0u32..5,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let chip = Chip { table: BTreeMap::new(), capacity, busy: if busy == 1 { 0 } else { busy }, ops: 0, missing: BTreeSet::new() };
        let mut w = World {
            chip,
            routes: Routes::default(),
            ids: Ids::default(),
            desired: BTreeMap::new(),
            flight: VecDeque::new(),
            now: 0,
        };
        for s in steps {
            match s {
                Step::Set(p, f) => {
                    w.desired.insert(p, f);
                    w.routes.touch(p);
                }
                Step::Remove(p) => {
                    w.desired.remove(&p);
                    w.routes.touch(p);
                }
                Step::Missing(g) => {
                    w.chip.missing = g.into_iter().map(GroupId).collect();
                    // Longer than any pause between tries.
                    w.now += 6_000_000_000;
                    // Removing what others refer to makes those trap (law b); here they are gone with it.
                }
                Step::Work(n) => {
                    w.plan();
                    for _ in 0..n {
                        w.one();
                    }
                }
                Step::Settle => {
                    w.settle();
                    w.check();
                }
            }
        }
        w.chip.missing.clear();
        // Longer than any pause between tries.
        w.now += 6_000_000_000;
        w.settle();
        w.check();
        // Room comes back: everything is placed.
        w.chip.capacity = 1000;
        if w.routes.starved().0 > 0 {
            let p = *w.chip.table.keys().next().expect("a full table holds something");
            w.desired.remove(&p);
            w.routes.touch(p);
            for _ in 0..200 {
                w.settle();
                w.check();
                let Some(p) = w.chip.table.keys().next().copied() else { break };
                if w.routes.starved().0 == 0 { break }
                w.desired.remove(&p);
                w.routes.touch(p);
            }
            prop_assert_eq!(w.routes.starved().0, 0);
        }
    }
}
