//! What the mirror keeps: plain values, as the kernel has them.

use std::net::IpAddr;

use hal::{Mac, Tag, Tpid};
use smallvec::SmallVec;

use crate::placed::Behind;

macro_rules! bitflags_lite {
    ($(#[$doc:meta])* $name:ident: $t:ty { $($(#[$fdoc:meta])* $flag:ident = $v:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $name(pub $t);
        impl $name {
            $($(#[$fdoc])* pub const $flag: $name = $name($v);)*
            /// Whether any flag of `other` is set.
            pub fn any(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }
        }
        impl core::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, o: $name) { self.0 |= o.0; }
        }
    };
}

/// A network device (`RTM_NEWLINK`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `IFLA_INFO_KIND`, `"tun"` for a TAP; empty for none.
    pub kind: String,
    /// Its address, if it is Ethernet's.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_*` (`linux/if.h`).
    pub flags: u32,
    /// Index of its bridge, bond or VRF.
    pub master: Option<u32>,
    /// The routing table of a VRF device (`IFLA_VRF_TABLE`).
    pub table: Option<u32>,
    /// `IFLA_LINK` of one that stands on another in a way that is known here: the device below, if that is in this namespace.
    pub lower: Option<u32>,
    /// How it stands on it.
    pub stacked: Stacked,
    /// `IFLA_CARRIER`.
    pub carrier: bool,
    /// `IFLA_OPERSTATE` (`IF_OPER_*`, RFC 2863).
    pub operstate: u8,
    /// `IFLA_CARRIER_DOWN_COUNT`.
    pub carrier_down: u32,
    /// Whether `IFLA_XDP` shows a program.
    pub xdp: bool,
    /// IPv6 MTU in bytes, as `IFLA_INET6_CONF` has it; `None` if IPv6 is not on the device.
    pub mtu6: Option<u32>,
    /// A bridge's settings (`IFLA_BR_*`).
    pub bridge: Option<Bridge>,
    /// Those of a port of a bridge (`IFLA_BRPORT_*`).
    pub port: Option<BridgePort>,
}

/// Settings of a bridge that matter to what it forwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bridge {
    /// `IFLA_BR_AGEING_TIME`, in milliseconds.
    pub ageing: u32,
    /// `IFLA_BR_VLAN_FILTERING`
    pub filtering: bool,
    /// `IFLA_BR_VLAN_PROTOCOL`; `None`: a type of tags that is not known.
    pub tpid: Option<Tpid>,
    /// `IFLA_BR_STP_STATE`: the kernel's own spanning tree is on.
    pub kernel_stp: bool,
    /// `IFLA_BR_MCAST_SNOOPING`
    pub snooping: bool,
    /// `BR_BOOLOPT_NO_LL_LEARN`: who sends to 01:80:c2:00:00:0X is not learned.
    pub no_ll_learn: bool,
    /// `IFLA_PROMISCUITY`: its own device hears everything.
    pub promiscuous: bool,
    /// What it has set that hardware has no words for, by its name in `ip link`.
    pub odd: Option<&'static str>,
}

/// Settings and state of a bridge port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BridgePort {
    /// `BR_STATE_*` (`linux/if_bridge.h`).
    pub state: u8,
    /// `IFLA_BRPORT_MODE`
    pub hairpin: bool,
    /// `IFLA_BRPORT_LEARNING`
    pub learning: bool,
    /// `IFLA_BRPORT_UNICAST_FLOOD`
    pub unknown: bool,
    /// `IFLA_BRPORT_MCAST_FLOOD`
    pub multicast: bool,
    /// `IFLA_BRPORT_BCAST_FLOOD`
    pub broadcast: bool,
    /// `IFLA_BRPORT_ISOLATED`
    pub isolated: bool,
    /// What has a say in frames that come in by it and that hardware has no words for.
    pub odd_in: Option<&'static str>,
    /// The same for frames that leave by it.
    pub odd_out: Option<&'static str>,
    /// The same for all frames of the bridge.
    pub odd_all: Option<&'static str>,
}

/// A VLAN of a bridge or of a port of one (`BRIDGE_VLANDB_ENTRY`). Of a bridge the kernel tells those alone that it takes part in
/// itself (`br_vlan_should_use`), without `BRIDGE_VLAN_INFO_BRENTRY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vlan {
    /// `BRIDGE_VLAN_INFO_*` (`linux/if_bridge.h`).
    pub flags: u16,
    /// `BR_STATE_*`
    pub state: u8,
    /// Whether it says something that is not known here, or not offloaded.
    pub odd: bool,
}

impl Vlan {
    /// `BRIDGE_VLAN_INFO_PVID`
    pub const PVID: u16 = 1 << 1;
    /// `BRIDGE_VLAN_INFO_UNTAGGED`
    pub const UNTAGGED: u16 = 1 << 2;
}

/// By which the kernel tells stations of bridges apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StationKey {
    /// The bridge.
    pub bridge: u32,
    /// 0 for none.
    pub vid: u16,
    /// Its address.
    pub mac: Mac,
}

impl StationKey {
    /// The first and the last of a bridge, or of one of its VLANs.
    pub fn all(bridge: u32, vid: Option<u16>) -> (StationKey, StationKey) {
        let key = |vid, mac| StationKey { bridge, vid, mac: Mac(mac) };
        (key(vid.unwrap_or(0), [0; 6]), key(vid.unwrap_or(u16::MAX), [0xff; 6]))
    }
}

/// A station that a bridge knows (`RTM_NEWNEIGH` of family `AF_BRIDGE` with `NDA_MASTER`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// The device that it is behind, or the bridge itself.
    pub dev: u32,
    /// `NUD_*`: PERMANENT for the switch's own addresses, NOARP for static ones.
    pub state: u16,
    /// `NTF_*`
    pub flags: u8,
    /// `NDA_FLAGS_EXT`
    pub flags_ext: u32,
}

impl Behind for Station {
    fn device(&self) -> u32 {
        self.dev
    }
}

/// How a device stands on another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stacked {
    /// Not at all, or in a way that is not known here.
    #[default]
    Other,
    /// `vlan`: it has the frames with that tag.
    Vlan {
        /// The tag. Of any number: the kernel takes 0, too.
        tag: Tag,
        /// Whether the tag is taken off what comes in (`VLAN_FLAG_REORDER_HDR`), and nothing is said of it that is not known.
        plain: bool,
        /// Whether frames leave with priorities (`IFLA_VLAN_EGRESS_QOS`).
        mapped: bool,
    },
    /// `macvlan`: it has the frames to its own MAC. `MACVLAN_MODE_*` (`linux/if_link.h`).
    Macvlan(u32),
}

/// `RTM_NEWNETCONF` of one family, for a device, for `all` or for `default`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Netconf {
    /// `NETCONFA_FORWARDING`
    pub forwarding: bool,
    /// `NETCONFA_RP_FILTER` (IPv4 only); the value in force is the maximum of `all` and the device.
    pub rp_filter: u8,
    /// `NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN`
    pub ignore_linkdown: bool,
}

/// By which the kernel tells addresses of devices apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddrKey {
    /// The device.
    pub ifindex: u32,
    /// The address of this machine (`IFA_LOCAL`).
    pub local: IpAddr,
    /// The other end (`IFA_ADDRESS`), or `local` again.
    pub peer: IpAddr,
    /// Prefix length.
    pub len: u8,
}

/// An address of a device (`RTM_NEWADDR`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddrEntry {
    /// `IFA_FLAGS`, else `ifa_flags`.
    pub flags: u32,
    /// `RT_SCOPE_*`
    pub scope: u8,
}

/// A neighbour (`RTM_NEWNEIGH` of family IPv4 or IPv6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neigh {
    /// `NDA_LLADDR`, if Ethernet's.
    pub mac: Option<Mac>,
    /// `NUD_*`
    pub state: u16,
    /// `NTF_*`
    pub flags: u8,
    /// `NDA_FLAGS_EXT`, `NTF_EXT_*`
    pub flags_ext: u32,
    /// `NDA_PROTOCOL`: who made it (`RTPROT_*`); 0 for nobody in particular.
    pub protocol: u8,
}

/// A policy rule (`RTM_NEWRULE`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// `FRA_PRIORITY`
    pub priority: u32,
    /// `FRA_TABLE`
    pub table: u32,
    /// `FR_ACT_*`
    pub action: u8,
    /// Whether it selects everything and does nothing but name a table, or have it named by [`Rule::l3mdev`].
    pub plain: bool,
    /// Whether the table is that of the VRF that the packet came in by; other packets pass it over.
    pub l3mdev: bool,
    /// It selects what the rest does not.
    pub invert: bool,
    /// Destinations that it selects (`FRA_DST`).
    pub to: Option<(IpAddr, u8)>,
    /// The device that packets have come in by (`FRA_IIFNAME`).
    pub iif: Option<String>,
    /// The device that their sender binds packets to (`FRA_OIFNAME`).
    pub oif: Option<String>,
    /// Packets without a mark are none of its (`FRA_FWMARK`).
    pub marked: bool,
    /// Sources that it selects (`FRA_SRC`).
    pub from: Option<(IpAddr, u8)>,
    /// TOS byte that it selects, and the mask that it is looked at through (`tos` of `struct fib_rule_hdr`, `FRA_DSCP`).
    pub tos: Option<(u8, u8)>,
    /// `FRA_IP_PROTO`
    pub proto: Option<u8>,
    /// `FRA_SPORT_RANGE`
    pub sport: Option<(u16, u16)>,
    /// `FRA_DPORT_RANGE`
    pub dport: Option<(u16, u16)>,
    /// Routes of fewer bits than this are as if they were not there (`FRA_SUPPRESS_PREFIXLEN` + 1; 0 for none).
    pub shortest: u8,
    /// It selects by something else as well, or does more than its action says.
    pub other: bool,
    /// `FIB_RULE_IIF_DETACHED`, `FIB_RULE_OIF_DETACHED`: no device of the name is there. As decoded only: the kernel sets and clears
    /// them without a word.
    pub lost: (bool, bool),
    /// All that the kernel said of it, in a fixed order: its identity.
    pub content: Vec<u8>,
}

/// An interned next-hop set: routes with the same one share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NhRef(pub u32);

/// One member of an inline next-hop set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hop {
    /// Device; 0 for none.
    pub ifindex: u32,
    /// Gateway (`RTA_GATEWAY` or `RTA_VIA`); `None` for an on-link destination.
    pub via: Option<IpAddr>,
    /// 1 and more (`rtnh_hops` + 1).
    pub weight: u16,
    /// `RTNH_F_ONLINK`
    pub onlink: bool,
    /// `RTA_ENCAP` of any type.
    pub encap: bool,
    /// The kernel does not use this member, although its siblings live (`RTNH_F_DEAD`): its device went down, or (IPv4)
    /// lost its last address, since the set was made, and has not come back since. It is a property of the set and not of
    /// the device: a set made later on the same device, up and without address, is alive. A set whose members are all
    /// dead is gone, and its routes with it. Link state (`linkdown`) is *not* in here: that is the link's.
    pub dead: bool,
}

/// A next-hop object (`RTM_NEWNEXTHOP`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// `NHA_ID`
    pub id: u32,
    /// `nh_family`: that of its gateway; of a group, unspecified.
    pub family: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `RTPROT_*`
    pub proto: u8,
    /// The device that it goes with (kernel-facts 2); 0 for none.
    pub dev: u32,
    /// What it leads to.
    pub to: ObjectTo,
}

/// What a next-hop object leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectTo {
    /// One next hop.
    Hop(Hop),
    /// Nowhere.
    Blackhole,
    /// A group whose members, by id and with weights, are chosen by a hash (`NEXTHOP_GRP_TYPE_MPATH`).
    Group(SmallVec<[(u32, u16); 4]>),
    /// A group whose members have buckets (`NEXTHOP_GRP_TYPE_RES`).
    Resilient(SmallVec<[(u32, u16); 4]>, Buckets),
    /// A group of another type.
    Other(SmallVec<[(u32, u16); 4]>),
    /// Something that is not known here.
    Unknown,
}

/// What a resilient group has besides its members (`NHA_RES_GROUP`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Buckets {
    /// How many.
    pub count: u16,
    /// Hundredths of a second after which one counts as idle.
    pub idle: u32,
    /// Hundredths of a second after which one moves though it is not; 0: never.
    pub unbalanced: u32,
}

impl Object {
    /// Members of a group; none of what is no group.
    pub fn members(&self) -> &[(u32, u16)] {
        match &self.to {
            ObjectTo::Group(m) | ObjectTo::Resilient(m, _) | ObjectTo::Other(m) => m,
            _ => &[],
        }
    }
    /// The neighbour that it leads to.
    pub fn gateway(&self) -> Option<(u32, IpAddr)> {
        match &self.to {
            ObjectTo::Hop(h) => Some((h.ifindex, h.via?)),
            _ => None,
        }
    }
}

/// What a route leads to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NhSet {
    /// Inline; empty for a route without a device (blackhole and its kin).
    Inline(SmallVec<[Hop; 1]>),
    /// A next-hop object of that id (`RTA_NH_ID`).
    Object(u32),
}

bitflags_lite! {
    /// What about a route, besides its next hops, matters to whether hardware can carry it.
    RouteFlags: u16 {
        /// `RTA_METRICS` has a metric that changes forwarding otherwise than an MTU does, or is not known to be harmless.
        METRICS = 1,
        /// `RTA_EXPIRES`, or `RTF_EXPIRES`.
        EXPIRES = 2,
        /// IPv6 with a source prefix (`RTA_SRC`).
        SOURCE = 4,
        /// An attribute or a flag that the decoder does not know.
        UNKNOWN = 8,
        /// `RTA_PREF` other than medium.
        PREF = 16,
        /// `RTA_FLOW`, `RTA_MARK` or another selector beyond prefix, TOS and metric.
        SELECTOR = 32,
        /// Shown as a blackhole, and with a next-hop object (`RTA_NH_ID`): the kernel shows that of every route whose object is a
        /// blackhole, whatever type the route has itself.
        VEILED = 64,
    }
}

/// One route of a prefix in a table: the kernel may hold several (kernel-facts 13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alias {
    /// What it leads to; see [`Mirror::nhset`](super::Mirror::nhset).
    pub nh: NhRef,
    /// Priority; the lowest is used.
    pub metric: u32,
    /// `RTN_*` (`linux/rtnetlink.h`).
    pub kind: u8,
    /// `rtm_tos`.
    pub tos: u8,
    /// `RTPROT_*`
    pub proto: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// What else matters.
    pub flags: RouteFlags,
    /// Interned rest of its identity (preferred source, metrics, source prefix); 0 for none.
    pub(super) rest: u32,
}
