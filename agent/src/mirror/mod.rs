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
use crate::netlink::{AF_INET, AF_INET6};

mod addr;
mod bridge;
mod ctx;
mod diff;
mod doubt;
mod family;
mod link;
mod list;
mod message;
mod neigh;
mod netconf;
mod objects;
mod routes;
mod rule;
mod sets;
mod table;
#[cfg(test)]
mod tests;
mod types;

pub use bridge::{PERMANENT, STACKED};
use ctx::Ctx;
pub use ctx::Stats;
pub use family::MirrorFamily;
use message::Seen;
use routes::Routes;
pub use rule::{Odd, Reach, Rules, VrfOrder};
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
    /// What stands on what: a device came or went, or stands otherwise than before.
    pub stacks: bool,
    /// Ports of bridges of which nothing changed but their settings and state there.
    pub bridge_ports: BTreeSet<u32>,
    /// VLANs of bridges and their ports that came, went or changed: device and VID.
    pub vlans: BTreeSet<(u32, u16)>,
    /// Stations of bridges that came, went or changed, and whether they were ever gone meanwhile.
    pub stations: BTreeMap<StationKey, bool>,
    /// Devices that were without carrier or left a bridge, or whose bridge was down, if only for a moment, and those that left one of its VLANs, the bridge's and
    /// its number: what was learned there is forgotten.
    pub forgets: BTreeSet<(u32, Option<(u32, u16)>)>,
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
    /// What [`Mirror::has_default4`] says.
    pub default4: bool,
    /// What [`Mirror::narrow`] says of some gateway.
    pub narrow: bool,
    /// What [`Mirror::doubts`] says.
    pub doubt: bool,
    /// What came for the first time and is not known, or can't be read: a clause for each.
    pub strange: Vec<String>,
    /// Kinds to dump, since something in them is undecided.
    pub wanted: BTreeSet<DumpKind>,
    /// Kinds in which a purge was inferred that a dump should confirm, not urgently.
    pub confirm: BTreeSet<DumpKind>,
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
    bridges: bridge::Bridges,
    rules: BTreeSet<(u8, Rule)>,
    /// Of these, those that the kernel may have more than once: nothing but `NLM_F_EXCL` keeps it from that.
    twins: BTreeSet<(u8, Rule)>,
    /// Those that are about a device by another name than its main one, or were.
    aliased: BTreeSet<(u8, Rule)>,
    dirt: Dirt,
    doubt: doubt::Doubt,
    /// What the running dump of each kind has named, or a notification since it began.
    seen: Seen,
    epoch: u64,
}

impl Mirror {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notifications may have been lost: what the next dump shows may not be all that there is.
    pub fn distrust(&mut self) {
        self.r6.distrust = true;
    }

    /// One to be filled from dumps, for a comparison with this one: it begins with what this one knows and no dump shows.
    pub fn shadow(&self) -> Mirror {
        let mut m = Mirror::default();
        m.ctx.faded = self.ctx.faded.clone();
        m.ctx.sets = self.ctx.sets.memory();
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
        self.ctx.mtus_settle();
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
        d.rules |= std::mem::take(&mut self.ctx.own_tables_new);
        d.default4 = std::mem::take(&mut self.ctx.default4_new);
        d
    }

    /// Up to `max` prefixes whose routes changed, with the table, or whose verdict may have changed for what covers them in the
    /// local table; appended to `out`. Empty when there are none left.
    pub fn drain_prefixes<F: MirrorFamily>(&mut self, max: usize, out: &mut Vec<(u32, Prefix<F>)>) {
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
    /// Whether the mirror can't tell what the kernel holds at `prefix` in one of these tables.
    pub fn undecided<F: MirrorFamily>(&self, tables: &[u32], prefix: Prefix<F>) -> bool {
        let r = F::part(self);
        !r.undecided.is_empty() && tables.iter().any(|t| r.is_undecided(*t, prefix))
    }
    /// Whether the kernel has routes at `prefix` in one of these tables that its dumps leave out.
    pub fn hidden<F: MirrorFamily>(&self, tables: &[u32], prefix: Prefix<F>) -> bool {
        let r = F::part(self);
        !r.hidden.is_empty() && tables.iter().any(|t| r.hidden.contains(&(*t, prefix)))
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
        F::part(self).tables.iter().map(|(t, x)| (*t, x.len())).filter(|(_, n)| *n > 0)
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
    /// The preferred source of an IPv4 route (`RTA_PREFSRC`).
    pub fn prefsrc(&self, a: &Alias) -> Option<Ipv4Addr> {
        self.ctx.rests.get(a.rest)?.prefsrc
    }
    /// What a route leads to. Members that are [dead](Hop::dead) are not used by the kernel.
    pub fn nhset(&self, nh: NhRef) -> &NhSet {
        self.ctx.sets.get(nh)
    }
    /// A next-hop object.
    pub fn object(&self, id: u32) -> Option<&Object> {
        self.ctx.objects.get(id)
    }
    /// Next-hop objects behind that id, in order.
    pub fn objects_after(&self, id: u32) -> impl Iterator<Item = &Object> {
        self.ctx.objects.after(id)
    }
    /// The next-hop sets of routes that lead to that object by itself, of either family and of any MTU.
    pub fn nhsets_of(&self, object: u32) -> impl Iterator<Item = NhRef> + '_ {
        self.ctx.sets.of_object(object)
    }
    /// The groups that a next-hop object is in.
    pub fn groups_of(&self, object: u32) -> impl Iterator<Item = u32> + '_ {
        self.ctx.objects.groups(object)
    }
    /// A neighbour, of whatever family.
    pub fn neighbour(&self, ifindex: u32, a: IpAddr) -> Option<&Neigh> {
        match a {
            IpAddr::V4(a) => self.n4.get(&(ifindex, a)),
            IpAddr::V6(a) => self.n6.get(&(ifindex, a)),
        }
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
    /// Whether the kernel has removed the routes that lead there without a word.
    pub fn nhset_dead(&self, nh: NhRef) -> bool {
        self.ctx.sets.dead(nh)
    }
    /// MTU in bytes of the routes that lead there (`RTAX_MTU`), 0 for none.
    pub fn nhset_mtu(&self, nh: NhRef) -> u16 {
        self.ctx.sets.mtu(nh)
    }
    /// MTU in bytes that the kernel holds packets to that go by that set, 0 for none; `None` where routes of one next-hop object have
    /// several, and the kernel applies whichever it came by first.
    pub fn nhset_shared_mtu(&self, nh: NhRef) -> Option<u16> {
        self.ctx.shared_mtu(nh)
    }
    /// The IPv6 MTU of a device is another: the kernel changes those of routes along with it, unannounced (`fib6_nh_mtu_change`).
    pub fn mtu6_changed(&mut self) {
        if self.ctx.sets.any_limited6() {
            // Links first: their dump waits until the change is over, which a dump of routes may overtake.
            self.dirt.wanted.extend([DumpKind::Link, DumpKind::Route6]);
        }
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
}
