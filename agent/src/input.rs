//! What goes into the core and what comes out of it: the whole of its contact with the world.
//!
//! Every input is plain data, so that a stream of them can be recorded and replayed to the same outputs.

use core::fmt;

use hal::{FromChip, ToChip};
use serde::{Deserialize, Serialize};

use crate::policy::{Polled, PortRef};

/// Kinds of kernel objects that are dumped as one, in dependency order (kernel-facts 43).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum DumpKind {
    /// `RTM_GETLINK`
    Link,
    /// `RTM_GETVLAN`
    Vlan,
    /// `RTM_GETNEIGH` of family `AF_BRIDGE`
    Fdb,
    /// `RTM_GETNETCONF`, both families
    Netconf,
    /// `RTM_GETADDR`, both families
    Addr,
    /// `RTM_GETNEXTHOP`
    NextHop,
    /// `RTM_GETNEIGH`, both families
    Neigh,
    /// `RTM_GETRULE`, both families
    Rule,
    /// `RTM_GETROUTE`, IPv4, all tables
    Route4,
    /// `RTM_GETROUTE`, IPv6, all tables
    Route6,
    /// `/proc/net/ipv6_route`, text: what that dump leaves out is in it.
    List6,
}

impl DumpKind {
    /// All kinds that are always dumped, in dependency order; [`DumpKind::List6`] only where one of IPv6 routes leaves something
    /// open.
    pub const ALL: [DumpKind; 10] = [
        DumpKind::Link,
        DumpKind::Vlan,
        DumpKind::Fdb,
        DumpKind::Netconf,
        DumpKind::Addr,
        DumpKind::NextHop,
        DumpKind::Neigh,
        DumpKind::Rule,
        DumpKind::Route4,
        DumpKind::Route6,
    ];
}

impl fmt::Display for DumpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DumpKind::Link => "its devices",
            DumpKind::Vlan => "its bridges' VLANs",
            DumpKind::Fdb => "its bridges' stations",
            DumpKind::Netconf => "its netconf settings",
            DumpKind::Addr => "its addresses",
            DumpKind::NextHop => "its next-hop objects",
            DumpKind::Neigh => "its neighbours",
            DumpKind::Rule => "its rules",
            DumpKind::Route4 => "its IPv4 routes",
            DumpKind::Route6 | DumpKind::List6 => "its IPv6 routes",
        })
    }
}

/// One thing that happened. Inputs are handled in the order in which the core is given them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// One read from the monitor socket: one or more whole netlink messages. `seq` is the reader's stamp: within the
    /// high and within the low queue it ascends; a route message older than the last purge of its device is dropped.
    Monitor {
        /// The reader's stamp.
        seq: u64,
        /// The bytes as read.
        buf: Vec<u8>,
    },
    /// The monitor socket lost messages (`ENOBUFS`). All fences are void; everything is to be dumped.
    Overrun,
    /// The fence came out of both queues: everything that the kernel said before the request has been handed in.
    Fence {
        /// As in [`Output::Fence`].
        id: u64,
    },
    /// Part of a dump.
    Dump {
        /// As in [`Output::Dump`].
        id: u64,
        /// Which kind.
        kind: DumpKind,
        /// Stamp of the monitor's reader when the dump was asked for.
        seq: u64,
        /// One or more whole netlink messages.
        buf: Vec<u8>,
    },
    /// A dump is over.
    DumpEnd {
        /// As in [`Output::Dump`].
        id: u64,
        /// Which kind.
        kind: DumpKind,
        /// Whether all of it arrived uninterrupted (`NLM_F_DUMP_INTR`); if not, it is to be asked for again.
        complete: bool,
    },
    /// The kernel's answer to [`Output::Request`]: an errno, 0 for success.
    Ack {
        /// As in the request.
        id: u64,
        /// As in `errno.h`; positive.
        errno: i32,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`), where it gave any.
        message: String,
    },
    /// What is never announced was read (sysctls, firewall, IPsec, tc, XDP).
    Polled(Box<Polled>),
    /// From the chip. On each new connection the edge itself says [`ToChip::Hello`] first, so that the core's first news
    /// of it is [`FromChip::Hello`]; what an old connection still said after [`Input::ChipLost`] is thrown away.
    Chip(FromChip),
    /// The connection to the chip is gone; the sentence says why.
    ChipLost(String),
    /// From the operator.
    Request {
        /// Comes back in [`Output::Reply`].
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// Nothing happened but time.
    Tick,
    /// Something is wrong at the edge that the operator should know: a standing warning.
    Warning(String),
}

/// One thing that the edge is to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Output {
    /// Dump a kind over the dump socket; answered by [`Input::Dump`] and [`Input::DumpEnd`]. At most one is asked for at
    /// a time; a kind of two families is two requests in a row under one id, and one [`Input::DumpEnd`]. A kind that this
    /// kernel does not have ends complete and empty.
    Dump {
        /// Comes back in the answer.
        id: u64,
        /// Which kind.
        kind: DumpKind,
    },
    /// Send a netlink request over the request socket; answered by [`Input::Ack`].
    Request {
        /// Comes back in the answer.
        id: u64,
        /// One whole message; the edge fills in sequence number and `NLM_F_REQUEST | NLM_F_ACK`.
        message: Vec<u8>,
    },
    /// Send a fence over the monitor socket; answered by [`Input::Fence`]. One whose answer does not come, after an
    /// overrun for example, is forgotten: the core sends another under a new id.
    Fence {
        /// Comes back in the answer.
        id: u64,
    },
    /// Read everything that is polled now, and once a second from now on; answered by [`Input::Polled`].
    Poll {
        /// The ports as the core knows them, in ascending order of index.
        ports: Vec<PortRef>,
    },
    /// To the chip. The core keeps to the window of batches in flight.
    Chip(ToChip),
    /// To the operator.
    Reply {
        /// As in the request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
}

/// What the kernel has and an operator can have listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Listed {
    /// Interfaces.
    Links,
    /// Neighbours.
    Neighs,
    /// Next-hop objects.
    NextHops,
    /// Stations of bridges.
    Fdb,
    /// VLANs of bridges and their ports.
    Vlans,
    /// Bridge ports and their states.
    Stp,
}

/// What an operator can ask of the core.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// State, reasons, warnings.
    Status,
    /// All of some kind of objects, and what the chip makes of them.
    List(Listed),
    /// A page of routes with what became of each.
    Routes {
        /// Where to go on; 0 at first.
        cursor: u64,
        /// How many at most.
        max: u32,
    },
    /// The chip's counters.
    Counters,
    /// How full the chip's tables are.
    Resources,
    /// A page of one table of the chip, raw.
    Table {
        /// By its CLI name.
        name: String,
        /// Where to go on; 0 at first.
        cursor: u64,
    },
    /// Answer when the chip holds all that the kernel knows now.
    Settle,
    /// Compare kernel, desired and chip afresh.
    Check,
    /// The asker gave up waiting: forget its request.
    Cancel {
        /// The request's id.
        id: u64,
    },
    /// A page of the chip's buckets of resilient groups, in the kernel's names.
    Buckets {
        /// Where to go on; 0 at first.
        cursor: u64,
    },
}

/// Answers are JSON, made where the objects are, in `ip -j`'s names where the same thing has one.
///
/// The CLI shows as text what it knows of it; `core/show.rs` says what there is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The whole answer, as JSON text.
    Json(String),
    /// A page, as a JSON array, and where to go on.
    Page {
        /// JSON text of an array.
        json: String,
        /// `None` at the end.
        next: Option<u64>,
    },
    /// What was asked can't be answered; one sentence.
    Error(String),
}
