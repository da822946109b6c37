//! The chip's lookup tables, as readers see them: arrays of atomic words behind small accessors.
//!
//! Every table has one writer ([`crate::SimChip`]) and is reserved whole from the profile, so that nothing moves. An object
//! that others refer to has an index here for as long as anything refers to it; its word says whether it is there.
//! Not here: keys of the contract (the writer keeps them) and packets (`stage`).

pub(crate) mod bridge;
pub(crate) mod buckets;
pub(crate) mod fdb;
pub(crate) mod group;
pub(crate) mod ids;
pub(crate) mod lpm4;
pub(crate) mod lpm6;
pub(crate) mod neigh;
pub(crate) mod route;
pub(crate) mod rules;
pub(crate) mod short;
pub(crate) mod takers;
pub(crate) mod vrfs;

use hal::{DropReason, HashPolicy, Mac, PortId, Profile, TrapClass, Urpf, hash_field};

use crate::sync::{Epochs, Records, Words32};
use takers::{Claim, TagWord, Takers};

/// A route's verdict and the length of its prefix in 32 bits, the top bit free: what LPM cells hold. 0: no route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leaf(pub(crate) u32);

/// A verdict, with the tables' own indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hop {
    Group(u32),
    Connected(u32),
    Trap(TrapClass),
    Drop(DropReason),
}

/// In an LPM cell: the rest is a node, not a leaf.
pub(crate) const NODE: u32 = 1 << 31;
/// Groups and router interfaces have smaller indices.
pub(crate) const INDEX_MAX: u32 = 1 << 20;

pub(crate) fn trap_class(n: u32) -> TrapClass {
    TrapClass::ALL.get(n as usize).copied().unwrap_or(TrapClass::Dangling)
}

pub(crate) fn drop_reason(n: u32) -> DropReason {
    DropReason::ALL.get(n as usize).copied().unwrap_or(DropReason::Blackhole)
}

impl Leaf {
    pub(crate) const NONE: Leaf = Leaf(0);

    pub(crate) fn new(hop: Hop, len: u8) -> Leaf {
        let (kind, value) = match hop {
            Hop::Group(g) => (1, g),
            Hop::Connected(r) => (2, r),
            Hop::Trap(c) => (3, c as u32),
            Hop::Drop(d) => (4, d as u32),
        };
        debug_assert!(value < INDEX_MAX);
        Leaf(kind << 28 | value << 8 | u32::from(len))
    }
    /// Length of the prefix that it is the verdict of.
    #[inline(always)]
    pub(crate) fn len(self) -> u8 {
        self.0 as u8
    }
    /// Whether there is a route, and it doesn't trap.
    #[inline(always)]
    pub(crate) fn forwards(self) -> bool {
        !matches!(self.0 >> 28 & 7, 0 | 3)
    }
    /// The verdict; no route traps.
    #[inline(always)]
    pub(crate) fn hop(self) -> Hop {
        let value = self.0 >> 8 & (INDEX_MAX - 1);
        match self.0 >> 28 & 7 {
            1 => Hop::Group(value),
            2 => Hop::Connected(value),
            3 => Hop::Trap(trap_class(value)),
            4 => Hop::Drop(drop_reason(value)),
            _ => Hop::Trap(TrapClass::NoRoute),
        }
    }
}

/// A router interface as the pipeline needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rif {
    pub(crate) mac: [u8; 6],
    pub(crate) ingress4: bool,
    pub(crate) ingress6: bool,
    pub(crate) egress: bool,
    pub(crate) same4: bool,
    pub(crate) urpf: Urpf,
    pub(crate) mtu4: u32,
    pub(crate) mtu6: u32,
    /// Below [`Rif::PORTS`]; [`Rif::FID`]: it stands on the FID whose index its `tags` are.
    pub(crate) port: PortId,
    /// Root of its virtual router, below [`Rif::VRFS`], or [`vrfs::NOWHERE`].
    pub(crate) vrf: u32,
    pub(crate) tags: TagWord,
}

/// MAC in the low 48 bits.
pub(crate) fn mac_word(m: Mac) -> u64 {
    m.0.iter().fold(0, |w, b| w << 8 | u64::from(*b))
}

#[inline(always)]
pub(crate) fn word_mac(w: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = w.to_be_bytes();
    [a, b, c, d, e, f]
}

impl Rif {
    const PRESENT: u64 = 1 << 48;
    const INGRESS4: u64 = 1 << 49;
    const INGRESS6: u64 = 1 << 50;
    const EGRESS: u64 = 1 << 51;
    const LOOSE: u64 = 1 << 52;
    const STRICT: u64 = 1 << 53;
    const SAME4: u64 = 1 << 54;
    /// So many ports, and roots of virtual routers with that of none, can be told apart in a record.
    pub(crate) const PORTS: u32 = 1 << 20;
    pub(crate) const VRFS: u32 = 1 << 12;
    /// No port, and one without link.
    pub(crate) const FID: PortId = PortId(Self::PORTS - 1);

    pub(crate) fn words(&self) -> [u64; 3] {
        let flag = |on, bit| if on { bit } else { 0 };
        let flags = Self::PRESENT
            | flag(self.ingress4, Self::INGRESS4)
            | flag(self.ingress6, Self::INGRESS6)
            | flag(self.egress, Self::EGRESS)
            | flag(self.same4, Self::SAME4)
            | flag(self.urpf == Urpf::Loose, Self::LOOSE)
            | flag(self.urpf == Urpf::Strict, Self::STRICT);
        [
            mac_word(Mac(self.mac)) | flags,
            u64::from(self.mtu4) | u64::from(self.mtu6) << 32,
            u64::from(self.port.0 % Self::PORTS)
                | u64::from(self.vrf % Self::VRFS) << 20
                | u64::from(self.tags.0) << 32,
        ]
    }

    #[inline(always)]
    fn from_words([a, b, c]: [u64; 3]) -> Option<Rif> {
        let is = |bit| a & bit != 0;
        is(Self::PRESENT).then(|| Rif {
            mac: word_mac(a),
            ingress4: is(Self::INGRESS4),
            ingress6: is(Self::INGRESS6),
            egress: is(Self::EGRESS),
            same4: is(Self::SAME4),
            urpf: match (is(Self::LOOSE), is(Self::STRICT)) {
                (_, true) => Urpf::Strict,
                (true, _) => Urpf::Loose,
                _ => Urpf::Off,
            },
            mtu4: b as u32,
            mtu6: (b >> 32) as u32,
            port: PortId(c as u32 % Self::PORTS),
            vrf: match (c >> 20) as u32 % Self::VRFS {
                n if n == vrfs::NOWHERE % Self::VRFS => vrfs::NOWHERE,
                n => n,
            },
            tags: TagWord((c >> 32) as u32),
        })
    }
}

/// A router interface that a packet leaves by: its words, of which most packets need a few bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress([u64; 3]);

impl Egress {
    /// Whether packets may leave by it.
    #[inline(always)]
    pub(crate) fn open(&self) -> bool {
        self.0[0] & Rif::EGRESS != 0
    }
    /// Whether IPv4 packets that came in by it may.
    #[inline(always)]
    pub(crate) fn same4(&self) -> bool {
        self.0[0] & Rif::SAME4 != 0
    }
    /// Its MAC, in the low 48 bits.
    #[inline(always)]
    pub(crate) fn mac(&self) -> u64 {
        self.0[0]
    }
    #[inline(always)]
    pub(crate) fn mtu4(&self) -> u32 {
        self.0[1] as u32
    }
    #[inline(always)]
    pub(crate) fn mtu6(&self) -> u32 {
        (self.0[1] >> 32) as u32
    }
    #[inline(always)]
    pub(crate) fn port(&self) -> PortId {
        PortId(self.0[2] as u32 % Rif::PORTS)
    }
    #[inline(always)]
    pub(crate) fn tags(&self) -> TagWord {
        TagWord((self.0[2] >> 32) as u32)
    }
    /// Index of the FID that it stands on, if it does.
    pub(crate) fn fid(&self) -> Option<u32> {
        (self.port() == Rif::FID).then(|| self.tags().0)
    }
}

/// Everything that a pipeline reads.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Longest frame in bytes.
    pub(crate) frame: usize,
    /// Seed of the multipath hash: switches in a row must not all choose alike.
    pub(crate) seed: u64,
    /// Bit 0: IPv4 hashes by L4, bit 1: IPv6 does.
    switch: Words32,
    /// Index of the first router interface for the port's untagged frames plus one; 0: none.
    port_rif: Words32,
    port_link: Words32,
    rifs: Records<3>,
    pub(crate) takers: Takers,
    pub(crate) neigh4: neigh::Neighs,
    pub(crate) neigh6: neigh::Neighs,
    /// Encoded [`group::Next`].
    pub(crate) nexthops: Words32,
    pub(crate) groups: group::Groups,
    pub(crate) routes4: lpm4::Lpm4,
    pub(crate) routes6: lpm6::Lpm6,
    pub(crate) rules: rules::Rules,
    pub(crate) bridges: bridge::Bridges,
}

/// How many indices a table of objects has that others refer to: those that are there, and removed ones still referred to.
pub(crate) fn indices(capacity: u32) -> u32 {
    capacity.saturating_mul(2).saturating_add(16)
}

impl Tables {
    pub(crate) fn new(p: &Profile, ports: usize, seed: u64, epochs: &Epochs) -> Self {
        // One that each next hop holds, one more while it changes.
        let held = indices(p.nexthops).saturating_add(1);
        Tables {
            frame: p.frame as usize,
            seed,
            switch: Words32::new(1),
            port_rif: Words32::new(ports),
            port_link: Words32::new(ports),
            rifs: Records::new(indices(p.rifs) as usize),
            takers: Takers::new(indices(p.rifs) as usize, seed),
            neigh4: neigh::Neighs::new(p.neigh4.saturating_add(held), seed),
            neigh6: neigh::Neighs::new(p.neigh6.saturating_add(held), seed),
            nexthops: Words32::new(indices(p.nexthops) as usize),
            groups: group::Groups::new(indices(p.groups), p.group_members, p.buckets),
            routes4: lpm4::Lpm4::new(p.routes4, p.vrfs),
            routes6: lpm6::Lpm6::new(p.routes6, p.vrfs),
            rules: rules::Rules::default(),
            bridges: bridge::Bridges::new(p, ports, seed, epochs),
        }
    }

    /// The hash policy of IPv4, or of IPv6.
    #[inline(always)]
    pub(crate) fn policy(&self, v6: bool) -> HashPolicy {
        let bits = self.switch.get(0) >> (16 * u32::from(v6));
        match bits & 3 {
            0 => HashPolicy::L3,
            1 => HashPolicy::L4,
            2 => HashPolicy::Inner,
            _ => HashPolicy::Fields((bits >> 2) as u16 & hash_field::ALL),
        }
    }
    pub(crate) fn set_policies(&self, v4: HashPolicy, v6: HashPolicy) {
        let word = |p| match p {
            HashPolicy::L3 => 0,
            HashPolicy::L4 => 1,
            HashPolicy::Inner => 2,
            HashPolicy::Fields(bits) => 3 | u32::from(bits & hash_field::ALL) << 2,
        };
        self.switch.set(0, word(v4) | word(v6) << 16);
    }
    /// Index of a router interface that untagged frames of the port belong to: the only one, as a rule. Others are found by
    /// [`Tables::taker`].
    #[inline(always)]
    pub(crate) fn rif_of(&self, port: PortId) -> Option<u32> {
        self.port_rif.get(port.0 as usize).checked_sub(1)
    }
    pub(crate) fn set_rif_of(&self, port: PortId, rif: Option<u32>) {
        self.port_rif.set(port.0 as usize, rif.map_or(0, |r| r + 1));
    }
    #[inline(always)]
    pub(crate) fn link(&self, port: PortId) -> bool {
        self.port_link.get(port.0 as usize) != 0
    }
    pub(crate) fn set_link(&self, port: PortId, up: bool) {
        self.port_link.set(port.0 as usize, u32::from(up));
    }
    #[inline(always)]
    pub(crate) fn rif(&self, index: u32) -> Option<Rif> {
        Rif::from_words(self.rifs.get(index as usize)?)
    }
    /// The router interface that takes frames to that MAC which come in by the port with these tags.
    #[inline]
    pub(crate) fn taker(&self, c: &Claim) -> Option<(u32, Rif)> {
        self.takers.find(&self.rifs, c)
    }
    /// As [`Tables::rif`], for a packet that leaves by it.
    #[inline(always)]
    pub(crate) fn egress(&self, index: u32) -> Option<Egress> {
        self.rifs.get(index as usize).filter(|w| w[0] & Rif::PRESENT != 0).map(Egress)
    }
    pub(crate) fn set_rif(&self, index: u32, rif: Option<&Rif>) {
        self.rifs.set(index as usize, rif.map_or([0; 3], Rif::words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_and_rifs_come_back_as_written() {
        for len in [0, 1, 24, 32, 128] {
            for hop in [
                Hop::Group(0),
                Hop::Group(INDEX_MAX - 1),
                Hop::Connected(77),
                Hop::Trap(TrapClass::NoRoom),
                Hop::Drop(DropReason::LinkDown),
            ] {
                let l = Leaf::new(hop, len);
                assert_eq!((l.hop(), l.len(), l.0 & NODE), (hop, len, 0));
            }
        }
        assert_eq!(Leaf::NONE.hop(), Hop::Trap(TrapClass::NoRoute));
        let r = Rif {
            mac: [0xfe, 1, 2, 3, 4, 5],
            ingress4: true,
            ingress6: false,
            egress: true,
            same4: true,
            urpf: Urpf::Loose,
            mtu4: 1500,
            mtu6: u32::MAX,
            port: PortId(7),
            vrf: 3,
            tags: TagWord(0x2064_3005),
        };
        assert_eq!(Rif::from_words(r.words()), Some(r));
        let e = Egress(r.words());
        assert_eq!((e.open(), word_mac(e.mac())), (true, r.mac));
        assert_eq!((e.mtu4(), e.mtu6(), e.port()), (1500, u32::MAX, PortId(7)));
        assert_eq!(e.tags(), r.tags);
        let nowhere = Rif { vrf: vrfs::NOWHERE, ..r };
        assert_eq!(Rif::from_words(nowhere.words()), Some(nowhere));
        assert_eq!(Rif::from_words([0; 3]), None);
    }
}
