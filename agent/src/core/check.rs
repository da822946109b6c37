//! `check` and the background audit: kernel, desired and chip compared afresh, a chunk at a time.
//!
//! The kernel's state is dumped into a mirror of its own; what it compiles to is held against what the running mirror
//! compiles to, that against what the chip acknowledged, and that against what the chip says it holds: every entry of every
//! table. The audit repairs what it finds; each repair is a bug, counted and logged.

use std::collections::BTreeSet;

use hal::{
    Addr, AnyKey, BridgePortId, FdbKey, Fwd, Global, MemberKey, Nanos, NeighKey, PortId, Prefix, Record, RifId,
    RouteKey, StaticKey, TableId, V4, V6, VrfId,
};
use serde_json::json;

use super::settle::Then;
use super::walk::prefixes;
use super::{Core, SECOND, SWEEP};
use crate::compile::route::Verdict;
use crate::compile::vrf::{DEFAULT, Vrfs};
use crate::compile::{self, Facts, Gate, Why};
use crate::mirror::{Alias, Mirror, MirrorFamily, NhSet, StationKey};
use crate::program::routes::State;
use crate::program::{Program, Tables};

/// Prefixes or other objects compared at a time.
const CHUNK: usize = 2048;
/// Wrong entries that an audit repairs one by one; beyond them the chip is read anew.
const REPAIRS: usize = 1024;
/// How often a comparison that changes interleaved with is begun anew.
const TRIES: u32 = 3;
/// Learned stations looked at again at most.
const SUSPECTS: usize = 1024;
/// Differences named in an answer.
const NAMED: usize = 100;
/// A fence that does not come for this long ends the try.
const PATIENCE: Nanos = 10 * SECOND;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waiting for the chip to hold all that the mirror knows.
    Settle,
    /// Dumps into the mirror of our own are under way.
    Dump,
    /// That mirror sorts out what the dumps left.
    Sweep,
    /// All that was announced meanwhile is to be in.
    Fence { id: u64, since: Nanos },
    /// Rules, policy, interfaces: there are few.
    Few,
    /// Stations of bridges, of that mirror or else of the running one, behind a key.
    Stations { fresh: bool, after: Option<StationKey> },
    /// Neighbours of that mirror, or else of the running one, behind a device and an address.
    Neighs { v6: bool, fresh: bool, after: Option<(u32, u128)> },
    /// Fresh routes against live ones.
    Fresh { v6: bool, vrf: VrfId, cursor: u64 },
    /// Live routes against fresh ones, and against what the chip acknowledged.
    Live { v6: bool, vrf: VrfId, cursor: u64 },
    /// What the chip acknowledged of the smaller tables against what should be there.
    Given { table: usize, after: Option<AnyKey> },
    /// The chip's own dump of that table.
    Chip { table: usize, seen: usize },
}

/// A comparison under way.
pub(super) struct Check {
    stage: Stage,
    /// Who wants to know; none for the audit.
    pub askers: Vec<u64>,
    audit: bool,
    tries: u32,
    /// State of the world when it began, to tell whether changes interleaved.
    stamp: (u64, u64),
    routes: [usize; 2],
    entries: usize,
    differences: usize,
    named: Vec<String>,
    /// What the audit has to look at again, and what the chip holds there.
    wrong: Vec<(AnyKey, Option<Option<Record>>)>,
    /// The running mirror is at odds with the kernel.
    mirror_wrong: bool,
    /// The chip lacks entries; which ones only a new reading of it can tell.
    lacking: bool,
    /// Ports that the chip has named.
    ports: BTreeSet<PortId>,
    /// Learned stations of which kernel or chip say otherwise than the agent. News of them may be on its way: looked at again at the end.
    suspects: Vec<Suspect>,
    /// Those that the chip has not named yet.
    unnamed: BTreeSet<FdbKey>,
    /// What policy closes by the mirror of our own.
    gate: Gate,
    /// Virtual routers by it.
    vrfs: Vrfs,
}

/// See [`Check::suspects`].
#[derive(Debug)]
struct Suspect {
    key: FdbKey,
    /// Who says otherwise, and where it is by that.
    who: &'static str,
    there: Option<BridgePortId>,
    /// Where the agent knew it.
    known: Option<BridgePortId>,
}

impl Check {
    /// Whether it can go on without waiting for anybody.
    pub fn busy(&self) -> bool {
        match self.stage {
            Stage::Sweep | Stage::Few | Stage::Stations { .. } | Stage::Neighs { .. } => true,
            Stage::Fresh { .. } | Stage::Live { .. } | Stage::Given { .. } => true,
            Stage::Settle | Stage::Dump | Stage::Fence { .. } | Stage::Chip { .. } => false,
        }
    }
    /// The chip was given something else than it should have.
    fn is_wrong(&mut self, key: AnyKey, what: impl FnOnce() -> String) {
        self.differs(what);
        if self.wrong.len() <= REPAIRS {
            self.wrong.push((key, None));
        }
    }
    /// Differences that were found: of what the chip was given under a key, or of the two mirrors.
    fn hears(&mut self, said: Vec<(Option<AnyKey>, String)>) {
        for (key, what) in said {
            match key {
                Some(key) => self.is_wrong(key, || what),
                None => {
                    self.differs(|| what);
                    self.mirror_wrong = true;
                }
            }
        }
    }
    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.named.len() < NAMED {
            self.named.push(what());
        }
    }
}

/// A verdict that can be compared between two mirrors.
fn same<F: MirrorFamily>(a: &Facts<'_>, b: &Facts<'_>, vrf: VrfId, p: Prefix<F>) -> bool {
    let (x, y) = (compile::route::route(a, vrf, p), compile::route::route(b, vrf, p));
    match (x.map(|d| d.verdict), y.map(|d| d.verdict)) {
        (Some(Verdict::Set(m)), Some(Verdict::Set(n))) => compile::group::group(a, m) == compile::group::group(b, n),
        (x, y) => x == y,
    }
}

/// Whether the agent punts an IPv6 prefix for a route that a dump leaves out, so that one made from dumps does not know it.
fn left_out<F: MirrorFamily>(fresh: &Facts<'_>, live: &Facts<'_>, vrf: VrfId, p: Prefix<F>) -> bool {
    let several = |a: &Alias| matches!(fresh.mirror.nhset(a.nh), NhSet::Inline(h) if h.len() > 1);
    F::BITS == 128
        && compile::route::route(live, vrf, p)
            .is_some_and(|d| matches!(d.why, Some(Why::SameMetric | Why::Hidden | Why::Metrics | Why::Pref)))
        && live.vrfs.tables::<F>(vrf).iter().any(|t| fresh.mirror.aliases::<F>(*t, p).iter().any(several))
}

impl Core {
    pub(super) fn check_asked(&mut self, id: u64) {
        self.totals.checks += 1;
        match &mut self.check {
            Some(c) if !c.audit && c.stage == Stage::Settle => c.askers.push(id),
            // A comparison that began earlier says nothing of what was done since.
            _ => {
                let mut askers = self.check.take().map(|c| c.askers).unwrap_or_default();
                askers.push(id);
                self.check_begin(askers, false);
            }
        }
    }

    fn check_begin(&mut self, askers: Vec<u64>, audit: bool) {
        self.drop_shadow();
        self.chip.forget_check();
        self.jobs.retain(|j| j.reply().is_some());
        self.check = Some(Check {
            stage: Stage::Settle,
            askers,
            audit,
            tries: 0,
            stamp: (0, 0),
            routes: [0; 2],
            entries: 0,
            differences: 0,
            named: Vec::new(),
            wrong: Vec::new(),
            mirror_wrong: false,
            lacking: false,
            suspects: Vec::new(),
            unnamed: BTreeSet::new(),
            ports: BTreeSet::new(),
            gate: Gate::default(),
            vrfs: Vrfs::default(),
        });
        self.settle_then(Then::Check);
    }

    /// What it compared with is gone: it begins anew.
    pub(super) fn void_check(&mut self) {
        if let Some(c) = self.check.take() {
            if c.audit {
                self.drop_shadow();
                self.chip.forget_check();
                self.jobs.retain(|j| j.reply().is_some());
            } else {
                self.check_begin(c.askers, false);
            }
        }
    }

    pub(super) fn audit_deadline(&self) -> Option<Nanos> {
        let audit =
            (self.cfg.audit != 0 && self.check.is_none() && self.programming()).then(|| self.audit_at + self.cfg.audit);
        let fence = self.check.as_ref().and_then(|c| match c.stage {
            Stage::Fence { since, .. } => Some(since + PATIENCE),
            _ => None,
        });
        audit.into_iter().chain(fence).min()
    }

    /// The chip holds all that the kernel knew: now compare.
    pub(super) fn check_settled(&mut self) {
        let stamp = self.stamp();
        if let Some(c) = &mut self.check {
            c.stage = Stage::Dump;
            c.stamp = stamp;
            (c.routes, c.entries, c.differences) = ([0; 2], 0, 0);
            c.named.clear();
            c.wrong.clear();
            c.ports.clear();
            c.suspects.clear();
            (c.mirror_wrong, c.lacking) = (false, false);
            self.shadow();
        }
    }

    /// Moves with whatever makes a comparison meaningless.
    fn stamp(&self) -> (u64, u64) {
        (self.changes, self.program.totals.sent)
    }

    pub(super) fn check_fence_came(&mut self, id: u64) {
        if let Some(c) = &mut self.check
            && matches!(c.stage, Stage::Fence { id: i, .. } if i == id)
        {
            c.stage = Stage::Few;
        }
    }

    pub(super) fn check_work(&mut self) {
        if self.check.is_none()
            && self.cfg.audit != 0
            && self.programming()
            && self.now >= self.audit_at + self.cfg.audit
        {
            self.audit_at = self.now;
            self.totals.audits += 1;
            self.check_begin(Vec::new(), true);
        }
        let Some(mut c) = self.check.take() else { return };
        let on = match c.stage {
            Stage::Settle | Stage::Chip { .. } => true,
            Stage::Dump if self.sync.shadowing() => true,
            Stage::Dump => {
                c.stage = Stage::Sweep;
                true
            }
            Stage::Sweep => {
                if !self.sync.shadow.as_mut().is_some_and(|m| m.work(SWEEP)) {
                    let id = self.send_fence();
                    c.stage = Stage::Fence { id, since: self.now };
                }
                true
            }
            Stage::Fence { since, .. } if self.now >= since + PATIENCE => false,
            Stage::Fence { .. } => true,
            Stage::Few => self.compare_few(&mut c),
            Stage::Stations { fresh, after } => self.compare_stations(&mut c, fresh, after),
            Stage::Neighs { v6: false, fresh, after } => self.compare_neighs::<V4>(&mut c, fresh, after),
            Stage::Neighs { v6: true, fresh, after } => self.compare_neighs::<V6>(&mut c, fresh, after),
            Stage::Given { table, after } => self.compare_given(&mut c, table, after),
            Stage::Fresh { v6: false, vrf, cursor } => self.compare_fresh::<V4>(&mut c, vrf, cursor),
            Stage::Fresh { v6: true, vrf, cursor } => self.compare_fresh::<V6>(&mut c, vrf, cursor),
            Stage::Live { v6: false, vrf, cursor } => self.compare_live::<V4>(&mut c, vrf, cursor),
            Stage::Live { v6: true, vrf, cursor } => self.compare_live::<V6>(&mut c, vrf, cursor),
        };
        if on {
            self.check = Some(c);
        } else {
            self.check_again(c);
        }
    }

    /// Changes came between: once more, unless it is enough.
    fn check_again(&mut self, mut c: Check) {
        c.tries += 1;
        if c.tries < TRIES {
            c.stage = Stage::Settle;
            self.drop_shadow();
            self.chip.forget_check();
            self.check = Some(c);
            self.settle_then(Then::Check);
        } else {
            c.differs(|| format!("the kernel's state changed during each of {TRIES} comparisons; try again"));
            self.check_end(c, true);
        }
    }

    /// What there is little of: rules and policy, the switch, interfaces.
    fn compare_few(&mut self, c: &mut Check) -> bool {
        if let Some(shadow) = &mut self.sync.shadow {
            shadow.overlook(&self.mirror);
        }
        let Some(shadow) = &self.sync.shadow else { return false };
        c.vrfs = self.vrfs_of(shadow);
        c.gate = self.gate_of(shadow, &c.vrfs);
        let live = self.facts();
        let fresh = Facts { mirror: shadow, gate: &c.gate, vrfs: &c.vrfs, ..live };
        let mut said = Vec::new();
        if *fresh.vrfs != *live.vrfs {
            said.push("virtual routers: the kernel's and the agent's differ".to_owned());
        }
        if *fresh.gate != *live.gate {
            said.push("rules or policy: what the kernel's and what the agent's close differ".to_owned());
        }
        let ports = self.ports_of(shadow);
        if ports != self.ports {
            said.push("what stands on the ports: the kernel's and the agent's differ".to_owned());
        }
        for r in live.ports.rifs() {
            if compile::rif::rif(&fresh, r.0) != compile::rif::rif(&live, r.0) {
                said.push(format!("interface {r}: the kernel's and the agent's differ"));
            }
        }
        let bridges: BTreeSet<AnyKey> = bridge_keys(shadow).chain(bridge_keys(&self.mirror)).collect();
        for k in &bridges {
            if bridge_entry(&fresh, *k) != bridge_entry(&live, *k) {
                said.push(format!("{k}: the kernel's and the agent's differ"));
            }
        }
        let keys = core::iter::once(Global.into()).chain(self.ports.rifs().map(AnyKey::from)).chain(bridges);
        let wrong: Vec<_> = keys.filter_map(|k| Some((k, self.program.fits(&live, k).err()?))).collect();
        for what in said {
            c.differs(|| what);
            c.mirror_wrong = true;
        }
        for (key, what) in wrong {
            c.is_wrong(key, || what);
        }
        c.stage = Stage::Stations { fresh: true, after: None };
        true
    }

    /// Stations that are not learned: those of the mirror of our own that the running one has otherwise, and the other way round.
    fn compare_stations(&mut self, c: &mut Check, fresh: bool, after: Option<StationKey>) -> bool {
        use core::ops::Bound::{Excluded, Unbounded};
        let Some(shadow) = &self.sync.shadow else { return false };
        let live = self.facts();
        let other = Facts { mirror: shadow, gate: &c.gate, vrfs: &c.vrfs, ..live };
        let of = if fresh { &**shadow } else { &self.mirror };
        let from = after.map_or(Unbounded, Excluded);
        let (mut said, mut last, mut seen) = (Vec::new(), None, 0);
        for k in of.stations_from(from).take(CHUNK) {
            (last, seen) = (Some(*k), seen + 1);
            let Some(key) = compile::bridge::fdb_key(k) else { continue };
            if compile::bridge::station(&live, key) != compile::bridge::station(&other, key) {
                said.push((None, format!("station {}: the kernel's and the agent's differ", k.mac)));
            }
            let there = of.station(k).and_then(|s| compile::bridge::learnable(&live, k, s));
            let known = self.stations.learned_at(key);
            if fresh && there.is_some() && there != known && c.suspects.len() < SUSPECTS {
                c.suspects.push(Suspect { key, who: "the kernel", there, known });
            }
            let key = StaticKey(key).into();
            said.extend(self.program.fits(&live, key).err().filter(|_| !fresh).map(|what| (Some(key), what)));
        }
        c.hears(said);
        c.stage = match (seen == CHUNK, fresh) {
            (true, _) => Stage::Stations { fresh, after: last },
            (false, true) => Stage::Stations { fresh: false, after: None },
            (false, false) => Stage::Neighs { v6: false, fresh: true, after: None },
        };
        true
    }

    /// Neighbours of the mirror of our own that the running one lacks or has otherwise; then those of the running one, which the
    /// chip is to have been given.
    fn compare_neighs<F: Tables>(&mut self, c: &mut Check, fresh: bool, after: Option<(u32, u128)>) -> bool {
        use core::ops::Bound::{Excluded, Unbounded};
        let Some(shadow) = &self.sync.shadow else { return false };
        let from = after.map_or(Unbounded, |(i, a)| Excluded((i, F::Addr::from_number(a))));
        let live = self.facts();
        let mut said = Vec::new();
        let (of, other) = if fresh { (&**shadow, &self.mirror) } else { (&self.mirror, &**shadow) };
        let entry = |m: &Mirror, i: u32, a: F::Addr| {
            m.neigh::<F>(i, a).and_then(|n| compile::neigh::neigh(&Facts { mirror: m, ..live }, i, n).ok())
        };
        let mut last = None;
        let mut seen = 0;
        for (i, a) in of.neighs::<F>().range((from, Unbounded)).take(CHUNK).map(|(k, _)| *k) {
            (last, seen) = (Some((i, a.number())), seen + 1);
            if entry(of, i, a) != entry(other, i, a) {
                said.push((None, format!("neighbour {a} on device {i}: the kernel's and the agent's differ")));
            }
            if !fresh && live.ports.has(i) {
                let key = F::neigh_key(NeighKey { rif: RifId(i), addr: a });
                said.extend(self.program.fits(&live, key).err().map(|what| (Some(key), what)));
            }
        }
        c.hears(said);
        let v6 = F::BITS == 128;
        c.stage = match (seen == CHUNK, fresh, v6) {
            (true, ..) => Stage::Neighs { v6, fresh, after: last },
            (false, true, _) => Stage::Neighs { v6, fresh: false, after: None },
            (false, false, false) => Stage::Neighs { v6: true, fresh: true, after: None },
            (false, false, true) => Stage::Fresh { v6: false, vrf: DEFAULT, cursor: 0 },
        };
        true
    }

    fn compare_fresh<F: Tables>(&mut self, c: &mut Check, vrf: VrfId, cursor: u64) -> bool {
        let Some(shadow) = &self.sync.shadow else { return false };
        let live = self.facts();
        let (page, next) = prefixes::<F>(shadow, &c.gate, &c.vrfs, vrf, cursor, CHUNK);
        let mut differing = Vec::new();
        {
            let fresh = Facts { mirror: shadow, gate: &c.gate, vrfs: &c.vrfs, ..live };
            let differs = |p: &Prefix<F>| !same(&fresh, &live, vrf, *p) && !left_out(&fresh, &live, vrf, *p);
            differing.extend(page.into_iter().filter(differs));
        }
        for p in differing {
            c.differs(|| format!("route {}: the kernel's and the agent's differ", named(vrf, p)));
            c.mirror_wrong = true;
        }
        let v6 = F::BITS == 128;
        c.stage = match (next, c.vrfs.after(vrf)) {
            (Some(cursor), _) => Stage::Fresh { v6, vrf, cursor },
            (None, Some(vrf)) => Stage::Fresh { v6, vrf, cursor: 0 },
            (None, None) if !v6 => Stage::Fresh { v6: true, vrf: DEFAULT, cursor: 0 },
            (None, None) => Stage::Live { v6: false, vrf: DEFAULT, cursor: 0 },
        };
        true
    }

    fn compare_live<F: Tables>(&mut self, c: &mut Check, vrf: VrfId, cursor: u64) -> bool {
        let Some(shadow) = &self.sync.shadow else { return false };
        let (page, next) = prefixes::<F>(&self.mirror, &self.gate, &self.vrfs, vrf, cursor, CHUNK);
        let live = Facts {
            mirror: &self.mirror,
            ports: &self.ports,
            gate: &self.gate,
            polled: self.polled.as_deref(),
            profile: &self.profile,
            vrfs: &self.vrfs,
        };
        // One without a place in the chip holds nothing there.
        let page = if F::routes(&self.program, vrf).is_some() { page } else { Vec::new() };
        for p in page {
            c.routes[usize::from(F::BITS == 128)] += 1;
            let fresh = Facts { mirror: shadow, gate: &c.gate, vrfs: &c.vrfs, ..live };
            if compile::route::route(&fresh, vrf, p).is_none() && compile::route::route(&live, vrf, p).is_some() {
                c.differs(|| format!("route {}: the agent has it, the kernel does not", named(vrf, p)));
                c.mirror_wrong = true;
            }
            let want = self.program.verdict::<F>(&live, vrf, p);
            let state = F::routes(&self.program, vrf).map_or(State::Absent, |r| r.state(p));
            let key = F::key(RouteKey { vrf, prefix: p });
            if !fits(want, &state) {
                let what = || format!("route {}: should be {want:?}, the chip was given {state:?}", named(vrf, p));
                c.is_wrong(key, what);
            } else if let State::Standing(fwd) = state
                && let Err(what) = self.program.reference_fits(fwd)
            {
                c.is_wrong(key, || format!("route {}: {what}", named(vrf, p)));
            }
        }
        let v6 = F::BITS == 128;
        c.stage = match (next, self.vrfs.after(vrf)) {
            (Some(cursor), _) => Stage::Live { v6, vrf, cursor },
            (None, Some(vrf)) => Stage::Live { v6, vrf, cursor: 0 },
            (None, None) if !v6 => Stage::Live { v6: true, vrf: DEFAULT, cursor: 0 },
            (None, None) => Stage::Given { table: 0, after: None },
        };
        true
    }

    /// What the chip was given of the smaller tables, and should not have, or otherwise.
    fn compare_given(&mut self, c: &mut Check, table: usize, after: Option<AnyKey>) -> bool {
        let Some(t) = TableId::ALL.get(table) else {
            if self.stamp() != c.stamp && c.differences > 0 {
                return false;
            }
            self.drop_shadow();
            self.ask_check(TableId::ALL[0], 0);
            c.stage = Stage::Chip { table: 0, seen: 0 };
            return true;
        };
        let keys = self.program.small_keys(*t, after, CHUNK);
        let live = self.facts();
        let wrong: Vec<_> = keys.iter().filter_map(|k| Some((*k, self.program.fits(&live, *k).err()?))).collect();
        for (key, what) in wrong {
            // It may have been looked at from the kernel's side already.
            if !c.wrong.iter().any(|(k, _)| *k == key) {
                c.is_wrong(key, || what);
            }
        }
        c.stage = match keys.last() {
            Some(last) => Stage::Given { table, after: Some(*last) },
            None => Stage::Given { table: table + 1, after: None },
        };
        true
    }

    /// A page of the chip's own dump.
    pub(super) fn check_records(&mut self, records: Vec<Record>, next: Option<u64>) {
        let Some(mut c) = self.check.take() else { return };
        let Stage::Chip { table, mut seen } = c.stage else {
            self.check = Some(c);
            return;
        };
        let Some(t) = TableId::ALL.get(table).copied() else { return self.check_end(c, false) };
        seen += records.len();
        c.entries += records.len();
        for r in records {
            let key = r.key();
            if t == TableId::Port {
                let Record::Port(k, e) = r else { continue };
                c.ports.insert(k);
                if self.table_ports.get(&k) != Some(&*e) {
                    c.differs(|| format!("{key}: the chip's record is not the one that it reported"));
                    c.lacking = true;
                }
            } else if let Record::Bucket(k, e) = &r {
                // Placed: it may lead to any member, but to no one else.
                if !self.program.bucket_fits(*k, e) {
                    c.differs(|| format!("{key}: the chip has it lead to next hop {}, which is no member", e.nexthop));
                }
            } else if let Record::Fdb(k, p) = r {
                c.unnamed.remove(&k);
                let known = self.stations.learned_at(k);
                if known != Some(p) && c.suspects.len() < SUSPECTS {
                    c.suspects.push(Suspect { key: k, who: "the chip", there: Some(p), known });
                }
            } else if t.kind() != hal::Kind::Learned && self.program.acked(key).as_ref() != Some(&r) {
                c.differs(|| format!("{key}: the chip holds {r:?}, it was given {:?}", self.program.acked(key)));
                if c.wrong.len() <= REPAIRS {
                    c.wrong.push((key, Some(Some(r))));
                }
            }
        }
        if let Some(cursor) = next {
            c.stage = Stage::Chip { table, seen };
            self.check = Some(c);
            return self.ask_check(t, cursor);
        }
        if t == TableId::Port && self.table_ports.keys().any(|k| !c.ports.contains(k)) {
            c.differs(|| "table port: the chip does not name every port that it reported".into());
            c.lacking = true;
        }
        let used = self.program.used(t);
        if t == TableId::Bucket && seen != used {
            c.differs(|| format!("table {t}: the chip holds {seen} entries, its groups have {used}"));
        }
        if t.kind() != hal::Kind::Learned && seen < used {
            c.differs(|| format!("table {t}: the chip holds {seen} entries of {used}"));
            c.lacking = true;
        }
        match TableId::ALL.get(table + 1) {
            Some(t) => {
                c.stage = Stage::Chip { table: table + 1, seen: 0 };
                if *t == TableId::Fdb {
                    c.unnamed = self.stations.learned_from(core::ops::Bound::Unbounded).map(|(k, _)| *k).collect();
                }
                self.check = Some(c);
                self.ask_check(*t, 0);
            }
            None => {
                self.suspects_end(&mut c);
                if self.stamp() != c.stamp && c.differences > 0 {
                    self.check_again(c)
                } else {
                    self.check_end(c, false)
                }
            }
        }
    }

    /// What was on its way has come with the answers since: who still says otherwise is at odds with the agent.
    fn suspects_end(&mut self, c: &mut Check) {
        let unnamed = core::mem::take(&mut c.unnamed).into_iter().take(SUSPECTS);
        let unnamed = unnamed.filter_map(|key| {
            let known = Some(self.stations.learned_at(key)?);
            Some(Suspect { key, who: "the chip", there: None, known })
        });
        let all: Vec<Suspect> = core::mem::take(&mut c.suspects).into_iter().chain(unnamed).collect();
        for s in all.into_iter().filter(|s| self.stations.learned_at(s.key) == s.known && !self.stations.pending(s.key))
        {
            let at = |p: Option<BridgePortId>| p.map_or("nowhere".into(), |p| format!("at {p}"));
            let mac = s.key.mac;
            c.differs(|| format!("station {mac}: {} has it {}, the agent {}", s.who, at(s.there), at(s.known)));
            c.lacking = true;
        }
    }

    fn check_end(&mut self, mut c: Check, unsure: bool) {
        self.drop_shadow();
        let json = json!({
            "equal": c.differences == 0,
            "routes": {"inet": c.routes[0], "inet6": c.routes[1]},
            "entries": c.entries,
            "tries": c.tries + 1,
            "differing": c.differences,
            "differences": c.named,
        });
        for id in &c.askers {
            self.reply_json(*id, json.clone());
        }
        if c.audit && c.differences > 0 && !unsure {
            for what in c.named.iter().take(8) {
                self.repaired(what.clone());
            }
            c.lacking |= c.wrong.len() > REPAIRS;
            let wrong = if c.lacking { Vec::new() } else { c.wrong };
            for (key, found) in wrong {
                match found {
                    Some(r) => self.program.correct(key, r),
                    None => self.touch_key(key),
                }
            }
            if c.mirror_wrong {
                self.resync();
            }
            if c.lacking {
                self.reread_chip();
            }
        }
    }
}

/// A prefix, with its virtual router if that is not the default one.
fn named<F: MirrorFamily>(vrf: VrfId, p: Prefix<F>) -> String {
    if vrf == DEFAULT { p.to_string() } else { format!("{p} of vrf {vrf}") }
}

/// Whether what the chip was given is what it should be, as far as there is room.
fn fits(want: Option<Fwd>, state: &State) -> bool {
    match (want, state) {
        (None, State::Absent) => true,
        (None, _) => false,
        (Some(_), State::NoRoom | State::Guard | State::Refused(_)) => true,
        (Some(w), State::Standing(s)) => w == *s,
        (Some(_), State::Absent) => false,
    }
}

/// What the chip may hold of the bridges that a mirror knows, but for stations.
fn bridge_keys(m: &Mirror) -> impl Iterator<Item = AnyKey> {
    use compile::bridge::fid_id;
    let bridges = m.links().filter(|l| l.kind == "bridge");
    bridges.flat_map(move |b| {
        let ports: Vec<u32> = m.bridge_ports(b.ifindex).collect();
        let own = m.vlans(b.ifindex).map(|(vid, _)| vid).chain([0]);
        let vids: BTreeSet<u16> = own.chain(ports.iter().flat_map(|p| m.vlans(*p)).map(|(vid, _)| vid)).collect();
        let mut all: Vec<AnyKey> = ports.iter().map(|p| BridgePortId(*p).into()).collect();
        for fid in vids.into_iter().filter_map(|vid| fid_id(b.ifindex, vid)) {
            all.push(fid.into());
            all.extend(ports.iter().map(|p| AnyKey::from(MemberKey { fid, port: BridgePortId(*p) })));
        }
        all
    })
}

/// What a key of [`bridge_keys`] compiles to.
fn bridge_entry(f: &Facts<'_>, key: AnyKey) -> Option<Record> {
    Some(match key {
        AnyKey::Fid(k) => Record::Fid(k, compile::bridge::fid(f, k)?),
        AnyKey::BridgePort(k) => Record::BridgePort(k, compile::bridge::bridge_port(f, k)?.entry),
        AnyKey::FidMember(k) => Record::FidMember(k, compile::bridge::member(f, k)?),
        _ => return None,
    })
}

/// What the program has of a neighbour's key, for callers that hold an address without its family.
pub(super) fn adjacency(p: &Program, ifindex: u32, addr: std::net::IpAddr) -> bool {
    let rif = RifId(ifindex);
    match addr {
        std::net::IpAddr::V4(addr) => p.neigh4.acked(NeighKey { rif, addr }).is_some(),
        std::net::IpAddr::V6(addr) => p.neigh6.acked(NeighKey { rif, addr }).is_some(),
    }
}
