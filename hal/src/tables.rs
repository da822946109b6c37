//! The tables of the contract: key and entry types, names, kinds and ranks.
//!
//! One macro call at the end lists every table; a new table is its types and one row there.
//! Not here: how a chip stores them, or how the kernel's objects become entries.

use core::fmt;
use core::hash::Hash;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

use crate::ip::{Family, Mac, Prefix, V4, V6};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A front-panel port; numbered by the chip from 0 in the order of its configuration.
    PortId;
    /// A router interface. The agent uses the netdev's ifindex.
    RifId;
    /// A virtual router; chosen by the agent, which uses the number of its routing table. 0 is the default one.
    VrfId;
    /// A next hop; chosen by the agent.
    NextHopId;
    /// A next-hop group; chosen by the agent.
    GroupId;
    /// A filtering database's VLAN (IEEE 802.1Q, 8.8.8), or a whole bridge that knows no VLANs; chosen by the agent.
    FidId;
    /// What a bridge has as a port. The agent uses the netdev's ifindex.
    BridgePortId;
}

/// What a table's content is held against (DESIGN, promise 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Equal to a fresh compile of the kernel's state.
    Derived,
    /// Satisfies the invariants of a fresh compile; which entries fit may depend on history.
    Placed,
    /// The chip is the truth; the agent only reads it.
    Learned,
}

/// One table of the contract.
pub trait Table: 'static {
    /// Its number in messages.
    const ID: TableId;
    /// Its name in the CLI.
    const NAME: &'static str;
    /// Dependency order: sets go in ascending, removes in descending rank.
    const RANK: u8;
    /// What its content is held against.
    const KIND: Kind;
    /// What the agent names an entry by.
    type Key: Copy + Ord + Hash + fmt::Debug + Serialize + DeserializeOwned + Into<AnyKey>;
    /// What the chip holds.
    type Entry: Clone + Eq + fmt::Debug + Serialize + DeserializeOwned;
    /// The record of one entry.
    fn record(key: Self::Key, entry: Self::Entry) -> Record;
    /// The inverse of [`Table::record`]; `None` for a record of another table.
    fn entry(record: &Record) -> Option<(Self::Key, &Self::Entry)>;
}

// ---------------------------------------------------------------- ports

/// Why a port cannot carry frames between its wire and its netdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortFault {
    /// The netdev was deleted.
    HostIfDeleted,
    /// The netdev was moved to another network namespace.
    HostIfMoved,
    /// The wire's device is gone.
    WireGone,
    /// The wire's device could not be brought up.
    WireRefused,
    /// The wire's device refused the netdev's MTU; longer frames than its own are dropped, the link stands.
    WireMtu,
}

/// A front-panel port as the chip sees it. Written by the chip alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortEntry {
    /// The configured name; the netdev may have been renamed since.
    pub name: String,
    /// Ifindex of the port's netdev (the TAP) in [`PortEntry::netns`]; 0 if it is gone.
    pub ifindex: u32,
    /// Inode of the network namespace that the netdev is in (`stat -L -c %i /proc/PID/ns/net`).
    pub netns: u64,
    /// MAC address of wire and netdev.
    pub mac: Mac,
    /// MTU of the wire in bytes, without Ethernet header, and without the room that it has for VLAN tags.
    pub mtu: u32,
    /// Whether the netdev is administratively up.
    pub admin: bool,
    /// Whether the wire has carrier. Off while `admin` is off or a fault other than [`PortFault::WireMtu`] stands.
    pub link: bool,
    /// The wire as configured, `packet:eth1` for example.
    pub wire: String,
    /// What is wrong with the port, if anything is.
    pub fault: Option<PortFault>,
}

impl PortEntry {
    /// A port without a wire that is up in every respect, MTU 1500: what tests and benches begin with.
    pub fn sound(name: impl Into<String>, ifindex: u32, netns: u64, mac: Mac) -> Self {
        let wire = "none".into();
        PortEntry { name: name.into(), ifindex, netns, mac, mtu: 1500, admin: true, link: true, wire, fault: None }
    }
}

// ---------------------------------------------------------------- switch-wide

/// Key of a table that holds one entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Global;

/// What selects a member of a hash group (`Documentation/networking/ip-sysctl.rst`, `fib_multipath_hash_policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashPolicy {
    /// Policy 0: source and destination address; for IPv6 flow label and next header as well.
    #[default]
    L3,
    /// Policy 1: addresses, protocol and ports; fragments, the first included, without ports.
    L4,
    /// Policy 2: as 0, but of the innermost IP header of a tunnelled packet, whatever that says of the outer ones; an ICMP error counts by its own
    /// addresses. Packets whose headers the chip can't follow are trapped ([`TrapClass::Hash`]).
    Inner,
    /// Policy 3: the fields of these bits, which are [`hash_field`]'s; likewise.
    Fields(u16),
}

/// Bits of [`HashPolicy::Fields`] (`FIB_MULTIPATH_HASH_FIELD_*`; `fib_multipath_hash_fields` in `ip-sysctl.rst`).
pub mod hash_field {
    /// Source address.
    pub const SRC: u16 = 1;
    /// Destination address.
    pub const DST: u16 = 1 << 1;
    /// Protocol.
    pub const PROTO: u16 = 1 << 2;
    /// IPv6 flow label; of no meaning for IPv4.
    pub const LABEL: u16 = 1 << 3;
    /// Source port.
    pub const SRC_PORT: u16 = 1 << 4;
    /// Destination port.
    pub const DST_PORT: u16 = 1 << 5;
    /// The same six of the innermost header of a tunnelled packet are as many bits higher.
    pub const INNER: u32 = 6;
    /// All of them.
    pub const ALL: u16 = 0xfff;
}

/// Settings of the whole chip. Absent: [`HashPolicy::L3`] for both families, and no rules.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SwitchEntry {
    /// For IPv4.
    pub hash4: HashPolicy,
    /// For IPv6.
    pub hash6: HashPolicy,
    /// Policy routing of IPv4: the first rule that a packet matches counts. One list that is set as a whole, so that no packet
    /// meets a mixture of two.
    pub rules4: Vec<Rule<V4>>,
    /// The same for IPv6.
    pub rules6: Vec<Rule<V6>>,
}

/// A rule of policy routing (`ip rule`): which packets have their destination looked up elsewhere. For packets that came in by
/// an interface of the default virtual router.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Rule<F: Family> {
    /// The interface that it came in by; `None`: any. One that is not there matches nothing.
    pub iif: Option<RifId>,
    /// Its source address.
    pub src: Prefix<F>,
    /// Its destination address.
    pub dst: Prefix<F>,
    /// Its TOS byte (IPv6: traffic class), as far as the mask goes that stands behind it; `None`: any.
    pub tos: Option<(u8, u8)>,
    /// Its protocol (IPv4 protocol, IPv6 next header); `None`: any.
    pub proto: Option<u8>,
    /// Its source port, from and to. A fragment has none, the first included.
    pub sport: Option<(u16, u16)>,
    /// Its destination port.
    pub dport: Option<(u16, u16)>,
    /// Whose longest matching route has fewer bits than this is trapped; 0: whatever it has.
    pub shortest: u8,
    /// What becomes of it.
    pub then: RuleAction,
}

impl<F: Family> Rule<F> {
    /// One that every packet matches.
    pub fn all(then: RuleAction) -> Self {
        let (src, dst) = (Prefix::all(), Prefix::all());
        Rule { iif: None, src, dst, tos: None, proto: None, sport: None, dport: None, shortest: 0, then }
    }
}

/// What a rule does with the packets that match it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Their destination is looked up in that virtual router.
    Vrf(VrfId),
    /// To the kernel.
    Trap(TrapClass),
}

// ---------------------------------------------------------------- tags

/// The type of a VLAN tag (IEEE 802.1Q, 9.5), under the name that `ip` has for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Tpid {
    /// 0x8100, a customer's tag.
    #[serde(rename = "802.1Q")]
    Dot1q,
    /// 0x88a8, a provider's tag.
    #[serde(rename = "802.1ad")]
    Dot1ad,
}

impl fmt::Display for Tpid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tpid::Dot1q => "802.1Q",
            Tpid::Dot1ad => "802.1ad",
        })
    }
}

/// A VLAN tag, without its priority: frames of any priority are taken, and leave with priority 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// Its type.
    pub tpid: Tpid,
    /// VLAN identifier, 1 to 4094.
    pub vid: u16,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tpid, self.vid)
    }
}

/// The tags between a frame's addresses and its IP packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tags {
    /// None.
    #[default]
    None,
    /// One.
    One(Tag),
    /// Two, the outer one first.
    Two(Tag, Tag),
}

impl Tags {
    /// With one tag more, inside of those that there are; `None` where that would be too many.
    pub fn with(self, inner: Tag) -> Option<Tags> {
        match self {
            Tags::None => Some(Tags::One(inner)),
            Tags::One(outer) => Some(Tags::Two(outer, inner)),
            Tags::Two(..) => None,
        }
    }
    /// From the outside in.
    pub fn iter(self) -> impl Iterator<Item = Tag> {
        let (a, b) = match self {
            Tags::None => (None, None),
            Tags::One(a) => (Some(a), None),
            Tags::Two(a, b) => (Some(a), Some(b)),
        };
        a.into_iter().chain(b)
    }
}

// ---------------------------------------------------------------- bridging

/// One FID: the frames of a VLAN of a bridge. Absent: all that would be its is trapped. Removing it, or a member, forgets the
/// stations learned there, without an event; removing a bridge port forgets its own with events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FidEntry {
    /// The tag that its frames bear where they leave tagged, and by which they are told where they come in tagged; `None`: a bridge that
    /// does not look at tags.
    pub tag: Option<Tag>,
    /// Milliseconds after which a learned address that no frame came from is forgotten (IEEE 802.1Q, 8.8.3).
    pub ageing: u32,
    /// Whether frames to an unknown station are flooded; else they are trapped ([`TrapClass::Unknown`]).
    pub unknown: bool,
    /// The same for broadcast ([`TrapClass::Broadcast`], ARP [`TrapClass::Arp`]).
    pub broadcast: bool,
    /// The same for multicast ([`TrapClass::Multicast`], neighbour discovery [`TrapClass::Nd`]).
    pub multicast: bool,
}

/// State of a port in a spanning tree (IEEE 802.1Q, 8.4); listening and disabled are as blocking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StpState {
    /// Nothing comes in or leaves but control frames.
    #[default]
    Blocking,
    /// Addresses are learned, nothing is forwarded.
    Learning,
    /// Addresses are learned and frames forwarded.
    Forwarding,
}

/// A port of a bridge. Where two are on one front-panel port, neither has any frames, and they are trapped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BridgePortEntry {
    /// What it is.
    pub port: PortId,
    /// The type of the tags that its bridge tells VLANs by; `None`: it does not look at tags, and all frames are
    /// [`BridgePortEntry::untagged`]'s.
    pub tpid: Option<Tpid>,
    /// Whose frames without such a tag, or with VID 0, are; `None`: they are dropped.
    pub untagged: Option<FidId>,
    /// For all FIDs.
    pub state: StpState,
    /// Whether source addresses are learned.
    pub learning: bool,
    /// Whether then those of frames to 01:80:c2:00:00:00 to 0F are, too, though all of these are trapped.
    pub control_learning: bool,
    /// Whether frames to unknown stations are flooded to it.
    pub unknown: bool,
    /// Whether multicast is.
    pub multicast: bool,
    /// Whether broadcast is.
    pub broadcast: bool,
    /// Frames do not go from one isolated port to another.
    pub isolated: bool,
    /// Frames may leave by the port that they came in by.
    pub hairpin: bool,
    /// Bytes of the longest frame that leaves by it, without the outermost tag; what is longer is trapped ([`TrapClass::Mtu`]).
    pub longest: u32,
    /// Whether frames that come in by it may be forwarded; else they are trapped ([`TrapClass::BridgeClosed`]).
    pub ingress: bool,
    /// Whether frames may leave by it; else those that would are trapped.
    pub egress: bool,
}

/// Key of a member of a FID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MemberKey {
    /// Of which.
    pub fid: FidId,
    /// Who.
    pub port: BridgePortId,
}

/// How a port is a member of a FID. Absent: its frames with the FID's tag are dropped, and none of the FID's leave by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Whether the FID's frames leave by it with the FID's tag.
    pub tagged: bool,
    /// For this FID; counts where [`BridgePortEntry::state`] lets frames through.
    pub state: StpState,
}

/// Key of a station's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FdbKey {
    /// Where it is known.
    pub fid: FidId,
    /// A unicast address.
    pub mac: Mac,
}

/// Key of a station that is not learned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StaticKey(pub FdbKey);

/// What becomes of frames to a station that is not learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FdbVerdict {
    /// Out of that port. Frames *from* it that come in by another are trapped ([`TrapClass::Moved`]).
    Port(BridgePortId),
    /// To the router interface, which stands on the same FID. Frames from it are trapped.
    Route(RifId),
    /// To the kernel. Frames from it are trapped.
    Trap(TrapClass),
}

// ---------------------------------------------------------------- router interfaces

/// What a router interface stands on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RifKind {
    /// The frames of a port that bear these tags and no others. Several interfaces may stand on the same: a frame is that one's
    /// whose MAC it is addressed to.
    Port {
        /// Which port.
        port: PortId,
        /// Which tags.
        tags: Tags,
    },
    /// The frames of a FID to the stations that [`FdbVerdict::Route`] names.
    Fid(FidId),
}

impl RifKind {
    /// The untagged frames of a port.
    pub const fn port(port: PortId) -> RifKind {
        RifKind::Port { port, tags: Tags::None }
    }
}

/// Unicast reverse-path check of IPv4 sources (RFC 3704; `rp_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urpf {
    /// `rp_filter=0`: only the switch's own addresses are refused as a source. In a virtual router other than the default one a
    /// source without a route is trapped: the kernel looks on in other tables.
    #[default]
    Off,
    /// `rp_filter=2`: the source must have a unicast route.
    Loose,
    /// `rp_filter=1`: the source's route must lead out of the interface that the frame came in by.
    Strict,
}

/// A router interface. Absent: every frame that would be its is trapped. Of two with the same kind and MAC neither has any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RifEntry {
    /// What it stands on.
    pub kind: RifKind,
    /// The virtual router whose routes its frames use.
    pub vrf: VrfId,
    /// Its MAC: frames to any other are trapped, and routed frames leave with it as source.
    pub mac: Mac,
    /// IPv4 MTU of what leaves through it: bytes of an IP packet.
    pub mtu4: u32,
    /// IPv6 MTU of what leaves through it.
    pub mtu6: u32,
    /// Whether IPv4 frames that came in by it may be forwarded; else they are trapped.
    pub ingress4: bool,
    /// The same for IPv6.
    pub ingress6: bool,
    /// Whether frames may leave through it; else what would is trapped.
    pub egress: bool,
    /// Whether IPv4 frames that came in by it may leave by it; else they are trapped ([`TrapClass::SameInterface`]), as IPv6's
    /// always are: the kernel may owe the sender a redirect.
    pub same4: bool,
    /// Source check of IPv4 frames that came in by it.
    pub urpf: Urpf,
}

// ---------------------------------------------------------------- neighbours, next hops, groups

/// Key of an adjacency.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct NeighKey<F: Family> {
    /// The interface it is reached through.
    pub rif: RifId,
    /// Its address there.
    pub addr: F::Addr,
}

/// An adjacency: how a frame to that neighbour is addressed. Absent: what needs it is trapped
/// ([`TrapClass::Glean`] by a connected route, [`TrapClass::Unresolved`] by a next hop).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighEntry {
    /// Destination MAC.
    pub mac: Mac,
}

/// One next hop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHopEntry {
    /// To the neighbour (RIF, address). An IPv4 route may use an IPv6 next hop (`RTA_VIA`, RFC 5549).
    Ip(RifId, IpAddr),
    /// To the packet's own destination on that interface.
    Connected(RifId),
    /// To the kernel.
    Trap(TrapClass),
    /// Nowhere.
    Drop(DropReason),
}

/// A member of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Where its share goes.
    pub nexthop: NextHopId,
    /// Its share, relative to the sum over the group; 1 or more.
    pub weight: u32,
}

/// A group of next hops; a single next hop is a group of one. Empty: trap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Its members, in the kernel's order.
    pub members: SmallVec<[Member; 2]>,
    /// Bytes of the longest IP packet that may go by it, if that is less than the interface's MTU; longer ones are trapped
    /// ([`TrapClass::Mtu`]). 0: the interface's alone counts.
    pub mtu: u16,
    /// Its flows keep their member while others come and go (law h); `None`: the hash is divided among the members anew.
    pub resilient: Option<Resilient>,
}

/// What makes a group resilient (`NEXTHOP_GRP_TYPE_RES`; `Documentation/networking/nexthop-group-resilient.rst`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Resilient {
    /// How many buckets the packets are put in by their hash; 1 or more.
    pub buckets: u16,
    /// Milliseconds without a packet after which a bucket may move to another member.
    pub idle: u64,
    /// Milliseconds without balance after which buckets have to move, in use or not; 0: never.
    pub unbalanced: u64,
    /// The agent's word for it, which says nothing to the chip: by it the agent finds the buckets again that it had.
    pub label: u64,
}

/// Key of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BucketKey {
    /// Of which group.
    pub group: GroupId,
    /// Which, from 0.
    pub index: u16,
}

/// A bucket of a resilient group. Written by the chip alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketEntry {
    /// Where its packets go.
    pub nexthop: NextHopId,
    /// Milliseconds since it was last seen in use, or moved.
    pub idle: u64,
}

// ---------------------------------------------------------------- routes

/// Key of a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct RouteKey<F: Family> {
    /// The virtual router.
    pub vrf: VrfId,
    /// The destination.
    pub prefix: Prefix<F>,
}

/// The verdict on a packet, for routes and whatever else decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fwd {
    /// To a member of the group.
    Group(GroupId),
    /// To the packet's own destination on that interface; no adjacency traps as glean.
    Connected(RifId),
    /// To the kernel.
    Trap(TrapClass),
    /// Nowhere.
    Drop(DropReason),
}

/// Why a frame goes to the kernel. Each class has a policer and a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum TrapClass {
    /// ARP (RFC 826).
    Arp,
    /// Neighbour discovery: ICMPv6 types 133 to 137 (RFC 4861).
    Nd,
    /// To one of the switch's own addresses.
    ToUs,
    /// Broadcast, at the link or in IP.
    Broadcast,
    /// Multicast, at the link or in IP.
    Multicast,
    /// TTL or hop limit of 1 or 0.
    Ttl,
    /// Longer than the MTU of the interface that it would leave by, or than that of the route.
    Mtu,
    /// IPv4 options, or an IPv6 hop-by-hop header.
    Options,
    /// A connected destination without an adjacency.
    Glean,
    /// A next hop without an adjacency.
    Unresolved,
    /// No route.
    NoRoute,
    /// Would leave by the interface it came in by: the kernel may owe a redirect.
    SameInterface,
    /// The source is one of the switch's own, or fails the reverse-path check.
    Source,
    /// A source or destination address of special use, which the kernel has to judge.
    Special,
    /// A header that is truncated, has a wrong length, version or checksum.
    Malformed,
    /// Addressed to another MAC than the router interface's.
    OtherMac,
    /// Carries VLAN tags, and no router interface takes frames to its MAC with them.
    Vlan,
    /// Neither ARP nor IP.
    Protocol,
    /// The port has no router interface for untagged frames.
    NoRif,
    /// The interface it came in by does not forward this family.
    NotForwarding,
    /// The interface it would leave by is closed to hardware, or was removed.
    EgressClosed,
    /// The port it would leave by has no link.
    PortDown,
    /// The next hop, group or interface that the route points at is not programmed.
    Dangling,
    /// A route that answers with an ICMP error: unreachable or prohibit.
    Unreachable,
    /// A route that hardware does not carry; the agent knows why.
    Punt,
    /// A route that would forward, but a route below it found no room.
    NoRoom,
    /// Which member of a group it takes depends on headers that the chip can't follow.
    Hash,
    /// To 01:80:c2:00:00:00 to 0F: control frames of the link, spanning tree's among them (IEEE 802.1Q, 8.6.3).
    Control,
    /// To a station that the bridge does not know.
    Unknown,
    /// From a station that the bridge knows elsewhere and may not look for here.
    Moved,
    /// The bridge port it came in by, or would leave by, is closed to hardware.
    BridgeClosed,
}

impl TrapClass {
    /// Every class, in the order of its number.
    pub const ALL: [TrapClass; 31] = [
        TrapClass::Arp,
        TrapClass::Nd,
        TrapClass::ToUs,
        TrapClass::Broadcast,
        TrapClass::Multicast,
        TrapClass::Ttl,
        TrapClass::Mtu,
        TrapClass::Options,
        TrapClass::Glean,
        TrapClass::Unresolved,
        TrapClass::NoRoute,
        TrapClass::SameInterface,
        TrapClass::Source,
        TrapClass::Special,
        TrapClass::Malformed,
        TrapClass::OtherMac,
        TrapClass::Vlan,
        TrapClass::Protocol,
        TrapClass::NoRif,
        TrapClass::NotForwarding,
        TrapClass::EgressClosed,
        TrapClass::PortDown,
        TrapClass::Dangling,
        TrapClass::Unreachable,
        TrapClass::Punt,
        TrapClass::NoRoom,
        TrapClass::Hash,
        TrapClass::Control,
        TrapClass::Unknown,
        TrapClass::Moved,
        TrapClass::BridgeClosed,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in configuration, CLI and JSON.
    pub fn name(self) -> &'static str {
        match self {
            TrapClass::Arp => "arp",
            TrapClass::Nd => "nd",
            TrapClass::ToUs => "to-us",
            TrapClass::Broadcast => "broadcast",
            TrapClass::Multicast => "multicast",
            TrapClass::Ttl => "ttl",
            TrapClass::Mtu => "mtu",
            TrapClass::Options => "options",
            TrapClass::Glean => "glean",
            TrapClass::Unresolved => "unresolved",
            TrapClass::NoRoute => "no-route",
            TrapClass::SameInterface => "same-interface",
            TrapClass::Source => "source",
            TrapClass::Special => "special",
            TrapClass::Malformed => "malformed",
            TrapClass::OtherMac => "other-mac",
            TrapClass::Vlan => "vlan",
            TrapClass::Protocol => "protocol",
            TrapClass::NoRif => "no-rif",
            TrapClass::NotForwarding => "not-forwarding",
            TrapClass::EgressClosed => "egress-closed",
            TrapClass::PortDown => "port-down",
            TrapClass::Dangling => "dangling",
            TrapClass::Unreachable => "unreachable",
            TrapClass::Punt => "punt",
            TrapClass::NoRoom => "no-room",
            TrapClass::Hash => "hash",
            TrapClass::Control => "control",
            TrapClass::Unknown => "unknown",
            TrapClass::Moved => "moved",
            TrapClass::BridgeClosed => "bridge-closed",
        }
    }
}

impl fmt::Display for TrapClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a frame goes nowhere. Each reason has a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum DropReason {
    /// A blackhole route.
    Blackhole,
    /// Shorter than an Ethernet header: no netdev takes it.
    Runt,
    /// Longer than the chip's buffers, or than the wire's device would have handed over at the netdev's MTU.
    Giant,
    /// Its trap class was over its rate.
    Policer,
    /// A trap whose queue towards the kernel was full.
    TrapQueue,
    /// A trap on a port whose netdev is gone or refused the frame.
    HostIf,
    /// The wire refused the frame or its queue was full.
    WireTx,
    /// A frame from the kernel for a port without link.
    LinkDown,
    /// A frame that the wire lost before the chip took it, or handed over in a form that can't be made whole.
    WireRx,
    /// The spanning tree lets it neither in nor out there.
    Stp,
    /// The bridge port is no member of its VLAN.
    VlanFilter,
    /// The bridge has no port to send it to but the one that it came in by, or it came in by an isolated one and would leave by another.
    Nowhere,
}

impl DropReason {
    /// Every reason, in the order of its number.
    pub const ALL: [DropReason; 12] = [
        DropReason::Blackhole,
        DropReason::Runt,
        DropReason::Giant,
        DropReason::Policer,
        DropReason::TrapQueue,
        DropReason::HostIf,
        DropReason::WireTx,
        DropReason::LinkDown,
        DropReason::WireRx,
        DropReason::Stp,
        DropReason::VlanFilter,
        DropReason::Nowhere,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in CLI and JSON.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Blackhole => "blackhole",
            DropReason::Runt => "runt",
            DropReason::Giant => "giant",
            DropReason::Policer => "policer",
            DropReason::TrapQueue => "trap-queue",
            DropReason::HostIf => "host-if",
            DropReason::WireTx => "wire-tx",
            DropReason::LinkDown => "link-down",
            DropReason::WireRx => "wire-rx",
            DropReason::Stp => "stp",
            DropReason::VlanFilter => "vlan-filter",
            DropReason::Nowhere => "nowhere",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// ---------------------------------------------------------------- the list of tables

macro_rules! tables {
    ($($(#[$doc:meta])* $id:literal $table:ident $name:literal $rank:literal $kind:ident $key:ty => $entry:ty;)*) => {
        /// The number of a table in messages.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum TableId { $($(#[$doc])* $table = $id,)* }

        impl TableId {
            /// Every table, in ascending order of rank.
            pub const ALL: &'static [TableId] = &[$(TableId::$table,)*];
            /// Its name in the CLI.
            pub fn name(self) -> &'static str {
                match self { $(TableId::$table => $name,)* }
            }
            /// Sets go in ascending, removes in descending rank.
            pub fn rank(self) -> u8 {
                match self { $(TableId::$table => $rank,)* }
            }
            /// What its content is held against.
            pub fn kind(self) -> Kind {
                match self { $(TableId::$table => Kind::$kind,)* }
            }
        }

        /// A key of any table.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum AnyKey { $($(#[$doc])* $table($key),)* }

        impl AnyKey {
            /// The table it is a key of.
            pub fn table(&self) -> TableId {
                match self { $(AnyKey::$table(_) => TableId::$table,)* }
            }
        }

        /// Key and entry of any table.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum Record { $($(#[$doc])* $table($key, $entry),)* }

        impl Record {
            /// The table it belongs to.
            pub fn table(&self) -> TableId {
                match self { $(Record::$table(..) => TableId::$table,)* }
            }
            /// Its key.
            pub fn key(&self) -> AnyKey {
                match self { $(Record::$table(k, _) => AnyKey::$table(*k),)* }
            }
        }

        /// Markers of the tables, for code that is generic over [`Table`].
        pub mod table {
            use super::*;
            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $table;
                impl Table for $table {
                    const ID: TableId = TableId::$table;
                    const NAME: &'static str = $name;
                    const RANK: u8 = $rank;
                    const KIND: Kind = Kind::$kind;
                    type Key = $key;
                    type Entry = $entry;
                    fn record(key: $key, entry: $entry) -> Record { Record::$table(key, entry) }
                    fn entry(record: &Record) -> Option<($key, &$entry)> {
                        match record { Record::$table(k, e) => Some((*k, e)), _ => None }
                    }
                }
                impl From<$key> for AnyKey {
                    fn from(k: $key) -> AnyKey { AnyKey::$table(k) }
                }
            )*
        }
    };
}

tables! {
    /// Front-panel ports and their netdevs.
    0 Port "port" 0 Learned PortId => Box<PortEntry>;
    /// Settings of the whole chip.
    1 Switch "switch" 1 Derived Global => SwitchEntry;
    /// VLANs of bridges.
    2 Fid "fid" 2 Derived FidId => FidEntry;
    /// Ports of bridges.
    3 BridgePort "bridge-port" 3 Derived BridgePortId => BridgePortEntry;
    /// Which ports are in which VLANs.
    4 FidMember "fid-member" 4 Derived MemberKey => MemberEntry;
    /// Router interfaces.
    5 Rif "rif" 5 Derived RifId => RifEntry;
    /// Stations that are not learned, and the switch's own addresses.
    6 FdbStatic "fdb-static" 6 Derived StaticKey => FdbVerdict;
    /// Learned stations.
    7 Fdb "fdb" 6 Learned FdbKey => BridgePortId;
    /// IPv4 adjacencies.
    8 Neigh4 "neigh4" 7 Derived NeighKey<V4> => NeighEntry;
    /// IPv6 adjacencies.
    9 Neigh6 "neigh6" 7 Derived NeighKey<V6> => NeighEntry;
    /// Next hops.
    10 NextHop "nexthop" 8 Derived NextHopId => NextHopEntry;
    /// Next-hop groups.
    11 Group "group" 9 Derived GroupId => GroupEntry;
    /// IPv4 routes.
    12 Route4 "route4" 10 Placed RouteKey<V4> => Fwd;
    /// IPv6 routes.
    13 Route6 "route6" 10 Placed RouteKey<V6> => Fwd;
    /// Buckets of resilient groups.
    14 Bucket "bucket" 11 Learned BucketKey => BucketEntry;
}

impl TableId {
    /// The table of that CLI name.
    pub fn by_name(name: &str) -> Option<TableId> {
        TableId::ALL.iter().copied().find(|t| t.name() == name)
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for AnyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.table())?;
        match self {
            AnyKey::Port(k) => write!(f, "{k}"),
            AnyKey::Switch(_) => Ok(()),
            AnyKey::Fid(k) => write!(f, "{k}"),
            AnyKey::BridgePort(k) => write!(f, "{k}"),
            AnyKey::FidMember(k) => write!(f, "{} of {}", k.port, k.fid),
            AnyKey::Rif(k) => write!(f, "{k}"),
            AnyKey::FdbStatic(StaticKey(k)) | AnyKey::Fdb(k) => write!(f, "{} fid {}", k.mac, k.fid),
            AnyKey::Neigh4(k) => write!(f, "{} rif {}", k.addr, k.rif),
            AnyKey::Neigh6(k) => write!(f, "{} rif {}", k.addr, k.rif),
            AnyKey::NextHop(k) => write!(f, "{k}"),
            AnyKey::Group(k) => write!(f, "{k}"),
            AnyKey::Route4(k) => write!(f, "{} vrf {}", k.prefix, k.vrf),
            AnyKey::Route6(k) => write!(f, "{} vrf {}", k.prefix, k.vrf),
            AnyKey::Bucket(k) => write!(f, "{} of group {}", k.index, k.group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_classes_and_reasons_are_their_places() {
        for (i, c) in TrapClass::ALL.iter().enumerate() {
            assert_eq!(*c as usize, i, "{c}");
        }
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i, "{r}");
        }
        let ranks: Vec<u8> = TableId::ALL.iter().map(|t| t.rank()).collect();
        assert!(ranks.is_sorted(), "TableId::ALL ascends by rank");
        for (i, t) in TableId::ALL.iter().enumerate() {
            assert_eq!(*t as usize, i);
            assert_eq!(TableId::by_name(t.name()), Some(*t));
        }
    }
}
