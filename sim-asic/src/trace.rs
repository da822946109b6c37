//! Why a frame got its verdict: the steps of the pipeline's own walk, as data.
//!
//! The pipeline's functions take a `Note`; for packets it is `()` and costs nothing. There is no second walker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hal::{Addr, BridgePortId, DropReason, FidId, Fwd, Mac, NextHopId, PortId, RifId, TrapClass, Urpf};
use serde::Serialize;

use crate::chip::SimChip;
use crate::stage::{self, Verdict};
use crate::table::Leaf;
use crate::table::fdb::Known;

/// A step with the tables' own indices.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw {
    Ingress(u32),
    Fid(u32),
    Station(Option<Known>),
    Ip4 { src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, len: u32 },
    Ip6 { src: Ipv6Addr, dst: Ipv6Addr, ttl: u8, len: u32 },
    Rule(u32),
    Destination(Leaf),
    Source(Leaf, Urpf),
    Member { hash: u32, member: u32, of: u32 },
    Bucket { hash: u32, bucket: u32, of: u32 },
    NextHop(u32),
    Adjacency { rif: u32, mac: Option<[u8; 6]> },
    Forward(PortId),
    Trap(TrapClass),
    Drop(DropReason),
}

/// What steps are told to.
pub(crate) trait Note {
    fn note(&mut self, step: impl FnOnce() -> Raw);
}

impl Note for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Raw) {}
}

impl Note for Vec<Raw> {
    fn note(&mut self, step: impl FnOnce() -> Raw) {
        self.push(step());
    }
}

/// One step of a packet through the chip.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The router interface that it came in by.
    Ingress {
        /// Which.
        rif: Option<RifId>,
    },
    /// The VLAN of a bridge that it belongs to.
    Fid {
        /// Which.
        fid: Option<FidId>,
    },
    /// What the bridge knows of the station that it is for.
    Station {
        /// `None`: nothing.
        at: Option<Station>,
    },
    /// A packet with a good header.
    Packet {
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// TTL or hop limit as received.
        ttl: u8,
        /// Bytes of the IP packet.
        len: u32,
    },
    /// The rule of policy routing that it matched.
    Rule {
        /// Its place in the list of its family, from 0.
        number: u32,
    },
    /// The route that the destination matched; `None`: no route.
    Destination {
        /// Prefix length and verdict.
        route: Option<(u8, Fwd)>,
    },
    /// The route that the source matched; `None`: no route.
    Source {
        /// Prefix length and verdict.
        route: Option<(u8, Fwd)>,
        /// The check that it has to pass.
        check: Urpf,
    },
    /// The choice of a member by hash.
    Member {
        /// Of the packet.
        hash: u32,
        /// The member that serves it, from 0.
        member: u32,
        /// How many the group has.
        of: u32,
    },
    /// The choice of a bucket by hash.
    Bucket {
        /// Of the packet.
        hash: u32,
        /// The bucket that it is in, from 0.
        bucket: u32,
        /// How many the group has.
        of: u32,
    },
    /// The next hop taken.
    NextHop {
        /// Which.
        id: Option<NextHopId>,
    },
    /// The neighbour.
    Adjacency {
        /// The interface that it is on.
        rif: Option<RifId>,
        /// Its MAC, if it is programmed.
        mac: Option<Mac>,
    },
    /// Sent.
    Forward {
        /// Where.
        port: PortId,
    },
    /// To the kernel.
    Trap(TrapClass),
    /// Nowhere.
    Drop(DropReason),
}

/// What is known of a station.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Station {
    /// It was learned there.
    Learned(BridgePortId),
    /// It is there by configuration.
    Port(BridgePortId),
    /// It is that router interface.
    Route(RifId),
    /// Frames to it are the kernel's.
    Trap(TrapClass),
}

impl SimChip {
    /// Decide on a frame as a pipeline does, and say why. It becomes what is sent if the verdict is to forward; nothing is counted.
    pub fn trace(&self, port: PortId, frame: &mut Vec<u8>) -> (Verdict, Vec<Step>) {
        let mut raw = Vec::new();
        let verdict = stage::explain(self.tables(), &self.epochs().reader(), port, frame, &mut raw);
        (verdict, raw.into_iter().map(|r| self.step(r)).collect())
    }

    fn step(&self, raw: Raw) -> Step {
        let route = |l: Leaf| (l != Leaf::NONE).then(|| Some((l.len(), self.fwd(l.hop())?))).flatten();
        match raw {
            Raw::Ingress(i) => Step::Ingress { rif: self.rif_id(i) },
            Raw::Fid(i) => Step::Fid { fid: self.fid_id(i) },
            Raw::Station(k) => Step::Station {
                at: k.and_then(|k| {
                    Some(match k {
                        Known::Learned(p) => Station::Learned(self.bridge_port_id(p)?),
                        Known::Port(p) => Station::Port(self.bridge_port_id(p)?),
                        Known::Route(r) => Station::Route(self.rif_id(r)?),
                        Known::Trap(c) => Station::Trap(c),
                    })
                }),
            },
            Raw::Ip4 { src, dst, ttl, len } => Step::Packet { src: src.ip(), dst: dst.ip(), ttl, len },
            Raw::Ip6 { src, dst, ttl, len } => Step::Packet { src: src.ip(), dst: dst.ip(), ttl, len },
            Raw::Rule(number) => Step::Rule { number },
            Raw::Destination(l) => Step::Destination { route: route(l) },
            Raw::Source(l, check) => Step::Source { route: route(l), check },
            Raw::Member { hash, member, of } => Step::Member { hash, member, of },
            Raw::Bucket { hash, bucket, of } => Step::Bucket { hash, bucket, of },
            Raw::NextHop(i) => Step::NextHop { id: self.nexthop_id(i) },
            Raw::Adjacency { rif, mac } => Step::Adjacency { rif: self.rif_id(rif), mac: mac.map(Mac) },
            Raw::Forward(port) => Step::Forward { port },
            Raw::Trap(c) => Step::Trap(c),
            Raw::Drop(d) => Step::Drop(d),
        }
    }
}
