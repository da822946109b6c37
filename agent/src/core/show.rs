//! Answers to operators, as JSON; names follow `ip -j` where the same thing has one there. Changes nothing.

mod bridge;
pub(super) mod nexthop;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::{Addr, BridgePortId, Counters, FdbKey, Fwd, Prefix, RifKind, Usage, V4, V6, VrfId};
use serde_json::{Map, Value, json};

use super::check::adjacency;
use super::walk::prefixes;
use super::{Core, prefix_name};
use crate::compile::group::IFF_UP;
use crate::compile::neigh::nud;
use crate::compile::route::{Decided, Verdict, rtn};
use crate::compile::vrf::{DEFAULT, Place};
use crate::compile::{self, Facts, Why};
use crate::input::{Listed, Output, Reply};
use crate::mirror::{Alias, Hop, MirrorFamily, NhSet, ObjectTo, StationKey, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::policy::Scope;
use crate::program::Tables;
use crate::program::routes::State;

/// Prefixes counted at a time.
const CHUNK: usize = 4096;
/// Links, neighbours or next-hop objects put into words at a time.
const ROWS: usize = 512;

/// A list of links, neighbours or next-hop objects that is being put into words.
#[derive(Debug)]
pub(super) struct List {
    pub id: u64,
    part: Part,
    text: String,
}

/// What comes next in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Links behind that index.
    Links(u32),
    /// Neighbours behind that device and address.
    Neighs4(Option<(u32, Ipv4Addr)>),
    Neighs6(Option<(u32, Ipv6Addr)>),
    /// Next-hop objects behind that id.
    NextHops(u32),
    /// Stations behind that one; and those that the kernel does not know.
    Stations(Option<StationKey>),
    Unsaid(Option<FdbKey>),
    /// VLANs behind that device and number.
    Vlans(Option<(u32, u16)>),
    /// Bridge ports behind that index.
    States(u32),
}

/// A count of routes by what became of them, for `status`.
#[derive(Debug)]
pub(super) struct Count {
    pub id: u64,
    v6: bool,
    vrf: VrfId,
    cursor: u64,
    families: [Family; 2],
}

#[derive(Debug, Default)]
struct Family {
    total: u64,
    offloaded: u64,
    why: BTreeMap<String, u64>,
}

impl Core {
    pub(super) fn count_begin(&mut self, id: u64) {
        self.counts.push(Count { id, v6: false, vrf: DEFAULT, cursor: 0, families: Default::default() });
    }

    /// Begin to put a list into words.
    pub(super) fn list_begin(&mut self, id: u64, what: Listed) {
        let part = match what {
            Listed::Links => Part::Links(0),
            Listed::Neighs => Part::Neighs4(None),
            Listed::NextHops => Part::NextHops(0),
            Listed::Fdb => Part::Stations(None),
            Listed::Vlans => Part::Vlans(None),
            Listed::Stp => Part::States(0),
        };
        self.lists.push_back(List { id, part, text: "[".into() });
    }

    /// Put the next rows of a list into words.
    pub(super) fn list_work(&mut self) {
        let Some(mut l) = self.lists.pop_front() else { return };
        let (rows, next) = match l.part {
            Part::Links(after) => links(self, after),
            Part::NextHops(after) => nexthop::rows(self, after),
            Part::Stations(after) => bridge::stations(self, after),
            Part::Unsaid(after) => bridge::unsaid(self, after),
            Part::Vlans(after) => bridge::vlans(self, after),
            Part::States(after) => bridge::states(self, after),
            Part::Neighs4(after) => {
                let (rows, last) = neighs::<V4>(self, after);
                (rows, Some(last.map_or(Part::Neighs6(None), |k| Part::Neighs4(Some(k)))))
            }
            Part::Neighs6(after) => {
                let (rows, last) = neighs::<V6>(self, after);
                (rows, last.map(|k| Part::Neighs6(Some(k))))
            }
        };
        for r in rows {
            if l.text.len() > 1 {
                l.text.push(',');
            }
            l.text.push_str(&r.to_string());
        }
        match next {
            Some(part) => self.lists.push_front(List { part, ..l }),
            None => {
                l.text.push(']');
                self.out.push_back(Output::Reply { id: l.id, reply: Reply::Json(l.text) });
            }
        }
    }

    pub(super) fn count_work(&mut self) {
        let Some(mut c) = self.counts.pop() else { return };
        let next = if c.v6 { count::<V6>(self, &mut c) } else { count::<V4>(self, &mut c) };
        match (next, self.vrfs.after(c.vrf)) {
            (Some(cursor), _) => self.counts.push(Count { cursor, ..c }),
            (None, Some(vrf)) => self.counts.push(Count { vrf, cursor: 0, ..c }),
            (None, None) if !c.v6 => self.counts.push(Count { v6: true, vrf: DEFAULT, cursor: 0, ..c }),
            (None, None) => {
                let json = status(self, &c);
                self.reply_json(c.id, json);
            }
        }
    }
}

fn count<F: Tables>(core: &Core, c: &mut Count) -> Option<u64> {
    let (page, next) = prefixes::<F>(&core.mirror, &core.gate, &core.vrfs, c.vrf, c.cursor, CHUNK);
    let facts = core.facts();
    let family = &mut c.families[usize::from(F::BITS == 128)];
    for p in page.into_iter().filter(|p| reported(core, c.vrf, *p)) {
        let Some(d) = compile::route::route(&facts, c.vrf, p) else { continue };
        family.total += 1;
        match fate(core, &facts, c.vrf, p, &d) {
            None => family.offloaded += 1,
            Some(why) => *family.why.entry(why).or_default() += 1,
        }
    }
    next
}

/// Whether a prefix is one of a virtual router's own: table local's, which each of them has, are shown once.
fn reported<F: MirrorFamily>(core: &Core, vrf: VrfId, p: Prefix<F>) -> bool {
    vrf == DEFAULT || !core.mirror.aliases::<F>(vrf.0, p).is_empty()
}

/// Why hardware does not carry what the prefix leads to; `None` if it does.
fn fate<F: Tables>(core: &Core, facts: &Facts<'_>, vrf: VrfId, p: Prefix<F>, d: &Decided) -> Option<String> {
    if let Some(why) = &d.why {
        return Some(named(core, why));
    }
    if vrf != DEFAULT && core.program.place(vrf) == Place::NoRoom {
        return Some(Why::VrfNoRoom(core.profile.vrfs).to_string());
    }
    match F::routes(&core.program, vrf).map_or(State::Absent, |r| r.state(p)) {
        State::Absent => {
            return Some(core.chip.absent().unwrap_or_else(|| "is on its way to the chip".into()));
        }
        State::NoRoom => return Some("the chip's route table is full".into()),
        State::Guard => return Some("a route under it found no room in the chip's route table".into()),
        State::Refused(why) => return Some(format!("the chip refused it: {why}")),
        State::Standing(Fwd::Trap(hal::TrapClass::NoRoom)) => {
            return Some("the chip has no room for what it leads to".into());
        }
        State::Standing(_) => {}
    }
    if let Verdict::Set(nh) = d.verdict {
        let spec = compile::group::group(facts, nh);
        if spec.all_trap() {
            return Some(spec.why.map_or_else(|| "no next hop of it is usable".into(), |w| named(core, &w)));
        }
        if let Some(g) = core.program.ids.group_of(nh)
            && core.program.group.acked(g).is_none_or(|e| e.members.is_empty())
        {
            return Some("the chip has no room for its next hops".into());
        }
    }
    None
}

/// A reason with the device's name in place of its number.
fn named(core: &Core, why: &Why) -> String {
    match why {
        Why::NotPort(i) => format!("leaves by {}, which is not a front-panel port", dev(core, *i)),
        why => why.to_string(),
    }
}

fn dev(core: &Core, ifindex: u32) -> String {
    core.mirror.link(ifindex).map_or_else(|| format!("if{ifindex}"), |l| l.name.clone())
}

/// A virtual router in `status`.
fn vrf_row(v: &compile::vrf::Vrf) -> Value {
    let why = match v.place {
        Place::Open => None,
        Place::Filling => Some("its routes are on their way to the chip"),
        Place::NoRoom => Some("the chip holds no more virtual routers"),
    };
    json!({"ifname": v.name, "offload": why.is_none(), "why": why})
}

/// A virtual router as its device is named, or by its number.
fn vrf_name(core: &Core, id: VrfId) -> String {
    core.vrfs.get(id).map_or_else(|| format!("vrf {id}"), |v| v.name.clone())
}

fn scope_name(core: &Core, s: Scope) -> String {
    match s {
        Scope::All => "all".into(),
        Scope::Bridge => "bridge".into(),
        Scope::Svi => "routed from and to bridges".into(),
        Scope::V4 => "inet".into(),
        Scope::V6 => "inet6".into(),
        Scope::Link(i) => dev(core, i),
        Scope::Prefix(a, len) => format!("{a}/{len}"),
        Scope::Host(0, a) => a.to_string(),
        Scope::Host(v, a) => format!("{a} in {}", vrf_name(core, VrfId(v))),
        Scope::Ingress4(i) => format!("inet in by {}", dev(core, i)),
        Scope::Ingress6(i) => format!("inet6 in by {}", dev(core, i)),
    }
}

fn status(core: &Core, c: &Count) -> Value {
    let family = |f: &Family| json!({"total": f.total, "offloaded": f.offloaded, "punted": f.why});
    let waits = core.waits_for();
    let stats = core.mirror.stats();
    let (absent4, guards4) = starved::<V4>(core);
    let (absent6, guards6) = starved::<V6>(core);
    let mut warnings = core.totals.warnings.clone();
    if core.cfg.ignore_firewall {
        let passed = core.polled.iter().flat_map(|p| &p.findings).filter(|f| f.firewall).map(|f| f.why.as_str());
        let passed: Vec<&str> = passed.collect();
        let now = if passed.is_empty() { "nothing at present".to_owned() } else { passed.join("; ") };
        warnings.push(format!("policy.firewall is \"ignore\": hardware forwards past nftables and iptables ({now})"));
    }
    if absent4 + absent6 > 0 {
        warnings.push(format!(
            "{} routes find no room in the chip; {} covering routes are punted for them",
            absent4 + absent6,
            guards4 + guards6
        ));
    }
    if core.totals.repairs > 0 {
        warnings.push(format!("audits had to repair {} things: each is a bug", core.totals.repairs));
    }
    if core.totals.refused_requests > 0 {
        warnings.push(core.totals.last_refusal.clone());
    }
    warnings.extend(core.table_ports.values().filter_map(|p| Some(format!("port {}: {}", p.name, fault(p.fault?)))));
    json!({
        "settled": waits.is_none(),
        "waiting": waits.into_iter().collect::<Vec<_>>(),
        "chip": {
            "connected": core.chip.absent().is_none(),
            "profile": core.profile.name,
            "about": core.chip.about,
            "boot_id": core.chip.boot_id.map(|b| format!("{b:016x}")),
            "connects": core.chip.connects,
            "ports": core.ports.iter().count(),
        },
        "netns": core.cfg.netns,
        "ports": ports(core),
        "punted": core.gate.findings().iter()
            .map(|f| json!({"scope": scope_name(core, f.scope), "why": f.why}))
            .collect::<Vec<_>>(),
        "vrfs": core.vrfs.ids().filter_map(|id| core.vrfs.get(id)).map(vrf_row).collect::<Vec<_>>(),
        "routes": {"inet": family(&c.families[0]), "inet6": family(&c.families[1])},
        "counts": {
            "links": core.mirror.links().count(),
            "neighs": core.mirror.neighs::<V4>().len() + core.mirror.neighs::<V6>().len(),
            "routes4": c.families[0].total,
            "routes6": c.families[1].total,
            "offloaded4": c.families[0].offloaded,
            "offloaded6": c.families[1].offloaded,
            "managed": core.fresh.held(),
            "stations": core.stations.learned(),
            "stations_told": core.stations.told,
            "stations_followed": core.stations.followed,
        },
        "operations": {
            "sent": core.program.totals.sent,
            "acknowledged": core.program.totals.acked,
            "refused": core.program.totals.refused,
            "batches_in_flight": core.program.in_flight(),
        },
        "audits": core.totals.audits,
        "checks": core.totals.checks,
        "repairs": core.totals.repairs,
        "last_repairs": core.totals.last_repairs,
        "overruns": core.totals.overruns,
        "resyncs": core.totals.resyncs,
        "unknown": stats.unknown.iter().map(|(u, n)| json!({"what": u.to_string(), "count": n})).collect::<Vec<_>>(),
        "unreadable": stats.unreadable.iter()
            .map(|((kind, why), n)| json!({"what": format!("messages of type {kind}: {why}"), "count": n}))
            .collect::<Vec<_>>(),
        "unwatched": core.polled.as_ref().map_or(&[][..], |p| &p.unwatched),
        "warnings": warnings,
    })
}

/// How many routes of a family found no room, and how many prefixes are traps because of them.
fn starved<F: Tables>(core: &Core) -> (usize, usize) {
    let all = core.program.vrfs.iter().map(|(id, _)| id).chain([DEFAULT]).filter_map(|v| F::routes(&core.program, v));
    all.map(crate::program::routes::Routes::starved).fold((0, 0), |(a, g), (x, y)| (a + x, g + y))
}

fn fault(f: hal::PortFault) -> &'static str {
    match f {
        hal::PortFault::HostIfDeleted => "its netdev was deleted",
        hal::PortFault::HostIfMoved => "its netdev was moved to another network namespace",
        hal::PortFault::WireGone => "its wire is gone",
        hal::PortFault::WireRefused => "its wire could not be brought up",
        hal::PortFault::WireMtu => "its wire refused the MTU of its netdev",
    }
}

fn ports(core: &Core) -> Vec<Value> {
    let facts = core.facts();
    let row = |(id, e): (&hal::PortId, &hal::PortEntry)| {
        let ours = e.netns == core.cfg.netns && e.ifindex != 0;
        let link = ours.then(|| core.mirror.link(e.ifindex)).flatten();
        let spec = ours.then(|| compile::rif::rif(&facts, e.ifindex)).flatten();
        let why = |f: fn(&compile::rif::RifSpec) -> &Option<Why>| match &spec {
            None => Some("its netdev is not in the agent's network namespace".to_owned()),
            Some(s) => f(s).as_ref().map(|w| named(core, w)),
        };
        let bridge = ours.then(|| compile::bridge::bridge_port(&facts, BridgePortId(e.ifindex))).flatten();
        // A port of a bridge has no other frames than the bridge's.
        let closed = match &bridge {
            Some(s) => [&s.ingress, &s.ingress, &s.egress].map(|w| w.as_ref().map(|w| named(core, w))),
            None => [why(|s| &s.ingress4), why(|s| &s.ingress6), why(|s| &s.egress)],
        };
        json!({
            "port": id,
            "name": e.name,
            "ifname": link.map(|l| &l.name),
            "ifindex": e.ifindex,
            "address": e.mac,
            "wire": e.wire,
            "fault": e.fault,
            "admin": e.admin,
            "link": e.link,
            "mtu": e.mtu,
            "offload": closed.iter().all(Option::is_none),
            "punted": {"inet": closed[0], "inet6": closed[1], "out": closed[2]},
            "state": bridge.as_ref().map(|s| s.entry.state),
            "rp_filter": spec.as_ref().map(|s| s.entry.urpf),
        })
    };
    core.table_ports.iter().map(row).collect()
}

/// `IFF_*` (`linux/if.h`), as `ip` names them.
fn flag_names(flags: u32, carrier: bool) -> Vec<&'static str> {
    let bit = |bit: u32, name| (flags & (1 << bit) != 0).then_some(name);
    let no_carrier = (flags & IFF_UP != 0 && !carrier).then_some("NO-CARRIER");
    [
        no_carrier,
        bit(3, "LOOPBACK"),
        bit(1, "BROADCAST"),
        bit(4, "POINTOPOINT"),
        bit(12, "MULTICAST"),
        bit(7, "NOARP"),
        bit(8, "PROMISC"),
        bit(0, "UP"),
        bit(16, "LOWER_UP"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `IF_OPER_*` (`linux/if.h`), as `ip` names them.
const OPERSTATES: [&str; 7] = ["UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"];

/// `link show`: the kernel's devices, and what the chip makes of those that are ports.
fn links(core: &Core, after: u32) -> (Vec<Value>, Option<Part>) {
    let facts = core.facts();
    let row = |l: &crate::mirror::Link| {
        let mut o = json!({
            "ifindex": l.ifindex,
            "ifname": l.name,
            "flags": flag_names(l.flags, l.carrier),
            "mtu": l.mtu,
            "operstate": OPERSTATES.get(usize::from(l.operstate)).copied().unwrap_or("UNKNOWN"),
        });
        let Some(o) = o.as_object_mut() else { return Value::Null };
        if let Some(mac) = l.mac {
            o.insert("address".into(), mac.to_string().into());
        }
        if let Some(m) = l.master {
            o.insert("master".into(), dev(core, m).into());
        }
        if let Some(spec) = compile::rif::rif(&facts, l.ifindex) {
            let mut why: Vec<String> =
                [&spec.egress, &spec.ingress4, &spec.ingress6].into_iter().flatten().map(|w| named(core, w)).collect();
            if let Some((_, e)) = core.ports.get(l.ifindex) {
                why.extend(e.fault.map(|f| fault(f).to_owned()));
                o.insert("wire".into(), e.wire.clone().into());
                o.insert("link".into(), e.link.into());
            } else {
                o.insert("on".into(), l.lower.map(|i| dev(core, i)).into());
            }
            // A bridge has its frames: what keeps them from hardware is what matters.
            if let Some(spec) = compile::bridge::bridge_port(&facts, BridgePortId(l.ifindex)) {
                why = [&spec.egress, &spec.ingress].into_iter().flatten().map(|w| named(core, w)).collect();
                o.insert("bridge".into(), (spec.entry.ingress && spec.entry.egress).into());
                o.insert("state".into(), serde_json::json!(spec.entry.state));
            }
            why.dedup();
            match spec.entry.kind {
                RifKind::Port { port, tags } => {
                    o.insert("port".into(), core.table_ports.get(&port).map(|e| e.name.clone()).into());
                    let tags = tags.iter().map(|t| json!({"protocol": t.tpid, "id": t.vid}));
                    o.insert("tags".into(), tags.collect::<Vec<_>>().into());
                }
                RifKind::Fid(fid) => {
                    let (own, vid) = compile::bridge::split(fid);
                    o.insert("svi".into(), json!({"bridge": dev(core, own), "vlan": (vid != 0).then_some(vid)}));
                }
            }
            if o.get("bridge").is_none() {
                o.insert("ipv4".into(), spec.entry.ingress4.into());
                o.insert("ipv6".into(), spec.entry.ingress6.into());
                o.insert("egress".into(), spec.entry.egress.into());
            }
            o.insert("why".into(), why.into());
        }
        Value::Object(core::mem::take(o))
    };
    let page: Vec<_> = core.mirror.links().filter(|l| l.ifindex > after).take(ROWS).collect();
    let next = page.last().filter(|_| page.len() == ROWS).map(|l| Part::Links(l.ifindex));
    (page.into_iter().map(row).collect(), next)
}

fn state_names(state: u16) -> Vec<&'static str> {
    [
        (nud::INCOMPLETE, "INCOMPLETE"),
        (nud::REACHABLE, "REACHABLE"),
        (nud::STALE, "STALE"),
        (nud::DELAY, "DELAY"),
        (nud::PROBE, "PROBE"),
        (nud::FAILED, "FAILED"),
        (nud::NOARP, "NOARP"),
        (nud::PERMANENT, "PERMANENT"),
    ]
    .into_iter()
    .filter_map(|(bit, name)| (state & bit != 0).then_some(name))
    .collect()
}

/// `neigh show`: rows, and the last of them if there may be more.
fn neighs<F: MirrorFamily>(core: &Core, after: Option<(u32, F::Addr)>) -> (Vec<Value>, Option<(u32, F::Addr)>) {
    use core::ops::Bound::{Excluded, Unbounded};
    let facts = core.facts();
    let row = |i: u32, addr: IpAddr, n: &crate::mirror::Neigh| {
        let why = match compile::neigh::neigh(&facts, i, n) {
            Err(why) => Some(named(core, &why)),
            Ok(_) if adjacency(&core.program, i, addr) => None,
            Ok(_) => Some(core.chip.absent().unwrap_or_else(|| "the chip has no room for it, or refused it".into())),
        };
        json!({
            "dst": addr,
            "dev": dev(core, i),
            "lladdr": n.mac,
            "state": state_names(n.state),
            "managed": n.flags_ext & 1 != 0,
            "offload": why.is_none(),
            "why": why,
        })
    };
    let all = core.mirror.neighs::<F>().range((after.map_or(Unbounded, Excluded), Unbounded));
    let page: Vec<_> = all.take(ROWS).collect();
    let last = page.last().filter(|_| page.len() == ROWS).map(|(k, _)| **k);
    (page.into_iter().map(|((i, a), n)| row(*i, a.ip(), n)).collect(), last)
}

/// Set in a cursor of [`routes`] that stands in IPv6.
const IN_V6: u64 = 1 << 63;
/// Where in such a cursor the place of the virtual router among all of them stands, the default one at 0.
const ROUTER: u32 = 40;

/// A page of `route show`.
pub(super) fn routes(core: &Core, cursor: u64, max: usize) -> (Value, Option<u64>) {
    let mut rows = Vec::new();
    let family = cursor & IN_V6;
    let place = (cursor & !IN_V6) >> ROUTER;
    let inner = cursor & ((1 << ROUTER) - 1);
    let vrf = core::iter::once(DEFAULT).chain(core.vrfs.ids()).nth(place as usize);
    let next = vrf.and_then(|vrf| match family {
        0 => page::<V4>(core, vrf, inner, max, &mut rows),
        _ => page::<V6>(core, vrf, inner, max, &mut rows),
    });
    let next = match (next, vrf.and_then(|v| core.vrfs.after(v))) {
        (Some(inner), _) => Some(family | place << ROUTER | inner),
        (None, Some(_)) => Some(family | (place + 1) << ROUTER),
        (None, None) => (family == 0).then_some(IN_V6),
    };
    (Value::Array(rows), next)
}

fn page<F: Tables>(core: &Core, vrf: VrfId, cursor: u64, max: usize, rows: &mut Vec<Value>) -> Option<u64> {
    let facts = core.facts();
    let (page, next) = prefixes::<F>(&core.mirror, &core.gate, &core.vrfs, vrf, cursor, max.max(1));
    for p in page.into_iter().filter(|p| reported(core, vrf, *p)) {
        let Some(d) = compile::route::route(&facts, vrf, p) else { continue };
        let why = fate(core, &facts, vrf, p, &d);
        let mut first = true;
        for table in core.vrfs.tables::<F>(vrf).iter().copied().filter(|t| vrf == DEFAULT || *t == vrf.0) {
            for a in preferred(&core.mirror.aliases::<F>(table, p)) {
                let why = if core::mem::take(&mut first) {
                    why.clone()
                } else {
                    Some("another route of this prefix is preferred".into())
                };
                rows.push(route(core, F::BITS == 32, prefix_name(p), table, &a, why));
            }
        }
    }
    next
}

/// Lowest metric first; within a metric the kernel's order.
fn preferred(aliases: &[Alias]) -> Vec<Alias> {
    let mut v = aliases.to_vec();
    v.sort_by_key(|a| a.metric);
    v
}

fn route(core: &Core, v4: bool, dst: String, table: u32, a: &Alias, why: Option<String>) -> Value {
    let mut o = Map::new();
    o.insert("dst".into(), dst.into());
    if a.kind != rtn::UNICAST {
        o.insert("type".into(), type_name(a.kind).into());
    }
    let each = |h: &Hop| {
        let mut o = Map::new();
        hop(core, v4, h, &mut o);
        o.insert("weight".into(), h.weight.into());
        Value::Object(o)
    };
    match core.mirror.nhset(a.nh) {
        NhSet::Object(id) => {
            o.insert("nhid".into(), (*id).into());
            // What it leads to as well, as `ip` shows it.
            let to = |id: u32| core.mirror.object(id).map(|o| &o.to);
            match to(*id) {
                Some(ObjectTo::Hop(h)) => hop(core, v4, h, &mut o),
                Some(ObjectTo::Group(m) | ObjectTo::Resilient(m, _) | ObjectTo::Other(m)) => {
                    let member = |(id, weight): &(u32, u16)| match to(*id) {
                        Some(ObjectTo::Hop(h)) => Some(each(&Hop { weight: *weight, ..*h })),
                        _ => None,
                    };
                    o.insert("nexthops".into(), m.iter().filter_map(member).collect::<Vec<_>>().into());
                }
                _ => {}
            }
        }
        NhSet::Inline(hops) => match &hops[..] {
            [] => {}
            [h] => hop(core, v4, h, &mut o),
            hops => drop(o.insert("nexthops".into(), hops.iter().map(each).collect::<Vec<_>>().into())),
        },
    }
    match table {
        TABLE_LOCAL => drop(o.insert("table".into(), "local".into())),
        TABLE_DEFAULT => drop(o.insert("table".into(), "default".into())),
        TABLE_MAIN => {}
        t => {
            o.insert("table".into(), t.to_string().into());
            o.insert("vrf".into(), vrf_name(core, VrfId(t)).into());
        }
    }
    o.insert("protocol".into(), protocol_name(a.proto).into());
    if let Some(scope) = scope_word(a.scope) {
        o.insert("scope".into(), scope.into());
    }
    if let Some(src) = core.mirror.prefsrc(a).filter(|_| v4) {
        o.insert("prefsrc".into(), src.to_string().into());
    }
    if a.metric != 0 {
        o.insert("metric".into(), a.metric.into());
    }
    let mtu = core.mirror.nhset_mtu(a.nh);
    if mtu != 0 {
        o.insert("metrics".into(), json!([{"mtu": mtu}]));
    }
    if a.tos != 0 {
        o.insert("tos".into(), format!("{:#04x}", a.tos).into());
    }
    o.insert("offload".into(), why.is_none().into());
    if let Some(why) = why {
        o.insert("why".into(), why.into());
    }
    Value::Object(o)
}

fn hop(core: &Core, v4: bool, h: &Hop, o: &mut Map<String, Value>) {
    match h.via {
        Some(gw @ IpAddr::V6(_)) if v4 => {
            o.insert("via".into(), json!({"family": "inet6", "host": gw}));
        }
        Some(gw) => drop(o.insert("gateway".into(), gw.to_string().into())),
        None => {}
    }
    if h.ifindex != 0 {
        o.insert("dev".into(), dev(core, h.ifindex).into());
    }
    let flags: Vec<&str> =
        [(h.onlink, "onlink"), (h.dead, "dead")].iter().filter_map(|(on, n)| on.then_some(*n)).collect();
    o.insert("flags".into(), flags.into());
}

/// `RT_SCOPE_LINK` and `RT_SCOPE_HOST`, as `ip` names them; it says nothing of the widest.
fn scope_word(scope: u8) -> Option<&'static str> {
    match scope {
        253 => Some("link"),
        254 => Some("host"),
        _ => None,
    }
}

/// `rtm_type`, as `ip` names it.
fn type_name(kind: u8) -> String {
    let names = [
        "none",
        "unicast",
        "local",
        "broadcast",
        "anycast",
        "multicast",
        "blackhole",
        "unreachable",
        "prohibit",
        "throw",
        "nat",
    ];
    names.get(usize::from(kind)).map_or_else(|| kind.to_string(), |s| (*s).to_owned())
}

/// `rtm_protocol`, as `ip` names it (`/etc/iproute2/rt_protos`).
fn protocol_name(proto: u8) -> String {
    match proto {
        0 => "none",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        13 => "dnrouted",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    }
    .into()
}

/// `counters`.
pub(super) fn counters(core: &Core, c: &Counters) -> Value {
    let port = |(id, p): &(hal::PortId, hal::PortCounters)| {
        let mut o = serde_json::to_value(p).unwrap_or(Value::Null);
        if let Some(o) = o.as_object_mut() {
            o.insert("port".into(), json!(id));
            o.insert("name".into(), core.table_ports.get(id).map(|e| e.name.clone()).into());
        }
        o
    };
    let traps: Vec<Value> = c
        .traps
        .iter()
        .map(|(class, n)| {
            let dropped = c.trap_drops.iter().find(|(d, _)| d == class).map_or_else(Default::default, |(_, n)| *n);
            json!({"class": class.name(), "frames": n.frames, "bytes": n.bytes, "dropped": dropped})
        })
        .collect();
    let drops: Vec<Value> =
        c.drops.iter().map(|(r, n)| json!({"reason": r.name(), "frames": n.frames, "bytes": n.bytes})).collect();
    json!({"ports": c.ports.iter().map(port).collect::<Vec<_>>(), "traps": traps, "drops": drops})
}

/// `resources`.
pub(super) fn resources(core: &Core, usage: &[Usage]) -> Value {
    let row = |u: &Usage| {
        let capacity = (u.capacity != u32::MAX).then_some(u.capacity);
        let starved = match u.table {
            hal::TableId::Route4 => starved::<V4>(core).0,
            hal::TableId::Route6 => starved::<V6>(core).0,
            _ => 0,
        };
        json!({"table": u.table.name(), "used": u.used, "capacity": capacity, "no_room": starved})
    };
    Value::Array(usage.iter().map(row).collect())
}
