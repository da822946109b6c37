//! From messages to objects: which file a message goes to, and the dumps of the kinds that are dumped whole: what a dump did
//! not name goes, what a notification has spoken of since it began stays (kernel-facts 15). Routes keep their own account,
//! in `routes`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hal::{V4, V6};

use super::routes::Warm;
use super::types::{AddrKey, Rule, StationKey};
use super::{Mirror, MirrorFamily, NTF_PROXY};
use crate::input::DumpKind;
use crate::netlink::{
    AF_BRIDGE, AF_INET, AF_INET6, Malformed, Message, Of, Unknown, Unknowns, bridge, messages, nexthop, nlm, object,
    route, rtm,
};

/// An object of a kind that is dumped whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Link(u32),
    Vlan(u32, u16),
    Station(StationKey),
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
            Key::Vlan(..) => DumpKind::Vlan,
            Key::Station(_) => DumpKind::Fdb,
            Key::Netconf(..) => DumpKind::Netconf,
            Key::Addr(_) => DumpKind::Addr,
            Key::NextHop(_) => DumpKind::NextHop,
            Key::Neigh(..) => DumpKind::Neigh,
            Key::Rule(..) => DumpKind::Rule,
        }
    }
}

#[derive(Default)]
pub(super) struct Seen {
    pub running: BTreeSet<DumpKind>,
    /// What notifications spoke of since the dump of its kind began: there the dump may be the older news.
    touched: BTreeSet<Key>,
    pub links: BTreeSet<u32>,
    pub vlans: BTreeSet<(u32, u16)>,
    pub stations: BTreeSet<StationKey>,
    pub netconf: BTreeSet<(u8, i32)>,
    pub addrs: BTreeSet<AddrKey>,
    pub neighs: BTreeSet<(u32, IpAddr)>,
    pub rules: BTreeSet<(u8, Rule)>,
    pub twins: BTreeSet<(u8, Rule)>,
    pub objects: BTreeSet<u32>,
}

impl Mirror {
    /// Notifications, one or more whole messages. `seq` is the reader's stamp; messages of different queues must have
    /// different stamps, since a route message older than a purge is judged by it.
    pub fn monitor(&mut self, seq: u64, buf: &[u8]) {
        self.warm(buf);
        for m in messages(buf) {
            self.take(seq, m, None);
        }
    }

    /// One message. What is strange about it costs no other.
    fn take(&mut self, seq: u64, m: Result<Message<'_>, Malformed>, dump: Option<DumpKind>) {
        self.ctx.stats.messages += 1;
        let mut unknown = Unknowns::default();
        let read = m.and_then(|m| self.message(seq, &m, dump, &mut unknown));
        if read.is_err() || !unknown.is_empty() || self.doubts().next().is_some() {
            self.strange(m.as_ref().ok(), read, &unknown, dump);
        }
    }

    /// A dump of that kind was asked for.
    pub fn dump_begin(&mut self, kind: DumpKind) {
        self.seen.running.insert(kind);
        self.seen.touched.retain(|k| k.kind() != kind);
        self.dirt.wanted.remove(&kind);
        self.ctx.confirm.remove(&kind);
        self.doubt_begin(kind);
        match kind {
            DumpKind::Link => self.seen.links.clear(),
            DumpKind::Vlan => self.seen.vlans.clear(),
            DumpKind::Fdb => self.seen.stations.clear(),
            DumpKind::Netconf => self.seen.netconf.clear(),
            DumpKind::Addr => self.seen.addrs.clear(),
            DumpKind::NextHop => self.seen.objects.clear(),
            DumpKind::Neigh => self.seen.neighs.clear(),
            DumpKind::Rule => {
                self.seen.rules.clear();
                self.seen.twins.clear();
            }
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
        self.warm(buf);
        for m in messages(buf) {
            self.take(seq, m, Some(kind));
        }
    }

    /// The running dump of that kind is over. What it did not name goes, if it was complete; what came by notification
    /// since it began stays (kernel-facts 15).
    pub fn dump_end(&mut self, kind: DumpKind, complete: bool) {
        self.epoch += 1;
        if !self.seen.running.remove(&kind) {
            return;
        }
        if complete {
            self.doubt_end(kind);
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
            DumpKind::Vlan => {
                let seen = std::mem::take(&mut self.seen.vlans);
                self.vlans_gone(|k| !seen.contains(k));
            }
            DumpKind::Fdb => {
                let seen = std::mem::take(&mut self.seen.stations);
                let gone: Vec<_> = self.stations().map(|(k, _)| *k).filter(|k| !seen.contains(k)).collect();
                gone.iter().for_each(|k| self.station_gone(k));
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
                for id in self.ctx.objects.iter().map(|o| o.id).filter(|k| !seen.contains(k)).collect::<Vec<_>>() {
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
                    self.aliased.retain(|r| seen.contains(r));
                    self.dirt.rules = true;
                }
                self.twins = std::mem::take(&mut self.seen.twins);
            }
            DumpKind::Route4 | DumpKind::Route6 | DumpKind::List6 => {}
        }
    }

    /// Look up the prefixes of all route messages in `buf`. One after the other, each with its work, they would wait for
    /// memory one by one; like this the processor waits for many at once, and then finds them at hand.
    fn warm(&self, buf: &[u8]) {
        let mut found = 0;
        for step in [Warm::Glance, Warm::Find] {
            for m in messages(buf).flatten().filter(|m| matches!(m.kind, rtm::NEWROUTE | rtm::DELROUTE)) {
                found ^= match m.body.first() {
                    Some(&AF_INET) => self.r4.warm(m.body, step),
                    Some(&AF_INET6) => self.r6.warm(m.body, step),
                    _ => 0,
                };
            }
        }
        // Nobody wants the number, but the work is not to be optimised away.
        core::hint::black_box(found);
    }

    fn message(
        &mut self,
        seq: u64,
        m: &Message<'_>,
        dump: Option<DumpKind>,
        unknown: &mut Unknowns,
    ) -> Result<(), Malformed> {
        match m.kind {
            rtm::NEWROUTE | rtm::DELROUTE => {
                let delete = m.kind == rtm::DELROUTE;
                match m.body.first() {
                    Some(&AF_INET) => self.route::<V4>(seq, m, delete, dump, unknown),
                    Some(&AF_INET6) => self.route::<V6>(seq, m, delete, dump, unknown),
                    _ => self.ignore(),
                }
            }
            rtm::NEWLINK | rtm::DELLINK if m.body.first() == Some(&AF_BRIDGE) => match bridge::port_link(m.body)? {
                Some((i, p)) if m.kind == rtm::NEWLINK && dump.is_none() => {
                    self.heed(Key::Link(i), dump);
                    self.bridge_port_said(i, p);
                    Ok(())
                }
                _ => self.ignore(),
            },
            rtm::NEWVLAN | rtm::DELVLAN => {
                let (i, all) = bridge::vlans(m.body, unknown)?;
                for (first, last, v) in all {
                    for vid in first..=last {
                        if !self.heed(Key::Vlan(i, vid), dump) {
                            continue;
                        }
                        if m.kind == rtm::NEWVLAN {
                            self.seen.vlans.insert((i, vid));
                            self.vlan_new(i, vid, v);
                        } else {
                            self.vlan_gone(i, vid);
                        }
                    }
                }
                Ok(())
            }
            rtm::NEWNEIGH | rtm::DELNEIGH if m.body.first() == Some(&AF_BRIDGE) => {
                match bridge::station(m.body, unknown)? {
                    None => self.ignore(),
                    Some((k, _)) if !self.heed(Key::Station(k), dump) => Ok(()),
                    Some((k, s)) if m.kind == rtm::NEWNEIGH => {
                        self.seen.stations.insert(k);
                        self.station_new(k, s);
                        Ok(())
                    }
                    Some((k, _)) => {
                        self.station_gone(&k);
                        Ok(())
                    }
                }
            }
            rtm::NEWLINK | rtm::DELLINK => match object::link(m.body, unknown)? {
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
            rtm::NEWADDR | rtm::DELADDR => match object::addr(m.body, unknown)? {
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
            rtm::NEWNEIGH | rtm::DELNEIGH => match object::neigh(m.body, unknown)? {
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
            rtm::NEWRULE | rtm::DELRULE => match object::rule(m.body, unknown)? {
                None => self.ignore(),
                Some((f, mut r)) => {
                    let lost = std::mem::take(&mut r.lost);
                    if self.heed(Key::Rule(f, r.clone()), dump) {
                        self.rule_said((f, r), lost, m.kind == rtm::NEWRULE, dump.is_some());
                    }
                    Ok(())
                }
            },
            rtm::NEWNETCONF | rtm::DELNETCONF => match object::netconf(m.body, unknown)? {
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
                let n = nexthop::nexthop(m.body, unknown)?;
                if !self.heed(Key::NextHop(n.id), dump) {
                    return Ok(());
                }
                if m.kind == rtm::NEWNEXTHOP {
                    self.seen.objects.insert(n.id);
                    self.ctx.object_new(n);
                } else {
                    self.object_gone(seq, n.id);
                }
                Ok(())
            }
            // Where the kernel's own buckets lead: the chip has its own.
            rtm::NEWNEXTHOPBUCKET | rtm::DELNEXTHOPBUCKET => self.ignore(),
            nlm::NOOP | nlm::ERROR | nlm::DONE => Ok(()),
            kind => {
                unknown.add(Unknown::new(Of::Message, kind));
                self.ignore()
            }
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
        unknown: &mut Unknowns,
    ) -> Result<(), Malformed> {
        let Some(r) = route::decode::<F>(m.body, unknown)? else { return self.ignore() };
        let (routes, ctx) = F::parts(self);
        match dump {
            None => {
                if !delete {
                    ctx.unveil(&r);
                }
                routes.notify(ctx, seq, &r, m.flags, delete);
            }
            Some(k) if k == F::DUMP && !delete => routes.dump(ctx, seq, &r),
            Some(_) => {}
        }
        Ok(())
    }
}
