//! What the configuration allows where the kernel has a choice: the members of a multipath route, from `ip -j`.
//!
//! Not a second FIB: it is asked only about frames that the worlds disagree on, and only whether a route has several members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use hal::Mac;
use serde_json::Value;

use super::flows::Policy;
use crate::world::Said;

/// A neighbour.
#[derive(Clone, Debug)]
pub struct Neighbour {
    port: usize,
    addr: IpAddr,
    /// Its MAC, while it is usable.
    pub mac: Option<Mac>,
    /// It has failed by the scenario's word (`extern_learn`), and not by a packet's.
    stated: bool,
    /// It stays as it is.
    pub permanent: bool,
}

/// A member of a multipath route.
#[derive(Clone, Debug)]
pub struct Member {
    /// The port that it leaves by; 0 for no port.
    pub port: usize,
    /// The neighbour that it leads to: its gateway, or the destination.
    pub to: IpAddr,
    /// The MAC that frames to it bear; `None` where it has no usable neighbour.
    pub mac: Option<Mac>,
    /// The MAC of its device.
    pub own: Option<Mac>,
    /// The VLAN tags that its device gives to frames.
    pub tags: Vec<u8>,
    /// The MTU of its device.
    pub mtu: u64,
    /// Whether nothing can leave by it: no port, no usable neighbour, or no carrier.
    pub void: bool,
    /// What the kernel may take for the source of what it sends by it on its own.
    pub sources: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Route {
    /// As `ip` names it; empty for main.
    table: String,
    addr: IpAddr,
    len: u8,
    metric: u64,
    hops: Vec<Hop>,
    /// Whether it stands on a next-hop object, but for resilient groups, of which the kernel takes members whatever their neighbours.
    object: bool,
    /// Whether a member is called dead for its link alone (`ignore_routes_with_linkdown`): the kernel may send its share there all the same, until
    /// something has it weigh the members anew (`fib_rebalance`), which a change of that setting does not.
    lingering: bool,
    /// `src`
    source: Option<IpAddr>,
}

#[derive(Clone, Debug)]
struct Hop {
    dev: String,
    port: usize,
    via: Option<IpAddr>,
    linkdown: bool,
}

/// Routes, neighbours and ports of a world at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    routes: Vec<Route>,
    /// Of all members, dead ones too.
    gateways: Vec<IpAddr>,
    neighbours: Vec<Neighbour>,
    devices: BTreeMap<String, Device>,
    use_neigh: bool,
    /// Whether a group of next-hop objects takes a failed member that no good one follows: before Linux 6.6 (`nexthop_select_path_hthr`).
    ahead: bool,
    /// Prefixes of scope host, own addresses among them, now or earlier.
    narrow: Vec<(IpAddr, u8)>,
    /// The hash policies of IPv4 and IPv6.
    policies: [Policy; 2],
}

/// A device: a port, or one that stands on a port.
#[derive(Clone, Default, Debug)]
struct Device {
    /// 0 for no port.
    port: usize,
    mac: Option<Mac>,
    tags: Vec<u8>,
    mtu: u64,
    /// Routes need not say so: one that was made without carrier and has a gateway of IPv6 does not.
    no_carrier: bool,
    addresses: Vec<IpAddr>,
}

/// By name, from `ip -j -d addr show`.
fn devices(links: &[Value]) -> BTreeMap<String, Device> {
    let name = |v: &Value| v["ifname"].as_str().unwrap_or_default().to_owned();
    let find = |l: &Value| {
        let (mut at, mut tags) = (l, Vec::new());
        // No more than a macvlan on a VLAN in a VLAN is known to anyone here.
        for _ in 0..4 {
            if let Some(n) = at["ifname"].as_str().and_then(|d| d.strip_prefix("swp")).and_then(|n| n.parse().ok()) {
                return (n, tags);
            }
            let data = &at["linkinfo"]["info_data"];
            if let Some(id) = data["id"].as_u64() {
                let tpid = if data["protocol"] == "802.1ad" { [0x88, 0xa8] } else { [0x81, 0x00] };
                tags = [&tpid[..], &(id as u16).to_be_bytes()[..], &tags[..]].concat();
            }
            let Some(below) = links.iter().find(|b| !at["link"].is_null() && b["ifname"] == at["link"]) else { break };
            at = below;
        }
        (0, Vec::new())
    };
    let device = |l: &Value| {
        let (port, tags) = find(l);
        let mtu = l["mtu"].as_u64().unwrap_or(u64::MAX >> 1);
        let mac = l["address"].as_str().and_then(|m| m.parse().ok());
        let all = l["addr_info"].as_array().into_iter().flatten().filter(|a| a["scope"] == "global");
        let addresses = all.filter_map(|a| a["local"].as_str()?.parse().ok()).collect();
        let no_carrier = l["flags"].as_array().is_some_and(|f| !f.iter().any(|f| f == "LOWER_UP"));
        Device { port, mac, tags, mtu, no_carrier, addresses }
    };
    links.iter().map(|l| (name(l), device(l))).collect()
}

fn gateway(v: &Value) -> Option<IpAddr> {
    v["gateway"].as_str().or_else(|| v["via"]["host"].as_str())?.parse().ok()
}

/// What a next-hop object leads to: itself, or the members of the group that it is.
fn members(objects: &[Value], id: u64) -> Vec<&Value> {
    let find = |id: &Value| objects.iter().find(|o| o["id"] == *id);
    let Some(o) = find(&id.into()) else { return Vec::new() };
    match o["group"].as_array() {
        Some(g) => g.iter().filter_map(|m| find(&m["id"])).collect(),
        None => vec![o],
    }
}

fn covers(addr: IpAddr, len: u8, a: IpAddr) -> bool {
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    };
    addr.is_ipv4() == a.is_ipv4() && (len == 0 || (bits(addr) ^ bits(a)) >> (128 - u32::from(len.min(128))) == 0)
}

impl Snapshot {
    /// Takes one; `run` runs a command line in the switch namespace.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn take(run: impl Fn(&str) -> Result<Said>) -> Result<Snapshot> {
        let list = |line: &str| -> Result<Vec<Value>> {
            let said = run(line)?;
            // `ip -j` prints nothing for an empty list.
            if said.text.is_empty() {
                return Ok(Vec::new());
            }
            serde_json::from_str(&said.text).with_context(|| format!("{line}: {}", said.text))
        };
        let mut s = Snapshot::default();
        let objects = list("ip -j nexthop show")?;
        s.devices = devices(&list("ip -j -d addr show")?);
        let named = s.devices.clone();
        let dev = |v: &Value| v["dev"].as_str().unwrap_or_default().to_owned();
        let port = |v: &Value| named.get(&dev(v)).map_or(0, |d| d.port);
        for (family, zero) in [("-4", "0.0.0.0"), ("-6", "::")] {
            // VRFs have tables of their own.
            let all = list(&format!("ip -j {family} route show table all"))?;
            for r in all.into_iter().filter(|r| r["table"] != "local") {
                let dst = r["dst"].as_str().unwrap_or_default();
                let dst = if dst == "default" { format!("{zero}/0") } else { dst.to_owned() };
                let (addr, len) = dst.split_once('/').unwrap_or((&dst, if zero == "::" { "128" } else { "32" }));
                let (Ok(addr), Ok(len)) = (addr.parse(), len.parse()) else { continue };
                let flag = |v: &Value, name: &str| v["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == name));
                let hop =
                    |v: &Value| Hop { dev: dev(v), port: port(v), via: gateway(v), linkdown: flag(v, "linkdown") };
                s.gateways.extend(r["nexthops"].as_array().into_iter().flatten().chain([&r]).filter_map(gateway));
                // Without `nexthop_compat_mode` a route names its object alone.
                let object = r["nhid"].as_u64().filter(|_| r["nexthops"].is_null() && r["dev"].is_null());
                let object = object.map_or_else(Vec::new, |id| members(&objects, id));
                s.gateways.extend(object.iter().filter_map(|v| gateway(v)));
                let mut all = r["nexthops"].as_array().into_iter().flatten();
                let lingering = all.any(|v| flag(v, "dead") && flag(v, "linkdown"));
                let mut hops: Vec<Hop> = match r["nexthops"].as_array() {
                    Some(n) => n.iter().filter(|v| !flag(v, "dead")).map(hop).collect(),
                    None if !object.is_empty() => object.into_iter().map(hop).collect(),
                    None => vec![hop(&r)],
                };
                // Doubled when alone, so that it still counts as a choice that was made.
                if lingering && hops.len() == 1 {
                    hops.extend_from_within(..);
                }
                s.routes.push(Route {
                    table: r["table"].as_str().unwrap_or_default().to_owned(),
                    addr,
                    len,
                    metric: r["metric"].as_u64().unwrap_or(0),
                    hops,
                    object: r["nhid"].is_u64()
                        && !objects.iter().any(|o| o["id"] == r["nhid"] && o["type"] == "resilient"),
                    lingering,
                    source: r["prefsrc"].as_str().and_then(|a| a.parse().ok()),
                });
            }
        }
        for n in list("ip -j neigh show nud all")? {
            let Some(addr) = n["dst"].as_str().and_then(|a| a.parse().ok()) else { continue };
            let failed = n["state"].as_array().is_some_and(|s| s.iter().any(|s| s == "FAILED" || s == "INCOMPLETE"));
            let mac = n["lladdr"].as_str().and_then(|m| m.parse().ok()).filter(|_| !failed);
            let stated = failed && n.get("extern_learn").is_some();
            let permanent = n["state"].as_array().is_some_and(|s| s.iter().any(|s| s == "PERMANENT"));
            s.neighbours.push(Neighbour { port: port(&n), addr, mac, stated, permanent });
        }
        s.use_neigh = run("sysctl -n net.ipv4.fib_multipath_use_neigh")?.text.trim() == "1";
        let release = run("sysctl -n kernel.osrelease")?.text;
        let number = |n: usize| release.split(|c: char| !c.is_ascii_digit()).nth(n)?.parse::<u32>().ok();
        s.ahead = number(0).zip(number(1)).is_some_and(|r| r < (6, 6));
        for (policy, family) in s.policies.iter_mut().zip(["ipv4", "ipv6"]) {
            let said = run(&format!("sysctl -n net.{family}.fib_multipath_hash_policy"))?;
            policy.number = said.text.trim().parse().with_context(|| said.text.clone())?;
            let said = run(&format!("sysctl -n net.{family}.fib_multipath_hash_fields"))?;
            policy.fields = said.text.trim().parse().unwrap_or(0);
        }
        Ok(s)
    }

    /// Without the neighbours on a port.
    #[cfg(test)]
    pub fn forget(&mut self, port: usize) {
        self.neighbours.retain(|n| n.port != port);
    }

    /// With another MAC of a neighbour.
    #[cfg(test)]
    pub fn teach(&mut self, port: usize, a: &str, mac: Mac) {
        let n = self.neighbours.iter_mut().find(|n| n.port == port && n.addr.to_string() == a);
        n.expect("a neighbour").mac = Some(mac);
    }

    /// With another MTU of a port.
    #[cfg(test)]
    pub fn narrow_to(&mut self, port: usize, mtu: u64) {
        self.devices.values_mut().filter(|d| d.port == port).for_each(|d| d.mtu = mtu);
    }

    /// Counts an address among the gateways, though its route may be gone.
    pub fn add_gateway(&mut self, a: IpAddr) {
        self.gateways.push(a);
    }

    /// Counts what a command line adds among the prefixes of scope host: an own address, or a route of that scope.
    pub fn add_narrow(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !(line.contains(" addr add ") || line.contains(" scope host")) {
            return;
        }
        let prefixes = words.iter().filter_map(|w| {
            let (a, len) = w.split_once('/')?;
            Some((a.parse().ok()?, len.parse().ok()?))
        });
        let own = line.contains(" addr add ");
        self.narrow.extend(prefixes.map(|(a, len): (IpAddr, u8)| (a, if own { 32 } else { len })));
    }

    /// Whether the kernel may send to the destination itself instead of that gateway: it is, or was when the route may have been
    /// made, under a prefix of scope host.
    fn skipped(&self, gateway: IpAddr) -> bool {
        gateway.is_ipv4() && self.narrow.iter().any(|(a, len)| covers(*a, *len, gateway))
    }

    /// Whether a device has that address.
    pub fn owns(&self, a: IpAddr) -> bool {
        self.devices.values().any(|d| d.addresses.contains(&a))
    }

    /// Whether any route has that gateway.
    pub fn gateway(&self, a: IpAddr) -> bool {
        self.gateways.contains(&a)
    }

    /// Whether `a` may be asked for on a port because a multipath route has a member there that leads to it.
    pub fn choice(&self, port: usize, a: IpAddr) -> bool {
        let leads = |r: &Route, h: &Hop| {
            let itself = h.via.is_none_or(|g| self.skipped(g)) && covers(r.addr, r.len, a);
            h.port == port && (itself || h.via == Some(a))
        };
        self.routes.iter().any(|r| r.hops.len() > 1 && r.hops.iter().any(|h| leads(r, h)))
    }

    /// The hash policies of IPv4 and IPv6.
    pub fn hash_policies(&self) -> [Policy; 2] {
        self.policies
    }

    /// Whether packets of one flow to `d` have to take the same member all through a step: where neighbours have a say, one that fails
    /// meanwhile moves its flows.
    pub fn keeps_flows(&self, d: IpAddr) -> bool {
        let members = self.members(d);
        let best = self.best(d);
        let neighbours = best.is_some_and(|r| r.object) || (self.use_neigh && d.is_ipv4());
        members.len() > 1 && !(neighbours && members.iter().any(|m| m.void))
    }

    /// Whether packets to `d` may still go to a member of their route that is called dead.
    pub fn lingers(&self, d: IpAddr) -> bool {
        self.best(d).is_some_and(|r| r.lingering)
    }

    /// The neighbour of that address on a port.
    pub fn neighbour(&self, port: usize, a: IpAddr) -> Option<&Neighbour> {
        self.neighbours.iter().find(|n| n.port == port && n.addr == a)
    }

    /// The neighbours on a port that have that MAC.
    pub fn owners(&self, port: usize, mac: Mac) -> impl Iterator<Item = IpAddr> {
        self.neighbours.iter().filter(move |n| n.port == port && n.mac == Some(mac)).map(|n| n.addr)
    }

    /// The route that a packet to `d` takes: of those of several tables one that leaves a choice.
    fn best(&self, d: IpAddr) -> Option<&Route> {
        let covering = |table: &str| {
            let all = self.routes.iter().filter(|r| r.table == table && covers(r.addr, r.len, d));
            all.min_by_key(|r| (std::cmp::Reverse(r.len), r.metric))
        };
        let tables: BTreeSet<&str> = self.routes.iter().map(|r| r.table.as_str()).collect();
        let all: Vec<&Route> = tables.into_iter().filter_map(covering).collect();
        all.iter().find(|r| r.hops.len() > 1).or(all.first()).copied()
    }

    /// What the kernel may take for a source by a member of a route: what the route says, an address of the device or, where that has none, any.
    fn sources(&self, r: &Route, h: &Hop, v4: bool) -> Vec<IpAddr> {
        if let Some(s) = r.source {
            return vec![s];
        }
        let of = |d: &Device| d.addresses.iter().copied().filter(|a| a.is_ipv4() == v4).collect::<Vec<_>>();
        let own = self.devices.get(&h.dev).map(of).unwrap_or_default();
        if own.is_empty() { self.devices.values().flat_map(of).collect() } else { own }
    }

    /// Members of the route that a packet to `d` takes.
    pub fn members(&self, d: IpAddr) -> Vec<Member> {
        let Some(best) = self.best(d) else { return Vec::new() };
        // A gateway that the kernel may skip counts twice: itself, and the destination in its place.
        let hops: Vec<Hop> = best
            .hops
            .iter()
            .flat_map(|h| {
                let may = best.hops.len() > 1 && h.via.is_some_and(|g| self.skipped(g));
                let skip = may.then(|| Hop { via: None, ..h.clone() });
                std::iter::once(h.clone()).chain(skip)
            })
            .collect();
        let all: Vec<Member> = hops
            .iter()
            .map(|h| {
                let to = h.via.unwrap_or(d);
                let mac = self.neighbour(h.port, to).and_then(|n| n.mac);
                let sources = self.sources(best, h, d.is_ipv4());
                let d = self.devices.get(&h.dev).cloned().unwrap_or_default();
                Member {
                    sources,
                    port: h.port,
                    to,
                    mac,
                    own: d.mac,
                    tags: d.tags,
                    mtu: d.mtu,
                    void: h.port == 0 || mac.is_none() || h.linkdown || d.no_carrier,
                }
            })
            .collect();
        // In groups of next-hop objects, and with fib_multipath_use_neigh, the kernel passes over members that have failed, while
        // there are others (behind them, where it only looks ahead). One that the scenario has not stated may have failed during the step, by a packet that took it.
        let bad = |(_, h): &(&Member, &Hop)| self.neighbour(h.port, h.via.unwrap_or(d)).is_some_and(|n| n.stated);
        if best.object || self.use_neigh && d.is_ipv4() {
            let pairs: Vec<_> = all.iter().zip(&hops).collect();
            let last = |n| best.object && self.ahead && pairs[n..].iter().all(bad);
            let good = pairs.iter().enumerate().filter(|(n, x)| !bad(x) || last(*n));
            let good: Vec<Member> = good.map(|(_, (m, _))| (*m).clone()).collect();
            if !good.is_empty() && good.len() < all.len() {
                // Doubled when alone, so that it still counts as a choice that was made.
                return if good.len() == 1 { [good.clone(), good].concat() } else { good };
            }
        }
        all
    }
}
