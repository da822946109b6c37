//! A backend in front of another that fails on demand, within the laws: a table that fills up early, busy or slow answers,
//! lost events, a crash.
//!
//! Tests of an agent change the [`Faults`] while it runs. What breaks a law is not here: no agent could live with it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hal::{
    AnyKey, Backend, Counters, Event, FdbVerdict, Fwd, Nanos, NextHopEntry, Op, Profile, Reason, Record, RifEntry,
    TableId, Usage,
};

/// What goes wrong, and how often it did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Tables that take no new key beyond so many entries, whatever their capacity: as hash tables of silicon do.
    pub full_at: BTreeMap<TableId, u32>,
    /// Each n-th operation that may be answered so is answered [`Reason::Busy`]; 0: none, 1: all of them.
    pub busy_every: u32,
    /// Each n-th event is lost; 0: none, 1: all of them.
    pub lose_every: u32,
    /// Each operation takes so much longer.
    pub slow: Duration,
    /// So many operations more are carried out; then it is dead, as silicon without power: nothing is done, said or known any
    /// more until [`Faulty::restart`]. Who carries its answers has to ask [`Faulty::crashed`] and lose them.
    pub crash_after: Option<u64>,
    /// Operations answered with a fault so far.
    pub refused: u64,
    /// Events lost so far.
    pub lost: u64,
}

/// A backend whose faults are told from outside.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    faults: Arc<Mutex<Faults>>,
    /// What is programmed: a full table still takes those.
    keys: HashSet<AnyKey>,
    count: BTreeMap<TableId, u32>,
    ops: u32,
    events: u32,
}

fn lock(f: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    f.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is the turn of each n-th.
fn turn(count: &mut u32, every: u32) -> bool {
    if every == 0 {
        return false;
    }
    *count = (*count + 1) % every;
    *count == 0
}

/// Whether a record is a trap in the sense of the laws, which no chip may refuse over an existing key.
fn is_trap(r: &Record) -> bool {
    match r {
        Record::Rif(_, RifEntry { ingress4, ingress6, egress, .. }) => !(*ingress4 || *ingress6 || *egress),
        Record::NextHop(_, e) => matches!(e, NextHopEntry::Trap(_)),
        Record::Group(_, g) => g.members.is_empty(),
        Record::Route4(_, f) => matches!(f, Fwd::Trap(_)),
        Record::Route6(_, f) => matches!(f, Fwd::Trap(_)),
        Record::BridgePort(_, e) => !e.ingress && !e.egress && e.untagged.is_none(),
        Record::FdbStatic(_, v) => matches!(v, FdbVerdict::Trap(_)),
        Record::Fid(..) | Record::FidMember(..) | Record::Fdb(..) => false,
        Record::Port(..) | Record::Switch(..) | Record::Neigh4(..) | Record::Neigh6(..) | Record::Bucket(..) => false,
    }
}

impl<B: Backend> Faulty<B> {
    /// Stand before a backend with empty tables; the handle tells the faults, none at first.
    pub fn new(inner: B) -> (Self, Arc<Mutex<Faults>>) {
        let faults = Arc::<Mutex<Faults>>::default();
        let f =
            Faulty { inner, faults: faults.clone(), keys: HashSet::new(), count: BTreeMap::new(), ops: 0, events: 0 };
        (f, faults)
    }
    /// Whether it is dead: an answer that was not sent by then never will be.
    pub fn crashed(&self) -> bool {
        lock(&self.faults).crash_after == Some(0)
    }
    /// Live again, as `inner`, whose tables are empty (law f); the other faults stay.
    pub fn restart(&mut self, inner: B) {
        self.inner = inner;
        self.keys.clear();
        self.count.clear();
        lock(&self.faults).crash_after = None;
    }
    /// The backend behind it.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    fn refusal(&mut self, op: &Op) -> Option<Reason> {
        let Op::Set(r) = op else { return None };
        let there = self.keys.contains(&r.key());
        let mut faults = lock(&self.faults);
        let (table, entries) = (r.table(), self.count.get(&r.table()).copied().unwrap_or(0));
        let why = match faults.full_at.get(&table) {
            Some(&capacity) if !there && entries >= capacity => Reason::TableFull { table, capacity },
            _ if !(there && is_trap(r)) && turn(&mut self.ops, faults.busy_every) => Reason::Busy,
            _ => return None,
        };
        faults.refused += 1;
        Some(why)
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn profile(&self) -> &Profile {
        self.inner.profile()
    }
    fn apply(&mut self, op: &Op) -> Result<(), Reason> {
        let slow = {
            let mut faults = lock(&self.faults);
            match &mut faults.crash_after {
                // Never heard by anyone.
                Some(0) => return Err(Reason::Busy),
                Some(left) => *left -= 1,
                None => {}
            }
            faults.slow
        };
        if !slow.is_zero() {
            std::thread::sleep(slow);
        }
        if let Some(why) = self.refusal(op) {
            return Err(why);
        }
        self.inner.apply(op)?;
        let (key, entries) = (op.key(), self.count.entry(op.key().table()).or_default());
        match op {
            Op::Set(_) => *entries += u32::from(self.keys.insert(key)),
            Op::Remove(_) => *entries -= u32::from(self.keys.remove(&key)),
        }
        Ok(())
    }
    fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
        if self.crashed() { None } else { self.inner.dump(table, cursor, max, out) }
    }
    fn active(&mut self, table: TableId, cursor: u64, max: usize, out: &mut Vec<AnyKey>) -> Option<u64> {
        if self.crashed() { None } else { self.inner.active(table, cursor, max, out) }
    }
    fn poll(&mut self, now: Nanos, events: &mut Vec<Event>) {
        if self.crashed() {
            return;
        }
        let first = events.len();
        self.inner.poll(now, events);
        let mut faults = lock(&self.faults);
        let every = faults.lose_every;
        let mut at = 0;
        events.retain(|_| {
            at += 1;
            let lost = at > first && turn(&mut self.events, every);
            faults.lost += u64::from(lost);
            !lost
        });
    }
    fn counters(&self) -> Counters {
        self.inner.counters()
    }
    fn usage(&self) -> Vec<Usage> {
        self.inner.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimChip;
    use hal::conformance::{LAWS, Law};
    use hal::{GroupEntry, GroupId, Mac, PortEntry, PortId, RouteKey, V4, VrfId};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn chip() -> SimChip {
        let profile = Profile {
            name: "test".into(),
            fids: 16,
            bridge_ports: 16,
            fdb: 64,
            rifs: 6,
            neigh4: 6,
            neigh6: 6,
            nexthops: 6,
            groups: 6,
            group_members: 8,
            buckets: 0,
            routes4: 20,
            routes6: 20,
            vrfs: 1,
            rules: 8,
            frame: 1518,
        };
        let mut c = SimChip::new(profile, 2);
        for n in 0..2 {
            c.set_port(PortId(n), port(n, true));
        }
        c
    }

    fn port(n: u32, link: bool) -> PortEntry {
        PortEntry {
            name: format!("swp{n}"),
            ifindex: n + 1,
            netns: 1,
            mac: Mac([2, 0, 0, 0, 0, n as u8]),
            mtu: 1500,
            admin: true,
            link,
            wire: "none".into(),
            fault: None,
        }
    }

    fn route(n: u32, f: Fwd) -> Op {
        let prefix = hal::Prefix::<V4>::host(n.into());
        Op::Set(Record::Route4(RouteKey { vrf: VrfId(0), prefix }, f))
    }

    #[test]
    fn faults_come_when_told_and_stay_within_the_laws() {
        let (mut f, faults) = Faulty::new(chip());
        f.apply(&Op::Set(Record::Group(GroupId(1), GroupEntry::default()))).unwrap();
        lock(&faults).full_at.insert(TableId::Route4, 2);
        for n in 0..2 {
            f.apply(&route(n, Fwd::Group(GroupId(1)))).unwrap();
        }
        let full = Reason::TableFull { table: TableId::Route4, capacity: 2 };
        assert_eq!(f.apply(&route(2, Fwd::Group(GroupId(1)))), Err(full));
        lock(&faults).busy_every = 1;
        assert_eq!(f.apply(&route(0, Fwd::Group(GroupId(1)))), Err(Reason::Busy));
        f.apply(&route(0, Fwd::Trap(hal::TrapClass::Punt))).unwrap();
        let key = RouteKey::<V4> { vrf: VrfId(0), prefix: hal::Prefix::host(0.into()) };
        f.apply(&Op::Remove(key.into())).unwrap();
        assert_eq!(lock(&faults).refused, 2);
        *lock(&faults) = Faults::default();
        f.apply(&route(7, Fwd::Group(GroupId(1)))).unwrap();

        let mut events = Vec::new();
        f.poll(0, &mut events);
        events.clear();
        lock(&faults).lose_every = 2;
        for i in 0..10 {
            f.inner().set_port(PortId(0), port(0, i % 2 == 1));
        }
        f.poll(0, &mut events);
        assert_eq!((events.len(), lock(&faults).lost), (5, 5));
    }

    #[test]
    fn a_crash_comes_when_told_and_a_restart_is_empty() {
        let (mut f, faults) = Faulty::new(chip());
        f.apply(&Op::Set(Record::Group(GroupId(1), GroupEntry::default()))).unwrap();
        *lock(&faults) = Faults { slow: Duration::from_millis(2), crash_after: Some(3), ..Faults::default() };
        let begin = std::time::Instant::now();
        for n in 0..3 {
            assert!(!f.crashed());
            f.apply(&route(n, Fwd::Group(GroupId(1)))).unwrap();
        }
        assert!(begin.elapsed() >= Duration::from_millis(6), "three slow operations");
        assert!(f.crashed());
        let dump = |f: &Faulty<SimChip>| {
            let mut all = Vec::new();
            assert_eq!(f.dump(TableId::Route4, 0, 100, &mut all), None);
            all.len()
        };
        f.apply(&route(3, Fwd::Group(GroupId(1)))).unwrap_err();
        let (mut events, mut inside) = (Vec::new(), Vec::new());
        f.poll(0, &mut events);
        f.inner().dump(TableId::Route4, 0, 100, &mut inside);
        assert_eq!(
            (dump(&f), events.len(), inside.len()),
            (0, 0, 3),
            "it did nothing after the third, and says nothing"
        );
        f.restart(chip());
        assert_eq!((f.crashed(), dump(&f)), (false, 0));
        let missing = Reason::MissingRef(GroupId(1).into());
        assert_eq!(f.apply(&route(0, Fwd::Group(GroupId(1)))), Err(missing));
        f.apply(&Op::Set(Record::Group(GroupId(1), GroupEntry::default()))).unwrap();
        f.apply(&route(0, Fwd::Group(GroupId(1)))).unwrap();
        assert_eq!(dump(&f), 1);
    }

    /// A chip that breaks one law.
    struct Broken(SimChip, Break);

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Break {
        /// None: the suite has to pass.
        None,
        /// Refuses removes.
        Remove,
        /// Is busy when asked to trap.
        Trap,
        /// Forgets the old entry when it refuses a new one.
        Forget,
        /// Names the wrong missing key.
        Name,
        /// Holds an entry less than it says.
        Room,
        /// Skips every entry behind the first page.
        Page,
        /// Takes writes to the port table.
        Port,
        /// Ignores overwrites.
        Old,
    }

    impl Backend for Broken {
        fn profile(&self) -> &Profile {
            self.0.profile()
        }
        fn apply(&mut self, op: &Op) -> Result<(), Reason> {
            let there = |c: &SimChip, op: &Op| {
                let mut all = Vec::new();
                c.dump(op.key().table(), 0, 1000, &mut all);
                all.iter().any(|r| r.key() == op.key())
            };
            match (self.1, op) {
                (Break::Remove, Op::Remove(_)) if there(&self.0, op) => Err(Reason::Busy),
                (Break::Trap, Op::Set(r)) if is_trap(r) && there(&self.0, op) => Err(Reason::Busy),
                (Break::Old, Op::Set(_)) if there(&self.0, op) => Ok(()),
                (Break::Port, op) if op.key().table() == TableId::Port => Ok(()),
                (Break::Room, Op::Set(Record::Route4(..))) if !there(&self.0, op) => {
                    let capacity = self.0.profile().routes4;
                    let used = self.0.usage()[TableId::Route4 as usize].used;
                    let full = Reason::TableFull { table: TableId::Route4, capacity };
                    if used + 1 >= capacity { Err(full) } else { self.0.apply(op) }
                }
                _ => match self.0.apply(op) {
                    Err(why) if self.1 == Break::Forget => {
                        let _ = self.0.apply(&Op::Remove(op.key()));
                        Err(why)
                    }
                    Err(Reason::MissingRef(_)) if self.1 == Break::Name => Err(Reason::MissingRef(GroupId(999).into())),
                    done => done,
                },
            }
        }
        fn dump(&self, table: TableId, cursor: u64, max: usize, out: &mut Vec<Record>) -> Option<u64> {
            let next = self.0.dump(table, cursor, max, out);
            next.filter(|_| self.1 != Break::Page)
        }
        fn active(&mut self, t: TableId, cursor: u64, max: usize, out: &mut Vec<AnyKey>) -> Option<u64> {
            self.0.active(t, cursor, max, out)
        }
        fn poll(&mut self, now: Nanos, events: &mut Vec<Event>) {
            self.0.poll(now, events);
        }
        fn counters(&self) -> Counters {
            self.0.counters()
        }
        fn usage(&self) -> Vec<Usage> {
            self.0.usage()
        }
    }

    #[test]
    fn the_conformance_suite_finds_who_breaks_a_law() {
        let broken = |b: Break| {
            let fails = |law: Law| {
                catch_unwind(AssertUnwindSafe(|| law(&|| Box::new(Broken(chip(), b)) as Box<dyn Backend>))).is_err()
            };
            LAWS.iter().filter(|(_, law)| fails(*law)).count()
        };
        assert_eq!(broken(Break::None), 0);
        for b in
            [Break::Remove, Break::Trap, Break::Forget, Break::Name, Break::Room, Break::Page, Break::Port, Break::Old]
        {
            assert!(broken(b) > 0, "{b:?}");
        }
    }
}
