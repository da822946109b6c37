//! Kernel objects → what each table of the chip should hold, and why hardware does not carry what it does not.
//! Pure: no clock, no I/O, no memory of the chip. One file per table.

pub mod bridge;
pub mod group;
pub mod neigh;
pub mod rif;
pub mod route;
pub mod rules;
pub mod switch;
pub mod vrf;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hal::{Addr, Family, FidId, PortEntry, PortId, Prefix, Profile, RifId, RifKind, Tags, VrfId};
use smallvec::SmallVec;

use crate::mirror::{Link, Mirror, Stacked};
use crate::policy::{Finding, Polled, Scope};
use vrf::Vrfs;

/// All that a verdict depends on.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The kernel's objects.
    pub mirror: &'a Mirror,
    /// Which netdevs are front-panel ports, or stand on one.
    pub ports: &'a Ports,
    /// What policy closes.
    pub gate: &'a Gate,
    /// What is polled; `None` until it was read.
    pub polled: Option<&'a Polled>,
    /// What the chip can do.
    pub profile: &'a Profile,
    /// Virtual routers.
    pub vrfs: &'a Vrfs,
}

/// Where a device that has a router interface stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stand {
    /// On a port, with the tags that its frames bear there, or on a VLAN of a bridge.
    pub on: RifKind,
    /// The devices below it, down to the port's netdev, or to the bridge; none below that itself.
    pub below: SmallVec<[u32; 2]>,
}

/// The chip's ports whose netdev is in the agent's network namespace, and the devices there that stand on one, or are a bridge or stand
/// on one, in a way that the chip has words for: those are the devices that have a router interface.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ports {
    by_ifindex: BTreeMap<u32, (PortId, PortEntry)>,
    stands: BTreeMap<u32, Stand>,
    svis: BTreeMap<FidId, u32>,
}

impl Ports {
    /// From the chip's table and the kernel's devices.
    pub fn new<'a>(netns: u64, table: impl Iterator<Item = (&'a PortId, &'a PortEntry)>, mirror: &Mirror) -> Self {
        let ours = table.filter(|(_, e)| e.netns == netns && e.ifindex != 0);
        let mut ports =
            Ports { by_ifindex: ours.map(|(id, e)| (e.ifindex, (*id, e.clone()))).collect(), ..Ports::default() };
        let known = ports.by_ifindex.keys().copied();
        let stacked = |l: &&Link| l.stacked != Stacked::Other || l.bridge.is_some();
        let stacked = mirror.links().filter(stacked).map(|l| l.ifindex);
        ports.stands = known.chain(stacked).filter_map(|i| Some((i, ports.find(mirror, i)?))).collect();
        let fid = |(i, s): (&u32, &Stand)| if let RifKind::Fid(f) = s.on { Some((f, *i)) } else { None };
        ports.svis = ports.stands.iter().filter_map(fid).collect();
        ports
    }
    /// Down from a device to the port that it stands on: by up to two VLAN devices, and a macvlan on top of all. Or it is a bridge, or a
    /// VLAN device on one.
    fn find(&self, mirror: &Mirror, ifindex: u32) -> Option<Stand> {
        let (mut below, mut tags, mut at) = (SmallVec::new(), SmallVec::<[_; 2]>::new(), ifindex);
        loop {
            if let Some((port, _)) = self.by_ifindex.get(&at) {
                let tags = tags.iter().rev().try_fold(Tags::None, |all, t| all.with(*t))?;
                return Some(Stand { on: RifKind::Port { port: *port, tags }, below });
            }
            let l = mirror.link(at)?;
            if let Some(b) = &l.bridge {
                // Of one that is down the kernel does not say how its settings change (`netdev_state_change`).
                if l.flags & group::IFF_UP == 0 {
                    return None;
                }
                // Anything between them would have a MAC of its own, which makes the bridge promiscuous.
                let tag = tags.first().copied().filter(|_| below.len() == 1);
                let fid = (tag.is_some() || below.is_empty()).then(|| bridge::svi(mirror, l.ifindex, b, tag))??;
                return Some(Stand { on: RifKind::Fid(fid), below });
            }
            match l.stacked {
                Stacked::Vlan { tag, .. } if tags.len() < 2 && (1..=4094).contains(&tag.vid) => tags.push(tag),
                Stacked::Macvlan(mode) if below.is_empty() && rif::macvlan(mode) => {}
                _ => return None,
            }
            at = l.lower?;
            below.push(at);
        }
    }
    /// The port whose netdev has that index.
    pub fn get(&self, ifindex: u32) -> Option<&(PortId, PortEntry)> {
        self.by_ifindex.get(&ifindex)
    }
    /// Where a device stands that has a router interface.
    pub fn stand(&self, ifindex: u32) -> Option<&Stand> {
        self.stands.get(&ifindex)
    }
    /// The device that is the router interface on a FID.
    pub fn svi(&self, fid: FidId) -> Option<u32> {
        self.svis.get(&fid).copied()
    }
    /// Whether the device has a router interface: it is a port's netdev, stands on one, or on a VLAN of a bridge.
    pub fn has(&self, ifindex: u32) -> bool {
        self.stands.contains_key(&ifindex)
    }
    /// The ports, by ifindex of their netdevs.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &(PortId, PortEntry))> {
        self.by_ifindex.iter().map(|(i, p)| (*i, p))
    }
    /// All devices that have a router interface, by ifindex.
    pub fn stands(&self) -> impl Iterator<Item = (u32, &Stand)> {
        self.stands.iter().map(|(i, s)| (*i, s))
    }
    /// The interfaces' names in the chip.
    pub fn rifs(&self) -> impl Iterator<Item = RifId> + '_ {
        self.stands.keys().map(|i| RifId(*i))
    }
}

/// What policy closes, sorted by what it reaches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gate {
    findings: Vec<Finding>,
    reach: BTreeSet<Scope>,
    /// The prefixes among these.
    prefixes: Vec<(IpAddr, u8)>,
}

impl Gate {
    /// From the findings.
    pub fn new(findings: Vec<Finding>) -> Self {
        let reach: BTreeSet<Scope> = findings.iter().map(|f| f.scope).collect();
        let prefixes = reach.iter().filter_map(|s| if let Scope::Prefix(a, len) = s { Some((*a, *len)) } else { None });
        let prefixes = prefixes.collect();
        Gate { findings, reach, prefixes }
    }
    /// All findings.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
    /// The single destinations of a family among what is closed, each with the virtual router that it is closed in.
    pub fn hosts<F: Family>(&self) -> impl Iterator<Item = (VrfId, F::Addr)> + '_ {
        let of = |s: &Scope| match s {
            Scope::Host(v, IpAddr::V4(a)) if F::BITS == 32 => Some((VrfId(*v), u128::from(a.to_bits()))),
            Scope::Host(v, IpAddr::V6(a)) if F::BITS == 128 => Some((VrfId(*v), a.to_bits())),
            _ => None,
        };
        self.reach.iter().filter_map(of).map(|(v, a)| (v, F::Addr::from_number(a)))
    }
    /// The prefixes of a family that are closed with all that is under them.
    pub fn prefixes<F: Family>(&self) -> impl Iterator<Item = Prefix<F>> + '_ {
        let of = |(a, len): &(IpAddr, u8)| match a {
            IpAddr::V4(a) if F::BITS == 32 => Some((u128::from(a.to_bits()), *len)),
            IpAddr::V6(a) if F::BITS == 128 => Some((a.to_bits(), *len)),
            _ => None,
        };
        self.prefixes.iter().filter_map(of).map(|(a, len)| Prefix::new(F::Addr::from_number(a), len))
    }
    /// The finding that closes a prefix with all that is under it, or one above it.
    pub fn over<F: Family>(&self, p: Prefix<F>) -> Option<&Finding> {
        // As a rule there are none.
        if self.prefixes.is_empty() {
            return None;
        }
        let over = self.prefixes::<F>().find(|c| c.covers(p))?;
        self.closed(&[Scope::Prefix(over.addr().ip(), over.len())])
    }
    /// The first finding that reaches one of these scopes.
    pub fn closed(&self, scopes: &[Scope]) -> Option<&Finding> {
        if !scopes.iter().any(|s| self.reach.contains(s)) {
            return None;
        }
        self.findings.iter().find(|f| scopes.contains(&f.scope))
    }
}

/// Why hardware does not carry something. Prints as a clause for `route show` and `status`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Why {
    /// Leaves by a device that is not a front-panel port, and stands on none in a way that is offloaded.
    NotPort(u32),
    /// `RTA_NH_ID` names a next-hop object that the kernel has not announced.
    NextHopObject(u32),
    /// It is of a kind, or has an attribute, that is not known here.
    UnknownObject(u32),
    /// It is a resilient group, and the chip has none.
    Resilient(u32),
    /// More buckets than the chip's resilient groups have together.
    TooManyBuckets(u32),
    /// `RTA_ENCAP`
    Encap,
    /// The gateway is reached by a route of host scope, or was when the route may have been made.
    HostScope(Ipv4Addr),
    /// The set has no member that the kernel uses.
    NoMember,
    /// More members than the chip's groups hold.
    TooManyMembers(u32),
    /// TOS or DSCP selects among the routes of the prefix.
    Tos,
    /// `RTA_METRICS`
    Metrics,
    /// Routes of one next-hop object have different MTUs.
    SharedMtu,
    /// `RTA_EXPIRES`
    Expires,
    /// `RTA_SRC`
    Source,
    /// An attribute or flag that is not known.
    Unknown,
    /// `RTA_PREF`
    Pref,
    /// Its next-hop object is a blackhole, or was, which hides its own type.
    Veiled,
    /// Another selector.
    Selector,
    /// Several IPv6 routes of the lowest metric that are not one multipath route.
    SameMetric,
    /// The kernel's dumps leave out a route of the prefix.
    Hidden,
    /// The mirror can't tell what the kernel holds, and asks it again.
    Undecided,
    /// Under a prefix of table local: which table wins is not visible (kernel-facts 22).
    UnderLocal,
    /// In table default.
    TableDefault,
    /// A blackhole, while table default is there.
    BehindDefault,
    /// In table local and of a type that belongs elsewhere.
    TableLocal,
    /// To the switch itself.
    ToUs,
    /// Broadcast.
    Broadcast,
    /// Multicast.
    Multicast,
    /// Unreachable or prohibit: the kernel answers.
    Unreachable,
    /// Throw: the lookup goes on in another table.
    Throw,
    /// A type that is not known.
    Type(u8),
    /// The port's netdev is not known to the kernel's side yet.
    NoLink,
    /// The device is down.
    AdminDown,
    /// It belongs to a bridge or bond.
    Master(String),
    /// It belongs to a VRF whose table is one of the kernel's own.
    VrfTable(u32),
    /// It belongs to a VRF, and the chip holds that many virtual routers, all of which are taken.
    VrfNoRoom(u32),
    /// It belongs to a VRF whose routes are not all in the chip yet.
    VrfFilling,
    /// A rule before the tables of VRFs may be about what comes in by it.
    RuleBeforeVrf,
    /// With rules the kernel looks up by them where a source is reached.
    RuleSources,
    /// It belongs to a VRF, and no rule of the family has its packets look up the VRF's table before others.
    VrfRule,
    /// Its bridge, of that name, is not offloaded for that reason.
    Bridge(String, Box<Why>),
    /// A setting of a bridge or of a port of one, by its name in `ip link`.
    BridgeSetting(&'static str),
    /// A device of that name stands on the bridge port.
    Upper(String),
    /// A device of that name stands on the bridge with a MAC of its own.
    OwnMac(String),
    /// What a device below it, of that name, is closed for.
    Below(String, Box<Why>),
    /// A VLAN device without `reorder_hdr`, or with a flag that is not known.
    VlanFlags,
    /// `egress-qos-map`
    QosMap,
    /// A macvlan of mode bridge.
    MacvlanBridge,
    /// No usable Ethernet address.
    NoMac,
    /// `IFLA_XDP`
    Xdp,
    /// Forwarding is off.
    NotForwarding,
    /// IPv6 is not on the device.
    NoIpv6,
    /// Policy.
    Policy(String),
    /// The neighbour is not resolved.
    Unresolved,
    /// The neighbour's address is not a unicast MAC.
    NoUnicastMac,
    /// A proxy entry.
    Proxy,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotPort(i) => write!(f, "leaves by device {i}, which is not a front-panel port"),
            Why::NextHopObject(id) => write!(f, "uses next-hop object {id}, which the kernel has not announced"),
            Why::UnknownObject(id) => write!(f, "uses next-hop object {id}, of which not all is known here"),
            Why::Resilient(id) => write!(f, "uses resilient group {id}, and the chip has no such groups"),
            Why::TooManyBuckets(max) => write!(f, "its group has more buckets than the {max} of the chip's groups together"),
            Why::Encap => f.write_str("encapsulates, not offloaded yet"),
            Why::HostScope(gw) => write!(
                f,
                "its gateway {gw} is, or was, an address of the switch or under a route of host scope, so that the kernel may send to the destination instead"
            ),
            Why::NoMember => f.write_str("no next hop of it is usable"),
            Why::TooManyMembers(max) => {
                write!(f, "it has more members than the {max} of the chip's groups")
            }
            Why::Tos => f.write_str("routes of this prefix are selected by TOS, not offloaded yet"),
            Why::Metrics => f.write_str("carries metrics whose say in forwarding is not known, or not offloaded"),
            Why::SharedMtu => f.write_str(
                "shares a next-hop object with routes of another MTU: the kernel applies that of whichever was used first",
            ),
            Why::Expires => f.write_str("expires by itself, unannounced"),
            Why::Source => f.write_str("is selected by source prefix, not offloaded yet"),
            Why::Unknown => f.write_str("carries an attribute or flag that is not known here"),
            Why::Veiled => f.write_str("its next-hop object is a blackhole, which hides the route's own type"),
            Why::Pref => f.write_str("has a router preference, not offloaded yet"),
            Why::Selector => f.write_str("has a selector besides prefix and metric, not offloaded yet"),
            Why::SameMetric => f.write_str("several routes of the same metric that are not one multipath route"),
            Why::Hidden => f.write_str("the kernel has a route of this prefix that its dumps leave out"),
            Why::Undecided => f.write_str("what the kernel holds is being asked again"),
            Why::UnderLocal => {
                f.write_str("lies under a prefix of table local; which of the two the kernel prefers is not visible")
            }
            Why::BehindDefault => {
                f.write_str("a blackhole: behind it the kernel may look on in table default, which is there")
            }
            Why::TableDefault => f.write_str("in table default, not offloaded yet"),
            Why::TableLocal => f.write_str("of a type that is not offloaded from table local"),
            Why::ToUs => f.write_str("to the switch itself"),
            Why::Broadcast => f.write_str("broadcast"),
            Why::Multicast => f.write_str("multicast, not offloaded yet"),
            Why::Unreachable => f.write_str("the kernel answers with an ICMP error"),
            Why::Throw => f.write_str("the lookup goes on in another table"),
            Why::Type(t) => write!(f, "route type {t} is not known here"),
            Why::NoLink => f.write_str("the kernel has not announced the port's netdev"),
            Why::AdminDown => f.write_str("the device is down"),
            Why::VrfTable(t) => write!(f, "its VRF has table {t}, which is one of the kernel's own"),
            Why::VrfNoRoom(max) => write!(f, "the chip holds {max} virtual routers, and all are taken"),
            Why::VrfFilling => f.write_str("the routes of its VRF are on their way to the chip"),
            Why::RuleBeforeVrf => f.write_str("a rule (ip rule) comes in before the table of its VRF"),
            Why::RuleSources => f.write_str("rp_filter goes by the rules beyond the default ones (ip rule), too, not offloaded yet"),
            Why::VrfRule => f.write_str("no rule looks up its VRF's table before table main (ip rule, l3mdev)"),
            Why::Master(m) => write!(f, "the port is a member of {m}, not offloaded yet"),
            Why::Bridge(name, why) => write!(f, "{why}: bridge {name}"),
            Why::BridgeSetting(s) => write!(f, "{s} is set, not offloaded yet"),
            Why::Upper(name) => write!(f, "{name} stands on the bridge port, and has frames before the bridge"),
            Why::OwnMac(name) => {
                write!(f, "{name} stands on it with a MAC of its own, for which the bridge hears all, not offloaded yet")
            }
            Why::Below(name, why) => write!(f, "{why}: {name}, on which it stands"),
            Why::VlanFlags => f.write_str("hands frames on with their tags (reorder_hdr off), or has a flag that is not known here"),
            Why::QosMap => f.write_str("gives its tags priorities (egress-qos-map), not offloaded yet"),
            Why::MacvlanBridge => f.write_str(
                "a macvlan of mode bridge: others on the same device may get its frames, and not the wire (use mode private)",
            ),
            Why::NoMac => f.write_str("the device has no unicast Ethernet address"),
            Why::Xdp => f.write_str("an XDP program is attached"),
            Why::NotForwarding => f.write_str("forwarding is off"),
            Why::NoIpv6 => f.write_str("IPv6 is not on the device"),
            Why::Policy(s) => f.write_str(s),
            Why::Unresolved => f.write_str("not resolved"),
            Why::NoUnicastMac => f.write_str("no unicast MAC address"),
            Why::Proxy => f.write_str("a proxy entry"),
        }
    }
}
