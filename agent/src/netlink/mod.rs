//! Netlink bytes → our own types, and requests → bytes. No I/O, no state, no panic on whatever bytes.
//!
//! One walker of our own serves all kinds (`linux/netlink.h`, `linux/rtnetlink.h`). A message is decoded whole or refused
//! whole as [`Malformed`]; what a decoder does not know it names as [`Unknown`], and where that may matter its object says so and is punted.
//! Not here: what the objects mean together, which is `mirror`.

pub mod attr;
pub mod bridge;
pub mod build;
pub mod nexthop;
pub mod object;
pub mod route;
pub mod unknown;

pub use attr::{Attrs, Malformed, Message, messages};
pub use unknown::{Of, Unknown, Unknowns};

/// Message types (`linux/rtnetlink.h`).
pub mod rtm {
    #![allow(missing_docs)]
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const GETRULE: u16 = 34;
    pub const NEWNETCONF: u16 = 80;
    pub const DELNETCONF: u16 = 81;
    pub const GETNETCONF: u16 = 82;
    pub const NEWNEXTHOP: u16 = 104;
    pub const DELNEXTHOP: u16 = 105;
    pub const GETNEXTHOP: u16 = 106;
    pub const NEWVLAN: u16 = 112;
    pub const DELVLAN: u16 = 113;
    pub const GETVLAN: u16 = 114;
    pub const NEWNEXTHOPBUCKET: u16 = 116;
    pub const DELNEXTHOPBUCKET: u16 = 117;
}

/// Control messages and flags (`linux/netlink.h`).
pub mod nlm {
    #![allow(missing_docs)]
    pub const NOOP: u16 = 1;
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const OVERRUN: u16 = 4;
    pub const F_REQUEST: u16 = 0x1;
    pub const F_ACK: u16 = 0x4;
    pub const F_DUMP: u16 = 0x300;
    pub const F_REPLACE: u16 = 0x100;
    pub const F_EXCL: u16 = 0x200;
    pub const F_BULK: u16 = 0x200; // of a deletion
    pub const F_CREATE: u16 = 0x400;
    pub const F_APPEND: u16 = 0x800;
}

/// `AF_INET` (`linux/socket.h`).
pub const AF_INET: u8 = 2;
/// `AF_INET6` (`linux/socket.h`).
pub const AF_INET6: u8 = 10;
/// `AF_BRIDGE` (`linux/socket.h`).
pub const AF_BRIDGE: u8 = 7;

/// Multicast groups of the monitor socket (`RTNLGRP_*`, `linux/rtnetlink.h`): link, neigh, IPv4 address, route, rule and
/// netconf, IPv6 address, route, rule and netconf, next-hop objects,
/// VLANs of bridges.
pub const MONITOR_GROUPS: [u32; 12] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25, 32, 33];
