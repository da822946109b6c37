//! The agent's brain: takes inputs one by one, keeps the mirror, brings the chip there. No I/O, no clock, no threads:
//! what it says to the world comes out of [`Core::next`], and the same inputs give the same outputs.
//!
//! Here: the configuration, the dispatch of inputs, the order of work. Dumps and fences are in `sync.rs`, the chip's side in
//! `chip.rs`, settle in `settle.rs`, check and audit in `check.rs`, neighbours held fresh in `fresh.rs`, answers in `show.rs`.

mod check;
mod chip;
mod fresh;
mod settle;
mod show;
mod stations;
mod sync;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hal::{AnyKey, Nanos, NeighKey, PortEntry, PortId, Prefix, Profile, RifId, V4, V6};
use serde::{Deserialize, Serialize};

use crate::compile::vrf::{self, Vrfs};
use crate::compile::{Facts, Gate, Ports};
use crate::input::{DumpKind, Input, Output, Reply, Request};
use crate::mirror::{Mirror, Odd, Reach};
use crate::policy::{Finding, Netconf4, Polled, PortRef, Scope};
use crate::program::Program;
use walk::{WALK, Walks};

/// One second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// What the core is told once, at its start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CoreConfig {
    /// Inode of the network namespace that the agent mirrors; ports elsewhere are left alone.
    pub netns: u64,
    /// How often everything is compared afresh in the background; 0 for never.
    pub audit: Nanos,
    /// How often the chip is asked which neighbours packets used; 0 for never.
    pub refresh: Nanos,
    /// How many neighbours are probed a second at most.
    pub probes: u32,
    /// Hardware forwards past nftables and xtables: the operator's word, against promise 1.
    pub ignore_firewall: bool,
}

impl CoreConfig {
    /// The defaults, for the namespace of that inode.
    pub fn new(netns: u64) -> Self {
        CoreConfig { netns, audit: 60 * SECOND, refresh: 5 * SECOND, probes: 200, ignore_firewall: false }
    }
}

/// Slots that a purge or sweep in the mirror goes over at a time.
const SWEEP: usize = 8192;

/// The core. Feed it with [`Core::handle`], drain [`Core::next`] after each, and call `handle` with [`Input::Tick`] when
/// [`Core::deadline`] has passed.
pub struct Core {
    cfg: CoreConfig,
    now: Nanos,
    started: bool,
    out: VecDeque<Output>,
    mirror: Mirror,
    /// Whether the mirror has purges or sweeps to go on with.
    mirror_busy: bool,
    /// Changes taken from the mirror so far.
    changes: u64,
    polled: Option<Box<Polled>>,
    /// Readings so far.
    polls: u64,
    gate: Gate,
    /// Policy has been read for the ports of this chip.
    policy_known: bool,
    profile: Profile,
    table_ports: BTreeMap<PortId, PortEntry>,
    ports: Ports,
    port_refs: Vec<PortRef>,
    program: Program,
    vrfs: Vrfs,
    /// Something changed about virtual routers.
    vrfs_look: bool,
    /// As long as the chip can't be written to: when it can, it is looked at.
    vrfs_wait: bool,
    /// Tables that odd rules look up.
    rule_tables: BTreeSet<u32>,
    walks: Walks,
    sync: sync::Sync,
    chip: chip::Chip,
    jobs: Vec<settle::Job>,
    check: Option<check::Check>,
    /// When the last audit began.
    audit_at: Nanos,
    fresh: fresh::Fresh,
    stations: stations::Stations,
    counts: Vec<show::Count>,
    lists: VecDeque<show::List>,
    next_id: u64,
    totals: Totals,
}

/// What happened so far, for `status`.
#[derive(Clone, PartialEq, Debug, Default)]
struct Totals {
    overruns: u64,
    resyncs: u64,
    audits: u64,
    checks: u64,
    repairs: u64,
    last_repairs: Vec<String>,
    refused_requests: u64,
    last_refusal: String,
    warnings: Vec<String>,
}

/// A chip of which nothing is known.
fn no_profile() -> Profile {
    Profile {
        name: String::new(),
        fids: 0,
        bridge_ports: 0,
        fdb: 0,
        rifs: 0,
        neigh4: 0,
        neigh6: 0,
        nexthops: 0,
        groups: 0,
        group_members: 0,
        buckets: 0,
        routes4: 0,
        routes6: 0,
        vrfs: 0,
        rules: 0,
        frame: 0,
    }
}

impl Core {
    /// A core that knows nothing yet. Its first deadline is at once. The monitor socket must be subscribed already, so
    /// that nothing is missed between the dumps and the notifications.
    pub fn new(cfg: CoreConfig) -> Self {
        Core {
            cfg,
            now: 0,
            started: false,
            out: VecDeque::new(),
            mirror: Mirror::default(),
            mirror_busy: false,
            changes: 0,
            polled: None,
            polls: 0,
            gate: Gate::default(),
            policy_known: false,
            profile: no_profile(),
            table_ports: BTreeMap::new(),
            ports: Ports::default(),
            port_refs: Vec::new(),
            program: Program::default(),
            vrfs: Vrfs::default(),
            vrfs_look: false,
            vrfs_wait: false,
            rule_tables: BTreeSet::new(),
            walks: Walks::default(),
            sync: sync::Sync::default(),
            chip: chip::Chip::default(),
            jobs: Vec::new(),
            check: None,
            audit_at: 0,
            fresh: fresh::Fresh::default(),
            stations: stations::Stations::default(),
            counts: Vec::new(),
            lists: VecDeque::new(),
            next_id: 0,
            totals: Totals::default(),
        }
    }

    /// Take one input at the time `now`, which never runs backwards. Takes a bounded time; what is left is done in the
    /// following calls, and the deadline is then at once.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        self.now = self.now.max(now);
        if !self.started {
            self.started = true;
            self.judge();
            self.resync();
            self.poll();
        }
        match input {
            Input::Monitor { seq, buf } => self.mirror.monitor(seq, &buf),
            Input::Overrun => self.overrun(),
            Input::Fence { id } => self.fence_came(id),
            Input::Dump { id, kind, seq, buf } => self.dump_part(id, kind, seq, &buf),
            Input::DumpEnd { id, kind, complete } => self.dump_end(id, kind, complete),
            Input::Ack { id, errno, message } => self.ack(id, errno, &message),
            Input::Polled(p) => self.polled(p),
            Input::Chip(m) => self.chip_said(m),
            Input::ChipLost(why) => self.chip_lost(why),
            Input::Request { id, request } => self.request(id, request),
            Input::Tick => {}
            Input::Warning(what) => self.totals.warnings.push(what),
        }
        self.work();
    }

    /// What the edge is to do next.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When `handle` wants to be called again at the latest; a time that has passed means at once.
    pub fn deadline(&self) -> Option<Nanos> {
        if !self.started || self.busy() {
            return Some(0);
        }
        let program = if self.programming() { self.program.deadline() } else { None };
        [program, self.sync.deadline(), self.settle_deadline(), self.fresh_deadline(), self.audit_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether work is left that needs nothing but time.
    fn busy(&self) -> bool {
        self.mirror_busy
            || (self.mirror.prefixes_dirty() && (!self.programming() || self.program.wants_prefixes()))
            || (self.programming()
                && (self.program.recompile_routes
                    || (self.walks.busy() && self.program.wants_prefixes())
                    || self.program.ready()))
            || (self.programming() && self.stations.busy())
            || !self.counts.is_empty()
            || !self.lists.is_empty()
            || self.check.as_ref().is_some_and(check::Check::busy)
    }

    /// Whether the chip may be written to: it has been read, and so has all of the kernel's state, once, and its policy for
    /// the chip's ports. Until then what the chip holds from before stays: a restart closes nothing for a moment.
    fn programming(&self) -> bool {
        self.chip.ready() && self.sync.first && self.policy_known
    }

    /// Whether policy was read for every port that there is: before that, a port's policy counts as closed.
    fn policy_covers_ports(&self) -> bool {
        self.polled.as_ref().is_some_and(|p| self.port_refs.iter().all(|r| p.ports.contains(r)))
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            mirror: &self.mirror,
            ports: &self.ports,
            gate: &self.gate,
            polled: self.polled.as_deref(),
            profile: &self.profile,
            vrfs: &self.vrfs,
        }
    }

    /// A bounded amount of whatever is to be done.
    fn work(&mut self) {
        self.mirror_busy = self.mirror.work(SWEEP);
        self.take_dirt();
        self.sync_work();
        // A restarted agent must not close for a moment what stands open in the chip.
        self.policy_known |= self.chip.ready() && self.sync.first && self.policy_covers_ports();
        if self.programming() {
            if core::mem::take(&mut self.program.recompile_routes) {
                self.walk_all();
            }
            self.walk_on();
            let facts = Facts {
                mirror: &self.mirror,
                ports: &self.ports,
                gate: &self.gate,
                polled: self.polled.as_deref(),
                profile: &self.profile,
                vrfs: &self.vrfs,
            };
            self.program.pump(self.now, &facts, &mut self.out);
        }
        self.vrfs_work();
        self.stations_work();
        self.fresh_work();
        self.settle_work();
        self.check_work();
        self.count_work();
        self.list_work();
    }

    /// What the mirror says has changed is looked at again.
    pub(crate) fn take_dirt(&mut self) {
        let d = self.mirror.take_dirt();
        self.changes += (d.links.len() + d.bridge_ports.len() + d.vlans.len()) as u64;
        // Stations that come and go by themselves make no difference to what is compared.
        let fixed = |k: &crate::mirror::StationKey| {
            self.mirror.station(k).is_some_and(crate::compile::bridge::fixed)
                || crate::compile::bridge::fdb_key(k).is_some_and(|k| self.program.station.known(hal::StaticKey(k)))
        };
        self.changes += d.stations.keys().filter(|k| fixed(k)).count() as u64;
        self.changes += (d.neighs4.len() + d.neighs6.len() + d.sets.len()) as u64
            + u64::from(d.netconf)
            + u64::from(d.rules)
            + u64::from(d.doubt);
        if d.stacks && self.ports_of(&self.mirror) != self.ports {
            self.count_ports();
        }
        // What a VRF's device is decides over its members.
        if d.links.iter().any(|i| self.mirror.link(*i).is_none_or(|l| l.kind == "vrf")) {
            self.touch_rifs();
        }
        for (i, stand) in self.ports.stands() {
            if d.links.contains(&i) || stand.below.iter().any(|b| d.links.contains(b)) {
                self.program.rif.touch(RifId(i));
            }
        }
        for (dev, vlan) in &d.forgets {
            self.stations_leave(*dev, *vlan);
        }
        for i in &d.links {
            if self.mirror.link(*i).is_none_or(|l| l.kind == "bridge") {
                self.touch_bridge(*i);
            }
            if self.ports.get(*i).is_some() {
                self.touch_bridge_port(*i);
            }
        }
        for i in &d.bridge_ports {
            self.touch_bridge_port(*i);
        }
        for (i, vid) in &d.vlans {
            self.touch_vlan(*i, *vid);
        }
        for (k, gone) in &d.stations {
            if let Some(k) = crate::compile::bridge::fdb_key(k) {
                self.stations.changed(k, *gone);
            }
            self.touch_station(k, false);
        }
        self.vrfs_look |= d.rules || !d.links.is_empty();
        // Once in a kernel's life.
        self.program.recompile_routes |= d.default4;
        if d.netconf {
            self.touch_rifs();
        }
        // Wherever its local route stands: that of a VRF's address is in the VRF's table.
        for a in &d.own4 {
            self.program.touch_in(vrf::DEFAULT, Prefix::<V4>::host(*a));
        }
        for (i, addr) in d.neighs4 {
            self.program.neigh4.touch(NeighKey { rif: RifId(i), addr });
            self.fresh.neigh_changed(i, addr.into());
        }
        for (i, addr) in d.neighs6 {
            self.program.neigh6.touch(NeighKey { rif: RifId(i), addr });
            self.fresh.neigh_changed(i, addr.into());
        }
        for (i, addr, was) in d.usurped {
            self.restore((i, addr), &was);
        }
        for nh in d.sets_gone {
            self.program.ids.set_gone(nh);
        }
        for nh in d.sets {
            self.program.ids.set_changed(nh);
        }
        if d.narrow {
            self.program.ids.touch_groups();
        }
        self.want_dumps(&d.wanted, &d.confirm);
        if !d.links.is_empty() {
            self.fresh.look();
            self.name_ports();
        }
        for what in &d.strange {
            tracing::warn!("netlink: {what}; it is counted in the status, and named here once");
        }
        if d.rules || d.netconf || d.doubt || !d.links.is_empty() {
            self.judge();
        }
        self.take_prefixes();
    }

    /// Take what the program can deal with now; the rest waits in the mirror, each prefix once.
    fn take_prefixes(&mut self) {
        if !self.mirror.prefixes_dirty() {
            return;
        }
        let (mut four, mut six) = (Vec::new(), Vec::new());
        if !self.programming() {
            // Everything is compiled when the chip has been read.
            self.mirror.drain_prefixes::<V4>(WALK, &mut four);
            self.mirror.drain_prefixes::<V6>(WALK, &mut six);
        } else if self.program.wants_prefixes() {
            self.mirror.drain_prefixes::<V4>(WALK, &mut four);
            self.mirror.drain_prefixes::<V6>(WALK, &mut six);
            four.iter().for_each(|(t, p)| self.program.touch(*t, *p));
            six.iter().for_each(|(t, p)| self.program.touch(*t, *p));
        }
        self.changes += (four.len() + six.len()) as u64;
        // Whether a rule's table holds anything.
        let tables = &self.rule_tables;
        if !tables.is_empty()
            && (four.iter().any(|(t, _)| tables.contains(t)) || six.iter().any(|(t, _)| tables.contains(t)))
        {
            self.vrfs_look = true;
        }
    }

    fn touch_rifs(&mut self) {
        for r in self.ports.rifs() {
            self.program.rif.touch(r);
        }
    }

    fn ports_of(&self, mirror: &Mirror) -> Ports {
        Ports::new(self.cfg.netns, self.table_ports.iter(), mirror)
    }

    /// The chip's ports changed, or what stands on them: what hangs on which netdev has an interface is looked at again.
    fn count_ports(&mut self) {
        let ports = self.ports_of(&self.mirror);
        let moved = !ports.stands().eq(self.ports.stands());
        self.touch_rifs();
        self.ports = ports;
        self.touch_rifs();
        self.touch_bridges();
        if moved {
            self.program.neigh4.touch_all();
            self.program.neigh6.touch_all();
            self.touch_neighs();
            self.program.ids.touch_groups();
            self.program.recompile_routes = true;
        }
        self.vrfs_look = true;
        self.fresh.look();
        self.name_ports();
    }

    fn touch_neighs(&mut self) {
        for (i, addr) in self.mirror.neighs::<V4>().keys() {
            self.program.neigh4.touch(NeighKey { rif: RifId(*i), addr: *addr });
        }
        for (i, addr) in self.mirror.neighs::<V6>().keys() {
            self.program.neigh6.touch(NeighKey { rif: RifId(*i), addr: *addr });
        }
    }

    /// Policy is read by name: a port that came, went or was renamed has to be read before it opens. So has a VRF that ports are in.
    fn name_ports(&mut self) {
        let ports = self.ports.rifs().filter_map(|r| self.mirror.link(r.0));
        let master =
            |l: &crate::mirror::Link| vrf::master(&self.mirror, l).ok().flatten().map(|m| (m.ifindex, m.name.clone()));
        // What an interface stands on may have none itself, as a bridge of which only VLANs are routed.
        let below = self.ports.stands().flat_map(|(_, s)| &s.below).filter_map(|i| self.mirror.link(*i));
        let named: BTreeMap<u32, String> =
            ports.chain(below).flat_map(|l| [Some((l.ifindex, l.name.clone())), master(l)]).flatten().collect();
        let refs: Vec<PortRef> = named.into_iter().map(|(ifindex, name)| PortRef { ifindex, name }).collect();
        if refs != self.port_refs {
            self.port_refs = refs;
            self.judge();
            self.poll();
        }
    }

    fn poll(&mut self) {
        self.out.push_back(Output::Poll { ports: self.port_refs.clone() });
    }

    fn polled(&mut self, p: Box<Polled>) {
        self.polls += 1;
        // While the topology changes the kernel lets stations age sooner, and says nothing of it (`__br_set_topology_change`).
        if self.mirror.links().any(|l| l.bridge.as_ref().is_some_and(|b| b.kernel_stp)) {
            self.want_dumps(&BTreeSet::from([DumpKind::Link]), &BTreeSet::new());
        }
        if self.polled.as_ref() != Some(&p) {
            let off = |p: &Polled| {
                let of = p.sysctls.iter().filter(|(k, _)| k.ends_with("/disable_ipv6"));
                of.map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
            };
            if self.polled.as_ref().is_some_and(|old| off(old) != off(&p)) {
                self.mirror.ipv6_switched();
            }
            let mtus = |p: &Polled| p.ports.iter().map(|r| p.mtu6(&r.name)).collect::<Vec<_>>();
            if self.polled.as_ref().is_some_and(|old| mtus(old) != mtus(&p)) {
                self.mirror.mtu6_changed();
            }
            if self.polled.as_ref().is_none_or(|old| old.use_neigh() != p.use_neigh()) {
                self.program.ids.touch_groups();
            }
            // Linux 6.1 does not announce it.
            let unsaid = |r: &PortRef| {
                let told = self.mirror.netconf6(r.ifindex).map(|c| c.ignore_linkdown);
                told.zip(p.ignores_linkdown6(&r.name)).is_some_and(|(a, b)| a != b)
            };
            if p.ports.iter().any(unsaid) {
                self.want_dumps(&BTreeSet::from([DumpKind::Netconf]), &BTreeSet::new());
            }
            self.polled = Some(p);
            self.judge();
            self.program.switch.touch(hal::Global);
            self.touch_rifs();
        }
    }

    /// What policy closes, by the rules and settings that a mirror knows of.
    fn gate_of(&self, mirror: &Mirror, vrfs: &Vrfs) -> Gate {
        let mut findings = crate::policy::gate(self.polled.as_deref(), &self.port_refs);
        findings.retain(|f| !(f.firewall && self.cfg.ignore_firewall));
        // Without a bridge nothing of it is in the way.
        if !mirror.links().any(|l| l.kind == "bridge") {
            findings.retain(|f| !matches!(f.scope, Scope::Bridge | Scope::Svi));
        }
        // An `ip rule` that is not compiled closes what it may be about.
        let odd = |o: &Odd, all| {
            let scope = match o.reach {
                Reach::All => all,
                Reach::Link(i) => Scope::Link(i),
                Reach::To(a, len) => Scope::Prefix(a, len),
            };
            Finding::new(scope, o.why.clone())
        };
        findings.extend(vrfs.rules4.odd.iter().map(|o| odd(o, Scope::V4)));
        findings.extend(vrfs.rules6.odd.iter().map(|o| odd(o, Scope::V6)));
        findings.extend(mirror.doubts().map(|(kind, why)| {
            let scope = match kind {
                DumpKind::Route4 => Scope::V4,
                DumpKind::Route6 => Scope::V6,
                _ => Scope::All,
            };
            Finding::new(scope, format!("the kernel speaks of {kind} in a way that can't be read ({})", why.0))
        }));
        if let Some(p) = &self.polled {
            findings.extend(crate::policy::disagree(p, |i| {
                let c = mirror.netconf4(i)?;
                Some(Netconf4 {
                    forwarding: c.forwarding,
                    rp_filter: c.rp_filter.into(),
                    ignore_linkdown: c.ignore_linkdown,
                })
            }));
        }
        Gate::new(findings)
    }

    /// What policy closes is worked out anew.
    fn judge(&mut self) {
        self.rule_tables = self.mirror.rule_tables();
        let gate = self.gate_of(&self.mirror, &self.vrfs);
        if gate != self.gate {
            let old = core::mem::replace(&mut self.gate, gate);
            self.touch_rifs();
            self.touch_bridges();
            self.judge_prefixes::<V4>(&old);
            self.judge_prefixes::<V6>(&old);
            for (vrf, host) in old.hosts::<V4>().chain(self.gate.hosts::<V4>()) {
                self.program.touch_in(vrf, Prefix::<V4>::host(host));
            }
            for (vrf, host) in old.hosts::<V6>().chain(self.gate.hosts::<V6>()) {
                self.program.touch_in(vrf, Prefix::<V6>::host(host));
            }
        }
    }

    /// Prefixes are closed or opened, with all that is under them.
    fn judge_prefixes<F: crate::program::Tables>(&mut self, old: &Gate) {
        let all: Vec<Prefix<F>> = old.prefixes::<F>().chain(self.gate.prefixes::<F>()).collect();
        if old.prefixes::<F>().eq(self.gate.prefixes::<F>()) {
            return;
        }
        let routers: Vec<_> = self.program.vrfs.iter().map(|(id, _)| id).chain([vrf::DEFAULT]).collect();
        routers.into_iter().for_each(|v| all.iter().for_each(|p| self.program.touch_in(v, *p)));
        self.program.recompile_routes = true;
    }

    fn request(&mut self, id: u64, request: Request) {
        match request {
            Request::Status => self.count_begin(id),
            Request::List(what) => self.list_begin(id, what),
            Request::Routes { cursor, max } => {
                let (page, next) = show::routes(self, cursor, max as usize);
                self.out.push_back(Output::Reply { id, reply: Reply::Page { json: page.to_string(), next } });
            }
            Request::Counters | Request::Resources | Request::Buckets { .. } | Request::Table { .. } => {
                self.ask_chip(id, request)
            }
            Request::Settle => self.settle(id),
            Request::Check => self.check_asked(id),
            Request::Cancel { id } => self.cancel(id),
        }
    }

    fn reply_json(&mut self, id: u64, json: serde_json::Value) {
        self.out.push_back(Output::Reply { id, reply: Reply::Json(json.to_string()) });
    }

    fn reply_error(&mut self, id: u64, why: impl Into<String>) {
        self.out.push_back(Output::Reply { id, reply: Reply::Error(why.into()) });
    }

    fn cancel(&mut self, id: u64) {
        self.jobs.retain(|j| j.reply() != Some(id));
        self.counts.retain(|c| c.id != id);
        self.lists.retain(|l| l.id != id);
        self.chip.cancel(id);
        if let Some(c) = &mut self.check {
            c.askers.retain(|a| *a != id);
        }
    }

    /// Log a difference that an audit had to repair: a bug of ours or of the chip's.
    fn repaired(&mut self, what: String) {
        tracing::error!("audit: repaired {what}");
        self.totals.repairs += 1;
        self.totals.last_repairs.push(what);
        if self.totals.last_repairs.len() > 16 {
            self.totals.last_repairs.remove(0);
        }
    }

    /// The prefix of a route's key, to have it compiled again.
    fn touch_key(&mut self, key: AnyKey) {
        match key {
            AnyKey::Port(_) | AnyKey::Bucket(_) | AnyKey::Fdb(_) => {}
            AnyKey::Fid(k) => self.program.fid.touch(k),
            AnyKey::BridgePort(k) => self.program.bridge_port.touch(k),
            AnyKey::FidMember(k) => self.program.member.touch(k),
            AnyKey::FdbStatic(k) => self.program.station.touch(k),
            AnyKey::Switch(k) => self.program.switch.touch(k),
            AnyKey::Rif(k) => self.program.rif.touch(k),
            AnyKey::Neigh4(k) => self.program.neigh4.touch(k),
            AnyKey::Neigh6(k) => self.program.neigh6.touch(k),
            AnyKey::NextHop(k) => self.program.nexthop.touch(k),
            AnyKey::Group(k) => self.program.group.touch(k),
            AnyKey::Route4(k) => self.program.touch_in(k.vrf, k.prefix),
            AnyKey::Route6(k) => self.program.touch_in(k.vrf, k.prefix),
        }
    }
}

/// A prefix as `ip` prints it.
fn prefix_name<F: hal::Family>(p: Prefix<F>) -> String {
    if p.len() == 0 {
        "default".into()
    } else if p.len() == F::BITS {
        p.addr().to_string()
    } else {
        p.to_string()
    }
}

#[cfg(test)]
mod tests;
