//! The kernel's objects under the kernel's own keys, and the purges that the kernel carries out without a word.
//!
//! Knows nothing of chips: what a table should hold is `compile`, what it does hold is `program`. No I/O, no clock.
//!
//! # How to drive it
//! Hand in notifications ([`Mirror::monitor`]) and dumps ([`Mirror::dump_begin`], [`Mirror::dump`], [`Mirror::dump_end`]);
//! call [`Mirror::work`] until it returns false; take what changed with [`Mirror::take_dirt`] and
//! [`Mirror::drain_prefixes`]. When [`Dirt::wanted`] names a kind, something of it is undecided and traps until that kind has been dumped.
//! [`Dirt::confirm`] names kinds in which a purge was inferred: dump them when there is time.
//!
//! A notification handled between a dump's begin and a while after its end may be in the dump already. That while ends with a
//! fence sent after the dump's end: take [`Mirror::epoch`] when the fence is sent and give it to [`Mirror::fence`] when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::{Addr, Prefix, V4, V6};

use crate::input::DumpKind;
use crate::netlink::object::{self, NetconfMsg, NextHopMsg};
use crate::netlink::{AF_INET, AF_INET6, Malformed, Message, messages, nlm, route, rtm};

mod ctx;
mod diff;
mod family;
mod list;
mod routes;
mod sets;
mod table;
#[cfg(test)]
mod tests;
mod types;

pub use ctx::Stats;
use ctx::{Ctx, IFF_UP};
pub use family::MirrorFamily;
use routes::Routes;
use sets::Fate;
pub use table::Aliases;
pub use types::*;

/// `RT_TABLE_LOCAL` (`linux/rtnetlink.h`).
pub const TABLE_LOCAL: u32 = 255;
/// `RT_TABLE_MAIN` (`linux/rtnetlink.h`).
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_DEFAULT` (`linux/rtnetlink.h`).
pub const TABLE_DEFAULT: u32 = 253;

/// `IFF_LOOPBACK`, `IFF_RUNNING`, `IFF_NOARP`, `IFF_LOWER_UP` (`linux/if.h`).
const IFF_LOOPBACK: u32 = 8;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// `NUD_*`, `NTF_PROXY`, `NTF_EXT_MANAGED` (`linux/neighbour.h`).
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_PERMANENT: u16 = 0x80;
const NTF_EXT_MANAGED: u32 = 1;
const NUD_NOARP: u16 = 0x40;
const NTF_PROXY: u8 = 8;

/// What changed since it was last taken. Prefixes come apart, with [`Mirror::drain_prefixes`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dirt {
    /// Devices that came, went or changed, themselves, in their netconf or in their addresses.
    pub links: BTreeSet<u32>,
    /// Netconf of `all` or `default` of some family changed.
    pub netconf: bool,
    /// IPv4 addresses that this machine took or gave up. Their /32 is among the dirty prefixes too.
    pub own4: BTreeSet<Ipv4Addr>,
    /// IPv6 addresses that this machine took or gave up.
    pub own6: BTreeSet<Ipv6Addr>,
    /// IPv4 neighbours that came, went or changed: device and address.
    pub neighs4: BTreeSet<(u32, Ipv4Addr)>,
    /// IPv6 neighbours that came, went or changed: device and address.
    pub neighs6: BTreeSet<(u32, Ipv6Addr)>,
    /// Static neighbours that a request to resolve them has made dynamic, as they were before.
    pub usurped: Vec<(u32, IpAddr, Neigh)>,
    /// Next-hop sets that are new, or whose members died or came back.
    pub sets: Vec<NhRef>,
    /// Next-hop sets without a route; their numbers may come again with other contents.
    pub sets_gone: Vec<NhRef>,
    /// Rules of IPv4 or IPv6 changed.
    pub rules: bool,
    /// What [`Mirror::narrow`] says of some gateway.
    pub narrow: bool,
    /// Kinds to dump, since something in them is undecided.
    pub wanted: BTreeSet<DumpKind>,
    /// Kinds in which a purge was inferred that a dump should confirm, not urgently.
    pub confirm: BTreeSet<DumpKind>,
}

/// The rules of a family, judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Exactly the kernel's own ones.
    pub default: bool,
    /// One sentence for each that is odd or missing.
    pub odd: Vec<String>,
}

/// See the module.
#[derive(Default)]
pub struct Mirror {
    ctx: Ctx,
    r4: Routes<V4>,
    r6: Routes<V6>,
    addrs: BTreeMap<AddrKey, AddrEntry>,
    own4: BTreeMap<Ipv4Addr, u32>,
    own6: BTreeMap<Ipv6Addr, u32>,
    n4: BTreeMap<(u32, Ipv4Addr), Neigh>,
    n6: BTreeMap<(u32, Ipv6Addr), Neigh>,
    proxies: BTreeSet<(u32, IpAddr)>,
    rules: BTreeSet<(u8, Rule)>,
    dirt: Dirt,
    /// What the running dump of each kind has named, or a notification since it began.
    seen: Seen,
    epoch: u64,
}

/// An object of a kind that is dumped whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Link(u32),
    Netconf(u8, i32),
    Addr(AddrKey),
    NextHop(u32),
    Neigh(u32, IpAddr),
    Rule(u8, Rule),
}

impl Key {
    fn kind(&self) -> DumpKind {
        match self {
            Key::Link(_) => DumpKind::Link,
            Key::Netconf(..) => DumpKind::Netconf,
            Key::Addr(_) => DumpKind::Addr,
            Key::NextHop(_) => DumpKind::NextHop,
            Key::Neigh(..) => DumpKind::Neigh,
            Key::Rule(..) => DumpKind::Rule,
        }
    }
}

#[derive(Default)]
struct Seen {
    running: BTreeSet<DumpKind>,
    /// What notifications spoke of since the dump of its kind began: there the dump may be the older news.
    touched: BTreeSet<Key>,
    links: BTreeSet<u32>,
    netconf: BTreeSet<(u8, i32)>,
    addrs: BTreeSet<AddrKey>,
    neighs: BTreeSet<(u32, IpAddr)>,
    rules: BTreeSet<(u8, Rule)>,
    objects: BTreeSet<u32>,
}

impl Mirror {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notifications, one or more whole messages. `seq` is the reader's stamp; messages of different queues must have
    /// different stamps, since a route message older than a purge is judged by it.
    pub fn monitor(&mut self, seq: u64, buf: &[u8]) {
        for m in messages(buf) {
            self.ctx.stats.messages += 1;
            if m.and_then(|m| self.message(seq, &m, None)).is_err() {
                self.ctx.stats.malformed += 1;
            }
        }
    }

    /// A dump of that kind was asked for.
    pub fn dump_begin(&mut self, kind: DumpKind) {
        self.seen.running.insert(kind);
        self.seen.touched.retain(|k| k.kind() != kind);
        self.dirt.wanted.remove(&kind);
        self.ctx.confirm.remove(&kind);
        match kind {
            DumpKind::Link => self.seen.links.clear(),
            DumpKind::Netconf => self.seen.netconf.clear(),
            DumpKind::Addr => self.seen.addrs.clear(),
            DumpKind::NextHop => self.seen.objects.clear(),
            DumpKind::Neigh => self.seen.neighs.clear(),
            DumpKind::Rule => self.seen.rules.clear(),
            DumpKind::Route4 => self.r4.dump_begin(&mut self.ctx),
            DumpKind::Route6 => self.r6.dump_begin(&mut self.ctx),
            DumpKind::List6 => self.r6.list_begin(),
        }
    }

    /// Part of the running dump of that kind. `seq` is the stamp of the monitor's reader when the dump was asked for.
    pub fn dump(&mut self, kind: DumpKind, seq: u64, buf: &[u8]) {
        if kind == DumpKind::List6 {
            self.r6.list(buf);
            return;
        }
        for m in messages(buf) {
            self.ctx.stats.messages += 1;
            if m.and_then(|m| self.message(seq, &m, Some(kind))).is_err() {
                self.ctx.stats.malformed += 1;
            }
        }
    }

    /// The running dump of that kind is over. What it did not name goes, if it was complete; what came by notification
    /// since it began stays (kernel-facts 15).
    pub fn dump_end(&mut self, kind: DumpKind, complete: bool) {
        self.epoch += 1;
        if !self.seen.running.remove(&kind) {
            return;
        }
        match kind {
            DumpKind::Route4 => return self.r4.dump_end(&mut self.ctx, complete, self.epoch),
            DumpKind::Route6 => {
                self.r6.dump_end(&mut self.ctx, complete, self.epoch);
                if complete && self.r6.wants_list() {
                    self.dirt.wanted.insert(DumpKind::List6);
                }
                return;
            }
            DumpKind::List6 if complete => {
                // It may be that something changed between the two readings: both are done once more.
                if self.r6.list_end(&self.ctx) {
                    self.ctx.confirm.insert(DumpKind::Route6);
                }
                return;
            }
            _ => {}
        }
        if !complete {
            self.dirt.wanted.insert(kind);
            return;
        }
        // A sweep is older than any notification to come: stamp 0 makes no later message look overtaken.
        match kind {
            DumpKind::Link => {
                for i in self.ctx.links.keys().copied().filter(|i| !self.seen.links.contains(i)).collect::<Vec<_>>() {
                    self.link_gone(0, i);
                }
            }
            DumpKind::Netconf => {
                let seen = &self.seen.netconf;
                let gone: Vec<_> = self.ctx.netconf.keys().copied().filter(|k| !seen.contains(k)).collect();
                for (f, i) in gone {
                    self.netconf_gone(f, i);
                }
            }
            DumpKind::Addr => {
                for k in self.addrs.keys().copied().filter(|k| !self.seen.addrs.contains(k)).collect::<Vec<_>>() {
                    self.addr_gone(0, &k);
                }
            }
            DumpKind::NextHop => {
                let seen = &self.seen.objects;
                for id in self.ctx.objects.keys().copied().filter(|k| !seen.contains(k)).collect::<Vec<_>>() {
                    self.object_gone(0, id);
                }
            }
            DumpKind::Neigh => {
                let seen = std::mem::take(&mut self.seen.neighs);
                let k4 = self.n4.keys().map(|(i, a)| (*i, IpAddr::V4(*a)));
                let k6 = self.n6.keys().map(|(i, a)| (*i, IpAddr::V6(*a)));
                for (i, a) in k4.chain(k6).filter(|k| !seen.contains(k)).collect::<Vec<_>>() {
                    self.neigh_gone(i, a);
                }
            }
            DumpKind::Rule => {
                let seen = std::mem::take(&mut self.seen.rules);
                if self.rules != seen {
                    self.rules.retain(|r| seen.contains(r));
                    self.dirt.rules = true;
                }
            }
            DumpKind::Route4 | DumpKind::Route6 | DumpKind::List6 => {}
        }
    }

    /// Notifications may have been lost: what the next dump shows may not be all that there is.
    pub fn distrust(&mut self) {
        self.r6.distrust = true;
    }

    /// One to be filled from dumps, for a comparison with this one: it begins with what this one knows and no dump shows.
    pub fn shadow(&self) -> Mirror {
        let mut m = Mirror::default();
        m.ctx.faded = self.ctx.faded.clone();
        m
    }

    /// How many dumps have ended: to be remembered with a fence that is sent.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A fence that was sent at `epoch` is back.
    pub fn fence(&mut self, epoch: u64) {
        self.r4.fence(epoch);
        self.r6.fence(epoch);
    }

    /// Carry on with purges and sweeps, over up to `budget` slots. True while something is left.
    pub fn work(&mut self, budget: usize) -> bool {
        let four = self.r4.work(&mut self.ctx, budget);
        let six = self.r6.work(&mut self.ctx, budget);
        four || six
    }

    /// What changed since last taken, but for prefixes.
    pub fn take_dirt(&mut self) -> Dirt {
        let mut d = std::mem::take(&mut self.dirt);
        (d.sets, d.sets_gone) = self.ctx.sets.drain();
        if self.r4.wanted {
            d.wanted.insert(DumpKind::Route4);
        }
        if self.r6.wanted {
            d.wanted.insert(DumpKind::Route6);
        }
        // Kinds that stay wanted until a dump of them begins.
        self.dirt.wanted = d.wanted.clone();
        d.wanted.retain(|k| !self.seen.running.contains(k));
        d.confirm = std::mem::take(&mut self.ctx.confirm);
        d.narrow = std::mem::take(&mut self.ctx.narrow_changed);
        d
    }

    /// Up to `max` prefixes whose routes changed in any table, or whose verdict may have changed for what covers them in the
    /// local table; appended to `out`. Empty when there are none left.
    pub fn drain_prefixes<F: MirrorFamily>(&mut self, max: usize, out: &mut Vec<Prefix<F>>) {
        F::parts(self).0.drain(max, out);
    }

    /// Whether [`Mirror::drain_prefixes`] would yield anything, of either family.
    pub fn prefixes_dirty(&self) -> bool {
        self.r4.dirty() || self.r6.dirty()
    }

    /// A device.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.ctx.links.get(&ifindex)
    }
    /// All devices, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.ctx.links.values()
    }
    fn conf(&self, family: u8, ifindex: i32) -> Option<&Netconf> {
        self.ctx.netconf.get(&(family, ifindex))
    }
    /// A device's IPv4 netconf.
    pub fn netconf4(&self, ifindex: u32) -> Option<&Netconf> {
        self.conf(AF_INET, i32::try_from(ifindex).ok()?)
    }
    /// IPv4 netconf of `all`.
    pub fn netconf4_all(&self) -> Option<&Netconf> {
        self.conf(AF_INET, -1)
    }
    /// A device's IPv6 netconf.
    pub fn netconf6(&self, ifindex: u32) -> Option<&Netconf> {
        self.conf(AF_INET6, i32::try_from(ifindex).ok()?)
    }
    /// IPv6 netconf of `all`.
    pub fn netconf6_all(&self) -> Option<&Netconf> {
        self.conf(AF_INET6, -1)
    }
    /// All addresses of this machine.
    pub fn addrs(&self) -> impl Iterator<Item = (&AddrKey, &AddrEntry)> {
        self.addrs.iter()
    }
    /// Whether a device has an IPv4 address.
    pub fn addressed4(&self, ifindex: u32) -> bool {
        self.addrs.keys().any(|k| k.ifindex == ifindex && k.local.is_ipv4())
    }
    /// Whether `a` is an address of this machine, on any device in any state.
    pub fn owns(&self, a: impl Addr) -> bool {
        match a.ip() {
            IpAddr::V4(a) => self.own4.contains_key(&a),
            IpAddr::V6(a) => self.own6.contains_key(&a),
        }
    }
    /// The IPv4 addresses of this machine, each once.
    pub fn own4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.own4.keys().copied()
    }
    /// The IPv6 addresses of this machine, each once.
    pub fn own6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.own6.keys().copied()
    }
    /// A neighbour. Proxy entries, and those that the kernel makes up by itself for multicast and the like, are not held.
    pub fn neigh<F: MirrorFamily>(&self, ifindex: u32, addr: F::Addr) -> Option<&Neigh> {
        F::neighs(self).get(&(ifindex, addr))
    }
    /// All neighbours of a family by device and address.
    pub fn neighs<F: MirrorFamily>(&self) -> &BTreeMap<(u32, F::Addr), Neigh> {
        F::neighs(self)
    }

    /// The routes of `prefix` in `table`, in the order in which the kernel searches them (IPv4: TOS from high to low, then
    /// metric, then position; IPv6: metric, then position). The first whose TOS fits wins.
    pub fn aliases<F: MirrorFamily>(&self, table: u32, prefix: Prefix<F>) -> Aliases {
        F::part(self).aliases(&self.ctx, table, prefix)
    }
    /// Whether the mirror can't tell what the kernel holds at `prefix` in one of the tables local, main and default.
    pub fn undecided<F: MirrorFamily>(&self, prefix: Prefix<F>) -> bool {
        let r = F::part(self);
        !r.undecided.is_empty()
            && [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].into_iter().any(|t| r.is_undecided(t, prefix))
    }
    /// Whether the kernel has routes at `prefix` that its dumps leave out.
    pub fn hidden<F: MirrorFamily>(&self, prefix: Prefix<F>) -> bool {
        let r = F::part(self);
        !r.hidden.is_empty()
            && [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].iter().any(|t| r.hidden.contains(&(*t, prefix)))
    }
    /// How many prefixes are undecided now, both families.
    pub fn undecided_count(&self) -> usize {
        self.r4.undecided.len() + self.r6.undecided.len()
    }
    /// Whether table local holds `prefix` or a shorter one that covers it (kernel-facts 22).
    pub fn under_local<F: MirrorFamily>(&self, prefix: Prefix<F>) -> bool {
        F::part(self).covered(&self.ctx, TABLE_LOCAL, prefix)
    }
    /// Tables of a family that hold anything, with the number of their prefixes.
    pub fn tables<F: MirrorFamily>(&self) -> impl Iterator<Item = (u32, usize)> {
        F::part(self).tables.iter().map(|(t, x)| (*t, x.count)).filter(|(_, n)| *n > 0)
    }
    /// Up to `max` prefixes of `table` with their routes, from `cursor` on (0 at first), in arena order, appended to `out`.
    /// Returns where to go on, `None` at the end.
    pub fn prefixes<F: MirrorFamily>(
        &self,
        table: u32,
        cursor: u32,
        max: usize,
        out: &mut Vec<(Prefix<F>, Aliases)>,
    ) -> Option<u32> {
        F::part(self).page(&self.ctx, table, cursor, max, out)
    }
    /// What a route leads to. Members that are [dead](Hop::dead) are not used by the kernel.
    pub fn nhset(&self, nh: NhRef) -> &NhSet {
        self.ctx.sets.get(nh)
    }
    /// Whether an IPv4 gateway is, or may have been when a route with it was made, reached by a route of host scope: then the
    /// kernel sends to the destination instead of the gateway.
    pub fn narrow(&self, gateway: Ipv4Addr) -> bool {
        self.ctx.narrow(gateway)
    }
    /// Whether it is a set of IPv6 routes.
    pub fn nhset_is_v6(&self, nh: NhRef) -> bool {
        self.ctx.sets.family(nh) == AF_INET6
    }
    /// How many routes lead there.
    pub fn nhset_users(&self, nh: NhRef) -> u32 {
        self.ctx.sets.users(nh)
    }
    /// All next-hop sets that routes use, with their users.
    pub fn nhsets(&self) -> impl Iterator<Item = (NhRef, &NhSet, u32)> {
        self.ctx.sets.iter()
    }
    /// Counts.
    pub fn stats(&self) -> &Stats {
        &self.ctx.stats
    }
    /// Bytes that routes and next-hop sets take, roughly.
    pub fn bytes(&self) -> usize {
        self.r4.tables.values().map(table::Table::bytes).sum::<usize>()
            + self.r6.tables.values().map(table::Table::bytes).sum::<usize>()
            + self.ctx.sets.bytes()
    }

    /// The rules of a family against the kernel's own: local at 0, main at 32766, and for IPv4 default at 32767.
    pub fn rules<F: MirrorFamily>(&self) -> Rules {
        let mut missing = BTreeMap::from([(0, TABLE_LOCAL), (32766, TABLE_MAIN)]);
        if F::AF == AF_INET {
            missing.insert(32767, TABLE_DEFAULT);
        }
        let mut odd = Vec::new();
        for (_, r) in self.rules.iter().filter(|(f, _)| *f == F::AF) {
            // FR_ACT_TO_TBL is 1 (linux/fib_rules.h).
            if r.plain && r.action == 1 && missing.get(&r.priority) == Some(&r.table) {
                missing.remove(&r.priority);
            } else {
                odd.push(format!("{} rule of priority {} is not one of the kernel's own", F::NAME, r.priority));
            }
        }
        for (p, t) in missing {
            odd.push(format!("{} rule of priority {p} that looks up table {t} is missing", F::NAME));
        }
        Rules { default: odd.is_empty(), odd }
    }
}

/// From messages to objects.
impl Mirror {
    fn message(&mut self, seq: u64, m: &Message<'_>, dump: Option<DumpKind>) -> Result<(), Malformed> {
        match m.kind {
            rtm::NEWROUTE | rtm::DELROUTE => {
                let delete = m.kind == rtm::DELROUTE;
                match m.body.first() {
                    Some(&AF_INET) => self.route::<V4>(seq, m, delete, dump),
                    Some(&AF_INET6) => self.route::<V6>(seq, m, delete, dump),
                    _ => self.ignore(),
                }
            }
            rtm::NEWLINK | rtm::DELLINK => match object::link(m.body)? {
                None => self.ignore(),
                Some(l) if !self.heed(Key::Link(l.ifindex), dump) => Ok(()),
                Some(mut l) if m.kind == rtm::NEWLINK => {
                    self.seen.links.insert(l.ifindex);
                    if dump.is_none() {
                        self.follow_mtu(&mut l);
                    }
                    self.link_new(seq, l);
                    Ok(())
                }
                Some(l) => {
                    self.link_gone(seq, l.ifindex);
                    Ok(())
                }
            },
            rtm::NEWADDR | rtm::DELADDR => match object::addr(m.body)? {
                None => self.ignore(),
                Some((k, _)) if !self.heed(Key::Addr(k), dump) => Ok(()),
                Some((k, e)) if m.kind == rtm::NEWADDR => {
                    self.seen.addrs.insert(k);
                    self.addr_new(seq, k, e);
                    Ok(())
                }
                Some((k, _)) => {
                    self.addr_gone(seq, &k);
                    Ok(())
                }
            },
            rtm::NEWNEIGH | rtm::DELNEIGH => match object::neigh(m.body)? {
                None => self.ignore(),
                Some((i, a, _)) if !self.heed(Key::Neigh(i, a), dump) => Ok(()),
                Some((i, a, n)) => {
                    if n.flags & NTF_PROXY != 0 {
                        if m.kind == rtm::NEWNEIGH {
                            self.proxies.insert((i, a))
                        } else {
                            self.proxies.remove(&(i, a))
                        };
                    } else if m.kind == rtm::DELNEIGH || self.made_up(i, a, &n) {
                        self.neigh_gone(i, a);
                    } else {
                        self.seen.neighs.insert((i, a));
                        self.neigh_new(i, a, n);
                    }
                    Ok(())
                }
            },
            rtm::NEWRULE | rtm::DELRULE => match object::rule(m.body)? {
                None => self.ignore(),
                Some((f, r)) if !self.heed(Key::Rule(f, r.clone()), dump) => Ok(()),
                Some(r) => {
                    let changed = if m.kind == rtm::NEWRULE {
                        self.seen.rules.insert(r.clone());
                        self.rules.insert(r)
                    } else {
                        self.seen.rules.remove(&r);
                        self.rules.remove(&r)
                    };
                    self.dirt.rules |= changed;
                    Ok(())
                }
            },
            rtm::NEWNETCONF | rtm::DELNETCONF => match object::netconf(m.body)? {
                None => self.ignore(),
                Some(n) if !self.heed(Key::Netconf(n.family, n.ifindex), dump) => {
                    // The notification named one setting: of the others nobody knows which is newer.
                    self.dirt.wanted.insert(DumpKind::Netconf);
                    Ok(())
                }
                Some(n) if m.kind == rtm::NEWNETCONF => {
                    self.netconf_new(&n, dump.is_some());
                    Ok(())
                }
                Some(n) => {
                    self.netconf_gone(n.family, n.ifindex);
                    Ok(())
                }
            },
            rtm::NEWNEXTHOP | rtm::DELNEXTHOP => {
                let n = object::nexthop(m.body)?;
                if !self.heed(Key::NextHop(n.id), dump) {
                    return Ok(());
                }
                if m.kind == rtm::NEWNEXTHOP {
                    self.seen.objects.insert(n.id);
                    self.object_new(n);
                } else {
                    self.object_gone(seq, n.id);
                }
                Ok(())
            }
            nlm::NOOP | nlm::ERROR | nlm::DONE => Ok(()),
            _ => self.ignore(),
        }
    }

    /// Whether a message is to be heeded: not what a dump says of something that a notification has spoken of since the
    /// dump began. If the dump is the newer news after all, its notification is on the way.
    fn heed(&mut self, key: Key, dump: Option<DumpKind>) -> bool {
        if dump.is_some() {
            return !self.seen.touched.contains(&key);
        }
        if self.seen.running.contains(&key.kind()) {
            self.seen.touched.insert(key);
        }
        true
    }

    fn ignore(&mut self) -> Result<(), Malformed> {
        self.ctx.stats.ignored += 1;
        Ok(())
    }

    fn route<F: MirrorFamily>(
        &mut self,
        seq: u64,
        m: &Message<'_>,
        delete: bool,
        dump: Option<DumpKind>,
    ) -> Result<(), Malformed> {
        let Some(r) = route::decode::<F>(m.body)? else { return self.ignore() };
        if let Some(k) = r.unknown {
            *self.ctx.stats.unknown.entry(k).or_default() += 1;
        }
        let (routes, ctx) = F::parts(self);
        match dump {
            None => routes.notify(ctx, seq, &r, m.flags, delete),
            Some(k) if k == F::DUMP && !delete => routes.dump(ctx, seq, &r),
            Some(_) => {}
        }
        Ok(())
    }

    fn sweep(&mut self, family: u8) {
        if family == AF_INET { self.r4.sweep_dead() } else { self.r6.sweep_dead() }
    }

    fn fate(&mut self, family: u8, ifindex: u32, fate: Fate, seq: u64) {
        if self.ctx.fate(family, ifindex, fate, seq) {
            self.sweep(family);
        }
    }

    /// A change of the MTU is announced before IPv6 has followed it, and not again (seen on 6.18).
    fn follow_mtu(&mut self, l: &mut Link) {
        /// `IPV6_MIN_MTU` (RFC 8200, section 5): below it IPv6 leaves the device.
        const MIN: u32 = 1280;
        if let Some(old) = self.ctx.links.get(&l.ifindex).filter(|o| o.mtu != l.mtu)
            && (l.mtu6.is_some() || old.mtu < MIN)
        {
            l.mtu6 = (l.mtu >= MIN).then_some(l.mtu);
        } else if l.mtu6.is_some_and(|m| m != l.mtu) {
            // Set apart by a sysctl, or a message that a dump has overtaken.
            self.dirt.wanted.insert(DumpKind::Link);
        }
    }

    fn link_new(&mut self, seq: u64, l: Link) {
        let old = self.ctx.links.insert(l.ifindex, l.clone());
        if old.as_ref() == Some(&l) {
            return;
        }
        self.dirt.links.insert(l.ifindex);
        let Some(old) = old else { return };
        let i = l.ifindex;
        let up = |l: &Link| l.flags & IFF_UP != 0;
        let ready = |l: &Link| up(l) && l.flags & IFF_RUNNING != 0;
        // A device that is put into a VRF or taken out is cycled by the kernel, and its routes go (kernel-facts 8).
        let vrf = |m: Option<u32>| m.filter(|m| self.ctx.links.get(m).is_none_or(|m| m.kind == "vrf"));
        if vrf(old.master) != vrf(l.master) {
            self.fate(AF_INET, i, Fate::Forced, seq);
            self.fate(AF_INET6, i, Fate::Forced, seq);
            self.ctx.confirm.extend([DumpKind::Route4, DumpKind::Route6]);
        }
        if up(&old) && !up(&l) {
            // Kernel-facts 1 and 7. IPv6 announces what it removes, unless it is told not to.
            self.fate(AF_INET, i, Fate::Down, seq);
            self.fate(AF_INET6, i, Fate::Forced, seq);
            self.proxies.retain(|(d, _)| *d != i);
            for id in self.ctx.objects_on(i) {
                self.object_gone(seq, id);
                self.ctx.confirm.insert(DumpKind::NextHop);
            }
        }
        if !up(&old) && up(&l) {
            self.fate(AF_INET, i, Fate::Live, seq);
        }
        // IPv6 waits for the link to be ready.
        if !ready(&old) && ready(&l) {
            self.fate(AF_INET6, i, Fate::Live, seq);
            // Kept IPv6 addresses (kernel-facts 21) may come back unannounced.
            self.ctx.confirm.insert(DumpKind::Addr);
        }
        let carrier = |l: &Link| l.flags & (IFF_RUNNING | IFF_LOWER_UP) != 0;
        if !carrier(&old) && carrier(&l) {
            for f in Ctx::FAMILIES {
                if self.ctx.ignores_linkdown(f, i) {
                    self.ask_dead(f, i);
                }
            }
        }
        let flapped = carrier(&old) && !carrier(&l) || old.carrier_down != l.carrier_down;
        if up(&l) && flapped && !self.ctx.objects_on(i).is_empty() {
            // Kernel-facts 2 and 10: objects go if the kernel has noticed, and a flap that it has not stays unseen.
            self.dirt.wanted.insert(DumpKind::NextHop);
            self.ask_routes();
        }
        if old.flags & (IFF_NOARP | IFF_LOOPBACK) != l.flags & (IFF_NOARP | IFF_LOOPBACK) {
            self.dirt.wanted.insert(DumpKind::Neigh);
        }
    }

    /// Members on the device may have been shown dead for its link or for good: now a dump tells.
    fn ask_dead(&mut self, family: u8, ifindex: u32) {
        if self.ctx.sets.multipath_on(family, ifindex) {
            self.dirt.wanted.insert(if family == AF_INET { DumpKind::Route4 } else { DumpKind::Route6 });
            self.ctx.stats.undecided += 1;
        }
    }

    /// Routes of next-hop objects may have gone unseen: only a dump tells.
    fn ask_routes(&mut self) {
        if self.ctx.objects.keys().any(|id| self.ctx.sets.object_used(*id)) {
            self.dirt.wanted.extend([DumpKind::Route4, DumpKind::Route6]);
            self.ctx.stats.undecided += 1;
        }
    }

    fn link_gone(&mut self, seq: u64, i: u32) {
        self.seen.links.remove(&i);
        if self.ctx.links.remove(&i).is_none() {
            return;
        }
        self.dirt.links.insert(i);
        for id in self.ctx.objects_on(i) {
            self.object_gone(seq, id);
        }
        for k in self.addrs.keys().copied().filter(|k| k.ifindex == i).collect::<Vec<_>>() {
            self.addr_gone(seq, &k);
        }
        self.fate(AF_INET, i, Fate::Gone, seq);
        self.fate(AF_INET6, i, Fate::Gone, seq);
        for a in self.n4.keys().filter(|k| k.0 == i).map(|k| IpAddr::V4(k.1)).collect::<Vec<_>>() {
            self.neigh_gone(i, a);
        }
        for a in self.n6.keys().filter(|k| k.0 == i).map(|k| IpAddr::V6(k.1)).collect::<Vec<_>>() {
            self.neigh_gone(i, a);
        }
        self.proxies.retain(|(d, _)| *d != i);
        for f in Ctx::FAMILIES {
            self.netconf_gone(f, i as i32);
        }
    }

    fn addr_new(&mut self, seq: u64, k: AddrKey, e: AddrEntry) {
        match self.addrs.insert(k, e) {
            Some(_) => return,
            None => self.own(&k, true),
        }
        // IPv6 may have been switched on again on the device.
        if k.local.is_ipv6() && self.ctx.addressed.get(&(k.ifindex, AF_INET6)) == Some(&1) {
            self.ask_switched(k.ifindex);
        }
        if k.local.is_ipv4() {
            // The source check asks whether the device has any.
            self.dirt.links.insert(k.ifindex);
        }
        // A first address brings dead members on the device back (kernel-facts 4).
        if k.local.is_ipv4() && self.ctx.links.get(&k.ifindex).is_some_and(|l| l.flags & IFF_UP != 0) {
            self.fate(AF_INET, k.ifindex, Fate::Live, seq);
        }
    }

    fn addr_gone(&mut self, seq: u64, k: &AddrKey) {
        self.seen.addrs.remove(k);
        if self.addrs.remove(k).is_none() {
            return;
        }
        self.own(k, false);
        self.dirt.links.insert(k.ifindex);
        let left = self.addrs.keys().any(|o| o.ifindex == k.ifindex && o.local.is_ipv4() == k.local.is_ipv4());
        match k.local {
            IpAddr::V4(a) => {
                self.dirt.links.insert(k.ifindex);
                if !self.own4.contains_key(&a) && self.ctx.source_gone(a, seq) {
                    self.sweep(AF_INET);
                }
                if !left {
                    self.fate(AF_INET, k.ifindex, Fate::Forced, seq);
                }
            }
            // IPv6 may have been switched off on the device: its multipath members are dead then, and nothing says so.
            IpAddr::V6(_) if !left => self.ask_switched(k.ifindex),
            IpAddr::V6(_) => {}
        }
    }

    /// IPv6 may have been switched on or off on the device, which nothing announces as such.
    fn ask_switched(&mut self, ifindex: u32) {
        if self.ctx.up(ifindex) && self.ctx.sets.multipath_on(AF_INET6, ifindex) {
            self.dirt.wanted.insert(DumpKind::Route6);
        }
    }

    /// Somebody who reads sysctls saw that IPv6 was switched on or off on a device (`disable_ipv6`): its addresses may stay or
    /// come back, and its routes' members live or die, unannounced.
    pub fn ipv6_switched(&mut self) {
        self.dirt.wanted.extend([DumpKind::Addr, DumpKind::Route6]);
    }

    fn own(&mut self, k: &AddrKey, came: bool) {
        fn count<A: Ord + Copy>(map: &mut BTreeMap<A, u32>, a: A, came: bool) -> bool {
            let n = map.entry(a).or_default();
            *n = if came { *n + 1 } else { n.saturating_sub(1) };
            let edge = *n == u32::from(came);
            if *n == 0 {
                map.remove(&a);
            }
            edge
        }
        let family = if k.local.is_ipv4() { AF_INET } else { AF_INET6 };
        count(&mut self.ctx.addressed, (k.ifindex, family), came);
        match k.local {
            IpAddr::V4(a) => {
                if count(&mut self.own4, a, came) {
                    self.dirt.own4.insert(a);
                }
            }
            IpAddr::V6(a) => {
                if count(&mut self.own6, a, came) {
                    self.dirt.own6.insert(a);
                }
            }
        }
    }

    /// Entries that the kernel makes up for itself and never announces (kernel-facts 16).
    fn made_up(&self, ifindex: u32, a: IpAddr, n: &Neigh) -> bool {
        n.state == NUD_NOARP
            && (a.is_multicast()
                || n.mac.is_none_or(|m| !m.is_unicast())
                || self.ctx.links.get(&ifindex).is_some_and(|l| l.flags & (IFF_LOOPBACK | IFF_NOARP) != 0))
    }

    fn neigh_new(&mut self, i: u32, a: IpAddr, n: Neigh) {
        let old = match a {
            IpAddr::V4(a) => self.n4.get(&(i, a)),
            IpAddr::V6(a) => self.n6.get(&(i, a)),
        };
        // The kernel takes NUD_PERMANENT away from what it is asked to use or manage; an operator's own change never leads there.
        let asked = |n: &Neigh| {
            n.state & NUD_PERMANENT == 0 && (n.flags_ext & NTF_EXT_MANAGED != 0 || n.state <= NUD_INCOMPLETE)
        };
        if let Some(o) = old.filter(|o| o.state & NUD_PERMANENT != 0 && o.mac.is_some() && asked(&n)) {
            self.dirt.usurped.push((i, a, o.clone()));
        }
        match a {
            IpAddr::V4(a) => {
                if self.n4.insert((i, a), n.clone()).as_ref() != Some(&n) {
                    self.dirt.neighs4.insert((i, a));
                }
            }
            IpAddr::V6(a) => {
                if self.n6.insert((i, a), n.clone()).as_ref() != Some(&n) {
                    self.dirt.neighs6.insert((i, a));
                }
            }
        }
    }

    fn neigh_gone(&mut self, i: u32, a: IpAddr) {
        self.seen.neighs.remove(&(i, a));
        match a {
            IpAddr::V4(a) => {
                if self.n4.remove(&(i, a)).is_some() {
                    self.dirt.neighs4.insert((i, a));
                }
            }
            IpAddr::V6(a) => {
                if self.n6.remove(&(i, a)).is_some() {
                    self.dirt.neighs6.insert((i, a));
                }
            }
        }
    }

    fn netconf_new(&mut self, n: &NetconfMsg, dump: bool) {
        self.seen.netconf.insert((n.family, n.ifindex));
        let old = self.ctx.netconf.get(&(n.family, n.ifindex)).copied();
        if old.is_none() && !dump && n.forwarding.is_none() {
            // One setting of what we know nothing else of.
            self.dirt.wanted.insert(DumpKind::Netconf);
        }
        let o = old.unwrap_or_default();
        let new = Netconf {
            forwarding: n.forwarding.unwrap_or(o.forwarding),
            rp_filter: n.rp_filter.unwrap_or(o.rp_filter),
            ignore_linkdown: n.ignore_linkdown.unwrap_or(o.ignore_linkdown),
        };
        if old != Some(new) {
            self.ctx.netconf.insert((n.family, n.ifindex), new);
            if o.ignore_linkdown && !new.ignore_linkdown {
                let one = u32::try_from(n.ifindex).ok();
                for i in self.ctx.links.keys().copied().filter(|i| one.is_none_or(|o| o == *i)).collect::<Vec<_>>() {
                    self.ask_dead(n.family, i);
                }
            }
            self.netconf_dirty(n.ifindex);
        }
    }

    fn netconf_gone(&mut self, family: u8, ifindex: i32) {
        self.seen.netconf.remove(&(family, ifindex));
        if self.ctx.netconf.remove(&(family, ifindex)).is_some() {
            self.netconf_dirty(ifindex);
        }
    }

    fn netconf_dirty(&mut self, ifindex: i32) {
        match u32::try_from(ifindex) {
            Ok(i) => {
                self.dirt.links.insert(i);
            }
            Err(_) => self.dirt.netconf = true,
        }
    }

    fn object_new(&mut self, n: NextHopMsg) {
        self.ctx.objects.insert(n.id, n);
    }

    fn object_gone(&mut self, seq: u64, id: u32) {
        self.seen.objects.remove(&id);
        if self.ctx.object_gone(id, seq) {
            self.sweep(AF_INET);
            self.sweep(AF_INET6);
        }
    }
}
